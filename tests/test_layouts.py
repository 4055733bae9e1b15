"""Does an array give the same bits however it is laid out in memory, as an input and as an output?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    DIFFERENTIABLE,
    F16,
    F32,
    GUIDES,
    LAYOUTS,
    SUBJECTS,
    Dtypes,
    Vessel,
    arguments,
    arrays,
    assert_same_bits,
    backward,
    dtypes_of,
    forward,
    laid_out,
    random_like,
    replaced,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import bilateral_ops

DTYPES = [(subject, dtypes) for subject in SUBJECTS for dtypes in dtypes_of(subject)]
ALL = pytest.mark.parametrize(("subject", "dtypes"), DTYPES, ids=[f"{s}-{k}" for s, k in DTYPES])
SIZE = {"N": 2, "H": 5, "W": 37, "Co": 4, "Ci": 3}


def examples_of(subject: str, dtypes: Dtypes) -> Iterator[dict[str, Any]]:
    """Calls that take different paths: many and few pixels per cell, coordinates, 3 × 4 matrices."""
    yield with_grad(subject, arguments(subject, dtypes, **SIZE))
    if subject == "slice_apply":
        for depth in (8, 18):
            yield with_grad(subject, arguments(subject, dtypes, **{**SIZE, "Co": 3, "Gd": depth}))
    if subject in ("slice", "slice_apply", "splat", *GUIDES):
        yield with_grad(subject, arguments(subject, dtypes, **SIZE, Gw=11, Gd=17))
    if subject in ("slice", "slice_apply", "splat"):
        yield with_grad(subject, arguments(subject, dtypes, **SIZE, xy=True))


def with_grad(subject: str, example: dict[str, Any]) -> dict[str, Any]:
    """The arguments and, where there is a VJP, the gradient coming in."""
    if subject not in DIFFERENTIABLE:
        return example
    result = forward(bilateral_ops, subject, example)
    return {**example, "grad": random_like(result.shape, np.dtype("f4") if _integer(example) else result.dtype)}


def _integer(example: dict[str, Any]) -> bool:
    return "image" in example and example["image"].dtype.kind == "u"


def call(subject: str, example: dict[str, Any], **out: Any) -> dict[str, Any]:
    """Everything that the subject computes from these arguments, by name; ``out`` may hold some of it."""
    inputs = {name: value for name, value in example.items() if name != "grad"}
    results = {
        "result": forward(bilateral_ops, subject, inputs, **({"out": out.pop("result")} if "result" in out else {}))
    }
    if "grad" in example:
        gradients = backward(bilateral_ops, subject, inputs, example["grad"], out=out or None)
        results |= gradients._asdict()
    return results


def assert_same(got: dict[str, Any], want: dict[str, Any], where: str) -> None:
    for name, value in want.items():
        assert_same_bits(got[name], value, f"{where}: {name}")


@ALL
def test_every_layout_of_every_input_gives_the_same_bits(subject: str, dtypes: Dtypes) -> None:
    for example in examples_of(subject, dtypes):
        want = call(subject, example)
        changed = {layout: {} for layout in LAYOUTS}
        for name, array in arrays(example).items():
            for layout, everything in changed.items():
                everything[name] = laid_out(array, layout)
                assert_same(call(subject, replaced(example, **{name: everything[name]})), want, f"{layout} {name}")
        for layout, everything in changed.items():
            read_only = {name: _read_only(array) for name, array in everything.items()}
            assert_same(call(subject, replaced(example, **read_only)), want, f"{layout} everything, read-only")
            for name, array in arrays(example).items():
                assert_same_bits(everything[name], array, f"{layout}: the input {name} was modified")


@ALL
def test_broadcast_inputs_give_the_same_bits_as_their_copies(subject: str, dtypes: Dtypes) -> None:
    for example in examples_of(subject, dtypes):
        for name, array in arrays(example).items():
            views = [np.broadcast_to(array.take([0], axis), array.shape) for axis in range(array.ndim)]
            for view in (*views, np.broadcast_to(array.reshape(-1)[0], array.shape)):
                want = call(subject, replaced(example, **{name: np.array(view, order="C")}))
                assert_same(call(subject, replaced(example, **{name: view})), want, f"{name} {view.strides}")


@ALL
def test_out_of_every_layout_is_filled_and_nothing_beside_it(subject: str, dtypes: Dtypes) -> None:
    for example in examples_of(subject, dtypes):
        want = {name: value for name, value in call(subject, example).items() if value is not None}
        if subject == "total_variation":
            del want["result"]  # it has no out
        for layout, keywords in LAYOUTS.items():
            vessels = {name: Vessel(value.shape, value.dtype, **keywords) for name, value in want.items()}
            got = call(subject, example, **{name: vessel.array for name, vessel in vessels.items()})
            for name, vessel in vessels.items():
                assert got[name] is vessel.array, f"{layout} {name}"
                assert_same_bits(got[name], want[name], f"{layout} {name}")
                assert vessel.untouched_outside(), f"{layout} {name}: bytes outside were written"


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s in ("apply", "slice_apply") or s in GUIDES])
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_out_may_be_the_image_itself(subject: str, layout: str | None) -> None:
    for dtypes in dtypes_of(subject):
        example = arguments(subject, dtypes, **{**SIZE, "Co": 3})
        want = forward(bilateral_ops, subject, example)
        image = laid_out(example["image"], layout) if layout else example["image"].copy()
        for out in (image, image[...]):
            image[...] = example["image"]
            assert forward(bilateral_ops, subject, {**example, "image": image}, out=out) is out
            assert_same_bits(out, want, f"{layout} {dtypes}")


@pytest.mark.parametrize("dtype", [F16, F32], ids=str)
@pytest.mark.parametrize("depth", [3, 24], ids="depth {}".format)
def test_grids_that_are_converted_row_by_row_give_the_same_bits(dtype: Any, depth: int) -> None:
    # Several image rows a grid row, several tiles an image row, and more than one grid.
    rng = np.random.default_rng(depth)
    grid = rng.standard_normal((2, 3, 5, depth, 4)).astype(dtype)
    guide = rng.random((2, 11, 300)).astype(dtype)
    strided = np.empty(grid.shape[::-1], dtype).T
    strided[...] = grid
    want = bilateral_ops.slice(grid.astype(F32), guide.astype(F32)).astype(dtype)
    assert_same_bits(bilateral_ops.slice(grid, guide), want)
    assert_same_bits(bilateral_ops.slice(strided, guide), want)


def test_out_between_the_inputs_elements_is_no_overlap() -> None:
    example = arguments("slice_apply", ALL_F32, **{**SIZE, "Co": 3})
    want = forward(bilateral_ops, "slice_apply", example)
    n, h, w, c = example["image"].shape
    both = np.zeros((n, h, w, 2, c), np.float32)
    both[..., 0, :] = example["image"]
    out = forward(bilateral_ops, "slice_apply", {**example, "image": both[..., 0, :]}, out=both[..., 1, :])
    assert_same_bits(out, want)
    assert_same_bits(both[..., 0, :], example["image"])


# ---------------------------------------------------------------------------------------------------------------------
# Drawn shapes, strides and dtypes
# ---------------------------------------------------------------------------------------------------------------------

SMALL, WIDE = st.integers(1, 4), st.integers(0, 40)


@st.composite
def examples(draw: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A subject, its arguments, and the same arguments in drawn layouts."""
    subject = draw(st.sampled_from(SUBJECTS))
    sizes = {name: draw(SMALL) for name in ("Gh", "Gw", "Co", "K", "F")}
    sizes |= {"N": draw(st.sampled_from([None, 0, 1, 3])), "H": draw(st.integers(0, 4)), "W": draw(WIDE)}
    sizes |= {"Gd": draw(st.sampled_from([1, 2, 7, 8, 9, 20])), "offset": draw(st.booleans())}
    if subject == "resize_area":  # which has no average of nothing
        sizes |= {axis: max(sizes[axis], 1) for axis in ("H", "W")}
    sizes["Ci"] = 3 if subject in ("guide_luma", "enhance(luma)") else draw(SMALL)
    if subject in ("slice", "splat", "total_variation"):
        sizes["C"] = tuple(draw(st.lists(SMALL, min_size=1, max_size=2)))
    if subject in ("slice", "slice_apply", "splat"):
        sizes["xy"] = draw(st.booleans())
    dtypes = draw(st.sampled_from(dtypes_of(subject)))
    example = with_grad(subject, arguments(subject, dtypes, **sizes))

    def layout(array: Any) -> Any:
        broadcast = tuple(draw(st.booleans()) and draw(st.booleans()) for _ in array.shape)
        kept = array[tuple(slice(0, 1) if b else slice(None) for b in broadcast)]
        vessel = Vessel(
            kept.shape,
            kept.dtype,
            order=tuple(draw(st.permutations(range(array.ndim)))),
            steps=tuple(draw(st.sampled_from([-3, -2, -1, 1, 2])) for _ in array.shape),
            margin=draw(st.integers(0, 1)),
            offset=draw(st.integers(0, 3)),
        )
        vessel.array[...] = kept
        return np.broadcast_to(vessel.array, array.shape)

    views = {name: layout(array) for name, array in arrays(example).items()}
    contiguous = {name: np.array(view, order="C") for name, view in views.items()}
    return subject, replaced(example, **contiguous), replaced(example, **views)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(examples())
def test_drawn_layouts_give_the_same_bits(drawn: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    subject, contiguous, views = drawn
    assert_same(call(subject, views), call(subject, contiguous), subject)
    for name, array in arrays(contiguous).items():
        assert_same_bits(arrays(views)[name], array, f"the input {name} was modified")


def _read_only(array: Any) -> Any:
    view = array[...]
    view.flags.writeable = False
    return view
