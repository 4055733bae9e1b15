// The guide of a kind that is known at run time
#pragma once

#include "curves.cuh"
#include "luma.cuh"
#include "nn.cuh"

namespace bilateral_ops {

// The guide of M pixels; channel j of pixel m is in(j, m).
template <int M, class T, class Channels, class Size, class In>
BO_DEVICE void guide_at(GuideKind kind, const T* values, Channels Ci, Size K, const In& in, T (&out)[M]) {
  switch (kind) {
    case GuideKind::curves: return Curves<T, Channels, Size>{values, Ci, K}.at(in, out);
    case GuideKind::nn: return Network<T, Channels, Size>{values, Ci, K}.at(in, out);
    case GuideKind::luma: break;
  }
  Luma<T>().at(in, out);
}

}  // namespace bilateral_ops
