"""Do other packages' signatures give what those packages give?

``compat.lib_bilagrid`` beside ``grid_sample`` and what else people write in PyTorch, gradients included;
``compat.hdrnet`` beside HDRnet's equation in NumPy.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backends import from_torch, to_torch
from cases import F32, F64, python, tolerance

import bilateral_ops
from bilateral_ops import slice_apply
from bilateral_ops._core import dispatch as _dispatch
from bilateral_ops.compat import hdrnet

# ---------------------------------------------------------------------------------------------------------------------
# HDRnet
# ---------------------------------------------------------------------------------------------------------------------

SIZES = {"N": 2, "H": 7, "W": 9, "gh": 3, "gw": 4, "gd": 5}


def _from_jax(array: Any) -> Any:
    return np.asarray(array)


def frameworks() -> dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]:
    """What sends NumPy arrays to a framework, and fetches them back."""
    return {
        "numpy": (lambda array: array, lambda array: array),
        "torch": (to_torch, from_torch),
        "jax": (lambda array: sys.modules["jax"].numpy.asarray(array), _from_jax),
    }


@pytest.fixture(params=list(frameworks()))
def framework(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    if request.param not in _dispatch._FRAMEWORKS:
        pytest.skip(f"{request.param} arrays are not served")
    send, fetch = frameworks()[request.param]
    return SimpleNamespace(send=send, fetch=fetch)


def drawn(*shape: int, seed: int = 0, low: float = -1.0, high: float = 1.0) -> Any:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(F32)


def hdrnet_slice(grid: Any, guide: Any) -> Any:
    """HDRnet's equation, pixel by pixel: tents around cells at half-integers, indices clipped."""
    n, gh, gw, gd = grid.shape[:4]
    h, w = guide.shape[1:]
    out = np.zeros((n, h, w, *grid.shape[4:]), F64)
    for b, y, x in np.ndindex(n, h, w):
        at = ((y + 0.5) * gh / h, (x + 0.5) * gw / w, float(guide[b, y, x]) * gd)
        first = [math.floor(p - 0.5) for p in at]
        for step in itertools.product((0, 1), repeat=3):
            cell = [k + s for k, s in zip(first, step)]
            weight = math.prod(max(1 - abs(k + 0.5 - p), 0) for k, p in zip(cell, at))
            i, j, k = (min(max(k, 0), size - 1) for k, size in zip(cell, (gh, gw, gd)))
            out[b, y, x] += weight * grid[b, i, j, k].astype(F64)
    return out


def hdrnet_apply(coefficients: Any, image: Any) -> Any:
    """Channel by channel, as HDRnet's Python does it."""
    inputs = image.shape[-1]
    out = np.zeros((*image.shape[:-1], coefficients.shape[-2]), F64)
    for i in range(coefficients.shape[-2]):
        for j in range(inputs):
            out[..., i] += coefficients[..., i, j] * image[..., j]
        if coefficients.shape[-1] > inputs:
            out[..., i] += coefficients[..., i, inputs]
    return out


def close(got: Any, want: Any, dtype: Any = F32) -> None:
    assert got.shape == want.shape
    bound = tolerance(dtype).forward * max(1, np.abs(want).max(initial=0))
    np.testing.assert_allclose(got.astype(F64), want, rtol=0, atol=bound)


MATRICES = [
    pytest.param(out, inputs, offset, id=f"{out}x{inputs}{'+1' * offset}")
    for out, inputs, offset in [(3, 3, True), (4, 2, True), (2, 4, True), (3, 3, False), (1, 4, False), (5, 1, True)]
]


def matrices(out: int, columns: int) -> Any:
    return drawn(*(SIZES[name] for name in ("N", "gh", "gw", "gd")), out, columns)


def image_of(channels: int) -> Any:
    return drawn(SIZES["N"], SIZES["H"], SIZES["W"], channels, seed=1)


GUIDE = drawn(SIZES["N"], SIZES["H"], SIZES["W"], seed=2, low=-0.1, high=1.1)


@pytest.mark.parametrize(("out", "inputs", "offset"), MATRICES)
def test_hdrnets_operators(out: int, inputs: int, offset: bool, framework: Any) -> None:
    grid, image = matrices(out, inputs + offset), image_of(inputs)
    packed = grid.reshape(*grid.shape[:4], -1)  # row by row
    sliced = hdrnet_slice(grid, GUIDE)
    applied = hdrnet_apply(sliced, image)
    sent = {name: framework.send(array) for name, array in {"guide": GUIDE, "image": image}.items()}
    coefficients = sliced.astype(F32)
    for form in (grid, packed):
        got = framework.fetch(hdrnet.bilateral_slice(framework.send(form), sent["guide"], name="slice"))
        close(got, sliced.reshape(*sliced.shape[:3], *form.shape[4:]))
        got = hdrnet.bilateral_slice_apply(framework.send(form), *sent.values(), has_offset=offset, name="slice")
        close(framework.fetch(got), applied)
        form = coefficients.reshape(*sliced.shape[:3], *form.shape[4:])
        close(framework.fetch(hdrnet.apply(framework.send(form), sent["image"], offset)), applied)
    if offset:  # by default there is one
        close(framework.fetch(hdrnet.bilateral_slice_apply(framework.send(grid), *sent.values())), applied)
        close(framework.fetch(hdrnet.apply(framework.send(coefficients), sent["image"])), applied)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize(("out", "inputs", "offset"), MATRICES)
def test_channels_first(out: int, inputs: int, offset: bool, batched: bool, framework: Any) -> None:
    def first(array: Any, spatial: int) -> Any:
        """Channels before the spatial axes, of a new array; depth before height and width."""
        array = array if batched else array[0]
        array = np.moveaxis(array, range(batched + spatial, array.ndim), range(batched, array.ndim - spatial))
        return np.ascontiguousarray(np.moveaxis(array, -1, -3) if spatial == 3 else array)

    grid, image = matrices(out, inputs + offset), image_of(inputs)
    sliced = hdrnet_slice(grid, GUIDE)
    applied = first(hdrnet_apply(sliced, image), 2)
    guide, planes = framework.send(GUIDE if batched else GUIDE[0]), framework.send(first(image, 2))
    for channels in ((out, inputs + offset), (out * (inputs + offset),)):
        form = framework.send(first(grid.reshape(*grid.shape[:4], *channels), 3))
        coefficients = first(sliced.reshape(*sliced.shape[:3], *channels), 2)
        close(framework.fetch(hdrnet.bilateral_slice_nchw(form, guide)), coefficients)
        close(framework.fetch(hdrnet.bilateral_slice_apply_nchw(form, guide, planes, offset)), applied)
        close(framework.fetch(hdrnet.apply_nchw(framework.send(coefficients.astype(F32)), planes, offset)), applied)


#: How ports hand their coordinates to ``grid_sample``: of the pixels, and of the guide.
AT = {
    "corners": lambda n: np.arange(n) / max(n - 1, 1) * 2 - 1,
    "centers": lambda n: (np.arange(n) + 0.5) / n * 2 - 1,
}


