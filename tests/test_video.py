import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from sama_video.system.errors import UserError
from sama_video.system.files import written_aside
from sama_video.video import Frame, VideoReader, VideoWriter, regular_time_base
from tests.clips import index_of, picture, write_clip


def read(path, **kwargs):
    return list(VideoReader(path).frames(**kwargs))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "libx264", "yuv444p"),
        ("ten_bit.mp4", "libx264", "yuv420p10le"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("lossless.mkv", "ffv1", "yuv444p"),
    ],
)
def test_reads_any_container_and_codec(name, codec, pix_fmt, tmp_path):
    frames = read(write_clip(tmp_path / name, codec=codec, pix_fmt=pix_fmt))
    assert len(frames) == 9
    assert [index_of(frame.pixels) for frame in frames] == list(range(9))
    assert np.abs(frames[4].pixels.astype(int) - picture(4)).mean() < 6


def test_alpha_is_composed_over_white(tmp_path):
    rgba = np.zeros((32, 32, 4), dtype=np.uint8)
    rgba[..., 0] = 200
    rgba[:16, :, 3] = 255
    PIL.Image.fromarray(rgba).save(tmp_path / "a.png")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "bgra"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="bgra")))
        container.mux(stream.encode())
    for name in ("a.png", "a.mkv"):
        reader = VideoReader(tmp_path / name)
        pixels = next(reader.frames()).pixels
        assert pixels.shape == (32, 32, 3)
        assert abs(int(pixels[4, 4, 0]) - 200) <= 1
        assert pixels[28, 4].min() == 255
        assert reader.notes == ["transparent parts shown on white"]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_metadata_is_applied(rotation, tmp_path):
    path = write_clip(tmp_path / "phone.mp4", rotation=rotation)
    reader = VideoReader(path)
    upright = (128, 96) if rotation % 180 else (96, 128)
    assert (reader.info.height, reader.info.width) == upright
    pixels = next(reader.frames()).pixels
    assert pixels.shape[:2] == upright
    unrotated = min(
        range(4), key=lambda k: np.abs(np.rot90(pixels, k)[:96, :96].astype(int) - picture(0)[:96, :96]).mean()
    )
    assert np.abs(np.rot90(pixels, unrotated).astype(int) - picture(0)).mean() < 6
    assert unrotated != 0
    small = next(reader.frames(size=(64, 48))).pixels
    assert small.shape == (64, 48, 3)


def test_odd_sizes_are_read_whole_and_written_with_one_more(tmp_path):
    path = write_clip(tmp_path / "odd.mkv", codec="ffv1", pix_fmt="yuv444p", height=95, width=127)
    frame = read(path)[0]
    assert frame.pixels.shape == (95, 127, 3)
    with written_aside(tmp_path / "out.mp4") as aside, VideoWriter(aside, 95, 127, Fraction(24)) as writer:
        writer.write(frame)
    written = read(tmp_path / "out.mp4")[0].pixels
    assert written.shape == (96, 128, 3)
    assert np.abs(written[:95, :127].astype(int) - frame.pixels).mean() < 4


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mpg", "clip.mkv"])
@pytest.mark.parametrize("index", [0, 1, 29, 130, 149, 239])
def test_seeking_is_exact(name, index, tmp_path):
    codec = "mpeg2video" if name.endswith("mpg") else "libx264"
    path = write_clip(tmp_path / name, 240, codec=codec, height=48, width=128, fps=Fraction(25))
    everything = read(path)
    assert len(everything) == 240
    frame = next(VideoReader(path).frames(start=index / 25, num_frames=1))
    assert np.array_equal(frame.pixels, everything[index].pixels)
    assert frame.time == everything[index].time
    assert index_of(frame.pixels) == index % 30


def test_starting_beyond_the_end_says_so(tmp_path):
    with pytest.raises(UserError, match="shows nothing at 10 s"):
        read(write_clip(tmp_path / "a.mp4"), start=10.0)


def test_variable_frame_times_are_kept(tmp_path):
    times = [Fraction(t, 1000) for t in (0, 40, 50, 200, 210, 500)]
    path = write_clip(tmp_path / "vfr.mp4", times=times, fps=Fraction(30))
    frames = read(path)
    assert [frame.time for frame in frames] == times
    assert regular_time_base(times, VideoReader(path).info.fps) == Fraction(1, 90000)
    assert regular_time_base([Fraction(i * 1001, 24000) for i in range(9)], Fraction(24000, 1001)) == Fraction(
        1001, 24000
    )


def test_files_that_are_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    write_clip(tmp_path / "good.mp4", 48)
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "head.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at the end: nothing to decode
    (tmp_path / "text.png").write_text("hello")
    for name, message in (
        ("nothing.mp4", "no such video"),
        ("text.mp4", "not a video that FFmpeg can read"),
        ("head.mp4", "not a video that FFmpeg can read"),
        ("text.png", "not an image"),
    ):
        with pytest.raises(UserError, match=message):
            VideoReader(tmp_path / name)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="no video stream"):
        VideoReader(tmp_path / "sound.mp4")


def test_nothing_half_written_stays(tmp_path):
    out = tmp_path / "out.mp4"

    def interrupted():
        with written_aside(out) as aside, VideoWriter(aside, 96, 128, Fraction(24)) as writer:
            writer.write(Frame(picture(0), Fraction(0), Fraction(1, 24)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="does not exist"), written_aside(tmp_path / "no" / "out.mp4"):
        pass


def test_folders_are_replaced_by_folders_alone(tmp_path, monkeypatch):
    folder, file = tmp_path / "folder.json", tmp_path / "file"
    folder.mkdir()
    (folder / "kept").touch()
    file.touch()
    with pytest.raises(UserError, match="is a folder"), written_aside(folder) as aside:
        aside.write_text("{}")
    with pytest.raises(UserError, match="is a file"), written_aside(file) as aside:
        aside.mkdir()
    assert (folder / "kept").exists()

    replace, left = os.replace, []

    def watching(one, other):
        replace(one, other)
        left.append(any(path.name == "kept" for path in tmp_path.rglob("*")))

    monkeypatch.setattr("os.replace", watching)
    with written_aside(folder) as aside:
        aside.mkdir()
        (aside / "new").touch()
    assert left == [True, True]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "file", "folder.json", "folder.json/new",
    ]  # fmt: skip


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that takes no files")
def test_a_place_that_takes_no_files():
    def write(out):
        with written_aside(out) as aside, VideoWriter(aside, 96, 128, Fraction(24)) as writer:
            writer.write(Frame(picture(0), Fraction(0), Fraction(1, 24)))

    with pytest.raises(UserError, match=r"cannot write /proc/x\.mp4"):
        write(Path("/proc/x.mp4"))
