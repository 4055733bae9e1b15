// From a caller's arrays to an operation's Args, written once for all callers: Python (bindings.h) and XLA (xla.h). For
// each of BO_KERNELS (ops.h) there is a function of the kernel's name, whose parameter types state what a caller
// passes: In, InIndex, Out, Parameters, OutParameters, Window, bool. The bindings and handlers are generated from these
// functions.
//
// Only what memory safety needs is checked here: src/bilateral_ops/_core/call.py has already refused all shapes and
// dtypes that do not fit.
//
// A Call is one call by one kind of caller, and has
//   Table                        the KernelTable of its kernels
//   Array                        the type of the caller's arrays, any of which may be absent
//   given(array)                 whether it is not absent
//   rank(array)                  the number of its axes
//   input(array, batched, rank) and output(…)
//                                the array as a tensor of `rank` axes: with a batch axis in front if the call is not
//                                batched, and channel axes of size 1 behind; an absent one as a tensor without data
//   index(array, batched)        the same of an array of integers (N) or (N,H,W)
//   run(kernel, args)
#pragma once

#include <stdexcept>
#include <string>

#include "float_mode.h"
#include "ops.h"

namespace bilateral_ops {

// Sets a tensor's axes, `rank` of them, from an array's `given` axes with shape(axis) and stride(axis) (in bytes).
template <class Shape, class Stride>
void set_axes(Tensor& t, int given, bool batched, int rank, const Shape& shape, const Stride& stride) {
  const int lead = batched ? 0 : 1;
  if (rank > kMaxRank || given + lead > rank) throw std::invalid_argument("bilateral_ops: too many axes");
  t.rank = rank;
  for (int axis = 0; axis < rank; ++axis) {
    const int from = axis - lead;
    const bool there = from >= 0 && from < given;
    t.shape[axis] = there ? shape(from) : 1;
    t.strides[axis] = there ? stride(from) : 0;
  }
}

// Runs a kernel in the floating-point mode that kernels need.
template <class Table, class Args, class... Context>
void run_kernel(const Table& kernels, void (*Table::*kernel)(const Args&, Context&...), const Args& args,
                Context&... context) {
  const FloatMode mode;
  (kernels.*kernel)(args, context...);
}

// The window of a larger image that the image is, and the rule of that one's pixels (Sampling in ops.h)
struct Window {
  int64_t top, left, full_height, full_width;
  bool pixel_corners;
};

template <class Call>
using ArrayOf = const typename Call::Array&;
// An input array, an array that says which grids are sampled, and an output array; any of them may be absent.
template <class Call>
struct In {
  ArrayOf<Call> array;
  operator ArrayOf<Call>() const { return array; }
};
template <class Call>
struct InIndex {
  ArrayOf<Call> array;
  operator ArrayOf<Call>() const { return array; }
};
template <class Call>
struct Out {
  ArrayOf<Call> array;
  operator ArrayOf<Call>() const { return array; }
};

// The arrays of one call as tensors with a batch axis
template <class Call>
class Arrays {
 public:
  // `lead` has `rank` axes if the call is batched.
  Arrays(Call& call, ArrayOf<Call> lead, int rank) : call_(call), batched_(call.rank(lead) == rank) {}
  explicit Arrays(Call& call) : call_(call), batched_(true) {}

  Tensor operator()(In<Call> array, int rank) { return call_.input(array, batched_, rank); }
  Tensor operator()(Out<Call> array, int rank) {
    wanted_ = wanted_ || call_.given(array);
    return call_.output(array, batched_, rank);
  }
  GridIndex operator()(InIndex<Call> array) { return call_.index(array, batched_); }
  // A grid or its gradient, which must have cells if it is given
  template <class Array>
  Tensor cells(Array array) {
    const Tensor grid = (*this)(array, 6);
    if (grid.data && (grid.shape[1] < 1 || grid.shape[2] < 1 || grid.shape[3] < 1)) {
      throw std::invalid_argument("bilateral_ops: a grid without cells");
    }
    return grid;
  }
  static Sampling sampling(const Tensor& pixels, const Window& window, bool align_corners) {
    Sampling at{};
    at.top = window.top;
    at.left = window.left;
    at.full_height = window.full_height;
    at.full_width = window.full_width;
    at.align_corners = align_corners;
    at.pixel_corners = window.pixel_corners;
    if (at.top < 0 || at.left < 0 || at.top + pixels.shape[1] > at.full_height ||
        at.left + pixels.shape[2] > at.full_width) {
      throw std::invalid_argument("bilateral_ops: the window must hold the image");
    }
    return at;
  }
  Sampling sampling(const Tensor& pixels, In<Call> guide, In<Call> xy, InIndex<Call> index, const Window& window,
                    bool align_corners) {
    Sampling at = sampling(pixels, window, align_corners);
    at.guide = (*this)(guide, 3);
    at.xy = (*this)(xy, 4);
    at.index = (*this)(index);
    return at;
  }
  // Runs a kernel, unless none of its results is wanted.
  template <class Kernel, class Args>
  void run(Kernel kernel, const Args& args) {
    if (wanted_) call_.run(kernel, args);
  }

