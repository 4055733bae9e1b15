"""What ``torch.compile`` is told of the operations: not to look inside, where checks and caches are no part of a graph.

It must know before it meets the first one, which may be before any tensor has been here.
"""

from __future__ import annotations

from importlib import import_module

from ._awaited import when_imported


def _tell() -> None:
    import_module(f"{__package__}.torch").allow_in_graphs()


def await_compiler() -> None:
    """Called once, when the package is imported."""
    when_imported("torch._dynamo", _tell)
