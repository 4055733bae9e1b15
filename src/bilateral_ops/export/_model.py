"""What can be exported of trained models."""

from __future__ import annotations

import os

from ..hdrnet import Predictor
from ..hdrnet._config import Config

#: Fields of a configuration by which PyTorch's ports differ in how they reduce an image and look the grid up.
_RULES = ("reduce", "grid_axes", "xy", "align_corners", "padding_mode", "guide_range")


def predictor_of(op: str, model: Predictor | str | os.PathLike[str] | None) -> Predictor:
    """A predictor, or that of a model file, or without one of the model in the package."""
    predictor = model if isinstance(model, Predictor) else Predictor.load(model)
    usual = Config()
    for field in _RULES:
        value = getattr(predictor.config, field)
        if value != getattr(usual, field):
            raise ValueError(
                f"{op}: model must have {field}={getattr(usual, field)!r}, got {value!r}; export its HDRNet by "
                f"torch.onnx.export."
            )
    return predictor
