"""GLSL ES 3.00: guide, slice and apply as one fragment shader, for WebGL 2 and OpenGL ES 3.

:func:`shader` writes the fragment shader of a guide and a grid's sizes, :func:`texture` packs a grid for it, and
:data:`VERTEX` is the vertex shader. :func:`resize_area` is the shader that reduces an image for a network that predicts
the grid, and :func:`lut` the one that looks colours up in a 3-D table. :func:`save` writes a whole model as files, and
:func:`web` a page that runs it in the browser.

Two forms look the grid up, of one and the same layout of the texture:

- ``"exact"``: a texture of ``RGBA32F`` is read by ``texelFetch`` and interpolated in the shader, eight texels a row of
  the matrices. Positions along rows and columns are quotients of whole numbers. The result is
  :func:`bilateral_ops.enhance`'s to the rounding of ``highp`` float.
- ``"fast"``: the hardware's trilinear filter reads a texture of ``RGBA16F``, one lookup a row. That rounds the grid to
  11 bits, and fractions between cells to what the filter has, 8 bits on most hardware: each axis may be off by 1/512 of
  the difference of neighbouring cells. With the model in the package a result is off by at most 8e-4, a fifth of a
  level of 255 (five photographs, such a filter emulated), and by 5e-4 where the filter computes in floats.

In any language that calls OpenGL ES 3:

    GLuint grid;                                            // from texture(grid), Co·Gd layers of Gh rows of Gw texels
    glBindTexture(GL_TEXTURE_3D, grid);
    glTexImage3D(GL_TEXTURE_3D, 0, GL_RGBA32F, Gw, Gh, Co * Gd, 0, GL_RGBA, GL_FLOAT, bytes);
    glTexParameteri(GL_TEXTURE_3D, GL_TEXTURE_MIN_FILTER, GL_NEAREST);      // GL_LINEAR for "fast", and MAG_FILTER
    …
    glDrawArrays(GL_TRIANGLES, 0, 3);                       // no vertex arrays: VERTEX makes one triangle

All but :func:`save` and :func:`web` need NumPy alone; these write the network as ONNX (the extra ``onnx``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .._core.checks import integers, one_of
from .._core.types import Array, Framework, PixelRule
from .._core.whole import written
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_luma import LUMA, LumaGuide
from ..ops._guide_nn import NNGuide
from ._model import checked_guide, predictor_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..hdrnet import Predictor

__all__ = ["VERTEX", "lut", "resize_area", "save", "shader", "texture", "uniforms", "web"]

_Form: TypeAlias = Literal["exact", "fast"]
_Parameters: TypeAlias = Literal["constants", "uniforms"]
_FORMS = ("exact", "fast")
#: Channels of a texel, of which the image's, a matrix's row and the result each have at most as many.
_MOST = 4
#: Layers that every implementation has (GL_MAX_3D_TEXTURE_SIZE).
_LAYERS = 256
_VECTORS = {1: "float", 2: "vec2", 3: "vec3", 4: "vec4"}

VERTEX = """\
#version 300 es
void main() {
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}
"""
"""The vertex shader: one triangle over the whole viewport, without vertex arrays."""

_HEAD = """\
#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler3D;
"""


def shader(
    guide: CurvesGuide[Array[Framework]] | NNGuide[Array[Framework]] | LumaGuide,
    grid_shape: Sequence[int],
    *,
    form: _Form = "exact",
    parameters: _Parameters = "constants",
    xy: PixelRule | None = None,
    align_corners: bool = False,
) -> str:
    """Write the fragment shader of :func:`bilateral_ops.enhance`: guide, slice and apply at every pixel.

        out = A·(in, 1),   A = the grid at (y, x, guide(in)), interpolated

    Parameters
    ----------
    guide : CurvesGuide, NNGuide or LumaGuide
        Its shapes say what ``Ci`` is, at most 4; its values become constants, in float32.
    grid_shape : (Gh, Gw, Gd, Co, L)
        The grid's cells, and its matrices: ``L`` is ``Ci``, or ``Ci + 1`` where the last column is an offset; ``Co``
        and ``L`` are at most 4, and ``Co · Gd`` at most 256, which is how many layers every device has.
    form : "exact" or "fast"
        How the grid is looked up: see the module's description.
    parameters : "constants" or "uniforms"
        With ``"uniforms"`` the guide's values are set by the caller: :func:`uniforms` has their names and arrays.
    xy : "centers" or "corners", optional
        The rule of the pixels' coordinates, as in :func:`bilateral_ops.slice`.
    align_corners : bool
        The sampling rule, as in :func:`bilateral_ops.slice`.

    Returns
    -------
    str
        GLSL ES 3.00. Its uniforms:

        ``sampler2D image``
            The image, the first row first, (H, W) texels of any format that is read as floats (``RGBA8``: v/255).
        ``sampler3D grid``
            What :func:`texture` packs, its filter ``NEAREST`` for ``"exact"``; ``LINEAR``, and clamped to the edge,
            for ``"fast"``.
        ``ivec4 window``
            (top, left, full height, full width) of the larger image that this is a tile of; all 0, which uniforms are
            at first: it is the whole.
        ``bool flipped``
            Whether the image's first row goes to the framebuffer's last, as on a screen, where rows count upwards.

        Its result is ``vec4 result``: ``Co`` channels, then 0 and, as the last one, the image's alpha or 1. It is not
        clamped; a framebuffer of bytes does that, and rounds. The viewport must have the image's size.

    Raises
    ------
    ValueError
        A shape, a parameter that is not finite in float32, or a choice that is none of those above.
    TypeError
        An unsupported guide.

    Notes
    -----
    Precision: ``highp`` is float32. Along rows and columns, cell and fraction are quotients of whole numbers, below 2³¹
    for images of up to 2³⁰/G pixels a side. ``exp``, of an ``NNGuide``, may be off by 3 + 2·|x| units in the last
    place, which puts the guide off by less than 1e-6. What GLSL makes of a NaN is not defined: images and grids must
    be finite.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3, whose own demonstration on a phone was such a
    shader.
    """
    op = "glsl.shader"
    record, channels = checked_guide(op, guide)
    rule = ("corners" if align_corners else "centers") if xy is None else xy
    one_of(op, "form", form, _FORMS)
    one_of(op, "parameters", parameters, ("constants", "uniforms"))
    one_of(op, "xy", rule, ("centers", "corners"))
    Gh, Gw, Gd, Co, L = _checked_shape(op, grid_shape)
    if channels > _MOST or L - channels not in (0, 1):
        raise ValueError(
            f"{op}: grid_shape must be (Gh, Gw, Gd, Co, {channels} or {channels + 1}), the last at most {_MOST}, for "
            f"an image of {channels} channels, got {(Gh, Gw, Gd, Co, L)}."
        )
    arrays = _arrays(op, record)
    vector = _VECTORS[channels]
    declared = _declarations(arrays) if parameters == "uniforms" else ""
    scale, shift = ("cells - 1", "") if align_corners else ("cells", " - n")
    step = "2 * i" if rule == "corners" else "2 * i + 1"
    single = "\n  n = max(n - 1, 1);" if rule == "corners" else ""
    depth = f"u * {Gd - 1}.0" if align_corners else f"clamp(u * {Gd}.0 - 0.5, 0.0, {Gd - 1}.0)"
    filled = ["pixel." + "xyzw"[:channels]]
    filled += ["1.0"] * (channels < L)
    filled += ["0.0"] * (_MOST - max(L, channels))
    alpha = "pixel.a" if channels < _MOST else "1.0"
    rows = [f"dot(row({row * Gd}), extended)" for row in range(Co)]
    rows += ["0.0"] * (_MOST - 1 - Co) + [alpha] * (Co < _MOST)
    return f"""{_HEAD}
