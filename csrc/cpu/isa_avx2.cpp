#define BO_ISA avx2
#define BO_SIMD_AVX2
#include "kernels.inl"

extern const bilateral_ops::Kernels bilateral_ops_kernels_avx2 = bilateral_ops::avx2::make_kernels("avx2");
