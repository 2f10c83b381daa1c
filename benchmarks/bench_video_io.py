"""Read, resize to 480 lines and write a 720p clip, against the same with imageio (FFmpeg plugin) and Pillow."""

import tempfile
from fractions import Fraction
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import PIL.Image
from common import compare, report, setting

from sama_video.system.files import written_aside
from sama_video.video import Frame, VideoReader, VideoWriter

FRAMES, SIZE = 60, (480, 848)


def make_clip(path: Path) -> None:
    y, x = np.mgrid[0:720, 0:1280]
    with written_aside(path) as aside, VideoWriter(aside, 720, 1280, Fraction(24)) as writer:
        for index in range(FRAMES):
            waves = [np.sin((x + index * 5) / 40), np.cos((y - index * 3) / 30), np.sin((x + y) / 50 + index / 5)]
            pixels = np.stack([128 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)
            writer.write(Frame(pixels, Fraction(index, 24), Fraction(1, 24)))


def ours(source: Path, target: Path) -> None:
    with written_aside(target) as aside, VideoWriter(aside, *SIZE, Fraction(24), time_base=Fraction(1, 24)) as writer:
        for frame in VideoReader(source).frames(size=SIZE):
            writer.write(frame)


def with_imageio(source: Path, target: Path) -> None:
    options = {"fps": 24, "codec": "libx264", "output_params": ["-crf", "16", "-preset", "veryfast"], "quality": None}
    with imageio.get_reader(source) as reader, imageio.get_writer(target, **options) as writer:
        for frame in reader:
            resized = PIL.Image.fromarray(frame).resize(SIZE[::-1], PIL.Image.Resampling.BICUBIC)
            writer.append_data(np.asarray(resized))


def main() -> None:
    print(setting())
    print(f"{FRAMES} frames of 1280x720, bicubic to {SIZE[1]}x{SIZE[0]}, libx264 veryfast crf 16; baseline: imageio")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(folder / "source.mp4")
        contenders = (ours, with_imageio)
        calls = [lambda f=f: f(folder / "source.mp4", folder / f"{f.__name__}.mp4") for f in contenders]
        report("read, resize, write", *compare(*calls, rounds=5))


if __name__ == "__main__":
    main()
