// The vector wrapper: what kernels say instead of intrinsics.
//
// Vec<T> holds kLanes numbers; Indices<T> as many small integers. The general form is plain loops over an array, which
// any compiler takes; an instruction set specialises what it has. A kernel written over Vec runs on all of them.
#pragma once

#include "../math.h"

#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512)
#include <immintrin.h>
#elif defined(BO_SIMD_NEON)
#include <arm_neon.h>
#endif

namespace bilateral_ops {
inline namespace BO_ISA {

// ---------------------------------------------------------------------------------------------------------------------
// General

template <class T>
struct Vec {
  static constexpr int kLanes = 16 / sizeof(T);
  // Accumulators that registers have room for.
  static constexpr int kSums = 8;
  T v[kLanes];
};
template <class T>
struct Indices {
  int32_t v[Vec<T>::kLanes];
};

#define BO_LANES for (int l = 0; l < Vec<T>::kLanes; ++l)
template <class T>
BO_INLINE Vec<T> load(const T* p) {
  Vec<T> r;
  BO_LANES r.v[l] = p[l];
  return r;
}
template <class T>
BO_INLINE void store(T* p, const Vec<T>& a) {
  BO_LANES p[l] = a.v[l];
}
template <class T>
BO_INLINE Vec<T> broadcast(T a) {
  Vec<T> r;
  BO_LANES r.v[l] = a;
  return r;
}
template <class T>
BO_INLINE Vec<T> operator+(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] + b.v[l];
  return r;
}
template <class T>
BO_INLINE Vec<T> operator-(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] - b.v[l];
  return r;
}
template <class T>
BO_INLINE Vec<T> operator*(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] * b.v[l];
  return r;
}
template <class T>
BO_INLINE Vec<T> madd(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {
  Vec<T> r;
  BO_LANES r.v[l] = madd(a.v[l], b.v[l], c.v[l]);
  return r;
}
// a where x = y, b elsewhere
template <class T>
BO_INLINE Vec<T> where_equal(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = x.v[l] == y.v[l] ? a.v[l] : b.v[l];
  return r;
}
// a where x > y, b elsewhere (NaN is not greater)
template <class T>
BO_INLINE Vec<T> where_greater(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = x.v[l] > y.v[l] ? a.v[l] : b.v[l];
  return r;
}
template <class T>
BO_INLINE Vec<T> operator/(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] / b.v[l];
  return r;
}
// max(a, 0), which passes NaN on
template <class T>
BO_INLINE Vec<T> relu(const Vec<T>& a) {
  Vec<T> r;
  BO_LANES r.v[l] = relu(a.v[l]);
  return r;
}
// a·2^n for whole n that are exponents of T
template <class T>
BO_INLINE Vec<T> times_power(const Vec<T>& a, const Vec<T>& n) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] * power_of_two(n.v[l]);
  return r;
}
// a·b + c, always with one rounding
template <class T>
BO_INLINE Vec<T> fused(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {
  Vec<T> r;
  BO_LANES r.v[l] = fused(a.v[l], b.v[l], c.v[l]);
  return r;
}
// Stores numbers ≥ 0 without their fractions, and returns them so.
template <class T>
BO_INLINE Vec<T> store_truncated(int32_t* p, const Vec<T>& a) {
  Vec<T> r;
  BO_LANES {
    p[l] = static_cast<int32_t>(a.v[l]);
    r.v[l] = static_cast<T>(p[l]);
  }
  return r;
}
// The first n < kLanes numbers; the other lanes are loaded as zeros, and not stored.
template <class T>
BO_INLINE Vec<T> load_part(const T* p, int64_t n) {
  Vec<T> r;
  BO_LANES r.v[l] = l < n ? p[l] : T(0);
  return r;
}
template <class T>
BO_INLINE void store_part(T* p, const Vec<T>& a, int64_t n) {
  for (int64_t l = 0; l < n; ++l) p[l] = a.v[l];
}
// The sum of the lanes
template <class T>
BO_INLINE T total(const Vec<T>& a) {
  T sum = T(0);
  BO_LANES sum += a.v[l];
  return sum;
}
// to[lane] += weight·a[lane]
template <class T>
BO_INLINE void accumulate(double* to, const Vec<T>& a, double weight) {
  BO_LANES to[l] = madd(static_cast<double>(a.v[l]), weight, to[l]);
}
// The second argument only says which T.
template <class T>
BO_INLINE Indices<T> load_indices(const int32_t* p, T) {
  Indices<T> r;
  BO_LANES r.v[l] = p[l];
  return r;
}
// table[index], of a table of D = 8 or 16 numbers
template <int D, class T>
BO_INLINE Vec<T> lookup(const T* table, const Indices<T>& index) {
  Vec<T> r;
  BO_LANES r.v[l] = table[index.v[l]];
  return r;
}
// kLanes pixels of three interleaved channels, and back
template <class T>
BO_INLINE void load3(const T* p, Vec<T>& a, Vec<T>& b, Vec<T>& c) {
  BO_LANES {
    a.v[l] = p[3 * l];
    b.v[l] = p[3 * l + 1];
    c.v[l] = p[3 * l + 2];
  }
}
template <class T>
BO_INLINE void store3(T* p, const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {
  BO_LANES {
    p[3 * l] = a.v[l];
    p[3 * l + 1] = b.v[l];
    p[3 * l + 2] = c.v[l];
  }
}
#undef BO_LANES

// ---------------------------------------------------------------------------------------------------------------------
// AVX-512

#if defined(BO_SIMD_AVX512)

template <>
struct Vec<float> {
  static constexpr int kLanes = 16, kSums = 24;
  __m512 v;
};
template <>
struct Indices<float> {
  __m512i v;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = 8, kSums = 24;
  __m512d v;
};
template <>
struct Indices<double> {
  __m512i v;
};

BO_INLINE Vec<float> load(const float* p) { return {_mm512_loadu_ps(p)}; }
BO_INLINE Vec<double> load(const double* p) { return {_mm512_loadu_pd(p)}; }
BO_INLINE void store(float* p, const Vec<float>& a) { _mm512_storeu_ps(p, a.v); }
BO_INLINE void store(double* p, const Vec<double>& a) { _mm512_storeu_pd(p, a.v); }
BO_INLINE Vec<float> load_part(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)};
}
BO_INLINE Vec<double> load_part(const double* p, int64_t n) {
  return {_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p)};
}
BO_INLINE void store_part(float* p, const Vec<float>& a, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v);
}
BO_INLINE void store_part(double* p, const Vec<double>& a, int64_t n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), a.v);
}
BO_INLINE float total(const Vec<float>& a) { return _mm512_reduce_add_ps(a.v); }
BO_INLINE double total(const Vec<double>& a) { return _mm512_reduce_add_pd(a.v); }
BO_INLINE Vec<float> broadcast(float a) { return {_mm512_set1_ps(a)}; }
BO_INLINE Vec<double> broadcast(double a) { return {_mm512_set1_pd(a)}; }
BO_INLINE Vec<float> operator+(const Vec<float>& a, const Vec<float>& b) { return {_mm512_add_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator+(const Vec<double>& a, const Vec<double>& b) { return {_mm512_add_pd(a.v, b.v)}; }
BO_INLINE Vec<float> operator-(const Vec<float>& a, const Vec<float>& b) { return {_mm512_sub_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator-(const Vec<double>& a, const Vec<double>& b) { return {_mm512_sub_pd(a.v, b.v)}; }
BO_INLINE Vec<float> operator*(const Vec<float>& a, const Vec<float>& b) { return {_mm512_mul_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator*(const Vec<double>& a, const Vec<double>& b) { return {_mm512_mul_pd(a.v, b.v)}; }
BO_INLINE Vec<float> madd(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
BO_INLINE Vec<double> madd(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
BO_INLINE Vec<float> where_equal(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a, const Vec<float>& b) {
  return {_mm512_mask_mov_ps(b.v, _mm512_cmp_ps_mask(x.v, y.v, _CMP_EQ_OQ), a.v)};
}
BO_INLINE Vec<double> where_equal(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a,
                                  const Vec<double>& b) {
  return {_mm512_mask_mov_pd(b.v, _mm512_cmp_pd_mask(x.v, y.v, _CMP_EQ_OQ), a.v)};
}
BO_INLINE Vec<float> where_greater(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a, const Vec<float>& b) {
  return {_mm512_mask_mov_ps(b.v, _mm512_cmp_ps_mask(x.v, y.v, _CMP_GT_OQ), a.v)};
}
BO_INLINE Vec<double> where_greater(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a,
                                    const Vec<double>& b) {
  return {_mm512_mask_mov_pd(b.v, _mm512_cmp_pd_mask(x.v, y.v, _CMP_GT_OQ), a.v)};
}
BO_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) { return madd(a, b, c); }
BO_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) { return madd(a, b, c); }
BO_INLINE Vec<float> operator/(const Vec<float>& a, const Vec<float>& b) { return {_mm512_div_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator/(const Vec<double>& a, const Vec<double>& b) { return {_mm512_div_pd(a.v, b.v)}; }
// max's second operand is what it returns beside NaN.
BO_INLINE Vec<float> relu(const Vec<float>& a) { return {_mm512_max_ps(_mm512_setzero_ps(), a.v)}; }
BO_INLINE Vec<double> relu(const Vec<double>& a) { return {_mm512_max_pd(_mm512_setzero_pd(), a.v)}; }
BO_INLINE Vec<float> times_power(const Vec<float>& a, const Vec<float>& n) { return {_mm512_scalef_ps(a.v, n.v)}; }
BO_INLINE Vec<double> times_power(const Vec<double>& a, const Vec<double>& n) { return {_mm512_scalef_pd(a.v, n.v)}; }
BO_INLINE Vec<float> store_truncated(int32_t* p, const Vec<float>& a) {
  const __m512i k = _mm512_cvttps_epi32(a.v);
  _mm512_storeu_si512(p, k);
  return {_mm512_cvtepi32_ps(k)};
}
BO_INLINE Vec<double> store_truncated(int32_t* p, const Vec<double>& a) {
  const __m256i k = _mm512_cvttpd_epi32(a.v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), k);
  return {_mm512_cvtepi32_pd(k)};
}
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  _mm512_storeu_pd(to, _mm512_fmadd_pd(a.v, _mm512_set1_pd(weight), _mm512_loadu_pd(to)));
}
BO_INLINE void accumulate(double* to, const Vec<float>& a, double weight) {
  accumulate(to, Vec<double>{_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))}, weight);
  accumulate(to + 8, Vec<double>{_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))}, weight);
}
BO_INLINE Indices<float> load_indices(const int32_t* p, float) { return {_mm512_loadu_si512(p)}; }
BO_INLINE Indices<double> load_indices(const int32_t* p, double) {
  return {_mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  const __m512 t = D == 8 ? _mm512_broadcast_f32x8(_mm256_loadu_ps(table)) : _mm512_loadu_ps(table);
  return {_mm512_permutexvar_ps(index.v, t)};
}
template <int D>
BO_INLINE Vec<double> lookup(const double* table, const Indices<double>& index) {
  if (D == 8) return {_mm512_permutexvar_pd(index.v, _mm512_loadu_pd(table))};
  return {_mm512_permutex2var_pd(_mm512_loadu_pd(table), index.v, _mm512_loadu_pd(table + 8))};
}
// Element i of channel c stands at 3i + c, and 3 and 16 have no common divisor: the channel's elements have different
// lanes in the three vectors, so that a blend of these and one permutation gather them.
BO_INLINE void load3(const float* p, Vec<float>& a, Vec<float>& b, Vec<float>& c) {
  const __m512 x = _mm512_loadu_ps(p), y = _mm512_loadu_ps(p + 16), z = _mm512_loadu_ps(p + 32);
  const __m512i lane_a = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13);
  const __m512i lane_b = _mm512_setr_epi32(1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14);
  const __m512i lane_c = _mm512_setr_epi32(2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15);
  // Lanes 0, 3, 6, … of a vector: 0x9249; 1, 4, …: 0x2492; 2, 5, …: 0x4924.
  a.v = _mm512_permutexvar_ps(lane_a, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x4924, y), 0x2492, z));
  b.v = _mm512_permutexvar_ps(lane_b, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x9249, y), 0x4924, z));
  c.v = _mm512_permutexvar_ps(lane_c, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x2492, y), 0x9249, z));
}
BO_INLINE void store3(float* p, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  const __m512i from_a = _mm512_setr_epi32(0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10, 5);
  const __m512i from_b = _mm512_setr_epi32(5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10);
  const __m512i from_c = _mm512_setr_epi32(10, 5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15);
  const __m512 x = _mm512_permutexvar_ps(from_a, a.v), y = _mm512_permutexvar_ps(from_b, b.v),
               z = _mm512_permutexvar_ps(from_c, c.v);
  _mm512_storeu_ps(p, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x2492, y), 0x4924, z));
  _mm512_storeu_ps(p + 16, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x9249, y), 0x2492, z));
  _mm512_storeu_ps(p + 32, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x4924, y), 0x9249, z));
}

