// Tiles of pixels: how kernels walk an image, and how storage types and strides become plain contiguous numbers.
//
// A tile is a run of pixels of one image row, short enough that everything about it stays in the first-level cache. A
// kernel loads a tile's inputs (any dtype, any strides) into scratch of its compute type T, works on that, and stores
// the outputs; images are held channel by channel ("planar", [channel][pixel]), coefficients pixel by pixel
// ([pixel][channel]). All loads of a tile, or of a pixel and of what is computed from it, come before its stores: that
// is why `out` may be the image.
#pragma once

#include <string.h>

#include "../formulas.h"
#include "../tensor.h"
#include "parallel.h"
#include "simd.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// ---------------------------------------------------------------------------------------------------------------------
// Storage types

// A storage type S: get and put one number, load and store a vector of numbers that lie one after another.
template <class N, class T>
struct Plain {
  static constexpr int64_t size = sizeof(N);
  static T get(const char* p) {
    N v;
    memcpy(&v, p, sizeof v);
    return static_cast<T>(v);
  }
  static void put(char* p, T value) {
    const N v = static_cast<N>(value);
    memcpy(p, &v, sizeof v);
  }
  static Vec<T> load(const char* p) { return bilateral_ops::load(reinterpret_cast<const T*>(p)); }
  static void store(char* p, const Vec<T>& v) { bilateral_ops::store(reinterpret_cast<T*>(p), v); }
};
template <class Format>
struct Converted {
  using Bits = typename Format::Bits;
  static constexpr int64_t size = sizeof(Bits);
  static float get(const char* p) {
    Bits v;
    memcpy(&v, p, sizeof v);
    return Format::value(v);
  }
  static void put(char* p, float value) {
    const Bits v = Format::bits(value);
    memcpy(p, &v, sizeof v);
  }
  static Vec<float> load(const char* p) { return load_as(Format(), p); }
  static void store(char* p, const Vec<float>& v) { store_as(Format(), p, v); }
};

// kLanes pixels of three interleaved channels, a vector a channel
template <class S, class T>
BO_INLINE void load3(const char* p, Vec<T>* v) {
  for (int c = 0; c < 3; ++c) v[c] = S::load(p + c * Vec<T>::kLanes * S::size);
  deinterleave(v);
}
template <class S, class T>
BO_INLINE void store3(char* p, Vec<T>* v) {
  interleave(v);
  for (int c = 0; c < 3; ++c) S::store(p + c * Vec<T>::kLanes * S::size, v[c]);
}

// Pixels of three interleaved channels to [channel][pixel], rows `pitch` apart, and back, in whole vectors: the last
// one may reach over `count`.
template <class S, class T>
BO_INLINE void pixels_to_planes(const char* from, int64_t count, T* to, int64_t pitch) {
  for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
    Vec<T> v[3];
    load3<S>(from + 3 * p * S::size, v);
    for (int c = 0; c < 3; ++c) store(to + c * pitch + p, v[c]);
  }
}
template <class S, class T>
BO_INLINE void planes_to_pixels(const T* from, int64_t pitch, int64_t count, char* to) {
  for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
    Vec<T> v[3];
    for (int c = 0; c < 3; ++c) v[c] = load(from + c * pitch + p);
    store3<S>(to + 3 * p * S::size, v);
  }
}

// Calls f with the storage type that a dtype has beside the compute type: double reads float64 alone, float the others.
template <class F>
BO_INLINE void with_storage(DType, double, F&& f) {
  f(Plain<double, double>());
}
template <class F>
BO_INLINE void with_storage(DType dtype, float, F&& f) {
  switch (dtype) {
    case DType::f16: return f(Converted<F16>());
    case DType::bf16: return f(Converted<BF16>());
    case DType::u8: return f(Converted<U8>());
    case DType::u16: return f(Converted<U16>());
    default: return f(Plain<float, float>());
  }
}

BO_INLINE int64_t item_size(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : dtype == DType::u8 ? 1 : 2;
}

