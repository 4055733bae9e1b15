// Everything, for one instruction set: included by each isa_*.cpp after it has named BO_ISA.
#pragma once

#include "apply.inl"
#include "enhance.inl"
#include "guide.inl"
#include "resize_area.inl"
#include "slice.inl"
#include "slice_apply.inl"
#include "total_variation.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

constexpr Kernels make_kernels(const char* isa) {
  return {isa,
          slice_forward,
          slice_backward,
          apply_forward,
          apply_backward,
          slice_apply_forward,
          slice_apply_backward,
          guide_forward,
          guide_backward,
          enhance_forward,
          total_variation_forward,
          total_variation_backward,
          resize_area_forward,
          resize_area_backward};
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
