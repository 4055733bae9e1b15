// guide_curves, guide_nn, guide_luma: the value of a tile's guide, then its gradients. Equations: ../ops.h
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

// As many vectors of pixels as are worked on together: what they share, as a parameter, is then loaded once, and no sum
// waits for its own last term. And as many rows of a matrix.
constexpr int64_t kTogether = 4;

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

// The knots of the curves c_i(q) = Σ_k slopes_ik·max(q − shifts_ik, 0), with the knots of a channel in order, s_1 ≤ s_2
// ≤ … Where n knots are below q,
//
//   c(q) = value_n + slope_n·(q − s_n),  slope_n = Σ_{k≤n} slopes_k,  value_n = Σ_{k≤n} slopes_k·(s_n − s_k)
//
// and with d the gradient of c, those of the knots,
//
//   d_slopes_k = Σ d·max(q − s_k, 0),  d_shifts_k = −slopes_k·Σ_{q > s_k} d
//
// come from two sums for each n, over the pixels that have n knots below: Σ d and Σ d·(q − s_n).
template <class T>
class SortedKnots {
 public:
  static constexpr int kTable = 16;  // knots, at least: beyond theirs, channels have some of no slope where the last is

  // Whether curves of as many knots are searched
  static bool searches(int64_t knots) { return kSearchedKnots<T> <= knots && knots <= kTable; }
  // There are none where it is as fast to go through all knots again and again, or where a parameter is not finite.
  // Values alone, that are not differentiated, need them for the search only.
  SortedKnots(const T* shifts, const T* slopes, int64_t channels, int64_t knots, bool differentiated)
      : knots_(knots), slopes_(slopes), size_(max_of<int64_t>(knots, kTable) + 1) {
    if (differentiated ? knots < kSortedKnots<T> : !searches(knots)) return;
    for (int64_t i = 0; i < channels * knots; ++i)
      if (!(shifts[i] - shifts[i] == T(0)) || !(slopes[i] - slopes[i] == T(0))) return;
    numbers_ = numbers_memory_.template take<T>(channels * 3 * size_);
    order_ = order_memory_.template take<int64_t>(channels * (knots + 1));
    for (int64_t i = 0; i < channels; ++i) sort(i, shifts + i * knots);
  }
  explicit operator bool() const { return numbers_; }

  // With n knots below, n = 0, …, max(K, kTable)
  const T* shift(int64_t channel) const { return numbers_ + channel * 3 * size_; }
  const T* slope(int64_t channel) const { return shift(channel) + size_; }
  const T* value(int64_t channel) const { return slope(channel) + size_; }
  // What the nth knot, 1 ≤ n, adds to it
  T step(int64_t channel, int64_t n) const {
    return n <= knots_ ? slopes_[channel * knots_ + given(channel, n)] : T(0);
  }
  // Whether its terms are infinite with different signs at ∞, or one is 0·∞
  bool odd_at_infinity(int64_t channel) const { return order_[channel * (knots_ + 1)] != 0; }
  int64_t knots() const { return knots_; }

  // The n of M vectors of pixels, c, its slope, and in place of q how far it is above the last knot below it.
  template <int M>
  BO_INLINE_MEMBER void at(int64_t channel, Vec<T>* q, Vec<T>* c, Vec<T>* slopes, Indices<T>* n) const {
    const T *shifts = shift(channel), *const tables[] = {shifts, slope(channel), value(channel)};
    Vec<T> below[M];
    for (int m = 0; m < M; ++m) below[m] = broadcast(T(0));
    for (int64_t k = 1; k <= knots_; ++k) {
      const Vec<T> s = broadcast(shifts[k]);
      for (int m = 0; m < M; ++m) below[m] = below[m] + where_greater(q[m], s, broadcast(T(1)));
    }
    for (int m = 0; m < M; ++m) {
      n[m] = truncated(below[m]);
      int32_t index[Vec<T>::kLanes];
      store_indices(index, n[m]);
      alignas(64) T found[3][Vec<T>::kLanes];
      for (int l = 0; l < Vec<T>::kLanes; ++l)
        for (int i = 0; i < 3; ++i) found[i][l] = tables[i][index[l]];
      const Vec<T> above = relu(q[m] - load(found[0]));
      slopes[m] = load(found[1]);
      c[m] = madd(slopes[m], above, load(found[2]));
      if (odd_at_infinity(channel)) c[m] = c[m] + (above - above);
      q[m] = above;
    }
  }

