// Four neighbouring pixels of three channels in a thread's registers: 128-bit accesses of float32 (64 of 16-bit
// numbers, 32 of bytes) where the channels of a pixel, or the pixels of a channel, lie one after another.
#pragma once

#include "arrays.cuh"

namespace bilateral_ops {

// Four numbers that are read and written at once
template <class N>
struct alignas(4 * sizeof(N)) Four {
  N at[4];
};
template <class N>
BO_DEVICE bool whole(const char* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Four<N>) == 0;
}

// One number of each of the pixels p … p + 3 of which `inside` (a bit a pixel) are there.
BO_DEVICE void load_four(DType dtype, const char* p, int64_t stride, int inside, float (&v)[4]) {
  with_format(dtype, float(), [&](auto format) {
    using Format = decltype(format);
    using Bits = typename Format::Bits;
    if (inside == 15 && stride == sizeof(Bits) && whole<Bits>(p)) {
      const Four<Bits> four = *reinterpret_cast<const Four<Bits>*>(p);
#pragma unroll
      for (int q = 0; q < 4; ++q) v[q] = Format::value(four.at[q]);
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q) v[q] = inside >> q & 1 ? Format::value(read_bits<Bits>(p + q * stride)) : 0.0f;
    }
  });
}
BO_DEVICE void store_four(DType dtype, char* p, int64_t stride, int inside, const float (&v)[4]) {
  with_format(dtype, float(), [&](auto format) {
    using Format = decltype(format);
    using Bits = typename Format::Bits;
    if (inside == 15 && stride == sizeof(Bits) && whole<Bits>(p)) {
      Four<Bits> four;
#pragma unroll
      for (int q = 0; q < 4; ++q) four.at[q] = Format::bits(v[q]);
      *reinterpret_cast<Four<Bits>*>(p) = four;
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q)
        if (inside >> q & 1) write_bits<Bits>(p + q * stride, Format::bits(v[q]));
    }
  });
}

// The same of three channels, [pixel][channel]; `pixel` and `channel` are strides.
BO_DEVICE void load_pixels(DType dtype, const char* p, int64_t pixel, int64_t channel, int inside, float (&v)[4][3]) {
  with_format(dtype, float(), [&](auto format) {
    using Format = decltype(format);
    using Bits = typename Format::Bits;
    constexpr int64_t size = sizeof(Bits);
    if (inside == 15 && channel == size && pixel == 3 * size && whole<Bits>(p)) {
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        const Four<Bits> four = reinterpret_cast<const Four<Bits>*>(p)[k];
#pragma unroll
        for (int e = 0; e < 4; ++e) v[(4 * k + e) / 3][(4 * k + e) % 3] = Format::value(four.at[e]);
      }
    } else if (inside == 15 && pixel == size && whole<Bits>(p) && whole<Bits>(p + channel) &&
               whole<Bits>(p + 2 * channel)) {
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const Four<Bits> four = *reinterpret_cast<const Four<Bits>*>(p + c * channel);
#pragma unroll
        for (int q = 0; q < 4; ++q) v[q][c] = Format::value(four.at[q]);
      }
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int c = 0; c < 3; ++c)
          v[q][c] = inside >> q & 1 ? Format::value(read_bits<Bits>(p + q * pixel + c * channel)) : 0.0f;
    }
  });
}
BO_DEVICE void store_pixels(DType dtype, char* p, int64_t pixel, int64_t channel, int inside, const float (&v)[4][3]) {
  with_format(dtype, float(), [&](auto format) {
    using Format = decltype(format);
    using Bits = typename Format::Bits;
    constexpr int64_t size = sizeof(Bits);
    if (inside == 15 && channel == size && pixel == 3 * size && whole<Bits>(p)) {
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        Four<Bits> four;
#pragma unroll
        for (int e = 0; e < 4; ++e) four.at[e] = Format::bits(v[(4 * k + e) / 3][(4 * k + e) % 3]);
        reinterpret_cast<Four<Bits>*>(p)[k] = four;
      }
    } else if (inside == 15 && pixel == size && whole<Bits>(p) && whole<Bits>(p + channel) &&
               whole<Bits>(p + 2 * channel)) {
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        Four<Bits> four;
#pragma unroll
        for (int q = 0; q < 4; ++q) four.at[q] = Format::bits(v[q][c]);
        *reinterpret_cast<Four<Bits>*>(p + c * channel) = four;
      }
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int c = 0; c < 3; ++c)
          if (inside >> q & 1) write_bits<Bits>(p + q * pixel + c * channel, Format::bits(v[q][c]));
    }
  });
}

// The bits of pixels x … x + 3 that are in [begin, end).
BO_DEVICE int inside_of(int64_t x, int64_t begin, int64_t end) {
  int bits = 0;
#pragma unroll
  for (int q = 0; q < 4; ++q) bits |= x + q >= begin && x + q < end ? 1 << q : 0;
  return bits;
}

// ---------------------------------------------------------------------------------------------------------------------
// Cells of 3 × 4 matrices in shared memory

constexpr int kMatrix = 12;

// Columns of a grid row's cells from cell (y, x) on to shared memory, [column][z][12], by the threads of a block.
BO_DEVICE void stage_cells(const Tensor& grid, int64_t n, int64_t y, int64_t x, int columns, int depth, float* to) {
  const char* const from = grid.data + n * grid.strides[0] + y * grid.strides[1] + x * grid.strides[2];
  const bool dense = grid.dtype == DType::f32 && grid.strides[5] == 4 && grid.strides[4] == 16 &&
                     grid.strides[3] == 4 * kMatrix && (columns == 1 || grid.strides[2] == 4 * kMatrix * depth) &&
                     whole<float>(from);
  const int count = columns * depth * kMatrix, threads = static_cast<int>(blockDim.x);
  if (dense) {
    for (int e = static_cast<int>(threadIdx.x); e < count / 4; e += threads)
      reinterpret_cast<Four<float>*>(to)[e] = reinterpret_cast<const Four<float>*>(from)[e];
  } else {
    for (int e = static_cast<int>(threadIdx.x); e < count; e += threads) {
      const int cell = e / kMatrix, c = e - cell * kMatrix, column = cell / depth, z = cell - column * depth;
      to[e] = get<float>(grid.dtype, from + column * grid.strides[2] + z * grid.strides[3] + (c / 4) * grid.strides[4] +
                                         (c % 4) * grid.strides[5]);
    }
  }
}

// Whether an operation is on HDRnet's matrices, computed in float, under a grid that is coarse beside the image.
inline bool coarse_34(const Sampling& at, const Tensor& grid, const Tensor& image) {
  return image.dtype != DType::f64 && !at.xy.data && image.shape[3] == 3 && grid.shape[4] == 3 && grid.shape[5] == 4 &&
         grid.shape[3] <= 16 && 8 * grid.shape[2] <= at.full_width;
}

}  // namespace bilateral_ops
