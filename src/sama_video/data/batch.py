"""Batches: one rank's share of a step, in pixels or encoded.

Shape legend: B batch, F frames of the target, G of the source, H W pixels, Z latent channels, f g h w latent grids,
L text tokens, S semantic tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .datasets import EncodedSample, Sample
from .epoch import BatchKey


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a share says of its step.

    Args:
        shape: what all ranks share in this step, in pixels.
        num_global: samples of the step over all ranks; divide summed losses by it.
        is_filler: this rank has no share in the step and holds a sample of another, so that no rank waits for it:
            its loss must not count.
    """

    shape: BatchKey
    num_global: int
    is_filler: bool


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one shape.

    Args:
        target: uint8 `[B, F, H, W, 3]`.
        source: uint8 `[B, G, H, W, 3]`, None for text to video.
        prompts, tasks, keys: B of each.
    """

    target: torch.Tensor
    source: torch.Tensor | None
    prompts: list[str]
    tasks: list[str]
    keys: list[str]
    step: Step

    def pin_memory(self) -> "Batch":
        """As PyTorch's loader asks for it: in memory that a GPU reads by itself."""
        source = None if self.source is None else self.source.pin_memory()
        return replace(self, target=self.target.pin_memory(), source=source)


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """What the transformer takes.

    Args:
        target: normalised latents `[B, Z, f, h, w]`.
        source: `[B, Z, g, h, w]`, None for text to video.
        text: `[B, L, D]`.
        semantic: `[B, S, D]`, None without a semantic encoder.
        prompts, tasks, keys: B of each.
    """

    target: torch.Tensor
    source: torch.Tensor | None
    text: torch.Tensor
    semantic: torch.Tensor | None
    prompts: list[str]
    tasks: list[str]
    keys: list[str]
    step: Step


def collate(samples: Sequence[Sample], step: Step) -> Batch:
    """Raises ValueError for samples of another shape than the step's."""
    for sample in samples:
        found = BatchKey(
            height=sample.target.shape[1],
            width=sample.target.shape[2],
            num_frames=len(sample.target),
            source_frames=None if sample.source is None else len(sample.source),
        )
        if found != step.shape:
            raise ValueError(
                f"{sample.key} came as {found} instead of {step.shape}; its dataset must cut to what is asked"
            )
    return Batch(
        target=torch.stack([sample.target for sample in samples]),
        source=_stack([sample.source for sample in samples]),
        **_words(samples),
        step=step,
    )


def collate_encoded(samples: Sequence[EncodedSample], step: Step) -> EncodedBatch:
    return EncodedBatch(
        target=torch.stack([sample.target for sample in samples]),
        source=_stack([sample.source for sample in samples]),
        text=torch.stack([sample.text for sample in samples]),
        semantic=_stack([sample.semantic for sample in samples]),
        **_words(samples),
        step=step,
    )


def _stack(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(given) if given else None


def _words(samples: Sequence[Sample] | Sequence[EncodedSample]) -> dict[str, list[str]]:
    return {
        "prompts": [sample.prompt for sample in samples],
        "tasks": [sample.task for sample in samples],
        "keys": [sample.key for sample in samples],
    }
