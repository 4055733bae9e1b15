"""Does every wrong call raise, in one sentence, what is wrong with which argument?"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    BF16,
    DIFFERENTIABLE,
    F16,
    F32,
    FREE,
    GUIDES,
    SUBJECTS,
    U8,
    Dtypes,
    LumaGuide,
    arguments,
    arrays,
    assert_same_bits,
    backward,
    finfo,
    forward,
    operation,
    random_like,
    replaced,
)
from numpy.lib.stride_tricks import as_strided

import bilateral_ops

SIZE = {"N": 2, "H": 5, "W": 7}
BYTES, HALF = Dtypes(U8, F32, F32), Dtypes(F16, F32, F32)


def call(subject: str, *, vjp: bool = False, dtypes: Dtypes = ALL_F32, **changes: Any) -> Any:
    """A call with arguments or keywords changed: to a value, or to a function of the right argument."""
    given = arguments(subject, dtypes, **SIZE, xy=changes.pop("with_xy", False))
    if vjp:
        shape = forward(bilateral_ops, subject, given).shape
        given["grad"] = random_like(shape, F32 if dtypes.image.kind == "u" else dtypes.image)
    keywords = {}
    for name, value in changes.items():
        if name in given or name == "xy":
            given[name] = value(given.get(name)) if type(value) is type(call) else value
        else:
            keywords[name] = value
    if vjp:
        return backward(bilateral_ops, subject, given, given.pop("grad"), **keywords)
    return forward(bilateral_ops, subject, given, **keywords)


def assert_sentence(error: BaseException, op: str) -> None:
    """One line, one sentence, the operation first."""
    text = str(error)
    assert re.fullmatch(rf"{op}: [a-z].*[^.\s]\.", text), text
    assert not re.search(r"\n|\. ", text), text


def zeros(*shape: int, dtype: Any = F32) -> Any:
    return np.zeros(shape, dtype)


def to(dtype: Any) -> Callable[[Any], Any]:
    return lambda array: array.astype(dtype)


def with_parameters(**changes: Any) -> Callable[[Any], Any]:
    return lambda guide: replaced({"guide": guide}, **{f"guide.{k}": v for k, v in changes.items()})["guide"]


# ---------------------------------------------------------------------------------------------------------------------
# Sentences, word for word
# ---------------------------------------------------------------------------------------------------------------------

_FLOATS = "float16, bfloat16, float32 or float64"
_IMAGES = "float16, bfloat16, float32, float64, uint8 or uint16"
_GRID = "(N, Gh, Gw, Gd, Co, Ci[+1])"
_COEFFICIENTS = "(N, H, W, Co, Ci[+1])"
_PIXELS = "must have at least one row and one column, got"
_CELLS = "must have 1 to 8388608 cells on every grid axis, got (Gh, Gw, Gd) ="
_ARRAY = "must be a NumPy, CuPy, PyTorch, JAX or TensorFlow array"
_WINDOW = "window (top, left, full_height, full_width) ="

#: Subject, ``_vjp`` or not; what is changed; what is raised.
SENTENCES: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    # Shapes
    (
        "slice",
        {"guide": zeros(3, 64, 64)},
        ValueError,
        "guide must have shape (N, H, W) = (2, *, *) to match grid, got (3, 64, 64).",
    ),
    ("slice", {"guide": zeros(5)}, ValueError, "guide must have shape (H, W) or (N, H, W), got (5,)."),
    ("slice", {"guide": zeros(1, 2, 3, 4)}, ValueError, "guide must have shape (H, W) or (N, H, W), got (1, 2, 3, 4)."),
    ("slice", {"grid": zeros(2, 3, 4, 5)}, ValueError, "grid must have shape (N, Gh, Gw, Gd, *C), got (2, 3, 4, 5)."),
    ("slice", {"grid": zeros(2, 0, 4, 5, 2)}, ValueError, f"grid {_CELLS} (0, 4, 5)."),
    (
        "slice",
        {"xy": zeros(2, 5, 6, 2)},
        ValueError,
        "xy must have shape (N, H, W, 2) = (2, 5, 7, 2) to match grid and guide, got (2, 5, 6, 2).",
    ),
    (
        "slice_vjp",
        {"grad": zeros(2, 5, 7, 3, 3)},
        ValueError,
        "grad must have shape (N, H, W, *C) = (2, 5, 7, 3, 4) to match grid and guide, got (2, 5, 7, 3, 3).",
    ),
    (
        "apply",
        {"coefficients": zeros(2, 5, 6, 3, 4)},
        ValueError,
        "image must have shape (N, H, W, Ci) = (2, 5, 6, *) to match coefficients, got (2, 5, 7, 3).",
    ),
    (
        "apply",
        {"coefficients": zeros(2, 5, 7, 3, 5)},
        ValueError,
        f"coefficients must have shape {_COEFFICIENTS} = (*, *, *, *, 3 or 4) to match image, got (2, 5, 7, 3, 5).",
    ),
    ("apply", {"image": zeros(7, 3)}, ValueError, "image must have shape (H, W, Ci) or (N, H, W, Ci), got (7, 3)."),
    (
        "apply_vjp",
        {"grad": zeros(2, 5, 7, 4)},
        ValueError,
        "grad must have shape (N, H, W, Co) = (2, 5, 7, 3) to match coefficients, got (2, 5, 7, 4).",
    ),
    (
        "slice_apply",
        {"grid": zeros(2, 3, 4, 5, 3, 5)},
        ValueError,
        f"grid must have shape {_GRID} = (*, *, *, *, *, 3 or 4) to match image, got (2, 3, 4, 5, 3, 5).",
    ),
    ("slice_apply", {"grid": zeros(2, 3, 4, 5, 3)}, ValueError, f"grid must have shape {_GRID}, got (2, 3, 4, 5, 3)."),
    (
        "slice_apply",
        {"image": zeros(2, 5, 8, 3)},
        ValueError,
        "image must have shape (N, H, W, Ci) = (2, 5, 7, *) to match grid and guide, got (2, 5, 8, 3).",
    ),
    (
        "guide_curves",
        {"ccm": zeros(3, 4)},
        ValueError,
        "ccm must have shape (Ci, Ci) = (3, 3) to match image, got (3, 4).",
    ),
    (
        "guide_curves",
        {"shifts": zeros(3, 5)},
        ValueError,
        "slopes must have shape (Ci, K) = (3, 5) to match image and shifts, got (3, 4).",
    ),
    ("guide_curves", {"mix_bias": zeros(1)}, ValueError, "mix_bias must have shape (), got (1,)."),
    ("guide_nn", {"b1": zeros(5)}, ValueError, "b1 must have shape (F,) = (4,) to match w1, got (5,)."),
    ("guide_luma", {"image": zeros(2, 5, 7, 4)}, ValueError, "image must have shape (N, H, W, 3), got (2, 5, 7, 4)."),
    ("resize_area", {"image": zeros(3)}, ValueError, "image must have shape (H, W, Ci) or (N, H, W, Ci), got (3,)."),
    ("resize_area", {"image": zeros(2, 0, 7, 3)}, ValueError, f"image {_PIXELS} (H, W) = (0, 7)."),
    ("resize_area", {"size": (0, 3)}, ValueError, f"size {_PIXELS} (h, w) = (0, 3)."),
    ("resize_area", {"size": (4, -1)}, ValueError, f"size {_PIXELS} (h, w) = (4, -1)."),
    ("resize_area", {"size": 4}, TypeError, "size must be two integers (h, w), got 4."),
    ("resize_area", {"size": (4, 3.0)}, TypeError, "size must be two integers (h, w), got (4, 3.0)."),
    ("resize_area", {"size": (4, 3, 2)}, ValueError, "size must be two integers (h, w), got (4, 3, 2)."),
    (
        "resize_area",
        {"size": (10**12, 10**12)},
        ValueError,
        "the result must have a size that memory can have, got (2, 1000000000000, 1000000000000, 3).",
    ),
    (
        "resize_area",
        {"size": (4, 2**60)},
        ValueError,
        "size must have W·w at most 4611686018427387904, got 8070450532247928832.",
    ),
    ("resize_area_vjp", {"grad": zeros(2, 0, 3, 3)}, ValueError, f"grad {_PIXELS} (h, w) = (0, 3)."),
    (
        "resize_area_vjp",
        {"grad": zeros(2, 4, 3, 5)},
        ValueError,
        "grad must have shape (N, h, w, Ci) = (2, *, *, 3) to match image, got (2, 4, 3, 5).",
    ),
    (
        "splat",
        {"values": zeros(2, 5, 8, 3)},
        ValueError,
        "values must have shape (N, H, W, *C) = (2, 5, 7, *) to match guide, got (2, 5, 8, 3).",
    ),
    ("splat", {"grid_shape": (3, 4, 0)}, ValueError, f"grid_shape {_CELLS} (3, 4, 0)."),
    ("splat", {"grid_shape": (2**40, 1, 1)}, ValueError, f"grid_shape {_CELLS} (1099511627776, 1, 1)."),
    ("splat", {"grid_shape": (3, 4)}, ValueError, "grid_shape must be three integers (Gh, Gw, Gd), got (3, 4)."),
    (
        "splat",
        {"grid_shape": (3, 4, 1.5)},
        TypeError,
        "grid_shape must be three integers (Gh, Gw, Gd), got (3, 4, 1.5).",
    ),
    (
        "splat_vjp",
        {"grad": zeros(2, 3, 4, 5, 3)},
        ValueError,
        "grad must have shape (N, Gh, Gw, Gd, *C) = (2, *, *, *, 3, 4) to match guide and values, got (2, 3, 4, 5, 3).",
    ),
    (
        "total_variation",
        {"grid": zeros(3, 4, 5, 2)},
        ValueError,
        "grid must have shape (N, Gh, Gw, Gd, *C), got (3, 4, 5, 2).",
    ),
    (
        "total_variation_vjp",
        {"grad": zeros(3)},
        ValueError,
        "grad must have shape (N,) = (2,) to match grid, got (3,).",
    ),
    (
        "enhance(luma)",
        {"image": zeros(2, 5, 7, 4)},
        ValueError,
        "image must have shape (N, H, W, 3) = (2, *, *, 3) to match grid, got (2, 5, 7, 4).",
    ),
    (
        "enhance(curves)",
        {"guide": with_parameters(ccm=zeros(4, 4))},
        ValueError,
        "ccm must have shape (Ci, Ci) = (3, 3) to match image, got (4, 4).",
    ),
    # Dtypes of numbers
    ("slice", {"grid": to("i4")}, TypeError, f"grid must be {_FLOATS}, got int32."),
    ("slice", {"grid": to(">f4")}, TypeError, f"grid must be {_FLOATS}, got byte-swapped float32."),
    ("slice", {"grid": to(object)}, TypeError, f"grid must be {_FLOATS}, got object."),
    ("slice", {"grid": to("c8")}, TypeError, f"grid must be {_FLOATS}, got complex64."),
    ("slice", {"guide": to("f8")}, TypeError, "guide must be float32 to match grid, got float64."),
    ("slice", {"xy": zeros(2, 5, 7, 2, dtype="f8")}, TypeError, "xy must be float32 to match grid, got float64."),
    ("slice_vjp", {"grad": to("f8")}, TypeError, "grad must be float32 to match grid, got float64."),
    ("slice_apply", {"image": zeros(2, 5, 7, 3, dtype="i2")}, TypeError, f"image must be {_IMAGES}, got int16."),
    (
        "slice_apply",
        {"image": zeros(2, 5, 7, 3, dtype=">u2")},
        TypeError,
        f"image must be {_IMAGES}, got byte-swapped uint16.",
    ),
    ("slice_apply", {"grid": to("f8")}, TypeError, "grid must be float32 to match image, got float64."),
    (
        "slice_apply",
        {"dtypes": BYTES, "grid": to("f8")},
        TypeError,
        "grid must be float32 to match an integer image, got float64.",
    ),
    (
        "slice_apply",
        {"dtypes": BYTES, "guide": to("f2")},
        TypeError,
        "guide must be float32 to match an integer image, got float16.",
    ),
    (
        "slice_apply",
        {"dtypes": Dtypes(BF16, F32, F32), "grid": to(F16)},
        TypeError,
        "grid must be bfloat16 or float32 to match image, got float16.",
    ),
    (
        "slice_apply",
        {"dtypes": HALF, "guide": to("f8")},
        TypeError,
        "guide must be float16 or float32 to match image, got float64.",
    ),
    ("slice_apply", {"dtypes": Dtypes(F16, F16, F32)}, TypeError, "guide must be float16 to match image, got float32."),
    (
        "slice_apply_vjp",
        {"dtypes": HALF, "grad": to("f4")},
        TypeError,
        "grad must be float16 to match image, got float32.",
    ),
    (
        "slice_apply_vjp",
        {"dtypes": BYTES, "grad": to("f8")},
        TypeError,
        "grad must be float32 to match an integer image, got float64.",
    ),
    ("guide_nn", {"w2": to("f8")}, TypeError, "w2 must be float32 to match image, got float64."),
    ("guide_nn", {"b2": True}, TypeError, "b2 must be a real number, got bool."),
    (
        "enhance(nn)",
        {"guide": with_parameters(w1=zeros(4, 3, dtype="f8"))},
        TypeError,
        "w1 must be float32 to match image, got float64.",
    ),
    # Dtypes of objects
    ("slice", {"guide": [[1.0]]}, TypeError, f"guide {_ARRAY}, got list; pass np.asarray(guide, np.float32)."),
    ("slice", {"grid": None}, TypeError, f"grid {_ARRAY}, got NoneType."),
    ("slice_apply", {"image": 3.0}, TypeError, f"image {_ARRAY}, got float."),
    ("slice_apply_vjp", {"grad": None}, TypeError, f"grad {_ARRAY}, got NoneType."),
    (
        "enhance(luma)",
        {"guide": zeros(2, 5, 7)},
        TypeError,
        "guide must be a CurvesGuide, NNGuide or LumaGuide, got ndarray.",
    ),
    ("enhance(luma)", {"guide": LumaGuide}, TypeError, "guide must be a CurvesGuide, NNGuide or LumaGuide, got type."),
    # window
    (
        "slice",
        {"window": (0, 0, 5)},
        ValueError,
        "window must be four integers (top, left, full_height, full_width), got (0, 0, 5).",
    ),
    (
        "slice",
        {"window": (0, 0, 5.0, 7)},
        TypeError,
        "window must be four integers (top, left, full_height, full_width), got (0, 0, 5.0, 7).",
    ),
    (
        "slice",
        {"window": "full"},
        TypeError,
        "window must be four integers (top, left, full_height, full_width), got 'full'.",
    ),
    (
        "slice",
        {"window": np.eye(2)},
        TypeError,
        "window must be four integers (top, left, full_height, full_width), got array([[1., 0.], [0., 1.]]).",
    ),
    (
        "slice",
        {"window": (0, 0, 10**5000, 7)},
        ValueError,
        "window must be four integers (top, left, full_height, full_width) of less than 63 bits, "
        "got (0, 0, an integer of 16610 bits, 7).",
    ),
    ("slice", {"window": (0, 0, 4, 7)}, ValueError, f"{_WINDOW} (0, 0, 4, 7) must hold the image of 5 × 7 pixels."),
    (
        "slice_apply",
        {"window": (0, 1, 5, 7)},
        ValueError,
        f"{_WINDOW} (0, 1, 5, 7) must hold the image of 5 × 7 pixels.",
    ),
    ("splat", {"window": (-1, 0, 5, 7)}, ValueError, f"{_WINDOW} (-1, 0, 5, 7) must hold the image of 5 × 7 pixels."),
    (
        "enhance(luma)",
        {"window": (0, 0, 5, 6)},
        ValueError,
        f"{_WINDOW} (0, 0, 5, 6) must hold the image of 5 × 7 pixels.",
    ),
    ("slice_vjp", {"window": (1, 0, 5, 7)}, ValueError, f"{_WINDOW} (1, 0, 5, 7) must hold the image of 5 × 7 pixels."),
    (
        "slice",
        {"with_xy": True, "window": (0, 0, 5, 7)},
        ValueError,
        "window must be None where xy is given, got (0, 0, 5, 7).",
    ),
    # the rule of pixels
    ("slice", {"xy": "centres"}, ValueError, "xy must be an array, 'centers' or 'corners', got 'centres'."),
    ("slice_apply_vjp", {"xy": ""}, ValueError, "xy must be an array, 'centers' or 'corners', got ''."),
    ("splat", {"xy": "middle"}, ValueError, "xy must be an array, 'centers' or 'corners', got 'middle'."),
    ("enhance(nn)", {"xy": "centres"}, ValueError, "xy must be 'centers' or 'corners', got 'centres'."),
    ("enhance(luma)", {"xy": zeros(2, 5, 7, 2)}, TypeError, "xy must be 'centers' or 'corners', got numpy.ndarray."),
    (
        "slice",
        {"grid": zeros(2, 3, 4, 5, 2, 6), "guide": zeros(5, 7)},
        ValueError,
        "grid must have shape (Gh, Gw, Gd, *C), got (2, 3, 4, 5, 2, 6): guide has no batch axis.",
    ),
    # sizes beyond all memory, of views that take none
    (
        "apply",
        {
            "image": np.broadcast_to(np.float32(1), (1, 1, 2**57)),
            "coefficients": np.broadcast_to(np.float32(1), (1, 1, 1, 2**57)),
        },
        ValueError,
        "coefficients must have at most 1099511627776 numbers beside N, H and W, got 144115188075855873.",
    ),
    (
        "splat",
        {"grid_shape": (2**23, 2**23, 2**23)},
        ValueError,
        "the result must have at most 1099511627776 numbers beside N, H and W, got 7083549724304467820544.",
    ),
    # scalars for arguments without axes
    ("guide_nn", {"b2": np.str_("0.5")}, TypeError, "b2 must be a real number, got str_."),
    ("guide_nn", {"b2": 1e300}, ValueError, "b2 must be in float32's range, got 1e+300."),
    ("guide_nn", {"b2": 10**400}, ValueError, "b2 must be in float32's range, got an integer of 1329 bits."),
    # masked arrays
    (
        "guide_luma",
        {"image": np.ma.masked_array(np.zeros((2, 5, 7, 3), np.float32))},
        TypeError,
        "image must be a plain array, got a masked one; pass its filled() values.",
    ),
    # wrt
    (
        "slice_vjp",
        {"wrt": (np.eye(1),)},
        ValueError,
        "wrt must name arguments among grid, guide and xy, got array([[1.]]).",
    ),
    ("slice_vjp", {"wrt": ("image",)}, ValueError, "wrt must name arguments among grid, guide and xy, got 'image'."),
    (
        "apply_vjp",
        {"wrt": ("image", "grad")},
        ValueError,
        "wrt must name arguments among coefficients and image, got 'grad'.",
    ),
    # out
    ("slice", {"out": zeros(5, 7, 3, 4)}, ValueError, "out must have shape (2, 5, 7, 3, 4), got (5, 7, 3, 4)."),
    ("slice", {"out": zeros(2, 5, 7, 3, 4, dtype="f8")}, TypeError, "out must be float32, got float64."),
    ("slice", {"out": zeros(2, 5, 7, 3, 4, dtype=">f4")}, TypeError, "out must be float32, got byte-swapped float32."),
    ("slice", {"out": [1.0]}, TypeError, f"out {_ARRAY}, got list."),
    (
        "slice",
        {"out": np.broadcast_to(F32.type(0), (2, 5, 7, 3, 4))},
        ValueError,
        "out must be writable, got a read-only array.",
    ),
    (
        "slice",
        {"out": as_strided(zeros(9), (2, 5, 7, 3, 4), (4, 4, 4, 4, 4))},
        ValueError,
        "out must not overlap itself, got strides (4, 4, 4, 4, 4) for shape (2, 5, 7, 3, 4).",
    ),
    (
        "slice",
        {"out": as_strided(zeros(9), (2, 5, 7, 3, 4), (0, 0, 0, 0, 4))},
        ValueError,
        "out must not overlap itself, got strides (0, 0, 0, 0, 4) for shape (2, 5, 7, 3, 4).",
    ),
    ("slice_vjp", {"out": zeros(3)}, TypeError, "out must be a mapping from field to array, got ndarray."),
    (
        "slice_vjp",
        {"out": {"image": zeros(1)}},
        ValueError,
        "out must name fields among grid, guide and xy, got 'image'.",
    ),
    (
        "slice_vjp",
        {"out": {"xy": zeros(2, 5, 7, 2)}},
        ValueError,
        "out['xy'] must be left out, as xy has no gradient here.",
    ),
    (
        "slice_vjp",
        {"out": {"guide": zeros(2, 5, 7)}, "wrt": ("grid",)},
        ValueError,
        "out['guide'] must be left out, as wrt does not name guide.",
    ),
    (
        "slice_vjp",
        {"out": {"guide": zeros(2, 5, 6)}},
        ValueError,
        "out['guide'] must have shape (2, 5, 7), got (2, 5, 6).",
    ),
    (
        "slice_vjp",
        {"out": {"guide": zeros(2, 5, 7, dtype="f8")}},
        TypeError,
        "out['guide'] must be float32, got float64.",
    ),
    (
        "slice_apply_vjp",
        {"dtypes": BYTES, "out": {"image": zeros(2, 5, 7, 3)}},
        ValueError,
        "out['image'] must be left out, as image has no gradient here.",
    ),
]


@pytest.mark.parametrize(
    ("subject", "changes", "error", "sentence"), SENTENCES, ids=[f"{s}: {t}" for s, _, _, t in SENTENCES]
)
def test_sentence(subject: str, changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        call(subject.removesuffix("_vjp"), vjp=subject.endswith("_vjp"), **changes)
    assert raised.type is error
    op = f"{operation(subject.removesuffix('_vjp'))}{'_vjp' * subject.endswith('_vjp')}"
    assert str(raised.value) == f"{op}: {sentence}"
    assert_sentence(raised.value, op)


#: The same, where what matters is what is said and not in which words.
ABOUT: list[tuple[str, dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ("slice", {"guide": zeros(5, 7)}, ValueError, ("grid", "(2, 3, 4, 5, 3, 4)", "(Gh, Gw, Gd, *C)")),
    (
        "slice",
        {"window": (2**63, 0, 2**64, 7)},
        ValueError,
        ("window", "(9223372036854775808, 0, 18446744073709551616, 7)"),
    ),
    ("slice", {"align_corners": np.array([True, False])}, TypeError, ("align_corners", "ndarray")),
    ("slice", {"align_corners": "no"}, TypeError, ("align_corners", "str")),
    ("slice_vjp", {"wrt": 7}, TypeError, ("wrt", "int")),
    ("slice_vjp", {"wrt": [7]}, (TypeError, ValueError), ("wrt", "7")),
    ("guide_nn", {"b2": "x"}, TypeError, ("b2", "number", "str")),
    ("guide_nn", {"b2": None}, TypeError, ("b2", "number", "NoneType")),
    ("guide_nn", {"b2": 1j}, TypeError, ("b2", "number", "complex")),
    ("guide_nn", {"b2": [1.0]}, TypeError, ("b2", "number", "list")),
    ("enhance(luma)", {"grid": zeros(2, 3, 4, 5, 3, 6)}, ValueError, ("grid", "3 or 4", "(2, 3, 4, 5, 3, 6)")),
]


@pytest.mark.parametrize(
    ("subject", "changes", "error", "parts"), ABOUT, ids=[f"{s}-{p[0]}-{p[-1]}" for s, _, _, p in ABOUT]
)
def test_sentence_says(subject: str, changes: dict[str, Any], error: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(error) as raised:
        call(subject.removesuffix("_vjp"), vjp=subject.endswith("_vjp"), **changes)
    assert_sentence(raised.value, f"{operation(subject.removesuffix('_vjp'))}{'_vjp' * subject.endswith('_vjp')}")
    for part in parts:
        assert part in str(raised.value), part


@pytest.mark.parametrize("dtype", [F16, BF16, F32], ids=str)
def test_a_number_is_refused_where_it_would_become_infinite(dtype: Any) -> None:
    info = finfo(dtype)
    halfway = float(info.max) + 0.5 * float(2 ** (info.maxexp - 1 - info.nmant))  # to the next power of two

    def call_with(value: float) -> Any:
        return call("guide_nn", dtypes=Dtypes(dtype, dtype, dtype), w2=np.zeros(4, dtype), b2=value)

    assert (call_with(-np.nextafter(halfway, 0)) == 0).all()
    with pytest.raises(ValueError, match=f"guide_nn: b2 must be in {dtype.name}'s range, got -"):
        call_with(-halfway)
    assert (call_with(-np.inf) == 0).all()


# ---------------------------------------------------------------------------------------------------------------------
# Every argument of every operation
# ---------------------------------------------------------------------------------------------------------------------


class OnDevice:
    """What an array on a CUDA device looks like."""

    shape, dtype = (2, 5, 7), np.dtype("f4")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("the data is not on the CPU")


def foreign(module: str, name: str) -> Any:
    """An object whose type comes from another framework, or is derived from one that does."""
    base = type(name, (), {"__module__": module, "shape": (2, 5, 7), "dtype": "float32"})
    return type("Parameter", (base,), {"__module__": "somewhere"})()


WRONG: dict[str, Any] = {
    "a list": lambda a: [a.tolist()],
    "None": lambda a: None,
    "a string": lambda a: "image.png",
    "an object": lambda a: object(),
    "objects": lambda a: a.astype(object),
    "complex": lambda a: a.astype("c8"),
    "bool": lambda a: a.astype(bool),
    "int64": lambda a: a.astype("i8"),
    "byte-swapped": lambda a: a.astype(">f4"),
    "half of it": lambda a: a.astype("f2"),
    "double": lambda a: a.astype("f8"),
    "no tensor of PyTorch's": lambda a: foreign("torch", "Tensor"),
    "no array of CuPy's": lambda a: foreign("cupy", "ndarray"),
    "no array of JAX's": lambda a: foreign("jaxlib._jax", "ArrayImpl"),
    "one axis more": lambda a: a[..., None, None],
    "one axis less": lambda a: a[0] if a.ndim else None,
}
ABSENT = {
    "on a device": OnDevice(),
}


def is_right(subject: str, name: str, what: str) -> bool:
    """Whether a call takes what is wrong elsewhere: the only array has any dtype, the only batched one any batch."""
    given = arrays(arguments(subject, **SIZE))
    others = [array for other, array in given.items() if other != name]
    if what == "None":
        return name == "xy"
    if name not in given:
        return False
    if what == "one axis less":
        return all(array.shape[:1] != (SIZE["N"],) for array in others)
    return (what == "half of it" and name == "image") or (what in ("half of it", "double") and not others)


def check(subject: str, name: str, value: Any, error: Any) -> str:
    """Calls with this one argument changed raise sentences, forward and backward; returns the last."""
    given = arguments(subject, ALL_F32, **SIZE, Co=4, offset=False, xy=subject in ("slice", "slice_apply", "splat"))
    calls: dict[str, Callable[[Any], Any]] = {}
    if name != "grad":
        calls[operation(subject)] = lambda a: forward(bilateral_ops, subject, a)
    if subject in DIFFERENTIABLE:
        given["grad"] = random_like(forward(bilateral_ops, subject, given).shape, F32)
        calls[f"{subject}_vjp"] = lambda a: backward(bilateral_ops, subject, a, a.pop("grad"))
    if callable(value):
        value = value(arrays(given)[name])
    for op, run in calls.items():
        bad = replaced(given, **{name: value})
        if op == subject:
            bad.pop("grad", None)
        with pytest.raises(error) as raised:
            run(bad)
        assert_sentence(raised.value, op)
    return str(raised.value)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_anything_else_than_the_right_array_is_refused(subject: str) -> None:
    names = [*arrays(arguments(subject, **SIZE)), *(["grad"] if subject in DIFFERENTIABLE else [])]
    names += ["xy"] if subject in ("slice", "slice_apply", "splat") else []
    for name in names:
        for what, value in WRONG.items():
            if is_right(subject, name, what):
                continue
            sentence = check(subject, name, value, (TypeError, ValueError))
            assert any(other.rpartition(".")[2] in sentence for other in names), (name, what, sentence)
        for what, value in ABSENT.items():
            sentence = check(subject, name, value, RuntimeError)
            assert re.search(rf"{name.rpartition('.')[2]}.*numpy", sentence, re.IGNORECASE), (what, sentence)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_axis_that_must_match_is_checked(subject: str) -> None:
    given = arguments(subject, ALL_F32, **SIZE, Co=4, offset=False, xy=subject in ("slice", "slice_apply", "splat"))
    shape = forward(bilateral_ops, subject, given).shape
    for name, array in arrays(given).items():
        for axis in range(array.ndim):
            larger = np.repeat(array, [1] * (array.shape[axis] - 1) + [2], axis)
            if axis in FREE[subject].get(name, ()):
                forward(bilateral_ops, subject, replaced(given, **{name: larger}))
            else:
                check(subject, name, larger, ValueError)
    for axis in range(len(shape)) if subject in DIFFERENTIABLE else ():
        if axis not in FREE[subject].get("grad", ()):
            check(subject, "grad", zeros(*(n + (i == axis) for i, n in enumerate(shape))), ValueError)


# ---------------------------------------------------------------------------------------------------------------------
# Overlap
# ---------------------------------------------------------------------------------------------------------------------


def overlapping(subject: str) -> dict[str, tuple[dict[str, Any], Any]]:
    """Arguments with an ``out`` that shares memory with one of them, in several ways."""
    n, h, w, c = 2, 5, 5, 3
    given = arguments(subject, ALL_F32, N=n, H=h, W=w)
    taller, wide = zeros(n, h + 1, w, c), zeros(n, h, w, c + 1)
    image = zeros(n, h, w, c)
    ways = {
        "a row further": ({**given, "image": taller[:, :-1]}, taller[:, 1:]),
        "one element further": ({**given, "image": wide[..., :-1]}, wide[..., 1:]),
        "flipped": ({**given, "image": image}, image[:, ::-1]),
        "transposed": ({**given, "image": image}, image.swapaxes(1, 2)),
        "batch exchanged": ({**given, "image": image}, image[::-1]),
    }
    for name in ("guide", "grid", "coefficients"):
        if isinstance(given.get(name), np.ndarray):
            memory = np.zeros(max(given[name].size, image.size), F32)
            shared = memory[: given[name].size].reshape(given[name].shape)
            ways[name] = ({**given, name: shared}, memory[: image.size].reshape(image.shape))
    return ways


@pytest.mark.parametrize("subject", ["apply", "slice_apply", *GUIDES])
def test_out_that_overlaps_an_input_is_refused(subject: str) -> None:
    for way, (given, out) in overlapping(subject).items():
        with pytest.raises(ValueError, match="must not overlap") as raised:
            forward(bilateral_ops, subject, given, out=out)
        name = way if way in given else "image"
        assert str(raised.value).startswith(f"{operation(subject)}: out must not overlap {name}"), way
        assert_sentence(raised.value, operation(subject))


def test_out_of_an_operation_whose_result_is_no_image_may_not_be_one() -> None:
    memory = zeros(2, 5, 7, 3)
    given = arguments("guide_luma", ALL_F32, **SIZE) | {"image": memory}
    with pytest.raises(ValueError, match=r"^guide_luma: out must not overlap image"):
        forward(bilateral_ops, "guide_luma", given, out=memory[..., 0])
    given = arguments("splat", ALL_F32, **SIZE)
    memory = np.zeros(given["guide"].size + 2 * 3 * 4 * 5 * 12, F32)
    given["guide"] = memory[: given["guide"].size].reshape(given["guide"].shape)
    with pytest.raises(ValueError, match=r"^splat: out must not overlap guide, got arrays that share memory\.$"):
        forward(bilateral_ops, "splat", given, out=memory[: 2 * 3 * 4 * 5 * 12].reshape(2, 3, 4, 5, 3, 4))


def test_gradients_may_overlap_neither_inputs_nor_each_other() -> None:
    given = arguments("slice_apply", ALL_F32, **SIZE)
    grad, memory = zeros(2, 5, 7, 3), zeros(2, 5, 7, 3)
    for out, words in (
        ({"guide": given["guide"]}, "out['guide'] must not overlap guide"),
        ({"grid": given["grid"]}, "out['grid'] must not overlap grid"),
        ({"image": grad}, "out['image'] must not overlap grad"),
        ({"image": given["image"][:, ::-1]}, "out['image'] must not overlap image"),
        ({"image": memory, "guide": memory[..., 0]}, "out['image'] must not overlap out['guide']"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(f'slice_apply_vjp: {words}')}") as raised:
            backward(bilateral_ops, "slice_apply", given, grad, out=out)
        assert_sentence(raised.value, "slice_apply_vjp")


@pytest.mark.parametrize("subject", ["apply", "slice_apply", "guide_curves", "guide_nn", "guide_luma"])
def test_the_images_gradient_may_replace_the_image(subject: str) -> None:
    given = arguments(subject, ALL_F32, N=1, H=20, W=133)
    grad = random_like(forward(bilateral_ops, subject, given).shape, F32)
    want = backward(bilateral_ops, subject, given, grad)
    got = backward(bilateral_ops, subject, given, grad, out={"image": given["image"]})
    for name in want._fields:
        assert_same_bits(getattr(got, name), getattr(want, name), name)


def test_a_refused_call_has_written_nothing() -> None:
    given = arguments("slice_apply", ALL_F32, **SIZE)
    out = np.full((2, 5, 7, 3), 7, F32)
    for wrong in ({"guide": zeros(2, 5, 8)}, {"image": zeros(2, 5, 7, 5)}):
        with pytest.raises(ValueError, match=r"^slice_apply: "):
            forward(bilateral_ops, "slice_apply", {**given, **wrong}, out=out)
    gradients = {"guide": np.full((2, 5, 7), 7, F32), "grid": zeros(1)}
    with pytest.raises(ValueError, match=r"^slice_apply_vjp: out\['grid'\]"):
        backward(bilateral_ops, "slice_apply", given, out, out=gradients)
    assert (out == 7).all()
    assert (gradients["guide"] == 7).all()