  // How many sums a channel's gradients are made of
  int64_t sums() const { return ceil_div(size_ * kApart * 2, Vec<T>::kLanes); }
  // Adds to them. n: of each pixel; above: what at() left in q; d: the gradient of c; count: of pixels, whole vectors
  static void add(const int32_t* BO_RESTRICT n, const T* BO_RESTRICT above, const T* BO_RESTRICT d, int64_t count,
                  const LaneSums<T>& sums) {
    Pair* const pairs = pairs_of(sums);
    for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
      alignas(64) T lifted[Vec<T>::kLanes];
      store(lifted, load(d + p) * load(above + p));
      for (int l = 0; l < Vec<T>::kLanes; ++l) {
        Pair* const pair = pairs + n[p + l] * kApart + l % kApart;
        pair->d += static_cast<double>(d[p + l]);
        pair->lifted += static_cast<double>(lifted[l]);
      }
    }
  }
  // A channel's gradients, for a d that is `mix` times that of the sums
  BO_NOINLINE_MEMBER void gradients(int64_t channel, const LaneSums<T>& sums, T mix, T* d_shifts, T* d_slopes) const {
    const T* s = shift(channel);
    const auto total = [&](int64_t n, double Pair::* which) {
      double sum = 0.0;
      for (int l = 0; l < kApart; ++l) sum += pairs_of(sums)[n * kApart + l].*which;
      return sum;
    };
    // Where d is not finite 0·d is NaN, that of the pixels below a knot too.
    double below = 0.0, above = 0.0, lifted = 0.0;
    for (int64_t n = 1; n <= knots_; ++n) {
      below += 0.0 * total(n - 1, &Pair::d);
      d_slopes[given(channel, n)] = static_cast<T>(below);
    }
    for (int64_t n = size_ - 1; n > 0; --n) {
      const double higher = n + 1 < size_ ? static_cast<double>(s[n + 1]) - static_cast<double>(s[n]) : 0.0;
      if (higher > 0.0) lifted += higher * above;
      above += total(n, &Pair::d);
      lifted += total(n, &Pair::lifted);
      if (n > knots_) continue;
      const int64_t k = given(channel, n);
      d_shifts[k] = static_cast<T>(static_cast<double>(-mix * step(channel, n)) * above);
      d_slopes[k] += static_cast<T>(static_cast<double>(mix) * lifted);
    }
  }

 private:
  // Lanes are added up apart, so that no sum waits long for its own last term.
  static constexpr int kApart = 8;
  struct Pair {
    double d, lifted;
  };
  static Pair* pairs_of(const LaneSums<T>& sums) { return reinterpret_cast<Pair*>(sums.lanes()); }

  // Which of the channel's knots as they were given is the nth
  int64_t given(int64_t channel, int64_t n) const { return order_[channel * (knots_ + 1) + n]; }
  BO_NOINLINE_MEMBER void sort(int64_t channel, const T* shifts) {
    int64_t* const order = order_ + channel * (knots_ + 1);
    T *const s = numbers_ + channel * 3 * size_, *const slopes = s + size_, *const values = slopes + size_;
    bool rises = false, falls = false, flat = false;
    for (int64_t k = 0; k < knots_; ++k) {
      int64_t n = k + 1;
      for (; n > 1 && s[n - 1] > shifts[k]; --n) {
        s[n] = s[n - 1];
        order[n] = order[n - 1];
      }
      s[n] = shifts[k];
      order[n] = k;
      const T own = slopes_[channel * knots_ + k];
      rises = rises || own > T(0);
      falls = falls || own < T(0);
      flat = flat || own == T(0);
    }
    order[0] = flat || (rises && falls);
    for (int64_t n = knots_ + 1; n < size_; ++n) s[n] = s[n - 1];
    s[0] = s[1];
    double slope = 0.0, value = 0.0;
    for (int64_t n = 0; n < size_; ++n) {
      if (n > 0) {
        value += slope * (static_cast<double>(s[n]) - static_cast<double>(s[n - 1]));
        slope += static_cast<double>(step(channel, n));
      }
      slopes[n] = static_cast<T>(slope);
      values[n] = static_cast<T>(value);
    }
  }

  const int64_t knots_;
  const T* const slopes_;
  const int64_t size_;
  Scratch numbers_memory_, order_memory_;
  T* numbers_ = nullptr;
  int64_t* order_ = nullptr;
};

