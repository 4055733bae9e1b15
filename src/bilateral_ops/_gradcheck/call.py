"""A function to be checked, its arguments and VJP, of any framework: results and gradients as NumPy arrays."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from .._core.checks import brief

# --- Frameworks: how a float64 NumPy array becomes an argument, and back. None is imported that the caller doesn't use


class _NumPy:
    """NumPy arrays and Python scalars; a subclass does the same for another framework's own arrays."""

    name, array = "numpy", "ndarray"
    #: Whether ``gradients`` can do without a VJP.
    has_autograd = False

    def __init__(self) -> None:
        self.module: Any = import_module(self.name)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def is_float(self, value: Any) -> bool:
        if isinstance(value, (np.ndarray, np.generic)):
            return value.dtype.kind == "f" or value.dtype.name == "bfloat16"
        return isinstance(value, float)

    def to_numpy(self, value: Any) -> Any:
        return np.asarray(value)

    def make(self, array: Any, like: Any) -> Any:
        """An argument for ``f`` of the kind of ``like``; always a copy, so that ``f`` may scribble on it."""
        return float(array) if isinstance(like, (float, np.generic)) else np.array(array)

    def copy(self, value: Any) -> Any:
        return value.copy() if isinstance(value, np.ndarray) else value

    def gradients(self, call: Call, arguments: dict[Any, Any], cotangents: list[Any]) -> list[Any]:
        """Those of ``call.own`` by the framework itself."""
        raise NotImplementedError


class _Torch(_NumPy):
    name, array = "torch", "Tensor"
    has_autograd = True

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        # The caller may want no gradients recorded; autograd is what is asked here.
        with self.module.inference_mode(False), self.module.enable_grad():
            yield

    def is_float(self, value: Any) -> bool:
        return bool(value.is_floating_point())

    def to_numpy(self, value: Any) -> Any:
        value = value.detach().cpu()
        return (value.double() if value.dtype in (self.module.bfloat16, self.module.float16) else value).numpy()

    def make(self, array: Any, like: Any) -> Any:
        return self.module.tensor(np.asarray(array), dtype=self.module.float64, device=like.device)

    def copy(self, value: Any) -> Any:
        return value.detach().clone()

    def gradients(self, call: Call, arguments: dict[Any, Any], cotangents: list[Any]) -> list[Any]:
        leaves = [arguments[key].requires_grad_() for key in call.own]
        results = zip(call.outputs(arguments), cotangents)
        pairs = [(r, c) for r, c in results if isinstance(r, self.module.Tensor) and r.requires_grad]
        if not pairs:
            return [None] * len(leaves)
        outputs, grads = zip(*pairs)
        return list(self.module.autograd.grad(outputs, leaves, grads, allow_unused=True))


class _Jax(_NumPy):
    name, array = "jax", "Array"
    has_autograd = True

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        experimental: Any = import_module("jax.experimental")
        where = experimental if hasattr(experimental, "enable_x64") else self.module  # in later versions
        scope: contextlib.AbstractContextManager[Any] = where.enable_x64(True)
        return scope

    def is_float(self, value: Any) -> bool:
        return bool(self.module.numpy.issubdtype(value.dtype, self.module.numpy.floating))

    def make(self, array: Any, like: Any) -> Any:
        made = self.module.device_put(np.array(array), next(iter(like.devices())))
        if made.dtype != np.float64:
            raise RuntimeError(
                "gradcheck: JAX keeps to float32 here, and differences in float32 are too coarse; set JAX_ENABLE_X64=1."
            )
        return made

    def copy(self, value: Any) -> Any:
        return value

    def gradients(self, call: Call, arguments: dict[Any, Any], cotangents: list[Any]) -> list[Any]:
        def traced(*leaves: Any) -> Any:
            return call.outputs({**arguments, **dict(zip(call.own, leaves))})

        return list(self.module.vjp(traced, *(arguments[key] for key in call.own))[1](cotangents))


class _CuPy(_NumPy):
    name = "cupy"

    def is_float(self, value: Any) -> bool:
        return bool(value.dtype.kind == "f")

    def to_numpy(self, value: Any) -> Any:
        return self.module.asnumpy(value)

    def make(self, array: Any, like: Any) -> Any:
        return self.module.array(array)

    def copy(self, value: Any) -> Any:
        return value.copy()


_NUMPY = _NumPy()


def _framework_of(value: Any) -> type[_NumPy]:
    for framework in (_Torch, _Jax, _CuPy):
        if (module := sys.modules.get(framework.name)) and isinstance(value, getattr(module, framework.array, ())):
            return framework
    return _NumPy


