"""Does training learn, go on after a kill as if nothing had been, and name what it cannot be done with?"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import closing

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
for module in ("PIL", "imagecodecs", "skimage", "tqdm"):
    pytest.importorskip(module, reason=f"{module} is not installed")

# Where one is missing this module is skipped.
from damage import HOSTILE, damaged_bytes, damaged_tree  # noqa: E402
from PIL import Image  # noqa: E402

import bilateral_ops  # noqa: E402
from bilateral_ops._core.missing import install  # noqa: E402
from bilateral_ops.hdrnet import Config, HDRNet, Predictor, read_model  # noqa: E402
from bilateral_ops.hdrnet._predict import SHIPPED  # noqa: E402
from bilateral_ops.hdrnet.train import Options, TrainError, train  # noqa: E402
from bilateral_ops.hdrnet.train import loop as training  # noqa: E402
from bilateral_ops.hdrnet.train.data import DataError, Photographs, Samples  # noqa: E402
from bilateral_ops.hdrnet.train.edits import EDITS, edited  # noqa: E402
from bilateral_ops.hdrnet.train.losses import LOSSES, loss_of  # noqa: E402

TINY = Config(net_input=32, spatial_bin=4, luma_bins=4, guide_complexity=4)
TINY_OPTIONS = ("--net-input", "32", "--spatial-bin", "4", "--luma-bins", "4", "--guide-complexity", "4")
QUICK = {"quiet": True, "crop": 32, "batch": 2}


def photo(seed, height=40, width=56):
    """A picture with light, dark and colour in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    corners = rng.random((4, 3))
    shades = sum(c * w[..., None] for c, w in zip(corners, (x * y, x * (1 - y), (1 - x) * y, (1 - x) * (1 - y))))
    return np.rint(np.clip(shades + rng.normal(0, 0.05, shades.shape), 0, 1) * 255).astype(np.uint8)


def darker(image):
    return np.rint(image * 0.5 + 20).astype(np.uint8)


def made_pairs(within):
    for i in range(6):
        name = f"a{i}" if i else "within/a0"
        for folder, ending, image in (("input", "jpg", photo(i)), ("target", "png", darker(photo(i)))):
            path = within / "pairs" / folder / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=100, subsampling=0)
    return within / "pairs"


@pytest.fixture
def pairs(tmp_path):
    """Six photographs and what an edit made of them, in two formats, one of them in a folder within."""
    return made_pairs(tmp_path)


def weights(file):
    return read_model(file)[1]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def assert_saved_alike(one, other):
    """Two checkpoints, but for the time they took."""
    saved = [torch.load(f, weights_only=True) for f in (one, other)]
    for key in ("model", "optimizer"):
        a, b = (torch.utils._pytree.tree_leaves(s[key]) for s in saved)
        assert len(a) == len(b)
        assert all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b))
    assert saved[0]["step"] == saved[1]["step"]
    assert saved[0]["average"] == saved[1]["average"]


# --- learning


def test_learns_an_edit_and_the_model_predicts_it(pairs, tmp_path):
    out = tmp_path / "made" / "model.safetensors"
    result = train(pairs, out, config=TINY, steps=150, learning_rate=1e-2, validate_every=50, **QUICK)
    assert result.steps == 150
    assert result.before.psnr < 16
    assert result.after.psnr > result.before.psnr + 7
    assert result.after.ssim > 0.9
    predictor = Predictor.load(out)
    image = photo(1)
    error = np.mean((predictor(image).astype(float) - darker(image)) ** 2)
    assert -10 * np.log10(error / 255**2) > result.before.psnr + 7


def test_the_loss_of_one_pair_falls_far(pairs, tmp_path):
    for folder in ("input", "target"):
        for path in (pairs / folder).glob("a[1-5].*"):
            path.unlink()
    options = {**QUICK, "validation": 0, "coverage": 1, "learning_rate": 1e-2}
    for steps in (1, 300):
        result = train(pairs, tmp_path / f"{steps}.safetensors", config=TINY, steps=steps, **options)
        assert result == training.Result(steps, steps, None, None)
    image, target = photo(0), darker(photo(0)) / 255
    first, last = (
        np.mean((Predictor.load(tmp_path / f"{n}.safetensors")(image) / 255 - target) ** 2) for n in (1, 300)
    )
    assert last < first / 100


def test_the_model_file_holds_the_best_not_the_last(pairs, tmp_path):
    options = {**QUICK, "config": TINY, "learning_rate": 1e-2, "validate_every": 20}
    good = train(pairs, tmp_path / "good.safetensors", steps=100, **options)
    # From a good model at a rate that ruins it: what is kept is where it started.
    options = {**options, "learning_rate": 1.0, "init": tmp_path / "good.safetensors"}
    ruined = train(pairs, tmp_path / "ruined.safetensors", steps=40, **options)
    assert ruined.step == 0
    assert ruined.after == good.after
    assert_same(weights(tmp_path / "good.safetensors"), weights(tmp_path / "ruined.safetensors"))


