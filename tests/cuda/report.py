"""Writes docs/cuda.md: what the kernels use and move, counted without a device. `python tests/cuda/report.py`"""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import numpy as np
import standin
import static
from interpreter.traffic import Traffic
from standin.devices import DEVICES

import bilateral_ops
from bilateral_ops import CurvesGuide, _samples

#: What is asked about: a window of an image of this size, float32 RGB, under a grid of 16 × 16 × 8 matrices of 3 × 4.
HEIGHT, WIDTH = 1080, 1920
WINDOW = {"H": 128, "W": 256}
AT = (128, 512, HEIGHT, WIDTH)
#: Bytes per second, from data sheets.
BANDWIDTH = {"H100": 3.35e12, "RTX 4090": 1.008e12}
#: Share of the least traffic that may be added to it.
MOST_OVER = {"forward": 0.10, "backward": 0.25}
#: Explicit coordinates: instructions a pixel that there may be, by operation, direction and coordinates.
MOST_INSTRUCTIONS = {
    ("slice_apply", "forward", "mesh"): 320,
    ("slice_apply", "backward", "mesh"): 1400,
    ("slice_apply", "forward", "rays"): 320,
    ("slice_apply", "backward", "rays"): 1700,
    ("splat", "forward", "mesh"): 1800,
    ("splat", "forward", "rays"): 2500,
}
#: Kernels that work on cells, as many times whatever the image.
OF_CELLS = ("scale_cells", "store_sums")


@dataclass(frozen=True)
class Work:
    name: str
    direction: str
    least: int  # bytes per pixel that must be read or written
    call: Callable[[Callable[[Any], Any]], Any]  # given how an array is sent


def _arguments() -> dict[str, Any]:
    options = {"Gh": 16, "Gw": 16, "Gd": 8, "K": 16, "image_dtype": np.dtype("f4"), "dtype": np.dtype("f4"), **WINDOW}
    given = _samples.arguments("slice_apply", **options)
    curves = _samples.arguments("guide_curves", **options)
    curves.pop("image")
    return {**given, "curves": curves}


def works() -> list[Work]:
    a = _arguments()
    three = a["grid"], a["guide"], a["image"]

    def enhance(send: Callable[[Any], Any]) -> Any:
        guide = CurvesGuide(**{name: send(value) for name, value in a["curves"].items()})
        return bilateral_ops.enhance(send(a["grid"]), guide, send(a["image"]), window=AT)

    def slice_apply(send: Callable[[Any], Any]) -> Any:
        return bilateral_ops.slice_apply(*map(send, three), window=AT)

    def backward(send: Callable[[Any], Any]) -> Any:
        return bilateral_ops.slice_apply_vjp(*map(send, three), send(a["image"]), window=AT)

    return [
        Work("slice_apply", "forward", 28, slice_apply),  # guide 4, image 12, out 12
        Work("enhance, curves", "forward", 24, enhance),
        Work("slice_apply", "backward", 44, backward),  # guide 4, image 12, grad 12; d_guide 4, d_image 12
    ]


@dataclass(frozen=True)
class Scattered:
    """A call at coordinates of the pixels' own."""

    operation: str  # splat: of 12 channels
    direction: str
    places: str  # mesh: those of a window, as an array; rays: anywhere
    height: int = WINDOW["H"]
    width: int = WINDOW["W"]

    def call(self, send: Callable[[Any], Any]) -> None:
        rng = np.random.default_rng(5)
        shape = 1, self.height, self.width
        y, x = (np.arange(n) + 0.5 for n in shape[1:])
        if self.places == "mesh":  # depths that change slowly, too
            xy = np.stack(np.meshgrid((x + AT[1]) / WIDTH, (y + AT[0]) / HEIGHT), -1)[None]
            guide = 0.5 + 0.4 * np.sin(x / 40) + 0.05 * rng.standard_normal(shape)
        else:
            xy, guide = rng.random((*shape, 2)), rng.random(shape)
        guide, xy, image, grad, twelve = (
            send(a.astype("f4"))
            for a in (guide, xy, rng.random((*shape, 3)), rng.standard_normal((*shape, 3)), rng.random((*shape, 12)))
        )
        if self.operation == "splat":
            bilateral_ops.splat(guide, twelve, (16, 16, 8), xy=xy, align_corners=True)
            return
        grid = send(rng.standard_normal((1, 16, 16, 8, 3, 4)).astype("f4"))
        if self.direction == "forward":
            bilateral_ops.slice_apply(grid, guide, image, xy=xy, align_corners=True)
        else:
            bilateral_ops.slice_apply_vjp(grid, guide, image, grad, xy=xy, align_corners=True)


