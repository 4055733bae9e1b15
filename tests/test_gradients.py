"""Are the gradients those of the operations: at the kinks, between them, and in every way to ask for them?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    ALL_F64,
    BF16,
    DIFFERENTIABLE,
    F16,
    F32,
    F64,
    SAMPLED,
    U8,
    U16,
    Dtypes,
    arguments,
    arrays,
    as_float64,
    assert_same_bits,
    backward,
    backward_example,
    cases_of,
    clear_of_kinks,
    dtypes_of,
    forward,
    keywords_of,
    random_like,
    reference,
)

import bilateral_ops

CORNERS = pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])


# ---------------------------------------------------------------------------------------------------------------------
# Kinks
# ---------------------------------------------------------------------------------------------------------------------


@CORNERS
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
@pytest.mark.parametrize(
    ("axis", "with_xy"), [(0, True), (1, True), (2, True), (2, False)], ids=["x", "y", "z", "guide"]
)
@pytest.mark.parametrize("subject", SAMPLED)
def test_on_a_knot_the_slope_is_that_of_the_cell_above_and_none_where_clamped(
    subject: str, axis: int, with_xy: bool, dtype: Any, align_corners: bool, backend: Any
) -> None:
    cells = 5 if align_corners else 4  # so that every dtype represents the knots exactly
    spacing, first = (1 / (cells - 1), 0.0) if align_corners else (1 / cells, 0.5 / cells)
    # A pixel on each knot, one on each side beyond them all, and one inside each cell.
    u = first + spacing * np.concatenate([np.arange(cells), [-0.25, cells - 0.75], np.arange(cells - 1) + 0.5])
    heights = np.array([1.0, 3.0, -2.0, 8.0, 5.0])[:cells]  # along the axis; constant along the others
    slope = (heights[1:] - heights[:-1]) / spacing
    want = np.concatenate([[0], slope[1:], [0, 0, 0], slope])  # on the first and the last knot clamped already
    u, want = np.tile(u, 8), np.tile(want, 8)  # a wide image

    grid_axis = {0: 1, 1: 0, 2: 2}[axis]
    table = np.broadcast_to(heights.reshape([-1 if a == grid_axis else 1 for a in range(4)]), (cells,) * 3 + (1,))
    middle = first + 1.25 * spacing
    coordinates = [np.full_like(u, middle), np.full_like(u, middle), np.full_like(u, middle)]
    coordinates[axis] = u
    table = table.astype(dtype)
    ones = np.ones((1, u.size, 1), dtype)
    xy, guide = np.stack(coordinates[:2], -1)[None].astype(dtype), coordinates[2][None].astype(dtype)
    keywords = {"xy": xy if with_xy else None, "align_corners": align_corners}
    if subject == "slice":
        got = backend.slice_vjp(table, guide, ones, **keywords)
    elif subject == "slice_apply":
        got = backend.slice_apply_vjp(table[..., None], guide, ones, ones, **keywords)
    else:
        got = backend.splat_vjp(guide, ones, table, **keywords)
    slopes = [*(np.moveaxis(got.xy[0], -1, 0) if with_xy else (None, None)), got.guide[0]]
    for i, gradient in enumerate(slopes):
        if gradient is not None:
            np.testing.assert_array_equal(gradient.astype(F64), want if i == axis else np.zeros_like(want), f"axis {i}")


@CORNERS
@pytest.mark.parametrize("subject", SAMPLED)
def test_an_axis_of_one_cell_has_no_slope(subject: str, align_corners: bool, backend: Any) -> None:
    given = arguments(subject, ALL_F32, W=33, Gh=1, Gw=1, Gd=1, xy=True, guide_range=(0.0, 1.0))
    grad = random_like(forward(backend, subject, given).shape, F32)
    got = backward(backend, subject, given, grad, align_corners=align_corners)
    assert not got.guide.any()
    assert not got.xy.any()


@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
def test_curves_are_flat_at_their_knots_and_where_clipped(dtype: Any, backend: Any) -> None:
    def gradients(value: float, shift: float, bias: float) -> Any:
        image = np.full((1, 17, 1), value)
        parameters = (np.eye(1), np.zeros(1), np.array([[shift]]), np.ones((1, 1)), np.ones(1), np.array(bias))
        call = [a.astype(dtype) for a in (image, *parameters, np.ones((1, 17)))]
        return backend.guide_curves_vjp(*call)

    at_knot = gradients(0.5, 0.5, 0.25)
    assert (at_knot.mix_bias, at_knot.slopes, at_knot.shifts, at_knot.ccm_bias) == (17, 0, 0, 0)
    assert not at_knot.image.any()
    above = gradients(0.75, 0.5, 0.25)
    assert (above.mix_bias, above.slopes, above.shifts, above.ccm_bias) == (17, 4.25, -17, 17)
    for bias in (-0.25, 0.75, -1.0, 2.0):  # exactly 0, exactly 1, below, above
        assert not any(np.any(gradient) for gradient in gradients(0.75, 0.5, bias)), bias


@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
def test_a_network_is_flat_at_its_kink(dtype: Any, backend: Any) -> None:
    def gradients(value: float) -> Any:
        call = (np.full((1, 17, 1), value), np.ones((1, 1)), np.array([-0.5]), np.array([4.0]), np.array(0.0))
        return backend.guide_nn_vjp(*(a.astype(dtype) for a in (*call, np.ones((1, 17)))))

    at_kink = gradients(0.5)
    assert (at_kink.b2, at_kink.w2, at_kink.b1, at_kink.w1) == (4.25, 0, 0, 0)
    assert not at_kink.image.any()
    assert gradients(0.75).b1 > 0
    assert gradients(0.75).image.all()


# ---------------------------------------------------------------------------------------------------------------------
# Finite differences
# ---------------------------------------------------------------------------------------------------------------------

TRIED = ("3 to 4", "4 to 3", "no offset 4 to 3", "depth 1", "batched", "xy batched", "xy corners", "window corners")


@pytest.mark.parametrize(
    ("subject", "case"), [(s, c) for s in DIFFERENTIABLE for c in ("plain", *TRIED) if c in cases_of(s)], ids=str
)
def test_every_partial_derivative_is_the_quotient_of_differences(subject: str, case: str, backend: Any) -> None:
    """In float64, every coordinate of every argument, on small images: nothing here uses the reference's gradients."""
    options = {**cases_of(subject)[case], "Gh": 2, "Gw": 3, "Gd": min(3, cases_of(subject)[case].get("Gd", 3))}
    if "window" not in options:
        options |= {"H": 2, "W": 4}
    keywords = keywords_of(options)
    given = clear_of_kinks(subject, arguments(subject, ALL_F64, **options), keywords.get("align_corners", False))
    grad = random_like(forward(backend, subject, given, **keywords).shape, F64)
    got = backward(backend, subject, given, grad, **keywords)
    step = 1e-6  # clear_of_kinks keeps 1e-5 away from them
    for name, array in arrays(given).items():
        moved = np.array(array, order="C")
        flat = moved.reshape(-1)
        differences = np.empty(flat.shape)
        for i, value in enumerate(flat):
            flat[i] = value + step
            above = forward(backend, subject, {**given, name: moved}, **keywords)
            flat[i] = value - step
            below = forward(backend, subject, {**given, name: moved}, **keywords)
            flat[i] = value
            differences[i] = np.sum((above - below) * grad) / (2 * step)
        scale = np.abs(differences).max(initial=1)
        np.testing.assert_allclose(getattr(got, name).reshape(-1), differences, rtol=0, atol=1e-8 * scale, err_msg=name)


