// Gradients under a grid that is coarse beside the image, all in one pass: those of slice_apply for 3 × 4 matrices
// (ApplyWork), and those of slice and splat (SliceWork).
//
// A thread block takes a band of a rectangle (splatter.cuh) and loads the four columns of cells around it into shared
// memory. Each thread computes the gradients of four neighbouring pixels, and leaves what they contribute to d_grid in
// planes of shared memory. Then the warp sums these contributions, one row of pixels after another. For both columns of
// cells (`side`), all depths z and all channels c, the sum over a row is a matrix product,
//
//   Σ_p weight_z(p)·(1 − tx(p) for the left side, tx(p) for the right one)·contribution_c(p),  weight_z = τ(pz − z)
//
// of which each thread keeps those of its own z and of the channels c = 4·i + j for its own j in registers. They are
// weighted by 1 − ty and ty and summed over some rows in float, then, in double, over all warps and the other rows.
//
// A work, ApplyWork or SliceWork, says what a pixel's data, contributions and own gradients are.
#pragma once

#include "matrix34.cuh"
#include "splatter.cuh"

namespace bilateral_ops {

// Planes of 128 pixels, padded so that threads that read different ones read different banks
constexpr int kPlane = 128 + 4;
constexpr int kBandWarps = 2;       // few, so that each has several rows of a band
constexpr int64_t kFloatRows = 16;  // sums in float of each warp, before they are added to those in double
constexpr int kRowGrids = 2;        // rows of pixels of a warp for which the cells are interpolated in y beforehand

// The fraction t of pixels in one direction of a rectangle: locate_pixel() for a cell that is known
struct PixelFraction {
  double step, begin, inverse;  // t = (i·step + begin)·inverse
  __device__ float operator()(int64_t i) const {
    return static_cast<float>(mul_add(static_cast<double>(i), step, begin) * inverse);
  }
};
BO_DEVICE PixelFraction fraction_in(const PixelAxis& axis, int64_t k, int64_t first) {
  if (k < 0 || static_cast<double>(k) >= axis.last) return {0.0, 0.0, 0.0};
  return {axis.step, static_cast<double>(first) * axis.step + axis.offset - static_cast<double>(k) * axis.size,
          axis.inverse};
}

// The cells around a pixel of a band: interpolated in y beforehand (upper is 0), or now
struct BandCells {
  const Vec4<float>* lowest;
  int right, up, upper;  // distances to the next cells in x, z and y
  float tx, ty;
  Position<float> z;

  // Elements 4·i … 4·i + 3 of the cell at side (k & 2) and depth (k & 1)
  template <bool kRowGrid>
  __device__ Vec4<float> at(int k, int i) const {
    const Vec4<float>* const p = lowest + (k & 2 ? right : 0) + (k & 1 ? up : 0) + i;
    return kRowGrid ? *p : lerp(p[0], p[upper], ty);
  }
};

// slice_apply's gradients: contribution_4i+j = grad_i·in_j, with in_3 = 1
template <int kDepthsOf, bool kRowGridOf>
struct ApplyWork {
  static constexpr int kDepths = kDepthsOf, kTerms = 3;
  static constexpr bool kRowGrid = kRowGridOf;
  SliceApplyGradArgs a;

  struct Pixels {
    float in[4][3], grad[4][3];
    __device__ void clear(int q) {
#pragma unroll
      for (int c = 0; c < 3; ++c) in[q][c] = grad[q][c] = 0.0f;
    }
  };
  BO_INLINE_MEMBER bool wants_own() const { return a.d_guide.data || a.d_image.data; }
  BO_INLINE_MEMBER bool wants_grid() const { return a.d_grid.data; }
  // Whether no thread block may load pixels of another, which may have written over them
  __device__ bool in_place() const { return a.d_image.data == a.image.data; }

