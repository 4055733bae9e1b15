"""Do PyTorch's and JAX's exporters make plain operators of calls, which compute what the package does?"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import from_torch, to_torch
from cases import (
    ALL_F32,
    DIFFERENTIABLE,
    F32,
    SAMPLED,
    SUBJECTS,
    U8,
    WINDOWED,
    Dtypes,
    arguments,
    as_float64,
    assert_forward,
    assert_gradient,
    backward,
    backward_example,
    cases_of,
    dtypes_of,
    fields,
    forward,
    forward_example,
    indexed,
    operation,
    reference,
    result_dtype,
)

import bilateral_ops
from bilateral_ops import export
from bilateral_ops.hdrnet import Predictor
from bilateral_ops.hdrnet._predict import SHIPPED
from bilateral_ops.ops import OPERATIONS

IMAGES = Dtypes(U8, F32, F32)
EACH = pytest.mark.parametrize("subject", SUBJECTS)


def small_cases(subject: str) -> dict[str, Any]:
    long = ("large", "one long", "wide", "width", "guide on knots")
    return {case: options for case, options in cases_of(subject).items() if not case.startswith(long)}


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Any:
    module = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("bilateral_ops.frameworks.torch")
    return module


def sent(value: Any) -> Any:
    """NumPy arrays, those of a guide record too, as tensors."""
    if isinstance(value, np.ndarray):
        return to_torch(value)
    return type(value)(**{k: sent(v) for k, v in inside.items()}) if (inside := fields(value)) else value


@pytest.fixture(scope="module")
def plain(torch: Any) -> Any:
    """A mode in which every operator of this package's is its decomposition."""
    from torch.utils._python_dispatch import TorchDispatchMode

    table = export.decompositions()

    class Plain(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert operator.namespace != "bilateral_ops" or operator in table
            return table.get(operator, operator)(*args, **(kwargs or {}))

    return Plain


def test_every_operator_has_a_decomposition(torch: Any) -> None:
    names = {operator.name() for operator in export.decompositions()}
    assert names == {
        f"bilateral_ops::{name}{suffix}"
        for name, operation in OPERATIONS.items()
        for suffix in (("", "_vjp") if operation.vjp else ("",))
    }


@EACH
def test_decompositions_equal_the_specification(torch: Any, plain: Any, subject: str) -> None:
    for case in small_cases(subject):
        example = forward_example(subject, case, ALL_F32)
        given = {name: sent(value) for name, value in example.arguments.items()}
        with plain():
            got = forward(bilateral_ops, subject, given, **example.keywords)
        assert_forward(from_torch(got), example.result, example.dtype, case)


@EACH
def test_decompositions_of_every_dtype(torch: Any, plain: Any, subject: str) -> None:
    for dtypes in dtypes_of(subject):
        given = arguments(subject, dtypes, N=2)
        with plain():
            got = forward(bilateral_ops, subject, {name: sent(value) for name, value in given.items()})
        want = forward(reference, subject, as_float64(given))
        assert_forward(from_torch(got), want, result_dtype(subject, dtypes), str(dtypes))


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@EACH
def test_decompositions_with_an_index(torch: Any, plain: Any, subject: str, kind: Any) -> None:
    for options in indexed(subject):
        given = arguments(subject, ALL_F32, **options)
        given["index"] = given["index"].astype(kind)
        with plain():
            got = forward(bilateral_ops, subject, {name: sent(value) for name, value in given.items()})
        assert_forward(from_torch(got), forward(reference, subject, as_float64(given)), F32)


def flat(given: dict[str, Any]) -> dict[str, Any]:
    """Arrays by name, a guide record's fields among them."""
    found = {}
    for name, value in given.items():
        if isinstance(value, np.ndarray):
            found[name] = value
        elif inside := fields(value):
            found |= {f"{name}.{key}": inner for key, inner in inside.items()}
    return found


def with_arrays(given: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """The arguments with these for their arrays."""

    def one(name: str, value: Any) -> Any:
        if inside := fields(value):
            return type(value)(**{key: arrays[f"{name}.{key}"] for key in inside})
        return arrays.get(name, value)

    return {name: one(name, value) for name, value in given.items()}


def module_of(torch: Any, function: Any, names: Any) -> Any:
    """A module of tensors, which are given to a function by name."""

    class Module(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            return function(dict(zip(names, tensors, strict=True)))

    return Module().eval()


def lowered(torch: Any, function: Any, arrays: dict[str, Any], name: str) -> Any:
    """What a function of tensors computes when it was exported and decomposed."""
    tensors = tuple(map(to_torch, arrays.values()))
    exported = torch.export.export(module_of(torch, function, arrays), tensors)
    assert f"torch.ops.bilateral_ops.{name}.default" in exported.graph_module.code
    table = {**torch.export.default_decompositions(), **export.decompositions()}
    plain = exported.run_decompositions(table)
    assert "bilateral_ops" not in plain.graph_module.code
    return plain.module()(*tensors)


@EACH
def test_exported_programs_become_plain(torch: Any, subject: str) -> None:
    example = forward_example(subject, "batched", ALL_F32)
    given = example.arguments

    def function(tensors: dict[str, Any]) -> Any:
        return forward(bilateral_ops, subject, with_arrays(given, tensors))

    got = lowered(torch, function, flat(given), operation(subject))
    assert_forward(from_torch(got), example.result, F32)


@pytest.mark.parametrize("subject", DIFFERENTIABLE)
def test_exported_gradients_become_plain(torch: Any, subject: str) -> None:
    example = backward_example(subject, "batched", ALL_F32)
    given = example.arguments
    names = [name for name, gradient in example.gradients._asdict().items() if gradient is not None]

    def function(tensors: dict[str, Any]) -> Any:
        found = backward(bilateral_ops, subject, with_arrays(given, tensors), tensors["grad"])
        return tuple(getattr(found, name) for name in names)

    gradients = lowered(torch, function, {**flat(given), "grad": example.grad}, f"{subject}_vjp")
    for name, got in zip(names, gradients, strict=True):
        assert_gradient(from_torch(got), getattr(example.gradients, name), example.contributions[name], F32, name)


#: What is exported to ONNX: every operation, integer images and indices of either kind.
CALLS: dict[str, tuple[str, Dtypes, dict[str, Any]]] = {subject: (subject, ALL_F32, {"N": 2}) for subject in SUBJECTS}
CALLS["enhance(luma)"] = "enhance(luma)", IMAGES, {"N": 2}
CALLS |= {
    f"{subject} with {options['index']} of {kind.__name__}": (subject, ALL_F32, {**options, "kind": kind})
    for subject in SUBJECTS
    for options, kind in zip(indexed(subject), (np.int32, np.int64))
}
IMAGE_AXES = {"guide": (1, 2), "image": (1, 2), "values": (1, 2), "coefficients": (1, 2), "xy": (1, 2), "index": (1, 2)}


def drawn(call: str, **size: int) -> dict[str, Any]:
    subject, dtypes, options = CALLS[call]
    kind = options.get("kind")
    given = arguments(subject, dtypes, **{key: value for key, value in options.items() if key != "kind"}, **size)
    return given if kind is None else {**given, "index": given["index"].astype(kind)}


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.filterwarnings("ignore")  # PyTorch's exporters have many
def test_pytorchs_onnx_exporters_take_every_operation(torch: Any, dynamo: bool, tmp_path: Path) -> None:
    """All in one module, as most of an exporter's time is its own; on images of another size than exported with."""
    runtime = pytest.importorskip("onnxruntime", reason="needs bilateral_ops[onnx]")
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    given = {call: drawn(call) for call in CALLS}

    def arrays_of(calls: dict[str, Any]) -> dict[str, Any]:
        return {f"{i}.{name}": value for i, each in enumerate(calls.values()) for name, value in flat(each).items()}

    def function(tensors: dict[str, Any]) -> Any:
        results = []
        for i, (call, (subject, _, _)) in enumerate(CALLS.items()):
            start = f"{i}."
            here = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            results.append(forward(bilateral_ops, subject, with_arrays(given[call], here)))
        return tuple(results)

    arrays = arrays_of(given)
    free = [IMAGE_AXES.get(name.rpartition(".")[2]) if value.ndim > 2 else None for name, value in arrays.items()]
    if dynamo:
        sizes = [axes and dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in free]
        options: Any = {"dynamic_shapes": (tuple(sizes),)}
    else:
        options = {"dynamic_axes": {name: list(axes) for name, axes in zip(arrays, free) if axes}}
    options |= {"input_names": [*arrays], "verbose": False, "opset_version": 18, "dynamo": dynamo}
    file = tmp_path / "all.onnx"
    tensors = tuple(map(to_torch, arrays.values()))
    torch.onnx.export(module_of(torch, function, arrays), tensors, file, **options)

    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    sized = {call: drawn(call, H=9, W=17) for call in CALLS}
    feeds = {name: value for name, value in arrays_of(sized).items() if name in known}
    for (call, (subject, dtypes, _)), got in zip(CALLS.items(), session.run(None, feeds), strict=True):
        want = forward(reference, subject, as_float64(sized[call]))
        assert_forward(got, want, result_dtype(subject, dtypes), call)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.filterwarnings("ignore")  # PyTorch's exporters have many
def test_pytorchs_onnx_exporters_take_the_packaged_network(torch: Any, dynamo: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs bilateral_ops[onnx]")
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    from bilateral_ops.hdrnet import HDRNet

    model = HDRNet.load(SHIPPED).eval()
    sizes: Any = {"dynamic_axes": {"image": [1, 2]}}
    if dynamo:
        sizes = {"dynamic_shapes": ({1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},)}
    options: Any = {"input_names": ["image"], "opset_version": 18, "verbose": False, "dynamo": dynamo}
    torch.onnx.export(model, (torch.rand(1, 300, 270, 3),), tmp_path / "model.onnx", **options, **sizes)
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 300, 270, 3), (1, 271, 401, 3)):
        image = np.random.default_rng(0).random(shape, np.float32)
        (out,) = session.run(None, {"image": image})
        assert np.abs(out - Predictor.load()(image)).max() <= 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# JAX
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jax() -> Any:
    module = pytest.importorskip("jax", reason="JAX is not installed")
    pytest.importorskip("bilateral_ops.frameworks.jax")
    return module


def exported(jax: Any, function: Any, arrays: dict[str, Any]) -> Any:
    """A function of arrays by name, exported with the image's height and width as symbols."""
    from jax import export

    H, W = export.symbolic_shape("H, W")

    def described(name: str, array: Any) -> Any:
        rows, columns = IMAGE_AXES.get(name, (None, None))
        shape = [{rows: H, columns: W}.get(axis, size) for axis, size in enumerate(array.shape)]
        return jax.ShapeDtypeStruct(shape, array.dtype)

    return export.export(jax.jit(function))({name: described(name, array) for name, array in arrays.items()})


@pytest.mark.parametrize("options", [{}, {"xy": True}, {"align_corners": True}, {"dtypes": IMAGES}], ids=str)
@pytest.mark.parametrize("subject", [subject for subject in SUBJECTS if subject != "total_variation"])  # of no image
def test_jax_exports_symbolic_sizes(jax: Any, subject: str, options: dict[str, Any]) -> None:
    dtypes = options.get("dtypes", ALL_F32)
    if dtypes not in (ALL_F32, *dtypes_of(subject)) or ("align_corners" in options and subject not in WINDOWED):
        pytest.skip("no such keyword")
    if "xy" in options and subject not in SAMPLED:
        pytest.skip("no such argument")
    given = arguments(subject, dtypes, N=2, **({"xy": True} if "xy" in options else {}))
    keywords = {"align_corners": True} if "align_corners" in options else {}

    def function(arrays: dict[str, Any]) -> Any:
        return forward(bilateral_ops, subject, with_arrays(given, arrays), **keywords)

    made = exported(jax, function, flat(given))
    sized = arguments(subject, dtypes, N=2, H=9, W=17, **({"xy": True} if "xy" in options else {}))
    got = np.asarray(made.call(flat(sized)))
    assert_forward(got, forward(reference, subject, as_float64(sized), **keywords), result_dtype(subject, dtypes))


def test_jax_exports_gradients_of_symbolic_sizes(jax: Any) -> None:
    example = backward_example("slice_apply", "batched", ALL_F32)
    given = {**flat(example.arguments), "grad": example.grad}

    def function(arrays: dict[str, Any]) -> Any:
        return bilateral_ops.slice_apply_vjp(arrays["grid"], arrays["guide"], arrays["image"], arrays["grad"])[:3]

    from jax import export

    H, W = export.symbolic_shape("H, W")
    described = {
        name: jax.ShapeDtypeStruct(array.shape if name == "grid" else (array.shape[0], H, W, *array.shape[3:]), F32)
        for name, array in given.items()
    }
    made = export.export(jax.jit(function))(described)
    for name, got in zip(("grid", "guide", "image"), made.call(given), strict=True):
        want = getattr(example.gradients, name)
        assert_gradient(np.asarray(got), want, example.contributions[name], F32, name)


@pytest.mark.parametrize(
    "options", [{}, {"align_corners": True}, {"xy": "corners"}, {"xy": "centers", "align_corners": True}]
)
def test_jax_exports_rows_on_knots(jax: Any, options: dict[str, Any]) -> None:
    """In float64 and compiled as for users: where XLA rounded positions twice, a row was off by a cell."""
    from jax import export

    H, W = export.symbolic_shape("H, W")
    before = {name: jax.config.values[name] for name in ("jax_enable_x64", "jax_disable_most_optimizations")}
    for name in before:
        jax.config.update(name, name == "jax_enable_x64")
    try:
        function = jax.jit(functools.partial(bilateral_ops.slice_apply, **options))
        for size in (3, 7, 9, 11):
            rng = np.random.default_rng(size)
            arrays = [
                rng.random(shape) for shape in ((size, size, 5, 3, 4), (size, 2 * size - 1), (size, 2 * size - 1, 3))
            ]
            described = [jax.ShapeDtypeStruct(shape, np.float64) for shape in (arrays[0].shape, (H, W), (H, W, 3))]
            got = export.export(function)(*described).call(*map(jax.numpy.asarray, arrays))
            np.testing.assert_allclose(got, bilateral_ops.slice_apply(*arrays, **options), rtol=1e-12, atol=1e-12)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_jax_exports_what_is_symbolic_all_over(jax: Any) -> None:
    """Batches, grids, windows; gradients and tangents, taken before and after."""
    from jax import export

    N, H, W, Gh, Gw, Gd = export.symbolic_shape("N, H, W, Gh, Gw, Gd")
    given = flat(arguments("slice_apply", ALL_F32, N=2, H=5, W=6))
    arrays = tuple(given.values())
    described = [
        jax.ShapeDtypeStruct(shape, F32) for shape in ((N, Gh, Gw, Gd, *arrays[0].shape[4:]), (N, H, W), (N, H, W, 3))
    ]

    def windowed(grid: Any, guide: Any, image: Any) -> Any:
        _, height, width = guide.shape
        return bilateral_ops.slice_apply(grid, guide, image, window=(1, 2, height + 3, width + 2))

    def gradients(*arrays: Any) -> Any:
        return jax.grad(lambda *a: (bilateral_ops.slice_apply(*a) ** 2).sum(), (0, 1, 2))(*arrays)

    for function in (
        bilateral_ops.slice_apply,
        jax.vmap(bilateral_ops.slice_apply),
        windowed,
        gradients,
        lambda *a: jax.jvp(bilateral_ops.slice_apply, a, a),
        lambda grid, *_: bilateral_ops.total_variation(grid),
    ):
        made = export.export(jax.jit(function))(*described)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), made.call(*arrays), function(*arrays)
        )
    packed = export.export(jax.jit(bilateral_ops.slice_apply))(*described).serialize(vjp_order=1)
    read = export.deserialize(packed)
    again = jax.grad(lambda *a: (read.call(*a) ** 2).sum(), (0, 1, 2))(*arrays)
    for got, want in zip(again, gradients(*arrays)):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="must hold the image"):  # the difference of two symbols is known
        export.export(jax.jit(lambda *a: bilateral_ops.slice_apply(*a, window=(4, 0, H + 3, W))))(*described)


def test_jax_exports_kernels_that_are_named(jax: Any) -> None:
    from jax import export

    given = flat(arguments("slice_apply", ALL_F32))
    checks = [export.DisabledSafetyCheck.custom_call("bilateral_ops_slice_apply_forward")]
    made = export.export(jax.jit(bilateral_ops.slice_apply), disabled_checks=checks)(*given.values())
    read = export.deserialize(made.serialize())
    assert np.array_equal(read.call(*given.values()), bilateral_ops.slice_apply(**given))


def test_jax_exports_the_packaged_network(jax: Any) -> None:
    predictor = Predictor.load()
    made = exported(jax, lambda given: predictor(given["image"]), {"image": np.zeros((1, 30, 40, 3), np.float32)})
    for shape in ((1, 300, 270, 3), (1, 33, 401, 3)):
        image = np.random.default_rng(0).random(shape, np.float32)
        assert np.abs(np.asarray(made.call({"image": image})) - predictor(image)).max() <= 1e-5
