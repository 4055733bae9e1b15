"""Hold a vector-Jacobian product against finite differences, for the package's operations and for anyone's own.

``call`` has a function, its arguments and its VJP, of any framework; ``comparison`` takes differences; ``report`` is
what they say, and its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .._core.types import Array
from .call import Call
from .comparison import Comparison
from .report import GradcheckReport, GradcheckRow, table

__all__ = ["GradcheckReport", "GradcheckRow", "check_operations", "gradcheck", "table"]

#: What a function returns, one of these or several; and its VJP, for an argument.
_Result: TypeAlias = Array[object] | float


def check_operations(
    rtol: float = 1e-6, seed: int = 0, progress: Callable[[str], None] | None = None
) -> dict[str, GradcheckReport]:
    """``gradcheck`` of every operation that has a VJP, on small random arguments with a batch, ``xy`` included."""
    from .. import _samples
    from ..ops import OPERATIONS

    reports = {}
    for name, operation in OPERATIONS.items():
        if operation.vjp is None:
            continue
        if progress is not None:
            progress(name)
        arguments = _samples.arguments(name, N=2, xy="xy" in operation.arguments, seed=seed)
        reports[name] = gradcheck(operation.function, arguments, rtol=rtol, seed=seed)
    return reports


def gradcheck(
    f: Callable[..., _Result | Sequence[_Result]],
    arguments: tuple[object, ...] | list[Any] | Mapping[str, object],
    *,
    vjp: Callable[..., _Result | Sequence[_Result | None] | Mapping[str, _Result | None]] | None = None,
    wrt: str | Iterable[str] | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
) -> GradcheckReport:
    """Compare a vector-Jacobian product with central differences in float64.

        g = Jᵀu;  every coordinate i:  g_i = ⟨u, (f(x + h·e_i) − f(x − h·e_i)) / 2h⟩
        every direction v:  ⟨v, Jᵀu⟩ = ⟨Jv, u⟩,  Jv = (f(x + h·v) − f(x − h·v)) / 2h

    with random ``u`` and ``v``. Arguments with more than 200 elements are sampled coordinate by coordinate (with
    ``seed``); three random directions per argument move every element.

    Parameters
    ----------
    f : callable
        Takes the arguments, returns a float array or a tuple of them. Never given the caller's own arrays.
    arguments : tuple, list or mapping
        A sequence is passed by position, a mapping by keyword. Float arrays and scalars (NumPy, PyTorch, JAX,
        CuPy; Python floats) are cast to float64 and differentiated; integers and everything else are passed on.
    vjp : callable, optional
        ``vjp(*arguments, grad)``, or ``vjp(**arguments, grad=grad)`` for a mapping; ``grad`` is shaped as ``f``'s
        result. It returns the gradients: a mapping or named tuple is matched by name (a named tuple none of whose
        fields is an argument of ``f``, by position); a plain tuple by position, one for every float argument or one
        for every argument (``None`` where there is none); one array where there is one float argument.
        By default ``f``'s own where ``f`` is one of this package's operations, ``functools.partial`` of one included,
        else PyTorch's or JAX's autograd for their arrays.
    wrt : str or iterable of str, optional
        The arguments to check, by ``f``'s own names (``args[0]``, … where ``f`` names none). Default: every float one.
    rtol : float
        How far a gradient may be off, as a share of the argument's largest. Rounding in ``f`` is allowed for beside
        it, and named in the verdict where it is what limits the check.
    seed : int
        Of the random cotangents, directions and samples.

    Returns
    -------
    GradcheckReport
        True where all arguments agree; ``print`` shows a table; ``.rows`` has one `GradcheckRow` per argument.
        Coordinates at a kink (one-sided differences disagree, and not less with a shorter step) are counted and left
        out, and so are, along a direction, the elements of the result that sit on one: either side is right there.
        An argument of which nothing could be compared is not ok. Nor is one whose gradient, or an ``f``, that is
        not finite.

    Raises
    ------
    ValueError, TypeError
        One line each: no VJP to be found, a missing gradient or one of the wrong shape, an unknown name in ``wrt``,
        a result that is not float64.
    """
    if not callable(f):
        raise TypeError(f"gradcheck: f must be callable, got {type(f).__name__}.")
    if not (isinstance(rtol, (int, float, np.floating)) and 0 < rtol < 1):
        raise ValueError(f"gradcheck: rtol must be between 0 and 1, got {rtol!r}.")
    call = Call(f, arguments)
    wanted = call.wanted(wrt, by_autograd=vjp is None)
    with call.framework.scope():
        return Comparison(call, call.pullback(vjp), float(rtol), np.random.default_rng(seed)).report(wanted)
