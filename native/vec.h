// Vectors of kLanes floats or ints on top of the chosen ISA. Included by kernel files only; everything is in the ISA's
// namespace and in an anonymous one, so that no copy compiled for a newer CPU can be linked into an older path.
// For the same reason kernel files use no templates or inline functions of the standard library.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(TWOFOLD_USE_AVX512VNNI) || defined(TWOFOLD_USE_AVX512BF16) || defined(TWOFOLD_USE_AVX512AMX)
#include "isa/avx512vnni.h"
#elif defined(TWOFOLD_USE_AVXVNNI) || defined(TWOFOLD_USE_AVXVNNI_EMULATED)
#include "isa/avxvnni.h"
#elif defined(TWOFOLD_USE_AVX2)
#include "isa/avx2.h"
#elif defined(TWOFOLD_USE_NEON)
#include "isa/neon.h"
#else
#include "isa/generic.h"
#endif

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kParts = 16 / kLanes;                                // vectors per panel of 16 rows
constexpr bool kIsNarrowVnni = kLanes == 8 && kWeightOffset != 0;  // a dot is one instruction, registers are only 16
#if defined(TWOFOLD_USE_AVX512AMX) || defined(TWOFOLD_USE_AMX_EMULATED)
constexpr bool kHasTiles = true;  // isa/tiles.h
#else
constexpr bool kHasTiles = false;
#endif
#if defined(TWOFOLD_USE_AVX512BF16) || defined(TWOFOLD_USE_AVXVNNI_EMULATED)
constexpr bool kHasBf16Dot = true;  // isa/bf16_dot.h
#else
constexpr bool kHasBf16Dot = false;
#endif

template <class A>
inline A smaller(A a, A b) {
    return a < b ? a : b;
}
template <class A>
inline A larger(A a, A b) {
    return a > b ? a : b;
}
inline int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

template <class V>
inline V load(const void* from) {
    V result;
    __builtin_memcpy(&result, from, sizeof(V));
    return result;
}
template <class V>
inline void store(void* to, V v) {
    __builtin_memcpy(to, &v, sizeof(V));
}
inline F load_f32(const float* from) { return load<F>(from); }
inline F broadcast(float value) { return value - F{}; }
inline I broadcast(int32_t value) { return value - I{}; }

inline I lane_numbers() {
    I result;
    for (int i = 0; i < kLanes; ++i) result[i] = i;
    return result;
}

// The first `count` floats, zeros after; count <= kLanes.
inline F load_some(const float* from, int64_t count) {
    float buffer[kLanes] = {};
    for (int i = 0; i < count; ++i) buffer[i] = from[i];
    return load<F>(buffer);
}
inline void store_some(float* to, F v, int64_t count) {
    float buffer[kLanes];
    store(buffer, v);
    for (int i = 0; i < count; ++i) to[i] = buffer[i];
}

// bf16 is the upper half of a float32.
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
inline F load_bf16(const uint16_t* from) { return (F)(load_widened(from) << 16); }
// float8 e4m3, by its bits: a float32 with another exponent. What would be NaN counts as 480; readers refuse it.
inline F load_fp8(const uint8_t* from) {
    const I bits = load_widened(from);
    return (F)((bits & 0x7F) << 20 | (bits & 0x80) << 24) * 0x1p120f;  // exact, also for subnormal values
}
inline float from_bf16(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, 4);
    return value;
}
// Round to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
    return static_cast<uint16_t>(((bits & 0x7FFFFFFFu) > 0x7F800000u ? bits | 0x400000u : rounded) >> 16);
}

inline F select(I mask, F yes, F no) { return mask ? yes : no; }
inline F vabs(F a) { return (F)((I)a & 0x7FFFFFFF); }

// The upper half of the lanes onto the lower half, again and again: sums and maxima always by the same tree.
template <class V, class Combine>
inline auto fold_lanes(V v, const Combine& combine) {
    if constexpr (sizeof(V) == 64) {
        return fold_lanes(combine(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                                  __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)),
                          combine);
    } else if constexpr (sizeof(V) == 32) {
        return fold_lanes(combine(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)),
                          combine);
    } else {
        v = combine(v, __builtin_shufflevector(v, v, 2, 3, 2, 3));
        return combine(v, __builtin_shufflevector(v, v, 1, 1, 1, 1))[0];
    }
}
inline float sum_lanes(F v) {
    return fold_lanes(v, [](auto a, auto b) { return a + b; });
}
inline int32_t sum_lanes(I v) {
    return fold_lanes(v, [](auto a, auto b) { return a + b; });
}
inline float max_lanes(F v) {
    return fold_lanes(v, [](auto a, auto b) { return a > b ? a : b; });
}

