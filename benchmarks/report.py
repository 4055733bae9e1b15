"""Writes docs/benchmarks/ and the README's summary from the results of `nox -s bench`.

python benchmarks/report.py FILE.json    # pytest-benchmark's file; keeps the medians in docs/benchmarks/results.json
python benchmarks/report.py FILE.json --add  # replaces only the rows in FILE; they are marked with their commit
python benchmarks/report.py FILE.json --machine NAME  # another machine: docs/benchmarks/NAME/, not the README
python benchmarks/report.py              # writes everything again from every results.json
python benchmarks/report.py --check      # writes nothing; exit code 1 if a text is not what it would write
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "benchmarks"
KEPT = "results.json"
MARKS = ("<!-- benchmarks: begin -->", "<!-- benchmarks: end -->")

PEERS = {"numba": "Numba", "halide": "Halide", "torch": "PyTorch", "jax": "JAX", "numpy": "NumPy"}
MAIN = ("slice", "slice_apply", "slice_apply_vjp", "enhance")
SMALL, LARGE = "1920x1080", "4000x3000"


@dataclass(frozen=True)
class Target:
    """A target. ``of``: a peer (how many times faster), or one of the figures in ``measured``."""

    call: str
    of: str
    bound: float
    aim: float | None = None
    sizes: tuple[str, ...] = (SMALL, LARGE)


TARGETS = (
    Target("slice_apply", "streaming", 2.0, 1.5),
    Target("slice_apply", "torch", 80),
    Target("slice_apply", "halide", 4, 8),
    Target("slice_apply", "numba", 6, 12),
    Target("slice_apply_vjp", "streaming", 3.0, 2.0),
    Target("slice_apply_vjp", "torch", 100),
    Target("slice", "streaming", 1.4),
    Target("enhance", "frames", 60, 100, ("3840x2160",)),
    Target("enhance", "torch", 150, None, ("3840x2160",)),
    *(Target(call, "avx2", 2.0, None, (SMALL,)) for call in MAIN),
    *(Target(call, "growth", 25, None, ("",)) for call in MAIN),
    *(Target(call, "memory", 4, None, ("",)) for call in ("slice_apply", "slice_apply_vjp", "enhance")),
    Target("training step", "training", 80, None, (SMALL,)),
    Target("training step", "training memory", 0.2, None, (SMALL,)),
    Target("lib_bilagrid step", "training", 50, None, (SMALL,)),
    Target("hdrnet", "frames of hdrnet", 60, 100, (SMALL,)),
    Target("hdrnet", "frames of hdrnet", 30, None, ("3840x2160",)),
    Target("slice_apply", "overhead in PyTorch", 60, None, ("16x16",)),
    Target("slice_apply", "overhead in JAX", 40, None, ("16x16",)),
)
AIMED_AT_AVX512 = """
The targets are for a processor with AVX-512, which this one does not have.
"""
#: The name of each figure, its unit, and whether less is better.
FIGURES = {
    "streaming": ("time ÷ streaming bound", "", True),
    "frames": ("frames per second", "", False),
    "frames of hdrnet": ("the whole pipeline, frames per second", "", False),
    "avx2": ("AVX2 time ÷ AVX-512 time", "", True),
    "growth": ("time per pixel, 1 to 100 megapixels: varies by", " %", True),
    "memory": ("memory beside inputs and outputs", " MiB", True),
    "training": ("times faster than with grid_sample, in PyTorch", "", False),
    "training memory": ("peak memory ÷ that with grid_sample, in PyTorch", "", True),
    "overhead in PyTorch": ("a call from PyTorch", " µs", True),
    "overhead in JAX": ("a compiled call from JAX", " µs", True),
    **{peer: (f"times faster than {name}", "", False) for peer, name in PEERS.items()},
}


class Results:
    """The rows of results.json, found by their fields. A row with a commit was measured at that one, later."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.machine, self.date, self.rows = kept["machine"], kept["date"], kept["rows"]

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def one(self, **wanted: Any) -> dict[str, Any] | None:
        return next(iter(self.find(**wanted)), None)

    def package(self, call: str, size: str) -> dict[str, Any] | None:
        return self.one(call=call, size=size, peer="bilateral_ops")

    def sizes(self) -> list[str]:
        return list(dict.fromkeys(row["size"] for row in self.rows if "peer" in row))

    def calls(self) -> list[str]:
        return list(dict.fromkeys(row["call"] for row in self.rows if "peer" in row))

    def faster(self, call: str, size: str, peer: str) -> float | None:
        """How many times as long as the package a peer takes."""
        row = self.one(call=call, size=size, peer=peer)
        return row["beside"]["bilateral_ops"]["ratio"] if row else None

    def measured(self, call: str, of: str, size: str) -> float | None:
        """A target's figure."""
        if of in PEERS:
            return self.faster(call, size, of)
        if of == "memory":
            return max((row["added"] / 2**20 for row in self.find(scan="memory", call=call)), default=None)
        if of == "training":
            row = self.one(scan=of, call=call, way="torch", size=size)
            return row["beside"]["bilateral_ops"]["ratio"] if row else None
        if of == "training memory":
            ours, theirs = (self.one(scan=of, call=call, way=way, size=size) for way in ("bilateral_ops", "torch"))
            return ours["added"] / theirs["added"] if ours and theirs else None
        if of == "frames of hdrnet":
            row = self.one(scan="hdrnet", call=call, way="bilateral_ops", size=size)
            return 1 / row["seconds"] if row else None
        if of.startswith("overhead"):
            row = self.one(scan=of, call=call, size=size)
            return 1e6 * row["seconds"] / row["calls"] if row else None
        if of == "avx2":
            threads = self.machine["threads"]
            row = self.one(scan="settings", call=call, isa="avx2", threads=threads)
            best = self.one(scan="settings", call=call, isa="avx512", threads=threads)
            return row["beside"]["best"]["ratio"] if row and best else None
        if of == "growth":
            rows = [row for row in self.find(scan="pixels", call=call) if row["pixels"] > 9e5]
            pixels = [row["pixels"] for row in rows]
            if not pixels or max(pixels) < 9e7 or min(pixels) > 2e6:
                return None  # a scan that was cut short
            times = [row["seconds"] / row["pixels"] for row in rows]
            return 100 * (max(times) / min(times) - 1)
        row = self.package(call, size)
        if row is None:
            return None
        return 1 / row["seconds"] if of == "frames" else row["beside"]["streaming"]["ratio"]


