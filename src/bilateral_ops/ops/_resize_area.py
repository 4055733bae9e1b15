from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from .._core.signature import Call, Signature, Sizes, argument
from .._core.types import Array, FieldsOf, Framework, Image, Like, NamedTuple, Scalar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ResizeAreaGradients(NamedTuple, FieldsOf[Image]):
    """Gradient of :func:`resize_area`; ``None`` where not wanted."""

    image: Image | None


SIGNATURE = Signature(
    "resize_area",
    (argument("image", "N H W Ci", "image"),),
    result="N h w Ci",
    lead="image",
    like="image",
    sizes=Sizes("size", ("h", "w")),
    chooses_dtype=True,
    gradients=ResizeAreaGradients,
)

# Shares of pixels are whole numbers below the product of the two sizes of an axis, kept in 64 bits.
_MOST_PRODUCT = 1 << 62


@overload
def resize_area(
    image: NDArray[Any],
    size: tuple[int, int],
    *,
    dtype: type[Scalar] | np.dtype[Scalar],
    out: NDArray[Any] | None = None,
) -> NDArray[Scalar]: ...
@overload
def resize_area(
    image: NDArray[Any], size: tuple[int, int], *, dtype: str, out: NDArray[Any] | None = None
) -> NDArray[Any]: ...
@overload
def resize_area(
    image: Like[Framework, Image], size: tuple[int, int], *, dtype: Any = None, out: Array[Framework] | None = None
) -> Image: ...
def resize_area(image: Any, size: tuple[int, int], *, dtype: Any = None, out: Any = None) -> Any:
    """Resize an image by exact averages over the area of each output pixel.

        out[n,i,j,c] = Σ_yx w(i,y;H,h) w(j,x;W,w) image[n,y,x,c]
        w(i,y;H,h)   = |[i·H/h, (i+1)·H/h) ∩ [y, y+1)| · h/H

    A weight is the part of an output pixel's area that an input pixel covers; weights add up to 1. When enlarging, the
    image is taken as constant over each of its pixels.

    Parameters
    ----------
    image : array (N, H, W, Ci), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        The batch axis is optional. Rows and columns must not be 0; images and channels may.
    size : (h, w)
        Rows and columns of the result, 1 or more each, in pixels; larger or smaller than the image's.
    dtype : float16 | bfloat16 | float32 | float64, or its name, optional
        The result's dtype; by default the image's. With a float ``dtype``, integers are read as v/255 or v/65535.
    out : array, optional
        Filled and returned; must not overlap the image, unless it is the same view.

    Returns
    -------
    array (N, h, w, Ci), the image's dtype or ``dtype``
        The exact average, rounded once: of an integer image to nearest even.

    Raises
    ------
    ValueError
        A shape, size or ``out`` that does not fit.
    TypeError
        Unsupported array type or dtype.

    Notes
    -----
    Gradients: :func:`resize_area_vjp`. Sums are in double and in a fixed order: the same bits for any number of
    threads, and results within half a unit in the last place plus the rounding of double. A NaN reaches only the output
    pixels whose area it overlaps.

    Source: the box filter, as in Heckbert, Filtering by Repeated Integration, SIGGRAPH 1986, sec. 2.
    """
    call = SIGNATURE.bind((image,), size, dtype=dtype)
    _check(call)
    return call.forward(out)


@SIGNATURE.vjp
def resize_area_vjp(
    image: Like[Framework, Image],
    grad: Array[Framework],
    *,
    dtype: Any = None,
    wrt: tuple[Literal["image"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> ResizeAreaGradients[Image]:
    """Gradient of :func:`resize_area`.

        d_image[n,y,x,c] = Σ_ij w(i,y;H,h) w(j,x;W,w) grad[n,i,j,c]

    with the weights of :func:`resize_area`.

    Notes
    -----
    Only the image's shape and dtype matter. Each of its pixels gathers its gradient: the same bits for any number of
    threads.

    Source: the box filter, as in Heckbert, Filtering by Repeated Integration, SIGGRAPH 1986, sec. 2.
    """
    call = SIGNATURE.bind_vjp((image,), grad, dtype=dtype)
    _check(call)
    return call.backward(wrt, out)


def _check(call: Call) -> None:
    for name, rows, columns in (("image", "H", "W"), (call.owners["h"], "h", "w")):
        got = call.sizes[rows], call.sizes[columns]
        if any(size < 1 for size in got):
            raise ValueError(
                f"{call.op}: {name} must have at least one row and one column, got ({rows}, {columns}) = {got}."
            )
    for before, after in (("H", "h"), ("W", "w")):
        product = call.sizes[before] * call.sizes[after]
        if isinstance(product, int) and product > _MOST_PRODUCT:  # no symbol of an exporter's
            raise ValueError(
                f"{call.op}: {call.owners[after]} must have {before}·{after} at most {_MOST_PRODUCT}, got {product}."
            )
