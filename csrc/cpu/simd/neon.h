// Vec<T> in NEON (aarch64): 8 floats or 4 doubles, in two registers each. Operands that all lanes share, such as a
// lookup's table, are then loaded once for two registers, and there are enough registers.
#pragma once

#include <arm_neon.h>

#include "generic.h"

namespace bilateral_ops {
inline namespace BO_ISA {

template <>
struct Vec<float> {
  static constexpr int kLanes = 8;
  float32x4_t low, high;
};
template <>
struct Indices<float> {
  int32x4_t low, high;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = 4;
  float64x2_t low, high;
};
template <>
struct Indices<double> {
  int32x4_t v;
};

// One register: its first n elements, where n may be less than 1 or more than it has.
BO_INLINE float32x4_t load_some(const float* p, int64_t n) {
  if (n > 3) return vld1q_f32(p);
  float32x4_t r = vdupq_n_f32(0.0f);
  if (n > 0) r = vld1q_lane_f32(p, r, 0);
  if (n > 1) r = vld1q_lane_f32(p + 1, r, 1);
  if (n > 2) r = vld1q_lane_f32(p + 2, r, 2);
  return r;
}
BO_INLINE float64x2_t load_some(const double* p, int64_t n) {
  if (n > 1) return vld1q_f64(p);
  const float64x2_t zero = vdupq_n_f64(0.0);
  return n > 0 ? vld1q_lane_f64(p, zero, 0) : zero;
}
BO_INLINE void store_some(float* p, float32x4_t a, int64_t n) {
  if (n > 3) return vst1q_f32(p, a);
  if (n > 0) vst1q_lane_f32(p, a, 0);
  if (n > 1) vst1q_lane_f32(p + 1, a, 1);
  if (n > 2) vst1q_lane_f32(p + 2, a, 2);
}
BO_INLINE void store_some(double* p, float64x2_t a, int64_t n) {
  if (n > 1) return vst1q_f64(p, a);
  if (n > 0) vst1q_lane_f64(p, a, 0);
}
BO_INLINE float32x4_t power_of_two(float32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}
BO_INLINE float64x2_t power_of_two(float64x2_t n) {
  return vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(vcvtq_s64_f64(n), vdupq_n_s64(1023)), 52));
}
BO_INLINE float32x4_t select_inside(float32x4_t a, float32x4_t limit, float32x4_t x) {
  const uint32x4_t inside = vandq_u32(vcgtzq_f32(a), vcgtq_f32(limit, a));
  return vreinterpretq_f32_u32(vandq_u32(inside, vreinterpretq_u32_f32(x)));
}
BO_INLINE float64x2_t select_inside(float64x2_t a, float64x2_t limit, float64x2_t x) {
  const uint64x2_t inside = vandq_u64(vcgtzq_f64(a), vcgtq_f64(limit, a));
  return vreinterpretq_f64_u64(vandq_u64(inside, vreinterpretq_u64_f64(x)));
}

// What floats and doubles have in common. vmaxq is NaN where an operand is. vmaxnmq ignores a quiet NaN, and vminq
// returns a quiet NaN for any NaN: together they make it 0.
#define BO_BINARY(T, name, op) \
  BO_INLINE Vec<T> name(const Vec<T>& a, const Vec<T>& b) { return {op(a.low, b.low), op(a.high, b.high)}; }
