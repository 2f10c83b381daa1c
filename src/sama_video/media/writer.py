"""Video files out: frames with exact times -> H.264 with the tracks that go with them."""

import contextlib
import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from ..system.errors import UserError
from .containers import VIDEO_SUFFIXES
from .pictures import IMAGE_SUFFIXES
from .reader import Frame
from .tracks import Tracks, TracksWriter

BT709 = 1
LONGEST_SIDE = 16384  # of x264


def check_output_suffix(path: Path, is_image: bool) -> None:
    """Raises UserError for a suffix that cannot hold the result."""
    allowed = IMAGE_SUFFIXES if is_image else VIDEO_SUFFIXES
    if path.suffix.lower() not in allowed:
        raise UserError(
            f"cannot write {path.suffix or 'a file without suffix'}; use one of {', '.join(sorted(allowed))}"
        )


class VideoWriter:
    """Writes H.264 yuv420p with given times, and the tracks that go with it; RGB where nothing may be lost.

    Odd sides grow by one repeated row or column, since yuv420p has none.

    Args:
        path: where to write (already aside; see `written_aside`).
        height, width: of the frames.
        fps: announced average rate.
        crf: x264's quality, lower is better; 0 keeps every pixel, in RGB, which browsers do not play.
        tracks: sound, subtitles and the rest (see `carry_tracks`), None for none.

    Raises:
        UserError: for a size that H.264 does not have, and for frames whose times do not increase.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        fps: Fraction,
        *,
        crf: int = 16,
        time_base: Fraction = Fraction(1, 90000),
        tracks: Tracks | None = None,
    ):
        check_picture_size(height, width)
        self.pad = (height % 2, width % 2)
        self.time_base = time_base
        # A whole number of the track's ticks per tick of ours keeps every time exact.
        ticks = str(time_base.denominator * max(1, -(-10_000 // time_base.denominator)))
        options = {"movflags": "+faststart", "video_track_timescale": ticks} if path.suffix != ".mkv" else {}
        # "file:" keeps a colon in the name from being read as a protocol.
        self.container = av.open(f"file:{path}", "w", options=options)
        self.stream = _add_pictures(self.container, height + self.pad[0], width + self.pad[1], fps, crf, time_base)
        self.lead = tracks.lead if tracks is not None else Fraction(0)
        self.tracks = TracksWriter(tracks or Tracks(), self.container)
        self._last: Fraction | None = None

    def write(self, frame: Frame) -> None:
        pts = round((frame.time + self.lead) / self.time_base)
        if self._last is not None:
            check_times([self._last, frame.time], self.time_base)
        self._last = frame.time
        pixels = frame.pixels
        if any(self.pad):
            pixels = np.pad(pixels, ((0, self.pad[0]), (0, self.pad[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self.stream.pix_fmt == "yuv420p":
            picture = picture.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=Interpolation.BICUBIC, threads=1
            )
        picture.pts, picture.time_base = pts, self.time_base
        picture.duration = max(1, round(frame.duration / self.time_base))
        self._mux(self.stream.encode(picture))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if packet.dts is not None and packet.time_base is not None:
                self.tracks.write_until(packet.dts * packet.time_base)
            self.container.mux(packet)

    def close(self) -> None:
        self._mux(self.stream.encode())
        self.tracks.write_until(None)
        self.container.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            with contextlib.suppress(Exception):
                self.container.close()


def check_times(times: Sequence[Fraction], time_base: Fraction) -> None:
    """Raises UserError unless the times of frames increase, on the clock that they are written with."""
    for one, other in itertools.pairwise(times):
        if round(other / time_base) <= round(one / time_base):
            raise UserError(
                f"the frames' times do not increase: one at {float(one):.6f} s is followed by one at "
                f"{float(other):.6f} s; give the clip even times first: ffmpeg -i CLIP -fps_mode cfr EVEN.mp4"
            )


def _add_pictures(
    container: av.container.OutputContainer, height: int, width: int, fps: Fraction, crf: int, time_base: Fraction
) -> av.VideoStream:
    encoding = {"crf": str(crf), "preset": "veryfast"}
    if time_base != 1 / fps:
        encoding["bf"] = "0"  # MP4 sums durations in decoding order: reordered frames of unequal length blur them
    stream = container.add_stream("libx264" if crf else "libx264rgb", rate=fps, options=encoding)
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv420p" if crf else "rgb24"
    context = stream.codec_context
    context.time_base = time_base
    context.flags |= Flags.frame_duration  # the last picture lasts as long as it did
    if not crf:
        return stream
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = ColorRange.MPEG
    return stream


def check_picture_size(height: int, width: int) -> None:
    """Raises UserError for pictures that H.264 cannot hold."""
    if not (0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE):
        raise UserError(
            f"a video of {width}x{height} cannot be written: H.264 holds at most {LONGEST_SIDE} pixels a side; "
            "use `output_size` model, or scale the source down first"
        )


def regular_time_base(frames_times: list[Fraction], fps: Fraction) -> Fraction:
    """1 / fps if all times lie on its grid (within a tenth of a frame), else a 90 kHz clock."""
    on_grid = fps > 0 and all(abs(time * fps - round(time * fps)) < Fraction(1, 10) for time in frames_times)
    return 1 / fps if on_grid else Fraction(1, 90000)


def write_lossless(path: Path, frames: np.ndarray, fps: Fraction) -> None:
    """uint8 `[F, H, W, 3]` to an mp4 whose pixels come back as they were (H.264 in RGB), or one frame to a PNG.

    One thread, since x264's output depends on their number. Browsers do not play RGB; FFmpeg and this package do.
    """
    if path.suffix == ".png":
        PIL.Image.fromarray(frames[0]).save(path)
        return
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = index, 1 / fps
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
