// Numbers of any dtype at any address, and tiles: how kernels walk an image.
#pragma once

#include "../formulas.h"
#include "../tensor.h"
#include "launch.cuh"

namespace bilateral_ops {

// Storage formats beside those of formulas.h
struct F32 {
  using Bits = uint32_t;
  static BO_INLINE_MEMBER float value(Bits v) { return bits_float(v); }
  static BO_INLINE_MEMBER Bits bits(float v) { return float_bits(v); }
};
struct F64 {
  using Bits = uint64_t;
  union Both {
    uint64_t u;
    double f;
  };
  static BO_INLINE_MEMBER double value(Bits v) {
    Both b;
    b.u = v;
    return b.f;
  }
  static BO_INLINE_MEMBER Bits bits(double v) {
    Both b;
    b.f = v;
    return b.u;
  }
};

// Calls f with the format that a dtype has beside the compute type: double reads float64 alone, float the others. All
// threads of a launch go the same way.
template <class F>
BO_DEVICE void with_format(DType, double, F&& f) {
  f(F64());
}
template <class F>
BO_DEVICE void with_format(DType dtype, float, F&& f) {
  switch (dtype) {
    case DType::f16: return f(F16());
    case DType::bf16: return f(BF16());
    case DType::u8: return f(U8());
    case DType::u16: return f(U16());
    default: return f(F32());
  }
}
// The same for what is never an integer.
template <class F>
BO_DEVICE void with_float_format(DType, double, F&& f) {
  f(F64());
}
template <class F>
BO_DEVICE void with_float_format(DType dtype, float, F&& f) {
  switch (dtype) {
    case DType::f16: return f(F16());
    case DType::bf16: return f(BF16());
    default: return f(F32());
  }
}

// Devices trap where a number is not at a multiple of its size: such numbers go byte by byte.
template <class Bits>
BO_DEVICE Bits read_bits(const char* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(Bits) == 0) return *reinterpret_cast<const Bits*>(p);
  Bits v = 0;
  for (int i = 0; i < static_cast<int>(sizeof(Bits)); ++i)
    v = static_cast<Bits>(v | static_cast<Bits>(static_cast<Bits>(static_cast<unsigned char>(p[i])) << (8 * i)));
  return v;
}
template <class Bits>
BO_DEVICE void write_bits(char* p, Bits v) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(Bits) == 0) {
    *reinterpret_cast<Bits*>(p) = v;
  } else {
    for (int i = 0; i < static_cast<int>(sizeof(Bits)); ++i) p[i] = static_cast<char>(v >> (8 * i));
  }
}

template <class T>
BO_DEVICE T get(DType dtype, const char* p) {
  T v;
  with_format(dtype, T(), [&](auto format) {
    using Format = decltype(format);
    v = Format::value(read_bits<typename Format::Bits>(p));
  });
  return v;
}
template <class T>
BO_DEVICE void put(DType dtype, char* p, T v) {
  with_format(dtype, T(), [&](auto format) {
    using Format = decltype(format);
    write_bits<typename Format::Bits>(p, Format::bits(v));
  });
}

// Calls f with a value of the compute type of an operation whose grid (or image, …) has this dtype.
template <class F>
void with_compute_type(DType dtype, F&& f) {
  if (dtype == DType::f64) {
    f(double());
  } else {
    f(float());
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tiles: runs of pixels of one image row, a block each

constexpr int kTile = 128;  // most pixels in one, and the threads of its block

struct Tile {
  int64_t n, y, x;
  int count;
};
struct Tiling {
  int64_t H, W, per_row, count;
  int width;
};
inline Tiling make_tiling(const Tensor& pixels, int width = kTile) {
  Tiling t;
  t.H = pixels.shape[1];
  t.W = pixels.shape[2];
  t.width = width;
  t.per_row = ceil_div(t.W, width);
  t.count = pixels.shape[0] * t.H * t.per_row;
  return t;
}
BO_DEVICE Tile tile_at(const Tiling& tiling, int64_t index) {
  const int64_t row = index / tiling.per_row;
  Tile tile;
  tile.x = (index - row * tiling.per_row) * tiling.width;
  tile.n = row / tiling.H;
  tile.y = row - tile.n * tiling.H;
  tile.count = static_cast<int>(min_of<int64_t>(tiling.width, tiling.W - tile.x));
  return tile;
}

BO_DEVICE char* pixel(const Tensor& t, const Tile& tile, int p) {
  return t.data + tile.n * t.strides[0] + tile.y * t.strides[1] + (tile.x + p) * t.strides[2];
}
// The byte offset of channel c of a tensor whose channels are its axes `first` and, where it has it, the next.
BO_DEVICE int64_t channel(const Tensor& t, int first, int64_t c) {
  if (first + 1 >= t.rank) return c * t.strides[first];
  const int64_t c2 = t.shape[first + 1], i = c2 == 1 ? c : static_cast<uint32_t>(c) / static_cast<uint32_t>(c2);
  return i * t.strides[first] + (c - i * c2) * t.strides[first + 1];
}

// Calls f(pixel, channel) for all channels of a tile's pixels, shared among the block's threads; next to each other are
// threads that have next to each other what a tensor holds.
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

// The channels of a tile's pixels as plain numbers, [channel][pixel of kTile].
template <class T>
BO_DEVICE void stage(const Tensor& image, const Tile& tile, int64_t channels, int width, T* to) {
  for_channels(image, tile, channels, [&](int p, int64_t c) {
    to[c * width + p] = get<T>(image.dtype, pixel(image, tile, p) + c * image.strides[3]);
  });
}

// Room for `numbers` numbers a pixel of a block's tile: shared memory, or where the pixels have too many the workspace,
// with as few blocks as keep the device busy.
template <class T>
struct Room {
  T* outside;      // null: shared memory
  int width;       // of a tile
  int64_t size;    // numbers a block
  int64_t blocks;  // at most
  size_t shared() const { return outside ? 0 : static_cast<size_t>(size) * sizeof(T); }
};
template <class T>
Room<T> make_room(Launch& to, int64_t numbers) {
  Room<T> r{nullptr, kTile, 0, kMostBlocks};
  const int64_t most = static_cast<int64_t>((32 << 10) / sizeof(T));
  while (r.width > 16 && numbers * r.width > most) r.width /= 2;
  r.size = numbers * r.width;
  if (r.size > most) {
    r.blocks = 256;
    r.outside = workspace<T>(to, r.size * r.blocks);
  }
  return r;
}
template <class T>
BO_DEVICE T* room_of(const Room<T>& r, char* shared) {
  return r.outside ? r.outside + r.size * blockIdx.x : reinterpret_cast<T*>(shared);
}

}  // namespace bilateral_ops
