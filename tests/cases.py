"""What do the tests call the operations with, and how far from the reference may an answer be?

A *subject* is an operation, ``enhance`` once for each kind of guide. A *case* is a named set of options: sizes for
``bilateral_ops._samples``, keywords of the operation, special contents. *Dtypes* are those of the image, of the
grid and parameters, and of the guide array.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilateral_ops import CurvesGuide, LumaGuide, NNGuide, _samples
from bilateral_ops.hdrnet._config import Config, shapes
from bilateral_ops.ops import OPERATIONS
from bilateral_ops.reference import numpy as reference

try:
    from ml_dtypes import bfloat16, finfo
except ImportError:  # it has no wheels for musl: BF16 is a stand-in, and conftest.py skips what has it for a parameter
    bfloat16, finfo = [("bfloat16", np.uint16)], np.finfo

F16, BF16, F32, F64 = map(np.dtype, (np.float16, bfloat16, np.float32, np.float64))
HAS_BF16 = BF16.fields is None
U8, U16 = map(np.dtype, (np.uint8, np.uint16))

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
#: Whether this is `nox -s sanitize`.
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")

# ---------------------------------------------------------------------------------------------------------------------
# Subjects and dtypes
# ---------------------------------------------------------------------------------------------------------------------

GUIDES = {
    "enhance(curves)": ("guide_curves", CurvesGuide),
    "enhance(nn)": ("guide_nn", NNGuide),
    "enhance(luma)": ("guide_luma", LumaGuide),
}
SUBJECTS = (*(name for name in OPERATIONS if name != "enhance"), *GUIDES)
DIFFERENTIABLE = tuple(name for name, operation in OPERATIONS.items() if operation.vjp is not None)
SAMPLED = ("slice", "slice_apply", "splat")  # they take a guide array, xy, window and align_corners
WINDOWED = (*SAMPLED, *GUIDES)
OPTIONAL = ("xy", "index")  # arrays that are passed by keyword
NUMBERS = ("grid_shape", "size")  # arguments that say the result's shape; a VJP has the gradient's
WITH_GRID = ("slice", "slice_apply", "total_variation", *GUIDES)


def operation(subject: str) -> str:
    """The name of the subject's operation."""
    return subject.partition("(")[0]


class Dtypes(NamedTuple):
    image: np.dtype  # of the image, and so of the result; of everything where there is no image
    rest: np.dtype  # of the grid, coefficients and parameters
    guide: np.dtype  # of the guide array and xy

    def __str__(self) -> str:
        return "-".join(dict.fromkeys(dtype.name for dtype in self))


ALL_F32, ALL_F64 = Dtypes(F32, F32, F32), Dtypes(F64, F64, F64)


def dtypes_of(subject: str) -> list[Dtypes]:
    """Every combination of dtypes that the subject takes, and NumPy has here."""
    halves = (F16, BF16) if HAS_BF16 else (F16,)
    one_dtype = [ALL_F32, ALL_F64, *(Dtypes(half, half, half) for half in halves)]
    if subject in ("slice", "splat", "total_variation"):
        return one_dtype
    integers = [Dtypes(image, F32, F32) for image in (U8, U16)]
    if subject in ("guide_luma", "resize_area"):
        return one_dtype + integers
    beside_f32 = [Dtypes(half, F32, F32) for half in halves] + integers
    if subject == "slice_apply":
        beside_f32 += [Dtypes(half, F32, half) for half in halves]
    return one_dtype + beside_f32


# ---------------------------------------------------------------------------------------------------------------------
# Cases
# ---------------------------------------------------------------------------------------------------------------------

