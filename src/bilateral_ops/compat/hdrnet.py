"""HDRnet's operators, with its shapes and its packing of matrices, for arrays of every framework.

Channels are last, as in HDRnet; the functions named ``*_nchw`` are the same with channels first. Matrices are packed
row by row: channel ``out·L + in`` of a grid of ``C = Co·L`` channels, where ``L = Ci + 1`` with the offset in the last
column, or ``L = Ci`` without one. Arrays are viewed, not copied; gradients are those of the operations called.

HDRnet smooths its interpolation in depth (|t| as √(t² + 1e-8)), which is not done here: results differ by up to 1e-4 of
the coefficients' size. :func:`unpack_coefficients` turns a network's last convolution into a grid.

Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, and the operators of google/hdrnet.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np

from .._core.checks import brief, one_of, real
from .._core.dispatch import framework_of
from .._core.types import Array, Framework, Grid, Image, Like, PixelRule
from ..ops._apply import apply as _apply
from ..ops._slice import slice as _slice
from ..ops._slice_apply import slice_apply as _slice_apply

__all__ = [
    "LAYOUTS",
    "apply",
    "apply_nchw",
    "bilateral_slice",
    "bilateral_slice_apply",
    "bilateral_slice_apply_nchw",
    "bilateral_slice_nchw",
    "unpack_coefficients",
]

_PaddingMode: TypeAlias = Literal["border", "zeros"]
_PADDING_MODES = ("border", "zeros")
_Layout: TypeAlias = Literal["in_out_z", "out_in_z", "z_out_in", "matrix_offset_z", "z_matrix_offset"]
# Where a convolution's channels hold the matrix entries, from the slowest axis to the fastest; None for the axis that
# counts the nine entries of the matrices and then the three of the offset.
_ORDERS: dict[_Layout, tuple[str | None, ...]] = {
    "in_out_z": ("in", "out", "z"),
    "out_in_z": ("out", "in", "z"),
    "z_out_in": ("z", "out", "in"),
    "matrix_offset_z": (None, "z"),
    "z_matrix_offset": ("z", None),
}
LAYOUTS = tuple(_ORDERS)
"""The names of layouts that :func:`unpack_coefficients` knows."""


def bilateral_slice(grid: Like[Framework, Grid], guide: Array[Framework], name: object = None) -> Grid:
    """Sample a bilateral grid at every pixel: :func:`bilateral_ops.slice` at pixel centres.

    Parameters
    ----------
    grid : array (N, gh, gw, gd, C) or (N, gh, gw, gd, Co, Ci), float16 | bfloat16 | float32 | float64
    guide : array (N, H, W), the grid's dtype
        [0, 1] spans the grid's depth. Without the batch axis nothing else has one either.
    name : object, optional
        What TensorFlow's operator calls the node of its graph. Not used.

    Returns
    -------
    array (N, H, W, C) or (N, H, W, Co, Ci), the grid's dtype

    Raises
    ------
    ValueError, TypeError
        As :func:`bilateral_ops.slice`.
    """
    return _slice(grid, guide)


def bilateral_slice_apply(
    grid: Array[Framework],
    guide: Array[Framework],
    input_image: Like[Framework, Image],
    has_offset: bool = True,
    name: object = None,
) -> Image:
    """Sample a bilateral grid of matrices at every pixel and map the pixel: :func:`bilateral_ops.slice_apply`.

    Parameters
    ----------
    grid : array (N, gh, gw, gd, Co·L) or (N, gh, gw, gd, Co, L), float16 | bfloat16 | float32 | float64
        ``L = Ci + 1`` with ``has_offset``, else ``Ci``.
    guide : array (N, H, W)
        [0, 1] spans the grid's depth. Without the batch axis nothing else has one either.
    input_image : array (N, H, W, Ci)
    has_offset : bool
        Whether the matrices have an offset, in their last column.
    name : object, optional
        What TensorFlow's operator calls the node of its graph. Not used.

    Returns
    -------
    array (N, H, W, Co), the image's dtype

    Raises
    ------
    ValueError
        Channels of the grid that are not ``Co·L``; else as :func:`bilateral_ops.slice_apply`.
    TypeError
        As :func:`bilateral_ops.slice_apply`.
    """
    matrices = _matrices("bilateral_slice_apply", "grid", grid, 4 + _batched(guide, 2), input_image, has_offset)
    return _slice_apply(matrices, guide, input_image)


def apply(sliced: Array[Framework], input_image: Like[Framework, Image], has_affine_term: bool = True) -> Image:
    """Map every pixel by its own matrix: :func:`bilateral_ops.apply`.

    Parameters
    ----------
    sliced : array (N, H, W, Co, L) or (N, H, W, Co·L), float16 | bfloat16 | float32 | float64
        ``L = Ci + 1`` with ``has_affine_term``, else ``Ci``.
    input_image : array (N, H, W, Ci)
        Without the batch axis nothing else has one either.
    has_affine_term : bool
        Whether the matrices have an offset, in their last column.

    Returns
    -------
    array (N, H, W, Co), the image's dtype

    Raises
    ------
    ValueError
        Channels of ``sliced`` that are not ``Co·L``; else as :func:`bilateral_ops.apply`.
    TypeError
        As :func:`bilateral_ops.apply`.
    """
    rank = 3 + _batched(input_image, 3)
    return _apply(_matrices("apply", "sliced", sliced, rank, input_image, has_affine_term), input_image)


def bilateral_slice_nchw(
    grid: Like[Framework, Grid],
    guide: Array[Framework],
    *,
    xy: PixelRule | None = None,
    align_corners: bool = False,
    padding_mode: _PaddingMode = "border",
    guide_range: tuple[float, float] = (0.0, 1.0),
) -> Grid:
    """:func:`bilateral_slice` with channels first, and what PyTorch ports do with ``grid_sample`` instead.

        sliced = bilateral_slice_nchw(grid, guide, xy="corners", guide_range=(-1, 1), padding_mode="zeros")

    is ``grid_sample(grid, xyz)[:, :, 0]``, where ``xyz`` (N, 1, H, W, 3) has 2j/(W−1) − 1, 2i/(H−1) − 1 and the guide;
    ``align_corners`` and ``padding_mode`` are those of ``grid_sample``, whose default is ``"zeros"``.

    Parameters
    ----------
    grid : array (N, C, gd, gh, gw) or (N, Co, Ci, gd, gh, gw)
    guide : array (N, H, W) or (N, 1, H, W)
    xy : "centers" or "corners", optional
    align_corners : bool
        The rules of pixels and of cells, as in :func:`bilateral_ops.slice`.
    padding_mode : "border" or "zeros"
        What is beyond the outer cells' centres: these cells again, or zeros, to which it is interpolated.
    guide_range : (float, float)
        The values of the guide that span the grid's depth.

    Returns
    -------
    array (N, C, H, W) or (N, Co, Ci, H, W)
        A view; in memory channels are last.

    Raises
    ------
    ValueError
        Another ``padding_mode``, a ``guide_range`` of no extent, a guide of several channels; else as
        :func:`bilateral_ops.slice`.
    TypeError
        As :func:`bilateral_ops.slice`.

    Notes
    -----
    What public ports do, as arguments; the table of them in the documentation is of whole models.

        creotiv/hdrnet-pytorch, 2022        none
        the same, April 2021                xy="corners", align_corners=True, guide_range=(-1, 1), of the grid's
                                            transpose (N, C, gd, gw, gh)
        the same, November 2020             xy="corners", align_corners=True, guide_range=(-1, 1)
        the same, April 2020                xy="corners", padding_mode="zeros", guide_range=(-1, 1)
        the same, 2019; lcj1105             xy="corners", align_corners=True, guide_range=(-1, 1), of the grid's
                                            transpose (N, C, gw, gh, gd)
        hello-jinwoo/hdrnet-ciplab          xy="corners", padding_mode="zeros", guide_range=(-1, 1)
        gejinchen/HDRnet-PyTorch            xy="corners"
    """
    op = "bilateral_slice_nchw"
    plane, batched = _plane(op, guide)
    cells = _channels_last(grid, batched, 3)
    u = _in_range(op, plane, guide_range)
    sliced = _slice(cells, u, xy=xy, align_corners=align_corners)
    sliced = _faded(op, sliced, cells, u, batched, padding_mode, xy, align_corners)
    return _channels_first(sliced, batched)


def bilateral_slice_apply_nchw(
    grid: Array[Framework],
    guide: Array[Framework],
    input_image: Like[Framework, Image],
    has_offset: bool = True,
    *,
    xy: PixelRule | None = None,
    align_corners: bool = False,
    padding_mode: _PaddingMode = "border",
    guide_range: tuple[float, float] = (0.0, 1.0),
) -> Image:
    """:func:`bilateral_slice_apply` with channels first.

    Parameters
    ----------
    grid : array (N, Co·L, gd, gh, gw) or (N, Co, L, gd, gh, gw)
    guide : array (N, H, W) or (N, 1, H, W)
    input_image : array (N, Ci, H, W)
    has_offset : bool
    xy, align_corners, padding_mode, guide_range
        As in :func:`bilateral_slice_nchw`.

    Returns
    -------
    array (N, Co, H, W)
        A view; in memory channels are last.
    """
    op = "bilateral_slice_apply_nchw"
    plane, batched = _plane(op, guide)
    image = _channels_last(input_image, batched)
    packed = _channels_last(grid, batched, 3)
    matrices = _matrices(op, "grid", packed, 4 + batched, image, has_offset)
    u = _in_range(op, plane, guide_range)
    applied = _slice_apply(matrices, u, image, xy=xy, align_corners=align_corners)
    return _channels_first(_faded(op, applied, matrices, u, batched, padding_mode, xy, align_corners), batched)


def apply_nchw(sliced: Array[Framework], input_image: Like[Framework, Image], has_affine_term: bool = True) -> Image:
    """:func:`apply` with channels first.

    Parameters
    ----------
    sliced : array (N, Co·L, H, W) or (N, Co, L, H, W)
    input_image : array (N, Ci, H, W)

    Returns
    -------
    array (N, Co, H, W)
        A view; in memory channels are last.
    """
    batched = _batched(input_image, 3)
    image, coefficients = _channels_last(input_image, batched), _channels_last(sliced, batched)
    matrices = _matrices("apply_nchw", "sliced", coefficients, 3 + batched, image, has_affine_term)
    return _channels_first(_apply(matrices, image), batched)


def unpack_coefficients(
    features: Like[object, Grid],
    depth: int,
    layout: _Layout = "in_out_z",
    *,
    n_out: int = 3,
    n_in: int = 4,
    channels_first: bool = False,
) -> Grid:
    """Make a grid of matrices of the channels of a network's last convolution.

        layout              channel of entry (out, in) in depth z, with L = n_in columns
        in_out_z            (in·Co + out)·gd + z               HDRnet's own networks
        out_in_z            (out·L + in)·gd + z
        z_out_in            z·Co·L + out·L + in
        matrix_offset_z     e·gd + z                           e = out·(L−1) + in of the matrix, Co·(L−1) + out
        z_matrix_offset     z·Co·L + e                             of the offset, which is in column L−1

    Parameters
    ----------
    features : array (N, gh, gw, gd·n_out·n_in), or (N, gd·n_out·n_in, gh, gw) with ``channels_first``
    depth : int
        gd, the cells in depth.
    layout : one of :data:`LAYOUTS`
    n_out, n_in : int
        Rows and columns of the matrices; the offset counts as a column.
    channels_first : bool

    Returns
    -------
    array (N, gh, gw, gd, n_out, n_in)
        A view, except for the layouts that keep the offset apart.

    Raises
    ------
    ValueError
        An unknown layout, or channels that are not gd·n_out·n_in.
    """
    one_of("unpack_coefficients", "layout", layout, LAYOUTS)
    axis = 1 if channels_first else 3
    packed: Any = features
    shape = tuple(packed.shape)
    wanted = depth * n_out * n_in
    if len(shape) != 4 or shape[axis] != wanted:
        axes = "(N, C, gh, gw)" if channels_first else "(N, gh, gw, C)"
        raise ValueError(
            f"unpack_coefficients: features must have shape {axes} with C = {depth}·{n_out}·{n_in} = {wanted}, "
            f"got {shape}."
        )
    if None in _ORDERS[layout] and n_in < 1:
        raise ValueError(f"unpack_coefficients: n_in must be 1 or more for the offset of {layout}, got {n_in}.")
    sizes = {"in": n_in, "out": n_out, "z": depth, None: n_out * n_in}
    order = _ORDERS[layout]
    split = packed.reshape(*shape[:axis], *(sizes[name] for name in order), *shape[axis + 1 :])
    places = {name: axis + i for i, name in enumerate(order)}
    lead = (0, 1, 2) if axis == 3 else (0, axis + len(order), axis + len(order) + 1)
    if None not in places:
        return _permuted(split, (*lead, places["z"], places["out"], places["in"]))
    entries = _permuted(split, (*lead, places["z"], places[None]))
    rows = np.arange(n_out * (n_in - 1)).reshape(n_out, n_in - 1)
    offsets = n_out * (n_in - 1) + np.arange(n_out)[:, None]
    return entries[..., np.concatenate([rows, offsets], 1)]


# --- shapes


def _matrices(op: str, name: str, packed: Any, rank: int, image: Any, has_offset: Any) -> Any:
    """Coefficients with an axis for rows and one for columns, of which there are as many as ``has_offset`` says.

    ``rank`` is that of packed coefficients. Any other is left to the operation to refuse.
    """
    if not isinstance(has_offset, (bool, np.bool_)):
        raise TypeError(f"{op}: whether there is an offset must be a bool, got {type(has_offset).__name__}.")
    shape = tuple(packed.shape)
    inputs = int(image.shape[-1])
    columns = inputs + bool(has_offset)
    needed = f"{inputs} for input_image's channels and 1 for the offset" if has_offset else f"{inputs}, without offset"
    if len(shape) == rank + 1 and shape[-1] != columns:
        raise ValueError(f"{op}: {name} must have matrices of {columns} columns ({needed}), got {shape[-1]}.")
    if len(shape) != rank:
        return packed
    if columns == 0:
        raise ValueError(f"{op}: {name} must have an axis for rows, where matrices have no columns, got shape {shape}.")
    if shape[-1] % columns:
        raise ValueError(f"{op}: {name} must have rows of {columns} channels ({needed}), got {shape[-1]} channels.")
    return packed.reshape(*shape[:-1], shape[-1] // columns, columns)


def _plane(op: str, guide: Any) -> tuple[Any, int]:
    """A guide without its channel axis, and how many batch axes it has."""
    if len(guide.shape) != 4:
        return guide, _batched(guide, 2)
    if guide.shape[1] != 1:
        raise ValueError(f"{op}: guide must have shape (N, H, W) or (N, 1, H, W), got {tuple(guide.shape)}.")
    return guide[:, 0], 1


def _in_range(op: str, guide: Any, guide_range: Any) -> Any:
    """The guide where 0 and 1 span the grid's depth."""
    low, high = map(real, guide_range) if isinstance(guide_range, tuple) and len(guide_range) == 2 else (None, None)
    if low is None or high is None:
        raise TypeError(f"{op}: guide_range must be two numbers, got {brief(guide_range)}.")
    if not math.isfinite(low) or not math.isfinite(high) or low == high:
        raise ValueError(f"{op}: guide_range must be two finite numbers that differ, got {brief(guide_range)}.")
    return guide if (low, high) == (0, 1) else (guide - low) * (1 / (high - low))


