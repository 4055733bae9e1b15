// slice_apply: forward, then backward. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "apply.inl"
#include "cells.inl"
#include "drivers.inl"
#include "guide.inl"
#include "tables.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// What is done once a vector of pixels meanwhile: their like in a later tile is asked for. (Classes, as g++ takes a
// lambda that does no more than that for one without effect.)
template <class S, class T, class Guide>
struct ForwardPrefetch {
  const char *from, *to;
  const Guide& guide;
  BO_INLINE_MEMBER void operator()(int64_t p) const {
    constexpr int64_t kLanes = Vec<T>::kLanes, kBytes = 3 * kLanes * S::size;
    prefetch_ahead<kBytes>(from + p / kLanes * kBytes);
    prefetch_ahead<kBytes>(to + p / kLanes * kBytes);
    guide.prefetch(p);
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

// HDRnet's matrices under a lattice with tables, a tile in four passes: the image's channels, where the guide falls,
// the lookup, the result's pixels. (In one, a vector of pixels would wait for its cell while there is no room to begin
// with the next one.) S: the storage of the pixels.
template <class S, int D, class T, class Guide>
void sampled_apply_34(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image, const Lattice& g,
                      const Tiling& tiling, const Columns<T>& columns, Guide& guide, int64_t first, int64_t last) {
  using Pixels = Pixels3<S, T>;
  constexpr int64_t kPitch = kTileWidth + kPad;
  Pixels source(image), sink(out);
  Placer<T> placer(g, at, columns);
  Tables<T, D> tables(g, grid);
  alignas(64) T channels[3 * kPitch];
  alignas(64) T results[3 * kPitch];
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tile_at(tiling, index);
    const char* const from = source.load(tile);
    char* const to = sink.target(tile);
    pixels_to_planes<S>(from, tile.count, channels, kPitch);
    const Places<T>& places = placer.template find<false>(tile, guide(tile, channels, kPitch));
    for_spans(places, tile.count, [&](int64_t begin, int64_t end) {
      const SpanTables<T> span = tables.span(tile.n, places.row_k, places.row_t, places.kx[begin]);
      apply_span<D>(Matrix34(), span, places, begin, end, channels, results, kPitch,
                    ForwardPrefetch<S, T, Guide>{from, to, guide});
    });
    planes_to_pixels<S>(results, kPitch, tile.count, to);
    sink.put(tile);
  }
}

// The same where cells are fetched, of pixels where they lie or converted to numbers in scratch. Only a guide may want
// the image's channels.
template <class S, class T, class Guide>
void sampled_apply_34_fetched(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image,
                              const Lattice& g, const Tiling& tiling, const Columns<T>& columns, Guide& guide,
                              int64_t first, int64_t last) {
  using Pixels = Pixels3<S, T>;
  constexpr int64_t kPitch = kTileWidth + kPad;
  constexpr bool kConverted = S::size != sizeof(T);
  Pixels source(image), sink(out);
  Placer<T> placer(g, at, columns);
  RowTable<T, Packing::columns> rows(g, grid);
  alignas(64) T channels[3 * kPitch];
  alignas(64) T numbers[3 * kPitch];
  for (int64_t index = first; index < last; ++index) {
    const Tile tile = tile_at(tiling, index);
    const char* const from = source.load(tile);
    char* const to = sink.target(tile);
    if (Guide::reads_image) pixels_to_planes<S>(from, tile.count, channels, kPitch);
    const Places<T>& places = placer.template find<false>(tile, guide(tile, channels, kPitch));
    if (kConverted) load_run(image.dtype, from, S::size, 3 * tile.count, numbers, 1);
    const T* const in = kConverted ? numbers : reinterpret_cast<const T*>(from);
    T* const result = kConverted ? numbers : reinterpret_cast<T*>(to);
    rows.build(tile, places);
    apply_matrices(g, rows, places, tile.count, in, result, ForwardPrefetch<S, T, Guide>{from, to, guide});
    if (kConverted) store_run(out.dtype, to, S::size, 3 * tile.count, numbers, 1);
    sink.put(tile);
  }
}

// Grid sampled at the guide, coefficients applied to the image. The guide comes from make_guide(): an object a range of
// tiles, guide(tile, image, pitch) → [pixel], where image is [channel][pixel] with rows `pitch` apart, in whole
// vectors; guide.prefetch(pixel) asks for what a later tile needs, guide.reads_image says whether it wants the image at
// all.
template <class T, class MakeGuide>
void sampled_apply(const Sampling& at, const Tensor& out, const Tensor& grid, const Tensor& image_tensor, int64_t width,
                   const MakeGuide& make_guide) {
  const Lattice g = make_lattice(at, grid, image_tensor);
  const Matrix m = make_matrix(grid, image_tensor);
  const Columns<T> columns(g, at);
  if (is_matrix34(m)) {
    const Tiling tiling = make_tiling(g.N, g.H, g.W, kTileWidth);
    const auto run = [&](auto&& apply_tiles) {
      for_tile_ranges(tiling.count, kTileWidth, [&](int64_t first, int64_t last) {
        auto guide = make_guide();
        with_pixels(image_tensor, out, T(), [&](auto storage) { apply_tiles(storage, guide, first, last); });
      });
    };
    if constexpr (!kFetchesMatrices<T>) {
      const bool done = with_tables<T>(g, [&](auto depth) {
        constexpr int D = decltype(depth)::value;
        run([&](auto storage, auto& guide, int64_t first, int64_t last) {
          sampled_apply_34<decltype(storage), D>(at, out, grid, image_tensor, g, tiling, columns, guide, first, last);
        });
      });
      if (done) return;
    }
    if (g.spans) {
      return run([&](auto storage, auto& guide, int64_t first, int64_t last) {
        sampled_apply_34_fetched<decltype(storage)>(at, out, grid, image_tensor, g, tiling, columns, guide, first,
                                                    last);
      });
    }
  }
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const int64_t pitch = width + kPad;
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* image = memory.take<T>(pitch * (m.Ci + m.Co) + width * (g.C + m.Ci), true);
    T *result = image + pitch * m.Ci, *coefficients = result + pitch * m.Co, *pixels = coefficients + width * g.C;
    Placer<T> placer(g, at, columns);
    auto guide = make_guide();
    const bool done = with_tables<T>(g, [&](auto depth) {
      constexpr int D = decltype(depth)::value;
      Tables<T, D> tables(g, grid);
      for (int64_t index = first; index < last; ++index) {
        const Tile tile = tile_at(tiling, index);
        load_planar(image_tensor, tile, image, pitch);
        const Places<T>& places = placer.template find<false>(tile, guide(tile, image, pitch));
        for_spans(places, tile.count, [&](int64_t begin, int64_t end) {
          const SpanTables<T> span = tables.span(tile.n, places.row_k, places.row_t, places.kx[begin]);
          apply_span<D>(m, span, places, begin, end, image, result, pitch, [](int64_t) {});
        });
        store_planar(out, tile, result, pitch);
      }
    });
    if (done) return;
    const Samples<T> samples = {coefficients, nullptr, nullptr, nullptr, nullptr};
    const Block in_block = block_of(image_tensor, 2), out_block = block_of(out, 2);
    Sampler<T> sampler(g, grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      if (guide.reads_image) load_planar(image_tensor, tile, image, pitch);
      sampler.sample(tile, placer.template find<false>(tile, guide(tile, image, pitch)), samples);
      apply_tile(m, tile.count, coefficients, block_at(in_block, pixel(image_tensor, tile), tile.count, pixels),
                 result);
      store_block(out_block, pixel(out, tile), tile.count, result);
    }
  });
}

