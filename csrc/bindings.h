// Every operation's binding, written once: a Call makes Tensors of Python's arrays and runs a kernel of a KernelTable.
// _core (bindings.cpp) takes NumPy arrays, _cuda (cuda/bindings.cpp) whatever speaks DLPack.
//
// Nothing is checked here but what memory safety needs: src/bilateral_ops/_signature.py has refused every shape and
// dtype that does not fit before a call comes this far.
//
// A Call is made from the operation's name and what its module's functions take after the others (Extra), and has
//   Table                        the KernelTable its kernels are in
//   rank(object)                 axes of an array
//   input(object, batched, rank) and output(…)
//                                an array as a tensor of `rank` axes: a batch axis before it where the call has none,
//                                channel axes of one element after it; None becomes a tensor without data
//   run(kernel, args)
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "ops.h"

namespace bilateral_ops {

namespace py = pybind11;
using Object = const py::object&;

// An array's axes as a tensor's `rank`: `shape(axis)` and `stride(axis)` (in bytes) are the array's own.
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

template <class Call>
Sampling sampling(Call& call, const Tensor& pixels, Object guide, Object xy, Object window, bool align_corners,
                  bool batched) {
  Sampling at{};
  at.guide = call.input(guide, batched, 3);
  at.xy = call.input(xy, batched, 4);
  at.align_corners = align_corners;
  at.full_height = pixels.shape[1];
  at.full_width = pixels.shape[2];
  if (!window.is_none()) {
    using Window = std::tuple<int64_t, int64_t, int64_t, int64_t>;
    std::tie(at.top, at.left, at.full_height, at.full_width) = window.cast<Window>();
  }
  return at;
}

template <class Call>
GuideParameters guide_parameters(Call& call, const std::string& kind, const py::tuple& values) {
  GuideParameters p{};
  p.kind = kind == "curves" ? GuideKind::curves : kind == "nn" ? GuideKind::nn : GuideKind::luma;
  const size_t expected = p.kind == GuideKind::curves ? 6 : p.kind == GuideKind::nn ? 4 : 0;
  if (values.size() != expected) throw std::invalid_argument("bilateral_ops: wrong number of guide parameters");
  for (size_t i = 0; i < expected; ++i) {
    if (values[i].is_none()) throw std::invalid_argument("bilateral_ops: a guide parameter is missing");
    p.value[i] = call.input(values[i], true, call.rank(values[i]));
  }
  return p;
}

template <class Call, class... Extra>
void define_operations(py::module_& m) {
  using Table = typename Call::Table;

  m.def("slice_forward",
        [](Object out, Object grid, Object guide, Object xy, Object window, bool align_corners, Extra... extra) {
          Call call("slice", extra...);
          const bool batched = call.rank(guide) == 3;
          SliceArgs a{};
          a.out = call.output(out, batched, 5);
          a.grid = call.input(grid, batched, 6);
          a.at = sampling(call, a.out, guide, xy, window, align_corners, batched);
          call.run(&Table::slice_forward, a);
        });

  m.def("slice_backward", [](Object d_grid, Object d_guide, Object d_xy, Object grid, Object guide, Object xy,
                             Object grad, Object window, bool align_corners, Extra... extra) {
    Call call("slice_vjp", extra...);
    const bool batched = call.rank(guide) == 3;
    SliceGradArgs a{};
    a.d_grid = call.output(d_grid, batched, 6);
    a.d_guide = call.output(d_guide, batched, 3);
    a.d_xy = call.output(d_xy, batched, 4);
    a.grid = call.input(grid, batched, 6);
    a.grad = call.input(grad, batched, 5);
    a.at = sampling(call, a.grad, guide, xy, window, align_corners, batched);
    if (!a.grid.data && (a.d_guide.data || a.d_xy.data)) {
      throw std::invalid_argument("bilateral_ops: slopes need the grid");
    }
    if (a.d_grid.data || a.d_guide.data || a.d_xy.data) call.run(&Table::slice_backward, a);
  });

  m.def("apply_forward", [](Object out, Object coefficients, Object image, Extra... extra) {
    Call call("apply", extra...);
    const bool batched = call.rank(image) == 4;
    ApplyArgs a{};
    a.out = call.output(out, batched, 4);
    a.coefficients = call.input(coefficients, batched, 5);
    a.image = call.input(image, batched, 4);
    call.run(&Table::apply_forward, a);
  });

  m.def("apply_backward",
        [](Object d_coefficients, Object d_image, Object coefficients, Object image, Object grad, Extra... extra) {
          Call call("apply_vjp", extra...);
          const bool batched = call.rank(image) == 4;
          ApplyGradArgs a{};
          a.d_coefficients = call.output(d_coefficients, batched, 5);
          a.d_image = call.output(d_image, batched, 4);
          a.coefficients = call.input(coefficients, batched, 5);
          a.image = call.input(image, batched, 4);
          a.grad = call.input(grad, batched, 4);
          call.run(&Table::apply_backward, a);
        });

  m.def("slice_apply_forward", [](Object out, Object grid, Object guide, Object image, Object xy, Object window,
                                  bool align_corners, Extra... extra) {
    Call call("slice_apply", extra...);
    const bool batched = call.rank(guide) == 3;
    SliceApplyArgs a{};
    a.out = call.output(out, batched, 4);
    a.grid = call.input(grid, batched, 6);
    a.image = call.input(image, batched, 4);
    a.at = sampling(call, a.out, guide, xy, window, align_corners, batched);
    call.run(&Table::slice_apply_forward, a);
  });

  m.def("slice_apply_backward",
        [](Object d_grid, Object d_guide, Object d_image, Object d_xy, Object grid, Object guide, Object image,
           Object xy, Object grad, Object window, bool align_corners, Extra... extra) {
          Call call("slice_apply_vjp", extra...);
          const bool batched = call.rank(guide) == 3;
          SliceApplyGradArgs a{};
          a.d_grid = call.output(d_grid, batched, 6);
          a.d_guide = call.output(d_guide, batched, 3);
          a.d_image = call.output(d_image, batched, 4);
          a.d_xy = call.output(d_xy, batched, 4);
          a.grid = call.input(grid, batched, 6);
          a.image = call.input(image, batched, 4);
          a.grad = call.input(grad, batched, 4);
          a.at = sampling(call, a.grad, guide, xy, window, align_corners, batched);
          if (a.d_grid.data || a.d_guide.data || a.d_image.data || a.d_xy.data)
            call.run(&Table::slice_apply_backward, a);
        });

  m.def("guide_forward",
        [](Object out, Object image, const std::string& kind, const py::tuple& parameters, Extra... extra) {
          Call call(("guide_" + kind).c_str(), extra...);
          const bool batched = call.rank(image) == 4;
          GuideArgs a{};
          a.out = call.output(out, batched, 3);
          a.image = call.input(image, batched, 4);
          a.parameters = guide_parameters(call, kind, parameters);
          call.run(&Table::guide_forward, a);
        });

  m.def("guide_backward", [](Object d_image, const py::tuple& d_parameters, Object image, const std::string& kind,
                             const py::tuple& parameters, Object grad, Extra... extra) {
    Call call(("guide_" + kind + "_vjp").c_str(), extra...);
    const bool batched = call.rank(image) == 4;
    GuideGradArgs a{};
    a.d_image = call.output(d_image, batched, 4);
    a.image = call.input(image, batched, 4);
    a.grad = call.input(grad, batched, 3);
    a.parameters = guide_parameters(call, kind, parameters);
    if (d_parameters.size() != parameters.size()) {
      throw std::invalid_argument("bilateral_ops: wrong number of gradients");
    }
    for (size_t i = 0; i < d_parameters.size(); ++i) {
      const py::object d = d_parameters[i];
      if (!d.is_none()) a.d_value[i] = call.output(d, true, call.rank(d));
    }
    call.run(&Table::guide_backward, a);
  });

  m.def("enhance_forward", [](Object out, Object grid, Object image, const std::string& kind,
                              const py::tuple& parameters, Object window, bool align_corners, Extra... extra) {
    Call call("enhance", extra...);
    const bool batched = call.rank(image) == 4;
    EnhanceArgs a{};
    a.out = call.output(out, batched, 4);
    a.grid = call.input(grid, batched, 6);
    a.image = call.input(image, batched, 4);
    a.guide = guide_parameters(call, kind, parameters);
    a.at = sampling(call, a.out, py::none(), py::none(), window, align_corners, batched);
    call.run(&Table::enhance_forward, a);
  });

  m.def("total_variation_forward", [](Object out, Object grid, Extra... extra) {
    Call call("total_variation", extra...);
    TotalVariationArgs a{};
    a.out = call.output(out, true, 1);
    a.grid = call.input(grid, true, 6);
    call.run(&Table::total_variation_forward, a);
  });

  m.def("total_variation_backward", [](Object d_grid, Object grid, Object grad, Extra... extra) {
    Call call("total_variation_vjp", extra...);
    TotalVariationGradArgs a{};
    a.d_grid = call.output(d_grid, true, 6);
    a.grid = call.input(grid, true, 6);
    a.grad = call.input(grad, true, 1);
    if (a.d_grid.data) call.run(&Table::total_variation_backward, a);
  });
}

}  // namespace bilateral_ops
