"""Model files: the weights as safetensors, the configuration in their metadata. NumPy reads and writes them."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .._core.checks import brief
from .._core.whole import written
from ._config import Config, layers, parse_json, shapes

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from .._core.types import Array

__all__ = ["from_hdrnet", "read_model", "write_model"]

#: The metadata's key for the configuration.
_CONFIG = "bilateral_ops.hdrnet"
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
#: Bytes of a header. Large networks' arrays take some 20 kB of it, the rest is for metadata; read, it may take 35 times
#: as much memory.
_MAX_HEADER = 4_000_000
#: Of an array, as NumPy's own.
_MAX_AXES = 32


@dataclass(frozen=True)
class _Entry:
    """Where an array is in the file's body, and as what."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_model(file: str | os.PathLike[str]) -> tuple[Config, dict[str, NDArray[np.float32]], dict[str, str]]:
    """Read a model file.

    Parameters
    ----------
    file : path

    Returns
    -------
    config : Config
    weights : dict
        Name → array, float32, as in the ``state_dict`` of :class:`.HDRNet`.
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
    Nothing but the header is read before it is clear that the bytes are those of the configuration's weights.
    """

    def wrong(what: str) -> ValueError:
        return ValueError(f"read_model: {os.fspath(file)} {what}.")

    kind = os.stat(file).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # open has words for a folder, and waits for a pipe's writer
        raise wrong("must be a regular file, which it is not")
    with open(file, "rb") as stream:
        metadata, entries, begin, stored = _read_header(stream, wrong)
        if _CONFIG not in metadata:
            raise wrong(f"must say its configuration in the metadata ({_CONFIG!r}); write_model writes such files")
        try:
            config = Config.from_json(metadata.pop(_CONFIG))
        except ValueError as error:
            raise wrong(f"must have a configuration that is one here; {error}".removesuffix(".")) from None
        operation = f"read_model: {os.fspath(file)}"
        _check_sizes(wrong, entries)
        check_shapes(operation, config, {name: entry.shape for name, entry in entries.items()})
        _check_places(wrong, entries, stored)
        weights = {}
        for name, entry in entries.items():
            stream.seek(begin + entry.begin)
            data = stream.read(entry.end - entry.begin)
            if len(data) < entry.end - entry.begin:
                raise wrong(f"must stay as it is while it is read, but {name} is cut off")
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
                array = np.frombuffer(data, _DTYPES[entry.dtype]).reshape(entry.shape).astype(np.float32)
            _check_numbers(operation, name, array)
            weights[name] = array
    return config, weights, metadata


