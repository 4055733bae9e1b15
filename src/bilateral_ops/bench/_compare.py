"""Functions of the same arguments timed in turn, their results and gradients compared."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from .. import _cpu
from .._core.settings import get_num_threads
from .._gradcheck.call import VJP, called, own_vjp
from .._gradcheck.trees import leaves, with_leaves
from ._report import Report, Row, difference
from ._suite import streaming

#: A sample of what takes less is one of several calls.
_SHORTEST = 2e-4
_LEAST, _MOST = 7, 1000  # rounds

#: A function, or a function and its VJP.
Function: TypeAlias = Callable[..., Any] | tuple[Callable[..., Any], Callable[..., Any]]


# --- Where arrays are: how time is taken there, what the same bytes take, and who differentiates


class Host:
    """NumPy's arrays, and PyTorch's on the CPU; the others say what is different."""

    def device(self) -> str:
        return platform.machine()

    def to_numpy(self, value: Any) -> Any:
        return np.asarray(value).astype(float)

    def cotangent(self, array: Any, like: Any) -> Any:
        return array.astype(like.dtype)

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        """Seconds that these calls take."""
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - start

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        return streaming(read, written)

    def gradient(self, f: Callable[..., Any], given: Given, grads: list[Any]) -> Callable[[], Any] | None:
        """Its own differentiation of f; None where there is none."""
        return None


class _Torch(Host):
    def __init__(self, array: Any) -> None:
        self.module, self.place = import_module("torch"), array.device

    def device(self) -> str:
        if self.place.type != "cuda":
            return super().device()
        return str(self.module.cuda.get_device_name(self.place))

    def to_numpy(self, value: Any) -> Any:
        return (
            value.detach().double().cpu().numpy() if isinstance(value, self.module.Tensor) else super().to_numpy(value)
        )

    def cotangent(self, array: Any, like: Any) -> Any:
        return self.module.as_tensor(array).to(like)

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        if self.place.type != "cuda":
            return super().elapsed(function, calls)
        with self.module.cuda.device(self.place):
            start, end = (self.module.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                function()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        if self.place.type != "cuda":
            return super().streaming(read, written)
        source = self.module.ones((read + written) // 2, dtype=self.module.uint8, device=self.place)
        target = self.module.empty_like(source)
        return lambda: target.copy_(source)

    def gradient(self, f: Callable[..., Any], given: Given, grads: list[Any]) -> Callable[[], Any] | None:
        floats = [k for k, a in enumerate(given.leaves) if self._is_float(a)]
        values = list(given.leaves)
        for k in floats:
            values[k] = values[k].detach().requires_grad_()
        results = [leaf for _, leaf in leaves(given.call(f, values))]
        wanted = [values[k] for k in floats]
        return lambda: self.module.autograd.grad(results, wanted, grads, retain_graph=True, allow_unused=True)

    def _is_float(self, value: Any) -> bool:
        return isinstance(value, self.module.Tensor) and value.is_floating_point()


class _Jax(Host):
    def __init__(self, array: Any) -> None:
        self.module = import_module("jax")
        self.place = next(iter(array.devices()))

    def device(self) -> str:
        return super().device() if self.place.platform == "cpu" else str(self.place.device_kind)

    def cotangent(self, array: Any, like: Any) -> Any:
        return self.module.device_put(array.astype(like.dtype), self.place)

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            self.module.block_until_ready(function())
        return time.perf_counter() - start

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        if self.place.platform == "cpu":
            return super().streaming(read, written)
        source = self.module.device_put(np.ones((read + written) // 2, np.uint8), self.place)
        copied = self.module.jit(lambda a: a ^ 1)
        return lambda: copied(source)

    def gradient(self, f: Callable[..., Any], given: Given, grads: list[Any]) -> Callable[[], Any] | None:
        numpy = self.module.numpy
        floats = [
            k for k, a in enumerate(given.leaves) if hasattr(a, "dtype") and numpy.issubdtype(a.dtype, np.floating)
        ]

        def pulled(wanted: list[Any], grads: list[Any]) -> Any:
            def of_wanted(*changed: Any) -> list[Any]:
                values = list(given.leaves)
                for k, value in zip(floats, changed):
                    values[k] = value
                return [leaf for _, leaf in leaves(given.call(f, values))]

            return self.module.vjp(of_wanted, *wanted)[1](grads)

        compiled = self.module.jit(pulled)
        wanted = [given.leaves[k] for k in floats]
        return lambda: compiled(wanted, grads)


class _CuPy(Host):
    def __init__(self, array: Any) -> None:
        self.module, self.place = import_module("cupy"), array.device

    def device(self) -> str:
        return str(self.module.cuda.runtime.getDeviceProperties(self.place.id)["name"].decode())

    def to_numpy(self, value: Any) -> Any:
        return super().to_numpy(self.module.asnumpy(value))

    def cotangent(self, array: Any, like: Any) -> Any:
        return self.module.asarray(array, like.dtype)

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        cuda = self.module.cuda
        with self.place:
            start, end = cuda.Event(), cuda.Event()
            start.record()
            for _ in range(calls):
                function()
            end.record()
            end.synchronize()
        return float(cuda.get_elapsed_time(start, end)) / 1e3

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        source = self.module.ones((read + written) // 2, np.uint8)
        target = self.module.empty_like(source)
        return lambda: self.module.copyto(target, source)


_FRAMEWORKS = {"torch": (_Torch, "Tensor"), "jax": (_Jax, "Array"), "cupy": (_CuPy, "ndarray")}


def host_of(values: Sequence[Any]) -> Host:
    for name, (host, array) in _FRAMEWORKS.items():
        cls = getattr(sys.modules.get(name), array, ())
        found = next((value for value in values if isinstance(value, cls)), None)
        if found is not None:
            return host(found)
    return Host()


# --- The arguments, and the calls made of them


class Given:
    """A caller's arguments, by position or by name, and the arrays in them."""

    def __init__(self, arguments: Any) -> None:
        self.by_name = isinstance(arguments, Mapping)
        if not self.by_name and not isinstance(arguments, (tuple, list)):
            raise TypeError(
                f"bench: arguments must be a tuple, a list or a mapping of the functions' arguments, got "
                f"{type(arguments).__name__}."
            )
        self.arguments = dict(arguments) if self.by_name else list(arguments)
        self.leaves = [leaf for _, leaf in leaves(self.arguments)]
        self.bytes = sum(_bytes(leaf) for leaf in self.leaves)

    def call(self, f: Callable[..., Any], values: list[Any] | None = None) -> Any:
        """``f`` of the arguments, or of others in the places of their arrays."""
        given: Any = self.arguments if values is None else with_leaves(self.arguments, iter(values))
        return f(**given) if self.by_name else f(*given)

    def pulled(self, vjp: VJP, grad: Any) -> Any:
        named = self.arguments if isinstance(self.arguments, dict) else dict(enumerate(self.arguments))
        return vjp(self.by_name, named, grad)


