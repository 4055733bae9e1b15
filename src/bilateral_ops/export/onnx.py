"""Models of standard ONNX operators that compute what :func:`bilateral_ops.enhance` and ``slice_apply`` do.

They run wherever ONNX does (ONNX Runtime, mobile and browser runtimes, other vendors' accelerators), on images and
batches of any size. :func:`enhance` and :func:`slice_apply` make a model, :func:`behind` puts it behind a network that
predicts the grid, and :func:`save` writes it to a file.

Two forms look the grid up:

- ``"GridSample"``: one 5-D ``GridSample`` (opset 20 or newer). ONNX Runtime has it on the CPU.
- ``"GatherND"``: four ``GatherND`` and arithmetic (opset 13 or newer), for runtimes whose ``GridSample`` is for images
  alone, as OpenVINO's is.

Positions along rows and columns are quotients of whole numbers, exact for images of any size and for tiles of one;
everything else is float32. Results are the package's to rounding: along an axis of G cells positions are off by at most
about G·2⁻²³ (``GatherND``: half of that), which matters as far as neighbouring cells differ. An infinite guide is
clamped, and a NaN in the guide gives NaN in that pixel and in no other; ONNX Runtime's ``GridSample`` alone would do
neither.

A runtime stores the coefficients of all pixels, which the package avoids: at 1920 × 1080 ONNX Runtime takes 0.6 to 1.1
GB and half a second on two threads. Large images are better fed as tiles, through ``window``. ONNX Runtime's ``Conv``,
which computes guides in models with ``GridSample``, refuses images without pixels.

Example: an edit found by :func:`bilateral_ops.fit`, run by ONNX Runtime:

    from bilateral_ops import LumaGuide
    from bilateral_ops.export import onnx

    onnx.save(onnx.enhance(grid.shape, LumaGuide(), image="uint8"), "edit.onnx")

    session = onnxruntime.InferenceSession("edit.onnx")
    (out,) = session.run(None, {"grid": grid[None], "image": photograph[None]})

The same behind a PyTorch network that makes ``(N, (Ci+1)·Co·Gd, Gh, Gw)`` of a small image, as HDRnet's does:

    names = {"input_names": ["small"], "output_names": ["coefficients"]}
    torch.onnx.export(network, (small,), "network.onnx", opset_version=20, **names)
    full = onnx.enhance((16, 16, 8, 3, 4), guide, grid_axes="N (L Co Gd) Gh Gw", layout="NCHW")
    onnx.save(onnx.behind("network.onnx", full), "hdrnet.onnx")      # inputs: small, image
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _cpu
from .._core.checks import integers
from .._core.missing import needed
from ..ops._enhance import GUIDES
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_luma import LumaGuide
from ..ops._guide_nn import NNGuide

with needed("bilateral_ops.export.onnx", "onnx", "onnx"):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

__all__ = ["behind", "enhance", "save", "slice_apply"]

#: The oldest opset that has a form's operators as they are used here.
_OLDEST = {"GridSample": 20, "GatherND": 13}
_LAYOUTS = {"NHWC": ("N", "H", "W", "C"), "NCHW": ("N", "C", "H", "W")}
_GRID_AXES = ("N", "Gh", "Gw", "Gd", "Co", "L")
_KINDS = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
}
_LUMA = ((0.299, 0.587, 0.114),)  # BT.601


# ---------------------------------------------------------------------------------------------------------------------
# Building a graph
# ---------------------------------------------------------------------------------------------------------------------


class _Graph:
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

    def cast(self, value: str, kind: str) -> str:
        return self("Cast", value, to=_KINDS[kind])

    def between(self, low: str, high: str, t: str) -> str:
        """low + t·(high − low)"""
        return self("Add", low, self("Mul", t, self("Sub", high, low)))


class _Pixels:
    """What depends on whether channels come first or last in the arrays that the graph computes with."""

    def __init__(self, first: bool) -> None:
        self.first = first
        self.axes = _LAYOUTS["NCHW" if first else "NHWC"]

    def mixed(self, g: _Graph, image: str, weights: Any, bias: Any) -> str:
        """Σ_j weights[i,j]·in_j + bias_i at every pixel."""
        if self.first:
            return g("Conv", image, np.asarray(weights)[..., None, None], bias)
        return g("Add", g("MatMul", image, np.asarray(weights).T), bias)

    def applied(self, g: _Graph, matrix: str, image: str, affine: bool) -> str:
        """The matrices times the image: (N,Co,L,H,W) and (N,Ci,H,W), or (N,H,W,Co,L) and (N,H,W,Ci)."""
        channel = self.axes.index("C")
        if affine:
            pads = [0] * 8
            pads[4 + channel] = 1
            image = g("Pad", image, pads, 1.0)
        products = g("Mul", matrix, g("Unsqueeze", image, [channel]))
        return g("ReduceSum", products, [channel + 1], keepdims=0)


# ---------------------------------------------------------------------------------------------------------------------
# The sampling rule
# ---------------------------------------------------------------------------------------------------------------------


def _along(g: _Graph, count: str, first: Any, full: str, cells: int, align_corners: bool) -> tuple[str, str]:
    """Positions of a row's pixels on an axis of cells, clamped, as (whole numbers, what to divide them by)."""
    i = g("Add", g("Range", 0, count, 1), first)
    if align_corners:
        of = g("Sub", full, 1)
        p = g("Mul", i, cells - 1)
    else:
        of = g("Mul", full, 2)
        p = g("Sub", g("Mul", g("Add", g("Mul", i, 2), 1), cells), full)
    of = g("Max", of, 1)  # of one pixel, or none
    return g("Min", g("Max", p, 0), g("Mul", of, cells - 1)), of


