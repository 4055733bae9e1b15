// The guides as operations, guide_curves, guide_nn and guide_luma: forward, then backward. Equations: ../ops.h
#include "guides/any.cuh"
#include "kernels.cuh"
#include "reduction.cuh"

namespace bilateral_ops {

// Thread blocks of a tile's threads that fill a multiprocessor; 0 leaves it to ptxas.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
constexpr int kTileBlocks = 0, kPatchBlocks = 4;
#else
constexpr int kTileBlocks = 12, kPatchBlocks = 8;
#endif

// One thread per pixel.
template <class T>
__global__ void __launch_bounds__(kTileWidth, kTileBlocks)
    guide_values(Tensor out, Tensor image, ParameterValues<T> parameters, Tiling tiles, Scratch<T> scratch) {
  BO_DYNAMIC_SHARED(memory);
  const GuideShape shape = parameters.shape;
  const T* const values = parameters.get(memory);
  T* const in = scratch.get(memory + parameters.shared());
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    load_planes(image, tile, shape.Ci, scratch.width, in);
    __syncthreads();
    const int p = static_cast<int>(threadIdx.x);
    if (p < tile.count) {
      T guide[1];
      guide_at(shape.kind, values, shape.Ci, shape.K, [&](int64_t j, int) { return in[j * scratch.width + p]; }, guide);
      store_one(out.dtype, address_of(out, tile, p), guide[0]);
    }
    __syncthreads();
  }
}

// The same of RGB in float: a warp takes the rows of a patch in turn, a thread four pixels.
template <class Guide>
__global__ void __launch_bounds__(kPatchThreads, kPatchBlocks)
    rgb_guide_values(Tensor out, Tensor image, RgbGuide<Guide> policy, Patches s) {
  BO_DYNAMIC_SHARED(memory);
  const Guide guide = policy.get(memory);
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32, x = 4 * (static_cast<int>(threadIdx.x) % 32);
  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const Patch patch = patch_at(s, index);
    const int mask = pixel_mask(x, 0, patch.width);
    const char* from = address_of(image, patch.n, patch.top + warp, patch.left + x);
    char* to = address_of(out, patch.n, patch.top + warp, patch.left + x);
    for (int row = warp; row < patch.height; row += kPatchWarps) {
      float in[4][3];
      Vec4<float> values;
      load_pixels4(image, from, mask, in);
      guide.at([&](int j, int m) { return in[m][j]; }, values.at);
      store_plane4(out, to, mask, values);
      from += kPatchWarps * image.strides[1];
      to += kPatchWarps * out.strides[1];
    }
  }
}

// How many GuidePlanes there are
inline int64_t plane_count(const GuideShape& shape) {
  switch (shape.kind) {
    case GuideKind::curves: return 4 * shape.Ci + 1;
    case GuideKind::nn: return 2 * shape.Ci + 1;
    case GuideKind::luma: break;
  }
  return 0;
}

// d_image, one thread per pixel; and each thread block's sums of the parameters' gradients over its tiles,
// [block][parameter element], one thread per element. sums may be null.
template <class T>
__global__ void __launch_bounds__(kTileWidth)
    guide_gradients(Tensor d_image, Tensor image, Tensor grad, ParameterValues<T> parameters, Tiling tiles,
                    Scratch<T> scratch, double* sums) {
  BO_DYNAMIC_SHARED(memory);
  const GuideShape shape = parameters.shape;
  const int64_t plane = shape.Ci * scratch.width;
  const T* const values = parameters.get(memory);
  T* const planes = scratch.get(memory + parameters.shared());
  const GuidePlanes<T> at =
      shape.kind == GuideKind::curves
          ? GuidePlanes<T>{planes, nullptr, planes + plane, planes + 2 * plane, planes + 3 * plane, planes + 4 * plane}
          : GuidePlanes<T>{planes, planes + plane, nullptr, nullptr, nullptr, planes + 2 * plane};
  double* const own = sums ? sums + blockIdx.x * shape.count : nullptr;
  const int p = static_cast<int>(threadIdx.x), pitch = scratch.width;
  for (int64_t e = p; sums && e < shape.count; e += kTileWidth) own[e] = 0.0;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    // The luma's gradient does not depend on the image.
    if (shape.kind != GuideKind::luma) load_planes(image, tile, shape.Ci, pitch, at.in);
    __syncthreads();
    if (p < tile.count) {
      const T d = load_one<T>(grad.dtype, address_of(grad, tile, p));
      if (shape.kind == GuideKind::curves) Curves<T>{values, shape.Ci, shape.K}.gradient(at, pitch, p, d);
      if (shape.kind == GuideKind::nn) Network<T>{values, shape.Ci, shape.K}.gradient(at, pitch, p, d);
      for (int64_t j = 0; d_image.data && j < shape.Ci; ++j) {
        T d_in = T(0);
        if (shape.kind == GuideKind::curves) {
          d_in = Curves<T>{values, shape.Ci, shape.K}.d_in(at, pitch, p, j);
        } else if (shape.kind == GuideKind::nn) {
          d_in = Network<T>{values, shape.Ci, shape.K}.d_in(at, pitch, p, j);
        } else {
          d_in = T(luma_weight(j)) * d;
        }
        store_one(d_image.dtype, address_of(d_image, tile, p) + j * d_image.strides[3], d_in);
      }
    }
    __syncthreads();
    for (int64_t e = p; sums && e < shape.count; e += kTileWidth)
      own[e] += shape.kind == GuideKind::curves
                    ? Curves<T>{values, shape.Ci, shape.K}.d_parameter(at, pitch, tile.count, e)
                    : Network<T>{values, shape.Ci, shape.K}.d_parameter(at, pitch, tile.count, e);
    __syncthreads();
  }
}

