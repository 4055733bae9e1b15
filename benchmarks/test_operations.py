"""Every operation, forward and backward, beside its peers and the streaming bound: `nox -s bench`.

One group an operation × direction × size. Each benchmark asserts its answer before it is timed: the package's against
the NumPy specification on a small image, the peers' against the package's at the size that is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import pytest
import suite
from suite import PEERS, TINY, assert_close, is_timed, require_memory, sizes

from bilateral_ops.bench import _suite as _bench
from bilateral_ops.bench._suite import Problem
from bilateral_ops.reference import numpy as reference


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = [
        pytest.param(name, backward, size, peer, id=f"{name}{'_vjp' * backward}-{size}-{peer}")
        for name, backward in _bench.CALLS
        for size in sizes(metafunc.config)
        for peer in ("bilateral_ops", *PEERS)
        if is_timed((name, backward), size, peer)
    ]
    metafunc.parametrize(("name", "backward", "size", "peer"), given)


@lru_cache(maxsize=1)
def subject(name: str, backward: bool, size: tuple[int, int]) -> tuple[Problem, dict[str, Callable[[], Any]]]:
    """A problem, and what every round calls beside its peers."""
    given = _bench.problem(name, backward, *size)
    beside = {"bilateral_ops": _bench.package(given), "streaming": _bench.streaming(given.read, given.written)}
    return given, beside


@cache
def assert_the_package_meets_the_specification(name: str, backward: bool) -> None:
    small = _bench.problem(name, backward, *TINY["96x64"])
    assert_close(small.expected, _bench.results(small.call(reference)()), 2e-5)


def test_operation(
    benchmark: Any,
    timed: Callable[..., None],
    request: pytest.FixtureRequest,
    name: str,
    backward: bool,
    size: str,
    peer: str,
) -> None:
    if peer != "bilateral_ops" and (reason := suite.missing(peer)):
        pytest.skip(reason)
    height, width = sizes(request.config)[size]
    require_memory(name, backward, height, width)
    given, beside = subject(name, backward, (height, width))
    assert_the_package_meets_the_specification(name, backward)
    if peer == "bilateral_ops":
        function, beside = beside[peer], {"streaming": beside["streaming"]}
        function()
    else:
        found = suite.peer(peer, given)
        if found is None:
            pytest.skip(f"{peer}: not written for this operation")
        function = found
        assert_close(_bench.results(function()), given.expected, 1e-4)
    benchmark.group = f"{given} {size}"
    timed(
        function,
        beside,
        least=1 if peer == "numpy" else 3,  # the specification takes seconds, and its time decides nothing
        call=str(given),
        size=size,
        pixels=height * width,
        peer=peer,
        bytes=given.read + given.written,
    )
