// Splatting, the transpose of sampling: pixels' contributions are added to the grid's cells, for any grid, without
// atomics and in an order that depends on shapes alone.
//
// The pixels between the same two grid rows and the same two grid columns, a *rectangle*, add to the same 2 × 2 columns
// of cells; so do those before the first row or column, which are rectangles of their own, that none be much larger.
// Each rectangle is cut into bands of pixels, and each band has sums of its own for these columns. Pixels with
// coordinates of their own may fall anywhere: then the bands are cut from the whole image, or from all images where
// these have an index, and have sums for the whole grid. One thread block makes the sums of one band at a time
// (splat_bands); a second kernel adds, for each cell, the sums of all bands that have it (add_bands).
//
// In a thread block, each thread owns one channel of the cells whose y, x and z have one combination of parities. A
// pixel's eight cells have all eight combinations, so each thread adds each pixel exactly once, in the order of the
// pixels, and no two threads add to the same element.
#pragma once

#include "sampler.cuh"

namespace bilateral_ops {

// Contributions of pixels: ∂L/∂(the grid's interpolated values), for channel c of pixel p of a tile.
struct SliceContributions {  // grad_c
  Tensor grad;               // (N,H,W,C1,C2)
  template <class T>
  __device__ T at(const Tile& tile, int p, int64_t c) const {
    return load_one<T>(grad.dtype, address_of(grad, tile, p) + channel(grad, 3, c));
  }
};
struct ApplyContributions {  // grad_i·in_j, c = i·L + j, in_Ci = 1
  Tensor grad, image;
  int64_t L;
  template <class T>
  __device__ T at(const Tile& tile, int p, int64_t c) const {
    const int64_t i = static_cast<uint32_t>(c) / static_cast<uint32_t>(L), j = c - i * L;
    const T g = load_one<T>(grad.dtype, address_of(grad, tile, p) + i * grad.strides[3]);
    return j < image.shape[3] ? g * load_one<T>(image.dtype, address_of(image, tile, p) + j * image.strides[3]) : g;
  }
};

constexpr int kSplatTile = 64;      // pixels that splat_bands stages in shared memory at a time
constexpr int kSplatChannels = 32;  // the most channels that a thread block adds to at a time

// How images are cut into bands, and how the sums of these lie in the workspace,
// [image][rectangle][band][row][column][z][channel]
struct BandPlan {
  bool whole;                 // each has sums for the whole grid
  bool by_grid;               // … of the pixels in all images that are sampled from it: in place of images are grids
  int64_t images;             // or grids
  int64_t top, left;          // rectangle_of() the first pixel
  int64_t down, across;       // rectangles per column and per row of them
  int64_t rectangles, bands;  // per image; per rectangle
  int64_t rows, columns;      // of cells that a band has sums for: 2 × 2, or the grid's
  int64_t size;               // elements in the sums of a band
  int64_t chunks, chunk;      // the channels are summed in `chunks` passes of `chunk` channels
  bool shared;                // the sums of a pass fit in shared memory
};
constexpr int64_t kWantedBands = 2230, kBandPixels = 930;  // of all images; at least in a band

// The grid row below a row of pixels, as a rectangle's; −1 for those before the first, which are nearest to it. In x
// likewise.
BO_INLINE int64_t rectangle_of(int64_t i, const PixelAxis& axis) {
  return static_cast<double>(i) * axis.step + axis.offset < 0.0 ? -1 : locate_pixel(i, axis).k;
}
// The most of `count` pixels that lie in a rectangle, in one direction
inline int64_t pixels_per_rectangle(const PixelAxis& axis, int64_t count) {
  const int64_t size = static_cast<int64_t>(axis.size), step = static_cast<int64_t>(axis.step);
  return step > 0 ? min_of(count, ceil_div(size, step)) : count;
}

template <class T>
BandPlan plan_bands(const Lattice<T>& g, bool xy) {
  BandPlan s;
  const int64_t pixels = g.H * g.W;
  s.whole = xy;
  s.by_grid = xy && g.index.data;
  s.images = s.by_grid ? g.grids : g.N;
  s.top = s.left = 0;
  s.down = s.across = 1;
  int64_t largest = pixels;  // pixels in a rectangle
  if (!xy && pixels > 0) {
    s.top = rectangle_of(g.top, g.y);
    s.left = rectangle_of(g.left, g.x);
    s.down = rectangle_of(g.top + g.H - 1, g.y) + 1 - s.top;
    s.across = rectangle_of(g.left + g.W - 1, g.x) + 1 - s.left;
    largest = pixels_per_rectangle(g.y, g.H) * pixels_per_rectangle(g.x, g.W);
  }
  s.rectangles = s.down * s.across;
  s.rows = xy ? g.Gh : 2;
  s.columns = xy ? g.Gw : 2;
  s.size = s.rows * s.columns * g.Gd * g.C;
  // Enough bands to keep a device busy to the end, each with enough pixels to be worth the memory of its sums.
  if (s.by_grid) {
    s.bands = 1;
  } else if (xy) {
    s.bands = min_of(min_of<int64_t>(256, (int64_t(16) << 20) / max_of<int64_t>(1, s.size * 8)), pixels / 2048);
  } else {
    const int64_t most = (int64_t(64) << 20) / max_of<int64_t>(1, g.N * s.rectangles * s.size * 8);
    s.bands = min_of(most, ceil_div(largest, max_of(kBandPixels, g.N * pixels / kWantedBands)));
  }
  s.bands = max_of<int64_t>(1, s.bands);
  s.chunk = min_of<int64_t>(g.C, kSplatChannels);
  s.chunks = s.chunk ? ceil_div(g.C, s.chunk) : 0;
  s.shared = s.rows * s.columns * g.Gd * s.chunk * 8 <= (24 << 10);
  return s;
}

// The first of the pixels first … first + count − 1, counted from `first`, that falls into rectangle k or a later one;
// `count` if none does. The quotient is one of whole numbers.
BO_DEVICE int64_t first_in_rectangle(const PixelAxis& axis, int64_t first, int64_t count, int64_t k) {
  const int64_t beyond = static_cast<int64_t>(static_cast<double>(k) * axis.size - axis.offset);
  if (k < 0 || beyond <= 0) return 0;
  const int64_t step = static_cast<int64_t>(axis.step);
  if (static_cast<double>(k) > axis.last || step == 0) return count;
  return max_of<int64_t>(0, min_of(count, ceil_div(beyond, step) - first));
}

// One band of all images: its rectangle, and the cells below and left of that
struct Band {
  int64_t n, band, row, column, ky, kx;
};
BO_DEVICE Band band_at(const BandPlan& plan, int64_t index) {
  const int64_t corner = index / plan.bands, n = corner / plan.rectangles, rectangle = corner - n * plan.rectangles;
  const int64_t down = rectangle / plan.across, row = plan.top + down;
  const int64_t column = plan.left + rectangle - down * plan.across;
  return {n, index - corner * plan.bands, row, column, max_of<int64_t>(0, row), max_of<int64_t>(0, column)};
}
// The top, left, bottom or right (side 0 to 3) of the pixels of its rectangle
template <class T>
BO_DEVICE int64_t bound_of(const Lattice<T>& g, const Band& at, int side) {
  const bool x = side & 1;
  return first_in_rectangle(x ? g.x : g.y, x ? g.left : g.top, x ? g.W : g.H, (x ? at.column : at.row) + (side >> 1));
}

template <class T, class Contributions>
__global__ void __launch_bounds__(8 * kSplatChannels, 2)
    splat_bands(Contributions contributions, Sampling at, Lattice<T> g, BandPlan plan, double* all) {
  BO_DYNAMIC_SHARED(memory);
  __shared__ Positions<T> positions;
  __shared__ int64_t bounds[4];                    // top, left, bottom and right of the rectangle's pixels
  T* const staged = reinterpret_cast<T*>(memory);  // contributions of a tile, [pixel][channel]
  const int t = static_cast<int>(threadIdx.x), chunk = static_cast<int>(plan.chunk);
  const int own = t % chunk, parity = t / chunk;  // the channel and the cells that this thread owns
  const int64_t units = plan.images * plan.rectangles * plan.bands * plan.chunks;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int64_t index = unit / plan.chunks, first_channel = (unit - index * plan.chunks) * chunk;
    const Band here = band_at(plan, index);
    const int channels = static_cast<int>(min_of<int64_t>(chunk, g.C - first_channel));
    if (t < 4) bounds[t] = !plan.whole ? bound_of(g, here, t) : t < 2 ? 0 : t == 2 ? g.H : g.W;
    double* const band_sums = all + index * plan.size + first_channel;
    double* const sums = plan.shared ? reinterpret_cast<double*>(staged + kSplatTile * chunk) : band_sums;
    const int64_t step = plan.shared ? chunk : g.C, cells = plan.rows * plan.columns * g.Gd;
    if (own < channels)
      for (int64_t cell = parity; cell < cells; cell += 8) sums[cell * step + own] = 0.0;
    __syncthreads();
    const int64_t top = bounds[0], left = bounds[1], bottom = bounds[2], right = bounds[3];
    const int64_t per_row = ceil_div(right - left, kSplatTile), per_image = (bottom - top) * per_row;
    const int64_t tiles = plan.by_grid ? g.N * per_image : per_image;
    for (int64_t i = tiles * here.band / plan.bands; i < tiles * (here.band + 1) / plan.bands; ++i) {
      const int64_t image = i / per_image, row = (i - image * per_image) / per_row, x = left + i % per_row * kSplatTile;
      const Tile tile = {plan.by_grid ? image : here.n, top + row, x,
                         static_cast<int>(min_of<int64_t>(kSplatTile, right - x))};
      for (int p = t; p < tile.count; p += static_cast<int>(blockDim.x)) positions.set(p, locate(g, at, tile, p));
      for (int e = t; e < tile.count * channels; e += static_cast<int>(blockDim.x)) {
        const int p = e / channels, c = e - p * channels;
        staged[p * chunk + c] = contributions.template at<T>(tile, p, first_channel + c);
      }
      __syncthreads();
      for (int p = 0; p < tile.count && own < channels; ++p) {
        if (plan.by_grid && g.grid_at(tile.n, tile.y, tile.x + p) != here.n) continue;
        // Which of the pixel's eight cells is this thread's
        const int y = (positions.ky[p] ^ (parity >> 2)) & 1, x = (positions.kx[p] ^ (parity >> 1)) & 1,
                  z = (positions.kz[p] ^ parity) & 1;
        const int64_t cell_y = positions.ky[p] + y, cell_x = positions.kx[p] + x, cell_z = positions.kz[p] + z;
        if (cell_y >= g.Gh || cell_x >= g.Gw || cell_z >= g.Gd) continue;
        const T ty = positions.ty[p], tx = positions.tx[p], tz = positions.tz[p];
        const T weight = (y ? ty : T(1) - ty) * (x ? tx : T(1) - tx) * (z ? tz : T(1) - tz);
        const int64_t cell = ((cell_y - here.ky) * plan.columns + cell_x - here.kx) * g.Gd + cell_z;
        sums[cell * step + own] += static_cast<double>(weight * staged[p * chunk + own]);
      }
      __syncthreads();
    }
    if (plan.shared && own < channels)
      for (int64_t cell = parity; cell < cells; cell += 8) band_sums[cell * g.C + own] = sums[cell * step + own];
    __syncthreads();
  }
}

