"""Do the tiles of an image, computed one at a time through ``window``, equal the whole?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    ALL_F64,
    F32,
    F64,
    GUIDES,
    SAMPLED,
    arguments,
    as_float64,
    assert_gradient,
    assert_same_bits,
    backward,
    contributions,
    dtypes_of,
    forward,
    random_like,
    reference,
)

import bilateral_ops

RULES: dict[str, dict[str, Any]] = {
    "centres": {},
    "corners": {"align_corners": True},
    "centers of aligned corners": {"xy": "centers", "align_corners": True},
    "pixel corners": {"xy": "corners"},
}
RULE = pytest.mark.parametrize("rule", RULES)
#: Height, width and grid; then where rows and columns are cut.
PLANS: dict[str, tuple[dict[str, int], tuple[int, ...], tuple[int, ...]]] = {
    "HDRnet's matrices": ({"H": 5, "W": 67, "Gh": 3, "Gw": 4, "Gd": 8, "Co": 3}, (2,), (1, 8, 20, 23, 40)),
    "deep HDRnet's matrices": ({"H": 3, "W": 131, "Gh": 3, "Gw": 4, "Gd": 19, "Co": 3}, (1,), (1, 10, 63, 130)),
    "odd tiles": ({"H": 13, "W": 67, "Gh": 3, "Gw": 4, "Gd": 8}, (1, 4, 9), (1, 8, 20, 23, 40)),
    "single pixels": ({"H": 3, "W": 7, "Gh": 2, "Gw": 3, "Gd": 5}, (1, 2), (1, 2, 3, 4, 5, 6)),
    "grid over image": ({"H": 4, "W": 9, "Gh": 11, "Gw": 29, "Gd": 17}, (3,), (2, 7)),
    "long rows": ({"H": 2, "W": 1500, "Gh": 2, "Gw": 16, "Gd": 13}, (), (511, 513, 1400)),
}
PLAN = pytest.mark.parametrize("plan", PLANS)


def tiles(height: int, width: int, rows: tuple[int, ...], columns: tuple[int, ...]) -> Iterator[tuple[Any, Any]]:
    """Each tile's place in a batch of images, and its ``window``."""
    for top, bottom in zip((0, *rows), (*rows, height), strict=True):
        for left, right in zip((0, *columns), (*columns, width), strict=True):
            yield (slice(None), slice(top, bottom), slice(left, right)), (top, left, height, width)


def crop(given: dict[str, Any], place: Any) -> dict[str, Any]:
    """The arguments of one tile: crops of the per-pixel arrays."""
    pixelwise = {name: given[name] for name in ("guide", "image", "values") if isinstance(given.get(name), np.ndarray)}
    return {**given, **{name: array[place] for name, array in pixelwise.items()}}


@PLAN
@RULE
@pytest.mark.parametrize("subject", ["slice", "slice_apply", *GUIDES])
def test_tiles_of_the_result_equal_the_whole(subject: str, plan: str, rule: str) -> None:
    sizes, rows, columns = PLANS[plan]
    for dtypes in dtypes_of(subject):
        given = arguments(subject, dtypes, **{"N": 2, "Co": 4, **sizes})
        whole = forward(bilateral_ops, subject, given, **RULES[rule])
        as_window = (0, 0, sizes["H"], sizes["W"])
        assert_same_bits(forward(bilateral_ops, subject, given, window=as_window, **RULES[rule]), whole)
        for place, window in tiles(sizes["H"], sizes["W"], rows, columns):
            tile = forward(bilateral_ops, subject, crop(given, place), window=window, **RULES[rule])
            assert_same_bits(tile, whole[place], f"{dtypes} {window}")


@PLAN
@RULE
@pytest.mark.parametrize("subject", SAMPLED)
def test_tiles_of_the_gradients_equal_the_whole(subject: str, plan: str, rule: str) -> None:
    sizes, rows, columns = PLANS[plan]
    for dtypes in dtypes_of(subject):
        given = arguments(subject, dtypes, **{"N": 2, "Co": 4, **sizes})
        result = forward(bilateral_ops, subject, given)
        grad = random_like(result.shape, F32 if dtypes.image.kind == "u" else result.dtype)
        whole = backward(bilateral_ops, subject, given, grad, **RULES[rule])
        summed = 0
        for place, window in tiles(sizes["H"], sizes["W"], rows, columns):
            part = grad if subject == "splat" else grad[place]
            keywords = {"window": window, **RULES[rule]}
            tile = backward(bilateral_ops, subject, crop(given, place), part, **keywords)
            for name in ("guide", "image", "values"):
                if getattr(whole, name, None) is not None:
                    assert_same_bits(getattr(tile, name), getattr(whole, name)[place], f"{dtypes} {name} {window}")
            summed = summed + getattr(tile, "grid", np.zeros(1)).astype(F64)
        if subject != "splat" and dtypes in (ALL_F32, ALL_F64):
            bound = contributions(subject, as_float64(given), grad.astype(F64), **RULES[rule])["grid"]
            assert_gradient(whole.grid, summed, bound, whole.grid.dtype, f"{dtypes} grid")


@PLAN
@RULE
def test_tiles_of_a_splat_add_up_to_the_whole(plan: str, rule: str) -> None:
    sizes, rows, columns = PLANS[plan]
    for dtypes in (ALL_F32, ALL_F64):
        given = arguments("splat", dtypes, N=2, C=(3,), **sizes)
        whole = forward(bilateral_ops, "splat", given, **RULES[rule])
        summed = 0
        for place, window in tiles(sizes["H"], sizes["W"], rows, columns):
            tile = crop(given, place)
            summed = summed + forward(bilateral_ops, "splat", tile, window=window, **RULES[rule]).astype(F64)
        positive = {**as_float64(given), "values": np.abs(given["values"].astype(F64))}
        bound = forward(reference, "splat", positive, **RULES[rule])
        assert_gradient(whole, summed, bound, whole.dtype, f"{dtypes}")
