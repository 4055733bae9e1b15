"""The operations in CuPy: what one would write for a GPU without this package, and the peer to measure it against.

Names, arguments and dtypes of results are those of ``bilateral_ops``; nothing is checked. All is computed in float64
where an argument is of that dtype, else in float32. Gradients of a grid are summed by atomic additions: their last bits
change from run to run.

As CuPy's users write it: whole arrays at a time, the eight cells around every pixel gathered by index arrays one after
the other, and scattered back by ``add.at``. Only what a pixel's coordinate says of an axis, a dozen small steps, is a
kernel of its own. The operations are the expressions of ``_formulas.py``, which CuPy does not differentiate: gradients
are written here. Every function asks its arguments which module they belong to, so that NumPy arrays work as well.
"""

# Types are the specification's.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from .._core.missing import needed
from . import _formulas as formulas
from . import numpy as specification
from ._like import like
from .numpy import LUMA, is_array

with needed("bilateral_ops.reference.cupy", "cupy", "cupy"):
    from cupy import get_array_module


# --- Numbers in and out


def _deliver(result, dtype, out):
    """The result in this dtype, or in ``out``; an integer one scaled, rounded half to even and saturated."""
    if dtype.kind == "u":
        xp, top = get_array_module(result), int(np.iinfo(dtype).max)
        result = xp.clip(xp.rint(xp.where(xp.isnan(result), 0, result) * top), 0, top)
    if out is None:
        return result.astype(dtype, copy=False)
    out[...] = result
    return out


def _gradients(record, arguments, values, wrt, out):
    """The named tuple of the gradients asked for, each with its argument's shape and dtype."""

    def field(name, argument):
        if not is_array(argument) or (wrt is not None and name not in wrt):
            return None
        value = values[name]
        dtype = getattr(argument, "dtype", value.dtype)
        if dtype.kind == "u":
            return None
        return _deliver(value.reshape(np.shape(argument)), dtype, (out or {}).get(name))

    return record(*map(field, record._fields, arguments))


def _parameters(image, *values):
    """A guide's parameters as arrays of the dtype that its image is computed in."""
    xp, dtype = get_array_module(image), formulas.working(image)
    return tuple(xp.asarray(value).astype(dtype, copy=False) for value in values)


# --- slice


@like(specification.slice)
def slice(grid, guide, *, xy=None, index=None, window=None, align_corners=False, out=None):
    result = formulas.slice(get_array_module(grid), grid, guide, xy, index, window=window, align_corners=align_corners)
    return _deliver(result, grid.dtype, out)


def _coordinate_gradients(xp, cells, at, values, xy):
    """What the dot product of the gathered cells with the values gives by guide and by xy."""

    def by(axis):
        return sum(slope * (cells[index] * values).sum(-1) for index, slope in at.by(axis).corners())

    return {"guide": by("z"), "xy": xp.stack([by("x"), by("y")], axis=-1) if is_array(xy) else None}


@like(specification.slice_vjp)
def slice_vjp(grid, guide, grad, *, xy=None, index=None, window=None, align_corners=False, wrt=None, out=None):
    xp, arguments = get_array_module(grid), (grid, guide, xy)
    guide, grid, grad, xy = formulas.batch(xp, guide, grid, grad, xy)
    at = formulas.sampling(xp, grid.shape[1:4], guide, xy, index, window=window, align_corners=align_corners)
    cells, grad = formulas.flat(grid, 4), formulas.flat(grad, 3)
    values = {"grid": formulas.scatter(xp, cells.shape, at, grad), **_coordinate_gradients(xp, cells, at, grad, xy)}
    return _gradients(specification.SliceGradients, arguments, values, wrt, out)


# --- apply


@like(specification.apply)
def apply(coefficients, image, *, out=None):
    return _deliver(formulas.apply(get_array_module(image), coefficients, image), image.dtype, out)


def _apply_gradients(xp, coefficients, image, grad):
    channels = image.shape[-1]
    d_matrix = grad[..., :, None] * image[..., None, :]
    if coefficients.shape[-1] > channels:
        d_matrix = xp.concatenate([d_matrix, grad[..., None]], axis=-1)
    return {"coefficients": d_matrix, "image": (coefficients[..., :channels] * grad[..., None]).sum(-2)}