// A guide that is given.
template <class T>
class GivenGuide {
 public:
  static constexpr bool reads_image = false;
  explicit GivenGuide(const Tensor& guide) : guide_(guide) {}
  const T* operator()(const Tile& tile, const T*, int64_t) {
    const char* const from = pixel(guide_, tile);
    if (guide_.strides[2] == sizeof(T) && plain<T>(guide_.dtype, from)) {
      here_ = reinterpret_cast<const T*>(from);
    } else {
      load_run(guide_.dtype, from, guide_.strides[2], tile.count, plane_, 1);
      here_ = plane_;
    }
    return here_;
  }
  BO_INLINE_MEMBER void prefetch(int64_t p) const {
    prefetch_ahead<sizeof(Vec<T>)>(reinterpret_cast<const char*>(here_ + p));
  }

 private:
  const Tensor& guide_;
  const T* here_ = nullptr;
  T plane_[kTileWidth];
};

// A guide that is computed from the image.
template <class Guide>
class ComputedGuide {
 public:
  using T = typename Guide::T;
  static constexpr bool reads_image = true;
  explicit ComputedGuide(const Guide& guide) : guide_(guide) {}
  const T* operator()(const Tile& tile, const T* image, int64_t pitch) {
    guide_run(guide_, image, tile.count, pitch, plane_);
    return plane_;
  }
  void prefetch(int64_t) const {}

