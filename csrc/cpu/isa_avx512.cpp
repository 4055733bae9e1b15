#define BO_ISA avx512
#define BO_SIMD_AVX512
#include "kernels.inl"

extern const bilateral_ops::Kernels bilateral_ops_kernels_avx512 = bilateral_ops::avx512::make_kernels("avx512");