def _faded(
    op: str, sampled: Any, grid: Any, u: Any, batched: int, padding_mode: str, xy: Any, align_corners: bool
) -> Any:
    """What was sampled (N, H, W, *C), with zeros beyond the outer cells where they are asked for.

    There interpolation between the outer cell, which is what was sampled, and zero is a factor for each axis.
    """
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"{op}: padding_mode must be {' or '.join(_PADDING_MODES)}, got {brief(padding_mode)}.")
    if padding_mode == "border":
        return sampled

    def factor(u: Any, cells: int) -> Any:
        p = u * (cells - 1) if align_corners else u * cells - 0.5
        return (1 - abs(p - p.clip(0, cells - 1))).clip(0, 1)

    channels = len(sampled.shape) - batched - 2
    faded = sampled * factor(u, grid.shape[batched + 2])[(..., *[None] * channels)]
    if align_corners:  # pixels are on the outer cells, or between them
        return faded
    for axis in range(2):
        count = sampled.shape[batched + axis]
        i = np.arange(count)
        at = i / max(count - 1, 1) if xy == "corners" else (i + 0.5) / max(count, 1)
        weights = factor(at, grid.shape[batched + axis]).reshape(-1, *[1] * (1 - axis + channels))
        faded = faded * _beside(op, faded, weights)
    return faded


def _beside(op: str, array: Any, values: Any) -> Any:
    """Numbers as an array of this one's framework and dtype, where it is."""
    if hasattr(array, "new_tensor"):
        return array.new_tensor(values)
    return getattr(framework_of(op, "grid", array), "cupy", np).asarray(values, array.dtype)


def _batched(array: Any, rank: int) -> int:
    """How many batch axes an array has before its ``rank`` others: none or one."""
    return int(len(array.shape) > rank)


def _channels_last(array: Any, batched: int, axes: int = 2) -> Any:
    """(N, *C, H, W) to (N, H, W, *C); with three axes, (N, *C, gd, gh, gw) to (N, gh, gw, gd, *C)."""
    rank = len(array.shape)
    places = (rank - 2, rank - 1, rank - 3)[:axes]
    return _permuted(array, (*range(batched), *places, *range(batched, rank - axes)))


def _channels_first(array: Any, batched: int) -> Any:
    """(N, H, W, *C) to (N, *C, H, W)."""
    return _permuted(array, (*range(batched), *range(batched + 2, len(array.shape)), batched, batched + 1))


def _permuted(array: Any, axes: tuple[int, ...]) -> Any:
    return array.permute(axes) if hasattr(array, "permute") else array.transpose(axes)
