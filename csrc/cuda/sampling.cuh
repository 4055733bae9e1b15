// Where pixels fall in a grid, and the grid there: what slice, slice_apply and enhance share, whatever the grid.
#pragma once

#include "arrays.cuh"

namespace bilateral_ops {

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
  PixelAxis y, x;       // of pixels
  AxisRule<T> v, u, z;  // of coordinates: xy's, and the guide
};
// `cells` is the grid, or a tensor of its shape.
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
  g.y = make_pixel_axis(g.Gh, at.full_height, at.align_corners);
  g.x = make_pixel_axis(g.Gw, at.full_width, at.align_corners);
  g.v = make_rule<T>(g.Gh, at.align_corners);
  g.u = make_rule<T>(g.Gw, at.align_corners);
  g.z = make_rule<T>(g.Gd, at.align_corners);
  return g;
}

template <class T>
struct Place {
  Position<T> y, x, z;
};
BO_DEVICE Position<float> narrowed(const Position<double>& p, float) {
  return {p.k, static_cast<float>(p.t), static_cast<float>(p.slope)};
}
BO_DEVICE Position<double> narrowed(const Position<double>& p, double) { return p; }

// Where pixel p of a tile falls, its guide being `depth`.
template <class T>
BO_DEVICE Place<T> place(const Lattice<T>& g, const Sampling& at, const Tile& tile, int p, T depth) {
  Place<T> to;
  to.z = locate(depth, g.z);
  if (at.xy.data) {
    const char* const xy = pixel(at.xy, tile, p);
    to.x = locate(get<T>(at.xy.dtype, xy), g.u);
    to.y = locate(get<T>(at.xy.dtype, xy + at.xy.strides[3]), g.v);
  } else {
    to.x = narrowed(locate_pixel(tile.x + p + g.left, g.x), T());
    to.y = narrowed(locate_pixel(tile.y + g.top, g.y), T());
  }
  return to;
}
template <class T>
BO_DEVICE Place<T> place(const Lattice<T>& g, const Sampling& at, const Tile& tile, int p) {
  return place(g, at, tile, p, get<T>(at.guide.dtype, pixel(at.guide, tile, p)));
}

// The eight cells around a pixel: the lowest one, and the steps to the next in bytes, 0 at the grid's end.
template <class T>
struct Cells {
  const char* lowest;
  int64_t up, right, above;
  T ty, tx, tz;
};
template <class T>
BO_DEVICE Cells<T> cells_around(const Tensor& grid, const Lattice<T>& g, int64_t n, const Place<T>& at) {
  Cells<T> c;
  c.lowest =
      grid.data + n * grid.strides[0] + at.y.k * grid.strides[1] + at.x.k * grid.strides[2] + at.z.k * grid.strides[3];
  c.up = at.y.k + 1 < g.Gh ? grid.strides[1] : 0;
  c.right = at.x.k + 1 < g.Gw ? grid.strides[2] : 0;
  c.above = at.z.k + 1 < g.Gd ? grid.strides[3] : 0;
  c.ty = at.y.t;
  c.tx = at.x.t;
  c.tz = at.z.t;
  return c;
}

// One channel of the eight cells: the step in y and the value at ty, of left and right, lower and upper.
template <class T>
struct Corners {
  T step[4], v[4];
};
template <class T>
BO_DEVICE Corners<T> corners(DType dtype, const Cells<T>& c, int64_t offset) {
  Corners<T> to;
  const char* const p = c.lowest + offset;
  with_float_format(dtype, T(), [&](auto format) {
    using Format = decltype(format);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const char* const q = p + ((j & 2) ? c.right : 0) + ((j & 1) ? c.above : 0);
      to.v[j] = Format::value(read_bits<typename Format::Bits>(q));
      to.step[j] = Format::value(read_bits<typename Format::Bits>(q + c.up)) - to.v[j];
    }
  });
#pragma unroll
  for (int j = 0; j < 4; ++j) to.v[j] = mul_add(c.ty, to.step[j], to.v[j]);
  return to;
}
// One channel of the grid at a pixel: in y, then x, then z.
template <class T>
BO_DEVICE T sample(DType dtype, const Cells<T>& c, int64_t offset) {
  const Corners<T> at = corners(dtype, c, offset);
  return lerp(lerp(at.v[0], at.v[2], c.tx), lerp(at.v[1], at.v[3], c.tx), c.tz);
}

// The places of a tile's pixels, for all threads of the block.
template <class T>
struct Places {
  int32_t ky[kTile], kx[kTile], kz[kTile];
  T ty[kTile], tx[kTile], tz[kTile];

  __device__ void set(int p, const Place<T>& at) {
    ky[p] = at.y.k;
    kx[p] = at.x.k;
    kz[p] = at.z.k;
    ty[p] = at.y.t;
    tx[p] = at.x.t;
    tz[p] = at.z.t;
  }
  __device__ Place<T> get(int p) const { return {{ky[p], ty[p], T(0)}, {kx[p], tx[p], T(0)}, {kz[p], tz[p], T(0)}}; }
};

}  // namespace bilateral_ops
