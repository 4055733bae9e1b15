"""What ``torch.compile`` is told of the operations: not to look inside, where checks and caches are no part of a graph.

It must know before it meets the first one, which may be before any tensor has been here; and to import it for that
takes a second, which few programs want to spend. So the word is passed when it is imported, by whomever.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import Any

_COMPILER = "torch._dynamo"


def _tell() -> None:
    import_module(f"{__package__}.torch").allow_in_graphs()


class _Awaited:
    """Finds the compiler as others do, and has it told as soon as it is loaded.

    It is no ``MetaPathFinder`` by name: importing that takes as long as most of this package.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _COMPILER:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            # Whoever looks for a module may not load it.
            def exec_module(module: Any) -> None:
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _tell()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def await_compiler() -> None:
    """Called once, when the package is imported."""
    if _COMPILER in sys.modules:
        _tell()
    else:
        sys.meta_path.insert(0, _Awaited())