WIDTHS = (1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 65, 127, 129, 257)  # around multiples of a vector
WINDOW = {"H": 5, "W": 19, "window": (3, 8, 11, 40)}

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "batched": {"N": 2},
    "batched rows": {"N": 3, "H": 1, "W": 33},
    "3 to 4": {"Co": 4},
    "4 to 3": {"Ci": 4},
    "1 to 1": {"Co": 1, "Ci": 1},
    "3 to 9": {"Co": 9, "W": 18},
    "no offset": {"offset": False, "W": 21},
    "no offset 4 to 3": {"offset": False, "Ci": 4},
    # The same with many pixels between two columns of cells.
    "wide": {"W": 45},
    "wide batched": {"N": 2, "W": 61, "Gd": 16},
    "wide 3 to 4": {"Co": 4, "W": 45},
    "wide 4 to 3": {"Ci": 4, "W": 41},
    "wide 1 to 1": {"Co": 1, "Ci": 1, "W": 39, "Gd": 9},
    "wide 3 to 9": {"Co": 9, "W": 50},
    "wide no offset": {"offset": False, "W": 43, "Gd": 8},
    "wide no offset 4 to 3": {"offset": False, "Ci": 4, "W": 70, "Gd": 13},
    "wide many channels": {"C": (70,), "W": 40},
    # Bands and columns that have sums of few depths
    "wide and flat": {"W": 45, "Gd": 16, "guide_range": (0.4, 0.5)},
    # Spans of more pixels than a tile has, of few depths and of many; more in a column than float32 sums take.
    "long": {"H": 9, "W": 300, "Gh": 2, "Gw": 1, "Gd": 2},
    "long and deep": {"H": 9, "W": 300, "Gh": 2, "Gw": 2, "Gd": 16},
    "depth 1": {"Gd": 1, "W": 17},
    "depth 2": {"Gd": 2, "W": 49},
    "depth 8": {"Gd": 8, "W": 33},
    "depth 16": {"Gd": 16, "W": 97},
    "depth 17": {"Gd": 17, "W": 50},
    "depth 40": {"Gd": 40, "N": 1},
    "one cell": {"Gh": 1, "Gw": 1, "Gd": 1},
    "one column": {"Gw": 1, "W": 40},
    "ones": {"ones": True},
    "grid over image": {"H": 2, "W": 3, "Gh": 7, "Gw": 9, "Gd": 6, "guide_range": (-1.0, 2.0)},
    "grid as image": {"H": 4, "W": 33, "Gh": 4, "Gw": 33},
    "single pixel": {"H": 1, "W": 1},
    "single pixel, one cell": {"H": 1, "W": 1, "Gh": 1, "Gw": 1, "Gd": 1, "Co": 1, "Ci": 1},
    "no batch": {"N": 0},
    "no rows": {"N": 2, "H": 0},
    "no columns": {"W": 0},
    "one channel axis": {"C": (5,), "W": 35},
    "one channel": {"C": (1,), "N": 2},
    "two channel axes": {"C": (2, 3), "N": 2},
    "many channels": {"C": (100,)},
    "many inputs": {"Ci": 20, "N": 2},
    "wide many inputs": {"Ci": 11, "W": 45},
    "one knot": {"K": 1},
    "many knots": {"K": 16, "W": 19},
    "one feature": {"F": 1},
    "many features": {"F": 33, "W": 19},
    "saturated": {"saturated": True, "W": 19},
    "guide in [0, 1]": {"guide_range": (0.0, 1.0), "W": 19},
    "guide far outside": {"guide_range": (-3.0, 4.0), "W": 19},
    "guide on knots": {"on_knots": True, "Gd": 4, "W": 19},
    "guide on knots, corners": {"on_knots": True, "Gd": 5, "W": 19, "align_corners": True},
    "xy": {"xy": True, "W": 19},
    "xy batched": {"xy": True, "N": 2, "H": 3, "W": 33},
    "xy corners": {"xy": True, "align_corners": True, "N": 1},
    "xy depth 1": {"xy": True, "Gd": 1, "Gh": 1},
    # Coordinates of rows and columns, which kernels may look up as they do pixels.
    "xy raster": {"xy": True, "raster": True, "W": 19},
    "xy raster batched": {"xy": True, "raster": True, "N": 2, "H": 3, "W": 33, "Gd": 17},
    "xy raster corners": {"xy": True, "raster": True, "align_corners": True, "N": 2, "W": 61, "Gd": 8},
    "xy raster wide": {"xy": True, "raster": True, "Ci": 4, "Co": 2, "H": 17, "W": 70, "Gd": 13},
    "xy raster deep": {"xy": True, "raster": True, "H": 17, "W": 70, "Gd": 18},
    "xy raster of one pixel": {"xy": True, "raster": True, "H": 1, "W": 1},
    # Grids that are named. Small images with coordinates of their own, and pixels, are sorted by grid.
    "index": {"index": "images", "N": 3, "M": 4},
    "index wide": {"index": "images", "N": 3, "M": 2, "H": 5, "W": 61, "Gd": 8},
    "index of one grid": {"index": "images", "N": 2, "M": 1, "Co": 4, "align_corners": True},
    "index, no images": {"index": "images", "N": 0, "M": 2},
    "index xy": {"index": "images", "xy": True, "N": 40, "M": 7, "H": 1, "W": 1},
    "index xy of large images": {"index": "images", "xy": True, "N": 3, "M": 3, "H": 65, "W": 67},
    "index of pixels": {"index": "pixels", "xy": True, "N": 2, "M": 5, "H": 3, "W": 33},
    "index of pixels corners": {"index": "pixels", "xy": True, "N": 1, "M": 9, "H": 1, "W": 70, "align_corners": True},
    "index of pixels, no rows": {"index": "pixels", "xy": True, "N": 2, "M": 2, "H": 0},
    "corners": {"align_corners": True, "W": 37},
    "corners, one cell": {"align_corners": True, "Gh": 1, "Gw": 1, "Gd": 1},
    "corners, single pixel": {"align_corners": True, "H": 1, "W": 1},
    "window": WINDOW,
    "window batched": {"N": 2, **WINDOW},
    "window corners": {"align_corners": True, **WINDOW},
    # Pixels where they aren't by default
    "centers": {"rule": "centers", "align_corners": True, "W": 37},
    "centers wide": {"rule": "centers", "align_corners": True, "N": 2, "H": 17, "W": 61, "Gd": 8},
    "centers, one cell": {"rule": "centers", "align_corners": True, "Gh": 1, "Gw": 1, "Gd": 1},
    "centers, single pixel": {"rule": "centers", "align_corners": True, "H": 1, "W": 1},
    "centers, grid over image": {"rule": "centers", "align_corners": True, "H": 2, "W": 3, "Gh": 7, "Gw": 9},
    "centers, grid as image": {"rule": "centers", "align_corners": True, "H": 4, "W": 33, "Gh": 4, "Gw": 33},
    "centers, window": {"rule": "centers", "align_corners": True, **WINDOW},
    "centers, large": {"rule": "centers", "align_corners": True, "H": 300, "W": 70},
    "pixel corners": {"rule": "corners", "W": 37},
    "pixel corners wide": {"rule": "corners", "N": 2, "H": 17, "W": 61, "Gd": 8},
    "pixel corners, one cell": {"rule": "corners", "Gh": 1, "Gw": 1, "Gd": 1},
    "pixel corners, single pixel": {"rule": "corners", "H": 1, "W": 1},
    "pixel corners, grid over image": {"rule": "corners", "H": 2, "W": 3, "Gh": 7, "Gw": 9},
    "pixel corners, grid as image": {"rule": "corners", "H": 4, "W": 33, "Gh": 4, "Gw": 33},
    "pixel corners, window": {"rule": "corners", **WINDOW},
    "pixel corners, large": {"rule": "corners", "H": 300, "W": 70},
    "pixel corners, window of the end": {
        "rule": "corners",
        "H": 2,
        "W": 3,
        "Gw": 7,
        "window": (2**33 - 2, 2**40 - 3, 2**33, 2**40),
    },
    "window of the end": {"H": 2, "W": 3, "Gw": 7, "window": (2**33 - 2, 2**40 - 3, 2**33, 2**40)},
    **{f"width {w}": {"H": 2, "W": w, "Gw": 3 if w < 100 else 16} for w in WIDTHS},
    "one long row": {"H": 1, "W": 3001, "Gw": 5},
    "one long column": {"H": 1399, "W": 1, "Gh": 6},  # most bands, of tiles of one pixel
    "large": {"N": 2, "H": 71, "W": 163, "Gh": 9, "Gw": 16, "Gd": 8},
    "large, many bands": {"H": 300, "W": 70},
    # A few pixels per cell, which may be summed in the result itself.
    "large, many cells": {"N": 2, "H": 71, "W": 163, "Gh": 29, "Gw": 70, "Gd": 3, "Co": 2},
    "window over many cells": {"H": 30, "W": 45, "Gh": 20, "Gw": 30, "window": (31, 17, 80, 90)},
    "size as the image": {"W": 33, "size": (6, 33)},
    "a few pixels to one": {"N": 2, "H": 9, "W": 11, "size": (1, 1)},
    "a row and a column less": {"H": 9, "W": 11, "size": (8, 10)},
    "half the size": {"N": 2, "H": 10, "W": 36, "size": (5, 18)},
    "rows in parts": {"H": 5, "W": 340, "size": (3, 100)},
    "to one pixel": {"H": 97, "W": 131, "size": (1, 1)},
    "to one row": {"H": 70, "W": 50, "size": (1, 70)},
    "enlarged": {"N": 2, "size": (17, 61)},
    "enlarged, whole ratio": {"Ci": 1, "size": (18, 21)},
    "enlarged across": {"H": 40, "W": 5, "Ci": 4, "size": (7, 80)},
    "enlarged down": {"H": 5, "W": 80, "Ci": 2, "size": (37, 9)},
    "enlarged far": {"H": 2, "W": 2, "Ci": 5, "size": (75, 1100)},
    "one pixel enlarged": {"H": 1, "W": 1, "size": (3, 5)},
    "a little smaller": {"H": 32, "W": 130, "size": (31, 129)},
    "many rows": {"H": 600, "W": 70, "size": (2, 3)},
    "long rows": {"H": 3, "W": 7001, "size": (2, 3)},
    "to float16": {"dtype": "float16"},
    "to bfloat16, enlarged": {"size": (17, 61), "dtype": "bfloat16"},
    "to float32": {"N": 2, "H": 9, "W": 11, "dtype": "float32"},
    "to float32, enlarged": {"size": (17, 61), "dtype": "float32"},
    "to float64, enlarged": {"N": 2, "size": (9, 13), "dtype": "float64"},
    "to float64, many channels": {"Ci": 20, "size": (9, 15), "dtype": "float64"},
    "to float64, many rows": {"H": 600, "W": 70, "size": (2, 3), "dtype": "float64"},
}


