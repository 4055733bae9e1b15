// slice_apply at coordinates of the pixels' own (xy), for 3 × 4 matrices computed in float: forward, and all gradients.
//
// Each thread computes one pixel. It reads the pixel's eight cells 128 bits at a time: from the grid itself, where this
// is dense float32, else from a copy of it. Of calls with few pixels four threads share one, each with one of the four
// columns of cells, so that a device is busy with some thousand rays; a pixel's own gradients have the same bits.
// d_grid is splatted as in scattered.cuh, by the same threads.
#pragma once

#include <initializer_list>

#include "matrix34.cuh"
#include "scattered.cuh"

namespace bilateral_ops {

constexpr int kCellBytes = kMatrixSize * 4;  // of a cell in float
constexpr int kSumBytes = kMatrixSize * 8;   // of a cell's sums
constexpr int kFewPixels = 1 << 15;          // below this, four threads share a pixel

// --- Pixels by number, in raster order, of all images

// The grid that a pixel is sampled from; where its index names none, that is the first one, at a depth that is NaN
struct GridOfPixel {
  uint32_t m;
  bool exists;
};

// In arrays that are dense float32
struct DensePixels {
  using At = uint32_t;
  __device__ At at(const Scattered&, uint32_t p, uint32_t) const { return p; }
  __device__ GridOfPixel grid(const Lattice<float>&, At, uint32_t n) const { return {n, true}; }
  template <int kChannels>
  __device__ void load(const Tensor& t, At p, float (&v)[kChannels]) const {
    struct alignas(kChannels == 2 ? 8 : 4) Pixel {
      float at[kChannels];
    };
    const Pixel pixel = reinterpret_cast<const Pixel*>(t.data)[p];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) v[c] = pixel.at[c];
  }
  __device__ void store(const Tensor& t, At p, int channels, int c, float v) const {
    reinterpret_cast<float*>(t.data)[static_cast<uint64_t>(p) * static_cast<uint32_t>(channels) + c] = v;
  }
};
// In arrays of any dtype and strides, or with an index
struct StridedPixels {
  using At = Tile;
  __device__ At at(const Scattered& s, uint32_t p, uint32_t n) const { return tile_of(s, p, n); }
  __device__ GridOfPixel grid(const Lattice<float>& g, const At& at, uint32_t) const {
    const int64_t m = g.grid_at(at.n, at.y, at.x);
    return {static_cast<uint32_t>(max_of<int64_t>(0, m)), m >= 0};
  }
  template <int kChannels>
  __device__ void load(const Tensor& t, const At& at, float (&v)[kChannels]) const {
    const char* const from = address_of(t, at, 0);
    const int64_t stride = kChannels > 1 ? t.strides[3] : 0;
    with_storage(t.dtype, float(), [&](auto storage) {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) v[c] = storage.load_one(from + c * stride);
    });
  }
  __device__ void store(const Tensor& t, const At& at, int channels, int c, float v) const {
    store_one(t.dtype, address_of(t, at, 0) + (channels > 1 ? c * t.strides[3] : 0), v);
  }
};

// --- The call

struct Scattered34 : Scattered {
  const char* grid;                             // [grid][cell][12] floats, the cells at multiples of 16
  int64_t grid_step;                            // bytes from grid to grid
  int32_t row_bytes, column_bytes, cell_bytes;  // from one to the next in y, x and z
};
BO_DEVICE PixelPosition<float> locate(const Lattice<float>& g, const float (&xy)[2], float depth) {
  return {locate(xy[1], g.v), locate(xy[0], g.u), locate(depth, g.z)};
}
BO_DEVICE const char* cell_at(const Scattered34& s, const GridOfPixel& grid, int32_t cell) {
  return s.grid + grid.m * s.grid_step + int64_t(kCellBytes) * cell;
}

// --- Forward

