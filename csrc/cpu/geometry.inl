// How a grid lies under an image (Lattice): the sizes of a call, the rules that map pixels to positions on the grid,
// and which of the ways to sample suits them.
#pragma once

#include "tiles.h"

namespace bilateral_ops {
inline namespace BO_ISA {

struct Lattice {
  int64_t N, H, W, Gh, Gw, Gd, C;
  int64_t column_size;  // elements in one column of cells: Gd·C
  PixelAxis y, x;       // the rules of pixel indices
  Axis v, u, z;         // the rules of coordinates: xy's, and the guide
  bool scattered;       // each pixel has coordinates of its own
  bool row_grid;        // pixels are sampled from a row grid (sampler.inl)
  bool long_spans;      // … and spans have many pixels: they are splatted span by span (splatter.inl)
  bool short_sums;      // a cell meets so few pixels that their contributions are summed in the compute type
  int table_depth;      // 8 or 16: entries per register table (tables.inl), where those can be used; else 0
};

// Wider images have no list of their pixel columns' positions (PixelColumns).
constexpr int64_t kMaxColumns = 1 << 16;

// Whether the coordinates [pixel][x, y] of a row are those of the pixel columns, and y
template <class T>
bool is_row(const T* BO_RESTRICT xy, int64_t count, const T* BO_RESTRICT x, T y) {
  int32_t others = 0;  // NaN counts as different. A counter, not a flag, as compilers vectorize it.
  for (int64_t i = 0; i < count; ++i) others += (xy[2 * i] != x[i]) | (xy[2 * i + 1] != y);
  return others == 0;
}

// Whether coordinates form a raster, such as a trainer's mesh of pixel centres: one x for each pixel column and one y
// for each row, the same in all images and not decreasing. They are then handled as pixel indices are; reading all of
// them costs a tenth of what that saves.
template <class T>
bool is_raster(const Tensor& xy) {
  const int64_t N = xy.strides[0] ? xy.shape[0] : 1, H = xy.shape[1], W = xy.shape[2];
  if (xy.shape[0] * H * W == 0 || W > kMaxColumns) return false;
  Scratch memory;
  T *const x = memory.take<T>(W + H), *const y = x + W;
  load_run(xy.dtype, xy.data, xy.strides[2], W, x, 1);
  load_run(xy.dtype, xy.data + xy.strides[3], xy.strides[1], H, y, 1);
  for (int64_t i = 1; i < W; ++i)
    if (!(x[i - 1] <= x[i])) return false;
  for (int64_t i = 1; i < H; ++i)
    if (!(y[i - 1] <= y[i])) return false;
  const int64_t rows = N * H, units = band_count(rows, W);
  const bool dense = is_plain<T>(xy.dtype, xy.data) && is_aligned(xy, sizeof(T)) && xy.strides[3] == sizeof(T) &&
                     xy.strides[2] == 2 * sizeof(T);
  bool same[kBands];
  for_units(units, [&](int64_t unit) {
    Scratch copy_memory;
    T* const copy = copy_memory.take<T>(dense ? 0 : 2 * W);
    same[unit] = true;
    for (int64_t row = rows * unit / units; same[unit] && row < rows * (unit + 1) / units; ++row) {
      const char* const from = xy.data + row / H * xy.strides[0] + row % H * xy.strides[1];
      for (int c = 0; !dense && c < 2; ++c) load_run(xy.dtype, from + c * xy.strides[3], xy.strides[2], W, copy + c, 2);
      same[unit] = is_row(dense ? reinterpret_cast<const T*>(from) : copy, W, x, y[row % H]);
    }
  });
  for (int64_t unit = 0; unit < units; ++unit)
    if (!same[unit]) return false;
  return true;
}

// `cells` is the grid or a tensor of its shape. d_xy: whether the gradients of xy are wanted, which only scattered
// pixels have.
BO_INLINE Lattice make_lattice(const Sampling& at, const Tensor& cells, const Tensor& pixels, bool d_xy = false) {
  Lattice g;
  g.N = pixels.shape[0];
  g.H = pixels.shape[1];
  g.W = pixels.shape[2];
  g.Gh = cells.shape[1];
  g.Gw = cells.shape[2];
  g.Gd = cells.shape[3];
  g.C = cells.shape[4] * cells.shape[5];
  g.column_size = g.Gd * g.C;
  g.y = make_pixel_axis(g.Gh, at.full_height, at.align_corners, at.pixel_corners);
  g.x = make_pixel_axis(g.Gw, at.full_width, at.align_corners, at.pixel_corners);
  g.v = make_axis(g.Gh, at.align_corners);
  g.u = make_axis(g.Gw, at.align_corners);
  g.z = make_axis(g.Gd, at.align_corners);
  g.scattered =
      at.xy.data && (d_xy || !(at.xy.dtype == DType::f64 ? is_raster<double>(at.xy) : is_raster<float>(at.xy)));
  // These depend on the size of the whole image, so that a window of it is sampled in the same way.
  g.row_grid = !g.scattered && g.Gw * g.Gd <= 4 * at.full_width;
  g.long_spans = g.row_grid && 8 * g.Gw <= at.full_width;
  // A cell's pixels lie between its neighbours: the most there can be on an axis.
  const auto most = [](int64_t pixels, int64_t cells) {
    return 2 * ceil_div(pixels, max_of<int64_t>(1, cells - 1)) + 1;
  };
  g.short_sums = !g.long_spans && !at.xy.data && most(at.full_width, g.Gw) <= kShortSum / most(at.full_height, g.Gh);
  g.table_depth = !g.scattered && g.Gd <= 16 && 8 * g.Gw <= at.full_width ? (g.Gd <= 8 ? 8 : 16) : 0;
  return g;
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
