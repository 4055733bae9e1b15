"""Array types for type checkers, without any framework installed.

An argument is an ``Array[Framework]``, or ``Like[Framework, T]`` where T, its type without its number of axes, is that
of a result or gradient. Arrays of two frameworks have no ``Framework`` in common. That NumPy's arrays may have several
dtypes is why one type variable for all arrays would not do: mypy finds ``object`` to be what these have in common.
"""

from __future__ import annotations

from collections import namedtuple
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

__all__ = [
    "Array",
    "FieldsOf",
    "Framework",
    "Grid",
    "Image",
    "Like",
    "NamedTuple",
    "Number",
    "Parameter",
    "Parameters_co",
    "PixelRule",
    "Scalar",
]


class _Torch(Protocol):
    def requires_grad_(self, mode: bool = ..., /) -> Any: ...


class _JAX(Protocol):
    def addressable_data(self, index: int, /) -> Any: ...


class _CuPy(Protocol):
    def get(self) -> Any: ...


#: The result of ``all()``: a number in NumPy, an array in the others.
Framework = TypeVar("Framework", np.bool_, _Torch, _JAX, _CuPy)
_Framework_co = TypeVar("_Framework_co", covariant=True)
_T_co = TypeVar("_T_co", covariant=True)


class Array(Protocol[_Framework_co]):
    """An array of a framework."""

    def all(self) -> _Framework_co: ...


class Like(Array[_Framework_co], Protocol[_Framework_co, _T_co]):
    """An array of a framework; a result has its type T."""

    def squeeze(self) -> _T_co: ...


#: What may be given for an array without axes.
Number: TypeAlias = float | np.number[Any]
#: The coordinates of an image's pixels, by their indices: (i+½)/n or i/(n−1).
PixelRule: TypeAlias = Literal["centers", "corners"]

# Types of arguments, which results and gradients share. A result with one of two dtypes has a union.
Grid = TypeVar("Grid")
Image = TypeVar("Image")
Parameter = TypeVar("Parameter")
#: A guide's parameters in its record.
Parameters_co = TypeVar("Parameters_co", bound=Array[object], covariant=True)
#: NumPy's dtypes.
Scalar = TypeVar("Scalar", bound=np.generic)

if TYPE_CHECKING:
    from typing import Generic as FieldsOf
    from typing import NamedTuple
else:

    class _Record(type):
        """Makes ``class X(NamedTuple, FieldsOf[T])`` a named tuple and nothing else.

        With ``Generic`` as a base, too, Python 3.10 would refuse it, and PyTorch's pytrees see no named tuple in it.
        """

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            made = namedtuple(name, namespace["__annotations__"], module=namespace["__module__"])  # noqa: PYI024
            made.__doc__ = namespace.get("__doc__")  # there is none with python -OO
            made.__annotations__ = namespace["__annotations__"]
            return made

    class NamedTuple(metaclass=_Record):
        pass

    class FieldsOf:
        __class_getitem__ = classmethod(GenericAlias)
