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
    """A value of the graph, (N, C, side, side), or (N, C) where ``side`` is 0."""

    g: Graph
    name: str
    side: int

    def reshape(self, _: int) -> _Features:
        """A vector of these, by rows, columns, channels."""
        flat = self.g("Flatten", self.g("Transpose", self.name, perm=[0, 2, 3, 1]), axis=1)
        return self._replace(name=flat, side=0)


def predicted(g: Graph, predictor: Predictor, low: str) -> str:
    """From ``low``, (N, 3, S, S), to the grid's cells, (N, Gd·3·scales·4, Gh, Gw)."""
    config, folded = predictor.config, predictor._model.network

    def activated(layer: Layer, features: _Features, name: str, side: int) -> _Features:
        return features._replace(name=g("Relu", name) if layer.relu else name, side=side)

    def convolve(layer: Layer, features: _Features) -> _Features:
        matrix = folded.matrices[layer.name]
        kernel = matrix[:-1].reshape(layer.size, layer.size, layer.inputs, layer.outputs).transpose(3, 2, 0, 1)
        before, after = same_padding(features.side, layer.size, layer.stride)
        strides, pads = [layer.stride] * 2, [before, before, after, after]
        name = g("Conv", features.name, kernel, matrix[-1], strides=strides, pads=pads)
        return activated(layer, features, name, -(-features.side // layer.stride))

    def connect(layer: Layer, features: _Features) -> _Features:
        matrix = folded.matrices[layer.name]
        return activated(layer, features, g("Gemm", features.name, matrix[:-1], matrix[-1]), 0)

    def fuse(local: _Features, summary: _Features | None) -> _Features:
        name = local.name
        if summary is not None:
            name = g("Add", name, g("Unsqueeze", summary.name, [2, 3]))
        return local._replace(name=g("Relu", name))

    found: _Features = through(folded.plan, _Features(g, low, config.net_input), convolve, connect, fuse)
    return found.name