# --- results.json


def keep(measured: dict[str, Any]) -> dict[str, Any]:
    """The medians in a file of pytest-benchmark."""
    rows = []
    for benchmark in measured["benchmarks"]:
        row = {**benchmark["extra_info"], "rounds": benchmark["stats"]["rounds"]}
        if "added" not in row:
            row["seconds"] = benchmark["stats"]["median"]
        rows.append(_rounded(row))
    return {"machine": measured["machine_info"], "date": measured["datetime"][:10], "rows": rows}


def added(kept: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The kept rows, those that were measured again replaced, and new ones at the end."""

    def what(row: dict[str, Any]) -> str:
        """Identifies a row's benchmark: the fields that are not measured."""
        named = {k: v for k, v in row.items() if k not in ("seconds", "added", "rounds", "beside", "commit")}
        return json.dumps(named, sort_keys=True)

    commit = new["machine"]["commit"]
    mark = {} if commit == kept["machine"]["commit"] else {"commit": commit}
    measured = {what(row): {**row, **mark} for row in new["rows"]}
    rows = [measured.pop(what(row), row) for row in kept["rows"]]
    return {**kept, "rows": [*rows, *measured.values()]}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def written(kept: dict[str, Any]) -> str:
    """As JSON, one row per line."""
    rows = ",\n".join("  " + json.dumps(row) for row in kept["rows"])
    head = json.dumps({key: value for key, value in kept.items() if key != "rows"}, indent=1)[:-2]
    return f'{head},\n "rows": [\n{rows}\n ]\n}}\n'


# --- tables


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, sign: str = "") -> str:
    """Three significant digits."""
    if value is None:
        return ""
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2
    return f"{value:.{digits}f}{sign}"


