"""Arrays in containers: dicts, lists, tuples, named tuples, this package's guide records, and JAX's pytrees.

JAX's pytrees are known where JAX is loaded, as nobody can have made one otherwise.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..ops._enhance import GUIDES

#: The way to an array in a container, as it is written after the container's name: ``['weights'][0]``.
Path = str


def _children(tree: Any) -> tuple[list[tuple[Path, Any]], Callable[[list[Any]], Any]] | None:
    """What is in a container, and the container of others in its place; None of what is no container."""
    if isinstance(tree, Mapping):

        def mapping(values: list[Any]) -> Any:
            made = copy.copy(tree) if isinstance(tree, dict) else dict(tree)
            made.update(zip(tree, values))
            return made

        return [(f"[{key!r}]", value) for key, value in tree.items()], mapping
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return [(f".{name}", value) for name, value in zip(tree._fields, tree)], lambda values: type(tree)(*values)
    if isinstance(tree, (list, tuple)):
        return [(f"[{place}]", value) for place, value in enumerate(tree)], lambda values: type(tree)(values)
    if isinstance(tree, GUIDES):
        record = [(f".{field.name}", getattr(tree, field.name)) for field in fields(tree)]
        return record, lambda values: type(tree)(*values)
    jax = sys.modules.get("jax")
    trees = getattr(jax, "tree_util", None)
    if trees is None or tree is None or trees.all_leaves([tree]):
        return None
    parts, structure = trees.tree_flatten_with_path(tree, is_leaf=lambda part: part is not tree)
    named = [(trees.keystr(path), value) for path, value in parts]
    return named, lambda values: trees.tree_unflatten(structure, values)


def leaves(tree: Any) -> Iterator[tuple[Path, Any]]:
    """What is in a container, in those within it too, and the way to each; "" where it is none."""
    found = _children(tree)
    if found is None:
        yield "", tree
        return
    for start, child in found[0]:
        for path, leaf in leaves(child):
            yield start + path, leaf


def values_in(tree: Any) -> list[Any]:
    """The ``leaves`` without the ways to them."""
    return [leaf for _, leaf in leaves(tree)]


def with_leaves(tree: Any, values: Iterator[Any]) -> Any:
    """The same container of other values, in the order of ``leaves``."""
    found = _children(tree)
    if found is None:
        return next(values)
    children, made = found
    return made([with_leaves(child, values) for _, child in children])