// {record.kind} guide; a grid of (Gh, Gw, Gd, Co, L) = {(Gh, Gw, Gd, Co, L)}
// {form}; pixels at {rule}; align_corners={bool(align_corners)}
uniform sampler2D image;
uniform sampler3D grid;  // {Gw} by {Gh}, {Co * Gd} layers: row r of the matrices at depth z is layer r * {Gd} + z
uniform ivec4 window;  // top, left, full height, full width; 0: the image is the whole
uniform bool flipped;
{declared}out vec4 result;

float guide({vector} v) {{
{_guide_body(record, arrays, vector, parameters == "uniforms")}}}

// Where pixel i of n falls on an axis of cells, as a fraction of whole numbers in [0, cells - 1].
ivec2 position(int i, int n, int cells) {{{single}
  return ivec2(clamp(({step}) * ({scale}){shift}, 0, 2 * n * (cells - 1)), 2 * n);
}}

{_LOOKUP[form].format(Gw=Gw, Gh=Gh, Gd=Gd, layers=Co * Gd)}
void main() {{
{_PIXEL}
  ivec2 full = window.z > 0 ? window.wz : size;
  ivec2 x = position(at.x + window.y, full.x, {Gw}), y = position(at.y + window.x, full.y, {Gh});
  float u = clamp(guide(pixel.{"xyzw"[:channels]}), 0.0, 1.0);
  float z = {depth};
  ivec3 cell = ivec3(x.x / x.y, y.x / y.y, int(z));
  vec2 rest = vec2(float(x.x - cell.x * x.y) / float(x.y), float(y.x - cell.y * y.y) / float(y.y));
  locate(cell, vec3(rest, z - float(cell.z)));
  vec4 extended = vec4({", ".join(filled)});
  result = vec4({", ".join(rows)});
}}
"""


def lut(shape: Sequence[int], *, form: _Form = "exact", align_corners: bool = True) -> str:
    """Write the fragment shader that looks colours up in a 3-D table: ``slice`` at a pixel's own colour.

        out = slice(table, image[..., 2], xy=image[..., :2], align_corners=align_corners)

    Parameters
    ----------
    shape : (G, R, B, C)
        The table's, ``table[g, r, b]``: at most 256 entries along each axis, and C at most 4.
    form : "exact" or "fast"
        How the table is looked up: see the module's description.
    align_corners : bool
        True, as ``.cube`` files are meant: 0 is the first entry and 1 the last. The sampling rule, as in
        :func:`bilateral_ops.slice`.

    Returns
    -------
    str
        GLSL ES 3.00. Its uniforms are ``sampler2D image``, ``sampler3D grid`` and ``bool flipped``, as of
        :func:`shader`; ``grid`` is what :func:`texture` packs of ``table[..., None, :]``. Colours are clamped to
        [0, 1]. Its result is ``vec4 result``: C channels, then 0 and, as the last one, the image's alpha.

    Raises
    ------
    ValueError
        A shape, or a choice that is none of those above.

    Notes
    -----
    Positions are in float32. *Fast* is off by up to 1/512 of the difference of neighbouring entries along each axis,
    and by half floats: good where what follows has 8 bits.
    """
    op = "glsl.lut"
    one_of(op, "form", form, _FORMS)
    sizes = integers(op, "shape", "four integers (G, R, B, C)", 4, shape)
    if min(sizes) < 1 or sizes[3] > _MOST or max(sizes) > _LAYERS:
        raise ValueError(
            f"{op}: shape must be (G, R, B, C), all of them at least 1 and at most {_LAYERS}, C at most {_MOST}, got "
            f"{sizes}."
        )
    G, R, B, C = sizes
    last = f"vec3({R - 1}.0, {G - 1}.0, {B - 1}.0)"
    place = (
        f"colour * {last}" if align_corners else f"clamp(colour * vec3({R}.0, {G}.0, {B}.0) - 0.5, vec3(0.0), {last})"
    )
    channels = [f"found.{name}" for name in "xyzw"[:C]] + ["0.0"] * (_MOST - 1 - C) + ["pixel.a"] * (C < _MOST)
    return f"""{_HEAD}
