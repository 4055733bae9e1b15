// total_variation: forward, then backward. Equations: ../ops.h
#include "arrays.cuh"
#include "kernels.cuh"
#include "reduction.cuh"

namespace bilateral_ops {

constexpr int kThreads = 256;

// For each axis y, x, z: 1 / (number of neighbours · channels), 0 for an axis of one cell.
struct Weights {
  double of[3];
};
inline Weights make_weights(const Tensor& grid) {
  const int64_t *s = grid.shape, C = s[4] * s[5];
  const auto inverse = [](int64_t count) { return count > 0 ? 1.0 / static_cast<double>(count) : 0.0; };
  return {{inverse((s[1] - 1) * s[2] * s[3] * C), inverse(s[1] * (s[2] - 1) * s[3] * C),
           inverse(s[1] * s[2] * (s[3] - 1) * C)}};
}
inline int64_t numbers_in(const Tensor& grid) {
  const int64_t* s = grid.shape;
  return s[1] * s[2] * s[3] * s[4] * s[5];
}

// Number e of image n: its place on the three axes, and the offset in bytes.
struct Number {
  int64_t place[3], offset;
};
BO_DEVICE Number number_at(const Tensor& grid, int64_t n, int64_t e) {
  Number to;
  const int64_t C = grid.shape[4] * grid.shape[5], cell = e / C, row = cell / grid.shape[3];
  to.place[0] = row / grid.shape[2];
  to.place[1] = row - to.place[0] * grid.shape[2];
  to.place[2] = cell - row * grid.shape[3];
  to.offset = n * grid.strides[0] + channel(grid, 4, e - cell * C);
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) to.offset += to.place[axis] * grid.strides[axis + 1];
  return to;
}

// sums: [image][block]
template <class T>
__global__ void __launch_bounds__(kThreads)
    square_differences(Tensor grid, Weights w, int64_t numbers, int64_t blocks, double* sums) {
  __shared__ double warps[kThreads / 32];
  for (int64_t unit = blockIdx.x; unit < grid.shape[0] * blocks; unit += gridDim.x) {
    const int64_t n = unit / blocks, block = unit - n * blocks;
    double sum = 0.0;
    for (int64_t e = block * kThreads + threadIdx.x; e < numbers; e += blocks * kThreads) {
      const Number at = number_at(grid, n, e);
      const double v = static_cast<double>(get<T>(grid.dtype, grid.data + at.offset));
#pragma unroll
      for (int axis = 0; axis < 3; ++axis) {
        if (at.place[axis] + 1 >= grid.shape[axis + 1]) continue;
        const double d = static_cast<double>(get<T>(grid.dtype, grid.data + at.offset + grid.strides[axis + 1])) - v;
        sum += w.of[axis] * d * d;
      }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      double total = 0.0;
      for (int i = 0; i < kThreads / 32; ++i) total += warps[i];
      sums[unit] = total;
    }
    __syncthreads();
  }
}
// A warp an image.
template <class T>
__global__ void __launch_bounds__(kThreads) add_squares(Tensor out, int64_t blocks, const double* __restrict__ sums) {
  constexpr int64_t kWarps = kThreads / 32;
  for (int64_t n = blockIdx.x * kWarps + threadIdx.x / 32; n < out.shape[0]; n += gridDim.x * kWarps) {
    const T sum = static_cast<T>(warp_sum(sums + n * blocks, blocks, 1));
    if (threadIdx.x % 32 == 0) put(out.dtype, out.data + n * out.strides[0], sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    variation_gradients(TotalVariationGradArgs a, Weights w, int64_t numbers) {
  const T wy = static_cast<T>(w.of[0]), wx = static_cast<T>(w.of[1]), wz = static_cast<T>(w.of[2]);
  const int64_t count = a.grid.shape[0] * numbers;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += gridDim.x * int64_t(kThreads)) {
    const int64_t n = i / numbers, e = i - n * numbers;
    const Number at = number_at(a.grid, n, e);
    const char* const p = a.grid.data + at.offset;
    const T v = get<T>(a.grid.dtype, p);
    T d[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      // At a border the neighbour is the cell itself: no difference, no gradient.
      const int64_t step = a.grid.strides[axis + 1];
      const T below = at.place[axis] > 0 ? get<T>(a.grid.dtype, p - step) : v;
      const T above = at.place[axis] + 1 < a.grid.shape[axis + 1] ? get<T>(a.grid.dtype, p + step) : v;
      d[axis] = (v - below) - (above - v);
    }
    const T grad = get<T>(a.grad.dtype, a.grad.data + n * a.grad.strides[0]);
    put(a.d_grid.dtype, a.d_grid.data + number_at(a.d_grid, n, e).offset,
        T(2) * grad * mul_add(wz, d[2], mul_add(wx, d[1], wy * d[0])));
  }
}

namespace cuda {

void total_variation_forward(const TotalVariationArgs& a, Launch& to) {
  with_compute_type(a.grid.dtype, [&](auto t) {
    using T = decltype(t);
    const int64_t N = a.grid.shape[0], numbers = numbers_in(a.grid);
    if (N == 0) return;
    const int64_t blocks = max_of<int64_t>(1, min_of<int64_t>(256, numbers / (4 * kThreads)));
    double* const sums = workspace<double>(to, N * blocks);
    launch(to, square_differences<T>, N * blocks, kThreads, 0, a.grid, make_weights(a.grid), numbers, blocks, sums);
    launch(to, add_squares<T>, ceil_div(N, kThreads / 32), kThreads, 0, a.out, blocks,
           static_cast<const double*>(sums));
  });
}

void total_variation_backward(const TotalVariationGradArgs& a, Launch& to) {
  with_compute_type(a.grid.dtype, [&](auto t) {
    using T = decltype(t);
    const int64_t numbers = numbers_in(a.grid);
    launch(to, variation_gradients<T>, ceil_div(a.grid.shape[0] * numbers, kThreads), kThreads, 0, a,
           make_weights(a.grid), numbers);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
