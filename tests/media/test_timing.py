"""Times of every kind of container: in display order, increasing, gaps kept, joined files continued; checks agree."""

import itertools
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from sama_video.data.check import check_media
from sama_video.data.file_info import FileInfo
from sama_video.media.timing import Clock, Timeline
from sama_video.video import VideoReader
from tests.clips import index_of, picture, write_clip

CODECS = {".mpg": "mpeg2video", ".webm": "libvpx-vp9"}


def clip(path, num_frames=9, **options):
    return write_clip(path, num_frames, codec=CODECS.get(path.suffix, "libx264"), fps=Fraction(25), **options)


def read(path):
    reader = VideoReader(path)
    return reader, list(reader.frames())


def assert_shows(path, indices, times):
    """Frames, times and their number, by every way of reading; and that a check has nothing to say against it."""
    reader, frames = read(path)
    assert [index_of(frame.pixels) for frame in frames] == indices
    assert [frame.time for frame in frames] == times
    assert list(reader.times()) == times
    assert reader.info.num_frames in (0, len(indices))
    assert reader.damaged is None
    report = check_media(str(path))
    assert (report.problem, report.num_frames) == (None, len(indices))
    assert FileInfo().shape(str(path)).num_frames == len(indices)
    return reader


@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".mkv", ".webm"])
def test_joined_files_continue(suffix, tmp_path):
    part = clip(tmp_path / f"part{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(part * 3)
    reader = assert_shows(tmp_path / f"a{suffix}", [*range(9)] * 3, [Fraction(i, 25) for i in range(27)])
    assert reader.notes[0] == "the clock starts again at 0.36 s: the parts were joined there"
    frame = next(reader.frames(start=20 / 25))
    assert (index_of(frame.pixels), frame.time) == (2, Fraction(20, 25))


def test_long_joined_files_are_not_searched_by_their_clock(tmp_path):
    part = clip(tmp_path / "part.ts", 200, height=48).read_bytes()
    (tmp_path / "a.ts").write_bytes(part * 2)
    frame = next(VideoReader(tmp_path / "a.ts").frames(start=203 / 25))
    assert (index_of(frame.pixels), frame.time) == (3, Fraction(203, 25))


def shifted(path, source, seconds):
    """A copy of a transport stream whose clock begins later."""
    with av.open(str(source)) as before, av.open(str(path), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(before.streams.video[0]):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts = (time + seconds * 90000 for time in (packet.pts, packet.dts))
                packet.stream = stream
                after.mux(packet)
    return path


@pytest.mark.parametrize(("seconds", "second_begins"), [(100, Fraction(9, 25)), (2, Fraction(2))])
def test_a_jump_of_a_recorder_s_clock_is_closed_and_a_gap_is_kept(seconds, second_begins, tmp_path):
    first = clip(tmp_path / "first.ts")
    start = av.open(str(first)).streams.video[0].start_time
    second = shifted(tmp_path / "second.ts", first, seconds)
    offset = Fraction(av.open(str(second)).streams.video[0].start_time - start, 90000)
    (tmp_path / "a.ts").write_bytes(first.read_bytes() + second.read_bytes())
    if seconds < 10:
        second_begins = offset
    expected = [Fraction(i, 25) for i in range(9)] + [second_begins + Fraction(i, 25) for i in range(9)]
    assert_shows(tmp_path / "a.ts", [*range(9)] * 2, expected)


def test_b_frames_without_display_times_come_in_order(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2", "b-adapt": "0", "crf": "8"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for index in range(15):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert [frame.pts for frame in container.decode(video=0)] != sorted(range(1, 16))
    assert_shows(path, [*range(15)], [Fraction(i, 25) for i in range(15)])
    frame = next(VideoReader(path).frames(start=7 / 25))
    assert (index_of(frame.pixels), frame.time) == (7, Fraction(7, 25))


def edited_box(path, name: bytes, change) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(name) + 4
    change(data, at)
    path.write_bytes(data)


def test_an_edit_list_hides_frames_without_damage(tmp_path):
    path = clip(tmp_path / "a.mp4", 30, gop=60)

    def hide_ten(data, at):
        version, entries = data[at], struct.unpack(">I", data[at + 4 : at + 8])[0]
        assert (version, entries) == (0, 1)
        duration, media_time = struct.unpack(">Ii", data[at + 8 : at + 16])
        rate = struct.unpack(">I", data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20])[0]
        data[at + 8 : at + 16] = struct.pack(">Ii", duration * 20 // 30, media_time + rate * 10 // 25)

    edited_box(path, b"elst", hide_ten)
    reader = assert_shows(path, [*range(10, 30)], [Fraction(i, 25) for i in range(20)])
    assert reader.notes == []
    assert reader.info.num_frames == 20


def test_a_clock_that_stands_still(tmp_path):
    path = clip(tmp_path / "a.mp4", 12)

    def stop(data, at):
        for entry in range(struct.unpack(">I", data[at + 4 : at + 8])[0]):
            data[at + 12 + 8 * entry : at + 16 + 8 * entry] = bytes(4)

    edited_box(path, b"stts", stop)
    reader = assert_shows(path, [*range(12)], [Fraction(i, 25) for i in range(12)])
    assert reader.notes == ["its clock stands still: frames are shown at 25 per second"]


def test_streams_without_times(tmp_path):
    with av.open(str(tmp_path / "a.h264"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for index in range(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode())
    reader = assert_shows(tmp_path / "a.h264", [*range(9)], [Fraction(i, 25) for i in range(9)])
    assert reader.notes == ["it carries no times: frames are shown at 25 per second"]


def test_gaps_are_kept_in_containers_that_fill_them(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 96, 128, "yuv420p", 2_000_000
        for index in (0, 1, 2, 7, 8):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert_shows(path, [0, 1, 2, 7, 8], [Fraction(i, 25) for i in (0, 1, 2, 7, 8)])


def test_a_changed_size_in_mid_stream(tmp_path):
    first, second = clip(tmp_path / "a.ts"), clip(tmp_path / "b.ts", height=192, width=256)
    (tmp_path / "c.ts").write_bytes(first.read_bytes() + second.read_bytes())
    reader, frames = read(tmp_path / "c.ts")
    assert {frame.pixels.shape for frame in frames} == {(96, 128, 3)}
    assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(18)]
    assert any("changes its size from 128x96 to 256x192" in note for note in reader.notes)


def test_joined_files_of_two_sizes(tmp_path):
    first, second = clip(tmp_path / "a.mkv"), clip(tmp_path / "b.mkv", height=192, width=256)
    (tmp_path / "c.mkv").write_bytes(first.read_bytes() + second.read_bytes())
    reader, frames = read(tmp_path / "c.mkv")
    assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(18)]
    expected = av.VideoFrame.from_ndarray(picture(4, 192, 256)).reformat(width=128, height=96).to_ndarray()
    assert np.abs(frames[13].pixels.astype(int) - expected).mean() < 6
    assert any("changes its size from 128x96 to 256x192" in note for note in reader.notes)


def test_a_recording_that_begins_between_key_frames(tmp_path):
    data = clip(tmp_path / "a.ts", 48, gop=12).read_bytes()
    (tmp_path / "b.ts").write_bytes(data[: 3 * 188] + data[len(data) // 3 // 188 * 188 :])
    reader, frames = read(tmp_path / "b.ts")
    assert frames[0].time == 0
    assert all(later.time > earlier.time for earlier, later in itertools.pairwise(frames))
    assert abs(len(frames) - reader.info.num_frames) <= 1


def test_unchanged_frames_of_theora_are_shown_again(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "a.ogv"
    options = {"codec": "libtheora", "quality": None, "output_params": ["-q:v", "9", "-g", "64"]}
    writer = imageio_ffmpeg.write_frames(str(path), (128, 96), fps=25, **options)
    writer.send(None)
    indices = [5] * 6 + [20] * 5 + [21]
    for index in indices:
        writer.send(np.ascontiguousarray(picture(index)))
    writer.close()
    with av.open(str(path)) as container:
        assert sum(packet.size == 0 for packet in container.demux(video=0)) > 4
    assert_shows(path, indices, [Fraction(i, 25) for i in range(12)])


def clock(**changes):
    usual = {"num_frames": 9, "clock": "display", "stands": False, "hides_frames": False, "has_fields": False}
    return Clock(Timeline(**{**usual, "joins": 0, "rate": Fraction(25), "jumps": False, **changes}), Fraction(0))


def test_single_wrong_times_are_put_between_their_neighbours():
    ours = clock()
    step = Fraction(1, 25)
    shown = [ours.time_of(read * step, step) for read in (0, 1, 1, 2, 3, 2, 4, 5)]
    assert shown == [time * step for time in (0, 1, Fraction(3, 2), 2, 3, Fraction(7, 2), 4, 5)]
    assert len(ours.notes) == 1


@pytest.mark.parametrize("parts", [[(0, 5), (0, 5)], [(10, 5), (3, 5)], [(0, 50), (20, 5)]])
def test_times_increase_whatever_was_joined(parts):
    ours, step = clock(), Fraction(1, 25)
    shown = [ours.time_of((begin + index) * step, step) for begin, count in parts for index in range(count)]
    begin = parts[0][0]
    assert shown == [(begin + index) * step for index in range(len(shown))]
