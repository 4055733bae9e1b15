"""Do the shaders of ``export.glsl``, and the page with them, compute what the package does?

In headless Chromium, whose WebGL 2 runs on SwiftShader, and ONNX Runtime in Node, too: what `nox -s web` runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shaders import CASES, LUTS, lut, made

import bilateral_ops as bo
from bilateral_ops.cli import main
from bilateral_ops.export import glsl

ROOT = Path(__file__).parent.parent
NPM = ROOT / "examples" / "web"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
BROWSER = pytest.mark.skipif(
    not (CHROMIUM and shutil.which("node") and (NPM / "node_modules").exists()),
    reason="needs Chromium, Node and `npm install` in examples/web",
)


def padded(image: Any) -> Any:
    """RGBA; where there is alpha, it is a half."""
    rest = np.zeros((*image.shape[:2], 4 - image.shape[2]), image.dtype)
    rest[..., -1:] = 128 if image.dtype == np.uint8 else 0.5
    return np.ascontiguousarray(np.concatenate([image, rest], -1))


#: Images' rows and columns, and those that they are reduced to.
REDUCED = {
    "smaller": (37, 61, 16, 16),
    "larger": (5, 7, 16, 16),
    "equal": (16, 16, 16, 16),
    "one": (1, 1, 4, 4),
    "to-one": (31, 9, 1, 1),
    "oblong": (40, 33, 7, 20),
}


def reduced(name: str) -> Any:
    height, width, *_ = REDUCED[name]
    return np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Node and Chromium made of all cases, in one go."""
    pytest.importorskip("onnx", reason="needs bilateral_ops[onnx]")
    pillow = pytest.importorskip("PIL.Image", reason="needs bilateral_ops[enhance]")
    folder = tmp_path_factory.mktemp("web")
    (folder / "out").mkdir()
    (folder / "blank.html").write_text("<!doctype html><link rel=icon href='data:,'>")
    (folder / "no-model.onnx").write_bytes(b"\x08\x08 no model")
    assert main(["export", "--to", "web", "--out", str(folder / "page")]) == 0
    photograph().tofile(folder / "photo.bin")
    pillow.fromarray(photograph()).save(folder / "photo.png")
    predictor().low_resolution(photograph()).tofile(folder / "low.bin")

    shaders = []
    for name, case in CASES.items():
        guide, grid, image, rule = made(name)
        grid.tofile(folder / f"{name}.grid")
        padded(image).tofile(folder / f"{name}.image")
        parameters = case.get("parameters", "constants")
        texts = {f: glsl.shader(guide, grid.shape, form=f, parameters=parameters, **rule) for f in ("exact", "fast")}
        facts = {"vertex": glsl.VERTEX, "resize_area": glsl.resize_area(), "enhance": texts, "grid_shape": grid.shape}
        values = {}
        if parameters == "uniforms":
            for uniform, array in glsl.uniforms(guide).items():
                numbers = uniform in ("guide_b1", "guide_w2")
                length = array.shape[-1] if array.ndim and not numbers else 1
                values[uniform] = {"length": length, "data": array.ravel().tolist()}
        files = {"image": f"{name}.image", "grid": f"{name}.grid", "bytes": bool(case.get("bytes"))}
        size, window = image.shape[1::-1], case.get("window")
        shaders.append({"name": name, "facts": facts, **files, "values": values, "size": size, "window": window})
    for name in LUTS:
        table, image, rule = lut(name)
        table.tofile(folder / f"{name}.grid")
        padded(image).tofile(folder / f"{name}.image")
        texts = {form: glsl.lut(table.shape, form=form, **rule) for form in ("exact", "fast")}
        shape = (*table.shape[:3], 1, table.shape[3])
        facts = {"vertex": glsl.VERTEX, "resize_area": glsl.resize_area(), "enhance": texts, "grid_shape": shape}
        files = {"image": f"{name}.image", "grid": f"{name}.grid", "values": {}, "size": image.shape[1::-1]}
        shaders.append({"name": name, "facts": facts, **files})
    for name, (height, width, *size) in REDUCED.items():
        padded(reduced(name)).tofile(folder / f"{name}.image")
        facts = {"vertex": glsl.VERTEX, "resize_area": glsl.resize_area(), "enhance": {}, "net_input": size}
        image = {"image": f"{name}.image", "bytes": True, "size": (width, height)}
        for halves in (False, True):
            shaders.append({"name": f"{name}-{halves}", "facts": facts, **image, "halves": halves})
    for name in MODELS:
        shutil.copyfile(glsl.web(predictor(name), folder / name) / "model.onnx", folder / f"{name}.onnx")
    cases = {"shaders": shaders, "models": list(MODELS), "runs": [written(name, folder) for name in RUNS]}
    (folder / "cases.json").write_text(json.dumps(cases))
    command = ["node", ROOT / "tests" / "web" / "browser.mjs", NPM, folder, CHROMIUM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert not done.returncode, done.stdout + done.stderr
    return folder / "out"


#: What ONNX Runtime computes by itself, in WebAssembly: the model in the package, `enhance`, a lookup table.
RUNS = [
    f"{what}-{form}-{image}"
    for what, images in {"hdrnet": ("float32", "uint8"), "enhance": ("float32", "uint8"), "lut": ("float32",)}.items()
    for form in ("Gather", "GridSample")
    for image in images
]


def run_of(name: str) -> tuple[Any, dict[str, Any], Any]:
    """A model, its inputs, and what it is to make of them."""
    from bilateral_ops.export import onnx

    what, form, image = name.split("-")
    given = photograph()[None, :133, :90]
    given = given if image == "uint8" else given / np.float32(255)
    options: Any = {"form": form, "opset": {"Gather": 13, "GridSample": 20}[form]}
    if what == "hdrnet":
        return onnx.hdrnet(image=image, **options), {"image": given}, predictor()(given)
    if what == "lut":
        table = np.random.default_rng(2).random((1, 9, 8, 7, 3), np.float32)
        made = onnx.slice(table.shape[1:], xy="array", align_corners=True, **options)
        feeds = {"grid": table, "guide": given[..., 2], "xy": np.ascontiguousarray(given[..., :2])}
        return made, feeds, bo.slice(table, feeds["guide"], xy=feeds["xy"], align_corners=True)
    grid, guide = predictor().grid(predictor().low_resolution(given)), predictor()._model.guides[0]["float32"]
    feeds = {"grid": grid, "image": given}
    return onnx.enhance(grid.shape[1:], guide, image=image, **options), feeds, bo.enhance(grid, guide, given)


def written(name: str, folder: Path) -> dict[str, Any]:
    """Such a model and its inputs as files."""
    from bilateral_ops.export import onnx

    made, feeds, _ = run_of(name)
    onnx.save(made, folder / f"{name}.onnx")
    for key, array in feeds.items():
        array.tofile(folder / f"{name}.{key}")
    return {"name": name, "inputs": {key: [str(array.dtype), array.shape] for key, array in feeds.items()}}


#: Models of other configurations, drawn at random.
MODELS: dict[str, dict[str, Any]] = {
    "nn": {"guide": "nn", "batch_norm": True, "guide_complexity": 5},
    "luma": {"guide": "luma", "global_path": False, "luma_bins": 3},
    "wide": {"net_input": (32, 64), "spatial_bin": (4, 8)},
}


def predictor(name: str | None = None) -> Any:
    """That of the model in the package, or of one of MODELS, whose grids are near to the identity."""
    from bilateral_ops.hdrnet import Config, Predictor
    from bilateral_ops.hdrnet._config import shapes

    if name is None:
        return Predictor.load()
    config = Config(**{"net_input": 64, "spatial_bin": 8, "luma_bins": 4, **MODELS[name]})
    rng = np.random.default_rng(0)
    weights = {key: np.float32(rng.normal(0, 0.05, shape)) for key, shape in shapes(config).items()}
    for key in weights:
        if key.endswith("running_var"):
            weights[key] += 1
        elif key == "coefficients.prediction.weight":
            weights[key] *= 4
        elif key == "coefficients.prediction.bias":
            weights[key].reshape(4, 3, -1)[np.arange(3), np.arange(3)] += 0.9
        elif key in ("guides.0.w1", "guides.0.w2"):
            weights[key] *= 30
    return Predictor(config, weights)


def photograph() -> Any:
    """The left half of a picture in docs/model: a photograph as it was."""
    from PIL import Image

    return np.asarray(Image.open(ROOT / "docs" / "model" / "before-after.jpg").convert("RGB"))[70:456, 5:623]


def result(ran: Path, name: str, shape: Any) -> Any:
    return np.fromfile(ran / f"{name}.bin", np.float32).reshape(shape)


def expected(name: str) -> tuple[Any, Any, Any]:
    """The result, of floats, and the grid and the image of a case."""
    guide, grid, image, rule = made(name)
    floats = np.float32(image) / np.float32(255) if image.dtype == np.uint8 else image
    return bo.enhance(grid, guide, floats, window=CASES[name].get("window"), **rule), grid, image


@BROWSER
@pytest.mark.parametrize("name", CASES)
def test_exact(ran: Path, name: str) -> None:
    want, grid, image = expected(name)
    got = result(ran, f"{name}.exact", (*image.shape[:2], 4))
    Gd, Co = grid.shape[2:4]
    # The guide is rounded a few times, and a cell is 1/Gd of it.
    np.testing.assert_allclose(got[..., :Co], want, rtol=0, atol=(2 + Gd) * 1e-6)
    if Co < 4:
        alpha = padded(image)[..., 3] if image.shape[2] < 4 else 1
        np.testing.assert_array_equal(got[..., 3], np.float32(alpha / 255 if image.dtype == np.uint8 else alpha))
        np.testing.assert_array_equal(got[..., Co:3], 0)


@BROWSER
@pytest.mark.parametrize("name", CASES)
def test_fast(ran: Path, name: str) -> None:
    """Half floats, and fractions of 8 bits: what the module's description says."""
    want, grid, image = expected(name)
    got = result(ran, f"{name}.fast", (*image.shape[:2], 4))[..., : want.shape[-1]]
    steps = sum(np.abs(np.diff(grid, axis=axis)).max(initial=0) for axis in range(3))
    each = steps / 512 + np.abs(grid).max() * 2**-11
    np.testing.assert_allclose(got, want, rtol=0, atol=each * grid.shape[-1])


@BROWSER
@pytest.mark.parametrize("form", ["exact", "fast"])
@pytest.mark.parametrize("name", LUTS)
def test_lookup_tables(ran: Path, name: str, form: str) -> None:
    table, image, rule = lut(name)
    want = bo.slice(table, image[..., 2], xy=image[..., :2], **{"align_corners": True, **rule})
    got = result(ran, f"{name}.{form}", (*image.shape[:2], 4))
    channels, each = table.shape[-1], 1e-6
    if form == "fast":
        each = sum(np.abs(np.diff(table, axis=i)).max(initial=0) for i in range(3)) / 512 + np.abs(table).max() * 2**-11
    np.testing.assert_allclose(got[..., :channels], want, rtol=0, atol=each * (2 if form == "exact" else 1))
    if channels < 4:
        np.testing.assert_array_equal(got[..., channels:3], 0)
        np.testing.assert_array_equal(got[..., 3], 0.5)


@BROWSER
@pytest.mark.parametrize("halves", [False, True], ids=["floats", "half-floats"])
@pytest.mark.parametrize("name", REDUCED)
def test_resize_area(ran: Path, name: str, halves: bool) -> None:
    """Into floats; or into half floats, where a device renders into nothing better: rounded twice."""
    want = bo.resize_area(reduced(name), REDUCED[name][2:], dtype="float32")
    got = result(ran, f"{name}-{halves}", want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=2**-11 if halves else 1e-6)
    assert halves == bool(np.abs(got - want).max() > 1e-6)


@BROWSER
def test_the_network_in_node(ran: Path) -> None:
    want = predictor().grid(predictor().low_resolution(photograph()))
    np.testing.assert_allclose(result(ran, "network", want.shape), want, rtol=0, atol=1e-5)


@BROWSER
@pytest.mark.parametrize("where", ["node", "chromium"])
@pytest.mark.parametrize("name", RUNS)
def test_onnx_runtime_in_webassembly(ran: Path, name: str, where: str) -> None:
    want = run_of(name)[2]
    got = np.fromfile(ran / f"{name}.{where}", want.dtype).reshape(want.shape)
    assert np.abs(got.astype(float) - want).max() <= (1 if want.dtype == np.uint8 else 1e-5)


@BROWSER
@pytest.mark.parametrize(("form", "levels"), [("exact", 1), ("beside", 1), ("fast", 1), ("strength-0", 0)])
def test_what_the_page_saves(ran: Path, form: str, levels: int) -> None:
    """Of 255; the filter of SwiftShader has more than 8 bits of fraction, so that half floats are all that differs."""
    from PIL import Image

    got = np.asarray(Image.open(ran / f"{form}.png").convert("RGB"), int)
    want = photograph() if form == "strength-0" else predictor()(photograph())
    assert np.abs(got - want).max() <= levels


@BROWSER
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_ones_own(ran: Path, name: str) -> None:
    from PIL import Image

    got = np.asarray(Image.open(ran / f"{name}.png").convert("RGB"), int)
    want = predictor(name)(photograph()).astype(int)
    assert np.abs(want - photograph()).max() > 10
    assert np.abs(got - want).max() <= 1


@BROWSER
def test_the_page_says_what_is_wrong(ran: Path) -> None:
    assert "bilateral-ops export MODEL --to web" in (ran / "message.txt").read_text()
    assert json.loads((ran / "failures.json").read_text()) == []


@BROWSER
def test_screenshot(ran: Path) -> None:
    """Shown by the README: written where BILATERAL_OPS_SCREENSHOT says."""
    from PIL import Image

    picture = Image.open(ran / "page.png").convert("RGB")
    if into := os.environ.get("BILATERAL_OPS_SCREENSHOT"):
        picture.save(into, quality=90)
    shown = np.asarray(picture)[100:700, 60:1040]
    assert shown.std() > 30  # a photograph, and not the page's ground
