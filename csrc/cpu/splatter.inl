// Splatting, the transpose of sampling: the contributions of a tile's pixels are added to the grid (Splatter), in bands
// of the image that have sums of their own (GridSums), so that the order of summation depends on shapes alone.
#pragma once

#include "matrix34.h"
#include "sampler.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// The depths that sums have, from `first` to `end` − 1, or none if `end` is 0; the others are not initialised.
struct Depths {
  int64_t first, end;
  // Extends the range to include `first_added` to `end_added` − 1. clear(z, count) must set the sums of `count` depths
  // from z on to zero.
  template <class Clear>
  BO_INLINE_MEMBER void widen(int64_t first_added, int64_t end_added, const Clear& clear) {
    if (end == 0) first = end = first_added;
    if (first_added < first) {
      clear(first_added, first - first_added);
      first = first_added;
    }
    if (end_added > end) {
      clear(end, end_added - end);
      end = end_added;
    }
  }
};

// Where the sums of one band are: grid rows, [x][z][c], in double, or in the compute type with Lattice::short_sums.
// Rows `top` to `split` − 1 are at `own`, and `depths` says what each of their columns has, [y][x]. Later rows are
// summed in the result itself, whose row 0 is at `result`.
struct BandSums {
  void *own, *result;
  Depths* depths;
  int64_t top, split;
  template <class Sum>
  Sum* row(int64_t y, int64_t row_size) const {
    return y < split ? static_cast<Sum*>(own) + (y - top) * row_size : static_cast<Sum*>(result) + y * row_size;
  }
};

// Contributions to be splatted in groups of four channels: in channel c of group n, pixel i has weight·channels(i, n),
// with weights of four corners that weigh() may change for all groups of the pixel.

// Given as [pixel][channel]: Groups whole groups, or as many as there are if that is negative; and, unless these are
// known to be all, one more that is not whole.
template <class T, int Groups>
struct GivenContributions {
  static constexpr bool kMade = false, kRest = Groups <= 0;
  const T* from;
  int64_t C;
  BO_INLINE_MEMBER int64_t groups() const { return Groups < 0 ? C / 4 : Groups; }
  BO_INLINE_MEMBER void weigh(int64_t, Vec<T>*) const {}
  BO_INLINE_MEMBER Vec<T> channels(int64_t i, int64_t n, int v) const { return repeat4(from + i * C + 4 * n, 4, v); }
  BO_INLINE_MEMBER Vec<T> rest(int64_t i, int v) const { return repeat4(from + i * C + C / 4 * 4, C % 4, v); }
};
// The contributions grad_i·in_j (in_3 = 1) of 3 × 4 matrices, which are never stored. image, grad: [pixel][3]
template <class T>
struct OuterContributions {
  static constexpr bool kMade = true, kRest = false;
  const T *image, *grad;
  static constexpr int64_t groups() { return 3; }
  BO_INLINE_MEMBER void weigh(int64_t i, Vec<T>* weights) const {
    for (int v = 0; v < 16 / Vec<T>::kLanes; ++v) weights[v] = weights[v] * repeat_rgb1(image + 3 * i, v);
  }
  BO_INLINE_MEMBER Vec<T> channels(int64_t i, int64_t n, int) const { return broadcast(grad[3 * i + n]); }
};

