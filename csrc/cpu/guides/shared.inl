// What the guides share: parameters, sums over pixels, and how vectors of pixels are worked on together.
//
// A guide is a class with
//   T              the compute type
//   at<M>(in, out) the guide of M vectors of pixels; channel j of the mth is in(j, m)
// and where it has parameters
//   parameters()   how many numbers they are
//   sums()         how many sums over all pixels their gradients are made of
//   scratch()      numbers a pixel that its gradient needs besides
//   gradient(image, grad, count, pitch, scratch, d_image, sums)   adds to the sums
//   gradients(sums, to)   the parameters' gradients in storing order
// image and d_image are [channel][pixel] with rows `pitch` apart; scratch rows have the same pitch.
#pragma once

#include "../../ops.h"
#include "../tiles.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// A parameter as rows of numbers: f(offset in memory, stride, count), rows one after another.
template <class F>
BO_INLINE void parameter_rows(const Tensor& t, F&& f) {
  const int64_t rows = t.rank > 1 ? t.shape[0] : 1, columns = t.rank ? t.shape[t.rank - 1] : 1;
  for (int64_t r = 0; r < rows; ++r) f(t.rank > 1 ? r * t.strides[0] : 0, t.rank ? t.strides[t.rank - 1] : 0, columns);
}

// The parameters of a guide one after another in the compute type, as its class reads them.
template <class T>
class GuideNumbers {
 public:
  GuideNumbers(const GuideParameters& p, int count) {
    int64_t total = 0;
    for (int i = 0; i < count; ++i) total += numbers_in(p.value[i]);
    T* to = memory_.template take<T>(total);
    total_ = total;
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
  int64_t total() const { return total_; }
  static int64_t numbers_in(const Tensor& t) {
    int64_t n = 1;
    for (int axis = 0; axis < t.rank; ++axis) n *= t.shape[axis];
    return n;
  }

 private:
  Scratch memory_;
  const T* at_[kMaxGuideParameters];
  int64_t total_;
};

// Sums over many pixels. A vector's lanes are added up apart, in double, until the end.
template <class T>
class LaneSums {
 public:
  explicit LaneSums(double* lanes) : lanes_(lanes) {}
  LaneSums from(int64_t sum) const { return LaneSums(lanes_ + sum * Vec<T>::kLanes); }
  double* lanes() const { return lanes_; }
  void add(int64_t sum, const Vec<T>& v, T weight = T(1)) const {
    accumulate(from(sum).lanes_, v, static_cast<double>(weight));
  }
  // The first n
  void total(int64_t n, T* to) const {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0.0;
      for (int64_t l = 0; l < Vec<T>::kLanes; ++l) sum += lanes_[i * Vec<T>::kLanes + l];
      to[i] = static_cast<T>(sum);
    }
  }

 private:
  double* lanes_;
};

// Calls f(first, Count<M>) for parts of n: kTogether while there are as many, then the rest.
template <class F>
BO_INLINE void for_together(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kTogether <= n; i += kTogether) f(i, Count<kTogether>());
  switch (n - i) {
    case 3: return f(i, Count<3>());
    case 2: return f(i, Count<2>());
    case 1: return f(i, Count<1>());
  }
}
// f(first pixel, Count<M>) for M vectors of pixels at a time
template <class T, class F>
BO_INLINE void for_pixels(int64_t count, F&& f) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for_together(ceil_div(count, kLanes), [&](int64_t v, auto vectors) BO_INLINE_LAMBDA { f(v * kLanes, vectors); });
}

// Channel j of the mth vector of pixels from pixel p on, of an image [channel][pixel]
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
    for (int m = 0; m < M; ++m) q[m] = madd(weight, in(j, m), q[m]);
  }
}
// Its gradients, of `rows` rows: d_in_j (+)= Σ_i weight_ij·d_q_i, d_weight_ij += Σ d_q_i·in_j. in, d_in and d_q are
// [row][pixel] with rows `pitch` apart. add: to what d_in holds
template <class T>
void affine_gradients(const T* weights, int64_t rows, int64_t channels, const T* BO_RESTRICT in,
                      const T* BO_RESTRICT d_q, int64_t count, int64_t pitch, bool add, T* BO_RESTRICT d_in,
                      const LaneSums<T>& d_weights) {
  for_together(rows, [&](int64_t first, auto together) {
    constexpr int M = decltype(together)::value;
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
          d_weight[m] = madd(d, v, d_weight[m]);
          d_v = madd(weight[m], d, d_v);
        }
        store(d_in_j + p, d_v);
      }
      for (int m = 0; m < M; ++m) d_weights.add((first + m) * channels + j, d_weight[m]);
    }
  });
}

// The guide of an image [channel][pixel] with rows `pitch` apart, in whole vectors.
template <class Guide, class T>
void guide_run(const Guide& guide, const T* image, int64_t count, int64_t pitch, T* to) {
  for_pixels<T>(count, [&](int64_t p, auto together) {
    constexpr int M = decltype(together)::value;
    constexpr int64_t kLanes = Vec<T>::kLanes;
    Vec<T> values[M];
    guide.template at<M>(channels_at(image, pitch, p), values);
    for (int m = 0; m < M; ++m) store(to + p + m * kLanes, values[m]);
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
