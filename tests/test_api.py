"""Is every public name there with what it promises: a reference, a VJP, a docstring, a light import?"""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from backends import CUPY_REFERENCE
from cases import ALL_F32, GUIDES, NUMBERS, OPERATIONS, arguments, arrays, backward, fields, forward, python

import bilateral_ops
from bilateral_ops._core.missing import install
from bilateral_ops.bench import _suite as _bench
from bilateral_ops.frameworks import _dlpack
from bilateral_ops.reference import numpy as reference

EACH = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
#: Promised: they stay.
NAMES = (
    "slice",
    "apply",
    "slice_apply",
    "guide_curves",
    "guide_nn",
    "guide_luma",
    "enhance",
    "splat",
    "total_variation",
    "resize_area",
)


def public_functions() -> list[str]:
    return [name for name in bilateral_ops.__all__ if inspect.isfunction(getattr(bilateral_ops, name))]


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_the_promised_operations_are_there() -> None:
    assert set(NAMES) <= set(OPERATIONS)
    assert [name for name, operation in OPERATIONS.items() if operation.vjp is None] == ["enhance"]


def test_all_is_complete() -> None:
    names = set(bilateral_ops.__all__)
    assert len(names) == len(bilateral_ops.__all__)
    promised = {*NAMES, *(f"{name}_vjp" for name in NAMES if name != "enhance"), "CurvesGuide", "NNGuide", "LumaGuide"}
    promised |= {"set_num_threads", "get_num_threads", "set_isa", "available_isas", "show_config", "fit"}
    promised |= {"gradcheck", "assert_gradients"}
    assert promised <= names
    visible = {
        name
        for name, value in vars(bilateral_ops).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert visible == names
    assert isinstance(bilateral_ops.__version__, str)


@EACH
def test_operations_are_the_public_functions(operation: Any) -> None:
    assert operation.function is getattr(bilateral_ops, operation.name)
    assert operation.function.__name__ == operation.name
    taken = list(inspect.signature(operation.function).parameters)
    assert [name for name in taken if name in operation.arguments] == list(operation.arguments)
    if operation.vjp is not None:
        assert operation.vjp is getattr(bilateral_ops, f"{operation.name}_vjp")
        assert operation.vjp.__name__ == f"{operation.name}_vjp"


@pytest.mark.parametrize("module", ["numpy", "numba", "cupy"])
@EACH
def test_references_have_the_same_signatures(operation: Any, module: str) -> None:
    twin = CUPY_REFERENCE
    if module != "cupy":
        twin = pytest.importorskip(f"bilateral_ops.reference.{module}", exc_type=ImportError)
    for name in (operation.name, f"{operation.name}_vjp") if operation.vjp else (operation.name,):
        assert parameters(getattr(twin, name)) == parameters(getattr(bilateral_ops, name)), name


def test_a_missing_framework_of_a_reference_is_named() -> None:
    for name in ("numba", "cupy"):
        _is_named(f"import bilateral_ops.reference.{name}", f"bilateral_ops.reference.{name}", name, name)


@pytest.mark.parametrize(
    ("statement", "who", "extra"),
    [
        ("from bilateral_ops.hdrnet import HDRNet", "bilateral_ops.hdrnet.HDRNet", "torch"),
        ("import bilateral_ops.hdrnet.model", "bilateral_ops.hdrnet.HDRNet", "torch"),
        ("from bilateral_ops.hdrnet.train import train", "bilateral_ops.hdrnet.train", "train"),
        ("import bilateral_ops.compat.lib_bilagrid", "bilateral_ops.compat.lib_bilagrid", "torch"),
        ("import bilateral_ops.compat.fused_bilagrid", "bilateral_ops.compat.fused_bilagrid", "torch"),
        ("import bilateral_ops.compat.gsplat", "bilateral_ops.compat.gsplat", "torch"),
        ("import bilateral_ops.frameworks.torch", "bilateral_ops.frameworks.torch", "torch"),
    ],
)
def test_pytorch_is_named_where_it_is_missing(statement: str, who: str, extra: str) -> None:
    _is_named(statement, who, "torch", extra)


def _is_named(statement: str, who: str, module: str, extra: str) -> None:
    finished = python(
        f"import sys\nsys.modules['{module}'] = None\n"
        f"for kind in (RuntimeError, ImportError):\n"
        f"    try:\n        {statement}\n    except kind as error:\n        print(error)"
    )
    library = {"torch": "PyTorch", "numba": "Numba", "cupy": "CuPy"}[module]
    sentence = f"{who} needs {library}, which is not installed; {install(extra)}."
    assert finished.stdout.splitlines() == [sentence] * 2, finished.stderr


@EACH
def test_a_vjp_takes_what_the_operation_takes(operation: Any) -> None:
    if operation.vjp is None:
        return
    ours, its = parameters(operation.function), parameters(operation.vjp)
    positional = [p for p in ours if p[1] is inspect.Parameter.POSITIONAL_OR_KEYWORD and p[0] not in NUMBERS]
    keywords = [p for p in ours if p[1] is inspect.Parameter.KEYWORD_ONLY and p[0] != "out"]
    grad = ("grad", inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty)
    extra = [(name, inspect.Parameter.KEYWORD_ONLY, None) for name in ("wrt", "out")]
    assert its == [*positional, grad, *keywords, *extra]
    assert all(default is None or default is False for _, kind, default in keywords)


@EACH
def test_the_gradients_are_a_named_tuple_of_the_arguments(operation: Any) -> None:
    if operation.vjp is None:
        return
    given = arguments(operation.name, ALL_F32)
    result = forward(bilateral_ops, operation.name, given)
    gradients = backward(bilateral_ops, operation.name, given, np.ones_like(result))
    assert isinstance(gradients, tuple)
    assert gradients._fields == operation.arguments
    assert gradients._fields == backward(reference, operation.name, given, np.ones_like(result))._fields
    for name in operation.arguments:
        assert (getattr(gradients, name) is None) == (name not in arrays(given))


@pytest.mark.parametrize("name", public_functions())
def test_docstrings(name: str) -> None:
    function = getattr(bilateral_ops, name)
    text = inspect.getdoc(function)
    assert text
    first = text.splitlines()[0]
    assert first.endswith(".")
    assert len(first) <= 120
    if name.removesuffix("_vjp") not in OPERATIONS:
        return
    for part in ("Parameters", "Returns", "Raises", "ValueError", "TypeError", "Source:"):
        assert part in text, f"{name} does not say {part}"
    own = {"window", "align_corners"} if name.endswith("_vjp") else set()
    for parameter in inspect.signature(function).parameters:
        assert parameter in text or parameter in own, f"{name} says nothing of {parameter}"
    assert "(N," in text, f"{name} names no shapes"


def test_python_without_docstrings() -> None:
    subprocess.run([sys.executable, "-OO", "-c", "import bilateral_ops"], check=True)


@pytest.mark.parametrize("name", ["CurvesGuide", "NNGuide", "LumaGuide", "fit", "gradcheck", "assert_gradients"])
def test_other_public_names_are_documented(name: str) -> None:
    text = inspect.getdoc(getattr(bilateral_ops, name))
    assert text
    assert not text.startswith(f"{name}(")


@pytest.mark.parametrize("subject", GUIDES)
def test_guide_records_are_frozen_and_named_as_the_guides_arguments(subject: str) -> None:
    guide, record = GUIDES[subject]
    names = [name for name in OPERATIONS[guide].arguments if name != "image"]
    made = arguments(subject, ALL_F32)["guide"]
    assert list(inspect.signature(record).parameters) == names == list(fields(made))
    for name in (*names, "something"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(made, name, 1)


def test_every_operation_has_a_benchmark() -> None:
    timed = [_bench.problem(*call, 3, 5) for call in _bench.CALLS]
    differentiable = [f"{name}_vjp" for name, operation in OPERATIONS.items() if operation.vjp]
    assert sorted(map(str, timed)) == sorted([*OPERATIONS, *differentiable])
    for given in timed:
        assert given.call(bilateral_ops)() is not None


def test_importing_imports_no_framework() -> None:
    heavy = ["torch", "jax", "jaxlib", "cupy", "numba", "scipy", "skimage", "matplotlib", "tqdm", "ml_dtypes", "PIL"]
    heavy += [
        "bilateral_ops.reference.numpy",
        "bilateral_ops.reference.numba",
        "bilateral_ops.frameworks._cupy",
        "bilateral_ops._cuda",
        "importlib.resources",  # takes longer than the package
    ]
    finished = python(f"import sys, bilateral_ops; print([m for m in {heavy} if m in sys.modules])")
    assert finished.stdout.strip() == "[]", finished.stdout + finished.stderr


def test_a_call_imports_no_framework_either() -> None:
    code = (
        "import sys, numpy as np, bilateral_ops\n"
        "bilateral_ops.slice_apply(np.ones((2, 2, 2, 1, 1), 'f4'), np.ones((3, 3), 'f4'), np.ones((3, 3, 1), 'f4'))\n"
        "print([m for m in ('torch', 'jax', 'cupy', 'numba', 'scipy', 'ml_dtypes') if m in sys.modules])"
    )
    finished = python(code)
    assert finished.stdout.strip() == "[]", finished.stdout + finished.stderr


def test_the_package_is_typed() -> None:
    folder = Path(bilateral_ops.__file__).parent
    assert (folder / "py.typed").exists()
    assert (folder / "_cpu.pyi").exists()


def test_gradcheck_agrees_with_every_operation() -> None:
    for name, operation in OPERATIONS.items():
        if operation.vjp is None:
            continue
        report = bilateral_ops.gradcheck(operation.function, arguments(name))
        assert report, f"{name}\n{report}"


def test_show_config_prints_what_this_build_is(capsys: pytest.CaptureFixture[str]) -> None:
    bilateral_ops.show_config()
    printed = capsys.readouterr().out
    rows = dict(line.split(None, 1) for line in printed.splitlines())
    assert rows["bilateral_ops"] == bilateral_ops.__version__
    assert rows["ISA"].split()[0] in bilateral_ops.available_isas()
    assert rows["threads"] == str(bilateral_ops.get_num_threads())
    assert rows["compiler"].strip()
    assert rows["CUDA"].strip()


def test_show_config_says_what_cuda_it_has(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def printed() -> str:
        bilateral_ops.show_config()
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("CUDA")).split(None, 1)[1]

    def no_driver() -> int:
        raise RuntimeError("device_count: needs an NVIDIA driver.")

    kernels = SimpleNamespace(compiler="nvcc 13.0.1", architectures="75-real 90-virtual", device_count=lambda: 1)
    monkeypatch.setattr(_dlpack, "_kernels", kernels)
    assert printed() == "nvcc 13.0.1, for 75-real 90-virtual; 1 device"
    kernels.device_count = no_driver
    assert printed() == "nvcc 13.0.1, for 75-real 90-virtual; no usable driver"
    monkeypatch.setattr(_dlpack, "_kernels", None)
    monkeypatch.setitem(sys.modules, "bilateral_ops._cuda", None)
    monkeypatch.setattr(bilateral_ops._cpu, "cuda_missing", "no nvcc was found")
    assert printed() == "not built (no nvcc was found)"


def test_instruction_sets_can_be_chosen_and_end_in_the_one_that_always_works(isa: str) -> None:
    assert isa in bilateral_ops.available_isas()
    assert bilateral_ops.available_isas()[-1] == "scalar"
