// The transpose of sampling: what pixels contribute to a grid's cells, whatever the grid, without atomics and always in
// the same order.
//
// The sums are cut into parts, by shapes alone. Pixels between the same neighbouring grid rows and columns, a
// *rectangle*, touch the same 2 × 2 columns of cells: those, of a slice of the rectangle's pixels, are a part. Where
// pixels have coordinates of their own, a part is a whole grid, of a slice of the image's pixels. A block makes a part;
// a second kernel adds up, for each cell, all parts that have it.
//
// In a block, a thread owns the cells of one parity in y, x and z, of one channel. Of a pixel's eight cells there is
// one of each parity: every thread adds each pixel once, in the pixels' order, and no two add to the same number.
#pragma once

#include "sampling.cuh"

namespace bilateral_ops {

// What one sums: contributions of a pixel to each channel of its cells.
struct GradSource {  // of slice
  Tensor grad;       // (N,H,W,C1,C2)
  template <class T>
  __device__ T at(const Tile& tile, int p, int64_t c) const {
    return get<T>(grad.dtype, pixel(grad, tile, p) + channel(grad, 3, c));
  }
};
struct OuterSource {  // of slice_apply: grad_i·in_j, in_Ci = 1
  Tensor grad, image;
  int64_t L;
  template <class T>
  __device__ T at(const Tile& tile, int p, int64_t c) const {
    const int64_t i = static_cast<uint32_t>(c) / static_cast<uint32_t>(L), j = c - i * L;
    const T g = get<T>(grad.dtype, pixel(grad, tile, p) + i * grad.strides[3]);
    return j < image.shape[3] ? g * get<T>(image.dtype, pixel(image, tile, p) + j * image.strides[3]) : g;
  }
};

constexpr int kSplatTile = 64;      // pixels that a block of splat_parts adds at a time
constexpr int kSplatChannels = 32;  // most channels that it adds to

struct Parts {
  bool whole;                  // each is a whole grid
  int64_t top, left;           // the cells that the first rectangle lies above and right of
  int64_t down, across;        // rectangles in a column and a row of them
  int64_t rectangles, slices;  // of one image
  int64_t rows, columns;       // cells of a part: 2 × 2, or the grid's
  int64_t size;                // numbers of a part
  int64_t chunks, chunk;       // in how many turns of how many channels a part is made
  bool shared;                 // they fit shared memory
};
template <class T>
Parts make_parts(const Lattice<T>& g, bool xy) {
  Parts s;
  const int64_t pixels = g.H * g.W;
  s.whole = xy;
  s.top = s.left = 0;
  s.down = s.across = 1;
  if (!xy && pixels > 0) {
    s.top = locate_pixel(g.top, g.y).k;
    s.left = locate_pixel(g.left, g.x).k;
    s.down = locate_pixel(g.top + g.H - 1, g.y).k + 1 - s.top;
    s.across = locate_pixel(g.left + g.W - 1, g.x).k + 1 - s.left;
  }
  s.rectangles = s.down * s.across;
  s.rows = xy ? g.Gh : 2;
  s.columns = xy ? g.Gw : 2;
  s.size = s.rows * s.columns * g.Gd * g.C;
  // As many slices as keep a device busy and pay for the memory of their sums.
  const int64_t most =
      xy ? min_of<int64_t>(256, (int64_t(16) << 20) / max_of<int64_t>(1, s.size * 8)) : 512 / s.rectangles;
  s.slices = max_of<int64_t>(1, min_of(most, pixels / s.rectangles / 2048));
  s.chunk = min_of<int64_t>(g.C, kSplatChannels);
  s.chunks = s.chunk ? ceil_div(g.C, s.chunk) : 0;
  s.shared = s.rows * s.columns * g.Gd * s.chunk * 8 <= (24 << 10);
  return s;
}

// The first pixel of `count`, counted from `first` on, that falls into cell k or beyond.
BO_DEVICE int64_t first_pixel(const PixelAxis& axis, int64_t first, int64_t count, int64_t k) {
  int64_t below = -1, found = count;
  while (found - below > 1) {
    const int64_t middle = below + (found - below) / 2;
    if (locate_pixel(first + middle, axis).k >= k) {
      found = middle;
    } else {
      below = middle;
    }
  }
  return found;
}

// parts: [image][rectangle][slice][row][column][z][channel]
template <class T, class Source>
__global__ void __launch_bounds__(8 * kSplatChannels, 2)
    splat_parts(Source source, Sampling at, Lattice<T> g, Parts parts, double* all) {
  BO_DYNAMIC_SHARED(memory);
  __shared__ Places<T> places;
  __shared__ int64_t bounds[4];
  T* const contributions = reinterpret_cast<T*>(memory);  // [pixel][channel]
  const int t = static_cast<int>(threadIdx.x), chunk = static_cast<int>(parts.chunk);
  const int own = t % chunk, parity = t / chunk;
  const int64_t units = g.N * parts.rectangles * parts.slices * parts.chunks;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int64_t part = unit / parts.chunks, first_channel = (unit - part * parts.chunks) * chunk;
    const int64_t corner = part / parts.slices, slice = part - corner * parts.slices;
    const int64_t n = corner / parts.rectangles, rectangle = corner - n * parts.rectangles;
    const int64_t row = rectangle / parts.across, ky = parts.top + row;
    const int64_t kx = parts.left + rectangle - row * parts.across;
    const int channels = static_cast<int>(min_of<int64_t>(chunk, g.C - first_channel));
    if (t < 4) {
      const bool x = t & 1;
      const int64_t count = x ? g.W : g.H;
      bounds[t] = parts.whole ? (t < 2 ? 0 : count)
                              : first_pixel(x ? g.x : g.y, x ? g.left : g.top, count, (x ? kx : ky) + (t >> 1));
    }
    double* const part_sums = all + part * parts.size + first_channel;
    double* const sums = parts.shared ? reinterpret_cast<double*>(contributions + kSplatTile * chunk) : part_sums;
    const int64_t step = parts.shared ? chunk : g.C, cells = parts.rows * parts.columns * g.Gd;
    if (own < channels)
      for (int64_t cell = parity; cell < cells; cell += 8) sums[cell * step + own] = 0.0;
    __syncthreads();
    const int64_t top = bounds[0], left = bounds[1], bottom = bounds[2], right = bounds[3];
    const int64_t per_row = ceil_div(right - left, kSplatTile), tiles = (bottom - top) * per_row;
    for (int64_t i = tiles * slice / parts.slices; i < tiles * (slice + 1) / parts.slices; ++i) {
      Tile tile;
      tile.n = n;
      tile.y = top + i / per_row;
      tile.x = left + i % per_row * kSplatTile;
      tile.count = static_cast<int>(min_of<int64_t>(kSplatTile, right - tile.x));
      for (int p = t; p < tile.count; p += static_cast<int>(blockDim.x)) places.set(p, place(g, at, tile, p));
      for (int e = t; e < tile.count * channels; e += static_cast<int>(blockDim.x)) {
        const int p = e / channels, c = e - p * channels;
        contributions[p * chunk + c] = source.template at<T>(tile, p, first_channel + c);
      }
      __syncthreads();
      for (int p = 0; p < tile.count && own < channels; ++p) {
        const int y = (places.ky[p] ^ (parity >> 2)) & 1, x = (places.kx[p] ^ (parity >> 1)) & 1,
                  z = (places.kz[p] ^ parity) & 1;
        const int64_t cell_y = places.ky[p] + y, cell_x = places.kx[p] + x, cell_z = places.kz[p] + z;
        if (cell_y >= g.Gh || cell_x >= g.Gw || cell_z >= g.Gd) continue;
        const T ty = places.ty[p], tx = places.tx[p], tz = places.tz[p];
        const T weight = (y ? ty : T(1) - ty) * (x ? tx : T(1) - tx) * (z ? tz : T(1) - tz);
        const int64_t cell = ((cell_y - ky) * parts.columns + cell_x - kx) * g.Gd + cell_z;
        sums[cell * step + own] += static_cast<double>(weight * contributions[p * chunk + own]);
      }
      __syncthreads();
    }
    if (parts.shared && own < channels)
      for (int64_t cell = parity; cell < cells; cell += 8) part_sums[cell * g.C + own] = sums[cell * step + own];
    __syncthreads();
  }
}

