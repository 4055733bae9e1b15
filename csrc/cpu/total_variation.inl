// total_variation: forward, then backward. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "spans.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// One row of cells (Gw columns of Gd cells of C channels) of grid n, in the compute type.
template <class T>
class GridRow {
 public:
  explicit GridRow(const Tensor& grid)
      : grid_(grid), cells_(block_of(grid, 3)), column_(grid.shape[3] * cells_.c1 * cells_.c2) {
    numbers_ = memory_.template take<T>(grid.shape[2] * column_);
  }
  const T* load(int64_t n, int64_t y) {
    for (int64_t x = 0; x < grid_.shape[2]; ++x)
      load_block(cells_, grid_.data + n * grid_.strides[0] + y * grid_.strides[1] + x * grid_.strides[2],
                 grid_.shape[3], numbers_ + x * column_);
    return numbers_;
  }

 private:
  const Tensor& grid_;
  const Block cells_;
  const int64_t column_;
  Scratch memory_;
  T* numbers_;
};

// For each axis y, x, z: 1 / (number of neighbours · channels), 0 for an axis of one cell.
struct Weights {
  double y, x, z;
};
BO_INLINE Weights make_weights(const Tensor& grid) {
  const int64_t *s = grid.shape, C = s[4] * s[5];
  auto inverse = [](int64_t count) { return count > 0 ? 1.0 / static_cast<double>(count) : 0.0; };
  return {inverse((s[1] - 1) * s[2] * s[3] * C), inverse(s[1] * (s[2] - 1) * s[3] * C),
          inverse(s[1] * s[2] * (s[3] - 1) * C)};
}

template <class T>
void total_variation_forward_as(const TotalVariationArgs& a) {
  const int64_t N = a.grid.shape[0], Gh = a.grid.shape[1], Gw = a.grid.shape[2];
  const int64_t C = a.grid.shape[4] * a.grid.shape[5], column = a.grid.shape[3] * C;
  const Weights w = make_weights(a.grid);
  Scratch memory;
  double* rows = memory.take<double>(N * Gh);
  auto squares = [](const T* BO_RESTRICT p, const T* BO_RESTRICT q, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) {
      const double d = static_cast<double>(q[i]) - static_cast<double>(p[i]);
      sum += d * d;
    }
    return sum;
  };
  for_rows(N * Gh, N * Gh * Gw * column, [&](int64_t unit) {
    const int64_t n = unit / Gh, y = unit - n * Gh;
    GridRow<T> here(a.grid), above(a.grid);
    const T* row = here.load(n, y);
    double sum = y + 1 < Gh ? w.y * squares(row, above.load(n, y + 1), Gw * column) : 0.0;
    sum += w.x * squares(row, row + column, (Gw - 1) * column);
    double depth = 0.0;
    for (int64_t x = 0; x < Gw; ++x) depth += squares(row + x * column, row + x * column + C, column - C);
    rows[unit] = sum + w.z * depth;
  });
  for (int64_t n = 0; n < N; ++n) {
    double sum = 0.0;
    for (int64_t y = 0; y < Gh; ++y) sum += rows[n * Gh + y];
    const T result = static_cast<T>(sum);
    store_run(a.out.dtype, a.out.data + n * a.out.strides[0], 0, 1, &result, 1);
  }
}

template <class T>
void total_variation_backward_as(const TotalVariationGradArgs& a) {
  const int64_t N = a.grid.shape[0], Gh = a.grid.shape[1], Gw = a.grid.shape[2], Gd = a.grid.shape[3];
  const int64_t C = a.grid.shape[4] * a.grid.shape[5], column = Gd * C;
  const Weights w = make_weights(a.grid);
  const Block cells = block_of(a.d_grid, 3);
  for_units(N * Gh, [&](int64_t unit) {
    const int64_t n = unit / Gh, y = unit - n * Gh;
    GridRow<T> rows[3] = {GridRow<T>(a.grid), GridRow<T>(a.grid), GridRow<T>(a.grid)};
    const T* row = rows[1].load(n, y);
    // At a border the neighbour is the cell itself: no difference, no gradient.
    const T* below = y > 0 ? rows[0].load(n, y - 1) : row;
    const T* above = y + 1 < Gh ? rows[2].load(n, y + 1) : row;
    T grad;
    load_run(a.grad.dtype, a.grad.data + n * a.grad.strides[0], 0, 1, &grad, 1);
    const T wy = static_cast<T>(w.y), wx = static_cast<T>(w.x), wz = static_cast<T>(w.z);
    Scratch memory;
    T* result = memory.take<T>(column);
    for (int64_t x = 0; x < Gw; ++x) {
      const int64_t o = x * column, left = x > 0 ? o - column : o, right = x + 1 < Gw ? o + column : o;
      for (int64_t z = 0; z < Gd; ++z) {
        const int64_t lower = z > 0 ? -C : 0, upper = z + 1 < Gd ? C : 0;
        for (int64_t c = 0; c < C; ++c) {
          const int64_t i = z * C + c;
          const T v = row[o + i];
          const T dy = (v - below[o + i]) - (above[o + i] - v);
          const T dx = (v - row[left + i]) - (row[right + i] - v);
          const T dz = (v - row[o + i + lower]) - (row[o + i + upper] - v);
          result[i] = T(2) * grad * madd(wz, dz, madd(wx, dx, wy * dy));
        }
      }
      store_block(cells, a.d_grid.data + n * a.d_grid.strides[0] + y * a.d_grid.strides[1] + x * a.d_grid.strides[2],
                  Gd, result);
    }
  });
}

void total_variation_forward(const TotalVariationArgs& a) {
  with_compute_type(a.grid.dtype, [&](auto t) { total_variation_forward_as<decltype(t)>(a); });
}
void total_variation_backward(const TotalVariationGradArgs& a) {
  with_compute_type(a.grid.dtype, [&](auto t) { total_variation_backward_as<decltype(t)>(a); });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
