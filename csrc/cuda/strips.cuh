// slice_apply's forward, and enhance, for HDRnet's matrices under a grid that is coarse beside the image.
//
// A block takes a strip of 128 pixels' width and some rows, and brings the cells around it to shared memory. Its warps
// take a row at a time: they interpolate those cells in y, once for all the row's pixels, and each thread then looks
// four pixels up between two columns and two depths of that table. A pixel costs twelve 128-bit reads of shared memory;
// cells at different depths of a column lie in different banks, as 12 and 32 have but 4 in common.
#pragma once

#include "guide.cuh"
#include "pixels.cuh"
#include "sampling.cuh"

namespace bilateral_ops {

constexpr int kStrip = 128, kStripWarps = 4, kStripThreads = 32 * kStripWarps, kMostStripRows = 64;
static_assert(kStripThreads == kStrip && kStripThreads >= kMostStripRows, "a thread locates a column, and a row");

struct Strips {
  int64_t across, down, count;  // per row, per column, of all images
  int rows;                     // of pixels in a strip
  int cell_rows, cell_columns;  // at most in shared memory
};

// Most grid rows (or columns) around `pixels` neighbouring pixels
inline int cells_of(const PixelAxis& axis, int pixels) {
  const double reach = (pixels - 1) * axis.step / axis.size + 3.0;
  return static_cast<int>(min_of(min_of(reach, axis.last + 1.0), 1e6));  // which no shared memory holds, either
}
inline size_t strip_bytes(const Lattice<float>& g, const Strips& s) {
  const size_t column = static_cast<size_t>(g.Gd) * kMatrix;
  return sizeof(float) * (2 * kStrip + 2 * kMostStripRows + s.cell_columns * column * (s.cell_rows + kStripWarps));
}
// The plan depends on the size of the whole image, as do the bytes that are read besides the pixels.
inline Strips make_strips(const Lattice<float>& g, const Sampling& at) {
  Strips s;
  s.rows = kMostStripRows;
  const auto blocks = [&] { return ceil_div(at.full_width, kStrip) * ceil_div(at.full_height, s.rows); };
  s.cell_columns = cells_of(g.x, kStrip);
  for (;; s.rows /= 2) {
    s.cell_rows = cells_of(g.y, s.rows);
    if (s.rows <= 8 || (blocks() * g.N >= 256 && strip_bytes(g, s) <= (36 << 10))) break;
  }
  s.across = ceil_div(g.W, kStrip);
  s.down = ceil_div(g.H, s.rows);
  s.count = g.N * s.across * s.down;
  return s;
}

// The guide of four pixels, from an array …
struct StripArray {
  Tensor guide;
  BO_INLINE_MEMBER size_t shared() const { return 0; }
  __device__ const float* begin(char*) const { return nullptr; }
  __device__ const char* pixel(int64_t n, int64_t y, int64_t x) const {
    return guide.data + n * guide.strides[0] + y * guide.strides[1] + x * guide.strides[2];
  }
  __device__ int64_t row() const { return guide.strides[1]; }
  __device__ void four(const float*, const char* from, int inside, const float (&)[4][3], float (&to)[4]) const {
    load_four(guide.dtype, from, guide.strides[2], inside, to);
  }
};
// … or computed as guide_value does for one, parameters being read once for the four.
template <GuideKind kKind>
struct StripGuide {
  Numbers<float> numbers;
  BO_INLINE_MEMBER size_t shared() const { return numbers.shared(); }
  __device__ const float* begin(char* memory) const { return numbers_of(numbers, memory); }
  __device__ const char* pixel(int64_t, int64_t, int64_t) const { return nullptr; }
  __device__ int64_t row() const { return 0; }
  __device__ void four(const float* values, const char*, int, const float (&in)[4][3], float (&to)[4]) const {
    const int K = static_cast<int>(numbers.shape.K);
    if (kKind == GuideKind::luma) {
#pragma unroll
      for (int q = 0; q < 4; ++q)
        to[q] = guide_value(kKind, values, 3, 0, [&](int64_t j) {
          return j == 0 ? in[q][0] : j == 1 ? in[q][1] : in[q][2];
        });
    } else if (kKind == GuideKind::curves) {
      const float *bias = values + 9, *shifts = bias + 3, *slopes = shifts + 3 * K, *mix = slopes + 3 * K;
#pragma unroll
      for (int q = 0; q < 4; ++q) to[q] = mix[3];
      for (int i = 0; i < 3; ++i) {
        float t[4], c[4];
        weigh(values + 3 * i, bias[i], in, t);
#pragma unroll
        for (int q = 0; q < 4; ++q) c[q] = 0.0f;
        for (int k = 0; k < K; ++k) {
          const float shift = shifts[i * K + k], slope = slopes[i * K + k];
#pragma unroll
          for (int q = 0; q < 4; ++q) c[q] = mul_add(slope, relu(t[q] - shift), c[q]);
        }
        const float weight = mix[i];
#pragma unroll
        for (int q = 0; q < 4; ++q) to[q] = mul_add(weight, c[q], to[q]);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const float raised = 0.0f > to[q] ? 0.0f : to[q];
        to[q] = raised > 1.0f ? 1.0f : raised;
      }
    } else {
      const float *bias = values + 3 * K, *w2 = bias + K;
#pragma unroll
      for (int q = 0; q < 4; ++q) to[q] = w2[K];
      for (int f = 0; f < K; ++f) {
        float h[4];
        weigh(values + 3 * f, bias[f], in, h);
        const float weight = w2[f];
#pragma unroll
        for (int q = 0; q < 4; ++q) to[q] = mul_add(weight, relu(h[q]), to[q]);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) to[q] = sigmoid(to[q]);
    }
  }

