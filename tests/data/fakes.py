"""Datasets whose pixels say which sample they are."""

from dataclasses import dataclass

import numpy as np
import torch

from sama_video.data.datasets import EDIT, ClipMetadata
from sama_video.data.pretext import TEXT_TO_VIDEO
from sama_video.data.samples import Sample


class NumberedDataset:
    """Samples of given (frames, height, width, has source); frame t of sample i is filled with i and t."""

    def __init__(self, clips: list[tuple[int, int, int, bool]]):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def metadata(self, index: int) -> ClipMetadata:
        num_frames, height, width, has_source = self.clips[index]
        return ClipMetadata(num_frames=num_frames, height=height, width=width, has_source=has_source)

    def load(self, index: int, size: tuple[int, int], num_frames: int, generator: torch.Generator) -> Sample:
        slack = self.clips[index][0] - num_frames
        start = int(torch.randint(slack + 1, (), generator=generator))
        target = torch.zeros(num_frames, *size, 3, dtype=torch.uint8)
        target[..., 0] = index
        target[..., 1] = torch.arange(start, start + num_frames).view(-1, 1, 1)
        target[..., 2] = 1
        has_source = self.clips[index][3]
        return Sample(
            target=target,
            source=255 - target if has_source else None,
            prompt=f"prompt {index}",
            task=EDIT if has_source else TEXT_TO_VIDEO,
            name=str(index),
        )


@dataclass
class FakePair:
    source: np.ndarray
    target: np.ndarray
    instruction: str
    caption: str


class FakeEngine:
    """The index fills the source; the target is its negative."""

    def pair(self, index: int, num_frames: int, height: int, width: int) -> FakePair:
        source = np.full((num_frames, height, width, 3), index % 251, dtype=np.uint8)
        return FakePair(source, 255 - source, f"instruction {index}", f"caption {index}")
