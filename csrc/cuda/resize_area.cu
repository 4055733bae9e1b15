// resize_area: forward, then backward. Equations: ../ops.h
//
// A thread block makes a patch of the output, each of its warps some of the rows. For a row, a warp first sums the
// input in y: the elements of all pixels that the patch's columns cover, [pixel][channel], adjacent ones by adjacent
// threads. These sums, a strip, lie in shared memory, where the warp then sums them in x. Rows with the same footprint
// share a strip.
#include <type_traits>

#include "kernels.cuh"
#include "reduction.cuh"
#include "tiles.cuh"

namespace bilateral_ops {

constexpr int kThreads = 256;      // of add_footprint_bands
constexpr int kStrip = 512;        // elements
constexpr int kMostRows = 64;      // of a patch; it has up to kPatchWidth columns
constexpr int kMostChannels = 32;  // that a warp sums at a time

// One axis: each of `out` output pixels is a weighted sum of the input pixels in its footprint, of `in` in all. The
// weight of an input pixel is the length of it in the footprint (formulas.h) times `share`.
struct AreaAxis {
  int64_t out, in;
  double share;
};
// The input pixels of one output pixel, [begin, end), and the weights of the first, the last and the others. A single
// one is the first and the last.
struct Cover {
  int64_t begin, end;
  double head, body, tail;
};
BO_DEVICE Cover cover(const AreaAxis& axis, int64_t i) {
  const auto weighted = [&](const auto& f) -> Cover {
    const auto tail = f.end - f.begin == 1 ? f.head : f.tail;
    return {f.begin, f.end, static_cast<double>(f.head) * axis.share, static_cast<double>(axis.out) * axis.share,
            static_cast<double>(tail) * axis.share};
  };
  // Division of 32 bits is much faster.
  constexpr int64_t kShort = 0x7fff;
  if (axis.out <= kShort && axis.in <= kShort)
    return weighted(footprint(static_cast<int32_t>(i), static_cast<int32_t>(axis.out), static_cast<int32_t>(axis.in)));
  return weighted(footprint(i, axis.out, axis.in));
}
BO_DEVICE double weight(const Cover& at, int64_t i) {
  return i == at.begin ? at.head : i == at.end - 1 ? at.tail : at.body;
}
// The same for an output column of a patch, which makes elements e of the patch's row: places in the strip, from e on,
// of the first pixel and the last, and their weights. A single pixel is both, with half of its weight. Columns 0, 4, 8,
// … come first, then 1, 5, 9, …: a thread that makes four neighbouring ones reads what is beside the next thread's.
BO_DEVICE int slot_of(int column) { return column % 4 * (kPatchWidth / 4) + column / 4; }
struct alignas(8) Places {
  int first, last;
};
struct alignas(16) Weights {
  double first, last;
};

// Integers are summed as levels, not as v/255. The weights are then lengths, so sums are whole numbers, and the
// division by the sum of the weights is the only rounding.
template <class Level>
struct Whole {
  using Bits = Level;
  static BO_INLINE_MEMBER uint32_t value(Bits v) { return v; }
  static BO_INLINE_MEMBER Bits bits(uint32_t v) { return static_cast<Bits>(v); }
};
template <class F>
BO_DEVICE void with_levels(DType dtype, F&& f) {
  if (dtype == DType::u8) {
    f(Storage<Whole<uint8_t>>());
  } else {
    f(Storage<Whole<uint16_t>>());
  }
}
// Calls f with the storage of the input. T: double, float, or uint32_t for levels
template <class T, class F>
BO_DEVICE void with_input(DType dtype, F&& f) {
  if constexpr (std::is_same<T, uint32_t>::value) {
    with_levels(dtype, f);
  } else {
    with_storage<false>(dtype, T(), f);
  }
}

struct AreaArgs {
  Tensor out, image;
  AreaAxis y, x;
  double area, scale;    // integer output: sums are divided by `area`; float output: they are multiplied by `scale`
  int columns, rows;     // of a patch
  int64_t across, down;  // patches
  int channels;          // that are summed at a time, in `groups`
  int64_t groups;
  bool wide;      // the threads of a warp share one footprint, of which a strip may hold a part: patches of one column
  int64_t bands;  // the rows of each footprint are cut into bands with sums of their own
  double* sums;   // of the bands, [n][i][j][band][channel]; null if there is one band

