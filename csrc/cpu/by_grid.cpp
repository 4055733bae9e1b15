#include "by_grid.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../float_mode.h"
#include "parallel.h"
#include "storage.h"

namespace bilateral_ops {
namespace {

// Calls with fewer pixels run on one thread.
constexpr int64_t kSmallCall = 8192;
// Images with fewer pixels are taken apart where pixels have coordinates of their own.
constexpr int64_t kSmallImage = 4096;

// The tensors of a call: of pixels (N,H,W,…) or of images (N), and of grids (M,…)
struct Parts {
  Sampling* at;  // null: there are no pixels
  GridIndex* index;
  Tensor* size;  // one that has all axes of pixels or images
  std::vector<Tensor*> inputs, outputs;
  Tensor *grid, *d_grid;
};
Parts parts_of(SliceArgs& a) {
  return {&a.at, &a.at.index, &a.out, {&a.at.guide, &a.at.xy}, {&a.out}, &a.grid, nullptr};
}
Parts parts_of(SliceGradArgs& a) {
  return {&a.at, &a.at.index, &a.grad, {&a.at.guide, &a.at.xy, &a.grad}, {&a.d_guide, &a.d_xy}, &a.grid, &a.d_grid};
}
Parts parts_of(SliceApplyArgs& a) {
  return {&a.at, &a.at.index, &a.out, {&a.at.guide, &a.at.xy, &a.image}, {&a.out}, &a.grid, nullptr};
}
Parts parts_of(SliceApplyGradArgs& a) {
  return {&a.at,   &a.at.index, &a.grad, {&a.at.guide, &a.at.xy, &a.image, &a.grad}, {&a.d_guide, &a.d_image, &a.d_xy},
          &a.grid, &a.d_grid};
}
Parts parts_of(TotalVariationArgs& a) { return {nullptr, &a.index, &a.out, {}, {&a.out}, &a.grid, nullptr}; }
Parts parts_of(TotalVariationGradArgs& a) { return {nullptr, &a.index, &a.grad, {&a.grad}, {}, &a.grid, &a.d_grid}; }

// A part of a tensor along its first axis
Tensor part(const Tensor& t, int64_t first, int64_t count) {
  Tensor own = t;
  own.data += first * t.strides[0];
  own.shape[0] = count;
  return own;
}
// Makes a tensor's elements contiguous, at `data`; its shape and dtype are set.
void lay_out(Tensor& t, char* data) {
  int64_t stride = element_size(t.dtype);
  for (int axis = t.rank - 1; axis >= 0; --axis) {
    t.strides[axis] = stride;
    stride *= t.shape[axis];
  }
  t.data = data;
}
int64_t elements(const Tensor& t) {
  int64_t count = 1;
  for (int axis = 0; axis < t.rank; ++axis) count *= t.shape[axis];
  return count;
}
// Sets a grid (1,Gh,Gw,Gd,C1,C2) to values in the order of its axes, or to zeros.
void store_grid(const Tensor& t, const double* values) {
  const Block cells = block_of(t, 3);
  const int64_t Gd = t.shape[3], size = Gd * cells.channels();
  with_compute_type(t.dtype, [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> column(static_cast<size_t>(size), T(0));
    for (int64_t y = 0; y < t.shape[1]; ++y)
      for (int64_t x = 0; x < t.shape[2]; ++x) {
        for (int64_t i = 0; values && i < size; ++i) column[static_cast<size_t>(i)] = static_cast<T>(*values++);
        store_block(cells, t.data + y * t.strides[1] + x * t.strides[2], Gd, column.data());
      }
  });
}

template <class Args>
class ByGrid {
 public:
  ByGrid(void (*kernel)(const Args&), const Args& args) : kernel_(kernel), args_(args) {
    const Parts p = parts_of(args_);
    index_ = *p.index;
    grids_ = p.grid->data ? p.grid->shape[0] : p.d_grid->shape[0];
    N_ = p.size->shape[0];
    if (p.at) {
      H_ = p.size->shape[1];
      W_ = p.size->shape[2];
      pixels_apart_ = p.at->xy.data && (index_.strides[1] || index_.strides[2] || H_ * W_ < kSmallImage);
    }
    sort();
  }

