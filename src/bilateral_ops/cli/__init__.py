"""The command line: ``bilateral-ops enhance``, ``train``, ``export``, ``demo``, ``info``, ``gradcheck``, ``bench``."""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import re
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any


def _parser() -> argparse.ArgumentParser:
    from .. import __version__
    from .._core.missing import install

    parser = argparse.ArgumentParser(
        prog="bilateral-ops",
        description="Bilateral grids at full resolution: slice, guide and apply, forward and backward.",
    )
    parser.add_argument("--version", action="version", version=f"bilateral_ops {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="learn a local edit at low resolution and apply it to a whole photograph",
        description="Make a local edit of a photograph (CLAHE), fit a bilateral grid to it at low resolution, apply "
        "the grid to the full-resolution photograph in one pass, and say how close that comes and how long it takes. "
        "Writes before.png, target.png, after.png, and grid.png, a picture of the grid and the guide map; and "
        "hdrnet.png, the photograph as the network in this package enhances it.",
    )
    demo.add_argument(
        "photo", nargs="?", metavar="PHOTO", help="an image file (default: a photograph that scikit-image bundles)"
    )
    demo.add_argument(
        "--out",
        default="bilateral-ops-demo",
        metavar="DIR",
        help="the folder for the pictures, made where missing (default: %(default)s)",
    )
    enhance = commands.add_parser(
        "enhance",
        help="enhance pictures and videos with a trained model",
        description="Enhance pictures (JPEG, PNG, TIFF, WebP, AVIF, JPEG XL, BMP, with pillow-heif HEIC; up to 16 "
        "bits a channel, TIFF and JPEG XL also floating point), animations and videos with the model in this package, "
        "or another. Results have their inputs' names and kinds, and appear whole or not at all; GIF becomes PNG, MPEG "
        "program streams and WMV become Matroska. Pictures are turned upright; metadata, ICC profiles and alpha are "
        "kept, grey stays grey, palettes become RGB, samples of other than 8 or 16 bits the next of these (AVIF and "
        "HEIC keep theirs). TIFF files larger than the memory limit are read and written in pieces. Sound, subtitles, "
        "covers and attachments of videos are copied. What is not kept is said; a file that can't be enhanced is "
        "named, and the others go on.",
        epilog="The exit code is 0, 1 where a file could not be enhanced, or 2 where nothing was begun.",
    )
    enhance.add_argument(
        "inputs", nargs="+", metavar="IN", help="files, folders (with all in them) and patterns such as 'DSC*.jpg'"
    )
    enhance.add_argument("--out", required=True, metavar="DIR", help="the folder for the results, made where missing")
    enhance.add_argument("--model", metavar="FILE", help="a model file (default: the model in this package)")
    enhance.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the model computes; cuda takes CuPy or PyTorch, whichever is installed, as with "
        f"{install('cupy')} (default: %(default)s)",
    )
    enhance.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="S",
        help="0 leaves pictures as they are, 1 is the model's result; more exaggerates it (default: %(default)s)",
    )
    enhance.add_argument(
        "--compare",
        action="store_true",
        help="write NAME.compare.jpg, too: before and after, side by side (of a video, its middle frame)",
    )
    enhance.add_argument("--overwrite", action="store_true", help="replace results that exist already")
    enhance.add_argument(
        "--memory-limit",
        type=_size,
        default="2GB",
        metavar="SIZE",
        help="how much memory may be taken, such as 800MB or 4GB (default: %(default)s)",
    )
    enhance.add_argument(
        "--quality",
        type=int,
        metavar="1-100",
        help="of lossy pictures (default: as a JPEG was stored, and 90 of others)",
    )
    video = enhance.add_argument_group("videos")
    video.add_argument(
        "--smoothing",
        type=float,
        default=0.3,
        metavar="SECONDS",
        help="time constant with which the edit follows the video, or an animation; it begins anew at cuts "
        "(default: %(default)s)",
    )
    video.add_argument(
        "--codec",
        metavar="NAME",
        help="FFmpeg's name of the encoder (default: libx264; in WebM libvpx-vp9; others for what these don't hold)",
    )
    video.add_argument(
        "--crf", type=int, metavar="N", help="its constant rate factor: lower is better (default: 18; for VP9 30)"
    )
    _add_train(commands)
    _add_export(commands)
    commands.add_parser(
        "info",
        help="print version, instruction set, threads, compiler and CUDA support",
        description="Print version, instruction set, threads, compiler and CUDA support.",
    )
    commands.add_parser(
        "gradcheck",
        help="check the gradients of every operation against finite differences",
        description="Check the gradients of every operation against finite differences in float64, on small random "
        "arguments, and print a table. The exit code is 1 where any is wrong.",
    )
    bench = commands.add_parser(
        "bench",
        help="time every operation on this machine (under a minute), or a function of yours beside one",
        description="Time every operation beside the streaming bound (a loop that only reads and writes as many "
        "bytes), and the main ones beside Numba loops and PyTorch, where these are installed. Prints milliseconds, "
        "gigabytes per second and ratios: medians of calls made in turn. With FUNCTION time that, called with the "
        "arguments of the operation that it is like, by position, beside this operation and these peers; results "
        "that differ by more than rounding are named.",
        epilog="In Python: bilateral_ops.bench.compare.",
    )
    bench.add_argument("function", nargs="?", metavar="FUNCTION", help="module:function or file.py:function")
    bench.add_argument(
        "--like", metavar="OPERATION", help="which operation FUNCTION is like (default: that of its name)"
    )
    bench.add_argument(
        "--arrays",
        choices=("numpy", "torch", "jax", "cupy"),
        default="numpy",
        help="whose arrays FUNCTION takes (default: %(default)s)",
    )
    bench.add_argument("--device", metavar="NAME", help="where PyTorch's are, such as cuda (default: cpu)")
    bench.add_argument(
        "--gradients",
        action="store_true",
        help="also time gradients: by FUNCTION_vjp (arguments, then grad) where there is one, else PyTorch's or JAX's",
    )
    bench.add_argument("--plot", metavar="FILE", help="also draw FUNCTION's comparison into a picture")
    bench.add_argument(
        "--size",
        type=_width_and_height,
        default="1920x1080",
        metavar="WIDTHxHEIGHT",
        help="pixels of the image (default: %(default)s)",
    )
    bench.add_argument("--threads", type=int, metavar="N", help="threads of everything timed (default: as info says)")
    bench.add_argument("--json", metavar="FILE", help="write the table to this file, too")
    return parser