// The sum of an image's bands that have cell (y, x), at `in_column` of its column, in the order of the bands
BO_DEVICE double sum_of_bands(const BandPlan& plan, const double* image, int64_t y, int64_t x, int64_t Gw,
                              int64_t column, int64_t in_column) {
  double sum = 0.0;
  if (plan.whole) {
    const double* from = image + (y * Gw + x) * column + in_column;
    for (int64_t b = 0; b < plan.bands; ++b, from += plan.size) sum += *from;
    return sum;
  }
  // The rectangles with this cell at a corner: those of rows y and y − 1 and, as it has the cells of row 0, of row −1;
  // likewise in x.
  const int64_t bottom = min_of(y, plan.top + plan.down - 1), right = min_of(x, plan.left + plan.across - 1);
  for (int64_t k = max_of(y < 2 ? -1 : y - 1, plan.top); k <= bottom; ++k)
    for (int64_t j = max_of(x < 2 ? -1 : x - 1, plan.left); j <= right; ++j) {
      const int64_t corner = 2 * (y - max_of<int64_t>(0, k)) + x - max_of<int64_t>(0, j);
      const double* from =
          image + ((k - plan.top) * plan.across + j - plan.left) * plan.bands * plan.size + corner * column + in_column;
      for (int64_t b = 0; b < plan.bands; ++b, from += plan.size) sum += *from;
    }
  return sum;
}

