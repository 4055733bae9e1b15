// A borrowed view of somebody's array: what every kernel argument is.
#pragma once

#include <stdint.h>

namespace bilateral_ops {

enum class DType : int { f16, bf16, f32, f64, u8, u16 };
constexpr bool is_integer(DType dtype) { return dtype == DType::u8 || dtype == DType::u16; }
// What is stored for 1: elements v stand for v/top_level.
constexpr int top_level(DType dtype) {
  switch (dtype) {
    case DType::u8: return 255;
    case DType::u16: return 65535;
    case DType::f16:
    case DType::bf16:
    case DType::f32:
    case DType::f64: return 1;
  }
  return 0;  // not reached
}

// Calls f with a value of the compute type of an operation whose leading array has this dtype.
template <class F>
void with_compute_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64: return f(double());
    case DType::f16:
    case DType::bf16:
    case DType::f32:
    case DType::u8:
    case DType::u16: return f(float());
  }
}

// Most axes an argument has: N, three grid axes, two channel axes.
constexpr int kMaxRank = 6;

struct Tensor {
  char* data;  // null: the argument was not given, or the gradient is not wanted
  DType dtype;
  int rank;
  int64_t shape[kMaxRank];
  int64_t strides[kMaxRank];  // in bytes; zero, negative and unaligned ones are all allowed
};

// Which of M grids a pixel is sampled from: integers of any strides. Without data, image n has grid n.
struct GridIndex {
  const char* data;
  bool wide;           // int64, otherwise int32
  int64_t strides[3];  // in bytes, along (N,H,W); 0 along H and W where a whole image has one grid
};

// Whether there are no elements.
constexpr bool is_empty(const Tensor& t) {
  for (int axis = 0; axis < t.rank; ++axis) {
    if (t.shape[axis] == 0) return true;
  }
  return false;
}

}  // namespace bilateral_ops
