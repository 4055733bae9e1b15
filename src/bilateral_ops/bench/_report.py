"""What a comparison of times found: its table, JSON and plot."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._core.missing import needed


@dataclass(frozen=True)
class Row:
    """What was measured of one function.

    ``direction`` is ``"forward"`` or ``"gradient"``. ``seconds`` is the median of the rounds' times of a call, ``low``
    and ``high`` are their quartiles. ``bound`` and ``first`` are medians of the rounds' ratios: times as long as the
    streaming bound, and as the first function. ``difference`` is the largest difference from the first function's
    results, as a share of their largest.
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
    rounds: int


@dataclass(frozen=True)
class Report:
    """The rows of a comparison, and on what they were measured; a table when printed."""

    rows: tuple[Row, ...]
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        width = max([8, *(len(_called(row)) for row in self.rows)])
        head = ("ms", "quartiles", "GB/s", "× bound", "× first", "difference")
        lines = [
            f"{'function':<{width}} {head[0]:>9} {head[1]:>19} {head[2]:>7} {head[3]:>8} {head[4]:>8} {head[5]:>10}"
        ]
        for row in self.rows:
            spread = f"{row.low * 1e3:.3f} – {row.high * 1e3:.3f}"
            lines.append(
                f"{_called(row):<{width}} {row.seconds * 1e3:9.3f} {spread:>19} {row.gigabytes_per_second:7.1f} "
                f"{row.bound:8.2f} {row.first:8.2f} {row.difference:10.1e}"
            )
        return "\n".join(lines)

    def to_json(self) -> str:
        """Facts and rows as JSON, times in seconds."""

        def written(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        rows = [{key: written(value) for key, value in asdict(row).items()} for row in self.rows]
        return json.dumps({**self.facts, "rows": rows}, indent=1) + "\n"

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` into a file."""
        Path(file).write_text(self.to_json(), encoding="utf-8")

    def plot(self, file: str | os.PathLike[str]) -> None:
        """Draw medians and quartiles as bars, the streaming bound as a line, into a file of any format of Matplotlib's.

        Needs Matplotlib: ``pip install '.[bench]'``.
        """
        with needed("bench.Report.plot", "matplotlib", "bench"):
            from matplotlib.figure import Figure

        directions = list(dict.fromkeys(row.direction for row in self.rows))
        figure = Figure(figsize=(7, 1 + 0.4 * len(self.rows)), layout="constrained")
        for place, direction in enumerate(directions):
            rows = [row for row in self.rows if row.direction == direction]
            axes = figure.add_subplot(len(directions), 1, place + 1)
            times = [row.seconds * 1e3 for row in rows]
            spread = [[(row.seconds - row.low) * 1e3 for row in rows], [(row.high - row.seconds) * 1e3 for row in rows]]
            axes.barh([row.function for row in rows], times, xerr=spread, height=0.6, color="#4878a8", capsize=3)
            axes.axvline(rows[0].seconds * 1e3 / rows[0].bound, color="black", linestyle="--", label="streaming bound")
            if max(times) > 20 * min(times):
                axes.set_xscale("log")
            axes.invert_yaxis()
            axes.set_xlabel("milliseconds")
            axes.set_title(direction)
            axes.legend(fontsize="small")
        figure.savefig(file)


def _called(row: Row) -> str:
    return row.function if row.direction == "forward" else f"{row.function}, {row.direction}"


def difference(found: list[Any], first: list[Any]) -> float:
    """The largest difference between results, as a share of the first one's largest; NaN where one of them has it."""
    worst = 0.0
    for a, b in zip(found, first):
        if not a.size or (a == b).all():
            continue
        off, largest = float(abs(a - b).max()), float(abs(b).max())
        share = off / largest if largest else math.inf
        worst = worst if share <= worst or math.isnan(worst) else share
    return worst
