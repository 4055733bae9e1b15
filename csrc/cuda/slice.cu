// slice: forward, then backward (whose grid gradient is splat). Equations: ../ops.h
#include "band_gradients.cuh"
#include "kernels.cuh"
#include "scattered.cuh"

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
      const Sampler<T> sampler(a.grid, g, tile, p, positions.get(p));
      store_one(a.out.dtype, address_of(a.out, tile, p) + channel(a.out, 3, c), sampler.value(channel(a.grid, 4, c)));
    });
    __syncthreads();
  }
}

// For grids that are coarse beside the image. A warp takes the rows of a patch in turn: each thread finds the places of
// four pixels; then each interpolates four neighbouring channels of one pixel at a time, so that a warp stores adjacent
// vectors.
__global__ void __launch_bounds__(kPatchThreads, 5)
    slice_patches(Tensor out, Tensor grid, Tensor guide, Lattice<float> g, CellPatches s) {
  BO_DYNAMIC_SHARED(memory);
  __shared__ PackedPlace places[kPatchWarps][kPatchWidth];
  const int quads = static_cast<int>(ceil_div(g.C, 4));
  PatchGrid<int> cells(memory, g, 4 * quads, s);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, x = 4 * lane;
  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const Patch patch = patch_at(s, index);
    cells.load(grid, g, patch);
    const int mask = pixel_mask(x, 0, patch.width);
    for (int row = warp; row < patch.height; row += kPatchWarps) {
      const int64_t y = patch.top + row;
      cells.begin_row(row);
      Vec4<float> depths;
      load_plane4(guide, address_of(guide, patch.n, y, patch.left + x), mask, depths);
#pragma unroll
      for (int q = 0; q < 4; ++q) places[warp][x + q] = PackedPlace(cells.place(x + q, locate(depths.at[q], g.z)));
      __syncwarp();
      with_quads(out, patch.n, y, patch.left, [&](auto to) {
        for_quads(patch.width, quads, [&](int p, int quad, int) {
          to.store(p, quad, places[warp][p].unpacked().at(cells.row_grid(), quad));
        });
      });
      __syncwarp();
    }
    __syncthreads();
  }
}
static bool launch_slice_patches(const SliceArgs& a, Launch& to) {
  if (!is_coarse(a.at, a.grid, a.grid.dtype)) return false;
  const Lattice<float> g = make_lattice<float>(a.at, a.grid, a.out);
  const int64_t cell = cell_size(a.grid);
  if (cell == 0 || cell > 4 * 32) return false;
  const CellPatches s = plan_patches(g, cell, a.at, a.out);
  const size_t shared = patch_bytes(g, cell, s);
  if (shared + kPatchWarps * kPatchWidth * sizeof(PackedPlace) > kSharedBytes) return false;
  launch(to, slice_patches, s.count, kPatchThreads, shared, a.out, a.grid, a.at.guide, g, s);
  return true;
}

// d_grid and d_guide of slice, where is_coarse; d_guide only if there are no more channels than a unit takes. Returns
// whether it was done.
static bool launch_slice_gradients(Launch& to, const Sampling& at, const Tensor& d_grid, const Tensor& d_guide,
                                   const Tensor& grid, const Tensor& grad) {
  const Lattice<float> g = make_lattice<float>(at, d_grid.data ? d_grid : grid, grad);
  if (!is_coarse(at, d_grid.data ? d_grid : grid, grad.dtype) || g.C == 0 || (d_guide.data && g.C > 12)) return false;
  const BandPlan plan = plan_bands(g, false);
  const auto launch_with = [&](auto depths, auto terms) {
    launch_band_gradients(to, SliceWork<depths, terms>{{at, d_grid, d_guide, grid, grad}}, g, plan, d_grid);
  };
  const auto launch_of = [&](auto depths) {
    g.C <= 4 ? launch_with(depths, Constant<1>()) : launch_with(depths, Constant<3>());
  };
  g.Gd <= 8 ? launch_of(Constant<1>()) : launch_of(Constant<2>());
  return true;
}

namespace cuda {

void slice_forward(const SliceArgs& a, Launch& to) {
  if (launch_slice_patches(a, to)) return;
  with_compute_type(a.grid.dtype, [&](auto t) {
    using T = decltype(t);
    const Tiling tiles = make_tiling(a.out);
    launch(to, slice_values<T>, tiles.count, kTileWidth, 0, a, make_lattice<T>(a.at, a.grid, a.out), tiles);
  });
}

void slice_backward(const SliceGradArgs& a, Launch& to) {
  if (!a.d_xy.data && launch_slice_gradients(to, a.at, a.d_grid, a.d_guide, a.grid, a.grad)) return;
  with_compute_type(a.grad.dtype, [&](auto t) {
    using T = decltype(t);
    const SliceContributions contributions{a.grad};
    if (a.d_guide.data || a.d_xy.data) {
      const Tiling tiles = make_tiling(a.grad);
      launch(to, slopes<T, SliceContributions>, tiles.count, kTileWidth, 0, contributions, a.at, a.d_guide, a.d_xy,
             a.grid, make_lattice<T>(a.at, a.grid, a.grad), tiles);
    }
    if (a.d_grid.data) splat_anywhere<T>(to, contributions, a.at, a.grad, a.d_grid);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
