"""A changed copy of the sources, built: for cpu_mutants and added_operation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copied(folder: Path, *names: str) -> Path:
    """The folder, with what builds the package and these files and folders of the repository."""
    for name in ("csrc", "src", "CMakeLists.txt", *names):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def configure(root: Path, build: Path, **options: str) -> None:
    """Prepare the folder ``build`` to build these sources with Ninja; nothing is optimised."""
    options = {"CMAKE_BUILD_TYPE": "None", "CMAKE_CXX_FLAGS": "-O0", **options}
    given = [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(["cmake", "-S", root, "-B", build, "-G", "Ninja", *given], check=True)


def replaced(file: Path, old: str, new: str) -> str:
    """The file's text with other words in place of some that stand there once."""
    text = file.read_text("utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{file} has {text.count(old)} times, not once: {old}")
    return text.replace(old, new)


class Package:
    """The package of the sources in a folder, built for the CPU into its src/."""

    def __init__(self, root: Path, **options: str) -> None:
        import pybind11

        self.root, self.build = root, root / "build"
        configure(
            root,
            self.build,
            BILATERAL_OPS_CUDA="off",
            Python_EXECUTABLE=sys.executable,
            SKBUILD_PROJECT_VERSION="0",
            pybind11_DIR=pybind11.get_cmake_dir(),
            **options,
        )
        subprocess.run(["ninja", "-C", self.build], check=True)
        (self.module,) = self.build.glob("_cpu.*")
        shutil.copy(self.module, root / "src" / "bilateral_ops")


def run(source: Path, tests: Sequence[str], root: Path = ROOT, isa: str = "") -> subprocess.CompletedProcess[str]:
    """pytest on the package in the folder ``source``; ``isa``: what tests run with that do not choose one."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", *tests]
    environment = {**os.environ, "PYTHONPATH": str(source), "BILATERAL_OPS_ISA": isa}
    environment["MALLOC_PERTURB_"] = "128"  # glibc then fills new memory with bytes of 127, which are huge numbers
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
