// guide_luma: its value, then its gradient. Equations: ../../ops.h
#pragma once

#include "shared.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class Number>
class Luma {
 public:
  using T = Number;
  Luma() = default;
  Luma(const GuideParameters&, int64_t) {}

  template <int M, class In>
  BO_INLINE_MEMBER void at(const In& in, Vec<T>* out) const {
    const Vec<T> r = broadcast(T(luma_weight(0))), g = broadcast(T(luma_weight(1))), b = broadcast(T(luma_weight(2)));
    for (int m = 0; m < M; ++m) out[m] = mul_add(b, in(2, m), mul_add(g, in(1, m), r * in(0, m)));
  }
  // Adds its gradient to d_image, whose channels are `pitch` and pixels `step` elements apart.
  static void add_gradient(const T* BO_RESTRICT grad, int64_t count, int64_t pitch, int64_t step,
                           T* BO_RESTRICT d_image) {
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t p = 0; p < count; ++p) d_image[j * pitch + p * step] += T(luma_weight(j)) * grad[p];
  }
};

}  // namespace BO_ISA
}  // namespace bilateral_ops
