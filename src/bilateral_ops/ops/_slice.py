from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .._core.signature import Signature, argument
from .._core.types import Array, FieldsOf, Framework, Grid, Like, NamedTuple, PixelRule


class SliceGradients(NamedTuple, FieldsOf[Grid]):
    """Gradients of :func:`slice`; ``None`` where not wanted or not given."""

    grid: Grid | None
    guide: Grid | None
    xy: Grid | None


SIGNATURE = Signature(
    "slice",
    (
        argument("grid", "N Gh Gw Gd *C", "grid"),
        argument("guide", "N H W", "guide"),
        argument("xy", "N H W 2", "guide", optional=True),
        argument("index", "N H W", "index", optional=True),
    ),
    result="N H W *C",
    lead="guide",
    like="grid",
    gradients=SliceGradients,
    sampled=True,
)


def slice(
    grid: Like[Framework, Grid],
    guide: Array[Framework],
    *,
    xy: Array[Framework] | PixelRule | None = None,
    index: Array[Framework] | None = None,
    window: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    out: Array[Framework] | None = None,
) -> Grid:
    """Sample a bilateral grid at every pixel (trilinear).

        out[n,y,x,c] = Σ_ijk τ(py−i) τ(px−j) τ(pz−k) grid[n,i,j,k,c],   τ(t) = max(1−|t|, 0)
        py = clamp((y+½)·Gh/H − ½, 0, Gh−1), px likewise, pz = clamp(guide·Gd − ½, 0, Gd−1)

    With ``align_corners`` the position of a coordinate u in [0, 1] is u·(G−1) instead of u·G − ½, and pixel i of n has
    u = i/(n−1) instead of (i+½)/n, unless ``xy`` is given. (i/(n−1) is 0 for n = 1.)

    Parameters
    ----------
    grid : array (N, Gh, Gw, Gd, *C), float16 | bfloat16 | float32 | float64
        ``*C`` is one or two channel axes.
    guide : array (N, H, W), the grid's dtype
        Unitless; [0, 1] spans the grid's depth. Without a batch axis, (H, W), no other argument has one either.
    xy : array (N, H, W, 2), "centers" or "corners", optional
        Coordinates (x, y) in [0, 1] to sample at, instead of the pixels' own. ``"centers"`` are (i+½)/n and
        ``"corners"`` i/(n−1), with either ``align_corners``; with a ``window``, i and n are those of the whole image.
        These rules are as fast as no ``xy``. So is, on the CPU, an array that is a mesh (one x per column and one y per
        row, both ascending), unless it needs a gradient.
    index : array (N,) or, beside ``xy``, (N, H, W), int32 | int64, optional
        Selects one of M grids, (M, …) instead of (N, …), per image or per pixel.
    window : (top, left, full_height, full_width), optional
        The pixels are this window of a larger image. Excludes an array ``xy``.
    align_corners : bool
        The sampling rule, above.
    out : array, optional
        Filled and returned; must not overlap an input.

    Returns
    -------
    array (N, H, W, *C), the grid's dtype

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
    Gradients: :func:`slice_vjp`. A NaN in the guide gives NaN in that pixel only. Differences of neighbouring cells
    must be finite in the compute type.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.3.
    """
    return SIGNATURE.bind((grid, guide, xy, index), window=window, align_corners=align_corners).forward(out)


@SIGNATURE.vjp
def slice_vjp(
    grid: Like[Framework, Grid],
    guide: Array[Framework],
    grad: Array[Framework],
    *,
    xy: Array[Framework] | PixelRule | None = None,
    index: Array[Framework] | None = None,
    window: tuple[int, int, int, int] | None = None,
    align_corners: bool = False,
    wrt: tuple[Literal["grid", "guide", "xy"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> SliceGradients[Grid]:
    """Gradients of :func:`slice`.

        d_grid[n,i,j,k,c] = Σ_yx τ(py−i) τ(px−j) τ(pz−k) grad[n,y,x,c]
        d_guide[n,y,x]    = Σ_c grad[n,y,x,c] · ∂out[n,y,x,c]/∂pz · ∂pz/∂guide,   d_xy likewise

    Notes
    -----
    On a knot: the slope of the cell above; 0 where a position was clamped. The same bits for any number of threads.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.3.
    """
    return SIGNATURE.bind_vjp((grid, guide, xy, index), grad, window=window, align_corners=align_corners).backward(
        wrt, out
    )
