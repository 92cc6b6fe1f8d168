// Any CPU: 16-byte compiler vectors (SSE2 on x86-64), no intrinsics.
#pragma once

#include <cstdint>

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int64_t kUnpackFrom = 16;     // tokens, see integer.cpp: not measured
constexpr bool kUnpacksLevels = false;  // see unpack.h
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));

// Where the compiler spills sums, an ISA has it keep them in registers, in the order they are written in (isa/avx2.h).
inline I pin(I v) { return v; }

inline F fma(F a, F b, F c) { return a * b + c; }
inline F fma_in_order(F a, F b, F sum) { return fma(a, b, sum); }

// Int8: acc[row] += sum over a quad of w[row, i] * x[i], i < 4. `x` is the quad's four codes in every lane.
// The pair sums fit 16 bits: 2 * 128 * 127 < 32768.
constexpr uint8_t kWeightOffset = 0;  // weights enter as they are
inline I dot_int8(I acc, Bytes w, I x) {
    const Shorts weights = (Shorts)w, codes = (Shorts)x;
    const Shorts even = ((weights << 8) >> 8) * ((codes << 8) >> 8), odd = (weights >> 8) * (codes >> 8);
    const I pairs = (I)(even + odd);
    return acc + ((pairs << 16) >> 16) + (pairs >> 16);
}

// Int4: a group's sum over levels + kLevelOffset, in kGroupSums parts, then multiplied. It starts from the corrections
// of its columns 0, 1 and 2, 3 of four.
typedef I Group;
constexpr int kGroupSums = 1;
constexpr bool kSplitStarts = false;  // whether group_start needs its halves apart
inline int32_t group_start(int32_t start01, int32_t start23) { return start01 + start23; }
inline Group group_dot(Group group, Bytes levels, I x) { return dot_int8(group, levels, x); }
inline I group_total(Group group) { return group; }
inline I group_finish(I acc, Group group, I multipliers) { return acc + group * multipliers; }

// Of the second operand where one is no number.
inline Doubles lower_doubles(F v) { return Doubles{static_cast<double>(v[0]), static_cast<double>(v[1])}; }
inline Doubles upper_doubles(F v) { return Doubles{static_cast<double>(v[2]), static_cast<double>(v[3])}; }
inline F vmax(F a, F b) { return a > b ? a : b; }
inline F vmin(F a, F b) { return a < b ? a : b; }

// kLanes codes, from -127 to 127, as bytes.
inline void store_codes(int8_t* to, I codes) {
    for (int i = 0; i < kLanes; ++i) to[i] = static_cast<int8_t>(codes[i]);
}

// kLanes items as ints.
inline I load_widened(const uint16_t* from) { return I{from[0], from[1], from[2], from[3]}; }
inline I load_widened(const uint8_t* from) { return I{from[0], from[1], from[2], from[3]}; }

// kLanes float16 values, by their bits.
inline F load_f16(const uint16_t* from) {
    F result;
    for (int i = 0; i < kLanes; ++i) {
        const uint32_t magnitude = static_cast<uint32_t>(from[i] & 0x7FFF) << 13;
        float value;
        __builtin_memcpy(&value, &magnitude, 4);
        result[i] = (from[i] & 0x8000 ? -value : value) * 0x1p112f;  // exact, also for subnormal halves
    }
    return result;
}
// The table's entry for each byte 0..15, for each lane 0..63.
inline Bytes look_up(const uint8_t (&table)[16], Bytes index) {
    Bytes result;
    for (int i = 0; i < 16; ++i) result[i] = table[index[i]];
    return result;
}
inline F look_up(const float (&table)[64], I index) {
    return F{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
}

inline void unpack_multipliers(const uint8_t* stored, I (&out)[4]) {
    int32_t values[16];
    for (int row = 0; row < 16; ++row) {
        const int n = row < 8 ? stored[row] & 15 : stored[row - 8] >> 4;
        values[row] = n < 8 ? n - 8 : n - 7;
    }
    __builtin_memcpy(out, values, sizeof(values));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
