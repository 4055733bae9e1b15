from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from .._core.signature import Signature, argument
from .._core.types import Array, FieldsOf, Framework, Image, Like, NamedTuple, Number, Parameter, Parameters_co


class GuideNNGradients(NamedTuple, FieldsOf[Image, Parameter]):
    """Gradients of :func:`guide_nn`; ``None`` where not wanted."""

    image: Image | None
    w1: Parameter | None
    b1: Parameter | None
    w2: Parameter | None
    b2: Parameter | None


SIGNATURE = Signature(
    "guide_nn",
    (
        argument("image", "N H W Ci", "image"),
        argument("w1", "F Ci", "parameter"),
        argument("b1", "F", "parameter"),
        argument("w2", "F", "parameter"),
        argument("b2", "", "parameter"),
    ),
    result="N H W",
    lead="image",
    like="image",
    keeps_integers=False,
    gradients=GuideNNGradients,
    kernel="guide",
    guide="nn",
)


@dataclass(frozen=True, eq=False)
class NNGuide(FieldsOf[Parameters_co]):
    """The parameters of :func:`guide_nn` as a record, for :func:`enhance`. Callable on an image."""

    w1: Parameters_co
    b1: Parameters_co
    w2: Parameters_co
    b2: Parameters_co | Number

    kind: ClassVar[str] = "nn"
    signature: ClassVar[Signature] = SIGNATURE

    def __call__(
        self: NNGuide[Like[Framework, Parameter]], image: Like[Framework, Image], *, out: Array[Framework] | None = None
    ) -> Image | Parameter:
        return guide_nn(image, self.w1, self.b1, self.w2, self.b2, out=out)


def guide_nn(
    image: Like[Framework, Image],
    w1: Like[Framework, Parameter],
    b1: Array[Framework],
    w2: Array[Framework],
    b2: Array[Framework] | Number,
    *,
    out: Array[Framework] | None = None,
) -> Image | Parameter:
    """HDRnet's pointwise-network guide: one hidden layer per pixel.

        out = sigmoid(w2·relu(w1·in + b1) + b2)

    Parameters
    ----------
    image : array (N, H, W, Ci), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        Integers are read as v/255 or v/65535. The batch axis is optional.
    w1 : array (F, Ci)
    b1, w2 : array (F,)
    b2 : array () or number
        All parameters have the image's dtype, or float32 with a float16, bfloat16 or integer image.
    out : array, optional
        Filled and returned; must not overlap an input.

    Returns
    -------
    array (N, H, W), the image's dtype; float32 for an integer image

    Raises
    ------
    ValueError
        A shape or ``out`` that does not fit.
    TypeError
        Unsupported array type or dtype, or arguments that disagree.

    Notes
    -----
    Gradients: :func:`guide_nn_vjp`. A NaN in the image gives NaN in that pixel only.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.1, and its public implementation.
    """
    return SIGNATURE.bind((image, w1, b1, w2, b2)).forward(out)


@SIGNATURE.vjp
def guide_nn_vjp(
    image: Like[Framework, Image],
    w1: Like[Framework, Parameter],
    b1: Array[Framework],
    w2: Array[Framework],
    b2: Array[Framework] | Number,
    grad: Array[Framework],
    *,
    wrt: tuple[Literal["image", "w1", "b1", "w2", "b2"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> GuideNNGradients[Image, Parameter]:
    """Gradients of :func:`guide_nn`.

        h = w1·in + b1,   d_v = grad·out·(1 − out),   d_h_f = w2_f·d_v·[h_f > 0]
        d_b2 = Σ_p d_v,   d_w2_f = Σ_p d_v·relu(h_f)                                  (Σ_p over all pixels)
        d_b1_f = Σ_p d_h_f,   d_w1[f,j] = Σ_p d_h_f·in_j,   d_image_j = Σ_f w1[f,j]·d_h_f

    Notes
    -----
    The slope is 0 at relu's kink. The same bits for any number of threads.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.1, and its public implementation.
    """
    return SIGNATURE.bind_vjp((image, w1, b1, w2, b2), grad).backward(wrt, out)