  // The pixel of an element of a strip or of a patch's row, element/channels. These are below 2^12, the quotient 2^10.
  uint32_t reciprocal;  // 2^20/channels, rounded up
  __device__ int pixel_of(int element) const { return static_cast<int>(element * reciprocal >> 20); }
};

// Calls f with the storage of the output, and the function that makes an element of a sum.
template <class F>
BO_DEVICE void with_output(const AreaArgs& a, F&& f) {
  if (a.out.dtype == DType::u8 || a.out.dtype == DType::u16) {
    const double area = a.area;
    with_levels(a.out.dtype, [&](auto storage) {
      f(storage, [=](double sum) { return static_cast<uint32_t>(static_cast<int>(rounded(sum / area))); });
    });
    return;
  }
  const double scale = a.scale;
  if (a.out.dtype == DType::f64) {
    f(Storage<F64>(), [=](double sum) { return sum * scale; });
  } else {
    with_storage<false>(a.out.dtype, float(),
                        [&](auto storage) { f(storage, [=](double sum) { return static_cast<float>(sum * scale); }); });
  }
}

BO_DEVICE double add_weighted(double sum, double weight, double v) { return mul_add(weight, v, sum); }
BO_DEVICE uint32_t add_weighted(uint32_t sum, uint32_t weight, uint32_t v) { return weight * v + sum; }

// Sums rows [begin, end) of a footprint by the threads of a warp: `count` elements, of which `from` is the first in row
// 0. vectors: they are adjacent, and in every row they are whole vectors. Sum: double, or uint32_t where that can hold
// the sums of levels
template <class Sum, class S>
BO_DEVICE void sum_rows(const AreaArgs& a, S, const char* from, const Cover& rows, int64_t begin, int64_t end,
                        int count, bool vectors, double* strip) {
  const Sum head = static_cast<Sum>(rows.head), body = static_cast<Sum>(rows.body), tail = static_cast<Sum>(rows.tail);
  const int64_t first = rows.begin, last = rows.end - 1, step = a.image.strides[1];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Calls add(address, weight) for the elements at `offset` in all rows.
  const auto each_row = [&](int64_t offset, auto unrolled, const auto& add) {
    const char* p = from + begin * step + offset;
#pragma unroll(decltype(unrolled)::value)
    for (int64_t y = begin; y < end; ++y, p += step) add(p, y == first ? head : y == last ? tail : body);
  };
  if (vectors) {
#pragma unroll 1
    for (int e = 4 * lane; e < count; e += 128) {
      Sum sums[4] = {};
      each_row(e * S::size, std::integral_constant<int, 4>(), [&](const char* p, Sum weight) {
        const Vec4<typename S::T> v = S::load(p);
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[k] = add_weighted(sums[k], weight, static_cast<Sum>(v.at[k]));
      });
#pragma unroll
      for (int k = 0; k < 4; ++k) strip[e + k] = static_cast<double>(sums[k]);
    }
  } else {
#pragma unroll 1
    for (int e = lane; e < count; e += 32) {
      const int pixel = a.pixel_of(e), c = e - pixel * a.channels;
      Sum sum = Sum(0);
      each_row(pixel * a.image.strides[2] + c * a.image.strides[3], std::integral_constant<int, 2>(),
               [&](const char* p, Sum weight) { sum = add_weighted(sum, weight, static_cast<Sum>(S::load_one(p))); });
      strip[e] = static_cast<double>(sum);
    }
  }
}

// What the warps of a thread block sum: a patch of the output, for some channels, from the input columns [begin, end)
struct AreaPatch {
  int64_t offset;  // in bytes, of the first of the channels in image n (no address, which would be one of any memory)
  int64_t n, top, left, channel, begin, end;
  int width, height;
  bool vectors;  // the rows of the input are vectors of adjacent elements
  int before;    // elements of the first vector that are before the first pixel
};
template <class T>
BO_DEVICE AreaPatch area_patch(const AreaArgs& a, int64_t index) {
  const int64_t place = index / a.groups, line = place / a.across, n = line / a.down;
  AreaPatch to;
  to.n = n;
  to.top = (line - n * a.down) * a.rows;
  to.left = (place - line * a.across) * a.columns;
  to.channel = (index - place * a.groups) * a.channels;
  to.width = static_cast<int>(min_of<int64_t>(a.columns, a.x.out - to.left));
  to.height = static_cast<int>(min_of<int64_t>(a.rows, a.y.out - to.top));
  to.begin = cover(a.x, to.left).begin;
  to.end = cover(a.x, to.left + to.width - 1).end;
  to.offset = n * a.image.strides[0] + to.channel * a.image.strides[3];
  with_input<T>(a.image.dtype, [&](auto storage) {
    using S = decltype(storage);
    to.vectors = a.groups == 1 && a.image.strides[2] == a.channels * S::size &&
                 (a.channels == 1 || a.image.strides[3] == S::size) && S::is_vector(a.image.data + to.offset) &&
                 a.x.in * a.channels % 4 == 0 && a.image.strides[1] % (4 * S::size) == 0;
  });
  to.before = to.vectors ? static_cast<int>(to.begin * a.channels % 4) : 0;
  return to;
}

// Sums the input columns [from, to) in y, over a band of a footprint, by the threads of a warp.
template <class T, class Sum>
BO_DEVICE void fill_strip(const AreaArgs& a, const AreaPatch& patch, const Cover& rows, int64_t band, int64_t from,
                          int64_t to, double* strip) {
  const int64_t size = rows.end - rows.begin;
  const int64_t begin = rows.begin + size * band / a.bands, end = rows.begin + size * (band + 1) / a.bands;
  __syncwarp();  // the strip has been read
  with_input<T>(a.image.dtype, [&](auto storage) {
    sum_rows<Sum>(a, storage, a.image.data + patch.offset + from * a.image.strides[2] - patch.before * storage.size,
                  rows, begin, end, static_cast<int>(to - from) * a.channels + patch.before, patch.vectors, strip);
  });
  __syncwarp();
}

// Stores a row of a patch, or leaves it as a band's sums. sum(p, e): element e, of output column p
template <class F>
BO_DEVICE void store_sums(const AreaArgs& a, const AreaPatch& patch, int64_t i, int64_t band, const F& sum) {
  const int lane = static_cast<int>(threadIdx.x) % 32, elements = patch.width * a.channels;
  if (a.bands > 1) {
    const int64_t C = a.out.shape[3], step = a.bands * C - a.channels;
    double* const to =
        a.sums + ((patch.n * a.y.out + i) * a.x.out + patch.left) * a.bands * C + band * C + patch.channel;
#pragma unroll 1
    for (int e = lane; e < elements; e += 32) {
      const int p = a.pixel_of(e);
      to[p * step + e] = sum(p, e);
    }
    return;
  }
  with_output(a, [&](auto storage, const auto& element) {
    using S = decltype(storage);
    char* to = address_of(a.out, patch.n, i, patch.left) + patch.channel * a.out.strides[3];
    const bool dense = a.out.strides[2] == a.channels * S::size && (a.channels == 1 || a.out.strides[3] == S::size);
    if (dense && S::is_aligned(to)) {
      to += lane * S::size;
      for (int e = lane; e < elements; e += 32, to += 32 * S::size)
        S::store_aligned(to, element(sum(a.pixel_of(e), e)));
    } else {
      const int64_t step = a.out.strides[2] - a.channels * a.out.strides[3];
#pragma unroll 1
      for (int e = lane; e < elements; e += 32) {
        const int p = a.pixel_of(e);
        S::store_one(to + p * step + e * a.out.strides[3], element(sum(p, e)));
      }
    }
  });
}

// kWide: the threads of a warp share one footprint, of which a strip may hold only a part; patches have one column.
template <class T, class Sum, bool kWide>
__global__ void __launch_bounds__(kPatchThreads, sizeof(T) == sizeof(double) ? 4 : 5) sum_footprints(AreaArgs a) {
  __shared__ __align__(32) double strips[kPatchWarps * kStrip];
  __shared__ Places places[kPatchWidth];
  __shared__ Weights weights[kPatchWidth];
  __shared__ Cover rows[kMostRows];
  __shared__ AreaPatch patch;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  double* const strip = strips + warp * kStrip;
  const int64_t splits = ceil_div(a.bands, kPatchWarps), patches = a.out.shape[0] * a.down * a.across * a.groups;
  for (int64_t unit = blockIdx.x; unit < patches * splits; unit += gridDim.x) {
    const int64_t first_band = unit % splits * kPatchWarps;
    if (t == 0) patch = area_patch<T>(a, unit / splits);
    __syncthreads();
    if (t < patch.height) rows[t] = cover(a.y, patch.top + t);
    if (!kWide && t < patch.width) {
      const Cover at = cover(a.x, patch.left + t);
      const bool single = at.end - at.begin == 1;
      const int first = static_cast<int>(at.begin - patch.begin - t) * a.channels + patch.before;
      places[slot_of(t)] = {first, first + static_cast<int>(at.end - 1 - at.begin) * a.channels};
      weights[slot_of(t)] = single ? Weights{0.5 * at.head, 0.5 * at.head} : Weights{at.head, at.tail};
    }
    __syncthreads();
    const bool banded = a.bands > 1;
    const int items = banded ? static_cast<int>(min_of<int64_t>(kPatchWarps, a.bands - first_band)) : patch.height;
    const int first_item = items * warp / kPatchWarps;
    for (int item = first_item; item < items * (warp + 1) / kPatchWarps; ++item) {
      const int row = banded ? 0 : item;
      const int64_t band = banded ? first_band + item : 0, i = patch.top + row;
      const Cover& at = rows[row];
      if constexpr (kWide) {
        const Cover across = cover(a.x, patch.left);
        double total = 0.0;  // of channel `lane`
        const int most = (kStrip - 3) / a.channels & ~3;
        for (int64_t from = patch.begin; from < patch.end; from += most) {
          const int pixels = static_cast<int>(min_of<int64_t>(most, patch.end - from));
          fill_strip<T, Sum>(a, patch, at, band, from, from + pixels, strip);
          for (int c = 0; c < a.channels; ++c) {
            double sum = 0.0;
            for (int x = lane; x < pixels; x += 32)
              sum = mul_add(weight(across, from + x), strip[patch.before + x * a.channels + c], sum);
            sum = warp_sum(sum);
            if (lane == c) total += sum;
          }
        }
        store_sums(a, patch, i, band, [=](int, int) { return total; });  // a thread's channel is its element
      } else {
        const Cover& previous = rows[max_of(row - 1, 0)];
        if (item == first_item || banded || at.begin != previous.begin || at.end != previous.end ||
            at.head != previous.head || at.tail != previous.tail)
          fill_strip<T, Sum>(a, patch, at, band, patch.begin, patch.end, strip);
        const double body = static_cast<double>(a.x.out) * a.x.share;
        const int own = warp * kStrip;
        const auto ends = [&](const Places& place, const Weights& weight, int e) {
          return mul_add(weight.last, strips[place.last + own + e], weight.first * strips[place.first + own + e]);
        };
        if (a.x.in > a.x.out) {
          store_sums(a, patch, i, band, [&](int p, int e) {
            const Places place = places[slot_of(p)];
            double sum = ends(place, weights[slot_of(p)], e);
            for (int x = place.first + a.channels; x < place.last; x += a.channels)
              sum = mul_add(body, strips[x + own + e], sum);
            return sum;
          });
        } else if (std::is_same<T, float>::value && a.groups == 1 && a.channels == 3 && !banded &&
                   a.out.dtype != DType::f64) {
          // RGB: four neighbouring pixels a thread, whose channels share places and weights
          float v[4][3];
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            // Those beyond the last column are not there.
            const bool there = 4 * lane + q < patch.width;
            const int slot = there ? q * (kPatchWidth / 4) + lane : 0, e = there ? 3 * (4 * lane + q) : 0;
            const Places place = places[slot];
            const Weights weight = weights[slot];
#pragma unroll
            for (int c = 0; c < 3; ++c) v[q][c] = static_cast<float>(ends(place, weight, e + c) * a.scale);
          }
          store_pixels4(a.out, address_of(a.out, patch.n, i, patch.left + 4 * lane),
                        pixel_mask(4 * lane, 0, patch.width), v);
        } else {
          store_sums(a, patch, i, band, [&](int p, int e) { return ends(places[slot_of(p)], weights[slot_of(p)], e); });
        }
      }
    }
    __syncthreads();  // the footprints have been read
  }
}

