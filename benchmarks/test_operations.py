"""Every operation, forward and backward, beside its peers: `nox -s bench`.

One group an operation × direction × size; in it the package, the Numba loops one would write without it, the NumPy
specification (at the small size only: it is not written for speed), and the streaming bound: NumPy copying as many
bytes as the operation reads and writes. Each benchmark asserts its answer before it is timed.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
import pytest

import bilateral_ops
from bilateral_ops._samples import arguments
from bilateral_ops.ops import OPERATIONS

SIZES = {"64x64": (64, 64), "1080x1920": (1080, 1920)}
GRID = {"Gh": 16, "Gw": 16, "Gd": 8, "K": 16, "F": 16}
CALLS = [
    pytest.param(name, backward, size, id=f"{name}{'_vjp' if backward else ''}-{size}")
    for name, operation in OPERATIONS.items()
    for backward in (False, True)
    for size in SIZES
    if not backward or operation.vjp is not None
]


def call(package: Any, name: str, backward: bool, size: str) -> Any:
    """The call to be timed, without its arguments' making."""
    H, W = SIZES[size]
    if name == "enhance":
        given = arguments("slice_apply", H=H, W=W, image_kind=np.uint8, **GRID)
        curves = arguments("guide_curves", H=1, W=1, image_kind=np.float32, **GRID)
        del given["guide"], curves["image"]
        return lambda: package.enhance(guide=bilateral_ops.CurvesGuide(**curves), **given)
    given = arguments(name, H=H, W=W, image_kind=np.float32, **GRID)
    if not backward:
        return lambda: getattr(package, name)(**given)
    grad = np.ones_like(getattr(bilateral_ops, name)(**given))
    given.pop("grid_shape", None)
    return lambda: getattr(package, f"{name}_vjp")(**given, grad=grad)


def arrays(result: Any) -> list[Any]:
    return [a for a in (result if isinstance(result, tuple) else (result,)) if a is not None]


@cache
def expected(name: str, backward: bool, size: str) -> list[Any]:
    return arrays(call(bilateral_ops, name, backward, size)())


def moved(name: str, backward: bool, size: str) -> int:
    """Bytes that the call reads and writes."""
    given: dict[str, Any]
    if name == "enhance":
        given = arguments("slice_apply", H=SIZES[size][0], W=SIZES[size][1], image_kind=np.uint8, **GRID)
        del given["guide"]
    else:
        given = arguments(name, H=SIZES[size][0], W=SIZES[size][1], image_kind=np.float32, **GRID)
    read = sum(a.nbytes for a in given.values() if isinstance(a, np.ndarray))
    if backward:
        read += call(bilateral_ops, name, False, size)().nbytes
    return read + sum(a.nbytes for a in expected(name, backward, size))


def record(benchmark: Any, machine: dict[str, Any], name: str, backward: bool, size: str, peer: str) -> None:
    benchmark.group = f"{name}{'_vjp' if backward else ''} {size}"
    benchmark.extra_info.update(machine, peer=peer, bytes=moved(name, backward, size))


@pytest.mark.parametrize(("name", "backward", "size"), CALLS)
@pytest.mark.parametrize("peer", ["bilateral_ops", "numba", "numpy"])
def test_operation(benchmark: Any, machine: dict[str, Any], name: str, backward: bool, size: str, peer: str) -> None:
    if peer == "numpy" and size != "64x64":
        pytest.skip("the specification is not written for speed")
    package = bilateral_ops if peer == "bilateral_ops" else importlib.import_module(f"bilateral_ops.reference.{peer}")
    if peer == "numba":
        importlib.import_module("numba").set_num_threads(bilateral_ops.get_num_threads())
    function = call(package, name, backward, size)
    for got, want in zip(arrays(function()), expected(name, backward, size), strict=True):
        if got.dtype.kind == "u":
            assert np.abs(got.astype(int) - want).max() <= 1
        else:
            assert np.linalg.norm(got - want) <= 1e-3 * np.linalg.norm(want)
    record(benchmark, machine, name, backward, size, peer)
    benchmark(function)


@pytest.mark.parametrize(("name", "backward", "size"), CALLS)
def test_streaming_bound(benchmark: Any, machine: dict[str, Any], name: str, backward: bool, size: str) -> None:
    record(benchmark, machine, name, backward, size, "copy of as many bytes, one thread")
    source = np.ones(moved(name, backward, size) // 2, np.uint8)
    target = np.empty_like(source)
    benchmark(np.copyto, target, source)
    assert target[-1] == 1
