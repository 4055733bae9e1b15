"""Every operation as plain array expressions: what a framework differentiates, batches and compiles by itself.

They are the derivatives of the second order, which no kernel computes, what tests compare the kernels with, and the
forward half of ``reference.cupy``. ``xp`` is the module of the arrays: ``torch``, ``jax.numpy``, ``cupy`` or ``numpy``.
Each function takes an operation's array arguments in the order of its signature (the batch axis is optional, numbers
are arrays) and then its keywords; it checks nothing.

A grid is sampled by fetching the eight cells around every pixel and weighting them. Gradients at the kinks follow from
how it is written: the cell below a position is a whole number, without a gradient, so that on a knot the slope is that
of the cell above; what is clamped, or below a ``max``, is a constant, so that its slope is 0 there; and comparisons let
NaN pass.

float16, bfloat16 and integers are computed in float32. A result has the dtype of the operation's, except beside an
integer image: then it is float32, and neither rounded nor saturated, which ``stored`` does.

Sizes may be symbols, of PyTorch's or JAX's exporters.
"""

# Arrays of all these modules have no type in common.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .._core.checks import FLOATS, INTEGERS
from ..ops import OPERATIONS
from .numpy import LUMA, is_array

_TOPS = {name: int(np.iinfo(name).max) for name in INTEGERS}

# --- Numbers in and out


def _name_of(array):
    return str(array.dtype).rpartition(".")[2]


def _cast(xp, array, dtype):
    if _name_of(array) == dtype:
        return array
    found = getattr(xp, dtype, dtype)  # the name is enough for NumPy's bfloat16, which ml_dtypes has registered
    return array.to(found) if _is_torch(xp) else array.astype(found)


def _index(xp, array):
    """Whole numbers as an index; ONNX's are of 64 bits, so that PyTorch's exporter needs them so."""
    return _cast(xp, array, "int64" if _is_torch(xp) else "int32")


def _is_torch(xp):
    return bool(xp.__name__ == "torch")


def working(*arrays):
    """What to compute in."""
    return "float64" if any(_name_of(array) == "float64" for array in arrays) else "float32"


def computed(xp, *arrays, dtype=None):
    """The arrays in the dtype to compute in; integers span [0, 1]. What is no array stays what it is."""
    chosen = dtype or working(*filter(is_array, arrays))

    def one(array):
        if not is_array(array):
            return array
        top = _TOPS.get(_name_of(array))
        return _cast(xp, array, chosen) / top if top else _cast(xp, array, chosen)

    return tuple(map(one, arrays))


def _delivered(xp, result, like):
    return result if _name_of(like) in _TOPS else _cast(xp, result, _name_of(like))


def stored(xp: Any, result: Any, dtype: str) -> Any:
    """A result as the operation's, of this dtype: of integers rounded to nearest even, saturated, and NaN made 0."""
    if dtype not in _TOPS:
        return result
    top = _TOPS[dtype]
    level = xp.round(xp.where(result == result, result, 0.0) * top)
    return _cast(xp, _clamp(xp, level, 0, top), dtype)


def _constant(xp, value, like):
    """A number beside an array: of a ``where`` of numbers PyTorch's exporter loses the gradient."""
    if _is_torch(xp):
        return like.new_full((), value)
    return float(value) if isinstance(value, (int, float)) else xp.asarray(value, like.dtype)


def _clamp(xp, v, low, high):
    """Between low and high, with slope 0 at both and beyond."""
    return xp.where(v <= low, _constant(xp, low, v), xp.where(v >= high, _constant(xp, high, v), v))


def _above_zero(xp, v):
    """max(v, 0), with slope 0 at 0."""
    return xp.where(v <= 0, _constant(xp, 0, v), v)


# --- The sampling rule

#: ``locate`` as a kernel of CuPy's: the one piece of many small steps.
LOCATE = """
    const T last = size - 1, scale = align_corners ? last : T(size);
    const T inside = u < 0 ? T(0) : u > 1 ? T(1) : u;
    T p = align_corners ? inside * scale : inside * scale - T(0.5);
    slope = p <= 0 || p >= last ? T(0) : isnan(p) ? p : scale;
    p = p < 0 ? T(0) : p > last ? last : p;
    cell = isnan(p) ? 0 : static_cast<int>(p);
    fraction = p - cell;
"""


