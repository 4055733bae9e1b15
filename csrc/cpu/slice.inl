// slice: forward, then backward (whose grid gradient is splat). Equations: ../ops.h
#pragma once

#include "drivers.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

template <class T>
void slice_forward_as(const SliceArgs& a) {
  const Lattice g = make_lattice(a.at, a.grid, a.out);
  const Block channels = block_of(a.out, 2);
  const int64_t width = tile_width(g.C);
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const PixelColumns<T> columns(g, a.at);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* guide = memory.take<T>(width + width * g.C);
    T* const scratch = guide + width;
    Samples<T> samples = {scratch, nullptr, nullptr, nullptr, nullptr};
    Locator<T> locator(g, a.at, columns);
    Sampler<T> sampler(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_plane(a.at.guide, tile, guide);
      char* const to = first_pixel(a.out, tile);
      samples.values = block_target(channels, to, scratch);
      sampler.sample(tile, locator.template find<false>(tile, guide), samples);
      if (samples.values == scratch) store_block(channels, to, tile.count, scratch);
    }
  });
}

template <class T>
class SliceGradients final : public SampledGradients<T> {
 public:
  explicit SliceGradients(const Tensor& grad) : grad_(grad), channels_(block_of(grad, 2)) {}
  const T* contribute(const Tile& tile, T* scratch) override {
    return block_view(channels_, first_pixel(grad_, tile), tile.count, scratch);
  }
  void finish(const Tile&, const GuideSource<T>&, const T*, const T*) override {}

 private:
  const Tensor& grad_;
  const Block channels_;
};

template <class T>
void slice_backward_as(const SliceGradArgs& a) {
  const Lattice g = make_lattice(a.at, a.grid.data ? a.grid : a.d_grid, a.grad, a.d_xy.data != nullptr);
  sampled_backward(g, a.at, a.grid, a.d_grid, a.d_guide, a.d_xy, tile_width(2 * g.C), {false, false},
                   GuideSource<T>(a.at.guide), [&] { return SliceGradients<T>(a.grad); });
}

void slice_forward(const SliceArgs& a) {
  with_compute_type(a.out.dtype, [&](auto t) { slice_forward_as<decltype(t)>(a); });
}
void slice_backward(const SliceGradArgs& a) {
  with_compute_type(a.grad.dtype, [&](auto t) { slice_backward_as<decltype(t)>(a); });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
