// Is every operation of simd.h, lane by lane, the formula that it stands for? Compiled once for each instruction set.
//
// As in the kernels, nothing of the standard library is instantiated here.
#include <float.h>
#include <math.h>
#include <string.h>

#include "../../csrc/cpu/simd.h"
#include "question.h"

#define BO_STRING_(x) #x
#define BO_STRING(x) BO_STRING_(x)

namespace bilateral_ops {
inline namespace BO_ISA {
namespace {

constexpr int kMost = 64;  // no array below has more
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
  // A special number, a plain one, or any bits at all.
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
    const int kind = below(4);
    if (kind == 0) return special[below(11)] * (below(2) ? T(1) : T(-1));
    if (kind < 3) return uniform(T(-4), T(4));
    const typename Bits<T>::type any = static_cast<typename Bits<T>::type>(bits());
    T value;
    memcpy(&value, &any, sizeof value);
    return value;
  }

 private:
  uint64_t state_ = 1;
};

// The same number: any NaN is as good as another, the two zeros are not.
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

// Compares a vector, lane by lane.
template <class T>
void compare(Question& question, const Vec<T>& got, const T* wanted) {
  T lanes[kMost];
  store(lanes, got);
  compare(question, lanes, wanted, Vec<T>::kLanes);
}

// `vector`, of four vectors, against `formula`, of four numbers, which may use fewer.
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

// With those whose curves are searched, or that grids are looked up in registers for.
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

// A finite number that is not negative
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

void arithmetic() {
#define BO_ELEMENTWISE(text, expression)                        \
  {                                                             \
    Question question(BO_STRING(BO_ISA), text);                 \
    for_types([&](auto t) {                                     \
      using T = decltype(t);                                    \
      const auto formula = [](auto a, auto b, auto c, auto d) { \
        (void)a, (void)b, (void)c, (void)d;                     \
        return expression;                                      \
      };                                                        \
      elementwise<T>(question, formula, formula);               \
    });                                                         \
  }
  BO_ELEMENTWISE("a + b", a + b)
  BO_ELEMENTWISE("a - b", a - b)
  BO_ELEMENTWISE("a * b", a * b)
  BO_ELEMENTWISE("a / b", a / b)
  BO_ELEMENTWISE("madd", madd(a, b, c))
  BO_ELEMENTWISE("fused", fused(a, b, c))
  BO_ELEMENTWISE("lerp", lerp(a, b, c))
#undef BO_ELEMENTWISE
  {
    Question question(BO_STRING(BO_ISA), "where_equal");
    for_types([&](auto t) {
      elementwise<decltype(t)>(
          question, [](auto x, auto y, auto a, auto b) { return where_equal(x, y, a, b); },
          [](auto x, auto y, auto a, auto b) { return x == y ? a : b; });
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "where_greater");
    for_types([&](auto t) {
      elementwise<decltype(t)>(
          question, [](auto x, auto y, auto a, auto b) { return where_greater(x, y, a, b); },
          [](auto x, auto y, auto a, auto b) { return x > y ? a : b; });
      elementwise<decltype(t)>(
          question, [](auto x, auto y, auto a, auto) { return where_greater(x, y, a); },
          [](auto x, auto y, auto a, auto) { return x > y ? a : decltype(t)(0); });
    });
  }
  {
    // `most` as locate() has it: not negative.
    Question question(BO_STRING(BO_ISA), "clamp, where NaN is 0");
    for_types([&](auto t) {
      using T = decltype(t);
      elementwise<T>(
          question, [](auto a, auto most, auto, auto) { return clamp(a, limit(most)); },
          [](auto a, auto most, auto, auto) { return a > 0 ? (a < limit(most) ? a : limit(most)) : T(0); });
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "where_inside");
    for_types([&](auto t) {
      using T = decltype(t);
      elementwise<T>(
          question, [](auto a, auto most, auto x, auto) { return where_inside(a, most, x); },
          [](auto a, auto most, auto x, auto) { return a > 0 && a < most ? x : T(0); });
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "broadcast");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int round = 0; round < kRounds; ++round) {
        const T a = random.number<T>();
        T wanted[kMost];
        for (T& number : wanted) number = a;
        compare(question, broadcast(a), wanted);
      }
    });
  }
  {
    // Adding zero makes one of the two zeros, which of them relu gives is left open.
    Question question(BO_STRING(BO_ISA), "relu passes NaN on");
    for_types([&](auto t) {
      using T = decltype(t);
      elementwise<T>(
          question, [](auto a, auto, auto, auto) { return relu(a) + broadcast(T(0)); },
          [](auto a, auto, auto, auto) { return (a != a || a > 0 ? a : T(0)) + T(0); });
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "times_power, for every exponent");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int n = 1 - Bits<T>::exponent; n <= Bits<T>::exponent; ++n) {
        T a[kMost], wanted[kMost];
        for (int l = 0; l < Vec<T>::kLanes; ++l) {
          a[l] = random.number<T>();
          wanted[l] = a[l] * static_cast<T>(ldexp(1.0, n));
        }
        compare(question, times_power(load(a), broadcast(static_cast<T>(n))), wanted);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "total");
    for_types([&](auto t) {
      using T = decltype(t);
      const T infinity = static_cast<T>(HUGE_VAL);
      Random random;
      for (int round = 0; round < kRounds; ++round) {
        // Whole numbers, whose sum is exact in any order; in some rounds infinities and NaN among them.
        T a[kMost], sum = T(0);
        for (int l = 0; l < Vec<T>::kLanes; ++l) {
          a[l] = static_cast<T>(random.below(2001) - 1000);
          if (round % 4 == 0 && random.below(8) == 0) a[l] = infinity;
          if (round % 8 == 0 && random.below(8) == 0) a[l] = -infinity;
          sum += a[l];
        }
        T got = total(load(a));
        compare(question, &got, &sum, 1);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "sigmoid, to 4 ulp");
    for_types([&](auto t) {
      using T = decltype(t);
      const T edge = sizeof(T) == 4 ? T(110) : T(760);
      const T special[] = {T(0),          -T(0),          static_cast<T>(HUGE_VAL), -static_cast<T>(HUGE_VAL),
                           Bits<T>::most, -Bits<T>::most, Bits<T>::least,           static_cast<T>(nan(""))};
      Random random;
      for (int round = 0; round < 4 * kRounds; ++round) {
        T v[kMost], got[kMost];
        for (int l = 0; l < Vec<T>::kLanes; ++l) {
          const T reach = round % 2 ? edge : T(8);
          v[l] = random.below(16) ? random.uniform(-reach, reach) : special[random.below(8)];
        }
        store(got, sigmoid(load(v)));
        if (question.to_be_broken()) got[0] = T(3);
        for (int l = 0; l < Vec<T>::kLanes; ++l) {
          const long double wanted = 1.0L / (1.0L + expl(-static_cast<long double>(v[l])));
          // Below the normal numbers it may be zero.
          const long double error = fabsl(got[l] - wanted), bound = 4 * Bits<T>::unit * wanted + Bits<T>::least;
          const bool right = v[l] != v[l] ? got[l] != got[l] : error <= bound;
          question.expect(right, name_of<T>(), got[l], static_cast<double>(wanted));
        }
      }
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory: what is read ends at `edge`; what is written has guards around it.

// Numbers with others before and behind them.
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

// n random numbers, the last of them the last that can be read.
template <class T>
T* at_edge(char* edge, int n, Random& random) {
  T* const p = reinterpret_cast<T*>(edge) - n;
  for (int i = 0; i < n; ++i) p[i] = random.number<T>();
  return p;
}

void memory(char* edge) {
  {
    Question question(BO_STRING(BO_ISA), "load, and load_part of every length, read no further");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int round = 0; round < 64; ++round)
        for (int n = 0; n <= Vec<T>::kLanes; ++n) {
          const T* const p = at_edge<T>(edge, n, random);
          T wanted[kMost] = {};
          memcpy(wanted, p, static_cast<size_t>(n) * sizeof(T));
          compare(question, n < Vec<T>::kLanes ? load_part(p, n) : load(p), wanted);
        }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "store, and store_part of every length, write no further");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int round = 0; round < 64; ++round)
        for (int n = 0; n <= Vec<T>::kLanes; ++n) {
          T a[kMost];
          for (T& number : a) number = random.number<T>();
          Guarded<T> to;
          if (n < Vec<T>::kLanes) {
            store_part(to.inside(), load(a), n);
          } else {
            store(to.inside(), load(a));
          }
          to.expect_untouched(question, n);
          compare(question, to.inside(), a, n);
        }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "for_vectors copies every length");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int n = 0; n <= kMost; ++n) {
        const T* const p = at_edge<T>(edge, n, random);
        Guarded<T> to;
        for_vectors<T>(n, [&](int64_t first, auto lanes) { lanes.put(to.inside() + first, lanes.get(p + first)); });
        to.expect_untouched(question, n);
        compare(question, to.inside(), p, n);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "accumulate");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < kRounds; ++round) {
        const double weight = random.number<double>();
        T a[kLanes];
        double wanted[kLanes];
        Guarded<double> to;
        for (int l = 0; l < kLanes; ++l) {
          a[l] = random.number<T>();
          to.inside()[l] = random.number<double>();
          wanted[l] = madd(static_cast<double>(a[l]), weight, to.inside()[l]);
        }
        accumulate(to.inside(), load(a), weight);
        to.expect_untouched(question, kLanes);
        compare(question, to.inside(), wanted, kLanes);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "load_four, madd, store_four");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int round = 0; round < kRounds; ++round) {
        const double weight = random.number<double>();
        const T* const from = at_edge<T>(edge, 4, random);
        double wanted[4];
        Guarded<double> to;
        for (int l = 0; l < 4; ++l) {
          to.inside()[l] = random.number<double>();
          wanted[l] = madd(static_cast<double>(from[l]), weight, to.inside()[l]);
        }
        store_four(to.inside(), madd(load_four(from), weight, load_four(to.inside())));
        to.expect_untouched(question, 4);
        compare(question, to.inside(), wanted, 4);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "widen");
    Random random;
    constexpr int kLanes = Vec<float>::kLanes, kParts = kLanes / Vec<double>::kLanes;
    for (int round = 0; round < kRounds; ++round) {
      const float* const from = at_edge<float>(edge, kLanes, random);
      double wanted[kLanes], got[kLanes];
      for (int l = 0; l < kLanes; ++l) wanted[l] = static_cast<double>(from[l]);
      Vec<double> v[kParts];
      widen(load(from), v);
      for (int k = 0; k < kParts; ++k) store(got + k * Vec<double>::kLanes, v[k]);
      compare(question, got, wanted, kLanes);
      Vec<float> same[1];
      widen(load(from), same);
      compare(question, same[0], from);
    }
  }
  {
    Question question(BO_STRING(BO_ISA), "deinterleave, and interleave is the way back");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        const T* const p = at_edge<T>(edge, 3 * kLanes, random);
        Vec<T> v[3] = {load(p), load(p + kLanes), load(p + 2 * kLanes)};
        deinterleave(v);
        for (int c = 0; c < 3; ++c) {
          T wanted[kLanes];
          for (int l = 0; l < kLanes; ++l) wanted[l] = p[3 * l + c];
          compare(question, v[c], wanted);
        }
        interleave(v);
        for (int c = 0; c < 3; ++c) compare(question, v[c], p + c * kLanes);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "repeat4 reads as many numbers as there are, spread4 what it holds");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round)
        for (int n = 1; n <= 4; ++n) {
          const T* const p = at_edge<T>(edge, n, random);
          for (int v = 0; v * kLanes < 16; ++v) {
            T repeated[kLanes], spread[kLanes];
            for (int l = 0; l < kLanes; ++l) {
              const int i = v * kLanes + l;
              repeated[l] = i % 4 < n ? p[i % 4] : T(0);
              if (i < 4 * n) spread[l] = p[i / 4];
            }
            compare(question, repeat4(p, n, v), repeated);
            if ((v + 1) * kLanes <= 4 * n) compare(question, spread4(p, v), spread);
          }
        }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "store_columns3 writes three numbers");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes, kVectors = kLanes < 4 ? 4 / kLanes : 1, kNumbers = kVectors * kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        T from[kNumbers], wanted[3] = {};
        for (int i = 0; i < kNumbers; ++i) {
          from[i] = static_cast<T>(random.below(1000));  // sums are exact
          if (i % 4 < 3) wanted[i % 4] += from[i];
        }
        Vec<T> rows[kVectors];
        for (int v = 0; v < kVectors; ++v) rows[v] = load(from + v * kLanes);
        Guarded<T> to;
        store_columns3(rows, to.inside());
        to.expect_untouched(question, 3);
        compare(question, to.inside(), wanted, 3);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "store_affine3 reads and writes three numbers a pixel");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes, kVectors = 16 / kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        for (int pixels = 1; pixels <= 2; ++pixels) {
          T* const p = at_edge<T>(edge, 3 * pixels, random);
          T wanted[6];
          Vec<T> columns[2][kVectors];
          for (int i = 0; i < pixels; ++i) {
            T from[16];  // sums are exact
            for (T& number : from) number = static_cast<T>(random.below(1000));
            for (int j = 0; j < 3; ++j) p[3 * i + j] = static_cast<T>(random.below(1000));
            for (int j = 0; j < 3; ++j) {
              wanted[3 * i + j] = from[12 + j];
              for (int c = 0; c < 3; ++c) wanted[3 * i + j] += from[4 * c + j] * p[3 * i + c];
            }
            for (int v = 0; v < kVectors; ++v) columns[i][v] = load(from + v * kLanes);
          }
          const auto apply = [&](T* to) {
            if (pixels == 1) {
              store_affine3(columns[0], p, to);
            } else {
              store_affine3(columns[0], columns[1], p, to);
            }
          };
          Guarded<T> to;
          apply(to.inside());
          to.expect_untouched(question, 3 * pixels);
          compare(question, to.inside(), wanted, 3 * pixels);
          apply(p);
          compare(question, p, wanted, 3 * pixels);
        }
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "store_fours");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        T from[4][kLanes], wanted[4 * kLanes];
        for (int j = 0; j < 4; ++j)
          for (int l = 0; l < kLanes; ++l) wanted[4 * l + j] = from[j][l] = random.number<T>();
        Guarded<T> to;
        store_fours(to.inside(), load(from[0]), load(from[1]), load(from[2]), load(from[3]));
        to.expect_untouched(question, 4 * kLanes);
        compare(question, to.inside(), wanted, 4 * kLanes);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "load_fours reads fours");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        const int pitch = 4 + round % 9;
        const T* const p = at_edge<T>(edge, (kLanes - 1) * pitch + 4, random);
        Vec<T> got[4];
        load_fours(p, pitch, got);
        for (int j = 0; j < 4; ++j) {
          T wanted[kLanes];
          for (int l = 0; l < kLanes; ++l) wanted[l] = p[l * pitch + j];
          compare(question, got[j], wanted);
        }
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "repeat3_one and spread3 read three numbers");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        const T* const p = at_edge<T>(edge, 3, random);
        for (int v = 0; v * kLanes < 12; ++v) {
          T repeated[kLanes], spread[kLanes];
          for (int l = 0; l < kLanes; ++l) {
            const int i = v * kLanes + l;
            repeated[l] = i % 4 < 3 ? p[i % 4] : T(1);
            spread[l] = i < 12 ? p[i / 4] : T(0);
          }
          compare(question, repeat3_one(p, v), repeated);
          compare(question, spread3(p, v), spread);
        }
      }
    });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Indices

