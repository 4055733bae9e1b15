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
#define BO_ENTRY(kernel, Args) , kernel
  return {isa BO_KERNELS(BO_ENTRY)};
#undef BO_ENTRY
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
