"""Options and fixtures: settings of the process, which are restored after each test, and the command line."""

from __future__ import annotations

import gc
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import backends
import cases
import numpy as np
import pytest

import bilateral_ops
from bilateral_ops.cli import main

#: What --quick runs: of each file the tests with such names, on one instruction set.
QUICK = {
    "test_agreement.py": r"_(forward|backward)\[.*: (plain|batched|wide|xy|window|corners|no rows|large, many bands)\]",
    "test_api.py": "doc|signature|promised",
    "test_errors.py": "",
    "test_frameworks.py": "torch.*float32",
    "test_gradients.py": "float32|wrt|out",
    "test_layouts.py": r"-float32\]|itself",
    "test_luma.py": r"-(plain|wide)\]",
    "test_packaging.py": "",
    "test_reference.py": "",
    "test_special_values.py": "float32|uint8",
    "test_threads.py": "changes_no_bit.*image|in_order|at_once|a_child",
    "test_tiles.py": "HDRnet|odd",
    "test_torch.py": "gradcheck_and",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")
    parser.addoption("--quick", action="store_true", help="run a part of the tests, in less than a minute")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long, mostly to compile; runs with --slow")
    # Tests, kernels' PTX and what it is translated to are hundreds of thousands of objects that stay: the garbage
    # collector need not go through them for every 700 new ones.
    gc.set_threshold(50_000)
    if cache := getattr(config, "cache", None):
        _keep_answers(cache.mkdir("answers"))


def _keep_answers(folder: Path) -> None:
    """The reference's answers are kept for the next run, until its source changes."""
    ours = folder / cases.SOURCES.hexdigest()
    os.environ[cases.ANSWERS] = str(ours)
    for other in folder.iterdir():
        if other != ours:
            shutil.rmtree(other, ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name == "cuda" and not cases.HAS_BF16:
        return True  # the interpreter computes bfloat16 by ml_dtypes
    if config.getoption("--quick") and collection_path.suffix == ".py" and collection_path.name not in QUICK:
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
        if not cases.HAS_BF16 and any(map(_is_bfloat16, _params(item).values())):
            item.add_marker(pytest.mark.skip(reason="bfloat16 needs ml_dtypes, which is not installed"))
    if config.getoption("--quick"):
        if missing := [name for name in QUICK if not (Path(__file__).parent / name).exists()]:
            raise pytest.UsageError(f"--quick: conftest.py names files that are not there: {', '.join(missing)}")
        left_out = [item for item in items if not _is_quick(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_quick(item)]
    # The tests of a case are run one after another on all instruction sets, so that its expected results are computed
    # once. xdist gives neighbouring tests to the same process.
    place: dict[str, int] = {}
    items.sort(key=lambda item: place.setdefault(item.nodeid.replace(_isa(item) or "\0", ""), len(place)))


def pytest_collection_finish() -> None:
    gc.freeze()


def pytest_sessionfinish() -> None:
    # pytest goes through all objects five times at its end, and the interpreter once more.
    gc.collect()
    gc.freeze()


def _params(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def _isa(item: pytest.Item) -> str | None:
    """The instruction set or device that a test runs on."""
    return _params(item).get("isa") or _params(item).get("backend")


def _is_bfloat16(param: Any) -> bool:
    if isinstance(param, cases.Dtypes):
        return cases.BF16 in param
    if isinstance(param, dict):
        return any(map(_is_bfloat16, param.values()))
    return param == "bfloat16" if isinstance(param, str) else isinstance(param, np.dtype) and param == cases.BF16


def _is_quick(item: pytest.Item) -> bool:
    names = QUICK.get(item.path.name)
    best = bilateral_ops.available_isas()[0]
    return names is not None and _isa(item) in (None, best) and bool(re.search(names, item.name))


@contextmanager
def _set_isa(name: str) -> Iterator[None]:
    bilateral_ops.set_isa(name)
    try:
        yield
    finally:
        bilateral_ops.set_isa(os.environ.get("BILATERAL_OPS_ISA") or bilateral_ops.available_isas()[0])


@pytest.fixture(params=bilateral_ops.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine in turn."""
    with _set_isa(request.param):
        yield request.param


@pytest.fixture
def on_device() -> Any:
    """The package on a CUDA device, NumPy arrays in and out. Skips where there is none; fails in `nox -s gpu`."""
    found = backends.cuda()
    if isinstance(found, str):
        (pytest.fail if os.environ.get("BILATERAL_OPS_GPU") else pytest.skip)(found)
    return found


@pytest.fixture(params=[*bilateral_ops.available_isas(), *["cuda"] * backends.may_have_cuda()])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The package, with every instruction set in turn, and on a CUDA device; NumPy arrays in and out."""
    if request.param == "cuda":
        yield request.getfixturevalue("on_device")
        return
    with _set_isa(request.param):
        yield bilateral_ops


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = bilateral_ops.get_num_threads()
    yield
    bilateral_ops.set_num_threads(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """Call the command line; exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[Any, str, str]:
        code: Any
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
