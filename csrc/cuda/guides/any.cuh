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

// The guide of RGB, of a kind that is known at compile time, and how a kernel gets it
template <class Guide>
struct RgbGuide {
  using Type = Guide;
  ParameterValues<float> parameters;

  BO_INLINE_MEMBER size_t shared() const { return parameters.shared() + Guide::table_bytes(parameters.shape.K); }
  // `memory` has shared() bytes; __syncthreads() must follow.
  __device__ Guide get(char* memory) const {
    const float* const values = parameters.get(memory);
    const Guide guide(values, memory + parameters.shared(), parameters.shape.K);
    __syncthreads();
    guide.prepare();
    return guide;
  }
};
// Calls f(RgbGuide) with the guide of a kind, of an image of three channels in float.
template <class F>
void with_rgb_guide(const ParameterValues<float>& parameters, F&& f) {
  switch (parameters.shape.kind) {
    case GuideKind::curves: return f(RgbGuide<RgbCurves>{parameters});
    case GuideKind::nn: return f(RgbGuide<RgbNetwork>{parameters});
    case GuideKind::luma: return f(RgbGuide<RgbLuma>{parameters});
  }
}

}  // namespace bilateral_ops
