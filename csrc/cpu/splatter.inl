// The transpose of sampling: a tile's contributions added to the grid, in sums whose order depends on shapes alone.
#pragma once

#include "matrix34.h"
#include "sampler.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Where the sums of one band of an image are, grid rows [y][x][z][c]: doubles, or numbers of the compute type under
// Lattice::few. Rows `top` to `split` are the band's own, from `own` on; those after them are the result's, whose row 0
// is at `result`.
struct BandSums {
  void *own, *result;
  int64_t top, split;
  // numbers: of a row
  template <class Sum>
  Sum* row(int64_t y, int64_t numbers) const {
    return y < split ? static_cast<Sum*>(own) + (y - top) * numbers : static_cast<Sum*>(result) + y * numbers;
  }
};

// Adds to the sums of one band, which are all zero before.
//
// Where the pixels between the same two columns of cells follow one another, a span, each is added in the compute type
// to the sums of one depth alone, its own, which stay in the first-level cache: to four sums a channel, one for each
// corner in columns and depth, as a vector holds four channels at four corners. The span's sums then go to the cells
// that the corners are. Two neighbouring pixels mostly meet the same sums, and the second would wait for the first
// one's to be stored: even and odd pixels have sums of their own.
template <class T>
class Splatter {
 public:
  Splatter(const Lattice& lattice, const BandSums& sums)
      : g_(lattice), sums_(sums), numbers_(ceil_div(g_.C, int64_t(4)) * kFour) {
    if (g_.spans) {
      half_ = (g_.Gd + 1) * numbers_;
      span_ = memory_.template take<T>(2 * half_ + 4 * kSize, true);
      weights_ = span_ + 2 * half_;
    } else {
      pair_ = memory_.template take<double>(2 * g_.C);
    }
  }

  // contributions: [pixel][channel]
  void add(const Tile& tile, const Places<T>& at, const T* contributions) {
    const int64_t C = g_.C;
    if (g_.spans) {
      const auto add_fours = [=](int64_t i, const Vec<T>* weights, T* to, int64_t fours) {
        const T* from = contributions + i * C;
        for (int64_t n = 0; n < fours; ++n, from += 4, to += kFour)
          add_four(weights, [&](int v) { return repeat4(from, 4, v); }, to);
        if (C > 4 * fours) add_four(weights, [&](int v) { return repeat4(from, C - 4 * fours, v); }, to);
      };
      if (C == 12) {  // HDRnet's, without a loop
        add_spans(tile, at, [=](int64_t i, const Vec<T>* weights, T* to) { add_fours(i, weights, to, 3); });
      } else {
        add_spans(tile, at, [=](int64_t i, const Vec<T>* weights, T* to) { add_fours(i, weights, to, C / 4); });
      }
      return;
    }
    if (g_.few) {
      add_pixels(tile, at, contributions, reinterpret_cast<T*>(pair_));
    } else {
      add_pixels(tile, at, contributions, pair_);
    }
  }

  // The contributions of 3 × 4 matrices under a lattice with tables, grad_i·in_j (in_3 = 1), which then need not be
  // stored. image, grad: [pixel][3]
  void add_outer(const Tile& tile, const Places<T>& at, const T* image, const T* grad) {
    add_spans(tile, at, [=](int64_t i, const Vec<T>* weights, T* to) {
      Vec<T> weighted[kVectors];
      for (int v = 0; v < kVectors; ++v) weighted[v] = weights[v] * repeat3_one(image + 3 * i, v);
      for (int row = 0; row < 3; ++row) {
        const Vec<T> d = broadcast(grad[3 * i + row]);
        add_four(weighted, [&](int) { return d; }, to + row * kFour);
      }
    });
  }

  // To be called after the last tile.
  void flush() {
    if (count_) add_span();
  }

 private:
  static constexpr int64_t kSize = kTileWidth + kPad;
  // Four channels at four corners: left and right in the lower depth, then in the upper.
  static constexpr int64_t kFour = 16;
  static constexpr int kVectors = kFour / Vec<T>::kLanes;

  template <class Sum>
  Sum* grid_row(int64_t y) const {
    return sums_.row<Sum>(y, g_.Gw * g_.column);
  }

