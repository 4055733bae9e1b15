"""What other packages are told of this one when they are imported, by whomever and whenever.

To import them for that would take seconds, which few programs want to spend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any

from ..ops._enhance import GUIDES


class _Awaited:
    """Finds a module as others do, and has something done as soon as it is loaded.

    It is no ``MetaPathFinder`` by name: importing that takes as long as most of this package.
    """

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self._module, self._then = module, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            # Whoever looks for a module may not load it, and a loader may serve several.
            def exec_module(module: Any) -> None:
                load(module)
                if module.__name__ == self._module and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    # What is too old for this package says so where it is used with it, and not to whoever imports it.
                    with suppress(ImportError, RuntimeError, AttributeError):
                        self._then()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _tell_torch() -> None:
    """Not to look inside the operations, where checks and caches are no part of a graph."""
    import_module(f"{__package__}.torch").allow_in_graphs()


def _tell_jax() -> None:
    """That guides' records are pytrees, whose leaves are their parameters."""
    trees = import_module("jax.tree_util")
    for guide in GUIDES:
        trees.register_dataclass(guide, [field.name for field in fields(guide)], [])


def await_frameworks() -> None:
    """Called once, when the package is imported.

    Compilers must know before they meet the first operation, which may be before any tensor has been here, and JAX
    before the first record, which may be in ``jax.tree.map``.
    """
    for module, tell in (("torch._dynamo", _tell_torch), ("jax", _tell_jax)):
        if module in sys.modules:
            tell()
        else:
            sys.meta_path.insert(0, _Awaited(module, tell))
