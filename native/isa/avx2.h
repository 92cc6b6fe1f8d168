// x86-64 with AVX2 and FMA: exact 8-bit dot products without VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kLanes = 8;
constexpr int64_t kUnpackFrom = 8;     // tokens, see integer.cpp
constexpr bool kUnpacksLevels = true;  // unpacked to levels: one multiplication for 32 products, int8 codes take two
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(32)));

// Keeps a sum in its register and what is written before it before it: GCC 12 gathers loads and products of many steps
// and spills them.
inline I pin(I v) {
    asm volatile("" : "+x"(v));
    return v;
}

inline F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }

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

// sum + a * b, for the same reason.
inline F fma_in_order(F a, F b, F sum) {
    asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
}

// As a > b ? a : b, for which GCC 12 compares and blends.
inline F vmax(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
inline F vmin(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }

// As __builtin_convertvector would, for which GCC 12 takes the lanes out one by one.
inline void store_codes(int8_t* to, I codes) {
    const __m128i low = _mm256_castsi256_si128((__m256i)codes), high = _mm256_extracti128_si256((__m256i)codes, 1);
    const __m128i shorts = _mm_packs_epi32(low, high);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(shorts, shorts));
}

// As __builtin_convertvector would, for which GCC 12 takes two instructions for each half and one to join them.
inline I load_widened(const uint16_t* from) {
    return (I)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline I load_widened(const uint8_t* from) {
    return (I)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}
inline F load_f16(const uint16_t* from) {
    return (F)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Bytes look_up(const uint8_t (&table)[16], Bytes index) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), (__m256i)index);
}
inline F look_up(const float (&table)[64], I index) { return (F)_mm256_i32gather_ps(table, (__m256i)index, 4); }

// Each multiplier stands in both 16-bit halves of its row's lane.
inline void unpack_multipliers(const uint8_t* stored, I (&out)[2]) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(stored));
    const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    const __m128i values = _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8);
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(values, _mm_unpacklo_epi64(low, high)));
    const __m256i first = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(wide));
    const __m256i second = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(wide, 1));
    out[0] = (I)_mm256_or_si256(first, _mm256_slli_epi32(first, 16));
    out[1] = (I)_mm256_or_si256(second, _mm256_slli_epi32(second, 16));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
