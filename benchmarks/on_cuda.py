"""Every operation on this machine's CUDA device, beside its peers and a copy of the same bytes: `nox -s bench-cuda`.

python benchmarks/on_cuda.py              # prints docs/benchmarks/cuda.md; --write writes it
python benchmarks/on_cuda.py --dry-run    # the same way on the CPU, at a tiny size: checks this file, times no device

Times are the device's own, between two events on the stream. Before each the device is given copies of a large array:
they turn its caches over, and keep it busy while the host puts the call on the stream.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from suite import SIZES, TINY, assert_close, missing

import bilateral_ops
from bilateral_ops.bench import _suite as _bench

REPORT = Path(__file__).parent.parent / "docs" / "benchmarks" / "cuda.md"
PEERS = {"cupy": "CuPy", "torch": "PyTorch"}
ROUNDS = 20
_LARGE = 512 << 20  # bytes: more than any device's caches


class Cuda:
    """The current CUDA device, by CuPy."""

    def __init__(self) -> None:
        import cupy

        self.cupy, self.torch_device = cupy, "cuda"
        self.reference = import_module("bilateral_ops.reference.cupy")
        self.send, self.fetch = cupy.asarray, cupy.asnumpy
        self._large = cupy.zeros(_LARGE, np.uint8), cupy.zeros(_LARGE, np.uint8)
        runtime = cupy.cuda.runtime
        self.about = {
            "device": runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode(),
            "CUDA": f"driver {_version(runtime.driverGetVersion())}; {_kernels()}",
        }

    def seconds(self, function: Callable[[], Any]) -> float:
        start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        for _ in range(3):
            self.copy(*self._large)
        start.record()
        function()
        end.record()
        end.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(start, end)) / 1000

    def copy(self, source: Any, target: Any) -> None:
        target[...] = source

    def bytes(self, count: int) -> Any:
        return self.cupy.zeros(count, np.uint8)


class Host:
    """What stands in for a device in a dry run."""

    def __init__(self) -> None:
        self.torch_device, self.reference = "cpu", None
        self.send = self.fetch = np.asarray
        self.about = {"device": "none: a dry run on the CPU", "CUDA": "none"}

    def seconds(self, function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def copy(self, source: Any, target: Any) -> None:
        target[...] = source

    def bytes(self, count: int) -> Any:
        return np.zeros(count, np.uint8)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _kernels() -> str:
    kernels = import_module("bilateral_ops._cuda")
    return f"{kernels.compiler}, for {kernels.architectures}"


def sent(device: Any, value: Any) -> Any:
    """Arguments, or what ``out`` takes, on the device."""
    if isinstance(value, (np.ndarray, np.generic)):
        return device.send(value)
    if isinstance(value, dict):
        return {name: sent(device, item) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # a guide's parameters
        return type(value)(**{f.name: sent(device, getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value


def fetched(device: Any, returned: Any) -> list[Any]:
    parts = returned if isinstance(returned, (tuple, list)) else (returned,)
    return [
        part.detach().cpu().numpy() if hasattr(part, "detach") else device.fetch(part)
        for part in parts
        if part is not None
    ]


def contenders(device: Any, given: _bench.Problem) -> dict[str, Callable[[], Any]]:
    """What is timed: the package, a copy of the same bytes, and the peers that are there. Answers are checked."""
    there = dataclasses.replace(given, arguments=sent(device, given.arguments))
    half = (given.read + given.written) // 2
    source, target = device.bytes(half), device.bytes(half)
    out = given.out()
    functions = {"bilateral_ops": there.call(bilateral_ops, None if out is None else sent(device, out))}
    if device.reference is not None:
        functions["cupy"] = there.call(device.reference)
    if not missing("torch"):
        prepared = import_module("bilateral_ops.bench._torch").prepare(given, 1, device.torch_device)
        if prepared is not None:
            functions["torch"] = prepared
    for function in functions.values():
        assert_close(fetched(device, function()), given.expected, 1e-4)
    return {**functions, "copy": lambda: device.copy(source, target)}


def measured(device: Any, given: _bench.Problem) -> dict[str, float]:
    """Median seconds of each, all of them called in every round."""
    functions = contenders(device, given)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            times[name].append(device.seconds(function))
    return {name: statistics.median(found) for name, found in times.items()}


def table(device: Any, height: int, width: int) -> str:
    lines = [
        f"## {width} × {height}",
        "",
        "|  | ms | GB/s | ÷ copy | " + " | ".join(PEERS.values()) + " |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(PEERS),
    ]
    for name, backward in _bench.CALLS:
        given = _bench.problem(name, backward, height, width)
        found = measured(device, given)
        own = found["bilateral_ops"]
        cells = [f"`{given}`", f"{own * 1e3:.3g}", f"{(given.read + given.written) / own / 1e9:.0f}"]
        cells.append(f"{own / found['copy']:.2f} ×")
        cells += [f"{found[peer] / own:.3g} ×" if peer in found else "" for peer in PEERS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(device: Any, sizes: dict[str, tuple[int, int]]) -> str:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    about = {
        **device.about,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "package": commit.stdout.strip() or bilateral_ops.__version__,
        "date": datetime.date.today().isoformat(),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in about.items())
    tables = "\n\n".join(table(device, *size) for size in sizes.values())
    return f"""# Benchmarks on a CUDA device

Written by `benchmarks/on_cuda.py` (`nox -s bench-cuda`); don't edit it by hand.

| | |
|---|---|
{rows}

Medians of {ROUNDS} rounds, in each of which everything in a row is called once; between two events on the stream, with
cold caches. Before that each answer is asserted. *GB/s*: the bytes that the call must read and write over its time.
*÷ copy*: times as long as a copy within the device's memory that reads and writes as many bytes together. Peers: times
as long as this package; **CuPy** is `bilateral_ops.reference.cupy`, **PyTorch** `grid_sample` and the affine map
(backward: autograd's part alone). Grids have 16 × 16 × 8 cells of 3 × 4 matrices, guides 16 knots or features; images
are float32 and interleaved (`enhance`: uint8, the curves guide). The package writes into arrays made before.

{tables}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at a tiny size")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1920x1080", "3840x2160"])
    options = parser.parse_args()
    if options.dry_run:
        print(report(Host(), TINY))
        return
    text = report(Cuda(), {name: SIZES[name] for name in options.sizes})
    if options.write:
        REPORT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
