"""How near an edit comes to its exact target: errors inside and outside the edit's mask.

Shape legend: F frames, H W pixels. Clips are uint8 `[F, H, W, 3]`; masks are bool `[F, H, W]`, true where the edit
shows in the source or in the target, as the synthetic engine gives them.
"""

import math
from dataclasses import dataclass

import numpy as np

# Half the distance to the target in every pixel, and more: a fourth of the squared error.
SUCCESS_SHARE = 0.25
LARGEST_PSNR = 100.0


@dataclass(frozen=True, kw_only=True)
class EditScores:
    """Of one edit; None where the mask leaves nothing to measure.

    Args:
        psnr: to the target, over everything, dB.
        psnr_inside: to the target inside the mask.
        psnr_outside: to the source outside the mask: what the edit should have left alone.
        success: whether the squared error to the target inside the mask is at most a fourth of the source's.
    """

    psnr: float
    psnr_inside: float | None
    psnr_outside: float | None
    success: bool | None


def squared_error(clip: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Mean squared error of two uint8 clips on the scale 0..1, over the mask; None for an empty mask."""
    squares = np.square(clip.astype(np.float32) / 255 - reference.astype(np.float32) / 255)
    if mask is not None:
        squares = squares[mask]
    return float(squares.mean(dtype=np.float64)) if squares.size else None


def psnr_of_error(error: float | None) -> float | None:
    """dB of a mean squared error on the scale 0..1; at most `LARGEST_PSNR`, so that averages stay finite."""
    if error is None:
        return None
    return LARGEST_PSNR if error <= 10 ** (-LARGEST_PSNR / 10) else -10 * math.log10(error)


def psnr(clip: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Peak signal-to-noise ratio of two uint8 clips, dB, over the mask; None for an empty mask."""
    return psnr_of_error(squared_error(clip, reference, mask))


def score_edit(
    edited: np.ndarray, source: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None
) -> EditScores:
    """Scores of an edit; without a mask only the PSNR over everything.

    Raises:
        ValueError: for clips of unequal shapes.
    """
    if edited.shape != target.shape or (mask is not None and source.shape != target.shape):
        raise ValueError(f"edit {edited.shape}, source {source.shape} and target {target.shape} must be of one shape")
    overall = psnr(edited, target)
    assert overall is not None
    if mask is None:
        return EditScores(psnr=overall, psnr_inside=None, psnr_outside=None, success=None)
    after, before = squared_error(edited, target, mask), squared_error(source, target, mask)
    return EditScores(
        psnr=overall,
        psnr_inside=psnr_of_error(after),
        psnr_outside=psnr(edited, source, ~mask),
        success=None if after is None or before is None else after <= SUCCESS_SHARE * before,
    )
