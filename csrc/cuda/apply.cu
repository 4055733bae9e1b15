// apply: forward, then backward. Equations: ../ops.h
#include "kernels.cuh"
#include "splatter.cuh"

namespace bilateral_ops {

template <class T>
BO_DEVICE T coefficient(const Tensor& t, const Tile& tile, int p, int64_t i, int64_t j) {
  return load_one<T>(t.dtype, address_of(t, tile, p) + i * t.strides[3] + j * t.strides[4]);
}

// One thread per element of the output.
template <class T>
__global__ void __launch_bounds__(kTileWidth, 8) apply_tiles(ApplyArgs a, Tiling tiles, Scratch<T> scratch) {
  BO_DYNAMIC_SHARED(memory);
  T* const in = scratch.get(memory);
  const int64_t Ci = a.image.shape[3], Co = a.out.shape[3];
  const bool offset = a.coefficients.shape[4] > Ci;
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    load_planes(a.image, tile, Ci, scratch.width, in);
    __syncthreads();
    for_channels(a.out, tile, Co, [&](int p, int64_t i) {
      T sum = offset ? coefficient<T>(a.coefficients, tile, p, i, Ci) : T(0);
      for (int64_t j = 0; j < Ci; ++j)
        sum = mul_add(coefficient<T>(a.coefficients, tile, p, i, j), in[j * scratch.width + p], sum);
      store_one(a.out.dtype, address_of(a.out, tile, p) + i * a.out.strides[3], sum);
    });
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kTileWidth, 8)
    apply_gradients(ApplyGradArgs a, ApplyContributions contributions, Tiling tiles) {
  const int64_t Ci = a.image.shape[3], Co = a.grad.shape[3];
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    if (a.d_coefficients.data)
      for_channels(a.d_coefficients, tile, Co * contributions.L, [&](int p, int64_t c) {
        store_one(a.d_coefficients.dtype, address_of(a.d_coefficients, tile, p) + channel(a.d_coefficients, 3, c),
                  contributions.at<T>(tile, p, c));
      });
    __syncthreads();  // d_image may be written over the image
    if (a.d_image.data)
      for_channels(a.d_image, tile, Ci, [&](int p, int64_t j) {
        T sum = T(0);
        for (int64_t i = 0; i < Co; ++i)
          sum = mul_add(coefficient<T>(a.coefficients, tile, p, i, j),
                        load_one<T>(a.grad.dtype, address_of(a.grad, tile, p) + i * a.grad.strides[3]), sum);
        store_one(a.d_image.dtype, address_of(a.d_image, tile, p) + j * a.d_image.strides[3], sum);
      });
  }
}

// The same for 3 × 4 matrices in float. A warp takes the rows of a patch in turn; each thread loads and stores four
// pixels of the image, and takes one row of a matrix at a time, so that a warp loads adjacent vectors.
BO_DEVICE void store_staged(float* staged, int x, const float (&v)[4][3]) {
#pragma unroll
  for (int k = 0; k < 3; ++k)
    reinterpret_cast<Vec4<float>*>(staged + 3 * x)[k] = {{v[4 * k / 3][4 * k % 3], v[(4 * k + 1) / 3][(4 * k + 1) % 3],
                                                          v[(4 * k + 2) / 3][(4 * k + 2) % 3],
                                                          v[(4 * k + 3) / 3][(4 * k + 3) % 3]}};
}
__global__ void __launch_bounds__(kPatchThreads, 8) apply_patches_34(ApplyArgs a, Patches s) {
  __shared__ __align__(16) float in[kPatchWarps][3 * kPatchWidth], result[kPatchWarps][3 * kPatchWidth];
  const int warp = static_cast<int>(threadIdx.x) / 32, x = 4 * (static_cast<int>(threadIdx.x) % 32);
  float pixels[4][3] = {};
  store_staged(result[warp], x, pixels);  // those of pixels beyond the last column are read, and not used
  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const Patch patch = patch_at(s, index);
    const int mask = pixel_mask(x, 0, patch.width);
    for (int row = warp; row < patch.height; row += kPatchWarps) {
      const int64_t y = patch.top + row, left = patch.left + x;
      load_pixels4(a.image, address_of(a.image, patch.n, y, left), mask, pixels);
      __syncwarp();  // the previous row's results have been read
      store_staged(in[warp], x, pixels);
      __syncwarp();
      with_quads(a.coefficients, patch.n, y, patch.left, [&](auto matrices) {
        for_quads(patch.width, Three(), [&](int p, int i, int index) {
          const Vec4<float> m = matrices.load(p, i);
          float sum = m.at[3];
#pragma unroll
          for (int j = 0; j < 3; ++j) sum = mul_add(m.at[j], in[warp][3 * p + j], sum);
          result[warp][index] = sum;
        });
      });
      __syncwarp();
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int i = 0; i < 3; ++i) pixels[q][i] = result[warp][3 * (x + q) + i];
      store_pixels4(a.out, address_of(a.out, patch.n, y, left), mask, pixels);
    }
  }
}