// Lane i of the result is the sum of the lanes of v[i]; every sum by the same tree (neighbours first).
template <class V>
inline V sum_each(const V (&v)[kLanes]) {
    if constexpr (kLanes == 4) {
        const V a = __builtin_shufflevector(v[0], v[1], 0, 4, 2, 6) + __builtin_shufflevector(v[0], v[1], 1, 5, 3, 7);
        const V b = __builtin_shufflevector(v[2], v[3], 0, 4, 2, 6) + __builtin_shufflevector(v[2], v[3], 1, 5, 3, 7);
        return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    }
    if constexpr (kLanes == 8) {
        V a[4], b[2];
        for (int i = 0; i < 4; ++i)
            a[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
                   __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
        for (int i = 0; i < 2; ++i)
            b[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                   __builtin_shufflevector(a[2 * i], a[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
        return __builtin_shufflevector(b[0], b[1], 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(b[0], b[1], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    if constexpr (kLanes == 16) {
        V a[8], b[4], c[2];
        for (int i = 0; i < 8; ++i)
            a[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28,
                                           14, 30) +
                   __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29,
                                           15, 31);
        for (int i = 0; i < 4; ++i)
            b[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28,
                                           29) +
                   __builtin_shufflevector(a[2 * i], a[2 * i + 1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15,
                                           30, 31);
        for (int i = 0; i < 2; ++i)
            c[i] = __builtin_shufflevector(b[2 * i], b[2 * i + 1], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26,
                                           27) +
                   __builtin_shufflevector(b[2 * i], b[2 * i + 1], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29,
                                           30, 31);
        return __builtin_shufflevector(c[0], c[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(c[0], c[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
}

// Nearest integer, half to even, for |v| < 2^22: adding 1.5 * 2^23 pushes the fraction out of the mantissa.
constexpr float kRoundMagic = 12582912.0f;
inline I round_to_int(F v) { return (I)(v + kRoundMagic) - 0x4B400000; }

// What both exponentials share: x = n ln 2 + r as `shifted` (kRoundMagic + n), and e^r. Polynomial of Cephes' expf.
inline F exp_of_rest(F x, F& shifted) {
    shifted = fma(x, broadcast(1.44269504088896341f), broadcast(kRoundMagic));
    const F n = shifted - kRoundMagic;
    F r = fma(n, broadcast(-0.693359375f), x);
    r = fma(n, broadcast(2.12194440e-4f), r);
    F p = broadcast(1.9875691500e-4f);
    p = fma(p, r, broadcast(1.3981999507e-3f));
    p = fma(p, r, broadcast(8.3334519073e-3f));
    p = fma(p, r, broadcast(4.1665795894e-2f));
    p = fma(p, r, broadcast(1.6666665459e-1f));
    p = fma(p, r, broadcast(5.0000001201e-1f));
    return fma(p, r * r, r) + 1.0f;
}

// e^x to about 2 ulp; 0 below -87.3 (also for -inf), e^88.7 = 3.3e38 from there on.
inline F exp(F x) {
    F shifted;
    const F series = exp_of_rest(vmin(vmax(x, broadcast(-87.3f)), broadcast(88.7f)), shifted);
    const I exponent = (I)shifted - 0x4B400000;
    const I half = exponent >> 1;  // two steps: 2^128 alone is no float
    const F result = series * (F)((half + 127) << 23) * (F)((exponent - half + 127) << 23);
    return select(x < -87.3f, F{}, result);
}

// The same bits for x <= 0, for less.
inline F exp_of_negative(F x) {
    F shifted;
    const F series = exp_of_rest(vmax(x, broadcast(-87.3f)), shifted);
    const F result = series * (F)(((I)shifted - (0x4B400000 - 127)) << 23);
    return select(x < -87.3f, F{}, result);
}

inline F sigmoid(F x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
