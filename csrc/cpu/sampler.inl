// Sampling: the grid, interpolated at a tile's pixels, for any number of channels (Sampler).
//
// Image row y lies between grid rows ky and ky + 1. Interpolated once per image row, they make a row grid, [x][z][c],
// of which a pixel needs four cells instead of eight of the grid. Where pixels are scattered, or a row grid would cost
// more than it saves, the eight cells are read directly: the same operations in the same order, so the same bits.
//
// tables.inl and cells.inl have faster ways for many pixels per cell; splatter.inl has the transpose.
#pragma once

#include "positions.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// What to compute at a tile's pixels.
template <class T>
struct Samples {
  T* values;               // the grid's values, [pixel][channel]; null: not wanted
  const T* contributions;  // ∂L/∂values, [pixel][channel]; null: no slopes are wanted
  // [pixel]: Σ_c contributions·∂values/∂p along an axis of the grid. x and y are null unless pixels are scattered.
  T *slope_z, *slope_x, *slope_y;
};

// Whether columns of cells can be read and written in place, as elements of T.
template <class T>
bool has_plain_columns(const Tensor& grid) {
  return block_of(grid, 3).dense && element_size(grid.dtype) == sizeof(T) && is_aligned(grid, sizeof(T));
}

// How a row grid holds the elements of a cell: as the grid does, or packed, for 3 × 4 matrices, as four matrix columns
// or four matrix rows of four elements, padded with zeros. A packed grid column ends with a second copy of its last
// cell, so that there is always a cell above.
enum class Packing { none, columns, rows };
constexpr int64_t kPackedCell = 16;

// The row grids of one image row after another.
template <class T, Packing kPacking = Packing::none>
class RowGrid {
 public:
  RowGrid(const Lattice& lattice, const Tensor& grid)
      : g_(lattice),
        grid_(grid),
        cells_(block_of(grid, 3)),
        // Unaligned columns and those of other dtypes are converted in scratch.
        in_place_(!kPacks && has_plain_columns<T>(grid)),
        column_size_(kPacks ? (g_.Gd + 1) * kPackedCell : g_.column_size) {}

  const T* column(int64_t x) const { return columns_ + x * column_size_; }

  // Interpolates the columns that this tile needs and earlier tiles of its row did not.
  void build(const Tile& tile, const Positions<T>& at) {
    if (!columns_) columns_ = memory_.template take<T>(g_.Gw * column_size_ + (kPacks ? g_.column_size : 0));
    if (tile.n != n_ || tile.y != y_) {
      n_ = tile.n;
      y_ = tile.y;
      built_ = 0;
    }
    const int64_t end = min_of<int64_t>(at.kx[tile.count - 1] + 2, g_.Gw);
    const int64_t ky = at.row_k, above = min_of(ky + 1, g_.Gh - 1);
    const T ty = at.row_t;
    for (int64_t x = max_of<int64_t>(built_, at.kx[0]); x < end; ++x) {
      const T* BO_RESTRICT a = grid_column(tile.n, ky, x);
      const T* BO_RESTRICT b = grid_column(tile.n, above, x);
      T* BO_RESTRICT to = columns_ + x * column_size_;
      for (int64_t i = 0; i < column_size_; ++i) to[i] = lerp(a[i], b[i], ty);
    }
    built_ = max_of(built_, end);
  }

 private:
  static constexpr bool kPacks = kPacking != Packing::none;

