// Storage types: elements of any dtype, at any address, to and from the compute type; and vectors of four elements,
// which one thread loads or stores at once (128 bits of float32, 64 of 16-bit elements, 32 of bytes).
#pragma once

#include "../formulas.h"
#include "../tensor.h"
#include "launch.cuh"

namespace bilateral_ops {

// Devices trap where an element is not at a multiple of its size: such elements are accessed byte by byte.
template <class Bits>
BO_DEVICE Bits load_bits(const char* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(Bits) == 0) return *reinterpret_cast<const Bits*>(p);
  Bits v = 0;
  for (int i = 0; i < static_cast<int>(sizeof(Bits)); ++i)
    v = static_cast<Bits>(v | static_cast<Bits>(static_cast<Bits>(static_cast<unsigned char>(p[i])) << (8 * i)));
  return v;
}
template <class Bits>
BO_DEVICE void store_bits(char* p, Bits v) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(Bits) == 0) {
    *reinterpret_cast<Bits*>(p) = v;
  } else {
    for (int i = 0; i < static_cast<int>(sizeof(Bits)); ++i) p[i] = static_cast<char>(v >> (8 * i));
  }
}

template <class T>
struct alignas(4 * sizeof(T)) Vec4 {
  T at[4];
};
// By value: through references nvcc would load the vectors element by element.
template <class T>
BO_DEVICE Vec4<T> lerp(Vec4<T> a, Vec4<T> b, T t) {
  Vec4<T> v;
#pragma unroll
  for (int i = 0; i < 4; ++i) v.at[i] = lerp(a.at[i], b.at[i], t);
  return v;
}

// The formats of the compute types themselves; the others are in formulas.h.
template <class T, class B>
struct Plain {
  using Bits = B;
  static BO_INLINE_MEMBER T value(Bits v) { return bit_cast<T>(v); }
  static BO_INLINE_MEMBER Bits bits(T v) { return bit_cast<Bits>(v); }
};
using F32 = Plain<float, uint32_t>;
using F64 = Plain<double, uint64_t>;

// A storage type says how elements lie in memory. load_one and store_one convert one element; load and store convert
// four adjacent ones, at an address that is_vector() of.
template <class Format>
struct Storage {
  using Bits = typename Format::Bits;
  using T = decltype(Format::value(Bits()));
  static constexpr int64_t size = sizeof(Bits);

  static __device__ T load_one(const char* p) { return Format::value(load_bits<Bits>(p)); }
  static __device__ void store_one(char* p, T v) { store_bits<Bits>(p, Format::bits(v)); }

  static __device__ bool is_aligned(const char* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(Bits) == 0; }
  static __device__ void store_aligned(char* p, T v) { *reinterpret_cast<Bits*>(p) = Format::bits(v); }
  static __device__ bool is_vector(const char* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(Vec4<Bits>) == 0; }
  static __device__ Vec4<T> load(const char* p) {
    const Vec4<Bits> bits = *reinterpret_cast<const Vec4<Bits>*>(p);
    Vec4<T> v;
#pragma unroll
    for (int i = 0; i < 4; ++i) v.at[i] = Format::value(bits.at[i]);
    return v;
  }
  static __device__ void store(char* p, const Vec4<T>& v) {
    Vec4<Bits> bits;
#pragma unroll
    for (int i = 0; i < 4; ++i) bits.at[i] = Format::bits(v.at[i]);
    *reinterpret_cast<Vec4<Bits>*>(p) = bits;
  }
};

// Calls f with the storage type of a dtype. A kernel that computes in double reads and writes float64 alone, one that
// computes in float all others: src/bilateral_ops/_core/call.py refuses any other call. The branch is uniform, as an
// array has one dtype. kIntegers: whether it may be an integer type, which is never that of a grid.
#pragma nv_exec_check_disable  // f may be for devices only
template <bool kIntegers = true, class F>
BO_INLINE void with_storage(DType, double, F&& f) {
  f(Storage<F64>());
}
#pragma nv_exec_check_disable
template <bool kIntegers = true, class F>
BO_INLINE void with_storage(DType dtype, float, F&& f) {
  switch (dtype) {
    case DType::f16: return f(Storage<F16>());
    case DType::bf16: return f(Storage<BF16>());
    case DType::u8:
      if constexpr (kIntegers) return f(Storage<U8>());
      break;
    case DType::u16:
      if constexpr (kIntegers) return f(Storage<U16>());
      break;
    case DType::f32:
    case DType::f64: break;
  }
  f(Storage<F32>());
}
// A dtype that this switch lacks does not compile. nvcc itself accepts such a switch; the host's compiler does not
// (-Werror=switch), but it sees only what the host calls.
inline void require_all_dtypes() {
  with_storage(DType::f32, 0.0f, [](auto) {});
}

