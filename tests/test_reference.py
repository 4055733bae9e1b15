"""Do the operations, and the reference itself, have the properties that their equations promise?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    F16,
    F32,
    F64,
    GUIDES,
    U8,
    U16,
    Dtypes,
    arguments,
    as_float64,
    assert_forward,
    assert_same_bits,
    forward,
)

import bilateral_ops
from bilateral_ops.reference import numpy as specification

MODULES = pytest.mark.parametrize("module", [bilateral_ops, specification], ids=["package", "reference"])
CORNERS = pytest.mark.parametrize("align_corners", [False, True], ids=["centres", "corners"])
#: Guides and coordinates inside, at and outside the borders, and infinite.
ANYWHERE = np.array([-np.inf, -1e300, -3.0, -0.1, -0.0, 0.0, 1e-310, 0.05, 0.37, 0.5, 0.93, 1.0, 1.4, 1e9, np.inf])


@pytest.mark.parametrize("constant", [1.0, 0.1, -3.7, 1e-20, 255.0])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@CORNERS
def test_a_constant_grid_gives_that_constant_exactly(constant: float, dtype: Any, align_corners: bool) -> None:
    with np.errstate(over="ignore"):
        guide = np.tile(ANYWHERE, (12, 3)).astype(dtype)
        xy = np.stack(np.broadcast_arrays(guide[0], ANYWHERE[:12, None]), -1).astype(dtype)
    for cells in [(1, 1, 1), (1, 2, 8), (3, 4, 5), (2, 30, 40)]:
        grid = np.full((*cells, 2), constant, dtype)
        want = np.full((*guide.shape, 2), constant, dtype)
        for keywords in ({}, {"window": (5, 3, 40, 63)}, {"xy": xy}):
            got = bilateral_ops.slice(grid, guide, align_corners=align_corners, **keywords)
            assert_same_bits(got, want, f"{cells} {keywords.keys()}")
        as_matrix = bilateral_ops.slice_apply(
            grid[..., None, :], guide, np.zeros((*guide.shape, 1), dtype), align_corners=align_corners
        )
        assert_same_bits(as_matrix, want[..., :1], f"{cells} slice_apply")
        reference = specification.slice(grid, guide, align_corners=align_corners)
        np.testing.assert_allclose(reference, np.full(want.shape, dtype.type(constant), F64), rtol=2e-15)


@pytest.mark.parametrize("subject", GUIDES)
def test_a_constant_matrix_is_applied_exactly_whatever_the_guide(subject: str) -> None:
    given = arguments(subject, Dtypes(F32, F32, F32), H=9, W=33)
    given["grid"][...] = np.eye(3, 4, dtype=F32)
    assert_same_bits(bilateral_ops.enhance(**given), given["image"])


@MODULES
@CORNERS
@pytest.mark.parametrize("keywords", ["whole", "window", "xy"])
@pytest.mark.parametrize("axis", range(3), ids=["y", "x", "z"])
def test_a_ramp_gives_the_clamped_position(module: Any, align_corners: bool, keywords: str, axis: int) -> None:
    rng = np.random.default_rng(0)
    cells, (h, w) = (4, 7, 5), (11, 23)
    guide, xy = rng.uniform(-0.3, 1.3, (h, w)), rng.uniform(-0.3, 1.3, (h, w, 2))
    top, left, full_h, full_w = (2, 5, 17, 31) if keywords == "window" else (0, 0, h, w)
    i, j = np.mgrid[top : top + h, left : left + w]
    if keywords == "xy":
        u = (xy[..., 1], xy[..., 0], guide)
    elif align_corners:
        u = (i / (full_h - 1), j / (full_w - 1), guide)
    else:
        u = ((i + 0.5) / full_h, (j + 0.5) / full_w, guide)
    size = cells[axis]
    position = np.clip(u[axis] * (size - 1) if align_corners else u[axis] * size - 0.5, 0, size - 1)

    ramp = np.indices(cells)[axis][..., None] * np.array([1.0, -2.5])
    chosen = {"whole": {}, "window": {"window": (top, left, full_h, full_w)}, "xy": {"xy": xy}}[keywords]
    for dtype, atol in ((F64, 1e-13), (F32, 2e-6)):
        given = {key: value.astype(dtype) if key == "xy" else value for key, value in chosen.items()}
        got = module.slice(ramp.astype(dtype), guide.astype(dtype), align_corners=align_corners, **given)
        np.testing.assert_allclose(got[..., 0], position, rtol=0, atol=atol)
        np.testing.assert_allclose(got[..., 1], -2.5 * position, rtol=0, atol=3 * atol)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@MODULES
@CORNERS
def test_on_its_knots_the_grid_has_its_own_values(module: Any, dtype: Any, align_corners: bool) -> None:
    # Sizes at which every position is a dyadic number, so that it falls exactly on the knot.
    cells = (5, 17, 3) if align_corners else (4, 16, 8)
    grid = np.random.default_rng(0).standard_normal((*cells, 3)).astype(dtype)
    for k in range(cells[2]):
        depth = k / (cells[2] - 1) if align_corners else (k + 0.5) / cells[2]
        guide = np.full(cells[:2], depth, dtype)
        want = grid[:, :, k] if module is bilateral_ops else grid[:, :, k].astype(F64)
        assert_same_bits(module.slice(grid, guide, align_corners=align_corners), want, f"depth {k}")


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@CORNERS
def test_where_pixels_are_on_its_cells_the_grid_is_returned_exactly(dtype: Any, align_corners: bool) -> None:
    # Every pixel on a cell; or every 9th (corners: 8th), with the positions between them, of which nothing is asked.
    for cells in [(3, 5), (7, 11), (1, 23), (10, 49)]:
        grid = np.random.default_rng(0).standard_normal((*cells, 1, 2)).astype(dtype)
        for step, first in ((1, 0), (8, 0) if align_corners else (9, 4)):
            size = [(n - 1) * step + 1 if align_corners else n * step for n in cells]
            got = bilateral_ops.slice(grid, np.zeros(size, dtype), align_corners=align_corners)
            assert_same_bits(got[first::step, first::step], grid[:, :, 0], f"{cells}, every {step}")


@MODULES
@CORNERS
@pytest.mark.parametrize("options", [{}, {"N": 2}, {"xy": True}, {"C": ()}, {"Gd": 1}, {"Gh": 9, "Gw": 20}], ids=str)
def test_splat_is_the_transpose_of_slice(module: Any, align_corners: bool, options: dict[str, Any]) -> None:
    options = {"C": (3,), "N": None, **options} if options != {"C": ()} else {"C": (1,)}
    given = arguments("slice", H=6, W=19, **options)
    values = np.random.default_rng(1).standard_normal(specification.slice(**given).shape)
    grid, guide, xy = given["grid"], given["guide"], given.get("xy")
    cells = grid.shape[guide.ndim - 2 :][:3]
    left = np.sum(module.slice(grid, guide, xy=xy, align_corners=align_corners) * values)
    splatted = module.splat(guide, values, cells, xy=xy, align_corners=align_corners)
    assert splatted.shape == grid.shape
    scale = np.sum(np.abs(splatted * grid))
    assert abs(left - np.sum(splatted * grid)) <= 1e-13 * scale
    through_vjp = module.slice_vjp(grid, guide, values, xy=xy, align_corners=align_corners).grid
    np.testing.assert_allclose(through_vjp, splatted, rtol=0, atol=1e-13 * np.abs(splatted).max())


@MODULES
@CORNERS
@pytest.mark.parametrize("xy", [False, True], ids=["pixels", "xy"])
def test_splatted_ones_add_up_to_the_pixels(module: Any, align_corners: bool, xy: bool) -> None:
    given = arguments("splat", N=2, H=7, W=29, C=(2,), xy=xy)
    given["values"][...] = 1
    total = module.splat(*(given[k] for k in ("guide", "values", "grid_shape")), xy=given.get("xy"))
    assert total.min() >= 0
    np.testing.assert_allclose(total.sum((1, 2, 3)), 7 * 29, rtol=1e-13)


@pytest.mark.parametrize("depth", [2, 8, 24])
@pytest.mark.parametrize("cells", [1, 3, 90, 700], ids="{} columns".format)
def test_however_long_the_run_of_pixels_between_two_columns_their_sum_is_right(cells: int, depth: int) -> None:
    rng = np.random.default_rng(cells)
    guide = rng.random((3, 1400), np.float32)
    values = rng.standard_normal((3, 1400, 3)).astype(np.float32)
    got = bilateral_ops.splat(guide, values, (2, cells, depth))
    want = specification.splat(guide.astype(F64), values.astype(F64), (2, cells, depth))
    scale = specification.splat(guide.astype(F64), np.abs(values.astype(F64)), (2, cells, depth))
    assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(scale)


@MODULES
def test_total_variation_of_a_ramp_is_the_sum_of_its_squared_slopes(module: Any) -> None:
    i, j, k = np.indices((4, 5, 6))
    grid = (2 * i + 3 * j - 5 * k + 7.0)[None, ..., None] * np.array([1.0, -1.0])
    np.testing.assert_allclose(module.total_variation(grid), [4 + 9 + 25], rtol=1e-14)
    np.testing.assert_allclose(module.total_variation(grid[:, :1]), [9 + 25], rtol=1e-14)
    assert module.total_variation(grid[:, :1, :1, :1]) == [0]


@MODULES
@pytest.mark.parametrize(
    "dtypes", [Dtypes(F64, F64, F64), Dtypes(F32, F32, F32), Dtypes(np.dtype("u1"), F32, F32)], ids=str
)
@pytest.mark.parametrize("subject", GUIDES)
def test_enhance_is_slice_apply_with_the_guide_of_the_image(module: Any, subject: str, dtypes: Dtypes) -> None:
    window = {"window": (2, 4, 20, 80), "align_corners": True}
    given = arguments(subject, dtypes, N=2, H=9, W=37)
    name, _ = GUIDES[subject]
    parameters = {n: getattr(given["guide"], n) for n in arguments(name) if n != "image"}
    guide = getattr(module, name)(given["image"], **parameters)
    exact = forward(specification, subject, as_float64(given), **window)
    for result in (
        module.slice_apply(given["grid"], guide, given["image"], **window),
        module.enhance(**given, **window),
    ):
        dtype = F64 if module is specification and dtypes.image.kind == "f" else dtypes.image
        assert_forward(result, exact, dtype)


@pytest.mark.parametrize("subject", GUIDES)
def test_a_guide_record_is_called_on_an_image(subject: str) -> None:
    name, record = GUIDES[subject]
    given = arguments(name, Dtypes(F32, F32, F32))
    image = given.pop("image")
    assert_same_bits(record(**given)(image), getattr(bilateral_ops, name)(image, **given))


def test_integer_results_of_the_reference_are_its_rounded_floats() -> None:
    for dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        given = arguments("slice_apply", Dtypes(dtype, F32, F32))
        exact = forward(specification, "slice_apply", as_float64(given))
        assert exact.min() < 0 < 1 < exact.max()
        assert_forward(forward(specification, "slice_apply", given), exact, dtype)


def shares(size: int, count: int) -> Any:
    """How much of each of ``size`` pixels each of ``count`` covers, in whole numbers: a row adds up to ``size``."""
    i, y = np.arange(count)[:, None], np.arange(size)
    return np.maximum(np.minimum((i + 1) * size, (y + 1) * count) - np.maximum(i * size, y * count), 0)


RESIZED = [
    (12, 30, 4, 10),
    (7, 9, 7, 9),
    (5, 64, 11, 7),
    (33, 20, 5, 61),
    (9, 131, 1, 1),
    (600, 70, 2, 3),
    (2, 3, 9, 50),
]


@MODULES
@pytest.mark.parametrize(("H", "W", "h", "w"), RESIZED)
def test_an_area_is_the_sum_of_what_it_covers(module: Any, H: int, W: int, h: int, w: int) -> None:
    image = arguments("resize_area", N=2, H=H, W=W)["image"]
    rows, columns = shares(H, h), shares(W, w)
    assert (rows.sum(1) == H).all()
    assert (rows.sum(0) == h).all()
    want = np.einsum("iy,jx,nyxc->nijc", rows / H, columns / W, image, optimize=True)
    np.testing.assert_allclose(module.resize_area(image, (h, w)), want, rtol=1e-12)
    grad = np.random.default_rng(1).standard_normal(want.shape)
    transposed = module.resize_area_vjp(image, grad).image
    assert abs(np.sum(want * grad) - np.sum(image * transposed)) <= 1e-12 * np.sum(image * np.abs(transposed))


@MODULES
def test_areas_of_whole_ratios_are_means_of_blocks(module: Any) -> None:
    image = arguments("resize_area", H=12, W=30)["image"]
    blocks = image.reshape(4, 3, 6, 5, 3).mean((1, 3))
    np.testing.assert_allclose(module.resize_area(image, (4, 6)), blocks, rtol=1e-14)
    enlarged = np.repeat(np.repeat(image, 2, 0), 3, 1)
    np.testing.assert_allclose(module.resize_area(image, (24, 90)), enlarged, rtol=1e-14)


@MODULES
@pytest.mark.parametrize("dtype", [U8, U16], ids=str)
@pytest.mark.parametrize(("H", "W", "h", "w"), RESIZED)
def test_an_integer_area_is_exactly_rounded(module: Any, dtype: Any, H: int, W: int, h: int, w: int, isa: str) -> None:
    """To nearest even, at ties too: half of the levels here are at one where areas are of two pixels."""
    image = arguments("resize_area", Dtypes(dtype, F32, F32), H=H, W=W)["image"]
    total = np.einsum("iy,jx,yxc->ijc", shares(H, h), shares(W, w), image.astype(np.int64), optimize=True)
    level, rest = np.divmod(total, H * W)
    want = level + ((2 * rest > H * W) | ((2 * rest == H * W) & (level % 2 == 1)))
    assert_same_bits(module.resize_area(image, (h, w)), want.astype(dtype))
    pairs = (np.arange(508) // 2 + np.arange(508) % 2).astype(dtype).reshape(1, 508, 1)  # 0 1, 1 2, 2 3, …
    got = module.resize_area(pairs, (1, 254))
    assert_same_bits(got.ravel(), (2 * ((np.arange(254) + 1) // 2)).astype(dtype))


@pytest.mark.parametrize("dtype", [F16, F32, F64, U8, U16], ids=str)
@pytest.mark.parametrize(("H", "W", "h", "w"), [*RESIZED, (5, 4, 37, 90), (31, 17, 40, 18)])
def test_a_float_area_is_rounded_once(dtype: Any, H: int, W: int, h: int, w: int, isa: str) -> None:
    """Enlarged and reduced: float32 is within half a unit in the last place, but for the rounding of double."""
    weights = shares(H, h) / H, shares(W, w) / W
    white = np.iinfo(dtype).max if dtype.kind == "u" else 1
    for Ci in (1, 3, 20):
        image = arguments("resize_area", Dtypes(dtype, F32, F32), H=H, W=W, Ci=Ci)["image"]
        want = np.einsum("iy,jx,yxc->ijc", *weights, image.astype(F64) / white, optimize=True)
        got = bilateral_ops.resize_area(image, (h, w), dtype="float32")
        assert got.dtype == F32
        units = np.abs(got - want) / np.spacing(want.astype(F32))
        assert units.max() <= 0.500001, f"{Ci} channels"


@pytest.mark.parametrize("dtype", [F32, U8, U16], ids=str)
@pytest.mark.parametrize(("H", "W"), [(4001, 1501), (1 << 16, 61)])
def test_an_average_of_millions_of_pixels_is_accurate(H: int, W: int, dtype: Any, isa: str) -> None:
    """Float32's own sums would be off in the third digit, and off by levels."""
    row = arguments("resize_area", Dtypes(dtype, F32, F32), H=1, W=W)["image"]
    image = np.broadcast_to(row, (H, W, 3))
    mean = row.astype(F64).mean(1)
    got = bilateral_ops.resize_area(image, (1, 1))[0]
    if dtype == F32:
        np.testing.assert_allclose(got, mean, rtol=1e-7)
    else:
        assert_same_bits(got, np.rint(mean).astype(dtype))
