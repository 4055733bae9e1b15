"""Trained models that are exported."""

from __future__ import annotations

import os

from ..hdrnet import Predictor


def predictor_of(model: Predictor | str | os.PathLike[str] | None) -> Predictor:
    """A predictor, or that of a model file, or without one of the model in the package."""
    return model if isinstance(model, Predictor) else Predictor.load(model)
