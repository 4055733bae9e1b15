"""What devices allow a launch: numbers of the CUDA programming guide's table of technical specifications."""

from __future__ import annotations

from dataclasses import dataclass

INVALID_VALUE, INVALID_CONFIGURATION, TOO_MANY_RESOURCES = 1, 9, 701
#: cudaDeviceAttr: what may be asked of a device.
ATTRIBUTES = {
    1: "threads_per_block",
    8: "shared_default",
    10: "warp",
    12: "registers",
    16: "multiprocessors",
    39: "threads_per_multiprocessor",
    75: "major",
    76: "minor",
    81: "shared_per_multiprocessor",
    97: "shared_most",
    106: "blocks_per_multiprocessor",
}
MAX_DYNAMIC_SHARED = 8  # cudaFuncAttributeMaxDynamicSharedMemorySize
CARVEOUT = 9


@dataclass(frozen=True)
class Device:
    architecture: int
    shared_most: int  # bytes that a block may have
    shared_per_multiprocessor: int
    multiprocessors: int
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    threads_per_block: int = 1024
    shared_default: int = 48 << 10  # without asking for more
    registers: int = 65536
    warp: int = 32
    block: tuple[int, int, int] = (1024, 1024, 64)
    grid: tuple[int, int, int] = (2**31 - 1, 65535, 65535)

    @property
    def major(self) -> int:
        return self.architecture // 10

    @property
    def minor(self) -> int:
        return self.architecture % 10


DEVICES = {
    75: Device(75, 64 << 10, 64 << 10, 40, 1024, 16),  # T4
    80: Device(80, 163 << 10, 164 << 10, 108, 2048, 32),  # A100
    86: Device(86, 99 << 10, 100 << 10, 82, 1536, 16),  # RTX 3090
    89: Device(89, 99 << 10, 100 << 10, 128, 1536, 24),  # RTX 4090
    90: Device(90, 227 << 10, 228 << 10, 132, 2048, 32),  # H100
    100: Device(100, 227 << 10, 228 << 10, 148, 2048, 32),  # B200
    120: Device(120, 99 << 10, 100 << 10, 170, 1536, 24),  # RTX 5090
}


def refusal(
    device: Device,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    static_shared: int,
    dynamic_shared: int,
    opted: int,
    bound: int | None,
) -> tuple[int, str] | None:
    """The error with which a device refuses a launch, and why; None where it does not.

    `opted` is the dynamic shared memory that the kernel was given by cudaFuncSetAttribute, `bound` its
    __launch_bounds__.
    """
    threads = block[0] * block[1] * block[2]
    for name, size, most in (("grid", grid, device.grid), ("block", block, device.block)):
        if any(not 0 < s <= m for s, m in zip(size, most)):
            return INVALID_CONFIGURATION, f"{name} {size}, at most {most}"
    if threads > device.threads_per_block:
        return INVALID_CONFIGURATION, f"{threads} threads a block, at most {device.threads_per_block}"
    if bound is not None and threads > bound:
        return TOO_MANY_RESOURCES, f"{threads} threads a block, the kernel's __launch_bounds__ say {bound}"
    most = max(device.shared_default - static_shared, opted)
    if dynamic_shared > most:
        return INVALID_VALUE, f"{dynamic_shared} bytes of dynamic shared memory, at most {most}"
    return None
