// Vec<T> and its operations as loops over an array of lanes, for any compiler. An instruction set's header overloads
// what it has instructions for.
#pragma once

#include <string.h>

#include "../../formulas.h"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class T>
struct Vec {
  static constexpr int kLanes = 16 / sizeof(T);
  T v[kLanes];
};
template <class T>
struct Indices {
  int32_t v[Vec<T>::kLanes];
};

#define BO_LANES for (int l = 0; l < Vec<T>::kLanes; ++l)
template <class T>
BO_INLINE Vec<T> load(const T* p) {
  Vec<T> r;
  memcpy(r.v, p, sizeof r.v);  // p need not be aligned
  return r;
}
template <class T>
BO_INLINE void store(T* p, const Vec<T>& a) {
  memcpy(p, a.v, sizeof a.v);
}
template <class T>
BO_INLINE Vec<T> broadcast(T a) {
  Vec<T> r;
  BO_LANES r.v[l] = a;
  return r;
}
template <class T>
BO_INLINE Vec<T> operator+(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] + b.v[l];
  return r;
}
template <class T>
BO_INLINE Vec<T> operator-(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] - b.v[l];
  return r;
}
template <class T>
BO_INLINE Vec<T> operator*(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] * b.v[l];
  return r;
}
template <class T>
BO_INLINE Vec<T> madd(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {
  Vec<T> r;
  BO_LANES r.v[l] = madd(a.v[l], b.v[l], c.v[l]);
  return r;
}
// a where x = y, b elsewhere
template <class T>
BO_INLINE Vec<T> where_equal(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = x.v[l] == y.v[l] ? a.v[l] : b.v[l];
  return r;
}
// a where x > y, b elsewhere (NaN is not greater)
template <class T>
BO_INLINE Vec<T> where_greater(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = x.v[l] > y.v[l] ? a.v[l] : b.v[l];
  return r;
}
// a where x > y, 0 elsewhere
template <class T>
BO_INLINE Vec<T> where_greater(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a) {
  return where_greater(x, y, a, Vec<T>{});
}
template <class T>
BO_INLINE Vec<T> operator/(const Vec<T>& a, const Vec<T>& b) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] / b.v[l];
  return r;
}
// max(a, 0), which passes NaN on
template <class T>
BO_INLINE Vec<T> relu(const Vec<T>& a) {
  Vec<T> r;
  BO_LANES r.v[l] = relu(a.v[l]);
  return r;
}
// a·2^n for whole n that are exponents of T
template <class T>
BO_INLINE Vec<T> times_power(const Vec<T>& a, const Vec<T>& n) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] * power_of_two(n.v[l]);
  return r;
}
// a·b + c, always with one rounding
template <class T>
BO_INLINE Vec<T> fused(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {
  Vec<T> r;
  BO_LANES r.v[l] = fused(a.v[l], b.v[l], c.v[l]);
  return r;
}
// a clamped to [0, most]; NaN becomes 0
template <class T>
BO_INLINE Vec<T> clamp(const Vec<T>& a, const Vec<T>& most) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] > T(0) ? (a.v[l] < most.v[l] ? a.v[l] : most.v[l]) : T(0);
  return r;
}
// x where 0 < a < most, 0 elsewhere
template <class T>
BO_INLINE Vec<T> where_inside(const Vec<T>& a, const Vec<T>& most, const Vec<T>& x) {
  Vec<T> r;
  BO_LANES r.v[l] = a.v[l] > T(0) && a.v[l] < most.v[l] ? x.v[l] : T(0);
  return r;
}
// Numbers ≥ 0 without their fractions, and back
template <class T>
BO_INLINE Indices<T> truncated(const Vec<T>& a) {
  Indices<T> r;
  BO_LANES r.v[l] = static_cast<int32_t>(a.v[l]);
  return r;
}
template <class T>
BO_INLINE Vec<T> to_numbers(const Indices<T>& a) {
  Vec<T> r;
  BO_LANES r.v[l] = static_cast<T>(a.v[l]);
  return r;
}
template <class T>
BO_INLINE void store_indices(int32_t* p, const Indices<T>& a) {
  BO_LANES p[l] = a.v[l];
}
// The first n < kLanes numbers; the other lanes are loaded as zeros, and not stored.
template <class T>
BO_INLINE Vec<T> load_part(const T* p, int64_t n) {
  Vec<T> r;
  BO_LANES r.v[l] = l < n ? p[l] : T(0);
  return r;
}
template <class T>
BO_INLINE void store_part(T* p, const Vec<T>& a, int64_t n) {
  for (int64_t l = 0; l < n; ++l) p[l] = a.v[l];
}
// The sum of the lanes
template <class T>
BO_INLINE T total(const Vec<T>& a) {
  T sum = T(0);
  BO_LANES sum += a.v[l];
  return sum;
}
// to[lane] += weight·a[lane]
template <class T>
BO_INLINE void accumulate(double* to, const Vec<T>& a, double weight) {
  BO_LANES to[l] = madd(a.v[l], weight, to[l]);
}
// The second argument only says which T.
template <class T>
BO_INLINE Indices<T> load_indices(const int32_t* p, T) {
  Indices<T> r;
  BO_LANES r.v[l] = p[l];
  return r;
}
// Tables of 8 numbers that a register holds, side by side; other_table() makes a table's index one into the second.
template <class T>
constexpr int kTablesInRegister = 1;
// table[index], of a table of D = 8 or 16 numbers
template <int D, class T>
BO_INLINE Vec<T> lookup(const T* table, const Indices<T>& index) {
  Vec<T> r;
  BO_LANES r.v[l] = table[index.v[l]];
  return r;
}
// kLanes pixels of three interleaved channels to a vector a channel, and back
template <class T>
BO_INLINE void deinterleave(Vec<T>* v) {
  T numbers[3 * Vec<T>::kLanes];
  for (int c = 0; c < 3; ++c) store(numbers + c * Vec<T>::kLanes, v[c]);
  for (int c = 0; c < 3; ++c) BO_LANES v[c].v[l] = numbers[3 * l + c];
}
template <class T>
BO_INLINE void interleave(Vec<T>* v) {
  T numbers[3 * Vec<T>::kLanes];
  for (int c = 0; c < 3; ++c) BO_LANES numbers[3 * l + c] = v[c].v[l];
  for (int c = 0; c < 3; ++c) v[c] = load(numbers + c * Vec<T>::kLanes);
}
// Vector `v` of p[0], …, p[n − 1], zeros up to four, p[0], …
template <class T>
BO_INLINE Vec<T> repeat4(const T* p, int64_t n, int v) {
  Vec<T> r;
  BO_LANES {
    const int column = (v * Vec<T>::kLanes + l) % 4;
    r.v[l] = column < n ? p[column] : T(0);
  }
  return r;
}
// Vector `v` of p[0] four times, p[1] four times, …; no more is read than it holds
template <class T>
BO_INLINE Vec<T> spread4(const T* p, int v) {
  Vec<T> r;
  BO_LANES r.v[l] = p[(v * Vec<T>::kLanes + l) / 4];
  return r;
}
// Lane l of the four vectors to to[4l], …, to[4l + 3]
template <class T>
BO_INLINE void store_fours(T* to, const Vec<T>& a, const Vec<T>& b, const Vec<T>& c, const Vec<T>& d) {
  BO_LANES {
    to[4 * l] = a.v[l];
    to[4 * l + 1] = b.v[l];
    to[4 * l + 2] = c.v[l];
    to[4 * l + 3] = d.v[l];
  }
}
// And back: lane l of v[j] is p[l * pitch + j].
template <class T>
BO_INLINE void load_fours(const T* p, int64_t pitch, Vec<T>* v) {
  for (int j = 0; j < 4; ++j) BO_LANES v[j].v[l] = p[l * pitch + j];
}
// Numbers in a storage format of formulas.h, one after another
template <class Format, class T = float>
BO_INLINE Vec<T> load_as(Format, const char* p) {
  Vec<T> r;
  BO_LANES {
    typename Format::Bits bits;
    memcpy(&bits, p + l * static_cast<int>(sizeof bits), sizeof bits);
    r.v[l] = Format::value(bits);
  }
  return r;
}
template <class Format, class T>
BO_INLINE void store_as(Format, char* p, const Vec<T>& a) {
  BO_LANES {
    const typename Format::Bits bits = Format::bits(a.v[l]);
    memcpy(p + l * static_cast<int>(sizeof bits), &bits, sizeof bits);
  }
}
// A vector's numbers as those of vectors of another type, one after another
template <class T>
BO_INLINE void widen(const Vec<T>& a, Vec<T>* v) {
  v[0] = a;
}
template <class From, class To>
BO_INLINE void widen(const Vec<From>& a, Vec<To>* v) {
  for (int l = 0; l < Vec<From>::kLanes; ++l) v[l / Vec<To>::kLanes].v[l % Vec<To>::kLanes] = static_cast<To>(a.v[l]);
}
// i + Bit where x > y, else i, which does not have that bit
template <int Bit, class T>
BO_INLINE Indices<T> descend(const Indices<T>& i, const Vec<T>& x, const Vec<T>& y) {
  Indices<T> r;
  BO_LANES r.v[l] = i.v[l] + (x.v[l] > y.v[l] ? Bit : 0);
  return r;
}
// The second argument only says which T.
template <class T>
BO_INLINE Indices<T> broadcast_index(int32_t i, T) {
  Indices<T> r;
  BO_LANES r.v[l] = i;
  return r;
}
#undef BO_LANES

}  // namespace BO_ISA
}  // namespace bilateral_ops
