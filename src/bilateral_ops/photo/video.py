"""Video files frame by frame under a model, whose grids change smoothly from one frame to the next."""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..ops._enhance import enhance
from ..ops._guide_luma import LumaGuide
from .images import ImageError, ahead, check_empty, check_size, reading, reason, write_comparison
from .metadata import turn
from .planes import Colours, layout_of, read_planes, write_planes

#: What FFmpeg calls the container of files so named.
FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".3gp": "3gp",
    **dict.fromkeys((".ts", ".mts", ".m2ts"), "mpegts"),
}
#: Kinds whose own codecs are of another time, and what is written instead.
SUBSTITUTES = {".mpg": ".mkv", ".mpeg": ".mkv", ".wmv": ".mkv"}
SUFFIXES = (*FORMATS, *SUBSTITUTES)
#: Those whose frames last from one to the next.
_MP4 = ("mp4", "mov", "3gp")
#: The encoders that are tried for a container, until one keeps what is in the frames.
_ENCODERS = {
    "mp4": ("libx264", "libx264rgb", "libx265"),
    "mov": ("libx264", "libx264rgb", "libx265", "prores_ks", "png"),
    "matroska": ("libx264", "libx264rgb", "libx265", "libvpx-vp9", "ffv1"),
    "webm": ("libvpx-vp9", "libsvtav1"),
    "avi": ("libx264", "libx264rgb", "ffv1"),
    "3gp": ("libx264",),
    "mpegts": ("libx264", "libx265"),
}
#: Those that take no odd sizes where chroma is subsampled.
_EVEN = ("libx264", "libx265", "libsvtav1")
#: Those whose quality is a quantizer's scale.
_SCALED = ("mpeg4", "mpeg2video", "mjpeg")
#: Those that mark frames as interlaced.
_INTERLACED = ("libx264", "libx264rgb", "prores_ks", "mpeg2video")
#: Constant rate factors: the default, and where they end, of codecs with this in their name.
_FACTORS = {"264": (18, 51), "265": (18, 51), "vpx": (30, 63), "av1": (30, 63), "aom": (30, 63)}

#: The mean difference of two low-resolution frames from which they are of two scenes: of values in [0, 1], about what
#: scene detectors take for a cut; camera moves and lights stay below a half of it.
CUT = 0.1
#: A video whose frames end so many seconds before it says it does is truncated.
MISSING = 0.25
#: What encoders call a mastering display and its light levels, and where they want them.
_LIGHT = {
    "libx264": ("x264-params", "mastering-display", "cll"),
    "libx264rgb": ("x264-params", "mastering-display", "cll"),
    "libx265": ("x265-params", "master-display", "max-cll"),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light"),
}
#: FFmpeg's numbers: the full range; the curves of HDR, PQ and HLG.
_FULL, _HDR = 2, (16, 18)
_INTERLACED_DCT, _INTERLACED_ME, _COVER = 1 << 18, 1 << 29, 1 << 10


@dataclass(frozen=True)
class VideoOptions:
    """How videos are smoothed and encoded."""

    smoothing: float = 0.3  # seconds after which a grid has 1/e of its weight
    codec: str | None = None  # None: libx264, in WebM libvpx-vp9; another where these would lose something
    crf: int | None = None

    def encoder(self, suffix: str) -> tuple[str, int | None]:
        """The codec of a file so named, and the highest factor that it is known to have: some cut it without a word."""
        codec = self.codec or _ENCODERS[FORMATS[suffix.lower()]][0]
        return codec, next((most for part, (_, most) in _FACTORS.items() if part in codec), None)


class Smoother:
    """An exponential average of grids in time, which begins anew where a scene does.

    smooth(t) = smooth(t') + (1 − exp(−(t − t')/τ)) · (grid(t) − smooth(t')),   t' the frame before
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._grid: Any = None
        self._low: Any = None
        self._time = 0.0

    def __call__(self, grid: Any, low: Any, time: float) -> Any:
        """The grid to use for a frame at this time (seconds), given its own and the network's input."""
        if self._grid is None or self.seconds == 0 or float(np.abs(low - self._low).mean()) > CUT:
            self._grid = grid
        else:
            share = -math.expm1(-max(time - self._time, 0) / self.seconds)
            self._grid = self._grid + np.float32(share) * (grid - self._grid)
        self._low, self._time = low, time
        return self._grid


