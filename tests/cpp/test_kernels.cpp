// Are the kernels of every instruction set right, whatever the shapes, dtypes and strides, and do threads not matter?
//
//   test_kernels          exits 0 where every answer is yes
//   test_kernels --break  spoils one result of each question, and exits 1 where every one was noticed
//
// The answer that is wanted is the scalar build's in float64. How far from it a result may be follows from how far its
// arguments' last digits move it: arguments are perturbed a few times by a small share of themselves, and
//
//   |result − wanted| ≤ kTolerance · unit roundoff · (max |wanted| + max |perturbed − wanted| / share)
//
// with the unit roundoff of the type that is computed in, plus one unit of the dtype that is stored. Arguments keep
// clear of kinks, where that says nothing.
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "../../csrc/cpu/dispatch.h"
#include "../../csrc/cpu/parallel.h"
#include "../../csrc/formulas.h"
#include "question.h"

namespace {
bool breaking = false;
int questions = 0, wrong_answers = 0;
}  // namespace

Question::Question(const char* subject_, const char* text_) : subject(subject_), text(text_) {}
Question::~Question() {
  ++questions;
  if (wrong || !asked) ++wrong_answers;
  printf("%-7s %-60s %s", subject, text, wrong || !asked ? "NO" : "yes");
  if (wrong) printf(", %lld of %lld: %s", wrong, asked, first);
  if (!wrong) printf(" (%lld", asked);
  if (!wrong && worst > 0.0) printf(", at most %.2f of the tolerance", worst);
  printf(wrong ? "\n" : ")\n");
  fflush(stdout);
}
void Question::expect(bool right, const char* where, double got, double wanted) {
  ++asked;
  if (!right && !wrong++) snprintf(first, sizeof first, "%s: got %.9g, not %.9g", where, got, wanted);
}
bool Question::to_be_broken() {
  const bool now = breaking && !broken;
  broken = broken || now;
  return now;
}

