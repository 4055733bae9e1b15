"""Does a picture still say what it said, as far as it is still true, by a reader that is not the writer?"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess

import numpy as np
import pytest
from cases import weights_of

from bilateral_ops.hdrnet import Config, Predictor, enhance_files

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
pytest.importorskip("tqdm", reason="tqdm is not installed")


@pytest.fixture
def enhanced(tmp_path):
    """A file's bytes under strength 0; what became of it."""
    config = Config(net_input=32, spatial_bin=8, luma_bins=4)
    predictor = Predictor(config, weights_of(config))

    def call(path):
        (result,) = enhance_files([path], tmp_path / "out", model=predictor, strength=0, overwrite=True)
        assert result.error is None
        return result

    return call


def shades(height=30, width=48):
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(255 * np.stack([x, 0.5 * (x + y), 0.2 + 0.6 * y], axis=-1)).astype(np.uint8)


def jpeg(path, *segments, end=b"", **options):
    """A JPEG file with these segments after its first."""
    Image.fromarray(shades()).save(path, "JPEG", **options)
    data = path.read_bytes()
    at = 4 + int.from_bytes(data[4:6], "big")
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    path.write_bytes(data[:at] + added + data[at:] + end)
    return path


def segments_of(path):
    """Markers and contents before the scan."""
    data, at, found = path.read_bytes(), 2, []
    while data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], data[at + 4 : at + 2 + size]))
        at += 2 + size
    return found


def resource(kind, body):
    return b"8BIM" + struct.pack(">H", kind) + b"\0\0" + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)


IPTC = b"\x1c\x02\x05\x00\x07A title" + b"\x1c\x02\x50\x00\x08Somebody"
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def test_segments_of_a_jpeg_stay_as_they_are(enhanced, tmp_path):
    kept = [
        (0xE2, b"FPXR\0some"),
        (0xE3, b"Meta\0\0of a camera"),
        (0xEC, b"Ducky\0\1\0\4\0\0\0\x3c"),
        (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 40),
        (0xED, b"Photoshop 3.0\0" + resource(1028, IPTC)),
        (0xFE, b"one comment"),
        (0xFE, b"another"),
    ]
    result = enhanced(jpeg(tmp_path / "a.jpg", *kept))
    assert result.lost == ()
    found = segments_of(result.target)
    assert [segment for segment in found if segment in kept] == kept
    with Image.open(result.target) as file:
        from PIL import IptcImagePlugin

        assert IptcImagePlugin.getiptcinfo(file)[2, 5] == b"A title"


def test_what_describes_the_pixels_goes(enhanced, tmp_path):
    gone = [
        (0xE0, b"JFXX\0\x10thumbnail"),
        (0xED, b"Photoshop 3.0\0" + resource(1036, b"a thumbnail") + resource(1028, IPTC)),
    ]
    result = enhanced(jpeg(tmp_path / "a.jpg", *gone))
    found = segments_of(result.target)
    assert (0xED, b"Photoshop 3.0\0" + resource(1028, IPTC)) in found
    assert not any(b"thumbnail" in body for _, body in found)


