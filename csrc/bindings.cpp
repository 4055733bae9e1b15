// The only file that includes pybind11: NumPy arrays to Tensors, the GIL released, a kernel called.
//
// Nothing is checked here but what memory safety needs: src/bilateral_ops/_signature.py has refused every shape and
// dtype that does not fit before a call comes this far.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "compiler.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace py = pybind11;
namespace bo = bilateral_ops;

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
  throw py::type_error("_core: unsupported dtype " + std::string(py::str(static_cast<const py::object&>(dtype))));
}

// An array as a tensor of `rank` axes: a batch axis before it where the call has none, channel axes of one element
// after it. None becomes a tensor without data.
bo::Tensor view(const py::object& object, bool batched, int rank) {
  bo::Tensor t{};
  if (object.is_none()) return t;
  if (!py::isinstance<py::array>(object)) throw py::type_error("_core: expected a NumPy array");
  const py::array array = py::reinterpret_borrow<py::array>(object);
  const int given = static_cast<int>(array.ndim()), lead = batched ? 0 : 1;
  if (rank > bo::kMaxRank || given + lead > rank) throw std::invalid_argument("_core: too many axes");
  t.data = static_cast<char*>(const_cast<void*>(array.data()));
  t.dtype = dtype_of(array);
  t.rank = rank;
  for (int axis = 0; axis < rank; ++axis) {
    const int from = axis - lead;
    const bool there = from >= 0 && from < given;
    t.shape[axis] = there ? array.shape(from) : 1;
    t.strides[axis] = there ? array.strides(from) : 0;
  }
  return t;
}
int rank_of(const py::object& object) { return static_cast<int>(py::reinterpret_borrow<py::array>(object).ndim()); }

// A parameter array, as it is.
bo::Tensor view(const py::object& object) {
  return object.is_none() ? bo::Tensor{} : view(object, true, rank_of(object));
}

using Window = std::tuple<int64_t, int64_t, int64_t, int64_t>;

bo::Sampling sampling(const bo::Tensor& pixels, const py::object& guide, const py::object& xy, const py::object& window,
                      bool align_corners, bool batched) {
  bo::Sampling at{};
  at.guide = view(guide, batched, 3);
  at.xy = view(xy, batched, 4);
  at.align_corners = align_corners;
  at.full_height = pixels.shape[1];
  at.full_width = pixels.shape[2];
  if (!window.is_none()) std::tie(at.top, at.left, at.full_height, at.full_width) = window.cast<Window>();
  return at;
}

bo::GuideParameters guide_parameters(const std::string& kind, const py::tuple& values) {
  bo::GuideParameters p{};
  p.kind = kind == "curves" ? bo::GuideKind::curves : kind == "nn" ? bo::GuideKind::nn : bo::GuideKind::luma;
  const size_t expected = p.kind == bo::GuideKind::curves ? 6 : p.kind == bo::GuideKind::nn ? 4 : 0;
  if (values.size() != expected) throw std::invalid_argument("_core: wrong number of guide parameters");
  for (size_t i = 0; i < expected; ++i) {
    if (values[i].is_none()) throw std::invalid_argument("_core: a guide parameter is missing");
    p.value[i] = view(values[i]);
  }
  return p;
}

template <class Args>
void run(void (*bo::Kernels::*kernel)(const Args&), const Args& args) {
  const bo::Kernels& kernels = bo::kernels();
  py::gil_scoped_release release;
  (kernels.*kernel)(args);
}

using Object = const py::object&;

void slice_forward(Object out, Object grid, Object guide, Object xy, Object window, bool align_corners) {
  const bool batched = rank_of(guide) == 3;
  bo::SliceArgs a{};
  a.out = view(out, batched, 5);
  a.grid = view(grid, batched, 6);
  a.at = sampling(a.out, guide, xy, window, align_corners, batched);
  run(&bo::Kernels::slice_forward, a);
}

void slice_backward(Object d_grid, Object d_guide, Object d_xy, Object grid, Object guide, Object xy, Object grad,
                    Object window, bool align_corners) {
  const bool batched = rank_of(guide) == 3;
  bo::SliceGradArgs a{};
  a.d_grid = view(d_grid, batched, 6);
  a.d_guide = view(d_guide, batched, 3);
  a.d_xy = view(d_xy, batched, 4);
  a.grid = view(grid, batched, 6);
  a.grad = view(grad, batched, 5);
  a.at = sampling(a.grad, guide, xy, window, align_corners, batched);
  if (!a.grid.data && (a.d_guide.data || a.d_xy.data)) throw std::invalid_argument("_core: slopes need the grid");
  if (a.d_grid.data || a.d_guide.data || a.d_xy.data) run(&bo::Kernels::slice_backward, a);
}

void apply_forward(Object out, Object coefficients, Object image) {
  const bool batched = rank_of(image) == 4;
  bo::ApplyArgs a{};
  a.out = view(out, batched, 4);
  a.coefficients = view(coefficients, batched, 5);
  a.image = view(image, batched, 4);
  run(&bo::Kernels::apply_forward, a);
}