namespace bilateral_ops {

namespace scalar {
void check_lanes(char* edge);
}
#if defined(BO_BUILD_X86)
namespace avx2 {
void check_lanes(char* edge);
}
namespace avx512 {
void check_lanes(char* edge);
}
#elif defined(BO_BUILD_AARCH64)
namespace neon {
void check_lanes(char* edge);
}
#endif

namespace {

constexpr double kTolerance = 64.0;
constexpr double kShare = 0x1p-26;  // of an argument, by which it is perturbed
constexpr double kClear = 0.01;     // how far from kinks arguments keep, in cells or as a value

// ---------------------------------------------------------------------------------------------------------------------
// Arrays

using Shape = std::vector<int64_t>;
using Numbers = std::vector<double>;

int64_t volume(const Shape& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

// What an array is decides its dtype.
enum class Role { image, values, guide, gradient, guide_result };
struct Kinds {
  const char* name;
  DType image, values, guide;
};
constexpr Kinds kExact = {"float64", DType::f64, DType::f64, DType::f64};
const Kinds one_kind[] = {{"float32", DType::f32, DType::f32, DType::f32},
                          kExact,
                          {"float16", DType::f16, DType::f16, DType::f16},
                          {"bfloat16", DType::bf16, DType::bf16, DType::bf16}};
const Kinds beside_float32[] = {{"float16 image", DType::f16, DType::f32, DType::f32},
                                {"bfloat16 image", DType::bf16, DType::f32, DType::f32},
                                {"uint8 image", DType::u8, DType::f32, DType::f32},
                                {"uint16 image", DType::u16, DType::f32, DType::f32}};

DType dtype_of(Role role, const Kinds& kinds) {
  switch (role) {
    case Role::image: return kinds.image;
    case Role::values: return kinds.values;
    case Role::guide: return kinds.guide;
    default: return is_integer(kinds.image) ? DType::f32 : kinds.image;
  }
}
size_t size_of(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : dtype == DType::u8 ? 1 : 2; }
// One unit in the last place of a stored number; of float32 and float64, which are computed in, none is added.
double storage_unit(DType dtype, double v) {
  switch (dtype) {
    case DType::f16: return std::max(std::fabs(v), 0x1p-14) * 0x1p-10;
    case DType::bf16: return std::fabs(v) * 0x1p-7;
    case DType::u8: return 1.001 / 255.0;
    case DType::u16: return 1.001 / 65535.0;
    default: return 0.0;
  }
}

template <class N>
void put(char* p, N v) {
  memcpy(p, &v, sizeof v);
}
template <class N>
N get(const char* p) {
  N v;
  memcpy(&v, p, sizeof v);
  return v;
}
void put(char* p, DType dtype, double v) {
  const float f = static_cast<float>(v);
  switch (dtype) {
    case DType::f16: return put(p, to_f16(f));
    case DType::bf16: return put(p, to_bf16(f));
    case DType::u8: return put(p, static_cast<uint8_t>(to_unit(f, 255.0f)));
    case DType::u16: return put(p, static_cast<uint16_t>(to_unit(f, 65535.0f)));
    case DType::f32: return put(p, f);
    case DType::f64: return put(p, v);
  }
}
double get(const char* p, DType dtype) {
  switch (dtype) {
    case DType::f16: return from_f16(get<uint16_t>(p));
    case DType::bf16: return from_bf16(get<uint16_t>(p));
    case DType::u8: return get<uint8_t>(p) / 255.0;
    case DType::u16: return get<uint16_t>(p) / 65535.0;
    case DType::f32: return get<float>(p);
    default: return get<double>(p);
  }
}
double stored(DType dtype, double v) {
  char bytes[8] = {};
  put(bytes, dtype, v);
  return get(bytes, dtype);
}

using Generator = std::mt19937_64;
int below(Generator& random, int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); }

// Contiguous; with an image's channels before its rows (a view of NCHW); or permuted, reversed, with steps and
// unaligned.
enum class Layout { contiguous, planar, any };
constexpr int kLayouts = 3;
Layout layout(int number) { return static_cast<Layout>(number % kLayouts); }

// A tensor in memory whose other bytes are 0xFF.
class Vessel {
 public:
  Vessel(const Shape& shape, DType dtype, Layout layout, Generator& random) : volume_(volume(shape)) {
    const int rank = static_cast<int>(shape.size());
    const bool contiguous = layout != Layout::any;
    std::vector<int> order(shape.size());
    for (int axis = 0; axis < rank; ++axis) order[axis] = rank - 1 - axis;
    if (layout == Layout::planar && rank == 4) order = {2, 1, 3, 0};
    if (layout == Layout::any) std::shuffle(order.begin(), order.end(), random);
    tensor_ = {nullptr, dtype, rank, {}, {}};
    int64_t stride = static_cast<int64_t>(size_of(dtype)), first = kMargin + (contiguous ? 0 : below(random, 4));
    for (const int axis : order) {
      const int64_t step = contiguous ? 1 : 1 + below(random, 2), n = shape[axis];
      const bool reversed = !contiguous && below(random, 4) == 0;
      tensor_.shape[axis] = n;
      tensor_.strides[axis] = reversed ? -step * stride : step * stride;
      if (reversed) first += (n - 1) * step * stride;
      stride *= step * n;
    }
    memory_.assign(static_cast<size_t>(first + stride + kMargin), '\xff');
    tensor_.data = memory_.data() + first;
  }
  const Tensor& tensor() const { return tensor_; }
  // Calls f(memory) for every element in logical order.
  template <class F>
  void for_elements(F&& f) const {
    for (int64_t i = 0; i < volume_; ++i) {
      int64_t rest = i, offset = 0;
      for (int axis = tensor_.rank - 1; axis >= 0; --axis) {
        offset += rest % tensor_.shape[axis] * tensor_.strides[axis];
        rest /= tensor_.shape[axis];
      }
      f(tensor_.data + offset);
    }
  }
  // Erases the elements.
  bool untouched_outside() {
    for_elements([&](char* p) { memset(p, 0xff, size_of(tensor_.dtype)); });
    return std::all_of(memory_.begin(), memory_.end(), [](char byte) { return byte == '\xff'; });
  }
  void spoil_outside() { memory_[kMargin - 1] = 0; }

 private:
  static constexpr int64_t kMargin = 64;
  const int64_t volume_;
  std::vector<char> memory_;
  Tensor tensor_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Calls

struct Array {
  Role role;
  Shape shape;
  bool is_result;
  Numbers numbers;  // of arguments
};
using Tensors = std::vector<Tensor>;

// A kernel with its arguments, all of them `arrays`.
struct Call {
  std::vector<Array> arrays;
  std::function<void(const Kernels&, const Tensors&)> run;

  int result(Role role, const Shape& shape) {
    arrays.push_back({role, shape, true, {}});
    return static_cast<int>(arrays.size()) - 1;
  }
};
// Of an array that a call may lack.
constexpr int kAbsent = -1;
Tensor at(const Tensors& tensors, int index) {
  return index == kAbsent ? Tensor{} : tensors[static_cast<size_t>(index)];
}

// Random arguments for one call.
struct Draw {
  Generator& random;
  const Kinds& kinds;
  bool large;  // enough pixels for three threads
  Call call;

