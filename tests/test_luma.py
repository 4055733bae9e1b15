"""Is slice_apply with a LumaGuide what it is made of: guide_luma, slice_apply, and their gradients' sum?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    ALL_F64,
    F32,
    OPTIONAL,
    U8,
    U16,
    Dtypes,
    arguments,
    assert_same_bits,
    cases_of,
    keywords_of,
    random_like,
)

import bilateral_ops
from bilateral_ops import LumaGuide, guide_luma, guide_luma_vjp, slice_apply, slice_apply_vjp

LUMA = LumaGuide()
CASES = {name: options for name, options in cases_of("slice_apply").items() if options.get("Ci", 3) == 3}
DTYPES = [ALL_F32, ALL_F64, Dtypes(U8, F32, F32), Dtypes(U16, F32, F32)]


def luma_arguments(dtypes: Dtypes, options: dict[str, Any]) -> dict[str, Any]:
    given = arguments("slice_apply", dtypes, **options)
    del given["guide"]
    return given


@pytest.mark.parametrize("case", CASES)
def test_same_bits_as_in_two_steps(case: str, isa: str) -> None:
    for dtypes in DTYPES:
        given = luma_arguments(dtypes, CASES[case])
        grid, image = given["grid"], given["image"]
        keywords = {name: given[name] for name in OPTIONAL if name in given} | keywords_of(CASES[case])
        guide = guide_luma(image)
        out = slice_apply(grid, LUMA, image, **keywords)
        assert_same_bits(out, slice_apply(grid, guide, image, **keywords), f"{dtypes}")

        grad = random_like(out.shape, F32 if dtypes.image.kind == "u" else dtypes.image)
        got = slice_apply_vjp(grid, LUMA, image, grad, **keywords)
        want = slice_apply_vjp(grid, guide, image, grad, **keywords)
        assert_same_bits(got.grid, want.grid, f"{dtypes} grid")
        assert (got.xy is not None) == ("xy" in given)
        assert_same_bits(got.xy, want.xy, f"{dtypes} xy")
        if dtypes.image.kind == "u":
            assert got.image is None
        else:
            assert_same_bits(got.image, want.image + guide_luma_vjp(image, want.guide).image, f"{dtypes} image")
        for name in ("grid", "image"):  # each alone
            alone = slice_apply_vjp(grid, LUMA, image, grad, wrt=name, **keywords)
            wanted = slice_apply_vjp(grid, LUMA, image, grad, wrt=("grid", "image"), **keywords)
            if getattr(wanted, name) is not None:
                assert_same_bits(getattr(alone, name), getattr(wanted, name), f"{dtypes} {name} alone")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_luma_of_16_bits_is_not_rounded(dtype: str, isa: str) -> None:
    dtypes = Dtypes(np.dtype(dtype), F32, np.dtype(dtype))
    given = luma_arguments(dtypes, {"N": 2, "H": 9, "W": 70, "Gd": 8})
    grid, image = given["grid"], given["image"]
    exact = image.astype(F32)
    assert_same_bits(slice_apply(grid, LUMA, image), slice_apply(grid, LUMA, exact).astype(dtype))
    grad = random_like(image.shape, image.dtype)
    got, want = slice_apply_vjp(grid, LUMA, image, grad), slice_apply_vjp(grid, LUMA, exact, grad.astype(F32))
    assert_same_bits(got.image, want.image.astype(dtype))
    assert_same_bits(got.grid, want.grid)


@pytest.mark.parametrize("wide", [False, True])
def test_any_strides_and_threads_and_in_place(wide: bool, isa: str) -> None:
    given = luma_arguments(ALL_F32, {"N": 2, "H": 37, "W": 170 if wide else 19, "Gd": 8})
    grid, image = given["grid"], given["image"]
    planar = np.ascontiguousarray(image.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    unaligned = np.empty(image.nbytes + 1, np.uint8)[1:].view(F32).reshape(image.shape)
    unaligned[:] = image
    grad = random_like(image.shape, F32)
    out, gradients = slice_apply(grid, LUMA, image), slice_apply_vjp(grid, LUMA, image, grad)
    before = bilateral_ops.get_num_threads()
    try:
        for threads, other in ((1, planar), (3, unaligned), (2, image[:, :, ::-1].copy()[:, :, ::-1])):
            bilateral_ops.set_num_threads(threads)
            assert_same_bits(slice_apply(grid, LUMA, other), out)
            again = slice_apply_vjp(grid, LUMA, other, grad)
            assert_same_bits(again.grid, gradients.grid)
            assert_same_bits(again.image, gradients.image)
    finally:
        bilateral_ops.set_num_threads(before)
    place = image.copy()
    assert slice_apply(grid, LUMA, place, out=place) is place
    assert_same_bits(place, out)


def test_a_nan_stays_with_its_pixel(isa: str) -> None:
    given = luma_arguments(ALL_F32, {"N": 1, "H": 5, "W": 70, "Gd": 8})
    image = given["image"].copy()
    image[0, 2, 33, 1] = np.nan
    out = slice_apply(given["grid"], LUMA, image)
    assert np.argwhere(np.isnan(out).any(-1)).tolist() == [[0, 2, 33]]
    gradients = slice_apply_vjp(given["grid"], LUMA, image, random_like(image.shape, F32))
    assert np.argwhere(np.isnan(gradients.image).any(-1)).tolist() == [[0, 2, 33]]