def milliseconds(row: dict[str, Any] | None) -> str:
    return (
        f"{row['seconds'] * 1e3:.3g}" if row and row["seconds"] < 0.1 else f"{row['seconds'] * 1e3:.0f}" if row else ""
    )


def per_pixel(row: dict[str, Any]) -> float:
    """Nanoseconds."""
    return float(1e9 * row["seconds"] / row["pixels"])


def marked(text: str, *rows: dict[str, Any] | None) -> str:
    """With the commits of rows that were measured at another one than the rest."""
    commits = {row["commit"] for row in rows if row and "commit" in row}
    return f"{text} ({', '.join(sorted(commits))})" if commits else text


def summary(results: Results) -> str:
    """The main calls: for the README."""
    rows = []
    for call in MAIN:
        if row := results.package(call, SMALL):
            peers = [number(results.faster(call, SMALL, peer), " ×") for peer in ("numba", "halide", "torch", "jax")]
            name = marked(f"`{call}`", *results.find(call=call, size=SMALL, scan=None))
            rows.append([name, milliseconds(row), number(per_pixel(row)), *peers])
    return table(["", "ms", "ns per pixel", "Numba", "Halide", "PyTorch", "JAX"], rows)


def operations(results: Results, size: str) -> str:
    """Every call at one size, with all of its peers."""
    rows = []
    for call in results.calls():
        if row := results.package(call, size):
            bound = row["beside"]["streaming"]
            figures = ["" if call.startswith("total_variation") else number(per_pixel(row))]  # of a grid alone
            figures += [number(row["bytes"] / row["seconds"] / 1e9)]
            figures += [milliseconds(bound), number(bound["ratio"], " ×")]
            peers = [number(results.faster(call, size, peer), " ×") for peer in PEERS]
            name = marked(f"`{call}`", *results.find(call=call, size=size, scan=None))
            rows.append([name, milliseconds(row), *figures, *peers])
    return table(["", "ms", "ns per pixel", "GB/s", "bound, ms", "÷ bound", *PEERS.values()], rows)


def targets(results: Results) -> str:
    rows = []
    for target in TARGETS:
        what, sign, less = FIGURES[target.of]
        for size in target.sizes:
            value = results.measured(target.call, target.of, size)
            compared = "≤" if less else "≥"
            wanted = f"{compared} {target.bound:g}{sign}" + (f" (aim {target.aim:g})" if target.aim else "")
            met = "not measured" if value is None else "yes" if (value <= target.bound) == less else "**no**"
            rows.append([f"`{target.call}`, {what}", pretty(size), wanted, number(value, sign), met])
    return table(["", "size", "wanted", "measured", "met"], rows)


def losses(results: Results) -> str:
    """Where a peer takes less time than the package."""
    found = []
    for call in results.calls():
        for size in results.sizes():
            for peer, name in PEERS.items():
                if (ratio := results.faster(call, size, peer)) is not None and ratio < 1:
                    what = marked(f"`{call}` at {pretty(size)}", results.one(call=call, size=size, peer=peer))
                    found.append(f"- {what}: {name} takes {number(ratio)} of the package's time.")
    for row in results.find(scan="shapes"):
        if (ratio := _numba(row)) < 1:
            what = marked(f"`{row['call']}`, {row['shape']}, {row['dtype']}, {pretty(row['size'])}, one thread", row)
            found.append(f"- {what}: Numba takes {number(ratio)} of the package's time.")
    return "\n".join(found) or "None."


def _numba(row: dict[str, Any]) -> float:
    """Numba's time divided by the package's, in a row of shapes."""
    return 1 / float(row["beside"]["numba"]["ratio"])


def shapes(results: Results) -> str:
    """Beside Numba, whatever the shape."""
    rows = []
    measured = results.find(scan="shapes")
    for call in dict.fromkeys(row["call"] for row in measured):
        cases = sorted((row for row in measured if row["call"] == call), key=_numba)
        least = cases[0]
        where = f"{least['shape']}, {least['dtype']}, {pretty(least['size'])}"
        median = statistics.median(map(_numba, cases))
        name = marked(f"`{call}`", *cases)
        rows.append([name, str(len(cases)), number(median, " ×"), number(_numba(least), " ×"), where])
    if not rows:
        return ""
    sizes = " and ".join(pretty(size) for size in dict.fromkeys(row["size"] for row in measured))
    return f"""## Other shapes

Numba's time divided by this package's, on one thread, {sizes} pixels: matrices and channels of other sizes, shallow
and deep grids, grids as large as the image, explicit coordinates, channels first, crops, few and many knots.

{table(["", "cases", "median", "least", "where"], rows)}

"""


