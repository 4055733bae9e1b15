"""Options, and fixtures: state of the whole process that a test sets and this file puts back; the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import backends
import pytest

import bilateral_ops
from bilateral_ops.cli import main


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long, mostly to compile; runs with --slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


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


@pytest.fixture(params=[*bilateral_ops.available_isas(), "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The package, with every instruction set in turn, and on a CUDA device; NumPy arrays in and out."""
    if request.param == "cuda":
        yield request.getfixturevalue("on_device")
        return
    with _set_isa(request.param):
        yield bilateral_ops


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads is put back."""
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