  int from(int least, int most) { return least + below(random, most - least + 1); }
  bool maybe() { return below(random, 2) == 0; }
  // A number that this array's dtype can hold.
  double number(Role role, double least, double most) {
    const double share = static_cast<double>(random() >> 11) * 0x1p-53;
    return stored(dtype_of(role, kinds), least + (most - least) * share);
  }
  int argument(Role role, const Shape& shape, double least = -1.0, double most = 1.0) {
    Numbers numbers(static_cast<size_t>(volume(shape)));
    for (double& v : numbers) v = number(role, least, most);
    call.arrays.push_back({role, shape, false, std::move(numbers)});
    return static_cast<int>(call.arrays.size()) - 1;
  }
  int image(const Shape& shape) { return argument(Role::image, shape, 0.0, 1.0); }
  int maybe_result(Role role, const Shape& shape) { return below(random, 4) ? call.result(role, shape) : kAbsent; }
};

struct Geometry {
  int64_t N, H, W, Gh, Gw, Gd;
  int guide, xy;  // arguments
  Sampling window;

  Shape pixels(int64_t channels) const { return {N, H, W, channels}; }
  Shape cells(int64_t c1, int64_t c2) const { return {N, Gh, Gw, Gd, c1, c2}; }
  Sampling sampling(const Tensors& tensors) const {
    Sampling s = window;
    s.guide = at(tensors, guide);
    s.xy = at(tensors, xy);
    return s;
  }
};

// A coordinate on an axis of `cells` cells that keeps clear of the knots.
double coordinate(Draw& draw, int64_t cells, bool align_corners) {
  for (;;) {
    const double u = draw.number(Role::guide, -0.2, 1.2), last = static_cast<double>(cells - 1);
    const double p = align_corners ? u * last : u * static_cast<double>(cells) - 0.5;
    if (std::fabs(p - std::round(p)) > kClear || (cells == 1 && align_corners)) return u;
  }
}

Geometry geometry(Draw& draw, bool with_guide) {
  Geometry g{};
  g.N = draw.from(1, 2);
  g.H = draw.large ? draw.from(60, 70) : draw.from(1, 5);
  // Half of them around multiples of a vector.
  g.W = draw.large ? draw.from(129, 160) : draw.maybe() ? draw.from(1, 70) : 4 * draw.from(1, 34) + draw.from(-1, 1);
  g.Gh = draw.from(1, 4);
  g.Gw = draw.maybe() ? draw.from(1, 3) : draw.from(1, 9);
  g.Gd = draw.from(1, 17);
  if (draw.maybe()) {
    // A grid that registers hold: up to 8 or 16 cells in depth, and spans of 8 pixels and more.
    g.Gd = draw.maybe() ? draw.from(1, 8) : draw.from(9, 16);
    g.Gw = std::min(g.Gw, std::max<int64_t>(1, g.W / 8));
  }
  g.window.align_corners = draw.from(0, 3) == 0;
  g.window.full_height = g.H;
  g.window.full_width = g.W;
  g.guide = g.xy = kAbsent;
  const int where = draw.from(0, 5);
  if (where == 0) {
    g.window.top = draw.from(0, 3);
    g.window.left = draw.from(0, 40);
    g.window.full_height += g.window.top + draw.from(0, 3);
    g.window.full_width += g.window.left + draw.from(0, 40);
  }
  if (with_guide) {
    g.guide = draw.argument(Role::guide, {g.N, g.H, g.W});
    for (double& u : draw.call.arrays.back().numbers) u = coordinate(draw, g.Gd, g.window.align_corners);
    if (where == 1) {
      g.xy = draw.argument(Role::guide, g.pixels(2));
      Numbers& xy = draw.call.arrays.back().numbers;
      for (size_t i = 0; i < xy.size(); ++i) xy[i] = coordinate(draw, i % 2 ? g.Gh : g.Gw, g.window.align_corners);
    }
  }
  return g;
}

void slice_forward(Draw& draw) {
  const Geometry g = geometry(draw, true);
  const int c1 = draw.from(1, 13), c2 = draw.maybe() ? 1 : draw.from(1, 4);
  const int grid = draw.argument(Role::values, g.cells(c1, c2));
  const int out = draw.call.result(Role::values, {g.N, g.H, g.W, c1, c2});
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.slice_forward({g.sampling(t), at(t, out), at(t, grid)});
  };
}
void slice_backward(Draw& draw) {
  const Geometry g = geometry(draw, true);
  const int c1 = draw.from(1, 13), c2 = draw.maybe() ? 1 : draw.from(1, 4);
  const bool splat = draw.from(0, 2) == 0;
  const int grid = splat ? kAbsent : draw.argument(Role::values, g.cells(c1, c2));
  const int grad = draw.argument(Role::values, {g.N, g.H, g.W, c1, c2});
  const int d_guide = splat ? kAbsent : draw.call.result(Role::guide, {g.N, g.H, g.W});
  const int d_xy = splat || g.xy == kAbsent ? kAbsent : draw.call.result(Role::guide, g.pixels(2));
  const Shape cells = g.cells(c1, c2);
  const int d_grid = splat ? draw.call.result(Role::values, cells) : draw.maybe_result(Role::values, cells);
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.slice_backward({g.sampling(t), at(t, d_grid), at(t, d_guide), at(t, d_xy), at(t, grid), at(t, grad)});
  };
}

// Output and input channels and columns of a matrix; 3 × 4 as often as all others.
struct Matrix {
  int Co, Ci, L;
};
Matrix matrix(Draw& draw) {
  if (draw.maybe()) return {3, 3, 4};
  const int Co = draw.from(1, 5), Ci = draw.from(1, 5);
  return {Co, Ci, Ci + draw.from(0, 1)};
}

void apply_forward(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const Matrix m = matrix(draw);
  const int coefficients = draw.argument(Role::values, {g.N, g.H, g.W, m.Co, m.L});
  const int image = draw.image(g.pixels(m.Ci)), out = draw.call.result(Role::image, g.pixels(m.Co));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.apply_forward({at(t, out), at(t, coefficients), at(t, image)});
  };
}
void apply_backward(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const Matrix m = matrix(draw);
  const Shape shape = {g.N, g.H, g.W, m.Co, m.L};
  const int coefficients = draw.argument(Role::values, shape), image = draw.image(g.pixels(m.Ci));
  const int grad = draw.argument(Role::gradient, g.pixels(m.Co)),
            d_coefficients = draw.call.result(Role::values, shape);
  const int d_image = is_integer(draw.kinds.image) ? kAbsent : draw.maybe_result(Role::image, g.pixels(m.Ci));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.apply_backward({at(t, d_coefficients), at(t, d_image), at(t, coefficients), at(t, image), at(t, grad)});
  };
}

