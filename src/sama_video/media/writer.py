"""Video files out: frames with exact times -> H.264 with the source's sound."""

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from ..errors import UserError
from .pictures import IMAGE_SUFFIXES
from .reader import Frame
from .sound import SoundCopy

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".m4v"}
BT709 = 1


def check_output_suffix(path: Path, is_image: bool) -> None:
    """Raises UserError for a suffix that cannot hold the result."""
    allowed = IMAGE_SUFFIXES if is_image else VIDEO_SUFFIXES
    if path.suffix.lower() not in allowed:
        raise UserError(
            f"cannot write {path.suffix or 'a file without suffix'}; use one of {', '.join(sorted(allowed))}"
        )


class VideoWriter:
    """Writes H.264 yuv420p with given times; sound is copied from a source file, re-encoded only where it must be.

    Odd sides grow by one repeated row or column, since yuv420p has none.

    Args:
        path: where to write (already aside; see `written_aside`).
        height, width: of the frames.
        fps: announced average rate.
        crf: x264's quality, lower is better.
        sound: file to take the sound from, between `sound_start` and the end of the last frame.
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
        sound: Path | None = None,
        sound_start: Fraction = Fraction(0),
    ):
        self.pad = (height % 2, width % 2)
        self.time_base = time_base
        # A whole number of the track's ticks per tick of ours keeps every time exact.
        ticks = str(time_base.denominator * max(1, -(-10_000 // time_base.denominator)))
        options = {"movflags": "+faststart", "video_track_timescale": ticks}
        self.container = av.open(str(path), "w", options=options)
        encoding = {"crf": str(crf), "preset": "veryfast"}
        if time_base != 1 / fps:
            encoding["bf"] = "0"  # MP4 sums durations in decoding order: reordered frames of unequal length blur them
        stream = self.container.add_stream("libx264", rate=fps, options=encoding)
        stream.height, stream.width = height + self.pad[0], width + self.pad[1]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = time_base
        context.flags |= Flags.frame_duration  # the last picture lasts as long as it did
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = ColorRange.MPEG
        self.stream = stream
        self.sound_file, self.sound_start, self.end = sound, sound_start, Fraction(0)
        self.sound = self._prepare_sound() if sound is not None else None

    def _prepare_sound(self) -> "SoundCopy | None":
        source = av.open(str(self.sound_file))
        if not source.streams.audio:
            source.close()
            return None
        template = source.streams.audio[0]
        try:
            stream = self.container.add_stream_from_template(template)
            copies = True
        except (av.error.FFmpegError, ValueError):  # a codec that the container cannot hold
            stream = self.container.add_stream("aac", rate=template.rate, layout=template.layout)
            copies = False
        return SoundCopy(source, template, stream, copies)

    def write(self, frame: Frame) -> None:
        pixels = frame.pixels
        if any(self.pad):
            pixels = np.pad(pixels, ((0, self.pad[0]), (0, self.pad[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=Interpolation.BICUBIC, threads=1
        )
        picture.pts = round(frame.time / self.time_base)
        picture.time_base = self.time_base
        picture.duration = max(1, round(frame.duration / self.time_base))
        self.end = frame.time + frame.duration
        self.container.mux(self.stream.encode(picture))

    def close(self) -> None:
        self.container.mux(self.stream.encode())
        if self.sound is not None:
            self.sound.mux(self.container, self.sound_start, self.end)
        self.container.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            with contextlib.suppress(Exception):
                self.container.close()


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
