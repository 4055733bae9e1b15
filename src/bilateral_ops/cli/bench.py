"""``bilateral-ops bench``: every operation beside the streaming bound, the main ones beside peers; or a user's function
beside one of them.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import bilateral_ops

from .. import _cpu
from .._core.checks import brief
from .._core.missing import install
from .._core.settings import MOST_THREADS
from ..bench import Report
from ..bench._compare import Given, facts, host_of, prepared, timed
from ..bench._suite import (
    CALLS,
    available_memory,
    elapsed,
    functions,
    missing,
    package,
    problem,
    rounds_within,
    streaming,
    use_threads,
)
from ..ops import OPERATIONS
from . import CommandError

#: Beside these the peers are timed; compiling and running them for all would take minutes.
MAIN = ("slice_apply", "slice_apply_vjp", "enhance")
PEERS = {"numba": "Numba", "torch": "PyTorch"}
SECONDS = 0.5  # a call's rounds, together
#: Bytes per pixel, of the matrices' gradients beside peers; and rows that drawing the arguments takes as much as.
BYTES, ROWS = 500, 20


def run(size: str, threads: int | None, file: str | None) -> bool:
    """Time everything, print a table, and write it as JSON where a file is named."""
    width, height, count = _settings(size, threads)
    if file is not None:
        _write(file, "")  # tried before anything is computed
    rows = []
    step, close = _progress(len(CALLS))
    try:
        for name, backward in CALLS:
            step(f"{name}_vjp" if backward else name)
            rows.append(_measure(name, backward, height, width))
    finally:
        close()
    facts = {
        "version": bilateral_ops.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "isa": _cpu.isa(),
        "threads": count,
        "size": f"{width}x{height}",
    }
    print(f"{width} × {height} pixels, {count} thread{'s' * (count > 1)}, {_cpu.isa()}; medians\n")
    print(table(rows))
    print("\n× bound: times as long as a loop that only reads and writes the same bytes; peers: times as long as this")
    print("package. float32, interleaved; enhance: uint8 with the curves guide. Grids of 16 × 16 × 8 cells.")
    for name in PEERS:
        if reason := missing(name):
            print(f"Not timed: {reason}.")
    if missing("tqdm"):
        print(f"No progress bar: tqdm is not installed ({install('bench')}).")
    if file is not None:
        _write(file, json.dumps({**facts, "calls": rows}, indent=1) + "\n")
    return True


def run_one(
    function: str,
    like: str | None,
    arrays: str,
    device: str | None,
    gradients: bool,
    size: str,
    threads: int | None,
    file: str | None,
    plot: str | None,
) -> bool:
    """Time a user's function beside the operation that it is like, and that beside its peers."""
    f, vjp = _found(function)
    name = like or function.rpartition(":")[2]
    if name not in OPERATIONS:
        choice = ", ".join(OPERATIONS)
        raise CommandError(f"bench: --like must name an operation that {function} is like ({choice}), got {like}.")
    if lacking := arrays != "numpy" and missing(arrays):
        raise CommandError(f"bench: {lacking}.")
    if plot is not None and (lacking := missing("matplotlib")):
        raise CommandError(f"bench: {lacking}.")
    width, height, count = _settings(size, threads)
    if arrays == "torch":
        import_module("torch").set_num_threads(count)
    if file is not None:
        _write(file, "")
    operation = OPERATIONS[name]
    problems = [problem(name, back, height, width) for back in (False, True)[: 1 + bool(gradients and operation.vjp)]]
    given = Given({key: _sent(value, arrays, device) for key, value in problems[0].arguments.items()})
    host = host_of(given.leaves)
    try:
        given_functions: Any = {"bilateral_ops": operation.function, function: (f, vjp) if vjp else f}
        grad = _sent(problems[-1].arguments.get("grad"), arrays, device)
        forward, backward, read = prepared(given_functions, given, host, len(problems) > 1, grad)
        rows = []
        for each in problems:
            calls = dict(backward if each.backward else forward)
            if arrays == "numpy":
                calls |= {PEERS[peer]: call for peer, call in functions(each, tuple(PEERS))}
            direction, moved = ("gradient", read) if each.backward else ("forward", given.bytes)
            rows += timed(direction, calls, moved, host, SECONDS * len(calls))
    except Exception as error:  # whatever a user's function may raise
        if str(error).startswith("bench: "):
            raise CommandError(error) from None
        said = f"{type(error).__name__}: {brief(error, str)}"
        raise CommandError(f"bench: {function} cannot be timed ({said}).") from error
    report = Report(tuple(rows), {**facts(host), "like": name, "arrays": arrays, "size": f"{width}x{height}"})
    print(f"{name}, {width} × {height} pixels, {report.facts['device']}, {count} thread{'s' * (count > 1)}\n")
    print(report)
    print("\n× bound: times as long as the same bytes take; difference: from the first one's results, as a share.")
    if file is not None:
        _write(file, report.to_json())
    if plot is not None:
        try:
            report.plot(plot)
        except (OSError, ValueError) as error:
            raise CommandError(
                f"bench: --plot must be a picture that can be written, got {plot!r} ({error})."
            ) from None
    return True


