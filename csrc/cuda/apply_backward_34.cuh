// slice_apply's gradients for 3 × 4 matrices under a grid that is coarse beside the image, all in one pass.
//
// A thread block takes a band of a rectangle (splatter.cuh) and loads the four columns of cells around it into shared
// memory. Each thread computes the gradients of four neighbouring pixels, and leaves what they contribute to d_grid in
// shared memory: their positions, image and grad. Then the warp sums these contributions, one row of pixels after
// another. For both columns of cells (`side`), all depths z and all elements (i, j), the sum over a row is a matrix
// product,
//
//   Σ_p weight(p, side, z)·grad_i(p)·in_j(p),   weight = τ(pz − z)·(1 − tx for the left side, tx for the right one)
//
// of which each thread keeps those of its own z and j in registers. They are weighted by 1 − ty and ty and summed over
// some rows in float, then, in double, over all warps and the other rows.
#pragma once

#include "matrix34.cuh"
#include "splatter.cuh"

namespace bilateral_ops {

constexpr int kBackwardWarps = 4, kBackwardThreads = 32 * kBackwardWarps;
// What each warp leaves for the sums: planes of 128 pixels, padded so that threads of different j read different banks.
constexpr int kPlane = 128 + 4, kPlanes = 10;
enum PlaneOf { kIn = 0, kOne = 3, kGrad = 4, kDepth = 7, kAcross = 8, kDown = 9 };
constexpr int64_t kFloatRows = 16;  // sums in float of each warp, before they are added to those in double

inline size_t backward_bytes(int64_t depth) {
  const size_t cells = 4 * static_cast<size_t>(depth) * kMatrixSize;
  return cells * (sizeof(float) + sizeof(double)) + kBackwardWarps * kPlanes * kPlane * sizeof(float);
}

// kDepths: how many depths each thread sums, 8 apart
template <int kDepths>
__global__ void __launch_bounds__(kBackwardThreads, kDepths == 1 ? 4 : 3)
    apply_backward_34(SliceApplyGradArgs a, Lattice<float> g, BandPlan plan, double* all) {
  BO_DYNAMIC_SHARED(memory);
  __shared__ int64_t bounds[4];  // top, left, bottom and right of the rectangle's pixels
  const int depth = static_cast<int>(g.Gd), column = depth * kMatrixSize;
  float* const cells = reinterpret_cast<float*>(memory);  // [row][column][z][12]
  double* const sums = reinterpret_cast<double*>(cells + 4 * column);
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  float* const planes = reinterpret_cast<float*>(sums + 4 * column) + warp * kPlanes * kPlane;
  const int own_z = lane / 4, own_j = lane % 4;

  const int64_t units = g.N * plan.rectangles * plan.bands;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const Band at = band_at(plan, unit);
    if (t < 4) bounds[t] = bound_of(g, at, t);
    const int64_t right_column = min_of(at.kx + 1, g.Gw - 1), upper_row = min_of(at.ky + 1, g.Gh - 1);
    for (int c = 0; c < 4; ++c)
      load_cells(a.grid, at.n, c & 2 ? upper_row : at.ky, c & 1 ? right_column : at.kx, 1, depth, MatrixSize(),
                 cells + c * column);
    for (int e = t; e < 4 * column; e += kBackwardThreads) sums[e] = 0.0;
    __syncthreads();
    const int64_t left = bounds[1], right = bounds[3], height = bounds[2] - bounds[0];
    const int64_t top = bounds[0] + height * at.band / plan.bands;
    const int64_t bottom = bounds[0] + height * (at.band + 1) / plan.bands;

    // A group is four pixels whose first index is a multiple of four, one per thread. A warp takes `rows` rows at a
    // time if they have up to 32 groups, else one row in `turns` parts of 32 groups.
    const int64_t first = left / 4, groups = right > left ? ceil_div(right, 4) - first : 0;
    const int per_row = static_cast<int>(min_of<int64_t>(groups, 32));
    const int rows = per_row ? 32 / per_row : 1;
    const int64_t turns = per_row ? ceil_div(groups, 32) : 0, items = ceil_div(bottom - top, rows);
    const int row_of = per_row ? lane / per_row : 0, group_of = lane - row_of * per_row;
    const auto own = [&](int p) -> Vec4<float>& {
      return *reinterpret_cast<Vec4<float>*>(planes + p * kPlane + 4 * lane);
    };
    own(kOne) = {{1.0f, 1.0f, 1.0f, 1.0f}};

    for (int64_t round = 0; round < turns * ceil_div(items, kFloatRows * kBackwardWarps); ++round) {
      const int64_t turn = round % turns, begin = round / turns * (kFloatRows * kBackwardWarps);
      const int64_t end = min_of(bottom, top + (begin + kFloatRows * kBackwardWarps) * rows);
      const int64_t group = turn * 32 + group_of, x = 4 * (first + group);
      const int count = static_cast<int>(min_of<int64_t>(per_row, groups - turn * 32));
      // The pixels that this thread computes, and those that it loads: the whole group, as vectors, unless another
      // thread block may be writing d_image over its other pixels.
      const int ours = row_of < rows && group < groups ? pixel_mask(x, left, right) : 0;
      const int near = ours && x + 4 <= g.W && a.d_image.data != a.image.data ? kAllPixels : ours;
      __syncwarp();
      Vec4<float> tx;
#pragma unroll
      for (int q = 0; q < 4; ++q) tx.at[q] = static_cast<float>(locate_pixel(x + q + g.left, g.x).t);
      own(kAcross) = tx;
      float float_sums[2][kDepths][2][3] = {};  // [row][depth][side][i], for this thread's z and j
      for (int64_t row_y = top + (begin + warp) * rows; row_y < end; row_y += kBackwardWarps * rows) {
        const int64_t y = row_y + row_of;
        const int mask = y < end ? ours : 0, load_mask = y < end ? near : 0;
        float in[4][3], grad[4][3];
        Vec4<float> depths;
        load_pixels4(a.image.dtype, address_of(a.image, at.n, y, x), a.image.strides[2], a.image.strides[3], load_mask,
                     in);
        load_pixels4(a.grad.dtype, address_of(a.grad, at.n, y, x), a.grad.strides[2], a.grad.strides[3], load_mask,
                     grad);
        const Tensor& guide = a.at.guide;
        load_plane4(guide.dtype, address_of(guide, at.n, y, x), guide.strides[2], load_mask, depths);
        const float ty = static_cast<float>(locate_pixel(y + g.top, g.y).t);
        __syncwarp();  // the planes of the previous rows have been read
        planes[kDown * kPlane + lane] = ty;
#pragma unroll
        for (int c = 0; c < 3; ++c) {
          Vec4<float> of_in, of_grad;
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            of_in.at[q] = mask >> q & 1 ? in[q][c] : 0.0f;
            of_grad.at[q] = mask >> q & 1 ? grad[q][c] : 0.0f;
          }
          own(kIn + c) = of_in;
          own(kGrad + c) = of_grad;
        }
        Vec4<float> at_depth;
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const Position<float> z = locate(depths.at[q], g.z);
          at_depth.at[q] = mask >> q & 1 ? static_cast<float>(z.k) + z.t : 0.0f;
          if (!a.d_guide.data && !a.d_image.data) continue;
          const float* const lowest = cells + z.k * kMatrixSize;
          const int up = z.k + 1 < depth ? kMatrixSize : 0;
          float slope = 0.0f, d_in[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
          for (int i = 0; i < 3; ++i) {
            Vec4<float> v[4];  // interpolated in y, [side][depth]
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              const float* const cell = lowest + (k >> 1) * column + (k & 1) * up + 4 * i;
              v[k] = lerp(*reinterpret_cast<const Vec4<float>*>(cell),
                          *reinterpret_cast<const Vec4<float>*>(cell + 2 * column), ty);
            }
            const Vec4<float> lower_row = lerp(v[0], v[2], tx.at[q]), upper_row = lerp(v[1], v[3], tx.at[q]);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const float lower = lower_row.at[j], upper = upper_row.at[j];
              const float d = j < 3 ? grad[q][i] * in[q][j < 3 ? j : 0] : grad[q][i];
              slope = mul_add(d, upper - lower, slope);
              if (j < 3) d_in[j < 3 ? j : 0] = mul_add(lerp(lower, upper, z.t), grad[q][i], d_in[j < 3 ? j : 0]);
            }
          }
          depths.at[q] = slope * z.slope;
#pragma unroll
          for (int j = 0; j < 3; ++j) in[q][j] = d_in[j];
        }
        if (a.d_guide.data)
          store_plane4(a.d_guide.dtype, address_of(a.d_guide, at.n, y, x), a.d_guide.strides[2], mask, depths);
        if (a.d_image.data)
          store_pixels4(a.d_image.dtype, address_of(a.d_image, at.n, y, x), a.d_image.strides[2], a.d_image.strides[3],
                        mask, in);
        if (!a.d_grid.data) continue;
        own(kDepth) = at_depth;
        __syncwarp();

