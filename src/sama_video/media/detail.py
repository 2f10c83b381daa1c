"""Native resolution: bring an edit made at the model's size back to the source's own, guided by the source.

Locally an edit is an affine function of the source's colours: `edit = A @ source + b`. The fit is made at the
model's size (a colour guided filter, after He, Sun and Tang, "Guided Image Filtering", 2013; the fast form of He and
Sun, 2015), smoothed in space and time, and applied to the full-size source. Where it does not explain the edit
(added, removed, replaced content) the plainly upsampled edit takes over. So it does where the edit took the source's
fine detail away or put other detail in its place (a blur, pixel art): bringing it back would undo the edit.

Shape legend: F frames, h w model size, H W full size. Pictures are float32 `[F, 3, h, w]` or `[3, H, W]` in 0..1.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

_RADIUS = 4  # of the fit's window, in pixels at the model's size
_REACH = 12  # radius over which structure is compared, likewise
_RIDGE = 2e-3  # pull of a window's fit towards the whole frame's, as a variance of colours in 0..1
# Root mean square error of the fit up to which it is trusted entirely, and from which on it is not trusted at all.
_NOISE, _MISFIT = 0.06, 0.12
# Fraction of the fit's fine structure that the edit has up to which the source's detail is not wanted at all, and from
# which on it is wanted entirely. Colour looks keep 0.93 and more, also after a codec that keeps half of the finest
# detail; blurs and mosaics keep less than 0.75.
_LOST, _KEPT = 0.7, 0.9


def _box(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over a square window, fewer pixels at the border."""
    size = 2 * radius + 1
    rows = F.avg_pool2d(x, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, radius), count_include_pad=False)


def _smooth_in_time(x: torch.Tensor) -> torch.Tensor:
    """Weights 1/4, 1/2, 1/4 over neighbouring frames."""
    padded = torch.cat([x[:1], x, x[-1:]])
    return (padded[:-2] + 2 * x + padded[2:]) / 4


def _moments(source: torch.Tensor, edit: torch.Tensor, mean) -> tuple[torch.Tensor, ...]:
    """Means `[.., 3, 1]` and covariances `[.., 3, 3]` of source with itself and with the edit, under `mean`."""
    pairs = torch.cat(
        [
            source,
            edit,
            (source[:, :, None] * source[:, None]).flatten(1, 2),
            (edit[:, :, None] * source[:, None]).flatten(1, 2),
        ],
        dim=1,
    )
    averaged = mean(pairs).permute(0, 2, 3, 1)
    mean_source, mean_edit = averaged[..., 0:3, None], averaged[..., 3:6, None]
    covariance = averaged[..., 6:15].unflatten(-1, (3, 3)) - mean_source @ mean_source.mT
    cross = averaged[..., 15:24].unflatten(-1, (3, 3)) - mean_edit @ mean_source.mT
    return mean_source, mean_edit, covariance, cross


