"""Functions of the same arguments timed in turn, their results and gradients compared."""

from __future__ import annotations

import inspect
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np

from .. import _cpu
from .._core.checks import brief, dtype_name, real
from .._core.settings import get_num_threads
from .._gradcheck.call import called, own_vjp
from .._gradcheck.trees import values_in, with_leaves
from ._hosts import PAIR, BenchTypeError, BenchValueError, Host, NoGradientError, host_of
from ._report import Report, Row
from ._results import difference, in_order, pairs, places, results, shapes

#: A sample of what takes less is one of several calls.
_SHORTEST = 2e-4
_LEAST, _MOST = 7, 1000  # rounds

#: A function, or a function and its VJP.
Function: TypeAlias = Callable[..., Any] | tuple[Callable[..., Any], Callable[..., Any] | None]
#: Of no arguments.
Calls: TypeAlias = Mapping[str, Callable[[], Any]]


def compare(
    functions: Mapping[str, Function],
    arguments: tuple[object, ...] | list[Any] | Mapping[str, object],
    *,
    gradients: bool = False,
    seconds: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Time functions of the same arguments in turn, and compare what they return with the first one's results.

    In a *round* each function is called after the other, the streaming bound among them, so that whatever slows the
    machine down meets all, and none finds its arrays in a cache that it has warmed for itself; each round in another
    order. What takes less than 0.2 ms is called several times at a stretch, after a call that is not timed. The
    streaming bound only reads as many bytes as the arguments have and writes as many as the first function's results
    have: on the CPU by a loop on this package's threads (compiled by Numba where that is installed), on a CUDA device
    by a copy.

    Parameters
    ----------
    functions : mapping from a name to a function, or to a pair of a function and its VJP
        The first one is what the others are compared with. A VJP is called as that of :func:`bilateral_ops.gradcheck`.
    arguments : tuple, list or mapping
        By position or by keyword. The framework of the arrays, and of what a function makes of them, says how time is
        taken: PyTorch and CuPy on a CUDA device by events on the current stream, JAX by ``block_until_ready``, all else
        by the clock.
    gradients : bool
        Time gradients too, of all float arrays: by the VJP of a pair, an operation of this package by its own where
        arrays are NumPy's or CuPy's, otherwise by autograd alone in PyTorch and by the compiled ``vjp`` in JAX, with as
        much of the forward call as it needs. The gradient of the result is random numbers, in float32 for a result of
        integers, in the function's own container. A function without is left out, and the report says why.
    seconds : float
        About how long the rounds of each direction may take; 7 rounds at least.
    progress : callable, optional
        Told what is about to be timed.

    Returns
    -------
    Report
        One :class:`Row` for each function and direction; a table when printed, with a line for each function whose
        results differ by more than rounding.

    Raises
    ------
    ValueError, TypeError
        One line each: no function, arguments that a function can't be called with, results of other shapes than the
        first one's, or that are no numbers. What a function raises itself is passed on.

    Notes
    -----
    Results are arrays or numbers, alone or in tuples, lists and dicts; names are compared by name. They differ where an
    element is further off than half the digits of the dtype (√ε of the array's largest; 3e-4 for float32, 3e-2 for
    float16, 1e-8 for float64), unsigned integers than one level, other integers at all. NaNs at the same place are no
    difference.

    Functions allocate their results; ``functools.partial(f, out=out)`` is one that doesn't. Threads are as they are
    set: by :func:`bilateral_ops.set_num_threads` for this package.
    """
    if (number := real(seconds)) is None or not number > 0:
        raise BenchValueError(f"bench: seconds must be a positive number, got {brief(seconds)}.")
    return compared(functions, arguments, gradients=gradients, seconds=number, progress=progress)


def compared(
    functions: Mapping[str, Function],
    arguments: Any,
    *,
    gradients: bool,
    seconds: float,
    progress: Callable[[str], None] | None = None,
    grad: Any = None,
    beside: Mapping[str, Calls] | None = None,
) -> Report:
    """``compare``; the gradient of the result may be given, and calls ``beside`` the functions', by direction."""
    given = Given(arguments)
    both = _checked(functions, given)
    beside = beside or {}
    calls = {name: partial(given.call, f) for name, (f, _) in both.items()} | dict(beside.get("forward", {}))
    rows, first = timed("forward", calls, given.leaves, given.bytes, seconds, progress)
    about, notes = facts(host_of([*given.leaves, *values_in(first)])), []
    if gradients:
        host = host_of(given.leaves)
        rng = np.random.default_rng(0)  # one for all, so that gradients given for each other are seen
        grads = [_drawn(leaf, rng) for leaf in values_in(first)] if grad is None else values_in(grad)
        calls = {}
        with host.scope("float32"):  # where the caller may want none, gradients are recorded
            for name, (f, vjp) in both.items():
                try:
                    calls[name] = _gradient(f, vjp, given, host, first, grads)
                except NoGradientError as error:
                    notes.append(f"no gradient of {name}: {error}.")
            calls |= beside.get("gradient", {})
            if calls:
                read = given.bytes + sum(map(_bytes, grads))
                rows += timed("gradient", calls, given.leaves, read, seconds, progress)[0]
    return Report(tuple(rows), about, tuple(notes))


def facts(host: Host) -> dict[str, Any]:
    """On what and with what times are taken."""
    return {
        "version": _cpu.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "device": host.device(),
        "isa": _cpu.isa(),
        "threads": get_num_threads(),
    }


# --- The arguments, and the calls made of them


class Given:
    """A caller's arguments, by position or by name, and the arrays in them."""

    def __init__(self, arguments: Any) -> None:
        self.by_name = isinstance(arguments, Mapping)
        if not self.by_name and not isinstance(arguments, (tuple, list)):
            raise BenchTypeError(
                f"bench: arguments must be a tuple, a list or a mapping of the functions' arguments, got "
                f"{type(arguments).__name__}."
            )
        for key in arguments if self.by_name else ():
            if not isinstance(key, str):
                raise BenchTypeError(f"bench: arguments by keyword must have names for keys, got {brief(key)}.")
        self.arguments: Any = dict(arguments) if self.by_name else list(arguments)
        self.leaves = values_in(self.arguments)
        self.bytes = sum(map(_bytes, self.leaves))

    def call(self, f: Callable[..., Any], values: list[Any] | None = None) -> Any:
        """``f`` of the arguments, or of others in the places of their arrays."""
        given = self.arguments if values is None else with_leaves(self.arguments, iter(values))
        return f(**given) if self.by_name else f(*given)


def _bytes(value: Any) -> int:
    return int(getattr(value, "nbytes", 0))


def _checked(functions: Any, given: Given) -> dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]]:
    """The functions and their VJPs, which take the arguments as far as their signatures tell."""
    if not isinstance(functions, Mapping):
        raise BenchTypeError(
            f"bench: functions must be a mapping from names to functions, as {{'mine': f}}, got "
            f"{type(functions).__name__}."
        )
    if not functions:
        raise BenchValueError("bench: functions must have at least one function, got none.")
    checked = {}
    for name, function in functions.items():
        pair = function if isinstance(function, tuple) else (function, None)
        if not isinstance(name, str):
            raise BenchTypeError(f"bench: functions must have strings for names, got {brief(name)}.")
        if len(pair) != 2 or not (pair[1] is None or callable(pair[1])):
            raise BenchTypeError(f"bench: {name} must be a function, or a pair of a function and its VJP.")
        f, vjp = pair
        if not callable(f):
            raise BenchTypeError(f"bench: {name} must be callable, got {type(f).__name__}.")
        try:
            # What a decorator passes on is its own affair.
            signature = inspect.signature(f, follow_wrapped=False)
        except (TypeError, ValueError):  # NumPy's functions have none
            pass
        else:
            try:
                given.call(signature.bind)
            except TypeError as error:
                raise BenchTypeError(f"bench: {name} cannot be called with the arguments ({error}).") from None
        checked[name] = (f, vjp)
    return checked


