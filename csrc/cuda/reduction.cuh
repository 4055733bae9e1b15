// Sums over the threads of a warp, in an order that is always the same.
#pragma once

#include "launch.cuh"

namespace bilateral_ops {

// The sum of v over all 32 threads of a warp, for each of them
BO_DEVICE double warp_sum(double v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
// The sum of `count` elements that are `step` elements apart, by all threads of a warp
BO_DEVICE double warp_sum(const double* from, int64_t count, int64_t step) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x % 32; i < count; i += 32) sum += from[i * step];
  return warp_sum(sum);
}

}  // namespace bilateral_ops
