"""Is a file what it was after ``--strength 0``: to the bit, or where it is coded with loss, within that loss?

The tables are walked whole, every kind in one run of the job; what came out is read by other libraries than those that
wrote it, where there are two.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib

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


CODED = [
    f"{across}{down} {level} {kind}.tif"
    for (across, down), level, kind in itertools.product(
        ((1, 1), (2, 1), (2, 2), (4, 1)), (60, 93), ("strips", "tiles")
    )
] + ["11 93 rgb.tif", "11 93 grey.tif"]


def write_coded_tiff(path, name):
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    pixels = np.rint(255 * np.stack([x, 0.5 * (x + y), 0.2 + 0.6 * y], axis=-1)).astype(np.uint8)
    sampling, level, kind = name[:-4].split()
    options = {"subsampling": (int(sampling[0]), int(sampling[1]))} if kind != "grey" else {}
    more = {"outcolorspace": 2} if kind == "rgb" else {}
    if kind == "tiles":
        options["tile"] = (32, 32)
    tifffile.imwrite(
        *(path, pixels if kind != "grey" else pixels[..., 1]),
        photometric="minisblack" if kind == "grey" else "rgb",
        metadata=None,
        compression="jpeg",
        **{"compressionargs": {"level": int(level), **more}, **options},
    )


@pytest.fixture(scope="module")
def coded_tiffs_out(predictor, tmp_path_factory):
    return unchanged(predictor, tmp_path_factory.mktemp("coded"), write_coded_tiff, CODED)


@pytest.mark.parametrize("name", CODED)
def test_tiff_with_jpeg(coded_tiffs_out, name):
    """The same quality and sampling, and no more loss than the coder's."""
    result = coded_tiffs_out[name]
    assert (result.error, result.lost) == (None, ())
    with tifffile.TiffFile(result.source) as given, tifffile.TiffFile(result.target) as made:
        one, other = given.pages[0], made.pages[0]
        assert other.compression == one.compression
        assert (other.subsampling or (1, 1)) == (one.subsampling or (1, 1))
        tables = []
        for page in (one, other):
            page.parent.filehandle.seek(page.dataoffsets[0])
            with Image.open(io.BytesIO(page.parent.filehandle.read(page.databytecounts[0]))) as part:
                tables.append(part.quantization[0])
        assert tables[1] == tables[0]
    before, after = (
        imagecodecs.tiff_decode(p.read_bytes(), asrgb=True)[..., :3] for p in (result.source, result.target)
    )
    difference = after.astype(float) - before
    assert abs(difference.mean()) < 0.3
    assert np.abs(difference).mean() < (0.6 if " 93" in name else 1.5)


# --- PNG


PNGS = [
    f"{bits} {colour}{clear}.png"
    for bits, colour, clear in (
        *((bits, "grey", "") for bits in (1, 2, 4, 8, 16)),
        *((bits, "grey", " one clear") for bits in (1, 2, 4, 8, 16)),
        *((bits, "palette", clear) for bits in (1, 2, 4, 8) for clear in ("", " one clear")),
        *((bits, colour, "") for bits in (8, 16) for colour in ("rgb", "greyalpha", "rgba")),
        *((bits, "rgb", " one clear") for bits in (8, 16)),
    )
]
COLOUR_TYPES = {"grey": (0, 1), "rgb": (2, 3), "palette": (3, 1), "greyalpha": (4, 2), "rgba": (6, 4)}


def png_of(name):
    bits, colour, *clear = name[:-4].split()
    return int(bits), colour, bool(clear)


def write_png(path, name):
    bits, colour, clear = png_of(name)
    number, channels = COLOUR_TYPES[colour]
    stored = shades(channels, bits)
    each = np.unpackbits(stored.astype(">u2")[..., None].view(np.uint8), axis=-1).reshape(*stored.shape, 16)
    rows = np.packbits(each[..., 16 - bits :].reshape(HEIGHT, -1), axis=1)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    extra = b""
    if colour == "palette":
        extra = chunk(b"PLTE", (COLORMAP >> 8).astype(np.uint8).T[: 1 << bits].tobytes())
    if clear:
        first = stored[0, 0]
        values = bytes([255] * int(first[0]) + [0]) if colour == "palette" else first.astype(">u2").tobytes()
        extra += chunk(b"tRNS", values)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, number, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.fixture(scope="module")
