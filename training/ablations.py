"""What each part of HDRnet is for: the same training without it, measured and shown where it is missed most.

    python training/ablations.py photographs --steps 6000 --learning-rate 1e-3 --schedule cosine

trains the whole network and networks that lack a part on photographs/train, and writes what they make of
photographs/heldout: docs/model/ablations.json and docs/model/ablations.jpg. Options that are not its own go to
`bilateral-ops train`. Called again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from evaluate import Pair, measure, pairs
from scipy.ndimage import uniform_filter

from bilateral_ops.hdrnet import Predictor

WHOLE = "the whole network"
#: Options of the trainer, by what the network lacks. One depth: matrices enlarged bilinearly, in a network as wide.
LACKING = {
    "no global path": ["--no-global-path"],
    "luma as the guide, not learned": ["--guide", "luma"],
    "one depth, no slicing": ["--luma-bins", "1", "--channel-multiplier", "8"],
}
#: What is learnt without what. CLAHE looks at a part of the photograph at a time, brightness at the whole.
TRAININGS = {"clahe": list(LACKING), "brightness": ["no global path"]}
CROP = 300  # pixels of the pictures' sides


def train(folder: Path, models: Path, edit: str, options: list[str]) -> dict[str, Predictor]:
    predictors = {}
    for name in [WHOLE, *TRAININGS[edit]]:
        print(f"{edit}: {name}", flush=True)
        file = models / f"{edit}, {name}.safetensors"
        command = ["train", str(folder), "--edit", edit, "--out", str(file), "--resume", *options]
        subprocess.run([sys.executable, "-m", "bilateral_ops", *command, *LACKING.get(name, [])], check=True)
        predictors[name] = Predictor.load(file)
    return predictors


def most_missed(
    photographs: list[Pair], whole: Predictor, lacking: Predictor, taken: set[str]
) -> tuple[Pair, int, int]:
    """The photograph, not `taken`, and the corner of the crop whose squared error grows most without the part."""
    half, best, where = CROP // 2, -np.inf, None
    for photograph in photographs:
        name, image, target = photograph
        if name in taken or min(image.shape[:2]) < CROP:
            continue
        errors = [((predictor(image) - target.astype(np.float32)) ** 2).mean(-1) for predictor in (lacking, whole)]
        growth = uniform_filter(errors[0] - errors[1], CROP)[half : 1 - half, half : 1 - half]
        top, left = divmod(int(growth.argmax()), growth.shape[1])
        if growth[top, left] > best:
            best, where = growth[top, left], (photograph, top, left)
    if where is None:
        sys.exit(f"ablations: no photograph has {CROP} × {CROP} pixels")
    return where


def draw(rows: list[tuple[str, list[Pair], Predictor, str, Predictor]]) -> Any:
    """A row for each part that is lacking: the photograph, the edit, the whole network's result, that without."""
    figure, axes = plt.subplots(len(rows), 4, figsize=(14, 3.7 * len(rows)), layout="constrained")
    taken: set[str] = set()
    for cells, (edit, photographs, whole, name, lacking) in zip(axes, rows):
        (photograph, image, target), top, left = most_missed(photographs, whole, lacking, taken)
        taken.add(photograph)
        shown = {"the photograph": image, edit: target, WHOLE: whole(image), name: lacking(image)}
        for cell, (title, pixels) in zip(cells, shown.items()):
            cell.imshow(pixels[top : top + CROP, left : left + CROP])
            cell.set_title(title, loc="left")
            cell.set_axis_off()
    return figure


def main() -> None:
    docs = Path(__file__).parent.parent / "docs" / "model"
    parser = argparse.ArgumentParser(
        description="Train HDRnet without each of its parts, and measure and draw it.", allow_abbrev=False
    )
    parser.add_argument("photographs", type=Path, help="what training/photographs.py wrote")
    parser.add_argument("--models", type=Path, default=Path("ablations"), help="for the models (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=docs, help="for what is found (default: docs/model)")
    options, trainers = parser.parse_known_args()
    for folder in (options.models, options.out):
        folder.mkdir(parents=True, exist_ok=True)

    found: dict[str, Any] = {}
    rows = []
    for edit in TRAININGS:
        predictors = train(options.photographs / "train", options.models, edit, trainers)
        heldout = pairs(options.photographs / "heldout", edit)
        found[edit] = {name: measure(predictor, heldout) for name, predictor in predictors.items()}
        rows += [(edit, heldout, predictors[WHOLE], name, predictors[name]) for name in TRAININGS[edit]]
        for name, each in found[edit].items():
            print(f"{each['mean']['after']['psnr']:6.2f} dB  {edit}: {name}")
    (options.out / "ablations.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(rows).savefig(options.out / "ablations.jpg", dpi=90, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
