"""Does every operation, with every instruction set, dtype and size, agree with the reference, forward and backward?"""

from __future__ import annotations

import ctypes
import importlib
import math
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import CUPY_REFERENCE
from cases import (
    ALL_F32,
    ALL_F64,
    CASES,
    DIFFERENTIABLE,
    F32,
    F64,
    OPERATIONS,
    SAMPLED,
    SUBJECTS,
    U8,
    WINDOWED,
    Dtypes,
    arguments,
    arrays,
    assert_forward,
    assert_gradient,
    assert_same_bits,
    backward,
    backward_example,
    cases_of,
    dtypes_of,
    forward,
    forward_example,
    operation,
    python,
    random_like,
    reference,
)

import bilateral_ops
from bilateral_ops.reference import _formulas

#: Cases for references, whose code does not depend on the number of pixels: those that take little time.
USUAL = tuple(
    name
    for name, options in CASES.items()
    if "wide" not in name
    and not name.startswith(("width", "many channels", "one long", "window over", "xy raster"))
    and max(options.get("H", 1) * options.get("W", 1), math.prod(options.get("size", ()))) <= 1500
)
#: Those of them in which references are called with every dtype.
FEW = ("plain", "batched", "xy", "window corners", "enlarged", "no rows", "single pixel")
#: Exactly on a knot a gradient jumps: test_gradients.py tests which side it has there.
KINKED = ("guide on knots", "guide on knots, corners")


def _pairs(subjects: tuple[str, ...], *, without: tuple[str, ...] = ()) -> Any:
    pairs = [(subject, case) for subject in subjects for case in cases_of(subject) if case not in without]
    return pytest.mark.parametrize(("subject", "case"), pairs, ids=[f"{subject}: {case}" for subject, case in pairs])


def _dtypes(subject: str, case: str) -> list[Dtypes]:
    """All dtypes; for images that are large for the reference, float32 and float64 alone."""
    large = case.startswith("one long") or "large" in case
    return [dtypes for dtypes in dtypes_of(subject) if not large or dtypes in (ALL_F32, ALL_F64)]


@_pairs(SUBJECTS)
def test_forward(subject: str, case: str, backend: Any) -> None:
    for dtypes in _dtypes(subject, case):
        example = forward_example(subject, case, dtypes)
        got = forward(backend, subject, example.arguments, **example.keywords)
        assert_forward(got, example.result, example.dtype, f"{dtypes}")


@_pairs(DIFFERENTIABLE, without=KINKED)
def test_backward(subject: str, case: str, backend: Any) -> None:
    for dtypes in _dtypes(subject, case):
        example = backward_example(subject, case, dtypes)
        names = OPERATIONS[subject].arguments
        ways: list[tuple[str, ...]] = [names]
        if "xy" in example.arguments:  # whose own gradient keeps kernels from the faster way
            ways.append(tuple(name for name in names if name != "xy"))
        for wrt in ways:
            got = backward(backend, subject, example.arguments, example.grad, **example.keywords, wrt=wrt)
            assert got._fields == names
            for name, gradient in got._asdict().items():
                where = f"{dtypes} {name} of {wrt}"
                if name not in example.arguments or name not in wrt or example.arguments[name].dtype.kind == "u":
                    assert gradient is None, where
                    continue
                dtype = example.arguments[name].dtype
                assert_gradient(gradient, getattr(example.gradients, name), example.contributions[name], dtype, where)


@pytest.mark.parametrize("subject", SAMPLED)
def test_a_mesh_of_the_pixels_own_coordinates_changes_no_bit(subject: str, isa: str) -> None:
    """It is looked up as the pixels are, and not one by one."""
    given = arguments(subject, ALL_F32, N=2, H=33, W=65, Gh=5, Gw=3, Gd=8)
    y, x = np.mgrid[:33, :65].astype(F32)
    mesh = np.broadcast_to(np.stack([x / 64, y / 32], -1), (2, 33, 65, 2))
    want = forward(bilateral_ops, subject, given, align_corners=True)
    assert_same_bits(forward(bilateral_ops, subject, {**given, "xy": mesh}, align_corners=True), want)
    grad = random_like(want.shape, F32)
    wrt = tuple(name for name in OPERATIONS[subject].arguments if name != "xy")
    ways = ({"xy": mesh, "wrt": wrt}, {"wrt": wrt})
    got, want = (backward(bilateral_ops, subject, given, grad, align_corners=True, **way) for way in ways)
    for name in wrt:
        assert_same_bits(getattr(got, name), getattr(want, name), name)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("subject", WINDOWED)