def pngs_out(predictor, tmp_path_factory):
    return unchanged(predictor, tmp_path_factory.mktemp("png"), write_png, PNGS)


@pytest.mark.parametrize("name", PNGS)
def test_png(pngs_out, name):
    bits, colour, clear = png_of(name)
    result = pngs_out[name]
    assert (result.error, result.lost) == (None, ())
    stored = shades(COLOUR_TYPES[colour][1], bits)
    if colour == "palette":
        expected = (COLORMAP >> 8).astype(np.uint8).T[stored[..., 0]]
    else:
        most = 65535 if bits == 16 else 255
        expected = np.rint(stored * (most / ((1 << bits) - 1))).astype(np.uint16 if bits == 16 else np.uint8)
    if clear:
        opaque = (stored != stored[0, 0]).any(-1, keepdims=True)
        expected = np.concatenate([expected, opaque * expected.dtype.type(np.iinfo(expected.dtype).max)], axis=-1)
    if bits == 16:  # of which Pillow has eight
        after = imagecodecs.png_decode(result.target.read_bytes())
    else:
        with Image.open(result.target) as file:
            after = np.asarray(file)
    assert after.dtype == expected.dtype
    assert np.array_equal(after.reshape(expected.shape), expected)


# --- JPEG


SAMPLINGS = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "440": (1, 2), "411": (4, 1)}
JPEGS = [
    f"{sampling} {quality} {kind}.jpg"
    for sampling, quality, kind in itertools.product(SAMPLINGS, (75, 92, "own"), ("baseline", "turned"))
] + ["420 92 progressive.jpg", "444 own progressive.jpg", "grey.jpg"]


def write_jpeg(path, name):
    """A smooth picture, by coders of several kinds."""
    y, x = np.mgrid[0:1:48j, 0:1:64j]
    pixels = np.rint(255 * np.stack([x, 0.5 * (x + y), 0.2 + 0.6 * y], axis=-1)).astype(np.uint8)
    if name == "grey.jpg":
        Image.fromarray(pixels[..., 1]).save(path, quality=92)
        return
    sampling, quality, kind = name[:-4].split()
    tables = [[3 + (n % 5) for n in range(64)], [4 + (n % 7) for n in range(64)]]
    if kind == "progressive" or quality == "own":
        options = {"qtables": tables} if quality == "own" else {"quality": int(quality)}
        known = {"444": 0, "422": 1}.get(sampling, 2)
        Image.fromarray(pixels).save(path, subsampling=known, progressive=kind == "progressive", **options)
    else:
        path.write_bytes(imagecodecs.jpeg8_encode(pixels, int(quality), subsampling=SAMPLINGS[sampling]))
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        data = path.read_bytes()
        block = exif.tobytes()
        path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])


@pytest.fixture(scope="module")
def jpegs_out(predictor, tmp_path_factory):
    return unchanged(predictor, tmp_path_factory.mktemp("jpeg"), write_jpeg, JPEGS)


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg(jpegs_out, name):
    """What comes out is what the coder alone makes of the pixels, with the same tables."""
    result = jpegs_out[name]
    assert (result.error, result.lost) == (None, ())
    with Image.open(result.source) as given, Image.open(result.target) as made:
        turned = given.getexif().get(0x0112) == 6
        before, after = (np.asarray(file) for file in (given, made))
        assert made.quantization == given.quantization
        assert bool(made.info.get("progressive")) == bool(given.info.get("progressive"))
        coarse, fine = ((file.layer[0][1], file.layer[0][2]) for file in (given, made))
        tables = given.quantization
    before = np.ascontiguousarray(np.rot90(before, -1)) if turned else before
    coarse = coarse[::-1] if turned else coarse
    assert fine[0] <= coarse[0]
    assert fine[1] <= coarse[1]
    assert fine == coarse or "own" in name or coarse == (1, 4), "no finer where the coder has it"
    if fine in ((1, 1), (2, 1), (2, 2)):
        file = io.BytesIO()
        options = {"qtables": tables, "subsampling": {(1, 1): 0, (2, 1): 1, (2, 2): 2}[fine]}
        Image.fromarray(before).save(file, "JPEG", **options)
        alone = file.getvalue()
    else:
        alone = imagecodecs.jpeg8_encode(before, int(name.split()[1]), subsampling=fine)
    with Image.open(io.BytesIO(alone)) as file:
        assert np.array_equal(after, np.asarray(file))
    assert np.abs(after.astype(float) - before).mean() < 1.1


