"""From batches to gradients: the samples' own randomness, micro-batches, and a weighting that any split leaves alone.

Shape legend: B samples of this process, C latent channels, F H W latent grid, S semantic tokens, D their width.

Every draw of a sample (its sigma, its noise, whether its text is dropped) comes from (seed, step, its place in the
step), so it does not depend on how many processes or micro-batches share the step. A sample's loss counts
1 / (samples of the step).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import TypeVar

import torch

from ..data.batch import Batch, EncodedBatch
from .config import ObjectiveConfig
from .losses import sample_sigmas


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Samples of one forward pass, with their noise.

    Args:
        batch: encoded samples.
        sigma: `[B]`.
        noise: `[B, C, F, H, W]`; semantic_noise: `[B, S, D]` or None.
        keeps_text: bool `[B]`, false where guidance trains without the instruction.
        weight: `[B]`, 0 for samples that only fill up.
    """

    batch: EncodedBatch
    sigma: torch.Tensor
    noise: torch.Tensor
    semantic_noise: torch.Tensor | None
    keeps_text: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """One sample's draws."""

    sigma: torch.Tensor
    noise: torch.Tensor
    semantic_noise: torch.Tensor | None
    keeps_text: bool
    keeps_source: bool


def draw(batch: EncodedBatch, place: int, seed: int, step: int, objective: ObjectiveConfig) -> Draws:
    """Of the sample at `place` of a step over all processes."""
    generator = torch.Generator().manual_seed(_seed(seed, step, place))
    sigma = sample_sigmas(1, objective.sigma_shift, generator, objective.sigma_sampling)[0]
    keeps = torch.rand(2, generator=generator) >= torch.tensor([objective.text_dropout, objective.source_dropout])
    # Drawn where it is used: a processor would take longer over it than a GPU over the whole step.
    device = batch.target.device
    if device.type != "cpu":
        generator = torch.Generator(device).manual_seed(generator.initial_seed())
    noise = torch.randn(batch.target.shape[1:], generator=generator, device=device)
    semantic_noise = None
    if batch.semantic is not None:
        semantic_noise = torch.randn(batch.semantic.shape[1:], generator=generator, device=device)
    return Draws(
        sigma=sigma,
        noise=noise,
        semantic_noise=semantic_noise,
        keeps_text=bool(keeps[0]),
        keeps_source=bool(keeps[1]),
    )


def _seed(*numbers: int) -> int:
    return int.from_bytes(sha256(repr(numbers).encode()).digest()[:7], "little")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Samples of one forward pass by their place in this process's share; fillers do not count."""

    indices: list[int]
    is_filler: bool


def pieces(length: int, size: int, longest: int) -> Iterator[Piece]:
    """A share of `length` samples in pieces of at most `size`.

    There are as many as the `longest` share of a process needs, since sharded processes must take as many forward
    passes; one without a sample of its own holds sample 0 once more, as a filler.
    """
    for first in range(0, longest, size):
        indices = list(range(first, min(first + size, length)))
        yield Piece(indices=indices or [0], is_filler=not indices)


AnyBatch = TypeVar("AnyBatch", Batch, EncodedBatch)


def select(batch: AnyBatch, indices: list[int]) -> AnyBatch:
    """Some samples of a batch; all of them are the batch itself, which saves copying its pixels."""
    if indices == list(range(len(batch.prompts))):
        return batch
    parts = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor):
            parts[field.name] = value[indices]
        elif isinstance(value, list):
            parts[field.name] = [value[index] for index in indices]
    return replace(batch, **parts)
