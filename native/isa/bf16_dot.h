// One instruction that multiplies pairs of bf16 numbers, in each lane, and what makes such pairs of float32 and float8
// numbers and of powers of two:
//
//     sum + a[1] * b[1] + a[0] * b[0]        bf16 * bf16 -> float32, each addition rounded by itself
//
// Two builds of it: AVX512-BF16, and plain operations (ISA avxvnni_emulated), by which whatever is written for it is
// tested on every machine; they differ in subnormal numbers only, which the instruction takes for zeros.
#pragma once

#include "halves.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

typedef uint16_t HalfPairs __attribute__((vector_size(4 * kLanes)));

#if defined(TWOFOLD_USE_AVX512BF16)

inline F dot_bf16(F sum, I a, I b) { return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }

// Each value rounded to bf16: those of `first`, then those of `second`.
inline I pack_halves(F first, F second) { return (I)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); }

// x minus the whole number below it, 0 for -inf; and x * 2^(the whole number below n).
inline F fraction(F x) { return (F)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline F scale_by_floor(F x, F n) { return (F)_mm512_scalef_ps((__m512)x, (__m512)n); }

// Item i: table[index[i] % 8].
inline HalfPairs look_up(const uint16_t (&table)[8], HalfPairs index) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return (HalfPairs)_mm512_permutexvar_epi16((__m512i)index, _mm512_broadcast_i32x4(entries));
}

#else

inline I pack_halves(F first, F second) {
    uint16_t halves[2 * kLanes];
    round_to_halves(first, halves);
    round_to_halves(second, halves + kLanes);
    return load<I>(halves);
}

// Far below where a power of two is 0, also for -inf.
inline F within_int32(F x) { return vmax(x, broadcast(-200.0f)); }
inline F floor_of(F x) {
    const F whole = __builtin_convertvector(__builtin_convertvector(within_int32(x), I), F);
    return select(whole > x, whole - 1.0f, whole);
}
inline F fraction(F x) { return within_int32(x) - floor_of(within_int32(x)); }
inline F scale_by_floor(F x, F n) {
    const I whole = __builtin_convertvector(floor_of(within_int32(n)), I);
    return select(whole < -126, F{}, x * (F)((whole + 127) << 23));
}

inline HalfPairs look_up(const uint16_t (&table)[8], HalfPairs index) {
    HalfPairs result;
    for (int i = 0; i < 2 * kLanes; ++i) result[i] = table[index[i] % 8];
    return result;
}

inline F dot_bf16(F sum, I a, I b) {
    constexpr auto kUpper = static_cast<int32_t>(0xFFFF0000);
    return fma((F)(a << 16), (F)(b << 16), fma((F)(a & kUpper), (F)(b & kUpper), sum));
}

#endif

// 2^x for x <= 0 to 2^-13.7, for results that are rounded to bf16: the polynomial of degree three with the least
// relative error between 0 and 1.
inline F power_of_two(F x) {
    const F f = fraction(x);
    F p = fma(f, broadcast(0.0780245226f), broadcast(0.2260671554f));
    p = fma(p, f, broadcast(0.6958335405f));
    return scale_by_floor(fma(p, f, broadcast(0.9999252186f)), x);
}

// 2 * kLanes float8 numbers (load_fp8 in vec.h) as bf16 ones, which hold all of them: bits move to where bf16 has them,
// and the exponent's bias changes. A subnormal one is a number of 512ths below eight, looked up.
inline I load_fp8_as_bf16(const uint8_t* from) {
    typedef uint8_t Narrow __attribute__((vector_size(2 * kLanes)));
    constexpr int kBias = 120 << 7;
    static constexpr uint16_t kSubnormal[] = {0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60};
    const HalfPairs bits = __builtin_convertvector(load<Narrow>(from), HalfPairs), magnitude = bits & 0x7F;
    const HalfPairs subnormal = look_up(kSubnormal, bits);
    return (I)((magnitude < 8 ? subnormal : (magnitude << 4) + kBias) | (bits & 0x80) << 8);
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
