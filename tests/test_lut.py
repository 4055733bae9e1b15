"""Is ``slice`` at a pixel's colour the lookup of a 3-D table, as the example in ``examples/lut.py`` has it?"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def lut() -> Any:
    file = Path(__file__).parent.parent / "examples" / "lut.py"
    spec = importlib.util.spec_from_file_location("lut", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def image() -> Any:
    return RNG.uniform(-0.1, 1.1, (2, 9, 11, 3)).astype(np.float32)


def test_the_identity_changes_nothing_within_0_and_1(lut: Any, image: Any) -> None:
    for given in (image, image[0]):
        np.testing.assert_allclose(lut.apply(lut.identity(5), given), given.clip(0, 1), atol=1e-6)


def test_a_lookup_and_its_gradients_are_those_of_grid_sample(lut: Any, image: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from bilateral_ops import slice_vjp

    table = RNG.random((4, 5, 6, 3), np.float32)  # green, red, blue
    grad = RNG.standard_normal(image[0].shape).astype(np.float32)
    # grid_sample's volume is (N, C, depth, height, width), and coordinates are (x, y, z): here red, green, blue.
    volume = torch.from_numpy(table.transpose(3, 2, 0, 1).copy())[None].requires_grad_()
    colours = torch.from_numpy(image[0].copy()).requires_grad_()
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    want = torch.nn.functional.grid_sample(volume, 2 * colours[None, None] - 1, **options)[0, :, 0].permute(1, 2, 0)
    want.backward(torch.from_numpy(grad))
    np.testing.assert_allclose(lut.apply(table, image[0]), want.detach(), atol=1e-5)
    found = slice_vjp(table, image[0, ..., 2], grad, xy=image[0, ..., :2], align_corners=True)
    np.testing.assert_allclose(found.grid, volume.grad[0].numpy().transpose(2, 3, 1, 0), atol=1e-4)
    by_colour = np.concatenate([found.xy, found.guide[..., None]], axis=-1)
    np.testing.assert_allclose(by_colour, colours.grad, atol=1e-4)


def test_a_table_is_learnt_from_a_pair(lut: Any) -> None:
    before = RNG.random((120, 160, 3), np.float32)
    edit = lut.identity(5) ** 0.7
    edit = edit[..., [1, 2, 0]]  # so that no two colours can be exchanged
    found = lut.learn(before, lut.apply(edit, before), size=5, steps=150)
    assert np.abs(found - edit).max() < 0.02
    assert np.abs(lut.apply(found, before) - lut.apply(edit, before)).max() < 0.002


def test_cube_files(lut: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.cube"
    lines = ["# a comment", 'TITLE "t"', "LUT_3D_SIZE 2", "DOMAIN_MIN 0 0 0", "DOMAIN_MAX 1 1 1"]
    colours = [(r, g / 2, b / 4) for b in range(2) for g in range(2) for r in range(2)]
    file.write_text("\n".join([*lines, *(" ".join(map(str, colour)) for colour in colours)]), encoding="utf-8")
    table = lut.read_cube(file)
    image = RNG.random((3, 4, 3), np.float32)
    np.testing.assert_allclose(lut.apply(table, image), image * np.float32([1, 0.5, 0.25]), atol=1e-6)
    lut.write_cube(table, tmp_path / "b.cube")
    np.testing.assert_array_equal(lut.read_cube(tmp_path / "b.cube"), table)
    for text, sentence in (("LUT_1D_SIZE 2\n0 0 0", "three dimensions"), ("LUT_3D_SIZE 2\n0 0 0", "must have 8 lines")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=sentence):
            lut.read_cube(file)


def test_the_commands(lut: Any, tmp_path: Path) -> None:
    pictures = pytest.importorskip("PIL.Image", reason="needs bilateral_ops[enhance]")
    before = RNG.integers(0, 256, (40, 50, 3), np.uint8)
    names = [str(tmp_path / name) for name in ("before.png", "after.png", "edit.cube", "out.png")]
    for name, picture in zip(names, (before, 255 - before)):
        pictures.fromarray(picture).save(name)
    lut.main(["learn", *names[:3]])
    lut.main(["apply", names[2], names[0], names[3]])
    assert np.abs(np.asarray(pictures.open(names[3])).astype(int) - (255 - before)).mean() < 4
