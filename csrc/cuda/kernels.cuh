// Every operation's entry, one line a kernel of ops.h; each is defined in the .cu of its name.
#pragma once

#include "device.h"

namespace bilateral_ops {
namespace cuda {

#define BO_DECLARE(kernel, Args) void kernel(const Args& a, Launch& to);
BO_KERNELS(BO_DECLARE)
#undef BO_DECLARE

}  // namespace cuda
}  // namespace bilateral_ops
