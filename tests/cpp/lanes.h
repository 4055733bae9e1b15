// What the checks of lanes share: random values, comparisons, and memory that ends or is guarded.
//
// As in the kernels, nothing of the standard library is instantiated here.
#pragma once

#include <float.h>
#include <math.h>
#include <string.h>

#include "../../csrc/cpu/matrix34.h"
#include "../../csrc/cpu/tuning.h"
#include "question.h"

#define BO_STRING_(x) #x
#define BO_STRING(x) BO_STRING_(x)

namespace bilateral_ops {
inline namespace BO_ISA {
namespace {

constexpr int kMost = 64;  // the most lanes or elements of an array below
constexpr int kRounds = 4096;

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using type = uint32_t;
  static constexpr float least = FLT_MIN, most = FLT_MAX, unit = FLT_EPSILON;
  static constexpr int exponent = 127;
};
template <>
struct Bits<double> {
  using type = uint64_t;
  static constexpr double least = DBL_MIN, most = DBL_MAX, unit = DBL_EPSILON;
  static constexpr int exponent = 1023;
};

class Random {
 public:
  uint64_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ ^ (state_ >> 32)) * 0x9e3779b97f4a7c15u;
  }
  int below(int n) { return static_cast<int>((bits() >> 33) % static_cast<uint64_t>(n)); }
  template <class T>
  T uniform(T from, T to) {
    return from + (to - from) * static_cast<T>(static_cast<double>(bits() >> 11) * 0x1p-53);
  }
  // A special value, one near 1, or any bits at all
  template <class T>
  T number() {
    const T infinity = static_cast<T>(HUGE_VAL), tiny = Bits<T>::least * Bits<T>::unit;
    const T special[] = {T(0),
                         T(1),
                         T(2),
                         T(0.5),
                         infinity,
                         tiny,
                         3 * tiny,
                         Bits<T>::least,
                         Bits<T>::most,
                         static_cast<T>(nan("")),
                         1 + Bits<T>::unit};
    const int choice = below(4);
    if (choice == 0) return special[below(11)] * (below(2) ? T(1) : T(-1));
    if (choice < 3) return uniform(T(-4), T(4));
    const typename Bits<T>::type any = static_cast<typename Bits<T>::type>(bits());
    T value;
    memcpy(&value, &any, sizeof value);
    return value;
  }

 private:
  uint64_t state_ = 1;
};

// The same bits, but all NaNs are the same.
template <class T>
bool same(T a, T b) {
  return (a != a && b != b) || memcmp(&a, &b, sizeof a) == 0;
}

template <class T>
const char* name_of() {
  return sizeof(T) == 4 ? "float" : "double";
}

template <class T>
void compare(Question& question, T* got, const T* wanted, int n) {
  if (question.to_be_broken()) got[0] = same(got[0], T(3)) ? T(4) : T(3);
  for (int i = 0; i < n; ++i) question.expect(same(got[i], wanted[i]), name_of<T>(), got[i], wanted[i]);
}

// Compares a vector with `wanted`, lane by lane.
template <class T>
void compare(Question& question, const Vec<T>& got, const T* wanted) {
  T lanes[kMost];
  store(lanes, got);
  compare(question, lanes, wanted, Vec<T>::kLanes);
}

// Compares `vector`, a function of four vectors, with `formula`, the function of four lanes.
template <class T, class V, class F>
void elementwise(Question& question, V&& vector, F&& formula) {
  constexpr int kLanes = Vec<T>::kLanes;
  Random random;
  T in[4][kLanes], wanted[kLanes];
  for (int round = 0; round < kRounds; ++round) {
    for (int l = 0; l < kLanes; ++l) {
      for (T* numbers : in) numbers[l] = random.number<T>();
      if (random.below(4) == 0) in[1][l] = in[0][l];  // for comparisons
      wanted[l] = formula(in[0][l], in[1][l], in[2][l], in[3][l]);
    }
    compare(question, vector(load(in[0]), load(in[1]), load(in[2]), load(in[3])), wanted);
  }
}

// Calls f with a float and with a double.
template <class F>
void for_types(F&& f) {
  f(float());
  f(double());
}

// Calls f with the types that have searched curves; that have register tables.
template <class F>
void for_searched_types(F&& f) {
  if constexpr (kSearchedKnots<float> < kNever) f(float());
  if constexpr (kSearchedKnots<double> < kNever) f(double());
}
template <class F>
void for_table_types(F&& f) {
  if constexpr (kTableDepth<float> > 0) f(float());
  if constexpr (kTableDepth<double> > 0) f(double());
}

// v, or 0 where v is negative or not finite
template <class T>
T limit(T v) {
  return v > 0 && v <= Bits<T>::most ? v : T(0);
}
template <class T>
Vec<T> limit(const Vec<T>& v) {
  T lanes[kMost];
  store(lanes, v);
  for (int l = 0; l < Vec<T>::kLanes; ++l) lanes[l] = limit(lanes[l]);
  return load(lanes);
}

// Elements with guards before and behind them
template <class N>
class Guarded {
 public:
  Guarded() {
    for (int i = 0; i < 3 * kMost; ++i) numbers_[i] = guard(i);
  }
  N* inside() { return numbers_ + kMost; }
  void expect_untouched(Question& question, int written) {
    if (question.to_be_broken()) numbers_[kMost + written] += N(1);
    for (int i = 0; i < 3 * kMost; ++i) {
      if (i >= kMost && i < kMost + written) continue;
      question.expect(numbers_[i] == guard(i), "beside what was stored", static_cast<double>(numbers_[i]),
                      static_cast<double>(guard(i)));
    }
  }

 private:
  static N guard(int i) { return static_cast<N>(1000 + i); }
  N numbers_[3 * kMost];
};

// n random elements at the end of readable memory
template <class T>
T* at_edge(char* edge, int n, Random& random) {
  T* const p = reinterpret_cast<T*>(edge) - n;
  for (int i = 0; i < n; ++i) p[i] = random.number<T>();
  return p;
}

// Compares stored indices.
template <class T>
void compare(Question& question, const Indices<T>& got, const int32_t* wanted) {
  Guarded<int32_t> to;
  store_indices(to.inside(), got);
  to.expect_untouched(question, Vec<T>::kLanes);
  if (question.to_be_broken()) ++to.inside()[0];
  for (int l = 0; l < Vec<T>::kLanes; ++l)
    question.expect(to.inside()[l] == wanted[l], name_of<T>(), to.inside()[l], wanted[l]);
}

}  // namespace
}  // namespace BO_ISA
}  // namespace bilateral_ops