// ---------------------------------------------------------------------------------------------------------------------
// AVX2

#elif defined(BO_SIMD_AVX2)

template <>
struct Vec<float> {
  static constexpr int kLanes = 8, kSums = 12;
  __m256 v;
};
template <>
struct Indices<float> {
  __m256i v;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = 4, kSums = 12;
  __m256d v;
};
template <>
struct Indices<double> {
  __m128i v;
};

BO_INLINE Vec<float> load(const float* p) { return {_mm256_loadu_ps(p)}; }
BO_INLINE Vec<double> load(const double* p) { return {_mm256_loadu_pd(p)}; }
BO_INLINE void store(float* p, const Vec<float>& a) { _mm256_storeu_ps(p, a.v); }
BO_INLINE void store(double* p, const Vec<double>& a) { _mm256_storeu_pd(p, a.v); }
// The mask of the first n lanes of 32 bits is eight numbers of this, from the nth before its middle.
static const int32_t kLaneMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
BO_INLINE __m256i lane_mask(int64_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMask + 8 - n));
}
BO_INLINE Vec<float> load_part(const float* p, int64_t n) { return {_mm256_maskload_ps(p, lane_mask(n))}; }
BO_INLINE Vec<double> load_part(const double* p, int64_t n) { return {_mm256_maskload_pd(p, lane_mask(2 * n))}; }
BO_INLINE void store_part(float* p, const Vec<float>& a, int64_t n) { _mm256_maskstore_ps(p, lane_mask(n), a.v); }
BO_INLINE void store_part(double* p, const Vec<double>& a, int64_t n) { _mm256_maskstore_pd(p, lane_mask(2 * n), a.v); }
BO_INLINE double total(const Vec<double>& a) {
  const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}