# --- how they lie, and other kinds


LYING = [f"{orientation}.{end}" for orientation in range(1, 9) for end in ("jpg", "png", "tif", "webp", "avif")]
OTHERS = [
    "grey.bmp",
    "rgb.bmp",
    "palette.bmp",
    "alpha.bmp",
    "bits.bmp",
    "palette.gif",
    "clear.gif",
    "grey.avif",
    "rgb.avif",
]


def write_other(path, name):
    y, x = np.mgrid[0:1:24j, 0:1:40j]
    pixels = np.rint(255 * np.stack([x, 0.5 * (x + y), 0.2 + 0.6 * y], axis=-1)).astype(np.uint8)
    kind, end = name.split(".")
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(end, {})
    if end == "avif":
        options = {"quality": 100, "subsampling": "4:4:4"} if kind.isdigit() else {"quality": 95}
    picture = Image.fromarray(pixels)
    if kind.isdigit():
        exif = Image.Exif()
        exif[0x0112] = int(kind)
        options["exif"] = exif
    else:
        picture = {
            "grey": lambda: Image.fromarray(pixels[..., 1]),
            "palette": lambda: picture.quantize(16),
            "clear": lambda: picture.quantize(16),
            "bits": lambda: picture.convert("1"),
        }.get(kind, lambda: picture)()
        options |= {"transparency": 3} if kind == "clear" else {}
    picture.save(path, **options)


@pytest.fixture(scope="module")
def others_out(predictor, tmp_path_factory):
    pytest.importorskip("PIL.AvifImagePlugin", reason="Pillow has no AVIF")
    return unchanged(predictor, tmp_path_factory.mktemp("others"), write_other, LYING + OTHERS)


@pytest.mark.parametrize("name", LYING + OTHERS)
def test_other_pictures(others_out, name):
    from PIL import ImageOps

    result = others_out[name]
    assert (result.error, result.lost) == (None, ())
    assert result.target.name == name.replace(".gif", ".png")
    with Image.open(result.source) as given, Image.open(result.target) as made:
        assert made.getexif().get(0x0112, 1) == 1
        kind = "RGBA" if name == "clear.gif" else made.mode if name.startswith("grey") else "RGB"
        kind = "L" if name == "bits.bmp" else kind
        assert made.mode == kind or name == "grey.avif"
        upright = ImageOps.exif_transpose(given).convert(kind)
        before, after = np.asarray(upright).astype(int), np.asarray(made.convert(kind)).astype(int)
    assert after.shape == before.shape
    if name.endswith(".avif"):
        file = io.BytesIO()
        sampling = {"rgb": "4:2:0", "grey": "4:0:0"}.get(name.split(".")[0], "4:4:4")
        upright.save(file, "AVIF", quality=90, subsampling=sampling)
        with Image.open(file) as alone:
            before = np.asarray(alone.convert(kind)).astype(int)
    assert np.abs(after - before).mean() < (0.5 if name.endswith(".jpg") else 1e-9)


def gradients(channels):
    y, x = np.mgrid[0:1:24j, 0:1:40j]
    return np.stack([x, 0.5 * (x + y), 0.2 + 0.6 * y, 0.1 + 0.8 * x * y], axis=-1)[..., :channels]


DEEP = [
    f"{channels} {bits} {form}.avif" for channels in (3, 4) for bits in (8, 10, 12) for form in ("444", "422", "420")
]
DEEP += [f"{channels} {bits} 400.avif" for channels in (1, 2) for bits in (8, 10, 12)]
JXLS = [
    f"{channels} {kind} {how}.jxl"
    for channels, kind, how in itertools.product(
        (1, 2, 3, 4), ("uint8", "uint16", "float16", "float32"), ("lossless", "lossy")
    )
]