 private:
  const Guide& guide_;
  T plane_[kTileWidth + kPad];
};
template <class Guide>
struct MakeComputed {
  const Guide& guide;
  ComputedGuide<Guide> operator()() const { return ComputedGuide<Guide>(guide); }
};

template <class T>
void slice_apply_forward_as(const SliceApplyArgs& a) {
  const int64_t width = tile_width(a.grid.shape[4] * a.grid.shape[5]);
  if (!a.at.guide.data) {
    const Luma<T> luma;
    sampled_apply<T>(a.at, a.out, a.grid, a.image, width, MakeComputed<Luma<T>>{luma});
    return;
  }
  sampled_apply<T>(a.at, a.out, a.grid, a.image, width, [&] { return GivenGuide<T>(a.at.guide); });
}

// A tile's guide: what is given, or the luma of the image [channel][pixel] with rows `pitch` apart.
template <class T>
void load_guide(const Tensor& guide, const Tile& tile, const T* image, int64_t pitch, T* to) {
  if (guide.data) {
    load_plane(guide, tile, to);
  } else {
    guide_run(Luma<T>(), image, tile.count, pitch, to);
  }
}

// HDRnet's matrices under a lattice with tables: neither coefficients nor their gradients are stored.
template <class T, int D>
void slice_apply_backward_34(const SliceApplyGradArgs& a, const Lattice& g) {
  using S = Plain<T, T>;
  using Pixels = Pixels3<S, T>;
  constexpr int64_t kPitch = kTileWidth + kPad;
  const Tiling tiling = make_tiling(g.N, g.H, g.W, kTileWidth);
  const Columns<T> columns(g, a.at);
  const bool luma = !a.at.guide.data, slopes = a.d_image.data || a.d_guide.data;
  splat_tiles<T>(g, a.at, tiling, a.d_grid, [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Pixels image(a.image), grad(a.grad), d_image(a.d_image);
    alignas(64) T in[3 * kPitch];
    alignas(64) T d_out[3 * kPitch];
    alignas(64) T d_in[3 * kPitch];
    alignas(64) T guide[kPitch];
    alignas(64) T d_guide[kPitch];
    Placer<T> placer(g, a.at, columns);
    Tables<T, D> tables(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      const char* const in_pixels = image.load(tile);
      const char* const grad_pixels = grad.load(tile);
      if (slopes || luma) pixels_to_planes<S>(in_pixels, tile.count, in, kPitch);
      load_guide(a.at.guide, tile, in, kPitch, guide);
      const Places<T>& places = placer.find(tile, guide);
      if (splatter)
        splatter->add_outer(tile, places, reinterpret_cast<const T*>(in_pixels),
                            reinterpret_cast<const T*>(grad_pixels));
      if (!slopes) continue;
      pixels_to_planes<S>(grad_pixels, tile.count, d_out, kPitch);
      char* const to = d_image.target(tile);
      const char* const plane = a.d_guide.data ? pixel(a.d_guide, tile) : grad_pixels;
      for_spans(places, tile.count, [&](int64_t begin, int64_t end) {
        const SpanTables<T> span = tables.span(tile.n, places.row_k, places.row_t, places.kx[begin]);
        span_gradients<D>(Matrix34(), span, places, begin, end, in, d_out, d_in, d_guide, kPitch,
                          BackwardPrefetch<S, T>{in_pixels, grad_pixels, to, plane});
      });
      if (a.d_image.data) {
        if (luma) Luma<T>::add_gradient(d_guide, tile.count, kPitch, 1, d_in);
        planes_to_pixels<S>(d_in, kPitch, tile.count, to);
        d_image.put(tile);
      }
      if (a.d_guide.data) store_plane(a.d_guide, tile, d_guide);
    }
  });
}