def _add_export(commands: Any) -> None:
    from .._core.missing import install

    parser = commands.add_parser(
        "export",
        help="write a trained model for other runtimes: onnx, tflite, ncnn, glsl, web",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.dedent("""\
            Write a trained model for where this package is not: all of it, from an image to the image enhanced, or
            with --split its network and its full-resolution part by themselves, so that the one may run on another
            processor, or less often, than the other.

            formats:
              onnx    standard operators, images of any size: ONNX Runtime, OpenVINO, TensorRT, MNN, browsers
              tflite  for LiteRT on phones; one size of images
              ncnn    a .param file and its .bin; one size of images
              glsl    a folder: the network as ONNX, the rest as fragment shaders of GLSL ES 3.00
              web     a folder: a page for any static server that enhances photographs and the camera's picture"""),
        epilog=textwrap.dedent(f"""\
            examples:
              bilateral-ops export --to onnx --out hdrnet.onnx
              bilateral-ops export mine.safetensors --to onnx --out mine.onnx --split --image uint8
              bilateral-ops export mine.safetensors --to tflite --out mine.tflite --size 1920x1080
              bilateral-ops export mine.safetensors --to ncnn --out mine.param --size 1920x1080
              bilateral-ops export mine.safetensors --to web --out page; python -m http.server -d page

            onnx, glsl and web need {install("onnx")}, tflite {install("tflite")},
            ncnn {install("ncnn")}.
            docs/deployment.md says what was run where, and how a file is used."""),
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model file (default: the model in this package)")
    parser.add_argument("--to", choices=tuple(_FORMATS), required=True, metavar="FORMAT", help=", ".join(_FORMATS))
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="the file to write, or for glsl and web the folder, made where missing; with --split the file's name with "
        ".network and .render before its ending",
    )
    options = parser.add_argument_group("options", "each of the formats that it names")
    options.add_argument(
        "--split",
        action="store_const",
        const=True,
        help="(onnx, tflite, ncnn) write the network and the full-resolution part by themselves",
    )
    options.add_argument(
        "--size",
        type=_width_and_height,
        metavar="WIDTHxHEIGHT",
        help="(tflite, ncnn) pixels of the images, such as 1920x1080",
    )
    options.add_argument(
        "--image",
        choices=("float32", "float16", "uint8", "uint16"),
        help="(onnx; tflite: float32, uint8) numbers of images; floats are in [0, 1] (default: float32)",
    )
    options.add_argument("--layout", choices=("NHWC", "NCHW"), help="(onnx) axes of images (default: NHWC)")
    options.add_argument(
        "--form",
        choices=("GridSample", "Gather"),
        help="(onnx) how the grid is looked up: by Gather with four axes at most, which most runtimes have, or by "
        "GridSample of three dimensions (default: Gather)",
    )
    options.add_argument(
        "--no-nan",
        action="store_const",
        const=True,
        help="(onnx) drop the operators that keep a NaN within its own pixel",
    )
    options.add_argument(
        "--opset",
        type=int,
        metavar="N",
        help="(onnx) version of ONNX's operators (default: 20 for GridSample, 13 for Gather)",
    )


