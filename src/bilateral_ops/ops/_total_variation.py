from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .._core.signature import Signature, argument
from .._core.types import Array, FieldsOf, Framework, Grid, Like, NamedTuple


class TotalVariationGradients(NamedTuple, FieldsOf[Grid]):
    """Gradient of :func:`total_variation`; ``None`` where not wanted."""

    grid: Grid | None


SIGNATURE = Signature(
    "total_variation",
    (
        argument("grid", "N Gh Gw Gd *C", "grid"),
        argument("index", "N", "index", optional=True),
    ),
    result="N",
    lead="grid",
    like="grid",
    batched=True,
    gradients=TotalVariationGradients,
)


def total_variation(grid: Like[Framework, Grid], *, index: Array[Framework] | None = None) -> Grid:
    """The roughness of a bilateral grid: the mean squared difference of neighbouring cells, summed over the three axes.

        out[n] = mean (grid[n,i+1,j,k,c] − grid[n,i,j,k,c])²
               + mean (grid[n,i,j+1,k,c] − grid[n,i,j,k,c])²
               + mean (grid[n,i,j,k+1,c] − grid[n,i,j,k,c])²

    Means are over all channels and all cells that have that neighbour; an axis of one cell adds 0.

    Parameters
    ----------
    grid : array (N, Gh, Gw, Gd, *C), float16 | bfloat16 | float32 | float64
        Always batched. ``*C`` is one or two channel axes.
    index : array (N,), int32 | int64, optional
        Selects N of M grids, (M, …) instead of (N, …).

    Returns
    -------
    array (N,), the grid's dtype

    Raises
    ------
    ValueError
        A shape that does not fit.
    IndexError
        An index out of range, on the CPU. On CUDA devices the result is NaN instead.
    TypeError
        Unsupported array type or dtype.

    Notes
    -----
    Gradients: :func:`total_variation_vjp`.

    Source: Wang et al., Bilateral Guided Radiance Field Processing, SIGGRAPH 2024, sec. 4.1.
    """
    return SIGNATURE.bind((grid, index)).forward(None)


@SIGNATURE.vjp
def total_variation_vjp(
    grid: Like[Framework, Grid],
    grad: Array[Framework],
    *,
    index: Array[Framework] | None = None,
    wrt: tuple[Literal["grid"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> TotalVariationGradients[Grid]:
    """Gradient of :func:`total_variation`.

        d_grid[n,i] = 2·grad[n]·Σ_axes ((grid[n,i] − grid[n,i−1]) − (grid[n,i+1] − grid[n,i])) / count

    where a difference that reaches past the border is 0, and count is the number of differences in the axis's mean.

    Notes
    -----
    Source: Wang et al., Bilateral Guided Radiance Field Processing, SIGGRAPH 2024, sec. 4.1.
    """
    return SIGNATURE.bind_vjp((grid, index), grad).backward(wrt, out)
