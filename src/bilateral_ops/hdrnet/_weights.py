"""Model files: the weights as safetensors, the configuration in their metadata. NumPy reads and writes them."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._whole import whole
from ._config import Config, layers, shapes

__all__ = ["from_hdrnet", "read_model", "write_model"]

#: The metadata's key for the configuration.
_CONFIG = "bilateral_ops.hdrnet"
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_MAX_HEADER = 100_000_000  # bytes, the format's own limit


def read_model(file: str | os.PathLike[str]) -> tuple[Config, dict[str, Any], dict[str, str]]:
    """Read a model file.

    Parameters
    ----------
    file : path

    Returns
    -------
    config : Config
    weights : dict
        Name → array, float32, as in the ``state_dict`` of :class:`HDRNet`.
    metadata : dict
        What else the file says, strings by name.

    Raises
    ------
    ValueError
        A file that is cut off, of another format or without a configuration, weights that are missing, too many or of
        another shape than the configuration's, or numbers that are not finite.
    OSError
        A file that cannot be read.

    Notes
    -----
    Format: safetensors, i.e. the header's length (8 bytes, little-endian), the header (JSON), the arrays' bytes.
    """

    def wrong(what: str) -> ValueError:
        return ValueError(f"read_model: {os.fspath(file)} {what}.")

    data = Path(file).read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > _MAX_HEADER or data[8:9] != b"{":
        raise wrong("must be a safetensors file, which it does not begin like")
    body = memoryview(data)[8 + length :]
    if 8 + length > len(data):
        raise wrong(f"must have a header of {length} bytes, but is cut off after {len(data) - 8}")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = dict(header.pop("__metadata__", {}))
        entries = {name: _entry(**values) for name, values in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise wrong("must be a safetensors file, but its header is none") from None
    if _CONFIG not in metadata:
        raise wrong(f"must say its configuration in the metadata ({_CONFIG!r}); write_model writes such files")
    try:
        config = Config.from_json(metadata.pop(_CONFIG))
    except (ValueError, TypeError) as error:
        raise wrong(f"must have a configuration that is one here; {error}".removesuffix(".")) from None
    weights = {}
    for name, (dtype, shape, begin, end) in entries.items():
        if dtype not in _DTYPES:
            raise wrong(f"must have numbers of {', '.join(_DTYPES)}, but {name} is {dtype}")
        kind = np.dtype(_DTYPES[dtype])
        if not 0 <= begin <= end <= len(body):
            raise wrong(f"must have {end} bytes of weights for {name}, but is cut off after {len(body)}")
        if end - begin != kind.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise wrong(f"must have as many bytes for {name} as its shape {shape} says, but has {end - begin}")
        array = np.frombuffer(body[begin:end], kind).reshape(shape)
        weights[name] = array.astype(np.float32)
    check_weights(f"read_model: {os.fspath(file)}", config, weights)
    return config, weights, metadata


def _entry(dtype: str, shape: list[int], data_offsets: list[int]) -> tuple[str, tuple[int, ...], int, int]:
    """What a header says of an array; ``TypeError`` or ``ValueError`` where it is something else."""
    begin, end = map(operator.index, data_offsets)
    return str(dtype), tuple(map(operator.index, shape)), begin, end


def write_model(
    file: str | os.PathLike[str],
    config: Config,
    weights: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: Any = np.float32,
) -> None:
    """Write a model file: safetensors, with the configuration in their metadata.

    Parameters
    ----------
    file : path
        It appears whole or not at all.
    config : Config
    weights : mapping
        Name → array or tensor: the ``state_dict`` of a :class:`HDRNet`.
    metadata : mapping, optional
        What else the file is to say, strings by name.
    dtype : float16 or float32
        How the numbers are stored. float16 halves the file; results differ in the last bits of 8.

    Raises
    ------
    ValueError
        Weights that are missing, too many, of another shape than the configuration's, or not finite; another dtype.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    stored = {"<f2": "F16", "<f4": "F32"}.get(kind.str)
    if stored is None:
        raise ValueError(f"write_model: dtype must be float16 or float32, got {np.dtype(dtype)}.")
    with np.errstate(over="ignore"):  # infinity is refused below
        arrays = {name: np.asarray(_numpy(value), kind, order="C") for name, value in weights.items()}
    check_weights("write_model", config, arrays)
    header: dict[str, Any] = {"__metadata__": {**(metadata or {}), _CONFIG: config.to_json()}}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": stored, "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    with whole(file) as part, part.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            stream.write(array.tobytes())


def check_weights(operation: str, config: Config, weights: Mapping[str, Any]) -> None:
    """``ValueError`` where weights are not those that a configuration has, or not finite."""
    wanted = shapes(config)
    for name, shape in wanted.items():
        if name not in weights:
            raise ValueError(f"{operation} must have all weights of its configuration, but {name} is missing.")
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"{operation}: {name} must have shape {shape}, got {tuple(weights[name].shape)}.")
        if not np.isfinite(weights[name]).all():
            raise ValueError(f"{operation}: {name} must be finite, but has NaN or infinity.")
        if name.endswith("running_var") and (weights[name] < 0).any():
            raise ValueError(f"{operation}: {name} must not be negative, got {weights[name].min()}.")
    if unknown := sorted(weights.keys() - wanted.keys()):
        raise ValueError(f"{operation} must have the weights of its configuration alone, but has {unknown[0]}, too.")