// d_grid: each element is the sum over the images that are sampled from its grid, in their order. One thread per
// element, as there are never more than a launch may have.
template <class T>
__global__ void __launch_bounds__(256, 4)
    add_bands(Tensor d_grid, Lattice<T> g, BandPlan plan, const double* __restrict__ all) {
  const int64_t column = g.Gd * g.C, count = d_grid.shape[0] * g.Gh * g.Gw * column;
  const int64_t e = blockIdx.x * int64_t(256) + threadIdx.x;
  if (e >= count) return;
  const int64_t cell = e / column, in_column = e - cell * column, row = cell / g.Gw, x = cell - row * g.Gw;
  const int64_t m = row / g.Gh, y = row - m * g.Gh, z = in_column / g.C, c = in_column - z * g.C;
  char* const to = address_of(d_grid, m, y, x) + z * d_grid.strides[3] + channel(d_grid, 4, c);
  const int64_t size = plan.rectangles * plan.bands * plan.size;  // of an image's sums
  double sum = 0.0;
  if (!g.index.data || plan.by_grid) {
    sum = sum_of_bands(plan, all + m * size, y, x, g.Gw, column, in_column);
  } else {
#pragma unroll 1
    for (int64_t n = 0; n < g.N; ++n)
      if (grid_of(g.index, n, 0, 0) == m) sum += sum_of_bands(plan, all + n * size, y, x, g.Gw, column, in_column);
  }
  store_one(d_grid.dtype, to, static_cast<T>(sum));
}

