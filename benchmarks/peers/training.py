"""A training step in PyTorch, of HDRnet's operations, and what a tiny call costs there."""

# PyTorch's own functions are typed in part only.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import bilateral_ops
from bilateral_ops.bench._suite import problem
from bilateral_ops.bench._torch import _guide_curves, _slice_apply, _tensor

#: What of a tiny image is timed: a result that nothing records, or one and all its gradients by autograd.
TINY = ("result", "gradients")


def training_step(way: str, height: int, width: int, threads: int) -> Callable[[], list[Any]]:
    """Forward and backward of guide, slice and apply: ``bilateral_ops`` recorded by autograd, or ``torch``, the peer.

    A photograph of that size, planar, batch 1; the gradients are those of the grid and of the guide's parameters.
    """
    torch.set_num_threads(threads)
    curves, sliced = problem("guide_curves", False, 1, 1), problem("slice_apply", True, height, width)
    image, grad = (_tensor(name, sliced.arguments[name], "cpu") for name in ("image", "grad"))
    grad = grad.abs()  # else the sums over all pixels cancel, to where float32 has few digits left
    grid = _tensor("grid", sliced.arguments["grid"], "cpu").requires_grad_()
    parameters = [
        _tensor(name, value, "cpu").requires_grad_() for name, value in curves.arguments.items() if name != "image"
    ]
    ways = {
        "bilateral_ops": (bilateral_ops.guide_curves, bilateral_ops.slice_apply),
        "torch": (_guide_curves, _slice_apply),
    }
    guide, apply = ways[way]

    def step() -> list[Any]:
        out = apply(grid, guide(image, *parameters), image)
        return list(torch.autograd.grad(out, [grid, *parameters], grad))

    return step


def tiny_call() -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """A slice_apply of 16 × 16 pixels in PyTorch, and beside it PyTorch's own part of it, and the call in NumPy.

    PyTorch's part: to make the result, and to lend four tensors' memory.
    """
    given = problem("slice_apply", False, 16, 16)
    tensors = [torch.from_numpy(value) for value in given.arguments.values()]

    def own() -> Any:
        result = torch.empty((16, 16, 3), dtype=torch.float32, device=tensors[0].device)
        return [tensor.detach().numpy() for tensor in (result, *tensors)]

    return lambda: bilateral_ops.slice_apply(*tensors), {"torch": own, "numpy": given.call(bilateral_ops)}


def tiny_step(way: str, what: str) -> Callable[[], list[Any]]:
    """A slice_apply of 4 × 4 pixels on one thread, of which ``TINY`` is made: all of its time is the host's.

    ``bilateral_ops``, or ``torch``, the formulation with ``grid_sample``.
    """
    torch.set_num_threads(1)
    gradients = what == "gradients"
    given = problem("slice_apply", False, 4, 4)
    tensors = [torch.from_numpy(value).clone().requires_grad_(gradients) for value in given.arguments.values()]
    function, grad = bilateral_ops.slice_apply if way == "bilateral_ops" else _slice_apply, torch.ones(4, 4, 3)

    def step() -> list[Any]:
        out = function(*tensors)
        return [out.detach(), *torch.autograd.grad(out, tensors, grad)] if gradients else [out]

    return step
