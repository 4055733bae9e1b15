// enhance: slice_apply's forward with a guide that is computed from the image. Equations: ../ops.h
#pragma once

#include "drivers.inl"
#include "guide.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

void enhance_forward(const EnhanceArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.guide, a.image.shape[3], false, [&](const auto& guide) {
      sampled_apply(a.at, a.out, a.grid, a.image, GuideSource<decltype(t)>(guide));
    });
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