// The same of RGB in float. A warp leaves a row of pixels in planes; each of its lanes then sums over them for an item,
// a knot or a feature. Sums over a row, and the own sums of a thread over a patch, are in float, all further ones in
// double.
constexpr int64_t kMaxGradientBlocks = 1024;  // thread blocks with sums
template <class Guide>
size_t rgb_gradient_bytes(int64_t knots_or_features) {
  const size_t sums = static_cast<size_t>(Guide::kItems * knots_or_features) * Guide::kSums + Guide::kOwn;
  return kPatchWarps * (sums * sizeof(double) + Guide::kPlanes * RgbPlanes::kPitch * sizeof(float));
}
template <class Guide>
__global__ void __launch_bounds__(kPatchThreads, 3)
    rgb_guide_gradients(Tensor d_image, Tensor image, Tensor grad, RgbGuide<Guide> policy, Patches s, double* sums) {
  constexpr int kSums = Guide::kSums, kOwn = Guide::kOwn, kPlanes = Guide::kPlanes;
  BO_DYNAMIC_SHARED(memory);
  const Guide guide = policy.get(memory);
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32, x = 4 * lane;
  const int items = Guide::kItems * static_cast<int>(policy.parameters.shape.K), count = items * kSums + kOwn;
  double* const totals = reinterpret_cast<double*>(memory + policy.shared());  // [warp][sum]
  double* const total = totals + warp * count;
  float* const planes = reinterpret_cast<float*>(totals + kPatchWarps * count) + warp * kPlanes * RgbPlanes::kPitch;
  for (int e = lane; e < count; e += 32) total[e] = 0.0;
  // Each lane has an item; where there are few, groups of lanes share the pixels.
  int per = 32;
  while (per / 2 >= max_of(1, items)) per /= 2;
  __syncthreads();
  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const Patch patch = patch_at(s, index);
    const int mask = pixel_mask(x, 0, patch.width);
    const int64_t left = patch.left + x;
    float own[kOwn] = {};
    for (int row = warp; row < patch.height; row += kPatchWarps) {
      const int64_t y = patch.top + row;
      float in[4][3], d_in[4][3];
      Vec4<float> d, left_behind[kPlanes];
      load_pixels4(image, address_of(image, patch.n, y, left), mask, in);
      load_plane4(grad, address_of(grad, patch.n, y, left), mask, d);
      guide.gradient(in, d, mask, d_in, left_behind, own);
      if (d_image.data) store_pixels4(d_image, address_of(d_image, patch.n, y, left), mask, d_in);
      if (!sums) continue;
      __syncwarp();  // the planes of the previous row have been read
#pragma unroll
      for (int k = 0; k < kPlanes; ++k)
        *reinterpret_cast<Vec4<float>*>(planes + k * RgbPlanes::kPitch + x) = left_behind[k];
      __syncwarp();
      const RgbPlanes at{planes, patch.width, lane / per, 32 / per};
      for (int first = 0; first < items; first += per) {
        const int item = first + lane % per;
        float of_item[kSums] = {};
        guide.add_up_item(min_of(item, items - 1), at, of_item);
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          for (int step = per; step < 32; step *= 2) of_item[i] += __shfl_xor_sync(0xffffffffu, of_item[i], step);
          if (lane < per && item < items) total[item * kSums + i] += static_cast<double>(of_item[i]);
        }
      }
    }
    if (!sums) continue;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const double sum = warp_sum(static_cast<double>(own[i]));
      if (lane == 0) total[items * kSums + i] += sum;
    }
  }
  if (!sums) return;
  __syncthreads();
  const int elements = static_cast<int>(policy.parameters.shape.count);
  for (int e = t; e < elements; e += kPatchThreads)
    sums[blockIdx.x * int64_t(elements) + e] = guide.element(e, [&](int i) {
      double sum = 0.0;
#pragma unroll
      for (int w = 0; w < kPatchWarps; ++w) sum += totals[w * count + i];
      return sum;
    });
}

