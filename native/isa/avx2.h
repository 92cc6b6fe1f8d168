// x86-64 with AVX2 and FMA: exact 8-bit dot products without VNNI.
#pragma once

#include "ymm.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kUnpackFrom = 8;     // tokens, see integer.cpp
constexpr bool kUnpacksLevels = true;  // unpacked to levels: one multiplication for 32 products, int8 codes take two

// vpmaddubsw saturates at 16 bits; |w| <= 128 and |x| <= 127 stay below: 2 * 128 * 127 < 32768.
constexpr uint8_t kWeightOffset = 0;
inline I dot_int8(I acc, Bytes w, I x) {
    const __m256i size = _mm256_abs_epi8((__m256i)w), signed_x = _mm256_sign_epi8((__m256i)x, (__m256i)w);
    const __m256i pairs = _mm256_maddubs_epi16(size, signed_x);
    return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// A group keeps two 16-bit sums per row (columns 0, 1 and 2, 3 of its quads). Each product pair is at most
// 2 * 28 * 127, so vpmaddubsw is exact; the running sums may wrap, the corrected ones fit: 16 * 15 * 127 < 32768.
typedef I Group;
constexpr int kGroupSums = 1;
constexpr bool kSplitStarts = true;  // whether group_start needs its halves apart
inline int32_t group_start(int32_t start01, int32_t start23) {
    return static_cast<int32_t>((static_cast<uint32_t>(start01) & 0xFFFFu) | static_cast<uint32_t>(start23) << 16);
}
inline Group group_dot(Group group, Bytes levels, I x) {
    return (I)_mm256_add_epi16((__m256i)group, _mm256_maddubs_epi16((__m256i)levels, (__m256i)x));
}
inline I group_total(Group group) { return (I)_mm256_madd_epi16((__m256i)group, _mm256_set1_epi16(1)); }
inline I group_finish(I acc, Group group, I multipliers) {
    return acc + (I)_mm256_madd_epi16((__m256i)group, (__m256i)multipliers);
}

// Each multiplier stands in both 16-bit halves of its row's lane.
inline void unpack_multipliers(const uint8_t* stored, I (&out)[2]) {
    const __m256i wide = short_multipliers(stored);
    const __m256i first = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(wide));
    const __m256i second = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(wide, 1));
    out[0] = (I)_mm256_or_si256(first, _mm256_slli_epi32(first, 16));
    out[1] = (I)_mm256_or_si256(second, _mm256_slli_epi32(second, 16));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
