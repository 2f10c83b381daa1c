"""Pretext transforms of 81 frames of 480x832 against the same done frame by frame with Pillow; their extra memory.
Tube shuffle with a last frame that stays against tube shuffle of all frames: time, and what moves in time.

Memory is the growth of a fresh process's resident set to its peak during one call, in copies of the clip (Linux).
"""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from common import compare, own_memory, report, setting

from sama_video.data.pretext import TRANSFORMS, disturb, speed_perturbation

SHAPE = (81, 480, 832, 3)
SHORT, LENGTHS, DRAWS = 17, (9, 17, 33, 49, 81), 300


def clip() -> torch.Tensor:
    return torch.randint(0, 256, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ours(task: str, video: torch.Tensor) -> torch.Tensor:
    return TRANSFORMS[task](video, torch.Generator().manual_seed(0))


def _pillow_cube(frames: list[PIL.Image.Image]) -> list[PIL.Image.Image]:
    length = round(0.3 * len(frames))
    start = len(frames) // 2
    black = [PIL.Image.new("RGB", frame.size) for frame in frames[start : start + length]]
    return [frame.copy() for frame in frames[:start]] + black + [frame.copy() for frame in frames[start + length :]]


def _pillow_speed(frames: list[PIL.Image.Image]) -> list[PIL.Image.Image]:
    return [frame.copy() for frame in frames[::2]]


def _pillow_shuffle(frames: list[PIL.Image.Image]) -> list[PIL.Image.Image]:
    """Quarters trade places with those of the other half of the time; the last of 4k+1 frames stays."""
    width, height = frames[0].size
    boxes = [(x, y, x + width // 2, y + height // 2) for y in (0, height // 2) for x in (0, width // 2)]
    half = len(frames) // 2
    shuffled = []
    for other in [*frames[half:-1], *frames[:half]]:
        result = PIL.Image.new("RGB", other.size)
        for place, origin in zip(boxes, boxes[1:] + boxes[:1], strict=True):
            result.paste(other.crop(origin), place[:2])
        shuffled.append(result)
    return [*shuffled, frames[-1].copy()]


PILLOW = {
    "cube_inpainting": _pillow_cube,
    "speed_perturbation": _pillow_speed,
    "tube_shuffle": _pillow_shuffle,
}


def frame_by_frame(task: str, video: torch.Tensor) -> torch.Tensor:
    frames = [PIL.Image.fromarray(frame) for frame in video.numpy()]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in PILLOW[task](frames)]))


def extra_copies(task: str) -> float:
    """In this process: growth of memory over one call, in clips. A small call before it loads what comes late."""
    video = clip()
    ours(task, video[:9, :32, :32].contiguous())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = own_memory("VmRSS")
    ours(task, video)
    return (own_memory("VmHWM") - before) / video.nbytes


def shuffled(video: torch.Tensor, seed: int, *, keep_last_frame: bool) -> torch.Tensor:
    return disturb("tube_shuffle", video, torch.Generator().manual_seed(seed), keep_last_frame=keep_last_frame)


def moved_in_time(num_frames: int, *, keep_last_frame: bool) -> int:
    """Of `DRAWS`, those in which a frame holds anything of another."""
    times = torch.arange(num_frames).view(-1, 1, 1, 1).expand(-1, 2, 2, 3).contiguous()
    draws = (shuffled(times, seed, keep_last_frame=keep_last_frame) for seed in range(DRAWS))
    return sum(not torch.equal(draw, times) for draw in draws)


def compare_rules(video: torch.Tensor) -> None:
    """Of tube shuffle: the last frame stays, or all frames are shuffled."""
    staying, all_frames = (functools.partial(shuffled, video, 0, keep_last_frame=keep) for keep in (True, False))
    report(f"tube shuffle of {len(video)} frames, baseline without one that stays", *compare(staying, all_frames, 21))
    for length in LENGTHS:
        moved, before = (moved_in_time(length, keep_last_frame=keep) for keep in (True, False))
        print(f"{length} frames: moves in time in {moved} of {DRAWS} draws; {before} without a frame that stays")


def main() -> None:
    print(setting())
    print(f"{'x'.join(map(str, SHAPE))}, uint8; one thread, as in a loader's worker")
    print("baseline: Pillow, frame by frame, from one array to another")
    torch.set_num_threads(1)
    video = clip()
    assert torch.equal(frame_by_frame("speed_perturbation", video), speed_perturbation(video))
    for task in TRANSFORMS:
        timed = compare(functools.partial(ours, task, video), functools.partial(frame_by_frame, task, video), rounds=5)
        report(task, *timed)
        command = [sys.executable, __file__, task]
        copies = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{task}: {1 / timed[2]:.1f} times as fast; extra memory {copies:.2f} copies of the clip")
    compare_rules(video[:SHORT].contiguous())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(extra_copies(sys.argv[1]))
    else:
        main()
