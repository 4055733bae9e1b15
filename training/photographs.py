"""Gather the photographs that the shipped model is trained on and tested with, out of packages that anyone can install.

    apt-get install $(python training/photographs.py --packages)        # Debian 12
    pip install scikit-image scikit-learn pillow tqdm
    python training/photographs.py photographs

writes photographs/train/input/*.jpg and photographs/heldout/input/*.jpg (8 bits, sRGB, at most 1500 pixels long) and
photographs/contact-sheet.jpg. photographs.csv beside this file lists them, each with its author and licence, and the
SHA-256 of the file they are made from. No photograph that is held out, nor any other of its package, is trained on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageOps
from tqdm import tqdm

import bilateral_ops

TABLE = Path(__file__).with_suffix(".csv")
PYTHON = {"scikit-image", "scikit-learn"}  # packages of Python; all others are Debian's
SPLITS = {"train": "trained on", "heldout": "held out"}
SAME = 0.9  # the likeness from which on two photographs count as one


def table() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def source(row: dict[str, str], root: Path) -> Path | None:
    """Where the package's file lies: below `root` for Debian's, on the import path for Python's."""
    folders = map(Path, sys.path) if row["package"] in PYTHON else [root]
    return next((folder / row["path"] for folder in folders if (folder / row["path"]).is_file()), None)


def problems(rows: list[dict[str, str]], root: Path) -> list[str]:
    """A sentence for each photograph that is missing, or is not the one that the table lists."""
    found = []
    for row in rows:
        install = "pip install" if row["package"] in PYTHON else "apt-get install"
        path = source(row, root)
        if path is None:
            found.append(f"{row['name']}: {row['path']} is missing; {install} {row['package']}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            found.append(f"{row['name']}: {path} is not the file listed; it is another version of {row['package']}")
    return found


def read(path: Path) -> Image.Image:
    """The file as it is meant to be seen: upright, in sRGB."""
    with Image.open(path) as file:
        profile = file.info.get("icc_profile")
        image = ImageOps.exif_transpose(file).convert("RGB")
    if profile:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), inPlace=True)
    return image


def reduce(image: Image.Image, longest: int) -> Image.Image:
    scale = min(1, longest / max(image.size))
    size = (round(image.height * scale), round(image.width * scale))
    return Image.fromarray(bilateral_ops.resize_area(np.asarray(image), size)) if scale < 1 else image


def likeness(images: dict[str, Image.Image]) -> list[tuple[float, str, str]]:
    """Pairs of names, the most alike first, by the correlation of their grey thumbnails' slopes.

    Another size or a tight crop of a photograph has above 0.99, two photographs of one set of this kind below 0.7.
    """
    grey = np.stack([np.asarray(image.convert("L").resize((16, 16)), float) for image in images.values()])
    slopes = np.concatenate([np.diff(grey, axis=axis).reshape(len(grey), -1) for axis in (1, 2)], axis=1)
    correlation = np.corrcoef(slopes)
    pairs = itertools.combinations(enumerate(images), 2)
    return sorted(((float(correlation[i, j]), a, b) for (i, a), (j, b) in pairs), reverse=True)


def contact_sheet(rows: list[dict[str, str]], images: dict[str, Image.Image], columns: int = 12) -> Image.Image:
    """All photographs in miniature, split by split, each with its name."""
    cell, line = 150, 14
    sheet = Image.new("RGB", (columns * cell, 0))
    for split, title in SPLITS.items():
        names = [row["name"] for row in rows if row["split"] == split]
        block = Image.new("RGB", (sheet.width, 2 * line - (-len(names) // columns) * (cell + line)))
        draw = ImageDraw.Draw(block)
        draw.text((2, line // 2), f"{len(names)} {title}", "yellow")
        for k, name in enumerate(names):
            x, y = k % columns * cell, 2 * line + k // columns * (cell + line)
            block.paste(ImageOps.contain(images[name], (cell - 2, cell - 2)), (x, y))
            draw.text((x + 2, y + cell), name[:24], "white")
        sheet, above = Image.new("RGB", (sheet.width, sheet.height + block.height)), sheet
        sheet.paste(above)
        sheet.paste(block, (0, above.height))
    return sheet


def main() -> int:
    parser = argparse.ArgumentParser(description="Gather the photographs that the shipped model is trained on.")
    parser.add_argument("folder", type=Path, nargs="?", help="where to write; made where missing")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="where Debian's packages are unpacked (default: /)"
    )
    parser.add_argument(
        "--size", type=int, default=1500, help="pixels of the longer side at most (default: %(default)s)"
    )
    parser.add_argument("--packages", action="store_true", help="print the names of Debian's packages and stop")
    options = parser.parse_args()
    rows = table()
    if options.packages:
        print(*sorted({row["package"] for row in rows} - PYTHON))
        return 0
    if options.folder is None:
        parser.error("say which folder to write to")
    if wrong := problems(rows, options.root):
        print("\n".join(wrong), file=sys.stderr)
        return 1

    images = {}
    for row in tqdm(rows, unit="photograph"):
        image = images[row["name"]] = reduce(read(source(row, options.root) or Path()), options.size)
        path = options.folder / row["split"] / "input" / f"{row['name']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95, subsampling=0)
    contact_sheet(rows, images).save(options.folder / "contact-sheet.jpg", quality=90)

    for split, title in SPLITS.items():
        packages = Counter(row["package"] for row in rows if row["split"] == split)
        print(f"{sum(packages.values())} {title}: " + ", ".join(f"{n} of {name}" for name, n in packages.most_common()))
    alike, a, b = likeness(images)[0]
    print(f"most alike: {a} and {b}, {alike:.2f}; from {SAME} on it would be one photograph twice")
    return 0 if alike < SAME else 1


if __name__ == "__main__":
    sys.exit(main())
