"""Checks of plain values, and the wording of error messages."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("uint8", "uint16")
INDICES = ("int32", "int64")
# The types of a scalar argument, besides arrays without axes.
NUMBERS = (int, float, np.generic)


def listed(words: Iterable[str], last: str = "or") -> str:
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


def brief(value: Any, text: Callable[[Any], str] = repr) -> str:
    """A value for an error message, on one line."""
    # Python refuses to print integers of thousands of digits.
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, tuple):
        return shape_text(brief(part, text) for part in value)
    try:
        said = text(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that can't be printed"
    return " ".join(said.split()) if "\n" in said else said


def is_symbol(size: Any) -> bool:
    """Whether it is a symbolic size of JAX's exporter, whose comparisons may be undecidable."""
    return not isinstance(size, int) and type(size).__module__.startswith("jax.")


def is_negative(size: Any) -> bool:
    """Whether a size, or a difference of two, is known to be below 0."""
    return not is_symbol(size) and bool(size < 0)


def integers(op: str, name: str, what: str, count: int, value: Any) -> tuple[int, ...]:
    """Check an argument that is ``count`` integers; ``what`` says so."""
    try:
        numbers = tuple(v if is_symbol(v) else operator.index(v) for v in value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be {what}, got {brief(value)}.") from None
    if len(numbers) != count:
        raise ValueError(f"{op}: {name} must be {what}, got {brief(value)}.")
    if any(number.bit_length() > 62 for number in numbers if not is_symbol(number)):
        raise ValueError(f"{op}: {name} must be {what} of less than 63 bits, got {brief(value)}.")
    return numbers


def one_of(op: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Check an argument that is one of a few strings."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:  # an array's comparison has no truth value
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}, got {brief(value)}.")


def real(value: Any) -> float | None:
    """A Python or NumPy number as a float, infinity if it is too large; None if it is not a real number."""
    if isinstance(value, bool) or not isinstance(value, NUMBERS):
        return None
    if isinstance(value, np.generic) and value.dtype.kind not in "iuf" and value.dtype.name != "bfloat16":
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def dtype_name(value: Any) -> str:
    """The name of a dtype of any framework; names are returned as they are."""
    if isinstance(value, str):
        return value
    try:
        return str(np.dtype(value).name)
    except TypeError:
        if type(value).__module__.partition(".")[0] == "tensorflow":
            return str(value.name)
        return brief(value, str).removeprefix("torch.")


def type_text(cls: type) -> str:
    return f"{cls.__module__.partition('.')[0]}.{cls.__name__}"


def shape_text(parts: Iterable[Any]) -> str:
    texts = [str(part) for part in parts]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"
