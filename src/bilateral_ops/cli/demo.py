"""The demo: a local edit learnt at low resolution, applied to the full-resolution photograph in one pass."""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _fit, _gradcheck
from .._core.missing import missing
from .._core.settings import get_num_threads
from ..hdrnet import Predictor
from ..hdrnet.train.edits import LUMA, clahe
from ..ops import OPERATIONS
from ..ops._enhance import enhance
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_luma import LumaGuide
from ..ops._resize_area import resize_area
from ..photo.images import DAMAGED, ImageError, check_empty, check_size, open_picture, psnr, reading, reason, reduced
from . import CommandError

GRID = (16, 16, 8)
LOW = 256  # pixels on the long side of the low-resolution pair
ITERATIONS = 60
KNOTS = 16
#: Photographs smaller than this are tiled for the timing, so that it is the pixels that are timed.
TIMED_PIXELS = 2_000_000
RUNS = 9


@dataclass
class Result:
    """What the demo made and measured."""

    before: Any  # uint8, as target and after
    target: Any
    after: Any
    grid: Any
    guide: Any
    low: Any
    fits: dict[str, float]  # PSNR at low resolution, by guide
    chosen: str
    psnr_before: float
    psnr_after: float

    def curve(self) -> tuple[Any, Any]:
        """Greys, and their guide."""
        greys = np.linspace(0, 1, 256, dtype=np.float32)
        return greys, self.guide(np.repeat(greys[np.newaxis, :, np.newaxis], 3, axis=-1))[0]


def run(photo: str | None, out: str) -> bool:
    """Run the demo, print what it finds, and write its pictures; false where a gradient check fails."""
    if lacking := missing("demo", "scipy", "skimage", "matplotlib", "numba", "tqdm"):
        raise CommandError(f"demo: {lacking}.")
    before, name = _default_photo() if photo is None else (_read(photo), Path(photo).name)
    folder = _folder(out)
    height, width = before.shape[:2]
    predictor = Predictor.load()
    with closing(_Progress(2 * ITERATIONS + 5 + len(OPERATIONS))) as progress:
        result = _edit(before, progress)
        progress.stage("timing (Numba compiles first)")
        timing = _time(result)
        progress.step()
        reports = _gradcheck.check_operations(progress=lambda op: progress.step(f"checking the gradients of {op}"))
        progress.stage("enhancing with the network")
        enhanced, network = predictor(before), _median_time(predictor, (before,))
        progress.step()
        progress.stage("drawing")
        pictures = {"before": before, "target": result.target, "after": result.after, "hdrnet": enhanced}
        for file, pixels in pictures.items():
            _write(folder / f"{file}.png", pixels)
        _draw(result, folder / "grid.png")
        progress.step()

    fits = ", ".join(f"{guide} guide {value:.2f} dB" for guide, value in result.fits.items())
    low_height, low_width = result.low.shape[:2]
    print(f"photo      {name}, {width} × {height} pixels")
    print("target     CLAHE of the luma (scikit-image), the ratios of the colours kept")
    cells = " × ".join(map(str, result.grid.shape[:3]))
    print(f"fit        {cells} grid, at {low_width} × {low_height} pixels: {fits}")
    print(f"PSNR       before against target {result.psnr_before:.2f} dB")
    print(f"           after against target  {result.psnr_after:.2f} dB, with the {result.chosen} guide")
    print(f"time       {timing}")
    rows, columns = predictor.config.input_shape
    print(f"network    HDRnet predicts a grid from {columns} × {rows} pixels and")
    print(f"           renders the photograph with it in {network * 1e3:.2f} ms: hdrnet.png")
    print(f"\n{_gradcheck.table(reports)}\n")
    print(f"wrote      {', '.join(f'{name}.png' for name in (*pictures, 'grid'))} in {folder}")
    return all(reports.values())


# --- what it does


def _edit(before: Any, progress: _Progress) -> Result:
    full = before.astype(np.float32) / 255
    progress.stage("making the target")
    target = clahe(full, clip_limit=0.02)
    progress.step()
    size = reduced(full.shape, LOW)
    low, low_target = resize_area(full, size), resize_area(target, size)
    shape = (min(GRID[0], low.shape[0]), min(GRID[1], low.shape[1]), GRID[2])
    guides: dict[str, Any] = {"luma": LumaGuide(), "curves": _equalising_guide(low @ LUMA)}
    grids, fits = {}, {}
    for name, guide in guides.items():
        progress.stage(f"fitting with the {name} guide")
        with progress.reserve(ITERATIONS):
            grids[name] = _fit.fit(
                guide, low, low_target, shape, iterations=ITERATIONS, callback=lambda *_: progress.step()
            )
        fits[name] = psnr(np.clip(enhance(grids[name], guide, low), 0, 1), low_target)
    chosen = max(fits, key=lambda name: fits[name])
    progress.stage("applying the grid")
    after = enhance(grids[chosen], guides[chosen], before)
    progress.step()
    written = np.rint(target * 255).astype(np.uint8)
    return Result(
        before=before,
        target=written,
        after=after,
        grid=grids[chosen],
        guide=guides[chosen],
        low=low,
        fits=fits,
        chosen=chosen,
        psnr_before=psnr(before, written),
        psnr_after=psnr(after, written),
    )


