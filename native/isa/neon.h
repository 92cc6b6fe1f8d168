// AArch64 with the dot product extension (Armv8.2-A): signed times signed bytes, four per lane.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int64_t kUnpackFrom = 16;     // tokens, see integer.cpp: not measured
constexpr bool kUnpacksLevels = false;  // see unpack.h
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));

inline I pin(I v) { return v; }

inline F fma(F a, F b, F c) { return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
inline F fma_in_order(F a, F b, F sum) { return fma(a, b, sum); }

constexpr uint8_t kWeightOffset = 0;
inline I dot_int8(I acc, Bytes w, I x) { return (I)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)x); }

typedef I Group;
constexpr int kGroupSums = 1;
constexpr bool kSplitStarts = false;  // whether group_start needs its halves apart
inline int32_t group_start(int32_t start01, int32_t start23) { return start01 + start23; }
inline Group group_dot(Group group, Bytes levels, I x) { return dot_int8(group, levels, x); }
inline I group_total(Group group) { return group; }
inline I group_finish(I acc, Group group, I multipliers) { return acc + group * multipliers; }

inline Doubles lower_doubles(F v) { return Doubles{static_cast<double>(v[0]), static_cast<double>(v[1])}; }
inline Doubles upper_doubles(F v) { return Doubles{static_cast<double>(v[2]), static_cast<double>(v[3])}; }
inline F vmax(F a, F b) { return a > b ? a : b; }
inline F vmin(F a, F b) { return a < b ? a : b; }
inline void store_codes(int8_t* to, I codes) {
    const int16x4_t shorts = vmovn_s32((int32x4_t)codes);
    const int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(shorts, shorts))), 0);
    __builtin_memcpy(to, &bytes, 4);
}

inline I load_widened(const uint16_t* from) { return (I)vmovl_u16(vld1_u16(from)); }
inline I load_widened(const uint8_t* from) { return I{from[0], from[1], from[2], from[3]}; }
inline F load_f16(const uint16_t* from) { return (F)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
inline Bytes look_up(const uint8_t (&table)[16], Bytes index) {
    return (Bytes)vqtbl1q_u8(vld1q_u8(table), (uint8x16_t)index);
}
inline F look_up(const float (&table)[64], I index) {
    return F{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
}

inline void unpack_multipliers(const uint8_t* stored, I (&out)[4]) {
    const uint8x8_t bytes = vld1_u8(stored);
    const uint8x16_t index = vcombine_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4));
    const int8x16_t values = {-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8};
    const int8x16_t bytes16 = vqtbl1q_s8(values, index);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes16)), high = vmovl_s8(vget_high_s8(bytes16));
    out[0] = (I)vmovl_s16(vget_low_s16(low));
    out[1] = (I)vmovl_s16(vget_high_s16(low));
    out[2] = (I)vmovl_s16(vget_low_s16(high));
    out[3] = (I)vmovl_s16(vget_high_s16(high));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
