"""An ``index`` for functions that have none: they are called for each grid, with the images or pixels that name it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
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
            if record is None:
                channels = grid.shape[4:5] if "image" in arrays else grid.shape[4:]
                found = {"out": np.empty((*arrays["guide"].shape, *channels), arrays.get("image", grid).dtype)}
                targets = {"out": out}
            else:
                wrt, targets = given.get("wrt"), out or {}
                wanted = [name for name in record._fields if wrt is None or name in wrt]
                likes = {name: a for name, a in {"grid": grid, **arrays}.items() if name in wanted}
                found = {name: np.zeros(a.shape, a.dtype) for name, a in likes.items() if a.dtype.kind != "u"}
            row = (None, None) if index.ndim == 3 else ()  # pixels are an image of one row
            for m in np.unique(index):
                where = index == m
                cells = np.broadcast_to(grid[m], (1 if row else where.sum(), *grid.shape[1:]))
                part = function(cells, **{name: a[where][row] for name, a in arrays.items()}, **given)
                for name, array in found.items():
                    value = part if record is None else getattr(part, name)
                    if name == "grid":
                        array[m] = value.sum(axis=0)
                    else:
                        array[where] = value.reshape(-1, *array.shape[index.ndim :])
            for name, array in found.items():
                if (target := targets.get(name)) is not None:
                    target[...] = array
                    found[name] = target
            return found["out"] if record is None else record(*map(found.get, record._fields))

        return indexed

    return decorated
