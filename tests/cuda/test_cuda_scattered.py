"""Are the kernels for explicit coordinates right, whatever lies where, and whatever the order of blocks?

They sum the grid's gradient in integers, on a scale that each cell has for itself. Which kernel makes slice_apply's
gradients, and in how large thread blocks, depends on the number of pixels: here each runs on the same small calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import standin
from backends import Through
from cases import (
    ALL_F32,
    BF16,
    F16,
    F32,
    F64,
    LAYOUTS,
    U8,
    U16,
    Dtypes,
    as_float64,
    assert_forward,
    assert_gradient,
    assert_same_bits,
    backward,
    clear_of_kinks,
    contributions,
    forward,
    laid_out,
    random_like,
    reference,
)
from standin import ARCHITECTURES

import bilateral_ops

FEW, ONE, SPLAT = "25scattered_backward_few_34", "21scattered_backward_34", "15splat_scattered"
GRADIENTS = ("grid", "guide", "image", "xy")
LEFT = 32 * 9 * 16  # bytes of shared memory that a warp of 32 pixels needs
KERNELS = ("four threads a pixel", "one thread a pixel", "one thread a pixel, large blocks")


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, device: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel for few pixels as it is chosen, or another one in its place."""
    use(request.param, device, monkeypatch)
    return str(request.param)


