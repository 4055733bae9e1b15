"""Hold a vector-Jacobian product against finite differences, for the package's operations and for anyone's own.

``call`` has a function, its arguments and its VJP, of any of the ``frameworks`` (``trees``: arrays in containers);
``comparison`` takes differences; ``report`` is what they say, and its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from .._core.checks import brief, dtype_name
from .._core.types import Array
from .call import Call
from .comparison import Comparison, Precision
from .report import GradcheckReport, GradcheckRow, table

__all__ = ["GradcheckReport", "GradcheckRow", "assert_gradients", "check_operations", "gradcheck", "table"]

#: What a function returns, one of these or several; and its VJP, for an argument.
_Result: TypeAlias = Array[object] | float


def check_operations(progress: Callable[[str], None] | None = None) -> dict[str, GradcheckReport]:
    """``gradcheck`` of every operation that has a VJP, on small random arguments with a batch, ``xy`` included."""
    from .. import _samples
    from ..ops import OPERATIONS

    reports = {}
    for name, operation in OPERATIONS.items():
        if operation.vjp is None:
            continue
        if progress is not None:
            progress(name)
        reports[name] = gradcheck(operation.function, _samples.arguments(name, N=2, xy="xy" in operation.arguments))
    return reports


def gradcheck(
    f: Callable[..., _Result | Sequence[_Result] | Mapping[str, Any]],
    arguments: tuple[object, ...] | list[Any] | Mapping[str, object],
    *,
    vjp: Callable[..., _Result | tuple[Any, ...] | list[Any] | Mapping[str, Any]] | None = None,
    wrt: str | Iterable[str] | None = None,
    dtype: Literal["float64", "float32"] | DTypeLike = "float64",
    eps: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> GradcheckReport:
    """Compare a vector-Jacobian product with central differences, in float64 or, where ``f`` has no other, float32.

        g = Jᵀu;  every coordinate i:  g_i = ⟨u, (f(x + h·e_i) − f(x − h·e_i)) / 2h⟩
        every direction v:  ⟨v, Jᵀu⟩ = ⟨Jv, u⟩,  Jv = (f(x + h·v) − f(x − h·v)) / 2h

    with random ``u`` and ``v``. Arguments with more than 200 elements are sampled coordinate by coordinate (with
    ``seed``); three random directions per argument move every element.

    Parameters
    ----------
    f : callable
        Takes the arguments, returns a float array or a container of them. Never given the caller's own arrays. Of a
        PyTorch module the parameters are arguments, too, by their names, and so are buffers where ``wrt`` names them.
    arguments : tuple, list or mapping
        A sequence is passed by position, a mapping by keyword. Float arrays and scalars (NumPy, PyTorch, JAX,
        TensorFlow, CuPy; Python floats) are cast to ``dtype`` and differentiated; integers and everything else are
        passed on.
        An argument may be a container of arrays: dicts, lists, tuples, named tuples and this package's guide records
        within each other, and any pytree in JAX. Its arrays are named ``params['weights'][0]``, those of a record
        ``guide.ccm``; numbers in it are passed on.
    vjp : callable, optional
        ``vjp(*arguments, grad)``, or ``vjp(**arguments, grad=grad)`` for a mapping; ``grad`` is shaped as ``f``'s
        result. It returns the gradients, that of a container as one like it: a mapping or named tuple is matched by
        name (a named tuple none of whose fields is an argument of ``f``, by position); a plain tuple by position, one
        for every float argument or one for every argument (``None`` where there is none); one array where there is one
        float argument.
        By default ``f``'s own where ``f`` is one of this package's operations, ``functools.partial`` of one included,
        else PyTorch's, JAX's or TensorFlow's autograd for their arrays.
    wrt : str or iterable of str, optional
        The arguments to check, by ``f``'s own names (``args[0]``, … where ``f`` names none); a container's name is all
        that is in it. Default: every float one.
    dtype : "float64" or "float32"
        Of arguments and cotangents. An operation that refuses float64 is checked in float32, more coarsely.
    eps : float, optional
        The step h, a share of each element's size or, where that is larger, of the argument's largest up to 1.
        Default: 2⁻¹⁷ for float64 and 2⁻⁸ for float32, near ε^⅓ with ε the spacing of the dtype's numbers at 1.
    rtol : float, optional
        How far a gradient may be off, as a share of the argument's largest. Default: ``max(1e-6, 16·(ε/h + h²))``, the
        rounding of ``f`` in a difference and the truncation of its series: 1e-6 for float64, 7e-4 for float32. Rounding
        in ``f`` is allowed for beside it, by the size of its results, and named in the verdict where it is what limits
        the check.
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
        One line each: an argument of the wrong kind, no VJP to be found, a missing gradient or one of the wrong shape,
        an unknown name in ``wrt``, a result of another dtype, an ``f`` that takes float32 only where ``dtype`` does not
        say so.
    """
    if not callable(f):
        raise TypeError(f"gradcheck: f must be callable, got {type(f).__name__}.")
    if vjp is not None and not callable(vjp):
        raise TypeError(f"gradcheck: vjp must be callable, got {type(vjp).__name__}.")
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise ValueError(f"gradcheck: seed must be an integer that is not negative, got {brief(seed)}.") from None
    for name, value in (("rtol", rtol), ("eps", eps)):
        if value is not None and not (isinstance(value, (int, float, np.floating)) and 0 < value < 1):
            raise ValueError(f"gradcheck: {name} must be between 0 and 1, got {value!r}.")
    if (kind := dtype_name(dtype)) not in ("float64", "float32"):
        raise ValueError(f"gradcheck: dtype must be 'float64' or 'float32', got {kind!r}.")
    call = Call(f, arguments, kind)
    wanted = call.wanted(wrt, by_autograd=vjp is None)
    precision = Precision(kind, eps, rtol)
    if rtol is None and precision.rtol > 0.1:
        raise ValueError(f"gradcheck: eps must be a step that tells gradients to a tenth, got {eps!r}.")
    with call.framework.scope(kind):
        return Comparison(call, call.pullback(vjp, wanted), precision, rng).report(wanted)


def assert_gradients(
    f: Callable[..., _Result | Sequence[_Result] | Mapping[str, Any]],
    arguments: tuple[object, ...] | list[Any] | Mapping[str, object],
    **options: Any,
) -> None:
    """``gradcheck``, for tests: an ``AssertionError`` whose message is the table, unless all gradients agree.

        def test_gradients():
            assert_gradients(my_operation, (x, y), vjp=my_vjp)

    Parameters
    ----------
    f, arguments, **options
        As of :func:`gradcheck`.

    Raises
    ------
    AssertionError
        A gradient does not agree.
    ValueError, TypeError
        As :func:`gradcheck`.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    report = gradcheck(f, arguments, **options)
    if not report:
        raise AssertionError(f"gradients do not agree with differences\n{report}")