// An image of three channels whose pixels lie side by side
BO_INLINE bool interleaved3(const Tensor& t) {
  const int64_t size = item_size(t.dtype);
  return t.shape[3] == 3 && t.strides[3] == size && t.strides[2] == 3 * size;
}
// Whether the items at every place of the first three axes begin at multiples of `size` bytes, as typed pointers must.
BO_INLINE bool aligned(const Tensor& t, size_t size) {
  return (reinterpret_cast<uintptr_t>(t.data) | static_cast<uintptr_t>(t.strides[0]) |
          static_cast<uintptr_t>(t.strides[1]) | static_cast<uintptr_t>(t.strides[2])) %
             size ==
         0;
}
// Calls f with the storage in which pixels are worked on where they lie: the compute type, or bytes.
template <class F>
BO_INLINE void with_pixels(const Tensor&, const Tensor&, double, F&& f) {
  f(Plain<double, double>());
}
template <class F>
BO_INLINE void with_pixels(const Tensor& image, const Tensor& out, float, F&& f) {
  if (image.dtype == DType::u8 && interleaved3(image) && interleaved3(out)) {
    f(Converted<U8>());
  } else {
    f(Plain<float, float>());
  }
}

// Calls f with a value of the compute type of an operation whose grid (or image, …) has this dtype.
template <class F>
BO_INLINE void with_compute_type(DType dtype, F&& f) {
  if (dtype == DType::f64) {
    f(double());
  } else {
    f(float());
  }
}

// n elements, `stride` bytes apart in memory, to and from scratch where they lie `step` elements apart.
template <class S, class T>
BO_INLINE void load_run_of(const char* BO_RESTRICT from, int64_t stride, int64_t n, T* BO_RESTRICT to, int64_t step) {
  if (stride == S::size && step == 1) {
    int64_t i = 0;
    for (; i + Vec<T>::kLanes <= n; i += Vec<T>::kLanes) store(to + i, S::load(from + i * S::size));
    for (; i < n; ++i) to[i] = S::get(from + i * S::size);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * step] = S::get(from + i * stride);
  }
}
template <class T>
void load_run(DType dtype, const char* from, int64_t stride, int64_t n, T* to, int64_t step) {
  with_storage(dtype, T(), [=](auto storage) { load_run_of<decltype(storage)>(from, stride, n, to, step); });
}
template <class S, class T>
BO_INLINE void store_run_of(char* BO_RESTRICT to, int64_t stride, int64_t n, const T* BO_RESTRICT from, int64_t step) {
  if (stride == S::size && step == 1) {
    int64_t i = 0;
    for (; i + Vec<T>::kLanes <= n; i += Vec<T>::kLanes) S::store(to + i * S::size, load(from + i));
    for (; i < n; ++i) S::put(to + i * S::size, from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) S::put(to + i * stride, from[i * step]);
  }
}
template <class T>
void store_run(DType dtype, char* to, int64_t stride, int64_t n, const T* from, int64_t step) {
  with_storage(dtype, T(), [=](auto storage) { store_run_of<decltype(storage)>(to, stride, n, from, step); });
}

// The last axes of a tensor from axis `first` on, read as [items][c1][c2]: item `first`, then up to two channel axes.
struct Block {
  DType dtype;
  int64_t stride, c1, c2, stride1, stride2;
  bool together;  // an item's channels are one run of memory
  bool dense;     // and so are all items: the order of scratch

  BO_INLINE_MEMBER int64_t channels() const { return c1 * c2; }
  BO_INLINE_MEMBER int64_t channel(int64_t c) const { return c / c2 * stride1 + c % c2 * stride2; }
};
BO_INLINE Block block_of(const Tensor& t, int first) {
  Block b;
  b.dtype = t.dtype;
  b.stride = t.strides[first];
  b.c1 = first + 1 < t.rank ? t.shape[first + 1] : 1;
  b.c2 = first + 2 < t.rank ? t.shape[first + 2] : 1;
  b.stride1 = first + 1 < t.rank ? t.strides[first + 1] : 0;
  b.stride2 = first + 2 < t.rank ? t.strides[first + 2] : 0;
  const int64_t size = item_size(t.dtype);
  // An axis of one element may have any stride.
  b.together = (b.c2 == 1 || b.stride2 == size) && (b.c1 == 1 || b.stride1 == size * b.c2);
  b.dense = b.together && b.stride == size * b.c1 * b.c2;
  return b;
}

