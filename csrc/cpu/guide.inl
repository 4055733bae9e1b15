// guide_curves, guide_nn, guide_luma: the value of a tile's guide, then its gradients. Equations: ../ops.h
//
// A guide is a class with
//   T              the compute type
//   parameters()   how many numbers its parameters are
//   scratch()      numbers a pixel that its gradient needs besides
//   at(in)         the guide of a vector of pixels whose channel j is in(j)
//   gradient(image, grad, count, pitch, scratch, d_image, sums)   adds to sums, one double a parameter, in storing
//   order
// image and d_image are [channel][pixel] with rows `pitch` apart; scratch rows have the same pitch.
#pragma once

#include "../ops.h"
#include "spans.h"

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

// Sums over many pixels, one a parameter. A vector's lanes are added up apart, in double, until the end.
template <class T>
class LaneSums {
 public:
  explicit LaneSums(double* lanes) : lanes_(lanes) {}
  LaneSums from(int64_t parameter) const { return LaneSums(lanes_ + parameter * Vec<T>::kLanes); }
  void add(int64_t parameter, const Vec<T>& v, T weight = T(1)) const {
    accumulate(lanes_ + parameter * Vec<T>::kLanes, v, static_cast<double>(weight));
  }

 private:
  double* lanes_;
};

// The piecewise linear functions c_i(q) = Σ_k slopes_ik·max(q − shifts_ik, 0) of up to 16 knots, in register tables.
//
// With the knots sorted, s_0 ≤ s_1 ≤ …, and m the last one below q (or 0),
//
//   c(q) = value_m + slope_m·max(q − s_m, 0),  value_m = Σ_{k≤m} slopes_k·(s_m − s_k),  slope_m = Σ_{k≤m} slopes_k
//
// and m is found in four comparisons, down a binary tree of s_1 … s_15 whose nodes are numbered from 1 as in a heap.
template <class T>
class SortedCurves {
 public:
  // There are none where a sum is as fast, of more knots than a table has, or where a parameter is not finite.
  SortedCurves(const T* shifts, const T* slopes, int64_t channels, int64_t knots) {
    if (knots > kKnots || knots < kFewKnots) return;
    for (int64_t i = 0; i < channels * knots; ++i)
      if (!(shifts[i] - shifts[i] == T(0)) || !(slopes[i] - slopes[i] == T(0))) return;
    curves_ = memory_.template take<Curve>(channels);
    for (int64_t i = 0; i < channels; ++i) fill(curves_[i], shifts + i * knots, slopes + i * knots, knots);
  }
  bool any() const { return curves_; }

  BO_INLINE_MEMBER Vec<T> at(int64_t channel, const Vec<T>& q) const {
    const Curve& c = curves_[channel];
    Indices<T> i = descend<1>(broadcast_index(0, T()), q, broadcast(c.middle[0][0]));
    i = descend<2>(i, q, lookup<8>(c.middle[1], i));
    i = descend<4>(i, q, lookup<8>(c.middle[2], i));
    i = descend<8>(i, q, lookup<8>(c.middle[3], i));
    const Vec<T> v = madd(lookup<16>(c.slope, i), relu(q - lookup<16>(c.shift, i)), lookup<16>(c.value, i));
    return c.odd_at_infinity ? v + (q - q) : v;
  }