def _in_depth(g: _Graph, guide: str, cells: int, align_corners: bool) -> str:
    """Positions of a guide's values, clamped, in float32."""
    u = g("Clip", guide, 0.0, 1.0)
    if align_corners:
        return g("Mul", u, float(cells - 1))
    return g("Clip", g("Sub", g("Mul", u, float(cells)), 0.5), 0.0, float(cells - 1))


def _by_grid_sample(g: _Graph, grid: str, position: Sequence[Any], sizes: Sequence[int], guide: str) -> str:
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


def _by_gather(g: _Graph, grid: str, position: Sequence[Any], sizes: Sequence[int], guide: str) -> str:
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


_FORMS: dict[str, Any] = {"GridSample": _by_grid_sample, "GatherND": _by_gather}


# ---------------------------------------------------------------------------------------------------------------------
# Guides
# ---------------------------------------------------------------------------------------------------------------------


def _guide_of(g: _Graph, pixels: _Pixels, guide: Any, image: str) -> str:
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


def _checked_guide(op: str, guide: Any) -> tuple[Any, int]:
    """The record with float64 arrays, whose shapes its own operation has checked, and the image's channels."""
    if not isinstance(guide, GUIDES):
        raise TypeError(f"{op}: guide must be a CurvesGuide, NNGuide or LumaGuide, got {type(guide).__name__}.")
    record = type(guide)(**{name: np.asarray(value, np.float64) for name, value in vars(guide).items()})
    last = {CurvesGuide: "mix", NNGuide: "w1"}.get(type(guide))
    shape = getattr(record, last).shape if last else (3,)
    channels = shape[-1] if shape else 0
    record(np.zeros((1, 1, channels)))
    return record, channels


# ---------------------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------------------


def enhance(
    grid_shape: Any,
    guide: Any,
    *,
    form: str = "GridSample",
    layout: str = "NHWC",
    grid_axes: str = "N Gh Gw Gd Co L",
    image: str = "float32",
    grid: str = "float32",
    window: bool = False,
    align_corners: bool = False,
    opset: int = 20,
) -> Any:
    """Make the model of :func:`bilateral_ops.enhance`: guide, slice and apply.

        out = enhance(grid, guide, image)

    Parameters
    ----------
    grid_shape : (Gh, Gw, Gd, Co, L)
        The grid's cells, and its matrices: ``L`` is ``Ci``, or ``Ci + 1`` where the last column is an offset.
    guide : CurvesGuide, NNGuide or LumaGuide
        Its parameters become constants of the model, in float32. They say what ``Ci`` is.
    form : "GridSample" or "GatherND"
        How the grid is looked up: see the module's description.
    layout : "NHWC" or "NCHW"
        The axes of the image and of the result.
    grid_axes : str
        The axes of the input ``grid`` in memory, each of ``N Gh Gw Gd Co L`` once; those in parentheses are one axis.
        ``"N (L Co Gd) Gh Gw"`` is the last layer of HDRnet's network, channels first; ``"N (Co L) Gd Gh Gw"`` a
        grid of radiance fields.
    image : "float32", "float16", "uint8" or "uint16"
        The kind of numbers of the image and of the result. Integers are read as v/255 or v/65535, and written rounded
        to nearest even and saturated.
    grid : "float32" or "float16"
        The kind of numbers of the input ``grid``. Either is computed with in float32.
    window : bool
        Whether the model has an input ``window``, int64 (4,): ``(top, left, full_height, full_width)`` of the larger
        image of which ``image`` is a tile.
    align_corners : bool
        The sampling rule, as in :func:`bilateral_ops.slice`.
    opset : int
        The version of ONNX's operators: at least 20 for ``"GridSample"``, 13 for ``"GatherND"``.

    Returns
    -------
    onnx.ModelProto
        Inputs ``grid``, ``image`` and, where asked for, ``window``; output ``out``. ``N``, ``H`` and ``W`` are free.

    Raises
    ------
    ValueError
        A shape, or a choice that is none of those above.
    TypeError
        A kind of guide that is not supported.

    Notes
    -----
    There is no ``xy``.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """
    record, channels = _checked_guide("onnx.enhance", guide)
    return _model(
        "onnx.enhance", grid_shape, record, channels, form, layout, grid_axes, image, grid, window, align_corners, opset
    )