def _equalising_guide(luma: Any) -> CurvesGuide[Any]:
    """A curve of the luma half-way to its histogram equalisation: depth cells go where the pixels are."""
    knots = np.linspace(0, 1, KNOTS + 1)
    ranked = np.sort(luma, axis=None)
    equalised = np.interp(knots, ranked, np.linspace(0, 1, ranked.size))
    curve = 0.5 * knots + 0.5 * equalised
    curve = (curve - curve[0]) / (curve[-1] - curve[0])
    slopes = np.diff(curve) * KNOTS
    row = np.zeros((3, KNOTS), np.float32)
    row[0] = np.diff(slopes, prepend=0.0)
    matrix = np.zeros((3, 3), np.float32)
    matrix[0] = LUMA
    shifts = np.tile(knots[:-1].astype(np.float32), (3, 1))
    mix = np.array([1, 0, 0], np.float32)
    return CurvesGuide(matrix, np.zeros(3, np.float32), shifts, row, mix, np.float32(0))


def _time(result: Result) -> str:
    """The fused call beside the loops that people write in Numba, on the same pixels and threads."""
    import numba

    from ..reference import numba as reference

    threads = get_num_threads()
    height, width = result.before.shape[:2]
    down = across = 1
    while down * height * across * width < TIMED_PIXELS:
        if down * height <= across * width:
            down += 1
        else:
            across += 1
    pixels = np.tile(result.before, (down, across, 1))
    # Numba's threads are limited by those it started with.
    config: Any = numba.config
    threads_numba = min(threads, config.NUMBA_NUM_THREADS)
    earlier = numba.get_num_threads()
    numba.set_num_threads(threads_numba)
    try:
        arguments = (result.grid, result.guide, pixels)
        ours, theirs = (_median_time(f, arguments) for f in (enhance, reference.enhance))
    finally:
        numba.set_num_threads(earlier)
    tiled = f", the photograph tiled {across} × {down}" if down * across > 1 else ""
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    if threads_numba != threads:
        count += f" ({threads_numba} for Numba)"
    return (
        f"enhance {ours * 1e3:.2f} ms, reference.numba.enhance {theirs * 1e3:.2f} ms ({theirs / ours:.1f} times)\n"
        f"           median of {RUNS} with {count}, uint8, "
        f"{pixels.shape[1]} × {pixels.shape[0]} pixels{tiled}"
    )


