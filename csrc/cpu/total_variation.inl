// total_variation: forward, then backward. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "tiles.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// One row of cells after another, [x][z][c], in the compute type
template <class T>
class GridRow {
 public:
  explicit GridRow(const Tensor& grid)
      : grid_(grid), cells_(block_of(grid, 3)), column_(grid.shape[3] * cells_.c1 * cells_.c2) {
    copy_ = memory_.template take<T>(grid.shape[2] * column_);
  }
  // Row y of grid n: in place, or a copy in scratch
  const T* load(int64_t n, int64_t y) {
    const char* const from = grid_.data + n * grid_.strides[0] + y * grid_.strides[1];
    const int64_t Gw = grid_.shape[2], Gd = grid_.shape[3], step = grid_.strides[2];
    if (Gw == 1 || step == Gd * cells_.stride) return block_view(cells_, from, Gw * Gd, copy_);
    for (int64_t x = 0; x < Gw; ++x) load_block(cells_, from + x * step, Gd, copy_ + x * column_);
    return copy_;
  }

 private:
  const Tensor& grid_;
  const Block cells_;
  const int64_t column_;
  Scratch memory_;
  T* copy_;
};

// Sums of squared differences to the neighbours along y, x and z. Up to kShortSum terms are summed in the compute type,
// these sums in double.
template <class T>
class Squares {
 public:
  // Adds `count` elements at v and their neighbours along each axis; null: they have none there.
  void add(const T* v, const T* y, const T* x, const T* z, int64_t count) {
    for (int64_t first = 0; first < count; first += kShortSum) {
      const int64_t n = min_of(kShortSum, count - first);
      if (pending_ + n > kShortSum) flush();
      pending_ += n;
      with_constant(y != nullptr, [&](auto has_y) {
        with_constant(x != nullptr, [&](auto has_x) {
          with_constant(z != nullptr, [&](auto has_z) {
            add_short(n, [&](auto& sums, int64_t i, auto lanes) {
              const Vec<T> here = lanes.load(v + first + i);
              if constexpr (decltype(has_y)::value) sums.y.add(here, lanes.load(y + first + i));
              if constexpr (decltype(has_x)::value) sums.x.add(here, lanes.load(x + first + i));
              if constexpr (decltype(has_z)::value) sums.z.add(here, lanes.load(z + first + i));
            });
          });
        });
      });
    }
  }
  double weighted(const VariationWeights& w) {
    flush();
    return w.of[2] * z_ + (w.of[1] * x_ + w.of[0] * y_);
  }

 private:
  struct Sum {
    Vec<T> squares;
    BO_INLINE_MEMBER void add(const Vec<T>& v, const Vec<T>& next) {
      const Vec<T> d = next - v;
      squares = mul_add(d, d, squares);
    }
  };
  struct Sums {
    Sum y, x, z;
  };

  template <class Add>
  BO_INLINE_MEMBER void add_short(int64_t n, const Add& add) {
    constexpr int64_t kLanes = Vec<T>::kLanes;
    Sums even = even_, odd = odd_;  // two, as each addition waits for the previous one
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
      add(even, i, FullVec<T>());
      add(odd, i + kLanes, FullVec<T>());
    }
    for_vectors<T>(n - i, [&](int64_t c, auto lanes) { add(even, i + c, lanes); });
    even_ = even;
    odd_ = odd;
  }
  void flush() {
    y_ += static_cast<double>(reduce_add(even_.y.squares + odd_.y.squares));
    x_ += static_cast<double>(reduce_add(even_.x.squares + odd_.x.squares));
    z_ += static_cast<double>(reduce_add(even_.z.squares + odd_.z.squares));
    even_ = odd_ = Sums{};
    pending_ = 0;
  }

  Sums even_ = {}, odd_ = {};
  double y_ = 0.0, x_ = 0.0, z_ = 0.0;
  int64_t pending_ = 0;
};

