from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .._core.signature import Signature, argument
from .._core.types import Array, FieldsOf, Framework, Grid, Image, Like, NamedTuple


class ApplyGradients(NamedTuple, FieldsOf[Grid, Image]):
    """Gradients of :func:`apply`; ``None`` where not wanted."""

    coefficients: Grid | None
    image: Image | None


SIGNATURE = Signature(
    "apply",
    (
        argument("coefficients", "N H W Co Ci[+1]", "grid"),
        argument("image", "N H W Ci", "image"),
    ),
    result="N H W Co",
    lead="image",
    like="image",
    gradients=ApplyGradients,
)


def apply(
    coefficients: Array[Framework],
    image: Like[Framework, Image],
    *,
    out: Array[Framework] | None = None,
) -> Image:
    """Map every pixel by its own linear or affine matrix.

        out[n,y,x,i] = Σ_j A[n,y,x,i,j]·image[n,y,x,j]  (+ A[n,y,x,i,Ci])

    Parameters
    ----------
    coefficients : array (N, H, W, Co, Ci) or (N, H, W, Co, Ci+1), float16 | bfloat16 | float32 | float64
        The matrices; the last column, if present, is the offset. The image's dtype, or float32 with a float16, bfloat16
        or integer image.
    image : array (N, H, W, Ci), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        Integers are read as v/255 or v/65535. Without a batch axis, (H, W, Ci), no other argument has one either.
    out : array, optional
        Filled and returned; may be the image itself, and must not overlap an input otherwise.

    Returns
    -------
    array (N, H, W, Co), the image's dtype
        Integers are rounded to nearest even and saturated.

    Raises
    ------
    ValueError
        A shape or ``out`` that does not fit.
    TypeError
        Unsupported array type or dtype, or arguments that disagree.

    Notes
    -----
    Gradients: :func:`apply_vjp`.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.
    """
    return SIGNATURE.bind((coefficients, image)).forward(out)


@SIGNATURE.vjp
def apply_vjp(
    coefficients: Like[Framework, Grid],
    image: Like[Framework, Image],
    grad: Array[Framework],
    *,
    wrt: tuple[Literal["coefficients", "image"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> ApplyGradients[Grid, Image]:
    """Gradients of :func:`apply`.

        d_coefficients[n,y,x,i,j] = grad[n,y,x,i]·image[n,y,x,j]   (1 in the image's place for the offset)
        d_image[n,y,x,j]          = Σ_i A[n,y,x,i,j]·grad[n,y,x,i]

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.
    """
    return SIGNATURE.bind_vjp((coefficients, image), grad).backward(wrt, out)
