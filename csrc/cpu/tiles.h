// Tiles: how kernels walk an image, load and store its pixels, and share work among threads.
//
// A tile is a run of pixels of one image row, short enough that all its data stay in the first-level cache. A kernel
// loads a tile's inputs into scratch of its compute type T, computes, and stores the outputs. Images are held as
// planes, [channel][pixel], coefficients pixel by pixel, [pixel][channel]. All loads of a tile (or of a pixel, with
// what depends on it) come before its stores, which is why `out` may be the image.
#pragma once

#include "parallel.h"
#include "storage.h"
#include "tuning.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// Pixels x to x + count − 1 of row y of image n
struct Tile {
  int64_t n, y, x, count;
};

// All tiles of N images of H × W pixels, in raster order
struct Tiling {
  int64_t H, W, width, per_row, count;
};
BO_INLINE Tiling make_tiling(int64_t N, int64_t H, int64_t W, int64_t width) {
  const int64_t per_row = ceil_div(W, width);
  return {H, W, width, per_row, N * H * per_row};
}
BO_INLINE Tile tile_at(const Tiling& tiling, int64_t index) {
  const int64_t row = index / tiling.per_row, n = row / tiling.H;
  const int64_t x = (index - row * tiling.per_row) * tiling.width;
  return {n, row - n * tiling.H, x, min_of(tiling.width, tiling.W - x)};
}

// Elements behind a tile's planes, so that the last vector may extend beyond the tile
constexpr int64_t kPad = 16;
// Pixels per tile, where scratch holds `elements` elements per pixel
BO_INLINE int64_t tile_width(int64_t elements) {
  const int64_t fit = 4096 / max_of<int64_t>(elements, 1) / 16 * 16;
  return max_of<int64_t>(16, min_of(kTileWidth, fit));
}

// The address of a pixel of an image, or of a column of cells of a grid
BO_INLINE char* address_of(const Tensor& t, int64_t n, int64_t y, int64_t x) {
  return t.data + n * t.strides[0] + y * t.strides[1] + x * t.strides[2];
}
BO_INLINE char* first_pixel(const Tensor& t, const Tile& tile) { return address_of(t, tile.n, tile.y, tile.x); }

// Prefetches the bytes of the next tile. Hardware prefetchers miss them, as each tile's reads are a stream of its own
// that ends before it is recognised.
BO_INLINE void prefetch_next_tile(const char* from, int64_t bytes) {
  const uintptr_t next = reinterpret_cast<uintptr_t>(from) + static_cast<uintptr_t>(bytes);
  for (int64_t i = 0; i < bytes; i += 64) BO_PREFETCH(reinterpret_cast<const char*>(next + static_cast<uintptr_t>(i)));
}

// Prefetches `Bytes` bytes that are about one tile ahead, from inside a loop over a tile.
template <int64_t Bytes>
BO_INLINE void prefetch_ahead(const char* from) {
  constexpr uintptr_t kAhead = 2048;
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(from) + kAhead;
  for (int64_t i = 0; i < Bytes; i += 64) BO_PREFETCH(reinterpret_cast<const char*>(ahead + static_cast<uintptr_t>(i)));
}

// One element per pixel, such as the guide
template <class T>
BO_INLINE void load_plane(const Tensor& t, const Tile& tile, T* to) {
  if (t.strides[2] == element_size(t.dtype)) prefetch_next_tile(first_pixel(t, tile), tile.count * t.strides[2]);
  load_run(t.dtype, first_pixel(t, tile), t.strides[2], tile.count, to, 1);
}
template <class T>
BO_INLINE void store_plane(const Tensor& t, const Tile& tile, const T* from) {
  store_run(t.dtype, first_pixel(t, tile), t.strides[2], tile.count, from, 1);
}
// An image (N,H,W,channels) to and from planes that are `pitch` elements apart
template <class T>
void load_planes(const Tensor& t, const Tile& tile, T* to, int64_t pitch) {
  const char* const from = first_pixel(t, tile);
  if (is_interleaved3(t)) {
    prefetch_next_tile(from, tile.count * t.strides[2]);
    with_storage(t.dtype, T(), [&](auto storage) {
      using S = decltype(storage);
      const int64_t whole = tile.count / Vec<T>::kLanes * Vec<T>::kLanes;
      pixels_to_planes<S>(from, whole, to, pitch);
      for (int64_t i = whole; i < tile.count; ++i)
        for (int64_t c = 0; c < 3; ++c) to[c * pitch + i] = S::load_one(from + (3 * i + c) * S::size);
    });
    return;
  }
  for (int64_t c = 0; c < t.shape[3]; ++c)
    load_run(t.dtype, from + c * t.strides[3], t.strides[2], tile.count, to + c * pitch, 1);
}
template <class T>
void store_planes(const Tensor& t, const Tile& tile, const T* from, int64_t pitch) {
  char* const to = first_pixel(t, tile);
  if (is_interleaved3(t)) {
    with_storage(t.dtype, T(), [&](auto storage) {
      using S = decltype(storage);
      const int64_t whole = tile.count / Vec<T>::kLanes * Vec<T>::kLanes;
      planes_to_pixels<S>(from, pitch, whole, to);
      for (int64_t i = whole; i < tile.count; ++i)
        for (int64_t c = 0; c < 3; ++c) S::store_one(to + (3 * i + c) * S::size, from[c * pitch + i]);
    });
    return;
  }
  for (int64_t c = 0; c < t.shape[3]; ++c)
    store_run(t.dtype, to + c * t.strides[3], t.strides[2], tile.count, from + c * pitch, 1);
}

