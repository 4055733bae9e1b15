// resize_area: forward, then backward. Equations: ../ops.h
#include "kernels.cuh"
#include "reduction.cuh"
#include "tiles.cuh"

namespace bilateral_ops {

constexpr int kThreads = 256;

// One axis: each of `out` output pixels is a weighted sum of the input pixels in its footprint, of `in` in all. The
// weight of an input pixel is the length of it in the footprint (formulas.h) times `share`.
struct AreaAxis {
  int64_t out, in;
  double share;
};
// The input pixels of one output pixel, [begin, end), and the weights of the first, the last and the others
struct Cover {
  int64_t begin, end;
  double head, body, tail;
};
BO_DEVICE Cover cover(const AreaAxis& axis, int64_t i) {
  const Footprint f = footprint(i, axis.out, axis.in);
  return {f.begin, f.end, static_cast<double>(f.head) * axis.share, static_cast<double>(axis.out) * axis.share,
          static_cast<double>(f.tail) * axis.share};
}
BO_DEVICE double weight(const Cover& at, int64_t i) {
  return i == at.begin ? at.head : i == at.end - 1 ? at.tail : at.body;
}

// An element of the input; of integers the level, not v/255. The weights are then lengths, so sums are whole numbers,
// and the division by the sum of the weights is the only rounding.
template <class T>
BO_DEVICE double load_level(DType dtype, const char* p) {
  if (dtype == DType::u8) return static_cast<double>(load_bits<uint8_t>(p));
  if (dtype == DType::u16) return static_cast<double>(load_bits<uint16_t>(p));
  return static_cast<double>(load_one<T>(dtype, p));
}

struct AreaArgs {
  Tensor out, image;
  AreaAxis y, x;
  double area, scale;  // integer output: sums are divided by `area`; float output: they are multiplied by `scale`
  int64_t bands;       // the rows of each footprint are cut into bands with sums of their own
  double* sums;        // of the bands, [n][i][j][band][channel]; null if there is one band
};
BO_DEVICE void store_sum(const AreaArgs& a, char* p, double sum) {
  switch (a.out.dtype) {
    case DType::u8: return store_bits(p, static_cast<uint8_t>(static_cast<int>(rounded(sum / a.area))));
    case DType::u16: return store_bits(p, static_cast<uint16_t>(static_cast<int>(rounded(sum / a.area))));
    case DType::f64: return store_one(DType::f64, p, sum * a.scale);
    default: return store_one(a.out.dtype, p, static_cast<float>(sum * a.scale));
  }
}

// kLanes threads per output pixel and band, which take the input pixels of a row in turns: 1, or a warp.
template <class T, int kLanes>
__global__ void __launch_bounds__(kThreads, 3) sum_footprints(AreaArgs a) {
  const int64_t units = a.out.shape[0] * a.y.out * a.x.out * a.bands, step = gridDim.x * int64_t(kThreads / kLanes);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int64_t unit = blockIdx.x * int64_t(kThreads / kLanes) + threadIdx.x / kLanes; unit < units; unit += step) {
    const int64_t pixel = unit / a.bands, band = unit - pixel * a.bands;
    const int64_t row = pixel / a.x.out, j = pixel - row * a.x.out, n = row / a.y.out, i = row - n * a.y.out;
    const Cover rows = cover(a.y, i), columns = cover(a.x, j);
    const int64_t height = rows.end - rows.begin;
    const int64_t begin = rows.begin + height * band / a.bands, end = rows.begin + height * (band + 1) / a.bands;
    for (int64_t c = 0; c < a.out.shape[3]; ++c) {
      double sum = 0.0;
      for (int64_t y = begin; y < end; ++y) {
        double across = 0.0;
        for (int64_t x = columns.begin + lane; x < columns.end; x += kLanes) {
          const double v = load_level<T>(a.image.dtype, address_of(a.image, n, y, x) + c * a.image.strides[3]);
          across = mul_add(weight(columns, x), v, across);
        }
        sum = mul_add(weight(rows, y), across, sum);
      }
      if (kLanes > 1) sum = warp_sum(sum);
      if (lane != 0) continue;
      if (a.bands > 1) {
        a.sums[unit * a.out.shape[3] + c] = sum;
      } else {
        store_sum(a, address_of(a.out, n, i, j) + c * a.out.strides[3], sum);
      }
    }
  }
}

// Adds the bands in their order. One thread per element of the output.
__global__ void __launch_bounds__(kThreads) add_footprint_bands(AreaArgs a) {
  const int64_t C = a.out.shape[3], count = a.out.shape[0] * a.y.out * a.x.out * C;
  for (int64_t e = blockIdx.x * int64_t(kThreads) + threadIdx.x; e < count; e += gridDim.x * int64_t(kThreads)) {
    const int64_t pixel = e / C, c = e - pixel * C;
    const int64_t row = pixel / a.x.out, j = pixel - row * a.x.out, n = row / a.y.out, i = row - n * a.y.out;
    double sum = 0.0;
    for (int64_t band = 0; band < a.bands; ++band) sum += a.sums[(pixel * a.bands + band) * C + c];
    store_sum(a, address_of(a.out, n, i, j) + c * a.out.strides[3], sum);
  }
}

namespace cuda {

static void sum_areas(const Tensor& out, const Tensor& image, double height, double width, Launch& to) {
  if (is_empty(out) || is_empty(image)) return;
  AreaArgs a{out, image, {out.shape[1], image.shape[1], 1.0 / height}, {out.shape[2], image.shape[2], 1.0 / width}};
  a.area = static_cast<double>(a.y.in) * static_cast<double>(a.x.in);
  a.scale = is_integer(image.dtype) ? 1.0 / (a.area * top_level(image.dtype)) : 1.0;
  a.bands = 1;
  const int64_t pixels = out.shape[0] * a.y.out * a.x.out, C = out.shape[3];
  with_compute_type(image.dtype, [&](auto t) {
    using T = decltype(t);
    // Wide footprints are shared by the threads of a warp, and by several warps if there are too few output pixels to
    // keep a device busy.
    constexpr int64_t kBusy = 4096;
    const bool shared = a.x.in / a.x.out >= 32;
    if (shared) a.bands = max_of<int64_t>(1, min_of(kBusy / pixels, a.y.in / a.y.out / 8));
    if (a.bands > 1) a.sums = workspace<double>(to, pixels * a.bands * C);
    if (shared) {
      launch(to, sum_footprints<T, 32>, ceil_div(pixels * a.bands, kThreads / 32), kThreads, 0, a);
    } else {
      launch(to, sum_footprints<T, 1>, ceil_div(pixels, kThreads), kThreads, 0, a);
    }
    if (a.bands > 1) launch(to, add_footprint_bands, ceil_div(pixels * C, kThreads), kThreads, 0, a);
  });
}

void resize_area_forward(const ResizeAreaArgs& a, Launch& to) {
  const auto unit = [&](int axis) {
    return is_integer(a.image.dtype) ? 1.0 : static_cast<double>(a.image.shape[axis]);
  };
  sum_areas(a.out, a.image, unit(1), unit(2), to);
}

void resize_area_backward(const ResizeAreaGradArgs& a, Launch& to) {
  sum_areas(a.d_image, a.grad, static_cast<double>(a.d_image.shape[1]), static_cast<double>(a.d_image.shape[2]), to);
}

}  // namespace cuda
}  // namespace bilateral_ops
