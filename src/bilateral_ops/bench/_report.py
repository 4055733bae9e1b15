"""What a comparison of times found: its table, JSON and plot."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .._core.missing import needed
from .._core.whole import written


@dataclass(frozen=True)
class Row:
    """What was measured of one function.

    ``direction`` is ``"forward"`` or ``"gradient"``. ``seconds`` is the median of the rounds' times of a call, ``low``
    and ``high`` are their quartiles. ``bound`` and ``first`` are medians of the rounds' ratios: times as long as the
    streaming bound, and as the first function. ``difference`` is the largest difference from the first function's
    results, as a share of their largest; ``differing`` is the share of elements that differ by more than rounding
    (:func:`compare` says what that is), of the array with most of them.
    """

    function: str
    direction: str
    seconds: float
    low: float
    high: float
    gigabytes_per_second: float
    bound: float
    first: float
    difference: float
    differing: float
    rounds: int


@dataclass(frozen=True)
class Report:
    """The rows of a comparison, and on what they were measured; a table when printed."""

    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    #: What was left out, and why.
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max([8, *(len(_called(row)) for row in self.rows)])
        head = ("ms", "quartiles", "GB/s", "× bound", "× first", "difference")
        lines = [
            f"{'function':<{width}} {head[0]:>9} {head[1]:>19} {head[2]:>7} {head[3]:>8} {head[4]:>8} {head[5]:>10}"
        ]
        for row in self.rows:
            spread = f"{_ms(row.low)} – {_ms(row.high)}"
            lines.append(
                f"{_called(row):<{width}} {_ms(row.seconds):>9} {spread:>19} {row.gigabytes_per_second:7.1f} "
                f"{row.bound:8.2f} {row.first:8.2f} {row.difference:10.1e}"
            )
        firsts = {row.direction: row.function for row in reversed(self.rows)}
        lines += [
            f"{_called(row)}: {100 * row.differing:.3g} % of an array's elements differ from those of "
            f"{firsts[row.direction]}."
            for row in self.rows
            if row.differing
        ]
        return "\n".join([*lines, *self.notes])

    def to_json(self) -> str:
        """Facts, rows and notes as JSON, times in seconds."""

        def written(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        rows = [{key: written(value) for key, value in asdict(row).items()} for row in self.rows]
        return json.dumps({**self.facts, "rows": rows, "notes": self.notes}, indent=1) + "\n"

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` into a file, which is there whole or not at all."""
        with written(file) as part:
            part.write_text(self.to_json(), encoding="utf-8")

    def plot(self, file: str | os.PathLike[str]) -> None:
        """Draw medians and quartiles, the streaming bound as a line, into a file of any format of Matplotlib's.

        Needs Matplotlib: ``pip install '.[bench]'``.
        """
        figure, kind = _figure(file)
        directions = list(dict.fromkeys(row.direction for row in self.rows))
        widest = max(len(row.function) for row in self.rows)
        figure.set_size_inches(6 + 0.08 * widest, 1.2 * len(directions) + 0.35 * len(self.rows))
        for place, direction in enumerate(directions):
            rows = [row for row in self.rows if row.direction == direction]
            axes = figure.add_subplot(len(directions), 1, place + 1)
            times = [row.seconds * 1e3 for row in rows]
            spread = [[(row.seconds - row.low) * 1e3 for row in rows], [(row.high - row.seconds) * 1e3 for row in rows]]
            names = [row.function.replace("$", r"\$") for row in rows]  # no formulas
            axes.errorbar(times, names, xerr=spread, fmt="o", color="#4878a8", ecolor="black", capsize=3)
            bound = rows[0].seconds * 1e3 / rows[0].bound
            axes.axvline(bound, color="black", linestyle="--", label="streaming bound")
            axes.margins(y=0.5 / len(rows))
            if max(*times, bound) > 20 * min(*times, bound):
                axes.set_xscale("log")
            else:
                axes.set_xlim(left=0)
            for row, name, here in zip(rows, names, times):
                axes.annotate(
                    _ms(row.seconds),
                    (here, name),
                    (0, 5),
                    textcoords="offset points",
                    ha="center",
                    fontsize="small",
                )
            axes.grid(axis="x", color="0.9")
            axes.invert_yaxis()
            axes.set_xlabel("milliseconds")
            axes.set_title(direction)
            axes.legend(fontsize="small")
        said = [str(self.facts[key]) for key in ("like", "size", "arrays", "device") if key in self.facts]
        figure.suptitle(", ".join([*said, f"{self.facts['threads']} threads"]), fontsize="small")
        with written(file) as part:
            figure.savefig(part, format=kind)


def check_plot(file: str | os.PathLike[str]) -> None:
    """``Report.plot``'s errors of this file's name, before there is a report."""
    _figure(file)


def _figure(file: str | os.PathLike[str]) -> tuple[Any, str]:
    """A figure to draw in, and the format that the file's name says."""
    with needed("bench.Report.plot", "matplotlib", "bench"):
        from matplotlib.figure import Figure

    figure: Any = Figure(layout="constrained")
    kind, kinds = os.path.splitext(file)[1][1:].lower() or "png", figure.canvas.get_supported_filetypes()
    if kind not in kinds:
        raise ValueError(f"bench.Report.plot: file must end in one of .{', .'.join(kinds)}, got {os.fspath(file)!r}.")
    return figure, kind


def _called(row: Row) -> str:
    return row.function if row.direction == "forward" else f"{row.function}, {row.direction}"


def _ms(seconds: float) -> str:
    """Milliseconds, four digits of them."""
    return np.format_float_positional(seconds * 1e3, precision=4, unique=False, fractional=False, trim="-")