# ---------------------------------------------------------------------------------------------------------------------
# wrt, out, dtypes
# ---------------------------------------------------------------------------------------------------------------------

EVERY = [(subject, dtypes) for subject in DIFFERENTIABLE for dtypes in dtypes_of(subject)]


@pytest.mark.parametrize(("subject", "dtypes"), EVERY, ids=[f"{s}-{k}" for s, k in EVERY])
@pytest.mark.parametrize("ways", ["wide", "xy"])
def test_each_gradient_alone_has_the_bits_of_all_together(
    subject: str, dtypes: Dtypes, ways: str, backend: Any
) -> None:
    xy = subject in SAMPLED and ways == "xy"
    given = arguments(subject, dtypes, N=2, H=5, W=37, Co=3 if ways == "wide" else 4, xy=xy)
    result = forward(backend, subject, given)
    grad = random_like(result.shape, F32 if dtypes.image.kind == "u" else result.dtype)
    together = backward(backend, subject, given, grad)
    fields = together._fields
    floats = {name for name, array in arrays(given).items() if array.dtype.kind != "u"}
    for name in fields:
        assert (getattr(together, name) is not None) == (name in floats)
        if name in floats:
            assert getattr(together, name).dtype == given[name].dtype
    pairs = [(a, b) for i, a in enumerate(fields) for b in fields[i + 1 :]]
    for wrt in ((), *((name,) for name in fields), *pairs, fields, list(fields[:1])):
        alone = backward(backend, subject, given, grad, wrt=iter(wrt) if len(wrt) == 1 else wrt)
        assert type(alone) is type(together)
        for name in fields:
            assert_same_bits(getattr(alone, name), getattr(together, name) if name in wrt else None, f"{wrt} {name}")


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
@pytest.mark.usefixtures("isa")
def test_out_is_filled_and_returned(subject: str) -> None:
    given = arguments(subject, ALL_F32, W=33, xy=subject in SAMPLED)
    grad = random_like(forward(bilateral_ops, subject, given).shape, F32)
    want = backward(bilateral_ops, subject, given, grad)
    for chosen in ((), *((name,) for name in want._fields), want._fields):
        out = {name: np.full_like(getattr(want, name), np.nan) for name in chosen}
        got = backward(bilateral_ops, subject, given, grad, out=out)
        for name in want._fields:
            assert (getattr(got, name) is out.get(name)) == (name in chosen)
            assert_same_bits(getattr(got, name), getattr(want, name), name)
        if len(chosen) == 1:
            out[chosen[0]].fill(np.nan)
            only = backward(bilateral_ops, subject, given, grad, wrt=chosen, out=out)
            assert getattr(only, chosen[0]) is out[chosen[0]]
            assert_same_bits(out[chosen[0]], getattr(want, chosen[0]))


