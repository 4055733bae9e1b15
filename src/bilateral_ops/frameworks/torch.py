"""PyTorch tensors, on the CPU or on a CUDA device; there on PyTorch's current stream.

A call that nothing listens to goes to the kernels at once, and so does one that autograd alone records, which then
remembers how to call the VJP. One that a transform (``vmap``, ``torch.func``), a compiler (``torch.compile``,
``torch.export``) or autocast watches goes through the dispatcher, as the operator ``torch.ops.bilateral_ops.NAME``:

    slice(Tensor grid, Tensor guide, Tensor? xy=None, Tensor? index=None, SymInt[]? window=None,
          bool align_corners=False, str? rule=None) -> Tensor
    slice_vjp(Tensor grid, Tensor guide, Tensor? xy, Tensor? index, Tensor grad, SymInt[]? window=None,
              bool align_corners=False, str? rule=None, str[]? wrt=None) -> Tensor[]

and likewise for each operation: the arguments in the order of its signature, then its keywords; ``rule`` is an ``xy``
that is no tensor. A VJP's list holds the gradients that are there, in that order. ``enhance`` takes ``(grid, image,
parameters[], kind)``, the guide record's fields and its kind. What they do:

- *Gradients*: the first by the kernels; a VJP's own, and those of forward mode, by the formulas of
  ``reference/_formulas.py``, which keep an image's worth of numbers for each of the eight cells around a pixel.
- *Fakes*: the operation's own checks, on shapes alone; so for ``meta`` tensors.
- ``vmap``, and autograd's own for batches of gradients (``is_grads_batched``): the new axis is folded into the batch.
  Guide parameters have no batch axis: where they are mapped, or their gradients are wanted, the operation runs once for
  each member of the axis.
- *ONNX*: while ``torch.onnx.export`` runs, a call is its formula, in plain operators of PyTorch's.
- *Autocast*: all floats are made of the widest dtype among them, float32 beside an integer image.

:class:`CurvesGuideModule`, :class:`NNGuideModule` and :class:`SliceApplyModule` are the operations as modules.

Results and gradients are contiguous in this package's order of axes, channels last, whatever the arguments' strides;
arguments are read where they lie. Of a subclass that overrides ``__torch_dispatch__`` the override sees the operator;
every other subclass is a tensor like any, and results are plain.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from .. import ops
from .._core.checks import FLOATS, INTEGERS, listed
from .._core.missing import install, needed
from ..ops._enhance import GUIDES
from ..ops._enhance import SIGNATURES as ENHANCE
from ..ops._guide_luma import LumaGuide
from ..reference._formulas import FORMULAS, stored
from ..reference.numpy import is_array
from . import _dlpack, _numpy

with needed("bilateral_ops.frameworks.torch", "torch", "torch"):
    import torch
    from torch._functorch.eager_transforms import enable_inplace_requires_grad
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch.autograd import forward_ad
    from torch.autograd.function import _SingleLevelFunction
    from torch.nn.parameter import is_lazy

    from ._torch_modules import CurvesGuideModule, NNGuideModule, SliceApplyModule

__all__ = ["CurvesGuideModule", "NNGuideModule", "SliceApplyModule"]

if not hasattr(torch.library, "register_autograd"):
    raise RuntimeError(f"bilateral_ops needs PyTorch 2.4 or newer, got {torch.__version__}; {install('torch')}.")

ARRAY = torch.Tensor
adopt = _numpy.adopt

shape_of: Any = None

_DTYPES = {name: getattr(torch, name) for name in (*FLOATS, *INTEGERS)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Looked up once, as are the functions: every call asks for them, of every tensor.
_CPU, _STRIDED = torch.device("cpu"), torch.strided
_is_wrapped, _level = torch._C._functorch.is_functorch_wrapped_tensor, torch._C._functorch.maybe_current_level
_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
_innermost, _JVP = torch._C._functorch.peek_interpreter_stack, torch._C._functorch.TransformType.Jvp
_is_mapped_by_func = torch._C._functorch.is_batchedtensor
_is_mapped_by_autograd = torch._C._functorch.is_legacy_batchedtensor
_dispatches_to = torch._C._dispatch_tls_is_dispatch_key_included
_unpack_dual: Any = torch._VF._unpack_dual
_REQUIRES_GRAD = attrgetter("requires_grad")
_VMAP_OF_AUTOGRAD: Any = torch._C._parse_dispatch_key("VmapMode")
_exports: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # from PyTorch 2.7 on
_STANDS_IN = "one that only stands for its numbers, or whose storage was freed"

#: ``device.type``, which PyTorch makes anew for everyone who asks.
_kind = functools.cache(attrgetter("type"))


def dtype_of(tensor: Any) -> str:
    return _NAMES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")


def locate(op: str, name: str, tensor: Any) -> Any:
    if tensor.is_nested:
        raise TypeError(
            f"{op}: {name} must be a dense tensor, got a nested one; pass its members, {name}.unbind(), one by one."
        )
    if tensor.__class__ is not ARRAY and is_lazy(tensor):
        raise TypeError(
            f"{op}: {name} must be a tensor with a shape, got an uninitialized one; call {name}.materialize(shape), or "
            f"its module once."
        )
    if _is_wrapped(tensor) and _level() is None:
        raise TypeError(
            f"{op}: {name} must be a plain tensor, got one that torch.func made in a call that is over; return it from "
            f"there."
        )
    if tensor.layout is not _STRIDED:
        layout = str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{op}: {name} must be a dense tensor, got {layout}; pass {name}.to_dense().")
    if tensor.is_neg():
        raise TypeError(f"{op}: {name} must be a plain tensor, got a negated view; pass {name}.resolve_neg().")
    device = tensor.device
    if device != _CPU:
        _require_kernels(op, name, device)
    return device


def _require_kernels(op: str, name: str, device: Any) -> None:
    if device.type == "cuda":
        _dlpack.require(op, name, device, f"pass {name}.cpu()")
    elif device.type not in ("cpu", "meta"):
        raise RuntimeError(
            f"{op}: {name} is on {device}, and this version computes on cpu and cuda; pass {name}.cpu()."
        )


def casts(device: Any) -> bool:
    """Whether autocast is on there, and has not done its part already."""
    kind = _kind(device)
    return kind in _AUTOCAST and torch.is_autocast_enabled(kind) and not _road.within


def guides_by_luma(device: Any) -> bool:
    return bool(_kind(device) != "cuda")


def number(value: float, dtype: str, device: Any) -> Any:
    return torch.full((), value, dtype=_DTYPES[dtype], device=device)


def empty(shape: tuple[int, ...], dtype: str, device: Any) -> Any:
    return torch.empty(shape, dtype=_DTYPES[dtype], device=device)


def check_out(op: str, label: str, out: Any, inputs: Sequence[tuple[str, Any]], twin: Any) -> None:
    if not _in_memory(out):
        raise TypeError(f"{op}: {label} must be a tensor in memory, got {_STANDS_IN}; pass one of torch.empty.")
    placed = [(name, tensor) for name, tensor in inputs if _in_memory(tensor)]
    _dlpack.check_out(op, label, out, placed, twin, _place)
    torch.autograd.graph.increment_version(out)  # what autograd has saved of it is about to change


def lend(call: Any, arrays: Sequence[Any]) -> list[Any] | None:
    if _road.describes:
        return None
    on_host = call.device == _CPU
    lent = []
    for tensor in arrays:
        made = tensor
        if tensor is not None:
            if tensor.requires_grad:
                made = tensor.detach()
            if not made.data_ptr() and made.numel():
                made = _zeros(call, tensor)
            if on_host:
                made = made.numpy() if made.dtype is not torch.bfloat16 else _bfloat16(call, made)
        lent.append(made)
    return lent


def _zeros(call: Any, tensor: Any) -> Any:
    """Those that a tensor without memory stands for, which autograd only speaks of, as nothing has come there."""
    if tensor._is_zerotensor():
        return tensor.detach().clone()
    name = next(name for name, value in call.values.items() if value is tensor)
    raise TypeError(f"{call.op}: {name} must be a tensor in memory, got {_STANDS_IN}; pass a copy made of its numbers.")


def _bfloat16(call: Any, tensor: Any) -> Any:
    """A NumPy array of a dtype that PyTorch hands over to nobody."""
    try:
        dtype = _numpy.to_dtype("bfloat16")
    except ImportError:
        raise RuntimeError(
            f"{call.op}: bfloat16 on the CPU needs ml_dtypes, which is not installed; {install('bfloat16')}."
        ) from None
    return tensor.view(torch.int16).numpy().view(dtype)


def run(op: str, kernel: str, arguments: Sequence[Any], device: Any) -> None:
    if device == _CPU:
        _numpy.run(op, kernel, arguments, None)
        return
    with torch.cuda.device(device):  # DLPack hands out tensors of the current device only
        stream = torch.cuda.current_stream().cuda_stream

        def allocate(size: int) -> Any:
            return torch.empty(size, dtype=torch.uint8, device=device)

        _dlpack.run(op, kernel, arguments, stream, allocate)


def _in_memory(tensor: Any) -> bool:
    return tensor.data_ptr() != 0 or tensor.numel() == 0


def _is_dense(tensor: Any) -> bool:
    return tensor.layout is _STRIDED and not (tensor.is_nested or is_lazy(tensor))


def _place(tensor: Any) -> Any:
    size = tensor.element_size()
    strides = [stride * size for stride in tensor.stride()]
    return _dlpack.place(tensor.data_ptr(), tensor.shape, strides, np.dtype(f"V{size}"))


# --- Which road a call takes


class _Graphs:
    """Whether a graph that this process has traced may open a level of forward mode around a call."""

    open_levels = False


_graphs = _Graphs()


class _Road(threading.local):
    """Where this thread is: within an operator, whose calls are the kernels'; describing results, not making them."""

    within = False
    describes = False


