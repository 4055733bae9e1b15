"""What a network is made of, and the shapes of its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from .._core.checks import brief

#: What batch norm adds to a variance.
NORM_EPSILON = 1e-3
GUIDES = ("curves", "nn", "luma")
SCALES = (1, 3)
#: Of a configuration's numbers, so that what follows from them can be computed, as that it is too large.
_MOST = 1 << 16
#: Characters of a configuration's text, of which to_json writes a few hundred.
_MOST_TEXT = 10_000
#: Digits of an integer in JSON, so that none takes long to read.
_MOST_DIGITS = 20


@dataclass(frozen=True)
class Config:
    """The architecture: what a model file says beside its weights, and all that :class:`HDRNet` is built from.

    Parameters
    ----------
    net_input : int
        Side S of the square, in pixels, to which the image is reduced for the network; ``spatial_bin`` · 2ⁿ, n ≥ 1.
    spatial_bin : int
        Side of the grid, in cells.
    luma_bins : int
        Depth of the grid, in cells. With 1, slicing is bilinear interpolation of the matrices.
    channel_multiplier : int
        The layers' width: they have ``luma_bins · channel_multiplier`` · 1, 2, 4 … channels.
    batch_norm : bool
        Whether layers are normalised by batch, all but the first, the last of each path and the prediction.
    guide : "curves", "nn" or "luma"
        The guide: HDRnet's learned curves, its pointwise network (always normalised by batch), or luma, not learned.
    guide_complexity : int
        Knots of the curves, or features of the pointwise network.
    scales : 1 or 3
        3: a grid for each of three scales of the image, whose results are added (the Gaussian-pyramid variant).
    global_path : bool
        Whether the whole image is summed up in a vector that every cell of the grid sees.

    Raises
    ------
    ValueError
        A value out of its range.
    TypeError
        A value of another type.

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.1; names and defaults as in google/hdrnet.
    """

    net_input: int = 256
    spatial_bin: int = 16
    luma_bins: int = 8
    channel_multiplier: int = 1
    batch_norm: bool = False
    guide: str = "curves"
    guide_complexity: int = 16
    scales: int = 1
    global_path: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind:
                raise TypeError(f"Config: {field.name} must be of type {kind.__name__}, got {brief(value)}.")
            if type(value) is int and value < 1:
                raise ValueError(f"Config: {field.name} must be at least 1, got {brief(value)}.")
            if type(value) is int and value > _MOST:
                raise ValueError(f"Config: {field.name} must be at most {_MOST}, got {brief(value)}.")
        ratio, rest = divmod(self.net_input, self.spatial_bin)
        if rest or ratio < 2 or ratio & (ratio - 1):
            raise ValueError(
                f"Config: net_input must be spatial_bin times 2, 4, 8 …, got {self.net_input} and {self.spatial_bin}."
            )
        if self.guide not in GUIDES:
            raise ValueError(f"Config: guide must be one of {', '.join(GUIDES)}, got {self.guide!r}.")
        if self.scales not in SCALES:
            raise ValueError(f"Config: scales must be 1 or 3, got {self.scales}.")

    @property
    def splats(self) -> int:
        """Layers of stride 2 from the network's input to the size of the grid."""
        return (self.net_input // self.spatial_bin).bit_length() - 1

    @property
    def width(self) -> int:
        """Channels of the first layer."""
        return self.luma_bins * self.channel_multiplier

    @property
    def rows(self) -> int:
        """Rows of the grid's matrices: three for each scale, the coarsest first."""
        return 3 * self.scales

    @property
    def grid_shape(self) -> tuple[int, int, int, int, int]:
        """Of the grid that the network predicts, (Gh, Gw, Gd, 3·scales, 4)."""
        return (self.spatial_bin, self.spatial_bin, self.luma_bins, self.rows, 4)

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The configuration that :meth:`to_json` wrote; ``ValueError`` for any other text, or a field unknown here."""
        if not isinstance(text, str):
            raise TypeError(f"Config: text must be of type str, got {type(text).__name__}.")
        if len(text) > _MOST_TEXT:
            raise ValueError(f"Config: text must have at most {_MOST_TEXT} characters, got {len(text)}.")
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"Config: text must be JSON, got {text[:40]!r} ({error}).") from None
        if not isinstance(values, dict):
            raise ValueError(f"Config: text must be a JSON object, got {text[:40]!r}.")
        if unknown := sorted(values.keys() - {field.name for field in fields(cls)}):
            raise ValueError(f"Config: unknown field {unknown[0][:40]!r}; a newer bilateral_ops may know it.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None


def parse_json(text: str) -> Any:
    """JSON of a file that anyone may have made: ``ValueError`` for all that a parser may refuse, or would let pass.

    As keys that come twice, NaN, nesting as deep as Python's stack, and integers that take minutes to read.
    """

    def known(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a key comes twice")
        return values

    def integer(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"an integer has {len(digits)} digits")
        return int(digits)

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=known, parse_int=integer, parse_constant=constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@dataclass(frozen=True)
class Layer:
    """A layer of the network: where its weights are, and what it does with its input.

    ``name`` is its module's in :class:`HDRNet`, ``size`` the side of its kernel, or 0 for a fully connected layer.
    """

    name: str
    inputs: int
    outputs: int
    size: int = 3
    stride: int = 1
    norm: bool = False
    bias: bool = True
    relu: bool = True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its weights."""
        kernel = (self.size, self.size) if self.size else ()
        shapes: dict[str, tuple[int, ...]] = {f"{self.name}.weight": (self.outputs, self.inputs, *kernel)}
        if self.norm:
            shapes |= {f"{self.name}.norm.{key}": (self.outputs,) for key in ("bias", "running_mean", "running_var")}
        elif self.bias:
            shapes[f"{self.name}.bias"] = (self.outputs,)
        return shapes


@dataclass(frozen=True)
class Layers:
    """The layers of the coefficients' network, by path."""

    splat: tuple[Layer, ...]
    global_convolutions: tuple[Layer, ...]
    global_connected: tuple[Layer, ...]
    local: tuple[Layer, ...]
    prediction: Layer

    def __iter__(self) -> Any:
        yield from (*self.splat, *self.global_convolutions, *self.global_connected, *self.local, self.prediction)


def layers(config: Config) -> Layers:
    """The layers of a configuration's network.

    splat    n × 3×3, stride 2       S → spatial_bin, channels width·2ⁱ
    global   2 × 3×3, stride 2       → spatial_bin/4, 8·width channels
             3 × fully connected     → 32·width, 16·width, 8·width; linear at the end
    local    2 × 3×3                 8·width channels; linear at the end, and without a bias, which global's is
    fusion                           relu(local + global)
    prediction  1×1, linear          → luma_bins · rows · 4 channels
    """
    norm, width = config.batch_norm, config.width
    channels = [3, *(width << i for i in range(config.splats))]
    splat = tuple(
        Layer(f"coefficients.splat.{i}", channels[i], channels[i + 1], stride=2, norm=norm and i > 0)
        for i in range(config.splats)
    )
    features, fused = channels[-1], 8 * width
    convolutions: tuple[Layer, ...] = ()
    connected: tuple[Layer, ...] = ()
    if config.global_path:
        convolutions = tuple(
            Layer(f"coefficients.global_convolutions.{i}", inputs, fused, stride=2, norm=norm)
            for i, inputs in enumerate((features, fused))
        )
        side = -(-config.spatial_bin // 4)
        sizes = (side * side * fused, 32 * width, 16 * width, fused)
        connected = tuple(
            Layer(f"coefficients.global_connected.{i}", sizes[i], sizes[i + 1], size=0, norm=norm and i < 2, relu=i < 2)
            for i in range(3)
        )
    local = (
        Layer("coefficients.local.0", features, fused, norm=norm),
        Layer("coefficients.local.1", fused, fused, bias=not config.global_path, relu=False),
    )
    outputs = config.luma_bins * config.rows * 4
    return Layers(
        splat, convolutions, connected, local, Layer("coefficients.prediction", fused, outputs, 1, relu=False)
    )


def through(plan: Layers, low: Any, convolve: Any, connect: Any, fuse: Any) -> Any:
    """A network's prediction for its input (S, S, 3), of arrays of any framework: how the layers follow one another.

    ``convolve(layer, features)`` and ``connect(layer, vector)`` are what a layer makes of its input, ``fuse(local,
    summary)`` is relu(local + summary), or relu(local) where there is no global path.
    """

    def along(path: tuple[Layer, ...], step: Any, values: Any) -> Any:
        for layer in path:
            values = step(layer, values)
        return values

    features = along(plan.splat, convolve, low)
    fused = along(plan.local, convolve, features)
    summary = None
    if plan.global_connected:
        # Flattened by rows, columns, channels, as the weights are ordered.
        summary = along(plan.global_connected, connect, along(plan.global_convolutions, convolve, features).reshape(-1))
    return convolve(plan.prediction, fuse(fused, summary))


def same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: zeros before and after an axis, the odd one after, for ⌈length/stride⌉ results."""
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a model: those of its ``state_dict``."""
    result: dict[str, tuple[int, ...]] = {}
    for layer in layers(config):
        result |= layer.shapes()
    complexity = config.guide_complexity
    guide: dict[str, tuple[int, ...]] = {}
    if config.guide == "curves":
        guide = {"ccm": (3, 3), "ccm_bias": (3,), "shifts": (3, complexity), "slopes": (3, complexity)}
        guide |= {"mix": (3,), "mix_bias": ()}
    elif config.guide == "nn":
        guide = {"w1": (complexity, 3), "b1": (complexity,), "w2": (complexity,), "b2": ()}
        guide |= {"running_mean": (complexity,), "running_var": (complexity,)}
    for scale in range(config.scales):
        result |= {f"guides.{scale}.{name}": shape for name, shape in guide.items()}
    return result
