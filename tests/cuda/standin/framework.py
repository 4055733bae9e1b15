"""DeviceArray as a framework of `bilateral_ops`: what `frameworks/_cupy.py` is to CuPy's arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bilateral_ops import _dispatch
from bilateral_ops.frameworks import _dlpack, _numpy

from . import arrays, the_standin

ARRAY = arrays.DeviceArray
kind_of = _numpy.kind_of


class Device(NamedTuple):
    ordinal: int

    def __str__(self) -> str:
        return f"cuda:{self.ordinal}"


def locate(op: str, name: str, array: Any) -> Device:
    return Device(array.device)


def number(value: float, kind: str, device: Device) -> Any:
    return arrays.laid_out(the_standin(), np.full((), value, _numpy.dtype_of(kind)), device.ordinal)


def empty(shape: tuple[int, ...], kind: str, device: Device) -> Any:
    return arrays.empty(the_standin(), shape, _numpy.dtype_of(kind), device.ordinal)


def check_out(op: str, label: str, out: Any, inputs: Sequence[tuple[str, Any]], twin: Any) -> None:
    _dlpack.check_out(op, label, out, inputs, twin, lambda array: array.memory)


def run(op: str, kernel: str, arguments: Sequence[Any], device: Device) -> None:
    the_standin().call(kernel, *arguments, stream=1000)


_dispatch._cache[ARRAY] = sys.modules[__name__]
