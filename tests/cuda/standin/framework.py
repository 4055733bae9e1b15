"""DeviceArray as a framework of `bilateral_ops`: what `frameworks/_cupy.py` is to CuPy's arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bilateral_ops._core import dispatch as _dispatch
from bilateral_ops.frameworks import _dlpack, _numpy

from . import arrays, the_standin

ARRAY = arrays.DeviceArray
dtype_of = _numpy.dtype_of
record, lend, casts = _numpy.record, _numpy.lend, _numpy.casts
adopt, shape_of = _numpy.adopt, _numpy.shape_of


class Device(NamedTuple):
    ordinal: int

    def __str__(self) -> str:
        return f"cuda:{self.ordinal}"


def locate(op: str, name: str, array: Any) -> Device:
    return Device(array.device)


def number(value: float, kind: str, device: Device) -> Any:
    return arrays.laid_out(the_standin(), np.full((), value, _numpy.to_dtype(kind)), device.ordinal)


def empty(shape: tuple[int, ...], kind: str, device: Device) -> Any:
    return arrays.empty(the_standin(), shape, _numpy.to_dtype(kind), device.ordinal)


def check_out(op: str, label: str, out: Any, inputs: Sequence[tuple[str, Any]], twin: Any) -> None:
    _dlpack.check_out(op, label, out, inputs, twin, lambda array: array.memory)


class _Kernels:
    """The module's functions, called as the stand-in wants it."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: the_standin().call(name, *arguments[:-2], stream=arguments[-2])


def run(op: str, kernel: str, arguments: Sequence[Any], device: Device) -> None:
    before, _dlpack._kernels = _dlpack._kernels, _Kernels()
    try:
        _dlpack.run(op, kernel, arguments, 1000, lambda size: None)
    finally:
        _dlpack._kernels = before


_dispatch._cache[ARRAY] = sys.modules[__name__]
