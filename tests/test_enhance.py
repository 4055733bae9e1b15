"""Do files come out of ``bilateral-ops enhance`` as they went in, but for the edit, and whole or not at all?"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from contextlib import closing

import numpy as np
import pytest
from cases import weights_of

from bilateral_ops import guide_luma
from bilateral_ops._core.missing import install
from bilateral_ops.cli import main
from bilateral_ops.hdrnet import Config, Predictor, enhance_files, write_model
from bilateral_ops.photo import formats as _formats
from bilateral_ops.photo import images as _images
from bilateral_ops.photo import job as _files
from bilateral_ops.photo import tiff as _tiff
from bilateral_ops.photo.images import Averages, ImageError, open_picture
from bilateral_ops.photo.metadata import Metadata, turn
from bilateral_ops.photo.video import Smoother

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
pytest.importorskip("tqdm", reason="tqdm is not installed")

SMALL = {"net_input": 32, "spatial_bin": 8, "luma_bins": 4}
LIMIT = 2 * _files.BASE


def model_of(**options):
    """A network of random weights, whose edit is visible and no more."""
    config = Config(**SMALL, **options)
    return config, weights_of(config)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_model(path, *model_of())
    return path


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor.load(model)


@pytest.fixture
def run(model, run):
    """Call the command; exit code, standard output, standard error."""
    return lambda *arguments: run("enhance", *arguments, "--model", model)


def picture(height=40, width=60, channels=3, dtype=np.uint8):
    """Shades, light and dark, that a lossy file keeps nearly."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    shades = np.stack([x, 0.5 * (x + y), (1 - x) * y, 0.2 + 0.6 * x * y], axis=-1)[..., :channels]
    dtype = np.dtype(dtype)
    return shades.astype(dtype) if dtype.kind == "f" else np.rint(shades * np.iinfo(dtype).max).astype(dtype)


