from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, Literal

from .._core.dispatch import framework_of
from .._core.signature import Call, Signature, argument
from .._core.types import Array, FieldsOf, Framework, Grid, Image, Like, NamedTuple, PixelRule
from ._guide_luma import LumaGuide, guide_luma, guide_luma_vjp


class SliceApplyGradients(NamedTuple, FieldsOf[Grid, Image]):
    """Gradients of :func:`slice_apply`; ``None`` where not wanted or not given."""

    grid: Grid | None
    guide: Grid | Image | None
    image: Image | None
    xy: Grid | Image | None


SIGNATURE = Signature(
    "slice_apply",
    (
        argument("grid", "N Gh Gw Gd Co Ci[+1]", "grid"),
        argument("guide", "N H W", "guide", optional=True),
        argument("image", "N H W Ci", "image"),
        argument("xy", "N H W 2", "guide", optional=True),
        argument("index", "N H W", "index", optional=True),
    ),
    result="N H W Co",
    lead="guide",
    like="image",
    gradients=SliceApplyGradients,
    sampled=True,
)


def slice_apply(
    grid: Array[Framework],
    guide: Array[Framework] | LumaGuide,
    image: Like[Framework, Image],
    *,
    xy: Array[Framework] | PixelRule | None = None,
    index: Array[Framework] | None = None,
    window: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    out: Array[Framework] | None = None,
) -> Image:
    """Sample a bilateral grid of matrices at every pixel and apply each matrix to its pixel, in one pass.

        A[n,y,x] = Σ_ijk τ(py−i) τ(px−j) τ(pz−k) grid[n,i,j,k],   τ(t) = max(1−|t|, 0)      (slice)
        out[n,y,x,i] = Σ_j A[n,y,x,i,j]·image[n,y,x,j]  (+ A[n,y,x,i,Ci])                     (apply)

    The coefficients A are never stored.

    Parameters
    ----------
    grid : array (N, Gh, Gw, Gd, Co, Ci) or (N, Gh, Gw, Gd, Co, Ci+1), float16 | bfloat16 | float32 | float64
        The last column, if present, is the offset. The image's dtype, or float32 with a float16, bfloat16 or integer
        image.
    guide : array (N, H, W), or a LumaGuide
        Unitless; [0, 1] spans the grid's depth. The image's float dtype, or float32 with a float32 grid. Without a
        batch axis, (H, W), no other argument has one either. With ``LumaGuide()`` the image's luma is the guide; on the
        CPU it is then neither stored nor rounded.
    image : array (N, H, W, Ci), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        Integers are read as v/255 or v/65535.
    xy : array (N, H, W, 2), "centers" or "corners", optional
        Coordinates (x, y) in [0, 1] to sample at, instead of the pixels' own, in the guide's dtype; or a rule, as in
        :func:`slice`.
    index : array (N,) or, beside ``xy``, (N, H, W), int32 | int64, optional
        Selects one of M grids, (M, …) instead of (N, …), per image or per pixel.
    window : (top, left, full_height, full_width), optional
        The image is this window of a larger one. Excludes an array ``xy``.
    align_corners : bool
        The sampling rule, as in :func:`slice`.
    out : array, optional
        Filled and returned; may be the image itself, and must not overlap an input otherwise.

    Returns
    -------
    array (N, H, W, Co), the image's dtype
        Integers are rounded to nearest even and saturated.

    Raises
    ------
    ValueError
        A shape, window or ``out`` that does not fit.
    IndexError
        An index out of range, on the CPU. On CUDA devices the samples are NaN instead.
    TypeError
        Unsupported array type or dtype, or arguments that disagree.

    Notes
    -----
    Gradients: :func:`slice_apply_vjp`. A NaN in the guide gives NaN in that pixel only.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.3 and 3.4.
    """
    luma = isinstance(guide, LumaGuide)
    arrays = (grid, None if luma else _given("slice_apply", guide), image, xy, index)
    call = SIGNATURE.bind(arrays, window=window, align_corners=align_corners)
    if luma and _needs_an_array(call):
        given: Any = guide_luma(image)
        return slice_apply(grid, given, image, xy=xy, index=index, window=window, align_corners=align_corners, out=out)
    return call.forward(out)


@SIGNATURE.vjp
def slice_apply_vjp(
    grid: Like[Framework, Grid],
    guide: Array[Framework] | LumaGuide,
    image: Like[Framework, Image],
    grad: Array[Framework],
    *,
    xy: Array[Framework] | PixelRule | None = None,
    index: Array[Framework] | None = None,
    window: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    wrt: tuple[Literal["grid", "guide", "image", "xy"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> SliceApplyGradients[Grid, Image]:
    """Gradients of :func:`slice_apply`.

        d_A[n,y,x,i,j]   = grad[n,y,x,i]·image[n,y,x,j]   (1 in the image's place for the offset)
        d_grid[n,i,j,k]  = Σ_yx τ(py−i) τ(px−j) τ(pz−k) d_A[n,y,x]
        d_guide[n,y,x]   = ⟨d_A[n,y,x], ∂A[n,y,x]/∂pz⟩ · ∂pz/∂guide,   d_xy likewise
        d_image[n,y,x,j] = Σ_i A[n,y,x,i,j]·grad[n,y,x,i]   (with a LumaGuide + d_guide[n,y,x] · ∂luma/∂image_j)

    Notes
    -----
    On a knot: the slope of the cell above; 0 where a position was clamped. The same bits for any number of threads.
    ``guide`` is ``None`` for a LumaGuide.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.3 and 3.4.
    """
    luma = isinstance(guide, LumaGuide)
    arrays = (grid, None if luma else _given("slice_apply_vjp", guide), image, xy, index)
    call = SIGNATURE.bind_vjp(arrays, grad, window=window, align_corners=align_corners)
    if not (luma and _needs_an_array(call)):
        return call.backward(wrt, out)
    wanted: Any = call.gradients(call.wanted(wrt))
    through: Any = ("guide",) if "image" in wanted else ()
    keywords: dict[str, Any] = {"xy": xy, "index": index, "window": window, "align_corners": align_corners}
    given: Any = guide_luma(image)
    d: Any = slice_apply_vjp(grid, given, image, grad, **keywords, wrt=(*wanted, *through), out=out)
    if through:
        add = operator.add if out is None else operator.iadd  # into out's
        d = d._replace(guide=None, image=add(d.image, guide_luma_vjp(image, d.guide).image))
    return d


def _given(op: str, guide: Any) -> Any:
    """To a kernel no guide means the luma; callers must ask for that with a LumaGuide."""
    if guide is None:
        framework_of(op, "guide", guide)  # which refuses it
    return guide


def _needs_an_array(call: Call) -> bool:
    """Whether the luma must be computed first, because the kernels of that device need a guide array."""
    if call.sizes["Ci"] != 3:
        raise ValueError(f"{call.op}: image must have three channels for a LumaGuide, got {call.sizes['Ci']}.")
    return not call.framework.guides_by_luma(call.device)
