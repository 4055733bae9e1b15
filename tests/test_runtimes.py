"""Do other runtimes compute from exported models what a ``Predictor`` and ``enhance`` do?

`nox -s runtimes` has all of them, `nox -s frameworks` some; test_export.py asks ONNX Runtime, test_web.py browsers.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import environment, weights_of

import bilateral_ops as bo
from bilateral_ops._core.missing import install
from bilateral_ops.cli import main
from bilateral_ops.hdrnet import Config, Predictor, write_model

pytest.importorskip("onnx", reason="needs bilateral_ops[onnx]")

from bilateral_ops.export import onnx as export

FORMS = ("GridSample", "Gather")
PHOTOGRAPH = np.random.default_rng(6).integers(0, 256, (1, 70, 45, 3), np.uint8)
FLOATS = PHOTOGRAPH / np.float32(255)
#: The grid by itself, with few axes, as small runtimes take it.
FLAT = "N Gh Gw (Gd Co L)"

SMALL = {"net_input": 32, "spatial_bin": 8, "luma_bins": 4, "guide_complexity": 5}
CONFIGS: dict[str, dict[str, Any]] = {
    "curves": {},
    "nn": {"guide": "nn", "batch_norm": True},
    "three scales": {"scales": 3, "guide": "nn"},
    "local": {"guide": "luma", "global_path": False},
    "as a port's": {"guide": "nn", "guide_norm": False, "padding": "symmetric", "global_convolutions": 1},
    "corners": {"xy": "corners", "align_corners": True},
    "wide": {"net_input": (32, 64), "spatial_bin": (8, 16)},
    "nearest": {"reduce": "nearest"},
}


def config_of(name: str) -> Config:
    return Config(**{**SMALL, **CONFIGS[name]})


@functools.cache
def predictor_of(name: str) -> Predictor:
    """The model in the package, or one drawn at random."""
    return Predictor.load() if name == "packaged" else Predictor(config_of(name), weights_of(config_of(name)))


def grid_of(predictor: Predictor, axes: int = 6) -> Any:
    grid = predictor.grid(predictor.low_resolution(FLOATS))
    return grid if axes == 6 else grid.reshape(*grid.shape[:3], -1)


def channels_first(image: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(image, -1, 1))


#: What is run: a model as ONNX in a form and layout, what it is given, and what comes out.
Case = tuple[Any, dict[str, Any], Any]


def whole(form: str, layout: str, image: str) -> Case:
    given = PHOTOGRAPH if image == "uint8" else FLOATS
    made = export.hdrnet(form=form, layout=layout, image=image, opset={"GridSample": 20, "Gather": 13}[form])
    return made, {"image": given}, predictor_of("packaged")(given)


def enhance(form: str, layout: str, image: str) -> Case:
    predictor = predictor_of("packaged")
    grid, guide = grid_of(predictor), predictor._model.guides[0]["float32"]
    opset = {"GridSample": 20, "Gather": 13}[form]
    made = export.enhance(grid.shape[1:], guide, form=form, layout=layout, image=image, opset=opset)
    given = PHOTOGRAPH if image == "uint8" else FLOATS
    return made, {"grid": grid, "image": given}, bo.enhance(grid, guide, given)


EACH = pytest.mark.parametrize(
    ("case", "form", "layout", "image"),
    [
        pytest.param(case, form, layout, image, id=f"{case.__name__}-{form}-{layout}-{image}")
        for case in (whole, enhance)
        for form in FORMS
        for layout, image in (("NHWC", "float32"), ("NCHW", "float32"), ("NHWC", "uint8"))
    ],
)


def assert_close(out: Any, want: Any, layout: str = "NHWC") -> None:
    """Within 1e-5, or a level of integers."""
    assert out.dtype == want.dtype
    want = want if layout == "NHWC" else channels_first(want)
    assert out.shape == want.shape
    assert np.abs(out.astype(float) - want).max() <= (1 if want.dtype == np.uint8 else 1e-5)


def laid(feeds: dict[str, Any], layout: str) -> dict[str, Any]:
    return {**feeds, "image": feeds["image"] if layout == "NHWC" else channels_first(feeds["image"])}


@EACH
def test_openvino(case: Callable[..., Case], form: str, layout: str, image: str) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if form == "GridSample":
        pytest.skip("OpenVINO's GridSample has two dimensions")
    made, feeds, want = case(form, layout, image)
    exactly = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().read_model(made.SerializeToString())
    out = openvino.compile_model(model, "CPU", exactly)(laid(feeds, layout))[0]
    assert_close(out, want, layout)


@EACH
def test_mnn(case: Callable[..., Case], form: str, layout: str, image: str, tmp_path: Path) -> None:
    """In an environment of its own, as MNN's package and onnx's need different versions of protobuf."""
    if (convert := shutil.which("mnnconvert")) is None:
        pytest.skip("MNN's mnnconvert is not on the PATH")
    made, feeds, want = case(form, layout, image)
    export.save(made, tmp_path / "model.onnx")
    np.savez(tmp_path / "given.npz", **laid(feeds, layout))
    # Not by the command mnnconvert, which installs a package with whatever `pip` it finds, and reports what it does.
    code = """
