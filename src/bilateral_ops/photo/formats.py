"""Pictures that are decoded and encoded as a whole: JPEG, PNG, and what Pillow reads and writes."""

from __future__ import annotations

import functools
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .images import DEFLATED, JPEG, ImageError, Picture, Spare, check_size, reading
from .metadata import Metadata, Segments

#: Bytes that a colour profile may have.
PROFILE = 16 << 20
#: Of what is lossy and doesn't tell its own.
QUALITY = 90


@functools.cache
def sized(plugin: Any) -> Any:
    """Pillow's plugin, which itself only says of an image without pixels that it doesn't know it.

    Plugins are called directly: ``Image.open`` adds its own limit on pixels, where ``fit`` has the user's.
    """

    def _open(self: Any) -> None:
        plugin._open(self)
        check_size(self.height, self.width)

    return type(plugin.__name__, (plugin,), {"_open": _open})


class Moving:
    """The frames of an animation, as Pillow lays them one over the other, and how long each is shown."""

    def __init__(self, image: Any, mode: str) -> None:
        self.image, self.mode, self._size = image, mode, image.size
        self._begins: list[float] = []  # milliseconds, and when the last ends

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """When each begins, in seconds, and its pixels."""
        self._begins, ends = [], 0.0
        for number in range(self.image.n_frames):
            self.image.seek(number)
            if self.image.size != self._size:
                raise ImageError("has frames that are larger than its canvas; make a video of it first")
            pixels = pixels_of(self.image, self.mode)
            begins = self.image.info.get("timestamp", ends)  # of WebP and AVIF, whose durations are rounded
            self._begins.append(begins)
            yield begins / 1000, pixels
            if number or not self.image.info.get("default_image"):  # which an animated PNG shows where it does not move
                ends = begins + self.image.info.get("duration", 0)
        self._begins.append(ends)

    def save(self, frames: list[Any], kind: str, file: Any, **options: Any) -> None:
        """Write as many frames, shown as long, once :meth:`__iter__` has been through."""
        from PIL import Image

        first, *others = map(Image.fromarray, frames)
        apart = bool(self.image.info.get("default_image"))
        durations = [end - begin for begin, end in zip(self._begins, self._begins[1:])][apart:]
        if kind == "PNG":
            options |= {"default_image": apart, "disposal": 0, "blend": 0}
        elif kind == "WEBP":
            options["background"] = self.image.info["background"]
        # Of GIF it is how often it is repeated, of the others how often it is shown; 0 is for ever.
        loop = self.image.info.get("loop")
        if self.image.format == "GIF":
            loop = 1 if loop is None else loop and loop + 1
        first.save(file, kind, save_all=True, append_images=others, duration=durations, loop=loop or 0, **options)


def pixels_of(image: Any, mode: str) -> Any:
    """The pixels of one of Pillow's images, (height, width, channels)."""
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*image.size[::-1], -1)


# --- JPEG


#: What imagecodecs and Pillow write, pixels across and down.
_SAMPLINGS = ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1))
_PILLOW = ((1, 1), (2, 1), (2, 2))


