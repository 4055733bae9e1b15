"""An operation added to a copy of the sources, in the files that CONTRIBUTING.md's "To add an operation" lists.

`nox -s added` builds the copy for one instruction set and runs the tests that walk the list of operations, and the
kernels' own test: all must find the new operation and pass. test_contributing.py compares the files with the list.

The operation is ``negative``: out = 1 − image, with the gradient −grad.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scratch import ROOT, Package, configure, copied, replaced, run

NAME = "negative"


@dataclass(frozen=True)
class Addition:
    file: str
    text: str
    before: str = ""  # what the text is put before, and stands there once; nothing: the file is new


ADDITIONS = (
    # --- What it computes
    Addition(
        "csrc/ops.h",
        """\
// negative: out = 1 − in
struct NegativeArgs {
  Tensor out, image;  // (N,H,W,Ci)
};
// d_in = −grad
struct NegativeGradArgs {
  Tensor d_image, grad;
};

""",
        "// The kernels, each with its Args.",
    ),
    Addition(
        "csrc/ops.h",
        "  X(negative_forward, NegativeArgs)                   \\\n"
        "  X(negative_backward, NegativeGradArgs)              \\\n",
        "  X(enhance_forward, EnhanceArgs)",
    ),
    Addition(
        "csrc/calls.h",
        """\
template <class Call>
void negative_forward(Call& call, Out<Call> out, In<Call> image) {
  Arrays<Call> of(call, image, 4);
  of.run(&Call::Table::negative_forward, NegativeArgs{of(out, 4), of(image, 4)});
}

template <class Call>
void negative_backward(Call& call, Out<Call> d_image, In<Call>, In<Call> grad) {
  Arrays<Call> of(call, grad, 4);
  of.run(&Call::Table::negative_backward, NegativeGradArgs{of(d_image, 4), of(grad, 4)});
}

""",
        "template <class Call>\nvoid total_variation_forward(",
    ),
    Addition(
        "csrc/cpu/negative.inl",
        """\
// negative: forward, then backward. Equations: ../ops.h
#pragma once

#include "../ops.h"
#include "tiles.h"

