"""Does fit find the grid that turns one image into another?"""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

import bilateral_ops
from bilateral_ops import fit, slice_apply, total_variation
from bilateral_ops._core.missing import install

pytest.importorskip("scipy", reason="SciPy is not installed")

CELLS = (3, 4, 5)


def problem(N=None, H=24, W=20, Co=3, Ci=3, cells=CELLS, dtype=np.float64, seed=0):
    """A guide, an image and a grid of the sizes asked for; the guide reaches every depth."""
    rng = np.random.default_rng(seed)
    batch = () if N is None else (N,)
    guide = rng.random((*batch, H, W)).astype(dtype)
    image = rng.random((*batch, H, W, Ci)).astype(dtype)
    grid = rng.standard_normal((*batch, *cells, Co, Ci + 1)).astype(dtype)
    return guide, image, grid


def objective(grid, guide, image, target, smoothness):
    return np.mean((slice_apply(grid, guide, image) - target) ** 2) + smoothness * total_variation(grid[None])[0]


@pytest.mark.parametrize(("Co", "Ci"), [(3, 3), (4, 3), (3, 4), (1, 1)])
def test_a_known_grid_is_found(Co, Ci):
    guide, image, grid = problem(H=48, W=48, Co=Co, Ci=Ci)
    found = fit(guide, image, slice_apply(grid, guide, image), CELLS, smoothness=0, iterations=400)
    assert found.shape == grid.shape
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, grid, atol=1e-5)


def test_float32_finds_it_too():
    guide, image, grid = problem(H=48, W=48, dtype=np.float32)
    target = slice_apply(grid, guide, image)
    found = fit(guide, image, target, CELLS, smoothness=0, iterations=400)
    assert found.dtype == np.float32
    assert np.abs(slice_apply(found, guide, image) - target).max() < 2e-3
    np.testing.assert_allclose(found, grid, atol=0.05)


def test_the_solution_of_the_normal_equations():
    """Against a dense solve of the equation in the docstring, with a weight on smoothness that matters."""
    guide, image, _ = problem(H=7, W=6, Ci=1, Co=2, cells=(2, 3, 2))
    target = np.random.default_rng(1).random((7, 6, 2))
    shape, smoothness = (2, 3, 2, 2, 2), 0.05
    unit = np.eye(np.prod(shape)).reshape(-1, *shape)
    forward = np.stack([slice_apply(e, guide, image).ravel() for e in unit], axis=1)
    variation = np.stack(
        [bilateral_ops.total_variation_vjp(e[None], np.ones(1)).grid.ravel() / 2 for e in unit], axis=1
    )
    expected = np.linalg.solve(
        forward.T @ forward / target.size + smoothness * variation, forward.T @ target.ravel() / target.size
    )
    found = fit(guide, image, target, shape[:3], smoothness=smoothness, iterations=300)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothness", [0, 1e-3, 1.0])
def test_an_image_that_is_its_own_target_keeps_the_identity(dtype, smoothness):
    guide, image, _ = problem(N=2, dtype=dtype)
    identity = np.broadcast_to(np.eye(3, 4), (2, *CELLS, 3, 4))
    assert np.array_equal(fit(guide, image, image, CELLS, smoothness=smoothness), identity)


def test_a_batch_is_its_images():
    guide, image, grid = problem(N=3)
    target = slice_apply(grid, guide, image)
    whole = fit(guide, image, target, CELLS, iterations=20)
    assert whole.shape == grid.shape
    for n in range(3):
        assert np.array_equal(whole[n], fit(guide[n], image[n], target[n], CELLS, iterations=20))


def test_each_iteration_lowers_the_objective():
    guide, image, grid = problem(seed=3)
    target = slice_apply(grid, guide, image)
    seen = []

    def callback(iteration, grid):
        seen.append((iteration, objective(grid, guide, image, target, 1e-3)))
        grid[...] = 0  # a copy

    found = fit(guide, image, target, CELLS, smoothness=1e-3, iterations=12, callback=callback)
    assert [iteration for iteration, _ in seen] == list(range(1, 13))
    values = [value for _, value in seen]
    assert all(after < before for before, after in itertools.pairwise(values))
    assert values[-1] == objective(found, guide, image, target, 1e-3)
    assert values[-1] < 0.05 * objective(np.broadcast_to(np.eye(3, 4), found.shape), guide, image, target, 1e-3)


def test_the_callback_counts_on_through_a_batch():
    guide, image, grid = problem(N=2)
    seen = []
    fit(
        *(guide, image, slice_apply(grid, guide, image), CELLS),
        iterations=3,
        callback=lambda iteration, grid: seen.append((iteration, grid.shape)),
    )
    assert seen == [(k, grid.shape) for k in range(1, 7)]


