"""An interpreter of PTX, the assembly that nvcc emits, in NumPy: every thread of many blocks at once.

parse      text → kernels: registers, variables, basic blocks of instructions
translate  a basic block → lines of Python that do each instruction to a vector of all threads
machine    runs a launch: which threads are where, barriers, shuffles, shared and local memory; counts instructions
memory     the device's memory, which knows of every byte whether it is allocated and was written
races      which two accesses of a launch are not ordered by anything
traffic    what the accesses of a launch cost: bytes, sectors, wavefronts
exact      products and sums with one rounding, in C
"""

from .errors import (
    BadMask,
    BarrierError,
    KernelError,
    Misaligned,
    OutOfBounds,
    Race,
    Uninitialised,
    Unsupported,
    UseAfterFree,
)
from .machine import Launch, run
from .memory import Memory
from .parse import Kernel, parse

__all__ = [
    "BadMask",
    "BarrierError",
    "Kernel",
    "KernelError",
    "Launch",
    "Memory",
    "Misaligned",
    "OutOfBounds",
    "Race",
    "Uninitialised",
    "Unsupported",
    "UseAfterFree",
    "parse",
    "run",
]
