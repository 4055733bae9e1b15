"""How much longer files take under `bilateral-ops enhance` than read and written alone, by the same codecs and threads.

    python benchmarks/files.py
    python benchmarks/files.py --only video --rounds 1

Prints ratios, each the median of rounds in which both are timed in turn: of JPEG photographs, over Pillow's decode and
encode; and of a 1080p H.264 video, over PyAV's. An edit that brings out detail takes the encoder longer, whoever calls
it: the video is also compared with decoding it and encoding the enhanced frames, which lie in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bilateral_ops.hdrnet import Predictor, VideoOptions, enhance_files
from bilateral_ops.photo.job import workers


def photograph(megapixels: int, seed: int) -> Any:
    """Shades with noise, which take about as many bytes as a photograph's."""
    rng = np.random.default_rng(seed)
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = width * 3 // 4
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    waves = [np.sin(40 * x * (1 + c) + 9 * y) + np.cos(31 * y - 5 * c * x) for c in range(3)]
    shades = 128 + 40 * np.stack(waves, -1) + rng.normal(0, 5, (height, width, 3)).astype(np.float32)
    return np.clip(shades, 0, 255).astype(np.uint8)


def by_pillow(sources: list[Path], out: Path) -> None:
    from PIL import Image

    def one(path: Path) -> None:
        with Image.open(path) as image:
            image.load()
            image.save(out / path.name, quality="keep")

    with ThreadPoolExecutor(workers()) as pool:
        list(pool.map(one, sources))


def by_pyav(source: Path, target: Path, instead: Sequence[Any] = ()) -> None:
    """Decode and encode, these frames in place of the file's where they are given."""
    import av

    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        video = given.streams.video[0]
        video.thread_type = "AUTO"
        stream = made.add_stream("libx264", rate=video.average_rate, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, video.pix_fmt
        for n, frame in enumerate(given.decode(video)):
            written = instead[n] if instead else frame
            written.pts, written.time_base, written.pict_type = frame.pts, frame.time_base, 0
            made.mux(stream.encode(written))
        made.mux(stream.encode(None))


def ratio(ours: Callable[[], None], alone: Callable[[], None], rounds: int) -> str:
    times: list[list[float]] = [[], []]
    for n in range(rounds + 1):
        for taken, call in zip(times, (ours, alone)):
            begun = time.perf_counter()
            call()
            if n:  # the first is for the caches
                taken.append(time.perf_counter() - begun)
    found = [one / other for one, other in zip(*times)]
    one, other = map(statistics.median, times)
    return f"{statistics.median(found):.2f} × ({one:.1f} s, alone {other:.1f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20, help="photographs, of 12 and 24 megapixels in turn")
    parser.add_argument("--frames", type=int, default=120, help="of the video")
    parser.add_argument("--only", choices=("photographs", "video"))
    options = parser.parse_args()
    predictor = Predictor.load()

    def enhanced(sources: list[Path], out: Path, strength: float = 1, codec: str = "libx264") -> None:
        video = VideoOptions(codec=codec, crf=18)
        results = enhance_files(sources, out, model=predictor, strength=strength, overwrite=True, video=video)
        assert not any(result.error for result in results), results

    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder, "ours"), Path(folder, "alone")]
        for out in outs:
            out.mkdir()
        if options.only != "video":
            time_photographs(Path(folder), outs, enhanced, options)
        if options.only != "photographs":
            time_video(Path(folder), outs, enhanced, options)


def time_photographs(root: Path, outs: list[Path], enhanced: Callable[..., None], options: argparse.Namespace) -> None:
    from PIL import Image

    photographs = [root / f"{n}.jpg" for n in range(options.count)]
    for n, path in enumerate(photographs):
        Image.fromarray(photograph(24 if n % 2 else 12, n)).save(path, quality=92)
    text = ratio(lambda: enhanced(photographs, outs[0]), lambda: by_pillow(photographs, outs[1]), options.rounds)
    print(f"{options.count} JPEGs of 12 and 24 megapixels: {text}", flush=True)


def time_video(root: Path, outs: list[Path], enhanced: Callable[..., None], options: argparse.Namespace) -> None:
    import av

    video = root / "clip.mkv"
    pictures = [photograph(3, n)[:1080, :1920] for n in range(8)]  # of other noise each
    with av.open(str(video), "w") as made:
        stream = made.add_stream("libx264", rate=30, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for n in range(options.frames):
            frame = av.VideoFrame.from_ndarray(np.roll(pictures[n % 8], 7 * n, axis=1), format="rgb24")
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    enhanced([video], root / "frames", codec="ffv1")  # without loss
    with av.open(str(root / "frames" / video.name)) as file:
        frames = list(file.decode(video=0))
    for strength, instead, text in (
        (0, (), "strength 0"),
        (1, frames, "strength 1, over encoding the enhanced frames"),
        (1, (), "strength 1, over encoding the frames as they were"),
    ):
        found = ratio(
            lambda strength=strength: enhanced([video], outs[0], strength),
            lambda instead=instead: by_pyav(video, outs[1] / "clip.mkv", instead),
            options.rounds,
        )
        print(f"{options.frames} frames of 1080p H.264, {text}: {found}", flush=True)


if __name__ == "__main__":
    main()