// Adds contributions to the sums of one band, which GridSums::begin has prepared.
//
// Long spans are summed in three steps, each over more pixels than the one before:
//   the span's sums: per depth kz and channel there are four, one for each corner in x and z, so that a pixel adds to
//     contiguous memory. A group holds four channels at four corners, a vector or a few. One pixel after another is
//     added in the first-level cache; or, where pixels have few depths or would wait for one another, one depth after
//     another in registers (kSplatsByDepth);
//   the column's sums, over the image rows between the same two grid rows: four per depth and channel, for the corners
//     in y and x;
//   the band's sums, in double: a column's sums are added to them after kShortSum pixels.
//
// Without long spans, each pixel adds to its eight cells.
template <class T>
class Splatter {
 public:
  Splatter(const Lattice& lattice, const BandSums& sums)
      : g_(lattice), sums_(sums), depth_size_(ceil_div(g_.C, int64_t(4)) * kGroup) {
    if (g_.long_spans) {
      copy_size_ = (g_.Gd + 1) * depth_size_;
      span_ = memory_.template take<T>(2 * copy_size_ + 4 * kSize, true);
      weights_ = span_ + 2 * copy_size_;
      columns_ = columns_memory_.template take<T>(g_.Gw * g_.Gd * depth_size_);
      pending_ = pending_memory_.template take<Pending>(g_.Gw, true);
    } else {
      pair_ = memory_.template take<double>(2 * g_.C);
    }
  }

  // contributions: [pixel][channel]
  void add(const Tile& tile, const Positions<T>& at, const T* contributions) {
    if (g_.long_spans) {
      const auto spans = [&](auto groups) {
        add_spans(tile, at, GivenContributions<T, decltype(groups)::value>{contributions, g_.C});
      };
      if (g_.C < 4) {
        spans(Constant<0>());
      } else if (g_.C == 4) {
        spans(Constant<1>());
      } else if (g_.C == 8) {
        spans(Constant<2>());
      } else if (g_.C == 12) {
        spans(Constant<3>());
      } else {
        spans(Constant<-1>());
      }
      return;
    }
    if (g_.short_sums) {
      add_pixels(tile, at, contributions, reinterpret_cast<T*>(pair_));
    } else {
      add_pixels(tile, at, contributions, pair_);
    }
  }

  // OuterContributions; for long spans only
  void add_outer(const Tile& tile, const Positions<T>& at, const T* image, const T* grad) {
    add_spans(tile, at, OuterContributions<T>{image, grad});
  }

  // Must be called after the last tile.
  BO_NOINLINE_MEMBER void flush() {
    if (!g_.long_spans) return;
    add_span();
    for (int64_t x = 0; x < g_.Gw; ++x) add_column(x);
  }

 private:
  static constexpr int64_t kSize = kTileWidth + kPad;
  // Elements in a group: four channels at four corners. Of a span these are left and right at the lower depth, then at
  // the upper one; of a column left and right in the grid row below, then in the one above.
  static constexpr int64_t kGroup = 16;
  static constexpr int kVectors = kGroup / Vec<T>::kLanes;
  // What a column has that is not in the band's sums
  struct Pending {
    int64_t pixels;
    Depths depths;
  };

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

  template <class Contributions>
  BO_INLINE_MEMBER void add_spans(const Tile& tile, const Positions<T>& at, const Contributions& contributions) {
    const Vec<T> one = broadcast(T(1));
    for (int64_t i = 0; i < tile.count; i += Vec<T>::kLanes) {
      const Vec<T> tx = load(at.tx + i), tz = load(at.tz + i), left = one - tx, lower = one - tz;
      store_interleaved4(weights_ + 4 * i, left * lower, tx * lower, left * tz, tx * tz);
    }
    if constexpr (kSplatsByDepth && Contributions::kMade) {
      for (int l = 0; l < 8; ++l) {
        row_weights_[l] = T(1) - at.row_t;
        row_weights_[8 + l] = at.row_t;
      }
    }
    if (at.row_k != ky_) flush();
    ky_ = at.row_k;
    for_spans(at, tile.count, [&](int64_t begin, int64_t end) {
      const int64_t kx = at.kx[begin], pixels = end - begin;
      if (tile.y != y_ || kx != kx_) add_span();
      if (pending_[kx].pixels + pixels > kShortSum) {
        add_span();
        add_column(kx);
      }
      y_ = tile.y;
      kx_ = kx;
      ty_ = at.row_t;
      pending_[kx].pixels += pixels;
      int64_t first = g_.Gd, last = -1, depths;
      if (g_.Gd <= 32) {
        const uint32_t used = index_bits(at.kz + begin, pixels);
        first = lowest_bit(used);
        last = highest_bit(used);
        depths = count_bits(used);
      } else {
        for (int64_t i = begin; i < end; ++i) {
          first = min_of<int64_t>(first, at.kz[i]);
          last = max_of<int64_t>(last, at.kz[i]);
        }
        depths = last + 1 - first;
      }
      const bool crowded = pixels >= kManyPixels * depths * depths;
      if constexpr (kSplatsByDepth && Contributions::kMade) {
        if (crowded || depths <= kFewDepths) {
          return add_by_depth(at.kz, begin, end, contributions, prepare_column(first, last + 1));
        }
      }
      first_ = min_of(first_, first);
      end_ = max_of(end_, last + 1);
      add_in_turn(at.kz, begin, end, contributions, crowded);
    });
  }

