"""Are results the same bits in any floating-point mode of the caller, and is the mode afterwards what it was before?"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    F32,
    OPERATIONS,
    SUBJECTS,
    U8,
    Dtypes,
    arguments,
    assert_same_bits,
    backward,
    forward,
    operation,
    python,
    random_like,
)

import bilateral_ops
from bilateral_ops import _cpu

_X86 = platform.machine() in ("x86_64", "AMD64")
pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"),
        reason="how fenv_t holds the control register is known here for Linux on x86-64 and aarch64",
    ),
    pytest.mark.usefixtures("threads"),
]

#: Bits of the control register, MXCSR or FPCR.
MODES = (
    {"flush to zero": 0x8040, "upward": 0x4000, "downward": 0x2000, "toward zero": 0x6000}
    if _X86
    else {"flush to zero": 1 << 24, "upward": 1 << 22, "downward": 2 << 22, "toward zero": 3 << 22}
)
#: Their word among those of fenv_t, and the bits in it that say a mode.
_WORD, _MASK = (7, 0xFFC0) if _X86 else (0, 0x07F79F00)


class _Environment:
    """The C library's ``fenv_t`` of this thread."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(ctypes.util.find_library("m"))

    def read(self) -> Any:
        environment = (ctypes.c_uint32 * 16)()
        assert self._library.fegetenv(environment) == 0
        return environment

    def write(self, environment: Any) -> None:
        assert self._library.fesetenv(environment) == 0


@contextmanager
def mode(bits: int) -> Iterator[None]:
    """Compute in a mode, which must be the same at the end."""
    library = _Environment()
    before = library.read()
    changed = library.read()
    changed[_WORD] |= bits
    library.write(changed)
    try:
        yield
        found = library.read()[_WORD]
    finally:
        library.write(before)
    assert found & _MASK == changed[_WORD] & _MASK, f"{found:#x} is not {changed[_WORD]:#x}"


def everything(subject: str, given: dict[str, Any], grad: Any) -> dict[str, Any]:
    results = {"result": forward(bilateral_ops, subject, given)}
    return results | ({} if grad is None else backward(bilateral_ops, subject, given, grad)._asdict())


def gradient(subject: str, given: dict[str, Any], scale: float) -> Any:
    if not OPERATIONS[operation(subject)].vjp:
        return None
    return random_like(forward(bilateral_ops, subject, given).shape, F32) * F32.type(scale)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_callers_mode_changes_no_bit(subject: str, name: str, isa: str) -> None:
    """Normal values and subnormal gradients, with every number of threads."""
    takes_bytes = subject not in ("slice", "splat", "total_variation")
    for dtypes, scale in ((ALL_F32, 1.0), (ALL_F32, 1e-38), (Dtypes(U8, F32, F32), 1.0))[: 3 if takes_bytes else 2]:
        given = arguments(subject, dtypes, H=70, W=130, Gd=8)
        bilateral_ops.set_num_threads(2)
        grad = gradient(subject, given, scale)
        want = everything(subject, given, grad)
        for count in (1, 2, 3, 4):
            bilateral_ops.set_num_threads(count)
            with mode(MODES[name]):
                got = everything(subject, given, grad)
            for key, value in want.items():
                assert_same_bits(got[key], value, f"{dtypes}, {scale}, {count} threads: {key}")


@pytest.mark.parametrize("name", MODES)
def test_twenty_equal_calls(name: str) -> None:
    """The pool's threads, which were there before the mode was changed, compute in the same one as the caller."""
    bilateral_ops.set_num_threads(4)
    given = arguments("slice_apply", ALL_F32, H=150, W=200, Gd=8)
    grad = gradient("slice_apply", given, 1e-38)
    want = everything("slice_apply", given, grad)
    with mode(MODES[name]):
        found = [everything("slice_apply", given, grad) for _ in range(20)]
    for got in found:
        for key, value in want.items():
            assert_same_bits(got[key], value, key)


def test_a_call_that_fails_leaves_the_mode_alone() -> None:
    """A kernel runs out of memory for its tables: there are 2⁴⁸ columns, of one element."""
    out = np.lib.stride_tricks.as_strided(np.zeros(3, F32), (1, 1 << 48, 3), (0, 0, 4))
    with mode(MODES["upward"] | MODES["flush to zero"]), pytest.raises(MemoryError):
        _cpu.resize_area_forward(out, np.zeros((1, 1, 3), F32))


def test_kernels_raise_no_signal() -> None:
    """Of a caller who has unmasked invalid operations and divisions by zero (feenableexcept), on NaN and infinity."""
    script = """
import ctypes, ctypes.util, numpy as np, bilateral_ops
from cases import SUBJECTS, arguments, forward, arrays
calls = []
for subject in SUBJECTS:
    given = arguments(subject)
    for array in arrays(given).values():
        if array.ndim: array.flat[::5] = np.nan; array.flat[1::5] = np.inf
    calls.append((subject, given))
library = ctypes.CDLL(ctypes.util.find_library("m"))
for subject, given in calls:
    library.feenableexcept(1 | 4)
    forward(bilateral_ops, subject, given)
    library.fedisableexcept(1 | 4)
print("done")
"""
    if not _X86:
        pytest.skip("aarch64 processors need not have traps")
    finished = python(script)
    assert (finished.returncode, finished.stdout) == (0, "done\n"), finished.stderr
