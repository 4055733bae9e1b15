"""Image files: JPEG, PNG, TIFF and WebP, read upright and written back as they were, with all that they say."""

from __future__ import annotations

import errno
import functools
import math
import re
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..ops._resize_area import resize_area

#: The endings by which a folder's pictures are found; of some it is only said why they are not enhanced.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".avif", ".bmp", ".dib", ".gif"),
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".psd", ".exr", ".hdr", ".tga"),
    *(".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
)
#: Kinds whose pixels are not what is to be written, and what is.
SUBSTITUTES = {".gif": ".png"}
#: Bytes that a colour profile may have.
PROFILE = 16 << 20
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


def check_data(held: int, densest: int, height: int, width: int, bits: int) -> None:
    """Whether so many bytes can be an image of so many bits per pixel, where one stands for at most ``densest``."""
    if height * width * bits > 8 * densest * held:
        raise ImageError(f"is truncated: of its {width} × {height} pixels it has {held} bytes")


def unit(image: Any) -> Any:
    """An image in float32, integers from 0 to 1."""
    return image.astype(np.float32) / (np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)


def psnr(image: Any, target: Any) -> float:
    """How near an image is to another, in dB; infinity where they are equal."""
    error = float(np.mean(np.square(unit(image) - unit(target)), dtype=np.float64))
    return -10 * math.log10(error) if error else math.inf


class Picture(ABC):
    """An image file, open for reading.

    ``height``, ``width``, ``channels`` and ``dtype`` (uint8, uint16 or floating point) are those of the upright image.
    The first ``colours`` channels (1: grey, 3: RGB) are colour; the others, alpha among them, are not for changing.
    """

    height: int
    width: int
    channels: int
    colours: int
    dtype: Any
    #: What of the file is not written again, each as the end of "without …".
    lost: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def nbytes(self) -> int:
        return self.pixels * self.channels * self.dtype.itemsize

    @property
    def memory(self) -> int:
        """The bytes that reading, changing and writing it takes at most (twice the image beside the image itself)."""
        return 3 * self.nbytes

    @property
    def whole(self) -> bool:
        """Whether :meth:`bands` has one band, all of the image, of which later calls yield the same array."""
        return True

    def fit(self, limit: int, beside: int = 0) -> None:
        """Stay within ``limit`` bytes of memory, in bands where it must be; an :class:`ImageError` if it can't.

        ``beside`` are the bytes that a pixel of a band takes while it is worked on.
        """
        if self.memory > limit:
            raise ImageError(
                f"has {self.width} × {self.height} pixels, which takes {size_of(self.memory)} of memory where "
                f"--memory-limit leaves {size_of(limit)}; raise it, or store the image as a tiled TIFF, which is "
                "enhanced in pieces"
            )

    @property
    @abstractmethod
    def icc(self) -> bytes | None:
        """The ICC profile."""

    @abstractmethod
    def bands(self) -> Iterator[tuple[int, Any]]:
        """The image from the top: the first row's number, and writable rows (h, width, channels)."""

    @abstractmethod
    def write(self, path: Path, bands: Iterable[tuple[int, Any]], quality: int | None) -> None:
        """Write these rows as a file of the same kind, with the same metadata; quality 1–100 where it is lossy."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


def open_picture(path: Path) -> Picture:
    """Open an image file by what it holds, whatever its name is; an :class:`ImageError` where it is none of ours."""
    with reading("is damaged: its header cannot be read"):
        check_empty(path)
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(b"\xff\xd8\xff"):
            return _Jpeg(path)
        if head.startswith(_PNG):
            return _Png(path)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _WebP(path)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            from .tiff import Tiff

            return Tiff(path)
    raise ImageError("is no JPEG, PNG, TIFF or WebP file")


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


# --- upright


def turn(pixels: Any, orientation: int) -> Any:
    """The view of an image stored with this EXIF orientation (1–8) as it is to be seen."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # What is then still mirrored: rows in 3, 4, 7 and 8, columns in 2, 3, 6 and 7.
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::across]


@dataclass
class Metadata:
    """EXIF and XMP of an image, which say that it is upright, and the orientation that they said it was stored in."""

    exif: bytes | None = None
    xmp: bytes | None = None
    orientation: int = 1

    def __post_init__(self) -> None:
        if self.exif:
            self.orientation, self.exif = _upright_exif(self.exif)
        if self.xmp:
            found = _XMP_ORIENTATION.search(self.xmp)
            if found and not self.exif:
                self.orientation = int(found[2])
            self.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp)


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*)([1-8])")


