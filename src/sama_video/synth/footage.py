"""Backgrounds from the user's own files: pans over photographs, and shots of films.

F frames, H W pixels. A photograph, and a shot between two cuts, belongs to one split by a hash of the file's bytes (and
the shot's first frame), so that no picture is ever in two splits, whatever other files join the folder.
"""

import itertools
import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..system.errors import UserError
from ..system.files import hash_file, written_aside
from ..video import H264_SUFFIXES, IMAGE_SUFFIXES, VideoReader
from .draw import SINE_SCALE, TURN, Draw, cosine, resize, sine

logger = logging.getLogger(__name__)

_SHORT_SIDE = 320  # films are kept at most this large
_FINE = 256  # positions in a photograph are in 1 / _FINE pixel


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


def _split_of(content: str) -> str:
    """Six eighths train, one validation, one test."""
    bucket = sha256(content.encode()).digest()[0] % 8
    return {0: "validation", 1: "test"}.get(bucket, "train")


@dataclass(frozen=True)
class _Grade:
    """Another palette and exposure: a film of one palette must not teach that skies are always blue."""

    channels: tuple[int, int, int]
    gains: tuple[float, float, float]
    gamma: float

    def apply(self, video: np.ndarray) -> np.ndarray:
        graded = np.empty_like(video)
        for channel, (origin, gain) in enumerate(zip(self.channels, self.gains, strict=True)):
            levels = [math.floor(255 * min(gain * value / 255, 1.0) ** self.gamma + 0.5) for value in range(256)]
            graded[..., channel] = np.array(levels, dtype=np.uint8)[video[..., origin]]
        return graded


def _draw_grade(draw: Draw) -> _Grade:
    red, green, blue = draw.shuffled((0, 1, 2)) if draw.chance(0.5) else (0, 1, 2)
    first, second, third = (draw.between(0.7, 1.2) for _ in range(3)) if draw.chance(0.5) else (1.0, 1.0, 1.0)
    gamma = draw.between(0.6, 1.6) if draw.chance(0.5) else 1.0
    return _Grade((red, green, blue), (first, second, third), gamma)


@dataclass(frozen=True, kw_only=True)
class PhotoPan:
    """A camera's way over a photograph.

    Args:
        fraction: how much of what fits the frame shows, at the clip's start and end.
        centre: of the view at start and end, as fractions of the room that is left to move in.
        turn: rotation at start and end, in 1 / TURN of a turn.
        shake: amplitude in thousandths of the frame's short side.
    """

    path: Path
    fraction: tuple[float, float]
    centre: tuple[tuple[float, float], tuple[float, float]]
    turn: tuple[int, int]
    shake: int
    mirrored: bool
    grade: _Grade

    phrase = "a photographed scene"

    def frames(self, num_frames: int, height: int, width: int) -> np.ndarray:
        """uint8 `[F, H, W, 3]`."""
        full = _photo(self.path)
        fit = min(full.shape[0] / height, full.shape[1] / width) * min(self.fraction)
        if fit > 1.0:
            full = _reduced(self.path, math.ceil(full.shape[0] / fit), math.ceil(full.shape[1] / fit))
        video = np.stack([self._view(full, index, num_frames, height, width) for index in range(num_frames)])
        return self.grade.apply(video[:, :, ::-1] if self.mirrored else video)

    def _view(self, photo: np.ndarray, index: int, num_frames: int, height: int, width: int) -> np.ndarray:
        t = index / max(num_frames - 1, 1)
        fraction = self.fraction[0] + t * (self.fraction[1] - self.fraction[0])
        turn = round(self.turn[0] + t * (self.turn[1] - self.turn[0]))
        cos, sin = cosine(turn) / SINE_SCALE, sine(turn) / SINE_SCALE
        # The turned view must still fit: its bounding box sets the scale.
        box_h, box_w = height * cos + width * abs(sin), width * cos + height * abs(sin)
        step = min((photo.shape[0] - 2) / box_h, (photo.shape[1] - 2) / box_w) * fraction
        room_y, room_x = photo.shape[0] - 2 - step * box_h, photo.shape[1] - 2 - step * box_w
        (x0, y0), (x1, y1) = self.centre
        trembling = self.shake * min(height, width) * step / 1000 / SINE_SCALE
        x = (x0 + t * (x1 - x0)) * room_x + step * box_w / 2 + trembling * sine(index * 307)
        y = (y0 + t * (y1 - y0)) * room_y + step * box_h / 2 + trembling * cosine(index * 211)
        return _sampled(photo, x, y, step * cos, step * sin, height, width)


