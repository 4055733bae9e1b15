"""What ``gsplat`` has beside bilateral grids: corrections of colour for metrics, and a loss against grids that drift.

    from bilateral_ops.compat.gsplat import bilateral_grid_drift_loss, color_correct_affine, color_correct_quadratic

The bilateral grids of its trainer are in :mod:`bilateral_ops.compat.lib_bilagrid`.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._core.missing import needed

with needed("bilateral_ops.compat.gsplat", "torch", "torch"):
    import torch

    from ._color_correct import color_correct, pixels_of

__all__ = ["bilateral_grid_drift_loss", "color_correct_affine", "color_correct_quadratic", "identity_distance"]


def color_correct_quadratic(
    img: torch.Tensor, ref: torch.Tensor, num_iters: int = 5, eps: float = 0.5 / 255
) -> torch.Tensor:
    """:func:`bilateral_ops.compat.lib_bilagrid.color_correct`, as gsplat calls it."""
    return color_correct(img, ref, num_iters, eps)


def color_correct_affine(img: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
    """Give ``img`` the colours of ``ref`` by a line for each channel.

        a, b = argmin Σ (a·ref + b − img)²,    out = clamp((img − b)/a, 0, 1)

    Parameters
    ----------
    img, ref
        As given to :func:`bilateral_ops.compat.lib_bilagrid.color_correct`, whose errors these are.

    Returns
    -------
    tensor like ``img``

    Notes
    -----
    The variance of ``ref`` counts as 1e-8 where it is less, and a slope of less than 1e-8 as 1.
    """
    values, wanted = pixels_of("color_correct_affine", img, ref)
    middle, wanted_middle = values.mean(0), wanted.mean(0)
    values, wanted = values - middle, wanted - wanted_middle  # products of differences lose no digits
    slope = (values * wanted).mean(0) / wanted.square().mean(0).clamp(min=1e-8)
    slope = torch.where(slope.abs() < 1e-8, 1, slope)
    return (values / slope + wanted_middle).clamp(0, 1).reshape(img.shape)


def identity_distance(grid: torch.Tensor, num_rows: int = 3, num_cols: int = 4) -> torch.Tensor:
    """How far matrices are from the identity: the root of the sum of their entries' squared differences.

    Parameters
    ----------
    grid : tensor (B, num_rows·num_cols, ...)
    num_rows, num_cols : int

    Returns
    -------
    tensor (B, ...)
        Of the identity itself the gradient is 0.

    Raises
    ------
    ValueError
        Another number of channels.
    """
    if grid.ndim < 2 or grid.shape[1] != num_rows * num_cols:
        raise ValueError(
            f"identity_distance: grid must have shape (B, {num_rows * num_cols}, ...), got {tuple(grid.shape)}."
        )
    identity = torch.eye(num_rows, num_cols, dtype=grid.dtype, device=grid.device).flatten()
    return torch.linalg.vector_norm(grid - identity.reshape(-1, *[1] * (grid.ndim - 2)), dim=1)


def bilateral_grid_drift_loss(grids: Sequence[torch.Tensor], num_rows: int = 3, num_cols: int = 4) -> torch.Tensor:
    """The :func:`identity_distance` of every cell of some grids, which holds them where colours need no correction.

    Parameters
    ----------
    grids : sequence of tensors (B, num_rows·num_cols, ...)
        Their sizes may differ.
    num_rows, num_cols : int

    Returns
    -------
    tensor (cells,)
        Of all grids, one after the other; empty where there are none.
    """
    if not grids:
        return torch.empty(0)
    return torch.cat([identity_distance(grid, num_rows, num_cols).flatten() for grid in grids])