def _upright_exif(exif: bytes) -> tuple[int, bytes]:
    """The orientation, and the block with 1 in its place, without its thumbnail, which would show the image as it was.

    Nothing else is touched: maker notes hold offsets into the block, and are lost when it is written anew.
    """
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    orientation, block = 1, bytearray(exif)
    try:
        if order is None:
            return 1, exif
        first = start + struct.unpack_from(order + "I", exif, start + 4)[0]
        (count,) = struct.unpack_from(order + "H", exif, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            if struct.unpack_from(order + "HH", exif, entry) == (0x0112, 3):
                (found,) = struct.unpack_from(order + "H", exif, entry + 8)
                orientation = found if 1 <= found <= 8 else 1
                struct.pack_into(order + "H", block, entry + 8, 1)
        struct.pack_into(order + "I", block, first + 2 + 12 * count, 0)
    except struct.error:  # damaged: kept as it is
        return 1, exif
    return orientation, bytes(block)


# --- whole images


class _Whole(Picture):
    """An image that is decoded and encoded at once."""

    metadata: Metadata
    wrong = DAMAGED  # what is said where it cannot be decoded
    _decoded: Any = None

    def _shape(self, height: int, width: int, channels: int, dtype: Any) -> None:
        check_size(height, width, channels)
        if self.metadata.orientation >= 5:
            height, width = width, height
        self.height, self.width, self.channels, self.dtype = height, width, channels, np.dtype(dtype)
        self.colours = 1 if channels < 3 else 3

    def close(self) -> None:
        self._decoded = None

    def bands(self) -> Iterator[tuple[int, Any]]:
        if self._decoded is None:
            with reading(self.wrong):
                self._decoded = np.array(turn(self._decode(), self.metadata.orientation), order="C")
        yield 0, self._decoded

    def write(self, path: Path, bands: Iterable[tuple[int, Any]], quality: int | None) -> None:
        ((_, pixels),) = bands
        self._encode(path, np.ascontiguousarray(pixels.squeeze(-1) if self.channels == 1 else pixels), quality)

    @abstractmethod
    def _decode(self) -> Any:
        """The pixels as they are stored, (height, width, channels)."""

    @abstractmethod
    def _encode(self, path: Path, pixels: Any, quality: int | None) -> None: ...


class _Pillow(_Whole):
    """What Pillow reads and writes.

    The plugins are called directly: ``Image.open`` adds its own limit on pixels, where ``fit`` has the user's.
    """

    densest = DENSEST

    def __init__(self, path: Path, plugin: Any) -> None:
        self.image = _sized(plugin)(path)
        if getattr(self.image, "is_animated", False):
            self.image.close()
            raise ImageError("is animated; enhance it as a video")
        info = self.image.info
        self.metadata = Metadata(info.get("exif"), info.get("xmp"))
        try:
            channels = {"L": 1, "RGB": 3, "RGBX": 3, "RGBA": 4}[self.image.mode]
        except KeyError:
            self.image.close()
            raise ImageError(f"has {self.image.mode} colours; convert it to RGB first") from None
        height, width = self.image.height, self.image.width
        check_data(path.stat().st_size, self.densest, height, width, 8 * channels)
        self._shape(height, width, channels, np.uint8)

    @property
    def memory(self) -> int:
        return 2 * self.nbytes + 8 * self.pixels  # Pillow has four bytes per pixel, twice

    @property
    def icc(self) -> bytes | None:
        return self.image.info.get("icc_profile")

    def close(self) -> None:
        super().close()
        self.image.close()

    def _decode(self) -> Any:
        image = self.image.convert("RGB") if self.image.mode == "RGBX" else self.image
        return np.asarray(image).reshape(*image.size[::-1], self.channels)

    def _save(self, path: Path, pixels: Any, kind: str, **options: Any) -> None:
        from PIL import Image

        info = self.image.info
        known = {"icc_profile": self.icc, "exif": self.metadata.exif, "xmp": self.metadata.xmp, "dpi": info.get("dpi")}
        options |= {name: value for name, value in known.items() if value}
        with path.open("wb") as file:  # a file, not a buffer, so that Pillow encodes without the GIL
            Image.fromarray(pixels).save(file, kind, **options)


@functools.cache
def _sized(plugin: Any) -> Any:
    """The plugin, which itself only says of an image without pixels that it doesn't know it."""

    def _open(self: Any) -> None:
        plugin._open(self)
        check_size(self.height, self.width)

    return type(plugin.__name__, (plugin,), {"_open": _open})


class _Jpeg(_Pillow):
    densest = JPEG

    def __init__(self, path: Path) -> None:
        from PIL import JpegImagePlugin

        super().__init__(path, JpegImagePlugin.JpegImageFile)

    def _encode(self, path: Path, pixels: Any, quality: int | None) -> None:
        from PIL import JpegImagePlugin

        options: dict[str, Any] = {"progressive": bool(self.image.info.get("progressive"))}
        options["subsampling"] = JpegImagePlugin.get_sampling(self.image)
        if quality is None:
            options["qtables"] = self.image.quantization
        else:
            options["quality"] = quality
        if comment := self.image.info.get("comment"):
            options["comment"] = comment
        self._save(path, pixels, "JPEG", **options)


class _WebP(_Pillow):
    QUALITY = 90

    def __init__(self, path: Path) -> None:
        from PIL import WebPImagePlugin

        chunks = list(_riff_chunks(path))
        self._lossless = b"VP8L" in (kind for kind, _ in chunks)
        if 12 + sum(8 + size + size % 2 for _, size in chunks) > path.stat().st_size:
            self.wrong = "is truncated"
        with reading(self.wrong):
            super().__init__(path, WebPImagePlugin.WebPImageFile)

    def _encode(self, path: Path, pixels: Any, quality: int | None) -> None:
        options = {"lossless": True} if self._lossless else {"quality": quality or self.QUALITY}
        self._save(path, pixels, "WEBP", exact=True, **options)


def _riff_chunks(path: Path) -> Iterator[tuple[bytes, int]]:
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            yield kind, size
            file.seek(size + size % 2, 1)


_PNG = b"\x89PNG\r\n\x1a\n"
#: Chunks that describe how the pixels are stored, which is another way after writing.
_PNG_STORAGE = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"bKGD", b"hIST", b"sBIT", b"sPLT"))
_PNG_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"