  // Adds one depth after another in registers, in the order of their first pixels, and from there to the column.
  template <class Contributions>
  void add_by_depth(const int32_t* kz, int64_t begin, int64_t end, const Contributions& contributions, T* column) {
    for (int64_t part = begin; part < end; part += 64) {
      const int64_t n = min_of<int64_t>(end - part, 64);
      uint64_t rest = ~uint64_t(0) >> (64 - n);  // a bit for each pixel that is not yet added
      do {
        const int32_t z = kz[part + lowest_bit(rest)];
        const Indices<float> wanted = broadcast_index(z, 0.0f);
        uint64_t pixels = 0;
        for (int64_t i = 0; i < n; i += Vec<float>::kLanes)
          pixels |= uint64_t(equal_bits(load_indices(kz + part + i, 0.0f), wanted)) << i;
        T* const lower = column + z * depth_size_;
        add_depth(part, pixels & rest, contributions, lower, z + 1 < g_.Gd ? lower + depth_size_ : nullptr);
        rest &= ~pixels;
      } while (rest);
    }
  }

  // Adds the pixels first + i, for each bit i of `pixels`, which have the same depth. lower, upper: the column's sums
  // at this depth and at the next one, or null above the last.
  template <class Contributions>
  void add_depth(int64_t first, uint64_t pixels, const Contributions& contributions, T* lower, T* upper) const {
    constexpr int kAtOnce = kVectors > 2 ? 2 : 3;  // groups
    const int64_t groups = contributions.groups();
    int64_t n = 0;
    for (; n + kAtOnce <= groups; n += kAtOnce) add_groups<kAtOnce>(first, pixels, contributions, n, lower, upper);
    for (; n < groups; ++n) add_groups<1>(first, pixels, contributions, n, lower, upper);
  }
  template <int kCount, class Contributions>
  BO_INLINE_MEMBER void add_groups(int64_t first, uint64_t pixels, const Contributions& contributions, int64_t n,
                                   T* lower, T* upper) const {
    Vec<T> sums[kCount][kVectors];
    for (int g = 0; g < kCount; ++g)
      for (int v = 0; v < kVectors; ++v) sums[g][v] = broadcast(T(0));
    for (; pixels; pixels &= pixels - 1) {
      const int64_t i = first + lowest_bit(pixels);
      Vec<T> weights[kVectors];
      for (int v = 0; v < kVectors; ++v) weights[v] = spread4(weights_ + 4 * i, v);
      contributions.weigh(i, weights);
      for (int g = 0; g < kCount; ++g)
        for (int v = 0; v < kVectors; ++v)
          sums[g][v] = mul_add(weights[v], contributions.channels(i, n + g, v), sums[g][v]);
    }
    const auto add_half = [&](int half, T* to) {
      for (int v = 0; v < kVectors; ++v) {
        const Vec<T> weights = load(row_weights_ + v * Vec<T>::kLanes);
        for (int g = 0; g < kCount; ++g) {
          T* const sum = to + (n + g) * kGroup + v * Vec<T>::kLanes;
          store(sum, mul_add(repeat_half(sums[g], half, v), weights, load(sum)));
        }
      }
    };
    add_half(0, lower);
    if (upper) add_half(1, upper);
  }

