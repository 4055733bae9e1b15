// Every operation's binding, written once, for the modules _core (bindings.cpp: NumPy's arrays) and _cuda
// (cuda/bindings.cpp: whatever speaks DLPack).
//
// A Call (calls.h) is made from the operation's name and what its module's functions take after the others (Extra). Its
// arrays are Python's; None is absent.
#pragma once

#include <pybind11/pybind11.h>

#if defined(__GLIBCXX__) && !defined(_WIN32)
#define BO_UNWINDS_THREADS
#include <cxxabi.h>
#include <unistd.h>
#endif

#include <string>
#include <tuple>
#include <vector>

#include "calls.h"

namespace bilateral_ops {

namespace py = pybind11;
using Object = const py::object&;

// Up to Python 3.13 a daemon's thread that asks for the GIL of an interpreter that exits is ended by unwinding its
// stack, which would let go of arrays without the GIL. It waits for the process to end instead, as from 3.14 on.
template <class F>
void or_wait_for_exit(F&& f) {
#if defined(BO_UNWINDS_THREADS)
  try {
    f();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
#else
  f();
#endif
}

// Calls f, which may ask for the GIL, with the GIL released.
template <class F>
void without_gil(F&& f) {
  PyThreadState* const state = PyEval_SaveThread();
  const auto restore = [state] { PyEval_RestoreThread(state); };
  try {
    or_wait_for_exit(f);
  } catch (...) {
    or_wait_for_exit(restore);
    throw;
  }
  or_wait_for_exit(restore);
}

inline Window window_of(Object window) {
  Window w{};
  w.given = !window.is_none();
  if (w.given) {
    std::tie(w.top, w.left, w.full_height, w.full_width) =
        window.cast<std::tuple<int64_t, int64_t, int64_t, int64_t>>();
  }
  return w;
}

// Keeps what the Parameters that it becomes point to.
class PythonParameters {
 public:
  PythonParameters(const std::string& kind, const py::tuple& values)
      : kind_(kind == "curves" ? GuideKind::curves
              : kind == "nn"   ? GuideKind::nn
                               : GuideKind::luma) {
    for (const auto& value : values) values_.push_back(py::reinterpret_borrow<py::object>(value));
  }
  template <class Call>
  operator Parameters<Call>() const {
    return {kind_, static_cast<int>(values_.size()), values_.data()};
  }

 private:
  GuideKind kind_;
  std::vector<py::object> values_;
};

template <class Call, class... Extra>
void define_operations(py::module_& m) {
  m.def("slice_forward",
        [](Object out, Object grid, Object guide, Object xy, Object window, bool align_corners, Extra... extra) {
          Call call("slice", extra...);
          slice_forward(call, out, grid, guide, xy, window_of(window), align_corners);
        });

  m.def("slice_backward", [](Object d_grid, Object d_guide, Object d_xy, Object grid, Object guide, Object xy,
                             Object grad, Object window, bool align_corners, Extra... extra) {
    Call call("slice_vjp", extra...);
    slice_backward(call, d_grid, d_guide, d_xy, grid, guide, xy, grad, window_of(window), align_corners);
  });

  m.def("apply_forward", [](Object out, Object coefficients, Object image, Extra... extra) {
    Call call("apply", extra...);
    apply_forward(call, out, coefficients, image);
  });

  m.def("apply_backward",
        [](Object d_coefficients, Object d_image, Object coefficients, Object image, Object grad, Extra... extra) {
          Call call("apply_vjp", extra...);
          apply_backward(call, d_coefficients, d_image, coefficients, image, grad);
        });

  m.def("slice_apply_forward", [](Object out, Object grid, Object guide, Object image, Object xy, Object window,
                                  bool align_corners, Extra... extra) {
    Call call("slice_apply", extra...);
    slice_apply_forward(call, out, grid, guide, image, xy, window_of(window), align_corners);
  });

  m.def("slice_apply_backward",
        [](Object d_grid, Object d_guide, Object d_image, Object d_xy, Object grid, Object guide, Object image,
           Object xy, Object grad, Object window, bool align_corners, Extra... extra) {
          Call call("slice_apply_vjp", extra...);
          slice_apply_backward(call, d_grid, d_guide, d_image, d_xy, grid, guide, image, xy, grad, window_of(window),
                               align_corners);
        });

  m.def("guide_forward",
        [](Object out, Object image, const std::string& kind, const py::tuple& parameters, Extra... extra) {
          Call call(("guide_" + kind).c_str(), extra...);
          guide_forward<Call>(call, out, image, PythonParameters(kind, parameters));
        });

  m.def("guide_backward", [](Object d_image, const py::tuple& d_parameters, Object image, const std::string& kind,
                             const py::tuple& parameters, Object grad, Extra... extra) {
    Call call(("guide_" + kind + "_vjp").c_str(), extra...);
    guide_backward<Call>(call, d_image, PythonParameters(kind, d_parameters), image, PythonParameters(kind, parameters),
                         grad);
  });

  m.def("enhance_forward", [](Object out, Object grid, Object image, const std::string& kind,
                              const py::tuple& parameters, Object window, bool align_corners, Extra... extra) {
    Call call("enhance", extra...);
    enhance_forward<Call>(call, out, grid, image, PythonParameters(kind, parameters), window_of(window), align_corners);
  });

  m.def("total_variation_forward", [](Object out, Object grid, Extra... extra) {
    Call call("total_variation", extra...);
    total_variation_forward(call, out, grid);
  });

  m.def("total_variation_backward", [](Object d_grid, Object grid, Object grad, Extra... extra) {
    Call call("total_variation_vjp", extra...);
    total_variation_backward(call, d_grid, grid, grad);
  });

  m.def("resize_area_forward", [](Object out, Object image, Extra... extra) {
    Call call("resize_area", extra...);
    resize_area_forward(call, out, image);
  });

  m.def("resize_area_backward", [](Object d_image, Object grad, Extra... extra) {
    Call call("resize_area_vjp", extra...);
    resize_area_backward(call, d_image, grad);
  });
}

// XLA's handlers as Python takes them: a capsule each, by the name of the kernel.
template <class Handlers>
void define_handlers(py::module_& m, const Handlers& handlers) {
  py::dict capsules;
  for (const auto& handler : handlers) {
    capsules[handler.name] = py::capsule(reinterpret_cast<void*>(handler.function), "xla._CUSTOM_CALL_TARGET");
  }
  m.attr("xla_handlers") = capsules;
}

}  // namespace bilateral_ops
