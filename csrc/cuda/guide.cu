// guide_curves, guide_nn, guide_luma: forward, then backward. Equations: ../ops.h
#include "guide.cuh"
#include "kernels.cuh"
#include "reduction.cuh"

namespace bilateral_ops {

template <class T>
__global__ void __launch_bounds__(kTile)
    guide_values(Tensor out, Tensor image, Numbers<T> parameters, Tiling tiles, Room<T> room) {
  BO_DYNAMIC_SHARED(memory);
  const GuideShape shape = parameters.shape;
  const T* const numbers = numbers_of(parameters, memory);
  T* const in = room_of(room, memory + parameters.shared());
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    stage(image, tile, shape.Ci, room.width, in);
    __syncthreads();
    const int p = static_cast<int>(threadIdx.x);
    if (p < tile.count)
      put(out.dtype, pixel(out, tile, p),
          guide_value(shape.kind, numbers, shape.Ci, shape.K, [&](int64_t j) { return in[j * room.width + p]; }));
    __syncthreads();
  }
}

// What a thread knows of its pixel for the parameters' gradients, by planes of one number a pixel.
template <class T>
struct Planes {
  T *in, *d_in, *q, *c, *d_q, *inner;  // d_in: of nn; q, c, d_q: of curves
};
BO_INLINE int64_t planes(const GuideShape& shape) {
  return shape.kind == GuideKind::curves ? 4 * shape.Ci + 1 : shape.kind == GuideKind::nn ? 2 * shape.Ci + 1 : 0;
}

template <class T>
BO_DEVICE void curves_gradient(const T* numbers, const GuideShape& s, const Planes<T>& at, int width, int p, T grad) {
  const int64_t Ci = s.Ci, K = s.K;
  const T *bias = numbers + Ci * Ci, *shifts = bias + Ci, *slopes = shifts + Ci * K, *mix = slopes + Ci * K;
  T total = mix[Ci];
  for (int64_t i = 0; i < Ci; ++i) {
    const T q = weighted(numbers, bias, Ci, i, [&](int64_t j) { return at.in[j * width + p]; });
    const T c = curve(shifts + i * K, slopes + i * K, K, q);
    total = mul_add(mix[i], c, total);
    at.q[i * width + p] = q;
    at.c[i * width + p] = c;
  }
  // The gradient of clip's argument; NaN where that is NaN.
  const T inner = total != total ? total : (total > T(0) && total < T(1) ? grad : T(0));
  at.inner[p] = inner;
  for (int64_t i = 0; i < Ci; ++i) {
    T slope = T(0);
    for (int64_t k = 0; k < K; ++k)
      if (at.q[i * width + p] > shifts[i * K + k]) slope += slopes[i * K + k];
    at.d_q[i * width + p] = slope * (mix[i] * inner);
  }
}
template <class T>
BO_DEVICE void network_gradient(const T* numbers, const GuideShape& s, const Planes<T>& at, int width, int p, T grad) {
  const int64_t Ci = s.Ci, F = s.K;
  const T *b1 = numbers + F * Ci, *w2 = b1 + F;
  const auto in = [&](int64_t j) { return at.in[j * width + p]; };
  const T v = network_sum(numbers, Ci, F, in);
  // 1 − sigmoid(v) = sigmoid(−v), which keeps its digits where sigmoid(v) is near 1.
  const T d = grad * sigmoid(v) * sigmoid(-v);
  at.inner[p] = d;
  for (int64_t j = 0; j < Ci; ++j) at.d_in[j * width + p] = T(0);
  for (int64_t f = 0; f < F; ++f) {
    const T h = weighted(numbers, b1, Ci, f, in), d_h = h != h ? h : (h > T(0) ? w2[f] * d : T(0));
    for (int64_t j = 0; j < Ci; ++j) {
      T& to = at.d_in[j * width + p];
      to = mul_add(numbers[f * Ci + j], d_h, to);
    }
  }
}