#: The last as ports are.
VARIANTS = [
    Config(32, 8, 4, guide="nn"),
    Config(32, 8, 4, scales=3, batch_norm=True),
    Config(32, 8, 4, 1, guide="nn", guide_norm=False, padding="symmetric", padding_mode="zeros", reduce="nearest"),
]


@pytest.mark.parametrize("config", VARIANTS)
def test_variants_train(pairs, tmp_path, config):
    out = tmp_path / "model.safetensors"
    train(pairs, out, config=config, steps=3, rotations=True, flips="both", exposure=1, **QUICK)
    assert Predictor.load(out).config == config


@pytest.mark.parametrize("config", [TINY, Config(32, 8, 4, scales=3, guide="nn"), Config(32, 8, 1, guide="luma")])
def test_the_identity_is_where_training_starts(config):
    image = photo(0)
    np.testing.assert_array_equal(training._model(config, Options()).freeze()(image), image)
    original = training._model(config, Options(start="random")).freeze()(image)
    assert np.abs(original.astype(float) - image).mean() > 10


def test_cosine_schedule_rises_and_falls_to_nothing(pairs, tmp_path, monkeypatch):
    rates = []
    learn = training._Trainer._learn
    monkeypatch.setattr(training._Trainer, "_learn", lambda self, *a: (rates.append(self._rate()), learn(self, *a)))
    train(pairs, tmp_path / "m", config=TINY, steps=20, schedule="cosine", warmup=4, learning_rate=0.01, **QUICK)
    assert np.all(np.diff(rates[:4]) > 0)
    assert np.all(np.diff(rates[4:]) < 0)
    assert rates[0] == pytest.approx(0.002)
    assert rates[-1] < 1e-4


def test_weight_decay_is_of_the_layers_weights_alone():
    model = HDRNet(TINY)
    decaying, others = training._adam(model, Options()).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decaying["weight_decay"] == 1e-8
    assert others["weight_decay"] == 0
    assert all(re.fullmatch(r"coefficients\..*weight", names[id(p)]) for p in decaying["params"])
    assert not any(names[id(p)].endswith("weight") for p in others["params"])
    assert len(decaying["params"]) + len(others["params"]) == len(names)


# --- going on


def one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1", "BILATERAL_OPS_NUM_THREADS": "1"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_and_resumed_is_never_interrupted(pairs, tmp_path):
    whole, cut, checkpoint = (tmp_path / name for name in ("whole", "cut", "cut.checkpoint"))
    options = {"steps": 60, "batch": 2, "crop": 32, "learning_rate": 0.003, "validate_every": 13}
    arguments = [
        f(item) for item in options.items() for f in (lambda i: f"--{i[0].replace('_', '-')}", lambda i: str(i[1]))
    ]
    arguments = ["train", pairs, "--out", cut, *arguments, *TINY_OPTIONS, "--checkpoint-every", "7", "--resume"]
    process = subprocess.Popen([sys.executable, "-m", "bilateral_ops", *arguments], env=one_thread())
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < torch.load(checkpoint, weights_only=True)["step"] < 60
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(pairs, cut, config=TINY, resume=True, quiet=True, **options)
        train(pairs, whole, config=TINY, quiet=True, **options)
    finally:
        torch.set_num_threads(threads)
    assert whole.read_bytes() == cut.read_bytes()
    assert_saved_alike(tmp_path / "whole.checkpoint", checkpoint)


def test_going_on_with_more_steps_is_one_training(pairs, tmp_path):
    options = {**QUICK, "config": TINY, "validate_every": 4}
    train(pairs, tmp_path / "one", steps=10, **options)
    train(pairs, tmp_path / "two", steps=6, **options)
    result = train(pairs, tmp_path / "two", steps=10, resume=True, workers=1, **options)
    assert result.steps == 10
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert_saved_alike(tmp_path / "one.checkpoint", tmp_path / "two.checkpoint")


