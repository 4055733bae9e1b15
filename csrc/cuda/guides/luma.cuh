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

}  // namespace bilateral_ops