def pixels(results: Results) -> str:
    scans = {call: results.find(scan="pixels", call=call) for call in MAIN}
    labels = list(dict.fromkeys(row["size"] for rows in scans.values() for row in rows))
    rows = []
    for label in labels:
        line = [pretty(label)]
        for call in MAIN:
            row = next((row for row in scans[call] if row["size"] == label), None)
            line.append(marked(f"{milliseconds(row)} ms, {number(per_pixel(row))} ns", row) if row else "")
        rows.append(line)
    return table(["", *(f"`{call}`" for call in MAIN)], rows)


def settings(results: Results) -> str:
    kinds = list(dict.fromkeys((row["isa"], row["threads"]) for row in results.find(scan="settings")))
    rows = []
    for call in results.calls():
        measured = [results.one(scan="settings", call=call, isa=isa, threads=n) for isa, n in kinds]
        rows.append([marked(f"`{call}`", *measured), *map(milliseconds, measured)])
    return table(["ms", *(f"{isa}, {n} thread{'s' * (n > 1)}" for isa, n in kinds)], rows)


def memory(results: Results) -> str:
    measured = results.find(scan="memory")
    calls = list(dict.fromkeys(row["call"] for row in measured))
    cases = list(dict.fromkeys((row["size"], row["dtype"], row["layout"]) for row in measured))
    rows = []
    for size, dtype, layout in cases:
        found = [results.one(scan="memory", call=call, size=size, dtype=dtype, layout=layout) for call in calls]
        cells = [f"{row['added'] / 2**20:.2f}" if row else "" for row in found]
        rows.append([marked(f"{pretty(size)}, {dtype}, {layout}", *found), *cells])
    return table(["MiB", *(f"`{call}`" for call in calls)], rows)


def training(results: Results) -> str:
    """The training steps in PyTorch, with this package and without it."""
    rows = []
    for call in dict.fromkeys(row["call"] for row in results.find(scan="training")):
        for way, name in {"bilateral_ops": "this package", "torch": "`grid_sample`"}.items():
            time, space = (results.one(scan=scan, call=call, way=way) for scan in ("training", "training memory"))
            ratio = time["beside"]["bilateral_ops"]["ratio"] if time and way == "torch" else None
            added = number(space["added"] / 2**20) if space else ""
            rows.append([marked(f"{call}, {name}", time, space), milliseconds(time), number(ratio, " ×"), added])
    return table(["", "ms", "time", "MiB"], rows)


#: The scans of tiny images, and what is timed in each.
TINY_CALLS = {
    "overhead in PyTorch": {
        "": "from PyTorch",
        "torch": "PyTorch's own part: allocating the result and passing four tensors",
        "numpy": "from NumPy",
    },
    "overhead in JAX": {
        "": "from JAX, compiled",
        "jax": "JAX's own part: a compiled sum",
        "not compiled": "from JAX, not compiled",
    },
}


def hdrnet(results: Results) -> str:
    """HDRnet's whole pipeline, with this package and without it."""
    rows = []
    for row in results.find(scan="hdrnet", way="bilateral_ops"):
        parts = [f"{milliseconds(part)}" for part in row["beside"].values()]
        other = results.one(scan="hdrnet", way="torch", size=row["size"])
        ratio = number(other["beside"]["bilateral_ops"]["ratio"], " ×") if other else ""
        size = marked(pretty(row["size"]), row, other)
        rows.append([size, *parts, milliseconds(row), number(1 / row["seconds"]), ratio])
    return table(["ms", "reduce", "network", "guide, slice, apply", "all", "frames per second", "PyTorch"], rows)


