#define BO_ISA neon
#define BO_SIMD_NEON
#include "kernels.inl"

extern const bilateral_ops::Kernels bilateral_ops_kernels_neon = bilateral_ops::neon::make_kernels("neon");
