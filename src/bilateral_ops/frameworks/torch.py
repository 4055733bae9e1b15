"""PyTorch tensors, on the CPU or on a CUDA device; there on PyTorch's current stream.

Autograd does not know of these operations yet: a tensor that requires a gradient is refused while it records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from . import _dlpack, _numpy

ARRAY = torch.Tensor

_KINDS = {
    dtype: str(dtype).removeprefix("torch.")
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.uint16)
}
_DTYPES = {name: dtype for dtype, name in _KINDS.items()}

record = None


def kind_of(tensor: Any) -> str:
    return _KINDS.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")


def locate(op: str, name: str, tensor: Any) -> Any:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"{op}: {name} requires a gradient, which this version does not record; pass {name}.detach(), or call "
            f"under torch.no_grad(), and take gradients from the functions named *_vjp."
        )
    if tensor.layout is not torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{op}: {name} must be a dense tensor, got {layout}; pass {name}.to_dense().")
    if tensor.is_neg():
        raise TypeError(f"{op}: {name} must be a plain tensor, got a negated view; pass {name}.resolve_neg().")
    device = tensor.device
    if device.type == "cuda":
        _dlpack.require(op, name, device, f"pass {name}.cpu()")
    elif device.type != "cpu":
        raise RuntimeError(
            f"{op}: {name} is on {device}, and this version computes on cpu and cuda; pass {name}.cpu()."
        )
    return device


def number(value: float, kind: str, device: Any) -> Any:
    return torch.full((), value, dtype=_DTYPES[kind], device=device)


def empty(shape: tuple[int, ...], kind: str, device: Any) -> Any:
    return torch.empty(shape, dtype=_DTYPES[kind], device=device)


def check_out(op: str, label: str, out: Any, inputs: Sequence[tuple[str, Any]], twin: Any) -> None:
    _dlpack.check_out(op, label, out, inputs, twin, _place)
    torch.autograd.graph.increment_version(out)  # what autograd has saved of it is about to change


def run(op: str, kernel: str, arguments: Sequence[Any], device: Any) -> None:
    if device.type == "cpu":
        try:
            arrays = _each(_host_array, arguments)
        except ImportError:
            raise RuntimeError(
                f"{op}: bfloat16 on the CPU needs ml_dtypes, which is not installed; pip install "
                f"'bilateral_ops[bfloat16]'."
            ) from None
        _numpy.run(op, kernel, arrays, None)
        return
    with torch.cuda.device(device):  # DLPack hands out tensors of the current device only
        stream = torch.cuda.current_stream().cuda_stream

        def allocate(size: int) -> Any:
            return torch.empty(size, dtype=torch.uint8, device=device)

        _dlpack.run(op, kernel, _each(torch.Tensor.detach, arguments), stream, allocate)


def _each(change: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of a kernel with every tensor changed; guide parameters are a tuple among them."""

    def changed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        return _each(change, value) if isinstance(value, tuple) else value

    return tuple(changed(value) for value in arguments)


def _host_array(tensor: Any) -> Any:
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:  # which PyTorch does not hand to NumPy
        return tensor.view(torch.int16).numpy().view(_numpy.dtype_of("bfloat16"))
    return tensor.numpy()


def _place(tensor: Any) -> Any:
    size = tensor.element_size()
    strides = [stride * size for stride in tensor.stride()]
    return _dlpack.place(tensor.data_ptr(), tensor.shape, strides, np.dtype(f"V{size}"))
