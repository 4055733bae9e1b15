"""The specification: what every operation and every gradient means, in float64 and plain formulas.

Arrays are channels-last. ``N`` batch (optional), ``H W`` image, ``Gh Gw Gd`` grid, ``Co Ci`` channels out and in,
``K`` curve knots, ``F`` features. Inputs may be of any dtype; uint8 and uint16 images are read as v/255 and v/65535.
Results are float64 and are not rounded to the arguments' dtype, except that ``apply``, ``slice_apply`` and
``enhance`` of an integer image return that integer dtype. Nothing is checked here: that is the package's task.

The sampling rule, on each of the three axes of a grid, for a coordinate u in [0, 1] and an axis of G cells:

    p = u·G − ½   (align_corners: u·(G − 1)),   clamped to [0, G − 1]
    weight of cell k:  τ(p − k),   τ(t) = max(1 − |t|, 0)
    slope of the weights by u:  that of the cell p lies in (on a knot, the cell above) times G (align_corners: G − 1),
    and 0 where p ≤ 0 or p ≥ G − 1

Along y and x, u is what the array ``xy`` says, or a rule of pixel i of n in the whole image, of which ``window`` is a
part: (i + ½)/n (``xy="centers"``) or i/(n − 1), 0 where n = 1 (``xy="corners"``). Without ``xy`` it is the second one
with ``align_corners``, else the first.

A gradient is the transpose of the operation's Jacobian, applied to ``grad``, which has the shape of the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Window = tuple[int, int, int, int]

LUMA = (0.299, 0.587, 0.114)  # BT.601


# --- Numbers in and out


def is_array(argument: Any) -> bool:
    """Whether it is one; in its place there may be nothing or, for ``xy``, a rule."""
    return argument is not None and not isinstance(argument, str)


def _real(array: Any) -> Any:
    return np.asarray(array).astype(np.float64)


def _is_integer(image: Any) -> bool:
    return np.asarray(image).dtype.kind == "u"


def _read_image(image: Any) -> Any:
    """The image in float64; integers span [0, 1]."""
    return _real(image) / (np.iinfo(np.asarray(image).dtype).max if _is_integer(image) else 1)


def _as_dtype_of(image: Any, result: Any) -> Any:
    """The result of an integer image: scaled, rounded half to even, saturated; NaN becomes 0."""
    if not _is_integer(image):
        return result
    stored = np.asarray(image).dtype
    top = np.iinfo(stored).max
    return np.clip(np.rint(np.where(np.isnan(result), 0, result) * top), 0, top).astype(stored)


def _deliver(result: Any, out: Any) -> Any:
    if out is None:
        return np.asarray(result)
    out[...] = result
    return out


def _gradients(record: Any, wrt: Sequence[str] | None, out: Mapping[str, Any] | None, **values: Any) -> Any:
    """The named tuple of gradients: those asked for, each put into its ``out`` where there is one."""

    def field(name: str) -> Any:
        if values[name] is None or (wrt is not None and name not in wrt):
            return None
        return _deliver(values[name], (out or {}).get(name))

    return record(*(field(name) for name in record._fields))


# --- The sampling rule


class _Axis(NamedTuple):
    """Along one grid axis, for every pixel: the cells below and above, their weights, the weights' slopes by u."""

    cells: tuple[Any, Any]
    weights: tuple[Any, Any]
    slopes: tuple[Any, Any]


def _axis(u: Any, size: int, align_corners: bool) -> _Axis:
    # Every coordinate outside [0, 1] is clamped anyway; doing so first keeps 0·∞ away.
    u = np.clip(u, 0, 1)
    scale = size - 1 if align_corners else size
    p = u * scale if align_corners else u * scale - 0.5
    slope = np.where((p <= 0) | (p >= size - 1), 0.0, scale)
    slope = np.where(np.isnan(p), np.nan, slope)
    p = np.clip(p, 0, size - 1)
    below = np.floor(np.where(np.isnan(p), 0, p)).astype(np.intp)
    above = np.minimum(below + 1, size - 1)  # at the last cell the weight of the cell above is 0
    t = p - below
    return _Axis((below, above), (1 - t, t), (-slope, slope))


