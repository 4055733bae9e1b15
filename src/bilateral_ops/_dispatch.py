"""Which framework an array belongs to, by its type. Nothing is imported that the caller does not use.

A framework is a module in ``frameworks/`` with the functions that ``frameworks/_numpy.py`` documents; a new one is that
module and its line in ``_FRAMEWORKS``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .frameworks import _numpy

#: Root module of an array type → the framework that serves it.
_FRAMEWORKS = {"numpy": _numpy}
#: Root module of an array type → how its arrays reach a framework that is served.
_REMEDIES = {
    "torch": "pass tensor.detach().cpu().numpy()",
    "jax": "pass numpy.asarray(array)",
    "jaxlib": "pass numpy.asarray(array)",
    "cupy": "pass cupy.asnumpy(array)",
}
_cache: dict[type, Any] = {np.ndarray: _numpy}


def framework_of(op: str, name: str, value: Any) -> Any:
    """Return the framework module that serves ``value``, an array argument."""
    kind = type(value)
    try:
        return _cache[kind]
    except KeyError:
        pass
    roots = [base.__module__.partition(".")[0] for base in kind.__mro__]
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} must be a plain array, got a masked one; pass its filled() values.")
    if isinstance(value, np.ndarray):
        _cache[kind] = _numpy
        return _numpy
    for root in roots:
        if root in _REMEDIES:
            raise RuntimeError(
                f"{op}: {name} is a {root}.{kind.__name__}, and this version computes on NumPy arrays; "
                f"{_REMEDIES[root]}."
            )
    if hasattr(value, "__dlpack_device__") and not isinstance(value, np.generic):
        raise RuntimeError(
            f"{op}: {name} is a {kind.__name__} on device {tuple(value.__dlpack_device__())}, and this version "
            f"computes on NumPy arrays; copy it to the host, for example with numpy.from_dlpack."
        )
    raise TypeError(f"{op}: {name} must be a NumPy array, got {kind.__name__}.")