// Compares indices, as they are stored; integers to 2^24 are exact in either type.
template <class T>
void compare(Question& question, const Indices<T>& got, const int32_t* wanted) {
  Guarded<int32_t> to;
  store_indices(to.inside(), got);
  to.expect_untouched(question, Vec<T>::kLanes);
  if (question.to_be_broken()) ++to.inside()[0];
  for (int l = 0; l < Vec<T>::kLanes; ++l)
    question.expect(to.inside()[l] == wanted[l], name_of<T>(), to.inside()[l], wanted[l]);
}

void indices(char* edge) {
  {
    Question question(BO_STRING(BO_ISA), "load_indices reads, store_indices writes no further");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        int32_t* const p = reinterpret_cast<int32_t*>(edge) - kLanes;
        for (int l = 0; l < kLanes; ++l) p[l] = static_cast<int32_t>(random.bits() >> 33);
        compare<T>(question, load_indices(p, T()), p);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "truncated, and to_numbers");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < kRounds; ++round) {
        T a[kLanes], numbers[kLanes];
        int32_t wanted[kLanes];
        for (int l = 0; l < kLanes; ++l) {
          a[l] = random.uniform(T(0), round % 2 ? T(16) : T(1 << 24));
          if (random.below(4) == 0) a[l] = floor(a[l]);
          numbers[l] = floor(a[l]);
          wanted[l] = static_cast<int32_t>(numbers[l]);
        }
        compare<T>(question, truncated(load(a)), wanted);
        compare(question, to_numbers(truncated(load(a))), numbers);
        compare(question, to_numbers(load_indices(wanted, T())), numbers);
      }
    });
  }
}