def use(which: str, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = type(device)._launch

    def launched(request: Any) -> int:
        name = request.name.decode()
        if FEW in name and which != KERNELS[0]:
            request.name = name.replace(FEW, ONE).encode()
            request.grid[0] = -(-request.grid[0] // 4)
            request.shared = LEFT
        if (ONE in request.name.decode() or SPLAT in name) and "large" in which:
            request.grid[0] = -(-request.grid[0] // 4)
            request.block[0] = 128
            request.shared = 4 * LEFT
        return int(launch(device, request))

    monkeypatch.setattr(device, "_launch", launched)


def kernels(device: Any) -> list[str]:
    """What was launched for the gradients."""
    return [launch.kernel.name for launch in device.launches if "scattered_backward" in launch.kernel.name]


PLACES: dict[str, Callable[[Any, Any], Any]] = {
    "mesh": lambda shape, rng: mesh(shape),
    "rays": lambda shape, rng: rng.random((*shape, 2)),
    "rays in and outside": lambda shape, rng: rng.uniform(-0.5, 1.5, (*shape, 2)),
    "one cell": lambda shape, rng: 0.45 + 0.05 * rng.random((*shape, 2)),
    "one place": lambda shape, rng: np.full((*shape, 2), 0.5),
    "corners": lambda shape, rng: rng.integers(0, 2, (*shape, 2)).astype(F64),
}


def mesh(shape: tuple[int, ...]) -> Any:
    """(i + ½)/n, as trainers make it."""
    n, height, width = shape
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return np.broadcast_to(np.stack(np.meshgrid(x, y, indexing="xy"), -1), (n, height, width, 2)).copy()


def given_at(
    place: str,
    shape: tuple[int, int, int],
    cells: tuple[int, int, int] = (5, 4, 6),
    dtypes: Dtypes = ALL_F32,
    seed: int = 3,
) -> dict[str, Any]:
    """Arguments of slice_apply."""
    rng = np.random.default_rng(seed)
    image = rng.random((*shape, 3))
    return {
        "grid": rng.standard_normal((shape[0], *cells, 3, 4)).astype(dtypes.rest),
        "guide": rng.uniform(-0.1, 1.1, shape).astype(dtypes.guide),
        "image": (image * (np.iinfo(dtypes.image).max if dtypes.image.kind == "u" else 1)).astype(dtypes.image),
        "xy": PLACES[place](shape, rng).astype(dtypes.guide),
    }


def check(
    package: Any, given: Mapping[str, Any], dtypes: Dtypes, *, align_corners: bool = True, where: str = ""
) -> None:
    exact = as_float64(given)
    want = forward(reference, "slice_apply", exact, align_corners=align_corners)
    got = forward(package, "slice_apply", given, align_corners=align_corners)
    assert_forward(got, want, dtypes.image, where)
    grad = random_like(want.shape, F32 if dtypes.image.kind == "u" else dtypes.image)
    gradients = backward(package, "slice_apply", given, grad, align_corners=align_corners)
    wanted = backward(reference, "slice_apply", exact, grad.astype(F64), align_corners=align_corners)
    bounds = contributions("slice_apply", exact, grad.astype(F64), align_corners=align_corners)
    for name in GRADIENTS:
        gradient = getattr(gradients, name)
        if given[name].dtype.kind == "u":
            assert gradient is None
        else:
            assert_gradient(gradient, getattr(wanted, name), bounds[name], given[name].dtype, f"{where} {name}")


# ---------------------------------------------------------------------------------------------------------------------
# Answers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_places(place: str, kernel: str, device: Any, on_device: Through) -> None:
    for number, (shape, cells) in enumerate(
        (((1, 9, 41), (5, 4, 6)), ((2, 7, 19), (3, 1, 8)), ((3, 1, 35), (1, 3, 1)), ((1, 1, 33), (1, 1, 1)))
    ):
        device.reset(ARCHITECTURES[number % 2])
        corners = number % 3 > 0
        given = (
            clear_of_kinks("slice_apply", given_at(place, shape, cells), corners)
            if "r" in place[0]
            else given_at(place, shape, cells)
        )
        check(on_device, given, ALL_F32, align_corners=corners, where=f"{shape} {cells}")
        assert len(kernels(device)) == 1


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31, 32, 33, 127, 129])
def test_numbers_of_pixels(count: int, kernel: str, device: Any, on_device: Through) -> None:
    check(on_device, given_at("rays", (1, 1, count)), ALL_F32)


@pytest.mark.parametrize("shape", [(1, 0, 5), (1, 4, 0), (0, 3, 3), (2, 0, 0)])
def test_no_pixels(shape: tuple[int, int, int], device: Any, on_device: Through) -> None:
    given = given_at("rays", shape)
    assert forward(on_device, "slice_apply", given).shape == (*shape, 3)
    gradients = backward(on_device, "slice_apply", given, np.zeros((*shape, 3), F32))
    assert gradients.grid.shape == given["grid"].shape
    assert not gradients.grid.any()


FLOATS = [Dtypes(F16, F16, F16), Dtypes(BF16, BF16, BF16), Dtypes(F16, F32, F16), Dtypes(BF16, F32, F32)]


@pytest.mark.parametrize("dtypes", [*FLOATS, Dtypes(U8, F32, F32), Dtypes(U16, F32, F32)], ids=str)
def test_dtypes(dtypes: Dtypes, kernel: str, device: Any, on_device: Through) -> None:
    for architecture in ARCHITECTURES:
        device.reset(architecture)
        given = clear_of_kinks("slice_apply", given_at("rays", (2, 5, 17), dtypes=dtypes), True)
        check(on_device, given, dtypes)
        assert kernels(device)


@pytest.mark.parametrize("kernel", KERNELS[:2], indirect=True)  # arrays are read alike in larger blocks
def test_layouts(kernel: str, device: Any, on_device: Through) -> None:
    """They change no bit, of arrays that are read as of those that are written."""
    for dtypes in (ALL_F32, Dtypes(F16, F16, F16)):
        given = given_at("rays in and outside", (2, 5, 17), dtypes=dtypes)
        grad = random_like((2, 5, 17, 3), dtypes.image)
        result = forward(on_device, "slice_apply", given, align_corners=True)
        want = backward(on_device, "slice_apply", given, grad)
        for layout in LAYOUTS:
            odd = {name: laid_out(array, layout) for name, array in given.items()}
            got = forward(on_device, "slice_apply", odd, align_corners=True)
            assert_same_bits(got, result, f"{layout} {dtypes}")
            for changed in (odd, *({**given, name: odd[name]} for name in odd)):
                out = {name: standin.laid_out(device, laid_out(np.zeros_like(a), layout)) for name, a in given.items()}
                found = backward(on_device, "slice_apply", changed, laid_out(grad, layout), out=out)
                for name in GRADIENTS:
                    assert_same_bits(getattr(found, name), getattr(want, name), f"{layout} {dtypes} {name}")


def test_one_grid_for_all_images(device: Any, on_device: Through) -> None:
    """A grid of stride 0 along the batch is read where it is, or copied once."""
    for dtypes in (ALL_F32, Dtypes(F16, F16, F16)):
        given = given_at("rays", (3, 4, 9), dtypes=dtypes)
        given["grid"] = np.broadcast_to(given["grid"][:1], given["grid"].shape)
        got = forward(on_device, "slice_apply", given)
        assert sum(device.workspace_bytes) == (0 if dtypes == ALL_F32 else given["grid"][:1].size * 4)
        assert_same_bits(got, forward(on_device, "slice_apply", {**given, "grid": given["grid"].copy()}))


def test_any_gradients_alone(kernel: str, device: Any, on_device: Through) -> None:
    given, grad = given_at("rays", (2, 5, 17)), random_like((2, 5, 17, 3), F32)
    every = backward(on_device, "slice_apply", given, grad)
    for wrt in (*((name,) for name in GRADIENTS), ("grid", "guide", "image"), ("guide", "xy")):
        some = backward(on_device, "slice_apply", given, grad, wrt=wrt)
        for name in GRADIENTS:
            assert_same_bits(getattr(some, name), getattr(every, name) if name in wrt else None, f"{wrt} {name}")


def test_results_over_the_image(kernel: str, device: Any, on_device: Through) -> None:
    given, grad = given_at("rays", (2, 5, 17)), random_like((2, 5, 17, 3), F32)
    through = Through(lambda array: standin.laid_out(device, array), lambda array: array.memory)
    want = backward(through, "slice_apply", given, grad)
    sent = through.sent(given)
    got = backward(bilateral_ops, "slice_apply", sent, through.sent(grad), out={"image": sent["image"]})
    for name in GRADIENTS:
        assert_same_bits(getattr(got, name).memory, getattr(want, name), name)
    result, sent = forward(through, "slice_apply", given), through.sent(given)
    assert_same_bits(forward(bilateral_ops, "slice_apply", sent, out=sent["image"]).memory, result)


@pytest.mark.parametrize("dtypes", [ALL_F32, Dtypes(F16, F32, F16)], ids=str)
def test_many_pixels(dtypes: Dtypes, device: Any, on_device: Through) -> None:
    """The kernel of one thread a pixel, as it is chosen. The CPU's answer in float64 is the truth here."""
    device.reset(90, races=False)
    given = given_at("mesh", (2, 114, 145), (16, 16, 8), dtypes)
    exact, grad = as_float64(given), random_like((2, 114, 145, 3), dtypes.image)
    got = backward(on_device, "slice_apply", given, grad)
    want = backward(bilateral_ops, "slice_apply", exact, grad.astype(F64))
    assert [ONE in name for name in kernels(device)] == [True]
    for name in GRADIENTS:
        assert_gradient(getattr(got, name), getattr(want, name), getattr(want, name), given[name].dtype, name)


@pytest.mark.parametrize("large", [False, True], ids=["small blocks", "large blocks"])
@pytest.mark.parametrize("channels", [(1,), (3,), (4,), (16,), (17,), (40,), (2, 9)], ids=str)
@pytest.mark.parametrize("subject", ["slice", "splat"])
def test_any_channels(
    subject: str, channels: tuple[int, ...], large: bool, device: Any, on_device: Through, monkeypatch: Any
) -> None:
    use(KERNELS[2 * large], device, monkeypatch)
    cells = (5, 4, 6)
    for architecture, dtypes in zip((75, 90, 90), (ALL_F32, ALL_F32, Dtypes(F16, F16, F16)), strict=True):
        device.reset(architecture)
        given = given_at("rays in and outside", (2, 9, 23), cells, dtypes)
        places, grad = given["xy"], random_like((2, 9, 23, *channels), dtypes.image)
        keywords = {"xy": places, "align_corners": True}
        exact = {name: value.astype(F64) if name == "xy" else value for name, value in keywords.items()}
        if subject == "splat":
            arguments: tuple[Any, ...] = given["guide"], grad, cells
            got = on_device.splat(*arguments, **keywords)
            want = reference.splat(given["guide"].astype(F64), grad.astype(F64), cells, **exact)
            bound = reference.splat(given["guide"].astype(F64), np.abs(grad.astype(F64)), cells, **exact)
        else:
            grid = random_like((2, *cells, *channels), dtypes.image)
            got = on_device.slice_vjp(grid, given["guide"], grad, **keywords, wrt=("grid",)).grid
            of = [a.astype(F64) for a in (grid, given["guide"], grad)]
            want = reference.slice_vjp(*of, **exact).grid
            bound = reference.slice_vjp(*of[:2], np.abs(of[2]), **exact).grid
        assert_gradient(got, want, bound, dtypes.image, f"{architecture} {dtypes}")
        assert any(SPLAT in launch.kernel.name for launch in device.launches)


def test_layouts_of_any_channels(device: Any, on_device: Through) -> None:
    given, values = given_at("rays", (2, 5, 17)), random_like((2, 5, 17, 2, 9), F32)
    want = on_device.splat(given["guide"], values, (5, 4, 6), xy=given["xy"])
    for layout in LAYOUTS:
        out = standin.laid_out(device, laid_out(np.zeros_like(want), layout))
        odd = [laid_out(a, layout) for a in (given["guide"], values, given["xy"])]
        assert_same_bits(on_device.splat(*odd[:2], (5, 4, 6), xy=odd[2], out=out), want, layout)


# ---------------------------------------------------------------------------------------------------------------------
# Bits
# ---------------------------------------------------------------------------------------------------------------------


def test_no_order_of_blocks_matters(kernel: str, device: Any, on_device: Through) -> None:
    given, grad = given_at("rays", (2, 9, 41), (3, 2, 4)), random_like((2, 9, 41, 3), F32)
    found = set()
    for seed, together in enumerate((None, 1, 3, None, 2)):
        device.reset(ARCHITECTURES[seed % 2], races=False, seed=seed, together=together)
        found.add(backward(on_device, "slice_apply", given, grad).grid.tobytes())
    assert len(found) == 1


def test_no_order_of_blocks_matters_for_any_channels(device: Any, on_device: Through) -> None:
    given, values = given_at("rays", (2, 9, 41), (3, 2, 4)), random_like((2, 9, 41, 18), F32)
    found = set()
    for seed, together in enumerate((None, 1, 3)):
        device.reset(ARCHITECTURES[seed % 2], races=False, seed=seed, together=together)
        found.add(on_device.splat(given["guide"], values, (3, 2, 4), xy=given["xy"]).tobytes())
    assert len(found) == 1


def test_both_kernels_agree_on_a_pixels_own_gradients(device: Any, on_device: Through, monkeypatch: Any) -> None:
    given, grad = given_at("rays in and outside", (2, 9, 41)), random_like((2, 9, 41, 3), F32)
    four, one = (
        (use(which, device, monkeypatch), backward(on_device, "slice_apply", given, grad))[1] for which in KERNELS[:2]
    )
    for name in ("guide", "image", "xy"):
        assert_same_bits(getattr(four, name), getattr(one, name), name)


# ---------------------------------------------------------------------------------------------------------------------
# Ranges
# ---------------------------------------------------------------------------------------------------------------------


def grid_gradient(given: Mapping[str, Any], grad: Any) -> tuple[Any, Any]:
    """In float64, and the sums of the contributions' absolute values."""
    exact = as_float64(given)
    positive = {**exact, "image": np.abs(exact["image"])}
    return tuple(
        backward(bilateral_ops, "slice_apply", a, g, wrt=("grid",)).grid
        for a, g in ((exact, grad.astype(F64)), (positive, np.abs(grad.astype(F64))))
    )


@pytest.mark.parametrize("place", ["rays", "one cell"])
def test_every_cell_has_a_scale_of_its_own(place: str, kernel: str, device: Any, on_device: Through) -> None:
    """Each element is right to float32's rounding of its own contributions, if these are like their cell's largest."""
    given = given_at(place, (1, 9, 41))
    for scale in (
        lambda right: np.where(right, 1.0, 1e-12),
        lambda right: np.where(right, 1e30, 1e-36),
        lambda right: np.where(right, 1e-30, 1e-38),
        lambda right: np.full(right.shape, 1e-30),
        lambda right: np.full(right.shape, 1e37),
    ):
        # The cells of column 1 and below are met from the left alone, those of column 2 and above from the right.
        given["xy"][..., 0] = np.where(given["xy"][..., 0] > 0.5, 0.99, 0.2)
        grad = random_like((1, 9, 41, 3), F32) * scale(given["xy"][..., :1] > 0.5).astype(F32)
        got = backward(on_device, "slice_apply", given, grad, align_corners=False, wrt=("grid",)).grid
        want, terms = grid_gradient(given, grad)
        assert (np.abs(got - want) <= 40 * 2.0**-24 * terms + 2.0**-149).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_do_not_overflow(sign: int, kernel: str, device: Any, on_device: Through) -> None:
    """Each pixel has the largest contribution to one element of which its cell's scale allows as many."""
    given = given_at("one place", (1, 32, 32), (1, 1, 1))
    given["image"][...] = 1
    grad = np.full((1, 32, 32, 3), sign * np.nextafter(F32.type(2), F32.type(0)), F32)
    got = backward(on_device, "slice_apply", given, grad, wrt=("grid",)).grid
    assert (got == F32.type(1024) * grad[0, 0, 0, 0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38], ids=str)
@pytest.mark.parametrize(
    ("name", "index"), [("guide", ()), ("image", (1,)), ("grad", (2,)), ("xy", (0,)), ("xy", (1,))]
)
def test_what_is_not_finite_reaches_eight_cells(
    name: str, index: tuple[int, ...], value: float, kernel: str, device: Any, on_device: Through
) -> None:
    cells, pixel = (5, 5, 6), (0, 3, 20)
    given = given_at("rays", (1, 9, 41), cells)
    given["grad"] = random_like((1, 9, 41, 3), F32)
    given["guide"] = given["guide"].clip(0.02, 0.98)
    given["grad"][pixel] = 0
    given["image"][pixel] = [7, 0.5, 0.25]

    def run() -> Any:
        values = dict(given)
        return backward(on_device, "slice_apply", values, values.pop("grad"), align_corners=True)

    without = run()  # the pixel contributes nothing
    given["grad"][pixel] = [0.5, 100, 0.25]
    given[name][(*pixel, *index)] = value
    got = run()

    def below(u: Any, count: int) -> int:
        p = float(u) * (count - 1)
        return 0 if np.isnan(p) else int(min(max(p, 0), count - 1))

    (x, y), z = given["xy"][pixel], given["guide"][pixel]
    reached = np.zeros(cells, bool)
    reached[tuple(slice(k, k + 2) for k in (below(y, 5), below(x, 5), below(z, 6)))] = True
    assert_same_bits(got.grid[0][~reached], without.grid[0][~reached])
    finite = np.isfinite(got.grid[0][reached]).all(-1).all(-1)
    spoils = np.isnan(value) or (name in ("image", "grad") and abs(7 * value) > float(np.finfo(F32).max))
    assert np.isnan(got.grid[0][reached]).all() if spoils else finite.all()
    others = np.ones((1, 9, 41), bool)
    others[pixel] = False
    for own in ("guide", "image", "xy"):
        assert_same_bits(getattr(got, own)[others], getattr(without, own)[others], own)


# ---------------------------------------------------------------------------------------------------------------------
# Work
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["slice_apply", "slice", "splat"])
@pytest.mark.parametrize("count", [2000, 8192])
def test_some_thousand_rays_keep_a_device_busy(subject: str, count: int, device: Any, on_device: Through) -> None:
    device.reset(90, races=False)
    given = given_at("rays", (1, 1, count), (16, 16, 8))
    if subject == "slice_apply":
        backward(on_device, subject, given, random_like((1, 1, count, 3), F32))
    elif subject == "slice":
        grad = random_like((1, 1, count, 12), F32)
        on_device.slice_vjp(given["grid"].reshape(1, 16, 16, 8, 12), given["guide"], grad, xy=given["xy"])
    else:
        on_device.splat(given["guide"], random_like((1, 1, count, 3), F32), (16, 16, 8), xy=given["xy"])
    total = sum(launch.instructions for launch in device.launches)
    threads = min(a.threads * a.blocks for a in device.launches if a.instructions * 10 >= total)
    assert threads >= (8000 if count == 8192 or subject == "slice_apply" else count)


