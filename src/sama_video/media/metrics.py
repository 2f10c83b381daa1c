"""How near an edit comes to its exact target, what it leaves alone, how it moves: scores that need no judge.

Shape legend: F frames, H W pixels. Clips are uint8 `[F, H, W, 3]`; masks are bool `[F, H, W]`, true where the edit
shows in the source or in the target, as the synthetic engine gives them. All scores are averages over frames and
pixels of what the mask selects; None where it selects nothing.

SSIM, HaarPSI and motion use OpenCV (the extra `eval`), imported when they are asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

from ..system.data_files import table_beside
from ..system.errors import UserError

# Half the distance to the target in every pixel, and more: a fourth of the squared error.
SUCCESS_FACTOR = 4.0
LARGEST_PSNR = 100.0
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # Rec. 601


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a score means.

    Args:
        title: in tables.
        better: which end of its range is the good one; "" where neither is.
        unit: empty for a bare number.
        about: definition and source, a sentence or two.
    """

    title: str
    better: Literal["higher", "lower", ""]
    unit: str = ""
    about: str


METRICS = {name: Metric(**entry) for name, entry in table_beside(__file__).items()}


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
    total, count = 0.0, 0
    # Frame by frame: a long clip in float32 would take four times its memory, thrice.
    for index, (frame, other) in enumerate(zip(clip, reference, strict=True)):
        squares = np.square(frame.astype(np.float32) / 255 - other.astype(np.float32) / 255)
        if mask is not None:
            squares = squares[mask[index]]
        total += float(squares.sum(dtype=np.float64))
        count += squares.size
    return total / count if count else None


def _psnr_of_error(error: float | None) -> float | None:
    """dB of a mean squared error on the scale 0..1; at most `LARGEST_PSNR`, so that averages stay finite."""
    if error is None:
        return None
    return LARGEST_PSNR if error <= 10 ** (-LARGEST_PSNR / 10) else -10 * math.log10(error)


def psnr(clip: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Peak signal-to-noise ratio of two uint8 clips, dB, over the mask; None for an empty mask."""
    return _psnr_of_error(squared_error(clip, reference, mask))


def score_edit(
    edited: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    success_factor: float = SUCCESS_FACTOR,
) -> EditScores:
    """Scores of an edit; without a mask only the PSNR over everything.

    Args:
        success_factor: how many times nearer to the target than the source a success is, in squared error.

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
        psnr_inside=_psnr_of_error(after),
        psnr_outside=psnr(edited, source, ~mask),
        success=None if after is None or before is None else success_factor * after <= before,
    )


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UserError("these scores need OpenCV: pip install 'sama-video[eval]'") from error
    return cv2


def _mean_over_frames(
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    clip: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray | None,
) -> float | None:
    """Mean of `score(frame, reference frame, mask)` over the frames of which the mask selects anything.

    Pixels that it does not select are the reference's in both, since windows look over the mask's edge: what is wrong
    on one side of it must not count on the other.
    """
    if mask is None:
        mask = np.ones(clip.shape[:3], dtype=bool)
    triples = zip(clip, reference, mask, strict=True)
    scores = [score(np.where(m[..., None], frame, other), other, m) for frame, other, m in triples if m.any()]
    return math.fsum(scores) / len(scores) if scores else None


# Structural similarity: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004


def ssim(clip: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Structural similarity of luma, at most 1 (equal): mean of the SSIM map over the mask, then over frames.

    Raises:
        UserError: without OpenCV.
    """

    def score(frame: np.ndarray, other: np.ndarray, selected: np.ndarray) -> float:
        return float(_ssim_map(frame.astype(np.float32) @ LUMA, other.astype(np.float32) @ LUMA)[selected].mean())

    return _mean_over_frames(score, clip, reference, mask)


def _ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of two pictures `[H, W]` on the scale 0..255."""
    cv2 = _opencv()

    def blur(picture: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(picture, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return numerator / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))


# Haar wavelet perceptual similarity index: Reisenhofer, Bosse, Kutyniok, Wiegand, "A Haar wavelet-based perceptual
# similarity index for image quality assessment", Signal Processing: Image Communication 2018

YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=np.float32)
HAAR_C, HAAR_ALPHA = 30.0, 4.2