template <class T>
void launch_add_bands(Launch& to, const Lattice<T>& g, const BandPlan& plan, const double* all, const Tensor& d_grid) {
  launch(to, add_bands<T>, ceil_div(g.grids * g.Gh * g.Gw * g.Gd * g.C, 256), 256, 0, d_grid, g, plan, all);
}

// d_grid: the contributions, splatted
template <class T, class Contributions>
void splat(Launch& to, const Contributions& contributions, const Sampling& at, const Tensor& pixels,
           const Tensor& d_grid) {
  const Lattice<T> g = make_lattice<T>(at, d_grid, pixels);
  if (g.grids == 0 || g.C == 0) return;
  const BandPlan plan = plan_bands(g, at.xy.data);
  const int64_t bands = plan.images * plan.rectangles * plan.bands;
  double* const all = workspace<double>(to, bands * plan.size);
  const size_t sums = plan.shared ? plan.rows * plan.columns * g.Gd * plan.chunk * sizeof(double) : 0;
  launch(to, splat_bands<T, Contributions>, bands * plan.chunks, static_cast<int>(8 * plan.chunk),
         sums + kSplatTile * static_cast<size_t>(plan.chunk) * sizeof(T), contributions, at, g, plan, all);
  launch_add_bands(to, g, plan, all, d_grid);
}

// d_guide and d_xy: Σ_c contribution·∂value/∂p along an axis of the grid, times ∂p/∂u. One thread per pixel.
template <class T, class Contributions>
__global__ void __launch_bounds__(kTileWidth) slopes(Contributions contributions, Sampling at, Tensor d_guide,
                                                     Tensor d_xy, Tensor grid, Lattice<T> g, Tiling tiles) {
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    const int p = static_cast<int>(threadIdx.x);
    if (p >= tile.count) continue;
    const PixelPosition<T> here = locate(g, at, tile, p);
    const Sampler<T> sampler(grid, g, tile, p, here);
    T slope_y = T(0), slope_x = T(0), slope_z = T(0);
    for (int64_t c = 0; c < g.C; ++c) {
      const T d = contributions.template at<T>(tile, p, c);
      sampler.add_slopes(channel(grid, 4, c), d, slope_y, slope_x, slope_z);
    }
    if (d_guide.data) store_one(d_guide.dtype, address_of(d_guide, tile, p), slope_z * here.z.slope);
    if (d_xy.data) {
      char* const to = address_of(d_xy, tile, p);
      store_one(d_xy.dtype, to, slope_x * here.x.slope);
      store_one(d_xy.dtype, to + d_xy.strides[3], slope_y * here.y.slope);
    }
  }
}

}  // namespace bilateral_ops