_SIZE, _GRID, _MATRIX = {"N", "H", "W"}, {"Gh", "Gw", "Gd", "ones"}, {"Co", "Ci", "offset"}
_CURVES, _NN, _WINDOW = {"K"}, {"F", "saturated"}, {"window", "align_corners", "rule"}
_INDEX = {"index", "M"}
_SAMPLING = {"guide_range", "on_knots", "xy", "raster"} | _WINDOW
_ENHANCE = _SIZE | _GRID | _MATRIX | _WINDOW
#: Options that a case is for: it says nothing new about what does not take them. The others are sizes.
_FOR = {"offset", "ones", "C", "on_knots", "xy", "raster", "index", "size", "dtype"} | _CURVES | _NN | _WINDOW
_SPECIAL = ("ones", "on_knots", "raster", "saturated", "window", "align_corners", "rule", "dtype")
OPTIONS = {
    "slice": _SIZE | _GRID | _MATRIX | {"C"} | _SAMPLING | _INDEX,
    "apply": _SIZE | _MATRIX,
    "slice_apply": _SIZE | _GRID | _MATRIX | _SAMPLING | _INDEX,
    "guide_curves": _SIZE | {"Ci"} | _CURVES,
    "guide_nn": _SIZE | {"Ci"} | _NN,
    "guide_luma": _SIZE,
    "splat": (_SIZE | _GRID | _MATRIX | {"C"} | _SAMPLING) - {"ones"},
    "total_variation": {"N", "C"} | _GRID | _MATRIX | _INDEX,
    "resize_area": _SIZE | {"Ci", "size", "dtype"},
    "enhance(curves)": _ENHANCE | _CURVES,
    "enhance(nn)": _ENHANCE | _NN,
    "enhance(luma)": _ENHANCE - {"Ci"},
}
#: Axes of arguments, and of a gradient, that may have any size (batched, with Co = 4 and no offset column).
FREE: dict[str, dict[str, tuple[int, ...]]] = {
    "slice": {"grid": (1, 2, 3, 4, 5)},
    "apply": {"coefficients": (3, 4)},
    "slice_apply": {"grid": (1, 2, 3, 4, 5)},
    "guide_curves": {"image": (0, 1, 2)},
    "guide_nn": {"image": (0, 1, 2)},
    "guide_luma": {"image": (0, 1, 2)},
    "splat": {"values": (3, 4), "grad": (1, 2, 3)},
    "total_variation": {"grid": (0, 1, 2, 3, 4, 5)},
    "resize_area": {"image": (0, 1, 2, 3), "grad": (1, 2)},
    **{key: {"grid": (1, 2, 3, 4, 5), "image": (1, 2)} for key in GUIDES},
}


