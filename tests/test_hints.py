"""Do errors say the remedy where what was given tells what was meant; and is every remedy one?"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backends import to_torch
from cases import F32

import bilateral_ops
from bilateral_ops._core import hints

H, W = 24, 40
GRID, GUIDE, IMAGE = (3, 4, 5, 3, 4), (H, W), (H, W, 3)


def rand(*shape: int, dtype: Any = F32) -> Any:
    return np.random.default_rng(0).random(shape).astype(dtype)


def planar(image: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(image, -1, -3))


def call_slice_apply(grid: Any = None, guide: Any = None, image: Any = None, **keywords: Any) -> Any:
    """``slice_apply`` of arguments made from the right ones by functions."""
    made = [change(a) if change else a for change, a in zip((grid, guide, image), map(rand_of, (GRID, GUIDE, IMAGE)))]
    return bilateral_ops.slice_apply(*made, **keywords)


def rand_of(shape: tuple[int, ...]) -> Any:
    return rand(*shape)


def batched(change: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
    return lambda a: (change(a[None]) if change else a[None]).copy()


def _port(grid: Any) -> Any:
    """As networks of PyTorch and lib_bilagrid have grids: (C·R, Gd, Gh, Gw)."""
    return np.moveaxis(grid.reshape(*grid.shape[:-2], 12), (-1, -2), (-4, -3))


#: The call, and how its sentence ends; what the remedy's code makes of the argument is tried, too.
MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "channels first": (
        lambda: call_slice_apply(image=planar),
        "image must have shape (H, W, Ci) = (24, 40, *) to match guide, got (3, 24, 40); "
        "pass np.moveaxis(image, -3, -1).",
    ),
    "channels first, in a batch": (
        lambda: call_slice_apply(batched(), batched(), batched(planar)),
        "got (1, 3, 24, 40); pass np.moveaxis(image, -3, -1).",
    ),
    "channels first, of luma": (
        lambda: bilateral_ops.guide_luma(rand(3, H, W)),
        "image must have shape (H, W, 3), got (3, 24, 40); pass np.moveaxis(image, -3, -1).",
    ),
    "channels first, found by a parameter": (
        lambda: bilateral_ops.guide_nn(rand(3, H, W), rand(8, 3), rand(8), rand(8), 0.5),
        "w1 must have shape (F, Ci) = (*, 40) to match image, got (8, 3); pass np.moveaxis(image, -3, -1) for image.",
    ),
    "values with channels first": (
        lambda: bilateral_ops.splat(rand(H, W), rand(3, H, W), (3, 4, 5)),
        "got (3, 24, 40); pass np.moveaxis(values, -3, -1).",
    ),
    "a tensor with channels first": (
        lambda: bilateral_ops.guide_luma(_tensor(rand(3, H, W))),
        "got (3, 24, 40); pass image.movedim(-3, -1).",
    ),
    "a grey image": (
        lambda: bilateral_ops.resize_area(rand(H, W), (3, 4)),
        "image must have shape (H, W, Ci) or (N, H, W, Ci), got (24, 40); pass image[..., None].",
    ),
    "a guide with channels": (
        lambda: call_slice_apply(guide=lambda g: g[..., None]),
        "; pass guide[..., 0] for guide.",
    ),
    "a guide with channels, in a batch": (
        lambda: call_slice_apply(batched(), batched(lambda g: g[..., None]), batched()),
        "guide must have shape (H, W) or (N, H, W), got (1, 24, 40, 1); pass guide[..., 0] for guide.",
    ),
    "a guide with channels first": (
        lambda: bilateral_ops.slice(rand(2, 3, 4, 5, 6), rand(2, 1, H, W)),
        "got (2, 1, 24, 40); pass guide[:, 0] for guide.",
    ),
    "a guide in a batch, alone": (
        lambda: call_slice_apply(guide=lambda g: g[None]),
        "grid must have shape (N, Gh, Gw, Gd, Co, Ci[+1]), got (3, 4, 5, 3, 4); pass guide[0] for guide.",
    ),
    "bytes for a guide": (
        lambda: call_slice_apply(guide=lambda g: (g * 255).astype(np.uint8)),
        "guide must be float32 to match image, got uint8; pass guide.astype(np.float32) / 255.",
    ),
    "integers for a guide": (
        lambda: bilateral_ops.slice(rand(*GRID), rand(H, W).astype(np.int64)),
        "guide must be float32 to match grid, got int64; pass guide.astype(np.float32), scaled to [0, 1].",
    ),
    "a tensor of bytes for a guide": (
        lambda: bilateral_ops.slice(_tensor(rand(*GRID)), _tensor((rand(H, W) * 255).astype(np.uint8))),
        "guide must be float32 to match grid, got uint8; pass guide.float() / 255.",
    ),
    "a grid of channels": (
        lambda: call_slice_apply(lambda g: g.reshape(3, 4, 5, 12)),
        "got (3, 4, 5, 12); pass grid with its last axis made 3 × 4, by reshape.",
    ),
    "a grid of channels, which come first": (
        lambda: call_slice_apply(_port),
        "; pass np.moveaxis(grid, (-4, -3), (-1, -2)) with its last axis made 3 × 4, by reshape.",
    ),
    "transposed matrices, found by the gradient": (
        lambda: bilateral_ops.slice_apply_vjp(rand(3, 4, 5, 4, 3), rand(H, W), rand(H, W, 3), rand(H, W, 3)),
        "grad must have shape (H, W, Co) = (24, 40, 4) to match guide and grid, got (24, 40, 3); "
        "pass grid.swapaxes(-1, -2) for grid.",
    ),
    "transposed matrices, found by out": (
        lambda: call_slice_apply(lambda g: g.swapaxes(-1, -2), out=rand(H, W, 3)),
        "out must have shape (24, 40, 4), got (24, 40, 3); pass grid.swapaxes(-1, -2) for grid.",
    ),
    "transposed matrices": (
        lambda: bilateral_ops.apply(rand(H, W, 4, 2), rand(H, W, 3)),
        "; pass coefficients.swapaxes(-1, -2) for coefficients.",
    ),
    "a list": (
        lambda: bilateral_ops.guide_luma([[[0.5, 0.5, 0.5]]]),
        "image must be a NumPy, CuPy, PyTorch, JAX or TensorFlow array, got list; pass np.asarray(image, np.float32).",
    ),
    "a picture of Pillow's": (
        lambda: bilateral_ops.guide_luma(_of("PIL.Image", "Image")),
        "got Image; pass np.asarray(image).",
    ),
    "an array of xarray's": (
        lambda: bilateral_ops.guide_luma(_of("xarray.core.dataarray", "DataArray")),
        "got DataArray; pass image.values, or call through xarray.apply_ufunc.",
    ),
    "a result that is taken only as NumPy's": (
        lambda: bilateral_ops.guide_luma(rand(*IMAGE), out=Exchanged(rand(H, W))),
        "got Exchanged; pass np.from_dlpack(out).",
    ),
    "an array of Dask's": (
        lambda: bilateral_ops.guide_luma(_of("dask.array.core", "Array")),
        "got Array; call through dask.array.map_blocks, as examples/dask_tiles.py does.",
    ),
}


def _of(module: str, name: str) -> Any:
    return type(name, (), {"__module__": module})()


def _tensor(array: Any) -> Any:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    return to_torch(array)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_remedy_is_named(mistake: str) -> None:
    call, end = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    said = str(raised.value)
    assert said.endswith(end), said
    assert re.fullmatch(r"\w+: [a-z].*[^.\s]\.", said), said
    assert not re.search(r"\n|\. ", said), said


def test_every_mistake_has_a_test() -> None:
    """Every function of the table is the first that finds something in one of the calls above."""
    seen = set()

    def watched(mistake: Any) -> Any:
        def watching(refused: Any) -> str:
            if text := mistake(refused):
                seen.add(mistake)
            return str(text)

        return watching

    tables = ("TYPES", "DTYPES", "SHAPES")
    all_of_them = {mistake for table in tables for mistake in getattr(hints, table)}
    for call, _ in MISTAKES.values():
        with pytest.MonkeyPatch.context() as patch:
            for module in ("call", "dispatch"):
                home = __import__(f"bilateral_ops._core.{module}", fromlist=["x"])
                for table in tables:
                    if hasattr(home, table):
                        patch.setattr(home, table, tuple(map(watched, getattr(hints, table))))
            try:
                call()
            except (TypeError, ValueError, pytest.skip.Exception):
                continue
    assert seen == all_of_them


def test_the_remedies_help() -> None:
    grid, guide, image = map(rand_of, (GRID, GUIDE, IMAGE))
    want = bilateral_ops.slice_apply(grid, guide, image)
    ported = np.moveaxis(_port(grid), (-4, -3), (-1, -2)).reshape(*GRID)
    for remedied in ((ported, guide, image), (grid, guide, np.moveaxis(planar(image), -3, -1))):
        np.testing.assert_array_equal(bilateral_ops.slice_apply(*remedied), want)


@pytest.mark.parametrize("shape", [(24, 24, 3), (3, 4), (3, 24, 41)])
def test_what_says_nothing_of_what_was_meant_has_no_remedy(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image must have shape") as raised:
        bilateral_ops.apply(rand(H, W, 3, 3), rand(*shape))
    assert ";" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------------------------
# Arrays that have only __dlpack__
# ---------------------------------------------------------------------------------------------------------------------


class Exchanged:
    """An array of a framework that is not served, as the standard has it."""

    def __init__(self, array: Any, device: tuple[int, Any] = (1, 0), **attributes: Any) -> None:
        self._array, self._device = array, device
        self.__dict__.update(attributes)

    @property
    def shape(self) -> Any:
        return self._array.shape

    @property
    def dtype(self) -> Any:
        return SimpleNamespace(name=str(self._array.dtype))

    def __dlpack_device__(self) -> tuple[int, Any]:
        return self._device

    def __dlpack__(self, **keywords: Any) -> Any:
        return self._array.__dlpack__(**keywords)


def test_arrays_that_have_only_dlpack_enter_as_numpys() -> None:
    grid, guide, image = map(rand_of, (GRID, GUIDE, IMAGE))
    want = bilateral_ops.slice_apply(grid, guide, image)
    paddles = Exchanged(image, (1, None))
    for given in (map(Exchanged, (grid, guide, image)), (grid, Exchanged(guide), image), (grid, guide, paddles)):
        got = bilateral_ops.slice_apply(*given)
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, want)
    gradients = bilateral_ops.slice_apply_vjp(*map(Exchanged, (grid, guide, image, want)))
    np.testing.assert_array_equal(gradients.grid, bilateral_ops.slice_apply_vjp(grid, guide, image, want).grid)
    curves = bilateral_ops.NNGuide(*map(Exchanged, (rand(8, 3), rand(8), rand(8))), 0.5)
    enhanced = bilateral_ops.enhance(Exchanged(grid), curves, Exchanged(image))
    plain = bilateral_ops.NNGuide(rand(8, 3), rand(8), rand(8), 0.5)
    np.testing.assert_array_equal(enhanced, bilateral_ops.enhance(grid, plain, image))


def test_they_do_so_in_calls_that_are_known() -> None:
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    images = [rand(*IMAGE), rand(*IMAGE) * F32.type(0.5)]
    for image in images:
        got = bilateral_ops.guide_luma(strict.asarray(image))
        np.testing.assert_array_equal(got, bilateral_ops.guide_luma(image))


def test_where_they_are_is_asked_in_calls_that_are_known() -> None:
    image = rand(*IMAGE)

    class Device(Exchanged):
        dtype = np.dtype("f4")  # equal from array to array, so that checks are remembered

    assert bilateral_ops.guide_luma(Device(image)).shape == (H, W)
    with pytest.raises(RuntimeError, match=r"guide_luma: image is a Device on device \(2, 0\), and this version"):
        bilateral_ops.guide_luma(Device(image, (2, 0)))


@pytest.mark.parametrize("attributes", [{"requires_grad": True}, {"stop_gradient": False}])
def test_arrays_that_record_gradients_are_refused(attributes: dict[str, bool]) -> None:
    sentence = (
        r"^guide_luma: image must be an array that records no gradients, got a Exchanged that does, of a framework "
        r"that is not served; pass image\.detach\(\), and its autograd guide_luma_vjp's gradients\.$"
    )
    with pytest.raises(RuntimeError, match=sentence):
        bilateral_ops.guide_luma(Exchanged(rand(*IMAGE), **attributes))
    allowed = {name: not value for name, value in attributes.items()}
    assert bilateral_ops.guide_luma(Exchanged(rand(*IMAGE), **allowed)).shape == (H, W)


def test_what_numpy_does_not_take_is_refused() -> None:
    class Refusing(Exchanged):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("It is busy. Ask later.")

    sentence = r"^guide_luma: image must be an array that np\.from_dlpack takes, got Refusing: It is busy; Ask later\.$"
    with pytest.raises(TypeError, match=sentence):
        bilateral_ops.guide_luma(Refusing(rand(*IMAGE)))
    with pytest.raises(TypeError, match=r"image must be float16, .* got int32\."):
        bilateral_ops.guide_luma(Exchanged(rand(*IMAGE).astype(np.int32)))
    with pytest.raises(TypeError, match=r"^guide_luma: image must be an array that np.*, got Exchanged: .*unpack.*\.$"):
        bilateral_ops.guide_luma(Exchanged(rand(*IMAGE), None))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"out must be a NumPy, .*, got Exchanged; pass np\.from_dlpack\(out\)\."):
        bilateral_ops.guide_luma(rand(*IMAGE), out=Exchanged(rand(H, W)))


@pytest.mark.parametrize(
    "error", [AttributeError, BufferError, KeyError, OSError, RuntimeError], ids=lambda e: e.__name__
)
@pytest.mark.parametrize("method", ["__dlpack__", "__dlpack_device__"])
def test_whatever_error_refuses_the_exchange(method: str, error: type[Exception]) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    refusing = type("Refusing", (Exchanged,), {method: refuse})
    sentence = rf"^guide_luma: image must be an array that np\.from_dlpack takes, got Refusing: {error.__name__}\.$"
    with pytest.raises(TypeError, match=sentence) as refused:
        bilateral_ops.guide_luma(refusing(rand(*IMAGE)))
    assert isinstance(refused.value.__cause__, error)


def test_a_class_is_no_array() -> None:
    grids, guide = rand(2, *GRID), rand(2, H, W)
    for cls in (np.ndarray, Exchanged, np.float32):
        sentence = rf"^guide_luma: image must be a NumPy, CuPy, .*, got the class {cls.__name__}\.$"
        with pytest.raises(TypeError, match=sentence):
            bilateral_ops.guide_luma(cls)
        for name in ("xy", "index", "out"):
            with pytest.raises(TypeError, match=rf"^slice: {name} must be .*, got the class {cls.__name__}\.$"):
                bilateral_ops.slice(grids, guide, **{name: cls})


def test_errors_name_the_types_that_were_given() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    grid, guide = rand(*GRID), rand(H, W)
    apart = r"^slice: guide must belong to the framework of the other arrays, got {} beside {}\.$"
    own = f"{Exchanged.__module__.partition(chr(46))[0]}.Exchanged"
    with pytest.raises(TypeError, match=apart.format(own, "torch.Tensor")):
        bilateral_ops.slice(torch.from_numpy(grid), Exchanged(guide))
    with pytest.raises(TypeError, match=apart.format("torch.Tensor", own)):
        bilateral_ops.slice(Exchanged(grid), torch.from_numpy(guide))
    with pytest.raises(TypeError, match=f"^slice: out must belong .*, got torch.Tensor beside {own}"):
        bilateral_ops.slice(Exchanged(grid), guide, out=torch.empty(H, W, 3))


def test_a_list_of_indices_is_to_be_of_integers() -> None:
    grids = rand(2, *GRID)
    with pytest.raises(TypeError, match=r"pass np\.asarray\(index, np\.int64\)"):
        bilateral_ops.slice(grids, rand(2, H, W), index=[0, 1])
    with pytest.raises(TypeError) as refused:
        bilateral_ops.slice(rand(*GRID), rand(H, W), out=[0.0])
    assert "np.asarray" not in str(refused.value)
