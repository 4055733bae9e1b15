// enhance: slice_apply's forward with a guide that is computed from the image. Equations: ../ops.h
#include "apply_34.cuh"
#include "kernels.cuh"

namespace bilateral_ops {

namespace cuda {

void enhance_forward(const EnhanceArgs& a, Launch& to) {
  bool done = false;
  if (is_coarse_34(a.at, a.grid, a.image))
    with_rgb_guide(make_parameter_values<float>(to, a.guide, 3), [&](auto guide) {
      done = launch_apply_34(to, ComputedRgbGuide(guide), a.at, a.out, a.grid, a.image);
    });
  if (done) return;
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ComputedGuide<T> guide{make_parameter_values<T>(to, a.guide, a.image.shape[3])};
    launch_sampled_apply<T>(to, guide, a.at, a.out, a.grid, a.image);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
