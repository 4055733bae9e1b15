// slice: forward, then backward (whose grid gradient is splat). Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "drivers.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class T>
void slice_forward_as(const SliceArgs& a) {
  const Lattice g = make_lattice(a.at, a.grid, a.out);
  const Block channels = block_of(a.out, 2);
  const int64_t width = tile_width(g.C);
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const Columns<T> columns(g, a.at);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* guide = memory.take<T>(width + width * g.C);
    T* const scratch = guide + width;
    Samples<T> samples = {scratch, nullptr, nullptr, nullptr, nullptr};
    Placer<T> placer(g, a.at, columns);
    Sampler<T> sampler(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_plane(a.at.guide, tile, guide);
      char* const place = pixel(a.out, tile);
      samples.values = block_target(channels, place, scratch);
      sampler.sample(tile, placer.template find<false>(tile, guide), samples);
      if (samples.values == scratch) store_block(channels, place, tile.count, scratch);
    }
  });
}

template <class T>
void slice_backward_as(const SliceGradArgs& a) {
  const Lattice g = make_lattice(a.at, a.grid.data ? a.grid : a.d_grid, a.grad, a.d_xy.data != nullptr);
  struct Worker {
    const Tensor &at_guide, &grad;
    const Block channels;
    void guide(const Tile& tile, T* to) const { load_plane(at_guide, tile, to); }
    const T* contribute(const Tile& tile, T* scratch) const {
      return block_at(channels, pixel(grad, tile), tile.count, scratch);
    }
    void finish(const Tile&, const T*, const T*) const {}
  };
  sampled_backward<T>(g, a.at, a.grid, a.d_grid, a.d_guide, a.d_xy, tile_width(2 * g.C), {false, false},
                      [&] { return Worker{a.at.guide, a.grad, block_of(a.grad, 2)}; });
}

void slice_forward(const SliceArgs& a) {
  with_compute_type(a.out.dtype, [&](auto t) { slice_forward_as<decltype(t)>(a); });
}
void slice_backward(const SliceGradArgs& a) {
  with_compute_type(a.grad.dtype, [&](auto t) { slice_backward_as<decltype(t)>(a); });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
