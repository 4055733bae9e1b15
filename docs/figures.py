"""Draw the figures of docs/how-it-works.md, from a photograph and a model: what each step of the pipeline makes of it.

    python docs/figures.py photographs/heldout/input/sunset.jpg        # the model in the package
    python docs/figures.py PHOTO --model FILE --out FOLDER
    python docs/figures.py --tutorials                                 # those of docs/gallery.md, from the tutorials

Needs PyTorch, Matplotlib and Pillow. Without PHOTO the figures are of a photograph that scikit-image bundles.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageOps

import bilateral_ops as bo
from bilateral_ops import hdrnet

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
GREYS = np.repeat(np.linspace(0, 1, 1025, dtype=np.float32)[None, :, None], 3, axis=2)  # a picture one pixel high
INK, FAINT, PAPER = "#1d2330", "#6b7280", "#fbfaf7"
CHANNELS = 6
SHIPPED = Path(hdrnet.__file__).with_name("model.safetensors")


class Pipeline:
    """A photograph and all that the model makes of it on the way to the enhanced one."""

    def __init__(self, photo: Any, file: Path) -> None:
        predictor = hdrnet.Predictor.load(file)
        self.photo = photo
        self.image = photo.astype(np.float32) / 255
        self.low = predictor.low_resolution(photo)
        self.grid = predictor.grid(self.low)
        self.enhanced = predictor.render(self.grid, photo)
        model = hdrnet.HDRNet.load(file).eval()
        self.features: list[Any] = []
        for layer in model.coefficients.splat:
            layer.register_forward_hook(lambda _layer, _inputs, out: self.features.append(out[0].numpy()))
        with torch.no_grad():
            model.coefficients(torch.from_numpy(self.low[None]))
            self.guide, self.greys = (model.guide(torch.from_numpy(x[None]))[0].numpy() for x in (self.image, GREYS))


def before_after(it: Pipeline) -> Any:
    figure, axes = panels(1, 2, it.photo.shape, 7)
    picture(axes[0], it.photo, "before")
    picture(axes[1], it.enhanced, "after")
    return figure


def features(it: Pipeline) -> Any:
    """Of each layer the channels that differ most within the photograph."""
    figure, axes = plt.subplots(len(it.features), CHANNELS + 1, figsize=(15, 2.3 * len(it.features)))
    for row, (cells, layer) in enumerate(zip(axes, it.features)):
        picture(cells[0], np.clip(it.low, 0, 1) if row == 0 else None, "reduced to 256 × 256" if row == 0 else "")
        chosen = sorted(np.argsort(layer.std((1, 2)))[-CHANNELS:])
        for column, channel in enumerate(chosen):
            size = " × ".join(map(str, layer.shape[1:]))
            title = f"layer {row + 1}: {CHANNELS} of {len(layer)} channels, {size}" if column == 0 else ""
            picture(cells[column + 1], layer[channel], title, cmap="magma", interpolation="nearest")
    return figure


def grid(it: Pipeline) -> Any:
    """Each depth's cells, as the colour that their matrices make of a grey which the guide sends there."""
    depths = it.grid.shape[2]
    columns = min(depths, 4)
    figure, axes = panels(-(-depths // columns), columns, it.photo.shape, 3.6)
    for depth, cell in enumerate(axes.flat):
        nearest = abs(it.greys[0] - (depth + 0.5) / depths)
        at = int(nearest.argmin())
        if nearest[at] > 0.5 / depths:
            picture(cell, None, f"depth {depth + 1}, where no grey reads")
            continue
        grey = np.broadcast_to(GREYS[0, at], (*it.grid.shape[:2], 3))
        colours = bo.apply(it.grid[:, :, depth], grey)
        title = f"depth {depth + 1}, from a grey of {GREYS[0, at, 0]:.2f}"
        picture(cell, np.clip(colours, 0, 1), title, aspect="auto", interpolation="nearest")
    return figure


def coefficients(it: Pipeline) -> Any:
    """The matrices at the depth that most pixels read; one coefficient at full resolution, without and with depth."""
    depths = it.grid.shape[2]
    depth = int(np.bincount(np.clip(it.guide * depths, 0, depths - 1).astype(int).ravel()).argmax())
    change = it.grid[:, :, depth] - np.eye(3, 4, dtype=np.float32)
    most = float(np.percentile(abs(change), 98))
    shape = it.photo.shape
    figure = plt.figure(figsize=(16, 16 / 3 * shape[0] / shape[1] + 0.6))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    for (row, column), cell in np.ndenumerate(left.subplots(3, 4)):
        style = {"cmap": "RdBu_r", "vmin": -most, "vmax": most, "aspect": "auto", "interpolation": "nearest"}
        name = "RGB"[row] + "←" + ("RGB"[column] if column < 3 else "1")
        picture(cell, change[:, :, row, column], name, **style)
    flat = np.full_like(it.guide, (depth + 0.5) / depths)
    gains = [bo.slice(it.grid, guide)[..., 1, 1] for guide in (flat, it.guide)]
    low, high = np.percentile(gains[1], (1, 99))
    titles = ("G←G of this depth alone, enlarged", "G←G sliced with the guide")
    for cell, gain, title in zip(right.subplots(1, 2), gains, titles):
        picture(cell, gain, title, cmap="viridis", vmin=low, vmax=high)
    return figure


def guide(it: Pipeline) -> Any:
    depths = it.grid.shape[2]
    figure, (left, right) = panels(1, 2, it.photo.shape, 7)
    picture(left, it.guide, "the guide", cmap="cividis", vmin=0, vmax=1)
    for k in range(depths):
        colour = plt.get_cmap("cividis")((k + 0.5) / depths)
        right.axhspan(k / depths, (k + 1) / depths, color=colour, alpha=0.35, linewidth=0)
    counts, edges = np.histogram(it.image @ LUMA, bins=64, range=(0, 1))
    right.stairs(counts / counts.max() * 0.6, edges, fill=True, color=INK, alpha=0.25)
    right.plot(GREYS[0, :, 0], it.greys[0], color=INK, linewidth=2.5)
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="grey (the photograph's histogram behind)", ylabel="guide")
    right.set_title(f"from grey to the guide, across {depths} depths", loc="left")
    return figure


FIGURES: dict[str, Callable[[Pipeline], Any]] = {
    "before-after": before_after,
    "features": features,
    "grid": grid,
    "coefficients": coefficients,
    "guide": guide,
}


#: Of docs/gallery.md: the tutorial, and which of its figures.
TUTORIALS = {
    "edge-aware-filter": ("edge-aware-filter", 0),
    "spread-colours": ("edge-aware-filter", 2),
    "learned-guide": ("learn-a-guide", 0),
    "exposures": ("radiance-fields", 0),
}


def draw_tutorials(out: Path) -> None:
    pages = Path(__file__).parent / "tutorials"
    for tutorial in sorted({tutorial for tutorial, _ in TUTORIALS.values()}):
        text = (pages / f"{tutorial}.md").read_text(encoding="utf-8")
        cells = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        exec(compile("".join(cells), tutorial, "exec"), {"__name__": tutorial})
        for name, (source, number) in TUTORIALS.items():
            if source == tutorial:
                figure = plt.figure(plt.get_fignums()[number])
                figure.savefig(out / f"{name}.jpg", dpi=90, pil_kwargs={"quality": 88})
                print(out / f"{name}.jpg")
        plt.close("all")


def panels(rows: int, columns: int, shape: Any, width: float) -> Any:
    """A figure whose axes have the photograph's proportions."""
    height = width * shape[0] / shape[1] + 0.35
    return plt.subplots(rows, columns, figsize=(columns * width, rows * height))


def picture(axes: Any, pixels: Any, title: str, **style: Any) -> None:
    axes.set_axis_off()
    axes.set_title(title, loc="left", color=INK)
    if pixels is not None:
        axes.imshow(pixels, **style)


def read(file: Path | None, longest: int = 1500) -> Any:
    if file is None:
        from skimage import data

        return np.ascontiguousarray(data.coffee())
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((longest, longest))
    return np.asarray(upright)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of docs/how-it-works.md.")
    parser.add_argument("photo", type=Path, nargs="?", help="an image file (default: scikit-image's coffee)")
    parser.add_argument("--model", type=Path, default=SHIPPED, help="a model file (default: the one in the package)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model", help="default: %(default)s")
    parser.add_argument("--tutorials", action="store_true", help="draw docs/images from the tutorials instead")
    options = parser.parse_args()
    if options.tutorials:
        draw_tutorials(Path(__file__).parent / "images")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    it = Pipeline(read(options.photo), options.model)
    plt.rcParams.update({"figure.constrained_layout.use": True, "font.size": 12, "axes.titlesize": 12})
    plt.rcParams.update({"figure.facecolor": PAPER, "xtick.color": FAINT, "ytick.color": FAINT})
    for name, draw in FIGURES.items():
        figure = draw(it)
        figure.savefig(options.out / f"{name}.jpg", dpi=90, pil_kwargs={"quality": 88})
        plt.close(figure)
        print(options.out / f"{name}.jpg")


if __name__ == "__main__":
    main()
