"""HDRnet's whole pipeline beside the same model in PyTorch, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from suite import SIZES, TINY, assert_close

import bilateral_ops
from bilateral_ops.bench import _suite as _bench

pytest.importorskip("torch", reason="PyTorch is not installed")
hdrnet = pytest.importorskip("peers.hdrnet")

WAYS = ("bilateral_ops", "torch")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", ["1920x1080", "3840x2160"])
def test_hdrnet(benchmark: Any, timed: Callable[..., None], size: str, way: str) -> None:
    height, width = next(iter(TINY.values())) if benchmark.disabled else SIZES[size]
    threads = bilateral_ops.get_num_threads()
    package, function = (hdrnet.prepare(each, height, width, threads) for each in ("bilateral_ops", way))
    assert_close(_bench.results(function()), _bench.results(package()), 1e-4)
    benchmark.group = f"hdrnet {size}"
    beside = hdrnet.parts(height, width) if way == "bilateral_ops" else {"bilateral_ops": package}
    timed(function, beside, call="hdrnet", size=size, way=way, scan="hdrnet")
