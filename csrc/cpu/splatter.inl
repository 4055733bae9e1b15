// Splatting, the transpose of sampling: the contributions of a tile's pixels are added to the grid (Splatter), in bands
// of the image that have sums of their own (GridSums), so that the order of summation depends on shapes alone.
#pragma once

#include "matrix34.h"
#include "sampler.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Where the sums of one band are: grid rows, [x][z][c], in double, or in the compute type with Lattice::short_sums.
// Rows `top` to `split` − 1 are at `own`. Later rows are summed in the result itself, whose row 0 is at `result`.
struct BandSums {
  void *own, *result;
  int64_t top, split;
  template <class Sum>
  Sum* row(int64_t y, int64_t row_size) const {
    return y < split ? static_cast<Sum*>(own) + (y - top) * row_size : static_cast<Sum*>(result) + y * row_size;
  }
};

// Adds contributions to the sums of one band, which start as zeros.
//
// Long spans first sum their pixels apart, in the compute type and in the first-level cache: per depth kz and channel
// there are four sums, one for each corner in x and z, so that a pixel adds to contiguous memory. A group holds four
// channels at four corners, a vector or a few. At the end of the span, or after kShortSum pixels, its sums go to the
// cells that the corners are. Neighbouring pixels mostly add to the same sums and would wait for one another: even and
// odd pixels have sums of their own.
//
// Without long spans, each pixel adds to its eight cells.
template <class T>
class Splatter {
 public:
  Splatter(const Lattice& lattice, const BandSums& sums)
      : g_(lattice), sums_(sums), depth_size_(ceil_div(g_.C, int64_t(4)) * kGroup) {
    if (g_.long_spans) {
      parity_size_ = (g_.Gd + 1) * depth_size_;
      span_ = memory_.template take<T>(2 * parity_size_ + 4 * kSize, true);
      weights_ = span_ + 2 * parity_size_;
    } else {
      pair_ = memory_.template take<double>(2 * g_.C);
    }
  }

  // contributions: [pixel][channel]
  void add(const Tile& tile, const Positions<T>& at, const T* contributions) {
    const int64_t C = g_.C;
    if (g_.long_spans) {
      const auto add_groups = [=](int64_t i, const Vec<T>* weights, T* to, int64_t groups) {
        const T* from = contributions + i * C;
        for (int64_t n = 0; n < groups; ++n, from += 4, to += kGroup)
          add_group(weights, [&](int v) { return repeat4(from, 4, v); }, to);
        if (C > 4 * groups) add_group(weights, [&](int v) { return repeat4(from, C - 4 * groups, v); }, to);
      };
      if (C == 12) {  // HDRnet's, without a loop
        add_spans(tile, at, [=](int64_t i, const Vec<T>* weights, T* to) { add_groups(i, weights, to, 3); });
      } else {
        add_spans(tile, at, [=](int64_t i, const Vec<T>* weights, T* to) { add_groups(i, weights, to, C / 4); });
      }
      return;
    }
    if (g_.short_sums) {
      add_pixels(tile, at, contributions, reinterpret_cast<T*>(pair_));
    } else {
      add_pixels(tile, at, contributions, pair_);
    }
  }

  // The contributions grad_i·in_j (in_3 = 1) of 3 × 4 matrices, which are never stored; for long spans only.
  // image, grad: [pixel][3]
  void add_outer(const Tile& tile, const Positions<T>& at, const T* image, const T* grad) {
    add_spans(tile, at, [=](int64_t i, const Vec<T>* weights, T* to) {
      Vec<T> weighted[kVectors];
      for (int v = 0; v < kVectors; ++v) weighted[v] = weights[v] * repeat_rgb1(image + 3 * i, v);
      for (int row = 0; row < 3; ++row) {
        const Vec<T> d = broadcast(grad[3 * i + row]);
        add_group(weighted, [&](int) { return d; }, to + row * kGroup);
      }
    });
  }

  // Must be called after the last tile.
  void flush() {
    if (count_) add_span();
  }

