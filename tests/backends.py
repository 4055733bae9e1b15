"""Other frameworks' arrays, for tests that are written in NumPy; and a CuPy that needs no GPU.

:class:`Through` is ``bilateral_ops`` with every argument sent to another framework and every result fetched back.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cases import BF16, fields

import bilateral_ops


class Through:
    """The package (or a reference) as users of another framework see it, for callers who hold NumPy arrays."""

    def __init__(
        self, send: Callable[[Any], Any], fetch: Callable[[Any], Any], module: ModuleType = bilateral_ops
    ) -> None:
        self._send, self._fetch, self._module = send, fetch, module

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self.fetched(function(*map(self.sent, arguments), **self.sent(keywords)))

        return call

    def sent(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._send(value)
        if isinstance(value, Mapping):
            return {name: self.sent(item) for name, item in value.items()}
        if inside := fields(value):
            return type(value)(**self.sent(inside))
        return value

    def fetched(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return type(value)(*map(self.fetched, value))
        return None if value is None else self._fetch(value)


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch and CuPy
# ---------------------------------------------------------------------------------------------------------------------


def shared_with_torch(array: Any) -> Any:
    """A tensor in the array's memory."""
    import torch

    if array.dtype == BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_torch(array: Any, device: str = "cpu") -> Any:
    return shared_with_torch(np.array(array, order="C")).to(device)


def from_torch(tensor: Any) -> Any:
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.cpu().view(torch.int16).numpy().view(BF16)
    return tensor.cpu().numpy()


def torch_on(device: str) -> Through:
    return Through(functools.partial(to_torch, device=device), from_torch)


def may_have_cuda() -> bool:
    """Whether ``cuda`` is worth asking for hundreds of tests: there is a framework, or one was chosen."""
    return "BILATERAL_OPS_GPU" in os.environ or any(map(importlib.util.find_spec, ("cupy", "torch")))


@functools.cache
def cuda() -> Through | str:
    """The package on a CUDA device, by CuPy or else PyTorch; why not, where that can't be.

    The environment variable ``BILATERAL_OPS_GPU`` chooses between the two.
    """
    if importlib.util.find_spec("bilateral_ops._cuda") is None:
        return "bilateral_ops was built without CUDA"
    ways = {"cupy": _cupy_on_cuda, "torch": _torch_on_cuda}
    chosen = os.environ.get("BILATERAL_OPS_GPU")
    reasons = []
    for name in [chosen] if chosen else ways:
        try:
            return ways[name]()
        except Exception as error:  # of the framework, of its CUDA libraries or of the driver: each has its own
            reasons.append(f"{name}: {type(error).__name__}")
    return f"no CUDA device by {', '.join(reasons)}"


def _cupy_on_cuda() -> Through:
    import cupy

    cupy.zeros(1)
    return Through(cupy.asarray, cupy.asnumpy)


def _torch_on_cuda() -> Through:
    import torch

    torch.zeros(1, device="cuda")
    return torch_on("cuda")


# ---------------------------------------------------------------------------------------------------------------------
# A CuPy without a GPU
# ---------------------------------------------------------------------------------------------------------------------


class FakeArray(np.lib.mixins.NDArrayOperatorsMixin):
    """What ``bilateral_ops`` looks at in an array of CuPy's. Its memory is NumPy's, its device what it is told."""

    def __init__(self, memory: Any, device: int) -> None:
        self.memory = memory
        self.device = SimpleNamespace(id=device)
        self.data = SimpleNamespace(ptr=memory.__array_interface__["data"][0])

    dtype = property(lambda self: self.memory.dtype)
    shape = property(lambda self: self.memory.shape)
    strides = property(lambda self: self.memory.strides)
    ndim = property(lambda self: self.memory.ndim)
    T = property(lambda self: FakeArray(self.memory.T, self.device.id))

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, index: Any) -> FakeArray:
        return FakeArray(self.memory[index], self.device.id)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.memory[index] = value.memory

    def __dlpack__(self, **_: Any) -> Any:
        """NumPy's capsule, changed to say CUDA."""
        capsule = self.memory.__dlpack__(max_version=(1, 0))
        pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
        pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        where = pointer_of(capsule, b"dltensor_versioned") + 40  # after version, manager, deleter, flags and data
        (ctypes.c_int32 * 2).from_address(where)[:] = 2, self.device.id
        return capsule

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> FakeArray:
        return _computed(getattr(ufunc, method), *inputs, **options)

    def __array__(self, *_: Any) -> Any:
        raise TypeError("implicit conversion to a NumPy array: it would wait for the device")

    __bool__ = __array__


def _method(name: str) -> Any:
    return lambda self, *given, **options: _computed(getattr(np.ndarray, name), self, *given, **options)


