// Matrices looked up in a grid, applied to the image: slice_apply's forward and enhance, which computes its guide.
#pragma once

#include "guide.cuh"
#include "sampling.cuh"

namespace bilateral_ops {

// A guide is an array …
template <class T>
struct GuideArray {
  Tensor guide;
  BO_INLINE_MEMBER size_t shared() const { return 0; }
  __device__ const T* begin(char*) const { return nullptr; }
  template <class In>
  __device__ T at(const T*, const Tile& tile, int p, const In&) const {
    return get<T>(guide.dtype, pixel(guide, tile, p));
  }
};
// … or computed from the pixel.
template <class T>
struct ComputedGuide {
  Numbers<T> numbers;
  BO_INLINE_MEMBER size_t shared() const { return numbers.shared(); }
  __device__ const T* begin(char* memory) const { return numbers_of(numbers, memory); }
  template <class In>
  __device__ T at(const T* values, const Tile&, int, const In& in) const {
    return guide_value(numbers.shape.kind, values, numbers.shape.Ci, numbers.shape.K, in);
  }
};

// Any matrices, grids and layouts.
template <class T, class Guide>
__global__ void __launch_bounds__(kTile, 4) sampled_apply(Guide guide, Sampling at, Tensor out, Tensor grid,
                                                          Tensor image, Lattice<T> g, Tiling tiles, Room<T> room) {
  BO_DYNAMIC_SHARED(memory);
  __shared__ Places<T> places;
  const T* const numbers = guide.begin(memory);
  T* const in = room_of(room, memory + guide.shared());
  const int64_t Ci = image.shape[3], Co = out.shape[3];
  const bool offset = grid.shape[5] > Ci;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    const int t = static_cast<int>(threadIdx.x);
    stage(image, tile, Ci, room.width, in);
    __syncthreads();
    if (t < tile.count) {
      const T depth = guide.at(numbers, tile, t, [&](int64_t j) { return in[j * room.width + t]; });
      places.set(t, place(g, at, tile, t, depth));
    }
    __syncthreads();
    for_channels(out, tile, Co, [&](int p, int64_t i) {
      const Cells<T> cells = cells_around(grid, g, tile.n, places.get(p));
      const int64_t row = i * grid.strides[4];
      T sum = offset ? sample(grid.dtype, cells, row + Ci * grid.strides[5]) : T(0);
      for (int64_t j = 0; j < Ci; ++j)
        sum = mul_add(sample(grid.dtype, cells, row + j * grid.strides[5]), in[j * room.width + p], sum);
      put(out.dtype, pixel(out, tile, p) + i * out.strides[3], sum);
    });
    __syncthreads();
  }
}

template <class T, class Guide>
void launch_sampled_apply(Launch& to, const Guide& guide, const Sampling& at, const Tensor& out, const Tensor& grid,
                          const Tensor& image) {
  const Room<T> room = make_room<T>(to, image.shape[3]);
  const Tiling tiles = make_tiling(out, room.width);
  launch(to, sampled_apply<T, Guide>, min_of(tiles.count, room.blocks), kTile, guide.shared() + room.shared(), guide,
         at, out, grid, image, make_lattice<T>(at, grid, out), tiles, room);
}

}  // namespace bilateral_ops
