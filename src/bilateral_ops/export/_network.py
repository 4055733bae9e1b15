"""HDRnet's coefficients' network as ONNX operators."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..hdrnet import Predictor
from ..hdrnet._config import Layer, same_padding, through
from ._graph import Graph


def predictor_of(model: Predictor | str | os.PathLike[str] | None) -> Predictor:
    """A predictor, or that of a model file, or without one of the model in the package."""
    return model if isinstance(model, Predictor) else Predictor.load(model)


class _Features(NamedTuple):
    """A value of the graph, (N, C, side, side)."""

    g: Graph
    name: str
    side: int

    def reshape(self, _: int) -> _Features:
        """A vector of these: the layer that takes it is a convolution of all their places."""
        return self


def predicted(g: Graph, predictor: Predictor, low: str) -> str:
    """From ``low``, (N, 3, S, S), to the grid's cells, (N, Gd·3·scales·4, Gh, Gw); convolutions throughout."""
    config, folded = predictor.config, predictor._model.network

    def convolved(layer: Layer, features: _Features, size: int, stride: int, pads: list[int], side: int) -> _Features:
        matrix = folded.matrices[layer.name]  # kernel row, column, channel; the bias
        kernel = matrix[:-1].reshape(size, size, -1, layer.outputs).transpose(3, 2, 0, 1)
        name = g("Conv", features.name, kernel, matrix[-1], strides=[stride, stride], pads=pads)
        return features._replace(name=g("Relu", name) if layer.relu else name, side=side)

    def convolve(layer: Layer, features: _Features) -> _Features:
        before, after = same_padding(features.side, layer.size, layer.stride)
        side = -(-features.side // layer.stride)
        return convolved(layer, features, layer.size, layer.stride, [before, before, after, after], side)

    def connect(layer: Layer, features: _Features) -> _Features:
        return convolved(layer, features, features.side, 1, [0, 0, 0, 0], 1)

    def fuse(local: _Features, summary: _Features | None) -> _Features:
        name = local.name if summary is None else g("Add", local.name, summary.name)
        return local._replace(name=g("Relu", name))

    found: _Features = through(folded.plan, _Features(g, low, config.net_input), convolve, connect, fuse)
    return found.name
