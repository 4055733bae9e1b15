"""Timing side by side: problems, peers and the streaming bound, of ``bilateral-ops bench`` and ``benchmarks/``.

Times are compared as by :func:`bilateral_ops.bench.compare`. Results go into arrays made before, where the function
takes ``out``; that spares the package and the Numba loops the operating system's work of handing out fresh pages, which
the streaming bound does without, too. A call can be faster than the bound only where its arrays fit in a cache.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

import numpy as np

import bilateral_ops

from .._core.missing import missing
from .._samples import arguments
from ..ops import OPERATIONS

#: 16 × 16 × 8 cells of 3 × 4 matrices; curves of 16 knots, networks of 16 features; images reduced to 256 × 256.
GRID: dict[str, Any] = {"Gh": 16, "Gw": 16, "Gd": 8, "Co": 3, "Ci": 3, "K": 16, "F": 16, "size": (256, 256)}
#: Every operation in both directions: (name, backward).
CALLS = tuple((name, back) for name, op in OPERATIONS.items() for back in (False, True) if not back or op.vjp)

_PIXELWISE = ("image", "guide", "coefficients", "values")
_LINEAR = ("guide_luma", "resize_area")  # in the image, which their gradients don't depend on
_ROWS = 64  # of noise, repeated down the image


@dataclass(frozen=True)
class Problem:
    """One call to be timed: an operation's arguments by name (the incoming gradient among them)."""

    name: str
    backward: bool
    height: int
    width: int
    arguments: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}_vjp" if self.backward else self.name

    def call(self, module: Any, out: Any = None) -> Callable[[], Any]:
        """The call, of the package or of a reference."""
        function = getattr(module, str(self))
        given = self.arguments if out is None else {**self.arguments, "out": out}
        return lambda: function(**given)

    @property
    def arrays(self) -> dict[str, Any]:
        """The arguments with the fields of a guide record, the curves', in its place."""
        values = dict(self.arguments)
        if self.name == "enhance":
            values |= vars(values.pop("guide"))
        return values

    @cached_property
    def expected(self) -> list[Any]:
        """The package's results."""
        return results(self.call(bilateral_ops)())

    def out(self) -> Any:
        """Arrays for the results, as ``out`` takes them; None where it is not taken."""
        if self.backward:
            fields = [f for f in OPERATIONS[self.name].arguments if isinstance(self.arguments.get(f), np.ndarray)]
            return {name: np.zeros_like(array) for name, array in zip(fields, self.expected)}
        takes = inspect.signature(getattr(bilateral_ops, self.name)).parameters
        return np.zeros_like(self.expected[0]) if "out" in takes else None

    @property
    def read(self) -> int:
        """Bytes that the call must read."""
        unread = ("image",) if self.backward and self.name in _LINEAR else ()
        read = {name: array for name, array in self.arguments.items() if name not in unread}
        return sum(array.nbytes for array in read.values() if isinstance(array, np.ndarray))

    @property
    def written(self) -> int:
        """Bytes that the call must write."""
        return sum(array.nbytes for array in self.expected)


def problem(name: str, backward: bool, height: int, width: int) -> Problem:
    """An operation's arguments for a photograph of this size, float32, interleaved; uint8 for ``enhance``.

    Light and dark change slowly over the image with some noise on top, as in photographs: a guide of pure noise would
    make the peers that fetch from the grid miss their caches more often than they do in use.
    """
    enhancing = name == "enhance"
    drawn = "slice_apply" if enhancing else name
    dtype = np.uint8 if enhancing else np.float32
    given = arguments(drawn, H=_ROWS, W=width, image_dtype=dtype, guide_range=(0, 1), **GRID)
    if name.startswith("guide_curves") or enhancing:
        curves = _curves()
        given.update({"guide": bilateral_ops.CurvesGuide(**curves)} if enhancing else curves)
    for argument, array in given.items():
        if argument in _PIXELWISE and isinstance(array, np.ndarray):
            given[argument] = (_lit if argument in ("image", "guide") else _repeat)(array, height)
    if backward:
        shape = getattr(bilateral_ops, name)(**given).shape
        if (signature := OPERATIONS[name].signature) and signature.sizes:  # which the gradient's shape says
            del given[signature.sizes.name]
        given["grad"] = _repeat(
            np.random.default_rng(1).standard_normal((min(shape[0], _ROWS), *shape[1:]), np.float32), shape[0]
        )
    return Problem(name, backward, height, width, given)


def _curves() -> dict[str, Any]:
    """A learnt guide as it comes out of training: nearly the luma, every knot in use."""
    rng = np.random.default_rng(2)
    given = arguments("guide_curves", H=1, W=1, image_dtype=np.float32, **GRID)
    del given["image"]
    channels, knots = given["shifts"].shape
    given["shifts"] = np.tile(np.arange(knots, dtype=np.float32) / knots, (channels, 1))
    given["slopes"] = (0.1 * rng.standard_normal((channels, knots))).astype(np.float32)
    given["slopes"][:, 0] = 1
    given["mix"] = np.array([0.299, 0.587, 0.114], np.float32)
    given["mix_bias"] = np.asarray(0, np.float32)
    return given


