"""Enhance an image that is larger than memory, a tile at a time on several workers, and take a gradient over all of it.

    pip install 'bilateral_ops[dask]'
    python examples/dask_tiles.py --megapixels 300 --workers 2 --memory 400MB

Images are Zarr arrays whose chunks are the tiles. A tile says by ``window`` which part of the whole image it is: tiles
need no overlap, don't know of each other, and their results are the whole image's, bit for bit. The gradient of a loss
by the grid is the sum of the tiles' gradients.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np

import bilateral_ops as bo

Window = tuple[int, int, int, int]


def window_of(block_info: Any) -> Window:
    """Where a tile lies: what Dask tells a mapped function, as bilateral_ops takes it."""
    (top, _), (left, _), *_ = block_info[0]["array-location"]
    height, width, *_ = block_info[0]["shape"]
    return top, left, height, width


def enhanced(grid: Any, guide: Any, image: da.Array) -> da.Array:
    """``bilateral_ops.enhance`` of an image (H, W, Ci) whose chunks are tiles."""

    def tile(pixels: Any, grid: Any, guide: Any, block_info: Any = None) -> Any:
        return bo.enhance(grid, guide, pixels, window=window_of(block_info))

    return image.map_blocks(
        tile, grid, guide, dtype=image.dtype, chunks=(*image.chunks[:2], grid.shape[3]), meta=np.empty((0, 0, 0), image.dtype)
    )


def grid_gradient(grid: Any, guide: Any, image: da.Array, target: da.Array) -> da.Array:
    """The gradient by the grid of half the squared difference between the image, enhanced, and the target."""

    def tile(pixels: Any, wanted: Any, grid: Any, guide: Any, block_info: Any = None) -> Any:
        window = window_of(block_info)
        pixels, wanted = as_float(pixels), as_float(wanted)
        g = guide(pixels)
        difference = bo.slice_apply(grid, g, pixels, window=window) - wanted
        part = bo.slice_apply_vjp(grid, g, pixels, difference, window=window, wrt=("grid",)).grid
        return part[None, None].astype(np.float64)

    tiles = image.numblocks[:2]
    ones = tuple((1,) * n for n in tiles)
    parts = da.map_blocks(
        tile,
        image,
        target.rechunk(image.chunks[:2] + target.chunks[2:]),
        grid,
        guide,
        dtype=np.float64,
        drop_axis=2,
        new_axis=range(2, 2 + grid.ndim),
        chunks=ones + grid.shape,
    )
    return parts.sum((0, 1))


def as_float(pixels: Any) -> Any:
    return pixels.astype(np.float32) / np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else pixels
