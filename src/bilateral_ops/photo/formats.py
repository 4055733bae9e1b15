"""Pictures that are decoded and encoded as a whole: JPEG, PNG, and what Pillow reads and writes."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .images import DAMAGED, DEFLATED, DENSEST, JPEG, ImageError, Picture, Spare, check_data, check_size, reading
from .metadata import Jpeg, Metadata, quantization, turn

#: Bytes that a colour profile may have.
PROFILE = 16 << 20
#: Of what is lossy and doesn't tell its own.
QUALITY = 90


class Whole(Picture):
    """An image that is decoded and encoded at once."""

    metadata: Metadata
    wrong = DAMAGED  # what is said where it cannot be decoded
    coder = 0  # bytes per pixel that it takes beside arrays like these
    _decoded: Any = None
    _moving: Moving | None = None

    def _shape(self, height: int, width: int, channels: int, dtype: Any) -> None:
        check_size(height, width, channels)
        if self.metadata.orientation >= 5:
            height, width = width, height
        self.height, self.width, self.channels, self.dtype = height, width, channels, np.dtype(dtype)
        self.colours = 1 if channels < 3 else 3

    def close(self) -> None:
        if self._decoded is not None and self.spare:
            self.spare.give(self._decoded)
        self._decoded = None
        if self._moving is not None:
            self._moving.image.close()

    @property
    def memory(self) -> int:
        # Of an animation Pillow has four bytes per pixel of each frame, twice.
        arrays = 3 * self.nbytes if self.frames == 1 else self.frames * (2 * self.nbytes + 8 * self.pixels)
        return arrays + self.coder * self.pixels

    def bands(self) -> Iterator[tuple[int, Any]]:
        if self._decoded is None:
            with reading(self.wrong):
                pixels = turn(self._decode(), self.metadata.orientation)
                plain = pixels.flags.c_contiguous and pixels.flags.writeable
                self._decoded = pixels if plain else np.array(pixels, order="C")
        yield 0, self._decoded

    def moving(self) -> Iterator[tuple[float, Any]]:
        assert self._moving is not None
        with reading(self.wrong):
            for time, pixels in self._moving:
                yield time, np.array(turn(pixels, self.metadata.orientation), order="C")

    def write(self, path: Path, bands: Iterable[tuple[int, Any]], quality: int | None) -> None:
        made = [np.ascontiguousarray(pixels.squeeze(-1) if self.channels == 1 else pixels) for _, pixels in bands]
        with path.open("w+b") as file:
            if self.frames > 1:
                self._encode_frames(made, quality, file)
            else:
                self._encode(made.pop(), quality, file)

    @abstractmethod
    def _decode(self) -> Any:
        """The pixels as they are stored, (height, width, channels)."""

    @abstractmethod
    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        """Write the file. Pillow encodes without the GIL where this is one of the system's."""

    def _encode_frames(self, frames: list[Any], quality: int | None, file: Any) -> None:
        raise NotImplementedError


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


