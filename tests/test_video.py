"""Is all that a video is and says in what ``bilateral-ops enhance`` makes of it, or said to be missing?"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from cases import weights_of

from bilateral_ops.hdrnet import Config, Predictor, VideoOptions, enhance_files

av = pytest.importorskip("av", reason="PyAV is not installed")
for name in ("PIL", "tifffile", "imagecodecs", "tqdm"):
    pytest.importorskip(name, reason=f"{name} is not installed")

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def predictor():
    config = Config(net_input=32, spatial_bin=8, luma_bins=4)
    return Predictor(config, weights_of(config))


@pytest.fixture
def enhanced(predictor, tmp_path):
    """A file under strength 0; what became of it."""

    def call(path, **options):
        (result,) = enhance_files(
            [path], tmp_path / "out", model=predictor, strength=0, overwrite=True, video=VideoOptions(**options)
        )
        return result

    return call


def shades(n=0, height=HEIGHT, width=WIDTH):
    """A picture that is no picture of its own mirrored or turned one."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    made = np.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.4 + 0.3 * x * y], axis=-1)
    return np.roll(np.rint(made * 255).astype(np.uint8), n, axis=1)


def clip(path, count=6, codec="libx264", rate=25, times=None, prepare=None, streams=None, **context):
    """A file of ``count`` frames, at these times (in frames); other streams are added by ``streams``."""
    options = context.pop("options", {"crf": "5"})
    size = context.pop("size", (HEIGHT, WIDTH))
    with av.open(str(path), "w", **context.pop("container", {})) as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = size
        for name, value in {"pix_fmt": "yuv420p", **context}.items():
            setattr(stream.codec_context, name, value)
        packets = streams(file) if streams else []
        if prepare:
            prepare(stream)
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(shades(n, *size), format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            frame.pts = times[n] if times else n
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for packet in packets:
            file.mux(packet)
    return path


def frames_of(path):
    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def sound(file, **described):
    """A second of noise as a stream."""
    codec = {"webm": "libopus", "avi": "mp2", "mpegts": "mp2"}.get(file.format.name, "aac")
    stream = file.add_stream(codec, rate=48000, layout="stereo")
    stream.metadata.update(described)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 24000)).astype(np.float32)
    form = stream.codec_context.format.name
    if form != "fltp":
        noise = np.rint(noise * 20000).astype(np.int16)
    if form in ("s16", "flt"):
        noise = np.ascontiguousarray(noise.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(noise, format=form, layout="stereo")
    frame.sample_rate, frame.pts = 48000, 0
    return [*stream.encode(frame), *stream.encode(None)]


# --- how it lies


MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


@pytest.mark.parametrize("orientation", MATRICES)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_every_display_matrix_is_followed(enhanced, tmp_path, orientation, suffix):
    path = clip(tmp_path / f"a{suffix}", 2, options={"crf": "1"}, pix_fmt="yuv444p")
    a, b, c, d = (v << 16 for v in MATRICES[orientation])
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    result = enhanced(path, crf=1)
    assert result.error is None
    given, made = (frames_of(p)[0] for p in (path, result.target))
    assert not [data for data in made.side_data if data.type.name == "DISPLAYMATRIX"]
    # (x, y) of a stored pixel is shown at (a·x + c·y, b·x + d·y), moved into view.
    stored = given.to_ndarray(format="rgb24").astype(int)
    y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
    a, b, c, d = MATRICES[orientation]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    shown = np.zeros((down.max() + 1, across.max() + 1, 3), int)
    shown[down, across] = stored
    after = made.to_ndarray(format="rgb24").astype(int)
    assert after.shape == shown.shape
    assert np.abs(after - shown).mean() < 1.5


def test_a_skew_display_matrix_is_refused(enhanced, tmp_path):
    path = clip(tmp_path / "a.mp4", 2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 8] = struct.pack(">2i", 46341, 46341)
    path.write_bytes(data)
    assert enhanced(path).error == "is to be shown turned by less than a quarter; turn it first"


# --- when


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov"])
def test_a_video_need_not_begin_at_0(enhanced, tmp_path, suffix):
    path = clip(tmp_path / f"a{suffix}", 25, times=range(250, 275), streams=sound)
    result = enhanced(path)
    assert (result.error, result.frames) == (None, 25)
    times = [[float(frame.pts * frame.time_base) for frame in frames_of(p)] for p in (path, result.target)]
    assert times[0] == pytest.approx(times[1], abs=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_last_frame_may_be_held(enhanced, tmp_path, suffix):
    clip(tmp_path / f"a{suffix}", 5, options={"crf": "5", "bf": "0"})
    path = tmp_path / f"held{suffix}"
    with av.open(str(tmp_path / f"a{suffix}")) as given, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        for packet in packets:
            packet.stream = stream
            if packet.pts == max(p.pts for p in packets):
                packet.duration = int(4 / packet.time_base)
            made.mux(packet)
    with av.open(str(path)) as file:
        if all((packet.duration or 0) * packet.time_base < 4 for packet in file.demux(video=0) if packet.size):
            pytest.skip("FFmpeg before 8 does not read how long a block of Matroska lasts")
    result = enhanced(path)
    assert (result.error, result.frames) == (None, 5)
    with av.open(str(path)) as given, av.open(str(result.target)) as made:
        assert made.duration == pytest.approx(given.duration, abs=50_000)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".avi", "libx264"), (".avi", "mpeg4"), (".m4v", "libx264"), (".3gp", "libx264")]
)
def test_ten_seconds_are_ten_seconds(enhanced, tmp_path, suffix, codec):
    options = {"crf": "30"} if codec == "libx264" else {}
    path = clip(tmp_path / f"a{suffix}", 100, rate=10, codec=codec, options=options, size=(16, 16))
    result = enhanced(path)
    assert (result.error, result.frames) == (None, 100)
    with av.open(str(result.target)) as file:
        assert file.duration == pytest.approx(10e6, abs=1e5)
    assert len(frames_of(result.target)) == 100


