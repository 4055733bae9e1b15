"""Do XLA's handlers for CUDA launch what `_cuda`'s functions launch: the same bits, XLA's stream, XLA's workspace?

JAX has no CUDA device here. What it would call a handler with is made by hand: a call frame, of arrays on the device
that is played, and the functions of XLA's that a handler needs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, addressof, c_int, c_int64, c_size_t, c_void_p, cast, pointer
from typing import Any

import numpy as np
import pytest
import standin
from backends import Through
from cases import ALL_F32, BF16, DIFFERENTIABLE, SUBJECTS, arguments, assert_same_bits, backward, forward, random_like

import bilateral_ops

jax = pytest.importorskip("jax", reason="JAX is not installed")
framework = pytest.importorskip("bilateral_ops.frameworks.jax")

STREAM = 0x1000
_TYPES = {"uint8": 6, "uint16": 7, "float16": 10, "float32": 11, "float64": 12, "bfloat16": 16}
_HEAD = (("struct_size", c_size_t), ("extensions", c_void_p))


class Buffer(Structure):
    _fields_ = (*_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64)))


class Span(Structure):
    _fields_ = (("data", ctypes.c_char_p), ("size", c_size_t))


class Scalar(Structure):
    _fields_ = (("dtype", c_int), ("value", c_void_p))


class Buffers(Structure):
    _fields_ = (*_HEAD, ("size", c_int64), ("types", c_void_p), ("buffers", c_void_p))


class Attributes(Structure):
    _fields_ = (*_HEAD, ("size", c_int64), ("types", c_void_p), ("names", c_void_p), ("values", c_void_p))


class ErrorArgs(Structure):
    _fields_ = (*_HEAD, ("message", ctypes.c_char_p), ("code", c_int))


class StreamArgs(Structure):
    _fields_ = (*_HEAD, ("context", c_void_p), ("stream", c_void_p))


class AllocateArgs(Structure):
    _fields_ = (*_HEAD, ("context", c_void_p), ("size", c_size_t), ("alignment", c_size_t), ("data", c_void_p))


class FreeArgs(Structure):
    _fields_ = (*_HEAD, ("context", c_void_p), ("size", c_size_t), ("data", c_void_p))


class Api(Structure):
    _fields_ = (
        *_HEAD,
        ("version", c_size_t * 3),
        ("internal", c_void_p),
        ("error_create", c_void_p),
        ("error_message", c_void_p),
        ("error_destroy", c_void_p),
        ("handler_register", c_void_p),
        ("stream", c_void_p),
        ("others", c_void_p * 4),
        ("allocate", c_void_p),
        ("free", c_void_p),
    )


class Frame(Structure):
    _fields_ = (
        *_HEAD,
        ("api", POINTER(Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", Buffers),
        ("results", Buffers),
        ("attributes", Attributes),
    )


_FUNCTION = ctypes.CFUNCTYPE(c_void_p, c_void_p)


class FakeXla:
    """What a handler calls, and how it is called."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.lacks = ""  # "stream" or "memory"
        self.message = ""  # of the last error
        self.allocated: dict[int, int] = {}  # address → size, of what is not yet freed
        self.asked: list[int] = []
        self._functions = [_FUNCTION(f) for f in (self._error, self._destroy, self._stream, self._allocate, self._free)]
        error, destroy, stream, allocate, free = (cast(f, c_void_p) for f in self._functions)
        self.api = Api(error_create=error, error_destroy=destroy, stream=stream, allocate=allocate, free=free)

    def _error(self, given: int) -> int:
        self.message = ErrorArgs.from_address(given).message.decode()
        return 1

    def _destroy(self, given: int) -> None:
        return None

    def _stream(self, given: int) -> Any:
        StreamArgs.from_address(given).stream = STREAM
        return 1 if self.lacks == "stream" else None

    def _allocate(self, given: int) -> Any:
        wanted = AllocateArgs.from_address(given)
        assert wanted.alignment <= 16, "XLA refuses more"
        if self.lacks == "memory":
            return 1
        wanted.data = self.device.memory.allocate(wanted.size)
        self.allocated[wanted.data] = wanted.size
        self.asked.append(wanted.size)
        return None

    def _free(self, given: int) -> None:
        freed = FreeArgs.from_address(given)
        assert self.allocated.pop(freed.data) == freed.size
        self.device.memory.free(freed.data)

    def call(self, kernel: str, arguments: Sequence[Any], results: Sequence[Any], attributes: dict[str, Any]) -> None:
        """The handler, on arrays of the device."""
        kept: list[Any] = []

        def keep(value: Any) -> Any:
            kept.append(value)
            return value

        def buffers(arrays: Sequence[Any]) -> Buffers:
            made = []
            for array in arrays:
                assert array.memory.flags.c_contiguous, "XLA's arrays are"
                dims = keep((c_int64 * array.ndim)(*array.shape))
                dtype = _TYPES[array.dtype.name]
                made.append(keep(Buffer(ctypes.sizeof(Buffer), None, dtype, array.address, array.ndim, dims)))
            types = keep((c_int * len(made))(*[1] * len(made)))
            pointers = keep((c_void_p * len(made))(*map(addressof, made)))
            return Buffers(ctypes.sizeof(Buffers), None, len(made), addressof(types), addressof(pointers))

        def attribute(value: Any) -> tuple[int, int]:
            if isinstance(value, str):
                return 4, addressof(keep(Span(value.encode(), len(value))))
            dtype, number = (1, ctypes.c_bool(value)) if isinstance(value, bool) else (5, c_int64(value))
            return 3, addressof(keep(Scalar(dtype, addressof(keep(number)))))

        names = [keep(Span(name.encode(), len(name))) for name in sorted(attributes)]
        pairs = [attribute(attributes[name]) for name in sorted(attributes)]
        count = len(pairs)
        types = keep((c_int * count)(*(kind for kind, _ in pairs)))
        values = keep((c_void_p * count)(*(value for _, value in pairs)))
        spans = keep((c_void_p * count)(*map(addressof, names)))
        listed = Attributes(
            ctypes.sizeof(Attributes), None, count, addressof(types), addressof(spans), addressof(values)
        )
        frame = Frame(
            ctypes.sizeof(Frame), None, pointer(self.api), None, 3, buffers(arguments), buffers(results), listed
        )
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = c_void_p, (ctypes.py_object, ctypes.c_char_p)
        handler = _FUNCTION(get(self.device.module.xla_handlers[kernel], b"xla._CUSTOM_CALL_TARGET"))
        self.device.failure = None
        failed = handler(addressof(frame))
        assert not self.allocated, "a workspace was not given back"
        if self.device.failure:
            raise self.device.failure
        if failed:
            raise RuntimeError(self.message)

    def ffi_call(self, target: str, results: Sequence[Any], **_: Any) -> Any:
        """`jax.ffi.ffi_call`."""

        def compute(*given: Any, **attributes: Any) -> list[Any]:
            sent = [standin.laid_out(self.device, np.ascontiguousarray(a).reshape(a.shape)) for a in given]
            made = [standin.empty(self.device, r.shape, r.dtype) for r in results]
            self.call(target.removeprefix("bilateral_ops_"), sent, made, attributes)
            for array in made:
                self.device.assert_written(array)
            return [jax.numpy.asarray(array.memory.copy()) for array in made]

        return compute


