// The vector wrapper: what kernels say instead of intrinsics.
//
// Vec<T> holds kLanes numbers; Indices<T> as many small integers. The general form is plain loops over an array, which
// any compiler takes; an instruction set specialises what it has. A kernel written over Vec runs on all of them.
#pragma once

#include <string.h>

#include "../formulas.h"

#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512)
#include <immintrin.h>
// g++ would load vectors that are blended several times from memory for every blend.
#define BO_IN_REGISTERS(x, y, z) asm("" : "+v"(x), "+v"(y), "+v"(z))
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
  memcpy(r.v, p, sizeof r.v);  // p need not be aligned
  return r;
}
template <class T>
BO_INLINE void store(T* p, const Vec<T>& a) {
  memcpy(p, a.v, sizeof a.v);
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
// a where x > y, 0 elsewhere
template <class T>
BO_INLINE Vec<T> where_greater(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a) {
  return where_greater(x, y, a, Vec<T>{});
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
// a clamped to [0, most]; NaN becomes 0
template <class T>
BO_INLINE Vec<T> clamp(const Vec<T>& a, const Vec<T>& most) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] > T(0) ? (a.v[l] < most.v[l] ? a.v[l] : most.v[l]) : T(0);
  return r;
}
// x where 0 < a < most, 0 elsewhere
template <class T>
BO_INLINE Vec<T> where_inside(const Vec<T>& a, const Vec<T>& most, const Vec<T>& x) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] > T(0) && a.v[l] < most.v[l] ? x.v[l] : T(0);
  return r;
}
// Numbers ≥ 0 without their fractions, and back
template <class T>
BO_INLINE Indices<T> truncated(const Vec<T>& a) {
  Indices<T> r;
  BO_LANES r.v[l] = static_cast<int32_t>(a.v[l]);
  return r;
}
template <class T>
BO_INLINE Vec<T> to_numbers(const Indices<T>& a) {
  Vec<T> r;
  BO_LANES r.v[l] = static_cast<T>(a.v[l]);
  return r;
}
template <class T>
BO_INLINE void store_indices(int32_t* p, const Indices<T>& a) {
  BO_LANES p[l] = a.v[l];
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
  BO_LANES to[l] = madd(a.v[l], weight, to[l]);
}
// The second argument only says which T.
template <class T>
BO_INLINE Indices<T> load_indices(const int32_t* p, T) {
  Indices<T> r;
  BO_LANES r.v[l] = p[l];
  return r;
}
// How deep a grid is looked up in registers, where that is faster than fetching a pixel's cells: 16 cells, or none.
template <class T>
constexpr int kTableDepth = 16;
// Whether HDRnet's matrices are applied faster by fetching cells even so.
template <class T>
constexpr bool kFetchesMatrices = kTableDepth<T> == 0;
// From how many knots on it is faster to search a curve's piece than to add up its knots.
template <class T>
constexpr int kSearchedKnots = 8;
constexpr int kNever = 1 << 30;
// From how many on their gradients are made of sums for each place among them.
template <class T>
constexpr int kSortedKnots = kSearchedKnots<T> < 10 ? kSearchedKnots<T> : 10;
// How many of a curve's 16 knots are added up in the piece that a search ends at: more make smaller tables.
template <class T>
constexpr int kKnotsInPiece = 1;
// Tables of 8 numbers that a register holds, side by side; other_table() makes a table's index one into the second.
template <class T>
constexpr int kTablesInRegister = 1;
// table[index], of a table of D = 8 or 16 numbers
template <int D, class T>
BO_INLINE Vec<T> lookup(const T* table, const Indices<T>& index) {
  Vec<T> r;
  BO_LANES r.v[l] = table[index.v[l]];
  return r;
}
// kLanes pixels of three interleaved channels to a vector a channel, and back
template <class T>
BO_INLINE void deinterleave(Vec<T>* v) {
  T numbers[3 * Vec<T>::kLanes];
  for (int c = 0; c < 3; ++c) store(numbers + c * Vec<T>::kLanes, v[c]);
  for (int c = 0; c < 3; ++c) BO_LANES v[c].v[l] = numbers[3 * l + c];
}
template <class T>
BO_INLINE void interleave(Vec<T>* v) {
  T numbers[3 * Vec<T>::kLanes];
  for (int c = 0; c < 3; ++c) BO_LANES numbers[3 * l + c] = v[c].v[l];
  for (int c = 0; c < 3; ++c) v[c] = load(numbers + c * Vec<T>::kLanes);
}
// Vector `v` of p[0], p[1], p[2], 1, p[0], …
template <class T>
BO_INLINE Vec<T> repeat3_one(const T* p, int v) {
  Vec<T> r;
  BO_LANES {
    const int column = (v * Vec<T>::kLanes + l) % 4;
    r.v[l] = column < 3 ? p[column] : T(1);
  }
  return r;
}
// Vector `v` of p[0] four times, p[1] four times, p[2] four times, zeros
template <class T>
BO_INLINE Vec<T> spread3(const T* p, int v) {
  Vec<T> r;
  BO_LANES {
    const int group = (v * Vec<T>::kLanes + l) / 4;
    r.v[l] = group < 3 ? p[group] : T(0);
  }
  return r;
}
// Vector `v` of p[0], …, p[n − 1], zeros up to four, p[0], …
template <class T>
BO_INLINE Vec<T> repeat4(const T* p, int64_t n, int v) {
  Vec<T> r;
  BO_LANES {
    const int column = (v * Vec<T>::kLanes + l) % 4;
    r.v[l] = column < n ? p[column] : T(0);
  }
  return r;
}
// Vector `v` of p[0] four times, p[1] four times, …; no more is read than it holds
template <class T>
BO_INLINE Vec<T> spread4(const T* p, int v) {
  Vec<T> r;
  BO_LANES r.v[l] = p[(v * Vec<T>::kLanes + l) / 4];
  return r;
}
// Of four columns of four numbers, one after another: c3 + c0·p[0] + c1·p[1] + c2·p[2], but for its last number
template <class T>
BO_INLINE void store_affine3(const Vec<T>* columns, const T* p, T* to) {
  T numbers[16], sum[3];
  for (int i = 0; i < 16; i += Vec<T>::kLanes) store(numbers + i, columns[i / Vec<T>::kLanes]);
  for (int i = 0; i < 3; ++i) {
    sum[i] = numbers[12 + i];
    for (int j = 0; j < 3; ++j) sum[i] = madd(numbers[4 * j + i], p[j], sum[i]);
  }
  for (int i = 0; i < 3; ++i) to[i] = sum[i];
}
// Of rows of four numbers, a vector of a few rows or a row of a few vectors: the sums of the first three columns
template <class T>
BO_INLINE void store_columns3(const Vec<T>* rows, T* to) {
  constexpr int kLanes = Vec<T>::kLanes, kNumbers = kLanes < 4 ? 4 : kLanes;
  T numbers[kNumbers];
  for (int i = 0; i < kNumbers; i += kLanes) store(numbers + i, rows[i / kLanes]);
  for (int j = 0; j < 3; ++j) {
    to[j] = numbers[j];
    for (int i = j + 4; i < kNumbers; i += 4) to[j] += numbers[i];
  }
}
// Lane l of the four vectors to to[4l], …, to[4l + 3]
template <class T>
BO_INLINE void store_fours(T* to, const Vec<T>& a, const Vec<T>& b, const Vec<T>& c, const Vec<T>& d) {
  BO_LANES {
    to[4 * l] = a.v[l];
    to[4 * l + 1] = b.v[l];
    to[4 * l + 2] = c.v[l];
    to[4 * l + 3] = d.v[l];
  }
}
// And back: lane l of v[j] is p[l * pitch + j].
template <class T>
BO_INLINE void load_fours(const T* p, int64_t pitch, Vec<T>* v) {
  for (int j = 0; j < 4; ++j) BO_LANES v[j].v[l] = p[l * pitch + j];
}
// Numbers in a storage format of formulas.h, one after another
template <class Format, class T = float>
BO_INLINE Vec<T> load_as(Format, const char* p) {
  Vec<T> r;
  BO_LANES {
    typename Format::Bits bits;
    memcpy(&bits, p + l * static_cast<int>(sizeof bits), sizeof bits);
    r.v[l] = Format::value(bits);
  }
  return r;
}
template <class Format, class T>
BO_INLINE void store_as(Format, char* p, const Vec<T>& a) {
  BO_LANES {
    const typename Format::Bits bits = Format::bits(a.v[l]);
    memcpy(p + l * static_cast<int>(sizeof bits), &bits, sizeof bits);
  }
}
// A vector's numbers as those of vectors of another type, one after another
template <class T>
BO_INLINE void widen(const Vec<T>& a, Vec<T>* v) {
  v[0] = a;
}
template <class From, class To>
BO_INLINE void widen(const Vec<From>& a, Vec<To>* v) {
  for (int l = 0; l < Vec<From>::kLanes; ++l) v[l / Vec<To>::kLanes].v[l % Vec<To>::kLanes] = static_cast<To>(a.v[l]);
}
// i + Bit where x > y, else i, which does not have that bit
template <int Bit, class T>
BO_INLINE Indices<T> descend(const Indices<T>& i, const Vec<T>& x, const Vec<T>& y) {
  Indices<T> r;
  BO_LANES r.v[l] = i.v[l] + (x.v[l] > y.v[l] ? Bit : 0);
  return r;
}
// The second argument only says which T.
template <class T>
BO_INLINE Indices<T> broadcast_index(int32_t i, T) {
  Indices<T> r;
  BO_LANES r.v[l] = i;
  return r;
}
#undef BO_LANES

