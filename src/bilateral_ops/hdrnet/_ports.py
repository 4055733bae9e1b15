"""Weights of other people's PyTorch ports of HDRnet as those of this package."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .._core.checks import brief, one_of, shape_text
from .._core.types import Array
from ..compat.hdrnet import LAYOUTS, _Layout, unpack_coefficients
from ._config import Config, layers
from ._weights import as_numpy, check_weights

__all__ = ["from_pytorch"]

#: What batch norm adds to a variance in PyTorch.
_NORM_EPSILON = 1e-5
#: Matrices (3, 4).
_ENTRIES = 12


@dataclass(frozen=True)
class _Naming:
    """How a port names its modules, and what it does.

    ``modules`` has a pattern for those of each path, with a layer's number where there are several. A module's
    convolution and its batch norm are those of the suffixes ``own`` and ``norm``.
    """

    modules: dict[str, str]
    own: str
    norm: str
    conventions: dict[str, str | bool]


#: The first is the one of the network's input: what has such a name has the others.
_NAMINGS = (
    _Naming(
        {
            "splat": r"coeffs\.splat_features\.(\d+)",
            "global": r"coeffs\.global_features_(?:conv|fc)\.(\d+)",
            "local": r"coeffs\.local_features\.(\d+)",
            "prediction": r"coeffs\.conv_out",
            "guide": r"guide\.conv(\d+)",
        },
        own=r"\.(?:conv|fc)",
        norm=r"\.bn",
        conventions={"layout": "z_matrix_offset", "activation": "sigmoid"},
    ),
    _Naming(
        {
            "splat": r"coefficients\.splat(\d+)",
            "global": r"coefficients\.global(\d+)",
            "local": r"coefficients\.local(\d+)",
            "prediction": r"coefficients\.pred",
        },
        own=r"\.0",
        norm=r"\.1",
        conventions={"layout": "out_in_z", "xy": "corners", "reduce": "nearest"},
    ),
    _Naming(
        {
            "splat": r"splat_conv\.(\d+)\.conv",
            "global": r"global_(?:conv|fc)\.(\d+)\.(?:conv|fc)",
            "local": r"local_conv\.(\d+)\.conv",
            "prediction": r"linear",
            "guide": r"guide_func\.conv(\d+)\.conv",
        },
        own=r"(?:\.conv|\.fc|)",
        norm=r"\.bn",
        conventions={
            "layout": "out_in_z",
            "activation": "tanh",
            "grid_axes": "yzx",
            "xy": "corners",
            "align_corners": True,
        },
    ),
)
#: How many modules a path has; None: any number.
_COUNTS = {
    "splat": None,
    "global_convolutions": None,
    "global_connected": 3,
    "local": 2,
    "prediction": 1,
    "guide": 2,
}
#: The names of a guide of curves, their shapes (None: the knots), and what becomes of them.
_CURVES: dict[str, tuple[tuple[int | None, ...], Callable[[Any], Any]]] = {
    "guide.M": ((3, 3), lambda value: {"ccm": value.T}),
    "guide.M_bias": ((3,), lambda value: {"ccm_bias": value}),
    "guide.thresholds": ((1, 1, 3, None), lambda value: {"shifts": value[0, 0]}),
    "guide.slopes": ((1, 1, 1, 3, None), lambda value: {"slopes": value[0, 0, 0]}),
    "guide.bias": ((), lambda value: {"mix": np.full(3, 1 / 3), "mix_bias": value}),
}
#: Fields of a configuration that shapes don't tell.
_FIELDS = ("reduce", "grid_axes", "xy", "align_corners", "padding_mode", "guide_range")


def from_pytorch(
    state_dict: Mapping[str, Array[object]],
    *,
    layout: _Layout | None = None,
    activation: Literal["sigmoid", "tanh"] | None = None,
    norm_epsilon: float = _NORM_EPSILON,
    **conventions: str | bool,
) -> tuple[Config, dict[str, Any]]:
    """A model trained with a PyTorch port of HDRnet, as one of this package.

        model = from_pytorch(torch.load("checkpoint.pth", map_location="cpu"))
        write_model("model.safetensors", *model)
        predictor = Predictor(*model)

    Parameters
    ----------
    state_dict : mapping
        Name → tensor or array, as the port's ``state_dict``. What is no array, as options beside the weights, is
        ignored, as are the prefix ``module.`` and ``num_batches_tracked``.
    layout : one of :data:`bilateral_ops.compat.hdrnet.LAYOUTS`, optional
        How the last convolution's channels are unrolled: :func:`bilateral_ops.compat.hdrnet.unpack_coefficients`.
    activation : "sigmoid" or "tanh", optional
        What ends a pointwise network's guide. ``tanh`` spans the depth by [−1, 1].
    norm_epsilon : float
        What the port's batch norm adds to a variance.
    **conventions : optional
        Fields of :class:`Config` that shapes do not tell: ``reduce``, ``grid_axes``, ``xy``, ``align_corners``,
        ``padding_mode`` and ``guide_range``.

    Returns
    -------
    config : Config
        Sizes are found from the shapes.
    weights : dict
        Name → array, float32.

    Raises
    ------
    ValueError
        Names of no port that is known, weights that are missing or of shapes that make no such network, or an unknown
        convention.
    TypeError
        A convention of another type.

    Notes
    -----
    What is not said is as in the newest version of the port that names its modules so (`docs/ports.md` has a table of
    ports, versions and what they need):

        coeffs.splat_features.…     layout="z_matrix_offset", activation="sigmoid"
        coefficients.splat…         layout="out_in_z", xy="corners", reduce="nearest"
        splat_conv.…                layout="out_in_z", activation="tanh", grid_axes="yzx", xy="corners",
                                    align_corners=True

    Batch norm is folded into the weights with its scale: the configuration has none, and trains on without it. Ports
    pad convolutions with a zero on each side (``Config(padding="symmetric")``) and flatten (C, H, W), here (H, W, C).
    """
    if unknown := sorted(conventions.keys() - {*_FIELDS}):
        raise ValueError(f"from_pytorch: conventions must be of {', '.join(_FIELDS)}, got {unknown[0]!r}.")
    naming, modules, guide = _recognised(_arrays(state_dict))
    said = {**naming.conventions, **conventions}
    said |= {name: value for name, value in (("layout", layout), ("activation", activation)) if value is not None}
    unrolled: Any = said.pop("layout")
    ending = said.pop("activation", None)
    one_of("from_pytorch", "layout", unrolled, LAYOUTS)
    if ending not in (("sigmoid", "tanh") if "guide" in modules else (None,)):
        wanted = "sigmoid or tanh" if "guide" in modules else "None where the guide is of curves"
        raise ValueError(f"from_pytorch: activation must be {wanted}, got {ending!r}.")
    folded = {path: [_folded(module, norm_epsilon) for module in found] for path, found in modules.items()}
    if "guide" in modules:
        (w1, b1), (w2, b2) = folded.pop("guide")
        if w1.shape[1:] != (3, 1, 1) or w2.shape != (1, len(w1), 1, 1):
            raise _wrong(f"a guide of 1 × 1 convolutions from 3 channels to 1, but has {w1.shape} and {w2.shape}")
        factor = 2 if ending == "tanh" else 1  # (tanh(a) + 1)/2 = sigmoid(2a)
        guide = {"w1": w1[..., 0, 0], "b1": b1, "w2": factor * w2[0, :, 0, 0], "b2": factor * b2[0]}
    config = _config(folded, guide, said)

    weights = {}
    for layer in layers(config):
        _, path, *number = layer.name.split(".")
        weight, bias = folded[path][int(number[0]) if number else 0]
        if path == "prediction":
            channels = np.arange(layer.outputs).reshape(1, -1, 1, 1)
            order = unpack_coefficients(channels, config.luma_bins, unrolled, channels_first=True)[0, 0, 0]
            order = order.transpose(2, 1, 0).ravel()  # from z, out, in
            weight, bias = weight[order], bias[order]
        elif layer.name == "coefficients.global_connected.0":
            side = config.cells[0] >> config.global_convolutions
            weight = weight.reshape(len(weight), -1, side, side).transpose(0, 2, 3, 1).reshape(weight.shape)
        weights[f"{layer.name}.weight"] = weight
        if layer.bias:
            weights[f"{layer.name}.bias"] = bias
        elif bias.any():
            raise _wrong("no bias in the last local convolution, but has one")
    weights |= {f"guides.0.{name}": value for name, value in guide.items()}
    weights = {name: np.array(value, np.float32, order="C") for name, value in weights.items()}
    check_weights("from_pytorch", config, weights)
    return config, weights


def _arrays(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by name, float64."""
    return {
        name.removeprefix("module."): np.asarray(as_numpy(value), np.float64)
        for name, value in state_dict.items()
        if hasattr(value, "shape") and not name.endswith("num_batches_tracked")
    }


