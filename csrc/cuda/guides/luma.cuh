// guide_luma. Its gradient does not depend on the image: luma_weight(j)·grad. Equations: ../../ops.h
#pragma once

#include "shared.cuh"

namespace bilateral_ops {

template <class T>
struct Luma {
  template <int M, class In>
  __device__ void at(const In& in, T (&out)[M]) const {
#pragma unroll
    for (int m = 0; m < M; ++m)
      out[m] = mul_add(T(luma_weight(2)), in(2, m), mul_add(T(luma_weight(1)), in(1, m), T(luma_weight(0)) * in(0, m)));
  }
};

// The luma in float, which has no parameters, so that its gradients have no sums.
struct RgbLuma : Luma<float> {
  static constexpr int kPlanes = 1, kItems = 0, kSums = 1, kOwn = 1;  // see shared.cuh
  static constexpr int kApplyBlocks = 5;                              // see drivers.cuh

  static BO_INLINE_MEMBER size_t table_bytes(int64_t) { return 0; }
  __device__ RgbLuma(const float*, char*, int64_t) {}
  __device__ void prepare() const {}
  __device__ void gradient(const float (&)[4][3], const Vec4<float>& grad, int, float (&d_in)[4][3],
                           Vec4<float> (&planes)[kPlanes], float (&)[kOwn]) const {
    planes[0] = grad;
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int j = 0; j < 3; ++j) d_in[m][j] = static_cast<float>(luma_weight(j)) * grad.at[m];
  }
  __device__ void add_up_item(int, const RgbPlanes&, float (&)[kSums]) const {}
  template <class Total>
  __device__ double element(int, const Total&) const {
    return 0.0;
  }
};

}  // namespace bilateral_ops