// A table of (G, R, B, C) = {(G, R, B, C)}; {form}; align_corners={bool(align_corners)}
uniform sampler2D image;
uniform sampler3D grid;  // {R} by {G}, {B} layers: red, green and blue
uniform bool flipped;
out vec4 result;

{_LOOKUP[form].format(Gw=R, Gh=G, Gd=B, layers=B)}
void main() {{
{_PIXEL}
  vec3 colour = clamp(pixel.rgb, 0.0, 1.0);
  vec3 p = {place};
  locate(ivec3(p), fract(p));
  vec4 found = row(0);
  result = vec4({", ".join(channels)});
}}
"""


#: How a shader begins: the pixel of the image that it is for.
_PIXEL = """\
  ivec2 size = textureSize(image, 0), at = ivec2(gl_FragCoord.xy);
  if (flipped) at.y = size.y - 1 - at.y;
  vec4 pixel = texelFetch(image, at, 0);"""

#: The grid between cells.
_LOOKUP = {
    "exact": """\
ivec3 below, above;  // the cells around a place
vec3 t;  // and where it is between them

void locate(ivec3 cell, vec3 fraction) {{
  below = cell;
  above = min(below + 1, ivec3({Gw}, {Gh}, {Gd}) - 1);
  t = fraction;
}}