_road = _Road()


def _within(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function as from within an operator."""
    within, _road.within = _road.within, True
    try:
        return function(**arguments)
    finally:
        _road.within = within


def record(call: Any, out: Any, wrt: Any = None) -> Any:
    if _road.within:
        return None
    arguments = tensors = [tensor for tensor in call.values.values() if tensor is not None]
    if out is not None:
        results = out.values() if isinstance(out, Mapping) else (out,)
        tensors = [*arguments, *(result for result in results if isinstance(result, ARRAY))]
    # Those whose class dispatches are asked in the operator, which they take anyway.
    differentiates = _may_carry_tangents() and _carry_tangents(t for t in tensors if not _dispatches(t.__class__))
    records = torch.is_grad_enabled() and any(map(_REQUIRES_GRAD, tensors))
    why = followed(arguments)
    # As everywhere in PyTorch, autocast leaves calls alone that say where their result goes, where they can be made so.
    if not why and (call.mixed or (out is None and casts(call.device))):
        why = "autocast is on"
    if not (differentiates or records or why):
        return None
    if out is not None:
        why = "PyTorch differentiates forward" if differentiates else "autograd records" if records else why
        raise RuntimeError(
            f"{call.op}: out must be None while {why}, which can't follow what is written into a tensor."
        )
    name, signature, values = call.signature.name, call.signature, call.values
    if name == "enhance" and (differentiates or records):
        _no_gradient()
    forward = wrt is None
    given = {name: values.get(name) for name in signature.names} | dict(call.keywords)
    if signature.sizes and forward:
        given[signature.sizes.name] = [call.sizes[axis] for axis in signature.sizes.axes]
    operator: Any = _operators[call.op]
    function = operator.op if differentiates else operator
    if name == "enhance":
        given["kind"] = signature.guide
        given["parameters"] = [given.pop(parameter) for parameter in signature.parameters]
    if not forward:
        given |= {"grad": values["grad"], "wrt": list(call.gradients(wrt))}
    given |= {"rule": call.keywords.get("xy"), "xy": values.get("xy")}
    ordered = [given[parameter] for parameter in operator.parameters]
    if not (differentiates or why or _function_modes()):
        function, ordered = operator.recorded, [*ordered, call]
    elif torch.onnx.is_in_onnx_export():
        function = operator.by_formula
    try:
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*ordered)
    except TypeError as error:
        classes = {name: value.__class__ for name, value in values.items() if _dispatches(value.__class__)}
        if not classes or not str(error).startswith("Multiple dispatch failed"):
            raise
        name, cls = next(iter(classes.items()))
        raise TypeError(
            f"{call.op}: {name} must be a tensor that takes this package's operators, got {cls.__name__}, whose "
            f"__torch_dispatch__ does not; pass a plain one."
        ) from error
    return result if forward else signature.gradients(*map(dict(zip(given["wrt"], result)).get, signature.fields))


def followed(values: Iterable[Any]) -> str:
    """Who follows what is done with tensors, if anyone; their numbers may not be there to be looked at then."""
    if _level() is not None:
        return "torch.func transforms the call"
    if _dispatches_to(_VMAP_OF_AUTOGRAD):
        return "autograd maps the call"
    if _dispatch_modes() or _tracing_state() is not None:
        return "the call is traced"
    for value in values:
        cls = value.__class__
        if cls is ARRAY or isinstance(value, ARRAY):
            if value.is_meta:
                return "the call is on meta tensors"
            if cls is not ARRAY and _dispatches(cls):
                return "a tensor overrides __torch_dispatch__"
    return ""


def _beyond_autograd(values: Iterable[Any], device: Any) -> bool:
    """Whether somebody besides autograd is to see a call."""
    return bool(_function_modes() or followed(values)) or casts(device)


def _at_jvp() -> bool:
    return (level := _innermost()) is not None and level.key() == _JVP


def _may_carry_tangents() -> bool:
    return forward_ad._current_level >= 0 or _graphs.open_levels or _at_jvp()


def _has_tangent(tensor: Any) -> bool:
    """Tensors that a ``vmap`` wraps have none there, and those without strides or numbers are refused later."""
    if _is_mapped_by_func(tensor) or _is_mapped_by_autograd(tensor) or not _is_dense(tensor):
        return False
    return _unpack_dual(tensor, level=0)[1] is not None


def _carry_tangents(tensors: Iterable[Any]) -> bool:
    """Whether PyTorch differentiates a call of these tensors forward.

    Of the levels of torch.func this is the innermost that the call is at. A tensor that ``vmap`` has wrapped has no
    tangent there; what is in it is asked when the call has passed that level. A compiled ``jvp`` has a level there, and
    none that Python knows of. Of a ``dual_level`` that a compiled function opens Python knows only while the function
    is traced: once such a trace has been seen, all tensors are asked, which makes a tiny call take half as long again.
    """
    if not _may_carry_tangents():
        return False
    carry = any(map(_has_tangent, tensors))
    if forward_ad._current_level >= 0 and carry and _dispatch_modes() and not _at_jvp():
        _graphs.open_levels = True
    return carry


@functools.cache
def _dispatches(cls: Any) -> bool:
    return issubclass(cls, torch.Tensor) and cls.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


# --- The operators

_library = torch.library.Library("bilateral_ops", "DEF")
_operators: dict[str, _Operator] = {}
#: Keywords of the operations that sample a grid.
_SAMPLING = ("SymInt[]? window=None", "bool align_corners=False", "str? rule=None")
#: Where PyTorch can cast, and the dispatcher's layer that does.
_AUTOCAST = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}

#: The layer of torch.func's ``vmap``.
_BATCHED = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)


def _there(signature: Any, values: Mapping[str, Any], wrt: Any) -> list[str]:
    """Names of the arguments whose gradients a VJP returns, in order."""
    return [
        a.name
        for a in signature.arguments
        if (value := values.get(a.name)) is not None
        and value.dtype.is_floating_point
        and (wrt is None or a.name in wrt)
    ]


class _Operator:
    """An operation or its VJP as an operator of PyTorch's.

    ``declared`` are its parameters as its schema has them. ``compute``, which is given them by name, is the package's
    own function: it checks, allocates and calls the kernels. ``formula`` computes the same in plain operators.
    ``signature_of`` says which signature its arguments have.
    """

    def __init__(
        self,
        name: str,
        declared: Sequence[str],
        returns: str,
        compute: Callable[..., Any],
        formula: Callable[..., Any],
        signature_of: Callable[[Mapping[str, Any]], Any],
    ) -> None:
        self.name = name
        self.parameters = [text.partition("=")[0].rpartition(" ")[2] for text in declared]
        self.tensors = {name for text, name in zip(declared, self.parameters) if text.startswith("Tensor")}
        self.compute = compute
        self.formula = formula
        self.signature_of = signature_of
        #: The same, of tensors that require a gradient.
        self.differentiate: Callable[..., Any] = _no_gradient
        #: The same, of tensors with tangents.
        self.differentiate_forward: Callable[..., Any] = _no_gradient
        #: The same for autograd alone, given the :class:`Call` as well: a tenth of the dispatcher's time.
        self.recorded: Any = None
        _operators[name] = self
        _library.define(f"{name}({', '.join(declared)}) -> {returns}", tags=torch.Tag.pt2_compliant_tag)
        self.op = getattr(torch.ops.bilateral_ops, name).default
        self._defaults = [argument.default_value for argument in self.op._schema.arguments]
        for key in ("CPU", "CUDA"):
            _library.impl(name, self._kernel, key)
        for device, layer in _AUTOCAST.items():
            _library.impl(name, functools.partial(self._autocast, device), layer.name)
        _library.impl(name, self._autograd, "Autograd")
        _library.impl(name, self._vmap, "FuncTorchBatched")
        _library.impl(name, self._vmap_of_autograd, "Batched")
        torch.library.register_fake(f"bilateral_ops::{name}", self._fake, lib=_library)

    def differentiable(self, backward: Callable[..., Any]) -> None:
        """``backward(ctx, *gradients)`` finds tensors by name in ``ctx.saved``, and other arguments in ``ctx.rest``."""

        def prepare(ctx: Any, inputs: Any, output: Any) -> None:
            values = self.named(inputs)
            ctx.saved = [key for key in self.parameters if key in self.tensors]
            ctx.save_for_backward(*(values[key] for key in ctx.saved))
            ctx.rest = {key: value for key, value in values.items() if key not in self.tensors}

        def forward(*given: Any) -> Any:
            # A Function turns both off; the levels of torch.func below are to find them as they left them.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                result = self._below_autograd(*given)
            return tuple(result) if isinstance(result, list) else result

        methods = {"forward": forward, "setup_context": prepare, "backward": backward}
        function = _function_class(f"{self.name}_of_operators", methods)

        def differentiate(*given: Any) -> Any:
            with enable_single_level_autograd_function():
                result = function.apply(*given, *self._defaults[len(given) :])
            return list(result) if isinstance(result, tuple) else result

        self.differentiate = differentiate
        self.differentiate_forward = self.by_formula

        def compute(ctx: Any, *given: Any) -> Any:
            *inputs, call = given
            prepare(ctx, inputs, None)
            if "wrt" not in ctx.rest:
                return _within(call.forward, out=None)
            gradients = _within(call.backward, wrt=ctx.rest["wrt"], out=None)
            return tuple(gradient for gradient in gradients if gradient is not None)

        def back(ctx: Any, *gradients: Any) -> Any:
            return (*backward(ctx, *gradients), None)

        self.recorded = _function_class(f"{self.name}_of_autograd", {"forward": compute, "backward": back}).apply

    def __call__(self, *given: Any) -> Any:
        """The operator as every caller here calls it."""
        if torch.is_grad_enabled() or _beyond_autograd(given, given[0].device):
            return self.op(*given)
        return self._kernel(*given)

    def named(self, given: Sequence[Any]) -> dict[str, Any]:
        """The arguments by name. The dispatcher leaves out trailing ones that have their default values."""
        values = dict(zip(self.parameters, given))
        if values.get("xy") is not None and (rule := values.get("rule")) is not None:
            raise ValueError(f"{self.name}: rule must be None where xy is given, got {rule!r}.")
        return values

    def by_formula(self, *given: Any, **named: Any) -> Any:
        """The operator in plain operators."""
        return self.formula(**self.named(given), **named)

    def _kernel(self, *given: Any) -> Any:
        return _within(self.compute, **self.named(given))

    def _fake(self, *given: Any) -> Any:
        describes, _road.describes = _road.describes, True
        try:
            return self._kernel(*given)
        finally:
            _road.describes = describes

    def _autograd(self, *given: Any) -> Any:
        """Autograd's kernel: called once for plain tensors, and at each level of ``grad``, ``vjp`` and ``jvp``."""
        tensors = [value for value in _flat(given) if isinstance(value, torch.Tensor)]
        if _carry_tangents(tensors) and not self._rounds(given):
            if _exports() and not _at_jvp():
                raise RuntimeError(
                    f"{self.name}: no tensor may have a tangent of forward_ad.dual_level while torch.export traces the "
                    f"call, as the program would lose it; use torch.func.jvp."
                )
            return self.differentiate_forward(*given)
        if torch.is_grad_enabled() and any(map(_REQUIRES_GRAD, tensors)):
            return self.differentiate(*given)
        return self._below_autograd(*given)

    def _rounds(self, given: Sequence[Any]) -> bool:
        """Whether results are integers, which have no slope."""
        values = self.named(given)
        signature = self.signature_of(values)
        return "grad" not in values and _result_dtype(values, signature) in INTEGERS

    def _below_autograd(self, *given: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return self.op(*given)

    def _autocast(self, device: str, *given: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_AUTOCAST[device])):
            return self.op(*_of_one_dtype(given))

    def _vmap(self, *given: Any) -> Any:
        """The rule by which ``torch.vmap`` batches a call: all members in one, or one after the other."""
        level: Any = _level()
        with torch._C._ExcludeDispatchKeyGuard(_BATCHED):
            values, dims = _in_front(given, lambda tensor: torch._C._functorch._unwrap_batched(tensor, level))
            if not _is_mapped(dims):
                return self.op(*given)
            return _over_results(lambda r: torch._C._functorch._add_batch_dim(r, 0, level), self._mapped(values, dims))

    def _vmap_of_autograd(self, *given: Any) -> Any:
        """The same for autograd's own ``vmap`` (``is_grads_batched``, ``vectorize``), which wraps tensors differently.

        Its dispatcher says how many levels there are, but not which of them a call is at: that is the innermost one
        that any of the tensors is mapped at.
        """
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        found = _in_front(given, functools.partial(_unwrapped, level))
        while not _is_mapped(found[1]):
            level -= 1
            found = _in_front(given, functools.partial(_unwrapped, level))
        return _over_results(lambda r: torch._add_batch_dim(r, 0, level), self._mapped(*found))

    def _mapped(self, given: Sequence[Any], in_dims: Sequence[Any]) -> Any:
        """Compute a call for every member of a mapped axis.

        ``in_dims`` has 0 for each tensor that has this axis, in front of its own, and None for all else. Every result
        has it in front.
        """
        size = next(len(value) for value, dim in zip(_flat(given), _flat(in_dims)) if dim == 0)
        dims, values = self.named(in_dims), self.named(given)
        signature = self.signature_of(values)
        parameters = {*signature.parameters, "parameters"}
        mapped = {name for name in values if _is_mapped(dims[name])}
        summed = _there(signature, values, values.get("wrt")) if "grad" in values else ()
        if parameters & mapped or not parameters.isdisjoint(summed) or values.get("index") is not None:
            # An axis without members: one call of zeros tells the results' shapes.
            members = range(size) if size else (None,)
            each = [self.op(*(_member(values[name], dims[name], i) for name in values)) for i in members]
            return _over_results(lambda *members: torch.stack(members)[:size], *each)

        lead = signature.lead_of(values)
        shape = values[lead.name].shape[lead.name in mapped :]
        batched = signature.always_batched or len(shape) == len(lead.axes)

        def folded(name: str) -> Any:
            value = values[name]
            if not isinstance(value, torch.Tensor) or name in parameters:
                return value
            value = value if name in mapped else value.expand(size, *value.shape)
            return value.reshape(size * shape[0], *value.shape[2:]) if batched else value

        result = self.op(*map(folded, values))
        return _over_results(lambda r: r.reshape(size, shape[0], *r.shape[1:]), result) if batched else result


def _function_class(name: str, methods: Mapping[str, Any]) -> Any:
    """A Function without what its ``apply`` does for torch.func first, which the dispatcher does for operators."""
    kind: Any = type(_SingleLevelFunction)
    return kind(name, (_SingleLevelFunction,), {name: staticmethod(method) for name, method in methods.items()})


def _in_front(value: Any, unwrap: Callable[[Any], tuple[Any, int | None]]) -> tuple[Any, Any]:
    """The mapped tensors of a value with that axis first, and 0 for each; other values as they are, and None."""
    if isinstance(value, (list, tuple)):
        parts = [_in_front(part, unwrap) for part in value]
        return [part for part, _ in parts], [dim for _, dim in parts]
    tensor, dim = unwrap(value) if isinstance(value, torch.Tensor) else (value, None)
    return (value, None) if dim is None else (tensor.movedim(dim, 0), 0)


def _unwrapped(level: int, tensor: Any) -> tuple[Any, int | None]:
    """Of autograd's vmap: the tensor, and the axis that is mapped at this level, if one is."""
    if _is_mapped_by_autograd(tensor):
        # Of one that is not, PyTorch makes an axis of the size that is asked for.
        empty, one = (torch._remove_batch_dim(tensor, level, size, 0) for size in (0, 1))
        if len(empty) == len(one):
            return one, 0
    return tensor, None


def _is_mapped(dim: Any) -> bool:
    return any(map(_is_mapped, dim)) if isinstance(dim, (list, tuple)) else dim is not None


def _member(value: Any, dim: Any, index: int | None) -> Any:
    """What one call of those that are mapped is given; zeros where there is none."""
    if isinstance(dim, (list, tuple)):
        return [_member(v, d, index) for v, d in zip(value, dim)]
    if dim is None:
        return value
    return value.new_zeros(value.shape[1:]) if index is None else value[index]


def _flat(values: Sequence[Any]) -> list[Any]:
    """The values, lists' parts in their place."""
    return [part for value in values for part in (value if isinstance(value, (list, tuple)) else (value,))]


def _over_results(change: Callable[..., Any], *results: Any) -> Any:
    """Of calls that return a tensor each, or a list of them."""
    return [change(*parts) for parts in zip(*results)] if isinstance(results[0], list) else change(*results)


def _of_one_dtype(given: Sequence[Any]) -> list[Any]:
    """The arguments with all floats of the widest dtype among them, float32 beside an integer image."""
    dtypes = {tensor.dtype for tensor in _flat(given) if isinstance(tensor, torch.Tensor)}
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    widest = functools.reduce(torch.promote_types, floats or {torch.float32}) if floats == dtypes else torch.float32

    def cast(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [cast(v) for v in value]
        return value.to(widest) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return [cast(value) for value in given]


# --- Their gradients


def _by_formula(
    name: str, values: Mapping[str, Any], keywords: Mapping[str, Any], grad: Any, wanted: Sequence[str]
) -> Any:
    """The wanted gradients, differentiable once more and as often as one likes."""
    if not wanted:
        return ()

    def function(*at: Any) -> Any:
        return FORMULAS[name](torch, **{**values, **dict(zip(wanted, at)), **keywords})

    return torch.func.vjp(function, *(values[argument] for argument in wanted))[1](grad)


def _keywords(signature: Any, values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A formula's keywords, of a VJP's."""
    keywords = {key: given[key] for key in ("window", "align_corners", "dtype") if key in given}
    if (rule := given.get("rule")) is not None:
        keywords["xy"] = rule
    if sizes := signature.sizes:
        lead = signature.lead_of(values)
        batched = values[lead.name].ndim == len(lead.axes)
        first = signature.result.index(sizes.axes[0]) - (not batched)
        keywords[sizes.name] = values["grad"].shape[first : first + len(sizes.axes)]
    return keywords


def _result_dtype(values: Mapping[str, Any], signature: Any) -> str:
    """The result's dtype, where it is not a float that follows by itself."""
    return (values.get("dtype") or dtype_of(values[signature.like])) if signature.keeps_integers else ""


def _define(operation: Any) -> None:
    """An operation and its VJP as operators that know each other."""
    name, signature = operation.name, operation.signature
    keywords = (*_SAMPLING * signature.sampled, *("str? dtype=None",) * signature.chooses_dtype)
    tensors = [f"Tensor{'?' * a.optional} {a.name}" for a in signature.arguments]
    if signature.sizes:
        declared = [*tensors, f"SymInt[] {signature.sizes.name}", *keywords]
    else:
        declared = [f"{text}=None" if text.endswith((" xy", " index")) else text for text in tensors] + [*keywords]

    def as_called(values: dict[str, Any]) -> dict[str, Any]:
        """An absent guide is the image's luma; a rule is in the place of ``xy``."""
        if (rule := values.pop("rule", None)) is not None:
            values["xy"] = rule
        return {name: LumaGuide() if name == "guide" and value is None else value for name, value in values.items()}

    def compute(**values: Any) -> Any:
        return operation.function(**as_called(values))

    def compute_vjp(**values: Any) -> list[Any]:
        return [gradient for gradient in operation.vjp(**as_called(values)) if gradient is not None]

    def formula(rule: Any = None, **values: Any) -> Any:
        result = FORMULAS[name](torch, **values | ({"xy": rule} if rule else {}))
        return stored(torch, result, _result_dtype(values, signature))

    def formula_vjp(grad: Any, wrt: Any = None, **given: Any) -> list[Any]:
        values: dict[str, Any] = {key: given.get(key) for key in signature.names}
        keywords = _keywords(signature, {**values, "grad": grad}, given)
        wanted = _there(signature, values, wrt)
        if not wanted:
            return []
        records = torch.is_grad_enabled() and any(map(_REQUIRES_GRAD, filter(is_array, (*values.values(), grad))))
        # From within a dispatch, where torch.func is not to be used. Views keep their tensors' tangents.
        autograd = torch._C.DispatchKey.AutogradFunctionality
        with (
            torch._C._SetExcludeDispatchKeyGuard(autograd, False),
            torch.enable_grad(),
            enable_inplace_requires_grad(True),
        ):
            at = {key: values[key].view_as(values[key]) for key in wanted}
            for tensor in at.values():
                if not tensor.requires_grad:
                    tensor.requires_grad_()
            result = FORMULAS[name](torch, **{**values, **at, **keywords})
            # A graph of them is asked for as sums are written in place otherwise, which who traces may lose.
            found = torch.autograd.grad(result, [*at.values()], grad, create_graph=True, materialize_grads=True)
        # A level of torch.func forgets its graph at its end; detached tensors are so at every level.
        return list(found) if records or _level() is not None else [gradient.detach() for gradient in found]

    def formula_vjp_forward(*given: Any) -> list[Any]:
        values = vjp.named(given)
        if _level() is not None:  # no other can begin within a dispatch at it
            return formula_vjp(**values)
        # Autograd accumulates in place, which its own vmap refuses of mapped tangents; under torch.func it does not.
        point = {key: values[key] for key in signature.names}
        keywords = _keywords(signature, values, values)
        wanted = _there(signature, values, values.get("wrt"))
        return list(_by_formula(name, point, keywords, values["grad"], wanted))

    declared_vjp = [*tensors, "Tensor grad", *keywords, "str[]? wrt=None"]
    forward = _Operator(name, declared, "Tensor", compute, formula, lambda _: signature)
    vjp = _Operator(f"{name}_vjp", declared_vjp, "Tensor[]", compute_vjp, formula_vjp, lambda _: signature)

    def backward(ctx: Any, grad: Any) -> Any:
        values = dict(zip(ctx.saved, ctx.saved_tensors))
        wrt = [key for key, needed in zip(forward.parameters, ctx.needs_input_grad) if needed]
        keywords = [value for key, value in ctx.rest.items() if key in vjp.parameters]
        found = vjp(*values.values(), grad, *keywords, wrt)
        gradients = dict(zip(_there(signature, values, wrt), found))
        return tuple(map(gradients.get, forward.parameters))

    def backward_vjp(ctx: Any, *cotangents: Any) -> Any:
        values = dict(zip(ctx.saved, ctx.saved_tensors))
        wanted = _there(signature, values, ctx.rest["wrt"])
        needed = [key for key, needs in zip(vjp.parameters, ctx.needs_input_grad) if needs]
        keywords = _keywords(signature, values, ctx.rest)

        def gradients(*at: Any) -> Any:
            point = {**values, **dict(zip(needed, at))}
            grad = point.pop("grad")
            return _by_formula(name, point, keywords, grad, wanted)

        pull = torch.func.vjp(gradients, *(values[key] for key in needed))[1]
        found = dict(zip(needed, pull(cotangents)))
        return tuple(map(found.get, vjp.parameters))

    forward.differentiable(backward)
    vjp.differentiable(backward_vjp)
    vjp.differentiate_forward = formula_vjp_forward


def _define_enhance() -> None:
    records = {record.kind: record for record in GUIDES}

    def signature_of(values: Mapping[str, Any]) -> Any:
        kind = values["kind"]
        if kind not in ENHANCE:
            raise ValueError(f"enhance: kind must be {listed(map(repr, ENHANCE))}, got {kind!r}.")
        names, count = ENHANCE[kind].parameters, len(values["parameters"])
        if count != len(names):
            fields = f"the {len(names)} fields of {records[kind].__name__} ({', '.join(names)})" if names else "empty"
            raise ValueError(f"enhance: parameters must be {fields}, got {count}.")
        return ENHANCE[kind]

    def compute(grid: Any, image: Any, parameters: Any, kind: str, rule: Any = None, **sampling: Any) -> Any:
        signature_of({"kind": kind, "parameters": parameters})
        return ops.OPERATIONS["enhance"].function(grid, records[kind](*parameters), image, xy=rule, **sampling)

    def formula(grid: Any, image: Any, parameters: Any, kind: str, rule: Any = None, **sampling: Any) -> Any:
        result = FORMULAS["enhance"](torch, grid, image, *parameters, kind=kind, xy=rule, **sampling)
        return stored(torch, result, dtype_of(image))

    declared = ["Tensor grid", "Tensor image", "Tensor[] parameters", "str kind", *_SAMPLING]
    _Operator("enhance", declared, "Tensor", compute, formula, signature_of)


def _no_gradient(*_: Any, **__: Any) -> Any:
    raise RuntimeError(
        "enhance: no tensor may require a gradient, or have a tangent, as it has neither; call a guide_* operation and "
        "slice_apply, or pass detached tensors."
    )


for _operation in ops.OPERATIONS.values():
    if _operation.vjp is not None:
        _define(_operation)
_define_enhance()


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Every operator with its formula."""
    return {operator.op: operator.by_formula for operator in _operators.values()}


def allow_in_graphs() -> None:
    """Have ``torch.compile`` put calls into its graphs as they are; what they do it finds out from the operators."""
    for operation in ops.OPERATIONS.values():
        for function in filter(None, (operation.function, operation.vjp)):
            torch.compiler.allow_in_graph(function)
