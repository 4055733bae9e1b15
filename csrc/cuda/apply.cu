// apply: forward, then backward. Equations: ../ops.h
#include "kernels.cuh"
#include "splatting.cuh"

namespace bilateral_ops {

template <class T>
BO_DEVICE T coefficient(const Tensor& t, const Tile& tile, int p, int64_t i, int64_t j) {
  return get<T>(t.dtype, pixel(t, tile, p) + i * t.strides[3] + j * t.strides[4]);
}

template <class T>
__global__ void __launch_bounds__(kTile, 8) apply_matrices(ApplyArgs a, Tiling tiles, Room<T> room) {
  BO_DYNAMIC_SHARED(memory);
  T* const in = room_of(room, memory);
  const int64_t Ci = a.image.shape[3], Co = a.out.shape[3];
  const bool offset = a.coefficients.shape[4] > Ci;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    stage(a.image, tile, Ci, room.width, in);
    __syncthreads();
    for_channels(a.out, tile, Co, [&](int p, int64_t i) {
      T sum = offset ? coefficient<T>(a.coefficients, tile, p, i, Ci) : T(0);
      for (int64_t j = 0; j < Ci; ++j)
        sum = mul_add(coefficient<T>(a.coefficients, tile, p, i, j), in[j * room.width + p], sum);
      put(a.out.dtype, pixel(a.out, tile, p) + i * a.out.strides[3], sum);
    });
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kTile, 8) apply_gradients(ApplyGradArgs a, OuterSource outer, Tiling tiles) {
  const int64_t Ci = a.image.shape[3], Co = a.grad.shape[3];
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    if (a.d_coefficients.data)
      for_channels(a.d_coefficients, tile, Co * outer.L, [&](int p, int64_t c) {
        put(a.d_coefficients.dtype, pixel(a.d_coefficients, tile, p) + channel(a.d_coefficients, 3, c),
            outer.at<T>(tile, p, c));
      });
    __syncthreads();  // as the image may be written over
    if (a.d_image.data)
      for_channels(a.d_image, tile, Ci, [&](int p, int64_t j) {
        T sum = T(0);
        for (int64_t i = 0; i < Co; ++i)
          sum = mul_add(coefficient<T>(a.coefficients, tile, p, i, j),
                        get<T>(a.grad.dtype, pixel(a.grad, tile, p) + i * a.grad.strides[3]), sum);
        put(a.d_image.dtype, pixel(a.d_image, tile, p) + j * a.d_image.strides[3], sum);
      });
  }
}

namespace cuda {

void apply_forward(const ApplyArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const Room<T> room = make_room<T>(to, a.image.shape[3]);
    const Tiling tiles = make_tiling(a.out, room.width);
    launch(to, apply_matrices<T>, min_of(tiles.count, room.blocks), kTile, room.shared(), a, tiles, room);
  });
}

void apply_backward(const ApplyGradArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const OuterSource outer{a.grad, a.image, a.coefficients.shape[4]};
    const Tiling tiles = make_tiling(a.grad);
    launch(to, apply_gradients<T>, tiles.count, kTile, 0, a, outer, tiles);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
