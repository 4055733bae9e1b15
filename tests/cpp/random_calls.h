// A random call of every kernel: shapes, arguments, and which gradients are wanted.
#pragma once

#include <functional>

#include "../../csrc/ops.h"
#include "arrays.h"

namespace bilateral_ops {
namespace {

constexpr double kClear = 0.01;  // the least distance of arguments from kinks, in cells or as a value

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
// The index of an optional array that is not there
constexpr int kAbsent = -1;
Tensor at(const Tensors& tensors, int index) {
  return index == kAbsent ? Tensor{} : tensors[static_cast<size_t>(index)];
}

// Random arguments for one call.
struct Draw {
  Generator& random;
  const Dtypes& dtypes;
  bool large;  // enough pixels for three threads
  Call call;

  int from(int least, int most) { return least + below(random, most - least + 1); }
  bool maybe() { return below(random, 2) == 0; }
  // A value that this array's dtype represents exactly
  double number(Role role, double least, double most) {
    const double share = static_cast<double>(random() >> 11) * 0x1p-53;
    return stored(dtype_of(role, dtypes), least + (most - least) * share);
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
  // Half of them near multiples of 4
  g.W = draw.large ? draw.from(129, 160) : draw.maybe() ? draw.from(1, 70) : 4 * draw.from(1, 34) + draw.from(-1, 1);
  g.Gh = draw.from(1, 4);
  g.Gw = draw.maybe() ? draw.from(1, 3) : draw.from(1, 9);
  g.Gd = draw.from(1, 17);
  if (draw.maybe()) {
    // A grid for register tables: up to 16 cells in depth, and spans of at least 8 pixels
    g.Gd = draw.maybe() ? draw.from(1, 8) : draw.from(9, 16);
    g.Gw = std::min(g.Gw, std::max<int64_t>(1, g.W / 8));
  }
  g.window.align_corners = draw.from(0, 3) == 0;
  g.window.pixel_corners = draw.maybe() ? draw.maybe() : g.window.align_corners;
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

// Output channels, input channels and columns of a matrix; 3 × 4 in half of the calls
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
  const int d_image = is_integer(draw.dtypes.image) ? kAbsent : draw.maybe_result(Role::image, g.pixels(m.Ci));
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
  const int d_image = is_integer(draw.dtypes.image) ? kAbsent : draw.maybe_result(Role::image, g.pixels(m.Ci));
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
    // Knots that register tables hold, fewer and more
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
  const Guide chosen = guide(draw, Ci);
  const int image = draw.image(g.pixels(Ci)), out = draw.call.result(Role::guide_result, {g.N, g.H, g.W});
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.guide_forward({at(t, out), at(t, image), chosen.tensors(t)});
  };
}
void guide_backward(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const int Ci = draw.maybe() ? 3 : draw.from(1, 5);
  const Guide chosen = guide(draw, Ci);
  const int image = draw.image(g.pixels(Ci));
  Numbers& numbers = draw.call.arrays.back().numbers;
  for (size_t i = 0; i < numbers.size(); i += static_cast<size_t>(Ci)) {
    // If no pixel is found after 100 tries, the first one is repeated.
    for (int tries = 0; chosen.distance(draw.call, &numbers[i]) < 0.1 * kClear; ++tries)
      for (int j = 0; j < Ci; ++j)
        numbers[i + static_cast<size_t>(j)] =
            tries < 100 || i == 0 ? draw.number(Role::image, 0.0, 1.0) : numbers[static_cast<size_t>(j)];
  }
  const int grad = draw.argument(Role::gradient, {g.N, g.H, g.W});
  std::vector<int> d_values;
  for (const int parameter : chosen.parameters)
    d_values.push_back(draw.maybe_result(Role::values, draw.call.arrays[static_cast<size_t>(parameter)].shape));
  const int d_image = is_integer(draw.dtypes.image) ? kAbsent : draw.call.result(Role::image, g.pixels(Ci));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    GuideGradArgs a{};
    a.d_image = at(t, d_image);
    for (size_t i = 0; i < d_values.size(); ++i) a.d_value[i] = at(t, d_values[i]);
    a.image = at(t, image);
    a.grad = at(t, grad);
    a.parameters = chosen.tensors(t);
    kernels.guide_backward(a);
  };
}
void enhance_forward(Draw& draw) {
  const Geometry g = geometry(draw, false);
  const Matrix m = matrix(draw);
  const Guide chosen = guide(draw, m.Ci);
  const int grid = draw.argument(Role::values, g.cells(m.Co, m.L)), image = draw.image(g.pixels(m.Ci));
  const int out = draw.call.result(Role::image, g.pixels(m.Co));
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.enhance_forward({g.sampling(t), at(t, out), at(t, grid), at(t, image), chosen.tensors(t)});
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
    kernels.total_variation_forward({at(t, out), at(t, grid), {}});
  };
}
void total_variation_backward(Draw& draw) {
  const Shape shape = grid_alone(draw);
  const int grid = draw.argument(Role::values, shape), grad = draw.argument(Role::values, {shape[0]});
  const int d_grid = draw.call.result(Role::values, shape);
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.total_variation_backward({at(t, d_grid), at(t, grid), at(t, grad), {}});
  };
}

// Shapes before and after: on each axis reduced as often as enlarged
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

}  // namespace
}  // namespace bilateral_ops
