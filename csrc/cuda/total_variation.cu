// total_variation: forward, then backward. Equations: ../ops.h
#include "geometry.cuh"
#include "kernels.cuh"
#include "reduction.cuh"

namespace bilateral_ops {

constexpr int kThreads = 256;

inline int64_t elements_per_grid(const Tensor& grid) {
  const int64_t* s = grid.shape;
  return s[1] * s[2] * s[3] * s[4] * s[5];
}

// Element e of grid m: its cell on the three axes, and its offset in bytes
struct Element {
  int64_t cell[3], offset;
};
BO_DEVICE Element element_at(const Tensor& grid, int64_t m, int64_t e) {
  Element to;
  const int64_t C = grid.shape[4] * grid.shape[5], cell = e / C, row = cell / grid.shape[3];
  to.cell[0] = row / grid.shape[2];
  to.cell[1] = row - to.cell[0] * grid.shape[2];
  to.cell[2] = cell - row * grid.shape[3];
  to.offset = m * grid.strides[0] + channel(grid, 4, e - cell * C);
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) to.offset += to.cell[axis] * grid.strides[axis + 1];
  return to;
}

// The sums of each thread block, [result][block]; NaN where the index names no grid
template <class T>
__global__ void __launch_bounds__(kThreads)
    square_differences(TotalVariationArgs a, VariationWeights w, int64_t elements, int64_t blocks, double* sums) {
  __shared__ double warps[kThreads / 32];
  const Tensor& grid = a.grid;
  for (int64_t unit = blockIdx.x; unit < a.out.shape[0] * blocks; unit += gridDim.x) {
    const int64_t n = unit / blocks, block = unit - n * blocks, m = grid_of(a.index, n, 0, 0);
    const bool exists = m >= 0 && m < grid.shape[0];
    double sum = exists ? 0.0 : not_a_number<double>();
    for (int64_t e = block * kThreads + threadIdx.x; exists && e < elements; e += blocks * kThreads) {
      const Element at = element_at(grid, m, e);
      const double v = static_cast<double>(load_one<T>(grid.dtype, grid.data + at.offset));
#pragma unroll
      for (int axis = 0; axis < 3; ++axis) {
        if (at.cell[axis] + 1 >= grid.shape[axis + 1]) continue;
        const double d =
            static_cast<double>(load_one<T>(grid.dtype, grid.data + at.offset + grid.strides[axis + 1])) - v;
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
// Adds them. One warp per image.
template <class T>
__global__ void __launch_bounds__(kThreads) add_squares(Tensor out, int64_t blocks, const double* __restrict__ sums) {
  constexpr int64_t kWarps = kThreads / 32;
  for (int64_t n = blockIdx.x * kWarps + threadIdx.x / 32; n < out.shape[0]; n += gridDim.x * kWarps) {
    const T sum = static_cast<T>(warp_sum(sums + n * blocks, blocks, 1));
    if (threadIdx.x % 32 == 0) store_one(out.dtype, out.data + n * out.strides[0], sum);
  }
}

// Sums the gradients of grid m's results; returns whether it has any.
template <class T>
BO_DEVICE bool sum_gradients(const TotalVariationGradArgs& a, int64_t m, T& sum) {
  bool any = false;
  const int64_t first = a.index.data ? 0 : m, end = a.index.data ? a.grad.shape[0] : m + 1;
  for (int64_t n = first; n < end; ++n) {
    if (grid_of(a.index, n, 0, 0) != m) continue;
    sum += load_one<T>(a.grad.dtype, a.grad.data + n * a.grad.strides[0]);
    any = true;
  }
  return any;
}

// One thread per element.
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    variation_gradients(TotalVariationGradArgs a, VariationWeights w, int64_t elements) {
  const T wy = static_cast<T>(w.of[0]), wx = static_cast<T>(w.of[1]), wz = static_cast<T>(w.of[2]);
  const int64_t count = a.grid.shape[0] * elements;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < count; i += gridDim.x * int64_t(kThreads)) {
    const int64_t m = i / elements, e = i - m * elements;
    const Element at = element_at(a.grid, m, e);
    const char* const p = a.grid.data + at.offset;
    const T v = load_one<T>(a.grid.dtype, p);
    T d[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      // At a border the cell is its own neighbour: no difference, no gradient.
      const int64_t step = a.grid.strides[axis + 1];
      const T below = at.cell[axis] > 0 ? load_one<T>(a.grid.dtype, p - step) : v;
      const T above = at.cell[axis] + 1 < a.grid.shape[axis + 1] ? load_one<T>(a.grid.dtype, p + step) : v;
      d[axis] = (v - below) - (above - v);
    }
    T grad = T(0);
    const bool named = sum_gradients(a, m, grad);
    store_one(a.d_grid.dtype, a.d_grid.data + element_at(a.d_grid, m, e).offset,
              named ? T(2) * grad * mul_add(wz, d[2], mul_add(wx, d[1], wy * d[0])) : T(0));
  }
}

namespace cuda {

void total_variation_forward(const TotalVariationArgs& a, Launch& to) {
  with_compute_type(a.grid.dtype, [&](auto t) {
    using T = decltype(t);
    const int64_t N = a.out.shape[0], elements = elements_per_grid(a.grid);
    if (N == 0) return;
    const int64_t blocks = max_of<int64_t>(1, min_of<int64_t>(256, elements / (4 * kThreads)));
    double* const sums = workspace<double>(to, N * blocks);
    launch(to, square_differences<T>, N * blocks, kThreads, 0, a, variation_weights(a.grid.shape), elements, blocks,
           sums);
    launch(to, add_squares<T>, ceil_div(N, kThreads / 32), kThreads, 0, a.out, blocks,
           static_cast<const double*>(sums));
  });
}

void total_variation_backward(const TotalVariationGradArgs& a, Launch& to) {
  with_compute_type(a.grid.dtype, [&](auto t) {
    using T = decltype(t);
    const int64_t elements = elements_per_grid(a.grid);
    launch(to, variation_gradients<T>, ceil_div(a.grid.shape[0] * elements, kThreads), kThreads, 0, a,
           variation_weights(a.grid.shape), elements);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
