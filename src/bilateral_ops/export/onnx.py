"""Models of standard ONNX operators that compute what :func:`bilateral_ops.enhance` and ``slice_apply`` do.

They run wherever ONNX does (ONNX Runtime, mobile and browser runtimes, other vendors' accelerators), on images and
batches of any size. :func:`hdrnet` makes a trained model's whole pipeline, or its two halves; :func:`enhance`,
:func:`slice_apply` and :func:`slice` make models of one operation, :func:`behind` puts one behind a network that
predicts the grid, and :func:`save` writes it to a file.

Two forms look the grid up:

- ``"GridSample"``: one 5-D ``GridSample`` (opset 20 or newer). ONNX Runtime has it on the CPU.
- ``"Gather"``: ``Gather`` from the grid as rows of one matrix, and arithmetic (opset 13 or newer); no array has more
  than four axes. For runtimes whose ``GridSample`` is for images alone, as OpenVINO's, TensorRT's and MNN's are.

Positions along rows and columns are quotients of whole numbers, exact for images of any size and for tiles of one;
everything else is float32. Results are the package's to rounding: along an axis of G cells positions are off by at most
about G·2⁻²³ (``Gather``: half of that), which matters as far as neighbouring cells differ. An infinite guide is
clamped, and a NaN in the guide gives NaN in that pixel and in no other; ONNX Runtime's ``GridSample`` alone would do
neither.

A runtime stores the coefficients of all pixels, which the package avoids: at 1920 × 1080 ONNX Runtime takes 0.6 to 1.1
GB and half a second on two threads. Large images are better fed as tiles, through ``window``. ONNX Runtime's ``Conv``,
which models with ``GridSample`` have, refuses images without pixels.

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
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .. import _cpu
from .._core.checks import brief, integers, one_of
from .._core.missing import needed
from .._core.types import Array, Framework, PixelRule
from .._core.whole import written
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_luma import LumaGuide
from ..ops._guide_nn import NNGuide

if TYPE_CHECKING:
    from ..hdrnet import Predictor

with needed("bilateral_ops.export.onnx", "onnx", "onnx"):
    import onnx
    from onnx import TensorProto, helper

    from ._graph import DTYPES, FORMS, LAYOUTS, Graph, Pixels, Position, along, at, guide_of
    from ._model import PARTS, Part, checked_guide, predictor_of
    from ._network import predicted

__all__ = ["behind", "enhance", "hdrnet", "save", "slice", "slice_apply"]

_Form: TypeAlias = Literal["GridSample", "Gather"]
_Layout: TypeAlias = Literal["NHWC", "NCHW"]
_Image: TypeAlias = Literal["float32", "float16", "uint8", "uint16"]
_Grid: TypeAlias = Literal["float32", "float16"]
#: The oldest opset that has a form's operators as they are used here.
_OLDEST = {"GridSample": 20, "Gather": 13}
_GRID_AXES = ("N", "Gh", "Gw", "Gd", "Co", "L")
# A network that a model is put behind may call the sizes of its own image H and W.
_FREE = ("full_H", "full_W")


def enhance(
    grid_shape: Sequence[int],
    guide: CurvesGuide[Array[Framework]] | NNGuide[Array[Framework]] | LumaGuide,
    *,
    form: _Form = "GridSample",
    layout: _Layout = "NHWC",
    grid_axes: str = "N Gh Gw Gd Co L",
    image: _Image = "float32",
    grid: _Grid = "float32",
    xy: PixelRule | None = None,
    window: bool = False,
    align_corners: bool = False,
    nan: bool = True,
    opset: int = 20,
) -> onnx.ModelProto:
    """Make the model of :func:`bilateral_ops.enhance`: guide, slice and apply.

        out = enhance(grid, guide, image)

    Parameters
    ----------
    grid_shape : (Gh, Gw, Gd, Co, L)
        The grid's cells, and its matrices: ``L`` is ``Ci``, or ``Ci + 1`` where the last column is an offset.
    guide : CurvesGuide, NNGuide or LumaGuide
        Its parameters become constants of the model, in float32. They say what ``Ci`` is.
    form : "GridSample" or "Gather"
        How the grid is looked up: see the module's description.
    layout : "NHWC" or "NCHW"
        The axes of the image and of the result.
    grid_axes : str
        The axes of the input ``grid`` in memory, each of ``N Gh Gw Gd Co L`` once; those in parentheses are one axis.
        ``"N (L Co Gd) Gh Gw"`` is the last layer of HDRnet's network, channels first; ``"N (Co L) Gd Gh Gw"`` a
        grid of radiance fields.
    image : "float32", "float16", "uint8" or "uint16"
        The dtype of the image and of the result. Integers are read as v/255 or v/65535, and written rounded
        to nearest even and saturated.
    grid : "float32" or "float16"
        The dtype of the input ``grid``. Either is computed with in float32.
    xy : "centers" or "corners", optional
        The rule of the pixels' coordinates, as in :func:`bilateral_ops.slice`.
    window : bool
        Whether the model has an input ``window``, int64 (4,): ``(top, left, full_height, full_width)`` of the larger
        image of which ``image`` is a tile.
    align_corners : bool
        The sampling rule, as in :func:`bilateral_ops.slice`.
    nan : bool
        Whether a NaN in the guide gives NaN in its pixel alone. False leaves that to the runtime, and ``Equal``,
        ``Not`` and ``Where`` out, which ncnn does not have.
    opset : int
        The version of ONNX's operators: at least 20 for ``"GridSample"``, 13 for ``"Gather"``.

    Returns
    -------
    onnx.ModelProto
        Inputs ``grid``, ``image`` and, where asked for, ``window``; output ``out``. ``N``, ``H`` and ``W`` are free.

    Raises
    ------
    ValueError
        A shape, or a choice that is none of those above.
    TypeError
        An unsupported guide.

    Notes
    -----
    There is no array ``xy``.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """
    record, channels = checked_guide("onnx.enhance", guide)
    model = _Model("onnx.enhance", form, layout, image, grid, xy, window, align_corners, opset, nan)
    return model.applying(grid_shape, grid_axes, channels, record)


def slice_apply(
    grid_shape: Sequence[int],
    *,
    Ci: int = 3,
    form: _Form = "GridSample",
    layout: _Layout = "NHWC",
    grid_axes: str = "N Gh Gw Gd Co L",
    image: _Image = "float32",
    grid: _Grid = "float32",
    xy: PixelRule | None = None,
    window: bool = False,
    align_corners: bool = False,
    nan: bool = True,
    opset: int = 20,
) -> onnx.ModelProto:
    """Make the model of :func:`bilateral_ops.slice_apply`: for a guide that something else computes.

        out = slice_apply(grid, guide, image)

    Parameters
    ----------
    grid_shape, form, layout, grid_axes, image, grid, xy, window, align_corners, nan, opset
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
    model = _Model("onnx.slice_apply", form, layout, image, grid, xy, window, align_corners, opset, nan)
    return model.applying(grid_shape, grid_axes, Ci, None)