  void run() {
    const auto is_small = [this](int64_t m) {
      return (first_[m + 1] - first_[m]) * (pixels_apart_ ? 1 : H_ * W_) < kSmallCall;
    };
    for_grids([&](int64_t m) {
      if (is_small(m)) run_grid(m);
    });
    for (int64_t m = 0; m < grids_; ++m)
      if (!is_small(m)) run_grid(m);
  }

 private:
  template <class Body>
  void for_grids(const Body& body) const {
    parallel_for(
        grids_, [](void* context, int64_t m) { (*static_cast<const Body*>(context))(m); }, const_cast<Body*>(&body));
  }

  // Sorts images, or pixels, by grid: those of grid m are order_[first_[m]] to order_[first_[m + 1] − 1].
  void sort() {
    const int64_t each = pixels_apart_ ? H_ * W_ : 1, count = N_ * each;
    const auto grid_at = [&](int64_t i) {
      const int64_t n = i / each, rest = i - n * each, y = pixels_apart_ ? rest / W_ : 0;
      return grid_of(index_, n, y, rest - y * W_);
    };
    first_.assign(static_cast<size_t>(grids_) + 1, 0);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t m = grid_at(i);
      if (m < 0 || m >= grids_) {
        throw std::out_of_range("index must name one of " + std::to_string(grids_) + " grids, from 0 to " +
                                std::to_string(grids_ - 1) + ", got " + std::to_string(m) + ".");
      }
      ++first_[static_cast<size_t>(m) + 1];
    }
    for (size_t m = 0; m < static_cast<size_t>(grids_); ++m) first_[m + 1] += first_[m];
    order_.resize(static_cast<size_t>(count));
    std::vector<int64_t> next = first_;
    for (int64_t i = 0; i < count; ++i) order_[static_cast<size_t>(next[static_cast<size_t>(grid_at(i))]++)] = i;
  }

  void run_grid(int64_t m) {
    const int64_t *begin = order_.data() + first_[m], *end = order_.data() + first_[m + 1];
    Args own = args_;
    Parts p = parts_of(own);
    *p.index = {};
    for (Tensor* grid : {p.grid, p.d_grid})
      if (grid && grid->data) *grid = part(*grid, m, 1);
    const bool gradient = p.d_grid && p.d_grid->data;
    if (begin == end) {
      if (gradient) store_grid(*p.d_grid, nullptr);
    } else if (pixels_apart_) {
      run_pixels(own, begin, end);
    } else if (gradient && end - begin > 1) {
      add_images(own, begin, end);
    } else {
      for (; begin < end; ++begin) run_image(own, *begin);
    }
  }

  void run_image(Args own, int64_t n) const {
    const Parts p = parts_of(own);
    for (const auto* tensors : {&p.inputs, &p.outputs})
      for (Tensor* t : *tensors)
        if (t->data) *t = part(*t, n, 1);
    kernel_(own);
  }

  // The gradient of a grid that several images have, which is the sum of theirs
  void add_images(Args own, const int64_t* begin, const int64_t* end) const {
    const Parts p = parts_of(own);
    const Tensor result = *p.d_grid;
    const size_t count = static_cast<size_t>(elements(result));
    const bool wide = result.dtype == DType::f64;
    std::vector<double> sum(count), of_image(count);
    p.d_grid->dtype = wide ? DType::f64 : DType::f32;
    lay_out(*p.d_grid, reinterpret_cast<char*>(of_image.data()));
    for (; begin < end; ++begin) {
      run_image(own, *begin);
      const float* const narrow = reinterpret_cast<const float*>(p.d_grid->data);
      for (size_t i = 0; i < count; ++i) sum[i] += wide ? of_image[i] : static_cast<double>(narrow[i]);
    }
    store_grid(result, sum.data());
  }

