"""Files through a model: pictures and videos, several at a time, each written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .._core.checks import brief, real
from .._core.missing import missing
from .._core.settings import get_num_threads
from .._core.whole import whole
from ..hdrnet._device import DEVICES, on_device
from ..hdrnet._predict import Predictor
from ..ops._guide_luma import guide_luma
from . import images as _images
from . import video as _video
from .images import (
    COMPARED,
    Averages,
    ImageError,
    NearestPixels,
    Picture,
    Spare,
    ahead,
    colours,
    open_picture,
    reason,
    reduced,
    write_comparison,
)
from .video import Smoother, Transcoding, VideoOptions

__all__ = ["Enhanced", "VideoOptions", "enhance_files"]

#: What is written in place of a kind that isn't.
SUBSTITUTES = {**_images.SUBSTITUTES, **_video.SUBSTITUTES}
#: What Python, the libraries and a model take, of the memory limit.
BASE = 250 * 10**6
#: Bytes per pixel that the pyramid's levels take, which are floats; and pixels that are rendered at once beside others.
FLOATS = 48
CUT = 1 << 20

T = TypeVar("T")


class EnhanceError(ValueError):
    """What keeps the work from beginning, in one sentence."""


@dataclass
class Enhanced:
    """What became of one file."""

    source: Path
    target: Path
    error: str | None = None  # in words that follow the file's name
    pixels: int = 0  # of all frames
    frames: int = 0  # of a video
    begun: float = 0.0  # seconds, as time.perf_counter() has them
    ended: float = 0.0
    lost: tuple[str, ...] = ()  # what of the file is not in the result, in words that follow "without"


@dataclass
class _Job:
    source: Path
    target: Path
    compare: Path | None
    video: bool

    @property
    def size(self) -> int:
        """Bytes to read; 0 if it is gone."""
        with contextlib.suppress(OSError):
            return self.source.stat().st_size
        return 0


@dataclass
class _Work:
    """What all jobs share."""

    predictor: Any
    strength: float
    quality: int | None
    video: VideoOptions
    memory: _Memory
    step: Callable[[_Job, float], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def checked(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self.stop.is_set():
                raise _Stopped
            yield item


class _Stopped(Exception):
    """The others stop, too."""


def enhance_files(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | Predictor | None = None,
    device: str = "cpu",
    strength: float = 1.0,
    compare: bool = False,
    overwrite: bool = False,
    memory_limit: int = 2 * 10**9,
    quality: int | None = None,
    video: VideoOptions | None = None,
    progress: bool = False,
) -> list[Enhanced]:
    """Enhance picture and video files.

    Parameters
    ----------
    inputs : sequence of paths
        Files, folders (all pictures and videos in them, their folders kept) and patterns such as ``"*.jpg"``.
    out : path
        The folder for the results, which have their inputs' names and kinds.
    model : path or Predictor, optional
        A model file; without one, the model in the package.
    device : "cpu" or "cuda"
        Where the model computes. On a CUDA device by CuPy, or else by PyTorch, whichever is installed.
    strength : float
        0 leaves pictures as they are, 1 is the model's result.
    compare : bool
        Also write ``NAME.compare.jpg``: before and after, side by side. Of a video, its middle frame.
    overwrite : bool
        Replace files that exist; results have their permissions.
    memory_limit : int
        Bytes to stay within. TIFF files larger than that are read and written in pieces; others are refused.
    quality : int, optional
        1–100, of what is coded with loss; without it, a JPEG's own tables, and 90.
    video : VideoOptions, optional
    progress : bool
        Show a bar on standard error, if that is a terminal.

    Returns
    -------
    list of Enhanced
        One for each file; ``error`` says what is wrong with those that were not written, ``lost`` what of the others
        is not in their results.

    Raises
    ------
    ValueError
        Before anything is read or written: a name that leads nowhere, two results of one name, a result that exists, a
        folder that can't be written to.

    Notes
    -----
    Grey pictures stay grey: the model sees them as RGB, and the luma of its result is written. Alpha is kept as it is;
    palettes become RGB; samples of fewer than 8 bits become 8, of 9 to 15 bits 16, but AVIF and HEIC keep theirs; GIF
    becomes PNG. Pictures are turned upright, and say so; other metadata and the ICC profile are kept. Pixels with a NaN
    or an infinity stay. Animations keep their times, but frames that are alike may become one. Videos keep their depth,
    chroma, matrix and range: the first encoder that has them is taken.
    """
    if lacking := missing("enhance", "PIL", "tifffile", "imagecodecs", "tqdm"):
        raise EnhanceError(lacking)
    if memory_limit < 2 * BASE:
        raise EnhanceError(f"--memory-limit must be at least {2 * BASE // 10**6}MB, got {memory_limit} bytes")
    number = real(strength)
    if number is None or not np.isfinite(number):
        raise EnhanceError(f"--strength must be a finite number, got {brief(strength)}")
    if quality is not None and not 1 <= quality <= 100:
        raise EnhanceError(f"--quality must be from 1 to 100, got {quality}")
    if device not in DEVICES:
        raise EnhanceError(f"--device must be {' or '.join(DEVICES)}, got {brief(device)}")
    video = video or VideoOptions()
    if not 0 <= video.smoothing < np.inf:
        raise EnhanceError(f"--smoothing must be 0 or more seconds, got {video.smoothing}")
    passed: Counter[str] = Counter()
    jobs = _plan(inputs, Path(out), compare, overwrite, passed)
    for suffix in dict.fromkeys(job.target.suffix for job in jobs if job.video):
        if lacking := missing("video", "av"):
            raise EnhanceError(lacking)
        if video.codec is not None and not _video.is_encoder(video.codec):
            raise EnhanceError(f"--codec must be an encoder of video that FFmpeg has, got {video.codec!r}")
        codec, most = video.encoder(suffix)
        if video.crf is not None and most is not None and not 0 <= video.crf <= most:
            raise EnhanceError(f"--crf must be from 0 to {most} for {codec}, got {brief(video.crf)}")
    try:
        predictor = model if isinstance(model, Predictor) else Predictor.load(model)
    except (OSError, ValueError) as error:
        raise EnhanceError(f"--model must be a model file ({reason(error)})") from None
    try:
        computing = on_device(predictor, device)
    except RuntimeError as error:
        raise EnhanceError(f"--device {device} needs {error}") from None
    with closing(_Progress(len(jobs), progress)) as bar:
        if passed:
            bar.say(f"passed over {_passed_over(passed)}")
        memory = _Memory(memory_limit - BASE)
        work = _Work(computing, strength, quality, video, memory, bar.step)
        return _run(jobs, work, bar)


def report(results: Sequence[Enhanced]) -> str:
    """What was done, in a line, and one for each video."""
    done = [result for result in results if result.error is None]
    seconds = max((result.ended for result in results), default=0) - min((r.begun for r in results), default=0)
    pixels = sum(result.pixels for result in done)
    lines = [
        f"{result.source.name}: {result.frames} frames, {result.frames / (result.ended - result.begun):.1f} a second"
        for result in done
        if result.frames
    ]
    count = f"{len(done)} of {len(results)}" if len(done) < len(results) else f"{len(done)}"
    lines.append(
        f"{count} file{'s' if len(results) != 1 else ''} enhanced: {pixels / 1e6:.1f} megapixels in {seconds:.1f} s, "
        f"{len(done) / seconds:.1f} files and {pixels / 1e6 / seconds:.1f} megapixels a second"
    )
    return "\n".join(lines)


# --- what there is to do


def _plan(
    inputs: Sequence[str | os.PathLike[str]], out: Path, compare: bool, overwrite: bool, passed: Counter[str]
) -> list[_Job]:
    """Every file with its result's name, once it is clear that none is in another's way."""
    found: dict[Path, Path] = {}  # target → source
    for name in inputs:
        for source, relative in _found(Path(name), out, passed):
            other_kind = SUBSTITUTES.get(relative.suffix.lower())
            target = out / (relative.with_suffix(other_kind) if other_kind else relative)
            other = found.setdefault(target, source)
            if other.resolve() != source.resolve():
                raise EnhanceError(
                    f"{str(other)!r} and {str(source)!r} would both become {str(target)!r}; give each a folder"
                )
    jobs = []
    for target, source in found.items():
        picture = target.with_name(f"{target.name}.compare.jpg") if compare else None
        if picture is not None and picture in found:
            raise EnhanceError(
                f"the comparison of {str(source)!r} would have the name of another result, {picture.name!r}"
            )
        jobs.append(_Job(source, target, picture, source.suffix.lower() in _video.SUFFIXES))
    sources = {source.resolve() for source in found.values()}
    made = [path for job in jobs for path in (job.target, job.compare) if path is not None]
    for path in made:
        if path.resolve() in sources:
            raise EnhanceError(
                f"--out must be a folder where results replace no inputs, got {str(out)!r} with {path.name!r} in it"
            )
    existing = [path for path in made if os.path.lexists(path)]
    if existing and not overwrite:
        others = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise EnhanceError(f"{str(existing[0])!r}{others} exist already; --overwrite replaces them")
    for path in existing:
        if path.is_dir():
            raise EnhanceError(f"{str(path)!r} is a folder, where a result would be written")
    if not jobs:
        others = f", but {_passed_over(passed)}" if passed else ""
        raise EnhanceError(
            f"IN must name pictures or videos, got {', '.join(map(repr, map(str, inputs)))}, with none in it{others}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with whole(out / "trial", keep=False) as trial:
            trial.touch()
    except OSError as error:
        raise EnhanceError(
            f"--out must be a folder that can be written to, got {str(out)!r} ({reason(error)})"
        ) from None
    return jobs


def _found(path: Path, out: Path, passed: Counter[str]) -> Iterator[tuple[Path, Path]]:
    """Files, and their results' names within the folder for results; the kinds of others are counted."""
    if path.is_dir():
        kept_out = out.resolve()
        for folder, folders, files in os.walk(path):
            here = Path(folder)
            folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != kept_out)
            for file in sorted(files):
                if file.startswith("."):
                    continue
                source, kind = here / file, Path(file).suffix.lower()
                if not source.is_file():
                    passed["no file"] += 1
                elif kind not in (*_images.SUFFIXES, *_video.SUFFIXES) or (kind == ".ts" and not _video.is_ts(source)):
                    passed[kind or "without a suffix"] += 1
                else:
                    yield source, source.relative_to(path)
    elif path.is_file():
        yield path, Path(path.name)
    elif path.exists():
        raise EnhanceError(f"IN must be a file or a folder, got {str(path)!r}, which is a pipe or a device")
    elif glob.has_magic(str(path)) and (matches := sorted(glob.glob(str(path), recursive=True))):
        for match in matches:
            yield from _found(Path(match), out, passed)
    else:
        raise EnhanceError(f"IN must be a file or a folder, got {str(path)!r}, but there is none")


