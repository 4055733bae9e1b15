"""Guides, grids and images for the tests of ``export.glsl``."""

from __future__ import annotations

from typing import Any

import numpy as np

from bilateral_ops import CurvesGuide, LumaGuide, NNGuide


def guide_of(kind: str, channels: int, count: int = 8, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def numbers(*shape: int, low: float = -1.0, high: float = 1.0) -> Any:
        return np.float32(rng.uniform(low, high, shape))

    if kind == "luma":
        return LumaGuide()
    if kind == "nn":
        return NNGuide(numbers(count, channels, low=-2), numbers(count), numbers(count, low=-2), numbers()[()])
    ccm = np.eye(channels, dtype=np.float32) + numbers(channels, channels, low=-0.2, high=0.2)
    knots = numbers(channels, count, low=0)
    mix = numbers(channels, low=0) / channels
    return CurvesGuide(ccm, numbers(channels) / 9, knots, numbers(channels, count) / 2, mix, numbers()[()] / 2 + 0.3)


#: Names and what differs from a guide of curves for RGB, a grid of (5, 7, 4, 3, 4) and an image of 33 × 47 floats.
CASES: dict[str, dict[str, Any]] = {
    **{
        f"{kind}-{'uniforms' if parameters == 'uniforms' else 'constants'}-{'aligned' if aligned else 'unaligned'}": {
            "kind": kind,
            "parameters": parameters,
            "align_corners": aligned,
        }
        for kind in ("curves", "nn", "luma")
        for parameters in ("constants", "uniforms")
        for aligned in (False, True)
    },
    "centers-aligned": {"xy": "centers", "align_corners": True},
    "corners-unaligned": {"xy": "corners"},
    "corners-of-a-pixel": {"xy": "corners", "align_corners": True, "size": (1, 1)},
    "corners-of-a-row": {"xy": "corners", "size": (1, 9)},
    "one-cell": {"grid": (1, 1, 1, 3, 4)},
    "one-cell-aligned": {"grid": (1, 1, 1, 3, 4), "align_corners": True},
    "one-row": {"grid": (1, 7, 4, 3, 4)},
    "one-column": {"grid": (5, 1, 4, 3, 4), "align_corners": True},
    "one-deep": {"grid": (5, 7, 1, 3, 4)},
    "one-pixel": {"size": (1, 1)},
    "one-pixel-wide": {"size": (19, 1)},
    "more-cells-than-pixels": {"size": (4, 3), "grid": (16, 16, 8, 3, 4)},
    "deep": {"grid": (3, 4, 85, 3, 4)},
    "linear": {"grid": (5, 7, 4, 3, 3)},
    "one-channel": {"channels": 1, "grid": (5, 7, 4, 1, 2)},
    "one-channel-uniforms": {"channels": 1, "grid": (5, 7, 4, 1, 1), "parameters": "uniforms"},
    "two-to-four": {"channels": 2, "grid": (5, 7, 4, 4, 3), "kind": "nn"},
    "four-to-two": {"channels": 4, "grid": (5, 7, 4, 2, 4), "kind": "nn", "parameters": "uniforms"},
    "bytes": {"bytes": True},
    "window": {"window": (11, 5, 100, 90)},
    "window-of-corners": {"window": (67, 43, 100, 90), "xy": "corners", "align_corners": True},
    "one-knot": {"count": 1},
}


#: Lookup tables: their shapes, and the rule.
LUTS: dict[str, dict[str, Any]] = {
    "lut": {"shape": (17, 17, 17, 3)},
    "lut-oblong": {"shape": (3, 9, 5, 4)},
    "lut-of-one": {"shape": (1, 2, 1, 1)},
    "lut-unaligned": {"shape": (5, 4, 6, 2), "align_corners": False},
}


def lut(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """A table, an image whose colours reach beyond it, and the rule."""
    rng = np.random.default_rng(len(name))
    image = np.float32(rng.uniform(-0.1, 1.1, (21, 33, 3)))
    image[0, :5] = [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    options = dict(LUTS[name])
    return np.float32(rng.uniform(-1, 1, options.pop("shape"))), image, options


def made(name: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The guide, the grid, the image of a case, and how they are sampled."""
    case, seed = CASES[name], list(CASES).index(name)
    rng = np.random.default_rng(seed)
    channels = case.get("channels", 3)
    shape, size = case.get("grid", (5, 7, 4, 3, 4)), case.get("size", (33, 47))
    guide = guide_of(case.get("kind", "curves"), channels, case.get("count", 8), seed)
    image = rng.integers(0, 256, (*size, channels), np.uint8)
    if not case.get("bytes"):
        image = rng.random((*size, channels), np.float32)
    rule = {key: case[key] for key in ("xy", "align_corners") if key in case}
    return guide, np.float32(rng.uniform(-1, 1, shape)), image, rule