for _name in ("all", "any", "astype", "clip", "reshape", "swapaxes", "take", "transpose"):
    setattr(FakeArray, _name, _method(_name))


def _computed(function: Any, *given: Any, **options: Any) -> Any:
    """What a function of NumPy's makes of such arrays, all of them on one device."""
    devices = {a.device.id for a in (*given, *options.values()) if isinstance(a, FakeArray)}
    (device,) = devices
    out = options.pop("out", None)
    if out is not None:
        (made,) = out if isinstance(out, tuple) else (out,)
        options["out"] = made.memory
    plain = [a.memory if isinstance(a, FakeArray) else a for a in given]
    result = np.asarray(function(*plain, **options))
    return made if out is not None else FakeArray(result, device)


FakeArray.__module__ = "cupy"


class FakeCuPy(ModuleType):
    """As much of CuPy as ``frameworks/_cupy.py`` and ``hdrnet`` use. A device's current stream is 1000 + its number.

    Of what ``reference/cupy.py`` uses, it has what asks for no device.
    """

    isfinite, rint, matmul, where, ones_like, clip, pad = (
        staticmethod(functools.partial(_computed, getattr(np, name)))
        for name in ("isfinite", "rint", "matmul", "where", "ones_like", "clip", "pad")
    )

    ndarray = FakeArray

    def __init__(self) -> None:
        super().__init__("cupy")
        self.current = 0
        self.allocated: list[FakeArray] = []  # all that was asked for, in order
        self.cuda = SimpleNamespace(
            Device=self._device, get_current_stream=lambda: SimpleNamespace(ptr=1000 + self.current)
        )

    def get_array_module(self, *_: Any) -> ModuleType:
        return np

    @contextmanager
    def _device(self, number: int) -> Iterator[None]:
        before, self.current = self.current, number
        try:
            yield
        finally:
            self.current = before

    def empty(self, shape: Any, dtype: Any) -> FakeArray:
        made = FakeArray(np.empty(shape, dtype), self.current)
        made.memory.reshape(-1).view(np.uint8).fill(0xFF)
        self.allocated.append(made)
        return made

    def array(self, array: Any) -> FakeArray:
        return FakeArray(np.array(array, order="C"), self.current)

    asarray = array

    def asnumpy(self, array: FakeArray) -> Any:
        return array.memory.copy()

    def concatenate(self, arrays: Any, axis: int) -> FakeArray:
        return _computed(lambda *each: np.concatenate(each, axis), *arrays)

    def stack(self, arrays: Any) -> FakeArray:
        return _computed(lambda *each: np.stack(each), *arrays)

    def zeros(self, shape: Any) -> FakeArray:
        return FakeArray(np.zeros(shape), self.current)

    def full(self, shape: Any, value: Any, dtype: Any) -> FakeArray:
        made = self.empty(shape, dtype)
        made.memory[...] = value
        return made


#: Where kernels take the guide that those on the CPU can do without.
_GUIDES = {"slice_apply_forward": 2, "slice_apply_backward": 5}


class FakeKernels(ModuleType):
    """The module ``_cuda``, computing with the CPU's kernels; it keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__("bilateral_ops._cuda")
        self.calls: list[SimpleNamespace] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        kernel = getattr(bilateral_ops._cpu, name)

        def launch(*arguments: Any) -> None:
            *arguments, stream, allocate = arguments
            assert isinstance(stream, int)
            if name in _GUIDES:
                assert arguments[_GUIDES[name]] is not None, "CUDA kernels make no guide of the image"
            self.calls.append(SimpleNamespace(name=name, stream=stream, workspace=allocate(256)))
            kernel(*_memories(arguments))

        return launch


def _memories(arguments: Any) -> tuple[Any, ...]:
    def memory(value: Any) -> Any:
        if isinstance(value, tuple):
            return _memories(value)
        return value.memory if isinstance(value, FakeArray) else value

    return tuple(map(memory, arguments))


def _loaded(file: str, cupy: ModuleType) -> Any:
    """A module of the package, loaded once more to work with this CuPy."""
    folder = Path(bilateral_ops.__file__).parent
    name = f"bilateral_ops.{file.removesuffix('.py').replace('/', '.')}_in_tests"
    spec = importlib.util.spec_from_file_location(name, folder / file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        spec.loader.exec_module(module)
    return module


FAKE_CUPY = FakeCuPy()
FAKE_FRAMEWORK = _loaded("frameworks/_cupy.py", FAKE_CUPY)
bilateral_ops._core.dispatch._cache[FakeArray] = FAKE_FRAMEWORK
#: ``reference.cupy``, for NumPy arrays.
CUPY_REFERENCE = _loaded("reference/cupy.py", FAKE_CUPY)


def fake_cupy_on(device: int = 0) -> Through:
    return Through(lambda array: FakeArray(array, device), lambda array: array.memory)
