// resize_area: forward, then backward. Equations: ../ops.h
//
// Both are weighted sums over the footprints of output pixels, computed separately in y and x. If the input has at
// least as many rows as the output, its rows are summed in y first, in vectors; each sum is then reduced in x, once per
// output row. Otherwise each input row is first spread in x, once, and each output row is a blend of one or two of the
// results. Sums are kept in double; those of integers in y in float while it represents them exactly. The order of
// summation does not depend on the layout.
#pragma once

#include "../ops.h"
#include "tiles.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// One axis: each of `out` output pixels is a weighted sum of the input pixels in its footprint, of `in` in all. The
// weight of an input pixel is the length of it in the footprint (formulas.h), divided by `unit`.
struct AreaAxis {
  int64_t out, in;
  double unit;
};
// The input pixels of one output pixel, [begin, end), and the weights of the first, the last and the others
struct Cover {
  int64_t begin, end;
  double head, body, tail;
  double weight(int64_t i) const { return i == begin ? head : i == end - 1 ? tail : body; }
};
BO_INLINE Cover cover(const AreaAxis& axis, int64_t i) {
  const Footprint<int64_t> f = footprint(i, axis.out, axis.in);
  const auto share = [&](int64_t length) { return static_cast<double>(length) / axis.unit; };
  return {f.begin, f.end, share(f.head), share(axis.out), share(f.tail)};
}

// Calls f with the storage that an image's rows are loaded by, and a value of the type that they are summed in.
// Integers are loaded as levels, where their storage divides them by the top level. small: float represents their sums
// exactly.
template <class S, class F>
BO_INLINE void with_sums(S storage, bool, F&& f) {
  f(storage, double());
}
template <class Level, class F>
BO_INLINE void with_sums(Converted<Unit<Level>>, bool small, F&& f) {
  if (small) {
    f(Converted<Levels<Level>>(), float());
  } else {
    f(Converted<Levels<Level>>(), double());
  }
}

// Rows that are summed at a time: as many streams as a hardware prefetcher follows
constexpr int64_t kRowsAtOnce = 8;
template <class A>
struct WeightedRows {
  const char* first;
  int64_t stride, count;
  A weight[kRowsAtOnce];
};

// sums[g] += Σ_rows weight·(vector g of the row). The vectors are `apart` bytes apart.
template <class S, int kGroups, class A>
BO_INLINE void add_groups(const WeightedRows<A>& rows, const char* p, int64_t apart, Vec<A>* sums) {
  using Group = decltype(S::load(p));
  constexpr int kParts = Group::kLanes / Vec<A>::kLanes;
  for (int64_t r = 0; r < rows.count; ++r, p += rows.stride) {
    const Vec<A> w = broadcast(rows.weight[r]);
    for (int g = 0; g < kGroups; ++g) {
      Vec<A> v[kParts];
      widen(S::load(p + g * apart), v);
      for (int k = 0; k < kParts; ++k) sums[g * kParts + k] = mul_add(w, v[k], sums[g * kParts + k]);
    }
  }
}
// The same for one element
template <class S, class A>
BO_INLINE A add_number(const WeightedRows<A>& rows, const char* p, A sum) {
  for (int64_t r = 0; r < rows.count; ++r, p += rows.stride)
    sum = mul_add(rows.weight[r], static_cast<A>(S::load_one(p)), sum);
  return sum;
}

// The same for adjacent vectors, to `to`, from element `first` on. Returns the first element that is left.
template <class S, int kGroups, class A>
BO_INLINE int64_t add_vectors(const WeightedRows<A>& rows, int64_t first, int64_t n, bool more, A* BO_RESTRICT to) {
  constexpr int64_t kGroup = decltype(S::load(rows.first))::kLanes, kLanes = Vec<A>::kLanes;
  constexpr int kParts = static_cast<int>(kGroups * kGroup / kLanes);
  int64_t i = first;
  for (; i + kGroups * kGroup <= n; i += kGroups * kGroup) {
    Vec<A> sums[kParts];
    for (int k = 0; k < kParts; ++k) sums[k] = more ? load(to + i + k * kLanes) : broadcast(A(0));
    add_groups<S, kGroups>(rows, rows.first + i * S::size, kGroup * S::size, sums);
    for (int k = 0; k < kParts; ++k) store(to + i + k * kLanes, sums[k]);
  }
  return i;
}

