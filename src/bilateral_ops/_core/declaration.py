"""The parts of a signature.

A shape is written as its axes' names, ``"N H W Ci"``: equal names must have equal sizes. ``N`` is left out of an
unbatched call, ``*C`` stands for one or two axes, ``Ci[+1]`` for ``Ci`` or one more, a number for itself, ``Ci=3`` for
an axis that must have that size, and no axes for a scalar.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .checks import integers, shape_text


class Argument(NamedTuple):
    """One array argument. ``role`` is image, grid, guide, parameter or index: it determines which dtypes may be mixed.

    An index names grids, by integers: where it is given, the grids' first axis is ``M`` in place of ``N``, and the call
    is batched. It has all its axes, or ``N`` alone.
    """

    name: str
    axes: tuple[str, ...]
    role: str
    optional: bool = False


def argument(name: str, axes: str, role: str, *, optional: bool = False) -> Argument:
    return Argument(name, tuple(axes.split()), role, optional)


class KernelCall(NamedTuple):
    """A call of a compiled function: the arrays that it writes and reads, by name, in the order of csrc/calls.h.

    ``"out"`` is the result, ``"grad"`` the gradient of the result; ``None`` is absent. ``joined`` are the places among
    results and arguments of a guide's parameters, which are one argument of the compiled function, the last ones first.
    """

    kernel: str
    results: tuple[str | None, ...]
    arguments: tuple[str | None, ...]
    joined: tuple[slice, ...] = ()


class Sizes(NamedTuple):
    """An argument with sizes of the result's axes. A VJP has ``grad``'s shape for it."""

    name: str
    axes: tuple[str, ...]

    def checked(self, op: str, value: Any) -> dict[str, int]:
        count = {2: "two", 3: "three"}[len(self.axes)]
        what = f"{count} integers {shape_text(self.axes)}"
        return dict(zip(self.axes, integers(op, self.name, what, len(self.axes), value)))


def fixed_size(axis: str) -> str | None:
    """The size that an axis must have, as written; None for any size."""
    size = axis.rpartition("=")[2]
    return size if size.isdigit() else None