def _repeat(block: Any, height: int) -> Any:
    """A block of rows, repeated to this height."""
    made = np.empty((height, *block.shape[1:]), block.dtype)
    for y in range(0, height, len(block)):
        made[y : y + len(block)] = block[: height - y]
    return made


def _lit(block: Any, height: int) -> Any:
    """A tenth of the block of rows, repeated, on top of slow waves of light."""
    made = _repeat(block, height)
    top = np.iinfo(block.dtype).max if block.dtype.kind == "u" else 1
    x = np.linspace(0, 6, block.shape[1], dtype=np.float32).reshape(-1, *[1] * (block.ndim - 2))
    for y, row in enumerate(made):
        row[...] = top * (0.45 + 0.4 * np.sin(x + np.float32(10 * y / height))) + 0.1 * row
    return made


def results(returned: Any) -> list[Any]:
    """The arrays in what a function returned, those that are None left out."""
    parts = returned if isinstance(returned, (tuple, list)) else (returned,)
    return [np.asarray(part) for part in parts if part is not None]


# --- functions to be timed


def functions(given: Problem, names: tuple[str, ...], out: bool = True) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Those of the peers named that are installed and have this call, ready to be timed."""
    for name in names:
        if not missing(name, name) and (function := peer(name, given, out)):
            yield name, function


def package(given: Problem) -> Callable[[], Any]:
    """The package's own call."""
    return given.call(bilateral_ops, given.out())


def peer(name: str, given: Problem, out: bool = True) -> Callable[[], Any] | None:
    """A peer's call, its arguments converted and its threads as many as the package's; None where it has none.

    ``out``: results go into arrays made before, where the peer can do that.
    """
    if name in ("numpy", "numba"):
        module = import_module(f"bilateral_ops.reference.{name}")
        return given.call(module, given.out() if out and name == "numba" else None)
    from . import _torch

    return _torch.prepare(given, bilateral_ops.get_num_threads())


def use_threads(count: int) -> None:
    """Let the package and every peer use this many threads.

    Halide and XLA read theirs once, from the environment, when they start: for them the first call counts. Idle OpenMP
    threads are told to sleep: while they wait for work in a loop, as they do otherwise, they keep a processor from
    whatever is timed next.
    """
    bilateral_ops.set_num_threads(count)
    for name, value in {"HL_NUM_THREADS": count, "NPROC": count, "OMP_WAIT_POLICY": "PASSIVE"}.items():
        os.environ.setdefault(name, str(value))
    if not missing("numba", "numba"):
        numba = import_module("numba")
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)


# --- the streaming bound

_CHUNK = 1 << 20  # bytes; from here on the loop is as fast as it gets, and as fast as memcpy


def streaming(read: int, written: int) -> Callable[[], Any]:
    """A function that reads and writes this many bytes on as many threads as the package uses: the streaming bound.

    It is a loop compiled by Numba, or NumPy copying in threads where Numba is missing.
    """
    source, target = np.ones(max(1, read // 8), np.int64), np.zeros(max(1, written // 8), np.int64)
    chunks = max(bilateral_ops.get_num_threads(), (source.nbytes + target.nbytes) // _CHUNK)
    if not missing("numba", "numba"):
        loop = _compiled_loop()
        return lambda: loop(source, target, chunks)
    return copies(source, target)


@cache
def _compiled_loop() -> Any:
    from numba import njit, prange

    @njit(parallel=True)  # type: ignore[untyped-decorator]
    def loop(source: Any, target: Any, chunks: int) -> None:
        for c in prange(chunks):
            a = source[source.size * c // chunks : source.size * (c + 1) // chunks]
            b = target[target.size * c // chunks : target.size * (c + 1) // chunks]
            both = min(a.size, b.size)
            unread, unwritten = a[both:], b[both:]  # a loop from `both` on would not be compiled to vectors
            seen = 0
            for i in range(unread.size):
                seen ^= unread[i]
            for i in range(both):
                b[i] = a[i] ^ seen
            for i in range(unwritten.size):
                unwritten[i] = seen

    return loop


def copies(source: Any, target: Any) -> Callable[[], Any]:
    """The same bytes in NumPy, one large part a thread."""
    threads = bilateral_ops.get_num_threads()
    pool = ThreadPoolExecutor(threads)

    def part(t: int) -> None:
        a = source[source.size * t // threads : source.size * (t + 1) // threads]
        b = target[target.size * t // threads : target.size * (t + 1) // threads]
        both = min(a.size, b.size)
        np.copyto(b[:both], a[:both])
        b[both:] = 1
        if a.size > both:
            np.bitwise_xor.reduce(a[both:])

    return lambda: list(pool.map(part, range(threads)))


def available_memory() -> int:
    """Bytes that a process can take now; a lot where that is not known."""
    try:
        # Pages that hold what files hold are not free, but can be.
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62
