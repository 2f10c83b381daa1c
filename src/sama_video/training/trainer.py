"""The training loop: data -> encoders -> objective -> optimizer -> average -> checkpoint.

One process or many run the same code; with many the parameters are sharded (FSDP2), see `parallel.py`. Frozen parts
(autoencoder, text encoder unless it trains, SigLIP) only encode, one sample at a time, so that a cache gives the same.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from ..data.batch import Batch, EncodedBatch
from ..data.encoding import Encoder
from ..data.loader import BatchLoader
from ..files import written_aside
from ..models.presets import ASSETS
from ..models.semantic_encoder import SemanticEncoder
from ..pipelines.loading import load_pipeline
from .checkpoint import checkpoints, is_first, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .ema import Ema
from .losses import StepOutput, flow_matching_step
from .mixture import batch_config, build_mixture
from .optimizer import Optimizer, learning_rate
from .parallel import Parallel, Trainable
from .step import MicroBatch, draw, pieces, select

logger = logging.getLogger(__name__)

SIGMA_BINS = 5
SIGLIP = ASSETS / "nano_siglip"


class TrainingStoppedError(Exception):
    """The run cannot go on: a loss that is not finite, exploding gradients. State is saved; exit code 3."""


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Of one optimizer step over all processes; losses are averages over its samples.

    Args:
        flow_by_sigma: `SIGMA_BINS` averages of the flow loss over fifths of sigma, NaN for an empty fifth.
        waited: seconds spent waiting for data.
    """

    loss: float
    flow_loss: float
    semantic_loss: float
    flow_by_sigma: list[float]
    gradient_norm: float
    learning_rate: float
    num_samples: int
    num_tokens: int
    seconds: float
    waited: float


