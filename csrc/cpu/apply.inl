// apply: forward, then backward; and their kernels for one tile, which the drivers use, too. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "matrix34.h"
#include "tiles.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// The shape of the per-pixel matrices: any; Co × 4 for RGB with an offset column; 3 × 4, HDRnet's
struct Matrix {
  static constexpr bool kOf4 = false;
  int64_t Co, Ci, L;  // L = Ci, or Ci + 1 with the offset column
};
struct MatrixOf4 {
  static constexpr bool kOf4 = true;
  int64_t Co;
  static constexpr int64_t Ci = 3, L = 4;
};
struct Matrix34 {
  static constexpr bool kOf4 = true;
  static constexpr int64_t Co = 3, Ci = 3, L = 4;
};
// `coefficients` ends in the axes (Co, L), as a grid does.
BO_INLINE Matrix make_matrix(const Tensor& coefficients, const Tensor& image) {
  return {coefficients.shape[coefficients.rank - 2], image.shape[3], coefficients.shape[coefficients.rank - 1]};
}
BO_INLINE bool is_matrix_of4(const Matrix& m) { return m.Ci == 3 && m.L == 4; }
BO_INLINE bool is_matrix34(const Matrix& m) { return m.Co == 3 && is_matrix_of4(m); }
// Calls f with the most special of the three.
template <class F>
BO_INLINE void with_matrix(const Matrix& m, F&& f) {
  if (is_matrix34(m)) {
    f(Matrix34());
  } else if (is_matrix_of4(m)) {
    f(MatrixOf4{m.Co});
  } else {
    f(m);
  }
}

// --- One tile: coefficients [pixel][Co·L], image [pixel][Ci], out [pixel][Co], and their gradients

// out_i = Σ_j A_ij·in_j (+ A_i,Ci)
template <class T>
void apply_tile(const Matrix& matrix, int64_t count, const T* BO_RESTRICT coefficients, const T* BO_RESTRICT image,
                T* BO_RESTRICT out) {
  with_matrix(matrix, [&](const auto& m) {
    for (int64_t p = 0; p < count; ++p) {
      const T* in = image + p * m.Ci;
      for (int64_t i = 0; i < m.Co; ++i) {
        const T* row = coefficients + (p * m.Co + i) * m.L;
        T sum = m.L > m.Ci ? row[m.Ci] : T(0);
        if (m.Ci < kFewChannels) {
          for (int64_t j = 0; j < m.Ci; ++j) sum = mul_add(row[j], in[j], sum);
        } else {
          Vec<T> sums = broadcast(T(0));
          for_vectors<T>(m.Ci,
                         [&](int64_t j, auto lanes) { sums = mul_add(lanes.load(row + j), lanes.load(in + j), sums); });
          sum += reduce_add(sums);
        }
        out[p * m.Co + i] = sum;
      }
    }
  });
}