// a + t * (b - a): exactly a where a = b, which mix() is not
vec4 between(vec4 a, vec4 b, float t) {{
  return a + t * (b - a);
}}

vec4 column(int x, int layer) {{
  return between(texelFetch(grid, ivec3(x, below.y, layer), 0), texelFetch(grid, ivec3(x, above.y, layer), 0), t.y);
}}

// A row of the matrix: the layers from `first` on, interpolated.
vec4 row(int first) {{
  int low = first + below.z, high = first + above.z;
  vec4 left = between(column(below.x, low), column(below.x, high), t.z);
  vec4 right = between(column(above.x, low), column(above.x, high), t.z);
  return between(left, right, t.x);
}}
""",
    "fast": """\
vec3 place;  // in texels, from the first one's edge

void locate(ivec3 cell, vec3 fraction) {{
  place = vec3(cell) + fraction + 0.5;
}}

// A row of the matrix: the layers from `first` on, interpolated by the filter, which never leaves them.
vec4 row(int first) {{
  return texture(grid, (place + vec3(0.0, 0.0, float(first))) / vec3({Gw}.0, {Gh}.0, {layers}.0));
}}
""",
}


def uniforms(
    guide: CurvesGuide[Array[Framework]] | NNGuide[Array[Framework]] | LumaGuide,
) -> dict[str, NDArray[np.float32]]:
    """The guide's values for a shader with ``parameters="uniforms"``: each uniform's name and what it is set to.

    Returns
    -------
    dict of str to array, float32
        ``(n, c)`` for an array of n vectors of c numbers (``glUniform3fv(location, n, values)`` for c = 3), ``(c,)``
        for a vector, ``(n,)`` for the arrays of numbers ``guide_b1`` and ``guide_w2``, ``()`` for a number. Of luma:
        none.

    Raises
    ------
    ValueError
        A shape, or a value that is not finite in float32.
    TypeError
        An unsupported guide.
    """
    record, _ = checked_guide("glsl.uniforms", guide)
    return _arrays("glsl.uniforms", record)


def texture(grid: Array[object], *, form: _Form = "exact") -> NDArray[Any]:
    """Pack a grid into the texels that the shader reads.

    Parameters
    ----------
    grid : array (Gh, Gw, Gd, Co, L)
        Finite; ``Co`` and ``L`` at most 4, ``Co · Gd`` at most 256.
    form : "exact" or "fast"
        The shader's.

    Returns
    -------
    array (Co·Gd, Gh, Gw, 4), float32 for "exact" and float16 for "fast", C-contiguous
        A 3-D texture of Gw by Gh texels in Co·Gd layers, ``RGBA32F`` or ``RGBA16F``: ``array.tobytes()`` is what
        ``glTexImage3D`` takes, with ``GL_FLOAT`` or ``GL_HALF_FLOAT``. Texel (x, y, r·Gd + z) is row r of the matrix of
        cell (y, x, z); what ``L`` lacks to 4 is 0.

    Raises
    ------
    ValueError
        A shape, a value that is not finite, or one that float16 does not reach.
    """
    op = "glsl.texture"
    one_of(op, "form", form, _FORMS)
    values = np.asarray(grid, np.float32)
    Gh, Gw, Gd, Co, L = _checked_shape(op, values.shape, "grid")
    texels = np.zeros((Co, Gd, Gh, Gw, _MOST), np.float32 if form == "exact" else np.float16)
    with np.errstate(over="ignore"):
        texels[..., :L] = values.transpose(3, 2, 0, 1, 4)
    if not np.isfinite(texels).all():
        raise ValueError(f"{op}: grid must be finite in {texels.dtype}, which {form!r} stores.")
    return texels.reshape(Co * Gd, Gh, Gw, _MOST)


def resize_area() -> str:
    """Write the fragment shader of :func:`bilateral_ops.resize_area` along one axis: exact averages over areas.

        out_i = Σ_j w_ij·in_j / Σ_j w_ij,   w_ij = the length that pixels i and j share

    Drawn twice, along rows and then, of that, along columns, it reduces an image of any size to a network's input.

    Returns
    -------
    str
        GLSL ES 3.00. Its uniforms are ``sampler2D image``, ``bool vertical``, whether the axis is that along columns,
        and ``int count``, the pixels of the result along it. The viewport has the result's size; the framebuffer must
        be of floats (``RGBA32F``, with the extension ``EXT_color_buffer_float``). Rows stay in order: the first one is
        the framebuffer's first.

    Notes
    -----
    Lengths are whole numbers, products of the two sizes, below 2³¹. Sums are in float32.
    """
    return f"""{_HEAD}
