"""What do NaN, infinity, signed zero, subnormal and huge numbers give, and arrays of no elements?"""

from __future__ import annotations

import itertools
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
    GUIDES,
    SAMPLED,
    SUBJECTS,
    U8,
    U16,
    Dtypes,
    arguments,
    arrays,
    as_float64,
    assert_forward,
    assert_same_bits,
    backward,
    dtypes_of,
    finfo,
    forward,
    operation,
    random_like,
    reference,
    replaced,
    result_dtype,
)

import bilateral_ops
from bilateral_ops.reference import numpy as specification

CORNERS = pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
#: Few pixels between two columns of cells, and many.
SIZES = {
    "dense grid": {"W": 37, "Gw": 9, "Gd": 4},
    "sparse grid": {"W": 101, "Gw": 3, "Gd": 8},
    "deep grid": {"W": 101, "Gw": 3, "Gd": 17},
}
SIZES = {name: {"N": 2, "H": 5, "Gh": 5, **size} for name, size in SIZES.items()}
PIXEL = (1, 3, 20)
FLOATS = pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)

pytestmark = pytest.mark.usefixtures("isa")


def only_at(pixel: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    mask = np.zeros(shape, bool)
    mask[pixel] = True
    return mask


# ---------------------------------------------------------------------------------------------------------------------
# NaN stays where it is
# ---------------------------------------------------------------------------------------------------------------------

#: An argument with a value for every pixel, for each subject that has one.
PIXELWISE = [
    *((subject, "guide") for subject in ("slice", "slice_apply")),
    *((subject, "xy") for subject in ("slice", "slice_apply")),
    *((s, "image") for s in SUBJECTS if s not in ("slice", "splat", "total_variation", "resize_area")),
    ("apply", "coefficients"),
]


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize(("subject", "name"), PIXELWISE)
@FLOATS
def test_a_bad_pixel_spoils_no_other(subject: str, name: str, dtype: Any, value: float) -> None:
    for size_name, size in SIZES.items():
        given = arguments(subject, Dtypes(dtype, dtype, dtype), **size, **({"xy": True} if name == "xy" else {}))
        good = forward(bilateral_ops, subject, given)
        given[name][PIXEL] = value
        got = forward(bilateral_ops, subject, given)
        elsewhere = ~only_at(PIXEL, good.shape)
        assert_same_bits(got[elsewhere], good[elsewhere], size_name)
        if np.isnan(value):
            assert np.isnan(got[PIXEL]).all(), size_name
        elif name in ("guide", "xy"):
            assert np.isfinite(got[PIXEL]).all(), size_name


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("size", [(2, 6), (3, 40), (5, 37), (11, 20), (23, 90)], ids=str)
@FLOATS
def test_a_bad_pixel_reaches_the_areas_that_it_has_a_share_of(dtype: Any, size: tuple[int, int], value: float) -> None:
    """Forward and backward, where a pixel ends at the border of an area, too."""
    given = arguments("resize_area", Dtypes(dtype, dtype, dtype), N=2, H=5, W=37, size=size)
    bad_row = np.zeros((2, 5, 37, 3))
    bad_row[PIXEL][1] = 1
    reached = specification.resize_area(bad_row, size) > 0
    assert 0 < reached.sum() <= 9 * max(1, size[0] // 5) * max(1, size[1] // 37)
    good = forward(bilateral_ops, "resize_area", given)
    given["image"][PIXEL][1] = value
    got = forward(bilateral_ops, "resize_area", given)
    assert_same_bits(got[~reached], good[~reached])
    assert not np.isfinite(got[reached]).any()

    grad = np.ones_like(got)
    at = tuple(np.argwhere(reached)[0])
    grad[at] = value
    gradient = bilateral_ops.resize_area_vjp(given["image"], grad).image
    only = np.zeros(got.shape)
    only[at] = 1
    reached = specification.resize_area_vjp(bad_row, only).image > 0
    good = bilateral_ops.resize_area_vjp(given["image"], np.ones_like(got)).image
    assert_same_bits(gradient[~reached], good[~reached])
    assert not np.isfinite(gradient[reached]).any()


@pytest.mark.parametrize("subject", ["slice_apply", "enhance(curves)", "enhance(nn)"])
@pytest.mark.parametrize("dtype", [U8, U16], ids=str)
def test_nan_in_an_integer_image_is_zero(subject: str, dtype: Any) -> None:
    for size in SIZES.values():
        given = arguments(subject, Dtypes(dtype, F32, F32), **size)
        given["grid"][...] += 0.5
        if subject == "slice_apply":
            good = forward(bilateral_ops, subject, given)
            given["guide"][PIXEL] = np.nan
            got = forward(bilateral_ops, subject, given)
            elsewhere = ~only_at(PIXEL, good.shape)
            assert (got[elsewhere] == good[elsewhere]).all()
            assert (got[PIXEL] == 0).all()
        else:
            bias = "guide.mix_bias" if "curves" in subject else "guide.b2"
            assert not forward(bilateral_ops, subject, replaced(given, **{bias: F32.type(np.nan)})).any()


@pytest.mark.parametrize("subject", ["slice", "slice_apply", *GUIDES])
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@CORNERS
def test_a_bad_cell_reaches_no_pixel_further_than_a_cell_away(subject: str, value: float, align_corners: bool) -> None:
    for size_name, size in SIZES.items():
        given = arguments(subject, ALL_F32, **size)
        good = forward(bilateral_ops, subject, given, align_corners=align_corners)
        exact = as_float64(given)
        guide = exact["guide"] if subject not in GUIDES else reference._evaluate(exact["guide"], exact["image"])
        cells = given["grid"].shape[1:4]
        ramps = np.broadcast_to(np.stack(np.indices(cells), -1), (2, *cells, 3))
        positions = reference.slice(ramps, guide, align_corners=align_corners)
        seen: list[tuple[bool, bool]] = []
        corners = [(1, 2, 1, 1), (1, 1, cells[1] - 1, 0), (0, 0, 0, 0), (0, 4, cells[1] - 1, cells[2] - 1)]
        for cell in [*corners, (1, 2, 1, cells[2] // 2)]:
            bad = given["grid"].copy()
            bad[cell] = value
            got = forward(bilateral_ops, subject, {**given, "grid": bad}, align_corners=align_corners)
            near = (np.abs(positions - cell[1:]) <= 1 + 1e-6).all(-1)
            near[1 - cell[0]] = False
            assert_same_bits(got[~near], good[~near], f"{size_name}, {cell}")
            seen.append((bool(near.any()), bool((got[near] != good[near]).any())))
        assert all(np.any(seen, axis=0)), size_name


@pytest.mark.parametrize("shape", [(1, 3, 2, 4, 5), (1, 1, 1, 4, 1), (1, 2, 1, 1, 40), (1, 1, 3, 1, 70)], ids=str)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_an_infinite_cell_makes_an_infinite_total_variation(shape: tuple[int, ...], dtype: Any) -> None:
    """At the grid's borders, too, where a neighbour is missing."""
    for cell in np.ndindex(shape):
        grid = np.zeros(shape, dtype)
        grid[cell] = np.inf
        assert bilateral_ops.total_variation(grid) == np.inf, cell


#: What is summed into a grid, for each subject that sums.
SUMMED = [
    *(("slice", name) for name in ("guide", "grad", "xy")),
    *(("slice_apply", name) for name in ("guide", "image", "grad", "xy")),
    *(("splat", name) for name in ("guide", "values", "xy")),
]


@CORNERS
@pytest.mark.parametrize(("subject", "name"), SUMMED)
@pytest.mark.parametrize("pixel", [PIXEL, (0, 0, 0), (1, 4, -1), (0, 2, 18)], ids=str)
def test_a_bad_pixel_reaches_four_grid_columns_only(subject: str, name: str, pixel: Any, align_corners: bool) -> None:
    """Everything summed into a grid: splat forward, and the grid gradients of the others."""
    for size_name, size in SIZES.items():
        given = arguments(subject, ALL_F32, **size, **({"xy": True} if name == "xy" else {}))
        if subject != "splat":
            given["grad"] = random_like(forward(bilateral_ops, subject, given).shape, F32)

        def results(given: dict[str, Any] = given, **changes: Any) -> tuple[Any, dict[str, Any]]:
            new = {**given, **changes}
            if subject == "splat":
                return forward(bilateral_ops, subject, new, align_corners=align_corners), {}
            grad = new.pop("grad")
            gradients = backward(bilateral_ops, subject, new, grad, align_corners=align_corners)._asdict()
            return gradients.pop("grid"), {k: v for k, v in gradients.items() if v is not None}

        good_grid, good = results()
        for value in (np.nan, np.inf, -np.inf):
            bad = given[name].copy()
            bad[pixel] = value
            grid, gradients = results(**{name: bad})
            changed = (grid != good_grid).any((3, 4, *range(5, grid.ndim)))
            assert changed.sum() <= (8 if name == "xy" else 4)  # where the coordinate was, and where it is
            assert np.isnan(grid).any((3, 4, *range(5, grid.ndim))).sum() <= 4
            if name != "xy":
                here = only_at(pixel[1:], (size["H"], size["W"]))[None, ..., None]
                cells = (size["Gh"], size["Gw"])
                weights = reference.splat(np.zeros(here.shape[:3]), here, (*cells, 1), align_corners=align_corners)
                i, j = np.minimum(np.argwhere(weights[0, ..., 0, 0] > 0).min(0), np.array(cells) - 2)
                around = np.zeros((2, *cells), bool)
                around[pixel[0], i : i + 2, j : j + 2] = True
                assert not (changed & ~around).any()
            for field, gradient in gradients.items():
                elsewhere = ~only_at(pixel, gradient.shape)
                assert_same_bits(gradient[elsewhere], good[field][elsewhere], f"{size_name}, {field}, {value}")


@pytest.mark.parametrize("subject", ["apply", "guide_curves", "guide_nn", "guide_luma"])
@pytest.mark.parametrize("name", ["grad", "image"])
def test_a_bad_pixel_spoils_no_other_pixels_gradient(subject: str, name: str) -> None:
    for size_name, size in SIZES.items():
        given = arguments(subject, ALL_F32, **size)
        given["grad"] = random_like(forward(bilateral_ops, subject, given).shape, F32)
        bad = {**given, name: given[name].copy()}
        bad[name][PIXEL] = np.nan
        good, got = (backward(bilateral_ops, subject, a, a.pop("grad"))._asdict() for a in (given, bad))
        for field in {"image", "coefficients"} & set(got):
            elsewhere = ~only_at(PIXEL, got[field].shape)
            assert_same_bits(got[field][elsewhere], good[field][elsewhere], f"{size_name}, {field}")


# ---------------------------------------------------------------------------------------------------------------------
# Infinite and huge coordinates clamp
# ---------------------------------------------------------------------------------------------------------------------


@CORNERS
@pytest.mark.parametrize("subject", ["slice", "slice_apply", "splat"])
@FLOATS
def test_far_coordinates_clamp(subject: str, dtype: Any, align_corners: bool) -> None:
    top = float(finfo(dtype).max)
    for depth, name in itertools.product((1, 2, 5, 8, 17), ("guide", "xy")):
        sizes = {"H": 2, "W": 35, "Gh": 2 if depth > 1 else 1, "Gw": 3, "Gd": depth}
        given = arguments(subject, Dtypes(dtype, dtype, dtype), **sizes, xy=name == "xy")
        grad = random_like(forward(bilateral_ops, subject, given).shape, dtype)
        for near, far in ((1.5, (3.0, 1e4, top, np.inf)), (-0.5, (-3.0, -1e4, -top, -np.inf))):
            at = {**given, name: np.full_like(given[name], near)}
            want = forward(bilateral_ops, subject, at, align_corners=align_corners)
            slopes = backward(bilateral_ops, subject, at, grad, align_corners=align_corners)._asdict()
            assert np.isfinite(want).all()
            assert not slopes[name].any()
            for value in far:
                at[name] = np.full_like(given[name], value)
                got = forward(bilateral_ops, subject, at, align_corners=align_corners)
                assert_same_bits(got, want, f"depth {depth}, {name} {value}")
                for field, gradient in (
                    backward(bilateral_ops, subject, at, grad, align_corners=align_corners)._asdict().items()
                ):
                    assert_same_bits(gradient, slopes[field], f"depth {depth}, {name} {value}: gradient of {field}")


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
@pytest.mark.parametrize("dtype", [F16, F32, F64], ids=str)
def test_whatever_the_numbers_are_nothing_crashes(subject: str, dtype: Any) -> None:
    info = np.finfo(dtype)
    numbers = (info.max, -info.max, np.inf, -np.inf, np.nan, info.smallest_subnormal, -0.0)
    calls = [arguments(subject, Dtypes(dtype, dtype, dtype), H=3, W=37)]
    if subject in SAMPLED:
        calls.append(arguments(subject, Dtypes(dtype, dtype, dtype), H=3, W=37, xy=True))
    for given, names in ((a, names) for a in calls for names in (*([name] for name in arrays(a)), list(arrays(a)))):
        good = forward(bilateral_ops, subject, given)
        for number in numbers:
            bad = replaced(given, **{name: np.full_like(given[name], number) for name in names})
            result = forward(bilateral_ops, subject, bad)
            assert result.shape == good.shape
            assert result.dtype == good.dtype == dtype
            gradients = backward(bilateral_ops, subject, bad, np.full_like(good, number))._asdict()
            assert all(gradients[name].shape == np.shape(array) for name, array in arrays(bad).items())


# ---------------------------------------------------------------------------------------------------------------------
# Conversions
# ---------------------------------------------------------------------------------------------------------------------


def through_apply(coefficients: Any, image: Any) -> Any:
    """One coefficient per pixel times one channel."""
    return bilateral_ops.apply(coefficients.reshape(1, -1, 1, 1), image.reshape(1, -1, 1)).reshape(-1)


@pytest.mark.parametrize("dtype", [F16, BF16, U8, U16], ids=str)
@pytest.mark.parametrize("rest", ["own", "float32"])
def test_every_number_times_one_is_itself(dtype: Any, rest: str) -> None:
    every = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    ones = np.ones(every.size, F32 if dtype.kind == "u" or rest == "float32" else dtype)
    got = through_apply(ones, every)
    if dtype.kind == "u":
        assert_same_bits(got, every)
        return
    for result in (got, through_apply(every, ones) if rest == "own" else got):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(result.astype(F64), every.astype(F64))  # any NaN, either zero


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_results_are_rounded_to_nearest_even(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(F32)
    with np.errstate(over="ignore", invalid="ignore"):
        halfway = (every[:-1] + every[1:]) / 2  # between neighbours: the ties
        anything = rng.integers(0, 1 << 32, 200_000, np.uint32).view(F32)
        numbers = np.concatenate([halfway, np.nextafter(halfway, np.inf), np.nextafter(halfway, -np.inf), anything])
        want = numbers.astype(dtype)
    got = through_apply(numbers, np.ones(numbers.size, dtype))
    np.testing.assert_array_equal(got.astype(F64), want.astype(F64))


@pytest.mark.parametrize("dtype", [U8, U16], ids=str)
def test_integer_results_saturate_and_round_half_to_even(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    far = np.array([1.5, 1e9, 3e38, np.inf, -0.1, -1e9, -3e38, -np.inf, np.nan, -0.0, 0.5, 1.0, 1e-45], F32)
    want = np.array([top, top, top, top, 0, 0, 0, 0, 0, 0, (top + 1) // 2, top, 0], dtype)
    assert_same_bits(through_apply(far, np.full(far.size, top, dtype)), want)
    # Offsets that the scaling to levels takes exactly to a tie.
    levels = np.arange(top, dtype=F32) + F32.type(0.5)
    offsets = levels / F32.type(top)
    tie = offsets * F32.type(top) == levels
    assert tie.sum() > top // 2
    affine = np.stack([np.zeros_like(offsets), offsets], -1)[None, :, None, :]
    got = bilateral_ops.apply(affine, np.zeros((1, top, 1), dtype)).reshape(-1)
    assert_same_bits(got[tie], np.rint(levels[tie]).astype(dtype))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_subnormal_and_signed_zero_pass(dtype: Any) -> None:
    info = np.finfo(dtype)
    tiny = np.array([info.smallest_subnormal, -info.smallest_subnormal, info.tiny / 3, 0.0, -0.0], dtype)
    got = through_apply(np.ones_like(tiny), tiny)
    assert_same_bits(np.abs(got), np.abs(tiny))
    assert (got == tiny).all()
    grid = np.broadcast_to(tiny, (2, 3, 4, tiny.size))
    sliced = bilateral_ops.slice(grid, np.full((3, 20), 0.4, dtype))
    assert (sliced == tiny).all()
    minus, plus = (bilateral_ops.slice(grid, np.full((3, 20), zero, dtype)) for zero in (-0.0, 0.0))
    assert_same_bits(minus, plus)


def test_a_sigmoid_far_out_is_flat_and_finite() -> None:
    given = arguments("guide_nn", ALL_F32, W=33)
    for far, level in ((-1e4, 0.0), (1e4, 1.0), (-3e38, 0.0), (3e38, 1.0), (-np.inf, 0.0), (np.inf, 1.0)):
        given["b2"] = np.asarray(far, F32)
        result = forward(bilateral_ops, "guide_nn", given)
        assert (result == level).all()
        gradients = backward(bilateral_ops, "guide_nn", given, np.ones_like(result))
        assert all(not gradient.any() for gradient in gradients), far


# ---------------------------------------------------------------------------------------------------------------------
# No elements
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [{"N": 0}, {"H": 0}, {"W": 0}, {"N": 0, "H": 0, "W": 0}], ids=str)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_empty_images_and_batches(subject: str, empty: dict[str, int]) -> None:
    if subject == "resize_area" and empty != {"N": 0}:
        pytest.skip("an image of no rows or no columns has no average: test_errors.py")
    for dtypes in dtypes_of(subject):
        given = arguments(subject, dtypes, **{"N": 2, "H": 3, "W": 4, **empty})
        want = forward(reference, subject, as_float64(given))
        got = forward(bilateral_ops, subject, given)
        assert_forward(got, want, result_dtype(subject, dtypes))
        if operation(subject) not in DIFFERENTIABLE:
            continue
        grad = np.ones(want.shape, F32 if dtypes.image.kind == "u" else dtypes.image)
        for name, gradient in backward(bilateral_ops, subject, given, grad)._asdict().items():
            if gradient is not None:
                assert gradient.shape == given[name].shape
                assert gradient.dtype == given[name].dtype
                if subject != "splat" and subject != "total_variation":
                    assert not gradient.any(), f"the gradient of {name} by no pixels is 0"


def test_an_empty_window_anywhere() -> None:
    given = arguments("slice", ALL_F64, H=0, W=4)
    assert forward(bilateral_ops, "slice", given, window=(7, 2, 7, 6)).shape == (0, 4, 3, 4)
    assert forward(bilateral_ops, "slice", arguments("slice", ALL_F64, H=0, W=0), window=(0, 0, 0, 0)).size == 0


# ---------------------------------------------------------------------------------------------------------------------
# What only some widths or some calls would show
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("W", [15, 16, 17, 33])
def test_an_infinite_parameter_counts_the_pixels_that_are_there(isa: str, W: int) -> None:
    image, one = np.full((1, W, 1), 0.5, F32), np.ones(1, F32)
    off = np.array([[-np.inf]], F32)
    network = bilateral_ops.guide_nn_vjp(image, off, 0 * one, one, 0.0, np.ones((1, W), F32))
    assert network.b2 == W / 4
    assert network.w2 == 0
    knot = one[:, None]
    curves = bilateral_ops.guide_curves_vjp(image, off, 0 * one, knot, knot, one, 0.5, np.ones((1, W), F32))
    assert curves.mix_bias == W
    assert curves.mix == curves.slopes == 0


def test_the_deepest_grid_is_sampled_between_its_neighbours(isa: str) -> None:
    Gd = 1 << 23
    grid = np.broadcast_to(np.float32(0.25), (1, 1, Gd, 1)).copy()
    grid[0, 0, Gd // 2 :] = 0.75
    guide = np.linspace(0, 1, 257, dtype=F32)[None]
    values = bilateral_ops.slice(grid, guide)
    assert values.min() == 0.25
    assert values.max() == 0.75


def test_a_number_is_looked_at_each_time() -> None:
    given = arguments("guide_nn", ALL_F32)
    for bias in (0.0, 100.0, -200.0):
        given["b2"] = bias
        want = 1 / (1 + np.exp(-bias))
        assert np.abs(forward(bilateral_ops, "guide_nn", given) - want).max() < (0.5 if bias == 0 else 1e-6)


# Few knots, a table of them, more than a table has: three ways to one meaning.
KNOTS = (1, 4, 5, 8, 10, 13, 16, 17)


def _curves_at(values: Any, dtype: Any, knots: int, slopes: str) -> dict[str, Any]:
    """guide_curves' arguments. Several knots are equal; some pixels are on them, others have these values. What is
    infinite in one channel of the image is so in all that the curves see."""
    rng = np.random.default_rng(knots)
    shifts = rng.choice(np.linspace(-0.5, 1.5, max(2, knots // 2)), (3, knots))
    weights = rng.uniform(0.1, 1, (3, knots))
    if slopes == "falling":
        weights *= -1
    elif slopes == "mixed":
        weights *= np.where(np.arange(knots) % 2, 1, -1)
    elif slopes == "the last tiny":
        last = knots - 1 - shifts[:, ::-1].argmax(1)[:, None]
        np.put_along_axis(weights, last, float(np.finfo(dtype).smallest_subnormal), 1)
    elif slopes != "rising":
        weights[:, knots // 2] = {"some flat": 0, "one infinite": np.inf, "one NaN": np.nan}[slopes]
    image = np.zeros((1, 40, 3))
    image[0, :, 1] = np.resize([*values, *shifts[1], *rng.uniform(-1, 2, 9)], 40)
    given = {
        "image": image,
        "ccm": np.ones((3, 3)),
        "ccm_bias": np.zeros(3),
        "shifts": shifts,
        "slopes": weights,
        "mix": np.full(3, 1e-3),
        "mix_bias": np.asarray(0.5),
    }
    return {name: value.astype(dtype) for name, value in given.items()}


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize(
    "slopes", ["rising", "falling", "the last tiny", "mixed", "some flat", "one infinite", "one NaN"]
)
def test_curves_of_any_number_are_their_sum_at_any_number(dtype: Any, slopes: str) -> None:
    for knots in KNOTS:
        given = _curves_at([-np.inf, np.inf, np.nan, -1e30, 1e30], dtype, knots, slopes)
        want = specification.guide_curves(**{name: value.astype(F64) for name, value in given.items()})
        got = bilateral_ops.guide_curves(**given)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 if dtype == F32 else 1e-14, err_msg=f"{knots} knots")


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("slopes", ["rising", "mixed", "some flat"])
@pytest.mark.parametrize("first", [1.0, np.inf, np.nan], ids=str)
def test_gradients_of_curves_of_any_number_are_their_sums(dtype: Any, slopes: str, first: float) -> None:
    for knots in KNOTS:
        given = _curves_at([0.6, -3, 1e3], dtype, knots, slopes)
        grad = np.random.default_rng(knots).uniform(-1, 1, (1, 40)).astype(dtype)
        grad[0, 0] = first
        got = bilateral_ops.guide_curves_vjp(**given, grad=grad)._asdict()
        doubles = {name: value.astype(F64) for name, value in given.items()}
        with np.errstate(invalid="ignore"):
            want = specification.guide_curves_vjp(**doubles, grad=grad.astype(F64))._asdict()
        if not np.isfinite(first):  # 0·grad is NaN there, and no one says of which knots the pixel is above
            want = {name: want[name] for name in ("slopes", "mix", "mix_bias")}
        tolerance = 1e-5 if dtype == F32 else 1e-14
        for name, value in want.items():
            scale, where = np.abs(value[np.isfinite(value)]).max(initial=0.0), f"{knots} knots: {name}"
            np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance * scale, err_msg=where)
