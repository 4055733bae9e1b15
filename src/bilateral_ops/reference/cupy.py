"""The operations in CuPy: what one would write for a GPU without this package, and the peer to measure it against.

Names, arguments and kinds of results are those of ``bilateral_ops``; nothing is checked. float32 and float64 are
computed as they are, everything else in float32. Gradients of a grid are summed by atomic additions: their last bits
change from run to run.

As CuPy's users write it: whole arrays at a time, the eight cells around every pixel gathered by index arrays one after
the other, and scattered back by ``add.at``. Only what a pixel's coordinate says of an axis, a dozen small steps, is a
kernel of its own. Every function asks its arguments which module they belong to, so that NumPy arrays work as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._core.missing import needed
from .numpy import (
    LUMA,
    ApplyGradients,
    GuideCurvesGradients,
    GuideLumaGradients,
    GuideNNGradients,
    ResizeAreaGradients,
    SliceApplyGradients,
    SliceGradients,
    SplatGradients,
    TotalVariationGradients,
    Window,
)

with needed("bilateral_ops.reference.cupy", "cupy", "cupy"):
    import cupy


# ---------------------------------------------------------------------------------------------------------------------
# Numbers in and out
# ---------------------------------------------------------------------------------------------------------------------


def _working_kind(*arrays: Any) -> Any:
    """What to compute in: float64 where there is any, else float32."""
    return np.float64 if any(getattr(a, "dtype", None) == np.float64 for a in arrays) else np.float32


def _top(image: Any) -> int:
    """What stands for 1 in an integer image; 0 for floats."""
    return int(np.iinfo(image.dtype).max) if image.dtype.kind == "u" else 0


def _read_image(image: Any, kind: Any) -> Any:
    """The image in the working kind; integers span [0, 1]."""
    top = _top(image)
    return image.astype(kind) / kind(top) if top else image.astype(kind, copy=False)


def _deliver(result: Any, dtype: Any, out: Any) -> Any:
    """The result in this dtype, or in ``out``; an integer one scaled, rounded half to even and saturated."""
    if dtype.kind == "u":
        xp, top = cupy.get_array_module(result), int(np.iinfo(dtype).max)
        result = xp.clip(xp.rint(xp.where(xp.isnan(result), 0, result) * top), 0, top)
    if out is None:
        return result.astype(dtype, copy=False)
    out[...] = result
    return out


def _gradients(
    record: Any,
    wrt: Sequence[str] | None,
    out: Mapping[str, Any] | None,
    values: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> Any:
    """The named tuple of the gradients asked for, each with its argument's shape and dtype."""

    def field(name: str) -> Any:
        argument = arguments[name]
        if argument is None or (wrt is not None and name not in wrt):
            return None
        value = values[name]
        dtype = getattr(argument, "dtype", value.dtype)
        if dtype.kind == "u":
            return None
        return _deliver(value.reshape(np.shape(argument)), dtype, (out or {}).get(name))

    return record(*(field(name) for name in record._fields))


# ---------------------------------------------------------------------------------------------------------------------
# The sampling rule
# ---------------------------------------------------------------------------------------------------------------------

#: For a coordinate u on an axis of ``size`` cells: the cell below, the fraction to the next one, its slope by u.
_LOCATE = """
    const T last = size - 1, scale = align_corners ? last : T(size);
    const T inside = u < 0 ? T(0) : u > 1 ? T(1) : u;
    T p = align_corners ? inside * scale : inside * scale - T(0.5);
    slope = p <= 0 || p >= last ? T(0) : isnan(p) ? p : scale;
    p = p < 0 ? T(0) : p > last ? last : p;
    cell = isnan(p) ? 0 : static_cast<long long>(p);
    fraction = p - cell;
"""
_locate_kernel = cupy.ElementwiseKernel(
    "T u, int64 size, bool align_corners", "int64 cell, T fraction, T slope", _LOCATE, "bilateral_locate"
)


