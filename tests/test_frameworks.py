"""Do arrays of other frameworks, and on other devices, give what NumPy arrays do, or a sentence that says why not?

Without a GPU, CUDA is played by ``backends.py``: arrays that say where they are, and kernels that compute on the CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backends import (
    FAKE_CUPY,
    FAKE_FRAMEWORK,
    FakeArray,
    FakeKernels,
    Through,
    fake_cupy_on,
    from_torch,
    shared_with_torch,
    to_torch,
    torch_on,
)
from cases import (
    ALL_F32,
    BF16,
    DIFFERENTIABLE,
    F32,
    SUBJECTS,
    arguments,
    arrays,
    assert_forward,
    assert_gradient,
    assert_same_bits,
    backward,
    backward_example,
    dtypes_of,
    forward,
    forward_example,
    operation,
    python,
    random_like,
    replaced,
    weights_of,
)

import bilateral_ops
from bilateral_ops import LumaGuide
from bilateral_ops._core import dispatch as _dispatch
from bilateral_ops._core.missing import install
from bilateral_ops.frameworks import _dlpack

EVERY = [(subject, dtypes) for subject in SUBJECTS for dtypes in dtypes_of(subject)]
ALL = pytest.mark.parametrize(("subject", "dtypes"), EVERY, ids=[f"{s}-{k}" for s, k in EVERY])
SIZE = {"N": 2, "H": 5, "W": 19}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> FakeKernels:
    made = FakeKernels()
    monkeypatch.setattr(_dlpack, "_kernels", made)
    FAKE_CUPY.allocated.clear()
    return made


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dlpack, "_kernels", None)
    monkeypatch.setitem(sys.modules, "bilateral_ops._cuda", None)


def everything(module: Any, subject: str, given: dict[str, Any]) -> dict[str, Any]:
    """All that the subject computes, by name."""
    result = forward(module, subject, given)
    if subject not in DIFFERENTIABLE:
        return {"result": result}
    integer = "image" in given and given["image"].dtype.kind == "u"
    grad = random_like(result.shape, F32 if integer else result.dtype)
    return {"result": result, **backward(module, subject, given, grad)._asdict()}


def assert_same_as_numpy(through: Through, subject: str, given: dict[str, Any]) -> None:
    got = everything(through, subject, given)
    for name, want in everything(bilateral_ops, subject, given).items():
        assert_same_bits(got[name], want, name)


def example(subject: str = "slice_apply", **options: Any) -> dict[str, Any]:
    return arguments(subject, ALL_F32, **{**SIZE, **options})


def refused(error: type[Exception], sentence: str, subject: str, given: dict[str, Any], **keywords: Any) -> None:
    with pytest.raises(error) as raised:
        forward(bilateral_ops, subject, given, **keywords)
    assert str(raised.value) == sentence


# ---------------------------------------------------------------------------------------------------------------------
# Every operation has kernels for every framework's arrays on every device
# ---------------------------------------------------------------------------------------------------------------------

WHOLE_SUBJECTS = (*SUBJECTS, "slice_apply(luma)")


def whole_example(subject: str) -> dict[str, Any]:
    if subject != "slice_apply(luma)":
        return example(subject)
    return {**example("slice_apply", xy=True), "guide": LumaGuide()}


def assert_computes_all(send: Any, fetch: Any, subject: str) -> None:
    """What NumPy arrays give, up to the rounding of a result between two kernels."""
    given, through = whole_example(subject), Through(send, fetch)
    result = forward(bilateral_ops, subject, given)
    np.testing.assert_allclose(forward(through, subject, given), result, rtol=0, atol=1e-5)
    if operation(subject) in DIFFERENTIABLE:
        grad = random_like(result.shape, F32)
        gradients = backward(bilateral_ops, subject, given, grad)._asdict()
        got = backward(through, subject, given, grad)
        for name, want in gradients.items():
            if want is None:
                assert getattr(got, name) is None
            else:
                np.testing.assert_allclose(getattr(got, name), want, rtol=0, atol=1e-4, err_msg=name)
                (alone,) = [a for a in backward(through, subject, given, grad, wrt=name) if a is not None]
                np.testing.assert_array_equal(alone, getattr(got, name), err_msg=name)


@pytest.mark.parametrize("subject", WHOLE_SUBJECTS)
def test_cupy_computes_all(subject: str, kernels: FakeKernels) -> None:
    assert_computes_all(lambda array: FakeArray(array, 0), lambda array: array.memory, subject)


@pytest.mark.parametrize("subject", WHOLE_SUBJECTS)
def test_pytorch_computes_all(subject: str) -> None:
    pytest.importorskip("torch")
    assert_computes_all(to_torch, from_torch, subject)


@pytest.mark.parametrize("subject", WHOLE_SUBJECTS)
def test_pytorch_computes_all_on_cuda(subject: str, torch_on_cuda: Any) -> None:
    """As calls, and by the operators, which are registered for both devices."""
    import torch

    assert_computes_all(torch_on_cuda.send, torch_on_cuda.fetch, subject)
    name = operation(subject)
    for registered in (name, f"{name}_vjp") if name in DIFFERENTIABLE else (name,):
        for key in ("CPU", "CUDA", "Meta", "Autograd"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"bilateral_ops::{registered}", key), key
    given = whole_example(subject)
    grad = random_like(forward(bilateral_ops, subject, given).shape, F32)
    if operation(subject) in DIFFERENTIABLE:
        sent = {n: torch_on_cuda.send(a).requires_grad_() for n, a in given.items() if isinstance(a, np.ndarray)}
        forward(bilateral_ops, subject, {**given, **sent}).backward(torch_on_cuda.send(grad))
        for n, want in backward(bilateral_ops, subject, given, grad)._asdict().items():
            if want is not None:
                np.testing.assert_allclose(torch_on_cuda.fetch(sent[n].grad), want, rtol=0, atol=1e-4, err_msg=n)


@pytest.mark.parametrize("subject", WHOLE_SUBJECTS)
def test_jax_computes_all(subject: str) -> None:
    """On the CPU; and compiled for CUDA, it calls kernels that there are, with a guide where they need one."""
    jax = pytest.importorskip("jax")
    if "jax" not in _dispatch._FRAMEWORKS:
        pytest.skip("JAX arrays are not served")
    assert_computes_all(jax.numpy.asarray, np.asarray, subject)

    given = whole_example(subject)
    grad = random_like(forward(bilateral_ops, subject, given).shape, F32)
    calls = [lambda changed: forward(bilateral_ops, subject, replaced(given, **changed))]
    if operation(subject) in DIFFERENTIABLE:
        calls.append(
            lambda changed: tuple(backward(bilateral_ops, subject, replaced(given, **changed), jax.numpy.asarray(grad)))
        )
    for call in calls:
        traced = jax.jit(call).trace(arrays(given))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        found = re.findall(r'custom_call @bilateral_ops_(\w+)\(.*?arrays = "([a-z-]*)\|([a-z-]*)"', text)
        assert found
        for kernel, _, order in found:
            assert kernel in bilateral_ops._cpu.xla_handlers
            if kernel.startswith("slice_apply"):
                assert order[1] != "-"


#: An axis, or some, without elements.
EMPTY: list[dict[str, Any]] = [
    *({"N": 2, axis: 0} for axis in ("N", "H", "W", "Co", "Ci", "K", "F", "Gh", "Gw", "Gd")),
    {"N": 2, "C": (0,)},
    {"N": 2, "C": (2, 0)},
    {"N": 2, "size": (0, 3)},
    {"H": 0, "W": 0},
    {"N": 0, "H": 0, "Co": 0},
]


def _shapes(result: Any) -> Any:
    return [None if a is None else tuple(a.shape) for a in (result if isinstance(result, tuple) else (result,))]


def _outcome(call: Any) -> Any:
    """The shapes of the results, or the sentence."""
    try:
        return _shapes(call())
    except (ValueError, TypeError) as error:
        return str(error)


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("options", EMPTY, ids=str)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_empty_axes_are_numpys(subject: str, options: dict[str, Any], name: str) -> None:
    """The same empty result, or sentence; and gradients of the arguments' shapes, of zeros."""
    module = pytest.importorskip(name)
    if name not in _dispatch._FRAMEWORKS:
        pytest.skip(f"{name} arrays are not served")
    send = to_torch if name == "torch" else module.numpy.asarray
    given = arguments(subject, ALL_F32, **options)
    sent = {n: send(a) for n, a in arrays(given).items()}

    def call(changed: Any) -> Any:
        return forward(bilateral_ops, subject, replaced(given, **sent | changed))

    want = _outcome(lambda: forward(bilateral_ops, subject, given))
    assert _outcome(lambda: call({})) == want
    if name == "torch":
        assert _outcome(lambda: call({n: t.to("meta") for n, t in sent.items()})) == want
    else:
        assert _outcome(lambda: module.jit(call)(sent)) == want
    if subject not in DIFFERENTIABLE or isinstance(want, str):
        return

    grad = np.ones(*want, np.float32)
    gradients = backward(bilateral_ops, subject, given, grad)
    got = backward(bilateral_ops, subject, replaced(given, **sent), send(grad))
    assert _shapes(got) == _shapes(gradients)
    if name == "torch":
        leaves = {n: t.clone().requires_grad_() for n, t in sent.items()}
        found = dict(zip(leaves, module.autograd.grad(call(leaves), list(leaves.values()), send(grad)), strict=True))
    else:
        (found,) = module.vjp(call, sent)[1](send(grad))
        mapped = {n: module.numpy.zeros((0, *a.shape), a.dtype) for n, a in sent.items()}
        assert module.vmap(call)(mapped).shape == (0, *want[0])
    assert found.keys() == sent.keys()
    for n, gradient in found.items():
        np.testing.assert_array_equal(gradient, getattr(gradients, n), err_msg=n)