def _bytes(value: Any) -> int:
    return int(getattr(value, "nbytes", 0))


def _arrays(host: Host, returned: Any) -> list[Any]:
    return [host.to_numpy(leaf) for _, leaf in leaves(returned) if leaf is not None]


# --- Time


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
    machine down meets all, and none finds its arrays in a cache that it has warmed for itself. What takes less than
    0.2 ms is called several times at a stretch. The streaming bound only reads as many bytes as the arguments have and
    writes as many as the first function's results have: on the CPU by a loop on this package's threads (compiled by
    Numba where that is installed), on a CUDA device by a copy.

    Parameters
    ----------
    functions : mapping from a name to a function, or to a pair of a function and its VJP
        The first one is what the others are compared with. A VJP is called as that of :func:`bilateral_ops.gradcheck`.
    arguments : tuple, list or mapping
        By position or by keyword. The arrays' framework says how time is taken: PyTorch and CuPy on a CUDA device by
        events on the current stream, JAX by ``block_until_ready``, all else by the clock.
    gradients : bool
        Time gradients too: by the VJP of a pair, an operation of this package by its own where arrays are NumPy's or
        CuPy's, otherwise by autograd alone in PyTorch and by the compiled ``vjp`` in JAX, with as much of the forward
        call as it needs. Functions without are left out.
    seconds : float
        About how long the rounds of each direction may take; 7 rounds at least.
    progress : callable, optional
        Told what is about to be timed.

    Returns
    -------
    Report
        One :class:`Row` for each function and direction; a table when printed.

    Raises
    ------
    ValueError, TypeError
        No function, results of other shapes than the first one's, arguments that are none.

    Notes
    -----
    Functions allocate their results; ``functools.partial(f, out=out)`` is one that doesn't. Threads are as they are
    set: by :func:`bilateral_ops.set_num_threads` for this package.
    """
    if not functions:
        raise ValueError("bench: functions must have at least one function, got none.")
    if not seconds > 0:
        raise ValueError(f"bench: seconds must be positive, got {seconds!r}.")
    given = Given(arguments)
    host = host_of(given.leaves)
    forward, backward, read = prepared(functions, given, host, gradients)
    rows = timed("forward", forward, given.bytes, host, seconds, progress)
    if backward:
        rows += timed("gradient", backward, read, host, seconds, progress)
    return Report(tuple(rows), facts(host))


def facts(host: Host | None = None) -> dict[str, Any]:
    """On what and with what times are taken."""
    return {
        "version": _cpu.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "device": (host or Host()).device(),
        "isa": _cpu.isa(),
        "threads": get_num_threads(),
    }


def prepared(
    functions: Mapping[str, Function], given: Given, host: Host, gradients: bool, grad: Any = None
) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]], int]:
    """Calls of the functions, and of their gradients where there are any, with the bytes that these read.

    ``grad`` is the gradient of the result, by default random numbers.
    """
    pairs = {name: f if isinstance(f, tuple) else (f, None) for name, f in functions.items()}
    for name, (f, _) in pairs.items():
        if not callable(f):
            raise TypeError(f"bench: {name} must be callable, got {type(f).__name__}.")
    forward: dict[str, Callable[[], Any]] = {name: partial(given.call, f) for name, (f, _) in pairs.items()}
    backward: dict[str, Callable[[], Any]] = {}
    if not gradients:
        return forward, backward, 0
    first = given.call(next(iter(pairs.values()))[0])
    if grad is None:
        rng = np.random.default_rng(0)
        drawn = (host.cotangent(rng.standard_normal(tuple(leaf.shape)), leaf) for _, leaf in leaves(first))
        grad = with_leaves(first, drawn)
    grads = [leaf for _, leaf in leaves(grad)]
    for name, (f, vjp) in pairs.items():
        call = None if vjp else host.gradient(f, given, grads)
        pull = called(vjp) if vjp else None if call else own_vjp(f)
        if pull is not None:
            backward[name] = partial(given.pulled, pull, grad)
        elif call is not None:
            backward[name] = call
    return forward, backward, given.bytes + sum(map(_bytes, grads))


def timed(
    direction: str,
    calls: Mapping[str, Callable[[], Any]],
    read: int,
    host: Host,
    seconds: float,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """The rows of calls, of which the first is what the others are compared with."""
    found: dict[str, list[Any]] = {}
    written = 0
    for name, call in calls.items():
        if progress is not None:
            progress(f"{name}, {direction}")
        returned = call()  # compilation included
        if not found:
            written = sum(_bytes(leaf) for _, leaf in leaves(returned))
        found[name] = _arrays(host, returned)
        shapes, expected = ([array.shape for array in found[n]] for n in (name, next(iter(found))))
        if shapes != expected:
            raise ValueError(f"bench: {name} must return the shapes {expected} of {next(iter(found))}, got {shapes}.")
    times = rounds({**calls, "": host.streaming(read, written)}, host, seconds)
    bound, first = times.pop(""), times[next(iter(calls))]
    rows = []
    for name, own in times.items():
        low, median, high = statistics.quantiles(own, n=4)
        by_bound, by_first = (statistics.median(a / b for a, b in zip(own, other)) for other in (bound, first))
        rate = (read + written) / median / 1e9
        off = difference(found[name], found[next(iter(found))])
        rows.append(Row(name, direction, median, low, high, rate, by_bound, by_first, off, len(own)))
    return rows


def rounds(calls: Mapping[str, Callable[[], Any]], host: Host, seconds: float) -> dict[str, list[float]]:
    """Times of a call, in seconds, of as many rounds as there is time for."""
    repeats = {}
    for name, call in calls.items():
        host.elapsed(call, 1)
        repeats[name] = max(1, round(_SHORTEST / max(host.elapsed(call, 1), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    while len(times[next(iter(calls))]) < _LEAST or (
        time.perf_counter() - start < seconds and len(times[next(iter(calls))]) < _MOST
    ):
        for name, call in calls.items():
            times[name].append(host.elapsed(call, repeats[name]) / repeats[name])
    return times
