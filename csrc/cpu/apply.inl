// apply: forward, then backward; and the tile functions that slice_apply and enhance share. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "spans.h"

namespace bilateral_ops {
inline namespace BO_ISA {

struct Matrix {
  int64_t Co, Ci, L;  // L = Ci, or Ci + 1 with the offset column
};
// `cells` ends in the axes (Co, L).
BO_INLINE Matrix make_matrix(const Tensor& cells, const Tensor& image) {
  return {cells.shape[cells.rank - 2], image.shape[3], cells.shape[cells.rank - 1]};
}

// HDRnet's matrices, known when compiling.
struct Matrix34 {
  static constexpr int64_t Co = 3, Ci = 3, L = 4;
};
BO_INLINE bool is_matrix34(const Matrix& m) { return m.Co == 3 && m.Ci == 3 && m.L == 4; }
template <class F>
BO_INLINE void with_matrix(const Matrix& m, F&& f) {
  if (is_matrix34(m)) {
    f(Matrix34());
  } else {
    f(m);
  }
}

// Coefficients [pixel][Co·L]; image, out and their gradients [channel][pixel] with rows `pitch` apart. Pixel by pixel,
// as a pixel's coefficients lie together.

// out_i = Σ_j A_ij·in_j (+ A_i,Ci)
template <class T>
void apply_tile(const Matrix& matrix, int64_t count, int64_t pitch, const T* BO_RESTRICT coefficients,
                const T* BO_RESTRICT image, T* BO_RESTRICT out) {
  with_matrix(matrix, [&](const auto& m) {
    for (int64_t p = 0; p < count; ++p)
      for (int64_t i = 0; i < m.Co; ++i) {
        const T* row = coefficients + (p * m.Co + i) * m.L;
        T sum = m.L > m.Ci ? row[m.Ci] : T(0);
        for (int64_t j = 0; j < m.Ci; ++j) sum = madd(row[j], image[j * pitch + p], sum);
        out[i * pitch + p] = sum;
      }
  });
}

// d_in_j = Σ_i A_ij·grad_i
template <class T>
void apply_tile_d_image(const Matrix& matrix, int64_t count, int64_t pitch, const T* BO_RESTRICT coefficients,
                        const T* BO_RESTRICT grad, T* BO_RESTRICT d_image) {
  with_matrix(matrix, [&](const auto& m) {
    for (int64_t p = 0; p < count; ++p) {
      const T* cells = coefficients + p * m.Co * m.L;
      for (int64_t j = 0; j < m.Ci; ++j) {
        T sum = T(0);
        for (int64_t i = 0; i < m.Co; ++i) sum = madd(cells[i * m.L + j], grad[i * pitch + p], sum);
        d_image[j * pitch + p] = sum;
      }
    }
  });
}

// d_A_ij = grad_i·in_j (in_Ci = 1)
template <class T>
void apply_tile_d_coefficients(const Matrix& matrix, int64_t count, int64_t pitch, const T* BO_RESTRICT image,
                               const T* BO_RESTRICT grad, T* BO_RESTRICT d_coefficients) {
  with_matrix(matrix, [&](const auto& m) {
    for (int64_t p = 0; p < count; ++p)
      for (int64_t i = 0; i < m.Co; ++i) {
        const T g = grad[i * pitch + p];
        T* row = d_coefficients + (p * m.Co + i) * m.L;
        for (int64_t j = 0; j < m.Ci; ++j) row[j] = g * image[j * pitch + p];
        if (m.L > m.Ci) row[m.Ci] = g;
      }
  });
}

template <class T>
void apply_forward_as(const ApplyArgs& a) {
  const Matrix m = make_matrix(a.coefficients, a.image);
  const int64_t size = m.Co * m.L, width = tile_width(size);
  const Block cells = block_of(a.coefficients, 2);
  const Tiling tiling = make_tiling(a.out.shape[0], a.out.shape[1], a.out.shape[2], width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* coefficients = memory.take<T>(width * (size + m.Ci + m.Co));
    T *image = coefficients + width * size, *out = image + width * m.Ci;
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      const T* found = block_at(cells, pixel(a.coefficients, tile), tile.count, coefficients);
      load_planar(a.image, tile, image, width);
      apply_tile(m, tile.count, width, found, image, out);
      store_planar(a.out, tile, out, width);
    }
  });
}

template <class T>
void apply_backward_as(const ApplyGradArgs& a) {
  const Matrix m = make_matrix(a.coefficients, a.image);
  const int64_t size = m.Co * m.L, width = tile_width(size);
  const Block cells = block_of(a.coefficients, 2);
  const Block d_cells = a.d_coefficients.data ? block_of(a.d_coefficients, 2) : cells;
  const Tiling tiling = make_tiling(a.grad.shape[0], a.grad.shape[1], a.grad.shape[2], width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* coefficients = memory.take<T>(width * (2 * size + 2 * m.Ci + m.Co));
    T* d_coefficients = coefficients + width * size;
    T *image = d_coefficients + width * size, *d_image = image + width * m.Ci, *grad = d_image + width * m.Ci;
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(a.grad, tile, grad, width);
      if (a.d_coefficients.data) {
        load_planar(a.image, tile, image, width);
        char* const place = pixel(a.d_coefficients, tile);
        T* const target = block_target(d_cells, place, d_coefficients);
        apply_tile_d_coefficients(m, tile.count, width, image, grad, target);
        if (target == d_coefficients) store_block(d_cells, place, tile.count, d_coefficients);
      }
      if (a.d_image.data) {
        const T* found = block_at(cells, pixel(a.coefficients, tile), tile.count, coefficients);
        apply_tile_d_image(m, tile.count, width, found, grad, d_image);
        store_planar(a.d_image, tile, d_image, width);
      }
    }
  });
}

void apply_forward(const ApplyArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) { apply_forward_as<decltype(t)>(a); });
}
void apply_backward(const ApplyGradArgs& a) {
  with_compute_type(a.grad.dtype, [&](auto t) { apply_backward_as<decltype(t)>(a); });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