def haarpsi(clip: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """HaarPSI, 0..1 (equal): per frame, pooled over the mask, then the mean over frames.

    Raises:
        UserError: without OpenCV.
    """

    def score(frame: np.ndarray, other: np.ndarray, selected: np.ndarray) -> float:
        inside = np.logical_or.reduce(_quarters(selected))
        return _pooled(*(maps[:, inside] for maps in _haarpsi_maps(frame, other)))

    return _mean_over_frames(score, clip, reference, mask)


def _quarters(picture: np.ndarray) -> list[np.ndarray]:
    """The four pixels of each block of 2 x 2, `[h, w, ...]` each; an odd border is repeated."""
    height, width = picture.shape[:2]
    borders = [(0, height % 2), (0, width % 2)] + [(0, 0)] * (picture.ndim - 2)
    padded = np.pad(picture, borders, mode="edge")
    return [padded[row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _haarpsi_maps(frame: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local similarities and their weights, each `[3, h, w]`: vertical and horizontal edges, colour."""
    pictures = [np.add.reduce(_quarters(picture.astype(np.float32) @ YIQ.T)) / 4 for picture in (frame, other)]
    fine, middle, coarse = ([_haar(picture[..., 0], scale) for picture in pictures] for scale in (1, 2, 3))
    colour = [_box(picture[..., 1:]) for picture in pictures]
    edges = (_similarity(*fine) + _similarity(*middle)) / 2
    similarities = np.concatenate([edges, _similarity(*colour).mean(axis=-1)[None]])
    weights = np.maximum(*coarse)
    return similarities, np.concatenate([weights, weights.mean(axis=0)[None]])


def _haar(luma: np.ndarray, scale: int) -> np.ndarray:
    """Magnitudes of the Haar wavelet coefficients of `[h, w]` at a scale, in both directions: `[2, h, w]`."""
    cv2 = _opencv()
    size = 2**scale
    kernel = np.full((size, size), 1 / size, dtype=np.float32)
    kernel[size // 2 :] *= -1
    anchor = (size // 2 - 1, size // 2 - 1)
    filtered = [cv2.filter2D(luma, -1, k, anchor=anchor, borderType=cv2.BORDER_CONSTANT) for k in (kernel, kernel.T)]
    return np.abs(np.stack(filtered))


def _box(colour: np.ndarray) -> np.ndarray:
    """Magnitudes of `[h, w, 2]` averaged over 2 x 2 pixels."""
    cv2 = _opencv()
    kernel = np.full((2, 2), 0.25, dtype=np.float32)
    return np.abs(cv2.filter2D(colour, -1, kernel, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT))


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (2 * a * b + HAAR_C**2) / (a**2 + b**2 + HAAR_C**2)


def _pooled(similarities: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean through a logistic curve and back, squared (equation 12)."""
    if not weights.any():
        weights = np.ones_like(weights)  # flat pictures: every place counts alike
    curved = 1 / (1 + np.exp(-HAAR_ALPHA * similarities.astype(np.float64)))
    mean = float((curved * weights).sum() / weights.sum(dtype=np.float64))
    return min((math.log(mean / (1 - mean)) / HAAR_ALPHA) ** 2, 1.0)


# Time


def flicker(clip: np.ndarray, reference: np.ndarray) -> float | None:
    """Mean absolute second difference in time of a clip over that of a reference; None for less than three frames.

    In levels of 255, each plus one level, so that a still reference does not divide by nothing. A clip that equals
    its reference has 1; a frozen one has less than 1.
    """
    if len(clip) < 3:
        return None
    return (_second_difference(clip) + 1) / (_second_difference(reference) + 1)


def _second_difference(clip: np.ndarray) -> float:
    triples = zip(clip, clip[1:], clip[2:], strict=False)
    means = [np.abs(a.astype(np.int16) - 2 * b.astype(np.int16) + c).mean() for a, b, c in triples]
    return float(np.mean(means))


def motion_error(clip: np.ndarray, reference: np.ndarray) -> float | None:
    """Mean end-point error between the optical flows of two clips, pixels a frame; None for less than two frames.

    Flow from frame to frame by Dense Inverse Search (Kroeger et al., ECCV 2016) on luma. Where a picture is flat, flow
    is a guess: compare editors on the same items.

    Raises:
        UserError: without OpenCV.
    """
    if len(clip) < 2:
        return None
    pairs = zip(clip, clip[1:], reference, reference[1:], strict=False)
    errors = [np.linalg.norm(_flow(a, b) - _flow(c, d), axis=-1).mean() for a, b, c, d in pairs]
    return float(np.mean(errors))


def _flow(frame: np.ndarray, following: np.ndarray) -> np.ndarray:
    """float32 `[H, W, 2]`, pixels to the right and down."""
    cv2 = _opencv()
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (frame, following)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
