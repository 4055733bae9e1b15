// slice: forward, then backward (whose grid gradient is splat). Equations: ../ops.h
#include "kernels.cuh"
#include "splatter.cuh"

namespace bilateral_ops {

// One thread per pixel finds its position, one per element computes the output.
template <class T>
__global__ void __launch_bounds__(kTileWidth) slice_values(SliceArgs a, Lattice<T> g, Tiling tiles) {
  __shared__ Positions<T> positions;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    const int t = static_cast<int>(threadIdx.x);
    if (t < tile.count) positions.set(t, locate(g, a.at, tile, t));
    __syncthreads();
    for_channels(a.out, tile, g.C, [&](int p, int64_t c) {
      const Sampler<T> sampler(a.grid, g, tile.n, positions.get(p));
      store_one(a.out.dtype, address_of(a.out, tile, p) + channel(a.out, 3, c), sampler.value(channel(a.grid, 4, c)));
    });
    __syncthreads();
  }
}

namespace cuda {

void slice_forward(const SliceArgs& a, Launch& to) {
  with_compute_type(a.grid.dtype, [&](auto t) {
    using T = decltype(t);
    const Tiling tiles = make_tiling(a.out);
    launch(to, slice_values<T>, tiles.count, kTileWidth, 0, a, make_lattice<T>(a.at, a.grid, a.out), tiles);
  });
}

void slice_backward(const SliceGradArgs& a, Launch& to) {
  with_compute_type(a.grad.dtype, [&](auto t) {
    using T = decltype(t);
    const SliceContributions contributions{a.grad};
    if (a.d_guide.data || a.d_xy.data) {
      const Tiling tiles = make_tiling(a.grad);
      launch(to, slopes<T, SliceContributions>, tiles.count, kTileWidth, 0, contributions, a.at, a.d_guide, a.d_xy,
             a.grid, make_lattice<T>(a.at, a.grid, a.grad), tiles);
    }
    if (a.d_grid.data) splat<T>(to, contributions, a.at, a.grad, a.d_grid);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
