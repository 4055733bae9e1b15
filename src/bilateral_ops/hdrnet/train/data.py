"""The photographs that are trained on: found, checked, kept in memory, cut, and edited where the edit is built in."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ... import resize_area
from ...photo.images import ImageError, read
from .edits import edited
from .options import Options

#: Files that systems leave in folders.
_NOT_MEANT = ("thumbs.db", "desktop.ini")


class DataError(ValueError):
    """What is wrong with a folder of photographs, a line for each."""


@dataclass(frozen=True)
class Pair:
    """Files of a photograph and of what an edit made of it (``None``: the edit is built in)."""

    name: str
    input: Path
    target: Path | None
    #: Of both files' pixels.
    checksum: int = 0
    #: Rows and columns to which both are reduced, where the files' differ.
    size: tuple[int, int] | None = None


class Photographs:
    """Pairs of photographs and targets, decoded, in a folder of one of these layouts.

        FOLDER/input/NAME.jpg, FOLDER/target/NAME.png     the same names; endings may differ, folders may be within;
                                                          the second folder may be called output
        FOLDER/input/NAME.jpg  or  FOLDER/NAME.jpg        with a built-in edit

    A photograph and a target of different sizes are both reduced to the smaller number of rows and of columns.

    Parameters
    ----------
    folder : path
    edit : str, optional
        One of ``EDITS``.
    memory : float
        Gigabytes in which decoded photographs are kept; others are read again whenever they are needed.
    progress : callable, optional
        Wraps the iteration over the pairs while they are read, as tqdm does.

    Raises
    ------
    DataError
        Every file without a twin, of other proportions than its twin, that is no image, or is cut off: a line each.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        edit: str | None,
        *,
        memory: float = 4,
        progress: Callable[[list[Pair]], Iterable[Pair]] = iter,
    ) -> None:
        self.edit = edit
        self.memory = _Memory(memory * 1e9)
        found, problems = _find(Path(folder), edit)
        self.pairs: list[Pair] = []
        for pair in progress(found):
            wrong, checksum, size = self._try(pair)
            problems += wrong
            self.pairs.append(replace(pair, checksum=checksum, size=size))
        if problems:
            count = f"{len(problems)} {'file is' if len(problems) == 1 else 'files are'} in the way"
            raise DataError("\n".join((f"train: {count}.", *problems)))
        if not self.pairs:
            raise DataError(f"train: {folder} must have photographs, but there are none.")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[str, Any, Any]:
        """Name, photograph and target (H, W, 3), whole, in the files' own dtypes."""
        return self.pairs[i].name, self.image(i), self.target(i)

    def __iter__(self) -> Iterator[tuple[str, Any, Any]]:
        return (self[i] for i in range(len(self)))

    @property
    def digest(self) -> int:
        """Of all names and pixels."""
        return zlib.crc32(repr([(pair.name, pair.checksum) for pair in self.pairs]).encode())

    def subset(self, chosen: Iterable[int]) -> Photographs:
        """Some of them, in the same memory."""
        other = object.__new__(Photographs)
        other.__dict__ = {**self.__dict__, "pairs": [self.pairs[i] for i in chosen]}
        return other

    def image(self, i: int) -> Any:
        return self._read(self.pairs[i].input, self.pairs[i].size)

    def target(self, i: int) -> Any:
        path = self.pairs[i].target
        if path is not None:
            return self._read(path, self.pairs[i].size)
        return self.memory.get((self.pairs[i].input, self.edit), lambda: edited(self.image(i), str(self.edit)))

    def _read(self, path: Path, size: tuple[int, int] | None) -> Any:
        if size is None:
            return self.memory.get((path, "image"), lambda: read(path))
        return self.memory.get((path, size), lambda: resize_area(read(path), size))

    def _try(self, pair: Pair) -> tuple[list[str], int, tuple[int, int] | None]:
        """Read a pair: what is wrong with it, its pixels' checksum, and the size to which it is reduced."""
        problems, shapes, checksum = [], [], 0
        for path in filter(None, (pair.input, pair.target)):
            try:
                pixels = self._read(path, None)
            except ImageError as error:
                problems.append(f"{path}: {error}")
                continue
            shapes.append(pixels.shape)
            checksum = zlib.crc32(pixels, checksum)
        if len(shapes) < 2 or shapes[0] == shapes[1]:
            return problems, checksum, None
        (height, width, _), (own_height, own_width, _) = shapes
        # Of the same proportions, but for what rounding may have taken; of a row too few the photograph was cut.
        apart = abs(width * own_height - own_width * height) > max(width, height, own_width, own_height)
        if apart or width == own_width or height == own_height:
            problems.append(
                f"{pair.target}: has {own_width} × {own_height} pixels, but {pair.input.name} {width} × {height}"
            )
        return problems, checksum, (min(height, own_height), min(width, own_width))