def _coordinates(height: int, width: int, xy: Any, window: Window | None, align_corners: bool) -> tuple[Any, Any]:
    """The pixels' u along y and x, of shapes that broadcast against (N, H, W)."""
    if is_array(xy):
        return xy[..., 1], xy[..., 0]
    rule = xy or ("corners" if align_corners else "centers")
    top, left, full_height, full_width = (0, 0, height, width) if window is None else window

    def along(first: int, count: int, full: int) -> Any:
        i = first + np.arange(count)
        return i / max(full - 1, 1) if rule == "corners" else (i + 0.5) / full

    return along(top, height, full_height)[:, None], along(left, width, full_width)


def _named(index: Any, count: int) -> Any:
    """The grid of each image or pixel, to be broadcast against (N, H, W)."""
    found = np.arange(count) if index is None else np.asarray(index)
    return found.reshape(*found.shape, *(1,) * (3 - found.ndim))


def _corners(
    grid_shape: Sequence[int], guide: Any, xy: Any, index: Any, window: Window | None, align_corners: bool
) -> Iterator[tuple[Any, Any, tuple[Any, Any, Any]]]:
    """The eight cells around every pixel: index into the grid, weight, and the weight's slopes by y, x and guide."""
    count, height, width = guide.shape
    u = (*_coordinates(height, width, xy, window, align_corners), guide)
    y, x, z = (_axis(u[a], grid_shape[a], align_corners) for a in range(3))
    n = _named(index, count)
    for i, j, k in itertools.product((0, 1), repeat=3):
        cell = (n, y.cells[i], x.cells[j], z.cells[k])
        weight = y.weights[i] * x.weights[j] * z.weights[k]
        slopes = (
            y.slopes[i] * x.weights[j] * z.weights[k],
            y.weights[i] * x.slopes[j] * z.weights[k],
            y.weights[i] * x.weights[j] * z.slopes[k],
        )
        yield cell, weight, slopes


def _batch(guide: Any, *arrays: Any) -> tuple[Any, ...]:
    """In float64 and with a batch axis; the guide's rank says whether the arguments have one."""
    unbatched = np.ndim(guide) == 2
    return tuple((_real(a)[None] if unbatched else _real(a)) if is_array(a) else a for a in (guide, *arrays))


def _flat(array: Any, axes: int) -> Any:
    """The array with its channel axes, those after the first ``axes``, made one."""
    return array.reshape(*array.shape[:axes], int(np.prod(array.shape[axes:])))


# --- slice


class SliceGradients(NamedTuple):
    grid: Any
    guide: Any
    xy: Any


def slice(
    grid: Any,
    guide: Any,
    *,
    xy: Any = None,
    index: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    out: Any = None,
) -> Any:
    """The interpolated grid at every pixel: grid (N,Gh,Gw,Gd,*C), guide (N,H,W) → (N,H,W,*C).

    out[n,y,x,c] = Σ_ijk τ(py−i) τ(px−j) τ(pz−k) grid[n,i,j,k,c]

    With an index (N,) or (N,H,W) the grids are (M,…), and the index stands for n: grid[index[n],i,j,k,c].
    """
    shape = (*np.shape(guide), *np.shape(grid)[np.ndim(guide) + 1 :])
    guide, grid, xy = _batch(guide, grid, xy)
    cells = _flat(grid, 4)
    result = np.zeros((*guide.shape, cells.shape[-1]))
    for cell, weight, _ in _corners(grid.shape[1:4], guide, xy, index, window, align_corners):
        result += np.einsum("nhw,nhwc->nhwc", weight, cells[cell])
    return _deliver(result.reshape(shape), out)


