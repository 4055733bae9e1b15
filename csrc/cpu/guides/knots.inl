// The piecewise linear curves of guide_curves: their knots in order, and the search for a pixel's piece.
#pragma once

#include "shared.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

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

}  // namespace BO_ISA
}  // namespace bilateral_ops