// The sum over a tile's pixels of the gradient by one parameter, counted as they lie one after another.
template <class T>
BO_DEVICE double curves_tile(const T* numbers, const GuideShape& s, const Planes<T>& at, int width, int count,
                             int64_t e) {
  const int64_t Ci = s.Ci, K = s.K, bias = Ci * Ci, shifts = bias + Ci, slopes = shifts + Ci * K, mix = slopes + Ci * K;
  const T *a, *b = nullptr;  // the sum is of a·b, or of a
  if (e < shifts) {
    a = at.d_q + (e < bias ? e / Ci : e - bias) * width;
    if (e < bias) b = at.in + e % Ci * width;
  } else if (e < mix) {
    const bool shift = e < slopes;
    const int64_t knot = e - (shift ? shifts : slopes), i = knot / K;
    const T* const q = at.q + i * width;
    const T position = numbers[shifts + knot];
    T sum = T(0);
    for (int p = 0; p < count; ++p) {
      const T d = at.inner[p];
      sum = shift ? sum + (q[p] > position ? d : T(0)) : mul_add(d, relu(q[p] - position), sum);
    }
    const double weight = shift ? -static_cast<double>(numbers[slopes + knot]) : 1.0;
    return static_cast<double>(sum) * weight * static_cast<double>(numbers[mix + i]);
  } else {
    a = at.inner;
    if (e < mix + Ci) b = at.c + (e - mix) * width;
  }
  T sum = T(0);
  for (int p = 0; p < count; ++p) sum = b ? mul_add(a[p], b[p], sum) : sum + a[p];
  return static_cast<double>(sum);
}
template <class T>
BO_DEVICE double network_tile(const T* numbers, const GuideShape& s, const Planes<T>& at, int width, int count,
                              int64_t e) {
  const int64_t Ci = s.Ci, F = s.K, bias = F * Ci, w2 = bias + F, b2 = w2 + F;
  T sum = T(0);
  if (e == b2) {
    for (int p = 0; p < count; ++p) sum += at.inner[p];
    return static_cast<double>(sum);
  }
  const int64_t f = e < bias ? e / Ci : e < w2 ? e - bias : e - w2;
  const T* const times = e < bias ? at.in + e % Ci * width : nullptr;
  for (int p = 0; p < count; ++p) {
    const T h = weighted(numbers, numbers + bias, Ci, f, [&](int64_t j) { return at.in[j * width + p]; });
    const T d = at.inner[p];
    if (e >= w2) {
      sum = mul_add(d, relu(h), sum);
    } else {
      const T d_h = h != h ? h : (h > T(0) ? numbers[w2 + f] * d : T(0));
      sum = times ? mul_add(d_h, times[p], sum) : sum + d_h;
    }
  }
  return static_cast<double>(sum);
}

// Each block adds up its tiles, a thread a parameter. sums: [block][parameter]
template <class T>
__global__ void __launch_bounds__(kTile)
    guide_gradients(Tensor d_image, Tensor image, Tensor grad, Numbers<T> parameters, Tiling tiles, Room<T> room,
                    double* sums) {
  BO_DYNAMIC_SHARED(memory);
  const GuideShape shape = parameters.shape;
  const int64_t plane = shape.Ci * room.width;
  const T* const numbers = numbers_of(parameters, memory);
  T* const planes = room_of(room, memory + parameters.shared());
  const Planes<T> at =
      shape.kind == GuideKind::curves
          ? Planes<T>{planes, nullptr, planes + plane, planes + 2 * plane, planes + 3 * plane, planes + 4 * plane}
          : Planes<T>{planes, planes + plane, nullptr, nullptr, nullptr, planes + 2 * plane};
  double* const own = sums ? sums + blockIdx.x * shape.count : nullptr;
  const int p = static_cast<int>(threadIdx.x), width = room.width;
  for (int64_t e = p; sums && e < shape.count; e += kTile) own[e] = 0.0;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    // luma's gradient does not depend on the image
    if (shape.kind != GuideKind::luma) stage(image, tile, shape.Ci, width, at.in);
    __syncthreads();
    if (p < tile.count) {
      const T d = get<T>(grad.dtype, pixel(grad, tile, p));
      if (shape.kind == GuideKind::curves) curves_gradient(numbers, shape, at, width, p, d);
      if (shape.kind == GuideKind::nn) network_gradient(numbers, shape, at, width, p, d);
      for (int64_t j = 0; d_image.data && j < shape.Ci; ++j) {
        T sum = T(0);
        if (shape.kind == GuideKind::curves) {
          for (int64_t i = 0; i < shape.Ci; ++i) sum = mul_add(numbers[i * shape.Ci + j], at.d_q[i * width + p], sum);
        } else if (shape.kind == GuideKind::nn) {
          sum = at.d_in[j * width + p];
        } else {
          sum = T(luma_weight(j)) * d;
        }
        put(d_image.dtype, pixel(d_image, tile, p) + j * d_image.strides[3], sum);
      }
    }
    __syncthreads();
    for (int64_t e = p; sums && e < shape.count; e += kTile)
      own[e] += shape.kind == GuideKind::curves ? curves_tile(numbers, shape, at, width, tile.count, e)
                                                : network_tile(numbers, shape, at, width, tile.count, e);
    __syncthreads();
  }
}