#: The formats of `export`, which options each takes, and the extra that brings what it needs with its modules.
_FORMATS: dict[str, tuple[set[str], str, tuple[str, ...]]] = {
    "onnx": ({"split", "form", "layout", "image", "no_nan", "opset"}, "onnx", ("onnx",)),
    "tflite": ({"split", "size", "image"}, "tflite", ("torch", "litert_torch")),
    "ncnn": ({"split", "size"}, "ncnn", ("onnx", "pnnx")),
    "glsl": (set(), "onnx", ("onnx",)),
    "web": (set(), "onnx", ("onnx",)),
}


def _width_and_height(text: str) -> tuple[int, int]:
    """(H, W) of WIDTHxHEIGHT."""
    found = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT such as 1920x1080, got {text!r}")
    return int(found[2]), int(found[1])


def _add_train(commands: Any) -> None:
    from ..hdrnet._config import CHOICES, PAIRS, Config
    from ..hdrnet.train.options import Options, kind_of

    parser = commands.add_parser(
        "train",
        help="train HDRnet on pairs of photographs, or on photographs and an edit",
        description="Train HDRnet on pairs of photographs and what an edit made of them: in PAIRS the folders input "
        "and target (or output), whose files have the same names (endings may differ), folders within them too; where "
        "their sizes differ, both are reduced to the smaller. With --edit the "
        "targets are made by a built-in edit, and PAIRS has the folder input or the photographs themselves. Files that "
        "cannot be trained on are all named before training starts. OUT is written whenever the held-out photographs' "
        "PSNR is the best yet. Ctrl-C writes a checkpoint, and --resume goes on from the last one to the same weights "
        "as if nothing had been. `torchrun --nproc-per-node N -m bilateral_ops train …` trains with N processes.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("pairs", metavar="PAIRS", help="a folder of photographs")
    parser.add_argument("--out", required=True, metavar="OUT", help="the model file to write, of safetensors")
    for item in fields(Options):
        _add_option(parser, item.name, item.default, kind_of(item), **item.metadata)
    network = parser.add_argument_group("the network (see bilateral_ops.hdrnet.Config)")
    choices = {**CHOICES, "guide": [guide for guide in CHOICES["guide"] if guide != "custom"]}
    for item in fields(Config):
        kind = _one_or_two if item.name in PAIRS else type(item.default)
        metavar = "N or NxN" if item.name in PAIRS else None
        _add_option(network, item.name, item.default, kind, metavar=metavar, choices=choices.get(item.name))


def _add_option(
    parser: Any,
    name: str,
    default: Any,
    kind: Any,
    help: str = "",
    metavar: str | None = None,
    choices: Any = None,
    **_: Any,
) -> None:
    """An option for a field. What isn't said isn't in the namespace: the field's own default holds."""
    flag = f"--{name.replace('_', '-')}"
    if kind is bool and default is False:
        parser.add_argument(flag, action="store_true", help=help)
    elif kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help)
    else:
        known = "" if default is None else f"default: {default}"
        text = f"{help} ({known})" if help and known else help or known
        metavar = metavar or (None if choices else {int: "N", float: "X"}.get(kind, "TEXT"))
        parser.add_argument(flag, type=kind, metavar=metavar, choices=choices, help=text)


