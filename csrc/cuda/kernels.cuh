// Every operation's entry, one line a kernel of ops.h; each is defined in the .cu of its name.
#pragma once

#include "device.h"

namespace bilateral_ops {
namespace cuda {

void slice_forward(const SliceArgs& a, Launch& to);
void slice_backward(const SliceGradArgs& a, Launch& to);
void apply_forward(const ApplyArgs& a, Launch& to);
void apply_backward(const ApplyGradArgs& a, Launch& to);
void slice_apply_forward(const SliceApplyArgs& a, Launch& to);
void slice_apply_backward(const SliceApplyGradArgs& a, Launch& to);
void guide_forward(const GuideArgs& a, Launch& to);
void guide_backward(const GuideGradArgs& a, Launch& to);
void enhance_forward(const EnhanceArgs& a, Launch& to);
void total_variation_forward(const TotalVariationArgs& a, Launch& to);
void total_variation_backward(const TotalVariationGradArgs& a, Launch& to);
void resize_area_forward(const ResizeAreaArgs& a, Launch& to);
void resize_area_backward(const ResizeAreaGradArgs& a, Launch& to);

}  // namespace cuda
}  // namespace bilateral_ops
