// Pixels with coordinates of their own (xy): how kernels number and place them, and splatting, for any channels
// computed in float. scattered_34.cuh has what is special to 3 × 4 matrices.
//
// Splatting adds in sums of integers (cell_sums.cuh). A warp takes 32 pixels. It first brings those of the same cell
// side by side in shared memory; then each thread, of one of the eight corners, sums neighbours of the same cell in
// float, in a fixed order, and adds these sums by atomics.
//
// Pixels are numbers of 32 bits, and no launch has more thread blocks than there may be: each kernel runs once for all.
#pragma once

#include "cell_sums.cuh"
#include "splatter.cuh"

namespace bilateral_ops {

// The sizes of a call
struct Scattered {
  uint32_t pixels, per_image, W;
  int32_t Gw, Gd;                  // cells on two axes of a grid
  int32_t last_y, last_x, last_z;  // the last cell on each axis
  int32_t row, cells;              // cells of a grid row, of a grid
};

// The cells around a pixel
struct PixelCells {
  int32_t lowest;            // the cell below on all axes, in the image's grid
  int32_t up, right, above;  // how many cells further the next one is in y, x and z; 0 at the grid's end
  // The lower cell of column c: bit 0 is the right side, bit 1 the upper one.
  __device__ int32_t column(int c) const { return lowest + (c & 1 ? right : 0) + (c & 2 ? up : 0); }
};
BO_DEVICE PixelCells cells_of(const Scattered& s, const PixelPosition<float>& at) {
  return {(at.y.k * s.Gw + at.x.k) * s.Gd + at.z.k, at.y.k < s.last_y ? s.row : 0, at.x.k < s.last_x ? s.Gd : 0,
          at.z.k < s.last_z};
}
BO_DEVICE uint32_t image_of(const Scattered& s, uint32_t p) { return s.pixels == s.per_image ? 0 : p / s.per_image; }

// --- Splatting

constexpr int kPixelThreads = 128;  // of a thread block of kernels with one thread per pixel, at most
constexpr int kLeftPixels = 32;     // of a warp
// What a pixel leaves in shared memory, in vectors: contributions of 16 channels; per column of cells, the weights of
// its lower and its upper cell, each with a number that says where the cell's sums are; and one vector with the pixel's
// cell, which also puts neighbours into other banks.
constexpr int kLeftVectors = 9, kLeftChannels = 16;
constexpr size_t kLeftBytes = kLeftPixels * kLeftVectors * sizeof(Vec4<float>);  // of a warp

// How a pixel's contributions are weighted
struct Shares {
  float weight[4], tz;  // of each column of cells; of the upper cells in it
  int32_t power[8];     // what the weights of the cells, the lower and the upper one of each column, are raised by
  float factor;         // of the contributions themselves
};
BO_DEVICE Shares shares_of(const PixelPosition<float>& at, const PixelCells& cells, const int32_t* power) {
  Shares of;
  of.tz = at.z.t;
  int32_t most = kNotFinite;
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    of.power[c] = power[cells.column(c / 2) + (c % 2 ? cells.above : 0)];
    most = max_of(most, of.power[c]);
  }
  const int32_t by = raised(most);
  of.factor = two_to(by);
#pragma unroll
  for (int c = 0; c < 8; ++c) of.power[c] -= by;
#pragma unroll
  for (int c = 0; c < 4; ++c) of.weight[c] = (c & 2 ? at.y.t : 1.0f - at.y.t) * (c & 1 ? at.x.t : 1.0f - at.x.t);
  return of;
}
// Leaves them; cells are numbered in all images' grids, whose sums are `bytes` bytes a cell.
BO_DEVICE Vec4<float> column_shares(float weight, float tz, int32_t lower_power, int32_t upper_power, uint32_t lower,
                                    uint32_t upper, uint32_t bytes) {
  return {{weight * (1.0f - tz) * two_to(lower_power), bits_float(lower * bytes), weight * tz * two_to(upper_power),
           bits_float(upper * bytes)}};
}
BO_DEVICE void leave_shares(Vec4<float>* left, const Shares& of, const PixelCells& cells, uint32_t bytes) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const uint32_t lower = static_cast<uint32_t>(cells.column(c)), upper = lower + static_cast<uint32_t>(cells.above);
    left[4 + c] = column_shares(of.weight[c], of.tz, of.power[2 * c], of.power[2 * c + 1], lower, upper, bytes);
  }
  left[8].at[0] = bits_float(static_cast<uint32_t>(cells.lowest));
}

// The slot of a lane's pixel: pixels of the same cell get neighbouring ones, in the order of lanes, and cells come in
// the order of their first pixels.
BO_DEVICE int slot_of(int32_t cell, int lane) {
  const unsigned same = __match_any_sync(0xffffffffu, cell);
  const int leader = __ffs(static_cast<int>(same)) - 1;
  const int own = lane == leader ? __popc(same) : 0;
  int until = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, until, step);
    if (lane >= step) until += before;
  }
  return __shfl_sync(0xffffffffu, until - own, leader) + __popc(same & ((1u << lane) - 1));
}

