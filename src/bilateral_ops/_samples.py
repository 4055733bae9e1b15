"""Random arguments for every operation, by its signature: for the gradcheck table, the tests and the benchmarks."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ._core.signature import Argument
from .ops import OPERATIONS


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
    xy: bool | str = False,
    index: Literal["images", "pixels"] | None = None,
    M: int = 3,
    image_dtype: Any = np.float64,
    dtype: Any = None,
    guide_range: tuple[float, float] = (-0.2, 1.2),
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of operation ``name`` by name, in the order of its signature.

    ``N=None`` makes them unbatched. ``image_dtype`` is the dtype of the image (of everything else too, unless
    ``dtype`` says otherwise; float32 beside an integer image). ``guide_range`` reaches past [0, 1] so that border
    cells are met. ``C`` are the channel axes of ``slice`` and ``splat``; by default ``(Co, Ci + offset)``.
    ``size`` is the result's size of ``resize_area``. ``xy`` is whether there are coordinates, or a rule. With
    an ``index`` there are ``M`` grids.
    """
    operation = OPERATIONS[name].signature
    if operation is None:
        raise ValueError(f"{name} has a signature for each kind of guide")
    if xy and "xy" not in operation.names:
        raise ValueError(f"{name} takes no xy")
    rng = np.random.default_rng(seed)
    image_dtype = np.dtype(image_dtype)
    integer = image_dtype.kind == "u"
    other = np.dtype(dtype) if dtype is not None else np.dtype(np.float32) if integer else image_dtype
    columns = Ci + bool(offset)
    axes: dict[str, tuple[int, ...]] = {
        "N": (N or 1,) if operation.always_batched else () if N is None else (N,),
        "*C": (Co, columns) if C is None else tuple(C),
        "Ci[+1]": (columns,),
    }
    sizes = {"M": M, "H": H, "W": W, "Gh": Gh, "Gw": Gw, "Gd": Gd, "Co": Co, "Ci": Ci, "K": K, "F": F, "2": 2}
    sizes |= zip("hw", size)
    axes |= {axis: (length,) for axis, length in sizes.items()}

    def drawn(a: Argument) -> Any:
        names = ("M", *a.axes[1:]) if index and a.role == "grid" else a.axes
        shape = tuple(length for axis in names for length in axes[axis.partition("=")[0]])
        if a.role == "image" and integer:
            return rng.integers(0, np.iinfo(image_dtype).max, shape, image_dtype, endpoint=True)
        if a.role == "image":
            return rng.random(shape).astype(image_dtype)
        if a.role == "guide":
            return rng.uniform(*((-0.1, 1.1) if a.name == "xy" else guide_range), shape).astype(other)
        return rng.standard_normal(shape).astype(other)

    def curves() -> dict[str, Any]:
        ccm = np.eye(Ci) + 0.1 * rng.standard_normal((Ci, Ci))
        ccm_bias, shifts = 0.05 * rng.standard_normal(Ci), rng.uniform(0, 1, (Ci, K))
        slopes, mix = rng.standard_normal((Ci, K)), rng.uniform(0.2, 0.5, Ci)
        # Middle grey maps to middle grey, so that only some pixels are clipped to 0 or 1.
        grey = mix @ (slopes * np.maximum((ccm.sum(1) / 2 + ccm_bias)[:, None] - shifts, 0)).sum(1)
        return dict(zip(operation.parameters, (ccm, ccm_bias, shifts, slopes, mix, 0.5 - grey)))

    def network() -> dict[str, Any]:
        w1, b1, w2 = rng.standard_normal((F, Ci)), 0.2 * rng.standard_normal(F), rng.standard_normal(F)
        return dict(zip(operation.parameters, (w1, b1, w2, -0.1)))

    # Parameters of a guide are drawn together; all other arguments follow from their roles and axes.
    given = {a.name: drawn(a) for a in operation.arguments if a.role not in ("parameter", "index") and a.name != "xy"}
    parameters = {"curves": curves, "nn": network}.get(operation.guide, dict)()
    given |= {parameter: np.asarray(value, other) for parameter, value in parameters.items()}
    if operation.sizes:
        given[operation.sizes.name] = tuple(sizes[axis] for axis in operation.sizes.axes)
    if xy:
        given["xy"] = xy if isinstance(xy, str) else drawn(operation.arguments[operation.names.index("xy")])
    if index:
        named = operation.arguments[operation.names.index("index")].axes[: 1 if index == "images" else 3]
        given["index"] = rng.integers(0, M, [length for axis in named for length in axes[axis]])
    return given
