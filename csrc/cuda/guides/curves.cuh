// guide_curves: its value, then its gradients, for any number of channels (Curves) and for RGB (RgbCurves). Equations:
// ../../ops.h
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
    mixed(in, out, [&](Size i, const T(&q)[M], T(&c)[M]) { add_up(i, q, c); });
    clip(out);
  }

  __device__ void gradient(const GuidePlanes<T>& at, int pitch, int p, T grad) const {
    T sum[1];
    mixed([&](int64_t j, int) { return at.in[j * pitch + p]; }, sum,
          [&](int64_t i, const T(&q)[1], T(&c)[1]) {
            add_up(i, q, c);
            at.q[i * pitch + p] = q[0];
            at.c[i * pitch + p] = c[0];
          });
    const T d_sum = d_clipped(sum[0], grad);
    at.d_sum[p] = d_sum;
    for (int64_t i = 0; i < Ci; ++i) {
      const T q[1] = {at.q[i * pitch + p]};
      T slope[1];
      add_up_slopes(i, q, slope);
      at.d_q[i * pitch + p] = slope[0] * (mix[i] * d_sum);
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

 protected:
  // The argument of clip for M pixels; curve(i, q, c) computes c_i.
  template <int M, class In, class F>
  __device__ void mixed(const In& in, T (&total)[M], const F& curve) const {
#pragma unroll
    for (int m = 0; m < M; ++m) total[m] = mix[Ci];
#pragma unroll(kUnrolled<Channels>)
    for (Size i = 0; i < Ci; ++i) {
      T q[M], c[M];
      affine(ccm + i * Ci, bias[i], Ci, in, q);
      curve(i, q, c);
      const T weight = mix[i];
#pragma unroll
      for (int m = 0; m < M; ++m) total[m] = mul_add(weight, c[m], total[m]);
    }
  }
  template <int M>
  static __device__ void clip(T (&v)[M]) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const T raised = relu(v[m]);
      v[m] = raised > T(1) ? T(1) : raised;
    }
  }
  // The gradient of clip's argument, NaN where that is
  static __device__ T d_clipped(T v, T grad) { return v != v ? v : (v > T(0) && v < T(1) ? grad : T(0)); }

  // The curve of channel i as a sum over its knots; its slope
  template <int M>
  __device__ void add_up(Size i, const T (&q)[M], T (&c)[M]) const {
#pragma unroll
    for (int m = 0; m < M; ++m) c[m] = T(0);
    for (Size k = 0; k < K; ++k) {
      const T shift = shifts[i * K + k], slope = slopes[i * K + k];
#pragma unroll
      for (int m = 0; m < M; ++m) c[m] = mul_add(slope, relu(q[m] - shift), c[m]);
    }
  }
  template <int M>
  __device__ void add_up_slopes(Size i, const T (&q)[M], T (&sum)[M]) const {
#pragma unroll
    for (int m = 0; m < M; ++m) sum[m] = T(0);
    for (Size k = 0; k < K; ++k) {
      const T shift = shifts[i * K + k], slope = slopes[i * K + k];
#pragma unroll
      for (int m = 0; m < M; ++m) sum[m] += q[m] > shift ? slope : T(0);
    }
  }
};

// The curves of RGB in float, searched among their sorted knots: the equations of SortedKnots in
// cpu/guides/curves.inl. The table of a channel has the entries (s_n, value_n, slope_n), n = 0 … K, where s_0 is s_1,
// and further ones, which only q = ∞ reaches.
struct RgbCurves : Curves<float, Three, int> {
  static constexpr int kMostKnots = 126, kLeastKnots = 4;              // with fewer, their sum is as fast
  static constexpr int kPlanes = 4, kItems = 3, kSums = 2, kOwn = 16;  // see shared.cuh
  static constexpr int kApplyBlocks = 4;                               // see drivers.cuh

  Vec4<float>* tables;  // [channel][n]; null: none. The fourth element of entry 0 says whether the channel has a table.
  int size;             // entries per channel, a power of two

  static BO_INLINE_MEMBER int table_size(int64_t knots) {
    if (knots < kLeastKnots || knots > kMostKnots) return 0;
    int size = 8;
    while (size < knots + 2) size *= 2;
    return size;
  }
  static BO_INLINE_MEMBER size_t table_bytes(int64_t knots) { return 3 * table_size(knots) * sizeof(Vec4<float>); }
  __device__ RgbCurves(const float* values, char* memory, int64_t knots)
      : Curves<float, Three, int>{values, Three(), static_cast<int>(knots)},
        tables(table_size(knots) ? reinterpret_cast<Vec4<float>*>(memory) : nullptr),
        size(table_size(knots)) {}
  // Fills the tables, by all threads of the block. One thread per knot finds the place of its own among the others.
  __device__ void prepare() const {
    for (int e = static_cast<int>(threadIdx.x); tables && e < 3 * K; e += static_cast<int>(blockDim.x)) {
      const int i = e / K, own = e - i * K;
      const float *const s = shifts + i * K, *const a = slopes + i * K;
      bool all_rise = true, all_fall = true;
      float zero = 0.0f, value = 0.0f, slope = 0.0f;  // zero is NaN where a knot is not finite
      int n = 0;
      for (int k = 0; k < K; ++k) {
        const bool counts = s[k] < s[own] || (s[k] == s[own] && k <= own);
        zero = mul_add(s[k], 0.0f, mul_add(a[k], 0.0f, zero));
        all_rise = all_rise && a[k] > 0.0f;
        all_fall = all_fall && a[k] < 0.0f;
        n += counts ? 1 : 0;
        value = counts ? mul_add(a[k], s[own] - s[k], value) : value;
        slope = counts ? slope + a[k] : slope;
      }
      Vec4<float>* const table = tables + i * size;
      if (zero != 0.0f) {  // such knots have no order
        if (own == 0) table[0] = {{0.0f, 0.0f, 0.0f, 0.0f}};
        continue;
      }
      table[n] = {{s[own], value, slope, 0.0f}};
      if (n == 1) table[0] = {{s[own], 0.0f, 0.0f, 1.0f}};
      // At infinity terms of different signs, or of no slope, make NaN.
      const float largest = bits_float(0x7f7fffffu), nan = bits_float(0x7fc00000u);
      for (int k = K + 1; n == K && k < size; ++k)
        table[k] = {{largest, all_rise || all_fall ? value : nan, slope, 0.0f}};
    }
  }