def slice(
    grid_shape: Sequence[int],
    *,
    form: _Form = "GridSample",
    layout: _Layout = "NHWC",
    grid_axes: str = "N Gh Gw Gd C",
    grid: _Grid = "float32",
    xy: PixelRule | Literal["array"] | None = None,
    window: bool = False,
    align_corners: bool = False,
    nan: bool = True,
    opset: int = 20,
) -> onnx.ModelProto:
    """Make the model of :func:`bilateral_ops.slice`: of a bilateral grid, or of a 3-D lookup table.

        out = slice(grid, guide)

    Parameters
    ----------
    grid_shape : (Gh, Gw, Gd, C)
        The grid's cells and channels.
    form, grid, window, align_corners, nan, opset
        As given to :func:`enhance`.
    layout : "NHWC" or "NCHW"
        The axes of the result.
    grid_axes : str
        As of :func:`enhance`, of the axes ``N Gh Gw Gd C``.
    xy : "centers", "corners" or "array", optional
        The rule of the pixels' coordinates; with ``"array"`` the model has an input ``xy``, float32 (N, H, W, 2), and
        no ``window``. With colours' red and green there, blue for ``guide`` and ``align_corners=True``, the model looks
        colours up in a table ``grid[g, r, b]``.

    Returns
    -------
    onnx.ModelProto
        Inputs ``grid``, ``guide``, float32 (N, H, W), and, where asked for, ``xy`` or ``window``; output ``out``,
        float32 (N, H, W, C).

    Raises
    ------
    ValueError
        A shape, or a choice that is none of those above.

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.3.
    """
    model = _Model("onnx.slice", form, layout, "float32", grid, xy, window, align_corners, opset, nan)
    return model.slicing(grid_shape, grid_axes)