def save(path, pixels, **options):
    """Write a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        photometric = "rgb" if pixels.ndim == 3 and pixels.shape[-1] >= 3 else "minisblack"
        tifffile.imwrite(path, pixels, **{"photometric": photometric, "metadata": None, **options})
    elif pixels.dtype == np.uint16:
        path.write_bytes(imagecodecs.png_encode(pixels))
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


def pixels_of(path):
    with closing(open_picture(path)) as opened:
        ((_, pixels),) = opened.bands()
        return pixels


@functools.cache  # it holds the time
def profile():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    return exif


FORMATS = {
    "grey.jpg": (picture(channels=1)[..., 0], {"quality": 95}),
    "colour.jpg": (picture(), {"quality": 95, "subsampling": 0}),
    "grey.png": (picture(channels=1)[..., 0], {}),
    "colour.png": (picture(), {}),
    "alpha.png": (picture(channels=4), {}),
    "grey alpha.png": (picture(channels=2), {}),
    "deep grey.png": (picture(channels=1, dtype=np.uint16)[..., 0], {}),
    "deep.png": (picture(dtype=np.uint16), {}),
    "deep alpha.png": (picture(channels=4, dtype=np.uint16), {}),
    "lossless.webp": (picture(), {"lossless": True}),
    "lossless alpha.webp": (picture(channels=4), {"lossless": True}),
    "lossy.webp": (picture(), {"quality": 95}),
    "plain.tif": (picture(), {}),
    "grey.tif": (picture(channels=1)[..., 0], {}),
    "alpha.tif": (picture(channels=4), {"extrasamples": ["unassalpha"], "compression": "lzw"}),
    "deep.tif": (picture(dtype=np.uint16), {"compression": "zlib", "predictor": True}),
    "half.tif": (picture(dtype=np.float16), {}),
    "single.tif": (picture(dtype=np.float32), {"compression": "zstd", "predictor": True}),
    "double.tif": (picture(dtype=np.float64), {}),
    "tiles.tif": (picture(dtype=np.uint16), {"tile": (16, 32), "compression": "lzw"}),
    "strips.tif": (picture(), {"rowsperstrip": 7, "compression": "packbits"}),
    "big.tif": (picture(), {"bigtiff": True, "tile": (16, 16)}),
    "big-endian.tif": (picture(dtype=np.uint16), {"byteorder": ">"}),
    "planes.tif": (np.ascontiguousarray(picture().transpose(2, 0, 1)), {"planarconfig": "separate"}),
    "jpeg.tif": (picture(), {"compression": "jpeg", "tile": (16, 16), "compressionargs": {"level": 95}}),
}
LOSSY = {"grey.jpg": 3, "colour.jpg": 3, "lossy.webp": 12, "jpeg.tif": 8}


@pytest.mark.parametrize("name", FORMATS)
def test_every_kind_of_file_keeps_its_kind(run, predictor, tmp_path, name):
    stored, options = FORMATS[name]
    if name == "planes.tif":
        tifffile.imwrite(tmp_path / name, stored, photometric="rgb", metadata=None, **options)
    else:
        save(tmp_path / name, stored, **options)
    out = tmp_path / "out" / name
    code, text, err = run(tmp_path / name, "--out", out.parent)
    assert (code, err) == (0, "")
    assert text.startswith("1 file enhanced")
    before, after = pixels_of(tmp_path / name), pixels_of(out)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    if before.shape[-1] >= 3:
        expected = predictor(np.ascontiguousarray(before[..., :3]))
        alpha = slice(3, None)
    else:
        grey = predictor(np.repeat(before[..., :1], 3, axis=-1)).astype(np.float64)
        expected = grey @ [0.299, 0.587, 0.114]
        expected = (np.rint(expected) if before.dtype.kind == "u" else expected)[..., None]
        alpha = slice(1, None)
    difference = np.abs(after[..., : expected.shape[-1]].astype(float) - expected)
    assert difference.mean() <= LOSSY.get(name, 0.1)
    assert difference.mean() < np.abs(before[..., : expected.shape[-1]].astype(float) - expected).mean() / 2
    if name not in LOSSY and expected.shape[-1] == 3:
        assert np.array_equal(after[..., :3], expected)
    assert np.array_equal(after[..., alpha], before[..., alpha])
    if name.endswith(".tif"):
        with tifffile.TiffFile(tmp_path / name) as one, tifffile.TiffFile(out) as other:
            for attribute in ("compression", "is_tiled", "predictor", "bitspersample", "extrasamples"):
                assert getattr(other.pages[0], attribute) == getattr(one.pages[0], attribute), attribute
            assert other.is_bigtiff == one.is_bigtiff
    elif name.endswith(".jpg"):
        with Image.open(tmp_path / name) as one, Image.open(out) as other:
            assert other.quantization == one.quantization
            assert other.mode == one.mode


def test_strength(tmp_path, run):
    path = save(tmp_path / "a.png", picture())
    assert run(path, "--out", tmp_path / "0", "--strength", 0)[0] == 0
    assert np.array_equal(pixels_of(tmp_path / "0" / "a.png"), picture())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_pictures_are_turned_upright(run, predictor, tmp_path, name, orientation):
    options = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    if name == "a.tif":
        options = {"extratags": [(274, 3, 1, orientation, True)]}
    else:
        options["exif"] = exif_of(orientation)
    save(tmp_path / name, picture(), **options)
    assert run(tmp_path / name, "--out", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / name) as file:
        assert file.getexif().get(0x0112, 1) == 1
        if name != "a.tif":
            assert file.getexif()[0x010F] == "Maker"
            assert file.getexif().get_ifd(0x8769)[0x829A] == 0.01
        after = np.asarray(file)
    with Image.open(tmp_path / name) as file:  # Pillow's own idea of upright
        from PIL import ImageOps

        upright = np.asarray(ImageOps.exif_transpose(file))
    if name != "a.tif":  # which Pillow turns when it loads them
        with Image.open(tmp_path / name) as file:
            assert np.array_equal(turn(np.asarray(file), orientation), upright)
    assert np.abs(after.astype(int) - predictor(np.ascontiguousarray(upright))).mean() < 1


def test_xmp_says_upright_too():
    xmp = b'<x tiff:Orientation="6" other="6"><tiff:Orientation>8</tiff:Orientation>'
    found = Metadata(None, xmp)
    assert found.orientation == 6
    assert found.xmp == b'<x tiff:Orientation="1" other="6"><tiff:Orientation>1</tiff:Orientation>'


def test_the_thumbnail_is_cut_off_and_maker_notes_stay():
    body = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<I", 26) + b"rest"
    found = Metadata(b"Exif\0\0" + body)
    assert found.orientation == 6
    assert found.exif == b"Exif\0\0" + body[:18] + b"\x01\0\0\0" + bytes(4) + b"rest"


def test_a_damaged_directory_does_not_hide_how_a_picture_lies():
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 2**31)
    found = Metadata(b"II*\0\x08\0\0\0\x02\0" + entries + bytes(4))
    assert found.orientation == 6


@pytest.mark.parametrize("damaged", [b"", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"nothing of the kind"])
def test_damaged_exif_stays_as_it_is(damaged):
    found = Metadata(damaged)
    assert (found.orientation, found.exif) == (1, damaged)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_profiles_and_descriptions_stay(run, tmp_path, name):
    if name == "a.tif":
        exif = exif_of(1)
        exif[0x8298] = "Somebody"
        exif[0x8769] = dict(exif.get_ifd(0x8769))
        Image.fromarray(picture()).save(tmp_path / name, icc_profile=profile(), exif=exif, dpi=(300, 300))
    else:
        save(tmp_path / name, picture(), icc_profile=profile(), exif=exif_of(1), dpi=(300, 300))
    assert run(tmp_path / name, "--out", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / name) as file:
        assert file.info["icc_profile"] == profile()
        assert file.getexif()[0x010F] == "Maker"
        assert file.getexif().get_ifd(0x8769)[0x829A] == 0.01
        if name == "a.tif":
            assert file.getexif()[0x8298] == "Somebody"
        if name != "a.webp":
            assert file.info["dpi"] == pytest.approx((300, 300), rel=1e-3)


def test_text_and_gamma_of_a_png_stay(run, tmp_path):
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a picture")
    text.add(b"gAMA", struct.pack(">I", 45455))
    save(tmp_path / "a.png", picture(), pnginfo=text)
    assert run(tmp_path / "a.png", "--out", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "a.png") as file:
        assert (file.info["Title"], file.info["gamma"]) == ("a picture", 0.45455)


def test_palettes_become_rgb(run, predictor, tmp_path):
    few = Image.fromarray(picture()).quantize(16)
    few.save(tmp_path / "a.png")
    few.save(tmp_path / "b.png", transparency=3)
    few.save(tmp_path / "c.tif")
    assert run(tmp_path / "*.*", "--out", tmp_path / "out")[0] == 0
    for name in ("a.png", "b.png", "c.tif"):
        with Image.open(tmp_path / "out" / name) as file:
            assert file.mode == ("RGBA" if name == "b.png" else "RGB")
            assert np.array_equal(np.asarray(file)[..., :3], predictor(np.asarray(few.convert("RGB"))))
            if name == "b.png":
                assert np.array_equal(np.asarray(file)[..., 3] == 0, np.asarray(few) == 3)


def test_premultiplied_colours(run, predictor, tmp_path):
    """Colours that were multiplied by alpha are enhanced without it, and come back where nothing is to change."""
    straight = picture(channels=4)
    stored = straight.copy()
    stored[..., :3] = np.rint(straight[..., :3] * (straight[..., 3:] / 255))
    save(tmp_path / "a.tif", stored, extrasamples=["assocalpha"])
    assert run(tmp_path / "a.tif", "--out", tmp_path / "0", "--strength", 0)[0] == 0
    assert np.array_equal(tifffile.imread(tmp_path / "0" / "a.tif"), stored)
    assert run(tmp_path / "a.tif", "--out", tmp_path / "out")[0] == 0
    seen = np.rint(np.minimum(stored[..., :3] * 255.0 / straight[..., 3:], 255)).astype(np.uint8)
    after = tifffile.imread(tmp_path / "out" / "a.tif")
    assert np.array_equal(after[..., 3], straight[..., 3])
    assert np.array_equal(after[..., :3], np.rint(predictor(seen) * (straight[..., 3:] / 255)))


def test_black_and_white(run, tmp_path):
    bits = picture(channels=1)[..., 0] > 99
    Image.fromarray(bits).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", bits, photometric="minisblack", metadata=None)
    tifffile.imwrite(tmp_path / "c.tif", ~bits, photometric="miniswhite", metadata=None)
    assert run(tmp_path, "--out", tmp_path / "out", "--strength", 0)[0] == 0
    for name in ("a.png", "b.tif", "c.tif"):
        assert np.array_equal(pixels_of(tmp_path / "out" / name)[..., 0], bits * np.uint8(255)), name


# --- pieces


TALL = {
    "tiles": {"tile": (32, 48), "compression": "zlib", "predictor": True},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "plain": {},
    "planes": {"planarconfig": "separate", "tile": (16, 32)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 11},
    "grey": {"tile": (32, 48), "compression": "zlib"},
}


@pytest.mark.parametrize("scales", [1, 3])
@pytest.mark.parametrize("kind", TALL)
def test_pieces_equal_the_whole(tmp_path, monkeypatch, kind, scales):
    """Pieces under the same grid are the same to the bit; their averages, added up, differ by rounding."""
    config, weights = model_of(scales=scales, **({"guide": "nn"} if scales == 3 else {}))
    predictor = Predictor(config, weights)
    pixels = picture(467, 150, dtype=np.uint16)
    stored = pixels.transpose(2, 0, 1).copy() if kind == "planes" else pixels
    if kind == "grey":
        stored = pixels = np.ascontiguousarray(pixels[..., 0])
    photometric = "minisblack" if kind == "grey" else "rgb"
    tags = {"resolution": (300, 200), "resolutionunit": 2, "description": "a test", "iccprofile": profile()}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, metadata=None, **tags, **TALL[kind])
    monkeypatch.setattr(_tiff, "TILE", 32)
    monkeypatch.setattr(_images, "BAND", 40_000)
    monkeypatch.setattr(_tiff, "BAND", 40_000)
    monkeypatch.setattr(_files, "BASE", 10**5)
    shown = pixels if kind != "grey" else np.repeat(pixels[..., None], 3, axis=-1)
    whole = predictor.low_resolution(shown)
    seen = []
    monkeypatch.setattr(Predictor, "grid", lambda self, low: (seen.append(low), grid)[1])
    grid = np.random.default_rng(1).normal(0.3, 0.2, config.grid_shape).astype(np.float32)
    monkeypatch.setattr(_tiff.Tiff, "memory", property(lambda self: 10**12))
    limit = 10**5 + 3 * 10**6 * (1 if scales == 1 else 6)
    (result,) = enhance_files([tmp_path / "a.tif"], tmp_path / "out", model=predictor, memory_limit=limit)
    assert result.error is None
    assert np.abs(seen[0] - whole).max() < 1e-6
    expected = predictor.render(grid, shown)
    if kind == "grey":
        expected = np.rint(guide_luma(expected) * 65535).astype(np.uint16)[..., None]
    assert np.array_equal(pixels_of(tmp_path / "out" / "a.tif"), expected)
    with tifffile.TiffFile(tmp_path / "a.tif") as one, tifffile.TiffFile(tmp_path / "out" / "a.tif") as other:
        page, given = other.pages[0], one.pages[0]
        assert page.is_tiled
        assert page.tile == (given.tile if given.is_tiled else (32, 32))
        assert page.compression == given.compression
        assert page.predictor == given.predictor
        assert page.resolution == given.resolution
        assert (page.description, page.iccprofile) == ("a test", profile())


@pytest.mark.parametrize("kind", ["12", "4", "1", "palette"])
def test_bands_of_packed_samples_equal_the_whole(tmp_path, kind):
    rng = np.random.default_rng(0)
    if kind == "palette":
        colours = rng.integers(0, 65536, (3, 256)).astype(np.uint16)
        stored, options = rng.integers(0, 256, (201, 133), np.uint8), {"photometric": "palette", "colormap": colours}
    else:
        bits = int(kind)
        stored = rng.integers(0, 1 << bits, (201, 133)).astype({12: np.uint16, 4: np.uint8, 1: bool}[bits])
        options = {"photometric": "miniswhite", "rowsperstrip": 7, "bitspersample": bits}
    tifffile.imwrite(tmp_path / "a.tif", stored, metadata=None, **options)
    whole = pixels_of(tmp_path / "a.tif")
    with closing(open_picture(tmp_path / "a.tif")) as opened:
        opened._rows = 64
        bands = [(top, band.copy()) for top, band in opened.bands()]
    assert [top for top, _ in bands] == [0, 64, 128, 192]
    assert np.array_equal(np.concatenate([band for _, band in bands]), whole)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (64, 64), (100, 37), (1, 1), (301, 20)])
def test_averages(predictor, height, width):
    pixels = picture(height, width)
    exact = predictor.low_resolution(pixels)
    for step in (1, 3, height):
        averages = Averages(height, width, (32, 32))
        for top in range(0, height, step):
            averages.add(top, pixels[top : top + step])
        assert np.abs(averages.result - exact).max() < 1e-6


def test_averages_leave_out_what_is_no_number(predictor):
    pixels = picture(50, 70, dtype=np.float32)
    pixels[3:30, 5:9] = np.nan
    pixels[10, 20, 1] = np.inf
    averages = Averages(50, 70, (32, 32))
    for top in range(0, 50, 7):
        averages.add(top, pixels[top : top + 7])
    assert np.abs(averages.result - predictor.low_resolution(pixels)).max() < 1e-6


def test_too_large_files_are_refused_with_the_remedy(run, tmp_path, monkeypatch):
    monkeypatch.setattr(_images.Picture, "memory", property(lambda self: 10**9))
    save(tmp_path / "a.png", picture())
    code, _, err = run(tmp_path / "a.png", "--out", tmp_path / "out", "--memory-limit", "500MB")
    assert code == 1
    assert "'a.png'" not in err
    assert "has 60 × 40 pixels, which takes 1.0 GB of memory where --memory-limit leaves 250 MB; raise it" in err
    assert not list((tmp_path / "out").iterdir())


def test_a_decompression_bomb_is_refused(run, tmp_path):
    """A PNG of a few bytes that says it has 40,000 × 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(bytes(100))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    code, _, err = run(tmp_path / "bomb.png", "--out", tmp_path / "out")
    assert code == 1
    assert err.endswith(f"is truncated: of its 40000 × 40000 pixels it has {len(bomb)} bytes.\n")