  template <int M, class In>
  __device__ void at(const In& in, float (&out)[M]) const {
    mixed(in, out, [&](int i, const float (&q)[M], float (&c)[M]) {
      float slope[M];
      curve(i, q, c, slope);
    });
    clip(out);
  }

  // The sums of a knot: of d_sum where q is above it, and of d_sum·max(q − shift, 0). Own: ccm, ccm_bias, mix, mix_bias
  __device__ void gradient(const float (&in)[4][3], const Vec4<float>& grad, int mask, float (&d_in)[4][3],
                           Vec4<float> (&planes)[kPlanes], float (&own)[kOwn]) const {
    float total[4], c_of[3][4], slope_of[3][4];
    mixed([&](int j, int m) { return in[m][j]; }, total,
          [&](int i, const float (&q)[4], float (&c)[4]) {
            curve(i, q, c, slope_of[i]);
#pragma unroll
            for (int m = 0; m < 4; ++m) {
              planes[i].at[m] = q[m];
              c_of[i][m] = c[m];
            }
          });
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float d_sum = d_clipped(total[m], grad.at[m]);
      planes[3].at[m] = d_sum;
#pragma unroll
      for (int j = 0; j < 3; ++j) d_in[m][j] = 0.0f;
      if (!(mask >> m & 1)) continue;
      own[15] += d_sum;
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        const float d_q = slope_of[i][m] * (mix[i] * d_sum);
        own[12 + i] = mul_add(d_sum, c_of[i][m], own[12 + i]);
        own[9 + i] += d_q;
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          own[3 * i + j] = mul_add(d_q, in[m][j], own[3 * i + j]);
          d_in[m][j] = mul_add(ccm[3 * i + j], d_q, d_in[m][j]);
        }
      }
    }
  }
  __device__ void add_up_item(int item, const RgbPlanes& at, float (&sums)[kSums]) const {
    const float shift = shifts[item];
    at.for_pixels({item / K, 3}, [&](const float (&pixel)[2]) {
      const float above = pixel[0] - shift, d_sum = pixel[1];  // NaN where the former is
      sums[0] += above > 0.0f ? d_sum : 0.0f;
      sums[1] = mul_add(d_sum, fmaxf(above, 0.0f), sums[1]);
    });
  }
  template <class Total>
  __device__ double element(int e, const Total& total) const {
    const int knots = 3 * K, first = 12 + 2 * knots;  // ccm and ccm_bias, shifts and slopes, mix and mix_bias
    if (e < 12) return total(kSums * knots + e);
    if (e >= first) return total(kSums * knots + e - first + 12);
    const bool of_slope = e >= 12 + knots;
    const int knot = e - 12 - (of_slope ? knots : 0);
    const double sum = total(kSums * knot + of_slope) * static_cast<double>(mix[knot / K]);
    return of_slope ? sum : -sum * static_cast<double>(slopes[knot]);
  }

 private:
  // c_i of M pixels, and its slope
  template <int M>
  __device__ void curve(int i, const float (&q)[M], float (&c)[M], float (&slope)[M]) const {
    const Vec4<float>* const table = tables + i * size;
    if (!tables || table->at[3] == 0.0f) {
      add_up(i, q, c);
      add_up_slopes(i, q, slope);
      return;
    }
    // Binary search by addresses, so that a step is five instructions
    constexpr unsigned kEntry = sizeof(Vec4<float>);
    const auto shift_at = [](const char* entry) { return *reinterpret_cast<const float*>(entry); };
    const char *const first = reinterpret_cast<const char*>(table), *at[M];
    unsigned step = static_cast<unsigned>(size) / 2 * kEntry;
    const float middle = shift_at(first + step);
#pragma unroll
    for (int m = 0; m < M; ++m) at[m] = q[m] > middle ? first + step : first;
    while ((step /= 2) >= kEntry)
#pragma unroll
      for (int m = 0; m < M; ++m) at[m] += q[m] > shift_at(at[m] + step) ? step : 0;
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const Vec4<float> entry = *reinterpret_cast<const Vec4<float>*>(at[m]);
      slope[m] = entry.at[2];
      c[m] = mul_add(slope[m], relu(q[m] - entry.at[0]), entry.at[1]);
    }
  }
};

}  // namespace bilateral_ops