def hdrnet(
    model: Predictor | str | os.PathLike[str] | None = None,
    *,
    part: Part = "whole",
    form: _Form = "Gather",
    layout: _Layout = "NHWC",
    image: _Image = "float32",
    window: bool = False,
    nan: bool = True,
    opset: int = 20,
) -> onnx.ModelProto:
    """Make the model of a trained network: what :class:`bilateral_ops.hdrnet.Predictor` computes.

    Parameters
    ----------
    model : Predictor, or the path of a model file, optional
        The model in this package by default.
    part : "whole", "network" or "render"
        ``"whole"``: an image → the image enhanced; reduce, network, guide, slice and apply. ``"network"``: the image
        reduced by areas, ``low`` → ``grid`` (:meth:`.Predictor.grid`). ``"render"``: ``grid`` and an image → the image
        enhanced (:meth:`.Predictor.render`), whose grid is the other's.
    form, layout, image, nan, opset
        As given to :func:`enhance`; ``layout`` is that of ``low``, too.
    window : bool
        As given to :func:`enhance`, of ``"render"`` and a model of one scale.
    Returns
    -------
    onnx.ModelProto
        Inputs and outputs ``image``, ``low``, ``grid`` and ``out`` as ``part`` says: images (N, H, W, 3) of any N, H
        and W, ``low`` float32 (N, S, S, 3). The grid is float32 (N, Gh, Gw, Gd·3·scales·4), as runtimes that have few
        axes take it.

    Raises
    ------
    ValueError
        A choice that is none of those above; errors of model files are those of :func:`.read_model`.

    Notes
    -----
    NaN and infinity in an image of floats reach all of the result through the network, which a predictor prevents.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """
    one_of("onnx.hdrnet", "part", part, PARTS)
    predictor = predictor_of(model)
    if window and (part != "render" or predictor.config.scales > 1):
        raise ValueError("onnx.hdrnet: window must be False but for the part render of a model of one scale, got True.")
    rule, align_corners = predictor.config.sampling.values()
    made = _Model("onnx.hdrnet", form, layout, image, "float32", rule, window, align_corners, opset, nan)
    return made.of_network(predictor, part)