#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512)
// d + a·p[0] + b·p[1] + c·p[2]
BO_INLINE __m256d affine(__m256d a, __m256d b, __m256d c, __m256d d, const double* p) {
  const __m256d sum = _mm256_fmadd_pd(b, _mm256_set1_pd(p[1]), _mm256_fmadd_pd(a, _mm256_set1_pd(p[0]), d));
  return _mm256_fmadd_pd(c, _mm256_set1_pd(p[2]), sum);
}
#endif

// ---------------------------------------------------------------------------------------------------------------------
// AVX-512

#if defined(BO_SIMD_AVX512)

template <>
struct Vec<float> {
  static constexpr int kLanes = 16;
  __m512 v;
};
template <>
struct Indices<float> {
  __m512i v;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = 8;
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
// max's and min's second operand is what they return beside NaN.
BO_INLINE Vec<float> clamp(const Vec<float>& a, const Vec<float>& most) {
  return {_mm512_min_ps(_mm512_max_ps(a.v, _mm512_setzero_ps()), most.v)};
}
BO_INLINE Vec<double> clamp(const Vec<double>& a, const Vec<double>& most) {
  return {_mm512_min_pd(_mm512_max_pd(a.v, _mm512_setzero_pd()), most.v)};
}
BO_INLINE Vec<float> where_inside(const Vec<float>& a, const Vec<float>& most, const Vec<float>& x) {
  const __mmask16 above = _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_GT_OQ);
  return {_mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(above, a.v, most.v, _CMP_LT_OQ), x.v)};
}
BO_INLINE Vec<double> where_inside(const Vec<double>& a, const Vec<double>& most, const Vec<double>& x) {
  const __mmask8 above = _mm512_cmp_pd_mask(a.v, _mm512_setzero_pd(), _CMP_GT_OQ);
  return {_mm512_maskz_mov_pd(_mm512_mask_cmp_pd_mask(above, a.v, most.v, _CMP_LT_OQ), x.v)};
}
BO_INLINE Indices<float> truncated(const Vec<float>& a) { return {_mm512_cvttps_epi32(a.v)}; }
BO_INLINE Indices<double> truncated(const Vec<double>& a) { return {_mm512_cvttpd_epi64(a.v)}; }
BO_INLINE Vec<float> to_numbers(const Indices<float>& a) { return {_mm512_cvtepi32_ps(a.v)}; }
BO_INLINE Vec<double> to_numbers(const Indices<double>& a) { return {_mm512_cvtepi64_pd(a.v)}; }
BO_INLINE void store_indices(int32_t* p, const Indices<float>& a) { _mm512_storeu_si512(p, a.v); }
BO_INLINE void store_indices(int32_t* p, const Indices<double>& a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi64_epi32(a.v));
}
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  _mm512_storeu_pd(to, _mm512_fmadd_pd(a.v, _mm512_set1_pd(weight), _mm512_loadu_pd(to)));
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
BO_INLINE Indices<float> other_table(const Indices<float>& i) { return {_mm512_add_epi32(i.v, _mm512_set1_epi32(8))}; }
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  return {_mm512_permutexvar_ps(index.v, _mm512_loadu_ps(table))};
}
template <int D>
BO_INLINE Vec<double> lookup(const double* table, const Indices<double>& index) {
  if (D == 8) return {_mm512_permutexvar_pd(index.v, _mm512_loadu_pd(table))};
  return {_mm512_permutex2var_pd(_mm512_loadu_pd(table), index.v, _mm512_loadu_pd(table + 8))};
}
// Element i of channel c stands at 3i + c, and 3 and 16 have no common divisor: the channel's elements have different
// lanes in the three vectors, so that a blend of these and one permutation gather them.
BO_INLINE void deinterleave(Vec<float>* v) {
  __m512 x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  const __m512i lane_a = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13);
  const __m512i lane_b = _mm512_setr_epi32(1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14);
  const __m512i lane_c = _mm512_setr_epi32(2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15);
  // Lanes 0, 3, 6, … of a vector: 0x9249; 1, 4, …: 0x2492; 2, 5, …: 0x4924.
  v[0].v = _mm512_permutexvar_ps(lane_a, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x4924, y), 0x2492, z));
  v[1].v = _mm512_permutexvar_ps(lane_b, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x9249, y), 0x4924, z));
  v[2].v = _mm512_permutexvar_ps(lane_c, _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x2492, y), 0x9249, z));
}
BO_INLINE void interleave(Vec<float>* v) {
  const __m512i from_a = _mm512_setr_epi32(0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10, 5);
  const __m512i from_b = _mm512_setr_epi32(5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15, 10);
  const __m512i from_c = _mm512_setr_epi32(10, 5, 0, 11, 6, 1, 12, 7, 2, 13, 8, 3, 14, 9, 4, 15);
  const __m512 x = _mm512_permutexvar_ps(from_a, v[0].v), y = _mm512_permutexvar_ps(from_b, v[1].v),
               z = _mm512_permutexvar_ps(from_c, v[2].v);
  v[0].v = _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x2492, y), 0x4924, z);
  v[1].v = _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x9249, y), 0x2492, z);
  v[2].v = _mm512_mask_mov_ps(_mm512_mask_mov_ps(x, 0x4924, y), 0x9249, z);
}
BO_INLINE void deinterleave(Vec<double>* v) {
  __m512d x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  const __m512i lane_a = _mm512_setr_epi64(0, 3, 6, 1, 4, 7, 2, 5);
  const __m512i lane_b = _mm512_setr_epi64(1, 4, 7, 2, 5, 0, 3, 6);
  const __m512i lane_c = _mm512_setr_epi64(2, 5, 0, 3, 6, 1, 4, 7);
  v[0].v = _mm512_permutexvar_pd(lane_a, _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x92, y), 0x24, z));
  v[1].v = _mm512_permutexvar_pd(lane_b, _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x24, y), 0x49, z));
  v[2].v = _mm512_permutexvar_pd(lane_c, _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x49, y), 0x92, z));
}
BO_INLINE void interleave(Vec<double>* v) {
  const __m512i from_a = _mm512_setr_epi64(0, 3, 6, 1, 4, 7, 2, 5);
  const __m512i from_b = _mm512_setr_epi64(5, 0, 3, 6, 1, 4, 7, 2);
  const __m512i from_c = _mm512_setr_epi64(2, 5, 0, 3, 6, 1, 4, 7);
  const __m512d x = _mm512_permutexvar_pd(from_a, v[0].v), y = _mm512_permutexvar_pd(from_b, v[1].v),
                z = _mm512_permutexvar_pd(from_c, v[2].v);
  v[0].v = _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x92, y), 0x24, z);
  v[1].v = _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x24, y), 0x49, z);
  v[2].v = _mm512_mask_mov_pd(_mm512_mask_mov_pd(x, 0x49, y), 0x92, z);
}
BO_INLINE Indices<float> broadcast_index(int32_t i, float) { return {_mm512_set1_epi32(i)}; }
BO_INLINE Indices<double> broadcast_index(int32_t i, double) { return {_mm512_set1_epi64(i)}; }
template <int Bit>
BO_INLINE Indices<float> descend(const Indices<float>& i, const Vec<float>& x, const Vec<float>& y) {
  return {_mm512_mask_or_epi32(i.v, _mm512_cmp_ps_mask(x.v, y.v, _CMP_GT_OQ), i.v, _mm512_set1_epi32(Bit))};
}
template <int Bit>
BO_INLINE Indices<double> descend(const Indices<double>& i, const Vec<double>& x, const Vec<double>& y) {
  return {_mm512_mask_or_epi64(i.v, _mm512_cmp_pd_mask(x.v, y.v, _CMP_GT_OQ), i.v, _mm512_set1_epi64(Bit))};
}
// v/top to the last bit: a product with 1/top, corrected by what is left of v.
BO_INLINE __m512 over(__m512 v, float top) {
  const __m512 r = _mm512_set1_ps(1.0f / top), q = _mm512_mul_ps(v, r);
  return _mm512_fmadd_ps(_mm512_fnmadd_ps(q, _mm512_set1_ps(top), v), r, q);
}
// NaN becomes max's second operand.
BO_INLINE __m512i whole(__m512 v, float top) {
  const __m512 t = _mm512_set1_ps(top);
  return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(v, t), _mm512_setzero_ps()), t));
}
BO_INLINE __m256i sixteen_halves(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
BO_INLINE void store_halves(char* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
BO_INLINE Vec<float> load_as(Levels8, const char* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}
BO_INLINE Vec<float> load_as(U8, const char* p) { return {over(load_as(Levels8(), p).v, 255.0f)}; }
BO_INLINE void store_as(U8, char* p, const Vec<float>& a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(whole(a.v, 255.0f)));
}
BO_INLINE Vec<float> load_as(Levels16, const char* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sixteen_halves(p)))};
}
BO_INLINE Vec<float> load_as(U16, const char* p) { return {over(load_as(Levels16(), p).v, 65535.0f)}; }
BO_INLINE void store_as(U16, char* p, const Vec<float>& a) {
  store_halves(p, _mm512_cvtepi32_epi16(whole(a.v, 65535.0f)));
}
BO_INLINE Vec<float> load_as(F16, const char* p) { return {_mm512_cvtph_ps(sixteen_halves(p))}; }
BO_INLINE void store_as(F16, char* p, const Vec<float>& a) {
  store_halves(p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
BO_INLINE Vec<float> load_as(BF16, const char* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen_halves(p)), 16))};
}
BO_INLINE void store_as(BF16, char* p, const Vec<float>& a) {
  const __m512i u = _mm512_castps_si512(a.v), high = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  store_halves(p, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}
BO_INLINE Vec<float> repeat3_one(const float* p, int) {
  const __m128 one = _mm_set1_ps(1.0f);
  return {_mm512_broadcast_f32x4(_mm_mask_loadu_ps(one, 7, p))};
}
BO_INLINE Vec<double> repeat3_one(const double* p, int) {
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
BO_INLINE void store_columns3(const Vec<float>* rows, float* to) {
  const __m256 two = _mm256_add_ps(_mm512_castps512_ps256(rows->v), _mm512_extractf32x8_ps(rows->v, 1));
  _mm_mask_storeu_ps(to, 7, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}
BO_INLINE void store_columns3(const Vec<double>* rows, double* to) {
  const __m512d v = rows->v;
  _mm256_mask_storeu_pd(to, 7, _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1)));
}
// The transpose of the 4 × 4 numbers that lie in each lane of 128 bits of four vectors
BO_INLINE void transpose_lanes(__m512* v) {
  const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1])),
                ab2 = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
  const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3])),
                cd2 = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
  v[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
  v[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
  v[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab2, cd2));
  v[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab2, cd2));
}
// In each lane the numbers that belong together, then lanes to their places.
BO_INLINE void store_fours(float* to, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c,
                           const Vec<float>& d) {
  __m512 v[4] = {a.v, b.v, c.v, d.v};
  transpose_lanes(v);
  const __m512 xy = _mm512_shuffle_f32x4(v[0], v[1], 0x44), xy2 = _mm512_shuffle_f32x4(v[0], v[1], 0xee);
  const __m512 zw = _mm512_shuffle_f32x4(v[2], v[3], 0x44), zw2 = _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  _mm512_storeu_ps(to, _mm512_shuffle_f32x4(xy, zw, 0x88));
  _mm512_storeu_ps(to + 16, _mm512_shuffle_f32x4(xy, zw, 0xdd));
  _mm512_storeu_ps(to + 32, _mm512_shuffle_f32x4(xy2, zw2, 0x88));
  _mm512_storeu_ps(to + 48, _mm512_shuffle_f32x4(xy2, zw2, 0xdd));
}
BO_INLINE void store_fours(double* to, const Vec<double>& a, const Vec<double>& b, const Vec<double>& c,
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
BO_INLINE void load_fours(const float* p, int64_t pitch, Vec<float>* v) {
  __m512 x[4];
  for (int l = 0; l < 4; ++l) {
    const float* const q = p + l * pitch;
    const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(q)), _mm_loadu_ps(q + 4 * pitch), 1);
    const __m512 three = _mm512_insertf32x4(two, _mm_loadu_ps(q + 8 * pitch), 2);
    x[l] = _mm512_insertf32x4(three, _mm_loadu_ps(q + 12 * pitch), 3);
  }
  transpose_lanes(x);
  for (int j = 0; j < 4; ++j) v[j].v = x[j];
}
BO_INLINE void load_fours(const double* p, int64_t pitch, Vec<double>* v) {
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

// ---------------------------------------------------------------------------------------------------------------------
// AVX2

#elif defined(BO_SIMD_AVX2)

template <>
struct Vec<float> {
  static constexpr int kLanes = 8;
  __m256 v;
};
template <>
struct Indices<float> {
  __m256i v;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = 4;
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
// By halves, as some processors take tens of cycles for a masked store.
BO_INLINE void store_part(float* p, const Vec<float>& a, int64_t n) {
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
BO_INLINE void store_part(double* p, const Vec<double>& a, int64_t n) {
  __m128d rest = _mm256_castpd256_pd128(a.v);
  if (n & 2) {
    _mm_storeu_pd(p, rest);
    rest = _mm256_extractf128_pd(a.v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, rest);
}
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
BO_INLINE Vec<float> where_greater(const Vec<float>& x, const Vec<float>& y, const Vec<float>& a) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, y.v, _CMP_GT_OQ), a.v)};
}
BO_INLINE Vec<double> where_greater(const Vec<double>& x, const Vec<double>& y, const Vec<double>& a) {
  return {_mm256_and_pd(_mm256_cmp_pd(x.v, y.v, _CMP_GT_OQ), a.v)};
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
// max's and min's second operand is what they return beside NaN.
BO_INLINE Vec<float> clamp(const Vec<float>& a, const Vec<float>& most) {
  return {_mm256_min_ps(_mm256_max_ps(a.v, _mm256_setzero_ps()), most.v)};
}
BO_INLINE Vec<double> clamp(const Vec<double>& a, const Vec<double>& most) {
  return {_mm256_min_pd(_mm256_max_pd(a.v, _mm256_setzero_pd()), most.v)};
}
BO_INLINE Vec<float> where_inside(const Vec<float>& a, const Vec<float>& most, const Vec<float>& x) {
  const __m256 above = _mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_GT_OQ);
  return {_mm256_and_ps(_mm256_and_ps(above, _mm256_cmp_ps(a.v, most.v, _CMP_LT_OQ)), x.v)};
}
BO_INLINE Vec<double> where_inside(const Vec<double>& a, const Vec<double>& most, const Vec<double>& x) {
  const __m256d above = _mm256_cmp_pd(a.v, _mm256_setzero_pd(), _CMP_GT_OQ);
  return {_mm256_and_pd(_mm256_and_pd(above, _mm256_cmp_pd(a.v, most.v, _CMP_LT_OQ)), x.v)};
}
BO_INLINE Indices<float> truncated(const Vec<float>& a) { return {_mm256_cvttps_epi32(a.v)}; }
BO_INLINE Indices<double> truncated(const Vec<double>& a) { return {_mm256_cvttpd_epi32(a.v)}; }
BO_INLINE Vec<float> to_numbers(const Indices<float>& a) { return {_mm256_cvtepi32_ps(a.v)}; }
BO_INLINE Vec<double> to_numbers(const Indices<double>& a) { return {_mm256_cvtepi32_pd(a.v)}; }
BO_INLINE void store_indices(int32_t* p, const Indices<float>& a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
BO_INLINE void store_indices(int32_t* p, const Indices<double>& a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a.v);
}
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  _mm256_storeu_pd(to, _mm256_fmadd_pd(a.v, _mm256_set1_pd(weight), _mm256_loadu_pd(to)));
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
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index.v);
  if (D == 8) return {low};
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index.v);
  return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index.v, 28)))};
}
// Four doubles to a register make a lookup of a few permutations, or a gather, which takes as long.
template <>
inline constexpr int kTableDepth<double> = 0;
// Applying takes 48 permutations for eight pixels, or 16 loads for two. (Differentiating has more to do with them.)
template <>
inline constexpr bool kFetchesMatrices<float> = true;
// A lookup in a table of 16 is two permutations and a choice. In tables of 8 a search takes as long as 12 knots on
// Zen 3; on Intel, where sums have fewer ports, as 7 by their number: 10 costs neither much.
template <>
inline constexpr int kKnotsInPiece<float> = 2;
template <>
inline constexpr int kSearchedKnots<float> = 10;
template <>
inline constexpr int kSearchedKnots<double> = kNever;
template <int Bit>
BO_INLINE Indices<float> descend(const Indices<float>& i, const Vec<float>& x, const Vec<float>& y) {
  const __m256 greater = _mm256_cmp_ps(x.v, y.v, _CMP_GT_OQ);
  return {_mm256_or_si256(i.v, _mm256_and_si256(_mm256_castps_si256(greater), _mm256_set1_epi32(Bit)))};
}
BO_INLINE Indices<float> broadcast_index(int32_t i, float) { return {_mm256_set1_epi32(i)}; }
// As with AVX-512: three and eight have no common divisor either.
BO_INLINE void deinterleave(Vec<float>* v) {
  __m256 x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  const __m256i lane_a = _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5);
  const __m256i lane_b = _mm256_setr_epi32(1, 4, 7, 2, 5, 0, 3, 6);
  const __m256i lane_c = _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7);
  // Lanes 0, 3, 6: 0x49; 1, 4, 7: 0x92; 2, 5: 0x24.
  v[0].v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x92), z, 0x24), lane_a);
  v[1].v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x24), z, 0x49), lane_b);
  v[2].v = _mm256_permutevar8x32_ps(_mm256_blend_ps(_mm256_blend_ps(x, y, 0x49), z, 0x92), lane_c);
}
BO_INLINE void interleave(Vec<float>* v) {
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
BO_INLINE void deinterleave(Vec<double>* v) {
  __m256d x = v[0].v, y = v[1].v, z = v[2].v;
  BO_IN_REGISTERS(x, y, z);
  // a0 a3 a2 a1, b1 b0 b3 b2, c2 c1 c0 c3
  v[0].v = _mm256_permute4x64_pd(_mm256_blend_pd(_mm256_blend_pd(x, y, 4), z, 2), 0x6c);
  v[1].v = _mm256_permute_pd(_mm256_blend_pd(_mm256_blend_pd(x, y, 9), z, 4), 5);
  v[2].v = _mm256_permute4x64_pd(_mm256_blend_pd(_mm256_blend_pd(x, y, 2), z, 9), 0xc6);
}
BO_INLINE void interleave(Vec<double>* v) {
  const __m256d x = _mm256_permute4x64_pd(v[0].v, 0x6c), y = _mm256_permute_pd(v[1].v, 5),
                z = _mm256_permute4x64_pd(v[2].v, 0xc6);
  v[0].v = _mm256_blend_pd(_mm256_blend_pd(x, y, 2), z, 4);
  v[1].v = _mm256_blend_pd(_mm256_blend_pd(x, y, 9), z, 2);
  v[2].v = _mm256_blend_pd(_mm256_blend_pd(x, y, 4), z, 9);
}
// v/top to the last bit: a product with 1/top, corrected by what is left of v.
BO_INLINE __m256 over(__m256 v, float top) {
  const __m256 r = _mm256_set1_ps(1.0f / top), q = _mm256_mul_ps(v, r);
  return _mm256_fmadd_ps(_mm256_fnmadd_ps(q, _mm256_set1_ps(top), v), r, q);
}
// NaN becomes max's second operand.
BO_INLINE __m256i whole(__m256 v, float top) {
  const __m256 t = _mm256_set1_ps(top);
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v, t), _mm256_setzero_ps()), t));
}
BO_INLINE __m128i eight_halves(const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
BO_INLINE void store_halves(char* p, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
// The low halves of eight numbers below 2^16
BO_INLINE __m128i low_halves(__m256i v) {
  return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}
BO_INLINE Vec<float> load_as(Levels8, const char* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))};
}
BO_INLINE Vec<float> load_as(U8, const char* p) { return {over(load_as(Levels8(), p).v, 255.0f)}; }
BO_INLINE void store_as(U8, char* p, const Vec<float>& a) {
  const __m128i halves = low_halves(whole(a.v, 255.0f));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(halves, halves));
}
BO_INLINE Vec<float> load_as(Levels16, const char* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(eight_halves(p)))};
}
BO_INLINE Vec<float> load_as(U16, const char* p) { return {over(load_as(Levels16(), p).v, 65535.0f)}; }
BO_INLINE void store_as(U16, char* p, const Vec<float>& a) { store_halves(p, low_halves(whole(a.v, 65535.0f))); }
BO_INLINE Vec<float> load_as(F16, const char* p) { return {_mm256_cvtph_ps(eight_halves(p))}; }
BO_INLINE void store_as(F16, char* p, const Vec<float>& a) {
  store_halves(p, _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
BO_INLINE Vec<float> load_as(BF16, const char* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight_halves(p)), 16))};
}
BO_INLINE void store_as(BF16, char* p, const Vec<float>& a) {
  const __m256i u = _mm256_castps_si256(a.v), high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  store_halves(p, low_halves(_mm256_blendv_epi8(rounded, quiet, nan)));
}
BO_INLINE Vec<float> repeat3_one(const float* p, int) {
  const __m128 first = _mm_maskload_ps(p, _mm256_castsi256_si128(lane_mask(3)));
  const __m128 four = _mm_blend_ps(first, _mm_set1_ps(1.0f), 8);
  return {_mm256_set_m128(four, four)};
}
BO_INLINE Vec<double> repeat3_one(const double* p, int) {
  return {_mm256_blend_pd(_mm256_maskload_pd(p, lane_mask(6)), _mm256_set1_pd(1.0), 8)};
}
BO_INLINE Vec<float> spread3(const float* p, int v) {
  if (v > 0) return {_mm256_setr_m128(_mm_set1_ps(p[2]), _mm_setzero_ps())};
  return {_mm256_setr_m128(_mm_set1_ps(p[0]), _mm_set1_ps(p[1]))};
}
BO_INLINE Vec<double> spread3(const double* p, int v) { return {_mm256_set1_pd(p[v])}; }
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
// c3 + c1·p[1], then c2·p[2] + c0·p[0]: their sum is what is wanted.
BO_INLINE __m256 affine_halves(const Vec<float>* columns, __m256 first, __m256 second) {
  return _mm256_fmadd_ps(columns[0].v, first, _mm256_mul_ps(columns[1].v, second));
}
BO_INLINE void store_three(float* p, __m128 v) { store_part(p, Vec<float>{_mm256_castps128_ps256(v)}, 3); }
BO_INLINE void store_affine3(const Vec<float>* columns, const float* p, float* to) {
  const __m256 first = _mm256_blend_ps(_mm256_set1_ps(p[0]), _mm256_set1_ps(p[1]), 0xf0);
  const __m256 second = _mm256_blend_ps(_mm256_set1_ps(p[2]), _mm256_set1_ps(1.0f), 0xf0);
  const __m256 v = affine_halves(columns, first, second);
  store_three(to, _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)));
}
BO_INLINE void store_affine3(const Vec<float>* a, const Vec<float>* b, const float* p, float* to) {
  // Numbers are spread from registers: a processor may broadcast one a cycle from memory. No load reads further.
  const __m256 x = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p)), one = _mm256_set1_ps(1.0f);
  const __m256 y = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p + 2));
  const __m256 v = affine_halves(a, _mm256_permutevar_ps(x, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)),
                                 _mm256_blend_ps(_mm256_permute_ps(x, 0xaa), one, 0xf0));
  const __m256 w = affine_halves(b, _mm256_permutevar_ps(y, _mm256_setr_epi32(1, 1, 1, 1, 2, 2, 2, 2)),
                                 _mm256_blend_ps(_mm256_permute_ps(y, 0xff), one, 0xf0));
  const __m256 sum = _mm256_add_ps(_mm256_blend_ps(v, w, 0xf0), _mm256_permute2f128_ps(v, w, 0x21));
  _mm_storeu_ps(to, _mm256_castps256_ps128(sum));  // and one number of the other pixel
  store_three(to + 3, _mm256_extractf128_ps(sum, 1));
}
BO_INLINE void store_affine3(const Vec<double>* columns, const double* p, double* to) {
  store_part(to, Vec<double>{affine(columns[0].v, columns[1].v, columns[2].v, columns[3].v, p)}, 3);
}
BO_INLINE void store_columns3(const Vec<float>* rows, float* to) {
  store_three(to, _mm_add_ps(_mm256_castps256_ps128(rows->v), _mm256_extractf128_ps(rows->v, 1)));
}
BO_INLINE void store_columns3(const Vec<double>* rows, double* to) { store_part(to, *rows, 3); }
// The transpose of the 4 × 4 numbers that lie in each half of four vectors; of four vectors of doubles.
BO_INLINE void transpose_halves(__m256* v) {
  const __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1])),
                ab2 = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
  const __m256d cd = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3])),
                cd2 = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
  v[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
  v[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
  v[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab2, cd2));
  v[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab2, cd2));
}
BO_INLINE void transpose(__m256d* v) {
  const __m256d ab = _mm256_unpacklo_pd(v[0], v[1]), ab2 = _mm256_unpackhi_pd(v[0], v[1]);
  const __m256d cd = _mm256_unpacklo_pd(v[2], v[3]), cd2 = _mm256_unpackhi_pd(v[2], v[3]);
  v[0] = _mm256_permute2f128_pd(ab, cd, 0x20);
  v[1] = _mm256_permute2f128_pd(ab2, cd2, 0x20);
  v[2] = _mm256_permute2f128_pd(ab, cd, 0x31);
  v[3] = _mm256_permute2f128_pd(ab2, cd2, 0x31);
}
// In each half the numbers that belong together, then halves to their places.
BO_INLINE void store_fours(float* to, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c,
                           const Vec<float>& d) {
  __m256 v[4] = {a.v, b.v, c.v, d.v};
  transpose_halves(v);
  _mm256_storeu_ps(to, _mm256_permute2f128_ps(v[0], v[1], 0x20));
  _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(v[2], v[3], 0x20));
  _mm256_storeu_ps(to + 16, _mm256_permute2f128_ps(v[0], v[1], 0x31));
  _mm256_storeu_ps(to + 24, _mm256_permute2f128_ps(v[2], v[3], 0x31));
}
BO_INLINE void store_fours(double* to, const Vec<double>& a, const Vec<double>& b, const Vec<double>& c,
                           const Vec<double>& d) {
  __m256d v[4] = {a.v, b.v, c.v, d.v};
  transpose(v);
  for (int l = 0; l < 4; ++l) _mm256_storeu_pd(to + 4 * l, v[l]);
}
BO_INLINE void load_fours(const float* p, int64_t pitch, Vec<float>* v) {
  __m256 x[4];
  for (int l = 0; l < 4; ++l) x[l] = _mm256_loadu2_m128(p + (l + 4) * pitch, p + l * pitch);
  transpose_halves(x);
  for (int j = 0; j < 4; ++j) v[j].v = x[j];
}
BO_INLINE void load_fours(const double* p, int64_t pitch, Vec<double>* v) {
  __m256d x[4];
  for (int l = 0; l < 4; ++l) x[l] = _mm256_loadu_pd(p + l * pitch);
  transpose(x);
  for (int j = 0; j < 4; ++j) v[j].v = x[j];
}