 private:
  static constexpr int64_t kSize = kTileWidth + kPad;
  // Elements in a group: four channels at the left and right corner of the lower depth, then of the upper one
  static constexpr int64_t kGroup = 16;
  static constexpr int kVectors = kGroup / Vec<T>::kLanes;

  template <class Sum>
  Sum* grid_row(int64_t y) const {
    return sums_.row<Sum>(y, g_.Gw * g_.column_size);
  }

  // pair: scratch for a pixel's contributions to the two depths around it
  template <class Sum>
  void add_pixels(const Tile& tile, const Positions<T>& at, const T* contributions, Sum* pair) const {
    const int64_t C = g_.C;
    const auto add_pair = [=](Sum* to, Sum weight, int64_t elements) {
      const Vec<Sum> w = broadcast(weight);
      for_vectors<Sum>(elements, [&](int64_t c, auto lanes) {
        lanes.store(to + c, mul_add(w, lanes.load(pair + c), lanes.load(to + c)));
      });
    };
    for (int64_t i = 0; i < tile.count; ++i) {
      // The two depths are adjacent in memory; above the last one there is none.
      const Sum tz = at.tz[i];
      const int64_t kz = at.kz[i], elements = kz + 1 < g_.Gd ? 2 * C : C;
      for (int64_t c = 0; c < C; ++c) {
        const Sum d = static_cast<Sum>(contributions[i * C + c]);
        pair[c] = d * (Sum(1) - tz);
        pair[C + c] = d * tz;
      }
      const int64_t kx = at.kx[i], left = kx * g_.column_size, right = min_of(kx + 1, g_.Gw - 1) * g_.column_size;
      const Sum ty = at.ty[i], tx = at.tx[i];
      Sum* const below = grid_row<Sum>(at.ky[i]) + kz * C;
      Sum* const above = grid_row<Sum>(min_of<int64_t>(at.ky[i] + 1, g_.Gh - 1)) + kz * C;
      add_pair(below + left, (Sum(1) - ty) * (Sum(1) - tx), elements);
      add_pair(below + right, (Sum(1) - ty) * tx, elements);
      add_pair(above + left, ty * (Sum(1) - tx), elements);
      add_pair(above + right, ty * tx, elements);
    }
  }

  template <class F>
  static BO_INLINE_MEMBER void add_group(const Vec<T>* weights, const F& channels, T* to) {
    for (int v = 0; v < kVectors; ++v) {
      T* const sums = to + v * Vec<T>::kLanes;
      store(sums, mul_add(weights[v], channels(v), load(sums)));
    }
  }

