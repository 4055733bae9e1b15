"""Arrays on the device that is played: NumPy's, in the arena, lent by DLPack as a CUDA framework lends its own."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from . import Standin

_CUDA, _READ_ONLY = 2, 1
_CODES = {"i": 0, "u": 1, "f": 2, "V": 4}  # signed, unsigned, float, bfloat


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class _Unversioned(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_NAMES = {True: b"dltensor_versioned", False: b"dltensor"}


class DeviceArray:
    """An array of a device. `memory` is NumPy's view of the same bytes, for tests alone."""

    #: Whether __dlpack__ knows max_version, as it does since DLPack 1.0.
    versioned = True

    def __init__(self, standin: Standin, memory: Any, device: int = 0, *, read_only: bool = False) -> None:
        self.standin, self.memory, self.device, self.read_only = standin, memory, device, read_only
        self.streams: list[int] = []  # that it was lent to
        self._loans: list[Any] = []

    dtype = property(lambda self: self.memory.dtype)
    shape = property(lambda self: self.memory.shape)
    strides = property(lambda self: self.memory.strides)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)

    @property
    def address(self) -> int:
        return int(self.memory.__array_interface__["data"][0])

    def __getitem__(self, index: Any) -> DeviceArray:
        return DeviceArray(self.standin, self.memory[index], self.device, read_only=self.read_only)

    def transpose(self, *axes: int) -> DeviceArray:
        return DeviceArray(self.standin, self.memory.transpose(*axes), self.device, read_only=self.read_only)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self.device

    def __dlpack__(self, *, stream: Any = None, **keywords: Any) -> Any:
        if not self.versioned and keywords:
            raise TypeError(f"__dlpack__() got an unexpected keyword argument {next(iter(keywords))!r}")
        if not isinstance(stream, int) or stream == 0:
            raise ValueError(
                f"stream must be −1 for none to wait for, 1 for the default one, or a stream's address, got {stream!r}"
            )
        self.streams.append(stream)
        item = self.dtype.itemsize
        if any(stride % item for stride in self.strides):
            raise BufferError("DLPack counts strides in elements")
        shape = (ctypes.c_int64 * self.ndim)(*self.shape)
        strides = (ctypes.c_int64 * self.ndim)(*(stride // item for stride in self.strides))
        kind = "V" if self.dtype == ml_dtypes.bfloat16 else self.dtype.kind
        tensor = _Tensor(self.address, _CUDA, self.device, self.ndim, _CODES[kind], 8 * item, 1, shape, strides, 0)
        flags = _READ_ONLY if self.read_only else 0
        managed = _Versioned(1, 0, None, None, flags, tensor) if self.versioned else _Unversioned(tensor, None, None)
        self._loans.append((managed, shape, strides))  # for as long as this array lives, which is longer than a call
        return _new_capsule(ctypes.addressof(managed), _NAMES[self.versioned], None)


def empty(standin: Standin, shape: tuple[int, ...], dtype: Any, device: int = 0) -> DeviceArray:
    """A new array, in memory that nobody wrote."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    address = standin.memory.allocate(size)
    return DeviceArray(standin, standin.memory.view(address, size).view(dtype).reshape(shape), device)


def laid_out(standin: Standin, array: Any, device: int = 0) -> DeviceArray:
    """A copy of an array with its strides, its bytes alone allocated and written, not those between."""
    low = sum((n - 1) * s for n, s in zip(array.shape, array.strides) if s < 0) if array.size else 0
    high = sum((n - 1) * s for n, s in zip(array.shape, array.strides) if s > 0) + array.itemsize if array.size else 0
    # Where the array begins in its own alignment, it begins here.
    address = array.__array_interface__["data"][0] + low
    shift = address % 16
    start = standin.memory.allocate(shift + high - low) + shift
    view = np.lib.stride_tricks.as_strided(
        standin.memory.bytes[start - standin.memory.base - low :][: array.itemsize].view(f"u{array.itemsize}")
        if array.size
        else np.empty(1, f"u{array.itemsize}"),
        array.shape,
        array.strides,
    )
    view[...] = array.view(view.dtype)
    if array.size:
        states = np.lib.stride_tricks.as_strided(
            standin.memory.state[start - standin.memory.base - low :],
            (*array.shape, array.itemsize),
            (*array.strides, 1),
        )
        span = standin.memory.state[start - standin.memory.base - shift :][: shift + high - low]
        span[...] = 0  # what lies between the elements is out of bounds
        states[...] = 3
    return DeviceArray(standin, view.view(array.dtype), device)
