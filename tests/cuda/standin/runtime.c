// Stands in for the CUDA runtime: the symbols that nvcc's objects and csrc/cuda need, and no others. That it links
// shows that nothing there allocates, copies or waits.
//
// Kernels are known by their host stubs; a launch goes to a callback, which runs the kernel's PTX. The rest is state
// that a test may set: devices, the error that the next calls return, the driver's absence.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef int cudaError_t;
typedef struct {
  unsigned x, y, z;
} dim3;
enum { kSuccess = 0, kInvalidValue = 1, kInsufficientDriver = 35, kInvalidFunction = 98, kInvalidDevice = 101 };

#define EXPORT __attribute__((visibility("default")))

// ---------------------------------------------------------------------------------------------------------------------
// What the tests see: struct Standin, field by field in __init__.py

enum { kMostImages = 64, kMostKernels = 512 };
typedef struct {
  const void* stub;
  const char* name;
  int image;
} Kernel;
typedef struct {
  const char* name;
  int image;
  unsigned grid[3], block[3];
  size_t shared;
  void** arguments;
  uintptr_t stream;
  int device;
} LaunchRequest;
typedef struct {
  // Device memory set to a byte; a kernel's attribute set; a device's attribute asked for.
  cudaError_t (*launch)(const LaunchRequest*);
  cudaError_t (*fill)(void* to, int value, size_t bytes, uintptr_t stream);
  cudaError_t (*set_attribute)(const char* kernel, int image, int attribute, int value);
  cudaError_t (*device_attribute)(int* value, int attribute, int device);
  cudaError_t (*occupancy)(int* blocks, const char* kernel, int image, int threads, size_t shared);
  int device, device_count;
  int driver;            // 0: none is installed
  cudaError_t injected;  // what the next launch returns, once
  cudaError_t last;      // what cudaGetLastError returns and clears
  int images, kernels;
  const void* image[kMostImages];  // fat binaries
  Kernel kernel[kMostKernels];
} Standin;

// The module _cuda, under the name that it has beside the real one.
void* PyInit__cuda(void);
EXPORT void* PyInit__cuda_standin(void) { return PyInit__cuda(); }

static Standin state = {.device_count = 2, .driver = 1};
EXPORT Standin* standin_state(void) { return &state; }

static cudaError_t record(cudaError_t error) {
  if (error != kSuccess) state.last = error;
  return error;
}

// ---------------------------------------------------------------------------------------------------------------------
// Registration, which happens when the module is loaded

typedef struct {
  int magic, version;
  const void* data;
  void* unused;
} Wrapper;

void** __cudaRegisterFatBinary(const Wrapper* wrapper) {
  if (state.images == kMostImages) __builtin_trap();
  state.image[state.images] = wrapper->data;
  return (void**)(uintptr_t)(++state.images);  // a handle: one more than the index
}
void __cudaRegisterFatBinaryEnd(void** handle) { (void)handle; }
void __cudaUnregisterFatBinary(void** handle) { (void)handle; }
void __cudaRegisterFunction(void** handle, const char* stub, char* function, const char* name, int threads, void* tid,
                            void* bid, void* block, void* grid, int* warp) {
  (void)function, (void)threads, (void)tid, (void)bid, (void)block, (void)grid, (void)warp;
  if (state.kernels == kMostKernels) __builtin_trap();
  const Kernel kernel = {stub, name, (int)(uintptr_t)handle - 1};
  state.kernel[state.kernels++] = kernel;
}
void __cudaRegisterVar(void** handle, char* host, char* device, const char* name, int external, size_t size,
                       int constant, int global) {
  (void)handle, (void)host, (void)device, (void)name, (void)external, (void)size, (void)constant, (void)global;
}
char __cudaInitModule(void** handle) {
  (void)handle;
  return 1;
}

static const Kernel* find(const void* stub) {
  for (int i = 0; i < state.kernels; ++i)
    if (state.kernel[i].stub == stub) return &state.kernel[i];
  return NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments, size_t shared, void* stream) {
  if (!state.driver) return record(kInsufficientDriver);
  if (state.injected) {
    const cudaError_t error = state.injected;
    state.injected = kSuccess;
    return record(error);
  }
  const Kernel* kernel = find(stub);
  if (!kernel || !state.launch) return record(kInvalidFunction);
  const LaunchRequest request = {kernel->name, kernel->image, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                                 shared,       arguments,     (uintptr_t)stream,        state.device};
  return record(state.launch(&request));
}
// A kernel's stub, which nvcc writes, launches so; only the address of a stub is used here.
cudaError_t __cudaLaunchKernel(void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, void* stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}
cudaError_t __cudaGetKernel(void** kernel, const void* stub) {
  *kernel = (void*)stub;
  return kSuccess;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  (void)grid, (void)block, (void)shared, (void)stream;
  return kInvalidValue;
}
cudaError_t cudaFuncSetAttribute(const void* stub, int attribute, int value) {
  const Kernel* kernel = find(stub);
  if (!state.driver) return record(kInsufficientDriver);
  if (!kernel || !state.set_attribute) return record(kInvalidFunction);
  return record(state.set_attribute(kernel->name, kernel->image, attribute, value));
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* stub, int threads, size_t shared) {
  const Kernel* kernel = find(stub);
  if (!state.driver) return record(kInsufficientDriver);
  if (!kernel || !state.occupancy) return record(kInvalidFunction);
  return record(state.occupancy(blocks, kernel->name, kernel->image, threads, shared));
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, void* stream) {
  if (!state.driver) return record(kInsufficientDriver);
  return record(state.fill ? state.fill(to, value, bytes, (uintptr_t)stream) : kInvalidValue);
}

// ---------------------------------------------------------------------------------------------------------------------
// Devices and errors

cudaError_t cudaGetDeviceCount(int* count) {
  if (!state.driver) return record(kInsufficientDriver);  // and the count stays as it was, as with the real one
  *count = state.device_count;
  return kSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  if (!state.driver) return record(kInsufficientDriver);
  *device = state.device;
  return kSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (!state.driver) return record(kInsufficientDriver);
  if (device < 0 || device >= state.device_count) return record(kInvalidDevice);
  state.device = device;
  return kSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int device) {
  if (!state.driver) return record(kInsufficientDriver);
  if (device < 0 || device >= state.device_count) return record(kInvalidDevice);
  return record(state.device_attribute ? state.device_attribute(value, attribute, device) : kInvalidValue);
}
cudaError_t cudaGetLastError(void) {
  const cudaError_t error = state.last;
  state.last = kSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError(void) { return state.last; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case kSuccess: return "no error";
    case kInvalidValue: return "invalid argument";
    case 2: return "out of memory";
    case 9: return "invalid configuration argument";
    case kInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case kInvalidFunction: return "invalid device function";
    case kInvalidDevice: return "invalid device ordinal";
    case 209: return "no kernel image is available for execution on the device";
    case 701: return "too many resources requested for launch";
    case 719: return "unspecified launch failure";
    default: return "unrecognized error code";
  }
}
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
