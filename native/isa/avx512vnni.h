// x86-64 with AVX512 (F, BW, VL, DQ) and VNNI: one instruction takes four unsigned times signed bytes per lane.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kUnpackFrom = 41;  // tokens, see integer.cpp: fewer are unpacked in registers, sixteen at a time
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));

inline I pin(I v) { return v; }

inline F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline F fma_in_order(F a, F b, F sum) { return fma(a, b, sum); }

inline I dot_bytes(I sum, I w, I x) { return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x); }
inline I dot_shorts(I sum, I a, I b) { return (I)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b); }

// As a > b ? a : b, for which GCC 12 compares and blends.
inline F vmax(F a, F b) { return (F)_mm512_maskz_max_ps(0xFFFF, (__m512)a, (__m512)b); }
inline F vmin(F a, F b) { return (F)_mm512_maskz_min_ps(0xFFFF, (__m512)a, (__m512)b); }

inline void store_codes(int8_t* to, I codes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)codes));
}

// As __builtin_convertvector would, for which GCC 12 takes two instructions for each half and one to join them, or goes
// through memory where the result is twice as wide.
inline Doubles lower_doubles(F v) { return (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)); }
inline Doubles upper_doubles(F v) { return (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1)); }
inline I load_widened(const uint16_t* from) {
    return (I)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline I load_widened(const uint8_t* from) {
    return (I)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline F load_f16(const uint16_t* from) {
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Bytes look_up(const uint8_t (&table)[16], Bytes index) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return (Bytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), (__m512i)index);
}
inline F look_up(const float (&table)[64], I index) {
    const __m512i low = _mm512_castps_si512(
        _mm512_permutex2var_ps(_mm512_loadu_ps(table), (__m512i)index, _mm512_loadu_ps(table + 16)));
    const __m512i high = _mm512_castps_si512(
        _mm512_permutex2var_ps(_mm512_loadu_ps(table + 32), (__m512i)index, _mm512_loadu_ps(table + 48)));
    return (F)_mm512_mask_mov_epi32(low, _mm512_test_epi32_mask((__m512i)index, _mm512_set1_epi32(32)), high);
}

// Each multiplier stands in the low half of its lane, zero above: the high half of a group's sum is only its sign.
inline void unpack_multipliers(const uint8_t* stored, I (&out)[1]) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(stored));
    const __m128i both = _mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4));
    const __m128i values = _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8);
    const __m128i bytes16 = _mm_shuffle_epi8(values, _mm_and_si128(both, _mm_set1_epi8(15)));
    out[0] = (I)_mm512_cvtepu16_epi32(_mm256_cvtepi8_epi16(bytes16));
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA

#include "vnni.h"
