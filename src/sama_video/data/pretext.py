"""Motion Alignment's pretext tasks (paper section 3.3, appendix C): the source is disturbed, the target stays.

Shape legend: F frames, H W pixels; a video is `[F, H, W, 3]` of any dtype in which 0 is black (uint8 in training).
Every transform returns a new tensor and never touches its input; it needs one copy of the clip at most.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..models.shapes import neighbouring_num_frames

TEXT_TO_VIDEO = "text_to_video"
PROMPTS = {
    "cube_inpainting": "[Complete the missing regions in the video.]",
    "speed_perturbation": "[Restore the video to normal playback speed.]",
    "tube_shuffle": "[Restore the correct spatio-temporal order of the video segments.]",
}
# Section 4.1; the first is plain text-to-video, without a source.
SAMPLING_WEIGHTS = {TEXT_TO_VIDEO: 1, "cube_inpainting": 2, "speed_perturbation": 3, "tube_shuffle": 4}
_MASKED_FRACTION = 0.3
_SPEED = 2


def cube_inpainting(video: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One contiguous block of 30% of the frames turns black, never the first frame.

    Raises:
        ValueError: for a single frame.
    """
    num_frames = _check_moves(video, "cube inpainting")
    length = max(1, round(_MASKED_FRACTION * num_frames))
    start = int(torch.randint(1, num_frames - length + 1, (), generator=generator))
    disturbed = _new(video, num_frames)
    disturbed[:start] = video[:start]
    disturbed[start : start + length] = 0
    disturbed[start + length :] = video[start + length :]
    return disturbed


def speed_perturbation(video: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:  # noqa: ARG001
    """Frames 0, 2, 4, ... cut to 4k+1 frames: the clip at twice its speed. Nothing in it is random.

    Raises:
        ValueError: for a clip of which a single frame would remain.
    """
    num_frames = _check_moves(video, "speed perturbation")
    kept = _sped_up_num_frames(num_frames)
    if kept == 1:
        raise ValueError(f"speed perturbation leaves a single frame of {num_frames}; use a clip of 9 frames or more")
    return _new(video, kept).copy_(video[: kept * _SPEED : _SPEED])


def tube_shuffle(video: torch.Tensor, generator: torch.Generator, *, keep_last_frame: bool = True) -> torch.Tensor:
    """Tubes of a 2 x 2 x 2 grid over time, height and width change positions at random.

    Of an odd number of frames, such as 4k+1, the last stays where it is: the others divide into two equal halves, so
    that tubes move in time, too. A height or width that does not divide is cut into halves that differ by one. Only
    tubes of equal size change positions, so every voxel survives.

    Args:
        keep_last_frame: False cuts an odd number of frames into unequal halves as well: the four tubes of each half of
            the time are then shuffled among themselves, and nothing moves in time.

    Raises:
        ValueError: for a single frame, or no two tubes of one size.
    """
    num_frames = _check_moves(video, "tube shuffle")
    moving = num_frames - num_frames % 2 if keep_last_frame else num_frames
    groups = _equal_tubes([_halves(length) for length in (moving, *video.shape[1:3])])
    if all(len(group) == 1 for group in groups):
        raise ValueError(
            f"tube shuffle finds no two tubes of one size in {tuple(video.shape[:3])} (frames, height, width); "
            f"use an even height or width of 2 or more"
        )
    shuffled = _new(video, num_frames)
    shuffled[moving:] = video[moving:]
    moves = []
    for group in groups:
        for tube, origin in zip(group, torch.randperm(len(group), generator=generator).tolist(), strict=True):
            moves.append((shuffled[tube], video[group[origin]]))
    # Frame by frame, not tube by tube: memory just touched for one tube is still in the cache for its neighbour.
    for offset in range(len(moves[0][0])):
        for new, old in moves:
            new[offset : offset + 1] = old[offset : offset + 1]
    return shuffled


_Tube = tuple[slice, ...]


def _check_moves(video: torch.Tensor, task: str) -> int:
    if len(video) < 2:
        raise ValueError(f"{task} needs a video of at least 2 frames, got {len(video)}; images get no pretext task")
    return len(video)


def _new(like: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Memory for a result, uninitialised.

    On the CPU it comes from NumPy, which asks for huge pages: touching new ordinary pages takes longer than the copy.
    """
    shape = (num_frames, *like.shape[1:])
    if like.device.type != "cpu":
        return like.new_empty(shape)
    memory = np.empty(math.prod(shape) * like.element_size(), dtype=np.uint8)
    return torch.from_numpy(memory).view(like.dtype).view(shape)


def _halves(length: int) -> tuple[slice, slice]:
    middle = -(-length // 2)
    return slice(0, middle), slice(middle, length)


def _equal_tubes(halves: Sequence[tuple[slice, slice]]) -> list[list[_Tube]]:
    """The eight tubes, grouped by size."""
    groups = defaultdict(list)
    for tube in itertools.product(*halves):
        groups[tuple(side.stop - side.start for side in tube)].append(tube)
    return list(groups.values())


TRANSFORMS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "cube_inpainting": cube_inpainting,
    "speed_perturbation": speed_perturbation,
    "tube_shuffle": tube_shuffle,
}


def disturb(
    task: str, video: torch.Tensor, generator: torch.Generator, *, keep_last_frame: bool = True
) -> torch.Tensor:
    """The source that a pretext task makes of a clip; `keep_last_frame` is that of `tube_shuffle`."""
    if task == "tube_shuffle":
        return tube_shuffle(video, generator, keep_last_frame=keep_last_frame)
    return TRANSFORMS[task](video, generator)


def _sped_up_num_frames(num_frames: int) -> int:
    """Frames (4k+1) of a clip at twice its speed."""
    return neighbouring_num_frames(-(-num_frames // _SPEED))[0]


def source_num_frames(task: str, num_frames: int) -> int | None:
    """Frames of the source of a text-to-video sample of `num_frames`, None for no source."""
    if task == TEXT_TO_VIDEO:
        return None
    return _sped_up_num_frames(num_frames) if task == "speed_perturbation" else num_frames


def possible_tasks(num_frames: int) -> tuple[str, ...]:
    """Tasks that apply to a clip of `num_frames`: an image has no motion, a short clip no double speed."""
    if num_frames == 1:
        return (TEXT_TO_VIDEO,)
    too_short = _sped_up_num_frames(num_frames) == 1
    return tuple(task for task in SAMPLING_WEIGHTS if not (too_short and task == "speed_perturbation"))


def sample_tasks(uniform: np.ndarray, num_frames: int) -> np.ndarray:
    """Task names for draws from [0, 1): in the ratio 1:2:3:4 of section 4.1, among those possible at `num_frames`."""
    tasks = possible_tasks(num_frames)
    bounds = np.cumsum([SAMPLING_WEIGHTS[task] for task in tasks], dtype=np.float64)
    return np.array(tasks, dtype=object)[np.searchsorted(bounds / bounds[-1], uniform, side="right")]


def task_prompt(task: str, caption: str) -> str:
    """The task's token before the caption, as in section 3.3; the caption alone for plain text-to-video."""
    return caption if task == TEXT_TO_VIDEO else f"{PROMPTS[task]} {caption}"