uniform sampler2D image;
uniform bool vertical;
uniform int count;  // pixels of the result along the axis
out vec4 result;

// In a unit of which a pixel of the result has `others` and one of the image `count`, nothing is rounded.
void main() {{
  ivec2 at = ivec2(gl_FragCoord.xy), size = textureSize(image, 0);
  int i = vertical ? at.y : at.x, others = vertical ? size.y : size.x;
  int from = i * others, to = from + others;
  vec4 sum = vec4(0.0);
  for (int j = from / count; j * count < to; ++j) {{
    int covered = min((j + 1) * count, to) - max(j * count, from);
    sum += float(covered) * texelFetch(image, vertical ? ivec2(at.x, j) : ivec2(j, at.y), 0);
  }}
  result = sum / float(others);
}}
"""


def save(model: Predictor | str | os.PathLike[str] | None, folder: str | os.PathLike[str]) -> Path:
    """Write all that a model needs on a phone, or in any application, as files.

    Parameters
    ----------
    model : Predictor, or the path of a model file, optional
        Without one, the model in the package. Its network must have one scale.
    folder : path
        Made where missing.

    Returns
    -------
    Path
        The folder, with

        - ``network.onnx``: from ``low``, float32 (N, *net_input, 3), to ``grid``, float32 (N, Gh, Gw, Gd·3·4), as
          :func:`bilateral_ops.export.onnx.hdrnet` has it for ``"Gather"``
        - ``triangle.vert``, ``resize_area.frag``, ``exact.frag`` and ``fast.frag``: :data:`VERTEX`,
          :func:`resize_area` and both forms of :func:`shader`
        - ``model.json``: ``net_input``, the rows and columns of ``low``, ``grid_shape`` and the kind of ``guide``

    Raises
    ------
    ValueError
        A model of three scales, whose pyramid these shaders have not, or with ``reduce="nearest"``, as they average; or
        one whose guide is not finite.
    """
    from . import onnx

    facts = _facts("glsl.save", predictor := predictor_of(model))
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.hdrnet(predictor, part="network", **_NETWORK), path / "network.onnx")
    texts = {"triangle.vert": facts.pop("vertex"), "resize_area.frag": facts.pop("resize_area")}
    texts |= {f"{form}.frag": text for form, text in facts.pop("enhance").items()}
    texts["model.json"] = json.dumps(facts)
    for name, text in texts.items():
        with written(path / name) as part:
            part.write_text(text, encoding="utf-8")
    return path


def web(model: Predictor | str | os.PathLike[str] | None, folder: str | os.PathLike[str]) -> Path:
    """Write a page that enhances photographs and a camera's picture in the browser, for any static server.

    Parameters
    ----------
    model : Predictor, or the path of a model file, optional
        Without one, the model in the package. Its network must have one scale.
    folder : path
        Made where missing; files of the same names are replaced.

    Returns
    -------
    Path
        The folder, with

        - ``index.html``, ``style.css``, ``app.js``, ``renderer.js`` and ``model.js``: the page, without a build step
        - ``model.onnx``: the network of :func:`save`, whose metadata ``bilateral_ops.web`` is JSON: the sizes, and the
          texts of :data:`VERTEX`, :func:`resize_area` and :func:`shader` in both forms. Such a file can also be dropped
          onto a page that has another.

    Raises
    ------
    ValueError
        As :func:`save` does.

    Notes
    -----
    The page has ONNX Runtime from a CDN, or from where ``?ort=`` says: examples/web/README.md.
    """
    from . import onnx

    facts = _facts("glsl.web", predictor := predictor_of(model))
    made = onnx.hdrnet(predictor, part="network", **_NETWORK)
    entry = made.metadata_props.add()
    entry.key, entry.value = "bilateral_ops.web", json.dumps(facts)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    onnx.save(made, path / "model.onnx")
    for file in resources.files(__package__).joinpath("page").iterdir():
        with written(path / file.name) as part:
            part.write_bytes(file.read_bytes())
    return path


#: Old operators and few axes, for any runtime.
_NETWORK: dict[str, Any] = {"form": "Gather", "opset": 13}


def _facts(op: str, predictor: Predictor) -> dict[str, Any]:
    """A model's sizes and shaders, as JSON has them."""
    config = predictor.config
    if config.scales != 1:
        raise ValueError(f"{op}: model must have one scale, got {config.scales}; these shaders have no pyramid.")
    if config.reduce != "area":
        raise ValueError(f"{op}: model must have reduce='area', got {config.reduce!r}; these shaders average.")
    guide = predictor._model.guides[0]["float32"]
    return {
        "version": 2,
        "net_input": config.input_shape,
        "grid_shape": config.grid_shape,
        "guide": config.guide,
        "vertex": VERTEX,
        "resize_area": resize_area(),
        "enhance": {form: shader(guide, config.grid_shape, form=form, **config.sampling) for form in ("exact", "fast")},
    }