struct GuideGradients {
  Tensor value[kMaxGuideParameters];
  int64_t count[kMaxGuideParameters];
};
// A warp a parameter.
template <class T>
__global__ void __launch_bounds__(256)
    add_guide_gradients(GuideGradients to, int64_t parameters, int64_t blocks, const double* __restrict__ sums) {
  for (int64_t e = blockIdx.x * int64_t(8) + threadIdx.x / 32; e < parameters; e += gridDim.x * int64_t(8)) {
    const T sum = static_cast<T>(warp_sum(sums + e, blocks, parameters));
    int64_t first = 0;
#pragma unroll
    for (int i = 0; i < kMaxGuideParameters; ++i) {
      const Tensor& t = to.value[i];
      const int64_t at = e - first;
      first += to.count[i];
      if (!t.data || at < 0 || at >= to.count[i] || threadIdx.x % 32 != 0) continue;
      put(t.dtype, number(t, rows_of(t), at), sum);
    }
  }
}

namespace cuda {

void guide_forward(const GuideArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const Numbers<T> numbers = make_numbers<T>(to, a.parameters, a.image.shape[3]);
    const Room<T> room = make_room<T>(to, a.image.shape[3]);
    const Tiling tiles = make_tiling(a.out, room.width);
    launch(to, guide_values<T>, min_of(tiles.count, room.blocks), kTile, numbers.shared() + room.shared(), a.out,
           a.image, numbers, tiles, room);
  });
}

void guide_backward(const GuideGradArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const Numbers<T> numbers = make_numbers<T>(to, a.parameters, a.image.shape[3]);
    const Room<T> room = make_room<T>(to, planes(numbers.shape));
    const Tiling tiles = make_tiling(a.grad, room.width);
    GuideGradients gradients{};
    bool wanted = false;
    for (int i = 0; i < numbers.shape.arrays; ++i) {
      const Rows rows = rows_of(a.parameters.value[i]);
      gradients.value[i] = a.d_value[i];
      gradients.count[i] = rows.rows * rows.columns;
      wanted = wanted || a.d_value[i].data;
    }
    if (!wanted && !a.d_image.data) return;
    // Blocks that depend on shapes alone, as their sums are added in order.
    const int64_t blocks =
        min_of(max_of<int64_t>(1, tiles.count), min_of<int64_t>(room.blocks, wanted ? 1024 : kMostBlocks));
    double* const sums = wanted ? workspace<double>(to, blocks * numbers.shape.count) : nullptr;
    launch(to, guide_gradients<T>, blocks, kTile, numbers.shared() + room.shared(), a.d_image, a.image, a.grad, numbers,
           tiles, room, sums);
    if (wanted)
      launch(to, add_guide_gradients<T>, ceil_div(numbers.shape.count, 8), 256, 0, gradients, numbers.shape.count,
             blocks, static_cast<const double*>(sums));
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
