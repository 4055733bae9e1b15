"""The equations of docstrings, typeset.

A docstring shows an equation as an indented block, in plain characters that can be read where ``help`` prints it::

    out[n,y,x,c] = Σ_ijk τ(py−i) τ(px−j) τ(pz−k) grid[n,i,j,k,c],   τ(t) = max(1−|t|, 0)      (slice)

``latex`` writes the same for MathJax. Indices in brackets and single letters after ``_`` are subscripts; ``d_name`` is
the gradient by a name; what follows two spaces in parentheses at a line's end is a remark. An indented block
that is no equation is code where Python parses it, and a table otherwise.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from typing import Any

SYMBOLS = {
    "Σ": r"\sum",
    "Π": r"\prod",
    "τ": r"\tau ",
    "∂": r"\partial ",
    "·": r"\cdot ",
    "×": r"\times ",
    "∩": r"\cap ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "…": r"\dots ",
    "−": "-",
    "≤": r"\le ",
    "≥": r"\ge ",
    "<": r"\lt ",
    ">": r"\gt ",
    "½": r"\tfrac12 ",
    "²": "^2",
    "ᵀ": r"^{\top}",
}
#: Words within equations, and names of functions.
WORDS = ("at", "coordinate", "direction", "else", "every", "likewise", "where")
FUNCTIONS = ("argmin", "clamp", "clip", "lerp", "max", "mean", "minimise", "relu", "sigmoid")
#: A block with one of these is an equation, where all of it can be read as one.
SIGNS = re.compile(r"[Σ·τ²½⟨−]|\w\[[a-z,]+\]")
TOKEN = re.compile(
    r"(?P<gap> {2,})|(?P<space> )|(?P<dots>\.\.\.)|(?P<number>\d+\.?\d*|\.\d+)|(?P<sum>[ΣΠ])(?:_(?P<over>[a-z]+))?"
    r"|(?P<name>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*(?:(?<=_[a-z]),[a-z](?![\w(]))?)"
    rf"|(?P<symbol>[{''.join(SYMBOLS)}])|(?P<sign>[-+=/|()\[\],;:])"
)


def latex(block: str) -> str | None:
    """An equation a line, as LaTeX; None of what is no equation."""
    if not SIGNS.search(block):
        return None
    rows = []
    for line in textwrap.dedent(block).strip("\n").split("\n"):
        body, remark = line.strip(), ""
        if said := re.search(r" {2,}(\([\w∂Σ](?:[^()]|\([^()]*\))*\))$", body):
            body, remark = body[: said.start()], rf"\quad\text{{{said[1]}}}"
        row = _row(re.sub(r" += +", " = ", body, count=1))
        if row is None:
            return None
        left, equals, right = row.partition("=")
        rows.append((f"{left}&={right}" if equals else rf"&\quad {row}") + remark)
    if len(rows) == 1:
        return rows[0].replace("&=", "=").replace(r"&\quad ", "")
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def _row(text: str) -> str | None:
    """A line in LaTeX; None of prose, which is what two words side by side are, and of unknown characters."""
    made, at, word = "", 0, False
    within: list[str] = []  # what closes the open brackets
    while at < len(text):
        token = TOKEN.match(text, at)
        if token is None:
            return None
        kind, value, at = token.lastgroup, token[0], token.end()
        after = text[at : at + 1]
        if kind == "name" and word and value not in WORDS and len(value) > 1:
            return None
        if kind != "space":
            word = kind == "name" and value not in WORDS and value not in FUNCTIONS and len(value) > 1
        if kind == "gap":
            made += r"\qquad "
        elif kind == "space":
            made += r"\ " if made.endswith((";", ",")) and "}" not in within else " "
        elif kind == "dots":
            made += r"\dots "
        elif token["sum"]:
            over = token["over"] or ""
            below = over if len(over) <= 3 else rf"\mathrm{{{over}}}"
            made += SYMBOLS[token["sum"]] + (f"_{{{below}}} " if below else " ")
        elif kind == "name":
            if value in WORDS:
                made += rf"\text{{ {value} }}"
            elif value in FUNCTIONS:
                made += rf"\operatorname{{{value}}}"
            else:
                made += _name(value, called=after == "(")
            if after == "[":  # indices, beside those after a "_"
                made = made[:-1] + ", " if re.search(r"_\{[^{}]*\}$", made) else made + "_{"
                at += 1
                within.append("}")
        elif value == "[":
            made += "["
            within.append("]")
        elif value == "]" and within:
            made += within.pop()
        elif kind == "symbol":
            made += SYMBOLS[value]
        else:
            made += "{:}" if value == ":" else value
    return re.sub(r" \} ?\\text\{ ", " ", made)


def _name(name: str, *, called: bool = False) -> str:
    """A letter in italics, a word upright; p_y of py, G_h of Gh; what follows the last ``_`` is a subscript."""
    if name.startswith("d_"):
        rest = _name(name[2:])
        return r"\mathrm{d}" + (r"\," if rest.startswith("\\") else "") + rest
    base, _, below = name.rpartition("_")
    if not base or not re.fullmatch(r"[a-z0-9](,[a-z])?|[ijk]{2,3}", below):
        base, below = name, ""
    if re.fullmatch(r"G[hwd]|C[io]|p[xyz]|t[xz]", base) and not below:
        return f"{base[0]}_{base[1]}"
    if re.fullmatch(r"[A-Z][a-z]", base):  # a matrix times a vector
        made = f"{base[0]} {base[1]}"
    elif len(base) == 1:
        made = base
    else:
        made = (r"\operatorname{%s}" if called else r"\mathrm{%s}") % base.replace("_", r"\_")
    return f"{made}_{{{below}}}" if below else made


def typeset(lines: list[str]) -> list[str]:
    """A docstring's lines: equations typeset, other indented blocks as code, or as the tables that they are."""
    made: list[str] = []
    # Indented lines belong together across blank ones; others are paragraphs.
    for block in re.findall(
        r"(?:^ {4}.*\n|^\n(?=\n* {4}))+|(?:^ {0,3}\S.*\n)+|^\n", "\n".join(lines) + "\n", flags=re.M
    ):
        indented, literal = block.lstrip("\n").startswith("    "), "".join(made).rstrip().endswith("::")
        equation = latex(block) if not literal and (indented or " = " in block) else None
        if equation:
            made.append(f"\n.. math::\n\n{textwrap.indent(equation, '   ')}\n\n")
        elif indented and not literal:
            code = textwrap.indent(textwrap.dedent(block).strip("\n"), "   ")
            made.append(f"\n.. code-block:: {language(block)}\n\n{code}\n\n")
        else:
            made.append(block if literal else "".join(map(escaped, block.splitlines(keepends=True))))
    return "".join(made).split("\n")


def language(block: str) -> str:
    try:
        ast.parse(textwrap.dedent(block))
    except SyntaxError:
        return "text"
    return "python"


def escaped(line: str) -> str:
    """``*C``, axes, and ``|t|``, a size, where they are no literals."""
    parts = line.split("``")
    parts[::2] = [re.sub(r"(?<![\w*])\*(?=\w+[,)])|\|(?=\w\|)|(?<=\|\w)\|", r"\\\g<0>", part) for part in parts[::2]]
    return "``".join(parts)


#: Sections of a docstring that are prose; in the others indentation means something else.
PROSE = ("", "Notes")


def process(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    titles = [at - 1 for at, line in enumerate(lines) if at and re.fullmatch(r"-{3,}", line.strip())]
    bounds = [0, *titles, len(lines)]
    made: list[str] = []
    for start, end in itertools.pairwise(bounds):
        title = lines[start : start + 2] if start in titles else []
        body = lines[start + len(title) : end]
        made += title
        made += typeset(body) if "".join(title[:1]).strip() in PROSE else map(escaped, body)
    lines[:] = made


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", process, priority=100)  # before numpydoc
    return {"parallel_read_safe": True, "parallel_write_safe": True}
