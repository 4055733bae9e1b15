// The scalar formulas that host and device share, written once: arithmetic, positions on a grid axis, total variation,
// the luma, storage formats, and the footprints of area averages.
//
// T is the compute type: double for float64 arrays, float for all others.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"
#include "tensor.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// --- Arithmetic

// a·b + c, always fused, as positions depend on it (without the instruction, in double, where a product of floats is
// exact).
BO_INLINE double fused_mul_add(double a, double b, double c) { return fma(a, b, c); }
BO_INLINE float fused_mul_add(float a, float b, float c) {
#if BO_HAS_FMA
  return fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
#endif
}

// a·b + c, fused where that is one instruction
template <class T>
BO_INLINE T mul_add(T a, T b, T c) {
#if BO_HAS_FMA
  return fused_mul_add(a, b, c);
#else
  return a * b + c;
#endif
}

// Not the standard library's: its templates would be shared between instruction sets, and devices lack them.
template <class A>
BO_INLINE constexpr A min_of(A a, A b) {
  return b < a ? b : a;
}
template <class A>
BO_INLINE constexpr A max_of(A a, A b) {
  return a < b ? b : a;
}
BO_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// max(v, 0); NaN stays NaN.
template <class T>
BO_INLINE T relu(T v) {
  return v < T(0) ? T(0) : v;
}

// Which grid pixel (n, y, x) is sampled from. The index may be out of range.
BO_INLINE int64_t grid_of(const GridIndex& index, int64_t n, int64_t y, int64_t x) {
  if (!index.data) return n;
  const char* const p = index.data + n * index.strides[0] + y * index.strides[1] + x * index.strides[2];
#if defined(__CUDA_ARCH__)
  return index.wide ? *reinterpret_cast<const int64_t*>(p) : *reinterpret_cast<const int32_t*>(p);
#else
  int64_t wide;
  int32_t narrow;
  if (index.wide) {
    memcpy(&wide, p, sizeof wide);
    return wide;
  }
  memcpy(&narrow, p, sizeof narrow);
  return narrow;
#endif
}

// --- Positions on a grid axis

// The rule of an axis: coordinate u falls at p = u·scale − shift, clamped to [0, last].
struct Axis {
  double scale, shift, last;
};

BO_INLINE Axis make_axis(int64_t cells, bool align_corners) {
  const double last = static_cast<double>(cells - 1);
  return {align_corners ? last : static_cast<double>(cells), align_corners ? 0.0 : 0.5, last};
}

// The position of a coordinate: cell k below it, fraction t towards the next cell, and slope dp/du
//
//   p = clamp(u·scale − shift, 0, last),  k = floor(p),  t = fma(u, scale, −(k + shift))
//   slope = scale inside, 0 where p was clamped (p ≤ 0 or p ≥ last)
//
// On a knot k is that knot and t = 0, so that gradients are those of the cell above it. NaN falls into cell 0 with t
// and slope NaN, so that everything interpolated there is NaN. Without branches, as loops over pixels are vectorized.
template <class T>
struct Position {
  int32_t k;
  T t, slope;
};

template <class T>
BO_INLINE Position<T> locate(T u, T scale, T shift, T last) {
  const T p = fused_mul_add(u, scale, -shift);
  const bool inside = p > T(0) && p < last;
  const T clamped = inside ? p : (p >= last ? last : T(0));
  const int32_t k = static_cast<int32_t>(clamped);  // clamped ≥ 0: truncation is floor
  const T t = fused_mul_add(u, scale, -(static_cast<T>(k) + shift));
  return {k, u != u ? u : (inside ? t : T(0)), u != u ? u : (inside ? scale : T(0))};
}

// The rule of pixel indices. Their positions are rational, p = (i·step + offset)/size, and cell and fraction come from
// exact products: a pixel centre on a knot has t = 0, whatever the sizes.
//
//                                u = (i + ½)/n                  u = i/(n − 1), pixel_corners
//   u·G − ½                      (i·2G + G − n)/2n              (i·2G − (n − 1))/2(n − 1)
//   u·(G − 1), align_corners     (i·2(G − 1) + G − 1)/2n        i·2(G − 1)/2(n − 1)
//
// The corner of a single pixel is u = 0.
struct PixelAxis {
  double step, offset, size, inverse, last;
};

