// Drivers: the loops over tiles of slice_apply, enhance and slice, forward and backward. Each driver is a way to sample
// (tables.inl, cells.inl, sampler.inl); all of them take the guide from a GuideSource.
#pragma once

#include "../ops.h"
#include "apply.inl"
#include "cells.inl"
#include "guides/luma.inl"
#include "splatter.inl"
#include "tables.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Where the guide of a tile comes from: a guide array, or the image, by a class of guides/. Its type does not say
// which, so that there is one build of the drivers for all of them. Drivers copy the one that they are given for each
// range of tiles.
template <class T>
class GuideSource {
 public:
  explicit GuideSource(const Tensor& array) : from_(&array) {}
  template <class Guide>
  explicit GuideSource(const Guide& guide) : from_(&guide), run_(&run<Guide>) {}
  template <class Guide>
  explicit GuideSource(const Guide&& guide) = delete;  // which would end before it is used

  bool reads_image() const { return run_; }
  // The tile's guide, [pixel]. image: planes that are `pitch` elements apart, in whole vectors, if reads_image()
  const T* operator()(const Tile& tile, const T* image, int64_t pitch) {
    if (run_) {
      run_(from_, image, tile.count, pitch, plane_);
      return plane_;
    }
    const Tensor& array = *static_cast<const Tensor*>(from_);
    const char* const from = first_pixel(array, tile);
    if (array.strides[2] != sizeof(T) || !is_plain<T>(array.dtype, from)) {
      load_plane(array, tile, plane_);
      return plane_;
    }
    prefetch_next_tile(from, tile.count * static_cast<int64_t>(sizeof(T)));
    return reinterpret_cast<const T*>(from);
  }
  // Adds what the guide contributes to the image's gradient, whose channels are `pitch` and pixels `step` elements
  // apart. Of guides that read the image, only the luma is differentiated together with what it guides.
  void add_gradient(const T* d_guide, int64_t count, int64_t pitch, int64_t step, T* d_image) const {
    if (run_) Luma<T>::add_gradient(d_guide, count, pitch, step, d_image);
  }

 private:
  template <class Guide>
  static void run(const void* guide, const T* image, int64_t count, int64_t pitch, T* to) {
    guide_run(*static_cast<const Guide*>(guide), image, count, pitch, to);
  }

  const void* from_;  // the array, or the guide that run_ takes
  void (*run_)(const void*, const T*, int64_t, int64_t, T*) = nullptr;
  T plane_[kTileWidth + kPad] = {};
};

// --- Per-vector hooks

// They prefetch the same pixels of a later tile. They are classes, as g++ drops lambdas that only prefetch.
template <class S, class T>
struct ForwardPrefetch {
  const char *from, *to;
  BO_INLINE_MEMBER void operator()(int64_t p) const {
    constexpr int64_t kLanes = Vec<T>::kLanes, kBytes = 3 * kLanes * S::size;
    prefetch_ahead<kBytes>(from + p / kLanes * kBytes);
    prefetch_ahead<kBytes>(to + p / kLanes * kBytes);
  }
};
template <class S, class T>
struct BackwardPrefetch {
  const char *image, *grad, *d_image, *d_guide;
  BO_INLINE_MEMBER void operator()(int64_t p) const {
    constexpr int64_t kLanes = Vec<T>::kLanes, kBytes = kLanes * S::size;
    prefetch_ahead<3 * kBytes>(image + 3 * (p / kLanes * kBytes));
    prefetch_ahead<3 * kBytes>(grad + 3 * (p / kLanes * kBytes));
    prefetch_ahead<3 * kBytes>(d_image + 3 * (p / kLanes * kBytes));
    prefetch_ahead<kBytes>(d_guide + p / kLanes * kBytes);
  }
};

// --- Forward: out = A·image, A the grid sampled at the guide

// What 3 × 4 matrices come from: register tables of D entries, or fetched cells where D is 0
template <int D, class T, Packing kPacking>
struct Matrices34 {
  using Type = TableBuilder<T, D>;
};
template <class T, Packing kPacking>
struct Matrices34<0, T, kPacking> {
  using Type = RowGrid<T, kPacking>;
};

