// Loads, stores and reordering: nothing is read behind `edge`, and nothing written beside the result.
#pragma once

#include "lanes.h"

namespace bilateral_ops {
inline namespace BO_ISA {
namespace {

void memory(char* edge) {
  {
    Question question(BO_STRING(BO_ISA), "load, and load_n of every length, read no further");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int round = 0; round < 64; ++round)
        for (int n = 0; n <= Vec<T>::kLanes; ++n) {
          const T* const p = at_edge<T>(edge, n, random);
          T wanted[kMost] = {};
          memcpy(wanted, p, static_cast<size_t>(n) * sizeof(T));
          compare(question, n < Vec<T>::kLanes ? load_n(p, n) : load(p), wanted);
        }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "store, and store_n of every length, write no further");
    for_types([&](auto t) {
      using T = decltype(t);
      Random random;
      for (int round = 0; round < 64; ++round)
        for (int n = 0; n <= Vec<T>::kLanes; ++n) {
          T a[kMost];
          for (T& number : a) number = random.number<T>();
          Guarded<T> to;
          if (n < Vec<T>::kLanes) {
            store_n(to.inside(), load(a), n);
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
        for_vectors<T>(n, [&](int64_t first, auto lanes) { lanes.store(to.inside() + first, lanes.load(p + first)); });
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
          wanted[l] = mul_add(static_cast<double>(a[l]), weight, to.inside()[l]);
        }
        accumulate(to.inside(), load(a), weight);
        to.expect_untouched(question, kLanes);
        compare(question, to.inside(), wanted, kLanes);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "load_double4, mul_add, store_double4");
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
          wanted[l] = mul_add(static_cast<double>(from[l]), weight, to.inside()[l]);
        }
        store_double4(to.inside(), mul_add(load_double4(from), weight, load_double4(to.inside())));
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
    Question question(BO_STRING(BO_ISA), "deinterleave3, and interleave3 is the way back");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        const T* const p = at_edge<T>(edge, 3 * kLanes, random);
        Vec<T> v[3] = {load(p), load(p + kLanes), load(p + 2 * kLanes)};
        deinterleave3(v);
        for (int c = 0; c < 3; ++c) {
          T wanted[kLanes];
          for (int l = 0; l < kLanes; ++l) wanted[l] = p[3 * l + c];
          compare(question, v[c], wanted);
        }
        interleave3(v);
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
    Question question(BO_STRING(BO_ISA), "repeat_half repeats eight of sixteen numbers");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes, kVectors = 16 / kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        T from[16], repeated[kLanes];
        for (int i = 0; i < 16; ++i) from[i] = static_cast<T>(random.below(1000));
        Vec<T> group[kVectors];
        for (int v = 0; v < kVectors; ++v) group[v] = load(from + v * kLanes);
        for (int half = 0; half < 2; ++half)
          for (int v = 0; v < kVectors; ++v) {
            for (int l = 0; l < kLanes; ++l) repeated[l] = from[8 * half + (v * kLanes + l) % 8];
            compare(question, repeat_half(group, half, v), repeated);
          }
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "store_column_sums3 writes three numbers");
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
        store_column_sums3(rows, to.inside());
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
    Question question(BO_STRING(BO_ISA), "store_interleaved4");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        T from[4][kLanes], wanted[4 * kLanes];
        for (int j = 0; j < 4; ++j)
          for (int l = 0; l < kLanes; ++l) wanted[4 * l + j] = from[j][l] = random.number<T>();
        Guarded<T> to;
        store_interleaved4(to.inside(), load(from[0]), load(from[1]), load(from[2]), load(from[3]));
        to.expect_untouched(question, 4 * kLanes);
        compare(question, to.inside(), wanted, 4 * kLanes);
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "load_interleaved4 reads fours");
    for_types([&](auto t) {
      using T = decltype(t);
      constexpr int kLanes = Vec<T>::kLanes;
      Random random;
      for (int round = 0; round < 64; ++round) {
        const int pitch = 4 + round % 9;
        const T* const p = at_edge<T>(edge, (kLanes - 1) * pitch + 4, random);
        Vec<T> got[4];
        load_interleaved4(p, pitch, got);
        for (int j = 0; j < 4; ++j) {
          T wanted[kLanes];
          for (int l = 0; l < kLanes; ++l) wanted[l] = p[l * pitch + j];
          compare(question, got[j], wanted);
        }
      }
    });
  }
  {
    Question question(BO_STRING(BO_ISA), "repeat_rgb1 and spread3 read three numbers");
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
          compare(question, repeat_rgb1(p, v), repeated);
          compare(question, spread3(p, v), spread);
        }
      }
    });
  }
}

}  // namespace
}  // namespace BO_ISA
}  // namespace bilateral_ops