 private:
  static constexpr int kKnots = 16, kFewKnots = 5;
  // Pieces, and the knots in the middle of halves, quarters, …, where a bit of their index says lower or upper half,
  // the lowest bit first: a search's first steps then have small tables.
  struct Curve {
    alignas(64) T middle[4][kKnots], shift[kKnots], slope[kKnots], value[kKnots];
    bool odd_at_infinity;  // where its terms are infinite with different signs, or one is 0·∞
  };
  BO_NOINLINE_MEMBER static void fill(Curve& c, const T* shifts, const T* slopes, int64_t knots) {
    T s[kKnots], b[kKnots];
    for (int64_t k = 0; k < knots; ++k) {
      int64_t at = k;
      for (; at > 0 && s[at - 1] > shifts[k]; --at) {
        s[at] = s[at - 1];
        b[at] = b[at - 1];
      }
      s[at] = shifts[k];
      b[at] = slopes[k];
    }
    for (int64_t k = knots; k < kKnots; ++k) s[k] = infinity(T());
    double slope = 0.0, value = 0.0;
    bool rises = false, falls = false, flat = false;
    for (int64_t m = 0; m < kKnots; ++m) {
      const int64_t last = min_of(m, knots - 1);
      if (m < knots) {
        if (m > 0) value += slope * (static_cast<double>(s[m]) - static_cast<double>(s[m - 1]));
        slope += static_cast<double>(b[m]);
        rises = rises || b[m] > T(0);
        falls = falls || b[m] < T(0);
        flat = flat || b[m] == T(0);
      }
      const int64_t piece = reversed(m, 4);
      c.shift[piece] = s[last];
      c.slope[piece] = static_cast<T>(slope);
      c.value[piece] = static_cast<T>(value);
    }
    c.odd_at_infinity = flat || (rises && falls);
    for (int64_t d = 0; d < 4; ++d) {
      const int64_t parts = int64_t(1) << d, size = kKnots / parts;
      for (int64_t i = 0; i < kKnots; ++i) c.middle[d][i] = s[reversed(i % parts, d) * size + size / 2];
    }
  }
  static int64_t reversed(int64_t i, int64_t bits) {
    int64_t r = 0;
    for (int64_t b = 0; b < bits; ++b) r = 2 * r + (i >> b & 1);
    return r;
  }

  Scratch memory_;
  Curve* curves_ = nullptr;
};

template <class Number>
class Curves {
 public:
  using T = Number;
  using V = Vec<T>;
  static constexpr int kParameters = 6;
  Curves(const GuideParameters& p, int64_t channels)
      : n_(p, kParameters), Ci_(channels), K_(p.value[2].shape[1]), sorted_(n_[2], n_[3], Ci_, K_) {}
  int64_t parameters() const { return n_.total(); }
  int64_t scratch() const { return 2 * Ci_ + 2; }

  template <class In>
  BO_INLINE_MEMBER V at(const In& in) const {
    const V total = sums(in, [](int64_t, const V&, const V&) {}), zero = broadcast(T(0)), one = broadcast(T(1));
    const V raised = where_greater(zero, total, zero, total);
    return where_greater(raised, one, one, raised);
  }

  void gradient(const T* image, const T* grad, int64_t count, int64_t pitch, T* scratch, T* d_image,
                const LaneSums<T>& d_ccm) const {
    const LaneSums<T> d_ccm_bias = d_ccm.from(Ci_ * Ci_), d_shifts = d_ccm_bias.from(Ci_),
                      d_slopes = d_shifts.from(Ci_ * K_), d_mix = d_slopes.from(Ci_ * K_), d_mix_bias = d_mix.from(Ci_);
    T *q = scratch, *c = q + Ci_ * pitch, *inner = c + Ci_ * pitch, *d_q = inner + pitch;
    const V zero = broadcast(T(0)), one = broadcast(T(1));
    V sum = zero;
    for (int64_t p = 0; p < count; p += V::kLanes) {
      const V v = sums([&](int64_t j) { return load(image + j * pitch + p); },
                       [&](int64_t i, const V& q_i, const V& c_i) {
                         store(q + i * pitch + p, q_i);
                         store(c + i * pitch + p, c_i);
                       });
      // The gradient of clip's argument; NaN where that is NaN.
      const V open = where_greater(v, zero, where_greater(one, v, load(grad + p), zero), zero);
      const V d_v = where_equal(v, v, open, v);
      store(inner + p, d_v);
      sum = sum + d_v;
    }
    d_mix_bias.add(0, sum);
    for (int64_t i = 0; i < Ci_; ++i) {
      const T *q_i = q + i * pitch, *c_i = c + i * pitch;
      const T mix = n_[4][i];
      V d_mix_sum = zero, d_bias_sum = zero;
      for (int64_t p = 0; p < count; p += V::kLanes) {
        d_mix_sum = madd(load(inner + p), load(c_i + p), d_mix_sum);
        store(d_q + p, zero);
      }
      d_mix.add(i, d_mix_sum);
      int64_t k = 0;
      for (; k + 4 <= K_; k += 4) knot_gradients<4>(i, k, count, q_i, inner, d_q, d_shifts, d_slopes);
      for (; k < K_; ++k) knot_gradients<1>(i, k, count, q_i, inner, d_q, d_shifts, d_slopes);
      for (int64_t p = 0; p < count; p += V::kLanes) {
        const V d = load(d_q + p) * (broadcast(mix) * load(inner + p));
        store(d_q + p, d);
        d_bias_sum = d_bias_sum + d;
      }
      d_ccm_bias.add(i, d_bias_sum);
      for (int64_t j = 0; j < Ci_; ++j) {
        const V weight = broadcast(n_[0][i * Ci_ + j]);
        T* d_in = d_image + j * pitch;
        V d_weight = zero;
        for (int64_t p = 0; p < count; p += V::kLanes) {
          const V d = load(d_q + p);
          d_weight = madd(d, load(image + j * pitch + p), d_weight);
          store(d_in + p, madd(weight, d, i ? load(d_in + p) : zero));
        }
        d_ccm.add(i * Ci_ + j, d_weight);
      }
    }
  }

