// enhance: the guide computed from the pixels that are being enhanced; the rest is slice_apply's. Equations: ../ops.h
#pragma once

#include "guide.inl"
#include "slice_apply.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class Guide>
struct ComputedGuide {
  using T = typename Guide::T;
  const Guide& guide;
  int64_t pitch;
  Scratch memory;
  T *plane, *scratch;
  ComputedGuide(const Guide& g, int64_t tile) : guide(g), pitch(tile + kPad) {
    plane = memory.template take<T>(pitch * (1 + guide.scratch()));
    scratch = plane + pitch;
  }
  const T* operator()(const Tile& tile, const T* image) {
    guide.value(image, tile.count, pitch, scratch, plane);
    return plane;
  }
};

template <class Guide>
void enhance_forward_as(const EnhanceArgs& a, const Guide& guide) {
  const int64_t width = tile_width(a.grid.shape[4] * a.grid.shape[5] + guide.scratch());
  sampled_apply<typename Guide::T>(a.at, a.out, a.grid, a.image, width,
                                   [&] { return ComputedGuide<Guide>(guide, width); });
}

void enhance_forward(const EnhanceArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.guide, a.image.shape[3], [&](const auto& guide) { enhance_forward_as(a, guide); });
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
