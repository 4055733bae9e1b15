// slice_apply: forward, then backward, with a guide array or with the image's luma. Equations: ../ops.h
#pragma once

#include "drivers.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Calls f with the guide array or, where there is none, the luma.
template <class T, class F>
void with_guide_or_luma(const Tensor& guide, F&& f) {
  if (guide.data) return f(GuideSource<T>(guide));
  const Luma<T> luma;
  f(GuideSource<T>(luma));
}

void slice_apply_forward(const SliceApplyArgs& a) {
  with_compute_type(a.grid.dtype, [&](auto t) {
    with_guide_or_luma<decltype(t)>(a.at.guide,
                                    [&](const auto& guide) { sampled_apply(a.at, a.out, a.grid, a.image, guide); });
  });
}
void slice_apply_backward(const SliceApplyGradArgs& a) {
  with_compute_type(a.grid.dtype, [&](auto t) {
    with_guide_or_luma<decltype(t)>(a.at.guide, [&](const auto& guide) { sampled_apply_backward(a, guide); });
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