def test_a_tile_larger_than_the_limit_is_refused(run, tmp_path):
    path = save(tmp_path / "a.tif", picture(16, 16), tile=(16, 16), compression="zlib")
    for tag in ("TileWidth", "TileLength"):
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags[tag].overwrite(16384)
    code, _, err = run(path, "--out", tmp_path / "out", "--memory-limit", "500MB")
    assert code == 1
    assert "has tiles of 16384 × 16384 rows, which takes" in err


def raw_file(path, kind):
    """A file as cameras write them, with a small picture where others have theirs."""
    with tifffile.TiffWriter(path) as file:
        options = {"photometric": "rgb", "metadata": None}
        if kind == "DNG":
            file.write(picture(), extratags=[(50706, "B", 4, bytes((1, 4, 0, 0)), True)], **options)
        elif kind == "thumbnail first":
            file.write(picture(), subfiletype=1, **options)
        else:
            file.write(picture(), subifds=1, **options)
            file.write(picture(80, 120), subfiletype=1 if kind == "pyramid" else 0, **options)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("DNG", "is a DNG; develop it first"),
        ("thumbnail first", "has a thumbnail in its photograph's place"),
        ("photograph below", "has a thumbnail in its photograph's place"),
        ("pyramid", None),
    ],
)
def test_raw_files_are_not_taken_for_their_thumbnails(run, tmp_path, kind, sentence):
    raw_file(tmp_path / "a.tif", kind)
    code, _, err = run(tmp_path / "a.tif", "--out", tmp_path / "out")
    assert (code, sentence is None or sentence in err) == (1 if sentence else 0, True)


@pytest.mark.parametrize("scales", [1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_pixels_that_are_no_numbers_stay_and_are_nothing_to_the_others(tmp_path, dtype, scales):
    config, weights = model_of(scales=scales, **({"guide": "nn"} if scales == 3 else {}))
    predictor = Predictor(config, weights)
    even = np.full((64, 64, 3), 0.25, dtype)
    given = even.copy()
    given[5, 7, 1], given[40, 3, :] = np.nan, np.inf
    save(tmp_path / "a.tif", given)
    (result,) = enhance_files([tmp_path / "a.tif"], tmp_path / "out", model=predictor)
    assert result.error is None
    after = tifffile.imread(tmp_path / "out" / "a.tif")
    odd = ~np.isfinite(given).all(-1)
    assert np.array_equal(after[odd], given[odd], equal_nan=True)
    expected = predictor(even)
    assert np.isfinite(after[~odd]).all()
    near = odd.copy()
    for y, x in np.argwhere(odd) if scales == 3 else ():  # the pyramid has black in their places
        near[max(0, y - 16) : y + 17, max(0, x - 16) : x + 17] = True
    assert np.allclose(after[~near], expected[~near], atol=1e-3 if dtype is np.float16 else 1e-5)


def test_strips_larger_than_the_limit_are_refused(tmp_path):
    save(tmp_path / "a.tif", picture(400, 300), rowsperstrip=400, compression="zlib")
    with (
        closing(open_picture(tmp_path / "a.tif")) as opened,
        pytest.raises(ImageError, match=r"has strips of 400 rows, which takes .* smaller tiles"),
    ):
        opened.fit(500_000)


# --- files that are no pictures


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "tiles.tif"])
@pytest.mark.parametrize("damage", ["truncated", "cut short", "empty", "text", "flipped"])
def test_damaged_files_are_named_and_the_others_go_on(run, tmp_path, name, damage):
    options = {"compression": "zlib", "tile": (16, 16)} if name == "tiles.tif" else {}
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    good = save(tmp_path / "in" / f"good{name}", noise, **options)
    data = good.read_bytes()
    if damage == "flipped":
        if name not in ("a.png", "tiles.tif"):
            pytest.skip("has no checksum")
        middle = len(data) * 2 // 3
        data = data[:middle] + bytes(byte ^ 0x5A for byte in data[middle : middle + 9]) + data[middle + 9 :]
    else:
        data = {"truncated": data[: len(data) * 3 // 4], "cut short": data[:30], "empty": b"", "text": b"no picture"}[
            damage
        ]
    bad = tmp_path / "in" / name
    bad.write_bytes(data)
    code, out, err = run(tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith(f"bilateral-ops enhance: {str(bad)!r} ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    assert out.startswith("1 of 2 files enhanced")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [good.name]
    if damage == "truncated" and name.endswith(".tif"):
        assert err.endswith("is truncated.\n")


def test_what_cannot_be_enhanced_says_why(run, tmp_path):
    cmyk = Image.new("CMYK", (20, 10))
    cmyk.save(tmp_path / "cmyk.jpg")
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for _ in range(2):
            writer.write(picture(), photometric="rgb", metadata=None)
    save(tmp_path / "int.tif", picture().astype(np.int16))
    save(tmp_path / "good.png", picture())
    code, out, err = run(tmp_path, "--out", tmp_path / "out")
    assert code == 1
    for words in (
        "cmyk.jpg' has CMYK colours; convert it to RGB first.",
        "pages.tif' has 2 pages; split it into files of one.",
        "int.tif' has int16 samples; uint8, uint16 or floating point can be enhanced.",
    ):
        assert words in err
    assert out.startswith("1 of 4 files enhanced")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            [(b"\xff\xc0", 2, b"\x0c")],
            "has 12 bits a sample or is coded without loss, as few JPEG files; convert it first",
        ),
        ([(b"\xff\xc0", 7, b"\x02")], "has 2 colours; convert it to RGB first"),
        (
            [(b"\xff\xdb", -1, b"\xe9")] * 2,
            "has 8 bits a sample or is coded without loss, as few JPEG files; convert it first",
        ),
    ],
)
def test_rare_kinds_of_jpeg_are_refused_by_name(run, tmp_path, changes, sentence):
    path = save(tmp_path / "a.jpg", picture())
    rewritten(path, *changes)
    code, _, err = run(path, "--out", tmp_path / "out")
    assert (code, err) == (1, f"bilateral-ops enhance: {str(path)!r} {sentence}.\n")


