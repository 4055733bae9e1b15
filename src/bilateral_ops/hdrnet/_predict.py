"""Prediction with the package's kernels: in NumPy alone, or in the framework of the image."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .. import resize_area
from .._core.checks import FLOATS, INTEGERS, brief, real, shape_text, type_text
from ..ops._enhance import enhance
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_luma import LUMA, LumaGuide
from ..ops._guide_nn import NNGuide
from ._arrays import Arrays, beside
from ._config import NORM_EPSILON, Blend, Config, Layer, arranged, blends, layers, nearest, through
from ._weights import check_weights, read_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._core.types import Array, Framework, Image, Like

__all__ = ["Predictor"]

#: How far a pixel sees through the pyramid: 2s + s·s' + 1 pixels under levels s and then s' times as small, which is at
#: most 2⅔ and 3, but for images of fewer pixels than this.
_MARGIN = 16
#: The model in the package.
SHIPPED = Path(__file__).with_name("model.safetensors")
#: Averages of floats beyond this are hardly of an image in [0, 1], highlights included.
_BRIGHT = 2


class Predictor:
    """Enhances images as a trained network says, by compiled kernels, in the framework of the image and where it is.

        low = predictor.low_resolution(image)       # what the network sees
        grid = predictor.grid(low)                  # a colour transform for every cell of position and brightness
        out = predictor.render(grid, image)         # these sliced and applied at full resolution

    and ``predictor(image)`` is all three. Images are arrays of NumPy, PyTorch, CuPy or JAX, on the CPU or on a CUDA
    device; with NumPy's nothing but NumPy is needed. A predictor may be called from several threads at once, and be
    pickled.

    Parameters
    ----------
    config : Config
    weights : mapping
        Name → array, the ``state_dict`` of a :class:`.HDRNet`; what :func:`read_model` returns.

    Raises
    ------
    ValueError
        Weights that are not those of the configuration, or a configuration with ``guide="custom"``.

    Notes
    -----
    This is inference. PyTorch records no gradients, whether or not the image requires one, and autocast changes
    nothing: :class:`.HDRNet` has gradients. ``jax.jit(predictor)`` compiles all of it, with the weights as constants.

    Of one image the frameworks' grids differ by the rounding of float32: sums are made in another order. Weights are
    sent to a device once, and stay there as long as the predictor. Later calls wait for no device, but those of a model
    of three scales, which send it where the levels' pixels lie. So whether floats there, and JAX's, are all finite is
    not looked at, and all of them take the passes that NaN and infinity ask for.

    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """

    def __init__(self, config: Config, weights: Mapping[str, Array[object]]) -> None:
        if config.guide == "custom":
            raise ValueError(
                "Predictor: config must have a guide that is known here, got 'custom'; HDRNet.load(file, guide=…) is "
                "the model with a guide of one's own."
            )
        check_weights("Predictor", config, weights)
        self.config = config
        network = _Network(config, weights)
        guides = tuple(_guide(config, weights, scale) for scale in range(config.scales))
        unchanged = np.zeros(config.grid_shape[3:], np.float32)
        unchanged[-3:, :3] = np.eye(3)
        self._model = _Model(network, guides, unchanged, None)
        self._sent: dict[Any, _Model] = {}  # framework and place → the same there

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sent": {}}

    @classmethod
    def load(cls, model: str | os.PathLike[str] | None = None) -> Predictor:
        """The predictor of a model file; without one, of the model in the package. Errors: :func:`read_model`."""
        config, weights, _ = read_model(SHIPPED if model is None else model)
        return cls(config, weights)

    def _for_colours(self, to_rgb: Any, from_rgb: Any) -> Predictor:
        """The same model for images of other colours, such as a video's planes, rendered in colours of a third kind.

            rgb = to_rgb·(image, 1),   rendered = from_rgb·(the model's rgb, 1)

        Both are (3, 4), of values in [0, 1] (integers by their largest). Nothing is converted: the one goes into the
        guides and the grid, the other into the grid. Not for JAX's arrays, which may have no float64.
        """
        seen = copy.copy(self)
        colours = np.asarray(to_rgb, np.float64), np.asarray(from_rgb, np.float64)
        guides = tuple(
            {dtype: _through(guide, colours[0], dtype) for dtype, guide in guides.items()}
            for guides in self._model.guides
        )
        seen._model, seen._sent = self._model._replace(guides=guides, colours=colours), {}
        return seen

    def _at(self, on: Arrays) -> _Model:
        """The model in a framework, where it computes."""
        if type(on) is Arrays:
            return self._model
        key = type(on), on.place
        model = self._sent.get(key)
        if model is None:
            model = self._model.sent(on)
            if on.place is not None:
                self._sent[key] = model
        return model

    def __call__(
        self, image: Like[Framework, Image], *, strength: float = 1.0, out: Array[Framework] | None = None
    ) -> Image:
        """Enhance an image, or each of several.

        Parameters
        ----------
        image : array (H, W, 3) or (N, H, W, 3), uint8 | uint16 | float16 | bfloat16 | float32 | float64
            Floats in [0, 1]; a warning says where those in the host's memory are clearly not. May be empty.
        strength : float
            0 gives the image, 1 the network's result; others lie on the line through both.
        out : array, optional
            Filled and returned; may be the image itself. Not in JAX.

        Returns
        -------
        array, the image's shape, framework, device and dtype
            Integers are rounded to nearest even and saturated; floats are not clipped. Pixels with a NaN or an infinity
            come out as they are, and are nothing to the others.
        """
        on = _checked(image)
        with on.scope():
            if _size(image):
                grid = self._predicted(on, self._averages(on, image))
            else:
                grid = on.send(np.zeros((*_shape(image)[:-3], *self.config.grid_shape), np.float32))
        return self.render(grid, image, strength=strength, out=out)

    @property
    def margin(self) -> int:
        """Pixels around a window that are needed to render it as it is in the whole image: 0, or with 3 scales 16.

        With as many pixels around it (fewer only at the image's own edges), a window equals the whole bit for bit.
        """
        return 0 if self.config.scales == 1 else _MARGIN

    @overload
    def low_resolution(self, image: NDArray[Any]) -> NDArray[np.float32]: ...
    @overload
    def low_resolution(self, image: Like[Framework, Image]) -> Image: ...
    def low_resolution(self, image: Any) -> Any:
        """The network's input for an image ([N,] H, W, 3): exact averages, or nearest pixels, float32
        ([N,] *input_shape, 3) in [0, 1].

        An image without pixels is a ``ValueError``.
        """
        on = _checked(image)
        if not _size(image):
            shape = tuple(image.shape)
            raise ValueError(f"Predictor.low_resolution: image must have pixels to average, got shape {shape}.")
        with on.scope():
            return self._averages(on, image)

    def _averages(self, on: Arrays, image: Any) -> Any:
        size = self.config.input_shape
        floats = on.dtype_of(image) in FLOATS
        if self.config.reduce == "nearest":
            for axis, wanted in zip((-3, -2), size):
                pixels = on.send(nearest(np.arange(wanted), image.shape[axis]))
                image = on.take(image, pixels, len(image.shape) + axis)
        low: Any = None
        if on.seen or not floats:
            low = resize_area(image, size, dtype="float32")
        if floats and not (on.seen and bool(on.xp.isfinite(low).all())):
            known = on.finite(image)
            share = resize_area(on.cast(known, "float32"), size)
            low = resize_area(on.cast(on.cleared(image, known), "float32"), size)
            low = low / on.xp.where(share > 0, share, on.xp.ones_like(share))
        if (colours := self._at(on).colours) is not None:
            to_rgb = colours[0]
            seen = on.matmul(on.cast(low, "float64"), to_rgb[:, :3].T) + to_rgb[:, 3]
            low = on.cast(seen, "float32")
        if on.seen and floats and (low > _BRIGHT).any():
            most = np.nanmax(np.asarray(low))
            warnings.warn(
                f"Predictor: image must have floats in [0, 1], got averages up to {most:.4g}; divide by the "
                "number that stands for white, or pass integers.",
                stacklevel=3,  # who called the method that calls this one
            )
        return low

    def grid(self, low: Like[Framework, Image]) -> Image:
        """The network's grid: float32 ([N,] *input_shape, 3) → float32 ([N,] Gh, Gw, Gd, 3·scales, 4)."""
        on = beside("Predictor.grid", "low", low)
        shape: tuple[int, ...] = (*self.config.input_shape, 3)
        if _shape(low)[-3:] != shape or len(_shape(low)) > 4:
            both = f"{shape} or {shape_text(('N', *shape))}"
            raise ValueError(f"Predictor.grid: low must have shape {both}, got {_shape(low)}.")
        with on.scope():
            found: Any = self._predicted(on, low)
        return found

    def _predicted(self, on: Arrays, low: Any) -> Any:
        network = self._at(on).network
        if len(low.shape) == 3:
            return network(low)
        if not len(low):
            return on.send(np.zeros((0, *self.config.grid_shape), np.float32))
        return on.xp.stack([network(low[n]) for n in range(len(low))])

    def render(
        self,
        grid: Array[Framework],
        image: Like[Framework, Image],
        *,
        strength: float = 1.0,
        window: tuple[int, int, int, int] | None = None,
        out: Array[Framework] | None = None,
    ) -> Image:
        """The full-resolution stream: an image under a grid.

        Parameters
        ----------
        grid : array ([N,] Gh, Gw, Gd, 3·scales, 4), float32
        image : array ([N,] H, W, 3), as of a call
        strength : float
        window : (top, left, full_height, full_width), optional
            The image is this window of a larger one, for which the grid is.
        out : array, optional

        Returns
        -------
        array, the image's shape, framework, device and dtype
        """
        on = _checked(image)
        _check_framework(on, "grid", grid)
        shape = (*_shape(image)[:-3], *self.config.grid_shape)
        if _shape(grid) != shape:
            raise ValueError(f"Predictor.render: grid must have shape {shape}, got {_shape(grid)}.")
        number = real(strength)
        if number is None:
            raise TypeError(f"Predictor.render: strength must be a number, got {type(strength).__name__}.")
        if not math.isfinite(number):
            raise ValueError(f"Predictor.render: strength must be a finite number, got {brief(strength, str)}.")
        _check_out(on, image, out)
        with on.scope():
            made: Any = self._rendered(on, grid, image, number, window, out)
        return made

    def _rendered(self, on: Arrays, grid: Any, image: Any, strength: float, window: Any, out: Any) -> Any:
        model = self._at(on)
        # At 0 and 1 exactly the one or the other.
        mixed = grid * float(np.float32(strength)) + model.unchanged * float(np.float32(1 - strength))
        if model.colours is not None:
            mixed = on.cast(_with_colours(on, mixed, *model.colours), "float32")
        known, seen = None, image
        if on.dtype_of(image) in FLOATS and _size(image) and not (on.seen and _is_finite(on, image)):
            known = on.finite(image)
            seen = on.cleared(image, known)  # a pyramid would spread them
        into = out if known is None else None
        if self.config.scales == 1 or not _size(image):
            dtype = _computed(on, image)
            matrices = on.cast(mixed[..., -3:, :], dtype)
            result = enhance(matrices, model.guides[0][dtype], seen, window=window, out=into, **self.config.sampling)
        else:
            result = self._render_scales(on, mixed, seen, window)
        if known is not None:
            result = on.xp.where(known, result, image)
        if out is None or result is out:
            return result
        out[...] = result
        return out

    def _render_scales(self, on: Arrays, grid: Any, image: Any, window: Any) -> Any:
        dtype, given = _computed(on, image), on.dtype_of(image)
        level = _floats(on, image, dtype)
        places: list[_Place] = []
        rendered: list[Any] = []
        for guide in self._at(on).guides:
            if places:
                rows, columns = (span.half() for span in places[-1])
                level = _resize(on, level, places[-1], (rows, columns))
                window = rows.start, columns.start, rows.full, columns.full
            matrices, grid = grid[..., -3:, :], grid[..., :-3, :]
            matrices = on.cast(matrices, dtype)
            rendered.append(enhance(matrices, guide[dtype], level, window=window, **self.config.sampling))
            places.append(_place(level, window))
        result = rendered.pop()
        while rendered:
            coarse = places.pop()
            finer = rendered.pop()
            finer += _resize(on, result, coarse, places[-1])
            result = finer
        if given in INTEGERS:
            most = np.iinfo(given).max
            result *= most
            result = on.rounded(result, most)
        return on.cast(result, given)


class _Model(NamedTuple):
    """What a predictor computes with, of one framework and in one place."""

    network: Any  # low → grid
    guides: tuple[dict[str, Any], ...]  # of each scale, by dtype
    unchanged: Any  # the matrices that change nothing
    colours: Any  # the affine maps (3, 4) to RGB and from it; or None

    def sent(self, on: Arrays) -> _Model:
        def record(guide: Any) -> Any:
            values = ((field.name, getattr(guide, field.name)) for field in dataclasses.fields(guide))
            return type(guide)(**{name: on.send(value) for name, value in values})

        guides = tuple({dtype: record(guide) for dtype, guide in scale.items()} for scale in self.guides)
        colours = None if self.colours is None else tuple(map(on.send, self.colours))
        return _Model(on.compiled(_SentNetwork(on, self.network)), guides, on.send(self.unchanged), colours)


# Matrix products are cut so small that BLAS gives each to one thread: they are too short to be shared, least of all
# with the kernels' threads and others that decode images; and results don't depend on how many threads BLAS has.
_PRODUCTS = 1 << 18  # multiply-adds of matrices
_VECTOR_PRODUCTS = 1 << 13  # of a vector and a matrix


class _Network:
    """The coefficients' network in NumPy: its convolutions are products of patches and matrices."""

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

        def convolve(layer: Layer, features: Any) -> Any:
            return buffers[layer.name].convolve(features, self.matrices[layer.name])

        def fuse(local: Any, summary: Any) -> Any:
            if summary is not None:
                local += summary
            return np.maximum(local, 0, out=local)

        grid = through(self.plan, low, convolve, self.connect, fuse).reshape(self.config.predicted_shape)
        grid = arranged(self.config, blends(self.config), grid, np.transpose, np.take).copy()
        self.spare.append(buffers)
        return grid

    def connect(self, layer: Layer, vector: Any) -> Any:
        matrix = self.matrices[layer.name]
        rows = _share(layer.inputs, layer.outputs, _VECTOR_PRODUCTS)
        parts = vector.reshape(-1, 1, rows) @ matrix[:-1].reshape(-1, rows, layer.outputs)
        vector = parts.sum((0, 1))
        vector += matrix[-1]
        return np.maximum(vector, 0, out=vector) if layer.relu else vector

    def buffers(self) -> dict[str, _Buffer]:
        buffers = {}
        for start, path in (
            (self.config.input_shape, self.plan.splat),
            (self.config.cells, self.plan.local),
            (self.config.cells, self.plan.global_convolutions),
            (self.config.cells, (self.plan.prediction,)),
        ):
            height, width = start
            for layer in path:
                buffers[layer.name] = _Buffer(layer, height, width)
                height, width = -(-height // layer.stride), -(-width // layer.stride)
        return buffers


class _Buffer:
    """A convolution's input with zeros around, the patches that its kernel sees as rows, and its result."""

    def __init__(self, layer: Layer, height: int, width: int) -> None:
        rows, columns = -(-height // layer.stride), -(-width // layer.stride)
        (top, bottom), (left, right) = layer.pads(height), layer.pads(width)
        padded = np.zeros((top + height + bottom, left + width + right, layer.inputs), np.float32)
        self.inside = padded[top : top + height, left : left + width]
        windows = sliding_window_view(padded, (layer.size, layer.size), (0, 1))[:: layer.stride, :: layer.stride]
        self.windows = windows.transpose(0, 1, 3, 4, 2)  # row, column, those of the kernel, channel
        inner = layer.size**2 * layer.inputs + 1
        patches = np.ones((rows, columns, inner), np.float32)  # the last number is the bias's
        self.patches = patches[..., :-1].reshape(self.windows.shape)
        self.result = np.empty((rows, columns, layer.outputs), np.float32)
        at_once = _share(rows * columns, inner * layer.outputs, _PRODUCTS)
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


class _SentNetwork:
    """The same network in another framework, where its matrices were sent."""

    def __init__(self, on: Arrays, network: _Network) -> None:
        self.plan, self.config = network.plan, network.config
        self.matrices = {name: on.send(matrix) for name, matrix in network.matrices.items()}
        self.blends = [blend and Blend(*map(on.send, blend)) for blend in blends(network.config)]
        self.kind, self.framework = type(on), on.framework

    def __call__(self, low: Any) -> Any:
        on = self.kind(self.framework, low)

        def connect(layer: Layer, values: Any) -> Any:
            matrix = self.matrices[layer.name]
            result = on.matmul(values, matrix[:-1]) + matrix[-1]
            return result.clip(0) if layer.relu else result

        def convolve(layer: Layer, features: Any) -> Any:
            (height, width), stride = features.shape[:2], layer.stride
            padded = on.pad(features, layer.pads(height), layer.pads(width))
            bottom, right = ((-(-side // stride) - 1) * stride + 1 for side in (height, width))
            seen = [
                padded[row : row + bottom : stride, column : column + right : stride]
                for row in range(layer.size)
                for column in range(layer.size)
            ]
            return connect(layer, on.joined(seen))

        def fuse(local: Any, summary: Any) -> Any:
            return (local if summary is None else local + summary).clip(0)

        grid = through(self.plan, low, convolve, connect, fuse).reshape(self.config.predicted_shape)
        return arranged(self.config, self.blends, grid, on.transpose, on.take)


def _guide(config: Config, weights: Mapping[str, Any], scale: int) -> dict[str, Any]:
    """A scale's guide in float32 and float64, the normalisation in its weights."""
    prefix = f"guides.{scale}."
    values = {k[len(prefix) :]: np.asarray(v, np.float64) for k, v in weights.items() if k.startswith(prefix)}
    if config.guide == "nn" and config.guide_norm:
        factor = 1 / np.sqrt(values.pop("running_var") + NORM_EPSILON)
        values["b1"] = values["b1"] - values.pop("running_mean") * factor
        values["w1"] = values["w1"] * factor[:, None]
    record = {"curves": CurvesGuide, "nn": NNGuide, "luma": LumaGuide}[config.guide]
    return {dtype: record(**{k: v.astype(dtype) for k, v in values.items()}) for dtype in ("float32", "float64")}


def _through(guide: Any, to_rgb: Any, dtype: Any) -> Any:
    """A guide of images that are RGB once they are seen through this matrix."""
    matrix, offset = to_rgb[:, :3], to_rgb[:, 3]
    if isinstance(guide, LumaGuide):  # as curves, which may begin anywhere: c = (q + 8) − 8
        weights, low = np.array(LUMA), 8.0
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


def _with_colours(on: Arrays, grid: Any, to_rgb: Any, from_rgb: Any) -> Any:
    """A grid of affine maps of RGB, each between these two: x ↦ F·(A·(M·x + m) + b) + f."""
    matrix, offset = to_rgb[:, :3], to_rgb[:, 3:]
    affine = on.cast(grid, "float64").reshape(*grid.shape[:-2], -1, 3, 4)  # the last scale is the image's own
    linear = affine[..., :3]
    made = on.matmul(
        from_rgb[:, :3], on.joined([on.matmul(linear, matrix), on.matmul(linear, offset) + affine[..., 3:]])
    )
    made[..., -1, :, 3] += from_rgb[:, 3]
    return made.reshape(grid.shape)


def _checked(image: Any) -> Arrays:
    on = beside("Predictor", "image", image)
    shape = _shape(image)
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise ValueError(f"Predictor: image must have shape (H, W, 3) or (N, H, W, 3), got {shape}.")
    if (dtype := on.dtype_of(image)) not in (*INTEGERS, *FLOATS):
        raise TypeError(f"Predictor: image must be {', '.join(INTEGERS + FLOATS[:-1])} or {FLOATS[-1]}, got {dtype}.")
    return on


def _check_out(on: Arrays, image: Any, out: Any) -> None:
    if out is None:
        return
    if not on.written:
        raise TypeError("Predictor.render: out must be None, as JAX arrays can't be written to.")
    _check_framework(on, "out", out)
    want, got = ((on.dtype_of(array), _shape(array)) for array in (image, out))
    if want != got:
        raise ValueError(f"Predictor.render: out must be as the image, {want[0]} {want[1]}, got {got[0]} {got[1]}.")


def _check_framework(on: Arrays, name: str, array: Any) -> None:
    if beside("Predictor.render", name, array).framework is not on.framework:
        ours, theirs = type_text(type(array)), type_text(type(on.array))
        raise TypeError(f"Predictor.render: {name} must belong to the image's framework, got {ours} beside {theirs}.")


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.shape)


def _size(image: Any) -> int:
    return math.prod(image.shape)


def _computed(on: Arrays, image: Any) -> str:
    """What an image is computed in."""
    return "float64" if on.dtype_of(image) == "float64" else "float32"


def _is_finite(on: Arrays, image: Any) -> bool:
    """Whether all is finite; where a sum is not, which takes one pass, it may still be."""
    return bool(on.xp.isfinite(resize_area(image, (1, 1), dtype="float32")).all())


def _floats(on: Arrays, image: Any, dtype: str) -> Any:
    if (given := on.dtype_of(image)) in INTEGERS:
        level = on.cast(image, dtype)
        level *= float(np.dtype(dtype).type(1 / int(np.iinfo(given).max)))
        return level
    return on.cast(image, dtype)


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
    height, width = image.shape[-3:-1]
    top, left, full_height, full_width = (0, 0, height, width) if window is None else window
    return _Span(top, height, full_height), _Span(left, width, full_width)


def _resize(on: Arrays, image: Any, source: _Place, target: _Place) -> Any:
    columns = len(image.shape) - 2
    for axis, have, want in ((columns, source[1], target[1]), (columns - 1, source[0], target[0])):
        below, above, share = _neighbours(np.arange(want.start, want.start + want.length), want.full, have.full)
        # Beyond a window's edge: the pixel at the edge.
        first, second = (
            on.take(image, on.send(np.clip(i - have.start, 0, have.length - 1)), axis) for i in (below, above)
        )
        second -= first
        second *= on.cast(on.send(share[:, None] if axis == columns else share[:, None, None]), on.dtype_of(image))
        first += second
        image = first
    return image
