"""Global looks: exact edits of a whole clip, in whole numbers, so that every machine gives the same bytes.

Every look maps uint8 `[F, H, W, 3]` to uint8 of the same shape. Spatial looks (blur, pixelation, sketch, vignette) are
defined relative to the frame's short side, so that the same look means the same picture at every size.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np

from .draw import resize

Look = Callable[[np.ndarray], np.ndarray]

_LUMA = (0.299, 0.587, 0.114)  # Rec. 601
_UNIT = 4096  # weights are rounded to 1 / _UNIT; sums stay below 2^24, hence exact in float32


def _weighted(pixels: np.ndarray, matrix: Sequence[Sequence[float]], offset: Sequence[float]) -> np.ndarray:
    weights = np.array([[round(_UNIT * value) for value in row] for row in matrix], dtype=np.float32)
    shift = np.array([round(_UNIT * 255 * value) + _UNIT // 2 for value in offset], dtype=np.float32)
    sums = pixels.astype(np.float32) @ weights.T
    sums += shift
    np.clip(sums, 0, 255 * _UNIT + _UNIT - 1, out=sums)
    return (sums.astype(np.int32) // _UNIT).astype(np.uint8)


def _colour_matrix(matrix: Sequence[Sequence[float]], offset: Sequence[float] = (0.0, 0.0, 0.0)) -> Look:
    return partial(_weighted, matrix=matrix, offset=offset)


def _curve(level: Callable[[float], float]) -> Look:
    """The same curve 0..1 -> 0..1 on every channel."""
    levels = [math.floor(255 * min(max(level(value / 255), 0.0), 1.0) + 0.5) for value in range(256)]
    return np.array(levels, dtype=np.uint8).__getitem__


def luma(video: np.ndarray) -> np.ndarray:
    """uint8 `[F, H, W]`."""
    return _weighted(video, (_LUMA,), (0.0,))[..., 0]


def grayscale(video: np.ndarray) -> np.ndarray:
    return np.repeat(luma(video)[..., None], 3, axis=-1)


def _saturation(factor: float) -> Look:
    rows = [[(1 - factor) * weight + factor * (i == j) for j, weight in enumerate(_LUMA)] for i in range(3)]
    return _colour_matrix(rows)


@lru_cache(maxsize=64)
def _blur_matrix(length: int, sigma: float) -> np.ndarray:
    """`[length, length]`: Gaussian weights in units of 1 / _UNIT, beyond the edge the edge pixel again."""
    radius = max(1, round(3 * sigma))
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    weights = [round(_UNIT * tap / sum(taps)) for tap in taps]
    weights[radius] += _UNIT - sum(weights)
    matrix = np.zeros((length, length), dtype=np.float32)
    for row in range(length):
        for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
            matrix[row, min(max(row + offset, 0), length - 1)] += weight
    return matrix


def _blur(pixels: np.ndarray, fraction: float) -> np.ndarray:
    """Gaussian blur of uint8 `[F, H, W, C]` with a sigma of `fraction` of the short side."""
    frames, height, width, channels = pixels.shape
    sigma = fraction * min(height, width)
    rows = _blur_matrix(height, sigma) @ pixels.astype(np.float32).reshape(frames, height, -1)
    rows = ((rows.astype(np.int32) + _UNIT // 2) // _UNIT).astype(np.float32).reshape(frames * height, width, channels)
    columns = _blur_matrix(width, sigma) @ rows
    return ((columns.astype(np.int32) + _UNIT // 2) // _UNIT).astype(np.uint8).reshape(pixels.shape)


def blurred(video: np.ndarray) -> np.ndarray:
    """Gaussian blur with a sigma of 2.5 % of the short side."""
    return _blur(video, 0.025)


def pixelated(video: np.ndarray) -> np.ndarray:
    """Square blocks of one sixteenth of the short side, counted from the top left corner."""
    height, width = video.shape[1:3]
    rows = max(1, round(height * 16 / min(height, width)))
    columns = max(1, round(width * 16 / min(height, width)))
    blocks = resize(np.moveaxis(video, 0, 2), rows, columns)
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.ascontiguousarray(np.moveaxis(blocks[row][:, column], 2, 0))


def posterized(video: np.ndarray) -> np.ndarray:
    """Four levels a channel."""
    return (video // 64 * 85).astype(np.uint8)


_THERMAL = ((0, 0, 60), (70, 0, 150), (200, 20, 100), (250, 120, 10), (255, 220, 60), (255, 255, 220))


def thermal(video: np.ndarray) -> np.ndarray:
    """Brightness as heat: from dark blue over purple, red and yellow to white."""
    level = np.arange(256)[:, None] * (len(_THERMAL) - 1)
    low = np.minimum(level // 255, len(_THERMAL) - 2)
    stops = np.array(_THERMAL)
    fraction = level - low * 255
    table = (stops[low[:, 0]] * (255 - fraction) + stops[low[:, 0] + 1] * fraction) // 255
    return table.astype(np.uint8)[luma(video)]


def sketch(video: np.ndarray) -> np.ndarray:
    """Dark pencil lines on white paper, where brightness changes."""
    grey = luma(video)
    surround = _blur(grey[..., None], 0.02)[..., 0]
    ratio = np.minimum(grey.astype(np.int32) * 255 // np.maximum(surround, 1), 255)
    lines = np.maximum(ratio * 2 - 255, 0).astype(np.uint8)
    return np.repeat(lines[..., None], 3, axis=-1)


@lru_cache(maxsize=16)
def _vignette_gain(height: int, width: int) -> np.ndarray:
    """`[H, W, 1]` in 0..256: full in the middle, nothing left in the corners."""
    y = (2 * np.arange(height) + 1 - height) * 1024 // height
    x = (2 * np.arange(width) + 1 - width) * 1024 // width
    radius = (y[:, None] ** 2 + x[None] ** 2) // 2048  # 0 in the middle, 1024 in the corners
    return np.clip(256 - (radius - 180) * 256 // 700, 0, 256).astype(np.uint16)[..., None]


def vignette(video: np.ndarray) -> np.ndarray:
    """Dark corners."""
    return ((video * _vignette_gain(*video.shape[1:3])) >> 8).astype(np.uint8)


LOOKS: dict[str, Look] = {
    "grayscale": grayscale,
    "sepia": _colour_matrix([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]]),
    "negative": _curve(lambda v: 1.0 - v),
    "night": _colour_matrix([[0.20, 0.10, 0.05], [0.05, 0.30, 0.10], [0.10, 0.20, 0.45]]),
    "warm": _colour_matrix([[1.15, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.65]], (0.06, 0.02, 0.0)),
    "cold": _colour_matrix([[0.65, 0.0, 0.0], [0.0, 0.95, 0.0], [0.0, 0.0, 1.15]], (0.0, 0.02, 0.08)),
    "brighter": _curve(lambda v: 1.0 - (1.0 - v) ** 1.7),
    "darker": _curve(lambda v: 0.5 * v),
    "high contrast": _curve(lambda v: (v - 0.5) * 1.7 + 0.5),
    "faded": _curve(lambda v: 0.5 * v + 0.35),
    "vivid": _saturation(2.0),
    "green": _colour_matrix([[0.15, 0.25, 0.05], [0.30, 0.60, 0.15], [0.10, 0.20, 0.05]], (0.0, 0.05, 0.0)),
    "blurred": blurred,
    "pixelated": pixelated,
    "posterized": posterized,
    "solarized": _curve(lambda v: v if v < 0.5 else 1.0 - v),
    "thermal": thermal,
    "sketch": sketch,
    "vignette": vignette,
    "purple": _colour_matrix([[0.35, 0.45, 0.15], [0.10, 0.20, 0.08], [0.40, 0.50, 0.25]], (0.05, 0.0, 0.12)),
}