BO_INLINE float total(const Vec<float>& a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
BO_INLINE Vec<float> broadcast(float a) { return {_mm256_set1_ps(a)}; }
BO_INLINE Vec<double> broadcast(double a) { return {_mm256_set1_pd(a)}; }
BO_INLINE Vec<float> operator+(const Vec<float>& a, const Vec<float>& b) { return {_mm256_add_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator+(const Vec<double>& a, const Vec<double>& b) { return {_mm256_add_pd(a.v, b.v)}; }
BO_INLINE Vec<float> operator-(const Vec<float>& a, const Vec<float>& b) { return {_mm256_sub_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator-(const Vec<double>& a, const Vec<double>& b) { return {_mm256_sub_pd(a.v, b.v)}; }
BO_INLINE Vec<float> operator*(const Vec<float>& a, const Vec<float>& b) { return {_mm256_mul_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator*(const Vec<double>& a, const Vec<double>& b) { return {_mm256_mul_pd(a.v, b.v)}; }
BO_INLINE Vec<float> madd(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
BO_INLINE Vec<double> madd(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return {_mm256_fmadd_pd(a.v, b.v, c.v)};
}
BO_INLINE Vec<float> where_equal(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a, const Vec<float>& b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, y.v, _CMP_EQ_OQ))};
}
BO_INLINE Vec<double> where_equal(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a,
                                  const Vec<double>& b) {
  return {_mm256_blendv_pd(b.v, a.v, _mm256_cmp_pd(x.v, y.v, _CMP_EQ_OQ))};
}
BO_INLINE Vec<float> where_greater(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a, const Vec<float>& b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, y.v, _CMP_GT_OQ))};
}
BO_INLINE Vec<double> where_greater(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a,
                                    const Vec<double>& b) {
  return {_mm256_blendv_pd(b.v, a.v, _mm256_cmp_pd(x.v, y.v, _CMP_GT_OQ))};
}
BO_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) { return madd(a, b, c); }
BO_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) { return madd(a, b, c); }
BO_INLINE Vec<float> operator/(const Vec<float>& a, const Vec<float>& b) { return {_mm256_div_ps(a.v, b.v)}; }
BO_INLINE Vec<double> operator/(const Vec<double>& a, const Vec<double>& b) { return {_mm256_div_pd(a.v, b.v)}; }
// max's second operand is what it returns beside NaN.
BO_INLINE Vec<float> relu(const Vec<float>& a) { return {_mm256_max_ps(_mm256_setzero_ps(), a.v)}; }
BO_INLINE Vec<double> relu(const Vec<double>& a) { return {_mm256_max_pd(_mm256_setzero_pd(), a.v)}; }
BO_INLINE Vec<float> times_power(const Vec<float>& a, const Vec<float>& n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)))};
}
BO_INLINE Vec<double> times_power(const Vec<double>& a, const Vec<double>& n) {
  const __m256i biased = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n.v)), _mm256_set1_epi64x(1023));
  return {_mm256_mul_pd(a.v, _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52)))};
}
BO_INLINE Vec<float> store_truncated(int32_t* p, const Vec<float>& a) {
  const __m256i k = _mm256_cvttps_epi32(a.v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), k);
  return {_mm256_cvtepi32_ps(k)};
}
BO_INLINE Vec<double> store_truncated(int32_t* p, const Vec<double>& a) {
  const __m128i k = _mm256_cvttpd_epi32(a.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), k);
  return {_mm256_cvtepi32_pd(k)};
}
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  _mm256_storeu_pd(to, _mm256_fmadd_pd(a.v, _mm256_set1_pd(weight), _mm256_loadu_pd(to)));
}
BO_INLINE void accumulate(double* to, const Vec<float>& a, double weight) {
  accumulate(to, Vec<double>{_mm256_cvtps_pd(_mm256_castps256_ps128(a.v))}, weight);
  accumulate(to + 4, Vec<double>{_mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1))}, weight);
}
BO_INLINE Indices<float> load_indices(const int32_t* p, float) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
BO_INLINE Indices<double> load_indices(const int32_t* p, double) {
  return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
}
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index.v);
  if (D == 8) return {low};
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index.v);
  return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index.v, 28)))};
}
template <int D>
BO_INLINE Vec<double> lookup(const double* table, const Indices<double>& index) {
  return {_mm256_i32gather_pd(table, index.v, 8)};
}
// As with AVX-512: three and eight have no common divisor either.
BO_INLINE void load3(const float* p, Vec<float>& a, Vec<float>& b, Vec<float>& c) {
  const __m256 x = _mm256_loadu_ps(p), y = _mm256_loadu_ps(p + 8), z = _mm256_loadu_ps(p + 16);
  const __m256i lane_a = _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5);
  const __m256i lane_b = _mm256_setr_epi32(1, 4, 7, 2, 5, 0, 3, 6);
  const __m256i lane_c = _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7);
  // Lanes 0, 3, 6: 0x49; 1, 4, 7: 0x92; 2, 5: 0x24.
  a.v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x92), z, 0x24), lane_a);
  b.v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x24), z, 0x49), lane_b);
  c.v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x49), z, 0x92), lane_c);
}
BO_INLINE void store3(float* p, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  const __m256i from_a = _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5);
  const __m256i from_b = _mm256_setr_epi32(5, 0, 3, 6, 1, 4, 7, 2);
  const __m256i from_c = _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7);
  const __m256 x = _mm256_permutevar8x32_ps(a.v, from_a), y = _mm256_permutevar8x32_ps(b.v, from_b),
               z = _mm256_permutevar8x32_ps(c.v, from_c);
  _mm256_storeu_ps(p, _mm256_blend_ps(_mm256_blend_ps(x, y, 0x92), z, 0x24));
  _mm256_storeu_ps(p + 8, _mm256_blend_ps(_mm256_blend_ps(x, y, 0x24), z, 0x49));
  _mm256_storeu_ps(p + 16, _mm256_blend_ps(_mm256_blend_ps(x, y, 0x49), z, 0x92));
}

