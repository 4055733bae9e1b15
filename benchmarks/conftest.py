"""What every benchmark records beside its time."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bilateral_ops
from bilateral_ops import _core


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or bilateral_ops.__version__


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    return {
        "commit": _commit(),
        "cpu": _processor(),
        "isa": _core.isa(),
        "threads": bilateral_ops.get_num_threads(),
        "compiler": _core.compiler,
    }