@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["cells", "corners"])
@pytest.mark.parametrize("xy", AT)
@pytest.mark.parametrize("guide_range", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
def test_channels_first_is_grid_sample(xy: Any, align_corners: bool, padding_mode: Any, guide_range: Any) -> None:
    """With its gradients; guides beyond the depth on both sides, by up to two cells."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    height, width = SIZES["H"], SIZES["W"]
    cells = torch.from_numpy(matrices(3, 4)).double().flatten(4).movedim((-1, -2), (1, 2)).contiguous()
    z = torch.from_numpy(drawn(2, 1, height, width, seed=3, low=-1.9, high=1.9)).double()
    guide = (z + 1) / 2 if guide_range == (0, 1) else z
    image = torch.from_numpy(image_of(3)).double().movedim(-1, 1).contiguous()
    leaves = [cells.requires_grad_(), guide.detach().requires_grad_()]
    rule: dict[str, Any] = {"align_corners": align_corners, "padding_mode": padding_mode}

    given = leaves[1] * 2 - 1 if guide_range == (0, 1) else leaves[1]
    rows, columns = torch.meshgrid(*(torch.from_numpy(AT[xy](n)) for n in (height, width)), indexing="ij")
    places = torch.stack([columns.expand(2, -1, -1), rows.expand(2, -1, -1), given[:, 0]], -1)[:, None]
    want = torch.nn.functional.grid_sample(leaves[0], places, **rule)[:, :, 0]
    got = hdrnet.bilateral_slice_nchw(*leaves, xy=xy, guide_range=guide_range, **rule)
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(want)
    for a, b in zip(*(torch.autograd.grad(out, leaves, weights) for out in (got, want))):
        torch.testing.assert_close(a, b)

    applied = (want.unflatten(1, (3, 4)) * torch.cat([image, torch.ones_like(image[:, :1])], 1)[:, None]).sum(2)
    got = hdrnet.bilateral_slice_apply_nchw(*leaves, image, xy=xy, guide_range=guide_range, **rule)
    torch.testing.assert_close(got, applied)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_zeros_beyond_the_cells_in_every_framework(batched: bool, framework: Any) -> None:
    """As many more cells of zeros around do the same."""
    grid, guide = matrices(3, 4)[..., 0], drawn(2, 7, 9, seed=3, low=-0.3, high=1.3)
    grid, guide = (array if batched else array[0] for array in (grid, guide))
    first = np.moveaxis(grid, (-1, -2), (batched, batched + 1))
    arguments: dict[str, Any] = {"padding_mode": "zeros", "xy": "corners"}
    got = framework.fetch(hdrnet.bilateral_slice_nchw(framework.send(first), framework.send(guide), **arguments))
    around = np.pad(grid, [(0, 0)] * batched + [(1, 1)] * 3 + [(0, 0)])
    gh, gw, gd = grid.shape[batched : batched + 3]
    x, y = np.meshgrid(*((np.arange(n) / (n - 1) * g + 1) / (g + 2) for n, g in ((9, gw), (7, gh))))
    places = np.broadcast_to(np.stack([x, y], -1), (*guide.shape, 2)).astype(F32)
    want = bilateral_ops.slice(around, ((guide * gd + 1) / (gd + 2)).astype(F32), xy=places)
    close(got, np.moveaxis(want, -1, batched))


@pytest.mark.parametrize(("out", "inputs", "offset"), MATRICES)
def test_hdrnets_gradients(out: int, inputs: int, offset: bool) -> None:
    """From a network's last convolution on, beside grid_sample."""
    torch = pytest.importorskip("torch")
    columns, depth = inputs + offset, SIZES["gd"]
    features = tensor(drawn(2, depth * out * columns, 3, 4))
    guide, image = tensor(GUIDE), tensor(np.moveaxis(image_of(inputs), -1, 1))
    leaves = {"features": features, "guide": guide, "image": image}

    def planes() -> Any:
        grid = hdrnet.unpack_coefficients(features, depth, n_out=out, n_in=columns, channels_first=True)
        return grid.permute(0, 4, 5, 3, 1, 2)

    def formula() -> Any:
        volume = features.reshape(2, columns, out, depth, 3, 4).transpose(1, 2).flatten(1, 2)
        sampled = torch.nn.functional.grid_sample(volume, places(), padding_mode="border", align_corners=False)
        padded = torch.cat([image, torch.ones_like(image[:, :1])], 1)[:, :columns]
        return (sampled[:, :, 0].unflatten(1, (out, columns)) * padded[:, None]).sum(2)

    def places() -> Any:
        y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in GUIDE.shape[1:])
        mesh = torch.meshgrid(x, y, indexing="xy")
        return (torch.stack([*(c.expand_as(guide) for c in mesh), guide], -1) * 2 - 1)[:, None]

    got = hdrnet.bilateral_slice_apply_nchw(planes(), guide, image, offset)
    assert_same_with_gradients(got, formula(), leaves)
    got = hdrnet.apply_nchw(hdrnet.bilateral_slice_nchw(planes(), guide), image, offset)
    assert_same_with_gradients(got, formula(), leaves)


def test_hdrnets_gradients_in_jax() -> None:
    jax = pytest.importorskip("jax")
    if "jax" not in _dispatch._FRAMEWORKS:
        pytest.skip("JAX arrays are not served")
    grid, image = matrices(4, 3), image_of(2)
    packed = grid.reshape(*grid.shape[:4], -1)
    grad = drawn(*image.shape[:3], 4, seed=8)
    want = bilateral_ops.slice_apply_vjp(grid, GUIDE, image, grad)
    got = jax.jit(lambda *primals: jax.vjp(hdrnet.bilateral_slice_apply, *primals)[1](grad))(packed, GUIDE, image)
    for a, b in zip(got, want[:3], strict=True):
        np.testing.assert_array_equal(np.asarray(a).reshape(b.shape), b)


def test_hdrnets_arrays_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def caught(*arrays: Any, **rules: Any) -> Any:
        seen.extend(arrays)
        return bilateral_ops.slice_apply(*arrays, **rules)

    monkeypatch.setattr(hdrnet, "_slice_apply", caught)
    grid, image = np.ascontiguousarray(np.moveaxis(matrices(3, 4), (4, 5, 3), (1, 2, 3))), image_of(3)
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 1))
    given = (grid.reshape(2, 12, 5, 3, 4), GUIDE, planes)
    hdrnet.bilateral_slice_apply_nchw(*given)
    for got, array in zip(seen, given, strict=True):
        assert np.shares_memory(got, array)


def _channel(layout: str, i: int, j: int, z: int, *, rows: int, columns: int, depth: int) -> int:
    entry = i * (columns - 1) + j if j < columns - 1 else rows * (columns - 1) + i
    return {
        "in_out_z": (j * rows + i) * depth + z,
        "out_in_z": (i * columns + j) * depth + z,
        "z_out_in": z * rows * columns + i * columns + j,
        "matrix_offset_z": entry * depth + z,
        "z_matrix_offset": z * rows * columns + entry,
    }[layout]