// to[i] = Σ_rows weight·(element i), or += if `more`. The elements are `step` bytes apart.
template <class S, class A>
void add_run(const WeightedRows<A>& rows, int64_t step, int64_t n, bool more, A* BO_RESTRICT to) {
  int64_t i = 0;
  if (step == S::size) {
    i = add_vectors<S, 4>(rows, i, n, more, to);
    i = add_vectors<S, 1>(rows, i, n, more, to);
  }
  for (; i < n; ++i) to[i] = add_number<S>(rows, rows.first + i * step, more ? to[i] : A(0));
}

// The same for pixels of three channels in planes that are `apart` bytes apart, to [pixel][channel]
template <class S, class A>
void add_planes(const WeightedRows<A>& rows, int64_t apart, int64_t pixels, bool more, A* BO_RESTRICT to) {
  using Group = decltype(S::load(rows.first));
  constexpr int64_t kGroup = Group::kLanes, kLanes = Vec<A>::kLanes;
  constexpr int kParts = static_cast<int>(kGroup / kLanes);
  int64_t i = 0;
  for (; i + kGroup <= pixels; i += kGroup) {
    Vec<A> sums[3 * kParts];
    for (int k = 0; k < kParts; ++k) {
      Vec<A> v[3];
      for (int c = 0; c < 3; ++c) v[c] = more ? load(to + 3 * (i + k * kLanes) + c * kLanes) : broadcast(A(0));
      if (more) deinterleave3(v);
      for (int c = 0; c < 3; ++c) sums[c * kParts + k] = v[c];
    }
    add_groups<S, 3>(rows, rows.first + i * S::size, apart, sums);
    for (int k = 0; k < kParts; ++k) {
      Vec<A> v[3] = {sums[k], sums[kParts + k], sums[2 * kParts + k]};
      interleave3(v);
      for (int c = 0; c < 3; ++c) store(to + 3 * (i + k * kLanes) + c * kLanes, v[c]);
    }
  }
  for (; i < pixels; ++i)
    for (int64_t c = 0; c < 3; ++c)
      to[3 * i + c] = add_number<S>(rows, rows.first + i * S::size + c * apart, more ? to[3 * i + c] : A(0));
}

// The pixels and channels of a row of an image: how many, and their strides in bytes
struct RowLayout {
  int64_t pixels, step, channels, apart;
};
// The weighted sums of rows to `sums`, [pixel][channel], or += if `more`, for any layout. plane: scratch for a number
// per pixel
template <class S, class A>
void add_rows(const WeightedRows<A>& rows, const RowLayout& row, bool more, A* sums, A* plane) {
  const int64_t pixels = row.pixels, step = row.step, C = row.channels, apart = row.apart;
  if ((C == 1 || apart == S::size) && (pixels == 1 || step == C * S::size)) {
    add_run<S>(rows, S::size, pixels * C, more, sums);
  } else if (C == 1) {
    add_run<S>(rows, step, pixels, more, sums);
  } else if (C == 3 && step == S::size) {
    add_planes<S>(rows, apart, pixels, more, sums);
  } else if (C >= 8 && (apart < 0 ? -apart : apart) <= (step < 0 ? -step : step)) {
    WeightedRows<A> pixel = rows;
    for (int64_t i = 0; i < pixels; ++i, pixel.first += step) add_run<S>(pixel, apart, C, more, sums + i * C);
  } else {
    WeightedRows<A> channel = rows;
    for (int64_t c = 0; c < C; ++c, channel.first += apart) {
      for (int64_t i = 0; more && i < pixels; ++i) plane[i] = sums[i * C + c];
      add_run<S>(channel, step, pixels, more, plane);
      for (int64_t i = 0; i < pixels; ++i) sums[i * C + c] = plane[i];
    }
  }
}
// add_rows() for the storage of an image
template <class A>
using AddRows = void (*)(const WeightedRows<A>& rows, const RowLayout& row, bool more, A* sums, A* plane);

// From this number of channels on, a loop over the channels of each pixel pays for its set-up.
constexpr int64_t kManyChannels = 16;
constexpr double kNothing[4] = {0.0, 0.0, 0.0, 0.0};

