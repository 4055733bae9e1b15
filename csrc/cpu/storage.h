// Storage types and strides: elements of any dtype and layout to contiguous elements of the compute type T in scratch,
// and back. T is double for float64 arrays and float for all others.
//
// A run is n elements at a constant stride. A block is the last axes of a tensor, read as [item][channel]: the items
// are the pixels of an image row, or the cells of a grid column.
#pragma once

#include <string.h>

#include "../formulas.h"
#include "../tensor.h"
#include "errors.h"
#include "simd/functions.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// --- Storage types

// A storage type S says how elements lie in memory, its size in bytes among them. load_one and store_one convert one
// element, load and store a vector of adjacent ones. Plain: the compute type itself. Converted: a format of formulas.h.
template <class T>
struct Plain {
  static constexpr int64_t size = sizeof(T);
  static T load_one(const char* p) {
    T v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  static void store_one(char* p, T v) { memcpy(p, &v, sizeof v); }
  static Vec<T> load(const char* p) { return bilateral_ops::load(reinterpret_cast<const T*>(p)); }
  static void store(char* p, const Vec<T>& v) { bilateral_ops::store(reinterpret_cast<T*>(p), v); }
};
template <class Format>
struct Converted {
  using Bits = typename Format::Bits;
  static constexpr int64_t size = sizeof(Bits);
  static float load_one(const char* p) {
    Bits v;
    memcpy(&v, p, sizeof v);
    return Format::value(v);
  }
  static void store_one(char* p, float value) {
    const Bits v = Format::bits(value);
    memcpy(p, &v, sizeof v);
  }
  static Vec<float> load(const char* p) { return load_as(Format(), p); }
  static void store(char* p, const Vec<float>& v) { store_as(Format(), p, v); }
};

// Calls f with the storage type of a dtype. A kernel that computes in double reads and writes float64 alone, one that
// computes in float all others.
template <class F>
BO_INLINE void with_storage(DType dtype, double, F&& f) {
  if (dtype != DType::f64) fail_dtype();
  f(Plain<double>());
}
template <class F>
BO_INLINE void with_storage(DType dtype, float, F&& f) {
  switch (dtype) {
    case DType::f16: return f(Converted<F16>());
    case DType::bf16: return f(Converted<BF16>());
    case DType::u8: return f(Converted<U8>());
    case DType::u16: return f(Converted<U16>());
    case DType::f32: return f(Plain<float>());
    case DType::f64: fail_dtype();
  }
}
// The size of one element, in bytes
BO_INLINE int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::u8: return 1;
    case DType::f16:
    case DType::bf16:
    case DType::u16: return 2;
    case DType::f32: return 4;
    case DType::f64: return 8;
  }
  fail_dtype();
}

// --- Interleaved pixels of three channels

// kLanes pixels to one vector per channel, and back
template <class S, class T>
BO_INLINE void load_interleaved3(const char* p, Vec<T>* v) {
  for (int c = 0; c < 3; ++c) v[c] = S::load(p + c * Vec<T>::kLanes * S::size);
  deinterleave3(v);
}
template <class S, class T>
BO_INLINE void store_interleaved3(char* p, Vec<T>* v) {
  interleave3(v);
  for (int c = 0; c < 3; ++c) S::store(p + c * Vec<T>::kLanes * S::size, v[c]);
}

// Pixels to planes [channel][pixel] that are `pitch` elements apart, and back. Whole vectors are read and written: the
// last one may extend beyond `count` pixels.
template <class S, class T>
BO_INLINE void pixels_to_planes(const char* from, int64_t count, T* to, int64_t pitch) {
  for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
    Vec<T> v[3];
    load_interleaved3<S>(from + 3 * p * S::size, v);
    for (int c = 0; c < 3; ++c) store(to + c * pitch + p, v[c]);
  }
}
template <class S, class T>
BO_INLINE void planes_to_pixels(const T* from, int64_t pitch, int64_t count, char* to) {
  for (int64_t p = 0; p < count; p += Vec<T>::kLanes) {
    Vec<T> v[3];
    for (int c = 0; c < 3; ++c) v[c] = load(from + c * pitch + p);
    store_interleaved3<S>(to + 3 * p * S::size, v);
  }
}