def _recognised(arrays: dict[str, Any]) -> tuple[_Naming, dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """A port's naming, the arrays of its modules by path and in order, and the parameters of a guide of curves."""
    naming = next((n for n in _NAMINGS if any(re.match(n.modules["splat"], name) for name in arrays)), None)
    if naming is None:
        raise ValueError(
            "from_pytorch: state_dict must have the names of a port that is known, coeffs.splat_features.…, "
            f"coefficients.splat… or splat_conv.…, got {brief(next(iter(arrays), None))[:80]}."
        )
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    curves: dict[str, Any] = {}
    for name, array in arrays.items():
        for path, module in naming.modules.items():
            pattern = rf"(?P<module>{module})(?:(?P<norm>{naming.norm})|{naming.own})\.(?P<kind>\w+)"
            if found := re.fullmatch(pattern, name):
                kind = ("norm." if found["norm"] else "") + found["kind"]
                parts.setdefault((path, found["module"]), {})[kind] = array
                break
        else:
            if "guide" in naming.modules or name not in _CURVES:
                raise _wrong(f"the port's weights alone, but has {brief(name)[:80]}")
            shape, made = _CURVES[name]
            if [a for a, b in zip(array.shape, shape) if b and a != b] or array.ndim != len(shape):
                raise _wrong(f"{name} of shape {shape_text('K' if n is None else n for n in shape)}, got {array.shape}")
            curves |= made(array)
    curved = "guide" not in naming.modules
    modules: dict[str, list[dict[str, Any]]] = {path: [] for path in _COUNTS if path != "guide" or not curved}
    for (path, name), part in sorted(parts.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0][1])]):
        if "weight" not in part:
            raise _wrong(f"all weights of the port's network, but {name} has none")
        weight = part["weight"]
        axes = (2, 4) if path == "global" else (4,)
        others = [value.shape for kind, value in part.items() if kind != "weight"]
        if weight.ndim not in axes or any(shape != weight.shape[:1] for shape in others):
            raise _wrong(f"shapes of a layer's for {name}, but has {weight.shape} and {others}")
        if path == "global":
            path = "global_convolutions" if part["weight"].ndim == 4 else "global_connected"
        modules[path].append(part)
    for path, count in _COUNTS.items():
        if count and path in modules and len(modules[path]) != count:
            raise _wrong(f"{count} modules for {path}, but has {len(modules[path])}")
    if curved and len(curves) != 6:
        raise _wrong(f"all of {', '.join(_CURVES)}, but some are missing")
    return naming, modules, curves