@pytest.mark.parametrize("channels_first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (2, 5)])
@pytest.mark.parametrize("layout", hdrnet.LAYOUTS)
def test_unpacked_coefficients(layout: str, rows: int, columns: int, channels_first: bool, framework: Any) -> None:
    depth, sizes = 3, {"rows": rows, "columns": columns, "depth": 3}
    features = drawn(2, 4, 5, depth * rows * columns)
    want = np.empty((2, 4, 5, depth, rows, columns), F32)
    for z, i, j in np.ndindex(depth, rows, columns):
        want[:, :, :, z, i, j] = features[..., _channel(layout, i, j, z, **sizes)]
    given = np.ascontiguousarray(np.moveaxis(features, -1, 1)) if channels_first else features
    sent = framework.send(given)
    got = hdrnet.unpack_coefficients(sent, depth, layout, n_out=rows, n_in=columns, channels_first=channels_first)
    np.testing.assert_array_equal(framework.fetch(got), want)
    if isinstance(got, np.ndarray) and "offset" not in layout:
        assert np.shares_memory(got, given)


def test_hdrnets_own_layout_is_the_default() -> None:
    features = drawn(1, 2, 2, 8 * 12)
    grid = hdrnet.unpack_coefficients(features, 8)
    assert grid[0, 1, 0, 5, 2, 3] == features[0, 1, 0, (3 * 3 + 2) * 8 + 5]


@pytest.mark.parametrize("empty", [*SIZES, "out", "inputs"])
def test_hdrnets_operators_of_empty_arrays(empty: str, framework: Any) -> None:
    """Results of the shapes that follow, or the operation's own sentence."""
    size = {**SIZES, "out": 3, "inputs": 3, empty: 0}
    n, h, w, out, inputs = (size[name] for name in ("N", "H", "W", "out", "inputs"))
    cells = (n, *(size[name] for name in ("gh", "gw", "gd")))
    guide, image, planes = (
        framework.send(np.ones(shape, F32)) for shape in ((n, h, w), (n, h, w, inputs), (n, inputs, h, w))
    )
    grid = framework.send(np.ones((*cells, out, inputs + 1), F32))
    packed = framework.send(np.ones((*cells, out * (inputs + 1)), F32))
    first = framework.send(np.ones((n, out * (inputs + 1), cells[3], *cells[1:3]), F32))
    sliced = framework.send(np.ones((n, h, w, out, inputs + 1), F32))
    calls = {
        (n, h, w, out, inputs + 1): [lambda: hdrnet.bilateral_slice(grid, guide)],
        (n, h, w, out): [
            lambda: hdrnet.bilateral_slice_apply(grid, guide, image),
            lambda: hdrnet.bilateral_slice_apply(packed, guide, image),
            lambda: hdrnet.apply(sliced, image),
        ],
        (n, out, h, w): [lambda: hdrnet.bilateral_slice_apply_nchw(first, guide, planes)],
    }
    for shape, each in calls.items():
        for call in each:
            if 0 in cells[1:] and call is not calls[n, h, w, out][2]:
                with pytest.raises(
                    ValueError, match=r"^slice\w*: grid must have 1 to 8388608 cells on every grid axis, got"
                ):
                    call()
            else:
                assert tuple(call().shape) == shape


HDRNET_ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "packed channels": (
        lambda: hdrnet.bilateral_slice_apply(matrices(1, 13)[..., 0, :], GUIDE, image_of(3)),
        ValueError,
        "bilateral_slice_apply: grid must have rows of 4 channels (3 for input_image's channels and 1 for the offset), "
        "got 13 channels.",
    ),
    "columns": (
        lambda: hdrnet.bilateral_slice_apply(matrices(3, 4), GUIDE, image_of(3), has_offset=False),
        ValueError,
        "bilateral_slice_apply: grid must have matrices of 3 columns (3, without offset), got 4.",
    ),
    "apply": (
        lambda: hdrnet.apply(drawn(2, 7, 9, 3, 3), image_of(3)),
        ValueError,
        "apply: sliced must have matrices of 4 columns (3 for input_image's channels and 1 for the offset), got 3.",
    ),
    "not a flag": (
        lambda: hdrnet.apply(drawn(2, 7, 9, 3, 3), image_of(3), None),  # type: ignore[arg-type]
        TypeError,
        "apply: whether there is an offset must be a bool, got NoneType.",
    ),
    "another rank": (
        lambda: hdrnet.bilateral_slice_apply(matrices(3, 4)[..., 0, 0], GUIDE, image_of(3)),
        ValueError,
        "slice_apply: grid must have shape (N, Gh, Gw, Gd, Co, Ci[+1]), got (2, 3, 4, 5).",
    ),
    "layout": (
        lambda: hdrnet.unpack_coefficients(drawn(1, 2, 2, 96), 8, "rgb"),
        ValueError,
        "unpack_coefficients: layout must be one of in_out_z, out_in_z, z_out_in, matrix_offset_z, z_matrix_offset, "
        "got 'rgb'.",
    ),
    "no columns": (
        lambda: hdrnet.unpack_coefficients(drawn(1, 2, 2, 0), 8, "z_matrix_offset", n_in=0),
        ValueError,
        "unpack_coefficients: n_in must be 1 or more for the offset of z_matrix_offset, got 0.",
    ),
    "packed without columns": (
        lambda: hdrnet.bilateral_slice_apply(drawn(2, 3, 4, 5, 0), GUIDE, image_of(0), has_offset=False),
        ValueError,
        "bilateral_slice_apply: grid must have an axis for rows, where matrices have no columns, got shape "
        "(2, 3, 4, 5, 0).",
    ),
    "padding_mode": (
        lambda: hdrnet.bilateral_slice_nchw(drawn(1, 2, 2, 2, 2), drawn(1, 3, 3), padding_mode="reflection"),
        ValueError,
        "bilateral_slice_nchw: padding_mode must be border or zeros, got 'reflection'.",
    ),
    "guide_range": (
        lambda: hdrnet.bilateral_slice_nchw(drawn(1, 2, 2, 2, 2), drawn(1, 3, 3), guide_range=(1, 1)),
        ValueError,
        "bilateral_slice_nchw: guide_range must be two finite numbers that differ, got (1, 1).",
    ),
    "guide_range of one": (
        lambda: hdrnet.bilateral_slice_nchw(drawn(1, 2, 2, 2, 2), drawn(1, 3, 3), guide_range=(1,)),
        TypeError,
        "bilateral_slice_nchw: guide_range must be two numbers, got (1,).",
    ),
    "guide of colours": (
        lambda: hdrnet.bilateral_slice_apply_nchw(drawn(1, 12, 2, 2, 2), drawn(1, 3, 3, 3), drawn(1, 3, 3, 3)),
        ValueError,
        "bilateral_slice_apply_nchw: guide must have shape (N, H, W) or (N, 1, H, W), got (1, 3, 3, 3).",
    ),
    "features": (
        lambda: hdrnet.unpack_coefficients(drawn(1, 2, 2, 95), 8),
        ValueError,
        "unpack_coefficients: features must have shape (N, gh, gw, C) with C = 8·3·4 = 96, got (1, 2, 2, 95).",
    ),
}


@pytest.mark.parametrize("name", HDRNET_ERRORS)
def test_hdrnets_errors(name: str) -> None:
    call, error, sentence = HDRNET_ERRORS[name]
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == sentence


def test_no_framework_is_imported() -> None:
    code = "import sys, bilateral_ops.compat.hdrnet; print([m for m in ('torch', 'jax', 'cupy') if m in sys.modules])"
    assert python(code).stdout == "[]\n"


# ---------------------------------------------------------------------------------------------------------------------
# lib_bilagrid
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lib() -> ModuleType:
    pytest.importorskip("torch")
    from bilateral_ops.compat import lib_bilagrid

    return lib_bilagrid


def grids_of(lib: ModuleType, num: int = 5, seed: int = 0, dtype: str = "float64", **sizes: int) -> Any:
    """Random grids, of 7 × 6 × 4 cells."""
    import torch

    grids = lib.BilateralGrid(num, **{"grid_X": 7, "grid_Y": 6, "grid_W": 4, **sizes})
    with torch.no_grad():
        grids.grids.copy_(to_torch(np.random.default_rng(seed).standard_normal(grids.grids.shape)))
    return grids.to(getattr(torch, dtype))


def tensor(array: Any, dtype: str = "float64", *, grad: bool = True) -> Any:
    import torch

    return to_torch(np.asarray(array)).to(getattr(torch, dtype)).requires_grad_(grad)


