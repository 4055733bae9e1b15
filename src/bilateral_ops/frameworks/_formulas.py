"""Every operation as plain array expressions: what a framework differentiates, batches and compiles by itself.

They are the derivatives of the second order, which no kernel computes, and what tests compare the kernels with. ``xp``
is the module of the arrays: ``torch``, ``jax.numpy`` or ``numpy``. Each function takes an operation's array arguments
in the order of its signature (the batch axis is optional, numbers are arrays) and then its keywords; it checks nothing.

A grid is sampled by fetching the eight cells around every pixel and weighting them. Gradients at the kinks follow from
how it is written: the cell below a position is a whole number, without a gradient, so that on a knot the slope is that
of the cell above; what is clamped, or below a ``max``, is a constant, so that its slope is 0 there; and comparisons let
NaN pass.

float16, bfloat16 and integers are computed in float32. A result has the dtype of the operation's, except beside an
integer image: then it is float32, and neither rounded nor saturated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .._core.checks import FLOATS
from ..reference.numpy import LUMA

Window = tuple[int, int, int, int]

_TOPS = {"uint8": 255, "uint16": 65535}

# ---------------------------------------------------------------------------------------------------------------------
# Numbers in and out
# ---------------------------------------------------------------------------------------------------------------------


def _name_of(array: Any) -> str:
    return str(array.dtype).rpartition(".")[2]


def _cast(xp: Any, array: Any, dtype: str) -> Any:
    if _name_of(array) == dtype:
        return array
    return array.to(getattr(xp, dtype)) if _is_torch(xp) else array.astype(_to_dtype(xp, dtype))


def _to_dtype(xp: Any, dtype: str) -> Any:
    if hasattr(xp, dtype):
        return getattr(xp, dtype)
    return np.dtype(dtype)  # NumPy's bfloat16, which ml_dtypes has registered


def _is_torch(xp: Any) -> bool:
    return bool(xp.__name__ == "torch")


def _working(*arrays: Any) -> str:
    """What to compute in."""
    return "float64" if any(_name_of(array) == "float64" for array in arrays) else "float32"


def _computed(xp: Any, *arrays: Any) -> tuple[Any, ...]:
    """The arrays in the dtype to compute in; integers span [0, 1]. None stays None."""
    return _computed_in(xp, _working(*(array for array in arrays if array is not None)), *arrays)


def _computed_in(xp: Any, working: str, *arrays: Any) -> tuple[Any, ...]:
    def computed(array: Any) -> Any:
        if array is None:
            return None
        return _cast(xp, array, working) / _TOPS.get(_name_of(array), 1)

    return tuple(map(computed, arrays))


def _delivered(xp: Any, result: Any, like: Any) -> Any:
    return result if _name_of(like) in _TOPS else _cast(xp, result, _name_of(like))


def _clamp(xp: Any, v: Any, low: float, high: float) -> Any:
    """Between low and high, with slope 0 at both and beyond."""
    return xp.where(v <= low, float(low), xp.where(v >= high, float(high), v))


def _above_zero(xp: Any, v: Any) -> Any:
    """max(v, 0), with slope 0 at 0."""
    return xp.where(v <= 0, 0.0, v)


# ---------------------------------------------------------------------------------------------------------------------
# The sampling rule
# ---------------------------------------------------------------------------------------------------------------------


def _locate(xp: Any, u: Any, size: int, align_corners: bool) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The cells below and above a coordinate on an axis of ``size`` cells, and their weights."""
    u = _clamp(xp, u, 0, 1)  # so that no infinity meets a 0
    p = _clamp(xp, u * (size - 1) if align_corners else u * size - 0.5, 0, size - 1)
    below = _cast(xp, xp.where(p >= 0, p, 0.0), "int32")  # cell 0 for NaN
    above = xp.where(below + 1 < size, below + 1, below)  # whose weight is 0 at the last cell
    fraction = p - _cast(xp, below, _name_of(p))
    return (below, above), (1 - fraction, fraction)


def _indices(xp: Any, count: int, like: Any) -> Any:
    """0, 1, … in double. Where JAX has no double NumPy has; PyTorch's sizes may be symbols, which NumPy can't take."""
    return xp.arange(count, dtype=xp.float64, device=like.device) if _is_torch(xp) else np.arange(count, dtype=float)


