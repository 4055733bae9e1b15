"""``bilateral-ops bench``: every operation beside the streaming bound, the main ones beside peers; or a user's function
beside one of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

import bilateral_ops

from .. import _cpu
from .._core.checks import brief
from .._core.missing import missing
from .._core.settings import MOST_THREADS
from .._core.whole import whole, written
from ..bench._compare import compared, facts, timed
from ..bench._hosts import PAIR, BenchError, Host
from ..bench._report import check_plot
from ..bench._suite import CALLS, available_memory, functions, package, problem, use_threads
from ..ops import OPERATIONS
from . import CommandError

#: Beside these the peers are timed; compiling and running them for all would take minutes.
MAIN = ("slice_apply", "slice_apply_vjp", "enhance")
PEERS = {"numba": "Numba", "torch": "PyTorch"}
SECONDS = 0.5  # a call's rounds, together
#: Bytes per pixel, of the matrices' gradients beside peers; and rows that drawing the arguments takes as much as.
BYTES, ROWS = 500, 20


def run(options: Namespace) -> bool:
    """Time everything, print a table, and write it as JSON where a file is named."""
    head, size, file = _begun(options), options.size, options.json
    rows = []
    step, close = _progress(len(CALLS))
    try:
        for name, backward in CALLS:
            step(f"{name}_vjp" if backward else name)
            rows.append(_measured(name, backward, size))
    finally:
        close()
    print(f"{head}, {_cpu.isa()}; medians\n")
    print(table(rows))
    print("\n× bound: times as long as a loop that only reads and writes the same bytes; peers: times as long as this")
    print("package. float32, interleaved; enhance: uint8 with the curves guide. Grids of 16 × 16 × 8 cells.")
    for name in PEERS:
        if lacking := missing(name, name):
            print(f"Not timed: {lacking}.")
    if lacking := missing("bench", "tqdm"):
        print(f"No progress bar: {lacking}.")
    if file is not None:
        with _writing(file), written(file) as part:
            about = {**facts(Host()), "size": _said(size), "calls": rows}
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return True


def run_one(options: Namespace) -> bool:
    """Time a user's function beside the operation that it is like, and that beside its peers."""
    head, arrays, device, plot = _begun(options), options.arrays, options.device, options.plot
    if (lacking := arrays != "numpy" and missing(arrays, arrays)) or (
        lacking := plot is not None and missing("bench", "matplotlib")
    ):
        raise CommandError(f"bench: {lacking}.")
    if plot is not None:
        try:
            check_plot(plot)
        except ValueError as error:
            raise CommandError(str(error).replace("bench.Report.plot: file", "bench: --plot")) from None
    if device is not None and arrays != "torch":
        raise CommandError("bench: --device is where PyTorch's arrays are; add --arrays torch.")
    if device is not None:
        try:
            import_module("torch").empty(0, device=device)
        except Exception as error:  # of a kind for each kind of device
            said = brief(error, str).partition(". ")[0]
            raise CommandError(f"bench: --device must be one that PyTorch has here, got {device!r} ({said}).") from None
    with _found(options.function) as (called, f, vjp):
        own = options.function.rpartition(":")[2]
        name = options.like or own
        if name not in OPERATIONS:
            got = f", got {options.like}" if options.like else ""
            raise CommandError(
                f"bench: --like must name the operation that {called} is like ({', '.join(OPERATIONS)}){got}."
            )
        use_threads(bilateral_ops.get_num_threads())  # of what the module has imported, too
        operation = OPERATIONS[name]
        problems = {"forward": problem(name, False, *options.size)}
        if options.gradients and operation.vjp:
            problems["gradient"] = problem(name, True, *options.size)
        beside = {}
        if arrays == "numpy":  # whose results are new arrays, as those of the functions are
            for direction, each in problems.items():
                beside[direction] = {PEERS[peer]: call for peer, call in functions(each, tuple(PEERS), out=False)}
        if vjp and "gradient" in problems:
            # As this package's, it isn't told the size of a result, which the gradient has.
            told = [key in problems["gradient"].arguments for key in problems["forward"].arguments] + [True]
            whole_vjp, vjp = vjp, lambda *arguments: whole_vjp(*compress(arguments, told))
        step, close = _progress(len(problems) * (2 + len(beside.get("forward", ()))))
        try:
            # By position: a user's names are their own.
            given = [_sent(value, arrays, device) for value in problems["forward"].arguments.values()]
            report = compared(
                {"bilateral_ops": operation.function, called: (f, vjp)},
                given,
                gradients=options.gradients,
                seconds=SECONDS * (2 + len(beside.get("forward", ()))),
                grad=_sent(problems["gradient"].arguments["grad"], arrays, device) if "gradient" in problems else None,
                beside=beside,
                progress=step,
            )
        except BenchError as error:
            raise CommandError(error) from None
        except (Exception, SystemExit) as error:  # whatever a user's function may raise
            said = f"{_line(f, error)}{type(error).__name__}: {brief(error, str)}"
            raise CommandError(f"bench: {called} cannot be timed with --arrays {arrays} ({said}).") from error
        finally:
            close()
    about = {**report.facts, "like": name, "arrays": arrays, "size": _said(options.size)}
    remedies = {"bilateral_ops": f"{name} has none", called: f"define {own}_vjp beside it"}
    notes = [note.replace(PAIR, remedies[who]) for note in report.notes for who in remedies if f" of {who}: " in note]
    report = replace(report, facts=about, notes=tuple(notes))
    print(f"{name}, {head}, {report.facts['device']}\n")
    print(report)
    print("\n× bound: times as long as the same bytes take; difference: from the first one's results, as a share.")
    if options.json is not None:
        with _writing(options.json):
            report.save(options.json)
    if plot is not None:
        with _writing(plot):
            report.plot(plot)
    return True


