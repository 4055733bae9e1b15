"""CuPy arrays: computed on their device, on CuPy's current stream there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from . import _dlpack, _numpy

ARRAY = cupy.ndarray
dtype_of = _numpy.dtype_of  # CuPy's dtypes are NumPy's
record, lend, casts, adopt = _numpy.record, _numpy.lend, _numpy.casts, _numpy.adopt
shape_of = _numpy.shape_of


class Device(NamedTuple):
    ordinal: int

    def __str__(self) -> str:
        return f"cuda:{self.ordinal}"


def locate(op: str, name: str, array: Any) -> Device:
    device = Device(array.device.id)
    _dlpack.require(op, name, device, f"pass cupy.asnumpy({name})")
    return device


def guides_by_luma(device: Any) -> bool:
    return False


def number(value: float, dtype: str, device: Device) -> Any:
    with cupy.cuda.Device(device.ordinal):
        return cupy.full((), value, _numpy.to_dtype(dtype))


def empty(shape: tuple[int, ...], dtype: str, device: Device) -> Any:
    with cupy.cuda.Device(device.ordinal):
        return cupy.empty(shape, _numpy.to_dtype(dtype))


def check_out(op: str, label: str, out: Any, inputs: Sequence[tuple[str, Any]], twin: Any) -> None:
    _dlpack.check_out(op, label, out, inputs, twin, _place)


def run(op: str, kernel: str, arguments: Sequence[Any], device: Device) -> None:
    with cupy.cuda.Device(device.ordinal):
        stream = cupy.cuda.get_current_stream().ptr
        _dlpack.run(op, kernel, arguments, stream, lambda size: cupy.empty(size, np.uint8))


def _place(array: Any) -> Any:
    return _dlpack.place(array.data.ptr, array.shape, array.strides, array.dtype)
