"""Are the texts and textures of ``export.glsl`` what they say, as far as can be seen without a shader's compiler?

test_web.py runs them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shaders import CASES, LUTS, guide_of, lut, made

from bilateral_ops import LumaGuide
from bilateral_ops.export import glsl

SHAPE = (5, 7, 4, 3, 4)


@pytest.mark.parametrize("L", [1, 3, 4])
@pytest.mark.parametrize("form", ["exact", "fast"])
def test_a_texel_is_a_row_of_a_matrix(form: Any, L: int) -> None:
    grid = np.random.default_rng(0).random((5, 7, 4, 3, L), np.float32)
    texels = glsl.texture(grid, form=form)
    assert texels.shape == (3 * 4, 5, 7, 4)
    assert texels.dtype == (np.float32 if form == "exact" else np.float16)
    assert texels.flags.c_contiguous
    for y, x, z, row in [(0, 0, 0, 0), (4, 6, 3, 2), (1, 5, 2, 1)]:
        wanted = np.zeros(4, texels.dtype)
        wanted[:L] = grid[y, x, z, row]
        np.testing.assert_array_equal(texels[row * 4 + z, y, x], wanted)


@pytest.mark.parametrize("kind", ["curves", "nn"])
def test_constants_are_read_back_as_they_were(kind: str) -> None:
    guide = guide_of(kind, 3)
    text = glsl.shader(guide, SHAPE)
    body = text[text.index("float guide(") : text.index("// Where pixel")]
    found = {float(np.float32(number)) for number in re.findall(r"-?\d+\.\d*(?:e[+-]?\d+)?|-?\d+e[+-]?\d+", body)}
    assert {float(v) for array in glsl.uniforms(guide).values() for v in array.ravel()} <= found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.get("parameters") == "uniforms"])
def test_uniforms_are_declared_and_used(name: str) -> None:
    guide, grid, _, rule = made(name)
    text = glsl.shader(guide, grid.shape, parameters="uniforms", **rule)
    values = glsl.uniforms(guide)
    assert set(re.findall(r"^uniform \w+ (guide_\w+)", text, re.M)) == set(values)
    body = text[text.index("float guide(") :]
    for uniform, array in values.items():
        count = len(array) if array.ndim == 2 or uniform in ("guide_b1", "guide_w2") else 0
        declared = f"{uniform}[{count}]" if count else uniform
        assert re.search(rf"^uniform \w+ {re.escape(declared)};$", text, re.M)
        used = f"{uniform}[{count - 1}]" if count else uniform
        assert re.search(rf"{re.escape(used)}[^\w\[]", body)


@pytest.mark.parametrize(
    ("guide", "shape", "options", "sentence"),
    [
        (LumaGuide(), (5, 7, 4, 3, 5), {}, "Co and L at most 4"),
        (LumaGuide(), (5, 7, 4, 3, 2), {}, "3 or 4"),
        (LumaGuide(), (5, 7, 4, 5, 4), {}, "Co and L at most 4"),
        (LumaGuide(), (5, 7, 86, 3, 4), {}, "at most 256"),
        (LumaGuide(), (0, 7, 4, 3, 4), {}, "at least 1"),
        (LumaGuide(), SHAPE, {"form": "nearest"}, "exact, fast"),
        (LumaGuide(), SHAPE, {"xy": "edges"}, "centers, corners"),
        (LumaGuide(), SHAPE, {"parameters": "textures"}, "constants, uniforms"),
        (guide_of("nn", 5), (5, 7, 4, 3, 4), {}, "5 channels"),
    ],
)
def test_what_a_shader_cannot_be(guide: Any, shape: Any, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"glsl.shader: .*{sentence}"):
        glsl.shader(guide, shape, **options)


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        ((17, 17, 3), {}, "shape must be four integers"),
        ((17, 17, 257, 3), {}, "at most 256"),
        ((17, 17, 17, 5), {}, "C at most 4"),
        ((17, 0, 17, 3), {}, "at least 1"),
        ((17, 17, 17, 3), {"form": "nearest"}, "exact, fast"),
    ],
)
def test_what_a_lookup_table_cannot_be(shape: Any, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"glsl.lut: .*{sentence}"):
        glsl.lut(shape, **options)


def test_what_is_not_finite_is_refused() -> None:
    guide = guide_of("curves", 3)
    guide.slopes[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"glsl.shader: guide must be finite in float32, got slopes"):
        glsl.shader(guide, SHAPE)
    with pytest.raises(ValueError, match=r"glsl.uniforms: guide must be finite in float32, got slopes"):
        glsl.uniforms(guide)
    grid = np.full(SHAPE, 1e5, np.float32)
    glsl.texture(grid)
    with pytest.raises(ValueError, match=r"glsl.texture: grid must be finite in float16"):
        glsl.texture(grid, form="fast")


def test_a_model_for_the_page(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs bilateral_ops[onnx]")
    pytest.importorskip("onnx", reason="needs bilateral_ops[onnx]")
    from bilateral_ops.hdrnet import Predictor

    predictor = Predictor.load()
    session = runtime.InferenceSession(glsl.web(predictor, tmp_path / "new") / "model.onnx")
    low = np.random.default_rng(0).random((2, 256, 256, 3), np.float32)
    (grid,) = session.run(None, {"low": low})
    want = predictor.grid(low)
    np.testing.assert_allclose(grid.reshape(want.shape), want, rtol=0, atol=1e-5)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["bilateral_ops.web"])
    assert facts["grid_shape"] == list(want.shape[1:])
    assert facts["net_input"] == [256, 256]


def test_a_model_as_files(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs bilateral_ops[onnx]")
    from bilateral_ops.hdrnet import Predictor

    predictor = Predictor.load()
    folder = glsl.save(None, tmp_path / "new")
    guide, shape = predictor._model.guides[0]["float32"], predictor.config.grid_shape
    wanted: dict[str, Any] = {form: glsl.shader(guide, shape, form=form) for form in ("exact", "fast")}
    wanted["resize_area"] = glsl.resize_area()
    assert {path.stem: path.read_text() for path in folder.glob("*.frag")} == wanted
    assert (folder / "triangle.vert").read_text() == glsl.VERTEX
    sizes = json.loads((folder / "model.json").read_text())
    assert sizes == {"version": 2, "net_input": [256, 256], "grid_shape": list(shape), "guide": "curves"}
    onnx.checker.check_model(onnx.load(folder / "network.onnx"), full_check=True)


#: As ports of the network to PyTorch have it.
PORT = {"padding": "symmetric", "padding_mode": "zeros", "xy": "corners", "guide_range": "-1..1"}
OTHERS = [{"global_path": False}, {"batch_norm": True, "guide": "nn"}, {"guide": "luma"}, PORT]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_networks_of_other_configurations(tmp_path: Path, options: Any) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs bilateral_ops[onnx]")
    pytest.importorskip("onnx", reason="needs bilateral_ops[onnx]")
    from bilateral_ops.hdrnet import Config, Predictor
    from bilateral_ops.hdrnet._config import shapes

    config = Config(net_input=32, spatial_bin=4, luma_bins=2, guide_complexity=3, **options)
    rng = np.random.default_rng(0)
    weights = {name: np.float32(rng.uniform(0.1, 0.5, shape)) for name, shape in shapes(config).items()}
    predictor = Predictor(config, weights)
    low = rng.random((1, 32, 32, 3), np.float32)
    (grid,) = runtime.InferenceSession(glsl.web(predictor, tmp_path) / "model.onnx").run(None, {"low": low})
    want = predictor.grid(low)
    np.testing.assert_allclose(grid.reshape(want.shape), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scales": 3}, "model must have one scale, got 3"),
        ({"reduce": "nearest"}, "model must have reduce='area', got 'nearest'; these shaders average."),
    ],
)
def test_other_models_are_refused(tmp_path: Path, options: Any, sentence: str) -> None:
    pytest.importorskip("onnx", reason="needs bilateral_ops[onnx]")
    from bilateral_ops.hdrnet import Config, Predictor
    from bilateral_ops.hdrnet._config import shapes

    config = Config(**{"net_input": 32, "spatial_bin": 4, "luma_bins": 2, **options})
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes(config).items()}
    with pytest.raises(ValueError, match=f"^glsl.web: {sentence}"):
        glsl.web(Predictor(config, weights), tmp_path)


def all_shaders() -> dict[str, str]:
    """Every text that there is, by a file name."""
    texts = {"triangle.vert": glsl.VERTEX, "resize_area.frag": glsl.resize_area()}
    for form in ("exact", "fast"):
        for name, case in CASES.items():
            guide, grid, _, rule = made(name)
            parameters = case.get("parameters", "constants")
            text = glsl.shader(guide, grid.shape, form=form, parameters=parameters, **rule)
            texts[f"{name}-{form}.frag"] = text
        for name in LUTS:
            table, _, rule = lut(name)
            texts[f"{name}-{form}.frag"] = glsl.lut(table.shape, form=form, **rule)
    return texts


def written(texts: dict[str, str], folder: Path) -> list[str]:
    for name, text in texts.items():
        (folder / name).write_text(text)
    return list(texts)


def tool(folder: Path, *command: str) -> str:
    """What one of Khronos's programs says."""
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]} (Debian: glslang-tools, spirv-cross)")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    assert "WARNING" not in done.stdout
    return done.stdout


def test_khronos_compiler_takes_all_shaders(tmp_path: Path) -> None:
    tool(tmp_path, "glslangValidator", *written(all_shaders(), tmp_path))


def test_shaders_become_metal(tmp_path: Path) -> None:
    """As docs/deployment-glsl.md says; nothing here compiles Metal's language."""
    texts = {name: text.replace("300 es", "310 es", 1) for name, text in all_shaders().items() if "frag" in name}
    for name in written(texts, tmp_path):
        tool(tmp_path, "glslangValidator", "-G", "--auto-map-locations", "--auto-map-bindings", "-o", "a.spv", name)
        metal = tool(tmp_path, "spirv-cross", "--msl", "a.spv")
        assert "fragment" in metal
        assert ("texture3d<float>" in metal) == (name != "resize_area.frag")


def test_shaders_need_no_library() -> None:
    code = "import sys; from bilateral_ops.export import glsl; print('onnx' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