# --- Shapes and parameters


def _checked_shape(op: str, shape: Any, name: str = "grid_shape") -> tuple[int, int, int, int, int]:
    Gh, Gw, Gd, Co, L = sizes = integers(op, name, "five integers (Gh, Gw, Gd, Co, L)", 5, shape)
    if min(sizes) < 1 or max(Co, L) > _MOST or Co * Gd > _LAYERS:
        raise ValueError(
            f"{op}: {name} must be (Gh, Gw, Gd, Co, L), all of them at least 1, Co and L at most {_MOST} and Co·Gd at "
            f"most {_LAYERS}, got {sizes}."
        )
    return Gh, Gw, Gd, Co, L


def _arrays(op: str, record: Any) -> dict[str, NDArray[np.float32]]:
    """The guide's parameters as the shader has them: knots and features by rows, of a vector of channels each."""
    values = vars(record)
    if isinstance(record, CurvesGuide):  # shifts and slopes: the channels' k-th knots beside one another
        values = {**values, "shifts": record.shifts.T, "slopes": record.slopes.T}
    with np.errstate(over="ignore"):
        arrays = {
            f"guide_{name}": np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
            for name, value in values.items()
        }
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{op}: guide must be finite in float32, got {name[6:]} that is not.")
    return arrays


def _declarations(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    lines = []
    for name, value in arrays.items():
        if not value.size:  # no knots, or no features
            continue
        vectors = value.ndim == 2
        kind = _VECTORS[value.shape[-1]] if vectors or (name not in _NUMBERS and value.ndim) else "float"
        count = f"[{len(value)}]" if vectors or name in _NUMBERS else ""
        lines.append(f"uniform {kind} {name}{count};\n")
    return "".join(lines)


#: Arrays of numbers, one for each feature, and not a vector of channels.
_NUMBERS = ("guide_b1", "guide_w2")


def _guide_body(record: Any, arrays: Mapping[str, NDArray[np.float32]], vector: str, as_uniforms: bool) -> str:
    """The function's lines; loops over knots and features are unrolled, as constant arrays are slow on some devices."""

    def value(name: str, *index: int) -> str:
        if as_uniforms:
            return f"guide_{name}" + "".join(f"[{i}]" for i in index)
        return _literal(arrays[f"guide_{name}"][index])

    if isinstance(record, LumaGuide):
        return f"  return dot({_literal(LUMA)}, v);\n"
    if isinstance(record, CurvesGuide):
        channels = range(len(arrays["guide_ccm"]))
        mixed = ", ".join(f"dot({value('ccm', i)}, v)" for i in channels)
        lines = [f"{vector} q = {vector}({mixed}) + {value('ccm_bias')};", f"{vector} c = {vector}(0.0);"]
        knots = len(arrays["guide_shifts"])
        lines += [f"c += {value('slopes', k)} * max(q - {value('shifts', k)}, 0.0);" for k in range(knots)]
        lines.append(f"return dot({value('mix')}, c) + {value('mix_bias')};")
    else:
        features = len(arrays["guide_w1"])
        lines = [f"float s = {value('b2')};"]
        for k in range(features):
            lines.append(f"s += {value('w2', k)} * max(dot({value('w1', k)}, v) + {value('b1', k)}, 0.0);")
        lines.append("return 1.0 / (1.0 + exp(-clamp(s, -80.0, 80.0)));")  # no infinity, which GLSL need not have
    return "".join(f"  {line}\n" for line in lines)


def _literal(value: Any) -> str:
    """A number, or a vector, whose decimals are read back as the same float32."""
    if np.ndim(value):
        return f"{_VECTORS[len(value)]}({', '.join(_literal(v) for v in value)})"
    return str(np.float32(value))