def _median_time(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    out = function(*arguments)  # warm-up, compilation included
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        function(*arguments, out=out)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# --- files


def _folder(out: str) -> Path:
    """The folder to write to, made and tried before anything is computed."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / ".bilateral-ops"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise _unwritable(out, error) from None
    return folder


def _unwritable(path: Any, error: OSError) -> CommandError:
    return CommandError(f"demo: --out must be a folder that can be written to, got {str(path)!r} ({reason(error)}).")


def _default_photo() -> tuple[Any, str]:
    """The largest everyday colour photograph in scikit-image's own package: nothing is downloaded."""
    from skimage import data

    stereo_motorcycle: Any = data.stereo_motorcycle
    try:
        return np.ascontiguousarray(stereo_motorcycle()[0][..., :3]), "stereo_motorcycle (scikit-image)"
    except Exception as error:
        raise CommandError(
            f"demo: scikit-image lacks its motorcycle photograph ({reason(error)}); name a PHOTO."
        ) from None


def _read(photo: str) -> Any:
    """A photograph file as uint8 RGB: turned upright, grey made RGB, transparency dropped, 16 bits cut to 8."""
    path = Path(photo)
    if not path.exists():
        raise CommandError(f"demo: PHOTO must be an image file, got {photo!r}, but there is none.")
    if path.is_dir():
        raise CommandError(f"demo: PHOTO must be an image file, got {photo!r}, which is a folder.")
    try:
        with warnings.catch_warnings(), reading(DAMAGED):
            warnings.simplefilter("ignore")  # the sentence says what is wrong
            return _decoded(path)
    except ImageError as error:
        raise CommandError(f"demo: PHOTO must be an image file, got {photo!r}, which {error}.") from None


def _decoded(path: Path) -> Any:
    from PIL import Image, ImageOps, UnidentifiedImageError

    check_empty(path)
    try:
        with Image.open(path) as file:
            check_size(file.height, file.width)
            image = ImageOps.exif_transpose(file)
    except Image.DecompressionBombError:
        raise ImageError("has more pixels than Pillow opens") from None
    except UnidentifiedImageError:
        open_picture(path).close()  # says what is wrong, of the kinds that it knows
        raise ImageError("is of no format that is known") from None
    if image.mode == "F":
        raise ImageError("has floats; it must have 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        grey = (np.clip(pixels, 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=-1)
    # By way of RGBA, as a palette may hold transparent entries.
    if image.mode == "P":
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _write(path: Path, pixels: Any) -> None:
    from PIL import Image

    try:
        Image.fromarray(pixels).save(path)
    except OSError as error:
        raise _unwritable(path, error) from None


# --- the picture of the grid

_PAPER, _INK, _FAINT = "#fbfaf7", "#1d2330", "#6b7280"


def _draw(result: Result, path: Path) -> None:
    """Before, target and after; the guide; and what each depth of the grid does to a grey."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"font.family": "sans-serif", "font.size": 12, "text.color": _INK, "axes.titlesize": 12}
    aspect = _aspect(result)
    columns = 4
    rows = -(-result.grid.shape[2] // columns)
    heights = [5.0 * aspect + 1.05, 5.0 * aspect + 1.2, rows * (3.55 * aspect + 0.55) + 0.75]
    with matplotlib.rc_context(style):
        figure: Any = Figure(figsize=(16, sum(heights)), facecolor=_PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.25, h_pad=0.12, wspace=0.015)
        photos, guide, slices = figure.subfigures(3, 1, height_ratios=heights)
        for part in (photos, guide, slices):
            part.set_facecolor(_PAPER)
        _draw_photos(result, photos)
        _draw_guide(result, guide)
        _draw_slices(result, slices, rows, columns)
        try:
            figure.savefig(path, dpi=100)
        except OSError as error:
            raise _unwritable(path, error) from None


def _aspect(result: Result) -> float:
    """Height over width, kept from extremes so that the picture stays a picture."""
    return float(np.clip(result.before.shape[0] / result.before.shape[1], 0.3, 1.5))


def _heading(part: Any, text: str) -> None:
    part.suptitle(text, x=0.009, ha="left", fontsize=16, fontweight="bold")


def _titled(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", color=_INK)
    axes.spines[:].set_visible(False)


def _picture(axes: Any, title: str) -> None:
    _titled(axes, title)
    axes.set(xticks=[], yticks=[])


def _bar_below(axes: Any, shown: Any, ticks: Any) -> None:
    place = axes.inset_axes((0.0, -0.075, 1.0, 0.03))
    bar = axes.figure.colorbar(shown, cax=place, orientation="horizontal", ticks=ticks)
    bar.outline.set_visible(False)
    place.tick_params(colors=_FAINT, length=0)


def _draw_photos(result: Result, part: Any) -> None:
    cells = " × ".join(map(str, result.grid.shape[:3]))
    low = f"{result.low.shape[1]} × {result.low.shape[0]}"
    _heading(part, f"A local edit held by {cells} affine maps, fitted at {low} pixels")
    titles = (
        f"before: {result.psnr_before:.1f} dB from the target",
        "target: local histogram equalisation",
        f"after: {result.psnr_after:.1f} dB from the target",
    )
    for axes, title, pixels in zip(part.subplots(1, 3), titles, (result.before, result.target, result.after)):
        axes.imshow(pixels, interpolation="antialiased")
        _picture(axes, title)


def _draw_guide(result: Result, part: Any) -> None:
    """The guide map, its curve with the photograph's histogram, and what the grid leaves over."""
    import matplotlib
    from matplotlib.colors import BoundaryNorm

    depths = result.grid.shape[2]
    guide = np.asarray(result.guide(result.before))
    _heading(part, f"The guide ({result.chosen}): the depth at which a pixel reads the grid")
    left, middle, right = part.subplots(1, 3)
    colors = matplotlib.colormaps["cividis"]
    shown = left.imshow(guide, cmap=colors, vmin=0, vmax=1, interpolation="antialiased")
    _picture(left, "guide map")
    _bar_below(left, shown, [0, 0.25, 0.5, 0.75, 1])

    luma = (result.before.astype(np.float32) / 255 @ LUMA).ravel()
    greys, curve = result.curve()
    for k in range(depths):
        middle.axhspan(k / depths, (k + 1) / depths, color=colors((k + 0.5) / depths), alpha=0.35, linewidth=0)
    counts, edges = np.histogram(luma, bins=64, range=(0, 1))
    middle.stairs(counts / max(1, counts.max()) * 0.6, edges, fill=True, color=_INK, alpha=0.25)
    middle.plot(greys, curve, color=_INK, linewidth=2.5)
    middle.set(xlim=(0, 1), ylim=(0, 1), xlabel="luma (its histogram in grey)", ylabel="guide")
    middle.set_yticks(np.arange(depths + 1) / depths, ["0", *[""] * (depths - 1), "1"])
    _titled(middle, f"from luma to the guide, across {depths} depths")
    middle.set_box_aspect(_aspect(result))
    middle.tick_params(colors=_FAINT, length=0)
    middle.xaxis.label.set_color(_FAINT)
    middle.yaxis.label.set_color(_FAINT)

    difference = np.abs(result.after.astype(np.int16) - result.target).max(axis=-1)
    steps = [0, 1, 2, 4, 8, 16, 32, 64]
    left_over = matplotlib.colormaps["magma"]
    shown = right.imshow(
        difference, cmap=left_over, norm=BoundaryNorm(steps, left_over.N, extend="max"), interpolation="nearest"
    )
    _picture(right, "left over: |after − target|, of 255")
    _bar_below(right, shown, steps)


def _draw_slices(result: Result, part: Any, rows: int, columns: int) -> None:
    """For each depth: by how many stops each cell's affine map changes the mean colour of the pixels that read it."""
    from ..ops._splat import splat

    height, width, depths = result.grid.shape[:3]
    greys, curve = result.curve()
    grey = np.interp((np.arange(depths) + 0.5) / depths, curve, greys)
    guide, ones = result.guide(result.low), np.ones((*result.low.shape[:2], 1), np.float32)
    pixels = splat(guide, ones, (height, width, depths))
    mean = splat(guide, result.low, (height, width, depths)) / np.maximum(pixels, 1e-6)
    # Where none does, a grey of the depth stands in.
    mean = np.where(pixels < 0.5, grey[:, np.newaxis], mean)
    mapped = np.einsum("...oi,...i->...o", result.grid[..., :3], mean) + result.grid[..., 3]
    stops = np.log2(np.maximum(mapped @ LUMA, 0.004) / np.maximum(mean @ LUMA, 0.004))
    limit = float(np.clip(np.quantile(np.abs(stops), 0.98), 0.5, 3.0))
    _heading(part, "The grid, depth by depth: how far each cell lifts or lowers the pixels that read it")
    panels = part.subplots(rows, columns, squeeze=False)
    for k, axes in enumerate(panels.flat):
        axes.set_visible(k < depths)
        if k >= depths:
            continue
        shown = axes.imshow(
            stops[:, :, k],
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            interpolation="nearest",
            aspect="auto",
            extent=(0, width, height, 0),
        )
        # Cells that no pixel reads are told by smoothness alone: a dot says so.
        rows_empty, columns_empty = np.nonzero(pixels[:, :, k, 0] < 0.5)
        axes.scatter(columns_empty + 0.5, rows_empty + 0.5, s=6, color="#8d93a0", linewidths=0)
        axes.set_box_aspect(_aspect(result))
        _picture(axes, f"depth {k + 1}: luma {grey[k]:.2f}")
    bar = part.colorbar(shown, ax=panels, location="right", aspect=35, pad=0.015, extend="both")
    bar.set_label("stops; a dot: no pixel reads this cell", color=_FAINT)
    bar.outline.set_visible(False)


# --- progress


class _Progress:
    """A bar on standard error where that is a terminal; silence elsewhere."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(
            total=total,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            leave=False,
            desc="starting",
            bar_format="{desc:<40} {percentage:3.0f}% |{bar}| {elapsed}",
        )

    def close(self) -> None:
        self.bar.close()

    def stage(self, what: str) -> None:
        self.bar.set_description_str(what)

    def step(self, what: str | None = None) -> None:
        if what is not None:
            self.stage(what)
        self.bar.update()

    @contextmanager
    def reserve(self, steps: int) -> Iterator[None]:
        """Steps that may end early: the bar goes on to where they would have ended."""
        end = self.bar.n + steps
        yield
        self.bar.update(end - self.bar.n)