@dataclass
class Transcoding:
    """A video that is enhanced into another, while :meth:`frames` is gone through.

    Frames are turned upright; sound, subtitles, cover art and attachments are copied. ``comparison`` is where a picture
    of the middle frame, before and after, is written; ``lost`` is what of the video is not in the result.
    """

    source: Path
    target: Path
    suffix: str
    predictor: Any
    strength: float
    options: VideoOptions
    comparison: Path | None
    lost: list[str] = field(default_factory=list)
    given: Any = None
    made: Any = None
    encoder: Any = None
    copied: dict[int, Any] = field(default_factory=dict)  # other streams
    waiting: list[Any] = field(default_factory=list)  # packets that came before the first frame was written
    lasts: dict[int, int] = field(default_factory=dict)  # how long frames are shown, by when
    until: int = 0  # when the last of these ends
    delay: int | None = None  # from when packets are decoded to when they are shown
    middle: Any = None  # the last frame of the first half, before and after
    seen: Any = None  # the model as it sees the planes

    def frames(self) -> Generator[tuple[int, float], None, None]:
        """Write the result; yields for every frame its pixels and its share of the whole."""
        import av

        self.smoother = Smoother(self.options.smoothing)
        self.container = FORMATS[self.suffix.lower()]
        muxing = {"mpegts_m2ts_mode": "1"} if self.suffix.lower() in (".mts", ".m2ts") else {}
        with reading("is damaged: its header cannot be read"):
            check_empty(self.source)
            self.given = av.open(str(self.source))
        try:
            with self.given, av.open(str(self.target), "w", format=self.container, options=muxing) as self.made:
                self._open()
                yield from self._written()
                if self.comparison:
                    write_comparison(self.comparison, *self.middle)
        except av.error.FFmpegError as error:
            raise ImageError(f"cannot be enhanced ({reason(error)})") from error

    def _open(self) -> None:
        with reading("is damaged: its header cannot be read"):
            self.video = self.given.streams.best("video")
        if self.video is None:
            raise ImageError("has no video in it")
        if self.video.codec_context is None:
            raise ImageError("has a video that no decoder is known for")
        self.decoder = _decoder(self.video)
        self.rate = self.video.average_rate or 25
        self.start, self.duration = _times(self.given, self.video)
        self.ends = self.start  # seconds: of the last packet
        self.made.metadata.update(self.given.metadata)
        if chapters := self.given.chapters():
            self.made.set_chapters(chapters)

    def _written(self) -> Iterator[tuple[int, float]]:
        done = 0.0
        frames = 0
        for kind, item, planes in ahead(self._rendered()):
            if kind == "packet":
                self._mux(item)
                continue
            self._encode(item, planes)
            frames += 1
            part = min((float(item.pts * item.time_base) - self.start) / self.duration, 1) if self.duration else 0
            yield planes.shape[1] * planes.shape[2], part - done
            done = part
        if not frames:
            raise ImageError("has no pixels: none of its frames can be decoded")
        missing = self.start + self.duration - self.ends
        if missing > max(MISSING, 2 / float(self.rate)):
            raise ImageError(f"ends {missing:.1f} s early, as a truncated file does")
        packets = list(self.encoder.encode(None))
        self._write(packets[:-1])
        self._write(packets[-1:], last=True)

    # --- frames and packets as they come

    def _decoded(self) -> Iterator[tuple[str, Any, Any]]:
        rate, count = self.rate, 0
        with reading("is damaged: its frames cannot be decoded"):
            for packet in self.given.demux():
                if packet.stream.index != self.video.index:
                    if packet.dts is None and packet.stream.disposition.value & _COVER:
                        packet.pts = packet.dts = 0
                    if packet.size and packet.dts is not None:
                        yield "packet", packet, None
                    continue
                begins = packet.dts if packet.pts is None else packet.pts
                if begins is not None:
                    lasts = packet.duration * packet.time_base if packet.duration else 1 / rate
                    self.ends = max(self.ends, float(begins * packet.time_base + lasts))
                for frame in self.decoder.decode(packet):
                    check_size(frame.height, frame.width)
                    frame.time_base = self.video.time_base
                    if frame.pts is None or self.given.format.name == "avi":  # which has no times, but a rate
                        frame.pts = round(count / rate / frame.time_base)
                    count += 1
                    if count == 1:
                        self._look_at(frame)
                    if (frame.width, frame.height, frame.format.name) != self.form:
                        raise ImageError("changes its size or pixel format on the way; cut it there first")
                    yield "frame", frame, read_planes(frame, self.layout, self.fields)

    def _look_at(self, frame: Any) -> None:
        """What the first frame tells of all."""
        self.form = frame.width, frame.height, frame.format.name
        self.layout = layout_of(frame.format.name)
        self.full = frame.color_range == 2 or "yuvj" in frame.format.name
        self.fields = 2 if frame.interlaced_frame and frame.height % (2 * self.layout.down) == 0 else 1
        self.orientation = _orientation(frame)
        self.trc = int(self.video.codec_context.color_trc)
        self.colours = Colours(self.layout, int(frame.colorspace), self.full, frame.height, frame.width)
        self.seen = self.predictor._for_colours(self.colours.to_rgb, self.colours.from_rgb)

    def _rendered(self) -> Iterator[tuple[str, Any, Any]]:
        rendered: Any = None  # pixel by pixel, which kernels write and read faster than planes
        for kind, item, planes in ahead(self._decoded()):
            if kind == "frame":
                time = float(item.pts * item.time_base)
                planes = turn(planes.transpose(1, 2, 0), self.orientation)
                image = planes[..., :3]
                keep = self.comparison is not None and (self.middle is None or time - self.start <= self.duration / 2)
                before = self._shown(image) if keep else None
                low = self.seen.low_resolution(image)
                grid = self.smoother(self.seen.grid(low), low, time)
                if rendered is None:
                    rendered = np.empty(image.shape, image.dtype)
                self.seen.render(grid, image, strength=self.strength, out=rendered)
                enhance(self.colours.back[None, None, None], LumaGuide(), rendered, out=image)
                if self.layout.grey:
                    image[..., 1:] = 1 << (self.layout.bits - 1)
                if keep:
                    self.middle = before, self._shown(image)
                planes = planes.transpose(2, 0, 1)
            yield kind, item, planes

    def _shown(self, image: Any) -> Any:
        """Planes as RGB, floats in [0, 1]."""
        unit = image.astype(np.float32) / np.iinfo(image.dtype).max
        matrix = self.colours.to_rgb.astype(np.float32)
        return unit @ matrix[:, :3].T + matrix[:, 3]

    # --- what is written

    def _begin(self, frame: Any, planes: Any) -> None:
        """Streams like those given, once the first frame shows what is in the video."""
        codec, name = self._chosen(*planes.shape[1:])
        factor = next((default for part, (default, _) in _FACTORS.items() if part in codec), None)
        factor = factor if self.options.crf is None else self.options.crf
        options = {} if factor is None else {"crf": str(factor)}
        if codec in _SCALED:
            options = {"flags": "+qscale", "global_quality": str(3 * 118)}
        if "vp9" in codec:
            options |= {"b": "0", "row-mt": "1", "cpu-used": "4", "deadline": "good"}
        options |= self._light(frame, codec)
        if codec == "libx265":  # which else writes a summary to standard error
            options["x265-params"] = ":".join(["log-level=error", *filter(None, [options.get("x265-params")])])
        try:
            encoder = self.made.add_stream(codec, rate=self.rate, options=options)
        except ValueError as error:  # not one for this container
            raise ImageError(f"cannot be encoded by {codec} ({reason(error)})") from error
        self.encoder, self.coded = encoder, layout_of(name)
        encoder.height, encoder.width = planes.shape[1:]
        encoder.pix_fmt = name
        context, from_ = encoder.codec_context, self.video.codec_context
        context.time_base = self.video.time_base
        context.color_range = _FULL if self.full and not self.layout.rgb else int(frame.color_range)
        context.colorspace = 0 if self.layout.rgb else int(frame.colorspace)
        context.color_primaries, context.color_trc = int(from_.color_primaries), int(from_.color_trc)
        if codec == "libx265" and self.container in _MP4:
            context.codec_tag = "hvc1"  # as Apple's players want it
        if frame.interlaced_frame:
            if codec in _INTERLACED and self.orientation == 1:
                context.flags |= _INTERLACED_DCT | _INTERLACED_ME
                if hasattr(from_, "field_order"):  # from PyAV 18 on; frames are marked without it, too
                    context.field_order = from_.field_order
            else:
                self.lost.append("the mark that it is interlaced")
        if (shape := self.video.sample_aspect_ratio) and shape != 1:
            context.sample_aspect_ratio = shape if self.orientation < 5 else 1 / shape
        _describe(self.video, encoder)
        for stream in self.given.streams:
            if stream.index != self.video.index:
                self._copy(stream)
        try:
            context.open()
        except Exception as error:
            raise ImageError(f"cannot be encoded by {codec} ({reason(error)})") from error
        for packet in self.waiting:
            self._mux(packet)

    def _chosen(self, height: int, width: int) -> tuple[str, str]:
        """The encoder and its pixel format: the first that loses nothing, or the one that was asked for."""
        import av

        given = self.layout
        asked = self.options.codec
        encoders = _ENCODERS[self.container]
        if self.trc in _HDR and "libx265" in encoders:  # which is what plays it
            encoders = ("libx265", *encoders)
        for codec in (asked,) if asked else encoders:
            try:
                formats = av.Codec(codec, "w").video_formats
                known = [given.name] if formats is None else [form.name for form in formats]
                if codec == "libx265":  # which says that it has alpha, also where it is built without
                    known = [name for name in known if "yuva" not in name]
            except ValueError:  # not in this build of FFmpeg
                continue
            layouts = {}
            for name in known:
                try:
                    layouts[name] = layout_of(name)
                except ImageError:
                    continue
            if codec in _EVEN:
                layouts = {n: form for n, form in layouts.items() if not (height % form.down or width % form.across)}
            best = [name for name, form in layouts.items() if form.holds(given)]
            if not best and asked:
                alike = {name: form for name, form in layouts.items() if form.rgb == given.rgb}
                most = max((form.cost for form in alike.values()), default=0)
                best = [name for name, form in alike.items() if form.cost == most]
                self.lost += [f"what its {given.name} pixels have beyond {name}" for name in best[:1]]
            if best:
                return codec, min(best, key=lambda name: (layouts[name].cost, name != layouts[name].name))
        raise ImageError(
            f"has {given.name} pixels of {width} × {height}, which "
            f"{asked or 'no encoder for such files'} keeps; convert it, or name another by --codec"
        )

    def _light(self, frame: Any, codec: str) -> dict[str, str]:
        """HDR's mastering display and light levels, in the encoder's words."""
        found = {data.type.name: bytes(data) for data in frame.side_data}
        if any(name.startswith(("DOVI", "DYNAMIC_HDR")) for name in found):
            self.lost.append("its dynamic metadata for HDR (Dolby Vision or HDR10+)")
        display, levels = found.get("MASTERING_DISPLAY_METADATA"), found.get("CONTENT_LIGHT_LEVEL")
        if not (display or levels):
            return {}
        if codec not in _LIGHT:
            self.lost.append("its mastering display and light levels")
            return {}
        option, name, light = _LIGHT[codec]
        said = []
        if display:
            values = [n / (d or 1) for n, d in struct.iter_unpack("=2i", display[:80])]
            units = [1.0] * 10 if codec == "libsvtav1" else [50000.0] * 8 + [10000.0] * 2
            values = [round(value * unit, 5) for value, unit in zip(values, units)]
            shown = [f"{value:g}" if codec == "libsvtav1" else f"{value:.0f}" for value in values]
            red, green, blue, white, (least, most) = zip(shown[::2], shown[1::2])
            points = "".join(f"{n}({x},{y})" for n, (x, y) in zip(("G", "B", "R", "WP"), (green, blue, red, white)))
            said.append(f"{name}={points}L({most},{least})")
        if levels:
            said.append("{}={},{}".format(light, *struct.unpack_from("=2I", levels)))
        return {option: ":".join(said)}

    def _copy(self, stream: Any) -> None:
        """A stream that goes into the new file as it is."""
        if stream.type == "attachment":
            try:
                self.made.add_attachment(stream.name, stream.mimetype, stream.data)
            except (ValueError, TypeError, RuntimeError):
                self.lost.append(f"its attachment {stream.name}")
            return
        if stream.type not in ("audio", "subtitle", "video"):  # timecodes and telemetry, which few containers take
            self.lost.append(f"its stream of {stream.type}")
            return
        try:
            copy = self.made.add_stream_from_template(stream, opaque=True)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ImageError(f"has a stream of {stream.type} that can't be copied ({reason(error)})") from error
        _describe(stream, copy)
        self.copied[stream.index] = copy

    def _mux(self, packet: Any) -> None:
        if self.encoder is None:
            self.waiting.append(packet)
            return
        if (copy := self.copied.get(packet.stream.index)) is not None:
            packet.stream = copy
            self.made.mux(packet)

    def _encode(self, frame: Any, planes: Any) -> None:
        if self.encoder is None:
            self._begin(frame, planes)
        out = _frame_like(frame, self.coded.name, *planes.shape[1:])
        fields = self.fields if self.orientation < 5 else 1
        write_planes(out, planes, self.coded, self.layout.bits, self.full or self.layout.rgb, fields)
        if out.format.name != self.encoder.pix_fmt:
            out = out.reformat(format=self.encoder.pix_fmt)
        out.pts, out.time_base, out.pict_type = frame.pts, frame.time_base, 0
        self.lasts[frame.pts] = frame.duration
        self.until = frame.pts + (frame.duration or max(1, round(1 / self.rate / frame.time_base)))
        self._write(self.encoder.encode(out))

    def _write(self, packets: Any, last: bool = False) -> None:
        for packet in packets:
            if packet.time_base == self.video.time_base and packet.pts is not None:
                packet.duration = self.lasts.pop(packet.pts, 0) or packet.duration
                if self.delay is None:
                    self.delay = packet.pts - packet.dts
                if last and self.container in _MP4:
                    packet.duration = max(1, self.until - packet.dts - self.delay)
            self.made.mux(packet)


