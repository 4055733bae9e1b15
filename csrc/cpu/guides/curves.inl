// guide_curves: its value, then its gradients. Equations: ../../ops.h
#pragma once

#include "knots.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class Number>
class Curves {
 public:
  using T = Number;
  using V = Vec<T>;
  static constexpr int kParameters = 6;
  Curves(const GuideParameters& p, int64_t channels, bool differentiated)
      : n_(p, kParameters),
        Ci_(channels),
        K_(p.value[2].shape[1]),
        sorted_(n_[2], n_[3], Ci_, K_, differentiated),
        searched_(sorted_, Ci_) {}
  int64_t parameters() const { return n_.total(); }
  int64_t sums() const { return Ci_ * Ci_ + Ci_ + knot_sums() + Ci_ + 1; }
  int64_t scratch() const { return 4 * Ci_ + 1; }

  template <int M, class In>
  BO_INLINE_MEMBER void at(const In& in, V* out) const {
    const V zero = broadcast(T(0)), one = broadcast(T(1));
    mixed<M>(in, out, [&](int64_t i, const V* q, V* c) {
      if (searched_) {
        searched_.template at<M>(i, q, c);
      } else {
        add_up<M>(i, q, c);
      }
    });
    for (int m = 0; m < M; ++m) {
      const V raised = where_greater(zero, out[m], zero, out[m]);
      out[m] = where_greater(raised, one, one, raised);
    }
  }

  void gradient(const T* image, const T* grad, int64_t count, int64_t pitch, T* scratch, T* d_image,
                const LaneSums<T>& d_ccm) const {
    const LaneSums<T> d_ccm_bias = d_ccm.from(Ci_ * Ci_), d_knots = d_ccm_bias.from(Ci_),
                      d_mix = d_knots.from(knot_sums()), d_mix_bias = d_mix.from(Ci_);
    T *q = scratch, *c = q + Ci_ * pitch, *d_q = c + Ci_ * pitch, *inner = d_q + Ci_ * pitch;
    int32_t* n = reinterpret_cast<int32_t*>(inner + pitch);
    const V zero = broadcast(T(0)), one = broadcast(T(1));
    V sum = zero;
    // curve(Count<M>, i, q, c, slope, n)
    const auto go_forward = [&](auto curve) BO_INLINE_LAMBDA {
      for_pixels<T>(count, [&](int64_t p, auto together) BO_INLINE_LAMBDA {
        constexpr int M = decltype(together)::value;
        V v[M];
        mixed<M>(channels_at(image, pitch, p), v, [&](int64_t i, V* q_i, V* c_i) BO_INLINE_LAMBDA {
          V slope[M];
          Indices<T> n_i[M];
          curve(together, i, q_i, c_i, slope, n_i);
          for (int m = 0; m < M; ++m) {
            const int64_t at = i * pitch + p + m * V::kLanes;
            if (sorted_) store_indices(n + at, n_i[m]);
            store(d_q + at, slope[m]);
            store(q + at, q_i[m]);
            store(c + at, c_i[m]);
          }
        });
        for (int m = 0; m < M; ++m) {
          // The gradient of clip's argument; NaN where that is NaN.
          const V open = where_greater(v[m], zero, where_greater(one, v[m], load(grad + p + m * V::kLanes)));
          const V d_v = where_equal(v[m], v[m], open, v[m]);
          store(inner + p + m * V::kLanes, d_v);
          sum = sum + d_v;
        }
      });
    };
    if (searched_) {
      go_forward([&](auto together, int64_t i, V* q_i, V* c_i, V* slope, Indices<T>* n_i) {
        searched_.template at<decltype(together)::value>(i, q_i, c_i, slope, n_i);
      });
    } else if (sorted_) {
      go_forward([&](auto together, int64_t i, V* q_i, V* c_i, V* slope, Indices<T>* n_i) {
        sorted_.template at<decltype(together)::value>(i, q_i, c_i, slope, n_i);
      });
    } else {
      go_forward([&](auto together, int64_t i, V* q_i, V* c_i, V* slope, Indices<T>*) {
        add_up<decltype(together)::value>(i, q_i, c_i);
        add_up_slopes<decltype(together)::value>(i, q_i, slope);
      });
    }
    d_mix_bias.add(0, sum);
    for (int64_t i = 0; i < Ci_; ++i) {
      const T *q_i = q + i * pitch, *c_i = c + i * pitch;
      T* d_q_i = d_q + i * pitch;
      if (sorted_) {
        sorted_.add(n + i * pitch, q_i, inner, count, d_knots.from(i * sorted_.sums()));
      } else {
        for_together(K_, [&](int64_t k, auto together) {
          knot_gradients<decltype(together)::value>(i, k, count, q_i, inner, d_knots);
        });
      }
      const V mix = broadcast(n_[4][i]);
      V d_mix_sum = zero, d_bias_sum = zero;
      for (int64_t p = 0; p < count; p += V::kLanes) {
        const V d_v = load(inner + p), d = load(d_q_i + p) * (mix * d_v);
        d_mix_sum = madd(d_v, load(c_i + p), d_mix_sum);
        d_bias_sum = d_bias_sum + d;
        store(d_q_i + p, d);
      }
      d_mix.add(i, d_mix_sum);
      d_ccm_bias.add(i, d_bias_sum);
    }
    affine_gradients(n_[0], Ci_, Ci_, image, d_q, count, pitch, false, d_image, d_ccm);
  }
  void gradients(const LaneSums<T>& d_ccm, T* to) const {
    const LaneSums<T> d_knots = d_ccm.from(Ci_ * Ci_ + Ci_);
    d_ccm.total(Ci_ * Ci_ + Ci_, to);
    to += Ci_ * Ci_ + Ci_;
    for (int64_t i = 0; sorted_ && i < Ci_; ++i)
      sorted_.gradients(i, d_knots.from(i * sorted_.sums()), n_[4][i], to + i * K_, to + (Ci_ + i) * K_);
    if (!sorted_) d_knots.total(knot_sums(), to);
    d_knots.from(knot_sums()).total(Ci_ + 1, to + 2 * Ci_ * K_);
  }

