"""Times benchmarks beside the package and the streaming bound, and records the machine."""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from suite import PEERS, elapsed

import bilateral_ops
from bilateral_ops import _cpu as _core
from bilateral_ops.bench import _suite as _bench

#: Seconds for the rounds of one benchmark, unless the least number of rounds takes longer
SECONDS = 0.6


def pytest_configure(config: pytest.Config) -> None:
    _bench.use_threads(bilateral_ops.get_num_threads())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or bilateral_ops.__version__


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("numpy", *PEERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Records the machine and the build, once."""
    machine_info.clear()  # without the host's name
    machine_info.update(
        cpu=_processor(),
        threads=bilateral_ops.get_num_threads(),
        isa=_core.isa(),
        system=f"{platform.system()} {platform.machine()}",
        compiler=_core.compiler,
        commit=_commit(),
        versions=_versions(),
    )


@pytest.fixture
def timed(benchmark: Any) -> Callable[..., None]:
    """Times a function, in each round after those beside it; records the medians of the times and of the ratios."""

    def run(
        function: Callable[[], Any],
        beside: Mapping[str, Callable[[], Any]],
        seconds: float = SECONDS,
        least: int = 3,
        **extra: Any,
    ) -> None:
        times: dict[str, list[float]] = {name: [] for name in beside}

        def setup() -> None:
            for name, other in beside.items():
                times[name].append(elapsed(other))

        benchmark.extra_info.update(extra, isa=_core.isa(), threads=bilateral_ops.get_num_threads())
        if benchmark.disabled:
            benchmark.pedantic(function, setup=setup)
            return
        for other in beside.values():  # the function itself has run, to be checked
            other()
        once = sum(elapsed(f) for f in (*beside.values(), function))
        rounds = max(least, min(40, int(seconds / max(once, 1e-6))))
        benchmark.pedantic(function, setup=setup, rounds=rounds)
        own = benchmark.stats.stats.data
        benchmark.extra_info["beside"] = {
            name: {"seconds": statistics.median(others), "ratio": statistics.median(t / o for t, o in zip(own, others))}
            for name, others in times.items()
        }

    return run


@pytest.fixture
def settings() -> Iterator[None]:
    """Threads and instruction set are put back."""
    threads, isa = bilateral_ops.get_num_threads(), _core.isa()
    yield
    bilateral_ops.set_isa(isa)
    _bench.use_threads(threads)