class JpegFile(Whole):
    """JPEG by libjpeg-turbo: in imagecodecs, which takes half of Pillow's time, where that has all it needs."""

    coder = 8  # Pillow has four bytes per pixel, twice

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: Any = path.read_bytes()
        self._markers = markers = Jpeg(self._data)
        marker, bits, height, width = markers.frame
        check_size(height, width)
        channels = len(markers.sampling)
        if bits != 8 or marker in (0xC3, *range(0xC5, 0xC8), 0xCB, *range(0xCD, 0xD0)):
            raise ImageError(f"has {bits} bits a sample or is coded without loss, as few JPEG files; convert it first")
        if channels not in (1, 3):
            raise ImageError(f"has {'CMYK' if channels == 4 else channels} colours; convert it to RGB first")
        check_data(len(self._data), JPEG, height, width, 8 * channels)
        self.metadata, self.lost = markers.metadata, tuple(markers.lost)
        self._shape(height, width, channels, np.uint8)

    @property
    def icc(self) -> bytes | None:
        return self._markers.icc

    def _decode(self) -> Any:
        import imagecodecs
        from PIL import JpegImagePlugin

        data, self._data = self._data, None
        if self._markers.ends:
            _, _, height, width = self._markers.frame
            pixels = (self.spare or Spare()).take((height, width, self.channels))
            imagecodecs.jpeg8_decode(data, out=pixels if self.channels > 1 else pixels[..., 0])
        else:  # cut short, mostly: libjpeg fills in what is missing, of which Pillow tells
            with JpegImagePlugin.JpegImageFile(self.path) as image:
                pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        import imagecodecs
        from PIL import Image

        markers = self._markers
        across, down = markers.chroma[:: -1 if self.metadata.orientation >= 5 else 1]
        progressive = markers.frame[0] in (0xC2, 0xCA)
        if quality is None:
            quality = level_of(markers.tables)
        if quality is not None and not progressive:
            known = (across, down) if (across, down) in _SAMPLINGS else _finer(across, down)
            sampling = known if self.channels == 3 else None
            file.writelines(markers.spliced(imagecodecs.jpeg8_encode(pixels, quality, subsampling=sampling)))
            return
        options: dict[str, Any] = {"progressive": progressive}
        if quality is None:
            options["qtables"] = {key: list(_zigzag(table)) for key, table in markers.tables}
        else:
            options["quality"] = quality
        if self.channels == 3:
            options["subsampling"] = _PILLOW.index(_finer(across, down))
        Image.fromarray(pixels).save(file, "JPEG", **options)
        file.seek(0)
        encoded = file.read()
        file.seek(0)
        file.truncate()
        file.writelines(markers.spliced(encoded))


#: What imagecodecs and Pillow write, pixels across and down.
_SAMPLINGS = ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1))
_PILLOW = ((1, 1), (2, 1), (2, 2))


def _finer(across: int, down: int) -> tuple[int, int]:
    """The coarsest sampling of Pillow's that is no coarser than this."""
    return max((each for each in _PILLOW if each[0] <= across and each[1] <= down), key=lambda each: each[0] * each[1])


def level_of(tables: tuple[tuple[int, bytes], ...]) -> int | None:
    """The quality at which libjpeg has these tables, if there is one."""
    return _levels().get(tables)


@functools.cache
def _levels() -> dict[Any, int]:
    import imagecodecs

    grey, colour = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)
    made = {}
    for level in range(1, 101):
        for pixels in (grey, colour):
            made[quantization(imagecodecs.jpeg8_encode(pixels, level))] = level
    return made


def _zigzag(table: bytes) -> Iterable[int]:
    """A table as Pillow takes it, from the order in files."""
    from PIL import JpegImagePlugin

    values = table if len(table) == 64 else struct.unpack(">64H", table)
    return [values[n] for n in JpegImagePlugin.zigzag_index]


# --- PNG


PNG = b"\x89PNG\r\n\x1a\n"
#: Chunks that describe how the pixels are stored, which is another way after writing.
_PNG_STORAGE = frozenset(
    (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"bKGD", b"hIST", b"sBIT", b"sPLT", b"acTL", b"fcTL", b"fdAT")
)
_PNG_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"


class PngFile(Whole):
    """PNG by libpng (in imagecodecs): Pillow has no RGB of 16 bits. The other chunks are kept to the byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks = list(_png_chunks(path))
        kinds = [kind for kind, _ in self._chunks]
        if kinds[:1] != [b"IHDR"]:
            raise ImageError("is damaged: it has no header")
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
        self.lost = tuple(self.metadata.lost)
        alpha = colour in (4, 6) or b"tRNS" in kinds
        self._shape(height, width, (3 if colour & 2 else 1) + alpha, np.uint16 if bits == 16 else np.uint8)
        if b"acTL" in kinds:
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
        self._shape(image.height, image.width, len(self._moving.mode), np.uint8)

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

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        import imagecodecs

        self._write(bytes(imagecodecs.png_encode(pixels)), file)

    def _encode_frames(self, frames: list[Any], quality: int | None, file: Any) -> None:
        encoded = io.BytesIO()
        assert self._moving is not None
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


def _png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of every chunk; the pixels' are passed over."""
    with path.open("rb") as file:
        file.seek(len(PNG))
        while len(head := file.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"IDAT", b"fdAT"):
                file.seek(size + 4, 1)
                yield kind, b""
            else:
                data = file.read(size)
                if len(file.read(4)) != 4:
                    raise ImageError("is truncated")
                yield kind, data


