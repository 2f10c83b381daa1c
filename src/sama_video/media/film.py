"""Video files in: anything that FFmpeg reads -> upright RGB frames with exact times."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..system.errors import UserError
from .colour import REFERENCE_WHITE, coding_of, find_white, to_rgb
from .decoding import Decoded, Decoder, choose_stream
from .frames import ON_WHITE, Frame, VideoInfo
from .opening import MAX_SOURCE_PIXELS, Part, check_pixels, joined_matroska, open_container, reading
from .timing import Clock, Timeline, join_timelines, read_timeline

# Seconds before the wanted time at which decoding starts: more than any usual distance between key frames, and
# MPEG program streams have no index, so their seeks land anywhere near.
_SEEK_MARGIN = 5.0
_PROBES = 5  # frames over the film in which HDR's white is looked for


class Film:
    """A video file: what it says of itself, and its frames, again and again.

    Args:
        path: of a file that is there.
        max_pixels: of a frame; None for the usual limit.

    Attributes:
        info: size, rate and length.
        damaged: what is damaged, known when the frames were read.
        notes: what was done to the picture that one would not expect.

    Raises:
        UserError: for a file without a frame that can be decoded.
    """

    def __init__(self, path: Path, max_pixels: int | None):
        self.path = path
        self.max_pixels = MAX_SOURCE_PIXELS if max_pixels is None else max_pixels
        self.damaged: str | None = None
        self.notes: list[str] = []
        self.ignores_edit_list = False
        self.parts: list[tuple[int, int] | None] = [*joined_matroska(path)] or [None]
        self.timeline = self._read_timeline()
        with self._opened(self.parts[0]) as decoder:
            first = next(decoder.frames(), None)
            if first is None:
                raise UserError(f"{path} holds no frame that can be decoded; is the download complete?")
            self._take_notes(decoder)
            self.coded_size = (first.frame.height, first.frame.width)
            height, width = _upright_size(first.frame, decoder.stream)
            check_pixels(path, height, width, self.max_pixels)
            self.origin = first.time or Fraction(0)
            # Fields of one frame come as two packets in some containers: packets then do not count frames.
            counts = not (decoder.is_interlaced and self.timeline.has_fields)
            self.info = VideoInfo(
                height=height,
                width=width,
                fps=self.timeline.rate,
                num_frames=self.timeline.num_frames if counts else 0,
                has_audio=any(stream.codec_context is not None for stream in decoder.container.streams.audio),
                is_image=False,
                has_alpha=any(component.is_alpha for component in first.frame.format.components),
            )
            is_hdr = coding_of(first.frame).is_hdr
        self.white = find_white(self._probes()) if is_hdr else REFERENCE_WHITE

    def _probes(self) -> Iterator[av.VideoFrame]:
        """A few frames from all over the film, the first among them; that one alone where seeking is not possible."""
        seconds = self.info.num_frames / self.info.fps if self.timeline.can_seek else Fraction(0)
        with self._opened(self.parts[0]) as decoder:
            for probe in range(_PROBES if seconds else 1):
                if probe:
                    offset = int((self.origin + seconds * probe / _PROBES) / decoder.time_base)
                    decoder.container.seek(offset, stream=decoder.stream)
                frames = decoder.frames()
                if (decoded := next(frames, None)) is not None:
                    yield decoded.frame
                frames.close()

    def _read_timeline(self) -> Timeline:
        timeline = self._read_timelines()
        if timeline.clock == "none" and timeline.hides_frames:
            # An edit list counts in times, so it hides frames at random where there are none.
            self.ignores_edit_list = True
            timeline = self._read_timelines()
        if timeline.clock == "none" and timeline.num_frames > 1:
            what = "its clock stands still" if timeline.stands else "it carries no times"
            self._note(f"{what}: frames are shown at {float(timeline.rate):.6g} per second")
        return timeline

    def _read_timelines(self) -> Timeline:
        timelines = []
        for part in self.parts:
            with self._container(part) as (container, stream):
                timelines.append(read_timeline(container, stream))
        return join_timelines(timelines)

    @contextlib.contextmanager
    def _container(self, part: tuple[int, int] | None) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        with reading(self.path), contextlib.ExitStack() as stack:
            content = None if part is None else stack.enter_context(Part(self.path, *part))
            container = open_container(self.path, part=content, ignore_edit_lists=self.ignores_edit_list)
            stack.enter_context(container)
            stream, notes = choose_stream(container, self.path)
            check_pixels(self.path, stream.codec_context.height, stream.codec_context.width, self.max_pixels)
            for note in notes:
                self._note(note)
            yield container, stream

    @contextlib.contextmanager
    def _opened(self, part: tuple[int, int] | None) -> Iterator[Decoder]:
        with self._container(part) as (container, stream):
            yield Decoder(container, stream, self.max_pixels)

    def frames(self, start: Fraction, size: tuple[int, int] | None) -> Iterator[Frame]:
        """Frames from the one shown at `start` seconds on, resized to `size` (height, width)."""
        height, width = size or (self.info.height, self.info.width)
        for decoded, time in self._from(start):
            frame = decoded.frame
            if (frame.height, frame.width) != self.coded_size:
                self._note(
                    f"the picture changes its size from {self.coded_size[1]}x{self.coded_size[0]} to "
                    f"{frame.width}x{frame.height}: all frames were resized to the first"
                )
            pixels, alpha = self._pixels(frame, (height, width))
            yield Frame(pixels, time, decoded.duration or 1 / self.info.fps, alpha)

    def _pixels(self, frame: av.VideoFrame, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        turned, coding = bool(frame.rotation % 180), coding_of(frame, self.white)
        with reading(self.path, "cannot be read: {}"):
            try:
                rgb = to_rgb(frame, (size[1], size[0]) if turned else size, coding)
            except UserError as error:
                raise UserError(f"{self.path} cannot be read: {error}") from error
        if coding.note is not None:
            self._note(coding.note)
        if rgb.alpha is not None:
            self._note(ON_WHITE)

        def upright(array: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(np.rot90(array, k=frame.rotation // 90) if frame.rotation else array)

        return upright(rgb.pixels), None if rgb.alpha is None else upright(rgb.alpha)

    def times(self) -> Iterator[Fraction]:
        """Times of all frames, decoded but not converted."""
        for _, time in self._from(Fraction(0)):
            yield time

    def _from(self, start: Fraction) -> Iterator[tuple[Decoded, Fraction]]:
        margin = _SEEK_MARGIN
        while True:
            seeks = self.timeline.can_seek and float(start) > margin
            previous = None
            for decoded, time in self._timed(start - Fraction(margin) if seeks else None):
                if previous is None and seeks and time > start:
                    margin *= 4  # the seek landed after the wanted frame: begin earlier, in the end at the start
                    break
                if previous is not None and time > start:
                    yield previous
                previous = (decoded, time)
            else:
                if previous is not None and start < previous[1] + 1 / self.info.fps:
                    yield previous
                return

    def _timed(self, seek_to: Fraction | None) -> Iterator[tuple[Decoded, Fraction]]:
        clock = Clock(self.timeline, self.origin)
        for part in self.parts:
            with self._opened(part) as decoder:
                if seek_to is not None:
                    offset = int((self.origin + seek_to) / decoder.time_base)
                    decoder.container.seek(offset, stream=decoder.stream, backward=True)
                try:
                    for decoded in decoder.frames(clock.expect):
                        yield decoded, clock.time_of(decoded.time, decoded.duration)
                finally:
                    self.damaged = self.damaged or decoder.damaged
                    self._take_notes(decoder)
                    for note in clock.notes:
                        self._note(note)

    def _take_notes(self, decoder: Decoder) -> None:
        for note in decoder.notes:
            self._note(note)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _upright_size(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    height, width = frame.height, max(1, round(frame.width * aspect))
    return (width, height) if frame.rotation % 180 else (height, width)
