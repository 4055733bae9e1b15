"""Guides as constants of what is exported."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops._enhance import GUIDES
from ..ops._guide_curves import CurvesGuide
from ..ops._guide_nn import NNGuide


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