def test_a_checkpoint_is_whole_or_as_it_was(pairs, tmp_path, monkeypatch):
    options = {**QUICK, "config": TINY, "validation": 0}
    train(pairs, tmp_path / "m", steps=2, **options)
    before = (tmp_path / "m.checkpoint").read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainError, match=r"checkpoint must be a file that can be written.*No space left on device"):
        train(pairs, tmp_path / "m", steps=4, resume=True, **options)
    assert (tmp_path / "m.checkpoint").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_checkpoints_of_other_trainings_are_refused(pairs, tmp_path):
    options = {**QUICK, "config": TINY, "steps": 2}
    train(pairs, tmp_path / "m", **options)
    for changed, words in (
        ({"batch": 3}, "is of a training with batch 2, not 3"),
        ({"config": Config(32, 4, 8)}, "with the configuration"),
        ({"validation": pairs}, "with other photographs"),
    ):
        with pytest.raises(TrainError, match=words):
            train(pairs, tmp_path / "m", **{**options, "resume": True, **changed})
    (tmp_path / "m.checkpoint").write_bytes(b"something else")
    with pytest.raises(TrainError, match="is none of ours"):
        train(pairs, tmp_path / "m", resume=True, **options)
    train(pairs, tmp_path / "m", restart=True, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training of two steps: its photographs, and its checkpoint's bytes."""
    folder = tmp_path_factory.mktemp("trained")
    train(made_pairs(folder), folder / "m", config=TINY, steps=2, **QUICK)
    return folder / "pairs", (folder / "m.checkpoint").read_bytes()


@pytest.fixture
def checkpoint(trained, tmp_path):
    """The checkpoint of a training, and a function that continues it by a step."""
    pairs, data = trained
    file = tmp_path / "m.checkpoint"
    file.write_bytes(data)

    def go_on():
        options = Options(**QUICK, steps=3, resume=True)
        with closing(training._Trainer(pairs, tmp_path / "m", TINY, options, training.Team())) as trainer:
            trainer.run()
            return trainer.step

    return file, go_on


def in_tensor(value):
    """A change of a tensor's first number."""

    def change(tensor):
        tensor[(0,) * tensor.ndim] = value

    return change


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        (("step",), None, "step must be of type int, got nothing"),
        (("step",), -1, "step must be from 1 to .*, got -1"),
        (("step",), 2**70, "step must be from 1"),
        (("step",), "2", "step must be of type int, got str"),
        (("step",), 1, "optimizer must be of step 1, got 2.0"),
        (("finished",), 1, "finished must be True or False, got int"),
        (("average",), math.nan, "average must be from 0 to .*, got nan"),
        (("elapsed",), torch.zeros(2), "elapsed must be of type float, got Tensor"),
        (("format",), torch.zeros(2), "is of another version"),
        (("trained on",), [], "trained on must be of type dict, got list"),
        (("trained on", "batch"), torch.zeros(2), "trained on must be numbers and text"),
        (("model",), None, "model must be of type dict, got nothing"),
        (("model", "guides.0.mix"), torch.zeros(4), r"model: guides.0.mix must have shape \(3,\), got \(4,\)"),
        (
            ("model", "guides.0.mix"),
            torch.zeros(3).int(),
            "model: 'guides.0.mix' must be of torch.float32, got torch.int32",
        ),
        (("model", "guides.0.mix"), torch.zeros(3).to_sparse(), "model: 'guides.0.mix' must be a tensor"),
        (("model", "guides.0.mix"), torch.zeros(1).expand(3), None),
        (("model", "guides.0.mix"), [0.0] * 3, "model: 'guides.0.mix' must be a tensor, got list"),
        (("model", "guides.0.mix"), in_tensor(math.nan), "model: guides.0.mix must be finite"),
        (("model", "more"), torch.zeros(1), "has more, too"),
        (("model", 5), torch.zeros(1), "model must be tensors by name, got int as a name"),
        (("best",), None, "best must be of type dict"),
        (("best", "psnr"), math.nan, "psnr must be from"),
        (("best", "step"), 9, "step must be from 0 to 2, got 9"),
        (("best", "weights"), None, "weights must be of type dict, got nothing"),
        (("best", "weights", "guides.0.mix"), in_tensor(math.inf), "weights: guides.0.mix must be finite"),
        (("optimizer",), 5, "optimizer must be of type dict, got int"),
        (("optimizer", "state"), {}, "optimizer must have moments of 27 parameters"),
        (("optimizer", "state", 3), [], "3 must be of type dict, got list"),
        (("optimizer", "state", 3, "step"), torch.tensor(1.0), "optimizer must be of step 2, got 1.0"),
        (("optimizer", "state", 3, "exp_avg"), None, "exp_avg of parameter 3 must be a tensor, got nothing"),
        (("optimizer", "state", 3, "exp_avg"), torch.zeros(1), r"parameter 3 must have shape .*, got \(1,\)"),
        (("optimizer", "state", 3, "exp_avg"), in_tensor(math.nan), "exp_avg of parameter 3 must be finite"),
        (("optimizer", "state", 3, "exp_avg_sq"), in_tensor(-1), "exp_avg_sq of parameter 3 must be finite, and a"),
        (("optimizer", "param_groups"), "junk", None),  # these are the options'
    ],
)
def test_a_damaged_checkpoint_is_a_sentence(checkpoint, path, change, words):
    file, go_on = checkpoint
    saved = torch.load(file, weights_only=True)
    *within, key = path
    holder = saved
    for name in within:
        holder = holder[name]
    if callable(change):
        change(holder[key])
    else:
        holder[key] = change
    torch.save(saved, file)
    if words is None:
        assert go_on() == 3
    else:
        with pytest.raises(TrainError, match=rf"^train: checkpoint .*{words}.*starts anew\.$"):
            go_on()