@dataclass
class _Model:
    """A model as it is made: the choices that all have, checked, and their graph."""

    op: str
    form: str
    layout: str
    image_dtype: str
    grid_dtype: str
    rule: Any
    window: bool
    align_corners: bool
    opset: int
    nan: bool

    def __post_init__(self) -> None:
        op, form = self.op, self.form
        if self.rule is None:
            self.rule = "corners" if self.align_corners else "centers"
        one_of(op, "form", form, FORMS)
        one_of(op, "layout", self.layout, LAYOUTS)
        one_of(op, "image", self.image_dtype, DTYPES)
        one_of(op, "grid", self.grid_dtype, ("float32", "float16"))
        one_of(op, "xy", self.rule, ("centers", "corners", *("array",) * (op == "onnx.slice")))
        oldest, newest = _OLDEST[form], onnx.defs.onnx_opset_version()
        if not isinstance(self.opset, (int, np.integer)) or not oldest <= self.opset <= newest:
            raise ValueError(f"{op}: opset must be {oldest} to {newest} for {form}, got {brief(self.opset)}.")
        if self.window and self.rule == "array":
            raise ValueError(f"{op}: window must be False where xy is 'array', got True.")
        self.align_corners = bool(self.align_corners)
        self.g = Graph()
        self.pixels = Pixels(first=form == "GridSample")
        self.inputs: list[Any] = []

    # --- Whole models

    def applying(self, grid_shape: Any, grid_axes: str, channels: int, guide: Any) -> onnx.ModelProto:
        shape = integers(self.op, "grid_shape", "five integers (Gh, Gw, Gd, Co, L)", 5, grid_shape)
        if min(shape) < 1 or shape[4] - channels not in (0, 1):
            raise ValueError(
                f"{self.op}: grid_shape must be (Gh, Gw, Gd, Co, {channels} or {channels + 1}), all of them at least "
                f"1, for an image of {channels} channels, got {shape}."
            )
        cells = self.grid(_groups(self.op, grid_axes, _GRID_AXES), dict(zip(_GRID_AXES[1:], shape)), grid_axes)
        if guide is None:
            self.inputs.append(_info("guide", TensorProto.FLOAT, ("N", *_FREE)))
        self.deliver(self.rendered(cells, shape, guide, self.image(channels)))
        self.takes_window()
        return self.finished(shape, grid_axes, guide, self.picture_info("out", shape[3]))

    def slicing(self, grid_shape: Any, grid_axes: str) -> onnx.ModelProto:
        axes = ("N", "Gh", "Gw", "Gd", "C")
        shape = integers(self.op, "grid_shape", "four integers (Gh, Gw, Gd, C)", 4, grid_shape)
        if min(shape) < 1:
            raise ValueError(f"{self.op}: grid_shape must be (Gh, Gw, Gd, C), all of them at least 1, got {shape}.")
        cells = self.grid(_groups(self.op, grid_axes, axes), dict(zip(axes[1:], shape)), grid_axes)
        self.inputs.append(_info("guide", TensorProto.FLOAT, ("N", *_FREE)))
        if self.rule == "array":
            self.inputs.append(_info("xy", TensorProto.FLOAT, ("N", *_FREE, 2)))
        found, nowhere = self.looked_up(cells, shape, "guide")
        self.deliver(self.given_back(nowhere, found))
        self.takes_window()
        return self.finished(shape, grid_axes, None, self.picture_info("out", shape[3]))

    def of_network(self, predictor: Predictor, part: str) -> onnx.ModelProto:
        g, config = self.g, predictor.config
        shape = config.grid_shape
        grid_axes = "N Gh Gw (Gd Co L)"
        groups, sizes = _groups(self.op, grid_axes, _GRID_AXES), dict(zip(_GRID_AXES[1:], shape))
        rows, columns = config.input_shape
        cells = picture = ""
        if part == "render":
            cells = self.grid(groups, sizes, grid_axes)
        if part != "network":
            picture = self.image(3)
        if part == "whole":
            g.part = "reduce"
            reduced = self.pixels.averaged if config.reduce == "area" else self.pixels.nearest
            low = reduced(g, picture, (rows, columns))
            low = g.arranged(low, self.pixels.axes, LAYOUTS["NCHW"])
        elif part == "network":
            g.part = "network"
            self.inputs.append(_info("low", TensorProto.FLOAT, _named(self.layout, rows, columns, 3)))
            low = g.arranged("low", LAYOUTS[self.layout], LAYOUTS["NCHW"])
        if part != "render":
            g.part = "network"
            # (N, Gd·Co·L, Gh, Gw), a cell's numbers in the order of the grid's.
            cells = predicted(g, predictor, low)
        if part == "network":
            cells = g.arranged(cells, LAYOUTS["NCHW"], LAYOUTS["NHWC"])
            dimensions = _dimensions(groups, sizes)
            g("Reshape", cells, [-1, *dimensions[1:]], output="grid")
            return self.finished(shape, grid_axes, None, _info("grid", TensorProto.FLOAT, dimensions))
        if part == "whole":
            cells = self.cells(cells, [["N"], ["Gd", "Co", "L"], ["Gh"], ["Gw"]], sizes)
        guides = [checked_guide(self.op, guide["float32"])[0] for guide in predictor._model.guides]
        self.deliver(self.pyramid(cells, shape, guides, picture))
        self.takes_window()
        return self.finished(shape, grid_axes, guides[0], self.picture_info("out", 3))

    # --- What they are made of

    def picture_info(self, name: str, channels: int) -> Any:
        return _info(name, DTYPES[self.image_dtype], _named(self.layout, *_FREE, channels))

    def image(self, channels: int) -> str:
        """The input ``image`` in float32, its axes as it is computed with."""
        self.channels = channels
        self.inputs.append(self.picture_info("image", channels))
        g, dtype = self.g, self.image_dtype
        g.part = "image"
        value = "image" if dtype == "float32" else g.cast("image", "float32")
        if dtype.startswith("uint"):
            value = g("Div", value, float(np.iinfo(dtype).max))
        return g.arranged(value, LAYOUTS[self.layout], self.pixels.axes)

    def grid(self, groups: list[list[str]], sizes: dict[str, int], text: str) -> str:
        """The input ``grid`` in float32, its cells in the order of the form."""
        meaning = f"the bilateral grid, {text}"
        self.inputs.append(_info("grid", DTYPES[self.grid_dtype], _dimensions(groups, sizes), meaning))
        self.g.part = "grid"
        cells = self.cells("grid", groups, sizes)
        return cells if self.grid_dtype == "float32" else self.g.cast(cells, "float32")

    def cells(self, value: str, groups: list[list[str]], sizes: dict[str, int]) -> str:
        """An array whose axes are these groups, with them in the order of the form; as few axes as that takes."""
        flat = [axis for group in groups for axis in group]
        spatial, channels = ["Gh", "Gw"], [axis for axis in flat if axis in ("Co", "L", "C")]
        channels.sort(key=("Co", "L", "C").index)
        order = ["N", *channels, "Gd", *spatial] if self.pixels.first else ["N", *spatial, "Gd", *channels]
        runs: list[list[str]] = []  # axes that follow one another in both
        for axis in order:
            before = flat.index(axis) - 1
            if runs and before >= 0 and flat[before] == runs[-1][-1] and axis != "N" and runs[-1] != ["N"]:
                runs[-1].append(axis)
            else:
                runs.append([axis])
        held = sorted(runs, key=lambda run: flat.index(run[0]))
        if held != groups:
            # −1 is the batch: 0 would take the size of the input's axis in that place.
            value = self.g("Reshape", value, [-1 if size == "N" else size for size in _dimensions(held, sizes)])
        return self.g.arranged(value, [run[0] for run in held], [run[0] for run in runs])

    def looked_up(self, cells: str, shape: Sequence[int], guide: str) -> tuple[str, str]:
        """A grid's channels at every pixel, and where the guide is NaN, for :meth:`given_back`."""
        g = self.g
        g.part = "slice"
        if self.nan:
            # Runtimes differ in what they make of NaN as a position: it becomes one, and the result NaN afterwards.
            nowhere = g.is_nan(guide)
            guide = g("Where", nowhere, 0.0, guide)
        Gh, Gw, Gd, *channels = shape
        y, x = self.places(guide, Gh, Gw)
        z = at(g, guide, Gd, self.align_corners)
        found = FORMS[self.form](g, cells, (y, x, z), (Gh, Gw, Gd, math.prod(channels)))
        return found, g("Unsqueeze", nowhere, [self.pixels.channel]) if self.nan else ""

    def given_back(self, nowhere: str, result: str) -> str:
        return self.g("Where", nowhere, math.nan, result) if nowhere else result

    def places(self, guide: str, Gh: int, Gw: int) -> tuple[Position, Position]:
        g = self.g
        if self.rule == "array":
            x, y = (g("Gather", "xy", i, axis=3) for i in range(2))
            return at(g, y, Gh, self.align_corners), at(g, x, Gw, self.align_corners)
        height, width = g.size(guide, 1), g.size(guide, 2)
        whole: tuple[Any, ...] = (0, 0, height, width)
        if self.window:
            whole = tuple(g("Gather", "window", n, axis=0) for n in range(4))
        top, left, full_height, full_width = whole
        rules = self.align_corners, self.rule == "corners"
        return along(g, height, top, full_height, Gh, *rules), along(g, width, left, full_width, Gw, *rules)

    def rendered(self, cells: str, shape: Sequence[int], guide: Any, picture: str) -> str:
        """Guide, slice, apply."""
        g = self.g
        value = "guide"
        if guide is not None:
            g.part = "guide"
            value = guide_of(g, self.pixels, guide, picture)
        matrices, nowhere = self.looked_up(cells, shape, value)
        g.part = "apply"
        result = self.pixels.applied(g, matrices, picture, (shape[3], shape[4]), shape[4] > self.channels)
        return self.given_back(nowhere, result)

    def pyramid(self, cells: str, shape: Sequence[int], guides: Sequence[Any], picture: str) -> str:
        """The image under its grid, and where there are several scales, smaller ones under theirs added to it."""
        if len(guides) == 1:
            return self.rendered(cells, shape, guides[0], picture)
        g, pixels = self.g, self.pixels
        levels = [picture]
        for _ in guides[1:]:
            g.part = "pyramid"
            sizes = (g("Gather", g("Shape", levels[-1]), [axis], axis=0) for axis in (pixels.row, pixels.column))
            levels.append(pixels.resized(g, levels[-1], *(g("Max", g("Div", size, 2), 1) for size in sizes)))
        result = ""
        for i, (level, guide) in enumerate(zip(reversed(levels), reversed(guides))):  # the coarsest first
            rows = self.rows_of(cells, shape, 3 * i)
            rendered = self.rendered(rows, (*shape[:3], 3, shape[4]), guide, level)
            if result:
                g.part = "pyramid"
                sizes = (g("Gather", g("Shape", rendered), [axis], axis=0) for axis in (pixels.row, pixels.column))
                rendered = g("Add", rendered, pixels.resized(g, result, *sizes))
            result = rendered
        return result

    def rows_of(self, cells: str, shape: Sequence[int], first: int) -> str:
        """Three rows of the matrices of a grid in the order of the form."""
        g, (Gh, Gw, Gd, rows, columns) = self.g, shape
        g.part = "grid"
        if self.pixels.first:
            split, axis = [-1, rows, columns, Gd * Gh * Gw], 1
        else:
            split, axis = [-1, Gh * Gw * Gd, rows, columns], 2
        return g("Slice", g("Reshape", cells, split), [first], [first + 3], [axis])

    def takes_window(self) -> None:
        if self.window:
            meaning = "top, left, full_height, full_width"
            self.inputs.append(_info("window", TensorProto.INT64, [4], meaning))

    def deliver(self, value: str) -> None:
        """Make the output ``out``."""
        g, dtype = self.g, self.image_dtype
        g.part = "out"
        if dtype.startswith("uint"):
            top = float(np.iinfo(dtype).max)
            value = g("Where", g.is_nan(value), 0.0, value)
            value = g("Clip", g("Round", g("Mul", value, top)), 0.0, top)
        value = g.arranged(value, self.pixels.axes, LAYOUTS[self.layout])
        if dtype == "float32":
            g("Identity", value, output="out")
        else:  # last: some runtimes have integers of 8 bits as inputs and outputs alone
            g("Cast", value, to=DTYPES[dtype], output="out")

    def finished(self, shape: Sequence[int], grid_axes: str, guide: Any, output: Any) -> onnx.ModelProto:
        g, name = self.g, self.op.rpartition(".")[2]
        kind = guide.kind if guide is not None else "input"
        axes = "(Gh, Gw, Gd, C)" if len(shape) == 4 else "(Gh, Gw, Gd, Co, L)"
        graph = helper.make_graph(
            g.nodes,
            name,
            self.inputs,
            [output],
            list(g.constants.values()),
            doc_string=f"A bilateral grid of {axes} = {tuple(shape)}, looked up by {self.form}; the guide: {kind}.",
        )
        versions = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            graph,
            opset_imports=versions,
            ir_version=helper.find_min_ir_version_for(versions),
            producer_name="bilateral_ops",
            producer_version=_cpu.__version__,
            doc_string=graph.doc_string,
        )
        facts = {"form": self.form, "guide": kind, "grid_axes": grid_axes, "xy": self.rule}
        facts["align_corners"] = str(self.align_corners)
        helper.set_model_props(model, {f"bilateral_ops.{key}": value for key, value in facts.items()})
        onnx.checker.check_model(model, full_check=True)
        return model


