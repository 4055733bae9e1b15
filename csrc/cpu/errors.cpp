#include "errors.h"

#include <stdexcept>

namespace bilateral_ops {

void fail_dtype() { throw std::logic_error("a kernel was called with a dtype that it does not take"); }

}  // namespace bilateral_ops