def _locate(u: Any, size: int, align_corners: bool) -> tuple[Any, Any, Any]:
    xp = cupy.get_array_module(u)
    if xp is cupy:
        return _locate_kernel(u, size, align_corners)
    scale = size - 1 if align_corners else size
    p = xp.clip(u, 0, 1) * scale - (0 if align_corners else 0.5)
    slope = xp.where((p <= 0) | (p >= size - 1), 0, xp.where(xp.isnan(p), p, scale)).astype(u.dtype)
    p = xp.clip(p, 0, size - 1)
    cell = xp.where(xp.isnan(p), 0, p).astype(np.int64)
    return cell, (p - cell).astype(u.dtype), slope


class _Axis(NamedTuple):
    """Along one grid axis, for every pixel: the cells below and above, their weights, the weights' slopes by u."""

    cells: tuple[Any, Any]
    weights: tuple[Any, Any]
    slopes: tuple[Any, Any]


def _axis(u: Any, size: int, align_corners: bool, kind: Any) -> _Axis:
    xp = cupy.get_array_module(u)
    cell, fraction, slope = _locate(u, size, align_corners)
    fraction, slope = fraction.astype(kind, copy=False), slope.astype(kind, copy=False)
    return _Axis((cell, xp.minimum(cell + 1, size - 1)), (1 - fraction, fraction), (-slope, slope))