def colors_and_places(lead: tuple[int, ...], dtype: str = "float64") -> tuple[Any, Any]:
    """Some colours beyond black and white, some places beyond the view."""
    rgb = drawn(*lead, 3, seed=1, low=-0.1, high=1.1).astype(F64)
    return tensor(rgb, dtype), tensor(drawn(*lead, 2, seed=2, low=-0.1, high=1.1).astype(F64), dtype)


def matrices_by_grid_sample(grids: Any, xy: Any, rgb: Any, index: Any) -> Any:
    """What lib_bilagrid computes: index has the grid of each element along the first axis."""
    import torch
    from torch.nn.functional import grid_sample

    gray = rgb @ torch.tensor([0.299, 0.587, 0.114], dtype=rgb.dtype)
    places = torch.cat([xy, gray[..., None]], -1) * 2 - 1
    while places.ndim < 5:
        places = places[:, None]
    found = grid_sample(grids[index], places, padding_mode="border", align_corners=True)
    return found.movedim(1, -1).reshape(*rgb.shape[:-1], 3, 4)


def colors_by_grid_sample(grids: Any, xy: Any, rgb: Any, index: Any) -> Any:
    found = matrices_by_grid_sample(grids, xy, rgb, index)
    return (found[..., :3] @ rgb[..., None])[..., 0] + found[..., 3]


def assert_same_with_gradients(got: Any, want: Any, leaves: dict[str, Any], dtype: Any = F64) -> None:
    """Results and their gradients: contributions that cancel are of the gradients' size."""
    import torch

    close(from_torch(got.detach()), from_torch(want.detach()).astype(F64), dtype)
    weights = tensor(np.random.default_rng(3).standard_normal(want.shape), str(want.dtype)[6:], grad=False)
    ours = torch.autograd.grad(got, list(leaves.values()), weights)
    theirs = torch.autograd.grad(want, list(leaves.values()), weights)
    for name, a, b in zip(leaves, ours, theirs, strict=True):
        assert a.shape == b.shape, name
        assert b.abs().max() > 0, name
        error = torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)
        assert error <= tolerance(dtype).backward, name


LEADS = {"rays": (9,), "rows": (3, 5), "images": (3, 4, 5), "groups": (3, 2, 4, 5)}


def index_forms(lead: tuple[int, ...]) -> dict[str, Any]:
    """The grids of elements along the first axis, as callers give them."""
    import torch

    index = torch.tensor([4, 1, 4, 0, 0, 4, 2, 4, 1][: lead[0]])
    return {
        "one axis": index,
        "two axes": index[:, None],
        "ones": index.reshape(-1, *[1] * len(lead)),
        "everywhere": index.reshape(-1, *[1] * len(lead)).expand(*lead, 1),
        "int32": index[:, None].int(),
    }


@pytest.mark.parametrize("axes", LEADS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_several_grids(axes: str, dtype: Any, lib: ModuleType) -> None:
    lead = LEADS[axes]
    grids = grids_of(lib, dtype=dtype.name)
    rgb, xy = colors_and_places(lead, dtype.name)
    leaves = {"grids": grids.grids, "rgb": rgb, "xy": xy}
    forms = index_forms(lead)
    for index in forms.values():
        got = lib.slice(grids, xy, rgb, index, compute_coords_grad=True)
        want = colors_by_grid_sample(grids.grids, xy, rgb, forms["one axis"])
        assert_same_with_gradients(got["rgb"], want, leaves, dtype)
    # The matrices, read from a mapping of their own, and from the module.
    got = lib.slice(grids, xy, rgb, index, compute_coords_grad=True)["rgb_affine_mats"]
    want = matrices_by_grid_sample(grids.grids, xy, rgb, forms["one axis"])
    assert_same_with_gradients(got, want, leaves, dtype)
    got, want = grids(xy, rgb, forms["one axis"]), matrices_by_grid_sample(grids.grids, xy, rgb, forms["one axis"])
    assert_same_with_gradients(got, want, leaves, dtype)


@pytest.mark.parametrize("axes", LEADS)
def test_one_grid(axes: str, lib: ModuleType) -> None:
    import torch

    lead = LEADS[axes]
    grids = grids_of(lib)
    rgb, xy = colors_and_places(lead)
    leaves = {"grids": grids.grids, "rgb": rgb, "xy": xy}
    everywhere = torch.full((*lead, 1), 3)
    for index in (
        3,
        torch.tensor(3),
        torch.tensor([3]),
        torch.tensor([[3]]),
        torch.full((lead[0],), 3),
        torch.full((1, 2), 3),
        everywhere,
    ):
        got = lib.slice(grids, xy, rgb, index, compute_coords_grad=True)
        want = colors_by_grid_sample(grids.grids, xy, rgb, torch.full((lead[0],), 3))
        assert_same_with_gradients(got["rgb"], want, leaves)


@pytest.mark.parametrize("index", [[-1], [-5], [-1, -5, 4, 0, 1, -1, 2, -3, 3]], ids=str)
def test_negative_numbers_count_from_the_last_grid(index: list[int], lib: ModuleType) -> None:
    import torch

    grids = grids_of(lib)
    rgb, xy = colors_and_places((9,))
    forms = [torch.tensor(index), torch.tensor(index)[:, None], *(index if len(index) == 1 else [])]
    want = lib.slice(grids, xy, rgb, torch.tensor(index) % 5)["rgb"]
    for form in forms:
        assert torch.equal(lib.slice(grids, xy, rgb, form)["rgb"], want)


@pytest.mark.parametrize("index", [[-6], [5], [0, 1, 2, -6, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0, 0, 0, 1]], ids=str)
def test_a_grid_that_is_not_there(index: list[int], lib: ModuleType) -> None:
    import torch

    rgb, xy = colors_and_places((9,))
    wrong = next(number for number in index if not -5 <= number < 5)
    with pytest.raises(IndexError) as raised:
        lib.slice(grids_of(lib), xy, rgb, torch.tensor(index))
    assert str(raised.value) == f"slice: grid_idx must name one of 5 grids, from -5 to 4, got {wrong}."


def test_all_grids_in_order(lib: ModuleType) -> None:
    import torch

    grids = grids_of(lib, 3)
    rgb, xy = colors_and_places(LEADS["groups"])
    want = matrices_by_grid_sample(grids.grids, xy, rgb, torch.arange(3))
    assert_same_with_gradients(grids(xy, rgb), want, {"grids": grids.grids, "rgb": rgb, "xy": xy})


def corner_to_corner(h: int, w: int) -> Any:
    import torch

    y, x = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (h, w))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


@pytest.mark.parametrize(
    ("lead", "several"),
    [((4, 5), False), ((3, 4, 5), False), ((3, 2, 4, 5), False), ((3, 4, 5), True), ((3, 2, 4, 5), True)],
    ids=str,
)
def test_images_that_cover_their_views(lead: tuple[int, ...], several: bool, lib: ModuleType) -> None:
    import torch

    grids = grids_of(lib)
    rgb, _ = colors_and_places(lead)
    index = torch.arange(1, 1 + lead[0]) if several else torch.full((lead[0],), 2)
    got = lib.slice(grids, None, rgb, index if several else 2)
    want = colors_by_grid_sample(grids.grids, corner_to_corner(4, 5).expand(*lead, 2), rgb, index)
    assert_same_with_gradients(got["rgb"], want, {"grids": grids.grids, "rgb": rgb})
    if not several:
        everywhere = lib.slice(grids, None, rgb, index[:, None])["rgb"]
        assert torch.equal(everywhere, got["rgb"])


