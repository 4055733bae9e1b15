"""Does a call launch what, where and when it should, and does it say what went wrong?"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
import standin
from backends import Through
from cases import ALL_F32, DIFFERENTIABLE, F32, SUBJECTS, arrays, backward, backward_example, forward, forward_example
from interpreter import OutOfBounds, Uninitialised, UseAfterFree
from standin import devices

import bilateral_ops


def _sent(device: Any, subject: str = "slice", case: str = "plain", number: int = 0) -> dict[str, Any]:
    through = Through(lambda array: standin.laid_out(device, array, number), lambda array: array)
    return through.sent(forward_example(subject, case, ALL_F32).arguments)


def _slice_arguments(given: dict[str, Any]) -> tuple[Any, ...]:
    """What the compiled function is given after its result."""
    return given["grid"], given["guide"], None, None, (0, 0, *given["guide"].shape, False), False


# ---------------------------------------------------------------------------------------------------------------------
# Streams, devices, memory
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", SUBJECTS)
def test_all_work_is_put_on_the_callers_stream(subject: str, device: Any, on_device: Through) -> None:
    example = forward_example(subject, "batched", ALL_F32)
    forward(on_device, subject, example.arguments)
    if subject in DIFFERENTIABLE:
        example = backward_example(subject, "batched", ALL_F32)
        backward(on_device, subject, example.arguments, example.grad)
    assert device.launches
    assert {launch.stream for launch in device.launches} == {1000}


def test_arrays_are_lent_without_waiting(device: Any) -> None:
    """The stream is the framework's current one, on which the arrays' work already is."""
    given = _sent(device)
    out = standin.empty(device, forward_example("slice", "plain", ALL_F32).result.shape, "f4")
    for stream in (0, 4096):
        device.call("slice_forward", out, *_slice_arguments(given), stream=stream)
        assert device.launches[-1].stream == stream
    assert {tuple(array.streams) for array in (out, given["grid"], given["guide"])} == {(-1, -1)}


def test_arrays_of_before_dlpack_1(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin.DeviceArray, "versioned", False)
    got = bilateral_ops.slice(*_sent(device).values())
    np.testing.assert_allclose(got.memory, forward_example("slice", "plain", ALL_F32).result, atol=1e-5)


def test_the_arrays_device_is_used_and_the_callers_comes_back(device: Any) -> None:
    device.state.device = 0
    before: list[int] = []
    run = device._launch

    def launch(request: Any) -> int:
        before.append(request.device)
        return int(run(request))

    device._launch = launch
    try:
        got = bilateral_ops.slice(*_sent(device, number=1).values())
    finally:
        del device._launch
    assert (before, device.state.device, got.device) == ([1], 0, 1)


def test_an_output_must_be_writable(device: Any) -> None:
    given = _sent(device)
    out = standin.empty(device, forward_example("slice", "plain", ALL_F32).result.shape, "f4")
    out.read_only = True
    with pytest.raises(ValueError, match="read-only"):
        device.call("slice_forward", out, *_slice_arguments(given))


def test_arrays_of_two_devices_are_refused(device: Any) -> None:
    given, other = _sent(device), _sent(device, number=1)
    with pytest.raises(ValueError, match="guide must be on cuda:0 to match grid, got cuda:1"):
        bilateral_ops.slice(given["grid"], other["guide"])
    assert not device.launches


@pytest.mark.parametrize("subject", SUBJECTS)
def test_nothing_is_launched_for_nothing(subject: str, device: Any, on_device: Through) -> None:
    """Empty arguments are no reason to trouble the device, which refuses empty launches."""
    case = "no batch" if subject in ("total_variation", "resize_area") else "no columns"
    example = forward_example(subject, case, ALL_F32)
    got = forward(on_device, subject, example.arguments)
    assert got.size == 0 or (got == 0).all()
    assert all(launch.blocks > 0 for launch in device.launches)


@pytest.mark.parametrize("subject", [s for s in DIFFERENTIABLE if s != "total_variation"])
def test_workspace_does_not_grow_with_the_image(subject: str, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are not run: their workspace is what is asked about."""
    monkeypatch.setattr(device, "_launch", lambda request: 0)
    needs = []
    for height in (64, 65536, 524288):
        device.reset(90)
        given = _sent(device, subject, "wide")
        for name in {"guide", "image", "coefficients", "values"} & set(given):
            array = given[name].memory
            tall = np.lib.stride_tricks.as_strided(array, (height, *array.shape[1:]), (0, *array.strides[1:]))
            given[name] = standin.DeviceArray(device, tall)
        shapes = forward_example(subject, "wide", ALL_F32).result.shape
        one = standin.laid_out(device, np.zeros(1, "f4")).memory
        out = np.lib.stride_tricks.as_strided(
            one, shapes if subject == "splat" else (height, *shapes[1:]), [0] * len(shapes)
        )
        wanted = [name for name in given if name in ("grid", "ccm", "w1", "values", "coefficients")] or ["image"]
        if subject == "splat":
            device.memory.allocate(0)
            out = standin.laid_out(device, np.zeros(shapes, "f4")).memory
        grad = standin.DeviceArray(device, out)
        if {"coefficients", "values"} & set(wanted) or subject == "guide_luma":
            continue  # gradients of pixels have no sums
        backward(bilateral_ops, subject, given, grad, wrt=tuple(wanted))
        needs.append(sum(device.workspace_bytes))
    assert not needs or needs[2] <= max(2 * needs[1], 1 << 20), needs


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", SUBJECTS)
def test_an_error_of_a_launch_becomes_an_exception(subject: str, device: Any, on_device: Through) -> None:
    example = forward_example(subject, "plain", ALL_F32)
    device.state.injected = 701
    name = subject.partition("(")[0]
    with pytest.raises(RuntimeError, match=rf"^{name}: .*too many resources requested for launch.*701"):
        forward(on_device, subject, example.arguments)
    assert device.state.last == 0, "or the caller's next call of CUDA would find the error"
    forward(on_device, subject, example.arguments)  # and nothing is left broken
    if subject in DIFFERENTIABLE:
        example = backward_example(subject, "plain", ALL_F32)
        device.state.injected = 2
        with pytest.raises(RuntimeError, match=rf"^{name}_vjp: .*out of memory"):
            backward(on_device, subject, example.arguments, example.grad)
        assert device.state.last == 0


