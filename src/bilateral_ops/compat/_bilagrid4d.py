"""Low-rank bilateral grids over space and gray, that a radiance field's colours are edited by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..ops._guide_luma import LUMA
from ..ops._slice import slice as _slice
from ._bilagrid import roughness


class _ScaledTanh(nn.Module):
    def __init__(self, scaler: float) -> None:
        super().__init__()
        self.scaler = scaler

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.scaler * x)


class BilateralGridCP4D(nn.Module):
    """A grid of 3 × 4 matrices over ``x, y, z`` and gray, as a sum of ``rank`` products of four curves.

        matrix = Σ_r fac_0[:, r] · Π_i curve_i,r,    curve_i = lerp (fac_i_init + fac_i) at coordinate i

    Parameters
    ----------
    grid_X, grid_Y, grid_Z, grid_W : int
        Cells. As in ``lib_bilagrid``, whose checkpoints load, ``fac_1`` has grid_W of them and is looked up at ``x``,
        ``fac_2`` grid_Z at ``y``, ``fac_3`` grid_Y at ``z``, and ``fac_4`` grid_X at the gray.
    rank : int
    learn_gray : bool
        Whether gray is made of colours by a small network, or else by BT.601's weights.
    gray_mlp_width, gray_mlp_depth : int
        The network's hidden units and its linear layers, two or more.
    init_noise_scale : float
        How far the matrices are from the identity at first.
    bound : float
        Coordinates from −bound to bound span the grid; those beyond are clamped.

    Attributes
    ----------
    fac_0 : Linear, with weight (12, rank)
    fac_1, …, fac_4 : Parameter (1, rank, cells, 1)
        At first 0.
    fac_1_init, …, fac_4_init : buffer (1, rank, cells, 1)

    Raises
    ------
    ValueError
        Less than two layers.

    Notes
    -----
    The first product is the identity at first, and the others are random, where ``lib_bilagrid`` decomposes the
    identity and noise by ``tensorly``, which leaves the matrices a hundredth away.
    """

    rgb2gray: Callable[[torch.Tensor], torch.Tensor]
    """The gray of colours ``(..., 3)`` as ``(..., 1)``, from −1 to 1."""
    rgb2gray_weight: torch.Tensor

    def __init__(
        self,
        grid_X: int = 16,
        grid_Y: int = 16,
        grid_Z: int = 16,
        grid_W: int = 8,
        rank: int = 5,
        learn_gray: bool = True,
        gray_mlp_width: int = 8,
        gray_mlp_depth: int = 2,
        init_noise_scale: float = 1e-6,
        bound: float = 2.0,
    ) -> None:
        super().__init__()
        if learn_gray and gray_mlp_depth < 2:
            raise ValueError(f"BilateralGridCP4D: gray_mlp_depth must be 2 or more, got {gray_mlp_depth}.")
        self.grid_X, self.grid_Y, self.grid_Z, self.grid_W = grid_X, grid_Y, grid_Z, grid_W
        self.rank, self.learn_gray, self.init_noise_scale, self.bound = rank, learn_gray, init_noise_scale, bound
        self.gray_mlp_width, self.gray_mlp_depth = gray_mlp_width, gray_mlp_depth

        self.num_facs = 5
        self.fac_0 = nn.Linear(rank, 12, bias=False)
        with torch.no_grad():
            self.fac_0.weight.normal_().mul_(init_noise_scale)
            self.fac_0.weight[:, 0] = torch.eye(3, 4).flatten()
        for i, cells in enumerate((grid_W, grid_Z, grid_Y, grid_X), 1):
            start = torch.randn(1, rank, cells, 1)
            start[:, 0] = 1
            self.register_buffer(f"fac_{i}_init", start)
            self.register_parameter(f"fac_{i}", nn.Parameter(torch.zeros_like(start)))

        if learn_gray:
            layers: list[nn.Module] = [nn.Linear(3, gray_mlp_width)]
            for left in range(gray_mlp_depth - 2, -1, -1):
                layers += [nn.ReLU(inplace=True), nn.Linear(gray_mlp_width, gray_mlp_width if left else 1)]
            self.rgb2gray = nn.Sequential(*layers, _ScaledTanh(2.0))
        else:
            self.register_buffer("rgb2gray_weight", torch.tensor([LUMA]))

    def __getattr__(self, name: str) -> Any:
        if name == "rgb2gray" and name not in self._modules:
            return self._weighted
        return super().__getattr__(name)

    def _weighted(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb @ self.rgb2gray_weight.T * 2 - 1

    def tv_loss(self) -> torch.Tensor:
        """The sum of the total variation losses of ``fac_1`` to ``fac_4``."""
        losses = [roughness("total_variation_loss", self.get_parameter(f"fac_{i}")) for i in range(1, self.num_facs)]
        return torch.stack(losses).sum()

    def forward(self, xyz: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
        """Look matrices up.

        Parameters
        ----------
        xyz : tensor (..., 3)
        rgb : tensor (..., 3)

        Returns
        -------
        tensor (..., 3, 4)

        Notes
        -----
        Gradients: to everything. A coordinate or a gray that is NaN counts as the lowest, and gets none.
        """
        gray = self.rgb2gray(rgb.reshape(-1, 3))
        places = torch.cat([xyz.reshape(-1, 3).to(gray.dtype) / self.bound, gray], -1)
        places = ((places + 1) / 2).nan_to_num(0)
        product: Any = 1
        for i in range(1, self.num_facs):
            factor = self.get_parameter(f"fac_{i}") + self.get_buffer(f"fac_{i}_init")
            curves = factor[0, None, None, :, :, 0].transpose(-1, -2)  # a grid of one column
            product = product * _slice(curves, places[None, :, i - 1], align_corners=True)[0]
        matrices: torch.Tensor = self.fac_0(product)
        return matrices.reshape(*xyz.shape[:-1], 3, 4)