void slice_apply_forward(Draw& draw) {
  const Geometry g = geometry(draw, true);
  const Matrix m = matrix(draw);
  const int grid = draw.argument(Role::values, g.cells(m.Co, m.L)), image = draw.image(g.pixels(m.Ci));
  const int out = draw.call.result(Role::image, g.pixels(m.Co));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.slice_apply_forward({g.sampling(t), at(t, out), at(t, grid), at(t, image)});
  };
}
void slice_apply_backward(Draw& draw) {
  const Geometry g = geometry(draw, true);
  const Matrix m = matrix(draw);
  const int grid = draw.argument(Role::values, g.cells(m.Co, m.L)), image = draw.image(g.pixels(m.Ci));
  const int grad = draw.argument(Role::gradient, g.pixels(m.Co));
  const int d_guide = draw.call.result(Role::guide, {g.N, g.H, g.W});
  const int d_xy = g.xy == kAbsent ? kAbsent : draw.call.result(Role::guide, g.pixels(2));
  const int d_grid = draw.maybe_result(Role::values, g.cells(m.Co, m.L));
  const int d_image = is_integer(draw.kinds.image) ? kAbsent : draw.maybe_result(Role::image, g.pixels(m.Ci));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.slice_apply_backward({g.sampling(t), at(t, d_grid), at(t, d_guide), at(t, d_image), at(t, d_xy),
                                  at(t, grid), at(t, image), at(t, grad)});
  };
}

// A guide's parameters, and how far a pixel is from the kinks.
struct Guide {
  GuideKind kind;
  std::vector<int> parameters;
  std::function<double(const Call&, const double* pixel)> distance;

