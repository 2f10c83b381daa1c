"""Where a film is cut, from how much each frame differs from the one before it.

A cut stands alone: a frame that is far from the one before it, between neighbours that are not. A flash is two such
changes in a row, and a fast camera many. (The engine's own `synth.footage.find_shots` decides which films' frames
belong to which split and stays as it is.)
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_COARSE = 32  # pixels of a side that frames are compared at
_LEAST = 15.0  # mean change of a channel at a cut, of 255
_ALONE = 2.5  # times the largest change in the frames around it
_AROUND = 2  # frames before and after


def coarse(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` -> int16 `[h, w, 3]`, every so many pixels: enough to compare frames by."""
    rows, columns = (np.linspace(0, side - 1, min(side, _COARSE)).round().astype(int) for side in pixels.shape[:2])
    return pixels[rows][:, columns].astype(np.int16)


def changes(frames: Iterable[np.ndarray]) -> Iterator[float]:
    """Of each frame after the first, the mean absolute difference to the one before it, in levels of 255."""
    before = None
    for pixels in frames:
        now = coarse(pixels)
        if before is not None:
            yield float(np.abs(now - before).mean())
        before = now


def find_cuts(change: Sequence[float]) -> list[int]:
    """Numbers of the frames that begin a shot; `change[i]` is between frames i and i + 1."""
    cuts = []
    for index, value in enumerate(change):
        around = (*change[max(0, index - _AROUND) : index], *change[index + 1 : index + 1 + _AROUND])
        if value >= _LEAST and value > _ALONE * max(around, default=0.0):
            cuts.append(index + 1)
    return cuts
