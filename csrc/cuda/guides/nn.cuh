// guide_nn: its value, then its gradients. Equations: ../../ops.h
#pragma once

#include "shared.cuh"

namespace bilateral_ops {

BO_DEVICE float exponential(float v) { return expf(v); }
BO_DEVICE double exponential(double v) { return exp(v); }
template <class T>
BO_DEVICE T sigmoid(T v) {
  return T(1) / (T(1) + exponential(-v));
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
    // 1 − sigmoid(v) as sigmoid(−v), which is accurate where sigmoid(v) is near 1.
    const T d_sum = grad * sigmoid(v[0]) * sigmoid(-v[0]);
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

 private:
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
  // The gradient of feature f's relu argument h; NaN where h is.
  __device__ T d_hidden(int64_t f, T h, T d_sum) const { return h != h ? h : (h > T(0) ? w2[f] * d_sum : T(0)); }
};

}  // namespace bilateral_ops