// sums[pixel][channel] = the weighted sum over each output pixel's input pixels, or += if `more`, for a single output
// pixel then. `from`, [pixel][channel], holds the input pixels in [first, last). Reads and writes up to three elements
// beyond the last.
template <class A>
void reduce_across(const Cover* covers, int64_t count, const A* from, int64_t first, int64_t last, int64_t channels,
                   bool more, double* sums) {
  for (int64_t j = 0; j < count; ++j, sums += channels) {
    const Cover& at = covers[j];
    const int64_t begin = max_of(at.begin, first), end = min_of(at.end, last);
    const A* const pixels = from + (begin - first) * channels;
    const double head = at.weight(begin), tail = at.weight(end - 1), body = at.body;
    if (channels == 1) {
      const A* p = pixels;
      double sum = mul_add(static_cast<double>(*p), head, more ? *sums : 0.0);
      for (int64_t x = begin + 1; x < end - 1; ++x) sum = mul_add(static_cast<double>(*++p), body, sum);
      if (end - begin > 1) sum = mul_add(static_cast<double>(p[1]), tail, sum);
      *sums = sum;
      continue;
    }
    if (channels >= kManyChannels && sizeof(A) == sizeof(double)) {
      // Sums in memory, as there are more channels than registers.
      const double* p = reinterpret_cast<const double*>(pixels);
      for (int64_t x = begin; x < end; ++x, p += channels) {
        const Vec<double> w = broadcast(x == begin ? head : x == end - 1 ? tail : body);
        const bool add = more || x > begin;
        for_vectors<double>(channels, [&](int64_t c, auto lanes) {
          lanes.store(sums + c, mul_add(w, lanes.load(p + c), add ? lanes.load(sums + c) : broadcast(0.0)));
        });
      }
      continue;
    }
    // If fewer than four channels are left, this also writes channels of the next pixel, which are then overwritten.
    for (int64_t c = 0; c < channels; c += 4) {
      const A* p = pixels + c;
      Double4 sum = mul_add(load_double4(p), head, load_double4(more ? sums + c : kNothing));
      for (int64_t x = begin + 1; x < end - 1; ++x) sum = mul_add(load_double4(p += channels), body, sum);
      if (end - begin > 1) sum = mul_add(load_double4(p + channels), tail, sum);
      store_double4(sums + c, sum);
    }
  }
}

// to = head·first + tail·second, or head·first if second is null. Elements of float are computed in double and rounded
// once: compilers vectorize these loops, including the conversions.
BO_INLINE void blend_run(int64_t n, const double* first, const double* second, double head, double tail, double* to) {
  const Vec<double> a = broadcast(head), b = broadcast(tail);
  if (second) {
    for_vectors<double>(n, [=](int64_t i, auto lanes) {
      lanes.store(to + i, mul_add(b, lanes.load(second + i), a * lanes.load(first + i)));
    });
  } else {
    for_vectors<double>(n, [=](int64_t i, auto lanes) { lanes.store(to + i, a * lanes.load(first + i)); });
  }
}
BO_INLINE void blend_run(int64_t n, const double* BO_RESTRICT first, const double* BO_RESTRICT second, double head,
                         double tail, float* BO_RESTRICT to) {
  if (second) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(mul_add(tail, second[i], head * first[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(head * first[i]);
  }
}
// The same to the output, whose cache lines are prefetched
template <class T>
BO_INLINE void blend(int64_t n, const double* first, const double* second, double head, double tail, T* to) {
  constexpr int64_t kAtOnce = sizeof(T) == sizeof(double) ? 64 : 256;
  for (int64_t i = 0; i < n; i += kAtOnce) {
    prefetch_ahead<kAtOnce * sizeof(T)>(reinterpret_cast<const char*>(to + i));
    blend_run(min_of(kAtOnce, n - i), first + i, second ? second + i : nullptr, head, tail, to + i);
  }
}
// to[i] = scale·from[i], rounded to T
template <class T>
BO_INLINE void scale_to(int64_t n, const double* BO_RESTRICT from, double scale, T* BO_RESTRICT to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i] * scale);
}
// reduce_across() where each output pixel has one or two input pixels
inline void spread_across(const Cover* covers, int64_t count, const double* from, int64_t channels, double* to) {
  for (int64_t j = 0; j < count; ++j, to += channels) {
    const Cover& at = covers[j];
    const double* const first = from + (at.begin - covers[0].begin) * channels;
    blend_run(channels, first, at.end - at.begin > 1 ? first + channels : nullptr, at.head, at.tail, to);
  }
}

