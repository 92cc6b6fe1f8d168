// One instruction that multiplies pairs of bf16 numbers, in each lane:
//
//     sum + a[1] * b[1] + a[0] * b[0]        bf16 * bf16 -> float32, each addition rounded by itself
//
// Two builds of it: AVX512-BF16, and plain operations (ISA avxvnni_emulated), by which whatever is written for it is
// tested on every machine; they differ in subnormal numbers only, which the instruction takes for zeros.
#pragma once

#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

#if defined(TWOFOLD_USE_AVX512BF16)

inline F dot_bf16(F sum, I a, I b) { return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }

#else

inline F dot_bf16(F sum, I a, I b) {
    constexpr auto kUpper = static_cast<int32_t>(0xFFFF0000);
    return fma((F)(a << 16), (F)(b << 16), fma((F)(a & kUpper), (F)(b & kUpper), sum));
}

#endif

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
