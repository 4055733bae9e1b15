"""Files that are there whole or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_COUNT = itertools.count()


@contextmanager
def whole(path: str | os.PathLike[str], keep: bool = True) -> Iterator[Path]:
    """A name beside this one to write to, which takes its place at the end, if that comes without an exception."""
    path = Path(path)
    partial = path.with_name(f".bilateral-ops-{os.getpid()}-{next(_COUNT)}.partial")
    try:
        yield partial
        if keep:
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
