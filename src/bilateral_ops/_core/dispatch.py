"""Which framework an array belongs to, by its type. Nothing is imported that the caller does not use.

A framework is a module in ``frameworks/`` with what ``frameworks/_numpy.py`` defines; a new one is that module and its
line in ``_FRAMEWORKS``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np

from ..frameworks import _numpy

#: Root module of an array type → the module in ``frameworks/`` that serves it, imported when such an array comes.
_FRAMEWORKS = {"numpy": "_numpy", "cupy": "_cupy", "torch": "torch", "jax": "jax", "jaxlib": "jax"}
_SERVED = "NumPy, CuPy, PyTorch and JAX arrays"
_cache: dict[type, Any] = {np.ndarray: _numpy}


def framework_of(op: str, name: str, value: Any) -> Any:
    """Return the framework module that serves ``value``, an array argument."""
    cls = type(value)
    try:
        return _cache[cls]
    except KeyError:
        pass
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} must be a plain array, got a masked one; pass its filled() values.")
    for root in dict.fromkeys(base.__module__.partition(".")[0] for base in cls.__mro__):
        if root in _FRAMEWORKS and sys.modules.get(root):
            framework = import_module(f"bilateral_ops.frameworks.{_FRAMEWORKS[root]}")
            if isinstance(value, framework.ARRAY):
                _cache[cls] = framework
                return framework
    if hasattr(value, "__dlpack_device__") and not isinstance(value, np.generic):
        raise RuntimeError(
            f"{op}: {name} is a {cls.__name__} on device {tuple(value.__dlpack_device__())}, and this version "
            f"computes on {_SERVED}; hand it to one of these, for example with torch.from_dlpack."
        )
    raise TypeError(f"{op}: {name} must be a NumPy, CuPy, PyTorch or JAX array, got {cls.__name__}.")