// What curves' pieces are searched by, where they are.
void searches() {
  {
    Question question(BO_STRING(BO_ISA), "broadcast_index");
    for_searched_types([&](auto t) {
      using T = decltype(t);
      for (int32_t i = 0; i < 32; ++i) {
        int32_t wanted[kMost];
        for (int32_t& index : wanted) index = i;
        compare<T>(question, broadcast_index(i, T()), wanted);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "descend, with and without the bit");
    for_searched_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < kRounds; ++round) {
        T x[kLanes], y[kLanes];
        int32_t i[kLanes], wanted[3][kLanes];
        for (int l = 0; l < kLanes; ++l) {
          x[l] = random.number<T>();
          y[l] = random.below(4) ? random.number<T>() : x[l];
          i[l] = random.below(4);
          const int32_t greater = x[l] > y[l] ? 1 : 0;
          wanted[0][l] = i[l] / 2 * 2 + greater;
          wanted[1][l] = i[l] + 4 * greater;
          wanted[2][l] = i[l] + 8 * greater;
        }
        const Indices<T> from = load_indices(i, T());
        compare<T>(question, descend<4>(from, load(x), load(y)), wanted[1]);
        compare<T>(question, descend<8>(from, load(x), load(y)), wanted[2]);
        for (int32_t& index : i) index = index / 2 * 2;
        compare<T>(question, descend<1>(load_indices(i, T()), load(x), load(y)), wanted[0]);
      }
    });
  }
  {
    // As curves look for their knots: the middle of halves, then of quarters, …; a bit a step, the lowest first.
    Question question(BO_STRING(BO_ISA), "descend and lookup<8> find every part");
    for_searched_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      const auto reversed = [](int i) { return (i & 1) << 3 | (i & 2) << 1 | (i & 4) >> 1 | (i & 8) >> 3; };
      T middle[4][16] = {};
      for (int d = 0; d < 4; ++d)
        for (int i = 0; i < 1 << d; ++i) middle[d][i] = static_cast<T>(reversed(i) + (8 >> d));
      for (int first = 0; first < 16; ++first)
        for (int step = 0; step < 16; ++step) {
          T q[kLanes];
          int32_t wanted[kLanes];
          for (int l = 0; l < kLanes; ++l) {
            const int part = (first + step * l) % 16;
            wanted[l] = reversed(part);
            q[l] = static_cast<T>(part) + T(0.5);
          }
          const Vec<T> x = load(q);
          Indices<T> i = descend<1>(broadcast_index(0, T()), x, broadcast(middle[0][0]));
          i = descend<2>(i, x, lookup<8>(middle[1], i));
          i = descend<4>(i, x, lookup<8>(middle[2], i));
          i = descend<8>(i, x, lookup<8>(middle[3], i));
          compare<T>(question, i, wanted);
        }
    });
  }
}