// The curves of up to 16 knots, in register tables. Cut into pieces of R knots, of which q is in the one that begins at
// s_m,
//
//   c(q) = value_m + slope_m·max(q − s_m, 0) + Σ_{m<k<m+R} slopes_k·max(q − s_k, 0)
//
// and m is found in a comparison for each halving of the pieces, down a binary tree.
template <class T>
class SearchedCurves {
 public:
  // There are none where adding up the knots is as fast, or of more knots than a table has.
  SearchedCurves(const SortedKnots<T>& sorted, int64_t channels) {
    if (!sorted || !sorted.searches(sorted.knots())) return;
    curves_ = memory_.template take<Curve>(channels);
    for (int64_t i = 0; i < channels; ++i) fill(curves_[i], sorted, i);
  }
  explicit operator bool() const { return kPossible && curves_; }

  // c = c_channel(q) for M vectors of pixels
  template <int M>
  BO_INLINE_MEMBER void at(int64_t channel, const Vec<T>* q, Vec<T>* c) const {
    if constexpr (kPossible) {
      for (int m = 0; m < M; ++m) c[m] = value(curves_[channel], q[m], piece(curves_[channel], q[m]));
    }
  }
  // The same with what SortedKnots' at() finds besides
  template <int M>
  BO_INLINE_MEMBER void at(int64_t channel, Vec<T>* q, Vec<T>* c, Vec<T>* slopes, Indices<T>* n) const {
    if constexpr (kPossible) {
      const Curve& curve = curves_[channel];
      const Vec<T> one = broadcast(T(1));
      for (int m = 0; m < M; ++m) {
        const Indices<T> i = piece(curve, q[m]);
        c[m] = value(curve, q[m], i);
        Vec<T> s = lookup<kPieces>(curve.shift[0], i), above = q[m] - s;
        Vec<T> below = lookup<kPieces>(curve.before, i) + where_greater(q[m], s, one);
        slopes[m] = where_greater(q[m], s, lookup<kPieces>(curve.slope[0], i));
        for (int r = 1; r < kInPiece; ++r) {
          s = lookup<kPieces>(curve.shift[r], i);
          below = below + where_greater(q[m], s, one);
          slopes[m] = slopes[m] + where_greater(q[m], s, lookup<kPieces>(curve.slope[r], i));
          above = where_greater(q[m], s, q[m] - s, above);
        }
        n[m] = truncated(below);
        q[m] = above;
      }
    }
  }

 private:
  static constexpr bool kPossible = kSearchedKnots<T> < kNever;
  struct Curve;
  static BO_INLINE_MEMBER Indices<T> piece(const Curve& c, const Vec<T>& q) {
    const Vec<T> middle = broadcast(c.middle[0][0]);
    Indices<T> i = descend<1>(broadcast_index(0, T()), q, middle);
    i = descend<2>(i, q, where_greater(q, middle, broadcast(c.middle[1][1]), broadcast(c.middle[1][0])));
    i = descend<4>(i, q, lookup<8>(c.middle[2], i));
    return kPieces == 16 ? descend<8>(i, q, lookup<8>(c.middle[3], i)) : i;
  }
  static BO_INLINE_MEMBER Vec<T> value(const Curve& c, const Vec<T>& q, const Indices<T>& i) {
    const Vec<T> above = relu(q - lookup<kPieces>(c.shift[0], i));
    Vec<T> v = madd(lookup<kPieces>(c.slope[0], i), above, lookup<kPieces>(c.value, i));
    for (int r = 1; r < kInPiece; ++r)
      v = madd(lookup<kPieces>(c.slope[r], i), relu(q - lookup<kPieces>(c.shift[r], i)), v);
    return c.odd_at_infinity ? v + (above - above) : v;
  }