// The sum of a cell's parts, in a fixed order.
template <class T>
__global__ void __launch_bounds__(256)
    add_parts(Tensor d_grid, Lattice<T> g, Parts parts, const double* __restrict__ all) {
  const int64_t column = g.Gd * g.C, count = d_grid.shape[0] * g.Gh * g.Gw * column;
  for (int64_t e = blockIdx.x * int64_t(256) + threadIdx.x; e < count; e += gridDim.x * int64_t(256)) {
    const int64_t cell = e / column, in_column = e - cell * column, row = cell / g.Gw, x = cell - row * g.Gw;
    const int64_t n = row / g.Gh, y = row - n * g.Gh;
    const double* const image = all + n * parts.rectangles * parts.slices * parts.size;
    double sum = 0.0;
    if (parts.whole) {
      for (int64_t s = 0; s < parts.slices; ++s) sum += image[s * parts.size + (y * g.Gw + x) * column + in_column];
    } else {
      for (int64_t side = 0; side < 4; ++side) {  // of the rectangle in which this cell has that place
        const int64_t down = y - (side >> 1) - parts.top, across = x - (side & 1) - parts.left;
        if (down < 0 || down >= parts.down || across < 0 || across >= parts.across) continue;
        const double* const from =
            image + (down * parts.across + across) * parts.slices * parts.size + side * column + in_column;
        for (int64_t s = 0; s < parts.slices; ++s) sum += from[s * parts.size];
      }
    }
    const int64_t z = in_column / g.C, c = in_column - z * g.C;
    put(d_grid.dtype,
        d_grid.data + n * d_grid.strides[0] + y * d_grid.strides[1] + x * d_grid.strides[2] + z * d_grid.strides[3] +
            channel(d_grid, 4, c),
        static_cast<T>(sum));
  }
}