@like(specification.apply_vjp)
def apply_vjp(coefficients, image, grad, *, wrt=None, out=None):
    xp = get_array_module(image)
    values = _apply_gradients(xp, *formulas.computed(xp, coefficients, image, grad))
    return _gradients(specification.ApplyGradients, (coefficients, image), values, wrt, out)


# --- slice_apply, enhance


@like(specification.slice_apply)
def slice_apply(grid, guide, image, *, xy=None, index=None, window=None, align_corners=False, out=None):
    xp = get_array_module(image)
    result = formulas.slice_apply(xp, grid, guide, image, xy, index, window=window, align_corners=align_corners)
    return _deliver(result, image.dtype, out)


@like(specification.slice_apply_vjp)
def slice_apply_vjp(
    grid, guide, image, grad, *, xy=None, index=None, window=None, align_corners=False, wrt=None, out=None
):
    xp, arguments = get_array_module(image), (grid, guide, image, xy)
    guide, grid, image, grad, xy = formulas.batch(xp, guide, grid, image, grad, xy)
    at = formulas.sampling(xp, grid.shape[1:4], guide, xy, index, window=window, align_corners=align_corners)
    cells = formulas.flat(grid, 4)
    coefficients = formulas.gather(cells, at).reshape(*guide.shape, *grid.shape[4:])
    applied = _apply_gradients(xp, coefficients, image, grad)
    d_coefficients = formulas.flat(applied["coefficients"], 3)
    values = {"grid": formulas.scatter(xp, cells.shape, at, d_coefficients), "image": applied["image"]}
    values |= _coordinate_gradients(xp, cells, at, d_coefficients, xy)
    return _gradients(specification.SliceApplyGradients, arguments, values, wrt, out)


@like(specification.enhance)
def enhance(grid, guide, image, *, xy=None, window=None, align_corners=False, out=None):
    parameters = _parameters(image, *(getattr(guide, name) for name in guide.signature.names[1:]))
    sampling = {"xy": xy, "window": window, "align_corners": align_corners}
    result = formulas.enhance(get_array_module(image), grid, image, *parameters, kind=guide.kind, **sampling)
    return _deliver(result, image.dtype, out)


# --- guide_curves, guide_nn, guide_luma


def _guide(formula, image, parameters, out):
    result = formula(get_array_module(image), image, *_parameters(image, *parameters))
    return _deliver(result, result.dtype, out)


def _pixels(xp, image, grad):
    """The image and the gradient coming in as lists of pixels (P, Ci) and (P,), in the dtype to compute in."""
    pixels, grad = formulas.computed(xp, image, grad, dtype=formulas.working(image))
    return pixels.reshape(-1, image.shape[-1]), grad.reshape(-1)


def _total(array):
    """The sum over all pixels (P, …), in double: there are millions."""
    return array.sum(0, dtype=np.float64)


@like(specification.guide_curves)
def guide_curves(image, ccm, ccm_bias, shifts, slopes, mix, mix_bias, *, out=None):
    return _guide(formulas.guide_curves, image, (ccm, ccm_bias, shifts, slopes, mix, mix_bias), out)


@like(specification.guide_curves_vjp)
def guide_curves_vjp(image, ccm, ccm_bias, shifts, slopes, mix, mix_bias, grad, *, wrt=None, out=None):
    xp, arguments = get_array_module(image), (image, ccm, ccm_bias, shifts, slopes, mix, mix_bias)
    pixels, grad = _pixels(xp, image, grad)
    parameters = ccm, _, shifts, slopes, mix, _ = _parameters(*arguments)
    s, c, q = formulas.curves(xp, pixels, *parameters)

    ds = xp.where((s > 0) & (s < 1), grad, 0)
    dc = ds[:, None] * mix
    dq, d_shifts, d_slopes = xp.zeros_like(q), xp.empty_like(shifts), xp.empty_like(slopes)
    for k in range(shifts.shape[1]):  # a knot at a time: all at once would be as large as K images
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
    return _gradients(specification.GuideCurvesGradients, arguments, values, wrt, out)


@like(specification.guide_nn)
def guide_nn(image, w1, b1, w2, b2, *, out=None):
    return _guide(formulas.guide_nn, image, (w1, b1, w2, b2), out)


