"""What JAX is told of the guides' records: that they are pytrees, whose leaves are their parameters.

It must know before it meets the first one, which may be in ``jax.tree.map``, without a call of this package's.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module

from ..ops._enhance import GUIDES
from ._awaited import when_imported


def _tell() -> None:
    trees = import_module("jax.tree_util")
    for guide in GUIDES:
        trees.register_dataclass(guide, [field.name for field in fields(guide)], [])


def await_jax() -> None:
    """Called once, when the package is imported."""
    when_imported("jax", _tell)
