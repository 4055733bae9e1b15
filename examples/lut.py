"""A 3-D lookup table: learnt from a photograph and its edit, read from a ``.cube`` file, and applied.

    python examples/lut.py learn before.png after.png edit.cube
    python examples/lut.py apply edit.cube photograph.png out.png

A table is a bilateral grid whose pixels have coordinates of their own: ``slice`` interpolates ``lut[g, r, b]`` at a
pixel's colour, red and green being ``xy``, blue the guide, and the first and last cells lying at 0 and 1
(``align_corners``). So there are its gradients, on every device and in every framework that ``slice`` takes; and
``bilateral_ops.export.onnx.slice`` makes a model of it. Needs the extra ``enhance`` for its command line.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import bilateral_ops


def apply(lut: Any, image: Any) -> Any:
    """Look an image ([N,] H, W, 3) of floats in [0, 1] up in a table (G, R, B, 3); colours beyond are clamped."""
    if image.ndim == 4:  # a batch has a batch of tables: here one for all
        index = np.zeros(len(image), np.int32)
        return bilateral_ops.slice(lut[None], image[..., 2], xy=image[..., :2], index=index, align_corners=True)
    return bilateral_ops.slice(lut, image[..., 2], xy=image[..., :2], align_corners=True)


def identity(size: int) -> Any:
    """The table that changes nothing."""
    r, g, b = np.meshgrid(*[np.linspace(0, 1, size, dtype=np.float32)] * 3, indexing="ij")
    return np.stack([r, g, b], axis=-1).swapaxes(0, 1).copy()


def learn(before: Any, after: Any, *, size: int = 17, steps: int = 50) -> Any:
    """The table (size, size, size, 3) that makes one image (H, W, 3) the other, as nearly as it can.

    Least squares by simultaneous iterations (SIRT): each cell moves by the mean of what is missing at the pixels that
    see it, weighted as they see it. Cells that no pixel sees stay those of the identity.
    """
    lut = identity(size)
    sampling: dict[str, Any] = {"xy": before[..., :2], "align_corners": True, "wrt": "grid"}
    seen = bilateral_ops.slice_vjp(lut, before[..., 2], np.ones_like(after), **sampling).grid
    share = 1 / np.maximum(seen, 1e-3)
    for _ in range(steps):
        missing = after - apply(lut, before)
        lut += share * bilateral_ops.slice_vjp(lut, before[..., 2], missing, **sampling).grid
    return lut


def read_cube(file: str | Path) -> Any:
    """A table of a ``.cube`` file of three dimensions over [0, 1], float32 (G, R, B, 3)."""
    size, rows = 0, []
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] == "TITLE":
            continue
        if words[0] == "LUT_3D_SIZE":
            size = int(words[1])
        elif words[0] in ("DOMAIN_MIN", "DOMAIN_MAX"):
            if set(map(float, words[1:])) != {float(words[0] == "DOMAIN_MAX")}:
                raise ValueError(f"{file}: the domain must be 0 to 1, got {line}.")
        elif words[0][0].isalpha():
            raise ValueError(f"{file}: the table must be of three dimensions, got {words[0]}.")
        else:
            rows.append([float(word) for word in words])
    if size < 2 or np.shape(rows) != (size**3, 3):
        raise ValueError(f"{file}: a table of {size}³ colours must have {size**3} lines, got {len(rows)}.")
    # Red changes fastest from line to line, blue slowest.
    return np.array(rows, np.float32).reshape(size, size, size, 3).transpose(1, 2, 0, 3).copy()


def write_cube(lut: Any, file: str | Path) -> None:
    lines = (" ".join(f"{value:.7g}" for value in colour) for colour in lut.transpose(2, 0, 1, 3).reshape(-1, 3))
    Path(file).write_text(f"LUT_3D_SIZE {len(lut)}\n" + "\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("learn", "apply"))
    parser.add_argument("files", nargs=3)
    options = parser.parse_args(arguments)

    def read(file: str) -> Any:
        return np.asarray(Image.open(file).convert("RGB"), np.float32) / 255

    first, second, out = options.files
    if options.task == "learn":
        write_cube(learn(read(first), read(second)), out)
    else:
        result = apply(read_cube(first), read(second))
        Image.fromarray(np.rint(result.clip(0, 1) * 255).astype(np.uint8)).save(out)


if __name__ == "__main__":
    main()
