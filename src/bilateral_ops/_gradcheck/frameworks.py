"""How a NumPy array becomes an argument of each framework, and back; and who differentiates there.

None is imported that the caller doesn't use.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np

#: What a function returns, as a list, for arguments by key.
Outputs = Callable[[dict[Any, Any]], list[Any]]


class NumPy:
    """NumPy arrays and Python scalars; a subclass does the same for another framework's own arrays."""

    name, array = "numpy", "ndarray"
    #: Whether ``gradients`` can do without a VJP.
    has_autograd = False

    def __init__(self) -> None:
        self.module: Any = import_module(self.name)

    def scope(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def is_float(self, value: Any) -> bool:
        if isinstance(value, (np.ndarray, np.generic)):
            return value.dtype.kind == "f" or value.dtype.name == "bfloat16"
        return isinstance(value, float)

    def to_numpy(self, value: Any) -> Any:
        return np.asarray(value)

    def make(self, array: Any, like: Any, dtype: str) -> Any:
        """An argument for ``f`` of the kind of ``like``; always a copy, so that ``f`` may scribble on it."""
        return float(array) if isinstance(like, (float, np.generic)) else np.array(array, dtype)

    def copy(self, value: Any) -> Any:
        """A copy of what ``f`` could write to, and anything else itself."""
        return value.copy() if isinstance(value, np.ndarray) else value

    def gradients(self, f: Outputs, keys: list[Any], arguments: dict[Any, Any], cotangents: list[Any]) -> list[Any]:
        """Those of some arguments of ``f``, arrays of the framework, by the framework itself."""
        raise NotImplementedError


class Torch(NumPy):
    name, array = "torch", "Tensor"
    has_autograd = True

    @contextlib.contextmanager
    def scope(self, dtype: str) -> Iterator[None]:
        # The caller may want no gradients recorded; autograd is what is asked here.
        with self.module.inference_mode(False), self.module.enable_grad():
            yield

    def is_float(self, value: Any) -> bool:
        return bool(value.is_floating_point())

    def to_numpy(self, value: Any) -> Any:
        value = value.detach().cpu()
        return (value.double() if value.dtype in (self.module.bfloat16, self.module.float16) else value).numpy()

    def make(self, array: Any, like: Any, dtype: str) -> Any:
        return self.module.tensor(np.asarray(array), dtype=getattr(self.module, dtype), device=like.device)

    def copy(self, value: Any) -> Any:
        return value.detach().clone()

    def gradients(self, f: Outputs, keys: list[Any], arguments: dict[Any, Any], cotangents: list[Any]) -> list[Any]:
        leaves = [arguments[key].requires_grad_() for key in keys]
        results = zip(f(arguments), cotangents)
        pairs = [(r, c) for r, c in results if isinstance(r, self.module.Tensor) and r.requires_grad]
        if not pairs:
            return [None] * len(leaves)
        outputs, grads = zip(*pairs)
        return list(self.module.autograd.grad(outputs, leaves, grads, allow_unused=True))


class Jax(NumPy):
    name, array = "jax", "Array"
    has_autograd = True

    def scope(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        if dtype != "float64":
            return contextlib.nullcontext()
        experimental: Any = import_module("jax.experimental")
        where = experimental if hasattr(experimental, "enable_x64") else self.module  # in later versions
        scope: contextlib.AbstractContextManager[Any] = where.enable_x64(True)
        return scope

    def is_float(self, value: Any) -> bool:
        return bool(self.module.numpy.issubdtype(value.dtype, self.module.numpy.floating))

    def make(self, array: Any, like: Any, dtype: str) -> Any:
        made = self.module.device_put(np.array(array, dtype), next(iter(like.devices())))
        if made.dtype != dtype:
            raise RuntimeError("gradcheck: JAX keeps to float32 here; set JAX_ENABLE_X64=1, or pass dtype='float32'.")
        return made

    def gradients(self, f: Outputs, keys: list[Any], arguments: dict[Any, Any], cotangents: list[Any]) -> list[Any]:
        def traced(*leaves: Any) -> Any:
            return f({**arguments, **dict(zip(keys, leaves))})

        return list(self.module.vjp(traced, *(arguments[key] for key in keys))[1](cotangents))


class CuPy(NumPy):
    name = "cupy"

    def is_float(self, value: Any) -> bool:
        return bool(value.dtype.kind == "f")

    def to_numpy(self, value: Any) -> Any:
        return self.module.asnumpy(value)

    def make(self, array: Any, like: Any, dtype: str) -> Any:
        return self.module.array(np.asarray(array, dtype))

    def copy(self, value: Any) -> Any:
        return value.copy()


class TensorFlow(NumPy):
    name, array = "tensorflow", "Tensor"
    has_autograd = True

    def is_float(self, value: Any) -> bool:
        return bool(value.dtype.is_floating)

    def to_numpy(self, value: Any) -> Any:
        return value.numpy()

    def make(self, array: Any, like: Any, dtype: str) -> Any:
        with self.module.device(like.device):
            return self.module.constant(array, dtype)

    def gradients(self, f: Outputs, keys: list[Any], arguments: dict[Any, Any], cotangents: list[Any]) -> list[Any]:
        leaves = [arguments[key] for key in keys]
        with self.module.GradientTape() as tape:
            tape.watch(leaves)
            results = f(arguments)
        return list(tape.gradient(results, leaves, cotangents))


def kind_of(value: Any) -> type[NumPy]:
    for framework in (Torch, Jax, CuPy, TensorFlow):
        if (module := sys.modules.get(framework.name)) and isinstance(value, getattr(module, framework.array, ())):
            return framework
    return NumPy