// Whether an image has three channels, side by side in each pixel
BO_INLINE bool has_adjacent3(const Tensor& t) { return t.shape[3] == 3 && t.strides[3] == element_size(t.dtype); }
// Whether, besides, the pixels of each row follow one another without gaps
BO_INLINE bool is_interleaved3(const Tensor& t) { return has_adjacent3(t) && t.strides[2] == 3 * t.strides[3]; }
// Whether every position on the first three axes is a multiple of `size` bytes, as typed pointers must be
BO_INLINE bool is_aligned(const Tensor& t, size_t size) {
  return (reinterpret_cast<uintptr_t>(t.data) | static_cast<uintptr_t>(t.strides[0]) |
          static_cast<uintptr_t>(t.strides[1]) | static_cast<uintptr_t>(t.strides[2])) %
             size ==
         0;
}
// Calls f with the storage in which the pixels of a tile are held: uint8 if both images are uint8 with the three
// channels of a pixel side by side, otherwise the compute type.
template <class T, class F>
BO_INLINE void with_pixel_storage(const Tensor& image, const Tensor& out, T, F&& f) {
  if constexpr (sizeof(T) == sizeof(float))
    if (image.dtype == DType::u8 && has_adjacent3(image) && has_adjacent3(out)) return f(Converted<U8>());
  f(Plain<T>());
}

// --- Runs

// n elements that are `stride` bytes apart in memory, and `step` elements apart in scratch
template <class S, class T>
BO_INLINE void load_run_of(const char* BO_RESTRICT from, int64_t stride, int64_t n, T* BO_RESTRICT to, int64_t step) {
  if (stride == S::size && step == 1) {
    int64_t i = 0;
    for (; i + Vec<T>::kLanes <= n; i += Vec<T>::kLanes) store(to + i, S::load(from + i * S::size));
    for (; i < n; ++i) to[i] = S::load_one(from + i * S::size);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i * step] = S::load_one(from + i * stride);
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
    for (; i < n; ++i) S::store_one(to + i * S::size, from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) S::store_one(to + i * stride, from[i * step]);
  }
}
template <class T>
void store_run(DType dtype, char* to, int64_t stride, int64_t n, const T* from, int64_t step) {
  with_storage(dtype, T(), [=](auto storage) { store_run_of<decltype(storage)>(to, stride, n, from, step); });
}

// --- Blocks

// The axes of a tensor from `first` on: the items, then up to two channel axes [c1][c2]
struct Block {
  DType dtype;
  int64_t stride, c1, c2, stride1, stride2;
  bool dense_items;  // the channels of an item are contiguous
  bool dense;        // and so are all items: the order of scratch

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
  const int64_t size = element_size(t.dtype);
  // An axis of one element may have any stride.
  b.dense_items = (b.c2 == 1 || b.stride2 == size) && (b.c1 == 1 || b.stride1 == size * b.c2);
  b.dense = b.dense_items && b.stride == size * b.c1 * b.c2;
  return b;
}

// Blocks whose items are adjacent in each channel, as in an NCHW image, to and from [item][channel]
template <class S, class T>
BO_INLINE void load_block_planes(const Block& b, const char* from, int64_t n, T* to) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t channels = b.channels(), whole = n / kLanes * kLanes;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    const char* plane[4];
    for (int j = 0; j < 4; ++j) plane[j] = from + b.channel(c + j);
    for (int64_t i = 0; i < whole; i += kLanes) {
      Vec<T> v[4];
      T elements[4 * kLanes];
      for (int j = 0; j < 4; ++j) v[j] = S::load(plane[j] + i * S::size);
      store_interleaved4(elements, v[0], v[1], v[2], v[3]);
      for (int64_t l = 0; l < kLanes; ++l) memcpy(to + (i + l) * channels + c, elements + 4 * l, 4 * sizeof(T));
    }
  }
  for (int64_t i = 0; channels == 3 && i < whole; i += kLanes) {
    Vec<T> v[3];
    for (int j = 0; j < 3; ++j) v[j] = S::load(from + b.channel(j) + i * S::size);
    store_interleaved3<Plain<T>>(reinterpret_cast<char*>(to + 3 * i), v);
  }
  // What is left of these channels, and all of the others
  if (channels == 3) c = 3;
  for (int64_t rest = 0; rest < channels; ++rest) {
    const int64_t begin = rest < c ? whole : 0;
    load_run_of<S>(from + b.channel(rest) + begin * S::size, S::size, n - begin, to + begin * channels + rest,
                   channels);
  }
}
template <class S, class T>
BO_INLINE void store_block_planes(const Block& b, char* to, int64_t n, const T* from) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  const int64_t channels = b.channels(), whole = n / kLanes * kLanes;
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    char* plane[4];
    for (int j = 0; j < 4; ++j) plane[j] = to + b.channel(c + j);
    for (int64_t i = 0; i < whole; i += kLanes) {
      Vec<T> v[4];
      load_interleaved4(from + i * channels + c, channels, v);
      for (int j = 0; j < 4; ++j) S::store(plane[j] + i * S::size, v[j]);
    }
  }
  for (int64_t i = 0; channels == 3 && i < whole; i += kLanes) {
    Vec<T> v[3];
    load_interleaved3<Plain<T>>(reinterpret_cast<const char*>(from + 3 * i), v);
    for (int j = 0; j < 3; ++j) S::store(to + b.channel(j) + i * S::size, v[j]);
  }
  // What is left of these channels, and all of the others
  if (channels == 3) c = 3;
  for (int64_t rest = 0; rest < channels; ++rest) {
    const int64_t begin = rest < c ? whole : 0;
    store_run_of<S>(to + b.channel(rest) + begin * S::size, S::size, n - begin, from + begin * channels + rest,
                    channels);
  }
}

