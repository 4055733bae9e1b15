// slice_apply: forward, then backward. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "apply.inl"
#include "splatting.inl"
#include "tables.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Grid sampled at the guide, coefficients applied to the image. The guide comes from make_guide(): an object a range of
// tiles, guide(tile, image) → [pixel], where image is [channel][pixel] with rows `width + kPad` apart.
template <class T, class MakeGuide>
void sampled_apply(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image_tensor, int64_t width,
                   const MakeGuide& make_guide) {
  const Lattice g = make_lattice(at, grid, image_tensor);
  const Matrix m = make_matrix(grid, image_tensor);
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const int64_t pitch = width + kPad;
  const Columns<T> columns(g, at);
  // work(tile, places, image, result) with image and result [channel][pixel]
  auto run = [&](int64_t first, int64_t last, auto&& work) {
    Scratch memory;
    T* image = memory.take<T>(pitch * (m.Ci + m.Co), true);
    T* result = image + pitch * m.Ci;
    Placer<T> placer(g, at, columns);
    auto guide = make_guide();
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(image_tensor, tile, image, pitch);
      work(tile, placer.find(tile, guide(tile, image)), image, result);
      store_planar(out, tile, result, pitch);
    }
  };
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    if (g.depth) {
      with_depth(g, [&](auto depth) {
        constexpr int D = decltype(depth)::value;
        Tables<T, D> tables(g, grid);
        with_matrix(m, [&](const auto& matrix) {
          run(first, last, [&](const Tile& tile, const Places<T>& places, const T* pixels, T* result) {
            for_spans(places, tile.count, [&](int64_t begin, int64_t end) {
              const T* span = tables.span(tile.n, places.row_k, places.row_t, places.kx[begin]);
              apply_span<D>(matrix, span, places, begin, end, pixels, result, pitch);
            });
          });
        });
      });
      return;
    }
    Scratch memory;
    const Samples<T> samples = {memory.take<T>(width * g.C), nullptr, nullptr, nullptr, nullptr};
    Sampler<T> sampler(g, grid);
    run(first, last, [&](const Tile& tile, const Places<T>& places, const T* pixels, T* result) {
      sampler.sample(tile, places, samples);
      apply_tile(m, tile.count, pitch, samples.values, pixels, result);
    });
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

// Where the lattice has tables: neither coefficients nor their gradients are stored.
template <class T, int D>
void slice_apply_backward_tables(const SliceApplyGradArgs& a, const Lattice& g, const Matrix& m) {
  const bool outer = m.Co == 3 && m.Ci == 3 && m.L == 4;
  const int64_t width = outer ? kTileWidth : tile_width(2 * g.C), pitch = width + kPad;
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const Columns<T> columns(g, a.at);
  splat_tiles<T>(g, a.at, tiling, a.d_grid, [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Scratch memory;
    T* image = memory.take<T>(pitch * (2 * m.Ci + m.Co + 2) + (outer ? 0 : width * g.C), true);
    T *grad = image + pitch * m.Ci, *d_image = grad + pitch * m.Co, *guide = d_image + pitch * m.Ci;
    T *d_guide = guide + pitch, *contributions = d_guide + pitch;
    Placer<T> placer(g, a.at, columns);
    Tables<T, D> tables(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_plane(a.at.guide, tile, guide);
      load_planar(a.image, tile, image, pitch);
      load_planar(a.grad, tile, grad, pitch);
      const Places<T>& places = placer.find(tile, guide);
      if (a.d_image.data || a.d_guide.data) {
        with_matrix(m, [&](const auto& matrix) {
          for_spans(places, tile.count, [&](int64_t begin, int64_t end) {
            const T* span = tables.span(tile.n, places.row_k, places.row_t, places.kx[begin]);
            span_gradients<D>(matrix, span, places, begin, end, image, grad, d_image, d_guide, pitch);
          });
        });
      }
      if (splatter && outer) {
        splatter->add_outer(tile, places, image, grad, pitch);
      } else if (splatter) {
        apply_tile_d_coefficients(m, tile.count, pitch, image, grad, contributions);
        splatter->add(tile, places, contributions);
      }
      if (a.d_image.data) store_planar(a.d_image, tile, d_image, pitch);
      if (a.d_guide.data) store_plane(a.d_guide, tile, d_guide);
    }
  });
}

template <class T>
void slice_apply_backward_as(const SliceApplyGradArgs& a) {
  const Lattice g = make_lattice(a.at, a.grid, a.grad);
  const Matrix m = make_matrix(a.grid, a.image);
  if (g.depth) {
    with_depth(g, [&](auto depth) { slice_apply_backward_tables<T, decltype(depth)::value>(a, g, m); });
    return;
  }
  const int64_t width = tile_width(2 * g.C);
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
    void contribute(const Tile& tile, T* d_coefficients) {
      load_planar(a.image, tile, image, width);
      load_planar(a.grad, tile, grad, width);
      apply_tile_d_coefficients(m, tile.count, width, image, grad, d_coefficients);
    }
    void finish(const Tile& tile, const T* coefficients) {
      apply_tile_d_image(m, tile.count, width, coefficients, grad, d_image);
      store_planar(a.d_image, tile, d_image, width);
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
