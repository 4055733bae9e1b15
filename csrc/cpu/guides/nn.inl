// guide_nn: its value, then its gradients. Equations: ../../ops.h
#pragma once

#include "shared.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class Number>
class Network {
 public:
  using T = Number;
  using V = Vec<T>;
  static constexpr int kParameters = 4;
  Network(const GuideParameters& p, int64_t channels) : n_(p, kParameters), Ci_(channels), F_(p.value[0].shape[0]) {}
  int64_t parameters() const { return n_.count(); }
  int64_t sums() const { return parameters(); }
  int64_t scratch() const { return 1 + kUnroll; }

  template <int M, class In>
  BO_INLINE_MEMBER void at(const In& in, V* out) const {
    sums<M>(in, out);
    for (int m = 0; m < M; ++m) out[m] = sigmoid(out[m]);
  }

  void gradient(const T* image, const T* grad, int64_t count, int64_t pitch, T* scratch, T* d_image,
                const LaneSums<T>& d_w1) const {
    const LaneSums<T> d_b1 = d_w1.from(F_ * Ci_), d_w2 = d_b1.from(F_), d_b2 = d_w2.from(F_);
    T *d_sum = scratch, *d_hidden = scratch + pitch;
    const V zero = broadcast(T(0));
    V d_b2_sum = zero;
    for_pixels<T>(count, [&](int64_t p, auto unrolled) {
      constexpr int M = decltype(unrolled)::value;
      V v[M];
      sums<M>(channels_at(image, pitch, p), v);
      for (int m = 0; m < M; ++m) {
        // 1 − sigmoid(v) as sigmoid(−v), which is accurate where sigmoid(v) is near 1.
        const V d = load(grad + p + m * V::kLanes) * sigmoid(v[m]) * sigmoid(zero - v[m]);
        store(d_sum + p + m * V::kLanes, d);
        d_b2_sum = d_b2_sum + d;
      }
    });
    d_b2.add(0, d_b2_sum);
    for_unrolled(F_, [&](int64_t f, auto features) {
      for (int64_t i = 0; i < features.value; ++i) {
        const V w2 = broadcast(n_[2][f + i]);
        V d_w2_sum = zero, d_b1_sum = zero;
        for_pixels<T>(count, [&](int64_t p, auto unrolled) {
          constexpr int M = decltype(unrolled)::value;
          V h[M];
          affine<M>(n_[0] + (f + i) * Ci_, n_[1][f + i], Ci_, channels_at(image, pitch, p), h);
          for (int m = 0; m < M; ++m) {
            const V d = load(d_sum + p + m * V::kLanes);
            d_w2_sum = mul_add(d, relu(h[m]), d_w2_sum);
            const V passed = select_equal(h[m], h[m], select_greater(h[m], zero, w2 * d), h[m]);
            d_b1_sum = d_b1_sum + passed;
            store(d_hidden + i * pitch + p + m * V::kLanes, passed);
          }
        });
        d_w2.add(f + i, d_w2_sum);
        d_b1.add(f + i, d_b1_sum);
      }
      affine_gradients(n_[0] + f * Ci_, features.value, Ci_, image, d_hidden, count, pitch, f > 0, d_image,
                       d_w1.from(f * Ci_));
    });
  }
  void gradients(const LaneSums<T>& sums, T* to) const { sums.reduce(parameters(), to); }

 private:
  // The argument of sigmoid for M vectors of pixels
  template <int M, class In>
  BO_INLINE_MEMBER void sums(const In& in, V* total) const {
    for (int m = 0; m < M; ++m) total[m] = broadcast(*n_[3]);
    for (int64_t f = 0; f < F_; ++f) {
      V h[M];
      affine<M>(n_[0] + f * Ci_, n_[1][f], Ci_, in, h);
      for (int m = 0; m < M; ++m) total[m] = mul_add(broadcast(n_[2][f]), relu(h[m]), total[m]);
    }
  }

  const ParameterValues<T> n_;
  const int64_t Ci_, F_;
};

}  // namespace BO_ISA
}  // namespace bilateral_ops
