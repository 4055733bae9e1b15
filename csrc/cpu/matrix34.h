// Micro-kernels for 3 × 4 matrices, HDRnet's: one pixel's matrix, its rows or columns padded to four elements, fills
// one vector or a few. First the definitions as loops, then what each instruction set has instead. They read and write
// three elements per pixel and not one more.
#pragma once

#include "simd/functions.h"

namespace bilateral_ops {
inline namespace BO_ISA {

#define BO_LANES for (int l = 0; l < Vec<T>::kLanes; ++l)
// Vector v of p[0], p[1], p[2], 1 repeated: a pixel as a row that a matrix row is multiplied with
template <class T>
BO_INLINE Vec<T> repeat_rgb1(const T* p, int v) {
  Vec<T> r;
  BO_LANES {
    const int column = (v * Vec<T>::kLanes + l) % 4;
    r.v[l] = column < 3 ? p[column] : T(1);
  }
  return r;
}
// Vector v of p[0] four times, p[1] four times, p[2] four times, then zeros: the gradient of each matrix row's result
template <class T>
BO_INLINE Vec<T> spread3(const T* p, int v) {
  Vec<T> r;
  BO_LANES {
    const int group = (v * Vec<T>::kLanes + l) / 4;
    r.v[l] = group < 3 ? p[group] : T(0);
  }
  return r;
}
// Applies a matrix, stored as its columns c0 … c3: the first three elements of c3 + c0·p[0] + c1·p[1] + c2·p[2]
template <class T>
BO_INLINE void store_affine3(const Vec<T>* columns, const T* p, T* to) {
  T elements[16], sum[3];
  for (int i = 0; i < 16; i += Vec<T>::kLanes) store(elements + i, columns[i / Vec<T>::kLanes]);
  for (int i = 0; i < 3; ++i) {
    sum[i] = elements[12 + i];
    for (int j = 0; j < 3; ++j) sum[i] = mul_add(elements[4 * j + i], p[j], sum[i]);
  }
  for (int i = 0; i < 3; ++i) to[i] = sum[i];
}
// Sums over the rows of each of the first three columns, of rows of four elements that fill `rows`
template <class T>
BO_INLINE void store_column_sums3(const Vec<T>* rows, T* to) {
  constexpr int kLanes = Vec<T>::kLanes, kElements = kLanes < 4 ? 4 : kLanes;
  T elements[kElements];
  for (int i = 0; i < kElements; i += kLanes) store(elements + i, rows[i / kLanes]);
  for (int j = 0; j < 3; ++j) {
    to[j] = elements[j];
    for (int i = j + 4; i < kElements; i += 4) to[j] += elements[i];
  }
}
#undef BO_LANES

#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512)
// d + a·p[0] + b·p[1] + c·p[2]
BO_INLINE __m256d affine(__m256d a, __m256d b, __m256d c, __m256d d, const double* p) {
  const __m256d sum = _mm256_fmadd_pd(b, _mm256_set1_pd(p[1]), _mm256_fmadd_pd(a, _mm256_set1_pd(p[0]), d));
  return _mm256_fmadd_pd(c, _mm256_set1_pd(p[2]), sum);
}
#endif

#if defined(BO_SIMD_AVX512)

BO_INLINE Vec<float> repeat_rgb1(const float* p, int) {
  const __m128 one = _mm_set1_ps(1.0f);
  return {_mm512_broadcast_f32x4(_mm_mask_loadu_ps(one, 7, p))};
}
BO_INLINE Vec<double> repeat_rgb1(const double* p, int) {
  const __m256d one = _mm256_set1_pd(1.0);
  return {_mm512_broadcast_f64x4(_mm256_mask_loadu_pd(one, 7, p))};
}
BO_INLINE Vec<float> spread3(const float* p, int) {
  const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return {_mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_maskz_loadu_ps(7, p)), lanes)};
}
BO_INLINE Vec<double> spread3(const double* p, int v) {
  const __m512i lanes = _mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1);
  if (v == 0) return {_mm512_permutexvar_pd(lanes, _mm512_castpd128_pd512(_mm_loadu_pd(p)))};
  return {_mm512_maskz_mov_pd(0xf, _mm512_set1_pd(p[2]))};
}
BO_INLINE __m128 affine(__m128 a, __m128 b, __m128 c, __m128 d, const float* p) {
  const __m128 sum = _mm_fmadd_ps(b, _mm_set1_ps(p[1]), _mm_fmadd_ps(a, _mm_set1_ps(p[0]), d));
  return _mm_fmadd_ps(c, _mm_set1_ps(p[2]), sum);
}
BO_INLINE void store_affine3(const Vec<float>* columns, const float* p, float* to) {
  const __m512 v = columns->v;
  _mm_mask_storeu_ps(to, 7,
                     affine(_mm512_castps512_ps128(v), _mm512_extractf32x4_ps(v, 1), _mm512_extractf32x4_ps(v, 2),
                            _mm512_extractf32x4_ps(v, 3), p));
}
BO_INLINE void store_affine3(const Vec<double>* columns, const double* p, double* to) {
  const __m512d v = columns[0].v, w = columns[1].v;
  _mm256_mask_storeu_pd(to, 7,
                        affine(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1), _mm512_castpd512_pd256(w),
                               _mm512_extractf64x4_pd(w, 1), p));
}
BO_INLINE void store_column_sums3(const Vec<float>* rows, float* to) {
  const __m256 two = _mm256_add_ps(_mm512_castps512_ps256(rows->v), _mm512_extractf32x8_ps(rows->v, 1));
  _mm_mask_storeu_ps(to, 7, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}
BO_INLINE void store_column_sums3(const Vec<double>* rows, double* to) {
  const __m512d v = rows->v;
  _mm256_mask_storeu_pd(to, 7, _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)));
}