def test_a_trainers_mesh_of_pixel_centres(lib: ModuleType) -> None:
    """As gsplat's trainer calls it, on an image wide enough for the kernels' faster ways."""
    import torch

    grids = grids_of(lib, dtype="float32")
    height, width = 37, 90
    rgb, _ = colors_and_places((2, height, width), "float32")
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    mesh = torch.stack([x, y], -1)[None]
    image_ids = torch.tensor([3, 1])
    got = lib.slice(grids, mesh.expand(2, -1, -1, -1), rgb, image_ids[:, None])["rgb"]
    want = colors_by_grid_sample(grids.grids, mesh.expand(2, -1, -1, -1), rgb, image_ids)
    assert_same_with_gradients(got, want, {"grids": grids.grids, "rgb": rgb}, F32)
    assert torch.equal(lib.slice(grids, mesh, rgb, image_ids[:, None])["rgb"], got)  # one mesh for all


def test_coordinates_get_a_gradient_where_it_is_asked_for(lib: ModuleType) -> None:
    """By requires_grad, as in lib_bilagrid; and fused_bilagrid's argument can say no."""
    grids = grids_of(lib)
    rgb, xy = colors_and_places((4, 5))
    out = lib.slice(grids, xy, rgb, 1, compute_coords_grad=False)
    (out["rgb"].sum() + out["rgb_affine_mats"].sum()).backward()
    assert xy.grad is None
    assert rgb.grad is not None
    lib.slice(grids, xy, rgb, 1)["rgb"].sum().backward()
    assert xy.grad is not None