def _pixels(xp: Any, first: int, count: int, full: int, size: int, align_corners: bool, like: Any) -> Any:
    """``_locate`` of pixels ``first`` to ``first + count`` of ``full``, in double but for the weights."""
    i = _indices(xp, count, like) + first
    u = i / max(full - 1, 1) if align_corners else (i + 0.5) / full
    cells, weights = _locate(xp if _is_torch(xp) else np, u, size, align_corners)
    return cells, tuple(_cast(xp, weight, _name_of(like)) for weight in weights)


def _corners(
    xp: Any, grid_shape: Sequence[int], guide: Any, xy: Any, window: Window | None, align_corners: bool
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The eight cells around every pixel of a batch: index into the grids, and weight."""
    count, height, width = guide.shape
    gh, gw, gd = grid_shape
    if xy is None:
        top, left, full_height, full_width = (0, 0, height, width) if window is None else window
        y = _pixels(xp, top, height, full_height, gh, align_corners, guide)
        x = _pixels(xp, left, width, full_width, gw, align_corners, guide)
        y = tuple(tuple(a[:, None] for a in pair) for pair in y)
    else:
        y = _locate(xp, xy[..., 1], gh, align_corners)
        x = _locate(xp, xy[..., 0], gw, align_corners)
    z = _locate(xp, guide, gd, align_corners)
    n = _cast(xp, _indices(xp, count, guide), "int32")[:, None, None]
    for i, j, k in itertools.product((0, 1), repeat=3):
        yield (n, y[0][i], x[0][j], z[0][k]), y[1][i] * x[1][j] * z[1][k]


def _batch(xp: Any, guide: Any, *arrays: Any) -> tuple[Any, ...]:
    """``_computed``, with a batch axis; the guide's rank says whether they have one."""
    computed = _computed(xp, guide, *arrays)
    return computed if guide.ndim == 3 else tuple(a if a is None else a[None] for a in computed)


def _flat(array: Any, axes: int) -> Any:
    """The array with its channel axes, those after the first ``axes``, made one."""
    return array.reshape(*array.shape[:axes], math.prod(array.shape[axes:]))


def _added(xp: Any, shape: tuple[int, ...], parts: Iterator[tuple[tuple[Any, ...], Any]], like: Any) -> Any:
    """Zeros with values added at indices, each any number of times."""
    if _is_torch(xp):
        result = like.new_zeros(shape)
        for index, values in parts:
            result = result.index_put(index, values, accumulate=True)
        return result
    result = xp.zeros(shape, like.dtype)
    for index, values in parts:
        if xp is np:
            np.add.at(result, index, values)
        else:
            result = result.at[index].add(values)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# The operations
# ---------------------------------------------------------------------------------------------------------------------


def slice(
    xp: Any, grid: Any, guide: Any, xy: Any = None, *, window: Window | None = None, align_corners: bool = False
) -> Any:
    shape, like = (*guide.shape, *grid.shape[guide.ndim + 1 :]), grid
    guide, grid, xy = _batch(xp, guide, grid, xy)
    cells = _flat(grid, 4)
    corners = _corners(xp, grid.shape[1:4], guide, xy, window, align_corners)
    result = sum(weight[..., None] * cells[index] for index, weight in corners)
    return _delivered(xp, result.reshape(shape), like)


def _applied(coefficients: Any, image: Any) -> Any:
    channels = image.shape[-1]
    result = (coefficients[..., :channels] * image[..., None, :]).sum(-1)
    return result if coefficients.shape[-1] == channels else result + coefficients[..., channels]


def apply(xp: Any, coefficients: Any, image: Any) -> Any:
    return _delivered(xp, _applied(*_computed(xp, coefficients, image)), image)


def slice_apply(
    xp: Any,
    grid: Any,
    guide: Any,
    image: Any,
    xy: Any = None,
    *,
    window: Window | None = None,
    align_corners: bool = False,
) -> Any:
    grid, guide, pixels, xy = _computed(xp, grid, guide, image, xy)
    if guide is None:
        guide = guide_luma(xp, pixels)
    coefficients = slice(xp, grid, guide, xy, window=window, align_corners=align_corners)
    return _delivered(xp, _applied(coefficients, pixels), image)


def guide_curves(
    xp: Any, image: Any, ccm: Any, ccm_bias: Any, shifts: Any, slopes: Any, mix: Any, mix_bias: Any
) -> Any:
    like = image
    image, ccm, ccm_bias, shifts, slopes, mix, mix_bias = _computed(
        xp, image, ccm, ccm_bias, shifts, slopes, mix, mix_bias
    )
    q = (image[..., None, :] * ccm).sum(-1) + ccm_bias
    curves = (slopes * _above_zero(xp, q[..., None] - shifts)).sum(-1)
    return _delivered(xp, _clamp(xp, (curves * mix).sum(-1) + mix_bias, 0, 1), like)


def guide_nn(xp: Any, image: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    like = image
    image, w1, b1, w2, b2 = _computed(xp, image, w1, b1, w2, b2)
    features = _above_zero(xp, (image[..., None, :] * w1).sum(-1) + b1)
    s = (features * w2).sum(-1) + b2
    # σ(s) without a power that overflows, whose slope would be 0·∞: tanh is bounded.
    return _delivered(xp, 0.5 + 0.5 * xp.tanh(0.5 * s), like)


def guide_luma(xp: Any, image: Any) -> Any:
    (pixels,) = _computed(xp, image)
    result = sum(weight * pixels[..., channel] for channel, weight in enumerate(LUMA))
    return _delivered(xp, result, image)


def splat(
    xp: Any,
    guide: Any,
    values: Any,
    xy: Any = None,
    *,
    grid_shape: Sequence[int],
    window: Window | None = None,
    align_corners: bool = False,
) -> Any:
    shape, like = (*guide.shape[:-2], *grid_shape, *values.shape[guide.ndim :]), values
    guide, values, xy = _batch(xp, guide, values, xy)
    values = _flat(values, 3)
    corners = _corners(xp, grid_shape, guide, xy, window, align_corners)
    parts = ((index, weight[..., None] * values) for index, weight in corners)
    result = _added(xp, (guide.shape[0], *grid_shape, values.shape[-1]), parts, values)
    return _delivered(xp, result.reshape(shape), like)


def total_variation(xp: Any, grid: Any) -> Any:
    (cells,) = _computed(xp, grid)
    total: Any = 0.0 * cells.sum(tuple(range(1, cells.ndim)))
    for axis in (1, 2, 3):
        below = cells[(np.s_[:],) * axis + (np.s_[:-1],)]
        above = cells[(np.s_[:],) * axis + (np.s_[1:],)]
        count = max(math.prod(below.shape[1:]), 1)
        total = total + _flat((above - below) ** 2, 1).sum(-1) / count
    return _delivered(xp, total, grid)


def _averaged(xp: Any, pixels: Any, axis: int, count: int) -> Any:
    """Pixels along an axis averaged over each of ``count`` as long together.

    As many are fetched for each as any covers. Where it covers fewer, the first of them is there again, with weight 0.
    """
    size, arrays = pixels.shape[axis], xp if _is_torch(xp) else np
    i = _indices(xp, count, pixels)[:, None]
    first = arrays.floor(i * size / count)
    at = first + _indices(xp, size // count + 2, pixels)
    length = arrays.minimum((i + 1) * size, (at + 1) * count) - arrays.maximum(i * size, at * count)
    covered = length > 0
    index = _cast(xp, arrays.where(covered, at, first), "int32")
    weight = _cast(xp, arrays.where(covered, length / size, 0.0), _name_of(pixels))
    fetched = pixels[(np.s_[:],) * axis + (index,)]
    return (fetched * weight.reshape(*weight.shape, *[1] * (pixels.ndim - axis - 1))).sum(axis + 1)


def resize_area(xp: Any, image: Any, *, size: Sequence[int], dtype: str | None = None) -> Any:
    (pixels,) = _computed_in(xp, "float64" if dtype == "float64" else _working(image), image)
    rows = pixels.ndim - 3
    result = _averaged(xp, _averaged(xp, pixels, rows, size[0]), rows + 1, size[1])
    return _cast(xp, result, dtype) if dtype in FLOATS else _delivered(xp, result, image)


FORMULAS: dict[str, Callable[..., Any]] = {
    "slice": slice,
    "apply": apply,
    "slice_apply": slice_apply,
    "guide_curves": guide_curves,
    "guide_nn": guide_nn,
    "guide_luma": guide_luma,
    "splat": splat,
    "total_variation": total_variation,
    "resize_area": resize_area,
}
