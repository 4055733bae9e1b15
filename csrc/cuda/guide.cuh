// The value of a guide at a pixel, and its parameters where every thread reads them fast. Equations: ../ops.h
#pragma once

#include "arrays.cuh"

namespace bilateral_ops {

// The numbers of a guide's parameters, one array after another.
struct GuideShape {
  GuideKind kind;
  int arrays;
  int64_t Ci, K;  // K: knots of curves, or features of nn
  int64_t count;
};
inline GuideShape shape_of(const GuideParameters& p, int64_t channels) {
  const int64_t Ci = channels;
  switch (p.kind) {
    case GuideKind::curves: {
      const int64_t K = p.value[2].shape[1];
      return {p.kind, 6, Ci, K, Ci * Ci + Ci + 2 * Ci * K + Ci + 1};
    }
    case GuideKind::nn: {
      const int64_t F = p.value[0].shape[0];
      return {p.kind, 4, Ci, F, F * Ci + 2 * F + 1};
    }
    default: return {p.kind, 0, Ci, 0, 0};
  }
}

// A parameter of no, one or two axes, as rows of numbers.
struct Rows {
  int64_t rows, columns, row, column;  // how many, and the steps in bytes
};
BO_INLINE Rows rows_of(const Tensor& t) {
  if (t.rank == 0) return {1, 1, 0, 0};
  if (t.rank == 1) return {1, t.shape[0], 0, t.strides[0]};
  return {t.shape[0], t.shape[1], t.strides[0], t.strides[1]};
}
BO_INLINE char* number(const Tensor& t, const Rows& r, int64_t e) {
  const int64_t row = e / r.columns;
  return t.data + row * r.row + (e - row * r.columns) * r.column;
}

// All parameters as plain numbers: copied to shared memory by each block, or where they are too many to the workspace.
template <class T>
struct Numbers {
  GuideParameters parameters;
  GuideShape shape;
  const T* outside;
  BO_INLINE_MEMBER size_t shared() const {
    return outside ? 0 : static_cast<size_t>(ceil_div(shape.count, 4) * 4) * sizeof(T);
  }
};
template <class T>
BO_DEVICE void copy_numbers(const Numbers<T>& n, T* to, int64_t thread, int64_t threads) {
  int64_t first = 0;
#pragma unroll
  for (int i = 0; i < kMaxGuideParameters; ++i) {
    if (i >= n.shape.arrays) break;
    const Tensor& t = n.parameters.value[i];
    const Rows rows = rows_of(t);
    const int64_t count = rows.rows * rows.columns;
    for (int64_t e = thread; e < count; e += threads) to[first + e] = get<T>(t.dtype, number(t, rows, e));
    first += count;
  }
}
template <class T>
__global__ void __launch_bounds__(256) gather_numbers(Numbers<T> n, T* to) {
  copy_numbers(n, to, blockIdx.x * int64_t(256) + threadIdx.x, gridDim.x * int64_t(256));
}
template <class T>
Numbers<T> make_numbers(Launch& to, const GuideParameters& p, int64_t channels) {
  Numbers<T> n{p, shape_of(p, channels), nullptr};
  if (n.shared() > (8 << 10)) {
    T* const outside = workspace<T>(to, n.shape.count);
    launch(to, gather_numbers<T>, 32, 256, 0, n, outside);
    n.outside = outside;
  }
  return n;
}
// To be followed by __syncthreads(). `shared` has room for n.shared() bytes.
template <class T>
BO_DEVICE const T* numbers_of(const Numbers<T>& n, char* shared) {
  if (n.outside) return n.outside;
  copy_numbers(n, reinterpret_cast<T*>(shared), static_cast<int64_t>(threadIdx.x), static_cast<int64_t>(blockDim.x));
  return reinterpret_cast<const T*>(shared);
}

BO_DEVICE float exponential(float v) { return expf(v); }
BO_DEVICE double exponential(double v) { return exp(v); }
template <class T>
BO_DEVICE T sigmoid(T v) {
  return T(1) / (T(1) + exponential(-v));
}

// q_i of curves, or the argument of relu of feature i of nn; in(j) is channel j of the pixel.
template <class T, class In>
BO_DEVICE T weighted(const T* weights, const T* bias, int64_t Ci, int64_t i, const In& in) {
  T q = bias[i];
  for (int64_t j = 0; j < Ci; ++j) q = mul_add(weights[i * Ci + j], in(j), q);
  return q;
}
template <class T>
BO_DEVICE T curve(const T* shifts, const T* slopes, int64_t K, T q) {
  T c = T(0);
  for (int64_t k = 0; k < K; ++k) c = mul_add(slopes[k], relu(q - shifts[k]), c);
  return c;
}
// The argument of clip.
template <class T, class In>
BO_DEVICE T curves_sum(const T* numbers, int64_t Ci, int64_t K, const In& in) {
  const T *bias = numbers + Ci * Ci, *shifts = bias + Ci, *slopes = shifts + Ci * K, *mix = slopes + Ci * K;
  T total = mix[Ci];
  for (int64_t i = 0; i < Ci; ++i)
    total = mul_add(mix[i], curve(shifts + i * K, slopes + i * K, K, weighted(numbers, bias, Ci, i, in)), total);
  return total;
}
// The argument of sigmoid.
template <class T, class In>
BO_DEVICE T network_sum(const T* numbers, int64_t Ci, int64_t F, const In& in) {
  const T *b1 = numbers + F * Ci, *w2 = b1 + F;
  T total = w2[F];
  for (int64_t f = 0; f < F; ++f) total = mul_add(w2[f], relu(weighted(numbers, b1, Ci, f, in)), total);
  return total;
}
template <class T, class In>
BO_DEVICE T guide_value(GuideKind kind, const T* numbers, int64_t Ci, int64_t K, const In& in) {
  switch (kind) {
    case GuideKind::curves: {
      const T total = curves_sum(numbers, Ci, K, in), raised = T(0) > total ? T(0) : total;
      return raised > T(1) ? T(1) : raised;
    }
    case GuideKind::nn: return sigmoid(network_sum(numbers, Ci, K, in));
    default: return mul_add(T(luma_weight(2)), in(2), mul_add(T(luma_weight(1)), in(1), T(luma_weight(0)) * in(0)));
  }
}

}  // namespace bilateral_ops