template <class T>
void total_variation_forward_as(const TotalVariationArgs& a) {
  const int64_t N = a.grid.shape[0], Gh = a.grid.shape[1], Gw = a.grid.shape[2];
  const int64_t C = a.grid.shape[4] * a.grid.shape[5], column = a.grid.shape[3] * C;
  const VariationWeights w = variation_weights(a.grid.shape);
  Scratch memory;
  double* rows = memory.take<double>(N * Gh);
  for_grid_rows(N * Gh, N * Gh * Gw * column, [&](int64_t unit) {
    const int64_t n = unit / Gh, y = unit - n * Gh;
    GridRow<T> here(a.grid), above(a.grid);
    const T* const row = here.load(n, y);
    const T* const next_row = y + 1 < Gh ? above.load(n, y + 1) : nullptr;
    const auto next = [&](int64_t i) { return next_row ? next_row + i : nullptr; };
    Squares<T> squares;
    if (column == C) {
      // Columns of one cell: the whole row at once.
      const int64_t last = (Gw - 1) * C;
      squares.add(row, next(0), row + C, nullptr, last);
      squares.add(row + last, next(last), nullptr, nullptr, C);
    }
    for (int64_t x = 0; column > C && x < Gw; ++x) {
      const int64_t first = x * column, last = first + column - C;
      const auto right = [&](int64_t i) { return x + 1 < Gw ? row + i + column : nullptr; };
      squares.add(row + first, next(first), right(first), row + first + C, column - C);
      squares.add(row + last, next(last), right(last), nullptr, C);
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
  const VariationWeights w = variation_weights(a.grid.shape);
  const Block cells = block_of(a.d_grid, 3);
  for_units(N * Gh, [&](int64_t unit) {
    const int64_t n = unit / Gh, y = unit - n * Gh;
    GridRow<T> rows[3] = {GridRow<T>(a.grid), GridRow<T>(a.grid), GridRow<T>(a.grid)};
    const T* row = rows[1].load(n, y);
    // At a border the cell is its own neighbour: no difference, no gradient.
    const T* below = y > 0 ? rows[0].load(n, y - 1) : row;
    const T* above = y + 1 < Gh ? rows[2].load(n, y + 1) : row;
    T grad;
    load_run(a.grad.dtype, a.grad.data + n * a.grad.strides[0], 0, 1, &grad, 1);
    const Vec<T> wy = broadcast(static_cast<T>(w.of[0])), wx = broadcast(static_cast<T>(w.of[1])),
                 wz = broadcast(static_cast<T>(w.of[2])), twice = broadcast(T(2) * grad);
    Scratch memory;
    T* result = memory.take<T>(column);
    for (int64_t x = 0; x < Gw; ++x) {
      const int64_t o = x * column, left = x > 0 ? o - column : o, right = x + 1 < Gw ? o + column : o;
      // `count` elements of a column whose neighbours in depth are `lower` before and `upper` behind them
      const auto differentiate = [&](int64_t first, int64_t count, int64_t lower, int64_t upper) {
        for_vectors<T>(count, [&](int64_t c, auto lanes) {
          const int64_t i = first + c;
          const auto at = [&](const T* p) { return lanes.load(p + i); };
          const Vec<T> v = at(row + o);
          const Vec<T> dy = (v - at(below + o)) - (at(above + o) - v);
          const Vec<T> dx = (v - at(row + left)) - (at(row + right) - v);
          const Vec<T> dz = (v - at(row + o - lower)) - (at(row + o + upper) - v);
          lanes.store(result + i, twice * mul_add(wz, dz, mul_add(wx, dx, wy * dy)));
        });
      };
      if (Gd == 1) {
        differentiate(0, C, 0, 0);
      } else {
        differentiate(0, C, 0, C);
        differentiate(C, column - 2 * C, C, C);
        differentiate(column - C, C, C, 0);
      }
      store_block(cells, address_of(a.d_grid, n, y, x), Gd, result);
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