#elif defined(BO_SIMD_AVX2)

BO_INLINE Vec<float> repeat_rgb1(const float* p, int) {
  const __m128 first = _mm_maskload_ps(p, _mm256_castsi256_si128(lane_mask(3)));
  const __m128 four = _mm_blend_ps(first, _mm_set1_ps(1.0f), 8);
  return {_mm256_set_m128(four, four)};
}
BO_INLINE Vec<double> repeat_rgb1(const double* p, int) {
  return {_mm256_blend_pd(_mm256_maskload_pd(p, lane_mask(6)), _mm256_set1_pd(1.0), 8)};
}
BO_INLINE Vec<float> spread3(const float* p, int v) {
  if (v > 0) return {_mm256_setr_m128(_mm_set1_ps(p[2]), _mm_setzero_ps())};
  return {_mm256_setr_m128(_mm_set1_ps(p[0]), _mm_set1_ps(p[1]))};
}
BO_INLINE Vec<double> spread3(const double* p, int v) { return {_mm256_set1_pd(p[v])}; }
// Both halves of a vector at once: c0·p[0] + c2·p[2] and c1·p[1] + c3, whose sum is the result
BO_INLINE __m256 affine_halves(const Vec<float>* columns, __m256 first, __m256 second) {
  return _mm256_fmadd_ps(columns[0].v, first, _mm256_mul_ps(columns[1].v, second));
}
BO_INLINE void store_three(float* p, __m128 v) { store_n(p, Vec<float>{_mm256_castps128_ps256(v)}, 3); }
BO_INLINE void store_affine3(const Vec<float>* columns, const float* p, float* to) {
  const __m256 first = _mm256_blend_ps(_mm256_set1_ps(p[0]), _mm256_set1_ps(p[1]), 0xf0);
  const __m256 second = _mm256_blend_ps(_mm256_set1_ps(p[2]), _mm256_set1_ps(1.0f), 0xf0);
  const __m256 v = affine_halves(columns, first, second);
  store_three(to, _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
}
BO_INLINE void store_affine3(const Vec<float>* a, const Vec<float>* b, const float* p, float* to) {
  // Permutes registers, as some processors broadcast only one element per cycle from memory. The loads stay inside p.
  const __m256 x = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)), one = _mm256_set1_ps(1.0f);
  const __m256 y = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p + 2));
  const __m256 v = affine_halves(a, _mm256_permutevar_ps(x, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)),
                                 _mm256_blend_ps(_mm256_permute_ps(x, 0xaa), one, 0xf0));
  const __m256 w = affine_halves(b, _mm256_permutevar_ps(y, _mm256_setr_epi32(1, 1, 1, 1, 2, 2, 2, 2)),
                                 _mm256_blend_ps(_mm256_permute_ps(y, 0xff), one, 0xf0));
  const __m256 sum = _mm256_add_ps(_mm256_blend_ps(v, w, 0xf0), _mm256_permute2f128_ps(v, w, 0x21));
  _mm_storeu_ps(to, _mm256_castps256_ps128(sum));  // the fourth element is overwritten below
  store_three(to + 3, _mm256_extractf128_ps(sum, 1));
}
BO_INLINE void store_affine3(const Vec<double>* columns, const double* p, double* to) {
  store_n(to, Vec<double>{affine(columns[0].v, columns[1].v, columns[2].v, columns[3].v, p)}, 3);
}
BO_INLINE void store_column_sums3(const Vec<float>* rows, float* to) {
  store_three(to, _mm_add_ps(_mm256_castps256_ps128(rows->v), _mm256_extractf128_ps(rows->v, 1)));
}
BO_INLINE void store_column_sums3(const Vec<double>* rows, double* to) { store_n(to, *rows, 3); }

