// Kernel launches: the only file with calls of the CUDA runtime that operations need.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include <stdexcept>
#include <string>

#include "../formulas.h"
#include "device.h"

#define BO_DEVICE static __device__ __forceinline__
// Dynamic shared memory, whose size is a launch parameter, as an array of bytes
#if !defined(BO_DYNAMIC_SHARED)
#define BO_DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

namespace bilateral_ops {

// Shared memory that a thread block may have on every device without opting in
constexpr size_t kSharedBytes = 48 << 10;
constexpr int64_t kMostBlocks = 0x7fffffff;  // thread blocks in the first dimension of a launch

// Throws where there is an error, with what it means for the caller, whose next call then does not find it again.
void check(const char* operation, cudaError_t error);

// Launches a kernel on the stream, with `blocks` thread blocks or, where there are more than a launch may have, fewer:
// every kernel goes through its work with a stride of gridDim.x.
template <class... Parameters>
void launch(Launch& to, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
            std::common_type_t<Parameters>... arguments) {
  if (blocks <= 0) return;
  void* pointers[] = {&arguments...};
  check(to.operation,
        cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
                         dim3(static_cast<unsigned>(threads)), pointers, shared, static_cast<cudaStream_t>(to.stream)));
}

// `count` elements of device memory that live until the work on the stream is done
template <class T>
T* workspace(Launch& to, int64_t count) {
  return static_cast<T*>(to.allocate(to.allocator, static_cast<size_t>(count) * sizeof(T)));
}

// Zeroes device memory.
inline void fill_zero(Launch& to, void* data, int64_t bytes) {
  if (bytes == 0) return;
  check(to.operation, cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), static_cast<cudaStream_t>(to.stream)));
}

}  // namespace bilateral_ops