// The same where cells are fetched.
template <class T>
void slice_apply_backward_34_fetched(const SliceApplyGradArgs& a, const Lattice& g) {
  using S = Plain<T, T>;
  using Pixels = Pixels3<S, T>;
  constexpr int64_t kPitch = kTileWidth + kPad;
  const Tiling tiling = make_tiling(g.N, g.H, g.W, kTileWidth);
  const Columns<T> columns(g, a.at);
  const bool luma = !a.at.guide.data, slopes = a.d_image.data || a.d_guide.data;
  splat_tiles<T>(g, a.at, tiling, a.d_grid, [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Pixels image(a.image), grad(a.grad), d_image(a.d_image);
    alignas(64) T channels[3 * kPitch];
    alignas(64) T guide[kPitch];
    alignas(64) T d_guide[kPitch];
    Placer<T> placer(g, a.at, columns);
    RowTable<T, Packing::rows> rows(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      const char* const in_pixels = image.load(tile);
      const char* const grad_pixels = grad.load(tile);
      const T *in = reinterpret_cast<const T*>(in_pixels), *d_out = reinterpret_cast<const T*>(grad_pixels);
      if (luma) pixels_to_planes<S>(in_pixels, tile.count, channels, kPitch);
      load_guide(a.at.guide, tile, channels, kPitch, guide);
      const Places<T>& places = placer.find(tile, guide);
      if (splatter) splatter->add_outer(tile, places, in, d_out);
      if (!slopes) continue;
      char* const to = d_image.target(tile);
      const char* const plane = a.d_guide.data ? pixel(a.d_guide, tile) : grad_pixels;
      rows.build(tile, places);
      matrix_gradients(g, rows, places, tile.count, in, d_out, reinterpret_cast<T*>(to), d_guide,
                       BackwardPrefetch<S, T>{in_pixels, grad_pixels, to, plane});
      if (a.d_image.data) {
        if (luma) Luma<T>::add_gradient(d_guide, tile.count, 1, 3, reinterpret_cast<T*>(to));
        d_image.put(tile);
      }
      if (a.d_guide.data) store_plane(a.d_guide, tile, d_guide);
    }
  });
}

