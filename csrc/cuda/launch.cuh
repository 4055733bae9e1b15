// The only file that launches: everything of the CUDA runtime that kernels need.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include <stdexcept>
#include <string>

#include "../formulas.h"
#include "device.h"

#define BO_DEVICE static __device__ __forceinline__
// Shared memory whose size the launch says, as an array of bytes.
#if !defined(BO_DYNAMIC_SHARED)
#define BO_DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

namespace bilateral_ops {

// What every device gives a block without being asked.
constexpr size_t kSharedBytes = 48 << 10;
constexpr int64_t kMostBlocks = 0x7fffffff;  // in a grid's first dimension

// Throws what an error means for the caller.
[[noreturn]] void fail(const char* operation, cudaError_t error);

// Puts a kernel on the stream. Blocks that share the work among them however many they are may be fewer than asked for.
template <class... Parameters>
void launch(Launch& to, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
            std::common_type_t<Parameters>... arguments) {
  if (blocks <= 0) return;
  void* pointers[] = {&arguments...};
  const cudaError_t error =
      cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
                       dim3(static_cast<unsigned>(threads)), pointers, shared, static_cast<cudaStream_t>(to.stream));
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the caller's next call would see it too
    fail(to.operation, error);
  }
}

template <class T>
T* workspace(Launch& to, int64_t count) {
  return static_cast<T*>(to.allocate(to.allocator, static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace bilateral_ops
