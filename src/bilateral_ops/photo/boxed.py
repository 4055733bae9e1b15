"""Pictures in boxes of ISO's base media file format, or whose metadata is: AVIF, HEIC, JPEG XL.

A box is a length, four letters, and content, which may be boxes.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .._core.missing import missing
from .formats import PROFILE, QUALITY, PillowFile
from .images import ImageError, Picture, check_size, reading
from .metadata import Metadata


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and contents of boxes that follow one another, up to what is none."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1 and at + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        stop = len(data) if size == 0 else at + size
        if not at + head <= stop <= len(data):
            return
        yield kind, data[at + head : stop]
        at = stop


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


# --- AVIF


class AvifFile(PillowFile):
    """AVIF by Pillow, but for more than 8 bits, and colours that are not sRGB's without a profile: by imagecodecs."""

    kind = "AVIF"
    coder = 24

    def __init__(self, path: Path) -> None:
        from PIL import features

        if not features.check("avif"):
            raise ImageError("is AVIF, which this Pillow was built without; install a newer one")
        from PIL import AvifImagePlugin

        self._data = path.read_bytes()
        # What describes pictures, and sequences; it may come before or after their data.
        head = b"".join(content for kind, content in boxes(self._data) if kind in (b"meta", b"moov"))
        stored = [found[1][0] for found in re.finditer(rb"av1C..(.)", head, re.DOTALL)] or [0]
        grey = all(each & 16 for each in stored)
        sampled = next((each for each in stored if not each & 16), 0)
        self._form = "yuv400" if grey else {12: "yuv420", 8: "yuv422"}.get(sampled & 12, "yuv444")
        self._bits = max({0: 8, 2: 10, 3: 12}.get(each >> 5 & 3, 8) for each in stored)
        said = re.search(rb"colrnclx(..)(..)(..)", head, re.DOTALL)
        self._colours = tuple(int.from_bytes(each, "big") for each in said.groups()) if said else (2, 2, 6)
        primaries, curve, _ = self._colours
        self._by_pillow = self._bits == 8 and primaries in (0, 1, 2) and curve in (0, 1, 2, 6, 13)
        super().__init__(path, AvifImagePlugin.AvifImageFile, grey)
        if self._bits > 8 and self.frames == 1:
            self.dtype = np.dtype(np.uint16)
        if b"tmap" in head:
            self.metadata.lose("its gain map")
        if self.frames > 1:
            if not self._by_pillow:
                self.close()
                raise ImageError("is animated in more than 8 bits or colours than sRGB's; make a video of it first")
            self.metadata.lose("how often it is to be repeated")

    def _decode(self) -> Any:
        import imagecodecs

        if self._bits == 8:
            return super()._decode()
        pixels = imagecodecs.avif_decode(self._data)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if pixels.shape[-1] == 2 and self.channels == 4:  # Pillow has no grey with alpha of AVIF
            pixels = pixels[..., [0, 0, 0, 1]]
        pixels = pixels[..., : self.channels]
        return pixels << (16 - self._bits) | pixels >> (2 * self._bits - 16)  # as 16, white where it was

    def _options(self, quality: int | None) -> dict[str, Any]:
        form = {"yuv420": "4:2:0", "yuv422": "4:2:2", "yuv400": "4:0:0"}.get(self._form, "4:4:4")
        return {"quality": quality or QUALITY, "subsampling": form}

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        encoded = (self._encode8 if self._by_pillow else self._encode_any)(pixels, quality)
        said = self.metadata
        file.write(_with_items(encoded, said.exif, said.xmp, None if self._by_pillow else said.icc))

    def _encode8(self, pixels: Any, quality: int | None) -> bytes:
        from PIL import Image

        file = io.BytesIO()  # Pillow would write EXIF anew, without its orientation
        Image.fromarray(pixels).save(file, "AVIF", icc_profile=self.metadata.icc, **self._options(quality))
        return file.getvalue()

    def _encode_any(self, pixels: Any, quality: int | None) -> bytes:
        import imagecodecs

        if self._bits > 8:
            most = np.uint32((1 << self._bits) - 1)
            pixels = ((pixels * most + np.uint32(32767)) // np.uint32(65535)).astype(np.uint16)
        colours = dict(zip(("primaries", "transfer", "matrix"), self._colours))
        options: dict[str, Any] = {"speed": 6, "bitspersample": self._bits, "pixelformat": self._form, **colours}
        try:
            return bytes(imagecodecs.avif_encode(pixels, quality or QUALITY, **options))
        except TypeError:
            raise ImageError(
                "has more than 8 bits or other colours than sRGB's, which AVIF of this imagecodecs has not; install a "
                "newer one"
            ) from None


def _with_items(data: bytes, exif: bytes | None, xmp: bytes | None, icc: bytes | None) -> bytes:
    """A file of libavif's with these beside its picture: it writes ``ftyp``, ``meta`` and at the end ``mdat``."""
    if not (exif or xmp or icc):
        return data
    parts = dict(boxes(data))
    meta = dict(boxes(parts[b"meta"][4:]))
    assert meta[b"iloc"][:6] == b"\0\0\0\0\x44\0", "offsets and lengths of four bytes"
    (items,) = struct.unpack_from(">H", meta[b"iinf"], 4)
    (picture,) = struct.unpack_from(">H", meta[b"pitm"], 4)
    new = []
    if exif:
        exif = exif[6:] if exif.startswith(b"Exif\0\0") else exif
        new.append((b"Exif", b"\0", b"\0\0\0\0" + exif))
    if xmp:
        new.append((b"mime", b"\0application/rdf+xml\0", xmp))
    infos, references, places = b"", b"", b""
    end = len(data)
    for number, (kind, name, content) in enumerate(new, items + 1):
        infos += _box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), kind, name)
        references += _box(b"cdsc", struct.pack(">HHH", number, 1, picture))
        places += struct.pack(">HHHII", number, 0, 1, end, len(content))
        end += len(content)
    count = struct.pack(">H", items + len(new))
    meta[b"iinf"] = meta[b"iinf"][:4] + count + meta[b"iinf"][6:] + infos
    if new:
        meta[b"iref"] = meta.get(b"iref", b"\0\0\0\0") + references
    if icc:
        properties = dict(boxes(meta[b"iprp"]))
        number = 1 + sum(1 for _ in boxes(properties[b"ipco"]))
        properties[b"ipco"] += _box(b"colr", b"prof", icc)
        said = properties[b"ipma"]
        at = 8 + said[8:].index(struct.pack(">H", picture)) + 2  # the picture's comes first
        properties[b"ipma"] = said[:at] + bytes([said[at] + 1, number]) + said[at + 1 :]
        meta[b"iprp"] = b"".join(_box(*each) for each in properties.items())
    meta[b"iloc"] = meta[b"iloc"][:6] + count + meta[b"iloc"][8:] + places
    made = _box(b"meta", parts[b"meta"][:4], *(_box(*each) for each in meta.items()))
    moved = len(made) - 8 - len(parts[b"meta"])
    located = bytearray(meta[b"iloc"])
    for at in range(8, len(located), 14):
        struct.pack_into(">I", located, at + 6, struct.unpack_from(">I", located, at + 6)[0] + moved)
    meta[b"iloc"] = bytes(located)
    made = _box(b"meta", parts[b"meta"][:4], *(_box(*each) for each in meta.items()))
    return _box(b"ftyp", parts[b"ftyp"]) + made + _box(b"mdat", parts[b"mdat"], *(content for _, _, content in new))


