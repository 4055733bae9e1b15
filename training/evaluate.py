"""How near a model comes to an edit on photographs that it was not trained on, and how near they were before.

    python training/evaluate.py photographs/heldout --edit clahe --json docs/model/results.json
    python training/evaluate.py photographs/heldout --edit clahe --model FILE     # not the model in the package

PSNR and SSIM of whole photographs against the edit, 8 bits in and out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tqdm import tqdm

from bilateral_ops.hdrnet import Predictor
from bilateral_ops.hdrnet.train.edits import EDITS, edited

Pair = tuple[str, Any, Any]  # name, photograph, photograph as edited; uint8


def pairs(folder: Path, edit: str) -> list[Pair]:
    """The photographs of a folder that training/photographs.py wrote, by name."""
    images = [(file.stem, np.asarray(Image.open(file))) for file in sorted((folder / "input").iterdir())]
    return [(name, image, edited(image, edit)) for name, image in tqdm(images, desc="editing", leave=False)]


def measure(predictor: Predictor, photographs: list[Pair]) -> dict[str, Any]:
    """PSNR and SSIM before and after, of each photograph and on average."""
    found = {}
    for name, image, target in tqdm(photographs, desc="measuring", leave=False):
        found[name] = {"before": compare(image, target), "after": compare(predictor(image), target)}
    mean = {
        stage: {of: float(np.mean([each[stage][of] for each in found.values()])) for of in ("psnr", "ssim")}
        for stage in ("before", "after")
    }
    return {"photographs": found, "mean": mean}


def compare(image: Any, target: Any) -> dict[str, float]:
    return {
        "psnr": float(peak_signal_noise_ratio(target, image)),
        "ssim": float(structural_similarity(target, image, channel_axis=-1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a model on photographs that it was not trained on.")
    parser.add_argument("photographs", type=Path, help="photographs/heldout, as training/photographs.py wrote it")
    parser.add_argument("--edit", choices=EDITS, default="clahe", help="what the model learnt (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a model file (default: the one in the package)")
    parser.add_argument("--json", type=Path, help="write what was measured to this file, too")
    options = parser.parse_args()
    found = measure(Predictor.load(options.model), pairs(options.photographs, options.edit))
    for name, each in [*found["photographs"].items(), ("mean", found["mean"])]:
        figures = [each[stage][of] for of in ("psnr", "ssim") for stage in ("before", "after")]
        print("{:20} PSNR {:5.2f} → {:5.2f} dB   SSIM {:.3f} → {:.3f}".format(name, *figures))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
