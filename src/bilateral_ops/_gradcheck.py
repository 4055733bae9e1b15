"""Hold a vector-Jacobian product against finite differences, for the package's operations and for anyone's own."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._core.checks import brief

#: Coordinates compared one by one, per argument; larger arguments are sampled. The directions cover all of them.
MAX_COORDINATES = 200
#: Random directions per argument.
DIRECTIONS = 3

_EPS = float(np.finfo(np.float64).eps)
#: The base step, near eps^(1/3) and a power of two, so that x + h is mostly exact.
_STEP = 2.0**-17
#: Other steps, as multiples: tried where the base step has not settled (shorter) or drowns in rounding (longer).
_SHORTER = (2.0**-5, 2.0**-10, 2.0**-15)
_LONGER = (2.0**5, 2.0**10)
#: One-sided differences of a smooth function halve their disagreement with the step; at a kink it stays.
_KINK_RATIO = 0.7


@dataclass(frozen=True)
class GradcheckRow:
    """What was found for one argument.

    ``error`` is the largest difference from a central difference, as a share of the argument's largest gradient;
    ``dot_error`` the largest of ``|⟨Jv, u⟩ − ⟨v, Jᵀu⟩|`` over the random directions, as a share of
    ``(Σ (v_i·g_i)²)^½``. Either is NaN where nothing could be compared.
    """

    argument: str
    size: int
    checked: int
    kinks: int
    error: float
    dot_error: float
    ok: bool
    verdict: str

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class GradcheckReport:
    """The rows of a gradient check; true where every one agrees, a table when printed."""

    rows: tuple[GradcheckRow, ...]
    rtol: float

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        wrong = [row.argument for row in self.rows if not row.ok]
        end = f"not confirmed: {', '.join(wrong)}" if wrong else f"all gradients agree to {self.rtol:.0e}"
        return _aligned([_HEADER, *(_cells(row) for row in self.rows)]) + "\n" + end

    def __repr__(self) -> str:
        names = ", ".join(f"{row.argument}{'' if row.ok else ' FAILS'}" for row in self.rows)
        return f"<GradcheckReport {'ok' if self else 'not ok'}: {names}>"


_HEADER = ("argument", "size", "checked", "kinks", "worst error", "dot product", "verdict")


def _cells(row: GradcheckRow) -> tuple[str, ...]:
    def number(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.1e}"

    counts = (str(row.size), str(row.checked), str(row.kinks))
    return (row.argument, *counts, number(row.error), number(row.dot_error), row.verdict)


def _aligned(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns under each other: the first ``left`` and the last flush left, the numbers flush right."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]

    def row(line: Sequence[str]) -> str:
        last = len(line) - 1
        cells = [c.ljust(w) if k < left or k == last else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths))]
        return "  ".join(cells).rstrip()

    return "\n".join(row(line) for line in lines)


def table(reports: Mapping[str, GradcheckReport]) -> str:
    """One table of several reports, the operation's name in front of its first argument."""
    lines: list[tuple[str, ...]] = [("operation", *_HEADER)]
    for name, report in reports.items():
        lines += [(name if k == 0 else "", *_cells(row)) for k, row in enumerate(report.rows)]
    return _aligned(lines, left=2)


def check_operations(
    rtol: float = 1e-6, seed: int = 0, progress: Callable[[str], None] | None = None
) -> dict[str, GradcheckReport]:
    """``gradcheck`` of every operation that has a VJP, on small random arguments with a batch, ``xy`` included."""
    from . import _samples
    from .ops import OPERATIONS

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
    f: Callable[..., Any],
    arguments: Sequence[Any] | Mapping[str, Any],
    *,
    vjp: Callable[..., Any] | None = None,
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
    arguments : sequence or mapping
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
    call = _Call(f, arguments)
    wanted = call.wanted(wrt, by_autograd=vjp is None)
    with call.framework.scope():
        pullback = call.pullback(vjp)
        return _check(call, pullback, wanted, float(rtol), np.random.default_rng(seed))


# ---------------------------------------------------------------------------------------------------------------------
# Frameworks: how a float64 NumPy array becomes an argument, and back. Nothing is imported that the caller doesn't use.


_Autograd = Callable[[dict[Any, Any], list[Any]], dict[Any, Any]]


