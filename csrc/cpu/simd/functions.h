// What kernels include of the vector wrapper: Vec<T> of the instruction set that is compiled for, and functions built
// from its operations, the same for all instruction sets.
#pragma once

#if defined(BO_SIMD_AVX512)
#include "avx512.h"
#elif defined(BO_SIMD_AVX2)
#include "avx2.h"
#elif defined(BO_SIMD_NEON)
#include "neon.h"
#else
#include "generic.h"
#endif

namespace bilateral_ops {
inline namespace BO_ISA {

template <class T>
BO_INLINE Vec<T> lerp(const Vec<T>& a, const Vec<T>& b, const Vec<T>& t) {
  return mul_add(t, b - a, a);
}

BO_INLINE void accumulate(double* to, const Vec<float>& a, double weight) {
  constexpr int kParts = Vec<float>::kLanes / Vec<double>::kLanes;
  Vec<double> v[kParts];
  widen(a, v);
  for (int i = 0; i < kParts; ++i) accumulate(to + i * Vec<double>::kLanes, v[i], weight);
}

// Four adjacent elements, such as a pixel's channels, as doubles: sums a·b + c with a scalar b
#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512)
struct Double4 {
  __m256d v;
};
BO_INLINE Double4 load_double4(const double* p) { return {_mm256_loadu_pd(p)}; }
BO_INLINE Double4 load_double4(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
BO_INLINE void store_double4(double* p, const Double4& a) { _mm256_storeu_pd(p, a.v); }
BO_INLINE Double4 mul_add(const Double4& a, double b, const Double4& c) {
  return {_mm256_fmadd_pd(a.v, _mm256_set1_pd(b), c.v)};
}
#elif defined(BO_SIMD_NEON)
struct Double4 {
  float64x2_t low, high;
};
BO_INLINE Double4 load_double4(const double* p) { return {vld1q_f64(p), vld1q_f64(p + 2)}; }
BO_INLINE Double4 load_double4(const float* p) {
  const float32x4_t a = vld1q_f32(p);
  return {vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a)};
}
BO_INLINE void store_double4(double* p, const Double4& a) {
  vst1q_f64(p, a.low);
  vst1q_f64(p + 2, a.high);
}
BO_INLINE Double4 mul_add(const Double4& a, double b, const Double4& c) {
  return {vfmaq_n_f64(c.low, a.low, b), vfmaq_n_f64(c.high, a.high, b)};
}
#else
struct Double4 {
  double v[4];
};
template <class T>
BO_INLINE Double4 load_double4(const T* p) {
  Double4 r;
  for (int i = 0; i < 4; ++i) r.v[i] = static_cast<double>(p[i]);
  return r;
}
BO_INLINE void store_double4(double* p, const Double4& a) { memcpy(p, a.v, sizeof a.v); }
BO_INLINE Double4 mul_add(const Double4& a, double b, const Double4& c) {
  Double4 r;
  for (int i = 0; i < 4; ++i) r.v[i] = mul_add(a.v[i], b, c.v[i]);
  return r;
}
#endif

// Vector v of sixteen elements: the first or the last eight of those in `group`, twice
template <class T>
BO_INLINE Vec<T> repeat_half(const Vec<T>* group, int half, int v) {
#if defined(BO_SIMD_AVX512)
  if constexpr (Vec<T>::kLanes == 16) {
    return {half == 0 ? _mm512_shuffle_f32x4(group->v, group->v, 0x44)
                      : _mm512_shuffle_f32x4(group->v, group->v, 0xee)};
  } else
#endif
  {
    constexpr int kVectors = 8 / Vec<T>::kLanes;
    return group[half * kVectors + v % kVectors];
  }
}

// A bit for each of n indices < 32
BO_INLINE uint32_t index_bits(const int32_t* k, int64_t n) {
  constexpr int64_t kLanes = Vec<float>::kLanes;
  uint32_t bits = 0;
  if (n < kLanes) {
    for (int64_t i = 0; i < n; ++i) bits |= uint32_t(1) << k[i];
  } else {
    for (int64_t i = 0; i < n; i += kLanes) bits |= bits_of(load_indices(k + min_of(i, n - kLanes), 0.0f));
  }
  return bits;
}

// How the elements at a pointer are loaded and stored: a full vector, or the n that are left at the end of an array.
template <class T>
struct FullVec {
  Vec<T> load(const T* p) const { return bilateral_ops::load(p); }
  void store(T* p, const Vec<T>& a) const { bilateral_ops::store(p, a); }
};
template <class T>
struct PartVec {
  int64_t n;
  Vec<T> load(const T* p) const { return load_n(p, n); }
  void store(T* p, const Vec<T>& a) const { store_n(p, a, n); }
};
// Calls f(first, lanes) for each vector of n elements; lanes is a FullVec or, for the last one, a PartVec.
template <class T, class F>
BO_INLINE void for_vectors(int64_t n, F&& f) {
  int64_t first = 0;
  for (; first + Vec<T>::kLanes <= n; first += Vec<T>::kLanes) f(first, FullVec<T>());
  if (first < n) f(first, PartVec<T>{n - first});
}

// An integer as a type, for what is known at compile time
template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls f with Constant<1> or Constant<0>.
template <class F>
BO_INLINE void with_constant(bool condition, F&& f) {
  if (condition) {
    f(Constant<1>());
  } else {
    f(Constant<0>());
  }
}

// Calls f(each), where each(g) does what for_vectors(n, g) does, but without a loop where n is less than two vectors.
template <class T, class F>
BO_INLINE void with_vector_loop(int64_t n, F&& f) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  if (n < kLanes) {
    f([=](auto&& g) { g(int64_t(0), PartVec<T>{n}); });
  } else if (n > kLanes && n < 2 * kLanes) {
    f([=](auto&& g) {
      g(int64_t(0), FullVec<T>());
      g(kLanes, PartVec<T>{n - kLanes});
    });
  } else {
    f([=](auto&& g) { for_vectors<T>(n, g); });
  }
}

// 1 / (1 + e^−v), with e^x = 2^n·e^r, r = x − n·ln 2 and |r| ≤ ½ ln 2. The Taylor series of e^r ends where the
// remainder is below the type's rounding. x is clamped to where e^x is infinite, or negligible beside 1.
template <class T>
BO_INLINE Vec<T> sigmoid(const Vec<T>& v) {
  constexpr bool kSingle = sizeof(T) == 4;
  constexpr int kTerms = kSingle ? 7 : 13;
  const Vec<T> most = broadcast(kSingle ? T(104) : T(746)), least = broadcast(T(0)) - most, one = broadcast(T(1));
  const Vec<T> below = select_greater(v, most, most, v),
               x = broadcast(T(0)) - select_greater(least, below, least, below);
  // Adding and subtracting 1.5·2^23 or 1.5·2^52 rounds to a whole number.
  const Vec<T> magic = broadcast(kSingle ? T(12582912.0) : T(6755399441055744.0));
  const Vec<T> n = x * broadcast(T(1.4426950408889634074)) + magic - magic;
  // ln 2 as a sum; the first part has so few digits that its product with n is exact.
  const Vec<T> high = broadcast(kSingle ? T(0.693359375) : T(0.693147180369123816490));
  const Vec<T> low = broadcast(kSingle ? T(-2.12194440054690583e-4) : T(1.90821492927058770002e-10));
  const Vec<T> r = (x - n * high) - n * low;
  T factor = T(1);
  for (int k = 2; k <= kTerms; ++k) factor = factor / T(k);
  Vec<T> series = broadcast(factor);
  for (int k = kTerms; k > 0; --k) {
    factor = factor * T(k);
    series = mul_add(series, r, broadcast(factor));
  }
  // In two steps, as 2^n may overflow where the product does not.
  const Vec<T> half = n * broadcast(T(0.5)) + magic - magic;
  return one / (one + mul_power_of_two(mul_power_of_two(series, half), n - half));
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