@functools.cache
def cases_of(subject: str) -> dict[str, dict[str, Any]]:
    """The cases for this subject that differ from one another, with the options that matter to it."""
    chosen: dict[str, dict[str, Any]] = {}
    for name, options in CASES.items():
        if not _FOR & set(options) <= OPTIONS[subject]:
            continue
        relevant = {key: value for key, value in options.items() if key in OPTIONS[subject]}
        if subject == "resize_area" and 0 in (relevant.get("H"), relevant.get("W")):
            continue  # there is nothing to be averaged
        if relevant.get("dtype") == "bfloat16" and not HAS_BF16:
            continue
        if relevant not in chosen.values():
            chosen[name] = relevant
    return chosen


def arguments(subject: str, dtypes: Dtypes = ALL_F64, **options: Any) -> dict[str, Any]:
    """The subject's arguments by name, for a case's options."""
    special = {key: options.pop(key, None) for key in _SPECIAL}
    options = {"image_dtype": dtypes.image, "dtype": dtypes.rest, **options}
    if subject in GUIDES:
        guide, record = GUIDES[subject]
        parameters = _samples.arguments(guide, **options)
        image = parameters.pop("image")
        grid = _samples.arguments("slice_apply", **options)["grid"]
        result = {"grid": grid, "guide": record(**_saturated(parameters, special["saturated"])), "image": image}
    else:
        result = _saturated(_samples.arguments(subject, **options), special["saturated"])

    for name in ("grid", "coefficients"):
        if name in result and dtypes.image.kind == "u":  # near the identity, so that few results saturate
            matrix = result[name]
            result[name] = (np.eye(*matrix.shape[-2:]) + 0.1 * matrix.astype(F64)).astype(matrix.dtype)
        if name in result and special["ones"]:
            result[name] = np.ones_like(result[name])
    if subject == "total_variation" and options.get("N") == 0:
        emptied = "index" if "index" in result else "grid"
        result[emptied] = result[emptied][:0]
    if subject in SAMPLED:
        if special["on_knots"]:
            depth = result["grid_shape"][2] if subject == "splat" else options["Gd"]
            knots = np.arange(result["guide"].size).reshape(result["guide"].shape) % depth
            result["guide"] = knots / (depth - 1) if special["align_corners"] else (knots + 0.5) / depth
        if special["raster"]:
            xy = result["xy"]
            first = xy.reshape(-1, *xy.shape[-3:])[0]
            xy[..., 0], xy[..., 1] = np.sort(first[0, :, 0]), np.sort(first[:, 0, 1])[:, None]
        for name in {"guide", "xy"} & set(result):
            result[name] = result[name].astype(dtypes.guide)
    return result