// How an output is cut: into strips of pixel columns, of which each row is a tile
struct Strips {
  int64_t width, per_row, count;  // count: of tiles, [n][strip][row]
  int64_t block;                  // input pixels that are reduced at a time: all of a tile of several pixels
};
BO_INLINE Strips make_strips(const Tensor& out, const AreaAxis& x) {
  constexpr int64_t kMostIn = 6144, kMostOut = 16384;  // elements that stay in the L1 and L2 caches
  const int64_t channels = max_of<int64_t>(out.shape[3], 1), most = max_of<int64_t>(kMostIn / channels, 1);
  const double pixels = static_cast<double>(x.in) / static_cast<double>(x.out);  // per output pixel
  const int64_t wide = max_of<int64_t>(1, min_of(static_cast<int64_t>(static_cast<double>(most) / pixels), x.out));
  Strips s;
  s.per_row = ceil_div(x.out, min_of(wide, max_of<int64_t>(kMostOut / channels, 1)));
  s.width = ceil_div(x.out, s.per_row);
  s.count = out.shape[0] * s.per_row * out.shape[1];
  s.block = min_of(x.in, max_of(most, static_cast<int64_t>(static_cast<double>(s.width) * pixels) + 3));
  return s;
}

// Computes the tiles of one thread. A: the type that rows are summed in
template <class A>
class AreaSums {
 public:
  AreaSums(const Tensor& out, const Tensor& image, AddRows<A> add_rows, const AreaAxis& y, const AreaAxis& x,
           const Strips& strips, const Cover* columns)
      : out_(out),
        image_(image),
        add_rows_(add_rows),
        y_(y),
        x_(x),
        strips_(strips),
        columns_(columns),
        channels_(out.shape[3]),
        scale_(is_integer(image.dtype) ? 1.0 / (area() * top_level(image.dtype)) : 1.0),
        single_(out.dtype != DType::f64),
        pixels_(block_of(out, 2)) {
    const int64_t numbers = strips.width * channels_;
    rows_sum_ = rows_memory_.template take<A>(strips.block * channels_ + kPad);
    plane_ = plane_memory_.template take<A>(strips.block);
    sums_ = sums_memory_.template take<double>(numbers + kPad);
    spread_ = spread_memory_.template take<double>(2 * (numbers + kPad));
    result_ = result_memory_.template take<double>(numbers);
  }

  void make(int64_t tile) {
    place(tile);
    const Cover rows = cover(y_, row_);
    if (y_.out <= y_.in) {
      sum(rows, rows.begin, rows.end, sums_);
      return put(sums_);
    }
    const double *const first = spread(rows.begin), *const second = spread(rows.end - 1);
    const auto mix = [&](auto* to) {
      blend(numbers_, first, first == second ? nullptr : second, rows.head, rows.tail, to);
    };
    if (is_integer(image_.dtype)) {
      mix(sums_);
      put(sums_);
    } else {
      put_floats(mix);
    }
  }

  // The sums of one of the bands that a tile's input rows are cut into, to `parts`, where bands are `apart` elements
  // apart; and the tile, from the sums of its bands
  void make_band(int64_t tile, int64_t band, int64_t bands, double* parts, int64_t apart) {
    place(tile);
    const Cover rows = cover(y_, row_);
    const int64_t count = rows.end - rows.begin;
    sum(rows, rows.begin + count * band / bands, rows.begin + count * (band + 1) / bands, sums_);
    memcpy(parts + (tile * bands + band) * apart, sums_, static_cast<size_t>(numbers_) * sizeof(double));
  }
  void add_bands(int64_t tile, int64_t bands, const double* parts, int64_t apart) {
    place(tile);
    for (int64_t i = 0; i < numbers_; ++i) {
      sums_[i] = 0.0;
      for (int64_t band = 0; band < bands; ++band) sums_[i] += parts[(tile * bands + band) * apart + i];
    }
    put(sums_);
  }

