// guide_curves: sums over sorted knots (SortedKnots), the search for a pixel's piece of a curve (SearchedCurves), and
// the guide made of both (Curves), its value, then its gradients. Equations: ../../ops.h
#pragma once

#include "shared.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// The curves c_i(q) = Σ_k slopes_ik·max(q − shifts_ik, 0) by their sorted knots, s_1 ≤ s_2 ≤ … With n knots below q,
//
//   c(q) = value_n + slope_n·(q − s_n),  slope_n = Σ_{k≤n} slopes_k,  value_n = Σ_{k≤n} slopes_k·(s_n − s_k)
//
// With d the gradient of c, the gradients of the knots,
//
//   d_slopes_k = Σ d·max(q − s_k, 0),  d_shifts_k = −slopes_k·Σ_{q > s_k} d
//
// follow from two sums per n, over the pixels with n knots below: Σ d and the moment Σ d·(q − s_n). So a pixel adds to
// two sums, however many knots there are.
template <class T>
class SortedKnots {
 public:
  // Tables have this many knots, at least; those beyond a channel's own repeat the last one with no slope.
  static constexpr int kTable = 16;

  // Whether curves of so many knots are searched
  static bool searches(int64_t knots) { return kSearchedKnots<T> <= knots && knots <= kTable; }
  // Stays empty where it is as fast to sum over all knots, and where a parameter is not finite. Values alone
  // (differentiated is false) need sorted knots for the search only.
  SortedKnots(const T* shifts, const T* slopes, int64_t channels, int64_t knots, bool differentiated)
      : knots_(knots), slopes_(slopes), size_(max_of<int64_t>(knots, kTable) + 1) {
    if (differentiated ? knots < kSortedKnots<T> : !searches(knots)) return;
    for (int64_t i = 0; i < channels * knots; ++i)
      if (!(shifts[i] - shifts[i] == T(0)) || !(slopes[i] - slopes[i] == T(0))) return;
    tables_ = tables_memory_.template take<T>(channels * 3 * size_);
    order_ = order_memory_.template take<int64_t>(channels * (knots + 1));
    for (int64_t i = 0; i < channels; ++i) sort(i, shifts + i * knots);
  }
  explicit operator bool() const { return tables_; }

  // Tables of s_n, slope_n and value_n, n = 0, …, max(K, kTable)
  const T* shift(int64_t channel) const { return tables_ + channel * 3 * size_; }
  const T* slope(int64_t channel) const { return shift(channel) + size_; }
  const T* value(int64_t channel) const { return slope(channel) + size_; }
  // slope_n − slope_{n−1}
  T step(int64_t channel, int64_t n) const {
    return n <= knots_ ? slopes_[channel * knots_ + original(channel, n)] : T(0);
  }
  // Whether the curve is NaN at q = ∞: its terms are infinite with different signs, or one is 0·∞.
  bool nan_at_infinity(int64_t channel) const { return order_[channel * (knots_ + 1)] != 0; }
  int64_t knots() const { return knots_; }

  // For M vectors of pixels: n, c, the slope of c, and q − s_n in place of q
  template <int M>
  BO_INLINE_MEMBER void at(int64_t channel, Vec<T>* q, Vec<T>* c, Vec<T>* slopes, Indices<T>* n) const {
    const T *shifts = shift(channel), *const tables[] = {shifts, slope(channel), value(channel)};
    Vec<T> below[M];
    for (int m = 0; m < M; ++m) below[m] = broadcast(T(0));
    for (int64_t k = 1; k <= knots_; ++k) {
      const Vec<T> s = broadcast(shifts[k]);
      for (int m = 0; m < M; ++m) below[m] = below[m] + select_greater(q[m], s, broadcast(T(1)));
    }
    for (int m = 0; m < M; ++m) {
      n[m] = to_indices(below[m]);
      int32_t index[Vec<T>::kLanes];
      store_indices(index, n[m]);
      alignas(64) T found[3][Vec<T>::kLanes];
      for (int l = 0; l < Vec<T>::kLanes; ++l)
        for (int i = 0; i < 3; ++i) found[i][l] = tables[i][index[l]];
      const Vec<T> above = relu(q[m] - load(found[0]));
      slopes[m] = load(found[1]);
      c[m] = mul_add(slopes[m], above, load(found[2]));
      if (nan_at_infinity(channel)) c[m] = c[m] + (above - above);
      q[m] = above;
    }
  }