  __device__ void load(int64_t n, int64_t y, int64_t x, int mask, Pixels& v) const {
    load_pixels4(a.image, address_of(a.image, n, y, x), mask, v.in);
    load_pixels4(a.grad, address_of(a.grad, n, y, x), mask, v.grad);
  }
  // Puts the contributions of channel c into plane c.
  template <class Put>
  __device__ void leave(int64_t, int64_t, int64_t, int64_t, int, const Pixels& v, const Put& put) const {
#pragma unroll
    for (int c = 0; c < 12; ++c) {
      const int i = c / 4, j = c % 4;
      Vec4<float> product;
#pragma unroll
      for (int q = 0; q < 4; ++q) product.at[q] = j < 3 ? v.grad[q][i] * v.in[q][j] : v.grad[q][i];
      put(c, product);
    }
  }
  // Replaces pixel q's `in` by d_image, and returns the slope of its value in z. The sums over i come before the
  // interpolation, which is linear.
  template <class Plane>
  __device__ float own(const BandCells& cells, int q, const Plane&, Pixels& v) const {
    Vec4<float> sums[4];  // Σ_i grad_i·cell_i of the cells
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        const Vec4<float> cell = cells.template at<kRowGrid>(k, i);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sums[k].at[j] = i == 0 ? v.grad[q][0] * cell.at[j] : mul_add(v.grad[q][i], cell.at[j], sums[k].at[j]);
      }
    }
    const Vec4<float> lower = lerp(sums[0], sums[2], cells.tx), upper = lerp(sums[1], sums[3], cells.tx);
    float slope = upper.at[3] - lower.at[3];
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      const float step = upper.at[j] - lower.at[j];
      slope = mul_add(step, v.in[q][j], slope);
      v.in[q][j] = mul_add(cells.z.t, step, lower.at[j]);
    }
    return slope;
  }
  __device__ void store(int64_t n, int64_t y, int64_t x, int mask, const Pixels& v) const {
    if (a.d_image.data) store_pixels4(a.d_image, address_of(a.d_image, n, y, x), mask, v.in);
  }
};

// The gradients of slice, for up to 4·kTerms channels at a time: contribution_c = grad_c
template <int kDepthsOf, int kTermsOf>
struct SliceWork {
  static constexpr int kDepths = kDepthsOf, kTerms = kTermsOf;
  static constexpr bool kRowGrid = false;
  struct Args {
    Sampling at;
    Tensor d_grid, d_guide, grid, grad;
  } a;

  struct Pixels {
    __device__ void clear(int) {}
  };
  BO_INLINE_MEMBER bool wants_own() const { return a.d_guide.data; }
  BO_INLINE_MEMBER bool wants_grid() const { return a.d_grid.data; }
  __device__ bool in_place() const { return false; }

  // Twelve channels of four pixels would be too many registers: they are loaded when they are left.
  __device__ void load(int64_t, int64_t, int64_t, int, Pixels&) const {}
  template <class Put>
  __device__ void leave(int64_t n, int64_t y, int64_t x, int64_t first_channel, int mask, const Pixels&,
                        const Put& put) const {
    const int first = static_cast<int>(first_channel / 4), quads = static_cast<int>(ceil_div(channels(), 4));
    with_quads(a.grad, n, y, x, [&](auto from) {
#pragma unroll 1  // fewer registers
      for (int i = 0; i < kTerms; ++i) {
        Vec4<float> v[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          v[q] = {{0.0f, 0.0f, 0.0f, 0.0f}};
          if (mask >> q & 1 && first + i < quads) v[q] = from.load(q, first + i);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) put(4 * i + j, {{v[0].at[j], v[1].at[j], v[2].at[j], v[3].at[j]}});
      }
    });
  }
  template <class Plane>
  __device__ float own(const BandCells& cells, int, const Plane& plane, const Pixels&) const {
    float slope = 0.0f;
#pragma unroll
    for (int i = 0; i < kTerms; ++i) {
      const Vec4<float> lower = lerp(cells.at<kRowGrid>(0, i), cells.at<kRowGrid>(2, i), cells.tx),
                        upper = lerp(cells.at<kRowGrid>(1, i), cells.at<kRowGrid>(3, i), cells.tx);
#pragma unroll
      for (int j = 0; j < 4; ++j) slope = mul_add(plane(4 * i + j), upper.at[j] - lower.at[j], slope);
    }
    return slope;
  }
  __device__ void store(int64_t, int64_t, int64_t, int, const Pixels&) const {}

 private:
  __device__ int64_t channels() const { return a.grad.shape[3] * a.grad.shape[4]; }
};