# ---------------------------------------------------------------------------------------------------------------------
# CuPy
# ---------------------------------------------------------------------------------------------------------------------


@ALL
def test_cupy_arrays_go_to_the_cuda_kernels(subject: str, dtypes: Any, kernels: FakeKernels) -> None:
    for options in ({}, {"xy": True}) if subject in ("slice", "slice_apply", "splat") else ({},):
        assert_same_as_numpy(fake_cupy_on(1), subject, arguments(subject, dtypes, **SIZE, **options))
    assert {call.stream for call in kernels.calls} == {1001}
    assert {array.device.id for array in FAKE_CUPY.allocated} == {1}
    assert all(call.workspace.dtype == np.uint8 and call.workspace.shape == (256,) for call in kernels.calls)


def test_a_result_of_cupy_is_cupys(kernels: FakeKernels) -> None:
    on = fake_cupy_on()
    given = replaced(example(), **{name: on.sent(array) for name, array in example().items()})
    assert isinstance(forward(bilateral_ops, "slice_apply", given), FakeArray)
    out = FakeArray(np.empty((2, 5, 19, 3), np.float32), 0)
    assert forward(bilateral_ops, "slice_apply", given, out=out) is out
    assert_same_bits(out.memory, forward(bilateral_ops, "slice_apply", example()))


