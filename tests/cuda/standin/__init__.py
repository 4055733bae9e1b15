"""The module `_cuda_standin`, its launches run by the interpreter, and arrays for it.

fatbinary  PTX out of the objects
devices    what a device allows a launch
arrays     arrays on the device that is played
framework  what `bilateral_ops` needs to take such arrays for a framework's
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib.util
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from interpreter import Kernel, Launch, Memory, parse, run
from interpreter.memory import ALLOCATED, WRITTEN
from interpreter.traffic import Traffic

from . import devices, fatbinary
from .arrays import DeviceArray, empty, laid_out

__all__ = ["ARCHITECTURES", "DeviceArray", "Standin", "empty", "installed", "laid_out"]

#: Two architectures, far from one another, whose PTX is in the objects.
ARCHITECTURES = (75, 90)
_LAUNCH_FAILURE = 719


class _Kernel(ctypes.Structure):
    _fields_ = (("stub", ctypes.c_void_p), ("name", ctypes.c_char_p), ("image", ctypes.c_int))


class _Request(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("image", ctypes.c_int),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_size_t),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("stream", ctypes.c_size_t),
        ("device", ctypes.c_int),
    )


_INT, _NAME = ctypes.c_int, ctypes.c_char_p
_ON_LAUNCH = ctypes.CFUNCTYPE(_INT, ctypes.POINTER(_Request))
_ON_FILL = ctypes.CFUNCTYPE(_INT, ctypes.c_void_p, _INT, ctypes.c_size_t, ctypes.c_size_t)
_ON_SET_ATTRIBUTE = ctypes.CFUNCTYPE(_INT, _NAME, _INT, _INT, _INT)
_ON_DEVICE_ATTRIBUTE = ctypes.CFUNCTYPE(_INT, ctypes.POINTER(_INT), _INT, _INT)
_ON_OCCUPANCY = ctypes.CFUNCTYPE(_INT, ctypes.POINTER(_INT), _NAME, _INT, _INT, ctypes.c_size_t)


class _State(ctypes.Structure):
    """`Standin` of runtime.c"""

    _fields_ = (
        ("launch", _ON_LAUNCH),
        ("fill", _ON_FILL),
        ("set_attribute", _ON_SET_ATTRIBUTE),
        ("device_attribute", _ON_DEVICE_ATTRIBUTE),
        ("occupancy", _ON_OCCUPANCY),
        ("device", _INT),
        ("device_count", _INT),
        ("driver", _INT),
        ("injected", _INT),
        ("last", _INT),
        ("images", _INT),
        ("kernels", _INT),
        ("image", ctypes.c_void_p * 64),
        ("kernel", _Kernel * 512),
    )


def installed() -> bool:
    """Whether the package was built with the stand-in."""
    return importlib.util.find_spec("bilateral_ops._cuda_standin") is not None


@dataclass
class Options:
    """How launches run."""

    races: bool = True
    seed: int = 0
    together: int | None = None
    count: bool = False  # traffic


@dataclass
class Standin:
    """The one module `_cuda_standin` of this process, as the device of one architecture at a time."""

    architecture: int = 90
    options: Options = field(default_factory=Options)
    launches: list[Launch] = field(default_factory=list)  # since `reset`
    failure: BaseException | None = None  # of a launch
    workspace_bytes: list[int] = field(default_factory=list)  # of the last call

    def __post_init__(self) -> None:
        self.module: ModuleType = importlib.import_module("bilateral_ops._cuda_standin")
        self.memory = Memory()
        library = ctypes.CDLL(str(self.module.__file__))
        library.standin_state.restype = ctypes.POINTER(_State)
        self.state: _State = library.standin_state().contents
        self._opted: dict[str, int] = {}
        self._callbacks = (
            _ON_LAUNCH(self._on_launch),
            _ON_FILL(self._on_fill),
            _ON_SET_ATTRIBUTE(self._on_set_attribute),
            _ON_DEVICE_ATTRIBUTE(self._on_device_attribute),
            _ON_OCCUPANCY(self._on_occupancy),
        )
        for (name, _), callback in zip(_State._fields_, self._callbacks):
            setattr(self.state, name, callback)

    @functools.cached_property
    def ptx(self) -> dict[int, list[str]]:
        """Architecture → the PTX of every object."""
        found: dict[int, list[str]] = {}
        for address in self.state.image[: self.state.images]:
            for architecture, text in fatbinary.ptx_of(address).items():
                found.setdefault(architecture, []).append(text)
        return found

    @functools.cached_property
    def kernels(self) -> dict[int, dict[str, Kernel]]:
        known: dict[Any, Kernel] = {}  # most kernels have one text on all architectures
        kernels = {a: {n: k for text in texts for n, k in parse(text, known).items()} for a, texts in self.ptx.items()}
        gc.collect()
        gc.freeze()  # a million objects that stay
        return kernels

    @property
    def device(self) -> devices.Device:
        return devices.DEVICES[self.architecture]

    def reset(self, architecture: int | None = None, **options: Any) -> None:
        """A fresh device: nothing allocated, nothing launched."""
        self.architecture = architecture or self.architecture
        self.options = Options(**options)
        self.launches, self.failure, self.workspace_bytes = [], None, []
        self.memory.reset()
        self._opted = {}
        self.state.device, self.state.device_count, self.state.driver = 0, 2, 1
        self.state.injected = self.state.last = 0

    def call(self, name: str, *arguments: Any, stream: int = 0) -> None:
        """A function of the module, on a stream. What a kernel did wrong is raised as it was found."""

        workspaces: list[DeviceArray] = []

        def allocate(size: int) -> DeviceArray:
            workspaces.append(empty(self, (size,), "u1"))
            return workspaces[-1]

        self.failure = None
        try:
            getattr(self.module, name)(*arguments, stream, allocate)
        except RuntimeError as error:
            if self.failure is not None:
                raise self.failure from error
            raise
        finally:
            # The caller's allocator takes the workspace back when the call returns.
            for array in workspaces:
                self.memory.free(array.address)
            self.workspace_bytes = [array.size for array in workspaces]

    def assert_written(self, array: DeviceArray) -> None:
        """Every element of an array was written, by the host or a kernel."""
        if array.size:
            memory = array.memory
            strides = (*memory.strides, 1)
            start = array.address - self.memory.base
            states = np.lib.stride_tricks.as_strided(
                self.memory.state[start:], (*memory.shape, memory.itemsize), strides, writeable=False
            )
            assert (states == ALLOCATED | WRITTEN).all(), "a kernel left a part of its result unwritten"

    # --- callbacks of runtime.c --------------------------------------------------------------------------------------

    def _on_launch(self, pointer: Any) -> int:
        request = pointer.contents
        try:
            return self._launch(request)
        except BaseException as error:  # it would be lost on its way through C
            self.failure = error
            return _LAUNCH_FAILURE

    def _launch(self, request: _Request) -> int:
        name = request.name.decode()
        kernel = self.kernels[self.architecture][name]
        grid, block = tuple(request.grid), tuple(request.block)
        opted = self._opted.get(name, 0)
        refused = devices.refusal(
            self.device, grid, block, kernel.shared_bytes, request.shared, opted, kernel.max_threads
        )
        if refused:
            return refused[0]
        parameters = bytearray(kernel.parameter_bytes)
        for i, (offset, size) in enumerate(kernel.parameters.values()):
            parameters[offset : offset + size] = ctypes.string_at(request.arguments[i], size)
        launch = Launch(
            kernel,
            grid,
            block,
            bytes(parameters),
            request.shared,
            Traffic() if self.options.count else None,
            self.options.races,
            self.options.seed,
            self.options.together,
            request.stream,
        )
        self.launches.append(launch)
        run(launch, self.memory)
        return 0

    def _on_fill(self, to: int, value: int, size: int, stream: int) -> int:
        if size:
            self.memory.check(_bytes_of(to - self.memory.base, size), 1, load=False)
            self.memory.view(to, size)[:] = value & 0xFF
        return 0

    def _on_set_attribute(self, name: bytes, image: int, attribute: int, value: int) -> int:
        if attribute == devices.MAX_DYNAMIC_SHARED:
            static = self.kernels[self.architecture][name.decode()].shared_bytes
            if value + static > self.device.shared_most:
                return devices.INVALID_VALUE
            self._opted[name.decode()] = value
            return 0
        return 0 if attribute == devices.CARVEOUT else devices.INVALID_VALUE

    def _on_device_attribute(self, value: Any, attribute: int, device: int) -> int:
        if attribute not in devices.ATTRIBUTES:
            return devices.INVALID_VALUE
        value[0] = getattr(self.device, devices.ATTRIBUTES[attribute])
        return 0

    def _on_occupancy(self, blocks: Any, name: bytes, image: int, threads: int, shared: int) -> int:
        device, kernel = self.device, self.kernels[self.architecture][name.decode()]
        memory = kernel.shared_bytes + shared + 1024
        blocks[0] = min(
            device.threads_per_multiprocessor // threads,
            device.shared_per_multiprocessor // memory,
            device.blocks_per_multiprocessor,
        )
        return 0


def _bytes_of(offset: int, size: int) -> Any:
    return np.arange(offset, offset + size)


@functools.cache
def the_standin() -> Standin:
    """There is one: the module's state is the process's."""
    return Standin()
