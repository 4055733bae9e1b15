// Positions: in which cells a tile's pixels fall, and where between them.
#pragma once

#include "geometry.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// The positions of a tile's pixels. On each axis k is the cell below, t the fraction towards the next one, and d the
// slope dp/du, as in Position (formulas.h).
template <class T>
struct Positions {
  static constexpr int64_t kSize = kTileWidth + kPad;
  // Unless pixels are scattered, a tile's have one position in y, and positions in x that all rows share.
  int32_t row_k;
  T row_t;
  const int32_t* kx;
  const T* tx;
  const int32_t* end_of;  // by grid column: the image's first pixel after its span; null if there is no such list
  int64_t first;          // the tile's first pixel
  alignas(64) int32_t kz[kSize];
  T tz[kSize], dz[kSize];
  // For scattered pixels, and those that are sampled or splatted one by one:
  int32_t ky[kSize], own_kx[kSize];
  T ty[kSize], own_tx[kSize], dy[kSize], dx[kSize];
};

// locate() of formulas.h for vectors of coordinates
template <class T>
class VecAxis {
 public:
  explicit VecAxis(const Axis& axis)
      : scale_(broadcast(static_cast<T>(axis.scale))),
        below_(broadcast(-static_cast<T>(axis.shift))),
        last_(broadcast(static_cast<T>(axis.last))) {}
  BO_INLINE_MEMBER Indices<T> locate(const Vec<T>& u, Vec<T>& t, Vec<T>& slope) const {
    const Vec<T> p = fused_mul_add(u, scale_, below_);
    const Indices<T> k = to_indices(clamp(p, last_));
    t = select_equal(u, u, select_inside(p, last_, fused_mul_add(u, scale_, below_ - to_values(k))), u);
    slope = select_equal(u, u, select_inside(p, last_, scale_), u);
    return k;
  }

 private:
  const Vec<T> scale_, below_, last_;
};
// The same for n coordinates. d may be null: the slopes are not wanted.
template <class T>
BO_INLINE void locate_run(const Axis& axis, int64_t n, const T* BO_RESTRICT u, int32_t* BO_RESTRICT k, T* BO_RESTRICT t,
                          T* BO_RESTRICT d) {
  const VecAxis<T> rule(axis);
  int64_t i = 0;
  for (; i + Vec<T>::kLanes <= n; i += Vec<T>::kLanes) {
    Vec<T> fraction, slope;
    store_indices(k + i, rule.locate(load(u + i), fraction, slope));
    store(t + i, fraction);
    if (d) store(d + i, slope);
  }
  for (; i < n; ++i) {
    const Position<T> p =
        locate(u[i], static_cast<T>(axis.scale), static_cast<T>(axis.shift), static_cast<T>(axis.last));
    k[i] = p.k;
    t[i] = p.t;
    if (d) d[i] = p.slope;
  }
}