// The runs that n items are moved by, unless they are one: two loops around them, each with its steps in memory (bytes)
// and in scratch (elements).
struct BlockRuns {
  struct Loop {
    int64_t count, stride, step;
  } outer, inner, run;
};
// Those that suit the strides
BO_INLINE BlockRuns block_runs(const Block& b, int64_t n) {
  const BlockRuns::Loop items = {n, b.stride, b.channels()}, first = {b.c1, b.stride1, b.c2},
                        second = {b.c2, b.stride2, 1};
  if (b.dense_items && b.channels() > 1) return {{1, 0, 0}, items, {b.channels(), element_size(b.dtype), 1}};
  return b.c2 >= n ? BlockRuns{items, first, second} : BlockRuns{first, second, items};
}
// Moves n items in the way that suits their strides: as runs, by calls run(offset in memory, stride, count, offset in
// scratch, step), or by one call planes().
template <class S, class T, class Run, class Planes>
BO_INLINE void for_block_runs(const Block& b, int64_t n, const Run& run, const Planes& planes) {
  if (b.stride == S::size && n >= Vec<T>::kLanes && !(b.dense_items && b.channels() > 1)) return planes();
  const BlockRuns runs = block_runs(b, n);
  for (int64_t i = 0; i < runs.outer.count; ++i)
    for (int64_t j = 0; j < runs.inner.count; ++j)
      run(i * runs.outer.stride + j * runs.inner.stride, runs.run.stride, runs.run.count,
          i * runs.outer.step + j * runs.inner.step, runs.run.step);
}
// The block is captured by value, so that stores cannot change its members.
template <class T>
void load_block(const Block& b, const char* from, int64_t n, T* to) {
  if (b.dense) return load_run(b.dtype, from, element_size(b.dtype), n * b.channels(), to, 1);
  with_storage(b.dtype, T(), [=](auto storage) {
    using S = decltype(storage);
    const auto run = [=](int64_t at, int64_t stride, int64_t count, int64_t offset, int64_t step) {
      load_run_of<S>(from + at, stride, count, to + offset, step);
    };
    for_block_runs<S, T>(b, n, run, [=] { load_block_planes<S>(b, from, n, to); });
  });
}
template <class T>
void store_block(const Block& b, char* to, int64_t n, const T* from) {
  if (b.dense) return store_run(b.dtype, to, element_size(b.dtype), n * b.channels(), from, 1);
  with_storage(b.dtype, T(), [=](auto storage) {
    using S = decltype(storage);
    const auto run = [=](int64_t at, int64_t stride, int64_t count, int64_t offset, int64_t step) {
      store_run_of<S>(to + at, stride, count, from + offset, step);
    };
    for_block_runs<S, T>(b, n, run, [=] { store_block_planes<S>(b, to, n, from); });
  });
}

// Whether dtype and alignment of the elements at p are those of T, so that they can be used without a copy
template <class T>
BO_INLINE bool is_plain(DType dtype, const char* p) {
  return dtype == (sizeof(T) == 8 ? DType::f64 : DType::f32) && reinterpret_cast<uintptr_t>(p) % sizeof(T) == 0;
}
// Items to read: the memory itself where it is like scratch, else a copy in scratch.
template <class T>
BO_INLINE const T* block_view(const Block& b, const char* from, int64_t n, T* scratch) {
  if (b.dense && is_plain<T>(b.dtype, from)) return reinterpret_cast<const T*>(from);
  load_block(b, from, n, scratch);
  return scratch;
}
// Where to write items: the memory itself where it is like scratch, else scratch, for store_block() to copy from.
template <class T>
BO_INLINE T* block_target(const Block& b, char* to, T* scratch) {
  return b.dense && is_plain<T>(b.dtype, to) ? reinterpret_cast<T*>(to) : scratch;
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
