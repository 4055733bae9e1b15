"""JAX arrays and tracers: the kernels as XLA's foreign functions (csrc/xla.h), inside ``jit``, without a copy or a host
callback, on the CPU and on CUDA devices.

A forward call is a ``custom_vjp`` whose gradients are the kernels'; the gradients are another, whose own gradients are
JAX's of the plain formulas (``reference/_formulas.py``), and so are all of higher order. ``vmap`` puts its axis in
front of every array, as one of size 1 where an array is the same along it; the handlers go through such axes, as part
of the batch where that can be. XLA lays the arrays out row by row before it calls; where it had another layout in mind,
that is a copy of its making.

Where a size is a symbol, as in ``jax.export``, a call is its plain formula: a foreign function must know its sizes.

What is divided over devices is for ``jax.shard_map`` to say: to the partitioner of a plain ``jit`` a foreign function
is opaque, and it gathers the arrays first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _cpu
from .._core.checks import INTEGERS
from ..reference._formulas import FORMULAS, stored
from . import _dlpack, _numpy

__all__: list[str] = []  # nothing here is for users to call

ARRAY = jax.Array  # tracers, too
dtype_of = _numpy.dtype_of  # JAX's dtypes are NumPy's
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
    if isinstance(array, jax.core.Tracer):
        return
    for device in array.devices():
        if device.platform == "gpu":
            _dlpack.require(op, name, device, "compute under jax.default_device(jax.devices('cpu')[0])")
        elif device.platform != "cpu":
            raise RuntimeError(
                f"{op}: {name} is on {device}, and this version computes on cpu and cuda; pass "
                f"jax.device_put({name}, jax.devices('cpu')[0])."
            )


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
    aval = getattr(array, "aval", None)
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
    sharding = jax.sharding.NamedSharding(like.aval.sharding.mesh, _partition())
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
    store: Any = stored
    return store(jnp, result, static.dtype) if static.dtype in INTEGERS else result


def _formula_backward(static: _Static, *arrays: Any) -> tuple[Any, ...]:
    """The gradients by the formula, which JAX differentiates further."""
    *arguments, grad = arrays
    given = dict(zip(static.names, arguments))
    if not static.wanted:
        return ()

    def f(*wanted: Any) -> Any:
        replaced = {**given, **dict(zip(static.wanted, wanted))}
        return FORMULAS[static.signature.name](jnp, **replaced, **dict(static.keywords))

    _, pull = jax.vjp(f, *(given[name] for name in static.wanted))
    return tuple(pull(grad))


def _floats(arrays: Sequence[Any]) -> list[bool]:
    return [jnp.issubdtype(a.dtype, jnp.floating) for a in arrays]


def _backward_bwd(static: _Static, arrays: Any, cotangents: Any) -> tuple[Any, ...]:
    floats = _floats(arrays)

    def f(*changed: Any) -> Any:
        values = iter(changed)
        return _formula_backward(static, *(next(values) if is_float else a for a, is_float in zip(arrays, floats)))

    _, pull = jax.vjp(f, *(a for a, is_float in zip(arrays, floats) if is_float))
    found = iter(pull(tuple(cotangents)))
    return tuple(next(found) if is_float else None for is_float in floats)


def _forward_bwd(static: _Static, arrays: Any, grad: Any) -> tuple[Any, ...]:
    if grad.dtype == jax.dtypes.float0:  # of integers, along which nothing has a slope
        return (None,) * len(arrays)
    wanted = tuple(name for name, is_float in zip(static.names, _floats(arrays)) if is_float)
    found = dict(zip(wanted, _backward(static._replace(op=f"{static.op}_vjp", wanted=wanted), *arrays, grad)))
    return tuple(found.get(name) for name in static.names)


def _differentiable(compute: Callable[..., Any], bwd: Callable[..., Any]) -> Any:
    """``compute(static, *arrays)``, compiled, with what ``bwd(static, arrays, cotangent)`` returns for gradients."""
    function = jax.custom_vjp(compute, nondiff_argnums=(0,))
    function.defvjp(lambda static, *arrays: (function(static, *arrays), arrays), bwd)  # differentiable itself
    return jax.jit(function, static_argnums=0)


_forward = _differentiable(_compute_forward, _forward_bwd)
_backward = _differentiable(_compute_backward, _backward_bwd)


def _no_slopes(static: _Static, *_: Any) -> Any:
    raise RuntimeError(
        "enhance: no argument may be differentiated, as it has no gradients; call a guide_* operation and slice_apply, "
        "which have them."
    )


_without_slopes = jax.custom_jvp(_compute_forward, nondiff_argnums=(0,))
_without_slopes.defjvp(_no_slopes)
_inference = jax.jit(_without_slopes, static_argnums=0)