@pytest.mark.parametrize(("error", "why"), [(209, "cannot run;"), (222, "cannot run with its driver, which is older")])
def test_a_device_that_it_is_not_built_for(error: int, why: str, device: Any, on_device: Through) -> None:
    device.state.injected = error
    sentence = (
        rf"^slice: the kernels are built for \S.*, which this device, of compute capability (\d+)\.(\d), {why}.*"
        r"from source with CUDAARCHS=\1\2 in the environment\.$"
    )
    with pytest.raises(RuntimeError, match=sentence):
        forward(on_device, "slice", forward_example("slice", "plain", ALL_F32).arguments)
    assert device.state.last == 0


def test_without_a_driver(device: Any, on_device: Through) -> None:
    device.state.driver = 0
    with pytest.raises(RuntimeError, match=r"^slice: .*driver"):
        forward(on_device, "slice", forward_example("slice", "plain", ALL_F32).arguments)


def test_an_array_that_was_given_back_is_noticed(device: Any) -> None:
    given = _sent(device)
    device.memory.free(device.memory.base + device.memory.starts[0])  # the grid
    with pytest.raises(UseAfterFree):
        bilateral_ops.slice(*given.values())


def test_an_array_that_nobody_wrote_is_noticed(device: Any) -> None:
    given = _sent(device)
    given["guide"] = standin.empty(device, given["guide"].shape, "f4")
    with pytest.raises(Uninitialised):
        bilateral_ops.slice(*given.values())


def test_bytes_between_elements_are_out_of_bounds(device: Any) -> None:
    array = standin.laid_out(device, np.zeros((4, 6), "f4")[:, ::2])
    wider = np.lib.stride_tricks.as_strided(array.memory, (4, 5), (24, 4))
    guide = standin.DeviceArray(device, wider)
    with pytest.raises(OutOfBounds):
        bilateral_ops.slice(_sent(device)["grid"], guide)


# ---------------------------------------------------------------------------------------------------------------------
# Limits
# ---------------------------------------------------------------------------------------------------------------------

