"""Are the results the same bits with any number of threads, from any thread, and in a forked process?"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    ALL_F64,
    F16,
    F32,
    FREE_THREADED,
    OPERATIONS,
    SAMPLED,
    SANITIZED,
    SUBJECTS,
    U8,
    Dtypes,
    arguments,
    assert_same_bits,
    backward,
    forward,
    operation,
    python,
    random_like,
)

import bilateral_ops

pytestmark = pytest.mark.usefixtures("threads")

#: Large enough for every kernel to be cut into many pieces, each sum too.
SIZES: dict[str, dict[str, Any]] = {
    "image": {"N": 2, "H": 137, "W": 241, "Gh": 8, "Gw": 9, "Gd": 8},
    "xy": {"N": 2, "H": 121, "W": 163, "Gh": 8, "Gw": 9, "Gd": 8, "xy": True},
    "large grid": {"H": 97, "W": 129, "Gh": 40, "Gw": 40, "Gd": 17},
    "long row": {"H": 1, "W": 20_001, "Gw": 16},
}


def drawn(subject: str, dtypes: Dtypes = ALL_F32, **options: Any) -> tuple[dict[str, Any], Any]:
    """Random arguments, and a gradient of the result where there is a VJP."""
    given = arguments(subject, dtypes, **options)
    if not OPERATIONS[operation(subject)].vjp:
        return given, None
    result = forward(bilateral_ops, subject, given)
    return given, random_like(result.shape, F32 if dtypes.image == U8 else result.dtype)


def results_of(subject: str, given: dict[str, Any], grad: Any) -> dict[str, Any]:
    """The result and every gradient of a call."""
    found = {"result": forward(bilateral_ops, subject, given)}
    return found if grad is None else found | backward(bilateral_ops, subject, given, grad)._asdict()


def everything(subject: str, dtypes: Dtypes = ALL_F32, **options: Any) -> dict[str, Any]:
    """The result and every gradient of a call on random arguments."""
    return results_of(subject, *drawn(subject, dtypes, **options))


@pytest.mark.parametrize(
    ("subject", "size"), [(s, size) for s in SUBJECTS for size in SIZES if size != "xy" or s in SAMPLED]
)
def test_the_number_of_threads_changes_no_bit(subject: str, size: str, isa: str) -> None:
    takes_bytes = subject not in ("slice", "splat", "total_variation")
    for dtypes in (ALL_F32, ALL_F64, Dtypes(U8, F32, F32) if takes_bytes else Dtypes(F16, F16, F16)):
        given, grad = drawn(subject, dtypes, **SIZES[size])
        bilateral_ops.set_num_threads(1)
        want = results_of(subject, given, grad)
        for count in (2, 7):
            bilateral_ops.set_num_threads(count)
            assert bilateral_ops.get_num_threads() == count
            got = results_of(subject, given, grad)
            for name, value in want.items():
                assert_same_bits(got[name], value, f"{dtypes}, {count} threads: {name}")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40), (40, 1)], ids=str)
def test_bands_of_rows_are_added_in_order(size: tuple[int, int], isa: str) -> None:
    """An image of few and large areas is cut into bands of rows, which threads share."""
    image = random_like((900, 700, 3), F32)
    bilateral_ops.set_num_threads(1)
    want = bilateral_ops.resize_area(image, size)
    for count in (2, 7):
        bilateral_ops.set_num_threads(count)
        assert_same_bits(bilateral_ops.resize_area(image, size), want, f"{count} threads")


_COUNT_THREADS = """
import os
import bilateral_ops
from test_threads import *
bilateral_ops.set_num_threads(4)
for subject in SUBJECTS:
    child = os.fork()
    if child == 0:
        everything(subject, **SIZES["image"])
        print(subject, len(os.listdir("/proc/self/task")), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif("not __import__('os').path.exists('/proc/self/task')", reason="threads are counted in /proc")
def test_the_sizes_tried_here_do_use_the_threads() -> None:
    finished = python(_COUNT_THREADS)
    assert finished.stdout.splitlines() == [f"{subject} 4" for subject in SUBJECTS], finished.stdout + finished.stderr


def test_callers_at_once_do_not_disturb_each_other() -> None:
    jobs = [(subject, seed) for seed in range(6) for subject in SUBJECTS]

    def run(job: tuple[str, int]) -> dict[str, Any]:
        return everything(job[0], N=1, H=40, W=75, Gd=8, seed=job[1])

    bilateral_ops.set_num_threads(3)
    want = [run(job) for job in jobs]
    start = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=start.wait) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        for count in (1, 5, 2, 7, 3) * 4:  # and while they run the number of threads changes
            bilateral_ops.set_num_threads(count)
            time.sleep(0.002)
        for job, future, results in zip(jobs, futures, want, strict=True):
            for name, value in future.result(timeout=60).items():
                assert_same_bits(value, results[name], f"{job} {name}")


