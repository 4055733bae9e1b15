// Kernel calls on the CPU, and calls whose images or pixels say which grids they are sampled from (GridIndex).
#pragma once

#include "dispatch.h"

namespace bilateral_ops {

// Runs a kernel in the floating-point mode that kernels need. Kernels know of no index: where there is one, images or
// pixels are sorted by grid, and the kernel is called once for each grid, in parallel where these calls are small.
// Throws std::out_of_range for an index that names no grid, before anything is written.
template <class Args>
void run_on_host(void (*Kernels::*kernel)(const Args&), const Args& args);

}  // namespace bilateral_ops