# --- HEIC


class HeicFile(Picture):
    """HEIC by pillow-heif, where that is installed: also of 10 bits. libheif turns pictures upright itself."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(12)[8:11] in (b"hev", b"msf"):
                raise ImageError("is a sequence of pictures in HEIC; make a video of it first")
        if lacking := missing("heif", "pillow_heif"):
            raise ImageError(f"is HEIC, and {lacking}")
        import pillow_heif

        self.path = path
        pictures = pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
        if len(pictures) > 1:
            raise ImageError(f"has {len(pictures)} pictures; split it into files of one")
        image: Any = pictures[0]
        self._image, self._info = image, dict(image.info)
        channels, depth = {"L": 1, "RGB": 3, "RGBA": 4}.get(image.mode.split(";")[0]), self._info["bit_depth"]
        if channels is None or depth > 10:
            raise ImageError(f"has {image.mode} pixels of {depth} bits; convert it to PNG first")
        info = self._info
        self.metadata = Metadata(info.get("exif"), info.get("xmp"), info.get("icc_profile"))
        self.metadata.orientation = 1
        for name in (*info.get("aux", {}), *(["depth"] if info.get("depth_images") else [])):
            self.metadata.lose("its gain map" if "gainmap" in name else "its depth map or mattes")
        dtype = np.uint16 if ";16" in image.mode else np.uint8
        self._holds((*image.size[::-1], channels), dtype, depth * channels)
        # libheif's planes and x265's frames, of alpha others: bounds of what was measured. Of tiles these are small.
        samples = {420: 1.5, 422: 2}.get(info.get("chroma") or 444, 3) + 2 * (channels == 4)
        tiled = bool(info.get("tiling")) and channels < 4
        coder = round(10 + (7 if self.dtype == np.uint8 else 11) * samples) - self.dtype.itemsize * channels
        self.coder = 6 if tiled else coder

    def _decode(self) -> Any:
        pixels = np.asarray(self._image)
        self._image = None
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        import pillow_heif

        mode = {1: "L", 3: "RGB", 4: "RGBA"}[self.channels] + (";16" if self.dtype == np.uint16 else "")
        made = pillow_heif.from_bytes(mode, (self.width, self.height), pixels.reshape(-1).view(np.uint8).data)
        # Tiles, as phones have them, are encoded one after the other.
        names = ("icc_profile", "nclx_profile", "tiling")
        kept = {name: self._info[name] for name in names if self._info.get(name)}
        made.info.update({**kept, "exif": self.metadata.exif, "xmp": self.metadata.xmp})
        made.save(file, quality=quality or QUALITY, chroma=self._info.get("chroma") or 444)


# --- JPEG XL


JXL = b"\0\0\0\x0cJXL \r\n\x87\n"
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))


class _Bits:
    """The fields of a JPEG XL header, from the lowest bit of each byte up."""

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")
        self._count = 8 * len(data)

    def __call__(self, count: int) -> int:
        self._count -= count
        if self._count < 0:
            raise ImageError("is truncated")
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def one_of(self, *choices: tuple[int, int]) -> int:
        """A number, of so many bits above the first of a pair."""
        least, count = choices[self(2)]
        return least + self(count)

    def size(self) -> tuple[int, int]:
        """Height and width."""
        small = self(1)

        def side() -> int:
            return 8 * (1 + self(5)) if small else self.one_of((1, 9), (1, 13), (1, 18), (1, 30))

        height, ratio = side(), self(3)
        if ratio == 0:
            return height, side()
        across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height, height * across // down

    def depth(self) -> tuple[bool, int]:
        """Whether samples are floats, and how many bits they have."""
        if not self(1):
            return False, self.one_of((8, 0), (10, 0), (12, 0), (1, 6))
        count = self.one_of((32, 0), (16, 0), (24, 0), (1, 6))
        self(4)
        return True, count


class _JxlHeader:
    """What imagecodecs does not tell of a JPEG XL codestream (ISO/IEC 18181-1, annexes D and E)."""

    def __init__(self, codestream: bytes) -> None:
        bits = _Bits(codestream[2:600])
        self.height, self.width = bits.size()
        self.floats, self.bits, self.alpha = False, 8, False
        self.lossless, self.grey, self.colours = False, False, "sRGB"
        if bits(1):  # all is as it mostly is
            return
        if bits(1):
            if bits(3) >= 4:  # it is decoded upright
                self.height, self.width = self.width, self.height
            if bits(1):
                bits.size()
            if bits(1) or bits(1):
                raise ImageError("is animated or has a preview; take it apart first, such as by djxl a.jxl a.apng")
        self.floats, self.bits = bits.depth()
        bits(1)
        for _ in range(bits.one_of((0, 0), (1, 0), (2, 4), (1, 12))):
            default = bits(1)
            if self.alpha or (not default and bits.one_of(*_ENUM)):
                raise ImageError("has more channels than colours and alpha; convert it to PNG or TIFF first")
            self.alpha = True
            if not default:
                bits.depth()
                bits.one_of((0, 0), (3, 0), (4, 0), (1, 3))
                bits(8 * bits.one_of((0, 0), (0, 4), (16, 5), (48, 10)))
                if bits(1):
                    raise ImageError("has colours that are multiplied by alpha; convert it to PNG or TIFF first")
        self.lossless = not bits(1)
        if bits(1):
            return
        profile, space = bits(1), bits.one_of(*_ENUM)
        self.grey = space == 1
        known = not profile and space < 2 and bits.one_of(*_ENUM) == 1 and (self.grey or bits.one_of(*_ENUM) == 1)
        curve = bits.one_of(*_ENUM) if known and not bits(1) else 0
        self.colours = {13: "sRGB", 8: "linear"}.get(curve, "others")

    @property
    def kind(self) -> str:
        """Its samples, as NumPy calls them, and colours."""
        return f"{'float' if self.floats else 'uint'}{self.bits} {self.colours}"


def _jxl_boxes(data: bytes) -> tuple[list[tuple[bytes, bytes]], _JxlHeader]:
    """The boxes of a file, one where it is a bare codestream, and the codestream's header."""
    found = list(boxes(data)) if data.startswith(JXL) else [(b"jxlc", data)]
    parts = [content if kind == b"jxlc" else content[4:] for kind, content in found if kind in (b"jxlc", b"jxlp")]
    return found, _JxlHeader(b"".join(parts)[:1024])