  GuideParameters tensors(const Tensors& t) const {
    GuideParameters p{};
    p.kind = kind;
    for (size_t i = 0; i < parameters.size(); ++i) p.value[i] = at(t, parameters[i]);
    return p;
  }
};
Guide guide(Draw& draw, int64_t Ci) {
  const auto numbers = [](const Call& call, int index) {
    return call.arrays[static_cast<size_t>(index)].numbers.data();
  };
  Guide g;
  g.kind = static_cast<GuideKind>(draw.from(0, Ci == 3 ? 2 : 1));
  if (g.kind == GuideKind::luma) {
    g.distance = [](const Call&, const double*) { return 1.0; };
  } else if (g.kind == GuideKind::nn) {
    const int64_t F = draw.from(1, 17);
    const int w1 = draw.argument(Role::values, {F, Ci}), b1 = draw.argument(Role::values, {F});
    g.parameters = {w1, b1, draw.argument(Role::values, {F}), draw.argument(Role::values, {})};
    g.distance = [=](const Call& call, const double* pixel) {
      double nearest = 1.0;
      for (int64_t f = 0; f < F; ++f) {
        double h = numbers(call, b1)[f];
        for (int64_t j = 0; j < Ci; ++j) h += numbers(call, w1)[f * Ci + j] * pixel[j];
        nearest = std::min(nearest, std::fabs(h));
      }
      return nearest;
    };
  } else {
    // Few knots, those that registers hold, and more.
    const int64_t K = draw.maybe() ? draw.from(5, 16) : draw.maybe() ? draw.from(1, 4) : draw.from(17, 19);
    g.parameters = {draw.argument(Role::values, {Ci, Ci}), draw.argument(Role::values, {Ci}),
                    draw.argument(Role::values, {Ci, K}),  draw.argument(Role::values, {Ci, K}, -0.3, 0.5),
                    draw.argument(Role::values, {Ci}),     draw.argument(Role::values, {}, 0.0, 1.0)};
    const std::vector<int> p = g.parameters;
    g.distance = [=](const Call& call, const double* pixel) {
      double sum = *numbers(call, p[5]), nearest = 1.0;
      for (int64_t i = 0; i < Ci; ++i) {
        double q = numbers(call, p[1])[i], curve = 0.0;
        for (int64_t j = 0; j < Ci; ++j) q += numbers(call, p[0])[i * Ci + j] * pixel[j];
        for (int64_t k = 0; k < K; ++k) {
          const double t = q - numbers(call, p[2])[i * K + k];
          nearest = std::min(nearest, std::fabs(t));
          curve += numbers(call, p[3])[i * K + k] * std::max(t, 0.0);
        }
        sum += numbers(call, p[4])[i] * curve;
      }
      return std::min({nearest, std::fabs(sum), std::fabs(sum - 1.0)});
    };
  }
  return g;
}
void guide_forward(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const int Ci = draw.maybe() ? 3 : draw.from(1, 5);
  const Guide kind = guide(draw, Ci);
  const int image = draw.image(g.pixels(Ci)), out = draw.call.result(Role::guide_result, {g.N, g.H, g.W});
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.guide_forward({at(t, out), at(t, image), kind.tensors(t)});
  };
}
void guide_backward(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const int Ci = draw.maybe() ? 3 : draw.from(1, 5);
  const Guide kind = guide(draw, Ci);
  const int image = draw.image(g.pixels(Ci));
  Numbers& numbers = draw.call.arrays.back().numbers;
  for (size_t i = 0; i < numbers.size(); i += static_cast<size_t>(Ci)) {
    // Where kinks are everywhere, pixels that an earlier try found will do.
    for (int tries = 0; kind.distance(draw.call, &numbers[i]) < 0.1 * kClear; ++tries)
      for (int j = 0; j < Ci; ++j)
        numbers[i + static_cast<size_t>(j)] =
            tries < 100 || i == 0 ? draw.number(Role::image, 0.0, 1.0) : numbers[static_cast<size_t>(j)];
  }
  const int grad = draw.argument(Role::gradient, {g.N, g.H, g.W});
  std::vector<int> d_values;
  for (const int parameter : kind.parameters)
    d_values.push_back(draw.maybe_result(Role::values, draw.call.arrays[static_cast<size_t>(parameter)].shape));
  const int d_image = is_integer(draw.kinds.image) ? kAbsent : draw.call.result(Role::image, g.pixels(Ci));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    GuideGradArgs a{};
    a.d_image = at(t, d_image);
    for (size_t i = 0; i < d_values.size(); ++i) a.d_value[i] = at(t, d_values[i]);
    a.image = at(t, image);
    a.grad = at(t, grad);
    a.parameters = kind.tensors(t);
    kernels.guide_backward(a);
  };
}
void enhance_forward(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const Matrix m = matrix(draw);
  const Guide kind = guide(draw, m.Ci);
  const int grid = draw.argument(Role::values, g.cells(m.Co, m.L)), image = draw.image(g.pixels(m.Ci));
  const int out = draw.call.result(Role::image, g.pixels(m.Co));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.enhance_forward({g.sampling(t), at(t, out), at(t, grid), at(t, image), kind.tensors(t)});
  };
}

