// slice_apply: forward, then backward. Equations: ../ops.h
#include "apply_34.cuh"
#include "band_gradients.cuh"
#include "kernels.cuh"
#include "scattered_34.cuh"

namespace bilateral_ops {

// d_in_j = Σ_i A_ij·grad_i. One thread per pixel finds its position, one per element computes d_image.
template <class T>
__global__ void __launch_bounds__(kTileWidth) image_gradients(SliceApplyGradArgs a, Lattice<T> g, Tiling tiles) {
  __shared__ Positions<T> positions;
  const int64_t Co = a.grad.shape[3], Ci = a.image.shape[3];
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    const int t = static_cast<int>(threadIdx.x);
    if (t < tile.count) positions.set(t, locate(g, a.at, tile, t));
    __syncthreads();
    for_channels(a.d_image, tile, Ci, [&](int p, int64_t j) {
      const Sampler<T> sampler(a.grid, g, tile, p, positions.get(p));
      T sum = T(0);
      for (int64_t i = 0; i < Co; ++i)
        sum = mul_add(sampler.value(i * a.grid.strides[4] + j * a.grid.strides[5]),
                      load_one<T>(a.grad.dtype, address_of(a.grad, tile, p) + i * a.grad.strides[3]), sum);
      store_one(a.d_image.dtype, address_of(a.d_image, tile, p) + j * a.d_image.strides[3], sum);
    });
    __syncthreads();
  }
}

// slice_apply's gradients, where is_coarse_34
static void launch_apply_gradients(Launch& to, const SliceApplyGradArgs& a) {
  const Lattice<float> g = make_lattice<float>(a.at, a.grid, a.grad);
  const BandPlan plan = plan_bands(g, false);
  if (g.Gd > 8) return launch_band_gradients(to, ApplyWork<2, false>{a}, g, plan, a.d_grid);
  // Interpolating cells in y beforehand pays where a row of pixels between two columns fills half a warp.
  if (a.at.full_width >= 64 * g.Gw) return launch_band_gradients(to, ApplyWork<1, true>{a}, g, plan, a.d_grid);
  launch_band_gradients(to, ApplyWork<1, false>{a}, g, plan, a.d_grid);
}

namespace cuda {

void slice_apply_forward(const SliceApplyArgs& a, Launch& to) {
  if (is_coarse_34(a.at, a.grid, a.image) &&
      launch_apply_34(to, GivenGuide<float>{a.at.guide}, a.at, a.out, a.grid, a.image)) {
    return;
  }
  if (is_scattered_34(a.at, a.grid, a.image)) return launch_scattered_apply_34(to, a);
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    launch_sampled_apply<T>(to, GivenGuide<T>{a.at.guide}, a.at, a.out, a.grid, a.image);
  });
}

void slice_apply_backward(const SliceApplyGradArgs& a, Launch& to) {
  if (is_coarse_34(a.at, a.grid, a.image) && !a.d_xy.data) return launch_apply_gradients(to, a);
  if (is_scattered_34(a.at, a.grid, a.image)) return launch_scattered_backward_34(to, a);
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ApplyContributions contributions{a.grad, a.image, a.grid.shape[5]};
    const Tiling tiles = make_tiling(a.grad);
    const Lattice<T> g = make_lattice<T>(a.at, a.grid, a.grad);
    if (a.d_guide.data || a.d_xy.data)
      launch(to, slopes<T, ApplyContributions>, tiles.count, kTileWidth, 0, contributions, a.at, a.d_guide, a.d_xy,
             a.grid, g, tiles);
    if (a.d_grid.data) splat_anywhere<T>(to, contributions, a.at, a.grad, a.d_grid);
    // Last, as d_image may be written over the image.
    if (a.d_image.data) launch(to, image_gradients<T>, tiles.count, kTileWidth, 0, a, g, tiles);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