@pytest.fixture
def xla(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = FakeXla(device)
    monkeypatch.setattr(framework.jax.ffi, "ffi_call", made.ffi_call)
    with jax.disable_jit():
        yield made


THROUGH = Through(jax.numpy.asarray, np.asarray)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_handlers_launch_what_the_functions_launch(subject: str, device: Any, on_device: Through, xla: Any) -> None:
    for options in ({}, {"N": 2, "W": 21}):
        given = arguments(subject, ALL_F32, **options, **({"xy": True} if subject.startswith("slice") else {}))
        want = forward(on_device, subject, given)
        expected = len(device.launches)
        assert_same_bits(forward(THROUGH, subject, given), want)
        launches = device.launches[expected:]
        assert [launch.kernel.name for launch in launches] == [
            launch.kernel.name for launch in device.launches[:expected]
        ]
        assert {launch.stream for launch in launches} == {STREAM}
        if subject in DIFFERENTIABLE:
            grad = random_like(want.shape, want.dtype)
            gradients = backward(on_device, subject, given, grad)
            found = backward(THROUGH, subject, given, grad)
            for name in gradients._fields:
                assert_same_bits(getattr(found, name), getattr(gradients, name), name)
        device.reset(90)
    assert xla.asked or subject not in ("slice", "slice_apply", "guide_nn", "splat")


def test_other_kinds(device: Any, on_device: Through, xla: Any) -> None:
    given = {name: a.astype(BF16) for name, a in arguments("slice_apply", ALL_F32).items()}
    assert_same_bits(forward(THROUGH, "slice_apply", given), forward(on_device, "slice_apply", given))


@pytest.mark.parametrize(
    ("lacks", "sentence"),
    [
        ("stream", r"slice_vjp: XLA has no stream of a CUDA device\."),
        ("memory", r"slice_vjp: there must be memory for a workspace of \d+ bytes on the device, got none\."),
    ],
)
def test_what_xla_lacks_is_said(lacks: str, sentence: str, xla: Any) -> None:
    given = THROUGH.sent(arguments("slice", ALL_F32))
    grad = bilateral_ops.slice(**given)
    xla.lacks = lacks
    with pytest.raises(RuntimeError, match=sentence):
        bilateral_ops.slice_vjp(**given, grad=grad)
