// Positions: in which cells pixels fall, and where between them.
#pragma once

#include "geometry.cuh"

namespace bilateral_ops {

// The position of one pixel on the three axes of the grid
template <class T>
struct PixelPosition {
  Position<T> y, x, z;
};

template <class T>
BO_DEVICE Position<T> rounded(const Position<double>& p) {
  return {p.k, static_cast<T>(p.t), static_cast<T>(p.slope)};
}

// Pixel p of a tile, whose guide has the value `depth`; and the same with the guide array's value
template <class T>
BO_DEVICE PixelPosition<T> locate(const Lattice<T>& g, const Sampling& at, const Tile& tile, int p, T depth) {
  PixelPosition<T> to;
  if (g.index.data && g.grid_at(tile.n, tile.y, tile.x + p) < 0) depth = not_a_number<T>();
  to.z = locate(depth, g.z);
  if (at.xy.data) {
    const char* const xy = address_of(at.xy, tile, p);
    to.x = locate(load_one<T>(at.xy.dtype, xy), g.u);
    to.y = locate(load_one<T>(at.xy.dtype, xy + at.xy.strides[3]), g.v);
  } else {
    to.x = rounded<T>(locate_pixel(tile.x + p + g.left, g.x));
    to.y = rounded<T>(locate_pixel(tile.y + g.top, g.y));
  }
  return to;
}
template <class T>
BO_DEVICE PixelPosition<T> locate(const Lattice<T>& g, const Sampling& at, const Tile& tile, int p) {
  return locate(g, at, tile, p, load_one<T>(at.guide.dtype, address_of(at.guide, tile, p)));
}

// The positions of a tile's pixels, in shared memory for all threads of the block
template <class T>
struct Positions {
  int32_t ky[kTileWidth], kx[kTileWidth], kz[kTileWidth];
  T ty[kTileWidth], tx[kTileWidth], tz[kTileWidth];

  __device__ void set(int p, const PixelPosition<T>& at) {
    ky[p] = at.y.k;
    kx[p] = at.x.k;
    kz[p] = at.z.k;
    ty[p] = at.y.t;
    tx[p] = at.x.t;
    tz[p] = at.z.t;
  }
  // Without slopes
  __device__ PixelPosition<T> get(int p) const {
    return {{ky[p], ty[p], T(0)}, {kx[p], tx[p], T(0)}, {kz[p], tz[p], T(0)}};
  }
};

}  // namespace bilateral_ops