template <class Pixels>
__global__ void __launch_bounds__(kPixelThreads)
    scattered_apply_34(SliceApplyArgs a, Lattice<float> g, Scattered34 s, Pixels pixels) {
  const uint32_t p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= s.pixels) return;
  const uint32_t n = image_of(s, p);
  const auto pixel = pixels.at(s, p, n);
  const GridOfPixel grid = pixels.grid(g, pixel, n);
  float xy[2], depth[1], in[3];
  pixels.load(a.at.xy, pixel, xy);
  pixels.load(a.at.guide, pixel, depth);
  pixels.load(a.image, pixel, in);
  const PixelPosition<float> at = locate(g, xy, grid.exists ? depth[0] : not_a_number<float>());
  const PixelCells cells = cells_of(s, at);
  const int32_t up = at.y.k < s.last_y ? s.row_bytes : 0, right = at.x.k < s.last_x ? s.column_bytes : 0,
                above = at.z.k < s.last_z ? s.cell_bytes : 0;
  const char* const lowest = cell_at(s, grid, cells.lowest);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    Vec4<float> v[4];  // interpolated in y, [x][z]
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const char* const from = lowest + (k & 2 ? right : 0) + (k & 1 ? above : 0) + 16 * i;
      v[k] = lerp(Storage<F32>::load(from), Storage<F32>::load(from + up), at.y.t);
    }
    const Vec4<float> m = lerp(lerp(v[0], v[2], at.x.t), lerp(v[1], v[3], at.x.t), at.z.t);
    float sum = m.at[3];
#pragma unroll
    for (int j = 0; j < 3; ++j) sum = mul_add(m.at[j], in[j], sum);
    pixels.store(a.out, pixel, 3, i, sum);
  }
}

// --- Backward

// A pixel's elements and position
template <class Pixels>
BO_DEVICE PixelPosition<float> load_pixel(const Pixels& pixels, const typename Pixels::At& pixel,
                                          const GridOfPixel& grid, const SliceApplyGradArgs& a, const Lattice<float>& g,
                                          float (&in)[3], float (&grad)[3]) {
  float xy[2], depth[1];
  pixels.load(a.at.xy, pixel, xy);
  pixels.load(a.at.guide, pixel, depth);
  pixels.load(a.image, pixel, in);
  pixels.load(a.grad, pixel, grad);
  return locate(g, xy, grid.exists ? depth[0] : not_a_number<float>());
}

// Makes zeros of what a pixel contributes.
BO_DEVICE void clear(float (&in)[3], float (&grad)[3]) {
#pragma unroll
  for (int c = 0; c < 3; ++c) in[c] = grad[c] = 0.0f;
}

// Notes how much each pixel contributes to a cell at most. One thread per pixel.
template <class Pixels>
__global__ void __launch_bounds__(kPixelThreads)
    measure_contributions_34(SliceApplyGradArgs a, Lattice<float> g, Scattered34 s, Pixels pixels, CellSums to) {
  const uint32_t p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= s.pixels) return;
  const uint32_t n = image_of(s, p);
  const auto pixel = pixels.at(s, p, n);
  const GridOfPixel grid = pixels.grid(g, pixel, n);
  if (!grid.exists) return;
  float in[3], grad[3];
  const PixelPosition<float> at = load_pixel(pixels, pixel, grid, a, g, in, grad);
  uint32_t of_in = magnitude_bits(1.0f), of_grad = 0;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    of_in = max_of(of_in, magnitude_bits(in[c]));
    of_grad = max_of(of_grad, magnitude_bits(grad[c]));
  }
  note_largest(to.largest + grid.m * static_cast<uint32_t>(s.cells) + cells_of(s, at).lowest, at,
               magnitude_bits(bits_float(of_in) * bits_float(of_grad)));
}

// One column of cells: grad·A at the pixel's depth z, where A is the column's matrix there, and grad·∂A/∂z·in
struct ColumnGradients {
  float d_in[3], slope;
  float product;  // grad·A·in
};
BO_DEVICE ColumnGradients column_gradients(const char* lower, int32_t above, const float (&in)[3],
                                           const float (&grad)[3], float tz) {
  float value[4], step[4];  // of the lower cell; from it to the upper one, whose difference is exact if they are close
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const Vec4<float> l = Storage<F32>::load(lower + 16 * i), u = Storage<F32>::load(lower + above + 16 * i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float d = u.at[j] - l.at[j];
      value[j] = i == 0 ? grad[i] * l.at[j] : mul_add(grad[i], l.at[j], value[j]);
      step[j] = i == 0 ? grad[i] * d : mul_add(grad[i], d, step[j]);
    }
  }
  ColumnGradients of;
  of.slope = step[3];
  of.product = mul_add(tz, step[3], value[3]);
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    of.d_in[j] = mul_add(tz, step[j], value[j]);
    of.slope = mul_add(step[j], in[j], of.slope);
    of.product = mul_add(of.d_in[j], in[j], of.product);
  }
  return of;
}

