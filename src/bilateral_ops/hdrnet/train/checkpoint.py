"""A training's checkpoint, checked before any of it is used: ``ValueError`` says what is wrong with it."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..._core.checks import brief
from .._config import Config
from .._weights import check_weights

#: Bytes that torch.save pickles, the tensors' elements aside: some 30 kB. Read, they may take 100 times as much memory.
_MAX_PICKLE = 1_000_000
#: Adam counts steps in float32, which stay here.
_MAX_COUNT = 1 << 24
_LARGEST = sys.float_info.max


def load(file: Path, stream: BinaryIO) -> Any:
    """What ``torch.save`` wrote to a file, which is open; any exception where that is something else."""
    with zipfile.ZipFile(stream) as archive:
        records = archive.infolist()
        pickled = sum(record.file_size for record in records if record.filename.endswith(".pkl"))
        stored = sum(record.file_size for record in records)
        if any(record.compress_type for record in records) or stored > file.stat().st_size or pickled > _MAX_PICKLE:
            raise ValueError("torch.save writes no such files")
        if archive.testzip():  # PyTorch compares no checksums
            raise ValueError("a checksum is wrong")
    # Mapped, tensors have the file's bytes and no others, whatever their shapes are, and take no memory yet.
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def check_progress(saved: Mapping[str, Any]) -> None:
    """How far the training was, and what it was."""
    _check_number(saved, "step", int, 1, 1 << 53)
    _check_number(saved, "elapsed", float, 0, _LARGEST)
    _check_number(saved, "average", float, 0, _LARGEST)
    if type(saved.get("finished")) is not bool:
        raise ValueError(f"finished must be True or False, got {_kind(saved.get('finished'))}")
    trained_on = _mapping(saved, "trained on")
    if not all(isinstance(value, (str, int, float, type(None))) for value in trained_on.values()):
        raise ValueError("trained on must be numbers and text by name")


def weights(saved: Mapping[str, Any], key: str, own: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Weights as ``own``, a ``state_dict``, in memory of their own."""
    found = _mapping(saved, key)
    for name, value in found.items():
        if not isinstance(name, str):
            raise ValueError(f"{key} must be tensors by name, got {_kind(name)} as a name")
        _check_tensor(f"{key}: {name[:80]!r}", value, own[name].dtype if name in own else torch.float32)
    check_weights(key, config, {name: value.numpy() for name, value in found.items()})
    for name, value in own.items():  # those of a guide that is not ours
        if name not in found or found[name].shape != value.shape:
            raise ValueError(f"{key} must have {name} of shape {tuple(value.shape)}")
    return {name: found[name].clone() for name in own}


def best(saved: Mapping[str, Any], own: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The weights that were the best for held-out photographs, in memory of their own."""
    found = _mapping(saved, "best")
    _check_number(found, "psnr", float, -_LARGEST, _LARGEST)
    _check_number(found, "step", int, 0, saved["step"])
    return {"psnr": found["psnr"], "step": found["step"], "weights": weights(found, "weights", own, config)}


def moments(saved: Mapping[str, Any], optimizer: torch.optim.Adam) -> dict[str, Any]:
    """The optimiser's ``state_dict`` with Adam's moments from a checkpoint, in memory of their own."""
    state = _mapping(_mapping(saved, "optimizer"), "state")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if state.keys() != set(range(len(parameters))):
        raise ValueError(f"optimizer must have moments of {len(parameters)} parameters")
    result: dict[int, Any] = {}
    for i, parameter in enumerate(parameters):
        found, result[i] = _mapping(state, i), {}
        for name, like in (("step", torch.zeros(())), ("exp_avg", parameter), ("exp_avg_sq", parameter)):
            value: Any = found.get(name)
            what = f"{name} of parameter {i}"
            _check_tensor(what, value, like.dtype)
            if value.shape != like.shape:
                raise ValueError(f"{what} must have shape {tuple(like.shape)}, got {tuple(value.shape)}")
            if not value.isfinite().all() or (name == "exp_avg_sq" and (value < 0).any()):
                raise ValueError(f"{what} must be finite, and a square not negative")
            result[i][name] = torch.empty_like(like, device="cpu", requires_grad=False).copy_(value)
        if result[i]["step"] != min(saved["step"], _MAX_COUNT):
            raise ValueError(f"optimizer must be of step {saved['step']}, got {float(result[i]['step'])}")
    # All else in it follows from the options.
    return {"state": result, "param_groups": optimizer.state_dict()["param_groups"]}


def _mapping(saved: Mapping[Any, Any], key: Any) -> dict[Any, Any]:
    value = saved.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be of type dict, got {_kind(value)}")
    return value


def _check_number(saved: Mapping[str, Any], key: str, kind: type, least: Any, most: Any) -> None:
    value = saved.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key} must be of type {kind.__name__}, got {_kind(value)}")
    if not least <= value <= most:  # NaN neither
        raise ValueError(f"{key} must be from {least} to {most}, got {brief(value)}")


def _check_tensor(what: str, value: Any, dtype: torch.dtype) -> None:
    if type(value) is not torch.Tensor or value.layout is not torch.strided or value.device.type != "cpu":
        raise ValueError(f"{what} must be a tensor, got {_kind(value)}")
    if value.dtype != dtype or value.requires_grad or value.is_neg():
        raise ValueError(f"{what} must be of {dtype}, got {value.dtype}")


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