namespace bilateral_ops {
inline namespace BO_ISA {

// out = from − in, element by element
template <class T>
void subtract_from(T from, const Tensor& in, const Tensor& out) {
  const int64_t channels = in.shape[3], width = tile_width(channels);
  const Block read = block_of(in, 2), written = block_of(out, 2);
  const Tiling tiling = make_tiling(in.shape[0], in.shape[1], in.shape[2], width);
  for_tile_ranges(tiling.count, width, [&](int64_t first, int64_t last) {
    Scratch memory;
    T* const pixels = memory.take<T>(width * channels);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tile_at(tiling, index);
      load_block(read, first_pixel(in, tile), tile.count, pixels);
      for_vectors<T>(tile.count * channels,
                     [&](int64_t i, auto lanes) { lanes.store(pixels + i, broadcast(from) - lanes.load(pixels + i)); });
      store_block(written, first_pixel(out, tile), tile.count, pixels);
    }
  });
}

void negative_forward(const NegativeArgs& a) {
  with_compute_type(a.image.dtype, [&](auto t) { subtract_from(decltype(t)(1), a.image, a.out); });
}
void negative_backward(const NegativeGradArgs& a) {
  with_compute_type(a.grad.dtype, [&](auto t) { subtract_from(decltype(t)(0), a.grad, a.d_image); });
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
""",
    ),
    Addition("csrc/cpu/kernels.inl", '#include "negative.inl"\n', '#include "resize_area.inl"'),
    Addition(
        "csrc/cuda/negative.cu",
        """\
// negative: forward, then backward. Equations: ../ops.h
#include "kernels.cuh"
#include "pixels.cuh"

namespace bilateral_ops {

template <class T>
__global__ void __launch_bounds__(kTile) subtract_from(T from, Tensor in, Tensor out, Tiling tiles) {
  for (int64_t index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tile_at(tiles, index);
    for_channels(out, tile, out.shape[3], [&](int p, int64_t c) {
      const T v = get<T>(in.dtype, pixel(in, tile, p) + c * in.strides[3]);
      put(out.dtype, pixel(out, tile, p) + c * out.strides[3], from - v);
    });
  }
}

namespace cuda {

void negative_forward(const NegativeArgs& a, Launch& to) {
  with_compute_type(a.image.dtype, [&](auto t) {
    const Tiling tiles = make_tiling(a.image);
    launch(to, subtract_from<decltype(t)>, tiles.count, kTile, 0, decltype(t)(1), a.image, a.out, tiles);
  });
}
void negative_backward(const NegativeGradArgs& a, Launch& to) {
  with_compute_type(a.grad.dtype, [&](auto t) {
    const Tiling tiles = make_tiling(a.grad);
    launch(to, subtract_from<decltype(t)>, tiles.count, kTile, 0, decltype(t)(0), a.grad, a.d_image, tiles);
  });
}

}  // namespace cuda
}  // namespace bilateral_ops
""",
    ),
    # --- What it takes and returns
    Addition(
        "src/bilateral_ops/ops/_negative.py",
        '''\
from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .._core.signature import Signature, argument
from .._core.types import Array, FieldsOf, Framework, Image, Like, NamedTuple


class NegativeGradients(NamedTuple, FieldsOf[Image]):
    """Gradient of :func:`negative`; ``None`` where not wanted."""

    image: Image | None


SIGNATURE = Signature(
    "negative",
    (argument("image", "N H W Ci", "image"),),
    result="N H W Ci",
    lead="image",
    like="image",
    gradients=NegativeGradients,
)


def negative(image: Like[Framework, Image], *, out: Array[Framework] | None = None) -> Image:
    """The negative of an image.

        out[n,y,x,c] = 1 − image[n,y,x,c]

    Parameters
    ----------
    image : array (N, H, W, Ci), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        Integers are read as v/255 or v/65535. The batch axis is optional.
    out : array, optional
        Filled and returned; must not overlap the image, unless it is the same view.

    Returns
    -------
    array (N, H, W, Ci), the image's dtype

    Raises
    ------
    ValueError
        A shape or ``out`` that does not fit.
    TypeError
        Unsupported array type or dtype.

    Notes
    -----
    Gradients: :func:`negative_vjp`.

    Source: an example.
    """
    return SIGNATURE.bind((image,)).forward(out)


@SIGNATURE.vjp
def negative_vjp(
    image: Like[Framework, Image],
    grad: Array[Framework],
    *,
    wrt: tuple[Literal["image"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> NegativeGradients[Image]:
    """Gradient of :func:`negative`.

        d_image[n,y,x,c] = −grad[n,y,x,c]

    Notes
    -----
    Source: an example.
    """
    return SIGNATURE.bind_vjp((image,), grad).backward(wrt, out)
''',
    ),
    Addition("src/bilateral_ops/ops/__init__.py", "    _negative,\n", "    _resize_area,\n    _slice,\n"),
    Addition("src/bilateral_ops/ops/__init__.py", "    _negative,\n", "    _resize_area,\n)"),
    Addition(
        "src/bilateral_ops/__init__.py",
        "from .ops._negative import negative, negative_vjp\n",
        "from .ops._resize_area import",
    ),
    Addition("src/bilateral_ops/__init__.py", '    "negative",\n    "negative_vjp",\n', '    "resize_area",\n'),
    # --- What it is compared with, and called with
    Addition(
        "src/bilateral_ops/reference/_formulas.py",
        """\
def negative(xp, image):
    (pixels,) = computed(xp, image)
    return _delivered(xp, 1 - pixels, image)


""",
        "FORMULAS: dict",
    ),
    Addition(
        "src/bilateral_ops/reference/numpy.py",
        '''\
class NegativeGradients(NamedTuple):
    image: Any


def negative(image: Any, *, out: Any = None) -> Any:
    """out = 1 − image."""
    return _deliver(_as_dtype_of(image, 1 - _read_image(image)), out)


def negative_vjp(
    image: Any, grad: Any, *, wrt: Sequence[str] | None = None, out: Mapping[str, Any] | None = None
) -> NegativeGradients:
    """Gradient of ``negative``: d in = −grad."""
    return _gradients(NegativeGradients, wrt, out, image=None if _is_integer(image) else -_real(grad))


''',
        "class ResizeAreaGradients(",
    ),
    Addition(
        "src/bilateral_ops/reference/numba.py",
        """\
@_kernel
def _subtract(one, image, unit, top, out):
    count, height, width, channels = image.shape
    for r in prange(count * height):
        n, y = r // height, r % height
        row = np.empty(width * channels, type(unit))
        for x in range(width):
            for c in range(channels):
                row[x * channels + c] = one - image[n, y, x, c] * unit
        _write_row(row, top, out[n, y].reshape(row.size))


@like(specification.negative)
def negative(image, *, out=None):
    real = _working(image)
    pixels, unit, top = _plain_image(image, real)
    stored = np.asarray(image).dtype
    result = _Result(np.shape(image), stored if top else real, stored, out, image)
    _subtract(real(1), pixels, unit, top, result.shaped(*pixels.shape))
    return result.deliver()


@like(specification.negative_vjp)
def negative_vjp(image, grad, *, wrt=None, out=None):
    real = _working(image)
    gradients = _targets({"image": image}, real, wrt, out, grad)
    if "image" in gradients:
        incoming = _plain(grad, real, 4)
        _subtract(real(0), incoming, real(1), 0, _target(gradients, "image", incoming.shape, real))
    return _delivered(specification.NegativeGradients, gradients)


""",
        "def _cover(size: int, count: int, unit: int)",
    ),
    Addition(
        "src/bilateral_ops/reference/cupy.py",
        """\
@like(specification.negative)
def negative(image, *, out=None):
    return _deliver(formulas.negative(get_array_module(image), image), image.dtype, out)


@like(specification.negative_vjp)
def negative_vjp(image, grad, *, wrt=None, out=None):
    return _gradients(specification.NegativeGradients, (image,), {"image": -grad}, wrt, out)


""",
        "@like(specification.resize_area)\n",
    ),
    # --- What the tests know of it
    Addition("tests/cases.py", '    "negative": _SIZE | {"Ci"},\n', '    "resize_area": _SIZE | {"Ci", "size"'),
    Addition("tests/cases.py", '    "negative": {"image": (0, 1, 2, 3)},\n', '    "resize_area": {"image":'),
    Addition(
        "tests/cpp/random_calls.h",
        """\
void negative_forward(Draw& draw) {
  const Shape shape = geometry(draw, false).pixels(draw.from(1, 5));
  const int image = draw.image(shape), out = draw.call.result(Role::image, shape);
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.negative_forward({at(t, out), at(t, image)});
  };
}
void negative_backward(Draw& draw) {
  const Shape shape = geometry(draw, false).pixels(draw.from(1, 5));
  const int grad = draw.argument(Role::gradient, shape), d_image = draw.call.result(Role::gradient, shape);
  draw.call.run = [=](const Kernels& kernels, const Tensors& t) {
    kernels.negative_backward({at(t, d_image), at(t, grad)});
  };
}

""",
        "struct Operation {",
    ),
    Addition(
        "tests/cpp/random_calls.h",
        '    {"negative_forward", negative_forward, true, true},\n'
        '    {"negative_backward", negative_backward, false, true},\n',
        '    {"enhance_forward", enhance_forward,',
    ),
)


def with_additions(folder: Path, *names: str) -> Path:
    """A copy of the sources, and of these files and folders, to which the operation is added."""
    copied(folder, *names)
    for addition in ADDITIONS:
        (folder / addition.file).write_text(text_of(addition, folder), "utf-8")
    return folder


def text_of(addition: Addition, root: Path = ROOT) -> str:
    """The file with the addition."""
    if not addition.before:
        return addition.text
    return replaced(root / addition.file, addition.before, addition.text + addition.before)


#: A processor with the scalar kernels alone.
GENERIC = {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "generic"}
#: Tests that walk the list of operations without a test for each.
WALKS = ("tests/test_api.py", "tests/test_imports.py", "tests/test_agreement.py::test_every_operation_is_compared")


def main() -> str | int | None:
    with tempfile.TemporaryDirectory() as folder:
        root = with_additions(Path(folder), "tests", "README.md", "pyproject.toml")
        Package(root, **GENERIC)
        # test_contributing asks about sources to which nothing was added.
        for tests in (("tests", "--ignore=tests/test_contributing.py", "-k", NAME), WALKS):
            finished = run(root / "src", tests, root)
            print(finished.stdout)
            if finished.returncode:
                return finished.stderr or "a test failed"
        configure(root, root / "cpp", BILATERAL_OPS_CPP_TEST="ON", **GENERIC)
        subprocess.run(["ninja", "-C", root / "cpp"], check=True)
        return subprocess.run([root / "cpp" / "tests" / "cpp" / "test_kernels"]).returncode or None


if __name__ == "__main__":
    sys.exit(main())