GAIN_MAP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" hdrgm:Version="1.0" dc:format="image/jpeg"MOTION>
<Container:Directory><rdf:Seq><rdf:li Item:Semantic="GainMap" Item:Length="1234"/></rdf:Seq></Container:Directory>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize(
    ("xmp", "segments", "end", "lost"),
    [
        (GAIN_MAP.replace(b"MOTION", b""), [(0xE2, b"MPF\0II*\0")], b"\xff\xd8 a map", "its gain map"),
        (GAIN_MAP.replace(b"MOTION", b' GCamera:MotionPhoto="1"'), [], b"ftypmp42", "its motion photo"),
        (None, [(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0")], b"", "its gain map"),
        (None, [(0xE2, b"MPF\0II*\0")], b"\xff\xd8 a preview", "the pictures beside it"),
        (None, [(0xEB, b"JP\0\1jumb")], b"", "its content credentials"),
        (None, [], b"SEFT", "what follows the picture in its file"),
        (None, [], bytes(99), None),
    ],
)
def test_what_lies_beside_a_picture_is_neither_announced_nor_lost_unsaid(enhanced, tmp_path, xmp, segments, end, lost):
    if xmp:
        segments = [(0xE1, XMP + xmp), *segments]
    result = enhanced(jpeg(tmp_path / "a.jpg", *segments, end=end))
    assert (lost in result.lost) if lost else (result.lost == ())
    data = result.target.read_bytes()
    assert data.endswith(b"\xff\xd9")
    for word in (b"hdrgm:Version", b"Container:Directory>", b"GCamera:MotionPhoto=", b"MPF\0", b"21496", b"jumb"):
        assert word not in data
    if xmp:
        import xml.dom.minidom

        left = next(body[len(XMP) :] for marker, body in segments_of(result.target) if body.startswith(XMP))
        assert b'dc:format="image/jpeg"' in left
        xml.dom.minidom.parseString(left)


@pytest.mark.parametrize("end", ["zeros", "text", "picture", "one more chunk"])
def test_what_follows_a_png_is_none_of_its_chunks(enhanced, tmp_path, end):
    from PIL import PngImagePlugin

    path, other = tmp_path / "a.png", PngImagePlugin.PngInfo()
    other.add_text("Title", "of another picture")
    Image.fromarray(shades()[::-1]).save(path, pnginfo=other)
    another = path.read_bytes()
    Image.fromarray(shades()).save(path)
    ends = {"zeros": bytes(99), "text": b"hello, this is no chunk", "picture": another, "one more chunk": another[8:]}
    path.write_bytes(path.read_bytes() + ends[end])
    result = enhanced(path)
    assert result.lost == (() if end == "zeros" else ("what follows the picture in its file",))
    with Image.open(result.target) as file:
        assert np.array_equal(np.asarray(file), shades())
        assert file.info == {}
    assert result.target.read_bytes().endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize(
    "text", [b"<hdrgm:a", b"<hdrgm:a>", b" ", b' hdrgm:a="', b"<Container:Directory>", b" tiff:Orientation ="]
)
def test_hostile_xmp_is_read_through(text):
    """Patterns whose time grows with the square of the length would never end here."""
    from bilateral_ops.photo.metadata import Metadata

    given = text * (2_000_000 // len(text))
    assert len(Metadata(None, given).xmp) in (len(given), 0)


def test_the_command_says_what_is_left_out(run, tmp_path):
    path = jpeg(tmp_path / "a.jpg", (0xE2, b"MPF\0II*\0"), end=b"more")
    code, _, err = run("enhance", path, "--out", tmp_path / "out", "--strength", 0)
    assert (code, err) == (0, f"bilateral-ops enhance: {str(path)!r} is written without the pictures beside it.\n")


def lying(orientation):
    """EXIF of a picture that lies so: 48 × 30 pixels, 300 × 150 to the inch."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif[256], exif[257] = 48, 30
    exif[282], exif[283] = 300.0, 150.0
    inner = exif.get_ifd(0x8769)
    inner[40962], inner[40963] = 48, 30
    inner[41486], inner[41487] = 2000.0, 1000.0
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("end", ["jpg", "png", "webp", "tif"])
def test_sizes_and_resolutions_are_those_of_the_upright_picture(enhanced, tmp_path, end, orientation):
    exif = lying(orientation)
    if end == "tif":
        exif[0x8769] = dict(exif.get_ifd(0x8769))
    Image.fromarray(shades()).save(tmp_path / f"a.{end}", exif=exif, dpi=(300, 150))
    result = enhanced(tmp_path / f"a.{end}")
    across, down = (48, 30) if orientation < 5 else (30, 48)
    dpi = (300, 150) if orientation < 5 else (150, 300)
    with Image.open(result.target) as file:
        assert file.size == (across, down)
        made = file.getexif()
        inner = made.get_ifd(0x8769)
        assert made.get(0x0112, 1) == 1
        assert made[0x010F] == "Maker"
        assert (made[256], made[257]) == (across, down)
        assert (float(made[282]), float(made[283])) == dpi
        assert (inner[40962], inner[40963]) == (across, down)
        assert (inner[41486] > inner[41487]) == (orientation < 5)
        if end != "webp":
            assert file.info["dpi"] == pytest.approx(dpi, rel=1e-3)


def test_xmp_of_a_tiff_says_upright_too(enhanced, tmp_path):
    xmp = b'<x tiff:Orientation="6" tiff:ImageWidth="48" tiff:ImageLength="30" hdrgm:Version="1"/>'
    tags = [(274, "H", 1, 6, True), (700, "B", len(xmp), xmp, True)]
    tifffile.imwrite(tmp_path / "a.tif", shades(), photometric="rgb", metadata=None, extratags=tags)
    result = enhanced(tmp_path / "a.tif")
    assert result.lost == ("its gain map",)
    with Image.open(result.target) as file:
        found = file.tag_v2[700]
    assert found == b'<x tiff:Orientation="1" tiff:ImageLength="48" tiff:ImageWidth="30"/>'


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic(enhanced, tmp_path, bits, orientation):
    """Upright already, with what it says, its depth and its chroma; the map beside it is said to be missing."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    pixels = shades() if bits == 8 else shades().astype(np.uint16) * 257
    given = pillow_heif.from_bytes("RGB" if bits == 8 else "RGB;16", (48, 30), pixels.tobytes())
    given.info.update({"exif": lying(orientation).tobytes(), "xmp": b'<x hdrgm:Version="1.0" a="b"/>'})
    given.save(tmp_path / "a.heic", quality=95, chroma=422)
    result = enhanced(tmp_path / "a.heic")
    assert result.lost == ("its gain map",)
    before, after = (pillow_heif.open_heif(p, convert_hdr_to_8bit=False) for p in (result.source, result.target))
    assert after.size == before.size == ((48, 30) if orientation < 5 else (30, 48))
    assert after.info["bit_depth"] == bits
    assert after.info["chroma"] == 422
    assert after.info["nclx_profile"] == before.info["nclx_profile"]
    assert after.info["xmp"] == b'<x a="b"/>'
    exif = Image.Exif()
    exif.load(after.info["exif"])
    assert (exif.get(0x0112, 1), exif[0x010F], (exif[256], exif[257])) == (1, "Maker", after.size)
    difference = (np.asarray(after).astype(float) - np.asarray(before)) / (1 if bits == 8 else 256)
    assert abs(difference.mean()) < 0.5
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("bits", [8, 10])
def test_tiles_of_heic(enhanced, tmp_path, bits):
    """A phone's photograph is a grid of tiles, which take less memory than one picture."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    pixels = shades(150, 210) if bits == 8 else shades(150, 210).astype(np.uint16) * 257
    given = pillow_heif.from_bytes("RGB" if bits == 8 else "RGB;16", (210, 150), pixels.tobytes())
    given.save(tmp_path / "a.heic", quality=95, chroma=420, tile_size=64)
    before = pillow_heif.open_heif(tmp_path / "a.heic", convert_hdr_to_8bit=False)
    if "tiling" not in before.info:
        pytest.skip("this pillow-heif knows no tiles")
    result = enhanced(tmp_path / "a.heic")
    after = pillow_heif.open_heif(result.target, convert_hdr_to_8bit=False)
    assert after.info["tiling"] == before.info["tiling"]
    difference = (np.asarray(after).astype(float) - np.asarray(before)) / (1 if bits == 8 else 256)
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("with_exif", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_profiles_of_deep_avif(enhanced, tmp_path, channels, with_exif):
    """Beside pictures of imagecodecs', which writes none; Pillow reads them, and the picture as before."""
    from PIL import ImageCms

    from bilateral_ops.photo.boxed import _with_items

    pytest.importorskip("PIL.AvifImagePlugin", reason="Pillow has no AVIF")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.dstack([shades(), shades()[..., :1]])[..., :channels].squeeze().astype(np.uint16) << 2
    form = "yuv400" if channels == 1 else "yuv444"
    bare = imagecodecs.avif_encode(pixels, 90, bitspersample=10, pixelformat=form)
    exif = lying(6).tobytes() if with_exif else None
    (tmp_path / "a.avif").write_bytes(_with_items(bare, exif, None, profile))
    result = enhanced(tmp_path / "a.avif")
    with Image.open(result.source) as given, Image.open(result.target) as made:
        assert made.info["icc_profile"] == given.info["icc_profile"] == profile
        assert made.size == (48, 30)  # in AVIF it is not EXIF that says how a picture lies
        assert made.getexif().get(0x010F) == ("Maker" if with_exif else None)
        assert made.getexif().get(0x0112, 1) == 1
    after = imagecodecs.avif_decode(result.target.read_bytes()).astype(float)
    assert np.abs(after - pixels).mean() < 4
    plain = enhanced(save_bytes(tmp_path / "b.avif", bare)).target
    with Image.open(plain) as made:
        assert "icc_profile" not in made.info
    assert plain.read_bytes().count(b"iref") == (channels == 4)


def save_bytes(path, data):
    path.write_bytes(data)
    return path


# --- by ExifTool


#: What a file says of itself or of how it is stored, and not of the picture.
THEIR_OWN = (
    *("SourceFile", "File:", "Composite:", "ExifTool:", "System:", "IFD1:", "Photoshop:PhotoshopThumbnail"),
    *("IFD0:StripOffsets", "IFD0:StripByteCounts", "IFD0:RowsPerStrip", "PNG:", "RIFF:", "IFD0:PlanarConfiguration"),
    "QuickTime:MediaData",
)


def said(*paths):
    command = ["exiftool", "-json", "-G1", "-a", "-struct", "-ee", *map(str, paths)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return [{name: value for name, value in tags.items() if not name.startswith(THEIR_OWN)} for tags in found]


@pytest.mark.skipif(not shutil.which("exiftool"), reason="ExifTool is not installed")
def test_exiftool_reads_what_it_read(enhanced, tmp_path):
    """Tags of every kind, written by ExifTool, which takes longer to start than for any of these files."""
    names = ("a.jpg", "a.png", "a.webp", "a.tif", "8.avif", "10.avif", "a.jxl", "moving.png", "moving.webp")
    paths = [tmp_path / name for name in names]
    for path in paths:
        if path.name == "10.avif":
            path.write_bytes(imagecodecs.avif_encode(shades().astype(np.uint16) << 2, 90, bitspersample=10))
        elif path.suffix == ".jxl":
            path.write_bytes(imagecodecs.jpegxl_encode(shades(), 90, usecontainer=True))
        elif path.stem == "moving":
            Image.fromarray(shades()).save(path, save_all=True, append_images=[Image.fromarray(255 - shades())])
        else:
            Image.fromarray(shades()).save(path)
    tags = {
        "EXIF:Make": "Maker",
        "EXIF:Artist": "Übermaler",
        "EXIF:ExposureTime": "1/250",
        "EXIF:FNumber": "2.8",
        "EXIF:DateTimeOriginal": "2024:05:06 07:08:09",
        "EXIF:UserComment": "a comment",
        "EXIF:Orientation#": "1",
        "GPS:GPSLatitude": "48.1",
        "GPS:GPSLatitudeRef": "N",
        "GPS:GPSLongitude": "11.5",
        "GPS:GPSLongitudeRef": "E",
        "XMP-dc:Title": "a title",
        "XMP-dc:Creator": "Somebody",
        "XMP-xmp:Rating": "4",
        "XMP-dc:Subject": "tree",
    }
    with_iptc = [path for path in paths if path.suffix in (".jpg", ".tif")]
    iptc = {"IPTC:ObjectName": "a name", "IPTC:Keywords": "leaf"}
    for files, written in ((paths, tags), (with_iptc, iptc)):
        options = [f"-{name}={value}" for name, value in written.items()]
        subprocess.run(["exiftool", "-q", "-overwrite_original", *options, *map(str, files)], check=True)
    found = said(*paths, *(enhanced(path).target for path in paths))
    for path, before, after in zip(paths, found[: len(paths)], found[len(paths) :], strict=True):
        assert len(before) > 15, path.name
        changed = {name: (value, after.get(name)) for name, value in before.items() if after.get(name) != value}
        assert changed == {}, path.name
