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

#: What is asked about: float32 RGB of this size under a grid of 16 × 16 × 8 matrices of 3 × 4. A part of it is run: for
#: operations whose bands are the rectangles between grid rows and columns one of these, else rows of 256 pixels, many
#: of them at explicit coordinates, as few pixels have kernels of their own.
HEIGHT, WIDTH = 1080, 1920
GRID = 16, 16, 8
# Each is (top, left, height, width).
ROWS, RECTANGLE, MANY = (128, 512, 32, 256), (101, 180, 68, 120), (128, 512, 128, 256)
CENTERS_RECTANGLE = (72, 128, 72, 128)  # with corners aligned
#: From data sheets: bytes per second, and instructions of threads per second.
DEVICE_RATES = {"H100": (3.35e12, 32e12), "H200": (4.8e12, 32e12), "RTX 4090": (1.008e12, 41e12)}
#: Share of the least traffic that may be added to it, beside a byte per pixel of cells.
MOST_OVER = {"forward": 0.10, "backward": 0.30}
#: Kernels that work on cells or parameters, as many times whatever the image.
FIXED = ("scale_cells", "store_sums", "add_bands", "add_guide_gradients")

Send = Callable[[Any], Any]


@dataclass(frozen=True)
class Work:
    operation: str
    direction: str
    places: str  # mesh: coordinates of a window, as an array; rays: anywhere; centers: by that rule; else empty
    least: int  # bytes per pixel that must be read or written
    most: int  # instructions per pixel that there may be
    part: tuple[int, int, int, int] = ROWS

    def inputs(self) -> dict[str, Any]:
        """Arrays by name. Neighbours' depths are near each other, but for rays."""
        rng = np.random.default_rng(5)
        top, left, *shape = self.part
        y, x = (np.arange(n) + 0.5 for n in shape)
        if self.places == "rays":
            xy, guide = rng.random((*shape, 2)), rng.random(shape)
        else:
            xy = np.stack(np.meshgrid((x + left) / WIDTH, (y + top) / HEIGHT), -1)
            guide = (0.5 + 0.4 * np.sin(x / 40) + 0.05 * rng.standard_normal(shape)).clip(0, 1)
        normal = rng.standard_normal
        arrays = {
            "grid": normal((1, *GRID, 3, 4)),
            "guide": guide[None],
            "image": rng.random((1, *shape, 3)),
            "coefficients": normal((1, *shape, 3, 4)),
            "one": normal((1, *shape)),
            "three": normal((1, *shape, 3)),
            "twelve": normal((1, *shape, 3, 4)),
            "few": normal((1, shape[0] // 8, shape[1] // 8, 3)),
            "xy": xy[None],
        }
        return {name: array.astype("f4") for name, array in arrays.items()}

    def call(self, send: Send) -> None:
        given = self.inputs()
        if self.operation == "enhance":  # a photograph, as it is stored
            given["image"] = (given["image"] * 255).astype("u1")
        a = {name: send(array) for name, array in given.items()}
        size = {"H": self.part[2], "W": self.part[3], "dtype": np.dtype("f4"), "image_dtype": np.dtype("f4")}
        parameters = [
            [send(value) for name, value in _samples.arguments(guide, K=16, F=16, **size).items() if name != "image"]
            for guide in ("guide_curves", "guide_nn")
        ]
        where: dict[str, Any] = {"window": (*self.part[:2], HEIGHT, WIDTH)}
        if self.places == "centers":
            where |= {"xy": "centers", "align_corners": True}
        elif self.places:
            where = {"xy": a["xy"], "align_corners": True}
        arguments: dict[str, tuple[tuple[Any, ...], str | None, dict[str, Any]]] = {
            "slice": ((a["grid"], a["guide"]), "twelve", where),
            "splat": ((a["guide"], a["twelve"], GRID), None, where),
            "slice_apply": ((a["grid"], a["guide"], a["image"]), "three", where),
            "enhance": ((a["grid"], CurvesGuide(*parameters[0]), a["image"]), None, where),
            "apply": ((a["coefficients"], a["image"]), "three", {}),
            "guide_luma": ((a["image"],), "one", {}),
            "guide_curves": ((a["image"], *parameters[0]), "one", {}),
            "guide_nn": ((a["image"], *parameters[1]), "one", {}),
            "resize_area": ((a["image"],), "few", {}),
        }
        given_arguments, grad, keywords = arguments[self.operation]
        if self.direction == "forward":
            if self.operation == "resize_area":
                given_arguments += (given["few"].shape[1:3],)
            getattr(bilateral_ops, self.operation)(*given_arguments, **keywords)
        else:
            assert grad is not None, self.operation
            getattr(bilateral_ops, f"{self.operation}_vjp")(*given_arguments, a[grad], **keywords)


def works() -> list[Work]:
    """Every operation on pixels, in both directions. splat's gradients are slice and more of the same kind."""
    return [
        Work("slice_apply", "forward", "", 28, 190),  # guide 4, image 12, out 12
        Work("slice_apply", "backward", "", 44, 750, RECTANGLE),  # guide 4, image 12, grad 12; d_guide 4, d_image 12
        Work("enhance", "forward", "", 6, 350),
        Work("slice", "forward", "", 52, 300),
        Work("slice", "backward", "", 56, 1300, RECTANGLE),
        Work("splat", "forward", "", 52, 900, RECTANGLE),
        Work("slice_apply", "forward", "centers", 28, 190),
        Work("slice_apply", "backward", "centers", 44, 750, CENTERS_RECTANGLE),
        Work("enhance", "forward", "centers", 6, 350),
        Work("slice", "forward", "centers", 52, 300),
        Work("slice", "backward", "centers", 56, 1300, CENTERS_RECTANGLE),
        Work("splat", "forward", "centers", 52, 900, CENTERS_RECTANGLE),
        Work("slice_apply", "forward", "mesh", 36, 320, MANY),
        Work("slice_apply", "forward", "rays", 36, 320, MANY),
        Work("slice_apply", "backward", "mesh", 60, 1400, MANY),
        Work("slice_apply", "backward", "rays", 60, 1700, MANY),
        Work("slice", "forward", "mesh", 60, 2400),
        Work("slice", "backward", "mesh", 72, 5000),
        Work("splat", "forward", "mesh", 60, 1900, MANY),
        Work("splat", "forward", "rays", 60, 2600, MANY),
        Work("guide_luma", "forward", "", 16, 60),
        Work("guide_luma", "backward", "", 16, 60),
        Work("guide_curves", "forward", "", 16, 250),
        Work("guide_curves", "backward", "", 28, 1200),
        Work("guide_nn", "forward", "", 16, 250),
        Work("guide_nn", "backward", "", 28, 1000),
        Work("apply", "forward", "", 72, 150),
        Work("apply", "backward", "", 132, 250),
        Work("resize_area", "forward", "", 12, 60),
        Work("resize_area", "backward", "", 12, 100),
    ]


@dataclass
class Counted:
    kernels: list[tuple[str, int, int]]  # name, threads, dynamic shared memory
    instructions: float  # of PTX, per pixel; one of a warp counts for its 32 threads
    bytes: float  # of global memory, per pixel
    turns: float  # of shared memory, per 32 pixels
    wavefronts: float  # of shared memory, per request
    ideal: float  # the same if no two lanes met in a bank


def count(device: Any, work: Work, architecture: int) -> Counted:
    """A pixel, of an image of HEIGHT × WIDTH of which a part is run."""
    device.reset(architecture, races=False, count=True)
    work.call(lambda array: standin.laid_out(device, array))
    instructions = moved = 0.0
    turns = requests = ideal = 0
    part = work.part[2] * work.part[3]
    for launch in device.launches:
        traffic: Traffic = launch.traffic
        pixels = HEIGHT * WIDTH if any(name in launch.kernel.name for name in FIXED) else part
        instructions += launch.instructions * 32 / pixels
        moved += sum(map(traffic.sectors, ("load", "store"))) * 32 / pixels
        for kind in ("load", "store"):
            shared = traffic["shared", kind]
            turns, requests, ideal = turns + shared.units, requests + shared.requests, ideal + shared.bytes
    return Counted(
        [(launch.kernel.name, launch.threads, launch.dynamic_shared) for launch in device.launches],
        instructions,
        moved,
        turns / part * 32,
        turns / max(1, requests),
        ideal / 128 / max(1, requests),
    )


def _short(name: str) -> str:
    """A kernel's name and what it is made for, of its mangled name."""
    (length,) = re.findall(r"bilateral_ops(\d+)", name)
    begin = name.index(f"bilateral_ops{length}") + len(f"bilateral_ops{length}")
    base, rest = name[begin : begin + int(length)], name[begin + int(length) :]
    arguments = rest.removeprefix("I") if rest.startswith("I") else ""
    dtypes = {"d": "double", "f": "float", "L": "", "N": ""}
    policies = ("SliceContributions", "ApplyContributions", "ComputedGuide", "GivenGuide", "DensePixels")
    policies += ("StridedPixels", "RgbCurves", "RgbNetwork", "RgbLuma", "ApplyWork", "SliceWork")
    detail = next((policy for policy in policies if policy in arguments), "")
    numbers = " ".join(re.findall(r"L[ib](\d+)E", arguments))
    return f"`{base}` {' '.join(filter(None, (dtypes.get(arguments[:1], ''), detail, numbers)))}".strip()


def _threads(device: Any, work: Work) -> str:
    """The threads of each launch for 8192 rays."""
    device.reset(90, races=False)
    dataclasses.replace(work, part=(0, 0, 1, 8192)).call(lambda array: standin.laid_out(device, array))
    return ", ".join(f"{_short(a.kernel.name)} {a.blocks * a.threads}" for a in device.launches)


def page(device: Any) -> str:
    counted = {work: count(device, work, 90) for work in works()}
    launches = {name: (threads, shared) for c in counted.values() for name, threads, shared in c.kernels}
    lines = [
        "# CUDA: what the kernels use and move",
        "",
        "<!-- Written by tests/cuda/report.py -->",
        "For authors of the CUDA kernels. **No figure on this page is a measurement.** All are static: registers and "
        "shared memory come from ptxas, instructions and bytes were counted while an interpreter ran the compiled "
        "kernels, and times are lower bounds from data sheets. A kernel cannot be faster; how much slower it is, "
        "this page does not say.",
        "",
        f"## Instructions, bytes and floors, {WIDTH} × {HEIGHT}",
        "float32, RGB, a grid of 16 × 16 × 8 matrices of 3 × 4; guides with 16 knots or features; enhance of uint8 "
        "with curves; resize_area to an eighth, per pixel of the larger image. Figures are sums over all launches of "
        "a call. *Instructions*: PTX instructions issued per pixel. *Bytes*: per pixel, the least possible number, "
        "and the number of 32-byte sectors times 32, a sector counted once per thread block that touches it, "
        "including the grid's cells and the sums of its gradient. *Shared memory*: wavefronts per 32 pixels; in "
        "brackets per access, and per access without bank conflicts and broadcasts. *Floor*: the lower bound of the "
        "time, the larger of bytes over bandwidth and instructions over issue rate, and which of the two it is.",
        '*Centers*: `xy="centers"` with `align_corners`, as in trainers of radiance fields; *mesh*: an array of the '
        "same coordinates; *rays*: random coordinates and depths.",
        "",
        "| operation | direction | `xy` | instructions | bytes: least, counted | shared memory | "
        + " | ".join(f"floor, {name}" for name in DEVICE_RATES)
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(DEVICE_RATES),
    ]
    for work, c in counted.items():
        floors = []
        for bandwidth, rate in DEVICE_RATES.values():
            times = work.least * HEIGHT * WIDTH / bandwidth * 1e6, c.instructions * HEIGHT * WIDTH / rate * 1e6
            floors.append(f"{max(times):.0f} µs, {('bytes', 'instructions')[times[1] > times[0]]}")
        lines.append(
            f"| {work.operation} | {work.direction} | {work.places} | {c.instructions:.0f} | {work.least}, "
            f"{c.bytes:.1f} | {c.turns:.1f} ({c.wavefronts:.2f}, {c.ideal:.2f}) | {' | '.join(floors)} |"
        )
    lines += [
        "",
        "## Explicit coordinates",
        "slice_apply with 3 × 4 matrices computed in float has its own kernels (`scattered_34.cuh`), for all dtypes "
        "and strides. Other matrices, and slice, sample as without explicit coordinates. All of them, and splat, add "
        "to a grid in the same way (`scattered.cuh`), in integers. In float64, and if pixel indices or offsets of "
        "sums exceed 32 bits, the whole image is summed in bands instead.",
        "Each contribution is rounded to a multiple of 2^−(62 − ⌈log₂ pixels⌉) times the largest contribution to its "
        "cell, in addition to the rounding of float32. A contribution that is not finite makes its eight cells NaN.",
        "",
        "| operation | direction | threads of each launch for 8192 rays |",
        "|---|---|---|",
    ]
    for work in works():
        if work.places == "rays":
            lines.append(f"| {work.operation} | {work.direction} | {_threads(device, work)} |")
    lines += [
        "",
        "## Registers, shared memory, occupancy",
        "Per kernel and architecture: registers per thread, bytes spilled, static shared memory, and occupancy, "
        "limited by registers, threads and, for the launches above, dynamic shared memory. What follows a "
        "kernel's name are its template arguments.",
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