// The shared memory of a thread block: the totals of its sums; cells, [row][column][z][channel]; and for each warp
// planes, the fractions ty of its rows, and row grids. The planes are those of weights, tx, and the work's data; the
// sums of warps take their place when they are added.
template <class Work>
struct BandMemory {
  static constexpr int kAcross = 8 * Work::kDepths, kFirstData = kAcross + 1, kCell = 4 * Work::kTerms;
  static constexpr int kPlaneFloats = (kFirstData + kCell) * kPlane, kSums = 4 * 8 * Work::kDepths * kCell;
  static_assert(kSums <= kPlaneFloats, "the sums take the place of planes");
  static BO_INLINE_MEMBER int row_grid_floats(int depth) { return 2 * depth * kCell; }
  static BO_INLINE_MEMBER int warp_floats(int depth) {
    return kPlaneFloats + 32 + (Work::kRowGrid ? kRowGrids * row_grid_floats(depth) : 0);
  }
  static size_t bytes(int64_t depth) {
    const int z = static_cast<int>(depth);
    return sizeof(double) * kSums +
           sizeof(float) * static_cast<size_t>(2 * row_grid_floats(z) + kBandWarps * warp_floats(z));
  }
};

// A unit sums kCell of the channels of a band, from first_channel on.
template <class Work>
__global__ void __launch_bounds__(32 * kBandWarps, 6)
    band_gradients(Work work, Lattice<float> g, BandPlan plan, double* all) {
  using Memory = BandMemory<Work>;
  constexpr int kDepths = Work::kDepths, kWarps = kBandWarps, kThreads = 32 * kWarps, kTerms = Work::kTerms;
  constexpr int kCell = Memory::kCell, kAcross = Memory::kAcross, kFirstData = Memory::kFirstData;
  BO_DYNAMIC_SHARED(memory);
  __shared__ int64_t bounds[4];  // top, left, bottom and right of the rectangle's pixels
  const int depth = static_cast<int>(g.Gd), column = depth * kCell;
  double* const totals = reinterpret_cast<double*>(memory);
  float* const cells = reinterpret_cast<float*>(totals + Memory::kSums);
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32, own_z = lane / 4, own_j = lane % 4;
  float* const all_planes = cells + 4 * column;
  float* const planes = all_planes + warp * Memory::warp_floats(depth);
  float* const down = planes + Memory::kPlaneFloats;  // ty of the row of each lane's pixels
  float* const row_grids = down + 32;
  // This thread's four pixels in plane p
  const auto own = [&](int p) -> Vec4<float>& {
    return *reinterpret_cast<Vec4<float>*>(planes + p * kPlane + 4 * lane);
  };
  const bool wants_own = work.wants_own(), wants_grid = work.wants_grid();

  const int64_t units = g.N * plan.rectangles * plan.bands * plan.chunks;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int64_t index = unit / plan.chunks, first_channel = (unit - index * plan.chunks) * kCell;
    const Band at = band_at(plan, index);
    if (t < 4) bounds[t] = bound_of(g, at, t);
    const int64_t right_column = min_of(at.kx + 1, g.Gw - 1), upper_row = min_of(at.ky + 1, g.Gh - 1);
    for (int c = 0; wants_own && c < 4; ++c)
      load_cells(work.a.grid, g.grid_at(at.n), c & 2 ? upper_row : at.ky, c & 1 ? right_column : at.kx, 1, depth,
                 Constant<kCell>(), cells + c * column);
    __syncthreads();
    const int64_t left = bounds[1], right = bounds[3], height = bounds[2] - bounds[0];
    const int64_t top = bounds[0] + height * at.band / plan.bands;
    const int64_t bottom = bounds[0] + height * (at.band + 1) / plan.bands;

    // A group is four pixels whose first index is a multiple of four, one per thread. A warp takes `rows` rows at a
    // time if they have up to 32 groups, else one row in `turns` parts of 32 groups.
    const int64_t first = left / 4;
    const int groups = right > left ? static_cast<int>(ceil_div(right, 4) - first) : 0, per_row = min_of(groups, 32);
    const int most_rows = per_row ? 32 / per_row : 1, rows = Work::kRowGrid ? min_of(most_rows, kRowGrids) : most_rows;
    const int turns = (groups + 31) / 32, row_of = per_row ? lane / per_row : 0, group_of = lane - row_of * per_row;
    const int64_t items = ceil_div(bottom - top, rows);
    const PixelFraction across = fraction_in(g.x, at.column, g.left), downwards = fraction_in(g.y, at.row, g.top);
    for (int e = t; e < Memory::kSums; e += kThreads) totals[e] = 0.0;  // each thread has those that it adds to

    for (int64_t round = 0; round < turns * ceil_div(items, kFloatRows * kWarps); ++round) {
      const int turn = static_cast<int>(round % turns);
      const int64_t begin = round / turns * (kFloatRows * kWarps);
      const int64_t end = min_of(bottom, top + (begin + kFloatRows * kWarps) * rows);
      const int group = turn * 32 + group_of, stop = 4 * min_of(per_row, groups - turn * 32);
      const int64_t x = 4 * (first + group);
      // The pixels that this thread computes, and those that it loads: the whole group, as vectors, if it may.
      const int ours = row_of < rows && group < groups ? pixel_mask(x, left, right) : 0;
      const int near = ours && x + 4 <= g.W && !work.in_place() ? kAllPixels : ours;
      own(kAcross) = {{across(x), across(x + 1), across(x + 2), across(x + 3)}};
      float float_sums[2][kDepths][2][kTerms] = {};  // [row][depth][side][i], for this thread's z and j
      const Tensor &guide = work.a.at.guide, &d_guide = work.a.d_guide;
      const int64_t first_y = top + (begin + warp) * rows, step = kWarps * rows;
      for (int64_t row_y = first_y; row_y < end; row_y += step) {
        const int64_t y = row_y + row_of;
        const int here = static_cast<int>(min_of<int64_t>(rows, end - row_y));
        const int mask = y < end ? ours : 0, load_mask = y < end ? near : 0;
        typename Work::Pixels pixels;
        Vec4<float> depths;
        work.load(at.n, y, x, load_mask, pixels);
        load_plane4(guide, address_of(guide, at.n, y, x), load_mask, depths);
        const float ty = downwards(y);
        if (mask != load_mask) {  // what was loaded of other rectangles adds nothing here
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            if (mask >> q & 1) continue;
            pixels.clear(q);
            depths.at[q] = 0.0f;
          }
        }
        __syncwarp();  // the planes of the previous rows have been read
        down[lane] = ty;
        work.leave(at.n, y, x, first_channel, mask, pixels,
                   [&](int plane, const Vec4<float>& v) { own(kFirstData + plane) = v; });
        if (Work::kRowGrid && wants_own) {
          __syncwarp();
          for (int row = 0; row < here; ++row) {
            const Vec4<float>* const from = reinterpret_cast<const Vec4<float>*>(cells);
            Vec4<float>* const to = reinterpret_cast<Vec4<float>*>(row_grids + row * Memory::row_grid_floats(depth));
            for (int e = lane; e < column / 2; e += 32)
              to[e] = lerp(from[e], from[e + column / 2], down[row * per_row]);
          }
          __syncwarp();
        }
        // Threads without a pixel take the last row's cells.
        const Vec4<float>* const own_cells = reinterpret_cast<const Vec4<float>*>(
            Work::kRowGrid ? row_grids + min_of(row_of, here - 1) * Memory::row_grid_floats(depth) : cells);
        const Vec4<float> tx = own(kAcross);
        Vec4<float> position;
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const Position<float> z = locate(depths.at[q], g.z);
          position.at[q] = static_cast<float>(z.k) + z.t;
          if (!wants_own) continue;
          const BandCells around{own_cells + z.k * (kCell / 4),
                                 depth * (kCell / 4),
                                 z.k + 1 < depth ? kCell / 4 : 0,
                                 depth * (kCell / 2),
                                 tx.at[q],
                                 ty,
                                 z};
          const auto data = [&](int plane) { return planes[(kFirstData + plane) * kPlane + 4 * lane + q]; };
          depths.at[q] = work.own(around, q, data, pixels) * z.slope;
        }
        if (wants_own) {
          if (d_guide.data) store_plane4(d_guide, address_of(d_guide, at.n, y, x), mask, depths);
          work.store(at.n, y, x, mask, pixels);
        }
        if (!wants_grid) continue;
#pragma unroll
        for (int z = 0; z < 8 * kDepths; ++z) {
          Vec4<float> weight;
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const float v = 1.0f - fabsf(position.at[q] - static_cast<float>(z));
            weight.at[q] = z < 2 ? relu(v) : fmaxf(v, 0.0f);  // NaN falls into cell 0, and reaches this and the next
          }
          own(z) = weight;
        }
        __syncwarp();

        for (int row = 0; row < here; ++row) {
          float row_sums[kDepths][2][kTerms] = {};
          const float* const from = planes + 4 * row * per_row;
          const auto add_group = [&](int e) {
            const auto plane = [&](int p) { return *reinterpret_cast<const Vec4<float>*>(from + p * kPlane + e); };
            const Vec4<float> to_right = plane(kAcross);
            Vec4<float> terms[kTerms], weights[kDepths];
#pragma unroll
            for (int i = 0; i < kTerms; ++i) terms[i] = plane(kFirstData + 4 * i + own_j);
#pragma unroll
            for (int k = 0; k < kDepths; ++k) weights[k] = plane(own_z + 8 * k);
#pragma unroll
            for (int q = 0; q < 4; ++q)
#pragma unroll
              for (int k = 0; k < kDepths; ++k) {
                const float weight = weights[k].at[q];
                const float of_right = weight * to_right.at[q], of_left = weight - of_right;
#pragma unroll
                for (int i = 0; i < kTerms; ++i) {
                  row_sums[k][0][i] = mul_add(of_left, terms[i].at[q], row_sums[k][0][i]);
                  row_sums[k][1][i] = mul_add(of_right, terms[i].at[q], row_sums[k][1][i]);
                }
              }
          };
          int e = 0;
#pragma unroll 1
          for (; e + 4 < stop; e += 8) {
            add_group(e);
            add_group(e + 4);
          }
          if (e < stop) add_group(e);
          const float of_upper = down[row * per_row], of_lower = 1.0f - of_upper;
#pragma unroll
          for (int k = 0; k < kDepths; ++k)
#pragma unroll
            for (int side = 0; side < 2; ++side)
#pragma unroll
              for (int i = 0; i < kTerms; ++i) {
                float_sums[0][k][side][i] = mul_add(of_lower, row_sums[k][side][i], float_sums[0][k][side][i]);
                float_sums[1][k][side][i] = mul_add(of_upper, row_sums[k][side][i], float_sums[1][k][side][i]);
              }
        }
      }
      if (!wants_grid) continue;
      __syncwarp();  // the planes have been read
