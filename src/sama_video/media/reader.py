"""Video files in: anything that FFmpeg reads -> upright RGB frames with exact times.

Frames are uint8 `[H, W, 3]`. Times are exact fractions of a second from the beginning of the file's video.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
from av.video.reformatter import Colorspace, Interpolation

from ..errors import UserError
from .pictures import IMAGE_SUFFIXES, read_picture

# Seconds before the wanted time at which decoding starts: more than any usual distance between key frames, and
# MPEG program streams have no index, so their seeks land anywhere near.
SEEK_MARGIN = 5.0
TIME_TOLERANCE = Fraction(1, 100_000)
USUAL_RATES = tuple(Fraction(n) for n in (24, 25, 30, 48, 50, 60, 120)) + tuple(
    Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)
)


@dataclass(frozen=True)
class Frame:
    """One picture: `pixels` uint8 `[H, W, 3]`, shown at `time` seconds for `duration` seconds."""

    pixels: np.ndarray
    time: Fraction
    duration: Fraction


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself.

    Args:
        height, width: of an upright picture with square pixels.
        fps: average rate; 0 for an image.
        num_frames: as announced by the container, 0 if it does not say.
        has_audio: whether there is sound.
        is_image: a single picture.
    """

    height: int
    width: int
    fps: Fraction
    num_frames: int
    has_audio: bool
    is_image: bool


class VideoReader:
    """A video or image file whose frames can be read again and again, as a stream.

    Raises:
        UserError: for a missing file, one that is no video, or one without a decodable frame.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"no such video: {self.path}; check the path")
        self.damaged: str | None = None
        if self.path.suffix.lower() in IMAGE_SUFFIXES:
            self.info = self._probe_image()
            return
        with self._open() as container:
            stream = container.streams.video[0]
            first = next(self._decode(container), None)
            if first is None:
                raise UserError(f"{self.path} holds no frame that can be decoded; is the download complete?")
            height, width = _upright_size(first, stream)
            self.start_pts = first.pts or 0
            rate = _named_rate(Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25))
            self.info = VideoInfo(
                height=height,
                width=width,
                fps=rate,
                num_frames=stream.frames,
                has_audio=bool(container.streams.audio),
                is_image=False,
            )
            self.time_base = Fraction(stream.time_base)

    def _probe_image(self) -> VideoInfo:
        pixels = read_picture(self.path)
        height, width = pixels.shape[:2]
        return VideoInfo(height, width, Fraction(0), 1, has_audio=False, is_image=True)

    @contextlib.contextmanager
    def _open(self) -> Iterator[av.container.InputContainer]:
        try:
            container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{self.path} is not a video that FFmpeg can read ({reason}); is it complete, and a video?"
            ) from error
        with container:
            if not container.streams.video:
                raise UserError(f"{self.path} has no video stream; give a video or an image")
            container.streams.video[0].thread_type = "AUTO"
            yield container

    def _decode(self, container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
        """Frames until the end or until nothing more decodes; `damaged` then says why."""
        try:
            yield from container.decode(video=0)
        except (av.error.FFmpegError, OSError) as error:
            self.damaged = str(error)

    def frames(
        self, start: float = 0.0, num_frames: int | None = None, size: tuple[int, int] | None = None
    ) -> Iterator[Frame]:
        """Frames from the one shown at `start` seconds on, each resized to `size` (height, width).

        Seeking goes early and decodes up to the wanted time, so the first frame is exact in every container.

        Raises:
            UserError: if no frame is shown at `start` or later.
        """
        if self.info.is_image:
            pixels = read_picture(self.path)
            if size is not None and size != pixels.shape[:2]:
                image = PIL.Image.fromarray(pixels)
                pixels = np.array(image.resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC))
            yield Frame(pixels, Fraction(0), Fraction(0))
            return
        count = 0
        frame_time = Fraction(1) / self.info.fps
        # A time that was a fraction once may have lost its last digits on the way.
        for frame, time in self._from(Fraction(start) + TIME_TOLERANCE):
            if num_frames is not None and count >= num_frames:
                return
            duration = Fraction(frame.duration or 0) * self.time_base or frame_time
            yield Frame(_to_rgb(frame, size, self.info), time, duration)
            count += 1
        if count == 0:
            raise UserError(f"{self.path} shows nothing at {float(start):g} s; choose an earlier start")

    def _timed(self, container: av.container.InputContainer) -> Iterator[tuple[av.VideoFrame, Fraction]]:
        for index, frame in enumerate(self._decode(container)):
            # Some raw streams carry no times: count frames at the average rate instead.
            if frame.pts is None:
                yield frame, index / self.info.fps
            else:
                yield frame, (frame.pts - self.start_pts) * self.time_base

    def _from(self, start: Fraction) -> Iterator[tuple[av.VideoFrame, Fraction]]:
        margin = SEEK_MARGIN
        while True:
            with self._open() as container:
                seeks = float(start) > margin
                if seeks:
                    offset = self.start_pts + int((float(start) - margin) / self.time_base)
                    container.seek(offset, stream=container.streams.video[0], backward=True)
                previous = None
                for frame, time in self._timed(container):
                    if previous is None and seeks and time > start:
                        margin *= 4  # the seek landed after the wanted frame: begin earlier, in the end at the start
                        break
                    if previous is not None and time > start:
                        yield previous
                    previous = (frame, time)
                else:
                    if previous is not None and start < previous[1] + 1 / self.info.fps:
                        yield previous
                    return


def _named_rate(rate: Fraction) -> Fraction:
    """The usual rate within a hundredth of a percent: times rounded to a file's clock blur the average a little."""
    return next((usual for usual in USUAL_RATES if abs(rate / usual - 1) < Fraction(1, 10_000)), rate)


def _upright_size(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    height, width = frame.height, max(1, round(frame.width * aspect))
    return (width, height) if frame.rotation % 180 else (height, width)


def _to_rgb(frame: av.VideoFrame, size: tuple[int, int] | None, info: VideoInfo) -> np.ndarray:
    """Upright uint8 `[H, W, 3]`; alpha is composed over black."""
    height, width = size or (info.height, info.width)
    if frame.rotation % 180:
        height, width = width, height
    has_alpha = any(component.is_alpha for component in frame.format.components)
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgba" if has_alpha else "rgb24",
        # Files that do not say follow the players' convention: BT.709 from 720 lines on.
        src_colorspace=None if frame.colorspace in (1, 4, 5, 7, 9) else _default_colorspace(frame.height),
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        threads=1,  # a frame is too small a piece of work: threads cost more than they bring
    ).to_ndarray()
    if has_alpha:
        rgb = (rgb[..., :3].astype(np.uint16) * rgb[..., 3:] // 255).astype(np.uint8)
    if frame.rotation:
        rgb = np.rot90(rgb, k=frame.rotation // 90)
    return np.ascontiguousarray(rgb)


def _default_colorspace(height: int) -> Colorspace:
    return Colorspace.ITU709 if height >= 720 else Colorspace.ITU601
