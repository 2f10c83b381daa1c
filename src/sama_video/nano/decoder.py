"""The nano's decoder, trained on edits of the engine: without their sources, and with them.

Shape legend: B batch, F frames, H W pixels, Z latent channels, f h w latent grid.

The encoder is fixed, so the decoder can be trained at any time, before the transformer or after it.
"""

import logging
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..media.metrics import psnr
from ..models.autoencoder_sama_nano import AutoencoderSamaNano
from ..models.latents import decode_latents, encode_video, video_to_model_range, video_to_pixels
from ..synth.engine import Engine
from ..system.errors import UserError
from ..system.files import written_aside
from ..system.workers import in_a_process
from ..training.interrupts import EXIT_CODES, NAMES, StopRequest, stop_requests

logger = logging.getLogger(__name__)

NUM_STEPS = 1300
BATCH_SIZE = 12
MAX_BATCH = 512  # pairs that a step may take, which keeps the steps' pairs apart
LEARNING_RATE = 1e-3
SOURCE_WIDTH, SOURCE_LAYERS = 160, 3
_SHAPES = ((5, 128, 128), (5, 112, 144), (5, 96, 176), (1, 128, 128))
_LARGEST_ERROR = 0.4  # of latents, in units of what the transformer sees
_SMALLEST_ERROR = 0.03
_NEGLIGIBLE_ERROR = 4e-4  # mean square in [-1, 1]: 40 dB
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # BT.601
_SAVE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class DecoderScores:
    """Means of PSNR in dB over edits whose exact latents were decoded: to the target inside and outside the mask."""

    inside: float
    outside: float

    def __str__(self) -> str:
        return f"{self.inside:.1f} dB inside the mask, {self.outside:.1f} dB outside"


def with_source_branch(vae: AutoencoderSamaNano) -> AutoencoderSamaNano:
    """The same autoencoder whose decoder takes a source too; itself if it does already."""
    if vae.takes_source:
        return vae
    grown = AutoencoderSamaNano.from_config(vae.config, source_width=SOURCE_WIDTH, source_layers=SOURCE_LAYERS)
    assert isinstance(grown, AutoencoderSamaNano)
    grown.load_state_dict(grown.state_dict() | vae.state_dict())
    return grown