def is_encoder(name: str) -> bool:
    """Whether FFmpeg has such an encoder of video."""
    import av

    with suppress(ValueError):
        return bool(av.Codec(name, "w").type == "video")
    return False


def is_ts(path: Path) -> bool:
    """Whether a file named .ts is one, and not a program: it has packets of 188 bytes."""
    with path.open("rb") as file:
        head = file.read(189)
    return head[:1] == b"G" and head[188:] in (b"", b"G")


def _decoder(video: Any) -> Any:
    """What decodes the stream: FFmpeg's own decoder, but for transparent VP8 and VP9, of which it sees the colours."""
    import av

    context = video.codec_context
    if str(video.metadata.get("alpha_mode", video.metadata.get("ALPHA_MODE"))) == "1":
        context = av.CodecContext.create({"vp8": "libvpx"}.get(context.name, "libvpx-vp9"), "r")
    context.thread_type = "AUTO"
    return context


def _describe(given: Any, made: Any) -> None:
    """Language, title and role of a stream."""
    made.metadata.update(
        {k: v for k, v in given.metadata.items() if k.lower() not in ("rotate", "encoder", "alpha_mode")}
    )
    made.disposition = given.disposition.value


def _frame_like(frame: Any, form: str, height: int, width: int) -> Any:
    """A frame to be filled, with the marks and captions of this one where it has such."""
    import av

    if not frame.interlaced_frame and all(data.type.name != "A53_CC" for data in frame.side_data):
        return av.VideoFrame(width, height, form)
    return frame.reformat(width, height, "ya8").reformat(format=form)  # which copies them


