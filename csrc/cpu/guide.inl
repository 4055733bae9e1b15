// guide_curves, guide_nn, guide_luma: the value of a tile's guide, then its gradients. Equations: ../ops.h
//
// A guide is a class with
//   T              the compute type
//   parameters()   how many numbers its parameters are
//   scratch()      numbers a pixel that it needs besides
//   value(image, count, pitch, scratch, guide)
//   gradient(image, grad, count, pitch, scratch, d_image, sums)   adds to sums, one double a parameter, in storing
//   order
// image and d_image are [channel][pixel] with rows `pitch` apart; scratch rows have the same pitch.
#pragma once

#include "../ops.h"
#include "spans.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// The parameters of a guide one after another in the compute type, as its class reads them.
template <class T>
class GuideNumbers {
 public:
  GuideNumbers(const GuideParameters& p, int count) : count_(count) {
    int64_t total = 0;
    for (int i = 0; i < count; ++i) total += numbers_in(p.value[i]);
    T* to = memory_.template take<T>(total);
    total_ = total;
    for (int i = 0; i < count; ++i) {
      at_[i] = to;
      const Tensor& t = p.value[i];
      const int64_t rows = t.rank > 1 ? t.shape[0] : 1, columns = t.rank ? t.shape[t.rank - 1] : 1;
      for (int64_t r = 0; r < rows; ++r)
        load_run(t.dtype, t.data + (t.rank > 1 ? r * t.strides[0] : 0), t.rank ? t.strides[t.rank - 1] : 0, columns,
                 to + r * columns, 1);
      to += rows * columns;
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
  int count_;
  int64_t total_;
};

// Sums over a tile, of whole vectors: the rows of a gradient are padded with zeros.
template <class T>
BO_INLINE double lane_sum(const Vec<T>& v) {
  T lanes[Vec<T>::kLanes];
  store(lanes, v);
  double sum = 0.0;
  for (int l = 0; l < Vec<T>::kLanes; ++l) sum += static_cast<double>(lanes[l]);
  return sum;
}
template <class T>
double tile_sum(int64_t count, const T* a) {
  Vec<T> sum = broadcast(T(0));
  for (int64_t p = 0; p < count; p += Vec<T>::kLanes) sum = sum + load(a + p);
  return lane_sum(sum);
}
template <class T>
double tile_dot(int64_t count, const T* a, const T* b) {
  Vec<T> sum = broadcast(T(0));
  for (int64_t p = 0; p < count; p += Vec<T>::kLanes) sum = madd(load(a + p), load(b + p), sum);
  return lane_sum(sum);
}

template <class Number>
class Curves {
 public:
  using T = Number;
  static constexpr int kParameters = 6;
  Curves(const GuideParameters& p, int64_t channels) : n_(p, kParameters), Ci_(channels), K_(p.value[2].shape[1]) {}
  int64_t parameters() const { return n_.total(); }
  int64_t scratch() const { return 2 * Ci_ + 2; }

  void value(const T* image, int64_t count, int64_t pitch, T* scratch, T* guide) const {
    sums(image, count, pitch, scratch, guide);
    for (int64_t p = 0; p < count; ++p) guide[p] = clip01(guide[p]);
  }

  void gradient(const T* image, const T* grad, int64_t count, int64_t pitch, T* scratch, T* d_image, double* d) const {
    T *q = scratch, *c = q + Ci_ * pitch, *inner = c + Ci_ * pitch, *d_q = inner + pitch;
    sums(image, count, pitch, scratch, inner);
    // From here on `inner` is the gradient of clip's argument.
    for (int64_t p = 0; p < count; ++p) {
      const T v = inner[p];
      inner[p] = v > T(0) && v < T(1) ? grad[p] : (v != v ? v : T(0));
    }
    double *d_ccm = d, *d_ccm_bias = d_ccm + Ci_ * Ci_, *d_shifts = d_ccm_bias + Ci_, *d_slopes = d_shifts + Ci_ * K_;
    double *d_mix = d_slopes + Ci_ * K_, *d_mix_bias = d_mix + Ci_;
    *d_mix_bias += tile_sum(count, inner);
    for (int64_t j = 0; j < Ci_ * pitch; ++j) d_image[j] = T(0);
    for (int64_t i = 0; i < Ci_; ++i) {
      const T *q_i = q + i * pitch, *c_i = c + i * pitch;
      d_mix[i] += tile_dot(count, inner, c_i);
      const T mix = n_[4][i];
      for (int64_t p = 0; p < count; ++p) d_q[p] = T(0);
      for (int64_t k = 0; k < K_; ++k) {
        const T shift = n_[2][i * K_ + k], slope = n_[3][i * K_ + k];
        const Vec<T> shifts = broadcast(shift), zero = broadcast(T(0));
        Vec<T> above = zero, lifted = zero;
        for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
          const Vec<T> v = load(q_i + p), d_v = load(inner + p);
          above = above + where_greater(v, shifts, d_v, zero);
          lifted = madd(d_v, where_greater(v, shifts, v - shifts, zero), lifted);
          store(d_q + p, load(d_q + p) + where_greater(v, shifts, broadcast(slope), zero));
        }
        d_shifts[i * K_ + k] -= static_cast<double>(mix) * static_cast<double>(slope) * lane_sum(above);
        d_slopes[i * K_ + k] += static_cast<double>(mix) * lane_sum(lifted);
      }
      for (int64_t p = 0; p < count; ++p) d_q[p] *= mix * inner[p];
      d_ccm_bias[i] += tile_sum(count, d_q);
      for (int64_t j = 0; j < Ci_; ++j) {
        const T* in = image + j * pitch;
        const T weight = n_[0][i * Ci_ + j];
        d_ccm[i * Ci_ + j] += tile_dot(count, d_q, in);
        for (int64_t p = 0; p < count; ++p) d_image[j * pitch + p] = madd(weight, d_q[p], d_image[j * pitch + p]);
      }
    }
  }

 private:
  // q and c into scratch, and the argument of clip
  void sums(const T* BO_RESTRICT image, int64_t count, int64_t pitch, T* BO_RESTRICT scratch,
            T* BO_RESTRICT total) const {
    for (int64_t p = 0; p < count; ++p) total[p] = *n_[5];
    for (int64_t i = 0; i < Ci_; ++i) {
      T *BO_RESTRICT q = scratch + i * pitch, *BO_RESTRICT c = scratch + (Ci_ + i) * pitch;
      for (int64_t p = 0; p < count; ++p) {
        q[p] = n_[1][i];
        c[p] = T(0);
      }
      for (int64_t j = 0; j < Ci_; ++j) {
        const T weight = n_[0][i * Ci_ + j];
        for (int64_t p = 0; p < count; ++p) q[p] = madd(weight, image[j * pitch + p], q[p]);
      }
      for (int64_t k = 0; k < K_; ++k) {
        const T shift = n_[2][i * K_ + k], slope = n_[3][i * K_ + k];
        for (int64_t p = 0; p < count; ++p) c[p] = madd(slope, relu(q[p] - shift), c[p]);
      }
      const T mix = n_[4][i];
      for (int64_t p = 0; p < count; ++p) total[p] = madd(mix, c[p], total[p]);
    }
  }

  const GuideNumbers<T> n_;
  const int64_t Ci_, K_;
};

template <class Number>
class Network {
 public:
  using T = Number;
  static constexpr int kParameters = 4;
  Network(const GuideParameters& p, int64_t channels) : n_(p, kParameters), Ci_(channels), F_(p.value[0].shape[0]) {}
  int64_t parameters() const { return n_.total(); }
  int64_t scratch() const { return 3; }

