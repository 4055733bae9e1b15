"""What is exported: trained models, and guides as constants."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from .._core.checks import integers
from ..hdrnet import Predictor
from ..ops._enhance import GUIDES
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_nn import NNGuide

#: Of a trained model: all of it, or its network and its full-resolution stream by themselves.
Part: TypeAlias = Literal["whole", "network", "render"]
PARTS: tuple[str, ...] = get_args(Part)


def predictor_of(model: Predictor | str | os.PathLike[str] | None) -> Predictor:
    """A predictor, or that of a model file, or without one of the model in the package."""
    return model if isinstance(model, Predictor) else Predictor.load(model)


def sides(op: str, size: Any) -> tuple[int, int]:
    """Check the size of images of a format that has one size alone."""
    H, W = integers(op, "size", "two integers (H, W)", 2, size)
    if min(H, W) < 1:
        raise ValueError(f"{op}: size must be (H, W), both at least 1, got {(H, W)}.")
    return H, W


def checked_guide(op: str, guide: Any) -> tuple[Any, int]:
    """The record with float64 arrays, whose shapes its own operation has checked, and the image's channels."""
    if not isinstance(guide, GUIDES):
        raise TypeError(f"{op}: guide must be a CurvesGuide, NNGuide or LumaGuide, got {type(guide).__name__}.")
    record = type(guide)(**{name: np.asarray(value, np.float64) for name, value in vars(guide).items()})
    last = {CurvesGuide: "mix", NNGuide: "w1"}.get(type(guide))
    shape = getattr(record, last).shape if last else (3,)
    channels = shape[-1] if shape else 0
    record(np.zeros((1, 1, channels)))
    return record, channels
