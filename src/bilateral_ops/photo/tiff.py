"""TIFF files, BigTIFF too, whole or in bands of rows: a file larger than memory is read and written piece by piece."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .._core.settings import get_num_threads
from .formats import QUALITY, jpeg, level_of
from .images import BAND, DAMAGED, DEFLATED, DENSEST, ImageError, Picture, check_size, reading, size_of
from .metadata import EXIF_PAIRS, Metadata, resources

TILE = 256  # of what is written in pieces and wasn't in tiles
LARGEST = 8192  # side of a tile that is written as it was
STEP = 1 << 18  # pixels whose values are changed at a time
#: Tags that say nothing of how the pixels are stored, copied as they are: names, dates, XMP, IPTC, Photoshop, GeoTIFF.
KEPT = (
    *(269, 270, 271, 272, 285, 305, 306, 315, 316, 700, 33432, 33723, 34377),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),
)
EXIF, GPS = 34665, 34853
SPARSE = 1 << 26  # bytes of a tile or strip that may be left out
#: Bytes that one stands for at most: none, LZW, deflate by both its numbers, PackBits, Zstandard by both.
_DENSEST = {1: 1, 5: 4096, 8: DEFLATED, 32946: DEFLATED, 32773: 64, 34926: 1 << 16, 50000: 1 << 16}
LOSSLESS = ("NONE", "LZW", "ADOBE_DEFLATE", "PACKBITS", "ZSTD", "LZMA")
PREDICTED = ("LZW", "ADOBE_DEFLATE", "ZSTD", "LZMA")

# What is damaged and left out tifffile tells its logger, which writes to standard error where nobody listens.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class Tiff(Picture):
    """A TIFF file of one picture; its pyramid and thumbnails are left out of what is written."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self.path = path
        with reading("is damaged: its directory cannot be read"):
            try:
                self._file: Any = tifffile.TiffFile(path, _multifile=False)
            except IndexError:  # of pixels without samples
                raise ImageError("has no pixels") from None
            try:
                self._page: Any = self._file.pages[0]
                beside = self._check_pages()
                self._check()
                held, densest = self._check_data()
                self._read_tags()
                page: Any = self._page
                palette = page.photometric.name == "PALETTE"
                self._turned = page.imagelength, page.imagewidth, page.samplesperpixel
                self._table = self._values()
                dtype = page.dtype.newbyteorder("=") if self._table is None else self._table.dtype
                channels = 3 if palette else page.samplesperpixel
                self._holds((*self._turned[:2], channels), dtype, self._bits, densest, held)
            except BaseException:
                self._file.close()
                raise
        if beside:
            self.metadata.lost.insert(0, "its thumbnails and smaller copies")
        self.colours = 3 if palette or page.photometric.name in ("RGB", "YCBCR") else 1
        self._premultiplied = self.colours == 3 and self.channels > 3 and self._extra[:1] == [1]
        self._rows = self.height  # of a band

    def _check_pages(self) -> bool:
        """Whether there are thumbnails and smaller copies beside the picture, and nothing else."""
        with reading("is damaged: its directories after the first cannot be read"):
            others = [int(getattr(page.aspage(), "subfiletype", 0)) & 1 for page in list(self._file.pages)[1:]]
            below = [int(page.aspage().subfiletype) & 1 for page in self._page.pages or ()]
        if 50706 in self._page.tags:
            raise ImageError("is a DNG; develop it first, and enhance what comes of it")
        if int(self._page.subfiletype) & 1 or not all(below):
            raise ImageError("has a thumbnail in its photograph's place, as raw files have; develop it first")
        if not all(others):
            raise ImageError(f"has {others.count(0) + 1} pages; split it into files of one")
        return bool(others or below)

    def _check(self) -> None:
        """The tags that say how pixels are stored, before anything is made of them."""
        from tifffile import COMPRESSION, PHOTOMETRIC, PREDICTOR, TIFF

        page = self._page
        samples, planar, bits = page.samplesperpixel, page.planarconfig, page.bitspersample
        sides = {"TileWidth": page.tilewidth, "TileLength": page.tilelength}
        if not page.is_tiled:
            sides = {"RowsPerStrip": page.rowsperstrip}
        kinds = page.photometric, page.compression, page.predictor
        numbers = (page.imagewidth, page.imagelength, page.imagedepth, samples, planar, *kinds, *sides.values())
        if not all(isinstance(number, int) for number in numbers):
            raise ImageError("is damaged: its directory cannot be read")
        check_size(page.imagelength, page.imagewidth, samples)
        colours, self._compression, predictor = map(_name, (PHOTOMETRIC, COMPRESSION, PREDICTOR), kinds)
        wanted = {"RGB": 3, "YCBCR": 3, "MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1}.get(colours)
        decoded = self._compression in ("JPEG", "OJPEG") or colours != "YCBCR"
        palette = colours == "PALETTE"
        kind = "unknown" if page.dtype is None else page.dtype.name
        predicted = page.predictor != 1 and page.compression not in TIFF.IMAGE_COMPRESSIONS
        self._plain = bool(page.is_memmappable and not page.is_tiled and planar == 1)  # rows in the file as in memory
        if 262 not in page.tags and colours == "MINISWHITE":  # 0, as nothing says
            raise ImageError("is damaged: it has no PhotometricInterpretation")
        if wanted is not None and samples < wanted:
            raise ImageError(f"is damaged: its {colours} colours take {wanted} samples a pixel, and it has {samples}")
        if wanted is None or not decoded or page.imagedepth != 1 or (palette and samples > 1):
            raise ImageError(f"has {colours} colours ({samples} samples a pixel); convert it to RGB first")
        if not kind.startswith("float") and kind not in ("uint8", "uint16", "bool"):
            raise ImageError(f"has {kind} samples; uint8, uint16 or floating point can be enhanced")
        if not isinstance(bits, int):
            raise ImageError("has samples of several sizes; uint8, uint16 or floating point can be enhanced")
        if page.compression != 1 and page.compression not in TIFF.DECOMPRESSORS:
            raise ImageError(f"has compression {self._compression}, which cannot be read")
        if predicted and (page.predictor not in TIFF.UNPREDICTORS or bits % 8):
            raise ImageError(f"has predictor {predictor}, which cannot be read")
        if planar not in (1, 2) and samples > 1:
            raise ImageError(f"is damaged: its PlanarConfiguration is {planar:d}")
        for name, size in sides.items():
            if size < 1 and not self._plain:
                raise ImageError(f"is damaged: its {name} is {size}")
        if palette and np.shape(page.colormap)[:1] != (3,):
            raise ImageError("is damaged: its palette has no ColorMap")
        self._bits = bits * samples  # of a pixel
        self._segment_rows = int(page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength))
        if not self._plain:  # how many planes of how many tiles or strips down and across are stored
            across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
            self._segments = samples if planar == 2 else 1, -(-page.imagelength // self._segment_rows), across

    def _check_data(self) -> tuple[int, int]:
        """That strips or tiles are there, as many as it takes; the bytes in them, and of pixels one of them may be."""
        page = self._page
        kind = "tiles" if page.is_tiled else "strips"
        offsets, counts = (np.array(tuple(values)) for values in (page.dataoffsets, page.databytecounts))
        found = min(len(offsets), len(counts))
        if not found:
            raise ImageError(f"has no pixels: it has no {kind}")
        if offsets.dtype.kind not in "iu" or counts.dtype.kind not in "iu":
            raise ImageError(f"is damaged: its {kind} do not begin and end at whole numbers")
        if self._plain:
            needed, counts = 1, np.array([self._bits // 8 * page.imagewidth * page.imagelength])
        else:
            needed = math.prod(self._segments)
        if found < needed:
            raise ImageError(f"is damaged: it has {found} of the {needed} {kind} of its pixels")
        offsets, counts = offsets[:needed].astype(np.float64), counts[:needed].astype(np.float64)
        if (offsets < 0).any() or (counts < 0).any():
            raise ImageError(f"is damaged: its {kind} lie outside the file")
        size = self.path.stat().st_size
        if (offsets + counts)[counts > 0].max(initial=0) > size:
            raise ImageError("is truncated")
        densest = _DENSEST.get(int(page.compression), DENSEST)
        if not counts.all():  # what isn't stored is zero
            return size, max(densest, needed * SPARSE // size)
        return int(counts.sum()), densest

    def _values(self) -> Any:
        """What the stored numbers mean where that isn't themselves: a palette's colours, or fewer bits than the type's.

        Samples of 1 to 7 bits become 8, of 9 to 15 bits 16, with white where it was.
        """
        page = self._page
        if page.photometric.name == "PALETTE":
            colours = np.asarray(page.colormap)
            return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).T  # some are of 8 bits
        bits = page.bitspersample
        if page.dtype.kind == "f" or bits in (8, 16):
            return None
        dtype, white = (np.uint8, 255) if bits < 8 else (np.uint16, 65535)
        return np.rint(np.linspace(0, white, 1 << bits)).astype(dtype)

    def _read_tags(self) -> None:
        """What is written again as it was."""
        from tifffile import RESUNIT

        page = self._page
        orientation = page.tags.valueof(274)
        orientation = int(orientation) if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
        self._extra = [kind if kind in (0, 1, 2) else 0 for kind in map(int, page.extrasamples)]
        x, y, unit = (page.tags.valueof(code, default) for code, default in ((282, None), (283, None), (296, 2)))
        xmp = page.tags.valueof(700)
        self.metadata = Metadata(None, xmp if isinstance(xmp, bytes) else None, page.iccprofile, orientation)
        told = all(map(_is_resolution, (x, y))) and unit in list(RESUNIT)
        self._resolution = (x, y, int(unit)) if told else None

    # --- how much at a time

    @property
    def whole(self) -> bool:
        return self._rows >= self.height

    @property
    def memory(self) -> int:
        return super().memory + self._decoding

    @property
    def _decoding(self) -> int:
        """The bytes that decoding strips or tiles takes: in each thread, packed and unpacked, and a row of them."""
        if self._plain:
            return 0
        page, (_, width, samples) = self._page, self._turned
        planes, _, across = self._segments
        sample = max(1, page.dtype.itemsize)
        segment = self._segment_rows * (page.tilewidth if page.is_tiled else width) * sample * samples // planes
        return 2 * min(get_num_threads(), planes * across) * segment + 2 * self._segment_rows * width * samples * sample

    def fit(self, limit: int, beside: int = 0) -> None:
        if self.memory <= limit or (
            self.metadata.orientation != 1 and self._decoding <= limit
        ):  # turning takes all of it
            super().fit(limit, beside)
            return
        page = self._page
        row = self.width * self.channels * self.dtype.itemsize
        height = self._tile()[0]
        band = min(BAND, limit // (16 + beside * self.width // row))
        self._rows = max(1, band // (row * height)) * height
        # Bands being read, changed, written and encoded, and what the first is cut from.
        needed = self._rows * (6 * row + beside * self.width) + self._decoding
        if needed > limit:
            kind = f"tiles of {page.tilewidth} ×" if page.is_tiled else "strips of"
            raise ImageError(
                f"has {kind} {self._segment_rows} rows, which takes {size_of(needed)} where --memory-limit "
                f"leaves {size_of(limit)}; raise it, or store the image in smaller tiles"
            )

    def _tile(self) -> tuple[int, int]:
        page = self._page
        sides = (page.tilelength, page.tilewidth) if page.is_tiled else ()
        if sides and not any(side % 16 or side > LARGEST for side in sides):
            return page.tilelength, page.tilewidth
        return TILE, TILE

    def close(self) -> None:
        super().close()
        self._file.close()

    # --- reading

    def bands(self) -> Iterator[tuple[int, Any]]:
        return super().bands() if self.whole else self._bands(self._rows)

    def _decode(self) -> Any:
        ((_, pixels),) = self._bands(self._turned[0])
        return pixels

    def _bands(self, rows: int) -> Iterator[tuple[int, Any]]:
        """The stored rows, cut anew, so many at a time."""
        height, width, _ = self._turned
        with reading(DAMAGED):
            band, filled, top = None, 0, 0
            step = max(1, STEP // width)
            for stored in self._stored(rows):
                while len(stored):
                    if band is None:
                        band = np.empty((min(rows, height - top), width, self.channels), self.dtype)
                    count = min(len(stored), len(band) - filled, step)
                    band[filled : filled + count] = self._plainly(stored[:count])
                    stored, filled = stored[count:], filled + count
                    if filled == len(band):
                        yield top, band
                        band, filled, top = None, 0, top + filled

    def _plainly(self, stored: Any) -> Any:
        """Grey from black up, and a palette's colours."""
        page = self._page
        if self._table is not None:
            stored = self._table[np.asarray(stored[..., 0] if self._table.ndim == 2 else stored, np.intp)]
        if self._premultiplied:
            stored = _divided(stored)
        if page.photometric.name == "MINISWHITE":
            stored = stored.copy()
            top = np.iinfo(self.dtype).max if self.dtype.kind == "u" else 1
            stored[..., 0] = top - stored[..., 0]
        return stored

    def _stored(self, rows: int) -> Iterator[Any]:
        """The rows as they are stored: so many at a time, or those of a row of strips or tiles."""
        page, (height, width, samples) = self._page, self._turned
        file = self._file.filehandle
        if self._plain:
            kind = page.dtype.newbyteorder(self._file.byteorder)
            file.seek(page.dataoffsets[0])
            for top in range(0, height, rows):
                count = min(rows, height - top)
                data = file.read(count * width * samples * kind.itemsize)
                yield np.frombuffer(data, kind).reshape(count, width, samples)
            return
        planes, down, across = self._segments

        def decoded(segment: tuple[bytes | None, int]) -> Any:
            data, n = segment
            return page.decode(data, indices[n], jpegtables=page.jpegtables, jpegheader=page.jpegheader)

        with ThreadPoolExecutor(get_num_threads()) as pool:
            for y in range(down):
                kept = min(self._segment_rows, height - y * self._segment_rows)
                stored = np.zeros((kept, width, samples), page.dtype)
                indices = [(plane * down + y) * across + x for plane in range(planes) for x in range(across)]
                places = ([numbers[n] for n in indices] for numbers in (page.dataoffsets, page.databytecounts))
                for pixels, (plane, _, _, left, _), _ in pool.map(decoded, file.read_segments(*places)):
                    if pixels is not None:  # what is stored nowhere is zero
                        into = stored[:, left : left + pixels.shape[2], plane : plane + pixels.shape[3]]
                        into[...] = pixels[0, :kept, : into.shape[1]]
                yield stored

    # --- writing

    def write(self, path: Path, bands: Iterable[tuple[int, Any]], quality: int | None) -> None:
        import tifffile

        page = self._page
        name = self._compression
        name = {"DEFLATE": "ADOBE_DEFLATE", "OJPEG": "JPEG"}.get(name, name)
        lossy = name in ("JPEG", "WEBP") and self.dtype == np.uint8 and self.channels in (1, 3)
        options: dict[str, Any] = {}
        if lossy:
            if name == "JPEG":
                quality = quality or self._level()
            options = {"compression": name.lower(), "compressionargs": {"level": quality or QUALITY}}
            if name == "JPEG" and self.channels == 3:
                options["subsampling"] = self._subsampling()
        elif name != "NONE":
            options = {"compression": name.lower() if name in LOSSLESS else "adobe_deflate"}
            if name not in LOSSLESS or (page.predictor != 1 and name in PREDICTED):
                options["predictor"] = True
        if self.channels > self.colours:
            given = self._extra[: self.channels - self.colours]
            options["extrasamples"] = given + [0] * (self.channels - self.colours - len(given))
        if self._resolution:
            x, y, resolution_unit = self._resolution
            resolution = (x, y) if self.metadata.orientation < 5 else (y, x)
            options |= {"resolution": resolution, "resolutionunit": resolution_unit}
        big = self._file.is_bigtiff or self.nbytes > 0xF0000000
        ifds = self._ifds(big)
        extra: list[Any] = [self._described(tag) for code in KEPT if (tag := page.tags.get(code)) is not None]
        if 274 in page.tags:
            extra.append((274, 3, 1, 1, True))
        extra += [({EXIF: "ExifTag", GPS: "GPSTag"}[code], 4, 1, 8, True) for code in ifds]
        shape = (self.height, self.width, self.channels)
        if self.whole:
            ((_, pixels),) = bands
            data: Any = self._as_stored(pixels)
            if page.is_tiled:
                options["tile"] = self._tile()
            elif not options.get("compression"):
                options["rowsperstrip"] = page.rowsperstrip
        else:
            options["tile"] = self._tile()
            data = self._tiles(bands)
        options |= {"shape": shape if self.channels > 1 else shape[:2], "dtype": self.dtype}
        with tifffile.TiffWriter(path, bigtiff=big, byteorder="<") as writer:
            writer.write(
                data,
                photometric="rgb" if self.colours == 3 else "minisblack",
                planarconfig="contig" if self.channels > 1 else None,
                iccprofile=self.metadata.icc,
                metadata=None,
                software=False,
                extratags=extra,
                maxworkers=get_num_threads(),
                buffersize=BAND // 4,
                **options,
            )
        if ifds:
            _append(path, ifds)

    def _level(self) -> int | None:
        """The quality of its first strip or tile, in JPEG."""
        tables = self._page.jpegtables
        ((data, _),) = self._file.filehandle.read_segments(self._page.dataoffsets[:1], self._page.databytecounts[:1])
        with suppress(SyntaxError, ImageError):
            return level_of(jpeg(io.BytesIO(tables[:-2] + data[2:] if tables and data else data or b"")).quantization)
        return None

    def _subsampling(self) -> tuple[int, int]:
        """That of a JPEG, or none where tifffile has not the same."""
        page = self._page
        given = page.subsampling if page.photometric.name == "YCBCR" and page.subsampling else (1, 1)
        given = given if self.metadata.orientation < 5 else given[::-1]
        fits = not page.is_tiled or not any(side % (8 * max(given)) for side in self._tile())
        return given if fits and given in ((1, 1), (2, 1), (2, 2), (4, 1)) else (1, 1)

    def _tiles(self, bands: Iterable[tuple[int, Any]]) -> Iterator[Any]:
        height, width = self._tile()
        for _, band in bands:
            for top in range(0, len(band), height):
                for left in range(0, self.width, width):
                    tile = band[top : top + height, left : left + width]
                    padding = [(0, height - tile.shape[0]), (0, width - tile.shape[1]), (0, 0)]
                    tile = np.pad(tile, padding, mode="edge") if any(p[1] for p in padding) else tile
                    yield np.ascontiguousarray(self._as_stored(tile))

    def _as_stored(self, pixels: Any) -> Any:
        if self._premultiplied:
            pixels = _multiplied(pixels)
        return pixels if self.channels > 1 else pixels[..., 0]

    def _described(self, tag: Any) -> tuple[int, int, int, Any, bool]:
        """A tag as it is to be written: text as it lay in the file, and nothing of the pixels as they were."""
        count, value = tag.count, tag.value
        if isinstance(value, str):
            value, count = value.encode("utf-8", "surrogateescape") + b"\0", 0
        elif tag.code == 700 and self.metadata.xmp is not None:
            value, count = self.metadata.xmp, len(self.metadata.xmp)
        elif tag.code == 34377 and isinstance(value, bytes):
            value = b"".join(resources(value))
            count = len(value)
        return tag.code, int(tag.dtype), count, value, True

    def _ifds(self, big: bool) -> dict[int, Any]:
        """EXIF and GPS, ready to be written again."""
        from PIL.TiffImagePlugin import ImageFileDirectory_v2

        made, file = {}, self._file.filehandle
        with reading("is damaged: its EXIF or GPS directory cannot be read"):
            for code in (EXIF, GPS):
                if (tag := self._page.tags.get(code)) is None:
                    continue
                file.seek(0)
                found: Any = ImageFileDirectory_v2(file.read(16 if self._file.is_bigtiff else 8), group=code)
                file.seek(tag.valueoffset)
                found.load(file)
                head = b"II+\0" + bytes(12) if big else b"II*\0" + bytes(4)
                made[code] = copied = ImageFileDirectory_v2(head, group=code)
                for number in found:
                    if number != 40965:  # interoperability, a directory of its own
                        copied.tagtype[number] = found.tagtype[number]
                        copied[number] = found[number]
                for one, other in EXIF_PAIRS if self.metadata.orientation >= 5 else ():
                    if one in copied and other in copied:
                        copied[one], copied[other] = copied[other], copied[one]
                copied.tobytes(0)  # tried before anything is written
        return made


def _append(path: Path, ifds: dict[int, Any]) -> None:
    """EXIF and GPS, which tifffile can't write: put after all else, where the tags made for them then point."""
    import tifffile

    target: Any
    with tifffile.TiffFile(path, mode="r+") as target:
        file = target.filehandle
        for code, copied in ifds.items():
            end = (file.seek(0, 2) + 1) // 2 * 2
            file.seek(end)
            file.write(copied.tobytes(end))
            target.pages[0].tags[code].overwrite(end)


def _name(kinds: Any, value: Any) -> str:
    """What the format calls a tag's number, if anything."""
    return str(next((kind.name for kind in kinds if kind == value), f"unknown ({value:d})"))


def _divided(pixels: Any) -> Any:
    """Colours that were multiplied by alpha as they are without it; black where it is 0."""
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    alpha = pixels[..., 3:4].astype(np.float64)
    colour = np.divide(pixels[..., :3] * np.float64(top), alpha, out=np.zeros(pixels[..., :3].shape), where=alpha > 0)
    return _with_colours(pixels, colour, top)


def _multiplied(pixels: Any) -> Any:
    """The reverse, which gives the same integers back."""
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    return _with_colours(pixels, pixels[..., :3] * (pixels[..., 3:4] / np.float64(top)), top)


def _with_colours(pixels: Any, colour: Any, top: int) -> Any:
    pixels = pixels.copy()
    pixels[..., :3] = np.rint(np.clip(colour, 0, top)) if pixels.dtype.kind == "u" else colour
    return pixels


def _is_resolution(value: Any) -> bool:
    """Whether a tag has a number to be written again, as a fraction mostly."""
    if isinstance(value, tuple):
        return len(value) == 2 and value[0] >= 0 and value[1] > 0
    return isinstance(value, (int, float)) and 0 <= value < math.inf