 private:
  void place(int64_t tile) {
    const int64_t strip = tile / y_.out;
    row_ = tile - strip * y_.out;
    n_ = strip / strips_.per_row;
    left_ = (strip - n_ * strips_.per_row) * strips_.width;
    count_ = min_of(strips_.width, x_.out - left_);
    numbers_ = count_ * channels_;
    if (strip != strip_) ready_[0] = ready_[1] = -1;
    strip_ = strip;
  }

  // The weighted sums of rows [begin, end), reduced in x, [pixel][channel]. (Not inlined, nor is put(): compiled once
  // for all that call it.)
  BO_NOINLINE_MEMBER void sum(const Cover& rows, int64_t begin, int64_t end, double* sums) {
    const Cover* const covers = columns_ + left_;
    const int64_t from = covers[0].begin, last = covers[count_ - 1].end;
    for (int64_t first = from; first < last; first += strips_.block) {
      const int64_t stop = min_of(first + strips_.block, last);
      for (int64_t y = begin; y < end; y += kRowsAtOnce) {
        WeightedRows<A> some;
        some.first = address_of(image_, n_, y, first);
        some.stride = image_.strides[1];
        some.count = min_of(kRowsAtOnce, end - y);
        for (int64_t r = 0; r < some.count; ++r) some.weight[r] = static_cast<A>(rows.weight(y + r));
        add(some, stop - first, y > begin);
      }
      reduce_across(covers, count_, rows_sum_, first, stop, channels_, first > from, sums);
    }
  }

  void add(const WeightedRows<A>& rows, int64_t pixels, bool more) const {
    add_rows_(rows, {pixels, image_.strides[2], channels_, image_.strides[3]}, more, rows_sum_, plane_);
  }

  // Row y of the image, spread in x pixel by pixel. Returns false, without doing so, for few channels.
  bool spread_pixels(int64_t y, double* row) {
    if constexpr (sizeof(A) == sizeof(double)) {
      if (channels_ < kManyChannels || x_.out < x_.in) return false;
      const Cover* const covers = columns_ + left_;
      const int64_t first = covers[0].begin;
      WeightedRows<A> one;
      one.first = address_of(image_, n_, y, first);
      one.stride = 0;
      one.count = 1;
      one.weight[0] = A(1);
      add(one, covers[count_ - 1].end - first, false);
      spread_across(covers, count_, rows_sum_, channels_, row);
      return true;
    }
    return false;
  }

  // Row y of the image, spread in x. The last two rows are kept.
  const double* spread(int64_t y) {
    double* const row = spread_ + (y & 1) * (strips_.width * channels_ + kPad);
    if (ready_[y & 1] != y) {
      ready_[y & 1] = y;
      if (!spread_pixels(y, row)) sum({y, y + 1, 1.0, 1.0, 1.0}, y, y + 1, row);
    }
    return row;
  }

  char* target() const { return address_of(out_, n_, row_, left_); }
  // Stores the tile whose sums these are.
  BO_NOINLINE_MEMBER void put(const double* sums) {
    if (out_.dtype == DType::u8) return put_levels<uint8_t>(sums, target());
    if (out_.dtype == DType::u16) return put_levels<uint16_t>(sums, target());
    put_floats([&, scale = scale_](auto* to) { scale_to(numbers_, sums, scale, to); });
  }
  // Calls write(to) with `to` an array of the type that the output is computed in, float or double.
  template <class F>
  void put_floats(const F& write) {
    if (single_) {
      put_as<float>(write);
    } else {
      put_as<double>(write);
    }
  }
  // write(to) writes the tile's elements: to the output itself if it is plain and dense, else to scratch.
  template <class V, class F>
  void put_as(const F& write) {
    char* const to = target();
    V* const scratch = reinterpret_cast<V*>(result_);
    V* const elements = block_target(pixels_, to, scratch);
    write(elements);
    if (elements == scratch) store_block(pixels_, to, count_, scratch);
  }
  template <class N>
  void put_levels(const double* sums, char* to) {
    const double all = area();
    const int64_t count = numbers_;  // A local copy, and levels in scratch first, so that compilers vectorize.
    N* const levels = reinterpret_cast<N*>(result_);
    for (int64_t i = 0; i < count; ++i) levels[i] = static_cast<N>(static_cast<int32_t>(rounded(sums[i] / all)));
    if (pixels_.dense) {
      memcpy(to, levels, static_cast<size_t>(count) * sizeof(N));
      return;
    }
    for (int64_t j = 0; j < count_; ++j)
      for (int64_t c = 0; c < channels_; ++c)
        memcpy(to + j * pixels_.stride + c * pixels_.stride1, levels + j * channels_ + c, sizeof(N));
  }

