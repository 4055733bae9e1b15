"""What single instructions compute, where that is no one function of NumPy. Arguments are vectors or scalars."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from .errors import Unsupported

BF16 = np.dtype(ml_dtypes.bfloat16)
_U32, _U64 = np.uint32, np.uint64


@cache
def dtype_of(kind: str) -> np.dtype[Any]:
    """The NumPy dtype of a PTX type; of bits: unsigned."""
    if kind == "pred":
        return np.dtype(bool)
    if kind == "bf16":
        return BF16
    if kind in ("f16x2", "bf16x2"):
        return np.dtype(_U32)
    return np.dtype(f"{'f' if kind[0] == 'f' else 'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")


# ---------------------------------------------------------------------------------------------------------------------
# Integers
# ---------------------------------------------------------------------------------------------------------------------


def multiply_high(a: Any, b: Any) -> Any:
    """The upper half of the product."""
    dtype = np.result_type(a, b)
    if dtype.itemsize < 8:
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        return (np.multiply(a, b, dtype=wide) >> (8 * dtype.itemsize)).astype(dtype)
    x, y = (np.asarray(v).astype(_U64) for v in (a, b))
    low, half = _U64(0xFFFFFFFF), _U64(32)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = ((x0 * y0) >> half) + (x1 * y0 & low) + (x0 * y1 & low)
    high = x1 * y1 + (x1 * y0 >> half) + (x0 * y1 >> half) + (middle >> half)
    if dtype.kind == "i":
        high = high - np.where(np.asarray(a) < 0, y, _U64(0)) - np.where(np.asarray(b) < 0, x, _U64(0))
    return high.astype(dtype)


def divide(a: Any, b: Any) -> Any:
    """The quotient, rounded towards zero. Of a division by zero PTX says nothing: all bits set, as on hardware."""
    a, b = np.broadcast_arrays(a, b)
    safe = np.where(b == 0, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        quotient = a // safe
    else:
        quotient = np.floor_divide(a, safe)
        quotient = quotient + ((quotient * safe != a) & ((a < 0) != (safe < 0))).astype(a.dtype)
    return np.where(b == 0, ~np.zeros_like(a), quotient)


def remainder(a: Any, b: Any) -> Any:
    return a - divide(a, b) * b


def shift_left(a: Any, count: Any) -> Any:
    a, count = np.broadcast_arrays(a, count)
    bits = 8 * a.dtype.itemsize
    moved = a << np.minimum(count, _U32(bits - 1)).astype(a.dtype)
    return np.where(count < bits, moved, a.dtype.type(0))


def shift_right(a: Any, count: Any) -> Any:
    a, count = np.broadcast_arrays(a, count)
    bits = 8 * a.dtype.itemsize
    moved = a >> np.minimum(count, _U32(bits - 1)).astype(a.dtype)
    return moved if a.dtype.kind == "i" else np.where(count < bits, moved, a.dtype.type(0))


def funnel_shift(low: Any, high: Any, count: Any, *, left: bool, wrap: bool) -> Any:
    count = (count & _U32(31)) if wrap else np.minimum(count, _U32(32))
    both = np.asarray(high).astype(_U64) << _U64(32) | np.asarray(low).astype(_U64)
    moved = both >> (_U64(32) - count.astype(_U64)) if left else both >> count.astype(_U64)
    return moved.astype(_U32)


def extract_bits(a: Any, position: Any, length: Any) -> Any:
    a, position, length = np.broadcast_arrays(a, position, length)
    bits = 8 * a.dtype.itemsize
    position, length = position & _U32(255), np.minimum(length & _U32(255), _U32(bits))
    mask = np.where(length >= bits, ~_U64(0), (_U64(1) << (length.astype(_U64) & _U64(63))) - _U64(1))
    value = shift_right(a, position).astype(_U64) & mask
    if a.dtype.kind == "i":
        last = np.minimum(position.astype(np.int64) + length.astype(np.int64) - 1, bits - 1)
        sign = (shift_right(a, np.maximum(last, 0).astype(_U32)) & a.dtype.type(1)).astype(bool) & (length > 0)
        value = np.where(sign, value | ~mask, value)
    return value.astype(a.dtype)


def insert_bits(a: Any, b: Any, position: Any, length: Any) -> Any:
    a, b, position, length = np.broadcast_arrays(a, b, position, length)
    bits = 8 * a.dtype.itemsize
    position, length = (position & _U32(255)).astype(_U64), (length & _U32(255)).astype(_U64)
    ones = np.where(length >= 64, ~_U64(0), (_U64(1) << (length & _U64(63))) - _U64(1))
    mask = np.where(position < bits, ones << (position & _U64(63)), _U64(0))
    return (b.astype(_U64) & ~mask | (a.astype(_U64) << (position & _U64(63))) & mask).astype(a.dtype)


def permute_bytes(a: Any, b: Any, selector: Any) -> Any:
    both = np.asarray(b).astype(_U64) << _U64(32) | np.asarray(a).astype(_U64)
    result: Any = _U32(0)
    for i in range(4):
        choice = (selector >> _U32(4 * i)) & _U32(15)
        byte = (both >> ((choice & _U32(7)).astype(_U64) * _U64(8))).astype(_U32) & _U32(255)
        sign = np.where(byte >> _U32(7), _U32(255), _U32(0))
        result = result | np.where(choice >> _U32(3), sign, byte) << _U32(8 * i)
    return result


def logic3(a: Any, b: Any, c: Any, table: int) -> Any:
    result: Any = _U32(0)
    for i in range(8):
        if table >> i & 1:
            x, y, z = (v if i >> bit & 1 else ~v for v, bit in ((a, 2), (b, 1), (c, 0)))
            result = result | x & y & z
    return result


def _bytes_as_bits(a: Any) -> Any:
    """The bits of every element, the lowest first."""
    a = np.ascontiguousarray(np.atleast_1d(a))
    return np.unpackbits(a.view(np.uint8).reshape(len(a), -1), axis=1, bitorder="little")


def count_ones(a: Any) -> Any:
    return _bytes_as_bits(a).sum(1, dtype=_U32)


def count_leading_zeros(a: Any) -> Any:
    bits = _bytes_as_bits(a)[:, ::-1]
    return np.where(bits.any(1), bits.argmax(1), bits.shape[1]).astype(_U32)


def reverse_bits(a: Any) -> Any:
    a = np.atleast_1d(a)
    return np.packbits(_bytes_as_bits(a)[:, ::-1], axis=1, bitorder="little").reshape(-1).view(a.dtype)


def find_top_bit(a: Any) -> Any:
    """The place of the highest one; of a negative number, of the highest zero; all bits set where there is none."""
    bits = _bytes_as_bits(np.where(a < 0, ~a, a) if np.asarray(a).dtype.kind == "i" else a)
    top = bits.shape[1] - 1 - bits[:, ::-1].argmax(1)
    return np.where(bits.any(1), top, 0xFFFFFFFF).astype(_U32)


# ---------------------------------------------------------------------------------------------------------------------
# Conversions
# ---------------------------------------------------------------------------------------------------------------------

_ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def conversion(to: str, source: str, modifiers: tuple[str, ...]) -> Callable[[Any], Any]:
    """`cvt.to.source` with these modifiers, as a function."""
    known = {"rn", "rni", "rzi", "rmi", "rpi", "sat", "rna"} - {"rna"}
    if strange := set(modifiers) - known:
        raise Unsupported(f"conversion with {', '.join(sorted(strange))}")
    out, given = dtype_of(to), dtype_of(source)
    rounding = next((_ROUND[m] for m in modifiers if m in _ROUND), None)
    saturate = "sat" in modifiers
    floats = (given.kind == "f" or given == BF16, out.kind == "f" or out == BF16)

    def float_to_integer(x: Any) -> Any:
        whole = (rounding or np.trunc)(np.asarray(x).astype(np.float64))
        info = np.iinfo(out)
        inside = (whole > float(info.min)) & (whole < float(info.max))
        ends = np.where(whole > 0, out.type(info.max), out.type(info.min))
        return np.where(whole == whole, np.where(inside, np.where(inside, whole, 0).astype(out), ends), out.type(0))

    def to_float(x: Any) -> Any:
        if rounding is not None:
            x = rounding(x)
        if saturate:
            x = np.where(x > 0, np.minimum(x, 1), 0)  # NaN becomes 0
        return np.asarray(x).astype(out)

    def integer_to_integer(x: Any) -> Any:
        if saturate:
            x = np.asarray(x)
            low, high = (max(np.iinfo(out).min, np.iinfo(given).min), min(np.iinfo(out).max, np.iinfo(given).max))
            x = np.clip(x, given.type(low), given.type(high))
        return np.asarray(x).astype(out)

    if floats[1]:
        return to_float
    return float_to_integer if floats[0] else integer_to_integer


# ---------------------------------------------------------------------------------------------------------------------
# Floating point
# ---------------------------------------------------------------------------------------------------------------------

#: The largest relative errors that the PTX manual allows the approximate instructions. Results are off by up to that,
#: so that nothing is proved which holds only where they are exact.
_APPROXIMATE: dict[str, tuple[Callable[[Any], Any], float]] = {
    "ex2": (np.exp2, 2.0**-22),
    "lg2": (np.log2, 2.0**-22),
    "rcp": (np.reciprocal, 2.0**-23),
    "sqrt": (np.sqrt, 2.0**-23),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2.0**-22.9),
    "sin": (np.sin, 2.0**-20.5),
    "cos": (np.cos, 2.0**-20.5),
    "tanh": (np.tanh, 2.0**-11),
}


def _disturbed(exact: Any, inputs: Any, error: float) -> Any:
    """Off by up to `error`, relatively; the same inputs always give the same."""
    hashed = np.asarray(inputs, np.float32).view(_U32) * _U32(2654435761)
    return exact * (1 + error * ((hashed >> _U32(8)).astype(np.float64) / 2**23 - 1))


def _flushed(x: Any) -> Any:
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)


def approximate(name: str, flush: bool) -> Callable[[Any], Any]:
    """`name.approx.f32`, which may be off."""
    function, error = _APPROXIMATE[name]

    def apply(x: Any) -> Any:
        x = np.asarray(x, np.float32)
        exact = function((_flushed(x) if flush else x).astype(np.float64))
        result = np.where((x == 0) | ~np.isfinite(exact), exact, _disturbed(exact, x, error)).astype(np.float32)
        return _flushed(result) if flush else result

    return apply


def approximate_divide(a: Any, b: Any) -> Any:
    """`div.approx.f32` and `div.full.f32`: two units in the last place."""
    exact = np.asarray(a, np.float32).astype(np.float64) / np.asarray(b, np.float32)
    return np.where(np.isfinite(exact), _disturbed(exact, b, 2.0**-22), exact).astype(np.float32)


def is_class(name: str, x: Any) -> Any:
    """`testp.name`"""
    return {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda v: ~np.isnan(v),
        "notanumber": np.isnan,
        "normal": lambda v: np.isfinite(v) & (np.abs(v) >= np.finfo(v.dtype).tiny),
        "subnormal": lambda v: (v != 0) & (np.abs(v) < np.finfo(v.dtype).tiny),
    }[name](x)
