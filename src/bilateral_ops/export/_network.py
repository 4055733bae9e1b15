"""HDRnet's coefficients' network as ONNX operators."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..hdrnet import Predictor
from ..hdrnet._config import Config, Layer, blends, through
from ._graph import Graph


class _Features(NamedTuple):
    """A value of the graph, (N, C, rows, columns)."""

    g: Graph
    name: str
    shape: tuple[int, ...]

    def reshape(self, _: int) -> _Features:
        """A vector of these: the layer that takes it is a convolution of all their places."""
        return self


def predicted(g: Graph, predictor: Predictor, low: str) -> str:
    """From ``low``, (N, 3, S, S), to the grid's cells, (N, Gd·3·scales·4, Gh, Gw); convolutions throughout."""
    config, folded = predictor.config, predictor._model.network

    def convolved(layer: Layer, features: _Features, size: tuple[int, ...], stride: int, pads: Any) -> _Features:
        matrix = folded.matrices[layer.name]  # kernel row, column, channel; the bias
        kernel = matrix[:-1].reshape(*size, -1, layer.outputs).transpose(3, 2, 0, 1)
        before, after = zip(*pads)
        name = g("Conv", features.name, kernel, matrix[-1], strides=[stride, stride], pads=[*before, *after])
        shape = tuple((n + sum(pad) - k) // stride + 1 for n, pad, k in zip(features.shape, pads, size))
        return features._replace(name=g("Relu", name) if layer.relu else name, shape=shape)

    def convolve(layer: Layer, features: _Features) -> _Features:
        return convolved(layer, features, (layer.size,) * 2, layer.stride, [layer.pads(n) for n in features.shape])

    def connect(layer: Layer, features: _Features) -> _Features:
        return convolved(layer, features, features.shape, 1, [(0, 0)] * 2)

    def fuse(local: _Features, summary: _Features | None) -> _Features:
        name = local.name if summary is None else g("Add", local.name, summary.name)
        return local._replace(name=g("Relu", name))

    found: _Features = through(folded.plan, _Features(g, low, config.input_shape), convolve, connect, fuse)
    return _arranged(g, config, found.name)


def _arranged(g: Graph, config: Config, cells: str) -> str:
    """A prediction (N, C, …) with its axes and cells as :func:`bilateral_ops.hdrnet._config.arranged` has them."""
    (rows, columns), depth, numbers = config.cells, config.luma_bins, config.rows * 4
    sizes = [rows, columns, depth]
    if config.grid_axes == "xyz":  # with four axes, as many as every runtime has
        cells = g("Transpose", cells, perm=[0, 1, 3, 2])
    elif config.grid_axes != "yxz":
        y, x, z = ((3, 4, 1)[config.grid_axes.index(axis)] for axis in "yxz")
        cells = g("Reshape", cells, [-1, depth, numbers, rows, columns])
        cells = g("Transpose", cells, perm=[0, z, 2, y, x])
    y, x, z = (sizes[config.grid_axes.index(axis)] for axis in "yxz")
    for axis, blend in zip("yxz", blends(config)):
        if blend is None:
            continue
        shape, place = ([-1, z * numbers, y, x], "yx".index(axis) + 2) if axis != "z" else ([-1, z, numbers, y * x], 1)
        cells = g("Reshape", cells, shape)
        below, above = (
            g("Mul", g("Gather", cells, found, axis=place), weights.reshape(-1, *[1] * (3 - place)))
            for found, weights in ((blend.below, blend.below_weights), (blend.above, blend.above_weights))
        )
        cells = g("Add", below, above)
        count = len(blend.below)
        y, x, z = (count if axis == name else size for name, size in zip("yxz", (y, x, z)))
    usual = config.grid_axes == "yxz" and not any(blends(config))
    return cells if usual else g("Reshape", cells, [-1, z * numbers, y, x])
