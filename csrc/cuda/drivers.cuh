// Drivers of slice_apply's forward and of enhance: the loops over tiles, and where a guide comes from (guide policies).
//
// A guide policy has
//   shared()                        bytes of shared memory that it needs
//   begin(memory)                   what is passed to the calls below; __syncthreads() must follow
//   at(begun, tile, p, in)          the guide of pixel p of a tile, whose channel j is in(j, 0)
//   kApplyBlocks                    for apply_34.cuh: thread blocks per multiprocessor that registers are to allow
//   row(n, y, x), row_stride(), four(begun, from, mask, in, out)
//                                   for apply_34.cuh: the guide of four pixels with `mask`; `from` is row(n, y, x), or
//                                   some row_stride() bytes after it
#pragma once

#include "guides/any.cuh"
#include "sampler.cuh"

namespace bilateral_ops {

// A guide array
template <class T>
struct GivenGuide {
  static constexpr int kApplyBlocks = 5;
  Tensor guide;
  BO_INLINE_MEMBER size_t shared() const { return 0; }
  __device__ const T* begin(char*) const { return nullptr; }
  template <class In>
  __device__ T at(const T*, const Tile& tile, int p, const In&) const {
    return load_one<T>(guide.dtype, address_of(guide, tile, p));
  }
  __device__ const char* row(int64_t n, int64_t y, int64_t x) const { return address_of(guide, n, y, x); }
  __device__ int64_t row_stride() const { return guide.strides[1]; }
  __device__ void four(const T*, const char* from, int mask, const T (&)[4][3], Vec4<T>& out) const {
    load_plane4(guide, from, mask, out);
  }
};
// A guide that is computed from the image
template <class T>
struct ComputedGuide {
  ParameterValues<T> parameters;
  BO_INLINE_MEMBER size_t shared() const { return parameters.shared(); }
  __device__ const T* begin(char* memory) const { return parameters.get(memory); }
  template <class In>
  __device__ T at(const T* values, const Tile&, int, const In& in) const {
    T out[1];
    guide_at(parameters.shape.kind, values, parameters.shape.Ci, parameters.shape.K, in, out);
    return out[0];
  }
};
// The same of RGB
template <class Guide>
struct ComputedRgbGuide : RgbGuide<Guide> {
  static constexpr int kApplyBlocks = Guide::kApplyBlocks;
  explicit ComputedRgbGuide(const RgbGuide<Guide>& guide) : RgbGuide<Guide>(guide) {}
  __device__ Guide begin(char* memory) const { return this->get(memory); }
  __device__ const char* row(int64_t, int64_t, int64_t) const { return nullptr; }
  __device__ int64_t row_stride() const { return 0; }
  __device__ void four(const Guide& guide, const char*, int, const float (&in)[4][3], Vec4<float>& out) const {
    guide.at([&](int j, int m) { return in[m][j]; }, out.at);
  }
};

// For any matrices, grids and layouts. One thread per pixel finds its position, one per element computes the output.
template <class T, class Guide>
__global__ void __launch_bounds__(kTileWidth, 4)
    sampled_apply(Guide guide, Sampling at, Tensor out, Tensor grid, Tensor image, Lattice<T> g, Tiling tiles,
                  Scratch<T> scratch) {
  BO_DYNAMIC_SHARED(memory);
  __shared__ Positions<T> positions;
  const T* const begun = guide.begin(memory);
  T* const in = scratch.get(memory + guide.shared());
  const int64_t Ci = image.shape[3], Co = out.shape[3];
  const bool offset = grid.shape[5] > Ci;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    const int t = static_cast<int>(threadIdx.x);
    load_planes(image, tile, Ci, scratch.width, in);
    __syncthreads();
    if (t < tile.count) {
      const T depth = guide.at(begun, tile, t, [&](int64_t j, int) { return in[j * scratch.width + t]; });
      positions.set(t, locate(g, at, tile, t, depth));
    }
    __syncthreads();
    for_channels(out, tile, Co, [&](int p, int64_t i) {
      const Sampler<T> sampler(grid, g, tile, p, positions.get(p));
      const int64_t row = i * grid.strides[4];
      T sum = offset ? sampler.value(row + Ci * grid.strides[5]) : T(0);
      for (int64_t j = 0; j < Ci; ++j)
        sum = mul_add(sampler.value(row + j * grid.strides[5]), in[j * scratch.width + p], sum);
      store_one(out.dtype, address_of(out, tile, p) + i * out.strides[3], sum);
    });
    __syncthreads();
  }
}

template <class T, class Guide>
void launch_sampled_apply(Launch& to, const Guide& guide, const Sampling& at, const Tensor& out, const Tensor& grid,
                          const Tensor& image) {
  const Scratch<T> scratch = make_scratch<T>(to, image.shape[3]);
  const Tiling tiles = make_tiling(out, scratch.width);
  launch(to, sampled_apply<T, Guide>, min_of(tiles.count, scratch.blocks), kTileWidth,
         guide.shared() + scratch.shared(), guide, at, out, grid, image, make_lattice<T>(at, grid, out), tiles,
         scratch);
}

}  // namespace bilateral_ops