 private:
  // The gradients of M knots from knot k on of channel i; adds their slopes above the knots to d_q.
  template <int M>
  BO_INLINE_MEMBER void knot_gradients(int64_t i, int64_t k, int64_t count, const T* BO_RESTRICT q,
                                       const T* BO_RESTRICT inner, T* BO_RESTRICT d_q, const LaneSums<T>& d_shifts,
                                       const LaneSums<T>& d_slopes) const {
    const V zero = broadcast(T(0));
    const T *shifts = n_[2] + i * K_ + k, *slopes = n_[3] + i * K_ + k, mix = n_[4][i];
    V shift[M], slope[M], above[M], lifted[M];
    for (int j = 0; j < M; ++j) {
      shift[j] = broadcast(shifts[j]);
      slope[j] = broadcast(slopes[j]);
      above[j] = lifted[j] = zero;
    }
    for (int64_t p = 0; p < count; p += V::kLanes) {
      const V v = load(q + p), d_v = load(inner + p);
      V d = load(d_q + p);
      for (int j = 0; j < M; ++j) {
        above[j] = above[j] + where_greater(v, shift[j], d_v, zero);
        lifted[j] = madd(d_v, relu(v - shift[j]), lifted[j]);
        d = d + where_greater(v, shift[j], slope[j], zero);
      }
      store(d_q + p, d);
    }
    for (int j = 0; j < M; ++j) {
      d_shifts.add(i * K_ + k + j, above[j], -mix * slopes[j]);
      d_slopes.add(i * K_ + k + j, lifted[j], mix);
    }
  }

  // The argument of clip for a vector of pixels; keep(i, q_i, c_i) sees what it is made of.
  template <class In, class Keep>
  BO_INLINE_MEMBER V sums(const In& in, const Keep& keep) const {
    return Ci_ == 3 ? sums_of(Three(), in, keep) : sums_of(Ci_, in, keep);
  }
  struct Three {
    constexpr operator int64_t() const { return 3; }
  };
  template <class Channels, class In, class Keep>
  BO_INLINE_MEMBER V sums_of(const Channels& channels, const In& in, const Keep& keep) const {
    V total = broadcast(*n_[5]);
    for (int64_t i = 0; i < channels; ++i) {
      V q = broadcast(n_[1][i]), c = broadcast(T(0));
      for (int64_t j = 0; j < channels; ++j) q = madd(broadcast(n_[0][i * channels + j]), in(j), q);
      if (sorted_.any()) {
        c = sorted_.at(i, q);
      } else {
        const T *shifts = n_[2] + i * K_, *slopes = n_[3] + i * K_;
        for (int64_t k = 0; k < K_; ++k) c = madd(broadcast(slopes[k]), relu(q - broadcast(shifts[k])), c);
      }
      total = madd(broadcast(n_[4][i]), c, total);
      keep(i, q, c);
    }
    return total;
  }

  const GuideNumbers<T> n_;
  const int64_t Ci_, K_;
  const SortedCurves<T> sorted_;
};

template <class Number>
class Network {
 public:
  using T = Number;
  using V = Vec<T>;
  static constexpr int kParameters = 4;
  Network(const GuideParameters& p, int64_t channels) : n_(p, kParameters), Ci_(channels), F_(p.value[0].shape[0]) {}
  int64_t parameters() const { return n_.total(); }
  int64_t scratch() const { return 2; }

  template <class In>
  BO_INLINE_MEMBER V at(const In& in) const {
    return sigmoid(sums(in));
  }