def test_rays_of_many_grids_are_one_call(lib: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bilateral_ops.compat import _bilagrid

    grids = grids_of(lib, 40, grid_X=3, grid_Y=3, grid_W=2)
    # One grid has half of the rays, one has none, the others a few each.
    index = torch.cat([torch.full((200,), 7), 8 + torch.arange(200) % 31])[torch.randperm(400)]
    rgb, xy = colors_and_places((400,))
    shapes = []

    def counted(grid: Any, guide: Any, image: Any, **keywords: Any) -> Any:
        shapes.append(tuple(image.shape))
        return slice_apply(grid, guide, image, **keywords)

    monkeypatch.setattr(_bilagrid, "slice_apply", counted)
    got = lib.slice(grids, xy, rgb, index[:, None], compute_coords_grad=True)["rgb"]
    assert shapes == [(400, 1, 1, 3)]
    want = colors_by_grid_sample(grids.grids, xy, rgb, index)
    assert_same_with_gradients(got, want, {"grids": grids.grids, "rgb": rgb, "xy": xy})


@pytest.mark.parametrize("used", ["all", "some", "one", "the last"])
def test_rays_whose_grids_nobody_can_look_at(used: str, lib: ModuleType) -> None:
    """As of a device, which would have to be waited for: shapes depend on shapes alone, and results are the same."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    grids = grids_of(lib, 7, grid_X=3, grid_Y=3, grid_W=2)
    number = torch.arange(50)
    index = {"all": number * 3 % 7, "some": number % 2 * 3 + 1, "one": number * 0, "the last": number % 2 - 1}[used]
    rgb, xy = colors_and_places((50,))
    leaves = {"grids": grids.grids, "rgb": rgb, "xy": xy}

    def colors(module: Any, rgb: Any, xy: Any, index: Any) -> Any:
        return lib.slice(module, xy, rgb, index, compute_coords_grad=True)["rgb"]

    want = colors(grids, rgb, xy, index)
    got = torch.compile(colors, backend="aot_eager", fullgraph=True)(grids, rgb, xy, index)
    assert torch.equal(got, want)
    assert_same_with_gradients(got, want, leaves)
    with FakeTensorMode() as mode:  # has no numbers
        *given, places = map(mode.from_tensor, (*leaves.values(), index))
        out = colors(*given, places)
        assert out.shape == want.shape
        for gradient, leaf in zip(torch.autograd.grad(out.sum(), given), given):
            assert gradient.shape == leaf.shape


@pytest.mark.parametrize("what", ["rgb", "rgb_affine_mats"])
@pytest.mark.parametrize("where", ["a colour", "infinities", "a place"])
@pytest.mark.parametrize("axes", LEADS)
def test_a_nan_stays_with_its_colour(axes: str, where: str, what: str, lib: ModuleType) -> None:
    """In results; and as with grid_sample, gradients are those without it, whatever comes to it."""
    import torch

    grids = grids_of(lib)
    rgb, xy = colors_and_places(LEADS[axes])
    index = index_forms(LEADS[axes])["one axis"]
    with torch.no_grad():
        want = lib.slice(grids, xy, rgb, index)[what]
        at = (2, *[1] * (rgb.ndim - 2))
        if where == "a colour":
            rgb[(*at, 1)] = torch.nan
        elif where == "infinities":
            rgb[at] = torch.tensor([torch.inf, -torch.inf, 0], dtype=rgb.dtype)
        else:
            xy[(*at, 0)] = torch.nan
    rest = torch.ones(rgb.shape[:-1], dtype=torch.bool)
    rest[at] = False
    leaves = {"grids": grids.grids, "rgb": rgb, "xy": xy}
    out = lib.slice(grids, xy, rgb, index, compute_coords_grad=True)[what]
    assert out[at].isnan().all()
    assert torch.equal(out[rest], want[rest])
    wanted = torch.autograd.grad(out[rest].square().sum(), list(leaves.values()), retain_graph=True)
    for loss in (out.square().sum(), torch.where(out.isnan(), 0, out).square().sum()):
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        for name, got, expected in zip(leaves, gradients, wanted, strict=True):
            assert expected.isfinite().all(), name
            assert torch.equal(got, expected), name
            if name != "grids":
                assert not got[at].any()


def test_a_nan_where_nobody_can_look_for_it(lib: ModuleType) -> None:
    """Under transforms and compilers, that hide the numbers."""
    import torch

    module = grids_of(lib, 1, grid_X=3, grid_Y=2, grid_W=3)
    rgb, xy = (tensor.detach() for tensor in colors_and_places((1, 3, 9)))
    rgb[0, 1, 4, 2] = torch.nan

    def loss(module: Any, rgb: Any) -> Any:
        out = lib.slice(module, xy, rgb, 0)
        return torch.where(rgb.isnan().any(-1, True), 0, out["rgb"]).sum()

    def loss_of(grids: Any) -> Any:
        return loss(grids, rgb)

    (want,) = torch.autograd.grad(loss(module, rgb), module.grids)
    assert want.isfinite().all()
    torch.testing.assert_close(torch.func.grad(loss_of)(module.grids), want)
    many = torch.func.vmap(torch.func.grad(loss_of))(torch.stack([module.grids] * 2))
    torch.testing.assert_close(many, torch.stack([want] * 2))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(module, rgb), module.grids)[0], want)


@pytest.mark.parametrize("lead", [(), (3,), (3, 2)], ids=["one", "images", "groups"])
def test_patches_are_cut_from_their_views(lead: tuple[int, ...], lib: ModuleType) -> None:
    import torch

    height, width, h, w = 9, 11, 4, 5
    grids = grids_of(lib)
    rgb, _ = colors_and_places((*lead, h, w))
    offsets = torch.tensor([[0, 0], [6, 5], [2, 1], [1, 4], [3, 3], [5, 0]][: math.prod(lead)]).reshape(*lead, 2).int()
    mesh = corner_to_corner(height, width)
    places = torch.stack([mesh[y : y + h, x : x + w] for x, y in offsets.reshape(-1, 2).tolist()])
    index = torch.tensor([4, 0, 1][: len(rgb)]) if lead else torch.full((h,), 2)
    got = lib.slice(
        grids,
        None,
        rgb,
        index[:, None] if lead else 2,
        actual_height=height,
        actual_width=width,
        patch_offsets=offsets,
    )["rgb"]
    want = colors_by_grid_sample(grids.grids, places.reshape(*rgb.shape[:-1], 2), rgb, index)
    assert_same_with_gradients(got, want, {"grids": grids.grids, "rgb": rgb})


def test_matrices_are_computed_when_read(lib: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bilateral_ops.compat import _bilagrid

    calls = []

    def counted(*arrays: Any, **keywords: Any) -> Any:
        calls.append(arrays)
        return bilateral_ops.slice(*arrays, **keywords)

    monkeypatch.setattr(_bilagrid, "_slice", counted)
    grids = grids_of(lib)
    rgb, xy = colors_and_places((4, 5))
    out = lib.slice(grids, xy, rgb, 1)
    assert list(out) == ["rgb", "rgb_affine_mats"]
    assert len(out) == 2
    assert not calls
    assert out["rgb_affine_mats"].shape == (4, 5, 3, 4)
    assert out["rgb_affine_mats"] is out.get("rgb_affine_mats")
    assert len(calls) == 1
    assert torch.allclose(lib.color_affine_transform(out["rgb_affine_mats"], rgb), out["rgb"])
    with pytest.raises(KeyError):
        out["alpha"]
    with torch.no_grad():
        out = lib.slice(grids, xy, rgb, 1)
    assert not out["rgb_affine_mats"].requires_grad


@pytest.mark.parametrize("grad", [True, False], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("lead", [*LEADS.values(), (3, 12, 15)], ids=str)
def test_matrices_are_those_of_the_call(lead: tuple[int, ...], grad: bool, lib: ModuleType) -> None:
    """Whatever changes before they are read; or a sentence."""
    import torch

    def called() -> tuple[Any, ...]:
        rgb, xy = (tensor.detach() for tensor in colors_and_places(lead))
        grids, index = grids_of(lib), index_forms(lead)["one axis"].clone()
        with torch.set_grad_enabled(grad):
            return lib.slice(grids, xy, rgb, index), grids.grids.detach(), index, rgb, xy

    want = called()[0]["rgb_affine_mats"]
    out, grids, index, *_ = called()
    grids.zero_()
    index.zero_()
    assert torch.equal(out["rgb_affine_mats"], want)
    for position, name in ((3, "rgb"), (4, "xy")):
        out, *changed = called()
        changed[position - 1].mul_(0.5)
        sentence = (
            f'slice: {name} must not change before "rgb_affine_mats" is read, got a tensor written to since the call; '
            f"read it before, or pass {name}.clone()."
        )
        with pytest.raises(RuntimeError) as raised:
            out["rgb_affine_mats"]
        assert str(raised.value) == sentence
    out, _, _, rgb, xy = called()
    assert torch.equal(out["rgb_affine_mats"], want)
    for changed in (rgb, xy):  # after it was read
        changed.zero_()
    assert torch.equal(out["rgb_affine_mats"], want)


def test_matrices_are_those_of_the_call_where_writes_are_not_counted(lib: ModuleType) -> None:
    import torch

    grids = grids_of(lib)
    index = torch.tensor([4, 1, 0])
    rgb, xy = (tensor.detach() for tensor in colors_and_places((3, 4, 5)))
    with torch.no_grad():
        want = lib.slice(grids, xy, rgb, index)["rgb_affine_mats"]

    def changed_before_they_are_read(rgb: Any) -> Any:
        places = xy.clone()
        out = lib.slice(grids, places, rgb, index)
        rgb.mul_(0.5)
        places.mul_(0.5)
        return out["rgb_affine_mats"]

    with torch.inference_mode():
        assert torch.equal(changed_before_they_are_read(rgb.clone()), want)
        out = lib.slice(grids, xy.clone(), rgb.clone(), index)
    assert torch.equal(out["rgb_affine_mats"], want)  # and outside of that mode
    with torch.no_grad():
        many = torch.func.vmap(changed_before_they_are_read)(torch.stack([rgb, rgb]))
    assert torch.equal(many, torch.stack([want, want]))


@pytest.mark.parametrize("axes", LEADS)
def test_the_image_is_not_copied(axes: str, lib: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from bilateral_ops.compat import _bilagrid

    images = []

    def caught(grid: Any, guide: Any, image: Any, **keywords: Any) -> Any:
        images.append(image)
        return slice_apply(grid, guide, image, **keywords)

    monkeypatch.setattr(_bilagrid, "slice_apply", caught)
    rgb, xy = colors_and_places(LEADS[axes])
    lib.slice(grids_of(lib), xy, rgb, 1)
    planes = rgb.detach().movedim(-1, 0).contiguous().movedim(0, -1)  # channels first in memory
    lib.slice(grids_of(lib), xy, planes, 1)
    assert [image.data_ptr() for image in images] == [rgb.data_ptr(), planes.data_ptr()]


def test_derivatives_of_any_order_and_transforms(lib: ModuleType) -> None:
    import torch

    rgb, xy = colors_and_places((1, 3, 9))

    def colors(grids: Any, rgb: Any) -> Any:
        return lib.slice(grids, xy, rgb, 0)["rgb"]

    module = grids_of(lib, 1, grid_X=3, grid_Y=2, grid_W=3)
    grids = module.grids
    assert torch.autograd.gradcheck(colors, (grids, rgb))
    assert torch.autograd.gradgradcheck(colors, (grids, rgb))
    want = colors(grids, rgb)
    compiled = torch.compile(lambda rgb: lib.slice(module, xy, rgb, 0)["rgb"], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(rgb), want)
    many = torch.func.vmap(colors, (0, None))(torch.stack([grids, 2 * grids]), rgb)
    torch.testing.assert_close(many, torch.stack([want, colors(2 * grids, rgb)]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_colours_of_16_bits_beside_grids_of_32(dtype: str, lib: ModuleType) -> None:
    grids = grids_of(lib, dtype="float32")
    rgb, xy = colors_and_places((4, 5), dtype)
    out = lib.slice(grids, xy, rgb, 1)["rgb"]
    assert out.dtype == rgb.dtype
    out.sum().backward()
    want = colors_by_grid_sample(grids.grids, xy.float(), rgb.float(), [1] * 4)
    assert (out.float() - want).abs().max() < 0.1  # a guide of eight bits, between cells that differ by several
    assert grids.grids.grad.dtype == grids.grids.dtype


EMPTY = [(0,), (0, 5), (3, 0), (0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 2, 4, 5), (3, 0, 4, 5), (3, 2, 0, 5), (3, 2, 4, 0)]


@pytest.mark.parametrize("lead", EMPTY, ids=str)
def test_no_colours(lead: tuple[int, ...], lib: ModuleType) -> None:
    import torch

    grids = grids_of(lib)
    for index in (1, torch.ones(lead[0], dtype=torch.long), torch.arange(lead[0])):
        several = isinstance(index, torch.Tensor) and len(index.unique()) > 1
        for given in ("xy", None):
            if given is None and (len(lead) == 1 or (len(lead) == 2 and several)):
                continue  # rays have places
            rgb, xy = colors_and_places(lead)
            out = lib.slice(grids, xy if given else None, rgb, index, compute_coords_grad=True)
            assert out["rgb"].shape == (*lead, 3)
            assert out["rgb_affine_mats"].shape == (*lead, 3, 4)
            grids.grids.grad = None
            (out["rgb"].sum() + out["rgb_affine_mats"].sum()).backward()
            assert not grids.grids.grad.any()
            assert rgb.grad.shape == rgb.shape
    assert lib.color_correct(rgb.detach(), rgb.detach()).shape == rgb.shape
    assert lib.color_affine_transform(out["rgb_affine_mats"], rgb).shape == rgb.shape


def test_no_grids_or_cells_or_channels(lib: ModuleType) -> None:
    import torch

    rgb, xy = torch.rand(4, 3), torch.rand(4, 2)
    for index in (0, torch.tensor([0, 0, 1, 0])):
        with pytest.raises(IndexError) as raised:
            lib.slice(lib.BilateralGrid(0), xy, rgb, index)
        assert str(raised.value) == "slice: grid_idx must name a grid, of which there are none, got 0."
    for size in ("grid_X", "grid_Y", "grid_W"):
        with pytest.raises(ValueError, match=": grid must have 1 to 8388608 cells on every grid axis, got"):
            lib.slice(lib.BilateralGrid(2, **{size: 0}), xy, rgb, 1)
    assert lib.color_correct(torch.zeros(4, 0), torch.zeros(4, 0)).shape == (4, 0)


# --- the rest of the module


def test_grids_begin_as_the_identity(lib: ModuleType) -> None:
    import torch

    grids = lib.BilateralGrid(2)
    assert grids.grids.shape == (2, 12, 8, 16, 16)
    assert isinstance(grids.grids, torch.nn.Parameter)
    assert lib.BilateralGrid(3, grid_X=4, grid_Y=5, grid_W=6).grids.shape == (3, 12, 6, 5, 4)
    rgb, xy = colors_and_places((6, 7), "float32")
    assert torch.equal(lib.slice(grids, xy, rgb, 1)["rgb"], rgb)
    assert grids.tv_loss() == 0
    white, black = torch.ones(1, 3), torch.zeros(2, 1, 3)
    assert grids.rgb2gray(white).tolist() == [[1.0]]
    assert grids.rgb2gray(black).tolist() == [[[-1.0]], [[-1.0]]]


def test_checkpoints_of_both_packages_load(lib: ModuleType) -> None:
    import torch

    grids = grids_of(lib, 2, dtype="float32")
    saved = grids.state_dict()
    assert set(saved) == {"grids", "rgb2gray_weight"}  # lib_bilagrid's
    whole = torch.nn.ModuleDict({"bil_grids": lib.BilateralGrid(2, 7, 6, 4)})
    for names in (saved, {"grids"}):  # fused_bilagrid's
        fresh = {f"bil_grids.{name}": saved[name] for name in names}
        assert whole.load_state_dict(fresh).missing_keys == []
        assert torch.equal(whole["bil_grids"].grids, grids.grids)
    with pytest.raises(RuntimeError, match=r"Missing key.*bil_grids\.grids"):
        whole.load_state_dict({})


@pytest.mark.parametrize(
    "shape",
    [(2, 12, 3, 4, 5), (3, 12, 1, 4, 2), (2, 5, 4, 3), (1, 5, 6), (1, 2, 1, 1, 1), (2, 3), (2, 3, 4, 3, 2, 5)],
    ids=str,
)
def test_total_variation(shape: tuple[int, ...], lib: ModuleType) -> None:
    import torch

    x = tensor(np.random.default_rng(4).standard_normal(shape))
    values = x.detach().numpy()
    loss = 0.0
    for axis in range(2, len(shape)):
        if shape[axis] > 1:
            steps = np.diff(values, axis=axis) ** 2
            loss += steps.sum() / steps[0].size / shape[0]
    got = lib.total_variation_loss(x)
    assert got.shape == ()
    assert abs(got.item() - loss) <= 1e-12 * max(loss, 1)
    (ours,) = torch.autograd.grad(got, x)
    theirs = sum(
        (x.diff(dim=axis) ** 2).sum() / math.prod(x.diff(dim=axis).shape[1:]) / shape[0]
        for axis in range(2, len(shape))
        if shape[axis] > 1
    )
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, torch.autograd.grad(theirs, x)[0])
    else:
        assert not ours.any()


@pytest.mark.parametrize("lead", [(), (4,), (3, 4), (2, 3, 4), (2, 2, 3, 4)], ids=str)
def test_color_affine_transform(lead: tuple[int, ...], lib: ModuleType) -> None:
    rng = np.random.default_rng(5)
    rgb, mats = tensor(rng.random((*lead, 3))), tensor(rng.random((*lead, 3, 4)))
    want = (mats[..., :3] @ rgb[..., None])[..., 0] + mats[..., 3]
    assert_same_with_gradients(lib.color_affine_transform(mats, rgb), want, {"mats": mats, "rgb": rgb})
    one = tensor(rng.random((3, 4)))  # for all colours
    want = (one[..., :3] @ rgb[..., None])[..., 0] + one[..., 3]
    assert_same_with_gradients(lib.color_affine_transform(one, rgb), want, {"mats": one, "rgb": rgb})


def quadratic(rgb: Any) -> Any:
    """A change of colours that stays between 0 and 1."""
    r, g, b = rgb.unbind(-1)
    return rgb.new_tensor([0.08, 0.05, 0.1]) + 0.5 * rgb + 0.2 * (r * g)[..., None] - 0.1 * (b * b)[..., None]


def test_color_correct_finds_the_change_of_colours(lib: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bilateral_ops.compat import _color_correct

    monkeypatch.setattr(_color_correct, "_EXPANDED", 37 * 35)  # pixels of 99
    img = tensor(np.random.default_rng(6).random((1, 9, 11, 3)), "float32", grad=False)
    want = quadratic(img)
    got = lib.color_correct(img, want)
    assert (got.shape, got.dtype) == (img.shape, img.dtype)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    clipped = want.clone()
    clipped[0, :3] = 1.0  # of which nothing is to be learnt
    torch.testing.assert_close(lib.color_correct(img, clipped), want, rtol=0, atol=1e-6)
    assert torch.equal(lib.color_correct(img, want, num_iters=0), img)


def corrected_by_lstsq(img: Any, ref: Any, num_iters: int) -> Any:
    import torch

    eps = 0.5 / 255
    now = img
    for _ in range(num_iters):
        r, g, b = now.unbind(-1)
        terms = torch.stack([r * r, r * g, r * b, g * g, g * b, b * b, r, g, b, torch.ones_like(r)], -1)
        columns = []
        for c in range(3):
            inside = [(values[:, c] >= eps) & (values[:, c] <= 1 - eps) for values in (img, now, ref)]
            used = inside[0] & inside[1] & inside[2]
            columns.append(terms @ torch.linalg.lstsq(terms[used], ref[used, c]).solution)
        now = torch.stack(columns, -1).clamp(0, 1)
    return now


def test_color_correct_is_the_least_squares_fit(lib: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the fits by lstsq, round by round, with gradients; of an image whose colours leave [0, 1] on the way."""
    import torch

    from bilateral_ops.compat import _color_correct

    monkeypatch.setattr(_color_correct, "_EXPANDED", 70 * 35)  # pixels of 200
    rng = np.random.default_rng(7)
    img, ref = (tensor(rng.random((200, 3)), grad=False) for _ in range(2))
    ref = (ref * 0.3 + img.flip(-1) * 1.1 - 0.15).clamp(0, 1)
    want = corrected_by_lstsq(img, ref, 3)
    torch.testing.assert_close(lib.color_correct(img, ref, num_iters=3), want, rtol=0, atol=1e-9)

    leaves = [img.requires_grad_(), ref.requires_grad_()]
    got, want = lib.color_correct(img, ref, num_iters=3), corrected_by_lstsq(img, ref, 3)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
    weights = torch.from_numpy(rng.standard_normal(got.shape))
    wanted = torch.autograd.grad(want, leaves, weights)
    torch.testing.assert_close(torch.autograd.grad(got, leaves, weights), wanted, rtol=1e-7, atol=1e-8)
    by_transform = torch.func.grad(lambda img: (lib.color_correct(img, ref.detach(), 3) * weights).sum())(img.detach())
    torch.testing.assert_close(by_transform, wanted[0], rtol=1e-7, atol=1e-8)


def test_color_correct_is_compiled_whole(lib: ModuleType) -> None:
    import torch

    rng = np.random.default_rng(6)
    img = tensor(0.05 + 0.9 * rng.random((5, 40, 3)))
    ref = tensor(img.detach().numpy() * 0.7 + 0.1, grad=False)

    def call(img: Any) -> Any:
        return lib.color_correct(img, ref, 2)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(img), call(img), rtol=0, atol=1e-9)
    got, want = (torch.autograd.grad(f(img).square().sum(), img)[0] for f in (compiled, call))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