// 3 × 4 matrices. S: the storage of the pixels. With tables a tile takes four passes: the image's planes, the
// positions, the lookups, the result's pixels. (In one pass, each vector of pixels would wait for its own lookups.)
// Fetched matrices are applied to the pixels in place, or converted in scratch.
template <class S, int D, class T>
void apply_34(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image, const Lattice& g,
              const Tiling& tiling, const PixelColumns<T>& columns, GuideSource<T>& guide, int64_t first,
              int64_t last) {
  constexpr int64_t kPitch = kTileWidth + kPad;
  constexpr bool kTables = D > 0, kConverted = S::size != sizeof(T);
  Pixels3<S, T> source(image), sink(out);
  Locator<T> locator(g, at, columns);
  typename Matrices34<D, T, Packing::columns>::Type matrices(g, grid);
  alignas(64) T channels[3 * kPitch];
  alignas(64) T results[3 * kPitch];
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tile_at(tiling, index);
    const char* const from = source.load(tile);
    char* const to = sink.target(tile);
    if (kTables || guide.reads_image()) pixels_to_planes<S>(from, tile.count, channels, kPitch);
    const Positions<T>& positions = locator.template find<false>(tile, guide(tile, channels, kPitch));
    if constexpr (kTables) {
      for_spans(positions, tile.count, [&](int64_t begin, int64_t end) {
        const SpanTables<T> span = matrices.span(tile.n, positions.row_k, positions.row_t, positions.kx[begin]);
        apply_span<D>(Matrix34(), span, positions, begin, end, channels, results, kPitch,
                      ForwardPrefetch<S, T>{from, to});
      });
      planes_to_pixels<S>(results, kPitch, tile.count, to);
    } else {
      if (kConverted) load_run(image.dtype, from, S::size, 3 * tile.count, results, 1);
      const T* const in = kConverted ? results : reinterpret_cast<const T*>(from);
      T* const result = kConverted ? results : reinterpret_cast<T*>(to);
      matrices.build(tile, positions);
      apply_matrices(g, matrices, positions, tile.count, in, result, ForwardPrefetch<S, T>{from, to});
      if (kConverted) store_run(out.dtype, to, S::size, 3 * tile.count, results, 1);
    }
    sink.store(tile);
  }
}

// Any matrices, from register tables or from whole coefficients
template <class T>
void apply_any(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image_tensor, const Lattice& g,
               const Matrix& m, const PixelColumns<T>& columns, const GuideSource<T>& source) {
  const int64_t width = tile_width(g.C), pitch = width + kPad;
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* image = memory.take<T>(pitch * (m.Ci + m.Co) + width * (g.C + m.Ci), true);
    T *result = image + pitch * m.Ci, *coefficients = result + pitch * m.Co, *pixels = coefficients + width * g.C;
    Locator<T> locator(g, at, columns);
    GuideSource<T> guide = source;
    const bool done = with_tables<T>(g, [&](auto depth) {
      constexpr int D = decltype(depth)::value;
      TableBuilder<T, D> tables(g, grid);
      for (int64_t index = first; index < last; ++index) {
        const Tile tile = tile_at(tiling, index);
        load_planes(image_tensor, tile, image, pitch);
        const Positions<T>& positions = locator.template find<false>(tile, guide(tile, image, pitch));
        for_spans(positions, tile.count, [&](int64_t begin, int64_t end) {
          const SpanTables<T> span = tables.span(tile.n, positions.row_k, positions.row_t, positions.kx[begin]);
          apply_span<D>(m, span, positions, begin, end, image, result, pitch, [](int64_t) {});
        });
        store_planes(out, tile, result, pitch);
      }
    });
    if (done) return;
    const Samples<T> samples = {coefficients, nullptr, nullptr, nullptr, nullptr};
    const Block in_block = block_of(image_tensor, 2), out_block = block_of(out, 2);
    Sampler<T> sampler(g, grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      if (guide.reads_image()) load_planes(image_tensor, tile, image, pitch);
      sampler.sample(tile, locator.template find<false>(tile, guide(tile, image, pitch)), samples);
      apply_tile(m, tile.count, coefficients, block_view(in_block, first_pixel(image_tensor, tile), tile.count, pixels),
                 result);
      store_block(out_block, first_pixel(out, tile), tile.count, result);
    }
  });
}

