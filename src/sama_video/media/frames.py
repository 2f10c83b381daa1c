"""What readers give and writers take: one frame with its time, and what a file says of itself."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

# A reader's note.
ON_WHITE = "transparent parts shown on white"


@dataclass(frozen=True)
class Frame:
    """One picture: `pixels` uint8 `[H, W, 3]`, shown at `time` seconds for `duration` seconds.

    `alpha` uint8 `[H, W]` is how opaque it is, its pixels then as they show on white; None where all is opaque.
    """

    pixels: np.ndarray
    time: Fraction
    duration: Fraction
    alpha: np.ndarray | None = None


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself.

    Args:
        height, width: of an upright picture with square pixels.
        fps: average rate; 0 for an image.
        num_frames: that are shown, as far as the file tells without decoding it; 0 if it does not say.
        has_audio: whether there is sound.
        is_image: a single picture.
        has_alpha: some of its pixels may be transparent.
    """

    height: int
    width: int
    fps: Fraction
    num_frames: int
    has_audio: bool
    is_image: bool
    has_alpha: bool = False


# Rates that files mean when they say nearly so.
_USUAL_RATES = tuple(Fraction(n) for n in (24, 25, 30, 48, 50, 60, 120)) + tuple(
    Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)
)


def named_rate(rate: Fraction) -> Fraction:
    """The usual rate within a hundredth of a percent: times rounded to a file's clock blur the average a little."""
    return next((usual for usual in _USUAL_RATES if abs(rate / usual - 1) < Fraction(1, 10_000)), rate)
