"""Video files out: frames with exact times -> encoded pictures with the tracks that go with them."""

import contextlib
import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image

from ..system.errors import UserError
from .codecs import PictureCoding
from .containers import VIDEO_SUFFIXES
from .pictures import IMAGE_SUFFIXES
from .reader import Frame
from .tracks import Tracks, TracksWriter

_WITH_TIMESCALES = (".mp4", ".m4v", ".mov")
# Animated pictures are shown again and again, as everybody expects of them.
_FOR_EVER = {".gif": {"loop": "0"}, ".webp": {"loop": "0"}, ".apng": {"plays": "0"}}


def check_output_suffix(path: Path, is_image: bool) -> None:
    """Raises UserError for a suffix that cannot hold the result."""
    allowed = IMAGE_SUFFIXES if is_image else VIDEO_SUFFIXES
    if path.suffix.lower() not in allowed:
        raise UserError(
            f"cannot write {path.suffix or 'a file without suffix'}; use one of {', '.join(sorted(allowed))}"
        )


class VideoWriter:
    """Writes pictures with given times, and the tracks that go with them.

    Odd sides grow by one repeated row or column where the codec has none.

    Args:
        path: where to write (already aside; see `written_aside`).
        height, width: of the frames.
        fps: announced average rate.
        coding: how they are encoded; None for the usual way of the file's kind.
        tracks: sound, subtitles and the rest (see `carry_tracks`), None for none.

    Raises:
        UserError: for a size that the codec does not have, and for frames whose times do not increase.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        fps: Fraction,
        *,
        coding: PictureCoding | None = None,
        time_base: Fraction = Fraction(1, 90000),
        tracks: Tracks | None = None,
    ):
        coding = coding or PictureCoding.of(path)
        coding.check_size(height, width)
        self.pad = (-height % coding.multiple, -width % coding.multiple)
        self.time_base = time_base
        # A whole number of the track's ticks per tick of ours keeps every time exact.
        ticks = str(time_base.denominator * max(1, -(-10_000 // time_base.denominator)))
        suffix = path.suffix.lower()
        options = {"movflags": "+faststart", "video_track_timescale": ticks} if suffix in _WITH_TIMESCALES else {}
        options |= _FOR_EVER.get(suffix, {})
        # "file:" keeps a colon in the name from being read as a protocol.
        self.container = av.open(f"file:{path}", "w", options=options)
        size = (height + self.pad[0], width + self.pad[1])
        self.stream = coding.add_stream(self.container, *size, fps, time_base)
        self.converter = coding.converter(self.stream)
        self.lead = tracks.lead if tracks is not None else Fraction(0)
        self.tracks = TracksWriter(tracks or Tracks(), self.container)
        self._last: Fraction | None = None

    def write(self, frame: Frame) -> None:
        pts = round((frame.time + self.lead) / self.time_base)
        if self._last is not None:
            check_times([self._last, frame.time], self.time_base)
        self._last = frame.time
        grown = ((0, self.pad[0]), (0, self.pad[1]))
        pixels = np.pad(frame.pixels, (*grown, (0, 0)), mode="edge")
        alpha = None if frame.alpha is None else np.pad(frame.alpha, grown, mode="edge")
        picture = self.converter.convert(pixels, alpha, pts, self.time_base)
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