template <class T>
void sampled_apply(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image,
                   const GuideSource<T>& source) {
  const Lattice g = make_lattice(at, grid, image);
  const Matrix m = make_matrix(grid, image);
  const PixelColumns<T> columns(g, at);
  if (is_matrix34(m)) {
    const Tiling tiling = make_tiling(g.N, g.H, g.W, kTileWidth);
    const auto run = [&](auto depth) {
      for_tile_ranges(tiling.count, kTileWidth, [&](int64_t first, int64_t last) {
        GuideSource<T> guide = source;
        with_pixel_storage(image, out, T(), [&](auto storage) {
          apply_34<decltype(storage), decltype(depth)::value>(at, out, grid, image, g, tiling, columns, guide, first,
                                                              last);
        });
      });
    };
    if constexpr (!kFetchesMatrices<T>) {
      if (with_tables<T>(g, run)) return;
    }
    if (g.long_spans) return run(Constant<0>());
  }
  apply_any(at, out, grid, image, g, m, columns, source);
}

// --- Backward: d_grid by splatting grad·imageᵀ, and the per-pixel gradients where they are wanted

// 3 × 4 matrices: neither coefficients nor their gradients are stored.
template <int D, class T>
void apply_backward_34(const SliceApplyGradArgs& a, const Lattice& g, const GuideSource<T>& source) {
  using S = Plain<T>;
  constexpr int64_t kPitch = kTileWidth + kPad;
  constexpr bool kTables = D > 0;
  const Tiling tiling = make_tiling(g.N, g.H, g.W, kTileWidth);
  const PixelColumns<T> columns(g, a.at);
  const bool slopes = a.d_image.data || a.d_guide.data;
  splat_tiles<T>(g, a.at, tiling, a.d_grid, [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Pixels3<S, T> image(a.image), grad(a.grad), d_image(a.d_image);
    alignas(64) T channels[3 * kPitch];
    alignas(64) T d_out[3 * kPitch];
    alignas(64) T d_in[3 * kPitch];
    alignas(64) T d_guide[kPitch];
    GuideSource<T> guide = source;
    Locator<T> locator(g, a.at, columns);
    typename Matrices34<D, T, Packing::rows>::Type matrices(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      const char* const in_pixels = image.load(tile);
      const char* const grad_pixels = grad.load(tile);
      const T *in = reinterpret_cast<const T*>(in_pixels), *grads = reinterpret_cast<const T*>(grad_pixels);
      if ((kTables && slopes) || guide.reads_image()) pixels_to_planes<S>(in_pixels, tile.count, channels, kPitch);
      const Positions<T>& positions = locator.find(tile, guide(tile, channels, kPitch));
      if (splatter) splatter->add_outer(tile, positions, in, grads);
      if (!slopes) continue;
      char* const to = d_image.target(tile);
      const char* const plane = a.d_guide.data ? first_pixel(a.d_guide, tile) : grad_pixels;
      const BackwardPrefetch<S, T> prefetch{in_pixels, grad_pixels, to, plane};
      if constexpr (kTables) {
        pixels_to_planes<S>(grad_pixels, tile.count, d_out, kPitch);
        for_spans(positions, tile.count, [&](int64_t begin, int64_t end) {
          const SpanTables<T> span = matrices.span(tile.n, positions.row_k, positions.row_t, positions.kx[begin]);
          span_gradients<D>(Matrix34(), span, positions, begin, end, channels, d_out, d_in, d_guide, kPitch, prefetch);
        });
        if (a.d_image.data) {
          guide.add_gradient(d_guide, tile.count, kPitch, 1, d_in);
          planes_to_pixels<S>(d_in, kPitch, tile.count, to);
        }
      } else {
        matrices.build(tile, positions);
        matrix_gradients(g, matrices, positions, tile.count, in, grads, reinterpret_cast<T*>(to), d_guide, prefetch);
        if (a.d_image.data) guide.add_gradient(d_guide, tile.count, 1, 3, reinterpret_cast<T*>(to));
      }
      if (a.d_image.data) d_image.store(tile);
      if (a.d_guide.data) store_plane(a.d_guide, tile, d_guide);
    }
  });
}

