"""Pictures that are decoded and encoded as a whole: JPEG, PNG, and what Pillow reads and writes."""

from __future__ import annotations

import functools
import struct
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._core.missing import missing
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
    _decoded: Any = None

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

    def bands(self) -> Iterator[tuple[int, Any]]:
        if self._decoded is None:
            with reading(self.wrong):
                pixels = turn(self._decode(), self.metadata.orientation)
                plain = pixels.flags.c_contiguous and pixels.flags.writeable
                self._decoded = pixels if plain else np.array(pixels, order="C")
        yield 0, self._decoded

    def write(self, path: Path, bands: Iterable[tuple[int, Any]], quality: int | None) -> None:
        ((_, pixels),) = bands
        pixels = np.ascontiguousarray(pixels.squeeze(-1) if self.channels == 1 else pixels)
        with path.open("w+b") as file:
            self._encode(pixels, quality, file)

    @abstractmethod
    def _decode(self) -> Any:
        """The pixels as they are stored, (height, width, channels)."""

    @abstractmethod
    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        """Write the file. Pillow encodes without the GIL where this is one of the system's."""


# --- JPEG


class JpegFile(Whole):
    """JPEG by libjpeg-turbo: in imagecodecs, which takes half of Pillow's time, where that has all it needs."""

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
    def memory(self) -> int:
        return 2 * self.nbytes + 8 * self.pixels  # Pillow has four bytes per pixel, twice

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
_PNG_STORAGE = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"bKGD", b"hIST", b"sBIT", b"sPLT"))
_PNG_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"


