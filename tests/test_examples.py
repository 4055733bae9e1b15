"""Do the examples do what they say?"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    ALL_F32,
    F32,
    F64,
    SANITIZED,
    U8,
    Dtypes,
    arguments,
    assert_gradient,
    assert_same_bits,
    contributions,
    python,
)

import bilateral_ops

FOLDER = Path(__file__).parent.parent / "examples"


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------------------------------------
# dask_tiles.py, whose da and zarr are Dask and Zarr
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiles() -> Any:
    if SANITIZED:
        pytest.skip("Dask's memory is not what is looked at under AddressSanitizer")
    for name in ("dask.array", "zarr", "distributed"):
        pytest.importorskip(name, reason="needs bilateral_ops[dask]")
    return loaded("dask_tiles")


CHUNKS = ((13, 20, 7), (11, 30, 22, 1), (3,))
THREADS = {"scheduler": "threads", "num_workers": 3}


@pytest.mark.parametrize("dtypes", [ALL_F32, Dtypes(U8, F32, F32)], ids=["float32", "uint8"])
@pytest.mark.parametrize("subject", ["enhance(curves)", "enhance(luma)"])
def test_tiles_of_an_enhanced_image_equal_the_whole(tiles: Any, subject: str, dtypes: Dtypes) -> None:
    given = arguments(subject, dtypes, H=40, W=64, Gh=5, Gw=6, Gd=8, Co=4)
    whole = bilateral_ops.enhance(**given)
    image = tiles.da.from_array(given["image"], chunks=CHUNKS)
    lazy = tiles.enhanced(given["grid"], given["guide"], image)
    assert (lazy.shape, lazy.dtype, lazy.chunks) == (whole.shape, whole.dtype, (*CHUNKS[:2], (4,)))
    assert_same_bits(lazy.compute(**THREADS), whole)


def test_the_gradients_of_tiles_add_up_to_the_whole_gradient(tiles: Any) -> None:
    given = arguments("enhance(luma)", ALL_F32, H=40, W=64, Gh=5, Gw=6, Gd=8)
    grid, guide, image = given.values()
    target = np.random.default_rng(1).random(image.shape, dtype=F32)
    at = guide(image)
    grad = bilateral_ops.slice_apply(grid, at, image) - target
    whole = bilateral_ops.slice_apply_vjp(grid, at, image, grad).grid

    parts = [tiles.da.from_array(array, chunks=CHUNKS) for array in (image, target)]
    summed = tiles.grid_gradient(grid, guide, *parts)
    assert (summed.shape, summed.dtype) == (grid.shape, F64)
    exact = {name: array.astype(F64) for name, array in {"grid": grid, "guide": at, "image": image}.items()}
    bound = contributions("slice_apply", exact, grad.astype(F64))["grid"]
    assert_gradient(whole, summed.compute(**THREADS), bound, F32)


#: Runs in a fresh process, which may take that many bytes more than it has once its libraries' threads run: stacks
#: of threads that start later, and what the allocator sets aside for them, would count as well.
_LIMITED = """
import resource, sys, threading
threading.stack_size(1 << 20)
import dask, dask.array as da, numpy as np, zarr
sys.path.insert(0, sys.argv[1])
import dask_tiles, bilateral_ops
before, after, gradient, how, spare = sys.argv[2:]

def run(image, output):
    grid, guide = dask_tiles.curve_grid(), bilateral_ops.LumaGuide()
    dask_tiles.to_zarr(dask_tiles.enhanced(grid, guide, image), output).compute()
    return dask_tiles.grid_gradient(0.9 * grid, guide, image, da.from_zarr(output)).compute()

bilateral_ops.set_num_threads(1)
zarr.config.set({"threading.max_workers": 2})
with dask.config.set(scheduler="threads", num_workers=2):
    run(dask_tiles.photograph(96, 96, 32), after)  # starts all threads
    taken = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (taken + int(spare),) * 2)
    image = da.from_zarr(before)
    if how == "whole":
        image = da.from_array(zarr.open(before)[:], chunks=image.chunks)
    np.save(gradient, run(image, after))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux is asked how much memory a process has")
def test_an_image_over_the_limit_of_memory(tiles: Any, tmp_path: Path) -> None:
    picture = tiles.photograph(6000, 6000, 500)
    spare = picture.nbytes // 2
    before, after, gradient = (tmp_path / name for name in ("before.zarr", "after.zarr", "gradient.npy"))
    tiles.to_zarr(picture, before).compute(**THREADS)

    def limited(how: str) -> subprocess.CompletedProcess[str]:
        values = (FOLDER, before, after, gradient, how, spare)
        script = f"import sys; sys.argv[1:] = {[str(value) for value in values]}\n{_LIMITED}"
        return python(script, timeout=120, OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1")

    finished = limited("tiles")
    assert finished.returncode == 0, finished.stderr
    image, result = (tiles.zarr.open(path)[:] for path in (before, after))
    grid, guide = tiles.curve_grid(), bilateral_ops.LumaGuide()
    assert_same_bits(result, bilateral_ops.enhance(grid, guide, image))

    pixels = image.astype(F32) / F32.type(255)
    at = guide(pixels)
    difference = bilateral_ops.slice_apply(0.9 * grid, at, pixels) - result.astype(F32) / F32.type(255)
    whole = bilateral_ops.slice_apply_vjp(0.9 * grid, at, pixels, difference, wrt="grid").grid
    # No pixel is negative: this is the sum of the terms' absolute values.
    bound = bilateral_ops.slice_apply_vjp(0.9 * grid, at, pixels, np.abs(difference), wrt="grid").grid
    assert_gradient(whole, np.load(gradient), bound, F32)

    finished = limited("whole")
    assert finished.returncode == 1
    assert "MemoryError" in finished.stderr


def test_the_example_runs_on_a_cluster_of_processes(tiles: Any, tmp_path: Path) -> None:
    small = ["--megapixels", "0.6", "--tile", "256", "--workers", "2", "--folder", str(tmp_path)]
    command = [sys.executable, str(FOLDER / "dask_tiles.py"), *small]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert "948 × 632 pixels: 1.71 MiB, 12 tiles" in finished.stdout
    assert finished.stdout.count("100% Completed") == 3
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# exposures.py
# ---------------------------------------------------------------------------------------------------------------------


def test_exposures_are_recovered(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs bilateral_ops[torch]")
    found = loaded("exposures").main(["--views", "8", "--steps", "200"])
    assert found["error"] < 0.15  # of exposures that differ by 1.6 stops
    assert found["corrected"] > found["plain"] + 10
    assert capsys.readouterr().out.count("true") == 8