// Other matrices from register tables
template <int D, class T>
void apply_backward_tables(const SliceApplyGradArgs& a, const Lattice& g, const Matrix& m,
                           const GuideSource<T>& source) {
  const int64_t width = tile_width(2 * g.C), pitch = width + kPad;
  const Block in_block = block_of(a.image, 2), grad_block = block_of(a.grad, 2);
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const PixelColumns<T> columns(g, a.at);
  splat_tiles<T>(g, a.at, tiling, a.d_grid, [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Scratch memory;
    T* image = memory.take<T>(pitch * (2 * m.Ci + m.Co + 1) + width * (g.C + m.Ci + m.Co), true);
    T *grad = image + pitch * m.Ci, *d_image = grad + pitch * m.Co, *d_guide = d_image + pitch * m.Ci;
    T *contributions = d_guide + pitch, *pixels = contributions + width * g.C, *grads = pixels + width * m.Ci;
    GuideSource<T> guide = source;
    Locator<T> locator(g, a.at, columns);
    TableBuilder<T, D> tables(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planes(a.image, tile, image, pitch);
      load_planes(a.grad, tile, grad, pitch);
      const Positions<T>& positions = locator.find(tile, guide(tile, image, pitch));
      if (a.d_image.data || a.d_guide.data) {
        for_spans(positions, tile.count, [&](int64_t begin, int64_t end) {
          const SpanTables<T> span = tables.span(tile.n, positions.row_k, positions.row_t, positions.kx[begin]);
          span_gradients<D>(m, span, positions, begin, end, image, grad, d_image, d_guide, pitch, [](int64_t) {});
        });
      }
      if (splatter) {
        apply_tile_d_coefficients(m, tile.count, block_view(in_block, first_pixel(a.image, tile), tile.count, pixels),
                                  block_view(grad_block, first_pixel(a.grad, tile), tile.count, grads), contributions);
        splatter->add(tile, positions, contributions);
      }
      if (a.d_image.data) {
        guide.add_gradient(d_guide, tile.count, pitch, 1, d_image);
        store_planes(a.d_image, tile, d_image, pitch);
      }
      if (a.d_guide.data) store_plane(a.d_guide, tile, d_guide);
    }
  });
}

// What the gradients of something that samples a grid by the Sampler are made of. One object per range of tiles.
template <class T>
class SampledGradients {
 public:
  // The image, for a guide that reads it
  virtual const T* image_planes(const Tile&) { return nullptr; }
  // ∂L/∂values, [pixel][channel], in scratch or in place
  virtual const T* contribute(const Tile& tile, T* scratch) = 0;
  // Is given the sampled values and the guide's gradient, if `wanted`.
  virtual void finish(const Tile&, const GuideSource<T>&, const T* values, const T* d_guide) = 0;

 protected:
  ~SampledGradients() = default;
};
struct Wanted {
  bool values, d_guide;
};

// The gradients of a range of tiles
template <class T>
void sampled_tiles_backward(const Lattice& g, const Sampling& at, const Tensor& grid, const Tensor& d_guide,
                            const Tensor& d_xy, const Tiling& tiling, const PixelColumns<T>& columns, Wanted wanted,
                            GuideSource<T> guide, SampledGradients<T>& gradients, int64_t first, int64_t last,
                            Splatter<T>* splatter) {
  const bool slopes_wanted = wanted.d_guide || d_guide.data || d_xy.data;
  const bool sampled = wanted.values || slopes_wanted;
  const int64_t width = tiling.width, size = width * g.C;
  Scratch memory;
  T* scratch = memory.take<T>(size * 2 + width * 3);
  T *values = scratch + size, *slopes = values + size;
  Samples<T> samples = {wanted.values ? values : nullptr, nullptr, slopes, nullptr, nullptr};
  if (d_xy.data) {
    samples.slope_x = slopes + width;
    samples.slope_y = slopes + 2 * width;
  }
  Locator<T> locator(g, at, columns);
  Sampler<T> sampler(g, grid);
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tile_at(tiling, index);
    const T* const image = guide.reads_image() ? gradients.image_planes(tile) : nullptr;
    const Positions<T>& positions = locator.find(tile, guide(tile, image, width));
    const T* contributions = gradients.contribute(tile, scratch);
    if (slopes_wanted) samples.contributions = contributions;
    if (sampled) sampler.sample(tile, positions, samples);
    // From slopes along the grid's axes to those along coordinates
    const auto scale = [&](T* of, const T* by) {
      for (int64_t i = 0; i < tile.count; ++i) of[i] *= by[i];
    };
    if (wanted.d_guide || d_guide.data) scale(samples.slope_z, positions.dz);
    if (wanted.values) gradients.finish(tile, guide, values, samples.slope_z);
    if (d_guide.data) store_plane(d_guide, tile, samples.slope_z);
    if (d_xy.data) {
      scale(samples.slope_x, positions.dx);
      scale(samples.slope_y, positions.dy);
      char* to = first_pixel(d_xy, tile);
      store_run(d_xy.dtype, to, d_xy.strides[2], tile.count, samples.slope_x, 1);
      store_run(d_xy.dtype, to + d_xy.strides[3], d_xy.strides[2], tile.count, samples.slope_y, 1);
    }
    if (splatter) splatter->add(tile, positions, contributions);
  }
}
// make() makes SampledGradients.
template <class T, class Make>
void sampled_backward(const Lattice& g, const Sampling& at, const Tensor& grid, const Tensor& d_grid,
                      const Tensor& d_guide, const Tensor& d_xy, int64_t width, Wanted wanted,
                      const GuideSource<T>& guide, const Make& make) {
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const PixelColumns<T> columns(g, at);
  splat_tiles<T>(g, at, tiling, d_grid, [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    auto gradients = make();
    sampled_tiles_backward(g, at, grid.data ? grid : d_grid, d_guide, d_xy, tiling, columns, wanted, guide, gradients,
                           first, last, splatter);
  });
}

