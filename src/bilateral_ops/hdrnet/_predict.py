"""Prediction with NumPy and the package's kernels alone."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .. import resize_area
from .._core.checks import FLOATS, INTEGERS, brief, real
from ..frameworks._numpy import dtype_of
from ..ops._enhance import enhance
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_luma import LumaGuide
from ..ops._guide_nn import NNGuide
from ._config import NORM_EPSILON, Config, Layer, layers, same_padding
from ._weights import check_weights, read_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core.types import Array, Scalar

__all__ = ["Predictor"]

#: How far a pixel sees through the pyramid: 2s + s·s' + 1 pixels under levels s and then s' times as small, which is at
#: most 2⅔ and 3, but for images of fewer pixels than this.
_MARGIN = 16
#: The model in the package.
SHIPPED = Path(__file__).with_name("model.safetensors")
#: Averages of floats beyond this are hardly of an image in [0, 1], highlights included.
_BRIGHT = 2


class Predictor:
    """Enhances images as a trained network says, in NumPy and compiled kernels.

        low = predictor.low_resolution(image)       # what the network sees
        grid = predictor.grid(low)                  # a colour transform for every cell of position and brightness
        out = predictor.render(grid, image)         # these sliced and applied at full resolution

    and ``predictor(image)`` is all three. A predictor may be called from several threads at once, and be pickled.

    Parameters
    ----------
    config : Config
    weights : mapping
        Name → array, the ``state_dict`` of a :class:`HDRNet`; what :func:`read_model` returns.

    Raises
    ------
    ValueError
        Weights that are not those of the configuration.

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """

    def __init__(self, config: Config, weights: Mapping[str, Array[object]]) -> None:
        check_weights("Predictor", config, weights)
        self.config = config
        self._network = _Network(config, weights)
        self._guides = tuple(_guide(config, weights, scale) for scale in range(config.scales))
        self._unchanged = np.zeros(config.grid_shape[3:], np.float32)
        self._unchanged[-3:, :3] = np.eye(3)
        self._colours: Any = None  # the affine maps (3, 4) to RGB and from it

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None) -> Predictor:
        """The predictor of a model file; without one, of the model in the package. Errors: :func:`read_model`."""
        config, weights, _ = read_model(SHIPPED if model is None else model)
        return cls(config, weights)

    def _for_colours(self, to_rgb: Any, from_rgb: Any) -> Predictor:
        """The same model for images of other colours, such as a video's planes, rendered in colours of a third kind.

            rgb = to_rgb·(image, 1),   rendered = from_rgb·(the model's rgb, 1)

        Both are (3, 4), of values in [0, 1] (integers by their largest). Nothing is converted: the one goes into the
        guides and the grid, the other into the grid.
        """
        seen = copy.copy(self)
        seen._colours = np.asarray(to_rgb, np.float64), np.asarray(from_rgb, np.float64)
        seen._guides = tuple(
            {dtype: _through(guide, seen._colours[0], dtype) for dtype, guide in guides.items()}
            for guides in self._guides
        )
        return seen

    def __call__(
        self, image: NDArray[Scalar], *, strength: float = 1.0, out: NDArray[Scalar] | None = None
    ) -> NDArray[Scalar]:
        """Enhance an image.

        Parameters
        ----------
        image : array (H, W, 3), uint8 | uint16 | float16 | bfloat16 | float32 | float64
            Floats in [0, 1]; a warning says where they are clearly not. May be empty.
        strength : float
            0 gives the image, 1 the network's result; others lie on the line through both.
        out : array, optional
            Filled and returned; may be the image itself.

        Returns
        -------
        array (H, W, 3), the image's dtype
            Integers are rounded to nearest even and saturated; floats are not clipped. Pixels with a NaN or an infinity
            come out as they are, and are nothing to the others.
        """
        image = _checked(image)
        grid = self.grid(self._averages(image)) if image.size else np.zeros(self.config.grid_shape, np.float32)
        return self.render(grid, image, strength=strength, out=out)

    @property
    def margin(self) -> int:
        """Pixels around a window that are needed to render it as it is in the whole image: 0, or with 3 scales 16.

        With as many pixels around it (fewer only at the image's own edges), a window equals the whole bit for bit.
        """
        return 0 if self.config.scales == 1 else _MARGIN

    def low_resolution(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """The network's input for an image (H, W, 3): exact averages, float32 (S, S, 3) in [0, 1].

        An image without pixels is a ``ValueError``.
        """
        image = _checked(image)
        if not image.size:
            raise ValueError(f"Predictor.low_resolution: image must have pixels to average, got shape {image.shape}.")
        return self._averages(image)

    def _averages(self, image: Any) -> Any:
        size = (self.config.net_input,) * 2
        low = resize_area(image, size, dtype=np.float32)
        if not np.isfinite(low).all():
            known = np.isfinite(image).all(-1, keepdims=True)
            share = resize_area(known.astype(np.float32), size)
            low = resize_area(np.where(known, image, 0).astype(np.float32), size)
            np.divide(low, share, out=low, where=share > 0)
        if self._colours is not None:
            to_rgb = self._colours[0]
            low = (low @ to_rgb[:, :3].T + to_rgb[:, 3]).astype(np.float32)
        if dtype_of(image) in FLOATS and (low > _BRIGHT).any():
            warnings.warn(
                f"Predictor: image must have floats in [0, 1], got averages up to {np.nanmax(low):.4g}; divide by the "
                "number that stands for white, or pass integers.",
                stacklevel=3,  # who called the method that calls this one
            )
        return low

    def grid(self, low: NDArray[np.float32]) -> NDArray[np.float32]:
        """The grid that the network predicts: float32 (S, S, 3) → float32 (Gh, Gw, Gd, 3·scales, 4)."""
        shape = (self.config.net_input, self.config.net_input, 3)
        if np.shape(low) != shape:
            raise ValueError(f"Predictor.grid: low must have shape {shape}, got {np.shape(low)}.")
        return self._network(low)

    def render(
        self,
        grid: NDArray[np.float32],
        image: NDArray[Scalar],
        *,
        strength: float = 1.0,
        window: tuple[int, int, int, int] | None = None,
        out: NDArray[Scalar] | None = None,
    ) -> NDArray[Scalar]:
        """The full-resolution stream: an image under a grid.

        Parameters
        ----------
        grid : array (Gh, Gw, Gd, 3·scales, 4), float32
        image : array (H, W, 3), as of a call
        strength : float
        window : (top, left, full_height, full_width), optional
            The image is this window of a larger one, for which the grid is.
        out : array, optional

        Returns
        -------
        array (H, W, 3), the image's dtype
        """
        image = _checked(image)
        if np.shape(grid) != self.config.grid_shape:
            raise ValueError(f"Predictor.render: grid must have shape {self.config.grid_shape}, got {np.shape(grid)}.")
        number = real(strength)
        if number is None:
            raise TypeError(f"Predictor.render: strength must be a number, got {type(strength).__name__}.")
        if not math.isfinite(number):
            raise ValueError(f"Predictor.render: strength must be a finite number, got {brief(strength, str)}.")
        # At 0 and 1 exactly the one or the other.
        mixed: Any = np.float32(strength) * grid + np.float32(1 - strength) * self._unchanged
        if self._colours is not None:
            mixed = _with_colours(mixed, *self._colours).astype(np.float32)
        unknown = kept = None
        if dtype_of(image) in FLOATS and not _is_finite(image):
            unknown = ~np.isfinite(image).all(-1)
            kept = image[unknown]
            image = np.where(unknown[..., None], image.dtype.type(0), image)  # a pyramid would spread them
        if self.config.scales == 1 or not image.size:
            dtype = np.float64 if image.dtype == np.float64 else np.float32
            matrices = mixed[..., -3:, :].astype(dtype, copy=False)
            result = enhance(matrices, self._guides[0][dtype], image, window=window, out=out)
        else:
            result = self._render_scales(mixed, image, window, out)
        if kept is not None:
            result[unknown] = kept
        return result

    def _render_scales(self, grid: Any, image: Any, window: Any, out: Any) -> Any:
        if out is not None and (out.shape, out.dtype) != (image.shape, image.dtype):
            raise ValueError(
                f"Predictor.render: out must be as the image, {image.dtype} {image.shape}, got {out.dtype} {out.shape}."
            )
        dtype = np.float64 if image.dtype == np.float64 else np.float32
        level = _floats(image, dtype)
        places: list[_Place] = []
        rendered: list[Any] = []
        for guide in self._guides:
            if places:
                rows, columns = (span.half() for span in places[-1])
                level = _resize(level, places[-1], (rows, columns))
                window = rows.start, columns.start, rows.full, columns.full
            matrices, grid = grid[..., -3:, :], grid[..., :-3, :]
            rendered.append(enhance(matrices.astype(dtype, copy=False), guide[dtype], level, window=window))
            places.append(_place(level, window))
        result = rendered.pop()
        while rendered:
            coarse = places.pop()
            result = np.add(rendered[-1], _resize(result, coarse, places[-1]), out=rendered.pop())
        if dtype_of(image) in INTEGERS:
            most = np.iinfo(image.dtype).max
            result *= most
            np.clip(np.rint(result, out=result), 0, most, out=result)
        if out is None:
            return result.astype(image.dtype, copy=False)
        np.copyto(out, result, casting="unsafe")
        return out


# Matrix products are cut so small that BLAS gives each to one thread: they are too short to be shared, least of all
# with the kernels' threads and others that decode images; and results don't depend on how many threads BLAS has.
_PRODUCTS = 1 << 18  # multiply-adds of matrices
_VECTOR_PRODUCTS = 1 << 13  # of a vector and a matrix


class _Network:
    """The coefficients' network: its convolutions are products of patches and matrices."""

    def __init__(self, config: Config, weights: Mapping[str, Any]) -> None:
        self.config = config
        self.plan = layers(config)
        self.matrices = {layer.name: _matrix(layer, weights) for layer in self.plan}
        # Channels of the prediction in the grid's order, depth, row, column, so that they lie as the grid does.
        order = np.arange(self.plan.prediction.outputs).reshape(4, config.rows, config.luma_bins).transpose(2, 1, 0)
        name = self.plan.prediction.name
        self.matrices[name] = np.ascontiguousarray(self.matrices[name][:, order.ravel()])
        self.spare: list[dict[str, _Buffer]] = []  # one for each thread that has been here at the same time

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "spare": []}

    def __call__(self, low: Any) -> Any:
        try:
            buffers = self.spare.pop()
        except IndexError:
            buffers = self.buffers()

        def convolved(features: Any, path: Sequence[Layer]) -> Any:
            for layer in path:
                features = buffers[layer.name].convolve(features, self.matrices[layer.name])
            return features

        features = convolved(low, self.plan.splat)
        fused = convolved(features, self.plan.local)
        if self.config.global_path:
            fused += self.connected(convolved(features, self.plan.global_convolutions).ravel())
        np.maximum(fused, 0, out=fused)
        grid = convolved(fused, [self.plan.prediction]).reshape(self.config.grid_shape).copy()
        self.spare.append(buffers)
        return grid

    def connected(self, vector: Any) -> Any:
        for layer in self.plan.global_connected:
            matrix = self.matrices[layer.name]
            rows = _share(layer.inputs, layer.outputs, _VECTOR_PRODUCTS)
            parts = vector.reshape(-1, 1, rows) @ matrix[:-1].reshape(-1, rows, layer.outputs)
            vector = parts.sum((0, 1))
            vector += matrix[-1]
            if layer.relu:
                np.maximum(vector, 0, out=vector)
        return vector

    def buffers(self) -> dict[str, _Buffer]:
        buffers = {}
        for start, path in (
            (self.config.net_input, self.plan.splat),
            (self.config.spatial_bin, self.plan.local),
            (self.config.spatial_bin, self.plan.global_convolutions),
            (self.config.spatial_bin, (self.plan.prediction,)),
        ):
            side = start
            for layer in path:
                buffers[layer.name] = _Buffer(layer, side)
                side = -(-side // layer.stride)
        return buffers


class _Buffer:
    """A convolution's input with zeros around, the patches that its kernel sees as rows, and its result."""

    def __init__(self, layer: Layer, side: int) -> None:
        sides = -(-side // layer.stride)
        before, after = same_padding(side, layer.size, layer.stride)
        padded = np.zeros((before + side + after, before + side + after, layer.inputs), np.float32)
        self.inside = padded[before : before + side, before : before + side]
        windows = sliding_window_view(padded, (layer.size, layer.size), (0, 1))[:: layer.stride, :: layer.stride]
        self.windows = windows.transpose(0, 1, 3, 4, 2)  # row, column, those of the kernel, channel
        inner = layer.size**2 * layer.inputs + 1
        patches = np.ones((sides, sides, inner), np.float32)  # the last number is the bias's
        self.patches = patches[..., :-1].reshape(self.windows.shape)
        self.result = np.empty((sides, sides, layer.outputs), np.float32)
        at_once = _share(sides * sides, inner * layer.outputs, _PRODUCTS)
        self.factors, self.products = (a.reshape(-1, at_once, a.shape[-1]) for a in (patches, self.result))
        self.relu = layer.relu

    def convolve(self, image: Any, matrix: Any) -> Any:
        """(H, W, C) → (H', W', C'), which is overwritten by the next run."""
        np.copyto(self.inside, image)
        np.copyto(self.patches, self.windows)
        np.matmul(self.factors, matrix, out=self.products)
        return np.maximum(self.result, 0, out=self.result) if self.relu else self.result


@functools.cache
def _share(count: int, each: int, most: int) -> int:
    """How many of ``count`` rows go into a product, each of ``each`` multiply-adds: a divisor; all, if not even two."""
    return max((n for n in range(2, count + 1) if count % n == 0 and n * each <= most), default=count)


def _matrix(layer: Layer, weights: Mapping[str, Any]) -> Any:
    """A layer's weights, the normalisation in them: rows are kernel row, column, channel, and at the end the bias."""
    weight = np.asarray(weights[f"{layer.name}.weight"], np.float64)
    matrix = (weight.transpose(2, 3, 1, 0) if layer.size else weight.T).reshape(-1, layer.outputs)
    bias = np.zeros(layer.outputs)
    if layer.norm:
        norm = {key: np.float64(weights[f"{layer.name}.norm.{key}"]) for key in ("bias", "running_mean", "running_var")}
        factor = 1 / np.sqrt(norm["running_var"] + NORM_EPSILON)
        matrix, bias = matrix * factor, norm["bias"] - norm["running_mean"] * factor
    elif layer.bias:
        bias = np.asarray(weights[f"{layer.name}.bias"], np.float64)
    return np.concatenate([matrix, bias[None]]).astype(np.float32)


def _guide(config: Config, weights: Mapping[str, Any], scale: int) -> dict[Any, Any]:
    """A scale's guide in float32 and float64, the normalisation in its weights."""
    prefix = f"guides.{scale}."
    values = {k[len(prefix) :]: np.asarray(v, np.float64) for k, v in weights.items() if k.startswith(prefix)}
    if config.guide == "nn":
        factor = 1 / np.sqrt(values.pop("running_var") + NORM_EPSILON)
        values["b1"] = values["b1"] - values.pop("running_mean") * factor
        values["w1"] = values["w1"] * factor[:, None]
    record = {"curves": CurvesGuide, "nn": NNGuide, "luma": LumaGuide}[config.guide]
    return {dtype: record(**{k: v.astype(dtype) for k, v in values.items()}) for dtype in (np.float32, np.float64)}


def _through(guide: Any, to_rgb: Any, dtype: Any) -> Any:
    """A guide of images that are RGB once they are seen through this matrix."""
    matrix, offset = to_rgb[:, :3], to_rgb[:, 3]
    if isinstance(guide, LumaGuide):  # as curves, which may begin anywhere: c = (q + 8) − 8
        weights, low = np.array([0.299, 0.587, 0.114]), 8.0
        guide = CurvesGuide(
            *(np.eye(3), np.zeros(3), np.full((3, 1), -low), np.ones((3, 1)), weights, np.array(-low * weights.sum()))
        )
    if isinstance(guide, CurvesGuide):
        ccm = np.float64(guide.ccm)
        changed = {"ccm": ccm @ matrix, "ccm_bias": guide.ccm_bias + ccm @ offset}
    else:
        w1 = np.float64(guide.w1)
        changed = {"w1": w1 @ matrix, "b1": guide.b1 + w1 @ offset}
    values = {field.name: getattr(guide, field.name) for field in dataclasses.fields(guide)} | changed
    return type(guide)(**{name: np.asarray(value, dtype) for name, value in values.items()})


def _with_colours(grid: Any, to_rgb: Any, from_rgb: Any) -> Any:
    """A grid of affine maps of RGB, each between these two: x ↦ F·(A·(M·x + m) + b) + f."""
    matrix, offset = to_rgb[:, :3], to_rgb[:, 3:]
    affine = np.float64(grid).reshape(*grid.shape[:3], -1, 3, 4)  # scales, of which the last one is the image's own
    linear = affine[..., :3]
    made = from_rgb[:, :3] @ np.concatenate([linear @ matrix, linear @ offset + affine[..., 3:]], axis=-1)
    made[..., -1, :, 3] += from_rgb[:, 3]
    return made.reshape(grid.shape)


def _checked(image: Any) -> Any:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"Predictor: image must be a NumPy array, got {type(image).__name__}.")
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"Predictor: image must have shape (H, W, 3), got {image.shape}.")
    if (dtype := dtype_of(image)) not in (*INTEGERS, *FLOATS):
        raise TypeError(f"Predictor: image must be {', '.join(INTEGERS + FLOATS[:-1])} or {FLOATS[-1]}, got {dtype}.")
    return image


def _is_finite(image: Any) -> bool:
    """Whether all is finite; where a sum is not, which takes one pass, it may still be."""
    return not image.size or bool(np.isfinite(resize_area(image, (1, 1), dtype=np.float32)).all())


def _floats(image: Any, dtype: Any) -> Any:
    if dtype_of(image) in INTEGERS:
        return np.multiply(image, dtype(1 / int(np.iinfo(image.dtype).max)), dtype=dtype)
    return image.astype(dtype, copy=False)


# --- the pyramid: levels of half the size each, by bilinear interpolation with the corners' pixels on one another


@dataclass(frozen=True)
class _Span:
    """Pixels ``start`` … ``start + length`` of an axis of ``full`` pixels."""

    start: int
    length: int
    full: int

    def half(self) -> _Span:
        """Those pixels of an axis of half the size that are interpolated between pixels here; one at least."""
        full = max(self.full // 2, 1)
        below, above, _ = _neighbours(np.arange(full), full, self.full)
        known = np.flatnonzero((below >= self.start) & (above < self.start + self.length))
        if len(known):
            return _Span(int(known[0]), len(known), full)
        return _Span(min(self.start // 2, full - 1), 1, full)


def _neighbours(pixels: Any, full: int, source: int) -> tuple[Any, Any, Any]:
    """Between which two of ``source`` pixels those of an axis of ``full`` fall, and the second's share."""
    positions = pixels * ((source - 1) / max(full - 1, 1))
    below = np.minimum(positions.astype(np.int64), source - 1)
    return below, np.minimum(below + 1, source - 1), positions - below


#: Rows and columns of a level.
_Place: TypeAlias = tuple[_Span, _Span]


def _place(image: Any, window: Any) -> _Place:
    height, width = image.shape[:2]
    top, left, full_height, full_width = (0, 0, height, width) if window is None else window
    return _Span(top, height, full_height), _Span(left, width, full_width)


def _resize(image: Any, source: _Place, target: _Place) -> Any:
    for axis in (1, 0):
        have, want = source[axis], target[axis]
        below, above, share = _neighbours(np.arange(want.start, want.start + want.length), want.full, have.full)
        # Beyond a window's edge: the pixel at the edge.
        first, second = (image.take(np.clip(i - have.start, 0, have.length - 1), axis) for i in (below, above))
        second -= first
        second *= np.expand_dims(share.astype(image.dtype), (1, 2) if axis == 0 else (0, 2))
        image = np.add(first, second, out=first)
    return image
