"""Interlaced films come in whole, progressive ones untouched; the right track is read."""

from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest
from av.codec.context import Flags
from av.stream import Disposition

from sama_video.system.errors import UserError
from sama_video.video import VideoReader
from tests.clips import picture, write_clip


def field(time: int) -> np.ndarray:
    """A bright bar that moves 8 columns a field."""
    pixels = np.full((96, 256, 3), 16, np.uint8)
    pixels[:, 8 * time : 8 * time + 24] = 235
    return pixels


def woven(index: int) -> np.ndarray:
    pixels = field(2 * index)
    pixels[1::2] = field(2 * index + 1)[1::2]
    return pixels


def combs(pixels: np.ndarray) -> float:
    """Mean difference of neighbouring rows, 0 for upright bars in whole frames."""
    return float(np.abs(np.diff(pixels[8:-8].astype(int), axis=0)).mean())


def write(path, codec, interlaced, num_frames=12):
    with av.open(str(path), "w") as container:
        options = {"x264-params": "tff=1"} if interlaced and codec == "libx264" else {}
        stream = container.add_stream(codec, rate=25, options={"bf": "0", **options})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 96, 256, "yuv420p", 6_000_000
        if interlaced and codec == "mpeg2video":
            stream.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(woven(index) if interlaced else field(2 * index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


KINDS = [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.mpg", "mpeg2video")]


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_interlaced_films_are_deinterlaced(name, codec, tmp_path):
    path = write(tmp_path / name, codec, interlaced=True)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert combs(stored) > 10
    reader = VideoReader(path)
    assert reader.notes == ["deinterlaced"]
    frames = list(reader.frames())
    assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(12)]
    assert reader.info.num_frames in (0, 12)
    for index, frame in enumerate(frames):
        assert combs(frame.pixels) < 4
        bright = np.flatnonzero(frame.pixels[48, :, 0] > 120)
        assert abs(bright.mean() - (16 * index + 16)) <= 6  # one of the two fields
    later = next(reader.frames(start=7 / 25))
    assert np.array_equal(later.pixels, frames[7].pixels)


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_progressive_films_are_not_filtered(name, codec, tmp_path):
    path = write(tmp_path / name, codec, interlaced=False)
    reader = VideoReader(path)
    frames = list(reader.frames())
    assert reader.notes == []
    with av.open(str(path)) as container:
        for ours, stored in zip(frames, container.decode(video=0), strict=True):
            assert np.abs(ours.pixels.astype(int) - stored.to_ndarray(format="rgb24")).max() <= 3


def test_cover_pictures_are_no_films(tmp_path):
    PIL.Image.fromarray(picture(0)).save(tmp_path / "cover.png")
    sound = write_clip(tmp_path / "a.mp4", 9, sound=True)
    for with_film in (False, True):
        with (
            av.open(str(sound)) as source,
            av.open(str(tmp_path / "cover.png")) as cover,
            av.open(str(tmp_path / "b.mp4"), "w") as target,
        ):
            wanted = [cover.streams.video[0], source.streams.audio[0], *source.streams.video[: int(with_film)]]
            streams = {stream: target.add_stream_from_template(stream) for stream in wanted}
            streams[wanted[0]].disposition = Disposition.attached_pic
            for container in (cover, source):
                for packet in container.demux([stream for stream in wanted if stream.container is container]):
                    if packet.size:
                        packet.stream = streams[packet.stream]
                        target.mux(packet)
        if with_film:
            reader = VideoReader(tmp_path / "b.mp4")
            assert (reader.info.num_frames, len(list(reader.frames()))) == (9, 9)
        else:
            with pytest.raises(UserError, match="no video stream"):
                VideoReader(tmp_path / "b.mp4")


def test_two_films_in_one_file_are_told(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    assert VideoReader(tmp_path / "a.mkv").notes == ["only one of 2 video tracks was read"]