def write_coded(path, name):
    """Of JPEG XL's, those of 8 bits are in sRGB, and others in linear light, as imagecodecs has them."""
    channels, kind, how = name.rsplit(".", 1)[0].split()
    shades = gradients(int(channels))
    if name.endswith(".avif"):
        stored = np.rint(shades * ((1 << int(kind)) - 1)).astype(np.uint8 if kind == "8" else np.uint16)
        said = {"primaries": 9, "transfer": 16, "matrix": 9}
        path.write_bytes(
            imagecodecs.avif_encode(stored.squeeze(), 90, bitspersample=int(kind), pixelformat=f"yuv{how}", **said)
        )
    else:
        most = 1 if kind.startswith("f") else np.iinfo(kind).max
        stored = (shades * most if most == 1 else np.rint(shades * most)).astype(kind)
        options = {"lossless": True} if how == "lossless" else {"level": 90}
        path.write_bytes(imagecodecs.jpegxl_encode(stored.squeeze(), **options))


@pytest.fixture(scope="module")
def coded_out(predictor, tmp_path_factory):
    return unchanged(predictor, tmp_path_factory.mktemp("coded"), write_coded, DEEP + JXLS)


@pytest.mark.parametrize("name", DEEP)
def test_avif(coded_out, name):
    """Depth, sampling and colours as they were, and what the coder alone makes of the pixels."""
    result = coded_out[name]
    assert (result.error, result.lost) == (None, ())
    _, bits, form = name[:-5].split()
    given, made = (path.read_bytes() for path in (result.source, result.target))
    for kind, size in ((b"av1C", 2), (b"colrnclx", 7)):  # profile, depth and sampling; primaries, curve, matrix, range
        one, other = (data[data.index(kind) + len(kind) + (kind == b"av1C") :] for data in (given, made))
        assert one[1:size] == other[1:size]
    before, after = (imagecodecs.avif_decode(data) for data in (given, made))
    said = {"primaries": 9, "transfer": 16, "matrix": 9}
    shades = before[..., [0, 0, 0, 1]] if before.shape[2:] == (2,) else before  # as grey with alpha is read
    alone = imagecodecs.avif_encode(shades, 90, speed=6, bitspersample=int(bits), pixelformat=f"yuv{form}", **said)
    assert np.array_equal(after, imagecodecs.avif_decode(alone))
    assert np.abs(after.astype(float) - before).mean() / (1 << (int(bits) - 8)) < 1


def test_avif_of_other_writers(predictor, tmp_path):
    """Pixels before what says what they are, and a brand that HEIC has, too: the same results."""
    write_coded(tmp_path / "a.avif", "3 10 422.avif")
    data = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "brand.avif").write_bytes(data.replace(b"ftypavif", b"ftypmif1", 1))
    at = data.index(b"meta") - 4
    (size,) = struct.unpack_from(">I", data, at)
    moved = bytearray(data[:at] + data[at + size :] + data[at : at + size])
    place = moved.index(b"iloc") + 18  # of the only item
    struct.pack_into(">I", moved, place, struct.unpack_from(">I", moved, place)[0] - size)
    (tmp_path / "order.avif").write_bytes(moved)
    results = enhance_files(sorted(tmp_path.glob("*.avif")), tmp_path / "out", model=predictor, strength=0)
    assert [result.error for result in results] == [None, None, None]
    first, *others = (imagecodecs.avif_decode(result.target.read_bytes()) for result in results)
    assert first.dtype == np.uint16
    assert all(np.array_equal(first, other) for other in others)


def test_brands_of_sequences(predictor, tmp_path):
    """AVIF and HEIC share one; of AVIF it is an animation, HEIC's is refused by name."""
    pytest.importorskip("PIL.AvifImagePlugin", reason="Pillow has no AVIF")
    write_moving(tmp_path / "a.avif", "3 lossy.avif")
    data = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "b.avif").write_bytes(data.replace(b"ftypavis", b"ftypmsf1", 1))
    for brand in (b"msf1", b"hevc"):
        (tmp_path / f"{brand.decode()}.heic").write_bytes(struct.pack(">I", 20) + b"ftyp" + brand + bytes(4) + b"hevc")
    results = enhance_files(sorted(tmp_path.iterdir()), tmp_path / "out", model=predictor, strength=0)
    sentence = "is a sequence of pictures in HEIC; make a video of it first"
    assert [result.error for result in results] == [None, None, sentence, sentence]
    first, other = (shown(result.target) for result in results[:2])
    assert len(first[0]) == len(SHOWN)
    assert np.array_equal(first[0], other[0])