def test_what_has_no_32_bit_numbers_takes_the_general_kernels(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of which there is only the first element; launches are not run."""
    names: list[str] = []
    monkeypatch.setattr(device, "_launch", lambda request: names.append(request.name.decode()) or 0)

    def large(*shape: int) -> standin.DeviceArray:
        one = standin.laid_out(device, np.zeros(1, "f4")).memory
        strides = np.cumprod((4, *shape[:0:-1]))[::-1]
        return standin.DeviceArray(device, np.lib.stride_tricks.as_strided(one, shape, strides))

    for cells, pixels, special in (((6000, 7400), (2, 3), True), ((6000, 7500), (2, 3), False)):
        shape = (1, *pixels)
        image = standin.laid_out(device, np.zeros((*shape, 3), "f4"))
        arrays = large(1, *cells, 1, 3, 4), large(*shape), image, large(*shape, 2)
        device.call("slice_apply_forward", image, *arrays, None, (0, 0, *pixels, False), False)
        assert ("scattered" in names[-1]) == special
    for width, special in ((2**15 - 1, True), (2**15, False)):
        pixels = 2**16, width
        shape = (1, *pixels)
        arrays = large(1, 2, 2, 2, 3, 4), large(*shape), large(*shape, 3), large(*shape, 2)
        device.call("slice_apply_forward", large(*shape, 3), *arrays, None, (0, 0, *pixels, False), False)
        assert ("scattered" in names[-1]) == special


def test_the_workspace_does_not_grow_with_the_image(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_launch", lambda request: 0)
    through = Through(lambda array: standin.laid_out(device, array), lambda array: array)
    needs = []
    for height in (4, 400):
        device.reset(90)
        given = given_at("rays", (1, height, 5), (16, 16, 8))
        backward(through, "slice_apply", given, np.zeros((1, height, 5, 3), F32))
        needs.append(sum(device.workspace_bytes))
    assert needs[0] == needs[1] == 16 * 16 * 8 * (12 * 8 + 4 + 4)
