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
constexpr bool kUnpacksLevels = false;

#if defined(TWOFOLD_USE_AVXVNNI)
inline __m256i dot_bytes(__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
inline __m256i dot_shorts(__m256i sum, __m256i a, __m256i b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
#else
inline __m256i dot_shorts(__m256i sum, __m256i a, __m256i b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline __m256i dot_bytes(__m256i sum, __m256i w, __m256i x) {
    const __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(w, 8);
    sum = dot_shorts(sum, even, _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    return dot_shorts(sum, odd, _mm256_srai_epi16(x, 8));
}
#endif

// The left operand is unsigned: weights enter as w + 128, and 128 times the sum of the codes is taken off once per
// token (sums may wrap on the way, the result is exact modulo 2^32).
constexpr uint8_t kWeightOffset = 128;
inline I dot_int8(I acc, Bytes w, I x) { return (I)dot_bytes((__m256i)acc, (__m256i)w, (__m256i)x); }

// The corrected sum of half a group fits 16 bits (16 * 15 * 127 < 32768), so one 16-bit dot multiplies and accumulates
// it.
typedef I Group;
constexpr int kGroupSums = 2;
constexpr bool kSplitStarts = false;  // whether group_start needs its halves apart
inline int32_t group_start(int32_t start01, int32_t start23) { return start01 + start23; }
inline Group group_dot(Group group, Bytes levels, I x) { return dot_int8(group, levels, x); }
inline I group_total(Group group) { return group; }
inline I group_finish(I acc, Group group, I multipliers) {
    return (I)dot_shorts((__m256i)acc, (__m256i)group, (__m256i)multipliers);
}

// Each multiplier stands in the low half of its lane, zero above: the high half of a group's sum is only its sign.
inline void unpack_multipliers(const uint8_t* stored, I (&out)[2]) {
    const __m256i wide = short_multipliers(stored);
    out[0] = (I)_mm256_cvtepu16_epi32(_mm256_castsi256_si128(wide));
    out[1] = (I)_mm256_cvtepu16_epi32(_mm256_extracti128_si256(wide, 1));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
