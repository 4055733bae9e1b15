"""What all kinds of image files have in common: one that is open, its errors, averages of it, comparisons."""

from __future__ import annotations

import errno
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..ops._resize_area import resize_area
from .metadata import Metadata, turn

#: The endings by which a folder's pictures are found; of some it is only said why they are not enhanced.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".tif", ".tiff", ".webp", ".avif", ".bmp", ".dib", ".gif"),
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".psd", ".exr", ".hdr", ".tga"),
    *(".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
)
#: Kinds whose pixels are not what is to be written, and what is.
SUBSTITUTES = {".gif": ".png"}
#: Bytes of rows that are worked on at a time where an image is taken in bands.
BAND = 32 << 20

#: Bytes of pixels that a byte of a file may stand for: by deflate, in a JPEG, and where areas of one colour, or those
#: left out, take next to nothing. More than that is a header without its data.
DEFLATED, JPEG, DENSEST = 1040, 1 << 16, 1 << 24

#: Pixels of the longer side of either half of a comparison.
COMPARED = 1920
GAP = 8  # white pixels between its halves

DAMAGED = "is damaged: its pixels cannot be decoded"

T = TypeVar("T")


class ImageError(Exception):
    """What is wrong with a file, in words that follow its name."""


@contextmanager
def reading(wrong: str) -> Iterator[None]:
    """Whatever is raised while a file is read becomes an :class:`ImageError`: here and nowhere else.

    Decoders raise what the damage happened to cause in them, in words about themselves: ``wrong`` is said instead. Only
    the system and FFmpeg have words about the file, but for the places in it that make no sense to them.
    """
    try:
        yield
    except (ImageError, ImportError):
        raise
    except Exception as error:
        told = getattr(error, "strerror", None) and getattr(error, "errno", None) != errno.EINVAL
        if told or isinstance(error, MemoryError):
            wrong = f"cannot be read ({reason(error)})"
        elif "truncated" in str(error):
            wrong = "is truncated"
        raise ImageError(wrong) from error


def check_empty(path: Path) -> None:
    """A file of no bytes, which decoders have many words for."""
    if path.stat().st_size == 0:
        raise ImageError("is empty and has no pixels")


def check_size(height: int, width: int, samples: int = 1) -> None:
    """What a file must have before anything is allocated for it."""
    if min(height, width, samples) < 1:
        raise ImageError("has no pixels")


def unit(image: Any) -> Any:
    """An image in float32, integers from 0 to 1."""
    return image.astype(np.float32) / (np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)


def psnr(image: Any, target: Any) -> float:
    """How near an image is to another, in dB; infinity where they are equal."""
    error = float(np.mean(np.square(unit(image) - unit(target)), dtype=np.float64))
    return -10 * math.log10(error) if error else math.inf


class Spare:
    """Memory of pictures that are done, for the next ones.

    Memory that is new to a process costs as much time as a third of decoding a JPEG into it.
    """

    def __init__(self) -> None:
        self._arrays: list[Any] = []
        self._lock = threading.Lock()

    def take(self, count: int) -> Any:
        """``count`` bytes with anything in them, of an array that has at most a quarter more."""
        with self._lock:
            self._arrays.sort(key=len)
            for n, array in enumerate(self._arrays):
                if count <= len(array) <= count * 5 // 4:
                    return self._arrays.pop(n)[:count]
            del self._arrays[-1:]  # in exchange for the new one: there are never more than were in use at once
        return np.empty(count, np.uint8)

    def give(self, taken: Any) -> None:
        """Keep this memory, which nobody else has any more."""
        with self._lock:
            self._arrays.append(taken if taken.base is None else taken.base)

    def shrink(self, limit: int) -> None:
        """Keep so many bytes at most; the largest arrays go first."""
        with self._lock:
            self._arrays.sort(key=len)
            while sum(map(len, self._arrays)) > limit:
                self._arrays.pop()


