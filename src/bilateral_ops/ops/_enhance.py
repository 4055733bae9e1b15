from __future__ import annotations

from dataclasses import fields
from typing import Any

from .._core.signature import Signature, argument
from .._core.types import Array, Framework, Image, Like, PixelRule
from ._guide_curves import CurvesGuide
from ._guide_luma import LumaGuide
from ._guide_nn import NNGuide

GUIDES = (CurvesGuide, NNGuide, LumaGuide)

#: The signature with each guide's parameters after the image.
SIGNATURES = {
    guide.kind: Signature(
        "enhance",
        (
            argument("grid", "N Gh Gw Gd Co Ci[+1]", "grid"),
            *guide.signature.arguments,
        ),
        result="N H W Co",
        lead="image",
        like="image",
        sampled=True,
        guide=guide.kind,
    )
    for guide in GUIDES
}


def enhance(
    grid: Array[Framework],
    guide: CurvesGuide[Array[Framework]] | NNGuide[Array[Framework]] | LumaGuide,
    image: Like[Framework, Image],
    *,
    xy: PixelRule | None = None,
    window: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    out: Array[Framework] | None = None,
) -> Image:
    """Enhance an image in one pass over its pixels: guide, slice and apply, HDRnet's full-resolution stream.

        out = slice_apply(grid, guide(image), image)

    Guide and coefficients are neither stored nor rounded to the image's dtype.

    Parameters
    ----------
    grid : array (N, Gh, Gw, Gd, Co, Ci) or (N, Gh, Gw, Gd, Co, Ci+1), float16 | bfloat16 | float32 | float64
        The image's dtype, or float32 with a float16, bfloat16 or integer image.
    guide : CurvesGuide, NNGuide or LumaGuide
        The guide's parameters; dtypes as the grid's.
    image : array (N, H, W, Ci), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        Integers are read as v/255 or v/65535. Without a batch axis, (H, W, Ci), the grid has none either.
    xy : "centers" or "corners", optional
        The rule of the pixels' coordinates, as in :func:`slice`.
    window : (top, left, full_height, full_width), optional
        The image is this window of a larger one.
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
    TypeError
        Unsupported guide, array type or dtype, or arguments that disagree.

    Notes
    -----
    For inference, without gradients; the ``guide_*`` operations and :func:`slice_apply` have gradients.

    Rounding errors of the guide shift the depth at which a pixel reads; they are visible in grids that are steep in
    depth.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """
    if not isinstance(guide, GUIDES):
        raise TypeError(f"enhance: guide must be a CurvesGuide, NNGuide or LumaGuide, got {type(guide).__name__}.")
    parameters: Any = (getattr(guide, field.name) for field in fields(guide))
    signature = SIGNATURES[guide.kind]
    return signature.bind((grid, image, *parameters), xy=xy, window=window, align_corners=align_corners).forward(out)
