"""TFLite files, for LiteRT on Android, iOS and elsewhere: trained models, and PyTorch modules that call this package.

:func:`save` writes a trained model, and :func:`converted` makes a TFLite model of a module of one's own. Google's
``litert-torch`` converts; ``pip install '.[tflite]'`` brings it.

A file is for images of one size. Results are the package's to rounding: 4e-7 with the model in the package.

Example: an operation by itself:

    from bilateral_ops.export import tflite

    class Enhance(torch.nn.Module):
        def forward(self, grid, image):
            return bo.slice_apply(grid, bo.guide_luma(image), image)

    made = tflite.converted(Enhance(), (torch.rand(1, 16, 16, 8, 3, 4), torch.rand(1, 1080, 1920, 3)))
    made.export("enhance.tflite")
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .._core.checks import one_of
from .._core.missing import needed
from .._core.whole import written
from ..hdrnet._predict import SHIPPED

with needed("bilateral_ops.export.tflite", "torch", "tflite"):
    import torch
    from torch.fx.experimental.const_fold import split_const_subgraphs

from ..hdrnet import HDRNet, Predictor
from . import decompositions
from ._model import PARTS, Part, sides

__all__ = ["converted", "save"]


def converted(module: torch.nn.Module, arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None) -> Any:
    """Convert a PyTorch module that may call this package.

    Parameters
    ----------
    module : torch.nn.Module
        In the mode that it is to have, as after ``module.eval()``.
    arguments, keywords : sequence and mapping of tensors
        What its ``forward`` is called with, of the shapes and dtypes that the file is for; names of keywords are names
        of the file's inputs, those of others ``args_0`` and so on.

    Returns
    -------
    litert_torch.model.TfLiteModel
        ``made.export(path)`` writes it, and ``made(*arrays)`` runs it.

    Raises
    ------
    ImportError
        Where litert-torch is missing. What PyTorch or litert-torch do not take, they say.
    """
    with needed("bilateral_ops.export.tflite", "litert_torch", "tflite"):
        import litert_torch  # here, as it takes ten seconds
    exported = torch.export.export(module, tuple(arguments), dict(keywords or {}))
    plain = exported.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    # Where pixels lie is computed in float64, which TFLite has not, and depends on sizes alone: it becomes constants.
    folded = split_const_subgraphs(plain.module())
    folded.run_folding()
    return litert_torch.convert(folded.eval(), tuple(arguments) or None, dict(keywords or {}) or None)


def save(
    model: HDRNet | str | os.PathLike[str] | None,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    part: Part = "whole",
    image: Literal["float32", "uint8"] = "float32",
) -> Path:
    """Write a trained model as a TFLite file.

    Parameters
    ----------
    model : HDRNet, or the path of a model file, optional
        Without one, the model in the package.
    path : path
        Conventionally ``.tflite``.
    size : (H, W)
        The image's.
    part : "whole", "network" or "render"
        ``"whole"``: an image → the image enhanced. ``"network"``: the image reduced, ``low`` → the grid.
        ``"render"``: ``grid`` and an image → the image enhanced, whose grid is the other's.
    image : "float32" or "uint8"
        The dtype of the image and of the result: floats in [0, 1], or integers, read as v/255 and written rounded and
        saturated.

    Returns
    -------
    Path
        The file. Its inputs are named ``image`` (1, H, W, 3), ``low``, float32 (1, S, S, 3), and ``grid``, float32
        (1, Gh, Gw, Gd, 3·scales, 4), as ``part`` says; it has one output.

    Raises
    ------
    ValueError
        A choice that is none of those above; errors of model files are those of :func:`.read_model`.
    TypeError
        A Predictor, unlike the other formats' functions.
    ImportError
        Where litert-torch is missing.

    Notes
    -----
    Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.
    """
    H, W = sides("tflite.save", size)
    one_of("tflite.save", "part", part, PARTS)
    one_of("tflite.save", "image", image, ("float32", "uint8"))
    if isinstance(model, Predictor):  # which has no module
        raise TypeError(
            "tflite.save: model must be an HDRnet module (HDRNet) or the path of a model file, got Predictor; pass the "
            "file it was loaded from."
        )
    network = copy.deepcopy(model) if isinstance(model, HDRNet) else HDRNet.load(SHIPPED if model is None else model)
    network.cpu().float().eval()
    given = {}
    if part == "network":
        given["low"] = torch.zeros(1, *network.config.input_shape, 3)
    if part == "render":
        given["grid"] = torch.zeros(1, *network.config.grid_shape)
    if part != "network":
        given["image"] = torch.zeros(1, H, W, 3, dtype=getattr(torch, image))
    made = converted(_Forward(network, part), keywords=given)
    Path(path).parent.mkdir(parents=True, exist_ok=True)  # as its own export does
    with written(path) as file:
        made.export(os.fspath(file))
    return Path(path)


class _Forward(torch.nn.Module):
    """A part of a network, of images of floats or bytes."""

    def __init__(self, network: HDRNet, part: str) -> None:
        super().__init__()
        self.network, self.part = network, part

    def forward(self, **given: torch.Tensor) -> torch.Tensor:
        if self.part == "network":
            return self.network.coefficients(given["low"])
        image = given["image"]
        pixels = image if image.is_floating_point() else image.to(torch.float32) / 255
        grid = (
            given["grid"] if self.part == "render" else self.network.coefficients(self.network.low_resolution(pixels))
        )
        out = self.network.render(grid, pixels)
        return out if image.is_floating_point() else torch.round(out.clamp(0, 1) * 255).to(image.dtype)