template <class T>
void add_all_parts(Launch& to, const Lattice<T>& g, const Parts& parts, const double* all, const Tensor& d_grid) {
  launch(to, add_parts<T>, ceil_div(g.N * g.Gh * g.Gw * g.Gd * g.C, 256), 256, 0, d_grid, g, parts, all);
}

// d_grid from what the source contributes.
template <class T, class Source>
void splat(Launch& to, const Source& source, const Sampling& at, const Tensor& pixels, const Tensor& d_grid) {
  const Lattice<T> g = make_lattice<T>(at, d_grid, pixels);
  if (g.N == 0 || g.C == 0) return;
  const Parts parts = make_parts(g, at.xy.data);
  const int64_t images = g.N * parts.rectangles * parts.slices;
  double* const all = workspace<double>(to, images * parts.size);
  const size_t sums = parts.shared ? parts.rows * parts.columns * g.Gd * parts.chunk * sizeof(double) : 0;
  launch(to, splat_parts<T, Source>, images * parts.chunks, static_cast<int>(8 * parts.chunk),
         sums + kSplatTile * static_cast<size_t>(parts.chunk) * sizeof(T), source, at, g, parts, all);
  add_all_parts(to, g, parts, all, d_grid);
}

// The gradients by what decides where a pixel falls: Σ_c contribution·∂value/∂p along an axis of the grid, times ∂p/∂u.
template <class T, class Source>
__global__ void __launch_bounds__(kTile)
    slopes(Source source, Sampling at, Tensor d_guide, Tensor d_xy, Tensor grid, Lattice<T> g, Tiling tiles) {
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    const int p = static_cast<int>(threadIdx.x);
    if (p >= tile.count) continue;
    const Place<T> here = place(g, at, tile, p);
    const Cells<T> cells = cells_around(grid, g, tile.n, here);
    T slope_z = T(0), slope_x = T(0), slope_y = T(0);
    for (int64_t c = 0; c < g.C; ++c) {
      const T d = source.template at<T>(tile, p, c);
      const Corners<T> k = corners(grid.dtype, cells, channel(grid, 4, c));
      const T lower = lerp(k.v[0], k.v[2], cells.tx), upper = lerp(k.v[1], k.v[3], cells.tx);
      slope_z = mul_add(d, upper - lower, slope_z);
      slope_x = mul_add(d, lerp(k.v[2] - k.v[0], k.v[3] - k.v[1], cells.tz), slope_x);
      slope_y = mul_add(d, lerp(lerp(k.step[0], k.step[2], cells.tx), lerp(k.step[1], k.step[3], cells.tx), cells.tz),
                        slope_y);
    }
    if (d_guide.data) put(d_guide.dtype, pixel(d_guide, tile, p), slope_z * here.z.slope);
    if (d_xy.data) {
      char* const to = pixel(d_xy, tile, p);
      put(d_xy.dtype, to, slope_x * here.x.slope);
      put(d_xy.dtype, to + d_xy.strides[3], slope_y * here.y.slope);
    }
  }
}

}  // namespace bilateral_ops
