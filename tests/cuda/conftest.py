"""The device that is played, for tests that ask for it."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import standin
from backends import Through
from cases import SANITIZED


@pytest.fixture(scope="session")
def nvcc() -> str:
    """The path of nvcc."""
    if SANITIZED:
        pytest.skip("nvcc does not run under AddressSanitizer, nor is what it makes looked at by it")
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc was not found")
    return found


@pytest.fixture
def device() -> Iterator[Any]:
    """The stand-in, empty."""
    if not standin.installed():
        pytest.skip("built without BILATERAL_OPS_CUDA_TEST=ON (tests/cuda/README.md)")
    importlib.import_module("standin.framework")
    device = standin.the_standin()
    device.reset(90)
    yield device
    device.reset()


@pytest.fixture
def on_device(device: Any) -> Through:
    """The package, for callers who hold NumPy arrays: every argument goes to the device with its strides."""
    return Through(lambda array: standin.laid_out(device, array), fetched)


def fetched(array: Any) -> Any:
    """The result, of which every byte must have been written."""
    array.standin.assert_written(array)
    return array.memory