  // The pixels of a grid, copied to an image of one row and back
  void run_pixels(Args own, const int64_t* begin, const int64_t* end) {
    const Parts given = parts_of(args_), p = parts_of(own);
    const int64_t count = end - begin;
    const auto gathered = [&](const Tensor& t) {  // bytes, whole cache lines
      return (elements(t) / std::max<int64_t>(1, N_ * H_ * W_) * count * element_size(t.dtype) + 63) / 64 * 64;
    };
    int64_t bytes = 0;
    for (const auto* tensors : {&given.inputs, &given.outputs})
      for (const Tensor* t : *tensors)
        if (t->data) bytes += gathered(*t);
    const Memory memory(bytes);
    char* place = memory.data;
    const auto lay_out_row = [&](Tensor& t, const Tensor& of) {
      t.shape[0] = t.shape[1] = 1;
      t.shape[2] = count;
      lay_out(t, place);
      place += gathered(of);
    };
    for (size_t i = 0; i < p.inputs.size(); ++i) {
      if (!p.inputs[i]->data) continue;
      lay_out_row(*p.inputs[i], *given.inputs[i]);
      copy_pixels(*given.inputs[i], *p.inputs[i], begin, end, true);
    }
    for (size_t i = 0; i < p.outputs.size(); ++i)
      if (p.outputs[i]->data) lay_out_row(*p.outputs[i], *given.outputs[i]);
    p.at->full_height = 1;
    p.at->full_width = count;
    p.at->top = p.at->left = 0;
    kernel_(own);
    for (size_t i = 0; i < p.outputs.size(); ++i)
      if (p.outputs[i]->data) copy_pixels(*given.outputs[i], *p.outputs[i], begin, end, false);
  }

  // Copies pixels of a tensor to a row of them, or back.
  void copy_pixels(const Tensor& t, const Tensor& row, const int64_t* begin, const int64_t* end, bool to_row) const {
    const int64_t size = element_size(t.dtype), C1 = t.rank > 3 ? t.shape[3] : 1, C2 = t.rank > 4 ? t.shape[4] : 1;
    const int64_t stride1 = t.rank > 3 ? t.strides[3] : 0, stride2 = t.rank > 4 ? t.strides[4] : 0;
    char* packed = row.data;
    const auto copy = [&](char* p, int64_t bytes) {
      std::memcpy(to_row ? packed : p, to_row ? p : packed, static_cast<size_t>(bytes));
      packed += bytes;
    };
    const bool dense = (C2 == 1 || stride2 == size) && (C1 == 1 || stride1 == size * C2);
    for (; begin < end; ++begin) {
      const int64_t n = *begin / (H_ * W_), rest = *begin - n * H_ * W_, y = rest / W_;
      char* const p = t.data + n * t.strides[0] + y * t.strides[1] + (rest - y * W_) * t.strides[2];
      if (dense) {
        copy(p, C1 * C2 * size);
        continue;
      }
      for (int64_t c1 = 0; c1 < C1; ++c1)
        for (int64_t c2 = 0; c2 < C2; ++c2) copy(p + c1 * stride1 + c2 * stride2, size);
    }
  }

  struct Memory {
    explicit Memory(int64_t bytes) : data(static_cast<char*>(scratch_allocate(static_cast<size_t>(bytes), false))) {}
    ~Memory() { scratch_free(data); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    char* const data;
  };

  void (*const kernel_)(const Args&);
  Args args_;
  GridIndex index_;
  int64_t grids_, N_, H_ = 1, W_ = 1;
  bool pixels_apart_ = false;
  std::vector<int64_t> first_, order_;
};

template <class Args>
auto index_of(const Args& a) -> decltype((a.at.index)) {
  return a.at.index;
}
template <class Args>
auto index_of(const Args& a) -> decltype((a.index)) {
  return a.index;
}

template <class Args, class = void>
struct MayHaveIndex : std::false_type {};
template <class Args>
struct MayHaveIndex<Args, std::void_t<decltype(parts_of(std::declval<Args&>()))>> : std::true_type {};

}  // namespace

template <class Args>
void run_on_host(void (*Kernels::*kernel)(const Args&), const Args& args) {
  const FloatMode mode;
  const auto run = kernels().*kernel;
  if constexpr (MayHaveIndex<Args>::value) {
    if (index_of(args).data) return ByGrid<Args>(run, args).run();
  }
  run(args);
}

#define BO_RUN(kernel, Args) template void run_on_host(void (*Kernels::*)(const Args&), const Args&);
BO_KERNELS(BO_RUN)
#undef BO_RUN

}  // namespace bilateral_ops
