"""Grids that are named by an index, on a device: what becomes of one that names none, and does the order matter?

That answers are right is tested by the cases "index …" of test_cuda_agreement.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Through
from cases import ALL_F32, ALL_F64, Dtypes, arguments, assert_same_bits, backward, forward, random_like
from test_cuda_scattered import KERNELS, use

#: By the kernels that a call takes: subject, options, dtypes.
CALLS: dict[str, tuple[str, dict[str, Any], Dtypes]] = {
    "patches": ("slice_apply", {"index": "images", "N": 3, "M": 2, "H": 5, "W": 61, "Gd": 8}, ALL_F32),
    "slice in patches": ("slice", {"index": "images", "N": 3, "M": 2, "H": 5, "W": 61, "Gd": 8}, ALL_F32),
    "general": ("slice_apply", {"index": "images", "N": 3, "M": 2, "Co": 2}, ALL_F32),
    "rays": ("slice_apply", {"index": "pixels", "xy": True, "N": 1, "M": 5, "H": 2, "W": 70}, ALL_F32),
    "rays of any channels": ("slice", {"index": "pixels", "xy": True, "N": 1, "M": 5, "H": 2, "W": 70}, ALL_F32),
    "rays in double": ("slice_apply", {"index": "pixels", "xy": True, "N": 2, "M": 5, "H": 2, "W": 70}, ALL_F64),
    "slice's rays in double": ("slice", {"index": "pixels", "xy": True, "N": 2, "M": 3, "H": 2, "W": 70}, ALL_F64),
    "total_variation": ("total_variation", {"index": "images", "N": 5, "M": 3}, ALL_F32),
}


def call(through: Through, subject: str, given: dict[str, Any], grad: Any) -> dict[str, Any]:
    gradients = backward(through, subject, given, grad)._asdict()
    return {"result": forward(through, subject, given), **gradients}


#: Those that splat rays in float are chosen by the number of these; that of any channels has one thread a pixel.
OTHERS = [("rays", KERNELS[1]), ("rays", KERNELS[2]), ("rays of any channels", KERNELS[2])]
WAYS = [*((name, KERNELS[0]) for name in CALLS), *OTHERS]


@pytest.mark.parametrize("wrong", [-1, 2**40])
@pytest.mark.parametrize(("name", "kernel"), WAYS)
def test_what_names_no_grid_is_nan_and_adds_nothing(
    name: str, wrong: int, kernel: str, device: Any, on_device: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(kernel, device, monkeypatch)
    subject, options, dtypes = CALLS[name]
    given = arguments(subject, dtypes, **options)
    if "image" in given:
        given["image"].reshape(-1)[-1] = np.inf  # of the last pixel, which is to add nothing
    where = (-1,) if given["index"].ndim == 1 else (-1, -1, -1)
    given["index"][where] = 0
    grad = random_like(forward(on_device, subject, given).shape, dtypes.image)
    none = grad.copy()
    none[where] = 0
    without = {**given, "index": given["index"].copy()}
    if "image" in given:
        without["image"] = given["image"].copy()
        without["image"][where] = 0
    want = call(on_device, subject, without, none)
    given["index"][where] = wrong
    got = call(on_device, subject, given, grad)
    assert_same_bits(got.pop("grid"), want.pop("grid"), "grid")
    for field, array in got.items():
        if array is None:
            continue
        assert np.isnan(array[where]).all(), field
        others = np.ones(array.shape, bool)
        others[where] = False
        assert_same_bits(array[others], want[field][others], field)


@pytest.mark.parametrize("name", CALLS)
def test_no_order_of_blocks_matters(name: str, device: Any, on_device: Through) -> None:
    subject, options, dtypes = CALLS[name]
    given = arguments(subject, dtypes, **options)
    grad = random_like(forward(on_device, subject, given).shape, dtypes.image)
    found = []
    for seed, together in enumerate((None, 1, 3)):
        device.reset(90, races=False, seed=seed, together=together)
        found.append(call(on_device, subject, given, grad))
        found[-1] = {field: None if array is None else array.copy() for field, array in found[-1].items()}
    for other in found[1:]:
        for field, array in found[0].items():
            assert_same_bits(other[field], array, field)
