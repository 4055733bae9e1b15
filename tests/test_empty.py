"""Does everything answer arrays with an axis of size 0: by the result that was promised, or by one sentence?

A kernel that never ended could not be interrupted: after a minute each test here ends the whole run, with a traceback.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    ALL_F64,
    DIFFERENTIABLE,
    F16,
    F32,
    F64,
    OPERATIONS,
    SUBJECTS,
    U8,
    U16,
    Dtypes,
    arguments,
    as_float64,
    assert_forward,
    backward,
    forward,
    operation,
    result_dtype,
    weights_of,
)

import bilateral_ops
from bilateral_ops import _cpu
from bilateral_ops.hdrnet import Config, Predictor
from bilateral_ops.reference import numpy as reference


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


AXES = ("N", "H", "W", "Gh", "Gw", "Gd", "Co", "Ci", "C", "K", "F", "h", "w")
#: Axes that can't be empty, besides those of grids: there is no average of nothing, nor a luma of no colours.
REFUSED = {"resize_area": ("H", "W", "h", "w"), "guide_luma": ("Ci",), "enhance(luma)": ("Ci",)}
SIZES = {"N": 2, "H": 3, "W": 5, "Gh": 2, "Gw": 3, "Gd": 4, "Co": 3, "Ci": 3, "K": 2, "F": 2}


def _with_empty(subject: str, dtypes: Dtypes, axes: tuple[str, ...]) -> dict[str, Any]:
    """Arguments with these axes empty; an axis that the subject does not have changes nothing."""
    options: dict[str, Any] = SIZES | {axis: 0 for axis in axes if axis in SIZES}
    given = arguments(subject, dtypes, **options)
    if subject == "total_variation" and "N" in axes:
        given["grid"] = given["grid"][:0]
    for name in ("grid", "values"):
        if "C" in axes and subject in ("slice", "splat", "total_variation") and name in given:
            given[name] = given[name][..., 0, :0]
    if subject == "resize_area":
        given["size"] = tuple(0 if axis in axes else 2 for axis in ("h", "w"))
    return given


def _grids(subject: str, axes: tuple[str, ...]) -> bool:
    return operation(subject) in ("slice", "slice_apply", "splat", "total_variation", "enhance") and bool(
        {"Gh", "Gw", "Gd"} & set(axes)
    )


def _sentence(name: str) -> str:
    """One, which begins with the operation."""
    return rf"^{name}: [^\n]+\.\Z"


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "axes", [*((axis,) for axis in AXES), ("H", "W"), ("N", "Ci"), ("Co", "W"), ("K", "F")], ids=str
)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_operations(subject: str, axes: tuple[str, ...], isa: str) -> None:
    takes_bytes = subject not in ("slice", "splat", "total_variation")
    dtypes_to_try = [ALL_F32, ALL_F64, Dtypes(F16, F16, F16)] + [
        Dtypes(U8, F32, F32),
        Dtypes(U16, F32, F32),
    ] * takes_bytes
    refused = _grids(subject, axes) or bool(set(REFUSED.get(subject, ())) & set(axes))
    for dtypes in dtypes_to_try:
        given = _with_empty(subject, dtypes, axes)
        dtype = result_dtype(subject, dtypes)
        want = None if refused else forward(reference, subject, as_float64(given))
        for count in (1, 3):
            bilateral_ops.set_num_threads(count)
            if want is None:
                with pytest.raises(ValueError, match=_sentence(operation(subject))):
                    forward(bilateral_ops, subject, given)
                if operation(subject) in DIFFERENTIABLE:
                    grad = np.zeros((2, 0 if "h" in axes else 3, 0 if "w" in axes else 5, 3), F32)
                    with pytest.raises((ValueError, TypeError), match=_sentence(f"{subject}_vjp")):
                        backward(bilateral_ops, subject, given, grad)
                continue
            assert_forward(forward(bilateral_ops, subject, given), want, dtype)
            if operation(subject) not in DIFFERENTIABLE:
                continue
            grad = np.ones(want.shape, F32 if dtype.kind == "u" else dtype)
            for name, gradient in backward(bilateral_ops, subject, given, grad)._asdict().items():
                if gradient is not None:
                    assert gradient.shape == given[name].shape
                    assert np.isfinite(gradient.astype(F64)).all()


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0, 3)], ids=str)
def test_compiled_functions_refuse_what_they_would_never_end_with(shape: tuple[int, ...], isa: str) -> None:
    """Whatever a caller should forget to check."""
    for dtype in (F32, F64, U8):
        pixels = np.zeros((4, 4, 3), dtype)
        with pytest.raises(ValueError, match="an image without pixels"):
            _cpu.resize_area_forward(pixels, np.zeros(shape, dtype))
        if dtype != U8:
            with pytest.raises(ValueError, match="an image without pixels"):
                _cpu.resize_area_backward(pixels, pixels, np.zeros(shape, dtype))
    pixels, whole = np.zeros((4, 4), F32), (0, 0, 4, 4, False)
    for cells in ((0, 2, 2), (2, 0, 2), (2, 2, 0)):
        grid = np.zeros((*cells, 3), F32)
        out = np.zeros((4, 4, 3), F32)
        with pytest.raises(ValueError, match="a grid without cells"):
            _cpu.slice_forward(out, grid, pixels, None, None, whole, False)
        with pytest.raises(ValueError, match="a grid without cells"):
            _cpu.slice_backward(grid, None, None, None, pixels, None, None, out, whole, False)
    with pytest.raises(ValueError, match="the window must hold the image"):
        _cpu.slice_forward(out, np.zeros((2, 2, 2, 3), F32), pixels, None, None, (0, 0, 0, 0, False), False)


@pytest.fixture(scope="module", params=[1, 3], ids=["one scale", "three scales"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    config = Config(net_input=32, spatial_bin=8, scales=request.param, guide="nn" if request.param > 1 else "curves")
    return Predictor(config, weights_of(config))


@pytest.mark.parametrize("dtype", [U8, U16, F16, F32, F64], ids=str)
@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0, 3)], ids=str)
def test_a_predictor(predictor: Predictor, shape: tuple[int, ...], dtype: Any) -> None:
    image = np.zeros(shape, dtype)
    result = predictor(image)
    assert (result.shape, result.dtype) == (shape, dtype)
    out = np.zeros(shape, dtype)
    assert predictor(image, out=out, strength=0.5) is out
    with pytest.raises(ValueError, match=r"^Predictor\.low_resolution: image must have pixels to average, got shape"):
        predictor.low_resolution(image)
    grid = np.zeros(predictor.config.grid_shape, F32)
    window = (3, 4, 30, 40)
    assert predictor.render(grid, image, window=window).shape == shape
    for several in (image[None], np.zeros((0, 5, 7, 3), dtype)):
        assert predictor(several).shape == several.shape
    with pytest.raises(ValueError, match=r"^enhance: window "):
        predictor.render(grid, image, window=(7, 8, 6, 7))
    with pytest.raises(ValueError, match=r"^Predictor: image must have shape \(H, W, 3\) or \(N, H, W, 3\), got "):
        predictor(np.zeros((5, 5, 0), dtype))
    with pytest.raises(ValueError, match=r"^Predictor\.grid: low must have shape "):
        predictor.grid(np.zeros((0, 32, 3), F32))


@pytest.mark.parametrize("axes", [("N",), ("H",), ("W",), ("Ci",), ("Co",), ("H", "W"), ("N", "Ci")], ids=str)
def test_fit(axes: tuple[str, ...]) -> None:
    pytest.importorskip("scipy")
    size = SIZES | dict.fromkeys(axes, 0)
    N, H, W, Ci, Co = (size[axis] for axis in ("N", "H", "W", "Ci", "Co"))
    arrays = np.zeros((N, H, W), F32), np.zeros((N, H, W, Ci), F32), np.zeros((N, H, W, Co), F32)
    grid = bilateral_ops.fit(*arrays, (2, 3, 4), iterations=2)
    assert grid.shape == (N, 2, 3, 4, Co, Ci + 1)
    for cells in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        with pytest.raises(ValueError, match=_sentence("fit")):
            bilateral_ops.fit(*arrays, cells)


@pytest.mark.parametrize("axis", ["N", "H", "W", "Co", "Ci", "C", "K", "F"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck(name: str, axis: str) -> None:
    if axis in REFUSED.get(name, ()):
        pytest.skip("refused: test_operations")
    given = _with_empty(name, ALL_F64, (axis,))
    report = bilateral_ops.gradcheck(OPERATIONS[name].function, given)
    assert report, str(report)