def test_jpeg_xl_unpacks_no_more_than_it_takes(predictor, tmp_path):
    """Of compressed boxes EXIF and XMP, and of each the first."""
    write_coded(tmp_path / "a.jxl", "3 uint8 lossless.jxl")
    data = imagecodecs.jpegxl_encode(imagecodecs.jpegxl_decode((tmp_path / "a.jxl").read_bytes()), usecontainer=True)
    xmp = b"<x/>"
    for content in (
        b"xml " + imagecodecs.brotli_encode(xmp),
        b"xml " + b"damaged",
        b"jumb" + imagecodecs.brotli_encode(bytes(17 << 20), level=1),
    ):
        data += struct.pack(">I", 8 + len(content)) + b"brob" + content
    (tmp_path / "a.jxl").write_bytes(data)
    (result,) = enhance_files([tmp_path / "a.jxl"], tmp_path / "out", model=predictor, strength=0)
    assert (result.error, result.lost) == (None, ("its content credentials",))
    assert xmp in result.target.read_bytes()


@pytest.mark.parametrize("name", JXLS)
def test_jpeg_xl(coded_out, name):
    result = coded_out[name]
    assert (result.error, result.lost) == (None, ())
    before, after = (imagecodecs.jpegxl_decode(path.read_bytes()) for path in (result.source, result.target))
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    if "lossless" in name:
        assert np.array_equal(after, before)
    else:
        most = 1 if before.dtype.kind == "f" else np.iinfo(before.dtype).max
        assert np.abs(after.astype(float) - before).mean() * 255 / most < 1.2


