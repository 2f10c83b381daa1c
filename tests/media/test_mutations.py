"""Files that a seeded generator spoils are read, as far as they go, or refused with one sentence: never a traceback."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.clips import picture, write_clip

NUMBER = 200
READ = """
import sys
from sama_video.system.errors import UserError
from sama_video.video import VideoReader
for path in sys.stdin.read().splitlines():
    try:
        reader = VideoReader(path)
        count = sum(1 for _ in reader.times()) + sum(1 for _ in reader.frames(size=(48, 64)))
        print("read", count, path)
    except UserError as error:
        assert path in str(error), error
        print("refused", error)
"""


def originals(folder: Path) -> list[bytes]:
    """A small file of each kind."""
    clips = {
        "a.mp4": {"sound": True},
        "a.mkv": {},
        "a.avi": {"codec": "mpeg4"},
        "a.mpg": {"codec": "mpeg2video"},
        "a.webm": {"codec": "libvpx-vp9"},
        "a.ts": {},
        "b.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p10le"},
    }
    for name, options in clips.items():
        write_clip(folder / name, 5, **options)
    still = PIL.Image.fromarray(picture(0))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "bmp", "tif", "gif"):
        still.save(folder / f"still.{suffix}")
    still.save(folder / "still.jpg", exif=exif, icc_profile=bytes(128))
    still.save(folder / "still.webp", exif=exif)
    moving = [PIL.Image.fromarray(picture(index)) for index in range(4)]
    for suffix in ("png", "gif", "webp"):
        moving[0].save(folder / f"moving.{suffix}", save_all=True, append_images=moving[1:], duration=40)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def spoilt(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three accidents: cut off, bytes changed, zeroed, doubled, put in, or a number made as large as it gets."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        # Headers matter most, so half of the accidents happen there.
        at = int(rng.integers(0, min(len(data), 600) if rng.random() < 0.5 else len(data)))
        length = int(rng.integers(1, 64))
        kind = rng.integers(6)
        if kind == 0:
            data = data[: max(16, at)]
        elif kind == 1:
            for place in rng.integers(0, len(data), length):
                data[place] ^= int(rng.integers(1, 256))
        elif kind == 2:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 3:
            data[at:at] = data[at : at + 20 * length]
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        else:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xea\x60", b"\0\0\0\0"])
    return bytes(data)


@pytest.mark.slow
def test_spoilt_files_are_read_or_refused(tmp_path):
    (tmp_path / "originals").mkdir()
    (tmp_path / "spoilt").mkdir()
    contents = originals(tmp_path / "originals")
    names = [path.name for path in sorted((tmp_path / "originals").iterdir())]
    rng = np.random.default_rng(20251125)
    paths = []
    for number in range(NUMBER):
        which = number % len(contents)
        paths.append(tmp_path / "spoilt" / f"{number}-{names[which]}")
        paths[-1].write_bytes(spoilt(contents[which], rng))
    result = subprocess.run(
        [sys.executable, "-c", READ], input="\n".join(map(str, paths)), capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.returncode == 0
    outcomes = result.stdout.splitlines()
    assert len(outcomes) == NUMBER  # so no sentence has a second line
    kinds = {outcome.split()[0] for outcome in outcomes}
    assert kinds == {"read", "refused"}
