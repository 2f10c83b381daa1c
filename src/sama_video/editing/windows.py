"""Which frames go through the model together. Imports no torch."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Window:
    """Frames `start` to `stop` (exclusive), the first `overlap` of which the window before has too."""

    start: int
    stop: int
    overlap: int = 0


def overlap_of(window: int) -> int:
    """Frames that neighbours share: about an eighth of a window, 4k+1 as the autoencoder counts."""
    return 4 * round(window / 32) + 1


def plan_windows(num_frames: int, cuts: Sequence[int], window: int) -> list[Window]:
    """Windows of at most `window` frames that cover a clip; none holds frames of two shots.

    Args:
        cuts: frames that begin a shot, beside the first.
    """
    windows = []
    for first, stop in itertools.pairwise([0, *cuts, num_frames]):
        starts = window_starts(stop - first, window, overlap_of(window))
        ends = [min(start + window, stop - first) for start in starts]
        before = [0, *ends]
        windows += [
            Window(start=first + start, stop=first + end, overlap=max(0, last - start))
            for start, end, last in zip(starts, ends, before, strict=False)
        ]
    return windows


def window_starts(num_frames: int, window: int, overlap: int) -> list[int]:
    """Starts of windows of `window` frames that cover a shot, neighbours sharing at least `overlap` frames."""
    if num_frames <= window:
        return [0]
    count = -(-(num_frames - overlap) // (window - overlap))
    return [round(i * (num_frames - window) / (count - 1)) for i in range(count)]
