// Vec<T> in AVX2: 8 floats or 4 doubles.
#pragma once

#include <immintrin.h>

#include "generic.h"

#define BO_MM(op) _mm256_##op
#define BO_COMPARE(type, x, y, how) _mm256_cmp_##type(x, y, how)
#define BO_SELECT(type, mask, a, b) _mm256_blendv_##type(b, a, mask)

namespace bilateral_ops {
inline namespace BO_ISA {

using Floats = __m256;
using Doubles = __m256d;
using Integers = __m256i;
template <>
struct Indices<double> {
  __m128i v;
};

BO_INLINE __m128i load_u8(const char* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
BO_INLINE __m128i load_u16(const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
BO_INLINE void store_u16(char* p, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
BO_INLINE __m128i narrow_to_u16(__m256i v) {
  return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}
BO_INLINE __m256 as_floats(__m256i v) { return _mm256_castsi256_ps(v); }
BO_INLINE __m256i as_integers(__m256 v) { return _mm256_castps_si256(v); }

}  // namespace BO_ISA
}  // namespace bilateral_ops

#include "x86.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// Sliding window: eight entries starting n before the middle mask the first n lanes.
static const int32_t kLaneMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
BO_INLINE __m256i lane_mask(int64_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMask + 8 - n));
}
BO_INLINE Vec<float> load_n(const float* p, int64_t n) { return {_mm256_maskload_ps(p, lane_mask(n))}; }
BO_INLINE Vec<double> load_n(const double* p, int64_t n) { return {_mm256_maskload_pd(p, lane_mask(2 * n))}; }
// Stores 4, 2 and 1 elements: a masked store takes tens of cycles on some processors.
BO_INLINE void store_n(float* p, const Vec<float>& a, int64_t n) {
  __m128 rest = _mm256_castps256_ps128(a.v);
  if (n & 4) {
    _mm_storeu_ps(p, rest);
    rest = _mm256_extractf128_ps(a.v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
    rest = _mm_movehl_ps(rest, rest);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, rest);
}
BO_INLINE void store_n(double* p, const Vec<double>& a, int64_t n) {
  __m128d rest = _mm256_castpd256_pd128(a.v);
  if (n & 2) {
    _mm_storeu_pd(p, rest);
    rest = _mm256_extractf128_pd(a.v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, rest);
}
BO_INLINE double reduce_add(const Vec<double>& a) {
  const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}
BO_INLINE float reduce_add(const Vec<float>& a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
BO_INLINE Vec<float> select_greater(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, y.v, _CMP_GT_OQ), a.v)};
}
BO_INLINE Vec<double> select_greater(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a) {
  return {_mm256_and_pd(_mm256_cmp_pd(x.v, y.v, _CMP_GT_OQ), a.v)};
}
BO_INLINE Vec<float> mul_power_of_two(const Vec<float>& a, const Vec<float>& n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)))};
}
BO_INLINE Vec<double> mul_power_of_two(const Vec<double>& a, const Vec<double>& n) {
  const __m256i biased = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n.v)), _mm256_set1_epi64x(1023));
  return {_mm256_mul_pd(a.v, _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52)))};
}
BO_INLINE Vec<float> select_inside(const Vec<float>& a, const Vec<float>& limit, const Vec<float>& x) {
  const __m256 above = _mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_GT_OQ);
  return {_mm256_and_ps(_mm256_and_ps(above, _mm256_cmp_ps(a.v, limit.v, _CMP_LT_OQ)), x.v)};
}
BO_INLINE Vec<double> select_inside(const Vec<double>& a, const Vec<double>& limit, const Vec<double>& x) {
  const __m256d above = _mm256_cmp_pd(a.v, _mm256_setzero_pd(), _CMP_GT_OQ);
  return {_mm256_and_pd(_mm256_and_pd(above, _mm256_cmp_pd(a.v, limit.v, _CMP_LT_OQ)), x.v)};
}
BO_INLINE Indices<double> to_indices(const Vec<double>& a) { return {_mm256_cvttpd_epi32(a.v)}; }
BO_INLINE Vec<double> to_values(const Indices<double>& a) { return {_mm256_cvtepi32_pd(a.v)}; }
BO_INLINE void store_indices(int32_t* p, const Indices<float>& a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
BO_INLINE void store_indices(int32_t* p, const Indices<double>& a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a.v);
}
BO_INLINE uint32_t equal_bits(const Indices<float>& a, const Indices<float>& b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))));
}
BO_INLINE uint32_t bits_of(const Indices<float>& a) {
  const __m256i bits = _mm256_sllv_epi32(_mm256_set1_epi32(1), a.v);
  const __m128i four = _mm_or_si128(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  const __m128i two = _mm_or_si128(four, _mm_unpackhi_epi64(four, four));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(two) | _mm_extract_epi32(two, 1));
}
BO_INLINE void widen(const Vec<float>& a, Vec<double>* v) {
  v[0].v = _mm256_cvtps_pd(_mm256_castps256_ps128(a.v));
  v[1].v = _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1));
}
BO_INLINE Indices<float> load_indices(const int32_t* p, float) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
BO_INLINE Indices<double> load_indices(const int32_t* p, double) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
}
template <int D>
BO_INLINE Indices<float> next_index(const Indices<float>& i) {
  return {_mm256_min_epi32(_mm256_add_epi32(i.v, _mm256_set1_epi32(1)), _mm256_set1_epi32(D - 1))};
}
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index.v);
  if (D == 8) return {low};
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index.v);
  return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index.v, 28)))};
}
template <int Bit>
BO_INLINE Indices<float> set_bit_if_greater(const Indices<float>& i, const Vec<float>& x, const Vec<float>& y) {
  const __m256 greater = _mm256_cmp_ps(x.v, y.v, _CMP_GT_OQ);
  return {_mm256_or_si256(i.v, _mm256_and_si256(_mm256_castps_si256(greater), _mm256_set1_epi32(Bit)))};
}
// As in avx512.h: 3 and 8 have no common divisor either.
BO_INLINE void deinterleave3(Vec<float>* v) {
  __m256 x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  const __m256i lane_a = _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5);
  const __m256i lane_b = _mm256_setr_epi32(1, 4, 7, 2, 5, 0, 3, 6);
  const __m256i lane_c = _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7);
  // Lane masks: 0x49 is 0, 3, 6; 0x92 is 1, 4, 7; 0x24 is 2, 5.
  v[0].v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x92), z, 0x24), lane_a);
  v[1].v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x24), z, 0x49), lane_b);
  v[2].v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x49), z, 0x92), lane_c);
}
BO_INLINE void interleave3(Vec<float>* v) {
  const __m256i from_a = _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5);
  const __m256i from_b = _mm256_setr_epi32(5, 0, 3, 6, 1, 4, 7, 2);
  const __m256i from_c = _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7);
  const __m256 x = _mm256_permutevar8x32_ps(v[0].v, from_a), y = _mm256_permutevar8x32_ps(v[1].v, from_b),
               z = _mm256_permutevar8x32_ps(v[2].v, from_c);
  v[0].v = _mm256_blend_ps(_mm256_blend_ps(x, y, 0x92), z, 0x24);
  v[1].v = _mm256_blend_ps(_mm256_blend_ps(x, y, 0x24), z, 0x49);
  v[2].v = _mm256_blend_ps(_mm256_blend_ps(x, y, 0x49), z, 0x92);
}
// x: a0 b0 c0 a1, y: b1 c1 a2 b2, z: c2 a3 b3 c3
BO_INLINE void deinterleave3(Vec<double>* v) {
  __m256d x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  // a0 a3 a2 a1, b1 b0 b3 b2, c2 c1 c0 c3
  v[0].v = _mm256_permute4x64_pd(_mm256_blend_pd(_mm256_blend_pd(x, y, 4), z, 2), 0x6c);
  v[1].v = _mm256_permute_pd(_mm256_blend_pd(_mm256_blend_pd(x, y, 9), z, 4), 5);
  v[2].v = _mm256_permute4x64_pd(_mm256_blend_pd(_mm256_blend_pd(x, y, 2), z, 9), 0xc6);
}
BO_INLINE void interleave3(Vec<double>* v) {
  const __m256d x = _mm256_permute4x64_pd(v[0].v, 0x6c), y = _mm256_permute_pd(v[1].v, 5),
                z = _mm256_permute4x64_pd(v[2].v, 0xc6);
  v[0].v = _mm256_blend_pd(_mm256_blend_pd(x, y, 2), z, 4);
  v[1].v = _mm256_blend_pd(_mm256_blend_pd(x, y, 9), z, 2);
  v[2].v = _mm256_blend_pd(_mm256_blend_pd(x, y, 4), z, 9);
}
BO_INLINE void store_as(U8, char* p, const Vec<float>& a) {
  const __m128i halves = narrow_to_u16(to_level(a, 255.0f));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(halves, halves));
}
BO_INLINE Vec<float> repeat4(const float* p, int64_t n, int) {
  const __m128 four = n == 4 ? _mm_loadu_ps(p) : _mm_maskload_ps(p, _mm256_castsi256_si128(lane_mask(n)));
  return {_mm256_set_m128(four, four)};
}
BO_INLINE Vec<double> repeat4(const double* p, int64_t n, int) {
  return {n == 4 ? _mm256_loadu_pd(p) : _mm256_maskload_pd(p, lane_mask(2 * n))};
}
BO_INLINE Vec<float> spread4(const float* p, int v) {
  return {_mm256_setr_m128(_mm_set1_ps(p[2 * v]), _mm_set1_ps(p[2 * v + 1]))};
}
BO_INLINE Vec<double> spread4(const double* p, int v) { return {_mm256_set1_pd(p[v])}; }
// Transposes the 4 × 4 elements of four vectors.
BO_INLINE void transpose4x4(__m256d* v) {
  const __m256d ab = _mm256_unpacklo_pd(v[0], v[1]), ab2 = _mm256_unpackhi_pd(v[0], v[1]);
  const __m256d cd = _mm256_unpacklo_pd(v[2], v[3]), cd2 = _mm256_unpackhi_pd(v[2], v[3]);
  v[0] = _mm256_permute2f128_pd(ab, cd, 0x20);
  v[1] = _mm256_permute2f128_pd(ab2, cd2, 0x20);
  v[2] = _mm256_permute2f128_pd(ab, cd, 0x31);
  v[3] = _mm256_permute2f128_pd(ab2, cd2, 0x31);
}
// First transposes within halves, then moves the halves to their places.
BO_INLINE void store_interleaved4(float* to, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c,
                                  const Vec<float>& d) {
  __m256 v[4] = {a.v, b.v, c.v, d.v};
  transpose4x4(v);
  _mm256_storeu_ps(to, _mm256_permute2f128_ps(v[0], v[1], 0x20));
  _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(v[2], v[3], 0x20));
  _mm256_storeu_ps(to + 16, _mm256_permute2f128_ps(v[0], v[1], 0x31));
  _mm256_storeu_ps(to + 24, _mm256_permute2f128_ps(v[2], v[3], 0x31));
}
BO_INLINE void store_interleaved4(double* to, const Vec<double>& a, const Vec<double>& b, const Vec<double>& c,
                                  const Vec<double>& d) {
  __m256d v[4] = {a.v, b.v, c.v, d.v};
  transpose4x4(v);
  for (int l = 0; l < 4; ++l) _mm256_storeu_pd(to + 4 * l, v[l]);
}
BO_INLINE void load_interleaved4(const float* p, int64_t pitch, Vec<float>* v) {
  __m256 x[4];
  for (int l = 0; l < 4; ++l) x[l] = _mm256_loadu2_m128(p + (l + 4) * pitch, p + l * pitch);
  transpose4x4(x);
  for (int j = 0; j < 4; ++j) v[j].v = x[j];
}
BO_INLINE void load_interleaved4(const double* p, int64_t pitch, Vec<double>* v) {
  __m256d x[4];
  for (int l = 0; l < 4; ++l) x[l] = _mm256_loadu_pd(p + l * pitch);
  transpose4x4(x);
  for (int j = 0; j < 4; ++j) v[j].v = x[j];
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