class Picture(ABC):
    """An image file, open for reading.

    ``height``, ``width``, ``channels`` and ``dtype`` (uint8, uint16 or floating point) are those of the upright image.
    The first ``colours`` channels (1: grey, 3: RGB) are colour; the others, alpha among them, are not for changing.
    """

    path: Path
    metadata: Metadata
    height: int
    width: int
    channels: int
    colours: int
    dtype: Any
    #: Of an animation; all others have one.
    frames: int = 1
    #: Where a JPEG's memory may come from, and goes when it is closed.
    spare: Spare | None = None
    #: Bytes per pixel that its codec takes beside arrays like the picture's.
    coder: int = 0
    #: What is said where it cannot be decoded.
    wrong: str = DAMAGED
    _decoded: Any = None
    _moving: Any = None  # an animation's ``formats.Moving``

    def _holds(self, shape: Sequence[int], dtype: Any, bits: int, densest: int = DENSEST, held: int = 0) -> None:
        """Take the shape as stored, of so many bits per pixel, if the file (or what is held of it) can be that much."""
        check_size(*shape)
        height, width, channels = shape
        held = held or self.path.stat().st_size
        if height * width * bits > 8 * densest * held:
            raise ImageError(f"is truncated: of its {width} × {height} pixels it has {held} bytes")
        if self.metadata.orientation >= 5:
            height, width = width, height
        self.height, self.width, self.channels, self.dtype = height, width, channels, np.dtype(dtype)
        self.colours = 1 if channels < 3 else 3

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def nbytes(self) -> int:
        return self.pixels * self.channels * self.dtype.itemsize

    @property
    def memory(self) -> int:
        """The bytes that reading, changing and writing it takes at most (twice the image beside the image itself)."""
        # Of an animation Pillow has four bytes per pixel of each frame, twice.
        arrays = 3 * self.nbytes if self.frames == 1 else self.frames * (2 * self.nbytes + 8 * self.pixels)
        return arrays + self.coder * self.pixels

    @property
    def whole(self) -> bool:
        """Whether :meth:`bands` has one band, all of the image, of which later calls yield the same array."""
        return True

    def fit(self, limit: int, beside: int = 0) -> None:
        """Stay within ``limit`` bytes of memory, in bands where it must be; an :class:`ImageError` if it can't.

        ``beside`` are the bytes that a pixel of a band takes while it is worked on.
        """
        if self.memory > limit:
            what, remedy = "", "store the image as a tiled TIFF, which is enhanced in pieces"
            if self.frames > 1:
                what, remedy = f"{self.frames} frames of ", "make a video of it first"
            raise ImageError(
                f"has {what}{self.width} × {self.height} pixels, which takes {size_of(self.memory)} of memory where "
                f"--memory-limit leaves {size_of(limit)}; raise it, or {remedy}"
            )

    def bands(self) -> Iterator[tuple[int, Any]]:
        """The image from the top: the first row's number, and writable rows (h, width, channels)."""
        if self._decoded is None:
            with reading(self.wrong):
                self._decoded = self._upright(self._decode())
        yield 0, self._decoded

    def moving(self) -> Iterator[tuple[float, Any]]:
        """The frames of an animation: when each begins, in seconds, and writable pixels, as a band has them."""
        with reading(self.wrong):
            for time, pixels in self._moving:
                yield time, self._upright(pixels)

    def _upright(self, pixels: Any) -> Any:
        pixels = turn(pixels, self.metadata.orientation)
        return pixels if pixels.flags.c_contiguous and pixels.flags.writeable else np.array(pixels, order="C")

    def write(self, path: Path, bands: Iterable[tuple[int, Any]], quality: int | None) -> None:
        """Write these rows as a file of the same kind, with the same metadata; quality 1–100 where it is lossy.

        Of an animation these are its frames, after :meth:`moving` has told how long each is shown.
        """
        made = [np.ascontiguousarray(pixels.squeeze(-1) if self.channels == 1 else pixels) for _, pixels in bands]
        with path.open("w+b") as file:
            if self.frames > 1:
                self._encode_frames(made, quality, file)
            else:
                self._encode(made.pop(), quality, file)

    def close(self) -> None:
        """Close the file."""
        self._decoded = None
        if self._moving is not None:
            self._moving.image.close()

    @abstractmethod
    def _decode(self) -> Any:
        """The pixels as they are stored, (height, width, channels)."""

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        """Write the file. Pillow encodes without the GIL where this is one of the system's."""
        raise NotImplementedError

    def _encode_frames(self, frames: list[Any], quality: int | None, file: Any) -> None:
        raise NotImplementedError


def open_picture(path: Path) -> Picture:
    """Open an image file by what it holds, whatever its name is; an :class:`ImageError` where it is none of ours."""
    from . import boxed, formats
    from .tiff import Tiff

    kinds: dict[bytes, Callable[[Path], Picture]] = {
        b"\xff\xd8\xff": formats.JpegFile,
        formats.PNG: formats.PngFile,
        **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), Tiff),
        b"RIFF....WEBP": formats.WebPFile,
        **dict.fromkeys((b"....ftypavif", b"....ftypavis"), boxed.AvifFile),
        **dict.fromkeys((b"....ftyphei", b"....ftyphev", b"....ftypmif1", b"....ftypmsf1"), boxed.HeicFile),
        **dict.fromkeys((b"\xff\x0a", boxed.JXL), boxed.JxlFile),
        b"BM": formats.BmpFile,
        b"GIF8": formats.GifFile,
    }
    with reading("is damaged: its header cannot be read"):
        check_empty(path)
        with path.open("rb") as file:
            head = file.read(64)
        for start, kind in kinds.items():
            if _begins(head, start):
                # The brand that comes first may be one of both, and those that are compatible tell.
                brands = head[16 : int.from_bytes(head[:4], "big")]
                if kind is boxed.HeicFile and (b"avif" in brands or b"avis" in brands):
                    kind = boxed.AvifFile
                return kind(path)
    raise ImageError("is no JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, BMP or GIF file")