  // How many sums (in LaneSums) a channel's gradients are made of
  int64_t sums() const { return ceil_div(size_ * kCopies * 2, Vec<T>::kLanes); }
  // Adds `count` pixels, whole vectors of them, to the sums. above: q − s_n, as at() leaves it; d: the gradient of c
  static void add(const int32_t* BO_RESTRICT n, const T* BO_RESTRICT above, const T* BO_RESTRICT d, int64_t count,
                  const LaneSums<T>& sums) {
    Pair* const pairs = pairs_of(sums);
    for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
      alignas(64) T moment[Vec<T>::kLanes];
      store(moment, load(d + p) * load(above + p));
      for (int l = 0; l < Vec<T>::kLanes; ++l) {
        Pair* const pair = pairs + n[p + l] * kCopies + l % kCopies;
        pair->d += static_cast<double>(d[p + l]);
        pair->moment += static_cast<double>(moment[l]);
      }
    }
  }
  // A channel's gradients from its sums, for a d that is `mix` times theirs
  BO_NOINLINE_MEMBER void gradients(int64_t channel, const LaneSums<T>& sums, T mix, T* d_shifts, T* d_slopes) const {
    const T* s = shift(channel);
    const auto total = [&](int64_t n, double Pair::* which) {
      double sum = 0.0;
      for (int l = 0; l < kCopies; ++l) sum += pairs_of(sums)[n * kCopies + l].*which;
      return sum;
    };
    // d·max(q − s_k, 0) is NaN where d is not finite, although q may be below the knot.
    double below = 0.0, above = 0.0, moment = 0.0;
    for (int64_t n = 1; n <= knots_; ++n) {
      below += 0.0 * total(n - 1, &Pair::d);
      d_slopes[original(channel, n)] = static_cast<T>(below);
    }
    for (int64_t n = size_ - 1; n > 0; --n) {
      const double higher = n + 1 < size_ ? static_cast<double>(s[n + 1]) - static_cast<double>(s[n]) : 0.0;
      if (higher > 0.0) moment += higher * above;
      above += total(n, &Pair::d);
      moment += total(n, &Pair::moment);
      if (n > knots_) continue;
      const int64_t k = original(channel, n);
      d_shifts[k] = static_cast<T>(static_cast<double>(-mix * step(channel, n)) * above);
      d_slopes[k] += static_cast<T>(static_cast<double>(mix) * moment);
    }
  }

 private:
  // Lanes add to different copies of the sums, so that additions do not wait for one another.
  static constexpr int kCopies = 8;
  struct Pair {
    double d, moment;
  };
  static Pair* pairs_of(const LaneSums<T>& sums) { return reinterpret_cast<Pair*>(sums.lanes()); }

  // The index that the channel's n-th knot had before sorting
  int64_t original(int64_t channel, int64_t n) const { return order_[channel * (knots_ + 1) + n]; }
  BO_NOINLINE_MEMBER void sort(int64_t channel, const T* shifts) {
    int64_t* const order = order_ + channel * (knots_ + 1);
    T *const s = tables_ + channel * 3 * size_, *const slopes = s + size_, *const values = slopes + size_;
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
  Scratch tables_memory_, order_memory_;
  T* tables_ = nullptr;
  int64_t* order_ = nullptr;
};

// Curves of up to 16 knots, in register tables. Pieces have R knots; for q in the piece that begins at s_m,
//
//   c(q) = value_m + slope_m·max(q − s_m, 0) + Σ_{m<k<m+R} slopes_k·max(q − s_k, 0)
//
// The piece is found by binary search, one comparison per halving.
template <class T>
class SearchedCurves {
 public:
  // Stays empty where summing over the knots is as fast, or there are more than a table has.
  SearchedCurves(const SortedKnots<T>& sorted, int64_t channels) {
    if (!sorted || !sorted.searches(sorted.knots())) return;
    curves_ = memory_.template take<Curve>(channels);
    for (int64_t i = 0; i < channels; ++i) fill(curves_[i], sorted, i);
  }
  explicit operator bool() const { return kPossible && curves_; }

