// The guides as operations, guide_curves, guide_nn and guide_luma: forward, then backward. Equations: ../ops.h
#include "guides/any.cuh"
#include "kernels.cuh"
#include "reduction.cuh"

namespace bilateral_ops {

// Thread blocks of a tile's threads that fill a multiprocessor; 0 leaves it to ptxas.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
constexpr int kTileBlocks = 0;
#else
constexpr int kTileBlocks = 12;
#endif

// One thread per pixel.
template <class T>
__global__ void __launch_bounds__(kTileWidth, kTileBlocks)
    guide_values(Tensor out, Tensor image, ParameterValues<T> parameters, Tiling tiles, Scratch<T> scratch) {
  BO_DYNAMIC_SHARED(memory);
  const GuideShape shape = parameters.shape;
  const T* const values = parameters.get(memory);
  T* const in = scratch.get(memory + parameters.shared());
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    load_planes(image, tile, shape.Ci, scratch.width, in);
    __syncthreads();
    const int p = static_cast<int>(threadIdx.x);
    if (p < tile.count) {
      T guide[1];
      guide_at(shape.kind, values, shape.Ci, shape.K, [&](int64_t j, int) { return in[j * scratch.width + p]; }, guide);
      store_one(out.dtype, address_of(out, tile, p), guide[0]);
    }
    __syncthreads();
  }
}

// How many GuidePlanes there are
inline int64_t plane_count(const GuideShape& shape) {
  switch (shape.kind) {
    case GuideKind::curves: return 4 * shape.Ci + 1;
    case GuideKind::nn: return 2 * shape.Ci + 1;
    case GuideKind::luma: break;
  }
  return 0;
}

// d_image, one thread per pixel; and each thread block's sums of the parameters' gradients over its tiles,
// [block][parameter element], one thread per element. sums may be null.
template <class T>
__global__ void __launch_bounds__(kTileWidth)
    guide_gradients(Tensor d_image, Tensor image, Tensor grad, ParameterValues<T> parameters, Tiling tiles,
                    Scratch<T> scratch, double* sums) {
  BO_DYNAMIC_SHARED(memory);
  const GuideShape shape = parameters.shape;
  const int64_t plane = shape.Ci * scratch.width;
  const T* const values = parameters.get(memory);
  T* const planes = scratch.get(memory + parameters.shared());
  const GuidePlanes<T> at =
      shape.kind == GuideKind::curves
          ? GuidePlanes<T>{planes, nullptr, planes + plane, planes + 2 * plane, planes + 3 * plane, planes + 4 * plane}
          : GuidePlanes<T>{planes, planes + plane, nullptr, nullptr, nullptr, planes + 2 * plane};
  double* const own = sums ? sums + blockIdx.x * shape.count : nullptr;
  const int p = static_cast<int>(threadIdx.x), pitch = scratch.width;
  for (int64_t e = p; sums && e < shape.count; e += kTileWidth) own[e] = 0.0;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    // The luma's gradient does not depend on the image.
    if (shape.kind != GuideKind::luma) load_planes(image, tile, shape.Ci, pitch, at.in);
    __syncthreads();
    if (p < tile.count) {
      const T d = load_one<T>(grad.dtype, address_of(grad, tile, p));
      if (shape.kind == GuideKind::curves) Curves<T>{values, shape.Ci, shape.K}.gradient(at, pitch, p, d);
      if (shape.kind == GuideKind::nn) Network<T>{values, shape.Ci, shape.K}.gradient(at, pitch, p, d);
      for (int64_t j = 0; d_image.data && j < shape.Ci; ++j) {
        T d_in = T(0);
        if (shape.kind == GuideKind::curves) {
          d_in = Curves<T>{values, shape.Ci, shape.K}.d_in(at, pitch, p, j);
        } else if (shape.kind == GuideKind::nn) {
          d_in = Network<T>{values, shape.Ci, shape.K}.d_in(at, pitch, p, j);
        } else {
          d_in = T(luma_weight(j)) * d;
        }
        store_one(d_image.dtype, address_of(d_image, tile, p) + j * d_image.strides[3], d_in);
      }
    }
    __syncthreads();
    for (int64_t e = p; sums && e < shape.count; e += kTileWidth)
      own[e] += shape.kind == GuideKind::curves
                    ? Curves<T>{values, shape.Ci, shape.K}.d_parameter(at, pitch, tile.count, e)
                    : Network<T>{values, shape.Ci, shape.K}.d_parameter(at, pitch, tile.count, e);
    __syncthreads();
  }
}

struct ParameterGradients {
  Tensor value[kMaxGuideParameters];
  int64_t count[kMaxGuideParameters];
};
// Adds the sums of all thread blocks. One warp per parameter element.
template <class T>
__global__ void __launch_bounds__(256)
    add_guide_gradients(ParameterGradients to, int64_t elements, int64_t blocks, const double* __restrict__ sums) {
  for (int64_t e = blockIdx.x * int64_t(8) + threadIdx.x / 32; e < elements; e += gridDim.x * int64_t(8)) {
    const T sum = static_cast<T>(warp_sum(sums + e, blocks, elements));
    int64_t first = 0;
#pragma unroll
    for (int i = 0; i < kMaxGuideParameters; ++i) {
      const Tensor& t = to.value[i];
      const int64_t at = e - first;
      first += to.count[i];
      if (!t.data || at < 0 || at >= to.count[i] || threadIdx.x % 32 != 0) continue;
      store_one(t.dtype, element_address(t, rows_of(t), at), sum);
    }
  }
}

namespace cuda {

void guide_forward(const GuideArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ParameterValues<T> parameters = make_parameter_values<T>(to, a.parameters, a.image.shape[3]);
    const Scratch<T> scratch = make_scratch<T>(to, a.image.shape[3]);
    const Tiling tiles = make_tiling(a.out, scratch.width);
    launch(to, guide_values<T>, min_of(tiles.count, scratch.blocks), kTileWidth, parameters.shared() + scratch.shared(),
           a.out, a.image, parameters, tiles, scratch);
  });
}

void guide_backward(const GuideGradArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ParameterValues<T> parameters = make_parameter_values<T>(to, a.parameters, a.image.shape[3]);
    const GuideShape& shape = parameters.shape;
    const Scratch<T> scratch = make_scratch<T>(to, plane_count(shape));
    const Tiling tiles = make_tiling(a.grad, scratch.width);
    ParameterGradients gradients{};
    bool wanted = false;
    for (int i = 0; i < shape.arrays; ++i) {
      const ParameterRows rows = rows_of(a.parameters.value[i]);
      gradients.value[i] = a.d_value[i];
      gradients.count[i] = rows.rows * rows.columns;
      wanted = wanted || a.d_value[i].data;
    }
    if (!wanted && !a.d_image.data) return;
    // The number of thread blocks with sums depends on shapes alone, and so does the order of summation.
    const int64_t blocks =
        min_of(max_of<int64_t>(1, tiles.count), min_of<int64_t>(scratch.blocks, wanted ? 1024 : kMostBlocks));
    double* const sums = wanted ? workspace<double>(to, blocks * shape.count) : nullptr;
    launch(to, guide_gradients<T>, blocks, kTileWidth, parameters.shared() + scratch.shared(), a.d_image, a.image,
           a.grad, parameters, tiles, scratch, sums);
    if (wanted)
      launch(to, add_guide_gradients<T>, ceil_div(shape.count, 8), 256, 0, gradients, shape.count, blocks,
             static_cast<const double*>(sums));
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
