"""The operations, one file each: docstring, ``SIGNATURE`` (its arguments), forward and backward.

Frameworks, tests, documentation and benchmarks iterate over ``OPERATIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .._core.signature import Signature
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
    """An operation: its name, forward, VJP (or None), its array arguments in order, and its signature.

    ``enhance`` has no VJP, and one signature per kind of guide: ``_enhance.SIGNATURES``.
    """

    name: str
    function: Callable[..., Any]
    vjp: Callable[..., Any] | None
    arguments: tuple[str, ...]
    signature: Signature | None


def _listed(*modules: Any) -> dict[str, Operation]:
    """Their operations, by name."""
    found = {}
    for module in modules:
        signature: Signature = module.SIGNATURE
        name = signature.name
        found[name] = Operation(
            name, getattr(module, name), getattr(module, f"{name}_vjp"), signature.fields, signature
        )
    return found


OPERATIONS = _listed(
    _slice,
    _apply,
    _slice_apply,
    _guide_curves,
    _guide_nn,
    _guide_luma,
    _splat,
    _total_variation,
    _resize_area,
)
OPERATIONS["enhance"] = Operation("enhance", _enhance.enhance, None, ("grid", "image"), None)

for _operation in OPERATIONS.values():
    for _function in filter(None, (_operation.function, _operation.vjp)):
        # TensorFlow's AutoGraph rewrites the functions that a tf.function calls, but those that have this name.
        _function.autograph_info__ = None  # type: ignore[attr-defined]
