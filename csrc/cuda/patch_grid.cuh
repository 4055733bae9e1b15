// The grid around a patch of pixels, in shared memory, for grids that are coarse beside the image (PatchGrid).
//
// A thread block loads the cells around its patch, 128 columns and up to 64 rows of pixels. Its warps take the rows in
// turn. A warp first interpolates the cells in y, once for the whole row (the row grid of cpu/sampler.inl); what is
// left for each pixel is to interpolate in x and z. Cells are padded to whole vectors of four elements.
#pragma once

#include "geometry.cuh"

namespace bilateral_ops {

constexpr int kMaxPatchRows = 64;
static_assert(kPatchThreads == kPatchWidth && kPatchThreads >= kMaxPatchRows,
              "each thread finds the position of one column, and of one row");

// Whether there are many pixels per cell, and what is interpolated is computed in float.
inline bool is_coarse(const Sampling& at, const Tensor& grid, DType compute) {
  return compute != DType::f64 && !at.xy.data && grid.shape[3] <= 16 && 8 * grid.shape[2] <= at.full_width;
}

// Elements of a padded cell
inline int64_t cell_size(const Tensor& grid) { return ceil_div(grid.shape[4] * grid.shape[5], 4) * 4; }

// Loads `columns` columns of cells, from column x of grid row y on, into shared memory, [column][z][channel]. The work
// is shared among the threads of the block; dense float32 is loaded 128 bits at a time. `cell` is cell_size(grid). Of
// grid −1 all is NaN.
template <class Size>
BO_DEVICE void load_cells(const Tensor& grid, int64_t m, int64_t y, int64_t x, int columns, int depth, Size cell,
                          float* to) {
  const char* const from = address_of(grid, max_of<int64_t>(0, m), y, x);
  const int channels = static_cast<int>(grid.shape[4] * grid.shape[5]);
  const bool dense = grid.dtype == DType::f32 && channels == cell && grid.strides[5] == 4 &&
                     grid.strides[4] == 4 * grid.shape[5] && grid.strides[3] == 4 * cell &&
                     (columns == 1 || grid.strides[2] == grid.strides[3] * depth) && Storage<F32>::is_vector(from);
  const int count = columns * depth * cell, threads = static_cast<int>(blockDim.x);
  if (m < 0) {
    for (int e = static_cast<int>(threadIdx.x); e < count; e += threads) to[e] = not_a_number<float>();
  } else if (dense) {
    for (int e = static_cast<int>(threadIdx.x); e < count / 4; e += threads)
      reinterpret_cast<Vec4<float>*>(to)[e] = reinterpret_cast<const Vec4<float>*>(from)[e];
  } else {
    for (int e = static_cast<int>(threadIdx.x); e < count; e += threads) {
      const int at = e / cell, c = e - at * cell, column = at / depth, z = at - column * depth;
      to[e] =
          c < channels
              ? load_one<float>(grid.dtype, from + column * grid.strides[2] + z * grid.strides[3] + channel(grid, 4, c))
              : 0.0f;
    }
  }
}

struct CellPatches : Patches {
  int cell_rows, cell_columns;  // the most cells that a patch has in shared memory
};

// The most grid rows (or columns) around `pixels` neighbouring pixels
inline int cells_around(const PixelAxis& axis, int pixels) {
  const double reach = (pixels - 1) * axis.step / axis.size + 3.0;
  return static_cast<int>(min_of(min_of(reach, axis.last + 1.0), 1e6));  // 1e6 does not fit in shared memory, either
}
inline size_t patch_bytes(const Lattice<float>& g, int64_t cell, const CellPatches& s) {
  const size_t column = static_cast<size_t>(g.Gd * cell);
  return sizeof(float) * (2 * kPatchWidth + 2 * kMaxPatchRows + s.cell_columns * column * (s.cell_rows + kPatchWarps));
}
// Patches have as many rows as leave 256 thread blocks and fit in 36 KiB, but at least 8. This depends on the size of
// the whole image, so that a window of it is computed in the same way.
inline CellPatches plan_patches(const Lattice<float>& g, int64_t cell, const Sampling& at, const Tensor& pixels) {
  CellPatches s{};
  s.rows = kMaxPatchRows;
  const auto blocks = [&] { return ceil_div(at.full_width, kPatchWidth) * ceil_div(at.full_height, s.rows); };
  s.cell_columns = cells_around(g.x, kPatchWidth);
  for (;; s.rows /= 2) {
    s.cell_rows = cells_around(g.y, s.rows);
    if (s.rows <= 8 || (blocks() * g.N >= 256 && patch_bytes(g, cell, s) <= (36 << 10))) break;
  }
  static_cast<Patches&>(s) = make_patches(pixels, s.rows);
  return s;
}

// Where a pixel lies in a row grid: its lowest cell, the distances to the next ones, 0 at the grid's end, and the
// fractions towards these. Indices and distances are in vectors of four elements.
struct PlaceInRow {
  int lowest, right, up;
  float tx, tz;

