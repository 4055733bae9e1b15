// Storage formats, against the conversions of formulas.h.
#pragma once

#include "lanes.h"

namespace bilateral_ops {
inline namespace BO_ISA {
namespace {

template <class Format>
bool same_stored(typename Format::Bits a, typename Format::Bits b) {
  return a == b || same(Format::value(a), Format::value(b));  // all NaNs are the same
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
    // The neighbours of each value of the format, and of each tie between two of them
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
    // Every sign and exponent, with the smallest, the largest and random mantissas
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
}  // namespace BO_ISA
}  // namespace bilateral_ops