// ---------------------------------------------------------------------------------------------------------------------
// NEON (aarch64)

#elif defined(BO_SIMD_NEON)

// Two registers each: what lanes share, such as a lookup's table, is then loaded once for both, and there are registers
// enough. Indices are those of a table's bytes, as the table instructions want them: four or eight to a lane.
template <>
struct Vec<float> {
  static constexpr int kLanes = 8, kSums = 12;
  float32x4_t low, high;
};
template <>
struct Indices<float> {
  uint8x16_t low, high;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = 4, kSums = 12;
  float64x2_t low, high;
};
template <>
struct Indices<double> {
  uint8x16_t low, high;
};

BO_INLINE Vec<float> load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
BO_INLINE Vec<double> load(const double* p) { return {vld1q_f64(p), vld1q_f64(p + 2)}; }
BO_INLINE void store(float* p, const Vec<float>& a) {
  vst1q_f32(p, a.low);
  vst1q_f32(p + 4, a.high);
}
BO_INLINE void store(double* p, const Vec<double>& a) {
  vst1q_f64(p, a.low);
  vst1q_f64(p + 2, a.high);
}
// One register's share of n numbers.
BO_INLINE float32x4_t load_some(const float* p, int64_t n) {
  if (n > 3) return vld1q_f32(p);
  float32x4_t r = vdupq_n_f32(0.0f);
  if (n > 0) r = vld1q_lane_f32(p, r, 0);
  if (n > 1) r = vld1q_lane_f32(p + 1, r, 1);
  if (n > 2) r = vld1q_lane_f32(p + 2, r, 2);
  return r;
}
BO_INLINE float64x2_t load_some(const double* p, int64_t n) {
  if (n > 1) return vld1q_f64(p);
  const float64x2_t zero = vdupq_n_f64(0.0);
  return n > 0 ? vld1q_lane_f64(p, zero, 0) : zero;
}
BO_INLINE void store_some(float* p, float32x4_t a, int64_t n) {
  if (n > 3) return vst1q_f32(p, a);
  if (n > 0) vst1q_lane_f32(p, a, 0);
  if (n > 1) vst1q_lane_f32(p + 1, a, 1);
  if (n > 2) vst1q_lane_f32(p + 2, a, 2);
}
BO_INLINE void store_some(double* p, float64x2_t a, int64_t n) {
  if (n > 1) return vst1q_f64(p, a);
  if (n > 0) vst1q_lane_f64(p, a, 0);
}
BO_INLINE Vec<float> load_part(const float* p, int64_t n) { return {load_some(p, n), load_some(p + 4, n - 4)}; }
BO_INLINE Vec<double> load_part(const double* p, int64_t n) { return {load_some(p, n), load_some(p + 2, n - 2)}; }
BO_INLINE void store_part(float* p, const Vec<float>& a, int64_t n) {
  store_some(p, a.low, n);
  store_some(p + 4, a.high, n - 4);
}
BO_INLINE void store_part(double* p, const Vec<double>& a, int64_t n) {
  store_some(p, a.low, n);
  store_some(p + 2, a.high, n - 2);
}
BO_INLINE float total(const Vec<float>& a) { return vaddvq_f32(vaddq_f32(a.low, a.high)); }
BO_INLINE double total(const Vec<double>& a) { return vaddvq_f64(vaddq_f64(a.low, a.high)); }
BO_INLINE Vec<float> broadcast(float a) { return {vdupq_n_f32(a), vdupq_n_f32(a)}; }
BO_INLINE Vec<double> broadcast(double a) { return {vdupq_n_f64(a), vdupq_n_f64(a)}; }
BO_INLINE Vec<float> operator+(const Vec<float>& a, const Vec<float>& b) {
  return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)};
}
BO_INLINE Vec<double> operator+(const Vec<double>& a, const Vec<double>& b) {
  return {vaddq_f64(a.low, b.low), vaddq_f64(a.high, b.high)};
}
BO_INLINE Vec<float> operator-(const Vec<float>& a, const Vec<float>& b) {
  return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)};
}
BO_INLINE Vec<double> operator-(const Vec<double>& a, const Vec<double>& b) {
  return {vsubq_f64(a.low, b.low), vsubq_f64(a.high, b.high)};
}
BO_INLINE Vec<float> operator*(const Vec<float>& a, const Vec<float>& b) {
  return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)};
}
BO_INLINE Vec<double> operator*(const Vec<double>& a, const Vec<double>& b) {
  return {vmulq_f64(a.low, b.low), vmulq_f64(a.high, b.high)};
}
BO_INLINE Vec<float> madd(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
BO_INLINE Vec<double> madd(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  return {vfmaq_f64(c.low, a.low, b.low), vfmaq_f64(c.high, a.high, b.high)};
}
BO_INLINE Vec<float> where_equal(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a, const Vec<float>& b) {
  return {vbslq_f32(vceqq_f32(x.low, y.low), a.low, b.low), vbslq_f32(vceqq_f32(x.high, y.high), a.high, b.high)};
}
BO_INLINE Vec<double> where_equal(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a,
                                  const Vec<double>& b) {
  return {vbslq_f64(vceqq_f64(x.low, y.low), a.low, b.low), vbslq_f64(vceqq_f64(x.high, y.high), a.high, b.high)};
}
BO_INLINE Vec<float> where_greater(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a, const Vec<float>& b) {
  return {vbslq_f32(vcgtq_f32(x.low, y.low), a.low, b.low), vbslq_f32(vcgtq_f32(x.high, y.high), a.high, b.high)};
}
BO_INLINE Vec<double> where_greater(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a,
                                    const Vec<double>& b) {
  return {vbslq_f64(vcgtq_f64(x.low, y.low), a.low, b.low), vbslq_f64(vcgtq_f64(x.high, y.high), a.high, b.high)};
}
BO_INLINE Vec<float> fused(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) { return madd(a, b, c); }
BO_INLINE Vec<double> fused(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) { return madd(a, b, c); }
BO_INLINE Vec<float> operator/(const Vec<float>& a, const Vec<float>& b) {
  return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)};
}
BO_INLINE Vec<double> operator/(const Vec<double>& a, const Vec<double>& b) {
  return {vdivq_f64(a.low, b.low), vdivq_f64(a.high, b.high)};
}
// This max is NaN where an operand is.
BO_INLINE Vec<float> relu(const Vec<float>& a) {
  const float32x4_t zero = vdupq_n_f32(0.0f);
  return {vmaxq_f32(a.low, zero), vmaxq_f32(a.high, zero)};
}
BO_INLINE Vec<double> relu(const Vec<double>& a) {
  const float64x2_t zero = vdupq_n_f64(0.0);
  return {vmaxq_f64(a.low, zero), vmaxq_f64(a.high, zero)};
}
BO_INLINE float32x4_t power_of_two(float32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
BO_INLINE float64x2_t power_of_two(float64x2_t n) {
  return vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(vcvtq_s64_f64(n), vdupq_n_s64(1023)), 52));
}
BO_INLINE Vec<float> times_power(const Vec<float>& a, const Vec<float>& n) {
  return {vmulq_f32(a.low, power_of_two(n.low)), vmulq_f32(a.high, power_of_two(n.high))};
}
BO_INLINE Vec<double> times_power(const Vec<double>& a, const Vec<double>& n) {
  return {vmulq_f64(a.low, power_of_two(n.low)), vmulq_f64(a.high, power_of_two(n.high))};
}
// The rounding does not wait for the conversion.
BO_INLINE Vec<float> store_truncated(int32_t* p, const Vec<float>& a) {
  vst1q_s32(p, vcvtq_s32_f32(a.low));
  vst1q_s32(p + 4, vcvtq_s32_f32(a.high));
  return {vrndq_f32(a.low), vrndq_f32(a.high)};
}
BO_INLINE Vec<double> store_truncated(int32_t* p, const Vec<double>& a) {
  vst1q_s32(p, vmovn_high_s64(vmovn_s64(vcvtq_s64_f64(a.low)), vcvtq_s64_f64(a.high)));
  return {vrndq_f64(a.low), vrndq_f64(a.high)};
}
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  vst1q_f64(to, vfmaq_n_f64(vld1q_f64(to), a.low, weight));
  vst1q_f64(to + 2, vfmaq_n_f64(vld1q_f64(to + 2), a.high, weight));
}
BO_INLINE void accumulate(double* to, const Vec<float>& a, double weight) {
  accumulate(to, Vec<double>{vcvt_f64_f32(vget_low_f32(a.low)), vcvt_high_f64_f32(a.low)}, weight);
  accumulate(to + 4, Vec<double>{vcvt_f64_f32(vget_low_f32(a.high)), vcvt_high_f64_f32(a.high)}, weight);
}
// A lane's bytes are 4k, 4k + 1, …, 4k + 3; of doubles 8k, …, 8k + 7.
BO_INLINE Indices<float> load_indices(const int32_t* p, float) {
  const uint32x4_t first = vdupq_n_u32(0x03020100u);
  const uint32x4_t low = vreinterpretq_u32_s32(vld1q_s32(p)), high = vreinterpretq_u32_s32(vld1q_s32(p + 4));
  return {vreinterpretq_u8_u32(vmlaq_n_u32(first, low, 0x04040404u)),
          vreinterpretq_u8_u32(vmlaq_n_u32(first, high, 0x04040404u))};
}
BO_INLINE Indices<double> load_indices(const int32_t* p, double) {
  const uint8x16_t first = vreinterpretq_u8_u64(vdupq_n_u64(0x0706050403020100u));
  const uint32x4_t k = vmulq_n_u32(vreinterpretq_u32_s32(vld1q_s32(p)), 0x08080808u);
  return {vaddq_u8(vreinterpretq_u8_u32(vzip1q_u32(k, k)), first),
          vaddq_u8(vreinterpretq_u8_u32(vzip2q_u32(k, k)), first)};
}
BO_INLINE uint8x16x4_t table_bytes(const void* table) { return vld1q_u8_x4(static_cast<const uint8_t*>(table)); }
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  if (D == 8) {
    const uint8x16x2_t t = vld1q_u8_x2(reinterpret_cast<const uint8_t*>(table));
    return {vreinterpretq_f32_u8(vqtbl2q_u8(t, index.low)), vreinterpretq_f32_u8(vqtbl2q_u8(t, index.high))};
  }
  const uint8x16x4_t t = table_bytes(table);
  return {vreinterpretq_f32_u8(vqtbl4q_u8(t, index.low)), vreinterpretq_f32_u8(vqtbl4q_u8(t, index.high))};
}
// Of 16 doubles the table instructions take half at a time. Beyond its table tbl gives zero, and tbx what was there.
template <int D>
BO_INLINE Vec<double> lookup(const double* table, const Indices<double>& index) {
  const uint8x16x4_t t = table_bytes(table);
  uint8x16_t low = vqtbl4q_u8(t, index.low), high = vqtbl4q_u8(t, index.high);
  if (D == 16) {
    const uint8x16x4_t upper = table_bytes(table + 8);
    const uint8x16_t half = vdupq_n_u8(64);
    low = vqtbx4q_u8(low, upper, vsubq_u8(index.low, half));
    high = vqtbx4q_u8(high, upper, vsubq_u8(index.high, half));
  }
  return {vreinterpretq_f64_u8(low), vreinterpretq_f64_u8(high)};
}
BO_INLINE void load3(const float* p, Vec<float>& a, Vec<float>& b, Vec<float>& c) {
  const float32x4x3_t low = vld3q_f32(p), high = vld3q_f32(p + 12);
  a = {low.val[0], high.val[0]};
  b = {low.val[1], high.val[1]};
  c = {low.val[2], high.val[2]};
}
BO_INLINE void load3(const double* p, Vec<double>& a, Vec<double>& b, Vec<double>& c) {
  const float64x2x3_t low = vld3q_f64(p), high = vld3q_f64(p + 6);
  a = {low.val[0], high.val[0]};
  b = {low.val[1], high.val[1]};
  c = {low.val[2], high.val[2]};
}
BO_INLINE void store3(float* p, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
  const float32x4x3_t low = {{a.low, b.low, c.low}}, high = {{a.high, b.high, c.high}};
  vst3q_f32(p, low);
  vst3q_f32(p + 12, high);
}
BO_INLINE void store3(double* p, const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
  const float64x2x3_t low = {{a.low, b.low, c.low}}, high = {{a.high, b.high, c.high}};
  vst3q_f64(p, low);
  vst3q_f64(p + 6, high);
}