  // Adds pixels one after another; where they are crowded, odd ones to a copy of the sums, as they would wait for those
  // before them.
  template <class Contributions>
  void add_in_turn(const int32_t* kz, int64_t begin, int64_t end, const Contributions& contributions, bool crowded) {
    const int64_t depth_size = depth_size_;
    odd_used_ |= crowded;
    const auto add_pixel = pixel_adder(contributions);
    T *const even = depth_sums(0), *const odd = crowded ? even + copy_size_ : even;
    int64_t i = begin;
    for (; i + 1 < end; i += 2) {
      add_pixel(i, even + kz[i] * depth_size);
      add_pixel(i + 1, odd + kz[i + 1] * depth_size);
    }
    if (i < end) add_pixel(i, even + kz[i] * depth_size);
  }

  // A function that adds pixel i to the sums of its depth. It has copies of what it uses, as the compiler must assume
  // that stores to the sums change members.
  template <class Contributions>
  BO_INLINE_MEMBER auto pixel_adder(const Contributions& contributions) const {
    const int64_t groups = contributions.groups();
    const bool rest = Contributions::kRest && g_.C % 4 > 0;
    const T* const corners = weights_;
    return [=, from = contributions](int64_t i, T* to) {
      Vec<T> weights[kVectors], channels[kVectors];
      const auto add_group = [&] {
        for (int v = 0; v < kVectors; ++v) {
          T* const sum = to + v * Vec<T>::kLanes;
          store(sum, mul_add(weights[v], channels[v], load(sum)));
        }
      };
      for (int v = 0; v < kVectors; ++v) weights[v] = spread4(corners + 4 * i, v);
      from.weigh(i, weights);
      for (int64_t n = 0; n < groups; ++n, to += kGroup) {
        for (int v = 0; v < kVectors; ++v) channels[v] = from.channels(i, n, v);
        add_group();
      }
      if constexpr (Contributions::kRest) {
        if (!rest) return;
        for (int v = 0; v < kVectors; ++v) channels[v] = from.rest(i, v);
        add_group();
      }
    };
  }

  // Depth −1 is zeros.
  T* depth_sums(int64_t z) const { return span_ + (z + 1) * depth_size_; }

  // Adds the span's sums to its column's, and clears them.
  BO_NOINLINE_MEMBER void add_span() {
    if (first_ >= end_) return;
    // Local copies, as above.
    const int64_t depth_size = depth_size_, first = first_, end = min_of(end_ + 1, g_.Gd);
    T* const column = prepare_column(first, end_);
    const T upper_weight = ty_, lower_weight = T(1) - ty_;
    T* const span = depth_sums(0);
    const int64_t size = (end_ - first) * depth_size;
    if (odd_used_) {
      T *const even = span + first * depth_size, *const odd = even + copy_size_;
      for (int64_t i = 0; i < size; i += Vec<T>::kLanes) store(even + i, load(even + i) + load(odd + i));
      clear(odd, size);
      odd_used_ = false;
    }
    for (int64_t i = first * depth_size; i < end * depth_size; i += kGroup) {
      // Cell z is the lower corner of pixels with kz = z and the upper corner of those with kz = z − 1.
      const T *BO_RESTRICT lower = span + i, *BO_RESTRICT upper = lower - depth_size + 8;
      T* BO_RESTRICT to = column + i;
      for (int l = 0; l < 8; ++l) {
        const T sum = lower[l] + upper[l];
        to[l] = mul_add(sum, lower_weight, to[l]);
        to[8 + l] = mul_add(sum, upper_weight, to[8 + l]);
      }
    }
    clear(span + first * depth_size, size);
    first_ = g_.Gd;
    end_ = 0;
  }
  // The sums of the span's column. Those that pixels of depths `first` to `end` − 1 add to are set to zero where they
  // are new.
  T* prepare_column(int64_t first, int64_t end) {
    const int64_t depth_size = depth_size_;
    T* const column = columns_ + kx_ * g_.Gd * depth_size;
    pending_[kx_].depths.widen(first, min_of(end + 1, g_.Gd),
                               [=](int64_t z, int64_t n) { clear(column + z * depth_size, n * depth_size); });
    return column;
  }
  static BO_INLINE_MEMBER void clear(T* sums, int64_t n) {
    for (int64_t i = 0; i < n; i += Vec<T>::kLanes) {
      BO_KEEP_LOOP;
      store(sums + i, broadcast(T(0)));
    }
  }

