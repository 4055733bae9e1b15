// slice_apply: forward, then backward. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "apply.inl"
#include "sampling.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Grid sampled at the guide, coefficients applied to the image. The guide comes from make_guide(): an object a range of
// tiles, guide(tile, image) → [pixel], where image is [channel][pixel] with rows `width` apart.
template <class T, class MakeGuide>
void sampled_apply(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image_tensor, int64_t width,
                   const MakeGuide& make_guide) {
  const Lattice g = make_lattice(at, grid, image_tensor);
  const Matrix m = make_matrix(grid, image_tensor);
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory, places_memory;
    T* values = memory.take<T>(width * (g.C + m.Ci + m.Co));
    T *image = values + width * g.C, *result = image + width * m.Ci;
    const Samples<T> samples = {values, nullptr, nullptr, nullptr};
    Places<T>& places = *places_memory.take<Places<T>>(1);
    Sampler<T> sampler(g, grid);
    auto guide = make_guide();
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(image_tensor, tile, image, width);
      find_places(g, at, tile, guide(tile, image), places);
      sampler.sample(tile, places, samples);
      apply_tile(m, tile.count, width, values, image, result);
      store_planar(out, tile, result, width);
    }
  });
}

template <class T>
void slice_apply_forward_as(const SliceApplyArgs& a) {
  struct Loaded {
    const Tensor& guide;
    T plane[kTileWidth];
    const T* operator()(const Tile& tile, const T*) {
      load_plane(guide, tile, plane);
      return plane;
    }
  };
  const int64_t width = tile_width(a.grid.shape[4] * a.grid.shape[5]);
  sampled_apply<T>(a.at, a.out, a.grid, a.image, width, [&] { return Loaded{a.at.guide, {}}; });
}

template <class T>
void slice_apply_backward_as(const SliceApplyGradArgs& a) {
  const Lattice g = make_lattice(a.at, a.grid, a.grad);
  const Matrix m = make_matrix(a.grid, a.image);
  const int64_t width = tile_width(5 * g.C);
  struct Worker {
    const SliceApplyGradArgs& a;
    const Matrix& m;
    int64_t width;
    Scratch memory;
    T *image, *d_image, *grad;
    Worker(const SliceApplyGradArgs& args, const Matrix& matrix, int64_t tile) : a(args), m(matrix), width(tile) {
      image = memory.template take<T>(width * (2 * m.Ci + m.Co));
      d_image = image + width * m.Ci;
      grad = d_image + width * m.Ci;
    }
    void operator()(const Tile& tile, const T* coefficients, T* d_coefficients) {
      load_planar(a.image, tile, image, width);
      load_planar(a.grad, tile, grad, width);
      apply_tile_d_coefficients(m, tile.count, width, image, grad, d_coefficients);
      if (a.d_image.data) {
        apply_tile_d_image(m, tile.count, width, coefficients, grad, d_image);
        store_planar(a.d_image, tile, d_image, width);
      }
    }
  };
  sampled_backward<T>(g, a.at, a.grid, a.d_grid, a.d_guide, a.d_xy, width, a.d_image.data != nullptr,
                      [&] { return Worker(a, m, width); });
}

void slice_apply_forward(const SliceApplyArgs& a) {
  with_compute_type(a.grid.dtype, [&](auto t) { slice_apply_forward_as<decltype(t)>(a); });
}
void slice_apply_backward(const SliceApplyGradArgs& a) {
  with_compute_type(a.grid.dtype, [&](auto t) { slice_apply_backward_as<decltype(t)>(a); });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
