"""An ``index`` for functions that have none: they are called for each grid, with the images or pixels that name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .numpy import is_array


def _parts(grid: Any, arrays: Mapping[str, Any], index: Any) -> Iterator[tuple[Any, Any, Any, dict[str, Any]]]:
    """Each grid that is named: its number, where its images or pixels are, and these as arguments of a call.

    Pixels become an image of one row; ``where`` takes a result back with ``result.reshape(-1, …)``.
    """
    index = np.asarray(index)
    for m in np.unique(index):
        where = index == m
        rows = (None, None) if index.ndim == 3 else ()
        own = {name: np.asarray(a)[where][rows] if is_array(a) else a for name, a in arrays.items()}
        count = 1 if rows else int(where.sum())
        yield m, where, np.broadcast_to(grid[m], (count, *grid.shape[1:])), own


def _back(array: Any, index: Any) -> Any:
    """A result's images, or the pixels of its one row."""
    return array[0, 0] if np.ndim(index) == 3 else array


def forward(
    function: Callable[..., Any], shape: tuple[int, ...], dtype: Any, grid: Any, arrays: Mapping[str, Any], index: Any,
    *, out: Any = None, **keywords: Any,
) -> Any:  # fmt: skip
    """``function(grid, **arrays, **keywords)`` with an index; ``shape`` and ``dtype`` are the result's."""
    result = np.empty(shape, dtype)
    for _, where, cells, own in _parts(np.asarray(grid), arrays, index):
        result[where] = _back(function(cells, **own, **keywords), index)
    if out is None:
        return result
    out[...] = result
    return out


def backward(
    function: Callable[..., Any], record: Any, grid: Any, arrays: Mapping[str, Any], grad: Any, index: Any,
    *, wrt: Any = None, out: Any = None, **keywords: Any,
) -> Any:  # fmt: skip
    """The same of a VJP, which returns a ``record``."""
    values = {"grid": np.asarray(grid), **{name: a for name, a in arrays.items() if is_array(a)}}
    wanted = [
        name
        for name in record._fields
        if name in values and (wrt is None or name in wrt) and np.asarray(values[name]).dtype.kind != "u"
    ]
    found = {name: np.zeros(np.shape(values[name]), np.asarray(values[name]).dtype) for name in wanted}
    for m, where, cells, own in _parts(values["grid"], {**arrays, "grad": grad}, index):
        gradients = function(cells, **own, **keywords, wrt=wanted)
        for name in wanted:
            value = getattr(gradients, name)
            if name == "grid":
                found[name][m] = value.sum(axis=0)
            else:
                found[name][where] = _back(value, index)
    for name, array in (out or {}).items():
        if name in found and array is not None:
            array[...] = found[name]
            found[name] = array
    return record(*(found.get(name) for name in record._fields))