def _framework_name(value: Any) -> str:
    for cls in type(value).__mro__:
        root = cls.__module__.partition(".")[0]
        if root == "torch" and cls.__name__ == "Tensor":
            return "torch"
        if root in ("jax", "jaxlib") and cls.__name__ in ("Array", "ArrayImpl", "Tracer"):
            return "jax"
        if root == "cupy" and cls.__name__ == "ndarray":
            return "cupy"
    return "numpy"


class _NumPy:
    """NumPy arrays and Python scalars; the other frameworks' arrays differ by what they override."""

    name = "numpy"

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
        if isinstance(like, (float, np.generic)):
            return float(array)
        return np.array(array)

    def copy(self, value: Any) -> Any:
        return value.copy() if isinstance(value, np.ndarray) else value

    def autograd(self, call: _Call) -> _Autograd | None:
        """The gradients by the framework itself, if it has any: ``(arguments, cotangents) → {key: gradient}``."""
        return None


class _Torch(_NumPy):
    name = "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        # The caller may want no gradients recorded; autograd is what is asked here.
        with self.torch.inference_mode(False), self.torch.enable_grad():
            yield

    def is_float(self, value: Any) -> bool:
        return value.is_floating_point() if isinstance(value, self.torch.Tensor) else super().is_float(value)

    def to_numpy(self, value: Any) -> Any:
        if not isinstance(value, self.torch.Tensor):
            return super().to_numpy(value)
        value = value.detach().cpu()
        return (value.double() if value.dtype in (self.torch.bfloat16, self.torch.float16) else value).numpy()

    def make(self, array: Any, like: Any) -> Any:
        if not isinstance(like, self.torch.Tensor):
            return super().make(array, like)
        return self.torch.tensor(np.asarray(array), dtype=self.torch.float64, device=like.device)

    def copy(self, value: Any) -> Any:
        return value.detach().clone() if isinstance(value, self.torch.Tensor) else super().copy(value)

    def autograd(self, call: _Call) -> _Autograd | None:
        keys = [k for k in call.floats if isinstance(call.values[k], self.torch.Tensor)]

        def gradients(arguments: dict[Any, Any], cotangents: list[Any]) -> dict[Any, Any]:
            leaves = [arguments[k].requires_grad_() for k in keys]
            results = call.outputs(arguments)
            pairs = [
                (r, c) for r, c in zip(results, cotangents) if isinstance(r, self.torch.Tensor) and r.requires_grad
            ]
            if not pairs:
                return dict.fromkeys(keys)
            found = self.torch.autograd.grad([r for r, _ in pairs], leaves, [c for _, c in pairs], allow_unused=True)
            return dict(zip(keys, found))

        return gradients


class _Jax(_NumPy):
    name = "jax"

    def __init__(self) -> None:
        import jax

        self.jax = jax

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        try:
            from jax.experimental import enable_x64
        except ImportError:  # it has moved in later versions
            enable_x64 = self.jax.enable_x64
        scope: contextlib.AbstractContextManager[Any] = enable_x64(True)
        return scope

    def is_float(self, value: Any) -> bool:
        if isinstance(value, self.jax.Array):
            return bool(self.jax.numpy.issubdtype(value.dtype, self.jax.numpy.floating))
        return super().is_float(value)

    def make(self, array: Any, like: Any) -> Any:
        if not isinstance(like, self.jax.Array):
            return super().make(array, like)
        made = self.jax.device_put(np.array(array), next(iter(like.devices())))
        if made.dtype != np.float64:
            raise RuntimeError(
                "gradcheck: JAX keeps to float32 here, and differences in float32 are too coarse; set JAX_ENABLE_X64=1."
            )
        return made

    def copy(self, value: Any) -> Any:
        return value if isinstance(value, self.jax.Array) else super().copy(value)

    def autograd(self, call: _Call) -> _Autograd | None:
        keys = [k for k in call.floats if isinstance(call.values[k], self.jax.Array)]

        def gradients(arguments: dict[Any, Any], cotangents: list[Any]) -> dict[Any, Any]:
            def traced(*leaves: Any) -> Any:
                return call.outputs({**arguments, **dict(zip(keys, leaves))})

            _, pull = self.jax.vjp(traced, *(arguments[k] for k in keys))
            return dict(zip(keys, pull(cotangents)))

        return gradients