def _info(name: str, dtype: int, dimensions: Sequence[Any], meaning: str = "") -> Any:
    return helper.make_tensor_value_info(name, dtype, list(dimensions), meaning)


def _dimensions(groups: list[list[str]], sizes: dict[str, int]) -> list[Any]:
    """The sizes of axes that are each several of a grid's."""
    return [group[0] if group == ["N"] else math.prod(sizes[axis] for axis in group) for group in groups]


def _named(layout: str, height: Any, width: Any, channels: int) -> list[Any]:
    """An image's sizes in a layout."""
    sizes = {"N": "N", "H": height, "W": width, "C": channels}
    return [sizes[axis] for axis in LAYOUTS[layout]]


def _groups(op: str, given: Any, axes: Sequence[str]) -> list[list[str]]:
    """The axes written as ``"N (L Co Gd) Gh Gw"``, a list for each axis in memory."""
    group = r"\(([^()]*)\)|([^\s()]+)"
    text = given if isinstance(given, str) else ""
    groups = [(several or one).split() for several, one in re.findall(group, text)]
    named = sorted(axis for several in groups for axis in several)
    if named != sorted(axes) or ["N"] not in groups or re.sub(group, "", text).strip():
        raise ValueError(
            f"{op}: grid_axes must name each of {', '.join(axes)} once, N by itself, as "
            f"'N (L Co Gd) Gh Gw' does, got {brief(given)}."
        )
    return groups