// ---------------------------------------------------------------------------------------------------------------------
// NEON (aarch64)

#elif defined(BO_SIMD_NEON)

// Two registers each: what lanes share, such as a lookup's table, is then loaded once for both, and there are registers
// enough.
template <>
struct Vec<float> {
  static constexpr int kLanes = 8;
  float32x4_t low, high;
};
template <>
struct Indices<float> {
  int32x4_t low, high;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = 4;
  float64x2_t low, high;
};
template <>
struct Indices<double> {
  int32x4_t v;
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
// This max is zero where an operand is a quiet NaN, and that is what min makes of any.
BO_INLINE Vec<float> clamp(const Vec<float>& a, const Vec<float>& most) {
  const float32x4_t zero = vdupq_n_f32(0.0f);
  return {vmaxnmq_f32(vminq_f32(a.low, most.low), zero), vmaxnmq_f32(vminq_f32(a.high, most.high), zero)};
}
BO_INLINE Vec<double> clamp(const Vec<double>& a, const Vec<double>& most) {
  const float64x2_t zero = vdupq_n_f64(0.0);
  return {vmaxnmq_f64(vminq_f64(a.low, most.low), zero), vmaxnmq_f64(vminq_f64(a.high, most.high), zero)};
}
BO_INLINE float32x4_t where_inside(float32x4_t a, float32x4_t most, float32x4_t x) {
  const uint32x4_t inside = vandq_u32(vcgtzq_f32(a), vcgtq_f32(most, a));
  return vreinterpretq_f32_u32(vandq_u32(inside, vreinterpretq_u32_f32(x)));
}
BO_INLINE float64x2_t where_inside(float64x2_t a, float64x2_t most, float64x2_t x) {
  const uint64x2_t inside = vandq_u64(vcgtzq_f64(a), vcgtq_f64(most, a));
  return vreinterpretq_f64_u64(vandq_u64(inside, vreinterpretq_u64_f64(x)));
}
BO_INLINE Vec<float> where_inside(const Vec<float>& a, const Vec<float>& most, const Vec<float>& x) {
  return {where_inside(a.low, most.low, x.low), where_inside(a.high, most.high, x.high)};
}
BO_INLINE Vec<double> where_inside(const Vec<double>& a, const Vec<double>& most, const Vec<double>& x) {
  return {where_inside(a.low, most.low, x.low), where_inside(a.high, most.high, x.high)};
}
BO_INLINE Indices<float> truncated(const Vec<float>& a) { return {vcvtq_s32_f32(a.low), vcvtq_s32_f32(a.high)}; }
// The low halves of four integers, of which nothing else matters
BO_INLINE int32x4_t narrow(int64x2_t low, int64x2_t high) {
  return vuzp1q_s32(vreinterpretq_s32_s64(low), vreinterpretq_s32_s64(high));
}
BO_INLINE Indices<double> truncated(const Vec<double>& a) {
  return {narrow(vcvtq_s64_f64(a.low), vcvtq_s64_f64(a.high))};
}
BO_INLINE Vec<float> to_numbers(const Indices<float>& a) { return {vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)}; }
BO_INLINE Vec<double> to_numbers(const Indices<double>& a) {
  return {vcvtq_f64_s64(vmovl_s32(vget_low_s32(a.v))), vcvtq_f64_s64(vmovl_high_s32(a.v))};
}
BO_INLINE void store_indices(int32_t* p, const Indices<float>& a) {
  vst1q_s32(p, a.low);
  vst1q_s32(p + 4, a.high);
}
BO_INLINE void store_indices(int32_t* p, const Indices<double>& a) { vst1q_s32(p, a.v); }
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  vst1q_f64(to, vfmaq_n_f64(vld1q_f64(to), a.low, weight));
  vst1q_f64(to + 2, vfmaq_n_f64(vld1q_f64(to + 2), a.high, weight));
}
BO_INLINE void widen(const Vec<float>& a, Vec<double>* v) {
  v[0] = {vcvt_f64_f32(vget_low_f32(a.low)), vcvt_high_f64_f32(a.low)};
  v[1] = {vcvt_f64_f32(vget_low_f32(a.high)), vcvt_high_f64_f32(a.high)};
}
BO_INLINE Indices<float> load_indices(const int32_t* p, float) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
BO_INLINE Indices<double> load_indices(const int32_t* p, double) { return {vld1q_s32(p)}; }
// The table instructions count a table's bytes: a lane's are 4k, …, 4k + 3; of doubles 8k, …, 8k + 7. Lookups with the
// same indices have these in common.
struct ByteIndices {
  uint8x16_t low, high;
};
BO_INLINE ByteIndices byte_indices(const Indices<float>& k) {
  const uint32x4_t first = vdupq_n_u32(0x03020100u), four = vdupq_n_u32(0x04040404u);
  return {vreinterpretq_u8_u32(vmlaq_u32(first, vreinterpretq_u32_s32(k.low), four)),
          vreinterpretq_u8_u32(vmlaq_u32(first, vreinterpretq_u32_s32(k.high), four))};
}
BO_INLINE ByteIndices byte_indices(const Indices<double>& k) {
  const uint8x16_t first = vreinterpretq_u8_u64(vdupq_n_u64(0x0706050403020100u));
  const uint32x4_t begin = vmulq_u32(vreinterpretq_u32_s32(k.v), vdupq_n_u32(0x08080808u));
  return {vaddq_u8(vreinterpretq_u8_u32(vzip1q_u32(begin, begin)), first),
          vaddq_u8(vreinterpretq_u8_u32(vzip2q_u32(begin, begin)), first)};
}
BO_INLINE uint8x16x4_t table_bytes(const void* table) { return vld1q_u8_x4(static_cast<const uint8_t*>(table)); }
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  const ByteIndices i = byte_indices(index);
  if (D == 8) {
    const uint8x16x2_t t = vld1q_u8_x2(reinterpret_cast<const uint8_t*>(table));
    return {vreinterpretq_f32_u8(vqtbl2q_u8(t, i.low)), vreinterpretq_f32_u8(vqtbl2q_u8(t, i.high))};
  }
  const uint8x16x4_t t = table_bytes(table);
  return {vreinterpretq_f32_u8(vqtbl4q_u8(t, i.low)), vreinterpretq_f32_u8(vqtbl4q_u8(t, i.high))};
}
// Of 16 doubles the table instructions take half at a time. Beyond its table tbl gives zero, and tbx what was there.
template <int D>
BO_INLINE Vec<double> lookup(const double* table, const Indices<double>& index) {
  const ByteIndices i = byte_indices(index);
  const uint8x16x4_t t = table_bytes(table);
  uint8x16_t low = vqtbl4q_u8(t, i.low), high = vqtbl4q_u8(t, i.high);
  if (D == 16) {
    const uint8x16x4_t upper = table_bytes(table + 8);
    const uint8x16_t half = vdupq_n_u8(64);
    low = vqtbx4q_u8(low, upper, vsubq_u8(i.low, half));
    high = vqtbx4q_u8(high, upper, vsubq_u8(i.high, half));
  }
  return {vreinterpretq_f64_u8(low), vreinterpretq_f64_u8(high)};
}
// Halves of two registers: the first one's low and the second one's high, or the other way round; both low, both high.
BO_INLINE float64x2_t low_high(float64x2_t a, float64x2_t b) { return vcopyq_laneq_f64(b, 0, a, 0); }
BO_INLINE float64x2_t high_low(float64x2_t a, float64x2_t b) { return vextq_f64(a, b, 1); }
BO_INLINE float32x4_t low_high(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(low_high(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
BO_INLINE float32x4_t high_low(float32x4_t a, float32x4_t b) { return vextq_f32(a, b, 2); }
BO_INLINE float32x4_t low_low(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
BO_INLINE float32x4_t high_high(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
// a0 b1 a2 b3
BO_INLINE float32x4_t even_odd(float32x4_t a, float32x4_t b) {
  return vbslq_f32(vreinterpretq_u32_u64(vdupq_n_u64(0xffffffffu)), a, b);
}
// x: a0 b0 c0 a1, y: b1 c1 a2 b2, z: c2 a3 b3 c3. Their halves are paired so that equal lanes hold equal pixels.
BO_INLINE void deinterleave(float32x4_t x, float32x4_t y, float32x4_t z, float32x4_t& a, float32x4_t& b,
                            float32x4_t& c) {
  const float32x4_t ab = low_high(x, y), ca = high_low(x, z), bc = low_high(y, z);  // a0 b0 a2 b2, c0 a1 …, b1 c1 …
  a = even_odd(ab, ca);
  b = vtrn1q_f32(vrev64q_f32(ab), bc);
  c = even_odd(ca, bc);
}
BO_INLINE void interleave(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t& x, float32x4_t& y, float32x4_t& z) {
  const float32x4_t ab = vtrn1q_f32(a, b), ca = even_odd(c, a), bc = vtrn2q_f32(b, c);
  x = low_low(ab, ca);
  y = low_high(bc, ab);
  z = high_high(ca, bc);
}
BO_INLINE void deinterleave(Vec<float>* v) {
  const Vec<float> x = v[0], y = v[1], z = v[2];
  deinterleave(x.low, x.high, y.low, v[0].low, v[1].low, v[2].low);
  deinterleave(y.high, z.low, z.high, v[0].high, v[1].high, v[2].high);
}
BO_INLINE void interleave(Vec<float>* v) {
  const Vec<float> a = v[0], b = v[1], c = v[2];
  interleave(a.low, b.low, c.low, v[0].low, v[0].high, v[1].low);
  interleave(a.high, b.high, c.high, v[1].high, v[2].low, v[2].high);
}
// x: a0 b0, y: c0 a1, z: b1 c1
BO_INLINE void deinterleave(Vec<double>* v) {
  const Vec<double> x = v[0], y = v[1], z = v[2];
  v[0] = {low_high(x.low, x.high), low_high(y.high, z.low)};
  v[1] = {high_low(x.low, y.low), high_low(y.high, z.high)};
  v[2] = {low_high(x.high, y.low), low_high(z.low, z.high)};
}
BO_INLINE void interleave(Vec<double>* v) {
  const Vec<double> a = v[0], b = v[1], c = v[2];
  v[0] = {vzip1q_f64(a.low, b.low), low_high(c.low, a.low)};
  v[1] = {vzip2q_f64(b.low, c.low), vzip1q_f64(a.high, b.high)};
  v[2] = {low_high(c.high, a.high), vzip2q_f64(b.high, c.high)};
}
BO_INLINE Indices<float> broadcast_index(int32_t i, float) { return {vdupq_n_s32(i), vdupq_n_s32(i)}; }
BO_INLINE Indices<double> broadcast_index(int32_t i, double) { return {vdupq_n_s32(i)}; }
// Where a comparison holds, its lane has all bits.
template <int Bit>
BO_INLINE int32x4_t descend(int32x4_t i, int32x4_t greater) {
  return vorrq_s32(i, vandq_s32(greater, vdupq_n_s32(Bit)));
}
template <int Bit>
BO_INLINE Indices<float> descend(const Indices<float>& i, const Vec<float>& x, const Vec<float>& y) {
  return {descend<Bit>(i.low, vreinterpretq_s32_u32(vcgtq_f32(x.low, y.low))),
          descend<Bit>(i.high, vreinterpretq_s32_u32(vcgtq_f32(x.high, y.high)))};
}
template <int Bit>
BO_INLINE Indices<double> descend(const Indices<double>& i, const Vec<double>& x, const Vec<double>& y) {
  return {descend<Bit>(
      i.v, narrow(vreinterpretq_s64_u64(vcgtq_f64(x.low, y.low)), vreinterpretq_s64_u64(vcgtq_f64(x.high, y.high))))};
}
BO_INLINE uint16x8_t eight_halves(const char* p) {
  return vreinterpretq_u16_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
}
BO_INLINE void store_halves(char* p, uint16x8_t v) { vst1q_u8(reinterpret_cast<uint8_t*>(p), vreinterpretq_u8_u16(v)); }
BO_INLINE Vec<float> levels(uint16x8_t v) {
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(v))), vcvtq_f32_u32(vmovl_high_u16(v))};
}
// v/top to the last bit: a product with 1/top, corrected by what is left of v.
BO_INLINE float32x4_t over(float32x4_t v, float top) {
  const float32x4_t r = vdupq_n_f32(1.0f / top), q = vmulq_f32(v, r);
  return vfmaq_f32(q, vfmsq_f32(v, q, vdupq_n_f32(top)), r);
}
BO_INLINE Vec<float> over(const Vec<float>& v, float top) { return {over(v.low, top), over(v.high, top)}; }
// Conversion and narrowing saturate; NaN becomes 0.
BO_INLINE uint16x8_t whole(const Vec<float>& v, float top) {
  return vqmovn_high_u32(vqmovn_u32(vcvtnq_u32_f32(vmulq_n_f32(v.low, top))), vcvtnq_u32_f32(vmulq_n_f32(v.high, top)));
}
BO_INLINE Vec<float> load_as(Levels8, const char* p) {
  return levels(vmovl_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p))));
}
BO_INLINE Vec<float> load_as(U8, const char* p) { return over(load_as(Levels8(), p), 255.0f); }
BO_INLINE void store_as(U8, char* p, const Vec<float>& a) {
  vst1_u8(reinterpret_cast<uint8_t*>(p), vqmovn_u16(whole(a, 255.0f)));
}
BO_INLINE Vec<float> load_as(Levels16, const char* p) { return levels(eight_halves(p)); }
BO_INLINE Vec<float> load_as(U16, const char* p) { return over(load_as(Levels16(), p), 65535.0f); }
BO_INLINE void store_as(U16, char* p, const Vec<float>& a) { store_halves(p, whole(a, 65535.0f)); }
BO_INLINE Vec<float> load_as(F16, const char* p) {
  const float16x8_t h = vreinterpretq_f16_u16(eight_halves(p));
  return {vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}
BO_INLINE void store_as(F16, char* p, const Vec<float>& a) {
  store_halves(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.low), a.high)));
}
BO_INLINE Vec<float> load_as(BF16, const char* p) {
  const uint16x8_t zero = vdupq_n_u16(0), h = eight_halves(p);
  return {vreinterpretq_f32_u16(vzip1q_u16(zero, h)), vreinterpretq_f32_u16(vzip2q_u16(zero, h))};
}
// The upper halves of eight numbers, or of their sums with the rounding, which is what addhn leaves.
BO_INLINE void store_as(BF16, char* p, const Vec<float>& a) {
  const uint16x8_t low = vreinterpretq_u16_f32(a.low), high = vreinterpretq_u16_f32(a.high),
                   upper = vuzp2q_u16(low, high);
  const uint32x4_t half = vdupq_n_u32(0x7fff), one = vdupq_n_u32(1);
  const uint32x4_t u = vreinterpretq_u32_u16(low), w = vreinterpretq_u32_u16(high);
  const uint16x4_t first = vaddhn_u32(u, vaddq_u32(half, vandq_u32(vshrq_n_u32(u, 16), one)));
  const uint16x8_t rounded = vaddhn_high_u32(first, w, vaddq_u32(half, vandq_u32(vshrq_n_u32(w, 16), one)));
  const uint16x8_t number =
      vuzp1q_u16(vreinterpretq_u16_u32(vceqq_f32(a.low, a.low)), vreinterpretq_u16_u32(vceqq_f32(a.high, a.high)));
  store_halves(p, vbslq_u16(number, rounded, vorrq_u16(upper, vdupq_n_u16(0x40))));
}
BO_INLINE Vec<float> repeat3_one(const float* p, int) {
  const float32x4_t first = vcombine_f32(vld1_f32(p), vdup_n_f32(1.0f)), four = vld1q_lane_f32(p + 2, first, 2);
  return {four, four};
}
BO_INLINE Vec<double> repeat3_one(const double* p, int) {
  return {vld1q_f64(p), vld1q_lane_f64(p + 2, vdupq_n_f64(1.0), 0)};
}
BO_INLINE Vec<float> spread3(const float* p, int v) {
  if (v > 0) return {vdupq_n_f32(p[2]), vdupq_n_f32(0.0f)};
  return {vdupq_n_f32(p[0]), vdupq_n_f32(p[1])};
}
BO_INLINE Vec<double> spread3(const double* p, int v) { return {vdupq_n_f64(p[v]), vdupq_n_f64(p[v])}; }
BO_INLINE Vec<float> repeat4(const float* p, int64_t n, int) {
  float32x4_t four;
  if (n == 4) {
    four = vld1q_f32(p);
  } else {
    four = vld1q_lane_f32(p, vdupq_n_f32(0.0f), 0);
    if (n > 1) four = vld1q_lane_f32(p + 1, four, 1);
    if (n > 2) four = vld1q_lane_f32(p + 2, four, 2);
  }
  return {four, four};
}
BO_INLINE Vec<double> repeat4(const double* p, int64_t n, int) {
  const float64x2_t zero = vdupq_n_f64(0.0);
  return {n > 1 ? vld1q_f64(p) : vld1q_lane_f64(p, zero, 0), n > 3   ? vld1q_f64(p + 2)
                                                             : n > 2 ? vld1q_lane_f64(p + 2, zero, 0)
                                                                     : zero};
}
BO_INLINE Vec<float> spread4(const float* p, int v) { return {vdupq_n_f32(p[2 * v]), vdupq_n_f32(p[2 * v + 1])}; }
BO_INLINE Vec<double> spread4(const double* p, int v) { return {vdupq_n_f64(p[v]), vdupq_n_f64(p[v])}; }
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
BO_INLINE void store_columns3(const Vec<float>* rows, float* to) {
  const float32x4_t sum = vaddq_f32(rows->low, rows->high);
  vst1_f32(to, vget_low_f32(sum));
  vst1q_lane_f32(to + 2, sum, 2);
}
BO_INLINE void store_columns3(const Vec<double>* rows, double* to) {
  vst1q_f64(to, rows->low);
  vst1q_lane_f64(to + 2, rows->high, 0);
}
BO_INLINE void store_fours(float* to, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c,
                           const Vec<float>& d) {
  vst4q_f32(to, float32x4x4_t{{a.low, b.low, c.low, d.low}});
  vst4q_f32(to + 16, float32x4x4_t{{a.high, b.high, c.high, d.high}});
}
BO_INLINE void store_fours(double* to, const Vec<double>& a, const Vec<double>& b, const Vec<double>& c,
                           const Vec<double>& d) {
  vst4q_f64(to, float64x2x4_t{{a.low, b.low, c.low, d.low}});
  vst4q_f64(to + 8, float64x2x4_t{{a.high, b.high, c.high, d.high}});
}
BO_INLINE void load_fours(const float* p, int64_t pitch, Vec<float>* v) {
  float numbers[32];
  for (int l = 0; l < 8; ++l) vst1q_f32(numbers + 4 * l, vld1q_f32(p + l * pitch));
  const float32x4x4_t low = vld4q_f32(numbers), high = vld4q_f32(numbers + 16);
  for (int j = 0; j < 4; ++j) v[j] = {low.val[j], high.val[j]};
}
BO_INLINE void load_fours(const double* p, int64_t pitch, Vec<double>* v) {
  double numbers[16];
  for (int l = 0; l < 4; ++l)
    for (int j = 0; j < 4; j += 2) vst1q_f64(numbers + 4 * l + j, vld1q_f64(p + l * pitch + j));
  const float64x2x4_t low = vld4q_f64(numbers), high = vld4q_f64(numbers + 8);
  for (int j = 0; j < 4; ++j) v[j] = {low.val[j], high.val[j]};
}

