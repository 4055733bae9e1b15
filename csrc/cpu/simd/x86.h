// What AVX2 and AVX-512 share: operations that are the same intrinsics at both widths. The header that includes this
// one has defined its registers, Floats, Doubles and Integers, and
//   BO_MM(op)                       an intrinsic of its width
//   BO_COMPARE(type, x, y, how)     a mask of the lanes where a comparison holds
//   BO_SELECT(type, mask, a, b)     a in those lanes, b in the others
//   load_u8, load_u16, store_u16    as many elements as Floats has, in their own bits
//   narrow_to_u16(integers)         integers below 2^16 as 16 bits each
//   as_floats, as_integers          the same bits
#pragma once

// Keeps three vectors in registers: g++ would load them from memory again for every blend.
#define BO_IN_REGISTERS(x, y, z) asm("" : "+v"(x), "+v"(y), "+v"(z))

namespace bilateral_ops {
inline namespace BO_ISA {

template <>
struct Vec<float> {
  static constexpr int kLanes = sizeof(Floats) / sizeof(float);
  Floats v;
};
template <>
struct Indices<float> {
  Integers v;
};
template <>
struct Vec<double> {
  static constexpr int kLanes = sizeof(Doubles) / sizeof(double);
  Doubles v;
};

// Where an operand is NaN, max and min return their second one.
#define BO_ARITHMETIC(T, type)                                                                                   \
  BO_INLINE Vec<T> load(const T* p) { return {BO_MM(loadu_##type)(p)}; }                                         \
  BO_INLINE void store(T* p, const Vec<T>& a) { BO_MM(storeu_##type)(p, a.v); }                                  \
  BO_INLINE Vec<T> broadcast(T a) { return {BO_MM(set1_##type)(a)}; }                                            \
  BO_INLINE Vec<T> operator+(const Vec<T>& a, const Vec<T>& b) { return {BO_MM(add_##type)(a.v, b.v)}; }         \
  BO_INLINE Vec<T> operator-(const Vec<T>& a, const Vec<T>& b) { return {BO_MM(sub_##type)(a.v, b.v)}; }         \
  BO_INLINE Vec<T> operator*(const Vec<T>& a, const Vec<T>& b) { return {BO_MM(mul_##type)(a.v, b.v)}; }         \
  BO_INLINE Vec<T> operator/(const Vec<T>& a, const Vec<T>& b) { return {BO_MM(div_##type)(a.v, b.v)}; }         \
  BO_INLINE Vec<T> mul_add(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {                                  \
    return {BO_MM(fmadd_##type)(a.v, b.v, c.v)};                                                                 \
  }                                                                                                              \
  BO_INLINE Vec<T> fused_mul_add(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) { return mul_add(a, b, c); } \
  BO_INLINE Vec<T> relu(const Vec<T>& a) { return {BO_MM(max_##type)(BO_MM(setzero_##type)(), a.v)}; }           \
  BO_INLINE Vec<T> clamp(const Vec<T>& a, const Vec<T>& highest) {                                               \
    return {BO_MM(min_##type)(BO_MM(max_##type)(a.v, BO_MM(setzero_##type)()), highest.v)};                      \
  }                                                                                                              \
  BO_INLINE Vec<T> select_equal(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b) {            \
    return {BO_SELECT(type, BO_COMPARE(type, x.v, y.v, _CMP_EQ_OQ), a.v, b.v)};                                  \
  }                                                                                                              \
  BO_INLINE Vec<T> select_greater(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b) {          \
    return {BO_SELECT(type, BO_COMPARE(type, x.v, y.v, _CMP_GT_OQ), a.v, b.v)};                                  \
  }
BO_ARITHMETIC(float, ps)
BO_ARITHMETIC(double, pd)
#undef BO_ARITHMETIC

BO_INLINE Indices<float> broadcast_index(int32_t i, float) { return {BO_MM(set1_epi32)(i)}; }
BO_INLINE Indices<float> to_indices(const Vec<float>& a) { return {BO_MM(cvttps_epi32)(a.v)}; }
BO_INLINE Vec<float> to_values(const Indices<float>& a) { return {BO_MM(cvtepi32_ps)(a.v)}; }
BO_INLINE void accumulate(double* to, const Vec<double>& a, double weight) {
  store(to, mul_add(a, broadcast(weight), load(to)));
}

// v/top, correctly rounded: a product with 1/top, corrected by the remainder
BO_INLINE Vec<float> divide_exactly(const Vec<float>& v, float top) {
  const Vec<float> r = broadcast(1.0f / top), q = v * r;
  return mul_add({BO_MM(fnmadd_ps)(q.v, broadcast(top).v, v.v)}, r, q);
}
// v·top, rounded to an integer and saturated; NaN becomes 0.
BO_INLINE Integers to_level(const Vec<float>& v, float top) {
  return BO_MM(cvtps_epi32)(clamp(v * broadcast(top), broadcast(top)).v);
}
BO_INLINE Vec<float> load_as(Levels8, const char* p) { return {BO_MM(cvtepi32_ps)(BO_MM(cvtepu8_epi32)(load_u8(p)))}; }
BO_INLINE Vec<float> load_as(Levels16, const char* p) {
  return {BO_MM(cvtepi32_ps)(BO_MM(cvtepu16_epi32)(load_u16(p)))};
}
BO_INLINE Vec<float> load_as(U8, const char* p) { return divide_exactly(load_as(Levels8(), p), 255.0f); }
BO_INLINE Vec<float> load_as(U16, const char* p) { return divide_exactly(load_as(Levels16(), p), 65535.0f); }
BO_INLINE Vec<float> load_as(F16, const char* p) { return {BO_MM(cvtph_ps)(load_u16(p))}; }
BO_INLINE void store_as(F16, char* p, const Vec<float>& a) {
  store_u16(p, BO_MM(cvtps_ph)(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
BO_INLINE void store_as(U16, char* p, const Vec<float>& a) { store_u16(p, narrow_to_u16(to_level(a, 65535.0f))); }
BO_INLINE Vec<float> load_as(BF16, const char* p) {
  return {as_floats(BO_MM(slli_epi32)(BO_MM(cvtepu16_epi32)(load_u16(p)), 16))};
}
BO_INLINE void store_as(BF16, char* p, const Vec<float>& a) {
  const Integers u = as_integers(a.v), high = BO_MM(srli_epi32)(u, 16), odd = high & BO_MM(set1_epi32)(1);
  const Integers up = BO_MM(add_epi32)(BO_MM(add_epi32)(u, BO_MM(set1_epi32)(0x7fff)), odd);
  const Floats rounded = as_floats(BO_MM(srli_epi32)(up, 16)), quiet = as_floats(high | BO_MM(set1_epi32)(0x40));
  const auto nan = BO_COMPARE(ps, a.v, a.v, _CMP_UNORD_Q);
  store_u16(p, narrow_to_u16(as_integers(BO_SELECT(ps, nan, quiet, rounded))));
}

// Transposes the 4 × 4 elements in each 128-bit block of four vectors.
BO_INLINE void transpose4x4(Floats* v) {
  const auto as_pairs = [](Floats a) { return BO_MM(castps_pd)(a); };
  const auto ab = as_pairs(BO_MM(unpacklo_ps)(v[0], v[1])), ab2 = as_pairs(BO_MM(unpackhi_ps)(v[0], v[1]));
  const auto cd = as_pairs(BO_MM(unpacklo_ps)(v[2], v[3])), cd2 = as_pairs(BO_MM(unpackhi_ps)(v[2], v[3]));
  v[0] = BO_MM(castpd_ps)(BO_MM(unpacklo_pd)(ab, cd));
  v[1] = BO_MM(castpd_ps)(BO_MM(unpackhi_pd)(ab, cd));
  v[2] = BO_MM(castpd_ps)(BO_MM(unpacklo_pd)(ab2, cd2));
  v[3] = BO_MM(castpd_ps)(BO_MM(unpackhi_pd)(ab2, cd2));
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