// Adds the bands in their order. One thread per element of the output.
__global__ void __launch_bounds__(kThreads) add_footprint_bands(AreaArgs a) {
  const int64_t C = a.out.shape[3], count = a.out.shape[0] * a.y.out * a.x.out * C;
  for (int64_t e = blockIdx.x * int64_t(kThreads) + threadIdx.x; e < count; e += gridDim.x * int64_t(kThreads)) {
    const int64_t pixel = e / C, c = e - pixel * C;
    const int64_t row = pixel / a.x.out, j = pixel - row * a.x.out, n = row / a.y.out, i = row - n * a.y.out;
    double sum = 0.0;
    for (int64_t band = 0; band < a.bands; ++band) sum += a.sums[(pixel * a.bands + band) * C + c];
    with_output(a, [&](auto storage, const auto& element) {
      storage.store_one(address_of(a.out, n, i, j) + c * a.out.strides[3], element(sum));
    });
  }
}

namespace cuda {

// How the output is cut into patches, whose strips fit in shared memory, and footprints into bands
static void plan_patches(AreaArgs& a) {
  const int64_t C = a.out.shape[3];
  a.groups = ceil_div(C, kMostChannels);
  while (C % a.groups != 0) ++a.groups;
  a.channels = static_cast<int>(C / a.groups);
  a.reciprocal = static_cast<uint32_t>(ceil_div(1 << 20, a.channels));
  // So many pixels, and one that is covered in part, fit in a strip beside the elements to the previous vector.
  const int64_t most = (kStrip - 3) / a.channels - 1;
  const int64_t columns = min_of(min_of<int64_t>(kPatchWidth, a.x.out), most * a.x.out / a.x.in);
  a.wide = columns == 0 || a.x.in / a.x.out >= 32;
  a.columns = static_cast<int>(a.wide ? 1 : columns < 4 || a.x.in > a.x.out ? columns : columns & ~int64_t(3));
  a.across = ceil_div(a.x.out, a.columns);
  // Enough warps to keep a device busy: the rows of footprints are shared, too, if there are few output pixels.
  constexpr int64_t kBusy = 4096;
  const int64_t lines = a.out.shape[0] * a.across * a.groups;
  a.bands = max_of<int64_t>(1, min_of(kBusy / (lines * a.y.out), a.y.in / a.y.out / 8));
  // Rows share the work of finding columns' footprints, which is much where these are small.
  const int least = a.bands > 1 ? 1 : a.x.in <= a.x.out ? 16 : kPatchWarps;
  a.rows = a.bands > 1 ? 1 : kMostRows;
  while (a.rows > least && lines * ceil_div(a.y.out, a.rows) * kPatchWarps < kBusy) a.rows /= 2;
  a.down = ceil_div(a.y.out, a.rows);
}

static void sum_areas(const Tensor& out, const Tensor& image, double height, double width, Launch& to) {
  if (is_empty(out) || is_empty(image)) return;
  AreaArgs a{out, image, {out.shape[1], image.shape[1], 1.0 / height}, {out.shape[2], image.shape[2], 1.0 / width}};
  a.area = static_cast<double>(a.y.in) * static_cast<double>(a.x.in);
  a.scale = is_integer(image.dtype) ? 1.0 / (a.area * top_level(image.dtype)) : 1.0;
  plan_patches(a);
  const int64_t elements = out.shape[0] * a.y.out * a.x.out * out.shape[3];
  if (a.bands > 1) a.sums = workspace<double>(to, elements * a.bands);
  const int64_t blocks = out.shape[0] * a.down * a.across * a.groups * ceil_div(a.bands, kPatchWarps);
  const auto sum = [&](auto t, auto s) {
    using T = decltype(t);
    using Sum = decltype(s);
    launch(to, a.wide ? sum_footprints<T, Sum, true> : sum_footprints<T, Sum, false>, blocks, kPatchThreads, 0, a);
  };
  if (image.dtype == DType::f64) {
    sum(double(), double());
  } else if (!is_integer(image.dtype)) {
    sum(float(), double());
  } else if (static_cast<double>(a.y.in) * top_level(image.dtype) < 4294967296.0) {
    sum(uint32_t(), uint32_t());
  } else {
    sum(uint32_t(), double());
  }
  if (a.bands > 1) launch(to, add_footprint_bands, ceil_div(elements, kThreads), kThreads, 0, a);
}

void resize_area_forward(const ResizeAreaArgs& a, Launch& to) {
  const auto unit = [&](int axis) {
    return is_integer(a.image.dtype) ? 1.0 : static_cast<double>(a.image.shape[axis]);
  };
  sum_areas(a.out, a.image, unit(1), unit(2), to);
}

void resize_area_backward(const ResizeAreaGradArgs& a, Launch& to) {
  sum_areas(a.d_image, a.grad, static_cast<double>(a.d_image.shape[1]), static_cast<double>(a.d_image.shape[2]), to);
}

}  // namespace cuda
}  // namespace bilateral_ops
