from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from .._core.signature import Signature, argument
from .._core.types import Array, FieldsOf, Framework, Image, Like, NamedTuple, Number, Parameter, Parameters_co


class GuideCurvesGradients(NamedTuple, FieldsOf[Image, Parameter]):
    """Gradients of :func:`guide_curves`; ``None`` where not wanted."""

    image: Image | None
    ccm: Parameter | None
    ccm_bias: Parameter | None
    shifts: Parameter | None
    slopes: Parameter | None
    mix: Parameter | None
    mix_bias: Parameter | None


SIGNATURE = Signature(
    "guide_curves",
    (
        argument("image", "N H W Ci", "image"),
        argument("ccm", "Ci Ci", "parameter"),
        argument("ccm_bias", "Ci", "parameter"),
        argument("shifts", "Ci K", "parameter"),
        argument("slopes", "Ci K", "parameter"),
        argument("mix", "Ci", "parameter"),
        argument("mix_bias", "", "parameter"),
    ),
    result="N H W",
    lead="image",
    like="image",
    keeps_integers=False,
    gradients=GuideCurvesGradients,
    kernel="guide",
    guide="curves",
)


@dataclass(frozen=True, eq=False)
class CurvesGuide(FieldsOf[Parameters_co]):
    """The parameters of :func:`guide_curves` as a record, for :func:`enhance`. Callable on an image."""

    ccm: Parameters_co
    ccm_bias: Parameters_co
    shifts: Parameters_co
    slopes: Parameters_co
    mix: Parameters_co
    mix_bias: Parameters_co | Number

    kind: ClassVar[str] = "curves"
    signature: ClassVar[Signature] = SIGNATURE

    def __call__(
        self: CurvesGuide[Like[Framework, Parameter]],
        image: Like[Framework, Image],
        *,
        out: Array[Framework] | None = None,
    ) -> Image | Parameter:
        return guide_curves(image, self.ccm, self.ccm_bias, self.shifts, self.slopes, self.mix, self.mix_bias, out=out)


def guide_curves(
    image: Like[Framework, Image],
    ccm: Like[Framework, Parameter],
    ccm_bias: Array[Framework],
    shifts: Array[Framework],
    slopes: Array[Framework],
    mix: Array[Framework],
    mix_bias: Array[Framework] | Number,
    *,
    out: Array[Framework] | None = None,
) -> Image | Parameter:
    """HDRnet's learned guide: a colour matrix, a piecewise linear curve per channel, and a weighted sum of the channels.

        q   = ccm·in + ccm_bias                                (row i of ccm makes channel i)
        c_i = Σ_k slopes[i,k]·max(q_i − shifts[i,k], 0)        (shifts in any order)
        out = clip(Σ_i mix_i·c_i + mix_bias, 0, 1)

    Parameters
    ----------
    image : array (N, H, W, Ci), float16 | bfloat16 | float32 | float64 | uint8 | uint16
        Integers are read as v/255 or v/65535. The batch axis is optional.
    ccm : array (Ci, Ci)
    ccm_bias : array (Ci,)
    shifts, slopes : array (Ci, K)
        The K knots of each channel's curve, and the change of slope at each.
    mix : array (Ci,)
    mix_bias : array () or number
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
    Gradients: :func:`guide_curves_vjp`. A NaN in the image gives NaN in that pixel only.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.1.
    """
    return SIGNATURE.bind((image, ccm, ccm_bias, shifts, slopes, mix, mix_bias)).forward(out)


@SIGNATURE.vjp
def guide_curves_vjp(
    image: Like[Framework, Image],
    ccm: Like[Framework, Parameter],
    ccm_bias: Array[Framework],
    shifts: Array[Framework],
    slopes: Array[Framework],
    mix: Array[Framework],
    mix_bias: Array[Framework] | Number,
    grad: Array[Framework],
    *,
    wrt: tuple[Literal["image", "ccm", "ccm_bias", "shifts", "slopes", "mix", "mix_bias"], ...] | None = None,
    out: Mapping[str, Array[Framework] | None] | None = None,
) -> GuideCurvesGradients[Image, Parameter]:
    """Gradients of :func:`guide_curves`.

        d_v          = grad where 0 < Σ_i mix_i·c_i + mix_bias < 1, else 0
        d_mix_bias   = Σ_p d_v,   d_mix_i = Σ_p d_v·c_i,   d_c_i = mix_i·d_v           (Σ_p over all pixels)
        d_slopes[i,k] = Σ_p d_c_i·max(q_i − shifts[i,k], 0)
        d_shifts[i,k] = −slopes[i,k]·Σ_p d_c_i·[q_i > shifts[i,k]]
        d_q_i        = d_c_i·Σ_k slopes[i,k]·[q_i > shifts[i,k]]
        d_ccm[i,j]   = Σ_p d_q_i·in_j,   d_ccm_bias_i = Σ_p d_q_i,   d_image_j = Σ_i ccm[i,j]·d_q_i

    Notes
    -----
    The slope is 0 at the kinks of max and clip. The same bits for any number of threads.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.1.
    """
    return SIGNATURE.bind_vjp((image, ccm, ccm_bias, shifts, slopes, mix, mix_bias), grad).backward(wrt, out)
