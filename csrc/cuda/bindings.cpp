// The module _cuda: arrays on a CUDA device, exported by DLPack, to Tensors; the kernels launched on a stream.
//
// Each function takes the arguments of the function of that name in _cpu, then the stream (the address of a
// cudaStream_t, 0 for the default one; the current one of the arrays' framework) and allocate(bytes), which returns an
// array of at least that many bytes on the same device. Nothing synchronizes with the device.
#include "../bindings.h"

#include <cstring>
#include <vector>

#include "../compiler.h"
#include "../xla.h"
#include "device.h"

namespace bo = bilateral_ops;
namespace py = pybind11;

namespace bilateral_ops {
const char* cuda_compiler();
const char* cuda_architectures();
int cuda_device_count(const char* operation);
}  // namespace bilateral_ops

namespace {

// The parts of DLPack 1.x that are needed here. Its layouts never change.
struct DLDevice {
  int32_t type, id;
};
struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: dense, row-major
  uint64_t byte_offset;
};
struct DLManagedTensor {  // of a capsule "dltensor"
  DLTensor tensor;
  void* manager;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {  // of a capsule "dltensor_versioned"
  uint32_t major, minor;
  void* manager;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};
constexpr int32_t kCuda = 2, kCudaManaged = 13;
constexpr uint64_t kReadOnly = 1;
constexpr int kUInt = 1, kFloat = 2, kBFloat = 4;

struct Loan {
  py::object capsule;  // owns the loan
  const DLTensor* tensor;
  bool read_only;
};

Loan borrow(bo::Object object) {
  // Kernels are launched on the stream that is current to the array's framework, and so come after the array's work: by
  // −1 the framework is told that there is nothing to wait for, which spares an event per array.
  const py::int_ consumer(-1);
  const py::tuple version = py::make_tuple(1, 0);
  Loan loan;
  const py::object lend = object.attr("__dlpack__");
  try {
    loan.capsule = lend(py::arg("stream") = consumer, py::arg("max_version") = version);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    loan.capsule = lend(py::arg("stream") = consumer);  // an exporter older than DLPack 1.0
  }
  PyObject* const capsule = loan.capsule.ptr();
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    const auto* managed =
        static_cast<const DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    if (managed->major != 1) throw py::buffer_error("_cuda: an array of an unknown version of DLPack");
    loan.tensor = &managed->tensor;
    loan.read_only = managed->flags & kReadOnly;
  } else if (PyCapsule_IsValid(capsule, "dltensor")) {
    loan.tensor = &static_cast<const DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"))->tensor;
    loan.read_only = false;
  } else {
    throw py::type_error("_cuda: __dlpack__ returned no DLPack capsule");
  }
  return loan;
}

bo::DType dtype_of(const DLDataType& type) {
  if (type.lanes == 1) {
    if (type.code == kFloat && type.bits == 16) return bo::DType::f16;
    if (type.code == kFloat && type.bits == 32) return bo::DType::f32;
    if (type.code == kFloat && type.bits == 64) return bo::DType::f64;
    if (type.code == kBFloat && type.bits == 16) return bo::DType::bf16;
    if (type.code == kUInt && type.bits == 8) return bo::DType::u8;
    if (type.code == kUInt && type.bits == 16) return bo::DType::u16;
  }
  throw py::type_error("_cuda: unsupported dtype, DLPack's code " + std::to_string(type.code) + " of " +
                       std::to_string(type.bits) + " bits");
}

class DeviceCall {
 public:
  using Table = bo::CudaKernels;
  using Array = py::object;
  DeviceCall(const char* operation, int64_t stream, const py::object& allocate)
      : operation_(operation), stream_(stream), allocate_(allocate) {
    loans_.reserve(16);
  }

  bool given(bo::Object object) const { return !object.is_none(); }
  int rank(bo::Object object) const { return object.attr("ndim").cast<int>(); }
  bo::Tensor input(bo::Object object, bool batched, int rank) { return tensor(object, batched, rank, false); }
  bo::Tensor output(bo::Object object, bool batched, int rank) { return tensor(object, batched, rank, true); }
  bo::GridIndex index(bo::Object object, bool batched) {
    DLDataType type{};
    const bo::Tensor t = view(object, batched, 3, false, type);
    return bo::grid_index(t, type.bits == 64);
  }

  template <class Args>
  void run(void (*Table::*kernel)(const Args&, bo::Launch&), const Args& args) {
    bo::Launch launch{operation_.c_str(), reinterpret_cast<void*>(stream_), &DeviceCall::allocate, this};
    const Table& kernels = bo::cuda_kernels();
    bo::without_gil([&] {
      const bo::CurrentDevice device(launch.operation, device_);
      bo::run_kernel(kernels, kernel, args, launch);
    });
  }

 private:
  bo::Tensor tensor(bo::Object object, bool batched, int rank, bool written) {
    DLDataType type{};
    bo::Tensor t = view(object, batched, rank, written, type);
    if (t.data) t.dtype = dtype_of(type);
    return t;
  }
  bo::Tensor view(bo::Object object, bool batched, int rank, bool written, DLDataType& type) {
    bo::Tensor t{};
    if (object.is_none()) return t;
    const DLTensor& array = lend(object, written);
    type = array.dtype;
    const int64_t size = array.dtype.bits / 8;
    bo::set_axes(
        t, array.ndim, batched, rank, [&](int axis) { return array.shape[axis]; },
        [&](int axis) {
          int64_t stride = size;
          for (int after = axis + 1; !array.strides && after < array.ndim; ++after) stride *= array.shape[after];
          return array.strides ? array.strides[axis] * size : stride;
        });
    t.data = static_cast<char*>(array.data) + array.byte_offset;
    // An empty array may have a null address, but is not absent.
    static char somewhere;
    if (!t.data) t.data = &somewhere;
    return t;
  }
  const DLTensor& lend(bo::Object object, bool written) {
    loans_.push_back(borrow(object));
    const Loan& loan = loans_.back();
    const DLDevice device = loan.tensor->device;
    if (device.type != kCuda && device.type != kCudaManaged) {
      throw py::type_error("_cuda: expected an array on a CUDA device");
    }
    if (device_ >= 0 && device_ != device.id) throw std::invalid_argument("_cuda: arrays on different devices");
    device_ = device.id;
    if (written && loan.read_only) throw std::invalid_argument("_cuda: an output is read-only");
    return *loan.tensor;
  }
  static void* allocate(void* self, size_t bytes) {
    auto* const call = static_cast<DeviceCall*>(self);
    py::gil_scoped_acquire acquire;
    // The array is released at the end of the call; allocators keep its memory for work on this stream until that is
    // done.
    const DLTensor& array = call->lend(call->allocate_(bytes), true);
    return static_cast<char*>(array.data) + array.byte_offset;
  }

  const std::string operation_;
  const int64_t stream_;
  const py::object allocate_;
  std::vector<Loan> loans_;
  int device_ = -1;
};

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled CUDA kernels of bilateral_ops; its functions trust their arguments.";
  m.attr("__version__") = BO_VERSION;
  m.attr("compiler") = bo::cuda_compiler();
  m.attr("architectures") = bo::cuda_architectures();
  m.def("device_count", [] { return bo::cuda_device_count("device_count"); });
  bo::define_kernels<DeviceCall, int64_t, const py::object&>(m);
  bo::define_handlers(m, bo::xla::cuda_handlers());
}
