"""The operations in Numba: what one would write for speed without this package, and the peer to measure it against.

Names, arguments and dtypes of results are those of ``bilateral_ops``; nothing is checked. float32 and float64 are
computed as they are; 16-bit floats are converted to float32 before and back after; integer images are read and written
in the kernels. Arrays that are not contiguous are copied first.

How it is fast. A kernel takes image rows in parallel and passes over a row a few times while it is in the cache: read
the image, find the guide, find the cells, evaluate, write. Positions along rows and columns are computed once per call.
The two rows of grid cells around an image row are blended once, and for every cell of the blended row a small table
holds the polynomial that a pixel evaluates between it and its neighbours to the right and above in depth:

    coefficient(tx, tz) = a + tx·b + tz·(c + tx·d)

Backward, each of a fixed number of tasks sums into a grid of its own; these are added at the end. With explicit ``xy``
a pixel visits its eight cells. ``slice`` is ``slice_apply`` with an image of no channels, where a matrix is its offset
alone, and ``splat`` is its gradient by the grid. The usual sizes of matrices are compiled in.
"""

# Numba infers the types of what it compiles.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from .._core.missing import needed
from . import numpy as specification
from ._by_grid import by_grid
from ._like import like
from .numpy import LUMA, Window, is_array

with needed("bilateral_ops.reference.numba", "numba", "numba"):
    from numba import njit, prange

# Multiply-adds may be fused and sums be taken in any order (five times faster in the guides' gradients); NaN and
# infinities keep their meaning.
_FASTMATH = {"contract", "reassoc"}
_kernel = njit(parallel=True, fastmath=_FASTMATH)
_helper = njit(fastmath=_FASTMATH)
_inlined = njit(fastmath=_FASTMATH, inline="always")

_TASKS = 32  # of a backward pass: fixed, so that sums don't depend on the number of threads


# --- Arrays in and out


def _working(*arrays: Any) -> Any:
    """What to compute in: float64 where there is any, else float32."""
    return np.float64 if any(np.asarray(a).dtype == np.float64 for a in arrays) else np.float32


def _plain(array: Any, real: Any, axes: int) -> Any:
    """The array of this real, contiguous and writeable; an axis put before if it has fewer than ``axes``."""
    # Of one layout, and not read-only, so that each kernel is compiled once per real type.
    array = np.require(array, real, ["C", "W"])
    return array[None] if array.ndim < axes else array


def _plain_grid(grid: Any, real: Any, batched: bool) -> Any:
    """The grid as (N, Gh, Gw, Gd, C)."""
    grid = np.require(grid, real, ["C", "W"])
    grid = grid if batched else grid[None]
    return grid.reshape(*grid.shape[:4], math.prod(grid.shape[4:]))


def _top(image: Any) -> int:
    """What stands for 1 in an integer image; 0 for floats."""
    dtype = np.asarray(image).dtype
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 0


def _plain_image(image: Any, real: Any) -> tuple[Any, Any, int]:
    """The image as (N, H, W, Ci), integers as they are; what to multiply it with on reading; its top."""
    top = _top(image)
    return _plain(image, np.asarray(image).dtype if top else real, 4), real(1 / (top or 1)), top


class _Result:
    """Where a kernel writes a result: into ``out`` itself if it can, else into a new array.

    ``real`` is the type that the kernel writes, ``dtype`` what the caller gets.
    """

    def __init__(self, shape: tuple[int, ...], real: Any, dtype: Any, out: Any, *inputs: Any) -> None:
        self.dtype, self.out = dtype, out
        self.direct = (
            isinstance(out, np.ndarray)
            and out.dtype == real
            and out.flags.c_contiguous
            and out.flags.writeable
            and not any(np.may_share_memory(out, a) for a in inputs if is_array(a))
        )
        self.array = out if self.direct else np.empty(shape, real)

    def shaped(self, *shape: int) -> Any:
        return self.array.reshape(shape)

    def deliver(self) -> Any:
        if self.out is None:
            return self.array.astype(self.dtype, copy=False)
        if not self.direct:
            self.out[...] = self.array
        return self.out


def _targets(
    arrays: Mapping[str, Any], real: Any, wrt: Sequence[str] | None, out: Mapping[str, Any] | None, grad: Any
) -> dict[str, _Result]:
    """Where the gradients of these arguments go: of those that are given, wanted and not integers."""
    inputs = [np.asarray(a) for a in (*arrays.values(), grad) if is_array(a)]
    return {
        name: _Result(np.shape(a), real, getattr(a, "dtype", real), (out or {}).get(name), *inputs)
        for name, a in arrays.items()
        if is_array(a) and not _top(a) and (wrt is None or name in wrt)
    }


def _target(gradients: Mapping[str, _Result], name: str, shape: tuple[int, ...], real: Any) -> Any:
    """The array for a kernel to write this gradient into; an empty one where it isn't wanted."""
    return gradients[name].shaped(*shape) if name in gradients else np.empty((0,) * len(shape), real)


def _delivered(record: Any, gradients: Mapping[str, _Result]) -> Any:
    return record(*(gradients[name].deliver() if name in gradients else None for name in record._fields))


# --- Positions, rows of pixels, rows of cells


def _positions(pixels: Any, grid: Any, rule: str | None, window: Window | None, align_corners: bool) -> tuple[Any, ...]:
    """Along rows, then along columns of pixels (N, H, W, …): the cell below, and the fraction towards the next."""
    height, width = pixels.shape[1:3]
    top, left, full_height, full_width = (0, 0, height, width) if window is None else window
    at_corners = align_corners if rule is None else rule == "corners"

    def along(first: int, count: int, full: int, size: int) -> tuple[Any, Any]:
        i = first + np.arange(count)
        u = i / max(full - 1, 1) if at_corners else (i + 0.5) / full
        p = np.clip(u * (size - 1) if align_corners else u * size - 0.5, 0, size - 1)
        cells = p.astype(np.int64)
        return cells, (p - cells).astype(grid.dtype)

    return *along(top, height, full_height, grid.shape[1]), *along(left, width, full_width, grid.shape[2])