@pytest.mark.parametrize("dtypes", [ALL_F32, ALL_F64, Dtypes(F16, F16, F16)], ids=str)
@pytest.mark.parametrize("subject", [s for s in DIFFERENTIABLE if "image" in arguments(s)])
@pytest.mark.parametrize("width", [33, 300])
@pytest.mark.usefixtures("isa")
def test_the_images_gradient_may_be_written_over_the_image(subject: str, dtypes: Dtypes, width: int) -> None:
    given = arguments(subject, dtypes, N=2, W=width)
    grad = random_like(forward(bilateral_ops, subject, given).shape, dtypes.image)
    want = backward(bilateral_ops, subject, given, grad)
    image = given["image"].copy()
    got = backward(bilateral_ops, subject, {**given, "image": image}, grad, out={"image": image})
    assert got.image is image
    for name in want._fields:
        assert_same_bits(getattr(got, name), getattr(want, name), name)


@pytest.mark.parametrize("dtype", [U8, U16], ids=str)
@pytest.mark.parametrize("subject", [s for s in DIFFERENTIABLE if U8 in {k.image for k in dtypes_of(s)}])
def test_the_gradient_by_an_integer_result_is_by_its_value_in_0_to_1(subject: str, dtype: Any, backend: Any) -> None:
    given = arguments(subject, Dtypes(dtype, F32, F32))
    in_floats = {**given, "image": as_float64(given)["image"].astype(F32)}
    grad = random_like(forward(backend, subject, given).shape, F32)
    got, want = (backward(backend, subject, a, grad)._asdict() for a in (given, in_floats))
    assert got.pop("image") is None
    assert want.pop("image") is not None
    for name, gradient in got.items():
        if gradient is not None:
            np.testing.assert_allclose(
                gradient, want[name], rtol=1e-5, atol=1e-5 * np.abs(want[name]).max(), err_msg=name
            )


@pytest.mark.parametrize(("subject", "name"), [("guide_curves", "mix_bias"), ("guide_nn", "b2")])
@pytest.mark.parametrize("dtype", [F16, F32, F64], ids=str)
def test_scalars_may_be_python_or_numpy_numbers(subject: str, name: str, dtype: Any, backend: Any) -> None:
    given = arguments(subject, Dtypes(dtype, dtype, dtype), W=17)
    grad = random_like(forward(backend, subject, given).shape, dtype)
    given[name] = np.asarray(0.25, dtype)
    want, gradients = forward(backend, subject, given), backward(backend, subject, given, grad)
    for value in (0.25, dtype.type(0.25)):
        assert_same_bits(forward(backend, subject, {**given, name: value}), want, f"{value!r}")
        got = backward(backend, subject, {**given, name: value}, grad)
        for field in got._fields:
            assert_same_bits(getattr(got, field), getattr(gradients, field), f"{value!r} {field}")
        assert np.shape(getattr(got, name)) == ()
    assert_same_bits(
        forward(backend, subject, {**given, name: 1}),
        forward(backend, subject, {**given, name: np.asarray(1, dtype)}),
        "a Python int",
    )


@pytest.mark.parametrize(("subject", "case"), [(s, c) for s in DIFFERENTIABLE for c in ("plain", "wide", "batched")])
def test_what_gradients_are_compared_on_has_gradients(subject: str, case: str) -> None:
    """A guide that is clipped everywhere would agree with anything."""
    if case not in cases_of(subject):
        pytest.skip(f"no such case of {subject}")
    gradients = backward_example(subject, case, ALL_F64).gradients
    for name, gradient in gradients._asdict().items():
        assert gradient is None or np.any(gradient), name


def test_the_reference_is_the_transpose_of_its_own_differences() -> None:
    """The sign and scale that the other files' comparisons rest on, checked once without the package."""
    for subject in DIFFERENTIABLE:
        given = clear_of_kinks(subject, arguments(subject, H=3, W=5, Co=4))
        rng = np.random.default_rng(2)
        grad = random_like(forward(reference, subject, given).shape, F64)
        gradients = backward(reference, subject, given, grad)
        for name, array in arrays(given).items():
            way = rng.standard_normal(array.shape)
            above, below = (forward(reference, subject, {**given, name: array + h * way}) for h in (1e-7, -1e-7))
            difference = np.sum((above - below) * grad) / 2e-7
            assert abs(np.sum(getattr(gradients, name) * way) - difference) <= 1e-6 * max(abs(difference), 1), name
