// The guides as operations, guide_curves, guide_nn and guide_luma: forward, then backward. Equations: ../ops.h
#pragma once

#include "guides/curves.inl"
#include "guides/luma.inl"
#include "guides/nn.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

// Calls f with the guide that the parameters describe, for images of `channels` channels. differentiated: whether f
// needs its gradients
template <class T, class F>
void with_guide(const GuideParameters& p, int64_t channels, bool differentiated, F&& f) {
  switch (p.kind) {
    case GuideKind::curves: return f(Curves<T>(p, channels, differentiated));
    case GuideKind::nn: return f(Network<T>(p, channels));
    case GuideKind::luma: return f(Luma<T>(p, channels));
  }
}

template <class Guide>
void guide_forward_as(const GuideArgs& a, const Guide& guide) {
  using T = typename Guide::T;
  const int64_t Ci = a.image.shape[3], width = tile_width(Ci + 1);
  const Tiling tiling = make_tiling(a.out.shape[0], a.out.shape[1], a.out.shape[2], width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* image = memory.take<T>(width * (Ci + 1), true);
    T* out = image + width * Ci;
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planes(a.image, tile, image, width);
      guide_run(guide, image, tile.count, width, out);
      store_plane(a.out, tile, out);
    }
  });
}

// The luma has no parameters, and its gradient does not depend on the image.
template <class T>
void guide_backward_as(const GuideGradArgs& a, const Luma<T>&) {
  if (!a.d_image.data) return;
  const Tiling tiling = make_tiling(a.grad.shape[0], a.grad.shape[1], a.grad.shape[2], kTileWidth);
  for_tile_ranges(tiling.count, kTileWidth, [&](int64_t first, int64_t last) {
    with_pixel_storage(a.d_image, a.d_image, T(), [&](auto storage) {
      using S = decltype(storage);
      Pixels3<S, T> d_image(a.d_image);
      alignas(64) T grad[kTileWidth + kPad] = {};
      for (int64_t index = first; index < last; ++index) {
        const Tile tile = tile_at(tiling, index);
        load_plane(a.grad, tile, grad);
        char* to = d_image.target(tile);
        for (int64_t p = 0; p < tile.count; p += Vec<T>::kLanes, to += d_image.kBytes) {
          Vec<T> v[3];
          for (int j = 0; j < 3; ++j) v[j] = broadcast(T(luma_weight(j))) * load(grad + p);
          prefetch_ahead<Pixels3<S, T>::kBytes>(to);
          store_interleaved3<S>(to, v);
        }
        d_image.store(tile);
      }
    });
  });
}

template <class Guide>
void guide_backward_as(const GuideGradArgs& a, const Guide& guide) {
  using T = typename Guide::T;
  // At least 64 pixels: with many channels, tiles that outgrow the cache cost less than loops over a few vectors.
  const int64_t Ci = a.image.shape[3], width = max_of<int64_t>(64, tile_width(2 * Ci + guide.scratch()));
  const int64_t size = guide.sums() * Vec<T>::kLanes;
  const Tiling tiling = make_tiling(a.grad.shape[0], a.grad.shape[1], a.grad.shape[2], width);
  const int64_t bands = band_count(tiling.count, width);
  Scratch sums_memory;
  double* sums = sums_memory.take<double>(bands * size, true);
  for_units(bands, [&](int64_t band) {
    Scratch memory;
    T* image = memory.take<T>(width * (2 * Ci + guide.scratch() + 1), true);
    T *d_image = image + width * Ci, *scratch = d_image + width * Ci, *grad = scratch + width * guide.scratch();
    for (int64_t index = tiling.count * band / bands; index < tiling.count * (band + 1) / bands; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_planes(a.image, tile, image, width);
      load_plane(a.grad, tile, grad);
      const int64_t count = ceil_div(tile.count, kPad) * kPad;
      for (int64_t p = tile.count; p < count; ++p) {
        grad[p] = T(0);
        for (int64_t c = 0; c < Ci; ++c) image[c * width + p] = image[c * width + tile.count - 1];
      }
      guide.gradient(image, grad, count, width, scratch, d_image, LaneSums<T>(sums + band * size));
      if (a.d_image.data) store_planes(a.d_image, tile, d_image, width);
    }
  });
  for (int64_t band = 1; band < bands; ++band)
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[band * size + i];
  Scratch result_memory;
  T* result = result_memory.take<T>(guide.parameters());
  guide.gradients(LaneSums<T>(sums), result);
  for (int i = 0; i < Guide::kParameters; ++i) {
    const Tensor& to = a.d_value[i];
    const T* from = result;
    if (to.data) {
      parameter_rows(to, [&](int64_t at, int64_t stride, int64_t columns) {
        store_run(to.dtype, to.data + at, stride, columns, from, 1);
        from += columns;
      });
    }
    // Gradients that are not wanted have their place in the sums, too.
    result += ParameterValues<T>::element_count(a.parameters.value[i]);
  }
}

void guide_forward(const GuideArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.parameters, a.image.shape[3], false,
                            [&](const auto& guide) { guide_forward_as(a, guide); });
  });
}
void guide_backward(const GuideGradArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) {
    with_guide<decltype(t)>(a.parameters, a.image.shape[3], true,
                            [&](const auto& guide) { guide_backward_as(a, guide); });
  });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
