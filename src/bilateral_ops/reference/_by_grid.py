"""An ``index`` for functions that have none: they are called for each grid, with the images or pixels that name it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .numpy import is_array


def by_grid(record: Any = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What a function of a grid, or a VJP that returns this record, is with an index; without one it is itself."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def indexed(*arguments: Any, **keywords: Any) -> Any:
            if keywords.get("index") is None:
                return function(*arguments, **keywords)
            given = signature.bind(*arguments, **keywords).arguments
            grid, index, out = np.asarray(given.pop("grid")), np.asarray(given.pop("index")), given.pop("out", None)
            names = [name for name in ("guide", "image", "xy", "grad") if is_array(given.get(name))]
            arrays = {name: np.asarray(given.pop(name)) for name in names}
            parts = _parts(functools.partial(function, **given), grid, arrays, index)
            if record is not None:
                return _gradients(record, {"grid": grid, **arrays}, parts, given.get("wrt"), out or {})
            channels = grid.shape[4:5] if "image" in arrays else grid.shape[4:]
            result = np.empty((*arrays["guide"].shape, *channels), arrays.get("image", grid).dtype)
            for _, where, part in parts:
                result[where] = part.reshape(-1, *result.shape[index.ndim :])
            if out is None:
                return result
            out[...] = result
            return out

        return indexed

    return decorated


def _parts(
    function: Callable[..., Any], grid: Any, arrays: Mapping[str, Any], index: Any
) -> Iterator[tuple[Any, Any, Any]]:
    """Each grid that is named: its number, where its images or pixels are, and what the function makes of them.

    Pixels are an image of one row.
    """
    row = (None, None) if index.ndim == 3 else ()
    for m in np.unique(index):
        where = index == m
        cells = np.broadcast_to(grid[m], (1 if row else where.sum(), *grid.shape[1:]))
        yield m, where, function(cells, **{name: array[where][row] for name, array in arrays.items()})


def _gradients(record: Any, arguments: Mapping[str, Any], parts: Any, wrt: Any, out: Mapping[str, Any]) -> Any:
    found = {
        name: np.zeros(array.shape, array.dtype)
        for name, array in arguments.items()
        if name in record._fields and (wrt is None or name in wrt) and array.dtype.kind != "u"
    }
    for m, where, gradients in parts:
        for name, array in found.items():
            value = getattr(gradients, name)
            if name == "grid":
                array[m] = value.sum(axis=0)
            else:
                array[where] = value.reshape(-1, *array.shape[where.ndim :])
    for name in found.keys() & {name for name, array in out.items() if array is not None}:
        out[name][...] = found[name]
        found[name] = out[name]
    return record(*(found.get(name) for name in record._fields))
