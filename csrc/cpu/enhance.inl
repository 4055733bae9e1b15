// enhance: the guide computed from the pixels that are being enhanced; the rest is slice_apply's. Equations: ../ops.h
#pragma once

#include "guide.inl"
#include "slice_apply.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class Guide>
void enhance_forward_as(const EnhanceArgs& a, const Guide& guide) {
  const int64_t width = tile_width(a.grid.shape[4] * a.grid.shape[5]);
  sampled_apply<typename Guide::T>(a.at, a.out, a.grid, a.image, width, MakeComputed<Guide>{guide});
}

void enhance_forward(const EnhanceArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.guide, a.image.shape[3], false, [&](const auto& guide) { enhance_forward_as(a, guide); });
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