  void gradient(const T* image, const T* grad, int64_t count, int64_t pitch, T* scratch, T* d_image,
                const LaneSums<T>& d_w1) const {
    const LaneSums<T> d_b1 = d_w1.from(F_ * Ci_), d_w2 = d_b1.from(F_), d_b2 = d_w2.from(F_);
    T* d_sum = scratch;
    const V zero = broadcast(T(0));
    V d_b2_sum = zero;
    for (int64_t p = 0; p < count; p += V::kLanes) {
      // 1 − sigmoid(v) = sigmoid(−v), which keeps its digits where sigmoid(v) is near 1.
      const V v = sums([&](int64_t j) { return load(image + j * pitch + p); });
      const V d = load(grad + p) * sigmoid(v) * sigmoid(zero - v);
      store(d_sum + p, d);
      d_b2_sum = d_b2_sum + d;
    }
    d_b2.add(0, d_b2_sum);
    for (int64_t j = 0; j < Ci_; ++j)
      for (int64_t p = 0; p < count; p += V::kLanes) store(d_image + j * pitch + p, zero);
    for (int64_t f = 0; f < F_; ++f) {
      const V w2 = broadcast(n_[2][f]);
      V d_w2_sum = zero, d_b1_sum = zero;
      T* d_hidden = scratch + pitch;
      for (int64_t p = 0; p < count; p += V::kLanes) {
        const V h = hidden(f, [&](int64_t j) { return load(image + j * pitch + p); }), d = load(d_sum + p);
        d_w2_sum = madd(d, relu(h), d_w2_sum);
        const V d_h = where_greater(h, zero, w2 * d, zero), passed = where_equal(h, h, d_h, h);
        d_b1_sum = d_b1_sum + passed;
        store(d_hidden + p, passed);
      }
      d_w2.add(f, d_w2_sum);
      d_b1.add(f, d_b1_sum);
      for (int64_t j = 0; j < Ci_; ++j) {
        const V weight = broadcast(n_[0][f * Ci_ + j]);
        T* d_in = d_image + j * pitch;
        V d_weight = zero;
        for (int64_t p = 0; p < count; p += V::kLanes) {
          const V d = load(d_hidden + p);
          d_weight = madd(d, load(image + j * pitch + p), d_weight);
          store(d_in + p, madd(weight, d, load(d_in + p)));
        }
        d_w1.add(f * Ci_ + j, d_weight);
      }
    }
  }

 private:
  // w1·in + b1 of one feature, and the argument of sigmoid, for a vector of pixels
  template <class In>
  BO_INLINE_MEMBER V hidden(int64_t f, const In& in) const {
    V h = broadcast(n_[1][f]);
    for (int64_t j = 0; j < Ci_; ++j) h = madd(broadcast(n_[0][f * Ci_ + j]), in(j), h);
    return h;
  }
  template <class In>
  BO_INLINE_MEMBER V sums(const In& in) const {
    V total = broadcast(*n_[3]);
    for (int64_t f = 0; f < F_; ++f) total = madd(broadcast(n_[2][f]), relu(hidden(f, in)), total);
    return total;
  }

  const GuideNumbers<T> n_;
  const int64_t Ci_, F_;
};

template <class Number>
class Luma {
 public:
  using T = Number;
  static constexpr int kParameters = 0;
  Luma() = default;
  Luma(const GuideParameters&, int64_t) {}
  int64_t parameters() const { return 0; }
  int64_t scratch() const { return 0; }

  template <class In>
  BO_INLINE_MEMBER Vec<T> at(const In& in) const {
    const Vec<T> r = broadcast(T(luma_weight(0))), g = broadcast(T(luma_weight(1))), b = broadcast(T(luma_weight(2)));
    return madd(b, in(2), madd(g, in(1), r * in(0)));
  }
  void gradient(const T*, const T* grad, int64_t count, int64_t pitch, T*, T* d_image, const LaneSums<T>&) const {
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t p = 0; p < count; ++p) d_image[j * pitch + p] = T(luma_weight(j)) * grad[p];
  }
  // The same added to what is there. step: from a pixel to the next
  static void add_gradient(const T* BO_RESTRICT grad, int64_t count, int64_t pitch, int64_t step,
                           T* BO_RESTRICT d_image) {
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t p = 0; p < count; ++p) d_image[j * pitch + p * step] += T(luma_weight(j)) * grad[p];
  }
};

