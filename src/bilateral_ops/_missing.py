"""Libraries that are asked for and not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingError(RuntimeError, ImportError):
    """A library that is not installed, and how to install it."""


@contextmanager
def needed(who: str, library: str, extra: str) -> Iterator[None]:
    """Around imports: where they fail, the error says who needs the library and which extra brings it."""
    try:
        yield
    except ImportError as error:
        raise MissingError(
            f"{who} needs {library}, which is not installed; pip install 'bilateral_ops[{extra}]'."
        ) from error
