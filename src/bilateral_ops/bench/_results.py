"""What functions return: NumPy arrays in an order, and how far they are from the first one's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .._core.checks import brief, dtype_name
from .._gradcheck.trees import values_in
from ._hosts import BenchTypeError, BenchValueError, host_of

#: Half of the digits: √ε, with ε the spacing of a dtype's numbers at 1. Of those not named, that of float32.
_HALF = {"float64": 2.0**-26, "complex128": 2.0**-26, "float16": 2.0**-5, "bfloat16": 2.0**-3.5}


class Result(NamedTuple):
    """An array of 64 bits a number; how far another may be off, as a share of the largest and in levels."""

    array: Any
    share: float
    levels: float


def results(who: str, returned: Any, first: Any = None) -> list[Result | None]:
    """A copy of what a function returned, in the first one's order."""
    found = [None if leaf is None else _result(who, leaf) for leaf in in_order(returned, first)]
    if all(result is None for result in found):
        raise BenchValueError(f"bench: {who} must return what it computes, to be compared, got {brief(returned)}.")
    return found


def in_order(returned: Any, first: Any) -> list[Any]:
    """The arrays that a function returned at their ``places``; None where it returned none."""
    found: dict[int, Any] = dict(zip(places(returned, first), values_in(returned)))
    return [found.get(place) for place in range(max(found, default=-1) + 1)]


def places(returned: Any, first: Any) -> list[int]:
    """The place among the first one's arrays of each that a function returned: by name where both have names."""
    own, others = _parts(returned), _parts(first)
    if not own.keys() & others.keys():
        return list(range(len(values_in(returned))))
    found, start = {}, 0
    for key, value in {**others, **own}.items():
        inner = places(value, others.get(key))
        found[key] = [start + place for place in inner]
        start += max(inner, default=-1) + 1
    return [place for key in own for place in found[key]]


def _parts(tree: Any) -> dict[Any, Any]:
    """What is in a container by name, or by position where it has no names."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, (tuple, list)):
        return tree._asdict() if hasattr(tree, "_asdict") else dict(enumerate(tree))
    return {}


def _result(who: str, value: Any) -> Result:
    array = host_of([value]).to_numpy(value)
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise BenchTypeError(
            f"bench: {who} must return arrays or numbers, alone or in tuples, lists and dicts, got "
            f"{type(value).__name__}."
        )
    kind = array.dtype.kind
    integer = kind in "biu"
    share = 0.0 if integer else _HALF.get(dtype_name(getattr(value, "dtype", array.dtype)), 2.0**-11.5)
    dtype = {"c": complex, "u": np.uint64, "i": np.int64, "b": np.int64}.get(kind, float)
    return Result(array.astype(dtype), share, float(kind == "u"))


def pairs(found: list[Result | None], first: list[Result | None]) -> list[tuple[Result | None, Result | None]] | None:
    """Those to be compared, or None where shapes differ; None is of any shape, and where others end it may be left."""
    if len(found) != len(first):
        found, first = _stripped(found), _stripped(first)
    matched = list(zip(found, first))
    same = all(a is None or b is None or a.array.shape == b.array.shape for a, b in matched)
    return matched if same and len(found) == len(first) else None


def _stripped(found: list[Result | None]) -> list[Result | None]:
    return found[: 1 + max(k for k, result in enumerate(found) if result is not None)]


def shapes(found: list[Result | None]) -> str:
    said = [None if result is None else result.array.shape for result in found]
    return f"the shape {said[0]}" if len(said) == 1 else f"the shapes {said}"


def difference(matched: list[tuple[Result | None, Result | None]]) -> tuple[float, float]:
    """The largest difference, as a share of the first one's largest of that array, NaN where only one of them has it;
    and the share of elements that differ by more than rounding, of the array with most of them. None, a gradient that
    isn't there, is as zeros.
    """
    worst = differing = 0.0
    for one, other in matched:
        there = other if one is None else one
        if there is None:
            continue
        a, b = (np.zeros_like(there.array) if part is None else part.array for part in (one, other))
        unequal = (a != b) & ~(np.isnan(a) & np.isnan(b))
        if not unequal.any():
            continue
        largest = float(abs(1.0 * b[np.isfinite(b)]).max(initial=0))
        off = _distance(a[unequal], b[unequal])
        share = max(part.share for part in (one, other) if part is not None)
        levels = max(part.levels for part in (one, other) if part is not None)
        differing = max(differing, np.count_nonzero(~(off <= levels + share * largest)) / a.size)
        furthest = float(off.max())
        furthest = furthest / largest if largest else furthest * math.inf
        worst = worst if furthest <= worst or math.isnan(worst) else furthest
    return worst, differing


def _distance(a: Any, b: Any) -> Any:
    """How far these are from each other, in float64; that of integers is rounded only then."""
    if a.dtype == b.dtype and a.dtype.kind in "iu":
        return (np.maximum(a, b).view(np.uint64) - np.minimum(a, b).view(np.uint64)).astype(float)
    with np.errstate(invalid="ignore"):
        return abs(1.0 * a - b)