def scattered() -> list[Scattered]:
    return [Scattered(*key) for key in MOST_INSTRUCTIONS]


def count_instructions(device: Any, work: Scattered, architecture: int) -> float:
    """A pixel, of an image of HEIGHT × WIDTH of which a part was run. An instruction of a warp counts for 32."""
    device.reset(architecture, races=False)
    work.call(lambda array: standin.laid_out(device, array))
    total = 0.0
    for launch in device.launches:
        of_cells = any(name in launch.kernel.name for name in OF_CELLS)
        pixels = HEIGHT * WIDTH if of_cells else work.height * work.width
        total += launch.instructions * 32 / pixels
    return total


@dataclass
class Counted:
    kernels: list[tuple[str, int, int]]  # name, threads, dynamic shared memory
    bytes: float  # of global memory, per pixel
    wavefronts: float  # of shared memory, per request
    ideal: float  # the same if no two lanes met in a bank


def count(device: Any, work: Work, architecture: int) -> Counted:
    """Sectors of the first kernel. Later ones work on grids alone, which is little beside a whole image."""
    device.reset(architecture, races=False, count=True)
    work.call(lambda array: standin.laid_out(device, array))
    total: Traffic = device.launches[0].traffic
    pixels = WINDOW["H"] * WINDOW["W"]
    shared = [total["shared", kind] for kind in ("load", "store")]
    requests = max(1, sum(part.requests for part in shared))
    return Counted(
        [(launch.kernel.name, launch.threads, launch.dynamic_shared) for launch in device.launches],
        sum(map(total.sectors, ("load", "store"))) * 32 / pixels,
        sum(part.units for part in shared) / requests,
        sum(part.bytes for part in shared) / 128 / requests,
    )


def _short(name: str) -> str:
    """A kernel's name and what it is made for, of its mangled name."""
    (length,) = re.findall(r"bilateral_ops(\d+)", name)
    begin = name.index(f"bilateral_ops{length}") + len(f"bilateral_ops{length}")
    base, rest = name[begin : begin + int(length)], name[begin + int(length) :]
    arguments = rest.removeprefix("I") if rest.startswith("I") else ""
    dtypes = {"d": "double", "f": "float", "L": "", "N": ""}
    policies = ("SliceContributions", "ApplyContributions", "ComputedGuide3", "ComputedGuide", "GivenGuide")
    policies += ("DensePixels", "StridedPixels")
    detail = next((policy for policy in policies if policy in arguments), "")
    number = arguments.split("E")[0].removeprefix("Li") if arguments.startswith("Li") else ""
    which = arguments.partition("GuideKindE")[2][:1]
    detail += f" {('curves', 'nn', 'luma')[int(which)]}" if which.isdigit() else ""
    return f"`{base}` {' '.join(filter(None, (dtypes.get(arguments[:1], ''), number, detail)))}".strip()


