"""JAX arrays and tracers: the kernels as XLA's foreign functions (csrc/xla.h), inside ``jit``, without a copy or a host
callback, on the CPU and on CUDA devices.

A forward call's tangent is a primitive, linear in the arguments' tangents, whose transpose is the VJP's kernels: so
reverse mode runs these, and forward mode (``jvp``, ``jacfwd``, ``linearize``, ``hessian``) the plain formulas
(``reference/_formulas.py``), as do all derivatives of higher order. ``vmap`` puts its axis in front of every array, as
one of size 1 where an array is the same along it; the handlers go through such axes, as part of the batch where that
can be. XLA lays the arrays out row by row before it calls; where it had another layout in mind, that is a copy of its
making.

NumPy's arrays beside JAX's are taken as ``jax.numpy`` takes them; guide records are pytrees.

Where a size is a symbol, as in ``jax.export``, a call is its plain formula: a foreign function must know its sizes.

What is divided over devices is for ``jax.shard_map`` to say: to the partitioner of a plain ``jit`` a foreign function
is opaque, and it gathers the arrays first.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, zero_from_primal
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .. import _cpu
from .._core.checks import FLOATS, INDICES, INTEGERS
from ..reference._formulas import FORMULAS, stored
from . import _dlpack, _numpy

__all__: list[str] = []  # nothing here is for users to call

ARRAY = jax.Array  # tracers, too
dtype_of = _numpy.dtype_of  # JAX's dtypes are NumPy's
shape_of: Any = None
casts: Any = None  # arrays of other dtypes are refused, as NumPy's are

_TARGET = "bilateral_ops_"
_lax: Any = jax.lax
_described: Any = jax.ShapeDtypeStruct
_partition: Any = jax.sharding.PartitionSpec


def _register(handlers: dict[str, Any], platform: str) -> None:
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(_TARGET + name, handler, platform=platform)


_register(_cpu.xla_handlers, "cpu")
with contextlib.suppress(ImportError):  # locate() says so where it matters
    _register(_dlpack.kernels().xla_handlers, "CUDA")


def locate(op: str, name: str, array: Any) -> None:
    """Refuse an array on a device that there are no kernels for. Where arrays are is otherwise for JAX to say."""
    if isinstance(array, (jax.core.Tracer, _numpy.ARRAY)):
        return
    for device in array.devices():
        if device.platform == "gpu":
            _dlpack.require(op, name, device, "compute under jax.default_device(jax.devices('cpu')[0])")
        elif device.platform != "cpu":
            raise RuntimeError(
                f"{op}: {name} is on {device}, and this version computes on cpu and cuda; pass "
                f"jax.device_put({name}, jax.devices('cpu')[0])."
            )


def adopt(array: Any) -> Any:
    """As ``jax.numpy`` takes it: float64 is float32 unless JAX has 64 bits."""
    return jnp.asarray(array) if dtype_of(array) in (*FLOATS, *INTEGERS, *INDICES) else array


def guides_by_luma(device: Any) -> bool:
    return False  # which platform a call is compiled for is not known before


def number(value: float, dtype: str, device: Any) -> Any:
    return jnp.asarray(_numpy.number(value, dtype, None))


# --- A call, as JAX sees it


class _Static(NamedTuple):
    """All of a call but its arrays: what a compiled call is a call of."""

    op: str
    signature: Any
    names: tuple[str, ...]  # of the arrays given
    shape: tuple[int, ...]  # of the forward call's result
    dtype: str
    batched: bool
    keywords: tuple[tuple[str, Any], ...]
    sampling: tuple[tuple[str, Any], ...]  # the same, as the handlers take it
    wanted: tuple[str, ...] = ()  # arguments whose gradients are computed


def record(call: Any, out: Any, wrt: Any = None) -> Any:
    """The result, or the gradients, as JAX computes or traces them."""
    if out is not None:
        raise TypeError(f"{call.op}: out must be None, as JAX arrays can't be written to, got {type(out).__name__}.")
    signature = call.signature
    names = tuple(name for name in signature.names if call.values.get(name) is not None)
    keywords = dict(call.keywords)
    sampling: dict[str, Any] = {}
    if signature.sampled:
        window, align_corners = call.places()
        sampling = dict(zip(("top", "left", "full_height", "full_width", "pixel_corners"), window))
        sampling["align_corners"] = align_corners
    if sizes := signature.sizes:
        keywords[sizes.name] = tuple(call.sizes[axis] for axis in sizes.axes)
    shape, dtype = call.result
    items = tuple(keywords.items()), tuple(sampling.items())
    static = _Static(call.op, signature, names, shape, dtype, call.batched, *items)
    arrays = _varying([call.values[name] for name in (*names, *(() if wrt is None else ("grad",)))])
    if wrt is None:
        return (_forward if signature.gradients else _inference)(static, *arrays)
    static = static._replace(wanted=call.gradients(wrt))
    gradients = dict(zip(static.wanted, _backward(static, *arrays)))
    return signature.gradients(*(gradients.get(name) for name in signature.fields))


def _variation(array: Any) -> tuple[str, Any]:
    """JAX's name of how an array varies over the devices of a ``shard_map``, which changed in 0.10, and how it does."""
    aval = getattr(array, "aval", array)  # which may be all there is of it
    name = "manual_axis_type" if hasattr(aval, "manual_axis_type") else "vma"
    return name, getattr(aval, name, None)


