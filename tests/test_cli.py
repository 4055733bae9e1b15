"""Do the commands do what their help says, and say in a sentence what keeps them from it?"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

import bilateral_ops
from bilateral_ops import _gradcheck
from bilateral_ops import cli as _cli
from bilateral_ops._core.missing import install
from bilateral_ops.cli import CommandError
from bilateral_ops.cli import bench as short
from bilateral_ops.hdrnet import Predictor
from bilateral_ops.ops import OPERATIONS

PICTURES = ("before.png", "target.png", "after.png", "hdrnet.png", "grid.png")


def photo(height=40, width=60, channels=3):
    """A picture with light, dark and colour in it."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    shades = np.stack([x, 0.5 * (x + y), (1 - x) * y, np.full_like(x, 0.5)], axis=-1)[..., :channels]
    noise = np.random.default_rng(0).normal(0, 0.02, shades.shape)
    return np.rint(np.clip(shades + noise, 0, 1) * 255).astype(np.uint8)


@pytest.fixture
def image(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

    def save(pixels, name="photo.png", **options):
        path = tmp_path / name
        made = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
        made.save(path, **options)
        return path

    return save


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    """Times are not what is tested: as few rounds of each as there may be."""
    monkeypatch.setattr(short, "SECONDS", 1e-3)


@pytest.fixture
def demo():
    for module in ("scipy", "skimage", "matplotlib", "numba", "tqdm"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    from bilateral_ops.cli import demo as _demo

    return _demo


def test_version_and_help(run):
    assert run("--version") == (0, f"bilateral_ops {bilateral_ops.__version__}\n", "")
    code, out, _ = run("demo", "--help")
    assert code == 0
    assert "PHOTO" in out
    assert "--out DIR" in out
    code, out, _ = run("bench", "--help")
    assert code == 0
    assert "--size WIDTHxHEIGHT" in out
    assert "--threads N" in out
    assert "--json FILE" in out
    code, _, err = run()
    assert code == 2
    assert "COMMAND" in err


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "bilateral_ops", "info"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["bilateral_ops", bilateral_ops.__version__]


@pytest.mark.parametrize("installed", [False, True])
def test_nonsense_in_the_environment_is_a_sentence(installed):
    script = shutil.which("bilateral-ops", path=os.path.dirname(sys.executable))
    if installed and not script:
        pytest.skip("the command is not beside this Python")
    command = [script] if installed else [sys.executable, "-m", "bilateral_ops"]
    environment = {**os.environ, "BILATERAL_OPS_NUM_THREADS": "x"}
    done = subprocess.run([*command, "info"], capture_output=True, text=True, env=environment)
    sentence = "bilateral_ops: BILATERAL_OPS_NUM_THREADS must be an integer from 1 to 1024, got 'x'.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["info", "gradcheck", "--help"])
def test_output_that_nobody_reads_ends_it_quietly(command, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, "-m", "bilateral_ops", command], stdout=writing, stderr=subprocess.PIPE, env=environment
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_error_while_nobody_reads_is_told():
    code = """
import bilateral_ops.cli as cli
def fail(_):
    print("a line")
    raise {}
cli._COMMANDS["info"] = fail
cli.main(["info"])
"""
    for error in ("RuntimeError('a bug')", "BrokenPipeError('of another pipe')"):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-c", code.format(error)],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
        os.close(writing)
        assert error.partition("(")[0].encode() in done.stderr


def test_without_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert _cli.main(["info"]) == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.skipif("not __import__('os').path.exists('/dev/full')", reason="Linux")
def test_output_that_cannot_be_written_is_a_sentence(unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bilateral_ops", "info"], stdout=full, stderr=subprocess.PIPE, env=environment
        )
    sentence = b"bilateral-ops info: cannot write to standard output (No space left on device).\n"
    assert (done.returncode, done.stderr) == (2, sentence)


def test_too_little_memory_is_a_sentence(run, monkeypatch):
    def fill():
        raise MemoryError

    monkeypatch.setattr(_gradcheck, "check_operations", fill)
    assert run("gradcheck") == (2, "", "bilateral-ops gradcheck: out of memory.\n")


def test_info(run, capsys):
    bilateral_ops.show_config()
    expected = capsys.readouterr().out
    assert run("info") == (0, expected, "")


def test_gradcheck_is_a_table_of_every_operation(run):
    code, out, _ = run("gradcheck")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["operation", "argument"]
    assert lines[-1] == "all gradients agree with finite differences"
    named = [line.split()[0] for line in lines[1:-2] if not line.startswith(" ")]
    assert named == [name for name, operation in OPERATIONS.items() if operation.vjp is not None]
    assert all(line.endswith("  ok") for line in lines[1:-2])


def test_a_wrong_gradient_is_exit_code_1(run, monkeypatch):
    right = OPERATIONS["slice"]

    def wrong(*args, **keywords):
        found = right.vjp(*args, **keywords)
        return found._replace(guide=1.00001 * found.guide)

    wrong.__wrapped__ = right.vjp
    monkeypatch.setitem(OPERATIONS, "slice", right._replace(vjp=wrong))
    code, out, _ = run("gradcheck")
    assert code == 1
    assert out.splitlines()[-1] == "not confirmed: slice"
    assert sum("FAIL" in line for line in out.splitlines()) == 1


def test_bench_is_a_table_of_every_operation(run, tmp_path, monkeypatch, threads):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(short, "MAIN", ("enhance",))  # Numba compiles it for the demo, too
    file = tmp_path / "bench.json"
    code, out, err = run("bench", "--size", "24x16", "--threads", 2, "--json", file)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("24 × 16 pixels, 2 threads, ")
    assert lines[2].split()[:3] == ["operation", "ms", "GB/s"]
    names = [name + end for name, op in OPERATIONS.items() for end in ("", "_vjp") if not end or op.vjp]
    assert [line.split()[0] for line in lines[3 : 3 + len(names)]] == names
    assert f"Not timed: PyTorch is not installed; run {install('torch')}." in lines
    written = json.loads(file.read_text())
    assert (written["size"], written["threads"]) == ("24x16", 2)
    assert [row["call"] for row in written["calls"]] == names
    assert all(row["seconds"] > 0 and row["bound"] > 0 for row in written["calls"])


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="pipes have no names here")
def test_bench_writes_into_a_pipe(run, monkeypatch, threads):
    for module in ("numba", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    end, start = os.pipe()
    with open(end, encoding="utf-8") as pipe:
        code, _, err = run("bench", "--size", "3x2", "--json", f"/dev/fd/{start}")
        os.close(start)
        assert (code, err) == (0, "")
        assert json.load(pipe)["size"] == "3x2"


def test_bench_needs_nothing_but_numpy(run, monkeypatch, threads):
    for module in ("numba", "torch", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    code, out, _ = run("bench", "--size", "5x3")
    assert code == 0
    assert f"No progress bar: tqdm is not installed; run {install('bench')}." in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--size", "999999x999999"], "--size must be of an image that fits in memory, got 999999x999999."),
        (["--threads", "0"], "--threads must be from 1 to 1024, got 0."),
        (["--threads", "99999999"], "--threads must be from 1 to 1024, got 99999999."),
        (["--json", "."], "--json must be a file that can be written, got '.' (Is a directory)."),
        (["--json", "/no/x"], "--json must be a file that can be written, got '/no/x' (No such file or directory)."),
    ],
)
def test_bench_says_what_is_wrong(run, threads, monkeypatch, arguments, sentence):
    monkeypatch.setattr(short, "available_memory", lambda: 2**34)
    assert run("bench", *arguments) == (2, "", f"bilateral-ops bench: {sentence}\n")


@pytest.mark.parametrize("size", ["big", "0x3", f"1x{10**30}"])
def test_a_size_is_width_and_height(run, size):
    code, out, err = run("bench", "--size", size)
    assert (code, out) == (2, "")
    assert err.endswith(f"error: argument --size: must be WIDTHxHEIGHT such as 1920x1080, got '{size}'\n")


# --- the demo


def test_demo_on_a_photograph(run, image, demo, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(demo, "TIMED_PIXELS", 20_000)
    path, out = image(photo()), tmp_path / "made" / "here"
    code, text, err = run("demo", path, "--out", out)
    assert code == 0, err
    assert err == ""
    shown = {}
    for name in PICTURES:
        with Image.open(out / name) as file:
            shown[name] = np.asarray(file)
    assert {shown[name].shape for name in PICTURES[:4]} == {(40, 60, 3)}
    assert np.array_equal(shown["hdrnet.png"], Predictor.load()(photo()))
    assert min(shown["grid.png"].shape[:2]) > 500
    assert sorted(p.name for p in out.iterdir()) == sorted(PICTURES)
    assert np.array_equal(shown["before.png"], photo())
    lines = [line.split() for line in text.splitlines() if line]
    assert lines[0] == ["photo", "photo.png,", "60", "×", "40", "pixels"]
    before, after = (float(value) for value in re.findall(r"against target +(\S+) dB", text))
    assert after > before
    target, got = (shown[name].astype(float) for name in ("target.png", "after.png"))
    assert after == pytest.approx(10 * np.log10(255**2 / np.mean((target - got) ** 2)), abs=0.01)
    assert "reference.numba.enhance" in text
    assert "tiled" in text
    for name in OPERATIONS:
        assert name in text


def test_demo_reaches_30_db_on_the_default_photograph(demo):
    before, name = demo._default_photo()
    assert "scikit-image" in name
    result = demo._edit(before, demo._Progress(0))
    assert result.after.shape == before.shape
    assert result.after.dtype == np.uint8
    assert result.psnr_before < 20
    assert result.psnr_after > 35


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_demo_on_tiny_photographs(demo, tmp_path, shape):
    result = demo._edit(photo(*shape), demo._Progress(0))
    assert result.after.shape == (*shape, 3)
    if shape in ((1, 1), (1, 9)):
        demo._draw(result, tmp_path / "grid.png")
        assert (tmp_path / "grid.png").stat().st_size > 10_000


@pytest.mark.parametrize("value", [0, 128, 255])
def test_demo_on_one_colour(demo, value):
    result = demo._edit(np.full((8, 9, 3), value, np.uint8), demo._Progress(0))
    assert np.isfinite(result.grid).all()


def test_kinds_of_photographs(demo, image):
    from PIL import Image

    pixels = photo()
    assert np.array_equal(demo._read(image(pixels)), pixels)
    with_alpha = photo(channels=4)
    assert np.array_equal(demo._read(image(with_alpha, "rgba.png")), with_alpha[..., :3])
    grey = pixels[..., 1]
    for shown in (grey, grey.astype(np.uint16) * 257):
        assert np.array_equal(demo._read(image(shown, "grey.png")), np.repeat(grey[..., None], 3, axis=-1))
    few = Image.fromarray(pixels).quantize(16)
    assert np.array_equal(demo._read(image(few, "palette.png")), np.asarray(few.convert("RGB")))
    turned = Image.new("RGB", (60, 40))
    exif = turned.getexif()
    exif[0x0112] = 6
    assert demo._read(image(turned, "turned.jpg", exif=exif)).shape == (60, 40, 3)


def test_sentences(run, image, demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def sentence(*arguments):
        code, out, err = run("demo", *arguments)
        assert (code, out) == (2, "")
        assert err.endswith(".\n")
        assert err.count("\n") == 1
        return err.strip()

    path = image(photo())
    must = "bilateral-ops demo: PHOTO must be an image file, got"
    assert sentence("no.png") == f"{must} 'no.png', but there is none."
    assert sentence(tmp_path) == f"{must} {str(tmp_path)!r}, which is a folder."
    text = tmp_path / "text.png"
    text.write_text("not an image")
    assert (
        sentence(text)
        == f"{must} {str(text)!r}, which is no JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, BMP or GIF file."
    )
    cut = tmp_path / "cut.png"
    cut.write_bytes(path.read_bytes()[:500])
    assert sentence(cut) == f"{must} {str(cut)!r}, which is truncated."
    cut.write_bytes(b"")
    assert sentence(cut) == f"{must} {str(cut)!r}, which is empty and has no pixels."
    header = path.read_bytes()[:16]
    for size, wrong in ((bytes(8), "has no pixels"), (b"\x7f\xff\xff\xff" * 2, "has more pixels than Pillow opens")):
        end = size + b"\x08\x02\0\0\0"
        cut.write_bytes(header + end + struct.pack(">I", zlib.crc32(b"IHDR" + end)) + path.read_bytes()[33:])
        assert sentence(cut) == f"{must} {str(cut)!r}, which {wrong}."
    assert not (tmp_path / "bilateral-ops-demo").exists(), "nothing is made for a photograph that cannot be read"
    floats = image(photo()[..., 0].astype(np.float32), "floats.tif")
    assert "8 or 16 bits a channel" in sentence(floats)
    assert sentence(path, "--out", text).startswith(
        f"bilateral-ops demo: --out must be a folder that can be written to, got {str(text)!r} ("
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.gif", "a.bmp"])
def test_a_damaged_photograph_is_a_sentence(image, demo, name):
    path = image(photo(20, 28), name)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    said = []
    for n in range(60):
        changed = bytearray(data)
        at = int(rng.integers(min(len(data), 200)))
        changed[at : at + 2] = rng.integers(256, size=2, dtype=np.uint8).tobytes()
        path.write_bytes(changed if n % 4 else data[:at])
        try:
            assert demo._read(str(path)).ndim == 3
        except CommandError as error:
            said.append(str(error).removeprefix(f"demo: PHOTO must be an image file, got {str(path)!r}, which "))
    assert said
    assert [words for words in said if not re.match(r"(is (damaged|truncated|empty)|has |is (of )?no )", words)] == []
    assert [words for words in said if re.search(r"object|argument|Error|index|unpack|range\(", words)] == []


@pytest.mark.parametrize("module", ["scipy", "skimage", "matplotlib", "numba", "tqdm"])
def test_a_missing_extra_is_named(run, demo, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("demo")
    assert code == 2
    assert err.startswith("bilateral-ops demo: ")
    assert err.endswith(f"is not installed; run {install('demo')}.\n")


def test_a_failed_check_is_the_demos_exit_code(run, demo, monkeypatch):
    monkeypatch.setattr(demo, "run", lambda *_: False)
    assert run("demo")[0] == 1


def test_interruption_is_quiet(run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(_gradcheck, "check_operations", interrupt)
    assert run("gradcheck") == (130, "", "\n")
