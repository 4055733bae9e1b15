// Constants chosen by measurement, per instruction set where they differ.
#pragma once

#include <stdint.h>

#include "../compiler.h"

namespace bilateral_ops {
inline namespace BO_ISA {

constexpr int kNever = 1 << 30;

// --- Tiles, bands and threads

// Pixels in a tile, at most.
constexpr int64_t kTileWidth = 128;
// Pixels that are worth waking a thread for.
constexpr int64_t kGrain = 4096;
// Pixels that are worth sums of their own over a few rows of a grid.
constexpr int64_t kGridGrain = 2 * kGrain;
// Sums over an image are cut into at most this many bands. The order of summation depends on it: it must not depend on
// the number of threads.
constexpr int64_t kBands = 16;
// So many terms, at most, are summed in the compute type before the sum is added to one in double.
constexpr int64_t kShortSum = 512;
// Vectors of pixels (or rows of a matrix) worked on at once: a parameter that they share is loaded once, and sums do
// not wait for their own previous addition.
constexpr int64_t kUnroll = 4;
// With fewer channels loops are scalar: a vector would be mostly empty, and reducing its lanes takes time.
constexpr int64_t kFewChannels = 8;

// --- Register tables (tables.inl) or fetched cells (cells.inl)?

// The deepest grid that is looked up in register tables; 0 where fetching each pixel's cells is faster.
template <class T>
constexpr int kTableDepth = 16;
// Whether the forward of 3 × 4 matrices fetches cells although there are tables.
template <class T>
constexpr bool kFetchesMatrices = kTableDepth<T> == 0;

// --- Splatting (splatter.inl)

// The pixels of a span with d depths are crowded if there are at least kManyPixels·d²: on average every d-th pixel then
// adds to the sums that the one before has just written.
constexpr int64_t kManyPixels = 2;
// Whether spans that are crowded, or have few depths, are added up depth by depth, where their contributions are made
// as they are added and not given.
#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512) || defined(BO_SIMD_NEON)
constexpr bool kSplatsByDepth = true;
#else
constexpr bool kSplatsByDepth = false;
#endif
// The most depths that are few, however few pixels the span has.
constexpr int64_t kFewDepths = 4;

// --- The curves of guide_curves (guides/curves.inl)

// From so many knots on, a pixel's piece of the curve is searched instead of summing over all knots.
template <class T>
constexpr int kSearchedKnots = 8;
// From so many knots on, their gradients come from sums per piece instead of sums per knot.
template <class T>
constexpr int kSortedKnots = kSearchedKnots<T> < 10 ? kSearchedKnots<T> : 10;
// Knots that share a piece; those after the first are summed. Fewer pieces make smaller tables to search.
template <class T>
constexpr int kKnotsInPiece = 1;

#if defined(BO_SIMD_AVX2)
// A register holds four doubles: a lookup takes several permutations, or a gather, which is as slow.
template <>
inline constexpr int kTableDepth<double> = 0;
// The tables take 48 permutations for eight pixels, cells 16 loads for two. The backward does more
// with each value that it looks up, and keeps the tables.
template <>
inline constexpr bool kFetchesMatrices<float> = true;
// A lookup among 16 entries is two permutations and a blend; among 8 entries a search takes as long as 12 knots on
// Zen 3 and, by port counts, as 7 on Intel. 10 is close to both.
template <>
inline constexpr int kKnotsInPiece<float> = 2;
template <>
inline constexpr int kSearchedKnots<float> = 10;
template <>
inline constexpr int kSearchedKnots<double> = kNever;
#endif

}  // namespace BO_ISA
}  // namespace bilateral_ops