@pytest.mark.parametrize("suffix", [".ts", ".m2ts", ".mts", ".3gp", ".mpg", ".wmv"])
def test_other_kinds_are_videos(predictor, tmp_path, suffix):
    codec, form = {".mpg": ("mpeg2video", "mpeg"), ".wmv": ("wmv2", "asf")}.get(suffix, ("libx264", None))
    options = {"crf": "5"} if codec == "libx264" else {"b": "2M"}
    kinds = {".m2ts": {"format": "mpegts", "options": {"mpegts_m2ts_mode": "1"}}, ".mts": {"format": "mpegts"}}
    container = kinds.get(suffix, {"format": form} if form else {})
    (tmp_path / "in").mkdir()
    clip(tmp_path / "in" / f"a{suffix}", 10, codec, options=options, container=container)
    (result,) = enhance_files([tmp_path / "in"], tmp_path / "out", model=predictor, strength=0)
    assert (result.error, result.frames) == (None, 10)
    assert result.target.suffix == {".mpg": ".mkv", ".wmv": ".mkv"}.get(suffix, suffix)
    for before, after in zip(frames_of(result.source), frames_of(result.target), strict=True):
        difference = after.to_ndarray(format="rgb24").astype(int) - before.to_ndarray(format="rgb24")
        assert abs(difference.mean()) < 1
    with av.open(str(result.source)) as given, av.open(str(result.target)) as made:
        if result.target.suffix == suffix:
            assert made.format.name == given.format.name


def test_a_file_of_code_is_no_transport_stream(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "index.ts").write_text("export const answer = 42;\n" * 30)
    clip(tmp_path / "in" / "a.ts", 5)
    results = enhance_files([tmp_path / "in"], tmp_path / "out", model=predictor, strength=0)
    assert [(result.source.name, result.error) for result in results] == [("a.ts", None)]


# --- what else is in it


def test_languages_titles_and_roles_stay(enhanced, tmp_path):
    from av.stream import Disposition

    def two(file):
        packets = sound(file, language="fra", title="Kommentar") + sound(file, language="deu")
        first, second = file.streams.audio
        first.disposition, second.disposition = Disposition.comment.value, Disposition.default.value
        file.streams.video[0].metadata["language"] = "jpn"
        file.metadata["title"] = "a film"
        return packets

    result = enhanced(clip(tmp_path / "a.mkv", 25, streams=two))
    assert (result.error, result.lost) == (None, ())
    with av.open(str(result.target)) as file:
        assert file.metadata["title"] == "a film"
        assert file.streams.video[0].metadata["language"] == "jpn"
        first, second = file.streams.audio
        assert (first.metadata["language"], first.metadata["title"]) == ("fra", "Kommentar")
        assert second.metadata["language"] == "deu"
        assert first.disposition & Disposition.comment
        assert second.disposition & Disposition.default
        assert not first.disposition & Disposition.default


