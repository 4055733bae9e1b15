"""The operations, one file each: what it means (docstring), what it takes (``SIGNATURE``), forward and backward.

``OPERATIONS`` is the list that tests, documentation and benchmarks walk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .._signature import Signature
from . import (
    _apply,
    _enhance,
    _guide_curves,
    _guide_luma,
    _guide_nn,
    _resize_area,
    _slice,
    _slice_apply,
    _splat,
    _total_variation,
)


class Operation(NamedTuple):
    """A public operation: its name, forward and VJP (None: it has none), its array arguments in order, and what it takes.

    ``enhance`` has no VJP, and a signature for each kind of guide: :data:`_enhance.SIGNATURES`.
    """

    name: str
    function: Callable[..., Any]
    vjp: Callable[..., Any] | None
    arguments: tuple[str, ...]
    signature: Signature | None


OPERATIONS: dict[str, Operation] = {}
for _module in (
    _slice,
    _apply,
    _slice_apply,
    _guide_curves,
    _guide_nn,
    _guide_luma,
    _splat,
    _total_variation,
    _resize_area,
):
    _name = _module.SIGNATURE.name
    OPERATIONS[_name] = Operation(
        _name,
        getattr(_module, _name),
        getattr(_module, f"{_name}_vjp"),
        tuple(a.name for a in _module.SIGNATURE.arguments),
        _module.SIGNATURE,
    )
OPERATIONS["enhance"] = Operation("enhance", _enhance.enhance, None, ("grid", "image"), None)
del _module, _name