def test_a_type_from_cupy_is_recognised_by_its_ancestors(monkeypatch: pytest.MonkeyPatch, kernels: FakeKernels) -> None:
    class Derived(FakeArray):
        pass

    monkeypatch.setitem(sys.modules, "cupy", FAKE_CUPY)
    monkeypatch.setitem(sys.modules, "bilateral_ops.frameworks._cupy", FAKE_FRAMEWORK)
    monkeypatch.setattr(_dispatch, "_cache", {})
    array = Derived(np.ones((4, 5, 3), np.float32), 0)
    assert isinstance(bilateral_ops.guide_luma(array), FakeArray)
    assert kernels.calls


@pytest.mark.parametrize("value", [0.25, 1, np.float32(0.25), np.float64(0.25)])
def test_a_number_becomes_an_array_on_the_device(value: Any, kernels: FakeKernels) -> None:
    given = {**example("guide_nn"), "b2": value}
    for _ in range(2):  # the second time from memory
        assert_same_bits(forward(fake_cupy_on(2), "guide_nn", given), forward(bilateral_ops, "guide_nn", given))
    assert {array.device.id for array in FAKE_CUPY.allocated} == {2}


def test_all_arrays_must_be_on_one_device_on_every_call(kernels: FakeKernels) -> None:
    def on(**devices: int) -> dict[str, Any]:
        return {name: FakeArray(array, devices.get(name, 0)) for name, array in example().items()}

    forward(bilateral_ops, "slice_apply", on())
    forward(bilateral_ops, "slice_apply", on(grid=3, guide=3, image=3))
    assert [call.stream for call in kernels.calls] == [1000, 1003]
    sentence = "slice_apply: image must be on cuda:0 to match grid, got cuda:1."
    refused(ValueError, sentence, "slice_apply", on(image=1))
    sentence = "slice_apply: guide must be on cuda:2 to match grid, got cuda:0."
    refused(ValueError, sentence, "slice_apply", on(grid=2))
    out = FakeArray(np.empty((2, 5, 19, 3), np.float32), 1)
    sentence = "slice_apply: out must be on cuda:0 as the arguments are, got cuda:1."
    refused(ValueError, sentence, "slice_apply", on(), out=out)