# --- The call: names, float64 copies of the arguments, the flat result, and the gradients by argument


class Call:
    """``f`` and its arguments; ``values`` maps a key (a keyword, or a position) to the caller's value."""

    def __init__(self, f: Callable[..., Any], arguments: Any) -> None:
        self.f = f
        self.by_name = isinstance(arguments, Mapping)
        if self.by_name:
            self.values: dict[Any, Any] = dict(arguments)
            self.names: dict[Any, str] = {key: str(key) for key in self.values}
        elif isinstance(arguments, (tuple, list)):
            self.values = dict(enumerate(arguments))
            self.names = dict(enumerate(_parameter_names(f, len(arguments))))
        else:
            raise TypeError(
                f"gradcheck: arguments must be a tuple, a list or a mapping of f's arguments, "
                f"got {type(arguments).__name__}."
            )
        frameworks = {_framework_of(value) for value in self.values.values()} - {_NumPy}
        if len(frameworks) > 1:
            both = " and ".join(sorted(framework.name for framework in frameworks))
            raise TypeError(f"gradcheck: arguments must be of one framework, got {both}.")
        self.framework = frameworks.pop()() if frameworks else _NUMPY
        self.floats = [key for key, value in self.values.items() if self.of(value).is_float(value)]
        #: The float arguments that autograd knows: its framework's own arrays.
        self.own = [key for key in self.floats if self.of(self.values[key]) is self.framework]
        self.point = {key: np.array(self.to_numpy(self.values[key]), np.float64, order="C") for key in self.floats}
        self.several = False
        self.shapes: list[tuple[int, ...]] = []
        self.templates: list[Any] = []

    def of(self, value: Any) -> _NumPy:
        """Who knows what to do with a value: the framework with its own arrays, NumPy with others and numbers."""
        return self.framework if _framework_of(value) is type(self.framework) else _NUMPY

    def to_numpy(self, value: Any) -> Any:
        return self.of(value).to_numpy(value)

    def wanted(self, wrt: Any, by_autograd: bool) -> list[Any]:
        have = ", ".join(self.names.values()) or "none"
        if wrt is None:
            if not self.floats:
                raise ValueError(f"gradcheck: arguments must have a float array or scalar among them, got {have}.")
            # A Python number among tensors is passed on where autograd is asked.
            return self.own if by_autograd and self.own else self.floats
        keys = {name: key for key, name in self.names.items()}
        wanted = []
        for name in (wrt,) if isinstance(wrt, str) else wrt:
            if not isinstance(name, str) or name not in keys:
                raise ValueError(f"gradcheck: wrt must name arguments of f ({have}), got {brief(name)}.")
            if keys[name] not in self.floats:
                value = self.values[keys[name]]
                found = getattr(value, "dtype", type(value).__name__)
                raise TypeError(f"gradcheck: wrt must name float arguments, got {name!r}, which is {found}.")
            if keys[name] not in wanted:
                wanted.append(keys[name])
        if not wanted:
            raise ValueError("gradcheck: wrt must name at least one argument, got none.")
        return wanted

    def arguments(self, point: Mapping[Any, Any]) -> dict[Any, Any]:
        """Fresh arguments at ``point``."""
        return {
            key: self.of(value).make(point[key], value) if key in point else self.of(value).copy(value)
            for key, value in self.values.items()
        }

    def outputs(self, arguments: dict[Any, Any]) -> list[Any]:
        result = self.f(**arguments) if self.by_name else self.f(*arguments.values())
        self.several = isinstance(result, (tuple, list))
        return list(result) if self.several else [result]

    def __call__(self, point: Mapping[Any, Any]) -> Any:
        """``f`` at ``point`` as one flat float64 array."""
        results = self.outputs(self.arguments(point))
        self.templates = results
        arrays = [self.to_numpy(result) for result in results]
        for array in arrays:
            if array.dtype != np.float64:
                raise TypeError(f"gradcheck: f must return float64 for float64 arguments, got {array.dtype}.")
        self.shapes = [array.shape for array in arrays]
        return np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0)

    def parts(self, flat: Any) -> list[Any]:
        """A flat array cut into ``f``'s results."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes], dtype=int)
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), self.shapes)]

    def pullback(self, vjp: Callable[..., Any] | None) -> Callable[[Any], dict[Any, Any]]:
        """``u → {key: Jᵀu}`` at the point; ``u`` flat."""
        pull = _own_vjp(self.f) if vjp is None else _called(vjp)
        if pull is None and not self.framework.has_autograd:
            raise ValueError("gradcheck: vjp must be given where f is not an operation of this package.")

        def gradients(u: Any) -> dict[Any, Any]:
            arguments = self.arguments(self.point)
            grads = [self.of(like).make(part, like) for part, like in zip(self.parts(u), self.templates)]
            if pull is not None:
                return self.aligned(pull(self.by_name, arguments, tuple(grads) if self.several else grads[0]))
            found = zip(self.own, self.framework.gradients(self, arguments, grads))
            # Autograd says None for an argument that f does not use: a gradient of zero.
            return {key: np.zeros_like(self.point[key]) if value is None else value for key, value in found}

        return gradients

    def aligned(self, found: Any) -> dict[Any, Any]:
        """What a VJP returned, by argument."""
        keys = {name: key for key, name in self.names.items()}
        fields = getattr(found, "_fields", None) if isinstance(found, tuple) else None
        if isinstance(found, Mapping) or (fields is not None and (self.by_name or set(fields) & set(keys))):
            named = dict(found) if isinstance(found, Mapping) else dict(zip(fields or (), found))
            # A package VJP has fields for arguments that were not passed: their None is no gradient.
            unknown = [name for name in named if name not in keys and named[name] is not None]
            if unknown:
                raise ValueError(f"gradcheck: vjp must name arguments of f ({', '.join(keys)}), got {unknown[0]!r}.")
            return {keys[name]: value for name, value in named.items() if name in keys}
        several = list(found) if isinstance(found, (tuple, list)) else [found]
        if len(several) == len(self.floats):
            return dict(zip(self.floats, several))
        if len(several) == len(self.values):
            return dict(zip(self.values, several))
        raise ValueError(
            f"gradcheck: vjp must return one gradient for each of the {len(self.floats)} float arguments "
            f"({', '.join(self.names[k] for k in self.floats)}) or of all {len(self.values)}, got {len(several)}."
        )

    def gradient(self, gradients: Mapping[Any, Any], key: Any) -> Any:
        """One gradient as float64, its shape checked."""
        name, shape = self.names[key], self.point[key].shape
        value = gradients.get(key)
        if value is None:
            raise ValueError(f"gradcheck: vjp must return a gradient for {name}, got None; leave it out with wrt.")
        array = self.to_numpy(value)
        if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
            raise TypeError(f"gradcheck: vjp must return a real array for {name}, got {array.dtype}.")
        if array.shape != shape:
            raise ValueError(f"gradcheck: vjp must return shape {shape} for {name}, got {array.shape}.")
        return array.astype(np.float64)


def _parameter_names(f: Callable[..., Any], count: int) -> list[str]:
    """``f``'s names for its first ``count`` positional arguments, ``args[k]`` where it has none."""
    names = [f"args[{k}]" for k in range(count)]
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return names
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return known + names[len(known) :]