import numpy as np, MNN, _tools, MNN.expr as expr, MNN.nn as nn
_tools.mnnconvert("mnnconvert -f ONNX --modelFile model.onnx --MNNModel model.mnn --bizCode b".split())
given = dict(np.load("given.npz"))
kinds = {"float32": expr.float, "uint8": expr.uint8}
arrays = [expr.const(value, list(value.shape), expr.NCHW, kinds[value.dtype.name]) for value in given.values()]
out = nn.load_module_from_file("model.mnn", list(given), ["out"]).forward(arrays if len(arrays) > 1 else arrays[0])
out = expr.convert(out[0] if isinstance(out, (list, tuple)) else out, expr.NCHW)
np.save("out.npy", np.array(out.read()).reshape(out.shape))
"""
    interpreter, env = Path(convert).with_name("python"), environment(PYTHONPATH="")
    subprocess.run([interpreter, "-c", code], check=True, capture_output=True, cwd=tmp_path, env=env)
    assert_close(np.load(tmp_path / "out.npy"), want, layout)


# ---------------------------------------------------------------------------------------------------------------------
# ncnn
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ncnn() -> Any:
    pytest.importorskip("pnnx", reason="pnnx is not installed")
    return pytest.importorskip("ncnn", reason="ncnn is not installed")


def run_ncnn(ncnn: Any, files: tuple[Path, Path], *arrays: Any) -> Any:
    """In float32; arrays without a batch."""
    net = ncnn.Net()
    for option in ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed"):
        setattr(net.opt, option, False)
    assert (net.load_param(str(files[0])), net.load_model(str(files[1]))) == (0, 0)
    extractor = net.create_extractor()
    given = [np.ascontiguousarray(array) for array in arrays]
    for i, array in enumerate(given):
        extractor.input(f"in{i}", ncnn.Mat(array))
    code, out = extractor.extract("out0")
    assert code == 0
    return np.array(out)


@pytest.mark.parametrize("name", ["packaged", *CONFIGS])
def test_ncnn(ncnn: Any, name: str, tmp_path: Path) -> None:
    from bilateral_ops.export import ncnn as exporter

    predictor = predictor_of(name)
    low, want = predictor.low_resolution(FLOATS), predictor(FLOATS)
    grid, scale = grid_of(predictor, 4), np.abs(want).max()
    given = {
        "whole": ((channels_first(FLOATS),), channels_first(want)),
        "network": ((channels_first(low),), grid),
        "render": ((grid, channels_first(FLOATS)), channels_first(want)),
    }
    if name == "nearest":  # which ncnn has no layer for
        given.pop("whole")
        with pytest.raises(RuntimeError, match=r"^ncnn\.convert: ncnn does not have Tensor\.slice, which pnnx left"):
            exporter.save(predictor, tmp_path / "whole.param", size=FLOATS.shape[1:3])
    for part, (arrays, result) in given.items():
        files = exporter.save(predictor, tmp_path / f"{part}.param", size=FLOATS.shape[1:3], part=part)
        out = run_ncnn(ncnn, files, *(array[0] for array in arrays))
        assert np.abs(out - result[0]).max() <= 1e-5 * scale, part


@pytest.mark.parametrize("kind", ["luma", "nn", "curves"])
def test_ncnn_runs_an_operation(ncnn: Any, kind: str, tmp_path: Path) -> None:
    from bilateral_ops.export import ncnn as exporter

    guide = bo.LumaGuide() if kind == "luma" else predictor_of(kind)._model.guides[0]["float32"]
    grid = np.random.default_rng(1).random((1, 3, 4, 5, 3, 4), np.float32)
    made = export.enhance(grid.shape[1:], guide, grid_axes=FLAT, layout="NCHW", nan=False)
    image = channels_first(FLOATS)
    flat = grid.reshape(1, 3, 4, -1)
    files = exporter.convert(made, tmp_path / "m", {"grid": flat.shape, "image": image.shape})
    assert [file.name for file in files] == ["m.param", "m.bin"]
    out = run_ncnn(ncnn, files, flat[0], image[0])
    assert np.abs(out - channels_first(bo.enhance(grid, guide, FLOATS))[0]).max() <= 1e-5


def test_what_ncnn_does_not_have_is_said(ncnn: Any, tmp_path: Path) -> None:
    from bilateral_ops.export import ncnn as exporter

    shapes = {"grid": (1, 3, 4, 60), "image": (1, 3, 9, 7)}
    for options, layers in (({"form": "Gather", "nan": False}, "Tensor.to"), ({"form": "GridSample"}, "torch.eq")):
        made = export.enhance((3, 4, 5, 3, 4), bo.LumaGuide(), grid_axes=FLAT, layout="NCHW", **options)
        with pytest.raises(RuntimeError, match=rf"^ncnn\.convert: ncnn does not have .*{layers}"):
            exporter.convert(made, tmp_path / "model.param", shapes)
        assert not list(tmp_path.iterdir())
    for given in ({}, {**shapes, "image": (2, 3, 9, 7)}):
        with pytest.raises(
            ValueError, match=r"^ncnn\.convert: shapes must have a shape \(1, …\) for (grid|image), got "
        ):
            exporter.convert(made, tmp_path / "model.param", given)


# ---------------------------------------------------------------------------------------------------------------------
# TFLite
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tflite() -> Any:
    pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    from bilateral_ops.export import tflite

    return tflite


def run_tflite(file: Path, **arrays: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    (out,) = Interpreter(str(file)).get_signature_runner()(**arrays).values()
    return out


@pytest.mark.filterwarnings("ignore")  # litert-torch and what it needs have many
@pytest.mark.parametrize("name", ["packaged", *CONFIGS])
def test_tflite(tflite: Any, name: str, tmp_path: Path) -> None:
    predictor = predictor_of(name)
    path = None
    if name != "packaged":
        write_model(path := tmp_path / "model.safetensors", config_of(name), weights_of(config_of(name)))
    want, scale = predictor(FLOATS), np.abs(predictor(FLOATS)).max()
    file = tflite.save(path, tmp_path / "model.tflite", size=FLOATS.shape[1:3])
    assert np.abs(run_tflite(file, image=FLOATS) - want).max() <= 1e-5 * scale


@pytest.mark.filterwarnings("ignore")
def test_tflite_in_two_files_and_of_bytes(tflite: Any, tmp_path: Path) -> None:
    predictor = predictor_of("nn")
    write_model(path := tmp_path / "model.safetensors", config_of("nn"), weights_of(config_of("nn")))
    save = functools.partial(tflite.save, path, size=PHOTOGRAPH.shape[1:3])
    low = predictor.low_resolution(FLOATS)
    grid = run_tflite(save(tmp_path / "network.tflite", part="network"), low=low)
    assert np.abs(grid - predictor.grid(low)).max() <= 1e-5 * np.abs(grid).max()
    render = save(tmp_path / "render.tflite", part="render", image="uint8")
    assert_close(run_tflite(render, grid=grid, image=PHOTOGRAPH), predictor(PHOTOGRAPH))
    assert_close(run_tflite(save(tmp_path / "w.tflite", image="uint8"), image=PHOTOGRAPH), predictor(PHOTOGRAPH))


@pytest.mark.filterwarnings("ignore")
def test_tflite_of_modules_of_ones_own(tflite: Any, tmp_path: Path) -> None:
    import torch

    from bilateral_ops.hdrnet import HDRNet

    class Enhance(torch.nn.Module):
        def forward(self, grid: Any, image: Any) -> Any:
            return bo.slice_apply(grid, bo.guide_luma(image), image)

    grid = np.random.default_rng(1).random((1, 3, 4, 5, 3, 4), np.float32)
    made = tflite.converted(Enhance(), (torch.from_numpy(grid), torch.from_numpy(FLOATS)))
    made.export(str(tmp_path / "enhance.tflite"))
    out = run_tflite(tmp_path / "enhance.tflite", args_0=grid, args_1=FLOATS)
    assert_close(out, bo.enhance(grid, bo.LumaGuide(), FLOATS))

    class Guide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([0.2, 0.5, 0.3]))

        def forward(self, image: Any) -> Any:
            return torch.sqrt(image @ self.weight)

    model = HDRNet(Config(**{**SMALL, "guide": "custom"}), guide=Guide)
    file = tflite.save(model, tmp_path / "custom.tflite", size=FLOATS.shape[1:3])
    assert model.training
    with torch.no_grad():
        want = model.eval()(torch.from_numpy(FLOATS)).numpy()
    assert np.abs(run_tflite(file, image=FLOATS) - want).max() <= 1e-5 * np.abs(want).max()


def test_what_tflite_refuses(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from bilateral_ops.export import tflite

    for options, sentence in (
        ({"size": (0, 5)}, r"size must be \(H, W\), both at least 1, got \(0, 5\)."),
        ({"part": "guide"}, "part must be one of whole, network, render, got 'guide'."),
        ({"image": "float16"}, "image must be one of float32, uint8, got 'float16'."),
    ):
        with pytest.raises(ValueError, match=f"^tflite.save: {sentence}$"):
            tflite.save(None, tmp_path / "m.tflite", **{"size": (9, 9), **options})
    with pytest.raises(TypeError, match=r"^tflite.save: model must be an HDRnet module .* got Predictor; pass"):
        tflite.save(Predictor.load(), tmp_path / "m.tflite", size=(9, 9))


def test_a_missing_converter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from bilateral_ops.export import ncnn, tflite

    monkeypatch.setitem(sys.modules, "litert_torch", None)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(ImportError, match=re.escape(f"which is not installed; {install('tflite')}.")):
        tflite.save(None, tmp_path / "m.tflite", size=(9, 9))
    with pytest.raises(ImportError, match=re.escape(f"which is not installed; {install('ncnn')}.")):
        ncnn.save(None, tmp_path / "m.param", size=(9, 9))
    command = ["export", "--out", str(tmp_path / "m"), "--to"]
    assert main([*command, "tflite", "--size", "9x9"]) == 2
    assert f"litert_torch is not installed; run {install('tflite')}." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_command_writes_files_that_run(ncnn: Any, tflite: Any, tmp_path: Path, capfd: Any) -> None:
    write_model(path := tmp_path / "own.safetensors", config_of("nn"), weights_of(config_of("nn")))
    want = predictor_of("nn")(FLOATS)
    scale = np.abs(want).max()
    grid = grid_of(predictor_of("nn"))
    command = ["export", str(path), "--size", "45x70"]
    assert main([*command, "--to", "tflite", "--out", str(tmp_path / "m.tflite"), "--split"]) == 0
    assert main([*command, "--to", "ncnn", "--out", str(tmp_path / "m")]) == 0
    names = ["m.network.tflite", "m.render.tflite", "m.param", "m.bin"]
    assert capfd.readouterr().out.split() == [str(tmp_path / name) for name in names]
    out = run_tflite(tmp_path / "m.render.tflite", grid=grid, image=FLOATS)
    assert np.abs(out - want).max() <= 1e-5 * scale
    out = run_ncnn(ncnn, (tmp_path / "m.param", tmp_path / "m.bin"), channels_first(FLOATS)[0])
    assert np.abs(out - channels_first(want)[0]).max() <= 1e-3 * scale
