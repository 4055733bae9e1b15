// The table of kernels, and the current device.
#include "kernels.cuh"
#include "launch.cuh"

namespace bilateral_ops {

const CudaKernels& cuda_kernels() {
#define BO_ENTRY(kernel, Args) , cuda::kernel
  static const CudaKernels table = {"cuda" BO_KERNELS(BO_ENTRY)};
#undef BO_ENTRY
  return table;
}

const char* cuda_compiler() {
  return "nvcc " BO_STRINGIZE(__CUDACC_VER_MAJOR__) "." BO_STRINGIZE(__CUDACC_VER_MINOR__) "." BO_STRINGIZE(
      __CUDACC_VER_BUILD__);
}

const char* cuda_architectures() { return BO_ARCHITECTURES; }

void check(const char* operation, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  std::string reason = std::string("CUDA says \"") + cudaGetErrorString(error) + "\" (error " +
                       std::to_string(static_cast<int>(error)) + ").";
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    const std::string capability = std::to_string(major) + "." + std::to_string(minor),
                      wanted = std::to_string(10 * major + minor);
    reason = "the kernels are built for " + std::string(cuda_architectures()) +
             ", which this device, of compute capability " + capability + ", cannot run" +
             (error == cudaErrorUnsupportedPtxVersion ? " with its driver, which is older than the compiler" : "") +
             "; build bilateral_ops from source with CUDAARCHS=" + wanted + " in the environment.";
  }
  throw std::runtime_error(std::string(operation) + ": " + reason);
}

int cuda_device_count(const char* operation) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    throw std::runtime_error(std::string(operation) + ": needs an NVIDIA driver for CUDA " +
                             std::to_string(CUDART_VERSION / 1000) +
                             ", and there is none or an older one; install or update it, or copy the arrays to the "
                             "host.");
  }
  check(operation, error);
  return count;
}

CurrentDevice::CurrentDevice(const char* operation, int device) : before_(0), changed_(false) {
  cuda_device_count(operation);
  cudaError_t error = cudaGetDevice(&before_);
  if (error == cudaSuccess && before_ != device) {
    error = cudaSetDevice(device);
    changed_ = error == cudaSuccess;
  }
  check(operation, error);
}
CurrentDevice::~CurrentDevice() {
  if (changed_) cudaSetDevice(before_);
}

}  // namespace bilateral_ops
