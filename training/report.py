"""Write what was measured, and what was trained on, into docs/model.md and docs/how-it-works.md.

python training/report.py            # from photographs.csv, docs/model/results.json and docs/model/ablations.json
python training/report.py --check    # write nothing; exit code 1 where a text is not what it would write
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from photographs import SPLITS, table

DOCS = Path(__file__).parent.parent / "docs"
RESULTS, ABLATIONS = DOCS / "model" / "results.json", DOCS / "model" / "ablations.json"


def results() -> str:
    found = json.loads(RESULTS.read_text())
    lines = ["| photograph | PSNR before | after | SSIM before | after |", "|---|---:|---:|---:|---:|"]
    for name, each in found["photographs"].items():
        lines.append("| {} | {:.1f} | {:.1f} | {:.3f} | {:.3f} |".format(name, *figures(each)))
    lines.append("| **mean** | **{:.2f}** | **{:.2f}** | **{:.3f}** | **{:.3f}** |".format(*figures(found["mean"])))
    before, after = figures(found["mean"])[:2]
    return f"**{after:.1f} dB on average, {after - before:.1f} dB better than the photograph.**\n\n" + "\n".join(lines)


def figures(found: dict[str, Any]) -> list[float]:
    return [found[stage][of] for of in ("psnr", "ssim") for stage in ("before", "after")]


def photographs() -> str:
    parts = []
    for split, title in SPLITS.items():
        rows = [row for row in table() if row["split"] == split]
        sources: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            sources.setdefault((row["package"], row["license"], row["author"]), []).append(row["name"])
        lines = [f"### {len(rows)} {title}", "", "| package | licence | author | photographs |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(source)} | {', '.join(names)} |" for source, names in sources.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def ablations() -> str:
    lines = ["| edit | | PSNR | SSIM | lost |", "|---|---|---:|---:|---:|"]
    for edit, networks in json.loads(ABLATIONS.read_text()).items():
        afters = {name: found["mean"]["after"] for name, found in networks.items()}
        whole, *_ = afters.values()
        for name, after in afters.items():
            lost = "" if after is whole else f"{whole['psnr'] - after['psnr']:.2f} dB"
            lines.append(f"| {edit} | {name} | {after['psnr']:.2f} dB | {after['ssim']:.3f} | {lost} |")
    return "\n".join([*lines, "", "![Where each part is missed most](model/ablations.jpg)"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Write results and photographs into the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a text differs")
    check = parser.parse_args().check
    stale = []
    for page, sections in (("model.md", (results, photographs)), ("how-it-works.md", (ablations,))):
        file = DOCS / page
        text = file.read_text(encoding="utf-8")
        for section in sections:
            begin, end = (f"<!-- {section.__name__}: {mark} -->" for mark in ("begin", "end"))
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}\n{section()}\n{end}{rest.partition(end)[2]}"
        if text != file.read_text(encoding="utf-8"):
            stale.append(page)
            if not check:
                file.write_text(text, encoding="utf-8")
    print(f"{'differ' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
