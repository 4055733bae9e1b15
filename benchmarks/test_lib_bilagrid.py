"""A training step of radiance-field bilateral grids, forward and backward, beside ``grid_sample``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from suite import SIZES, TINY, assert_close

import bilateral_ops
from bilateral_ops import _bench

#: Numbers a pixel that grid_sample's way keeps, with those that its backward pass makes.
_NUMBERS = 100


def test_lib_bilagrid_step(benchmark: Any, timed: Callable[..., None]) -> None:
    if reason := _bench.missing("torch"):
        pytest.skip(reason)
    from bilateral_ops._bench import lib_bilagrid

    size, (height, width) = next(iter((TINY if benchmark.disabled else SIZES).items()))
    if 4 * _NUMBERS * height * width > _bench.available_memory():
        pytest.skip("needs about a gigabyte of memory")
    steps = lib_bilagrid.steps(height, width, bilateral_ops.get_num_threads())
    assert_close(steps["bilateral_ops"](), steps["torch"](), 1e-4)
    benchmark.group = f"lib_bilagrid's training step {size}"
    beside = {"torch": steps["torch"]}
    timed(steps["bilateral_ops"], beside, call="lib_bilagrid step", size=size, pixels=height * width, scan="step")
