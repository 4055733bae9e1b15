"""HDRnet's whole pipeline on a photograph, uint8 in and out: with this package, and the same model in PyTorch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bilateral_ops.bench._suite import problem
from bilateral_ops.bench._torch import _enhance
from bilateral_ops.hdrnet import Config, Predictor
from bilateral_ops.hdrnet.model import HDRNet


def photograph(height: int, width: int) -> Any:
    """Slowly changing light with noise on top, (H, W, 3) uint8."""
    return problem("enhance", False, height, width).arguments["image"]


def model() -> Any:
    """A network of the default size, as it is before training."""
    torch.manual_seed(0)
    return HDRNet(Config()).eval()


def prepare(way: str, height: int, width: int, threads: int) -> Callable[[], Any]:
    """The whole pipeline: ``bilateral_ops``, or ``torch`` with convolutions and ``grid_sample``.

    The image is planar in PyTorch's memory. Its exact averages are two products with the rows' and columns' weights.
    """
    image = photograph(height, width)
    if way == "bilateral_ops":
        predictor: Predictor = model().freeze()
        out = np.empty_like(image)
        return lambda: predictor(image, out=out)
    torch.set_num_threads(threads)
    network = model()
    curves = {name: value.detach() for name, value in network.guide.named_parameters()}
    rows, columns = map(_averages, (height, width), network.config.input_shape)
    planar = torch.from_numpy(image).permute(2, 0, 1).contiguous()

    def predict() -> Any:
        with torch.inference_mode():
            low = (rows @ (planar.float() / 255) @ columns.T).permute(1, 2, 0)
            return _enhance(network.coefficients(low[None])[0], planar.permute(1, 2, 0), **curves)

    return predict


def parts(height: int, width: int) -> dict[str, Callable[[], Any]]:
    """What the package's pipeline is made of."""
    predictor, image = model().freeze(), photograph(height, width)
    low = predictor.low_resolution(image)
    grid, out = predictor.grid(low), np.empty_like(image)
    return {
        "reduce": lambda: predictor.low_resolution(image),
        "network": lambda: predictor.grid(low),
        "guide, slice, apply": lambda: predictor.render(grid, image, out=out),
    }


def _averages(length: int, parts: int) -> Any:
    """Weights (parts, length) of the exact averages of an axis."""
    edges = torch.arange(parts + 1, dtype=torch.float64)[:, None] * length / parts
    covered = (edges - torch.arange(length)).clamp(0, 1)  # of each pixel, before each edge
    return (covered.diff(dim=0) * parts / length).float()