def _line(f: Callable[..., Any], error: BaseException) -> str:
    """In which line of its file a function failed, where that is known."""
    file = getattr(getattr(f, "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"line {lines[-1]}: " if lines else ""


@contextmanager
def _found(function: str) -> Iterator[tuple[str, Callable[..., Any], Callable[..., Any] | None]]:
    """What to call the function that ``module:function`` or ``file.py:function`` names, the function, and its VJP,
    ``function_vjp``, or None; the modules beside it can be imported meanwhile.
    """
    module, colon, name = function.rpartition(":")
    if not colon or not module or not name:
        raise CommandError(
            f"bench: the function must be named as module:function or file.py:function, got {function!r}."
        )
    file = Path(module) if module.endswith(".py") else None
    before = list(sys.path)
    # After all others, so that nothing there takes the place of what is installed.
    sys.path.append(str(Path.cwd() if file is None else file.parent.absolute()))
    try:
        try:
            loaded = import_module(module) if file is None else _loaded(file)
        except (Exception, SystemExit) as error:  # whatever a user's module may raise
            said = f"{type(error).__name__}: {brief(error, str)}"
            raise CommandError(f"bench: {function} cannot be imported ({said}).") from error
        if not callable(f := getattr(loaded, name, None)):
            raise CommandError(f"bench: {getattr(loaded, '__file__', module)} has no function {name}.")
        yield f"{file.name if file else module}:{name}", f, getattr(loaded, f"{name}_vjp", None)
    finally:
        sys.path[:] = before


def _loaded(file: Path) -> Any:
    """A file's module, by a name that no other has."""
    name = f"_bilateral_ops_bench_{file.stem}"
    spec: Any = importlib.util.spec_from_file_location(name, file)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # where dataclasses and pickle look
    spec.loader.exec_module(loaded)
    return loaded


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


def _begun(options: Namespace) -> str:
    """Check the options, tell everything timed of the threads, and say size and threads."""
    height, width = size = options.size
    count = bilateral_ops.get_num_threads() if options.threads is None else options.threads
    if not 1 <= count <= MOST_THREADS:
        raise CommandError(f"bench: --threads must be from 1 to {MOST_THREADS}, got {brief(count)}.")
    if BYTES * width * (height + ROWS) > available_memory():
        raise CommandError(f"bench: --size must be of an image that fits in memory, got {_said(size)}.")
    for option in ("json", "plot"):
        if (file := getattr(options, option)) is not None:
            _check_writable(option, file)
    use_threads(count)
    return f"{width} × {height} pixels, {count} thread{'s' * (count > 1)}"


def _check_writable(option: str, file: str) -> None:
    """Try the folder of a file that will be written in the end: what is there stays until then."""
    try:
        if os.path.isdir(file):
            raise IsADirectoryError(0, "Is a directory")
        # What a pipe's name in /dev or /proc leads to cannot be asked: it is no file's name.
        if os.path.isfile(file) or not os.path.exists(file):
            with whole(os.path.realpath(file), keep=False) as trial:
                trial.touch()
    except OSError as error:
        raise CommandError(
            f"bench: --{option} must be a file that can be written, got {file!r} ({error.strerror})."
        ) from None


@contextmanager
def _writing(file: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a disk that has become full
        raise CommandError(f"bench: cannot write {file} ({error.strerror or error}).") from None


def _said(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def table(rows: list[dict[str, Any]]) -> str:
    """One line a call."""
    lines = [f"{'operation':<20} {'ms':>9} {'GB/s':>7} {'× bound':>8}" + "".join(f" {p:>9}" for p in PEERS.values())]
    for row in rows:
        line = f"{row['call']:<20} {row['seconds'] * 1e3:9.3f} {row['gigabytes_per_second']:7.1f} {row['bound']:8.2f}"
        lines.append(line + "".join(f" {f'{row[p]:.1f} ×':>9}" if p in row else " " * 10 for p in PEERS))
    return "\n".join(line.rstrip() for line in lines)


def _measured(name: str, backward: bool, size: tuple[int, int]) -> dict[str, Any]:
    given = problem(name, backward, *size)
    calls = {"bilateral_ops": package(given)}
    if str(given) in MAIN:
        calls.update(functions(given, tuple(PEERS)))
    own, *peers = timed("forward", calls, [], given.read, SECONDS)[0]
    return {
        "call": str(given),
        "seconds": own.seconds,
        "gigabytes_per_second": own.gigabytes_per_second,
        "bound": own.bound,
        **{row.function: row.first for row in peers},
    }


def _progress(total: int) -> tuple[Callable[[str], None], Callable[[], None]]:
    """A step and the end of a bar on standard error where that is a terminal; nothing elsewhere or without tqdm."""
    if missing("bench", "tqdm") or not sys.stderr.isatty():
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
