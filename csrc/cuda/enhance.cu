// enhance: the guide computed from the pixels that are being enhanced; the rest is slice_apply's. Equations: ../ops.h
#include "kernels.cuh"
#include "sampled_apply.cuh"

namespace bilateral_ops {
namespace cuda {

void enhance_forward(const EnhanceArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ComputedGuide<T> guide{make_numbers<T>(to, a.guide, a.image.shape[3])};
    launch_sampled_apply<T>(to, guide, a.at, a.out, a.grid, a.image);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
