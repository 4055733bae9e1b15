"""One checked call of an operation: its framework, device, dtypes and sizes; its result and gradients by kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..frameworks import _numpy
from .checks import (
    FLOATS,
    INDICES,
    INTEGERS,
    NUMBERS,
    brief,
    integers,
    is_negative,
    is_symbol,
    listed,
    real,
    shape_text,
    type_text,
)
from .declaration import Argument, KernelCall, fixed_size
from .dispatch import adopted, framework_of
from .hints import DTYPES, SHAPES, Refused, hint

if TYPE_CHECKING:
    from .signature import Signature

_HALVES = ("float16", "bfloat16")
# Positions on an axis are computed in the image's precision: float32 has halves up to here.
_MOST_CELLS = 1 << 23
# Numbers an argument may have for each pixel, or in each grid, so that products of sizes stay whole numbers.
_MOST_NUMBERS = 1 << 40
# Numbers from here on become infinity in a dtype: halfway between its largest number and the next power of two.
_OVERFLOW = {
    "float16": (2 - 2.0**-11) * 2.0**15,
    "bfloat16": (2 - 2.0**-8) * 2.0**127,
    "float32": (2 - 2.0**-24) * 2.0**127,
    "float64": math.inf,
}
# Pixel positions are products of integers in double, which are exact up to here with any grid in use.
_MOST_PIXELS = 1 << 40


class Call:
    """One checked call: ``values`` by name (scalars made arrays), the framework, and the sizes of the axes.

    ``keywords`` are its other arguments, checked: all that a framework needs that records the call itself.
    """

    keywords: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        signature: Signature,
        op: str,
        values: Mapping[str, Any],
        sizes: Mapping[str, int] | None = None,
        dtype: str | None = None,
    ) -> None:
        self.signature = signature
        self.op = op
        self.values = dict(values)
        self.sizes: dict[str, Any] = dict(sizes) if sizes else {}
        if signature.chooses_dtype:
            self.keywords = {"dtype": dtype}
        #: The argument that determined the size of each axis.
        self.owners: dict[str, str] = dict.fromkeys(self.sizes, signature.sizes.name if signature.sizes else "")
        given = [a for a in signature.arguments if not (a.optional and self.values.get(a.name) is None)]
        if any(a.role == "index" for a in given):
            given = [self._indexed(a) for a in given]
        if "grad" in values:
            given.append(Argument("grad", signature.result, "grad"))
        self._given = given
        self._arrays = [a for a in given if a.axes or not isinstance(self.values[a.name], NUMBERS)]
        #: Arguments given as numbers, and the dtype to convert them to.
        self.numbers: dict[str, str] = {}
        #: Arguments without axes given as arrays: JAX's may be weakly typed, which is not part of the cache's key.
        self.scalars = tuple(a.name for a in self._arrays if not a.axes)
        #: Arguments that came by DLPack.
        self.adopted: list[str] = []
        self._find_framework()
        self._find_device()
        self._check_dtypes()
        self._check_shapes()
        #: Shape and dtype of a forward call's result.
        self.result = self._expect()
        #: The arguments with gradients: those that are given and not integers.
        self._floats = tuple(n for n in signature.fields if self.dtypes.get(n, INTEGERS[0]) not in INTEGERS)

    def _indexed(self, a: Argument) -> Argument:
        """The argument's axes if an index is given."""
        if a.role == "grid" and a.axes[0] == "N":
            return a._replace(axes=("M", *a.axes[1:]))
        index = self.values[a.name]
        if a.role == "index" and not isinstance(index, type) and len(getattr(index, "shape", ())) < 2:
            return a._replace(axes=a.axes[:1])
        return a

    def again(self, values: dict[str, Any]) -> Call:
        """The same call with other values of the same types, dtypes and shapes."""
        call = Call.__new__(Call)
        call.__dict__ = self.__dict__.copy()
        call.values = values
        if values:
            for name in self.adopted:
                if (array := adopted(call.op, name, values[name])) is None:
                    framework_of(call.op, name, values[name])  # which refuses it, as it is on a device now
                call.values[name] = array
            call._find_device()
            for name, dtype in self.numbers.items():
                call.values[name] = self._number(name, values[name], dtype)
        return call

    def _number(self, name: str, value: Any, dtype: str) -> Any:
        """A number, given for an argument without axes, as an array of that dtype."""
        number = real(value)
        if number is None:
            raise TypeError(f"{self.op}: {name} must be a real number, got {type(value).__name__}.")
        if abs(number) >= _OVERFLOW[dtype] and not (isinstance(value, (float, np.floating)) and np.isinf(value)):
            raise ValueError(f"{self.op}: {name} must be in {dtype}'s range, got {brief(value, str)}.")
        return self.framework.number(number, dtype, self.device)

    # --- framework, dtypes

    def _find_framework(self) -> None:
        self.framework: Any = None
        #: Whether an argument was converted. Such a call is not cached, because the next one must convert its own.
        self.converted = False
        found = []
        for a in self._arrays:
            value = given = self.values[a.name]
            if not a.axes and not hasattr(value, "dtype"):
                raise TypeError(f"{self.op}: {a.name} must be a number or an array, got {type(value).__name__}.")
            if (array := adopted(self.op, a.name, value)) is not None:
                self.values[a.name] = value = array
                self.adopted.append(a.name)
            framework = framework_of(self.op, a.name, value)
            found.append((a.name, value, type(given), framework))
            if self.framework is None or (framework.adopt and self.framework is _numpy):
                self.framework, self._array_type = framework, type(given)
        for name, value, cls, framework in found:
            if framework is self.framework:
                continue
            if framework is not _numpy or not self.framework.adopt:
                both = f"{type_text(cls)} beside {type_text(self._array_type)}"
                raise TypeError(f"{self.op}: {name} must belong to the framework of the other arrays, got {both}.")
            self.values[name] = self.framework.adopt(value)
            self.converted = True

    def _find_device(self) -> None:
        """The device of all arrays and of the result."""
        self.device: Any = None
        locate = self.framework.locate
        if locate is None:
            return
        op, values, first, where = self.op, self.values, "", None
        for a in self._arrays:
            name = a.name
            device = locate(op, name, values[name])
            if not first:
                first, where = name, device
            elif device != where:
                raise ValueError(f"{op}: {name} must be on {where} to match {first}, got {device}.")
        self.device = where

    def _check_dtypes(self) -> None:
        dtype_of = self.framework.dtype_of
        first = next((a for a in self._given if a.role == "image"), self._given[0])
        base = dtype_of(self.values[first.name])
        choice = (*FLOATS, *INTEGERS) if first.role == "image" else FLOATS
        if base not in choice:
            raise TypeError(f"{self.op}: {first.name} must be {listed(choice)}, got {base}.")
        integer = base in INTEGERS
        #: Whether the framework must convert the arguments to one dtype first.
        self.mixed = False
        #: The float dtype that goes with the image: its own, or float32 for integers.
        self.float_dtype = "float32" if integer else base
        chosen = self.keywords.get("dtype")
        if chosen not in (None, base, *FLOATS):
            raise TypeError(f"{self.op}: dtype must be {listed(dict.fromkeys((*FLOATS, base)))}, got {chosen}.")
        self.dtypes = dtypes = {first.name: base}
        # A 16-bit image may have a grid and parameters in float32, and with such a grid the guide array too.
        mixable = first.role == "image" and base in _HALVES
        parameter_dtype = self.float_dtype
        for a in self._given:
            if a is first:
                continue
            mixed = mixable and (a.role in ("grid", "parameter") or (a.role == "guide" and dtypes["grid"] == "float32"))
            allowed = (base, "float32") if mixed else (self.float_dtype,)
            if a.role == "grad" and chosen in FLOATS:
                allowed = (chosen,)
            value = self.values[a.name]
            if a.role == "index":
                dtypes[a.name] = dtype_of(value)
                if dtypes[a.name] not in INDICES:
                    raise TypeError(f"{self.op}: {a.name} must be {listed(INDICES)}, got {dtypes[a.name]}.")
                continue
            if not a.axes and isinstance(value, NUMBERS):
                self.values[a.name] = value = self._number(a.name, value, parameter_dtype)
                self.numbers[a.name] = parameter_dtype
            elif not a.axes and getattr(value, "weak_type", False):  # a number that JAX has made an array, or traces
                self.values[a.name] = value = value.astype(parameter_dtype)
                self.converted = True
            dtype = dtype_of(value)
            if dtype not in allowed and dtype in FLOATS and (casts := self.framework.casts) and casts(self.device):
                self.mixed = True
            elif dtype not in allowed:
                beside = f"an integer {first.name}" if integer else first.name
                remedy = hint(DTYPES, Refused(a.name, value))
                raise TypeError(
                    f"{self.op}: {a.name} must be {listed(allowed)} to match {beside}, got {dtype}{remedy}."
                )
            dtypes[a.name] = dtype
            if a.role == "parameter":
                parameter_dtype = dtype

    # --- shapes

    def _check_shapes(self) -> None:
        self.lead = lead = self.signature.lead_of(self.values)
        rank = len(self.shape(lead.name))
        indexed = any(a.role == "index" for a in self._given)
        self.batched = self.signature.always_batched or indexed or rank == len(lead.axes)
        if not self.batched and rank != len(lead.axes) - 1:
            axes = [fixed_size(axis) or axis for axis in lead.axes]
            both = f"{shape_text(axes[1:])} or {shape_text(axes)}"
            got = f"{shape_text(self.shape(lead.name))}{self._remedy(lead.name, lead.axes)}"
            raise ValueError(f"{self.op}: {lead.name} must have shape {both}, got {got}.")
        optional: list[Argument] = []
        for a in self._given:
            if not self._match(a, optional):
                self._refuse(a)
        # Ci[+1] can be judged once Ci is known.
        for a in optional:
            if self.shape(a.name)[-1] - self.sizes["Ci"] not in (0, 1):
                self._refuse(a)
        for axis in ("Gh", "Gw", "Gd"):
            size = self.sizes.get(axis, 1)
            if not is_symbol(size) and not 1 <= size <= _MOST_CELLS:
                cells = tuple(self.sizes[axis] for axis in ("Gh", "Gw", "Gd"))
                raise ValueError(
                    f"{self.op}: {self.owners[axis]} must have 1 to {_MOST_CELLS} cells on every grid axis, "
                    f"got (Gh, Gw, Gd) = {cells}."
                )

        if "M" in self.sizes:
            self._check_index()
        sized = [(a.name, a.axes) for a in self._given] + [("the result", self.signature.result)]
        for name, names in sized:
            numbers = math.prod(self._size(axis) for axis in names if axis not in ("N", "M", "H", "W", "h", "w"))
            if is_negative(_MOST_NUMBERS - numbers):
                raise ValueError(
                    f"{self.op}: {name} must have at most {_MOST_NUMBERS} numbers beside N, H and W, got {numbers}."
                )

    def _check_index(self) -> None:
        index = next(a for a in self._given if a.role == "index")
        if len(index.axes) > 1 and self.values.get("xy") is None:
            raise ValueError(f"{self.op}: xy must be given where {index.name} names a grid for each pixel, got None.")
        if not self.sizes["M"] and 0 not in self.shape(index.name):
            raise IndexError(f"{self.op}: {index.name} must name a grid, of which there are none.")

    def _size(self, axis: str) -> Any:
        if axis == "*C":
            return math.prod(self.sizes["*C"])
        if axis == "Ci[+1]":
            return int(self.sizes["Ci"]) + 1
        size = fixed_size(axis) or self.sizes[axis]
        return size if is_symbol(size) else int(size)

    def shape(self, name: str) -> tuple[int, ...]:
        if shape_of := self.framework.shape_of:
            return tuple(shape_of(self.op, name, self.values[name]))
        return tuple(self.values[name].shape)

    def _axes(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return axes[1:] if not self.batched and axes and axes[0] == "N" else axes

    def _match(self, a: Argument, optional: list[Argument]) -> bool:
        shape, axes = self.shape(a.name), self._axes(a.axes)
        channels = None
        if axes and axes[-1] == "*C":
            axes = axes[:-1]
            channels = shape[len(axes) :]
            shape = shape[: len(axes)]
            if len(channels) not in (1, 2):
                return False
        if len(shape) != len(axes):
            return False
        for axis, size in zip(axes, shape):
            if axis == "Ci[+1]":
                optional.append(a)
                continue
            fixed, name = fixed_size(axis), axis.partition("=")[0]
            if fixed is not None and size != int(fixed):
                return False
            if not name.isdigit():
                if self.sizes.setdefault(name, size) != size:
                    return False
                self.owners.setdefault(name, a.name)
        if channels is not None:
            if self.sizes.setdefault("*C", channels) != channels:
                return False
            self.owners.setdefault("*C", a.name)
        return True

    def _refuse(self, a: Argument) -> None:
        axes = tuple(fixed_size(axis) or axis for axis in self._axes(a.axes))
        # An axis whose size this argument determined is no reason to reject it.
        known = {axis: size for axis, size in self.sizes.items() if self.owners.get(axis, a.name) != a.name}
        expected: list[Any] = []
        owners: list[str] = []
        for axis in axes:
            name = "Ci" if axis == "Ci[+1]" else axis
            if name not in known:
                expected.append(axis if axis.isdigit() else "*")
                continue
            size = known[name]
            owners.append(self.owners[name])
            if axis == "*C":
                expected.extend(size)
            else:
                expected.append(f"{size} or {size + 1}" if axis == "Ci[+1]" else size)
        text = f"{self.op}: {a.name} must have shape {shape_text(axes) if axes else '()'}"
        if owners:
            text += f" = {shape_text(expected)} to match {listed(dict.fromkeys(owners), 'and')}"
        shape = self.shape(a.name)
        text += f", got {shape_text(shape) if shape else '()'}"
        if len(axes) < len(a.axes) and len(shape) > len(axes) + ("*C" in axes):
            text += f": {self.lead.name} has no batch axis"
        raise ValueError(f"{text}{self._remedy(a.name, self._axes(a.axes), known)}.")

    def _remedy(self, name: str, axes: tuple[str, ...], sizes: Mapping[str, Any] = MappingProxyType({})) -> str:
        return hint(SHAPES, Refused(name, self.values[name], axes, sizes, self.values))

    # --- keywords and results

    def sampling(self, rule: Any, window: Any, align_corners: Any) -> dict[str, Any]:
        """Check ``window=(top, left, full_height, full_width)``, ``align_corners``, and ``xy`` if it is a rule."""
        if not isinstance(align_corners, (bool, np.bool_)):
            raise TypeError(f"{self.op}: align_corners must be a bool, got {type(align_corners).__name__}.")
        found: dict[str, Any] = {
            "window": None if window is None else self._window(window),
            "align_corners": bool(align_corners),
        }
        if rule is not None:
            found["xy"] = self._rule(rule)
        return found

    def _rule(self, rule: Any) -> str:
        choice = "'centers' or 'corners'" if self.signature.guide else "an array, 'centers' or 'corners'"
        if not isinstance(rule, str):
            raise TypeError(f"{self.op}: xy must be {choice}, got {type_text(type(rule))}.")
        if rule not in ("centers", "corners"):
            raise ValueError(f"{self.op}: xy must be {choice}, got {brief(rule)}.")
        return str(rule)

    def places(self) -> tuple[tuple[Any, ...], bool]:
        """The keywords in the kernels' form: the window, with the rule for pixels, and ``align_corners``."""
        window, align_corners = self.keywords["window"], self.keywords["align_corners"]
        rule = self.keywords.get("xy")
        corners = align_corners if rule is None else rule == "corners"
        return (*(window or (0, 0, self.sizes["H"], self.sizes["W"])), corners), align_corners

    def _window(self, window: Any) -> tuple[int, int, int, int]:
        if self.values.get("xy") is not None:
            raise ValueError(f"{self.op}: window must be None where xy is given, got {brief(window)}.")
        top, left, height, width = integers(
            self.op, "window", "four integers (top, left, full_height, full_width)", 4, window
        )
        H, W = self.sizes["H"], self.sizes["W"]
        whole = (top, left, height, width)
        if any(map(is_negative, (top, left, height - (top + H), width - (left + W)))):
            raise ValueError(
                f"{self.op}: window (top, left, full_height, full_width) = {whole} must hold the image of "
                f"{H} × {W} pixels."
            )
        if any(is_negative(_MOST_PIXELS - size) for size in (height, width)):
            raise ValueError(
                f"{self.op}: window must be of an image of at most {_MOST_PIXELS} pixels a side, got {whole}."
            )
        return whole

    def _expect(self) -> tuple[tuple[int, ...], str]:
        sizes = self.sizes
        shape: list[int] = []
        for axis in self._axes(self.signature.result):
            shape.extend(sizes[axis] if axis == "*C" else (sizes[axis],))
        dtype = self.dtypes[self.signature.like] if self.signature.keeps_integers else self.float_dtype
        return tuple(shape), self.keywords.get("dtype") or dtype

    def _empty(self, what: str, shape: tuple[int, ...], dtype: str) -> Any:
        try:
            return self.framework.empty(shape, dtype, self.device)
        except ValueError:  # NumPy counts bytes in 64 bits
            raise ValueError(f"{self.op}: {what} must have a size that memory can have, got {shape}.") from None

    def _checked_out(self, label: str, out: Any, shape: tuple[int, ...], dtype: str, twin: str = "image") -> Any:
        if framework_of(self.op, label, out) is not self.framework:
            both = f"{type_text(type(out))} beside {type_text(self._array_type)}"
            raise TypeError(f"{self.op}: {label} must belong to the framework of the arguments, got {both}.")
        if (locate := self.framework.locate) and (device := locate(self.op, label, out)) != self.device:
            raise ValueError(f"{self.op}: {label} must be on {self.device} as the arguments are, got {device}.")
        if tuple(out.shape) != shape:
            got = f"{shape_text(out.shape)}{hint(SHAPES, Refused(label, out, (), {}, self.values))}"
            raise ValueError(f"{self.op}: {label} must have shape {shape_text(shape)}, got {got}.")
        if (got := self.framework.dtype_of(out)) != dtype:
            raise TypeError(f"{self.op}: {label} must be {dtype}, got {got}.")
        inputs = [(a.name, self.values[a.name]) for a in self._given]
        self.framework.check_out(self.op, label, out, inputs, self.values.get(twin))
        return out

    def _gradients(self, wrt: tuple[str, ...], out: Any) -> dict[str, Any]:
        """Arrays for the wanted gradients, new ones or those of ``out``; None for the others."""
        given = self._out_mapping(wrt, out)
        computed = self.gradients(wrt)
        arrays: dict[str, Any] = {}
        for name in self.signature.fields:
            if name not in computed:
                if name in given:
                    raise ValueError(f"{self.op}: out[{name!r}] must be left out, as {name} has no gradient here.")
                arrays[name] = None
            elif name in given:
                label = f"out[{name!r}]"
                array = self._checked_out(label, given[name], self.shape(name), self.dtypes[name])
                others = [(f"out[{n!r}]", a) for n, a in arrays.items() if a is not None and n in given]
                self.framework.check_out(self.op, label, array, others, None)
                arrays[name] = array
            else:
                arrays[name] = self._empty(f"the gradient of {name}", self.shape(name), self.dtypes[name])
        return arrays

    def gradients(self, wrt: tuple[str, ...]) -> tuple[str, ...]:
        """The gradients that are computed: those wanted, of arguments that are given and not integers."""
        return self._floats if wrt is self.signature.fields else tuple([n for n in self._floats if n in wrt])

    def wanted(self, wrt: Any) -> tuple[str, ...]:
        """Check ``wrt``, which names gradients; None is all of them."""
        names = self.signature.fields
        if wrt is None:
            return names
        try:
            wanted = (wrt,) if isinstance(wrt, str) else tuple(wrt)
        except TypeError:
            raise TypeError(f"{self.op}: wrt must be a tuple of argument names, got {type(wrt).__name__}.") from None
        for name in wanted:
            if not isinstance(name, str) or name not in names:
                raise ValueError(f"{self.op}: wrt must name arguments among {listed(names, 'and')}, got {brief(name)}.")
        return wanted

    def _out_mapping(self, wanted: tuple[str, ...], out: Any) -> Mapping[str, Any]:
        names = self.signature.fields
        if out is None:
            return {}
        if not isinstance(out, Mapping):
            raise TypeError(f"{self.op}: out must be a mapping from field to array, got {type(out).__name__}.")
        for name in out:
            if name not in names:
                raise ValueError(f"{self.op}: out must name fields among {listed(names, 'and')}, got {brief(name)}.")
            if name not in wanted:
                raise ValueError(f"{self.op}: out[{name!r}] must be left out, as wrt does not name {name}.")
        return {name: array for name, array in out.items() if array is not None}

    # --- kernels

    def forward(self, out: Any) -> Any:
        """The result, which a kernel writes unless the framework records the call."""
        if (record := self.framework.record) and (recorded := record(self, out)) is not None:
            return recorded
        out = self._empty("the result", *self.result) if out is None else self._checked_out("out", out, *self.result)
        self._run(self.signature.forward, {"out": out})
        return out

    def backward(self, wrt: Any, out: Any) -> Any:
        """The record of gradients, which kernels write unless the framework records the call."""
        wrt = self.wanted(wrt)
        if (record := self.framework.record) and (recorded := record(self, out, wrt)) is not None:
            return recorded
        gradients = self._gradients(wrt, out)
        for call in self.signature.backward:
            if [name for name in call.results if name and gradients[name] is not None]:
                self._run(call, gradients)
        return self.signature.gradients(*gradients.values())  # type: ignore[misc]

    def _run(self, call: KernelCall, results: Mapping[Any, Any]) -> None:
        arguments = [*map(results.get, call.results), *map(self.values.get, call.arguments)]  # type: ignore[arg-type]
        if lend := self.framework.lend:
            arguments = lend(self, arguments)
            if arguments is None:
                return
        for parameters in call.joined:
            arguments[parameters] = [(self.signature.guide, tuple(arguments[parameters]))]
        if self.signature.sampled:
            arguments += self.places()
        self.framework.run(self.op, call.kernel, arguments, self.device)
