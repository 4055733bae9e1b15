"""Is the network the original's, does prediction give what was trained, and is a model file what it says?"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import pickle
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import FakeArray, FakeKernels, from_torch, to_torch
from cases import BF16, F16, F32, F64, HAS_BF16, U8, U16, half_ulp, python, tolerance, weights_of
from damage import damaged_bytes, damaged_json

from bilateral_ops.frameworks import _dlpack
from bilateral_ops.hdrnet import Config, Predictor, from_hdrnet, read_model, write_model
from bilateral_ops.hdrnet._config import layers, shapes
from bilateral_ops.hdrnet._weights import _MAX_HEADER, check_weights
from bilateral_ops.reference import numpy as reference

#: Every option, on a network of a few pixels. 12 is no power of two, and halves to odd numbers of cells.
SMALL: dict[str, Any] = {"net_input": 48, "spatial_bin": 12, "luma_bins": 4}
VARIANTS = {
    "curves": Config(**SMALL),
    "nn": Config(**SMALL, guide="nn", guide_complexity=5),
    "pyramid": Config(**SMALL, guide="nn", scales=3),
    "curves, normalised": Config(**SMALL, batch_norm=True, channel_multiplier=2, guide_complexity=7),
    "nn, normalised": Config(**SMALL, batch_norm=True, guide="nn"),
    "pyramid, normalised": Config(**SMALL, batch_norm=True, guide="nn", scales=3),
    "pyramid of curves": Config(**SMALL, scales=3),
    "luma": Config(**SMALL, guide="luma"),
    "no global path": Config(**SMALL, batch_norm=True, global_path=False),
    "no depth": Config(**{**SMALL, "luma_bins": 1}, channel_multiplier=4),
    "one cell": Config(net_input=2, spatial_bin=1, luma_bins=2),
    "a port": Config(**SMALL, padding="symmetric", global_convolutions=1, guide="nn", guide_norm=False, xy="corners"),
    "a port, zeros": Config(
        **SMALL, padding_mode="zeros", grid_axes="xyz", guide_range="-1..1", global_convolutions=0, reduce="nearest"
    ),
    "a port, corners": Config(**SMALL, align_corners=True, guide_range="-1..1", xy="corners", grid_axes="yzx"),
    "wide": Config(**{**SMALL, "net_input": (24, 40), "spatial_bin": (6, 10)}, padding="symmetric"),
}
#: Those that google/hdrnet has.
ORIGINAL = [name for name, c in VARIANTS.items() if c.global_path and c.guide == ("nn" if c.scales > 1 else c.guide)]
ORIGINAL = ORIGINAL[: ORIGINAL.index("one cell") + 1]
ORIGINAL.remove("luma")
EACH = pytest.mark.parametrize("config", VARIANTS.values(), ids=list(VARIANTS))
EACH_ORIGINAL = pytest.mark.parametrize("config", [VARIANTS[name] for name in ORIGINAL], ids=ORIGINAL)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def image_of(shape: tuple[int, int], dtype: Any = F32, seed: int = 1) -> Any:
    image = np.random.default_rng(seed).random((*shape, 3))
    most = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    return (image * most).astype(dtype)


def in_floats(image: Any) -> Any:
    most = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
    return image.astype(np.float64) / most


def assert_near(got: Any, want: Any, dtype: Any = F32) -> None:
    """To the table's tolerance, which is one of a number's own size: a network's are sums of many of the largest's."""
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance(dtype).forward * max(1, np.abs(want).max())


# ---------------------------------------------------------------------------------------------------------------------
# The original's graph, in plain loops; variables are made up as they are asked for
# ---------------------------------------------------------------------------------------------------------------------


class Original:
    """google/hdrnet's inference of one image, in float64."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rng = np.random.default_rng(4)
        self.variables: dict[str, Any] = {"global_step": np.int64(7)}

    def variable(self, name: str, shape: tuple[int, ...], deviation: float = 0.3) -> Any:
        name = f"inference/{name}"
        if name not in self.variables:
            self.variables[name] = (self.rng.standard_normal(shape) * deviation).astype(np.float32)
        return self.variables[name].astype(np.float64)

    def finish(self, x: Any, name: str, norm: bool, bias: bool, relu: bool) -> Any:
        channels = x.shape[-1:]
        if norm:
            mean = self.variable(f"{name}/BatchNorm/moving_mean", channels)
            variance = f"{name}/BatchNorm/moving_variance"
            self.variables.setdefault(f"inference/{variance}", self.rng.uniform(0.5, 2, channels).astype(np.float32))
            x = (x - mean) / np.sqrt(self.variable(variance, channels) + 0.001)
            x = x + self.variable(f"{name}/BatchNorm/beta", channels)
        elif bias:
            x = x + self.variable(f"{name}/biases", channels)
        return np.maximum(x, 0) if relu else x

    def conv(
        self, x: Any, outputs: int, size: int, name: str, *, stride: int = 1, norm: bool = False, **end: bool
    ) -> Any:
        height, width, inputs = x.shape
        w = self.variable(f"{name}/weights", (size, size, inputs, outputs), np.sqrt(2 / (size * size * inputs)))
        pads = [max(size - (n % stride or stride), 0) for n in (height, width)]
        x = np.pad(x, [(p // 2, p - p // 2) for p in pads] + [(0, 0)])
        out = np.zeros((-(-height // stride), -(-width // stride), outputs))
        for i, j in np.ndindex(out.shape[:2]):
            patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.einsum("yxc,yxco->o", patch, w)
        return self.finish(out, name, norm, **{"bias": True, "relu": True, **end})

    def fc(self, x: Any, outputs: int, name: str, norm: bool, relu: bool = True) -> Any:
        w = self.variable(f"{name}/weights", (len(x), outputs), np.sqrt(2 / len(x)))
        return self.finish(x @ w, name, norm, True, relu)

    def coefficients(self, low: Any) -> Any:
        c, norm = self.config, self.config.batch_norm
        gd, cm, rows = c.luma_bins, c.channel_multiplier, 3 * c.scales
        x = low
        for i in range(int(np.log2(c.net_input / c.spatial_bin))):
            name = f"coefficients/splat/conv{i + 1}"
            x = self.conv(x, cm * 2**i * gd, 3, name, stride=2, norm=norm and i > 0)
        splat = x
        for i in range(2):
            x = self.conv(x, 8 * cm * gd, 3, f"coefficients/global/conv{i + 1}", stride=2, norm=norm)
        x = x.reshape(-1)
        x = self.fc(x, 32 * cm * gd, "coefficients/global/fc1", norm)
        x = self.fc(x, 16 * cm * gd, "coefficients/global/fc2", norm)
        vector = self.fc(x, 8 * cm * gd, "coefficients/global/fc3", False, relu=False)
        x = self.conv(splat, 8 * cm * gd, 3, "coefficients/local/conv1", norm=norm)
        x = self.conv(x, 8 * cm * gd, 3, "coefficients/local/conv2", bias=False, relu=False)
        x = np.maximum(x + vector, 0)
        x = self.conv(x, gd * rows * 4, 1, "coefficients/prediction/conv1", relu=False)
        x = np.stack(np.split(x, rows * 4, axis=2), axis=3)
        return np.stack(np.split(x, 4, axis=3), axis=4)  # (Gh, Gw, Gd, rows, 4)

    def guide(self, image: Any, name: str) -> Any:
        size = self.config.guide_complexity
        if self.config.guide == "nn":
            features = self.conv(image, size, 1, f"{name}/conv1", norm=True)
            return 1 / (1 + np.exp(-self.conv(features, 1, 1, f"{name}/conv2", relu=False)[..., 0]))
        q = image @ self.variable(f"{name}/ccm", (3, 3), 0.6) + self.variable(f"{name}/ccm_bias", (3,))
        shifts = self.variable(f"{name}/shifts", (1, 1, 3, size))
        slopes = self.variable(f"{name}/slopes", (1, 1, 1, 3, size))[0]
        curves = (slopes * np.maximum(q[..., None] - shifts, 0)).sum(-1)
        return np.clip(self.conv(curves, 1, 1, f"{name}/channel_mixing", relu=False)[..., 0], 0, 1)

    def output(self, grid: Any, image: Any) -> Any:
        if self.config.scales == 1:
            return reference.slice_apply(grid, self.guide(image, "guide"), image)
        levels = [image]
        for _ in range(2):
            levels.append(stretched(levels[-1], [n // 2 for n in levels[-1].shape[:2]]))
        current: Any = None
        for i, number in enumerate((2, 1, 0)):
            level = levels[number]
            guide = self.guide(level, f"guide/level_{number}")
            out = reference.slice_apply(grid[..., 3 * i : 3 * i + 3, :], guide, level)
            current = out if current is None else stretched(current, out.shape[:2]) + out
        return current


def stretched(image: Any, size: Any) -> Any:
    """Bilinear, the corners aligned."""
    for axis, length in enumerate(size):
        at = np.linspace(0, image.shape[axis] - 1, length)
        image = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, image)
    return image


@EACH_ORIGINAL
def test_prediction_is_the_originals(config: Config) -> None:
    original = Original(config)
    image, low = in_floats(image_of((29, 46))), in_floats(image_of((config.net_input,) * 2))
    grid = original.coefficients(low)
    want = original.output(grid, image)
    predictor = Predictor(config, from_hdrnet(original.variables, config))
    assert_near(predictor.grid(low.astype(np.float32)), grid)
    assert_near(predictor.render(grid.astype(np.float32), image), want)


@EACH_ORIGINAL
def test_the_model_is_the_originals(config: Config, torch: Any, tmp_path: Path) -> None:
    from bilateral_ops.hdrnet import HDRNet

    original = Original(config)
    image, low = in_floats(image_of((29, 46))), in_floats(image_of((config.net_input,) * 2))
    grid = original.coefficients(low)
    want = original.output(grid, image)
    write_model(tmp_path / "model.safetensors", config, from_hdrnet(original.variables, config))
    model = HDRNet.load(tmp_path / "model.safetensors", dtype=torch.float64).eval()
    with torch.no_grad():
        assert_near(model.coefficients(torch.from_numpy(low)[None])[0].numpy(), grid, F64)
        assert_near(model.render(torch.from_numpy(grid)[None], torch.from_numpy(image)[None])[0].numpy(), want, F64)


def test_the_originals_variables_are_checked() -> None:
    config = VARIANTS["curves"]
    original = Original(config)
    original.output(original.coefficients(image_of((48, 48))), image_of((4, 4)))
    given = original.variables
    assert from_hdrnet({k.removeprefix("inference/"): v for k, v in given.items()}, config, scope="")
    name = "inference/coefficients/splat/conv1/weights"
    with pytest.raises(ValueError, match=f"^from_hdrnet: variables must have {name} for this configuration.$"):
        from_hdrnet({k: v for k, v in given.items() if k != name}, config)
    with pytest.raises(ValueError, match=rf"^from_hdrnet: {name} must have shape \(3, 3, 3, 4\), got \(3, 3\).$"):
        from_hdrnet({**given, name: np.zeros((3, 3))}, config)
    with pytest.raises(ValueError, match=r"^from_hdrnet: config must be of a network that the original has"):
        from_hdrnet(given, VARIANTS["luma"])
    with pytest.raises(ValueError, match=r"^from_hdrnet: config must be of a network that the original has"):
        from_hdrnet(given, dataclasses.replace(config, padding="symmetric"))
    assert from_hdrnet(given, dataclasses.replace(config, reduce="nearest")).keys() == shapes(config).keys()


# ---------------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------------


@EACH
def test_shapes(config: Config, torch: Any) -> None:
    from bilateral_ops.hdrnet import HDRNet

    model = HDRNet(config)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == shapes(config)
    image = torch.rand(2, 3, 29, 46).movedim(1, -1)  # channels first in memory
    grid = model.coefficients(model.low_resolution(image))
    assert grid.shape == (2, *config.grid_shape)
    assert model(image).shape == image.shape
    assert model.guide(image).shape == image.shape[:3]
    model(image).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_default_has_the_papers_sizes() -> None:
    plan = layers(Config())
    assert [layer.outputs for layer in plan.splat] == [8, 16, 32, 64]
    assert [(layer.inputs, layer.outputs) for layer in plan.global_connected] == [(1024, 256), (256, 128), (128, 64)]
    assert (plan.prediction.inputs, plan.prediction.outputs) == (64, 96)
    assert Config().grid_shape == (16, 16, 8, 3, 4)
    cells = {"splat": [128**2, 64**2, 32**2, 16**2], "local": [16**2] * 2, "global_convolutions": [8**2, 4**2]}
    products = 0
    for path, counts in {**cells, "global_connected": [1] * 3}.items():
        for layer, count in zip(getattr(plan, path), counts, strict=True):
            products += count * layer.outputs * layer.inputs * max(layer.size, 1) ** 2
    assert round((products + 16**2 * 64 * 96) / 1e6) == 41


def test_initial_values(torch: Any) -> None:
    from bilateral_ops.hdrnet import HDRNet

    torch.manual_seed(0)
    model = HDRNet(Config(batch_norm=True, guide="nn"))
    for module in model.coefficients.modules():
        if (weight := getattr(module, "weight", None)) is not None and weight.numel() > 1000:
            deviation = np.sqrt(2 / weight[0].numel())
            assert abs(weight.std() / deviation - 1) < 0.1
            assert weight.abs().max() <= 2 * np.sqrt(1.3) * deviation + 1e-6
    rest = {k: v for k, v in model.state_dict().items() if k.endswith(("bias", "b1", "b2", "running_mean"))}
    assert rest
    assert not any(value.any() for value in rest.values())


@pytest.mark.parametrize(
    "options", [{}, {"guide": "nn"}, {"batch_norm": True}, {"guide": "nn", "scales": 3}, {"guide": "luma"}]
)
def test_gradients_through_the_whole_model(options: dict[str, Any], torch: Any) -> None:
    from bilateral_ops.hdrnet import HDRNet

    torch.manual_seed(1)
    model = HDRNet(Config(net_input=8, spatial_bin=4, luma_bins=2, guide_complexity=3, **options), dtype=torch.float64)
    names, values = zip(*model.named_parameters())
    with torch.no_grad():
        for value in values:
            value += 0.05 * torch.randn_like(value)  # off the kinks that initial values are on
    image = torch.rand(2, 9, 13, 3, dtype=torch.float64, requires_grad=True)

    def call(image: Any, *values: Any) -> Any:
        return torch.func.functional_call(model, dict(zip(names, values)), image)

    assert torch.autograd.gradcheck(call, (image, *values), fast_mode=True)


def test_the_normalised_guide_is_a_convolution_with_batch_norm(torch: Any) -> None:
    from bilateral_ops.hdrnet.model import NormalizedNNGuide

    torch.manual_seed(2)
    guide = NormalizedNNGuide(5).double()
    image = torch.rand(2, 7, 9, 3, dtype=torch.float64, requires_grad=True)
    inputs = [image, *guide.parameters()]

    def plain(mean: Any, variance: Any) -> Any:
        features = torch.einsum("nhwc,fc->nfhw", image, guide.w1)
        F = torch.nn.functional
        x = F.batch_norm(features, mean, variance, None, guide.b1, guide.training, 0.01, 1e-3).relu()
        return torch.sigmoid(torch.einsum("nfhw,f->nhw", x, guide.w2) + guide.b2)

    running = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    want, got = plain(*running), guide(image)
    torch.testing.assert_close(got, want)
    cotangent = torch.rand_like(got)
    for a, b in zip(torch.autograd.grad(got, inputs, cotangent), torch.autograd.grad(want, inputs, cotangent)):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close((guide.running_mean, guide.running_var), running)
    guide.eval()
    torch.testing.assert_close(guide(image), plain(*running))
    frozen = guide.freeze()
    torch.testing.assert_close(frozen(image), guide(image))


def test_the_model_refuses_other_images(torch: Any) -> None:
    from bilateral_ops.hdrnet import HDRNet

    model = HDRNet(VARIANTS["one cell"])
    with pytest.raises(TypeError, match=r"^HDRNet: image must be of floats in \[0, 1\], got torch.uint8; Predictor"):
        model(torch.zeros((1, 4, 4, 3), dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"^HDRNet: image must have shape \(N, H, W, 3\), got \(1, 3, 4, 4\).$"):
        model(torch.zeros((1, 3, 4, 4)))
    with pytest.raises(TypeError, match=r"^HDRNet: config must be a Config, got dict.$"):
        HDRNet({"net_input": 256})


# ---------------------------------------------------------------------------------------------------------------------
# Prediction
# ---------------------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", [F32, F64, F16, BF16, U8, U16], ids=str)
def test_prediction_is_the_models(config: Config, dtype: Any, torch: Any, tmp_path: Path) -> None:
    """Trained, saved, loaded: the same to 1/255 at every pixel."""
    from bilateral_ops.hdrnet import HDRNet

    torch.manual_seed(3)
    model = HDRNet(config)
    for _ in range(5):  # running means and variances of their own
        model(torch.rand(2, 37, 53, 3))
    model.eval().save(tmp_path / "model.safetensors")
    image = image_of((37, 53), dtype)
    with torch.no_grad():
        want = model(torch.from_numpy(in_floats(image).astype(np.float32))[None])[0].numpy()
    for predictor in (Predictor.load(tmp_path / "model.safetensors"), model.freeze()):
        got = predictor(image)
        assert (got.dtype, got.shape) == (image.dtype, image.shape)
        if image.dtype.kind == "u":
            want = want.clip(0, 1)
        scale = 1 if np.dtype(dtype) != BF16 else np.abs(want).max().clip(1)  # stored in eight bits of their own
        assert np.abs(in_floats(got) - want).max() <= scale / 255


@EACH
def test_strength(config: Config) -> None:
    predictor = Predictor(config, weights_of(config))
    for dtype in (F32, F64, U8, U16):
        image = image_of((21, 34), dtype)
        result = predictor(image)
        assert not np.array_equal(result, image)
        same = predictor(image, strength=0)
        if config.scales == 1 or dtype in (U8, U16):
            np.testing.assert_array_equal(same, image)
        else:
            assert_near(same, image, dtype)
        np.testing.assert_array_equal(predictor(image, strength=1), result)
    image = image_of((21, 34), F64)
    for strength in (0.3, -0.5, 1.5):
        assert_near(predictor(image, strength=strength), image + strength * (predictor(image) - image))


@EACH
@pytest.mark.parametrize("dtype", [F32, U8], ids=str)
def test_windows_equal_the_whole(config: Config, dtype: Any) -> None:
    predictor = Predictor(config, weights_of(config))
    height, width, margin = 61, 90, predictor.margin
    image = image_of((height, width), dtype)
    grid = predictor.grid(predictor.low_resolution(image))
    whole = predictor.render(grid, image, strength=0.7)
    for top, left, bottom, right in [
        (0, 0, 61, 90),
        (0, 0, 30, 41),
        (25, 41, 61, 90),
        (25, 30, 40, 60),
        (60, 89, 61, 90),
    ]:
        above, before = max(top - margin, 0), max(left - margin, 0)
        around = np.s_[above : min(bottom + margin, height), before : min(right + margin, width)]
        window = (above, before, height, width)
        out = predictor.render(grid, image[around], strength=0.7, window=window)
        inner = out[top - above : bottom - above, left - before : right - before]
        np.testing.assert_array_equal(inner, whole[top:bottom, left:right])


@pytest.mark.parametrize("name", ["nn", "pyramid"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40), (5, 4), (300, 2)])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    config = VARIANTS[name]
    predictor = Predictor(config, weights_of(config))
    image = image_of(size)
    assert np.isfinite(predictor(image)).all()
    np.testing.assert_array_equal(predictor(image[::-1, ::-1].copy()[::-1, ::-1]), predictor(image))


@pytest.mark.parametrize("name", ["nn", "pyramid"])
@pytest.mark.parametrize("dtype", [F32, F16, U8], ids=str)
def test_out(name: str, dtype: Any) -> None:
    config = VARIANTS[name]
    predictor = Predictor(config, weights_of(config))
    image = image_of((20, 30), dtype)
    want = predictor(image)
    out = np.empty_like(image)
    assert predictor(image, out=out) is out
    np.testing.assert_array_equal(out, want)
    assert predictor(image, out=image) is image
    np.testing.assert_array_equal(image, want)


@EACH
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_predictor_for_other_colours_is_the_same_model(config: Config, dtype: Any) -> None:
    """What it makes of colours is what the model makes of the RGB that a matrix makes of them, seen through another."""
    predictor = Predictor(config, weights_of(config))
    to_rgb = np.array([[1, 0, 1.57, -0.8], [1, -0.19, -0.47, 0.33], [1, 1.86, 0, -0.93]])
    from_rgb = np.array([[0.5, 0.25, 0, 0.1], [0, 1, 0.5, -0.2], [-0.5, 0, 2, 0.3]])
    image = (image_of((40, 52), F64) * 0.5 + 0.25).astype(dtype)
    other = predictor._for_colours(to_rgb, from_rgb)
    rgb = (image @ to_rgb[:, :3].T + to_rgb[:, 3]).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RGB beyond white
        low = predictor.low_resolution(rgb)
        assert_near(other.low_resolution(image), low)
    grid = predictor.grid(low)
    for strength in (0.0, 0.3, 1.0):
        wanted = predictor.render(grid, rgb, strength=strength)
        assert_near(other.render(grid, image, strength=strength), wanted @ from_rgb[:, :3].T + from_rgb[:, 3])


@EACH
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64])
def test_pixels_that_are_no_numbers_stay_and_change_no_others(config: Config, dtype: Any) -> None:
    predictor = Predictor(config, weights_of(config))
    even = np.full((64, 64, 3), 0.25, dtype)
    image = even.copy()
    image[3, 5, 1], image[43, 20] = np.nan, np.inf  # which are not the nearest to anything
    odd = ~np.isfinite(image.astype(np.float32)).all(-1)
    assert_near(predictor.low_resolution(image), predictor.low_resolution(even))
    made = predictor(image)
    assert np.array_equal(made[odd].astype(np.float32), image[odd].astype(np.float32), equal_nan=True)
    near = odd.copy()
    for y, x in np.argwhere(odd) if config.scales > 1 else ():  # a pyramid has black in their places
        near[max(0, y - 16) : y + 17, max(0, x - 16) : x + 17] = True
    assert np.isfinite(made[~odd].astype(np.float32)).all()
    assert_near(made[~near], predictor(even)[~near], dtype)
    inside = image.copy()
    assert predictor(inside, out=inside) is inside
    assert np.array_equal(inside.astype(np.float32), made.astype(np.float32), equal_nan=True)


def test_the_networks_input_is_not_rounded() -> None:
    config = VARIANTS["curves"]
    predictor = Predictor(config, weights_of(config))
    for dtype in (U8, U16, F64):
        image = image_of((90, 120), dtype)
        low = predictor.low_resolution(image)
        assert low.dtype == np.float32
        assert_near(low, reference.resize_area(in_floats(image), (48, 48)))


@pytest.mark.parametrize("dtype", [U8, F32], ids=str)
@pytest.mark.parametrize("size", [(61, 100), (5, 48), (48, 7)])
def test_nearest_pixels_are_the_originals(size: tuple[int, int], dtype: Any, torch: Any) -> None:
    """⌊i·H/S⌋, as TensorFlow's and PyTorch's nearest neighbours; of a file, band by band, the same."""
    from bilateral_ops.hdrnet import HDRNet
    from bilateral_ops.photo.images import NearestPixels

    config, image = VARIANTS["a port, zeros"], image_of(size, dtype)
    planes = torch.from_numpy(in_floats(image).astype(np.float32)).movedim(-1, 0)[None]
    want = torch.nn.functional.interpolate(planes, config.input_shape, mode="nearest")
    low = Predictor(config, weights_of(config)).low_resolution(image)
    torch.testing.assert_close(torch.from_numpy(low), want[0].movedim(0, -1))
    if dtype == F32:
        torch.testing.assert_close(HDRNet(config).low_resolution(planes.movedim(1, -1)), want.movedim(1, -1))
    bands = NearestPixels(*size, config.input_shape)
    for top in range(0, size[0], 7):
        bands.add(top, image[top : top + 7])
    np.testing.assert_array_equal(bands.result, low)


def test_floats_beyond_white_are_warned_of() -> None:
    predictor = Predictor(VARIANTS["curves"], weights_of(VARIANTS["curves"]))
    image = image_of((90, 120), U8)
    for call in (predictor, predictor.low_resolution):
        with pytest.warns(
            UserWarning, match=r"image must have floats in \[0, 1\], got averages up to \d+.*divide by"
        ) as all:
            call(image.astype(F64))
        assert [warning.filename for warning in all] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for good in (image, image_of((90, 120), F64), 1.5 * image_of((90, 120), F32), np.full((9, 9, 3), np.nan, F32)):
            predictor(good)


def test_the_networks_input_takes_little_memory() -> None:
    predictor = Predictor(VARIANTS["curves"], weights_of(VARIANTS["curves"]))
    image = image_of((1500, 1400), U8)
    tracemalloc.start()
    predictor.low_resolution(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes


def test_threads_share_a_predictor() -> None:
    predictor = Predictor(Config(), weights_of(Config()))  # large enough for NumPy to let other threads in
    images = [image_of((256, 256), seed=seed) for seed in range(4)]
    want = [predictor.grid(image) for image in images]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(len(images)) as pool:
            for _ in range(20):
                for got, expected in zip(pool.map(predictor.grid, images), want):
                    np.testing.assert_array_equal(got, expected)
    finally:
        sys.setswitchinterval(interval)


def test_a_predictor_is_pickled() -> None:
    config = VARIANTS["nn"]
    predictor, image = Predictor(config, weights_of(config)), image_of((10, 12))
    small = len(pickle.dumps(predictor))
    want = predictor(image)
    assert len(pickle.dumps(predictor)) == small  # buffers stay at home
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(predictor))(image), want)


def test_a_predictor_refuses_other_arguments() -> None:
    config = VARIANTS["pyramid"]
    predictor, image = Predictor(config, weights_of(config)), image_of((8, 9))
    grid = predictor.grid(predictor.low_resolution(image))
    with pytest.raises(
        TypeError,
        match=r"^Predictor: image must be a NumPy, CuPy, PyTorch or JAX array, got list; pass np.asarray\(image, .*$",
    ):
        predictor([[0, 0, 0]])
    with pytest.raises(
        ValueError, match=r"^Predictor: image must have shape \(H, W, 3\) or \(N, H, W, 3\), got \(8, 9, 4\).$"
    ):
        predictor(np.zeros((8, 9, 4), np.float32))
    with pytest.raises(
        TypeError, match=r"^Predictor: image must be uint8, uint16, float16, bfloat16, float32 or float64, got int32.$"
    ):
        predictor(np.zeros((8, 9, 3), np.int32))
    with pytest.raises(
        ValueError,
        match=r"^Predictor.grid: low must have shape \(48, 48, 3\) or \(N, 48, 48, 3\), got \(8, 9, 3\).$",
    ):
        predictor.grid(image)
    with pytest.raises(ValueError, match=r"^Predictor.render: grid must have shape .*, got \(2, 2\).$"):
        predictor.render(np.zeros((2, 2)), image)
    with pytest.raises(TypeError, match=r"^Predictor.render: strength must be a number, got str.$"):
        predictor.render(grid, image, strength="a")
    with pytest.raises(ValueError, match=r"^Predictor.render: strength must be a finite number, got nan.$"):
        predictor.render(grid, image, strength=float("nan"))
    with pytest.raises(ValueError, match=r"must hold the image of 8 × 9 pixels.$"):
        predictor.render(grid, image, window=(1, 0, 8, 9))
    with pytest.raises(
        ValueError, match=r"^Predictor.render: out must be as the image, float32 \(8, 9, 3\), got uint8"
    ):
        predictor.render(grid, image, out=np.zeros((8, 9, 3), np.uint8))


# ---------------------------------------------------------------------------------------------------------------------
# Images of other frameworks
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> FakeKernels:
    with contextlib.suppress(ImportError):  # which asks for XLA's handlers, once
        importlib.import_module("bilateral_ops.frameworks.jax")
    made = FakeKernels()
    monkeypatch.setattr(_dlpack, "_kernels", made)
    return made


def to_jax(array: Any) -> Any:
    return pytest.importorskip("jax", reason="JAX is not installed").numpy.asarray(array)


#: How images get there and back; CuPy's are on the second device.
FRAMEWORKS: dict[str, tuple[Any, Any]] = {
    "torch": (lambda array: pytest.importorskip("torch") and to_torch(array), from_torch),
    "jax": (to_jax, np.asarray),
    "cupy": (lambda array: FakeArray(np.array(array), 1), lambda array: array.memory),
}
#: Of the largest number in a result: the network's sums are made in another order.
APART = 2e-6


def assert_as_numpys(got: Any, want: Any) -> None:
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if want.dtype.kind == "u":
        assert np.abs(got.astype(np.int64) - want).max() <= 1
        return
    finite = np.isfinite(want.astype(F64))
    np.testing.assert_array_equal(got[~finite].astype(F64), want[~finite].astype(F64))
    given, wanted = got[finite].astype(F64), want[finite].astype(F64)
    # In 16 bits it may be rounded to the next number.
    assert (np.abs(given - wanted) <= APART * np.abs(wanted).max() + 2 * half_ulp(wanted, want.dtype)).all()


@pytest.mark.parametrize(
    ("name", "variant"),
    # JAX would compile each, and computes them as the others do.
    [
        (n, v)
        for n in FRAMEWORKS
        for v in VARIANTS
        if n != "jax" or v in ("curves, normalised", "pyramid", "a port, zeros")
    ],
)
def test_every_frameworks_images(name: str, variant: str, cuda_kernels: FakeKernels) -> None:
    send, fetch = FRAMEWORKS[name]
    predictor = Predictor(VARIANTS[variant], weights_of(VARIANTS[variant]))
    for dtype in (U8, U16, F16, *[BF16] * HAS_BF16, F32, F64):
        if name == "jax" and dtype == F64:
            continue  # which JAX has only where it is told so
        image = image_of((40, 52), dtype)
        if image.dtype.kind != "u":
            image[3, 5, 1], image[20, 21] = np.nan, np.inf
        sent = send(image)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = predictor(sent, strength=0.7)
            assert type(result) is type(sent)
            assert_as_numpys(fetch(result), predictor(image, strength=0.7))
            window = predictor.render(
                predictor.grid(predictor.low_resolution(sent)), sent[5:30, 7:], window=(5, 7, 40, 52)
            )
        grid = predictor.grid(predictor.low_resolution(image))
        assert_as_numpys(fetch(window), predictor.render(grid, image[5:30, 7:], window=(5, 7, 40, 52)))
    assert len(predictor._sent) == 1  # the weights, once


@pytest.mark.parametrize("name", ["torch", "cupy"])
@pytest.mark.parametrize("variant", ["curves", "pyramid"])
def test_strides_and_out_of_other_frameworks(name: str, variant: str, cuda_kernels: FakeKernels) -> None:
    send, fetch = FRAMEWORKS[name]
    predictor = Predictor(VARIANTS[variant], weights_of(VARIANTS[variant]))
    for dtype in (U8, F32):
        image = image_of((52, 40), dtype)
        want = predictor(image.swapaxes(0, 1)[:, ::2])
        sent = send(image).swapaxes(0, 1)[:, ::2]
        assert_as_numpys(fetch(predictor(sent)), want)
        assert predictor(sent, out=sent) is sent
        assert_as_numpys(fetch(sent), want)


@pytest.mark.parametrize("variant", ["curves", "pyramid"])
def test_several_images_are_each_by_itself(variant: str, cuda_kernels: FakeKernels) -> None:
    predictor = Predictor(VARIANTS[variant], weights_of(VARIANTS[variant]))
    images = np.stack([image_of((20, 31), seed=seed) for seed in range(3)])
    images[1, 4, 5] = np.nan
    want = np.stack([predictor(image) for image in images])
    np.testing.assert_array_equal(predictor(images), want)
    for send, fetch in FRAMEWORKS.values():
        assert_as_numpys(fetch(predictor(send(images))), want)


def test_an_empty_image_of_another_framework(cuda_kernels: FakeKernels) -> None:
    predictor = Predictor(VARIANTS["pyramid"], weights_of(VARIANTS["pyramid"]))
    for send, fetch in FRAMEWORKS.values():
        assert fetch(predictor(send(np.zeros((0, 5, 3), F32)))).shape == (0, 5, 3)


def test_a_predictor_in_pytorch_records_nothing_and_is_not_autocast(torch: Any) -> None:
    predictor = Predictor(VARIANTS["nn"], weights_of(VARIANTS["nn"]))
    image = torch.from_numpy(image_of((20, 30)))
    want = predictor(image)
    leaf = image.clone().requires_grad_()
    with torch.autocast("cpu"):
        result = predictor(leaf)
    assert not result.requires_grad
    torch.testing.assert_close(result, want, rtol=0, atol=0)
    with pytest.warns(UserWarning, match=r"image must have floats in \[0, 1\], got averages up to \d+"):
        predictor(255 * image)


@pytest.mark.parametrize("variant", ["curves", "pyramid"])
def test_a_predictor_is_compiled_by_jax(variant: str) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    predictor = Predictor(VARIANTS[variant], weights_of(VARIANTS[variant]))
    image = image_of((20, 30), U8 if variant == "curves" else F32)
    assert_as_numpys(np.asarray(jax.jit(predictor)(jax.numpy.asarray(image))), predictor(image))
    assert not predictor._sent  # nothing of the trace is kept


def test_a_predictor_refuses_two_frameworks(torch: Any) -> None:
    predictor = Predictor(VARIANTS["curves"], weights_of(VARIANTS["curves"]))
    image = image_of((8, 9))
    grid = predictor.grid(predictor.low_resolution(image))
    with pytest.raises(TypeError, match=r"^Predictor.render: grid must belong to the image's framework, got numpy.nda"):
        predictor.render(grid, torch.from_numpy(image))
    with pytest.raises(TypeError, match=r"^Predictor.render: out must belong to the image's framework, got torch.Tens"):
        predictor.render(grid, image, out=torch.from_numpy(image))
    with pytest.raises(TypeError, match=r"^Predictor.render: out must be None, as JAX arrays can't be written to.$"):
        predictor(to_jax(image), out=to_jax(image))


def test_predictors_for_other_colours_in_other_frameworks(cuda_kernels: FakeKernels) -> None:
    predictor = Predictor(VARIANTS["pyramid of curves"], weights_of(VARIANTS["pyramid of curves"]))
    seen = predictor._for_colours(np.eye(3, 4) + 0.1, np.eye(3, 4) - 0.1)
    image = image_of((20, 30), U8)
    for name in ("torch", "cupy"):
        send, fetch = FRAMEWORKS[name]
        assert_as_numpys(fetch(seen(send(image))), seen(image))
        assert not np.array_equal(fetch(predictor(send(image))), fetch(seen(send(image))))


_WITHOUT = """
import sys
sys.modules["torch"] = None
import numpy as np
from bilateral_ops import hdrnet
config, weights, _ = hdrnet.read_model({file!r})
image = np.linspace(0, 1, 30 * 40 * 3, dtype=np.float32).reshape(30, 40, 3)
print(float(hdrnet.Predictor.load({file!r})(image).sum()))
try:
    hdrnet.HDRNet
except ImportError as error:
    print(error)
"""


def test_prediction_without_pytorch(tmp_path: Path) -> None:
    file = str(tmp_path / "model.safetensors")
    write_model(file, VARIANTS["curves"], weights_of(VARIANTS["curves"]))
    finished = python(_WITHOUT.format(file=file))
    assert finished.returncode == 0, finished.stderr
    value, sentence = finished.stdout.splitlines()
    assert np.isfinite(float(value))
    assert "torch" in sentence


def test_importing_imports_no_framework() -> None:
    code = "import sys, bilateral_ops.hdrnet as h; dir(h); print(sorted({'torch', 'jax', 'cupy'} & set(sys.modules)))"
    assert python(code).stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------------------
# Model files and configurations
# ---------------------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
def test_a_model_file_holds_what_was_written(config: Config, dtype: Any, tmp_path: Path) -> None:
    file, weights = tmp_path / "model.safetensors", weights_of(config)
    write_model(file, config, weights, metadata={"edit": "clahe"}, dtype=dtype)
    got_config, got, metadata = read_model(file)
    assert (got_config, metadata) == (config, {"edit": "clahe"})
    assert list(got) == list(weights)
    for name, value in got.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, weights[name].astype(dtype))
    assert list(tmp_path.iterdir()) == [file]


def test_the_format_is_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    config = VARIANTS["pyramid"]
    file, weights = tmp_path / "model.safetensors", weights_of(config)
    write_model(file, config, weights)
    for name, value in safetensors.load_file(file).items():
        np.testing.assert_array_equal(value, weights[name])
    metadata = {"bilateral_ops.hdrnet": config.to_json(), "by": "the library"}
    safetensors.save_file(weights, file, metadata)
    got_config, got, rest = read_model(file)
    assert (got_config, rest) == (config, {"by": "the library"})
    for name, value in got.items():
        np.testing.assert_array_equal(value, weights[name])


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_model(file, VARIANTS["one cell"], weights_of(VARIANTS["one cell"]))
    whole = file.read_bytes()
    for length in (0, 5, 8, 9, 300, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"^read_model: .*model.safetensors must (be a safetensors|have .* cut off)"
        ):
            read_model(file)


def edited(file: Path, change: Any) -> None:
    """The file with its header changed."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_other_files_are_refused(tmp_path: Path) -> None:
    file, config, key = tmp_path / "model.safetensors", VARIANTS["one cell"], "bilateral_ops.hdrnet"

    def refused(sentence: str, change: Any = None) -> None:
        if change is not None:
            write_model(file, config, weights_of(config))
            edited(file, change)
        with pytest.raises(ValueError, match=sentence):
            read_model(file)

    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused("must be a safetensors file, which it does not begin like.$")
    file.write_bytes((5).to_bytes(8, "little") + b"{noth" + bytes(100))
    refused("must be a safetensors file, but its header is none.$")
    refused("but its header is none.$", lambda h: h.update(more=[]))
    refused("but its header is none.$", lambda h: h.update(more={"dtype": "F32", "shape": [1], "data_offsets": "ab"}))
    refused("must say its configuration in the metadata", lambda h: h.pop("__metadata__"))
    bias = "coefficients.splat.0.bias"
    refused(f"must have all weights of its configuration, but {bias} is missing.$", lambda h: h.pop(bias))
    refused(rf"{bias} must have shape \(2,\), got \(1, 2\).$", lambda h: h[bias].update(shape=[1, 2]))
    refused("header is none.$", lambda h: h[bias].update(shape=[True, 2]))
    refused(f"as many bytes for {bias} as its shape", lambda h: h[bias].update(shape=[3]))
    refused(r"as its shape \(4294967296, 4294967296\) says, but has 8", lambda h: h[bias].update(shape=[2**32] * 2))
    refused("header is none.$", lambda h: h[bias].update(shape=[1] * 1000))
    refused("header is none.$", lambda h: h[bias].update(more=1))
    refused("header is none.$", lambda h: h.update(__metadata__=[]))
    refused(f"numbers of F16, F32, F64, but {bias} is I32", lambda h: h[bias].update(dtype="I32"))
    refused("weights of its configuration alone, but has more, too.$", lambda h: h.update(more=h[bias]))
    text = json.dumps({**dataclasses.asdict(config), "colour": 1})
    refused("unknown field 'colour'; a newer", lambda h: h["__metadata__"].update({key: text}))
    text = config.to_json().replace("2", "2.5")
    refused(r"model.safetensors must .*be of type int, got 2.5.$", lambda h: h["__metadata__"].update({key: text}))
    with pytest.raises(OSError, match=r"missing.safetensors"):
        Predictor.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda b, h: h[b].update(data_offsets=[0, 8]), "one array after another, but {b} begins at byte 0, not"),
        (lambda b, h: [e["data_offsets"].__iadd__([4]) for e in h.values() if "shape" in e], "its header is none.$"),
        (lambda b, h: [_move(e, 4) for e in h.values() if "shape" in e], "begins at byte 4, not 0.$"),
        (lambda b, h: [_move(e, -4) for e in h.values() if "shape" in e], "its header is none.$"),
        (lambda b, h: _move(h["guides.0.mix_bias"], 4), "guides.0.mix_bias begins at byte"),
        (lambda b, h: h[b].update(data_offsets=[2**62, 2**62 + 8]), "must have one array after another"),
        (lambda b, h: h[b].update(dtype="F64", data_offsets=[0, 16]), "one array after another"),
    ],
)
def test_every_byte_is_of_one_array(change: Any, sentence: str, tmp_path: Path) -> None:
    file, config, bias = tmp_path / "model.safetensors", VARIANTS["one cell"], "coefficients.splat.0.bias"
    write_model(file, config, weights_of(config))
    edited(file, lambda header: change(bias, header))
    with pytest.raises(ValueError, match=sentence.replace("{b}", bias)):
        read_model(file)


def _move(entry: dict[str, Any], by: int) -> None:
    entry["data_offsets"] = [n + by for n in entry["data_offsets"]]


def test_bytes_of_no_array_are_refused(tmp_path: Path) -> None:
    file, config = tmp_path / "model.safetensors", VARIANTS["one cell"]
    write_model(file, config, weights_of(config))
    with file.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ValueError, match=r"must have \d+ bytes of weights, but has \d+.$"):
        read_model(file)


def _packed(header: str, body: bytes = b"") -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + body


_CONFIGURED = {"bilateral_ops.hdrnet": Config(net_input=2, spatial_bin=1, luma_bins=2).to_json()}
_ENTRY = {"dtype": "F32", "shape": [800_000], "data_offsets": [0, 3_200_000]}
HOSTILE_MODELS = {
    "one array 20,000 times": _packed(
        json.dumps({"__metadata__": _CONFIGURED, **{str(i): _ENTRY for i in range(20_000)}}), bytes(3_200_000)
    ),
    "no end of nesting": _packed('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "a large size": _packed(json.dumps({"__metadata__": _CONFIGURED, "a": {**_ENTRY, "shape": [2**70]}})),
    "a long number": _packed('{"a": ' + "9" * 100_000 + "}"),
    "many sizes": _packed(json.dumps({"__metadata__": _CONFIGURED, "a": {**_ENTRY, "shape": [2**62] * 100_000}})),
    "no bytes": _packed(
        json.dumps({"__metadata__": _CONFIGURED, "a": {"dtype": "F32", "shape": [2**32] * 2, "data_offsets": [0, 0]}})
    ),
    "a name twice": _packed('{"a": {}, "a": {}}'),
    "a name that ends the line": _packed(
        json.dumps({"__metadata__": _CONFIGURED, "\n\x1b[2J": {**_ENTRY, "dtype": "I\n8"}})
    ),
    "a large header": _packed('{"a":[' + "[[[]]]," * ((_MAX_HEADER - 10) // 7) + "0]}"),
    "a larger header": _packed('{"a":[' + "[]," * 2_000_000 + "0]}"),
    "a header of no bytes": bytes(8) + b"{" + bytes(100),
    "no text": _packed("{}").replace(b"}", b"\xff"),
    "UTF-16": (4).to_bytes(8, "little") + "{}".encode("utf-16-le"),
    "a configuration of large layers": _packed(
        json.dumps({"__metadata__": {"bilateral_ops.hdrnet": '{"luma_bins": 65536, "channel_multiplier": 65536}'}})
    ),
    "a configuration of larger layers": _packed(
        json.dumps({"__metadata__": {"bilateral_ops.hdrnet": '{"net_input": 18446744073709551616}'}})
    ),
    "a long configuration": _packed(json.dumps({"__metadata__": {"bilateral_ops.hdrnet": "[" * 1_000_000}})),
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_hostile_models_take_neither_memory_nor_time(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(HOSTILE_MODELS[name])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^read_model: .*\.$") as caught:
        read_model(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 200e6


def test_a_hostile_model_is_a_sentence_of_the_command(tmp_path: Path, run: Any) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for module in ("tifffile", "imagecodecs", "tqdm"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    file, picture = tmp_path / "model.safetensors", tmp_path / "a.png"
    image.fromarray(image_of((8, 9), U8)).save(picture)
    for name, data in HOSTILE_MODELS.items():
        file.write_bytes(data)
        code, out, err = run("enhance", picture, "--out", tmp_path / "out", "--model", file)
        assert (code, out, err.count("\n")) == (2, "", 1), name
        assert err.startswith("bilateral-ops enhance: --model must be a model file (read_model: ")


@pytest.mark.skipif(os.name == "nt", reason="the file would take its size there")
def test_a_large_file_that_is_no_model_is_not_read(tmp_path: Path) -> None:
    file, config = tmp_path / "model.safetensors", VARIANTS["one cell"]
    write_model(file, config, weights_of(config))
    os.truncate(file, 10**10)  # of no blocks on the disk
    tracemalloc.start()
    with pytest.raises(ValueError, match="bytes of weights, but has "):
        read_model(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"directory|denied"):
        read_model(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match=r"pipe must be a regular file, which it is not.$"):
            read_model(tmp_path / "pipe")


def _header_and_body(data: bytes) -> tuple[Any, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _with_damaged_header(data: bytes, rng: Any) -> bytes:
    header, body = _header_and_body(data)
    return _packed(damaged_json(header, rng), body)


def _with_damaged_configuration(data: bytes, rng: Any) -> bytes:
    header, body = _header_and_body(data)
    config = json.loads(header["__metadata__"]["bilateral_ops.hdrnet"])
    header["__metadata__"]["bilateral_ops.hdrnet"] = damaged_json(config, rng)
    return _packed(json.dumps(header), body)


#: Damaged files of each kind. 2000 take a minute.
DAMAGED = 150


@pytest.mark.parametrize("damaged", [damaged_bytes, _with_damaged_header, _with_damaged_configuration])
def test_a_damaged_model_is_read_or_refused(damaged: Any, tmp_path: Path) -> None:
    file, config = tmp_path / "model.safetensors", VARIANTS["one cell"]
    write_model(file, config, weights_of(config), metadata={"edit": "clahe"})
    data, sentences = file.read_bytes(), []
    tracemalloc.start()
    for seed in range(DAMAGED):
        file.write_bytes(damaged(data, np.random.default_rng(seed)))
        try:
            got_config, weights, metadata = read_model(file)
        except ValueError as error:
            sentences.append(str(error))
        else:
            check_weights("test", got_config, weights)
            assert all(isinstance(text, str) for item in metadata.items() for text in item)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < len(sentences) < DAMAGED
    assert all(text.startswith("read_model: ") and "\n" not in text for text in sentences)
    assert peak < 100e6


def test_metadata_are_strings(tmp_path: Path) -> None:
    file, config = tmp_path / "model.safetensors", VARIANTS["one cell"]
    with pytest.raises(TypeError, match=r"^write_model: metadata must be strings by name, got 'step': 5.$"):
        write_model(file, config, weights_of(config), metadata={"step": 5})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"^write_model: metadata must have less than 4000000 bytes"):
        write_model(file, config, weights_of(config), metadata={"log": "x" * 4_000_000})
    assert not file.exists()
    write_model(file, config, weights_of(config), metadata={"log": "x" * 3_000_000})
    edited(file, lambda header: header["__metadata__"].update(step=5))  # as an earlier version wrote it
    assert read_model(file)[2] == {"log": "x" * 3_000_000, "step": "5"}


def test_double_precision_is_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    file, config = tmp_path / "model.safetensors", VARIANTS["one cell"]
    metadata = {"bilateral_ops.hdrnet": config.to_json()}
    weights = {name: array.astype(F64) for name, array in weights_of(config).items()}
    safetensors.save_file(weights, file, metadata)
    for name, array in read_model(file)[1].items():
        np.testing.assert_array_equal(array, weights[name].astype(F32))
    weights["guides.0.mix"][1] = 1e300  # beyond float32
    safetensors.save_file(weights, file, metadata)
    with pytest.raises(ValueError, match=r"guides.0.mix must be finite"):
        read_model(file)


def test_bad_weights_are_not_written(tmp_path: Path) -> None:
    file, config = tmp_path / "model.safetensors", VARIANTS["one cell"]
    weights = weights_of(config)
    write_model(file, config, weights)
    before = file.read_bytes()
    weights["coefficients.splat.0.bias"][0] = np.nan
    with pytest.raises(ValueError, match=r"coefficients.splat.0.bias must be finite"):
        write_model(file, config, weights)
    weights["coefficients.splat.0.bias"][0] = 1e6
    with pytest.raises(ValueError, match=r"coefficients.splat.0.bias must be finite"):
        write_model(file, config, weights, dtype=F16)
    negative = weights_of(VARIANTS["nn"])
    negative["guides.0.running_var"][1] = -1
    with pytest.raises(ValueError, match=r"^write_model: guides.0.running_var must not be negative, got -1.0.$"):
        write_model(file, VARIANTS["nn"], negative)
    with pytest.raises(ValueError, match=r"^write_model: dtype must be float16 or float32, got int8.$"):
        write_model(file, config, weights, dtype=np.int8)
    with pytest.raises(OSError, match=r"irectory|denied"):
        write_model(tmp_path, config, weights)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@EACH
def test_a_configuration_survives_json(config: Config) -> None:
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"net_input": 250}, ValueError, "net_input must be spatial_bin times 2, 4, 8 …, got 250 and 16."),
        ({"net_input": 16}, ValueError, "net_input must be spatial_bin times 2, 4, 8 …, got 16 and 16."),
        ({"luma_bins": 0}, ValueError, "luma_bins must be at least 1, got 0."),
        ({"luma_bins": 8.0}, TypeError, "luma_bins must be of type int, got 8.0."),
        ({"luma_bins": True}, TypeError, "luma_bins must be of type int, got True."),
        ({"batch_norm": 1}, TypeError, "batch_norm must be of type bool, got 1."),
        ({"guide": "lumen"}, ValueError, "guide must be one of curves, nn, luma, custom, got 'lumen'."),
        ({"scales": 2}, ValueError, "scales must be 1 or 3, got 2."),
        ({"luma_bins": 65537}, ValueError, "luma_bins must be at most 65536, got 65537."),
        (
            {"net_input": (256, 384)},
            ValueError,
            "net_input must be spatial_bin times 2, 4, 8 …, got (256, 384) and 16.",
        ),
        ({"net_input": (256, 1.5)}, TypeError, "net_input must be of type int, got (256, 1.5)."),
        ({"global_convolutions": -1}, ValueError, "global_convolutions must be at least 0, got -1."),
        ({"global_convolutions": 17}, ValueError, "global_convolutions must be at most 16, got 17."),
        ({"padding": "valid"}, ValueError, "padding must be same or symmetric, got 'valid'."),
        ({"grid_axes": "yyz"}, ValueError, "grid_axes must be one of yxz, xyz, yzx, zyx, xzy, zxy, got 'yyz'."),
        ({"net_input": 10**5000}, ValueError, "net_input must be at most 65536, got an integer of 16610 bits."),
    ],
)
def test_configurations_are_checked(options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        Config(**options)
    assert str(caught.value) == f"Config: {sentence}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "null", "[" * 9_000, "{}" * 9_000, '{"scales": 1, "scales": 3}', '{"luma_bins": NaN}'),
        *('{"luma_bins": "8"}', '{"luma_bins": ' + "9" * 5000 + "}", '{"guide": ' + "[" * 900 + "]" * 900 + "}"),
        *('{"luma_bins": 1e400}', '{"luma_bins": null}', '{"\\ud800": 1}'),
    ],
)
def test_a_configuration_of_other_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"^Config: ") as caught:
        Config.from_json(text)
    assert len(str(caught.value)) < 3000


def test_a_configuration_of_no_text() -> None:
    with pytest.raises(TypeError, match=r"^Config: text must be of type str, got int.$"):
        Config.from_json(5)  # type: ignore[arg-type]
