"""TensorFlow tensors on the CPU, eagerly and in ``tf.function``; variables, Keras' too, are read.

Eagerly the kernels read the tensors where they lie, and write what becomes the result. In a graph a call is a
``tf.numpy_function`` with the shape that is known of its result: it runs in this process, so it is neither compiled by
XLA nor saved in a model. Sizes that a graph leaves open are checked when it runs.

A call has the kernels' gradients by ``tf.custom_gradient``; these have none of their own, and say so. The formulas that
serve other frameworks there index arrays by arrays, which tensors do only where a program has switched it on for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._core.missing import needed
from . import _numpy

with needed("bilateral_ops.frameworks.tensorflow", "tensorflow", "tensorflow"):
    import tensorflow as tf

__all__: list[str] = []  # nothing here is for users to call

# Of the last are Keras' variables; to import their own type would be to import Keras.
ARRAY = (tf.Tensor, tf.Variable, tf.__internal__.types.Tensor)

adopt: Any = None  # NumPy's arrays are refused beside tensors
casts: Any = None  # tensors of other dtypes are refused, as NumPy's arrays are


class _Unknown(int):
    """A size that a graph leaves open: nothing speaks against it."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __lt__(self, other: object) -> bool:
        return False

    def __le__(self, other: object) -> bool:
        return True

    __gt__, __ge__ = __lt__, __le__
    __hash__ = int.__hash__

    def __sub__(self, other: object) -> Any:
        return self

    __rsub__ = __sub__

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "*"


_UNKNOWN = _Unknown()


def dtype_of(tensor: Any) -> str:
    return str(tf.as_dtype(tensor.dtype).name)


def shape_of(op: str, name: str, tensor: Any) -> tuple[int, ...]:
    shape = tf.TensorShape(tensor.shape)
    if shape.rank is None:
        raise ValueError(
            f"{op}: {name} must have a rank, got a tensor of unknown shape; pass tf.ensure_shape({name}, [None, …])."
        )
    return tuple(_UNKNOWN if size is None else size for size in shape)


def locate(op: str, name: str, tensor: Any) -> None:
    """Refuse a tensor on another device. Where those of graphs are is for TensorFlow to say."""
    device = getattr(tensor, "device", "")
    if device and "CPU" not in device.upper():
        raise RuntimeError(
            f"{op}: {name} is on {device}, and this version computes TensorFlow's tensors on the CPU; pass "
            f"tf.identity({name}) made under tf.device('CPU')."
        )


def guides_by_luma(device: Any) -> bool:
    return False  # computed first, its gradient is TensorFlow's to add


def number(value: float, dtype: str, device: Any) -> Any:
    return tf.constant(value, dtype)


class _Static(NamedTuple):
    """All of a call but its tensors."""

    signature: Any
    names: tuple[str, ...]  # of the tensors given
    sizes: Any
    keywords: dict[str, Any]
    result: tuple[tuple[int, ...], str]
    floats: tuple[str, ...]  # the arguments that have gradients

    def compute(self, *arrays: Any) -> list[Any]:
        """The result, by NumPy's arrays."""
        call = self.signature.bind(self._values(arrays), self.sizes, **self.keywords)
        return [call.forward(_empty(*call.result))]

    def compute_vjp(self, wanted: Sequence[str], *arrays: Any) -> list[Any]:
        """The gradients that are wanted; the last array is the result's."""
        keywords = dict(self.keywords)
        values = dict(zip(self.signature.names, self._values(arrays)))
        if (rule := keywords.pop("xy", None)) is not None:
            values["xy"] = rule
        call = self.signature.bind_vjp([*values.values()], arrays[-1], **keywords)
        out = {name: _empty(call.shape(name), call.dtypes[name]) for name in wanted}
        call.backward(tuple(wanted), out)
        return [*out.values()]

    def _values(self, arrays: Sequence[Any]) -> list[Any]:
        given = dict(zip(self.names, arrays))
        return [given.get(name) for name in self.signature.names]