@_inlined
def _locate(u, size, align_corners):
    """The cell below u, the cell above, the fraction between them, and the slope of that fraction by u."""
    real = type(u)
    zero, last = real(0), real(size - 1)
    scale = last if align_corners else real(size)
    offset = zero if align_corners else real(0.5)
    u = min(max(u, zero), real(1))  # in this order of arguments NaN stays NaN
    p = min(max(u * scale - offset, zero), last)
    known = p == p
    k = int(p) if known else 0
    slope = (scale if zero < p < last else zero) if known else p
    return k, min(k + 1, size - 1), p - real(k), slope


@_inlined
def _read_row(image, n, y, unit, planes):
    """Image row y as one row per channel, (Ci, W), in the type that is computed in."""
    real = type(unit)
    if planes.shape[0] == 3:
        for x in range(image.shape[2]):
            planes[0, x] = real(image[n, y, x, 0]) * unit
            planes[1, x] = real(image[n, y, x, 1]) * unit
            planes[2, x] = real(image[n, y, x, 2]) * unit
    else:
        for x in range(image.shape[2]):
            for j in range(planes.shape[0]):
                planes[j, x] = real(image[n, y, x, j]) * unit


@_inlined
def _write_row(result, top, out):
    """Flat results into a flat image row: as they are, or scaled, rounded and saturated where it holds integers."""
    if top > 0:
        zero, one, scale = result.dtype.type(0), result.dtype.type(1), result.dtype.type(top)
        for m in range(result.size):
            v = min(max(result[m], zero), one) * scale
            out[m] = np.rint(v) if v == v else zero
    else:
        for m in range(result.size):
            out[m] = result[m]


@_inlined
def _blend_rows(grid, n, i, ty, row):
    """Blend row i of a grid (N, Gh, Gw, Gd, C) with the next into ``row`` (Gw, Gd, C)."""
    below, above = grid[n, i].reshape(row.size), grid[n, min(i + 1, grid.shape[1] - 1)].reshape(row.size)
    flat = row.reshape(row.size)
    for m in range(row.size):
        flat[m] = below[m] + ty * (above[m] - below[m])


@_inlined
def _tabulate(row, table):
    """The polynomials of a blended row (Gw, Gd, C) as (Gw, Gd, 4, C)."""
    columns, depths, channels = row.shape
    for j in range(columns):
        right = min(j + 1, columns - 1)
        for k in range(depths):
            above = min(k + 1, depths - 1)
            for c in range(channels):
                a, b, dz = row[j, k, c], row[right, k, c], row[j, above, c] - row[j, k, c]
                table[j, k, 0, c] = a
                table[j, k, 1, c] = b - a
                table[j, k, 2, c] = dz
                table[j, k, 3, c] = row[right, above, c] - b - dz


@_inlined
def _evaluate(table, cell, c, tx, tz):
    return table[cell, 0, c] + tx * table[cell, 1, c] + tz * (table[cell, 2, c] + tx * table[cell, 3, c])


def _fixed(channels_out: int, channels_in: int, columns: int) -> tuple[int, int, int]:
    """The sizes of a matrix to compile in, or zeros for a kernel that reads them from its arguments."""
    usual = (channels_out, channels_in, columns) in ((3, 3, 4), (12, 0, 1), (4, 0, 1))
    return (channels_out, channels_in, columns) if usual else (0, 0, 0)


# --- Guides. A function for a row serves guide_* and enhance; q, h, d_… are rows, too


@_helper
def _stored_row(parameters, planes, n, y, out):
    """A guide that is there already."""
    guide = parameters[0]
    for x in range(out.size):
        out[x] = guide[n, y, x]


@_inlined
def _affine_row(weights, i, bias, planes, out):
    """out = Σ_j weights_ij·planes_j + bias."""
    for x in range(out.size):
        out[x] = bias
    for j in range(planes.shape[0]):
        for x in range(out.size):
            out[x] += weights[i, j] * planes[j, x]


@_inlined
def _affine_row_backward(weights, i, planes, d, d_weights, d_planes):
    """What ``_affine_row`` has for gradients where d comes in, added to these; but for the bias's."""
    for j in range(planes.shape[0]):
        total = type(weights[i, j])(0)
        for x in range(d.size):
            total += d[x] * planes[j, x]
            d_planes[j, x] += weights[i, j] * d[x]
        d_weights[i, j] += total


@_helper
def _curve_sum_row(parameters, planes, q, out):
    """Σ_i mix_i·c_i + mix_bias, before the clip. q is room for a row."""
    ccm, ccm_bias, shifts, slopes, mix, mix_bias = parameters
    zero = type(mix_bias)(0)
    for x in range(out.size):
        out[x] = mix_bias
    for i in range(planes.shape[0]):
        _affine_row(ccm, i, ccm_bias[i], planes, q)
        for k in range(shifts.shape[1]):
            shift, slope = shifts[i, k], mix[i] * slopes[i, k]
            for x in range(out.size):
                out[x] += slope * max(q[x] - shift, zero)


@_helper
def _curves_row(parameters, planes, n, y, out):
    zero, one = type(parameters[5])(0), type(parameters[5])(1)
    _curve_sum_row(parameters, planes, np.empty_like(out), out)
    for x in range(out.size):
        out[x] = min(max(out[x], zero), one)


@_helper
def _nn_sums_row(parameters, planes, out):
    w1, b1, w2, b2 = parameters
    zero = type(b2)(0)
    h = np.empty_like(out)
    for x in range(out.size):
        out[x] = b2
    for f in range(w2.size):
        _affine_row(w1, f, b1[f], planes, h)
        for x in range(out.size):
            out[x] += w2[f] * max(h[x], zero)


@_helper
def _nn_row(parameters, planes, n, y, out):
    one = type(parameters[3])(1)
    _nn_sums_row(parameters, planes, out)
    for x in range(out.size):
        out[x] = one / (one + math.exp(-out[x]))


@_helper
def _luma_row(parameters, planes, n, y, out):
    r, g, b = parameters
    for x in range(out.size):
        out[x] = r * planes[0, x] + g * planes[1, x] + b * planes[2, x]