@like(specification.guide_nn_vjp)
def guide_nn_vjp(image, w1, b1, w2, b2, grad, *, wrt=None, out=None):
    xp, arguments = get_array_module(image), (image, w1, b1, w2, b2)
    pixels, grad = _pixels(xp, image, grad)
    w1, b1, w2, b2 = _parameters(*arguments)
    h = pixels @ w1.T + b1
    features = h.clip(0)
    e = xp.exp(-abs(features @ w2 + b2))

    ds = grad * (e / (1 + e) ** 2)  # without the overflow of exp(−s) and the cancellation of 1 − σ
    dh = xp.where(h > 0, ds[:, None] * w2, 0)
    values = {
        "image": dh @ w1,
        "w1": dh.T @ pixels,
        "b1": _total(dh),
        "w2": _total(ds[:, None] * features),
        "b2": _total(ds[:, None]),
    }
    return _gradients(specification.GuideNNGradients, arguments, values, wrt, out)


@like(specification.guide_luma)
def guide_luma(image, *, out=None):
    return _guide(formulas.guide_luma, image, (), out)


@like(specification.guide_luma_vjp)
def guide_luma_vjp(image, grad, *, wrt=None, out=None):
    (weights,) = _parameters(image, LUMA)
    return _gradients(specification.GuideLumaGradients, (image,), {"image": grad[..., None] * weights}, wrt, out)


# --- splat


@like(specification.splat)
def splat(guide, values, grid_shape, *, xy=None, window=None, align_corners=False, out=None):
    keywords = {"grid_shape": grid_shape, "window": window, "align_corners": align_corners}
    return _deliver(formulas.splat(get_array_module(values), guide, values, xy, **keywords), values.dtype, out)


@like(specification.splat_vjp)
def splat_vjp(guide, values, grad, *, xy=None, window=None, align_corners=False, wrt=None, out=None):
    xp, arguments = get_array_module(values), (guide, values, xy)
    guide, values, grad, xy = formulas.batch(xp, guide, values, grad, xy)
    at = formulas.sampling(xp, grad.shape[1:4], guide, xy, window=window, align_corners=align_corners)
    cells, values = formulas.flat(grad, 4), formulas.flat(values, 3)
    found = {"values": formulas.gather(cells, at), **_coordinate_gradients(xp, cells, at, values, xy)}
    return _gradients(specification.SplatGradients, arguments, found, wrt, out)


# --- total_variation, resize_area


@like(specification.total_variation)
def total_variation(grid, *, index=None):
    return formulas.total_variation(get_array_module(grid), grid, index)


@like(specification.total_variation_vjp)
def total_variation_vjp(grid, grad, *, index=None, wrt=None, out=None):
    xp = get_array_module(grid)
    cells, grad = formulas.computed(xp, grid if index is None else grid[index], grad)
    grad = grad.reshape(-1, *[1] * (cells.ndim - 1))
    result = xp.zeros_like(cells)
    for axis in (1, 2, 3):
        difference = xp.diff(cells, axis=axis)
        step = xp.moveaxis(2 * difference * grad / max(math.prod(difference.shape[1:]), 1), axis, 0)
        along = xp.moveaxis(result, axis, 0)  # a view
        along[1:] += step
        along[:-1] -= step
    if index is not None:
        chosen, result = result, xp.zeros(grid.shape, result.dtype)
        xp.add.at(result, index, chosen)
    return _gradients(specification.TotalVariationGradients, (grid,), {"grid": result}, wrt, out)


@like(specification.resize_area)
def resize_area(image, size, *, dtype=None, out=None):
    wanted = np.dtype(image.dtype if dtype is None else dtype)
    result = formulas.resize_area(get_array_module(image), image, size=size, dtype=wanted.name)
    return _deliver(result, wanted, out)


@like(specification.resize_area_vjp)
def resize_area_vjp(image, grad, *, dtype=None, wrt=None, out=None):
    # A pixel of the image has the same share of a pixel of the result as that has of it, but for their sizes.
    sizes, dtype = (image.shape[-3:-1], grad.shape[-3:-1]), formulas.working(image, grad)
    result = formulas.resize_area(get_array_module(image), grad, size=sizes[0], dtype=dtype)
    value = result * (math.prod(sizes[1]) / math.prod(sizes[0]))
    return _gradients(specification.ResizeAreaGradients, (image,), {"image": value}, wrt, out)
