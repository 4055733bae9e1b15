"""Does what README and the documentation show run as it is written there?

A block is Python (its own program), a notebook's cell (one program a page) or sh (a script). In front of it may stand

    <!-- not run: REASON -->              where it cannot run here
    <!-- continues the block above -->    where it needs what that one made
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import programs
import pytest
from backends import FAKE_CUPY, FakeKernels

import bilateral_ops
from bilateral_ops.cli import _parser
from bilateral_ops.frameworks import _dlpack

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/web/README.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if page.exists() and "_build" not in page.parts
]
#: What modules of ours need that the standard library and NumPy are not.
NEEDS = {
    "bilateral_ops.compat.fused_bilagrid": "torch",
    "bilateral_ops.compat.gsplat": "torch",
    "bilateral_ops.compat.lib_bilagrid": "torch",
    "bilateral_ops.export.glsl": "onnx",
    "bilateral_ops.export.onnx": "onnx",
    "bilateral_ops.frameworks.torch": "torch",
}


class Block(NamedTuple):
    """A fenced block: where it starts, its language, its text, and why it is not run."""

    name: str
    language: str
    text: str
    not_run: str = ""


def blocks(text: str, page: str) -> list[Block]:
    """The blocks of a page, named by the headings that they stand under; a notebook's cells are one."""
    found: list[Block] = []
    heading = ""
    pattern = r"^#+ ([^\n]*)$|(?:^<!-- ([^\n]*) -->\n)?^(`{3,}|:{3,}) ?([^\n]*)\n(?:(.*?)^)?\3$"
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        if match[3] is None:
            heading = match[1]
            continue
        comment, fence, info, inside = match[2] or "", match[3], match[4], match[5] or ""
        if fence[0] == ":":
            continue
        language = "cell" if info.startswith("{code-cell}") else info
        if language == "cell" and found and found[-1].language == "cell":
            found[-1] = found[-1]._replace(text=found[-1].text + "\n" + inside)
        else:
            if comment == "continues the block above":
                inside = found[-1].text + inside
            reason = comment.removeprefix("not run: ") if comment.startswith("not run: ") else ""
            name = page if language == "cell" else f"{page}: {heading}"
            count = sum(block.name.partition(" #")[0] == name for block in found)
            found.append(Block(f"{name} #{count + 1}" if count else name, language, inside, reason))
    return found


BLOCKS = [
    block
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix())
    if not block.language.startswith("{")
]
PYTHON = [block for block in BLOCKS if block.language in ("python", "cell")]
SCRIPTS = [block for block in BLOCKS if block.language == "sh"]


def others(example: str) -> set[str]:
    """What an example imports besides the standard library, NumPy and this package."""
    imported = set()
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and node.attr == "fit":
            imported.add("scipy")
    imported |= {NEEDS[name] for name in imported & NEEDS.keys()}
    return {name.partition(".")[0] for name in imported} - {"numpy", "bilateral_ops", *sys.stdlib_module_names}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that commands name, for what they write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    model = Path(bilateral_ops.__file__).parent / "hdrnet" / "model.safetensors"
    shutil.copyfile(model, tmp_path / "mine.safetensors")
    (tmp_path / "examples" / "web").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.not_run:
        pytest.skip(block.not_run)
    needed = others(block.text)
    if "cupy" in needed:  # a stand-in, so that the block runs without a device
        monkeypatch.setitem(sys.modules, "cupy", FAKE_CUPY)
        monkeypatch.setattr(_dlpack, "_kernels", FakeKernels())
    for name in sorted(needed - {"cupy"}):
        pytest.importorskip(name, reason=f"the example needs {name}")
    if "checkpoint.pth" in block.text:
        from test_ports import write_checkpoint

        write_checkpoint(place / "checkpoint.pth")
    exec(compile(block.text, block.name, "exec"), {"__name__": "__main__"})
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def test_types(place: Path, request: pytest.FixtureRequest) -> None:
    """``mypy --strict`` has nothing to say of them."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    if not (find_spec("torch") and find_spec("jax")):
        pytest.skip("PyTorch or JAX is not installed")
    files = {f"example_{number}.py": block for number, block in enumerate(PYTHON) if not block.not_run}
    for name, block in files.items():
        (place / name).write_text(block.text, encoding="utf-8")
    options = ["--strict", "--ignore-missing-imports", "--untyped-calls-exclude=skimage"]
    options += ["--untyped-calls-exclude=torch"]
    options += ["--follow-imports=silent", "--no-error-summary", "--hide-error-context", "--no-pretty"]
    if cache := getattr(request.config, "cache", None):
        options += ["--cache-dir", str(cache.mkdir("mypy"))]
    command = [sys.executable, "-m", "mypy", "--config-file=", *options, *files]
    package = Path(bilateral_ops.__file__).parents[1]
    installed = package in {Path(path) for path in sysconfig.get_paths().values()}
    env = {**os.environ, "MYPYPATH": "" if installed else str(package)}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    said = re.sub(r"example_\d+\.py", lambda name: files[name[0]].name, finished.stdout)
    assert finished.returncode == 0, said + finished.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")
@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.name)
def test_commands(block: Block, place: Path) -> None:
    if block.not_run:
        pytest.skip(block.not_run)
    if find_spec("PIL"):
        from PIL import Image

        (place / "holiday").mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(place / "holiday" / "beach.jpg")
    folder = place / "programs"
    folder.mkdir()
    package = Path(bilateral_ops.__file__).parents[1]
    programs.install(folder, package)
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(package)}
    script = ["sh", "-e", "-c", block.text.replace(" && ", "\n")]  # sh goes on after the first of two that fails
    finished = subprocess.run(script, capture_output=True, text=True, check=False, env=env)
    if finished.returncode == programs.ABSENT:
        pytest.skip("what the commands install is not installed here")
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_code_is_left_out(page: Path) -> None:
    """Blocks say what they are; what is not Python, sh or text says why it is not run."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(text, page.name):
        known = block.language in ("python", "cell", "sh", "text") or block.language.startswith("{")
        assert known or block.not_run, f"{block.name}: ```{block.language}"
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"\n\n {4}\S", outside), "an indented block: fence it, with its language"


