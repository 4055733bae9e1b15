// Vec<T>, a vector of floats or doubles, and its operations as plain loops over the lanes: what any compiler takes, and
// the definition of each operation. The header of an instruction set overloads what it has instructions for.
//
// Lane l of a vector loaded from p holds p[l]. "Vector v of a sequence" is the v-th group of kLanes elements of it.
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
// As many small integers, such as the indices of a table's entries.
template <class T>
struct Indices {
  int32_t v[Vec<T>::kLanes];
};

#define BO_LANES for (int l = 0; l < Vec<T>::kLanes; ++l)
// Defines a function of vectors by an expression in lane l.
#define BO_LANEWISE(Result, name, parameters, expression) \
  template <class T>                                      \
  BO_INLINE Result<T> name parameters {                   \
    Result<T> r;                                          \
    BO_LANES r.v[l] = expression;                         \
    return r;                                             \
  }

// --- Bits of integers that are not 0: the place of the lowest and of the highest one; how many there are

#if defined(_MSC_VER)
BO_INLINE int lowest_bit(uint64_t bits) {
  int place = 0;
  for (; !(bits & 1); bits >>= 1) ++place;
  return place;
}
BO_INLINE int highest_bit(uint64_t bits) {
  int place = 0;
  for (; bits >>= 1;) ++place;
  return place;
}
BO_INLINE int count_bits(uint64_t bits) {
  int count = 0;
  for (; bits; bits &= bits - 1) ++count;
  return count;
}
#else
BO_INLINE int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }
BO_INLINE int highest_bit(uint64_t bits) { return 63 - __builtin_clzll(bits); }
BO_INLINE int count_bits(uint64_t bits) { return __builtin_popcountll(bits); }
#endif

// --- Loads and stores. Pointers need not be aligned.

