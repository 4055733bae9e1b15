"""What a network is made of, and the shapes of its weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from .._core.checks import brief

#: What batch norm adds to a variance.
NORM_EPSILON = 1e-3
#: What fields may be.
CHOICES: dict[str, tuple[Any, ...]] = {
    "guide": ("curves", "nn", "luma", "custom"),
    "scales": (1, 3),
    "padding": ("same", "symmetric"),
    "reduce": ("area", "nearest"),
    "grid_axes": ("yxz", "xyz", "yzx", "zyx", "xzy", "zxy"),
    "xy": ("centers", "corners"),
    "padding_mode": ("border", "zeros"),
    "guide_range": ("0..1", "-1..1"),
}
#: Fields that may be two numbers, of rows and of columns.
PAIRS = ("net_input", "spatial_bin")
#: Of a configuration's numbers, so that what follows from them can be computed, as that it is too large.
_MOST = 1 << 16
#: After as many convolutions of stride 2 there is one pixel.
_MOST_HALVINGS = 16
#: Characters of a configuration's text, of which to_json writes a few hundred.
_MOST_TEXT = 10_000
#: Digits of an integer in JSON, so that none takes long to read.
_MOST_DIGITS = 20


@dataclass(frozen=True)
class Config:
    """The architecture: what a model file says beside its weights, and all that :class:`.HDRNet` is built from.

    Parameters
    ----------
    net_input : int or (int, int)
        Pixels to which the image is reduced for the network, a square's side or rows and columns; ``spatial_bin`` · 2ⁿ,
        n ≥ 1.
    spatial_bin : int or (int, int)
        Cells of the grid, a square's side or rows and columns.
    luma_bins : int
        Depth of the grid, in cells. With 1, slicing is bilinear interpolation of the matrices.
    channel_multiplier : int
        The layers' width: they have ``luma_bins · channel_multiplier`` · 1, 2, 4 … channels.
    batch_norm : bool
        Whether layers are normalised by batch, all but the first, the last of each path and the prediction.
    guide : "curves", "nn", "luma" or "custom"
        The guide: HDRnet's learned curves, its pointwise network (normalised by batch), luma, not learned, or a module
        of one's own, which :class:`.HDRNet` is given.
    guide_complexity : int
        Knots of the curves, or features of the pointwise network.
    scales : 1 or 3
        3: a grid for each of three scales of the image, whose results are added (the Gaussian-pyramid variant).
    global_path : bool
        Whether the whole image is summed up in a vector that every cell of the grid sees.
    global_convolutions : int
        Convolutions of stride 2 in the global path, before its fully connected layers.
    padding : "same" or "symmetric"
        Zeros around what a convolution of stride 2 sees: TensorFlow's SAME, which has the odd one behind, or one on
        each side, as PyTorch's ``padding=1``.
    guide_norm : bool
        Whether the pointwise network's features are normalised by batch.
    reduce : "area" or "nearest"
        How the image is reduced for the network: exact averages, or the nearest pixel, ⌊i·H/S⌋, as the original does.
    grid_axes : str
        Which of ``y``, ``x`` and ``z`` (the guide) the rows, columns and depth of the network's prediction follow.
    xy : "centers" or "corners"
    align_corners : bool
        The rules of pixels and of cells, as in :func:`bilateral_ops.slice`.
    padding_mode : "border" or "zeros"
        What is beyond the outer cells' centres: these cells again, or zeros, as in ``grid_sample``.
    guide_range : "0..1" or "-1..1"
        The guide's values that span the grid's depth. With ``-1..1`` the guides here, which are in [0, 1], reach its
        upper half alone.

    Raises
    ------
    ValueError
        A value out of its range.
    TypeError
        A value of another type.

    Notes
    -----
    The fields from ``global_convolutions`` on say what ports of the original to PyTorch do in other ways:
    :func:`from_pytorch`.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.1; names and defaults as in google/hdrnet.
    """

    net_input: int | tuple[int, int] = 256
    spatial_bin: int | tuple[int, int] = 16
    luma_bins: int = 8
    channel_multiplier: int = 1
    batch_norm: bool = False
    guide: str = "curves"
    guide_complexity: int = 16
    scales: int = 1
    global_path: bool = True
    global_convolutions: int = 2
    padding: str = "same"
    guide_norm: bool = True
    reduce: str = "area"
    grid_axes: str = "yxz"
    xy: str = "centers"
    align_corners: bool = False
    padding_mode: str = "border"
    guide_range: str = "0..1"

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            kind: Any = type(field.default)
            pair = field.name in PAIRS and isinstance(value, (tuple, list)) and len(value) == 2
            if pair:
                object.__setattr__(self, field.name, tuple(value))  # JSON has lists
            least, most = (0, _MOST_HALVINGS) if field.name == "global_convolutions" else (1, _MOST)
            for number in value if pair else (value,):
                if type(number) is not kind:
                    raise TypeError(f"Config: {field.name} must be of type {kind.__name__}, got {brief(value)}.")
                if kind is int and number < least:
                    raise ValueError(f"Config: {field.name} must be at least {least}, got {brief(value)}.")
                if kind is int and number > most:
                    raise ValueError(f"Config: {field.name} must be at most {most}, got {brief(value)}.")
        ratios = [divmod(pixels, cells) for pixels, cells in zip(self.input_shape, self.cells)]
        ratio = ratios[0][0]
        if ratios != [(ratio, 0)] * 2 or ratio < 2 or ratio & (ratio - 1):
            raise ValueError(
                f"Config: net_input must be spatial_bin times 2, 4, 8 …, got {self.net_input} and {self.spatial_bin}."
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                said = " or ".join(map(str, choices)) if len(choices) == 2 else f"one of {', '.join(map(str, choices))}"
                raise ValueError(f"Config: {name} must be {said}, got {brief(getattr(self, name))}.")

    @property
    def input_shape(self) -> tuple[int, int]:
        """Rows and columns of the network's input."""
        return self.net_input if isinstance(self.net_input, tuple) else (self.net_input, self.net_input)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the network's prediction."""
        return self.spatial_bin if isinstance(self.spatial_bin, tuple) else (self.spatial_bin, self.spatial_bin)

    @property
    def splats(self) -> int:
        """Layers of stride 2 from the network's input to the size of the grid."""
        return (self.input_shape[0] // self.cells[0]).bit_length() - 1

    @property
    def width(self) -> int:
        """Channels of the first layer."""
        return self.luma_bins * self.channel_multiplier

    @property
    def rows(self) -> int:
        """Rows of the grid's matrices: three for each scale, the coarsest first."""
        return 3 * self.scales

    @property
    def predicted_shape(self) -> tuple[int, int, int, int, int]:
        """Of what the last layer predicts, with its axes as ``grid_axes`` says."""
        return (*self.cells, self.luma_bins, self.rows, 4)

    @property
    def grid_shape(self) -> tuple[int, int, int, int, int]:
        """Of the network's grid, (Gh, Gw, Gd, 3·scales, 4), as it is sliced."""
        y, x, z = (
            size if blend is None else len(blend.below)
            for size, blend in zip((self.predicted_shape[axis] for axis in _order(self)), blends(self))
        )
        return (y, x, z, self.rows, 4)

    @property
    def sampling(self) -> dict[str, Any]:
        """The arguments ``xy`` and ``align_corners`` with which the grid is sliced."""
        return {"xy": self.xy, "align_corners": self.align_corners or any(blends(self))}

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

    ``name`` is its module's in :class:`.HDRNet`, ``size`` the side of its kernel, or 0 for a fully connected layer.
    """

    name: str
    inputs: int
    outputs: int
    size: int = 3
    stride: int = 1
    norm: bool = False
    bias: bool = True
    relu: bool = True
    padding: str = "same"

    def pads(self, length: int) -> tuple[int, int]:
        """Zeros before and after an axis of the input, for ⌈length/stride⌉ results."""
        if self.padding == "symmetric":
            return self.size // 2, self.size // 2
        return same_padding(length, self.size, self.stride)

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

    splat    n × 3×3, stride 2       net_input → spatial_bin, channels width·2ⁱ
    global   2 × 3×3, stride 2       → spatial_bin/4, 8·width channels (2: global_convolutions)
             3 × fully connected     → 32·width, 16·width, 8·width; linear at the end
    local    2 × 3×3                 8·width channels; linear at the end, and without a bias, which global's is
    fusion                           relu(local + global)
    prediction  1×1, linear          → luma_bins · rows · 4 channels
    """
    norm, width = config.batch_norm, config.width
    channels = [3, *(width << i for i in range(config.splats))]
    halving: dict[str, Any] = {"stride": 2, "padding": config.padding}
    splat = tuple(
        Layer(f"coefficients.splat.{i}", channels[i], channels[i + 1], norm=norm and i > 0, **halving)
        for i in range(config.splats)
    )
    features, fused = channels[-1], 8 * width
    convolutions: tuple[Layer, ...] = ()
    connected: tuple[Layer, ...] = ()
    if config.global_path:
        count = config.global_convolutions
        inputs = (features, *[fused] * count)
        convolutions = tuple(
            Layer(f"coefficients.global_convolutions.{i}", inputs[i], fused, norm=norm, **halving) for i in range(count)
        )
        rows, columns = (-(-cells // (1 << count)) for cells in config.cells)
        sizes = (rows * columns * inputs[count], 32 * width, 16 * width, fused)
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


class Blend(NamedTuple):
    """New cells of an axis, each the sum of two of the cells that are there, times weights (n, 1, …).

    Arrays of NumPy, or what has become of them in another framework.
    """

    below: Any
    below_weights: Any
    above: Any
    above_weights: Any


@functools.lru_cache(maxsize=32)
def blends(config: Config) -> tuple[Blend | None, Blend | None, Blend | None]:
    """What becomes of the axes y, x and z of a prediction, so that slicing it by the package's rules is the ports'.

    Cells every half step, where the outer ones are at the ends of what is sliced: interpolated with
    ``align_corners=True`` they give what the cells themselves do, with zeros or the outer cells again beyond these, or
    with positions that begin in the middle of the axis.
    """
    half = config.guide_range == "-1..1"
    all_axes = not config.align_corners and (half or config.padding_mode == "zeros")
    found: list[Blend | None] = []
    for axis, place in enumerate(_order(config)):
        cells = config.predicted_shape[place]
        upper = half and axis == 2
        if not all_axes and not upper:
            found.append(None)
            continue
        last = cells - 1 if config.align_corners else cells - 0.5
        first = (cells - 1) / 2 if upper else -0.5
        positions = np.arange(first, last + 0.25, 0.5)
        if config.padding_mode == "border":
            positions = positions.clip(0, cells - 1)
        below = np.floor(positions).astype(np.int64)
        parts: list[Any] = []
        for i, share in ((below, below + 1 - positions), (below + 1, positions - below)):
            weights = np.where((i >= 0) & (i < cells), share, 0).astype(np.float32)
            parts += [i.clip(0, cells - 1), weights.reshape(-1, *[1] * (4 - axis))]
        found.append(Blend(*parts))
    return found[0], found[1], found[2]


def _order(config: Config) -> tuple[int, ...]:
    """Where y, x and z are among a prediction's axes."""
    return tuple(config.grid_axes.index(axis) for axis in "yxz")


def arranged(config: Config, found: Sequence[Blend | None], grid: Any, transpose: Any, take: Any) -> Any:
    """The network's grid (…, Gh, Gw, Gd, rows, 4) of its prediction, of arrays of any framework.

    ``found`` are the configuration's :func:`blends` there, ``transpose(grid, axes)`` and ``take(grid, cells, axis)``
    what the framework does.
    """
    lead = len(grid.shape) - 5
    if config.grid_axes != "yxz":
        grid = transpose(grid, [*range(lead), *(lead + axis for axis in (*_order(config), 3, 4))])
    for axis, blend in enumerate(found, lead):
        if blend is not None:
            below, above = take(grid, blend.below, axis), take(grid, blend.above, axis)
            grid = below * blend.below_weights + above * blend.above_weights
    return grid


def through(plan: Layers, low: Any, convolve: Any, connect: Any, fuse: Any) -> Any:
    """A network's prediction for its input (H, W, 3), of arrays of any framework: how the layers follow one another.

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


def nearest(wanted: Any, length: int) -> Any:
    """The pixel that stands for each of ``wanted``, 0 … n − 1: ⌊i·length/n⌋, as TensorFlow's and PyTorch's."""
    return wanted * length // len(wanted)


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
        if config.guide_norm:
            guide |= {"running_mean": (complexity,), "running_var": (complexity,)}
    for scale in range(config.scales):
        result |= {f"guides.{scale}.{name}": shape for name, shape in guide.items()}
    return result
