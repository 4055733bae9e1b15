"""Trained models that are exported."""

from __future__ import annotations

import os
from typing import Any

from .._core.checks import integers
from ..hdrnet import Predictor

PARTS = ("whole", "network", "render")


def predictor_of(model: Predictor | str | os.PathLike[str] | None) -> Predictor:
    """A predictor, or that of a model file, or without one of the model in the package."""
    return model if isinstance(model, Predictor) else Predictor.load(model)


def sides(op: str, size: Any) -> tuple[int, int]:
    """Check the size of images of a format that has one size alone."""
    H, W = integers(op, "size", "two integers (H, W)", 2, size)
    if min(H, W) < 1:
        raise ValueError(f"{op}: size must be (H, W), both at least 1, got {(H, W)}.")
    return H, W
