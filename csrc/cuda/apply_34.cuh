// slice_apply's forward and enhance, for 3 × 4 matrices under a grid that is coarse beside the image. Each thread
// computes four neighbouring pixels of a row of a patch (patch_grid.cuh), from twelve 128-bit loads of shared memory
// per pixel. Cells at different depths of a column lie in different banks, as gcd(12, 32) is 4.
#pragma once

#include "drivers.cuh"
#include "matrix34.cuh"

namespace bilateral_ops {

template <class Guide>
__global__ void __launch_bounds__(kPatchThreads, Guide::kApplyBlocks)
    apply_34(Guide guide, Sampling at, Tensor out, Tensor grid, Tensor image, Lattice<float> g, CellPatches s) {
  BO_DYNAMIC_SHARED(memory);
  const auto begun = guide.begin(memory);
  PatchGrid<MatrixSize> cells(memory + guide.shared(), g, MatrixSize(), s);
  const int warp = static_cast<int>(threadIdx.x) / 32, x = 4 * (static_cast<int>(threadIdx.x) % 32);
  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const Patch patch = patch_at(s, index);
    cells.load(grid, g, patch);
    const int mask = pixel_mask(x, 0, patch.width);
    const int64_t y = patch.top + warp, left = patch.left + x;
    const char* from = address_of(image, patch.n, y, left);
    char* to = address_of(out, patch.n, y, left);
    const char* guide_from = guide.row(patch.n, y, left);
    for (int row = warp; row < patch.height; row += kPatchWarps) {
      cells.begin_row(row);
      float pixels[4][3];
      Vec4<float> depths;
      load_pixels4(image, from, mask, pixels);
      guide.four(begun, guide_from, mask, pixels, depths);
      __syncwarp();
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const PlaceInRow place = cells.place(x + q, locate(depths.at[q], g.z));
        float result[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          const Vec4<float> m = place.at(cells.row_grid(), i);
          result[i] = m.at[3];
#pragma unroll
          for (int j = 0; j < 3; ++j) result[i] = mul_add(m.at[j], pixels[q][j], result[i]);
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) pixels[q][i] = result[i];
      }
      store_pixels4(out, to, mask, pixels);
      from += kPatchWarps * image.strides[1];
      to += kPatchWarps * out.strides[1];
      guide_from += kPatchWarps * guide.row_stride();
      __syncwarp();
    }
    __syncthreads();
  }
}

// Launches apply_34 if a patch fits in shared memory; returns whether it does.
template <class Guide>
bool launch_apply_34(Launch& to, const Guide& guide, const Sampling& at, const Tensor& out, const Tensor& grid,
                     const Tensor& image) {
  const Lattice<float> g = make_lattice<float>(at, grid, out);
  const CellPatches s = plan_patches(g, kMatrixSize, at, out);
  const size_t shared = guide.shared() + patch_bytes(g, kMatrixSize, s);
  if (shared > kSharedBytes) return false;
  launch(to, apply_34<Guide>, s.count, kPatchThreads, shared, guide, at, out, grid, image, g, s);
  return true;
}

}  // namespace bilateral_ops