  // A column of the grid: in place, or converted. The converted columns of grid rows ky and ky + 1 are kept while image
  // rows need them.
  const T* grid_column(int64_t n, int64_t y, int64_t x) {
    const char* const from = address_of(grid_, n, y, x);
    if (in_place_) return reinterpret_cast<const T*>(from);
    RowCopy& row = copies_[y & 1];
    if (!row.cells) row.cells = row.memory.template take<T>(g_.Gw * column_size_, kPacks);
    if (row.n != n || row.y != y) {
      row.n = n;
      row.y = y;
      row.begin = row.end = x;
    }
    if (x < row.begin || x >= row.end) {
      load_column(from, row.cells + x * column_size_);
      // Columns are asked for from left to right, row after row.
      if (x != row.end) row.begin = x;
      row.end = x + 1;
    }
    return row.cells + x * column_size_;
  }
  void load_column(const char* from, T* to) const {
    if (!kPacks) return load_block(cells_, from, g_.Gd, to);
    T* const unpacked = columns_ + g_.Gw * column_size_;
    load_block(cells_, from, g_.Gd, unpacked);
    for (int64_t z = 0; z <= g_.Gd; ++z)
      for (int64_t c = 0; c < g_.C; ++c)
        to[z * kPackedCell + (kPacking == Packing::columns ? c % 4 * 4 + c / 4 : c)] =
            unpacked[min_of(z, g_.Gd - 1) * g_.C + c];
  }

  const Lattice g_;
  const Tensor& grid_;
  const Block cells_;
  const bool in_place_;
  const int64_t column_size_;  // elements in a column of the row grid
  struct RowCopy {
    Scratch memory;
    T* cells = nullptr;
    int64_t n = -1, y = -1, begin = 0, end = 0;  // columns begin to end − 1 are there
  };
  RowCopy copies_[2];
  Scratch memory_;
  T* columns_ = nullptr;
  int64_t n_ = -1, y_ = -1, built_ = 0;
};

// Samples a grid at one tile after another.
template <class T>
class Sampler {
 public:
  Sampler(const Lattice& lattice, const Tensor& grid)
      : g_(lattice),
        grid_(grid),
        cells_(block_of(grid, 3)),
        in_place_(has_plain_columns<T>(grid)),
        rows_(lattice, grid) {}

  void sample(const Tile& tile, const Positions<T>& at, const Samples<T>& to) {
    if (g_.row_grid) {
      rows_.build(tile, at);
      sample_row_grid(tile, at, to);
    } else {
      if (!buffer_) buffer_ = buffer_memory_.template take<T>(8 * g_.C);
      sample_cells(tile, at, to);
    }
  }

