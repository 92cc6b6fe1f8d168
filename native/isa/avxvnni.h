// x86-64 with AVX2, FMA and AVX-VNNI: Intel's cores without AVX512 from 2021 on. One instruction takes four unsigned
// times signed bytes per lane, as in avx512vnni.h, on half as many and half as wide registers.
//
// Two builds of the same functions: the instructions, and what AVX2 makes of them (ISA avxvnni_emulated), by which what
// is written here is tested on machines without them.
#pragma once

#include "ymm.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kUnpackFrom = 8;  // tokens, see integer.cpp: as with AVX2, not measured

#if defined(TWOFOLD_USE_AVXVNNI)
inline I dot_bytes(I sum, I w, I x) { return (I)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x); }
inline I dot_shorts(I sum, I a, I b) { return (I)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b); }
#else
inline I dot_shorts(I sum, I a, I b) { return sum + (I)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
inline I dot_bytes(I sum, I w, I x) {
    typedef int16_t Shorts __attribute__((vector_size(32)));
    const Shorts even = (Shorts)(w & 0x00FF00FF), odd = (Shorts)((w >> 8) & 0x00FF00FF), codes = (Shorts)x;
    return dot_shorts(dot_shorts(sum, (I)even, (I)((codes << 8) >> 8)), (I)odd, (I)(codes >> 8));
}
#endif

// Each multiplier stands in the low half of its lane, zero above: the high half of a group's sum is only its sign.
inline void unpack_multipliers(const uint8_t* stored, I (&out)[2]) {
    const __m256i wide = short_multipliers(stored);
    out[0] = (I)_mm256_cvtepu16_epi32(_mm256_castsi256_si128(wide));
    out[1] = (I)_mm256_cvtepu16_epi32(_mm256_extracti128_si256(wide, 1));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA

#include "vnni.h"