// Adds what the warp's `count` pixels left in the first of kPixels slots. A thread has a corner and, of the up to
// 4·kSums channels, those that are j modulo 4: they lie in the j-th vector. `sums` are those of the first channel.
template <int kPixels, int kSums>
BO_DEVICE void add_contributions(const Vec4<float>* left, int count, int lane, int channels, unsigned long long* sums) {
  const auto cell_of = [&](int p) { return float_bits(left[min_of(p, kPixels - 1) * kLeftVectors + 8].at[0]); };
  // Where the next pixel is of another cell
  unsigned ends = __ballot_sync(0xffffffffu, lane < count && (lane + 1 == count || cell_of(lane) != cell_of(lane + 1)));
  const int j = lane % 4, corner = lane / 4;
  const Vec4<float>* values = left + j;
  const float2* weights = reinterpret_cast<const float2*>(left + 4) + corner;
  char* const to = reinterpret_cast<char*>(sums + j);
  float sum[kSums] = {};
  for (int p = 0; p < count; p += 4, ends >>= 4, values += 4 * kLeftVectors, weights += 8 * kLeftVectors) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const Vec4<float> d = values[k * kLeftVectors];
      const float2 weight = weights[k * 2 * kLeftVectors];
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] = mul_add(weight.x, d.at[i], sum[i]);
      if (ends >> k & 1) {
        unsigned long long* const place = reinterpret_cast<unsigned long long*>(to + float_bits(weight.y));
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          if (4 * i + j < channels) atomicAdd(place + 4 * i, static_cast<unsigned long long>(__float2ll_rn(sum[i])));
          sum[i] = 0.0f;
        }
      }
    }
  }
}

BO_DEVICE Tile tile_of(const Scattered& s, uint32_t p, uint32_t n) {
  const uint32_t rest = p - n * s.per_image, y = rest / s.W;
  return {n, y, rest - y * s.W, 1};
}

// Notes how much each pixel contributes to a cell at most. One thread per pixel.
template <class Contributions>
__global__ void __launch_bounds__(kPixelThreads)
    measure_contributions(Contributions contributions, Sampling at, Lattice<float> g, Scattered s, CellSums to) {
  const uint32_t p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= s.pixels) return;
  const Tile tile = tile_of(s, p, image_of(s, p));
  const int64_t m = g.grid_at(tile.n, tile.y, tile.x);
  if (m < 0) return;
  const PixelPosition<float> here = locate(g, at, tile, 0);
  uint32_t largest = 0;
  for (int c = 0; c < to.channels; ++c)
    largest = max_of(largest, magnitude_bits(contributions.template at<float>(tile, 0, c)));
  note_largest(to.largest + m * s.cells + cells_of(s, here).lowest, here, largest);
}

// Adds 16 channels of 32 pixels per warp.
constexpr int kScatteredWarps = 4;  // of a thread block, at most
template <class Contributions>
__global__ void __launch_bounds__(32 * kScatteredWarps, 5)
    splat_scattered(Contributions contributions, Sampling at, Lattice<float> g, Scattered s, CellSums to) {
  BO_DYNAMIC_SHARED(memory);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint32_t warp = threadIdx.x / 32, unit = blockIdx.x * (blockDim.x / 32) + warp;
  const uint32_t chunks = static_cast<uint32_t>((to.channels + kLeftChannels - 1) / kLeftChannels);
  const uint32_t batch = unit / chunks, first = batch * kLeftPixels;
  if (first >= s.pixels) return;
  const int first_channel = static_cast<int>(unit - batch * chunks) * kLeftChannels;
  const int channels = min_of(to.channels - first_channel, kLeftChannels);
  const int count = static_cast<int>(min_of(static_cast<uint32_t>(kLeftPixels), s.pixels - first));
  Vec4<float>* const left = reinterpret_cast<Vec4<float>*>(memory) + warp * kLeftPixels * kLeftVectors;

  // A pixel whose index names no grid adds zeros.
  PixelCells cells = {lane < count ? 0 : -1, 0, 0, 0};
  Shares shares = {};
  Vec4<float> values[4] = {};
  Tile tile = {};
  int64_t m = -1;
  if (lane < count) {
    const uint32_t p = first + static_cast<uint32_t>(lane);
    tile = tile_of(s, p, image_of(s, p));
    m = g.grid_at(tile.n, tile.y, tile.x);
  }
  if (m >= 0) {
    const PixelPosition<float> here = locate(g, at, tile, 0);
    cells = cells_of(s, here);
    cells.lowest += static_cast<int32_t>(m) * s.cells;
    shares = shares_of(here, cells, to.power);
#pragma unroll
    for (int c = 0; c < kLeftChannels; ++c)
      if (c < channels)
        values[c % 4].at[c / 4] = shares.factor * contributions.template at<float>(tile, 0, first_channel + c);
  }
  Vec4<float>* const own = left + slot_of(cells.lowest, lane) * kLeftVectors;
#pragma unroll
  for (int j = 0; j < 4; ++j) own[j] = values[j];
  leave_shares(own, shares, cells, 8 * static_cast<uint32_t>(to.channels));
  __syncwarp();
  add_contributions<kLeftPixels, 4>(left, count, lane, channels, to.sums + first_channel);
}

