// Products and sums with one rounding, over vectors: what NumPy lacks. A step of 0 repeats one number.
#include <fenv.h>
#include <math.h>
#include <stddef.h>

#define FUSED(NAME, T, FMA)                                                                                    \
  void NAME(ptrdiff_t n, const T* a, ptrdiff_t da, const T* b, ptrdiff_t db, const T* c, ptrdiff_t dc, T* out, \
            const unsigned char* mask, int rounding) {                                                         \
    if (rounding != FE_TONEAREST) fesetround(rounding);                                                        \
    for (ptrdiff_t i = 0; i < n; ++i)                                                                          \
      if (!mask || mask[i]) out[i] = FMA(a[i * da], b[i * db], c[i * dc]);                                     \
    if (rounding != FE_TONEAREST) fesetround(FE_TONEAREST);                                                    \
  }
FUSED(fused_f32, float, fmaf)
FUSED(fused_f64, double, fma)

const int round_nearest = FE_TONEAREST, round_down = FE_DOWNWARD, round_up = FE_UPWARD, round_zero = FE_TOWARDZERO;
