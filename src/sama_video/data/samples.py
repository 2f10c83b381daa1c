"""A training sample on its way from a row to the transformer, in the forms that it takes:

    `manifest.Row`           names its files and its prompt; the engine needs no row, it makes a sample of any number
    `epoch.ScheduledSample`  which one, cut to which size, with which pretext task: decided for a whole epoch beforehand
    `Sample`                 in pixels, and then encoded
    `Recipe`                 instead of pixels, what decides them: a cache is asked for it
    `Batch`                  a process's portion of the samples that share a bucket, in pixels or encoded
    `MicroBatch`             (training) what goes through the transformer at once, with its noise

Shape legend: B batch, F frames of the target, G of the source, H W pixels, Z latent channels, f g h w latent grids,
L text tokens, S semantic tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .buckets import Bucket


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training example, in pixels or as the transformer takes it.

    Args:
        target: uint8 `[F, H, W, 3]`; encoded, normalised latents `[Z, f, h, w]`.
        source: uint8 `[G, H, W, 3]`; encoded `[Z, g, h, w]`; None for text to video.
        prompt: instruction or caption.
        task: "edit", "text_to_video" or a pretext task.
        name: says which sample it is, for messages and logs.
        text: of an encoded sample `[L, D]`, rows beyond the prompt's end are zero; None where the text encoder trains.
        semantic: of an encoded sample, tokens of the target's anchor frames `[S, D]`; None without a semantic encoder.
    """

    target: torch.Tensor
    source: torch.Tensor | None
    prompt: str
    task: str
    name: str
    text: torch.Tensor | None = None
    semantic: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a sample, without its pixels.

    `target` and `source` are JSON objects that differ wherever the clips' pixels may differ.
    """

    target: dict[str, Any]
    source: dict[str, Any] | None
    prompt: str
    task: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A process's portion of a batch, its tensors those of the samples with an axis `[B]` before them.

    Args:
        prompts, tasks, names: B of each.
        bucket: what the samples of all processes share, in pixels.
        num_global: samples over all processes; divide summed losses by it.
        is_filler: there was no sample left for this process, and it holds one of another, so that none waits for it:
            its loss must not count.
    """

    target: torch.Tensor
    source: torch.Tensor | None
    prompts: list[str]
    tasks: list[str]
    names: list[str]
    bucket: Bucket
    num_global: int
    is_filler: bool
    text: torch.Tensor | None = None
    semantic: torch.Tensor | None = None

    def pin_memory(self) -> "Batch":
        """As PyTorch's loader asks for it: in memory that a GPU reads by itself."""
        source = None if self.source is None else self.source.pin_memory()
        return replace(self, target=self.target.pin_memory(), source=source)

    @property
    def is_encoded(self) -> bool:
        return self.target.dtype != torch.uint8

    def select(self, indices: Sequence[int]) -> list[Sample]:
        """Some of its samples."""
        return [
            Sample(
                target=self.target[index],
                source=None if self.source is None else self.source[index],
                prompt=self.prompts[index],
                task=self.tasks[index],
                name=self.names[index],
                text=None if self.text is None else self.text[index],
                semantic=None if self.semantic is None else self.semantic[index],
            )
            for index in indices
        ]

    def with_samples(self, samples: Sequence[Sample]) -> "Batch":
        """The same portion with other samples."""
        return collate(samples, bucket=self.bucket, num_global=self.num_global, is_filler=self.is_filler)


def collate(samples: Sequence[Sample], *, bucket: Bucket, num_global: int, is_filler: bool) -> Batch:
    """Raises ValueError for samples in pixels of another size than the bucket's."""
    return Batch(
        target=torch.stack([_of_bucket(sample, bucket).target for sample in samples]),
        source=_stack([sample.source for sample in samples]),
        prompts=[sample.prompt for sample in samples],
        tasks=[sample.task for sample in samples],
        names=[sample.name for sample in samples],
        text=_stack([sample.text for sample in samples]),
        semantic=_stack([sample.semantic for sample in samples]),
        bucket=bucket,
        num_global=num_global,
        is_filler=is_filler,
    )


def _of_bucket(sample: Sample, bucket: Bucket) -> Sample:
    frames, height, width = sample.target.shape[:3]
    source_frames = None if sample.source is None else len(sample.source)
    found = Bucket(height=height, width=width, num_frames=frames, source_frames=source_frames)
    if sample.target.dtype == torch.uint8 and found != bucket:
        raise ValueError(f"{sample.name} came as {found} instead of {bucket}; its dataset must cut to what is asked")
    return sample


def _stack(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(given) if given else None
