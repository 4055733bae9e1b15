#include "dispatch.h"

#include <atomic>
#include <cstring>

#if defined(BO_BUILD_X86)
#include <cpuid.h>
#endif

// A new instruction set is one isa_*.cpp, its flags in CMakeLists.txt, and its line in `builds`.
extern const bilateral_ops::Kernels bilateral_ops_kernels_scalar;
#if defined(BO_BUILD_X86)
extern const bilateral_ops::Kernels bilateral_ops_kernels_avx2, bilateral_ops_kernels_avx512;
#elif defined(BO_BUILD_AARCH64)
extern const bilateral_ops::Kernels bilateral_ops_kernels_neon;
#endif

namespace bilateral_ops {
namespace {

#if defined(BO_BUILD_X86)
// clang 14's __builtin_cpu_supports does not know of it.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
#endif

struct Build {
  const Kernels* kernels;
  bool (*runs_here)();
};

// Best first.
const Build builds[] = {
#if defined(BO_BUILD_X86)
    {&bilateral_ops_kernels_avx512,
     [] {
       return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     }},
    {&bilateral_ops_kernels_avx2, runs_avx2},
#elif defined(BO_BUILD_AARCH64)
    {&bilateral_ops_kernels_neon, [] { return true; }},
#endif
    {&bilateral_ops_kernels_scalar, [] { return true; }},
};
constexpr int kBuilds = sizeof(builds) / sizeof(builds[0]);

struct Available {
  const Kernels* kernels[kBuilds] = {};
  const char* names[kBuilds + 1];
  std::atomic<const Kernels*> selected;
  Available() {
    int n = 0;
    for (const Build& build : builds) {
      if (build.runs_here()) {
        kernels[n] = build.kernels;
        names[n++] = build.kernels->name;
      }
    }
    names[n] = nullptr;
    selected = kernels[0];
  }
};
Available& available() {
  static Available instance;
  return instance;
}

}  // namespace

const Kernels& kernels() { return *available().selected.load(std::memory_order_relaxed); }
const char* const* available_isas() { return available().names; }

bool select_isa(const char* name) {
  Available& a = available();
  for (int i = 0; a.names[i]; ++i) {
    if (std::strcmp(a.names[i], name) == 0) {
      a.selected.store(a.kernels[i], std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace bilateral_ops