// Items that lie side by side, channel by channel, to and from [item][channel]
template <class S, class T>
BO_INLINE void load_planes(const Block& b, const char* from, int64_t n, T* to) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t channels = b.channels(), whole = n / kLanes * kLanes;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    const char* plane[4];
    for (int j = 0; j < 4; ++j) plane[j] = from + b.channel(c + j);
    for (int64_t i = 0; i < whole; i += kLanes) {
      Vec<T> v[4];
      T numbers[4 * kLanes];
      for (int j = 0; j < 4; ++j) v[j] = S::load(plane[j] + i * S::size);
      store_fours(numbers, v[0], v[1], v[2], v[3]);
      for (int64_t l = 0; l < kLanes; ++l) memcpy(to + (i + l) * channels + c, numbers + 4 * l, 4 * sizeof(T));
    }
    for (int j = 0; j < 4; ++j)
      load_run_of<S>(plane[j] + whole * S::size, S::size, n - whole, to + whole * channels + c + j, channels);
  }
  const int64_t begin = channels == 3 ? whole : 0;
  for (int64_t i = 0; i < begin; i += kLanes) {
    Vec<T> v[3];
    for (int j = 0; j < 3; ++j) v[j] = S::load(from + b.channel(j) + i * S::size);
    store3<Plain<T, T>>(reinterpret_cast<char*>(to + 3 * i), v);
  }
  for (; c < channels; ++c)
    load_run_of<S>(from + b.channel(c) + begin * S::size, S::size, n - begin, to + begin * channels + c, channels);
}
template <class S, class T>
BO_INLINE void store_planes(const Block& b, char* to, int64_t n, const T* from) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t channels = b.channels(), whole = n / kLanes * kLanes;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    char* plane[4];
    for (int j = 0; j < 4; ++j) plane[j] = to + b.channel(c + j);
    for (int64_t i = 0; i < whole; i += kLanes) {
      Vec<T> v[4];
      load_fours(from + i * channels + c, channels, v);
      for (int j = 0; j < 4; ++j) S::store(plane[j] + i * S::size, v[j]);
    }
    for (int j = 0; j < 4; ++j)
      store_run_of<S>(plane[j] + whole * S::size, S::size, n - whole, from + whole * channels + c + j, channels);
  }
  const int64_t begin = channels == 3 ? whole : 0;
  for (int64_t i = 0; i < begin; i += kLanes) {
    Vec<T> v[3];
    load3<Plain<T, T>>(reinterpret_cast<const char*>(from + 3 * i), v);
    for (int j = 0; j < 3; ++j) S::store(to + b.channel(j) + i * S::size, v[j]);
  }
  for (; c < channels; ++c)
    store_run_of<S>(to + b.channel(c) + begin * S::size, S::size, n - begin, from + begin * channels + c, channels);
}

