"""Animated pictures (GIF, WebP, APNG, AVIF): clips whose every frame says how long it is shown."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import PIL.Image

from ..system.errors import UserError
from .frames import Frame, VideoInfo, named_rate
from .opening import reading
from .pictures import BROKEN, open_picture, pixels_of

_ANIMATED_KINDS = {"GIF", "WEBP", "PNG", "AVIF"}
# What browsers make of "no time at all", seconds.
_UNTIMED = Fraction(1, 10)


def is_animated(path: Path, kind: str, max_pixels: int | None) -> bool:
    """Whether a picture file has more than one frame to show.

    Raises:
        UserError: for a file that cannot be read.
    """
    if kind not in _ANIMATED_KINDS:
        return False
    with reading(path, BROKEN), open_picture(path, kind, max_pixels) as image:
        return getattr(image, "n_frames", 1) - _first(image) > 1


def _first(image: PIL.Image.Image) -> int:
    """The first frame that is shown: an APNG may begin with a picture for programs that know no APNG."""
    return int(bool(image.info.get("default_image")))


class Animation:
    """An animated picture, in the form of a `Film`.

    Raises:
        UserError: for a file without a frame that can be decoded.
    """

    def __init__(self, path: Path, kind: str, max_pixels: int | None):
        self.path, self.kind, self.max_pixels = path, kind, max_pixels
        self.damaged: str | None = None
        self.notes: list[str] = []
        self.durations: list[Fraction] = []
        height = width = 0
        has_alpha = False
        for frame, announced in self._decode(None):
            (height, width), duration = frame.pixels.shape[:2], frame.duration
            has_alpha |= frame.alpha is not None
            self.durations.append(duration)
            num_frames = announced
        if not self.durations:
            raise UserError(f"{path} holds no frame that can be decoded; is the download complete?")
        rate = named_rate(len(self.durations) / sum(self.durations, Fraction(0)))
        self.info = VideoInfo(height, width, rate, num_frames, has_audio=False, is_image=False, has_alpha=has_alpha)

    def _decode(self, size: tuple[int, int] | None) -> Iterator[tuple[Frame, int]]:
        """All frames that decode, each with the number of frames announced."""
        time = Fraction(0)
        with reading(self.path, BROKEN), open_picture(self.path, self.kind, self.max_pixels) as image:
            first, last = _first(image), getattr(image, "n_frames", 1)
            for index in range(first, last):
                try:
                    image.seek(index)
                    image.load()
                except Exception as error:  # of many kinds; what came before can be used
                    if index == first:
                        raise
                    self.damaged = f"does not decode after {index - first} frames ({error or type(error).__name__})"
                    return
                pixels, alpha, notes = pixels_of(image.copy(), size)
                self.notes.extend(note for note in notes if note not in self.notes)
                duration = self._duration(image)
                yield Frame(pixels, time, duration, alpha), last - first
                time += duration

    def _duration(self, image: PIL.Image.Image) -> Fraction:
        milliseconds = image.info.get("duration") or 0
        if milliseconds > 0:
            return Fraction(milliseconds).limit_denominator(1000) / 1000
        note = "frames without a duration are shown for 0.1 s, as browsers do"
        if note not in self.notes:
            self.notes.append(note)
        return _UNTIMED

    def frames(self, start: Fraction, size: tuple[int, int] | None) -> Iterator[Frame]:
        """Frames from the one shown at `start` seconds on, resized to `size` (height, width)."""
        for frame, _ in self._decode(size):
            if frame.time + frame.duration > start:
                yield frame

    def times(self) -> Iterator[Fraction]:
        """Times of all frames."""
        for index in range(len(self.durations)):
            yield sum(self.durations[:index], Fraction(0))