class _Png(_Whole):
    """PNG by libpng (in imagecodecs): Pillow has no RGB of 16 bits. The other chunks are kept to the byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks = list(_png_chunks(path))
        kinds = [kind for kind, _ in self._chunks]
        if kinds[:1] != [b"IHDR"]:
            raise ImageError("is damaged: it has no header")
        if b"acTL" in kinds:
            raise ImageError("is animated; enhance it as a video")
        if kinds[-1:] != [b"IEND"]:
            self.wrong = "is truncated"
        width, height, bits, colour = struct.unpack_from(">IIBB", self._chunks[0][1])
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour)
        if samples is None:
            raise ImageError(f"is damaged: it has colours of type {colour}, which PNG has not")
        check_data(path.stat().st_size, DEFLATED, height, width, bits * samples)
        exif = next((data for kind, data in self._chunks if kind == b"eXIf"), None)
        xmp = next((data for kind, data in self._chunks if kind == b"iTXt" and data.startswith(_PNG_XMP)), None)
        self.metadata = Metadata(exif, xmp)
        alpha = colour in (4, 6) or b"tRNS" in kinds
        self._shape(height, width, (3 if colour & 2 else 1) + alpha, np.uint16 if bits == 16 else np.uint8)

    @property
    def icc(self) -> bytes | None:
        data = next((data for kind, data in self._chunks if kind == b"iCCP"), b"")
        try:
            return zlib.decompressobj().decompress(data[data.find(b"\0") + 2 :], PROFILE) or None
        except zlib.error:  # damaged: it says nothing
            return None

    def _decode(self) -> Any:
        import imagecodecs

        pixels = imagecodecs.png_decode(self.path.read_bytes())
        # Greys with one transparent shade and the like come as RGBA or with the alpha they need.
        return pixels.reshape(*pixels.shape[:2], -1)[..., : self.channels]

    def _encode(self, path: Path, pixels: Any, quality: int | None) -> None:
        import imagecodecs

        encoded = imagecodecs.png_encode(pixels)
        header = len(_PNG) + 25
        with path.open("wb") as file:
            file.write(encoded[:header])
            for kind, data in self._chunks:
                if kind in _PNG_STORAGE:
                    continue
                if kind == b"iTXt" and data.startswith(_PNG_XMP):
                    data = self.metadata.xmp or data
                elif kind == b"eXIf":
                    data = self.metadata.exif or data
                file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
            file.write(encoded[header:])


def _png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of every chunk; the pixels' are passed over."""
    with path.open("rb") as file:
        file.seek(len(_PNG))
        while len(head := file.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind == b"IDAT":
                file.seek(size + 4, 1)
                yield kind, b""
            else:
                data = file.read(size)
                if len(file.read(4)) != 4:
                    raise ImageError("is truncated")
                yield kind, data


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


def reduced(shape: Sequence[int], side: int) -> tuple[int, int]:
    """The size of an image of this shape whose longer side is not to have more pixels than that."""
    height, width = shape[:2]
    scale = min(1, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def write_comparison(path: Path, before: Any, after: Any, icc: bytes | None) -> None:
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