 private:
  static __device__ void weigh(const float* weights, float bias, const float (&in)[4][3], float (&to)[4]) {
    const float w[3] = {weights[0], weights[1], weights[2]};
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      to[q] = bias;
#pragma unroll
      for (int j = 0; j < 3; ++j) to[q] = mul_add(w[j], in[q][j], to[q]);
    }
  }
};

template <class Guide>
__global__ void __launch_bounds__(kStripThreads, 5)
    apply_strips(Guide guide, Sampling at, Tensor out, Tensor grid, Tensor image, Lattice<float> g, Strips s) {
  BO_DYNAMIC_SHARED(memory);
  const float* const numbers = guide.begin(memory);
  float* const column_t = reinterpret_cast<float*>(memory + guide.shared());
  int* const column_k = reinterpret_cast<int*>(column_t + kStrip);
  float* const row_t = reinterpret_cast<float*>(column_k + kStrip);
  int* const row_k = reinterpret_cast<int*>(row_t + kMostStripRows);
  float* const cells = reinterpret_cast<float*>(row_k + kMostStripRows);  // [row][column][z][12]
  const int depth = static_cast<int>(g.Gd), column = depth * kMatrix;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  float* const table = cells + column * s.cell_columns * (s.cell_rows + warp);

  for (int64_t index = blockIdx.x; index < s.count; index += gridDim.x) {
    const int64_t band = index / s.across, n = band / s.down;
    const int64_t left = (index - band * s.across) * kStrip, top = (band - n * s.down) * s.rows;
    const int width = static_cast<int>(min_of<int64_t>(kStrip, g.W - left));
    const int height = static_cast<int>(min_of<int64_t>(s.rows, g.H - top));
    // Threads past the end take the last column, so that they look no cell up that is not there.
    const Position<double> across = locate_pixel(left + min_of(t, width - 1) + g.left, g.x);
    column_k[t] = across.k;
    column_t[t] = static_cast<float>(across.t);
    if (t < height) {
      const Position<double> down = locate_pixel(top + t + g.top, g.y);
      row_k[t] = down.k;
      row_t[t] = static_cast<float>(down.t);
    }
    __syncthreads();
    const int first_row = row_k[0], first_column = column_k[0];
    const int rows = static_cast<int>(min_of<int64_t>(row_k[height - 1] + 2, g.Gh)) - first_row;
    const int columns = static_cast<int>(min_of<int64_t>(column_k[width - 1] + 2, g.Gw)) - first_column;
    for (int r = 0; r < rows; ++r)
      stage_cells(grid, n, first_row + r, first_column, columns, depth, cells + r * columns * column);
    __syncthreads();

    const int x = 4 * lane, inside = inside_of(x, 0, width);
    const int64_t y = top + warp;
    const char* from = image.data + n * image.strides[0] + y * image.strides[1] + (left + x) * image.strides[2];
    char* to = out.data + n * out.strides[0] + y * out.strides[1] + (left + x) * out.strides[2];
    const char* depths_from = guide.pixel(n, y, left + x);
    for (int row = warp; row < height; row += kStripWarps) {
      // The row's table: two rows of cells interpolated at the pixels' y, [column][z][12]
      const int below = row_k[row] - first_row, above = min_of(below + 1, rows - 1);
      const float ty = row_t[row];
      const Four<float>* const a = reinterpret_cast<const Four<float>*>(cells + below * columns * column);
      const Four<float>* const b = reinterpret_cast<const Four<float>*>(cells + above * columns * column);
      for (int e = lane; e < columns * column / 4; e += 32) {
        const Four<float> u = a[e], v = b[e];
        Four<float> between;
#pragma unroll
        for (int c = 0; c < 4; ++c) between.at[c] = lerp(u.at[c], v.at[c], ty);
        reinterpret_cast<Four<float>*>(table)[e] = between;
      }
      float pixels[4][3], depths[4];
      load_pixels(image.dtype, from, image.strides[2], image.strides[3], inside, pixels);
      guide.four(numbers, depths_from, inside, pixels, depths);
      __syncwarp();
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const Position<float> z = locate(depths[q], g.z);
        const int at_column = column_k[x + q] - first_column;
        const float tx = column_t[x + q];
        const Four<float>* const lower =
            reinterpret_cast<const Four<float>*>(table + at_column * column + z.k * kMatrix);
        const int right = at_column + 1 < columns ? column / 4 : 0, up = z.k + 1 < depth ? kMatrix / 4 : 0;
        float result[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          const Four<float> v00 = lower[i], v01 = lower[i + right], v10 = lower[i + up], v11 = lower[i + up + right];
          float m[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) m[j] = lerp(lerp(v00.at[j], v01.at[j], tx), lerp(v10.at[j], v11.at[j], tx), z.t);
          result[i] = m[3];
#pragma unroll
          for (int j = 0; j < 3; ++j) result[i] = mul_add(m[j], pixels[q][j], result[i]);
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) pixels[q][i] = result[i];
      }
      store_pixels(out.dtype, to, out.strides[2], out.strides[3], inside, pixels);
      from += kStripWarps * image.strides[1];
      to += kStripWarps * out.strides[1];
      depths_from += kStripWarps * guide.row();
      __syncwarp();
    }
    __syncthreads();
  }
}

// Whether strips are what a call is made of; then it is launched.
template <class Guide>
bool launch_strips(Launch& to, const Guide& guide, const Sampling& at, const Tensor& out, const Tensor& grid,
                   const Tensor& image) {
  const Lattice<float> g = make_lattice<float>(at, grid, out);
  const Strips s = make_strips(g, at);
  const size_t shared = guide.shared() + strip_bytes(g, s);
  if (shared > kSharedBytes) return false;
  launch(to, apply_strips<Guide>, s.count, kStripThreads, shared, guide, at, out, grid, image, g, s);
  return true;
}

}  // namespace bilateral_ops
