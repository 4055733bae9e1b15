// Looking a bilateral grid up at a tile's pixels, and the transpose: what slice, slice_apply, enhance and splat share.
//
// Image row y lies between grid rows ky and ky + 1. Interpolated once, they make the row's table [x][z][c], and a pixel
// needs four of its cells instead of eight of the grid's. Where pixels have coordinates of their own (xy), or the table
// would cost more than it saves, the eight cells are read directly: the same numbers in the same order of operations,
// so the same bits.
#pragma once

#include "spans.h"

namespace bilateral_ops {
inline namespace BO_ISA {

struct Lattice {
  int64_t N, H, W, Gh, Gw, Gd, C;
  int64_t column;  // numbers in one column of cells: Gd·C
  Axis y, x, z;
  bool table;
};

// `cells` is the grid, or a tensor of its shape.
BO_INLINE Lattice make_lattice(const Sampling& at, const Tensor& cells, const Tensor& pixels) {
  Lattice g;
  g.N = pixels.shape[0];
  g.H = pixels.shape[1];
  g.W = pixels.shape[2];
  g.Gh = cells.shape[1];
  g.Gw = cells.shape[2];
  g.Gd = cells.shape[3];
  g.C = cells.shape[4] * cells.shape[5];
  g.column = g.Gd * g.C;
  g.y = make_axis(g.Gh, at.align_corners);
  g.x = make_axis(g.Gw, at.align_corners);
  g.z = make_axis(g.Gd, at.align_corners);
  g.table = !at.xy.data && g.Gw * g.Gd <= 4 * at.full_width;
  return g;
}

// A common number of channels, known when compiling (3 × 4), and every other.
template <int C>
struct Channels {
  static constexpr int value = C;
};
template <class F>
BO_INLINE void with_channels(int64_t C, F&& f) {
  if (C == 12) {
    f(Channels<12>());
  } else {
    f(Channels<0>());
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Where a tile's pixels fall

template <class T>
struct Places {
  int32_t ky[kTileWidth], kx[kTileWidth], kz[kTileWidth];
  T ty[kTileWidth], tx[kTileWidth], tz[kTileWidth];
  T dy[kTileWidth], dx[kTileWidth], dz[kTileWidth];  // dp/du
};

BO_INLINE Position<double> locate_row(const Lattice& g, const Sampling& at, int64_t y) {
  return locate(pixel_coordinate(y + at.top, at.full_height, at.align_corners), g.y);
}

template <class T>
BO_INLINE void locate_run(const Axis& axis, int64_t n, const T* u, int32_t* k, T* t, T* d) {
  const T scale = static_cast<T>(axis.scale), shift = static_cast<T>(axis.shift), last = static_cast<T>(axis.last);
  for (int64_t i = 0; i < n; ++i) {
    const Position<T> p = locate(u[i], scale, shift, last);
    k[i] = p.k;
    t[i] = p.t;
    d[i] = p.slope;
  }
}

template <class T>
void find_places(const Lattice& g, const Sampling& at, const Tile& tile, const T* guide, Places<T>& to) {
  locate_run(g.z, tile.count, guide, to.kz, to.tz, to.dz);
  if (at.xy.data) {
    T u[kTileWidth];
    const char* xy = pixel(at.xy, tile);
    load_run(at.xy.dtype, xy, at.xy.strides[2], tile.count, u, 1);
    locate_run(g.x, tile.count, u, to.kx, to.tx, to.dx);
    load_run(at.xy.dtype, xy + at.xy.strides[3], at.xy.strides[2], tile.count, u, 1);
    locate_run(g.y, tile.count, u, to.ky, to.ty, to.dy);
    return;
  }
  const Position<double> row = locate_row(g, at, tile.y);
  for (int64_t i = 0; i < tile.count; ++i) {
    const Position<double> p = locate(pixel_coordinate(tile.x + i + at.left, at.full_width, at.align_corners), g.x);
    to.kx[i] = p.k;
    to.tx[i] = static_cast<T>(p.t);
    to.ky[i] = row.k;
    to.ty[i] = static_cast<T>(row.t);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward: the grid at a tile's pixels

// Values [pixel][channel], and where asked their slopes along an axis of the grid, a cell's width counting as one.
template <class T>
struct Samples {
  T *values, *dz, *dx, *dy;  // null: not wanted; dx and dy only where pixels have coordinates
};

template <class T>
class Sampler {
 public:
  Sampler(const Lattice& lattice, const Tensor& grid)
      : g_(lattice), grid_(grid), cells_(block_of(grid, 3)), item_(cells_) {
    // An unaligned or converted grid goes through scratch, a column at a time.
    in_place_ = cells_.dense && item_size(grid.dtype) == sizeof(T) &&
                (reinterpret_cast<uintptr_t>(grid.data) | static_cast<uintptr_t>(grid.strides[0]) |
                 static_cast<uintptr_t>(grid.strides[1]) | static_cast<uintptr_t>(grid.strides[2])) %
                        sizeof(T) ==
                    0;
    const int64_t size = item_size(grid.dtype);
    item_.dense = (item_.c2 == 1 || item_.stride2 == size) && (item_.c1 == 1 || item_.stride1 == size * item_.c2);
  }

  void sample(const Tile& tile, const Places<T>& at, const Samples<T>& to) {
    if (!buffer_) buffer_ = buffer_memory_.template take<T>(g_.table ? 2 * g_.column : 8 * g_.C);
    if (g_.table) build_table(tile, at);
    with_channels(g_.C, [&](auto channels) {
      if (g_.table) {
        sample_table<decltype(channels)::value>(tile, at, to);
      } else {
        sample_cells<decltype(channels)::value>(tile, at, to);
      }
    });
  }

 private:
  const char* cell(int64_t n, int64_t y, int64_t x) const {
    return grid_.data + n * grid_.strides[0] + y * grid_.strides[1] + x * grid_.strides[2];
  }

  // The columns that this tile needs and the row's earlier tiles did not build.
  void build_table(const Tile& tile, const Places<T>& at) {
    if (!table_) table_ = table_memory_.template take<T>(g_.Gw * g_.column);
    if (tile.n != n_ || tile.y != y_) {
      n_ = tile.n;
      y_ = tile.y;
      built_ = 0;
    }
    const int64_t end = min_of<int64_t>(at.kx[tile.count - 1] + 2, g_.Gw);
    const int64_t ky = at.ky[0], above = min_of(ky + 1, g_.Gh - 1);
    const T ty = at.ty[0];
    for (int64_t x = max_of<int64_t>(built_, at.kx[0]); x < end; ++x) {
      const T* BO_RESTRICT a = column(tile.n, ky, x, buffer_);
      const T* BO_RESTRICT b = column(tile.n, above, x, buffer_ + g_.column);
      T* BO_RESTRICT to = table_ + x * g_.column;
      for (int64_t i = 0; i < g_.column; ++i) to[i] = lerp(a[i], b[i], ty);
    }
    built_ = max_of(built_, end);
  }
  const T* column(int64_t n, int64_t y, int64_t x, T* buffer) const {
    const char* from = cell(n, y, x);
    if (in_place_) return reinterpret_cast<const T*>(from);
    load_block(cells_, from, g_.Gd, buffer);
    return buffer;
  }

  template <int Fixed>
  void sample_table(const Tile& tile, const Places<T>& at, const Samples<T>& to) const {
    const int64_t C = Fixed ? Fixed : g_.C;
    for (int64_t i = 0; i < tile.count; ++i) {
      const int64_t kx = at.kx[i], kz = at.kz[i];
      const T* left = table_ + kx * g_.column;
      const T* right = table_ + min_of(kx + 1, g_.Gw - 1) * g_.column;
      const int64_t z0 = kz * C, z1 = min_of(kz + 1, g_.Gd - 1) * C;
      const T *BO_RESTRICT l0 = left + z0, *BO_RESTRICT r0 = right + z0;
      const T *BO_RESTRICT l1 = left + z1, *BO_RESTRICT r1 = right + z1;
      const T tx = at.tx[i], tz = at.tz[i];
      T* BO_RESTRICT values = to.values + i * C;
      if (to.dz) {
        T* BO_RESTRICT dz = to.dz + i * C;
        for (int64_t c = 0; c < C; ++c) {
          const T lower = lerp(l0[c], r0[c], tx), upper = lerp(l1[c], r1[c], tx);
          values[c] = lerp(lower, upper, tz);
          dz[c] = upper - lower;
        }
      } else {
        for (int64_t c = 0; c < C; ++c) values[c] = lerp(lerp(l0[c], r0[c], tx), lerp(l1[c], r1[c], tx), tz);
      }
    }
  }

  template <int Fixed>
  void sample_cells(const Tile& tile, const Places<T>& at, const Samples<T>& to) {
    const int64_t C = Fixed ? Fixed : g_.C;
    for (int64_t i = 0; i < tile.count; ++i) {
      const int64_t ys[2] = {at.ky[i], min_of<int64_t>(at.ky[i] + 1, g_.Gh - 1)};
      const int64_t xs[2] = {at.kx[i], min_of<int64_t>(at.kx[i] + 1, g_.Gw - 1)};
      const int64_t zs[2] = {at.kz[i], min_of<int64_t>(at.kz[i] + 1, g_.Gd - 1)};
      const T* corner[8];  // y, x, z
      for (int j = 0; j < 8; ++j) {
        const char* from = cell(tile.n, ys[j >> 2], xs[(j >> 1) & 1]) + zs[j & 1] * cells_.stride;
        if (in_place_) {
          corner[j] = reinterpret_cast<const T*>(from);
        } else {
          load_item(from, buffer_ + j * C);
          corner[j] = buffer_ + j * C;
        }
      }
      const T ty = at.ty[i], tx = at.tx[i], tz = at.tz[i];
      for (int64_t c = 0; c < C; ++c) {
        const T l0 = lerp(corner[0][c], corner[4][c], ty), l1 = lerp(corner[1][c], corner[5][c], ty);
        const T r0 = lerp(corner[2][c], corner[6][c], ty), r1 = lerp(corner[3][c], corner[7][c], ty);
        const T lower = lerp(l0, r0, tx), upper = lerp(l1, r1, tx);
        const int64_t o = i * C + c;
        to.values[o] = lerp(lower, upper, tz);
        if (to.dz) to.dz[o] = upper - lower;
        if (to.dx) to.dx[o] = lerp(r0 - l0, r1 - l1, tz);
        if (to.dy) {
          to.dy[o] = lerp(lerp(corner[4][c] - corner[0][c], corner[6][c] - corner[2][c], tx),
                          lerp(corner[5][c] - corner[1][c], corner[7][c] - corner[3][c], tx), tz);
        }
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
  bool in_place_;
  Scratch table_memory_, buffer_memory_;
  T *table_ = nullptr, *buffer_ = nullptr;
  int64_t n_ = -1, y_ = -1, built_ = 0;
};

// ---------------------------------------------------------------------------------------------------------------------
// Backward: a tile's contributions to the grid

// The sums of one band of an image, in double whatever the compute type: a cell may collect millions of pixels.
template <class T>
class Splatter {
 public:
  // `sums` holds grid rows from `first_row` on, [y][x][z][c], all zero.
  Splatter(const Lattice& lattice, double* sums, int64_t first_row) : g_(lattice), sums_(sums), first_row_(first_row) {
    if (g_.table) row_ = row_memory_.template take<double>(g_.Gw * g_.column, true);
  }

  // contributions: [pixel][channel]
  void add(const Tile& tile, const Places<T>& at, const T* contributions) {
    if (g_.table) {
      if (tile.y != y_) flush();
      y_ = tile.y;
      ky_ = at.ky[0];
      ty_ = at.ty[0];
      begin_ = min_of<int64_t>(begin_, at.kx[0]);
      end_ = max_of<int64_t>(end_, min_of<int64_t>(at.kx[tile.count - 1] + 2, g_.Gw));
    }
    with_channels(g_.C, [&](auto channels) {
      constexpr int Fixed = decltype(channels)::value;
      const int64_t C = Fixed ? Fixed : g_.C;
      for (int64_t i = 0; i < tile.count; ++i) {
        const T* from = contributions + i * C;
        if (g_.table) {
          add_pair<Fixed>(row_, at, i, 1.0, from);
        } else {
          const int64_t ky = at.ky[i], above = min_of(ky + 1, g_.Gh - 1);
          const double ty = at.ty[i];
          add_pair<Fixed>(grid_row(ky), at, i, 1.0 - ty, from);
          add_pair<Fixed>(grid_row(above), at, i, ty, from);
        }
      }
    });
  }

  // Adds the row collected so far to the two grid rows around it.
  void flush() {
    if (y_ < 0) return;
    double* BO_RESTRICT lower = grid_row(ky_);
    const double ty = ty_, rest = 1.0 - ty;
    for (int64_t i = begin_ * g_.column; i < end_ * g_.column; ++i) lower[i] += rest * row_[i];
    double* BO_RESTRICT upper = grid_row(min_of(ky_ + 1, g_.Gh - 1));
    for (int64_t i = begin_ * g_.column; i < end_ * g_.column; ++i) {
      upper[i] += ty * row_[i];
      row_[i] = 0.0;
    }
    y_ = -1;
    begin_ = g_.Gw;
    end_ = 0;
  }

 private:
  double* grid_row(int64_t y) const { return sums_ + (y - first_row_) * g_.Gw * g_.column; }

  // weight · contribution to the four cells of one grid row
  template <int Fixed>
  void add_pair(double* row, const Places<T>& at, int64_t i, double weight, const T* BO_RESTRICT from) const {
    const int64_t C = Fixed ? Fixed : g_.C;
    const int64_t kx = at.kx[i], kz = at.kz[i];
    const double tx = at.tx[i], tz = at.tz[i];
    const int64_t xs[2] = {kx * g_.column, min_of(kx + 1, g_.Gw - 1) * g_.column};
    const int64_t zs[2] = {kz * C, min_of(kz + 1, g_.Gd - 1) * C};
    const double wx[2] = {weight * (1.0 - tx), weight * tx}, wz[2] = {1.0 - tz, tz};
    for (int j = 0; j < 4; ++j) {
      double* BO_RESTRICT to = row + xs[j >> 1] + zs[j & 1];
      const double w = wx[j >> 1] * wz[j & 1];
      for (int64_t c = 0; c < C; ++c) to[c] = madd(w, static_cast<double>(from[c]), to[c]);
    }
  }

  const Lattice g_;
  double* sums_;
  int64_t first_row_;
  Scratch row_memory_;
  double* row_ = nullptr;
  int64_t y_ = -1, ky_ = 0, begin_ = g_.Gw, end_ = 0;
  double ty_ = 0.0;
};

// Bands of one image, each with sums of its own, and their sum in the order of the bands.
class GridSums {
 public:
  GridSums(const Lattice& g, const Sampling& at, const Tiling& tiling) : g_(g), tiles_(tiling.H * tiling.per_row) {
    row_size_ = g.Gw * g.column;
    bands_ = band_count(tiles_, tiling.width);
    if (!at.xy.data) {
      for (int64_t b = 0; b < bands_; ++b) {
        const bool any = first_tile(b) < first_tile(b + 1);
        const int64_t top = any ? locate_row(g, at, first_tile(b) / tiling.per_row).k : 0;
        const int64_t bottom = any ? locate_row(g, at, (first_tile(b + 1) - 1) / tiling.per_row).k : -2;
        place(b, top, min_of(bottom + 2, g.Gh));
      }
    } else {
      // Pixels may fall anywhere: every band has a whole grid, and large grids fewer bands.
      const int64_t most = (int64_t(64) << 20) / max_of<int64_t>(1, row_size_ * g.Gh * int64_t(sizeof(double)));
      bands_ = max_of<int64_t>(1, min_of(bands_, most));
      for (int64_t b = 0; b < bands_; ++b) place(b, 0, g.Gh);
    }
    sums_ = memory_.take<double>(rows_ * row_size_, true);
  }

  int64_t bands() const { return bands_; }
  int64_t first_tile(int64_t band) const { return tiles_ * band / bands_; }
  int64_t first_row(int64_t band) const { return top_[band]; }
  double* sums(int64_t band) const { return sums_ + start_[band] * row_size_; }

  template <class T>
  void store(const Tensor& to, int64_t n) const {
    const Block cells = block_of(to, 3);
    const bool small = g_.Gh * row_size_ < 4 * kGrain;
    const int64_t units = small ? 1 : g_.Gh;
    for_units(units, [&](int64_t unit) {
      Scratch memory;
      T* column = memory.take<T>(g_.column);
      for (int64_t y = unit; y < g_.Gh; y += units)
        for (int64_t x = 0; x < g_.Gw; ++x) {
          for (int64_t i = 0; i < g_.column; ++i) {
            double sum = 0.0;
            for (int64_t b = 0; b < bands_; ++b) {
              if (y >= top_[b] && y < bottom_[b]) sum += sums(b)[(y - top_[b]) * row_size_ + x * g_.column + i];
            }
            column[i] = static_cast<T>(sum);
          }
          store_block(cells, to.data + n * to.strides[0] + y * to.strides[1] + x * to.strides[2], g_.Gd, column);
        }
    });
  }

 private:
  void place(int64_t band, int64_t top, int64_t bottom) {
    top_[band] = top;
    bottom_[band] = bottom;
    start_[band] = rows_;
    rows_ += max_of<int64_t>(0, bottom - top);
  }

  const Lattice g_;
  int64_t tiles_, row_size_, bands_, rows_ = 0;
  int64_t top_[kBands], bottom_[kBands], start_[kBands];
  Scratch memory_;
  double* sums_;
};

// ---------------------------------------------------------------------------------------------------------------------
// The gradient of anything that samples a grid
//
// make_worker() makes one object a range of tiles; worker(tile, values, contributions) is given the sampled values
// (null where values_wanted is false), stores its own gradients and writes ∂L/∂values: both [pixel][channel].
template <class T, class MakeWorker>
void sampled_backward(const Lattice& g, const Sampling& at, const Tensor& grid, const Tensor& d_grid,
                      const Tensor& d_guide, const Tensor& d_xy, int64_t width, bool values_wanted,
                      const MakeWorker& make_worker) {
  const bool slopes_wanted = d_guide.data || d_xy.data;
  const bool sampled = values_wanted || slopes_wanted;
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const int64_t size = width * g.C;

  auto run = [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Scratch memory, places_memory, sampler_memory;
    T* numbers = memory.take<T>(size * 5 + 2 * width);
    T* contributions = numbers + size * 4;
    T* plane = numbers + size * 5;
    T* plane_y = plane + width;
    Samples<T> samples;
    samples.values = numbers;
    samples.dz = slopes_wanted ? numbers + size : nullptr;
    samples.dx = d_xy.data ? numbers + size * 2 : nullptr;
    samples.dy = d_xy.data ? numbers + size * 3 : nullptr;
    Places<T>& places = *places_memory.take<Places<T>>(1);
    Sampler<T> sampler(g, sampled ? grid : d_grid);
    auto worker = make_worker();
    auto slope = [&](const T* slopes, const T* scale, int64_t count, T* to) {
      for (int64_t i = 0; i < count; ++i) {
        T sum = T(0);
        for (int64_t c = 0; c < g.C; ++c) sum = madd(contributions[i * g.C + c], slopes[i * g.C + c], sum);
        to[i] = sum * scale[i];
      }
    };
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_plane(at.guide, tile, plane);
      find_places(g, at, tile, plane, places);
      if (sampled) sampler.sample(tile, places, samples);
      worker(tile, sampled ? samples.values : nullptr, contributions);
      if (d_guide.data) {
        slope(samples.dz, places.dz, tile.count, plane);
        store_plane(d_guide, tile, plane);
      }
      if (d_xy.data) {
        slope(samples.dx, places.dx, tile.count, plane);
        slope(samples.dy, places.dy, tile.count, plane_y);
        char* to = pixel(d_xy, tile);
        store_run(d_xy.dtype, to, d_xy.strides[2], tile.count, plane, 1);
        store_run(d_xy.dtype, to + d_xy.strides[3], d_xy.strides[2], tile.count, plane_y, 1);
      }
      if (splatter) splatter->add(tile, places, contributions);
    }
    if (splatter) splatter->flush();
  };

  if (!d_grid.data) {
    for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) { run(first, last, nullptr); });
    return;
  }
  const int64_t tiles = g.H * tiling.per_row;
  for (int64_t n = 0; n < g.N; ++n) {
    GridSums sums(g, at, tiling);
    for_units(sums.bands(), [&](int64_t band) {
      Splatter<T> splatter(g, sums.sums(band), sums.first_row(band));
      run(n * tiles + sums.first_tile(band), n * tiles + sums.first_tile(band + 1), &splatter);
    });
    sums.template store<T>(d_grid, n);
  }
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
