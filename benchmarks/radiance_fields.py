"""Time and memory of what trainers of radiance fields call, beside the same in plain PyTorch (Linux).

    python benchmarks/radiance_fields.py            # writes the table and the figure of docs/radiance-fields.md

Each call is timed and weighed in a process of its own, on one thread: the least of several CPU times, and what a
call adds to the peak of the process's memory. The plain calls are what ``lib_bilagrid`` computes, by
``grid_sample`` and ``lstsq``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
PAGE, FIGURE = ROOT / "docs" / "radiance-fields.md", ROOT / "docs" / "images" / "radiance-fields.png"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
VIEWS = 100
#: What is called, and the shape of colours, but for their channels.
CALLS = {
    "4,096 rays `(n, 3)`": (4096,),
    "4,096 rays `(n, 1, 1, 3)`": (4096, 1, 1),
    "64 patches `(n, 8, 8, 3)`": (64, 8, 8),
    "one image, 1080 × 1920": (1, 1080, 1920),
    "`color_correct`, 1080 × 1920": (1080, 1920),
    "the same, gradients recorded": (1080, 1920),
}
WAYS = {"bilateral_ops": "this package", "torch": "PyTorch"}


def matrices_by_grid_sample(grids: Any, xy: Any, rgb: Any, index: Any) -> Any:
    gray = rgb @ rgb.new_tensor([[0.299], [0.587], [0.114]])
    places = torch.cat([xy, gray], -1) * 2 - 1
    while places.ndim < 5:
        places = places[:, None]
    found = torch.nn.functional.grid_sample(grids[index], places, padding_mode="border", align_corners=True)
    return found.movedim(1, -1).reshape(*rgb.shape[:-1], 3, 4)


def plain_slice(grids: Any, xy: Any, rgb: Any, index: Any) -> Any:
    matrices = matrices_by_grid_sample(grids.grids, xy, rgb, index.reshape(len(rgb), -1)[:, 0])
    return {"rgb": (matrices[..., :3] @ rgb[..., None])[..., 0] + matrices[..., 3]}


def plain_color_correct(img: Any, ref: Any, rounds: int = 5, eps: float = 0.5 / 255) -> Any:
    now, wanted = img.reshape(-1, 3), ref.reshape(-1, 3)

    def inside(values: Any) -> Any:
        return (values >= eps) & (values <= 1 - eps)

    first = inside(now)
    for _ in range(rounds):
        products = [now[:, c : c + 1] * now[:, c:] for c in range(3)]
        terms = torch.cat([*products, now, torch.ones_like(now[:, :1])], -1)
        used = first & inside(now) & inside(wanted)
        fits = [
            torch.linalg.lstsq(
                torch.where(used[:, c, None], terms, 0), torch.where(used[:, c], wanted[:, c], 0), rcond=-1
            ).solution
            for c in range(3)
        ]
        now = (terms @ torch.stack(fits, -1)).clamp(0, 1)
    return now.reshape(img.shape)


def prepared(call: str, way: str) -> Callable[[], Any]:
    from bilateral_ops.compat import lib_bilagrid as lib

    torch.manual_seed(0)
    lead = CALLS[call]
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in (1080, 1920)), indexing="ij")
    waves = [
        0.5 + 0.48 * torch.sin(7 * x + 3 * y),
        0.5 + 0.5 * torch.sin(5 * y - 2 * x),
        0.5 + 0.48 * torch.cos(9 * x * y),
    ]
    picture = (torch.stack(waves, -1) + 0.03 * torch.randn(1080, 1920, 3)).clamp(0, 1)
    if "color" in call or "same" in call:
        recorded = "same" in call
        target = (0.8 * picture + 0.2 * picture**2 + 0.02 * torch.randn(picture.shape)).clamp(0, 1)
        correct = lib.color_correct if way == "bilateral_ops" else plain_color_correct
        picture.requires_grad_(recorded)
        return lambda: correct(picture, target)

    grids = lib.BilateralGrid(VIEWS)
    with torch.no_grad():
        grids.grids.add_(0.1 * torch.randn_like(grids.grids))
    index = torch.randint(VIEWS, (lead[0],)).reshape(-1, *[1] * len(lead))
    xy = torch.stack([x, y], -1)[None] if lead[0] == 1 else torch.rand(*lead, 2)
    rgb = (picture[None] if lead[0] == 1 else torch.rand(*lead, 3)).clone().requires_grad_()
    grad = torch.randn(rgb.shape)
    slice = lib.slice if way == "bilateral_ops" else plain_slice

    def step() -> Any:
        out = slice(grids, xy, rgb, index)["rgb"]
        return torch.autograd.grad(out, [grids.grids, rgb], grad)

    return step


def seconds(call: str, way: str) -> float:
    """CPU seconds of a call, in this process."""
    step = prepared(call, way)
    step()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 2 and len(times) < 20):
        begin = time.process_time()
        step()
        times.append(time.process_time() - begin)
    return min(times)


def added(call: str, way: str) -> float:
    """Bytes that a call adds to the peak of this process, which gives memory back when it is freed (``GIVES_BACK``)."""
    step = prepared(call, way)

    def kilobytes(what: str) -> int:
        return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0])

    step()
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    step()
    return (kilobytes("VmHWM") - before) * 1024


MEASURES = {"seconds": seconds, "bytes": added}
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def in_a_process(call: str, way: str, what: str) -> float:
    environment = os.environ | (GIVES_BACK if what == "bytes" else {})
    command = [sys.executable, __file__, "--one", call, way, what]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Any) -> str:
    lines = ["| | CPU time | in PyTorch | memory | in PyTorch |", "| --- | ---: | ---: | ---: | ---: |"]
    for call, ways in results.items():
        cells = [f"{number(ways[way]['seconds'] * 1e3)} ms" for way in WAYS]
        cells += [f"{number(ways[way]['bytes'] / 2**20)} MiB" for way in WAYS]
        lines.append(f"| {call} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: Any, file: Path) -> None:
    import matplotlib.pyplot as plt
    import numpy as np

    colors = {"bilateral_ops": "#2563eb", "torch": "#c7cdd8"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    rows = np.arange(len(results))
    for cell, (key, title, factor) in zip(axes, (("seconds", "CPU time, ms", 1e3), ("bytes", "memory, MiB", 2**-20))):
        for offset, way in zip((-0.2, 0.2), WAYS):
            values = [max(1, ways[way][key] * factor) for ways in results.values()]
            bars = cell.barh(rows + offset, values, 0.38, color=colors[way], label=WAYS[way])
            cell.bar_label(bars, list(map(number, values)), padding=3, fontsize=8)
        cell.set_xscale("log")
        cell.set_xlim(1, 2e5 if key == "seconds" else 2e4)
        cell.set_title(title, loc="left")
        cell.spines[["top", "right"]].set_visible(False)
        cell.tick_params(axis="y", length=0)
    axes[0].set_yticks(rows, [call.replace("`", "") for call in results])
    axes[0].invert_yaxis()
    figure.legend(*axes[1].get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=2)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--one", nargs=3, metavar=("CALL", "WAY", "WHAT"), help="measure one, and print it")
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        call, way, what = options.one
        print(MEASURES[what](call, way))
        return
    results = {
        call: {way: {what: in_a_process(call, way, what) for what in MEASURES} for way in WAYS} for call in CALLS
    }
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    draw(results, FIGURE)


if __name__ == "__main__":
    main()