// n items from memory to [item][channel], or back: in runs run(memory, stride, count, scratch offset, scratch step), or
// plane by plane.
template <class S, class T, class Run, class Planes>
BO_INLINE void block_parts(const Block& b, int64_t n, const Run& run, const Planes& planes) {
  const int64_t channels = b.channels();
  if (b.dense) {
    run(0, S::size, n * channels, 0, 1);
  } else if (b.together && channels > 1) {
    for (int64_t i = 0; i < n; ++i) run(i * b.stride, S::size, channels, i * channels, 1);
  } else if (b.stride == S::size && n >= Vec<T>::kLanes) {
    planes();
  } else if (b.c2 >= n) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < b.c1; ++c) run(i * b.stride + c * b.stride1, b.stride2, b.c2, i * channels + c * b.c2, 1);
  } else {
    for (int64_t c = 0; c < channels; ++c) run(b.channel(c), b.stride, n, c, channels);
  }
}
template <class S, class T>
BO_INLINE void load_block_of(Block b, const char* from, int64_t n, T* to) {
  block_parts<S, T>(
      b, n,
      [=](int64_t at, int64_t stride, int64_t count, int64_t offset, int64_t step) {
        load_run_of<S>(from + at, stride, count, to + offset, step);
      },
      [=] { load_planes<S>(b, from, n, to); });
}
template <class T>
void load_block(const Block& b, const char* from, int64_t n, T* to) {
  with_storage(b.dtype, T(), [&](auto storage) { load_block_of<decltype(storage)>(b, from, n, to); });
}
template <class S, class T>
BO_INLINE void store_block_of(Block b, char* to, int64_t n, const T* from) {
  block_parts<S, T>(
      b, n,
      [=](int64_t at, int64_t stride, int64_t count, int64_t offset, int64_t step) {
        store_run_of<S>(to + at, stride, count, from + offset, step);
      },
      [=] { store_planes<S>(b, to, n, from); });
}
template <class T>
void store_block(const Block& b, char* to, int64_t n, const T* from) {
  with_storage(b.dtype, T(), [&](auto storage) { store_block_of<decltype(storage)>(b, to, n, from); });
}

// Whether numbers lie in memory as they do in scratch, dtype and alignment included.
template <class T>
BO_INLINE bool plain(DType dtype, const char* p) {
  return dtype == (sizeof(T) == 8 ? DType::f64 : DType::f32) && reinterpret_cast<uintptr_t>(p) % sizeof(T) == 0;
}
// The items where they lie, or loaded to scratch.
template <class T>
BO_INLINE const T* block_at(const Block& b, const char* from, int64_t n, T* scratch) {
  if (b.dense && plain<T>(b.dtype, from)) return reinterpret_cast<const T*>(from);
  load_block(b, from, n, scratch);
  return scratch;
}

// Where items may be written at once: their place, or scratch that store_block is to take there.
template <class T>
BO_INLINE T* block_target(const Block& b, char* to, T* scratch) {
  return b.dense && plain<T>(b.dtype, to) ? reinterpret_cast<T*>(to) : scratch;
}

// ---------------------------------------------------------------------------------------------------------------------
// Tiles

struct Tile {
  int64_t n, y, x, count;
};

// The tiles of N images of H × W pixels, in raster order.
struct Tiling {
  int64_t H, W, width, per_row, count;
};
BO_INLINE Tiling make_tiling(int64_t N, int64_t H, int64_t W, int64_t width) {
  Tiling t;
  t.H = H;
  t.W = W;
  t.width = width;
  t.per_row = ceil_div(W, width);
  t.count = N * H * t.per_row;
  return t;
}
BO_INLINE Tile tile_at(const Tiling& tiling, int64_t index) {
  const int64_t row = index / tiling.per_row;
  Tile tile;
  tile.x = (index - row * tiling.per_row) * tiling.width;
  tile.n = row / tiling.H;
  tile.y = row - tile.n * tiling.H;
  tile.count = min_of(tiling.width, tiling.W - tile.x);
  return tile;
}

// Pixels in a tile of which `numbers` numbers a pixel are held in scratch.
constexpr int64_t kTileWidth = 128;
// Room behind a tile's rows for the rest of a vector that begins inside.
constexpr int64_t kPad = 16;
BO_INLINE int64_t tile_width(int64_t numbers) {
  const int64_t fit = 4096 / max_of<int64_t>(numbers, 1) / 16 * 16;
  return max_of<int64_t>(16, min_of(kTileWidth, fit));
}

