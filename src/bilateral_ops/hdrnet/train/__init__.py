"""Training: ``bilateral-ops train``, and :func:`.train` for Python.

    from bilateral_ops.hdrnet.train import train

    result = train("photographs", "model.safetensors", edit="clahe", minutes=30)
    result.after.psnr, result.before.psnr       # of held-out photographs: the model's result, the photograph

``loop`` trains, and is imported when it is asked for, as it needs PyTorch; ``options``, ``data`` (photographs and
samples of them), ``edits`` (what to learn), ``team`` (processes) and ``checkpoint`` are what it is made of.

Source: Gharbi et al., Deep Bilateral Learning, SIGGRAPH 2017, sec. 3.4 and 4.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .data import DataError
from .options import Options

if TYPE_CHECKING:
    from .loop import Result, Score, TrainError, train

__all__ = ["DataError", "Options", "Result", "Score", "TrainError", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"{__name__}.loop"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
