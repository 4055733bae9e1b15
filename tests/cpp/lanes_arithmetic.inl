// Arithmetic and comparisons, compared with the scalar formulas
#pragma once

#include "lanes.h"

namespace bilateral_ops {
inline namespace BO_ISA {
namespace {

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
  BO_ELEMENTWISE("mul_add", mul_add(a, b, c))
  BO_ELEMENTWISE("fused_mul_add", fused_mul_add(a, b, c))
  BO_ELEMENTWISE("lerp", lerp(a, b, c))
#undef BO_ELEMENTWISE
  {
    Question question(BO_STRING(BO_ISA), "select_equal");
    for_types([&](auto t) {
      elementwise<decltype(t)>(
          question, [](auto x, auto y, auto a, auto b) { return select_equal(x, y, a, b); },
          [](auto x, auto y, auto a, auto b) { return x == y ? a : b; });
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "select_greater");
    for_types([&](auto t) {
      elementwise<decltype(t)>(
          question, [](auto x, auto y, auto a, auto b) { return select_greater(x, y, a, b); },
          [](auto x, auto y, auto a, auto b) { return x > y ? a : b; });
      elementwise<decltype(t)>(
          question, [](auto x, auto y, auto a, auto) { return select_greater(x, y, a); },
          [](auto x, auto y, auto a, auto) { return x > y ? a : decltype(t)(0); });
    });
  }
  {
    // `most` is not negative, as in locate().
    Question question(BO_STRING(BO_ISA), "clamp, where NaN is 0");
    for_types([&](auto t) {
      using T = decltype(t);
      elementwise<T>(
          question, [](auto a, auto most, auto, auto) { return clamp(a, limit(most)); },
          [](auto a, auto most, auto, auto) { return a > 0 ? (a < limit(most) ? a : limit(most)) : T(0); });
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "select_inside");
    for_types([&](auto t) {
      using T = decltype(t);
      elementwise<T>(
          question, [](auto a, auto most, auto x, auto) { return select_inside(a, most, x); },
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
    // Adding zero makes −0 to +0: relu may return either.
    Question question(BO_STRING(BO_ISA), "relu passes NaN on");
    for_types([&](auto t) {
      using T = decltype(t);
      elementwise<T>(
          question, [](auto a, auto, auto, auto) { return relu(a) + broadcast(T(0)); },
          [](auto a, auto, auto, auto) { return (a != a || a > 0 ? a : T(0)) + T(0); });
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "mul_power_of_two, for every exponent");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int n = 1 - Bits<T>::exponent; n <= Bits<T>::exponent; ++n) {
        T a[kMost], wanted[kMost];
        for (int l = 0; l < Vec<T>::kLanes; ++l) {
          a[l] = random.number<T>();
          wanted[l] = a[l] * static_cast<T>(ldexp(1.0, n));
        }
        compare(question, mul_power_of_two(load(a), broadcast(static_cast<T>(n))), wanted);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "reduce_add");
    for_types([&](auto t) {
      using T = decltype(t);
      const T infinity = static_cast<T>(HUGE_VAL);
      Random random;
      for (int round = 0; round < kRounds; ++round) {
        // Whole numbers, whose sum is exact in any order; in some rounds with infinities
        T a[kMost], sum = T(0);
        for (int l = 0; l < Vec<T>::kLanes; ++l) {
          a[l] = static_cast<T>(random.below(2001) - 1000);
          if (round % 4 == 0 && random.below(8) == 0) a[l] = infinity;
          if (round % 8 == 0 && random.below(8) == 0) a[l] = -infinity;
          sum += a[l];
        }
        T got = reduce_add(load(a));
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
          // Subnormal results may be zero.
          const long double error = fabsl(got[l] - wanted), bound = 4 * Bits<T>::unit * wanted + Bits<T>::least;
          const bool right = v[l] != v[l] ? got[l] != got[l] : error <= bound;
          question.expect(right, name_of<T>(), got[l], static_cast<double>(wanted));
        }
      }
    });
  }
}

}  // namespace
}  // namespace BO_ISA
}  // namespace bilateral_ops
