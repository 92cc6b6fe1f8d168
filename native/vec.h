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

// The numbers of lanes, to compute with them where a shuffle wants constants.
template <int... kLane>
struct Lanes {};
template <int kCount, int... kLane>
struct CountLanes : CountLanes<kCount - 1, kCount - 1, kLane...> {};
template <int... kLane>
struct CountLanes<0, kLane...> {
    using All = Lanes<kLane...>;
};

// Runs of kStep lanes of a and of b in turns: of each two runs the first ones combined with the second ones.
template <int kStep, class V, class Combine, int... kLane>
inline V fold_pair(V a, V b, const Combine& combine, Lanes<kLane...>) {
    constexpr auto place = [](int lane) {
        const int run = lane / kStep;
        return run % 2 * kLanes + run / 2 * 2 * kStep + lane % kStep;
    };
    return combine(__builtin_shufflevector(a, b, place(kLane)...),
                   __builtin_shufflevector(a, b, kStep + place(kLane)...));
}

// Lane i of the result is what fold_lanes makes of v[i], by the same tree. Writes over v.
template <int kStep = kLanes / 2, class V, class Combine>
inline V fold_each(V* v, const Combine& combine) {
    for (int i = 0; i < kStep; ++i)
        v[i] = fold_pair<kStep>(v[i], v[i + kStep], combine, typename CountLanes<kLanes>::All{});
    if constexpr (kStep == 1)
        return v[0];
    else
        return fold_each<kStep / 2>(v, combine);
}
template <class V>
inline V sum_each(V (&v)[kLanes]) {
    return fold_each(v, [](V a, V b) { return a + b; });
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
