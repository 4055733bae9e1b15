"""Does what the README and the page on radiance fields show run?"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "radiance-fields.md")


def examples(text: str) -> dict[str, str]:
    """The blocks of Python by the headings that they stand under, numbered where there are several."""
    found: dict[str, str] = {}
    heading = ""
    for block in re.finditer(r"^#+ ([^\n]*)$|^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if block[2] is None:
            heading = block[1]
            continue
        count = sum(name.partition(" #")[0] == heading for name in found)
        found[f"{heading} #{count + 1}" if count else heading] = block[2]
    return found


def others(example: str) -> set[str]:
    """What an example imports besides the standard library, NumPy and this package."""
    imported = set()
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
            if (node.module or "").startswith("bilateral_ops.compat") and node.module != "bilateral_ops.compat.hdrnet":
                imported.add("torch")  # which what is compatible with trainers is made of
    return {name.partition(".")[0] for name in imported} - {"numpy", "bilateral_ops", *sys.stdlib_module_names}


EXAMPLES = {
    f"{page.name}: {name}": example
    for page in PAGES
    for name, example in examples(page.read_text(encoding="utf-8")).items()
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_example(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for what it writes
    for name in sorted(others(example)):
        pytest.importorskip(name, reason=f"the example needs {name}")
    exec(compile(example, "an example", "exec"), {"__name__": "__main__"})


def test_examples_are_found() -> None:
    text = "# One\n```python\n1\n```\n```\nno\n```\n## Two\n```python\nimport a.b, os\nfrom c import d\n```\n"
    text += "```python\n2\n```\n"
    found = examples(text)
    assert found == {"One": "1\n", "Two": "import a.b, os\nfrom c import d\n", "Two #2": "2\n"}
    assert [others(example) for example in found.values()] == [set(), {"a", "c"}, set()]
    assert EXAMPLES


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "bilateral_ops.compat.lib_bilagrid", "onnxruntime"])
def test_there_is_an_example_of(name: str) -> None:
    assert any(re.search(rf"^(import|from) {name}\b", text, re.MULTILINE) for text in EXAMPLES.values())
