"""From batches to forward passes: micro-batches, the samples' own randomness, a weighting that any split leaves alone.

Shape legend: B samples of this process, C latent channels, F H W latent grid, S semantic tokens, D their width.

Every draw of a sample (its sigma, its noise, whether its text is dropped) comes from (seed, step, its number in the
step), so it does not depend on how many processes or micro-batches share the step. A sample's loss counts
1 / (samples of the step).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import torch

from ..data.encoding import Encoder
from ..data.samples import Batch
from ..models.shapes import LatentShape, VideoShape, semantic_tokens
from .config import ObjectiveConfig, TrainConfig
from .losses import sample_sigmas
from .parallel import Parallel


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

    batch: Batch
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


def draw(batch: Batch, number: int, seed: int, step: int, objective: ObjectiveConfig) -> Draws:
    """Of sample `number` of a step over all processes."""
    generator = torch.Generator().manual_seed(_seed(seed, step, number))
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
class ForwardPass:
    """Samples of one forward pass by their index in this process's portion; fillers do not count."""

    indices: list[int]
    is_filler: bool


def forward_passes(length: int, size: int, longest: int) -> Iterator[ForwardPass]:
    """A portion of `length` samples in forward passes of at most `size`.

    There are as many as the `longest` portion of a process needs, since sharded processes must take as many forward
    passes; one without a sample of its own holds sample 0 once more, as a filler.
    """
    for first in range(0, longest, size):
        indices = list(range(first, min(first + size, length)))
        yield ForwardPass(indices=indices or [0], is_filler=not indices)


class MicroBatches:
    """This process's forward passes of a step.

    Args:
        config: of the run.
        encoder: of samples that come in pixels.
    """

    def __init__(self, config: TrainConfig, parallel: Parallel, encoder: Encoder):
        self._config, self._parallel, self._encoder = config, parallel, encoder

    def of_step(self, batches: Sequence[Batch], step: int) -> Iterator[MicroBatch]:
        """Of optimizer step `step` over `batches`."""
        num_samples = sum(batch.num_global for batch in batches)
        for index, batch in enumerate(batches):
            yield from self._of_batch(batch, index, step, num_samples)

    def tokens_of_sample(self, batch: Batch) -> int:
        """Source, semantic stream and target of each sample."""
        pipe, bucket = self._encoder.pipe, batch.bucket
        frames = [bucket.num_frames]
        if bucket.source_frames and self._config.model.source == "token":
            frames.append(bucket.source_frames)
        clips = (VideoShape(num_frames=count, height=bucket.height, width=bucket.width) for count in frames)
        grids = (LatentShape.from_video(clip, pipe.vae_scale_factor_spatial) for clip in clips)
        side = self._config.objective.semantic_grid
        semantic = semantic_tokens(pipe.config.num_semantic_tokens, bucket.num_frames, side)
        return semantic + sum(grid.num_tokens() for grid in grids)

    def _of_batch(self, batch: Batch, index: int, step: int, num_samples: int) -> Iterator[MicroBatch]:
        """In forward passes of at most `micro_tokens`, encoded where they are pixels still."""
        world, rank = self._parallel.world_size, self._parallel.rank
        length = 0 if batch.is_filler else len(batch.prompts)
        size = max(1, self._config.loop.micro_tokens // self.tokens_of_sample(batch))
        for forward in forward_passes(length, size, -(-batch.num_global // world)):
            micro = self._encoded(batch, forward.indices)
            # Ranks take every `world`-th sample of a batch, so this is a sample's number on any number of processes;
            # batches are apart by more samples than any of them has.
            numbers = [(index << 20) + rank + own * world for own in forward.indices]
            drawn = [draw(micro, one, self._config.loop.seed, step, self._config.objective) for one in numbers]
            yield self._with_draws(micro, drawn, 0.0 if forward.is_filler else 1 / num_samples)

    def _encoded(self, batch: Batch, indices: list[int]) -> Batch:
        device, encode = self._parallel.device, self._encoder.encode_portion
        micro = batch.with_samples(batch.select(indices)) if batch.is_encoded else encode(batch, indices)
        tensors = {name: getattr(micro, name) for name in ("target", "source", "text", "semantic")}
        return replace(micro, **{name: None if one is None else one.to(device) for name, one in tensors.items()})

    def _with_draws(self, batch: Batch, drawn: list[Draws], weight: float) -> MicroBatch:
        device = self._parallel.device
        keeps_text = torch.tensor([one.keeps_text for one in drawn], device=device)
        keeps_source = torch.tensor([one.keeps_source for one in drawn], device=device)
        source, text, semantic_noise = batch.source, batch.text, None
        if source is not None:
            source = source * keeps_source.view(-1, 1, 1, 1, 1)
        if text is not None:
            text = torch.where(keeps_text.view(-1, 1, 1), text, self.empty_text)
        if batch.semantic is not None:
            semantic_noise = torch.stack([one.semantic_noise for one in drawn if one.semantic_noise is not None])
            semantic_noise = semantic_noise.to(device)
        return MicroBatch(
            batch=replace(batch, source=source, text=text),
            sigma=torch.stack([one.sigma for one in drawn]).to(device),
            noise=torch.stack([one.noise for one in drawn]).to(device),
            semantic_noise=semantic_noise,
            keeps_text=keeps_text,
            weight=torch.full((len(drawn),), weight, device=device),
        )

    @cached_property
    def empty_text(self) -> torch.Tensor:
        """`[L, D]`, of no instruction; of text that is encoded beforehand."""
        return self._encoder.text("").to(self._parallel.device)