def test_color_corrects_derivatives(lib: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bilateral_ops.compat import _color_correct

    monkeypatch.setattr(_color_correct, "_EXPANDED", 10 * 5)  # pixels of 24
    rng = np.random.default_rng(8)
    img = tensor(0.05 + 0.9 * rng.random((24, 1)))
    ref = tensor(img.detach().numpy() * 0.7 + 0.1 + 0.15 * rng.random((24, 1)))
    assert torch.autograd.gradcheck(lambda a, b: lib.color_correct(a, b, 1), (img, ref))
    assert torch.autograd.gradgradcheck(lambda a, b: lib.color_correct(a, b, 2), (img, ref))
    # Of no rounds the image itself, and a copy.
    out = lib.color_correct(img, ref, 0)
    assert torch.equal(out, img)
    assert out.data_ptr() != img.data_ptr()


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_color_correct_is_nearer_to_the_exact_fit_than_lstsq(recorded: bool, lib: ModuleType) -> None:
    rng = np.random.default_rng(9)
    img = tensor(rng.random((4000, 3)) * [1, 0.3, 0.1] + [0, 0.3, 0.4], grad=False)
    ref = (0.9 * img**1.2 + 0.02 * tensor(rng.random((4000, 3)), grad=False)).float()
    exact = corrected_by_lstsq(img.float().double(), ref.double(), 5)
    theirs = corrected_by_lstsq(img.float(), ref, 5) - exact
    ours = lib.color_correct(img.float().requires_grad_(recorded), ref) - exact
    assert ours.abs().max() < theirs.abs().max() / 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("where", ["img", "ref"])
def test_color_correct_learns_nothing_from_what_is_not_finite(where: str, value: float, lib: ModuleType) -> None:
    import torch

    img = tensor(np.random.default_rng(6).random((9, 11, 3)), "float32", grad=False)
    want = quadratic(img)
    given = {"img": img.clone(), "ref": want.clone()}
    given[where][3, 4, 1] = value
    got = lib.color_correct(**given)
    rest = torch.ones(9, 11, dtype=torch.bool)
    if where == "img":
        rest[3, 4] = False
        if value != 1e30:
            assert got[3, 4].isnan().any()
    if where == "ref" or value != 1e30:  # a finite channel does not affect the other channels, as in the original
        torch.testing.assert_close(got[rest], want[rest], rtol=0, atol=1e-6)
    assert got[rest].isfinite().all()


def test_color_correct_of_a_grey_image(lib: ModuleType) -> None:
    import torch

    img = tensor(np.linspace(0.1, 0.9, 50), "float32", grad=False)[:, None].expand(50, 3)
    torch.testing.assert_close(lib.color_correct(img, img * 0.5 + 0.2), img * 0.5 + 0.2, rtol=0, atol=1e-5)


def _lib_errors() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    import torch

    rays, images = torch.rand(9, 3), torch.rand(2, 4, 5, 3)
    patch = {"rgb": images, "xy": None, "actual_height": 8, "actual_width": 8}
    return {
        "colours": (
            {"rgb": torch.rand(9, 4)},
            ValueError,
            "slice: rgb must have shape (..., 3) of 2 to 5 axes, got (9, 4).",
        ),
        "one axis": (
            {"rgb": torch.rand(3)},
            ValueError,
            "slice: rgb must have shape (..., 3) of 2 to 5 axes, got (3,).",
        ),
        "places": (
            {"rgb": images, "xy": torch.rand(2, 4, 4, 2)},
            ValueError,
            "slice: xy must have shape (2, 4, 5, 2) to match rgb, got (2, 4, 4, 2).",
        ),
        "no places": (
            {"rgb": torch.rand(9, 4, 3), "xy": None, "grid_idx": torch.arange(9) % 2},
            ValueError,
            "slice: xy must be given for rays of several grids, got None.",
        ),
        "no places for rays": (
            {"rgb": rays, "xy": None},
            ValueError,
            "slice: xy must be given for rays, got None.",
        ),
        "too few grids": (
            {"grid_idx": torch.tensor([1, 2])},
            ValueError,
            "slice: grid_idx must have one number, or 9 along its first axis to match rgb, got shape (2,).",
        ),
        "fractions": (
            {"grid_idx": torch.tensor(1.0)},
            TypeError,
            "slice: grid_idx must be integers, got torch.float32.",
        ),
        "half a patch": (
            {"actual_height": 8},
            ValueError,
            "slice: actual_height, actual_width and patch_offsets must be given together, got no actual_width and no "
            "patch_offsets.",
        ),
        "offsets": (
            {**patch, "patch_offsets": torch.zeros(3, 2)},
            ValueError,
            "slice: patch_offsets must have two numbers for each image in rgb, (2, 4, 5, 3), got shape (3, 2).",
        ),
        "patches of rays": (
            {**patch, "rgb": rays, "patch_offsets": torch.zeros(9, 2)},
            ValueError,
            "slice: patch_offsets must have two numbers for each image in rgb, (9, 3), got shape (9, 2).",
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "colours",
        "one axis",
        "places",
        "no places",
        "no places for rays",
        "too few grids",
        "fractions",
        "half a patch",
        "offsets",
        "patches of rays",
    ],
)
def test_lib_bilagrids_errors(name: str, lib: ModuleType) -> None:
    import torch

    errors = _lib_errors()
    changes, error, sentence = errors[name]
    given = {"xy": torch.rand(9, 2), "rgb": torch.rand(9, 3), "grid_idx": torch.tensor(1), **changes}
    with pytest.raises(error) as raised:
        lib.slice(lib.BilateralGrid(5), **given)
    assert str(raised.value) == sentence


def test_the_other_functions_errors(lib: ModuleType) -> None:
    import torch

    with pytest.raises(ValueError, match=r"^total_variation_loss: x must have shape \(N, C, \.\.\.\), got \(2,\)\.$"):
        lib.total_variation_loss(torch.zeros(2))
    sentence = r"color_correct: ref must have as many pixels and channels as img, \(4, 5, 3\), got \(4, 6, 3\)\."
    with pytest.raises(ValueError, match=sentence):
        lib.color_correct(torch.zeros(4, 5, 3), torch.zeros(4, 6, 3))
