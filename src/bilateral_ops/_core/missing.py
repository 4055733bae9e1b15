"""Libraries that are asked for and not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

_NAMES = {
    "PIL": "Pillow",
    "av": "PyAV",
    "cupy": "CuPy",
    "matplotlib": "Matplotlib",
    "numba": "Numba",
    "scipy": "SciPy",
    "skimage": "scikit-image",
    "torch": "PyTorch",
}


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


def missing(extra: str, *modules: str) -> str:
    """Which of these is the first that is not installed, and the remedy, as a command's sentence says it; else ""."""
    for module in modules:
        try:
            import_module(module)
        except ImportError:
            return f"{_NAMES.get(module, module)} is not installed; run pip install 'bilateral_ops[{extra}]'"
    return ""