// An image's pixel, or a grid's column of cells
BO_INLINE char* place_at(const Tensor& t, int64_t n, int64_t y, int64_t x) {
  return t.data + n * t.strides[0] + y * t.strides[1] + x * t.strides[2];
}
BO_INLINE char* pixel(const Tensor& t, const Tile& tile) { return place_at(t, tile.n, tile.y, tile.x); }

// While a tile is worked on, the next one's pixels come from memory: a tile is too short for the processor to see where
// its reads are heading.
BO_INLINE void prefetch_next(const char* from, int64_t bytes) {
  const uintptr_t next = reinterpret_cast<uintptr_t>(from) + static_cast<uintptr_t>(bytes);
  for (int64_t i = 0; i < bytes; i += 64) BO_PREFETCH(reinterpret_cast<const char*>(next + static_cast<uintptr_t>(i)));
}

// The same a little at a time, from a loop that has other work meanwhile: the `Bytes` that lie a tile or so ahead.
template <int64_t Bytes>
BO_INLINE void prefetch_ahead(const char* from) {
  constexpr uintptr_t kAhead = 2048;
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(from) + kAhead;
  for (int64_t i = 0; i < Bytes; i += 64) BO_PREFETCH(reinterpret_cast<const char*>(ahead + static_cast<uintptr_t>(i)));
}

// One number a pixel: the guide.
template <class T>
BO_INLINE void load_plane(const Tensor& t, const Tile& tile, T* to) {
  if (t.strides[2] == item_size(t.dtype)) prefetch_next(pixel(t, tile), tile.count * t.strides[2]);
  load_run(t.dtype, pixel(t, tile), t.strides[2], tile.count, to, 1);
}
template <class T>
BO_INLINE void store_plane(const Tensor& t, const Tile& tile, const T* from) {
  store_run(t.dtype, pixel(t, tile), t.strides[2], tile.count, from, 1);
}
// An image (N,H,W,channels) to and from [channel][pixel], rows `pitch` apart.
template <class T>
void load_planar(const Tensor& t, const Tile& tile, T* to, int64_t pitch) {
  const char* const from = pixel(t, tile);
  if (interleaved3(t)) {
    prefetch_next(from, tile.count * t.strides[2]);
    with_storage(t.dtype, T(), [&](auto storage) {
      using S = decltype(storage);
      const int64_t whole = tile.count / Vec<T>::kLanes * Vec<T>::kLanes;
      pixels_to_planes<S>(from, whole, to, pitch);
      for (int64_t i = whole; i < tile.count; ++i)
        for (int64_t c = 0; c < 3; ++c) to[c * pitch + i] = S::get(from + (3 * i + c) * S::size);
    });
    return;
  }
  for (int64_t c = 0; c < t.shape[3]; ++c)
    load_run(t.dtype, from + c * t.strides[3], t.strides[2], tile.count, to + c * pitch, 1);
}
template <class T>
void store_planar(const Tensor& t, const Tile& tile, const T* from, int64_t pitch) {
  char* const to = pixel(t, tile);
  if (interleaved3(t)) {
    with_storage(t.dtype, T(), [&](auto storage) {
      using S = decltype(storage);
      const int64_t whole = tile.count / Vec<T>::kLanes * Vec<T>::kLanes;
      planes_to_pixels<S>(from, pitch, whole, to);
      for (int64_t i = whole; i < tile.count; ++i)
        for (int64_t c = 0; c < 3; ++c) S::put(to + (3 * i + c) * S::size, from[c * pitch + i]);
    });
    return;
  }
  for (int64_t c = 0; c < t.shape[3]; ++c)
    store_run(t.dtype, to + c * t.strides[3], t.strides[2], tile.count, from + c * pitch, 1);
}

