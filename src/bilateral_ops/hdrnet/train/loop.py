"""The training itself: a network, its optimiser, its checkpoints, what is shown of it."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__, resize_area, set_num_threads
from ..._core.checks import brief
from ..._core.missing import needed
from ..._core.whole import whole
from ...compat.hdrnet import unpack_coefficients
from ...photo.images import psnr, reduced, unit
from .._config import Config
from .._predict import Predictor
from .._weights import write_model
from .data import DataError, Photographs, Samples
from .losses import loss_of
from .options import Options

with needed("bilateral_ops.hdrnet.train", "torch", "train"):
    import torch
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader

    from ..model import HDRNet
    from . import checkpoint as _checkpoint
    from .team import Stop, Team
with needed("bilateral_ops.hdrnet.train", "tqdm", "train"):
    from tqdm import tqdm

__all__ = ["DataError", "Options", "Result", "Score", "TrainError", "train"]

#: A checkpoint's own version.
_FORMAT = 1
#: PSNR of images that are equal.
_BEST_PSNR = 100.0
#: Held-out photographs that TensorBoard shows, and their longer side there.
_PICTURES, _PICTURE_SIDE = 4, 512


class TrainError(Exception):
    """What keeps a training from starting or going on, in one sentence."""


@dataclass(frozen=True)
class Score:
    """How near images are to the targets: PSNR in dB and SSIM, means over whole photographs."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Result:
    """What a training came to.

    ``step`` is the one whose weights were kept, of ``steps`` in all. ``before`` says how near the held-out photographs
    are to their targets, ``after`` how near the kept model brings them; ``None`` where none are held out.
    """

    step: int
    steps: int
    before: Score | None
    after: Score | None


def train(
    pairs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: Config | None = None,
    guide: Callable[[], Any] | None = None,
    **options: Any,
) -> Result:
    """Train a network on pairs of photographs, or on photographs and a built-in edit.

        minimise loss(HDRNet(image), target) by Adam, loss = mean((image − target)²) unless said otherwise

    Parameters
    ----------
    pairs : path
        A folder with the folders ``input`` and ``target`` (or ``output``), whose files have the same names (endings may
        differ); where their sizes differ, both are reduced to the smaller. With ``edit`` a folder with the folder
        ``input``, or with the photographs themselves.
    out : path
        The model file. It is written whenever the held-out photographs' mean PSNR is higher than ever before, and so
        holds the best model at the end; without held-out photographs it is the last.
    config : Config, optional
        The architecture; by default ``init``'s, or ``Config()``.
    guide : callable, optional
        Makes a guide of one's own, with ``Config(guide="custom")``: see :class:`.HDRNet`.
    **options
        Fields of :class:`Options`; ``bilateral-ops train --help`` explains them.

    Returns
    -------
    Result

    Raises
    ------
    DataError
        A ``ValueError`` with a line for each file that cannot be trained on.
    ValueError, TypeError
        Options out of their range.
    TrainError
        A checkpoint of another training, files that cannot be written, a loss that is not finite.
    KeyboardInterrupt
        After the first Ctrl-C the step is finished and a checkpoint written; ``resume`` goes on there.

    Notes
    -----
    Everything random depends on the seed and the number of the sample alone. On one machine, with as many threads, a
    training that was killed at any moment and resumed has the same weights, bit for bit, as one that was not; with
    ``minutes`` the number of steps depends on the time. Under ``torchrun`` each process takes ``batch`` pairs of a step
    and gradients are averaged, as if one took all of them (but for rounding, and batch norm's statistics).
    """
    said = Options(**options)
    with ExitStack() as stack:
        team = stack.enter_context(Team.joined())
        trainer = stack.enter_context(closing(_Trainer(Path(pairs), Path(out), config, said, team, guide)))
        return trainer.run()