# --- what Pillow has


class PillowFile(Whole):
    """What Pillow reads and writes.

    The plugins are called directly: ``Image.open`` adds its own limit on pixels, where ``fit`` has the user's.
    """

    kind: str
    coder = 8  # Pillow has four bytes per pixel, twice

    def __init__(self, path: Path, plugin: Any) -> None:
        self.image = sized(plugin)(path)
        try:
            info = self.image.info
            self.metadata = Metadata(info.get("exif"), info.get("xmp"))
            self.lost = tuple(self.metadata.lost)
            mode = self.image.mode
            mode = {"P": "RGBA" if "transparency" in info else "RGB", "1": "L", "RGBX": "RGB"}.get(mode, mode)
            self.frames = getattr(self.image, "n_frames", 1)
            if self.frames > 1 and self.image.format == "GIF":
                mode = "RGBA"  # frames may leave out what others have
            self._mode = "L" if mode == "RGB" and self._is_grey() else mode
            channels = {"L": 1, "RGB": 3, "RGBA": 4}.get(self._mode)
            if channels is None:
                raise ImageError(f"has {mode} colours; convert it to RGB first")
            check_data(path.stat().st_size, DENSEST, self.image.height, self.image.width, 8 * channels)
            self._shape(self.image.height, self.image.width, channels, np.uint8)
            if self.frames > 1:
                self._moving = Moving(self.image, self._mode)
        except BaseException:
            self.image.close()
            raise

    def _is_grey(self) -> bool:
        return False

    @property
    def icc(self) -> bytes | None:
        return self.image.info.get("icc_profile")

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
        assert self._moving is not None
        self._moving.save(frames, self.kind, file, **self._said(quality))

    def _said(self, quality: int | None) -> dict[str, Any]:
        dpi = self.image.info.get("dpi")
        dpi = dpi[::-1] if dpi and self.metadata.orientation >= 5 else dpi
        known = {"icc_profile": self.icc, "exif": self.metadata.exif, "xmp": self.metadata.xmp, "dpi": dpi}
        return self._options(quality) | {name: value for name, value in known.items() if value}


@functools.cache
def sized(plugin: Any) -> Any:
    """The plugin, which itself only says of an image without pixels that it doesn't know it."""

    def _open(self: Any) -> None:
        plugin._open(self)
        check_size(self.height, self.width)

    return type(plugin.__name__, (plugin,), {"_open": _open})


class WebPFile(PillowFile):
    kind = "WEBP"

    def __init__(self, path: Path) -> None:
        from PIL import WebPImagePlugin

        chunks = list(_riff_chunks(path))
        kinds = {kind for kind, _ in chunks}
        self._lossless = b"VP8L" in kinds and b"VP8 " not in kinds
        if 12 + sum(8 + size + size % 2 for kind, size in chunks if size >= 0) > path.stat().st_size:
            self.wrong = "is truncated"
        with reading(self.wrong):
            super().__init__(path, WebPImagePlugin.WebPImageFile)
        if max(self.height, self.width) > 16383:
            self.close()
            raise ImageError("has a canvas of more than 16383 pixels a side, the most of a picture in WebP")

    def _options(self, quality: int | None) -> dict[str, Any]:
        return {"exact": True} | ({"lossless": True} if self._lossless else {"quality": quality or QUALITY})


def _riff_chunks(path: Path) -> Iterator[tuple[bytes, int]]:
    """The kind and size of each chunk; of what a frame is coded as, size −1."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            yield kind, size
            at = file.tell()
            if kind == b"ANMF":
                inner = file.read(20)[16:]
                yield (b"VP8 " if inner == b"ALPH" else inner), -1
            file.seek(at + size + size % 2)


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
        beside = {b"XMP DataXMP": "its XMP", b"ICCRGBG1012": "its colour profile"}
        self.lost = (*self.lost, *(what for name, what in beside.items() if b"!\xff\x0b" + name in data))
        if self.image.info.get("comment"):
            self.lost = (*self.lost, "its comment")


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
