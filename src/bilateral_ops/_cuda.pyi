"""The compiled module for CUDA (csrc/cuda/bindings.cpp), but for the kernels, as in _cpu.pyi."""

from typing import Any

__version__: str
compiler: str
architectures: str  # that the kernels are compiled for, "75-real, …"
xla_handlers: dict[str, Any]  # capsules, by the kernel's name

def device_count() -> int: ...
