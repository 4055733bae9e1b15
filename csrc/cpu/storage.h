// Storage types and strides: how elements of any dtype and layout become contiguous elements of the compute type in
// scratch, and go back.
#pragma once

#include <string.h>

#include "../formulas.h"
#include "../tensor.h"
#include "simd/functions.h"

namespace bilateral_ops {
inline namespace BO_ISA {

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

}  // namespace BO_ISA
}  // namespace bilateral_ops
