// The module _cpu: NumPy arrays to Tensors, the GIL released, a kernel of this processor called.
#include "bindings.h"

#include <pybind11/numpy.h>

#include "compiler.h"
#include "cpu/by_grid.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "xla.h"

namespace bo = bilateral_ops;
namespace py = pybind11;

namespace {

constexpr int kNumPyHalf = 23;  // NPY_HALF, which pybind11 does not name

bo::DType dtype_of(const py::array& array) {
  const py::dtype dtype = array.dtype();
  switch (dtype.num()) {
    case py::detail::npy_api::NPY_FLOAT_: return bo::DType::f32;
    case py::detail::npy_api::NPY_DOUBLE_: return bo::DType::f64;
    case py::detail::npy_api::NPY_UBYTE_: return bo::DType::u8;
    case py::detail::npy_api::NPY_USHORT_: return bo::DType::u16;
    case kNumPyHalf: return bo::DType::f16;
    default: break;
  }
  if (dtype.itemsize() == 2 && std::string(py::str(dtype.attr("name"))) == "bfloat16") return bo::DType::bf16;
  throw py::type_error("_cpu: unsupported dtype " + std::string(py::str(static_cast<const py::object&>(dtype))));
}

class HostCall {
 public:
  using Table = bo::Kernels;
  using Array = py::object;
  explicit HostCall(const char*) {}

  bool given(bo::Object object) const { return !object.is_none(); }
  int rank(bo::Object object) const { return static_cast<int>(py::reinterpret_borrow<py::array>(object).ndim()); }
  bo::Tensor input(bo::Object object, bool batched, int rank) const {
    bo::Tensor t = view(object, batched, rank);
    if (t.data) t.dtype = dtype_of(py::reinterpret_borrow<py::array>(object));
    return t;
  }
  bo::Tensor output(bo::Object object, bool batched, int rank) const { return input(object, batched, rank); }
  bo::GridIndex index(bo::Object object, bool batched) const {
    const bo::Tensor t = view(object, batched, 3);
    return bo::grid_index(t, t.data && py::reinterpret_borrow<py::array>(object).itemsize() == 8);
  }

  template <class Args>
  void run(void (*Table::*kernel)(const Args&), const Args& args) const {
    bo::without_gil([&] { bo::run_on_host(kernel, args); });
  }

 private:
  // Without the dtype
  static bo::Tensor view(bo::Object object, bool batched, int rank) {
    bo::Tensor t{};
    if (object.is_none()) return t;
    if (!py::isinstance<py::array>(object)) throw py::type_error("_cpu: expected a NumPy array");
    const py::array array = py::reinterpret_borrow<py::array>(object);
    t.data = static_cast<char*>(const_cast<void*>(array.data()));
    bo::set_axes(
        t, static_cast<int>(array.ndim()), batched, rank, [&](int axis) { return array.shape(axis); },
        [&](int axis) { return array.strides(axis); });
    return t;
  }
};

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of bilateral_ops; its functions trust their arguments.";
  m.attr("__version__") = BO_VERSION;
  m.attr("compiler") = BO_COMPILER;
  m.attr("cuda_missing") = BO_CUDA_MISSING;
  m.def("num_threads", &bo::num_threads);
  m.def("set_num_threads", &bo::set_num_threads);
  m.def("isa", [] { return bo::kernels().name; });
  m.def("available_isas", [] {
    py::list names;
    for (const char* const* name = bo::available_isas(); *name; ++name) names.append(*name);
    return py::tuple(names);
  });
  m.def("select_isa", [](const std::string& name) { return bo::select_isa(name.c_str()); });

  bo::define_kernels<HostCall>(m);
  bo::define_handlers(m, bo::xla::handlers());

#if defined(BO_SANITIZE)
  // What the sanitizers are shown before they are believed.
  m.def("planted_overflow", [](int64_t n) {
    float* memory = static_cast<float*>(bo::scratch_allocate(static_cast<size_t>(n) * sizeof(float), true));
    volatile float beyond = memory[n];
    (void)beyond;
    bo::scratch_free(memory);
  });
  m.def("planted_undefined", [](int n) {
    volatile int shift = n;
    volatile int result = 1 << shift;
    (void)result;
  });
#endif
}
