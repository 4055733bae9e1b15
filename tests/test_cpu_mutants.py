"""Are the bugs of `nox -s mutants` still ones that can be planted, and the tests still there that must see them?"""

from __future__ import annotations

import ast
from functools import cache

import pytest
from cpu_mutants import MUTANTS, ROOT, text_of

pytestmark = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="the sources are not here")


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("name", MUTANTS)
def test_it_can_be_planted(name: str) -> None:
    mutant = MUTANTS[name]
    text_of(mutant)
    assert (ROOT / "csrc" / mutant.compiled).exists()
    file, *names = mutant.caught_by.partition("[")[0].split("::")
    assert set(names) <= names_in(file)
