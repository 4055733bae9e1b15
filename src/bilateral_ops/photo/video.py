"""Video files frame by frame under a model, whose grids change smoothly from one frame to the next."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .images import ImageError, ahead, check_empty, check_size, reading, reason, unit, write_comparison

#: The mean difference of two low-resolution frames from which they are of two scenes: of values in [0, 1], about what
#: scene detectors take for a cut; camera moves and lights stay below a half of it.
CUT = 0.1
#: A video whose frames end so many seconds before it says it does is truncated.
MISSING = 0.25
#: Streams that go into the new file as they are. Others, as timecodes and telemetry, few containers take.
COPIED = ("audio", "subtitle")
#: Constant rate factors end here, of codecs with this in their name.
_MOST = {"264": 51, "265": 51, "vpx": 63, "aom": 63}


@dataclass(frozen=True)
class VideoOptions:
    """How videos are smoothed and encoded."""

    smoothing: float = 0.3  # seconds after which a grid has 1/e of its weight
    codec: str | None = None  # None: libx264, in WebM libvpx-vp9
    crf: int | None = None

    def encoder(self, suffix: str) -> tuple[str, int | None]:
        """The codec of a file so named, and the highest factor that it is known to have: some cut it without a word."""
        codec = self.codec or ("libvpx-vp9" if _format(suffix) == "webm" else "libx264")
        return codec, next((most for part, most in _MOST.items() if part in codec), None)


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


def enhance_video(
    source: Path,
    target: Path,
    suffix: str,
    predictor: Any,
    strength: float,
    options: VideoOptions,
    comparison: Path | None,
) -> Generator[tuple[int, float], None, None]:
    """Write the enhanced video; yields for every frame its pixels and its share of the whole.

    Frames are turned upright; sound and subtitles are copied. ``comparison`` is where a picture of the middle frame,
    before and after, is written.
    """
    import av

    with reading("is damaged: its header cannot be read"):
        check_empty(source)
        given = av.open(str(source))
    try:
        with given, av.open(str(target), "w", format=_format(suffix)) as made:
            if not given.streams.video:
                raise ImageError("has no video in it")
            transcoding = _Transcoding(given, made, suffix, predictor, strength, options)
            yield from transcoding.run()
            if comparison:
                before, after = transcoding.middle
                write_comparison(comparison, before, after, None)
    except av.error.FFmpegError as error:
        raise ImageError(f"cannot be enhanced ({reason(error)})") from error


def _format(suffix: str) -> str:
    return {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}[
        suffix.lower()
    ]


class _Transcoding:
    def __init__(
        self, given: Any, made: Any, suffix: str, predictor: Any, strength: float, options: VideoOptions
    ) -> None:
        self.given, self.made, self.suffix = given, made, suffix
        self.predictor, self.strength = predictor, strength
        self.options = options
        with reading("is damaged: its header cannot be read"):
            self.video = given.streams.best("video")
            if self.video is None or self.video.codec_context is None:
                raise ImageError("has a video that no decoder is known for")
            self.video.thread_type = "AUTO"
            self.duration = _duration(given, self.video)
        self.encoder: Any = None
        self.smoother = Smoother(options.smoothing)
        self.copied: dict[int, Any] = {}
        self.waiting: list[Any] = []  # packets that came before the first frame was written
        self.start: float | None = None  # seconds of the first frame
        self.shown: Any = None  # the last frame of the first half, before and after

    @property
    def middle(self) -> list[Any]:
        """The middle frame before and after, floats in [0, 1]."""
        return [unit(image) for image in self.shown]

    def run(self) -> Iterator[tuple[int, float]]:
        self.made.metadata.update(self.given.metadata)
        if chapters := self.given.chapters():
            self.made.set_chapters(chapters)
        done = 0.0
        last = None
        for kind, item, pixels in ahead(self._rendered()):
            if kind == "packet":
                self._mux(item)
                continue
            if self.encoder is None:
                self._begin(item, pixels)
            self._encode(item, pixels)
            last = self._since_start(item)
            part = min(last / self.duration, 1) if self.duration else 0
            yield pixels.shape[0] * pixels.shape[1], part - done
            done = part
        if last is None:
            raise ImageError("has no pixels: none of its frames can be decoded")
        rate = float(self.video.average_rate or 25)
        missing = self.duration - (last + 1 / rate)
        if missing > max(MISSING, 2 / rate):
            raise ImageError(f"ends {missing:.1f} s early, as a truncated file does")
        for packet in self.encoder.encode(None):
            self.made.mux(packet)

    # --- frames and packets as they come

    def _decoded(self) -> Iterator[tuple[str, Any, Any]]:
        with reading("is damaged: its frames cannot be decoded"):
            rate, frames = self.video.average_rate or 25, 0
            bits = max(component.bits for component in self.video.format.components)
            for packet in self.given.demux():
                if packet.stream.index == self.video.index:
                    for frame in packet.decode():
                        check_size(frame.height, frame.width)
                        if frame.pts is None or self.given.format.name == "avi":  # which has no times, but a rate
                            frame.time_base = self.video.time_base
                            frame.pts = round(frames / rate / frame.time_base)
                        frames += 1
                        pixels = frame.to_ndarray(format="rgb48le" if bits > 8 else "rgb24")
                        # Players turn it by so many degrees counterclockwise.
                        yield "frame", frame, np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
                elif packet.dts is not None and packet.stream.type in COPIED:
                    yield "packet", packet, None

    def _since_start(self, frame: Any) -> float:
        time = float(frame.pts * frame.time_base)
        if self.start is None:
            self.start = time
        return time - self.start

    def _rendered(self) -> Iterator[tuple[str, Any, Any]]:
        for kind, item, pixels in ahead(self._decoded()):
            if kind == "frame":
                low = self.predictor.low_resolution(pixels)
                time = self._since_start(item)
                grid = self.smoother(self.predictor.grid(low), low, time)
                out = self.predictor.render(grid, pixels, strength=self.strength)
                if self.shown is None or time <= self.duration / 2:
                    self.shown = pixels, out
                pixels = out
            yield kind, item, pixels

    # --- what is written

    def _begin(self, frame: Any, pixels: Any) -> None:
        """Streams like those given, once the first frame shows which way up the video is."""
        codec, _ = self.options.encoder(self.suffix)
        options = {"crf": str(self.options.crf if self.options.crf is not None else 30 if "vp9" in codec else 18)}
        if "vp9" in codec:
            options |= {"b": "0", "row-mt": "1", "cpu-used": "4", "deadline": "good"}
        height, width = pixels.shape[:2]
        encoder = self.made.add_stream(codec, rate=self.video.average_rate or 25, options=options)
        self.encoder = encoder
        encoder.width, encoder.height = width, height
        encoder.pix_fmt = _pixel_format(encoder, self.video.pix_fmt, height, width)
        context, from_ = encoder.codec_context, self.video.codec_context
        context.time_base = self.video.time_base
        for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(context, name, getattr(from_, name))
        if (shape := self.video.sample_aspect_ratio) and shape != 1:
            context.sample_aspect_ratio = shape if abs(frame.rotation) % 180 == 0 else 1 / shape
        encoder.metadata.update(
            {k: v for k, v in self.video.metadata.items() if k.lower() not in ("rotate", "encoder")}
        )
        for stream in self.given.streams:
            if stream.index != self.video.index and stream.type in COPIED:
                try:
                    self.copied[stream.index] = self.made.add_stream_from_template(stream)
                except (ValueError, TypeError, NotImplementedError) as error:
                    raise ImageError(f"has a stream of {stream.type} that can't be copied ({reason(error)})") from error
        for packet in self.waiting:
            self._mux(packet)

    def _mux(self, packet: Any) -> None:
        if self.encoder is None:
            self.waiting.append(packet)
            return
        packet.stream = self.copied[packet.stream.index]
        self.made.mux(packet)

    def _encode(self, frame: Any, pixels: Any) -> None:
        import av

        kind = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
        out = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
        context = self.video.codec_context
        out = out.reformat(
            format=self.encoder.pix_fmt, dst_colorspace=context.colorspace, dst_color_range=context.color_range
        )
        out.pts, out.time_base = frame.pts, frame.time_base
        for packet in self.encoder.encode(out):
            self.made.mux(packet)


def _duration(given: Any, video: Any) -> float:
    """Seconds that the video says it lasts, 0 where it doesn't."""
    if video.duration:
        return float(video.duration * video.time_base)
    text = video.metadata.get("DURATION") or video.metadata.get("DURATION-eng")
    if text:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    # The file's is that of its longest stream.
    return given.duration / 1e6 if given.duration and len(given.streams) == 1 else 0.0


def _pixel_format(encoder: Any, given: str, height: int, width: int) -> str:
    """The given video's, where the encoder has it; else the nearest that every player has."""
    known = [form.name for form in encoder.codec.video_formats or ()]
    given = given.replace("yuvj", "yuv")
    odd = height % 2 or width % 2
    if given in known and not (odd and "420" in given):
        return given
    return "yuv444p" if odd else "yuv420p"
