// slice_apply's backward for HDRnet's matrices under a grid that is coarse beside the image: all gradients in one pass.
//
// A block takes a slice of a rectangle (splatting.cuh) and brings the four columns of cells around it to shared memory.
// Each thread of a warp computes the gradients of four neighbouring pixels, and leaves in shared memory what these
// contribute to the grid's: position, image, incoming gradient. Then the warp adds that up, row for row of pixels. The
// sum over a row, for both columns, all depths and channels, is a matrix product,
//
//   Σ_p weight(p, side, z) · grad_i(p) · in_j(p),   weight = τ(pz − z)·(1 − tx or tx)
//
// and a thread keeps those of its own depth and j in registers. In y weighted with 1 − ty and ty they are added up over
// some rows of pixels; then, in double, over the warps and all other rows.
#pragma once

#include "pixels.cuh"
#include "splatting.cuh"

namespace bilateral_ops {

constexpr int kRectangleWarps = 4, kRectangleThreads = 32 * kRectangleWarps;
// What warps leave for the sums is in planes of 128 pixels, apart so that threads of different j read different banks.
constexpr int kPlane = 128 + 4, kPlanes = 10;
enum PlaneOf { kIn = 0, kOne = 3, kGrad = 4, kDepth = 7, kAcross = 8, kDown = 9 };
constexpr int64_t kRound = 16;  // times that a warp adds in float before it does in double

inline size_t rectangle_bytes(int64_t depth) {
  const size_t cells = 4 * static_cast<size_t>(depth) * kMatrix;
  return cells * (sizeof(float) + sizeof(double)) + kRectangleWarps * kPlanes * kPlane * sizeof(float);
}

// kDepths: depths a thread adds up, 8 apart.
template <int kDepths>
__global__ void __launch_bounds__(kRectangleThreads, kDepths == 1 ? 4 : 3)
    rectangle_gradients(SliceApplyGradArgs a, Lattice<float> g, Parts parts, double* all) {
  BO_DYNAMIC_SHARED(memory);
  __shared__ int64_t bounds[4];
  const int depth = static_cast<int>(g.Gd), column = depth * kMatrix;
  float* const cells = reinterpret_cast<float*>(memory);  // [row][column][z][12]
  double* const totals = reinterpret_cast<double*>(cells + 4 * column);
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  float* const planes = reinterpret_cast<float*>(totals + 4 * column) + warp * kPlanes * kPlane;
  const int own_z = lane / 4, own_j = lane % 4;

  const int64_t units = g.N * parts.rectangles * parts.slices;
  for (int64_t part = blockIdx.x; part < units; part += gridDim.x) {
    const int64_t corner = part / parts.slices, slice = part - corner * parts.slices;
    const int64_t n = corner / parts.rectangles, rectangle = corner - n * parts.rectangles;
    const int64_t row = rectangle / parts.across, ky = parts.top + row;
    const int64_t kx = parts.left + rectangle - row * parts.across;
    if (t < 4) {
      const bool x = t & 1;
      bounds[t] = first_pixel(x ? g.x : g.y, x ? g.left : g.top, x ? g.W : g.H, (x ? kx : ky) + (t >> 1));
    }
    const int64_t right_column = min_of(kx + 1, g.Gw - 1), upper_row = min_of(ky + 1, g.Gh - 1);
    for (int corner_of = 0; corner_of < 4; ++corner_of)
      stage_cells(a.grid, n, corner_of & 2 ? upper_row : ky, corner_of & 1 ? right_column : kx, 1, depth,
                  cells + corner_of * column);
    for (int e = t; e < 4 * column; e += kRectangleThreads) totals[e] = 0.0;
    __syncthreads();
    const int64_t left = bounds[1], right = bounds[3], height = bounds[2] - bounds[0];
    const int64_t top = bounds[0] + height * slice / parts.slices;
    const int64_t bottom = bounds[0] + height * (slice + 1) / parts.slices;

    // Groups of four pixels that begin at multiples of four. An item is what a warp works on at a time, a group a
    // thread: some rows, or a part of one.
    const int64_t first = left / 4, groups = right > left ? ceil_div(right, 4) - first : 0;
    const int per_row = static_cast<int>(min_of<int64_t>(groups, 32));
    const int rows = per_row ? 32 / per_row : 1;
    const int64_t turns = per_row ? ceil_div(groups, 32) : 0, items = ceil_div(bottom - top, rows);
    const int row_of = per_row ? lane / per_row : 0, group_of = lane - row_of * per_row;
    const auto own = [&](int p) -> Four<float>& {
      return *reinterpret_cast<Four<float>*>(planes + p * kPlane + 4 * lane);
    };
    own(kOne) = {{1.0f, 1.0f, 1.0f, 1.0f}};

    for (int64_t round = 0; round < turns * ceil_div(items, kRound * kRectangleWarps); ++round) {
      const int64_t turn = round % turns, begin = round / turns * (kRound * kRectangleWarps);
      const int64_t end = min_of(bottom, top + (begin + kRound * kRectangleWarps) * rows);
      const int64_t group = turn * 32 + group_of, x = 4 * (first + group);
      const int count = static_cast<int>(min_of<int64_t>(per_row, groups - turn * 32));
      // This thread's pixels: those it works on, and those it reads: whole groups, unless another block may be writing
      // over the others.
      const int ours = row_of < rows && group < groups ? inside_of(x, left, right) : 0;
      const int near = ours && x + 4 <= g.W && a.d_image.data != a.image.data ? 15 : ours;
      __syncwarp();
      Four<float> tx;
#pragma unroll
      for (int q = 0; q < 4; ++q) tx.at[q] = static_cast<float>(locate_pixel(x + q + g.left, g.x).t);
      own(kAcross) = tx;
      float sums[2][kDepths][2][3] = {};  // [row][depth][column][i] of cells, of this thread's z and j
      for (int64_t row_y = top + (begin + warp) * rows; row_y < end; row_y += kRectangleWarps * rows) {
        const int64_t y = row_y + row_of;
        const int inside = y < end ? ours : 0, readable = y < end ? near : 0;
        float in[4][3], grad[4][3], depths[4];
        load_pixels(a.image.dtype,
                    a.image.data + n * a.image.strides[0] + y * a.image.strides[1] + x * a.image.strides[2],
                    a.image.strides[2], a.image.strides[3], readable, in);
        load_pixels(a.grad.dtype, a.grad.data + n * a.grad.strides[0] + y * a.grad.strides[1] + x * a.grad.strides[2],
                    a.grad.strides[2], a.grad.strides[3], readable, grad);
        const Tensor& guide = a.at.guide;
        load_four(guide.dtype, guide.data + n * guide.strides[0] + y * guide.strides[1] + x * guide.strides[2],
                  guide.strides[2], readable, depths);
        const float ty = static_cast<float>(locate_pixel(y + g.top, g.y).t);
        __syncwarp();  // the planes of the rows before have been read
        planes[kDown * kPlane + lane] = ty;
#pragma unroll
        for (int c = 0; c < 3; ++c) {
          Four<float> of_in, of_grad;
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            of_in.at[q] = inside >> q & 1 ? in[q][c] : 0.0f;
            of_grad.at[q] = inside >> q & 1 ? grad[q][c] : 0.0f;
          }
          own(kIn + c) = of_in;
          own(kGrad + c) = of_grad;
        }
        Four<float> at_depth;
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const Position<float> z = locate(depths[q], g.z);
          at_depth.at[q] = inside >> q & 1 ? static_cast<float>(z.k) + z.t : 0.0f;
          if (!a.d_guide.data && !a.d_image.data) continue;
          const float* const lowest = cells + z.k * kMatrix;
          const int up = z.k + 1 < depth ? kMatrix : 0;
          float slope = 0.0f, d_in[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
          for (int i = 0; i < 3; ++i) {
            // [column][depth], interpolated in y
            Four<float> v[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              const float* const cell = lowest + (k >> 1) * column + (k & 1) * up + 4 * i;
              const Four<float> below = *reinterpret_cast<const Four<float>*>(cell);
              const Four<float> above = *reinterpret_cast<const Four<float>*>(cell + 2 * column);
#pragma unroll
              for (int j = 0; j < 4; ++j) v[k].at[j] = lerp(below.at[j], above.at[j], ty);
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const float lower = lerp(v[0].at[j], v[2].at[j], tx.at[q]),
                          upper = lerp(v[1].at[j], v[3].at[j], tx.at[q]);
              const float d = j < 3 ? grad[q][i] * in[q][j < 3 ? j : 0] : grad[q][i];
              slope = mul_add(d, upper - lower, slope);
              if (j < 3) d_in[j < 3 ? j : 0] = mul_add(lerp(lower, upper, z.t), grad[q][i], d_in[j < 3 ? j : 0]);
            }
          }
          depths[q] = slope * z.slope;
#pragma unroll
          for (int j = 0; j < 3; ++j) in[q][j] = d_in[j];
        }
        if (a.d_guide.data)
          store_four(a.d_guide.dtype,
                     a.d_guide.data + n * a.d_guide.strides[0] + y * a.d_guide.strides[1] + x * a.d_guide.strides[2],
                     a.d_guide.strides[2], inside, depths);
        if (a.d_image.data)
          store_pixels(a.d_image.dtype,
                       a.d_image.data + n * a.d_image.strides[0] + y * a.d_image.strides[1] + x * a.d_image.strides[2],
                       a.d_image.strides[2], a.d_image.strides[3], inside, in);
        if (!a.d_grid.data) continue;
        own(kDepth) = at_depth;
        __syncwarp();

        const int here = static_cast<int>(min_of<int64_t>(rows, end - row_y));
        for (int row = 0; row < here; ++row) {
          float row_sums[kDepths][2][3] = {};
          const float* const from = planes + 4 * row * per_row;
          for (int e = 0; e < 4 * count; e += 4) {
            const auto plane = [&](int p) { return *reinterpret_cast<const Four<float>*>(from + p * kPlane + e); };
            const Four<float> pz = plane(kDepth), across = plane(kAcross), times = plane(kIn + own_j);
            const Four<float> d[3] = {plane(kGrad), plane(kGrad + 1), plane(kGrad + 2)};
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
                sums[0][k][side][i] = mul_add(of_lower, row_sums[k][side][i], sums[0][k][side][i]);
                sums[1][k][side][i] = mul_add(of_upper, row_sums[k][side][i], sums[1][k][side][i]);
              }
        }
      }
      if (!a.d_grid.data) continue;
      for (int turn_of = 0; turn_of < kRectangleWarps; ++turn_of) {
        if (warp == turn_of) {
#pragma unroll
          for (int e = 0; e < 12 * kDepths; ++e) {
            const int row = e / (6 * kDepths), k = e / 6 % kDepths, side = e / 3 % 2, i = e % 3;
            const int z = own_z + 8 * k;
            if (z < depth)
              totals[((row * 2 + side) * depth + z) * kMatrix + i * 4 + own_j] +=
                  static_cast<double>(sums[row][k][side][i]);
          }
        }
        __syncthreads();
      }
    }
    if (a.d_grid.data)
      for (int e = t; e < 4 * column; e += kRectangleThreads) all[part * parts.size + e] = totals[e];
    __syncthreads();
  }
}

inline void launch_rectangles(Launch& to, const SliceApplyGradArgs& a) {
  const Lattice<float> g = make_lattice<float>(a.at, a.grid, a.grad);
  const Parts parts = make_parts(g, false);
  const int64_t units = g.N * parts.rectangles * parts.slices;
  double* const all = a.d_grid.data && units ? workspace<double>(to, units * parts.size) : nullptr;
  launch(to, g.Gd <= 8 ? rectangle_gradients<1> : rectangle_gradients<2>, units, kRectangleThreads,
         rectangle_bytes(g.Gd), a, g, parts, all);
  if (a.d_grid.data) add_all_parts<float>(to, g, parts, all, a.d_grid);
}

}  // namespace bilateral_ops
