"""What the models of ``onnx.py`` are made of: nodes and constants, the sampling rule, guides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..ops._guide_luma import LumaGuide
from ..ops._guide_nn import NNGuide

LAYOUTS = {"NHWC": ("N", "H", "W", "C"), "NCHW": ("N", "C", "H", "W")}
DTYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
}
_LUMA = ((0.299, 0.587, 0.114),)  # BT.601


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

    def between(self, low: str, high: str, t: str) -> str:
        """low + t·(high − low)"""
        return self("Add", low, self("Mul", t, self("Sub", high, low)))


class Pixels:
    """What depends on whether channels come first or last in the arrays that the graph computes with."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.axes = LAYOUTS["NCHW" if first else "NHWC"]

    def mixed(self, g: Graph, image: str, weights: Any, bias: Any) -> str:
        """Σ_j weights[i,j]·in_j + bias_i at every pixel."""
        if self.first:
            return g("Conv", image, np.asarray(weights)[..., None, None], bias)
        return g("Add", g("MatMul", image, np.asarray(weights).T), bias)

    def applied(self, g: Graph, matrix: str, image: str, affine: bool) -> str:
        """The matrices times the image: (N,Co,L,H,W) and (N,Ci,H,W), or (N,H,W,Co,L) and (N,H,W,Ci)."""
        channel = self.axes.index("C")
        if affine:
            pads = [0] * 8
            pads[4 + channel] = 1
            image = g("Pad", image, pads, 1.0)
        products = g("Mul", matrix, g("Unsqueeze", image, [channel]))
        return g("ReduceSum", products, [channel + 1], keepdims=0)


# --- The sampling rule


def along(
    g: Graph, count: str, first: Any, full: str, cells: int, align_corners: bool, pixel_corners: bool
) -> tuple[str, str]:
    """Positions of a row's pixels on an axis of cells, clamped, as (whole numbers, what to divide them by)."""
    i = g("Mul", g("Add", g("Range", 0, count, 1), first), 2)
    if pixel_corners:
        full = g("Sub", full, 1)
    else:
        i = g("Add", i, 1)
    full = g("Max", full, 1)  # of one pixel, or none
    of = g("Mul", full, 2)
    p = g("Mul", i, cells - 1) if align_corners else g("Sub", g("Mul", i, cells), full)
    return g("Min", g("Max", p, 0), g("Mul", of, cells - 1)), of


def in_depth(g: Graph, guide: str, cells: int, align_corners: bool) -> str:
    """Positions of a guide's values, clamped, in float32."""
    u = g("Clip", guide, 0.0, 1.0)
    if align_corners:
        return g("Mul", u, float(cells - 1))
    return g("Clip", g("Sub", g("Mul", u, float(cells)), 0.5), 0.0, float(cells - 1))


def _by_grid_sample(g: Graph, grid: str, position: Sequence[Any], sizes: Sequence[int], guide: str) -> str:
    """The matrices (N,Co,L,H,W) of a grid (N,Co,L,Gd,Gh,Gw)."""
    (y, of_y), (x, of_x), z = position
    Gh, Gw, Gd, Co, L = sizes

    def spanned(p: str, of: str, cells: int) -> str:
        # From 0 … cells − 1 to GridSample's −1 … 1, which align_corners=1 takes back there.
        of = g("Mul", of, max(cells - 1, 1))
        return g("Div", g.cast(g("Sub", g("Mul", p, 2), of), "float32"), g.cast(of, "float32"))

    places = g("Unsqueeze", g("Sub", g("Mul", z, 2 / max(Gd - 1, 1)), 1.0), [1, 4])  # N 1 H W 1
    shape = g("Shape", places)
    columns = g("Unsqueeze", spanned(x, of_x, Gw), [1])
    rows = g("Unsqueeze", spanned(y, of_y, Gh), [1, 2])
    places = g("Concat", g("Expand", columns, shape), g("Expand", rows, shape), places, axis=-1)
    volume = g("Reshape", grid, [0, Co * L, Gd, Gh, Gw])
    sampled = g("GridSample", volume, places, mode="linear", padding_mode="border", align_corners=1)
    size = g("Shape", guide)
    height, width = g("Gather", size, [1], axis=0), g("Gather", size, [2], axis=0)
    return g("Reshape", sampled, g("Concat", [0, Co, L], height, width, axis=0))


def _by_gather(g: Graph, grid: str, position: Sequence[Any], sizes: Sequence[int], guide: str) -> str:
    """The matrices (N,H,W,Co,L) of a grid (N,Gh,Gw,Gd,Co,L)."""
    (y, of_y), (x, of_x), z = position
    Gh, Gw, Gd, Co, L = sizes

    def cells(p: str, of: str, count: int) -> tuple[str, str, str]:
        below = g("Div", p, of)
        t = g("Div", g.cast(g("Sub", p, g("Mul", below, of)), "float32"), g.cast(of, "float32"))
        return below, g("Min", g("Add", below, 1), count - 1), t

    # A row of the image lies between two rows of cells: these are interpolated once for all its pixels.
    below, above, t = cells(y, of_y, Gh)
    t = g("Unsqueeze", t, [1, 2, 3])
    flat = g("Reshape", grid, [0, Gh, Gw, Gd, Co * L])
    rows = g.between(g("Gather", flat, below, axis=1), g("Gather", flat, above, axis=1), t)
    rows = g("Reshape", rows, g("Concat", g("Gather", g("Shape", guide), [0, 1], axis=0), [Gw * Gd, Co * L], axis=0))

    k = g("Cast", g("Floor", z), to=TensorProto.INT64)
    k_above = g("Min", g("Add", k, 1), Gd - 1)
    t_z = g("Unsqueeze", g("Sub", z, g.cast(k, "float32")), [3])
    left, right, t_x = cells(x, of_x, Gw)

    def cell(j: str, depth: str) -> str:
        places = g("Unsqueeze", g("Add", g("Mul", j, Gd), depth), [3])
        return g("GatherND", rows, places, batch_dims=2)

    def column(j: str) -> str:
        return g.between(cell(j, k), cell(j, k_above), t_z)

    sampled = g.between(column(left), column(right), g("Unsqueeze", t_x, [1]))
    return g("Reshape", sampled, g("Concat", g("Shape", guide), [Co, L], axis=0))


FORMS: dict[str, Any] = {"GridSample": _by_grid_sample, "GatherND": _by_gather}


# --- Guides


def guide_of(g: Graph, pixels: Pixels, guide: Any, image: str) -> str:
    """The guide (N,H,W) of an image."""
    if isinstance(guide, LumaGuide):
        value = pixels.mixed(g, image, _LUMA, [0.0])
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
    return g("Squeeze", value, [pixels.axes.index("C")])