def zipped(file, change):
    """The checkpoint's records, changed and packed again."""
    with zipfile.ZipFile(file) as archive:
        records = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        change(archive, records)


def compressed(archive, records):
    for name, data in records.items():
        archive.writestr(name, data, zipfile.ZIP_DEFLATED)


def with_a_large_pickle(archive, records):
    for name, data in records.items():
        archive.writestr(name, b"\x80\x02" + b"]" * 10_000_000 + b"." if name.endswith(".pkl") else data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-100]),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(file.read_bytes().replace(b"guides.0.mix", b"guides.0.max")),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"step": 1}, file),
        lambda file: torch.save({"format": subprocess.run}, file),
        lambda file: torch.save(HDRNet(TINY), file),
        lambda file: torch.save({"format": 1}, file, _use_new_zipfile_serialization=False),
        lambda file: HDRNet(TINY).save(file),
        lambda file: zipped(file, compressed),
        lambda file: zipped(file, with_a_large_pickle),
    ],
)
def test_what_is_no_checkpoint_is_a_sentence(checkpoint, tmp_path, run, damage):
    file, go_on = checkpoint
    damage(file)
    words = r"^train: checkpoint .* is none of ours, or damaged; remove it, or name another file\.$"
    with pytest.raises(TrainError, match=words):
        go_on()
    code, out, err = run("train", tmp_path, "--out", tmp_path / "m", "--resume", *TINY_OPTIONS)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is none of ours, or damaged" in err


def test_a_flipped_bit_of_a_weight_is_found(checkpoint):
    file, go_on = checkpoint
    data = bytearray(file.read_bytes())
    weight = torch.load(file, weights_only=True)["model"]["guides.0.shifts"].numpy().tobytes()
    data[data.index(weight)] ^= 1
    file.write_bytes(data)
    with pytest.raises(TrainError, match="is none of ours, or damaged"):
        go_on()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("option", ["out", "checkpoint"])
def test_a_pipe_is_neither_waited_for_nor_replaced(pairs, tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TrainError, match=r"must be a file that can be written, got .* \(it is no regular file\)"):
        train(pairs, **{"out": tmp_path / "m", option: tmp_path / "pipe"}, config=TINY, steps=1, **QUICK)


#: Damaged files of each kind. 2000 take some minutes.
DAMAGED = 30
TENSORS = (
    *(torch.zeros(3), torch.zeros(()), torch.full((3,), math.nan), torch.zeros(0), torch.zeros(1).expand(2**40)),
    *(torch.zeros(3, dtype=dtype) for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.complex64)),
    *(torch.eye(3).to_sparse(), torch.nn.Parameter(torch.zeros(3)), torch.zeros(3, device="meta")),
)


@pytest.mark.parametrize("kind", ["bytes", "tree"])
def test_a_damaged_checkpoint_is_read_or_refused(checkpoint, kind):
    file, go_on = checkpoint
    data, saved, refused = file.read_bytes(), torch.load(file, weights_only=True), 0
    for seed in range(DAMAGED):
        rng = np.random.default_rng(seed)
        if kind == "bytes":
            file.write_bytes(damaged_bytes(data, rng))
        else:
            torch.save(damaged_tree(saved, rng, (*HOSTILE, *TENSORS)), file)
        try:
            go_on()
        except TrainError:
            refused += 1
    assert refused > 0


def test_ctrl_c_leaves_a_checkpoint_that_is_not_lost_to_a_new_training(pairs, tmp_path, run, monkeypatch):
    arguments = ("train", pairs, "--out", tmp_path / "m", "--steps", 5, "--crop", 32, "--quiet", *TINY_OPTIONS)
    monkeypatch.setattr(training._Trainer, "_show", lambda self, bar: signal.raise_signal(signal.SIGINT))
    assert run(*arguments)[0] == 130
    monkeypatch.undo()
    saved = torch.load(tmp_path / "m.checkpoint", weights_only=True)
    assert (saved["step"], saved["finished"]) == (1, False)
    code, _, err = run(*arguments)
    assert code == 2
    assert "was stopped at step 1; --resume goes on with it, --restart starts anew." in err
    assert run(*arguments, "--resume")[0] == 0
    assert run(*arguments)[0] == 0  # a finished training's is


# --- several processes


