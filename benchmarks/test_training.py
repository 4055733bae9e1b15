"""In PyTorch: a training step's time and peak memory beside those with grid_sample; what a tiny call costs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cases import python
from suite import SIZES, TINY, assert_close
from test_memory import READABLE

import bilateral_ops
from bilateral_ops.bench import _suite as _bench

pytest.importorskip("torch", reason="PyTorch is not installed")
training = pytest.importorskip("peers.training")

FOLDER = str(Path(__file__).parent)
WAYS = ("bilateral_ops", "torch")
#: The steps, and the modules of ``peers`` whose ``training_step(way, height, width, threads)`` it is.
STEPS = {"training step": "training", "lib_bilagrid step": "lib_bilagrid"}
SIZE = "1920x1080"
#: Calls that are timed together, as one is over too soon.
CALLS = 200

#: Runs in a fresh process, which a small step has warmed: whatever the large one adds to its peak is the step's own.
_MEASURE = """
import sys
sys.path.insert(0, {folder!r})
import bilateral_ops
from peers.{module} import training_step

def status(field):
    text = open("/proc/self/status").read()
    return int(text.split(field + ":")[1].split()[0]) << 10

way, size, threads = {given}
bilateral_ops.set_num_threads(threads)
training_step(way, 64, 96, threads)()
step = training_step(way, *size, threads)
open("/proc/self/clear_refs", "w").write("5")  # the peak from now on
before = status("VmRSS")
step()
print(status("VmHWM") - before)
"""


def size_of(benchmark: Any) -> tuple[int, int]:
    return next(iter(TINY.values())) if benchmark.disabled else SIZES[SIZE]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", STEPS)
def test_training_step(benchmark: Any, timed: Callable[..., None], call: str, way: str) -> None:
    size, threads = size_of(benchmark), bilateral_ops.get_num_threads()
    training_step = import_module(f"peers.{STEPS[call]}").training_step
    package, step = (training_step(each, *size, threads) for each in ("bilateral_ops", way))
    assert_close(_bench.results(step()), _bench.results(package()), 1e-4)
    benchmark.group = f"{call} in PyTorch {SIZE}"
    beside = {} if way == "bilateral_ops" else {"bilateral_ops": package}
    timed(step, beside, call=call, size=SIZE, way=way, scan="training")


@READABLE
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", STEPS)
def test_training_steps_peak_memory(benchmark: Any, call: str, way: str) -> None:
    given = way, size_of(benchmark), bilateral_ops.get_num_threads()

    def added() -> int:
        # Large blocks are given back when they are freed, as they are where the C library is not GNU's.
        finished = python(
            _MEASURE.format(folder=FOLDER, module=STEPS[call], given=given), timeout=300, MALLOC_MMAP_THRESHOLD_="65536"
        )
        assert finished.returncode == 0, finished.stderr
        return int(finished.stdout)

    benchmark.group = "peak memory (the time is the child process's)"
    taken = benchmark.pedantic(added)
    benchmark.extra_info.update(call=call, size=SIZE, way=way, added=taken, scan="training memory")


def repeated(function: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            function()

    return run


def test_a_tiny_calls_overhead(benchmark: Any, timed: Callable[..., None]) -> None:
    call, beside = training.tiny_call()
    assert_close(_bench.results(call()), _bench.results(beside["numpy"]()), 1e-6)

    benchmark.group = f"{CALLS} calls of 16x16 pixels in PyTorch"
    timed(
        repeated(call),
        {name: repeated(function) for name, function in beside.items()},
        call="slice_apply",
        size="16x16",
        calls=CALLS,
        scan="overhead in PyTorch",
    )


@pytest.mark.parametrize("what", training.TINY)
def test_a_tiny_steps_overhead(benchmark: Any, timed: Callable[..., None], what: str, settings: None) -> None:
    """The package's share of the host's time with grid_sample: at most 0.25 for a result, 0.6 with all gradients."""
    bilateral_ops.set_num_threads(1)
    package, plain = (training.tiny_step(way, what) for way in WAYS)
    assert_close(_bench.results(package()), _bench.results(plain()), 1e-4)
    benchmark.group = f"{CALLS} eager calls of 4x4 pixels in PyTorch: {what}"
    timed(repeated(package), {"torch": repeated(plain)}, call="slice_apply", size="4x4", scan=f"eager {what}")
    if not benchmark.disabled:
        print(f"\n{what}: {benchmark.extra_info['beside']['torch']['ratio']:.2f} of the time with grid_sample")