def _saturated(parameters: dict[str, Any], saturated: bool | None) -> dict[str, Any]:
    """Of guide_nn: with a sigmoid that is nearly flat."""
    return {**parameters, "b2": np.asarray(9, parameters["b2"].dtype)} if saturated else parameters


def keywords_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The operation's own keywords among a case's options."""
    keywords = {key: value for key, value in options.items() if key in ("window", "align_corners", "dtype")}
    return keywords | ({"xy": options["rule"]} if "rule" in options else {})


def result_dtype(subject: str, dtypes: Dtypes, dtype: str | None = None) -> np.dtype:
    """The dtype of a result; ``dtype`` is the keyword."""
    if dtype is not None:
        return np.dtype(dtype)
    return F32 if subject.startswith("guide") and dtypes.image.kind == "u" else dtypes.image


def random_like(shape: tuple[int, ...], dtype: np.dtype, seed: int = 1) -> Any:
    """Random values, such as the gradient of an output."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Calls
# ---------------------------------------------------------------------------------------------------------------------


def forward(module: Any, subject: str, arguments: Mapping[str, Any], **keywords: Any) -> Any:
    positional = [value for name, value in arguments.items() if name not in OPTIONAL]
    keywords |= {name: arguments[name] for name in OPTIONAL if name in arguments}
    return getattr(module, operation(subject))(*positional, **keywords)


def backward(module: Any, subject: str, arguments: Mapping[str, Any], grad: Any, **keywords: Any) -> Any:
    positional = [value for name, value in arguments.items() if name not in (*OPTIONAL, *NUMBERS)]
    keywords |= {name: arguments[name] for name in OPTIONAL if name in arguments}
    return getattr(module, f"{operation(subject)}_vjp")(*positional, grad, **keywords)


def fields(record: Any) -> dict[str, Any]:
    """The parameters in a guide record."""
    for names in (("ccm", "ccm_bias", "shifts", "slopes", "mix", "mix_bias"), ("w1", "b1", "w2", "b2")):
        if hasattr(record, names[0]):
            return {name: getattr(record, name) for name in names}
    return {}


