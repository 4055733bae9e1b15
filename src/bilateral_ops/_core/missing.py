"""Errors for libraries that are needed and not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

#: What pip installs: the sources, in whose folder the commands run; from the first release on, its name.
PACKAGE = "."

_NAMES = {
    "PIL": "Pillow",
    "av": "PyAV",
    "cupy": "CuPy",
    "matplotlib": "Matplotlib",
    "numba": "Numba",
    "scipy": "SciPy",
    "skimage": "scikit-image",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch",
}


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{PACKAGE}[{extra}]'"


class MissingError(RuntimeError, ImportError):
    """A library that is not installed, and how to install it."""


@contextmanager
def needed(who: str, module: str, extra: str) -> Iterator[None]:
    """For imports: if the module is missing, the error says who needs it and which extra installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module:
            raise
        raise MissingError(
            f"{who} needs {_NAMES.get(module, module)}, which is not installed; {install(extra)}."
        ) from error


def missing(extra: str, *modules: str) -> str:
    """The first of these that is not installed, and the remedy, for a command's message; else ""."""
    for module in modules:
        try:
            import_module(module)
        except ImportError:
            return f"{_NAMES.get(module, module)} is not installed; run {install(extra)}"
    return ""
