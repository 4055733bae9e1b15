// Looking a bilateral grid up at a tile's pixels: what slice, slice_apply, enhance and splat share. (The transpose is
// in splatter.inl, the lookup in registers in tables.inl.)
//
// Image row y lies between grid rows ky and ky + 1. Interpolated once, they make the row's table [x][z][c], and a pixel
// needs four of its cells instead of eight of the grid's. Where pixels have coordinates of their own (xy, unless they
// form a raster), or the table would cost more than it saves, the eight cells are read directly: the same numbers in
// the same order of operations, so the same bits.
#pragma once

#include "positions.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// What is asked of a tile's samples.
template <class T>
struct Samples {
  T* values;                       // [pixel][channel]; null: not wanted
  const T* contributions;          // ∂L/∂values, [pixel][channel]; null: no slopes are wanted
  T *slope_z, *slope_x, *slope_y;  // [pixel]: Σ_c contributions·∂values/∂p along an axis of the grid;
                                   // x and y go together, and only where pixels have coordinates; else null
};

// Whether columns of cells can be read, and written, as numbers where they lie.
template <class T>
bool has_plain_columns(const Tensor& grid) {
  return block_of(grid, 3).dense && item_size(grid.dtype) == sizeof(T) && aligned(grid, sizeof(T));
}

// How the numbers of a cell lie in a table: as in the grid, or those of a 3 × 4 matrix as four columns of four numbers
// or four rows of four, where the numbers that the matrix lacks are zeros. A packed column has its last cell twice, as
// what is above it.
enum class Packing { none, columns, rows };
constexpr int64_t kPackedCell = 16;

// The grid at one row of pixels after another, [x][z][number].
template <class T, Packing kPacking = Packing::none>
class RowTable {
 public:
  RowTable(const Lattice& lattice, const Tensor& grid)
      : g_(lattice),
        grid_(grid),
        cells_(block_of(grid, 3)),
        // An unaligned or converted grid goes through scratch, a column at a time.
        in_place_(!kPacks && has_plain_columns<T>(grid)),
        column_(kPacks ? (g_.Gd + 1) * kPackedCell : g_.column) {}

  const T* column(int64_t x) const { return table_ + x * column_; }

  // The columns that this tile needs and the row's earlier tiles did not build.
  void build(const Tile& tile, const Places<T>& at) {
    if (!table_) table_ = table_memory_.template take<T>(g_.Gw * column_ + (kPacks ? g_.column : 0));
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
      T* BO_RESTRICT to = table_ + x * column_;
      for (int64_t i = 0; i < column_; ++i) to[i] = lerp(a[i], b[i], ty);
    }
    built_ = max_of(built_, end);
  }

 private:
  static constexpr bool kPacks = kPacking != Packing::none;

  // Where it lies, or in the copy that its grid row has while the image's rows need it: rows ky and ky + 1 have one
  // each.
  const T* grid_column(int64_t n, int64_t y, int64_t x) {
    const char* const from = place_at(grid_, n, y, x);
    if (in_place_) return reinterpret_cast<const T*>(from);
    RowCopy& row = copies_[y & 1];
    if (!row.numbers) row.numbers = row.memory.template take<T>(g_.Gw * column_, kPacks);
    if (row.n != n || row.y != y) {
      row.n = n;
      row.y = y;
      row.begin = row.end = x;
    }
    if (x < row.begin || x >= row.end) {
      load_column(from, row.numbers + x * column_);
      // Columns come from left to right, row for row.
      if (x != row.end) row.begin = x;
      row.end = x + 1;
    }
    return row.numbers + x * column_;
  }
  void load_column(const char* from, T* to) const {
    if (!kPacks) return load_block(cells_, from, g_.Gd, to);
    T* const numbers = table_ + g_.Gw * column_;
    load_block(cells_, from, g_.Gd, numbers);
    for (int64_t z = 0; z <= g_.Gd; ++z)
      for (int64_t c = 0; c < g_.C; ++c)
        to[z * kPackedCell + (kPacking == Packing::columns ? c % 4 * 4 + c / 4 : c)] =
            numbers[min_of(z, g_.Gd - 1) * g_.C + c];
  }

  const Lattice g_;
  const Tensor& grid_;
  const Block cells_;
  const bool in_place_;
  const int64_t column_;  // numbers in one
  struct RowCopy {
    Scratch memory;
    T* numbers = nullptr;
    int64_t n = -1, y = -1, begin = 0, end = 0;  // columns begin … end are there
  };
  RowCopy copies_[2];
  Scratch table_memory_;
  T* table_ = nullptr;
  int64_t n_ = -1, y_ = -1, built_ = 0;
};

template <class T>
class Sampler {
 public:
  Sampler(const Lattice& lattice, const Tensor& grid)
      : g_(lattice),
        grid_(grid),
        cells_(block_of(grid, 3)),
        item_(cells_),
        in_place_(has_plain_columns<T>(grid)),
        rows_(lattice, grid) {
    const int64_t size = item_size(grid.dtype);
    item_.dense = (item_.c2 == 1 || item_.stride2 == size) && (item_.c1 == 1 || item_.stride1 == size * item_.c2);
  }