def slice_apply(
    grid_shape: Any,
    *,
    Ci: int = 3,
    form: str = "GridSample",
    layout: str = "NHWC",
    grid_axes: str = "N Gh Gw Gd Co L",
    image: str = "float32",
    grid: str = "float32",
    window: bool = False,
    align_corners: bool = False,
    opset: int = 20,
) -> Any:
    """Make the model of :func:`bilateral_ops.slice_apply`: for a guide that something else computes.

        out = slice_apply(grid, guide, image)

    Parameters
    ----------
    grid_shape, form, layout, grid_axes, image, grid, window, align_corners, opset
        As given to :func:`enhance`.
    Ci : int
        The image's channels.

    Returns
    -------
    onnx.ModelProto
        Inputs ``grid``, ``guide``, float32 (N, H, W), ``image`` and, where asked for, ``window``; output ``out``.

    Raises
    ------
    ValueError
        A shape, or a choice that is none of those of :func:`enhance`.

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.3 and 3.4.
    """
    return _model(
        "onnx.slice_apply", grid_shape, None, Ci, form, layout, grid_axes, image, grid, window, align_corners, opset
    )


def _model(
    op: str,
    grid_shape: Any,
    guide: Any,
    channels: int,
    form: str,
    layout: str,
    grid_axes: str,
    image_kind: str,
    grid_kind: str,
    window: bool,
    align_corners: bool,
    opset: int,
) -> Any:
    for name, value, choice in (
        ("form", form, tuple(_FORMS)),
        ("layout", layout, tuple(_LAYOUTS)),
        ("image", image_kind, tuple(_KINDS)),
        ("grid", grid_kind, ("float32", "float16")),
    ):
        if value not in choice:
            raise ValueError(f"{op}: {name} must be one of {', '.join(choice)}, got {value!r}.")
    oldest, newest = _OLDEST[form], onnx.defs.onnx_opset_version()
    if opset not in range(oldest, newest + 1):
        raise ValueError(f"{op}: opset must be {oldest} to {newest} for {form}, got {opset!r}.")
    shape = integers(op, "grid_shape", "five integers (Gh, Gw, Gd, Co, L)", 5, grid_shape)
    if min(shape) < 1 or shape[4] - channels not in (0, 1):
        raise ValueError(
            f"{op}: grid_shape must be (Gh, Gw, Gd, Co, {channels} or {channels + 1}), all of them at least 1, for "
            f"an image of {channels} channels, got {shape}."
        )
    groups = _groups(op, grid_axes)
    sizes = dict(zip(_GRID_AXES[1:], shape))

    g = _Graph()
    pixels = _Pixels(first=form == "GridSample")
    order = ("N", "Co", "L", "Gd", "Gh", "Gw") if pixels.first else _GRID_AXES
    matrices = _grid_in(g, groups, sizes, order, grid_kind)
    picture = _image_in(g, pixels, layout, image_kind)

    if guide is None:
        value = "guide"
    else:
        g.part = "guide"
        value = _guide_of(g, pixels, guide, picture)

    g.part = "slice"
    # Runtimes differ in what they make of NaN as a position: it becomes one, and the result NaN afterwards.
    nowhere = g("IsNaN", value)
    value = g("Where", nowhere, 0.0, value)
    height, width = g.size(value, 1), g.size(value, 2)
    whole: tuple[Any, ...] = (0, 0, height, width)
    if window:
        whole = tuple(g("Gather", "window", n, axis=0) for n in range(4))
    top, left, full_height, full_width = whole
    position = (
        _along(g, height, top, full_height, sizes["Gh"], align_corners),
        _along(g, width, left, full_width, sizes["Gw"], align_corners),
        _in_depth(g, value, sizes["Gd"], align_corners),
    )
    matrix = _FORMS[form](g, matrices, position, shape, value)

    g.part = "apply"
    result = pixels.applied(g, matrix, picture, affine=shape[4] > channels)
    result = g("Where", g("Unsqueeze", nowhere, [pixels.axes.index("C")]), math.nan, result)
    _image_out(g, pixels, layout, image_kind, result)

    # A network that this is put behind may call the sizes of its own image H and W.
    height_name, width_name = "full_H", "full_W"

    def picture_info(name: str, count: int) -> Any:
        free = {"C": count, "H": height_name, "W": width_name}
        dimensions = [free.get(axis, axis) for axis in _LAYOUTS[layout]]
        return helper.make_tensor_value_info(name, _KINDS[image_kind], dimensions)

    sized = [group[0] if group == ["N"] else math.prod(sizes[axis] for axis in group) for group in groups]
    inputs = [
        helper.make_tensor_value_info("grid", _KINDS[grid_kind], sized, f"the bilateral grid, {grid_axes}"),
        picture_info("image", channels),
    ]
    if guide is None:
        inputs.insert(1, helper.make_tensor_value_info("guide", TensorProto.FLOAT, ["N", height_name, width_name]))
    if window:
        meaning = "top, left, full_height, full_width"
        inputs.append(helper.make_tensor_value_info("window", TensorProto.INT64, [4], meaning))
    name = op.rpartition(".")[2]
    kind = guide.kind if guide is not None else "input"
    graph = helper.make_graph(
        g.nodes,
        name,
        inputs,
        [picture_info("out", shape[3])],
        list(g.constants.values()),
        doc_string=f"A bilateral grid of (Gh, Gw, Gd, Co, L) = {shape}, looked up by {form}; the guide: {kind}.",
    )
    versions = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph,
        opset_imports=versions,
        ir_version=helper.find_min_ir_version_for(versions),
        producer_name="bilateral_ops",
        producer_version=_cpu.__version__,
        doc_string=graph.doc_string,
    )
    facts = {"form": form, "guide": kind, "grid_axes": grid_axes, "align_corners": str(bool(align_corners))}
    helper.set_model_props(model, {f"bilateral_ops.{key}": value for key, value in facts.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _groups(op: str, text: str) -> list[list[str]]:
    """The axes written as ``"N (L Co Gd) Gh Gw"``, a list for each axis in memory."""
    groups: list[list[str]] = []
    open_group = False
    for word in text.replace("(", " ( ").replace(")", " ) ").split():
        if word in "()":
            if (word == "(") == open_group:
                break
            open_group = word == "("
            if open_group:
                groups.append([])
        elif open_group:
            groups[-1].append(word)
        else:
            groups.append([word])
    else:
        flat = [axis for group in groups for axis in group]
        if not open_group and sorted(flat) == sorted(_GRID_AXES) and ["N"] in groups:
            return groups
    raise ValueError(
        f"{op}: grid_axes must name each of {', '.join(_GRID_AXES)} once, N by itself, as "
        f"'N (L Co Gd) Gh Gw' does, got {text!r}."
    )


def _grid_in(g: _Graph, groups: list[list[str]], sizes: dict[str, int], order: Sequence[str], kind: str) -> str:
    """The input ``grid`` in float32, its axes in this order."""
    g.part = "grid"
    flat = [axis for group in groups for axis in group]
    # −1 is the batch: 0 would take the size of the input's axis in that place.
    split = g("Reshape", "grid", [sizes.get(axis, -1) for axis in flat])
    arranged = g("Transpose", split, perm=[flat.index(axis) for axis in order])
    return arranged if kind == "float32" else g.cast(arranged, "float32")


def _image_in(g: _Graph, pixels: _Pixels, layout: str, kind: str) -> str:
    """The input ``image`` in float32, its axes as it is computed with."""
    g.part = "image"
    value = "image" if kind == "float32" else g.cast("image", "float32")
    if kind.startswith("uint"):
        value = g("Div", value, float(np.iinfo(kind).max))
    return _arranged(g, value, _LAYOUTS[layout], pixels.axes)


def _image_out(g: _Graph, pixels: _Pixels, layout: str, kind: str, value: str) -> None:
    """Make the output ``out``."""
    g.part = "out"
    if kind.startswith("uint"):
        top = float(np.iinfo(kind).max)
        value = g("Where", g("IsNaN", value), 0.0, value)
        value = g("Clip", g("Round", g("Mul", value, top)), 0.0, top)
    if kind != "float32":
        value = g.cast(value, kind)
    value = _arranged(g, value, pixels.axes, _LAYOUTS[layout])
    g("Identity", value, output="out")


def _arranged(g: _Graph, value: str, axes: Sequence[str], wanted: Sequence[str]) -> str:
    return value if axes == wanted else g("Transpose", value, perm=[axes.index(axis) for axis in wanted])


def behind(network: Any, full: Any, *, output: str | None = None, prefix: str = "") -> Any:
    """Put a model of this module behind a network that predicts its grid, as one model.

    Parameters
    ----------
    network : onnx.ModelProto, or the path of one
        Its inputs stay inputs. Its outputs other than the grid are dropped.
    full : onnx.ModelProto
        What :func:`enhance` or :func:`slice_apply` made: its other inputs and its output stay as they are.
    output : str, optional
        The network's output that is the grid; may be left out where there is but one.
    prefix : str
        Put before the names of all that ``full`` has, where the network uses some of them.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ValueError
        An output that the network does not have or whose shape, kind of numbers or opset is not that of ``full``, or
        a name that both use.
    """
    if not isinstance(network, onnx.ModelProto):
        network = onnx.load(os.fspath(network))
    outputs = {value.name: value.type.tensor_type for value in network.graph.output}
    if output is None and len(outputs) == 1:
        (output,) = outputs
    if output not in outputs:
        raise ValueError(f"onnx.behind: output must be one of {', '.join(outputs)}, got {output!r}.")

    versions = [
        next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
        for model in (network, full)
    ]
    if versions[0] != versions[1]:
        raise ValueError(
            f"onnx.behind: network must have the opset of full, {versions[1]}, got {versions[0]}; make full with "
            f"opset={versions[0]}, or convert the network with onnx.version_converter."
        )
    grid = full.graph.input[0]
    wanted, got = grid.type.tensor_type, outputs[output]
    shapes = [_dimensions(value) for value in (wanted, got)]
    fits = len(shapes[0]) == len(shapes[1]) and all(
        a == b for a, b in zip(*shapes) if isinstance(a, int) and isinstance(b, int)
    )
    if wanted.elem_type != got.elem_type or not fits:
        kinds = [helper.tensor_dtype_to_np_dtype(value.elem_type).name for value in (wanted, got)]
        raise ValueError(
            f"onnx.behind: {output} must be {kinds[0]} of shape ({', '.join(map(str, shapes[0]))}) to be the grid, "
            f"got {kinds[1]} of ({', '.join(map(str, shapes[1]))})."
        )
    if prefix:
        full = onnx.compose.add_prefix(full, prefix)
    common = sorted(_names(network) & _names(full))
    if common:
        raise ValueError(
            f"onnx.behind: prefix must make all names differ from the network's, got {prefix!r} and {common[0]} in "
            f"both."
        )
    full_outputs = [value.name for value in full.graph.output]
    newest = onnx.ModelProto(ir_version=max(network.ir_version, full.ir_version))
    parts = [onnx.ModelProto() for _ in range(2)]
    for part, model in zip(parts, (network, full)):
        part.CopyFrom(model)
        part.MergeFrom(newest)
    merged = onnx.compose.merge_models(
        *parts,
        io_map=[(output, prefix + grid.name)],
        outputs=full_outputs,
        producer_name="bilateral_ops",
        producer_version=_cpu.__version__,
        doc_string=full.doc_string,
    )
    onnx.checker.check_model(merged, full_check=True)
    return merged


def _dimensions(value: Any) -> list[Any]:
    return [
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
        for dimension in value.shape.dim
    ]


def _names(model: Any) -> set[str]:
    graph = model.graph
    made = {name for node in graph.node for name in (node.name, *node.output) if name}
    return made | {value.name for value in (*graph.input, *graph.initializer)}


def save(model: Any, path: Any) -> None:
    """Write a model to a file, conventionally ``.onnx``."""
    onnx.save(model, os.fspath(path))
