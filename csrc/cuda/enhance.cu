// enhance: slice_apply's forward with a guide that is computed from the image. Equations: ../ops.h
#include "apply_34.cuh"
#include "kernels.cuh"

namespace bilateral_ops {

template <GuideKind kKind>
bool enhance_34(Launch& to, const EnhanceArgs& a) {
  return is_coarse_34(a.at, a.grid, a.image) &&
         launch_apply_34(to, ComputedGuide3<float, kKind>{{make_parameter_values<float>(to, a.guide, 3)}}, a.at, a.out,
                         a.grid, a.image);
}

namespace cuda {

void enhance_forward(const EnhanceArgs& a, Launch& to) {
  switch (a.guide.kind) {
    case GuideKind::curves:
      if (enhance_34<GuideKind::curves>(to, a)) return;
      break;
    case GuideKind::nn:
      if (enhance_34<GuideKind::nn>(to, a)) return;
      break;
    case GuideKind::luma:
      if (enhance_34<GuideKind::luma>(to, a)) return;
      break;
  }
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ComputedGuide<T> guide{make_parameter_values<T>(to, a.guide, a.image.shape[3])};
    launch_sampled_apply<T>(to, guide, a.at, a.out, a.grid, a.image);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
