// Which instruction set's kernels run.
#pragma once

#include "../ops.h"

namespace bilateral_ops {

// The kernels in use: the best this processor has, until select_isa() says otherwise.
const Kernels& kernels();

// The builds that this processor can run, best first; null after the last.
const char* const* available_isas();

// False where no such build can run here.
bool select_isa(const char* name);

}  // namespace bilateral_ops