def spans() -> list[tuple[str, str]]:
    """The commands within sentences and tables, and those of blocks that are not run."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        found += [(name, command) for command in re.findall(r"`((?:nox|bilateral-ops|pip|python) [^`\n]*)`", text)]
        for block in blocks(text, name):
            if block.not_run and block.language == "sh":
                lines = block.text.replace("\\\n", " ").splitlines()
                found += [(name, line) for line in lines if line.startswith(("nox", "bilateral-ops", "pip", "python"))]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), spans())
def test_commands_that_are_named_are_there(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if program == "nox":
        assert programs.nox(*arguments) in (0, programs.ABSENT)
    elif program == "pip":
        assert programs.pip(*arguments) in (0, programs.ABSENT)
    elif program == "python":
        script = arguments[0]
        assert script.startswith("-") or (ROOT / script).exists()
    else:
        with pytest.raises(SystemExit) as asked:
            _parser().parse_args([arguments[0], "--help"])
        assert asked.value.code == 0
        known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
        assert {option for option in arguments if option.startswith("--")} <= known


def test_blocks_are_found() -> None:
    text = "# One\n```python\n1\n```\n<!-- not run: a phone -->\n```kotlin\nno\n```\n## Two\n"
    text += "```python\nimport a.b, os\nfrom c import d\n```\n```python\n2\n```\n"
    text += "<!-- continues the block above -->\n```python\n3\n```\n"
    text += ":::{card}\nno\n:::\n```{code-cell} python\n4\n```\ntext\n```{code-cell} python\n5\n```\n"
    found = blocks(text, "p")
    assert found == [
        Block("p: One", "python", "1\n"),
        Block("p: One #2", "kotlin", "no\n", "a phone"),
        Block("p: Two", "python", "import a.b, os\nfrom c import d\n"),
        Block("p: Two #2", "python", "2\n"),
        Block("p: Two #3", "python", "2\n3\n"),
        Block("p", "cell", "4\n\n5\n"),
    ]
    assert [others(block.text) for block in found if block.language == "python"] == [set(), {"a", "c"}, set(), set()]
    assert others("from bilateral_ops.export import glsl\nbilateral_ops.fit(1)\n") == {"onnx", "scipy"}


def test_programs_refuse_what_is_not_there() -> None:
    assert programs.pip("install", ".[nothing]") == 1
    assert programs.pip("install", ".") == 0
    if not programs.NOXFILE.exists():
        pytest.skip("needs noxfile.py")
    assert programs.nox("-s", "nothing") == 1
    assert programs.nox("-s", "tests", "bench-cuda", "--", "-k", "slice") == 0


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "bilateral_ops.compat.lib_bilagrid", "onnxruntime"])
def test_there_is_an_example_of(name: str) -> None:
    assert any(re.search(rf"^(import|from) {name}\b", block.text, re.MULTILINE) for block in PYTHON)
