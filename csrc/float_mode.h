// The floating-point mode that kernels run in, whatever mode their caller computes in: round to nearest, flush no
// subnormal, raise no signal.
//
// A caller that flushes subnormals (as torch.set_flush_denormal and XLA's threads do) or rounds in another direction
// would otherwise get other results, and other ones from its own thread than from the pool's.
#pragma once

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif !(defined(__aarch64__) && defined(__GNUC__))
#include <cfenv>
#endif

namespace bilateral_ops {

// Sets the mode for its own lifetime. Afterwards the thread has its own mode again, and the flags of the exceptions
// that it had raised itself.
class FloatMode {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(kAllMasked); }
  ~FloatMode() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kAllMasked = 0x1f80;
  const unsigned saved_;
#elif defined(__aarch64__) && defined(__GNUC__)
  FloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(control_));
    asm volatile("mrs %0, fpsr" : "=r"(status_));
    if (control_) asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~FloatMode() {
    if (control_) asm volatile("msr fpcr, %0" : : "r"(control_));
    asm volatile("msr fpsr, %0" : : "r"(status_));
  }

 private:
  uint64_t control_, status_;
#else
  FloatMode() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FloatMode() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif

 public:
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;
};

}  // namespace bilateral_ops
