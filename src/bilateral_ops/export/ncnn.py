"""ncnn's files, for phones: trained models, by Tencent's converter ``pnnx`` (``pip install '.[ncnn]'``).

A model is for images of one size, channels first, and takes floats; weights are written in float32. In float32 results
are within 1e-6 of the package's with the model in it. ncnn computes in half floats where its options are not told
otherwise:

    net = ncnn.Net()
    net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_fp16_packed = False
    net.load_param("model.param")
    net.load_model("model.bin")
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image))         # (3, H, W), which must stay alive
    _, out = extractor.extract("out0")
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .._core.missing import MissingError, install
from .._core.whole import written
from ._model import Part, predictor_of, sides

if TYPE_CHECKING:
    import onnx

    from ..hdrnet import Predictor

__all__ = ["convert", "save"]


def convert(
    model: onnx.ModelProto, path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]]
) -> tuple[Path, Path]:
    """Write a model of :mod:`bilateral_ops.export.onnx` as ncnn's two files.

    Parameters
    ----------
    model : onnx.ModelProto
        Made with ``form="GridSample"``, ``layout="NCHW"`` and ``nan=False``, and a grid of four axes at most, as
        ``grid_axes="N Gh Gw (Gd Co L)"``: ncnn has no other.
    path : path
        The first file's, ``.param``; the second has the ending ``.bin``.
    shapes : mapping of str to shape
        Of each of the model's inputs, by its name, batch included, which must be 1.

    Returns
    -------
    tuple of two paths
        The files. Inputs are ``in0``, ``in1``, … in the model's order, without a batch, the output is ``out0``.

    Raises
    ------
    ValueError
        An input whose shape is missing or is not that of one image.
    RuntimeError
        Where ``pnnx`` is missing (an ImportError, too), or fails, or leaves what ncnn does not have.
    """
    from . import onnx

    names = [value.name for value in model.graph.input]
    sizes = [tuple(shapes.get(name, ())) for name in names]
    for name, shape in zip(names, sizes):
        if not shape or shape[0] != 1:
            raise ValueError(f"ncnn.convert: shapes must have a shape (1, …) for {name}, got {shapes.get(name)!r}.")
    target = Path(path)
    files = tuple(target.with_name(target.name.removesuffix(".param") + ending) for ending in (".param", ".bin"))
    program = _pnnx()
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder, "model.onnx"))
        said = ",".join(f"[{','.join(map(str, shape))}]" for shape in sizes)
        command = [program, "model.onnx", f"inputshape={said}", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        made = [Path(folder, f"model.ncnn{file.suffix}") for file in files]
        if done.returncode or not all(file.exists() for file in made):
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise RuntimeError(f"ncnn.convert: pnnx failed: {lines[-1]}.")
        layers = {line.split()[0] for line in made[0].read_text().splitlines()[2:] if line.strip()}
        if foreign := sorted(name for name in layers if "." in name or "::" in name):
            raise RuntimeError(f"ncnn.convert: ncnn does not have {', '.join(foreign)}, which pnnx left in the model.")
        with ExitStack() as stack:  # neither takes its place before both are there
            for source, part in zip(made, [stack.enter_context(written(file)) for file in files]):
                shutil.copyfile(source, part)
    return files[0], files[1]


def save(
    model: Predictor | str | os.PathLike[str] | None,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    part: Part = "whole",
) -> tuple[Path, Path]:
    """Write a trained model as ncnn's two files.

    Parameters
    ----------
    model : Predictor, or the path of a model file, optional
        Without one, the model in the package.
    path : path
        The first file's, ``.param``; the second has the ending ``.bin``.
    size : (H, W)
        The image's.
    part : "whole", "network" or "render"
        As :func:`bilateral_ops.export.onnx.hdrnet` has them.

    Returns
    -------
    tuple of two paths
        The files. ``in0`` and ``out0`` are images, float32 (3, H, W); of ``"network"`` ``in0`` is (3, S, S) and
        ``out0`` the grid, (Gh, Gw, Gd·3·scales·4); of ``"render"`` ``in0`` is the grid and ``in1`` the image.

    Raises
    ------
    ValueError
        A choice that is none of those above; errors of model files are those of :func:`.read_model`.
    RuntimeError
        Where ``pnnx`` is missing (an ImportError, too), or fails.
    """
    H, W = sides("ncnn.save", size)
    from . import onnx

    predictor = predictor_of(model)
    Gh, Gw, *cell = predictor.config.grid_shape
    shapes = {"low": (1, 3, *predictor.config.input_shape), "image": (1, 3, H, W), "grid": (1, Gh, Gw, math.prod(cell))}
    return convert(onnx.hdrnet(predictor, part=part, form="GridSample", layout="NCHW", nan=False), path, shapes)


def _pnnx() -> str:
    """The program: beside this Python, or wherever programs are."""
    found = shutil.which("pnnx", path=sysconfig.get_path("scripts")) or shutil.which("pnnx")
    if found is None:
        raise MissingError(f"bilateral_ops.export.ncnn needs pnnx, which is not installed; {install('ncnn')}.")
    return found