def slice_vjp(
    grid: Any,
    guide: Any,
    grad: Any,
    *,
    xy: Any = None,
    index: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> SliceGradients:
    """Gradients of ``slice``, w the weight of a cell and D = Σ_c grad·cell over the channels:

    d grid[n,i,j,k,c] = Σ_yx w·grad[n,y,x,c]      (``splat`` of grad)
    d guide[n,y,x] = Σ_ijk (∂w/∂guide)·D,   d xy[n,y,x] = Σ_ijk (∂w/∂x, ∂w/∂y)·D
    """
    grid_shape, guide_shape, xy_shape = np.shape(grid), np.shape(guide), np.shape(xy)
    guide, grid, grad, xy = _batch(guide, grid, grad, xy)
    cells, grad = _flat(grid, 4), _flat(grad, 3)
    d_cells = np.zeros_like(cells)
    d_y, d_x, d_guide = (np.zeros(guide.shape) for _ in range(3))
    for cell, weight, (slope_y, slope_x, slope_z) in _corners(grid.shape[1:4], guide, xy, index, window, align_corners):
        np.add.at(d_cells, cell, np.einsum("nhw,nhwc->nhwc", weight, grad))
        dot = np.einsum("nhwc,nhwc->nhw", grad, cells[cell])
        d_y += slope_y * dot
        d_x += slope_x * dot
        d_guide += slope_z * dot
    return _gradients(
        SliceGradients,
        wrt,
        out,
        grid=d_cells.reshape(grid_shape),
        guide=d_guide.reshape(guide_shape),
        xy=np.stack([d_x, d_y], axis=-1).reshape(xy_shape) if is_array(xy) else None,
    )


# --- apply


class ApplyGradients(NamedTuple):
    coefficients: Any
    image: Any


def _columns(coefficients: Any, image: Any) -> Any:
    """What the matrices are multiplied with: the image, and a 1 after its channels where they have an offset."""
    if coefficients.shape[-1] == image.shape[-1]:
        return image
    return np.concatenate([image, np.ones((*image.shape[:-1], 1))], axis=-1)


def apply(coefficients: Any, image: Any, *, out: Any = None) -> Any:
    """A linear or affine map per pixel: coefficients (N,H,W,Co,Ci[+1]), image (N,H,W,Ci) → (N,H,W,Co).

    out_i = Σ_j A_ij·in_j (+ A_i,Ci)
    """
    matrices, source = _real(coefficients), _read_image(image)
    result = np.einsum("...ij,...j->...i", matrices, _columns(matrices, source))
    return _deliver(_as_dtype_of(image, result), out)


def apply_vjp(
    coefficients: Any,
    image: Any,
    grad: Any,
    *,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> ApplyGradients:
    """Gradients of ``apply``: d A_ij = grad_i·in_j (d A_i,Ci = grad_i), d in_j = Σ_i grad_i·A_ij."""
    matrices, source, grad = _real(coefficients), _read_image(image), _real(grad)
    d_image = np.einsum("...i,...ij->...j", grad, matrices[..., : source.shape[-1]])
    return _gradients(
        ApplyGradients,
        wrt,
        out,
        coefficients=np.einsum("...i,...j->...ij", grad, _columns(matrices, source)),
        image=None if _is_integer(image) else d_image,
    )


# --- slice_apply


class SliceApplyGradients(NamedTuple):
    grid: Any
    guide: Any
    image: Any
    xy: Any


def slice_apply(
    grid: Any,
    guide: Any,
    image: Any,
    *,
    xy: Any = None,
    index: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    out: Any = None,
) -> Any:
    """``apply(slice(grid, guide), image)``: grid (N,Gh,Gw,Gd,Co,Ci[+1]) → (N,H,W,Co)."""
    return apply(slice(grid, guide, xy=xy, index=index, window=window, align_corners=align_corners), image, out=out)


def slice_apply_vjp(
    grid: Any,
    guide: Any,
    image: Any,
    grad: Any,
    *,
    xy: Any = None,
    index: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> SliceApplyGradients:
    """Gradients of ``slice_apply``, by the chain rule."""
    coefficients = slice(grid, guide, xy=xy, index=index, window=window, align_corners=align_corners)
    applied = apply_vjp(coefficients, image, grad)
    sliced = slice_vjp(
        grid, guide, applied.coefficients, xy=xy, index=index, window=window, align_corners=align_corners
    )
    return _gradients(SliceApplyGradients, wrt, out, image=applied.image, **sliced._asdict())


# --- guide_curves, guide_nn, guide_luma: a guide (N,H,W) of an image (N,H,W,Ci), pixel by pixel


class GuideCurvesGradients(NamedTuple):
    image: Any
    ccm: Any
    ccm_bias: Any
    shifts: Any
    slopes: Any
    mix: Any
    mix_bias: Any


def _pixels(image: Any) -> Any:
    """The image in float64 as a list of pixels (P, Ci)."""
    return _read_image(image).reshape(int(np.prod(np.shape(image)[:-1])), np.shape(image)[-1])


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
    """HDRnet's learned guide: ccm (Ci,Ci), ccm_bias (Ci,), shifts, slopes (Ci,K), mix (Ci,), mix_bias ().

    q_i = Σ_j ccm_ij·in_j + ccm_bias_i,   c_i = Σ_k slopes_ik·max(q_i − shifts_ik, 0)
    out = clip(Σ_i mix_i·c_i + mix_bias, 0, 1)
    """
    ccm, ccm_bias, shifts, slopes, mix, mix_bias = map(_real, (ccm, ccm_bias, shifts, slopes, mix, mix_bias))
    q = np.einsum("ij,pj->pi", ccm, _pixels(image)) + ccm_bias
    c = np.einsum("ik,pik->pi", slopes, np.maximum(q[:, :, None] - shifts, 0))
    s = np.einsum("i,pi->p", mix, c) + mix_bias
    return _deliver(np.clip(s, 0, 1).reshape(np.shape(image)[:-1]), out)


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
    """Gradients of ``guide_curves``: the chain rule from the clip backwards.

    ds = grad where 0 < s < 1, else 0;   dc_i = ds·mix_i;   dq_i = dc_i·Σ_k slopes_ik·[q_i > shifts_ik]
    """
    ccm, ccm_bias, shifts, slopes, mix, mix_bias = map(_real, (ccm, ccm_bias, shifts, slopes, mix, mix_bias))
    pixels = _pixels(image)
    t = (np.einsum("ij,pj->pi", ccm, pixels) + ccm_bias)[:, :, None] - shifts
    above = np.maximum(t, 0)
    step = np.where(t > 0, 1.0, 0.0)
    c = np.einsum("ik,pik->pi", slopes, above)
    s = np.einsum("i,pi->p", mix, c) + mix_bias

    ds = np.where((s > 0) & (s < 1), _real(grad).reshape(-1), 0)
    dc = np.einsum("p,i->pi", ds, mix)
    dq = np.einsum("pi,ik,pik->pi", dc, slopes, step)
    d_image = np.einsum("pi,ij->pj", dq, ccm).reshape(np.shape(image))
    return _gradients(
        GuideCurvesGradients,
        wrt,
        out,
        image=None if _is_integer(image) else d_image,
        ccm=np.einsum("pi,pj->ij", dq, pixels),
        ccm_bias=np.einsum("pi->i", dq),
        shifts=-np.einsum("pi,ik,pik->ik", dc, slopes, step),
        slopes=np.einsum("pi,pik->ik", dc, above),
        mix=np.einsum("p,pi->i", ds, c),
        mix_bias=np.sum(ds),
    )


class GuideNNGradients(NamedTuple):
    image: Any
    w1: Any
    b1: Any
    w2: Any
    b2: Any


def _sigmoid(s: Any) -> Any:
    with np.errstate(over="ignore"):  # exp may reach ∞, and 1/∞ is the right 0
        return 1 / (1 + np.exp(-s))


def guide_nn(image: Any, w1: Any, b1: Any, w2: Any, b2: Any, *, out: Any = None) -> Any:
    """A two-layer network per pixel: w1 (F,Ci), b1 (F,), w2 (F,), b2 ().

    out = sigmoid(Σ_f w2_f·max(h_f, 0) + b2),   h_f = Σ_j w1_fj·in_j + b1_f
    """
    w1, b1, w2, b2 = map(_real, (w1, b1, w2, b2))
    h = np.einsum("fj,pj->pf", w1, _pixels(image)) + b1
    s = np.einsum("f,pf->p", w2, np.maximum(h, 0)) + b2
    return _deliver(_sigmoid(s).reshape(np.shape(image)[:-1]), out)


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
    """Gradients of ``guide_nn``: ds = grad·σ·(1 − σ), dh_f = ds·w2_f where h_f > 0, else 0."""
    w1, b1, w2, b2 = map(_real, (w1, b1, w2, b2))
    pixels = _pixels(image)
    h = np.einsum("fj,pj->pf", w1, pixels) + b1
    sigma = _sigmoid(np.einsum("f,pf->p", w2, np.maximum(h, 0)) + b2)

    ds = _real(grad).reshape(-1) * sigma * (1 - sigma)
    dh = np.einsum("p,f->pf", ds, w2) * np.where(h > 0, 1.0, 0.0)
    d_image = np.einsum("pf,fj->pj", dh, w1).reshape(np.shape(image))
    return _gradients(
        GuideNNGradients,
        wrt,
        out,
        image=None if _is_integer(image) else d_image,
        w1=np.einsum("pf,pj->fj", dh, pixels),
        b1=np.einsum("pf->f", dh),
        w2=np.einsum("p,pf->f", ds, np.maximum(h, 0)),
        b2=np.sum(ds),
    )


class GuideLumaGradients(NamedTuple):
    image: Any


def guide_luma(image: Any, *, out: Any = None) -> Any:
    """BT.601 luma of an RGB image: out = .299·r + .587·g + .114·b."""
    return _deliver(np.einsum("...j,j->...", _read_image(image), LUMA), out)


def guide_luma_vjp(
    image: Any, grad: Any, *, wrt: Sequence[str] | None = None, out: Mapping[str, Any] | None = None
) -> GuideLumaGradients:
    """Gradient of ``guide_luma``: d in = grad·(.299, .587, .114)."""
    d_image = np.einsum("...,j->...j", _real(grad), LUMA)
    return _gradients(GuideLumaGradients, wrt, out, image=None if _is_integer(image) else d_image)


# --- enhance


def _evaluate(guide: Any, image: Any) -> Any:
    """The guide array that a guide record makes of an image."""
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
    xy: Any = None,
    window: Window | None = None,
    align_corners: bool = False,
    out: Any = None,
) -> Any:
    """``slice_apply(grid, guide(image), image)``, the guide a CurvesGuide, NNGuide or LumaGuide record."""
    keywords: dict[str, Any] = {"xy": xy, "window": window, "align_corners": align_corners}
    return slice_apply(grid, _evaluate(guide, image), image, **keywords, out=out)


# --- splat


class SplatGradients(NamedTuple):
    guide: Any
    values: Any
    xy: Any


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
    """The transpose of ``slice``: guide (N,H,W), values (N,H,W,*C), grid_shape (Gh,Gw,Gd) → (N,Gh,Gw,Gd,*C).

    out[n,i,j,k,c] = Σ_yx τ(py−i) τ(px−j) τ(pz−k) values[n,y,x,c]
    """
    axes = np.ndim(guide)
    shape = (*np.shape(guide)[: axes - 2], *grid_shape, *np.shape(values)[axes:])
    guide, values, xy = _batch(guide, values, xy)
    values = _flat(values, 3)
    result = np.zeros((guide.shape[0], *grid_shape, values.shape[-1]))
    for cell, weight, _ in _corners(grid_shape, guide, xy, None, window, align_corners):
        np.add.at(result, cell, np.einsum("nhw,nhwc->nhwc", weight, values))
    return _deliver(result.reshape(shape), out)


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
    """Gradients of ``splat``; grad (N,Gh,Gw,Gd,*C) is a grid.

    ⟨splat(guide, values), grad⟩ = ⟨values, slice(grad, guide)⟩, so d values = slice(grad, guide), and the coordinates'
    gradients are those of slicing grad, with values coming in.
    """
    sliced = slice(grad, guide, xy=xy, window=window, align_corners=align_corners)
    coordinates = slice_vjp(grad, guide, values, xy=xy, window=window, align_corners=align_corners)
    return _gradients(SplatGradients, wrt, out, guide=coordinates.guide, values=sliced, xy=coordinates.xy)


# --- total_variation


class TotalVariationGradients(NamedTuple):
    grid: Any


def total_variation(grid: Any, *, index: Any = None) -> Any:
    """How rough each grid is: (N,Gh,Gw,Gd,*C) → (N,).

    out[n] = Σ_axis mean((grid[n, …, i+1, …] − grid[n, …, i, …])²), over the three grid axes; an axis of size 1 adds 0

    With an index (N,) the grids are (M,…), and the index stands for n.
    """
    grid = _real(grid) if index is None else _real(grid)[np.asarray(index)]
    result = np.zeros(grid.shape[0])
    for axis in (1, 2, 3):
        difference = _flat(np.diff(grid, axis=axis), 1)
        result += np.sum(difference**2, axis=1) / max(difference.shape[1], 1)
    return result


def total_variation_vjp(
    grid: Any,
    grad: Any,
    *,
    index: Any = None,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> TotalVariationGradients:
    """Gradient of ``total_variation``; grad (N,). A difference d of n adds ±2·d·grad/n to its two cells."""
    named = np.arange(np.shape(grad)[0]) if index is None else np.asarray(index)
    whole, grid, grad = np.zeros(np.shape(grid)), _real(grid)[named], _real(grad)
    result = np.zeros_like(grid)
    for axis in (1, 2, 3):
        difference = np.diff(grid, axis=axis)
        count = max(int(np.prod(difference.shape[1:])), 1)
        slope = 2 * difference * grad.reshape(-1, *(1,) * (grid.ndim - 1)) / count
        before, after = [(0, 0)] * grid.ndim, [(0, 0)] * grid.ndim
        before[axis], after[axis] = (1, 0), (0, 1)
        result += np.pad(slope, before) - np.pad(slope, after)
    np.add.at(whole, named, result)
    return _gradients(TotalVariationGradients, wrt, out, grid=whole)


# --- resize_area


class ResizeAreaGradients(NamedTuple):
    image: Any


def _overlaps(size: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Of an axis of ``size`` pixels resized to ``count``: i of these, y of those that it covers, and how much.

    In whole numbers: a pixel of the image is ``count`` long, and one of the result ``size``, which is weight 1.
    """
    for i in range(count):
        for y in range(i * size // count, -(-(i + 1) * size // count)):
            yield i, y, min((i + 1) * size, (y + 1) * count) - max(i * size, y * count)


def _area_sums(image: Any, axis: int, count: int) -> Any:
    """Pixels along an axis of a float64 array, added as long as ``count`` pixels of the result cover them."""
    image = np.moveaxis(image, axis, 0)
    result = np.zeros((count, *image.shape[1:]))
    for i, y, length in _overlaps(len(image), count):
        result[i] += length * image[y]
    return np.moveaxis(result, 0, axis)


def resize_area(image: Any, size: tuple[int, int], *, dtype: Any = None, out: Any = None) -> Any:
    """Exact averages over areas: image (N,H,W,Ci), size (h,w) → (N,h,w,Ci).

    out[n,i,j,c] = Σ_yx w(i,y) w(j,x) image[n,y,x,c],  w(i,y) = |[i·H/h, (i+1)·H/h) ∩ [y, y+1)|·h/H,  w(j,x) likewise
    """
    height, width = np.shape(image)[-3:-1]
    # Levels of an integer image add up to whole numbers: the division is the only rounding before the last.
    result = _area_sums(_area_sums(_real(image), -3, size[0]), -2, size[1]) / (height * width)
    if _is_integer(image):
        stored = np.asarray(image).dtype
        result = np.rint(result).astype(stored) if dtype in (None, stored) else result / np.iinfo(stored).max
    return _deliver(result, out)


def resize_area_vjp(
    image: Any,
    grad: Any,
    *,
    dtype: Any = None,
    wrt: Sequence[str] | None = None,
    out: Mapping[str, Any] | None = None,
) -> ResizeAreaGradients:
    """Gradient of ``resize_area``; grad (N,h,w,Ci): d image[n,y,x,c] = Σ_ij w(i,y) w(j,x) grad[n,i,j,c]."""
    result = _real(grad)
    for axis in (-3, -2):
        size = np.shape(image)[axis]
        incoming = np.moveaxis(result, axis, 0)
        spread = np.zeros((size, *incoming.shape[1:]))
        for i, y, length in _overlaps(size, len(incoming)):
            spread[y] += length / size * incoming[i]
        result = np.moveaxis(spread, 0, axis)
    return _gradients(ResizeAreaGradients, wrt, out, image=None if _is_integer(image) else result)