def from_hdrnet(variables: Mapping[str, Any], config: Config, *, scope: str = "inference") -> dict[str, Any]:
    """Weights trained with the original code (google/hdrnet, TensorFlow) as those of this package.

        reader = tensorflow.train.load_checkpoint(folder)
        variables = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
        write_model("model.safetensors", config, from_hdrnet(variables, config))

    Parameters
    ----------
    variables : mapping
        Variable name → array. Others than the network's, as the optimiser's, are ignored.
    config : Config
        What the network was trained with: ``guide="curves"`` for HDRNetCurves, ``guide="nn"`` for
        HDRNetPointwiseNNGuide, and ``scales=3`` beside it for HDRNetGaussianPyrNN.
    scope : str
        The variable scope of the network, before its names' first slash.

    Returns
    -------
    dict
        Name → array, float32: what :func:`write_model` and :class:`Predictor` take.

    Raises
    ------
    ValueError
        A variable that is missing or of another shape than the configuration's, or a configuration that the original
        does not have.

    Notes
    -----
    Results differ from the original's by its smoothing of the interpolation in depth, up to 1e-4 of the coefficients.

        convolution         weights (y, x, in, out)         → (out, in, y, x)
        fully connected     weights (in, out)               → (out, in); in counts rows, columns, channels
        batch norm          beta, moving_mean, moving_variance; there is no gamma
        ccm                 (in, out)                       → (out, in)
        shifts, slopes      (1, 1, 3, K), (1, 1, 1, 3, K)   → (3, K)
    """
    if config.guide == "luma" or not config.global_path or (config.scales > 1 and config.guide != "nn"):
        raise ValueError(f"from_hdrnet: config must be of a network that the original has, got {config}.")
    prefix = f"{scope}/" if scope else ""

    def variable(name: str, shape: tuple[int, ...]) -> Any:
        if prefix + name not in variables:
            raise ValueError(f"from_hdrnet: variables must have {prefix + name} for this configuration.")
        array = np.asarray(variables[prefix + name], np.float32)
        if array.shape != shape:
            raise ValueError(f"from_hdrnet: {prefix + name} must have shape {shape}, got {array.shape}.")
        return array

    places = {
        "splat": "splat/conv",
        "global_convolutions": "global/conv",
        "global_connected": "global/fc",
        "local": "local/conv",
        "prediction": "prediction/conv",
    }
    weights = {}
    for layer in layers(config):
        _, path, *number = layer.name.split(".")
        name = f"coefficients/{places[path]}{int(number[0]) + 1 if number else 1}"
        kernel = (layer.size, layer.size) if layer.size else ()
        array = variable(f"{name}/weights", (*kernel, layer.inputs, layer.outputs))
        weights[f"{layer.name}.weight"] = array.transpose((3, 2, 0, 1) if layer.size else (1, 0)).copy()
        if layer.norm:
            for ours, theirs in _NORM.items():
                weights[f"{layer.name}.norm.{ours}"] = variable(f"{name}/BatchNorm/{theirs}", (layer.outputs,))
        elif layer.bias:
            weights[f"{layer.name}.bias"] = variable(f"{name}/biases", (layer.outputs,))
    size = config.guide_complexity
    for scale in range(config.scales):
        name = f"guide/level_{scale}" if config.scales > 1 else "guide"
        if config.guide == "curves":
            guide = {
                "ccm": variable(f"{name}/ccm", (3, 3)).T.copy(),
                "ccm_bias": variable(f"{name}/ccm_bias", (3,)),
                "shifts": variable(f"{name}/shifts", (1, 1, 3, size)).reshape(3, size),
                "slopes": variable(f"{name}/slopes", (1, 1, 1, 3, size)).reshape(3, size),
                "mix": variable(f"{name}/channel_mixing/weights", (1, 1, 3, 1)).reshape(3),
                "mix_bias": variable(f"{name}/channel_mixing/biases", (1,)).reshape(()),
            }
        else:
            guide = {
                "w1": variable(f"{name}/conv1/weights", (1, 1, 3, size)).reshape(3, size).T.copy(),
                "b1": variable(f"{name}/conv1/BatchNorm/beta", (size,)),
                "running_mean": variable(f"{name}/conv1/BatchNorm/moving_mean", (size,)),
                "running_var": variable(f"{name}/conv1/BatchNorm/moving_variance", (size,)),
                "w2": variable(f"{name}/conv2/weights", (1, 1, size, 1)).reshape(size),
                "b2": variable(f"{name}/conv2/biases", (1,)).reshape(()),
            }
        weights |= {f"guides.{scale}.{ours}": array for ours, array in guide.items()}
    check_weights("from_hdrnet", config, weights)
    return weights


_NORM = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def _numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
