"""What frameworks with arrays on CUDA devices share: the kernels there, and checks of ``out`` by address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from .. import _cpu
from . import _numpy

_MODULE = "bilateral_ops._cuda"
_kernels: ModuleType | None = None


def kernels() -> ModuleType:
    """The compiled module; ``ImportError`` where this build has none."""
    global _kernels
    if _kernels is None:
        _kernels = import_module(_MODULE)
    return _kernels


def require(op: str, name: str, device: Any, remedy: str) -> None:
    """Refuse an array on a CUDA device where there are no kernels for it."""
    if _kernels is None and (why := lacking()):
        raise RuntimeError(f"{op}: {name} is on {device}, and {why}, or {remedy}.")


def lacking() -> str:
    """Why there are no kernels, and the remedy; "" where there are."""
    try:
        kernels()
    except ModuleNotFoundError:
        return (
            f"this bilateral_ops was built without CUDA ({_cpu.cuda_missing}); install it from source where nvcc works"
        )
    except ImportError as error:
        return f"the CUDA kernels of bilateral_ops can't be loaded ({error}); install it again where nvcc works"
    return ""


def run(op: str, kernel: str, arguments: Sequence[Any], stream: int, allocate: Callable[[int], Any]) -> None:
    """Launch a kernel on a stream; ``allocate(bytes)`` makes its workspace. Nothing is waited for."""
    try:
        getattr(kernels(), kernel)(*arguments, stream, allocate)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # the framework's own, of the allocation
            raise
        kernel, _, reason = str(error).partition(": ")
        raise RuntimeError(f"{op}: {reason or kernel}") from error


def place(address: int, shape: Sequence[int], strides: Sequence[int], dtype: Any) -> Any:
    """A NumPy array at an address, strides in bytes. On a device it has nothing that the host could read."""
    return np.asarray(_Place(address, shape, strides, dtype.str))


class _Place:
    def __init__(self, address: int, shape: Sequence[int], strides: Sequence[int], typestr: str) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": tuple(shape),
            "strides": tuple(strides),
            "typestr": typestr,
        }


def check_out(
    op: str, label: str, out: Any, inputs: Sequence[tuple[str, Any]], twin: Any, place_of: Callable[[Any], Any]
) -> None:
    """NumPy's check on NumPy arrays at the same addresses: it looks at nothing else."""
    places = [place_of(array) for _, array in inputs]
    same = next((place for place, (_, array) in zip(places, inputs) if array is twin), None)
    _numpy.check_out(op, label, place_of(out), [(name, place) for place, (name, _) in zip(places, inputs)], same)