  // pair: room for a pixel's contributions to the two depths around it
  template <class Sum>
  void add_pixels(const Tile& tile, const Places<T>& at, const T* contributions, Sum* pair) const {
    const int64_t C = g_.C;
    const auto add_pair = [=](Sum* to, Sum weight, int64_t numbers) {
      const Vec<Sum> w = broadcast(weight);
      for_vectors<Sum>(
          numbers, [&](int64_t c, auto lanes) { lanes.put(to + c, madd(w, lanes.get(pair + c), lanes.get(to + c))); });
    };
    for (int64_t i = 0; i < tile.count; ++i) {
      // Both depths, which lie one after the other; at the last one there is none above.
      const Sum tz = at.tz[i];
      const int64_t kz = at.kz[i], numbers = kz + 1 < g_.Gd ? 2 * C : C;
      for (int64_t c = 0; c < C; ++c) {
        const Sum d = static_cast<Sum>(contributions[i * C + c]);
        pair[c] = d * (Sum(1) - tz);
        pair[C + c] = d * tz;
      }
      const int64_t kx = at.kx[i], left = kx * g_.column, right = min_of(kx + 1, g_.Gw - 1) * g_.column;
      const Sum ty = at.ty[i], tx = at.tx[i];
      Sum* const below = grid_row<Sum>(at.ky[i]) + kz * C;
      Sum* const above = grid_row<Sum>(min_of<int64_t>(at.ky[i] + 1, g_.Gh - 1)) + kz * C;
      add_pair(below + left, (Sum(1) - ty) * (Sum(1) - tx), numbers);
      add_pair(below + right, (Sum(1) - ty) * tx, numbers);
      add_pair(above + left, ty * (Sum(1) - tx), numbers);
      add_pair(above + right, ty * tx, numbers);
    }
  }

  template <class F>
  static BO_INLINE_MEMBER void add_four(const Vec<T>* weights, const F& channels, T* to) {
    for (int v = 0; v < kVectors; ++v) {
      T* const sums = to + v * Vec<T>::kLanes;
      store(sums, madd(weights[v], channels(v), load(sums)));
    }
  }

  // add(pixel, weights, sums) adds a pixel's channels, weighted for the four corners, to its depth's sums.
  template <class F>
  BO_INLINE_MEMBER void add_spans(const Tile& tile, const Places<T>& at, const F& add) {
    const Vec<T> one = broadcast(T(1));
    for (int64_t i = 0; i < tile.count; i += Vec<T>::kLanes) {
      const Vec<T> tx = load(at.tx + i), tz = load(at.tz + i), left = one - tx, lower = one - tz;
      store_fours(weights_ + 4 * i, left * lower, tx * lower, left * tz, tx * tz);
    }
    int32_t first = at.kz[0], last = first;
    for (int64_t i = 0; i < tile.count; ++i) {
      first = min_of(first, at.kz[i]);
      last = max_of(last, at.kz[i]);
    }
    for_spans(at, tile.count, [&](int64_t begin, int64_t end) {
      if (count_ && (tile.y != y_ || at.kx[begin] != kx_ || count_ >= kShortSum)) add_span();
      y_ = tile.y;
      ky_ = at.row_k;
      kx_ = at.kx[begin];
      ty_ = at.row_t;
      count_ += end - begin;
      first_ = min_of<int64_t>(first_, first);
      last_ = max_of<int64_t>(last_, last);
      // Copies, as for all the compiler knows the sums may be stored over what is used here.
      const F add_channels = add;
      const int64_t numbers = numbers_;
      const int32_t* const depths = at.kz;
      const T* const corners = weights_;
      const auto add_pixel = [=](int64_t i, T* sums) {
        Vec<T> weights[kVectors];
        for (int v = 0; v < kVectors; ++v) weights[v] = spread4(corners + 4 * i, v);
        add_channels(i, weights, sums + depths[i] * numbers);
      };
      T *const even = depth_sums(0), *const odd = even + half_;
      int64_t i = begin;
      for (; i + 1 < end; i += 2) {
        add_pixel(i, even);
        add_pixel(i + 1, odd);
      }
      if (i < end) add_pixel(i, even);
    });
  }

  // Of even pixels; those of odd ones are half_ further. Below the first depth there are zeros.
  T* depth_sums(int64_t z) const { return span_ + (z + 1) * numbers_; }

