"""Are the equations of docstrings typeset, and left alone where they are none?"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
from cases import OPERATIONS

FILE = Path(__file__).parent.parent / "docs" / "_ext" / "equations.py"
if not FILE.exists():
    pytest.skip("needs the documentation", allow_module_level=True)


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("equations", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


equations = loaded()


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("q_i = Σ_j ccm[i,j]·in_j", r"q_{i} = \sum_{j}  \mathrm{ccm}_{i,j}\cdot \mathrm{in}_{j}"),
        ("p = (y+½)·Gh/H − ½,  px likewise", r"p = (y+\tfrac12 )\cdot G_h/H - \tfrac12 ,\qquad p_x \text{ likewise }"),
        ("d_grid[n] = 2·max(t, 0)²", r"\mathrm{d}\,\mathrm{grid}_{n} = 2\cdot \operatorname{max}(t,\ 0)^2"),
        ("m = fac_0[:, r]·curve_i,r", r"m = \mathrm{fac}_{0, {:}, r}\cdot \mathrm{curve}_{i,r}"),
        ("v = Σ_p d_v   (over all pixels)", r"v = \sum_{p}  \mathrm{d}v\quad\text{(over all pixels)}"),
        ("a = b·c\n  + d", "\\begin{aligned}\na &= b\\cdot c \\\\\n&\\quad + d\n\\end{aligned}"),
        ("out = A·x, the grid at every place", None),  # prose
        ("out = slice(grid, guide)", None),  # code
        ("layout   channel·2 {", None),  # a table, and a character that no equation has
    ],
)
def test_latex(plain: str, latex: str | None) -> None:
    assert equations.latex(plain) == latex


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operations_equations_are_typeset(operation: Any) -> None:
    for function in filter(None, (operation.function, operation.vjp)):
        lines = inspect.getdoc(function).split("\n")
        equations.process(None, None, None, None, None, lines)
        shown = ".. code-block:: python" if operation.name == "enhance" else ".. math::"
        assert shown in lines


def test_docstrings_are_what_they_were_elsewhere() -> None:
    lines = ["A |t| of *C, and ``*C`` as it is.", "", "Two words = no equation·s.", "", "::", "", "    a·b = c"]
    made = lines.copy()
    equations.process(None, None, None, None, None, made)
    assert made[0] == r"A \|t\| of \*C, and ``*C`` as it is."
    assert [line for line in made[1:] if line] == [line for line in lines[1:] if line]
