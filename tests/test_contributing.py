"""Are the lists "To add …" in CONTRIBUTING.md complete, and no longer than they must be?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from added_operation import ADDITIONS, NAME, text_of

ROOT = Path(__file__).parent.parent
TEXT = ROOT / "CONTRIBUTING.md"
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="needs the sources")

#: Something that is there already; what of it a file must have to count; where all such files must be listed.
SUBJECTS = {
    "an operation": ("total_variation", "total_variation", ("csrc", "src/bilateral_ops", "CMakeLists.txt")),
    "a dtype": ("bf16", r"bf16|bfloat16|BF16", ("csrc", "src/bilateral_ops/_core", "src/bilateral_ops/frameworks")),
    "an instruction set": ("avx2", r"avx2|AVX2", ("csrc", "tests/cpp", "CMakeLists.txt")),
    "a framework": ("_cupy", "cupy", ("src/bilateral_ops/_core/dispatch.py", "tests/backends.py")),
}
#: Files that use an operation, or a library, as users do.
USERS = ("bench/", "cli/", "compat/", "_fit.py", "missing.py")


def listed(subject: str, name: str) -> list[str]:
    """The files that the list of a subject names, with the name in them."""
    text = TEXT.read_text(encoding="utf-8")
    (entry,) = re.findall(rf"^- \*\*{subject}\*\*.*?(?=^- |^#|\Z)", text, flags=re.M | re.S)
    assert entry
    paths = re.findall(r"`((?:csrc|src|tests)/[\w./]+\.\w+|CMakeLists\.txt)`", entry)
    return [re.sub(r"_?NAME", lambda m: name if m[0] == "NAME" else "_" + name.lstrip("_"), path) for path in paths]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_list_is_the_files_that_name_one(subject: str) -> None:
    name, pattern, where = SUBJECTS[subject]
    files = listed(subject, name)
    for file in files:
        assert (ROOT / file).exists(), file
        if not file.startswith("tests/") and file != "src/bilateral_ops/frameworks/_numpy.py":
            assert re.search(pattern, (ROOT / file).read_text(encoding="utf-8")), f"{file} says nothing of {name}"
    for place in where:
        start = ROOT / place
        for path in [start] if start.is_file() else start.rglob("*"):
            file = path.relative_to(ROOT).as_posix()
            if path.suffix not in (".h", ".cpp", ".inl", ".cu", ".cuh", ".py", ".txt") or any(u in file for u in USERS):
                continue
            found = re.search(pattern, path.read_text(encoding="utf-8"))
            assert not found or file in files, f"{file} names {name} and is not in the list"


def test_an_operation_is_added_in_few_files() -> None:
    text = TEXT.read_text(encoding="utf-8")
    (said,) = re.findall(r"\*\*an operation\*\*, in (\d+) files", text)
    files = [file for file in listed("an operation", "total_variation") if not file.startswith("tests/")]
    assert len(files) == int(said) <= 14


def test_an_operation_is_added_in_these_files() -> None:
    """`nox -s added` sees that nothing else is needed."""
    example = "tests/added_operation.py"
    assert {addition.file for addition in ADDITIONS} == set(listed("an operation", NAME)) - {example}


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.file)
def test_an_operation_can_be_added(addition: Any) -> None:
    text_of(addition)
    if not addition.before:
        assert not (ROOT / addition.file).exists()