def _scattered_lines(device: Any) -> list[str]:
    lines = [
        "`xy`, of the same sizes. slice_apply with 3 × 4 matrices computed in float has kernels of its own "
        "(`scattered_34.cuh`), whatever the dtypes and strides. Other matrices and slice look cells up as everywhere; "
        "what they and splat add to a grid is added in the same way (`scattered.cuh`). In float64, and where a pixel's "
        "number or the place of a sum does not fit 32 bits, bands of the whole image are summed. *Instructions*: of "
        "PTX, issued per pixel, all launches together. *Mesh*: coordinates and depths of neighbours are near each "
        "other; *rays*: both are random. *Threads*: of each launch, for 8192 rays.",
        "",
        "The sums are of integers: each contribution is rounded to 2^−(62 − ⌈log₂ pixels⌉) of the largest one to its "
        "cell, beside float32's rounding. One that is not finite makes the eight cells that it reaches NaN.",
        "",
        "| operation | direction | coordinates | instructions a pixel | threads |",
        "|---|---|---|---|---|",
    ]
    for work in scattered():
        instructions = count_instructions(device, work, 90)
        device.reset(90, races=False)
        rays = dataclasses.replace(work, height=1, width=8192)
        rays.call(lambda array: standin.laid_out(device, array))
        threads = ", ".join(f"{_short(a.kernel.name)} {a.blocks * a.threads}" for a in device.launches)
        name = "splat, 12 channels" if work.operation == "splat" else work.operation
        lines.append(f"| {name} | {work.direction} | {work.places} | {instructions:.0f} | {threads} |")
    return lines


def page(device: Any) -> str:
    counted = {work: count(device, work, 90) for work in works()}
    launches = {name: (threads, shared) for c in counted.values() for name, threads, shared in c.kernels}
    lines = [
        "# CUDA: what the kernels use and move",
        "",
        "<!-- Written by tests/cuda/report.py -->",
        "",
        "**No figure on this page is a measurement.** They are static: registers and shared memory are ptxas's, bytes "
        "and wavefronts were counted while an interpreter ran the compiled kernels, and times are bytes over the "
        "memory bandwidth of data sheets, which no kernel can beat and which says nothing of how near one comes.",
        "",
        f"## Bytes and floors, {WIDTH} × {HEIGHT}",
        "",
        "float32, RGB, a grid of 16 × 16 × 8 matrices of 3 × 4. *Counted*: 32-byte sectors, each once for each "
        "block that touches it, the grid's cells and the sums of its gradient included. *Wavefronts*: turns of shared "
        "memory per access; *ideal*, if no two lanes met in a bank and none read the same word.",
        "",
        "| operation | direction | least bytes a pixel | counted | wavefronts per access (ideal) | "
        + " | ".join(f"floor, {name}" for name in BANDWIDTH)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(BANDWIDTH),
    ]
    for work, c in counted.items():
        over = 100 * (c.bytes / work.least - 1)
        floors = " | ".join(f"{work.least * HEIGHT * WIDTH / b * 1e6:.1f} µs" for b in BANDWIDTH.values())
        lines.append(
            f"| {work.name} | {work.direction} | {work.least} | {c.bytes:.1f} (+{over:.0f} %) "
            f"| {c.wavefronts:.2f} ({c.ideal:.2f}) | {floors} |"
        )
    lines += ["", "## Explicit coordinates", "", *_scattered_lines(device)]
    lines += [
        "",
        "## Registers, shared memory, occupancy",
        "",
        "Per kernel and architecture: registers a thread, bytes spilled, static shared memory; occupancy by registers, "
        "threads and, where a launch above says how much, dynamic shared memory.",
        "",
    ]
    ptxas = shutil.which("ptxas")
    assert ptxas is not None, "ptxas was not found"
    architectures = (75, 80, 86, 89, 90, 100, 120)
    with tempfile.TemporaryDirectory() as folder:
        used = {a: static.resources(device.ptx, a, ptxas, Path(folder)) for a in architectures}
    lines += [
        "| kernel | " + " | ".join(f"sm_{a}" for a in architectures) + " |",
        "|---|" + "---|" * len(architectures),
    ]
    for name in sorted(used[90], key=_short):
        cells = []
        for a in architectures:
            u = used[a][name]
            threads, dynamic = launches.get(name, (device.kernels[90][name].max_threads or 256, 0))
            share = static.occupancy(DEVICES[a], u, threads, dynamic)
            spilled = f", {u.spilled} B spilled" if u.spilled else ""
            shared = f", {u.shared + dynamic} B" if u.shared + dynamic else ""
            cells.append(f"{u.registers}{spilled}{shared}, {100 * share:.0f} %")
        lines.append(f"| {_short(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    importlib.import_module("standin.framework")
    Path(__file__).parents[2].joinpath("docs", "cuda.md").write_text(page(standin.the_standin()))
