"""Do imports inside the package point downwards only, without circles?"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import bilateral_ops

PACKAGE = Path(bilateral_ops.__file__).parent
#: What each room may use; a room that is not named here may use all.
BELOW = {
    "_core": {"_core", "_cpu", "_cuda", "frameworks"},
    "frameworks": {"_core", "_cpu", "_cuda", "frameworks", "ops", "reference"},
    "ops": {"_core", "frameworks", "ops"},
    "reference": {"_core", "ops", "reference"},
    "bench": {"", "_core", "_cpu", "_gradcheck", "_samples", "bench", "ops", "reference"},
    "compat": {"_core", "compat", "frameworks", "ops"},
    "export": {"_core", "_cpu", "export", "frameworks", "hdrnet", "ops"},
    "hdrnet": {"", "_core", "compat", "frameworks", "hdrnet", "ops", "photo"},
    "photo": {"", "_core", "hdrnet", "ops", "photo"},
}


def modules() -> dict[str, Path]:
    """Every module of the package, by its name without the package's."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()
COMPILED = {"_cpu", "_cuda"}


def imported(name: str, late: bool) -> Iterator[str]:
    """Modules of the package that a module imports: when it is loaded, or also (``late``) from inside functions."""
    file = MODULES[name]
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]

    def visit(node: ast.AST) -> Iterator[ast.ImportFrom]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ImportFrom) and child.level:
                yield child
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            elif late or not isinstance(child, (ast.FunctionDef, ast.Lambda)):
                yield from visit(child)

    for node in visit(ast.parse(file.read_text(encoding="utf-8"))):
        base = package[: len(package) - node.level + 1]
        source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{source}.{alias.name}".lstrip(".")
            yield inner if inner in MODULES or inner in COMPILED else source


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_room_uses_only_what_is_below_it(name: str) -> None:
    room = name.partition(".")[0]
    if room in BELOW:
        assert {found.partition(".")[0] for found in imported(name, late=True)} <= BELOW[room]


def test_there_are_no_circles() -> None:
    """Of what is imported when a module is loaded. The package itself, which has all public names, is left out."""
    below = {name: {m for m in imported(name, late=False) if m and m not in COMPILED} for name in MODULES}
    for name, found in below.items():
        found.discard(name)
    graphlib.TopologicalSorter(below).prepare()  # CycleError says which


def test_the_search_finds_imports() -> None:
    assert "_core.dispatch" in set(imported("_core.call", late=False))
    assert "_cpu" in set(imported("frameworks._numpy", late=False))
    assert "cli.demo" in set(imported("cli", late=True)) - set(imported("cli", late=False))
