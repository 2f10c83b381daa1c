"""The writer: times that increase, durations that stay, sizes that H.264 has, names of files."""

from fractions import Fraction

import av
import numpy as np
import pytest

from sama_video.editing import EditSettings, check_edit, edit_video
from sama_video.pipelines.selection import find_model
from sama_video.system.errors import UserError
from sama_video.video import Frame, PictureCoding, VideoReader, VideoWriter
from tests import tiny
from tests.clips import picture, write_clip
from tests.tones import Sound, heard, noise, shift_and_likeness, write_pictures_and_sounds

SUFFIXES = [".mp4", ".mov", ".m4v", ".mkv"]


def write(path, times, last=Fraction(1, 25), **options):
    with VideoWriter(path, 48, 64, Fraction(25), **options) as writer:
        for index, (time, following) in enumerate(zip(times, [*times[1:], times[-1] + last], strict=True)):
            writer.write(Frame(picture(index, 48, 64), time, following - time))
    return path


def test_times_that_do_not_increase_are_an_error_and_not_a_broken_file(tmp_path):
    for times in ([0, 1, 1], [0, 2, 1]):
        with pytest.raises(UserError, match=r"times do not increase: one at 0\.0.* is followed by one at 0\.04"):
            write(tmp_path / "a.mp4", [Fraction(time, 25) for time in times])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_picture_is_shown_as_long_as_it_was(suffix, tmp_path):
    times = [Fraction(t, 1000) for t in (0, 40, 50, 200, 210, 500)]
    path = write(tmp_path / f"a{suffix}", times, last=Fraction(3, 10))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [packet.pts * packet.time_base for packet in packets] == times
        end = container.duration / av.time_base
    assert end == pytest.approx(0.8, abs=0.0015)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_times_on_a_grid_stay_exact(suffix, tmp_path):
    fps = Fraction(24000, 1001)
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, 48, 64, fps, time_base=1 / fps) as writer:
        for index in range(48):
            writer.write(Frame(picture(index, 48, 64), index / fps, 1 / fps))
    reader = VideoReader(path)
    assert reader.info.fps == fps
    tolerance = Fraction(1, 1000) if suffix == ".mkv" else 0
    assert all(abs(frame.time - index / fps) <= tolerance for index, frame in enumerate(reader.frames()))


def test_sizes_that_h264_does_not_have(tmp_path):
    PictureCoding().check_size(16384, 16384)
    for size in ((16386, 64), (64, 16385), (0, 64)):
        with pytest.raises(UserError, match=r"at most 16384 pixels a side; use `output_size` model"):
            VideoWriter(tmp_path / "a.mp4", *size, Fraction(25))


def test_a_wide_clip_is_refused_before_the_model_is_loaded(tmp_path):
    source = tmp_path / "wide.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 17000, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(17000, 16, "yuv420p")))
        container.mux(stream.encode())
    reader = VideoReader(source)
    with pytest.raises(UserError, match="17000x16 cannot be written"):
        check_edit(reader, "make it red", tmp_path / "out.mp4", EditSettings(), find_model("nano").info())
    plan = check_edit(reader, "x", tmp_path / "out.mp4", EditSettings(output_size="model"), find_model("nano").info())
    assert max(plan.output_size) < 16384


def test_a_comparison_that_is_too_wide_is_refused_before_the_first_step(tmp_path):
    pipe = tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)
    source = write_clip(tmp_path / "a.mkv", 2, height=16, width=9000)
    steps = []
    with pytest.raises(UserError, match="18000x16 cannot be written"):
        edit_video(
            pipe,
            source,
            "make it red",
            tmp_path / "out.mp4",
            EditSettings(num_inference_steps=1, max_pixels=32 * 32),
            compare=tmp_path / "both.mp4",
            progress=lambda phase, *_: steps.append(phase),
        )
    assert steps == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv"]


def test_names_with_a_colon_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    path = write(Path("12:30 clip.mp4"), [Fraction(index, 25) for index in range(3)])
    assert path.is_file()
    assert path.stat().st_size > 500


def test_sound_and_pictures_lie_side_by_side(tmp_path):
    """A player that reads from the network must not wait for the sound until the last picture has come."""
    from tests.tones import carry

    source = write_pictures_and_sounds(tmp_path / "a.mp4", [Sound(noise(4.0, 44100))], 100)
    carry(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        places = [(packet.pos, packet.pts * packet.time_base) for packet in container.demux() if packet.size]
    times = [float(time) for _, time in sorted(places)]
    assert max(max(times[: index + 1]) - time for index, time in enumerate(times)) < 1.5


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_the_comparison_has_the_same_sound_as_the_result(name, tmp_path):
    pipe = tiny.pipeline(native_num_frames=9, default_num_inference_steps=1)
    codec, video = ("aac", "libx264") if name == "a.mp4" else ("pcm_s16le", "mjpeg")
    source = write_pictures_and_sounds(tmp_path / name, [Sound(noise(1.0, 44100), 44100, codec)], 12, video=video)
    both = tmp_path / "both.mp4"
    settings = EditSettings(num_inference_steps=1, start=0.08, num_frames=8)
    edit_video(pipe, source, "make it red", tmp_path / "out.mp4", settings, compare=both)
    sounds = [heard(path) for path in (tmp_path / "out.mp4", both)]
    assert np.array_equal(*sounds)
    shift, likeness = shift_and_likeness(sounds[0], heard(source)[round(0.08 * 44100) :], 0.02, 0.3)
    assert abs(shift) < 1e-3
    assert likeness > 10


def test_quality_0_keeps_every_pixel(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 48, 63, 3), dtype=np.uint8)
    times = [Fraction(number * number, 25) for number in range(5)]
    with VideoWriter(tmp_path / "a.mp4", 48, 63, Fraction(25), coding=PictureCoding(crf=0)) as writer:
        for pixels, time in zip(frames, times, strict=True):
            writer.write(Frame(pixels, time, Fraction(1, 25)))
    read = list(VideoReader(tmp_path / "a.mp4").frames())
    assert [frame.time for frame in read] == times
    assert np.array_equal(np.stack([frame.pixels for frame in read])[:, :, :63], frames)