Shape grid_alone(Draw& draw) {
  if (draw.large) return {2, 17, 16, 8, 3, 4};
  return {draw.from(1, 3), draw.from(1, 5), draw.from(1, 5), draw.from(1, 17), draw.from(1, 13), draw.from(1, 2)};
}
void total_variation_forward(Draw& draw) {
  const Shape shape = grid_alone(draw);
  const int grid = draw.argument(Role::values, shape), out = draw.call.result(Role::values, {shape[0]});
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.total_variation_forward({at(t, out), at(t, grid)});
  };
}
void total_variation_backward(Draw& draw) {
  const Shape shape = grid_alone(draw);
  const int grid = draw.argument(Role::values, shape), grad = draw.argument(Role::values, {shape[0]});
  const int d_grid = draw.call.result(Role::values, shape);
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.total_variation_backward({at(t, d_grid), at(t, grid), at(t, grad)});
  };
}

// Pixels before and after: reduced as often as enlarged, on each axis.
struct Resized {
  Shape before, after;
};
Resized resized(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const int64_t channels = draw.maybe() ? 3 : draw.from(1, 5);
  const auto size = [&](int64_t n) -> int64_t {
    return draw.maybe() ? draw.from(1, static_cast<int>(n)) : draw.from(1, static_cast<int>(3 * n));
  };
  return {g.pixels(channels), {g.N, size(g.H), size(g.W), channels}};
}
void resize_area_forward(Draw& draw) {
  const Resized r = resized(draw);
  const int image = draw.image(r.before), out = draw.call.result(Role::image, r.after);
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.resize_area_forward({at(t, out), at(t, image)});
  };
}
void resize_area_backward(Draw& draw) {
  const Resized r = resized(draw);
  const int grad = draw.argument(Role::gradient, r.after), d_image = draw.call.result(Role::gradient, r.before);
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.resize_area_backward({at(t, d_image), at(t, grad)});
  };
}

struct Operation {
  const char* name;
  void (*draw)(Draw&);
  bool has_image;
  bool lanewise;  // nothing is summed over the lanes of a vector
};
const Operation operations[] = {
    {"slice_forward", slice_forward, false, true},
    {"slice_backward", slice_backward, false, false},
    {"apply_forward", apply_forward, true, true},
    {"apply_backward", apply_backward, true, false},
    {"slice_apply_forward", slice_apply_forward, true, true},
    {"slice_apply_backward", slice_apply_backward, true, false},
    {"guide_forward", guide_forward, true, true},
    {"guide_backward", guide_backward, true, false},
    {"enhance_forward", enhance_forward, true, true},
    {"total_variation_forward", total_variation_forward, false, false},
    {"total_variation_backward", total_variation_backward, false, true},
    {"resize_area_forward", resize_area_forward, true, true},
    {"resize_area_backward", resize_area_backward, false, true},
};
static_assert(sizeof(Kernels) == (1 + sizeof operations / sizeof operations[0]) * sizeof(void (*)()),
              "every kernel has its line in `operations`");

// ---------------------------------------------------------------------------------------------------------------------
// Answers

struct Answer {
  std::vector<Numbers> results;
  bool untouched_outside = true;
};
Answer evaluate(const Call& call, const Kinds& kinds, Layout layout, bool spoil_outside = false) {
  Generator random(1);
  std::vector<Vessel> vessels;
  Tensors tensors;
  for (const Array& array : call.arrays) {
    const DType dtype = dtype_of(array.role, kinds);
    vessels.emplace_back(array.shape, dtype, layout, random);
    size_t i = 0;
    if (!array.is_result) vessels.back().for_elements([&](char* p) { put(p, dtype, array.numbers[i++]); });
    tensors.push_back(vessels.back().tensor());
  }
  call.run(kernels(), tensors);
  if (spoil_outside) vessels.back().spoil_outside();
  Answer answer;
  for (size_t a = 0; a < vessels.size(); ++a) {
    if (call.arrays[a].is_result) {
      const DType dtype = tensors[a].dtype;
      answer.results.emplace_back();
      vessels[a].for_elements([&](char* p) { answer.results.back().push_back(get(p, dtype)); });
    }
    answer.untouched_outside = answer.untouched_outside && vessels[a].untouched_outside();
  }
  return answer;
}

