"""The compiled CUDA kernels (csrc/cuda/bindings.cpp). They trust their arguments: _signature.py has checked them.

Each takes what its namesake in _core takes, as arrays on one CUDA device that lend themselves by DLPack; then the
stream (the address of a cudaStream_t, 0 for the default one) and a function that allocates at least so many bytes
there, as an array whose memory is reused only after what is on the stream by then. Nothing waits for the device. A
launch that fails is a RuntimeError, as is a driver that is not there.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

Allocate: TypeAlias = Callable[[int], Any]

__version__: str
compiler: str
architectures: str  # as CMAKE_CUDA_ARCHITECTURES was, separated by spaces
xla_handlers: dict[str, Any]  # capsules, by the kernel's name

def device_count() -> int: ...
def slice_forward(
    out: Any, grid: Any, guide: Any, xy: Any, window: Any, align_corners: bool, stream: int, allocate: Allocate, /
) -> None: ...
def slice_backward(
    d_grid: Any,
    d_guide: Any,
    d_xy: Any,
    grid: Any,
    guide: Any,
    xy: Any,
    grad: Any,
    window: Any,
    align_corners: bool,
    stream: int,
    allocate: Allocate,
    /,
) -> None: ...
def apply_forward(out: Any, coefficients: Any, image: Any, stream: int, allocate: Allocate, /) -> None: ...
def apply_backward(
    d_coefficients: Any, d_image: Any, coefficients: Any, image: Any, grad: Any, stream: int, allocate: Allocate, /
) -> None: ...
def slice_apply_forward(
    out: Any,
    grid: Any,
    guide: Any,
    image: Any,
    xy: Any,
    window: Any,
    align_corners: bool,
    stream: int,
    allocate: Allocate,
    /,
) -> None: ...
def slice_apply_backward(
    d_grid: Any,
    d_guide: Any,
    d_image: Any,
    d_xy: Any,
    grid: Any,
    guide: Any,
    image: Any,
    xy: Any,
    grad: Any,
    window: Any,
    align_corners: bool,
    stream: int,
    allocate: Allocate,
    /,
) -> None: ...
def guide_forward(
    out: Any, image: Any, kind: str, parameters: tuple[Any, ...], stream: int, allocate: Allocate, /
) -> None: ...
def guide_backward(
    d_image: Any,
    d_parameters: tuple[Any, ...],
    image: Any,
    kind: str,
    parameters: tuple[Any, ...],
    grad: Any,
    stream: int,
    allocate: Allocate,
    /,
) -> None: ...
def enhance_forward(
    out: Any,
    grid: Any,
    image: Any,
    kind: str,
    parameters: tuple[Any, ...],
    window: Any,
    align_corners: bool,
    stream: int,
    allocate: Allocate,
    /,
) -> None: ...
def total_variation_forward(out: Any, grid: Any, stream: int, allocate: Allocate, /) -> None: ...
def total_variation_backward(d_grid: Any, grid: Any, grad: Any, stream: int, allocate: Allocate, /) -> None: ...
def resize_area_forward(out: Any, image: Any, stream: int, allocate: Allocate, /) -> None: ...
def resize_area_backward(d_image: Any, grad: Any, stream: int, allocate: Allocate, /) -> None: ...
