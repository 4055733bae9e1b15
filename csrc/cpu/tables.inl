// Looking a grid up in registers: grids of up to 16 cells in depth, under images of many pixels a cell.
//
// Between two neighbouring columns of cells the interpolated grid is linear in x, and in a cell it is linear in depth:
//
//   value = (A[k] + tz·dA[k]) + tx·(B[k] + tz·dB[k])
//
// with A the left column's value, B the step to the right column, and d the step to the next depth. For one span of
// pixels between two columns these are four tables of D = 8 or 16 numbers a coefficient, and a table is one register or
// two: a pixel's lookup is an in-register permutation, for as many pixels at once as a register has lanes. (Where that
// takes longer than fetching the pixel's cells, there are no tables: tuning.h's kTableDepth, and cells.inl.)
//
// (The transpose has no such tables: of a register of weights in all depths, a pixel would use a quarter.)
#pragma once

#include "sampler.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Calls f with the depth of the lattice's tables, and returns whether it has any.
template <class T, class F>
BO_INLINE bool with_tables(const Lattice& g, F&& f) {
  if constexpr (kTableDepth<T> > 0) {
    if (g.depth == 8) f(Count<8>());
    if (g.depth == 16) f(Count<16>());
    return g.depth > 0;
  }
  return false;
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

// The tables of one span: the left column's, and the steps from there to the right one's, each first the values at the
// cells [coefficient][D], then the steps to the next depth, which are `plane` numbers further.
template <class T>
struct SpanTables {
  const T *left, *step;
  int64_t plane;
};

// The tables of one span after another.
template <class T, int D>
class Tables {
 public:
  Tables(const Lattice& lattice, const Tensor& grid)
      : g_(lattice), grid_(grid), cells_(block_of(grid, 3)), numbers_(2 * g_.C * D) {
    const int64_t row = g_.Gw * numbers_;
    // A register may reach over the end of the last table.
    const int64_t padded = numbers_ + kPad;
    left_ = memory_.template take<T>(3 * padded + 2 * row + numbers_, true);
    right_ = left_ + padded;
    step_ = right_ + padded;
    row_[0] = step_ + padded;
    row_[1] = row_[0] + row;
    column_ = row_[1] + row;
  }

  // For the pixels that lie between columns kx and kx + 1 of this image row.
  SpanTables<T> span(int64_t n, int64_t ky, T ty, int64_t kx) {
    if (n != n_ || ky != ky_) load_rows(n, ky);
    if (n != n_ || ky != ky_ || ty != ty_) {
      n_ = n;
      ky_ = ky;
      ty_ = ty;
      kx_ = -2;
    }
    const int64_t plane = numbers_ / 2;
    if (kx == kx_) return {left_, step_, plane};
    if (kx == kx_ + 1) {
      T* const swapped = left_;
      left_ = right_;
      right_ = swapped;
    } else {
      mix_column(kx, left_);
    }
    mix_column(min_of(kx + 1, g_.Gw - 1), right_);
    for (int64_t i = 0; i < numbers_; i += Vec<T>::kLanes) store(step_ + i, load(right_ + i) - load(left_ + i));
    kx_ = kx;
    return {left_, step_, plane};
  }

 private:
  void mix_column(int64_t x, T* to) const {
    const T *a = row_[0] + x * numbers_, *b = row_[1] + x * numbers_;
    const Vec<T> ty = broadcast(ty_);
    for (int64_t i = 0; i < numbers_; i += Vec<T>::kLanes) store(to + i, lerp(load(a + i), load(b + i), ty));
  }
  // Grid rows ky and ky + 1, a column's values [coefficient][D] and then its steps.
  void load_rows(int64_t n, int64_t ky) {
    if (n == n_ && ky == ky_ + 1) {
      T* const swapped = row_[0];
      row_[0] = row_[1];
      row_[1] = swapped;
    } else {
      load_row(n, ky, row_[0]);
    }
    load_row(n, min_of(ky + 1, g_.Gh - 1), row_[1]);
  }
  void load_row(int64_t n, int64_t y, T* row) {
    for (int64_t x = 0; x < g_.Gw; ++x) {
      load_block(cells_, place_at(grid_, n, y, x), g_.Gd, column_);
      T *value = row + x * numbers_, *step = value + numbers_ / 2;
      for (int64_t c = 0; c < g_.C; ++c)
        for (int64_t z = 0; z < D; ++z) {
          // Beyond the last cell there is no step.
          const int64_t here = min_of(z, g_.Gd - 1), next = min_of(z + 1, g_.Gd - 1);
          value[c * D + z] = column_[here * g_.C + c];
          step[c * D + z] = column_[next * g_.C + c] - column_[here * g_.C + c];
        }
    }
  }

  const Lattice g_;
  const Tensor& grid_;
  const Block cells_;
  const int64_t numbers_;  // of a column
  Scratch memory_;
  T *row_[2], *column_, *left_, *right_, *step_;
  int64_t n_ = -1, ky_ = -2, kx_ = -2;
  T ty_ = T(0);
};

// The cells of a vector of pixels, as lookups want them.
template <int D, class T>
class Cells {
 public:
  explicit BO_INLINE_MEMBER Cells(const Indices<T>& k) : first_(k), second_(k) {
    if constexpr (kShared) second_ = other_table(k);
  }
  // Entry k of table c of those at `tables`
  BO_INLINE_MEMBER Vec<T> of(const T* tables, int64_t c) const {
    if constexpr (kShared) {
      return lookup<16>(tables + (c - c % 2) * D, c % 2 ? second_ : first_);
    } else {
      return lookup<D>(tables + c * D, first_);
    }
  }

 private:
  static constexpr bool kShared = D == 8 && kTablesInRegister<T> == 2;
  Indices<T> first_, second_;
};

// Coefficient c and its slope in depth, for a vector of pixels
template <int D, class T>
BO_INLINE Vec<T> coefficient(const SpanTables<T>& tables, int64_t c, const Cells<D, T>& k, const Vec<T>& tz,
                             const Vec<T>& tx, Vec<T>& slope) {
  const Vec<T> d_left = k.of(tables.left + tables.plane, c), d_step = k.of(tables.step + tables.plane, c);
  slope = madd(tx, d_step, d_left);
  return madd(tx, madd(tz, d_step, k.of(tables.step, c)), madd(tz, d_left, k.of(tables.left, c)));
}

// out(i, Σ_j A_ij·in(j) (+ A_i,Ci)) for a vector of pixels
template <int D, class T, class M, class In, class Out>
BO_INLINE void apply_lookup(const M& m, const SpanTables<T>& tables, const Indices<T>& k, const Vec<T>& tz,
                            const Vec<T>& tx, const In& in, const Out& out) {
  const Cells<D, T> cells(k);
  for (int64_t i = 0; i < m.Co; ++i) {
    Vec<T> unused;
    auto A = [&](int64_t j) { return coefficient(tables, i * m.L + j, cells, tz, tx, unused); };
    Vec<T> sum = m.L > m.Ci ? A(m.Ci) : broadcast(T(0));
    for (int64_t j = 0; j < m.Ci; ++j) sum = madd(A(j), in(j), sum);
    out(i, sum);
  }
}

// Pixels are worked on in whole vectors: the lanes past a span's end write what the next span overwrites, or padding.
// Image and out are [channel][pixel] with rows `pitch` apart. meanwhile(pixel) is called once a vector.
template <int D, class T, class M, class Meanwhile>
BO_INLINE void apply_span(const M& m, const SpanTables<T>& tables, const Places<T>& at, int64_t begin, int64_t end,
                          const T* BO_RESTRICT image, T* BO_RESTRICT out, int64_t pitch, const Meanwhile& meanwhile) {
  for (int64_t p = begin; p < end; p += Vec<T>::kLanes) {
    meanwhile(p);
    apply_lookup<D>(
        m, tables, load_indices(at.kz + p, T()), load(at.tz + p), load(at.tx + p),
        [&](int64_t j) { return load(image + j * pitch + p); },
        [&](int64_t i, const Vec<T>& v) { store(out + i * pitch + p, v); });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward

// d_in(j, Σ_i A_ij·grad_i), and returns Σ_i grad_i·(Σ_j ∂A_ij/∂pz·in_j (+ ∂A_i,Ci/∂pz)), for a vector of pixels
template <int D, class T, class M, class In, class Grad, class DIn>
BO_INLINE Vec<T> gradient_lookup(const M& m, const SpanTables<T>& tables, const Indices<T>& k, const Vec<T>& tz,
                                 const Vec<T>& tx, const In& in, const Grad& grad, const DIn& d_in) {
  const Cells<D, T> cells(k);
  Vec<T> slopes = broadcast(T(0));
  for (int64_t j = 0; j < m.L; ++j) {
    Vec<T> sum = broadcast(T(0)), slope_sum = broadcast(T(0));
    for (int64_t i = 0; i < m.Co; ++i) {
      Vec<T> slope;
      const Vec<T> g = grad(i);
      const Vec<T> a = coefficient(tables, i * m.L + j, cells, tz, tx, slope);
      sum = madd(a, g, sum);
      slope_sum = madd(slope, g, slope_sum);
    }
    if (j < m.Ci) {
      d_in(j, sum);
      slopes = madd(slope_sum, in(j), slopes);
    } else {
      slopes = slopes + slope_sum;
    }
  }
  return slopes;
}

template <int D, class T, class M, class Meanwhile>
BO_INLINE void span_gradients(const M& m, const SpanTables<T>& tables, const Places<T>& at, int64_t begin, int64_t end,
                              const T* BO_RESTRICT image, const T* BO_RESTRICT grad, T* BO_RESTRICT d_image,
                              T* BO_RESTRICT d_guide, int64_t pitch, const Meanwhile& meanwhile) {
  for (int64_t p = begin; p < end; p += Vec<T>::kLanes) {
    meanwhile(p);
    const Vec<T> slopes = gradient_lookup<D>(
        m, tables, load_indices(at.kz + p, T()), load(at.tz + p), load(at.tx + p),
        [&](int64_t j) { return load(image + j * pitch + p); }, [&](int64_t i) { return load(grad + i * pitch + p); },
        [&](int64_t j, const Vec<T>& v) { store(d_image + j * pitch + p, v); });
    store(d_guide + p, slopes * load(at.dz + p));
  }
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