class JxlFile(Picture):
    """JPEG XL by imagecodecs, which neither reads nor writes colour profiles; metadata is in boxes."""

    coder = 32  # libjxl has floats

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        found, self._header = _jxl_boxes(self._data)
        header = self._header
        check_size(header.height, header.width)
        # imagecodecs writes 8 bits in sRGB, and all else in linear light.
        if header.kind not in ("uint8 sRGB", "uint16 linear", "float16 linear", "float32 linear"):
            raise ImageError(
                "has a profile, or a depth in which no library here writes its colours in JPEG XL; convert it first, "
                "such as by djxl a.jxl a.png"
            )
        said: dict[bytes, bytes] = {}
        for kind, content in found:
            if kind == b"brob":
                kind = content[:4]
                content = _unpacked(content[4:]) if kind in (b"Exif", b"xml ") and kind not in said else b""
            said.setdefault(kind, content)
        exif = said.get(b"Exif", b"")
        self.metadata = Metadata(exif[4 + int.from_bytes(exif[:4], "big") :] or None, said.get(b"xml "))
        self.metadata.orientation = 1
        for kind, what in (b"jhgm", "its gain map"), (b"jumb", "its content credentials"):
            if kind in said:
                self.metadata.lose(what)
        self._lossless = header.lossless and b"jbrd" not in said  # which is what was a JPEG
        channels = (1 if header.grey else 3) + header.alpha
        self._holds((header.height, header.width, channels), header.kind.split()[0], header.bits * channels)

    def _decode(self) -> Any:
        import imagecodecs

        data, self._data = self._data, b""
        pixels = imagecodecs.jpegxl_decode(data, numthreads=1)
        return pixels.reshape(*pixels.shape[:2], self.channels).astype(self.dtype, copy=False)

    def _encode(self, pixels: Any, quality: int | None, file: Any) -> None:
        import imagecodecs

        how = {"lossless": True} if self._lossless and quality is None else {"level": quality or QUALITY}
        made = bytes(imagecodecs.jpegxl_encode(pixels, **how))
        if _jxl_boxes(made)[1].kind != self._header.kind:
            raise ImageError("is JPEG XL whose colours this version of imagecodecs writes as others; install another")
        exif, xmp = self.metadata.exif, self.metadata.xmp
        if not made.startswith(JXL) and (exif or xmp):
            made = JXL + _box(b"ftyp", b"jxl \0\0\0\0jxl ") + _box(b"jxlc", made)
        file.write(made)
        if exif:
            file.write(_box(b"Exif", b"\0\0\0\0", exif))
        if xmp:
            file.write(_box(b"xml ", xmp))


def _unpacked(data: bytes) -> bytes:
    import imagecodecs

    with reading("is damaged: its metadata cannot be read"):
        return bytes(imagecodecs.brotli_decode(data, out=PROFILE))