@dataclass(frozen=True)
class Samples:
    """Crops of photographs to train on: number n of an endless sequence, which depends on the options and n alone.

    A crop is a window of the photograph, reduced to a square by exact averages; the network takes whole photographs as
    squares, too. A built-in edit is made of the crop, after its exposure was changed, so that the pair is what the edit
    does to a photograph; a given target is cut, reduced and exposed as its photograph. Each photograph comes once an
    epoch.
    """

    photographs: Photographs
    options: Options

    def __getitem__(self, n: int) -> tuple[Any, Any]:
        """Crop and target, (S, S, 3), float32 in [0, 1]."""
        options = self.options
        epoch, place = divmod(n, len(self.photographs))
        i = int(_order(options.seed, epoch, len(self.photographs))[place])
        rng = np.random.default_rng((options.seed, 1, n))
        image = self.photographs.image(i)
        share = rng.uniform(options.coverage, 1)
        (top, height), (left, width) = (_window(rng, length, share, options.crop) for length in image.shape[:2])
        mirror = rng.random(2) < 0.5
        turns = int(rng.integers(4))
        # The factor of numbers that are light to the power of 1/2.2, as photographs' nearly are.
        gain = np.float32(2.0 ** (rng.uniform(-options.stops, options.stops) / 2.2))

        def cut(pixels: Any) -> Any:
            crop = resize_area(pixels[top : top + height, left : left + width], (options.crop, options.crop))
            if options.flips != "none" and mirror[0]:
                crop = crop[:, ::-1]
            if options.flips == "both" and mirror[1]:
                crop = crop[::-1]
            if options.rotations:
                crop = np.rot90(crop, turns)
            scale = np.float32(1 / np.iinfo(crop.dtype).max if crop.dtype.kind == "u" else 1)
            return np.clip(np.ascontiguousarray(crop, np.float32) * (scale * gain), 0, 1)

        source = cut(image)
        edit = self.photographs.edit
        return source, cut(self.photographs.target(i)) if edit is None else edited(source, edit)


def _find(folder: Path, edit: str | None) -> tuple[list[Pair], list[str]]:
    """The pairs of a folder by name, and what is wrong with others."""
    if not folder.is_dir():
        raise DataError(f"train: PAIRS must be a folder, got {str(folder)!r}, which is none.")
    inputs = folder / "input"
    outputs = folder / "target" if (folder / "target").is_dir() else folder / "output"
    if edit is None and not (inputs.is_dir() and outputs.is_dir()):
        raise DataError(
            f"train: {folder} must have the folders input and target, or input and output, or --edit must say which "
            "edit is to be learnt."
        )
    problems: list[str] = []
    sources = _files(inputs if inputs.is_dir() else folder, problems)
    if edit is not None:
        return [Pair(name, path, None) for name, path in sources.items()], problems
    targets = _files(outputs, problems)
    for here, there, where in ((sources, targets, outputs), (targets, sources, inputs)):
        problems += [f"{here[name]}: has no twin in {where}" for name in sorted(here.keys() - there.keys())]
    return [Pair(name, path, targets[name]) for name, path in sources.items() if name in targets], problems


def _files(folder: Path, problems: list[str]) -> dict[str, Path]:
    """The files in a folder and those within it, by their path without its ending, in order."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        within = path.relative_to(folder)
        if path.is_dir() or path.name.lower() in _NOT_MEANT or any(part.startswith(".") for part in within.parts):
            continue
        first = files.setdefault(within.with_suffix("").as_posix(), path)
        if first != path:
            problems.append(f"{path}: has the name of {first.name}")
    return files


class _Memory:
    """What was decoded, as far as it fits in a number of bytes."""

    def __init__(self, room: float) -> None:
        self.room = room
        self._kept: dict[Any, Any] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        if key in self._kept:
            return self._kept[key]
        pixels = make()
        if pixels.nbytes <= self.room:
            self.room -= pixels.nbytes
            self._kept[key] = pixels
        return pixels


def _window(rng: np.random.Generator, length: int, share: float, crop: int) -> tuple[int, int]:
    """Begin and length of a window: a share of an axis, and not below the crop's pixels where the axis has these."""
    size = min(length, max(round(share * length), crop))
    return int(rng.integers(length - size + 1)), size


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Any:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)
