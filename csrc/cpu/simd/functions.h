// What kernels include of the vector wrapper: Vec<T> of the instruction set that is compiled for, and the functions
// that are built of its operations.
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
  return madd(t, b - a, a);
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
