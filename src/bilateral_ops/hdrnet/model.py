"""The network in PyTorch, to be trained."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import resize_area
from .._core.missing import needed
from ..compat.hdrnet import unpack_coefficients
from ..ops._guide_luma import guide_luma
from ..ops._guide_nn import NNGuide, guide_nn
from ..ops._slice_apply import slice_apply
from ._config import NORM_EPSILON, Blend, Config, Layer, arranged, blends, layers, nearest
from ._predict import Predictor
from ._weights import read_model, write_model

with needed("bilateral_ops.hdrnet.HDRNet", "torch", "torch"):
    import torch
    from torch.nn import Module, ModuleList, Parameter, Sequential, init
    from torch.nn import functional as F

    from ..frameworks.torch import CurvesGuideModule, NNGuideModule

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ..frameworks._torch_modules import Device

__all__ = ["HDRNet"]

#: How much of a batch's mean and variance goes into the running ones. The original's 0.001 takes ten times as long.
_MOMENTUM = 0.01


class HDRNet(Module):
    """An image (N, H, W, 3) → the image enhanced, of any size, floats in [0, 1], not clipped.

        grid = coefficients(low_resolution(image))              (N, Gh, Gw, Gd, 3·scales, 4)
        out = slice_apply(grid, guide(image), image)            scales = 1
        out = Σ_s enlarge(slice_apply(grid_s, guide_s(image_s), image_s))
                                                                scales = 3: image_0 the image, the others half as
                                                                large each, both by bilinear interpolation

    Parameters
    ----------
    config : Config
    guide : callable, optional
        Makes a guide of one's own, with ``Config(guide="custom")``: a module from an image (N, H, W, 3) to (N, H, W),
        where [0, 1] spans the grid's depth; called once for each scale. Its weights are saved with the others, and
        :meth:`load` is given the same; only this class predicts with it.
    device, dtype
        Of the parameters.

    Raises
    ------
    ValueError
        ``guide`` without ``Config(guide="custom")``, or the other way round.
    TypeError
        What ``guide`` makes is no module.

    Notes
    -----
    As in google/hdrnet: layers, paddings (TensorFlow's SAME), the order of channels, initial values, which are normal
    with variance 2/fan-in, cut off at two standard deviations, and biases 0. Running means and variances of batches
    follow faster (by 0.01 a step, not 0.001), so that short trainings can be used, too.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        guide: Callable[[], Module] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = Config() if config is None else config
        if not isinstance(self.config, Config):
            raise TypeError(f"HDRNet: config must be a Config, got {type(config).__name__}.")
        self.coefficients = Coefficients(self.config)
        pointwise = NormalizedNNGuide if self.config.guide_norm else partial(NNGuideModule, 3)
        makers: Any = {"curves": partial(CurvesGuideModule, 3), "nn": pointwise, "luma": _LumaGuide}
        if (guide is None) == (self.config.guide == "custom"):
            given = "none" if guide is None else "one"
            raise ValueError(
                "HDRNet: guide must be given where the configuration's is 'custom', and there alone, got "
                f"{given} beside {self.config.guide!r}."
            )
        make = makers.get(self.config.guide)
        made = [guide() if guide else make(self.config.guide_complexity) for _ in range(self.config.scales)]
        if others := [type(module).__name__ for module in made if not isinstance(module, Module)]:
            raise TypeError(f"HDRNet: guide must make a torch.nn.Module, got {others[0]}.")
        self.guides = ModuleList(made)
        self.to(device=device, dtype=dtype)

    @property
    def guide(self) -> Module:
        """The guide at full resolution: an image (N, H, W, 3) → (N, H, W)."""
        return self.guides[0]

    def low_resolution(self, image: torch.Tensor) -> torch.Tensor:
        """The network's input for an image (N, H, W, 3): exact averages, or nearest pixels, (N, *input_shape, 3)."""
        size, dtype = self.config.input_shape, self.coefficients.prediction.weight.dtype
        if self.config.reduce == "area":
            return resize_area(image, size, dtype=dtype)
        for axis, wanted in enumerate(size, 1):
            pixels = nearest(torch.arange(wanted, device=image.device), image.shape[axis])
            image = image.index_select(axis, pixels)
        return image.to(dtype)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if not image.is_floating_point():
            raise TypeError(f"HDRNet: image must be of floats in [0, 1], got {image.dtype}; Predictor takes integers.")
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"HDRNet: image must have shape (N, H, W, 3), got {tuple(image.shape)}.")
        return self.render(self.coefficients(self.low_resolution(image)), image)

    def render(self, grid: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """The full-resolution stream: an image (N, H, W, 3) under the grid that is predicted for it."""
        levels = [image]
        for _ in self.guides[1:]:
            height, width = levels[-1].shape[1:3]
            levels.append(_resize(levels[-1], (max(height // 2, 1), max(width // 2, 1))))
        out: Any = None
        for i, (level, guide) in enumerate(zip(reversed(levels), reversed(self.guides))):  # the coarsest first
            rendered = slice_apply(grid[..., 3 * i : 3 * i + 3, :], guide(level), level, **self.config.sampling)
            out = rendered if out is None else rendered + _resize(out, rendered.shape[1:3])
        return out

    def freeze(self) -> Predictor:
        """The network as it is now, for prediction without PyTorch."""
        return Predictor(self.config, self._arrays())

    def save(
        self,
        file: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str] | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        """Write a model file: :func:`.write_model` of this network."""
        write_model(file, self.config, self._arrays(), metadata=metadata, dtype=dtype)

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str],
        *,
        guide: Callable[[], Module] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> HDRNet:
        """The network of a model file, in training mode; errors are those of :func:`.read_model`."""
        config, weights, _ = read_model(file)
        model = cls(config, guide=guide)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        return model.to(device=device, dtype=dtype)

    def _arrays(self) -> dict[str, Any]:
        return {name: value.detach().cpu().float().numpy() for name, value in self.state_dict().items()}

    def extra_repr(self) -> str:
        return str(self.config)


class Coefficients(Module):
    """The low-resolution stream: (N, *input_shape, 3) → the grid (N, Gh, Gw, Gd, 3·scales, 4)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        plan = layers(config)
        self.splat = Sequential(*map(LayerModule, plan.splat))
        self.global_convolutions = Sequential(*map(LayerModule, plan.global_convolutions))
        self.global_connected = Sequential(*map(LayerModule, plan.global_connected))
        self.local = Sequential(*map(LayerModule, plan.local))
        self.prediction = LayerModule(plan.prediction)
        self._blends: list[Blend | None] = []  # the names of their arrays, which are buffers, so that they move along
        for axis, blend in zip("yxz", blends(config)):
            names = Blend(*(f"_{axis}_{name}" for name in Blend._fields))
            self._blends.append(blend and names)
            for name, array in zip(names, blend or ()):
                self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        features = self.splat(low.permute(0, 3, 1, 2))
        fused = self.local(features)
        if self.config.global_path:
            # Flattened by rows, columns, channels, as the original's weights are ordered.
            summary = self.global_convolutions(features).permute(0, 2, 3, 1).flatten(1)
            fused = fused + self.global_connected(summary)[:, :, None, None]
        packed = self.prediction(F.relu(fused))
        grid = unpack_coefficients(packed, self.config.luma_bins, n_out=self.config.rows, channels_first=True)
        found = [blend and Blend(*(getattr(self, name) for name in blend)) for blend in self._blends]
        return arranged(self.config, found, grid, torch.permute, lambda cells, i, axis: cells.index_select(axis, i))


class LayerModule(Module):
    """A convolution with zeros around, or a fully connected layer; then batch norm and ReLU, as it says."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        self.weight = Parameter(torch.empty(layer.shapes()[f"{layer.name}.weight"]))
        biased = layer.bias and not layer.norm
        self.bias = Parameter(torch.empty(layer.outputs)) if biased else None
        self.norm = Norm(layer.outputs) if layer.norm else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The initial values."""
        deviation = math.sqrt(1.3 * 2 / self.weight[0].numel())  # 1.3: what cutting off takes from the variance
        init.trunc_normal_(self.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, stride = self.layer.size, self.layer.stride
        if size:
            (top, bottom), (left, right) = map(self.layer.pads, x.shape[2:])
            x = F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight, self.bias, stride)
        else:
            x = F.linear(x, self.weight, self.bias)
        x = x if self.norm is None else self.norm(x)
        return F.relu(x) if self.layer.relu else x

    def extra_repr(self) -> str:
        return str(self.layer)


class Norm(Module):
    """Batch norm without a factor to learn, (N, C, …), ε = 1e-3."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, None, self.bias, self.training, _MOMENTUM, NORM_EPSILON)


class NormalizedNNGuide(NNGuideModule):
    """The pointwise network's guide with its features normalised by batch, as in the original.

    The features' mean and variance follow from those of the image, so that the normalisation becomes part of the
    weights, and no feature is ever stored.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features=features)
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        mean, variance = self._statistics(image) if self.training else (self.running_mean, self.running_var)
        factor = torch.rsqrt(variance + NORM_EPSILON)
        return guide_nn(image, self.w1 * factor[:, None], self.b1 - mean * factor, self.w2, self.b2)

    def _statistics(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = image.reshape(-1, image.shape[-1]).to(self.w1.dtype)
        mean = self.w1 @ pixels.mean(0)
        variance = ((self.w1 @ torch.cov(pixels.T, correction=0)) * self.w1).sum(1)
        with torch.no_grad():
            self.running_mean.lerp_(mean, _MOMENTUM)
            self.running_var.lerp_(variance * (len(pixels) / max(len(pixels) - 1, 1)), _MOMENTUM)
        return mean, variance

    def freeze(self) -> NNGuide[torch.Tensor]:
        """The parameters as they are now, the running mean and variance among them."""
        frozen = super().freeze()
        factor = torch.rsqrt(self.running_var + NORM_EPSILON)
        return NNGuide(frozen.w1 * factor[:, None], frozen.b1 - self.running_mean * factor, frozen.w2, frozen.b2)


class _LumaGuide(Module):
    def __init__(self, complexity: int) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return guide_luma(image)


def _resize(image: torch.Tensor, size: Any) -> torch.Tensor:
    """Bilinear interpolation, the corners' pixels on one another."""
    resized = F.interpolate(image.permute(0, 3, 1, 2), size=tuple(size), mode="bilinear", align_corners=True)
    return resized.permute(0, 2, 3, 1)
