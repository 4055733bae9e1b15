// slice_apply's forward and enhance, for 3 × 4 matrices under a grid that is coarse beside the image.
//
// A thread block computes a patch, 128 columns and up to 64 rows of pixels, and loads the cells around the patch into
// shared memory. Its warps take the rows in turn. A warp first interpolates the cells in y, once for the whole row (the
// row grid of cpu/sampler.inl); each thread then interpolates four neighbouring pixels in x and z. A pixel takes twelve
// 128-bit loads from shared memory. Cells at different depths of a column lie in different banks, as gcd(12, 32) is 4.
#pragma once

#include "drivers.cuh"
#include "matrix34.cuh"

namespace bilateral_ops {

constexpr int kMaxPatchRows = 64;
static_assert(kPatchThreads == kPatchWidth && kPatchThreads >= kMaxPatchRows,
              "each thread finds the position of one column, and of one row");

struct CellPatches : Patches {
  int cell_rows, cell_columns;  // the most cells that a patch has in shared memory
};

// The most grid rows (or columns) around `pixels` neighbouring pixels
inline int cells_around(const PixelAxis& axis, int pixels) {
  const double reach = (pixels - 1) * axis.step / axis.size + 3.0;
  return static_cast<int>(min_of(min_of(reach, axis.last + 1.0), 1e6));  // 1e6 does not fit in shared memory, either
}
inline size_t patch_bytes(const Lattice<float>& g, const CellPatches& s) {
  const size_t column = static_cast<size_t>(g.Gd) * kMatrixSize;
  return sizeof(float) * (2 * kPatchWidth + 2 * kMaxPatchRows + s.cell_columns * column * (s.cell_rows + kPatchWarps));
}
// Patches have as many rows as leave 256 thread blocks and fit in 36 KiB, but at least 8. This depends on the size of
// the whole image, so that a window of it is computed in the same way.
inline CellPatches plan_patches(const Lattice<float>& g, const Sampling& at, const Tensor& pixels) {
  CellPatches s{};
  s.rows = kMaxPatchRows;
  const auto blocks = [&] { return ceil_div(at.full_width, kPatchWidth) * ceil_div(at.full_height, s.rows); };
  s.cell_columns = cells_around(g.x, kPatchWidth);
  for (;; s.rows /= 2) {
    s.cell_rows = cells_around(g.y, s.rows);
    if (s.rows <= 8 || (blocks() * g.N >= 256 && patch_bytes(g, s) <= (36 << 10))) break;
  }
  static_cast<Patches&>(s) = make_patches(pixels, s.rows);
  return s;
}

template <class Guide>
__global__ void __launch_bounds__(kPatchThreads, 5)
    apply_34(Guide guide, Sampling at, Tensor out, Tensor grid, Tensor image, Lattice<float> g, CellPatches s) {
  BO_DYNAMIC_SHARED(memory);
  const auto begun = guide.begin(memory);
  float* const column_t = reinterpret_cast<float*>(memory + guide.shared());
  int* const column_k = reinterpret_cast<int*>(column_t + kPatchWidth);
  float* const row_t = reinterpret_cast<float*>(column_k + kPatchWidth);
  int* const row_k = reinterpret_cast<int*>(row_t + kMaxPatchRows);
  float* const cells = reinterpret_cast<float*>(row_k + kMaxPatchRows);  // [row][column][z][12]
  const int depth = static_cast<int>(g.Gd), column = depth * kMatrixSize;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  float* const row_grid = cells + column * s.cell_columns * (s.cell_rows + warp);  // of this warp, [column][z][12]

  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const Patch patch = patch_at(s, index);
    const int64_t n = patch.n, left = patch.left, top = patch.top;
    const int width = patch.width, height = patch.height;
    // Threads beyond the last column take its position, so that they access no cell that does not exist.
    const Position<double> across = locate_pixel(left + min_of(t, width - 1) + g.left, g.x);
    column_k[t] = across.k;
    column_t[t] = static_cast<float>(across.t);
    if (t < height) {
      const Position<double> down = locate_pixel(top + t + g.top, g.y);
      row_k[t] = down.k;
      row_t[t] = static_cast<float>(down.t);
    }
    __syncthreads();
    const int first_row = row_k[0], first_column = column_k[0];
    const int rows = static_cast<int>(min_of<int64_t>(row_k[height - 1] + 2, g.Gh)) - first_row;
    const int columns = static_cast<int>(min_of<int64_t>(column_k[width - 1] + 2, g.Gw)) - first_column;
    for (int r = 0; r < rows; ++r)
      load_cells(grid, n, first_row + r, first_column, columns, depth, cells + r * columns * column);
    __syncthreads();

    const int x = 4 * lane, mask = pixel_mask(x, 0, width);
    const int64_t y = top + warp;
    const char* from = address_of(image, n, y, left + x);
    char* to = address_of(out, n, y, left + x);
    const char* guide_from = guide.row(n, y, left + x);
    for (int row = warp; row < height; row += kPatchWarps) {
      const int below = row_k[row] - first_row, above = min_of(below + 1, rows - 1);
      const float ty = row_t[row];
      const Vec4<float>* const a = reinterpret_cast<const Vec4<float>*>(cells + below * columns * column);
      const Vec4<float>* const b = reinterpret_cast<const Vec4<float>*>(cells + above * columns * column);
      for (int e = lane; e < columns * column / 4; e += 32)
        reinterpret_cast<Vec4<float>*>(row_grid)[e] = lerp(a[e], b[e], ty);
      float pixels[4][3];
      Vec4<float> depths;
      load_pixels4(image.dtype, from, image.strides[2], image.strides[3], mask, pixels);
      guide.four(begun, guide_from, mask, pixels, depths);
      __syncwarp();
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const Position<float> z = locate(depths.at[q], g.z);
        const int at_column = column_k[x + q] - first_column;
        const float tx = column_t[x + q];
        const Vec4<float>* const lower =
            reinterpret_cast<const Vec4<float>*>(row_grid + at_column * column + z.k * kMatrixSize);
        const int right = at_column + 1 < columns ? column / 4 : 0, up = z.k + 1 < depth ? kMatrixSize / 4 : 0;
        float result[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          const Vec4<float> v00 = lower[i], v01 = lower[i + right], v10 = lower[i + up], v11 = lower[i + up + right];
          const Vec4<float> m = lerp(lerp(v00, v01, tx), lerp(v10, v11, tx), z.t);
          result[i] = m.at[3];
#pragma unroll
          for (int j = 0; j < 3; ++j) result[i] = mul_add(m.at[j], pixels[q][j], result[i]);
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) pixels[q][i] = result[i];
      }
      store_pixels4(out.dtype, to, out.strides[2], out.strides[3], mask, pixels);
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
  const CellPatches s = plan_patches(g, at, out);
  const size_t shared = guide.shared() + patch_bytes(g, s);
  if (shared > kSharedBytes) return false;
  launch(to, apply_34<Guide>, s.count, kPatchThreads, shared, guide, at, out, grid, image, g, s);
  return true;
}

}  // namespace bilateral_ops
