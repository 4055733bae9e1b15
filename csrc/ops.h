// READ FIRST. Every operation: its equation, its arguments, its forward and backward declared together.
//
//   file            content
//   formulas.h      the scalar formulas below, as code (host and device)
//   cpu/tiles.h     tiles of pixels; cpu/storage.h storage types and strides
//   cpu/*.inl       the kernels, one file per operation, compiled once per instruction set (cpu/isa_*.cpp)
//   cpu/dispatch.*  picks the instruction set at run time
//   cuda/*.cu       the same for CUDA, one file per operation; files and types have the same names as on the CPU
//   calls.h         a caller's arrays to Args; shapes and dtypes were checked before (src/bilateral_ops/_core/call.py)
//   bindings.*      Python bindings: NumPy arrays, and DLPack for CUDA
//   xla.*           JAX bindings
//
// Dimensions: N batch; H W image; h w its new size; Gh Gw Gd grid; C1 C2 channels (C = C1·C2; C2 = 1 where there is one
// axis); Co Ci output and input channels, L = Ci or Ci + 1 (the offset column); K curve knots; F features.
//
// Any Tensor may have any strides. In backward Args a d_* tensor whose data is null is not computed.
#pragma once

#include "tensor.h"

namespace bilateral_ops {

// Where a grid is sampled: the position of each pixel on the grid's axes.
//
//   px = clamp(u·Gw − ½, 0, Gw − 1), with align_corners clamp(u·(Gw − 1), 0, Gw − 1); py likewise; pz likewise from the
//   guide's value
//   u = (i + ½)/n, with pixel_corners i/(n − 1) (0 for n = 1), for pixel i of n in the whole image, if this one is a
//   window of it; or the value in xy
struct Sampling {
  Tensor guide;  // (N,H,W); absent in enhance, and in slice_apply where the image's luma is to guide
  Tensor xy;     // (N,H,W,2), optional
  // (N), or (N,H,W) with xy; optional. Selects one of M grids, (M,…) instead of (N,…): grid[n] of the equations is then
  // grid[index[n]].
  GridIndex index;
  int64_t top, left, full_height, full_width;
  bool align_corners, pixel_corners;
};

// slice: out[n,y,x,c] = Σ_ijk τ(py−i) τ(px−j) τ(pz−k) grid[n,i,j,k,c],  τ(t) = max(1−|t|, 0)
struct SliceArgs {
  Sampling at;
  Tensor out;   // (N,H,W,C1,C2)
  Tensor grid;  // (N,Gh,Gw,Gd,C1,C2)
};
// d_grid[n,i,j,k,c] = Σ_yx τ τ τ grad[n,y,x,c] (which is splat);  d_guide = Σ_c grad_c·∂out_c/∂pz·∂pz/∂guide;
// d_xy likewise, by px and py
struct SliceGradArgs {
  Sampling at;
  Tensor d_grid, d_guide, d_xy;
  Tensor grid;  // may be absent where only d_grid is wanted
  Tensor grad;  // (N,H,W,C1,C2)
};

// apply: out_i = Σ_j A_ij·in_j (+ A_i,Ci)
struct ApplyArgs {
  Tensor out;           // (N,H,W,Co)
  Tensor coefficients;  // (N,H,W,Co,L)
  Tensor image;         // (N,H,W,Ci)
};
// d_A_ij = grad_i·in_j (in_Ci = 1);  d_in_j = Σ_i A_ij·grad_i
struct ApplyGradArgs {
  Tensor d_coefficients, d_image;
  Tensor coefficients, image, grad;
};

// slice_apply: slice, then apply; the coefficients are never stored. On the CPU at.guide may be absent: the guide is
// then luma(image), and d_image includes the gradient through the guide.
struct SliceApplyArgs {
  Sampling at;
  Tensor out;    // (N,H,W,Co)
  Tensor grid;   // (N,Gh,Gw,Gd,Co,L)
  Tensor image;  // (N,H,W,Ci)
};
struct SliceApplyGradArgs {
  Sampling at;
  Tensor d_grid, d_guide, d_image, d_xy;
  Tensor grid, image, grad;
};

// Guides. One struct for all three kinds; the kind determines which parameters there are.
//   curves  q = ccm·in + ccm_bias;  c_i = Σ_k slopes_ik·max(q_i − shifts_ik, 0);  clip(Σ_i mix_i·c_i + mix_bias, 0, 1)
//   nn      sigmoid(w2·relu(w1·in + b1) + b2)
//   luma    .299 R + .587 G + .114 B
enum class GuideKind : int { curves, nn, luma };
constexpr int kMaxGuideParameters = 6;
// The number of parameters
constexpr int parameter_count(GuideKind kind) {
  switch (kind) {
    case GuideKind::curves: return 6;
    case GuideKind::nn: return 4;
    case GuideKind::luma: break;
  }
  return 0;
}
struct GuideParameters {
  GuideKind kind;
  // curves: ccm (Ci,Ci), ccm_bias (Ci), shifts (Ci,K), slopes (Ci,K), mix (Ci), mix_bias ()
  // nn: w1 (F,Ci), b1 (F), w2 (F), b2 ()
  Tensor value[kMaxGuideParameters];
};
struct GuideArgs {
  Tensor out;    // (N,H,W)
  Tensor image;  // (N,H,W,Ci)
  GuideParameters parameters;
};
// The derivative of max(·, 0) is 0 at and below 0; that of clip is 0 at and beyond 0 and 1.
struct GuideGradArgs {
  Tensor d_image;
  Tensor d_value[kMaxGuideParameters];
  Tensor image, grad;
  GuideParameters parameters;
};

// enhance: guide → slice → apply in one pass
struct EnhanceArgs {
  Sampling at;   // without guide and xy
  Tensor out;    // (N,H,W,Co)
  Tensor grid;   // (N,Gh,Gw,Gd,Co,L)
  Tensor image;  // (N,H,W,Ci)
  GuideParameters guide;
};

// total_variation: out[n] = Σ_axes mean over neighbours and channels of (g[i+1] − g[i])²; an axis of one cell adds 0
struct TotalVariationArgs {
  Tensor out;       // (N)
  Tensor grid;      // (N,Gh,Gw,Gd,C1,C2)
  GridIndex index;  // (N), optional: as in Sampling
};
// d_grid[i] = 2·grad·Σ_axes ((g[i] − g[i−1]) − (g[i+1] − g[i])) / count
struct TotalVariationGradArgs {
  Tensor d_grid;
  Tensor grid, grad;
  GridIndex index;
};

// resize_area: out[n,i,j,c] = Σ_yx w(i,y) w(j,x) image[n,y,x,c],  w(i,y) = |[i·H/h, (i+1)·H/h) ∩ [y, y+1)|·h/H: the
// part of output pixel i that pixel y covers; w(j,x) likewise
struct ResizeAreaArgs {
  Tensor out;    // (N,h,w,Ci); may be float for an integer image, whose elements are then read as v/255 or v/65535
  Tensor image;  // (N,H,W,Ci)
};
// d_image[n,y,x,c] = Σ_ij w(i,y) w(j,x) grad[n,i,j,c]
struct ResizeAreaGradArgs {
  Tensor d_image;
  Tensor grad;
};

// The kernels, each with its Args. Tables, CUDA's declarations, Python's functions and XLA's handlers follow from this
// list; a new operation adds its lines here.
#define BO_KERNELS(X)                                 \
  X(slice_forward, SliceArgs)                         \
  X(slice_backward, SliceGradArgs)                    \
  X(apply_forward, ApplyArgs)                         \
  X(apply_backward, ApplyGradArgs)                    \
  X(slice_apply_forward, SliceApplyArgs)              \
  X(slice_apply_backward, SliceApplyGradArgs)         \
  X(guide_forward, GuideArgs)                         \
  X(guide_backward, GuideGradArgs)                    \
  X(enhance_forward, EnhanceArgs)                     \
  X(total_variation_forward, TotalVariationArgs)      \
  X(total_variation_backward, TotalVariationGradArgs) \
  X(resize_area_forward, ResizeAreaArgs)              \
  X(resize_area_backward, ResizeAreaGradArgs)

// All kernels of one build: for an instruction set, or for CUDA, whose kernels also take a Context.
template <class... Context>
struct KernelTable {
  const char* name;
#define BO_MEMBER(kernel, Args) void (*kernel)(const Args&, Context...);
  BO_KERNELS(BO_MEMBER)
#undef BO_MEMBER
};
using Kernels = KernelTable<>;

}  // namespace bilateral_ops
