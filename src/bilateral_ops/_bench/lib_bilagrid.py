"""A training step of radiance-field bilateral grids: by this package, and as ``lib_bilagrid`` computes it.

Forward, loss of roughness, backward to grids and colours; one image, with a mesh of pixel centres as trainers pass it.
"""

# PyTorch's own functions are typed in part only.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import grid_sample

from ..compat.lib_bilagrid import BilateralGrid, slice, total_variation_loss
from . import problem

_VIEWS, _VIEW, _ROUGHNESS = 8, 5, 10.0


def steps(height: int, width: int, threads: int) -> dict[str, Callable[[], list[Any]]]:
    """Functions that take one step each and return its result and gradients, by who computes it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    grids = BilateralGrid(_VIEWS)
    with torch.no_grad():
        grids.grids.add_(0.1 * torch.randn_like(grids.grids))
    image = torch.from_numpy(problem("guide_luma", False, height, width).arguments["image"])
    rgb = image[None].clone().requires_grad_()
    grad = torch.randn(rgb.shape)
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    xy = torch.stack([x, y], -1)[None]
    index = torch.tensor([[_VIEW]])

    def step(look_up: Callable[..., Any], roughness: Callable[..., Any]) -> list[Any]:
        out = look_up(grids, xy, rgb, index)
        torch.autograd.backward([out, _ROUGHNESS * roughness(grids.grids)], [grad, None])
        results = [out.detach().numpy(), grids.grids.grad.numpy(), rgb.grad.numpy()]  # type: ignore[union-attr]
        grids.grids.grad = rgb.grad = None
        return results

    return {
        "bilateral_ops": lambda: step(lambda *given: slice(*given)["rgb"], total_variation_loss),
        "torch": lambda: step(_look_up, _roughness),
    }


def _look_up(grids: BilateralGrid, xy: Any, rgb: Any, index: Any) -> Any:
    gray = rgb @ grids.rgb2gray_weight.T * 2 - 1
    places = torch.cat([(xy - 0.5) * 2, gray], -1)[:, None]
    found = grid_sample(grids.grids[index[:, 0]], places, padding_mode="border", align_corners=True)
    matrices = found[:, :, 0].permute(0, 2, 3, 1).unflatten(-1, (3, 4))
    return torch.matmul(matrices[..., :3], rgb[..., None])[..., 0] + matrices[..., 3]


def _roughness(x: Any) -> Any:
    return sum(x.diff(dim=axis).square().mean() for axis in (2, 3, 4))
