// Indices, searches and lookups.
#pragma once

#include "lanes.h"

namespace bilateral_ops {
inline namespace BO_ISA {
namespace {

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
    Question question(BO_STRING(BO_ISA), "to_indices, and to_values");
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
        compare<T>(question, to_indices(load(a)), wanted);
        compare(question, to_values(to_indices(load(a))), numbers);
        compare(question, to_values(load_indices(wanted, T())), numbers);
      }
    });
  }
}

template <class N, int n>
void compare_integers(Question& question, N (&got)[n], const N* wanted) {
  if (question.to_be_broken()) ++got[0];
  for (int i = 0; i < n; ++i) question.expect(got[i] == wanted[i], "integers", got[i], wanted[i]);
}
void bits() {
  {
    Question question(BO_STRING(BO_ISA), "lowest_bit, highest_bit, count_bits");
    Random random;
    for (int low = 0; low < 64; ++low)
      for (int high = low; high < 64; ++high) {
        uint64_t bits = uint64_t(1) << low | uint64_t(1) << high;
        int count = high > low ? 2 : 1;
        for (int place = low + 1; place < high; ++place)
          if (random.below(2)) {
            bits |= uint64_t(1) << place;
            ++count;
          }
        const int wanted[] = {low, high, count};
        int got[] = {lowest_bit(bits), highest_bit(bits), count_bits(bits)};
        compare_integers(question, got, wanted);
      }
  }
  {
    Question question(BO_STRING(BO_ISA), "equal_bits, and index_bits of any number of indices");
    Random random;
    constexpr int kLanes = Vec<float>::kLanes, kIndices = 4 * kLanes;
    for (int round = 0; round < kRounds; ++round) {
      int32_t a[kIndices], b[kLanes];
      for (int l = 0; l < kIndices; ++l) a[l] = random.below(round % 2 ? 32 : 3);
      uint32_t equal = 0;
      for (int l = 0; l < kLanes; ++l) {
        b[l] = random.below(2) ? a[l] : a[l] + 1;
        equal |= (b[l] == a[l] ? 1u : 0u) << l;
      }
      uint32_t got[] = {equal_bits(load_indices(a, 0.0f), load_indices(b, 0.0f))};
      compare_integers(question, got, &equal);
      for (int64_t n = 1; n <= kIndices; ++n) {
        uint32_t used = 0;
        for (int64_t i = 0; i < n; ++i) used |= 1u << a[i];
        got[0] = index_bits(a, n);
        compare_integers(question, got, &used);
      }
    }
  }
}

// The steps of the search for a curve's piece
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
    Question question(BO_STRING(BO_ISA), "set_bit_if_greater, with and without the bit");
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
        compare<T>(question, set_bit_if_greater<4>(from, load(x), load(y)), wanted[1]);
        compare<T>(question, set_bit_if_greater<8>(from, load(x), load(y)), wanted[2]);
        for (int32_t& index : i) index = index / 2 * 2;
        compare<T>(question, set_bit_if_greater<1>(load_indices(i, T()), load(x), load(y)), wanted[0]);
      }
    });
  }
  {
    // As SearchedCurves: by the middle of halves, then of quarters, …; each step sets a bit, the lowest first.
    Question question(BO_STRING(BO_ISA), "set_bit_if_greater and lookup<8> find every part");
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
          Indices<T> i = set_bit_if_greater<1>(broadcast_index(0, T()), x, broadcast(middle[0][0]));
          i = set_bit_if_greater<2>(i, x, lookup<8>(middle[1], i));
          i = set_bit_if_greater<4>(i, x, lookup<8>(middle[2], i));
          i = set_bit_if_greater<8>(i, x, lookup<8>(middle[3], i));
          compare<T>(question, i, wanted);
        }
    });
  }
}

template <int D>
void next_indices() {
  Question question(BO_STRING(BO_ISA), D == 8 ? "next_index<8>" : "next_index<16>");
  for_table_types([&](auto t) {
    using T = decltype(t);
    constexpr int kLanes = Vec<T>::kLanes;
    for (int first = 0; first < D; ++first) {
      int32_t index[kLanes], wanted[kLanes];
      for (int l = 0; l < kLanes; ++l) {
        index[l] = (first + l) % D;
        wanted[l] = index[l] < D - 1 ? index[l] + 1 : D - 1;
      }
      compare<T>(question, next_index<D>(load_indices(index, T())), wanted);
    }
  });
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
        // A whole register may be read, which may hold two tables.
        constexpr int kTables = D == 8 ? kTablesInRegister<T> : 1;
        const T* const table = at_edge<T>(edge, D * kTables, random);
        for (int l = 0; l < kLanes; ++l) {
          index[l] = (first + step * l) % D;
          wanted[l] = table[index[l]];
        }
        compare(question, lookup<D>(table, load_indices(index, T())), wanted);
        if constexpr (kTables == 2) {
          for (int l = 0; l < kLanes; ++l) wanted[l] = table[D + index[l]];
          compare(question, lookup<16>(table, second_table(load_indices(index, T()))), wanted);
        }
      }
  });
}

}  // namespace
}  // namespace BO_ISA
}  // namespace bilateral_ops