def _passed_over(kinds: Counter[str]) -> str:
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{kinds.total()} file{'s' if kinds.total() > 1 else ''} of other kinds: {listed}"


# --- doing it


def workers() -> int:
    """How many files are worked on at a time: with several threads one more, so that none idles for the disk."""
    threads = get_num_threads()
    return threads + 1 if threads > 1 else 1


def _run(jobs: list[_Job], work: _Work, bar: _Progress) -> list[Enhanced]:
    pool = ThreadPoolExecutor(min(len(jobs), workers()))
    try:
        # The largest first, so that no thread has long to wait for the last.
        results = {n: pool.submit(_do, jobs[n], work) for n in sorted(range(len(jobs)), key=lambda n: -jobs[n].size)}
        for result in as_completed(results.values()):
            bar.done(result.result())
    finally:
        work.stop.set()
        work.memory.wake()
        pool.shutdown(cancel_futures=True)
    return [results[n].result() for n in range(len(jobs))]


def _do(job: _Job, work: _Work) -> Enhanced:
    result = Enhanced(job.source, job.target, begun=time.perf_counter())
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(whole(job.target))
            picture = stack.enter_context(whole(job.compare)) if job.compare else None
            if job.video:
                # One at a time: the codecs have threads, and frames in store, of their own.
                with work.memory.reserve(work.memory.limit, work.stop):
                    how = work.predictor, work.strength, work.video
                    video = Transcoding(job.source, target, job.target.suffix, *how, picture)
                    with closing(video.frames()) as frames:
                        for pixels, part in work.checked(frames):
                            result.pixels += pixels
                            result.frames += 1
                            work.step(job, part)
                    result.lost = tuple(dict.fromkeys(video.lost))
            else:
                result.pixels, result.lost = _enhance_picture(job, work, target, picture)
            if work.stop.is_set():
                raise _Stopped
    except ImageError as error:
        result.error = str(error)
    except _Stopped:
        result.error = "was not finished"
    except OSError as error:
        result.error = f"cannot be written ({reason(error)})"
    except MemoryError as error:
        result.error = f"cannot be enhanced ({reason(error)})"
    except Exception as error:
        result.error = f"failed ({type(error).__name__}: {reason(error)})"
    result.ended = time.perf_counter()
    return result


