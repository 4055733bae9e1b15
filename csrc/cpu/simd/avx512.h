// Vec<T> in AVX-512: 16 floats or 8 doubles.
#pragma once

#include <immintrin.h>

#include "generic.h"

#define BO_MM(op) _mm512_##op
#define BO_COMPARE(type, x, y, how) _mm512_cmp_##type##_mask(x, y, how)
#define BO_SELECT(type, mask, a, b) _mm512_mask_mov_##type(b, mask, a)

namespace bilateral_ops {
inline namespace BO_ISA {

using Floats = __m512;
using Doubles = __m512d;
using Integers = __m512i;
template <>
struct Indices<double> {
  __m512i v;
};

BO_INLINE __m128i load_u8(const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
BO_INLINE __m256i load_u16(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
BO_INLINE void store_u16(char* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
BO_INLINE __m256i narrow_to_u16(__m512i v) { return _mm512_cvtepi32_epi16(v); }
BO_INLINE __m512 as_floats(__m512i v) { return _mm512_castsi512_ps(v); }
BO_INLINE __m512i as_integers(__m512 v) { return _mm512_castps_si512(v); }

}  // namespace BO_ISA
}  // namespace bilateral_ops

#include "x86.h"

namespace bilateral_ops {
inline namespace BO_ISA {

BO_INLINE __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
BO_INLINE Vec<float> load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
BO_INLINE Vec<double> load_n(const double* p, int64_t n) { return {_mm512_maskz_loadu_pd(first_lanes(n), p)}; }
BO_INLINE void store_n(float* p, const Vec<float>& a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
BO_INLINE void store_n(double* p, const Vec<double>& a, int64_t n) { _mm512_mask_storeu_pd(p, first_lanes(n), a.v); }
BO_INLINE float reduce_add(const Vec<float>& a) { return _mm512_reduce_add_ps(a.v); }
BO_INLINE double reduce_add(const Vec<double>& a) { return _mm512_reduce_add_pd(a.v); }
BO_INLINE Vec<float> mul_power_of_two(const Vec<float>& a, const Vec<float>& n) { return {_mm512_scalef_ps(a.v, n.v)}; }
BO_INLINE Vec<double> mul_power_of_two(const Vec<double>& a, const Vec<double>& n) {
  return {_mm512_scalef_pd(a.v, n.v)};
}
BO_INLINE Vec<float> select_inside(const Vec<float>& a, const Vec<float>& limit, const Vec<float>& x) {
  const __mmask16 above = _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_GT_OQ);
  return {_mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(above, a.v, limit.v, _CMP_LT_OQ), x.v)};
}
BO_INLINE Vec<double> select_inside(const Vec<double>& a, const Vec<double>& limit, const Vec<double>& x) {
  const __mmask8 above = _mm512_cmp_pd_mask(a.v, _mm512_setzero_pd(), _CMP_GT_OQ);
  return {_mm512_maskz_mov_pd(_mm512_mask_cmp_pd_mask(above, a.v, limit.v, _CMP_LT_OQ), x.v)};
}
BO_INLINE Indices<double> to_indices(const Vec<double>& a) { return {_mm512_cvttpd_epi64(a.v)}; }
BO_INLINE Vec<double> to_values(const Indices<double>& a) { return {_mm512_cvtepi64_pd(a.v)}; }
BO_INLINE void store_indices(int32_t* p, const Indices<float>& a) { _mm512_storeu_si512(p, a.v); }
BO_INLINE void store_indices(int32_t* p, const Indices<double>& a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi64_epi32(a.v));
}
BO_INLINE uint32_t equal_bits(const Indices<float>& a, const Indices<float>& b) {
  return _mm512_cmpeq_epi32_mask(a.v, b.v);
}
BO_INLINE uint32_t bits_of(const Indices<float>& a) {
  return static_cast<uint32_t>(_mm512_reduce_or_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), a.v)));
}
BO_INLINE void widen(const Vec<float>& a, Vec<double>* v) {
  v[0].v = _mm512_cvtps_pd(_mm512_castps512_ps256(a.v));
  v[1].v = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1));
}
BO_INLINE Indices<float> load_indices(const int32_t* p, float) { return {_mm512_loadu_si512(p)}; }
BO_INLINE Indices<double> load_indices(const int32_t* p, double) {
  return {_mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
template <>
inline constexpr int kTablesInRegister<float> = 2;
BO_INLINE Indices<float> second_table(const Indices<float>& i) { return {_mm512_add_epi32(i.v, _mm512_set1_epi32(8))}; }
template <int D>
BO_INLINE Indices<float> next_index(const Indices<float>& i) {
  return {_mm512_min_epi32(_mm512_add_epi32(i.v, _mm512_set1_epi32(1)), _mm512_set1_epi32(D - 1))};
}
template <int D>
BO_INLINE Indices<double> next_index(const Indices<double>& i) {
  return {_mm512_min_epi64(_mm512_add_epi64(i.v, _mm512_set1_epi64(1)), _mm512_set1_epi64(D - 1))};
}
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  return {_mm512_permutexvar_ps(index.v, _mm512_loadu_ps(table))};
}
template <int D>
BO_INLINE Vec<double> lookup(const double* table, const Indices<double>& index) {
  if (D == 8) return {_mm512_permutexvar_pd(index.v, _mm512_loadu_pd(table))};
  return {_mm512_permutex2var_pd(_mm512_loadu_pd(table), index.v, _mm512_loadu_pd(table + 8))};
}
// Element i of channel c is number 3i + c of the three vectors. As 3 and 16 have no common divisor, the elements of one
// channel occupy different lanes: blending the three vectors collects them, and one permutation sorts them.
BO_INLINE void deinterleave3(Vec<float>* v) {
  __m512 x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  const __m512i lane_a = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13);
  const __m512i lane_b = _mm512_setr_epi32(1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14);
  const __m512i lane_c = _mm512_setr_epi32(2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15);
  // Lane masks: 0x9249 is 0, 3, 6, …; 0x2492 is 1, 4, 7, …; 0x4924 is 2, 5, 8, …
  v[0].v = _mm512_permutexvar_ps(lane_a, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x4924, y), 0x2492, z));
  v[1].v = _mm512_permutexvar_ps(lane_b, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x9249, y), 0x4924, z));
  v[2].v = _mm512_permutexvar_ps(lane_c, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x2492, y), 0x9249, z));
}
BO_INLINE void interleave3(Vec<float>* v) {
  const __m512i from_a = _mm512_setr_epi32(0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10, 5);
  const __m512i from_b = _mm512_setr_epi32(5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10);
  const __m512i from_c = _mm512_setr_epi32(10, 5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15);
  const __m512 x = _mm512_permutexvar_ps(from_a, v[0].v), y = _mm512_permutexvar_ps(from_b, v[1].v),
               z = _mm512_permutexvar_ps(from_c, v[2].v);
  v[0].v = _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x2492, y), 0x4924, z);
  v[1].v = _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x9249, y), 0x2492, z);
  v[2].v = _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x4924, y), 0x9249, z);
}
BO_INLINE void deinterleave3(Vec<double>* v) {
  __m512d x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  const __m512i lane_a = _mm512_setr_epi64(0, 3, 6, 1, 4, 7, 2, 5);
  const __m512i lane_b = _mm512_setr_epi64(1, 4, 7, 2, 5, 0, 3, 6);
  const __m512i lane_c = _mm512_setr_epi64(2, 5, 0, 3, 6, 1, 4, 7);
  v[0].v = _mm512_permutexvar_pd(lane_a, _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x92, y), 0x24, z));
  v[1].v = _mm512_permutexvar_pd(lane_b, _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x24, y), 0x49, z));
  v[2].v = _mm512_permutexvar_pd(lane_c, _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x49, y), 0x92, z));
}
BO_INLINE void interleave3(Vec<double>* v) {
  const __m512i from_a = _mm512_setr_epi64(0, 3, 6, 1, 4, 7, 2, 5);
  const __m512i from_b = _mm512_setr_epi64(5, 0, 3, 6, 1, 4, 7, 2);
  const __m512i from_c = _mm512_setr_epi64(2, 5, 0, 3, 6, 1, 4, 7);
  const __m512d x = _mm512_permutexvar_pd(from_a, v[0].v), y = _mm512_permutexvar_pd(from_b, v[1].v),
                z = _mm512_permutexvar_pd(from_c, v[2].v);
  v[0].v = _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x92, y), 0x24, z);
  v[1].v = _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x24, y), 0x49, z);
  v[2].v = _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x49, y), 0x92, z);
}
BO_INLINE Indices<double> broadcast_index(int32_t i, double) { return {_mm512_set1_epi64(i)}; }
template <int Bit>
BO_INLINE Indices<float> set_bit_if_greater(const Indices<float>& i, const Vec<float>& x, const Vec<float>& y) {
  return {_mm512_mask_or_epi32(i.v, _mm512_cmp_ps_mask(x.v, y.v, _CMP_GT_OQ), i.v, _mm512_set1_epi32(Bit))};
}
template <int Bit>
BO_INLINE Indices<double> set_bit_if_greater(const Indices<double>& i, const Vec<double>& x, const Vec<double>& y) {
  return {_mm512_mask_or_epi64(i.v, _mm512_cmp_pd_mask(x.v, y.v, _CMP_GT_OQ), i.v, _mm512_set1_epi64(Bit))};
}
BO_INLINE void store_as(U8, char* p, const Vec<float>& a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(to_level(a, 255.0f)));
}
BO_INLINE Vec<float> repeat4(const float* p, int64_t n, int) {
  return {_mm512_broadcast_f32x4(n == 4 ? _mm_loadu_ps(p) : _mm_maskz_loadu_ps((1u << n) - 1, p))};
}
BO_INLINE Vec<double> repeat4(const double* p, int64_t n, int) {
  return {_mm512_broadcast_f64x4(n == 4 ? _mm256_loadu_pd(p) : _mm256_maskz_loadu_pd((1u << n) - 1, p))};
}
BO_INLINE Vec<float> spread4(const float* p, int) {
  const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return {_mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(_mm_loadu_ps(p)))};
}
BO_INLINE Vec<double> spread4(const double* p, int v) {
  const __m512i lanes = _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1);
  return {_mm512_permutexvar_pd(lanes, _mm512_castpd128_pd512(_mm_loadu_pd(p + 2 * v)))};
}
// First transposes within 128-bit blocks, then moves the blocks to their places.
BO_INLINE void store_interleaved4(float* to, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c,
                                  const Vec<float>& d) {
  __m512 v[4] = {a.v, b.v, c.v, d.v};
  transpose4x4(v);
  const __m512 xy = _mm512_shuffle_f32x4(v[0], v[1], 0x44), xy2 = _mm512_shuffle_f32x4(v[0], v[1], 0xee);
  const __m512 zw = _mm512_shuffle_f32x4(v[2], v[3], 0x44), zw2 = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  _mm512_storeu_ps(to, _mm512_shuffle_f32x4(xy, zw, 0x88));
  _mm512_storeu_ps(to + 16, _mm512_shuffle_f32x4(xy, zw, 0xdd));
  _mm512_storeu_ps(to + 32, _mm512_shuffle_f32x4(xy2, zw2, 0x88));
  _mm512_storeu_ps(to + 48, _mm512_shuffle_f32x4(xy2, zw2, 0xdd));
}
BO_INLINE void store_interleaved4(double* to, const Vec<double>& a, const Vec<double>& b, const Vec<double>& c,
                                  const Vec<double>& d) {
  const __m512d ab = _mm512_unpacklo_pd(a.v, b.v), ab2 = _mm512_unpackhi_pd(a.v, b.v);
  const __m512d cd = _mm512_unpacklo_pd(c.v, d.v), cd2 = _mm512_unpackhi_pd(c.v, d.v);
  const __m512d even = _mm512_shuffle_f64x2(ab, cd, 0x44), even2 = _mm512_shuffle_f64x2(ab, cd, 0xee);
  const __m512d odd = _mm512_shuffle_f64x2(ab2, cd2, 0x44), odd2 = _mm512_shuffle_f64x2(ab2, cd2, 0xee);
  _mm512_storeu_pd(to, _mm512_shuffle_f64x2(even, odd, 0x88));
  _mm512_storeu_pd(to + 8, _mm512_shuffle_f64x2(even, odd, 0xdd));
  _mm512_storeu_pd(to + 16, _mm512_shuffle_f64x2(even2, odd2, 0x88));
  _mm512_storeu_pd(to + 24, _mm512_shuffle_f64x2(even2, odd2, 0xdd));
}
BO_INLINE void load_interleaved4(const float* p, int64_t pitch, Vec<float>* v) {
  __m512 x[4];
  for (int l = 0; l < 4; ++l) {
    const float* const q = p + l * pitch;
    const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(q)), _mm_loadu_ps(q + 4 * pitch), 1);
    const __m512 three = _mm512_insertf32x4(two, _mm_loadu_ps(q + 8 * pitch), 2);
    x[l] = _mm512_insertf32x4(three, _mm_loadu_ps(q + 12 * pitch), 3);
  }
  transpose4x4(x);
  for (int j = 0; j < 4; ++j) v[j].v = x[j];
}
BO_INLINE void load_interleaved4(const double* p, int64_t pitch, Vec<double>* v) {
  __m512d x[4];
  for (int l = 0; l < 4; ++l) {
    const double* const q = p + l * pitch;
    x[l] = _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(q)), _mm256_loadu_pd(q + 4 * pitch), 1);
  }
  const __m512i lower = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13),
                upper = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  const __m512d ab = _mm512_unpacklo_pd(x[0], x[1]), ab2 = _mm512_unpackhi_pd(x[0], x[1]);
  const __m512d cd = _mm512_unpacklo_pd(x[2], x[3]), cd2 = _mm512_unpackhi_pd(x[2], x[3]);
  v[0].v = _mm512_permutex2var_pd(ab, lower, cd);
  v[1].v = _mm512_permutex2var_pd(ab2, lower, cd2);
  v[2].v = _mm512_permutex2var_pd(ab, upper, cd);
  v[3].v = _mm512_permutex2var_pd(ab2, upper, cd2);
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
