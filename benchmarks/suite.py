"""Sizes and peers, what is timed with them, and what every benchmark checks first."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import bilateral_ops
from bilateral_ops._core import missing as _missing
from bilateral_ops.bench import _suite as _bench

SIZES = {"1920x1080": (1080, 1920), "3840x2160": (2160, 3840), "4000x3000": (3000, 4000)}
#: The peers, each timed if it is installed.
PEERS = ("numba", "halide", "torch", "jax", "numpy")
#: The calls with scans and targets of their own
MAIN = (("slice", False), ("slice_apply", False), ("slice_apply", True), ("enhance", False))
#: The size of a run that only checks answers
TINY = {"96x64": (64, 96)}


def sizes(config: pytest.Config, timed: dict[str, tuple[int, int]] = SIZES) -> dict[str, tuple[int, int]]:
    """The sizes of a benchmark: ``timed``, or a tiny image if nothing is timed."""
    return TINY if config.getoption("benchmark_disable") else timed


def is_timed(call: tuple[str, bool], size: str, peer: str) -> bool:
    """Everything at the first size; at larger ones what the targets need, without peers that take seconds."""
    if size == "3840x2160":
        return call == ("enhance", False) and peer in ("bilateral_ops", "numba", "torch")
    if size == "4000x3000":
        return call in MAIN and peer not in ("jax", "numpy")
    return True


def assert_close(got: list[Any], want: list[Any], tolerance: float) -> None:
    """Integers to one level, floats in the norm: a position on a knot may round to either side."""
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert a.shape == b.shape
        if b.dtype.kind == "u":
            assert np.abs(a.astype(np.int64) - b).max() <= 1
        else:
            assert np.linalg.norm((a - b).ravel()) <= tolerance * np.linalg.norm(b.ravel())


def peer(name: str, given: _bench.Problem) -> Callable[[], Any] | None:
    """A peer's call, as ``bench.peer``, which has those of the command, and of those in ``peers``."""
    if name in ("halide", "jax"):
        return import_module(f"peers.{name}").prepare(given, bilateral_ops.get_num_threads())
    return _bench.peer(name, given)


def missing(peer: str) -> str:
    """What keeps a peer from being measured, with the remedy; "": nothing."""
    return _missing.missing(peer if peer in ("jax", "torch") else "bench", peer)


def elapsed(function: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def require_memory(name: str, backward: bool, height: int, width: int) -> None:
    """Skip what would not fit in this machine's memory beside the arrays that it is compared with."""
    small = _bench.problem(name, backward, 480, 640)  # large enough for the grid not to count
    needed = 3 * (small.read + small.written) * height * width // (480 * 640)
    available = _bench.available_memory()
    if needed > available:
        pytest.skip(f"needs about {needed / 2**30:.0f} GiB of memory, {available / 2**30:.0f} GiB are free")