class _Sampling(NamedTuple):
    """Where all pixels (N, H, W) look a grid up."""

    batch: Any
    y: _Axis
    x: _Axis
    z: _Axis

    def corners(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """The eight cells around every pixel: index into the grid, and weight."""
        for i, j, k in itertools.product((0, 1), repeat=3):
            index = (self.batch, self.y.cells[i], self.x.cells[j], self.z.cells[k])
            yield index, self.y.weights[i] * self.x.weights[j] * self.z.weights[k]

    def by(self, axis: str) -> _Sampling:
        """The same with the weights' slopes along this axis in place of the weights."""
        own: _Axis = getattr(self, axis)
        return self._replace(**{axis: own._replace(weights=own.slopes)})


def _pixels_u(xp: Any, first: int, count: int, full: int, align_corners: bool) -> Any:
    i = first + xp.arange(count, dtype=np.float64)
    return i / max(full - 1, 1) if align_corners else (i + 0.5) / full


def _sampling(
    grid_shape: Sequence[int], guide: Any, xy: Any, window: Window | None, align_corners: bool, kind: Any
) -> _Sampling:
    """Of a batch, guide and xy in the working kind."""
    xp = cupy.get_array_module(guide)
    count, height, width = guide.shape
    if xy is None:
        top, left, full_height, full_width = (0, 0, height, width) if window is None else window
        y = _pixels_u(xp, top, height, full_height, align_corners)[:, None]
        x = _pixels_u(xp, left, width, full_width, align_corners)
    else:
        y, x = xy[..., 1], xy[..., 0]
    axes = (_axis(u, size, align_corners, kind) for u, size in zip((y, x, guide), grid_shape))
    return _Sampling(xp.arange(count)[:, None, None], *axes)


def _batch(kind: Any, guide: Any, *arrays: Any) -> tuple[Any, ...]:
    """In the working kind and with a batch axis; the guide's rank says whether they have one. None stays None."""
    in_kind = (a if a is None else a.astype(kind, copy=False) for a in (guide, *arrays))
    return tuple(a if a is None or guide.ndim == 3 else a[None] for a in in_kind)


def _flat(array: Any, axes: int) -> Any:
    """The array with its channel axes, those after the first ``axes``, made one."""
    return array.reshape(*array.shape[:axes], math.prod(array.shape[axes:]))


def _gather(cells: Any, at: _Sampling) -> Any:
    """cells (N,Gh,Gw,Gd,C) → (N,H,W,C)"""
    return sum(weight[..., None] * cells[index] for index, weight in at.corners())


def _gathered_dot(cells: Any, at: _Sampling, values: Any) -> Any:
    """``(gather(cells) * values)`` summed over the channels."""
    return sum(weight * (cells[index] * values).sum(-1) for index, weight in at.corners())


def _scatter(shape: tuple[int, ...], at: _Sampling, values: Any) -> Any:
    """The transpose of ``_gather``: values (N,H,W,C) → (N,Gh,Gw,Gd,C)."""
    xp = cupy.get_array_module(values)
    cells = xp.zeros(shape, values.dtype)
    for index, weight in at.corners():
        xp.add.at(cells, index, weight[..., None] * values)
    return cells


def _coordinate_gradients(cells: Any, at: _Sampling, values: Any, xy: Any) -> dict[str, Any]:
    """What the dot product of the gathered cells with the values gives by guide and by xy."""
    xp = cupy.get_array_module(values)
    by = {axis: _gathered_dot(cells, at.by(axis), values) for axis in ("z" if xy is None else "zxy")}
    return {"guide": by["z"], "xy": None if xy is None else xp.stack([by["x"], by["y"]], axis=-1)}


# ---------------------------------------------------------------------------------------------------------------------
# slice
# ---------------------------------------------------------------------------------------------------------------------


def slice(
    grid: Any, guide: Any, *, xy: Any = None, window: Window | None = None, align_corners: bool = False, out: Any = None
) -> Any:
    """The interpolated grid at every pixel: grid (N,Gh,Gw,Gd,*C), guide (N,H,W) → (N,H,W,*C)."""
    kind = _working_kind(grid)
    shape, dtype = (*guide.shape, *grid.shape[guide.ndim + 1 :]), grid.dtype
    guide, grid, xy = _batch(kind, guide, grid, xy)
    at = _sampling(grid.shape[1:4], guide, xy, window, align_corners, kind)
    return _deliver(_gather(_flat(grid, 4), at).reshape(shape), dtype, out)


def slice_vjp(
    grid: Any,
    guide: Any,
    grad: Any,
    *,
    xy: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> SliceGradients:
    """Gradients of ``slice``."""
    kind, given = _working_kind(grid), {"grid": grid, "guide": guide, "xy": xy}
    guide, grid, grad, xy = _batch(kind, guide, grid, grad, xy)
    at = _sampling(grid.shape[1:4], guide, xy, window, align_corners, kind)
    cells, grad = _flat(grid, 4), _flat(grad, 3)
    values = {"grid": _scatter(cells.shape, at, grad), **_coordinate_gradients(cells, at, grad, xy)}
    return _gradients(SliceGradients, wrt, out, values, given)


# ---------------------------------------------------------------------------------------------------------------------
# apply
# ---------------------------------------------------------------------------------------------------------------------


def _apply(coefficients: Any, image: Any) -> Any:
    channels = image.shape[-1]
    result = (coefficients[..., :channels] * image[..., None, :]).sum(-1)
    return result if coefficients.shape[-1] == channels else result + coefficients[..., channels]


def _apply_gradients(coefficients: Any, image: Any, grad: Any) -> dict[str, Any]:
    xp = cupy.get_array_module(image)
    channels = image.shape[-1]
    d_matrix = grad[..., :, None] * image[..., None, :]
    if coefficients.shape[-1] > channels:
        d_matrix = xp.concatenate([d_matrix, grad[..., None]], axis=-1)
    return {"coefficients": d_matrix, "image": (coefficients[..., :channels] * grad[..., None]).sum(-2)}


def apply(coefficients: Any, image: Any, *, out: Any = None) -> Any:
    """A linear or affine map a pixel: coefficients (N,H,W,Co,Ci[+1]), image (N,H,W,Ci) → (N,H,W,Co)."""
    kind = _working_kind(image)
    return _deliver(_apply(coefficients.astype(kind, copy=False), _read_image(image, kind)), image.dtype, out)


def apply_vjp(
    coefficients: Any,
    image: Any,
    grad: Any,
    *,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> ApplyGradients:
    """Gradients of ``apply``."""
    kind, given = _working_kind(image), {"coefficients": coefficients, "image": image}
    in_kind = (coefficients.astype(kind, copy=False), _read_image(image, kind), grad.astype(kind, copy=False))
    return _gradients(ApplyGradients, wrt, out, _apply_gradients(*in_kind), given)


# ---------------------------------------------------------------------------------------------------------------------
# slice_apply
# ---------------------------------------------------------------------------------------------------------------------


def _slice_apply(
    grid: Any, guide: Any, image: Any, xy: Any, window: Window | None, align_corners: bool, kind: Any
) -> Any:
    """In the working kind, for arguments with a batch axis or without."""
    shape = (*guide.shape, *grid.shape[guide.ndim + 1 :])
    guide, grid, xy = _batch(kind, guide, grid, xy)
    at = _sampling(grid.shape[1:4], guide, xy, window, align_corners, kind)
    return _apply(_gather(_flat(grid, 4), at).reshape(shape), image)


def slice_apply(
    grid: Any,
    guide: Any,
    image: Any,
    *,
    xy: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    out: Any = None,
) -> Any:
    """``apply(slice(grid, guide), image)``: grid (N,Gh,Gw,Gd,Co,Ci[+1]) → (N,H,W,Co)."""
    kind = _working_kind(image)
    result = _slice_apply(grid, guide, _read_image(image, kind), xy, window, align_corners, kind)
    return _deliver(result, image.dtype, out)


def slice_apply_vjp(
    grid: Any,
    guide: Any,
    image: Any,
    grad: Any,
    *,
    xy: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> SliceApplyGradients:
    """Gradients of ``slice_apply``, by the chain rule."""
    kind, given = _working_kind(image), {"grid": grid, "guide": guide, "image": image, "xy": xy}
    guide, grid, image, grad, xy = _batch(kind, guide, grid, _read_image(image, kind), grad, xy)
    at = _sampling(grid.shape[1:4], guide, xy, window, align_corners, kind)
    cells = _flat(grid, 4)
    coefficients = _gather(cells, at).reshape(*guide.shape, *grid.shape[4:])
    applied = _apply_gradients(coefficients, image, grad)
    d_coefficients = _flat(applied["coefficients"], 3)
    values = {"grid": _scatter(cells.shape, at, d_coefficients), "image": applied["image"]}
    values |= _coordinate_gradients(cells, at, d_coefficients, xy)
    return _gradients(SliceApplyGradients, wrt, out, values, given)


# ---------------------------------------------------------------------------------------------------------------------
# guide_curves, guide_nn, guide_luma
# ---------------------------------------------------------------------------------------------------------------------


def _parameters(image: Any, kind: Any, *values: Any) -> tuple[Any, ...]:
    xp = cupy.get_array_module(image)
    return tuple(xp.asarray(value).astype(kind, copy=False) for value in values)


def _pixels(image: Any, kind: Any) -> Any:
    """The image in the working kind as a list of pixels (P, Ci)."""
    return _read_image(image, kind).reshape(math.prod(image.shape[:-1]), image.shape[-1])


def _total(array: Any) -> Any:
    """The sum over all pixels (P, …), in double: there are millions."""
    return array.sum(0, dtype=np.float64)


def _curves(image: Any, ccm: Any, ccm_bias: Any, shifts: Any, slopes: Any, mix: Any, mix_bias: Any) -> Any:
    """The guide before it is clipped, the channels' curves, and what they are curves of."""
    q = image @ ccm.T + ccm_bias
    # A knot at a time: all at once would be as large as K images.
    c = sum(slope * (q - shift).clip(0) for slope, shift in zip(slopes.T, shifts.T))
    return c @ mix + mix_bias, c, q


def guide_curves(
    image: Any,
    ccm: Any,
    ccm_bias: Any,
    shifts: Any,
    slopes: Any,
    mix: Any,
    mix_bias: Any,
    *,
    out: Any = None,
) -> Any:
    """HDRnet's learned guide: ccm (Ci,Ci), ccm_bias (Ci,), shifts, slopes (Ci,K), mix (Ci,), mix_bias ()."""
    kind = _working_kind(image)
    parameters = _parameters(image, kind, ccm, ccm_bias, shifts, slopes, mix, mix_bias)
    result = _curves(_read_image(image, kind), *parameters)[0].clip(0, 1)
    return _deliver(result, np.dtype(kind) if _top(image) else image.dtype, out)


def guide_curves_vjp(
    image: Any,
    ccm: Any,
    ccm_bias: Any,
    shifts: Any,
    slopes: Any,
    mix: Any,
    mix_bias: Any,
    grad: Any,
    *,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> GuideCurvesGradients:
    """Gradients of ``guide_curves``."""
    arguments = (image, ccm, ccm_bias, shifts, slopes, mix, mix_bias)
    given = dict(zip(GuideCurvesGradients._fields, arguments))
    kind, xp = _working_kind(image), cupy.get_array_module(image)
    pixels = _pixels(image, kind)
    parameters = _parameters(image, kind, *arguments[1:])
    ccm, _, shifts, slopes, mix, _ = parameters
    s, c, q = _curves(pixels, *parameters)

    ds = xp.where((s > 0) & (s < 1), grad.reshape(-1).astype(kind, copy=False), 0)
    dc = ds[:, None] * mix
    dq, d_shifts, d_slopes = xp.zeros_like(q), xp.empty_like(shifts), xp.empty_like(slopes)
    for k in range(shifts.shape[1]):
        t = q - shifts[:, k]
        passed = xp.where(t > 0, dc, 0)
        dq += slopes[:, k] * passed
        d_shifts[:, k] = -slopes[:, k] * _total(passed)
        d_slopes[:, k] = _total(passed * t)
    values = {
        "image": dq @ ccm,
        "ccm": dq.T @ pixels,
        "ccm_bias": _total(dq),
        "shifts": d_shifts,
        "slopes": d_slopes,
        "mix": _total(ds[:, None] * c),
        "mix_bias": _total(ds[:, None]),
    }
    return _gradients(GuideCurvesGradients, wrt, out, values, given)


def _sigmoid(s: Any) -> tuple[Any, Any]:
    """The sigmoid and its slope, without the overflow of exp(−s) and the cancellation of 1 − σ."""
    xp = cupy.get_array_module(s)
    e = xp.exp(-abs(s))
    return xp.where(s < 0, e, 1) / (1 + e), e / (1 + e) ** 2


def guide_nn(image: Any, w1: Any, b1: Any, w2: Any, b2: Any, *, out: Any = None) -> Any:
    """A two-layer network a pixel: w1 (F,Ci), b1 (F,), w2 (F,), b2 ()."""
    kind = _working_kind(image)
    w1, b1, w2, b2 = _parameters(image, kind, w1, b1, w2, b2)
    result, _ = _sigmoid((_read_image(image, kind) @ w1.T + b1).clip(0) @ w2 + b2)
    return _deliver(result, np.dtype(kind) if _top(image) else image.dtype, out)


def guide_nn_vjp(
    image: Any,
    w1: Any,
    b1: Any,
    w2: Any,
    b2: Any,
    grad: Any,
    *,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> GuideNNGradients:
    """Gradients of ``guide_nn``."""
    given = {"image": image, "w1": w1, "b1": b1, "w2": w2, "b2": b2}
    kind, xp = _working_kind(image), cupy.get_array_module(image)
    w1, b1, w2, b2 = _parameters(image, kind, w1, b1, w2, b2)
    pixels = _pixels(image, kind)
    h = pixels @ w1.T + b1
    features = h.clip(0)
    _, slope = _sigmoid(features @ w2 + b2)

    ds = grad.reshape(-1).astype(kind, copy=False) * slope
    dh = xp.where(h > 0, ds[:, None] * w2, 0)
    values = {
        "image": dh @ w1,
        "w1": dh.T @ pixels,
        "b1": _total(dh),
        "w2": _total(ds[:, None] * features),
        "b2": _total(ds[:, None]),
    }
    return _gradients(GuideNNGradients, wrt, out, values, given)


def guide_luma(image: Any, *, out: Any = None) -> Any:
    """BT.601 luma of an RGB image."""
    kind = _working_kind(image)
    weights = cupy.get_array_module(image).asarray(LUMA, kind)
    return _deliver(_read_image(image, kind) @ weights, np.dtype(kind) if _top(image) else image.dtype, out)


def guide_luma_vjp(
    image: Any, grad: Any, *, wrt: Sequence[str] | None = None, out: Mapping[str, Any] | None = None
) -> GuideLumaGradients:
    """Gradient of ``guide_luma``."""
    kind = _working_kind(image)
    weights = cupy.get_array_module(image).asarray(LUMA, kind)
    values = {"image": grad.astype(kind, copy=False)[..., None] * weights}
    return _gradients(GuideLumaGradients, wrt, out, values, {"image": image})


# ---------------------------------------------------------------------------------------------------------------------
# enhance
# ---------------------------------------------------------------------------------------------------------------------


def _evaluate(guide: Any, image: Any) -> Any:
    """The guide array that a guide record makes of an image in the working kind."""
    if hasattr(guide, "ccm"):
        record = (guide.ccm, guide.ccm_bias, guide.shifts, guide.slopes, guide.mix, guide.mix_bias)
        return guide_curves(image, *record)
    if hasattr(guide, "w1"):
        return guide_nn(image, guide.w1, guide.b1, guide.w2, guide.b2)
    return guide_luma(image)


def enhance(
    grid: Any,
    guide: Any,
    image: Any,
    *,
    window: Window | None = None,
    align_corners: bool = False,
    out: Any = None,
) -> Any:
    """``slice_apply(grid, guide(image), image)``, the guide a CurvesGuide, NNGuide or LumaGuide record."""
    kind = _working_kind(image)
    pixels = _read_image(image, kind)
    result = _slice_apply(grid, _evaluate(guide, pixels), pixels, None, window, align_corners, kind)
    return _deliver(result, image.dtype, out)


# ---------------------------------------------------------------------------------------------------------------------
# splat
# ---------------------------------------------------------------------------------------------------------------------


def splat(
    guide: Any,
    values: Any,
    grid_shape: Sequence[int],
    *,
    xy: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    out: Any = None,
) -> Any:
    """The transpose of ``slice``: guide (N,H,W), values (N,H,W,*C), grid_shape (Gh,Gw,Gd) → (N,Gh,Gw,Gd,*C)."""
    kind, dtype = _working_kind(values), values.dtype
    shape = (*guide.shape[:-2], *grid_shape, *values.shape[guide.ndim :])
    guide, values, xy = _batch(kind, guide, values, xy)
    at = _sampling(grid_shape, guide, xy, window, align_corners, kind)
    values = _flat(values, 3)
    cells = _scatter((guide.shape[0], *grid_shape, values.shape[-1]), at, values)
    return _deliver(cells.reshape(shape), dtype, out)


def splat_vjp(
    guide: Any,
    values: Any,
    grad: Any,
    *,
    xy: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> SplatGradients:
    """Gradients of ``splat``; grad (N,Gh,Gw,Gd,*C) is a grid."""
    kind, given = _working_kind(values), {"guide": guide, "values": values, "xy": xy}
    guide, values, grad, xy = _batch(kind, guide, values, grad, xy)
    at = _sampling(grad.shape[1:4], guide, xy, window, align_corners, kind)
    cells = _flat(grad, 4)
    gradients = {"values": _gather(cells, at), **_coordinate_gradients(cells, at, _flat(values, 3), xy)}
    return _gradients(SplatGradients, wrt, out, gradients, given)


# ---------------------------------------------------------------------------------------------------------------------
# total_variation
# ---------------------------------------------------------------------------------------------------------------------


def total_variation(grid: Any) -> Any:
    """How rough each grid is: (N,Gh,Gw,Gd,*C) → (N,)."""
    kind, dtype = _working_kind(grid), grid.dtype
    xp, grid = cupy.get_array_module(grid), grid.astype(kind, copy=False)
    result = xp.zeros(grid.shape[0], kind)
    for axis in (1, 2, 3):
        if grid.shape[axis] > 1:
            result += _flat(xp.diff(grid, axis=axis) ** 2, 1).mean(1)
    return result.astype(dtype, copy=False)


def total_variation_vjp(
    grid: Any, grad: Any, *, wrt: Sequence[str] | None = None, out: Mapping[str, Any] | None = None
) -> TotalVariationGradients:
    """Gradient of ``total_variation``; grad (N,)."""
    kind, given = _working_kind(grid), {"grid": grid}
    xp, grid = cupy.get_array_module(grid), grid.astype(kind, copy=False)
    grad = grad.astype(kind, copy=False).reshape(-1, *[1] * (grid.ndim - 1))
    result = xp.zeros_like(grid)
    for axis in (1, 2, 3):
        difference = xp.diff(grid, axis=axis)
        step = 2 * difference * grad / max(math.prod(difference.shape[1:]), 1)
        along = xp.moveaxis(result, axis, 0)  # a view
        along[1:] += xp.moveaxis(step, axis, 0)
        along[:-1] -= xp.moveaxis(step, axis, 0)
    return _gradients(TotalVariationGradients, wrt, out, {"grid": result}, given)


# ---------------------------------------------------------------------------------------------------------------------
# resize_area
# ---------------------------------------------------------------------------------------------------------------------


def _shares(xp: Any, size: int, count: int, kind: Any) -> Any:
    """The share that each of ``size`` pixels has of each of ``count``, as a matrix (count, size)."""
    i, y = xp.arange(count)[:, None], xp.arange(size)
    overlap = xp.minimum((i + 1) * size, (y + 1) * count) - xp.maximum(i * size, y * count)
    return (xp.maximum(overlap, 0) / size).astype(kind)


def resize_area(image: Any, size: tuple[int, int], *, dtype: Any = None, out: Any = None) -> Any:
    """Exact averages over areas: image (N,H,W,Ci), size (h,w) → (N,h,w,Ci)."""
    wanted = np.dtype(image.dtype if dtype is None else dtype)
    kind, xp = np.float64 if wanted == np.float64 else _working_kind(image), cupy.get_array_module(image)
    rows, columns = (_shares(xp, *sizes, kind) for sizes in zip(image.shape[-3:-1], size))
    result = xp.einsum("iy,...yxc->...ixc", rows, _read_image(image, kind))
    return _deliver(xp.einsum("jx,...ixc->...ijc", columns, result), wanted, out)


def resize_area_vjp(
    image: Any,
    grad: Any,
    *,
    dtype: Any = None,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> ResizeAreaGradients:
    """Gradient of ``resize_area``; grad (N,h,w,Ci)."""
    kind, xp = _working_kind(image, grad), cupy.get_array_module(image)
    rows, columns = (_shares(xp, *sizes, kind) for sizes in zip(image.shape[-3:-1], grad.shape[-3:-1]))
    result = xp.einsum("jx,...ijc->...ixc", columns, grad.astype(kind, copy=False))
    result = xp.einsum("iy,...ixc->...yxc", rows, result)
    return _gradients(ResizeAreaGradients, wrt, out, {"image": result}, {"image": image})