  void value(const T* image, int64_t count, int64_t pitch, T* scratch, T* guide) const {
    sums(image, count, pitch, scratch, guide);
    for (int64_t p = 0; p < count; ++p) guide[p] = sigmoid(guide[p]);
  }

  void gradient(const T* image, const T* grad, int64_t count, int64_t pitch, T* scratch, T* d_image, double* d) const {
    T *hidden = scratch, *d_sum = scratch + pitch, *term = d_sum + pitch;
    sums(image, count, pitch, hidden, d_sum);
    // 1 − sigmoid(v) = sigmoid(−v), which keeps its digits where sigmoid(v) is near 1.
    for (int64_t p = 0; p < count; ++p) d_sum[p] = grad[p] * sigmoid(d_sum[p]) * sigmoid(-d_sum[p]);
    double *d_w1 = d, *d_b1 = d_w1 + F_ * Ci_, *d_w2 = d_b1 + F_, *d_b2 = d_w2 + F_;
    *d_b2 += tile_sum(count, d_sum);
    for (int64_t j = 0; j < Ci_ * pitch; ++j) d_image[j] = T(0);
    for (int64_t f = 0; f < F_; ++f) {
      feature(f, image, count, pitch, hidden);
      const T w2 = n_[2][f];
      for (int64_t p = 0; p < count; ++p) term[p] = relu(hidden[p]);
      d_w2[f] += tile_dot(count, d_sum, term);
      for (int64_t p = 0; p < count; ++p) {
        const T h = hidden[p];
        hidden[p] = h > T(0) ? w2 * d_sum[p] : (h != h ? h : T(0));
      }
      d_b1[f] += tile_sum(count, hidden);
      for (int64_t j = 0; j < Ci_; ++j) {
        const T* in = image + j * pitch;
        const T weight = n_[0][f * Ci_ + j];
        d_w1[f * Ci_ + j] += tile_dot(count, hidden, in);
        for (int64_t p = 0; p < count; ++p) d_image[j * pitch + p] = madd(weight, hidden[p], d_image[j * pitch + p]);
      }
    }
  }

