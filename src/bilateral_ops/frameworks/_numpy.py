"""NumPy arrays. What every framework module offers is what this one defines.

A *device* is what ``locate`` says of an array, and only that framework reads: here there is but one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _cpu

#: The type of this framework's arrays, subclasses included.
ARRAY = np.ndarray

_NAMES: dict[Any, str] = {np.dtype(name): name for name in ("float16", "float32", "float64", "uint8", "uint16")}
# How hard to look for an element that two interleaved views share, before they are taken to overlap.
_OVERLAP_WORK: Any = 10_000
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

#: ``locate(op, name, array)`` returns the array's device, or refuses an array that can't be computed with for a reason
#: that neither type, dtype nor shape tells. None: no array is refused, and all are on the host.
locate: Any = None

#: ``shape_of(op, name, array)`` returns the array's shape, with sizes that stand for those not known yet. None: shapes
#: are tuples of integers.
shape_of: Any = None

#: ``record(call, out, wrt=None)`` returns what a framework makes of a whole checked call (a VJP's, where ``wrt`` is
#: given), as when it takes gradients or compiles; or None, and the kernels are called. None: they always are.
record: Any = None

#: ``lend(call, arrays)`` returns what kernels are given for these arrays, some of which may be None; or None where only
#: shapes are asked for, and no kernel is to run. None: they are given the arrays themselves.
lend: Any = None

#: ``casts(device)``: whether ``record`` casts floats of different dtypes to one, now. None: it never does.
casts: Any = None

#: ``adopt(array)`` returns an array of NumPy's that is beside the framework's own as one of these, or as it is where
#: none has its dtype. None: such calls are refused.
adopt: Any = None


def dtype_of(array: Any) -> str:
    """Name of the array's dtype; of an unsupported one too, for the error sentence."""
    dtype = array.dtype
    name = _NAMES.get(dtype)
    if name is not None:
        return name
    if dtype.name == "bfloat16" and dtype.isnative:
        # ml_dtypes is imported already, by whoever made the array.
        _NAMES[dtype], _DTYPES["bfloat16"] = "bfloat16", dtype
        return "bfloat16"
    # JAX's keys have a dtype of another class.
    return str(dtype.name) if getattr(dtype, "isnative", True) else f"byte-swapped {dtype.name}"


def to_dtype(name: str) -> Any:
    """The dtype of that name; ``ImportError`` for bfloat16 where ml_dtypes is missing."""
    if name not in _DTYPES:
        from ml_dtypes import bfloat16

        _DTYPES["bfloat16"] = np.dtype(bfloat16)
    return _DTYPES[name]


def guides_by_luma(device: Any) -> bool:
    """Whether the kernels there make ``slice_apply``'s guide of the image, where none is given."""
    return True


def number(value: float, dtype: str, device: Any) -> Any:
    """A number as an array of no axes."""
    return np.asarray(value).astype(to_dtype(dtype))


def empty(shape: tuple[int, ...], dtype: str, device: Any) -> Any:
    """A new array."""
    return np.empty(shape, to_dtype(dtype))


def check_out(op: str, label: str, out: Any, inputs: Sequence[tuple[str, Any]], twin: Any) -> None:
    """Refuse an ``out`` that cannot be written to as promised. ``twin`` is the input that it may be."""
    if not out.flags.writeable:
        raise ValueError(f"{op}: {label} must be writable, got a read-only array.")
    if not out.flags.c_contiguous and _overlaps_itself(out):
        raise ValueError(f"{op}: {label} must not overlap itself, got strides {out.strides} for shape {out.shape}.")
    for name, array in inputs:
        if not np.may_share_memory(out, array) or (array is twin and _same_place(out, twin)):
            continue
        if _overlap(out, array):
            only = ", unless it is the same view" if array is twin else ""
            raise ValueError(f"{op}: {label} must not overlap {name}{only}, got arrays that share memory.")


def run(op: str, kernel: str, arguments: Sequence[Any], device: Any) -> None:
    """Call a kernel with arrays of this framework, all of that device."""
    try:
        getattr(_cpu, kernel)(*arguments)
    except MemoryError:
        raise MemoryError(f"{op}: there must be memory for a few grid rows a thread, got none.") from None
    except IndexError as error:
        raise IndexError(f"{op}: {error}") from None


def _same_place(a: Any, b: Any) -> bool:
    return bool(
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.shape == b.shape
        and all(s == t for s, t, n in zip(a.strides, b.strides, a.shape) if n > 1)
        and a.dtype == b.dtype
    )


def _overlap(a: Any, b: Any) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=_OVERLAP_WORK))
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(array: Any) -> bool:
    """Whether two elements may share a byte: each stride must step over all that the smaller ones reach."""
    reach = array.itemsize
    for stride, count in sorted((abs(s), n) for s, n in zip(array.strides, array.shape) if n > 1):
        if stride < reach:
            return bool(array.size > 0)
        reach += stride * (count - 1)
    return False
