"""Random arguments for every operation: what the gradcheck table, the tests and the benchmarks call them with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

#: Operations with a guide array, which also take ``xy``.
_SAMPLED = ("slice", "slice_apply", "splat")


def arguments(
    name: str,
    *,
    N: int | None = None,
    H: int = 6,
    W: int = 7,
    Gh: int = 3,
    Gw: int = 4,
    Gd: int = 5,
    Co: int = 3,
    Ci: int = 3,
    offset: bool = True,
    C: tuple[int, ...] | None = None,
    K: int = 4,
    F: int = 4,
    size: tuple[int, int] = (4, 3),
    xy: bool = False,
    image_kind: Any = np.float64,
    kind: Any = None,
    guide_range: tuple[float, float] = (-0.2, 1.2),
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of operation ``name`` by name, in the order of its signature.

    ``N=None`` makes them unbatched. ``image_kind`` is the dtype of the image (of everything else too, unless
    ``kind`` says otherwise; float32 beside an integer image). ``guide_range`` reaches past [0, 1] so that border
    cells are met. ``C`` are the channel axes of ``slice`` and ``splat``; by default ``(Co, Ci + offset)``.
    ``size`` is what ``resize_area`` makes of ``(H, W)``.
    """
    rng = np.random.default_rng(seed)
    image_dtype = np.dtype(image_kind)
    integer = image_dtype.kind == "u"
    other = np.dtype(kind) if kind is not None else np.dtype(np.float32) if integer else image_dtype
    batch = () if N is None else (N,)
    columns = Ci + bool(offset)
    channels = (Co, columns) if C is None else tuple(C)

    def normal(*shape: int, scale: float = 1.0) -> Any:
        return (scale * rng.standard_normal(shape)).astype(other)

    def image() -> Any:
        if integer:
            return rng.integers(0, np.iinfo(image_dtype).max, (*batch, H, W, Ci), image_dtype, endpoint=True)
        return rng.random((*batch, H, W, Ci)).astype(image_dtype)

    def guide() -> Any:
        return rng.uniform(*guide_range, (*batch, H, W)).astype(other)

    def coordinates() -> dict[str, Any]:
        return {"xy": rng.uniform(-0.1, 1.1, (*batch, H, W, 2)).astype(other)} if xy else {}

    def curves() -> dict[str, Any]:
        ccm = np.eye(Ci) + 0.1 * rng.standard_normal((Ci, Ci))
        ccm_bias, shifts = 0.05 * rng.standard_normal(Ci), rng.uniform(0, 1, (Ci, K))
        slopes, mix = rng.standard_normal((Ci, K)), rng.uniform(0.2, 0.5, Ci)
        # Middle grey becomes middle grey: some pixels are clipped to 0 or 1, but not most.
        grey = mix @ (slopes * np.maximum((ccm.sum(1) / 2 + ccm_bias)[:, None] - shifts, 0)).sum(1)
        parameters = {"ccm": ccm, "ccm_bias": ccm_bias, "shifts": shifts, "slopes": slopes, "mix": mix}
        return {name: v.astype(other) for name, v in {**parameters, "mix_bias": np.asarray(0.5 - grey)}.items()}

    def network() -> dict[str, Any]:
        return {
            "w1": normal(F, Ci),
            "b1": normal(F, scale=0.2),
            "w2": normal(F),
            "b2": np.asarray(-0.1, other),
        }

    make: Mapping[str, Any] = {
        "slice": lambda: {"grid": normal(*batch, Gh, Gw, Gd, *channels), "guide": guide(), **coordinates()},
        "apply": lambda: {"coefficients": normal(*batch, H, W, Co, columns), "image": image()},
        "slice_apply": lambda: {
            "grid": normal(*batch, Gh, Gw, Gd, Co, columns),
            "guide": guide(),
            "image": image(),
            **coordinates(),
        },
        "guide_curves": lambda: {"image": image(), **curves()},
        "guide_nn": lambda: {"image": image(), **network()},
        "guide_luma": lambda: {"image": image()},
        "splat": lambda: {
            "guide": guide(),
            "values": normal(*batch, H, W, *channels),
            "grid_shape": (Gh, Gw, Gd),
            **coordinates(),
        },
        "total_variation": lambda: {"grid": normal(N or 1, Gh, Gw, Gd, *channels)},
        "resize_area": lambda: {"image": image(), "size": size},
    }
    if xy and name not in _SAMPLED:
        raise ValueError(f"{name} takes no xy")
    return dict(make[name]())
