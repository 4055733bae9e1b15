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
  // The row where it lies, or loaded to scratch.
  const T* load(int64_t n, int64_t y) {
    const char* const from = grid_.data + n * grid_.strides[0] + y * grid_.strides[1];
    const int64_t Gw = grid_.shape[2], Gd = grid_.shape[3], step = grid_.strides[2];
    if (Gw == 1 || step == Gd * cells_.stride) return block_at(cells_, from, Gw * Gd, numbers_);
    for (int64_t x = 0; x < Gw; ++x) load_block(cells_, from + x * step, Gd, numbers_ + x * column_);
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

// Sums of squared differences to the neighbours along y, x and z: short ones in the compute type, theirs in double.
template <class T>
class Squares {
 public:
  // Of `count` numbers from `v` on and of their neighbours, which are the numbers themselves where there are none.
  void add(const T* v, const T* y, const T* x, const T* z, int64_t count) {
    for (int64_t first = 0; first < count; first += kShort) {
      const int64_t n = min_of(kShort, count - first);
      if (pending_ + n > kShort) flush();
      pending_ += n;
      add_short(v + first, y + first, x + first, z + first, n);
    }
  }
  double weighted(const Weights& w) {
    flush();
    return w.z * sums_[2] + (w.x * sums_[1] + w.y * sums_[0]);
  }

 private:
  static constexpr int64_t kShort = 512;
  struct Three {
    Vec<T> y, x, z;
    BO_INLINE_MEMBER void add(const Vec<T>& v, const Vec<T>& next_y, const Vec<T>& next_x, const Vec<T>& next_z) {
      const Vec<T> dy = next_y - v, dx = next_x - v, dz = next_z - v;
      y = madd(dy, dy, y);
      x = madd(dx, dx, x);
      z = madd(dz, dz, z);
    }
  };

  BO_INLINE_MEMBER void add_short(const T* v, const T* y, const T* x, const T* z, int64_t n) {
    constexpr int64_t kLanes = Vec<T>::kLanes;
    Three even = even_, odd = odd_;  // two, as a sum waits for the one before it
    const auto add = [=](Three& sums, int64_t i, auto lanes) {
      sums.add(lanes.get(v + i), lanes.get(y + i), lanes.get(x + i), lanes.get(z + i));
    };
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
      add(even, i, Whole<T>());
      add(odd, i + kLanes, Whole<T>());
    }
    for_vectors<T>(n - i, [&](int64_t c, auto lanes) { add(even, i + c, lanes); });
    even_ = even;
    odd_ = odd;
  }
  void flush() {
    sums_[0] += static_cast<double>(total(even_.y + odd_.y));
    sums_[1] += static_cast<double>(total(even_.x + odd_.x));
    sums_[2] += static_cast<double>(total(even_.z + odd_.z));
    const Vec<T> zero = broadcast(T(0));
    even_ = odd_ = {zero, zero, zero};
    pending_ = 0;
  }

  Three even_ = {}, odd_ = {};
  double sums_[3] = {};
  int64_t pending_ = 0;
};

template <class T>
void total_variation_forward_as(const TotalVariationArgs& a) {
  const int64_t N = a.grid.shape[0], Gh = a.grid.shape[1], Gw = a.grid.shape[2];
  const int64_t C = a.grid.shape[4] * a.grid.shape[5], column = a.grid.shape[3] * C;
  const Weights w = make_weights(a.grid);
  Scratch memory;
  double* rows = memory.take<double>(N * Gh);
  for_rows(N * Gh, N * Gh * Gw * column, [&](int64_t unit) {
    const int64_t n = unit / Gh, y = unit - n * Gh;
    GridRow<T> here(a.grid), above(a.grid);
    const T* const row = here.load(n, y);
    const T* const next_row = y + 1 < Gh ? above.load(n, y + 1) : row;
    Squares<T> squares;
    for (int64_t x = 0; x < Gw; ++x) {
      const T *const p = row + x * column, *const next = next_row + x * column;
      const T* const right = x + 1 < Gw ? p + column : p;
      const int64_t last = column - C;
      squares.add(p, next, right, p + C, last);
      squares.add(p + last, next + last, right + last, p + last, C);
    }
    rows[unit] = squares.weighted(w);
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
    const Vec<T> wy = broadcast(static_cast<T>(w.y)), wx = broadcast(static_cast<T>(w.x)),
                 wz = broadcast(static_cast<T>(w.z)), twice = broadcast(T(2) * grad);
    Scratch memory;
    T* result = memory.take<T>(column);
    for (int64_t x = 0; x < Gw; ++x) {
      const int64_t o = x * column, left = x > 0 ? o - column : o, right = x + 1 < Gw ? o + column : o;
      // For cells that have neighbours at these distances in depth.
      const auto differentiate = [&](int64_t first, int64_t count, int64_t lower, int64_t upper) {
        for_vectors<T>(count, [&](int64_t c, auto lanes) {
          const int64_t i = first + c;
          const auto at = [&](const T* p) { return lanes.get(p + i); };
          const Vec<T> v = at(row + o);
          const Vec<T> dy = (v - at(below + o)) - (at(above + o) - v);
          const Vec<T> dx = (v - at(row + left)) - (at(row + right) - v);
          const Vec<T> dz = (v - at(row + o - lower)) - (at(row + o + upper) - v);
          lanes.put(result + i, twice * madd(wz, dz, madd(wx, dx, wy * dy)));
        });
      };
      if (Gd == 1) {
        differentiate(0, C, 0, 0);
      } else {
        differentiate(0, C, 0, C);
        differentiate(C, column - 2 * C, C, C);
        differentiate(column - C, C, C, 0);
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
