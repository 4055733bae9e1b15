// Grids of 3 × 4 matrices, HDRnet's, that are coarse beside the image: when they are, and their cells in shared memory.
#pragma once

#include "tiles.cuh"

namespace bilateral_ops {

constexpr int kMatrixSize = 12;  // elements of a cell

// Whether the matrices are 3 × 4, computed in float, and there are many pixels per cell: apply_34.cuh then does the
// forward, and apply_backward_34.cuh the gradients.
inline bool is_coarse_34(const Sampling& at, const Tensor& grid, const Tensor& image) {
  return image.dtype != DType::f64 && !at.xy.data && image.shape[3] == 3 && grid.shape[4] == 3 && grid.shape[5] == 4 &&
         grid.shape[3] <= 16 && 8 * grid.shape[2] <= at.full_width;
}

// Loads `columns` columns of cells, from column x of grid row y on, into shared memory, [column][z][12]. The work is
// shared among the threads of the block; dense float32 is loaded 128 bits at a time.
BO_DEVICE void load_cells(const Tensor& grid, int64_t n, int64_t y, int64_t x, int columns, int depth, float* to) {
  const char* const from = address_of(grid, n, y, x);
  const bool dense = grid.dtype == DType::f32 && grid.strides[5] == 4 && grid.strides[4] == 16 &&
                     grid.strides[3] == 4 * kMatrixSize &&
                     (columns == 1 || grid.strides[2] == 4 * kMatrixSize * depth) && Storage<F32>::is_vector(from);
  const int count = columns * depth * kMatrixSize, threads = static_cast<int>(blockDim.x);
  if (dense) {
    for (int e = static_cast<int>(threadIdx.x); e < count / 4; e += threads)
      reinterpret_cast<Vec4<float>*>(to)[e] = reinterpret_cast<const Vec4<float>*>(from)[e];
  } else {
    for (int e = static_cast<int>(threadIdx.x); e < count; e += threads) {
      const int cell = e / kMatrixSize, c = e - cell * kMatrixSize, column = cell / depth, z = cell - column * depth;
      to[e] = load_one<float>(grid.dtype, from + column * grid.strides[2] + z * grid.strides[3] +
                                              (c / 4) * grid.strides[4] + (c % 4) * grid.strides[5]);
    }
  }
}

}  // namespace bilateral_ops
