"""What the models of ``onnx.py`` are made of: nodes and constants, the sampling rule, guides, averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..ops._guide_luma import LUMA, LumaGuide
from ..ops._guide_nn import NNGuide

LAYOUTS = {"NHWC": ("N", "H", "W", "C"), "NCHW": ("N", "C", "H", "W")}
DTYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
}


class Graph:
    """Nodes and constants as they are made. ``g(operator, *inputs)`` adds a node and returns its output's name.

    An input is a name, or an array or number, which becomes a constant.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[tuple[Any, ...], Any] = {}
        self.part = ""

    def __call__(self, operator: str, *inputs: Any, output: str | None = None, **attributes: Any) -> str:
        name = f"{self.part}/{operator}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = output or name
        self.nodes.append(helper.make_node(operator, names, [output], name=name, **attributes))
        return output

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        array = np.array(array, np.int64 if array.dtype.kind == "i" else np.float32)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"constant_{len(self.constants)}")
        return str(self.constants[key].name)

    def size(self, value: str, axis: int) -> str:
        return self("Gather", self("Shape", value), axis, axis=0)

    def cast(self, value: str, dtype: str) -> str:
        return self("Cast", value, to=DTYPES[dtype])

    def arranged(self, value: str, axes: Sequence[str], wanted: Sequence[str]) -> str:
        """An array of these axes with its axes in another order."""
        return value if axes == wanted else self("Transpose", value, perm=[axes.index(axis) for axis in wanted])

    def is_nan(self, value: str) -> str:
        """Where an array is NaN, without ``IsNaN``, which MNN does not have."""
        return self("Not", self("Equal", value, value))

    def between(self, low: str, high: str, t: str) -> str:
        """low + t·(high − low)"""
        return self("Add", low, self("Mul", t, self("Sub", high, low)))


class Pixels:
    """What depends on whether channels come first or last in the arrays that the graph computes with."""

    def __init__(self, first: bool) -> None:
        self.axes = LAYOUTS["NCHW" if first else "NHWC"]
        self.first = first
        self.channel, self.row, self.column = map(self.axes.index, "CHW")

    def mixed(self, g: Graph, image: str, weights: Any, bias: Any) -> str:
        """Σ_j weights[i,j]·in_j + bias_i at every pixel."""
        if self.first:
            return g("Conv", image, np.asarray(weights)[..., None, None], bias)
        return g("Add", g("MatMul", image, np.asarray(weights).T), bias)

    def channels(self, g: Graph, value: str, start: int, stop: int) -> str:
        return g("Slice", value, [start], [stop], [self.channel])

    def applied(self, g: Graph, matrices: str, image: str, shape: tuple[int, int], affine: bool) -> str:
        """The matrices, Co·L channels, times the image, row by row, so that no array has more axes than the image."""
        rows, columns = shape
        sums = []
        for start in range(0, rows * columns, columns):
            stop = start + columns - affine
            products = g("Mul", self.channels(g, matrices, start, stop), image)
            result = self.mixed(g, products, np.ones((1, columns - affine)), [0.0])
            sums.append(g("Add", result, self.channels(g, matrices, stop, stop + 1)) if affine else result)
        return g("Concat", *sums, axis=self.channel)

    def averaged(self, g: Graph, image: str, size: tuple[int, int]) -> str:
        """Averages over the area of every pixel of the result (``resize_area``), as products with shares of pixels."""
        rows, columns = (_shares(g, g.size(image, axis), n) for axis, n in zip((self.row, self.column), size))
        if self.first:
            return g("MatMul", g("MatMul", rows, image), g("Transpose", columns, perm=[1, 0]))
        # Each row of the image, all its pixels' channels, is an entry of one matrix.
        shape = g("Shape", image)
        batch, width, channels = (g("Gather", shape, [axis], axis=0) for axis in (0, 2, 3))
        flat = g("Reshape", image, g("Concat", batch, g("Gather", shape, [1], axis=0), [-1], axis=0))
        shrunk = g("Reshape", g("MatMul", rows, flat), g("Concat", batch, [size[0]], width, channels, axis=0))
        return g("MatMul", columns, shrunk)

    def nearest(self, g: Graph, image: str, size: tuple[int, int]) -> str:
        """The pixels ⌊i·H/h⌋."""
        for axis, count in zip((self.row, self.column), size):
            pixels = g("Div", g("Mul", g("Range", 0, count, 1), g.size(image, axis)), count)
            image = g("Gather", image, pixels, axis=axis)
        return image

    def resized(self, g: Graph, image: str, height: str, width: str) -> str:
        """Bilinear interpolation, the corners' pixels on one another; sizes are arrays of one number."""
        first = g.arranged(image, self.axes, LAYOUTS["NCHW"])
        sizes = g("Concat", g("Gather", g("Shape", first), [0, 1], axis=0), height, width, axis=0)
        how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        return g.arranged(g("Resize", first, "", "", sizes, **how), LAYOUTS["NCHW"], self.axes)