#define BO_SELECT(T, f, name, compare)                                                                           \
  BO_INLINE Vec<T> name(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b) {                    \
    return {vbslq_##f(compare(x.low, y.low), a.low, b.low), vbslq_##f(compare(x.high, y.high), a.high, b.high)}; \
  }
#define BO_ARITHMETIC(T, f)                                                                                        \
  BO_INLINE Vec<T> load(const T* p) { return {vld1q_##f(p), vld1q_##f(p + Vec<T>::kLanes / 2)}; }                  \
  BO_INLINE void store(T* p, const Vec<T>& a) {                                                                    \
    vst1q_##f(p, a.low);                                                                                           \
    vst1q_##f(p + Vec<T>::kLanes / 2, a.high);                                                                     \
  }                                                                                                                \
  BO_INLINE Vec<T> load_n(const T* p, int64_t n) {                                                                 \
    constexpr int kHalf = Vec<T>::kLanes / 2;                                                                      \
    return {load_some(p, n), load_some(p + kHalf, n - kHalf)};                                                     \
  }                                                                                                                \
  BO_INLINE void store_n(T* p, const Vec<T>& a, int64_t n) {                                                       \
    constexpr int kHalf = Vec<T>::kLanes / 2;                                                                      \
    store_some(p, a.low, n);                                                                                       \
    store_some(p + kHalf, a.high, n - kHalf);                                                                      \
  }                                                                                                                \
  BO_INLINE T reduce_add(const Vec<T>& a) { return vaddvq_##f(vaddq_##f(a.low, a.high)); }                         \
  BO_INLINE Vec<T> broadcast(T a) { return {vdupq_n_##f(a), vdupq_n_##f(a)}; }                                     \
  BO_BINARY(T, operator+, vaddq_##f)                                                                               \
  BO_BINARY(T, operator-, vsubq_##f)                                                                               \
  BO_BINARY(T, operator*, vmulq_##f)                                                                               \
  BO_BINARY(T, operator/, vdivq_##f)                                                                               \
  BO_INLINE Vec<T> mul_add(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {                                    \
    return {vfmaq_##f(c.low, a.low, b.low), vfmaq_##f(c.high, a.high, b.high)};                                    \
  }                                                                                                                \
  BO_INLINE Vec<T> fused_mul_add(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) { return mul_add(a, b, c); }   \
  BO_SELECT(T, f, select_equal, vceqq_##f)                                                                         \
  BO_SELECT(T, f, select_greater, vcgtq_##f)                                                                       \
  BO_INLINE Vec<T> select_inside(const Vec<T>& a, const Vec<T>& limit, const Vec<T>& x) {                          \
    return {select_inside(a.low, limit.low, x.low), select_inside(a.high, limit.high, x.high)};                    \
  }                                                                                                                \
  BO_INLINE Vec<T> relu(const Vec<T>& a) {                                                                         \
    const auto zero = vdupq_n_##f(T(0));                                                                           \
    return {vmaxq_##f(a.low, zero), vmaxq_##f(a.high, zero)};                                                      \
  }                                                                                                                \
  BO_INLINE Vec<T> clamp(const Vec<T>& a, const Vec<T>& highest) {                                                 \
    const auto zero = vdupq_n_##f(T(0));                                                                           \
    return {vmaxnmq_##f(vminq_##f(a.low, highest.low), zero), vmaxnmq_##f(vminq_##f(a.high, highest.high), zero)}; \
  }                                                                                                                \
  BO_INLINE Vec<T> mul_power_of_two(const Vec<T>& a, const Vec<T>& n) {                                            \
    return a * Vec<T>{power_of_two(n.low), power_of_two(n.high)};                                                  \
  }
BO_ARITHMETIC(float, f32)
BO_ARITHMETIC(double, f64)
#undef BO_ARITHMETIC
#undef BO_SELECT
#undef BO_BINARY

BO_INLINE Indices<float> to_indices(const Vec<float>& a) { return {vcvtq_s32_f32(a.low), vcvtq_s32_f32(a.high)}; }
// The low 32 bits of four integers
BO_INLINE int32x4_t narrow(int64x2_t low, int64x2_t high) {
  return vuzp1q_s32(vreinterpretq_s32_s64(low), vreinterpretq_s32_s64(high));
}
BO_INLINE Indices<double> to_indices(const Vec<double>& a) {
  return {narrow(vcvtq_s64_f64(a.low), vcvtq_s64_f64(a.high))};
}
BO_INLINE Vec<float> to_values(const Indices<float>& a) { return {vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)}; }
BO_INLINE Vec<double> to_values(const Indices<double>& a) {
  return {vcvtq_f64_s64(vmovl_s32(vget_low_s32(a.v))), vcvtq_f64_s64(vmovl_high_s32(a.v))};
}
BO_INLINE void store_indices(int32_t* p, const Indices<float>& a) {
  vst1q_s32(p, a.low);
  vst1q_s32(p + 4, a.high);
}
BO_INLINE void store_indices(int32_t* p, const Indices<double>& a) { vst1q_s32(p, a.v); }
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  vst1q_f64(to, vfmaq_n_f64(vld1q_f64(to), a.low, weight));
  vst1q_f64(to + 2, vfmaq_n_f64(vld1q_f64(to + 2), a.high, weight));
}
BO_INLINE uint32_t equal_bits(const Indices<float>& a, const Indices<float>& b) {
  const uint32x4_t low = {1, 2, 4, 8}, high = {16, 32, 64, 128};
  const uint32x4_t bits = vandq_u32(vceqq_s32(a.low, b.low), low);
  return vaddvq_u32(vorrq_u32(bits, vandq_u32(vceqq_s32(a.high, b.high), high)));
}
BO_INLINE uint32_t bits_of(const Indices<float>& a) {
  const uint32x4_t one = vdupq_n_u32(1), four = vorrq_u32(vshlq_u32(one, a.low), vshlq_u32(one, a.high));
  const uint32x2_t two = vorr_u32(vget_low_u32(four), vget_high_u32(four));
  return vget_lane_u32(two, 0) | vget_lane_u32(two, 1);
}
BO_INLINE void widen(const Vec<float>& a, Vec<double>* v) {
  v[0] = {vcvt_f64_f32(vget_low_f32(a.low)), vcvt_high_f64_f32(a.low)};
  v[1] = {vcvt_f64_f32(vget_low_f32(a.high)), vcvt_high_f64_f32(a.high)};
}
BO_INLINE Indices<float> load_indices(const int32_t* p, float) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
BO_INLINE Indices<double> load_indices(const int32_t* p, double) { return {vld1q_s32(p)}; }
template <int D>
BO_INLINE int32x4_t next_index(int32x4_t i) {
  return vminq_s32(vaddq_s32(i, vdupq_n_s32(1)), vdupq_n_s32(D - 1));
}
template <int D>
BO_INLINE Indices<float> next_index(const Indices<float>& i) {
  return {next_index<D>(i.low), next_index<D>(i.high)};
}
template <int D>
BO_INLINE Indices<double> next_index(const Indices<double>& i) {
  return {next_index<D>(i.v)};
}
// The table instructions index bytes: entry k has bytes 4k … 4k + 3 of a table of floats, 8k … 8k + 7 of one of
// doubles. The compiler computes these once for all lookups with the same indices.
struct ByteIndices {
  uint8x16_t low, high;
};
BO_INLINE ByteIndices byte_indices(const Indices<float>& k) {
  const uint32x4_t first = vdupq_n_u32(0x03020100u), four = vdupq_n_u32(0x04040404u);
  return {vreinterpretq_u8_u32(vmlaq_u32(first, vreinterpretq_u32_s32(k.low), four)),
          vreinterpretq_u8_u32(vmlaq_u32(first, vreinterpretq_u32_s32(k.high), four))};
}
BO_INLINE ByteIndices byte_indices(const Indices<double>& k) {
  const uint8x16_t first = vreinterpretq_u8_u64(vdupq_n_u64(0x0706050403020100u));
  const uint32x4_t begin = vmulq_u32(vreinterpretq_u32_s32(k.v), vdupq_n_u32(0x08080808u));
  return {vaddq_u8(vreinterpretq_u8_u32(vzip1q_u32(begin, begin)), first),
          vaddq_u8(vreinterpretq_u8_u32(vzip2q_u32(begin, begin)), first)};
}
BO_INLINE uint8x16x4_t table_bytes(const void* table) { return vld1q_u8_x4(static_cast<const uint8_t*>(table)); }
template <int D>
BO_INLINE Vec<float> lookup(const float* table, const Indices<float>& index) {
  const ByteIndices i = byte_indices(index);
  if (D == 8) {
    const uint8x16x2_t t = vld1q_u8_x2(reinterpret_cast<const uint8_t*>(table));
    return {vreinterpretq_f32_u8(vqtbl2q_u8(t, i.low)), vreinterpretq_f32_u8(vqtbl2q_u8(t, i.high))};
  }
  const uint8x16x4_t t = table_bytes(table);
  return {vreinterpretq_f32_u8(vqtbl4q_u8(t, i.low)), vreinterpretq_f32_u8(vqtbl4q_u8(t, i.high))};
}
// 16 doubles are two tables. For an index beyond its table tbl returns 0, and tbx keeps the destination's byte.
template <int D>
BO_INLINE Vec<double> lookup(const double* table, const Indices<double>& index) {
  const ByteIndices i = byte_indices(index);
  const uint8x16x4_t t = table_bytes(table);
  uint8x16_t low = vqtbl4q_u8(t, i.low), high = vqtbl4q_u8(t, i.high);
  if (D == 16) {
    const uint8x16x4_t upper = table_bytes(table + 8);
    const uint8x16_t half = vdupq_n_u8(64);
    low = vqtbx4q_u8(low, upper, vsubq_u8(i.low, half));
    high = vqtbx4q_u8(high, upper, vsubq_u8(i.high, half));
  }
  return {vreinterpretq_f64_u8(low), vreinterpretq_f64_u8(high)};
}
// One half of a and one of b: low_high is a's low half, then b's high half.
BO_INLINE float64x2_t low_high(float64x2_t a, float64x2_t b) { return vcopyq_laneq_f64(b, 0, a, 0); }
BO_INLINE float64x2_t high_low(float64x2_t a, float64x2_t b) { return vextq_f64(a, b, 1); }
BO_INLINE float32x4_t low_high(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(low_high(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
BO_INLINE float32x4_t high_low(float32x4_t a, float32x4_t b) { return vextq_f32(a, b, 2); }
BO_INLINE float32x4_t low_low(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
BO_INLINE float32x4_t high_high(float32x4_t a, float32x4_t b) {
  return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
// a0 b1 a2 b3
BO_INLINE float32x4_t even_odd(float32x4_t a, float32x4_t b) {
  return vbslq_f32(vreinterpretq_u32_u64(vdupq_n_u64(0xffffffffu)), a, b);
}
// x: a0 b0 c0 a1, y: b1 c1 a2 b2, z: c2 a3 b3 c3. Their halves are paired so that equal lanes are of one pixel.
BO_INLINE void deinterleave3(float32x4_t x, float32x4_t y, float32x4_t z, float32x4_t& a, float32x4_t& b,
                             float32x4_t& c) {
  const float32x4_t ab = low_high(x, y), ca = high_low(x, z), bc = low_high(y, z);  // a0 b0 a2 b2, c0 a1 …, b1 c1 …
  a = even_odd(ab, ca);
  b = vtrn1q_f32(vrev64q_f32(ab), bc);
  c = even_odd(ca, bc);
}
BO_INLINE void interleave3(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t& x, float32x4_t& y,
                           float32x4_t& z) {
  const float32x4_t ab = vtrn1q_f32(a, b), ca = even_odd(c, a), bc = vtrn2q_f32(b, c);
  x = low_low(ab, ca);
  y = low_high(bc, ab);
  z = high_high(ca, bc);
}
BO_INLINE void deinterleave3(Vec<float>* v) {
  const Vec<float> x = v[0], y = v[1], z = v[2];
  deinterleave3(x.low, x.high, y.low, v[0].low, v[1].low, v[2].low);
  deinterleave3(y.high, z.low, z.high, v[0].high, v[1].high, v[2].high);
}
BO_INLINE void interleave3(Vec<float>* v) {
  const Vec<float> a = v[0], b = v[1], c = v[2];
  interleave3(a.low, b.low, c.low, v[0].low, v[0].high, v[1].low);
  interleave3(a.high, b.high, c.high, v[1].high, v[2].low, v[2].high);
}
// x: a0 b0, y: c0 a1, z: b1 c1
BO_INLINE void deinterleave3(Vec<double>* v) {
  const Vec<double> x = v[0], y = v[1], z = v[2];
  v[0] = {low_high(x.low, x.high), low_high(y.high, z.low)};
  v[1] = {high_low(x.low, y.low), high_low(y.high, z.high)};
  v[2] = {low_high(x.high, y.low), low_high(z.low, z.high)};
}
BO_INLINE void interleave3(Vec<double>* v) {
  const Vec<double> a = v[0], b = v[1], c = v[2];
  v[0] = {vzip1q_f64(a.low, b.low), low_high(c.low, a.low)};
  v[1] = {vzip2q_f64(b.low, c.low), vzip1q_f64(a.high, b.high)};
  v[2] = {low_high(c.high, a.high), vzip2q_f64(b.high, c.high)};
}
BO_INLINE Indices<float> broadcast_index(int32_t i, float) { return {vdupq_n_s32(i), vdupq_n_s32(i)}; }
BO_INLINE Indices<double> broadcast_index(int32_t i, double) { return {vdupq_n_s32(i)}; }
// A comparison sets all bits of the lanes where it holds.
template <int Bit>
BO_INLINE int32x4_t set_bit_if_greater(int32x4_t i, int32x4_t greater) {
  return vorrq_s32(i, vandq_s32(greater, vdupq_n_s32(Bit)));
}
template <int Bit>
BO_INLINE Indices<float> set_bit_if_greater(const Indices<float>& i, const Vec<float>& x, const Vec<float>& y) {
  return {set_bit_if_greater<Bit>(i.low, vreinterpretq_s32_u32(vcgtq_f32(x.low, y.low))),
          set_bit_if_greater<Bit>(i.high, vreinterpretq_s32_u32(vcgtq_f32(x.high, y.high)))};
}
template <int Bit>
BO_INLINE Indices<double> set_bit_if_greater(const Indices<double>& i, const Vec<double>& x, const Vec<double>& y) {
  return {set_bit_if_greater<Bit>(
      i.v, narrow(vreinterpretq_s64_u64(vcgtq_f64(x.low, y.low)), vreinterpretq_s64_u64(vcgtq_f64(x.high, y.high))))};
}
BO_INLINE uint16x8_t load_u16(const char* p) {
  return vreinterpretq_u16_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
}
BO_INLINE void store_u16(char* p, uint16x8_t v) { vst1q_u8(reinterpret_cast<uint8_t*>(p), vreinterpretq_u8_u16(v)); }
BO_INLINE Vec<float> levels(uint16x8_t v) {
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(v))), vcvtq_f32_u32(vmovl_high_u16(v))};
}
// v/top, correctly rounded: a product with 1/top, corrected by the remainder
BO_INLINE float32x4_t divide_exactly(float32x4_t v, float top) {
  const float32x4_t r = vdupq_n_f32(1.0f / top), q = vmulq_f32(v, r);
  return vfmaq_f32(q, vfmsq_f32(v, q, vdupq_n_f32(top)), r);
}
BO_INLINE Vec<float> divide_exactly(const Vec<float>& v, float top) {
  return {divide_exactly(v.low, top), divide_exactly(v.high, top)};
}
// v·top, rounded to an integer. Conversion and narrowing saturate; NaN becomes 0.
BO_INLINE uint16x8_t to_level(const Vec<float>& v, float top) {
  return vqmovn_high_u32(vqmovn_u32(vcvtnq_u32_f32(vmulq_n_f32(v.low, top))), vcvtnq_u32_f32(vmulq_n_f32(v.high, top)));
}
BO_INLINE Vec<float> load_as(Levels8, const char* p) {
  return levels(vmovl_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p))));
}
BO_INLINE Vec<float> load_as(U8, const char* p) { return divide_exactly(load_as(Levels8(), p), 255.0f); }
BO_INLINE void store_as(U8, char* p, const Vec<float>& a) {
  vst1_u8(reinterpret_cast<uint8_t*>(p), vqmovn_u16(to_level(a, 255.0f)));
}
BO_INLINE Vec<float> load_as(Levels16, const char* p) { return levels(load_u16(p)); }
BO_INLINE Vec<float> load_as(U16, const char* p) { return divide_exactly(load_as(Levels16(), p), 65535.0f); }
BO_INLINE void store_as(U16, char* p, const Vec<float>& a) { store_u16(p, to_level(a, 65535.0f)); }
BO_INLINE Vec<float> load_as(F16, const char* p) {
  const float16x8_t h = vreinterpretq_f16_u16(load_u16(p));
  return {vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}
BO_INLINE void store_as(F16, char* p, const Vec<float>& a) {
  store_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.low), a.high)));
}
BO_INLINE Vec<float> load_as(BF16, const char* p) {
  const uint16x8_t zero = vdupq_n_u16(0), h = load_u16(p);
  return {vreinterpretq_f32_u16(vzip1q_u16(zero, h)), vreinterpretq_f32_u16(vzip2q_u16(zero, h))};
}
// The upper halves of eight floats plus their rounding increments, which addhn adds and narrows in one instruction
BO_INLINE void store_as(BF16, char* p, const Vec<float>& a) {
  const uint16x8_t low = vreinterpretq_u16_f32(a.low), high = vreinterpretq_u16_f32(a.high),
                   upper = vuzp2q_u16(low, high);
  const uint32x4_t half = vdupq_n_u32(0x7fff), one = vdupq_n_u32(1);
  const uint32x4_t u = vreinterpretq_u32_u16(low), w = vreinterpretq_u32_u16(high);
  const uint16x4_t first = vaddhn_u32(u, vaddq_u32(half, vandq_u32(vshrq_n_u32(u, 16), one)));
  const uint16x8_t rounded = vaddhn_high_u32(first, w, vaddq_u32(half, vandq_u32(vshrq_n_u32(w, 16), one)));
  const uint16x8_t number =
      vuzp1q_u16(vreinterpretq_u16_u32(vceqq_f32(a.low, a.low)), vreinterpretq_u16_u32(vceqq_f32(a.high, a.high)));
  store_u16(p, vbslq_u16(number, rounded, vorrq_u16(upper, vdupq_n_u16(0x40))));
}
BO_INLINE Vec<float> repeat4(const float* p, int64_t n, int) {
  float32x4_t four;
  if (n == 4) {
    four = vld1q_f32(p);
  } else {
    four = vld1q_lane_f32(p, vdupq_n_f32(0.0f), 0);
    if (n > 1) four = vld1q_lane_f32(p + 1, four, 1);
    if (n > 2) four = vld1q_lane_f32(p + 2, four, 2);
  }
  return {four, four};
}
BO_INLINE Vec<double> repeat4(const double* p, int64_t n, int) {
  const float64x2_t zero = vdupq_n_f64(0.0);
  return {n > 1 ? vld1q_f64(p) : vld1q_lane_f64(p, zero, 0), n > 3   ? vld1q_f64(p + 2)
                                                             : n > 2 ? vld1q_lane_f64(p + 2, zero, 0)
                                                                     : zero};
}
BO_INLINE Vec<float> spread4(const float* p, int v) { return {vdupq_n_f32(p[2 * v]), vdupq_n_f32(p[2 * v + 1])}; }
BO_INLINE Vec<double> spread4(const double* p, int v) { return {vdupq_n_f64(p[v]), vdupq_n_f64(p[v])}; }
BO_INLINE void store_interleaved4(float* to, const Vec<float>& a, const Vec<float>& b, const Vec<float>& c,
                                  const Vec<float>& d) {
  vst4q_f32(to, float32x4x4_t{{a.low, b.low, c.low, d.low}});
  vst4q_f32(to + 16, float32x4x4_t{{a.high, b.high, c.high, d.high}});
}
BO_INLINE void store_interleaved4(double* to, const Vec<double>& a, const Vec<double>& b, const Vec<double>& c,
                                  const Vec<double>& d) {
  vst4q_f64(to, float64x2x4_t{{a.low, b.low, c.low, d.low}});
  vst4q_f64(to + 8, float64x2x4_t{{a.high, b.high, c.high, d.high}});
}
BO_INLINE void load_interleaved4(const float* p, int64_t pitch, Vec<float>* v) {
  float elements[32];
  for (int l = 0; l < 8; ++l) vst1q_f32(elements + 4 * l, vld1q_f32(p + l * pitch));
  const float32x4x4_t low = vld4q_f32(elements), high = vld4q_f32(elements + 16);
  for (int j = 0; j < 4; ++j) v[j] = {low.val[j], high.val[j]};
}
BO_INLINE void load_interleaved4(const double* p, int64_t pitch, Vec<double>* v) {
  double elements[16];
  for (int l = 0; l < 4; ++l)
    for (int j = 0; j < 4; j += 2) vst1q_f64(elements + 4 * l + j, vld1q_f64(p + l * pitch + j));
  const float64x2x4_t low = vld4q_f64(elements), high = vld4q_f64(elements + 8);
  for (int j = 0; j < 4; ++j) v[j] = {low.val[j], high.val[j]};
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