def _one_or_two(text: str) -> int | tuple[int, ...]:
    """A number, or rows and columns as 256x384."""
    if not re.fullmatch(r"\d{1,9}(x\d{1,9})?", text):
        raise argparse.ArgumentTypeError(f"must be a number, or rows and columns such as 256x384, got {text!r}")
    numbers = tuple(map(int, text.split("x")))
    return numbers if len(numbers) == 2 else numbers[0]


class CommandError(Exception):
    """What keeps a command from running, in one sentence."""


def _said(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name != "command"}


def _train(options: argparse.Namespace) -> bool:
    from .._core.missing import missing
    from ..hdrnet._config import Config
    from ..hdrnet.train.data import DataError
    from ..hdrnet.train.options import Options

    if lacking := missing("train", "torch", "PIL", "imagecodecs", "skimage", "tqdm"):
        raise CommandError(f"train: {lacking}.")
    from ..hdrnet.train import TrainError, train

    said = _said(options)
    network = {item.name: said.pop(item.name) for item in fields(Config) if item.name in said}
    pairs, out = said.pop("pairs"), said.pop("out")
    try:
        Options(**said)
        config = Config(**network) if network or "init" not in said else None
    except ValueError as error:
        raise CommandError(error) from None
    try:
        train(pairs, out, config=config, **said)
    except (TrainError, DataError) as error:
        raise CommandError(error) from None
    return True


def _export(options: argparse.Namespace) -> bool:
    from .._core.missing import missing

    to, out = options.to, Path(options.out)
    taken, extra, modules = _FORMATS[to]
    said = {name: value for name, value in _said(options).items() if value is not None}
    for name in said.keys() - taken - {"model", "to", "out"}:
        formats = ", ".join(other for other, (its, *_) in _FORMATS.items() if name in its)
        raise CommandError(f"export: --{name.replace('_', '-')} is for {formats}, and not for {to}.")
    if "size" in taken and "size" not in said:
        raise CommandError(f"export: --size is needed, as {to} files are for images of one size: --size 1920x1080.")
    if lacking := missing(extra, *modules):
        raise CommandError(f"export: {lacking}.")
    try:
        with redirect_stdout(sys.stderr):  # what converters say of their progress
            files = [*_written(to, options.model, out, said)]
    except OSError as error:
        what = f"open {error.filename}" if error.filename else f"write {out}"
        raise CommandError(f"export: cannot {what} ({error.strerror}).") from None
    except (ValueError, RuntimeError) as error:
        raise CommandError(f"export: {error}") from None
    print(*files, sep="\n")
    return True


def _written(to: str, model: str | None, out: Path, said: dict[str, Any]) -> Iterator[Path]:
    """The files or folders as they are written."""
    if to in ("glsl", "web"):
        from ..export import glsl

        yield (glsl.web if to == "web" else glsl.save)(model, out)
        return
    parts: dict[Any, Path] = {"whole": out}
    if "split" in said:
        parts = {part: out.with_name(f"{out.stem}.{part}{out.suffix}") for part in ("network", "render")}
    for part, file in parts.items():
        if to == "onnx":
            from ..export import onnx

            form = said.get("form", "Gather")
            choices: Any = {name: said[name] for name in ("layout", "image") if name in said}
            choices["opset"] = said.get("opset", {"GridSample": 20, "Gather": 13}[form])
            onnx.save(onnx.hdrnet(model, part=part, form=form, nan="no_nan" not in said, **choices), file)
            yield file
        elif to == "tflite":
            from ..export import tflite

            yield tflite.save(model, file, size=said["size"], part=part, image=said.get("image", "float32"))
        else:
            from ..export import ncnn

            yield from ncnn.save(model, file, size=said["size"], part=part)


