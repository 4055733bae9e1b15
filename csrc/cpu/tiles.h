// Tiles of pixels: how kernels walk an image, load and store a tile, and share tiles among threads.
//
// A tile is a run of pixels of one image row, short enough that everything about it stays in the first-level cache. A
// kernel loads a tile's inputs (any dtype, any strides) into scratch of its compute type T, works on that, and stores
// the outputs; images are held channel by channel ("planar", [channel][pixel]), coefficients pixel by pixel
// ([pixel][channel]). All loads of a tile, or of a pixel and of what is computed from it, come before its stores: that
// is why `out` may be the image.
#pragma once

#include "parallel.h"
#include "storage.h"
#include "tuning.h"

namespace bilateral_ops {
inline namespace BO_ISA {

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

// Room behind a tile's rows for the rest of a vector that begins inside.
constexpr int64_t kPad = 16;
// Pixels in a tile of which `numbers` numbers a pixel are held in scratch.
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

// Into how many bands
BO_INLINE int64_t band_count(int64_t tiles, int64_t width) {
  return max_of<int64_t>(1, min_of(kBands, tiles * width / kGrain));
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