  // The elements 4·i … 4·i + 3, interpolated in x, at the lower depth and the upper one; and in z as well
  __device__ void columns_at(const Vec4<float>* row_grid, int i, Vec4<float>& lower, Vec4<float>& upper) const {
    const Vec4<float>* const from = row_grid + lowest + i;
    lower = lerp(from[0], from[right], tx);
    upper = lerp(from[up], from[up + right], tx);
  }
  __device__ Vec4<float> at(const Vec4<float>* row_grid, int i) const {
    Vec4<float> lower, upper;
    columns_at(row_grid, i, lower, upper);
    return lerp(lower, upper, tz);
  }
};
// The same in 16 bytes
struct alignas(16) PackedPlace {
  int lowest, right_and_up;
  float tx, tz;

  PackedPlace() = default;
  __device__ explicit PackedPlace(const PlaceInRow& p)
      : lowest(p.lowest), right_and_up(p.right << 8 | p.up), tx(p.tx), tz(p.tz) {}
  __device__ PlaceInRow unpacked() const { return {lowest, right_and_up >> 8, right_and_up & 0xff, tx, tz}; }
};

// Size: int, or a type that is a number known at compile time
template <class Size>
class PatchGrid {
 public:
  // `memory` has patch_bytes().
  __device__ PatchGrid(char* memory, const Lattice<float>& g, Size cell, const CellPatches& s)
      : cell_(cell),
        depth_(static_cast<int>(g.Gd)),
        column_(depth_ * cell),
        column_t_(reinterpret_cast<float*>(memory)),
        column_k_(reinterpret_cast<int*>(column_t_ + kPatchWidth)),
        row_t_(reinterpret_cast<float*>(column_k_ + kPatchWidth)),
        row_k_(reinterpret_cast<int*>(row_t_ + kMaxPatchRows)),
        cells_(reinterpret_cast<float*>(row_k_ + kMaxPatchRows)),
        row_grid_(cells_ + column_ * s.cell_columns * (s.cell_rows + static_cast<int>(threadIdx.x) / 32)) {}

  // Loads the cells around a patch, by all threads of the block.
  __device__ void load(const Tensor& grid, const Lattice<float>& g, const Patch& patch) {
    const int t = static_cast<int>(threadIdx.x);
    // Threads beyond the last column take its position, so that they access no cell that does not exist.
    const Position<double> across = locate_pixel(patch.left + min_of(t, patch.width - 1) + g.left, g.x);
    column_k_[t] = across.k;
    column_t_[t] = static_cast<float>(across.t);
    if (t < patch.height) {
      const Position<double> down = locate_pixel(patch.top + t + g.top, g.y);
      row_k_[t] = down.k;
      row_t_[t] = static_cast<float>(down.t);
    }
    __syncthreads();
    const int first_row = row_k_[0];
    first_row_ = first_row;
    first_column_ = column_k_[0];
    rows_ = static_cast<int>(min_of<int64_t>(row_k_[patch.height - 1] + 2, g.Gh)) - first_row;
    columns_ = static_cast<int>(min_of<int64_t>(column_k_[patch.width - 1] + 2, g.Gw)) - first_column_;
    const int64_t m = g.grid_at(patch.n);
    for (int r = 0; r < rows_; ++r)
      load_cells(grid, m, first_row + r, first_column_, columns_, depth_, cell_, cells_ + r * columns_ * column_);
    __syncthreads();
  }
  // Interpolates the cells in y for a row of the patch, by all threads of the warp; __syncwarp() must follow.
  __device__ void begin_row(int row) const {
    const int below = row_k_[row] - first_row_, above = min_of(below + 1, rows_ - 1);
    const float ty = row_t_[row];
    const Vec4<float>* const a = reinterpret_cast<const Vec4<float>*>(cells_ + below * columns_ * column_);
    const Vec4<float>* const b = reinterpret_cast<const Vec4<float>*>(cells_ + above * columns_ * column_);
    for (int e = static_cast<int>(threadIdx.x) % 32; e < columns_ * column_ / 4; e += 32)
      reinterpret_cast<Vec4<float>*>(row_grid_)[e] = lerp(a[e], b[e], ty);
  }
  __device__ const Vec4<float>* row_grid() const { return reinterpret_cast<const Vec4<float>*>(row_grid_); }
  // Where pixel x of the row, at position z, lies in the row grid
  __device__ PlaceInRow place(int x, const Position<float>& z) const {
    const int column = column_k_[x] - first_column_;
    return {(column * column_ + z.k * cell_) / 4, column + 1 < columns_ ? column_ / 4 : 0,
            z.k + 1 < depth_ ? cell_ / 4 : 0, column_t_[x], z.t};
  }

 private:
  const Size cell_;
  const int depth_, column_;  // cells in a column, and its elements
  float* const column_t_;
  int* const column_k_;
  float* const row_t_;
  int* const row_k_;
  float* const cells_;     // [row][column][z][channel]
  float* const row_grid_;  // of this warp, [column][z][channel]
  int first_row_, first_column_, rows_, columns_;
};

}  // namespace bilateral_ops