def _demo(options: argparse.Namespace) -> bool:
    from .demo import run

    return run(options.photo, options.out)


def _size(text: str) -> int:
    """Bytes, as 800MB or 1.5GB."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?\s*", text, re.IGNORECASE)
    if not found or not math.isfinite(float(found[1])):
        raise argparse.ArgumentTypeError(f"must be a size such as 800MB or 2GB, got {text!r}")
    return int(float(found[1]) * 1000 ** " kmgt".find(found[2].lower() or " "))


def _enhance(options: argparse.Namespace) -> bool:
    from ..photo.job import EnhanceError, VideoOptions, enhance_files, report

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # What a shell has its background jobs ignore stays ignored.
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def end(number: int, _: Any) -> None:
        """Clear away what is begun, once the calls under way are over; a second signal doesn't wait for them."""
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in before:
        signal.signal(number, end)
    said = _said(options)
    video = VideoOptions(*(said.pop(name) for name in ("smoothing", "codec", "crf")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file's line says what is wrong with it
            results = enhance_files(**said, video=video, progress=True)
    except EnhanceError as error:
        raise CommandError(f"enhance: {error}.") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(report(results))
    return all(result.error is None for result in results)


def _info(_: argparse.Namespace) -> bool:
    from .._core.settings import show_config

    show_config()
    return True


def _gradcheck(_: argparse.Namespace) -> bool:
    from .._gradcheck import check_operations, table

    reports = check_operations()
    print(table(reports))
    wrong = [name for name, report in reports.items() if not report]
    print("\n" + (f"not confirmed: {', '.join(wrong)}" if wrong else "all gradients agree with finite differences"))
    return not wrong


def _bench(options: argparse.Namespace) -> bool:
    from .bench import run, run_one

    if options.function is not None:
        return run_one(options)
    for name in ("like", "device", "gradients", "plot"):
        if getattr(options, name):
            raise CommandError(f"bench: --{name} needs a FUNCTION.")
    return run(options)


_COMMANDS: dict[str, Callable[[argparse.Namespace], bool]] = {
    command.__name__[1:]: command for command in (_demo, _enhance, _train, _export, _info, _gradcheck, _bench)
}


def _stop(sentence: str) -> int:
    with suppress(OSError):
        print(f"bilateral-ops {sentence}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 where a check failed, or 2 where a sentence says what is wrong.

    It is 130 after Ctrl-C, and 141 where nobody reads on, as of programs that these signals end.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a sign shows "?" for it
            stream.reconfigure(errors="replace")
    command = ""
    try:
        with redirect_stdout(_Output(sys.stdout)):
            try:
                options = _parser().parse_args(arguments)
                command = f"{options.command}: "
                code = 0 if _COMMANDS[options.command](options) else 1
            except CommandError as error:
                code = _stop(str(error))
            except SystemExit:
                sys.stdout.flush()  # what fails when Python ends can't be said any more
                raise
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except _OutputError as failure:
        _discard_output()
        if isinstance(failure.error, BrokenPipeError) or (os.name == "nt" and failure.error.errno == errno.EINVAL):
            return 141
        return _stop(f"{command}cannot write to standard output ({failure.error.strerror or failure.error}).")
    except MemoryError:
        return _stop(f"{command}out of memory.")


class _OutputError(Exception):
    """Standard output can't be written. Not an OSError, which commands and argparse deal with as those of files."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Output:
    """Standard output, or nothing where there is none, whose failures are told from all others."""

    def __init__(self, stream: Any) -> None:
        self._stream = io.StringIO() if stream is None else stream

    def write(self, text: str) -> int:
        return int(self._try(self._stream.write, text))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @staticmethod
    def _try(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            raise _OutputError(error) from error


def _discard_output() -> None:
    """Let what can't be written go nowhere, as Python would try again when it ends, and say that it failed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
