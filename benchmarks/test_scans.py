"""How the package's time grows with pixels, and shrinks with threads and instruction sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from suite import MAIN, SIZES, TINY, require_memory

import bilateral_ops
from bilateral_ops.bench import _suite as _bench

MEGAPIXELS = (0.1, 0.3, 1, 3, 10, 30, 100)
THREADS = sorted({1, 2, bilateral_ops.get_num_threads()})


def label(call: tuple[str, bool]) -> str:
    return f"{call[0]}{'_vjp' * call[1]}"


@pytest.mark.parametrize("megapixels", MEGAPIXELS)
@pytest.mark.parametrize("call", MAIN, ids=label)
def test_pixels(benchmark: Any, timed: Callable[..., None], call: tuple[str, bool], megapixels: float) -> None:
    """Images of 4:3."""
    if benchmark.disabled:
        megapixels /= 1000
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    require_memory(*call, height, width)
    given = _bench.problem(*call, height, width)
    function = _bench.package(given)
    beside = {"streaming": _bench.streaming(given.read, given.written)}
    benchmark.group = f"{given}: pixels"
    moved = given.read + given.written
    given.__dict__.pop("expected")  # of 100 megapixels, a gigabyte
    function()
    timed(
        function, beside, call=str(given), size=f"{width}x{height}", pixels=height * width, bytes=moved, scan="pixels"
    )


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("isa", bilateral_ops.available_isas())
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("call", _bench.CALLS, ids=label)
def test_threads_and_instruction_sets(
    benchmark: Any, timed: Callable[..., None], call: tuple[str, bool], threads: int, isa: str
) -> None:
    """Beside the best instruction set and the streaming bound on as many threads."""
    size, (height, width) = next(iter((TINY if benchmark.disabled else SIZES).items()))
    _bench.use_threads(threads)
    given = _bench.problem(*call, height, width)
    function = _bench.package(given)

    def using(name: str) -> Callable[[], Any]:
        def run() -> Any:
            bilateral_ops.set_isa(name)
            return function()

        return run

    benchmark.group = f"{given}: threads and instruction sets"
    beside = {
        "streaming": _bench.streaming(given.read, given.written),
        "best": using(bilateral_ops.available_isas()[0]),
    }
    extra = {"call": str(given), "size": size, "pixels": height * width, "bytes": given.read + given.written}
    using(isa)()
    timed(using(isa), beside, **extra, scan="settings")
    assert benchmark.extra_info["threads"] == threads
    benchmark.extra_info["isa"] = isa


@pytest.mark.parametrize("size", SIZES)
def test_streaming_bound(benchmark: Any, timed: Callable[..., None], size: str) -> None:
    """The bound of slice_apply beside NumPy copying as many bytes on as many threads, half of them read."""
    height, width = next(iter(TINY.values())) if benchmark.disabled else SIZES[size]
    read, written = 16 * height * width, 12 * height * width
    benchmark.group = "streaming bound"
    half = (read + written) // 16
    beside = {"copy": _bench.copies(np.ones(half, np.int64), np.zeros(half, np.int64))}
    function = _bench.streaming(read, written)
    function()
    timed(function, beside, call="streaming", size=size, bytes=read + written, scan="bound")
