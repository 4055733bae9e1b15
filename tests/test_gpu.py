"""On a CUDA device: does everything that NumPy's side of the package promises hold there too? Skipped without one.

That results agree with the reference is asked by ``test_agreement.py`` and ``test_gradients.py``, backend ``cuda``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    DIFFERENTIABLE,
    F32,
    F64,
    OPERATIONS,
    SUBJECTS,
    arguments,
    assert_forward,
    assert_gradient,
    assert_same_bits,
    backward,
    backward_example,
    dtypes_of,
    forward,
    forward_example,
    random_like,
    weights_of,
)

import bilateral_ops
from bilateral_ops.hdrnet import Config, Predictor, _device

SIZE = {"N": 2, "H": 61, "W": 131, "Gd": 8}


def everything(module: Any, subject: str, given: dict[str, Any], grad: Any = None) -> dict[str, Any]:
    results = {"result": forward(module, subject, given)}
    if grad is not None:
        results |= backward(module, subject, given, grad)._asdict()
    return results


def grad_of(subject: str, given: dict[str, Any]) -> Any:
    return random_like(forward(bilateral_ops, subject, given).shape, F32) if subject in DIFFERENTIABLE else None


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_same_bits_every_time(subject: str, on_device: Any) -> None:
    given = arguments(subject, ALL_F32, **SIZE)
    grad = grad_of(subject, given)
    want = everything(on_device, subject, given, grad)
    for _ in range(5):
        for name, got in everything(on_device, subject, given, grad).items():
            assert_same_bits(got, want[name], name)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_layout_does_not_matter(subject: str, on_device: Any) -> None:
    """Every array with its axes' order in memory reversed, then inside a larger one."""
    given = arguments(subject, ALL_F32, **SIZE)
    grad = grad_of(subject, given)
    want = everything(on_device, subject, given, grad)

    def reversed_axes(array: Any) -> Any:
        sent = on_device.sent(np.array(array.T, order="C"))
        for axis in range(array.ndim // 2):
            sent = sent.swapaxes(axis, array.ndim - 1 - axis)
        return sent

    def inside_another(array: Any) -> Any:
        larger = np.full([2 * n + 1 for n in array.shape], np.nan, array.dtype)
        inside = (*(slice(1, None, 2) for _ in array.shape), ...)
        larger[inside] = array
        return on_device.sent(larger)[inside]

    for change in (reversed_axes, inside_another):
        laid = type(on_device)(change, on_device.fetched)
        for name, got in everything(laid, subject, given, grad).items():
            assert_same_bits(got, want[name], f"{change.__name__} {name}")


def test_out_may_be_the_image(on_device: Any) -> None:
    for dtypes in dtypes_of("slice_apply"):
        given = arguments("slice_apply", dtypes, **SIZE)
        want = forward(on_device, "slice_apply", given)
        sent = on_device.sent(given)
        assert forward(bilateral_ops, "slice_apply", sent, out=sent["image"]) is sent["image"]
        assert_same_bits(on_device.fetched(sent["image"]), want, f"{dtypes}")


def test_the_current_stream_is_used_and_nothing_waits(on_device: Any) -> None:
    """Inputs that are still being computed on a stream are seen finished by what comes after on that stream."""
    cupy = pytest.importorskip("cupy")
    given = {name: cupy.asarray(array) for name, array in arguments("slice_apply", ALL_F32, **SIZE).items()}
    want = cupy.asnumpy(bilateral_ops.slice_apply(**given))
    late = cupy.zeros_like(given["image"])
    load = cupy.ones((4096, 4096), np.float32)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(20):
            load = load @ load * 0  # keeps the stream busy
        late[...] = given["image"]
        got = bilateral_ops.slice_apply(given["grid"], given["guide"], late)
        assert not stream.done, "the call waited for the device, or the load was too light"
        stream.synchronize()
    assert_same_bits(cupy.asnumpy(got), want)


def test_an_image_of_more_than_2_to_the_31_elements(on_device: Any) -> None:
    cupy = pytest.importorskip("cupy")
    height, width = 29000, 25000
    if cupy.cuda.Device().mem_info[0] < 5 * height * width:
        pytest.skip("too little memory on the device")
    image = cupy.zeros((height, width, 3), np.uint8)
    image[-1, -1] = 255
    grid = np.zeros((2, 2, 2, 3, 4), np.float32)
    grid[..., :3] = np.eye(3)
    assert image.size > 2**31
    assert bilateral_ops.enhance(cupy.asarray(grid), bilateral_ops.LumaGuide(), image, out=image) is image
    assert cupy.asnumpy(image[-1, -2:]).tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_cupy_reference(subject: str, on_device: Any) -> None:
    cupy = pytest.importorskip("cupy")
    reference = pytest.importorskip("bilateral_ops.reference.cupy")
    through = type(on_device)(cupy.asarray, cupy.asnumpy, reference)
    for case in ("plain", "batched", "no rows"):
        for dtypes in dtypes_of(subject):
            example = forward_example(subject, case, dtypes)
            got = forward(through, subject, example.arguments)
            assert_forward(got, example.result, example.dtype, f"{case} {dtypes}")
            if subject not in DIFFERENTIABLE:
                continue
            example = backward_example(subject, case, dtypes)
            gradients = backward(through, subject, example.arguments, example.grad)._asdict()
            for name, want in example.gradients._asdict().items():
                if gradients[name] is not None:
                    dtype = example.arguments[name].dtype
                    assert_gradient(
                        gradients[name], want, example.contributions[name], dtype, f"{case} {dtypes} {name}"
                    )


def test_the_benchmark_of_a_device_runs_dry(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda = pytest.importorskip("on_cuda", reason="benchmarks/ is not here")
    monkeypatch.setattr(on_cuda, "ROUNDS", 1)
    text = on_cuda.report(on_cuda.Host(), {"24x16": (16, 24)})
    for name in OPERATIONS:
        assert f"\n| `{name}` |" in text


@pytest.mark.parametrize("scales", [1, 3])
def test_a_predictor_computes_there(scales: int, on_device: Any) -> None:
    """And for NumPy's images, as ``enhance --device cuda`` asks for it."""
    config = Config(net_input=32, spatial_bin=8, luma_bins=4, scales=scales)
    predictor = Predictor(config, weights_of(config))
    for dtype in (np.uint8, np.float32):
        image = (random_like((61, 90, 3), F32).clip(0, 1) * (255 if dtype == np.uint8 else 1)).astype(dtype)
        if dtype == np.float32:
            image[3, 4] = np.nan
        want = predictor(image)
        sent = _device.on_device(predictor, "cuda")
        grid = sent.grid(sent.low_resolution(image))
        for got in (on_device.fetched(predictor(on_device.sent(image))), sent.render(grid, image)):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(got.astype(F64), want.astype(F64), rtol=0, atol=1 if dtype == np.uint8 else 1e-5)
