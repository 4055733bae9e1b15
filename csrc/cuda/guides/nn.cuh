// guide_nn: its value, then its gradients, for any number of channels (Network) and for RGB (RgbNetwork). Equations:
// ../../ops.h
#pragma once

#include "shared.cuh"

namespace bilateral_ops {

BO_DEVICE float exponential(float v) { return expf(v); }
BO_DEVICE double exponential(double v) { return exp(v); }
template <class T>
BO_DEVICE T sigmoid(T v) {
  return T(1) / (T(1) + exponential(-v));
}
// The derivative of sigmoid, accurate also where sigmoid is near 1
template <class T>
BO_DEVICE T d_sigmoid(T v) {
  const T e = exponential(v > T(0) ? -v : v), s = T(1) / (T(1) + e);
  return s * (e * s);
}

template <class T, class Channels = int64_t, class Size = int64_t>
struct Network {
  const T* w1;  // the parameters, one after another; b2 follows w2
  Channels Ci;
  Size F;
  const T *b1 = w1 + F * Ci, *w2 = b1 + F;

  template <int M, class In>
  __device__ void at(const In& in, T (&out)[M]) const {
    sum(in, out);
#pragma unroll
    for (int m = 0; m < M; ++m) out[m] = sigmoid(out[m]);
  }

  __device__ void gradient(const GuidePlanes<T>& at, int pitch, int p, T grad) const {
    const auto in = [&](int64_t j, int) { return at.in[j * pitch + p]; };
    T v[1];
    sum(in, v);
    const T d_sum = grad * d_sigmoid(v[0]);
    at.d_sum[p] = d_sum;
    for (int64_t j = 0; j < Ci; ++j) at.d_in[j * pitch + p] = T(0);
    for (int64_t f = 0; f < F; ++f) {
      T h[1];
      affine(w1 + f * Ci, b1[f], Ci, in, h);
      const T d = d_hidden(f, h[0], d_sum);
      for (int64_t j = 0; j < Ci; ++j) {
        T& to = at.d_in[j * pitch + p];
        to = mul_add(w1[f * Ci + j], d, to);
      }
    }
  }
  __device__ T d_in(const GuidePlanes<T>& at, int pitch, int p, int64_t j) const { return at.d_in[j * pitch + p]; }
  __device__ double d_parameter(const GuidePlanes<T>& at, int pitch, int count, int64_t e) const {
    const int64_t b1_at = F * Ci, w2_at = b1_at + F, b2_at = w2_at + F;  // where the parameters begin
    T sum = T(0);
    if (e == b2_at) {
      for (int p = 0; p < count; ++p) sum += at.d_sum[p];
      return static_cast<double>(sum);
    }
    const int64_t f = e < b1_at ? e / Ci : e < w2_at ? e - b1_at : e - w2_at;
    const T* const in_j = e < b1_at ? at.in + e % Ci * pitch : nullptr;
    for (int p = 0; p < count; ++p) {
      T h[1];
      affine(w1 + f * Ci, b1[f], Ci, [&](int64_t j, int) { return at.in[j * pitch + p]; }, h);
      const T d_sum = at.d_sum[p];
      if (e >= w2_at) {
        sum = mul_add(d_sum, relu(h[0]), sum);
      } else {
        const T d = d_hidden(f, h[0], d_sum);
        sum = in_j ? mul_add(d, in_j[p], sum) : sum + d;
      }
    }
    return static_cast<double>(sum);
  }

 protected:
  // The argument of sigmoid of M pixels
  template <int M, class In>
  __device__ void sum(const In& in, T (&total)[M]) const {
#pragma unroll
    for (int m = 0; m < M; ++m) total[m] = w2[F];
    for (Size f = 0; f < F; ++f) {
      T h[M];
      affine(w1 + f * Ci, b1[f], Ci, in, h);
      const T weight = w2[f];
#pragma unroll
      for (int m = 0; m < M; ++m) total[m] = mul_add(weight, relu(h[m]), total[m]);
    }
  }
  // The gradient of feature f's relu argument h; NaN where h is, as d_sum is then, too.
  __device__ T d_hidden(Size f, T h, T d_sum) const { return h <= T(0) ? T(0) : w2[f] * d_sum; }
};

// The network of RGB in float
struct RgbNetwork : Network<float, Three, int> {
  static constexpr int kPlanes = 4, kItems = 1, kSums = 5, kOwn = 1;  // see shared.cuh
  static constexpr int kApplyBlocks = 5;                              // see drivers.cuh

  static BO_INLINE_MEMBER size_t table_bytes(int64_t) { return 0; }
  __device__ RgbNetwork(const float* values, char*, int64_t features)
      : Network<float, Three, int>{values, Three(), static_cast<int>(features)} {}
  __device__ void prepare() const {}

  // The sums of a feature: of w1's gradients, of b1's and of w2's. Own: b2's
  __device__ void gradient(const float (&in)[4][3], const Vec4<float>& grad, int mask, float (&d_in)[4][3],
                           Vec4<float> (&planes)[kPlanes], float (&own)[kOwn]) const {
    const auto channel = [&](int j, int m) { return in[m][j]; };
    float total[4], d_sum[4];
    sum(channel, total);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      d_sum[m] = grad.at[m] * d_sigmoid(total[m]);
      if (mask >> m & 1) own[0] += d_sum[m];
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        d_in[m][j] = 0.0f;
        planes[j].at[m] = in[m][j];
      }
      planes[3].at[m] = d_sum[m];
    }
    for (int f = 0; f < F; ++f) {
      float h[4];
      affine(w1 + 3 * f, b1[f], Three(), channel, h);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const float d = d_hidden(f, h[m], d_sum[m]);
#pragma unroll
        for (int j = 0; j < 3; ++j) d_in[m][j] = mul_add(w1[3 * f + j], d, d_in[m][j]);
      }
    }
  }
  __device__ void add_up_item(int f, const RgbPlanes& at, float (&sums)[kSums]) const {
    at.for_pixels({0, 1, 2, 3}, [&](const float (&pixel)[4]) {
      float h[1];
      affine(w1 + 3 * f, b1[f], Three(), [&](int j, int) { return pixel[j]; }, h);
      const float d = d_hidden(f, h[0], pixel[3]);
#pragma unroll
      for (int j = 0; j < 3; ++j) sums[j] = mul_add(d, pixel[j], sums[j]);
      sums[3] += d;
      sums[4] = mul_add(pixel[3], fmaxf(h[0], 0.0f), sums[4]);  // pixel[3] is NaN where h is
    });
  }
  template <class Total>
  __device__ double element(int e, const Total& total) const {
    if (e < 3 * F) return total(kSums * (e / 3) + e % 3);
    if (e < 5 * F) return total(kSums * (e % F) + (e < 4 * F ? 3 : 4));
    return total(kSums * F);
  }
};

}  // namespace bilateral_ops
