"""Guides with parameters to learn, and the layer that applies a grid by them: modules around the operations."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch.nn import Module, Parameter, init

from .._core.types import PixelRule
from ..ops._enhance import GUIDES
from ..ops._guide_curves import CurvesGuide, guide_curves
from ..ops._guide_luma import LumaGuide
from ..ops._guide_nn import NNGuide, guide_nn
from ..ops._slice_apply import slice_apply

Device: TypeAlias = torch.device | str | int | None


class CurvesGuideModule(Module):
    """:func:`bilateral_ops.guide_curves` with parameters to learn: an image (N, H, W, Ci) → its guide (N, H, W).

    As in HDRnet, it begins as the mean of the channels, clipped to [0, 1]: ``ccm`` the identity with one small number
    added to it all, ``shifts`` k/K, the first of the ``slopes`` 1 and the others 0, ``mix`` 1/Ci, no biases.

    Parameters
    ----------
    channels, knots : int
        Ci and K.
    device, dtype
        Of the parameters. float32 goes with images of any dtype but float64.

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.1; initial values as in google/hdrnet.
    """

    def __init__(
        self, channels: int = 3, knots: int = 16, *, device: Device = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        options: Any = {"device": device, "dtype": dtype}
        self.ccm = Parameter(torch.empty(channels, channels, **options))
        self.ccm_bias = Parameter(torch.empty(channels, **options))
        self.shifts = Parameter(torch.empty(channels, knots, **options))
        self.slopes = Parameter(torch.empty(channels, knots, **options))
        self.mix = Parameter(torch.empty(channels, **options))
        self.mix_bias = Parameter(torch.empty((), **options))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The initial values."""
        channels, knots = self.shifts.shape
        init.eye_(self.ccm).add_(1e-4 * torch.randn((), device=self.ccm.device, dtype=self.ccm.dtype))
        self.ccm_bias.zero_()
        self.shifts.copy_(torch.arange(knots, device=self.shifts.device) / knots)
        self.slopes.zero_()[:, 0] = 1
        self.mix.fill_(1 / channels)
        self.mix_bias.zero_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return guide_curves(image, self.ccm, self.ccm_bias, self.shifts, self.slopes, self.mix, self.mix_bias)

    def freeze(self) -> CurvesGuide[torch.Tensor]:
        """The parameters as they are now, for :func:`bilateral_ops.enhance`."""
        return CurvesGuide(**_copies(self))

    def extra_repr(self) -> str:
        channels, knots = self.shifts.shape
        return f"channels={channels}, knots={knots}"


class NNGuideModule(Module):
    """:func:`bilateral_ops.guide_nn` with parameters to learn: an image (N, H, W, Ci) → its guide (N, H, W).

    Weights begin as in HDRnet, normal with variance 2/fan-in, cut off at two standard deviations; biases at 0. HDRnet
    normalises the features by batch: at inference that is a factor of ``w1``'s rows and an addend of ``b1``; here it is
    left out.

    Parameters
    ----------
    channels, features : int
        Ci and F.
    device, dtype
        Of the parameters. float32 goes with images of any dtype but float64.

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4.1; initial values as in google/hdrnet.
    """

    def __init__(
        self, channels: int = 3, features: int = 16, *, device: Device = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        options: Any = {"device": device, "dtype": dtype}
        self.w1 = Parameter(torch.empty(features, channels, **options))
        self.b1 = Parameter(torch.empty(features, **options))
        self.w2 = Parameter(torch.empty(features, **options))
        self.b2 = Parameter(torch.empty((), **options))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The initial values."""
        for weights in (self.w1, self.w2):
            # 1.3: what cutting off takes from the variance.
            deviation = math.sqrt(1.3 * 2 / weights.shape[-1])
            init.trunc_normal_(weights, std=deviation, a=-2 * deviation, b=2 * deviation)
        self.b1.zero_()
        self.b2.zero_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return guide_nn(image, self.w1, self.b1, self.w2, self.b2)

    def freeze(self) -> NNGuide[torch.Tensor]:
        """The parameters as they are now, for :func:`bilateral_ops.enhance`."""
        return NNGuide(**_copies(self))

    def extra_repr(self) -> str:
        features, channels = self.w1.shape
        return f"channels={channels}, features={features}"


class SliceApplyModule(Module):
    """An image under the grid that is predicted for it: ``slice_apply(grid, guide(image), image)``.

    What :func:`bilateral_ops.enhance` computes, and what it is trained by: ``enhance(grid, layer.freeze(), image)``
    gives the same result in one pass (up to the guide's rounding), without gradients.

    Parameters
    ----------
    guide : Module, CurvesGuide, NNGuide or LumaGuide
        Makes an image's guide; luma by default.
    xy : "centers" or "corners", optional
    align_corners : bool
        The sampling rule, as in :func:`bilateral_ops.slice`.
    """

    def __init__(
        self,
        guide: Module | CurvesGuide[torch.Tensor] | NNGuide[torch.Tensor] | LumaGuide | None = None,
        *,
        xy: PixelRule | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.guide: Any = LumaGuide() if guide is None else guide
        self.xy = xy
        self.align_corners = align_corners

    def forward(
        self, grid: torch.Tensor, image: torch.Tensor, *, window: tuple[int, int, int, int] | None = None
    ) -> torch.Tensor:
        """grid (N, Gh, Gw, Gd, Co, Ci[+1]), image (N, H, W, Ci) → (N, H, W, Co); ``window`` as of ``slice_apply``."""
        rule: Any = {"xy": self.xy, "align_corners": self.align_corners}
        return slice_apply(grid, self.guide(image), image, window=window, **rule)

    def freeze(self) -> CurvesGuide[torch.Tensor] | NNGuide[torch.Tensor] | LumaGuide:
        """The guide's record as it is now, for :func:`bilateral_ops.enhance`; ``TypeError`` where it has none."""
        if isinstance(self.guide, GUIDES):
            return self.guide
        if not hasattr(self.guide, "freeze"):
            raise TypeError(f"freeze: guide must have a freeze method, got {type(self.guide).__name__}.")
        return self.guide.freeze()

    def extra_repr(self) -> str:
        guide = "" if isinstance(self.guide, Module) else f"guide={type(self.guide).__name__}, "
        return f"{guide}xy={self.xy!r}, align_corners={self.align_corners}"


def _copies(module: Module) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
