// How a grid lies under an image (Lattice): the sizes of a call, and the rules that map pixels to positions on the
// grid.
#pragma once

#include "tiles.cuh"

namespace bilateral_ops {

template <class T>
BO_DEVICE T not_a_number() {
  return static_cast<T>(bits_float(0x7fc00000u));
}

// Axis of formulas.h in the compute type, so that devices need no double for float
template <class T>
struct AxisRule {
  T scale, shift, last;
};
template <class T>
AxisRule<T> make_rule(int64_t cells, bool align_corners) {
  const Axis a = make_axis(cells, align_corners);
  return {static_cast<T>(a.scale), static_cast<T>(a.shift), static_cast<T>(a.last)};
}
template <class T>
BO_DEVICE Position<T> locate(T u, const AxisRule<T>& a) {
  return locate(u, a.scale, a.shift, a.last);
}

template <class T>
struct Lattice {
  int64_t N, H, W, Gh, Gw, Gd, C, top, left;
  PixelAxis y, x;       // the rules of pixel indices
  AxisRule<T> v, u, z;  // the rules of coordinates: xy's, and the guide
  GridIndex index;
  int64_t grids;  // N, or M where there is an index

  // The grid of pixel (n, y, x); −1 where the index names none: what is sampled there is NaN, and splatted nowhere
  __device__ int64_t grid_at(int64_t n, int64_t row = 0, int64_t column = 0) const {
    const int64_t m = grid_of(index, n, row, column);
    return m < 0 || m >= grids ? -1 : m;
  }
};
// `cells` is the grid or a tensor of its shape.
template <class T>
Lattice<T> make_lattice(const Sampling& at, const Tensor& cells, const Tensor& pixels) {
  Lattice<T> g;
  g.N = pixels.shape[0];
  g.H = pixels.shape[1];
  g.W = pixels.shape[2];
  g.Gh = cells.shape[1];
  g.Gw = cells.shape[2];
  g.Gd = cells.shape[3];
  g.C = cells.shape[4] * cells.shape[5];
  g.top = at.top;
  g.left = at.left;
  g.y = make_pixel_axis(g.Gh, at.full_height, at.align_corners, at.pixel_corners);
  g.x = make_pixel_axis(g.Gw, at.full_width, at.align_corners, at.pixel_corners);
  g.v = make_rule<T>(g.Gh, at.align_corners);
  g.u = make_rule<T>(g.Gw, at.align_corners);
  g.z = make_rule<T>(g.Gd, at.align_corners);
  g.index = at.index;
  g.grids = cells.shape[0];
  return g;
}

}  // namespace bilateral_ops