def as_sampled(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Normalised latents with errors such as samplers make: two fifths nearly exact, the others up to
    `_LARGEST_ERROR`, small errors as often as large ones; smooth, or of every latent by itself, or both."""
    size = len(latents)
    exact, depth, fine = torch.rand(3, size, generator=generator)
    level = torch.where(
        exact < 0.4,
        _SMALLEST_ERROR * depth,
        _SMALLEST_ERROR * (depth * math.log(_LARGEST_ERROR / _SMALLEST_ERROR)).exp(),
    )

    def by_sample(values: torch.Tensor) -> torch.Tensor:
        return values.view(-1, 1, 1, 1, 1)

    errors = torch.randn(latents.shape, generator=generator)
    smooth = _smooth_noise(latents.shape, generator)
    return latents + by_sample(level * fine.sqrt()) * errors + by_sample(level * (1 - fine).sqrt()) * smooth


def _smooth_noise(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Noise that changes over about four positions, of spread 1."""
    size, channels, frames, height, width = shape
    coarse = torch.randn(size * channels, frames, height // 4 + 1, width // 4 + 1, generator=generator)
    noise = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    return (noise / noise.std(dim=(1, 2, 3), keepdim=True)).view(size, channels, frames, height, width)


def draw_edits(engine: Engine, step: int, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources and targets of a step, uint8 `[B, F, H, W, 3]`, and masks of what was edited, bool `[B, F, H, W]`: a
    third the other way round, an eighth not edited, a quarter in other colours throughout."""
    rng = random.Random(step)
    shape = rng.choice(_SHAPES)
    size = batch_size if shape[0] > 1 else 2 * batch_size
    sources, targets, masks = [], [], []
    for number in range(size):
        pair = engine.pair(step * MAX_BATCH + number, *shape)
        source, target = (pair.target, pair.source) if rng.random() < 1 / 3 else (pair.source, pair.target)
        mask, kind = pair.mask, rng.random()
        if kind < 1 / 8:
            target, mask = source, np.zeros_like(mask)
        elif kind < 3 / 8:
            target, mask = recoloured(source, rng), np.ones_like(mask)
        sources.append(source)
        targets.append(target)
        masks.append(mask)
    return np.stack(sources), np.stack(targets), np.stack(masks)


def recoloured(clip: np.ndarray, rng: random.Random) -> np.ndarray:
    """The clip with other colours, by a little or by much: what changes a little everywhere is an edit too.

    target = (1 - k) source + k gains (m grey(source) + (1 - m) source), k from 0.05 to 1, small ones as often
    """
    strength = 0.05 ** rng.random()
    grey = rng.random()
    gains = np.array([rng.gauss(1, 0.25) for _ in range(3)], dtype=np.float32)
    pixels = clip.astype(np.float32)
    changed = gains * (grey * (pixels @ _GREY)[..., None] + (1 - grey) * pixels)
    return (pixels + strength * (changed - pixels)).clip(0, 255).round().astype(np.uint8)


def edit_loss(decoded: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over samples of the logarithm of the squared error where the edit shows, and where it does not.

    Both count alike, however small the one region or the other's error is: the scores are decibels too. Below
    `_NEGLIGIBLE_ERROR` less counts little, or pixels that a decoder can copy would outweigh what it must draw.

    Args:
        decoded, target: `[B, 3, F, H, W]` in [-1, 1].
        mask: bool `[B, F, H, W]`, where the edit shows.
    """
    error = (decoded - target).square().mean(dim=1)
    logs = []
    for region in (mask, ~mask):
        sizes = region.sum(dim=(1, 2, 3))
        means = (error * region).sum(dim=(1, 2, 3))[sizes > 0] / sizes[sizes > 0]
        logs.append((means + _NEGLIGIBLE_ERROR).log())
    return torch.cat(logs).mean()


class DecoderTrainer:
    """Trains what the decoder adds to the transpose of the encoder, without sources and with them.

    Args:
        vae: with a source branch; trained in place.
        checkpoint: file that a run which was interrupted resumes from; None keeps nothing.

    Raises:
        UserError: for a checkpoint of another training.
    """

    def __init__(
        self, vae: AutoencoderSamaNano, engine: Engine, num_steps: int, batch_size: int, checkpoint: Path | None
    ):
        self.vae, self.engine = vae, engine
        self.num_steps, self.batch_size, self.checkpoint = num_steps, batch_size, checkpoint
        assert vae.source_branch is not None
        of_branch = {id(parameter) for parameter in vae.source_branch.parameters()}
        trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        self.branch = [parameter for parameter in trained if id(parameter) in of_branch]
        self.alone = [parameter for parameter in trained if id(parameter) not in of_branch]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step, num_steps))
        self.step = 0
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def train_step(self, sources: np.ndarray, targets: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
        """Returns the losses without sources and with them."""
        source, target = (video_to_model_range(torch.from_numpy(clips)) for clips in (sources, targets))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(self.step)
            latents = as_sampled(encode_video(self.vae, target), generator)
        std = torch.tensor(self.vae.config.latents_std).view(1, -1, 1, 1, 1)
        alone, beside = self.vae.decode_both(latents * std, source)
        losses = (alone - target).square().mean(), edit_loss(beside, target, torch.from_numpy(masks))
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses).backward()
        nn.utils.clip_grad_norm_(self.alone, 0.02)
        nn.utils.clip_grad_norm_(self.branch, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return losses[0].item(), losses[1].item()

    def train(self) -> None:
        """Raises SystemExit after Ctrl-C or SIGTERM; the step under way is saved, where there is a checkpoint."""
        with stop_requests("stopping after the step under way; Ctrl-C again stops at once") as request:
            self._train(request)

    def _train(self, request: StopRequest) -> None:
        saved = time.monotonic()
        for edits in _batches(self.engine, self.step, self.num_steps, self.batch_size):
            losses = self.train_step(*edits)
            if self.step % 50 == 0:
                logger.info("decoder step=%d loss=%.6f with_source=%.4f", self.step, *losses)
            if request.number or time.monotonic() - saved > _SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
            if request.number:
                logger.info("stopped by %s at step %d", NAMES[request.number], self.step)
                sys.exit(EXIT_CODES[request.number])

    def save(self) -> None:
        """To the checkpoint, where there is one."""
        if self.checkpoint is None:
            return
        parts = {"vae": self.vae, "optimizer": self.optimizer, "schedule": self.schedule}
        states = {name: part.state_dict() for name, part in parts.items()}
        with written_aside(self.checkpoint) as aside:
            torch.save({"step": self.step, "num_steps": self.num_steps, **states}, aside)

    def _resume(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, weights_only=True)
        same = state["num_steps"] == self.num_steps and torch.equal(state["vae"]["components"], self.vae.components)
        if not same:
            raise UserError(f"{checkpoint} is of a training of another autoencoder or length; delete it to start again")
        for name, part in (("vae", self.vae), ("optimizer", self.optimizer), ("schedule", self.schedule)):
            part.load_state_dict(state[name])
        self.step = state["step"]
        logger.info("resumed at step %d", self.step)


def _rate(step: int, num_steps: int) -> float:
    """Fraction of the learning rate: rises over a twentieth of the steps, then falls to 0 as a cosine does."""
    warm_up = math.ceil(num_steps / 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up)))


