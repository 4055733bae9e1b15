"""What prediction asks of arrays beside this package's operations: a class for each framework.

NumPy's are the rule; the others override what they do in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np

from .._core.checks import listed
from .._core.dispatch import framework_of
from ..frameworks._numpy import to_dtype


class Arrays:
    """What can be done beside an array, in its framework and where it is. Here NumPy's; ``xp`` is the namespace."""

    #: Whether numbers can be looked at without waiting for them, and whether they can be written to.
    seen, written = True, True
    #: Where the array is, so that what is sent there need not be sent again; None: it must be.
    place: Hashable = "host"
    xp: Any = np

    def __init__(self, framework: Any, array: Any) -> None:
        self.framework, self.array = framework, array

    def dtype_of(self, array: Any) -> str:
        return str(self.framework.dtype_of(array))

    def scope(self) -> AbstractContextManager[Any]:
        """Within which functions compute where the array is, and nothing is recorded."""
        return nullcontext()

    def send(self, array: Any) -> Any:
        """A NumPy array as one of this framework's, where the array is."""
        return array

    def cast(self, array: Any, dtype: str) -> Any:
        return array.astype(to_dtype(dtype), copy=False)

    def take(self, array: Any, indices: Any, axis: int) -> Any:
        """A new array."""
        return array.take(indices, axis)

    def finite(self, image: Any) -> Any:
        """Which pixels are numbers in all of their channels; an axis of one in the channels' place."""
        return self.xp.isfinite(image).all(-1)[..., None]

    def cleared(self, image: Any, kept: Any) -> Any:
        """A new image with zeros where pixels are not kept."""
        return self.xp.where(kept, image, image.dtype.type(0))

    def rounded(self, array: Any, most: int) -> Any:
        """Whole numbers from 0 to ``most``, ties to even, in the array's memory where there is such a thing."""
        return self.xp.clip(self.xp.rint(array, out=array), 0, most, out=array)

    def transpose(self, array: Any, axes: Sequence[int]) -> Any:
        """A view."""
        return array.transpose(axes)

    def pad(self, features: Any, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
        """(H, W, C) with zeros before and after the rows and the columns."""
        return self.xp.pad(features, (rows, columns, (0, 0)))

    def joined(self, arrays: Sequence[Any]) -> Any:
        """Along the last axis."""
        return self.xp.concatenate(arrays, -1)

    def matmul(self, a: Any, b: Any) -> Any:
        return self.xp.matmul(a, b)

    def compiled(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function as the framework would rather have it, where it is of many small steps."""
        return function


class _CuPy(Arrays):
    seen = False  # it would wait for the device

    def __init__(self, framework: Any, array: Any) -> None:
        super().__init__(framework, array)
        self.xp, self.place = framework.cupy, array.device.id

    def scope(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self.xp.cuda.Device(self.place)
        return device

    def send(self, array: Any) -> Any:
        return self.xp.asarray(array)


class _Torch(Arrays):
    def __init__(self, framework: Any, array: Any) -> None:
        super().__init__(framework, array)
        self.xp, self.place = framework.torch, array.device
        self.seen = array.device.type == "cpu"

    def scope(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(self.xp.no_grad())
        stack.enter_context(self.xp.autocast(self.array.device.type, enabled=False))
        return stack

    def send(self, array: Any) -> Any:
        return self.xp.from_numpy(np.asarray(array)).to(self.place)

    def cast(self, array: Any, dtype: str) -> Any:
        return array.to(getattr(self.xp, dtype))

    def take(self, array: Any, indices: Any, axis: int) -> Any:
        return array.index_select(axis, indices)

    def cleared(self, image: Any, kept: Any) -> Any:
        return image.masked_fill(~kept, 0)

    def rounded(self, array: Any, most: int) -> Any:
        return array.round_().clamp_(0, most)

    def transpose(self, array: Any, axes: Sequence[int]) -> Any:
        return array.permute(*axes)

    def pad(self, features: Any, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
        return self.xp.nn.functional.pad(features, (0, 0, *columns, *rows))


class _JAX(Arrays):
    seen, written = False, False  # while it traces there are none

    def __init__(self, framework: Any, array: Any) -> None:
        super().__init__(framework, array)
        self.jax, self.xp, self.place = framework.jax, framework.jnp, None
        # Where a traced array is, or one on several devices, is for JAX to say.
        if not isinstance(array, self.jax.core.Tracer) and len(devices := array.devices()) == 1:
            (self.place,) = devices

    def send(self, array: Any) -> Any:
        if self.place is None:
            return self.xp.asarray(array)
        with self.jax.ensure_compile_time_eval():
            return self.jax.device_put(array, self.place)

    def cast(self, array: Any, dtype: str) -> Any:
        return array.astype(to_dtype(dtype))

    def cleared(self, image: Any, kept: Any) -> Any:
        return self.xp.where(kept, image, 0)

    def rounded(self, array: Any, most: int) -> Any:
        return self.xp.clip(self.xp.round(array), 0, most)

    def matmul(self, a: Any, b: Any) -> Any:
        return self.xp.matmul(a, b, precision="highest")

    def compiled(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        made: Callable[[Any], Any] = self.jax.jit(function)
        return made


#: Root module of a framework's arrays → what is done beside them; and what these frameworks are called.
_KINDS: dict[str, type[Arrays]] = {"numpy": Arrays, "cupy": _CuPy, "torch": _Torch, "jax": _JAX}
_NAMES = ("NumPy", "CuPy", "PyTorch", "JAX")


def beside(op: str, name: str, array: Any) -> Arrays:
    """What can be done beside an array; errors are those of ``framework_of``."""
    framework = framework_of(op, name, array, _NAMES)
    types = framework.ARRAY
    kind = _KINDS.get(types.__module__.partition(".")[0]) if isinstance(types, type) else None
    if kind is None:
        got = f"{type(array).__name__}; pass {name}.numpy()"
        raise TypeError(f"{op}: {name} must be a {listed(_NAMES)} array, got {got}.")
    return kind(framework, array)
