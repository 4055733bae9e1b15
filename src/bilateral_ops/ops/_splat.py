from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .._core.signature import KernelCall, Signature, Sizes, argument
from .._core.types import Array, FieldsOf, Framework, Image, Like, NamedTuple, PixelRule


class SplatGradients(NamedTuple, FieldsOf[Image]):
    """Gradients of :func:`splat`; ``None`` where not wanted or not given."""

    guide: Image | None
    values: Image | None
    xy: Image | None


SIGNATURE = Signature(
    "splat",
    (
        argument("guide", "N H W", "guide"),
        argument("values", "N H W *C", "grid"),
        argument("xy", "N H W 2", "guide", optional=True),
    ),
    result="N Gh Gw Gd *C",
    lead="guide",
    like="values",
    sizes=Sizes("grid_shape", ("Gh", "Gw", "Gd")),
    gradients=SplatGradients,
    sampled=True,
    # The transpose of slice: forward is its gradient with respect to the grid, backward slice itself and its slopes.
    forward=KernelCall("slice_backward", ("out", None, None), (None, "guide", "xy", None, "values")),
    backward=(
        KernelCall("slice_backward", (None, "guide", "xy"), ("grad", "guide", "xy", None, "values")),
        KernelCall("slice_forward", ("values",), ("grad", "guide", "xy", None)),
    ),
)


def splat(
    guide: Array[Framework],
    values: Like[Framework, Image],
    grid_shape: tuple[int, int, int],
    *,
    xy: Array[Framework] | PixelRule | None = None,
    window: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    out: Array[Framework] | None = None,
) -> Image:
    """Build a bilateral grid from an image: the transpose of :func:`slice`.

        out[n,i,j,k,c] = Σ_yx τ(py−i) τ(px−j) τ(pz−k) values[n,y,x,c],   τ(t) = max(1−|t|, 0)

    with the positions of :func:`slice`.

    Parameters
    ----------
    guide : array (N, H, W), float16 | bfloat16 | float32 | float64
        Unitless; [0, 1] spans the grid's depth. Without a batch axis, (H, W), no other argument has one either.
    values : array (N, H, W, *C), the guide's dtype
        ``*C`` is one or two channel axes.
    grid_shape : (Gh, Gw, Gd)
    xy, window, align_corners
        As in :func:`slice`.
    out : array, optional
        Filled and returned; must not overlap an input.

    Returns
    -------
    array (N, Gh, Gw, Gd, *C), the values' dtype

    Raises
    ------
    ValueError
        A shape, window or ``out`` that does not fit.
    TypeError
        Unsupported array type or dtype, or arguments that disagree.

    Notes
    -----
    Gradients: :func:`splat_vjp`. Long sums are in double, and all in a fixed order: the same bits for any number of
    threads.

    Source: Chen, Paris, Durand, Real-time Edge-Aware Image Processing with the Bilateral Grid, SIGGRAPH 2007, sec. 3.
    """
    return SIGNATURE.bind((guide, values, xy), grid_shape, window=window, align_corners=align_corners).forward(out)


@SIGNATURE.vjp
def splat_vjp(
    guide: Array[Framework],
    values: Like[Framework, Image],
    grad: Array[Framework],
    *,
    xy: Array[Framework] | PixelRule | None = None,
    window: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    wrt: tuple[Literal["guide", "values", "xy"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> SplatGradients[Image]:
    """Gradients of :func:`splat`.

        d_values[n,y,x,c] = Σ_ijk τ(py−i) τ(px−j) τ(pz−k) grad[n,i,j,k,c]      (grad, sliced)
        d_guide[n,y,x]    = Σ_c values[n,y,x,c] · ∂d_values[n,y,x,c]/∂pz · ∂pz/∂guide,   d_xy likewise

    Notes
    -----
    On a knot: the slope of the cell above; 0 where a position was clamped.

    Source: Chen, Paris, Durand, Real-time Edge-Aware Image Processing with the Bilateral Grid, SIGGRAPH 2007, sec. 3.
    """
    return SIGNATURE.bind_vjp((guide, values, xy), grad, window=window, align_corners=align_corners).backward(wrt, out)