def record(call: Any, out: Any, wrt: Any = None) -> Any:
    """The result, or the gradients, as TensorFlow computes or records them."""
    if out is not None:
        raise TypeError(f"{call.op}: out must be None, as tensors can't be written to, got {type(out).__name__}.")
    signature = call.signature
    names = tuple(name for name in signature.names if call.values.get(name) is not None)
    sizes = tuple(call.sizes[axis] for axis in signature.sizes.axes) if signature.sizes else None
    floats = call.gradients(signature.fields)
    static = _Static(signature, names, sizes, dict(call.keywords), call.result, floats)
    tensors = [tf.convert_to_tensor(call.values[name]) for name in names]
    if wrt is None:
        return _forward(static, tensors)
    wanted = call.gradients(wrt)
    gradients = dict(zip(wanted, _backward(static, wanted, tensors, tf.convert_to_tensor(call.values["grad"]))))
    return signature.gradients(*map(gradients.get, signature.fields))


def _forward(static: _Static, tensors: Sequence[Any]) -> Any:
    def function(*tensors: Any) -> Any:
        def pull(grad: Any) -> list[Any]:
            grad = tf.convert_to_tensor(grad)  # of tf.gather it is IndexedSlices
            if static.signature.gradients is None:
                raise RuntimeError(
                    f"{static.signature.name}: no tensor may be differentiated, as it has no gradients; call a guide_* "
                    f"operation and slice_apply, which have them."
                )
            found = dict(zip(static.floats, _backward(static, static.floats, tensors, grad)))
            return [found.get(name) for name in static.names]

        (result,) = _run(static.compute, tensors, [static.result])
        return result, pull

    return tf.custom_gradient(function)(*tensors)


def _backward(static: _Static, wanted: Sequence[str], tensors: Sequence[Any], grad: Any) -> Sequence[Any]:
    if not wanted:
        return ()
    name = static.signature.name

    def function(*given: Any) -> Any:
        def refuse(*_: Any) -> Any:
            raise RuntimeError(
                f"{name}_vjp: no tensor may be differentiated, as TensorFlow has first derivatives alone, by "
                f"GradientTape; PyTorch and JAX have the second, and forward mode."
            )

        results = [(tuple(t.shape), t.dtype.name) for t in (given[static.names.index(name)] for name in wanted)]
        return tuple(_run(lambda *arrays: static.compute_vjp(wanted, *arrays), given, results)), refuse

    return tf.custom_gradient(function)(*tensors, grad)


def _run(compute: Callable[..., list[Any]], tensors: Sequence[Any], results: Sequence[tuple[Any, str]]) -> list[Any]:
    """Results by NumPy's arrays, of these shapes and dtypes."""
    if tf.executing_eagerly():
        return [_tensor(array) for array in compute(*map(_array, tensors))]
    made = tf.numpy_function(
        compute, list(tensors), [tf.dtypes.as_dtype(dtype) for _, dtype in results], stateful=False
    )
    for tensor, (shape, _) in zip(made, results):
        tensor.set_shape([None if isinstance(size, _Unknown) else size for size in shape])
    return list(made)


def _array(tensor: Any) -> Any:
    return np.asarray(memoryview(tensor)) if tensor.dtype.name in _EXCHANGED else tensor.numpy()


def _tensor(array: Any) -> Any:
    if array.dtype.name not in _EXCHANGED or not array.size:
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _empty(shape: tuple[int, ...], dtype: str) -> Any:
    """An array where TensorFlow wants its tensors: it ends the process where one lies elsewhere."""
    kind = _numpy.to_dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)


#: What NumPy and TensorFlow know each other's memory of.
_EXCHANGED = ("float16", "float32", "float64", "uint8", "uint16")
#: In bytes: the most of any build (EIGEN_MAX_ALIGN_BYTES).
_ALIGNMENT = 64
