"""JAX arrays and tracers: the kernels as XLA's foreign functions (csrc/xla.h), inside ``jit``, without a copy or a host
callback, on the CPU and on CUDA devices.

A forward call is a ``custom_vjp`` whose gradients are the kernels'; the gradients are another, whose own gradients are
JAX's of the plain formulas (``_formulas.py``), and so are all of higher order. ``vmap`` puts its axis in front of every
array, as one of size 1 where an array is the same along it; the handlers go through such axes, as part of the batch
where that can be. XLA lays the arrays out row by row before it calls; where it had another layout in mind, that is a
copy of its making.

What is divided over devices is for ``jax.shard_map`` to say: to the partitioner of a plain ``jit`` a foreign function
is opaque, and it gathers the arrays first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _core
from . import _dlpack, _numpy
from ._formulas import FORMULAS

__all__: list[str] = []  # nothing here is for users to call

ARRAY = jax.Array  # tracers, too
kind_of = _numpy.kind_of  # JAX's dtypes are NumPy's
casts: Any = None  # arrays of other kinds are refused, as NumPy's are

_TARGET = "bilateral_ops_"
_lax: Any = jax.lax
_described: Any = jax.ShapeDtypeStruct
_partition: Any = jax.sharding.PartitionSpec


def _register(handlers: dict[str, Any], platform: str) -> None:
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(_TARGET + name, handler, platform=platform)


_register(_core.xla_handlers, "cpu")
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


def number(value: float, kind: str, device: Any) -> Any:
    return jnp.asarray(_numpy.number(value, kind, None))


# ---------------------------------------------------------------------------------------------------------------------
# A call, as JAX sees it
# ---------------------------------------------------------------------------------------------------------------------


class _Static(NamedTuple):
    """All of a call but its arrays: what a compiled call is a call of."""

    op: str
    operation: str  # without _vjp
    names: tuple[str, ...]  # of the arrays given
    shape: tuple[int, ...]  # of the forward call's result
    kind: str
    batched: bool
    guide: str  # the kind of guide, where there is one
    keywords: tuple[tuple[str, Any], ...]
    sampling: tuple[tuple[str, Any], ...]  # the same, as the handlers take it
    shared: frozenset[str]  # arguments without a batch axis in any call
    wanted: tuple[str, ...] = ()  # arguments whose gradients are computed


def record(call: Any, out: Any, fields: Any = None, wrt: Any = None) -> Any:
    """The result, or the gradients, as JAX computes or traces them."""
    if out is not None:
        raise TypeError(f"{call.op}: out must be None, as JAX arrays can't be written to, got {type(out).__name__}.")
    arguments = call.signature.arguments
    names = tuple(a.name for a in arguments if call.values.get(a.name) is not None)
    keywords = dict(call.keywords)
    sampling: dict[str, Any] = {}
    if "window" in keywords:
        window = keywords["window"] or (0, 0, call.sizes["H"], call.sizes["W"])
        sampling = dict(zip(("top", "left", "full_height", "full_width"), window))
        sampling["align_corners"] = keywords["align_corners"]
    operation = call.signature.name
    if sizes := call.signature.sizes:
        keywords[sizes.name] = tuple(call.sizes[axis] for axis in sizes.axes)
    shape, kind = call.result()
    static = _Static(
        call.op,
        operation,
        names,
        shape,
        kind,
        call.batched,
        _guide_kind(operation, names),
        tuple(keywords.items()),
        tuple(sampling.items()),
        frozenset(a.name for a in arguments if a.axes[:1] != ("N",)),
    )
    arrays = _varying([call.values[name] for name in (*names, *(("grad",) if fields else ()))])
    if fields is None:
        return (_enhance if operation == "enhance" else _forward)(static, *arrays)
    static = static._replace(wanted=call.gradients(fields._fields, wrt))
    gradients = dict(zip(static.wanted, _backward(static, *arrays)))
    return fields(*(gradients.get(name) for name in fields._fields))


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


def _guide_kind(operation: str, names: Sequence[str]) -> str:
    if operation == "enhance":
        return "curves" if "ccm" in names else "nn" if "w1" in names else "luma"
    return operation.removeprefix("guide_") if operation.startswith("guide_") else ""


# ---------------------------------------------------------------------------------------------------------------------
# The handlers
# ---------------------------------------------------------------------------------------------------------------------

#: The array arguments of each kernel, in the order of csrc/calls.h.
_ORDER = {
    "slice": ("grid", "guide", "xy"),
    "apply": ("coefficients", "image"),
    "slice_apply": ("grid", "guide", "image", "xy"),
    "total_variation": ("grid",),
    "resize_area": ("image",),
}


def _call(
    static: _Static,
    kernel: str,
    results: Sequence[tuple[str, Any]],
    arguments: Sequence[tuple[str, Any]],
) -> list[Any]:
    """Results of a kernel. Both are (name, array) in its order; a result's array is its ShapeDtypeStruct, and None is
    absent."""

    def letters(arrays: Sequence[tuple[str, Any]]) -> str:
        return "".join("-" if a is None else "s" if name in static.shared else "n" for name, a in arrays)

    given = [a for _, a in arguments if a is not None]
    attributes = {
        "operation": static.op,
        "arrays": f"{letters(results)}|{letters(arguments)}",
        "rank": given[0].ndim,
        "batched": static.batched,
        **dict(static.sampling),
    }
    if static.guide:
        attributes["guide"] = static.guide
    wanted = [a for _, a in results if a is not None]
    return list(jax.ffi.ffi_call(_TARGET + kernel, wanted, vmap_method="expand_dims")(*given, **attributes))


def _compute_forward(static: _Static, *arrays: Any) -> Any:
    given = dict(zip(static.names, arrays))
    result = _result(static.shape, _numpy.dtype_of(static.kind), arrays[0])
    if static.operation == "splat":  # slice's gradient with respect to the grid, of which no value is needed
        results = [("grid", result), ("guide", None), ("xy", None)]
        order = [("grid", None), ("guide", given["guide"]), ("xy", given.get("xy")), ("grad", given["values"])]
        return _call(static, "slice_backward", results, order)[0]
    if static.guide:
        kernel = "enhance" if static.operation == "enhance" else "guide"
        order = list(given.items())
    else:
        kernel = static.operation
        order = [(name, given.get(name)) for name in _ORDER[kernel]]
    return _call(static, f"{kernel}_forward", [("out", result)], order)[0]


def _compute_backward(static: _Static, *arrays: Any) -> tuple[Any, ...]:
    *arguments, grad = arrays
    given = dict(zip(static.names, arguments))

    def result(name: str) -> tuple[str, Any]:
        array = given[name] if name in static.wanted else None
        return name, array if array is None else _result(array.shape, array.dtype, grad)

    if static.operation == "splat":
        return _splat_backward(static, given, grad, result)
    if static.guide:
        order = list(given.items())
        kernel, results = "guide", [result(name) for name in given]
    else:
        kernel = static.operation
        order = [(name, given.get(name)) for name in _ORDER[kernel]]
        fields = {"slice": ("grid", "guide", "xy"), "slice_apply": ("grid", "guide", "image", "xy")}
        results = [result(name) for name in fields.get(kernel, _ORDER[kernel])]
    found = _call(static, f"{kernel}_backward", results, [*order, ("grad", grad)]) if static.wanted else []
    by_name = dict(zip((name for name, a in results if a is not None), found))
    return tuple(by_name[name] for name in static.wanted)


def _splat_backward(static: _Static, given: dict[str, Any], grad: Any, result: Any) -> tuple[Any, ...]:
    """slice of the gradient, and its slopes."""
    found: dict[str, Any] = {}
    guide, xy, values = given["guide"], given.get("xy"), given["values"]
    slopes = [name for name in ("guide", "xy") if name in static.wanted]
    if slopes:
        results = [("grid", None), result("guide"), result("xy")]
        order = [("grid", grad), ("guide", guide), ("xy", xy), ("grad", values)]
        found.update(zip(slopes, _call(static, "slice_backward", results, order)))
    if "values" in static.wanted:
        order = [("grid", grad), ("guide", guide), ("xy", xy)]
        found["values"] = _call(static, "slice_forward", [result("values")], order)[0]
    return tuple(found[name] for name in static.wanted)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives
# ---------------------------------------------------------------------------------------------------------------------


def _formula_backward(static: _Static, *arrays: Any) -> tuple[Any, ...]:
    """The gradients by the formula, which JAX differentiates further."""
    *arguments, grad = arrays
    given = dict(zip(static.names, arguments))
    if not static.wanted:
        return ()

    def f(*wanted: Any) -> Any:
        replaced = {**given, **dict(zip(static.wanted, wanted))}
        return FORMULAS[static.operation](jnp, *replaced.values(), **dict(static.keywords))

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


_inference = jax.custom_jvp(_compute_forward, nondiff_argnums=(0,))
_inference.defjvp(_no_slopes)
_enhance = jax.jit(_inference, static_argnums=0)