#: Runs the command, and looks whether what the processes share is gone: a thread of it that frees a tensor while Python
#: ends aborts its process.
_JOINED = """
import sys
from pathlib import Path
from bilateral_ops.cli import main

code = main(sys.argv[1:])
threads = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]
assert not any("gloo" in name for name in threads), threads
sys.exit(code)
"""


def test_two_processes_are_one_with_twice_the_batch(pairs, tmp_path):
    (tmp_path / "joined.py").write_text(_JOINED)
    arguments = ["train", pairs, "--out", tmp_path / "two", "--batch", "2", "--steps", "5", "--crop", "32"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*launcher, tmp_path / "joined.py", *arguments, *TINY_OPTIONS]
    finished = subprocess.run(arguments, env=one_thread(), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    train(pairs, tmp_path / "one", config=TINY, steps=5, **{**QUICK, "batch": 4})
    one, two = (torch.load(tmp_path / f"{n}.checkpoint", weights_only=True)["model"] for n in ("one", "two"))
    start = HDRNet(TINY).state_dict().keys()
    assert one.keys() == two.keys() == start
    for name in one:  # Adam's steps are as long as the rate, whatever the gradient is: 5e-4 in all
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)


# --- data


def test_all_bad_files_are_named_before_training_starts(pairs, tmp_path, run):
    (pairs / "target" / "a1.png").unlink()
    (pairs / "input" / "a2.jpg").unlink()
    Image.fromarray(photo(3)[:-1]).save(pairs / "target" / "a3.png")
    (pairs / "input" / "a4.jpg").write_text("not an image")
    whole = (pairs / "target" / "a5.png").read_bytes()
    (pairs / "target" / "a5.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(photo(3)).save(pairs / "input" / "a3.png")
    (pairs / "input" / ".DS_Store").write_text("")
    code, out, err = run("train", pairs, "--out", tmp_path / "m", *TINY_OPTIONS)
    assert code == 2
    assert out == ""
    lines = err.replace(str(pairs), "PAIRS").replace(os.sep, "/").splitlines()
    assert lines[0] == "bilateral-ops train: 6 files are in the way."
    assert sorted(line for line in lines[1:] if "a5" not in line) == [
        "PAIRS/input/a1.jpg: has no twin in PAIRS/target",
        "PAIRS/input/a3.png: has the name of a3.jpg",
        "PAIRS/input/a4.jpg: is no JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, BMP or GIF file",
        "PAIRS/target/a2.png: has no twin in PAIRS/input",
        "PAIRS/target/a3.png: has 56 × 39 pixels, but a3.jpg 56 × 40",
    ]
    assert any(line.startswith("PAIRS/target/a5.png: ") for line in lines)
    assert not (tmp_path / "m").exists()


def test_files_without_pixels_are_named(pairs, run, tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    path = pairs / "input" / "a1.tif"
    tifffile.imwrite(path, photo(1), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        entry = file.pages[0].tags["ImageWidth"].offset
    data = path.read_bytes()
    path.write_bytes(data[: entry + 8] + bytes(4) + data[entry + 12 :])
    (pairs / "input" / "a1.jpg").unlink()
    (pairs / "target" / "a2.png").write_bytes(b"")
    code, out, err = run("train", pairs, "--out", tmp_path / "m", *TINY_OPTIONS)
    assert (code, out) == (2, "")
    assert err.replace(str(pairs), "PAIRS").replace(os.sep, "/").splitlines() == [
        "bilateral-ops train: 2 files are in the way.",
        "PAIRS/input/a1.tif: has no pixels",
        "PAIRS/target/a2.png: is empty and has no pixels",
    ]


def test_a_checked_training_needs_no_room_for_photographs(pairs, tmp_path):
    options = {**QUICK, "config": TINY, "steps": 4}
    train(pairs, tmp_path / "kept", **options)
    train(pairs, tmp_path / "again", memory=0, **options)
    assert_same(weights(tmp_path / "kept"), weights(tmp_path / "again"))
    assert not Photographs(pairs, None, memory=0).memory._kept
    assert len(Photographs(pairs, None).memory._kept) == 12


@pytest.mark.parametrize("flips", ["none", "horizontal", "both"])
def test_crops_are_pairs(pairs, flips):
    """What is done to a photograph is done to its target: `darker` commutes with it, within rounding."""
    options = Options(crop=24, coverage=0.3, flips=flips, rotations=True, seed=3)
    samples = Samples(Photographs(pairs, None), options)
    seen = set()
    for n in range(30):
        image, target = samples[n]
        assert image.shape == target.shape == (24, 24, 3)
        assert image.dtype == target.dtype == np.float32
        np.testing.assert_allclose(image * 0.5 + 20 / 255, target, atol=3 / 255)
        seen.add(image.tobytes())
        np.testing.assert_array_equal(samples[n][0], image)
    assert len(seen) == 30


def test_each_photograph_comes_once_an_epoch(pairs):
    photographs = Photographs(pairs, None)
    means = {round(float(photographs.target(i).mean()), 1): i for i in range(6)}
    samples = Samples(photographs, Options(coverage=1, crop=64))
    for epoch in range(3):
        found = [samples[n][1].mean() * 255 for n in range(6 * epoch, 6 * epoch + 6)]
        nearest = [means[min(means, key=lambda m: abs(m - f))] for f in found]
        assert sorted(nearest) == list(range(6))


def test_a_built_in_edit_is_made_of_the_exposed_crop(pairs):
    photographs = Photographs(pairs, "clahe")
    dark, bright = (Samples(photographs, Options(edit="clahe", crop=24, exposure=e)) for e in (0, 2))
    assert not np.array_equal(dark[5][0], bright[5][0])
    for samples in (dark, bright):
        image, target = samples[5]
        np.testing.assert_array_equal(target, edited(image, "clahe"))


def test_exposure_of_given_pairs_is_of_both(pairs):
    photographs = Photographs(pairs, None)
    plain, exposed = (Samples(photographs, Options(crop=24, exposure=e)) for e in (0, 0.5))
    (image, target), (image_exposed, target_exposed) = plain[0], exposed[0]
    inside = (image_exposed < 1) & (image > 0.1)
    gains = image_exposed[inside] / image[inside]
    gain = float(np.median(gains))
    assert gain != pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(target_exposed, np.minimum(target * gain, 1), atol=1e-5)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_edits(edit, dtype):
    scale = 1 if dtype == np.float32 else np.iinfo(dtype).max
    image = (photo(0) / 255 * scale).astype(dtype)
    result = edited(image, edit)
    assert result.dtype == dtype
    assert result.shape == image.shape
    assert 0 <= result.min() <= result.max() <= scale
    change = np.abs(result / scale - image / scale).mean()
    assert 0.005 < change < 0.3
    flat = edited(np.full((5, 7, 3), image[0, 0]), edit)  # of one colour
    assert np.ptp(flat.reshape(-1, 3), axis=0).max() <= scale / 100


def test_folders_of_photographs_alone(pairs, tmp_path):
    for folder in (pairs, pairs / "input"):
        photographs = Photographs(folder, "shadows")
        name, image, target = photographs[0]
        assert len(photographs) == 6
        assert name == "a1"
        np.testing.assert_array_equal(target, edited(image, "shadows"))
    for folder, words in (
        (pairs / "input", "must have the folders input and target, or input and output, or --edit must say"),
        (tmp_path / "nowhere", "must be a folder"),
    ):
        with pytest.raises(DataError, match=words):
            Photographs(folder, None)


def test_folders_as_in_the_originals_sample_data(pairs):
    want = [[name, image.copy(), target.copy()] for name, image, target in Photographs(pairs, None)]
    (pairs / "target").rename(pairs / "output")
    for got, wanted in zip(Photographs(pairs, None), want, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))
    (pairs / "output" / "a1.png").unlink()
    with pytest.raises(DataError, match=r"a1.jpg: has no twin in .*output"):
        Photographs(pairs, None)


@pytest.mark.parametrize("larger", ["input", "target"])
def test_pairs_of_different_sizes_are_reduced_to_the_smaller(pairs, tmp_path, larger):
    for path in list((pairs / "input").rglob("*.jpg")) + list((pairs / "target").rglob("*.png")):
        size = (56, 40) if larger in path.parts else (28, 20)
        Image.fromarray(photo(7, *size[::-1])).save(path.with_suffix(".png"))
        if path.suffix == ".jpg":
            path.unlink()
    photographs = Photographs(pairs, None)
    for _, image, target in photographs:
        small, large = (target, image) if larger == "input" else (image, target)
        np.testing.assert_array_equal(small, photo(7, 20, 28))
        np.testing.assert_array_equal(large, bilateral_ops.resize_area(photo(7), (20, 28)))
    Samples(photographs, Options(crop=16))[0]
    train(pairs, tmp_path / "m", config=TINY, steps=1, **{**QUICK, "crop": 16})


# --- losses


def test_losses_are_what_their_names_say():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    image, target = rng.random((2, 2, 24, 17, 3))
    given = torch.from_numpy(image).requires_grad_(), torch.from_numpy(target)
    similar = [structural_similarity(a, b, channel_axis=-1, data_range=1) for a, b in zip(image, target)]
    # scikit-image's mean is over windows that lie within.
    cosines = (image * target).sum(-1) / np.linalg.norm(image, axis=-1) / np.linalg.norm(target, axis=-1)
    want = {
        "mse": ((image - target) ** 2).mean(),
        "l1": abs(image - target).mean(),
        "cosine": 1 - cosines.mean(),
        "ssim": 1 - np.mean(similar),
    }
    assert want.keys() == LOSSES.keys()
    for name, value in want.items():
        loss = loss_of(name)(*given)
        assert loss.item() == pytest.approx(value, rel=1e-9)
        assert torch.autograd.grad(loss, given[0])[0].isfinite().all()
    both = loss_of("0.5*l1 + 2*ssim")(*given).item()
    assert both == pytest.approx(0.5 * want["l1"] + 2 * want["ssim"], rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_one_colour_have_gradients(name):
    image = torch.zeros((1, 5, 4, 3)).requires_grad_()
    loss = loss_of(name)(image, torch.zeros((1, 5, 4, 3)))
    assert torch.autograd.grad(loss, image)[0].isfinite().all()


def test_a_loss_of_ones_own(pairs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_loss.py").write_text("def far(image, target):\n    return (image - target).abs().amax()\n")
    made = train(pairs, tmp_path / "own", config=TINY, steps=20, loss="own_loss:far", learning_rate=1e-2, **QUICK)
    assert made.after.psnr > made.before.psnr + 1
    train(pairs, tmp_path / "l1", config=TINY, steps=1, loss="l1+0.1*cosine", **QUICK)
    with pytest.raises(TrainError, match=r"is of a training with loss l1\+0.1\*cosine, not ssim"):
        train(pairs, tmp_path / "l1", config=TINY, steps=2, loss="ssim", resume=True, **QUICK)


# --- a guide of one's own


class Brightest(torch.nn.Module):
    """The largest channel of each pixel, scaled; with a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.9))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, image):
        self.seen += self.training
        return (self.scale * image.amax(-1)).clamp(0, 1)


def test_a_guide_of_ones_own_is_trained_saved_and_predicted(pairs, tmp_path):
    own, out = dataclasses.replace(TINY, guide="custom"), tmp_path / "own.safetensors"
    options = {"config": own, "guide": Brightest, "learning_rate": 1e-2, "checkpoint_every": 5, **QUICK}
    result = train(pairs, out, steps=60, **options)
    assert result.after.psnr > result.before.psnr + 3
    train(pairs, out, steps=62, resume=True, **options)
    model = HDRNet.load(out, guide=Brightest).eval()
    assert model.guide.seen > 0
    assert model.guide.scale != 0.9
    image = torch.from_numpy(photo(1) / np.float32(255))[None]
    want = model(image)
    model.save(tmp_path / "again")
    torch.testing.assert_close(HDRNet.load(tmp_path / "again", guide=Brightest).eval()(image), want, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"^Predictor: config must have a guide that is known here, got 'custom'"):
        Predictor.load(out)
    with pytest.raises(ValueError, match=r"custom', and there alone, got none beside 'custom'.$"):
        HDRNet.load(out)
    with pytest.raises(ValueError, match=r"custom', and there alone, got one beside 'curves'.$"):
        HDRNet(TINY, guide=Brightest)
    with pytest.raises(TypeError, match=r"^HDRNet: guide must make a torch.nn.Module, got int.$"):
        HDRNet(own, guide=lambda: 3)


# --- options


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"batch": 2.5}, TypeError, "batch must be of type int, got 2.5"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be above 0, got -1.0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be finite, got nan"),
        ({"coverage": 1.5}, ValueError, "coverage must be at most 1, got 1.5"),
        ({"edit": "sepia"}, ValueError, "edit must be one of clahe, clarity, shadows, brightness, got 'sepia'"),
        ({"seed": 2**64}, ValueError, "seed must be at most 18446744073709551615, got 18446744073709551616"),
        ({"exposure": 1e300}, ValueError, "exposure must be at most 64, got 1e+300"),
        ({"workers": 10**9}, ValueError, "workers must be at most 1024, got 1000000000"),
        ({"device": "meta"}, ValueError, "device must be cpu, cuda or cuda:N, got 'meta'"),
        ({"steps": 1, "minutes": 1}, ValueError, "steps and minutes exclude one another"),
        ({"resume": True, "restart": True}, ValueError, "resume and restart exclude one another"),
        ({"loss": "lpips"}, ValueError, "loss must be mse, l1, cosine, ssim, a sum of these such as l1+0.2*ssim, or m"),
        ({"loss": "mse+"}, ValueError, "loss must be mse, l1, cosine, ssim, a sum of these such as l1+0.2*ssim, or m"),
        ({"loss": "nowhere.at:all"}, ValueError, "loss must be a function that can be imported, got 'nowhere.at:all'"),
        ({"loss": "math:sinus"}, ValueError, "loss must be a function that can be imported, got 'math:sinus'"),
        ({"loss": "math:pi"}, ValueError, "loss must be a function, got 'math:pi', which is of type float"),
        ({"validation": 1.0}, ValueError, "validation must be a folder or a share from 0 to below 1, got 1.0"),
    ],
)
def test_options_out_of_range(options, error, words):
    with pytest.raises(error, match=re.escape(f"train: {words}")):
        Options(**options)


def test_what_cannot_be_trained(pairs, tmp_path, monkeypatch):
    train(pairs, tmp_path / "m", config=TINY, steps=1, **QUICK)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ValueError, match="config must be that of"):
        train(pairs, tmp_path / "n", config=Config(), init=tmp_path / "m", **QUICK)
    for options, words in (
        ({"init": tmp_path / "junk"}, "init must be a model file"),
        ({"init": tmp_path / "nowhere"}, "init must be a model file"),
        ({"checkpoint": pairs}, "checkpoint must be a file that can be written"),
        ({"checkpoint": tmp_path / "x" / ".." / "n"}, "checkpoint must be another file than OUT"),
        ({"learning_rate": 1e30, "config": TINY, "steps": 9}, "the loss is .* at step .*; a lower learning rate"),
    ):
        with pytest.raises(TrainError, match=words):
            train(pairs, tmp_path / "n", **{**QUICK, **options})
    with monkeypatch.context() as patch:
        patch.setattr(training, "HDRNet", lambda *_, **__: torch.empty(1 << 62))
        with pytest.raises(TrainError, match=r"config must be of a network that memory can have, got Config\("):
            train(pairs, tmp_path / "n", config=TINY, **QUICK)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainError, match="pip install tensorboard"):
        train(pairs, tmp_path / "n", log=tmp_path / "log", **QUICK)
    for path in (pairs / "input").glob("a*"):
        path.unlink()
        next((pairs / "target").glob(f"{path.stem}.*")).unlink()
    with pytest.raises(DataError, match=r"2 pairs or more to hold one out.*--validation 0"):
        train(pairs, tmp_path / "n", config=TINY, **QUICK)


def test_tensorboard_has_scalars_and_pictures(pairs, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(pairs, tmp_path / "m", config=TINY, steps=20, log=tmp_path / "log", validate_every=10, **QUICK)
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/psnr", "train/learning rate", "held out/psnr"}
    assert [event.step for event in events.Scalars("held out/psnr")] == [0, 10, 20]
    (tag,) = events.Tags()["images"]
    shown = events.Images(tag)[-1]
    assert (shown.width, shown.height) == (3 * 56, 40)  # photograph, result, target
    (tmp_path / "junk").touch()
    for folder in (tmp_path / "junk", tmp_path / "junk" / "within"):
        with pytest.raises(TrainError, match=r"log must be a folder that can be written, got .*junk"):
            train(pairs, tmp_path / "n", config=TINY, steps=1, log=folder, **QUICK)


# --- the command


def test_the_command(pairs, tmp_path, run):
    out = tmp_path / "model.safetensors"
    code, text, _ = run("train", pairs, "--out", out, "--steps", 2, "--crop", 32, "--validation", pairs, *TINY_OPTIONS)
    assert code == 0
    assert "6 pairs to train on, 6 held out (unedited" in text
    assert re.search(r"step 2: loss [\d.]+, -?[\d.]+ dB; held out", text)
    assert re.search(r"held out: [\d.]+ dB, SSIM -?[\d.]+; unedited [\d.]+ dB, SSIM [\d.]+", text)
    config, _, metadata = read_model(out)
    assert config == TINY
    assert metadata["edit"] == ""
    assert json.loads(metadata["step"]) in (0, 2)


def test_the_commands_errors_and_help(pairs, tmp_path, run):
    code, text, _ = run("train", "--help")
    assert code == 0
    for option in (
        "--edit {clahe,clarity,shadows,brightness}",
        "--minutes T",
        "--resume",
        "--no-global-path",
        "--luma-bins N",
    ):
        assert option in text
    out = ("--out", tmp_path / "m")
    for arguments, words in (
        ((pairs,), "--out"),
        ((pairs, *out, "--edit", "sepia"), "invalid choice: 'sepia'"),
        ((pairs, *out, "--batch", "0"), "train: batch must be at least 1, got 0."),
        ((pairs, *out, "--net-input", "100"), "net_input must be spatial_bin times 2, 4, 8"),
        ((tmp_path / "nowhere", *out), "PAIRS must be a folder"),
        ((pairs, *out, "--init", SHIPPED, "--luma-bins", "4"), "config must be that of"),
    ):
        code, text, err = run("train", *arguments)
        assert (code, text) == (2, "")
        assert words in err


def test_the_command_without_pytorch(pairs, tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = run("train", pairs, "--out", tmp_path / "m")
    assert code == 2
    assert err == f"bilateral-ops train: PyTorch is not installed; run {install('train')}.\n"
