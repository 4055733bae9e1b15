// Looking a grid up in registers: grids of up to 16 cells in depth, under images of many pixels a cell.
//
// Between two neighbouring columns of cells the interpolated grid is linear in x, and in a cell it is linear in depth:
//
//   value = (A[k] + tz·dA[k]) + tx·(B[k] + tz·dB[k])
//
// with A the left column's value, B the step to the right column, and d the step to the next depth. For one span of
// pixels between two columns these are four tables of D = 8 or 16 numbers a coefficient, and a table is one register or
// two: a pixel's lookup is an in-register permutation, for as many pixels at once as a register has lanes.
//
// Backward is the mirror image: a register holds the weights of a pixel in all depths of both columns, and the span's
// sums for all coefficients stay in registers.
#pragma once

#include "apply.inl"
#include "sampling.inl"
#include "simd.h"

namespace bilateral_ops {
inline namespace BO_ISA {

template <int D>
struct Depth {
  static constexpr int value = D;
};
// Calls f with the depth of the lattice's tables.
template <class F>
BO_INLINE void with_depth(const Lattice& g, F&& f) {
  if (g.depth == 8) {
    f(Depth<8>());
  } else {
    f(Depth<16>());
  }
}

// Calls f(begin, end) for the runs of a tile's pixels between the same two columns.
template <class T, class F>
BO_INLINE void for_spans(const Places<T>& at, int64_t count, F&& f) {
  for (int64_t begin = 0; begin < count;) {
    const int32_t kx = at.kx[begin];
    int64_t inside = begin, end = count;  // kx[inside] is this span's, kx[end] is beyond it
    if (at.kx[count - 1] == kx) inside = count - 1;
    while (end - inside > 1) {
      const int64_t middle = inside + (end - inside) / 2;
      (at.kx[middle] == kx ? inside : end) = middle;
    }
    f(begin, end);
    begin = end;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

// The tables of one span after another.
template <class T, int D>
class Tables {
 public:
  Tables(const Lattice& lattice, const Tensor& grid)
      : g_(lattice), grid_(grid), cells_(block_of(grid, 3)), plane_(g_.C * D) {
    const int64_t row = g_.Gw * plane_;
    // One number is read past a plane's end.
    T* numbers = memory_.template take<T>(2 * row + g_.column + 6 * (plane_ + 1), true);
    row_[0] = numbers;
    row_[1] = numbers + row;
    column_ = numbers + 2 * row;
    left_ = column_ + g_.column;
    right_ = left_ + plane_ + 1;
    planes_ = right_ + plane_ + 1;
  }

  // Four planes [coefficient][D]: A, dA, B, dB for the pixels that lie between columns kx and kx + 1 of this image row.
  const T* span(int64_t n, int64_t ky, T ty, int64_t kx) {
    if (n != n_ || ky != ky_) load_rows(n, ky);
    if (n != n_ || ky != ky_ || ty != ty_) {
      n_ = n;
      ky_ = ky;
      ty_ = ty;
      kx_ = -2;
    }
    if (kx == kx_) return planes_;
    if (kx == kx_ + 1) {
      T* const swapped = left_;
      left_ = right_;
      right_ = swapped;
    } else {
      mix_column(kx, left_);
    }
    mix_column(min_of(kx + 1, g_.Gw - 1), right_);
    kx_ = kx;
    const int64_t size = plane_;
    T* BO_RESTRICT A = planes_;
    T* BO_RESTRICT dA = A + size;
    T* BO_RESTRICT B = dA + size;
    T* BO_RESTRICT dB = B + size;
    const T* BO_RESTRICT l = left_;
    const T* BO_RESTRICT r = right_;
    for (int64_t i = 0; i < size; ++i) {
      A[i] = l[i];
      B[i] = r[i] - l[i];
      dA[i] = l[i + 1] - l[i];
    }
    for (int64_t i = 0; i + 1 < size; ++i) dB[i] = B[i + 1] - B[i];
    dB[size - 1] = T(0);
    // Beyond the last cell there is no step.
    for (int64_t c = 0; c < g_.C; ++c) dA[c * D + g_.Gd - 1] = dB[c * D + g_.Gd - 1] = T(0);
    return planes_;
  }

 private:
  void mix_column(int64_t x, T* BO_RESTRICT to) const {
    const T* BO_RESTRICT a = row_[0] + x * plane_;
    const T* BO_RESTRICT b = row_[1] + x * plane_;
    for (int64_t i = 0; i < plane_; ++i) to[i] = lerp(a[i], b[i], ty_);
  }
  // Grid rows ky and ky + 1 as [x][coefficient][D].
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
  void load_row(int64_t n, int64_t y, T* to) {
    for (int64_t x = 0; x < g_.Gw; ++x) {
      const char* from = grid_.data + n * grid_.strides[0] + y * grid_.strides[1] + x * grid_.strides[2];
      load_block(cells_, from, g_.Gd, column_);
      for (int64_t z = 0; z < g_.Gd; ++z)
        for (int64_t c = 0; c < g_.C; ++c) to[x * plane_ + c * D + z] = column_[z * g_.C + c];
    }
  }

  const Lattice g_;
  const Tensor& grid_;
  const Block cells_;
  const int64_t plane_;
  Scratch memory_;
  T *row_[2], *column_, *left_, *right_, *planes_;
  int64_t n_ = -1, ky_ = -2, kx_ = -2;
  T ty_ = T(0);
};

// A coefficient and its slope in depth for a vector of pixels.
template <int D, class T>
BO_INLINE Vec<T> coefficient(const T* table, int64_t plane, const Indices<T>& k, const Vec<T>& tz, const Vec<T>& tx) {
  const Vec<T> left = madd(tz, lookup<D>(table + plane, k), lookup<D>(table, k));
  const Vec<T> step = madd(tz, lookup<D>(table + 3 * plane, k), lookup<D>(table + 2 * plane, k));
  return madd(tx, step, left);
}
template <int D, class T>
BO_INLINE Vec<T> coefficient(const T* table, int64_t plane, const Indices<T>& k, const Vec<T>& tz, const Vec<T>& tx,
                             Vec<T>& slope) {
  const Vec<T> d_left = lookup<D>(table + plane, k), d_step = lookup<D>(table + 3 * plane, k);
  const Vec<T> left = madd(tz, d_left, lookup<D>(table, k));
  const Vec<T> step = madd(tz, d_step, lookup<D>(table + 2 * plane, k));
  slope = madd(tx, d_step, d_left);
  return madd(tx, step, left);
}

// Pixels are worked on in whole vectors: the lanes past a span's end write what the next span overwrites, or padding.
// Image and out are [channel][pixel] with rows `pitch` apart.
template <int D, class T, class M>
void apply_span(const M& m, const T* BO_RESTRICT tables, const Places<T>& at, int64_t begin, int64_t end,
                const T* BO_RESTRICT image, T* BO_RESTRICT out, int64_t pitch) {
  const int64_t plane = m.Co * m.L * D;
  for (int64_t p = begin; p < end; p += Vec<T>::kLanes) {
    const Indices<T> k = load_indices(at.kz + p, T());
    const Vec<T> tz = load(at.tz + p), tx = load(at.tx + p);
    for (int64_t i = 0; i < m.Co; ++i) {
      const T* row = tables + i * m.L * D;
      Vec<T> sum = m.L > m.Ci ? coefficient<D>(row + m.Ci * D, plane, k, tz, tx) : broadcast(T(0));
      for (int64_t j = 0; j < m.Ci; ++j)
        sum = madd(coefficient<D>(row + j * D, plane, k, tz, tx), load(image + j * pitch + p), sum);
      store(out + i * pitch + p, sum);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Backward

// d_in_j = Σ_i A_ij·grad_i  and  d_guide = Σ_i grad_i·(Σ_j ∂A_ij/∂pz·in_j (+ ∂A_i,Ci/∂pz))·∂pz/∂guide
template <int D, class T, class M>
void span_gradients(const M& m, const T* BO_RESTRICT tables, const Places<T>& at, int64_t begin, int64_t end,
                    const T* BO_RESTRICT image, const T* BO_RESTRICT grad, T* BO_RESTRICT d_image,
                    T* BO_RESTRICT d_guide, int64_t pitch) {
  const int64_t plane = m.Co * m.L * D;
  for (int64_t p = begin; p < end; p += Vec<T>::kLanes) {
    const Indices<T> k = load_indices(at.kz + p, T());
    const Vec<T> tz = load(at.tz + p), tx = load(at.tx + p);
    Vec<T> slopes = broadcast(T(0));
    for (int64_t j = 0; j < m.L; ++j) {
      Vec<T> d_in = broadcast(T(0)), slope_sum = broadcast(T(0));
      for (int64_t i = 0; i < m.Co; ++i) {
        Vec<T> slope;
        const Vec<T> g = load(grad + i * pitch + p);
        const Vec<T> a = coefficient<D>(tables + (i * m.L + j) * D, plane, k, tz, tx, slope);
        d_in = madd(a, g, d_in);
        slope_sum = madd(slope, g, slope_sum);
      }
      if (j < m.Ci) {
        store(d_image + j * pitch + p, d_in);
        slopes = madd(slope_sum, load(image + j * pitch + p), slopes);
      } else {
        slopes = slopes + slope_sum;
      }
    }
    store(d_guide + p, slopes * load(at.dz + p));
  }
}

// A pixel's weights in all depths of the left column, then of the right one: 2·D lanes.
template <class T, int D>
struct ColumnWeights {
  static constexpr int kVecs = 2 * D / Vec<T>::kLanes;
  Vec<T> depth[kVecs], side[kVecs];
  ColumnWeights() {
    T numbers[2][2 * D];
    for (int l = 0; l < 2 * D; ++l) {
      numbers[0][l] = static_cast<T>(l % D);
      numbers[1][l] = static_cast<T>(l / D);
    }
    for (int v = 0; v < kVecs; ++v) {
      depth[v] = load(numbers[0] + v * Vec<T>::kLanes);
      side[v] = load(numbers[1] + v * Vec<T>::kLanes);
    }
  }
  BO_INLINE_MEMBER void at(T kz, T tz, T tx, Vec<T>* to) const {
    const Vec<T> k = broadcast(kz), next = broadcast(kz + T(1)), t = broadcast(tz), rest = broadcast(T(1) - tz);
    const Vec<T> right = broadcast(tx), left = broadcast(T(1) - tx), zero = broadcast(T(0));
    for (int v = 0; v < kVecs; ++v) {
      const Vec<T> z = where_equal(depth[v], k, rest, where_equal(depth[v], next, t, zero));
      to[v] = z * where_equal(side[v], zero, left, right);
    }
  }
};

// One channel's sums to [side][depth][channel]; of the D depths that a register has, those that the grid has.
template <int D, class T>
BO_INLINE void store_sides(const Vec<T>* sum, T* sums, int64_t Gd, int64_t C, int64_t c) {
  T both[2 * D];
  for (int v = 0; v < 2 * D / Vec<T>::kLanes; ++v) store(both + v * Vec<T>::kLanes, sum[v]);
  for (int side = 0; side < 2; ++side)
    for (int64_t z = 0; z < Gd; ++z) sums[(side * Gd + z) * C + c] = both[side * D + z];
}

// A span's contributions [pixel][channel] summed into [side][depth][channel], P channels a pass.
template <int P, class T, int D>
void splat_channels(const ColumnWeights<T, D>& weights, const Places<T>& at, int64_t begin, int64_t end, int64_t Gd,
                    int64_t C, int64_t first, const T* BO_RESTRICT contributions, T* BO_RESTRICT sums) {
  constexpr int V = ColumnWeights<T, D>::kVecs;
  while (C - first >= P) {
    Vec<T> sum[P][V];
    for (int c = 0; c < P; ++c)
      for (int v = 0; v < V; ++v) sum[c][v] = broadcast(T(0));
    for (int64_t p = begin; p < end; ++p) {
      Vec<T> w[V];
      weights.at(static_cast<T>(at.kz[p]), at.tz[p], at.tx[p], w);
      const T* from = contributions + p * C + first;
      for (int c = 0; c < P; ++c)
        for (int v = 0; v < V; ++v) sum[c][v] = madd(w[v], broadcast(from[c]), sum[c][v]);
    }
    for (int c = 0; c < P; ++c) store_sides<D>(sum[c], sums, Gd, C, first + c);
    first += P;
  }
  if constexpr (P > 1) {
    if (first < C) splat_channels<P / 2>(weights, at, begin, end, Gd, C, first, contributions, sums);
  }
}

// The same for the contributions grad_i·in_j (in_Ci = 1) of 3 × 4 matrices, which then need not be stored.
template <class T, int D>
void splat_outer(const ColumnWeights<T, D>& weights, const Places<T>& at, int64_t begin, int64_t end, int64_t Gd,
                 const T* BO_RESTRICT image, const T* BO_RESTRICT grad, int64_t pitch, T* BO_RESTRICT sums) {
  constexpr int V = ColumnWeights<T, D>::kVecs;
  constexpr int kRows = Vec<T>::kSums >= 12 * V ? 3 : 1;  // output channels a pass
  for (int first = 0; first < 3; first += kRows) {
    Vec<T> sum[kRows][4][V];
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < 4; ++j)
        for (int v = 0; v < V; ++v) sum[i][j][v] = broadcast(T(0));
    for (int64_t p = begin; p < end; ++p) {
      Vec<T> w[V];
      weights.at(static_cast<T>(at.kz[p]), at.tz[p], at.tx[p], w);
      for (int i = 0; i < kRows; ++i)
        for (int v = 0; v < V; ++v) {
          const Vec<T> g = w[v] * broadcast(grad[(first + i) * pitch + p]);
          for (int j = 0; j < 3; ++j) sum[i][j][v] = madd(g, broadcast(image[j * pitch + p]), sum[i][j][v]);
          sum[i][3][v] = sum[i][3][v] + g;
        }
    }
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < 4; ++j) store_sides<D>(sum[i][j], sums, Gd, 12, (first + i) * 4 + j);
  }
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
