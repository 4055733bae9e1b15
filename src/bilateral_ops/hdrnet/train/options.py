"""What a training is told, by the command's options and by :func:`bilateral_ops.hdrnet.train.train`'s keywords."""

from __future__ import annotations

import math
import operator
import os
import re
from dataclasses import Field, dataclass, field, fields
from typing import Any

from ..._core.checks import one_of
from .edits import EDITS
from .losses import LOSSES, loss_of

#: Steps where neither these nor minutes are said.
STEPS = 20_000


def _option(default: Any, help: str, metavar: str | None = None, **more: Any) -> Any:
    """A field, and how the command line has it.

    ``more``: ``choices``; ``least``, ``above``, ``most`` bound a number; ``path``: it may be an ``os.PathLike`` or of
    one of these types; ``resumable``: a resumed training may have another value.
    """
    return field(default=default, metadata={"help": help, "metavar": metavar, **more})


def kind_of(item: Field[Any]) -> type:
    """What a field's values are: the first type that its annotation, a string, names."""
    kinds: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
    return kinds[str(item.type).partition(" ")[0]]


@dataclass(frozen=True)
class Options:
    """All options of a training but its folder, its model file and the network's :class:`.Config`.

    Raises
    ------
    ValueError
        A value out of its range, or two that exclude one another.
    TypeError
        A value of another type.
    """

    edit: str | None = _option(
        None, "a built-in edit to learn, of photographs that have no targets", choices=tuple(EDITS)
    )
    validation: str | float = _option(
        0.1,
        "held-out photographs: a folder like PAIRS, or the share of PAIRS to hold out; 0: none, and the last model is "
        "kept, not the best",
        "FOLDER|SHARE",
        path=(int, float),
        resumable=True,
    )
    init: str | None = _option(
        None, "start from this model, whose architecture it is then", "MODEL", path=(), resumable=True
    )
    start: str = _option(
        "identity",
        "without --init: a network that leaves photographs as they are, which learns an edit many times as fast, or "
        "one that is random throughout, as the original's",
        choices=("identity", "random"),
    )
    steps: int | None = _option(None, f"steps to train (default: {STEPS})", "N", least=1, resumable=True)
    minutes: float | None = _option(None, "train for so long instead", "T", above=0, resumable=True)
    batch: int = _option(4, "pairs in a step, of each process", "N", least=1, most=1 << 16)
    crop: int = _option(384, "side of the crops, in pixels", "PIXELS", least=8, most=1 << 16)
    coverage: float = _option(
        0.5,
        "crops are reduced from windows whose sides are at least this share of the photograph's, drawn up to 1; 0: "
        "windows may be as small as the crop, and then are not reduced",
        "SHARE",
        least=0,
        most=1,
    )
    flips: str = _option("horizontal", "mirror crops at random", choices=("none", "horizontal", "both"))
    rotations: bool = _option(False, "turn crops at random by 90°, too")
    exposure: float | None = _option(
        None,
        "change the exposure at random by up to so many stops: before a built-in edit (default there: 0.5), or of "
        "input and target alike (default there: 0, as it supposes that the edit is the same at every exposure)",
        "STOPS",
        least=0,
        most=64,
    )
    loss: str = _option(
        "mse",
        f"what is minimised: {', '.join(LOSSES)} (cosine: of colours), a sum such as l1+0.2*ssim, or module:function, "
        "a function of the result and the target (N, H, W, 3)",
        "LOSS",
    )
    learning_rate: float = _option(1e-4, "of Adam", "RATE", above=0)
    schedule: str = _option(
        "constant",
        "the learning rate, over the whole training: as it is, or falling to 0",
        choices=("constant", "cosine"),
    )
    warmup: int = _option(500, "steps in which the cosine schedule first rises from 0", "N", least=0)
    weight_decay: float = _option(1e-8, "of the layers' weights, not of biases or guides", "RATE", least=0)
    seed: int = _option(0, "of initial weights, order and crops", "N", least=0, most=(1 << 64) - 1)
    workers: int = _option(0, "processes that make crops and edits", "N", least=0, most=1 << 10, resumable=True)
    memory: float = _option(
        4,
        "gigabytes in which decoded photographs are kept; others are read again",
        "GB",
        least=0,
        resumable=True,
    )
    validate_every: int = _option(500, "measure the held-out photographs so often", "STEPS", least=1)
    checkpoint_every: int = _option(500, "write a checkpoint so often", "STEPS", least=1, resumable=True)
    checkpoint: str | None = _option(
        None,
        "the file with all that a killed training needs to go on (default: OUT.checkpoint)",
        "FILE",
        path=(),
        resumable=True,
    )
    resume: bool = _option(
        False,
        "go on from the checkpoint, with the same options; from the start where there is none",
        resumable=True,
    )
    restart: bool = _option(False, "start anew though there is a checkpoint", resumable=True)
    log: str | None = _option(None, "write scalars and pictures for TensorBoard", "DIR", path=(), resumable=True)
    quiet: bool = _option(False, "show no progress", resumable=True)
    device: str = _option("cpu", "of PyTorch: cpu or cuda", "DEVICE", resumable=True)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item, getattr(self, item.name))
        if self.steps is not None and self.minutes is not None:
            raise ValueError("train: steps and minutes exclude one another, got both.")
        if self.resume and self.restart:
            raise ValueError("train: resume and restart exclude one another, got both.")
        if not re.fullmatch("cpu|cuda(:[0-9]{1,3})?", self.device):
            raise ValueError(f"train: device must be cpu, cuda or cuda:N, got {self.device!r}.")
        loss_of(self.loss)
        if self.share is not None and not 0 <= self.share < 1:
            raise ValueError(f"train: validation must be a folder or a share from 0 to below 1, got {self.validation}.")

    @property
    def share(self) -> float | None:
        """The share of pairs to hold out; ``None`` where ``validation`` is a folder."""
        try:
            return float(str(self.validation))
        except ValueError:
            return None

    @property
    def total_steps(self) -> int | None:
        """``None`` where minutes are said."""
        return None if self.minutes is not None else STEPS if self.steps is None else self.steps

    @property
    def stops(self) -> float:
        """The exposure's change at most."""
        return (0.5 if self.edit else 0.0) if self.exposure is None else self.exposure

    def decisive(self) -> dict[str, Any]:
        """Those options on which the weights depend at every step."""
        names = [item.name for item in fields(self) if not item.metadata.get("resumable")]
        if self.schedule == "cosine":
            names += ["total_steps", "minutes"]
        return {name: getattr(self, name) for name in names}


def _check(item: Field[Any], value: Any) -> None:
    name, rule = f"train: {item.name}", item.metadata
    if value is None and item.default is None:
        return
    kind = kind_of(item)
    kinds = (str, os.PathLike, *rule["path"]) if "path" in rule else (float, int) if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} must be of type {kind.__name__}, got {value!r}.")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}.")
    if "choices" in rule:
        one_of("train", item.name, value, rule["choices"])
    for bound, words, holds in (
        ("least", "at least", operator.ge),
        ("above", "above", operator.gt),
        ("most", "at most", operator.le),
    ):
        if bound in rule and not holds(value, rule[bound]):
            raise ValueError(f"{name} must be {words} {rule[bound]}, got {value}.")