def test_the_rules_that_none_stands_for(subject: str, align_corners: bool, isa: str) -> None:
    given, rule = arguments(subject, ALL_F32, W=33, Gd=8), ("centers", "corners")[align_corners]
    want = forward(bilateral_ops, subject, given, align_corners=align_corners)
    assert_same_bits(forward(bilateral_ops, subject, given, xy=rule, align_corners=align_corners), want)
    other = forward(bilateral_ops, subject, given, xy=rule, align_corners=not align_corners)
    assert np.abs(other.astype(F64) - want).max() > 0.01


@pytest.mark.parametrize("window", [None, (3, 8, 11, 80)], ids=["whole", "window"])
@pytest.mark.parametrize("rule", ["centers", "corners"])
@pytest.mark.parametrize("subject", SAMPLED)
def test_a_rule_is_the_mesh_that_it_says(subject: str, rule: str, window: Any, isa: str) -> None:
    given = arguments(subject, ALL_F64, N=2, H=5, W=37, Gd=8)
    top, left, height, width = window or (0, 0, 5, 37)
    y, x = np.mgrid[top : top + 5, left : left + 37].astype(F64)
    u = [(i + 0.5) / n if rule == "centers" else i / (n - 1) for i, n in ((x, width), (y, height))]
    mesh = np.broadcast_to(np.stack(u, -1), (2, 5, 37, 2))
    for align_corners in (False, True):
        ways: Any = ({"xy": rule, "window": window}, {"xy": mesh})
        got, want = (forward(bilateral_ops, subject, given, align_corners=align_corners, **way) for way in ways)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
        grad = random_like(want.shape, F64)
        found = [backward(bilateral_ops, subject, given, grad, align_corners=align_corners, **way) for way in ways]
        assert found[0].xy is None
        for name in OPERATIONS[subject].arguments[:-1]:
            np.testing.assert_allclose(getattr(found[0], name), getattr(found[1], name), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("subject", SAMPLED)
def test_a_mesh_but_for_one_pixel(subject: str, axis: str, isa: str) -> None:
    """The one pixel is where its coordinates are."""
    y, x = np.mgrid[:9, :33]
    mesh = np.broadcast_to(np.stack([x / 32, y / 8], -1), (2, 9, 33, 2)).copy()
    mesh[1, 5, 20, "xy".index(axis)] = 0.03
    given = {**arguments(subject, N=2, H=9, W=33, Gd=8), "xy": mesh}
    want = forward(reference, subject, given, align_corners=True)
    assert_forward(forward(bilateral_ops, subject, given, align_corners=True), want, F64)


def check_reference(module: Any, subject: str, cases: Collection[str], dtypes_to_try: Collection[Dtypes]) -> None:
    for case in cases_of(subject):
        if case not in cases or case in KINKED:
            continue
        for dtypes in dtypes_of(subject):
            if dtypes not in dtypes_to_try:
                continue
            example = forward_example(subject, case, dtypes)
            got = forward(module, subject, example.arguments, **example.keywords)
            assert_forward(got, example.result, example.dtype, f"{case} {dtypes}")
            if subject not in DIFFERENTIABLE:
                continue
            example = backward_example(subject, case, dtypes)
            gradients = backward(module, subject, example.arguments, example.grad, **example.keywords)._asdict()
            for name, array in arrays(example.arguments).items():
                if array.dtype.kind not in "ui":
                    want, bound = getattr(example.gradients, name), example.contributions[name]
                    assert_gradient(gradients[name], want, bound, array.dtype, f"{case} {dtypes} {name}")


def test_numba_reference_interpreted() -> None:
    """All its formulas, and every dtype. Compiling them for as many takes minutes."""
    pytest.importorskip("numba")
    code = """
from cases import *
from test_agreement import FEW, USUAL, check_reference
from bilateral_ops.reference import numba
for subject in SUBJECTS:
    try:
        check_reference(numba, subject, FEW, [dtypes for dtypes in dtypes_of(subject) if dtypes != ALL_F64])
        check_reference(numba, subject, USUAL, [ALL_F64])
    except Exception as error:
        raise AssertionError(subject) from error
"""
    finished = python(code, NUMBA_DISABLE_JIT="1", timeout=600)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("subject", SUBJECTS)
def test_cupy_reference_with_numpy(subject: str) -> None:
    check_reference(CUPY_REFERENCE, subject, USUAL, dtypes_of(subject))


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_cupy_references_kernel_is_its_expression(dtype: Any, align_corners: bool, size: int, tmp_path: Path) -> None:
    """The one part that NumPy cannot run, compiled for the CPU."""
    if sys.platform == "win32" or not (compiler := shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler to compile CuPy's kernel with")
    kind = {F32: "float", F64: "double"}[dtype]
    source, library = tmp_path / "locate.cpp", tmp_path / "locate.so"
    source.write_text(f"""
        #include <cmath>
        using std::isnan;
        using T = {kind};
        extern "C" void locate(long long n, const T* us, long long size, bool align_corners, int* cells,
                               T* fractions, T* slopes) {{
          for (long long i = 0; i < n; ++i) {{
            const T& u = us[i]; int& cell = cells[i]; T& fraction = fractions[i]; T& slope = slopes[i];
            {_formulas.LOCATE}
          }}
        }}""")
    subprocess.run([compiler, "-shared", "-fPIC", "-ffp-contract=off", source, "-o", library], check=True)
    knots = (np.arange(size) + 0.5) / size if not align_corners else np.arange(size) / max(size - 1, 1)
    u = np.concatenate([np.linspace(-1, 2, 101), knots, [np.nan, np.inf, -np.inf]]).astype(dtype)
    cell, fraction, slope = np.full(u.shape, -1, np.int32), np.full_like(u, -1), np.full_like(u, -1)
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (u, cell, fraction, slope)]
    n, cells = ctypes.c_longlong(u.size), ctypes.c_longlong(size)
    ctypes.CDLL(str(library)).locate(n, addresses[0], cells, ctypes.c_bool(align_corners), *addresses[1:])
    for got, want in zip((cell, fraction, slope), _formulas.locate(np, u, size, align_corners), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "subject", [pytest.param(s, marks=() if s == "guide_luma" else pytest.mark.slow) for s in SUBJECTS]
)
def test_numba_reference_compiled(subject: str) -> None:
    pytest.importorskip("numba")
    numba = importlib.import_module("bilateral_ops.reference.numba")
    cases = (
        "plain",
        "batched",
        "3 to 9",
        "no offset 4 to 3",
        "depth 1",
        "xy batched",
        "window corners",
        "no rows",
        "large",
    )
    check_reference(numba, subject, cases, (ALL_F32, ALL_F64, Dtypes(U8, F32, F32)))


def test_an_error_of_one_tolerance_would_be_seen() -> None:
    example = backward_example("slice_apply", "plain", ALL_F32)
    gradients = backward(bilateral_ops, "slice_apply", example.arguments, example.grad)
    result = forward(bilateral_ops, "slice_apply", example.arguments)
    wrong = result + np.float32(1.1e-5) * np.abs(result).max()
    with pytest.raises(AssertionError):
        assert_forward(wrong, example.result, result.dtype)
    bound = example.contributions["grid"]
    wrong = gradients.grid + (2.1e-5 * bound).astype(np.float32)
    with pytest.raises(AssertionError):
        assert_gradient(wrong, example.gradients.grid, bound, wrong.dtype)
    assert np.linalg.norm(bound) < 30 * np.linalg.norm(example.gradients.grid), "the bound is of the gradient's size"
    assert F64 not in (result.dtype, wrong.dtype)


def test_every_operation_is_compared() -> None:
    assert {operation(subject) for subject in SUBJECTS} == set(OPERATIONS)