// The gradients of Co × 4 matrices, one or both. A vector holds one or more matrix rows, or a part of one: of d_A it is
// each row's grad repeated four times, times (in, 1) repeated. Both gradients share a loop, as alternating reads and
// writes are faster than reading a tile and then writing one.
template <bool kCoefficients, bool kImage, class T, class M>
void matrix_of4_gradients(const M& m, int64_t count, const T* BO_RESTRICT coefficients, const T* BO_RESTRICT image,
                          const T* BO_RESTRICT grad, T* BO_RESTRICT d_coefficients, T* BO_RESTRICT d_image) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  constexpr int kVectors = max_of<int>(1, 4 / kLanes),
                kRows = max_of<int>(1, kLanes / 4);  // vectors per row, rows per vector
  for (int64_t p = 0; p < count; ++p) {
    const T* g = grad + p * m.Co;
    Vec<T> columns[kVectors];
    for (Vec<T>& sum : columns) sum = broadcast(T(0));
    // For the elements of the matrix from element c on; rows: the grad of each element's row
    const auto differentiate = [&](int64_t c, int v, auto lanes, const Vec<T>& rows) {
      if constexpr (kCoefficients) {
        T* const to = d_coefficients + p * m.Co * 4 + c;
        if (kImage) prefetch_ahead<sizeof(Vec<T>)>(reinterpret_cast<const char*>(to));
        lanes.store(to, rows * repeat_rgb1(image + p * 3, v));
      }
      if constexpr (kImage) {
        Vec<T>& sum = columns[v % kVectors];
        sum = mul_add(lanes.load(coefficients + p * m.Co * 4 + c), rows, sum);
      }
    };
    int64_t i = 0;
    if (m.Co == 3) {
      for_vectors<T>(12, [&](int64_t c, auto lanes) {
        const int v = static_cast<int>(c / kLanes);
        differentiate(c, v, lanes, spread3(g, v));
      });
      i = 3;
    }
    for (; i + kRows <= m.Co; i += kRows)
      for (int v = 0; v < kVectors; ++v) differentiate(4 * i + v * kLanes, v, FullVec<T>(), spread4(g + i, v));
    if constexpr (kImage) store_column_sums3(columns, d_image + p * 3);
    for (; i < m.Co; ++i)
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t c = (p * m.Co + i) * 4 + j;
        if constexpr (kCoefficients) d_coefficients[c] = j < 3 ? g[i] * image[p * 3 + j] : g[i];
        if constexpr (kImage)
          if (j < 3) d_image[p * 3 + j] = mul_add(coefficients[c], g[i], d_image[p * 3 + j]);
      }
  }
}

// d_in_j = Σ_i A_ij·grad_i
template <class T>
void apply_tile_d_image(const Matrix& matrix, int64_t count, const T* BO_RESTRICT coefficients,
                        const T* BO_RESTRICT grad, T* BO_RESTRICT d_image) {
  with_matrix(matrix, [&](auto m) {
    if constexpr (decltype(m)::kOf4) {
      matrix_of4_gradients<false, true, T>(m, count, coefficients, nullptr, grad, nullptr, d_image);
      return;
    }
    for (int64_t p = 0; p < count; ++p) {
      const T *A = coefficients + p * m.Co * m.L, *g = grad + p * m.Co;
      if (m.Ci < kFewChannels) {
        for (int64_t j = 0; j < m.Ci; ++j) {
          T sum = T(0);
          for (int64_t i = 0; i < m.Co; ++i) sum = mul_add(A[i * m.L + j], g[i], sum);
          d_image[p * m.Ci + j] = sum;
        }
        continue;
      }
      for_vectors<T>(m.Ci, [&](int64_t j, auto lanes) {
        Vec<T> sum = broadcast(T(0));
        for (int64_t i = 0; i < m.Co; ++i) sum = mul_add(lanes.load(A + i * m.L + j), broadcast(g[i]), sum);
        lanes.store(d_image + p * m.Ci + j, sum);
      });
    }
  });
}

// d_A_ij = grad_i·in_j (in_Ci = 1)
template <class T>
void apply_tile_d_coefficients(const Matrix& matrix, int64_t count, const T* BO_RESTRICT image,
                               const T* BO_RESTRICT grad, T* BO_RESTRICT d_coefficients) {
  with_matrix(matrix, [&](auto m) {
    if constexpr (decltype(m)::kOf4) {
      matrix_of4_gradients<true, false, T>(m, count, nullptr, image, grad, d_coefficients, nullptr);
      return;
    }
    for (int64_t p = 0; p < count; ++p)
      for (int64_t i = 0; i < m.Co; ++i) {
        const T *in = image + p * m.Ci, g = grad[p * m.Co + i];
        T* row = d_coefficients + (p * m.Co + i) * m.L;
        if (m.Ci < kFewChannels) {
          for (int64_t j = 0; j < m.Ci; ++j) row[j] = g * in[j];
        } else {
          for_vectors<T>(m.Ci, [&](int64_t j, auto lanes) { lanes.store(row + j, broadcast(g) * lanes.load(in + j)); });
        }
        if (m.L > m.Ci) row[m.Ci] = g;
      }
  });
}