def _folded(module: dict[str, Any], epsilon: float) -> tuple[Any, Any]:
    """A module's weight and bias with its batch norm in them."""
    weight = module["weight"]
    bias = module.get("bias", np.zeros(len(weight)))
    if "norm.running_mean" not in module:
        return weight, bias
    scale = module.get("norm.weight", 1) / np.sqrt(module["norm.running_var"] + epsilon)
    folded = weight * np.reshape(scale, (-1, *[1] * (weight.ndim - 1)))
    return folded, (bias - module["norm.running_mean"]) * scale + module.get("norm.bias", 0)


def _config(folded: dict[str, list[tuple[Any, Any]]], guide: dict[str, Any], said: dict[str, Any]) -> Config:
    """What shapes tell, and what was said."""
    splat, convolutions = ([weight for weight, _ in folded[path]] for path in ("splat", "global_convolutions"))
    (prediction, _), (connected, _) = folded["prediction"][0], folded["global_connected"][0]
    width, depth = len(splat[0]), len(prediction) // _ENTRIES
    channels = len((convolutions or splat)[-1])
    side = math.isqrt(connected.shape[-1] // channels)
    whole = len(prediction) == depth * _ENTRIES and side * side * channels == connected.shape[-1]
    if not whole or not depth or width % depth:
        raise _wrong(
            f"shapes of one network, but has {width} channels first, {len(prediction)} of the prediction, and "
            f"{connected.shape[-1]} numbers of {channels} channels for the fully connected layers"
        )
    curves = "ccm" in guide
    return Config(
        net_input=side << len(convolutions) + len(splat),
        spatial_bin=side << len(convolutions),
        luma_bins=depth,
        channel_multiplier=width // depth,
        guide="curves" if curves else "nn",
        guide_complexity=guide["shifts" if curves else "w1"].shape[-1 if curves else 0],
        global_convolutions=len(convolutions),
        padding="symmetric",
        guide_norm=False,
        **said,
    )


def _wrong(what: str) -> ValueError:
    return ValueError(f"from_pytorch: state_dict must have {what}.")
