// Sums of many numbers, always in the same order.
#pragma once

#include "launch.cuh"

namespace bilateral_ops {

// For all 32 threads of a warp.
BO_DEVICE double warp_sum(double v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
// `count` numbers `step` apart, added by a warp.
BO_DEVICE double warp_sum(const double* from, int64_t count, int64_t step) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x % 32; i < count; i += 32) sum += from[i * step];
  return warp_sum(sum);
}

}  // namespace bilateral_ops
