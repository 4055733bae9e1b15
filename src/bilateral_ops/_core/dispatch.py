"""The framework of an array, by its type. Only frameworks that the caller uses are imported.

A framework is a module in ``frameworks/`` with what ``frameworks/_numpy.py`` defines; a new one is that module and its
line in ``_FRAMEWORKS``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..frameworks import _numpy
from .checks import brief, listed
from .hints import TYPES, Refused, hint

#: Root module of an array type → the module in ``frameworks/`` that serves it, imported at the first such array.
_FRAMEWORKS = {
    "numpy": "_numpy",
    "cupy": "_cupy",
    "torch": "torch",
    "jax": "jax",
    "jaxlib": "jax",
    "tensorflow": "tensorflow",
}
#: What these are called.
_NAMES = ("NumPy", "CuPy", "PyTorch", "JAX", "TensorFlow")
#: The method by which an array says where it is, and the host as DLPack numbers devices.
_DEVICE, _HOST = "__dlpack_device__", 1
_cache: dict[type, Any] = {np.ndarray: _numpy}


def framework_of(op: str, name: str, value: Any, taken: Sequence[str] = _NAMES) -> Any:
    """Return the framework module that serves ``value``, an array argument; errors say whose are ``taken``."""
    cls = type(value)
    try:
        return _cache[cls]
    except KeyError:
        pass
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} must be a plain array, got a masked one; pass its filled() values.")
    if framework := _framework_of_type(value):
        return framework
    if (device := _dlpack_device(op, name, value)) and device[0] != _HOST:
        raise RuntimeError(
            f"{op}: {name} is a {cls.__name__} on device {device}, and this version computes on "
            f"{listed(taken, 'and')} arrays; hand it to one of these, for example with torch.from_dlpack."
        )
    got = f"the class {value.__name__}" if isinstance(value, type) else cls.__name__
    remedy = hint(TYPES, Refused(name, value))
    raise TypeError(f"{op}: {name} must be a {listed(taken)} array, got {got}{remedy}.")


def _framework_of_type(value: Any) -> Any:
    cls = type(value)
    for root in dict.fromkeys(base.__module__.partition(".")[0] for base in cls.__mro__):
        if root in _FRAMEWORKS and sys.modules.get(root):
            framework = import_module(f"bilateral_ops.frameworks.{_FRAMEWORKS[root]}")
            if isinstance(value, framework.ARRAY):
                _cache[cls] = framework
                return framework
    return None


def adopted(op: str, name: str, value: Any) -> Any:
    """An array of another framework, in host memory, as a NumPy array that shares it; None for all others.

    It must not record gradients, because its framework would not see the operation.
    """
    if type(value) in _cache or isinstance(value, np.ndarray) or _framework_of_type(value):
        return None
    if (device := _dlpack_device(op, name, value)) is None or device[0] != _HOST:
        return None
    if getattr(value, "requires_grad", False) is True or getattr(value, "stop_gradient", True) is False:
        vjp = f"{op.removesuffix('_vjp')}_vjp"
        raise RuntimeError(
            f"{op}: {name} must be an array that records no gradients, got a {type(value).__name__} that does, of a "
            f"framework that is not served; pass {name}.detach(), and its autograd {vjp}'s gradients."
        )
    try:
        return np.from_dlpack(value)
    except Exception as error:
        raise _not_exported(op, name, value, error) from error


def _dlpack_device(op: str, name: str, value: Any) -> tuple[int, Any] | None:
    """Where an array says that it is; None of what is no array, or does not say so.

    Of the host the second part says nothing, and PaddlePaddle has None there.
    """
    if isinstance(value, (np.generic, type)) or not (hasattr(value, "__dlpack__") and hasattr(value, _DEVICE)):
        return None
    try:
        kind, index = getattr(value, _DEVICE)()
        return int(kind), index
    except Exception as error:
        raise _not_exported(op, name, value, error) from error


def _not_exported(op: str, name: str, value: Any, error: Exception) -> TypeError:
    """Of an array whose framework refuses to hand it over, which it may by any error."""
    said = brief(error, str).rstrip(".").replace(". ", "; ") or type(error).__name__
    return TypeError(f"{op}: {name} must be an array that np.from_dlpack takes, got {type(value).__name__}: {said}.")
