"""A function to be checked, its arguments and VJP, of any framework: results and gradients as NumPy arrays."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .._core.checks import brief
from .frameworks import NumPy, kind_of
from .trees import leaves, values_in, with_leaves

_NUMPY = NumPy()


class _Key(NamedTuple):
    """An argument, or an array in one that is a container: ``argument`` is a keyword or a position."""

    argument: Any
    path: str = ""


#: What a module's parameters and buffers are the argument of, beside the caller's.
_STATE = object()


class Call:
    """``f`` and its arguments; ``values`` maps a key to the caller's value, ``names`` to how it is called."""

    def __init__(self, f: Callable[..., Any], arguments: Any, dtype: str = "float64") -> None:
        self.f, self.dtype = f, dtype
        self.by_name = isinstance(arguments, Mapping)
        torch: Any = sys.modules.get("torch")
        self.module = f if torch is not None and isinstance(f, torch.nn.Module) else None
        if self.by_name:
            self.given: dict[Any, Any] = dict(arguments)
            if wrong := [key for key in self.given if not isinstance(key, str)]:
                raise TypeError(f"gradcheck: arguments must have strings for keys, got {brief(wrong[0])}.")
            names: dict[Any, str] = {key: str(key) for key in self.given}
        elif isinstance(arguments, (tuple, list)):
            self.given = dict(enumerate(arguments))
            names = dict(enumerate(_parameter_names(self.module.forward if self.module else f, len(arguments))))
        else:
            raise TypeError(
                f"gradcheck: arguments must be a tuple, a list or a mapping of f's arguments, "
                f"got {type(arguments).__name__}."
            )
        self.values: dict[_Key, Any] = {}
        self.names: dict[_Key, str] = {}
        for argument, value in self.given.items():
            for path, leaf in leaves(value):
                self.values[_Key(argument, path)] = leaf
                self.names[_Key(argument, path)] = names[argument] + path
        buffers: set[str] = set()
        if self.module is not None:
            buffers = {name for name, _ in self.module.named_buffers()}
            for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
                self.values[_Key(_STATE, name)] = tensor
                self.names[_Key(_STATE, name)] = f"self.{name}" if name in names.values() else name
        frameworks = {kind_of(value) for value in self.values.values()} - {NumPy}
        if len(frameworks) > 1:
            both = " and ".join(sorted(framework.name for framework in frameworks))
            raise TypeError(f"gradcheck: arguments must be of one framework, got {both}.")
        self.framework = frameworks.pop()() if frameworks else _NUMPY
        # A number in a container is one of its options, as an integer is.
        self.floats = [
            key
            for key, value in self.values.items()
            if self.of(value).is_float(value) and not (key.path and isinstance(value, (float, np.generic)))
        ]
        #: The float arguments that autograd knows: its framework's own arrays. A module may write to its buffers.
        self.own = [key for key in self.floats if self.of(self.values[key]) is self.framework]
        self.states = [key for key in self.own if key.argument is _STATE and key.path in buffers]
        self.point = {key: np.array(self.to_numpy(self.values[key]), dtype).astype(float) for key in self.floats}
        self.result: Any = None
        self.templates: list[Any] = []
        self.shapes: list[tuple[int, ...]] = []

    def of(self, value: Any) -> NumPy:
        """Who knows what to do with a value: the framework with its own arrays, NumPy with others and numbers."""
        return self.framework if kind_of(value) is type(self.framework) else _NUMPY

    def to_numpy(self, value: Any) -> Any:
        return self.of(value).to_numpy(value)

    def wanted(self, wrt: Any, by_autograd: bool) -> list[_Key]:
        have = ", ".join(self.names.values()) or "none"
        if wrt is None:
            if not self.floats:
                raise ValueError(f"gradcheck: arguments must have a float array or scalar among them, got {have}.")
            # A Python number among tensors is passed on where autograd is asked.
            wanted = self.own if by_autograd and self.own else self.floats
            return [key for key in wanted if key not in self.states]
        try:
            names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
        except TypeError:
            raise TypeError(
                f"gradcheck: wrt must be the name of an argument, or several, got {type(wrt).__name__}."
            ) from None
        wanted = []
        for name in names:
            keys = [key for key, called in self.names.items() if called == name]
            if not keys:  # all that is in a container
                keys = [key for key, called in self.names.items() if key.path and called == f"{name}{key.path}"]
            if not isinstance(name, str) or not keys:
                raise ValueError(f"gradcheck: wrt must name arguments of f ({have}), got {brief(name)}.")
            floats = [key for key in keys if key in self.floats]
            if not floats:
                value = self.values[keys[0]]
                found = getattr(value, "dtype", type(value).__name__)
                raise TypeError(f"gradcheck: wrt must name float arguments, got {name!r}, which is {found}.")
            wanted += [key for key in floats if key not in wanted]
        if not wanted:
            raise ValueError("gradcheck: wrt must name at least one argument, got none.")
        return wanted

    def arguments(self, point: Mapping[Any, Any]) -> dict[_Key, Any]:
        """Fresh arguments at ``point``."""
        return {
            key: self.of(value).make(point[key], value, self.dtype) if key in point else self.of(value).copy(value)
            for key, value in self.values.items()
        }

    def as_given(self, arguments: Mapping[_Key, Any]) -> dict[Any, Any]:
        """Arguments as ``f`` takes them: in containers."""
        return {
            argument: with_leaves(value, iter([a for key, a in arguments.items() if key.argument == argument]))
            for argument, value in self.given.items()
        }

    def outputs(self, arguments: dict[_Key, Any]) -> list[Any]:
        given = self.as_given(arguments)
        args, keywords = ((), given) if self.by_name else (tuple(given.values()), {})
        if self.module is None:
            self.result = self.f(*args, **keywords)
        else:
            state = {key.path: value for key, value in arguments.items() if key.argument is _STATE}
            self.result = import_module("torch.func").functional_call(self.module, state, args, keywords)
        return values_in(self.result)

    def __call__(self, point: Mapping[Any, Any]) -> Any:
        """``f`` at ``point`` as one flat float64 array."""
        results = self.outputs(self.arguments(point))
        self.templates = results
        arrays = [self.to_numpy(result) for result in results]
        for array in arrays:
            if array.dtype not in (np.float64, self.dtype):
                advice = "" if array.dtype != np.float32 else "; where it computes in nothing else pass dtype='float32'"
                raise TypeError(
                    f"gradcheck: f must return {self.dtype} for {self.dtype} arguments, got {array.dtype}{advice}."
                )
        self.shapes = [array.shape for array in arrays]
        return np.concatenate([array.ravel() for array in arrays]).astype(float) if arrays else np.zeros(0)

    def first(self) -> Any:
        """``f`` at the point; where it takes float32 and not float64, the error says so."""
        try:
            return self(self.point)
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            if self.dtype != "float64" or str(error).startswith("gradcheck: "):
                raise
            single = Call(self.f, self.given if self.by_name else tuple(self.given.values()), "float32")
            try:
                single(single.point)
            except Exception:
                raise error from None
            raise TypeError(
                f"gradcheck: f must take float64 arguments, got {type(error).__name__} ({brief(error, str)}); as it "
                f"takes float32, pass dtype='float32'."
            ) from error

    def parts(self, flat: Any) -> list[Any]:
        """A flat array cut into ``f``'s results."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes], dtype=int)
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), self.shapes)]

    def pullback(self, vjp: Callable[..., Any] | None, wanted: list[_Key]) -> Callable[[Any], dict[_Key, Any]]:
        """``u → {key: Jᵀu}`` at the point; ``u`` flat."""
        pull = own_vjp(self.f) if vjp is None else called(vjp)
        if pull is None and not self.framework.has_autograd:
            raise ValueError("gradcheck: vjp must be given where f is not an operation of this package.")
        keys = [key for key in wanted if key in self.own]

        def gradients(u: Any) -> dict[_Key, Any]:
            arguments = self.arguments(self.point)
            grads = [self.of(like).make(part, like, self.dtype) for part, like in zip(self.parts(u), self.templates)]
            if pull is not None:
                grad = with_leaves(self.result, iter(grads))
                return self.aligned(pull(self.by_name, self.as_given(arguments))(grad))
            found = zip(keys, self.framework.gradients(self.outputs, keys, arguments, grads))
            # Autograd says None for an argument that f does not use: a gradient of zero.
            return {key: np.zeros_like(self.point[key]) if value is None else value for key, value in found}

        return gradients

    def aligned(self, found: Any) -> dict[_Key, Any]:
        """What a VJP returned, by argument."""
        names = {
            self.names[key].removesuffix(key.path): key.argument for key in self.values if key.argument in self.given
        }
        floats = dict.fromkeys(key.argument for key in self.floats)
        fields = getattr(found, "_fields", None) if isinstance(found, tuple) else None
        if isinstance(found, Mapping) or (fields is not None and (self.by_name or set(fields) & set(names))):
            named = dict(found) if isinstance(found, Mapping) else dict(zip(fields or (), found))
            # A package VJP has fields for arguments that were not passed: their None is no gradient.
            unknown = [name for name in named if name not in names and named[name] is not None]
            if unknown:
                raise ValueError(f"gradcheck: vjp must name arguments of f ({', '.join(names)}), got {unknown[0]!r}.")
            return self._by_leaf({names[name]: value for name, value in named.items() if name in names})
        several = list(found) if isinstance(found, (tuple, list)) else [found]
        if len(several) == len(floats):
            return self._by_leaf(dict(zip(floats, several)))
        if len(several) == len(self.given):
            return self._by_leaf(dict(zip(self.given, several)))
        called = {argument: name for name, argument in names.items()}
        raise ValueError(
            f"gradcheck: vjp must return one gradient for each of the {len(floats)} float arguments "
            f"({', '.join(called[argument] for argument in floats)}) or of all {len(self.given)}, got {len(several)}."
        )

    def _by_leaf(self, found: Mapping[Any, Any]) -> dict[_Key, Any]:
        """Gradients of arguments, those of containers as containers, by array."""
        alone = {_Key(argument): value for argument, value in found.items() if _Key(argument) in self.values}
        inside = {a: tree for a, tree in found.items() if _Key(a) not in alone}
        return alone | {_Key(a, path): leaf for a, tree in inside.items() for path, leaf in leaves(tree)}

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


#: A VJP of arguments by key, of which the flag says whether they are keywords; then of the result's gradient.
VJP = Callable[[bool, dict[Any, Any]], Callable[[Any], Any]]


def called(vjp: Callable[..., Any]) -> VJP:
    def given(by_name: bool, arguments: dict[Any, Any]) -> Callable[[Any], Any]:
        if by_name:
            return lambda grad: vjp(**arguments, grad=grad)
        return functools.partial(vjp, *arguments.values())

    return given


def own_vjp(f: Callable[..., Any]) -> VJP | None:
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
    signature, takes = inspect.signature(function), inspect.signature(vjp).parameters

    def own(by_name: bool, arguments: dict[Any, Any]) -> Callable[[Any], Any]:
        args = bound_args if by_name else (*bound_args, *arguments.values())
        keywords = {**bound_keywords, **arguments} if by_name else bound_keywords
        bound = signature.bind(*args, **keywords).arguments
        # A VJP has arrays of its own for ``out``.
        taken = {name: bound[name] for name in bound if name in takes and name != "out"}
        return lambda grad: vjp(**taken, grad=grad)

    return own