def overhead(results: Results) -> str:
    rows = []
    for scan, names in TINY_CALLS.items():
        if (row := results.one(scan=scan)) is None:
            continue
        for name, text in names.items():
            seconds = (row["beside"][name] if name else row)["seconds"]
            rows.append([marked(text, row), number(1e6 * seconds / row["calls"])])
    return table(["", "µs"], rows)


def bound(results: Results) -> str:
    rows = []
    for row in results.find(scan="bound"):
        copy = row["beside"]["copy"]
        rows.append([marked(pretty(row["size"]), row), milliseconds(row), milliseconds(copy), number(copy["ratio"])])
    return table(["", "bound, ms", "copy, ms", "ratio"], rows)


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 120 columns."""
    return "\n".join(textwrap.wrap(text, 120))


def pretty(size: str) -> str:
    return size.replace("x", " × ")


# --- texts


def readme(results: Results, text: str) -> str:
    """The project's README with its summary between the marks."""
    machine = results.machine
    said = (
        f"At {pretty(SMALL)}, float32 (`enhance`: uint8, curves guide), with a grid of 16 × 16 × 8 matrices of 3 × 4, "
        f"on {machine['threads']} threads of {machine['cpu']} ({machine['isa']}). Peer columns: the peer's time "
        f"divided by this package's. Measured on {results.date} at commit {machine['commit']}. "
        f"[All sizes and operations, and how they are measured](docs/benchmarks/README.md)."
    )
    made = f"""{MARKS[0]}
{summary(results)}

{wrapped(said)}

{steps(results)}{pipeline(results)}![Time of every operation beside its peers](docs/benchmarks/time.png)
{MARKS[1]}"""
    before, _, rest = text.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"report.py: README.md must hold the lines {MARKS[0]} and {MARKS[1]}.")
    return before + made + after


def steps(results: Results) -> str:
    """A sentence on each training step."""
    texts = {
        "training step": "A training step in PyTorch (guide, slice, apply, forward and backward)",
        "lib_bilagrid step": "one of a radiance field's grids (`lib_bilagrid`)",
    }
    said = []
    for call, what in texts.items():
        time, space = (results.measured(call, of, SMALL) for of in ("training", "training memory"))
        if time is None or space is None:
            return ""
        said.append(
            f"{what} is {number(time)} times as fast as with `grid_sample` and takes {100 * space:.0f} % of its memory"
        )
    return wrapped("; ".join(said) + ".") + "\n\n"


def pipeline(results: Results) -> str:
    """A sentence on HDRnet's whole pipeline."""
    row, other = (results.one(scan="hdrnet", way=way, size=SMALL) for way in ("bilateral_ops", "torch"))
    if row is None or other is None:
        return ""
    text = (
        f"HDRnet's whole pipeline (`hdrnet.Predictor`: reduce, network, guide, slice, apply; uint8 in and out) takes "
        f"{milliseconds(row)} ms, {number(1 / row['seconds'])} frames per second; the same model in PyTorch, with "
        f"`grid_sample`, takes {number(other['beside']['bilateral_ops']['ratio'])} times as long."
    )
    return wrapped(text) + "\n\n"


def others(machines: dict[str, Results]) -> str:
    """Links to the pages of machines by the names of their folders."""
    links = [
        f"[{each.machine['cpu']}, {each.machine['threads']} threads, {each.machine['isa']}]({name}/README.md)"
        for name, each in machines.items()
    ]
    return f"\nThe same on other machines: {'; '.join(links)}.\n" if links else ""


