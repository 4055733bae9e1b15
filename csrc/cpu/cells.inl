// Fetched cells: sampling 3 × 4 matrices where there are many pixels per cell, but no register tables (kTableDepth and
// kFetchesMatrices in tuning.h). One pixel after another loads its four cells of the row grid; its matrix is never
// stored.
#pragma once

#include "matrix34.h"
#include "sampler.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// The matrix of one pixel, in the vectors of a packed cell (sampler.inl)
template <class T>
class FetchedMatrix {
 public:
  BO_INLINE_MEMBER FetchedMatrix(const T* left, const T* right, T tx, T tz)
      : left_(left), right_(right), tx_(broadcast(tx)), tz_(broadcast(tz)) {}
  // Vector v of the matrix, and its slope in depth
  BO_INLINE_MEMBER Vec<T> vector(int v, Vec<T>& slope) const {
    const T *left = left_ + v * Vec<T>::kLanes, *right = right_ + v * Vec<T>::kLanes;
    const Vec<T> lower = lerp(load(left), load(right), tx_);
    slope = lerp(load(left + kPackedCell), load(right + kPackedCell), tx_) - lower;
    return mul_add(tz_, slope, lower);
  }

 private:
  const T *left_, *right_;
  const Vec<T> tx_, tz_;
};

// Calls prefetch(begin), then f(begin, end, matrix_at), for groups of kLanes pixels of a tile; matrix_at(pixel) is the
// pixel's FetchedMatrix.
template <class T, class Rows, class Prefetch, class F>
BO_INLINE void for_matrices(const Lattice& g, const Rows& rows, const Positions<T>& at, int64_t count,
                            const Prefetch& prefetch, const F& f) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t last = g.Gw - 1;
  const int32_t* const kz = at.kz;
  const T *const txs = at.tx, *const tzs = at.tz;
  for_spans(at, count, [&](int64_t begin, int64_t end) {
    const int64_t kx = at.kx[begin];
    const T *left = rows.column(kx), *right = rows.column(min_of(kx + 1, last));
    for (int64_t first = begin; first < end; first += kLanes) {
      prefetch(first);
      f(first, min_of(first + kLanes, end), [=](int64_t p) {
        const int64_t cell = kPackedCell * kz[p];
        return FetchedMatrix<T>(left + cell, right + cell, txs[p], tzs[p]);
      });
    }
  });
}

// out = matrix·(image, 1). Image and out are [pixel][3], and may be the same.
template <class T, class Prefetch>
BO_INLINE void apply_matrices(const Lattice& g, const RowGrid<T, Packing::columns>& rows, const Positions<T>& at,
                              int64_t count, const T* image, T* out, const Prefetch& prefetch) {
  constexpr int kVectors = kPackedCell / Vec<T>::kLanes;
  for_matrices(g, rows, at, count, prefetch, [=](int64_t begin, int64_t end, const auto& matrix_at) {
    const auto fetch = [&](int64_t p, Vec<T>* columns) {
      const FetchedMatrix<T> matrix = matrix_at(p);
      Vec<T> unused;
      for (int v = 0; v < kVectors; ++v) columns[v] = matrix.vector(v, unused);
    };
    Vec<T> even[kVectors], odd[kVectors];
    int64_t p = begin;
    for (; p + 1 < end; p += 2) {
      fetch(p, even);
      fetch(p + 1, odd);
      store_affine3(even, odd, image + 3 * p, out + 3 * p);
    }
    if (p < end) {
      fetch(p, even);
      store_affine3(even, image + 3 * p, out + 3 * p);
    }
  });
}

// d_image = matrixᵀ·grad, and d_guide. Image, grad and d_image are [pixel][3]; d_guide is [pixel].
// (Not inlined: compiled once for all guides.)
template <class T, class Prefetch>
void matrix_gradients(const Lattice& g, const RowGrid<T, Packing::rows>& rows, const Positions<T>& at, int64_t count,
                      const T* image, const T* grad, T* d_image, T* d_guide, const Prefetch& prefetch) {
  constexpr int kLanes = Vec<T>::kLanes, kVectors = (12 + kLanes - 1) / kLanes;
  constexpr int kSums = max_of<int>(1, 4 / kLanes);
  const T* const dz = at.dz;
  for_matrices(g, rows, at, count, prefetch, [=](int64_t begin, int64_t end, const auto& matrix_at) {
    for (int64_t p = begin; p < end; ++p) {
      const FetchedMatrix<T> matrix = matrix_at(p);
      // Per matrix column: the sums over rows of elements, and of their slopes, times the row's gradient
      Vec<T> sums[kSums], slope_sums[kSums];
      for (int v = 0; v < kVectors; ++v) {
        Vec<T> slope;
        const Vec<T> elements = matrix.vector(v, slope), weights = spread3(grad + 3 * p, v);
        Vec<T>&sum = sums[v % kSums], &slope_sum = slope_sums[v % kSums];
        sum = v < kSums ? elements * weights : mul_add(elements, weights, sum);
        slope_sum = v < kSums ? slope * weights : mul_add(slope, weights, slope_sum);
      }
      Vec<T> slopes = slope_sums[0] * repeat_rgb1(image + 3 * p, 0);
      for (int v = 1; v < kSums; ++v) slopes = mul_add(slope_sums[v], repeat_rgb1(image + 3 * p, v), slopes);
      d_guide[p] = reduce_add(slopes) * dz[p];
      store_column_sums3(sums, d_image + 3 * p);
    }
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