def _orientation(frame: Any) -> int:
    """How the frame lies, as EXIF counts it, from its display matrix."""
    matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 1
    a, b, _, c, d, *_ = (round(v / 65536, 3) for v in struct.unpack_from("=9i", matrix))
    if {abs(a), abs(d)} == {1} and not (b or c):
        return {(1, 1): 1, (-1, 1): 2, (-1, -1): 3, (1, -1): 4}[a, d]
    if {abs(b), abs(c)} == {1} and not (a or d):
        return {(1, 1): 5, (1, -1): 6, (-1, -1): 7, (-1, 1): 8}[b, c]
    raise ImageError("is to be shown turned by less than a quarter; turn it first")


def _times(given: Any, video: Any) -> tuple[float, float]:
    """When the video says it begins, and for how many seconds it lasts, 0 where it doesn't."""
    start = float(video.start_time * video.time_base) if video.start_time is not None else 0.0
    if video.duration:
        return start, float(video.duration * video.time_base)
    text = video.metadata.get("DURATION") or video.metadata.get("DURATION-eng")
    if text:  # Matroska's, which is when it ends
        hours, minutes, seconds = text.split(":")
        return start, max(0, 3600 * int(hours) + 60 * int(minutes) + float(seconds) - start)
    # The file's is that of its longest stream.
    return start, given.duration / 1e6 if given.duration and len(given.streams) == 1 else 0.0
