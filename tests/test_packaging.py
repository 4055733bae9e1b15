"""Can the package be had as its pages and its metadata say?"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cases import FREE_THREADED, python

from bilateral_ops._core.missing import PACKAGE

ROOT = Path(__file__).parent.parent
in_the_sources = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="needs the sources")
SHOWN = re.compile(r"(!?)\[[^]\[]*\]\(([^)\s]+)\)")  # Markdown's pictures and links


@pytest.fixture
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pages() -> list[Path]:
    """What a user reads, where it says how something is installed."""
    found = [*ROOT.glob("*.md")]
    for folder in ("docs", "examples", "src", "training"):
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py", ".ipynb")]
    return found


@in_the_sources
def test_extras_are_installed_by_commands_of_one_form(project: dict[str, Any]) -> None:
    """One that works: until there is a release, that of the sources. `missing.install` makes those of messages."""
    extras = set(project["project"]["optional-dependencies"])
    count = 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for package, names in re.findall(r"pip install [^`\n]*?['\"]([\w.-]+)\[([\w, -]+)\]", text):
            if package != "cuda-toolkit":
                count += 1
                assert package == PACKAGE, page
                assert set(names.split(",")) <= extras, page
        assert page.name == "missing.py" or "bilateral_ops[" not in text, page
    assert count > 5


@in_the_sources
def test_the_page_on_pypi_has_no_relative_links(project: dict[str, Any]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    relative = {target for _, target in SHOWN.findall(text) if ":" not in target and target[0] != "#"}
    assert relative
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    source = project["project"]["urls"]["Source"]
    raw = source.replace("//github.com", "//raw.githubusercontent.com")
    leading_to = set()
    for picture, target in SHOWN.findall(text):
        assert target.startswith("https://"), target
        base = f"{raw}/main/" if picture else f"{source}/blob/main/"
        if target.startswith(base):
            leading_to.add(path := target.removeprefix(base))
            assert (ROOT / path.partition("#")[0]).exists(), target
    assert leading_to == relative


@in_the_sources
def test_the_version_stands_the_same_everywhere(project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    for file, pattern in {
        "CHANGELOG.md": rf"^## {re.escape(version)} \(",
        "CITATION.cff": rf"^version: {re.escape(version)}$",
        "recipe/recipe.yaml": rf"^  version: {re.escape(version)}$",
    }.items():
        assert re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), file


@in_the_sources
@pytest.mark.skipif(sys.platform == "win32", reason="the programs that are played are shell scripts")
@pytest.mark.parametrize(
    ("visible", "environment", "built"),
    [
        ("8.9", {}, "89-real"),
        ("9.0\n9.0\n8.0", {}, "90-real;80-real"),
        ("8.9", {"CUDAARCHS": "87;110"}, "87;110"),
        ("7.0", {}, "75-virtual"),
        ("9.0\n10.0", {}, "75-virtual"),  # of which this nvcc does not know one
        ("No devices were found", {}, "75-virtual"),
        (None, {}, "75-virtual"),
    ],
)
def test_a_source_build_is_for_the_gpus_that_are_seen(
    visible: str | None, environment: dict[str, str], built: str, tmp_path: Path
) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake was not found")
    for name, said in {"nvcc": "compute_75\ncompute_80\ncompute_89\ncompute_90", "nvidia-smi": visible}.items():
        if said is not None:
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\nprintf '{said}\\n'\n")
            program.chmod(0o755)
    path = f"{tmp_path}:/bin:/usr/bin" if visible is not None else str(tmp_path)
    finished = subprocess.run(
        [cmake, f"-DCMAKE_CUDA_COMPILER={tmp_path / 'nvcc'}", "-P", ROOT / "csrc" / "cuda" / "architectures.cmake"],
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout == f"-- CUDA kernels for {built}\n"


@pytest.mark.skipif(not FREE_THREADED, reason="needs a free-threaded Python")
@pytest.mark.parametrize("module", ["_cpu", "_cuda"])
def test_the_gil_stays_off(module: str) -> None:
    if find_spec(f"bilateral_ops.{module}") is None:
        pytest.skip("this build has no CUDA")
    finished = python(f"import sys, bilateral_ops.{module}; print(sys._is_gil_enabled())", PYTHONWARNINGS="error")
    assert finished.stdout.split() == ["False"], finished.stderr


def test_it_runs_where_the_classifiers_say(project: dict[str, Any]) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"Programming Language :: Python :: {version}" in project["project"]["classifiers"]