def arrays(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every array among the arguments; those of a guide record as ``guide.ccm``."""
    found = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    return found | {f"guide.{name}": value for name, value in fields(arguments.get("guide")).items()}


def replaced(arguments: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The arguments with some of :func:`arrays` exchanged."""
    result = {name: changes.get(name, value) for name, value in arguments.items()}
    inside = {name[len("guide.") :]: value for name, value in changes.items() if name.startswith("guide.")}
    if inside:
        record = arguments["guide"]
        result["guide"] = type(record)(**{**fields(record), **inside})
    return result


def _as_float64(array: Any) -> Any:
    if array.dtype.kind == "i":
        return array
    return array.astype(F64) / np.iinfo(array.dtype).max if array.dtype.kind == "u" else array.astype(F64)


def as_float64(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same values in float64, for the reference: integer images as v/255 or v/65535."""
    return replaced(arguments, **{name: _as_float64(array) for name, array in arrays(arguments).items()})


# ---------------------------------------------------------------------------------------------------------------------
# The tolerance table
# ---------------------------------------------------------------------------------------------------------------------


class Tolerance(NamedTuple):
    forward: float  # of the largest result
    backward: float  # of the L2 norm of the absolute contributions


#: By what is computed in: float64 for float64, float32 for every other dtype.
TOLERANCE = {F32: Tolerance(1e-5, 2e-5), F64: Tolerance(1e-12, 1e-10)}
#: How near to a tie, as a share of full scale, an integer result may be one level off: sixteen float32 roundings at 1.
#: 0.0003 levels of uint8, 0.07 of uint16.
NEAR_TIE = 1e-6


def tolerance(dtype: Any) -> Tolerance:
    return TOLERANCE[F64 if np.dtype(dtype) == F64 else F32]


def half_ulp(values: Any, dtype: Any) -> Any:
    """How far storing these float64 values in 16 bits may move them; 0 for wider dtypes, which are computed in."""
    if np.dtype(dtype) not in (F16, BF16):
        return np.zeros_like(values)
    info = finfo(dtype)
    exponent = np.frexp(values)[1] - 1
    return np.ldexp(0.5, np.maximum(exponent, info.minexp) - info.nmant)


def _assert_dtype_and_shape(got: Any, dtype: Any, shape: tuple[int, ...], where: str) -> None:
    assert isinstance(got, np.ndarray), f"{where}: {type(got)}"
    assert (got.dtype, got.shape) == (dtype, shape), where


def assert_forward(got: Any, want: Any, dtype: Any, where: str = "") -> None:
    """``got``, of this dtype, is the unrounded float64 ``want`` to the table's tolerance."""
    _assert_dtype_and_shape(got, dtype, want.shape, where)
    if got.size == 0:
        return
    if got.dtype.kind == "u":
        top = np.iinfo(got.dtype).max
        level = np.clip(want * top, 0, top)
        near_tie = np.abs(level % 1 - 0.5) < NEAR_TIE * top
        error = np.abs(got.astype(np.int64) - np.rint(level))
        wrong = np.argwhere(error > near_tie)
    else:
        error = np.abs(got.astype(F64) - want)
        bound = tolerance(dtype).forward * np.abs(want).max() + half_ulp(want, dtype)
        wrong = np.argwhere(~(error <= bound))
    assert len(wrong) == 0, (
        f"{where}: {len(wrong)} of {got.size} differ, first at {tuple(wrong[0])}: "
        f"got {got[tuple(wrong[0])]}, reference {want[tuple(wrong[0])]}"
    )


def assert_gradient(got: Any, want: Any, contributions: Any, dtype: Any, where: str = "") -> None:
    """``got``, of this dtype, is the float64 ``want`` to the table's tolerance."""
    _assert_dtype_and_shape(got, dtype, want.shape, where)
    error = np.linalg.norm(got.astype(F64) - want)
    bound = tolerance(dtype).backward * np.linalg.norm(contributions) + np.linalg.norm(half_ulp(want, dtype))
    assert error <= bound, f"{where}: gradient off by {error:.3g}, allowed {bound:.3g}"


def assert_same_bits(got: Any, want: Any, where: str = "") -> None:
    assert (got is None) == (want is None), where
    if want is None:
        return
    got, want = np.asarray(got), np.asarray(want)
    _assert_dtype_and_shape(got, want.dtype, want.shape, where)
    got, want = (np.ascontiguousarray(a).reshape(-1).view(f"u{a.dtype.itemsize}") for a in (got, want))
    wrong = np.flatnonzero(got != want)
    assert len(wrong) == 0, f"{where}: {len(wrong)} of {want.size} differ in their bits, first at flat index {wrong[0]}"


# ---------------------------------------------------------------------------------------------------------------------
# Kinks, and what a gradient's tolerance is relative to
# ---------------------------------------------------------------------------------------------------------------------


def kink_distance(name: str, arguments: Mapping[str, Any], align_corners: bool = False) -> Any:
    """Per pixel of float64 arguments, the distance to the nearest kink; None for an operation without kinks."""
    a = arguments
    if name in SAMPLED:
        sizes = a["grid_shape"] if name == "splat" else a["grid"].shape[a["guide"].ndim - 2 :][:3]
        coordinates = [(a["guide"], sizes[2])]
        if "xy" in a:
            coordinates += [(a["xy"][..., 0], sizes[1]), (a["xy"][..., 1], sizes[0])]
        distance = np.full(a["guide"].shape, np.inf)
        for u, size in coordinates:
            p = u * (size - 1) if align_corners else u * size - 0.5
            if size > 1:
                distance = np.minimum(distance, np.abs(p - np.rint(p)))
        return distance
    if name == "guide_curves":
        q = np.einsum("ij,...j->...i", a["ccm"], a["image"]) + a["ccm_bias"]
        t = q[..., None] - a["shifts"]
        s = np.einsum("i,ik,...ik->...", a["mix"], a["slopes"], np.maximum(t, 0)) + a["mix_bias"]
        return np.minimum(np.abs(t).min((-1, -2)), np.minimum(np.abs(s), np.abs(s - 1)))
    if name == "guide_nn":
        return np.abs(np.einsum("fj,...j->...f", a["w1"], a["image"]) + a["b1"]).min(-1)
    return None


def clear_of_kinks(name: str, arguments: Mapping[str, Any], align_corners: bool = False) -> dict[str, Any]:
    """The arguments, with every pixel near a kink replaced by one that is not."""
    result = dict(arguments)
    distance = kink_distance(name, as_float64(arguments), align_corners)
    if distance is None or distance.size == 0 or distance.min() > 1e-5:
        return result
    good = distance > 1e-5
    donor = tuple(np.argwhere(good)[0])
    for pixelwise in ("guide", "xy") if name in SAMPLED else ("image",):
        if pixelwise in result:
            result[pixelwise] = np.array(result[pixelwise])
            result[pixelwise][~good] = result[pixelwise][donor]
    return result


def contributions(name: str, arguments: Mapping[str, Any], grad: Any, **keywords: Any) -> dict[str, Any]:
    """For every element of every gradient, the sum of the absolute values of the terms that it is a sum of.

    Exact, for float64 arguments. Where all weights are positive the reference's own gradient at absolute values is
    that sum. A slope along a grid axis subtracts neighbouring cells; with absolute values whose signs alternate along
    that axis it adds them. The guides' terms are written out, at the slopes that the kinks really have.
    """
    a = arguments
    if name in ("guide_curves", "guide_nn"):
        return _guide_contributions(name, a, grad)
    positive = {k: v if k in ("guide", "xy", *NUMBERS) else np.abs(v) for k, v in a.items()}
    table, cells = ("grad", np.abs(grad)) if name == "splat" else ("grid", positive.get("grid"))

    def gradients(*alternating: int) -> Any:
        given = {**positive, "grad": np.abs(grad)}
        first = a["guide"].ndim - 2 if name in SAMPLED else 1  # the grid's first axis after the batch
        for axis in alternating:
            signs = 1 - 2 * (np.arange(cells.shape[first + axis]) % 2)
            given[table] = given[table] * signs.reshape(-1, *(1,) * (cells.ndim - first - axis - 1))
        return backward(reference, name, given, given.pop("grad"), **keywords)

    if name == "total_variation":
        return {"grid": np.abs(gradients(0, 1, 2).grid)}
    result = gradients()._asdict()
    if name in SAMPLED:
        result["guide"] = np.abs(gradients(2).guide)
        if "xy" in a:
            result["xy"] = np.abs(np.stack([gradients(1).xy[..., 0], gradients(0).xy[..., 1]], -1))
    return result


def _guide_contributions(name: str, a: Mapping[str, Any], grad: Any) -> dict[str, Any]:
    image, d = a["image"].reshape(-1, a["image"].shape[-1]), np.abs(grad).reshape(-1)
    if name == "guide_nn":
        h = image @ a["w1"].T + a["b1"]
        s = np.maximum(h, 0) @ a["w2"] + a["b2"]
        d = d / (2 + np.exp(s) + np.exp(-s))
        dh = d[:, None] * np.abs(a["w2"]) * (h > 0)
        return {
            "image": (dh @ np.abs(a["w1"])).reshape(a["image"].shape),
            "w1": dh.T @ np.abs(image),
            "b1": dh.sum(0),
            "w2": d @ np.maximum(h, 0),
            "b2": d.sum(),
        }
    t = (image @ a["ccm"].T + a["ccm_bias"])[..., None] - a["shifts"]
    s = np.einsum("i,ik,pik->p", a["mix"], a["slopes"], np.maximum(t, 0)) + a["mix_bias"]
    d = d * ((s > 0) & (s < 1))
    dc = d[:, None] * np.abs(a["mix"])
    terms = dc[..., None] * np.abs(a["slopes"]) * (t > 0)
    dq = terms.sum(-1)
    return {
        "image": (dq @ np.abs(a["ccm"])).reshape(a["image"].shape),
        "ccm": dq.T @ np.abs(image),
        "ccm_bias": dq.sum(0),
        "shifts": terms.sum(0),
        "slopes": np.einsum("pi,pik->ik", dc, np.maximum(t, 0)),
        "mix": np.einsum("p,ik,pik->i", d, np.abs(a["slopes"]), np.maximum(t, 0)),
        "mix_bias": d.sum(),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Expected answers
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A call, and the reference's results for the same arguments."""

    arguments: dict[str, Any]
    keywords: dict[str, Any]
    dtype: np.dtype  # of the result
    result: Any  # float64, unrounded
    grad: Any = None
    gradients: Any = None
    contributions: Any = None


#: The environment variable that names a folder for the reference's answers. conftest.py sets it, so that they are
#: computed once for all processes, and again where one of these sources changes.
ANSWERS = "EXPECTED_ANSWERS"
MOST_KEPT = 100_000  # bytes of an answer: the few that are larger would take most of the room
SOURCES = hashlib.blake2b(digest_size=16)
for _source in (__file__, reference.__file__):
    SOURCES.update(Path(_source).read_bytes())
SOURCES.update(f"{reference.__name__}, NumPy {np.__version__}, Python {sys.version}".encode())


def _answer(compute: Callable[[], Any], subject: str, given: Mapping[str, Any], *more: Any) -> Any:
    """What ``compute`` returns, from the folder of answers if it is there: by all that it depends on."""
    if not (folder := os.environ.get(ANSWERS)):
        return compute()
    question = SOURCES.copy()
    question.update(repr((subject, [(n, v) for n, v in given.items() if n in NUMBERS], more)).encode())
    for name, array in arrays(given).items():
        question.update(repr((name, array.dtype, array.shape)).encode() + array.tobytes())
    file = Path(folder, question.hexdigest())
    with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError):
        return pickle.loads(file.read_bytes())
    result = compute()
    answer = pickle.dumps(result)
    if len(answer) <= MOST_KEPT:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as written:
            written.write(answer)
        os.replace(written.name, file)  # other processes see all of it or nothing
    return result


@functools.cache
def forward_example(subject: str, case: str, dtypes: Dtypes) -> Example:
    options = cases_of(subject)[case]
    given, keywords = arguments(subject, dtypes, **options), keywords_of(options)
    dtype = result_dtype(subject, dtypes, keywords.get("dtype"))
    return Example(given, keywords, dtype, _result(subject, given, keywords))


def _result(subject: str, given: dict[str, Any], keywords: dict[str, Any]) -> Any:
    return _answer(lambda: forward(reference, subject, as_float64(given), **keywords), subject, given, keywords)


@functools.cache
def backward_example(subject: str, case: str, dtypes: Dtypes) -> Example:
    options = cases_of(subject)[case]
    keywords = keywords_of(options)
    given = clear_of_kinks(subject, arguments(subject, dtypes, **options), keywords.get("align_corners", False))
    result = _result(subject, given, keywords)
    dtype = result_dtype(subject, dtypes, keywords.get("dtype"))
    grad = random_like(result.shape, F32 if dtype.kind == "u" else dtype)

    def differentiate() -> tuple[Any, Any]:
        exact, exact_grad = as_float64(given), grad.astype(F64)
        gradients = backward(reference, subject, exact, exact_grad, **keywords)
        return gradients, contributions(subject, exact, exact_grad, **keywords)

    gradients, bounds = _answer(differentiate, subject, given, keywords, "gradients", str(dtype))
    return Example(given, keywords, grad.dtype, result, grad, gradients, bounds)


# ---------------------------------------------------------------------------------------------------------------------
# Layouts
# ---------------------------------------------------------------------------------------------------------------------

#: Ways to lay an array out in memory: keywords of :class:`Vessel`.
LAYOUTS: dict[str, dict[str, Any]] = {
    "channels first": {"order": "channels first"},
    "Fortran": {"order": "reversed"},
    "flipped": {"steps": -1},
    "cropped": {"margin": 2},
    "every other": {"steps": 2},
    "unaligned": {"offset": 1},
    "all at once": {"order": "reversed", "steps": -2, "margin": 1, "offset": 3},
}


class Vessel:
    """An array laid out as told, inside a buffer whose other bytes are 0xFF (NaN in every float dtype)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        *,
        order: str | tuple[int, ...] = "C",
        steps: int | tuple[int, ...] = 1,
        margin: int = 0,
        offset: int = 0,
    ):
        rank, dtype = len(shape), np.dtype(dtype)
        named = {"C": range(rank), "reversed": range(rank)[::-1], "channels first": (rank - 1, *range(rank - 1))}
        order = (tuple(named[order]) if rank else ()) if isinstance(order, str) else order
        steps = (steps,) * rank if isinstance(steps, int) else steps
        full = [n * abs(step) + 2 * margin for n, step in zip(shape, steps, strict=True)]
        self._buffer = np.full(offset + int(np.prod(full)) * dtype.itemsize, 0xFF, np.uint8)
        memory = self._buffer[offset:].view(f"u{dtype.itemsize}")
        whole = memory.reshape([full[axis] for axis in order]).transpose(np.argsort(np.array(order, int)))
        inside = (slice(margin, margin + n * abs(s), abs(s)) for n, s in zip(shape, steps, strict=True))
        ways = (slice(None, None, -1 if step < 0 else 1) for step in steps)
        self._bits = whole[(*inside, ...)][(*ways, ...)]
        self.array = self._bits.view(dtype)
        assert self.array.shape == shape

    def untouched_outside(self) -> bool:
        """Whether nothing but the array was written to. Erases the array."""
        self._bits[...] = np.iinfo(self._bits.dtype).max
        return bool((self._buffer == 0xFF).all())


def laid_out(array: Any, layout: str) -> Any:
    """A copy with this layout of LAYOUTS."""
    view = Vessel(array.shape, array.dtype, **LAYOUTS[layout]).array
    view[...] = array
    return view


# ---------------------------------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------------------------------


def environment(**changes: str) -> dict[str, str]:
    """What a fresh interpreter that sees this folder is started with; none of the package's own settings."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("BILATERAL_OPS", "OMP_"))}
    path = os.pathsep.join([os.path.dirname(__file__), ours.get("PYTHONPATH", "")])
    return {**ours, "PYTHONPATH": path, **changes}


def indexed(subject: str) -> list[dict[str, Any]]:
    """Of grids picked by index, of either kind, for an image and for a pixel."""
    kinds = [{"N": 2, "index": "images"}, {"N": 2, "index": "pixels", "xy": True}][: 1 + (subject != "total_variation")]
    return kinds if subject in WITH_GRID and "enhance" not in subject else []


def python(code: str, *, timeout: float = 180, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter that sees this folder; a script that hangs fails."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=timeout)


def weights_of(config: Config, seed: int = 0) -> dict[str, Any]:
    """Weights of a network that keep the features' size; a model of them makes a visible, not an extreme edit."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes(config).items():
        values = rng.standard_normal(shape)
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 2, shape)
        elif name.endswith("weight"):
            values *= np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("shifts"):
            values = np.sort(rng.random(shape))
        elif not name.endswith((".w1", ".ccm")):
            values *= 0.3
        weights[name] = np.asarray(values, np.float32)
    return weights