  // The sums of a span to the four columns around it, and back to zero.
  void add_span() {
    // Copies, as for all the compiler knows the members may be stored over.
    const int64_t C = g_.C, numbers = numbers_, half = half_, first = first_, last = last_;
    const int64_t end = min_of(last + 2, g_.Gd);
    const int64_t left = kx_ * g_.column, right = min_of(kx_ + 1, g_.Gw - 1) * g_.column;
    double *const below = grid_row<double>(ky_), *const above = grid_row<double>(min_of(ky_ + 1, g_.Gh - 1));
    const double upper_weight = ty_, lower_weight = 1.0 - ty_;
    T* const span = depth_sums(0);
    for (int64_t z = first; z < end; ++z)
      for (int64_t c = 0; c < C; c += 4) {
        // A cell is the lower corner of its own depth's pixels, and the upper one of those in the depth before.
        const T *lower = span + z * numbers + 4 * c, *upper = lower - numbers + 8;
        T sums[8];  // left, right
        for (int l = 0; l < 8; ++l) sums[l] = (lower[l] + lower[half + l]) + (upper[l] + upper[half + l]);
        // One after the other: at the border both rows, or both columns, are the same.
        const int64_t cell = z * C + c, channels = min_of<int64_t>(C - c, 4);
        add_to_cell(below + left + cell, sums, lower_weight, channels);
        add_to_cell(below + right + cell, sums + 4, lower_weight, channels);
        add_to_cell(above + left + cell, sums, upper_weight, channels);
        add_to_cell(above + right + cell, sums + 4, upper_weight, channels);
      }
    T* const sums = span + first * numbers;
    for (int64_t i = 0; i < (last + 1 - first) * numbers; i += Vec<T>::kLanes) {
      store(sums + i, broadcast(T(0)));
      store(sums + half + i, broadcast(T(0)));
    }
    count_ = 0;
    first_ = g_.Gd;
    last_ = 0;
  }
  static BO_INLINE_MEMBER void add_to_cell(double* to, const T* sums, double weight, int64_t channels) {
    if (channels == 4) return store_four(to, madd(load_four(sums), weight, load_four(to)));
    for (int64_t l = 0; l < channels; ++l) to[l] = madd(weight, static_cast<double>(sums[l]), to[l]);
  }

  const Lattice g_;
  const BandSums sums_;
  Scratch memory_;
  // The span's sums, [parity][z][four channels][corner][channel]
  const int64_t numbers_;  // of a depth
  int64_t half_ = 0;
  T* span_ = nullptr;
  T* weights_ = nullptr;    // [pixel][corner] of a tile
  double* pair_ = nullptr;  // for add_pixels
  int64_t count_ = 0, y_ = 0, ky_ = 0, kx_ = 0, first_ = g_.Gd, last_ = 0;
  double ty_ = 0.0;
};

// Bands of one image, each with sums of its own, and their sum in the order of the bands. Where sums and d_grid are of
// the same kind, the first band that has a grid row adds to it where it lies.
template <class T>
class GridSums {
 public:
  GridSums(const Lattice& g, const Sampling& at, const Tiling& tiling, const Tensor& d_grid, int64_t n)
      : g_(g),
        cells_(block_of(d_grid, 3)),
        d_grid_(d_grid),
        to_(d_grid.data + n * d_grid.strides[0]),
        row_size_(g.Gw * g.column),
        tiles_(tiling.H * tiling.per_row),
        in_place_((g.few || sizeof(T) == sizeof(double)) && !g.scattered && has_plain_columns<T>(d_grid) &&
                  (g.Gw == 1 || d_grid.strides[2] == g.Gd * cells_.stride) &&
                  (g.Gh == 1 || d_grid.strides[1] == g.Gw * g.Gd * cells_.stride)) {
    bands_ = band_count(tiles_, tiling.width);
    if (!g.scattered) {
      int64_t end = 0;  // of the rows that an earlier band has
      for (int64_t b = 0; b < bands_; ++b) {
        const bool any = first_tile(b) < first_tile(b + 1);
        const int64_t top = any ? locate_row(g, at, first_tile(b) / tiling.per_row).k : 0;
        const int64_t bottom = any ? locate_row(g, at, (first_tile(b + 1) - 1) / tiling.per_row).k : -2;
        place(b, top, min_of(bottom + 2, g.Gh), end);
        end = max_of(end, bottom_[b]);
      }
    } else {
      // Pixels may fall anywhere: every band has a whole grid, and large grids fewer bands.
      const int64_t most = (int64_t(64) << 20) / max_of<int64_t>(1, row_size_ * g.Gh * int64_t(sizeof(double)));
      bands_ = max_of<int64_t>(1, min_of(bands_, most));
      for (int64_t b = 0; b < bands_; ++b) place(b, 0, g.Gh, 0);
    }
    sums_ = memory_.template take<char>(rows_ * row_size_ * item(), true);
  }

