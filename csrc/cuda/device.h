// The table of CUDA kernels, and the context that they take besides their Args. Includes no header of CUDA.
#pragma once

#include <stddef.h>

#include "../ops.h"

namespace bilateral_ops {

struct Launch {
  const char* operation;  // for error sentences
  void* stream;           // a cudaStream_t
  // Allocates device memory, aligned to 256 bytes, that lives until the work that is then put on the stream is done.
  void* (*allocate)(void* allocator, size_t bytes);
  void* allocator;
};

using CudaKernels = KernelTable<Launch&>;
const CudaKernels& cuda_kernels();

// Makes a device current for its own lifetime. Throws if there is no driver or no such device.
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