def _begins(head: bytes, start: bytes) -> bool:
    """Whether a file begins so, dots being any bytes."""
    return len(head) >= len(start) and all(one in (46, other) for one, other in zip(start, head))


def read(path: Path) -> Any:
    """The upright image as RGB (H, W, 3), uint8, uint16 or floating point; grey is repeated, alpha left out."""
    with reading(DAMAGED), closing(open_picture(path)) as picture:
        ((_, pixels),) = picture.bands()
        return np.ascontiguousarray(colours(picture, pixels))


def colours(picture: Picture, band: Any) -> Any:
    """The RGB view (h, w, 3) of a band; of a grey one it is read-only."""
    if picture.colours == 3:
        return band[..., :3]
    return np.broadcast_to(band[..., :1], (*band.shape[:2], 3))


def reason(error: BaseException) -> str:
    """An exception in a few words."""
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0].strip().rstrip(".")
    if isinstance(error, MemoryError):
        return "out of memory"
    return text or type(error).__name__


def size_of(count: int) -> str:
    """A number of bytes, as ``--memory-limit`` is given."""
    return f"{math.ceil(count / 1e6)} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


# --- averages


class Averages:
    """The box averages of an image (H, W, 3) on (h, w) pixels, float32 in [0, 1], band by band.

        out[i,j] = Σ_yx |[y, y+1) ∩ [i·H/h, (i+1)·H/h)| · |[x, x+1) ∩ [j·W/w, (j+1)·W/w)| · image[y,x] / (H/h · W/w)

    Across by ``resize_area``, down by adding up rows in float64. How the image is cut doesn't change a bit of them.
    Pixels with a NaN or an infinity are left out.
    """

    def __init__(self, height: int, width: int, size: tuple[int, int]) -> None:
        self.height, self.width, self.size = height, width, size
        self._sums = np.zeros((*size, 3))
        self._missing = np.zeros((*size, 1))  # shares of the footprints

    def add(self, top: int, band: Any) -> None:
        """Add the rows (h, W, 3) from this one on."""
        height, (rows, columns) = self.height, self.size
        averaged = resize_area(band, (len(band), columns), dtype=np.float64)
        missing: Any = np.zeros((len(band), 1, 1))
        if not np.isfinite(averaged).all():
            unknown = ~np.isfinite(band).all(-1, keepdims=True)
            averaged = resize_area(np.where(unknown, 0, band).astype(np.float64), averaged.shape[:2])
            missing = resize_area(unknown.astype(np.float64), averaged.shape[:2])
        for y, (row, without) in enumerate(zip(averaged, missing), top):
            for i in range(y * rows // height, -(-(y + 1) * rows // height)):
                overlap = min((y + 1) * rows, (i + 1) * height) - max(y * rows, i * height)
                self._sums[i] += overlap / height * row
                self._missing[i] += overlap / height * without

    @property
    def result(self) -> Any:
        return np.divide(self._sums, 1 - self._missing, where=self._missing < 1, out=self._sums * 0).astype(np.float32)


class NearestPixels:
    """The pixels (⌊i·H/h⌋, ⌊j·W/w⌋) of an image (H, W, 3), float32 in [0, 1], band by band; of NaN or infinity 0."""

    def __init__(self, height: int, width: int, size: tuple[int, int]) -> None:
        self._rows, self._columns = (np.arange(count) * length // count for count, length in zip(size, (height, width)))
        self.result: Any = np.zeros((*size, 3), np.float32)

    def add(self, top: int, band: Any) -> None:
        """Add the rows (h, W, 3) from this one on."""
        here = np.flatnonzero((self._rows >= top) & (self._rows < top + len(band)))
        pixels = band[self._rows[here] - top][:, self._columns]
        found = resize_area(pixels, pixels.shape[:2], dtype=np.float32)
        self.result[here] = np.where(np.isfinite(found).all(-1, keepdims=True), found, 0)


def reduced(shape: Sequence[int], side: int) -> tuple[int, int]:
    """The size of an image of this shape whose longer side is not to have more pixels than that."""
    height, width = shape[:2]
    scale = min(1, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def write_comparison(path: Path, before: Any, after: Any, icc: bytes | None = None) -> None:
    """Two images (h, w, 3), floats in [0, 1], side by side."""
    from PIL import Image

    gap = np.ones((len(before), GAP, 3), np.float32)
    both = np.rint(np.clip(np.concatenate([before, gap, after], axis=1), 0, 1) * 255).astype(np.uint8)
    with path.open("wb") as file:
        Image.fromarray(both).save(file, "JPEG", quality=90, icc_profile=icc)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, the next of which is made in a thread while the caller works on this one."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, iterator, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
