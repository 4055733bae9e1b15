// apply: forward, then backward. Equations: ../ops.h
#include "kernels.cuh"
#include "splatter.cuh"

namespace bilateral_ops {

template <class T>
BO_DEVICE T coefficient(const Tensor& t, const Tile& tile, int p, int64_t i, int64_t j) {
  return load_one<T>(t.dtype, address_of(t, tile, p) + i * t.strides[3] + j * t.strides[4]);
}

// One thread per element of the output.
template <class T>
__global__ void __launch_bounds__(kTileWidth, 8) apply_tiles(ApplyArgs a, Tiling tiles, Scratch<T> scratch) {
  BO_DYNAMIC_SHARED(memory);
  T* const in = scratch.get(memory);
  const int64_t Ci = a.image.shape[3], Co = a.out.shape[3];
  const bool offset = a.coefficients.shape[4] > Ci;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    load_planes(a.image, tile, Ci, scratch.width, in);
    __syncthreads();
    for_channels(a.out, tile, Co, [&](int p, int64_t i) {
      T sum = offset ? coefficient<T>(a.coefficients, tile, p, i, Ci) : T(0);
      for (int64_t j = 0; j < Ci; ++j)
        sum = mul_add(coefficient<T>(a.coefficients, tile, p, i, j), in[j * scratch.width + p], sum);
      store_one(a.out.dtype, address_of(a.out, tile, p) + i * a.out.strides[3], sum);
    });
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kTileWidth, 8)
    apply_gradients(ApplyGradArgs a, ApplyContributions contributions, Tiling tiles) {
  const int64_t Ci = a.image.shape[3], Co = a.grad.shape[3];
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    if (a.d_coefficients.data)
      for_channels(a.d_coefficients, tile, Co * contributions.L, [&](int p, int64_t c) {
        store_one(a.d_coefficients.dtype, address_of(a.d_coefficients, tile, p) + channel(a.d_coefficients, 3, c),
                  contributions.at<T>(tile, p, c));
      });
    __syncthreads();  // d_image may be written over the image
    if (a.d_image.data)
      for_channels(a.d_image, tile, Ci, [&](int p, int64_t j) {
        T sum = T(0);
        for (int64_t i = 0; i < Co; ++i)
          sum = mul_add(coefficient<T>(a.coefficients, tile, p, i, j),
                        load_one<T>(a.grad.dtype, address_of(a.grad, tile, p) + i * a.grad.strides[3]), sum);
        store_one(a.d_image.dtype, address_of(a.d_image, tile, p) + j * a.d_image.strides[3], sum);
      });
  }
}

namespace cuda {

void apply_forward(const ApplyArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const Scratch<T> scratch = make_scratch<T>(to, a.image.shape[3]);
    const Tiling tiles = make_tiling(a.out, scratch.width);
    launch(to, apply_tiles<T>, min_of(tiles.count, scratch.blocks), kTileWidth, scratch.shared(), a, tiles, scratch);
  });
}

void apply_backward(const ApplyGradArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ApplyContributions contributions{a.grad, a.image, a.coefficients.shape[4]};
    const Tiling tiles = make_tiling(a.grad);
    launch(to, apply_gradients<T>, tiles.count, kTileWidth, 0, a, contributions, tiles);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