  // add(pixel, weights, sums) adds the pixel's channels to the sums of its depth, with weights for the four corners.
  template <class F>
  BO_INLINE_MEMBER void add_spans(const Tile& tile, const Positions<T>& at, const F& add) {
    const Vec<T> one = broadcast(T(1));
    for (int64_t i = 0; i < tile.count; i += Vec<T>::kLanes) {
      const Vec<T> tx = load(at.tx + i), tz = load(at.tz + i), left = one - tx, lower = one - tz;
      store_interleaved4(weights_ + 4 * i, left * lower, tx * lower, left * tz, tx * tz);
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
      // Local copies, as the compiler must assume that stores to the sums change members.
      const F add_channels = add;
      const int64_t depth_size = depth_size_;
      const int32_t* const depths = at.kz;
      const T* const corners = weights_;
      const auto add_pixel = [=](int64_t i, T* sums) {
        Vec<T> weights[kVectors];
        for (int v = 0; v < kVectors; ++v) weights[v] = spread4(corners + 4 * i, v);
        add_channels(i, weights, sums + depths[i] * depth_size);
      };
      T *const even = depth_sums(0), *const odd = even + parity_size_;
      int64_t i = begin;
      for (; i + 1 < end; i += 2) {
        add_pixel(i, even);
        add_pixel(i + 1, odd);
      }
      if (i < end) add_pixel(i, even);
    });
  }

  // The sums of even pixels; those of odd ones follow parity_size_ later. Depth −1 is zeros.
  T* depth_sums(int64_t z) const { return span_ + (z + 1) * depth_size_; }

  // Adds the sums of a span to the grid columns left and right of it, in two grid rows, and clears them.
  void add_span() {
    // Local copies, as above.
    const int64_t C = g_.C, depth_size = depth_size_, parity_size = parity_size_, first = first_, last = last_;
    const int64_t end = min_of(last + 2, g_.Gd);
    const int64_t left = kx_ * g_.column_size, right = min_of(kx_ + 1, g_.Gw - 1) * g_.column_size;
    double *const below = grid_row<double>(ky_), *const above = grid_row<double>(min_of(ky_ + 1, g_.Gh - 1));
    const double upper_weight = ty_, lower_weight = 1.0 - ty_;
    T* const span = depth_sums(0);
    for (int64_t z = first; z < end; ++z)
      for (int64_t c = 0; c < C; c += 4) {
        // Cell z is the lower corner of pixels with kz = z and the upper corner of those with kz = z − 1.
        const T *lower = span + z * depth_size + 4 * c, *upper = lower - depth_size + 8;
        T sums[8];  // left, right
        for (int l = 0; l < 8; ++l) sums[l] = (lower[l] + lower[parity_size + l]) + (upper[l] + upper[parity_size + l]);
        // In sequence, as at the border both rows or both columns are the same.
        const int64_t cell = z * C + c, channels = min_of<int64_t>(C - c, 4);
        add_to_cell(below + left + cell, sums, lower_weight, channels);
        add_to_cell(below + right + cell, sums + 4, lower_weight, channels);
        add_to_cell(above + left + cell, sums, upper_weight, channels);
        add_to_cell(above + right + cell, sums + 4, upper_weight, channels);
      }
    T* const sums = span + first * depth_size;
    for (int64_t i = 0; i < (last + 1 - first) * depth_size; i += Vec<T>::kLanes) {
      store(sums + i, broadcast(T(0)));
      store(sums + parity_size + i, broadcast(T(0)));
    }
    count_ = 0;
    first_ = g_.Gd;
    last_ = 0;
  }
  static BO_INLINE_MEMBER void add_to_cell(double* to, const T* sums, double weight, int64_t channels) {
    if (channels == 4) return store_double4(to, mul_add(load_double4(sums), weight, load_double4(to)));
    for (int64_t l = 0; l < channels; ++l) to[l] = mul_add(weight, static_cast<double>(sums[l]), to[l]);
  }

  const Lattice g_;
  const BandSums sums_;
  Scratch memory_;
  // The span's sums, [parity][z][group][corner][channel]
  const int64_t depth_size_;  // elements in the sums of one depth
  int64_t parity_size_ = 0;   // elements in the sums of one parity
  T* span_ = nullptr;
  T* weights_ = nullptr;    // [pixel][corner] of a tile
  double* pair_ = nullptr;  // for add_pixels
  int64_t count_ = 0, y_ = 0, ky_ = 0, kx_ = 0, first_ = g_.Gd, last_ = 0;
  double ty_ = 0.0;
};

