// Arrays of the kernels' test: their dtypes and memory layouts.
#pragma once

#include <string.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "../../csrc/formulas.h"
#include "../../csrc/tensor.h"

namespace bilateral_ops {
namespace {

using Shape = std::vector<int64_t>;
using Numbers = std::vector<double>;

int64_t volume(const Shape& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

// The role of an array decides its dtype.
enum class Role { image, values, guide, gradient, guide_result };
struct Dtypes {
  const char* name;
  DType image, values, guide;
};
constexpr Dtypes kExact = {"float64", DType::f64, DType::f64, DType::f64};
const Dtypes one_dtype[] = {{"float32", DType::f32, DType::f32, DType::f32},
                            kExact,
                            {"float16", DType::f16, DType::f16, DType::f16},
                            {"bfloat16", DType::bf16, DType::bf16, DType::bf16}};
const Dtypes beside_float32[] = {{"float16 image", DType::f16, DType::f32, DType::f32},
                                 {"bfloat16 image", DType::bf16, DType::f32, DType::f32},
                                 {"uint8 image", DType::u8, DType::f32, DType::f32},
                                 {"uint16 image", DType::u16, DType::f32, DType::f32}};

DType dtype_of(Role role, const Dtypes& dtypes) {
  switch (role) {
    case Role::image: return dtypes.image;
    case Role::values: return dtypes.values;
    case Role::guide: return dtypes.guide;
    default: return is_integer(dtypes.image) ? DType::f32 : dtypes.image;
  }
}
size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::u8: return 1;
    case DType::f16:
    case DType::bf16:
    case DType::u16: return 2;
    case DType::f32: return 4;
    case DType::f64: return 8;
  }
  return 0;
}
// One unit in the last place of a stored element; 0 for float32 and float64, which are the compute types.
double storage_unit(DType dtype, double v) {
  switch (dtype) {
    case DType::f16: return std::max(std::fabs(v), 0x1p-14) * 0x1p-10;
    case DType::bf16: return std::fabs(v) * 0x1p-7;
    case DType::u8: return 1.001 / 255.0;
    case DType::u16: return 1.001 / 65535.0;
    case DType::f32:
    case DType::f64: return 0.0;
  }
  return 0.0;
}

template <class N>
void put(char* p, N v) {
  memcpy(p, &v, sizeof v);
}
template <class N>
N get(const char* p) {
  N v;
  memcpy(&v, p, sizeof v);
  return v;
}
void put(char* p, DType dtype, double v) {
  const float f = static_cast<float>(v);
  switch (dtype) {
    case DType::f16: return put(p, to_f16(f));
    case DType::bf16: return put(p, to_bf16(f));
    case DType::u8: return put(p, static_cast<uint8_t>(to_unit(f, 255.0f)));
    case DType::u16: return put(p, static_cast<uint16_t>(to_unit(f, 65535.0f)));
    case DType::f32: return put(p, f);
    case DType::f64: return put(p, v);
  }
}
double get(const char* p, DType dtype) {
  switch (dtype) {
    case DType::f16: return from_f16(get<uint16_t>(p));
    case DType::bf16: return from_bf16(get<uint16_t>(p));
    case DType::u8: return get<uint8_t>(p) / 255.0;
    case DType::u16: return get<uint16_t>(p) / 65535.0;
    case DType::f32: return get<float>(p);
    case DType::f64: return get<double>(p);
  }
  return 0.0;
}
double stored(DType dtype, double v) {
  char bytes[8] = {};
  put(bytes, dtype, v);
  return get(bytes, dtype);
}

using Generator = std::mt19937_64;
int below(Generator& random, int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); }

// Contiguous; planar, an NCHW image seen as NHWC; or any: permuted, reversed, with steps, unaligned.
enum class Layout { contiguous, planar, any };
constexpr int kLayouts = 3;
Layout layout(int number) { return static_cast<Layout>(number % kLayouts); }

// A tensor in memory; the bytes around its elements are 0xFF.
class Vessel {
 public:
  Vessel(const Shape& shape, DType dtype, Layout layout, Generator& random) : volume_(volume(shape)) {
    const int rank = static_cast<int>(shape.size());
    const bool contiguous = layout != Layout::any;
    std::vector<int> order(shape.size());
    for (int axis = 0; axis < rank; ++axis) order[axis] = rank - 1 - axis;
    if (layout == Layout::planar && rank == 4) order = {2, 1, 3, 0};
    if (layout == Layout::any) std::shuffle(order.begin(), order.end(), random);
    tensor_ = {nullptr, dtype, rank, {}, {}};
    int64_t stride = static_cast<int64_t>(size_of(dtype)), first = kMargin + (contiguous ? 0 : below(random, 4));
    for (const int axis : order) {
      const int64_t step = contiguous ? 1 : 1 + below(random, 2), n = shape[axis];
      const bool reversed = !contiguous && below(random, 4) == 0;
      tensor_.shape[axis] = n;
      tensor_.strides[axis] = reversed ? -step * stride : step * stride;
      if (reversed) first += (n - 1) * step * stride;
      stride *= step * n;
    }
    memory_.assign(static_cast<size_t>(first + stride + kMargin), '\xff');
    tensor_.data = memory_.data() + first;
  }
  const Tensor& tensor() const { return tensor_; }
  // Calls f(memory) for every element in logical order.
  template <class F>
  void for_elements(F&& f) const {
    for (int64_t i = 0; i < volume_; ++i) {
      int64_t rest = i, offset = 0;
      for (int axis = tensor_.rank - 1; axis >= 0; --axis) {
        offset += rest % tensor_.shape[axis] * tensor_.strides[axis];
        rest /= tensor_.shape[axis];
      }
      f(tensor_.data + offset);
    }
  }
  // Whether nothing else was written. Erases the elements.
  bool untouched_outside() {
    for_elements([&](char* p) { memset(p, 0xff, size_of(tensor_.dtype)); });
    return std::all_of(memory_.begin(), memory_.end(), [](char byte) { return byte == '\xff'; });
  }
  void spoil_outside() { memory_[kMargin - 1] = 0; }

 private:
  static constexpr int64_t kMargin = 64;
  const int64_t volume_;
  std::vector<char> memory_;
  Tensor tensor_;
};

}  // namespace
}  // namespace bilateral_ops
