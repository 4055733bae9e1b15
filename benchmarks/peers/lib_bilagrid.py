"""A training step of radiance-field bilateral grids: by this package, and as ``lib_bilagrid`` computes it.

Forward, loss of roughness, backward to grids and colours; one image, with a mesh of pixel centres as trainers pass it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import grid_sample

from bilateral_ops.bench._suite import problem
from bilateral_ops.compat.lib_bilagrid import BilateralGrid, slice, total_variation_loss

_VIEWS, _VIEW, _ROUGHNESS = 8, 5, 10.0


def training_step(way: str, height: int, width: int, threads: int) -> Callable[[], list[Any]]:
    """A step of ``bilateral_ops``, or of ``torch``; it returns the result and the gradients."""
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

    ways: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "bilateral_ops": (slice, total_variation_loss),
        "torch": (_slice, _roughness),
    }
    look_up, roughness = ways[way]

    def step() -> list[Any]:
        out = look_up(grids, xy, rgb, index)["rgb"]
        loss = _ROUGHNESS * roughness(grids.grids)
        return [out.detach(), *torch.autograd.grad([out, loss], [grids.grids, rgb], [grad, None])]

    return step


def _slice(grids: BilateralGrid, xy: Any, rgb: Any, index: Any) -> dict[str, Any]:
    gray = rgb @ grids.rgb2gray_weight.T * 2 - 1
    places = torch.cat([(xy - 0.5) * 2, gray], -1)[:, None]
    found = grid_sample(grids.grids[index[:, 0]], places, padding_mode="border", align_corners=True)
    matrices = found[:, :, 0].permute(0, 2, 3, 1).unflatten(-1, (3, 4))
    return {"rgb": torch.matmul(matrices[..., :3], rgb[..., None])[..., 0] + matrices[..., 3]}


def _roughness(x: Any) -> Any:
    return sum(x.diff(dim=axis).square().mean() for axis in (2, 3, 4))