void apply_backward(Object d_coefficients, Object d_image, Object coefficients, Object image, Object grad) {
  const bool batched = rank_of(image) == 4;
  bo::ApplyGradArgs a{};
  a.d_coefficients = view(d_coefficients, batched, 5);
  a.d_image = view(d_image, batched, 4);
  a.coefficients = view(coefficients, batched, 5);
  a.image = view(image, batched, 4);
  a.grad = view(grad, batched, 4);
  run(&bo::Kernels::apply_backward, a);
}

void slice_apply_forward(Object out, Object grid, Object guide, Object image, Object xy, Object window,
                         bool align_corners) {
  const bool batched = rank_of(guide) == 3;
  bo::SliceApplyArgs a{};
  a.out = view(out, batched, 4);
  a.grid = view(grid, batched, 6);
  a.image = view(image, batched, 4);
  a.at = sampling(a.out, guide, xy, window, align_corners, batched);
  run(&bo::Kernels::slice_apply_forward, a);
}

void slice_apply_backward(Object d_grid, Object d_guide, Object d_image, Object d_xy, Object grid, Object guide,
                          Object image, Object xy, Object grad, Object window, bool align_corners) {
  const bool batched = rank_of(guide) == 3;
  bo::SliceApplyGradArgs a{};
  a.d_grid = view(d_grid, batched, 6);
  a.d_guide = view(d_guide, batched, 3);
  a.d_image = view(d_image, batched, 4);
  a.d_xy = view(d_xy, batched, 4);
  a.grid = view(grid, batched, 6);
  a.image = view(image, batched, 4);
  a.grad = view(grad, batched, 4);
  a.at = sampling(a.grad, guide, xy, window, align_corners, batched);
  if (a.d_grid.data || a.d_guide.data || a.d_image.data || a.d_xy.data) run(&bo::Kernels::slice_apply_backward, a);
}

void guide_forward(Object out, Object image, const std::string& kind, const py::tuple& parameters) {
  const bool batched = rank_of(image) == 4;
  bo::GuideArgs a{};
  a.out = view(out, batched, 3);
  a.image = view(image, batched, 4);
  a.parameters = guide_parameters(kind, parameters);
  run(&bo::Kernels::guide_forward, a);
}

void guide_backward(Object d_image, const py::tuple& d_parameters, Object image, const std::string& kind,
                    const py::tuple& parameters, Object grad) {
  const bool batched = rank_of(image) == 4;
  bo::GuideGradArgs a{};
  a.d_image = view(d_image, batched, 4);
  a.image = view(image, batched, 4);
  a.grad = view(grad, batched, 3);
  a.parameters = guide_parameters(kind, parameters);
  if (d_parameters.size() != parameters.size()) throw std::invalid_argument("_core: wrong number of gradients");
  for (size_t i = 0; i < d_parameters.size(); ++i) a.d_value[i] = view(d_parameters[i]);
  run(&bo::Kernels::guide_backward, a);
}

void enhance_forward(Object out, Object grid, Object image, const std::string& kind, const py::tuple& parameters,
                     Object window, bool align_corners) {
  const bool batched = rank_of(image) == 4;
  bo::EnhanceArgs a{};
  a.out = view(out, batched, 4);
  a.grid = view(grid, batched, 6);
  a.image = view(image, batched, 4);
  a.guide = guide_parameters(kind, parameters);
  a.at = sampling(a.out, py::none(), py::none(), window, align_corners, batched);
  run(&bo::Kernels::enhance_forward, a);
}

void total_variation_forward(Object out, Object grid) {
  bo::TotalVariationArgs a{};
  a.out = view(out, true, 1);
  a.grid = view(grid, true, 6);
  run(&bo::Kernels::total_variation_forward, a);
}

void total_variation_backward(Object d_grid, Object grid, Object grad) {
  bo::TotalVariationGradArgs a{};
  a.d_grid = view(d_grid, true, 6);
  a.grid = view(grid, true, 6);
  a.grad = view(grad, true, 1);
  if (a.d_grid.data) run(&bo::Kernels::total_variation_backward, a);
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of bilateral_ops; its functions trust their arguments.";
  m.attr("__version__") = BO_VERSION;
  m.attr("compiler") = BO_COMPILER;
  m.def("num_threads", &bo::num_threads);
  m.def("set_num_threads", &bo::set_num_threads);
  m.def("isa", [] { return bo::kernels().isa; });
  m.def("available_isas", [] {
    py::list names;
    for (const char* const* name = bo::available_isas(); *name; ++name) names.append(*name);
    return py::tuple(names);
  });
  m.def("select_isa", [](const std::string& name) { return bo::select_isa(name.c_str()); });

  m.def("slice_forward", &slice_forward);
  m.def("slice_backward", &slice_backward);
  m.def("apply_forward", &apply_forward);
  m.def("apply_backward", &apply_backward);
  m.def("slice_apply_forward", &slice_apply_forward);
  m.def("slice_apply_backward", &slice_apply_backward);
  m.def("guide_forward", &guide_forward);
  m.def("guide_backward", &guide_backward);
  m.def("enhance_forward", &enhance_forward);
  m.def("total_variation_forward", &total_variation_forward);
  m.def("total_variation_backward", &total_variation_backward);

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