  static constexpr int kKnots = SortedKnots<T>::kTable, kInPiece = kKnotsInPiece<T>, kPieces = kKnots / kInPiece;
  // Pieces, and the knots in the middle of halves, quarters, …, where a bit of their index says lower or upper half,
  // the lowest bit first: a search's first steps then have small tables. before: how many knots come before a piece.
  struct Curve {
    alignas(64) T middle[4][8], shift[kInPiece][kPieces], slope[kInPiece][kPieces], value[kPieces], before[kPieces];
    bool odd_at_infinity;
  };
  BO_NOINLINE_MEMBER static void fill(Curve& c, const SortedKnots<T>& sorted, int64_t channel) {
    const T* s = sorted.shift(channel) + 1;
    c.odd_at_infinity = sorted.odd_at_infinity(channel);
    for (int64_t k = 0; k < kKnots; ++k) {
      const int64_t piece = reversed(k / kInPiece, kLevels), r = k % kInPiece;
      c.shift[r][piece] = s[k];
      c.slope[r][piece] = r ? sorted.step(channel, k + 1) : sorted.slope(channel)[k + 1];
      // In a piece they share what is before them at their place: 0·∞ is NaN.
      if (r > 0 && k >= sorted.knots()) c.slope[r][piece] = c.slope[r - 1][piece] *= T(0.5);
      if (r == 0) {
        c.value[piece] = sorted.value(channel)[k + 1];
        c.before[piece] = static_cast<T>(k);
      }
    }
    for (int64_t d = 0; d < kLevels; ++d) {
      const int64_t parts = int64_t(1) << d, size = kKnots / parts;
      for (int64_t i = 0; i < 8; ++i) c.middle[d][i] = s[reversed(i % parts, d) * size + size / 2];
    }
  }
  static constexpr int kLevels = kPieces == 16 ? 4 : 3;
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

template <class Number>
class Network {
 public:
  using T = Number;
  using V = Vec<T>;
  static constexpr int kParameters = 4;
  Network(const GuideParameters& p, int64_t channels) : n_(p, kParameters), Ci_(channels), F_(p.value[0].shape[0]) {}
  int64_t parameters() const { return n_.total(); }
  int64_t sums() const { return parameters(); }
  int64_t scratch() const { return 1 + kTogether; }

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
    for_pixels<T>(count, [&](int64_t p, auto together) {
      constexpr int M = decltype(together)::value;
      V v[M];
      sums<M>(channels_at(image, pitch, p), v);
      for (int m = 0; m < M; ++m) {
        // 1 − sigmoid(v) = sigmoid(−v), which keeps its digits where sigmoid(v) is near 1.
        const V d = load(grad + p + m * V::kLanes) * sigmoid(v[m]) * sigmoid(zero - v[m]);
        store(d_sum + p + m * V::kLanes, d);
        d_b2_sum = d_b2_sum + d;
      }
    });
    d_b2.add(0, d_b2_sum);
    for_together(F_, [&](int64_t f, auto features) {
      for (int64_t i = 0; i < features.value; ++i) {
        const V w2 = broadcast(n_[2][f + i]);
        V d_w2_sum = zero, d_b1_sum = zero;
        for_pixels<T>(count, [&](int64_t p, auto together) {
          constexpr int M = decltype(together)::value;
          V h[M];
          affine<M>(n_[0] + (f + i) * Ci_, n_[1][f + i], Ci_, channels_at(image, pitch, p), h);
          for (int m = 0; m < M; ++m) {
            const V d = load(d_sum + p + m * V::kLanes);
            d_w2_sum = madd(d, relu(h[m]), d_w2_sum);
            const V passed = where_equal(h[m], h[m], where_greater(h[m], zero, w2 * d), h[m]);
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
  void gradients(const LaneSums<T>& sums, T* to) const { sums.total(parameters(), to); }

 private:
  // The argument of sigmoid for M vectors of pixels
  template <int M, class In>
  BO_INLINE_MEMBER void sums(const In& in, V* total) const {
    for (int m = 0; m < M; ++m) total[m] = broadcast(*n_[3]);
    for (int64_t f = 0; f < F_; ++f) {
      V h[M];
      affine<M>(n_[0] + f * Ci_, n_[1][f], Ci_, in, h);
      for (int m = 0; m < M; ++m) total[m] = madd(broadcast(n_[2][f]), relu(h[m]), total[m]);
    }
  }

  const GuideNumbers<T> n_;
  const int64_t Ci_, F_;
};

template <class Number>
class Luma {
 public:
  using T = Number;
  Luma() = default;
  Luma(const GuideParameters&, int64_t) {}

  template <int M, class In>
  BO_INLINE_MEMBER void at(const In& in, Vec<T>* out) const {
    const Vec<T> r = broadcast(T(luma_weight(0))), g = broadcast(T(luma_weight(1))), b = broadcast(T(luma_weight(2)));
    for (int m = 0; m < M; ++m) out[m] = madd(b, in(2, m), madd(g, in(1, m), r * in(0, m)));
  }
  // Its gradient, added to what is there. step: from a pixel to the next
  static void add_gradient(const T* BO_RESTRICT grad, int64_t count, int64_t pitch, int64_t step,
                           T* BO_RESTRICT d_image) {
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t p = 0; p < count; ++p) d_image[j * pitch + p * step] += T(luma_weight(j)) * grad[p];
  }
};

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

// Calls f with the guide that the parameters describe, for images of `channels` channels. differentiated: whether f
// asks for its gradients
template <class T, class F>
void with_guide(const GuideParameters& p, int64_t channels, bool differentiated, F&& f) {
  switch (p.kind) {
    case GuideKind::curves: return f(Curves<T>(p, channels, differentiated));
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

// Of the luma there are no parameters' gradients, and the image's does not depend on it.
template <class T>
void guide_backward_as(const GuideGradArgs& a, const Luma<T>&) {
  if (!a.d_image.data) return;
  const Tiling tiling = make_tiling(a.grad.shape[0], a.grad.shape[1], a.grad.shape[2], kTileWidth);
  for_tile_ranges(tiling.count, kTileWidth, [&](int64_t first, int64_t last) {
    with_pixels(a.d_image, a.d_image, T(), [&](auto storage) {
      using S = decltype(storage);
      Pixels3<S, T> d_image(a.d_image);
      alignas(64) T grad[kTileWidth + kPad] = {};
      for (int64_t index = first; index < last; ++index) {
        const Tile tile = tile_at(tiling, index);
        load_plane(a.grad, tile, grad);
        char* to = d_image.target(tile);
        for (int64_t p = 0; p < tile.count; p += Vec<T>::kLanes, to += d_image.kBytes) {
          Vec<T> v[3];
          for (int j = 0; j < 3; ++j) v[j] = broadcast(T(luma_weight(j))) * load(grad + p);
          prefetch_ahead<Pixels3<S, T>::kBytes>(to);
          store3<S>(to, v);
        }
        d_image.put(tile);
      }
    });
  });
}

template <class Guide>
void guide_backward_as(const GuideGradArgs& a, const Guide& guide) {
  using T = typename Guide::T;
  // A row of a few vectors is over before its loop has begun: of many channels tiles are rather larger than the cache.
  const int64_t Ci = a.image.shape[3], width = max_of<int64_t>(64, tile_width(2 * Ci + guide.scratch()));
  const int64_t size = guide.sums() * Vec<T>::kLanes;
  const Tiling tiling = make_tiling(a.grad.shape[0], a.grad.shape[1], a.grad.shape[2], width);
  const int64_t bands = band_count(tiling.count, width);
  Scratch sums_memory;
  double* sums = sums_memory.take<double>(bands * size, true);
  for_units(bands, [&](int64_t band) {
    Scratch memory;
    T* image = memory.take<T>(width * (2 * Ci + guide.scratch() + 1), true);
    T *d_image = image + width * Ci, *scratch = d_image + width * Ci, *grad = scratch + width * guide.scratch();
    for (int64_t index = tiling.count * band / bands; index < tiling.count * (band + 1) / bands; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(a.image, tile, image, width);
      load_plane(a.grad, tile, grad);
      const int64_t count = ceil_div(tile.count, kPad) * kPad;
      for (int64_t p = tile.count; p < count; ++p) {
        grad[p] = T(0);
        for (int64_t c = 0; c < Ci; ++c) image[c * width + p] = image[c * width + tile.count - 1];
      }
      guide.gradient(image, grad, count, width, scratch, d_image, LaneSums<T>(sums + band * size));
      if (a.d_image.data) store_planar(a.d_image, tile, d_image, width);
    }
  });
  for (int64_t band = 1; band < bands; ++band)
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[band * size + i];
  Scratch result_memory;
  T* result = result_memory.take<T>(guide.parameters());
  guide.gradients(LaneSums<T>(sums), result);
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
    with_guide<decltype(t)>(a.parameters, a.image.shape[3], false,
                            [&](const auto& guide) { guide_forward_as(a, guide); });
  });
}
void guide_backward(const GuideGradArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.parameters, a.image.shape[3], true,
                            [&](const auto& guide) { guide_backward_as(a, guide); });
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
