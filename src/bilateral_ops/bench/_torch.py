"""What people write in PyTorch: ``grid_sample`` on the grid as a volume of channels, then the affine map.

Axes are in this package's order; in memory pixels are planar, as PyTorch's images are. A backward call is autograd's
part alone: the forward pass before it is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import grid_sample

from ..ops import OPERATIONS
from ._suite import Problem

PIXELWISE = ("image", "coefficients", "values", "grad")


def prepare(given: Problem, threads: int, device: str = "cpu") -> Callable[[], Any] | None:
    """The problem's call on PyTorch tensors; None where there is none."""
    torch.set_num_threads(threads)
    if given.name == "splat" and given.backward:
        return None  # grid_sample has no second derivative
    if given.name == "resize_area":
        return None  # its pooling counts whole pixels: another average, unless the sizes divide
    tensors = {name: _tensor(name, value, device) for name, value in given.arrays.items()}
    grad = tensors.pop("grad", None)

    def function() -> Any:
        with torch.device(device):  # where the functions below make their coordinates
            return _FORWARD[given.name](**tensors)

    if not given.backward:
        return function
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    out = function()
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _tensor(name: str, value: Any, device: str) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    tensor = torch.from_numpy(np.array(value)).to(device)
    if name not in PIXELWISE or tensor.ndim < 3:
        return tensor
    return tensor.movedim((0, 1), (-2, -1)).contiguous().movedim((-2, -1), (0, 1))


def _slice(grid: Any, guide: Any) -> Any:
    height, width = guide.shape
    volume = grid.flatten(3).permute(3, 2, 0, 1)
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([columns, rows, guide * 2 - 1], -1)
    found = grid_sample(volume[None], places[None, None], padding_mode="border", align_corners=False)
    return found[0, :, 0].movedim(0, -1).unflatten(-1, grid.shape[3:])


def _apply(coefficients: Any, image: Any) -> Any:
    return (coefficients[..., :-1] * image[..., None, :]).sum(-1) + coefficients[..., -1]


def _slice_apply(grid: Any, guide: Any, image: Any) -> Any:
    return _apply(_slice(grid, guide), image)


def _guide_curves(image: Any, ccm: Any, ccm_bias: Any, shifts: Any, slopes: Any, mix: Any, mix_bias: Any) -> Any:
    q = image @ ccm.T + ccm_bias
    curves = (slopes * torch.relu(q[..., None] - shifts)).sum(-1)
    return (curves @ mix + mix_bias).clamp(0, 1)


def _guide_nn(image: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    return torch.sigmoid(torch.relu(image @ w1.T + b1) @ w2 + b2)


def _guide_luma(image: Any) -> Any:
    return image @ torch.tensor([0.299, 0.587, 0.114])


def _enhance(grid: Any, image: Any, **curves: Any) -> Any:
    with torch.no_grad():
        pixels = image.float() / 255
        out = _slice_apply(grid, _guide_curves(pixels, **curves), pixels)
        return (out.clamp(0, 1) * 255).round().to(torch.uint8)


def _splat(guide: Any, values: Any, grid_shape: Any) -> Any:
    """The gradient of slicing, as it is linear in the grid."""
    grid = torch.zeros(*grid_shape, *values.shape[2:], requires_grad=True)
    return torch.autograd.grad(_slice(grid, guide), grid, values)[0]


def _total_variation(grid: Any) -> Any:
    return sum(grid.diff(dim=axis).square().flatten(1).mean(1) for axis in (1, 2, 3))


#: The functions above, by the names of their operations.
_FORWARD: dict[str, Callable[..., Any]] = {
    name: globals()[f"_{name}"] for name in OPERATIONS if f"_{name}" in globals()
}