def page(results: Results, elsewhere: dict[str, Results]) -> str:
    """A folder's README.md; `elsewhere` are the results in folders within it."""
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    commits = sorted({row["commit"] for row in results.rows if "commit" in row})
    again = f" (rows marked {', '.join(commits)}: at that commit)" if commits else ""
    said = (
        f"Measured on {results.date} at commit {machine['commit']}{again}; later changes are not in these figures. "
        "Written by `benchmarks/report.py` from the results of `nox -s bench`."
    )
    sizes = "\n\n".join(f"### {pretty(size)}\n\n{operations(results, size)}" for size in results.sizes())
    return f"""# Benchmarks

{wrapped(said)}

| | |
|---|---|
| processor | {machine["cpu"]}, {machine["threads"]} threads, {machine["isa"]} |
| system | {machine["system"]}, {machine["compiler"]} |
| versions | {versions} |
{others(elsewhere)}
## How it is measured

Everything runs in one process on the same number of threads. Each round of a benchmark calls the package, the streaming
bound and the peer in turn. Times are medians, and ratios are medians of the ratios within rounds. Before timing, the
package's result is compared with the NumPy specification, and each peer's with the package's. Grids have 16 × 16 × 8
cells of 3 × 4 matrices, guides have 16 knots or features; images are float32 and interleaved (`enhance`: uint8, the
curves guide). The package and the Numba loops write into preallocated arrays.

- **Streaming bound**: a loop, compiled by Numba, that reads as many bytes as the arguments have and writes as many as
  the results have, on as many threads. [Below](#the-streaming-bound-beside-a-copy) it is compared with NumPy's copy.
  The ratio says little for `enhance`, which is limited by arithmetic, and for small images, for which the loop runs in
  a cache. How time grows with the image is therefore given in nanoseconds per pixel.
- **Numba**: `bilateral_ops.reference.numba`, what one would write without this package.
- **Halide**: `slice_apply`, the fastest of several schedules written by hand.
- **PyTorch**: `grid_sample` and the affine map, on channels-first images. Backward is autograd's backward pass without
  the forward pass.
- **JAX**: a gather of the eight corners and their weighted sum, compiled as a whole. Backward is `jax.vjp`, compiled as
  a whole. XLA uses as many threads as the machine has processors, unless `NPROC` says less.
- **NumPy**: the specification, in float64, which is not optimised.

## Targets
{"" if machine["isa"] == "avx512" else AIMED_AT_AVX512}
{targets(results)}

## Where a peer is faster

{losses(results)}

## Every operation beside its peers

Peer columns: the peer's time divided by this package's.

{sizes}

![Time of every operation beside its peers](time.png)

![Gigabytes per second of the main operations beside the streaming bound](bandwidth.png)

## From 0.1 to 100 megapixels

Milliseconds, and nanoseconds per pixel.

{pixels(results)}

![Nanoseconds per pixel, by the number of pixels](pixels.png)

## Threads and instruction sets

{pretty(SMALL)} pixels.

{settings(results)}

![Time by threads and instruction set](threads.png)

{shapes(results)}## Memory

What a call adds to the peak memory of its process, in addition to inputs and outputs.

{memory(results)}

## In PyTorch

Training steps at {pretty(SMALL)}, batch 1, and what they add to the peak memory of their process. *Training step*:
`guide_curves`, then `slice_apply`, channels first, forward and backward, with gradients of the grid and of the guide's
parameters. *lib_bilagrid step*: one view's grid of a radiance field, sampled at a mesh of pixel centres and applied,
and the total variation of the grids, forward and backward, with gradients of the grids and of the colours.

{training(results)}

## HDRnet

`hdrnet.Predictor` with a network of the default size, uint8 in and out. *PyTorch*: the time of the same model with
PyTorch's convolutions and `grid_sample`, divided by this package's. The parts are timed separately, so that they do not
quite add up to *all*.

{hdrnet(results)}

## Tiny images

One call of `slice_apply` with 16 × 16 pixels, without gradients:

{overhead(results)}

## The streaming bound beside a copy

The streaming bound of `slice_apply` beside `numpy.copyto` of as many bytes, half read and half written, on as many
threads.

{bound(results)}
"""


# --- plots

INK, FAINT = "#1d2330", "#6b7280"
#: Okabe and Ito's colours, which stay apart for the colour-blind; shapes tell the series apart, too.
SERIES = {
    "bilateral_ops": ("this package", "#0072b2", "o"),
    "numba": ("Numba", "#e69f00", "s"),
    "halide": ("Halide", "#009e73", "D"),
    "torch": ("PyTorch", "#d55e00", "^"),
    "jax": ("JAX", "#cc79a7", "v"),
    "numpy": ("NumPy", "#8d93a0", "X"),
}
STYLE: Any = {
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "grid.color": "#e3e5ea",
}


