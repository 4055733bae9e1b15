// Every kernel's binding, written once, for the modules _cpu (bindings.cpp: NumPy's arrays) and _cuda
// (cuda/bindings.cpp: whatever speaks DLPack).
//
// A Call (calls.h) is made from the kernel's name and what its module's functions take after the others (Extra). Its
// arrays are Python's; None is absent.
#pragma once

#include <pybind11/pybind11.h>

#if defined(__GLIBCXX__) && !defined(_WIN32)
#define BO_UNWINDS_THREADS
// A thread that is unwound catches a reference to nothing, which UndefinedBehaviorSanitizer takes for a mistake.
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

// Up to Python 3.13 a daemon's thread that asks for the GIL of an interpreter that exits is ended by unwinding its
// stack, which would let go of arrays without the GIL. It waits for the process to end instead, as from 3.14 on.
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

// A parameter of a function of calls.h, made from what Python gives for it; lives as long as the call.
template <class P>
class FromPython {  // a bool
 public:
  using Given = P;
  explicit FromPython(P given) : value(given) {}
  const P value;
};
template <>
class FromPython<Window> {
 public:
  using Given = Object;
  explicit FromPython(Object given) : value(window_of(given)) {}
  const Window value;
};
template <template <class> class Array, class Call>
class FromPython<Array<Call>> {  // In or Out
 public:
  using Given = Object;
  explicit FromPython(Object given) : value{given} {}
  const Array<Call> value;
};

// A guide's parameters, or their gradients, given as (kind, arrays)
class GuideFromPython {
 public:
  using Given = Object;

 protected:
  explicit GuideFromPython(Object given) {
    const auto pair = given.cast<std::pair<std::string, py::tuple>>();
    kind_ = guide_kind(pair.first);
    for (const auto& array : pair.second) arrays_.push_back(py::reinterpret_borrow<py::object>(array));
  }
  template <class Call>
  Parameters<Call> parameters() const {
    return {kind_, static_cast<int>(arrays_.size()), arrays_.data()};
  }

 private:
  GuideKind kind_;
  std::vector<py::object> arrays_;
};
template <class Call>
class FromPython<Parameters<Call>> : GuideFromPython {
 public:
  using GuideFromPython::Given;
  explicit FromPython(Object given) : GuideFromPython(given), value(parameters<Call>()) {}
  const Parameters<Call> value;
};
template <class Call>
class FromPython<OutParameters<Call>> : GuideFromPython {
 public:
  using GuideFromPython::Given;
  explicit FromPython(Object given) : GuideFromPython(given), value{parameters<Call>()} {}
  const OutParameters<Call> value;
};

template <class Call, class... Extra, class... P>
void define(py::module_& m, const char* kernel, void (*function)(Call&, P...)) {
  m.def(kernel, [=](typename FromPython<std::decay_t<P>>::Given... given, Extra... extra) {
    Call call(kernel, extra...);
    function(call, FromPython<std::decay_t<P>>(given).value...);
  });
}
template <class Call, class... Extra>
void define_kernels(py::module_& m) {
#define BO_DEFINE(kernel, Args) define<Call, Extra...>(m, #kernel, &kernel<Call>);
  BO_KERNELS(BO_DEFINE)
#undef BO_DEFINE
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