// What a pixel contributes to column j of the matrices
BO_DEVICE Vec4<float> contributions_34(const float (&grad)[3], float factor, float in) {
  return {{grad[0] * factor * in, grad[1] * factor * in, grad[2] * factor * in, 0.0f}};
}

// All gradients, of one pixel per thread
template <class Pixels>
__global__ void __launch_bounds__(32 * kScatteredWarps, 5)
    scattered_backward_34(SliceApplyGradArgs a, Lattice<float> g, Scattered34 s, Pixels pixels, CellSums to) {
  BO_DYNAMIC_SHARED(memory);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const uint32_t first = (blockIdx.x * (blockDim.x / 32) + static_cast<uint32_t>(warp)) * 32;
  if (first >= s.pixels) return;
  const int count = static_cast<int>(min_of(32u, s.pixels - first));
  Vec4<float>* const left = reinterpret_cast<Vec4<float>*>(memory) + warp * kLeftPixels * kLeftVectors;

  // A pixel whose index names no grid adds zeros.
  PixelCells cells = {lane < count ? 0 : -1, 0, 0, 0};
  Shares shares = {};
  float in[3] = {}, grad[3] = {};
  if (lane < count) {
    const uint32_t p = first + static_cast<uint32_t>(lane), n = image_of(s, p);
    const auto pixel = pixels.at(s, p, n);
    const GridOfPixel grid = pixels.grid(g, pixel, n);
    const PixelPosition<float> at = load_pixel(pixels, pixel, grid, a, g, in, grad);
    const PixelCells around = cells_of(s, at);
    if (a.d_image.data || a.d_guide.data || a.d_xy.data) {
      ColumnGradients of[4];
#pragma unroll
      for (int c = 0; c < 4; ++c)
        of[c] = column_gradients(cell_at(s, grid, around.column(c)), kCellBytes * around.above, in, grad, at.z.t);
      const auto between = [&](float v0, float v1, float v2, float v3) {
        return lerp(lerp(v0, v1, at.x.t), lerp(v2, v3, at.x.t), at.y.t);
      };
      if (a.d_image.data)
#pragma unroll
        for (int j = 0; j < 3; ++j)
          pixels.store(a.d_image, pixel, 3, j, between(of[0].d_in[j], of[1].d_in[j], of[2].d_in[j], of[3].d_in[j]));
      if (a.d_guide.data)
        pixels.store(a.d_guide, pixel, 1, 0, between(of[0].slope, of[1].slope, of[2].slope, of[3].slope) * at.z.slope);
      if (a.d_xy.data) {
        const float across = lerp(of[1].product - of[0].product, of[3].product - of[2].product, at.y.t);
        const float down = lerp(of[2].product, of[3].product, at.x.t) - lerp(of[0].product, of[1].product, at.x.t);
        pixels.store(a.d_xy, pixel, 2, 0, across * at.x.slope);
        pixels.store(a.d_xy, pixel, 2, 1, down * at.y.slope);
      }
    }
    if (!grid.exists) clear(in, grad);
    if (a.d_grid.data && grid.exists) {
      cells = around;
      cells.lowest += static_cast<int32_t>(grid.m) * s.cells;
      shares = shares_of(at, cells, to.power);
    }
  }
  if (!a.d_grid.data) return;

  Vec4<float>* const own = left + slot_of(cells.lowest, lane) * kLeftVectors;
#pragma unroll
  for (int j = 0; j < 4; ++j) own[j] = contributions_34(grad, shares.factor, j < 3 ? in[j < 3 ? j : 0] : 1.0f);
  leave_shares(own, shares, cells, kSumBytes);
  __syncwarp();
  add_contributions<kLeftPixels, 3>(left, count, lane, kMatrixSize, to.sums);
}

