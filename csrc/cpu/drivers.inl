// The drivers: the loops over tiles that operations share.
#pragma once

#include "splatter.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// ---------------------------------------------------------------------------------------------------------------------
// The gradient of anything that samples a grid
//
// make_worker() makes one object a range of tiles: worker.guide(tile, to) writes the guide, worker.contribute(tile,
// scratch) returns ∂L/∂values, in scratch or where it lies, and worker.finish(tile, values, d_guide) is given the
// sampled values and the guide's gradient, where `wanted` says so. Values are [pixel][channel].
struct Wanted {
  bool values, d_guide;
};
template <class T, class MakeWorker>
void sampled_backward(const Lattice& g, const Sampling& at, const Tensor& grid, const Tensor& d_grid,
                      const Tensor& d_guide, const Tensor& d_xy, int64_t width, Wanted wanted,
                      const MakeWorker& make_worker) {
  const bool slopes_wanted = wanted.d_guide || d_guide.data || d_xy.data;
  const bool sampled = wanted.values || slopes_wanted;
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const int64_t size = width * g.C;
  const Columns<T> columns(g, at);

  auto run = [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Scratch memory;
    T* scratch = memory.take<T>(size * 2 + width * 3);
    T *values = scratch + size, *plane = values + size;
    Samples<T> samples = {wanted.values ? values : nullptr, nullptr, plane, nullptr, nullptr};
    if (d_xy.data) {
      samples.slope_x = plane + width;
      samples.slope_y = plane + 2 * width;
    }
    Placer<T> placer(g, at, columns);
    Sampler<T> sampler(g, sampled ? grid : d_grid);
    auto worker = make_worker();
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      worker.guide(tile, plane);
      const Places<T>& places = placer.find(tile, plane);
      const T* contributions = worker.contribute(tile, scratch);
      if (slopes_wanted) samples.contributions = contributions;
      if (sampled) sampler.sample(tile, places, samples);
      auto scale = [&](T* slopes, const T* by) {
        for (int64_t i = 0; i < tile.count; ++i) slopes[i] *= by[i];
      };
      if (wanted.d_guide || d_guide.data) scale(samples.slope_z, places.dz);
      if (wanted.values) worker.finish(tile, values, samples.slope_z);
      if (d_guide.data) store_plane(d_guide, tile, samples.slope_z);
      if (d_xy.data) {
        scale(samples.slope_x, places.dx);
        scale(samples.slope_y, places.dy);
        char* to = pixel(d_xy, tile);
        store_run(d_xy.dtype, to, d_xy.strides[2], tile.count, samples.slope_x, 1);
        store_run(d_xy.dtype, to + d_xy.strides[3], d_xy.strides[2], tile.count, samples.slope_y, 1);
      }
      if (splatter) splatter->add(tile, places, contributions);
    }
  };

  splat_tiles<T>(g, at, tiling, d_grid, run);
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
