"""Do type checkers know what operations take and return, and do records stay the named tuples that they were?"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import sysconfig
import typing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import OPERATIONS

import bilateral_ops

FILES = Path(__file__).parent / "types"
PACKAGES = Path(bilateral_ops.__file__).parents[1]
VJPS = [pytest.param(o.vjp, o.arguments, id=name) for name, o in OPERATIONS.items() if o.vjp]


def refused(request: pytest.FixtureRequest, *files: Path) -> list[str]:
    """``mypy --strict``'s complaints of these files, each as file:line: error."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    if cache := getattr(request.config, "cache", None):
        options += ["--cache-dir", str(cache.mkdir("mypy"))]
    installed = PACKAGES in {Path(path) for path in sysconfig.get_paths().values()}
    finished = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", *options, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=FILES,
        env={**os.environ, "MYPYPATH": "" if installed else str(PACKAGES)},
    )
    assert finished.returncode in (0, 1), finished.stdout + finished.stderr
    return [line for line in finished.stdout.splitlines() if ": error: " in line]


def marked(*files: Path) -> set[tuple[str, int]]:
    """File and line number of the calls that are marked as wrong."""
    return {
        (file.name, number)
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if line.endswith("# refused")
    }


def places(errors: list[str]) -> set[tuple[str, int]]:
    found = [error.partition(": error: ")[0].rpartition(":") for error in errors]
    return {(Path(file).name, int(number)) for file, _, number in found}


def test_right_calls_pass_and_wrong_ones_are_refused(request: pytest.FixtureRequest) -> None:
    files = FILES / "right.py", FILES / "wrong.py"
    errors = refused(request, *files)
    assert places(errors) == marked(*files), "\n".join(errors)


def test_so_it_is_with_the_frameworks_own_arrays(request: pytest.FixtureRequest) -> None:
    if not (find_spec("torch") and find_spec("jax")):
        pytest.skip("PyTorch or JAX is not installed")
    file = FILES / "frameworks.py"
    errors = refused(request, file)
    assert places(errors) == marked(file), "\n".join(errors)


@pytest.mark.parametrize(("vjp", "arguments"), VJPS)
def test_wrt_names_the_arguments(vjp: Any, arguments: tuple[str, ...]) -> None:
    names, no_names = typing.get_args(typing.get_type_hints(vjp)["wrt"])
    assert names == tuple[typing.Literal[arguments], ...]
    assert no_names is type(None)


@pytest.mark.parametrize(("vjp", "arguments"), VJPS)
def test_gradients_are_named_tuples_and_nothing_else(vjp: Any, arguments: tuple[str, ...]) -> None:
    record = typing.get_origin(typing.get_type_hints(vjp)["return"])
    assert record.__bases__ == (tuple,)
    made = record(*range(len(arguments)))
    assert made._asdict() == dict(zip(arguments, range(len(arguments))))
    assert made._replace(**{arguments[0]: None})[0] is None
    copied = pickle.loads(pickle.dumps(made))
    assert copied == made
    assert type(copied) is record


def test_gradients_are_trees_to_pytorch_and_jax() -> None:
    gradients = bilateral_ops.total_variation_vjp(np.ones((1, 2, 2, 2, 1), np.float32), np.ones(1, np.float32))
    doubled = gradients._replace(grid=7)
    if find_spec("torch"):
        from torch.utils import _pytree

        leaves, structure = _pytree.tree_flatten(doubled)
        assert leaves == [7]
        assert _pytree.tree_unflatten(leaves, structure) == doubled
    if find_spec("jax"):
        import jax

        assert jax.tree.map(lambda leaf: leaf + 1, doubled) == (8,)


@pytest.mark.parametrize("record", [bilateral_ops.CurvesGuide, bilateral_ops.NNGuide])
def test_guides_are_generic(record: Any) -> None:
    assert typing.get_args(record[np.ndarray]) == (np.ndarray,)
    assert isinstance(record[np.ndarray](*range(len(record.__dataclass_fields__) - 2)), record)
