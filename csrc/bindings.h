// The Python bindings of all kernels, written once for the modules _cpu (bindings.cpp, NumPy arrays) and _cuda
// (cuda/bindings.cpp, DLPack arrays).
//
// A Call (calls.h) is constructed from the kernel's name and the module's additional arguments (Extra), which come
// after the kernel's own. Its arrays are Python objects; None is an absent array.
#pragma once

#include <pybind11/pybind11.h>

#if defined(__GLIBCXX__) && !defined(_WIN32)
#define BO_UNWINDS_THREADS
// When a thread is cancelled, the reference that its catch clause binds is null, which UndefinedBehaviorSanitizer
// reports.
#define BO_CATCHES_NOTHING __attribute__((no_sanitize("null")))
#include <cxxabi.h>
#include <unistd.h>
#else
#define BO_CATCHES_NOTHING
#endif

#include <string>
#include <tuple>
#include <vector>

#include "calls.h"

namespace bilateral_ops {

namespace py = pybind11;
using Object = const py::object&;

// Up to Python 3.13, a daemon thread that acquires the GIL while the interpreter exits is ended by unwinding its stack,
// which would release arrays without the GIL. Such a thread waits for the process to end instead, as Python 3.14 does.
template <class F>
BO_CATCHES_NOTHING void or_wait_for_exit(F&& f) {
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

// Calls f with the GIL released. f may acquire it.
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
  std::tie(w.top, w.left, w.full_height, w.full_width, w.pixel_corners) =
      window.cast<std::tuple<int64_t, int64_t, int64_t, int64_t, bool>>();
  return w;
}

// A parameter of a function of calls.h, converted from a Python argument; it lives as long as the call.
template <class P>
struct FromPython {  // a bool
  using Given = P;
  const P value;
};
template <>
struct FromPython<Window> {
  using Given = Object;
  explicit FromPython(Object given) : value(window_of(given)) {}
  const Window value;
};
template <template <class> class Array, class Call>
struct FromPython<Array<Call>> {  // In, InIndex or Out
  using Given = Object;
  const Array<Call> value;
};

// Values: the parameters of a guide, or their gradients, given as (kind, arrays)
template <class Values>
class GuideFromPython {
 public:
  using Given = Object;
  explicit GuideFromPython(Object given) {
    const auto pair = given.cast<std::pair<std::string, py::tuple>>();
    for (const auto& array : pair.second) arrays_.push_back(py::reinterpret_borrow<py::object>(array));
    value.kind = guide_kind(pair.first);
    value.count = static_cast<int>(arrays_.size());
    value.arrays = arrays_.data();
  }
  Values value{};

 private:
  std::vector<py::object> arrays_;
};
template <class Call>
struct FromPython<Parameters<Call>> : GuideFromPython<Parameters<Call>> {
  using GuideFromPython<Parameters<Call>>::GuideFromPython;
};
template <class Call>
struct FromPython<OutParameters<Call>> : GuideFromPython<OutParameters<Call>> {
  using GuideFromPython<OutParameters<Call>>::GuideFromPython;
};

template <class Call, class... Extra, class... P>
void define(py::module_& m, const char* kernel, void (*function)(Call&, P...)) {
  m.def(kernel, [=](typename FromPython<std::decay_t<P>>::Given... given, Extra... extra) {
    Call call(kernel, extra...);
    function(call, FromPython<std::decay_t<P>>{given}.value...);
  });
}
template <class Call, class... Extra>
void define_kernels(py::module_& m) {
#define BO_DEFINE(kernel, Args) define<Call, Extra...>(m, #kernel, &kernel<Call>);
  BO_KERNELS(BO_DEFINE)
#undef BO_DEFINE
}

// XLA's handlers for Python: a dict from the name of the kernel to a capsule.
template <class Handlers>
void define_handlers(py::module_& m, const Handlers& handlers) {
  py::dict capsules;
  for (const auto& handler : handlers) {
    capsules[handler.name] = py::capsule(reinterpret_cast<void*>(handler.function), "xla._CUSTOM_CALL_TARGET");
  }
  m.attr("xla_handlers") = capsules;
}

}  // namespace bilateral_ops