def _shares(g: Graph, size: str, count: int) -> str:
    """(count, size): the share that each pixel of an axis has of each of ``count`` averages, of whole numbers."""
    start = g("Unsqueeze", g("Mul", g("Range", 0, count, 1), size), [1])
    pixel = g("Mul", g("Range", 0, size, 1), count)
    stop = g("Min", g("Add", start, size), g("Add", pixel, count))
    length = g("Max", g("Sub", stop, g("Max", start, pixel)), 0)
    return g("Div", g.cast(length, "float32"), g.cast(size, "float32"))


# --- The sampling rule


class Position(NamedTuple):
    """Where pixels fall on an axis of cells: the cell below, the one above, and the fraction from this to that.

    Of rows and columns, arrays of one axis; with coordinates of their own, and in depth, of three, (N,H,W). ``scaled``
    is the position with the first cell at −1 and the last at 1.
    """

    below: str
    above: str
    fraction: str
    scaled: str
    own: bool


def along(
    g: Graph, count: str, first: Any, full: str, cells: int, align_corners: bool, pixel_corners: bool
) -> Position:
    """Of a row's or column's pixels. Quotients of whole numbers, so that fractions are rounded once."""
    i = g("Mul", g("Add", g("Range", 0, count, 1), first), 2)
    if pixel_corners:
        full = g("Sub", full, 1)
    else:
        i = g("Add", i, 1)
    full = g("Max", full, 1)  # of one pixel, or none
    of = g("Mul", full, 2)
    p = g("Mul", i, cells - 1) if align_corners else g("Sub", g("Mul", i, cells), full)
    p = g("Min", g("Max", p, 0), g("Mul", of, cells - 1))
    below = g("Div", p, of)
    fraction = g("Div", g.cast(g("Sub", p, g("Mul", below, of)), "float32"), g.cast(of, "float32"))
    whole = g("Mul", of, max(cells - 1, 1))
    scaled = g("Div", g.cast(g("Sub", g("Mul", p, 2), whole), "float32"), g.cast(whole, "float32"))
    return Position(below, g("Min", g("Add", below, 1), cells - 1), fraction, scaled, own=False)


def at(g: Graph, u: str, cells: int, align_corners: bool) -> Position:
    """Of coordinates in [0, 1], a guide's among them, in float32."""
    u = g("Clip", u, 0.0, 1.0)
    if align_corners:
        p = g("Mul", u, float(cells - 1))
    else:
        p = g("Clip", g("Sub", g("Mul", u, float(cells)), 0.5), 0.0, float(cells - 1))
    below = g("Cast", g("Floor", p), to=TensorProto.INT64)
    fraction = g("Sub", p, g.cast(below, "float32"))
    scaled = g("Sub", g("Mul", p, 2 / max(cells - 1, 1)), 1.0)
    return Position(below, g("Min", g("Add", below, 1), cells - 1), fraction, scaled, own=True)


#: How matrices are looked up in a grid of Co·L channels, in the order of cells that a form reads: its positions along
#: rows, columns and depth → Co·L channels at every pixel.
Form: TypeAlias = "Callable[[Graph, str, tuple[Position, Position, Position], Sequence[int]], str]"