// Those of slice_apply
template <class T>
class ApplyGradients final : public SampledGradients<T> {
 public:
  ApplyGradients(const SliceApplyGradArgs& a, const Matrix& m, int64_t width)
      : a_(a), m_(m), width_(width), in_block_(block_of(a.image, 2)), grad_block_(block_of(a.grad, 2)) {
    image_ = memory_.template take<T>(width * (2 * m.Ci + m.Co), true);
    d_image_ = image_ + width * m.Ci;
    grad_copy_ = d_image_ + width * m.Ci;
  }
  const T* image_planes(const Tile& tile) override {
    load_planes(a_.image, tile, image_, width_);
    return image_;
  }
  const T* contribute(const Tile& tile, T* d_coefficients) override {
    grad_ = block_view(grad_block_, first_pixel(a_.grad, tile), tile.count, grad_copy_);
    apply_tile_d_coefficients(m_, tile.count, block_view(in_block_, first_pixel(a_.image, tile), tile.count, image_),
                              grad_, d_coefficients);
    return d_coefficients;
  }
  void finish(const Tile& tile, const GuideSource<T>& guide, const T* coefficients, const T* d_guide) override {
    apply_tile_d_image(m_, tile.count, coefficients, grad_, d_image_);
    guide.add_gradient(d_guide, tile.count, 1, m_.Ci, d_image_);
    store_block(block_of(a_.d_image, 2), first_pixel(a_.d_image, tile), tile.count, d_image_);
  }

 private:
  const SliceApplyGradArgs& a_;
  const Matrix& m_;
  const int64_t width_;
  const Block in_block_, grad_block_;
  Scratch memory_;
  T *image_, *d_image_, *grad_copy_;
  const T* grad_ = nullptr;
};

template <class T>
void sampled_apply_backward(const SliceApplyGradArgs& a, const GuideSource<T>& source) {
  const Lattice g = make_lattice(a.at, a.grid, a.grad, a.d_xy.data != nullptr);
  const Matrix m = make_matrix(a.grid, a.image);
  const bool done = with_tables<T>(g, [&](auto depth) {
    constexpr int D = decltype(depth)::value;
    if (is_matrix34(m)) {
      apply_backward_34<D, T>(a, g, source);
    } else {
      apply_backward_tables<D, T>(a, g, m, source);
    }
  });
  if (done) return;
  if (is_matrix34(m) && g.long_spans) return apply_backward_34<0, T>(a, g, source);
  const int64_t width = tile_width(2 * g.C);
  const bool d_image = a.d_image.data;
  sampled_backward(g, a.at, a.grid, a.d_grid, a.d_guide, a.d_xy, width, {d_image, d_image && source.reads_image()},
                   source, [&] { return ApplyGradients<T>(a, m, width); });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
