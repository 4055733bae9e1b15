"""The device's memory: host memory, and a byte of knowledge beside every byte of it."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from .errors import KernelError, OutOfBounds, Uninitialised, UseAfterFree

ALLOCATED, WRITTEN, FREED = 1, 2, 4  # bits of a byte's state; 0: never allocated
#: Allocations start at multiples of this, as cudaMalloc's do, and at least this much lies between two of them.
ALIGNMENT = 256


def repeated(state: int, size: int) -> int:
    """The state of `size` bytes, as one number."""
    return int.from_bytes(bytes([state]) * size, "little")


class Memory:
    """An arena of `capacity` bytes. Addresses are real ones, so that pointers pass through compiled code."""

    def __init__(self, capacity: int = 1 << 30):
        # Fresh pages are mapped when they are touched: a large arena costs what is used of it.
        self._buffer, self._state = np.zeros(capacity + 4096, np.uint8), np.zeros(capacity + 4096, np.uint8)
        skip = -self._buffer.ctypes.data % 4096
        self.bytes, self.state = self._buffer[skip:][:capacity], self._state[-self._state.ctypes.data % 4096 :]
        self.state = self.state[:capacity]
        self.base = self.bytes.ctypes.data
        self.views = {size: self.bytes.view(f"u{size}") for size in (1, 2, 4, 8)}
        self.states = {size: self.state.view(f"u{size}") for size in (1, 2, 4, 8)}
        self.starts: list[int] = []  # offsets, ascending
        self.sizes: list[int] = []
        self._top = ALIGNMENT

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes, which hold NaN and count as not written."""
        start = self._top
        if start + size + 2 * ALIGNMENT > len(self.bytes):
            raise MemoryError(f"the arena is full: {size} bytes wanted after {start}")
        self.bytes[start : start + size] = 0xFF
        self.state[start : start + size] = ALLOCATED
        self.starts.append(start)
        self.sizes.append(size)
        self._top = -(-(start + size + ALIGNMENT) // ALIGNMENT) * ALIGNMENT
        return self.base + start

    def free(self, address: int) -> None:
        """Give an allocation back. Its bytes are not used again before `reset`."""
        start = address - self.base
        i = bisect.bisect_left(self.starts, start)
        known = i < len(self.starts) and self.starts[i] == start
        if not known or (self.state[start : start + self.sizes[i]] & FREED).any():
            raise KernelError(f"free of {address:#x}, which was not allocated")
        self.state[start : start + self.sizes[i]] = FREED

    def reset(self) -> None:
        """Forget all allocations."""
        self.state[: self._top] = 0
        self.starts, self.sizes, self._top = [], [], ALIGNMENT

    def written(self, address: int, size: int) -> None:
        """The host wrote these bytes."""
        self.state[address - self.base :][:size] |= WRITTEN

    def view(self, address: int, size: int) -> Any:
        return self.bytes[address - self.base :][:size]

    def is_written(self, address: int, size: int) -> bool:
        return bool((self.state[address - self.base :][:size] == ALLOCATED | WRITTEN).all())

    def check(self, offsets: Any, size: int, *, load: bool) -> None:
        """Raise where one of these aligned accesses is not allowed. A store makes its bytes written."""
        outside = offsets.view(np.uint64) > len(self.bytes) - size  # as negative ones are, too
        if np.count_nonzero(outside):
            raise OutOfBounds(f"address {self.base + int(offsets[outside][0]):#x} is far from all memory")
        whole = min(size, 8)
        states = self.states[whole]
        good = repeated(ALLOCATED | WRITTEN, whole)
        for part in range(0, size, whole):
            at = (offsets + part) >> whole.bit_length() - 1
            found = states[at]
            if np.count_nonzero(found != good):
                if load or (found & repeated(ALLOCATED, whole) != repeated(ALLOCATED, whole)).any():
                    self._raise(offsets, size, load)
                states[at] |= repeated(WRITTEN, whole)

    def _raise(self, offsets: Any, size: int, load: bool) -> None:
        states = self.state[offsets[:, None] + np.arange(size)]
        wrong = (states & ALLOCATED == 0).any(1)
        which = int(np.flatnonzero(wrong if wrong.any() else (states & WRITTEN == 0).any(1))[0])
        place = f"address {self.base + int(offsets[which]):#x}, {self.place(int(offsets[which]))}"
        if (states[which] & FREED).any():
            raise UseAfterFree(place)
        raise (OutOfBounds if wrong.any() else Uninitialised)(place)

    def place(self, offset: int) -> str:
        """Where an offset lies, in words."""
        i = bisect.bisect_right(self.starts, offset) - 1
        if i < 0:
            return "before all allocations"
        return f"byte {offset - self.starts[i]} of an allocation of {self.sizes[i]}"