def test_bmp_with_alpha(predictor, tmp_path):
    """Written with a header that says so; libavcodec reads it as Pillow does."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    pixels = np.rint(gradients(4) * 255).astype(np.uint8)
    header = struct.pack("<IiiHHIIiiII", 108, 40, 24, 1, 32, 3, pixels.size, 11811, 5906, 0, 0)
    header += struct.pack("<4I4s48x", 0xFF000000, 0xFF0000, 0xFF00, 0xFF, b"BGRs")
    stored = pixels[::-1, :, ::-1].tobytes()
    (tmp_path / "a.bmp").write_bytes(struct.pack("<2sIII", b"BM", 122 + pixels.size, 0, 122) + header + stored)
    (result,) = enhance_files([tmp_path / "a.bmp"], tmp_path / "out", model=predictor, strength=0)
    assert (result.error, result.lost) == (None, ())
    for path in (result.source, result.target):
        with Image.open(path) as file:
            assert np.array_equal(np.asarray(file), pixels)
            assert file.info["dpi"] == pytest.approx((300, 150), abs=0.1)
    with av.open(str(result.target)) as file:
        (frame,) = file.decode(video=0)
        assert np.array_equal(frame.to_ndarray(format="rgba"), pixels)


MOVING = [
    f"{channels} {how}{' of 256' if end == 'gif' else ''}.{end}"
    for end, hows in (
        ("png", ("for ever", "thrice", "apart")),
        ("webp", ("for ever", "thrice", "lossy")),
        ("gif", ("for ever", "thrice", "once")),
        ("avif", ("lossy",)),
    )
    for channels, how in itertools.product((1, 3, 4), hows)
    if channels != 1 or end in ("png", "gif")
]
SHOWN = [40, 110, 50, 1000]  # milliseconds


def moving(name):
    channels, how = int(name[0]), name[2:].split(".")[0].removesuffix(" of 256")
    pixels = np.rint(gradients(channels) * 255).astype(np.uint8)
    if channels == 4:
        pixels[:7] = 0  # so clear that no coder keeps a colour there
        if name.endswith(".gif"):
            pixels[..., 3] = 255 * (pixels[..., 3] > 99)
    return [np.roll(pixels, 5 * n, axis=1).squeeze() for n in range(len(SHOWN))], how


def write_moving(path, name):
    frames, how = moving(name)
    first, *others = map(Image.fromarray, frames)
    options = {"for ever": {"loop": 0}, "thrice": {"loop": 2 if name.endswith(".gif") else 3}}.get(how, {})
    if name.endswith(".webp"):
        options |= {"quality": 90} if how == "lossy" else {"lossless": True}
    if name.endswith(".avif"):
        options = {"quality": 90, "subsampling": "4:4:4"}
    shown = SHOWN[1:] if how == "apart" else SHOWN
    options |= {"default_image": True} if how == "apart" else {}
    first.save(path, save_all=True, append_images=others, duration=shown, **options)


@pytest.fixture(scope="module")
def moving_out(predictor, tmp_path_factory):
    pytest.importorskip("PIL.AvifImagePlugin", reason="Pillow has no AVIF")
    return unchanged(predictor, tmp_path_factory.mktemp("moving"), write_moving, MOVING)


def shown(path):
    """The frames as they are seen, and for how long."""
    with Image.open(path) as file:
        frames, times = [], []
        for n in range(file.n_frames):
            file.seek(n)
            pixels = np.asarray(file.convert("RGBA")).astype(int)
            frames.append(np.concatenate([pixels[..., :3] * (pixels[..., 3:] > 0), pixels[..., 3:]], axis=-1))
            times.append(file.info.get("duration", 0) if n or not file.info.get("default_image") else 0)
        return frames, times, file.info.get("loop")


@pytest.mark.parametrize("name", MOVING)
def test_animations(moving_out, name):
    """Every frame, for as long, and as often."""
    result = moving_out[name]
    assert result.error is None
    assert result.lost == (("how often it is to be repeated",) if name.endswith(".avif") else ())
    assert result.target.name == name.replace(".gif", ".png")
    before, after = shown(result.source), shown(result.target)
    assert len(after[0]) == len(before[0]) == len(SHOWN)
    assert after[1] == pytest.approx(before[1], abs=1e-6)
    assert sum(after[1]) == sum(SHOWN if "apart" not in name else SHOWN[1:])
    loop = {"thrice": 3, "once": 1}.get(moving(name)[1], 0)
    assert after[2] == (loop if not name.endswith(".avif") else None)
    for one, other in zip(before[0], after[0]):
        assert np.abs(one - other).mean() < (1.5 if "lossy" in name else 1e-9)


# --- videos

FRAMES = 4


def videos():
    subsampled = itertools.product((8, 10, 12), ("420", "422", "444"), ("limited", "full"), (1, 5, 9))
    names = [f"yuv{sampling}p{bits} {scale} {space}.mkv" for bits, sampling, scale, space in subsampled]
    names += [f"gbrp{bits} full 0.mkv" for bits in (8, 10, 12)] + ["gray8 limited 1.mkv", "gray10 full 5.mkv"]
    names += ["yuv440p8 limited 1.mkv", "yuv411p8 full 5.mkv", "yuva420p8 limited 1.mkv", "yuv444p8 limited 8.mkv"]
    names += ["yuv444p10 limited 1.mov", "yuv422p10 limited 1.mov", "yuv420p8 full 1.mp4", "yuv444p12 full 9.mp4"]
    return [
        *names,
        "yuv420p8 limited 1.webm",
        "yuv444p8 full 5.webm",
        "yuv420p8 limited 5.avi",
        "yuv420p10 limited 9.ts",
    ]


def video_of(name):
    form, scale, space = name.rsplit(".", 1)[0].split()
    pixels, bits = form.rstrip("0123456789"), int(form[len(form.rstrip("0123456789")) :])
    return pixels + (f"{bits}le" if bits > 8 else ""), bits, scale == "full", int(space)


def planes_of(frame):
    """Copies of a frame's planes."""
    kind = np.uint8 if max(part.bits for part in frame.format.components) <= 8 else np.uint16
    return [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width].copy() for plane in frame.planes]


