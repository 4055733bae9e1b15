"""Where arrays are: how time is taken there, what the same bytes take, and who differentiates."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .._gradcheck import frameworks
from ._suite import streaming

#: A function of values in the places of the arguments' arrays; what it returns is in the order of the first one's.
Called = Callable[[list[Any]], list[Any]]


class BenchError(Exception):
    """What a comparison raises itself, told from what a function under test raises."""


class BenchValueError(BenchError, ValueError):
    pass


class BenchTypeError(BenchError, TypeError):
    pass


class NoGradientError(Exception):
    """Why a function has no gradient to be timed, and what to do."""


PAIR = "give the function and its VJP as a pair"


class Host(frameworks.NumPy):
    """NumPy's arrays, and all that are computed when a call returns; the others say what is different."""

    #: Whether calls return before the arrays are computed.
    on_device = False

    def device(self) -> str:
        return platform.machine()

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        """Seconds that these calls take."""
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - start

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        return streaming(read, written)

    def gradient(self, f: Called, values: list[Any], grads: list[Any]) -> Callable[[], Any]:
        """The framework's own differentiation of f; ``grads`` are those of its results, None where none is."""
        raise NoGradientError(PAIR)


class _Torch(frameworks.Torch, Host):
    def __init__(self, array: Any) -> None:
        super().__init__()
        self.place = array.device
        if self.place.type not in ("cpu", "cuda"):
            raise BenchValueError(f"bench: tensors must be on the CPU or on a CUDA device, got {self.place}.")
        self.on_device = self.place.type == "cuda"

    def device(self) -> str:
        return str(self.module.cuda.get_device_name(self.place)) if self.on_device else super().device()

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        if not self.on_device:
            return super().elapsed(function, calls)
        with self.module.cuda.device(self.place):
            start, end = (self.module.cuda.Event(enable_timing=True) for _ in range(2))
            _between(start, end, function, calls)
        return float(start.elapsed_time(end)) / 1e3

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        if not self.on_device:
            return super().streaming(read, written)
        source = self.module.ones((read + written) // 2, dtype=self.module.uint8, device=self.place)
        target = self.module.empty_like(source)
        return lambda: target.copy_(source)

    def gradient(self, f: Called, values: list[Any], grads: list[Any]) -> Callable[[], Any]:
        tensors = self.module.Tensor
        # What was made in inference mode cannot be recorded.
        fresh = [
            (value.clone() if value.is_inference() else value.detach()) if isinstance(value, tensors) else value
            for value in values
        ]
        floats = [value.requires_grad_() for value in fresh if isinstance(value, tensors) and self.is_float(value)]
        if not floats:
            raise NoGradientError("none of the arguments is a tensor of floats")
        pairs = [
            (leaf, grad)
            for leaf, grad in zip(f(fresh), grads)
            if isinstance(leaf, tensors) and leaf.requires_grad and grad is not None
        ]
        if not pairs:
            raise NoGradientError(
                f"autograd recorded nothing on the way to its result (integers, no_grad, detach, NumPy); {PAIR}"
            )
        outputs, cotangents = zip(*pairs)
        return lambda: self.module.autograd.grad(outputs, floats, cotangents, retain_graph=True, allow_unused=True)


class _Jax(frameworks.Jax, Host):
    def __init__(self, array: Any) -> None:
        super().__init__()
        self.place = next(iter(array.devices()))
        self.on_device = self.place.platform != "cpu"

    def device(self) -> str:
        return str(self.place.device_kind) if self.on_device else super().device()

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        return super().elapsed(lambda: self.module.block_until_ready(function()), calls)

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        if not self.on_device:
            return super().streaming(read, written)
        source = self.module.device_put(np.ones((read + written) // 2, np.uint8), self.place)
        copied = self.module.jit(lambda a: a ^ 1)
        return lambda: copied(source)

    def gradient(self, f: Called, values: list[Any], grads: list[Any]) -> Callable[[], Any]:
        floats = [k for k, value in enumerate(values) if hasattr(value, "dtype") and self.is_float(value)]
        if not floats:
            raise NoGradientError("none of the arguments is an array of floats")

        def pulled(wanted: list[Any], grads: list[Any]) -> Any:
            kept: list[int] = []

            def of_wanted(*changed: Any) -> list[Any]:
                all_values = list(values)
                for k, value in zip(floats, changed):
                    all_values[k] = value
                found = f(all_values)
                kept[:] = [
                    k
                    for k, (leaf, grad) in enumerate(zip(found, grads))
                    if hasattr(leaf, "dtype") and self.is_float(leaf) and grad is not None
                ]
                return [found[k] for k in kept]

            pull = self.module.vjp(of_wanted, *wanted)[1]
            if not kept:
                raise NoGradientError(f"none of its results is an array of floats; {PAIR}")
            return pull([grads[k] for k in kept])

        wanted = [values[k] for k in floats]
        self.module.eval_shape(pulled, wanted, grads)  # what cannot be traced says so here
        compiled = self.module.jit(pulled)
        return lambda: compiled(wanted, grads)


class _CuPy(frameworks.CuPy, Host):
    on_device = True

    def __init__(self, array: Any) -> None:
        super().__init__()
        self.place = array.device

    def device(self) -> str:
        return str(self.module.cuda.runtime.getDeviceProperties(self.place.id)["name"].decode())

    def elapsed(self, function: Callable[[], Any], calls: int) -> float:
        cuda = self.module.cuda
        with self.place:
            start, end = cuda.Event(), cuda.Event()
            _between(start, end, function, calls)
        return float(cuda.get_elapsed_time(start, end)) / 1e3

    def streaming(self, read: int, written: int) -> Callable[[], Any]:
        with self.place:
            source = self.module.ones((read + written) // 2, np.uint8)
            target = self.module.empty_like(source)
        return lambda: self.module.copyto(target, source)


_HOSTS: dict[type, Callable[[Any], Host]] = {
    frameworks.Torch: _Torch,
    frameworks.Jax: _Jax,
    frameworks.CuPy: _CuPy,
}


def _between(start: Any, end: Any, function: Callable[[], Any], calls: int) -> None:
    """Calls between two events, both of them past."""
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()


def host_of(values: Iterable[Any]) -> Host:
    """The host of these arrays: of those on a device, or in a framework of their own, where some are."""
    found = Host()
    for value in values:
        kind = _HOSTS.get(frameworks.kind_of(value))
        if kind is None or found.on_device:
            continue
        host = kind(value)
        if host.on_device or type(found) is Host:
            found = host
    return found
