"""Video files: anything that FFmpeg reads -> upright RGB frames with exact times -> H.264 with the source's sound.

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
import PIL.ImageOps
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from .errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".m4v"}
# Seconds before the wanted time at which decoding starts: more than any usual distance between key frames, and
# MPEG program streams have no index, so their seeks land anywhere near.
SEEK_MARGIN = 5.0
TIME_TOLERANCE = Fraction(1, 100_000)
USUAL_RATES = tuple(Fraction(n) for n in (24, 25, 30, 48, 50, 60, 120)) + tuple(
    Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)
)
BT709 = 1


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


def _pixels_of_image(image: PIL.Image.Image) -> np.ndarray:
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        black = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = PIL.Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


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
        pixels = self._read_image()
        height, width = pixels.shape[:2]
        return VideoInfo(height, width, Fraction(0), 1, has_audio=False, is_image=True)

    def _read_image(self) -> np.ndarray:
        try:
            with PIL.Image.open(self.path) as image:
                return _pixels_of_image(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{self.path} is not an image that can be read ({error}); is it complete?") from error

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
            pixels = self._read_image()
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

    def _prepare_sound(self) -> "_Sound | None":
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
        return _Sound(source, template, stream, copies)

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


@dataclass
class _Sound:
    """Sound on its way from one container to another."""

    source: av.container.InputContainer
    template: av.AudioStream
    stream: av.AudioStream
    copies: bool

    def mux(self, target: av.container.OutputContainer, start: Fraction, end: Fraction) -> None:
        """Everything that sounds in `start .. start + end`, moved to begin at 0."""
        video_start = self.source.streams.video[0].start_time or 0
        origin = video_start * self.source.streams.video[0].time_base + start if self.source.streams.video else start
        with self.source:
            for packet in self.source.demux(self.template):
                if packet.pts is None:
                    continue
                time = packet.pts * packet.time_base - origin
                if time >= end:
                    break
                if time + (packet.duration or 0) * packet.time_base <= 0:
                    continue
                offset = round(origin / packet.time_base)
                if self.copies:
                    packet.pts, packet.dts = packet.pts - offset, (packet.dts or packet.pts) - offset
                    packet.stream = self.stream
                    target.mux(packet)
                else:
                    for frame in packet.decode():
                        frame.pts = None
                        target.mux(self.stream.encode(frame))
            if not self.copies:
                target.mux(self.stream.encode())


def write_image(path: Path, pixels: np.ndarray) -> None:
    """uint8 `[H, W, 3]` to a picture file, in the format of its suffix."""
    PIL.Image.fromarray(pixels).save(path, quality=95)


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