def _drawn(result: Any, rng: np.random.Generator) -> Any:
    """A random gradient of a result, as a VJP and autograd take it."""
    if result is None:
        return None
    host, like = host_of([result]), np.asarray(0.0) if isinstance(result, (int, float)) else result
    dtype = dtype_name(like.dtype)
    array = rng.standard_normal(np.shape(result))
    return host.make(array, like, dtype if host.is_float(like) or "complex" in dtype else "float32")


def _gradient(
    f: Callable[..., Any], vjp: Callable[..., Any] | None, given: Given, host: Host, first: Any, grads: list[Any]
) -> Callable[[], Any]:
    """The call that computes a function's gradients for those of its results, ``grads`` in the order of the first's."""
    if vjp is None and host.has_autograd:
        try:
            return host.gradient(lambda values: _whole(given.call(f, values), first, grads), given.leaves, grads)
        except NoGradientError:
            raise
        except Exception as error:  # whatever a function does that cannot be recorded
            raise NoGradientError(f"{type(error).__name__}: {brief(error, str).rstrip('.')}") from error
    try:
        pull = own_vjp(f) if vjp is None else called(vjp)
    except ValueError:  # an operation that has none
        pull = None
    if pull is None:
        raise NoGradientError(PAIR)
    returned = given.call(f)
    _whole(returned, first, grads)
    grad = with_leaves(returned, (grads[k] if k < len(grads) else None for k in places(returned, first)))
    arguments = given.arguments if given.by_name else dict(enumerate(given.arguments))
    return partial(pull(given.by_name, arguments), grad)