def _batches(engine: Engine, first: int, last: int, batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """The edits of steps `first` to `last`, drawn ahead in another process."""
    return in_a_process(partial(draw_edits, engine, batch_size=batch_size), range(first, last))


def train_decoder(
    vae: AutoencoderSamaNano,
    engine: Engine,
    validation: Engine,
    num_steps: int = NUM_STEPS,
    batch_size: int = BATCH_SIZE,
    validation_clips: int = 48,
    checkpoint: Path | None = None,
) -> dict[str, DecoderScores]:
    """Train what the decoder adds to the transpose of the linear encoder.

    Args:
        vae: trained in place; see `with_source_branch`.
        checkpoint: see `DecoderTrainer`.

    Returns:
        On edits of the validation split: of the linear decoder ("linear"), of the decoder as it was ("before"), and
        as it is now without and with sources ("without source", "with source").
    """
    trainer = DecoderTrainer(vae, engine, num_steps, batch_size, checkpoint)
    before = score_decoders(vae, validation, validation_clips)
    trainer.train()
    after = score_decoders(vae, validation, validation_clips)
    return {"linear": before["linear"], "before": before["without source"], **after}


@torch.no_grad()
def score_decoders(vae: AutoencoderSamaNano, engine: Engine, num_clips: int) -> dict[str, DecoderScores]:
    """Of exact latents of targets of 9 frames at 128x128: linear, without source and with source."""
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    decoders: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "linear": lambda latents, _: vae.unpatchify(vae.linear(latents * std)).clamp(-1.0, 1.0),
        "without source": lambda latents, _: decode_latents(vae, latents),
        "with source": lambda latents, source: decode_latents(vae, latents, source=source),
    }
    scores: dict[str, list[tuple[float | None, float | None]]] = {name: [] for name in decoders}
    for index in range(num_clips):
        pair = engine.pair(index, 9, 128, 128)
        source, target = (video_to_model_range(torch.from_numpy(clip)) for clip in (pair.source, pair.target))
        latents = encode_video(vae, target)
        for name, decode in decoders.items():
            clip = video_to_pixels(decode(latents, source))[0].numpy()
            scores[name].append((psnr(clip, pair.target, pair.mask), psnr(clip, pair.target, ~pair.mask)))
    return {name: _mean_scores(values) for name, values in scores.items()}


def _mean_scores(values: list[tuple[float | None, float | None]]) -> DecoderScores:
    inside, outside = ([one for one in column if one is not None] for column in zip(*values, strict=True))
    return DecoderScores(inside=float(np.mean(inside)), outside=float(np.mean(outside)))
