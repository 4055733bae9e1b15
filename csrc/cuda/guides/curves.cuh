// guide_curves: its value, then its gradients. Equations: ../../ops.h
#pragma once

#include "shared.cuh"

namespace bilateral_ops {

template <class T, class Channels = int64_t, class Size = int64_t>
struct Curves {
  const T* ccm;  // the parameters, one after another; mix_bias follows mix
  Channels Ci;
  Size K;
  const T *bias = ccm + Ci * Ci, *shifts = bias + Ci, *slopes = shifts + Ci * K, *mix = slopes + Ci * K;

  template <int M, class In>
  __device__ void at(const In& in, T (&out)[M]) const {
#pragma unroll
    for (int m = 0; m < M; ++m) out[m] = mix[Ci];
    for (Size i = 0; i < Ci; ++i) {
      T q[M], c[M];
      channel(i, in, q, c);
      const T weight = mix[i];
#pragma unroll
      for (int m = 0; m < M; ++m) out[m] = mul_add(weight, c[m], out[m]);
    }
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const T raised = relu(out[m]);
      out[m] = raised > T(1) ? T(1) : raised;
    }
  }

  __device__ void gradient(const GuidePlanes<T>& at, int pitch, int p, T grad) const {
    T sum = mix[Ci];
    for (int64_t i = 0; i < Ci; ++i) {
      T q[1], c[1];
      channel(i, [&](int64_t j, int) { return at.in[j * pitch + p]; }, q, c);
      sum = mul_add(mix[i], c[0], sum);
      at.q[i * pitch + p] = q[0];
      at.c[i * pitch + p] = c[0];
    }
    const T d_sum = sum != sum ? sum : (sum > T(0) && sum < T(1) ? grad : T(0));
    at.d_sum[p] = d_sum;
    for (int64_t i = 0; i < Ci; ++i) {
      T slope = T(0);
      for (int64_t k = 0; k < K; ++k)
        if (at.q[i * pitch + p] > shifts[i * K + k]) slope += slopes[i * K + k];
      at.d_q[i * pitch + p] = slope * (mix[i] * d_sum);
    }
  }
  __device__ T d_in(const GuidePlanes<T>& at, int pitch, int p, int64_t j) const {
    T sum = T(0);
    for (int64_t i = 0; i < Ci; ++i) sum = mul_add(ccm[i * Ci + j], at.d_q[i * pitch + p], sum);
    return sum;
  }
  __device__ double d_parameter(const GuidePlanes<T>& at, int pitch, int count, int64_t e) const {
    // Where the parameters begin
    const int64_t bias = Ci * Ci, shifts = bias + Ci, slopes = shifts + Ci * K, mix = slopes + Ci * K;
    const T *a, *b = nullptr;  // Σ a·b, or Σ a
    if (e < shifts) {
      a = at.d_q + (e < bias ? e / Ci : e - bias) * pitch;
      if (e < bias) b = at.in + e % Ci * pitch;
    } else if (e < mix) {
      const bool shift = e < slopes;
      const int64_t knot = e - (shift ? shifts : slopes), i = knot / K;
      const T* const q = at.q + i * pitch;
      const T position = ccm[shifts + knot];
      T sum = T(0);
      for (int p = 0; p < count; ++p) {
        const T d = at.d_sum[p];
        sum = shift ? sum + (q[p] > position ? d : T(0)) : mul_add(d, relu(q[p] - position), sum);
      }
      const double weight = shift ? -static_cast<double>(ccm[slopes + knot]) : 1.0;
      return static_cast<double>(sum) * weight * static_cast<double>(ccm[mix + i]);
    } else {
      a = at.d_sum;
      if (e < mix + Ci) b = at.c + (e - mix) * pitch;
    }
    T sum = T(0);
    for (int p = 0; p < count; ++p) sum = b ? mul_add(a[p], b[p], sum) : sum + a[p];
    return static_cast<double>(sum);
  }

 private:
  // q_i and c_i of M pixels
  template <int M, class In>
  __device__ void channel(Size i, const In& in, T (&q)[M], T (&c)[M]) const {
    affine(ccm + i * Ci, bias[i], Ci, in, q);
#pragma unroll
    for (int m = 0; m < M; ++m) c[m] = T(0);
    for (Size k = 0; k < K; ++k) {
      const T shift = shifts[i * K + k], slope = slopes[i * K + k];
#pragma unroll
      for (int m = 0; m < M; ++m) c[m] = mul_add(slope, relu(q[m] - shift), c[m]);
    }
  }
};

}  // namespace bilateral_ops