@cache
def _locate_kernel(cupy):
    inputs, outputs = "T u, int64 size, bool align_corners", "int32 cell, T fraction, T slope"
    return cupy.ElementwiseKernel(inputs, outputs, LOCATE, "bilateral_locate")


class _Ratio(NamedTuple):
    """A coordinate as whole numbers, of which a position follows with one rounding.

    XLA computes a position again for the cell and for each weight, and fuses its product and difference here but not
    there. On a knot that could be the cell below with the weights of the cell above.
    """

    over: Any
    under: Any


def locate(xp, u, size, align_corners):
    """The cell below a coordinate on an axis of ``size`` cells, the fraction to the next one, and its slope by u."""
    if xp.__name__ == "cupy":
        return _locate_kernel(xp)(u, size, align_corners)
    scale = size - 1 if align_corners else size
    if isinstance(u, _Ratio):
        over = _clamp(xp, u.over, 0, u.under) * scale
        p = over / u.under if align_corners else (2 * over - u.under) / (2 * u.under)
    else:
        u = _clamp(xp, u, 0, 1)  # so that no infinity meets a 0
        p = u * scale if align_corners else u * scale - 0.5
    p = _clamp(xp, p, 0, size - 1)
    cell = _index(xp, xp.where(p >= 0, p, 0.0))  # cell 0 for NaN
    slope = xp.where((p > 0) & (p < size - 1), 1.0, 0 * p) * scale
    return cell, p - _cast(xp, cell, _name_of(p)), slope


class _Axis(NamedTuple):
    """Along one grid axis, for every pixel: the cells below and above, their weights, the slope of the second by u."""

    cells: tuple[Any, Any]
    weights: tuple[Any, Any]
    slope: Any


def _axis(xp, u, size, align_corners, dtype):
    arrays = np if isinstance(u, np.ndarray) and isinstance(size, int) else xp
    cell, fraction, slope = locate(arrays, u, size, align_corners)
    above = arrays.where(cell + 1 < size, cell + 1, cell)  # whose weight is 0 at the last cell
    below_weight, above_weight, slope = (_cast(xp, a, dtype) for a in (1 - fraction, fraction, slope))
    return _Axis((cell, above), (below_weight, above_weight), slope)


class Sampling(NamedTuple):
    """Where all pixels of a batch look a grid up."""

    batch: Any
    y: _Axis
    x: _Axis
    z: _Axis

    def corners(self):
        """The eight cells around every pixel: index into the grids, and weight."""
        for i, j, k in itertools.product((0, 1), repeat=3):
            index = (self.batch, self.y.cells[i], self.x.cells[j], self.z.cells[k])
            yield index, self.y.weights[i] * self.x.weights[j] * self.z.weights[k]

    def by(self, axis):
        """The same with the weights' slopes along this axis in place of the weights."""
        own: _Axis = getattr(self, axis)
        return self._replace(**{axis: own._replace(weights=(-own.slope, own.slope))})


def _exact(xp, *sizes):
    """The module to compute positions with: JAX has no double or 64-bit integers; NumPy, where sizes are known."""
    return np if xp.__name__ == "jax.numpy" and all(isinstance(size, int) for size in sizes) else xp


def _indices(xp, count, like):
    """0, 1, …"""
    return xp.arange(count, **({"device": like.device} if _is_torch(xp) else {}))


def _at_least_one(xp, size):
    if isinstance(size, int):
        return max(size, 1)
    if _is_torch(xp):  # a symbol, or a tensor where PyTorch traces
        return size.clamp(min=1) if is_array(size) else xp.sym_max(size, 1)
    return xp.maximum(size, 1)