def _by_grid_sample(g: Graph, grid: str, position: tuple[Position, ...], sizes: Sequence[int]) -> str:
    """Of a grid (N,Co,L,Gd,Gh,Gw), channels first."""
    y, x, z = position
    Gh, Gw, Gd, channels = sizes
    places = g("Unsqueeze", z.scaled, [1, 4])  # N 1 H W 1
    shape = g("Shape", places)
    columns = g("Unsqueeze", x.scaled, [1, 4] if x.own else [1])
    rows = g("Unsqueeze", y.scaled, [1, 4] if y.own else [1, 2])
    if not x.own:
        columns, rows = g("Expand", columns, shape), g("Expand", rows, shape)
    places = g("Concat", columns, rows, places, axis=-1)
    volume = g("Reshape", grid, [-1, channels, Gd, Gh, Gw])
    return g("Squeeze", g("GridSample", volume, places, mode="linear", padding_mode="border", align_corners=1), [2])


def _by_gather(g: Graph, grid: str, position: tuple[Position, ...], sizes: Sequence[int]) -> str:
    """Of a grid (N,Gh,Gw,Gd,Co,L), channels last: cells are rows of a matrix, and no array has more than four axes."""
    y, x, z = position
    Gh, Gw, Gd, channels = sizes
    count, height = (g.size(z.fraction, axis) for axis in range(2))
    images = g("Unsqueeze", g("Range", 0, count, 1), [1, 2])

    def weight(p: Position) -> str:
        return g("Unsqueeze", p.fraction, [3] if p.own else [1])

    if x.own:
        cells = g("Reshape", grid, [-1, channels])
        starts = [g("Mul", g("Add", g("Mul", images, Gh), row), Gw) for row in (y.below, y.above)]
    else:
        # A row of the image lies between two rows of cells: these are interpolated once for all its pixels.
        flat = g("Reshape", grid, [-1, Gh, Gw * Gd * channels])
        rows = g.between(g("Gather", flat, y.below, axis=1), g("Gather", flat, y.above, axis=1), weight(y))
        cells = g("Reshape", rows, [-1, channels])
        row = g("Unsqueeze", g("Range", 0, height, 1), [1])
        starts = [g("Mul", g("Add", g("Mul", images, height), row), Gw)]

    def cell(start: str, column: str, depth: str) -> str:
        return g("Gather", cells, g("Add", g("Mul", g("Add", start, column), Gd), depth), axis=0)

    def column(start: str, j: str) -> str:
        return g.between(cell(start, j, z.below), cell(start, j, z.above), weight(z))

    found = [g.between(column(start, x.below), column(start, x.above), weight(x)) for start in starts]
    return found[0] if len(found) == 1 else g.between(found[0], found[1], weight(y))


FORMS: dict[str, Form] = {"GridSample": _by_grid_sample, "Gather": _by_gather}


# --- Guides


def guide_of(g: Graph, pixels: Pixels, guide: Any, image: str) -> str:
    """The guide (N,H,W) of an image."""
    if isinstance(guide, LumaGuide):
        value = pixels.mixed(g, image, [LUMA], [0.0])
    elif isinstance(guide, NNGuide):
        features = g("Relu", pixels.mixed(g, image, guide.w1, guide.b1))
        value = g("Sigmoid", pixels.mixed(g, features, guide.w2[None], np.reshape(guide.b2, 1)))
    else:
        # A curve is a layer of one feature a knot. Channels one after the other need less memory.
        value = ""
        for i, mix in enumerate(guide.mix):
            weights = np.repeat(guide.ccm[i : i + 1], len(guide.shifts[i]), 0)
            knots = g("Relu", pixels.mixed(g, image, weights, guide.ccm_bias[i] - guide.shifts[i]))
            bias = np.zeros(1) if value else guide.mix_bias[None]
            curve = pixels.mixed(g, knots, mix * guide.slopes[i : i + 1], bias)
            value = g("Add", value, curve) if value else curve
        value = g("Clip", value, 0.0, 1.0)
    return g("Squeeze", value, [pixels.channel])
