// enhance: the guide computed from the pixels that are being enhanced; the rest is slice_apply's. Equations: ../ops.h
#include "kernels.cuh"
#include "sampled_apply.cuh"
#include "strips.cuh"

namespace bilateral_ops {

template <GuideKind kKind>
bool enhance_strips(Launch& to, const EnhanceArgs& a) {
  return coarse_34(a.at, a.grid, a.image) &&
         launch_strips(to, StripGuide<kKind>{make_numbers<float>(to, a.guide, 3)}, a.at, a.out, a.grid, a.image);
}

namespace cuda {

void enhance_forward(const EnhanceArgs& a, Launch& to) {
  switch (a.guide.kind) {
    case GuideKind::curves:
      if (enhance_strips<GuideKind::curves>(to, a)) return;
      break;
    case GuideKind::nn:
      if (enhance_strips<GuideKind::nn>(to, a)) return;
      break;
    case GuideKind::luma:
      if (enhance_strips<GuideKind::luma>(to, a)) return;
      break;
  }
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ComputedGuide<T> guide{make_numbers<T>(to, a.guide, a.image.shape[3])};
    launch_sampled_apply<T>(to, guide, a.at, a.out, a.grid, a.image);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
