"""A predictor of NumPy's images that computes on a CUDA device, by whichever framework is there."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .._core.checks import brief
from .._core.missing import install
from ..frameworks import _dlpack
from ._predict import Predictor

#: What ``on_device`` knows.
DEVICES = ("cpu", "cuda")


class OnDevice:
    """A :class:`Predictor` whose images, averages and grids are NumPy's: they are sent, and what comes is fetched."""

    def __init__(self, predictor: Predictor, send: Callable[[Any], Any], fetch: Callable[[Any], Any]) -> None:
        self._predictor, self._send, self._fetch = predictor, send, fetch
        self.config, self.margin = predictor.config, predictor.margin

    def low_resolution(self, image: Any) -> Any:
        return self._fetch(self._predictor.low_resolution(self._send(image)))

    def grid(self, low: Any) -> Any:
        return self._fetch(self._predictor.grid(self._send(low)))

    def render(self, grid: Any, image: Any, *, strength: float = 1.0, window: Any = None, out: Any = None) -> Any:
        sent = self._send(image)
        # The image's copy there is nobody else's.
        made = self._predictor.render(self._send(grid), sent, strength=strength, window=window, out=sent)
        if out is None:
            return self._fetch(made)
        np.copyto(out, self._fetch(made))
        return out

    def _for_colours(self, to_rgb: Any, from_rgb: Any) -> OnDevice:
        return OnDevice(self._predictor._for_colours(to_rgb, from_rgb), self._send, self._fetch)


def on_device(predictor: Predictor, device: str) -> Predictor | OnDevice:
    """The predictor, to compute on ``"cpu"`` or ``"cuda"``: there by CuPy, or else by PyTorch, on the current device.

    ``RuntimeError``: what is missing, in words that follow "needs".
    """
    if device == "cpu":
        return predictor
    if lacking := _dlpack.lacking():
        raise RuntimeError(f"CUDA kernels, and {lacking}")
    reasons = []
    for name, way in _WAYS.items():
        try:
            found = OnDevice(predictor, *way())
        except ModuleNotFoundError:
            continue
        except Exception as error:  # of the framework, of CUDA's libraries or of the driver: each has its own
            reasons.append(f"{name} finds none: {brief(error, str)}")
            continue
        try:
            found.low_resolution(np.zeros((1, 1, 3), np.uint8))
        except RuntimeError as error:
            raise RuntimeError(f"kernels for this device ({brief(error, str).rstrip('.')})") from error
        return found
    if not reasons:
        raise RuntimeError(f"CuPy or PyTorch, and neither is installed; run {install('cupy')}, or the same for torch")
    raise RuntimeError(f"a CUDA device, and {'; '.join(reasons).rstrip('.')}")


def _by_cupy() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    cupy = import_module("cupy")
    cupy.zeros(1)
    return cupy.array, cupy.asnumpy


def _by_torch() -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    torch = import_module("torch")
    torch.zeros(1, device="cuda")

    def send(array: Any) -> Any:  # which PyTorch wants to be writable, and without negative strides
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to("cuda")

    return send, lambda tensor: tensor.cpu().numpy()


#: How to send arrays to the device and to fetch them, by the framework that does it. Errors: there is no device.
_WAYS = {"CuPy": _by_cupy, "PyTorch": _by_torch}
