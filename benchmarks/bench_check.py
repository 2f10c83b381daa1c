"""`sama data check` on short clips, against decoding every frame to RGB, one file after the other."""

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from common import compare, report, setting

from sama_video.data.check import check_manifest
from sama_video.data.manifest import Row, read_manifest, write_manifest
from sama_video.video import Frame, VideoReader, VideoWriter

PAIRS, FRAMES, HEIGHT, WIDTH = 4, 49, 480, 832


def make_clip(path: Path) -> Path:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    with VideoWriter(path, HEIGHT, WIDTH, Fraction(24)) as writer:
        for index in range(FRAMES):
            wave = 127 + 60 * np.sin((x + 5 * index) / 31) + 60 * np.cos((y - 3 * index) / 23)
            pixels = np.repeat(wave.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            writer.write(Frame(pixels, Fraction(index, 24), Fraction(1, 24)))
    return path


def main() -> None:
    print(f"{setting()}; {PAIRS} pairs of {FRAMES} frames at {WIDTH}x{HEIGHT}, H.264")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [str(make_clip(folder / f"{index}.mp4")) for index in range(2 * PAIRS)]
        pairs = enumerate(zip(clips[::2], clips[1::2], strict=True))
        rows = [Row(id=str(n), src_video=source, tgt_video=target, prompt=str(n)) for n, (source, target) in pairs]
        write_manifest(folder / "pairs.csv", rows)
        manifest = read_manifest(folder / "pairs.csv")

        def check() -> None:
            (folder / "out" / "journal.jsonl").unlink(missing_ok=True)  # or the second round would have nothing to do
            check_manifest(manifest, folder / "out")

        def decode() -> None:
            for clip in clips:
                sum(1 for _ in VideoReader(clip).frames())

        report("check, one thread a core", *compare(check, decode))


if __name__ == "__main__":
    main()