def sampling(xp, grid_shape, guide, xy=None, index=None, *, window=None, align_corners=False):
    """Of a batch. Pixels without coordinates of their own are located in double, but for the weights."""
    count, height, width = guide.shape
    if not is_array(xy):
        rule = xy or ("corners" if align_corners else "centers")
        top, left, full_height, full_width = (0, 0, height, width) if window is None else window

        def along(first, count, full):
            arrays = _exact(xp, count, full)
            i = _indices(arrays, count, guide) + first
            if arrays.__name__ == "jax.numpy":
                i = i.astype(float)
                corners = rule == "corners"
                return _Ratio(i, _at_least_one(arrays, full - 1)) if corners else _Ratio(2 * i + 1, 2 * full)
            i = _cast(arrays, i, "float64")
            return i / _at_least_one(arrays, full - 1) if rule == "corners" else (i + 0.5) / full

        y, x = along(top, height, full_height), along(left, width, full_width)
        y = _Ratio(y.over[:, None], y.under) if isinstance(y, _Ratio) else y[:, None]
    else:
        y, x = xy[..., 1], xy[..., 0]
    axes = (_axis(xp, u, size, align_corners, _name_of(guide)) for u, size in zip((y, x, guide), grid_shape))
    batch = _index(xp, _indices(_exact(xp, count), count, guide) if index is None else index)
    return Sampling(batch[:, None, None] if batch.ndim == 1 else batch, *axes)


def batch(xp, guide, *arrays):
    """``computed``, with a batch axis; the guide's rank says whether they have one."""
    found = computed(xp, guide, *arrays)
    return found if guide.ndim == 3 else tuple(a[None] if is_array(a) else a for a in found)


def flat(array, axes):
    """The array with its channel axes, those after the first ``axes``, made one."""
    return array.reshape(*array.shape[:axes], math.prod(array.shape[axes:]))


def gather(cells, at):
    """cells (N,Gh,Gw,Gd,C) → (N,H,W,C)"""
    return sum(weight[..., None] * cells[index] for index, weight in at.corners())


def scatter(xp, shape, at, values):
    """The transpose of ``gather``: values (N,H,W,C) → (N,Gh,Gw,Gd,C), zeros with values added any number of times."""
    parts = ((index, weight[..., None] * values) for index, weight in at.corners())
    if _is_torch(xp) and xp.onnx.is_in_onnx_export():
        # ``index_put``, which adds in a fixed order, becomes one that overwrites in PyTorch's older exporter.
        result = values.new_zeros((math.prod(shape[:-1]), shape[-1]))
        for index, part in parts:
            place: Any = 0
            for along, size in zip(index, shape):
                place = place * size + along
            rows = part.reshape(-1, shape[-1])
            result = result.scatter_add(0, place.expand(part.shape[:-1]).reshape(-1, 1).expand_as(rows), rows)
        return result.reshape(shape)
    if _is_torch(xp):
        result = values.new_zeros(shape)
        for index, part in parts:
            result = result.index_put(index, part, accumulate=True)
        return result
    result = xp.zeros(shape, values.dtype)
    for index, part in parts:
        if xp.__name__ == "jax.numpy":
            result = result.at[index].add(part)
        else:
            xp.add.at(result, index, part)
    return result


# --- The operations


def slice(xp, grid, guide, xy=None, index=None, *, window=None, align_corners=False):
    shape, like = (*guide.shape, *grid.shape[guide.ndim + 1 :]), grid
    guide, grid, xy = batch(xp, guide, grid, xy)
    at = sampling(xp, grid.shape[1:4], guide, xy, index, window=window, align_corners=align_corners)
    return _delivered(xp, gather(flat(grid, 4), at).reshape(shape), like)


def _applied(coefficients, image):
    channels = image.shape[-1]
    result = (coefficients[..., :channels] * image[..., None, :]).sum(-1)
    return result if coefficients.shape[-1] == channels else result + coefficients[..., channels]


def apply(xp, coefficients, image):
    return _delivered(xp, _applied(*computed(xp, coefficients, image)), image)


def slice_apply(xp, grid, guide, image, xy=None, index=None, *, window=None, align_corners=False):
    grid, guide, pixels, xy = computed(xp, grid, guide, image, xy)
    if guide is None:
        guide = guide_luma(xp, pixels)
    coefficients = slice(xp, grid, guide, xy, index, window=window, align_corners=align_corners)
    return _delivered(xp, _applied(coefficients, pixels), image)


def enhance(xp, grid, image, *parameters, kind, xy=None, window=None, align_corners=False):
    pixels, *values = computed(xp, image, *parameters)
    guide = FORMULAS[f"guide_{kind}"](xp, pixels, *values)
    (grid,) = computed(xp, grid, dtype=_name_of(guide))
    result = slice_apply(xp, grid, guide, pixels, xy, window=window, align_corners=align_corners)
    return _delivered(xp, result, image)


