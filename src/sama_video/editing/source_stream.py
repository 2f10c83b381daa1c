"""The source of an edit, read as a stream: first what is in it, then its frames at the model's size.

Shape legend: h w model size, H W the source's size; frames are uint8 `[h, w, 3]`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import PIL.Image
import torch

from ..media.shots import changes, find_cuts
from ..system.workers import Progress, silent
from ..video import TIME_TOLERANCE, Frame, VideoReader
from .plan import EditPlan

_SURVEYED = 64  # pixels of a side that frames are converted at to find cuts


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the part of a source that is edited holds, without its pixels.

    Times count from the first frame, which the source shows at `begin`; `cuts` are the frames that begin another shot;
    the source `goes_on` where the edit was told to end before it.
    """

    begin: Fraction
    times: list[Fraction]
    durations: list[Fraction]
    cuts: list[int]
    goes_on: bool

    @property
    def num_frames(self) -> int:
        return len(self.times)


def survey(reader: VideoReader, plan: EditPlan, progress: Progress = silent) -> Survey:
    """Decode all that is edited once: what is damaged and where it is cut is known before the model runs."""
    settings = plan.settings
    wanted = settings.num_frames or plan.info.num_frames
    times, durations, goes_on = [], [], False

    def passing() -> Iterator[np.ndarray]:
        nonlocal goes_on
        for frame in reader.frames(settings.start, settings.num_frames, coarse_size(plan.info.height, plan.info.width)):
            if settings.end is not None and times and frame.time + TIME_TOLERANCE >= settings.end:
                goes_on = True
                return
            times.append(frame.time)
            durations.append(frame.duration)
            progress("reading", len(times), max(len(times), wanted))
            yield frame.pixels
        goes_on = len(times) == settings.num_frames

    cuts, begin = find_cuts(list(changes(passing()))), times[0]
    times = [time - begin for time in times]
    return Survey(begin=begin, times=times, durations=durations, cuts=cuts, goes_on=goes_on)


def coarse_size(height: int, width: int) -> tuple[int, int]:
    """At which frames of this size are looked at to find cuts."""
    return min(height, _SURVEYED), min(width, _SURVEYED)


def frames_at_model_size(reader: VideoReader, plan: EditPlan, num_frames: int | None = None) -> Iterator[np.ndarray]:
    """Frames `[h, w, 3]` of what is edited, the first `num_frames` of it."""
    # FFmpeg resizes faster; what the release saw was resized by Pillow.
    whole = plan.area == (0, 0, plan.info.height, plan.info.width) and plan.settings.fit != "release"
    for frame in reader.frames(plan.settings.start, num_frames, plan.model_size if whole else None):
        yield frame.pixels if whole else _resized_area(frame, plan)


def _resized_area(frame: Frame, plan: EditPlan) -> np.ndarray:
    height, width = plan.model_size
    area = PIL.Image.fromarray(np.ascontiguousarray(cropped(frame.pixels, plan.area)))
    return np.array(area.resize((width, height), PIL.Image.Resampling.BICUBIC))


def cropped(pixels: np.ndarray, area: tuple[int, int, int, int]) -> np.ndarray:
    """The area of a picture; beyond its border the nearest pixel is repeated."""
    if area == (0, 0, *pixels.shape[:2]):
        return pixels
    top, left, height, width = area
    rows = np.clip(np.arange(top, top + height), 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(left, left + width), 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 `[.., H, W, 3]` -> float32 `[.., 3, H, W]` in 0..1."""
    return torch.from_numpy(pixels).movedim(-1, -3).float().div_(255.0)


def to_pixels(picture: torch.Tensor) -> np.ndarray:
    """float `[.., 3, H, W]` in 0..1 -> uint8 `[.., H, W, 3]`."""
    return picture.mul(255.0).round_().to(torch.uint8).movedim(-3, -1).contiguous().numpy()
