"""The compiled kernels (csrc/bindings.cpp). They trust their arguments: _signature.py has checked them."""

from typing import Any

__version__: str
compiler: str
xla_handlers: dict[str, Any]  # capsules, by the kernel's name

def num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def select_isa(name: str, /) -> bool: ...
def slice_forward(out: Any, grid: Any, guide: Any, xy: Any, window: Any, align_corners: bool, /) -> None: ...
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
    /,
) -> None: ...
def apply_forward(out: Any, coefficients: Any, image: Any, /) -> None: ...
def apply_backward(d_coefficients: Any, d_image: Any, coefficients: Any, image: Any, grad: Any, /) -> None: ...
def slice_apply_forward(
    out: Any, grid: Any, guide: Any, image: Any, xy: Any, window: Any, align_corners: bool, /
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
    /,
) -> None: ...
def guide_forward(out: Any, image: Any, kind: str, parameters: tuple[Any, ...], /) -> None: ...
def guide_backward(
    d_image: Any, d_parameters: tuple[Any, ...], image: Any, kind: str, parameters: tuple[Any, ...], grad: Any, /
) -> None: ...
def enhance_forward(
    out: Any, grid: Any, image: Any, kind: str, parameters: tuple[Any, ...], window: Any, align_corners: bool, /
) -> None: ...
def total_variation_forward(out: Any, grid: Any, /) -> None: ...
def total_variation_backward(d_grid: Any, grid: Any, grad: Any, /) -> None: ...