def _sampled(photo: np.ndarray, x: float, y: float, cos: float, sin: float, height: int, width: int) -> np.ndarray:
    """A turned and scaled view around (x, y), between pixels in straight lines; all in whole numbers after rounding."""
    cos, sin = round(cos * _FINE), round(sin * _FINE)
    columns = (2 * np.arange(width) + 1 - width)[None]
    rows = (2 * np.arange(height) + 1 - height)[:, None]
    px = (round(x * _FINE) * 2 + columns * cos - rows * sin) >> 1
    py = (round(y * _FINE) * 2 + columns * sin + rows * cos) >> 1
    px, py = np.clip(px, 0, (photo.shape[1] - 2) * _FINE), np.clip(py, 0, (photo.shape[0] - 2) * _FINE)
    column, row = px >> 8, py >> 8
    fx, fy = ((px & 255) >> 4)[..., None].astype(np.uint16), ((py & 255) >> 4)[..., None].astype(np.uint16)
    flat = photo.reshape(-1, 3)
    index = row * photo.shape[1] + column
    top = flat[index] * (16 - fx) + flat[index + 1] * fx
    index += photo.shape[1]
    bottom = flat[index] * (16 - fx) + flat[index + 1] * fx
    return ((top * (16 - fy) + bottom * fy + 128) >> 8).astype(np.uint8)


@lru_cache(maxsize=128)
def _photo(path: Path) -> np.ndarray:
    pixels = next(VideoReader(path).frames()).pixels
    scale = max(1.0, min(pixels.shape[:2]) / 1024)
    return resize(pixels, round(pixels.shape[0] / scale), round(pixels.shape[1] / scale)) if scale > 1 else pixels


@lru_cache(maxsize=128)
def _reduced(path: Path, height: int, width: int) -> np.ndarray:
    return resize(_photo(path), height, width)


