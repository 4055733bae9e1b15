"""The arguments and results of an operation, declared once; checks, error messages and kernel calls follow from it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .call import Call
from .checks import dtype_name, shape_text
from .declaration import Argument, KernelCall, Sizes, argument

__all__ = ["Argument", "Call", "KernelCall", "Signature", "Sizes", "argument"]

Function = TypeVar("Function", bound=Callable[..., Any])
_VJP = """
Parameters
----------
{given}
    As given to :func:`{name}`.
grad : array {shape}, the result's dtype{float32}{sizes}
wrt : tuple of argument names, optional
    The gradients wanted; all by default.
out : mapping from field to array, optional
    Arrays to fill and return.

Returns
-------
{record}
    {returns}

Raises
------
ValueError, TypeError
    As :func:`{name}`, and if ``wrt`` has a name that is not an argument's.

Notes
-----
{notes}"""
# The number of checked calls that an operation caches.
_MOST_KNOWN = 256


class Signature:
    """Everything specific to an operation except its computation.

    Parameters
    ----------
    name : of the operation
    arguments : its array arguments, in the order of its Python signature and of its kernels
    result : axes of the result
    lead : the argument whose rank determines whether a call is batched; if it is absent, the image
    like : the argument whose dtype the result has
    gradients : record of the VJP, with a field per argument except the index; None without a VJP
    batched : whether every call is batched
    keeps_integers : the result of an integer image has its dtype; otherwise it is float32
    sizes : an argument with sizes of the result's axes
    chooses_dtype : whether there is a keyword ``dtype`` for a result of another float dtype
    sampled : whether there are keywords ``window`` and ``align_corners``, and ``xy`` may be a rule
    kernel : name of the kernels, without ``_forward`` and ``_backward``; by default the operation's
    guide : which guide the arguments of role parameter are of
    forward, backward : the kernel calls, where they are not the usual ones
    """

    def __init__(
        self,
        name: str,
        arguments: Iterable[Argument],
        *,
        result: str,
        lead: str,
        like: str,
        gradients: type[Any] | None = None,
        batched: bool = False,
        keeps_integers: bool = True,
        sizes: Sizes | None = None,
        chooses_dtype: bool = False,
        sampled: bool = False,
        kernel: str = "",
        guide: str = "",
        forward: KernelCall | None = None,
        backward: tuple[KernelCall, ...] = (),
    ) -> None:
        self.name = name
        self.arguments = tuple(arguments)
        self.names = tuple(a.name for a in self.arguments)
        #: The arguments that may have gradients.
        self.fields = tuple(a.name for a in self.arguments if a.role != "index")
        self.result = tuple(result.split())
        self.lead = lead
        self.like = like
        self.gradients = gradients
        if gradients is not None and gradients._fields != self.fields:
            raise TypeError(
                f"{name}: {gradients.__name__} must have the fields {self.fields}, got {gradients._fields}."
            )
        self.always_batched = batched
        self.keeps_integers = keeps_integers
        self.sizes = sizes
        self.chooses_dtype = chooses_dtype
        self.sampled = sampled
        self.guide = guide
        #: The arguments that are the guide's parameters; they follow the image.
        self.parameters = tuple(a.name for a in self.arguments if a.role == "parameter")
        kernel = kernel or name
        self.forward = forward or self._kernel_call(f"{kernel}_forward", ("out",), self.names)
        self.backward = backward or (self._kernel_call(f"{kernel}_backward", self.fields, (*self.names, "grad")),)
        self._vjp_name = f"{name}_vjp"
        self._checked: dict[tuple[Any, ...], Call] = {}

    def vjp(self, function: Function) -> Function:
        """Add to a VJP's docstring, before its notes, the sections that all VJPs share."""
        if not function.__doc__:  # python -OO
            return function
        head, notes = inspect.cleandoc(function.__doc__).split("\nNotes\n-----\n")
        given = [name for name in inspect.signature(function).parameters if name not in ("grad", "wrt", "out")]
        integers = any(a.role == "image" for a in self.arguments)
        float32 = "; float32 for an integer image" * (integers and self.keeps_integers)
        float32 += " without ``dtype``" * self.chooses_dtype
        optional = any(a.optional for a in self.arguments if a.role != "index")
        absent = "not given or " * optional + "not in ``wrt``" + ", and for an integer image" * integers
        fields = ", ".join(f"``{name}``" for name in self.fields)
        like = "shapes and dtypes of the arguments" if len(self.fields) > 1 else "shape and dtype of the argument"
        returns = f"{fields}: {like}; ``None`` where {absent}."
        function.__doc__ = head + _VJP.format(
            name=self.name,
            given=", ".join(given),
            shape=shape_text(self.result),
            float32=float32,
            sizes=f"\n    Its shape determines ``{self.sizes.name}``." if self.sizes else "",
            record=self.gradients.__name__ if self.gradients else "",
            returns=textwrap.fill(returns, 112).replace("\n", "\n    "),
            notes=notes,
        )
        return function

    def _kernel_call(self, kernel: str, results: tuple[str, ...], arguments: tuple[str, ...]) -> KernelCall:
        names = (*results, *arguments)
        images = [place for place, name in enumerate(names) if name == "image"] if self.guide else []
        joined = (slice(place + 1, place + 1 + len(self.parameters)) for place in reversed(images))
        return KernelCall(kernel, results, arguments, tuple(joined))

    def lead_of(self, values: Mapping[str, Any]) -> Argument:
        """The argument whose rank determines whether a call is batched."""
        name = self.lead if values.get(self.lead) is not None else "image"
        return self.arguments[self.names.index(name)]

    def bind(
        self,
        values: Sequence[Any],
        sizes: Any = None,
        *,
        dtype: Any = None,
        xy: Any = None,
        window: Any = None,
        align_corners: Any = False,
    ) -> Call:
        """Check a forward call: arrays in order, what the caller gave for ``sizes``, and the operation's keywords.

        ``xy`` is one of these where it can't be an array.
        """
        checked = self.sizes.checked(self.name, sizes) if self.sizes else None
        named = dict(zip(self.names, values))
        rule = _taken_rule(named) if xy is None else xy
        call = self._bound(self.name, named, checked, dtype)
        if self.sampled:
            call.keywords = call.sampling(rule, window, align_corners)
        return call

    def bind_vjp(
        self, values: Sequence[Any], grad: Any, *, dtype: Any = None, window: Any = None, align_corners: Any = False
    ) -> Call:
        """Check a backward call; ``grad`` has the result's shape and dtype."""
        named = dict(zip(self.names, values))
        named["grad"] = grad
        rule = _taken_rule(named)
        call = self._bound(self._vjp_name, named, None, dtype)
        if self.sampled:
            call.keywords = call.sampling(rule, window, align_corners)
        return call

    def _bound(self, op: str, values: dict[str, Any], sizes: Mapping[str, int] | None, dtype: Any) -> Call:
        if dtype is not None:
            dtype = dtype_name(dtype)
        # Checks depend only on types, dtypes and shapes: a call that passed them once passes again.
        key: list[Any] = [op, dtype]
        for value in values.values():
            if value is None:
                key.append(None)
                continue
            try:
                key += (type(value), value.dtype, value.shape)
            except (AttributeError, RuntimeError):  # PyTorch's, of tensors that have no shape; ``locate`` refuses them
                key.append(type(value))
        if sizes:
            key += sizes.values()
        known = tuple(key)
        try:
            checked = self._checked.get(known)
        except TypeError:  # of an argument that isn't one
            return Call(self, op, values, sizes, dtype)
        if checked is not None and not any(getattr(values[name], "weak_type", False) for name in checked.scalars):
            return checked.again(values)
        call = Call(self, op, values, sizes, dtype)
        if call.mixed or call.converted:  # which hold for this call alone
            return call
        if len(self._checked) >= _MOST_KNOWN:
            self._checked.clear()
        self._checked[known] = call.again({})
        return call


def _taken_rule(named: dict[str, Any]) -> str | None:
    """Take the rule for pixels out of the arrays, if one is given."""
    rule = named.get("xy")
    if not isinstance(rule, str):
        return None
    named["xy"] = None
    return rule
