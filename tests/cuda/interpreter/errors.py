"""What a kernel may do wrong."""

from __future__ import annotations


class KernelError(Exception):
    """A kernel did what it must not; the message names kernel, instruction and thread."""


class Unsupported(KernelError):
    """An instruction or a form of one that the interpreter does not know."""


class OutOfBounds(KernelError):
    """An access outside of every allocation."""


class UseAfterFree(KernelError):
    """An access to memory that was given back."""


class Uninitialised(KernelError):
    """A load of bytes that nobody wrote."""


class Misaligned(KernelError):
    """An address that is no multiple of the access's size."""


class Race(KernelError):
    """Two threads' accesses to the same bytes, one of them a write, that nothing orders."""


class BarrierError(KernelError):
    """A barrier that some threads of the block never reach."""


class BadMask(KernelError):
    """A warp operation whose mask does not fit the lanes that execute it."""