def _parameters(values: Sequence[Any], real: Any) -> tuple[Any, ...]:
    return tuple(real(v) if np.ndim(v) == 0 else _plain(v, real, 0) for v in values)


@cache
def _guide_kernel(guide_row: Any) -> Any:
    @_kernel
    def kernel(image, unit, parameters, out):
        count, height, width, channels = image.shape
        for r in prange(count * height):
            n, y = r // height, r % height
            planes = np.empty((channels, width), out.dtype)
            _read_row(image, n, y, unit, planes)
            guide_row(parameters, planes, n, y, out[n, y])

    return kernel


def _guide(guide_row: Any, image: Any, values: Sequence[Any], out: Any) -> Any:
    """Run a guide with these values of its parameters."""
    image = np.asarray(image)
    real = _working(image)
    pixels, unit, top = _plain_image(image, real)
    result = _Result(image.shape[:-1], real, real if top else image.dtype, out, image)
    _guide_kernel(guide_row)(pixels, unit, _parameters(values, real), result.shaped(*pixels.shape[:-1]))
    return result.deliver()


@cache
def _guide_backward_kernel(row_backward: Any) -> Any:
    @_kernel
    def kernel(image, unit, parameters, grad, want_image, d_image, sums):
        """Each task adds to the parameters' gradients at its place in ``sums``."""
        count, height, width, channels = image.shape
        rows = count * height
        for task in prange(_TASKS):
            planes, d_planes = np.empty((channels, width), d_image.dtype), np.empty((channels, width), d_image.dtype)
            for r in range(rows * task // _TASKS, rows * (task + 1) // _TASKS):
                n, y = r // height, r % height
                _read_row(image, n, y, unit, planes)
                d_planes[:] = 0
                row_backward(parameters, planes, grad[n, y], d_planes, task, sums)
                if want_image:
                    for x in range(width):
                        for j in range(channels):
                            d_image[n, y, x, j] = d_planes[j, x]

    return kernel


def _guide_vjp(record, row_backward, image, values, grad, wrt, out):
    """Run a guide's gradient."""
    real = _working(image)
    gradients = _targets(dict(zip(record._fields, (image, *values))), real, wrt, out, grad)
    pixels, unit, _ = _plain_image(image, real)
    sums = tuple(np.zeros((_TASKS, *np.shape(value)), real) for value in values)
    parameters, incoming = _parameters(values, real), _plain(grad, real, 3)
    d_image = _target(gradients, "image", pixels.shape, real)
    kernel = _guide_backward_kernel(row_backward)
    kernel(pixels, unit, parameters, incoming, "image" in gradients, d_image, sums)
    for name, parts in zip(record._fields[1:], sums):
        if name in gradients:
            gradients[name].array[...] = parts.sum(axis=0)
    return _delivered(record, gradients)


@like(specification.guide_curves)
def guide_curves(image, ccm, ccm_bias, shifts, slopes, mix, mix_bias, *, out=None):
    return _guide(_curves_row, image, (ccm, ccm_bias, shifts, slopes, mix, mix_bias), out)


@_inlined
def _curves_row_backward(parameters, planes, grad, d_planes, task, sums):
    ccm, ccm_bias, shifts, slopes, mix, mix_bias = parameters
    channels, width = planes.shape
    knots = shifts.shape[1]
    zero, one = type(mix_bias)(0), type(mix_bias)(1)
    d_ccm, d_ccm_bias, d_shifts, d_slopes, d_mix, d_mix_bias = sums
    s, ds = np.empty(width, planes.dtype), np.empty(width, planes.dtype)
    q, dq = np.empty(width, planes.dtype), np.empty(width, planes.dtype)
    _curve_sum_row(parameters, planes, q, s)
    total = zero
    for x in range(width):
        ds[x] = grad[x] if s[x] > zero and s[x] < one else zero
        total += ds[x]
    d_mix_bias[task] += total
    for i in range(channels):
        _affine_row(ccm, i, ccm_bias[i], planes, q)
        dq[:] = zero
        for k in range(knots):
            shift, slope = shifts[i, k], mix[i] * slopes[i, k]
            area, count_above = zero, zero
            for x in range(width):
                t = q[x] - shift
                area += ds[x] * max(t, zero)
                above = ds[x] if t > zero else zero
                count_above += above
                dq[x] += slope * above
            d_shifts[task, i, k] -= slope * count_above
            d_slopes[task, i, k] += mix[i] * area
            d_mix[task, i] += slopes[i, k] * area
        d_ccm_bias[task, i] += dq.sum()
        _affine_row_backward(ccm, i, planes, dq, d_ccm[task], d_planes)


@like(specification.guide_curves_vjp)
def guide_curves_vjp(image, ccm, ccm_bias, shifts, slopes, mix, mix_bias, grad, *, wrt=None, out=None):
    values = (ccm, ccm_bias, shifts, slopes, mix, mix_bias)
    return _guide_vjp(specification.GuideCurvesGradients, _curves_row_backward, image, values, grad, wrt, out)


@like(specification.guide_nn)
def guide_nn(image, w1, b1, w2, b2, *, out=None):
    return _guide(_nn_row, image, (w1, b1, w2, b2), out)


@_inlined
def _nn_row_backward(parameters, planes, grad, d_planes, task, sums):
    w1, b1, w2, b2 = parameters
    width, features = planes.shape[1], w2.shape[0]
    zero, one = type(b2)(0), type(b2)(1)
    d_w1, d_b1, d_w2, d_b2 = sums
    s, ds = np.empty(width, planes.dtype), np.empty(width, planes.dtype)
    h, dh = np.empty(width, planes.dtype), np.empty(width, planes.dtype)
    _nn_sums_row(parameters, planes, s)
    total = zero
    for x in range(width):
        # 1 - sigmoid(s) = sigmoid(-s), which keeps its digits where sigmoid(s) is near 1
        ds[x] = grad[x] / ((one + math.exp(-s[x])) * (one + math.exp(s[x])))
        total += ds[x]
    d_b2[task] += total
    for f in range(features):
        _affine_row(w1, f, b1[f], planes, h)
        area, total = zero, zero
        for x in range(width):
            area += ds[x] * max(h[x], zero)
            dh[x] = w2[f] * ds[x] * (one if h[x] > zero else zero)
            total += dh[x]
        d_w2[task, f] += area
        d_b1[task, f] += total
        _affine_row_backward(w1, f, planes, dh, d_w1[task], d_planes)


@like(specification.guide_nn_vjp)
def guide_nn_vjp(image, w1, b1, w2, b2, grad, *, wrt=None, out=None):
    return _guide_vjp(specification.GuideNNGradients, _nn_row_backward, image, (w1, b1, w2, b2), grad, wrt, out)


@like(specification.guide_luma)
def guide_luma(image, *, out=None):
    return _guide(_luma_row, image, LUMA, out)


@_kernel
def _luma_backward(grad, weights, d_image):
    count, height, width = grad.shape
    for r in prange(count * height):
        n, y = r // height, r % height
        for x in range(width):
            d_image[n, y, x, 0] = weights[0] * grad[n, y, x]
            d_image[n, y, x, 1] = weights[1] * grad[n, y, x]
            d_image[n, y, x, 2] = weights[2] * grad[n, y, x]


@like(specification.guide_luma_vjp)
def guide_luma_vjp(image, grad, *, wrt=None, out=None):
    real = _working(image)
    gradients = _targets({"image": image}, real, wrt, out, grad)
    if "image" in gradients:
        incoming = _plain(grad, real, 3)
        _luma_backward(incoming, _parameters(LUMA, real), _target(gradients, "image", (*incoming.shape, 3), real))
    return _delivered(specification.GuideLumaGradients, gradients)


# --- slice_apply, and with it slice and enhance: forward


@cache
def _forward_kernel(guide_row: Any, fixed: tuple[int, int, int]) -> Any:
    fixed_out, fixed_in, fixed_columns = fixed

    @_kernel
    def kernel(grid, positions, guide, image, unit, align_corners, top, out):
        row_cells, row_fractions, column_cells, column_fractions = positions
        count, height, width, _ = out.shape
        _, _, grid_width, depths, _ = grid.shape
        co = fixed_out if fixed_columns else out.shape[3]
        ci = fixed_in if fixed_columns else image.shape[3]
        columns = fixed_columns if fixed_columns else grid.shape[4] // co
        for r in prange(count * height):
            n, y = r // height, r % height
            planes = np.empty((ci, width), grid.dtype)
            z = np.empty(width, grid.dtype)
            _read_row(image, n, y, unit, planes)
            guide_row(guide, planes, n, y, z)

            row = np.empty((grid_width, depths, co * columns), grid.dtype)
            table = np.empty((grid_width, depths, 4, co * columns), grid.dtype)
            _blend_rows(grid, n, row_cells[y], row_fractions[y], row)
            _tabulate(row, table)
            cells = table.reshape((grid_width * depths, 4, co * columns))

            cell = np.empty(width, np.int64)
            for x in range(width):
                k, _, z[x], _ = _locate(z[x], depths, align_corners)
                cell[x] = column_cells[x] * depths + k

            result = np.empty(width * co, grid.dtype)
            for x in range(width):
                tx, tz = column_fractions[x], z[x]
                for o in range(co):
                    s = type(unit)(0)
                    for q in range(ci):
                        s += _evaluate(cells, cell[x], o * columns + q, tx, tz) * planes[q, x]
                    if columns > ci:
                        s += _evaluate(cells, cell[x], o * columns + ci, tx, tz)
                    result[x * co + o] = s
            _write_row(result, top, out[n, y].reshape(width * co))

    return kernel


@cache
def _forward_xy_kernel(fixed: tuple[int, int, int]) -> Any:
    fixed_out, fixed_in, fixed_columns = fixed

    @_kernel
    def kernel(grid, guide, xy, image, unit, align_corners, top, out):
        count, height, width, _ = out.shape
        _, grid_height, grid_width, depths, _ = grid.shape
        co = fixed_out if fixed_columns else out.shape[3]
        ci = fixed_in if fixed_columns else image.shape[3]
        columns = fixed_columns if fixed_columns else grid.shape[4] // co
        for r in prange(count * height):
            n, y = r // height, r % height
            real = type(unit)
            one = real(1)
            result = np.empty(width * co, grid.dtype)
            for x in range(width):
                i0, i1, ty, _ = _locate(xy[n, y, x, 1], grid_height, align_corners)
                j0, j1, tx, _ = _locate(xy[n, y, x, 0], grid_width, align_corners)
                k0, k1, tz, _ = _locate(guide[n, y, x], depths, align_corners)
                w00, w01, w10, w11 = (one - ty) * (one - tx), (one - ty) * tx, ty * (one - tx), ty * tx
                for o in range(co):
                    s = real(0)
                    for q in range(columns):
                        c = o * columns + q
                        below = w00 * grid[n, i0, j0, k0, c] + w01 * grid[n, i0, j1, k0, c]
                        below += w10 * grid[n, i1, j0, k0, c] + w11 * grid[n, i1, j1, k0, c]
                        above = w00 * grid[n, i0, j0, k1, c] + w01 * grid[n, i0, j1, k1, c]
                        above += w10 * grid[n, i1, j0, k1, c] + w11 * grid[n, i1, j1, k1, c]
                        coefficient = below + tz * (above - below)
                        s += coefficient * (real(image[n, y, x, q]) * unit) if q < ci else coefficient
                    result[x * co + o] = s
            _write_row(result, top, out[n, y].reshape(width * co))

    return kernel


def _forward(real, grid, guide, image, xy, window, align_corners, result, guide_row=_stored_row):
    """Run slice_apply by a guide array, or by what another ``guide_row`` makes of its parameters."""
    guide = guide if isinstance(guide, tuple) else (_plain(guide, real, 3),)
    pixels, unit, top = _plain_image(image, real)
    grid = _plain_grid(grid, real, image.ndim == 4)
    out = result.shaped(*pixels.shape[:3], math.prod(result.array.shape[image.ndim - 1 :]))
    fixed = _fixed(out.shape[3], pixels.shape[3], grid.shape[4] // max(out.shape[3], 1))
    if is_array(xy):
        xy = _plain(xy, real, 4)
        _forward_xy_kernel(fixed)(grid, guide[0], xy, pixels, unit, align_corners, top, out)
    else:
        positions = _positions(out, grid, xy, window, align_corners)
        _forward_kernel(guide_row, fixed)(grid, positions, guide, pixels, unit, align_corners, top, out)


def _applied(real, grid, image, out, *inputs):
    """Where the result of matrices in the grid by the image goes."""
    shape = (*image.shape[:-1], np.shape(grid)[-2])
    return _Result(shape, image.dtype if _top(image) else real, image.dtype, out, grid, image, *inputs)


@like(specification.slice_apply)
@by_grid()
def slice_apply(grid, guide, image, *, xy=None, index=None, window=None, align_corners=False, out=None):
    image = np.asarray(image)
    real = _working(grid, guide, image)
    result = _applied(real, grid, image, out, guide, xy)
    _forward(real, grid, guide, image, xy, window, align_corners, result)
    return result.deliver()


def _nothing(guide, real):
    """An image of no channels."""
    return np.empty((*np.shape(guide), 0), real)


@like(specification.slice)
@by_grid()
def slice(grid, guide, *, xy=None, index=None, window=None, align_corners=False, out=None):
    grid, guide = np.asarray(grid), np.asarray(guide)
    real = _working(grid, guide)
    result = _Result((*guide.shape, *grid.shape[guide.ndim + 1 :]), real, grid.dtype, out, grid, guide, xy)
    _forward(real, grid, guide, _nothing(guide, real), xy, window, align_corners, result)
    return result.deliver()


_GUIDE_ROWS = {"guide_curves": _curves_row, "guide_nn": _nn_row, "guide_luma": _luma_row}


@like(specification.enhance)
def enhance(grid, guide, image, *, xy=None, window=None, align_corners=False, out=None):
    image, signature = np.asarray(image), guide.signature
    real = _working(grid, image)
    parameters = _parameters([getattr(guide, name) for name in signature.names[1:]] or LUMA, real)
    result = _applied(real, grid, image, out)
    _forward(real, grid, parameters, image, xy, window, align_corners, result, _GUIDE_ROWS[signature.name])
    return result.deliver()


# --- slice_apply, and with it slice and splat: backward


@_inlined
def _spread(sums, grid_width, depths, row):
    """Add up the sums of each cell's four corners (Gw·Gd, 4, C) into a row of cells (Gw, Gd, C)."""
    row[:] = 0
    for j in range(grid_width):
        right = min(j + 1, grid_width - 1)
        for k in range(depths):
            above = min(k + 1, depths - 1)
            for c in range(row.shape[2]):
                row[j, k, c] += sums[j * depths + k, 0, c]
                row[right, k, c] += sums[j * depths + k, 1, c]
                row[j, above, c] += sums[j * depths + k, 2, c]
                row[right, above, c] += sums[j * depths + k, 3, c]


@_inlined
def _add_row(weight, row, total):
    source, target = row.reshape(row.size), total.reshape(row.size)
    for m in range(row.size):
        target[m] += weight * source[m]


@cache
def _backward_kernel(fixed: tuple[int, int, int]) -> Any:
    fixed_out, fixed_in, fixed_columns = fixed

    @_kernel
    def kernel(grid, positions, guide, image, unit, grad, align_corners, tasks, wanted, partial, d_guide, d_image):
        """Task t takes its share of the rows of image t // tasks, and sums the grid's gradient into partial[t]."""
        row_cells, row_fractions, column_cells, column_fractions = positions
        want_grid, want_guide, want_image = wanted
        count, height, width, _ = grad.shape
        _, grid_height, grid_width, depths, _ = grid.shape
        co = fixed_out if fixed_columns else grad.shape[3]
        ci = fixed_in if fixed_columns else image.shape[3]
        columns = fixed_columns if fixed_columns else grid.shape[4] // co
        for task in prange(count * tasks):
            n, part = task // tasks, task % tasks
            real = type(unit)
            zero, one = real(0), real(1)
            row = np.empty((grid_width, depths, co * columns), grid.dtype)
            table = np.empty((grid_width, depths, 4, co * columns), grid.dtype)
            cells = table.reshape((grid_width * depths, 4, co * columns))
            cell = np.empty(width, np.int64)
            fraction = np.empty(width, grid.dtype)
            slope = np.empty(width, grid.dtype)
            for y in range(height * part // tasks, height * (part + 1) // tasks):
                i, ty = row_cells[y], row_fractions[y]
                for x in range(width):
                    k, _, fraction[x], slope[x] = _locate(guide[n, y, x], depths, align_corners)
                    cell[x] = column_cells[x] * depths + k

                if want_guide or want_image:
                    _blend_rows(grid, n, i, ty, row)
                    _tabulate(row, table)
                    for x in range(width):
                        m, tx, tz = cell[x], column_fractions[x], fraction[x]
                        d_z = zero
                        for q in range(columns):
                            by_v, by_z = zero, zero
                            for o in range(co):
                                c = o * columns + q
                                along_z = cells[m, 2, c] + tx * cells[m, 3, c]
                                by_z += grad[n, y, x, o] * along_z
                                by_v += grad[n, y, x, o] * (cells[m, 0, c] + tx * cells[m, 1, c] + tz * along_z)
                            d_z += by_z * (real(image[n, y, x, q]) * unit) if q < ci else by_z
                            if want_image and q < ci:
                                d_image[n, y, x, q] = by_v
                        if want_guide:
                            d_guide[n, y, x] = d_z * slope[x]

                if want_grid:
                    cells[:] = zero  # now the sums for each cell and its neighbours, as in _spread
                    for x in range(width):
                        m, tx, tz = cell[x], column_fractions[x], fraction[x]
                        w0, w1, w2, w3 = (one - tz) * (one - tx), (one - tz) * tx, tz * (one - tx), tz * tx
                        for q in range(columns):
                            v = real(image[n, y, x, q]) * unit if q < ci else one
                            for o in range(co):
                                c = o * columns + q
                                d = grad[n, y, x, o] * v
                                cells[m, 0, c] += w0 * d
                                cells[m, 1, c] += w1 * d
                                cells[m, 2, c] += w2 * d
                                cells[m, 3, c] += w3 * d
                    _spread(cells, grid_width, depths, row)
                    _add_row(one - ty, row, partial[task, i])
                    _add_row(ty, row, partial[task, min(i + 1, grid_height - 1)])

    return kernel


@cache
def _backward_xy_kernel(fixed: tuple[int, int, int]) -> Any:
    fixed_out, fixed_in, fixed_columns = fixed

    @_kernel
    def kernel(grid, guide, xy, image, unit, grad, align_corners, tasks, wanted, partial, d_guide, d_image, d_xy):
        want_grid, want_guide, want_image, want_xy = wanted
        count, height, width, _ = grad.shape
        _, grid_height, grid_width, depths, _ = grid.shape
        co = fixed_out if fixed_columns else grad.shape[3]
        ci = fixed_in if fixed_columns else image.shape[3]
        columns = fixed_columns if fixed_columns else grid.shape[4] // co
        for task in prange(count * tasks):
            n, part = task // tasks, task % tasks
            real = type(unit)
            zero, one = real(0), real(1)
            for y in range(height * part // tasks, height * (part + 1) // tasks):
                for x in range(width):
                    i0, i1, ty, slope_y = _locate(xy[n, y, x, 1], grid_height, align_corners)
                    j0, j1, tx, slope_x = _locate(xy[n, y, x, 0], grid_width, align_corners)
                    k0, k1, tz, slope_z = _locate(guide[n, y, x], depths, align_corners)
                    sy, sx, sz = one - ty, one - tx, one - tz

                    if want_guide or want_image or want_xy:
                        d_y, d_x, d_z = zero, zero, zero
                        for q in range(columns):
                            v = real(image[n, y, x, q]) * unit if q < ci else one
                            d_v = zero
                            for o in range(co):
                                c, g = o * columns + q, grad[n, y, x, o]
                                # a at depth k0, b towards k1, p at the pixel's depth; the indices are of y, then x
                                a00, b00 = grid[n, i0, j0, k0, c], grid[n, i0, j0, k1, c] - grid[n, i0, j0, k0, c]
                                a01, b01 = grid[n, i0, j1, k0, c], grid[n, i0, j1, k1, c] - grid[n, i0, j1, k0, c]
                                a10, b10 = grid[n, i1, j0, k0, c], grid[n, i1, j0, k1, c] - grid[n, i1, j0, k0, c]
                                a11, b11 = grid[n, i1, j1, k0, c], grid[n, i1, j1, k1, c] - grid[n, i1, j1, k0, c]
                                p00, p01, p10, p11 = a00 + tz * b00, a01 + tz * b01, a10 + tz * b10, a11 + tz * b11
                                d_v += g * (sy * (sx * p00 + tx * p01) + ty * (sx * p10 + tx * p11))
                                d_z += g * v * (sy * (sx * b00 + tx * b01) + ty * (sx * b10 + tx * b11))
                                d_x += g * v * (sy * (p01 - p00) + ty * (p11 - p10))
                                d_y += g * v * (sx * (p10 - p00) + tx * (p11 - p01))
                            if want_image and q < ci:
                                d_image[n, y, x, q] = d_v
                        if want_guide:
                            d_guide[n, y, x] = d_z * slope_z
                        if want_xy:
                            d_xy[n, y, x, 0] = d_x * slope_x
                            d_xy[n, y, x, 1] = d_y * slope_y

                    if want_grid:
                        for q in range(columns):
                            v = real(image[n, y, x, q]) * unit if q < ci else one
                            for o in range(co):
                                c, d = o * columns + q, grad[n, y, x, o] * v
                                partial[task, i0, j0, k0, c] += sy * sx * sz * d
                                partial[task, i0, j0, k1, c] += sy * sx * tz * d
                                partial[task, i0, j1, k0, c] += sy * tx * sz * d
                                partial[task, i0, j1, k1, c] += sy * tx * tz * d
                                partial[task, i1, j0, k0, c] += ty * sx * sz * d
                                partial[task, i1, j0, k1, c] += ty * sx * tz * d
                                partial[task, i1, j1, k0, c] += ty * tx * sz * d
                                partial[task, i1, j1, k1, c] += ty * tx * tz * d

    return kernel


def _backward(real, grid, guide, image, grad, xy, window, align_corners, gradients):
    """Run slice_apply_vjp for those of grid, guide, image and xy that ``gradients`` has."""
    grid, channels = _plain_grid(grid, real, np.ndim(guide) == 3), np.shape(grad)[np.ndim(guide) :]
    guide, (image, unit, _) = _plain(guide, real, 3), _plain_image(image, real)
    grad = np.require(grad, real, ["C", "W"]).reshape(*guide.shape, math.prod(channels))
    count, height, _ = guide.shape
    fixed = _fixed(grad.shape[3], image.shape[3], grid.shape[4] // max(grad.shape[3], 1))
    tasks = max(1, min(_TASKS // max(count, 1), height))
    partial = np.zeros((count * tasks, *grid.shape[1:]) if "grid" in gradients else (0,) * 5, real)
    d_guide = _target(gradients, "guide", guide.shape, real)
    d_image = _target(gradients, "image", image.shape, real)
    wanted = ("grid" in gradients, "guide" in gradients, "image" in gradients)
    if not is_array(xy):
        positions = _positions(guide, grid, xy, window, align_corners)
        _backward_kernel(fixed)(
            grid, positions, guide, image, unit, grad, align_corners, tasks, wanted, partial, d_guide, d_image
        )
    else:
        xy, wanted_xy = _plain(xy, real, 4), (*wanted, "xy" in gradients)
        d_xy = _target(gradients, "xy", xy.shape, real)
        _backward_xy_kernel(fixed)(
            grid, guide, xy, image, unit, grad, align_corners, tasks, wanted_xy, partial, d_guide, d_image, d_xy
        )
    if "grid" in gradients:
        partial.reshape(count, tasks, *grid.shape[1:]).sum(axis=1, out=gradients["grid"].shaped(*grid.shape))


@like(specification.slice_apply_vjp)
@by_grid(specification.SliceApplyGradients)
def slice_apply_vjp(
    grid, guide, image, grad, *, xy=None, index=None, window=None, align_corners=False, wrt=None, out=None
):
    real = _working(grid, guide, image)
    gradients = _targets({"grid": grid, "guide": guide, "image": image, "xy": xy}, real, wrt, out, grad)
    _backward(real, grid, guide, image, grad, xy, window, align_corners, gradients)
    return _delivered(specification.SliceApplyGradients, gradients)


@like(specification.slice_vjp)
@by_grid(specification.SliceGradients)
def slice_vjp(grid, guide, grad, *, xy=None, index=None, window=None, align_corners=False, wrt=None, out=None):
    real = _working(grid, guide)
    gradients = _targets({"grid": grid, "guide": guide, "xy": xy}, real, wrt, out, grad)
    _backward(real, grid, guide, _nothing(guide, real), grad, xy, window, align_corners, gradients)
    return _delivered(specification.SliceGradients, gradients)


# --- splat


@like(specification.splat)
def splat(guide, values, grid_shape, *, xy=None, window=None, align_corners=False, out=None):
    guide, values = np.asarray(guide), np.asarray(values)
    real = _working(guide, values)
    shape = (*guide.shape[:-2], *grid_shape, *values.shape[guide.ndim :])
    result = _Result(shape, real, values.dtype, out, guide, values, xy)
    cells, nothing = np.empty(shape, real), _nothing(guide, real)
    _backward(real, cells, guide, nothing, values, xy, window, align_corners, {"grid": result})
    return result.deliver()


@like(specification.splat_vjp)
def splat_vjp(guide, values, grad, *, xy=None, window=None, align_corners=False, wrt=None, out=None):
    real = _working(guide, values)
    gradients = _targets({"guide": guide, "values": values, "xy": xy}, real, wrt, out, grad)
    nothing = _nothing(guide, real)
    if "values" in gradients:
        _forward(real, grad, guide, nothing, xy, window, align_corners, gradients["values"])
    coordinates = {name: target for name, target in gradients.items() if name != "values"}
    if coordinates:
        _backward(real, grad, guide, nothing, values, xy, window, align_corners, coordinates)
    return _delivered(specification.SplatGradients, gradients)


# --- apply


@cache
def _apply_kernel(fixed: tuple[int, int, int]) -> Any:
    fixed_out, fixed_in, fixed_columns = fixed

    @_kernel
    def kernel(coefficients, image, unit, top, out):
        count, height, width, _ = image.shape
        co = fixed_out if fixed_columns else coefficients.shape[3]
        ci = fixed_in if fixed_columns else image.shape[3]
        columns = fixed_columns if fixed_columns else coefficients.shape[4]
        for r in prange(count * height):
            n, y = r // height, r % height
            real = type(unit)
            result = np.empty(width * co, coefficients.dtype)
            for x in range(width):
                for o in range(co):
                    s = coefficients[n, y, x, o, ci] if columns > ci else real(0)
                    for q in range(ci):
                        s += coefficients[n, y, x, o, q] * (real(image[n, y, x, q]) * unit)
                    result[x * co + o] = s
            _write_row(result, top, out[n, y].reshape(width * co))

    return kernel


@like(specification.apply)
def apply(coefficients, image, *, out=None):
    coefficients, image = np.asarray(coefficients), np.asarray(image)
    real = _working(coefficients, image)
    pixels, unit, top = _plain_image(image, real)
    shape = coefficients.shape[:-1]
    result = _Result(shape, image.dtype if top else real, image.dtype, out, coefficients, image)
    kernel = _apply_kernel(_fixed(shape[-1], image.shape[-1], coefficients.shape[-1]))
    target = result.shaped(*pixels.shape[:3], shape[-1])
    kernel(_plain(coefficients, real, 5), pixels, unit, top, target)
    return result.deliver()


@cache
def _apply_backward_kernel(fixed: tuple[int, int, int]) -> Any:
    fixed_out, fixed_in, fixed_columns = fixed

    @_kernel
    def kernel(coefficients, image, unit, grad, wanted, d_coefficients, d_image):
        want_coefficients, want_image = wanted
        count, height, width, _ = image.shape
        co = fixed_out if fixed_columns else coefficients.shape[3]
        ci = fixed_in if fixed_columns else image.shape[3]
        columns = fixed_columns if fixed_columns else coefficients.shape[4]
        for r in prange(count * height):
            n, y = r // height, r % height
            real = type(unit)
            for x in range(width):
                if want_coefficients:
                    for o in range(co):
                        for q in range(columns):
                            v = real(image[n, y, x, q]) * unit if q < ci else real(1)
                            d_coefficients[n, y, x, o, q] = grad[n, y, x, o] * v
                if want_image:
                    for q in range(ci):
                        s = real(0)
                        for o in range(co):
                            s += grad[n, y, x, o] * coefficients[n, y, x, o, q]
                        d_image[n, y, x, q] = s

    return kernel


@like(specification.apply_vjp)
def apply_vjp(coefficients, image, grad, *, wrt=None, out=None):
    real = _working(coefficients, image)
    gradients = _targets({"coefficients": coefficients, "image": image}, real, wrt, out, grad)
    matrices, (pixels, unit, _) = _plain(coefficients, real, 5), _plain_image(image, real)
    kernel = _apply_backward_kernel(_fixed(matrices.shape[3], pixels.shape[3], matrices.shape[4]))
    wanted = ("coefficients" in gradients, "image" in gradients)
    d_coefficients = _target(gradients, "coefficients", matrices.shape, real)
    d_image = _target(gradients, "image", pixels.shape, real)
    kernel(matrices, pixels, unit, _plain(grad, real, 4), wanted, d_coefficients, d_image)
    return _delivered(specification.ApplyGradients, gradients)


# --- total_variation


def _shares(grid: Any) -> tuple[Any, ...]:
    """1 over the number of differences along y, x and depth."""
    sizes = grid.shape[1:]
    differences = [math.prod(s - (a == axis) for a, s in enumerate(sizes)) for axis in range(3)]
    return tuple(grid.dtype.type(1 / max(d, 1)) for d in differences)


@_inlined
def _squared_difference(a, b):
    total = a.dtype.type(0)
    for m in range(a.size):
        total += (a[m] - b[m]) * (a[m] - b[m])
    return total


@_kernel
def _variation(grid, shares, partial):
    count, height, width, depth, channels = grid.shape
    line, size = depth * channels, width * depth * channels
    for r in prange(count * height):
        n, i = r // height, r % height
        row = grid[n, i].reshape(size)
        total = shares[1] * _squared_difference(row[: size - line], row[line:])
        for j in range(width):
            column = row[j * line : (j + 1) * line]
            total += shares[2] * _squared_difference(column[: line - channels], column[channels:])
        if i + 1 < height:
            total += shares[0] * _squared_difference(row, grid[n, i + 1].reshape(size))
        partial[n, i] = total


@like(specification.total_variation)
def total_variation(grid, *, index=None):
    grid = np.asarray(grid) if index is None else np.asarray(grid)[np.asarray(index)]
    real = _working(grid)
    cells = _plain_grid(grid, real, True)
    partial = np.empty(cells.shape[:2], real)
    _variation(cells, _shares(cells), partial)
    return partial.sum(axis=1).astype(grid.dtype)


@_inlined
def _add_difference(scale, a, b, out):
    for m in range(out.size):
        out[m] += scale * (a[m] - b[m])


@_kernel
def _variation_backward(grid, shares, grad, d_grid):
    count, height, width, depth, channels = grid.shape
    line, size = depth * channels, width * depth * channels
    for r in prange(count * height):
        n, i = r // height, r % height
        twice = grid.dtype.type(2) * grad[n]
        row, out = grid[n, i].reshape(size), d_grid[n, i].reshape(size)
        out[:] = 0
        if i > 0:
            _add_difference(twice * shares[0], row, grid[n, i - 1].reshape(size), out)
        if i + 1 < height:
            _add_difference(twice * shares[0], row, grid[n, i + 1].reshape(size), out)
        _add_difference(twice * shares[1], row[line:], row[: size - line], out[line:])
        _add_difference(twice * shares[1], row[: size - line], row[line:], out[: size - line])
        for j in range(width):
            column, to = row[j * line : (j + 1) * line], out[j * line : (j + 1) * line]
            rest = line - channels
            _add_difference(twice * shares[2], column[channels:], column[:rest], to[channels:])
            _add_difference(twice * shares[2], column[:rest], column[channels:], to[:rest])


@like(specification.total_variation_vjp)
@by_grid(specification.TotalVariationGradients)
def total_variation_vjp(grid, grad, *, index=None, wrt=None, out=None):
    real = _working(grid)
    gradients = _targets({"grid": grid}, real, wrt, out, grad)
    if "grid" in gradients:
        cells = _plain_grid(grid, real, True)
        _variation_backward(cells, _shares(cells), _plain(grad, real, 1), gradients["grid"].shaped(*cells.shape))
    return _delivered(specification.TotalVariationGradients, gradients)


# --- resize_area


def _cover(size: int, count: int, unit: int) -> tuple[Any, ...]:
    """Of ``count`` pixels over ``size`` others: the first covered and the one after the last, and three weights.

    A pixel is ``size`` long and one of the others ``count``; ``unit`` is the length of weight 1.
    """
    i = np.arange(count)
    begin, end = i * size // count, -(-(i + 1) * size // count)
    head = np.minimum((begin + 1) * count, (i + 1) * size) - i * size
    return begin, end, head / unit, count / unit, ((i + 1) * size - (end - 1) * count) / unit


@_kernel
def _areas(image, rows, columns, whole, levels, out):
    """Weighted sums of the pixels under each of ``out``, divided by ``whole`` and, as ``levels``, rounded."""
    first_row, end_row, top_weight, row_weight, bottom_weight = rows
    first_column, end_column, left_weight, column_weight, right_weight = columns
    count, height, width, channels = out.shape
    for r in prange(count * height):
        n, i = r // height, r % height
        sums = np.zeros((image.shape[2], channels))
        for y in range(first_row[i], end_row[i]):
            weight = bottom_weight[i] if y == end_row[i] - 1 else row_weight
            if y == first_row[i]:
                weight = top_weight[i]
            for x in range(image.shape[2]):
                for c in range(channels):
                    sums[x, c] += weight * image[n, y, x, c]
        for j in range(width):
            last = end_column[j] - 1
            for c in range(channels):
                s = left_weight[j] * sums[first_column[j], c]
                for x in range(first_column[j] + 1, last):
                    s += column_weight * sums[x, c]
                if last > first_column[j]:
                    s += right_weight[j] * sums[last, c]
                out[n, i, j, c] = np.rint(s / whole) if levels else s / whole


@like(specification.resize_area)
def resize_area(image, size, *, dtype=None, out=None):
    real = _working(image)
    pixels, _, top = _plain_image(image, real)
    count, height, width, channels = pixels.shape
    shape = (*np.shape(image)[:-3], *size, channels)
    stored = np.asarray(image).dtype
    wanted = stored if dtype is None else np.dtype(dtype)
    levels = bool(top) and wanted == stored
    result = _Result(shape, stored if levels else np.result_type(wanted, np.float32), wanted, out, image)
    rows = _cover(height, size[0], 1 if top else height)
    columns = _cover(width, size[1], 1 if top else width)
    whole = float(height * width * (1 if levels else top)) if top else 1.0
    _areas(pixels, rows, columns, whole, levels, result.shaped(count, *size, channels))
    return result.deliver()


@like(specification.resize_area_vjp)
def resize_area_vjp(image, grad, *, dtype=None, wrt=None, out=None):
    real = _working(image, grad)
    gradients = _targets({"image": image}, real, wrt, out, grad)
    if "image" in gradients:
        incoming = _plain(grad, real, 4)
        count, rows, columns, channels = incoming.shape
        height, width = np.shape(image)[-3:-1]
        covers = _cover(rows, height, height), _cover(columns, width, width)
        _areas(incoming, *covers, 1.0, False, _target(gradients, "image", (count, height, width, channels), real))
    return _delivered(specification.ResizeAreaGradients, gradients)
