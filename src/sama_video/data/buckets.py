"""Buckets: the sizes and lengths that clips are cut to, so that a batch has one shape (paper section 4.1).

Shape legend: F frames, H W pixels. An aspect ratio is height / width.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..models.shapes import fit_size, wrong_num_frames

# 1/2, 2/3, 3/4, 1/1 and their reciprocals.
ASPECT_RATIOS = (1 / 2, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 2.0)
FRAME_COUNTS = (1, 17, 33, 49, 81)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The size that a batch has; `source_frames` is None without a source."""

    height: int
    width: int
    num_frames: int
    source_frames: int | None


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Sizes at about `area` pixels and lengths of 4k+1 frames.

    Args:
        area: pixels a frame; the model's native one.
        pixel_multiple: what height and width divide by: the VAE's factor times the transformer's patch.
        frame_counts: lengths, rising, each 4k+1; 1 is for images.
        aspect_ratios: height / width of the sizes.

    Raises:
        ValueError: for lengths that are not 4k+1 or do not rise.
    """

    area: int = 480 * 832
    pixel_multiple: int = 16
    frame_counts: tuple[int, ...] = FRAME_COUNTS
    aspect_ratios: tuple[float, ...] = ASPECT_RATIOS

    def __post_init__(self) -> None:
        for count in self.frame_counts:
            if problem := wrong_num_frames(count):
                raise ValueError(f"frame_counts {problem}")
        if not self.frame_counts or list(self.frame_counts) != sorted(set(self.frame_counts)):
            raise ValueError(f"frame_counts must rise, got {self.frame_counts}")

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every aspect ratio, in their order."""
        return tuple(fit_size(ratio, 1.0, self.area, self.pixel_multiple) for ratio in self.aspect_ratios)

    def nearest_size(self, height: np.ndarray, width: np.ndarray) -> np.ndarray:
        """For clips of `height` x `width` (arrays `[n]`) the index in `sizes` of the nearest log aspect ratio."""
        wanted = np.log(np.asarray(height) / np.asarray(width))
        offered = np.array([math.log(h / w) for h, w in self.sizes])
        return np.abs(wanted[:, None] - offered).argmin(axis=1)

    def longest_count(self, num_frames: np.ndarray) -> np.ndarray:
        """For clips of `num_frames` (array `[n]`) the largest of `frame_counts` not above; 0 where there is none."""
        counts = np.array((0, *self.frame_counts))
        return counts[np.searchsorted(counts, num_frames, side="right") - 1]
