// What the guides share: their parameters, and affine maps of channels.
//
// A guide is a struct made of its parameters' values and sizes, with
//   at<M>(in, out)                      the guide of M pixels of one thread; channel j of pixel m is in(j, m)
// and, if it has parameters,
//   gradient(planes, pitch, p, grad)    fills the planes for pixel p, whose gradient of the output is `grad`
//   d_in(planes, pitch, p, j)           the gradient of the image, for channel j of pixel p
//   d_parameter(planes, pitch, count, e)   the gradient of parameter element e, summed over a tile of `count` pixels
// T is the compute type. Channels is int64_t or, for RGB, Three; Size is the type of loop indices.
//
// A guide of RGB in float, whose parameters are in shared memory, besides has
//   prepare()                           fills its tables, by all threads of the block
//   gradient(in, grad, mask, d_in, planes, own)
//                                       for four pixels of one thread: the gradient of the image; kPlanes planes, from
//                                       which sums over pixels follow; and adds to kOwn sums of this thread's own
//   add_up_item(item, planes, sums)     kSums sums over a row of pixels, for one of kItems items per knot or feature
//   element(e, total)                   the gradient of parameter element e, from the totals of these sums: those of
//   the
//                                       items, then the own ones
#pragma once

#include "../tiles.cuh"

namespace bilateral_ops {

// How often loops over channels are unrolled
template <class Channels>
constexpr int kUnrolled = 1;
template <>
constexpr int kUnrolled<Three> = 3;

// What the gradients of the parameters need of a tile's pixels: planes, [channel][pixel], of `pitch` elements
template <class T>
struct GuidePlanes {
  T *in, *d_in;    // image, and its gradient (nn)
  T *q, *c, *d_q;  // curves
  T* d_sum;        // one plane: the gradient of clip's or sigmoid's argument
};

// Planes of a warp's row of pixels in shared memory, padded so that lanes that read different planes read different
// banks. The pixels are shared by `splits` groups of lanes, of which this is one.
struct RgbPlanes {
  static constexpr int kPitch = kPatchWidth + 4;
  const float* planes;
  int count, split, splits;

  // Calls f with a pixel's elements of these planes, for each pixel of this group.
  template <int kCount, class F>
  __device__ void for_pixels(const int (&which)[kCount], const F& f) const {
    for (int p = 4 * split; p < count; p += 4 * splits) {
      Vec4<float> four[kCount];
#pragma unroll
      for (int k = 0; k < kCount; ++k) four[k] = *reinterpret_cast<const Vec4<float>*>(planes + which[k] * kPitch + p);
      const auto visit = [&](int m) {
        float pixel[kCount];
#pragma unroll
        for (int k = 0; k < kCount; ++k) pixel[k] = four[k].at[m];
        f(pixel);
      };
      if (p + 4 <= count) {
#pragma unroll
        for (int m = 0; m < 4; ++m) visit(m);
      } else {
#pragma unroll
        for (int m = 0; m < 3; ++m)
          if (p + m < count) visit(m);
      }
    }
  }
};

// --- Parameters

struct GuideShape {
  GuideKind kind;
  int arrays;
  int64_t Ci, K;  // K: knots of curves, features of nn
  int64_t count;  // elements of all parameters
};
inline GuideShape shape_of(const GuideParameters& p, int64_t Ci) {
  GuideShape s{p.kind, parameter_count(p.kind), Ci, 0, 0};
  switch (p.kind) {
    case GuideKind::curves:
      s.K = p.value[2].shape[1];
      s.count = Ci * Ci + Ci + 2 * Ci * s.K + Ci + 1;
      break;
    case GuideKind::nn:
      s.K = p.value[0].shape[0];
      s.count = s.K * Ci + 2 * s.K + 1;
      break;
    case GuideKind::luma: break;
  }
  return s;
}

// A parameter of no, one or two axes as a matrix
struct ParameterRows {
  int64_t rows, columns, row, column;  // sizes, and strides in bytes
};
BO_INLINE ParameterRows rows_of(const Tensor& t) {
  if (t.rank == 0) return {1, 1, 0, 0};
  if (t.rank == 1) return {1, t.shape[0], 0, t.strides[0]};
  return {t.shape[0], t.shape[1], t.strides[0], t.strides[1]};
}
BO_INLINE char* element_address(const Tensor& t, const ParameterRows& r, int64_t e) {
  const int64_t row = e / r.columns;
  return t.data + row * r.row + (e - row * r.columns) * r.column;
}

// The parameters of a guide, contiguous and in the compute type. Each thread block copies them to its shared memory;
// where there are too many, a kernel copies them to the workspace once.
template <class T>
struct ParameterValues {
  GuideParameters parameters;
  GuideShape shape;
  const T* global;  // in the workspace; null: in shared memory

  BO_INLINE_MEMBER size_t shared() const {
    return global ? 0 : static_cast<size_t>(ceil_div(shape.count, 4) * 4) * sizeof(T);
  }
  // The values, for which `memory` has shared() bytes; __syncthreads() must follow.
  __device__ const T* get(char* memory) const {
    if (global) return global;
    copy(reinterpret_cast<T*>(memory), static_cast<int64_t>(threadIdx.x), static_cast<int64_t>(blockDim.x));
    return reinterpret_cast<const T*>(memory);
  }
  __device__ void copy(T* to, int64_t thread, int64_t threads) const {
    int64_t first = 0;
#pragma unroll
    for (int i = 0; i < kMaxGuideParameters; ++i) {
      if (i >= shape.arrays) break;
      const Tensor& t = parameters.value[i];
      const ParameterRows rows = rows_of(t);
      const int64_t count = rows.rows * rows.columns;
      for (int64_t e = thread; e < count; e += threads)
        to[first + e] = load_one<T>(t.dtype, element_address(t, rows, e));
      first += count;
    }
  }
};
template <class T>
__global__ void __launch_bounds__(256) copy_parameters(ParameterValues<T> values, T* to) {
  values.copy(to, blockIdx.x * int64_t(256) + threadIdx.x, gridDim.x * int64_t(256));
}
template <class T>
ParameterValues<T> make_parameter_values(Launch& to, const GuideParameters& p, int64_t channels) {
  ParameterValues<T> values{p, shape_of(p, channels), nullptr};
  if (values.shared() > (8 << 10)) {
    T* const global = workspace<T>(to, values.shape.count);
    launch(to, copy_parameters<T>, 32, 256, 0, values, global);
    values.global = global;
  }
  return values;
}

// --- Formulas

// q = bias + Σ_j weight_j·in_j for M pixels
template <int M, class T, class Channels, class In>
BO_DEVICE void affine(const T* weights, T bias, Channels Ci, const In& in, T (&q)[M]) {
  for (int m = 0; m < M; ++m) {
    q[m] = bias;
    for (decltype(Ci + 0) j = 0; j < Ci; ++j) q[m] = mul_add(weights[j], in(j, m), q[m]);
  }
}

}  // namespace bilateral_ops
