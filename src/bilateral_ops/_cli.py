"""The command line: ``bilateral-ops demo``, ``train``, ``info``, ``gradcheck`` and ``bench``."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any


def _parser() -> argparse.ArgumentParser:
    from . import __version__

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
        "Writes before.png, target.png, after.png, and grid.png, a picture of the grid and the guide map.",
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
    _add_train(commands)
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
        help="time every operation on this machine (under a minute)",
        description="Time every operation beside the streaming bound (a loop that only reads and writes as many "
        "bytes), and the main ones beside Numba loops and PyTorch, where these are installed. Prints milliseconds, "
        "gigabytes per second and ratios: medians of calls made in turn.",
    )
    bench.add_argument(
        "--size", default="1920x1080", metavar="WIDTHxHEIGHT", help="pixels of the image (default: %(default)s)"
    )
    bench.add_argument("--threads", type=int, metavar="N", help="threads of everything timed (default: as info says)")
    bench.add_argument("--json", metavar="FILE", help="write the table to this file, too")
    return parser


def _add_train(commands: Any) -> None:
    from .hdrnet._config import GUIDES, SCALES, Config
    from .hdrnet._options import Options

    parser = commands.add_parser(
        "train",
        help="train HDRnet on pairs of photographs, or on photographs and an edit",
        description="Train HDRnet on pairs of photographs and what an edit made of them: in PAIRS the folders input "
        "and target, whose files have the same names (endings may differ), folders within them too. With --edit the "
        "targets are made by a built-in edit, and PAIRS has the folder input or the photographs themselves. Files that "
        "cannot be trained on are all named before training starts. OUT is written whenever the held-out photographs' "
        "PSNR is the best yet. Ctrl-C writes a checkpoint, and --resume goes on from the last one to the same weights "
        "as if nothing had been. `torchrun --nproc-per-node N -m bilateral_ops train …` trains with N processes.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("pairs", metavar="PAIRS", help="a folder of photographs")
    parser.add_argument("--out", required=True, metavar="OUT", help="the model file to write, of safetensors")
    for item in fields(Options):
        _add_option(parser, item.name, item.default, **item.metadata)
    network = parser.add_argument_group("the network (see bilateral_ops.hdrnet.Config)")
    choices = {"guide": GUIDES, "scales": SCALES}
    for item in fields(Config):
        _add_option(network, item.name, item.default, type(item.default), choices=choices.get(item.name))


def _add_option(
    parser: Any,
    name: str,
    default: Any,
    kind: type,
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


def _train(said: dict[str, Any]) -> bool:
    from .hdrnet._config import Config
    from .hdrnet._data import DataError
    from .hdrnet._options import Options

    for module, library in (
        ("torch", "PyTorch"),
        ("PIL", "Pillow"),
        ("imagecodecs", "imagecodecs"),
        ("skimage", "scikit-image"),
        ("tqdm", "tqdm"),
    ):
        try:
            import_module(module)
        except ImportError:
            stop = f"train: {library} is not installed; run pip install 'bilateral_ops[train]'."
            raise SystemExit(_stop(stop)) from None
    from .hdrnet.train import TrainError, train

    network = {item.name: said.pop(item.name) for item in fields(Config) if item.name in said}
    pairs, out = said.pop("pairs"), said.pop("out")
    try:
        Options(**said)
        config = Config(**network) if network or "init" not in said else None
    except ValueError as error:
        raise SystemExit(_stop(str(error))) from None
    try:
        train(pairs, out, config=config, **said)
    except (TrainError, DataError) as error:
        raise SystemExit(_stop(str(error))) from None
    return True


def _demo(photo: str | None, out: str) -> bool:
    from ._demo import DemoError, run

    try:
        return run(photo, out)
    except DemoError as error:
        raise SystemExit(_stop(str(error))) from None


def _info() -> bool:
    from ._config import show_config

    show_config()
    return True


def _gradcheck() -> bool:
    from ._gradcheck import check_operations, table

    reports = check_operations()
    print(table(reports))
    wrong = [name for name, report in reports.items() if not report]
    print("\n" + (f"not confirmed: {', '.join(wrong)}" if wrong else "all gradients agree with finite differences"))
    return not wrong


def _bench(size: str, threads: int | None, file: str | None) -> bool:
    from ._bench.short import BenchError, run

    try:
        return run(size, threads, file)
    except BenchError as error:
        raise SystemExit(_stop(str(error))) from None


def _stop(sentence: str) -> int:
    print(f"bilateral-ops {sentence}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 where a check failed, or 2 where a sentence says what is wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a sign shows "?" for it
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            fine = _demo(options.photo, options.out)
        elif options.command == "train":
            fine = _train({name: value for name, value in vars(options).items() if name != "command"})
        elif options.command == "info":
            fine = _info()
        elif options.command == "gradcheck":
            fine = _gradcheck()
        else:
            fine = _bench(options.size, options.threads, options.json)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0 if fine else 1
