// Register tables: sampling grids of up to 16 cells in depth where there are many pixels per cell.
//
// Between two neighbouring grid columns the interpolated grid is linear in x, and between two depths it is linear in z:
//
//   value = lower + tz·(upper − lower),   lower = A[k] + tx·B[k],   upper = A[k + 1] + tx·B[k + 1]
//
// with A the value at the left column and B the step to the right column. Within a span these are two tables of D = 8
// or 16 entries per coefficient. A table fits one register or two, so that looking up a vector of pixels is an
// in-register permutation. Where fetching each pixel's cells is faster, there are no tables (kTableDepth in tuning.h;
// cells.inl).
//
// The transpose has no tables: of a register of weights for all depths, a pixel would use a quarter at most.
#pragma once

#include "sampler.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Calls f with Constant<D> if this lattice is sampled from register tables, and returns whether it is.
template <class T, class F>
BO_INLINE bool with_tables(const Lattice& g, F&& f) {
  if constexpr (kTableDepth<T> > 0) {
    if (g.table_depth == 8) f(Constant<8>());
    if (g.table_depth == 16) f(Constant<16>());
    return g.table_depth > 0;
  }
  return false;
}

// The tables of one span, [coefficient][D]: A at `left`, B at `step`
template <class T>
struct SpanTables {
  const T *left, *step;
};

// Builds the tables of one span after another.
template <class T, int D>
class TableBuilder {
 public:
  TableBuilder(const Lattice& lattice, const Tensor& grid)
      : g_(lattice), grid_(grid), cells_(block_of(grid, 3)), column_size_(g_.C * D) {
    // Padded, as the last load or store of a register may extend beyond the tables.
    const int64_t padded = column_size_ + kPad, row = g_.Gw * column_size_ + kPad;
    left_ = memory_.template take<T>(3 * padded + 2 * row + max_of(D, Vec<T>::kLanes) * g_.C + kPad, true);
    right_ = left_ + padded;
    step_ = right_ + padded;
    rows_[0] = step_ + padded;
    rows_[1] = rows_[0] + row;
    column_ = rows_[1] + row;
  }

  // The tables of the pixels between columns kx and kx + 1, in an image row at ty between grid rows ky and ky + 1
  SpanTables<T> span(int64_t n, int64_t ky, T ty, int64_t kx) {
    if (n != n_ || ky != ky_) load_rows(n, ky);
    if (n != n_ || ky != ky_ || ty != ty_) {
      n_ = n;
      ky_ = ky;
      ty_ = ty;
      kx_ = -2;
    }
    if (kx == kx_) return {left_, step_};
    if (kx == kx_ + 1) {
      T* const swapped = left_;
      left_ = right_;
      right_ = swapped;
    } else {
      for_column(kx, [to = left_](int64_t i, const Vec<T>& value) { store(to + i, value); });
    }
    for_column(min_of(kx + 1, g_.Gw - 1), [left = left_, right = right_, step = step_](int64_t i, const Vec<T>& value) {
      store(right + i, value);
      store(step + i, value - load(left + i));
    });
    kx_ = kx;
    return {left_, step_};
  }

 private:
  // Calls f(i, values) for each vector of the tables of column x in this image row.
  template <class F>
  BO_INLINE_MEMBER void for_column(int64_t x, const F& f) const {
    const T *a = rows_[0] + x * column_size_, *b = rows_[1] + x * column_size_;
    const Vec<T> ty = broadcast(ty_);
    for (int64_t i = 0; i < column_size_; i += Vec<T>::kLanes) f(i, lerp(load(a + i), load(b + i), ty));
  }
  // Loads grid rows ky and ky + 1: per column the values [coefficient][D], with zeros beyond the last cell, which only
  // pixels at that cell look up, with a fraction of zero. (Not inlined: it would take registers from the loops over
  // pixels.)
  BO_NOINLINE_MEMBER void load_rows(int64_t n, int64_t ky) {
    if (n == n_ && ky == ky_ + 1) {
      T* const swapped = rows_[0];
      rows_[0] = rows_[1];
      rows_[1] = swapped;
    } else {
      load_row(n, ky, rows_[0]);
    }
    load_row(n, min_of(ky + 1, g_.Gh - 1), rows_[1]);
  }
  void load_row(int64_t n, int64_t y, T* row) {
    const int64_t C = g_.C;
    for (int64_t x = 0; x < g_.Gw; ++x, row += column_size_) {
      load_block(cells_, address_of(grid_, n, y, x), g_.Gd, column_);
      // Transposed, in order: what a vector has beyond its table is overwritten with the next one.
      for (int64_t c = 0; c < C; c += 4)
        for (int64_t z = 0; z < D; z += Vec<T>::kLanes) {
          Vec<T> v[4];
          load_interleaved4(column_ + z * C + c, C, v);
          for (int64_t j = 0; j < min_of<int64_t>(C - c, 4); ++j) store(row + (c + j) * D + z, v[j]);
        }
    }
  }