  double area() const { return static_cast<double>(y_.in) * static_cast<double>(x_.in); }

  const Tensor &out_, &image_;
  const AddRows<A> add_rows_;
  const AreaAxis y_, x_;
  const Strips strips_;
  const Cover* const columns_;
  const int64_t channels_;
  const double scale_;  // of sums if the output is of floats: those of integers are of levels
  const bool single_;   // whether the output is computed in float
  const Block pixels_;
  Scratch rows_memory_, plane_memory_, sums_memory_, spread_memory_, result_memory_;
  A *rows_sum_, *plane_;
  double *sums_, *spread_;
  double* result_;  // scratch for a tile of the output, of any type
  int64_t ready_[2] = {-1, -1}, strip_ = -1;
  int64_t n_ = 0, row_ = 0, left_ = 0, count_ = 0, numbers_ = 0;
};

template <class A>
void sum_areas_as(const Tensor& out, const Tensor& image, AddRows<A> add_rows, const AreaAxis& y, const AreaAxis& x) {
  const Strips strips = make_strips(out, x);
  Scratch columns_memory, bands_memory;
  Cover* const columns = columns_memory.take<Cover>(x.out);
  for (int64_t j = 0; j < x.out; ++j) columns[j] = cover(x, j);
  const int64_t pixels = max_of(y.in * x.in, y.out * x.out) / max_of<int64_t>(y.out * strips.per_row, 1);
  const int64_t bands = min_of(kBands / strips.count, min_of(y.in / y.out / kRowsAtOnce, pixels / kGrain));
  if (bands <= 1) {
    for_tile_ranges(strips.count, max_of<int64_t>(pixels, 1), [&](int64_t first, int64_t last) {
      AreaSums<A> area(out, image, add_rows, y, x, strips, columns);
      for (int64_t tile = first; tile < last; ++tile) area.make(tile);
    });
    return;
  }
  const int64_t apart = strips.width * out.shape[3];
  double* const parts = bands_memory.take<double>(strips.count * bands * apart);
  for_units(strips.count * bands, [&](int64_t unit) {
    AreaSums<A> area(out, image, add_rows, y, x, strips, columns);
    area.make_band(unit / bands, unit % bands, bands, parts, apart);
  });
  AreaSums<A> area(out, image, add_rows, y, x, strips, columns);
  for (int64_t tile = 0; tile < strips.count; ++tile) area.add_bands(tile, bands, parts, apart);
}

BO_INLINE void sum_areas(const Tensor& out, const Tensor& image, double height, double width) {
  if (is_empty(out) || is_empty(image)) return;
  const AreaAxis y = {out.shape[1], image.shape[1], height}, x = {out.shape[2], image.shape[2], width};
  // float represents all whole numbers up to 2^24.
  const int64_t top = top_level(image.dtype), rows = y.out > y.in ? 1 : y.in;
  with_compute_type(image.dtype, [&](auto t) {
    with_storage(image.dtype, t, [&](auto storage) {
      with_sums(storage, rows <= (1 << 24) / top, [&](auto loaded, auto sum) {
        using A = decltype(sum);
        sum_areas_as<A>(out, image, &add_rows<decltype(loaded), A>, y, x);
      });
    });
  });
}

// Weights of integers are lengths, so sums are whole numbers, and the division by the sum of the weights is the only
// rounding.
void resize_area_forward(const ResizeAreaArgs& a) {
  const auto unit = [&](int axis) {
    return is_integer(a.image.dtype) ? 1.0 : static_cast<double>(a.image.shape[axis]);
  };
  sum_areas(a.out, a.image, unit(1), unit(2));
}
void resize_area_backward(const ResizeAreaGradArgs& a) {
  sum_areas(a.d_image, a.grad, static_cast<double>(a.d_image.shape[1]), static_cast<double>(a.d_image.shape[2]));
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
