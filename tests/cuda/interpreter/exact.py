"""exact.c, compiled when it is first needed: nvcc needs a C compiler, so where there is nvcc there is one."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_MODES = {"rn": "round_nearest", "rm": "round_down", "rp": "round_up", "rz": "round_zero"}


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "exact.so")
        options = ["-O2", "-shared", "-fPIC", "-frounding-math", "-ffp-contract=off"]
        source = Path(__file__).with_suffix(".c")
        subprocess.run([os.environ.get("CC", "cc"), *options, "-o", file, source, "-lm"], check=True)
        return ctypes.CDLL(str(file))


@functools.cache
def rounding_mode(name: str) -> int:
    return ctypes.c_int.in_dll(_library(), _MODES[name]).value


@functools.cache
def fused(kind: str) -> Any:
    """f(n, a, step of a, b, step, c, step, out, mask or 0, rounding mode) on addresses; kind is f32 or f64."""
    function = getattr(_library(), f"fused_{kind}")
    size, pointer = ctypes.c_ssize_t, ctypes.c_void_p
    function.argtypes = [size, pointer, size, pointer, size, pointer, size, pointer, pointer, ctypes.c_int]
    function.restype = None
    return function