def test_smoothness_smooths_and_fills_empty_cells():
    guide, image, grid = problem()
    target = slice_apply(grid, guide, image)
    rough, smooth = (fit(guide, image, target, CELLS, smoothness=s) for s in (1e-4, 1.0))
    assert total_variation(smooth[None])[0] < 0.1 * total_variation(rough[None])[0]
    dark = guide * 0.4  # nothing in the upper depths
    halved = image * 0.5
    kept = fit(dark, image, halved, CELLS, smoothness=0)
    assert np.array_equal(kept[..., 3:, :, :], np.broadcast_to(np.eye(3, 4), kept[..., 3:, :, :].shape))
    filled = fit(dark, image, halved, CELLS, smoothness=1e-4, iterations=300)
    np.testing.assert_allclose(filled, np.broadcast_to(0.5 * np.eye(3, 4), filled.shape), atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint8", "uint16"])
def test_other_dtypes_are_read_as_float32(dtype):
    _, image, _ = problem(H=12, W=10)
    if dtype == "bfloat16":
        image = image.astype(pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16)
    elif dtype == "float16":
        image = image.astype(np.float16)
    else:
        image = (image * np.iinfo(dtype).max).astype(dtype)
    unit = image.astype(np.float32) / (np.iinfo(dtype).max if dtype.startswith("u") else 1)
    target = 0.5 * unit
    found = fit(bilateral_ops.LumaGuide()(unit), image, target, CELLS, iterations=5)
    assert found.dtype == np.float32
    assert np.array_equal(found, fit(bilateral_ops.LumaGuide()(unit), unit, target, CELLS, iterations=5))
    by_record = fit(bilateral_ops.LumaGuide(), image, target, CELLS, iterations=5)
    np.testing.assert_allclose(by_record, found, atol=2e-2 if "float" in dtype else 1e-4)


def test_float64_anywhere_means_float64():
    guide, image, grid = problem(dtype=np.float32)
    target = slice_apply(grid, guide, image).astype(np.float64)
    assert fit(guide, image, target, CELLS, iterations=2).dtype == np.float64


def test_views_and_read_only_arrays():
    guide, image, grid = problem()
    target = slice_apply(grid, guide, image)
    expected = fit(guide, image, target, CELLS, iterations=5)
    views = [np.asfortranarray(guide)[::-1][::-1], np.moveaxis(np.moveaxis(image, -1, 0).copy(), 0, -1), target.copy()]
    for view in views:
        view.flags.writeable = False
    assert np.array_equal(fit(*views, CELLS, iterations=5), expected)


def test_empty_images():
    assert fit(np.zeros((0, 4)), np.zeros((0, 4, 3)), np.zeros((0, 4, 3)), CELLS).shape == (*CELLS, 3, 4)
    assert fit(np.zeros((0, 4, 4)), np.zeros((0, 4, 4, 3)), np.zeros((0, 4, 4, 1)), CELLS).shape == (0, *CELLS, 1, 4)
    one = fit(np.zeros((1, 1)), np.ones((1, 1, 3)), np.full((1, 1, 3), 0.5), (1, 1, 1))
    np.testing.assert_allclose(slice_apply(one, np.zeros((1, 1)), np.ones((1, 1, 3))), 0.5, atol=1e-5)


def raises(error, sentence, *arguments, **keywords):
    with pytest.raises(error) as caught:
        fit(*arguments, **keywords)
    assert str(caught.value) == f"fit: {sentence}"


def test_sentences():
    guide, image, _ = problem()
    good = guide, image, image, CELLS
    raises(TypeError, "image must be a NumPy array, got list.", guide, image.tolist(), image, CELLS)
    raises(
        TypeError,
        "target must be float16, bfloat16, float32, float64, uint8 or uint16, got int64.",
        *(guide, image, image.astype(np.int64), CELLS),
    )
    raises(ValueError, "guide must have shape (H, W) or (N, H, W), got (24,).", guide[:, 0], image, image, CELLS)
    raises(
        ValueError,
        "target must have shape (H, W, Co) = (24, 20, *) to match guide, got (12, 20, 3).",
        *(guide, image, image[::2], CELLS),
    )
    raises(
        ValueError,
        "image must have shape (N, H, W, Ci) = (1, 24, 20, *) to match guide, got (24, 20, 3).",
        *(guide[None], image, image, CELLS),
    )
    raises(ValueError, "target must be finite, got nan.", guide, image, image * np.nan, CELLS)
    raises(TypeError, "grid_shape must be three sizes of at least 1 (Gh, Gw, Gd), got 16.", guide, image, image, 16)
    raises(
        TypeError,
        "grid_shape must be three sizes of at least 1 (Gh, Gw, Gd), got (1.5, 2, 2).",
        guide,
        image,
        image,
        (1.5, 2, 2),
    )
    raises(
        ValueError,
        "grid_shape must be three sizes of at least 1 (Gh, Gw, Gd), got (4, 4).",
        *(guide, image, image, (4, 4)),
    )
    raises(
        ValueError,
        "grid_shape must be three sizes of at least 1 (Gh, Gw, Gd), got (4, 0, 4).",
        *(guide, image, image, (4, 0, 4)),
    )
    for given, name in ((bilateral_ops.LumaGuide, "type"), ([0], "list")):
        sentence = f"guide must be a NumPy array, CurvesGuide, NNGuide or LumaGuide, got {name}."
        raises(TypeError, sentence, given, image, image, (2, 2, 2))
    raises(ValueError, "smoothness must be at least 0 and finite, got -1.0.", *good, smoothness=-1)
    raises(ValueError, "smoothness must be at least 0 and finite, got nan.", *good, smoothness=np.nan)
    raises(TypeError, "smoothness must be a number, got str.", *good, smoothness="much")
    raises(TypeError, "iterations must be an int, got float.", *good, iterations=1.5)
    raises(ValueError, "iterations must be at least 1, got 0.", *good, iterations=0)
    raises(TypeError, "callback must be callable, got int.", *good, callback=1)


def test_without_scipy_the_sentence_says_what_to_install():
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['scipy.sparse'] = sys.modules['scipy.sparse.linalg'] = None\n"
        "import numpy as np, bilateral_ops\n"
        "a = np.zeros((4, 4, 3))\n"
        "for kind in (ImportError, RuntimeError):\n"
        "    try:\n"
        "        bilateral_ops.fit(a[..., 0], a, a + 1, (2, 2, 2))\n"
        "    except kind as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"fit needs SciPy, which is not installed; {install('fit')}."] * 2
