"""Not a public operation: what ``compat.lib_bilagrid`` is made of."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from .._signature import Signature, argument
from ._guide_luma import guide_luma, guide_luma_vjp
from ._slice_apply import slice_apply, slice_apply_vjp

SIGNATURE = Signature(
    "slice_apply_luma",
    (
        argument("grid", "N Gh Gw Gd Co Ci[+1]", "grid"),
        argument("image", "N H W Ci=3", "image"),
        argument("xy", "N H W 2", "guide"),
    ),
    result="N H W Co",
    lead="image",
    like="image",
)


class SliceApplyLumaGradients(NamedTuple):
    """Gradients of :func:`slice_apply_luma`; ``None`` where not wanted or not given."""

    grid: Any
    image: Any
    xy: Any


def slice_apply_luma(
    grid: Any, image: Any, *, xy: Any = None, window: Any = None, align_corners: bool = False, out: Any = None
) -> Any:
    """``slice_apply(grid, guide_luma(image), image)``; on the CPU in one pass, the luma neither stored nor rounded.

    Arguments, result and errors are those of :func:`slice_apply`.
    """
    call = SIGNATURE.bind({"grid": grid, "image": image, "xy": xy})
    window, align_corners = call.sampling(window, align_corners, xy)
    if not call.framework.guides_by_luma(call.device):
        return slice_apply(grid, guide_luma(image), image, xy=xy, window=window, align_corners=align_corners, out=out)
    return call.forward(out, "slice_apply_forward", grid, None, image, xy, window, align_corners)


def slice_apply_luma_vjp(
    grid: Any,
    image: Any,
    grad: Any,
    *,
    xy: Any = None,
    window: Any = None,
    align_corners: bool = False,
    wrt: Any = None,
    out: Any = None,
) -> SliceApplyLumaGradients:
    """Gradients of :func:`slice_apply_luma`: the image's is of both its uses,

        d_image = slice_apply's d_image + guide_luma_vjp(slice_apply's d_guide)

    Arguments, result and errors are those of :func:`slice_apply_vjp`.
    """
    call = SIGNATURE.bind_vjp({"grid": grid, "image": image, "xy": xy}, grad)
    window, align_corners = call.sampling(window, align_corners, xy)
    if not call.framework.guides_by_luma(call.device):
        wanted = call.gradients(SliceApplyLumaGradients._fields, call.wanted(SliceApplyLumaGradients._fields, wrt))
        through = ("guide",) if "image" in wanted else ()
        sampling = {"xy": xy, "window": window, "align_corners": align_corners}
        d = slice_apply_vjp(grid, guide_luma(image), image, grad, **sampling, wrt=(*wanted, *through), out=out)
        if not through:
            return SliceApplyLumaGradients(d.grid, None, d.xy)
        add = operator.add if out is None else operator.iadd  # into out's
        return SliceApplyLumaGradients(d.grid, add(d.image, guide_luma_vjp(image, d.guide).image), d.xy)
    return call.backward(
        SliceApplyLumaGradients,
        wrt,
        out,
        lambda d: call.run(
            "slice_apply_backward", d.grid, None, d.image, d.xy, grid, None, image, xy, grad, window, align_corners
        ),
    )