def _axes_of(array: Any) -> frozenset[str]:
    """The axes of a ``shard_map`` along which the array varies."""
    _, variation = _variation(array)
    return frozenset(getattr(variation, "varying", variation) or ())


def _varying(arrays: list[Any]) -> list[Any]:
    """The arrays, varying along the same axes of a ``shard_map``; the transpose of that sums their gradients."""
    axes: frozenset[str] = frozenset().union(*map(_axes_of, arrays))
    if not axes:
        return arrays

    def varying(array: Any) -> Any:
        if not (missing := tuple(axes - _axes_of(array))):
            return array
        if hasattr(_lax, "pcast"):
            return _lax.pcast(array, missing, to="varying")
        return _lax.pvary(array, missing)

    return [varying(array) for array in arrays]


def _result(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """What a handler returns: varying from device to device as its arguments do."""
    if not _axes_of(like):
        return _described(shape, dtype)
    sharding = jax.sharding.NamedSharding(getattr(like, "aval", like).sharding.mesh, _partition())
    return _described(shape, dtype, sharding=sharding, **dict([_variation(like)]))


# --- The handlers


def _call(static: _Static, call: Any, results: dict[Any, Any], arguments: dict[Any, Any]) -> dict[str, Any]:
    """Results of a kernel by name; ``results`` are the shapes and dtypes of those that are wanted."""
    signature = static.signature
    shared = {a.name for a in signature.arguments if a.axes[:1] != ("N",)}  # they have no batch axis in any call
    if "index" in static.names:
        shared |= {a.name for a in signature.arguments if a.role == "grid"}

    def letters(arrays: Sequence[tuple[str | None, Any]]) -> str:
        return "".join("-" if a is None else "s" if name in shared else "n" for name, a in arrays)

    written = [(name, results.get(name)) for name in call.results]
    read = [(name, arguments.get(name)) for name in call.arguments]
    given = [a for _, a in read if a is not None]
    attributes = {
        "operation": static.op,
        "arrays": f"{letters(written)}|{letters(read)}",
        "rank": given[0].ndim,
        "batched": static.batched,
        **dict(static.sampling),
    }
    if signature.guide:
        attributes["guide"] = signature.guide
    wanted = {name: a for name, a in written if name and a is not None}
    target = jax.ffi.ffi_call(_TARGET + call.kernel, list(wanted.values()), vmap_method="expand_dims")
    return dict(zip(wanted, target(*given, **attributes)))


def _is_symbolic(arrays: Sequence[Any]) -> bool:
    return not all(isinstance(size, int) for array in arrays for size in array.shape)


def _compute_forward(static: _Static, *arrays: Any) -> Any:
    if _is_symbolic(arrays):
        return _formula(static, arrays)
    result = _result(static.shape, _numpy.to_dtype(static.dtype), arrays[0])
    return _call(static, static.signature.forward, {"out": result}, dict(zip(static.names, arrays)))["out"]


def _compute_backward(static: _Static, *arrays: Any) -> tuple[Any, ...]:
    if _is_symbolic(arrays):
        return _formula_backward(static, *arrays)
    given = dict(zip((*static.names, "grad"), arrays))
    results = {name: _result(given[name].shape, given[name].dtype, given["grad"]) for name in static.wanted}
    found: dict[str, Any] = {}
    for call in static.signature.backward:
        if not results.keys().isdisjoint(call.results):
            found |= _call(static, call, results, given)
    return tuple(found[name] for name in static.wanted)


# --- Formulas, and the derivatives that are theirs


def _formula(static: _Static, arrays: Sequence[Any]) -> Any:
    given, signature = dict(zip(static.names, arrays)), static.signature
    if signature.guide and signature.name == "enhance":
        result = FORMULAS["enhance"](jnp, *arrays, kind=signature.guide, **dict(static.keywords))
    else:
        result = FORMULAS[signature.name](jnp, **given, **dict(static.keywords))
    return stored(jnp, result, static.dtype)


def _along(static: _Static, arguments: Sequence[Any]) -> tuple[Callable[..., Any], list[Any]]:
    """The formula as a function of the wanted arguments alone, and these."""
    given, keywords = dict(zip(static.names, arguments)), dict(static.keywords)

    def f(*wanted: Any) -> Any:
        return FORMULAS[static.signature.name](jnp, **{**given, **dict(zip(static.wanted, wanted))}, **keywords)

    return f, [given[name] for name in static.wanted]


def _formula_tangent(static: _Static, *operands: Any) -> Any:
    """The result's tangent, of the arguments and then the tangents of those that are wanted."""
    count = len(static.names)
    f, wanted = _along(static, operands[:count])
    return jax.jvp(f, wanted, list(operands[count:]))[1]


def _formula_backward(static: _Static, *arrays: Any) -> tuple[Any, ...]:
    """The gradients by the formula, which JAX differentiates further."""
    *arguments, grad = arrays
    if not static.wanted:
        return ()
    f, wanted = _along(static, arguments)
    return tuple(jax.vjp(f, *wanted)[1](grad))


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, (ad.Zero, SymbolicZero)) or tangent.dtype == jax.dtypes.float0


