"""Global looks: exact, deterministic edits of a whole clip.

Every look maps `[F, 3, H, W]` in 0..1 to the same shape and range. Spatial looks (blur, pixelation) are defined
relative to the frame's short side, so that the same look means the same picture at every size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Look = Callable[[torch.Tensor], torch.Tensor]

LUMA = torch.tensor([0.299, 0.587, 0.114])


def luma(video: torch.Tensor) -> torch.Tensor:
    """Rec. 601 luma, `[F, 1, H, W]`."""
    return (video * LUMA.to(video).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _colour_matrix(rows: list[list[float]], offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Look:
    def look(video: torch.Tensor) -> torch.Tensor:
        matrix = torch.tensor(rows).to(video)
        shifted = torch.einsum("rc,fchw->frhw", matrix, video) + torch.tensor(offset).to(video).view(1, 3, 1, 1)
        return shifted.clamp(0.0, 1.0)

    return look


def grayscale(video: torch.Tensor) -> torch.Tensor:
    return luma(video).expand(-1, 3, -1, -1).contiguous()


def negative(video: torch.Tensor) -> torch.Tensor:
    return 1.0 - video


def brighter(video: torch.Tensor) -> torch.Tensor:
    return 1.0 - (1.0 - video) ** 1.7


def darker(video: torch.Tensor) -> torch.Tensor:
    return video * 0.5


def high_contrast(video: torch.Tensor) -> torch.Tensor:
    return ((video - 0.5) * 1.7 + 0.5).clamp(0.0, 1.0)


def faded(video: torch.Tensor) -> torch.Tensor:
    return video * 0.5 + 0.35


def vivid(video: torch.Tensor) -> torch.Tensor:
    gray = luma(video)
    return (gray + (video - gray) * 2.0).clamp(0.0, 1.0)


def blurred(video: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a sigma of 2.5 % of the short side."""
    sigma = 0.025 * min(video.shape[-2:])
    radius = max(1, round(3 * sigma))
    taps = torch.arange(-radius, radius + 1, dtype=video.dtype, device=video.device)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    rows = F.pad(video, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(rows.flatten(0, 1).unsqueeze(1), kernel.unsqueeze(2))
    return F.conv2d(rows, kernel.unsqueeze(3)).view_as(video)


def pixelated(video: torch.Tensor) -> torch.Tensor:
    """Square blocks of one sixteenth of the short side, counted from the top left corner."""
    height, width = video.shape[-2:]
    rows = max(1, round(height * 16 / min(height, width)))
    columns = max(1, round(width * 16 / min(height, width)))
    blocks = F.adaptive_avg_pool2d(video, (rows, columns))
    return F.interpolate(blocks, size=(height, width), mode="nearest-exact")


sepia = _colour_matrix([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
night = _colour_matrix([[0.20, 0.10, 0.05], [0.05, 0.30, 0.10], [0.10, 0.20, 0.45]])
warm = _colour_matrix([[1.15, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.65]], (0.06, 0.02, 0.0))
cold = _colour_matrix([[0.65, 0.0, 0.0], [0.0, 0.95, 0.0], [0.0, 0.0, 1.15]], (0.0, 0.02, 0.08))
green = _colour_matrix([[0.15, 0.25, 0.05], [0.30, 0.60, 0.15], [0.10, 0.20, 0.05]], (0.0, 0.05, 0.0))

LOOKS: dict[str, Look] = {
    "grayscale": grayscale,
    "sepia": sepia,
    "negative": negative,
    "night": night,
    "warm": warm,
    "cold": cold,
    "brighter": brighter,
    "darker": darker,
    "high contrast": high_contrast,
    "faded": faded,
    "vivid": vivid,
    "green": green,
    "blurred": blurred,
    "pixelated": pixelated,
}