def draw(results: Results, folder: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    plots = {
        "time": (plot_time, 7.2),
        "bandwidth": (plot_bandwidth, 6.2),
        "pixels": (plot_pixels, 4.6),
        "threads": (plot_threads, 4.6),
    }
    for name, (plot, height) in plots.items():
        with matplotlib.rc_context(STYLE):
            figure: Any = Figure(figsize=(10, height), layout="constrained", facecolor="white")
            plot(results, figure.subplots())
            figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


def _rows(axes: Any, calls: list[str]) -> None:
    axes.set_yticks(range(len(calls)), calls, family="monospace", fontsize=10)
    axes.set_ylim(len(calls) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _logarithmic(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Any, columns: int) -> None:
    place: Any = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "ncols": columns}
    axes.legend(**place, frameon=False, fontsize=10, handletextpad=0.2, columnspacing=1.1)


def plot_time(results: Results, axes: Any) -> None:
    calls = results.calls()
    for y, call in enumerate(calls):
        times = [row["seconds"] * 1e3 for row in results.find(call=call, size=SMALL) if "peer" in row]
        if times:
            axes.plot([min(times), max(times)], [y, y], color="#d5d8de", linewidth=1.5, zorder=1)
    bounds = [(results.package(call, SMALL), y) for y, call in enumerate(calls)]
    axes.scatter(
        [row["beside"]["streaming"]["seconds"] * 1e3 for row, _ in bounds if row],
        [y for row, y in bounds if row],
        marker="|", s=170, color=INK, linewidths=2, label="streaming bound", zorder=2,
    )  # fmt: skip
    for peer, (name, color, marker) in SERIES.items():
        points = [(row["seconds"] * 1e3, calls.index(row["call"])) for row in results.find(size=SMALL, peer=peer)]
        if points:
            first = peer == "bilateral_ops"
            axes.scatter(
                *zip(*points), marker=marker, s=75 if first else 45, color=color, label=name, zorder=4 if first else 3,
                edgecolors="white", linewidths=0.7,
            )  # fmt: skip
    axes.set_xscale("log")
    _logarithmic(axes.xaxis)
    _rows(axes, calls)
    _legend(axes, 7)
    axes.set_xlabel(f"milliseconds, {pretty(SMALL)} pixels, {results.machine['threads']} threads (left is better)")
    axes.set_title("Time beside the peers", pad=34)


def plot_bandwidth(results: Results, axes: Any) -> None:
    calls = [call for call in results.calls() if results.package(call, LARGE) and not call.startswith("total")]
    for y, call in enumerate(calls):
        row: Any = results.package(call, LARGE)
        ours, best = (row["bytes"] / part["seconds"] / 1e9 for part in (row, row["beside"]["streaming"]))
        label = {"label": "this package"} if y == 0 else {}
        axes.barh(y, ours, height=0.62, color="#0072b2", **label)
        axes.text(ours, y, f" {number(ours)}", va="center", fontsize=9, color=FAINT)
        label = {"label": "streaming bound"} if y == 0 else {}
        axes.plot([best, best], [y - 0.4, y + 0.4], color=INK, linewidth=2.5, **label)
    _rows(axes, calls)
    _legend(axes, 2)
    axes.set_xlabel(
        f"gigabytes per second, {pretty(LARGE)} pixels, {results.machine['threads']} threads (right is better)"
    )
    axes.set_title("Bytes read and written", pad=34)


def _labels_apart(places: list[float], factor: float) -> list[float]:
    """Heights for labels on a logarithmic axis, in the same order, none nearer to another than the factor."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, after in pairwise(order):
        places[after] = max(places[after], places[before] * factor)
    return places


def plot_pixels(results: Results, axes: Any) -> None:
    ends, times = [], []
    for call, color, marker in zip(MAIN, ("#009e73", "#0072b2", "#d55e00", "#cc79a7"), "sovD"):
        rows = sorted(results.find(scan="pixels", call=call), key=lambda row: row["pixels"])
        if rows:
            found = [per_pixel(row) for row in rows]
            axes.plot([row["pixels"] / 1e6 for row in rows], found, color=color, marker=marker, linewidth=2)
            ends.append((call, color, rows[-1]["pixels"] / 1e6, found[-1]))
            times += found
    low, high = 0.9 * min(times, default=1), 1.25 * max(times, default=1)
    axes.set(xscale="log", yscale="log", ylim=(low, high), xlabel="megapixels", ylabel="nanoseconds per pixel")
    axes.set_yticks([tick for tick in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50) if low < tick < high])
    _logarithmic(axes.xaxis)
    _logarithmic(axes.yaxis)
    heights = _labels_apart([end for *_, end in ends], (high / low) ** 0.06)
    for (call, color, x, _), y in zip(ends, heights):
        axes.annotate(call, (x, y), (9, 0), textcoords="offset points", va="center", color=color, family="monospace")
    axes.grid(axis="y")
    axes.set_title("Time per pixel (level is better)", pad=12)


def plot_threads(results: Results, axes: Any) -> None:
    calls = [call for call in MAIN if results.find(scan="settings", call=call)]
    isas = list(dict.fromkeys(row["isa"] for row in results.find(scan="settings")))
    counts = sorted({row["threads"] for row in results.find(scan="settings")})
    step = 0.7 / max(1, len(isas))
    for j, (isa, color) in enumerate(zip(isas, ("#0072b2", "#e69f00", "#8d93a0", "#009e73"))):
        for i, call in enumerate(calls):
            y = i + (j - (len(isas) - 1) / 2) * step
            rows = [results.one(scan="settings", call=call, isa=isa, threads=n) for n in counts]
            times = [row["seconds"] * 1e3 for row in rows if row]
            axes.plot(times, [y] * len(times), color=color, linewidth=2, label=isa if i == 0 else None)
            for n, time in zip(counts, times):
                axes.plot(time, y, "o", color=color, markerfacecolor="white" if n == 1 else color, markersize=7)
    axes.plot([], [], "o", color=INK, markerfacecolor="white", label="1 thread")
    axes.plot([], [], "o", color=INK, label=f"{counts[-1]} threads" if counts else "")
    axes.set_xscale("log")
    _logarithmic(axes.xaxis)
    _rows(axes, calls)
    _legend(axes, len(isas) + 2)
    axes.set_xlabel(f"milliseconds, {pretty(SMALL)} pixels (left is better)")
    axes.set_title("Threads and instruction sets", pad=34)


# --- the command


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/benchmarks/ and the README's summary.")
    parser.add_argument("file", nargs="?", type=Path, help="what pytest-benchmark wrote (default: results.json, kept)")
    parser.add_argument("--add", action="store_true", help="keep the figures of what is not in the file")
    parser.add_argument("--machine", metavar="NAME", help="write to docs/benchmarks/NAME/, and nothing to the README")
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the texts are up to date")
    options = parser.parse_args()
    if options.add and options.file is None:
        parser.error("--add needs a file")
    files = (*FOLDER.glob(KEPT), *sorted(FOLDER.glob(f"*/{KEPT}")))
    everything = {file.parent: json.loads(file.read_text(encoding="utf-8")) for file in files}
    drawn = list(everything)
    if options.file:
        folder = FOLDER / (options.machine or "")
        new = keep(json.loads(options.file.read_text(encoding="utf-8")))
        if options.add and folder not in everything:
            parser.error(f"--add needs figures in {folder / KEPT} to add to")
        everything[folder] = added(everything[folder], new) if options.add else new
        drawn = [folder]
    if FOLDER not in everything:
        parser.error(f"{FOLDER / KEPT} must be there, of a first machine; give a FILE without --machine")
    results = {folder: Results(kept) for folder, kept in everything.items()}
    elsewhere = {folder.name: each for folder, each in results.items() if folder != FOLDER}
    front = ROOT / "README.md"
    texts = {front: readme(results[FOLDER], front.read_text(encoding="utf-8"))}
    for folder, kept in everything.items():
        texts[folder / KEPT] = written(kept)
        texts[folder / "README.md"] = page(results[folder], elsewhere if folder == FOLDER else {})
    if options.check:
        stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what report.py writes", file=sys.stderr)
        return 1 if stale else 0
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder in drawn:
        draw(results[folder], folder)
        print(losses(results[folder]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
