"""HDRnet: a network that predicts a bilateral grid for a photograph, and the photograph rendered by it.

:class:`Predictor` enhances images by this package's kernels, in NumPy alone or in the image's framework;
:class:`.HDRNet` is the same network in PyTorch, to be trained, and is imported where it is asked for. A model is a
safetensors file with its :class:`Config`.

    from bilateral_ops.hdrnet import Predictor

    predictor = Predictor.load()        # the model in this package
    enhanced = predictor(image)         # ([N,] H, W, 3), uint8, uint16 or floats in [0, 1]; NumPy, PyTorch, JAX or CuPy

:func:`enhance_files` does that with files: pictures and videos, as ``bilateral-ops enhance`` does.

Source: Gharbi et al., Deep Bilateral Learning for Real-Time Image Enhancement, SIGGRAPH 2017.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._config import Config
from ._ports import from_pytorch
from ._predict import Predictor
from ._weights import from_hdrnet, read_model, write_model

if TYPE_CHECKING:
    from ..photo.job import Enhanced, enhance_files
    from ..photo.video import VideoOptions
    from .model import HDRNet as HDRNet

# HDRNet is not among these, so that they need no PyTorch; bilateral_ops.hdrnet.model has it, too.
__all__ = [
    "Config",
    "Enhanced",
    "Predictor",
    "VideoOptions",
    "enhance_files",
    "from_hdrnet",
    "from_pytorch",
    "read_model",
    "write_model",
]


#: Names that are imported when they are asked for: they need more, or are of another room.
_LATE = {
    "Enhanced": "photo.job",
    "HDRNet": "hdrnet.model",
    "VideoOptions": "photo.video",
    "enhance_files": "photo.job",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"bilateral_ops.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