 private:
  int64_t knot_sums() const { return sorted_ ? Ci_ * sorted_.sums() : 2 * Ci_ * K_; }

  // The gradients of M knots from knot k on of channel i
  template <int M>
  BO_INLINE_MEMBER void knot_gradients(int64_t i, int64_t k, int64_t count, const T* BO_RESTRICT q,
                                       const T* BO_RESTRICT inner, const LaneSums<T>& d_shifts) const {
    const LaneSums<T> d_slopes = d_shifts.from(Ci_ * K_);
    const T *shifts = n_[2] + i * K_ + k, *slopes = n_[3] + i * K_ + k, mix = n_[4][i];
    V shift[M], above[M], lifted[M];
    for (int j = 0; j < M; ++j) {
      shift[j] = broadcast(shifts[j]);
      above[j] = lifted[j] = broadcast(T(0));
    }
    for (int64_t p = 0; p < count; p += V::kLanes) {
      const V v = load(q + p), d_v = load(inner + p);
      for (int j = 0; j < M; ++j) {
        above[j] = above[j] + where_greater(v, shift[j], d_v);
        lifted[j] = madd(d_v, relu(v - shift[j]), lifted[j]);
      }
    }
    for (int j = 0; j < M; ++j) {
      d_shifts.add(i * K_ + k + j, above[j], -mix * slopes[j]);
      d_slopes.add(i * K_ + k + j, lifted[j], mix);
    }
  }

  // The curve of channel i as a sum over its knots, and its slope
  template <int M>
  BO_INLINE_MEMBER void add_up(int64_t i, const V* q, V* c) const {
    const T *shifts = n_[2] + i * K_, *slopes = n_[3] + i * K_;
    for (int m = 0; m < M; ++m) c[m] = broadcast(T(0));
    for (int64_t k = 0; k < K_; ++k) {
      const V shift = broadcast(shifts[k]), slope = broadcast(slopes[k]);
      for (int m = 0; m < M; ++m) c[m] = madd(slope, relu(q[m] - shift), c[m]);
    }
  }
  template <int M>
  BO_INLINE_MEMBER void add_up_slopes(int64_t i, const V* q, V* sum) const {
    const T *shifts = n_[2] + i * K_, *slopes = n_[3] + i * K_;
    for (int m = 0; m < M; ++m) sum[m] = broadcast(T(0));
    for (int64_t k = 0; k < K_; ++k) {
      const V shift = broadcast(shifts[k]), slope = broadcast(slopes[k]);
      for (int m = 0; m < M; ++m) sum[m] = sum[m] + where_greater(q[m], shift, slope);
    }
  }

  // The argument of clip for M vectors of pixels; curve(i, q_i, c_i) makes c_i.
  template <int M, class In, class F>
  BO_INLINE_MEMBER void mixed(const In& in, V* total, const F& curve) const {
    if (Ci_ == 3) {
      mixed_of<M>(Three(), in, total, curve);
    } else {
      mixed_of<M>(Ci_, in, total, curve);
    }
  }
  struct Three {
    constexpr operator int64_t() const { return 3; }
  };
  template <int M, class Channels, class In, class F>
  BO_INLINE_MEMBER void mixed_of(const Channels& channels, const In& in, V* total, const F& curve) const {
    for (int m = 0; m < M; ++m) total[m] = broadcast(*n_[5]);
    for (int64_t i = 0; i < channels; ++i) {
      V q[M], c[M];
      affine<M>(n_[0] + i * channels, n_[1][i], channels, in, q);
      curve(i, q, c);
      for (int m = 0; m < M; ++m) total[m] = madd(broadcast(n_[4][i]), c[m], total[m]);
    }
  }

  const GuideNumbers<T> n_;
  const int64_t Ci_, K_;
  const SortedKnots<T> sorted_;
  const SearchedCurves<T> searched_;
};

}  // namespace BO_ISA
}  // namespace bilateral_ops
