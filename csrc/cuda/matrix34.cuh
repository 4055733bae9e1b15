// Grids of 3 × 4 matrices, HDRnet's, that are coarse beside the image
#pragma once

#include "patch_grid.cuh"

namespace bilateral_ops {

constexpr int kMatrixSize = 12;  // elements of a cell
using MatrixSize = Constant<kMatrixSize>;

// Whether apply_34.cuh does the forward, and band_gradients.cuh the gradients.
inline bool is_coarse_34(const Sampling& at, const Tensor& grid, const Tensor& image) {
  return is_coarse(at, grid, image.dtype) && image.shape[3] == 3 && grid.shape[4] == 3 && grid.shape[5] == 4;
}

}  // namespace bilateral_ops
