"""What files say beside their pixels: EXIF, XMP, profiles, segments of JPEG; changed where it would not be true."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
    """EXIF and XMP of an image, which say that it is upright, and the orientation that they said it was stored in.

    ``icc`` is its ICC profile; ``lost`` what of the file is not written again, each as the end of "without …": first
    pictures beside this one, of which EXIF and XMP spoke and no longer do.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    orientation: int = 1
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.exif:
            self.orientation, self.exif = _upright_exif(self.exif)
        if self.xmp:
            found = _XMP_ORIENTATION.search(self.xmp)
            if found and not self.exif:
                self.orientation = int(found[2])
            self.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp)
            if self.orientation >= 5:
                self.xmp = _XMP_PAIR.sub(lambda name: _XMP_SWAPPED[name[0]], self.xmp)
            for announced, what in _ANNOUNCED.items():
                self.xmp, count = announced.subn(b"", self.xmp)
                if count:
                    self.lose(what)
            listed = _without_directory(self.xmp)
            if listed != self.xmp and not self.lost:
                self.lose("the pictures beside it")
            self.xmp = listed

    def lose(self, what: str) -> None:
        """Say that this is left out."""
        if what not in self.lost:
            self.lost.append(what)

    def lose_rest(self, rest: Any) -> None:
        """Say that what follows the picture in its file is left out, if it is not padding, nor said of it already."""
        if not self.lost and np.any(np.frombuffer(rest, np.uint8)):
            self.lose("what follows the picture in its file")


_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*)([1-8])")
_XMP_PAIRS = (
    (b"tiff:ImageWidth", b"tiff:ImageLength"),
    (b"tiff:XResolution", b"tiff:YResolution"),
    (b"exif:PixelXDimension", b"exif:PixelYDimension"),
)
_XMP_SWAPPED = {name: other for pair in _XMP_PAIRS for name, other in (pair, pair[::-1])}
_XMP_PAIR = re.compile(rb"\b(?:" + b"|".join(_XMP_SWAPPED) + rb")\b")


def _properties(names: bytes) -> re.Pattern[bytes]:
    """XMP's properties of these names, as attributes and as elements; no text makes this take long."""
    attribute, element = rb"\s(?:%b)\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')", rb"<(%b)\b[^<>]*(?:/>|>[^<]*</\1>)"
    return re.compile(attribute % names + b"|" + element % names)


#: What announces pictures that follow this one in its file, or lie beside it.
_ANNOUNCED = {
    _properties(rb"hdrgm:\w+|HDRGainMap:\w+|apdi:\w+"): "its gain map",
    _properties(rb"(?:GCamera|Camera):(?:MotionPhoto|MicroVideo)\w*"): "its motion photo",
    _properties(rb"GDepth:\w+|GImage:\w+"): "its depth map",
}
_DIRECTORY = re.compile(rb"<(/?)(?:G?Container):Directory\b")


def _without_directory(xmp: bytes) -> bytes:
    """XMP without the element that lists the pictures of a file."""
    places = list(_DIRECTORY.finditer(xmp))
    if len(places) < 2 or places[0][1] or not places[-1][1]:
        return xmp
    return xmp[: places[0].start()] + xmp[xmp.find(b">", places[-1].end()) + 1 :]


#: Tags of EXIF that are the other's once the image lies on its side: sizes and resolutions.
EXIF_PAIRS = ((256, 257), (282, 283), (40962, 40963), (41486, 41487))

_END = -1