def write_video(path, name, height=48, width=64):
    """Shades that move, of colours that there are; the first by a coder without loss, where the container holds it."""
    import av

    form, bits, full, space = video_of(name)
    rgb = "gbr" in form
    codecs = {"mkv": "ffv1", "webm": "libvpx-vp9", "ts": "libx265", "mov": "prores_ks"}
    codec = "libx265" if form == "gbrp" else codecs.get(name.rsplit(".", 1)[1], "libx264" if bits <= 10 else "libx265")
    options = {"crf": "1"} if codec != "ffv1" else {}
    with av.open(str(path), "w", format="mpegts" if name.endswith(".ts") else None) as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, form
        context = stream.codec_context
        context.color_range, context.colorspace = 2 if full else 1, space
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        for n in range(FRAMES):
            frame = av.VideoFrame(width, height, form)
            frame.color_range, frame.colorspace = context.color_range, space
            shades = [0.3 + 0.4 * (x + y) / 2, 0.45 + 0.1 * x, 0.55 - 0.1 * y, 0.2 + 0.6 * x * y]
            for plane, shade in zip(frame.planes, shades):
                kind = np.uint8 if bits == 8 else np.uint16
                moved = np.roll(shade, n, axis=1)
                part = moved.reshape(plane.height, height // plane.height, plane.width, -1).mean((1, 3))
                rows = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
                low, range_ = (0, (1 << bits) - 1) if full or rgb else (16 << (bits - 8), 219 << (bits - 8))
                rows[:, : plane.width] = np.rint(low + range_ * part)
                plane.update(rows)
            frame.pts = n
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos_in(tmp_path_factory):
    pytest.importorskip("av", reason="PyAV is not installed")
    folder = tmp_path_factory.mktemp("video")
    (folder / "in").mkdir()
    for name in videos():
        write_video(folder / "in" / name, name)
    return folder


@pytest.fixture(scope="module", params=["ffv1", None])
def videos_out(predictor, videos_in, request):
    """By an encoder that loses nothing, where the container has it, and by the one that is chosen."""
    from bilateral_ops.hdrnet import VideoOptions

    names = [name for name in videos() if (name.endswith(".mkv") if request.param else not name.endswith(" 9.mkv"))]
    options = VideoOptions(codec=request.param, crf=1)
    inputs = [videos_in / "in" / name for name in names]
    results = enhance_files(inputs, videos_in / str(request.param), model=predictor, strength=0, video=options)
    return request.param, {result.source.name: result for result in results}


def frames_of(path):
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        transparent = any(name.lower() == "alpha_mode" for name in stream.metadata)  # which FFmpeg's decoder leaves out
        decoder = av.CodecContext.create("libvpx-vp9", "r") if transparent else stream.codec_context
        return [frame for packet in file.demux(stream) for frame in decoder.decode(packet)]


@pytest.mark.parametrize("name", videos())
def test_video(videos_out, name):
    codec, results = videos_out
    if name not in results:
        return
    result = results[name]
    assert (result.error, result.lost) == (None, ())
    bits = video_of(name)[1]
    given, made = frames_of(result.source), frames_of(result.target)
    assert len(made) == len(given) == FRAMES
    # Codecs without these kinds have finer ones; FFmpeg has 4:2:0 for H.264's grey.
    finer = {"yuv440p": "yuv444p", "yuv411p": "yuv422p", "gray": "yuv420p", "gray10le": "yuv420p10le"}
    for before, after in zip(given, made):
        names = [frame.format.name.replace("yuvj", "yuv") for frame in (before, after)]
        assert names[1] in ((names[0], "bgr0") if codec and bits == 8 else (names[0], finer.get(names[0])))
        assert (after.color_range, after.colorspace) == (before.color_range, before.colorspace)
        frames = (frame.reformat(format="gbrp") if names[0] == "gbrp" else frame for frame in (before, after))
        for one, other in zip(*map(planes_of, frames)):
            if one.shape != other.shape:
                continue
            difference = (other.astype(float) - one) / (1 << (bits - 8))
            assert abs(difference.mean()) < (0.002 if codec else 0.15)
            assert np.abs(difference).mean() < (0.01 if codec else 0.4)
