// Tiles and patches: how kernels walk an image. A tile is a run of up to 128 pixels of one image row, the work of one
// thread block at a time, one thread per pixel. A patch is 128 columns and some rows, whose warps take the rows in
// turn, each thread four neighbouring pixels. Thread blocks go through either with a stride of gridDim.x, so any number
// of them is correct.
#pragma once

#include "storage.cuh"

namespace bilateral_ops {

constexpr int kTileWidth = 128;  // most pixels in a tile, and the threads of its block

// A number known at compile time, for loops that are unrolled
template <int kValue>
struct Constant {
  __host__ __device__ constexpr operator int() const { return kValue; }
};
using Three = Constant<3>;

// Pixels x to x + count − 1 of row y of image n
struct Tile {
  int64_t n, y, x;
  int count;
};

// All tiles of the images, in raster order
struct Tiling {
  int64_t H, W, per_row, count;
  int width;
};
inline Tiling make_tiling(const Tensor& pixels, int width = kTileWidth) {
  const int64_t N = pixels.shape[0], H = pixels.shape[1], W = pixels.shape[2], per_row = ceil_div(W, width);
  return {H, W, per_row, N * H * per_row, width};
}
BO_DEVICE Tile tile_at(const Tiling& tiling, int64_t index) {
  const int64_t row = index / tiling.per_row, x = (index - row * tiling.per_row) * tiling.width, n = row / tiling.H;
  return {n, row - n * tiling.H, x, static_cast<int>(min_of<int64_t>(tiling.width, tiling.W - x))};
}

constexpr int kPatchWidth = 128, kPatchWarps = 4, kPatchThreads = 32 * kPatchWarps;

struct Patch {
  int64_t n, top, left;
  int width, height;
};

// All patches of the images, in raster order
struct Patches {
  int64_t H, W, across, down, count;
  int rows;  // of a patch
};
inline Patches make_patches(const Tensor& pixels, int rows) {
  Patches s{pixels.shape[1], pixels.shape[2], ceil_div(pixels.shape[2], kPatchWidth), 0, 0, rows};
  s.down = ceil_div(s.H, rows);
  s.count = pixels.shape[0] * s.across * s.down;
  return s;
}
// The most rows, a power of two, that leave 1024 thread blocks; at least 16, which are worth a block's beginning
inline int rows_per_patch(const Tensor& pixels) {
  int rows = 64;
  while (rows > 16 && make_patches(pixels, rows).count < 1024) rows /= 2;
  return rows;
}
BO_DEVICE Patch patch_at(const Patches& s, int64_t index) {
  const int64_t row = index / s.across, n = row / s.down;
  const int64_t left = (index - row * s.across) * kPatchWidth, top = (row - n * s.down) * s.rows;
  return {n, top, left, static_cast<int>(min_of<int64_t>(kPatchWidth, s.W - left)),
          static_cast<int>(min_of<int64_t>(s.rows, s.H - top))};
}

// The address of a pixel of an image, or of a column of cells of a grid
BO_DEVICE char* address_of(const Tensor& t, int64_t n, int64_t y, int64_t x) {
  return t.data + n * t.strides[0] + y * t.strides[1] + x * t.strides[2];
}
BO_DEVICE char* address_of(const Tensor& t, const Tile& tile, int p) {
  return t.data + tile.n * t.strides[0] + tile.y * t.strides[1] + (tile.x + p) * t.strides[2];
}
// The byte offset of channel c of a tensor whose channels are its axis `first` and, if it has one more, the next.
BO_DEVICE int64_t channel(const Tensor& t, int first, int64_t c) {
  if (first + 1 >= t.rank) return c * t.strides[first];
  const int64_t c2 = t.shape[first + 1], i = c2 == 1 ? c : static_cast<uint32_t>(c) / static_cast<uint32_t>(c2);
  return i * t.strides[first] + (c - i * c2) * t.strides[first + 1];
}

// Quads: channels 4·i … 4·i + 3 of pixel p of a row, which one thread loads or stores at once. Channels beyond the last
// are loaded as 0.
template <class S>
struct VectorQuads {
  char* row;
  int stride;  // bytes per pixel
  __device__ Vec4<float> load(int p, int i) const { return S::load(row + (p * stride + 4 * i * int(S::size))); }
  __device__ void store(int p, int i, const Vec4<float>& v) const {
    S::store(row + (p * stride + 4 * i * int(S::size)), v);
  }
};
struct ElementQuads {  // whose elements are not adjacent, not aligned or less than four
  const Tensor& t;
  char* row;
  int channels;
  __device__ char* address(int p, int c) const { return row + p * t.strides[2] + channel(t, 3, c); }
  __device__ Vec4<float> load(int p, int i) const {
    Vec4<float> v;
#pragma unroll
    for (int c = 4 * i; c < 4 * i + 4; ++c)
      v.at[c - 4 * i] = c < channels ? load_one<float>(t.dtype, address(p, c)) : 0.0f;
    return v;
  }
  __device__ void store(int p, int i, const Vec4<float>& v) const {
#pragma unroll
    for (int c = 4 * i; c < 4 * i + 4; ++c)
      if (c < channels) store_one(t.dtype, address(p, c), v.at[c - 4 * i]);
  }
};
// Calls f with the one of these that suits the row of pixels of image n from pixel (y, x) on.
template <class F>
BO_DEVICE void with_quads(const Tensor& t, int64_t n, int64_t y, int64_t x, F&& f) {
  char* const row = address_of(t, n, y, x);
  const int64_t columns = t.rank > 4 ? t.shape[4] : 1, channels = t.shape[3] * columns, stride = t.strides[2];
  with_storage<false>(t.dtype, float(), [&](auto storage) {
    using S = decltype(storage);
    const bool dense = t.strides[3] == columns * S::size && (columns == 1 || t.strides[4] == S::size);
    const bool near = stride == static_cast<int>(stride) && abs(static_cast<int>(stride)) < (1 << 23);
    if (dense && near && channels % 4 == 0 && stride % (4 * S::size) == 0 && S::is_vector(row)) {
      f(VectorQuads<S>{row, static_cast<int>(stride)});
    } else {
      f(ElementQuads{t, row, static_cast<int>(channels)});
    }
  });
}
// Calls f(pixel, quad, index) for all quads of a row of pixels, index = pixel·quads + quad, shared among the lanes of a
// warp: adjacent lanes have adjacent quads.
template <class Size, class F>
BO_DEVICE void for_quads(int pixels, Size quads, F&& f) {
  const int lane = static_cast<int>(threadIdx.x) % 32, step = 32 / quads, rest = 32 - step * quads;
  int p = lane / quads, quad = lane - p * quads;
  for (int index = lane; p < pixels; index += 32) {
    f(p, quad, index);
    p += step;
    quad += rest;
    if (quad >= quads) {
      quad -= quads;
      ++p;
    }
  }
}

// Calls f(pixel, channel) for all channels of a tile's pixels, shared among the threads of the block. Whichever of the
// two has the smaller stride in t varies from thread to thread, so that accesses are coalesced.
template <class F>
BO_DEVICE void for_channels(const Tensor& t, const Tile& tile, int64_t channels, F&& f) {
  const int64_t near = t.rank > 4 ? t.strides[4] : t.strides[3], next = t.strides[2];
  if ((near < 0 ? -near : near) < (next < 0 ? -next : next) && channels > 1) {
    const uint32_t C = static_cast<uint32_t>(channels);
    for (int64_t e = threadIdx.x; e < tile.count * channels; e += blockDim.x) {
      const int p = static_cast<int>(e < 0xffffffff ? static_cast<uint32_t>(e) / C : e / channels);
      f(p, e - p * channels);
    }
  } else {
    for (int64_t c = 0; c < channels; ++c)
      for (int p = static_cast<int>(threadIdx.x); p < tile.count; p += static_cast<int>(blockDim.x)) f(p, c);
  }
}

// A tile of an image to planes, [channel][pixel], that are `pitch` elements apart.
template <class T>
BO_DEVICE void load_planes(const Tensor& image, const Tile& tile, int64_t channels, int pitch, T* to) {
  for_channels(image, tile, channels, [&](int p, int64_t c) {
    to[c * pitch + p] = load_one<T>(image.dtype, address_of(image, tile, p) + c * image.strides[3]);
  });
}

// Memory of a thread block for some elements per pixel of its tile: shared memory, for which tiles are made narrower,
// or the workspace if even a narrow tile has too many elements. The workspace is split among few thread blocks: enough
// to keep a device busy.
template <class T>
struct Scratch {
  T* global;       // the workspace; null: shared memory
  int width;       // of a tile
  int64_t size;    // elements per thread block
  int64_t blocks;  // the most thread blocks that there may be
  size_t shared() const { return global ? 0 : static_cast<size_t>(size) * sizeof(T); }
  __device__ T* get(char* shared) const { return global ? global + size * blockIdx.x : reinterpret_cast<T*>(shared); }
};
template <class T>
Scratch<T> make_scratch(Launch& to, int64_t elements) {
  Scratch<T> s{nullptr, kTileWidth, 0, kMostBlocks};
  const int64_t most = static_cast<int64_t>((32 << 10) / sizeof(T));
  while (s.width > 16 && elements * s.width > most) s.width /= 2;
  s.size = elements * s.width;
  if (s.size > most) {
    s.blocks = 256;
    s.global = workspace<T>(to, s.size * s.blocks);
  }
  return s;
}

}  // namespace bilateral_ops
