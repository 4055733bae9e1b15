// Sums over pixels for each cell of a grid whose pixels may be anywhere. They are sums of 64-bit integers, which are
// exact, so that atomics may add in any order. The unit that a cell's integers count is a power of two of its own:
//
//   largest   a first pass over the pixels finds the exponent of the largest contribution between each two cells
//   power     scale_cells: a cell's integers count 2^−power, of which each contribution to it has at most 2^bits, and
//             all contributions to a grid together less than 2^62
//   sums      contributions are rounded to whole units, and added by atomics
//   gradient  store_sums makes floating-point numbers of the sums
//
// A contribution is thus rounded to 2^−bits of the largest one to its cell. One that is not finite makes the eight
// cells that it reaches NaN, and changes no other.
#pragma once

#include "positions.cuh"

namespace bilateral_ops {

struct CellSums {
  uint32_t* largest;  // of the pixels that have a cell below them on all axes, as the bits of a float: ∞ and NaN on top
  int32_t* power;     // kNotFinite: the cell's gradient is NaN
  unsigned long long* sums;  // [cell][channel], two's complement
  int32_t cells, channels;   // of one grid; of a cell
  int bits;
};
constexpr int32_t kNotFinite = -1000;
// A power of two in float cannot take contributions below 2^−100 or so to integers at once; see raised().
constexpr int32_t kMostPower = 164, kRaisedFrom = 100, kRaised = 64;

// The workspace of the sums of all grids, to each of which up to that many pixels contribute. Sums and largest
// contributions are zeroed.
inline CellSums make_cell_sums(Launch& to, int64_t grids, int64_t cells, int64_t channels, int64_t pixels) {
  CellSums s;
  const int64_t all = grids * cells;
  s.sums = workspace<unsigned long long>(to, all * channels + ceil_div(all, 2));
  s.largest = reinterpret_cast<uint32_t*>(s.sums + all * channels);
  s.power = workspace<int32_t>(to, all);
  s.cells = static_cast<int32_t>(cells);
  s.channels = static_cast<int32_t>(channels);
  s.bits = 62;
  while (s.bits > 0 && int64_t(1) << (62 - s.bits) < pixels) --s.bits;
  fill_zero(to, s.sums, (all * channels + ceil_div(all, 2)) * 8);
  return s;
}

// Whether a tensor's axes from `axis` on are float32, at a multiple of `alignment`, one element after another.
inline bool is_dense(const Tensor& t, size_t alignment, int axis = 0) {
  if (t.dtype != DType::f32 || reinterpret_cast<uintptr_t>(t.data) % alignment != 0) return false;
  int64_t stride = 4;
  for (int i = t.rank - 1; i >= axis; stride *= t.shape[i--])
    if (t.shape[i] != 1 && t.strides[i] != stride) return false;
  return true;
}

// 2^n for n ≤ 127; 0 where that is no normal number
BO_DEVICE float two_to(int n) { return bits_float(static_cast<uint32_t>(max_of(n + 127, 0)) << 23); }
BO_DEVICE uint32_t magnitude_bits(float v) { return float_bits(v) & 0x7fffffffu; }

// Notes for the cell below a pixel that it contributes at most `bits`, as magnitude_bits; infinitely much where its
// position is NaN. Only the exponent counts: with all other bits set, the largest one seldom changes. A largest one
// that is seen too early is too small, and then the maximum is taken once more; seen in time, it saves most of the
// traffic of cells that many pixels share.
BO_DEVICE void note_largest(uint32_t* largest, const PixelPosition<float>& at, uint32_t bits) {
  const float t = at.y.t + at.x.t + at.z.t;
  bits = (t == t ? bits : magnitude_bits(t)) | 0x007fffffu;
  if (bits > *static_cast<volatile uint32_t*>(largest)) atomicMax(largest, bits);
}

// The power by which all of a pixel's contributions are raised before they are weighted, where one of its eight cells
// has a power above kRaisedFrom: the contributions are then below 2^−38.
BO_DEVICE int32_t raised(int32_t most_power) { return most_power > kRaisedFrom ? kRaised : 0; }

// Powers, from the largest contributions of the pixels in the eight cubes that a cell is a corner of. One thread per
// cell.
static __global__ void __launch_bounds__(128) scale_cells(CellSums to, int32_t Gh, int32_t Gw, int32_t Gd, int32_t N) {
  const int32_t at = static_cast<int32_t>(blockIdx.x) * 128 + static_cast<int32_t>(threadIdx.x);
  if (at >= N * to.cells) return;
  const int32_t column = at / Gd, z = at - column * Gd, row = column / Gw, x = column - row * Gw, y = row % Gh;
  uint32_t largest = 0;
#pragma unroll
  for (int corner = 0; corner < 8; ++corner) {
    const int dz = corner & 1, dx = corner >> 1 & 1, dy = corner >> 2;
    if (z >= dz && x >= dx && y >= dy) largest = max_of(largest, to.largest[at - (dy * Gw + dx) * Gd - dz]);
  }
  // largest < 2^(exponent − 126), where exponent is the float's eight bits
  const bool finite = largest < 0x7f800000u;
  to.power[at] = finite ? min_of(kMostPower, to.bits + 126 - static_cast<int32_t>(largest >> 23)) : kNotFinite;
}

// d_grid, from the sums. One thread per element.
static __global__ void __launch_bounds__(256) store_sums(Tensor d_grid, bool dense, CellSums from) {
  const uint32_t e = blockIdx.x * 256u + threadIdx.x, cell = e / static_cast<uint32_t>(from.channels);
  if (cell >= static_cast<uint32_t>(d_grid.shape[0]) * static_cast<uint32_t>(from.cells)) return;
  const int32_t power = from.power[cell];
  // In two steps, as 2^−power may be no float
  const float first = power == kNotFinite ? not_a_number<float>() : two_to(-(power >> 1));
  const float sum = static_cast<float>(static_cast<long long>(from.sums[e])) * first * two_to((power >> 1) - power);
  if (dense) {
    reinterpret_cast<float*>(d_grid.data)[e] = sum;
  } else {
    const uint32_t Gd = static_cast<uint32_t>(d_grid.shape[3]), Gw = static_cast<uint32_t>(d_grid.shape[2]),
                   Gh = static_cast<uint32_t>(d_grid.shape[1]);
    const uint32_t column = cell / Gd, row = column / Gw, n = row / Gh;
    char* const to = address_of(d_grid, n, row - n * Gh, column - row * Gw) + (cell - column * Gd) * d_grid.strides[3];
    store_one(d_grid.dtype, to + channel(d_grid, 4, e - cell * static_cast<uint32_t>(from.channels)), sum);
  }
}
inline void launch_store_sums(Launch& to, const Tensor& d_grid, const CellSums& from) {
  launch(to, store_sums, ceil_div(d_grid.shape[0] * from.cells * from.channels, 256), 256, 0, d_grid,
         is_dense(d_grid, 4), from);
}

}  // namespace bilateral_ops