template <class T>
BO_DEVICE T load_one(DType dtype, const char* p) {
  T v;
  with_storage(dtype, T(), [&](auto storage) { v = storage.load_one(p); });
  return v;
}
template <class T>
BO_DEVICE void store_one(DType dtype, char* p, T v) {
  with_storage(dtype, T(), [&](auto storage) { storage.store_one(p, v); });
}

// --- Four neighbouring pixels in the registers of one thread
//
// `mask` has bit q set where pixel q exists. Only these pixels are accessed; the others are loaded as 0. Where all four
// exist and their elements are adjacent and aligned, each access is of a whole vector.

constexpr int kAllPixels = 15;

// The mask of pixels x … x + 3 that are in [begin, end)
BO_DEVICE int pixel_mask(int64_t x, int64_t begin, int64_t end) {
  int mask = 0;
#pragma unroll
  for (int q = 0; q < 4; ++q) mask |= x + q >= begin && x + q < end ? 1 << q : 0;
  return mask;
}

// One element per pixel, of an array (N,H,W) at p
BO_DEVICE void load_plane4(const Tensor& t, const char* p, int mask, Vec4<float>& v) {
  const int64_t stride = t.strides[2];
  with_storage(t.dtype, float(), [&](auto storage) {
    using S = decltype(storage);
    if (mask == kAllPixels && stride == S::size && S::is_vector(p)) {
      v = S::load(p);
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q) v.at[q] = mask >> q & 1 ? S::load_one(p + q * stride) : 0.0f;
    }
  });
}
BO_DEVICE void store_plane4(const Tensor& t, char* p, int mask, const Vec4<float>& v) {
  const int64_t stride = t.strides[2];
  with_storage(t.dtype, float(), [&](auto storage) {
    using S = decltype(storage);
    if (mask == kAllPixels && stride == S::size && S::is_vector(p)) {
      S::store(p, v);
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q)
        if (mask >> q & 1) S::store_one(p + q * stride, v.at[q]);
    }
  });
}

// Three channels per pixel, [pixel][channel], of an array (N,H,W,3) at p. Interleaved pixels are three vectors, and so
// are pixels whose channels are planes.
BO_DEVICE void load_pixels4(const Tensor& t, const char* p, int mask, float (&v)[4][3]) {
  const int64_t pixel = t.strides[2], channel = t.strides[3];
  with_storage(t.dtype, float(), [&](auto storage) {
    using S = decltype(storage);
    if (mask == kAllPixels && channel == S::size && pixel == 3 * S::size && S::is_vector(p)) {
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        const Vec4<float> four = S::load(p + k * 4 * S::size);
#pragma unroll
        for (int e = 0; e < 4; ++e) v[(4 * k + e) / 3][(4 * k + e) % 3] = four.at[e];
      }
    } else if (mask == kAllPixels && pixel == S::size && S::is_vector(p) && S::is_vector(p + channel) &&
               S::is_vector(p + 2 * channel)) {
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const Vec4<float> four = S::load(p + c * channel);
#pragma unroll
        for (int q = 0; q < 4; ++q) v[q][c] = four.at[q];
      }
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int c = 0; c < 3; ++c) v[q][c] = mask >> q & 1 ? S::load_one(p + q * pixel + c * channel) : 0.0f;
    }
  });
}
BO_DEVICE void store_pixels4(const Tensor& t, char* p, int mask, const float (&v)[4][3]) {
  const int64_t pixel = t.strides[2], channel = t.strides[3];
  with_storage(t.dtype, float(), [&](auto storage) {
    using S = decltype(storage);
    if (mask == kAllPixels && channel == S::size && pixel == 3 * S::size && S::is_vector(p)) {
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        Vec4<float> four;
#pragma unroll
        for (int e = 0; e < 4; ++e) four.at[e] = v[(4 * k + e) / 3][(4 * k + e) % 3];
        S::store(p + k * 4 * S::size, four);
      }
    } else if (mask == kAllPixels && pixel == S::size && S::is_vector(p) && S::is_vector(p + channel) &&
               S::is_vector(p + 2 * channel)) {
#pragma unroll
      for (int c = 0; c < 3; ++c) S::store(p + c * channel, {{v[0][c], v[1][c], v[2][c], v[3][c]}});
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int c = 0; c < 3; ++c)
          if (mask >> q & 1) S::store_one(p + q * pixel + c * channel, v[q][c]);
    }
  });
}

}  // namespace bilateral_ops