def patched(path, tag, value, part="value"):
    """A TIFF file in which a tag of the first directory has another value, count, type or code."""
    with tifffile.TiffFile(path) as file:
        entry = file.pages[0].tags[tag].offset
    at, kind = {"code": (0, "<H"), "type": (2, "<H"), "count": (4, "<I"), "value": (8, "<I")}[part]
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, entry + at, value)
    path.write_bytes(data)


def rewritten(path, *changes):
    """A file with other bytes: where a sequence of them ends, so many further on."""
    data = bytearray(path.read_bytes())
    for after, skipped, new in changes:
        at = data.index(after) + len(after) + skipped
        data[at : at + len(new)] = new
    path.write_bytes(data)


def png_of_size(path, width, height):
    save(path, picture())
    data = path.read_bytes()
    header = struct.pack(">II", width, height) + data[24:29]
    path.write_bytes(data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:])


NO_PIXELS = {
    "width 0.tif": lambda path: patched(path, "ImageWidth", 0),
    "length 0.tif": lambda path: patched(path, "ImageLength", 0),
    "no width.tif": lambda path: patched(path, "ImageWidth", 250, "code"),
    "samples 0.tif": lambda path: patched(path, "SamplesPerPixel", 0),
    "no strips.tif": lambda path: patched(path, "StripOffsets", 250, "code"),
    "negative.tif": lambda path: (patched(path, "ImageWidth", 9, "type"), patched(path, "ImageWidth", 2**32 - 5)),
    "width 0.png": lambda path: png_of_size(path, 0, 40),
    "height 0.png": lambda path: png_of_size(path, 60, 0),
    "height 0.jpg": lambda path: rewritten(path, (b"\xff\xc0", 3, bytes(2))),
    "width 0.jpg": lambda path: rewritten(path, (b"\xff\xc0", 5, bytes(2))),
    **{f"empty.{end}": lambda path: path.write_bytes(b"") for end in ("tif", "png", "jpg", "webp", "mp4", "mkv")},
}


@pytest.mark.parametrize("name", NO_PIXELS)
def test_files_without_pixels_say_so_and_the_others_go_on(run, tmp_path, name):
    bad = tmp_path / "in" / name
    if bad.suffix in (".mp4", ".mkv"):
        pytest.importorskip("av", reason="PyAV is not installed")
        bad.parent.mkdir()
    else:
        save(bad, picture())
    NO_PIXELS[name](bad)
    good = save(tmp_path / "in" / "good.png", picture())
    code, out, err = run(tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith(f"bilateral-ops enhance: {str(bad)!r} ")
    assert "has no pixels" in err
    assert err.count("\n") == 1
    assert out.startswith("1 of 2 files enhanced")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [good.name]


@pytest.mark.parametrize("name", ["plain.tif", "deflated.tif", "sparse.tif", "tiles.tif", "a.png", "a.jpg"])
@pytest.mark.parametrize("side", [65_000, 2**31 - 1])
def test_huge_sizes_without_their_data_are_refused_before_anything_is_allocated(tmp_path, name, side):
    path = tmp_path / name
    if name == "a.png":
        png_of_size(path, side, side)
    elif name == "a.jpg":
        save(path, picture(8, 8))
        rewritten(path, (b"\xff\xc0", 3, struct.pack(">HH", 65_000, 65_000)))
    else:
        options = {"deflated.tif": {"compression": "zlib"}, "tiles.tif": {"tile": (16, 16)}}.get(name, {})
        save(path, picture(), **options)
        for tag in ("ImageWidth", "ImageLength"):
            patched(path, tag, side)
        if name != "tiles.tif":
            patched(path, "RowsPerStrip", side)
        if name == "sparse.tif":
            patched(path, "Compression", 5)
            patched(path, "StripByteCounts", 0)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"^is (truncated|damaged: it has \d+ of the \d+ tiles of its pixels)"):
            _images.read(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


#: What is said of a damaged picture, all of it.
SENTENCES = re.compile(
    r"(is (empty and has no pixels|truncated|no JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, BMP or GIF file)"
    r"|is truncated: of its \d+ × \d+ pixels it has \d+ bytes"
    r"|is damaged: (its (pixels|header|directory|directories after the first) cannot be (decoded|read))"
    r"|is damaged: its EXIF or GPS directory cannot be read"
    r"|is damaged: (its [A-Z]\w+ is (no whole number|-?\d+)|it has no PhotometricInterpretation)"
    r"|is damaged: its palette has no ColorMap"
    r"|is damaged: its [A-Z]+ colours take \d+ samples a pixel, and it has \d+"
    r"|is damaged: it has \d+ of the \d+ (strips|tiles) of its pixels"
    r"|is damaged: its (strips|tiles) (do not begin and end at whole numbers|lie outside the file)"
    r"|is damaged: it has no header|is damaged: it has colours of type \d+, which PNG has not"
    r"|has no pixels(: it has no (strips|tiles))?"
    r"|has ([A-Z_\d]+|unknown \(\d+\)) colours \(\d+ samples a pixel\); convert it to RGB first"
    r"|has (\w+ samples|samples of several sizes); uint8, uint16 or floating point can be enhanced"
    r"|is a DNG; develop it first, and enhance what comes of it"
    r"|has a thumbnail in its photograph's place, as raw files have; develop it first"
    r"|has (compression|predictor) ([A-Z_\d]+|unknown \(\d+\)), which cannot be read"
    r"|has \d+ pages; split it into files of one"
    r"|has (\d+ × \d+ pixels|(strips of|tiles of \d+ ×) \d+ rows), which takes .* --memory-limit leaves .*"
    r"|cannot be read \(out of memory\)"
    r"|has a profile, or a depth in which no library here writes its colours in JPEG XL; convert it first, .*"
    r"|has more channels than colours and alpha; convert it to PNG or TIFF first"
    r"|has colours that are multiplied by alpha; convert it to PNG or TIFF first"
    r"|is damaged: its metadata cannot be read"
    r"|has (CMYK|\d+) colours; convert it to RGB first"
    r"|has \d+ bits a sample or is coded without loss, as few JPEG files; convert it first"
    r"|is animated or has a preview; take it apart first, such as by djxl a.jxl a.apng"
    r"|has a canvas of more than 16383 pixels a side, the most of a picture in WebP"
    r"|has frames that are larger than its canvas; make a video of it first"
    r"|is animated in (16 bits, of which Pillow has 8|more than 8 bits or colours than sRGB's); make a video .*"
    r"|has \d+ frames of \d+ × \d+ pixels, which takes .* --memory-limit leaves .*)"
)


def mutations(data, count, rng):
    """The file with bytes and integers changed, or cut short; mostly where its structure is."""
    near = np.r_[0 : min(400, len(data)), max(0, len(data) - 300) : len(data)]
    for n in range(count):
        changed = bytearray(data)
        at = int(rng.choice(near))
        if n % 8 == 0:
            del changed[at:]
        else:
            size = (1, 2, 4)[n % 3]
            new = int(rng.choice([0, 1, 2, 3, 255, 256, 65535, 100_000, 2**31, 2**32 - 1, rng.integers(2**32)]))
            changed[at : at + size] = (new % 256**size).to_bytes(size, "little")
        yield bytes(changed)


WITH_EXIF = ("exif.tif", "exif.jpg", "exif.webp")
MOVING = ("moving.png", "moving.webp", "moving.avif", "leaping.gif")
CODED = {  # by imagecodecs, of a depth
    "deep.avif": lambda pixels: imagecodecs.avif_encode(pixels >> 6, 90, bitspersample=10),
    "bare.jxl": lambda pixels: imagecodecs.jpegxl_encode((pixels >> 8).astype(np.uint8), 90),
    "boxed.jxl": lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=True),
}
MUTATED = (
    *FORMATS,
    "pyramid.tif",
    "palette.tif",
    "packed.tif",
    *WITH_EXIF,
    "a.avif",
    "a.bmp",
    "a.gif",
    *MOVING,
    *CODED,
)


