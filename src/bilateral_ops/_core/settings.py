"""Process-wide settings, threads and instruction set, and the configuration of the build."""

from __future__ import annotations

import operator
import os
import platform
import sys
from itertools import pairwise

from .. import _cpu
from ..frameworks import _dlpack
from .checks import brief

#: More threads than this are a mistake: each would be started.
MOST_THREADS = 1024


def _count(text: str) -> int:
    """The number in an environment variable; 0 if there is none."""
    try:
        return int(text) if text.strip().isdecimal() else 0
    except ValueError:  # thousands of digits
        return 0


def _default_num_threads() -> int:
    """BILATERAL_OPS_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that this process may use."""
    own = os.environ.get("BILATERAL_OPS_NUM_THREADS")
    if own:
        if not 1 <= _count(own) <= MOST_THREADS:
            raise ValueError(
                f"bilateral_ops: BILATERAL_OPS_NUM_THREADS must be an integer from 1 to {MOST_THREADS}, "
                f"got {brief(own)}."
            )
        return _count(own)
    # OpenMP allows a list, one number per nesting level.
    if shared := _count(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]):
        return min(shared, MOST_THREADS)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call may use, process-wide. Results don't depend on it.

    Raises ``ValueError`` for n < 1 and ``TypeError`` for anything but an integer. The default is the environment
    variable ``BILATERAL_OPS_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs that this process may use.
    """
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"set_num_threads: n must be an integer, got {type(n).__name__}.") from None
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"set_num_threads: n must be from 1 to {MOST_THREADS}, got {brief(count)}.")
    _cpu.set_num_threads(count)


def get_num_threads() -> int:
    """Return the number of threads that a call may use."""
    return _cpu.num_threads()


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that kernels were built for and this processor has, best first."""
    return _cpu.available_isas()


def set_isa(name: str) -> None:
    """Use the kernels of one instruction set, one of ``available_isas()``, process-wide.

    The default is the best, or what the environment variable ``BILATERAL_OPS_ISA`` names. Raises ``ValueError`` for any
    other name.
    """
    _select_isa("set_isa: name", name)


def _select_isa(what: str, name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a string, got {type(name).__name__}.")
    if name not in available_isas() or not _cpu.select_isa(name):
        raise ValueError(f"{what} must be {' or '.join(available_isas())} on this machine, got {name!r}.")


def _cuda_support() -> str:
    try:
        kernels = _dlpack.kernels()
    except ModuleNotFoundError:
        return f"not built ({_cpu.cuda_missing})"
    except ImportError as error:
        return f"built, but can't be loaded ({error})"
    try:
        count = kernels.device_count()
    except RuntimeError:
        devices = "no usable driver"
    else:
        devices = f"{count} device{'s' * (count != 1)}"
    return f"{kernels.compiler}, for {kernels.architectures}; {devices}"


def show_config() -> None:
    """Print version, instruction set, threads, compiler and CUDA support, one per line."""
    rows = {
        "bilateral_ops": _cpu.__version__,
        "ISA": f"{_cpu.isa()} (available: {', '.join(available_isas())})",
        "threads": str(get_num_threads()),
        "compiler": _cpu.compiler,
        "CUDA": _cuda_support(),
        "platform": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    }
    for name, value in rows.items():
        print(f"{name:<14} {value}")


def apply_environment() -> None:
    """Apply the environment variables; called once, on import."""
    try:
        _cpu.set_num_threads(_default_num_threads())
        if isa := os.environ.get("BILATERAL_OPS_ISA"):
            _select_isa("bilateral_ops: BILATERAL_OPS_ISA", isa)
    except ValueError as error:
        if not _is_command():
            raise
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _is_command() -> bool:
    """Whether this process is the command line, which Python begins with importing the package."""
    (name, *_) = getattr(sys, "argv", []) or [""]
    given = sys.orig_argv
    return os.path.basename(name) in ("bilateral-ops", "bilateral-ops.exe") or (
        name == "-m" and ("-m", "bilateral_ops") in pairwise(given)
    )