class PngFile(Whole):
    """PNG by libpng (in imagecodecs): Pillow has no RGB of 16 bits. The other chunks are kept to the byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chunks = list(_png_chunks(path))
        kinds = [kind for kind, _ in self._chunks]
        if kinds[:1] != [b"IHDR"]:
            raise ImageError("is damaged: it has no header")
        if b"acTL" in kinds:
            raise ImageError(_ANIMATED.format(kind="png"))
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

        encoded = imagecodecs.png_encode(pixels)
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
            if kind == b"IDAT":
                file.seek(size + 4, 1)
                yield kind, b""
            else:
                data = file.read(size)
                if len(file.read(4)) != 4:
                    raise ImageError("is truncated")
                yield kind, data


# --- what Pillow has


_ANIMATED = "is animated; make a video of it first, such as by ffmpeg -i a.{kind} a.mkv"


class PillowFile(Whole):
    """What Pillow reads and writes.

    The plugins are called directly: ``Image.open`` adds its own limit on pixels, where ``fit`` has the user's.
    """

    kind: str

    def __init__(self, path: Path, plugin: Any) -> None:
        self.image = _sized(plugin)(path)
        try:
            if getattr(self.image, "is_animated", False):
                raise ImageError(_ANIMATED.format(kind=path.suffix[1:]))
            info = self.image.info
            self.metadata = Metadata(info.get("exif"), info.get("xmp"))
            self.lost = tuple(self.metadata.lost)
            mode = self.image.mode
            mode = {"P": "RGBA" if "transparency" in info else "RGB", "1": "L", "RGBX": "RGB"}.get(mode, mode)
            self._mode = "L" if mode == "RGB" and self._is_grey(path) else mode
            channels = {"L": 1, "RGB": 3, "RGBA": 4}.get(self._mode)
            if channels is None:
                raise ImageError(f"has {mode} colours; convert it to RGB first")
            check_data(path.stat().st_size, DENSEST, self.image.height, self.image.width, 8 * channels)
            self._shape(self.image.height, self.image.width, channels, np.uint8)
        except BaseException:
            self.image.close()
            raise

    def _is_grey(self, path: Path) -> bool:
        return False

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
        image = self.image if self.image.mode == self._mode else self.image.convert(self._mode)
        return np.asarray(image).reshape(*image.size[::-1], self.channels)

    def _options(self, quality: int | None) -> dict[str, Any]:
        return {}

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        from PIL import Image

        dpi = self.image.info.get("dpi")
        dpi = dpi[::-1] if dpi and self.metadata.orientation >= 5 else dpi
        known = {"icc_profile": self.icc, "exif": self.metadata.exif, "xmp": self.metadata.xmp, "dpi": dpi}
        options = self._options(quality) | {name: value for name, value in known.items() if value}
        Image.fromarray(pixels).save(file, self.kind, **options)


@functools.cache
def _sized(plugin: Any) -> Any:
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
        self._lossless = b"VP8L" in (kind for kind, _ in chunks)
        if b"ANIM" in (kind for kind, _ in chunks):
            raise ImageError(
                "is animated; take it apart first, such as by ImageMagick's convert a.webp -coalesce a.png"
            )
        if 12 + sum(8 + size + size % 2 for _, size in chunks) > path.stat().st_size:
            self.wrong = "is truncated"
        with reading(self.wrong):
            super().__init__(path, WebPImagePlugin.WebPImageFile)

    def _options(self, quality: int | None) -> dict[str, Any]:
        return {"exact": True} | ({"lossless": True} if self._lossless else {"quality": quality or QUALITY})


def _riff_chunks(path: Path) -> Iterator[tuple[bytes, int]]:
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            yield kind, size
            file.seek(size + size % 2, 1)


class AvifFile(PillowFile):
    """AVIF of 8 bits in sRGB or with a profile: Pillow has no others."""

    kind = "AVIF"

    def __init__(self, path: Path) -> None:
        from PIL import features

        if not features.check("avif"):
            raise ImageError("is AVIF, which this Pillow was built without; install a newer one")
        from PIL import AvifImagePlugin

        with path.open("rb") as file:
            head = file.read(1 << 16)
        at = head.find(b"av1C")
        stored = head[at + 6] if 0 <= at < len(head) - 6 else 0
        self._grey, self._sampling = bool(stored & 16), {0: "4:4:4", 8: "4:2:2", 12: "4:2:0"}.get(stored & 12, "4:4:4")
        if stored & 64:
            raise ImageError("has more than 8 bits a sample, which Pillow does not write; convert it to PNG first")
        at = head.find(b"colrnclx")
        if at >= 0:
            primaries, curve = struct.unpack_from(">HH", head, at + 8)
            if primaries not in (0, 1, 2) or curve not in (0, 1, 2, 6, 13):
                raise ImageError("has colours of other primaries than sRGB's and no profile; convert it to PNG first")
        super().__init__(path, AvifImagePlugin.AvifImageFile)
        if b"tmap" in head:
            self.lost = (*self.lost, "its gain map")

    def _is_grey(self, path: Path) -> bool:
        return self._grey

    def _options(self, quality: int | None) -> dict[str, Any]:
        return {"quality": quality or QUALITY} | ({} if self._grey else {"subsampling": self._sampling})


class HeicFile(Whole):
    """HEIC by pillow-heif, where that is installed: also of 10 bits. libheif turns pictures upright itself."""

    def __init__(self, path: Path) -> None:
        if missing("heif", "pillow_heif"):
            raise ImageError("is HEIC; pip install pillow-heif, which reads and writes it")
        import pillow_heif

        pictures = pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
        if len(pictures) > 1:
            raise ImageError(f"has {len(pictures)} pictures; split it into files of one")
        self._image = image = pictures[0]
        self._info = info = dict(image.info)
        channels = {"L": 1, "RGB": 3, "RGBA": 4}.get(image.mode.split(";")[0])
        if channels is None or info["bit_depth"] > 10:
            raise ImageError(f"has {image.mode} pixels of {info['bit_depth']} bits; convert it to PNG first")
        width, height = image.size
        check_data(path.stat().st_size, DENSEST, height, width, info["bit_depth"] * channels)
        self.metadata = Metadata(info.get("exif"), info.get("xmp"))
        self.metadata.orientation = 1
        beside = {**info.get("aux", {}), **({"depth": 1} if info.get("depth_images") else {})}
        lost = ["its gain map" if "gainmap" in name else "its depth map or mattes" for name in beside]
        self.lost = tuple(dict.fromkeys((*self.metadata.lost, *lost)))
        self._shape(height, width, channels, np.uint16 if ";16" in image.mode else np.uint8)

    @property
    def icc(self) -> bytes | None:
        return self._info.get("icc_profile")

    def _decode(self) -> Any:
        pixels = np.asarray(self._image)
        self._image = None
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        import pillow_heif

        mode = {1: "L", 3: "RGB", 4: "RGBA"}[self.channels] + (";16" if self.dtype == np.uint16 else "")
        made = pillow_heif.from_bytes(mode, (self.width, self.height), pixels.tobytes())
        kept = {name: self._info[name] for name in ("icc_profile", "nclx_profile") if self._info.get(name)}
        made.info.update({**kept, "exif": self.metadata.exif, "xmp": self.metadata.xmp})
        made.save(file, quality=quality or QUALITY, chroma=self._info.get("chroma") or 444)


class BmpFile(PillowFile):
    kind = "BMP"

    def __init__(self, path: Path) -> None:
        from PIL import BmpImagePlugin

        super().__init__(path, BmpImagePlugin.BmpImageFile)
        if self.channels == 4:
            self.close()
            raise ImageError("has alpha, which Pillow does not write in BMP; convert it to PNG first")


class GifFile(PillowFile):
    """GIF, which is written as PNG: it has no more than 256 colours."""

    kind = "PNG"

    def __init__(self, path: Path) -> None:
        from PIL import GifImagePlugin

        super().__init__(path, GifImagePlugin.GifImageFile)
        if self.image.info.get("comment"):
            self.lost = (*self.lost, "its comment")