// The same with four threads per pixel, one for each column of cells
template <class Pixels>
__global__ void __launch_bounds__(32, 24)
    scattered_backward_few_34(SliceApplyGradArgs a, Lattice<float> g, Scattered34 s, Pixels pixels, CellSums to) {
  constexpr int kPixels = 8;
  __shared__ Vec4<float> left[kPixels * kLeftVectors];
  const int lane = static_cast<int>(threadIdx.x), slot = lane / 4, c = lane % 4;
  const uint32_t first = blockIdx.x * kPixels;
  const int count = static_cast<int>(min_of(static_cast<uint32_t>(kPixels), s.pixels - first));
  // Threads without a pixel compute the last one, and neither store nor add anything.
  const uint32_t p = first + static_cast<uint32_t>(min_of(slot, count - 1)), n = image_of(s, p);
  const auto pixel = pixels.at(s, p, n);
  const GridOfPixel grid = pixels.grid(g, pixel, n);
  float in[3], grad[3];
  const PixelPosition<float> at = load_pixel(pixels, pixel, grid, a, g, in, grad);
  const PixelCells cells = cells_of(s, at);
  if (a.d_image.data || a.d_guide.data || a.d_xy.data) {
    ColumnGradients of =
        column_gradients(cell_at(s, grid, cells.column(c)), kCellBytes * cells.above, in, grad, at.z.t);
    // The values of two columns that are neighbours in x (bit 1) or in y (bit 2), by their own threads and each other's
    float low, high;
    const auto meet = [&](float v, int bit) {
      const float other = __shfl_xor_sync(0xffffffffu, v, bit);
      low = c & bit ? other : v;
      high = c & bit ? v : other;
    };
    float across = 0.0f, down = 0.0f;
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
      const float t = bit == 1 ? at.x.t : at.y.t;
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        meet(of.d_in[j], bit);
        of.d_in[j] = lerp(low, high, t);
      }
      meet(of.slope, bit);
      of.slope = lerp(low, high, t);
      if (bit == 2) {
        meet(across, bit);
        across = lerp(low, high, t);
      }
      meet(of.product, bit);
      (bit == 1 ? across : down) = high - low;
      of.product = lerp(low, high, t);
    }
    __syncwarp();  // all have loaded the image, which d_image may be written over
    if (slot < count) {
      if (c < 3 && a.d_image.data)
        pixels.store(a.d_image, pixel, 3, c, c == 0 ? of.d_in[0] : c == 1 ? of.d_in[1] : of.d_in[2]);
      if (c == 3 && a.d_guide.data) pixels.store(a.d_guide, pixel, 1, 0, of.slope * at.z.slope);
      if (c < 2 && a.d_xy.data) pixels.store(a.d_xy, pixel, 2, c, c == 0 ? across * at.x.slope : down * at.y.slope);
    }
  }
  if (!a.d_grid.data) return;

  if (!grid.exists) clear(in, grad);
  const float tz = grid.exists ? at.z.t : 0.0f;
  const int32_t column = static_cast<int32_t>(grid.m) * s.cells + cells.column(c);
  const int32_t lower = to.power[column], upper = to.power[column + cells.above];
  int32_t most = max_of(lower, upper);
  most = max_of(most, __shfl_xor_sync(0xffffffffu, most, 1));
  most = max_of(most, __shfl_xor_sync(0xffffffffu, most, 2));
  const int32_t by = raised(most);
  Vec4<float>* const own = left + slot * kLeftVectors;
  own[c] = contributions_34(grad, two_to(by), c == 0 ? in[0] : c == 1 ? in[1] : c == 2 ? in[2] : 1.0f);
  const float weight = (c & 2 ? at.y.t : 1.0f - at.y.t) * (c & 1 ? at.x.t : 1.0f - at.x.t);
  own[4 + c] = column_shares(weight, tz, lower - by, upper - by, static_cast<uint32_t>(column),
                             static_cast<uint32_t>(column + cells.above), kSumBytes);
  if (c == 0) own[8].at[0] = bits_float(static_cast<uint32_t>(column));
  __syncwarp();
  add_contributions<kPixels, 3>(left, count, lane, kMatrixSize, to.sums);
}

// --- On the host