// The sums of all bands of one image, and their sum in the order of the bands, d_grid. If sums and d_grid have the same
// type, the first band that has a grid row sums in d_grid itself.
template <class T>
class GridSums {
 public:
  GridSums(const Lattice& g, const Sampling& at, const Tiling& tiling, const Tensor& d_grid, int64_t n)
      : g_(g),
        cells_(block_of(d_grid, 3)),
        d_grid_(d_grid),
        to_(d_grid.data + n * d_grid.strides[0]),
        row_size_(g.Gw * g.column_size),
        tiles_(tiling.H * tiling.per_row),
        in_place_((g.short_sums || sizeof(T) == sizeof(double)) && !g.scattered && has_plain_columns<T>(d_grid) &&
                  (g.Gw == 1 || d_grid.strides[2] == g.Gd * cells_.stride) &&
                  (g.Gh == 1 || d_grid.strides[1] == g.Gw * g.Gd * cells_.stride)) {
    bands_ = band_count(tiles_, tiling.width);
    if (!g.scattered) {
      int64_t end = 0;  // of the rows that earlier bands have
      for (int64_t b = 0; b < bands_; ++b) {
        const bool any = first_tile(b) < first_tile(b + 1);
        const int64_t top = any ? locate_row(g, at, first_tile(b) / tiling.per_row).k : 0;
        const int64_t bottom = any ? locate_row(g, at, (first_tile(b + 1) - 1) / tiling.per_row).k : -2;
        place(b, top, min_of(bottom + 2, g.Gh), end);
        end = max_of(end, bottom_[b]);
      }
    } else {
      // Pixels may fall anywhere: every band has a whole grid, in 64 MiB for all bands.
      const int64_t most = (int64_t(64) << 20) / max_of<int64_t>(1, row_size_ * g.Gh * int64_t(sizeof(double)));
      bands_ = max_of<int64_t>(1, min_of(bands_, most));
      for (int64_t b = 0; b < bands_; ++b) place(b, 0, g.Gh, 0);
    }
    sums_ = memory_.template take<char>(rows_ * row_size_ * sum_size(), true);
  }

  int64_t bands() const { return bands_; }
  int64_t first_tile(int64_t band) const { return tiles_ * band / bands_; }
  // The sums of a band, set to zero; to be called once per band, by the thread that adds to it.
  BandSums cleared(int64_t band) const {
    const BandSums sums = sums_of(band);
    for (int64_t y = split_[band]; y < bottom_[band]; ++y)
      memset(sums.row<T>(y, row_size_), 0, static_cast<size_t>(row_size_) * sizeof(T));
    return sums;
  }

  void store() const {
    for_grid_rows(g_.Gh, g_.Gh * row_size_, [&](int64_t y) {
      if (g_.short_sums) {
        store_row<T>(y);
      } else {
        store_row<double>(y);
      }
    });
  }

 private:
  BandSums sums_of(int64_t band) const {
    return {sums_ + start_[band] * row_size_ * sum_size(), to_, top_[band], split_[band]};
  }
  int64_t sum_size() const { return g_.short_sums ? sizeof(T) : sizeof(double); }
  // Gives a band the rows from `top` to `bottom` − 1, those from `split` on in place.
  void place(int64_t band, int64_t top, int64_t bottom, int64_t split) {
    top_[band] = top;
    bottom_[band] = bottom;
    split_[band] = in_place_ ? max_of(top, split) : max_of(top, bottom);
    start_[band] = rows_;
    rows_ += split_[band] - top;
  }

  template <class Sum>
  void store_row(int64_t y) const {
    const Sum* rows[kBands];  // this row's sums, of the bands that have it
    int64_t count = 0;
    bool in_place = false;  // whether the last of these bands summed in the result
    for (int64_t b = 0; b < bands_; ++b)
      if (y >= top_[b] && y < bottom_[b]) {
        const BandSums sums = sums_of(b);
        rows[count++] = sums.template row<Sum>(y, row_size_);
        in_place = y >= split_[b];
      }
    if (in_place && count == 1) return;
    Scratch memory, column_memory;
    Sum* BO_RESTRICT sum = memory.take<Sum>(g_.column_size);
    T* BO_RESTRICT column = column_memory.take<T>(g_.column_size);
    for (int64_t x = 0; x < g_.Gw; ++x) {
      for (int64_t i = 0; i < g_.column_size; ++i) sum[i] = Sum(0);
      for (int64_t b = 0; b < count; ++b) {
        const Sum* BO_RESTRICT from = rows[b] + x * g_.column_size;
        for (int64_t i = 0; i < g_.column_size; ++i) sum[i] += from[i];
      }
      for (int64_t i = 0; i < g_.column_size; ++i) column[i] = static_cast<T>(sum[i]);
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

// Calls run(first, last, splatter) in parallel for ranges of tiles that make up all of them, and makes d_grid of what
// the splatters collect. If d_grid is not wanted, splatter is null.
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
    for_units(g.N, splat_image);  // small images, in parallel
  } else {
    for (int64_t n = 0; n < g.N; ++n) splat_image(n);
  }
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