        const int here = static_cast<int>(min_of<int64_t>(rows, end - row_y));
        for (int row = 0; row < here; ++row) {
          float row_sums[kDepths][2][3] = {};
          const float* const from = planes + 4 * row * per_row;
          for (int e = 0; e < 4 * count; e += 4) {
            const auto plane = [&](int p) { return *reinterpret_cast<const Vec4<float>*>(from + p * kPlane + e); };
            const Vec4<float> pz = plane(kDepth), across = plane(kAcross), times = plane(kIn + own_j);
            const Vec4<float> d[3] = {plane(kGrad), plane(kGrad + 1), plane(kGrad + 2)};
#pragma unroll
            for (int q = 0; q < 4; ++q)
#pragma unroll
              for (int k = 0; k < kDepths; ++k) {
                const float distance = pz.at[q] - static_cast<float>(own_z + 8 * k);
                const float weight = relu(1.0f - fabsf(distance)) * times.at[q];
                const float w[2] = {weight - weight * across.at[q], weight * across.at[q]};
#pragma unroll
                for (int side = 0; side < 2; ++side)
#pragma unroll
                  for (int i = 0; i < 3; ++i) row_sums[k][side][i] = mul_add(w[side], d[i].at[q], row_sums[k][side][i]);
              }
          }
          const float of_upper = planes[kDown * kPlane + row * per_row], of_lower = 1.0f - of_upper;
#pragma unroll
          for (int k = 0; k < kDepths; ++k)
#pragma unroll
            for (int side = 0; side < 2; ++side)
#pragma unroll
              for (int i = 0; i < 3; ++i) {
                float_sums[0][k][side][i] = mul_add(of_lower, row_sums[k][side][i], float_sums[0][k][side][i]);
                float_sums[1][k][side][i] = mul_add(of_upper, row_sums[k][side][i], float_sums[1][k][side][i]);
              }
        }
      }
      if (!a.d_grid.data) continue;
      for (int adding = 0; adding < kBackwardWarps; ++adding) {  // one warp after another
        if (warp == adding) {
#pragma unroll
          for (int e = 0; e < 12 * kDepths; ++e) {
            const int row = e / (6 * kDepths), k = e / 6 % kDepths, side = e / 3 % 2, i = e % 3;
            const int z = own_z + 8 * k;
            if (z < depth)
              sums[((row * 2 + side) * depth + z) * kMatrixSize + i * 4 + own_j] +=
                  static_cast<double>(float_sums[row][k][side][i]);
          }
        }
        __syncthreads();
      }
    }
    if (a.d_grid.data)
      for (int e = t; e < 4 * column; e += kBackwardThreads) all[unit * plan.size + e] = sums[e];
    __syncthreads();
  }
}

inline void launch_apply_backward_34(Launch& to, const SliceApplyGradArgs& a) {
  const Lattice<float> g = make_lattice<float>(a.at, a.grid, a.grad);
  const BandPlan plan = plan_bands(g, false);
  const int64_t bands = g.N * plan.rectangles * plan.bands;
  double* const all = a.d_grid.data && bands ? workspace<double>(to, bands * plan.size) : nullptr;
  launch(to, g.Gd <= 8 ? apply_backward_34<1> : apply_backward_34<2>, bands, kBackwardThreads, backward_bytes(g.Gd), a,
         g, plan, all);
  if (a.d_grid.data) launch_add_bands<float>(to, g, plan, all, a.d_grid);
}

}  // namespace bilateral_ops