LIMITS = {
    "no block": ((0, 1, 1), (32, 1, 1), 0, 0, devices.INVALID_CONFIGURATION),
    "too many blocks in y": ((1, 65536, 1), (32, 1, 1), 0, 0, devices.INVALID_CONFIGURATION),
    "2³¹ blocks": ((2**31, 1, 1), (32, 1, 1), 0, 0, devices.INVALID_CONFIGURATION),
    "1025 threads": ((1, 1, 1), (1025, 1, 1), 0, 0, devices.INVALID_CONFIGURATION),
    "2048 threads": ((1, 1, 1), (32, 64, 1), 0, 0, devices.INVALID_CONFIGURATION),
    "65 deep": ((1, 1, 1), (1, 1, 65), 0, 0, devices.INVALID_CONFIGURATION),
    "more than __launch_bounds__": ((1, 1, 1), (257, 1, 1), 0, 0, devices.TOO_MANY_RESOURCES),
    "more than 48 KiB": ((1, 1, 1), (32, 1, 1), (48 << 10) - 99, 0, devices.INVALID_VALUE),
    "more than was asked for": ((1, 1, 1), (32, 1, 1), 65537, 65536, devices.INVALID_VALUE),
    "just enough": ((2**31 - 1, 65535, 65535), (256, 1, 1), (48 << 10) - 100, 0, None),
    "as much as was asked for": ((1, 1, 1), (256, 1, 1), 65536, 65536, None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str) -> None:
    grid, block, dynamic, opted, expected = LIMITS[name]
    found = devices.refusal(devices.DEVICES[90], grid, block, 100, dynamic, opted, 256)
    assert (found and found[0]) == expected


def test_a_launch_beyond_the_limits_is_refused(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices.DEVICES, 90, devices.Device(90, 100, 100, 1, 1, 1, threads_per_block=16))
    with pytest.raises(RuntimeError, match="invalid configuration"):
        bilateral_ops.slice(*_sent(device).values())


def test_every_kernel_fits_every_device(device: Any, on_device: Through) -> None:
    """Shared memory of the largest grids that are staged, on the devices with the least."""
    for architecture in (75, 90):
        for subject in ("slice_apply", "enhance(curves)"):
            device.reset(architecture, races=False)
            for case in ("depth 40", "depth 17", "3 to 9", "wide"):
                example = forward_example(subject, case, ALL_F32)
                forward(on_device, subject, example.arguments, **example.keywords)
    assert all(isinstance(value, np.ndarray) for value in arrays(example.arguments).values())


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (2160, 3840)])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("xy", ["centers", "corners"])
@pytest.mark.parametrize("operation", ["slice_apply", "splat"])
def test_thread_blocks_have_equal_work(
    operation: str,
    xy: str,
    align_corners: bool,
    height: int,
    width: int,
    device: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On an H100's 132 multiprocessors, summing an image's contributions to a grid of 16 × 16 takes at most 1.25 times
    as long as if its pixels were shared equally: simulated, a thread block for as long as it has pixels."""
    multiprocessors, resident, cells = 132, 6, 16
    grids: list[int] = []

    def note(request: Any) -> int:
        if b"band_gradients" in request.name:
            grids.append(request.grid[0])
        return 0

    monkeypatch.setattr(device, "_launch", note)
    device.reset(90)

    def sent(*shape: int) -> Any:  # arrays whose elements are never asked for
        one = standin.laid_out(device, np.zeros(1, F32)).memory
        return standin.DeviceArray(device, np.lib.stride_tricks.as_strided(one, shape, (0,) * len(shape)))

    guide, pixels = sent(1, height, width), (1, height, width)
    rule: Any = {"xy": xy, "align_corners": align_corners}
    if operation == "splat":
        bilateral_ops.splat(guide, sent(*pixels, 3, 4), (cells, cells, 8), **rule)
    else:
        grid = sent(1, cells, cells, 8, 3, 4)
        bilateral_ops.slice_apply_vjp(grid, guide, sent(*pixels, 3), sent(*pixels, 3), wrt=("grid",), **rule)

    def sizes(count: int) -> Any:  # of rectangles: the pixels between the same two knots, or before the first
        i = np.arange(count)
        u = (i + 0.5) / count if xy == "centers" else i / (count - 1)
        position = u * (cells - 1) if align_corners else u * cells - 0.5
        return np.unique(np.floor(np.round(position, 9)), return_counts=True)[1]

    heights, widths = sizes(height), sizes(width)
    bands = grids[0] // (len(heights) * len(widths))
    assert grids == [bands * len(heights) * len(widths)]
    work = [(h * (band + 1) // bands - h * band // bands) * w for h in heights for w in widths for band in range(bands)]
    assert sum(work) == height * width
    free = [0] * (multiprocessors * resident)  # when each place for a thread block is free
    for pixels_of_block in work:
        heapq.heappush(free, heapq.heappop(free) + int(pixels_of_block))
    assert max(free) <= 1.25 * height * width / len(free)