def _mixed(xp, image, weights, bias):
    """Σ_j weights_ij·image_j + bias_i. JAX may round what a product of matrices reads, to bfloat16 or tf32."""
    if xp.__name__ in ("cupy", "numpy"):
        return image @ weights.T + bias
    return (image[..., None, :] * weights).sum(-1) + bias


def curves(xp, image, ccm, ccm_bias, shifts, slopes, mix, mix_bias):
    """The guide before it is clipped, the channels' curves, and what they are curves of."""
    q = _mixed(xp, image, ccm, ccm_bias)
    c = (slopes * _above_zero(xp, q[..., None] - shifts)).sum(-1)
    return (c * mix).sum(-1) + mix_bias, c, q


def guide_curves(xp, image, ccm, ccm_bias, shifts, slopes, mix, mix_bias):
    s, _, _ = curves(xp, *computed(xp, image, ccm, ccm_bias, shifts, slopes, mix, mix_bias))
    return _delivered(xp, _clamp(xp, s, 0, 1), image)


def guide_nn(xp, image, w1, b1, w2, b2):
    like = image
    image, w1, b1, w2, b2 = computed(xp, image, w1, b1, w2, b2)
    s = (_above_zero(xp, _mixed(xp, image, w1, b1)) * w2).sum(-1) + b2
    # σ(s) without a power that overflows, whose slope would be 0·∞: tanh is bounded.
    return _delivered(xp, 0.5 + 0.5 * xp.tanh(0.5 * s), like)


def guide_luma(xp, image):
    (pixels,) = computed(xp, image)
    result = sum(weight * pixels[..., channel] for channel, weight in enumerate(LUMA))
    return _delivered(xp, result, image)


def splat(xp, guide, values, xy=None, *, grid_shape, window=None, align_corners=False):
    shape, like = (*guide.shape[:-2], *grid_shape, *values.shape[guide.ndim :]), values
    guide, values, xy = batch(xp, guide, values, xy)
    values = flat(values, 3)
    at = sampling(xp, grid_shape, guide, xy, window=window, align_corners=align_corners)
    cells = scatter(xp, (guide.shape[0], *grid_shape, values.shape[-1]), at, values)
    return _delivered(xp, cells.reshape(shape), like)


def total_variation(xp, grid, index=None):
    (cells,) = computed(xp, grid if index is None else grid[_index(xp, index)])
    total: Any = 0.0 * cells.sum(tuple(range(1, cells.ndim)))
    for axis in (1, 2, 3):
        below = cells[(np.s_[:],) * axis + (np.s_[:-1],)]
        above = cells[(np.s_[:],) * axis + (np.s_[1:],)]
        count = math.prod(_at_least_one(xp, size) for size in below.shape[1:])
        total = total + ((above - below) ** 2).sum(tuple(range(1, cells.ndim))) / count
    return _delivered(xp, total, grid)


def _averaged(xp, pixels, axis, count):
    """Pixels along an axis averaged over each of ``count`` as long together.

    As many are fetched for each as any covers. Where it covers fewer, the first of them is there again, with weight 0.
    """
    size = pixels.shape[axis]
    arrays = _exact(xp, size, count)
    i = _indices(arrays, count, pixels)[:, None]
    first = i * size // count
    at = first + _indices(arrays, size // count + 2, pixels)
    length = arrays.minimum((i + 1) * size, (at + 1) * count) - arrays.maximum(i * size, at * count)
    covered = length > 0
    index = arrays.where(covered, at, first)
    weight = _cast(arrays, arrays.where(covered, length, 0), _name_of(pixels)) / size
    fetched = pixels[(np.s_[:],) * axis + (index,)]
    return (fetched * weight.reshape(*weight.shape, *[1] * (pixels.ndim - axis - 1))).sum(axis + 1)


def resize_area(xp, image, *, size, dtype=None):
    (pixels,) = computed(xp, image, dtype="float64" if dtype == "float64" else None)
    rows = pixels.ndim - 3
    result = _averaged(xp, _averaged(xp, pixels, rows, size[0]), rows + 1, size[1])
    return _cast(xp, result, dtype) if dtype in FLOATS else _delivered(xp, result, image)


FORMULAS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in OPERATIONS}