  const Lattice g_;
  const Tensor& grid_;
  const Block cells_;
  const int64_t column_size_;  // elements in a column's tables
  Scratch memory_;
  T *rows_[2], *column_, *left_, *right_, *step_;
  int64_t n_ = -1, ky_ = -2, kx_ = -2;
  T ty_ = T(0);
};

// The depths kz of a vector of pixels, and those above them, as the indices of lookups
template <int D, class T>
class TableIndices {
 public:
  explicit BO_INLINE_MEMBER TableIndices(const Indices<T>& k) : lower_{k, k}, upper_{next_index<D>(k), k} {
    if constexpr (kShared) {
      lower_[1] = second_table(lower_[0]);
      upper_[1] = second_table(upper_[0]);
    }
  }
  // The entries of table c at the depths below and above
  BO_INLINE_MEMBER void of(const T* tables, int64_t c, Vec<T>& lower, Vec<T>& upper) const {
    if constexpr (kShared) {
      lower = lookup<16>(tables + (c - c % 2) * D, lower_[c % 2]);
      upper = lookup<16>(tables + (c - c % 2) * D, upper_[c % 2]);
    } else {
      lower = lookup<D>(tables + c * D, lower_[0]);
      upper = lookup<D>(tables + c * D, upper_[0]);
    }
  }

 private:
  static constexpr bool kShared = D == 8 && kTablesInRegister<T> == 2;
  Indices<T> lower_[2], upper_[2];
};

// Coefficient c, and its slope in depth, of a vector of pixels
template <int D, class T>
BO_INLINE Vec<T> coefficient(const SpanTables<T>& tables, int64_t c, const TableIndices<D, T>& k, const Vec<T>& tz,
                             const Vec<T>& tx, Vec<T>& slope) {
  Vec<T> lower_left, upper_left, lower_step, upper_step;
  k.of(tables.left, c, lower_left, upper_left);
  k.of(tables.step, c, lower_step, upper_step);
  const Vec<T> lower = mul_add(tx, lower_step, lower_left);
  slope = mul_add(tx, upper_step, upper_left) - lower;
  return mul_add(tz, slope, lower);
}

// out_i = Σ_j A_ij·in_j (+ A_i,Ci) for the pixels of one span. Image and out are planes that are `pitch` elements
// apart, worked on in whole vectors: what lanes beyond the span's end write is padding, or overwritten with the next
// span. prefetch(pixel) is called once per vector.
template <int D, class T, class M, class Prefetch>
BO_INLINE void apply_span(const M& m, const SpanTables<T>& tables, const Positions<T>& at, int64_t begin, int64_t end,
                          const T* BO_RESTRICT image, T* BO_RESTRICT out, int64_t pitch, const Prefetch& prefetch) {
  for (int64_t p = begin; p < end; p += Vec<T>::kLanes) {
    prefetch(p);
    const TableIndices<D, T> k(load_indices(at.kz + p, T()));
    const Vec<T> tz = load(at.tz + p), tx = load(at.tx + p);
    for (int64_t i = 0; i < m.Co; ++i) {
      Vec<T> unused;
      const auto A = [&](int64_t j) { return coefficient(tables, i * m.L + j, k, tz, tx, unused); };
      Vec<T> sum = m.L > m.Ci ? A(m.Ci) : broadcast(T(0));
      for (int64_t j = 0; j < m.Ci; ++j) sum = mul_add(A(j), load(image + j * pitch + p), sum);
      store(out + i * pitch + p, sum);
    }
  }
}

// Their gradients, d_in_j = Σ_i A_ij·grad_i and d_guide = ∂pz/∂guide·Σ_i grad_i·(Σ_j ∂A_ij/∂pz·in_j (+ ∂A_i,Ci/∂pz)).
template <int D, class T, class M, class Prefetch>
BO_INLINE void span_gradients(const M& m, const SpanTables<T>& tables, const Positions<T>& at, int64_t begin,
                              int64_t end, const T* BO_RESTRICT image, const T* BO_RESTRICT grad,
                              T* BO_RESTRICT d_image, T* BO_RESTRICT d_guide, int64_t pitch, const Prefetch& prefetch) {
  for (int64_t p = begin; p < end; p += Vec<T>::kLanes) {
    prefetch(p);
    const TableIndices<D, T> k(load_indices(at.kz + p, T()));
    const Vec<T> tz = load(at.tz + p), tx = load(at.tx + p);
    Vec<T> slopes = broadcast(T(0));
    for (int64_t j = 0; j < m.L; ++j) {
      Vec<T> sum = broadcast(T(0)), slope_sum = broadcast(T(0));
      for (int64_t i = 0; i < m.Co; ++i) {
        Vec<T> slope;
        const Vec<T> g = load(grad + i * pitch + p);
        const Vec<T> a = coefficient(tables, i * m.L + j, k, tz, tx, slope);
        sum = mul_add(a, g, sum);
        slope_sum = mul_add(slope, g, slope_sum);
      }
      if (j < m.Ci) {
        store(d_image + j * pitch + p, sum);
        slopes = mul_add(slope_sum, load(image + j * pitch + p), slopes);
      } else {
        slopes = slopes + slope_sum;
      }
    }
    store(d_guide + p, slopes * load(at.dz + p));
  }
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