// The guide of an image [channel][pixel] with rows `pitch` apart, in whole vectors.
template <class Guide, class T>
void guide_run(const Guide& guide, const T* image, int64_t count, int64_t pitch, T* to) {
  for (int64_t p = 0; p < count; p += Vec<T>::kLanes)
    store(to + p, guide.at([&](int64_t j) { return load(image + j * pitch + p); }));
}

// Calls f with the guide that the parameters describe, for images of `channels` channels.
template <class T, class F>
void with_guide(const GuideParameters& p, int64_t channels, F&& f) {
  switch (p.kind) {
    case GuideKind::curves: return f(Curves<T>(p, channels));
    case GuideKind::nn: return f(Network<T>(p, channels));
    case GuideKind::luma: return f(Luma<T>(p, channels));
  }
}

template <class Guide>
void guide_forward_as(const GuideArgs& a, const Guide& guide) {
  using T = typename Guide::T;
  const int64_t Ci = a.image.shape[3], width = tile_width(Ci + 1);
  const Tiling tiling = make_tiling(a.out.shape[0], a.out.shape[1], a.out.shape[2], width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* image = memory.take<T>(width * (Ci + 1), true);
    T* out = image + width * Ci;
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(a.image, tile, image, width);
      guide_run(guide, image, tile.count, width, out);
      store_plane(a.out, tile, out);
    }
  });
}

template <class Guide>
void guide_backward_as(const GuideGradArgs& a, const Guide& guide) {
  using T = typename Guide::T;
  const int64_t Ci = a.image.shape[3], width = tile_width(2 * Ci + guide.scratch()), size = guide.parameters();
  const Tiling tiling = make_tiling(a.grad.shape[0], a.grad.shape[1], a.grad.shape[2], width);
  const int64_t bands = band_count(tiling.count, width);
  Scratch sums_memory;
  constexpr int64_t kLanes = Vec<T>::kLanes;
  double* sums = sums_memory.take<double>(bands * size * kLanes, true);
  for_units(bands, [&](int64_t band) {
    Scratch memory;
    T* image = memory.take<T>(width * (2 * Ci + guide.scratch() + 1), true);
    T *d_image = image + width * Ci, *scratch = d_image + width * Ci, *grad = scratch + width * guide.scratch();
    for (int64_t index = tiling.count * band / bands; index < tiling.count * (band + 1) / bands; ++index) {
      const Tile tile = tile_at(tiling, index);
      // Without parameters the gradient does not depend on the image.
      if (Guide::kParameters) load_planar(a.image, tile, image, width);
      load_plane(a.grad, tile, grad);
      const int64_t count = ceil_div(tile.count, kPad) * kPad;
      for (int64_t p = tile.count; p < count; ++p) {
        grad[p] = T(0);
        for (int64_t c = 0; c < Ci; ++c) image[c * width + p] = image[c * width + tile.count - 1];
      }
      guide.gradient(image, grad, count, width, scratch, d_image, LaneSums<T>(sums + band * size * kLanes));
      if (a.d_image.data) store_planar(a.d_image, tile, d_image, width);
    }
  });
  Scratch result_memory;
  T* result = result_memory.take<T>(size);
  for (int64_t i = 0; i < size; ++i) {
    double sum = 0.0;
    for (int64_t band = 0; band < bands; ++band)
      for (int64_t l = 0; l < kLanes; ++l) sum += sums[(band * size + i) * kLanes + l];
    result[i] = static_cast<T>(sum);
  }
  for (int i = 0; i < Guide::kParameters; ++i) {
    const Tensor& to = a.d_value[i];
    const T* from = result;
    if (to.data) {
      parameter_rows(to, [&](int64_t at, int64_t stride, int64_t columns) {
        store_run(to.dtype, to.data + at, stride, columns, from, 1);
        from += columns;
      });
    }
    // Wanted or not, it has its place among the sums.
    result += GuideNumbers<T>::numbers_in(a.parameters.value[i]);
  }
}

void guide_forward(const GuideArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.parameters, a.image.shape[3], [&](const auto& guide) { guide_forward_as(a, guide); });
  });
}
void guide_backward(const GuideGradArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.parameters, a.image.shape[3], [&](const auto& guide) { guide_backward_as(a, guide); });
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
