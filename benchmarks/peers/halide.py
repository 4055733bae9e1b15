"""``slice_apply`` in Halide, scheduled by hand: interleaved images, rows in parallel, a pixel's matrix in a register.

Two rows of cells are blended once an image row, and laid out on the way as columns of four numbers, the last of them
unused: a whole 3 × 4 matrix is then one vector of sixteen. For a pixel four such vectors are loaded and interpolated,
and its columns multiplied with the channels and added up. (Half as fast or slower: interpolating in vectors of twelve
and multiplying in vectors of pixels; gathering each coefficient for a vector of pixels.) Every schedule in SCHEDULES is
compiled once, tried on the problem's own arrays, and the fastest is the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import halide as hl
import numpy as np
from suite import elapsed

from bilateral_ops.bench._suite import Problem

#: (pixels unrolled, image rows a task)
SCHEDULES = ((16, 8), (16, 32), (32, 8))


def prepare(given: Problem, threads: int) -> Callable[[], Any] | None:
    """The problem's call; None for any other than ``slice_apply``. Threads are as many as ``HL_NUM_THREADS`` says."""
    if str(given) != "slice_apply":
        return None
    grid, guide, image = (given.arguments[name] for name in ("grid", "guide", "image"))
    *cells, rows, columns = grid.shape
    if (rows, columns) != (3, 4):
        return None
    out = np.zeros_like(image)
    buffers = [hl.Buffer(array) for array in (grid.reshape(*cells, rows * columns), guide, image, out)]

    def call(pipeline: Any) -> Callable[[], Any]:
        def run() -> Any:
            pipeline(*buffers)
            return out

        return run

    calls = [call(_pipeline(tuple(cells), *schedule)) for schedule in SCHEDULES]
    return min(calls, key=lambda run: min(elapsed(run) for _ in range(3)))


@cache
def _pipeline(cells: tuple[int, int, int], at_once: int, rows: int) -> Any:
    """The pipeline for grids (Gh, Gw, Gd, 12), with images of any size. Halide's axes are in reverse order."""
    x, y, c, i, k = (hl.Var(name) for name in "xycik")
    outer, inner, band = hl.Var("outer"), hl.Var("inner"), hl.Var("band")
    grid = hl.ImageParam(hl.Float(32), 4, "grid")
    guide = hl.ImageParam(hl.Float(32), 2, "guide")
    image = hl.ImageParam(hl.Float(32), 3, "image")
    width, height = guide.dim(0).extent(), guide.dim(1).extent()
    grid_height, grid_width, depths = cells

    def place(u: Any, size: int) -> tuple[Any, Any]:
        p = hl.clamp(u * float(size) - 0.5, 0.0, float(size - 1))
        return hl.i32(p), p - hl.f32(hl.i32(p))

    def around(cell: Any, size: int) -> tuple[Any, Any]:
        cell = hl.clamp(cell, 0, size - 1)  # known to lie inside: so are the bounds of what is read
        return cell, hl.min(cell + 1, size - 1)

    def mix(a: Any, b: Any, t: Any) -> Any:
        return a + t * (b - a)

    at_y, ty = place((hl.f32(y) + 0.5) / hl.f32(height), grid_height)
    y0, y1 = around(at_y, grid_height)
    row, column, depth = hl.Func("row"), hl.Func("column"), hl.Func("depth")
    element = 4 * hl.min(c % 4, 2) + c // 4
    row[c, k, i, y] = mix(grid[element, k, i, y0], grid[element, k, i, y1], ty)
    column[x] = place((hl.f32(x) + 0.5) / hl.f32(width), grid_width)
    depth[x, y] = place(guide[x, y], depths)

    (x0, x1), tx = around(column[x][0], grid_width), column[x][1]
    (z0, z1), tz = around(depth[x, y][0], depths), depth[x, y][1]
    matrix, mapped, out = hl.Func("matrix"), hl.Func("mapped"), hl.Func("out")
    below = mix(row[c, z0, x0, y], row[c, z0, x1, y], tx)
    above = mix(row[c, z1, x0, y], row[c, z1, x1, y], tx)
    matrix[c, x, y] = mix(below, above, tz)
    total = matrix[c + 12, x, y]
    for j in range(3):
        total += matrix[c + 4 * j, x, y] * image[j, x, y]
    mapped[c, x, y] = total
    out[c, x, y] = mapped[c, x, y]

    for pixels in (image, out.output_buffer()):
        pixels.dim(0).set_bounds(0, 3).set_stride(1)
        pixels.dim(1).set_stride(3)
    stride = 1
    for axis, size in enumerate((12, depths, grid_width, grid_height)):
        grid.dim(axis).set_bounds(0, size).set_stride(stride)
        stride *= size

    column.compute_root().vectorize(x, 16)
    out.bound(c, 0, 3).reorder(c, x, y).split(x, outer, inner, at_once, hl.TailStrategy.ShiftInwards)
    out.reorder(c, inner, outer, y).unroll(c).unroll(inner).split(y, band, y, rows).parallel(band)
    row.compute_at(out, y).bound_extent(c, 16).vectorize(c, 16)
    depth.compute_at(out, outer).vectorize(x)
    mapped.compute_at(out, outer).bound_extent(c, 4).reorder(c, x).vectorize(c, 4).unroll(x)
    matrix.compute_at(mapped, x).bound_extent(c, 16).vectorize(c, 16)
    return out.compile_to_callable([grid, guide, image], hl.get_host_target())