class Trainer:
    """One run in one folder.

    Args:
        config: of the run.
        out: its folder.
        parallel: this process among those of the run.

    Raises:
        UserError: for a model or data that cannot be loaded.
    """

    def __init__(self, config: TrainConfig, out: Path, parallel: Parallel):
        self.config, self.out, self.parallel = config, out, parallel
        loop = config.loop

        # 1. Models
        self.pipe = load_pipeline(config.model.init, device=str(parallel.device), dtype="float32")
        for part in (self.pipe.vae, self.pipe.text_encoder):
            if part is not None:
                part.requires_grad_(False)
        text_encoder = self.pipe.text_encoder if config.model.train_text_encoder else None
        self.model = Trainable(self.pipe.transformer, text_encoder)
        self.model.requires_grad_(True)
        if loop.gradient_checkpointing:
            self.pipe.transformer.enable_gradient_checkpointing()
        self.model.train()
        parallel.shard(self.model)
        semantic_encoder = None
        if config.model.semantic_encoder is not None:
            folder = SIGLIP if config.model.semantic_encoder == "nano" else config.model.semantic_encoder
            semantic_encoder = SemanticEncoder.from_pretrained(folder).to(parallel.device)
        self.encoder = Encoder(self.pipe, semantic_encoder, num_anchors=config.objective.num_anchors)

        # 2. Data
        self.loader = BatchLoader(
            build_mixture(config.data, out),
            batch_config(config.data, 2 * self.pipe.vae.config.scale_factor_spatial, loop.seed),
            rank=parallel.rank,
            world_size=parallel.world_size,
            num_workers=config.data.num_workers,
        )

        # 3. Optimizer and average
        self.optimizer = Optimizer(self.model, config.optimizer)
        self.ema = Ema(self.model, loop.ema_decay)
        self.step = 0
        self.seconds = 0.0

    def resume(self) -> bool:
        """Go on from the newest complete checkpoint; false if there is none."""
        found = checkpoints(self.out)
        if not found:
            return False
        progress = load_checkpoint(found[-1], self.model, self.ema, self.optimizer)
        self.loader.load_state_dict(progress["data"])
        self.step, self.seconds = progress["step"], progress["seconds"]
        return True

    def save(self) -> None:
        progress = {"step": self.step, "seconds": self.seconds, "data": self.loader.state_dict()}
        keep = self.config.loop.keep_checkpoints
        save_checkpoint(self.out, self.step, self.model, self.ema, self.optimizer, progress, keep)

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a pipeline folder, which every command loads."""
        with self.ema.applied(), written_aside(folder) as aside:
            self.pipe.save_pretrained(aside)

    def train(self) -> None:
        """To the last step, with checkpoints on the way.

        Raises:
            TrainingStoppedError: if a loss or gradient is not finite; the state before that step is saved.
        """
        saved = time.monotonic()
        batches = self._batches()
        while self.step < self.config.loop.num_steps:
            started = time.monotonic()
            group = [next(batches) for _ in range(self.config.loop.batches_per_step)]
            metrics = self.train_step(group, waited=time.monotonic() - started)
            self.seconds += metrics.seconds
            if self.step % self.config.loop.log_every == 0 or self.step == self.config.loop.num_steps:
                self.log(metrics)
            due = self.parallel.any(time.monotonic() - saved > 60 * self.config.loop.save_minutes)
            if due or self.step == self.config.loop.num_steps:
                self.save()
                saved = time.monotonic()

    def _batches(self) -> Iterator[Batch | EncodedBatch]:
        while True:
            yield from self.loader

    def train_step(self, batches: list[Batch | EncodedBatch], waited: float = 0.0) -> StepMetrics:
        """One optimizer step over `batches`, this process's shares of them."""
        started = time.monotonic()
        num_samples = sum(batch.step.num_global for batch in batches)
        sums = torch.zeros(3 + 2 * SIGMA_BINS, dtype=torch.float64)
        num_tokens = 0
        for number, batch in enumerate(batches):
            for micro in self._micro_batches(batch, number, num_samples):
                output = self.forward_backward(micro)
                sums += _sums(output, micro.weight.cpu())
                num_tokens += self._tokens(micro.batch) * len(micro.sigma)
        sums = self.parallel.sum(sums)
        loss = float(sums[0])
        if not math.isfinite(loss):
            self._stop(f"the loss of step {self.step} is {loss}")
        rate = learning_rate(self.config.optimizer, self.step, self.config.loop.num_steps)
        norm = self.optimizer.step(rate)
        if not math.isfinite(norm):
            self._stop(f"the gradient's norm in step {self.step} is {norm}")
        self.ema.update(self.step)
        self.step += 1
        flow, counts = sums[3 : 3 + SIGMA_BINS], sums[3 + SIGMA_BINS :]
        return StepMetrics(
            loss=loss,
            flow_loss=float(sums[1]),
            semantic_loss=float(sums[2]),
            flow_by_sigma=(flow / counts).tolist(),
            gradient_norm=norm,
            learning_rate=rate,
            num_samples=num_samples,
            num_tokens=num_tokens,
            seconds=time.monotonic() - started + waited,
            waited=waited,
        )

    def forward_backward(self, micro: MicroBatch) -> StepOutput:
        """Gradients of one micro-batch, added to those that are there."""
        objective, batch = self.config.objective, micro.batch
        with torch.autocast(
            self.parallel.device.type, torch.bfloat16, enabled=self.config.loop.precision == "bfloat16"
        ):
            text = batch.text
            if self.model.text_encoder is not None:
                prompts = [p if keeps else "" for p, keeps in zip(batch.prompts, micro.keeps_text, strict=True)]
                text, _ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=text.device)
            output = flow_matching_step(
                self.pipe.transformer,
                target=batch.target.float(),
                source=None if batch.source is None else batch.source.float(),
                text=text,
                sigma=micro.sigma,
                noise=micro.noise,
                semantic=None if batch.semantic is None else batch.semantic.float(),
                semantic_noise=micro.semantic_noise,
                semantic_weight=objective.semantic_weight,
                semantic_target=objective.semantic_target,
            )
        # Sharded training averages gradients over processes; the weights already divide by all samples.
        (self.parallel.world_size * (output.loss * micro.weight).sum()).backward()
        return output

    def _micro_batches(self, batch: Batch | EncodedBatch, number: int, num_samples: int) -> Iterator[MicroBatch]:
        """This process's samples in pieces of at most `micro_tokens`, encoded where they are pixels still."""
        world, rank = self.parallel.world_size, self.parallel.rank
        length = 0 if batch.step.is_filler else len(batch.prompts)
        longest = -(-batch.step.num_global // world)
        size = max(1, self.config.loop.micro_tokens // self._tokens_of_shape(batch))
        for indices in pieces(length, size, longest):
            micro = self._encoded(batch, indices)
            places = [(number << 20) + rank + index * world for index in indices]
            drawn = [draw(micro, place, self.config.loop.seed, self.step, self.config.objective) for place in places]
            counts = [float(index < length) / num_samples for index in indices]
            yield self._with_draws(micro, drawn, counts)

    def _with_draws(self, batch: EncodedBatch, drawn: list[Any], weights: list[float]) -> MicroBatch:
        device = self.parallel.device
        keeps_text = torch.tensor([one.keeps_text for one in drawn], device=device)
        keeps_source = torch.tensor([one.keeps_source for one in drawn], device=device)
        source = batch.source
        if source is not None:
            source = source * keeps_source.view(-1, 1, 1, 1, 1)
        semantic_noise = None
        if batch.semantic is not None:
            semantic_noise = torch.stack([one.semantic_noise for one in drawn]).to(device)
        text = torch.where(keeps_text.view(-1, 1, 1), batch.text, self._empty_text()) if len(batch.text) else batch.text
        return MicroBatch(
            batch=replace(batch, source=source, text=text),
            sigma=torch.stack([one.sigma for one in drawn]).to(device),
            noise=torch.stack([one.noise for one in drawn]).to(device),
            semantic_noise=semantic_noise,
            keeps_text=keeps_text,
            weight=torch.tensor(weights, device=device),
        )

    def _empty_text(self) -> torch.Tensor:
        if not hasattr(self, "_empty"):
            self._empty = self.encoder.text("")
        return self._empty

    def _encoded(self, batch: Batch | EncodedBatch, indices: list[int]) -> EncodedBatch:
        if isinstance(batch, EncodedBatch):
            return _moved(select(batch, indices), self.parallel.device)
        return self.encoder.encode_batch(select(batch, indices))

    def _tokens_of_shape(self, batch: Batch | EncodedBatch) -> int:
        """Of one sample: source, semantic stream and target."""
        vae = self.pipe.vae.config
        shape = batch.step.shape
        patch = 2 * vae.scale_factor_spatial
        plane = (shape.height // patch) * (shape.width // patch)
        frames = [shape.num_frames, *([shape.source_frames] if shape.source_frames else [])]
        semantic = 65 * self.config.objective.num_anchors if self.encoder.semantic_encoder is not None else 0
        return semantic + sum(((count - 1) // 4 + 1) * plane for count in frames)

    def _tokens(self, batch: EncodedBatch) -> int:
        return self._tokens_of_shape(cast("Any", batch))

    def _stop(self, why: str) -> None:
        self.save()
        raise TrainingStoppedError(f"{why}; the state before it is saved. Lower optimizer.learning_rate and resume")

    def log(self, metrics: StepMetrics) -> None:
        if not is_first():
            return
        record = {"step": self.step, **vars(metrics)}
        with open(self.out / "metrics.jsonl", "a") as stream:
            stream.write(json.dumps(record) + "\n")
        logger.info(
            "step %d loss %.4f semantic %.4f norm %.2f rate %.2e %.0f tokens/s waited %.0f%%",
            self.step,
            metrics.loss,
            metrics.semantic_loss,
            metrics.gradient_norm,
            metrics.learning_rate,
            metrics.num_tokens / metrics.seconds,
            100 * metrics.waited / metrics.seconds,
        )


def _sums(output: StepOutput, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sums of loss, flow loss, semantic loss; then flow loss and counts by fifth of sigma."""
    flow, sigma = output.flow_loss.detach().cpu().double(), output.sigma.detach().cpu()
    semantic = torch.zeros_like(flow) if output.semantic_loss is None else output.semantic_loss.detach().cpu().double()
    counted = weight > 0
    fifth = (sigma * SIGMA_BINS).long().clamp(0, SIGMA_BINS - 1)[counted]
    by_sigma = torch.zeros(SIGMA_BINS, dtype=torch.float64).index_add_(0, fifth, flow[counted])
    counts = torch.zeros(SIGMA_BINS, dtype=torch.float64).index_add_(
        0, fifth, torch.ones(len(fifth), dtype=torch.float64)
    )
    means = torch.stack([(values * weight).sum() for values in (output.loss.detach().cpu().double(), flow, semantic)])
    return torch.cat([means, by_sigma, counts])


def _moved(batch: EncodedBatch, device: torch.device) -> EncodedBatch:
    def to(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)

    target, text = batch.target.to(device), batch.text.to(device)
    return replace(batch, target=target, source=to(batch.source), text=text, semantic=to(batch.semantic))