#: A VJP of arguments by key, of which ``by_name`` says whether they are keywords.
_VJP = Callable[[bool, dict[Any, Any], Any], Any]


def _called(vjp: Callable[..., Any]) -> _VJP:
    def given(by_name: bool, arguments: dict[Any, Any], grad: Any) -> Any:
        return vjp(**arguments, grad=grad) if by_name else vjp(*arguments.values(), grad)

    return given


def _own_vjp(f: Callable[..., Any]) -> _VJP | None:
    """The VJP of one of this package's operations, called with the arguments and keywords of ``f`` that it takes."""
    bound_args: tuple[Any, ...] = ()
    bound_keywords: dict[str, Any] = {}
    function: Any = f
    while isinstance(function, functools.partial):
        bound_args = function.args + bound_args
        bound_keywords = {**function.keywords, **bound_keywords}
        function = function.func
    if not getattr(function, "__module__", "").startswith("bilateral_ops"):
        return None
    from ..ops import OPERATIONS

    operation = next((o for o in OPERATIONS.values() if o.function is function), None)
    if operation is None:
        return None
    vjp = operation.vjp
    if vjp is None:
        raise ValueError(f"gradcheck: vjp must be given for {operation.name}, which has none of its own.")
    takes = inspect.signature(vjp).parameters

    def own(by_name: bool, arguments: dict[Any, Any], grad: Any) -> Any:
        args = bound_args if by_name else (*bound_args, *arguments.values())
        keywords = {**bound_keywords, **arguments} if by_name else bound_keywords
        bound = inspect.signature(function).bind(*args, **keywords).arguments
        return vjp(**{name: value for name, value in bound.items() if name in takes}, grad=grad)

    return own
