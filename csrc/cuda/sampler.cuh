// Sampling: the grid, interpolated at a pixel, for any number of channels (Sampler). apply_34.cuh has a faster way for
// 3 × 4 matrices under coarse grids; splatter.cuh has the transpose.
#pragma once

#include "positions.cuh"

namespace bilateral_ops {

// One channel of the eight cells around a pixel, interpolated in y, [x][z]: the values, and the steps in y
template <class T>
struct RowCells {
  T step[4], v[4];
};

// Samples a grid at one pixel, channel by channel. `channel` is a byte offset in a cell.
template <class T>
class Sampler {
 public:
  // Pixel p of a tile
  __device__ Sampler(const Tensor& grid, const Lattice<T>& g, const Tile& tile, int p, const PixelPosition<T>& at)
      : dtype_(grid.dtype),
        lowest_(address_of(grid, max_of<int64_t>(0, g.grid_at(tile.n, tile.y, tile.x + p)), at.y.k, at.x.k) +
                at.z.k * grid.strides[3]),
        up_(at.y.k + 1 < g.Gh ? grid.strides[1] : 0),
        right_(at.x.k + 1 < g.Gw ? grid.strides[2] : 0),
        above_(at.z.k + 1 < g.Gd ? grid.strides[3] : 0),
        ty_(at.y.t),
        tx_(at.x.t),
        tz_(at.z.t) {}

  // The interpolated value: in y, then x, then z
  __device__ T value(int64_t channel) const {
    const RowCells<T> at = row_cells(channel);
    return lerp(lerp(at.v[0], at.v[2], tx_), lerp(at.v[1], at.v[3], tx_), tz_);
  }

  // Adds d·∂value/∂p for the position p on each axis.
  __device__ void add_slopes(int64_t channel, T d, T& y, T& x, T& z) const {
    const RowCells<T> at = row_cells(channel);
    const T lower = lerp(at.v[0], at.v[2], tx_), upper = lerp(at.v[1], at.v[3], tx_);
    z = mul_add(d, upper - lower, z);
    x = mul_add(d, lerp(at.v[2] - at.v[0], at.v[3] - at.v[1], tz_), x);
    y = mul_add(d, lerp(lerp(at.step[0], at.step[2], tx_), lerp(at.step[1], at.step[3], tx_), tz_), y);
  }

 private:
  __device__ RowCells<T> row_cells(int64_t channel) const {
    RowCells<T> to;
    const char* const p = lowest_ + channel;
    with_storage<false>(dtype_, T(), [&](auto storage) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const char* const q = p + ((j & 2) ? right_ : 0) + ((j & 1) ? above_ : 0);
        to.v[j] = storage.load_one(q);
        to.step[j] = storage.load_one(q + up_) - to.v[j];
      }
    });
#pragma unroll
    for (int j = 0; j < 4; ++j) to.v[j] = mul_add(ty_, to.step[j], to.v[j]);
    return to;
  }

  const DType dtype_;
  const char* const lowest_;          // the cell with the lowest indices
  const int64_t up_, right_, above_;  // bytes to the next one in y, x and z; 0 at the grid's end
  const T ty_, tx_, tz_;
};

}  // namespace bilateral_ops