// --- On the host

// Whether sums and pixels have numbers of 32 bits
inline bool is_scattered(const Sampling& at, const Tensor& grid, const Tensor& pixels) {
  double elements = 1.0, count = 1.0;
  for (int axis = 0; axis < 6; ++axis) elements *= static_cast<double>(grid.shape[axis]);
  for (int axis = 0; axis < 3; ++axis) count *= static_cast<double>(pixels.shape[axis]);
  const double chunks = static_cast<double>(grid.shape[4] * grid.shape[5] / kLeftChannels + 1);
  return at.xy.data && elements * 8.0 < 4294967296.0 && count * chunks < 2147483648.0;
}
inline Scattered make_scattered(const Tensor& grid, const Tensor& pixels) {
  Scattered s;
  s.W = static_cast<uint32_t>(pixels.shape[2]);
  s.per_image = static_cast<uint32_t>(pixels.shape[1]) * s.W;
  s.pixels = static_cast<uint32_t>(pixels.shape[0]) * s.per_image;
  s.Gw = static_cast<int32_t>(grid.shape[2]);
  s.Gd = static_cast<int32_t>(grid.shape[3]);
  s.last_y = static_cast<int32_t>(grid.shape[1]) - 1;
  s.last_x = s.Gw - 1;
  s.last_z = s.Gd - 1;
  s.row = s.Gw * s.Gd;
  s.cells = (s.last_y + 1) * s.row;
  return s;
}
// Launches a kernel with one thread per pixel. Small thread blocks are spread more evenly over a device; large ones,
// where it is full, take less to start.
template <class... Parameters>
void launch_pixels(Launch& to, void (*kernel)(Parameters...), int64_t pixels,
                   std::common_type_t<Parameters>... arguments) {
  const int threads = pixels < (1 << 15) ? 32 : kPixelThreads;
  launch(to, kernel, ceil_div(pixels, threads), threads, 0, arguments...);
}
// The same with `units` units of work, one per warp, which has shared memory for what its pixels leave.
template <class... Parameters>
void launch_warps(Launch& to, void (*kernel)(Parameters...), int64_t units,
                  std::common_type_t<Parameters>... arguments) {
  const int warps = units < 4096 ? 1 : kScatteredWarps;
  launch(to, kernel, ceil_div(units, warps), 32 * warps, warps * kLeftBytes, arguments...);
}
inline CellSums make_cell_sums(Launch& to, const Lattice<float>& g, const Scattered& s) {
  return make_cell_sums(to, g.grids, s.cells, g.C, g.index.data ? s.pixels : s.per_image);
}
inline void launch_scale_cells(Launch& to, const Lattice<float>& g, const CellSums& sums) {
  launch(to, scale_cells, ceil_div(g.grids * sums.cells, 128), 128, 0, sums, static_cast<int32_t>(g.Gh),
         static_cast<int32_t>(g.Gw), static_cast<int32_t>(g.Gd), static_cast<int32_t>(g.grids));
}

// d_grid: the contributions of pixels with or without coordinates of their own, splatted
template <class T, class Contributions>
void splat_anywhere(Launch& to, const Contributions& contributions, const Sampling& at, const Tensor& pixels,
                    const Tensor& d_grid) {
  if constexpr (sizeof(T) == sizeof(float)) {
    const Lattice<float> g = make_lattice<float>(at, d_grid, pixels);
    if (is_scattered(at, d_grid, pixels) && g.grids > 0 && g.C > 0) {
      const Scattered s = make_scattered(d_grid, pixels);
      const CellSums sums = make_cell_sums(to, g, s);
      launch_pixels(to, measure_contributions<Contributions>, s.pixels, contributions, at, g, s, sums);
      launch_scale_cells(to, g, sums);
      launch_warps(to, splat_scattered<Contributions>, ceil_div(s.pixels, kLeftPixels) * ceil_div(g.C, kLeftChannels),
                   contributions, at, g, s, sums);
      return launch_store_sums(to, d_grid, sums);
    }
  }
  splat<T>(to, contributions, at, pixels, d_grid);
}

}  // namespace bilateral_ops