def write_small(path):
    """A file of one of these kinds, of few pixels, so that damage meets its structure."""
    name = path.name
    if name == "pyramid.tif":
        with tifffile.TiffWriter(path) as file:
            for side, kind in ((48, 0), (24, 1)):
                options = {"tile": (16, 16), "compression": "zlib", "subfiletype": kind}
                file.write(picture(side, side), photometric="rgb", metadata=None, **options)
    elif name in WITH_EXIF:
        exif = exif_of(6)
        if name == "exif.tif":
            exif[0x8769] = dict(exif.get_ifd(0x8769))
        options = {"xmp": b'<x tiff:Orientation="6" hdrgm:Version="1"/>'} if name != "exif.tif" else {}
        Image.fromarray(picture(20, 28)).save(path, icc_profile=b"profile" * 9, exif=exif, dpi=(300, 300), **options)
    elif name == "packed.tif":
        tifffile.imwrite(
            path, picture(20, 28, dtype=np.uint16) >> 4, photometric="rgb", bitspersample=12, metadata=None
        )
    elif name == "palette.tif":
        Image.fromarray(picture(20, 28)).quantize(16).save(path)
    elif name in MOVING:
        frames = [Image.fromarray(np.roll(picture(20, 28), 3 * n, axis=1)) for n in range(3)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    elif name in CODED:
        path.write_bytes(CODED[name](picture(20, 28, dtype=np.uint16)))
    elif name in ("a.avif", "a.bmp", "a.gif"):
        Image.fromarray(picture(20, 28)).save(path)
    else:
        stored, options = FORMATS[name]
        if name == "planes.tif":
            tifffile.imwrite(path, stored[:, :20, :28].copy(), photometric="rgb", metadata=None, **options)
        else:
            save(path, stored[:20, :28].copy(), **options)


@pytest.mark.parametrize("name", MUTATED)
def test_a_damaged_file_is_a_picture_or_a_sentence_of_ours(predictor, tmp_path, name, capfd):
    path = tmp_path / name
    write_small(path)
    (tmp_path / "in").mkdir()
    for n, data in enumerate(mutations(path.read_bytes(), 48, np.random.default_rng(len(name)))):
        (tmp_path / "in" / f"{n}{path.suffix}").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = enhance_files([tmp_path / "in"], tmp_path / "out", model=predictor)
    errors = [result.error for result in results if result.error is not None]
    assert errors
    assert [error for error in errors if not SENTENCES.fullmatch(error)] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count memory so")
def test_5000_damaged_files_in_one_process(model, av, tmp_path):
    """None escapes as an exception, none hangs, and memory stays within its limit."""
    seeds = [tmp_path / name for name in MUTATED]
    for path in seeds:
        write_small(path)
    for suffix in (".mp4", ".mkv", ".avi", ".ts"):
        seeds.append(clip(av, tmp_path / f"clip{suffix}", [picture(32, 48)] * 3, sound=suffix != ".ts"))
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(5000)
    each = -(-5000 // len(seeds))
    for path in seeds:
        for n, data in enumerate(mutations(path.read_bytes(), each, rng)):
            (tmp_path / "in" / f"{path.stem} {n}{path.suffix}").write_bytes(data)
    code = """
import json, resource, sys, warnings
from bilateral_ops.hdrnet import enhance_files
warnings.simplefilter("ignore")
results = enhance_files([sys.argv[1]], sys.argv[2], model=sys.argv[3], memory_limit=500 * 10**6)
errors = [result.error for result in results]
print(json.dumps([len(errors), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, errors]))
"""
    command = [sys.executable, "-c", code, tmp_path / "in", tmp_path / "out", model]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=1800, check=True)
    count, peak, errors = json.loads(done.stdout)
    assert count >= 4900  # a .ts may have become no transport stream
    assert peak * (1 if sys.platform == "darwin" else 1024) < 500e6
    assert [error for error in errors if error and error.startswith("failed")] == []


def test_libraries_say_nothing_beside_the_sentence(model, tmp_path):
    """Of tags that cannot be read tifffile tells its logger, and Pillow warns."""
    exif = exif_of(1)
    exif[0x8769] = dict(exif.get_ifd(0x8769))
    path = tmp_path / "a.tif"
    Image.fromarray(picture()).save(path, exif=exif, icc_profile=profile())
    with tifffile.TiffFile(path) as file:
        entries = file.pages[0].tags[_tiff.EXIF].valueoffset
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, entries, 99)
    path.write_bytes(data)
    patched(path, "InterColorProfile", 2**31, "count")
    patched(path, "ImageLength", 2**31)
    save(tmp_path / "b.png", picture())
    (tmp_path / "b.tif").write_bytes(data)
    command = [sys.executable, "-m", "bilateral_ops", "enhance", tmp_path, "--out", tmp_path / "out", "--model", model]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"bilateral-ops enhance: {str(path)!r} is truncated.\n")
    assert done.stdout.startswith("2 of 3 files enhanced")


# --- names


def test_folders_keep_their_structure(run, tmp_path):
    for name in ("a.jpg", "sub/a.jpg", "sub/deep/b.PNG", ".hidden/c.jpg", "sub/._a.jpg"):
        save(tmp_path / "in" / name, picture())
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    out = tmp_path / "in" / "out"
    assert run(tmp_path / "in", "--out", out)[0] == 0
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == ["a.jpg", "sub/a.jpg", "sub/deep/b.PNG"]
    assert run(tmp_path / "in", "--out", out, "--overwrite")[0] == 0, "results are no inputs"
    assert len(list(out.rglob("*.*"))) == 3