  // Adds a column's sums to the band's: to the grid columns left and right of it, in two grid rows.
  BO_NOINLINE_MEMBER void add_column(int64_t x) {
    const Depths depths = pending_[x].depths;
    if (depths.end == 0) return;
    pending_[x] = {};
    const int64_t C = g_.C, above = min_of(ky_ + 1, g_.Gh - 1), right = min_of(x + 1, g_.Gw - 1);
    double* const cells[4] = {grid_column(ky_, x, depths), grid_column(ky_, right, depths),
                              grid_column(above, x, depths), grid_column(above, right, depths)};
    const T* sums = columns_ + (x * g_.Gd + depths.first) * depth_size_;
    for (int64_t z = depths.first; z < depths.end; ++z)
      for (int64_t c = 0; c < C; c += 4, sums += kGroup) {
        // In sequence, as at the border both rows or both columns are the same.
        const int64_t cell = z * C + c, channels = min_of<int64_t>(C - c, 4);
        for (int corner = 0; corner < 4; ++corner) add_to_cell(cells[corner] + cell, sums + 4 * corner, channels);
      }
  }
  // A column of the band's sums, with initialised sums for the depths that will be added
  double* grid_column(int64_t y, int64_t x, const Depths& added) const {
    double* const column = grid_row<double>(y) + x * g_.column_size;
    if (y < sums_.split) {
      sums_.depths[(y - sums_.top) * g_.Gw + x].widen(added.first, added.end, [&](int64_t z, int64_t n) {
        memset(column + z * g_.C, 0, static_cast<size_t>(n * g_.C) * sizeof(double));
      });
    }
    return column;
  }
  static BO_INLINE_MEMBER void add_to_cell(double* to, const T* sums, int64_t channels) {
    if (channels == 4) return store_double4(to, mul_add(load_double4(sums), 1.0, load_double4(to)));
    for (int64_t l = 0; l < channels; ++l) to[l] += static_cast<double>(sums[l]);
  }