  // c for M vectors of pixels
  template <int M>
  BO_INLINE_MEMBER void at(int64_t channel, const Vec<T>* q, Vec<T>* c) const {
    if constexpr (kPossible) {
      for (int m = 0; m < M; ++m) c[m] = value(curves_[channel], q[m], piece(curves_[channel], q[m]));
    }
  }
  // The same as SortedKnots::at()
  template <int M>
  BO_INLINE_MEMBER void at(int64_t channel, Vec<T>* q, Vec<T>* c, Vec<T>* slopes, Indices<T>* n) const {
    if constexpr (kPossible) {
      const Curve& curve = curves_[channel];
      const Vec<T> one = broadcast(T(1));
      for (int m = 0; m < M; ++m) {
        const Indices<T> i = piece(curve, q[m]);
        c[m] = value(curve, q[m], i);
        Vec<T> s = lookup<kPieces>(curve.shift[0], i), above = q[m] - s;
        Vec<T> below = lookup<kPieces>(curve.before, i) + select_greater(q[m], s, one);
        slopes[m] = select_greater(q[m], s, lookup<kPieces>(curve.slope[0], i));
        for (int r = 1; r < kInPiece; ++r) {
          s = lookup<kPieces>(curve.shift[r], i);
          below = below + select_greater(q[m], s, one);
          slopes[m] = slopes[m] + select_greater(q[m], s, lookup<kPieces>(curve.slope[r], i));
          above = select_greater(q[m], s, q[m] - s, above);
        }
        n[m] = to_indices(below);
        q[m] = above;
      }
    }
  }

 private:
  static constexpr bool kPossible = kSearchedKnots<T> < kNever;
  struct Curve;
  static BO_INLINE_MEMBER Indices<T> piece(const Curve& c, const Vec<T>& q) {
    const Vec<T> middle = broadcast(c.middle[0][0]);
    Indices<T> i = set_bit_if_greater<1>(broadcast_index(0, T()), q, middle);
    i = set_bit_if_greater<2>(i, q, select_greater(q, middle, broadcast(c.middle[1][1]), broadcast(c.middle[1][0])));
    i = set_bit_if_greater<4>(i, q, lookup<8>(c.middle[2], i));
    return kPieces == 16 ? set_bit_if_greater<8>(i, q, lookup<8>(c.middle[3], i)) : i;
  }
  static BO_INLINE_MEMBER Vec<T> value(const Curve& c, const Vec<T>& q, const Indices<T>& i) {
    const Vec<T> above = relu(q - lookup<kPieces>(c.shift[0], i));
    Vec<T> v = mul_add(lookup<kPieces>(c.slope[0], i), above, lookup<kPieces>(c.value, i));
    for (int r = 1; r < kInPiece; ++r)
      v = mul_add(lookup<kPieces>(c.slope[r], i), relu(q - lookup<kPieces>(c.shift[r], i)), v);
    return c.nan_at_infinity ? v + (above - above) : v;
  }

  static constexpr int kKnots = SortedKnots<T>::kTable, kInPiece = kKnotsInPiece<T>, kPieces = kKnots / kInPiece;
  // middle[d]: the knots at which step d of the search divides. Pieces are numbered in bit-reversed order, as each step
  // adds the next higher bit: so the first steps need small tables only. before: how many knots precede a piece.
  struct Curve {
    alignas(64) T middle[4][8], shift[kInPiece][kPieces], slope[kInPiece][kPieces], value[kPieces], before[kPieces];
    bool nan_at_infinity;
  };
  BO_NOINLINE_MEMBER static void fill(Curve& c, const SortedKnots<T>& sorted, int64_t channel) {
    const T* s = sorted.shift(channel) + 1;
    c.nan_at_infinity = sorted.nan_at_infinity(channel);
    for (int64_t k = 0; k < kKnots; ++k) {
      const int64_t piece = reversed(k / kInPiece, kLevels), r = k % kInPiece;
      c.shift[r][piece] = s[k];
      c.slope[r][piece] = r ? sorted.step(channel, k + 1) : sorted.slope(channel)[k + 1];
      // Knots that repeat the last one share its slope within a piece: a slope of zero would make 0·∞ = NaN.
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
  int64_t parameters() const { return n_.count(); }
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
      const V raised = select_greater(zero, out[m], zero, out[m]);
      out[m] = select_greater(raised, one, one, raised);
    }
  }