def behind(
    network: onnx.ModelProto | str | os.PathLike[str],
    full: onnx.ModelProto,
    *,
    output: str | None = None,
    prefix: str = "",
) -> onnx.ModelProto:
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
        An output that the network does not have or whose shape, dtype or opset is not that of ``full``, or
        a name that both use.
    """
    if not isinstance(network, onnx.ModelProto):
        network = onnx.load(os.fspath(network))
    outputs = {value.name: value.type.tensor_type for value in network.graph.output}
    if output is None and len(outputs) == 1:
        (output,) = outputs
    one_of("onnx.behind", "output", output, outputs)

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
    shapes = [_shape(value) for value in (wanted, got)]
    fits = len(shapes[0]) == len(shapes[1]) and all(
        a == b for a, b in zip(*shapes) if isinstance(a, int) and isinstance(b, int)
    )
    if wanted.elem_type != got.elem_type or not fits:
        dtypes = [helper.tensor_dtype_to_np_dtype(value.elem_type).name for value in (wanted, got)]
        raise ValueError(
            f"onnx.behind: {output} must be {dtypes[0]} of shape ({', '.join(map(str, shapes[0]))}) to be the grid, "
            f"got {dtypes[1]} of ({', '.join(map(str, shapes[1]))})."
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


def _shape(value: Any) -> list[Any]:
    return [
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
        for dimension in value.shape.dim
    ]


def _names(model: Any) -> set[str]:
    graph = model.graph
    made = {name for node in graph.node for name in (node.name, *node.output) if name}
    return made | {value.name for value in (*graph.input, *graph.initializer)}


def save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model to a file, conventionally ``.onnx``. It appears whole or not at all."""
    form = onnx.serialization.registry.get_format_from_file_extension(os.path.splitext(path)[1])
    with written(path) as part:
        onnx.save(model, part, form)
