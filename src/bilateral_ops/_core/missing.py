"""Libraries that are asked for and not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = {"cupy": "CuPy", "numba": "Numba", "scipy": "SciPy", "torch": "PyTorch"}


class MissingError(RuntimeError, ImportError):
    """A library that is not installed, and how to install it."""


@contextmanager
def needed(who: str, module: str, extra: str) -> Iterator[None]:
    """Around imports: where the module is not there, the error says who needs it and which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:
            raise
        raise MissingError(
            f"{who} needs {_NAMES.get(module, module)}, which is not installed; pip install 'bilateral_ops[{extra}]'."
        ) from error
