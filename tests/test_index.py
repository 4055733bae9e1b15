"""Grids that are named by an index: is each image, and each pixel, sampled from its own?

That results and gradients agree with the reference is tested with every instruction set and dtype in test_agreement.py
(the cases "index …"), on CUDA in cuda/test_cuda_agreement.py.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cases import ALL_F32, ALL_F64, F32, arguments, assert_same_bits, backward, forward, random_like

import bilateral_ops

INDEXED = ("slice", "slice_apply", "total_variation")
OF_IMAGES = {"index": "images", "N": 3, "M": 4, "H": 5, "W": 40}
OF_PIXELS = {"index": "pixels", "xy": True, "N": 2, "M": 5, "H": 3, "W": 17}


def options_of(subject: str) -> list[dict[str, Any]]:
    return [OF_IMAGES] if subject == "total_variation" else [OF_IMAGES, OF_PIXELS]


def call(subject: str, given: dict[str, Any], *, grad: Any = None, **keywords: Any) -> dict[str, Any]:
    """Result and gradients by name."""
    result = forward(bilateral_ops, subject, given, **keywords)
    grad = random_like(result.shape, result.dtype) if grad is None else grad
    return {"result": result, **backward(bilateral_ops, subject, given, grad, **keywords)._asdict()}


def assert_equal(got: dict[str, Any], want: dict[str, Any]) -> None:
    for name, array in want.items():
        assert_same_bits(got[name], array, name)


@pytest.mark.parametrize("subject", INDEXED)
def test_the_order_of_grids_is_their_index(subject: str) -> None:
    given = arguments(subject, ALL_F32, N=3, H=5, W=40)
    want, order = call(subject, given), np.array([2, 0, 1])
    got = call(subject, {**given, "grid": given["grid"][order], "index": np.argsort(order)})
    assert_equal({**got, "grid": got["grid"][np.argsort(order)]}, want)


@pytest.mark.parametrize("subject", ["slice", "slice_apply"])
def test_pixels_have_the_same_bits_whatever_their_axes(subject: str) -> None:
    pixels = 5 * 8 * 8
    given = arguments(subject, ALL_F32, index="pixels", xy=True, N=1, H=1, W=pixels, M=7)
    given["index"] = np.repeat(given["index"][:, :, :5], 64, axis=2)  # patches of one grid each
    grad = random_like(forward(bilateral_ops, subject, given).shape, F32)
    want = call(subject, given, grad=grad)

    def shaped(*axes: int) -> dict[str, Any]:
        def reshaped(array: Any) -> Any:
            return array.reshape(*axes, *array.shape[3:])

        moved = {name: value if name == "grid" else reshaped(value) for name, value in given.items()}
        got = call(subject, moved, grad=reshaped(grad))
        return {name: a if name == "grid" or a is None else a.reshape(1, 1, pixels, -1) for name, a in got.items()}

    flat = {name: a if name == "grid" or a is None else a.reshape(1, 1, pixels, -1) for name, a in want.items()}
    for axes in ((pixels, 1, 1), (1, pixels, 1), (5, 8, 8)):
        assert_equal(shaped(*axes), flat)
    by_patch = {**given, "index": given["index"][0, 0, ::64]}
    patches = {
        name: a if name in ("grid", "index") else a.reshape(5, 8, 8, *a.shape[3:]) for name, a in by_patch.items()
    }
    assert_same_bits(forward(bilateral_ops, subject, patches).ravel(), want["result"].ravel())


@pytest.mark.parametrize("subject", INDEXED)
def test_indices_of_any_kind(subject: str) -> None:
    for options in options_of(subject):
        given = arguments(subject, ALL_F32, **options)
        want, index = call(subject, given), given["index"]
        unaligned = np.frombuffer(b"x" + index.tobytes(), np.uint8)[1:].view(index.dtype).reshape(index.shape)
        for other in (index.astype(np.int32), np.repeat(index, 2, axis=0)[::2], index[::-1].copy()[::-1], unaligned):
            assert_equal(call(subject, {**given, "index": other}), want)


@pytest.mark.parametrize("subject", INDEXED)
def test_grids_that_nobody_names_get_no_gradient(subject: str) -> None:
    for options in options_of(subject):
        given = arguments(subject, ALL_F32, **options)
        given["grid"][0] = np.nan
        given["index"] = given["index"] % (options["M"] - 1) + 1
        gradients = call(subject, given)
        assert not gradients["grid"][0].any()
        assert all(np.isfinite(a).all() for a in gradients.values() if a is not None)


@pytest.mark.parametrize("subject", INDEXED)
def test_bits_do_not_depend_on_the_number_of_threads(subject: str) -> None:
    threads = bilateral_ops.get_num_threads()
    try:
        for options in (*options_of(subject), {**OF_IMAGES, "M": 2, "H": 120, "W": 120}):
            given = arguments(subject, ALL_F32, **options)
            bilateral_ops.set_num_threads(1)
            want = call(subject, given)
            for count in (2, 7):
                bilateral_ops.set_num_threads(count)
                assert_equal(call(subject, given), want)
    finally:
        bilateral_ops.set_num_threads(threads)


def test_results_may_replace_the_image() -> None:
    for options in (OF_IMAGES, OF_PIXELS):
        given = arguments("slice_apply", ALL_F32, **options)
        want = forward(bilateral_ops, "slice_apply", given)
        assert_same_bits(forward(bilateral_ops, "slice_apply", given, out=given["image"]), want)


def test_nobody_named() -> None:
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        pixels = np.zeros(shape, np.float32)
        for grids in (0, 3):
            grid, index = np.ones((grids, 2, 2, 2, 3), np.float32), np.zeros(shape, np.int64)
            keywords: dict[str, Any] = {"xy": np.zeros((*shape, 2), np.float32), "index": index}
            assert bilateral_ops.slice(grid, pixels, **keywords).shape == (*shape, 3)
            gradients = bilateral_ops.slice_vjp(grid, pixels, np.zeros((*shape, 3), np.float32), **keywords)
            assert_same_bits(gradients.grid, np.zeros_like(grid))


ERRORS = [
    ({"index": np.array([0, 4, 1])}, IndexError, "index must name one of 4 grids, from 0 to 3, got 4."),
    ({"index": np.array([0, -1, 1])}, IndexError, "index must name one of 4 grids, from 0 to 3, got -1."),
    ({"index": np.array([0, 1])}, ValueError, "index must have shape (N,) = (3,) to match guide, got (2,)."),
    ({"index": np.array([0.0, 1, 2])}, TypeError, "index must be int32 or int64, got float64."),
    ({"index": np.array([True, False, True])}, TypeError, "index must be int32 or int64, got bool."),
    ({"index": np.zeros((3, 5, 40), int)}, ValueError, "xy must be given where index names a grid for each pixel"),
    ({"index": np.zeros((3, 5), int)}, ValueError, "index must have shape (N, H, W) = (3, 5, 40)"),
    ({"index": 2}, TypeError, "index must be"),
    ({"index": np.zeros(3, int), "grid": np.zeros((0, 2, 2, 2, 3, 4), F32)}, IndexError, "of which there are none."),
]


@pytest.mark.parametrize(("change", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_wrong_indices_are_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {**arguments("slice_apply", ALL_F32, **OF_IMAGES), **change}
    with pytest.raises(error, match=rf"^slice_apply: .*{re.escape(text)}"):
        forward(bilateral_ops, "slice_apply", given)


def test_an_image_without_a_batch_axis_names_no_grid() -> None:
    given = arguments("slice", ALL_F32)
    grid = given["grid"][None]
    with pytest.raises(ValueError, match=r"^slice: guide must have shape \(N, H, W\)"):
        bilateral_ops.slice(grid, given["guide"], index=np.zeros((), int))


# --- Frameworks


@pytest.mark.parametrize("subject", INDEXED)
def test_pytorch(subject: str) -> None:
    torch = pytest.importorskip("torch")
    from backends import to_torch

    for options in options_of(subject):
        given = arguments(subject, ALL_F32, **options)
        want = call(subject, given)
        grad = to_torch(random_like(want["result"].shape, F32))
        tensors = {name: to_torch(value) for name, value in given.items()}
        for tensor in tensors.values():
            tensor.requires_grad_(tensor.is_floating_point())

        def run(values: dict[str, Any]) -> Any:
            return forward(bilateral_ops, subject, values)

        for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
            result = function(tensors)
            result.backward(grad)
            assert_same_bits(result.detach().numpy(), want["result"])
            for name, tensor in tensors.items():
                if tensor.requires_grad:
                    assert_same_bits(tensor.grad.numpy(), want[name], name)
                    tensor.grad = None


@pytest.mark.parametrize("subject", INDEXED)
def test_second_derivatives_in_pytorch(subject: str) -> None:
    torch = pytest.importorskip("torch")
    from backends import to_torch

    for options in options_of(subject):
        given = arguments(subject, ALL_F64, **{**options, "H": 2, "W": 3, "Gh": 2, "Gw": 2, "Gd": 2, "M": 3})
        tensors = {name: to_torch(value) for name, value in given.items()}
        floats = [name for name, tensor in tensors.items() if tensor.is_floating_point()]

        def f(*values: Any, given: Any = tensors, names: Any = floats) -> Any:
            return forward(bilateral_ops, subject, {**given, **dict(zip(names, values))})

        leaves = [tensors[name].requires_grad_() for name in floats]
        assert torch.autograd.gradcheck(f, leaves)
        assert torch.autograd.gradgradcheck(f, leaves)


@pytest.mark.parametrize("subject", INDEXED)
def test_vmap_in_pytorch(subject: str) -> None:
    torch = pytest.importorskip("torch")
    from backends import to_torch

    for options in options_of(subject):
        given = arguments(subject, ALL_F32, **options)
        several = {name: np.stack([value, value[::-1]]) for name, value in given.items()}
        for mapped in (tuple(given), ("index",), ("grid",)):
            tensors = {name: to_torch(several[name] if name in mapped else value) for name, value in given.items()}
            dims = {name: 0 if name in mapped else None for name in given}
            got = torch.vmap(lambda values: forward(bilateral_ops, subject, values), in_dims=(dims,))(tensors)
            for i in range(2):
                one = {name: several[name][i] if name in mapped else value for name, value in given.items()}
                assert_same_bits(got[i].numpy(), forward(bilateral_ops, subject, one))


@pytest.mark.parametrize("subject", INDEXED)
def test_jax(subject: str) -> None:
    jax = pytest.importorskip("jax")
    for options in options_of(subject):
        given = arguments(subject, ALL_F32, **options)
        given["index"] = given["index"].astype(np.int32)
        want = call(subject, given)
        arrays = {name: jax.numpy.asarray(value) for name, value in given.items()}
        index = arrays.pop("index")
        grad = random_like(want["result"].shape, F32)

        def f(values: dict[str, Any], index: Any) -> Any:
            return forward(bilateral_ops, subject, {**values, "index": index})

        result, pull = jax.vjp(jax.jit(f), arrays, index)
        assert_same_bits(np.asarray(result), want["result"])
        for name, gradient in pull(jax.numpy.asarray(grad))[0].items():
            assert_same_bits(np.asarray(gradient), want[name], name)
        for mapped in ("index", "grid"):
            twice = {**arrays, "index": index}
            twice[mapped] = jax.numpy.stack([twice[mapped], twice[mapped][::-1]])
            dims = {name: 0 if name == mapped else None for name in twice}
            got = jax.vmap(lambda values: forward(bilateral_ops, subject, values), in_axes=(dims,))(twice)
            for i in range(2):
                one = {name: np.asarray(value[i] if name == mapped else value) for name, value in twice.items()}
                assert_same_bits(np.asarray(got[i]), forward(bilateral_ops, subject, one))
        with pytest.raises(Exception, match=f"{subject}: index must name one of"):
            jax.block_until_ready(f(arrays, index.at[0].set(99)))