def test_a_folder_tells_of_what_it_passes_over(run, tmp_path):
    save(tmp_path / "in" / "a.png", picture())
    for name in ("notes.txt", "more.txt", "README", "sub/page.html"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("not a picture")
    code, out, err = run(tmp_path / "in", "--out", tmp_path / "out")
    assert code == 0
    assert err == "bilateral-ops enhance: passed over 4 files of other kinds: 1 .html, 2 .txt, 1 without a suffix.\n"
    assert out.startswith("1 file enhanced")
    code, _, err = run(tmp_path / "in" / "sub", "--out", tmp_path / "other")
    assert code == 2
    assert err.endswith("with none in it, but 1 file of other kinds: 1 .html.\n")


UNREAD = {
    "a.cr3": (b"\0\0\0\x18ftypcrx ", "is no JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, BMP or GIF file"),
    "a.psd": (b"8BPS\0\1", "is no JPEG, PNG, TIFF, WebP, AVIF, HEIC, JPEG XL, BMP or GIF file"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_pictures_of_other_kinds_are_refused_by_name(run, tmp_path, name):
    head, sentence = UNREAD[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(head + bytes(99))
    code, _, err = run(tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1
    assert sentence in err


def test_heic_asks_for_its_library(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    code, _, err = run(tmp_path / "a.heic", "--out", tmp_path / "out")
    assert code == 1
    assert err.endswith(f"is HEIC, and pillow_heif is not installed; run {install('heif')}.\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_pipes_and_devices_are_passed_over(run, tmp_path):
    save(tmp_path / "in" / "a.png", picture())
    os.mkfifo(tmp_path / "in" / "p.jpg")
    os.symlink("/dev/zero", tmp_path / "in" / "zero.png")
    code, _, err = run(tmp_path / "in", "--out", tmp_path / "out")
    assert (code, err) == (0, "bilateral-ops enhance: passed over 2 files of other kinds: 2 no file.\n")
    code, _, err = run(tmp_path / "in" / "p.jpg", "--out", tmp_path / "other")
    assert code == 2
    assert "which is a pipe or a device" in err


def test_a_gif_becomes_a_png_and_that_is_said(run, tmp_path):
    path = save(tmp_path / "a.gif", picture())
    code, _, err = run(path, "--out", tmp_path / "out", "--strength", 0)
    assert (code, err) == (0, f"bilateral-ops enhance: {str(path)!r} is written as 'a.png'.\n")
    with Image.open(path) as given, Image.open(tmp_path / "out" / "a.png") as made:
        assert made.format == "PNG"
        assert np.array_equal(np.asarray(made), np.asarray(given.convert("RGB")))
    save(tmp_path / "a.png", picture())
    code, _, err = run(path, tmp_path / "a.png", "--out", tmp_path / "other")
    assert code == 2
    assert "would both become" in err


def test_an_animation_is_enhanced_as_a_video_is(run, predictor, tmp_path):
    """Each frame under its own grid, smoothed in time; the middle one is what is compared."""
    frames = [picture() // 3 + np.uint8(6 * n) for n in range(3)] + [255 - picture() // 2]
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "a.png", save_all=True, append_images=others, duration=[300, 100, 100, 100])
    code, _, err = run(tmp_path / "a.png", "--out", tmp_path / "out", "--smoothing", 0.2, "--compare")
    assert (code, err) == (0, "")
    smooth, made = Smoother(0.2), []
    for frame, begins in zip(frames, (0, 0.3, 0.4, 0.5)):
        low = predictor.low_resolution(frame)
        made.append(predictor.render(smooth(predictor.grid(low), low, begins), frame))
    with Image.open(tmp_path / "out" / "a.png") as file:
        for n, expected in enumerate(made):
            file.seek(n)
            assert np.array_equal(np.asarray(file.convert("RGB")), expected)
    assert not np.array_equal(made[1], predictor(frames[1])), "it is smoothed"
    with Image.open(tmp_path / "out" / "a.png.compare.jpg") as file:
        shown = np.asarray(file).astype(int)
    assert np.abs(shown[:, :60] - frames[2]).mean() < 6
    assert np.abs(shown[:, -60:] - made[2]).mean() < 6


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.avif"])
def test_an_animation_that_ends_early_is_refused(run, tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), np.uint8)
    first, *others = map(Image.fromarray, noise)
    first.save(tmp_path / name, save_all=True, append_images=others, duration=40)
    data = (tmp_path / name).read_bytes()
    for share in (0.5, 0.9, 1):
        (tmp_path / name).write_bytes(data[: int(len(data) * share) - 1])
        code, _, err = run(tmp_path / name, "--out", tmp_path / "out")
        assert code == 1
        assert re.search(r"is (truncated|damaged: its (pixels|header) cannot be (decoded|read))\.\n$", err)


@pytest.mark.skipif(not (shutil.which("cjxl") and shutil.which("djxl")), reason="libjxl-tools is not installed")
@pytest.mark.parametrize("kind", ["moving", "deep"])
def test_what_is_advised_for_jpeg_xl_works(run, tmp_path, kind):
    if kind == "moving":
        write_small(tmp_path / "leaping.gif")
        (tmp_path / "leaping.gif").rename(tmp_path / "given.gif")
    else:
        save(tmp_path / "given.png", picture(dtype=np.uint16))
    (given,) = tmp_path.iterdir()
    subprocess.run(["cjxl", given, "a.jxl", "-d", "0"], cwd=tmp_path, check=True, capture_output=True)
    code, _, err = run(tmp_path / "a.jxl", "--out", tmp_path / "out")
    assert code == 1
    (advice,) = re.findall(r"such as by (djxl a.jxl a\.a?png)\.$", err.strip())
    subprocess.run(advice.split(), cwd=tmp_path, check=True, capture_output=True)
    made = tmp_path / "out" / advice.split()[-1]
    assert run(tmp_path / made.name, "--out", tmp_path / "out", "--strength", 0)[0] == 0
    if kind == "moving":
        with Image.open(made) as file, Image.open(given) as before:
            assert file.n_frames == before.n_frames == 3
            assert np.array_equal(np.asarray(file.convert("RGB")), np.asarray(before.convert("RGB")))
    else:
        assert np.array_equal(pixels_of(made), picture(dtype=np.uint16))


def test_frames_that_are_larger_than_their_canvas_are_refused(run, tmp_path):
    """As Pillow enlarges the picture then, and others don't."""
    write_small(tmp_path / "leaping.gif")
    data = bytearray((tmp_path / "leaping.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 14, 10)
    first = data.index(b",\0\0\0\0" + struct.pack("<HH", 28, 20))
    data[first + 5 : first + 9] = struct.pack("<HH", 14, 10)
    (tmp_path / "leaping.gif").write_bytes(data)
    code, _, err = run(tmp_path / "leaping.gif", "--out", tmp_path / "out")
    assert code == 1
    assert err.endswith("has frames that are larger than its canvas; make a video of it first.\n")


def test_an_older_imagecodecs_is_named(run, tmp_path, monkeypatch):
    """One whose AVIF has no colours but sRGB's."""
    write_small(tmp_path / "deep.avif")
    monkeypatch.setattr(imagecodecs, "avif_encode", lambda data, level, speed, bitspersample, pixelformat: b"")
    code, _, err = run(tmp_path / "deep.avif", "--out", tmp_path / "out")
    assert code == 1
    assert err.endswith("which AVIF of this imagecodecs has not; install a newer one.\n")


def test_a_long_animation_is_refused_with_the_remedy(run, tmp_path, monkeypatch):
    write_small(tmp_path / "moving.png")
    monkeypatch.setattr(_images.Picture, "memory", property(lambda self: 10**9))
    code, _, err = run(tmp_path / "moving.png", "--out", tmp_path / "out", "--memory-limit", "500MB")
    assert code == 1
    assert (
        "has 3 frames of 28 × 20 pixels, which takes 1.0 GB of memory where --memory-limit leaves 250 MB; raise" in err
    )


def test_patterns_and_names_given_twice(run, tmp_path):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "b.png", picture())
    code, out, _ = run(tmp_path / "*.png", tmp_path / "a.png", "--out", tmp_path / "out")
    assert (code, out.split()[0]) == (0, "2")


def test_clashes_are_settled_before_work_begins(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = save(tmp_path / "1" / "a.png", picture()), save(tmp_path / "2" / "a.png", picture())

    def sentence(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("bilateral-ops enhance: ")
        assert err.endswith(".\n")
        assert err.count("\n") == 1
        return err

    assert f"'{one}' and '{other}' would both become 'out/a.png'; give each a folder" in sentence(
        one, other, "--out", "out"
    )
    assert "--out must be a folder where results replace no inputs, got '1' with 'a.png' in it" in sentence(
        one, "--out", "1", "--overwrite"
    )
    assert "IN must be a file or a folder, got 'no.png', but there is none" in sentence("no.png", "--out", "out")
    assert "IN must be a file or a folder, got '*.jpg'" in sentence("*.jpg", "--out", "out")
    (tmp_path / "empty").mkdir()
    assert "IN must name pictures or videos, got 'empty'" in sentence("empty", "--out", "out")
    assert "--memory-limit must be at least 500MB, got 5 bytes" in sentence(one, "--out", "out", "--memory-limit", "5")
    assert "--strength must be a finite number, got nan" in sentence(one, "--out", "out", "--strength", "nan")
    assert "--smoothing must be 0 or more seconds, got -1.0" in sentence(one, "--out", "out", "--smoothing", "-1")
    assert "--quality must be from 1 to 100, got 0" in sentence(one, "--out", "out", "--quality", "0")
    assert not (tmp_path / "out").exists(), "nothing was begun"
    assert "--out must be a folder that can be written to" in sentence(one, "--out", other)
    assert run(one, "--out", "out")[0] == 0
    assert "'out/a.png' exist already; --overwrite replaces them" in sentence(one, "--out", "out")
    assert run(one, "--out", "out", "--overwrite")[0] == 0


def test_a_result_that_may_not_be_written_is_not_replaced(run, tmp_path):
    out = tmp_path / "out"
    for name in ("a.png", "b.png"):
        save(tmp_path / name, picture())
        save(out / name, picture())
    (out / "b.png").chmod(0o444)
    if os.access(out / "b.png", os.W_OK):
        pytest.skip("root may write to every file")
    before = (out / "b.png").read_bytes()
    code, _, err = run(tmp_path / "*.png", "--out", out, "--overwrite")
    assert code == 1
    assert f"{str(tmp_path / 'b.png')!r} cannot be written (Permission denied)" in err
    assert (out / "b.png").read_bytes() == before != (out / "a.png").read_bytes()
    (out / "b.png").chmod(0o644)  # so that Windows removes it


def test_a_strength_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^--strength must be a finite number, got 'a'$"):
        enhance_files([save(tmp_path / "a.png", picture())], tmp_path / "out", strength="a")


def test_a_wrong_model_is_named(tmp_path, capsys):
    path = save(tmp_path / "a.png", picture())
    assert main(["enhance", str(path), "--out", str(tmp_path / "out"), "--model", str(path)]) == 2
    assert capsys.readouterr().err.startswith("bilateral-ops enhance: --model must be a model file (")


@pytest.mark.parametrize("module", ["PIL", "tifffile", "imagecodecs", "tqdm"])
def test_a_missing_library_is_named(run, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert err.endswith(f"is not installed; run {install('enhance')}.\n")


def test_comparisons(run, tmp_path, predictor):
    save(tmp_path / "a.png", picture(), icc_profile=profile())
    save(tmp_path / "b.tif", picture(50, 2500, dtype=np.uint16))
    assert run(tmp_path / "a.png", tmp_path / "b.tif", "--out", tmp_path / "out", "--compare")[0] == 0
    with Image.open(tmp_path / "out" / "a.png.compare.jpg") as file:
        shown = np.asarray(file).astype(int)
        assert file.info["icc_profile"] == profile()
    assert shown.shape == (40, 2 * 60 + _images.GAP, 3)
    assert np.abs(shown[:, :60] - picture()).mean() < 6
    assert np.abs(shown[:, -60:] - predictor(picture())).mean() < 6
    with Image.open(tmp_path / "out" / "b.tif.compare.jpg") as file:
        assert file.size == (2 * _images.COMPARED + _images.GAP, 38)


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["enhance", "--help"])
    text = capsys.readouterr().out
    for words in ("IN", "--out DIR", "--model FILE", "--strength S", "--compare", "--overwrite", "--memory-limit SIZE"):
        assert words in text
    for words in ("--smoothing SECONDS", "--codec NAME", "--crf N"):
        assert words in text


# --- interruption


def test_an_error_while_writing_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(_formats.PngFile, "_encode", lambda self, _, quality, file: (file.write(b"half"), 1 / 0))
    save(tmp_path / "a.png", picture())
    code, _, err = run(tmp_path / "a.png", "--out", tmp_path / "out")
    assert code == 1
    assert "failed (ZeroDivisionError" in err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_work_leaves_whole_files_only(tmp_path, model, sent, code):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)
    first = tmp_path / "in" / "0.tif"
    save(first, noise, compression="zlib", tile=(256, 256))
    for n in range(1, 300):  # as many as take ten seconds
        os.link(first, first.with_name(f"{n}.tif"))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bilateral_ops", "enhance", tmp_path / "in", "--out", out, "--model", model]
    process = subprocess.Popen(
        [*map(str, command)],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),  # a shell's background jobs ignore SIGINT
    )
    until = time.monotonic() + 50
    while not (list(out.glob("*.tif")) and list(out.glob(".*"))) and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(sent)
    process.communicate(timeout=50)
    assert process.returncode == code
    left = [p.name for p in out.iterdir()]
    assert 0 < len(left) < 300
    assert all(name.endswith(".tif") for name in left)
    for path in out.iterdir():
        assert pixels_of(path).shape == noise.shape


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_what_is_computed(tmp_path, model, sent):
    code = """
import pathlib, sys, time
from bilateral_ops import cli as _cli
from bilateral_ops.photo import formats as _formats
from bilateral_ops.photo import formats as _formats
_formats.PngFile._decode = lambda self: (pathlib.Path(sys.argv[1]).touch(), time.sleep(1000))
sys.exit(_cli.main(sys.argv[2:]))
"""
    path, begun = save(tmp_path / "a.png", picture()), tmp_path / "begun"
    command = [sys.executable, "-c", code, begun, "enhance", path, "--out", tmp_path / "out", "--model", model]
    process = subprocess.Popen(
        [*map(str, command)], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    until = time.monotonic() + 50
    try:
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.001)
        while process.poll() is None and time.monotonic() < until:
            process.send_signal(sent)
            time.sleep(0.1)
        # 128 + sent: Python was told to end while it still started the thread, and by the second signal not to wait.
        assert process.returncode in (-sent, 128 + sent)
    finally:
        process.kill()


def test_memory_is_used_again_within_the_limit():
    spare = _images.Spare()
    small, large = spare.take(60), spare.take(90)
    assert not np.shares_memory(small, large)
    spare.give(large)
    spare.give(small)
    again = spare.take(50)
    assert len(again) == 50
    assert np.shares_memory(again, small), "the smallest that has so many"
    spare.give(again)
    assert not np.shares_memory(spare.take(100), large), "which is too small"
    assert len(spare._arrays) == 1, "one went for the one that was made"
    assert not np.shares_memory(spare.take(47), small), "more than is reserved for so few"
    spare.give(large)
    spare.give(small)
    again = spare.take(60)
    assert np.shares_memory(again, small), "all of it"
    spare.give(again)
    spare.shrink(149)
    assert np.shares_memory(spare.take(50), small), "the largest goes first"
    memory = _files._Memory(100)
    with memory.reserve(40, threading.Event()):
        memory.spare.give(small)
    with memory.reserve(41, threading.Event()):
        assert not np.shares_memory(memory.spare.take(60), small)


def test_pictures_of_one_size_are_not_mixed_up(tmp_path, predictor):
    for n in range(9):
        save(tmp_path / "in" / f"{n}.jpg", np.roll(picture(channels=1 if n % 3 == 0 else 3), 7 * n, axis=1).squeeze())
    assert all(r.error is None for r in enhance_files([tmp_path / "in"], tmp_path / "all", model=predictor))
    for path in (tmp_path / "in").iterdir():
        enhance_files([path], tmp_path / "one", model=predictor)
        assert (tmp_path / "one" / path.name).read_bytes() == (tmp_path / "all" / path.name).read_bytes()


def test_large_files_are_begun_first(tmp_path, predictor, monkeypatch):
    for n, side in enumerate((8, 40, 24)):
        save(tmp_path / "in" / f"{n}.png", picture(side, side))
    begun = []
    right = _files.open_picture
    monkeypatch.setattr(_files, "open_picture", lambda path: (begun.append(path.name), right(path))[1])
    monkeypatch.setattr(_files, "get_num_threads", lambda: 0)
    results = enhance_files([tmp_path / "in"], tmp_path / "out", model=predictor)
    assert begun == ["1.png", "2.png", "0.png"]
    assert [result.source.name for result in results] == ["0.png", "1.png", "2.png"]


def test_a_jpeg_that_grows_is_written_whole(tmp_path, predictor):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", noise, quality=30, subsampling=0)
    enhance_files([path], tmp_path / "out", model=predictor, quality=100)
    data = (tmp_path / "out" / "a.jpg").read_bytes()
    assert len(data) > max(path.stat().st_size, noise.nbytes // 2), "more than the memory that it is coded in"
    expected = imagecodecs.jpeg8_encode(predictor(pixels_of(path)), 100, subsampling="444")
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(data), imagecodecs.jpeg8_decode(expected))


def test_jobs_wait_for_memory(tmp_path, predictor, monkeypatch):
    for n in range(4):
        save(tmp_path / "in" / f"{n}.png", picture())
    running, most = [], []
    right = Predictor.render

    def render(*args, **keywords):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return right(*args, **keywords)

    monkeypatch.setattr(Predictor, "render", render)
    monkeypatch.setattr(_formats.PngFile, "memory", property(lambda self: LIMIT - _files.BASE))
    monkeypatch.setattr(_files, "get_num_threads", lambda: 4)
    results = enhance_files([tmp_path / "in"], tmp_path / "out", model=predictor, memory_limit=LIMIT)
    assert [r.error for r in results] == [None] * 4
    assert max(most) == 1


# --- videos


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="PyAV is not installed")


def clip(av, path, frames, rate=25, sound=False, codec="libx264", **options):
    """A video file of these frames."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options={"crf": "5"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = options.get("pix_fmt", "yuv420p")
        codec = {".webm": "libopus", ".avi": "mp2"}.get(path.suffix, "aac")
        voice = out.add_stream(codec, rate=48000, layout="stereo") if sound else None
        if voice:
            rng = np.random.default_rng(0)
            samples = rng.normal(0, 0.1, (1, 48000)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.repeat(samples, 2, 0), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 48000, 0
            out.mux(voice.encode(frame))
            out.mux(voice.encode(None))
        for pixels in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def frames_of(av, path):
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def packets_of(av, path, kind):
    with av.open(str(path)) as file:
        (stream,) = getattr(file.streams, kind)
        return [bytes(packet) for packet in file.demux(stream) if packet.size]


@pytest.mark.parametrize(
    ("suffix", "crf", "rule"),
    [
        (".mp4", 52, "from 0 to 51 for libx264"),
        (".mp4", -1, "from 0 to 51 for libx264"),
        (".webm", 64, "from 0 to 63 for libvpx-vp9"),
    ],
)
def test_a_rate_factor_that_the_encoder_lacks_is_refused(run, av, tmp_path, suffix, crf, rule):
    (tmp_path / f"clip{suffix}").write_bytes(b"not looked at")
    found = run(tmp_path / f"clip{suffix}", "--out", tmp_path / "out", "--crf", crf)
    assert found == (2, "", f"bilateral-ops enhance: --crf must be {rule}, got {crf}.\n")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_a_video(run, av, predictor, tmp_path, suffix):
    frames = [np.roll(picture(64, 96), n, axis=1) for n in range(25)]
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    path = clip(av, tmp_path / f"clip{suffix}", frames, sound=True, codec=codec)
    code, out, err = run(path, "--out", tmp_path / "out", "--crf", 5, "--smoothing", 0)
    assert (code, err) == (0, "")
    assert out.startswith(f"clip{suffix}: 25 frames, ")
    made = frames_of(av, tmp_path / "out" / path.name)
    given = frames_of(av, path)
    assert len(made) == 25
    for before, after in zip(given, made):
        assert np.abs(after.astype(int) - predictor(before)).mean() < 8
    assert packets_of(av, tmp_path / "out" / path.name, "audio") == packets_of(av, path, "audio"), "sound is copied"


def test_smoothing_and_cuts():
    from bilateral_ops.photo.video import CUT

    low, zero, one = np.zeros((4, 4, 3), np.float32), np.zeros(3, np.float32), np.ones(3, np.float32)
    smooth = Smoother(0.5)
    assert np.array_equal(smooth(zero, low, 10.0), zero)
    assert smooth(one, low, 10.1) == pytest.approx(1 - np.exp(-0.2), rel=1e-5)
    assert smooth(one, low, 10.5) == pytest.approx(1 - np.exp(-1.0), rel=1e-5), "however it is cut in time"
    assert np.array_equal(smooth(zero, low + 1.5 * CUT, 10.6), zero), "a cut begins anew"
    assert np.array_equal(Smoother(0)(one, low, 0.0), one)


def test_a_video_is_smoothed_and_cut(run, av, predictor, tmp_path):
    """Brightness that flickers is smoothed; a cut is not."""
    dark, light = picture(64, 64) // 3, 255 - picture(64, 64) // 2
    frames = [dark + np.uint8(8 * (n % 2)) for n in range(12)] + [light] * 12
    path = clip(av, tmp_path / "clip.mp4", frames)
    assert run(path, "--out", tmp_path / "out", "--crf", 5, "--smoothing", 1)[0] == 0
    smooth, expected = Smoother(1), []
    for n, frame in enumerate(frames_of(av, path)):
        low = predictor.low_resolution(frame)
        expected.append(predictor.render(smooth(predictor.grid(low), low, n / 25), frame))
    for after, wanted in zip(frames_of(av, tmp_path / "out" / "clip.mp4"), expected, strict=True):
        assert np.abs(after.astype(int) - wanted).mean() < 8
    assert np.abs(expected[12].astype(int) - predictor(frames_of(av, path)[12])).max() <= 1


def test_a_turned_video_is_upright(run, av, predictor, tmp_path):
    path = clip(av, tmp_path / "clip.mp4", [picture(64, 96)] * 5)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the display matrix: turned by 90 degrees
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    path.write_bytes(data)
    with av.open(str(path)) as file:
        rotation = next(file.decode(video=0)).rotation
    assert abs(rotation) == 90
    assert run(path, "--out", tmp_path / "out", "--crf", 5)[0] == 0
    upright = np.ascontiguousarray(np.rot90(frames_of(av, path)[0], rotation // 90))
    (first, *_) = frames_of(av, tmp_path / "out" / "clip.mp4")
    assert first.shape == (96, 64, 3)
    assert np.abs(first.astype(int) - predictor(upright)).mean() < 8
    assert np.array_equal(upright, np.rot90(frames_of(av, path)[0], -1)), "this matrix turns clockwise"


def test_comparison_of_a_video_and_options(run, av, tmp_path):
    path = clip(av, tmp_path / "clip.mkv", [picture(64, 96)] * 6)
    assert run(path, "--out", tmp_path / "out", "--compare", "--codec", "libx265")[0] == 0
    with Image.open(tmp_path / "out" / "clip.mkv.compare.jpg") as file:
        assert file.size == (2 * 96 + _images.GAP, 64)
    with av.open(str(tmp_path / "out" / "clip.mkv")) as file:
        assert file.streams.video[0].codec_context.name == "hevc"


def test_sound_that_the_container_does_not_hold(run, av, tmp_path):
    """A video is read by what it holds, and written by its name: WebM takes no AAC."""
    path = clip(av, tmp_path / "clip.mkv", [picture(64, 96)] * 5, sound=True).rename(tmp_path / "clip.webm")
    code, _, err = run(path, "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith(f"bilateral-ops enhance: {str(path)!r} has a stream of audio that can't be copied (")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_videos(run, av, tmp_path, suffix, damage):
    noise = np.random.default_rng(0).integers(0, 256, (25, 64, 64, 3), np.uint8)
    path = clip(av, tmp_path / f"clip{suffix}", list(noise))
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"no video", "empty": b""}[damage])
    code, _, err = run(path, "--out", tmp_path / "out")
    assert code == 1
    assert err.startswith(f"bilateral-ops enhance: {str(path)!r} ")
    assert "failed" not in err
    assert not list((tmp_path / "out").iterdir())


def test_pyav_is_asked_for_only_by_videos(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    code, _, err = run(tmp_path / "clip.mp4", "--out", tmp_path / "out")
    assert code == 2
    assert err == f"bilateral-ops enhance: PyAV is not installed; run {install('video')}.\n"
    assert run(save(tmp_path / "a.png", picture()), "--out", tmp_path / "out")[0] == 0