#endif

// ---------------------------------------------------------------------------------------------------------------------
// Functions

template <class T>
BO_INLINE Vec<T> lerp(const Vec<T>& a, const Vec<T>& b, const Vec<T>& t) {
  return madd(t, b - a, a);
}

// How the numbers at a place are loaded and stored: a whole vector of them, or those that are left.
template <class T>
struct Whole {
  Vec<T> get(const T* p) const { return load(p); }
  void put(T* p, const Vec<T>& a) const { store(p, a); }
};
template <class T>
struct Part {
  int64_t n;
  Vec<T> get(const T* p) const { return load_part(p, n); }
  void put(T* p, const Vec<T>& a) const { store_part(p, a, n); }
};
// Calls f(first, lanes) for the vectors that n numbers make.
template <class T, class F>
BO_INLINE void for_vectors(int64_t n, F&& f) {
  int64_t first = 0;
  for (; first + Vec<T>::kLanes <= n; first += Vec<T>::kLanes) f(first, Whole<T>());
  if (first < n) f(first, Part<T>{n - first});
}

// 1 / (1 + e^−v). e^x = 2^n·e^r with r = x − n·ln 2, |r| ≤ ½ ln 2, whose Taylor series is cut where its rest is below
// the type's rounding. Beyond the type's exponents e^x is infinite, or does not count beside 1.
template <class T>
BO_INLINE Vec<T> sigmoid(const Vec<T>& v) {
  constexpr bool kSingle = sizeof(T) == 4;
  constexpr int kTerms = kSingle ? 7 : 13;
  const Vec<T> most = broadcast(kSingle ? T(104) : T(746)), least = broadcast(T(0)) - most, one = broadcast(T(1));
  const Vec<T> below = where_greater(v, most, most, v), x = broadcast(T(0)) - where_greater(least, below, least, below);
  // Adding 1.5·2^(digits) leaves no room for a fraction.
  const Vec<T> magic = broadcast(kSingle ? T(12582912.0) : T(6755399441055744.0));
  const Vec<T> n = x * broadcast(T(1.4426950408889634074)) + magic - magic;
  // ln 2 in two parts, the first with digits to spare for n.
  const Vec<T> high = broadcast(kSingle ? T(0.693359375) : T(0.693147180369123816490));
  const Vec<T> low = broadcast(kSingle ? T(-2.12194440054690583e-4) : T(1.90821492927058770002e-10));
  const Vec<T> r = (x - n * high) - n * low;
  T factor = T(1);
  for (int k = 2; k <= kTerms; ++k) factor = factor / T(k);
  Vec<T> series = broadcast(factor);
  for (int k = kTerms; k > 0; --k) {
    factor = factor * T(k);
    series = madd(series, r, broadcast(factor));
  }
  // In two steps, as 2^n alone may be beyond the exponents while the product is not.
  const Vec<T> half = n * broadcast(T(0.5)) + magic - magic;
  return one / (one + times_power(times_power(series, half), n - half));
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
