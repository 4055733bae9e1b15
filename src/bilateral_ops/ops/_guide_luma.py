from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from .._core.signature import Signature, argument
from .._core.types import Array, FieldsOf, Framework, Image, Like, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LUMA = (0.299, 0.587, 0.114)  # BT.601


class GuideLumaGradients(NamedTuple, FieldsOf[Image]):
    """Gradient of :func:`guide_luma`; ``None`` where not wanted."""

    image: Image | None


SIGNATURE = Signature(
    "guide_luma",
    (argument("image", "N H W Ci=3", "image"),),
    result="N H W",
    lead="image",
    like="image",
    keeps_integers=False,
    gradients=GuideLumaGradients,
    kernel="guide",
    guide="luma",
)


@dataclass(frozen=True)
class LumaGuide:
    """The luma guide as a record, for :func:`enhance`. Callable on an image, as :func:`guide_luma`."""

    kind: ClassVar[str] = "luma"
    signature: ClassVar[Signature] = SIGNATURE

    @overload
    def __call__(
        self, image: NDArray[np.uint8] | NDArray[np.uint16], *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]: ...
    @overload
    def __call__(self, image: Like[Framework, Image], *, out: Array[Framework] | None = None) -> Image: ...
    def __call__(self, image: Any, *, out: Any = None) -> Any:
        return guide_luma(image, out=out)


@overload
def guide_luma(
    image: NDArray[np.uint8] | NDArray[np.uint16], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]: ...
@overload
def guide_luma(image: Like[Framework, Image], *, out: Array[Framework] | None = None) -> Image: ...
def guide_luma(image: Any, *, out: Any = None) -> Any:
    """Guide an RGB image by its luma (BT.601).

        out[n,y,x] = .299·R + .587·G + .114·B

    Parameters
    ----------
    image : array (N, H, W, 3), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        Integers are read as v/255 or v/65535. The batch axis is optional.
    out : array, optional
        Filled and returned; must not overlap the image.

    Returns
    -------
    array (N, H, W), the image's dtype; float32 for an integer image

    Raises
    ------
    ValueError
        A shape or ``out`` that does not fit.
    TypeError
        Unsupported array type or dtype.

    Notes
    -----
    Gradients: :func:`guide_luma_vjp`.

    Source: ITU-R Recommendation BT.601.
    """
    return SIGNATURE.bind((image,)).forward(out)


@SIGNATURE.vjp
def guide_luma_vjp(
    image: Like[Framework, Image],
    grad: Array[Framework],
    *,
    wrt: tuple[Literal["image"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> GuideLumaGradients[Image]:
    """Gradient of :func:`guide_luma`.

        d_image[n,y,x] = (.299, .587, .114)·grad[n,y,x]

    Notes
    -----
    Source: ITU-R Recommendation BT.601.
    """
    return SIGNATURE.bind_vjp((image,), grad).backward(wrt, out)