 private:
  void sample_row_grid(const Tile& tile, const Positions<T>& at, const Samples<T>& to) const {
    with_vector_loop<T>(g_.C, [&](auto each) {
      if (!to.contributions) {
        sample_row_grid_as<true, false>(tile, at, to, each);
      } else if (to.values) {
        sample_row_grid_as<true, true>(tile, at, to, each);
      } else {
        sample_row_grid_as<false, true>(tile, at, to, each);
      }
    });
  }
  template <bool kValues, bool kSlopes, class Each>
  void sample_row_grid_as(const Tile& tile, const Positions<T>& at, const Samples<T>& to, const Each& each) const {
    const int64_t C = g_.C, top = g_.Gd - 1;
    T* BO_RESTRICT const values = to.values;
    for_spans(at, tile.count, [&](int64_t begin, int64_t end) {
      const int64_t kx = at.kx[begin];
      const T *left = rows_.column(kx), *right = rows_.column(min_of(kx + 1, g_.Gw - 1));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t kz = at.kz[i], lower_at = kz * C, upper_at = lower_at + (kz < top ? C : 0);
        const Vec<T> tx = broadcast(at.tx[i]), tz = broadcast(at.tz[i]);
        Vec<T> slope = broadcast(T(0));
        each([&](int64_t c, auto lanes) {
          const Vec<T> lower = lerp(lanes.load(left + lower_at + c), lanes.load(right + lower_at + c), tx);
          const Vec<T> upper = lerp(lanes.load(left + upper_at + c), lanes.load(right + upper_at + c), tx);
          if (kValues && !kSlopes) prefetch_ahead<sizeof(Vec<T>)>(reinterpret_cast<const char*>(values + i * C + c));
          if (kValues) lanes.store(values + i * C + c, lerp(lower, upper, tz));
          if (kSlopes) slope = mul_add(lanes.load(to.contributions + i * C + c), upper - lower, slope);
        });
        if (kSlopes) to.slope_z[i] = reduce_add(slope);
      }
    });
  }

  void sample_cells(const Tile& tile, const Positions<T>& at, const Samples<T>& to) {
    with_vector_loop<T>(g_.C, [&](auto each) {
      if (!to.contributions) {
        sample_cells_as<false, false>(tile, at, to, each);
      } else if (!to.slope_x) {
        sample_cells_as<true, false>(tile, at, to, each);
      } else {
        sample_cells_as<true, true>(tile, at, to, each);
      }
    });
  }
  template <bool kSlopes, bool kAllSlopes, class Each>
  void sample_cells_as(const Tile& tile, const Positions<T>& at, const Samples<T>& to, const Each& each) {
    const int64_t C = g_.C, x_stride = grid_.strides[2], z_stride = cells_.stride;
    T* const values = to.values;
    for (int64_t i = 0; i < tile.count; ++i) {
      const int64_t kx = at.kx[i], kz = at.kz[i];
      const int64_t left = kx * x_stride, right = min_of<int64_t>(kx + 1, g_.Gw - 1) * x_stride;
      const int64_t low = kz * z_stride, high = min_of<int64_t>(kz + 1, g_.Gd - 1) * z_stride;
      const char* const below = address_of(grid_, tile.n, at.ky[i], 0);
      const char* const above = address_of(grid_, tile.n, min_of<int64_t>(at.ky[i] + 1, g_.Gh - 1), 0);
      const char* const places[8] = {below + left + low,   below + left + high, below + right + low,
                                     below + right + high, above + left + low,  above + left + high,
                                     above + right + low,  above + right + high};
      const T* corner[8];  // [y][x][z]
      for (int j = 0; j < 8; ++j) {
        if (in_place_) {
          corner[j] = reinterpret_cast<const T*>(places[j]);
        } else {
          load_cell(places[j], buffer_ + j * C);
          corner[j] = buffer_ + j * C;
        }
      }
      const Vec<T> ty = broadcast(at.ty[i]), tx = broadcast(at.tx[i]), tz = broadcast(at.tz[i]);
      Vec<T> slope_z = broadcast(T(0)), slope_x = slope_z, slope_y = slope_z;
      each([&](int64_t c, auto lanes) {
        // By [x][z]: the step in y, and the value at ty
        Vec<T> step[4], v[4];
        for (int j = 0; j < 4; ++j) {
          const Vec<T> first = lanes.load(corner[j] + c);
          step[j] = lanes.load(corner[j + 4] + c) - first;
          v[j] = mul_add(ty, step[j], first);
        }
        const Vec<T> lower = lerp(v[0], v[2], tx), upper = lerp(v[1], v[3], tx);
        if (!kSlopes || values) lanes.store(values + i * C + c, lerp(lower, upper, tz));
        if (kSlopes) {
          const Vec<T> d = lanes.load(to.contributions + i * C + c);
          slope_z = mul_add(d, upper - lower, slope_z);
          if (kAllSlopes) {
            slope_x = mul_add(d, lerp(v[2] - v[0], v[3] - v[1], tz), slope_x);
            slope_y = mul_add(d, lerp(lerp(step[0], step[2], tx), lerp(step[1], step[3], tx), tz), slope_y);
          }
        }
      });
      if (kSlopes) to.slope_z[i] = reduce_add(slope_z);
      if (kAllSlopes) {
        to.slope_x[i] = reduce_add(slope_x);
        to.slope_y[i] = reduce_add(slope_y);
      }
    }
  }

  void load_cell(const char* from, T* to) const {
    if (cells_.dense_items) {
      load_run(cells_.dtype, from, element_size(cells_.dtype), g_.C, to, 1);  // without load_block's overhead
    } else {
      load_block(cells_, from, 1, to);
    }
  }

  const Lattice g_;
  const Tensor& grid_;
  const Block cells_;
  const bool in_place_;
  RowGrid<T> rows_;
  Scratch buffer_memory_;
  T* buffer_ = nullptr;
};

}  // namespace BO_ISA
}  // namespace bilateral_ops
