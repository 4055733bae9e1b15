"""Edits to learn: those that no one curve makes for all images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ops._slice import slice as slice_grid
from ...ops._splat import splat

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def edited(image: Any, edit: str) -> Any:
    """An image (H, W, 3) of integers, or floats in [0, 1], after an edit of this name in ``EDITS``; the same dtype."""
    if image.dtype.kind != "u":
        return EDITS[edit](image.astype(np.float32)).astype(image.dtype)
    top = np.float32(np.iinfo(image.dtype).max)
    return np.rint(EDITS[edit](image.astype(np.float32) / top) * top).astype(image.dtype)


def clahe(image: Any, clip_limit: float = 0.0075) -> Any:
    """Contrast-limited adaptive histogram equalisation of the luma, in 4 × 4 tiles; the colours follow in proportion.

    ``clip_limit`` is scikit-image's: the most pixels of a tile that one of 256 shades counts, as a share of them.
    """
    from skimage.exposure import equalize_adapthist

    luma = image @ LUMA
    tiles = tuple(max(1, -(-size // 4)) for size in luma.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images of one colour
        return _follow(image, luma, equalize_adapthist(np.clip(luma, 0, 1), kernel_size=tiles, clip_limit=clip_limit))


def clarity(image: Any) -> Any:
    """Local contrast: what differs from the luma's smooth part, twice."""
    luma = image @ LUMA
    return _follow(image, luma, np.clip(2 * luma - _smooth(luma), 0, 1))


def shadows(image: Any) -> Any:
    """Shadows lifted and highlights recovered: the luma's smooth part drawn by 0.3 to middle grey, its detail kept."""
    luma = image @ LUMA
    smooth = _smooth(luma)
    return _follow(image, luma, luma * (0.15 + 0.7 * smooth) / np.maximum(smooth, 0.1))


def brightness(image: Any) -> Any:
    """All images equally bright: the power of the luma that brings its mean to about middle grey.

    One curve for an image, but which one depends on the whole of it.
    """
    luma = image @ LUMA
    mean = np.clip(luma.mean(), 0.05, 0.95)
    return _follow(image, luma, luma ** (np.log(0.45) / np.log(mean)))


#: By the name that the trainer knows them by: floats (H, W, 3) in [0, 1] → the same, float32.
EDITS: dict[str, Callable[[Any], Any]] = {edit.__name__: edit for edit in (clahe, clarity, shadows, brightness)}


def _follow(image: Any, luma: Any, wanted: Any) -> Any:
    """The image with another luma. In the dark the ratio of the two is mostly noise."""
    gain = np.clip((wanted.astype(np.float32) + 0.02) / (luma + 0.02), 0, 4)
    return np.clip(image * gain[..., np.newaxis], 0, 1)


def _smooth(luma: Any) -> Any:
    """The luma without detail, with its edges: averages over cells of position and brightness (a bilateral grid).

    Source: Chen et al., Real-Time Edge-Aware Image Processing with the Bilateral Grid, SIGGRAPH 2007.
    """
    sums = splat(luma, np.stack((luma, np.ones_like(luma)), axis=-1), (12, 12, 6))
    weighted, weights = np.moveaxis(slice_grid(sums, luma), -1, 0)
    return weighted / weights