def _enhance_picture(job: _Job, work: _Work, target: Path, comparison: Path | None) -> tuple[int, tuple[str, ...]]:
    margin = work.predictor.margin
    with closing(open_picture(job.source)) as picture:
        picture.fit(work.memory.limit, FLOATS if margin else 0)
        size = picture.height, picture.width
        # In pieces it takes what there is; with a margin the result is another array.
        needed = picture.memory + bool(margin) * picture.nbytes if picture.whole else work.memory.limit
        picture.spare = work.memory.spare
        shown = [Averages(*size, reduced(size, COMPARED)) for _ in range(2)] if comparison else []
        with work.memory.reserve(needed, work.stop), closing(picture):
            made = (_frames if picture.frames > 1 else _bands)(job, work, picture, shown)
            picture.write(target, made, work.quality)
            if comparison:
                before, after = (part.result for part in shown)
                write_comparison(comparison, before, after, picture.metadata.icc)
        return picture.frames * picture.pixels, tuple(picture.metadata.lost)


def _bands(job: _Job, work: _Work, picture: Picture, shown: list[Averages]) -> Iterator[tuple[int, Any]]:
    """The bands of a picture, rendered under its grid; before and after are added to ``shown``."""
    predictor, height, width = work.predictor, picture.height, picture.width
    margin = predictor.margin
    if picture.whole:
        ((_, pixels),) = picture.bands()
        low = predictor.low_resolution(colours(picture, pixels))
    else:
        config = predictor.config
        way = Averages if config.reduce == "area" else NearestPixels
        network_input = way(height, width, config.input_shape)
        for top, band in work.checked(ahead(picture.bands())):
            network_input.add(top, colours(picture, band))
            work.step(job, len(band) / height / 2)
        low = network_input.result
    grid = predictor.grid(low)

    def rendered() -> Iterator[tuple[int, Any]]:
        bands = picture.bands()
        if picture.whole and margin:
            bands = _cut(bands, max(margin, CUT // width))
        for top, start, rows, stop in _surrounded(bands, margin):
            band = rows[start:stop]
            if shown:
                shown[0].add(top, colours(picture, band))
            result = _render(work, picture, grid, rows, (top - start, 0, height, width))[start:stop]
            if shown:
                shown[1].add(top, colours(picture, result))
            yield top, result
            work.step(job, len(band) / height / (1 if picture.whole else 2))

    made = work.checked(rendered())
    if not picture.whole:
        return ahead(made)
    return iter([(0, np.concatenate([rows for _, rows in made]))]) if margin else made


def _frames(job: _Job, work: _Work, picture: Picture, shown: list[Averages]) -> Iterator[tuple[int, Any]]:
    """The frames of an animation, whose grids change smoothly as a video's do; its middle one is added to ``shown``."""
    smoother = Smoother(work.video.smoothing)
    for number, (begins, frame) in enumerate(work.checked(picture.moving())):
        middle = shown if number == picture.frames // 2 else ()
        low = work.predictor.low_resolution(colours(picture, frame))
        grid = smoother(work.predictor.grid(low), low, begins)
        for part in middle[:1]:
            part.add(0, colours(picture, frame))
        result = _render(work, picture, grid, frame, (0, 0, picture.height, picture.width))
        for part in middle[1:]:
            part.add(0, colours(picture, result))
        yield 0, result
        work.step(job, 1 / picture.frames)


def _render(work: _Work, picture: Picture, grid: Any, rows: Any, window: tuple[int, int, int, int]) -> Any:
    """The rows with their colours changed: in place, or where neighbours are still to be read from them, in a copy."""
    given = colours(picture, rows)
    if work.predictor.margin:
        rows = rows.copy()
    if picture.colours == 3:
        work.predictor.render(grid, given, strength=work.strength, window=window, out=rows[..., :3])
    else:
        made = work.predictor.render(grid, given, strength=work.strength, window=window)
        if rows.dtype.kind == "u":
            rows[..., 0] = np.rint(np.clip(guide_luma(made), 0, 1) * np.iinfo(rows.dtype).max)
        else:  # exact where all three are equal
            red, green, blue = np.moveaxis(made, -1, 0)
            rows[..., 0] = green + made.dtype.type(0.299) * (red - green) + made.dtype.type(0.114) * (blue - green)
    return rows


def _cut(bands: Iterable[tuple[int, Any]], rows: int) -> Iterator[tuple[int, Any]]:
    """Bands of so many rows."""
    for top, band in bands:
        for start in range(0, len(band), rows):
            yield top + start, band[start : start + rows]


def _surrounded(bands: Iterable[tuple[int, Any]], margin: int) -> Iterator[tuple[int, int, Any, int]]:
    """Bands with up to so many rows of their neighbours: the band's first row, and where in these rows it lies."""
    if not margin:
        yield from ((top, 0, band, len(band)) for top, band in bands)
        return
    above: list[Any] = []
    waiting: tuple[int, Any] | None = None
    for following in itertools.chain(bands, [None]):
        if waiting is not None:
            top, band = waiting
            parts = [*above, band, *([following[1][:margin]] if following else [])]
            start = sum(map(len, above))
            yield top, start, np.concatenate(parts) if len(parts) > 1 else band, start + len(band)
            above = [band[-margin:]]
        waiting = following


# --- tools


class _Memory:
    """Bytes that jobs take and give back; one that finds too few waits."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spare = Spare()  # within what is free
        self._free = limit
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int, stop: threading.Event) -> Iterator[None]:
        count = min(count, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count or stop.is_set())
            if stop.is_set():
                raise _Stopped
            self._free -= count
            self.spare.shrink(self._free)
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Progress:
    """The bar, and a line for each file that failed."""

    def __init__(self, total: int, shown: bool) -> None:
        from tqdm import tqdm

        form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"
        self._bar: Any = tqdm(total=total, disable=None if shown else True, bar_format=form, dynamic_ncols=True)
        self._shown, self._start = shown, time.perf_counter()
        self._parts: dict[Path, float] = {}
        self._pixels = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        self._bar.close()

    def step(self, job: _Job, part: float) -> None:
        """A part of a file is done."""
        with self._lock:
            self._parts[job.target] = self._parts.get(job.target, 0) + part
            self._bar.set_description_str(job.source.name, refresh=False)
            self._bar.update(part)

    def done(self, result: Enhanced) -> None:
        with self._lock:
            self._pixels += result.pixels
            speed = self._pixels / 1e6 / (time.perf_counter() - self._start)
            text = f"{speed:.1f} MP/s"
            if result.frames:
                text += f", {result.frames / (result.ended - result.begun):.1f} frames/s"
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(1 - self._parts.pop(result.target, 0))
        said = []
        if result.target.suffix != result.source.suffix:
            said.append(f"as {result.target.name!r}")
        if result.lost:
            said.append(f"without {', '.join(result.lost)}")
        if result.error or said:
            self.say(f"{str(result.source)!r} {result.error or 'is written ' + ', '.join(said)}")

    def say(self, sentence: str) -> None:
        if self._shown:
            with self._lock:
                self._bar.write(f"bilateral-ops enhance: {sentence}.", file=sys.stderr)