double largest(const Numbers& numbers) {
  double most = 0.0;
  for (const double v : numbers) most = std::max(most, std::fabs(v));
  return most;
}

// A call, and what is wanted of it.
struct Example {
  Kinds kinds;
  Layout layout;
  Call call;
  std::vector<Numbers> wanted, of_scalar;  // exactly; and by the scalar build with these dtypes
  Numbers scales;                          // a result's tolerance is kTolerance unit roundoffs of this
};
Example example(const Operation& operation, const Kinds& kinds, int number, Generator& random) {
  Draw draw{random, kinds, number == 0, {}};
  operation.draw(draw);
  Example e{kinds, layout(number), std::move(draw.call), {}, {}, {}};
  select_isa("scalar");
  e.wanted = evaluate(e.call, kExact, Layout::contiguous).results;
  e.of_scalar = evaluate(e.call, kinds, e.layout).results;
  for (const Numbers& numbers : e.wanted) e.scales.push_back(largest(numbers));
  for (int repeat = 0; repeat < 3; ++repeat) {
    Call perturbed = e.call;
    for (Array& array : perturbed.arrays)
      for (double& v : array.numbers) v += v * kShare * (static_cast<double>(random() >> 11) * 0x1p-52 - 1.0);
    const std::vector<Numbers> moved = evaluate(perturbed, kExact, Layout::contiguous).results;
    for (size_t r = 0; r < moved.size(); ++r) {
      double most = 0.0;
      for (size_t i = 0; i < moved[r].size(); ++i) most = std::max(most, std::fabs(moved[r][i] - e.wanted[r][i]));
      e.scales[r] = std::max(e.scales[r], largest(e.wanted[r]) + most / kShare);
    }
  }
  return e;
}

void check_answer(Question& question, const Example& e, Answer answer) {
  if (question.to_be_broken()) answer.results[0].back() += 0.01;
  size_t r = 0;
  for (const Array& array : e.call.arrays) {
    if (!array.is_result) continue;
    const DType dtype = dtype_of(array.role, e.kinds);
    const double roundoff = e.kinds.values == DType::f64 ? 0x1p-53 : 0x1p-24;
    for (size_t i = 0; i < answer.results[r].size(); ++i) {
      double wanted = e.wanted[r][i];
      if (is_integer(dtype)) wanted = std::min(std::max(wanted, 0.0), 1.0);
      const double bound = kTolerance * roundoff * e.scales[r] + storage_unit(dtype, wanted);
      const double error = std::fabs(answer.results[r][i] - wanted);
      question.expect(error <= bound, e.kinds.name, answer.results[r][i], wanted);
      if (dtype == DType::f32 || dtype == DType::f64) question.worst = std::max(question.worst, error / bound);
    }
    ++r;
  }
}
void compare_bits(Question& question, const Example& e, std::vector<Numbers> got, const std::vector<Numbers>& wanted) {
  if (question.to_be_broken()) got[0].back() += 1e-10;
  for (size_t r = 0; r < got.size(); ++r)
    for (size_t i = 0; i < got[r].size(); ++i)
      question.expect(memcmp(&got[r][i], &wanted[r][i], sizeof(double)) == 0, e.kinds.name, got[r][i], wanted[r][i]);
}