template <class T>
BO_INLINE Vec<T> load(const T* p) {
  Vec<T> r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
template <class T>
BO_INLINE void store(T* p, const Vec<T>& a) {
  memcpy(p, a.v, sizeof a.v);
}
// The first n < kLanes elements: other lanes are zero after a load, and are not stored.
BO_LANEWISE(Vec, load_n, (const T* p, int64_t n), l < n ? p[l] : T(0))
template <class T>
BO_INLINE void store_n(T* p, const Vec<T>& a, int64_t n) {
  for (int64_t l = 0; l < n; ++l) p[l] = a.v[l];
}
BO_LANEWISE(Vec, broadcast, (T a), a)
// The last argument of these two selects T.
BO_LANEWISE(Indices, load_indices, (const int32_t* p, T), p[l])
BO_LANEWISE(Indices, broadcast_index, (int32_t i, T), i)
template <class T>
BO_INLINE void store_indices(int32_t* p, const Indices<T>& a) {
  BO_LANES p[l] = a.v[l];
}

// Elements in a storage format of formulas.h
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
// The same lanes as one or more vectors of another type
template <class T>
BO_INLINE void widen(const Vec<T>& a, Vec<T>* v) {
  v[0] = a;
}
template <class From, class To>
BO_INLINE void widen(const Vec<From>& a, Vec<To>* v) {
  for (int l = 0; l < Vec<From>::kLanes; ++l) v[l / Vec<To>::kLanes].v[l % Vec<To>::kLanes] = static_cast<To>(a.v[l]);
}

// --- Arithmetic and comparisons, lane by lane

BO_LANEWISE(Vec, operator+, (const Vec<T>& a, const Vec<T>& b), a.v[l] + b.v[l])
BO_LANEWISE(Vec, operator-, (const Vec<T>& a, const Vec<T>& b), a.v[l] - b.v[l])
BO_LANEWISE(Vec, operator*, (const Vec<T>& a, const Vec<T>& b), a.v[l] * b.v[l])
BO_LANEWISE(Vec, operator/, (const Vec<T>& a, const Vec<T>& b), a.v[l] / b.v[l])
// a·b + c: fused where that is one instruction; always fused
BO_LANEWISE(Vec, mul_add, (const Vec<T>& a, const Vec<T>& b, const Vec<T>& c), mul_add(a.v[l], b.v[l], c.v[l]))
BO_LANEWISE(Vec, fused_mul_add, (const Vec<T>& a, const Vec<T>& b, const Vec<T>& c),
            fused_mul_add(a.v[l], b.v[l], c.v[l]))
// max(a, 0); NaN stays NaN.
BO_LANEWISE(Vec, relu, (const Vec<T>& a), relu(a.v[l]))
// a clamped to [0, highest]; NaN becomes 0.
BO_LANEWISE(Vec, clamp, (const Vec<T>& a, const Vec<T>& highest),
            a.v[l] > T(0) ? (a.v[l] < highest.v[l] ? a.v[l] : highest.v[l]) : T(0))
// a·2^n, where n is whole and 2^n is a normal number of T
BO_LANEWISE(Vec, mul_power_of_two, (const Vec<T>& a, const Vec<T>& n), a.v[l] * power_of_two(n.v[l]))
// x == y ? a : b
BO_LANEWISE(Vec, select_equal, (const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b),
            x.v[l] == y.v[l] ? a.v[l] : b.v[l])
// x > y ? a : b, where NaN is not greater; b is 0 by default.
BO_LANEWISE(Vec, select_greater, (const Vec<T>& x, const Vec<T>& y, const Vec<T>& a, const Vec<T>& b),
            x.v[l] > y.v[l] ? a.v[l] : b.v[l])
template <class T>
BO_INLINE Vec<T> select_greater(const Vec<T>& x, const Vec<T>& y, const Vec<T>& a) {
  return select_greater(x, y, a, Vec<T>{});
}
// 0 < a < limit ? x : 0
BO_LANEWISE(Vec, select_inside, (const Vec<T>& a, const Vec<T>& limit, const Vec<T>& x),
            a.v[l] > T(0) && a.v[l] < limit.v[l] ? x.v[l] : T(0))
// Truncates elements ≥ 0, and converts indices back.
BO_LANEWISE(Indices, to_indices, (const Vec<T>& a), static_cast<int32_t>(a.v[l]))
BO_LANEWISE(Vec, to_values, (const Indices<T>& a), static_cast<T>(a.v[l]))

// A bit for each lane, lane 0's the lowest: whether a and b are equal there
template <class T>
BO_INLINE uint32_t equal_bits(const Indices<T>& a, const Indices<T>& b) {
  uint32_t bits = 0;
  BO_LANES bits |= (a.v[l] == b.v[l] ? 1u : 0u) << l;
  return bits;
}
// A bit for each index < 32 that a lane has
template <class T>
BO_INLINE uint32_t bits_of(const Indices<T>& a) {
  uint32_t bits = 0;
  BO_LANES bits |= 1u << a.v[l];
  return bits;
}

// --- Sums over lanes

template <class T>
BO_INLINE T reduce_add(const Vec<T>& a) {
  T sum = T(0);
  BO_LANES sum += a.v[l];
  return sum;
}
// to[l] += weight·a[l], in double
template <class T>
BO_INLINE void accumulate(double* to, const Vec<T>& a, double weight) {
  BO_LANES to[l] = mul_add(a.v[l], weight, to[l]);
}

// --- Table lookups

// How many tables of 8 elements one register holds; second_table() turns an index into one of the second of them.
template <class T>
constexpr int kTablesInRegister = 1;
// table[index] of a table of D = 8 or 16 elements
template <int D, class T>
BO_INLINE Vec<T> lookup(const T* table, const Indices<T>& index) {
  Vec<T> r;
  BO_LANES r.v[l] = table[index.v[l]];
  return r;
}
// min(i + 1, D − 1): the index of the next entry, where there is one
template <int D, class T>
BO_INLINE Indices<T> next_index(const Indices<T>& i) {
  Indices<T> r;
  BO_LANES r.v[l] = i.v[l] + 1 < D ? i.v[l] + 1 : D - 1;
  return r;
}
// x > y ? i | Bit : i, where i does not have that bit: one step down a binary search tree
template <int Bit, class T>
BO_INLINE Indices<T> set_bit_if_greater(const Indices<T>& i, const Vec<T>& x, const Vec<T>& y) {
  Indices<T> r;
  BO_LANES r.v[l] = i.v[l] + (x.v[l] > y.v[l] ? Bit : 0);
  return r;
}

// --- Reordering

// Three vectors of interleaved channels, a0 b0 c0 a1 …, to one vector per channel, and back
template <class T>
BO_INLINE void deinterleave3(Vec<T>* v) {
  T elements[3 * Vec<T>::kLanes];
  for (int c = 0; c < 3; ++c) store(elements + c * Vec<T>::kLanes, v[c]);
  for (int c = 0; c < 3; ++c) BO_LANES v[c].v[l] = elements[3 * l + c];
}
template <class T>
BO_INLINE void interleave3(Vec<T>* v) {
  T elements[3 * Vec<T>::kLanes];
  for (int c = 0; c < 3; ++c) BO_LANES elements[3 * l + c] = v[c].v[l];
  for (int c = 0; c < 3; ++c) v[c] = load(elements + c * Vec<T>::kLanes);
}
// Four vectors as [lane][vector]: lane l of a, b, c and d goes to to[4l], …, to[4l + 3].
template <class T>
BO_INLINE void store_interleaved4(T* to, const Vec<T>& a, const Vec<T>& b, const Vec<T>& c, const Vec<T>& d) {
  BO_LANES {
    to[4 * l] = a.v[l];
    to[4 * l + 1] = b.v[l];
    to[4 * l + 2] = c.v[l];
    to[4 * l + 3] = d.v[l];
  }
}
// The inverse, of groups of four that are `pitch` elements apart: lane l of v[j] is p[l * pitch + j].
template <class T>
BO_INLINE void load_interleaved4(const T* p, int64_t pitch, Vec<T>* v) {
  for (int j = 0; j < 4; ++j) BO_LANES v[j].v[l] = p[l * pitch + j];
}
// Vector v of p[0], …, p[n − 1], padded with zeros to four elements and repeated
template <class T>
BO_INLINE Vec<T> repeat4(const T* p, int64_t n, int v) {
  Vec<T> r;
  BO_LANES {
    const int i = (v * Vec<T>::kLanes + l) % 4;
    r.v[l] = i < n ? p[i] : T(0);
  }
  return r;
}
// Vector v of p[0] four times, p[1] four times, …; reads only the elements that it holds.
BO_LANEWISE(Vec, spread4, (const T* p, int v), p[(v * Vec<T>::kLanes + l) / 4])
#undef BO_LANEWISE
#undef BO_LANES

}  // namespace BO_ISA
}  // namespace bilateral_ops