struct ParameterGradients {
  Tensor value[kMaxGuideParameters];
  int64_t count[kMaxGuideParameters];
};
// Adds the sums of all thread blocks. One warp per parameter element.
template <class T>
__global__ void __launch_bounds__(256)
    add_guide_gradients(ParameterGradients to, int64_t elements, int64_t blocks, const double* __restrict__ sums) {
  for (int64_t e = blockIdx.x * int64_t(8) + threadIdx.x / 32; e < elements; e += gridDim.x * int64_t(8)) {
    const T sum = static_cast<T>(warp_sum(sums + e, blocks, elements));
    int64_t first = 0;
#pragma unroll
    for (int i = 0; i < kMaxGuideParameters; ++i) {
      const Tensor& t = to.value[i];
      const int64_t at = e - first;
      first += to.count[i];
      if (!t.data || at < 0 || at >= to.count[i] || threadIdx.x % 32 != 0) continue;
      store_one(t.dtype, element_address(t, rows_of(t), at), sum);
    }
  }
}

namespace cuda {

// Whether there is a faster way
static bool is_rgb(const Tensor& image) { return image.dtype != DType::f64 && image.shape[3] == 3; }

void guide_forward(const GuideArgs& a, Launch& to) {
  if (is_rgb(a.image)) {
    const Patches patches = make_patches(a.out, rows_per_patch(a.out));
    return with_rgb_guide(make_parameter_values<float>(to, a.parameters, 3), [&](auto guide) {
      launch(to, rgb_guide_values<typename decltype(guide)::Type>, patches.count, kPatchThreads, guide.shared(), a.out,
             a.image, guide, patches);
    });
  }
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ParameterValues<T> parameters = make_parameter_values<T>(to, a.parameters, a.image.shape[3]);
    const Scratch<T> scratch = make_scratch<T>(to, a.image.shape[3]);
    const Tiling tiles = make_tiling(a.out, scratch.width);
    launch(to, guide_values<T>, min_of(tiles.count, scratch.blocks), kTileWidth, parameters.shared() + scratch.shared(),
           a.out, a.image, parameters, tiles, scratch);
  });
}

void guide_backward(const GuideGradArgs& a, Launch& to) {
  const GuideShape shape = shape_of(a.parameters, a.image.shape[3]);
  ParameterGradients gradients{};
  bool wanted = false;
  for (int i = 0; i < shape.arrays; ++i) {
    const ParameterRows rows = rows_of(a.parameters.value[i]);
    gradients.value[i] = a.d_value[i];
    gradients.count[i] = rows.rows * rows.columns;
    wanted = wanted || a.d_value[i].data;
  }
  if (!wanted && !a.d_image.data) return;
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ParameterValues<T> parameters = make_parameter_values<T>(to, a.parameters, a.image.shape[3]);
    // The number of thread blocks with sums depends on shapes alone, and so does the order of summation.
    int64_t blocks = 0;
    double* sums = nullptr;
    const auto allocate = [&](int64_t units, int64_t most) {
      blocks = min_of(max_of<int64_t>(1, units), wanted ? min_of(most, kMaxGradientBlocks) : most);
      if (wanted) sums = workspace<double>(to, blocks * shape.count);
    };
    bool done = false;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (is_rgb(a.image) && !parameters.global)
        with_rgb_guide(parameters, [&](auto guide) {
          using Guide = typename decltype(guide)::Type;
          const size_t shared = guide.shared() + rgb_gradient_bytes<Guide>(shape.K);
          if (shared > kSharedBytes) return;
          const Patches patches = make_patches(a.grad, rows_per_patch(a.grad));
          allocate(patches.count, kMostBlocks);
          launch(to, rgb_guide_gradients<Guide>, blocks, kPatchThreads, shared, a.d_image, a.image, a.grad, guide,
                 patches, sums);
          done = true;
        });
    }
    if (!done) {
      const Scratch<T> scratch = make_scratch<T>(to, plane_count(shape));
      const Tiling tiles = make_tiling(a.grad, scratch.width);
      allocate(tiles.count, scratch.blocks);
      launch(to, guide_gradients<T>, blocks, kTileWidth, parameters.shared() + scratch.shared(), a.d_image, a.image,
             a.grad, parameters, tiles, scratch, sums);
    }
    if (wanted)
      launch(to, add_guide_gradients<T>, ceil_div(shape.count, 8), 256, 0, gradients, shape.count, blocks,
             static_cast<const double*>(sums));
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
