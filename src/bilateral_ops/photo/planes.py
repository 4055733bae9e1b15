"""The frames of a video as arrays of planes, and which pixel formats keep what is in them.

FFmpeg's scaler is left out where a format has planes: its conversions to RGB and back lose up to a code a pass, in full
range whatever its flags. The model takes the planes themselves, with the matrix that makes RGB of them in its grid.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .images import ImageError

#: Kr and Kb of FFmpeg's colour matrices; the others are BT.601 or BT.709 by the size, as players have it.
_LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
_LUMA |= {9: (0.2627, 0.0593)}
_RGB, _UNKNOWN, _YCGCO = 0, (2, 3), 8
_SAMPLINGS = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411", (4, 4): "410"}


@dataclass(frozen=True)
class Layout:
    """What a pixel format holds; chroma of ``across`` × ``down`` pixels."""

    rgb: bool
    grey: bool
    alpha: bool
    bits: int
    across: int
    down: int

    def holds(self, other: Layout) -> bool:
        """Whether nothing is lost from the other layout to this one."""
        if self.rgb != other.rgb or (self.grey and not other.grey) or (other.alpha and not self.alpha):
            return False
        finer = other.grey or (other.across % self.across == 0 and other.down % self.down == 0)
        return self.bits >= other.bits and finer

    @property
    def cost(self) -> float:
        """Bits per pixel."""
        return self.bits * (1 + self.alpha + (0 if self.grey else 2 / (self.across * self.down)))

    @property
    def name(self) -> str:
        """FFmpeg's name for it, in planes; of grey with alpha, which has none, for one with chroma."""
        depth = "" if self.bits == 8 else f"{self.bits}le"
        if self.rgb:
            return f"gbr{'a' if self.alpha else ''}p{depth}"
        if self.grey and not self.alpha:
            return f"gray{depth}"
        return f"yuv{'a' if self.alpha else ''}{_SAMPLINGS[self.across, self.down]}p{depth}"


@functools.cache
def layout_of(name: str) -> Layout:
    """The layout of a pixel format; an :class:`ImageError` where planes can't have it."""
    import av

    form = av.VideoFormat(name, 64, 64)
    parts = form.components
    bits = max((8, *(part.bits for part in parts)))
    if not parts or form.is_bayer or bits > 16 or name.startswith("xyz"):  # those of devices have no parts
        raise ImageError(f"has {name} pixels, which cannot be enhanced; convert it first")
    colours = [c for c in parts if not c.is_alpha]
    alpha = len(colours) < len(parts)
    sampling = 64 // colours[-1].width, 64 // colours[-1].height
    rgb = form.is_rgb or form.has_palette
    grey = not rgb and len(colours) == 1
    made = Layout(rgb, grey, alpha, bits if bits in (8, 9, 10, 12, 14, 16) else 16, *sampling)
    try:
        av.VideoFormat(made.name, 64, 64)
    except (KeyError, ValueError):
        raise ImageError(f"has {name} pixels, which cannot be enhanced; convert it first") from None
    return made


class Colours:
    """What the numbers in planes mean: affine maps (3, 4) of values in [0, 1], integers by the largest of their type.

    ``to_rgb`` makes RGB of planes, and ``from_rgb`` the RGB that is worked on of that: it ends where the planes do, in
    limited range a little below black and above white, so that this is cut off colour by colour. ``back`` makes planes
    of it.
    """

    def __init__(self, layout: Layout, space: int, full: bool, height: int, width: int) -> None:
        top = (1 << layout.bits) - 1
        largest = 255 if layout.bits == 8 else 65535
        self.to_rgb = np.zeros((3, 4))
        black, white, most = 0, top, top
        if layout.rgb:
            self.to_rgb[[1, 2, 0], [0, 1, 2]] = largest / top  # planes are green, blue, red
        else:
            unit = 1 << (layout.bits - 8)
            if not full:
                black, white, most = 16 * unit, 219 * unit, 224 * unit
            linear = _linear(space, height, width) / [white, most, most]
            self.to_rgb[:, :3] = linear * largest
            self.to_rgb[:, 3] = linear @ [-black, -128 * unit, -128 * unit]
        least, range_ = -black / white, top / white
        self.from_rgb = np.concatenate([np.eye(3), np.full((3, 1), -least)], axis=1) / range_
        whole = [np.vstack([matrix, [0, 0, 0, 1]]) for matrix in (self.from_rgb, self.to_rgb)]
        self.back = np.linalg.inv(whole[0] @ whole[1])[:3].astype(np.float32)