__global__ void __launch_bounds__(kPatchThreads, 8) apply_patch_gradients_34(ApplyGradArgs a, Patches s) {
  __shared__ __align__(16) float in[kPatchWarps][3 * kPatchWidth], grad[kPatchWarps][3 * kPatchWidth];
  __shared__ float products[kPatchWarps][3 * 3 * kPatchWidth];  // A_ij·grad_i, [pixel][i][j]
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32, x = 4 * lane;
  // Those of pixels beyond the last column, where four pixels are not all there, are read, and not used.
  for (int e = lane; s.W % 4 != 0 && e < 9 * kPatchWidth; e += 32) products[warp][e] = 0.0f;
  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const Patch patch = patch_at(s, index);
    const int mask = pixel_mask(x, 0, patch.width);
    for (int row = warp; row < patch.height; row += kPatchWarps) {
      const int64_t y = patch.top + row, left = patch.left + x;
      float pixels[4][3], d[4][3];
      load_pixels4(a.image, address_of(a.image, patch.n, y, left), mask, pixels);
      load_pixels4(a.grad, address_of(a.grad, patch.n, y, left), mask, d);
      __syncwarp();  // the previous row's have been read
      store_staged(in[warp], x, pixels);
      store_staged(grad[warp], x, d);
      __syncwarp();
      if (a.d_coefficients.data)
        with_quads(a.d_coefficients, patch.n, y, patch.left, [&](auto to) {
          for_quads(patch.width, Three(), [&](int p, int i, int index) {
            const float g = grad[warp][index], *const pixel = in[warp] + 3 * p;
            to.store(p, i, {{g * pixel[0], g * pixel[1], g * pixel[2], g}});
          });
        });
      if (!a.d_image.data) continue;
      with_quads(a.coefficients, patch.n, y, patch.left, [&](auto matrices) {
        for_quads(patch.width, Three(), [&](int p, int i, int index) {
          const Vec4<float> m = matrices.load(p, i);
          const float g = grad[warp][index];
#pragma unroll
          for (int j = 0; j < 3; ++j) products[warp][3 * index + j] = m.at[j] * g;
        });
      });
      __syncwarp();
      if (mask == 0) continue;
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          const float* const of_pixel = products[warp] + 9 * (x + q) + j;
          d[q][j] = of_pixel[0] + of_pixel[3] + of_pixel[6];
        }
      store_pixels4(a.d_image, address_of(a.d_image, patch.n, y, left), mask, d);
    }
  }
}

// Whether there is a faster way
static bool is_34(const Tensor& coefficients, const Tensor& image) {
  return image.dtype != DType::f64 && image.shape[3] == 3 && coefficients.shape[3] == 3 && coefficients.shape[4] == 4;
}

namespace cuda {

void apply_forward(const ApplyArgs& a, Launch& to) {
  if (is_34(a.coefficients, a.image)) {
    const Patches patches = make_patches(a.out, rows_per_patch(a.out));
    return launch(to, apply_patches_34, patches.count, kPatchThreads, 0, a, patches);
  }
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const Scratch<T> scratch = make_scratch<T>(to, a.image.shape[3]);
    const Tiling tiles = make_tiling(a.out, scratch.width);
    launch(to, apply_tiles<T>, min_of(tiles.count, scratch.blocks), kTileWidth, scratch.shared(), a, tiles, scratch);
  });
}

void apply_backward(const ApplyGradArgs& a, Launch& to) {
  if (is_34(a.coefficients, a.image)) {
    const Patches patches = make_patches(a.grad, rows_per_patch(a.grad));
    return launch(to, apply_patch_gradients_34, patches.count, kPatchThreads, 0, a, patches);
  }
  with_compute_type(a.image.dtype, [&](auto t) {
    using T = decltype(t);
    const ApplyContributions contributions{a.grad, a.image, a.coefficients.shape[4]};
    const Tiling tiles = make_tiling(a.grad);
    launch(to, apply_gradients<T>, tiles.count, kTileWidth, 0, a, contributions, tiles);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