// One position: of a coordinate; of a row of pixels
template <class T>
Position<double> locate_coordinate(const Tensor& xy, const char* from, const Axis& axis) {
  T u;
  load_run(xy.dtype, from, 0, 1, &u, 1);
  const Position<T> p = locate(u, static_cast<T>(axis.scale), static_cast<T>(axis.shift), static_cast<T>(axis.last));
  return {p.k, p.t, p.slope};
}
BO_INLINE Position<double> locate_row(const Lattice& g, const Sampling& at, int64_t y) {
  if (at.xy.data) {
    const char* const from = at.xy.data + y * at.xy.strides[1] + at.xy.strides[3];
    return at.xy.dtype == DType::f64 ? locate_coordinate<double>(at.xy, from, g.v)
                                     : locate_coordinate<float>(at.xy, from, g.v);
  }
  return locate_pixel(y + at.top, g.y);
}
// The positions in x of n pixels from pixel x on
template <class T>
void locate_columns(const Lattice& g, const Sampling& at, int64_t x, int64_t n, int32_t* BO_RESTRICT k,
                    T* BO_RESTRICT t) {
  if (at.xy.data) {
    T u[kTileWidth];
    for (int64_t i = 0; i < n; i += kTileWidth) {
      const int64_t count = min_of<int64_t>(kTileWidth, n - i);
      load_run(at.xy.dtype, at.xy.data + (x + i) * at.xy.strides[2], at.xy.strides[2], count, u, 1);
      locate_run(g.u, count, u, k + i, t + i, static_cast<T*>(nullptr));
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const Position<double> p = locate_pixel(x + i + at.left, g.x);
    k[i] = p.k;
    t[i] = static_cast<T>(p.t);
  }
}

// The positions in x of the pixel columns, which all rows of all images share. Scattered pixels have none, and very
// wide images do without.
template <class T>
class PixelColumns {
 public:
  PixelColumns(const Lattice& g, const Sampling& at) {
    if (g.scattered || g.W > kMaxColumns) return;
    t_ = memory_.template take<T>((g.W + kPad) * 2 + g.Gw, true);
    k_ = reinterpret_cast<int32_t*>(t_ + g.W + kPad);
    end_of_ = k_ + g.W + kPad;
    locate_columns(g, at, 0, g.W, k_, t_);
    for (int64_t x = 0; x < g.W; ++x) end_of_[k_[x]] = static_cast<int32_t>(x + 1);
  }
  const int32_t* k() const { return k_; }  // null: there are none
  const T* t() const { return t_; }
  const int32_t* end_of() const { return end_of_; }

 private:
  Scratch memory_;
  int32_t *k_ = nullptr, *end_of_ = nullptr;
  T* t_ = nullptr;
};

// Finds the positions of one tile after another.
template <class T>
class Locator {
 public:
  Locator(const Lattice& g, const Sampling& at, const PixelColumns<T>& columns) : g_(g), at_(at), columns_(columns) {
    to_ = memory_.template take<Positions<T>>(1, true);
  }

  // The result is valid until the next call. guide: [pixel]; kSlopes: whether dz is wanted
  template <bool kSlopes = true>
  BO_INLINE_MEMBER const Positions<T>& find(const Tile& tile, const T* guide) {
    Positions<T>& to = *to_;
    locate_run(g_.z, tile.count, guide, to.kz, to.tz, kSlopes ? to.dz : nullptr);
    for (int64_t i = tile.count; i < tile.count + kPad; ++i) to.kz[i] = 0;
    return find_in_row(tile);
  }

 private:
  // All but the depths
  const Positions<T>& find_in_row(const Tile& tile) {
    Positions<T>& to = *to_;
    to.kx = to.own_kx;
    to.tx = to.own_tx;
    to.end_of = nullptr;
    to.first = tile.x;
    if (g_.scattered) {
      T u[kTileWidth];
      const char* xy = first_pixel(at_.xy, tile);
      load_run(at_.xy.dtype, xy, at_.xy.strides[2], tile.count, u, 1);
      locate_run(g_.u, tile.count, u, to.own_kx, to.own_tx, to.dx);
      load_run(at_.xy.dtype, xy + at_.xy.strides[3], at_.xy.strides[2], tile.count, u, 1);
      locate_run(g_.v, tile.count, u, to.ky, to.ty, to.dy);
      return to;
    }
    if (tile.y != y_) {
      y_ = tile.y;
      const Position<double> row = locate_row(g_, at_, tile.y);
      to.row_k = row.k;
      to.row_t = static_cast<T>(row.t);
      for (int64_t i = 0; !g_.long_spans && i < kTileWidth; ++i) {
        to.ky[i] = to.row_k;
        to.ty[i] = to.row_t;
      }
    }
    if (columns_.k()) {
      to.kx = columns_.k() + tile.x;
      to.tx = columns_.t() + tile.x;
      to.end_of = columns_.end_of();
    } else {
      locate_columns(g_, at_, tile.x, tile.count, to.own_kx, to.own_tx);
    }
    return to;
  }

  const Lattice& g_;
  const Sampling& at_;
  const PixelColumns<T>& columns_;
  Scratch memory_;
  Positions<T>* to_;
  int64_t y_ = -1;
};

// Calls f(begin, end) for each span of a tile, the pixels that lie between the same two grid columns.
template <class T, class F>
BO_INLINE void for_spans(const Positions<T>& at, int64_t count, F&& f) {
  for (int64_t begin = 0; begin < count;) {
    const int32_t kx = at.kx[begin];
    int64_t end;
    if (at.end_of) {
      end = min_of<int64_t>(at.end_of[kx] - at.first, count);
    } else {
      end = begin + 1;
      while (end < count && at.kx[end] == kx) ++end;
    }
    f(begin, end);
    begin = end;
  }
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
