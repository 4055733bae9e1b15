"""The bilateral grids of radiance fields, as trainers import them from ``fused_bilagrid``.

    from bilateral_ops.compat.fused_bilagrid import BilateralGrid, slice, total_variation_loss

What differs from :mod:`bilateral_ops.compat.lib_bilagrid`, as between the two packages: a module returns colours, and
has no weights of gray; all floats are cast to float32; coordinates get a gradient only where ``compute_coords_grad``
says so; there are no matrices.

On knots of the grid, where ``fused_bilagrid`` gives places and colours no gradient, they have that of ``grid_sample``.

Source: fused_bilagrid; Wang et al., Bilateral Guided Radiance Field Processing, SIGGRAPH 2024.
"""

from __future__ import annotations

from typing import Any

from .._core.missing import needed

with needed("bilateral_ops.compat.fused_bilagrid", "torch", "torch"):
    import torch
    from torch import nn

    from ._bilagrid import Grids, all_in_order, coordinates, in_original_form, look_up, roughness
    from ._color_correct import color_correct

__all__ = ["BilateralGrid", "color_correct", "fused_bilagrid_sample", "slice", "total_variation_loss"]


class BilateralGrid(Grids):
    """Bilateral grids of ``num`` views, each ``grid_Y`` × ``grid_X`` × ``grid_W`` (depth) cells; at first the identity.

    Parameters
    ----------
    num : int
    grid_X, grid_Y, grid_W : int
        Cells along the image's width, along its height, and in depth.

    Attributes
    ----------
    grids : Parameter (num, 12, grid_W, grid_Y, grid_X)

    Notes
    -----
    Checkpoints of ``lib_bilagrid`` load as well; their weights of gray are not looked at.
    """

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}rgb2gray_weight", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def tv_loss(self) -> torch.Tensor:
        """:func:`total_variation_loss` of the grids."""
        return total_variation_loss(self.grids)

    def forward(
        self,
        grid_xy: torch.Tensor | str | None,
        rgb: torch.Tensor,
        idx: torch.Tensor | int | None = None,
        compute_coords_grad: bool = False,
        actual_height: int | None = None,
        actual_width: int | None = None,
        patch_offsets: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Look the grids' matrices up and apply them.

        Parameters
        ----------
        grid_xy : tensor (..., 2), "centers", "corners" or None
        rgb : tensor (..., 3)
        idx : tensor (b,) or int, optional
            The grid of each element along the first axis of ``rgb``; by default they are all grids in order.
        compute_coords_grad, actual_height, actual_width, patch_offsets
            As in :func:`slice`.

        Returns
        -------
        tensor like ``rgb``, float32
        """
        patch = (actual_height, actual_width, patch_offsets)
        return _colors("BilateralGrid", "idx", self.grids, grid_xy, rgb, idx, compute_coords_grad, *patch)


def slice(
    bil_grids: nn.Module | torch.Tensor,
    xy: torch.Tensor | str | None,
    rgb: torch.Tensor,
    grid_idx: torch.Tensor | int,
    compute_coords_grad: bool = False,
    actual_height: int | None = None,
    actual_width: int | None = None,
    patch_offsets: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Look colours' matrices up in bilateral grids, and apply them.

    Parameters
    ----------
    bil_grids : BilateralGrid, or a module that is called as one, or tensor (N, 12, L, H, W)
    xy, rgb, grid_idx, actual_height, actual_width, patch_offsets
        As given to :func:`bilateral_ops.compat.lib_bilagrid.slice`.
    compute_coords_grad : bool
        Whether ``xy`` gets a gradient.

    Returns
    -------
    dict
        ``"rgb"``: a tensor like ``rgb``, float32.

    Raises
    ------
    ValueError, TypeError, IndexError
        As :func:`bilateral_ops.compat.lib_bilagrid.slice`.
    """
    patch = (actual_height, actual_width, patch_offsets)
    if isinstance(bil_grids, torch.Tensor):
        colors = _colors("slice", "grid_idx", bil_grids, xy, rgb, grid_idx, compute_coords_grad, *patch)
    else:
        places, colors, index = in_original_form("slice", grid_idx, xy, rgb)
        colors = bil_grids(places, colors, index, compute_coords_grad, *patch)
    return {"rgb": colors.reshape(rgb.shape)}


def fused_bilagrid_sample(
    bilagrid: torch.Tensor,
    coords: torch.Tensor | None,
    rgb: torch.Tensor,
    compute_coords_grad: bool = False,
    actual_height: int | None = None,
    actual_width: int | None = None,
    patch_offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Look colours' matrices up in grids, each of which has colours of its own, and apply them.

    Parameters
    ----------
    bilagrid : tensor (N, 12, L, H, W)
    coords : tensor (N, m, h, w, 2), or None
    rgb : tensor (N, m, h, w, 3)
    compute_coords_grad, actual_height, actual_width, patch_offsets
        As in :func:`slice`; offsets (N, m, 2).

    Returns
    -------
    tensor (N, m, h, w, 3), float32
    """
    patch = (actual_height, actual_width, patch_offsets)
    return _colors("fused_bilagrid_sample", "rgb", bilagrid, coords, rgb, None, compute_coords_grad, *patch)


def total_variation_loss(x: torch.Tensor) -> torch.Tensor:
    """:func:`bilateral_ops.compat.lib_bilagrid.total_variation_loss` in float32."""
    return roughness("total_variation_loss", x.float())


def _colors(
    op: str,
    name: str,
    grids: torch.Tensor,
    xy: Any,
    rgb: torch.Tensor,
    index: Any,
    compute_coords_grad: bool,
    *patch: Any,
) -> torch.Tensor:
    grids, rgb = grids.float(), rgb.float()
    xy = coordinates(op, grids, xy.float() if isinstance(xy, torch.Tensor) else xy, rgb, compute_coords_grad, *patch)
    if index is None:
        index = all_in_order(op, grids, rgb)
    return look_up(op, grids, xy, rgb, index, name=name).colors()
