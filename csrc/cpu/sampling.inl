// Looking a bilateral grid up at a tile's pixels: what slice, slice_apply, enhance and splat share. (The transpose is
// in splatting.inl, the lookup in registers in tables.inl.)
//
// Image row y lies between grid rows ky and ky + 1. Interpolated once, they make the row's table [x][z][c], and a pixel
// needs four of its cells instead of eight of the grid's. Where pixels have coordinates of their own (xy, unless they
// form a raster), or the table would cost more than it saves, the eight cells are read directly: the same numbers in
// the same order of operations, so the same bits.
#pragma once

#include "spans.h"

namespace bilateral_ops {
inline namespace BO_ISA {

struct Lattice {
  int64_t N, H, W, Gh, Gw, Gd, C;
  int64_t column;  // numbers in one column of cells: Gd·C
  PixelAxis y, x;  // of pixels
  Axis v, u, z;    // of coordinates: xy's, and the guide
  bool scattered;  // pixels have coordinates of their own
  bool table;      // pixels are looked up in row tables
  bool spans;      // … with many pixels between two columns, and are splatted span by span
  bool few;        // a cell meets no more pixels than are added up in the compute type
  int depth;       // 8 or 16: in tables that fit registers, with so many cells a column (tables.inl); else 0
};

// Images wider than this have no list of where their columns fall.
constexpr int64_t kMostColumns = 1 << 16;

// Whether coordinates [pixel][x, y] are these columns' and this row's.
template <class T>
bool is_row(const T* BO_RESTRICT xy, int64_t count, const T* BO_RESTRICT x, T y) {
  int32_t others = 0;  // NaN, too; a count, as that can be vectorized
  for (int64_t i = 0; i < count; ++i) others += (xy[2 * i] != x[i]) | (xy[2 * i + 1] != y);
  return others == 0;
}

// Whether coordinates are those of rows and columns, as a trainer's mesh of pixel centres: one x for each column of all
// images and one y for each row, neither ever decreasing. Reading them all costs a tenth of what it saves.
template <class T>
bool is_raster(const Tensor& xy) {
  const int64_t N = xy.strides[0] ? xy.shape[0] : 1, H = xy.shape[1], W = xy.shape[2];
  if (xy.shape[0] * H * W == 0 || W > kMostColumns) return false;
  Scratch memory;
  T *const x = memory.take<T>(W + H), *const y = x + W;
  load_run(xy.dtype, xy.data, xy.strides[2], W, x, 1);
  load_run(xy.dtype, xy.data + xy.strides[3], xy.strides[1], H, y, 1);
  for (int64_t i = 1; i < W; ++i)
    if (!(x[i - 1] <= x[i])) return false;
  for (int64_t i = 1; i < H; ++i)
    if (!(y[i - 1] <= y[i])) return false;
  const int64_t rows = N * H, units = band_count(rows, W);
  const bool dense = plain<T>(xy.dtype, xy.data) && xy.strides[3] == sizeof(T) && xy.strides[2] == 2 * sizeof(T);
  bool same[kBands];
  for_units(units, [&](int64_t unit) {
    same[unit] = true;
    for (int64_t row = rows * unit / units; same[unit] && row < rows * (unit + 1) / units; ++row) {
      const char* const from = xy.data + row / H * xy.strides[0] + row % H * xy.strides[1];
      if (dense && plain<T>(xy.dtype, from)) {
        same[unit] = is_row(reinterpret_cast<const T*>(from), W, x, y[row % H]);
        continue;
      }
      with_storage(xy.dtype, T(), [&](auto storage) {
        using S = decltype(storage);
        bool other = false;  // NaN, too
        for (int64_t i = 0; i < W; ++i) {
          const char* const p = from + i * xy.strides[2];
          other |= S::get(p) != x[i];
          other |= S::get(p + xy.strides[3]) != y[row % H];
        }
        same[unit] = !other;
      });
    }
  });
  for (int64_t unit = 0; unit < units; ++unit)
    if (!same[unit]) return false;
  return true;
}

// `cells` is the grid, or a tensor of its shape. d_xy: each pixel's slope in x and y is wanted.
BO_INLINE Lattice make_lattice(const Sampling& at, const Tensor& cells, const Tensor& pixels, bool d_xy = false) {
  Lattice g;
  g.N = pixels.shape[0];
  g.H = pixels.shape[1];
  g.W = pixels.shape[2];
  g.Gh = cells.shape[1];
  g.Gw = cells.shape[2];
  g.Gd = cells.shape[3];
  g.C = cells.shape[4] * cells.shape[5];
  g.column = g.Gd * g.C;
  g.y = make_pixel_axis(g.Gh, at.full_height, at.align_corners);
  g.x = make_pixel_axis(g.Gw, at.full_width, at.align_corners);
  g.v = make_axis(g.Gh, at.align_corners);
  g.u = make_axis(g.Gw, at.align_corners);
  g.z = make_axis(g.Gd, at.align_corners);
  g.scattered =
      at.xy.data && (d_xy || !(at.xy.dtype == DType::f64 ? is_raster<double>(at.xy) : is_raster<float>(at.xy)));
  // By the whole image's size, so that a window of it goes the same way.
  g.table = !g.scattered && g.Gw * g.Gd <= 4 * at.full_width;
  g.spans = g.table && 8 * g.Gw <= at.full_width;
  // A cell's pixels lie between its neighbours.
  const auto most = [](int64_t pixels, int64_t cells) {
    return 2 * ceil_div(pixels, max_of<int64_t>(1, cells - 1)) + 1;
  };
  g.few = !g.spans && !at.xy.data && most(at.full_width, g.Gw) <= kShortSum / most(at.full_height, g.Gh);
  g.depth = !g.scattered && g.Gd <= 16 && 8 * g.Gw <= at.full_width ? (g.Gd <= 8 ? 8 : 16) : 0;
  return g;
}

// ---------------------------------------------------------------------------------------------------------------------
// Where a tile's pixels fall

template <class T>
struct Places {
  static constexpr int64_t kSize = kTileWidth + kPad;
  // A row of pixels has one y and, without xy, the columns that every row has.
  int32_t row_k;
  T row_t;
  const int32_t* kx;
  const T* tx;
  const int32_t* end_of;  // the pixel after the last one in a column; null where columns are not kept
  int64_t first;          // the tile's first pixel
  alignas(64) int32_t kz[kSize];
  T tz[kSize], dz[kSize];  // d is dp/du
  // Where pixels have coordinates of their own, or are looked up one by one:
  int32_t ky[kSize], own_kx[kSize];
  T ty[kSize], own_tx[kSize], dy[kSize], dx[kSize];
};

// locate() for a vector of coordinates
template <class T>
class AxisVecs {
 public:
  explicit AxisVecs(const Axis& axis)
      : scale_(broadcast(static_cast<T>(axis.scale))),
        below_(broadcast(-static_cast<T>(axis.shift))),
        last_(broadcast(static_cast<T>(axis.last))) {}
  BO_INLINE_MEMBER Indices<T> locate(const Vec<T>& u, Vec<T>& t, Vec<T>& slope) const {
    const Vec<T> p = fused(u, scale_, below_);
    const Indices<T> k = truncated(clamp(p, last_));
    t = where_equal(u, u, where_inside(p, last_, fused(u, scale_, below_ - to_numbers(k))), u);
    slope = where_equal(u, u, where_inside(p, last_, scale_), u);
    return k;
  }

 private:
  const Vec<T> scale_, below_, last_;
};
// d, the slopes, may be null: not wanted.
template <class T>
BO_INLINE void locate_run(const Axis& axis, int64_t n, const T* BO_RESTRICT u, int32_t* BO_RESTRICT k, T* BO_RESTRICT t,
                          T* BO_RESTRICT d) {
  const AxisVecs<T> rule(axis);
  int64_t i = 0;
  for (; i + Vec<T>::kLanes <= n; i += Vec<T>::kLanes) {
    Vec<T> fraction, slope;
    store_indices(k + i, rule.locate(load(u + i), fraction, slope));
    store(t + i, fraction);
    if (d) store(d + i, slope);
  }
  for (; i < n; ++i) {
    const Position<T> p =
        locate(u[i], static_cast<T>(axis.scale), static_cast<T>(axis.shift), static_cast<T>(axis.last));
    k[i] = p.k;
    t[i] = p.t;
    if (d) d[i] = p.slope;
  }
}

template <class T>
Position<double> locate_coordinate(const Tensor& xy, const char* from, const Axis& axis) {
  T u;
  load_run(xy.dtype, from, 0, 1, &u, 1);
  const Position<T> p = locate(u, static_cast<T>(axis.scale), static_cast<T>(axis.shift), static_cast<T>(axis.last));
  return {p.k, p.t, p.slope};
}
BO_INLINE Position<double> locate_row(const Lattice& g, const Sampling& at, int64_t y) {
  if (at.xy.data) {
    const char* const from = at.xy.data + y * at.xy.strides[1] + at.xy.strides[3];
    return at.xy.dtype == DType::f64 ? locate_coordinate<double>(at.xy, from, g.v)
                                     : locate_coordinate<float>(at.xy, from, g.v);
  }
  return locate_pixel(y + at.top, g.y);
}
template <class T>
void locate_columns(const Lattice& g, const Sampling& at, int64_t x, int64_t n, int32_t* BO_RESTRICT k,
                    T* BO_RESTRICT t) {
  if (at.xy.data) {
    T u[kTileWidth];
    for (int64_t i = 0; i < n; i += kTileWidth) {
      const int64_t count = min_of<int64_t>(kTileWidth, n - i);
      load_run(at.xy.dtype, at.xy.data + (x + i) * at.xy.strides[2], at.xy.strides[2], count, u, 1);
      locate_run(g.u, count, u, k + i, t + i, static_cast<T*>(nullptr));
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const Position<double> p = locate_pixel(x + i + at.left, g.x);
    k[i] = p.k;
    t[i] = static_cast<T>(p.t);
  }
}

// Where the columns of an image fall, the same for all its rows; only of images that are not absurdly wide.
template <class T>
class Columns {
 public:
  Columns(const Lattice& g, const Sampling& at) {
    if (g.scattered || g.W > kMostColumns) return;
    t_ = memory_.template take<T>((g.W + kPad) * 2 + g.Gw, true);
    k_ = reinterpret_cast<int32_t*>(t_ + g.W + kPad);
    end_of_ = k_ + g.W + kPad;
    locate_columns(g, at, 0, g.W, k_, t_);
    for (int64_t x = 0; x < g.W; ++x) end_of_[k_[x]] = static_cast<int32_t>(x + 1);
  }
  const int32_t* k() const { return k_; }  // null: not kept
  const T* t() const { return t_; }
  const int32_t* end_of() const { return end_of_; }

 private:
  Scratch memory_;
  int32_t *k_ = nullptr, *end_of_ = nullptr;
  T* t_ = nullptr;
};

// Finds the places of one tile after another.
template <class T>
class Placer {
 public:
  Placer(const Lattice& g, const Sampling& at, const Columns<T>& columns) : g_(g), at_(at), columns_(columns) {
    to_ = memory_.template take<Places<T>>(1, true);
  }

  // guide: [pixel]
  template <bool kSlopes = true>
  BO_INLINE_MEMBER const Places<T>& find(const Tile& tile, const T* guide) {
    Places<T>& to = *to_;
    locate_run(g_.z, tile.count, guide, to.kz, to.tz, kSlopes ? to.dz : nullptr);
    for (int64_t i = tile.count; i < tile.count + kPad; ++i) to.kz[i] = 0;
    return find(tile);
  }
  // Without depths, which those who take this have from elsewhere.
  const Places<T>& find(const Tile& tile) {
    Places<T>& to = *to_;
    to.kx = to.own_kx;
    to.tx = to.own_tx;
    to.end_of = nullptr;
    to.first = tile.x;
    if (g_.scattered) {
      T u[kTileWidth];
      const char* xy = pixel(at_.xy, tile);
      load_run(at_.xy.dtype, xy, at_.xy.strides[2], tile.count, u, 1);
      locate_run(g_.u, tile.count, u, to.own_kx, to.own_tx, to.dx);
      load_run(at_.xy.dtype, xy + at_.xy.strides[3], at_.xy.strides[2], tile.count, u, 1);
      locate_run(g_.v, tile.count, u, to.ky, to.ty, to.dy);
      return to;
    }
    if (tile.y != y_) {
      y_ = tile.y;
      const Position<double> row = locate_row(g_, at_, tile.y);
      to.row_k = row.k;
      to.row_t = static_cast<T>(row.t);
      for (int64_t i = 0; !g_.spans && i < kTileWidth; ++i) {
        to.ky[i] = to.row_k;
        to.ty[i] = to.row_t;
      }
    }
    if (columns_.k()) {
      to.kx = columns_.k() + tile.x;
      to.tx = columns_.t() + tile.x;
      to.end_of = columns_.end_of();
    } else {
      locate_columns(g_, at_, tile.x, tile.count, to.own_kx, to.own_tx);
    }
    return to;
  }

 private:
  const Lattice& g_;
  const Sampling& at_;
  const Columns<T>& columns_;
  Scratch memory_;
  Places<T>* to_;
  int64_t y_ = -1;
};

// Calls f(begin, end) for the runs of a tile's pixels between the same two columns.
template <class T, class F>
BO_INLINE void for_spans(const Places<T>& at, int64_t count, F&& f) {
  for (int64_t begin = 0; begin < count;) {
    const int32_t kx = at.kx[begin];
    int64_t end;
    if (at.end_of) {
      end = min_of<int64_t>(at.end_of[kx] - at.first, count);
    } else {
      end = begin + 1;
      while (end < count && at.kx[end] == kx) ++end;
    }
    f(begin, end);
    begin = end;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward: the grid at a tile's pixels

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