def _whole(returned: Any, first: Any, grads: list[Any]) -> list[Any]:
    """What a function returned in the order of the first one's, all that has a gradient among it."""
    found = in_order(returned, first)
    if any(there is None for there, grad in zip_longest(found, grads) if grad is not None):
        raise NoGradientError("it returns only a part of what the first function returns")
    return found


# --- Time


def timed(
    direction: str,
    calls: Calls,
    arguments: list[Any],
    read: int,
    seconds: float,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Row], Any]:
    """The rows of calls, and what the first of them returned, which the others are compared with.

    ``arguments`` are the arrays that they are called with, and ``read`` how many bytes those have.
    """
    hosts: dict[str, Host] = {}
    off: dict[str, tuple[float, float]] = {}
    first_name = next(iter(calls))
    first: Any = None
    for name, call in calls.items():
        if progress is not None:
            progress(f"{name}, {direction}")
        returned = call()  # compilation included
        hosts[name] = host_of([*arguments, *values_in(returned)])
        who = name if direction == "forward" else f"the {direction} of {name}"
        found = results(who, returned, first)
        if name == first_name:
            first, expected = returned, found
        matched = pairs(found, expected)
        if matched is None:
            raise BenchValueError(
                f"bench: {who} must return {shapes(expected)}, as of {first_name}, got {shapes(found)}."
            )
        off[name] = difference(matched)
    written = sum(map(_bytes, values_in(first)))
    bound = hosts[first_name].streaming(read, written)
    bound()
    both = [(call, hosts[name]) for name, call in calls.items()]
    *measured, streamed = rounds([*both, (bound, hosts[first_name])], seconds)
    firsts = measured[0]
    rows = []
    for name, own in zip(calls, measured):
        low, median, high = statistics.quantiles(own, n=4)
        by_bound, by_first = (statistics.median(a / b for a, b in zip(own, other)) for other in (streamed, firsts))
        rate = (read + written) / median / 1e9
        rows.append(Row(name, direction, median, low, high, rate, by_bound, by_first, *off[name], len(own)))
    return rows, first


def rounds(calls: Sequence[tuple[Callable[[], Any], Host]], seconds: float) -> list[list[float]]:
    """Times of each call, in seconds, of as many rounds as there is time for. Each has been called before."""
    repeats = []
    for call, host in calls:
        once = host.elapsed(call, 1)
        if once < 10 * _SHORTEST:  # the first call after others may take many times as long
            once = min(once, *(host.elapsed(call, 1) for _ in range(5)))
        repeats.append(max(1, round(_SHORTEST / max(once, 1e-7))))
    times: list[list[float]] = [[] for _ in calls]
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    done = 0
    while done < _LEAST or (done < _MOST and time.perf_counter() - start < seconds):
        # In another order each time: what comes after the same one always finds its leavings in the cache.
        for k in rng.permutation(len(calls)):
            call, host = calls[k]
            if repeats[k] > 1:
                call()
            times[k].append(host.elapsed(call, repeats[k]) / repeats[k])
        done += 1
    return times