def _upright_exif(exif: bytes) -> tuple[int, bytes]:
    """The orientation, and the block with 1 in its place, without its thumbnail, which would show the image as it was.

    Nothing else is moved: maker notes hold offsets into the block, and are lost when it is written anew.
    """
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    orientation, block = 1, bytearray(exif)

    def entries(at: int) -> dict[int, int]:
        """Where each tag of a directory lies, and under ``_END`` where they end."""
        first = start + struct.unpack_from(f"{order}I", exif, at)[0]
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        end = first + 2 + 12 * count
        places = {struct.unpack_from(f"{order}H", exif, place)[0]: place for place in range(first + 2, end, 12)}
        return places | {_END: end}

    try:
        if order is None:
            return 1, exif
        found = entries(start + 4)
        if (place := found.get(274)) is not None and struct.unpack_from(f"{order}H", exif, place + 2) == (3,):
            (value,) = struct.unpack_from(f"{order}H", exif, place + 8)
            orientation = value if 1 <= value <= 8 else 1
            struct.pack_into(f"{order}H", block, place + 8, 1)
        struct.pack_into(f"{order}I", block, found[_END], 0)
    except struct.error:  # damaged: kept as it is
        return 1, exif
    if orientation >= 5:
        directories = [found]
        with suppress(struct.error):
            directories += [entries(found[34665] + 8)] if 34665 in found else []
        for places, (one, other) in itertools.product(directories, EXIF_PAIRS):
            if one in places and other in places:
                a, b = places[one] + 2, places[other] + 2
                block[a : a + 10], block[b : b + 10] = exif[b : b + 10], exif[a : a + 10]
    return orientation, bytes(block)


# --- JPEG


_EXIF, _XMP, _PHOTOSHOP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
#: Segments that speak of the pixels as they were, of pictures beside them, or in place of them; of some it is said.
_UNTRUE = {
    (0xE0, b"JFXX\0"): None,
    (0xE2, b"MPF\0"): "the pictures beside it",
    (0xE2, b"urn:iso:std:iso:ts:21496:-1\0"): "its gain map",
    (0xEB, b""): "its content credentials",
    (0xEE, b"Adobe"): None,
}


class Segments:
    """The application segments and comments of a JPEG file, as Pillow lists them, and what they say."""

    def __init__(self, image: Any) -> None:
        self._all = [(0xFE if name == "COM" else 0xE0 + int(name[3:]), content) for name, content in image.applist]
        exif, xmp = (
            next((content for marker, content in self._all if marker == 0xE1 and content.startswith(name)), None)
            for name in (_EXIF, _XMP)
        )
        self.metadata = Metadata(exif, xmp and xmp[len(_XMP) :], image.info.get("icc_profile"))
        for (marker, name), what in _UNTRUE.items():
            if what and any(m == marker and content.startswith(name) for m, content in self._all):
                self.metadata.lose(what)

    def spliced(self, encoded: Any) -> Iterator[Any]:
        """A file of these segments and the encoded pixels of another."""
        encoded, rest = memoryview(encoded), 2
        while 0xE0 <= encoded[rest + 1] <= 0xEF:
            rest += 2 + int.from_bytes(encoded[rest + 2 : rest + 4], "big")
        yield encoded[:2]
        turned = self.metadata.orientation >= 5
        exif = xmp = False
        for marker, content in self._all:
            if any(marker == other and content.startswith(name) for other, name in _UNTRUE):
                continue
            if marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
                content = content[:8] + (content[10:12] + content[8:10] if turned else content[8:12]) + b"\0\0"
            elif marker == 0xE1 and content.startswith(_EXIF) and not exif:
                content, exif = self.metadata.exif or content, True
            elif marker == 0xE1 and content.startswith(_XMP) and not xmp:
                content, xmp = _XMP + (self.metadata.xmp or b""), True
            elif marker == 0xED and content.startswith(_PHOTOSHOP):
                content = _PHOTOSHOP + b"".join(resources(content[len(_PHOTOSHOP) :]))
            yield struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        yield encoded[rest:]


def resources(data: bytes) -> Iterator[bytes]:
    """Photoshop's resources but for its thumbnails, which show the image as it was; IPTC is one."""
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        kind = int.from_bytes(data[at + 4 : at + 6], "big")
        body = at + 6 + (data[at + 6] + 2) // 2 * 2
        size = int.from_bytes(data[body : body + 4], "big")
        stop = body + 4 + (size + 1) // 2 * 2
        if kind not in (1033, 1036):
            yield data[at:stop]
        at = stop
    yield data[at:]