BO_INLINE PixelAxis make_pixel_axis(int64_t cells, int64_t pixels, bool align_corners, bool pixel_corners) {
  const Axis axis = make_axis(cells, align_corners);
  const double n = static_cast<double>(pixel_corners ? max_of<int64_t>(pixels - 1, 1) : pixels);
  const double step = pixel_corners && pixels == 1 ? 0.0 : 2.0 * axis.scale, first = pixel_corners ? 0.0 : axis.scale;
  return {step, first - 2.0 * n * axis.shift, 2.0 * n, 0.5 / n, axis.last};
}

BO_INLINE Position<double> locate_pixel(int64_t i, const PixelAxis& a) {
  const double p = static_cast<double>(i) * a.step + a.offset;  // p·size, a sum of whole numbers
  const double q = p * a.inverse;
  double k = static_cast<double>(static_cast<int32_t>(q > 0.0 ? (q < a.last ? q : a.last) : 0.0));
  double rest = p - k * a.size;
  // The quotient may have been rounded to the next whole number.
  const double down = rest < 0.0 && k > 0.0 ? 1.0 : 0.0, up = rest >= a.size && k < a.last ? 1.0 : 0.0;
  k += up - down;
  rest += (down - up) * a.size;
  const double slope = 0.0;  // unused
  return {static_cast<int32_t>(k), rest > 0.0 && k < a.last ? rest * a.inverse : 0.0, slope};
}

// a + t·(b − a): exactly a where a = b or t = 0, if b − a is finite. So a constant grid gives a constant, and a knot
// its own value.
template <class T>
BO_INLINE T lerp(T a, T b, T t) {
  return mul_add(t, b - a, a);
}

// --- Total variation

// Per axis y, x, z of a grid of this shape: 1 / (number of neighbours · channels), 0 for an axis of one cell.
struct VariationWeights {
  double of[3];
};
BO_INLINE VariationWeights variation_weights(const int64_t* shape) {
  VariationWeights w;
  for (int axis = 1; axis <= 3; ++axis) {
    int64_t count = shape[axis] - 1;
    for (int other = 1; other <= 5; ++other) count *= other == axis ? 1 : shape[other];
    w.of[axis - 1] = count > 0 ? 1.0 / static_cast<double>(count) : 0.0;
  }
  return w;
}

// --- Guides

// The weight of red, green or blue in BT.601's luma
BO_INLINE constexpr double luma_weight(int64_t channel) { return channel == 0 ? 0.299 : channel == 1 ? 0.587 : 0.114; }

// --- Storage formats: bits to values, and values to bits, rounded to nearest even

template <class To, class From>
BO_INLINE To bit_cast(From v) {
  union {
    From from;
    To to;
  } x;
  x.from = v;
  return x.to;
}
BO_INLINE uint32_t float_bits(float v) { return bit_cast<uint32_t>(v); }
BO_INLINE float bits_float(uint32_t v) { return bit_cast<float>(v); }

// 2^n, where n is whole and 2^n a normal number; anything where n is NaN
BO_INLINE float power_of_two(float n) {
  return bits_float(static_cast<uint32_t>(static_cast<int32_t>(n == n ? n : 0.0f) + 127) << 23);
}
BO_INLINE double power_of_two(double n) {
  return bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n == n ? n : 0.0) + 1023) << 52);
}