def _read_header(
    stream: BinaryIO, wrong: Callable[[str], ValueError]
) -> tuple[dict[str, str], dict[str, _Entry], int, int]:
    """The metadata, the arrays by name, where the arrays' bytes begin, and how many there are."""
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{" or not length:
        raise wrong("must be a safetensors file, which it does not begin like")
    if length > _MAX_HEADER:
        raise wrong(f"must have a header of at most {_MAX_HEADER} bytes, but it says {length}")
    stored = size - 8 - length
    if stored < 0:
        raise wrong(f"must have a header of {length} bytes, but is cut off after {size - 8}")
    try:
        header = parse_json((start[8:] + stream.read(length - 1)).decode())
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError
        # Earlier versions wrote whatever they were given; the format has strings alone.
        strings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
        entries = {name: _entry(values) for name, values in header.items()}
    except (ValueError, RecursionError):
        raise wrong("must be a safetensors file, but its header is none") from None
    return strings, entries, 8 + length, stored


def _entry(values: Any) -> _Entry:
    """What a header says of an array; ``ValueError`` where it is something else."""
    if not isinstance(values, dict) or values.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError
    dtype, shape, offsets = values["dtype"], values["shape"], values["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError
    if len(shape) > _MAX_AXES:
        raise ValueError
    if any(type(number) is not int or number < 0 for number in shape + offsets):
        raise ValueError
    return _Entry(dtype, tuple(shape), *offsets)


def _check_sizes(wrong: Callable[[str], ValueError], entries: dict[str, _Entry]) -> None:
    for name, entry in entries.items():
        if entry.dtype not in _DTYPES:
            raise wrong(f"must have numbers of {', '.join(_DTYPES)}, but {_said(name)} is {_said(entry.dtype)}")
        if entry.end - entry.begin != math.prod(entry.shape) * np.dtype(_DTYPES[entry.dtype]).itemsize:
            size = f"as many bytes for {_said(name)} as its shape {entry.shape} says"
            raise wrong(f"must have {size}, but has {entry.end - entry.begin}")


def _check_places(wrong: Callable[[str], ValueError], entries: dict[str, _Entry], stored: int) -> None:
    """Every byte of the body belongs to one array."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        if entry.begin != end:
            raise wrong(f"must have one array after another, but {name} begins at byte {entry.begin}, not {end}")
        end = entry.end
    if stored != end:
        raise wrong(f"must have {end} bytes of weights, but {'is cut off after' if stored < end else 'has'} {stored}")


def write_model(
    file: str | os.PathLike[str],
    config: Config,
    weights: Mapping[str, Array[object]],
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: DTypeLike = np.float32,
) -> None:
    """Write a model file: safetensors, with the configuration in their metadata.

    Parameters
    ----------
    file : path
        It appears whole or not at all.
    config : Config
    weights : mapping
        Name → array or tensor: the ``state_dict`` of a :class:`.HDRNet`.
    metadata : mapping, optional
        What else the file is to say, strings by name.
    dtype : float16 or float32
        How the weights are stored. float16 halves the file; results differ in the last bits of 8.

    Raises
    ------
    ValueError
        Weights that are missing, too many, of another shape than the configuration's, or not finite; another dtype;
        metadata of 4 MB and more.
    TypeError
        Metadata that are not strings.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    stored = {"<f2": "F16", "<f4": "F32"}.get(kind.str)
    if stored is None:
        raise ValueError(f"write_model: dtype must be float16 or float32, got {np.dtype(dtype)}.")
    with np.errstate(over="ignore"):  # infinity is refused below
        arrays = {name: np.asarray(as_numpy(value), kind, order="C") for name, value in weights.items()}
    check_weights("write_model", config, arrays)
    metadata = metadata or {}
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"write_model: metadata must be strings by name, got {brief(name)}: {brief(value)[:40]}.")
    header: dict[str, Any] = {"__metadata__": {**metadata, _CONFIG: config.to_json()}}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": stored, "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    if len(text) > _MAX_HEADER:
        raise ValueError(f"write_model: metadata must have less than {_MAX_HEADER} bytes as JSON, got {len(text)}.")
    with written(file) as part, part.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            stream.write(array.tobytes())


def check_weights(operation: str, config: Config, weights: Mapping[str, Any]) -> None:
    """``ValueError`` where weights are not those that a configuration has, or not finite."""
    check_shapes(operation, config, {name: tuple(array.shape) for name, array in weights.items()})
    for name, array in weights.items():
        _check_numbers(operation, name, array)


def check_shapes(operation: str, config: Config, found: Mapping[str, tuple[int, ...]]) -> None:
    """``ValueError`` where names and shapes are not those of a configuration's weights."""
    wanted = shapes(config)
    for name, shape in wanted.items():
        if name not in found:
            raise ValueError(f"{operation} must have all weights of its configuration, but {name} is missing.")
        if found[name] != shape:
            raise ValueError(f"{operation}: {name} must have shape {shape}, got {found[name]}.")
    own = {name for name in found if config.guide == "custom" and name.startswith("guides.")}
    if unknown := sorted(found.keys() - wanted.keys() - own):
        raise ValueError(
            f"{operation} must have the weights of its configuration alone, but has {_said(unknown[0])}, too."
        )


def _said(name: str) -> str:
    """A name from anywhere, on a line."""
    return name[:80] if name.isprintable() else repr(name[:80])


def _check_numbers(operation: str, name: str, array: Any) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{operation}: {name} must be finite, but has NaN or infinity.")
    if name.endswith("running_var") and (array < 0).any():
        raise ValueError(f"{operation}: {name} must not be negative, got {array.min()}.")


def from_hdrnet(
    variables: Mapping[str, Array[object]], config: Config, *, scope: str = "inference"
) -> dict[str, NDArray[np.float32]]:
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
    Results differ from the original's by its smoothing of the interpolation in depth, up to 1e-4 of the coefficients;
    and by the network's input, where ``config.reduce`` is ``"area"``: the original reduces by nearest neighbour, in
    training the pixel ⌊i·H/S⌋, as ``Config(reduce="nearest")`` does.

        convolution         weights (y, x, in, out)         → (out, in, y, x)
        fully connected     weights (in, out)               → (out, in); in counts rows, columns, channels
        batch norm          beta, moving_mean, moving_variance; there is no gamma
        ccm                 (in, out)                       → (out, in)
        shifts, slopes      (1, 1, 3, K), (1, 1, 1, 3, K)   → (3, K)
    """
    plain = Config(**{name: getattr(config, name) for name in _ORIGINAL})
    if config != plain or config.guide in ("luma", "custom") or (config.scales > 1 and config.guide != "nn"):
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


#: Fields that the original has, too.
_ORIGINAL = (
    *("net_input", "spatial_bin", "luma_bins", "channel_multiplier", "batch_norm", "guide", "guide_complexity"),
    *("scales", "reduce"),
)
_NORM = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def as_numpy(value: Any) -> Any:
    """A tensor or array in the host's memory."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