// The tiles of an image of three channels as whole vectors of interleaved pixels of storage S: the memory itself where
// that is possible, else a copy in scratch. S is the compute type, or the storage of an image whose pixels each have
// their channels side by side.
template <class S, class T>
class Pixels3 {
 public:
  static constexpr int64_t kBytes = 3 * Vec<T>::kLanes * S::size;  // per vector of pixels
  explicit Pixels3(const Tensor& t)
      : t_(t),
        copied_(has_adjacent3(t) && element_size(t.dtype) == S::size),
        direct_(copied_ && is_interleaved3(t) && is_aligned(t, S::size)) {}
  Pixels3(const Pixels3& other) : Pixels3(other.t_) {}

  const char* load(const Tile& tile) {
    const char* const from = first_pixel(t_, tile);
    if (direct_ && tile.count % Vec<T>::kLanes == 0) return from;
    if (direct_) {
      memcpy(scratch_, from, static_cast<size_t>(tile.count * 3 * S::size));
    } else if (copied_) {
      for (int64_t i = 0; i < tile.count; ++i)
        memcpy(scratch_ + 3 * i * S::size, from + i * t_.strides[2], 3 * S::size);
    } else {
      load_block(block_of(t_, 2), from, tile.count, elements());
    }
    return scratch_;
  }
  // Where to write a tile's pixels; store() then copies them to memory if that is scratch.
  char* target(const Tile& tile) {
    return direct_ && tile.count % Vec<T>::kLanes == 0 ? first_pixel(t_, tile) : scratch_;
  }
  void store(const Tile& tile) {
    char* const to = first_pixel(t_, tile);
    if (direct_ && tile.count % Vec<T>::kLanes == 0) return;
    if (direct_) {
      memcpy(to, scratch_, static_cast<size_t>(tile.count * 3 * S::size));
    } else if (copied_) {
      for (int64_t i = 0; i < tile.count; ++i) memcpy(to + i * t_.strides[2], scratch_ + 3 * i * S::size, 3 * S::size);
    } else {
      store_block(block_of(t_, 2), to, tile.count, elements());
    }
  }

 private:
  T* elements() { return reinterpret_cast<T*>(scratch_); }

  const Tensor& t_;
  const bool copied_, direct_;  // whether pixels are copied without conversion; whether whole vectors need no copy
  alignas(64) char scratch_[3 * kTileWidth * sizeof(T)];
};

// --- Scratch and threads

// Memory for one kernel call or one thread; taken again, it is freed and allocated anew.
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

// Calls body(unit) for each unit in [0, units), in parallel.
template <class Body>
void run_unit(void* body, int64_t unit) {
  (*static_cast<const Body*>(body))(unit);
}
template <class Body>
BO_INLINE void for_units(int64_t units, const Body& body) {
  parallel_for(units, &run_unit<Body>, const_cast<Body*>(&body));
}

// Calls body(first, last) in parallel for ranges that make up [0, tiles): few enough that a range's set-up is
// negligible, enough of them to balance the threads. Only for work whose result does not depend on how it is cut.
template <class Body>
BO_INLINE void for_tile_ranges(int64_t tiles, int64_t width, const Body& body) {
  const int64_t threads = num_threads(), grains = tiles * width / kGrain;
  const int64_t wanted = threads == 1 ? 1 : min_of(8 * threads, max_of(min_of(threads, grains), grains / 2));
  const int64_t units = max_of<int64_t>(1, wanted);
  if (tiles > 0) for_units(units, [&](int64_t u) { body(tiles * u / units, tiles * (u + 1) / units); });
}

// Calls body(row) for each row of cells; in parallel, unless the grid of `elements` elements is small.
template <class Body>
BO_INLINE void for_grid_rows(int64_t rows, int64_t elements, const Body& body) {
  if (elements < 4 * kGrain) {
    for (int64_t row = 0; row < rows; ++row) body(row);
  } else {
    for_units(rows, body);
  }
}

// How many bands the tiles of an image are cut into for sums, of `grain` pixels at least: it depends on their sizes
// alone.
BO_INLINE int64_t band_count(int64_t tiles, int64_t width, int64_t grain = kGrain) {
  return max_of<int64_t>(1, min_of(kBands, tiles * width / grain));
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