def test_a_result_is_whole_when_the_call_returns() -> None:
    """Even where a helper is interrupted in the middle of its part, as most are among so many."""
    bilateral_ops.set_num_threads(8)
    given = arguments("guide_curves", ALL_F64, H=256, W=256, K=16)
    want = forward(bilateral_ops, "guide_curves", given)
    out = np.empty_like(want)
    for _ in range(60):
        out.fill(np.nan)
        forward(bilateral_ops, "guide_curves", given, out=out)
        assert_same_bits(out[::-1], want[::-1])  # the last rows first: they are begun last


def test_other_threads_run_while_a_kernel_does() -> None:
    bilateral_ops.set_num_threads(1)
    given = arguments("slice_apply", ALL_F32, H=700, W=1000, Gd=8)
    grad = random_like(given["image"].shape, F32)
    calls = {
        "forward": lambda: forward(bilateral_ops, "slice_apply", given),
        "backward": lambda: backward(bilateral_ops, "slice_apply", given, grad),
    }
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0)

    other = threading.Thread(target=tick)
    other.start()
    try:
        for name, call in calls.items():
            inside, until = 0, time.monotonic() + 30  # a busy machine may starve a thread for a while
            while inside <= 10 and time.monotonic() < until:
                ticks.clear()
                start = time.perf_counter()
                call()
                length = time.perf_counter() - start
                inside = sum(start + 0.1 * length < t < start + 0.9 * length for t in list(ticks))
            assert inside > 10, f"{name}: another thread stood still for {length:.3f} s"
    finally:
        done.set()
        other.join()


# ---------------------------------------------------------------------------------------------------------------------
# Other processes
# ---------------------------------------------------------------------------------------------------------------------


def test_an_interpreter_exits_while_daemons_compute() -> None:
    # Up to Python 3.13 it ends their threads where they ask for the GIL.
    code = """
import threading
import numpy as np
import bilateral_ops
started = threading.Semaphore(0)
def busy():
    while True:
        bilateral_ops.guide_luma(np.ones((500, 1000, 3), np.float32))
        started.release()
for _ in range(3): threading.Thread(target=busy, daemon=True).start()
for _ in range(6): started.acquire()
"""
    finished = python(code)
    assert finished.returncode == 0, finished.stderr


_FORKING = """
import os, signal, sys, threading
import numpy as np
import bilateral_ops
from cases import *

def everything():
    results = []
    for subject in SUBJECTS:
        given = arguments(subject, ALL_F32, N=1, H=97, W=161, Gd=8)
        results.append(forward(bilateral_ops, subject, given))
        if subject in DIFFERENTIABLE:
            results += backward(bilateral_ops, subject, given, random_like(results[-1].shape, F32))
    return b"".join(np.ascontiguousarray(r).tobytes() for r in results if r is not None)

bilateral_ops.set_num_threads(4)
want = everything()

def count_threads():
    "How many this process has; 4 where nobody tells."
    return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 4

def child_computes(depth=1):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs dies of it
        good = everything() == want and everything() == want and count_threads() == 4
        good = good and (depth == 0 or child_computes(depth - 1))
        os._exit(0 if good else 1)
    good = os.waitpid(child, 0)[1] == 0
    return good and everything() == want
"""