#pragma unroll
      for (int row = 0; row < 2; ++row)
#pragma unroll
        for (int k = 0; k < kDepths; ++k)
#pragma unroll
          for (int side = 0; side < 2; ++side)
#pragma unroll
            for (int i = 0; i < kTerms; ++i)
              planes[((row * 2 + side) * 8 * kDepths + own_z + 8 * k) * kCell + 4 * i + own_j] =
                  float_sums[row][k][side][i];
      __syncthreads();
      for (int e = t; e < Memory::kSums; e += kThreads) {
        double sum = totals[e];
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += static_cast<double>(all_planes[w * Memory::warp_floats(depth) + e]);
        totals[e] = sum;
      }
      __syncthreads();
    }
    if (wants_grid) {
      const int channels = static_cast<int>(min_of<int64_t>(kCell, g.C - first_channel));
      for (int e = t; e < Memory::kSums; e += kThreads) {
        const int cell = e / kCell, c = e % kCell, z = cell % (8 * kDepths);
        if (z < depth && c < channels)
          all[index * plan.size + (cell / (8 * kDepths) * depth + z) * g.C + first_channel + c] = totals[e];
      }
    }
    __syncthreads();
  }
}

template <class Work>
void launch_band_gradients(Launch& to, const Work& work, const Lattice<float>& g, BandPlan plan, const Tensor& d_grid) {
  plan.chunks = ceil_div(g.C, BandMemory<Work>::kCell);
  const int64_t bands = g.N * plan.rectangles * plan.bands;
  double* const all = d_grid.data && bands ? workspace<double>(to, bands * plan.size) : nullptr;
  launch(to, band_gradients<Work>, bands * plan.chunks, 32 * kBandWarps, BandMemory<Work>::bytes(g.Gd), work, g, plan,
         all);
  if (d_grid.data) launch_add_bands<float>(to, g, plan, all, d_grid);
}

}  // namespace bilateral_ops
