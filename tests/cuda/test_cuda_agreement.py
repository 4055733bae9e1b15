"""Do the CUDA kernels, as nvcc compiled them, agree with the reference, in every order in which blocks may run?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import standin
from backends import Through
from cases import (
    ALL_F32,
    ALL_F64,
    CASES,
    DIFFERENTIABLE,
    F16,
    F32,
    GUIDES,
    LAYOUTS,
    OPERATIONS,
    SUBJECTS,
    U8,
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
    laid_out,
    replaced,
)
from standin import ARCHITECTURES

import bilateral_ops

KINKED = ("guide on knots", "guide on knots, corners")
#: Large for an interpreter: their races are those of smaller ones.
LARGE = (
    "large",
    "large, many bands",
    "large, many cells",
    "index xy of large images",
    "centers, large",
    "pixel corners, large",
    "one long row",
    "one long column",
    "3 to 9",
    "wide 3 to 9",
    "many channels",
    "wide many channels",
    "many rows",
    "to float64, many rows",
    "long rows",
    "to one pixel",
    "enlarged far",
)

#: Cases in which all dtypes are tried.
THOROUGH = ("plain", "batched", "wide batched", "xy batched")
#: Options of guides.
_FOR_GUIDES = {"K", "F", "saturated"}
#: Widths for vectors of 8 and 16 pixels, as CPUs have them. Here quads, warps and patches cut a row: 4, 32 and 128.
BETWEEN = tuple(f"width {width}" for width in (8, 15, 16, 17, 63, 65))


def _is_dealt(subject: str, case: str) -> bool:
    """Kernels of `enhance` differ in the guide alone: a case that is for none of them is tried with one of them."""
    if subject not in GUIDES or case in THOROUGH or case.startswith("width") or not _FOR_GUIDES.isdisjoint(CASES[case]):
        return True
    takers = [guide for guide in GUIDES if case in cases_of(guide)]
    return takers[list(CASES).index(case) % len(takers)] == subject


def _pairs(subjects: tuple[str, ...], *, without: tuple[str, ...] = ()) -> Any:
    # Of a raster every pixel is looked up by itself, as of any coordinates.
    pairs = [
        (subject, case)
        for subject in subjects
        for case in cases_of(subject)
        if case not in (*without, *BETWEEN) and not case.startswith("xy raster") and _is_dealt(subject, case)
    ]
    return pytest.mark.parametrize(("subject", "case"), pairs, ids=[f"{subject}: {case}" for subject, case in pairs])


def _runs(subject: str, case: str) -> list[tuple[int, Dtypes]]:
    """Pairs of architecture and dtypes: float32, and one or all of the others; architectures alternate."""
    number = list(cases_of(subject)).index(case)
    others = [dtypes for dtypes in dtypes_of(subject) if dtypes != ALL_F32]
    if case in LARGE:
        others = []
    elif case not in THOROUGH:
        others = [others[number % len(others)]]
    return [(ARCHITECTURES[(number + i) % len(ARCHITECTURES)], dtypes) for i, dtypes in enumerate([ALL_F32, *others])]


def _check_backward(package: Any, subject: str, case: str, dtypes: Dtypes) -> None:
    example = backward_example(subject, case, dtypes)
    got = backward(package, subject, example.arguments, example.grad, **example.keywords)
    assert got._fields == OPERATIONS[subject].arguments
    for name, gradient in got._asdict().items():
        if name not in example.arguments or example.arguments[name].dtype.kind == "u":
            assert gradient is None, name
            continue
        dtype = example.arguments[name].dtype
        want, bound = getattr(example.gradients, name), example.contributions[name]
        assert_gradient(gradient, want, bound, dtype, f"{dtypes} {name}")


@_pairs(SUBJECTS)
def test_forward(subject: str, case: str, device: Any, on_device: Through) -> None:
    for architecture, dtypes in _runs(subject, case):
        device.reset(architecture, races=case not in LARGE)
        example = forward_example(subject, case, dtypes)
        got = forward(on_device, subject, example.arguments, **example.keywords)
        assert_forward(got, example.result, example.dtype, f"{dtypes}")


@_pairs(DIFFERENTIABLE, without=KINKED)
def test_backward(subject: str, case: str, device: Any, on_device: Through) -> None:
    for architecture, dtypes in _runs(subject, case):
        device.reset(architecture, races=case not in LARGE)
        _check_backward(on_device, subject, case, dtypes)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_layouts(subject: str, device: Any, on_device: Through) -> None:
    """Strides and addresses of any kind give the same bits; the bytes between the elements are out of bounds."""
    for dtypes in (ALL_F32, next((k for k in dtypes_of(subject) if k.image in (U8, F16)), ALL_F64)):
        example = forward_example(subject, "batched", dtypes)
        given = example.arguments
        plain = forward(on_device, subject, given, **example.keywords)
        grad = np.asarray(plain, F32 if plain.dtype.kind == "u" else plain.dtype)
        want = backward(on_device, subject, given, grad, **example.keywords) if subject in DIFFERENTIABLE else None
        for layout in LAYOUTS:
            odd = replaced(given, **{name: laid_out(array, layout) for name, array in arrays(given).items()})
            out = {"out": standin.laid_out(device, laid_out(np.zeros_like(plain), layout))}
            got = forward(on_device, subject, odd, **example.keywords, **(out if subject != "total_variation" else {}))
            assert_same_bits(got, plain, f"{layout} {dtypes}")
            if want is None:
                continue
            found = backward(on_device, subject, odd, laid_out(grad, layout), **example.keywords)
            for name in want._fields:
                assert_same_bits(getattr(found, name), getattr(want, name), f"{layout} {dtypes} {name}")


@pytest.mark.parametrize("case", ["wide batched", "batched", "xy batched"])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_order_of_blocks_does_not_matter(subject: str, case: str, device: Any, on_device: Through) -> None:
    if case not in cases_of(subject):
        pytest.skip(f"the same as another case for {subject}")
    orders: tuple[dict[str, Any], ...] = ({"seed": 0}, {"seed": 1, "together": 1}, {"seed": 2, "together": 3})
    results = []
    for options in orders:
        device.reset(90, races=False, **options)
        example = forward_example(subject, case, ALL_F32)
        found = {"result": forward(on_device, subject, example.arguments, **example.keywords).copy()}
        if subject in DIFFERENTIABLE:
            example = backward_example(subject, case, ALL_F32)
            got = backward(on_device, subject, example.arguments, example.grad, **example.keywords)
            found |= {name: None if value is None else value.copy() for name, value in got._asdict().items()}
        results.append(found)
    for other in results[1:]:
        for name, want in results[0].items():
            assert_same_bits(other[name], want, name)


@pytest.mark.parametrize("dtypes", [ALL_F32, Dtypes(U8, F32, F32)], ids=str)
@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s == "apply" or s == "slice_apply" or "enhance" in s])
def test_out_may_be_the_image(subject: str, dtypes: Dtypes, device: Any) -> None:
    for case in ("wide", "batched"):
        if case not in cases_of(subject):
            continue
        example = forward_example(subject, case, dtypes)
        through = Through(lambda array: standin.laid_out(device, array), lambda array: array.memory)
        sent = through.sent(example.arguments)
        assert sent["image"].shape == example.result.shape
        got = forward(bilateral_ops, subject, sent, out=sent["image"], **example.keywords)
        assert got is sent["image"]
        assert_forward(got.memory, example.result, example.dtype, case)


@pytest.mark.parametrize("dtypes", [ALL_F32, ALL_F64], ids=str)
@pytest.mark.parametrize("subject", [s for s in DIFFERENTIABLE if "image" in arguments(s)])
def test_the_images_gradient_may_be_written_over_the_image(subject: str, dtypes: Dtypes, device: Any) -> None:
    through = Through(lambda array: standin.laid_out(device, array), lambda array: array.memory)
    for case in ("wide", "batched"):
        if case not in cases_of(subject):
            continue
        example = backward_example(subject, case, dtypes)
        want, over = (through.sent(example.arguments) for _ in range(2))
        grad = through.sent(example.grad)
        plain = backward(bilateral_ops, subject, want, grad, **example.keywords)
        got = backward(bilateral_ops, subject, over, grad, out={"image": over["image"]}, **example.keywords)
        assert got.image is over["image"]
        for name in plain._fields:
            if (value := getattr(plain, name)) is not None:
                assert_same_bits(getattr(got, name).memory, value.memory, f"{case} {name}")


@pytest.mark.parametrize("rule", [{}, {"xy": "centers", "align_corners": True}, {"xy": "corners"}], ids=str)
@pytest.mark.parametrize("dtypes", [ALL_F32, ALL_F64, Dtypes(F16, F16, F16)], ids=str)
def test_a_tile_has_the_whole_images_bits(
    dtypes: Dtypes, rule: dict[str, Any], device: Any, on_device: Through
) -> None:
    device.reset(90, races=False)
    given = forward_example("slice_apply", "wide batched", dtypes).arguments
    _, height, width = given["guide"].shape
    grad = np.asarray(given["image"])
    whole = on_device.slice_apply(*given.values(), **rule)
    gradients = on_device.slice_apply_vjp(*given.values(), grad, **rule)
    total = 0.0
    for top, left, h, w in ((0, 0, 2, 19), (0, 19, 2, width - 19), (2, 0, height - 2, width)):
        rows, columns = slice(top, top + h), slice(left, left + w)
        part = {name: array if name == "grid" else array[:, rows, columns] for name, array in given.items()}
        window = (top, left, height, width)
        got = on_device.slice_apply(*part.values(), window=window, **rule)
        assert_same_bits(got, np.ascontiguousarray(whole[:, rows, columns]))
        got = on_device.slice_apply_vjp(*part.values(), grad[:, rows, columns], window=window, **rule)
        for name in ("guide", "image"):
            want = getattr(gradients, name)[:, rows, columns]
            assert_same_bits(getattr(got, name), np.ascontiguousarray(want), name)
        total = total + got.grid.astype(np.float64)
    scale = np.abs(total).max()
    np.testing.assert_allclose(
        total, gradients.grid.astype(np.float64), atol=scale * (2e-3 if dtypes.rest == F16 else 1e-5)
    )


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("subject", ["slice", "slice_apply", "splat"])
def test_special_guides(subject: str, special: float, device: Any, on_device: Through) -> None:
    """A NaN stays in its pixel, and in a VJP in the columns around it; infinities clamp. As on the CPU."""
    for case in ("wide", "batched"):
        example = forward_example(subject, case, ALL_F32)
        guide = example.arguments["guide"].copy()
        guide[..., 2, 5] = special
        given = {**example.arguments, "guide": guide}
        got, want = (forward(package, subject, given) for package in (on_device, bilateral_ops))
        assert np.array_equal(np.isnan(got), np.isnan(want))
        keep = ~np.isnan(want)
        assert_forward(np.where(keep, got, 0), np.where(keep, want, 0).astype(np.float64), F32)
        if subject == "splat":
            continue
        if np.isnan(special):
            pixels = np.isnan(got).reshape(*guide.shape, -1).all(-1)
            assert np.array_equal(pixels, np.isnan(guide))
        grad = np.ones_like(got)
        gradients = backward(on_device, subject, given, grad)
        assert np.isfinite(gradients.guide[~np.isnan(guide)]).all()
        around = np.isnan(gradients.grid).reshape(*gradients.grid.shape[: guide.ndim], -1).any(-1)
        assert around.sum() <= 4 * max(1, int(np.isnan(guide).sum()))
        assert around.any() <= np.isnan(special)


@pytest.mark.parametrize("special", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("subject", ["apply", "slice_apply", "guide_curves", "guide_nn", "guide_luma", "enhance(luma)"])
def test_special_images(subject: str, special: float, device: Any, on_device: Through) -> None:
    example = forward_example(subject, "wide", ALL_F32)
    image = example.arguments["image"].copy()
    image[2, 5, 0] = special
    given = {**example.arguments, "image": image}
    got, want = (forward(package, subject, given) for package in (on_device, bilateral_ops))
    elsewhere = np.ones(image.shape[:2], bool)
    elsewhere[2, 5] = False
    assert_forward(got[elsewhere], want[elsewhere].astype(np.float64), F32)
    assert np.array_equal(np.isnan(got), np.isnan(want))