  void sample(const Tile& tile, const Places<T>& at, const Samples<T>& to) {
    if (g_.table) {
      rows_.build(tile, at);
      sample_table(tile, at, to);
    } else {
      if (!buffer_) buffer_ = buffer_memory_.template take<T>(8 * g_.C);
      sample_cells(tile, at, to);
    }
  }

 private:
  void sample_table(const Tile& tile, const Places<T>& at, const Samples<T>& to) const {
    with_vectors<T>(g_.C, [&](auto each) {
      if (!to.contributions) {
        sample_table_as<true, false>(tile, at, to, each);
      } else if (to.values) {
        sample_table_as<true, true>(tile, at, to, each);
      } else {
        sample_table_as<false, true>(tile, at, to, each);
      }
    });
  }
  template <bool kValues, bool kSlopes, class Each>
  void sample_table_as(const Tile& tile, const Places<T>& at, const Samples<T>& to, const Each& each) const {
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
          const Vec<T> lower = lerp(lanes.get(left + lower_at + c), lanes.get(right + lower_at + c), tx);
          const Vec<T> upper = lerp(lanes.get(left + upper_at + c), lanes.get(right + upper_at + c), tx);
          if (kValues && !kSlopes) prefetch_ahead<sizeof(Vec<T>)>(reinterpret_cast<const char*>(values + i * C + c));
          if (kValues) lanes.put(values + i * C + c, lerp(lower, upper, tz));
          if (kSlopes) slope = madd(lanes.get(to.contributions + i * C + c), upper - lower, slope);
        });
        if (kSlopes) to.slope_z[i] = total(slope);
      }
    });
  }

  void sample_cells(const Tile& tile, const Places<T>& at, const Samples<T>& to) {
    with_vectors<T>(g_.C, [&](auto each) {
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
  void sample_cells_as(const Tile& tile, const Places<T>& at, const Samples<T>& to, const Each& each) {
    const int64_t C = g_.C, x_stride = grid_.strides[2], z_stride = cells_.stride;
    T* const values = to.values;
    for (int64_t i = 0; i < tile.count; ++i) {
      const int64_t kx = at.kx[i], kz = at.kz[i];
      const int64_t left = kx * x_stride, right = min_of<int64_t>(kx + 1, g_.Gw - 1) * x_stride;
      const int64_t low = kz * z_stride, high = min_of<int64_t>(kz + 1, g_.Gd - 1) * z_stride;
      const char* const below = place_at(grid_, tile.n, at.ky[i], 0);
      const char* const above = place_at(grid_, tile.n, min_of<int64_t>(at.ky[i] + 1, g_.Gh - 1), 0);
      const char* const places[8] = {below + left + low,   below + left + high, below + right + low,
                                     below + right + high, above + left + low,  above + left + high,
                                     above + right + low,  above + right + high};
      const T* corner[8];  // y, x, z
      for (int j = 0; j < 8; ++j) {
        if (in_place_) {
          corner[j] = reinterpret_cast<const T*>(places[j]);
        } else {
          load_item(places[j], buffer_ + j * C);
          corner[j] = buffer_ + j * C;
        }
      }
      const Vec<T> ty = broadcast(at.ty[i]), tx = broadcast(at.tx[i]), tz = broadcast(at.tz[i]);
      Vec<T> slope_z = broadcast(T(0)), slope_x = slope_z, slope_y = slope_z;
      each([&](int64_t c, auto lanes) {
        // Left and right, lower and upper; the step in y, then the value at ty.
        Vec<T> step[4], v[4];
        for (int j = 0; j < 4; ++j) {
          const Vec<T> first = lanes.get(corner[j] + c);
          step[j] = lanes.get(corner[j + 4] + c) - first;
          v[j] = madd(ty, step[j], first);
        }
        const Vec<T> lower = lerp(v[0], v[2], tx), upper = lerp(v[1], v[3], tx);
        if (!kSlopes || values) lanes.put(values + i * C + c, lerp(lower, upper, tz));
        if (kSlopes) {
          const Vec<T> d = lanes.get(to.contributions + i * C + c);
          slope_z = madd(d, upper - lower, slope_z);
          if (kAllSlopes) {
            slope_x = madd(d, lerp(v[2] - v[0], v[3] - v[1], tz), slope_x);
            slope_y = madd(d, lerp(lerp(step[0], step[2], tx), lerp(step[1], step[3], tx), tz), slope_y);
          }
        }
      });
      if (kSlopes) to.slope_z[i] = total(slope_z);
      if (kAllSlopes) {
        to.slope_x[i] = total(slope_x);
        to.slope_y[i] = total(slope_y);
      }
    }
  }
  void load_item(const char* from, T* to) const {
    if (item_.dense) {
      load_run(item_.dtype, from, item_size(item_.dtype), g_.C, to, 1);
    } else {
      load_block(item_, from, 1, to);
    }
  }

  const Lattice g_;
  const Tensor& grid_;
  const Block cells_;
  Block item_;
  const bool in_place_;
  RowTable<T> rows_;
  Scratch buffer_memory_;
  T* buffer_ = nullptr;
};

}  // namespace BO_ISA
}  // namespace bilateral_ops