void check_operation(const Operation& operation, int rounds) {
  Generator random(7);
  std::vector<Example> examples;
  for (int number = 0; number < rounds; ++number) {
    for (const Kinds& kinds : one_kind) examples.push_back(example(operation, kinds, number, random));
    if (!operation.has_image) continue;
    for (const Kinds& kinds : beside_float32) examples.push_back(example(operation, kinds, number, random));
  }
  const std::string name = operation.name;
  for (const char* const* isa = available_isas(); *isa; ++isa) {
    select_isa(*isa);
    std::vector<Answer> answers;
    for (const Example& e : examples) answers.push_back(evaluate(e.call, e.kinds, e.layout));
    const auto ask = [&](const char* what, auto&& check) {
      const std::string text = name + ": " + what;
      Question question(*isa, text.c_str());
      for (size_t i = 0; i < examples.size(); ++i) check(question, examples[i], answers[i]);
    };
    ask("near float64", check_answer);
    ask("nothing written beside the results", [](Question& question, const Example& e, const Answer& answer) {
      const bool untouched = question.to_be_broken() ? evaluate(e.call, e.kinds, e.layout, true).untouched_outside
                                                     : answer.untouched_outside;
      question.expect(untouched, e.kinds.name, untouched ? 0 : 1, 0);
    });
    ask("any strides, the same bits", [](Question& question, const Example& e, const Answer& answer) {
      for (int other = 0; other < kLayouts; ++other)
        if (layout(other) != e.layout)
          compare_bits(question, e, evaluate(e.call, e.kinds, layout(other)).results, answer.results);
    });
    ask("3 threads, the same bits", [](Question& question, const Example& e, const Answer& answer) {
      set_num_threads(3);
      compare_bits(question, e, evaluate(e.call, e.kinds, e.layout).results, answer.results);
      set_num_threads(1);
    });
    // Where the baseline fuses products and sums as well.
    if (BO_HAS_FMA && operation.lanewise) {
      ask("bit for bit as scalar", [](Question& question, const Example& e, const Answer& answer) {
        compare_bits(question, e, answer.results, e.of_scalar);
      });
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

// Do footprints cover every pixel once, however large the sizes?
void check_footprints() {
  Question question("formulas.h", "footprints cover all, and nothing twice");
  Generator random(3);
  for (int round = 0; round < 20000; ++round) {
    const int bits = 1 + round % 31;
    const auto size = [&] { return 1 + static_cast<int64_t>(random() & ((uint64_t(1) << bits) - 1)); };
    const int64_t count = size(), others = size(), i = static_cast<int64_t>(random() % static_cast<uint64_t>(count));
    const Footprint f = footprint(i, count, others);
    const int64_t whole = f.end - f.begin;
    int64_t length = whole == 1 ? f.head : f.head + (whole - 2) * count + f.tail;
    if (question.to_be_broken()) ++length;
    const bool inside =
        f.begin >= 0 && whole >= 1 && f.end <= others && f.head > 0 && f.head <= count && f.tail > 0 && f.tail <= count;
    question.expect(inside && length == others, "length", static_cast<double>(length), static_cast<double>(others));
    if (i + 1 == count) {
      question.expect(f.end == others, "end", static_cast<double>(f.end), static_cast<double>(others));
      continue;
    }
    // The next one goes on where this one ends, in the same pixel unless that is used up.
    const Footprint next = footprint(i + 1, count, others);
    const int64_t end = whole == 1 ? i * others + f.head - f.begin * count : f.tail;
    const int64_t begin = (i + 1) * others - next.begin * count;
    const bool meet = end == count ? next.begin == f.end && begin == 0 : next.begin == f.end - 1 && begin == end;
    question.expect(meet, "begin", static_cast<double>(next.begin), static_cast<double>(f.end));
  }
}

// The end of memory behind which nothing can be read, where the system can say so.
char* readable_edge() {
#if defined(__unix__) || defined(__APPLE__)
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* const pages = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (pages != MAP_FAILED && mprotect(static_cast<char*>(pages) + page, page, PROT_NONE) == 0)
    return static_cast<char*>(pages) + page;
#endif
  static double numbers[512];
  return reinterpret_cast<char*>(numbers + 512);
}

void check_lanes_of(const std::string& isa, char* edge) {
  if (isa == "scalar") scalar::check_lanes(edge);
#if defined(BO_BUILD_X86)
  if (isa == "avx2") avx2::check_lanes(edge);
  if (isa == "avx512") avx512::check_lanes(edge);
#elif defined(BO_BUILD_AARCH64)
  if (isa == "neon") neon::check_lanes(edge);
#endif
}

}  // namespace
}  // namespace bilateral_ops

int main(int count, char** arguments) {
  using namespace bilateral_ops;
  breaking = count == 2 && strcmp(arguments[1], "--break") == 0;
  if (count > 1 && !breaking) {
    fprintf(stderr, "usage: %s [--break]\n", arguments[0]);
    return 2;
  }
  char* const edge = readable_edge();
  for (const char* const* isa = available_isas(); *isa; ++isa) check_lanes_of(*isa, edge);
  check_footprints();
  for (const Operation& operation : operations) check_operation(operation, breaking ? 1 : 12);
  if (!breaking) {
    printf("%d questions, %d answered no\n", questions, wrong_answers);
    return wrong_answers ? 1 : 0;
  }
  printf("%d questions with one result spoilt, %d noticed\n", questions, wrong_answers);
  return wrong_answers == questions ? 1 : 3;
}
