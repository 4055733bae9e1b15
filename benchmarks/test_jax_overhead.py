"""In JAX: what a compiled call of a tiny image costs, and what of it is JAX's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from suite import assert_close

import bilateral_ops
from bilateral_ops.bench import _suite as _bench

jax = pytest.importorskip("jax", reason="JAX is not installed")

CALLS = 1000


def test_a_tiny_calls_overhead(benchmark: Any, timed: Callable[..., None]) -> None:
    """Beside a compiled sum, which is JAX's own part, the same call outside `jit`, and with NumPy's arrays."""
    arrays = tuple(_bench.problem("slice_apply", False, 16, 16).arguments.values())
    sent = tuple(map(jax.numpy.asarray, arrays))
    compiled, added = jax.jit(bilateral_ops.slice_apply), jax.jit(lambda grid, guide, image: image + 1)
    assert_close([np.asarray(compiled(*sent))], [bilateral_ops.slice_apply(*arrays)], 1e-6)

    def repeated(function: Callable[..., Any], given: tuple[Any, ...]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(1 if benchmark.disabled else CALLS):
                jax.block_until_ready(function(*given))

        return run

    benchmark.group = f"{CALLS} calls of 16x16 pixels in JAX"
    beside = {
        "jax": repeated(added, sent),
        "not compiled": repeated(bilateral_ops.slice_apply, sent),
        "numpy": repeated(bilateral_ops.slice_apply, arrays),
    }
    timed(repeated(compiled, sent), beside, call="slice_apply", size="16x16", calls=CALLS, scan="overhead in JAX")
