"""Every operation beside Numba on one thread, with many shapes, strides and keywords: is any slower than Numba?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import cases
import numpy as np
import pytest
from suite import assert_close, missing, sizes

import bilateral_ops
from bilateral_ops.bench import _suite as _bench
from bilateral_ops.bench._suite import GRID

SIZES = {"640x480": (480, 640)}
#: Seconds for the rounds of one case: what is read is the least ratio of many.
SECONDS = 0.3
AS_IMAGE = "as image"  # a grid, or a result, as large as the image

#: What differs from HDRnet's shapes: options of tests/cases.py, and how the arrays lie in memory.
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "batch of 3": {"N": 3},
    "channels first": {"layout": "channels first"},
    "cropped": {"layout": "cropped"},
    "3 to 9": {"Co": 9},
    "4 to 3": {"Ci": 4},
    "16 to 2": {"Co": 2, "Ci": 16},
    "1 to 1": {"Co": 1, "Ci": 1},
    "no offset": {"offset": False},
    "1 channel": {"C": (1,)},
    "5 channels": {"C": (5,)},
    "64 channels": {"C": (64,)},
    "depth 1": {"Gd": 1},
    "depth 16": {"Gd": 16},
    "depth 17": {"Gd": 17},
    "depth 64": {"Gd": 64},
    "2 × 2 cells": {"Gh": 2, "Gw": 2},
    "grid as image": {"Gh": AS_IMAGE, "Gw": AS_IMAGE},
    "align_corners": {"align_corners": True},
    "window": {"window": (1000, 2000, 3000, 4000)},
    "xy": {"xy": True},
    "xy of rows and columns": {"xy": True, "raster": True},
    "guide outside": {"guide_range": (-3.0, 4.0)},
    "2 knots": {"K": 2},
    "64 knots": {"K": 64},
    "3 features": {"F": 3},
    "64 features": {"F": 64},
    "64 image channels": {"Ci": 64},
    "to half": {"size": (32, 32)},
    "to its size": {"size": AS_IMAGE},
    "enlarged": {"size": (700, 900)},
}
#: Half a gigabyte of matrices.
_HUGE = ("apply", "64 image channels")
_PIXELWISE = ("image", "guide", "coefficients", "values", "xy")


class Case(NamedTuple):
    subject: str
    backward: bool
    shape: str
    dtypes: cases.Dtypes

    def __str__(self) -> str:
        return f"{self.subject}{'_vjp' * self.backward}"


def _cases() -> list[Case]:
    found = []
    for subject in cases.SUBJECTS:
        relevant = cases.OPTIONS[subject] | ({"layout"} if "H" in cases.OPTIONS[subject] else set())
        for backward in (False, True) if subject in cases.DIFFERENTIABLE else (False,):
            found += [
                Case(subject, backward, shape, dtypes)
                for shape, options in SHAPES.items()
                for dtypes in (cases.ALL_F32, cases.ALL_F64)
                if options.keys() <= relevant and (subject, shape) != _HUGE
            ]
    return found


def _laid_out(array: Any, layout: str | None) -> Any:
    return array if layout is None or array.ndim < 3 else cases.laid_out(array, layout)


@lru_cache(maxsize=1)
def _calls(case: Case, size: tuple[int, int]) -> dict[str, Callable[..., Any]]:
    """The call with `out`, of the package and of Numba."""
    from bilateral_ops.reference import numba

    options: dict[str, Any] = {**GRID, "guide_range": (0.0, 1.0), "H": size[0], "W": size[1], **SHAPES[case.shape]}
    for name, whole in {"Gh": size[0], "Gw": size[1], "size": size}.items():
        if options[name] == AS_IMAGE:
            options[name] = whole
    layout = options.pop("layout", None)
    options = {name: value for name, value in options.items() if name in cases.OPTIONS[case.subject]}
    keywords = cases.keywords_of(options)
    given = cases.arguments(case.subject, case.dtypes, **options)
    given = cases.replaced(
        given, **{n: _laid_out(a, layout) for n, a in cases.arrays(given).items() if n in _PIXELWISE}
    )
    direction, arguments = cases.forward, (given,)
    expected = cases.forward(bilateral_ops, case.subject, given, **keywords)
    out: Any = np.empty_like(expected)
    if case.backward:
        grad = _laid_out(cases.random_like(expected.shape, expected.dtype), layout)
        direction, arguments = cases.backward, (given, grad)
        expected = cases.backward(bilateral_ops, case.subject, given, grad, **keywords)
        out = {name: np.empty_like(array) for name, array in expected._asdict().items() if array is not None}
    if case.subject != "total_variation" or case.backward:
        keywords["out"] = out
    return {
        name: lambda module=module: direction(module, case.subject, *arguments, **keywords)
        for name, module in {"bilateral_ops": bilateral_ops, "numba": numba}.items()
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = [
        pytest.param(case, size, id=f"{case}-{case.shape}-{case.dtypes}-{size}".replace(" ", "_"))
        for case in _cases()
        for size in sizes(metafunc.config, SIZES)
    ]
    metafunc.parametrize(("case", "size"), given)


@pytest.mark.usefixtures("settings")
def test_shape(
    benchmark: Any, timed: Callable[..., None], request: pytest.FixtureRequest, case: Case, size: str
) -> None:
    if reason := missing("numba"):
        pytest.skip(reason)
    _bench.use_threads(1)
    height, width = sizes(request.config, SIZES)[size]
    calls = _calls(case, (height, width))
    got = [np.copy(a) for a in _bench.results(calls["bilateral_ops"]())]
    assert_close(_bench.results(calls["numba"]()), got, 1e-4)
    benchmark.group = f"{case}: shapes"
    timed(
        calls["bilateral_ops"],
        {"numba": calls["numba"]},
        seconds=SECONDS,
        least=5,
        scan="shapes",
        call=str(case),
        shape=case.shape,
        dtype=str(case.dtypes),
        size=size,
        pixels=height * width,
    )