def _derived(f: Callable[..., Any], operands: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The tangent of f's result, along the operands that have one."""
    moving = [place for place, tangent in enumerate(tangents) if not _is_zero(tangent)]

    def along(*values: Any) -> Any:
        given = list(operands)
        for place, value in zip(moving, values):
            given[place] = value
        return f(*given)

    return jax.jvp(along, [operands[place] for place in moving], [tangents[place] for place in moving])[1]


class _Tangent(NamedTuple):
    """A forward call's tangent: a function of its arguments and, linear in these, of the tangents of the wanted ones.

    ``levels`` has each ``vmap`` around it, the innermost first: its size, and the operands' axes along it.
    """

    static: _Static
    levels: tuple[tuple[Any, tuple[int | None, ...]], ...] = ()

    def compute(self, *operands: Any) -> Any:
        f: Callable[..., Any] = functools.partial(_formula_tangent, self.static)
        for _, axes in self.levels:
            f = jax.vmap(f, in_axes=axes)
        return f(*operands)

    def transpose(self, *arrays: Any) -> tuple[Any, ...]:
        """The cotangents of the tangents, of the arguments and the result's cotangent."""
        count = len(self.static.names)
        f: Callable[..., Any] = functools.partial(_backward, self.static._replace(op=f"{self.static.op}_vjp"))
        for _, axes in self.levels:
            f = _summed(f, (*axes[:count], 0), axes[count:])
        return f(*arrays)

    def only(self, kept: Sequence[int]) -> _Tangent:
        """Along these tangents only, by their places."""
        count = len(self.static.names)
        levels = [(size, (*axes[:count], *(axes[count + k] for k in kept))) for size, axes in self.levels]
        wanted = tuple(self.static.wanted[k] for k in kept)
        return _Tangent(self.static._replace(wanted=wanted), tuple(levels))


def _summed(f: Callable[..., Any], in_axes: tuple[Any, ...], out_axes: tuple[Any, ...]) -> Callable[..., Any]:
    """``vmap``, whose results are summed along the new axis where that is None."""
    mapped = jax.vmap(f, in_axes=in_axes, out_axes=tuple(axis or 0 for axis in out_axes))

    def g(*arrays: Any) -> tuple[Any, ...]:
        return tuple(r.sum(0) if axis is None else r for r, axis in zip(mapped(*arrays), out_axes))

    return g


_tangent: Any = Primitive("bilateral_ops_tangent")
_compute_tangent: Any = jax.jit(_Tangent.compute, static_argnums=0)


def _tangent_described(*operands: Any, of: _Tangent) -> Any:
    shape = (*(size for size, _ in reversed(of.levels)), *of.static.shape)
    described = _result(shape, _numpy.to_dtype(of.static.dtype), operands[0])
    how = {} if described.sharding is None else {"sharding": described.sharding, **dict([_variation(operands[0])])}
    return jax.core.ShapedArray(described.shape, described.dtype, **how)


def _tangent_batched(operands: Sequence[Any], axes: Sequence[Any], *, of: _Tangent) -> tuple[Any, int]:
    size = next(a.shape[axis] for a, axis in zip(operands, axes) if axis is not None)
    return _tangent.bind(*operands, of=of._replace(levels=(*of.levels, (size, tuple(axes))))), 0


def _tangent_jvp(operands: Sequence[Any], tangents: Sequence[Any], *, of: _Tangent) -> tuple[Any, Any]:
    """Along its tangents it is linear, and stays what kernels transpose; along the arguments, the formula's."""
    count = len(of.static.names)
    arrays, moves = operands[:count], tangents[count:]
    parts = []
    if kept := [k for k, move in enumerate(moves) if not _is_zero(move)]:
        parts.append(_tangent.bind(*arrays, *(moves[k] for k in kept), of=of.only(kept)))
    if not all(map(_is_zero, tangents[:count])):
        parts.append(_derived(lambda *a: of.compute(*a, *operands[count:]), arrays, tangents[:count]))
    return _tangent.bind(*operands, of=of), sum(parts[1:], parts[0])


def _tangent_transposed(cotangent: Any, *operands: Any, of: _Tangent) -> list[Any]:
    count = len(of.static.names)
    found: list[Any] = [None] * len(operands)
    if not isinstance(cotangent, ad.Zero):
        unknown = [k for k, operand in enumerate(operands[count:]) if ad.is_undefined_primal(operand)]
        for k, part in zip(unknown, of.only(unknown).transpose(*operands[:count], cotangent)):
            found[count + k] = part
    return found


_tangent.def_impl(lambda *operands, of: _compute_tangent(of, *operands))
_tangent.def_abstract_eval(_tangent_described)
mlir.register_lowering(_tangent, mlir.lower_fun(lambda *operands, of: of.compute(*operands), multiple_results=False))
batching.primitive_batchers[_tangent] = _tangent_batched
ad.primitive_jvps[_tangent] = _tangent_jvp
ad.primitive_transposes[_tangent] = _tangent_transposed
#: Whether a ``shard_map`` takes rules that are told which tangents are none. It knows from types how arrays vary then.
_TELLS_ZEROS = hasattr(jax, "shard_map")
if not _TELLS_ZEROS:
    shard_map: Any = import_module("jax.experimental.shard_map")
    shard_map.register_standard_check(_tangent)
    shard_map.register_standard_rewrite(_tangent)


def _forward_jvp(static: _Static, arrays: Any, tangents: Any) -> tuple[Any, Any]:
    out = _forward(static, *arrays)
    moving = [(name, t) for name, t in zip(static.names, tangents) if not _is_zero(t)]
    if static.dtype in INTEGERS:  # along which nothing has a slope
        return out, zero_from_primal(out, symbolic_zeros=_TELLS_ZEROS)
    names, moves = zip(*moving)
    return out, _tangent.bind(*arrays, *moves, of=_Tangent(static._replace(wanted=names)))


def _backward_jvp(static: _Static, arrays: Any, tangents: Any) -> tuple[Any, Any]:
    return _backward(static, *arrays), _derived(functools.partial(_formula_backward, static), arrays, tangents)


def _no_slopes(static: _Static, *_: Any) -> Any:
    raise RuntimeError(
        "enhance: no argument may be differentiated, as it has no gradients; call a guide_* operation and slice_apply, "
        "which have them."
    )


def _differentiable(compute: Callable[..., Any], jvp: Callable[..., Any]) -> Any:
    """``compute(static, *arrays)``, compiled, with the tangents that ``jvp(static, arrays, tangents)`` returns."""
    function = jax.custom_jvp(compute, nondiff_argnums=(0,))
    function.defjvp(jvp, symbolic_zeros=_TELLS_ZEROS)
    return jax.jit(function, static_argnums=0)


_forward = _differentiable(_compute_forward, _forward_jvp)
_backward = _differentiable(_compute_backward, _backward_jvp)
_inference = _differentiable(_compute_forward, _no_slopes)