  const Lattice g_;
  const BandSums sums_;
  Scratch memory_, columns_memory_, pending_memory_;
  const int64_t depth_size_;  // elements in the sums of one depth
  int64_t copy_size_ = 0;     // elements in a copy
  bool odd_used_ = false;     // whether the second copy has sums
  T* span_ = nullptr;         // the span's sums, [copy][z][group]
  T* columns_ = nullptr;      // the columns' sums, [x][z][group]
  T* weights_ = nullptr;      // [pixel][corner] of a tile
  Pending* pending_ = nullptr;
  double* pair_ = nullptr;  // for add_pixels
  // Where the span is, and the depths that it has sums of
  int64_t y_ = -1, ky_ = -1, kx_ = -1, first_ = g_.Gd, end_ = 0;
  T ty_ = T(0);
  // The weights in y of the tile's row: of the grid row below eight times, of the one above eight times
  alignas(64) T row_weights_[kGroup];
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
    bands_ = band_count(tiles_, tiling.width, kGridGrain);
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
    sums_ = memory_.template take<char>(rows_ * row_size_ * sum_size());
    depths_ = depths_memory_.template take<Depths>(rows_ * g.Gw);
  }

  int64_t bands() const { return bands_; }
  int64_t first_tile(int64_t band) const { return tiles_ * band / bands_; }
  // Prepares the sums of a band: without depths for long spans, else set to zero. To be called once per band, by the
  // thread that adds to it.
  BandSums begin(int64_t band) const {
    const BandSums sums = sums_of(band);
    const int64_t own_rows = split_[band] - top_[band];
    const Depths depths = {0, g_.long_spans ? 0 : g_.Gd};
    for (int64_t i = 0; i < own_rows * g_.Gw; ++i) sums.depths[i] = depths;
    if (!g_.long_spans) memset(sums.own, 0, static_cast<size_t>(own_rows * row_size_ * sum_size()));
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
    return {sums_ + start_[band] * row_size_ * sum_size(), to_, depths_ + start_[band] * g_.Gw, top_[band],
            split_[band]};
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
    const Depths* depths[kBands];
    int64_t count = 0;
    bool in_place = false;  // whether the last of these bands summed in the result
    for (int64_t b = 0; b < bands_; ++b)
      if (y >= top_[b] && y < bottom_[b]) {
        const BandSums sums = sums_of(b);
        in_place = y >= split_[b];
        depths[count] = in_place ? nullptr : sums.depths + (y - top_[b]) * g_.Gw;
        rows[count++] = sums.template row<Sum>(y, row_size_);
      }
    if (in_place && count == 1) return;
    Scratch memory, column_memory;
    Sum* BO_RESTRICT sum = memory.take<Sum>(g_.column_size);
    T* BO_RESTRICT column = column_memory.take<T>(g_.column_size);
    for (int64_t x = 0; x < g_.Gw; ++x) {
      for (int64_t i = 0; i < g_.column_size; ++i) sum[i] = Sum(0);
      for (int64_t b = 0; b < count; ++b) {
        const Sum* BO_RESTRICT from = rows[b] + x * g_.column_size;
        const Depths all = {0, g_.Gd}, has = depths[b] ? depths[b][x] : all;
        for (int64_t i = has.first * g_.C; i < has.end * g_.C; ++i) sum[i] += from[i];
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
  Scratch memory_, depths_memory_;
  char* sums_;
  Depths* depths_;
};

template <class T>
using SplatRun = void (*)(const void* context, int64_t first, int64_t last, Splatter<T>* splatter);
// Calls run(context, first, last, splatter) in parallel for ranges of tiles that make up all of them, and makes d_grid
// of what the splatters collect. If d_grid is not wanted, splatter is null.
template <class T>
void splat_ranges(const Lattice& g, const Sampling& at, const Tiling& tiling, const Tensor& d_grid, SplatRun<T> run,
                  const void* context) {
  if (!d_grid.data) {
    for_tile_ranges(tiling.count, tiling.width,
                    [&](int64_t first, int64_t last) { run(context, first, last, nullptr); });
    return;
  }
  const int64_t tiles = g.H * tiling.per_row;
  const auto splat_image = [&](int64_t n) {
    GridSums<T> sums(g, at, tiling, d_grid, n);
    for_units(sums.bands(), [&](int64_t band) {
      Splatter<T> splatter(g, sums.begin(band));
      run(context, n * tiles + sums.first_tile(band), n * tiles + sums.first_tile(band + 1), &splatter);
      splatter.flush();
    });
    sums.store();
  };
  if (band_count(tiles, tiling.width, kGridGrain) == 1) {
    for_units(g.N, splat_image);  // small images, in parallel
  } else {
    for (int64_t n = 0; n < g.N; ++n) splat_image(n);
  }
}
// The same for run(first, last, splatter), a function object: each is a small part of what is compiled above.
template <class T, class Run>
BO_INLINE void splat_tiles(const Lattice& g, const Sampling& at, const Tiling& tiling, const Tensor& d_grid,
                           const Run& run) {
  const auto call = [](const void* context, int64_t first, int64_t last, Splatter<T>* splatter) {
    (*static_cast<const Run*>(context))(first, last, splatter);
  };
  splat_ranges<T>(g, at, tiling, d_grid, call, &run);
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