class _CuPy(_NumPy):
    name = "cupy"

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy

    def is_float(self, value: Any) -> bool:
        return value.dtype.kind == "f" if isinstance(value, self.cupy.ndarray) else super().is_float(value)

    def to_numpy(self, value: Any) -> Any:
        return self.cupy.asnumpy(value) if isinstance(value, self.cupy.ndarray) else super().to_numpy(value)

    def make(self, array: Any, like: Any) -> Any:
        return self.cupy.array(array) if isinstance(like, self.cupy.ndarray) else super().make(array, like)

    def copy(self, value: Any) -> Any:
        return value.copy() if isinstance(value, self.cupy.ndarray) else super().copy(value)


_FRAMEWORKS: dict[str, Callable[[], _NumPy]] = {"numpy": _NumPy, "torch": _Torch, "jax": _Jax, "cupy": _CuPy}


# ---------------------------------------------------------------------------------------------------------------------
# The call: names, float64 copies of the arguments, the flat result, and the gradients by argument.


class _Call:
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
        frameworks = {_framework_name(value) for value in self.values.values()} - {"numpy"}
        if len(frameworks) > 1:
            raise TypeError(f"gradcheck: arguments must be of one framework, got {' and '.join(sorted(frameworks))}.")
        self.framework = _FRAMEWORKS[frameworks.pop() if frameworks else "numpy"]()
        self.floats = [key for key, value in self.values.items() if self.framework.is_float(value)]
        self.point = {
            key: np.array(self.framework.to_numpy(self.values[key]), dtype=np.float64, order="C") for key in self.floats
        }
        self.several = False
        self.shapes: list[tuple[int, ...]] = []
        self.templates: list[Any] = []

    def wanted(self, wrt: Any, by_autograd: bool) -> list[Any]:
        have = ", ".join(self.names.values()) or "none"
        if wrt is None:
            if not self.floats:
                raise ValueError(f"gradcheck: arguments must have a float array or scalar among them, got {have}.")
            own = [key for key in self.floats if _framework_name(self.values[key]) == self.framework.name]
            # Autograd knows its own arrays; a Python number among them is passed on.
            return own if by_autograd and own else list(self.floats)
        keys = {name: key for key, name in self.names.items()}
        wanted = []
        for name in (wrt,) if isinstance(wrt, str) else wrt:
            if not isinstance(name, str) or name not in keys:
                raise ValueError(f"gradcheck: wrt must name arguments of f ({have}), got {brief(name)}.")
            if keys[name] not in self.floats:
                value = self.values[keys[name]]
                kind = getattr(value, "dtype", type(value).__name__)
                raise TypeError(f"gradcheck: wrt must name float arguments, got {name!r}, which is {kind}.")
            if keys[name] not in wanted:
                wanted.append(keys[name])
        if not wanted:
            raise ValueError("gradcheck: wrt must name at least one argument, got none.")
        return wanted

    def arguments(self, point: Mapping[Any, Any]) -> dict[Any, Any]:
        """Fresh arguments at ``point``."""
        return {
            key: self.framework.make(point[key], value) if key in point else self.framework.copy(value)
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
        arrays = [self.framework.to_numpy(result) for result in results]
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
        own = _own_vjp(self.f) if vjp is None else None
        autograd = self.framework.autograd(self) if vjp is None and own is None else None
        if vjp is None and autograd is None and own is None:
            raise ValueError("gradcheck: vjp must be given where f is not an operation of this package.")

        def cotangents(u: Any) -> list[Any]:
            return [self.framework.make(part, like) for part, like in zip(self.parts(u), self.templates)]

        def gradients(u: Any) -> dict[Any, Any]:
            arguments, grads = self.arguments(self.point), cotangents(u)
            if autograd is not None:
                found = autograd(arguments, grads)
                # Autograd says None for an argument that f does not use: a gradient of zero.
                return {k: np.zeros_like(self.point[k]) if found[k] is None else found[k] for k in found}
            grad = tuple(grads) if self.several else grads[0]
            if own is not None:
                return self.aligned(own(self.by_name, arguments, grad))
            call: Any = vjp
            return self.aligned(call(**arguments, grad=grad) if self.by_name else call(*arguments.values(), grad))

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
        array = self.framework.to_numpy(value)
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


def _own_vjp(f: Callable[..., Any]) -> Callable[[bool, dict[Any, Any], Any], Any] | None:
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
    from .ops import OPERATIONS

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


# ---------------------------------------------------------------------------------------------------------------------
# The comparison.


@dataclass
class _Slope:
    """Central differences of every element of the result along one line through the point."""

    derivative: Any  # at half the step
    change: Any  # |derivative at the step − at half the step|: how far it has settled
    noise: Any  # what rounding in f may do to the derivative
    jump: Any  # |right slope − left slope| where it looks like a kink, else 0
    moved: Any  # the elements that change along the line
    finite: bool

    def error(self, u: Any) -> float:
        """An estimate of the error of ⟨u, derivative⟩."""
        return abs(float(u @ self.change)) + self.rounding(u)

    def rounding(self, u: Any) -> float:
        return 4 * math.sqrt(float(np.sum((u * self.noise) ** 2)))


class _Line:
    """``f`` along ``point + t·direction``, with the slope at t = 0 measured at several steps."""

    def __init__(self, call: _Call, at_point: Any, key: Any, direction: Any) -> None:
        self.call, self.f0, self.key = call, at_point, key
        self.direction = direction  # an array like the argument, or (flat index, length)
        self.level = np.concatenate([np.full(p.size, _rms(p)) for p in call.parts(at_point)] or [at_point])

    def at(self, t: float) -> Any:
        moved = self.call.point[self.key].copy()
        if isinstance(self.direction, tuple):
            index, length = self.direction
            moved.reshape(-1)[index] += t * length
        else:
            moved += t * self.direction
        with np.errstate(all="ignore"):  # a step past the edge of f's domain is ours, and seen by its NaN
            return self.call({**self.call.point, self.key: moved})

    def slope(self, h: float) -> _Slope:
        f0, right, left, near_right, near_left = self.f0, self.at(h), self.at(-h), self.at(h / 2), self.at(-h / 2)
        finite = all(bool(np.isfinite(values).all()) for values in (right, left, near_right, near_left))
        with np.errstate(all="ignore"):
            wide = (right - left) / (2 * h)
            derivative = (near_right - near_left) / h
            wide_jump = np.abs((right - f0) - (f0 - left)) / h
            jump = np.abs((near_right - f0) - (f0 - near_left)) / (h / 2)
            moved = (right != f0) | (left != f0) | (near_right != f0) | (near_left != f0)
            # Rounding of f is that of the terms it adds up: an element may be far smaller than they are. That of x + h
            # is a share of x, which is no longer than the line's unit, and moves f by as much times the slope.
            noise = np.where(moved, _EPS * (np.maximum(np.abs(f0), self.level) + np.abs(derivative)) / h, 0.0)
            strong = np.maximum(np.abs(derivative), jump).max(initial=0.0)
            kink = (jump > _KINK_RATIO * wide_jump) & (jump > 32 * noise) & (jump > 2e-8 * strong)
        return _Slope(derivative, np.abs(derivative - wide), noise, np.where(kink, jump, 0.0), moved, finite)


def _rms(values: Any) -> float:
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else 0.0


def _signs(rng: np.random.Generator, shape: Any) -> Any:
    """Random numbers of either sign, none near zero: no element of the gradient goes unweighed."""
    return rng.uniform(0.5, 1.5, shape) * rng.choice((-1.0, 1.0), shape)


def _lengths(x: Any) -> Any:
    """The unit of a step, for each element: its own size, or the argument's where that is larger and below 1."""
    largest = float(np.abs(x).max(initial=0.0))
    return np.maximum(np.abs(x), min(largest, 1.0) or 1.0)


def _check(
    call: _Call, pullback: Callable[[Any], dict[Any, Any]], wanted: list[Any], rtol: float, rng: np.random.Generator
) -> GradcheckReport:
    f0 = call(call.point)

    def failed(reason: str) -> GradcheckReport:
        rows = (
            GradcheckRow(call.names[k], call.point[k].size, 0, 0, math.nan, math.nan, False, f"FAIL: {reason}")
            for k in wanted
        )
        return GradcheckReport(tuple(rows), rtol)

    for key, x in call.point.items():
        if not np.isfinite(x).all():
            return failed(f"{call.names[key]} is not finite")
    if not np.isfinite(f0).all():
        return failed("f is not finite")
    if not np.array_equal(f0, call(call.point)):
        return failed("f gives another result when called again")
    u = _signs(rng, f0.shape)
    gradients = pullback(u)
    rows = []
    for key in wanted:
        gradient = call.gradient(gradients, key)
        rows.append(_check_argument(call, pullback, key, f0, u, gradient, rtol, rng))
    return GradcheckReport(tuple(rows), rtol)


@dataclass
class _Coordinate:
    index: int
    line: _Line
    slope: _Slope


def _check_argument(
    call: _Call,
    pullback: Callable[[Any], dict[Any, Any]],
    key: Any,
    f0: Any,
    u: Any,
    gradient: Any,
    rtol: float,
    rng: np.random.Generator,
) -> GradcheckRow:
    name, x = call.names[key], call.point[key]
    row = functools.partial(GradcheckRow, name, x.size)
    if x.size == 0:
        return row(0, 0, math.nan, math.nan, True, "ok (empty)")
    if not np.isfinite(gradient).all():
        where = _place(int(np.flatnonzero(~np.isfinite(gradient))[0]), x.shape)
        return row(0, 0, math.nan, math.nan, False, f"FAIL: the gradient is not finite{where}")

    flat, lengths = gradient.ravel(), _lengths(x)
    indices = np.arange(x.size)
    if x.size > MAX_COORDINATES:
        indices = np.sort(rng.choice(x.size, MAX_COORDINATES, replace=False))
    coordinates = []
    for index in indices.tolist():
        line = _Line(call, f0, key, (index, float(lengths.flat[index])))
        slope = line.slope(_STEP)
        if not slope.finite and x.flat[index] != 0.0:
            # Near the edge of f's domain: a step in proportion to the element itself stays inside.
            line = _Line(call, f0, key, (index, abs(float(x.flat[index]))))
            slope = line.slope(_STEP)
        if not slope.finite:
            return row(0, 0, math.nan, math.nan, False, f"FAIL: f is not finite a step away{_place(index, x.shape)}")
        coordinates.append(_Coordinate(index, line, slope))

    def numeric(c: _Coordinate) -> float:
        return float(u @ c.slope.derivative) / float(c.line.direction[1])

    largest = float(np.abs(flat).max(initial=0.0))
    scale = max([largest, *(abs(numeric(c)) for c in coordinates if not c.slope.jump.any())])
    kinks = [c for c in coordinates if _settle(c, u, rtol * scale * c.line.direction[1])]
    kinked = {c.index for c in kinks}
    compared = [c for c in coordinates if c.index not in kinked]
    scale = max([largest, *(abs(numeric(c)) for c in compared)])

    error, limit, worst, wrong = math.nan, 0.0, None, False
    for c in compared:
        off = abs(flat[c.index] - numeric(c))
        rounding = c.slope.rounding(u) / c.line.direction[1]
        limit = max(limit, rounding)
        share = off / scale if off else 0.0
        bad = off > rtol * scale + rounding
        if worst is None or (bad, share) > (wrong, error):
            error, worst, wrong = share, c, bad

    smooth = np.zeros(x.shape)
    smooth.reshape(-1)[[c.index for c in compared]] = 1.0
    along = _Directions(call, pullback, key, f0, lengths, smooth, rtol)
    dots = [along.compare(_signs(rng, x.shape), _signs(rng, f0.shape)) for _ in range(DIRECTIONS)]
    found = [dot for dot in dots if dot is not None]
    dot_error = max((share for share, _, _ in found), default=math.nan)
    limited = limit > rtol * scale
    if wrong and worst is not None:
        verdict = f"FAIL{_place(worst.index, x.shape)}: {flat[worst.index]:.6g}, differences give {numeric(worst):.6g}"
    elif any(not finite for _, _, finite in found):
        verdict = "FAIL: the gradient of a random cotangent is not finite"
    elif any(bad for _, bad, _ in found):
        verdict = "FAIL along a random direction"
    elif not compared and not found:
        verdict = "FAIL: nothing to compare, every coordinate is a kink"
    elif not compared:
        verdict = "ok (by directions: every coordinate is a kink)"
    elif limited:
        verdict = "ok (zero within rounding)" if limit >= scale else f"ok (rounding in f hides {limit / scale:.0e})"
    else:
        verdict = "ok"
    return row(len(compared), len(kinks), error, dot_error, verdict.startswith("ok"), verdict)


def _settle(c: _Coordinate, u: Any, tolerance: float) -> bool:
    """Choose the best step for a coordinate; true where it is a kink at every step."""

    def broken(slope: _Slope) -> bool:
        return float(np.abs(u) @ slope.jump) > 0.25 * tolerance

    if broken(c.slope):
        # A kink within the step but not at the point is gone with a shorter one, unless that drowns it in rounding.
        shorter = c.line.slope(_STEP * _SHORTER[0])
        if shorter.finite and not broken(shorter) and shorter.rounding(u) < 0.1 * float(np.abs(u) @ c.slope.jump):
            c.slope = shorter
        else:
            return True
    candidates: tuple[float, ...] = ()
    if abs(float(u @ c.slope.change)) > 0.1 * tolerance + c.slope.rounding(u):
        candidates = _SHORTER
    elif c.slope.rounding(u) > 0.5 * tolerance:
        candidates = _LONGER
    for factor in candidates:
        other = c.line.slope(_STEP * factor)
        if other.finite and not broken(other) and other.error(u) < c.slope.error(u):
            c.slope = other
        if c.slope.error(u) <= 0.1 * tolerance:
            break
    return False


class _Directions:
    """⟨Jv, u⟩ against ⟨v, Jᵀu⟩ for one argument; ``smooth`` is 1 at coordinates known to be at no kink, else 0."""

    def __init__(
        self,
        call: _Call,
        pullback: Callable[[Any], dict[Any, Any]],
        key: Any,
        f0: Any,
        lengths: Any,
        smooth: Any,
        rtol: float,
    ) -> None:
        self.call, self.pullback, self.key, self.f0 = call, pullback, key, f0
        self.lengths, self.smooth, self.rtol = lengths, smooth, rtol

    def compare(self, v: Any, u: Any) -> tuple[float, bool, bool] | None:
        """(error as a share, too large, finite), or None where every element that moves sits on a kink."""
        v = v * self.lengths
        found = self._along(v, u)
        if found is None and self.smooth.any() and not self.smooth.all():
            # A single number made of many terms is at a kink when any term is: move only what is smooth.
            found = self._along(v * self.smooth, u)
        return found

    def _steady(self, slope: _Slope) -> Any:
        """The elements of the result whose slope can be relied on."""
        with np.errstate(all="ignore"):
            strong = np.abs(slope.derivative).max(initial=0.0)
            settled = slope.change <= 0.05 * self.rtol * strong + 4 * slope.noise
        return (slope.jump == 0) & settled & np.isfinite(slope.derivative)

    def _along(self, v: Any, u: Any) -> tuple[float, bool, bool] | None:
        line = _Line(self.call, self.f0, self.key, v)
        slope = line.slope(_STEP)
        steady = self._steady(slope)
        if not steady.all():
            factors: tuple[float, ...] = _SHORTER
        elif slope.rounding(u) > 0.5 * self.rtol * float(np.linalg.norm(u * slope.derivative)):
            factors = _LONGER
        else:
            factors = ()
        for factor in factors:
            other = line.slope(_STEP * factor)
            better = self._steady(other)
            if (better.sum(), -other.error(better * u)) > (steady.sum(), -slope.error(steady * u)):
                slope, steady = other, better
        if slope.moved.any() and not (slope.moved & steady).any():
            return None
        u = np.where(steady, u, 0.0)
        gradient = self.call.gradient(self.pullback(u), self.key)
        if not np.isfinite(gradient).all():
            return math.nan, True, False
        terms = v * gradient
        left = float(u @ np.where(steady, slope.derivative, 0.0))
        right = float(np.sum(terms))
        size = max(math.sqrt(float(np.sum(terms**2))), abs(left))
        off = abs(left - right)
        return (off / size if off else 0.0), off > self.rtol * size + slope.rounding(u), True


def _place(index: int, shape: tuple[int, ...]) -> str:
    """`` at [i, j]``; nothing for a scalar."""
    where = np.unravel_index(index, shape) if shape else ()
    return f" at [{', '.join(str(int(k)) for k in where)}]" if shape else ""