template <int D>
void lookups(char* edge) {
  Question question(BO_STRING(BO_ISA), D == 8 ? "lookup<8>, every index in every lane" : "lookup<16>, the same");
  for_table_types([&](auto t) {
    using T = decltype(t);
    constexpr int kLanes = Vec<T>::kLanes;
    Random random;
    for (int step = 0; step < D; ++step)
      for (int first = 0; first < D; ++first) {
        int32_t index[kMost];
        T wanted[kLanes];
        // A register of tables may be read, of which a table is the first, or the second.
        constexpr int kTables = D == 8 ? kTablesInRegister<T> : 1;
        const T* const table = at_edge<T>(edge, D * kTables, random);
        for (int l = 0; l < kLanes; ++l) {
          index[l] = (first + step * l) % D;
          wanted[l] = table[index[l]];
        }
        compare(question, lookup<D>(table, load_indices(index, T())), wanted);
        if constexpr (kTables == 2) {
          for (int l = 0; l < kLanes; ++l) wanted[l] = table[D + index[l]];
          compare(question, lookup<16>(table, other_table(load_indices(index, T()))), wanted);
        }
      }
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// Storage formats, against formulas.h's own conversions

template <class Format>
bool same_stored(typename Format::Bits a, typename Format::Bits b) {
  return a == b || same(Format::value(a), Format::value(b));  // any NaN is as good as another here too
}

template <class Format>
void stores(Question& question, Random& random, const float* v) {
  using B = typename Format::Bits;
  constexpr int kLanes = Vec<float>::kLanes;
  Guarded<unsigned char> to;
  store_as(Format(), reinterpret_cast<char*>(to.inside()), load(v));
  to.expect_untouched(question, kLanes * static_cast<int>(sizeof(B)));
  B got[kLanes];
  memcpy(got, to.inside(), sizeof got);
  if (question.to_be_broken()) got[random.below(kLanes)] ^= 1;
  for (int l = 0; l < kLanes; ++l) {
    const B wanted = Format::bits(v[l]);
    question.expect(same_stored<Format>(got[l], wanted), "bits", got[l], wanted);
  }
}

template <class Format>
void loads(char* edge, const char* text) {
  using B = typename Format::Bits;
  constexpr int kLanes = Vec<float>::kLanes, kAll = 1 << (8 * sizeof(B));
  Question question(BO_STRING(BO_ISA), text);
  for (int first = 0; first < kAll; first += kLanes) {
    B bits[kLanes];
    float wanted[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      bits[l] = static_cast<B>(first + l);
      wanted[l] = Format::value(bits[l]);
    }
    char* const p = edge - sizeof bits;
    memcpy(p, bits, sizeof bits);
    compare(question, load_as(Format(), p), wanted);
  }
}

template <class Format>
void format(char* edge, const char* loading, const char* storing) {
  using B = typename Format::Bits;
  constexpr int kLanes = Vec<float>::kLanes, kAll = 1 << (8 * sizeof(B));
  loads<Format>(edge, loading);
  Random random;
  {
    Question question(BO_STRING(BO_ISA), storing);
    float v[kLanes];
    // What each number of the format, and each tie between two of them, is next to.
    for (int first = 0; first < kAll; first += kLanes) {
      for (int step = -2; step <= 2; ++step)
        for (int tie = 0; tie < 2; ++tie) {
          for (int l = 0; l < kLanes; ++l) {
            const B here = static_cast<B>(first + l), next = static_cast<B>(first + l + 1);
            const float low = Format::value(here), high = Format::value(next);
            const float middle = static_cast<float>((static_cast<double>(low) + static_cast<double>(high)) / 2);
            v[l] = bits_float(float_bits(tie ? middle : low) + static_cast<uint32_t>(step));
          }
          stores<Format>(question, random, v);
        }
    }
    // Every sign and exponent, with the ends of its fractions and others.
    for (uint32_t top = 0; top < 512; ++top)
      for (int round = 0; round < 64; ++round) {
        for (int l = 0; l < kLanes; ++l) {
          const uint32_t any = static_cast<uint32_t>(random.bits() >> 41);
          v[l] = bits_float(top << 23 | (round == 0 ? static_cast<uint32_t>(l) : round == 1 ? 0x7fffffu - l : any));
        }
        stores<Format>(question, random, v);
      }
  }
}

}  // namespace

void check_lanes(char* edge) {
  arithmetic();
  memory(edge);
  indices(edge);
  format<F16>(edge, "load_as float16, all bits", "store_as float16, as formulas.h rounds");
  format<BF16>(edge, "load_as bfloat16, all bits", "store_as bfloat16, as formulas.h rounds");
  format<U8>(edge, "load_as uint8, all bits", "store_as uint8, as formulas.h rounds");
  loads<Levels8>(edge, "load_as levels of uint8, all bits");
  loads<Levels16>(edge, "load_as levels of uint16, all bits");
  format<U16>(edge, "load_as uint16, all bits", "store_as uint16, as formulas.h rounds");
  if (kSearchedKnots<float> < kNever) searches();
  lookups<8>(edge);
  lookups<16>(edge);
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