_VISIBLE = 1 / 255  # structure below one level of eight bits is none
_WHOLE_FRAME_FRACTION = 0.25  # a position without structure of its own is judged as its frame is
CHUNK = 16  # frames fitted at once, so that memory does not grow with the clip
_HALO = 2  # frames before and after a chunk that its smoothing in time looks at


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How one frame of an edit follows from its source.

    Args:
        coefficients: `[12, h, w]`.
        distrust: `[1, h, w]`, 0..1.
        edit: the model's result itself, `[3, h, w]`.
    """

    coefficients: torch.Tensor
    distrust: torch.Tensor
    edit: torch.Tensor

    def upsample(self, source: torch.Tensor) -> torch.Tensor:
        """The edit at the size of `source` `[3, H, W]`, in 0..1."""
        size = source.shape[-2:]
        explained = _apply(_bilinear(self.coefficients[None], size), source[None]).clamp_(0.0, 1.0)
        if self.distrust.max() > 0:
            explained.lerp_(resize_plainly(self.edit, size)[None], _bilinear(self.distrust[None], size))
        return explained[0]


def fits(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Fit]:
    """Of one frame after the other; a few are fitted at once, so that memory does not grow with the clip.

    Args:
        pairs: of each frame the source, resized as the model saw it, and the model's result, both `[3, h, w]`.

    Raises:
        ValueError: for two that have not one shape.
    """
    pairs, held, begun = iter(pairs), [], 0  # `begun` of the held frames are before the chunk
    while True:
        held += itertools.islice(pairs, begun + CHUNK + _HALO - len(held))
        chunk = held[begun : begun + CHUNK]
        if not chunk:
            return
        for source, edit in held:
            if source.shape != edit.shape:
                raise ValueError(f"source and edit must have one shape, got {tuple(source.shape)}, {tuple(edit.shape)}")
        coefficients, distrust = fit(*(torch.stack(frames) for frames in zip(*held, strict=True)))
        for at, (_, edit) in enumerate(chunk, start=begun):
            yield Fit(coefficients=coefficients[at], distrust=distrust[at], edit=edit)
        kept = max(0, begun + len(chunk) - _HALO)
        held, begun = held[kept:], begun + len(chunk) - kept


def fit(source: torch.Tensor, edit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients `[F, 12, h, w]` of `edit = A @ source + b`, and 0..1 how little to trust them `[F, 1, h, w]`."""

    def window(x: torch.Tensor) -> torch.Tensor:
        return _box(x, _RADIUS)

    def whole_frame(x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3), keepdim=True)

    identity = torch.eye(3)
    _, _, covariance, cross = _moments(source, edit, whole_frame)
    frame_matrix = torch.linalg.solve(covariance + 1e-4 * identity, cross + 1e-4 * identity, left=False)
    mean_source, mean_edit, covariance, cross = _moments(source, edit, window)
    ridge = _RIDGE * identity
    matrix = torch.linalg.solve(covariance + ridge, cross + frame_matrix @ ridge, left=False)
    offset = mean_edit - matrix @ mean_source
    coefficients = torch.cat([matrix.flatten(-2), offset.squeeze(-1)], dim=-1).permute(0, 3, 1, 2)
    coefficients = _smooth_in_time(window(coefficients))

    explained = _apply(coefficients, source)
    error = _smooth_in_time(_box(_power(edit - explained), _RADIUS // 2)).sqrt()
    distrust = ((error - _NOISE) / (_MISFIT - _NOISE)).clamp(0.0, 1.0)
    return coefficients, _box(torch.maximum(distrust, _lost(explained, edit)), 1)


def _lost(explained: torch.Tensor, edit: torch.Tensor) -> torch.Tensor:
    """0..1 how much of the fit's fine structure the edit lacks, `[F, 1, h, w]`.

    fraction = <band(edit), band(explained)> / <band(explained), band(explained)>, where `band` keeps structure of three
    to five pixels: finer detail is lost in a small model's codec whatever the edit. Noise of the edit does not change
    it.
    """

    def average(x: torch.Tensor) -> torch.Tensor:
        x = x.mean(dim=1, keepdim=True)
        return _smooth_in_time(_box(x, _REACH) + _WHOLE_FRAME_FRACTION * x.mean(dim=(2, 3), keepdim=True))

    band_explained, band_edit = (_box(x, 1) - _box(x, 2) for x in (explained, edit))
    power = average(band_explained.square())
    fraction = average(band_edit * band_explained) / power.clamp_min(1e-12)
    visible = (power.sqrt() / _VISIBLE - 1.0).clamp(0.0, 1.0)
    return visible * ((_KEPT - fraction) / (_KEPT - _LOST)).clamp(0.0, 1.0)


def _power(x: torch.Tensor) -> torch.Tensor:
    """Mean square over the colours, `[F, 1, h, w]`."""
    return x.square().mean(dim=1, keepdim=True)


def _apply(coefficients: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """`A @ source + b` per pixel; coefficients `[F, 12, h, w]`, A by rows."""
    edit = coefficients[:, 9:12].clone()
    for column in range(3):
        edit.addcmul_(coefficients[:, column:9:3], source[:, column : column + 1])
    return edit


def resize_plainly(edit: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
    """Bicubic resize of one frame `[3, h, w]`, in 0..1."""
    if tuple(size) == tuple(edit.shape[-2:]):
        return edit
    resized = F.interpolate(edit[None], size=tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp_(0.0, 1.0)


def _bilinear(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