def test_arrays_of_two_frameworks_do_not_mix(kernels: FakeKernels) -> None:
    given = example()
    got = "got cupy.FakeArray beside numpy.ndarray."
    sentence = f"slice_apply: guide must belong to the framework of the other arrays, {got}"
    refused(TypeError, sentence, "slice_apply", {**given, "guide": FakeArray(given["guide"], 0)})
    sentence = f"slice_apply: out must belong to the framework of the arguments, {got}"
    refused(TypeError, sentence, "slice_apply", given, out=FakeArray(given["image"], 0))


def test_without_cuda_kernels_the_sentence_says_why_and_what_to_do(
    no_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bilateral_ops._cpu, "cuda_missing", "no nvcc was found")
    sentence = (
        "guide_luma: image is on cuda:0, and this bilateral_ops was built without CUDA (no nvcc was found); install it "
        "from source where nvcc works, or pass cupy.asnumpy(image)."
    )
    refused(RuntimeError, sentence, "guide_luma", {"image": FakeArray(example("guide_luma")["image"], 0)})


def test_cuda_kernels_that_do_not_load_say_why(no_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libfoo.so: undefined symbol: bar")

    monkeypatch.setattr(_dlpack, "import_module", broken)
    with pytest.raises(RuntimeError, match=r"guide_luma: image is on cuda:0.*undefined symbol: bar.*cupy.asnumpy"):
        bilateral_ops.guide_luma(FakeArray(example("guide_luma")["image"], 0))


def test_a_failed_launch_names_the_operation(kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("slice: the device is lost.")

    monkeypatch.setattr(kernels, "slice_backward", failing, raising=False)
    sent = fake_cupy_on().sent(example("splat"))
    refused(RuntimeError, "splat: the device is lost.", "splat", sent)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_compiled_kernels_name_a_missing_driver(subject: str) -> None:
    """All that a call needs of the compiled module but the device."""
    pytest.importorskip("numpy", "2.1")  # whose DLPack is 1.0
    compiled = pytest.importorskip("bilateral_ops._cuda", reason="built without CUDA")
    try:
        compiled.device_count()
    except RuntimeError:
        pass
    else:
        pytest.skip("there is a driver")
    given = example(subject)
    grad = None if subject not in DIFFERENTIABLE else random_like(forward(bilateral_ops, subject, given).shape, F32)
    sentence = r"{}: needs an NVIDIA driver for CUDA \d+, .* install or update it, or copy the arrays to the host\."
    with pytest.raises(RuntimeError, match=sentence.format(operation(subject))):
        forward(fake_cupy_on(), subject, given)
    if grad is not None:
        with pytest.raises(RuntimeError, match=sentence.format(f"{subject}_vjp")):
            backward(fake_cupy_on(), subject, given, grad)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_cupy_arrays_are_computed_by_the_compiled_kernels(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole road but CuPy itself and the device, whose part the stand-in of tests/cuda/ plays."""
    pytest.importorskip("bilateral_ops._cuda_standin", reason="built without BILATERAL_OPS_CUDA_TEST")
    pytest.importorskip("ml_dtypes", reason="the interpreter computes bfloat16 by it")
    monkeypatch.syspath_prepend(Path(__file__).parent / "cuda")
    standin = importlib.import_module("standin")
    device = standin.the_standin()
    device.reset(90)
    monkeypatch.setattr(_dlpack, "_kernels", device.module)

    class Lent(FakeArray):
        def __init__(self, array: Any) -> None:
            super().__init__(array.memory, array.device)
            self.array = array

        def __dlpack__(self, **keywords: Any) -> Any:
            return self.array.__dlpack__(**keywords)

    def empty(shape: Any, dtype: Any) -> Lent:
        shape = (shape,) if isinstance(shape, int) else shape
        return Lent(standin.empty(device, shape, dtype, FAKE_CUPY.current))

    monkeypatch.setattr(FAKE_CUPY, "empty", empty)
    monkeypatch.setitem(_dispatch._cache, Lent, FAKE_FRAMEWORK)
    through = Through(lambda array: Lent(standin.laid_out(device, array, 1)), lambda array: array.memory.copy())

    given = forward_example(subject, "plain", ALL_F32)
    assert_forward(forward(through, subject, given.arguments), given.result, F32)
    if subject in DIFFERENTIABLE:
        given = backward_example(subject, "plain", ALL_F32)
        gradients = backward(through, subject, given.arguments, given.grad)._asdict()
        for name, got in gradients.items():
            if got is not None:
                assert_gradient(got, getattr(given.gradients, name), given.contributions[name], F32, name)
    assert {launch.stream for launch in device.launches} == {1001}


def test_the_frameworks_own_errors_pass(kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    def failing(*_: Any) -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 1: no")

    monkeypatch.setattr(kernels, "guide_forward", failing, raising=False)
    with pytest.raises(OutOfMemoryError, match=r"^CUDA out of memory\. Tried to allocate 1: no$"):
        bilateral_ops.guide_luma(FakeArray(example("guide_luma")["image"], 0))


# ---------------------------------------------------------------------------------------------------------------------
# out, by address
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["CuPy", "PyTorch"])
def through(request: pytest.FixtureRequest, kernels: FakeKernels) -> Through:
    """A framework whose arrays share the memory of the NumPy arrays that are sent."""
    if request.param == "CuPy":
        return fake_cupy_on()
    pytest.importorskip("torch")
    return Through(shared_with_torch, from_torch)


def test_out_may_be_the_image_and_no_other_input(through: Through) -> None:
    for dtypes in dtypes_of("slice_apply"):
        given = arguments("slice_apply", dtypes, **SIZE)
        want, image = forward(bilateral_ops, "slice_apply", given), given["image"].copy()
        assert_same_bits(forward(through, "slice_apply", {**given, "image": image}, out=image), want)
        assert_same_bits(image, want)

    given = example()
    want = forward(bilateral_ops, "slice_apply", given)
    rows = np.zeros((2, 6, 19, 3), np.float32)
    refusal = r"slice_apply: out must not overlap image, unless it is the same view, got arrays that share memory\."
    with pytest.raises(ValueError, match=refusal):
        forward(through, "slice_apply", {**given, "image": rows[:, 1:]}, out=rows[:, :-1])
    pixels = np.zeros((2, 5, 19, 4), np.float32)
    with pytest.raises(ValueError, match=r"slice_apply: out must not overlap guide, got arrays that share memory\."):
        forward(through, "slice_apply", {**given, "guide": pixels[..., 1]}, out=pixels[..., :3])
    pixels[..., 3] = given["guide"]  # beside one another they share no element
    assert_same_bits(forward(through, "slice_apply", {**given, "guide": pixels[..., 3]}, out=pixels[..., :3]), want)


def test_out_must_not_overlap_itself(through: Through) -> None:
    row = np.zeros((2, 1, 19, 3), np.float32)
    row = np.lib.stride_tricks.as_strided(row, (2, 5, 19, 3), (row.strides[0], 0, *row.strides[2:]))
    with pytest.raises(ValueError, match=r"slice_apply: out must not overlap itself, got strides \(228, 0, 12, 4\) "):
        forward(through, "slice_apply", example(), out=row)


def test_gradients_go_into_out(through: Through) -> None:
    given = example()
    grad = random_like((2, 5, 19, 3), F32)
    want = backward(bilateral_ops, "slice_apply", given, grad)
    out = {name: np.empty_like(getattr(want, name)) for name in ("grid", "image")}
    got = backward(through, "slice_apply", given, grad, out=out, wrt=("grid", "image"))
    for name in out:
        assert_same_bits(out[name], getattr(want, name))
    assert got.guide is got.xy is None
    both, incoming = np.zeros_like(want.grid), np.ones((2, 5, 19, 3, 4), np.float32)
    with pytest.raises(ValueError, match=r"slice_vjp: out\['grid'\] must not overlap grid, got"):
        backward(through, "slice", {"grid": both, "guide": given["guide"]}, incoming, out={"grid": both})


def test_empty_arrays_overlap_nothing(through: Through) -> None:
    given = example(N=0)
    assert forward(through, "slice_apply", given, out=given["image"]).shape == (0, 5, 19, 3)


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch
# ---------------------------------------------------------------------------------------------------------------------


@ALL
def test_pytorch_tensors_on_the_cpu(subject: str, dtypes: Any) -> None:
    pytest.importorskip("torch")
    for options in ({}, {"xy": True}) if subject in ("slice", "slice_apply", "splat") else ({},):
        assert_same_as_numpy(torch_on("cpu"), subject, arguments(subject, dtypes, **SIZE, **options))


def test_pytorch_tensors_of_any_strides() -> None:
    pytest.importorskip("torch")
    given = example()
    want = forward(bilateral_ops, "slice_apply", given)
    planar = to_torch(np.moveaxis(given["image"], -1, 1)).movedim(1, -1)
    wide = to_torch(np.repeat(given["guide"], 2, axis=2))[..., ::2]
    grid = to_torch(given["grid"][:1]).expand(2, -1, -1, -1, -1, -1)
    want = forward(bilateral_ops, "slice_apply", {**given, "grid": np.repeat(given["grid"][:1], 2, axis=0)})
    assert_same_bits(from_torch(bilateral_ops.slice_apply(grid, wide, planar)), want)


def test_pytorch_numbers_and_parameters() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (np.float32, BF16):
        given = {**example("guide_nn"), "b2": 0.3}
        given = {name: a.astype(dtype) if isinstance(a, np.ndarray) else a for name, a in given.items()}
        want = forward(bilateral_ops, "guide_nn", given)
        assert_same_bits(forward(torch_on("cpu"), "guide_nn", given), want)
    parameter = torch.nn.Parameter(to_torch(example("slice")["grid"]))
    guide = to_torch(example("slice")["guide"])
    with torch.no_grad():
        assert type(bilateral_ops.slice(parameter, guide)) is torch.Tensor


def test_checked_calls_are_not_remembered_as_plain() -> None:
    torch = pytest.importorskip("torch")
    given = {name: to_torch(array) for name, array in example("slice").items()}
    assert not bilateral_ops.slice(**given).requires_grad
    given["grid"].requires_grad_()  # which the memory of checked calls does not see
    assert bilateral_ops.slice(**given).requires_grad
    with torch.inference_mode():
        assert not bilateral_ops.slice(**given).requires_grad


def test_gradcheck_of_an_operation_with_tensors() -> None:
    pytest.importorskip("torch")
    given = arguments("slice_apply", H=4, W=5)
    report = bilateral_ops.gradcheck(
        bilateral_ops.slice_apply, {name: to_torch(array) for name, array in given.items()}
    )
    assert report
    assert {row.argument for row in report.rows} == set(given)


def test_autograd_learns_that_out_was_written() -> None:
    torch = pytest.importorskip("torch")
    given = {name: to_torch(array) for name, array in example().items()}
    out = torch.ones(2, 5, 19, 3)
    weight = torch.ones(1, requires_grad=True)
    product = (out * weight).sum()
    bilateral_ops.slice_apply(**given, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_pytorch_tensors_that_cannot_be_computed_on() -> None:
    torch = pytest.importorskip("torch")
    image = torch.rand(4, 5, 3)

    class Elsewhere(torch.Tensor):
        device = torch.device("xpu", 0)

    for bad, error, parts in (
        (image.as_subclass(Elsewhere), RuntimeError, ("image is on xpu:0", "image.cpu()")),
        (image.to_sparse(), TypeError, ("image must be a dense tensor, got sparse_coo", "to_dense()")),
        (torch.complex(image, image).conj().imag, TypeError, ("a negated view", "resolve_neg()")),
        (image.long(), TypeError, ("image must be float16", "got int64")),
        (
            torch.Size([4, 5, 3]),
            TypeError,
            ("image must be a NumPy, CuPy, PyTorch, JAX or TensorFlow array", "got Size"),
        ),
    ):
        with pytest.raises(error) as raised:
            bilateral_ops.guide_luma(bad)
        for part in parts:
            assert part in str(raised.value)


@pytest.fixture
def torch_on_cuda(kernels: FakeKernels, monkeypatch: pytest.MonkeyPatch) -> Any:
    """PyTorch on a device, with tensors that only say they are there; ``entered`` has the devices made current."""
    torch = pytest.importorskip("torch")
    framework = pytest.importorskip("bilateral_ops.frameworks.torch")

    class OnDevice(torch.Tensor):
        device = torch.device("cuda", 1)

    def on_device(tensor: Any) -> Any:
        return tensor.as_subclass(OnDevice)

    entered = []

    @contextlib.contextmanager
    def device(which: Any) -> Iterator[None]:
        entered.append(which)
        yield
        entered.append(None)

    empty = torch.empty

    def allocate(*shape: Any, dtype: Any, device: Any) -> Any:
        assert device == OnDevice.device
        return on_device(empty(*shape, dtype=dtype))

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77 if entered[-1] else 0))
    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(framework, "number", lambda value, dtype, device: on_device(torch.tensor(value)))

    def memories(given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            return tuple(map(memories, given))
        if isinstance(given, torch.Tensor):
            assert not given.requires_grad, "DLPack would refuse it"
            return from_torch(given.as_subclass(torch.Tensor))
        return given

    monkeypatch.setattr("backends._memories", memories)
    send, fetch = lambda array: on_device(to_torch(array)), lambda t: from_torch(t.as_subclass(torch.Tensor))
    return SimpleNamespace(send=send, fetch=fetch, entered=entered)


def test_pytorch_on_cuda(kernels: FakeKernels, torch_on_cuda: Any) -> None:
    import torch

    through = Through(torch_on_cuda.send, torch_on_cuda.fetch)
    for subject in SUBJECTS:
        assert_same_as_numpy(through, subject, example(subject))
    given = {**example("guide_nn"), "b2": 0.5}
    want = forward(bilateral_ops, "guide_nn", given)
    assert_same_bits(forward(through, "guide_nn", given), want)
    with torch.no_grad():
        sent = {name: value if name == "b2" else value.requires_grad_() for name, value in through.sent(given).items()}
        assert_same_bits(through.fetched(forward(bilateral_ops, "guide_nn", sent)), want)
    assert {call.stream for call in kernels.calls} == {77}
    assert all(call.workspace.shape == (256,) and call.workspace.dtype == torch.uint8 for call in kernels.calls)
    assert torch_on_cuda.entered[-1] is None
    mixed = {**through.sent(example("slice")), "guide": to_torch(example("slice")["guide"])}
    refused(ValueError, "slice: guide must be on cuda:1 to match grid, got cpu.", "slice", mixed)


@pytest.mark.parametrize("scales", [1, 3])
def test_a_predictor_in_pytorch_on_cuda(
    kernels: FakeKernels, torch_on_cuda: Any, monkeypatch: pytest.MonkeyPatch, scales: int
) -> None:
    """Everything but the network by the device's kernels, and the weights are sent there once."""
    from bilateral_ops.hdrnet import Config, Predictor, _arrays

    config = Config(net_input=32, spatial_bin=8, luma_bins=4, scales=scales)
    predictor = Predictor(config, weights_of(config))
    sent = []

    def send(_: Any, array: Any) -> Any:
        sent.append(array)
        return torch_on_cuda.send(np.asarray(array))

    monkeypatch.setattr(_arrays._Torch, "send", send)
    for dtype in (np.uint8, np.float32):
        image = (np.random.default_rng(0).random((30, 41, 3)) * (255 if dtype == np.uint8 else 1)).astype(dtype)
        if dtype == np.float32:
            image[3, 4] = np.nan
        result = predictor(torch_on_cuda.send(image))
        assert result.device == torch_on_cuda.send(image).device
        want = predictor(image)
        if dtype == np.uint8:
            assert np.abs(torch_on_cuda.fetch(result).astype(int) - want).max() <= 1
            sent_once = sum(array.nbytes for array in sent)
        else:
            np.testing.assert_allclose(torch_on_cuda.fetch(result), want, rtol=0, atol=1e-5)
            assert sum(array.nbytes for array in sent) < 1.1 * sent_once
    assert {call.name for call in kernels.calls} == {"resize_area_forward", "enhance_forward"}
    assert {call.stream for call in kernels.calls} == {77}


def test_bfloat16_tensors_without_ml_dtypes() -> None:
    pytest.importorskip("torch")
    code = """
import sys
sys.modules["ml_dtypes"] = None
import torch, bilateral_ops
try:
    bilateral_ops.guide_luma(torch.ones(2, 2, 3, dtype=torch.bfloat16))
except RuntimeError as error:
    print(error)
"""
    finished = python(code)
    assert finished.stdout.strip() == (
        f"guide_luma: bfloat16 on the CPU needs ml_dtypes, which is not installed; {install('bfloat16')}."
    ), finished.stderr


# ---------------------------------------------------------------------------------------------------------------------
# CuPy itself, which can make arrays without a GPU, of memory that it is told of
# ---------------------------------------------------------------------------------------------------------------------


def test_the_real_cupys_arrays_are_read_rightly(no_kernels: None) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    framework = pytest.importorskip("bilateral_ops.frameworks._cupy")
    host = np.zeros((4, 5, 3), np.float32)
    memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    array = cupy.ndarray(host.shape, np.float32, cupy.cuda.MemoryPointer(memory, 0))
    for view, twin in ((array, host), (array[::-1, 1::2], host[::-1, 1::2]), (array[..., 0], host[..., 0])):
        place = framework._place(view)
        assert (place.__array_interface__["data"], place.strides) == (twin.__array_interface__["data"], twin.strides)
        assert framework.dtype_of(view) == "float32"
    with pytest.raises(RuntimeError, match=r"guide_luma: image is on cuda:0, .* or pass cupy.asnumpy\(image\)\."):
        bilateral_ops.guide_luma(array)


def test_the_cupy_reference_with_the_real_cupy() -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed")
    reference = importlib.import_module("bilateral_ops.reference.cupy")
    given = forward_example("slice_apply", "plain", ALL_F32)  # in NumPy's arrays, which need no device
    assert_forward(forward(reference, "slice_apply", given.arguments), given.result, F32)
