// What the guides share: their parameters, sums over pixels, and loops over several vectors of pixels at once.
//
// A guide is a class with
//   T                     the compute type
//   at<M>(in, out)        the guide of M vectors of pixels; channel j of vector m is in(j, m)
// and, if it has parameters,
//   parameters()          how many elements they have
//   sums()                how many sums over pixels their gradients are made of
//   scratch()             elements per pixel that gradient() needs
//   gradient(image, grad, count, pitch, scratch, d_image, sums)   d_image, and adds to the sums
//   gradients(sums, to)   the gradients of the parameters, in the order that they are stored in
// Images and scratch are planes, [channel][pixel], that are `pitch` elements apart.
#pragma once

#include "../../ops.h"
#include "../tiles.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// Calls f(offset in memory, stride, count) for each row of a parameter.
template <class F>
BO_INLINE void parameter_rows(const Tensor& t, F&& f) {
  const int64_t rows = t.rank > 1 ? t.shape[0] : 1, columns = t.rank ? t.shape[t.rank - 1] : 1;
  for (int64_t r = 0; r < rows; ++r) f(t.rank > 1 ? r * t.strides[0] : 0, t.rank ? t.strides[t.rank - 1] : 0, columns);
}

// The parameters of a guide, contiguous and in the compute type
template <class T>
class ParameterValues {
 public:
  ParameterValues(const GuideParameters& p, int count) {
    for (int i = 0; i < count; ++i) count_ += element_count(p.value[i]);
    T* to = memory_.template take<T>(count_);
    for (int i = 0; i < count; ++i) {
      at_[i] = to;
      const Tensor& t = p.value[i];
      parameter_rows(t, [&](int64_t at, int64_t stride, int64_t columns) {
        load_run(t.dtype, t.data + at, stride, columns, to, 1);
        to += columns;
      });
    }
  }
  const T* operator[](int i) const { return at_[i]; }
  int64_t count() const { return count_; }
  static int64_t element_count(const Tensor& t) {
    int64_t n = 1;
    for (int axis = 0; axis < t.rank; ++axis) n *= t.shape[axis];
    return n;
  }

 private:
  Scratch memory_;
  const T* at_[kMaxGuideParameters];
  int64_t count_ = 0;
};

// Sums over pixels, in double. Each lane of a vector has a sum of its own; reduce() adds them at the end.
template <class T>
class LaneSums {
 public:
  explicit LaneSums(double* lanes) : lanes_(lanes) {}
  LaneSums from(int64_t sum) const { return LaneSums(lanes_ + sum * Vec<T>::kLanes); }
  double* lanes() const { return lanes_; }
  void add(int64_t sum, const Vec<T>& v, T weight = T(1)) const {
    accumulate(from(sum).lanes_, v, static_cast<double>(weight));
  }
  // The first n sums
  void reduce(int64_t n, T* to) const {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0.0;
      for (int64_t l = 0; l < Vec<T>::kLanes; ++l) sum += lanes_[i * Vec<T>::kLanes + l];
      to[i] = static_cast<T>(sum);
    }
  }

 private:
  double* lanes_;
};

// Calls f(first, Constant<M>) for groups of M of n items: M is kUnroll, and less for the last group.
template <class F>
BO_INLINE void for_unrolled(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kUnroll <= n; i += kUnroll) f(i, Constant<kUnroll>());
  switch (n - i) {
    case 3: return f(i, Constant<3>());
    case 2: return f(i, Constant<2>());
    case 1: return f(i, Constant<1>());
  }
}
// Calls f(first pixel, Constant<M>) for groups of M vectors of pixels.
template <class T, class F>
BO_INLINE void for_pixels(int64_t count, F&& f) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for_unrolled(ceil_div(count, kLanes), [&](int64_t v, auto vectors) BO_INLINE_LAMBDA { f(v * kLanes, vectors); });
}

// in(j, m): channel j of the m-th vector of pixels from pixel p on
template <class T>
BO_INLINE auto channels_at(const T* image, int64_t pitch, int64_t p) {
  return [=](int64_t j, int m) { return load(image + j * pitch + p + m * Vec<T>::kLanes); };
}

// q_i = bias_i + Σ_j weight_ij·in_j for M vectors of pixels
template <int M, class T, class Channels, class In>
BO_INLINE void affine(const T* weights, T bias, const Channels& channels, const In& in, Vec<T>* q) {
  for (int m = 0; m < M; ++m) q[m] = broadcast(bias);
  for (int64_t j = 0; j < channels; ++j) {
    const Vec<T> weight = broadcast(weights[j]);
    for (int m = 0; m < M; ++m) q[m] = mul_add(weight, in(j, m), q[m]);
  }
}
// Its gradients, for `rows` rows i: d_in_j = Σ_i weight_ij·d_q_i, added to d_in if `add`, and d_weight_ij += Σ
// d_q_i·in_j over pixels.
template <class T>
void affine_gradients(const T* weights, int64_t rows, int64_t channels, const T* BO_RESTRICT in,
                      const T* BO_RESTRICT d_q, int64_t count, int64_t pitch, bool add, T* BO_RESTRICT d_in,
                      const LaneSums<T>& d_weights) {
  for_unrolled(rows, [&](int64_t first, auto unrolled) {
    constexpr int M = decltype(unrolled)::value;
    for (int64_t j = 0; j < channels; ++j) {
      Vec<T> weight[M], d_weight[M];
      for (int m = 0; m < M; ++m) {
        weight[m] = broadcast(weights[(first + m) * channels + j]);
        d_weight[m] = broadcast(T(0));
      }
      const T *const in_j = in + j * pitch, *const d_first = d_q + first * pitch;
      T* const d_in_j = d_in + j * pitch;
      for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
        const Vec<T> v = load(in_j + p);
        Vec<T> d_v = add || first ? load(d_in_j + p) : broadcast(T(0));
        for (int m = 0; m < M; ++m) {
          const Vec<T> d = load(d_first + m * pitch + p);
          d_weight[m] = mul_add(d, v, d_weight[m]);
          d_v = mul_add(weight[m], d, d_v);
        }
        store(d_in_j + p, d_v);
      }
      for (int m = 0; m < M; ++m) d_weights.add((first + m) * channels + j, d_weight[m]);
    }
  });
}

// The guide of `count` pixels, in whole vectors: the last one may extend beyond them.
template <class Guide, class T>
void guide_run(const Guide& guide, const T* image, int64_t count, int64_t pitch, T* to) {
  for_pixels<T>(count, [&](int64_t p, auto unrolled) {
    constexpr int M = decltype(unrolled)::value;
    constexpr int64_t kLanes = Vec<T>::kLanes;
    Vec<T> values[M];
    guide.template at<M>(channels_at(image, pitch, p), values);
    for (int m = 0; m < M; ++m) store(to + p + m * kLanes, values[m]);
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
