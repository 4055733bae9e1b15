// XLA's handlers on CUDA devices: they launch on XLA's stream, whose device XLA has made current, with workspace that
// XLA allocates in stream order. Nothing synchronizes with the device.
#include "../xla.h"

#include "device.h"

namespace bilateral_ops {
namespace xla {
namespace {

constexpr size_t kGiven = 16, kWanted = 256;  // alignment of XLA's allocations, and of a workspace

class Device {
 public:
  using Table = CudaKernels;
  explicit Device(Frame* frame) : frame_(frame) {}
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  // Freed in stream order: the memory is reused only by work that is put on the stream later.
  ~Device() {
    for (const Memory& memory : memories_) {
      FreeArgs args{sizeof(FreeArgs), nullptr, frame_->context, memory.size, memory.data};
      discard(frame_->api->free(&args));
    }
  }

  template <class Args>
  void run(void (*Table::*kernel)(const Args&, Launch&), const Args& args, const char* operation) {
    StreamArgs stream{sizeof(StreamArgs), nullptr, frame_->context, nullptr};
    if (Error* error = frame_->api->stream(&stream)) {
      discard(error);
      throw std::runtime_error(std::string(operation) + ": XLA has no stream of a CUDA device.");
    }
    operation_ = operation;
    Launch launch{operation, stream.stream, &Device::allocate, this};
    run_kernel(cuda_kernels(), kernel, args, launch);
  }

 private:
  struct Memory {
    void* data;
    size_t size;
  };
  static void* allocate(void* self, size_t bytes) {
    auto& device = *static_cast<Device*>(self);
    const size_t size = bytes + kWanted - kGiven;
    device.memories_.reserve(device.memories_.size() + 1);
    AllocateArgs args{sizeof(AllocateArgs), nullptr, device.frame_->context, size, kGiven, nullptr};
    if (Error* error = device.frame_->api->allocate(&args)) {
      device.discard(error);
      throw std::runtime_error(std::string(device.operation_) + ": there must be memory for a workspace of " +
                               std::to_string(size) + " bytes on the device, got none.");
    }
    device.memories_.push_back({args.data, size});
    const auto address = reinterpret_cast<uintptr_t>(args.data);
    return reinterpret_cast<void*>((address + kWanted - 1) / kWanted * kWanted);
  }
  void discard(Error* error) const {
    if (!error) return;
    ErrorDestroyArgs args{sizeof(ErrorDestroyArgs), nullptr, error};
    frame_->api->error_destroy(&args);
  }

  Frame* const frame_;
  const char* operation_ = "";
  std::vector<Memory> memories_;
};

}  // namespace

const std::vector<Handler>& cuda_handlers() { return handlers_of<Device>(); }

}  // namespace xla
}  // namespace bilateral_ops