def _linear(space: int, height: int, width: int) -> Any:
    """RGB of luma and chroma, where both are from 0 to 1 and from −½ to ½."""
    if space == _YCGCO:
        return np.array([[1.0, -1, 1], [1, 1, 0], [1, -1, -1]])
    if space in (_RGB, *_UNKNOWN):
        space = 1 if width >= 1280 or height > 576 else 5
    if space not in _LUMA:
        raise ImageError(f"has colours of FFmpeg's matrix {space}, which is none of luma; convert it to BT.709 first")
    red, blue = _LUMA[space]
    green = 1 - red - blue
    middle = [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green]
    return np.array([[1, 0, 2 * (1 - red)], middle, [1, 2 * (1 - blue), 0]])


def _views(frame: Any) -> list[Any]:
    """The planes of a frame in a format of planes."""
    views = []
    for plane, part in zip(frame.planes, sorted(frame.format.components, key=lambda part: part.plane)):
        kind = np.dtype(np.uint8 if part.bits <= 8 else np.uint16)
        rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
        views.append(rows[: plane.height, : plane.width])
    return views


def read_planes(frame: Any, layout: Layout, fields: int = 1) -> Any:
    """The frame as an array (planes, H, W), chroma repeated.

    ``fields`` 2: of interlaced frames, whose chroma rows belong to one field and the other in turn.
    """
    if frame.format.name.replace("yuvj", "yuv") != layout.name:
        scale = frame.color_range
        frame = frame.reformat(format=layout.name, src_color_range=scale, dst_color_range=scale)
    views = _views(frame)
    height, width = views[0].shape
    down, across = layout.down, layout.across
    rows, columns = -(-height // down) * down, -(-width // across) * across
    made = np.empty((max(3, len(views)), rows, columns), views[0].dtype)
    if layout.grey:
        made[1:] = 1 << (layout.bits - 1)
    for number, (plane, view) in enumerate(zip(made, views)):
        if number not in _subsampled(layout):
            plane[:height, :width] = view
            continue
        for field, y, x in itertools.product(range(fields), range(down), range(across)):
            plane[field::fields][y::down, x::across] = view[field::fields]
    return made[:, :height, :width]


def write_planes(frame: Any, planes: Any, layout: Layout, bits: int, full: bool, fields: int = 1) -> None:
    """Fill a frame of this layout with such an array, whose samples have so many bits, chroma with averages."""
    for number, (plane, view) in enumerate(zip(planes, _views(frame))):
        if number in _subsampled(layout):
            missing = [(0, -size % step) for size, step in zip(plane.shape, (layout.down, layout.across))]
            padded = np.pad(plane, missing, mode="edge") if any(after for _, after in missing) else plane
            plane = np.empty(view.shape, plane.dtype)
            for field in range(fields):
                plane[field::fields] = _averaged(padded[field::fields], layout.down, layout.across)
        if layout.bits > bits:
            scale = ((1 << layout.bits) - 1) / ((1 << bits) - 1) if full else 1 << (layout.bits - bits)
            plane = np.rint(plane * np.float32(scale))
        if layout.bits not in (8, 16):
            plane = np.minimum(plane, (1 << layout.bits) - 1)
        view[...] = plane


def _averaged(plane: Any, down: int, across: int) -> Any:
    kind: Any = np.uint16 if plane.dtype == np.uint8 else np.uint32
    sums = functools.reduce(np.add, (plane[y::down] for y in range(1, down)), plane[::down].astype(kind))  # contiguous
    sums = functools.reduce(np.add, (sums[:, x::across] for x in range(1, across)), sums[:, ::across])
    sums = sums + kind(down * across // 2)
    return sums // kind(down * across)


def _subsampled(layout: Layout) -> tuple[int, ...]:
    return (1, 2) if layout.across * layout.down > 1 else ()
