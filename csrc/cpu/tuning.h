// The constants that were chosen by measurement, for each instruction set where it matters.
#pragma once

#include <stdint.h>

#include "../compiler.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// Pixels in a tile, at most.
constexpr int64_t kTileWidth = 128;
// Pixels a thread should have before another one is worth waking.
constexpr int64_t kGrain = 4096;
// Work whose sums must not depend on the number of threads is cut into these many bands, whatever that number is.
constexpr int64_t kBands = 16;
// Numbers that are added up in the compute type: their sum, which may be one of many, goes to one in double.
constexpr int64_t kShortSum = 512;
// As many vectors of pixels as are worked on together: what they share, as a parameter, is then loaded once, and no sum
// waits for its own last term. And as many rows of a matrix.
constexpr int64_t kTogether = 4;
// Fewer channels are worked on one by one: most of a vector would be empty, and adding up its lanes takes time.
constexpr int64_t kFewChannels = 8;

// How deep a grid is looked up in registers, where that is faster than fetching a pixel's cells: 16 cells, or none.
template <class T>
constexpr int kTableDepth = 16;
// Whether HDRnet's matrices are applied faster by fetching cells even so.
template <class T>
constexpr bool kFetchesMatrices = kTableDepth<T> == 0;
// From how many knots on it is faster to search a curve's piece than to add up its knots.
template <class T>
constexpr int kSearchedKnots = 8;
constexpr int kNever = 1 << 30;
// From how many on their gradients are made of sums for each place among them.
template <class T>
constexpr int kSortedKnots = kSearchedKnots<T> < 10 ? kSearchedKnots<T> : 10;
// How many of a curve's 16 knots are added up in the piece that a search ends at: more make smaller tables.
template <class T>
constexpr int kKnotsInPiece = 1;

#if defined(BO_SIMD_AVX2)
// Four doubles to a register make a lookup of a few permutations, or a gather, which takes as long.
template <>
inline constexpr int kTableDepth<double> = 0;
// Applying takes 48 permutations for eight pixels, or 16 loads for two. (Differentiating has more to do with them.)
template <>
inline constexpr bool kFetchesMatrices<float> = true;
// A lookup in a table of 16 is two permutations and a choice. In tables of 8 a search takes as long as 12 knots on
// Zen 3; on Intel, where sums have fewer ports, as 7 by their number: 10 costs neither much.
template <>
inline constexpr int kKnotsInPiece<float> = 2;
template <>
inline constexpr int kSearchedKnots<float> = 10;
template <>
inline constexpr int kSearchedKnots<double> = kNever;
#endif

}  // namespace BO_ISA
}  // namespace bilateral_ops
