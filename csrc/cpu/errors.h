// What kernels throw. Defined apart, as files that are compiled for one instruction set include nothing of the standard
// library.
#pragma once

namespace bilateral_ops {

// std::logic_error: a dtype reached a kernel that its operation's signature does not allow.
[[noreturn]] void fail_dtype();

}  // namespace bilateral_ops
