"""Is a file what it was after ``--strength 0``: to the bit, or where it is coded with loss, within that loss?

The tables are walked whole, every kind in one run of the job; what came out is read by other libraries than those that
wrote it, where there are two.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import weights_of

from bilateral_ops.hdrnet import Config, Predictor, enhance_files

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
pytest.importorskip("tqdm", reason="tqdm is not installed")

HEIGHT, WIDTH = 13, 18


@pytest.fixture(scope="module")
def predictor():
    config = Config(net_input=32, spatial_bin=8, luma_bins=4)
    return Predictor(config, weights_of(config))


def unchanged(predictor, folder, write, names):
    """Each kind's file written, all enhanced by nothing: name → result, and where it is."""
    (folder / "in").mkdir()
    for name in names:
        write(folder / "in" / name, name)
    results = enhance_files([folder / "in"], folder / "out", model=predictor, strength=0)
    return {result.source.name: result for result in results}


def shades(channels, kind, seed=0):
    """Random values of a NumPy type, or of so many bits."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, channels)
    if isinstance(kind, str):
        return rng.random(shape).astype(kind)
    return rng.integers(0, 1 << kind, shape).astype(np.uint8 if kind <= 8 else np.uint16)


# --- TIFF


def tiffs():
    return list(_tiffs())


def _tiffs():
    bits = (1, 2, 4, 8, 10, 12, 14, 16, "f2", "f4", "f8")
    for kind, photometric, planar, predicted, order in itertools.product(
        bits, ("minisblack", "miniswhite", "rgb", "palette"), ("contig", "separate"), (False, True), "<>"
    ):
        packed = kind in (1, 2, 4, 10, 12, 14)
        if photometric == "palette" and (kind not in (1, 2, 4, 8) or predicted):
            continue
        if planar == "separate" and photometric != "rgb":
            continue
        if (predicted and packed) or (kind == 1 and photometric == "rgb" and planar == "contig"):
            continue  # neither of which tifffile writes
        how = f"{'predicted' if predicted else 'plain'} {'II' if order == '<' else 'MM'}"
        yield f"{photometric} {kind} {planar} {how}.tif"


COLORMAP = np.random.default_rng(7).integers(0, 256, (3, 256)).astype(np.uint16) * 257


def tiff_of(name):
    photometric, kind, planar, predicted, order = name[:-4].split()
    kind = int(kind) if kind.isdigit() else kind
    return photometric, kind, planar, predicted == "predicted", "<" if order == "II" else ">"


def write_tiff(path, name):
    photometric, kind, planar, predicted, order = tiff_of(name)
    stored = shades(3 if photometric == "rgb" else 1, kind)
    data = stored.transpose(2, 0, 1) if planar == "separate" else stored
    options = {}
    if kind == 1:
        data = data.astype(bool)
    elif kind in (2, 4, 10, 12, 14):
        options["bitspersample"] = kind
        if order == ">" and kind > 8:
            data = data.byteswap()  # which tifffile does once more before it packs them
    if predicted:
        options |= {"compression": "zlib", "predictor": True}
    written = photometric
    if photometric == "palette":  # tifffile writes those of 8 bits alone
        colours = COLORMAP[:, : 1 << kind]
        options["extratags"], written = [(320, "H", colours.size, colours.ravel(), True)], "minisblack"
    data = np.ascontiguousarray(data if photometric == "rgb" else data[..., 0])
    planar = planar if photometric == "rgb" else None
    tifffile.imwrite(path, data, photometric=written, planarconfig=planar, byteorder=order, metadata=None, **options)
    if photometric == "palette":
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags["PhotometricInterpretation"].overwrite(3)


def seen(stored, kind, photometric):
    """What a stored picture looks like: grey from black up, of all of its type's range."""
    if photometric == "palette":
        return (COLORMAP >> 8).astype(np.uint8).T[stored[..., 0]]
    if isinstance(kind, int):
        dtype = np.uint8 if kind <= 8 else np.uint16
        stored = np.rint(stored * (np.iinfo(dtype).max / ((1 << kind) - 1))).astype(dtype)
    if photometric == "miniswhite":
        stored = (np.iinfo(stored.dtype).max if stored.dtype.kind == "u" else stored.dtype.type(1)) - stored
    return stored


@pytest.fixture(scope="module")
def tiffs_out(predictor, tmp_path_factory):
    return unchanged(predictor, tmp_path_factory.mktemp("tiff"), write_tiff, tiffs())


@pytest.mark.parametrize("name", tiffs())
def test_tiff(tiffs_out, name):
    photometric, kind, planar, _, _ = tiff_of(name)
    result = tiffs_out[name]
    stored = shades(3 if photometric == "rgb" else 1, kind)
    if (photometric, kind) != ("palette", 1):  # which libtiff does not read
        given = imagecodecs.tiff_decode(result.source.read_bytes())
        wanted = stored.transpose(2, 0, 1) if planar == "separate" else stored
        assert np.array_equal(given.reshape(wanted.shape), wanted), "the test's own file"
    assert result.error is None
    after = imagecodecs.tiff_decode(result.target.read_bytes())
    expected = seen(stored, kind, photometric)
    assert after.dtype == expected.dtype
    assert np.array_equal(after.reshape(expected.shape), expected)
    with tifffile.TiffFile(result.target) as file:
        assert file.pages[0].photometric.name == ("RGB" if expected.shape[-1] == 3 else "MINISBLACK")