 private:
  Call& call_;
  const bool batched_;
  bool wanted_ = false;
};

// An array's three axes (N,H,W) as those of a GridIndex
inline GridIndex grid_index(const Tensor& t, bool wide) {
  return {t.data, wide, {t.strides[0], t.strides[1], t.strides[2]}};
}

// The parameters of a guide, and their gradients
template <class Call>
struct Parameters {
  GuideKind kind;
  int count;
  const typename Call::Array* arrays;
};

template <class Call>
struct OutParameters : Parameters<Call> {};

inline GuideKind guide_kind(const std::string& name) {
  if (name == "curves") return GuideKind::curves;
  if (name == "nn") return GuideKind::nn;
  if (name == "luma") return GuideKind::luma;
  throw std::invalid_argument("bilateral_ops: unknown guide " + name);
}

template <class Call>
GuideParameters guide_parameters(Call& call, const Parameters<Call>& given) {
  GuideParameters p{};
  p.kind = given.kind;
  const int expected = parameter_count(p.kind);
  if (given.count != expected) throw std::invalid_argument("bilateral_ops: wrong number of guide parameters");
  for (int i = 0; i < expected; ++i) {
    if (!call.given(given.arrays[i])) throw std::invalid_argument("bilateral_ops: a guide parameter is missing");
    p.value[i] = call.input(given.arrays[i], true, call.rank(given.arrays[i]));
  }
  return p;
}

template <class Call>
void slice_forward(Call& call, Out<Call> out, In<Call> grid, In<Call> guide, In<Call> xy, InIndex<Call> index,
                   const Window& window, bool align_corners) {
  Arrays<Call> of(call, guide, 3);
  const Tensor pixels = of(out, 5);
  const Sampling at = of.sampling(pixels, guide, xy, index, window, align_corners);
  of.run(&Call::Table::slice_forward, SliceArgs{at, pixels, of.cells(grid)});
}

template <class Call>
void slice_backward(Call& call, Out<Call> d_grid, Out<Call> d_guide, Out<Call> d_xy, In<Call> grid, In<Call> guide,
                    In<Call> xy, InIndex<Call> index, In<Call> grad, const Window& window, bool align_corners) {
  Arrays<Call> of(call, guide, 3);
  const Tensor pixels = of(grad, 5);
  const Sampling at = of.sampling(pixels, guide, xy, index, window, align_corners);
  const SliceGradArgs a{at, of.cells(d_grid), of(d_guide, 3), of(d_xy, 4), of.cells(grid), pixels};
  if (!a.grid.data && (a.d_guide.data || a.d_xy.data)) {
    throw std::invalid_argument("bilateral_ops: slopes need the grid");
  }
  of.run(&Call::Table::slice_backward, a);
}

template <class Call>
void apply_forward(Call& call, Out<Call> out, In<Call> coefficients, In<Call> image) {
  Arrays<Call> of(call, image, 4);
  of.run(&Call::Table::apply_forward, ApplyArgs{of(out, 4), of(coefficients, 5), of(image, 4)});
}

template <class Call>
void apply_backward(Call& call, Out<Call> d_coefficients, Out<Call> d_image, In<Call> coefficients, In<Call> image,
                    In<Call> grad) {
  Arrays<Call> of(call, image, 4);
  of.run(&Call::Table::apply_backward,
         ApplyGradArgs{of(d_coefficients, 5), of(d_image, 4), of(coefficients, 5), of(image, 4), of(grad, 4)});
}

template <class Call>
void slice_apply_forward(Call& call, Out<Call> out, In<Call> grid, In<Call> guide, In<Call> image, In<Call> xy,
                         InIndex<Call> index, const Window& window, bool align_corners) {
  Arrays<Call> of(call, image, 4);
  const Tensor pixels = of(out, 4);
  const Sampling at = of.sampling(pixels, guide, xy, index, window, align_corners);
  of.run(&Call::Table::slice_apply_forward, SliceApplyArgs{at, pixels, of.cells(grid), of(image, 4)});
}

template <class Call>
void slice_apply_backward(Call& call, Out<Call> d_grid, Out<Call> d_guide, Out<Call> d_image, Out<Call> d_xy,
                          In<Call> grid, In<Call> guide, In<Call> image, In<Call> xy, InIndex<Call> index,
                          In<Call> grad, const Window& window, bool align_corners) {
  Arrays<Call> of(call, image, 4);
  const Tensor pixels = of(grad, 4);
  const Sampling at = of.sampling(pixels, guide, xy, index, window, align_corners);
  of.run(&Call::Table::slice_apply_backward, SliceApplyGradArgs{at, of.cells(d_grid), of(d_guide, 3), of(d_image, 4),
                                                                of(d_xy, 4), of.cells(grid), of(image, 4), pixels});
}

template <class Call>
void guide_forward(Call& call, Out<Call> out, In<Call> image, const Parameters<Call>& parameters) {
  Arrays<Call> of(call, image, 4);
  of.run(&Call::Table::guide_forward, GuideArgs{of(out, 3), of(image, 4), guide_parameters(call, parameters)});
}

template <class Call>
void guide_backward(Call& call, Out<Call> d_image, const OutParameters<Call>& d_parameters, In<Call> image,
                    const Parameters<Call>& parameters, In<Call> grad) {
  Arrays<Call> of(call, image, 4);
  GuideGradArgs a{of(d_image, 4), {}, of(image, 4), of(grad, 3), guide_parameters(call, parameters)};
  if (d_parameters.count != parameters.count) throw std::invalid_argument("bilateral_ops: wrong number of gradients");
  for (int i = 0; i < d_parameters.count; ++i) {
    const typename Call::Array& d = d_parameters.arrays[i];
    if (call.given(d)) a.d_value[i] = call.output(d, true, call.rank(d));
  }
  call.run(&Call::Table::guide_backward, a);
}

template <class Call>
void enhance_forward(Call& call, Out<Call> out, In<Call> grid, In<Call> image, const Parameters<Call>& guide,
                     const Window& window, bool align_corners) {
  Arrays<Call> of(call, image, 4);
  const Tensor pixels = of(out, 4);
  const Sampling at = of.sampling(pixels, window, align_corners);
  of.run(&Call::Table::enhance_forward,
         EnhanceArgs{at, pixels, of.cells(grid), of(image, 4), guide_parameters(call, guide)});
}

template <class Call>
void total_variation_forward(Call& call, Out<Call> out, In<Call> grid, InIndex<Call> index) {
  Arrays<Call> of(call);
  of.run(&Call::Table::total_variation_forward, TotalVariationArgs{of(out, 1), of.cells(grid), of(index)});
}

template <class Call>
void total_variation_backward(Call& call, Out<Call> d_grid, In<Call> grid, InIndex<Call> index, In<Call> grad) {
  Arrays<Call> of(call);
  of.run(&Call::Table::total_variation_backward,
         TotalVariationGradArgs{of.cells(d_grid), of.cells(grid), of(grad, 1), of(index)});
}

// An average needs at least one pixel.
inline void require_pixels(const Tensor& image) {
  if (image.shape[1] < 1 || image.shape[2] < 1) throw std::invalid_argument("bilateral_ops: an image without pixels");
}

template <class Call>
void resize_area_forward(Call& call, Out<Call> out, In<Call> image) {
  Arrays<Call> of(call, image, 4);
  const ResizeAreaArgs a{of(out, 4), of(image, 4)};
  require_pixels(a.image);
  of.run(&Call::Table::resize_area_forward, a);
}

template <class Call>
void resize_area_backward(Call& call, Out<Call> d_image, In<Call>, In<Call> grad) {
  Arrays<Call> of(call, grad, 4);
  const ResizeAreaGradArgs a{of(d_image, 4), of(grad, 4)};
  require_pixels(a.grad);
  of.run(&Call::Table::resize_area_backward, a);
}

}  // namespace bilateral_ops
