"""Random draws and arithmetic that give the same numbers on every machine and with every Python.

Only `random.Random.random()` is used, whose sequence for a seed Python promises to keep; sines come from a table of
rounded values; pictures are scaled with whole numbers (float32 products of small integers are exact in any order).
"""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")

TURN = 1024
SINE_SCALE = 4096
# No entry lies near a half, so that a last digit that differs between machines cannot show.
SINE = np.array([round(SINE_SCALE * math.sin(2 * math.pi * k / TURN)) for k in range(TURN)], dtype=np.int32)


def sine(angle: int) -> int:
    """`SINE_SCALE` times the sine of `angle` / `TURN` of a full turn."""
    return int(SINE[angle % TURN])


def cosine(angle: int) -> int:
    return sine(angle + TURN // 4)


class Draw:
    """Draws that depend on the key only.

    Args:
        key: anything with a stable text form; equal keys give equal sequences.
    """

    def __init__(self, *key: object):
        self._random = random.Random("/".join(map(str, key)))

    def unit(self) -> float:
        """In [0, 1)."""
        return self._random.random()

    def below(self, stop: int) -> int:
        """An integer in [0, stop)."""
        return int(self.unit() * stop)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def choice(self, items: Sequence[T]) -> T:
        if not items:
            raise ValueError("nothing to choose from")
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        mark = self.unit() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in items]


def dilated(coverage: np.ndarray, reach: int) -> np.ndarray:
    """uint8 `[H, W]`: every pixel takes the highest value within a distance whose square is at most `reach`."""
    radius = math.isqrt(reach)
    grown = coverage.copy()
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx * dx + dy * dy <= reach:
                grown = np.maximum(grown, np.roll(coverage, (dy, dx), axis=(0, 1)))
    return grown


@lru_cache(maxsize=512)
def _area_weights(length: int, new_length: int) -> np.ndarray:
    """`[new_length, length]`: overlaps of pixels in units of 1 / new_length; every row sums to `length`."""
    old = np.arange(length)[None] * new_length
    new = np.arange(new_length)[:, None] * length
    overlap = np.minimum(old + new_length, new + length) - np.maximum(old, new)
    return np.maximum(overlap, 0).astype(np.float32)


@lru_cache(maxsize=512)
def _linear_weights(length: int, new_length: int) -> np.ndarray:
    """`[new_length, length]` for enlarging: linear interpolation in units of 1 / (2 * new_length)."""
    weights = np.zeros((new_length, length), dtype=np.float32)
    for index in range(new_length):
        position = min(max((2 * index + 1) * length - new_length, 0), 2 * new_length * (length - 1))
        first, fraction = divmod(position, 2 * new_length)
        weights[index, first] += 2 * new_length - fraction
        weights[index, min(first + 1, length - 1)] += fraction
    return weights


def _resample(pixels: np.ndarray, new_length: int) -> np.ndarray:
    """Along the first axis; the sums are whole numbers below 2^24, hence exact in float32."""
    weights = (_area_weights if new_length <= len(pixels) else _linear_weights)(len(pixels), new_length)
    total = int(weights[0].sum())
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    sums = (weights @ flat).astype(np.int32)
    return ((sums + total // 2) // total).astype(np.uint8).reshape(new_length, *pixels.shape[1:])


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[H, W, ...]` -> uint8 `[height, width, ...]`: averages over areas, or straight lines between pixels."""
    if pixels.shape[0] != height:
        pixels = _resample(pixels, height)
    if pixels.shape[1] != width:
        pixels = _resample(pixels.swapaxes(0, 1), width).swapaxes(0, 1)
    return np.ascontiguousarray(pixels)
