"""What a gradient check found, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GradcheckRow:
    """What was found for one argument.

    ``error`` is the largest difference from a central difference, as a share of the argument's largest gradient;
    ``dot_error`` the largest of ``|⟨Jv, u⟩ − ⟨v, Jᵀu⟩|`` over the random directions, as a share of
    ``(Σ (v_i·g_i)²)^½``. Either is NaN where nothing could be compared.
    """

    argument: str
    size: int
    checked: int
    kinks: int
    error: float
    dot_error: float
    ok: bool
    verdict: str

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class GradcheckReport:
    """The rows of a gradient check; true where every one agrees, a table when printed."""

    rows: tuple[GradcheckRow, ...]
    rtol: float

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        wrong = [row.argument for row in self.rows if not row.ok]
        end = f"not confirmed: {', '.join(wrong)}" if wrong else f"all gradients agree to {self.rtol:.0e}"
        return _aligned([_HEADER, *(_cells(row) for row in self.rows)]) + "\n" + end

    def __repr__(self) -> str:
        names = ", ".join(f"{row.argument}{'' if row.ok else ' FAILS'}" for row in self.rows)
        return f"<GradcheckReport {'ok' if self else 'not ok'}: {names}>"


_HEADER = ("argument", "size", "checked", "kinks", "worst error", "dot product", "verdict")


def _cells(row: GradcheckRow) -> tuple[str, ...]:
    def number(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.1e}"

    counts = (str(row.size), str(row.checked), str(row.kinks))
    return (row.argument, *counts, number(row.error), number(row.dot_error), row.verdict)


def _aligned(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns under each other: the first ``left`` and the last flush left, the numbers flush right."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]

    def row(line: Sequence[str]) -> str:
        last = len(line) - 1
        cells = [c.ljust(w) if k < left or k == last else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths))]
        return "  ".join(cells).rstrip()

    return "\n".join(row(line) for line in lines)


def table(reports: Mapping[str, GradcheckReport]) -> str:
    """One table of several reports, the operation's name in front of its first argument."""
    lines: list[tuple[str, ...]] = [("operation", *_HEADER)]
    for name, report in reports.items():
        lines += [(name if k == 0 else "", *_cells(row)) for k, row in enumerate(report.rows)]
    return _aligned(lines, left=2)
