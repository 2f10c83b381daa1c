"""Odd names, wrong files and huge frames: read, or refused with the sentence that says which it is."""

import os
import shutil

import av
import numpy as np
import pytest

from sama_video.media.opening import reading
from sama_video.system.errors import UserError
from sama_video.video import MAX_SOURCE_PIXELS, VideoReader, result_suffix
from tests.clips import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", 48, sound=True)


@pytest.mark.parametrize(
    "name",
    [
        "12:30 clip.mp4",
        "pipe:0",
        "http:x.mp4",
        "%03d.mp4",
        "-i.mp4",
        "a?b#c.mp4",
        "Z\u00fcrich \u2603.mp4",
        "x.txt",
        "y",
    ],
)
def test_names_are_names_and_nothing_else(name, clip, tmp_path, monkeypatch):
    shutil.copy(clip, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        assert len(list(VideoReader(path).frames(num_frames=3))) == 3
    assert result_suffix(tmp_path / name) == ".mp4"


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_utf_8(clip, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
    try:
        shutil.copy(clip, name)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert VideoReader(os.fsdecode(name)).info.num_frames == 48


def test_what_is_wrong_with_a_path_is_said(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, message in (
        ("none.mp4", "no such video: .*none.mp4; check the path"),
        ("folder.mp4", "is a folder"),
        ("empty.mp4", "is empty"),
        ("loop.mp4", "cannot be opened .*symbolic links"),
        ("pipe.mp4", "is not a regular file"),
        ("nul\0.mp4", "cannot be opened .*null"),
    ):
        with pytest.raises(UserError, match=message):
            VideoReader(tmp_path / name)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is readable here")
def test_a_file_without_permission_is_not_called_missing(clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.mp4")
    os.chmod(tmp_path / "a.mp4", 0)
    with pytest.raises(UserError, match=r"cannot be opened .*permissions"):
        VideoReader(tmp_path / "a.mp4")


def test_lists_of_other_files_and_texts_are_no_films(clip, tmp_path):
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {clip}\n")
    playlist = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    (tmp_path / "notes.txt").write_text("hello\n" * 50)
    for name in ("list.mp4", "list.m3u8", "notes.txt"):
        with pytest.raises(UserError, match=f"{name} is .*not a video that FFmpeg can read"):
            VideoReader(tmp_path / name)


@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
@pytest.mark.parametrize("faststart", [False, True])
def test_films_that_were_cut_off(share, faststart, clip, tmp_path):
    path = clip
    if faststart:
        path = tmp_path / "fast.mp4"
        with av.open(str(clip)) as source, av.open(str(path), "w", options={"movflags": "+faststart"}) as target:
            streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream]
                    target.mux(packet)
    data = path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
    if not faststart:
        with pytest.raises(UserError, match=r"cut\.mp4 is not a video that FFmpeg can read"):
            VideoReader(tmp_path / "cut.mp4")
        return
    if share == 0.1:  # no frame is left
        with pytest.raises(UserError, match=r"cut\.mp4"):
            VideoReader(tmp_path / "cut.mp4")
        return
    reader = VideoReader(tmp_path / "cut.mp4")
    num_frames = len(list(reader.frames()))
    assert 0 < num_frames <= 48
    assert reader.info.num_frames == 48
    assert share > 0.9 or num_frames < 40


def test_huge_frames_are_refused_by_their_header(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 2)
    with pytest.raises(UserError, match=r"128x96 pixels, more than the limit of 12287; .*`max_source_pixels` 12288"):
        VideoReader(path, max_pixels=12287)
    assert VideoReader(path, max_pixels=12288).info.width == 128
    assert 7680 * 4320 < MAX_SOURCE_PIXELS < 9000 * 9000
    # A pixel that is twice as wide as high is as much work as two.
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((96, 128, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="256x96 pixels, more than the limit"):
        VideoReader(tmp_path / "b.mp4", max_pixels=12288)


def test_whatever_a_library_raises_becomes_a_sentence(tmp_path):
    for error in (MemoryError(), OverflowError("too big"), AttributeError("no rate"), EOFError(), IndexError("x")):
        with pytest.raises(UserError, match=r"a\.mp4 cannot be read") as caught, reading(tmp_path / "a.mp4"):
            raise error
        assert caught.value.__cause__ is error
    with pytest.raises(KeyboardInterrupt), reading(tmp_path / "a.mp4"):
        raise KeyboardInterrupt
