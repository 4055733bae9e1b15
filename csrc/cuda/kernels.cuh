// The host functions that launch the kernels of each operation, one per entry of BO_KERNELS (ops.h). Each is defined in
// the .cu file of its operation.
#pragma once

#include "device.h"

namespace bilateral_ops {
namespace cuda {

#define BO_DECLARE(kernel, Args) void kernel(const Args& a, Launch& to);
BO_KERNELS(BO_DECLARE)
#undef BO_DECLARE

}  // namespace cuda
}  // namespace bilateral_ops