def _found(function: str) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """The function that ``module:function`` or ``file.py:function`` names, and its VJP, ``function_vjp``, or None."""
    module, colon, name = function.rpartition(":")
    if not colon or not module or not name:
        raise CommandError(
            f"bench: the function must be named as module:function or file.py:function, got {function!r}."
        )
    file = Path(module)
    sys.path.insert(0, str(file.parent if file.suffix == ".py" else Path.cwd()))
    try:
        loaded = import_module(file.stem if file.suffix == ".py" else module)
        return getattr(loaded, name), getattr(loaded, f"{name}_vjp", None)
    except Exception as error:  # whatever a user's module may raise
        raise CommandError(
            f"bench: {function} cannot be imported ({type(error).__name__}: {brief(error, str)})."
        ) from error
    finally:
        del sys.path[0]


def _sent(value: Any, arrays: str, device: str | None) -> Any:
    """An argument as an array of that framework, a record of arrays too."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: _sent(getattr(value, item.name), arrays, device) for item in fields(value)})
    if not isinstance(value, np.ndarray) or arrays == "numpy":
        return value
    framework: Any = import_module(arrays)
    if arrays == "torch":
        return framework.tensor(value, device=device)
    return framework.numpy.asarray(value) if arrays == "jax" else framework.asarray(value)


def _settings(size: str, threads: int | None) -> tuple[int, int, int]:
    """Width, height and threads, which everything timed is told of."""
    width, height = _size(size)
    count = bilateral_ops.get_num_threads() if threads is None else threads
    if not 1 <= count <= MOST_THREADS:
        raise CommandError(f"bench: --threads must be from 1 to {MOST_THREADS}, got {brief(count)}.")
    if BYTES * width * (height + ROWS) > available_memory():
        raise CommandError(f"bench: --size must be of an image that fits in memory, got {size!r}.")
    use_threads(count)
    return width, height, count


def table(rows: list[dict[str, Any]]) -> str:
    """One line a call."""
    lines = [f"{'operation':<20} {'ms':>9} {'GB/s':>7} {'× bound':>8}" + "".join(f" {p:>9}" for p in PEERS.values())]
    for row in rows:
        line = f"{row['call']:<20} {row['seconds'] * 1e3:9.3f} {row['gigabytes_per_second']:7.1f} {row['bound']:8.2f}"
        lines.append(line + "".join(f" {f'{row[p]:.1f} ×':>9}" if p in row else " " * 10 for p in PEERS))
    return "\n".join(line.rstrip() for line in lines)


def _measure(name: str, backward: bool, height: int, width: int) -> dict[str, Any]:
    given = problem(name, backward, height, width)
    timed = {"package": package(given), "bound": streaming(given.read, given.written)}
    if str(given) in MAIN:
        timed.update(functions(given, tuple(PEERS)))
    for function in timed.values():
        function()  # warm-up, compilation included
    times: dict[str, list[float]] = {who: [elapsed(function)] for who, function in timed.items()}
    for _ in range(rounds_within(SECONDS, sum(first for (first,) in times.values())) - 1):
        for who, function in timed.items():
            times[who].append(elapsed(function))
    own = times.pop("package")
    seconds = statistics.median(own)
    return {
        "call": str(given),
        "seconds": seconds,
        "gigabytes_per_second": (given.read + given.written) / seconds / 1e9,
        "bound": statistics.median(a / b for a, b in zip(own, times.pop("bound"))),
        **{who: statistics.median(b / a for a, b in zip(own, others)) for who, others in times.items()},
    }


def _size(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,999})[x×]([1-9]\d{0,999})", size)
    if not match:
        raise CommandError(f"bench: --size must be WIDTHxHEIGHT, such as 1920x1080, got {size!r}.")
    return int(match[1]), int(match[2])


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"bench: --json must be a file that can be written, got {file!r} ({error.strerror})."
        ) from None


def _progress(total: int) -> tuple[Callable[[str], None], Callable[[], None]]:
    """A step and the end of a bar on standard error where that is a terminal; nothing elsewhere or without tqdm."""
    if missing("tqdm") or not sys.stderr.isatty():
        return (lambda what: None), (lambda: None)
    from tqdm import tqdm

    bar = tqdm(total=total, file=sys.stderr, leave=False, bar_format="{desc:<20} {percentage:3.0f}% |{bar}| {elapsed}")
    started = False

    def step(what: str) -> None:
        nonlocal started
        bar.update(started)
        started = True
        bar.set_description_str(what)

    return step, bar.close