#elif defined(BO_SIMD_NEON)

BO_INLINE Vec<float> repeat_rgb1(const float* p, int) {
  const float32x4_t first = vcombine_f32(vld1_f32(p), vdup_n_f32(1.0f)), four = vld1q_lane_f32(p + 2, first, 2);
  return {four, four};
}
BO_INLINE Vec<double> repeat_rgb1(const double* p, int) {
  return {vld1q_f64(p), vld1q_lane_f64(p + 2, vdupq_n_f64(1.0), 0)};
}
BO_INLINE Vec<float> spread3(const float* p, int v) {
  if (v > 0) return {vdupq_n_f32(p[2]), vdupq_n_f32(0.0f)};
  return {vdupq_n_f32(p[0]), vdupq_n_f32(p[1])};
}
BO_INLINE Vec<double> spread3(const double* p, int v) { return {vdupq_n_f64(p[v]), vdupq_n_f64(p[v])}; }
BO_INLINE void store_affine3(const Vec<float>* columns, const float* p, float* to) {
  float32x4_t sum = vfmaq_n_f32(columns[1].high, columns[0].low, p[0]);
  sum = vfmaq_n_f32(vfmaq_n_f32(sum, columns[0].high, p[1]), columns[1].low, p[2]);
  vst1_f32(to, vget_low_f32(sum));
  vst1q_lane_f32(to + 2, sum, 2);
}
BO_INLINE void store_affine3(const Vec<double>* columns, const double* p, double* to) {
  float64x2_t low = columns[3].low, high = columns[3].high;
  for (int j = 0; j < 3; ++j) {
    low = vfmaq_n_f64(low, columns[j].low, p[j]);
    high = vfmaq_n_f64(high, columns[j].high, p[j]);
  }
  vst1q_f64(to, low);
  vst1q_lane_f64(to + 2, high, 0);
}
BO_INLINE void store_column_sums3(const Vec<float>* rows, float* to) {
  const float32x4_t sum = vaddq_f32(rows->low, rows->high);
  vst1_f32(to, vget_low_f32(sum));
  vst1q_lane_f32(to + 2, sum, 2);
}
BO_INLINE void store_column_sums3(const Vec<double>* rows, double* to) {
  vst1q_f64(to, rows->low);
  vst1q_lane_f64(to + 2, rows->high, 0);
}

#endif

// store_affine3 for two adjacent pixels
template <class T>
BO_INLINE void store_affine3(const Vec<T>* a, const Vec<T>* b, const T* p, T* to) {
  store_affine3(a, p, to);
  store_affine3(b, p + 3, to + 3);
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