// Copies a grid to dense float32. One thread per element.
static __global__ void __launch_bounds__(256) copy_cells_34(Tensor grid, float* to) {
  const uint32_t e = blockIdx.x * 256u + threadIdx.x, cell = e / kMatrixSize, c = e - cell * kMatrixSize;
  const uint32_t Gd = static_cast<uint32_t>(grid.shape[3]), Gw = static_cast<uint32_t>(grid.shape[2]),
                 Gh = static_cast<uint32_t>(grid.shape[1]);
  const uint32_t column = cell / Gd, row = column / Gw, n = row / Gh;
  if (n >= grid.shape[0]) return;
  to[e] = load_one<float>(grid.dtype, address_of(grid, n, row - n * Gh, column - row * Gw) +
                                          (cell - column * Gd) * grid.strides[3] + c / 4 * grid.strides[4] +
                                          c % 4 * grid.strides[5]);
}

// Whether these kernels take a call: coordinates of the pixels' own, and 3 × 4 matrices computed in float
inline bool is_scattered_34(const Sampling& at, const Tensor& grid, const Tensor& image) {
  return image.dtype != DType::f64 && image.shape[3] == 3 && grid.shape[4] == 3 && grid.shape[5] == 4 &&
         is_scattered(at, grid, image);
}

inline Scattered34 make_scattered_34(Launch& to, const Tensor& grid, const Tensor& image) {
  Scattered34 s;
  static_cast<Scattered&>(s) = make_scattered(grid, image);
  s.row_bytes = kCellBytes * s.row;
  s.column_bytes = kCellBytes * s.Gd;
  s.cell_bytes = kCellBytes;
  s.grid = grid.data;
  s.grid_step = grid.strides[0];
  const bool adjacent = grid.shape[0] == 1 || grid.strides[0] % 16 == 0;
  if (s.pixels > 0 && !(adjacent && is_dense(grid, 16, 1))) {
    Tensor images = grid;
    if (grid.strides[0] == 0) images.shape[0] = 1;
    const int64_t elements = images.shape[0] * s.cells * kMatrixSize;
    float* const copy = workspace<float>(to, elements);
    launch(to, copy_cells_34, ceil_div(elements, 256), 256, 0, images, copy);
    s.grid = reinterpret_cast<const char*>(copy);
    s.grid_step = images.shape[0] == 1 ? 0 : int64_t(kCellBytes) * s.cells;
  }
  return s;
}

// Calls f with DensePixels if all these tensors are so and there is no index, else with StridedPixels.
template <class F>
void with_pixels(const Sampling& at, std::initializer_list<const Tensor*> tensors, F&& f) {
  if (at.index.data) return f(StridedPixels());
  for (const Tensor* t : tensors)
    if (t->data && !is_dense(*t, 8)) return f(StridedPixels());
  f(DensePixels());
}

inline void launch_scattered_apply_34(Launch& to, const SliceApplyArgs& a) {
  const Scattered34 s = make_scattered_34(to, a.grid, a.image);
  const Lattice<float> g = make_lattice<float>(a.at, a.grid, a.out);
  with_pixels(a.at, {&a.out, &a.image, &a.at.guide, &a.at.xy},
              [&](auto pixels) { launch_pixels(to, scattered_apply_34<decltype(pixels)>, s.pixels, a, g, s, pixels); });
}

inline void launch_scattered_backward_34(Launch& to, const SliceApplyGradArgs& a) {
  const Scattered34 s = make_scattered_34(to, a.grid, a.image);
  const Lattice<float> g = make_lattice<float>(a.at, a.grid, a.grad);
  CellSums sums = {};
  if (a.d_grid.data) sums = make_cell_sums(to, g, s);
  with_pixels(a.at, {&a.grad, &a.image, &a.at.guide, &a.at.xy, &a.d_guide, &a.d_image, &a.d_xy}, [&](auto pixels) {
    using Pixels = decltype(pixels);
    if (a.d_grid.data) {
      launch_pixels(to, measure_contributions_34<Pixels>, s.pixels, a, g, s, pixels, sums);
      launch_scale_cells(to, g, sums);
    }
    if (s.pixels < kFewPixels) {
      launch(to, scattered_backward_few_34<Pixels>, ceil_div(s.pixels, 8), 32, 0, a, g, s, pixels, sums);
    } else {
      launch_warps(to, scattered_backward_34<Pixels>, ceil_div(s.pixels, kLeftPixels), a, g, s, pixels, sums);
    }
  });
  if (a.d_grid.data) launch_store_sums(to, a.d_grid, sums);
}

}  // namespace bilateral_ops