 private:
  // The argument of sigmoid
  void sums(const T* image, int64_t count, int64_t pitch, T* hidden, T* total) const {
    for (int64_t p = 0; p < count; ++p) total[p] = *n_[3];
    for (int64_t f = 0; f < F_; ++f) {
      feature(f, image, count, pitch, hidden);
      for (int64_t p = 0; p < count; ++p) total[p] = madd(n_[2][f], relu(hidden[p]), total[p]);
    }
  }
  // w1·in + b1 of one feature
  void feature(int64_t f, const T* BO_RESTRICT image, int64_t count, int64_t pitch, T* BO_RESTRICT to) const {
    for (int64_t p = 0; p < count; ++p) to[p] = n_[1][f];
    for (int64_t j = 0; j < Ci_; ++j) {
      const T weight = n_[0][f * Ci_ + j];
      for (int64_t p = 0; p < count; ++p) to[p] = madd(weight, image[j * pitch + p], to[p]);
    }
  }

  const GuideNumbers<T> n_;
  const int64_t Ci_, F_;
};

template <class Number>
class Luma {
 public:
  using T = Number;
  static constexpr int kParameters = 0;
  Luma(const GuideParameters&, int64_t) {}
  int64_t parameters() const { return 0; }
  int64_t scratch() const { return 0; }

  void value(const T* BO_RESTRICT image, int64_t count, int64_t pitch, T*, T* BO_RESTRICT guide) const {
    const T r = T(kLuma[0]), g = T(kLuma[1]), b = T(kLuma[2]);
    for (int64_t p = 0; p < count; ++p)
      guide[p] = madd(b, image[2 * pitch + p], madd(g, image[pitch + p], r * image[p]));
  }
  void gradient(const T*, const T* grad, int64_t count, int64_t pitch, T*, T* d_image, double*) const {
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t p = 0; p < count; ++p) d_image[j * pitch + p] = T(kLuma[j]) * grad[p];
  }
};

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
  const int64_t Ci = a.image.shape[3], width = tile_width(2 * Ci + guide.scratch());
  const Tiling tiling = make_tiling(a.out.shape[0], a.out.shape[1], a.out.shape[2], width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* image = memory.take<T>(width * (Ci + guide.scratch() + 1));
    T *scratch = image + width * Ci, *out = scratch + width * guide.scratch();
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(a.image, tile, image, width);
      guide.value(image, tile.count, width, scratch, out);
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
  double* sums = sums_memory.take<double>(bands * size, true);
  for_units(bands, [&](int64_t band) {
    Scratch memory;
    T* image = memory.take<T>(width * (2 * Ci + guide.scratch() + 1));
    T *d_image = image + width * Ci, *scratch = d_image + width * Ci, *grad = scratch + width * guide.scratch();
    for (int64_t index = tiling.count * band / bands; index < tiling.count * (band + 1) / bands; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(a.image, tile, image, width);
      load_plane(a.grad, tile, grad);
      const int64_t count = ceil_div(tile.count, kPad) * kPad;
      for (int64_t p = tile.count; p < count; ++p) {
        grad[p] = T(0);
        for (int64_t c = 0; c < Ci; ++c) image[c * width + p] = T(0);
      }
      guide.gradient(image, grad, count, width, scratch, d_image, sums + band * size);
      if (a.d_image.data) store_planar(a.d_image, tile, d_image, width);
    }
  });
  for (int64_t band = 1; band < bands; ++band)
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[band * size + i];

  Scratch result_memory;
  T* result = result_memory.take<T>(size);
  for (int64_t i = 0; i < size; ++i) result[i] = static_cast<T>(sums[i]);
  for (int i = 0; i < Guide::kParameters; ++i) {
    // Gradients have their parameters' shapes, wanted or not.
    const Tensor &shape = a.parameters.value[i], &to = a.d_value[i];
    const int64_t rows = shape.rank > 1 ? shape.shape[0] : 1, columns = shape.rank ? shape.shape[shape.rank - 1] : 1;
    for (int64_t r = 0; to.data && r < rows; ++r)
      store_run(to.dtype, to.data + (to.rank > 1 ? r * to.strides[0] : 0), to.rank ? to.strides[to.rank - 1] : 0,
                columns, result + r * columns, 1);
    result += rows * columns;
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