def test_attachments_stay(enhanced, tmp_path):
    def font(file):
        file.add_attachment("a font.ttf", "font/ttf", b"letters" * 9)
        return []

    result = enhanced(clip(tmp_path / "a.mkv", streams=font))
    assert (result.error, result.lost) == (None, ())
    with av.open(str(result.target)) as file:
        (attachment,) = file.streams.attachments
        assert (attachment.name, attachment.mimetype, attachment.data) == ("a font.ttf", "font/ttf", b"letters" * 9)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_art_stays(enhanced, tmp_path, suffix):
    from av.stream import Disposition

    def cover(file):
        stream = file.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuvj420p"
        stream.disposition = Disposition.attached_pic.value
        frame = av.VideoFrame.from_ndarray(shades(0, 16, 16), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        return [*stream.encode(frame), *stream.encode(None)]

    path = clip(tmp_path / f"a{suffix}", streams=cover)
    result = enhanced(path)
    assert (result.error, result.lost) == (None, ())
    assert result.frames == 6
    covers = []
    for name in (path, result.target):
        with av.open(str(name)) as file:
            (stream,) = (s for s in file.streams.video if s.codec_context.name == "mjpeg")
            assert suffix == ".mkv" or stream.disposition & Disposition.attached_pic
            covers.append([bytes(packet) for packet in file.demux(stream) if packet.size])
    assert covers[0] == covers[1]


LIGHT = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_light_levels_stay(enhanced, tmp_path, suffix):
    options = {"x265-params": LIGHT, "crf": "5"}
    path = clip(
        *(tmp_path / "a.mkv", 3, "libx265"),
        options=options,
        pix_fmt="yuv420p10le",
        color_trc=16,
        colorspace=9,
        color_primaries=9,
    )
    path = path.rename(path.with_suffix(suffix))
    result = enhanced(path)
    assert (result.error, result.lost) == (None, ())

    def light(name):
        frame = frames_of(name)[0]
        assert frame.format.name == "yuv420p10le"
        assert (frame.color_trc, frame.colorspace, frame.color_primaries) == (16, 9, 9)
        found = {data.type.name: bytes(data) for data in frame.side_data}
        values = [n / d for n, d in struct.iter_unpack("=2i", found["MASTERING_DISPLAY_METADATA"][:80])]
        return [*values, *struct.unpack_from("=2I", found["CONTENT_LIGHT_LEVEL"])]

    assert light(result.target) == pytest.approx(light(path), rel=1e-3, abs=1e-4)
    with av.open(str(result.target)) as file:
        assert file.streams.video[0].codec_context.name == ("libdav1d" if suffix == ".webm" else "hevc")


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_hevc_is_hvc1(enhanced, tmp_path, suffix):
    result = enhanced(clip(tmp_path / f"a{suffix}", 3), codec="libx265")
    with av.open(str(result.target)) as file:
        assert file.streams.video[0].codec_context.codec_tag == "hvc1"


def test_interlaced_frames_stay_so(enhanced, tmp_path):
    def interlaced(stream):
        stream.codec_context.flags |= (1 << 18) | (1 << 29)

    path = clip(tmp_path / "a.mkv", 4, prepare=interlaced, options={"crf": "5", "x264-params": "tff=1"})
    assert all(frame.interlaced_frame for frame in frames_of(path))
    result = enhanced(path, crf=5)
    assert (result.error, result.lost) == (None, ())
    assert all(frame.interlaced_frame for frame in frames_of(result.target))
    result = enhanced(path, codec="libx265")
    assert (result.error, result.lost) == (None, ("the mark that it is interlaced",))


@pytest.mark.parametrize("name", ["webm", "mov"])
def test_transparency_stays(enhanced, tmp_path, name):
    codec, form = {"webm": ("libvpx-vp9", "yuva420p"), "mov": ("prores_ks", "yuva444p10le")}[name]
    path = clip(tmp_path / f"a.{name}", 3, codec, pix_fmt=form, options={})
    result = enhanced(path)
    if name == "mov":  # of 12 bits as it is decoded, of which no encoder of alpha has more than 10
        assert "has yuva444p12le pixels of 64 × 48, which no encoder for such files keeps" in result.error
        result = enhanced(path, codec="prores_ks")
        assert (result.error, result.lost) == (None, ("what its yuva444p12le pixels have beyond yuva444p10le",))
        assert frames_of(result.target)[0].format.name.startswith("yuva444p")
        return
    assert (result.error, result.lost) == (None, ())
    with av.open(str(result.target)) as file:
        assert "1" in [value for key, value in file.streams.video[0].metadata.items() if key.lower() == "alpha_mode"]


def test_data_that_is_left_out_is_said(enhanced, tmp_path, capsys):
    def telemetry(file):
        stream = file.add_data_stream("bin_data")
        packet = av.Packet(b"where it was")
        packet.time_base = Fraction(1, 90_000)
        packet.stream, packet.pts, packet.dts = stream, 0, 0
        return [packet]

    try:
        path = clip(tmp_path / "a.ts", streams=telemetry)
    except (ValueError, av.error.FFmpegError):
        pytest.skip("FFmpeg writes no data here")
    assert enhanced(path).lost == ("its stream of data",)


PROBED = (
    "width",
    "height",
    "pix_fmt",
    "color_range",
    "color_space",
    "color_transfer",
    "color_primaries",
    "field_order",
)


def probed(path):
    """What ffprobe says of a file's streams and of its first frame."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_frames", "-read_intervals", "%+#1"]
    found = json.loads(subprocess.run([*command, str(path)], capture_output=True, check=True).stdout)
    described = []
    for stream in found["streams"]:
        tags = {k: v for k, v in stream.get("tags", {}).items() if k in ("language", "title", "filename", "mimetype")}
        shown = {k: stream[k] for k in PROBED if k in stream} if stream["codec_type"] == "video" else {}
        described.append((stream["codec_type"], tags, shown, stream["disposition"]))
    light = [data for frame in found["frames"] for data in frame.get("side_data_list", []) if "metadata" in str(data)]
    return described, [data for data in light if "H.26" not in data["side_data_type"]]


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_ffprobe_reads_what_it_read(enhanced, tmp_path, suffix):
    def described(file):
        file.streams.video[0].metadata["language"] = "jpn"
        packets = sound(file, language="fra")
        if suffix == ".mkv":
            file.add_attachment("a font.ttf", "font/ttf", b"letters")
        return packets

    options = {"x265-params": LIGHT, "crf": "5"}
    colours = {"color_trc": 16, "colorspace": 9, "color_primaries": 9, "color_range": 1}
    path = clip(
        tmp_path / f"a{suffix}", 12, "libx265", options=options, pix_fmt="yuv420p10le", streams=described, **colours
    )
    result = enhanced(path)
    assert (result.error, result.lost) == (None, ())
    assert probed(result.target) == probed(path)


# --- how it is coded


@pytest.mark.parametrize(
    ("codec", "suffix", "sentence"),
    [
        ("nosuch", ".mp4", "--codec must be an encoder of video that FFmpeg has, got 'nosuch'"),
        ("aac", ".mp4", "--codec must be an encoder of video that FFmpeg has, got 'aac'"),
        ("prores_ks", ".mp4", "cannot be encoded by prores_ks ('mp4' format does not support 'prores_ks' codec)"),
        ("mjpeg", ".mkv", "cannot be encoded by mjpeg ("),
        ("prores_ks", ".mov", None),
        ("mpeg4", ".avi", None),
        ("ffv1", ".mkv", None),
        ("rawvideo", ".mkv", None),
        ("h264_nvenc", ".mkv", "h264_nvenc"),
    ],
)
def test_codecs_work_or_say_why_not(run, tmp_path, codec, suffix, sentence):
    path = clip(tmp_path / f"a{suffix}", 3)
    code, _, err = run("enhance", path, "--out", tmp_path / "out", "--codec", codec, "--strength", 0)
    assert err.count("\n") == (0 if sentence is None else 1)
    assert (sentence or "") in err
    assert code == (0 if sentence is None else 2 if "must be" in sentence else 1)


PACKED = {
    "yuyv422.avi": ("rawvideo", "yuv422p"),
    "nv12.mkv": ("rawvideo", "yuv420p"),
    "bgr24.avi": ("rawvideo", "gbrp"),
    "rgb24.mov": ("qtrle", "gbrp"),
    "argb.mov": ("qtrle", "rgba"),
    "rgb48be.mov": ("png", "rgb48be"),
    "gray16be.mov": ("png", "gray16be"),
    "yuvj422p.avi": ("mjpeg", "yuv422p"),
    "yuv411p.avi": ("ffv1", "yuv422p"),
}


@pytest.mark.parametrize("name", PACKED)
def test_pixels_of_other_layouts_come_out_alike(enhanced, tmp_path, name):
    codec, kept = PACKED[name]
    path = clip(tmp_path / name, 2, codec, options={}, pix_fmt=name.split(".")[0])
    result = enhanced(path, crf=1)
    assert (result.error, result.lost) == (None, ())
    given, made = frames_of(path)[0], frames_of(result.target)[0]
    assert made.format.name.replace("yuvj", "yuv") == kept
    form = "gray16le" if "gray" in kept else "rgb24"
    difference = made.to_ndarray(format=form).astype(int) - given.to_ndarray(format=form)
    assert abs(difference.mean()) < 0.5
    assert np.abs(difference).mean() < 2.5


@pytest.mark.parametrize(("form", "kept"), [("yuv420p", "yuv444p"), ("yuv420p10le", "yuv444p10le")])
def test_odd_sizes_keep_their_depth(enhanced, tmp_path, form, kept):
    path = clip(tmp_path / "a.mkv", 2, "ffv1", options={}, pix_fmt=form, size=(47, 63))
    for codec in (None, "ffv1"):
        result = enhanced(path, crf=1, codec=codec)
        assert (result.error, result.lost) == (None, ())
        given, made = frames_of(path)[0], frames_of(result.target)[0]
        assert (made.width, made.height, made.format.name) == (63, 47, form if codec else kept)
        kind = np.dtype(np.uint16 if "10" in form else np.uint8)
        rows = [np.frombuffer(f.planes[0], kind).reshape(47, -1)[:, :63].astype(float) for f in (given, made)]
        difference = (rows[1] - rows[0]) / (4 if "10" in form else 1)
        assert np.abs(difference).mean() < (1e-3 if codec else 0.3)


def test_encoders_write_nothing_beside_the_sentence(enhanced, tmp_path, capfd):
    path = clip(tmp_path / "a.mkv", 3)
    capfd.readouterr()
    assert enhanced(path, codec="libx265").error is None
    assert capfd.readouterr() == ("", "")


def test_a_video_that_changes_its_size_is_refused(enhanced, tmp_path):
    one, other = clip(tmp_path / "1.ts", 3), clip(tmp_path / "2.ts", 3, size=(32, 32))
    (tmp_path / "a.ts").write_bytes(one.read_bytes() + other.read_bytes())
    assert enhanced(tmp_path / "a.ts").error == "changes its size or pixel format on the way; cut it there first"


@pytest.mark.parametrize("name", ["cuda", "vaapi", "bayer_rggb8", "gbrpf32le", "xyz12le"])
def test_pixels_that_have_no_planes_are_refused(name):
    from bilateral_ops.photo.images import ImageError
    from bilateral_ops.photo.planes import layout_of

    with pytest.raises(ImageError, match=f"^has {name} pixels, which cannot be enhanced; convert it first$"):
        layout_of(name)


def test_colours_are_ffmpegs(predictor):
    """The matrices are those of FFmpeg's scaler, which has its own."""
    from bilateral_ops.photo.planes import Colours, layout_of, read_planes

    for space, full in ((1, False), (5, False), (7, False), (1, True), (5, True)):
        frame = av.VideoFrame.from_ndarray(shades(), format="rgb24")
        scale = 2 if full else 1
        frame = frame.reformat(format="yuv444p", dst_colorspace=space, dst_color_range=scale, interpolation="BICUBIC")
        colours = Colours(layout_of("yuv444p"), space, full, HEIGHT, WIDTH)
        planes = read_planes(frame, layout_of("yuv444p")).transpose(1, 2, 0) / 255
        rgb = planes @ colours.to_rgb[:, :3].T + colours.to_rgb[:, 3]
        assert np.abs(rgb * 255 - shades()).max() < 2.5, (space, full)
    red = np.array([16 + 219 * 0.2627, 128 - 112 * 0.2627 / (1 - 0.0593), 240]) / 255  # of BT.2020
    to_rgb = Colours(layout_of("yuv444p"), 9, False, HEIGHT, WIDTH).to_rgb
    assert to_rgb[:, :3] @ red + to_rgb[:, 3] == pytest.approx([1, 0, 0], abs=1e-12)
