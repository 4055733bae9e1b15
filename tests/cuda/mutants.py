"""Bugs, planted one at a time in a copy of the kernels, and the check that must see each.

A mutant's .cu is compiled to PTX, and its kernels take the place of the real ones in the stand-in: host code is the
same.
`pytest --slow tests/cuda/test_mutants.py` plants them all, and so does `nox -s mutants`.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from interpreter import (
    BadMask,
    BarrierError,
    Kernel,
    KernelError,
    Misaligned,
    OutOfBounds,
    Race,
    Uninitialised,
    parse,
)

SOURCES = Path(__file__).parents[2] / "csrc"


@dataclass(frozen=True)
class Mutant:
    file: str  # in csrc/, where the bug is planted
    old: str  # what stands there once
    new: str
    compiled: str  # the .cu that is compiled with it
    subject: str  # called forward and backward …
    case: str  # … with this case
    #: What sees it: a kind of KernelError, or AssertionError where the answer is wrong.
    caught: type[BaseException]

    def text(self) -> str:
        """The file with the bug."""
        text = (SOURCES / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times, not once: {self.old}")
        return text.replace(self.old, self.new)


MUTANTS = {
    "an index off by one": Mutant(
        "cuda/sampler.cuh",
        "right_(at.x.k + 1 < g.Gw ?",
        "right_(at.x.k + 1 < g.Gw + 1 ?",
        "slice",
        "slice",
        "plain",
        OutOfBounds,
    ),
    "a lost last pixel": Mutant(
        "cuda/tiles.cuh",
        "for (int64_t e = threadIdx.x; e < tile.count * channels; e += blockDim.x) {",
        "for (int64_t e = threadIdx.x; e < (tile.count - 1) * channels; e += blockDim.x) {",
        "apply",
        "apply",
        "3 to 4",
        Uninitialised,
    ),
    "a pixel beyond the last": Mutant(
        "cuda/splatter.cuh",
        "if (p >= tile.count) continue;",
        "if (p > tile.count) continue;",
        "slice",
        "slice",
        "plain",
        OutOfBounds,
    ),
    "swapped strides": Mutant(
        "cuda/apply.cu",
        "i * t.strides[3] + j * t.strides[4]",
        "i * t.strides[4] + j * t.strides[3]",
        "apply",
        "apply",
        "no offset 4 to 3",
        KernelError,
    ),
    "a transposed matrix": Mutant(
        "cuda/guides/curves.cuh",
        "d_in[m][j] = mul_add(ccm[3 * i + j], d_q, d_in[m][j]);",
        "d_in[m][j] = mul_add(ccm[3 * j + i], d_q, d_in[m][j]);",
        "guide",
        "guide_curves",
        "many knots",
        AssertionError,
    ),
    "a missing barrier": Mutant(
        "cuda/total_variation.cu",
        "    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;\n    __syncthreads();",
        "    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;",
        "total_variation",
        "total_variation",
        "plain",
        Race,
    ),
    "a missing barrier between turns": Mutant(
        "cuda/apply.cu",
        "    load_planes(a.image, tile, Ci, scratch.width, in);\n    __syncthreads();",
        "    load_planes(a.image, tile, Ci, scratch.width, in);",
        "apply",
        "apply",
        "3 to 4",
        Race,
    ),
    "a missing warp barrier": Mutant(
        "cuda/apply_34.cuh",
        "      guide.four(begun, guide_from, mask, pixels, depths);\n      __syncwarp();",
        "      guide.four(begun, guide_from, mask, pixels, depths);",
        "slice_apply",
        "slice_apply",
        "wide",
        Race,
    ),
    "a barrier that not all reach": Mutant(
        "cuda/total_variation.cu",
        "      sums[unit] = total;\n    }\n    __syncthreads();",
        "      sums[unit] = total;\n      __syncthreads();\n    }",
        "total_variation",
        "total_variation",
        "plain",
        BarrierError,
    ),
    "a shuffle of lanes that are not there": Mutant(
        "cuda/reduction.cuh",
        "for (int64_t i = threadIdx.x % 32; i < count; i += 32) sum += from[i * step];\n  return warp_sum(sum);",
        "if (threadIdx.x % 32 >= count) return 0.0;\n"
        "  for (int64_t i = threadIdx.x % 32; i < count; i += 32) sum += from[i * step];\n  return warp_sum(sum);",
        "total_variation",
        "total_variation",
        "plain",
        BadMask,
    ),
    "a sum that threads share without atomics": Mutant(
        "cuda/splatter.cuh",
        "sums[cell * step + own] += static_cast<double>",
        "sums[cell * step + own / 2] += static_cast<double>",
        "slice",
        "slice",
        "plain",
        Race,
    ),
    "a sum that blocks share without atomics": Mutant(
        "cuda/guide.cu",
        "sums[blockIdx.x * int64_t(elements) + e] =",
        "sums[e] =",
        "guide",
        "guide_nn",
        "wide batched",
        Race,
    ),
    "a sum that nobody zeroed": Mutant(
        "cuda/guide.cu",
        "for (int e = lane; e < count; e += 32) total[e] = 0.0;",
        "",
        "guide",
        "guide_nn",
        "plain",
        Uninitialised,
    ),
    "the wrong side of a cell": Mutant(
        "cuda/splatter.cuh",
        "const T weight = (y ? ty : T(1) - ty)",
        "const T weight = (y ? T(1) - ty : ty)",
        "slice",
        "slice",
        "plain",
        AssertionError,
    ),
    "planes that are written while they are read": Mutant(
        "cuda/band_gradients.cuh",
        "__syncwarp();  // the planes of the previous rows have been read",
        "",
        "slice_apply",
        "slice_apply",
        "large, many bands",
        Race,
    ),
    "a rectangle left out": Mutant(
        "cuda/splatter.cuh",
        "k <= bottom; ++k",
        "k < bottom; ++k",
        "slice",
        "slice",
        "wide",
        AssertionError,
    ),
    "a search that stops early": Mutant(
        "cuda/guides/curves.cuh",
        "while ((step /= 2) >= kEntry)",
        "while ((step /= 2) > kEntry)",
        "guide",
        "guide_curves",
        "many knots",
        AssertionError,
    ),
    "a sum that goes on in the next cell": Mutant(
        "cuda/scattered.cuh",
        "          sum[i] = 0.0f;\n",
        "",
        "slice_apply",
        "slice_apply",
        "xy",
        AssertionError,
    ),
    "contributions that are read too early": Mutant(
        "cuda/scattered_34.cuh",
        "  __syncwarp();\n  add_contributions<kPixels, 3>",
        "  add_contributions<kPixels, 3>",
        "slice_apply",
        "slice_apply",
        "xy",
        Race,
    ),
    "a maximum that is read as any memory is": Mutant(
        "cuda/cell_sums.cuh",
        "*static_cast<volatile uint32_t*>(largest)",
        "*largest",
        "slice_apply",
        "slice_apply",
        "xy",
        Race,
    ),
    "integers that are too large": Mutant(
        "cuda/cell_sums.cuh",
        "to.bits + 126 -",
        "to.bits + 140 -",
        "slice_apply",
        "slice_apply",
        "xy",
        AssertionError,
    ),
    "bands that leave a row out": Mutant(
        "cuda/resize_area.cu",
        "end = rows.begin + size * (band + 1) / a.bands;",
        "end = rows.begin + size * (band + 1) / a.bands - (band + 1 < a.bands);",
        "resize_area",
        "resize_area",
        "to one pixel",
        AssertionError,
    ),
    "the sums of an image for its grid's": Mutant(
        "cuda/splatter.cuh",
        "if (grid_of(g.index, n, 0, 0) == m) sum +=",
        "if (n == m) sum +=",
        "slice_apply",
        "slice_apply",
        "index wide",
        AssertionError,
    ),
    "a ray's image for its grid": Mutant(
        "cuda/scattered_34.cuh",
        "const int64_t m = g.grid_at(at.n, at.y, at.x);",
        "const int64_t m = g.grid_at(at.n);",
        "slice_apply",
        "slice_apply",
        "index of pixels corners",
        AssertionError,
    ),
    "a row with the footprint of another": Mutant(
        "cuda/resize_area.cu",
        "at.begin != previous.begin || at.end != previous.end ||",
        "",
        "resize_area",
        "resize_area",
        "enlarged, whole ratio",
        AssertionError,
    ),
    "a strip that is written while it is read": Mutant(
        "cuda/resize_area.cu",
        "__syncwarp();  // the strip has been read",
        "",
        "resize_area",
        "resize_area",
        "enlarged",
        Race,
    ),
    "a single pixel that counts twice": Mutant(
        "cuda/resize_area.cu",
        "Weights{0.5 * at.head, 0.5 * at.head}",
        "Weights{at.head, at.head}",
        "resize_area",
        "resize_area",
        "enlarged",
        AssertionError,
    ),
    "a strip that does not begin at a vector": Mutant(
        "cuda/resize_area.cu",
        "static_cast<int>(to.begin * a.channels % 4)",
        "0",
        "resize_area",
        "resize_area",
        "rows in parts",
        Misaligned,
    ),
    "shared memory too short": Mutant(
        "cuda/tiles.cuh",
        "to[c * pitch + p] = load_one<T>",
        "to[(c + 1) * pitch + p] = load_one<T>",
        "apply",
        "apply",
        "3 to 4",
        OutOfBounds,
    ),
}


def planted(mutant: Mutant, folder: Path) -> Path:
    """A copy of csrc/ with the bug."""
    copy = folder / "csrc"
    shutil.copytree(SOURCES, copy)
    (copy / mutant.file).write_text(mutant.text())
    return copy


def kernels(nvcc: str, csrc: Path, name: str, architecture: int, folder: Path) -> dict[str, Kernel]:
    """The kernels of csrc/cuda/NAME.cu, compiled as the package compiles them."""
    out = folder / f"{name}.ptx"
    options = ["-std=c++17", "-O3", "-fmad=false", f"-arch=compute_{architecture}", "-ptx"]
    subprocess.run([nvcc, *options, "-o", out, csrc / "cuda" / f"{name}.cu"], check=True)
    return parse(out.read_text())