  int64_t bands() const { return bands_; }
  int64_t first_tile(int64_t band) const { return tiles_ * band / bands_; }
  // To be called once a band, by the thread that adds to it.
  BandSums cleared(int64_t band) const {
    const BandSums sums = sums_of(band);
    for (int64_t y = split_[band]; y < bottom_[band]; ++y)
      memset(sums.row<T>(y, row_size_), 0, static_cast<size_t>(row_size_) * sizeof(T));
    return sums;
  }

  void store() const {
    for_rows(g_.Gh, g_.Gh * row_size_, [&](int64_t y) {
      if (g_.few) {
        store_row<T>(y);
      } else {
        store_row<double>(y);
      }
    });
  }

 private:
  BandSums sums_of(int64_t band) const {
    return {sums_ + start_[band] * row_size_ * item(), to_, top_[band], split_[band]};
  }
  int64_t item() const { return g_.few ? sizeof(T) : sizeof(double); }
  // Rows from `split` on are added to in place.
  void place(int64_t band, int64_t top, int64_t bottom, int64_t split) {
    top_[band] = top;
    bottom_[band] = bottom;
    split_[band] = in_place_ ? max_of(top, split) : max_of(top, bottom);
    start_[band] = rows_;
    rows_ += split_[band] - top;
  }

  template <class Sum>
  void store_row(int64_t y) const {
    const Sum* rows[kBands];  // of the bands that have this one
    int64_t count = 0;
    bool done = false;  // there is one such band, and it added to the result
    for (int64_t b = 0; b < bands_; ++b)
      if (y >= top_[b] && y < bottom_[b]) {
        const BandSums sums = sums_of(b);
        rows[count++] = sums.template row<Sum>(y, row_size_);
        done = y >= split_[b];
      }
    if (done && count == 1) return;
    Scratch memory, column_memory;
    Sum* BO_RESTRICT sum = memory.take<Sum>(g_.column);
    T* BO_RESTRICT column = column_memory.take<T>(g_.column);
    for (int64_t x = 0; x < g_.Gw; ++x) {
      for (int64_t i = 0; i < g_.column; ++i) sum[i] = Sum(0);
      for (int64_t b = 0; b < count; ++b) {
        const Sum* BO_RESTRICT from = rows[b] + x * g_.column;
        for (int64_t i = 0; i < g_.column; ++i) sum[i] += from[i];
      }
      for (int64_t i = 0; i < g_.column; ++i) column[i] = static_cast<T>(sum[i]);
      store_block(cells_, to_ + y * d_grid_.strides[1] + x * d_grid_.strides[2], g_.Gd, column);
    }
  }

  const Lattice g_;
  const Block cells_;
  const Tensor& d_grid_;
  char* const to_;
  const int64_t row_size_, tiles_;
  const bool in_place_;
  int64_t bands_, rows_ = 0;
  int64_t top_[kBands], bottom_[kBands], split_[kBands], start_[kBands];
  Scratch memory_;
  char* sums_;
};

// Calls run(first, last, splatter) for ranges of tiles that together are all; what the splatters collect becomes
// d_grid. Where d_grid is not wanted there is no splatter.
template <class T, class Run>
void splat_tiles(const Lattice& g, const Sampling& at, const Tiling& tiling, const Tensor& d_grid, const Run& run) {
  if (!d_grid.data) {
    for_tile_ranges(tiling.count, tiling.width,
                    [&](int64_t first, int64_t last) { run(first, last, static_cast<Splatter<T>*>(nullptr)); });
    return;
  }
  const int64_t tiles = g.H * tiling.per_row;
  const auto splat_image = [&](int64_t n) {
    GridSums<T> sums(g, at, tiling, d_grid, n);
    for_units(sums.bands(), [&](int64_t band) {
      Splatter<T> splatter(g, sums.cleared(band));
      run(n * tiles + sums.first_tile(band), n * tiles + sums.first_tile(band + 1), &splatter);
      splatter.flush();
    });
    sums.store();
  };
  if (band_count(tiles, tiling.width) == 1) {
    for_units(g.N, splat_image);  // small images, side by side
  } else {
    for (int64_t n = 0; n < g.N; ++n) splat_image(n);
  }
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