@dataclass(frozen=True, kw_only=True)
class FilmCut:
    """A part of a shot.

    Args:
        film: memory map file of the film, uint8 `[F, H, W, 3]`.
        start: first frame, as a fraction of what the shot's length leaves free.
        stride: every how many frames, where the shot is long enough.
        fraction, centre: of the crop, as in `PhotoPan`.
    """

    film: Path
    shot: Shot
    start: float
    stride: int
    fraction: float
    centre: tuple[float, float]
    mirrored: bool
    grade: _Grade

    phrase = "a filmed scene"

    def frames(self, num_frames: int, height: int, width: int) -> np.ndarray:
        """uint8 `[F, H, W, 3]`; the last frame stays where the shot is too short."""
        film = np.load(self.film, mmap_mode="r")
        length = self.shot.stop - self.shot.start
        stride = max(1, min(self.stride, (length - 1) // max(num_frames - 1, 1)))
        first = self.shot.start + int(self.start * max(length - (num_frames - 1) * stride, 1))
        index = np.minimum(first + stride * np.arange(num_frames), self.shot.stop - 1)
        scale = min(film.shape[1] / height, film.shape[2] / width) * self.fraction
        crop_h, crop_w = max(1, int(height * scale)), max(1, int(width * scale))
        top = int(self.centre[1] * (film.shape[1] - crop_h + 1))
        left = int(self.centre[0] * (film.shape[2] - crop_w + 1))
        cut = np.stack([film[i, top : top + crop_h, left : left + crop_w] for i in index], axis=2)
        video = np.moveaxis(resize(cut, height, width), 2, 0)
        return self.grade.apply(video[:, :, ::-1] if self.mirrored else video)


class Footage:
    """The photographs and shots of one split.

    Args:
        images, videos: folders, searched at every depth.
        split: "train", "validation" or "test"; None for all there is, of files that no training sees.
        cache: folder for decoded films (uint8, at most `_SHORT_SIDE` on the short side); each is decoded once.

    Raises:
        UserError: for a folder without a usable file, or with none for this split.
    """

    def __init__(self, *, images: Path | None, videos: Path | None, split: str | None, cache: Path):
        def belongs(content: str) -> bool:
            return split is None or _split_of(content) == split

        self.photos = [path for path in _files(images, IMAGE_SUFFIXES) if belongs(hash_file(path))]
        self.shots: list[tuple[Path, Shot]] = []
        for path in _files(videos, H264_SUFFIXES | {".avi", ".mpeg", ".mpg", ".webm"}):
            content = hash_file(path)
            film = decoded_film(path, cache / f"{content[:32]}.npy")
            for shot in find_shots(np.load(film, mmap_mode="r")):
                if belongs(f"{content}/{shot.start}"):
                    self.shots.append((film, shot))
        if not self.photos and not self.shots:
            where = " ".join(str(folder) for folder in (images, videos) if folder)
            if split is None:
                raise UserError(f"there is no picture and no shot of 12 frames in {where}; choose another folder")
            raise UserError(
                f"no photograph and no shot of {where} falls into the {split} split; add files (an eighth of them "
                "goes to validation, an eighth to test), or take `all_footage` if no training sees these"
            )

    def draw(self, draw: Draw, moving: bool) -> PhotoPan | FilmCut:
        """A background at random; without `moving` a photograph stands still."""
        if self.shots and (not self.photos or draw.chance(0.6)):
            return self._draw_cut(draw)
        return self._draw_pan(draw, moving)

    def _draw_cut(self, draw: Draw) -> FilmCut:
        film, shot = draw.weighted(self.shots, [shot.stop - shot.start for _, shot in self.shots])
        return FilmCut(
            film=film,
            shot=shot,
            start=draw.unit(),
            stride=draw.choice((1, 1, 2, 3)),
            fraction=draw.between(0.55, 1.0),
            centre=(draw.unit(), draw.unit()),
            mirrored=draw.chance(0.5),
            grade=_draw_grade(draw),
        )

    def _draw_pan(self, draw: Draw, moving: bool) -> PhotoPan:
        fraction, centre, turn = draw.between(0.5, 0.95), (draw.unit(), draw.unit()), 0
        end_fraction, end_centre, end_turn = fraction, centre, turn
        if moving and draw.chance(0.85):
            end_centre = (draw.unit(), draw.unit())
            end_fraction = fraction * draw.between(0.8, 1.0) if draw.chance(0.5) else fraction
            end_turn = draw.below(TURN // 20) - TURN // 40 if draw.chance(0.3) else 0
        return PhotoPan(
            path=draw.choice(self.photos),
            fraction=(fraction, end_fraction),
            centre=(centre, end_centre),
            turn=(turn, end_turn),
            shake=5 + draw.below(15) if moving and draw.chance(0.2) else 0,
            mirrored=draw.chance(0.5),
            grade=_draw_grade(draw),
        )


def _files(folder: Path | None, suffixes: set[str] | frozenset[str]) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)


def decoded_film(path: Path, target: Path) -> Path:
    """A film as a memory map file of uint8 `[F, H, W, 3]`, at most `_SHORT_SIDE` on the short side; decoded once."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    reader = VideoReader(path)
    scale = min(1.0, _SHORT_SIDE / min(reader.info.height, reader.info.width))
    size = (round(reader.info.height * scale), round(reader.info.width * scale))
    with written_aside(target) as aside, open(aside, "wb") as stream:
        count = 0
        _write_header(stream, count, size)
        for frame in reader.frames(size=size):
            stream.write(frame.pixels.tobytes())
            count += 1
        stream.seek(0)
        _write_header(stream, count, size)
    logger.info("%s: %d frames", path.name, count)
    return target


def _write_header(stream: BinaryIO, count: int, size: tuple[int, int]) -> None:
    """NumPy leaves room for the first axis to grow, so the header can be written again when frames are counted."""
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (count, *size, 3)})


def find_footage(images: str | None, videos: str | None, split: str | None, cache: Path) -> Footage | None:
    """The split's part of the user's folders, or all of them; None without folders. Raises UserError as `Footage`."""
    if not (images or videos):
        return None
    folders = [Path(folder) if folder else None for folder in (images, videos)]
    return Footage(images=folders[0], videos=folders[1], split=split, cache=cache)
