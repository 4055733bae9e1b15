"""What a training minimises: sums of named losses, or a function of one's own."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

_TERM = re.compile(r"(?:(\d+(?:\.\d+)?)\*)?([a-z0-9]+)")
_OWN = re.compile(r"[\w.]+:[\w.]+")
#: Side of SSIM's windows, and its constants for images in [0, 1].
_WINDOW, _C1, _C2 = 7, 0.01**2, 0.03**2


def mse(image: Any, target: Any) -> Any:
    """mean((image − target)²)"""
    return (image - target).square().mean()


def l1(image: Any, target: Any) -> Any:
    """mean(|image − target|)"""
    return (image - target).abs().mean()


def cosine(image: Any, target: Any) -> Any:
    """mean(1 − cos ∠(image, target)) of the pixels' colours, whatever their brightness."""
    from torch.nn.functional import cosine_similarity

    return 1 - cosine_similarity(image, target, dim=-1, eps=1e-4).mean()


def ssim(image: Any, target: Any) -> Any:
    """1 − the mean structural similarity in windows of 7 × 7 pixels (Wang et al. 2004; as scikit-image's default)."""
    from torch.nn.functional import avg_pool2d

    x, y = (array.movedim(-1, 1) for array in (image, target))
    side = min(_WINDOW, *x.shape[2:])
    unbiased = side**2 / max(side**2 - 1, 1)

    def mean(array: Any) -> Any:
        return avg_pool2d(array, side, 1)

    a, b = mean(x), mean(y)
    variance = unbiased * (mean(x * x) - a * a + mean(y * y) - b * b)
    covariance = unbiased * (mean(x * y) - a * b)
    similarity = (2 * a * b + _C1) * (2 * covariance + _C2) / ((a * a + b * b + _C1) * (variance + _C2))
    return 1 - similarity.mean()


#: The losses by name, of images (N, H, W, 3); functions of PyTorch, which is imported where they are called.
LOSSES: dict[str, Callable[[Any, Any], Any]] = {loss.__name__: loss for loss in (mse, l1, cosine, ssim)}


def loss_of(text: str) -> Callable[[Any, Any], Any]:
    """The loss that ``NAME``, ``[W*]NAME+[W*]NAME…`` or ``module:function`` says; any other is a ``ValueError``."""
    if _OWN.fullmatch(text):
        module, _, name = text.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"train: loss must be a function that can be imported, got {text!r} ({error}).") from None
        if not callable(found):
            raise ValueError(f"train: loss must be a function, got {text!r}, which is of type {type(found).__name__}.")
        own: Callable[[Any, Any], Any] = found
        return own
    terms = []
    for part in text.split("+"):
        term = _TERM.fullmatch(part.strip())
        if term is None or term[2] not in LOSSES:
            raise ValueError(
                f"train: loss must be {', '.join(LOSSES)}, a sum of these such as l1+0.2*ssim, or module:function, "
                f"got {text!r}."
            )
        terms.append((float(term[1] or 1), LOSSES[term[2]]))

    def total(image: Any, target: Any) -> Any:
        return sum(weight * loss(image, target) for weight, loss in terms)

    return total