// Other matrices under such a lattice.
template <class T, int D>
void slice_apply_backward_tables(const SliceApplyGradArgs& a, const Lattice& g, const Matrix& m) {
  const int64_t width = tile_width(2 * g.C), pitch = width + kPad;
  const Block in_block = block_of(a.image, 2), grad_block = block_of(a.grad, 2);
  const Tiling tiling = make_tiling(g.N, g.H, g.W, width);
  const Columns<T> columns(g, a.at);
  const bool luma = !a.at.guide.data;
  splat_tiles<T>(g, a.at, tiling, a.d_grid, [&](int64_t first, int64_t last, Splatter<T>* splatter) {
    Scratch memory;
    T* image = memory.take<T>(pitch * (2 * m.Ci + m.Co + 2) + width * (g.C + m.Ci + m.Co), true);
    T *grad = image + pitch * m.Ci, *d_image = grad + pitch * m.Co, *guide = d_image + pitch * m.Ci;
    T *d_guide = guide + pitch, *contributions = d_guide + pitch;
    T *pixels = contributions + width * g.C, *grads = pixels + width * m.Ci;
    Placer<T> placer(g, a.at, columns);
    Tables<T, D> tables(g, a.grid);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planar(a.image, tile, image, pitch);
      load_planar(a.grad, tile, grad, pitch);
      load_guide(a.at.guide, tile, image, pitch, guide);
      const Places<T>& places = placer.find(tile, guide);
      if (a.d_image.data || a.d_guide.data) {
        for_spans(places, tile.count, [&](int64_t begin, int64_t end) {
          const SpanTables<T> span = tables.span(tile.n, places.row_k, places.row_t, places.kx[begin]);
          span_gradients<D>(m, span, places, begin, end, image, grad, d_image, d_guide, pitch, [](int64_t) {});
        });
      }
      if (splatter) {
        apply_tile_d_coefficients(m, tile.count, block_at(in_block, pixel(a.image, tile), tile.count, pixels),
                                  block_at(grad_block, pixel(a.grad, tile), tile.count, grads), contributions);
        splatter->add(tile, places, contributions);
      }
      if (a.d_image.data) {
        if (luma) Luma<T>::add_gradient(d_guide, tile.count, pitch, 1, d_image);
        store_planar(a.d_image, tile, d_image, pitch);
      }
      if (a.d_guide.data) store_plane(a.d_guide, tile, d_guide);
    }
  });
}

template <class T>
void slice_apply_backward_as(const SliceApplyGradArgs& a) {
  const Lattice g = make_lattice(a.at, a.grid, a.grad, a.d_xy.data != nullptr);
  const Matrix m = make_matrix(a.grid, a.image);
  const bool done = with_tables<T>(g, [&](auto depth) {
    constexpr int D = decltype(depth)::value;
    if (is_matrix34(m)) {
      slice_apply_backward_34<T, D>(a, g);
    } else {
      slice_apply_backward_tables<T, D>(a, g, m);
    }
  });
  if (done) return;
  if (is_matrix34(m) && g.spans) return slice_apply_backward_34_fetched<T>(a, g);
  const int64_t width = tile_width(2 * g.C);
  const bool luma = !a.at.guide.data;
  struct Worker {
    const SliceApplyGradArgs& a;
    const Matrix& m;
    Block in_block, grad_block;
    Scratch memory;
    int64_t width;
    T *image, *d_image, *grad_numbers;
    const T* grad = nullptr;
    Worker(const SliceApplyGradArgs& args, const Matrix& matrix, int64_t tile)
        : a(args), m(matrix), in_block(block_of(a.image, 2)), grad_block(block_of(a.grad, 2)), width(tile) {
      image = memory.template take<T>(width * (2 * m.Ci + m.Co), true);
      d_image = image + width * m.Ci;
      grad_numbers = d_image + width * m.Ci;
    }
    void guide(const Tile& tile, T* to) {
      if (!a.at.guide.data) load_planar(a.image, tile, image, width);
      load_guide(a.at.guide, tile, image, width, to);
    }
    const T* contribute(const Tile& tile, T* d_coefficients) {
      grad = block_at(grad_block, pixel(a.grad, tile), tile.count, grad_numbers);
      apply_tile_d_coefficients(m, tile.count, block_at(in_block, pixel(a.image, tile), tile.count, image), grad,
                                d_coefficients);
      return d_coefficients;
    }
    void finish(const Tile& tile, const T* coefficients, const T* d_guide) {
      apply_tile_d_image(m, tile.count, coefficients, grad, d_image);
      if (!a.at.guide.data) Luma<T>::add_gradient(d_guide, tile.count, 1, m.Ci, d_image);
      store_block(block_of(a.d_image, 2), pixel(a.d_image, tile), tile.count, d_image);
    }
  };
  const bool d_image = a.d_image.data;
  sampled_backward<T>(g, a.at, a.grid, a.d_grid, a.d_guide, a.d_xy, width, {d_image, d_image && luma},
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