// Both gradients
template <class T>
void apply_tile_gradients(const Matrix& matrix, int64_t count, const T* BO_RESTRICT coefficients,
                          const T* BO_RESTRICT image, const T* BO_RESTRICT grad, T* BO_RESTRICT d_coefficients,
                          T* BO_RESTRICT d_image) {
  with_matrix(matrix, [&](auto m) {
    if constexpr (decltype(m)::kOf4) {
      matrix_of4_gradients<true, true, T>(m, count, coefficients, image, grad, d_coefficients, d_image);
    } else {
      apply_tile_d_coefficients(m, count, image, grad, d_coefficients);
      apply_tile_d_image(m, count, coefficients, grad, d_image);
    }
  });
}

// --- The operation

template <class T>
void apply_forward_as(const ApplyArgs& a) {
  const Matrix m = make_matrix(a.coefficients, a.image);
  const int64_t size = m.Co * m.L, width = tile_width(size);
  const Block cells = block_of(a.coefficients, 2), pixels = block_of(a.image, 2), results = block_of(a.out, 2);
  const Tiling tiling = make_tiling(a.out.shape[0], a.out.shape[1], a.out.shape[2], width);
  const bool in_place = a.out.data == a.image.data;
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* coefficients = memory.take<T>(width * (size + m.Ci + m.Co));
    T *image = coefficients + width * size, *out = image + width * m.Ci;
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      char* const to = first_pixel(a.out, tile);
      T* const target = in_place ? out : block_target(results, to, out);
      apply_tile(m, tile.count, block_view(cells, first_pixel(a.coefficients, tile), tile.count, coefficients),
                 block_view(pixels, first_pixel(a.image, tile), tile.count, image), target);
      if (target == out) store_block(results, to, tile.count, out);
    }
  });
}

template <class T>
void apply_backward_as(const ApplyGradArgs& a) {
  const Matrix m = make_matrix(a.coefficients, a.image);
  // Narrow tiles, as reads of matrices alternate with writes of their gradients.
  const int64_t size = m.Co * m.L, width = tile_width(4 * size);
  const Block cells = block_of(a.coefficients, 2), pixels = block_of(a.image, 2), grads = block_of(a.grad, 2);
  const Block d_cells = a.d_coefficients.data ? block_of(a.d_coefficients, 2) : cells;
  const Block d_pixels = a.d_image.data ? block_of(a.d_image, 2) : pixels;
  const Tiling tiling = make_tiling(a.grad.shape[0], a.grad.shape[1], a.grad.shape[2], width);
  const bool in_place = a.d_image.data == a.image.data;
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* coefficients = memory.take<T>(width * (2 * size + 2 * m.Ci + m.Co));
    T* d_coefficients = coefficients + width * size;
    T *image = d_coefficients + width * size, *d_image = image + width * m.Ci, *grad_copy = d_image + width * m.Ci;
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      const T* grad = block_view(grads, first_pixel(a.grad, tile), tile.count, grad_copy);
      const T *from_cells = nullptr, *from_pixels = nullptr;
      T *to_cells = nullptr, *to_pixels = nullptr;
      if (a.d_coefficients.data) {
        from_pixels = block_view(pixels, first_pixel(a.image, tile), tile.count, image);
        to_cells = block_target(d_cells, first_pixel(a.d_coefficients, tile), d_coefficients);
      }
      if (a.d_image.data) {
        from_cells = block_view(cells, first_pixel(a.coefficients, tile), tile.count, coefficients);
        to_pixels = in_place ? d_image : block_target(d_pixels, first_pixel(a.d_image, tile), d_image);
      }
      if (to_cells && to_pixels) {
        apply_tile_gradients(m, tile.count, from_cells, from_pixels, grad, to_cells, to_pixels);
      } else if (to_cells) {
        apply_tile_d_coefficients(m, tile.count, from_pixels, grad, to_cells);
      } else if (to_pixels) {
        apply_tile_d_image(m, tile.count, from_cells, grad, to_pixels);
      }
      if (to_cells == d_coefficients)
        store_block(d_cells, first_pixel(a.d_coefficients, tile), tile.count, d_coefficients);
      if (to_pixels == d_image) store_block(d_pixels, first_pixel(a.d_image, tile), tile.count, d_image);
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