  void gradient(const T* image, const T* grad, int64_t count, int64_t pitch, T* scratch, T* d_image,
                const LaneSums<T>& d_ccm) const {
    const LaneSums<T> d_ccm_bias = d_ccm.from(Ci_ * Ci_), d_knots = d_ccm_bias.from(Ci_),
                      d_mix = d_knots.from(knot_sums()), d_mix_bias = d_mix.from(Ci_);
    T *q = scratch, *c = q + Ci_ * pitch, *d_q = c + Ci_ * pitch, *d_mixed = d_q + Ci_ * pitch;
    int32_t* n = reinterpret_cast<int32_t*>(d_mixed + pitch);
    const V zero = broadcast(T(0)), one = broadcast(T(1));
    V sum = zero;
    // The values; curve(Constant<M>, i, q, c, slope, n) is channel i's, as SortedKnots::at()
    const auto go_forward = [&](auto curve) BO_INLINE_LAMBDA {
      for_pixels<T>(count, [&](int64_t p, auto unrolled) BO_INLINE_LAMBDA {
        constexpr int M = decltype(unrolled)::value;
        V v[M];
        mixed<M>(channels_at(image, pitch, p), v, [&](int64_t i, V* q_i, V* c_i) BO_INLINE_LAMBDA {
          V slope[M];
          Indices<T> n_i[M];
          curve(unrolled, i, q_i, c_i, slope, n_i);
          for (int m = 0; m < M; ++m) {
            const int64_t at = i * pitch + p + m * V::kLanes;
            if (sorted_) store_indices(n + at, n_i[m]);
            store(d_q + at, slope[m]);
            store(q + at, q_i[m]);
            store(c + at, c_i[m]);
          }
        });
        for (int m = 0; m < M; ++m) {
          // The gradient of clip's argument: 0 where that is clipped, NaN where it is NaN
          const V open = select_greater(v[m], zero, select_greater(one, v[m], load(grad + p + m * V::kLanes)));
          const V d_v = select_equal(v[m], v[m], open, v[m]);
          store(d_mixed + p + m * V::kLanes, d_v);
          sum = sum + d_v;
        }
      });
    };
    if (searched_) {
      go_forward([&](auto unrolled, int64_t i, V* q_i, V* c_i, V* slope, Indices<T>* n_i) {
        searched_.template at<decltype(unrolled)::value>(i, q_i, c_i, slope, n_i);
      });
    } else if (sorted_) {
      go_forward([&](auto unrolled, int64_t i, V* q_i, V* c_i, V* slope, Indices<T>* n_i) {
        sorted_.template at<decltype(unrolled)::value>(i, q_i, c_i, slope, n_i);
      });
    } else {
      go_forward([&](auto unrolled, int64_t i, V* q_i, V* c_i, V* slope, Indices<T>*) {
        add_up<decltype(unrolled)::value>(i, q_i, c_i);
        add_up_slopes<decltype(unrolled)::value>(i, q_i, slope);
      });
    }
    d_mix_bias.add(0, sum);
    for (int64_t i = 0; i < Ci_; ++i) {
      const T *q_i = q + i * pitch, *c_i = c + i * pitch;
      T* d_q_i = d_q + i * pitch;
      if (sorted_) {
        sorted_.add(n + i * pitch, q_i, d_mixed, count, d_knots.from(i * sorted_.sums()));
      } else {
        for_unrolled(K_, [&](int64_t k, auto unrolled) {
          knot_gradients<decltype(unrolled)::value>(i, k, count, q_i, d_mixed, d_knots);
        });
      }
      const V mix = broadcast(n_[4][i]);
      V d_mix_sum = zero, d_bias_sum = zero;
      for (int64_t p = 0; p < count; p += V::kLanes) {
        const V d_v = load(d_mixed + p), d = load(d_q_i + p) * (mix * d_v);
        d_mix_sum = mul_add(d_v, load(c_i + p), d_mix_sum);
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
    d_ccm.reduce(Ci_ * Ci_ + Ci_, to);
    to += Ci_ * Ci_ + Ci_;
    for (int64_t i = 0; sorted_ && i < Ci_; ++i)
      sorted_.gradients(i, d_knots.from(i * sorted_.sums()), n_[4][i], to + i * K_, to + (Ci_ + i) * K_);
    if (!sorted_) d_knots.reduce(knot_sums(), to);
    d_knots.from(knot_sums()).reduce(Ci_ + 1, to + 2 * Ci_ * K_);
  }

 private:
  int64_t knot_sums() const { return sorted_ ? Ci_ * sorted_.sums() : 2 * Ci_ * K_; }

  // Adds the gradients of M knots of channel i, from knot k on, summed knot by knot.
  template <int M>
  BO_INLINE_MEMBER void knot_gradients(int64_t i, int64_t k, int64_t count, const T* BO_RESTRICT q,
                                       const T* BO_RESTRICT d_mixed, const LaneSums<T>& d_shifts) const {
    const LaneSums<T> d_slopes = d_shifts.from(Ci_ * K_);
    const T *shifts = n_[2] + i * K_ + k, *slopes = n_[3] + i * K_ + k, mix = n_[4][i];
    V shift[M], above[M], moment[M];
    for (int j = 0; j < M; ++j) {
      shift[j] = broadcast(shifts[j]);
      above[j] = moment[j] = broadcast(T(0));
    }
    for (int64_t p = 0; p < count; p += V::kLanes) {
      const V v = load(q + p), d_v = load(d_mixed + p);
      for (int j = 0; j < M; ++j) {
        above[j] = above[j] + select_greater(v, shift[j], d_v);
        moment[j] = mul_add(d_v, relu(v - shift[j]), moment[j]);
      }
    }
    for (int j = 0; j < M; ++j) {
      d_shifts.add(i * K_ + k + j, above[j], -mix * slopes[j]);
      d_slopes.add(i * K_ + k + j, moment[j], mix);
    }
  }

  // The curve of channel i as a sum over its knots; its slope
  template <int M>
  BO_INLINE_MEMBER void add_up(int64_t i, const V* q, V* c) const {
    const T *shifts = n_[2] + i * K_, *slopes = n_[3] + i * K_;
    for (int m = 0; m < M; ++m) c[m] = broadcast(T(0));
    for (int64_t k = 0; k < K_; ++k) {
      const V shift = broadcast(shifts[k]), slope = broadcast(slopes[k]);
      for (int m = 0; m < M; ++m) c[m] = mul_add(slope, relu(q[m] - shift), c[m]);
    }
  }
  template <int M>
  BO_INLINE_MEMBER void add_up_slopes(int64_t i, const V* q, V* sum) const {
    const T *shifts = n_[2] + i * K_, *slopes = n_[3] + i * K_;
    for (int m = 0; m < M; ++m) sum[m] = broadcast(T(0));
    for (int64_t k = 0; k < K_; ++k) {
      const V shift = broadcast(shifts[k]), slope = broadcast(slopes[k]);
      for (int m = 0; m < M; ++m) sum[m] = sum[m] + select_greater(q[m], shift, slope);
    }
  }

  // The argument of clip for M vectors of pixels. curve(i, q_i, c_i) computes c_i.
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
      for (int m = 0; m < M; ++m) total[m] = mul_add(broadcast(n_[4][i]), c[m], total[m]);
    }
  }

  const ParameterValues<T> n_;
  const int64_t Ci_, K_;
  const SortedKnots<T> sorted_;
  const SearchedCurves<T> searched_;
};

}  // namespace BO_ISA
}  // namespace bilateral_ops