BO_INLINE float from_bf16(uint16_t h) { return bits_float(static_cast<uint32_t>(h) << 16); }
BO_INLINE uint16_t to_bf16(float v) {
  const uint32_t u = float_bits(v);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t quiet = (u >> 16) | 0x40u;
  return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

BO_INLINE float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  // Subnormals are multiples of 2^−24; others get float's exponent, infinity and NaN its largest.
  const uint32_t small = float_bits(static_cast<float>(static_cast<int32_t>(magnitude)) * 5.9604644775390625e-08f);
  const uint32_t normal = (magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u);
  return bits_float(sign | (magnitude < 0x0400u ? small : normal));
}
BO_INLINE uint16_t to_f16(float v) {
  const uint32_t u = float_bits(v);
  const uint32_t magnitude = u & 0x7fffffffu;
  // Adding 0.5 leaves the 10 bits of a subnormal, rounded by the hardware, in the lowest bits of the sum.
  const uint32_t small = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t h = magnitude >= 0x47800000u ? special : (magnitude < 0x38800000u ? small : normal);
  return static_cast<uint16_t>(h | ((u >> 16) & 0x8000u));
}

// Integer images hold levels v·top, top = 255 or 65535. NaN becomes level 0.
BO_INLINE float from_unit(uint32_t v, float top) {
#if defined(__CUDA_ARCH__)
  // Division is slow there. For each of the 256 and 65536 levels this has the quotient's bits.
  const float level = static_cast<float>(v), inverse = 1.0f / top, near = level * inverse;
  return fused_mul_add(fused_mul_add(-near, top, level), inverse, near);
#else
  return static_cast<float>(v) / top;
#endif
}
BO_INLINE uint32_t to_unit(float v, float top) {
  const float scaled = v * top;
#if defined(__CUDA_ARCH__)
  const float clipped = fminf(fmaxf(scaled, 0.0f), top);  // of NaN and a number either takes the number
#else
  const float clipped = scaled > 0.0f ? (scaled < top ? scaled : top) : 0.0f;
#endif
  const float magic = 12582912.0f;  // 1.5·2^23: adding it rounds to a whole number, in the lowest bits
  return float_bits(clipped + magic) - 0x4b400000u;
}

// Rounds v ≥ 0 to the nearest whole number, ties to even.
BO_INLINE double rounded(double v) {
  const double magic = 6755399441055744.0;  // 1.5·2^52: adding it rounds to a whole number
  return v + magic - magic;
}

// The formats as types: their bits, the value of bits, and the bits of a value
struct F16 {
  using Bits = uint16_t;
  static BO_INLINE_MEMBER float value(Bits v) { return from_f16(v); }
  static BO_INLINE_MEMBER Bits bits(float v) { return to_f16(v); }
};
struct BF16 {
  using Bits = uint16_t;
  static BO_INLINE_MEMBER float value(Bits v) { return from_bf16(v); }
  static BO_INLINE_MEMBER Bits bits(float v) { return to_bf16(v); }
};
template <class Level>
struct Unit {
  using Bits = Level;
  static constexpr float kTop = static_cast<Level>(-1);
  static BO_INLINE_MEMBER float value(Bits v) { return from_unit(v, kTop); }
  static BO_INLINE_MEMBER Bits bits(float v) { return static_cast<Bits>(to_unit(v, kTop)); }
};
using U8 = Unit<uint8_t>;
using U16 = Unit<uint16_t>;
// Integers as levels, not divided by top: their sums are exact.
template <class Level>
struct Levels {
  using Bits = Level;
  static BO_INLINE_MEMBER float value(Bits v) { return static_cast<float>(v); }
};
using Levels8 = Levels<uint8_t>;
using Levels16 = Levels<uint16_t>;

// --- Footprints of resized pixels

// `count` pixels and `others` pixels span the same length. Pixel i of the `count` covers those of the others in
// [begin, end), the first and the last in part. Lengths are in a unit of which one pixel has `others` and one of the
// others `count`: whole numbers, nothing is rounded. count·others must be below 2^62; of 32 bits, below 2^30.
template <class Int>
struct Footprint {
  Int begin, end;
  Int head, tail;  // how much it covers of the first one, and of the last if that is another
};
template <class Int>
BO_INLINE Footprint<Int> footprint(Int i, Int count, Int others) {
  const Int from = i * others, to = from + others;
  const Int begin = from / count, end = (to - 1) / count + 1;
  return {begin, end, min_of((begin + 1) * count, to) - from, to - (end - 1) * count};
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