class JpegFile(Picture):
    """JPEG by libjpeg-turbo: in imagecodecs, which takes half of Pillow's time, where that has all it needs."""

    coder = 8  # Pillow has four bytes per pixel, twice
    _coded: Any = None

    def __init__(self, path: Path) -> None:
        self.path, self._taken, self._size = path, list[Any](), path.stat().st_size
        with path.open("rb") as file, jpeg(file) as self._image:
            self._scan = file.tell()
        mode = self._image.mode
        channels = {"L": 1, "RGB": 3}.get(mode)
        if channels is None:
            raise ImageError(f"has {mode} colours; convert it to RGB first")
        self._segments = Segments(self._image)
        self.metadata = self._segments.metadata
        self._holds((*self._image.size[::-1], channels), np.uint8, 8 * channels, JPEG)

    @property
    def memory(self) -> int:
        return super().memory + self._size

    def _take(self, count: int) -> Any:
        self._taken.append((self.spare or Spare()).take(count))
        return self._taken[-1]

    def close(self) -> None:
        super().close()
        self._coded = None
        while self._taken and self.spare:
            self.spare.give(self._taken.pop())

    def _decode(self) -> Any:
        import imagecodecs

        # The file as it is read, and later as it is written: half the pixels' bytes are more than most take.
        self._coded = self._take(max(self._size, self.nbytes // 2))
        with self.path.open("rb") as file:
            data = self._coded[: file.readinto(self._coded)]
        end = _end(data, self._scan)
        if end is None:  # cut short, mostly: libjpeg fills in what is missing, of which Pillow tells
            return pixels_of(jpeg(io.BytesIO(data)), self._image.mode)
        self.metadata.lose_rest(data[end:])
        shape = (*self._image.size[::-1], self.channels)
        pixels = self._take(math.prod(shape)).reshape(shape)
        imagecodecs.jpeg8_decode(data, out=pixels if self.channels > 1 else pixels[..., 0])
        return pixels

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        import imagecodecs
        from PIL import Image

        # How many pixels across and down a sample of chroma is for.
        sides = zip(*(layer[1:3] for layer in self._image.layer))
        sampling = tuple(max(1, luma // max(chroma, default=luma)) for luma, *chroma in sides)
        across, down = sampling if self.metadata.orientation < 5 else sampling[::-1]
        finer = max((each for each in _PILLOW if each[0] <= across and each[1] <= down), key=math.prod)
        tables, progressive = self._image.quantization, bool(self._image.info.get("progressive"))
        quality = quality or level_of(tables)
        if quality and not progressive:
            known = (across, down) if (across, down) in _SAMPLINGS else finer
            chroma = known if self.channels > 1 else None
            encoded = imagecodecs.jpeg8_encode(pixels, quality, subsampling=chroma, out=self._coded)
        else:
            options = {"quality": quality} if quality else {"qtables": tables}
            if self.channels > 1:
                options["subsampling"] = _PILLOW.index(finer)
            Image.fromarray(pixels).save(file, "JPEG", progressive=progressive, **options)
            file.seek(0)
            encoded = file.read()
            file.seek(0)
            file.truncate()
        file.writelines(self._segments.spliced(encoded))


def _end(data: Any, start: int) -> int | None:
    """Where a JPEG file ends whose scan begins there: after its first marker of an end."""
    for at in range(start, len(data), 1 << 18):
        part = data[at : at + (1 << 18) + 1]
        found = np.flatnonzero((part[:-1] == 0xFF) & (part[1:] == 0xD9))
        if len(found):
            return at + int(found[0]) + 2
    return None


def jpeg(file: Any) -> Any:
    """A JPEG file as Pillow sees it before it is decoded."""
    from PIL import JpegImagePlugin

    try:
        image = sized(JpegImagePlugin.JpegImageFile)(file)
    except SyntaxError as error:
        found = re.match(r"cannot handle (\d+)-(bit|layer)", str(error))
        if found and found[2] == "layer":
            raise ImageError(f"has {found[1]} colours; convert it to RGB first") from error
        if not found:
            raise
        bits = found[1]
    else:
        if image.quantization:
            return image
        bits = image.bits
    raise ImageError(f"has {bits} bits a sample or is coded without loss, as few JPEG files; convert it first")


def level_of(tables: dict[int, list[int]]) -> int | None:
    """The quality at which libjpeg has these quantization tables, if there is one."""
    return _levels().get(_key(tables))


def _key(tables: dict[int, list[int]]) -> Any:
    return tuple((number, tuple(values)) for number, values in sorted(tables.items()))


@functools.cache
def _levels() -> dict[Any, int]:
    import imagecodecs

    blocks = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)
    return {
        _key(jpeg(io.BytesIO(imagecodecs.jpeg8_encode(pixels, level))).quantization): level
        for level in range(1, 101)
        for pixels in blocks
    }


# --- PNG


PNG = b"\x89PNG\r\n\x1a\n"
#: Chunks that describe how the pixels are stored, which is another way after writing.
_PNG_STORAGE = frozenset(
    (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"bKGD", b"hIST", b"sBIT", b"sPLT", b"acTL", b"fcTL", b"fdAT")
)
_PNG_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"


class PngFile(Picture):
    """PNG by libpng (in imagecodecs): Pillow has no RGB of 16 bits. The other chunks are kept to the byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks, rest = _png_chunks(path.read_bytes())
        first = dict(reversed(self._chunks))
        if self._chunks[:1] != [(b"IHDR", first.get(b"IHDR"))]:
            raise ImageError("is damaged: it has no header")
        if self._chunks[-1][0] != b"IEND":
            self.wrong = "is truncated"
        width, height, bits, colour = struct.unpack_from(">IIBB", first[b"IHDR"])
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour)
        if samples is None:
            raise ImageError(f"is damaged: it has colours of type {colour}, which PNG has not")
        xmp = next((data for kind, data in self._chunks if kind == b"iTXt" and data.startswith(_PNG_XMP)), None)
        icc, profile = first.get(b"iCCP", b""), None
        with suppress(zlib.error):  # damaged: it says nothing
            profile = zlib.decompressobj().decompress(icc[icc.find(b"\0") + 2 :], PROFILE) or None
        self.metadata = Metadata(first.get(b"eXIf"), xmp, profile)
        self.metadata.lose_rest(rest)
        channels = (3 if colour & 2 else 1) + (colour in (4, 6) or b"tRNS" in first)
        dtype = np.uint16 if bits == 16 else np.uint8
        self._holds((height, width, channels), dtype, bits * samples, DEFLATED)
        if b"acTL" in first:
            self._open_frames(bits)

    def _open_frames(self, bits: int) -> None:
        from PIL import PngImagePlugin

        image = sized(PngImagePlugin.PngImageFile)(self.path)
        self.frames = image.n_frames
        if self.frames == 1:
            image.close()
            return
        self._moving = Moving(image, {1: "L", 3: "RGB"}.get(self.channels, "RGBA"))
        if bits == 16:
            self.close()
            raise ImageError("is animated in 16 bits, of which Pillow has 8; make a video of it first")
        channels = len(self._moving.mode)
        self._holds((image.height, image.width, channels), np.uint8, 8 * channels)

    def _decode(self) -> Any:
        import imagecodecs

        pixels = imagecodecs.png_decode(self.path.read_bytes())
        # Greys with one transparent shade and the like come as RGBA or with the alpha they need.
        return pixels.reshape(*pixels.shape[:2], -1)[..., : self.channels]

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        import imagecodecs

        self._write(bytes(imagecodecs.png_encode(pixels)), file)

    def _encode_frames(self, frames: list[Any], quality: int | None, file: Any) -> None:
        encoded = io.BytesIO()
        self._moving.save(frames, "PNG", encoded, icc_profile=None)
        self._write(encoded.getvalue(), file)

    def _write(self, encoded: bytes, file: Any) -> None:
        """These pixels, with the file's other chunks."""
        header = len(PNG) + 25
        file.write(encoded[:header])
        for kind, data in self._chunks:
            if kind in _PNG_STORAGE:
                continue
            if kind == b"iTXt" and data.startswith(_PNG_XMP):
                data = self.metadata.xmp or data
            elif kind == b"eXIf":
                data = self.metadata.exif or data
            elif kind == b"pHYs" and self.metadata.orientation >= 5:
                data = data[4:8] + data[:4] + data[8:]
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
        file.write(encoded[header:])


def _png_chunks(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Type and content of every chunk up to IEND, without the pixels' content, and what follows."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(PNG)
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        pixels = kind in (b"IDAT", b"fdAT")
        if not pixels and at + 12 + size > len(data):
            raise ImageError("is truncated")
        chunks.append((kind, b"" if pixels else data[at + 8 : at + 8 + size]))
        at += 12 + size
        if kind == b"IEND":
            return chunks, data[at:]
    return chunks, b""


# --- what Pillow has


class PillowFile(Picture):
    """What Pillow reads and writes."""

    kind: str
    coder = 8  # Pillow has four bytes per pixel, twice

    def __init__(self, path: Path, plugin: Any, grey: bool = False) -> None:
        self.path = path
        self.image = sized(plugin)(path)
        try:
            info = self.image.info
            self.metadata = Metadata(info.get("exif"), info.get("xmp"), info.get("icc_profile"))
            mode = self.image.mode
            mode = {"P": "RGBA" if "transparency" in info else "RGB", "1": "L", "RGBX": "RGB"}.get(mode, mode)
            self.frames = getattr(self.image, "n_frames", 1)
            if self.frames > 1 and self.image.format == "GIF":
                mode = "RGBA"  # frames may leave out what others have
            self._mode = "L" if mode == "RGB" and grey else mode
            channels = {"L": 1, "RGB": 3, "RGBA": 4}.get(self._mode)
            if channels is None:
                raise ImageError(f"has {mode} colours; convert it to RGB first")
            self._holds((*self.image.size[::-1], channels), np.uint8, 8 * channels)
            if self.frames > 1:
                self._moving = Moving(self.image, self._mode)
        except BaseException:
            self.image.close()
            raise

    def close(self) -> None:
        super().close()
        self.image.close()

    def _decode(self) -> Any:
        return pixels_of(self.image, self._mode)

    def _options(self, quality: int | None) -> dict[str, Any]:
        return {}

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        from PIL import Image

        Image.fromarray(pixels).save(file, self.kind, **self._said(quality))

    def _encode_frames(self, frames: list[Any], quality: int | None, file: Any) -> None:
        self._moving.save(frames, self.kind, file, **self._said(quality))

    def _said(self, quality: int | None) -> dict[str, Any]:
        dpi, said = self.image.info.get("dpi"), self.metadata
        dpi = dpi[::-1] if dpi and said.orientation >= 5 else dpi
        known = {"icc_profile": said.icc, "exif": said.exif, "xmp": said.xmp, "dpi": dpi}
        return self._options(quality) | {name: value for name, value in known.items() if value}


class WebPFile(PillowFile):
    kind = "WEBP"

    def __init__(self, path: Path) -> None:
        from PIL import WebPImagePlugin

        data, at, kinds = path.read_bytes(), 12, set()
        while at + 8 <= len(data):
            kind, size = struct.unpack_from("<4sI", data, at)
            kinds.add(kind)
            end = at + 8 + size + size % 2
            if end > len(data):
                self.wrong = "is truncated"
            at = at + 24 if kind == b"ANMF" else end  # a frame is a header, and chunks of its own
        self._lossless = b"VP8L" in kinds and b"VP8 " not in kinds
        with reading(self.wrong):
            super().__init__(path, WebPImagePlugin.WebPImageFile)
        if max(self.height, self.width) > 16383:
            self.close()
            raise ImageError("has a canvas of more than 16383 pixels a side, the most of a picture in WebP")

    def _options(self, quality: int | None) -> dict[str, Any]:
        return {"exact": True} | ({"lossless": True} if self._lossless else {"quality": quality or QUALITY})


class BmpFile(PillowFile):
    kind = "BMP"

    def __init__(self, path: Path) -> None:
        from PIL import BmpImagePlugin

        super().__init__(path, BmpImagePlugin.BmpImageFile)

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        if self.channels < 4:
            super()._encode(pixels, quality, file)
            return
        # Pillow's header says nothing of alpha; one of version 4 does: masks for each channel, and sRGB.
        density = (round(each / 0.0254) for each in self.image.info.get("dpi", (0, 0)))
        pixels = pixels[::-1, :, [2, 1, 0, 3]]
        header = struct.pack("<IiiHHIIiiII", 108, self.width, self.height, 1, 32, 3, pixels.size, *density, 0, 0)
        header += struct.pack("<4I4s48x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
        file.write(struct.pack("<2sIII", b"BM", 122 + pixels.size, 0, 122) + header + pixels.tobytes())


class GifFile(PillowFile):
    """GIF, which is written as PNG, of animations too: it has no more than 256 colours."""

    kind = "PNG"

    def __init__(self, path: Path) -> None:
        from PIL import GifImagePlugin

        data = path.read_bytes()
        if not _ends(data):
            raise ImageError("is truncated")
        super().__init__(path, GifImagePlugin.GifImageFile)
        for name, what in (b"XMP DataXMP", "its XMP"), (b"ICCRGBG1012", "its colour profile"):
            if b"!\xff\x0b" + name in data:
                self.metadata.lose(what)
        if self.image.info.get("comment"):
            self.metadata.lose("its comment")


def _ends(data: bytes) -> bool:
    """Whether a GIF has all its blocks: Pillow takes what is cut off for the end."""

    def colours(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 128 else 0

    with suppress(IndexError):
        at = 13 + colours(data[10])
        while data[at] in b"!,":
            at += 2 if data[at] == 33 else 11 + colours(data[at + 9])
            while size := data[at]:
                at += size + 1
            at += 1
        return True  # at the end, or at what is no block
    return False
