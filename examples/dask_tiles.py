"""Enhance an image that is larger than memory, a tile at a time on several workers, and take a gradient over all of it.

    pip install '.[dask]'
    python examples/dask_tiles.py --megapixels 300 --workers 2 --memory 400MB

Images are Zarr arrays whose chunks are the tiles. A tile says by ``window`` which part of the whole image it is: tiles
need no overlap, don't know of each other, and their results are the whole image's, bit for bit. The gradient of a loss
by the grid is the sum of the tiles' gradients.

Workers are processes, each with its share of the memory; one that takes more is stopped by Dask. They could as well be
on other machines that see the same files: ``dask.distributed.Client("tcp://scheduler:8786")``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from dask.distributed import Client, progress
from dask.utils import format_bytes, parse_bytes

import bilateral_ops as bo


def window_of(block_info: Any) -> tuple[int, int, int, int]:
    """Which part of the whole a tile is: what Dask tells a mapped function, as ``bilateral_ops`` takes it."""
    (top, _), (left, _), *_ = block_info[0]["array-location"]
    height, width, *_ = block_info[0]["shape"]
    return top, left, height, width


def enhanced(grid: Any, guide: Any, image: da.Array) -> da.Array:
    """``bilateral_ops.enhance`` of an image (H, W, Ci) whose chunks are tiles."""

    def tile(pixels: Any, block_info: Any = None) -> Any:
        return bo.enhance(grid, guide, pixels, window=window_of(block_info))

    chunks = (*image.chunks[:2], grid.shape[3])
    return image.map_blocks(tile, dtype=image.dtype, chunks=chunks, meta=np.empty((0, 0, 0), image.dtype))


def grid_gradient(grid: Any, guide: Any, image: da.Array, target: da.Array) -> da.Array:
    """The gradient by the grid of half the squared difference between the image, enhanced, and its target."""

    def tile(pixels: Any, wanted: Any, block_info: Any = None) -> Any:
        window = window_of(block_info)
        pixels, wanted = (_as_float(array) for array in (pixels, wanted))
        at = guide(pixels)
        difference = bo.slice_apply(grid, at, pixels, window=window) - wanted
        gradients = bo.slice_apply_vjp(grid, at, pixels, difference, window=window, wrt="grid")
        return gradients.grid[None, None].astype(np.float64)  # to be added without rounding

    one_a_tile = tuple((1,) * count for count in image.numblocks[:2])
    parts = da.map_blocks(
        tile,
        image,
        target,
        chunks=(*one_a_tile, *grid.shape),
        drop_axis=2,
        new_axis=list(range(2, 2 + grid.ndim)),
        meta=np.empty((0,) * (2 + grid.ndim)),
    )
    return parts.sum((0, 1))


def _as_float(pixels: Any) -> Any:
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


def photograph(height: int, width: int, tile: int) -> da.Array:
    """A synthetic uint8 image (H, W, 3), made tile by tile."""

    def pixels(block_info: Any = None) -> Any:
        (top, bottom), (left, right), _ = block_info[None]["array-location"]
        y, x, c = np.ogrid[top:bottom, left:right, :3]
        return (127.5 + 127.5 * np.sin(y / (31 + c) + c) * np.cos(x / (47 - c))).astype(np.uint8)

    chunks = da.core.normalize_chunks((tile, tile, 3), (height, width, 3))
    return da.map_blocks(pixels, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))


def curve_grid(shape: tuple[int, int, int] = (16, 16, 8)) -> Any:
    """A grid that brightens shadows and darkens lights, more so towards the right."""
    gain = np.linspace(1.6, 0.7, shape[2], dtype=np.float32) ** np.linspace(0, 1, shape[1], dtype=np.float32)[:, None]
    grid = np.zeros((*shape, 3, 4), np.float32)
    grid[..., :3] = gain[..., None, None] * np.eye(3, dtype=np.float32)
    return grid


def to_zarr(array: da.Array, path: Path) -> Any:
    """Write an array whose chunks become the file's; a task that can be waited for."""
    store = zarr.create_array(path, shape=array.shape, chunks=array.chunksize, dtype=array.dtype, overwrite=True)
    return array.store(store, lock=False, compute=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--megapixels", type=float, default=300, help="size of the image (default: %(default)s)")
    parser.add_argument("--tile", type=int, default=1024, help="pixels of a tile's side (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--memory", default="400MB", help="each worker's limit (default: %(default)s)")
    parser.add_argument("--folder", help="where the images are written (default: a temporary folder)")
    options = parser.parse_args()

    height = math.isqrt(int(options.megapixels * 1e6 / 1.5))
    grid, guide = curve_grid(), bo.LumaGuide()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        Client(
            n_workers=options.workers,
            threads_per_worker=1,
            memory_limit=parse_bytes(options.memory),
            dashboard_address=None,
        ) as client,
    ):

        def compute(what: str, task: Any) -> Any:
            print(what)
            future = client.compute(task)
            progress(future, notebook=False)
            print()
            return future.result()

        before, after = Path(folder, "before.zarr"), Path(folder, "after.zarr")
        picture = photograph(height, height * 3 // 2, options.tile)
        size = f"{picture.shape[1]} × {picture.shape[0]} pixels"
        print(f"{size}: {format_bytes(picture.nbytes)}, {picture.npartitions} tiles")
        compute("make an image", to_zarr(picture, before))
        image = da.from_zarr(before)
        compute("enhance it", to_zarr(enhanced(grid, guide, image), after))
        gradient = compute(
            "gradient of the squared difference of what another grid makes of it",
            grid_gradient(0.9 * grid, guide, image, da.from_zarr(after)),
        )
        print(f"largest element: {np.abs(gradient).max():.4g}")


if __name__ == "__main__":
    main()
