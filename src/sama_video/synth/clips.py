"""Clips to edit: shots of films and pans over photographs, cut to any size and length.

A pool belongs to one split: every eighth shot and every eighth photograph is kept for validation, so no frame is
ever in both splits.
"""

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image

HELD_OUT_EVERY = 8


@dataclass(frozen=True)
class Shot:
    """Frames `start` to `stop` (exclusive) of a film between two cuts."""

    start: int
    stop: int


def find_shots(film: np.ndarray, threshold: float = 22.0, min_frames: int = 12) -> list[Shot]:
    """Cut a film `[F, H, W, 3]` (uint8) where the mean change between coarse frames exceeds `threshold` levels."""
    coarse = film[:, ::8, ::8].astype(np.int16)
    change = np.abs(np.diff(coarse, axis=0)).mean(axis=(1, 2, 3))
    cuts = [0, *(np.flatnonzero(change > threshold) + 1).tolist(), len(film)]
    return [Shot(a, b) for a, b in itertools.pairwise(cuts) if b - a >= min_frames]


def load_photos(folder: Path, short_side: int = 320) -> list[np.ndarray]:
    """Every JPEG and PNG of a folder as uint8 `[H, W, 3]`, in name order, at most `short_side` on the short side."""
    photos = []
    for path in sorted([*folder.glob("*.jpg"), *folder.glob("*.png")]):
        with Image.open(path) as image:
            image = image.convert("RGB")
            scale = short_side / min(image.size)
            if scale < 1.0:
                image = image.resize(
                    (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
                )
            photos.append(np.array(image))
    return photos


class ClipPool:
    """Random clips from films and photographs.

    Args:
        films: uint8 arrays `[F, H, W, 3]` (memory maps are fine).
        photos: uint8 arrays `[H, W, 3]`.
        split: "train" or "validation".
        photo_share: share of the clips that are pans over photographs.
    """

    def __init__(self, films: list[np.ndarray], photos: list[np.ndarray], split: str, photo_share: float = 0.35):
        if split not in ("train", "validation"):
            raise ValueError(f"split must be 'train' or 'validation', got {split!r}")
        held_out = split == "validation"
        self.shots = [
            (film, shot)
            for film in films
            for index, shot in enumerate(find_shots(film))
            if (index % HELD_OUT_EVERY == 0) == held_out
        ]
        self.photos = [photo for index, photo in enumerate(photos) if (index % HELD_OUT_EVERY == 0) == held_out]
        if not self.shots and not self.photos:
            raise ValueError("no film shot and no photograph to draw clips from")
        self.photo_share = photo_share if self.shots and self.photos else float(not self.shots)
        self._lengths = [shot.stop - shot.start for _, shot in self.shots]

    def sample(self, num_frames: int, height: int, width: int, rng: random.Random) -> torch.Tensor:
        """A clip `[num_frames, 3, height, width]` in 0..1, mirrored and regraded at random."""
        use_photo = rng.random() < self.photo_share
        clip = (self._photo_clip if use_photo else self._film_clip)(num_frames, height, width, rng)
        if rng.random() < 0.5:
            clip = clip.flip(-1)
        return _regrade(clip, rng)

    def _film_clip(self, num_frames: int, height: int, width: int, rng: random.Random) -> torch.Tensor:
        film, shot = rng.choices(self.shots, weights=self._lengths)[0]
        length = shot.stop - shot.start
        stride = rng.choice([s for s in (1, 1, 2, 3) if (num_frames - 1) * s < length] or [1])
        span = min(length, (num_frames - 1) * stride + 1)
        start = shot.start + rng.randint(0, length - span)
        index = [min(start + i * stride, shot.stop - 1) for i in range(num_frames)]
        frames = film[index[0] : index[-1] + 1][[i - index[0] for i in index]]
        top, left, crop_h, crop_w = _random_crop(film.shape[1], film.shape[2], height, width, rng)
        return _resize(frames[:, top : top + crop_h, left : left + crop_w], height, width)

    def _photo_clip(self, num_frames: int, height: int, width: int, rng: random.Random) -> torch.Tensor:
        photo = torch.from_numpy(rng.choice(self.photos)).permute(2, 0, 1)[None].float() / 255.0
        full_h, full_w = photo.shape[-2:]
        ends = [_random_crop(full_h, full_w, height, width, rng) for _ in range(2)]
        stay = rng.random() < 0.15
        speed = 0.0 if stay else rng.uniform(0.05, 0.5) * min(1.0, num_frames / 17)
        # A pan and zoom between two crops; each frame is resampled bilinearly from a suitably reduced photograph.
        first = torch.tensor(ends[0], dtype=torch.float32)
        last = first + speed * (torch.tensor(ends[1], dtype=torch.float32) - first)
        reduce = max(1.0, float(min(first[2], last[2])) / height)
        if reduce > 1.0:
            size = (round(full_h / reduce), round(full_w / reduce))
            photo = F.interpolate(photo, size=size, mode="bilinear", antialias=True, align_corners=False)
        t = torch.linspace(0.0, 1.0, num_frames).view(-1, 1) if num_frames > 1 else torch.zeros(1, 1)
        top, left, crop_h, crop_w = (first + t * (last - first)).unbind(1)
        rows = (top[:, None] + (torch.arange(height) + 0.5) / height * crop_h[:, None]) / full_h * 2 - 1
        columns = (left[:, None] + (torch.arange(width) + 0.5) / width * crop_w[:, None]) / full_w * 2 - 1
        grid = torch.stack([columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], dim=-1)
        photo = photo.expand(num_frames, -1, -1, -1)
        return F.grid_sample(photo, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _random_crop(full_h: int, full_w: int, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop with the aspect ratio height : width, of 55 to 100 % of what fits."""
    scale = min(full_h / height, full_w / width) * rng.uniform(0.55, 1.0)
    crop_h, crop_w = max(1, int(height * scale)), max(1, int(width * scale))
    return rng.randint(0, full_h - crop_h), rng.randint(0, full_w - crop_w), crop_h, crop_w


def _resize(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    video = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "f h w c -> f c h w").float() / 255.0
    return F.interpolate(video, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def _regrade(clip: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Vary palette and exposure: a film of one palette must not teach the model that skies are always blue."""
    if rng.random() < 0.5:
        clip = clip[:, rng.sample(range(3), 3)]
    if rng.random() < 0.5:
        gains = torch.tensor([rng.uniform(0.7, 1.2) for _ in range(3)]).view(1, 3, 1, 1)
        clip = clip * gains
    if rng.random() < 0.5:
        clip = clip.clamp(0.0, 1.0) ** rng.uniform(0.6, 1.6)
    return clip.clamp(0.0, 1.0)
