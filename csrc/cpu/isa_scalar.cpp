#define BO_ISA scalar
#include "kernels.inl"

extern const bilateral_ops::Kernels bilateral_ops_kernels_scalar = bilateral_ops::scalar::make_kernels("scalar");
