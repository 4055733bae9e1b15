// What a call of a CUDA kernel takes besides its Args, and all CUDA kernels. No header of CUDA is needed to read this.
#pragma once

#include <stddef.h>

#include "../ops.h"

namespace bilateral_ops {

struct Launch {
  const char* operation;  // for error sentences
  void* stream;           // a cudaStream_t
  // `bytes` bytes on the device, aligned to 256, which live until what was put on the stream is done with them
  void* (*allocate)(void* allocator, size_t bytes);
  void* allocator;
};

using CudaKernels = KernelTable<Launch&>;
const CudaKernels& cuda_kernels();

// Makes a device the current one, and the one before again at the end. Throws where there is no driver or device.
class CurrentDevice {
 public:
  CurrentDevice(const char* operation, int device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_;
  bool changed_;
};

}  // namespace bilateral_ops
