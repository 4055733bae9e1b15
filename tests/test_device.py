"""Does ``enhance --device cuda`` make of files what the CPU makes of them, on the device, and say what is missing?

The device is ``backends.py``'s CuPy, which needs no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import FAKE_CUPY, FakeKernels
from cases import weights_of

from bilateral_ops._core.missing import install
from bilateral_ops.frameworks import _dlpack
from bilateral_ops.hdrnet import Config, Predictor, enhance_files

for name in ("PIL", "tifffile", "imagecodecs", "tqdm"):
    pytest.importorskip(name, reason=f"{name} is not installed")
imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

RGB = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)


@pytest.fixture(params=[1, 3], ids=["one scale", "three scales"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    config = Config(net_input=32, spatial_bin=8, luma_bins=4, scales=request.param)
    return Predictor(config, weights_of(config))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> FakeKernels:
    made = FakeKernels()
    monkeypatch.setattr(_dlpack, "_kernels", made)
    monkeypatch.setitem(sys.modules, "cupy", FAKE_CUPY)
    return made


def test_pictures(predictor: Predictor, kernels: FakeKernels, tmp_path: Path) -> None:
    floats = (RGB / 255).astype(np.float32)
    floats[3, 4] = np.nan
    (tmp_path / "8.png").write_bytes(imagecodecs.png_encode(RGB))
    (tmp_path / "16.png").write_bytes(imagecodecs.png_encode(RGB.astype(np.uint16) * 257))
    (tmp_path / "grey.png").write_bytes(imagecodecs.png_encode(RGB[..., 0].copy()))
    tifffile.imwrite(tmp_path / "floats.tif", floats, photometric="rgb", metadata=None)
    files = sorted(tmp_path.iterdir())
    for device in ("cpu", "cuda"):
        assert not kernels.calls
        results = enhance_files(files, tmp_path / device, model=predictor, device=device)
        assert [result.error for result in results] == [None] * 4
    assert {call.name for call in kernels.calls} == {"resize_area_forward", "enhance_forward"}
    for file in files:
        one, other = (imagecodecs.imread(tmp_path / device / file.name) for device in ("cpu", "cuda"))
        if one.dtype.kind == "u":
            assert np.abs(one.astype(int) - other).max() <= 1
        else:
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)  # NaN where NaN is
        assert not np.array_equal(one, imagecodecs.imread(file))


def test_a_video(predictor: Predictor, kernels: FakeKernels, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    file = tmp_path / "clip.mkv"
    with av.open(str(file), "w") as made:
        stream = made.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 30, 40, "yuv420p"
        for n in range(3):
            frame = av.VideoFrame.from_ndarray(np.roll(RGB[:, :40], n, axis=1), format="rgb24")
            made.mux(stream.encode(frame.reformat(format="yuv420p")))
        made.mux(stream.encode(None))
    frames = {}
    for device in ("cpu", "cuda"):
        (result,) = enhance_files([file], tmp_path / device, model=predictor, device=device)
        assert (result.error, result.frames) == (None, 3)
        with av.open(str(result.target)) as opened:
            frames[device] = np.stack([frame.to_ndarray() for frame in opened.decode(video=0)])
    assert {call.name for call in kernels.calls} == {"resize_area_forward", "enhance_forward"}
    # What is encoded differs by a level at most; the encoder may make a few of it.
    assert np.abs(frames["cpu"].astype(int) - frames["cuda"]).mean() < 0.1


def test_what_is_missing_is_said(
    kernels: FakeKernels, run: Callable[..., tuple[Any, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(imagecodecs.png_encode(RGB))

    def sentence() -> str:
        code, out, err = run("enhance", picture, "--out", tmp_path / "out", "--device", "cuda")
        assert (code, out, err.count("\n")) == (2, "", 1)
        begins = "bilateral-ops enhance: --device cuda needs "
        assert err.startswith(begins)
        assert err.endswith(".\n")
        return err[len(begins) :].strip()

    def no_device(*_: Any, **__: Any) -> None:
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    def no_code(*_: Any) -> None:
        raise RuntimeError("resize_area_forward: there is code for compute capability 9.0, and cuda:0 has 7.5")

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "resize_area_forward", no_code, raising=False)
        said = "there is code for compute capability 9.0, and cuda:0 has 7.5"
        assert sentence() == f"kernels for this device (resize_area: {said})."
    monkeypatch.setitem(sys.modules, "torch", None)
    with monkeypatch.context() as patch:
        patch.setattr(FAKE_CUPY, "zeros", no_device)
        assert sentence() == (
            "a CUDA device, and CuPy finds none: cudaErrorNoDevice: no CUDA-capable device is detected."
        )
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert sentence() == (f"CuPy or PyTorch, and neither is installed; run {install('cupy')}, or the same for torch.")
    monkeypatch.setattr(_dlpack, "_kernels", None)
    monkeypatch.setitem(sys.modules, "bilateral_ops._cuda", None)
    assert sentence().startswith("CUDA kernels, and this bilateral_ops was built without CUDA (")
    with pytest.raises(ValueError, match="--device must be cpu or cuda, got 'tpu'"):
        enhance_files([picture], tmp_path / "out", device="tpu")
    assert not (tmp_path / "out" / "a.png").exists()
