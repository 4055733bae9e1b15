"""The short form, ``bilateral-ops bench``: every operation beside the streaming bound, the main ones beside peers."""

from __future__ import annotations

import json
import platform
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bilateral_ops

from ... import _cpu
from ..._core.checks import brief
from ..._core.missing import install
from ..._core.settings import MOST_THREADS
from .. import CommandError
from . import (
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

#: Beside these the peers are timed; compiling and running them for all would take minutes.
MAIN = ("slice_apply", "slice_apply_vjp", "enhance")
PEERS = {"numba": "Numba", "torch": "PyTorch"}
SECONDS = 0.5  # a call's rounds, together
#: Bytes per pixel, of the matrices' gradients beside peers; and rows that drawing the arguments takes as much as.
BYTES, ROWS = 500, 20


def run(size: str, threads: int | None, file: str | None) -> bool:
    """Time everything, print a table, and write it as JSON where a file is named."""
    width, height = _size(size)
    count = bilateral_ops.get_num_threads() if threads is None else threads
    if not 1 <= count <= MOST_THREADS:
        raise CommandError(f"bench: --threads must be from 1 to {MOST_THREADS}, got {brief(count)}.")
    if BYTES * width * (height + ROWS) > available_memory():
        raise CommandError(f"bench: --size must be of an image that fits in memory, got {size!r}.")
    use_threads(count)
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
