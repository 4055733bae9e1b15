// How a bilateral grid lies under an image: the sizes and rules of a call, and which way it is looked up.
#pragma once

#include "tiles.h"

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

}  // namespace BO_ISA
}  // namespace bilateral_ops
