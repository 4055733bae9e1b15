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
from typing import Any, Literal, TypeAlias

import numpy as np

from .. import _cpu
from .._core.checks import integers
from .._core.missing import needed
from .._core.types import Array, Framework, PixelRule
from ..ops._enhance import GUIDES
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_luma import LumaGuide
from ..ops._guide_nn import NNGuide

with needed("bilateral_ops.export.onnx", "onnx", "onnx"):
    import onnx
    from onnx import TensorProto, helper

    from ._graph import DTYPES, FORMS, LAYOUTS, Graph, Pixels, along, guide_of, in_depth

__all__ = ["behind", "enhance", "save", "slice_apply"]

_Form: TypeAlias = Literal["GridSample", "GatherND"]
_Layout: TypeAlias = Literal["NHWC", "NCHW"]
_Image: TypeAlias = Literal["float32", "float16", "uint8", "uint16"]
_Grid: TypeAlias = Literal["float32", "float16"]
#: The oldest opset that has a form's operators as they are used here.
_OLDEST = {"GridSample": 20, "GatherND": 13}
_GRID_AXES = ("N", "Gh", "Gw", "Gd", "Co", "L")


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
    form : "GridSample" or "GatherND"
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
        An unsupported guide.

    Notes
    -----
    There is no array ``xy``.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """
    record, channels = _checked_guide("onnx.enhance", guide)
    layouts = (form, layout, grid_axes, image, grid)
    return _model("onnx.enhance", grid_shape, record, channels, *layouts, xy, window, align_corners, opset)


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
    opset: int = 20,
) -> onnx.ModelProto:
    """Make the model of :func:`bilateral_ops.slice_apply`: for a guide that something else computes.

        out = slice_apply(grid, guide, image)

    Parameters
    ----------
    grid_shape, form, layout, grid_axes, image, grid, xy, window, align_corners, opset
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
    layouts = (form, layout, grid_axes, image, grid)
    return _model("onnx.slice_apply", grid_shape, None, Ci, *layouts, xy, window, align_corners, opset)


def _model(
    op: str,
    grid_shape: Any,
    guide: Any,
    channels: int,
    form: str,
    layout: str,
    grid_axes: str,
    image_dtype: str,
    grid_dtype: str,
    rule: str | None,
    window: bool,
    align_corners: bool,
    opset: int,
) -> onnx.ModelProto:
    if rule is None:
        rule = "corners" if align_corners else "centers"
    for name, value, choice in (
        ("form", form, tuple(FORMS)),
        ("layout", layout, tuple(LAYOUTS)),
        ("image", image_dtype, tuple(DTYPES)),
        ("grid", grid_dtype, ("float32", "float16")),
        ("xy", rule, ("centers", "corners")),
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

    g = Graph()
    pixels = Pixels(first=form == "GridSample")
    order = ("N", "Co", "L", "Gd", "Gh", "Gw") if pixels.first else _GRID_AXES
    matrices = _grid_in(g, groups, sizes, order, grid_dtype)
    picture = _image_in(g, pixels, layout, image_dtype)

    if guide is None:
        value = "guide"
    else:
        g.part = "guide"
        value = guide_of(g, pixels, guide, picture)

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
        along(g, height, top, full_height, sizes["Gh"], align_corners, rule == "corners"),
        along(g, width, left, full_width, sizes["Gw"], align_corners, rule == "corners"),
        in_depth(g, value, sizes["Gd"], align_corners),
    )
    matrix = FORMS[form](g, matrices, position, shape, value)

    g.part = "apply"
    result = pixels.applied(g, matrix, picture, affine=shape[4] > channels)
    result = g("Where", g("Unsqueeze", nowhere, [pixels.axes.index("C")]), math.nan, result)
    _image_out(g, pixels, layout, image_dtype, result)

    # A network that this is put behind may call the sizes of its own image H and W.
    free = {"H": "full_H", "W": "full_W"}

    def picture_info(name: str, count: int) -> Any:
        dimensions = [count if axis == "C" else free.get(axis, axis) for axis in LAYOUTS[layout]]
        return helper.make_tensor_value_info(name, DTYPES[image_dtype], dimensions)

    sized = [group[0] if group == ["N"] else math.prod(sizes[axis] for axis in group) for group in groups]
    inputs = [
        helper.make_tensor_value_info("grid", DTYPES[grid_dtype], sized, f"the bilateral grid, {grid_axes}"),
        picture_info("image", channels),
    ]
    if guide is None:
        inputs.insert(1, helper.make_tensor_value_info("guide", TensorProto.FLOAT, ["N", *free.values()]))
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
    facts = {"form": form, "guide": kind, "grid_axes": grid_axes, "xy": rule}
    facts["align_corners"] = str(bool(align_corners))
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


def _grid_in(g: Graph, groups: list[list[str]], sizes: dict[str, int], order: Sequence[str], dtype: str) -> str:
    """The input ``grid`` in float32, its axes in this order."""
    g.part = "grid"
    flat = [axis for group in groups for axis in group]
    # −1 is the batch: 0 would take the size of the input's axis in that place.
    split = g("Reshape", "grid", [sizes.get(axis, -1) for axis in flat])
    arranged = g.arranged(split, flat, order)
    return arranged if dtype == "float32" else g.cast(arranged, "float32")


def _image_in(g: Graph, pixels: Pixels, layout: str, dtype: str) -> str:
    """The input ``image`` in float32, its axes as it is computed with."""
    g.part = "image"
    value = "image" if dtype == "float32" else g.cast("image", "float32")
    if dtype.startswith("uint"):
        value = g("Div", value, float(np.iinfo(dtype).max))
    return g.arranged(value, LAYOUTS[layout], pixels.axes)


def _image_out(g: Graph, pixels: Pixels, layout: str, dtype: str, value: str) -> None:
    """Make the output ``out``."""
    g.part = "out"
    if dtype.startswith("uint"):
        top = float(np.iinfo(dtype).max)
        value = g("Where", g("IsNaN", value), 0.0, value)
        value = g("Clip", g("Round", g("Mul", value, top)), 0.0, top)
    if dtype != "float32":
        value = g.cast(value, dtype)
    value = g.arranged(value, pixels.axes, LAYOUTS[layout])
    g("Identity", value, output="out")


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


def _dimensions(value: Any) -> list[Any]:
    return [
        dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
        for dimension in value.shape.dim
    ]


def _names(model: Any) -> set[str]:
    graph = model.graph
    made = {name for node in graph.node for name in (node.name, *node.output) if name}
    return made | {value.name for value in (*graph.input, *graph.initializer)}


def save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model to a file, conventionally ``.onnx``."""
    onnx.save(model, os.fspath(path))