// An image of three channels, tile by tile, as whole vectors of interleaved pixels of storage S: where they lie, or in
// scratch. Of another storage than the compute type are only images that are interleaved themselves.
template <class S, class T>
class Pixels3 {
 public:
  static constexpr int64_t kBytes = 3 * Vec<T>::kLanes * S::size;  // of a vector of pixels
  explicit Pixels3(const Tensor& t)
      : t_(t), direct_(interleaved3(t) && item_size(t.dtype) == S::size && aligned(t, S::size)) {}
  Pixels3(const Pixels3& other) : Pixels3(other.t_) {}

  const char* load(const Tile& tile) {
    const char* const from = pixel(t_, tile);
    if (direct_ && tile.count % Vec<T>::kLanes == 0) return from;
    if (direct_) {
      memcpy(scratch_, from, static_cast<size_t>(tile.count * 3 * S::size));
    } else {
      load_block(block_of(t_, 2), from, tile.count, numbers());
    }
    return scratch_;
  }
  // Where a tile's pixels are to be written; put() then takes them to their place.
  char* target(const Tile& tile) { return direct_ && tile.count % Vec<T>::kLanes == 0 ? pixel(t_, tile) : scratch_; }
  void put(const Tile& tile) {
    char* const to = pixel(t_, tile);
    if (direct_ && tile.count % Vec<T>::kLanes == 0) return;
    if (direct_) {
      memcpy(to, scratch_, static_cast<size_t>(tile.count * 3 * S::size));
    } else {
      store_block(block_of(t_, 2), to, tile.count, numbers());
    }
  }

 private:
  T* numbers() { return reinterpret_cast<T*>(scratch_); }

  const Tensor& t_;
  const bool direct_;
  alignas(64) char scratch_[3 * kTileWidth * sizeof(T)];
};

// ---------------------------------------------------------------------------------------------------------------------
// Scratch and threads

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (memory_) scratch_free(memory_);
  }
  template <class A>
  A* take(int64_t count, bool zeroed = false) {
    if (memory_) scratch_free(memory_);
    memory_ = nullptr;
    const size_t most = static_cast<size_t>(-1) / sizeof(A), wanted = static_cast<size_t>(count);
    memory_ = scratch_allocate(wanted > most ? static_cast<size_t>(-1) : wanted * sizeof(A), zeroed);
    return static_cast<A*>(memory_);
  }

 private:
  void* memory_ = nullptr;
};

template <class Body>
void run_unit(void* body, int64_t unit) {
  (*static_cast<const Body*>(body))(unit);
}
template <class Body>
BO_INLINE void for_units(int64_t units, const Body& body) {
  parallel_for(units, &run_unit<Body>, const_cast<Body*>(&body));
}

// Pixels a thread should have before another one is worth waking.
constexpr int64_t kGrain = 4096;

// Calls body(first, last) for ranges that together are [0, tiles): few enough that a range's set-up costs nothing, many
// enough that threads end together. Only for work whose result doesn't depend on how it is cut.
template <class Body>
BO_INLINE void for_tile_ranges(int64_t tiles, int64_t width, const Body& body) {
  const int64_t most = num_threads() == 1 ? 1 : 8 * static_cast<int64_t>(num_threads());
  const int64_t units = max_of<int64_t>(1, min_of(most, tiles * width / kGrain));
  if (tiles > 0) for_units(units, [&](int64_t u) { body(tiles * u / units, tiles * (u + 1) / units); });
}

// Calls body(row) for rows of cells, `numbers` numbers in all: small grids are not worth another thread.
template <class Body>
BO_INLINE void for_rows(int64_t rows, int64_t numbers, const Body& body) {
  if (numbers < 4 * kGrain) {
    for (int64_t row = 0; row < rows; ++row) body(row);
  } else {
    for_units(rows, body);
  }
}

// Numbers that are added up in the compute type: their sum, which may be one of many, goes to one in double.
constexpr int64_t kShortSum = 512;

// Work whose sums must not depend on the number of threads is cut into these many bands, whatever that number is.
constexpr int64_t kBands = 16;
BO_INLINE int64_t band_count(int64_t tiles, int64_t width) {
  return max_of<int64_t>(1, min_of(kBands, tiles * width / kGrain));
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
