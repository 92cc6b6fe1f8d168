// What bf16 products take of float32 values: pairs each as a bf16 number; tiles as the sum of two, its rounding and
// what that lost, which is 2^-17 off, for twice the products; and 16 x 16 words transposed, from rows into a tile's
// order and back.
#pragma once

#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// bf16 of each value, to nearest even, in the upper halves; finite values only.
inline I rounded_bits(F values) {
    const I bits = (I)values;
    return (bits + 0x7FFF + ((bits >> 16) & 1)) & static_cast<int32_t>(0xFFFF0000);
}

// Stores the bf16 numbers that values round to, and returns them.
inline F round_to_halves(F values, uint16_t* halves) {
    const I bits = rounded_bits(values);
    store(halves, __builtin_convertvector((Words)bits >> 16, Halves));
    return (F)bits;
}

// high + low = values, to 2^-17; count is a multiple of kLanes.
inline void split(const float* values, int64_t count, uint16_t* high, uint16_t* low) {
    for (int64_t i = 0; i < count; i += kLanes) {
        const F value = load_f32(values + i);
        round_to_halves(value - round_to_halves(value, high + i), low + i);
    }
}

// Of two rows kStep apart, the lanes that belong into the other one change places.
template <int kStep, int... kLane>
inline void exchange(I& a, I& b, Lanes<kLane...>) {
    const I first = __builtin_shufflevector(a, b, ((kLane & kStep) == 0 ? kLane : kLanes + kLane - kStep)...);
    b = __builtin_shufflevector(a, b, ((kLane & kStep) == 0 ? kLane + kStep : kLanes + kLane)...);
    a = first;
}

template <int kStep>
inline void exchange_rows(I (&rows)[kLanes]) {
    if constexpr (kStep < kLanes) {
        for (int i = 0; i < kLanes; ++i)
            if ((i & kStep) == 0) exchange<kStep>(rows[i], rows[i + kStep], typename CountLanes<kLanes>::All{});
        exchange_rows<2 * kStep>(rows);
    }
}

// to[j][i] = from[i][j], 16 x 16 items of four bytes.
inline void transpose(const void* from, void* to) {
    constexpr int kRowBytes = 64;
    for (int i = 0; i < 16; i += kLanes)
        for (int j = 0; j < 16; j += kLanes) {
            I rows[kLanes];
            const auto* block = static_cast<const char*>(from) + i * kRowBytes + j * 4;
            for (int row = 0; row < kLanes; ++row) rows[row] = load<I>(block + row * kRowBytes);
            exchange_rows<1>(rows);
            auto* target = static_cast<char*>(to) + j * kRowBytes + i * 4;
            for (int row = 0; row < kLanes; ++row) store(target + row * kRowBytes, rows[row]);
        }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