@pytest.mark.skipif("not hasattr(__import__('os'), 'fork')", reason="no fork on this platform")
class TestForked:
    def run(self, code: str) -> None:
        finished = python(_FORKING + code, PYTHONWARNINGS="ignore::DeprecationWarning")
        assert finished.returncode == 0, finished.stdout + finished.stderr

    def test_a_child_and_its_child_compute_the_same_bits(self) -> None:
        self.run("assert child_computes()")

    @pytest.mark.skipif(
        SANITIZED, reason="g++ 12's AddressSanitizer forks while its allocator is locked: the child hangs"
    )
    @pytest.mark.skipif(
        FREE_THREADED, reason="without a GIL a child may find dicts locked by threads that it does not have"
    )
    def test_children_forked_while_other_threads_compute(self) -> None:
        self.run(
            """
stop = threading.Event()
def busy():
    while not stop.is_set():
        everything()
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads: thread.start()
good = all([child_computes(0) for _ in range(5)])
stop.set()
for thread in threads: thread.join()
assert good
"""
        )

    def test_a_multiprocessing_pool(self) -> None:
        self.run(
            """
import multiprocessing
with multiprocessing.get_context("fork").Pool(3) as pool:
    results = [pool.apply_async(everything) for _ in range(6)]
    assert all(result.get(timeout=20) == want for result in results)
assert everything() == want
"""
        )

    def test_a_thread_that_a_child_starts(self) -> None:
        self.run(
            """
child = os.fork()
if child == 0:
    signal.alarm(20)
    results = []
    threads = [threading.Thread(target=lambda: results.append(everything())) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    os._exit(0 if results == [want] * 3 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
        )


# ---------------------------------------------------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------------------------------------------------

_COUNT = "import bilateral_ops, os; print(bilateral_ops.get_num_threads(), len(os.sched_getaffinity(0)))"
_ISA = "import bilateral_ops; bilateral_ops.show_config()"


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"BILATERAL_OPS_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "5"}, "5"),
        ({"OMP_NUM_THREADS": "5,2"}, "5"),
        ({"BILATERAL_OPS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3"),
        ({"BILATERAL_OPS_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, "5"),
        ({"OMP_NUM_THREADS": "many"}, None),
        ({"OMP_NUM_THREADS": "9" * 5000}, None),
        ({}, None),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.skipif("not hasattr(__import__('os'), 'sched_getaffinity')", reason="Linux")
def test_the_environment_says_how_many_threads(environment: dict[str, str], count: str | None) -> None:
    got, usable = python(_COUNT, **environment).stdout.split()
    assert got == (count or usable)


@pytest.mark.skipif("not hasattr(__import__('os'), 'sched_getaffinity')", reason="Linux")
def test_by_default_there_are_as_many_threads_as_usable_cpus() -> None:
    one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); " + _COUNT
    assert python(one).stdout.split() == ["1", "1"]


@pytest.mark.parametrize("name", bilateral_ops.available_isas())
def test_the_environment_says_which_instruction_set(name: str) -> None:
    line = next(row for row in python(_ISA, BILATERAL_OPS_ISA=name).stdout.splitlines() if row.startswith("ISA"))
    assert line.split()[1] == name


@pytest.mark.parametrize(
    ("variable", "value"),
    [("BILATERAL_OPS_NUM_THREADS", v) for v in ("0", "-3", "two", "1.5", "9" * 5000)] + [("BILATERAL_OPS_ISA", "z80")],
    ids=lambda value: value[:30],
)
def test_nonsense_in_the_environment_is_refused_in_one_sentence(variable: str, value: str) -> None:
    finished = python(_COUNT, **{variable: value})
    assert finished.returncode == 1
    error = finished.stderr.strip().splitlines()[-1]
    assert error.startswith(f"ValueError: bilateral_ops: {variable} must be ")
    assert error.endswith(f"got '{value}'.")


def test_wrong_settings() -> None:
    for n in (0, -1, 1025, 20_000, 10**30):
        with pytest.raises(ValueError, match=rf"^set_num_threads: n must be .*, got {n}\.$"):
            bilateral_ops.set_num_threads(n)
    for n in (1.5, "2", None):
        with pytest.raises(TypeError, match=rf"^set_num_threads: n must be an integer, got {type(n).__name__}\.$"):
            bilateral_ops.set_num_threads(n)
    with pytest.raises(ValueError, match=r"^set_isa: name must be .*scalar on this machine, got 'z80'\.$"):
        bilateral_ops.set_isa("z80")
    with pytest.raises(TypeError, match=r"^set_isa: name must be a string, got int\.$"):
        bilateral_ops.set_isa(7)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_threads_that_are_not_wanted_any_more_end() -> None:
    """Also those that were started when another thread's calls could use more."""
    finished = python(
        """
import os, time, numpy as np, bilateral_ops
def threads(): return len(os.listdir("/proc/self/task"))
def waited(want):
    end = time.monotonic() + 20
    while threads() > want and time.monotonic() < end: time.sleep(0.01)
    return threads()
image, out = np.zeros((600, 600, 3), np.float32), np.zeros((600, 600), np.float32)
before = threads()
for count in (40, 3, 20, 1, 2):
    bilateral_ops.set_num_threads(count)
    bilateral_ops.guide_luma(image, out=out)
    print(waited(before + count - 1) - before)
"""
    )
    assert finished.stdout.split() == ["39", "2", "19", "0", "1"], finished.stderr


def test_numpy_integers_are_integers() -> None:
    bilateral_ops.set_num_threads(np.int32(2))
    assert bilateral_ops.get_num_threads() == 2
