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

// 2 * kLanes float8 numbers (load_fp8 in vec.h) as bf16 ones, which hold all of them: bits move to where bf16 has them,
// and the exponent's bias changes. A subnormal one is a number of 512ths below eight, looked up.
inline I load_fp8_as_bf16(const uint8_t* from) {
    typedef uint8_t Narrow __attribute__((vector_size(2 * kLanes)));
    typedef uint16_t Wide __attribute__((vector_size(4 * kLanes)));
    constexpr int kBias = 120 << 7;
    static constexpr uint16_t kSubnormal[] = {0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60,
                                              0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60,
                                              0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60,
                                              0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60};
    const Wide bits = __builtin_convertvector(load<Narrow>(from), Wide), magnitude = bits & 0x7F;
    const Wide subnormal = __builtin_shuffle(load<Wide>(kSubnormal), bits);
    return (I)((magnitude < 8 ? subnormal : (magnitude << 4) + kBias) | (bits & 0x80) << 8);
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