class _Trainer:
    def __init__(
        self, pairs: Path, out: Path, config: Config | None, options: Options, team: Team, guide: Any = None
    ) -> None:
        self.options, self.team, self.out = options, team, out
        self.checkpoint = Path(options.checkpoint or f"{out}.checkpoint")
        _writable(out, "OUT")
        _writable(self.checkpoint, "checkpoint")
        if self.checkpoint.resolve() == out.resolve():
            raise TrainError(f"train: checkpoint must be another file than OUT, got {str(self.checkpoint)!r}.")
        writer = None if options.log is None else _tensorboard()
        self.model = _model(config, options, guide)
        saved = self._saved()
        self.photographs, self.heldout = _photographs(pairs, options, quiet=not team.leads)
        self.trained_on = {
            "config": self.model.config.to_json(),
            "photographs": self.photographs.digest,
            "held out": self.heldout.digest if self.heldout else 0,
            "processes": team.size,
            **options.decisive(),
        }
        self.step, self.elapsed, self.average = 0, 0.0, math.nan
        self.best: dict[str, Any] = {"psnr": -math.inf, "step": 0, "weights": None}
        self.optimizer, self.loss = _adam(self.model, options), loss_of(options.loss)
        if saved:
            self._restore(saved)
        self.log = None
        if writer and team.leads:
            with _named(Path(str(options.log)), "log", "folder"):
                self.log = writer(options.log, purge_step=self.step + 1)
        self.parallel = DistributedDataParallel(self.model) if team.size > 1 else self.model
        self.started = time.perf_counter()
        self.before = [_psnr(image, target) for _, image, target in self.heldout] if self.heldout and team.leads else []

    def close(self) -> None:
        self.parallel = self.model
        if self.log:
            self.log.close()

    def run(self) -> Result:
        options = self.options
        text = f"{len(self.photographs)} pairs to train on, {len(self.heldout) if self.heldout else 'none'} held out"
        text += f" (unedited {np.mean(self.before):.2f} dB)" if self.before else ""
        self._say(text + (f"; going on after step {self.step}" if self.step else ""))
        with Stop.asked_for(self.team) as stop, closing(self._bar()) as bar:
            if self.step == 0 and not self._done():
                self._measure(bar)
            for image, target in () if self._done() else self._batches():
                self._learn(image, target)
                self._show(bar)
                last = self._done()
                if last or self.step % options.validate_every == 0:
                    self._measure(bar)
                if last or stop.asked or self.step % options.checkpoint_every == 0:
                    self._save(finished=last)
                if last:
                    break
                if stop.asked:
                    raise KeyboardInterrupt
        return self._finish()

    # --- steps

    def _batches(self) -> Any:
        """Batches from this step on; this process's share of each."""
        options, team = self.options, self.team
        together = options.batch * team.size

        def numbers() -> Iterator[list[int]]:
            first = self.step * together + team.rank * options.batch
            while True:
                yield list(range(first, first + options.batch))
                first += together

        samples: Any = Samples(self.photographs, options)  # has all of a Dataset that is used
        endless: Any = numbers()
        loader: Any = DataLoader(
            samples,
            batch_sampler=endless,
            num_workers=options.workers,
            worker_init_fn=_one_thread if options.workers else None,
        )
        return loader

    def _learn(self, image: Any, target: Any) -> None:
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        device = self.options.device
        self.optimizer.zero_grad()
        loss: Any = self.loss(self.parallel(image.to(device)), target.to(device))
        loss.backward()
        self.optimizer.step()
        self.step += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainError(f"train: the loss is {value} at step {self.step}; a lower learning rate may help.")
        self.average = value if math.isnan(self.average) else self.average + 0.02 * (value - self.average)
        if self.log and self.step % 10 == 0:
            self.log.add_scalar("train/loss", value, self.step)
            if self.options.loss == "mse":
                self.log.add_scalar("train/psnr", -10 * math.log10(max(value, 1e-10)), self.step)
            self.log.add_scalar("train/learning rate", rate, self.step)

    def _rate(self) -> float:
        options = self.options
        if options.schedule == "constant":
            return options.learning_rate
        rise = min(1.0, (self.step + 1) / (options.warmup + 1))
        return options.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(self._progress(), 1)))

    def _progress(self) -> float:
        """How much of the training is behind, the same in every process."""
        if self.options.minutes is None:
            return self.step / (self.options.total_steps or 1)
        return self.team.agree(self._time() / 60 / self.options.minutes)

    def _done(self) -> bool:
        return self._progress() >= 1

    def _time(self) -> float:
        return self.elapsed + time.perf_counter() - self.started

    # --- held-out photographs

    def _measure(self, bar: Any) -> None:
        """PSNR of the held-out photographs; keeps the weights that are the best so far."""
        if not self.heldout:
            return
        if self.team.leads:
            predictor = _predictor(self.model, self.model.state_dict())
            found = []
            for i, (name, image, target) in enumerate(self.heldout):
                bar.set_postfix_str(f"measuring {i + 1} of {len(self.heldout)}")
                enhanced = predictor(image)
                found.append(_psnr(enhanced, target))
                if self.log and i < _PICTURES:
                    self.log.add_image(
                        f"held out/{name}", _picture(image, enhanced, target), self.step, dataformats="HWC"
                    )
            psnr = float(np.mean(found))
            better = psnr > self.best["psnr"]
            if better:
                weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
                self.best = {"psnr": psnr, "step": self.step, "weights": weights}
                if self.step:
                    self._write()
            if self.log:
                self.log.add_scalar("held out/psnr", psnr, self.step)
            gain = psnr - float(np.mean(self.before))
            trained = "" if math.isnan(self.average) else f"{self._loss_text()}; "
            self._say(
                f"step {self.step}: {trained}held out {psnr:.2f} dB, {gain:+.2f} to unedited{', the best' * better}",
                bar,
            )
        self.team.agree(0)  # the others wait

    # --- files

    def _write(self) -> None:
        """The best weights, or the last where none are held out, as the model file."""
        weights = self.best["weights"]
        step = self.step if weights is None else self.best["step"]
        metadata = {"version": __version__, "edit": self.options.edit or "", "step": str(step)}
        if weights is not None:
            metadata["held-out psnr"] = f"{self.best['psnr']:.4f}"
        with _named(self.out, "OUT"):
            write_model(self.out, self.model.config, weights or self.model.state_dict(), metadata=metadata)

    def _save(self, finished: bool) -> None:
        """A checkpoint: whole, or as it was before."""
        if not self.team.leads:
            return
        state = {
            "format": _FORMAT,
            "trained on": self.trained_on,
            "step": self.step,
            "elapsed": self._time(),
            "finished": finished,
            "average": self.average,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with _named(self.checkpoint, "checkpoint"), whole(self.checkpoint) as part, part.open("wb") as file:
            torch.save(state, file)

    def _saved(self) -> Any:
        """The checkpoint to go on from, if there is one and it is asked for."""
        options, file = self.options, self.checkpoint
        if options.restart or not file.exists():
            return None
        with _named(file, "checkpoint"):
            stream = file.open("rb")
        with stream:
            try:
                saved = _checkpoint.load(file, stream)
                form = saved["format"]
            except Exception:  # whatever the unpickler trips over
                raise TrainError(
                    f"train: checkpoint {file} is none of ours, or damaged; remove it, or name another file."
                ) from None
        if type(form) is not int or form != _FORMAT:
            raise TrainError(f"train: checkpoint {file} is of another version of bilateral_ops; --restart starts anew.")
        with self._sound():
            _checkpoint.check_progress(saved)
        if options.resume:
            return saved
        if saved["finished"]:
            return None
        raise TrainError(
            f"train: {file} is the checkpoint of a training that was stopped at step {saved['step']}; "
            "--resume goes on with it, --restart starts anew."
        )

    def _restore(self, saved: Any) -> None:
        earlier = saved["trained on"]
        if changed := [name for name, value in self.trained_on.items() if earlier.get(name) != value]:
            name = changed[0]
            values = f" {brief(earlier.get(name), str)}, not {self.trained_on[name]}"
            was = "" if name in ("photographs", "held out") else values
            label = {"config": "the configuration", "photographs": "other photographs", "held out": "others held out"}
            raise TrainError(
                f"train: checkpoint {self.checkpoint} is of a training with {label.get(name, name)}{was}; "
                "give it the same, or --restart."
            )
        own, config = self.model.state_dict(), self.model.config
        with self._sound():
            weights = _checkpoint.weights(saved, "model", own, config)
            moments = _checkpoint.moments(saved, self.optimizer)
            if self.heldout:
                self.best = _checkpoint.best(saved, own, config)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(moments)
        self.step, self.elapsed, self.average = saved["step"], saved["elapsed"], saved["average"]

    @contextmanager
    def _sound(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            what = str(error).removesuffix(".")
            raise TrainError(
                f"train: checkpoint {self.checkpoint} is damaged ({what}); --restart starts anew."
            ) from None

    # --- what is said

    def _finish(self) -> Result:
        agree, out = self.team.agree, self.out
        if self.team.leads:
            self._write()
        if not self.heldout:
            self._say(f"wrote {out}, of the last step, {self.step}")
            return Result(self.step, self.step, None, None)
        scores = [0.0] * 4
        if self.team.leads:
            predictor = _predictor(self.model, self.best["weights"])
            photographs = tqdm(range(len(self.heldout)), "SSIM", leave=False, disable=self._hidden)
            scores = [float(x) for x in np.mean([_scores(predictor, *self.heldout[i]) for i in photographs], axis=0)]
        scores = [agree(score) for score in scores]
        before, after = Score(*scores[:2]), Score(*scores[2:])
        result = Result(int(agree(self.best["step"])), self.step, before, after)
        self._say(
            f"held out: {after.psnr:.2f} dB, SSIM {after.ssim:.4f}; "
            f"unedited {before.psnr:.2f} dB, SSIM {before.ssim:.4f}\nwrote {out}, the best, of step {result.step}"
        )
        return result

    def _loss_text(self) -> str:
        decibels = f", {-10 * math.log10(max(self.average, 1e-10)):.2f} dB" if self.options.loss == "mse" else ""
        return f"loss {self.average:.5f}{decibels}"

    @property
    def _hidden(self) -> bool | None:
        """Whether a bar is not shown; ``None``: where it isn't seen by anyone."""
        return True if self.options.quiet or not self.team.leads else None

    def _say(self, text: str, bar: Any = tqdm) -> None:
        if self.team.leads and not self.options.quiet:
            bar.write(text)

    def _bar(self) -> Any:
        minutes = self.options.minutes
        if minutes is None:
            return tqdm(total=self.options.total_steps, initial=self.step, unit=" steps", disable=self._hidden)
        form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        return tqdm(total=minutes * 60, initial=self.elapsed, bar_format=form, disable=self._hidden)

    def _show(self, bar: Any) -> None:
        bar.set_postfix_str(self._loss_text(), refresh=False)
        bar.update(1 if self.options.minutes is None else min(self._time(), bar.total or 0) - bar.n)


# --- what a training starts with


def _model(config: Config | None, options: Options, guide: Any = None) -> HDRNet:
    if options.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise TrainError("train: device must be cpu where PyTorch finds no CUDA device, got cuda.")
        if (torch.device(options.device).index or 0) >= (count := torch.cuda.device_count()):
            raise TrainError(f"train: device must be one of {count} CUDA devices, got {options.device}.")
    if options.init is None:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            try:
                model = HDRNet(config, guide=guide)
            except RuntimeError:  # PyTorch's for memory
                raise TrainError(f"train: config must be of a network that memory can have, got {config}.") from None
        if options.start == "identity":
            _leave_unchanged(model)
    else:
        try:
            model = HDRNet.load(options.init, guide=guide)
        except (ValueError, OSError) as error:
            raise TrainError(f"train: init must be a model file ({error})") from None
        if config not in (None, model.config):
            raise DataError(f"train: config must be that of {options.init}, {model.config}, got {config}.")
    model.to(options.device)
    for parameter in model.parameters():
        if parameter.ndim == 4:  # convolutions are faster so
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model.train()


def _leave_unchanged(model: HDRNet) -> None:
    """Let the prediction be the identity, in the finest scale's cells, whatever the features are."""
    layer, config = model.coefficients.prediction, model.config
    bias: Any = layer.bias
    places = torch.arange(len(bias), dtype=bias.dtype).view(1, -1, 1, 1)
    places = unpack_coefficients(places, config.luma_bins, n_out=config.rows, channels_first=True)[0, 0, 0]
    with torch.no_grad():
        layer.weight.zero_()
        for i in range(3):
            bias[places[:, i - 3, i].long()] = 1


def _photographs(folder: Path, options: Options, quiet: bool) -> tuple[Photographs, Photographs | None]:
    """Those to train on, and those held out."""

    def reading(pairs: Any) -> Any:
        return tqdm(pairs, "reading", unit=" pairs", leave=False, disable=True if quiet or options.quiet else None)

    share = options.share
    folders = [folder] if share is not None else [folder, Path(str(options.validation))]
    found, wrong, memory = [], [], options.memory
    for each in folders:
        try:
            photographs = Photographs(each, options.edit, memory=memory, progress=reading)
        except DataError as error:
            wrong.append(str(error))
        else:
            found.append(photographs)
            memory = photographs.memory.room / 1e9
    if wrong:
        raise DataError("\n".join(wrong))
    if share is None:
        return found[0], found[1]
    count = len(found[0])
    order = np.random.default_rng((options.seed, 2)).permutation(count)
    held = max(1, round(share * count)) if share else 0
    if held == count:
        raise DataError("train: PAIRS must have 2 pairs or more to hold one out, got 1; --validation 0 holds out none.")
    heldout = found[0].subset(sorted(order[:held])) if held else None
    return found[0].subset(sorted(order[held:])), heldout


def _adam(model: HDRNet, options: Options) -> torch.optim.Adam:
    decaying: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        layer = name.startswith("coefficients.") and name.endswith(".weight")
        (decaying if layer else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decaying, "weight_decay": options.weight_decay}, {"params": others}]
    return torch.optim.Adam(groups, lr=options.learning_rate, fused=True)


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainError("train: log needs TensorBoard, which is not installed; run pip install tensorboard.") from None
    return SummaryWriter


def _one_thread(_: int) -> None:
    set_num_threads(1)


@contextmanager
def _named(path: Path, what: str, kind: str = "file") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainError(
            f"train: {what} must be a {kind} that can be written, got {str(path)!r} ({error.strerror})."
        ) from None


def _writable(path: Path, what: str) -> None:
    """Make its folder, and try to write there before anything is computed."""
    with _named(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if path.exists() and not path.is_file():
            raise OSError(None, "it is no regular file")
        with whole(path, keep=False) as trial:
            trial.touch()


# --- measures


def _predictor(model: HDRNet, weights: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Prediction of NumPy's images with a model of these weights."""
    if model.config.guide != "custom":
        return Predictor(model.config, {name: value.detach().cpu().numpy() for name, value in weights.items()})
    network = copy.deepcopy(model).eval()
    network.load_state_dict(dict(weights))
    like = next(network.parameters())

    def predict(image: Any) -> Any:
        with torch.no_grad():
            enhanced = network(torch.from_numpy(unit(image)).to(like)[None])[0].cpu().numpy()
        if image.dtype.kind != "u":
            return enhanced.astype(image.dtype)
        most = np.iinfo(image.dtype).max
        return np.rint(enhanced.clip(0, 1) * most).astype(image.dtype)

    return predict


def _psnr(image: Any, target: Any) -> float:
    return min(_BEST_PSNR, psnr(image, target))


def _ssim(image: Any, target: Any) -> float:
    from skimage import metrics

    similarity: Any = metrics.structural_similarity

    window = min(7, (min(image.shape[:2]) - 1) | 1)
    return float(similarity(unit(image), unit(target), win_size=window, channel_axis=-1, data_range=1))


def _scores(predictor: Callable[[Any], Any], name: str, image: Any, target: Any) -> tuple[float, ...]:
    enhanced = predictor(image)
    return _psnr(image, target), _ssim(image, target), _psnr(enhanced, target), _ssim(enhanced, target)


def _picture(*images: Any) -> Any:
    """Images beside one another, uint8, small."""
    size = reduced(images[0].shape, _PICTURE_SIDE)
    row = np.concatenate([resize_area(unit(image), size) for image in images], axis=1)
    return np.rint(np.clip(row, 0, 1) * 255).astype(np.uint8)
