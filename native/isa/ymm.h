// What the two ISAs of 32-byte vectors share (avx2.h, avxvnni.h): everything but the products of integers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kLanes = 8;
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));

// Keeps a sum in its register and what is written before it before it: GCC 12 gathers loads and products of many steps
// and spills them.
inline I pin(I v) {
    asm volatile("" : "+x"(v));
    return v;
}

inline F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }

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

// As __builtin_convertvector would, for which GCC 12 takes two instructions for each half and one to join them, or goes
// through memory where the result is twice as wide.
inline Doubles lower_doubles(F v) { return (Doubles)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)); }
inline Doubles upper_doubles(F v) { return (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1)); }
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

// Multipliers of a group's 16 rows, as 16-bit integers.
inline __m256i short_multipliers(const uint8_t* stored) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(stored));
    const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    const __m128i values = _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8);
    return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(values, _mm_unpacklo_epi64(low, high)));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