#endif

// ---------------------------------------------------------------------------------------------------------------------
// Functions

template <class T>
BO_INLINE Vec<T> lerp(const Vec<T>& a, const Vec<T>& b, const Vec<T>& t) {
  return madd(t, b - a, a);
}

// store_affine3 of two pixels, one after the other
template <class T>
BO_INLINE void store_affine3(const Vec<T>* a, const Vec<T>* b, const T* p, T* to) {
  store_affine3(a, p, to);
  store_affine3(b, p + 3, to + 3);
}

BO_INLINE void accumulate(double* to, const Vec<float>& a, double weight) {
  constexpr int kParts = Vec<float>::kLanes / Vec<double>::kLanes;
  Vec<double> v[kParts];
  widen(a, v);
  for (int i = 0; i < kParts; ++i) accumulate(to + i * Vec<double>::kLanes, v[i], weight);
}

// Four numbers next to each other, such as a pixel's channels, as doubles; the sums of four are a·b + c with one number
// b
#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512)
struct Four {
  __m256d v;
};
BO_INLINE Four load_four(const double* p) { return {_mm256_loadu_pd(p)}; }
BO_INLINE Four load_four(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
BO_INLINE void store_four(double* p, const Four& a) { _mm256_storeu_pd(p, a.v); }
BO_INLINE Four madd(const Four& a, double b, const Four& c) { return {_mm256_fmadd_pd(a.v, _mm256_set1_pd(b), c.v)}; }
#elif defined(BO_SIMD_NEON)
struct Four {
  float64x2_t low, high;
};
BO_INLINE Four load_four(const double* p) { return {vld1q_f64(p), vld1q_f64(p + 2)}; }
BO_INLINE Four load_four(const float* p) {
  const float32x4_t a = vld1q_f32(p);
  return {vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a)};
}
BO_INLINE void store_four(double* p, const Four& a) {
  vst1q_f64(p, a.low);
  vst1q_f64(p + 2, a.high);
}
BO_INLINE Four madd(const Four& a, double b, const Four& c) {
  return {vfmaq_n_f64(c.low, a.low, b), vfmaq_n_f64(c.high, a.high, b)};
}
#else
struct Four {
  double v[4];
};
template <class T>
BO_INLINE Four load_four(const T* p) {
  Four r;
  for (int i = 0; i < 4; ++i) r.v[i] = static_cast<double>(p[i]);
  return r;
}
BO_INLINE void store_four(double* p, const Four& a) { memcpy(p, a.v, sizeof a.v); }
BO_INLINE Four madd(const Four& a, double b, const Four& c) {
  Four r;
  for (int i = 0; i < 4; ++i) r.v[i] = madd(a.v[i], b, c.v[i]);
  return r;
}
#endif

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

// A number that is known when compiling.
template <int N>
struct Count {
  static constexpr int value = N;
};

// Calls f with Count<1> or Count<0>.
template <class F>
BO_INLINE void with_known(bool condition, F&& f) {
  if (condition) {
    f(Count<1>());
  } else {
    f(Count<0>());
  }
}

// Calls f(each), where each(g) is for_vectors(n, g): without a loop where n numbers are less than two vectors.
template <class T, class F>
BO_INLINE void with_vectors(int64_t n, F&& f) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  if (n < kLanes) {
    f([=](auto&& g) { g(int64_t(0), Part<T>{n}); });
  } else if (n > kLanes && n < 2 * kLanes) {
    f([=](auto&& g) {
      g(int64_t(0), Whole<T>());
      g(kLanes, Part<T>{n - kLanes});
    });
  } else {
    f([=](auto&& g) { for_vectors<T>(n, g); });
  }
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
