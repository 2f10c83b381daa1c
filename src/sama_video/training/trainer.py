"""The training loop: data -> encoders -> objective -> optimizer -> average -> checkpoint.

One process or many run the same code; with many the parameters are sharded (FSDP2), see `parallel.py`. Frozen parts
(autoencoder, text encoder unless it trains, SigLIP) only encode, one sample at a time, so that a cache gives the same.
"""

import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from ..data.batch import Batch, EncodedBatch
from ..data.encoding import Encoder
from ..data.loader import BatchLoader
from ..models.semantic_encoder import SemanticEncoder, find_semantic_encoder
from ..models.shapes import LatentShape, VideoShape, semantic_tokens
from ..models.strict_loading import quiet_libraries
from ..pipelines.loading import load_pipeline
from ..system.errors import UserError
from ..system.files import written_aside
from ..system.precision import Precision
from .adapters import export_lora, lora_state
from .checkpoint import Checkpoints, training_state
from .config import TrainConfig
from .contradictions import check_data
from .ema import Ema
from .interrupts import EXIT_CODES, NAMES, StopRequest, stop_requests
from .logs.runlog import RunLog
from .losses import StepOutput, flow_matching_step
from .micro_batches import MicroBatch, draw, pieces, select
from .mixture import batch_config, build_mixture, open_cache, tabulate_mixture
from .optimizer import Optimizer, learning_rate
from .parallel import Parallel, Trainable, is_first, settle_precision, wait_for_all, whole
from .preparation import check_parts, check_semantic_width, prepare_transformer
from .validation import Validation, write_report

logger = logging.getLogger(__name__)

SIGMA_BINS = 5
REMEDY = "use `resume` with a lower optimizer.learning_rate (--set), or look at the data"


class TrainingStoppedError(Exception):
    """The run ends early: a loss that is not finite, exploding gradients, SIGTERM, Ctrl-C. State is saved.

    Args:
        exit_code: of the command; 130 for Ctrl-C.
    """

    def __init__(self, message: str, *, exit_code: int = 3):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Of one optimizer step over all processes; losses are averages over its samples.

    Args:
        semantic_loss: None without Semantic Anchoring.
        flow_by_sigma: `SIGMA_BINS` averages of the flow loss over fifths of sigma, NaN for an empty fifth.
        waited: seconds spent waiting for data.
    """

    loss: float
    flow_loss: float
    semantic_loss: float | None
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
        config = settle_precision(config, parallel)
        self.config, self.out, self.parallel = config, out, parallel
        loop = config.loop
        assert loop.precision != "auto"
        self.precision: Precision = loop.precision

        # Of Wan's norms under autocast on a CPU: a matter of speed alone.
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")

        # 1. Models
        torch.manual_seed(loop.seed)  # new parts of a model begin alike in every process
        with parallel.agreed():
            # On the CPU first: no device holds more than its share and one block.
            self.pipe = load_pipeline(config.model.init, device="cpu", dtype="float32")
            check_parts(self.pipe, config)
            semantic_encoder = None
            if config.model.semantic_encoder is not None:
                folder = find_semantic_encoder(config.model.semantic_encoder)
                semantic_encoder = SemanticEncoder.from_pretrained(folder)
                check_semantic_width(self.pipe, semantic_encoder, config.model)
            prepare_transformer(self.pipe, config.model, config.objective, precision=self.precision)
            # It will know other edits than those it began with; which, its author says once they were tried.
            self.pipe.register_to_config(trained_for={})
        for part in (self.pipe.vae, self.pipe.text_encoder):
            if part is not None:
                part.requires_grad_(False)
        text_encoder = self.pipe.text_encoder if config.model.train_text_encoder else None
        self.model = Trainable(self.pipe.transformer, text_encoder)
        if loop.gradient_checkpointing:
            self.pipe.transformer.enable_gradient_checkpointing()
        self.model.train()
        if text_encoder is not None:
            text_encoder.requires_grad_(True)
        if loop.compile:
            for block in self.model.blocks:
                block.compile()
        parallel.shard(self.model, self.precision)
        self.model.to(parallel.device)
        self.encoder = Encoder(
            self.pipe,
            semantic_encoder,
            num_anchors=config.objective.num_anchors,
            with_text=text_encoder is None,
            together=parallel.device.type == "cuda" and all(d.engine is not None for d in config.data.datasets),
        )
        if config.data.cache is None:
            self.encoder.to(parallel.device, text=True)

        # 2. Data
        with parallel.agreed():
            parallel.check_batch_sizes(config.data.image_batch_size, config.data.video_batch_size)
            datasets = build_mixture(config.data, out)
        tables = tabulate_mixture(datasets, parallel)
        with parallel.agreed():
            for note in check_data(config, tables):
                logger.info("%s", note)
            self.loader = BatchLoader(
                datasets,
                batch_config(config.data, 2 * self.pipe.vae.config.scale_factor_spatial, loop.seed),
                rank=parallel.rank,
                world_size=parallel.world_size,
                num_workers=config.data.num_workers,
                prefetch_factor=config.data.prefetch_factor,
                cache=open_cache(config),
                tables=tables,
                pin_memory=parallel.device.type == "cuda",
            )
        parallel.same(str(self.loader.state_dict()["mixture"]), "the data and its settings")

        # 3. Optimizer and average
        self.optimizer = Optimizer(self.model, config.optimizer, self.precision)
        self.ema = Ema(self.model, loop.ema_decay, warmup=loop.ema_warmup)
        self.state = training_state(self.ema, self.optimizer)
        self.checkpoints = Checkpoints(out, parallel, loop.keep_checkpoints)
        self.step = 0
        self.seconds = 0.0
        self.unvalidated = False  # whether the validation of `step` is still to be made

        # 4. What it is tried on: here, so that a set that cannot be used is no surprise after hours
        self.validation = None
        if loop.validate_every:
            with parallel.agreed(), self._encoders_at_hand():
                self.validation = Validation(config, self.encoder)

    def resume(self) -> bool:
        """Continue from the newest complete checkpoint; false if there is none."""
        progress = self.checkpoints.load_newest(self.state)
        if progress is None:
            return False
        self.loader.load_state_dict(progress["data"])
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.unvalidated = progress.get("unvalidated", False)
        return True

    def save(self, score: float | None = None) -> None:
        """Write a checkpoint while training goes on; `score` is its validation's, more is better."""
        progress = {"step": self.step, "seconds": self.seconds, "data": self.loader.state_dict()}
        progress["unvalidated"] = self.unvalidated
        self.checkpoints.save(self.step, self.state, progress, score)

    def export(self, folder: Path) -> None:
        """Write the averaged weights: a pipeline folder, which every command loads, or after LoRA training its file."""
        lora = self.config.model.lora
        with self.ema.applied():
            if lora is not None:
                state = lora_state(self.pipe.transformer, lora)
                with self.parallel.agreed():
                    if is_first():
                        export_lora(self.pipe, state, folder)
            else:
                self._export_pipeline(folder)
        wait_for_all()

    def _export_pipeline(self, folder: Path) -> None:
        parts = self.pipe.components
        sharded: dict[str, Any] = {name: part for name, part in parts.items() if isinstance(part, FSDPModule)}
        copies = {name: whole(part) for name, part in sharded.items()}
        with self.parallel.agreed():
            if is_first():
                self.pipe.register_modules(**copies)
                with written_aside(folder) as aside, quiet_libraries():
                    self.pipe.save_pretrained(aside)
        self.pipe.register_modules(**sharded)

    def train(self) -> None:
        """To the last step, with checkpoints on the way.

        Raises:
            TrainingStoppedError: if a loss or gradient is not finite, or SIGTERM or Ctrl-C arrived.
            InterruptedRunError: for a second Ctrl-C.
            UserError: for a sample that cannot be read, or a full disk. As far as possible, the state before the step
                is saved.
        """
        with self.parallel.agreed():
            log = RunLog(
                self.out,
                step=self.step,
                num_steps=self.config.loop.num_steps,
                log_every=self.config.loop.log_every,
                writes=is_first(),
                unvalidated=self.unvalidated,
            )
        told = "sama: saving after the step under way; Ctrl-C again stops at once" if is_first() else ""
        with log, stop_requests(told) as request:
            self._train(log, request)

    def _train(self, log: RunLog, request: StopRequest) -> None:
        if self.unvalidated:
            self.validate(log)
        saved = time.monotonic()
        batches = self._batches()
        while self.step < self.config.loop.num_steps:
            started = time.monotonic()
            score, place = None, (self.loader.epoch, self.loader.batches_done)
            try:
                with self.parallel.agreed():
                    group = [next(batches) for _ in range(self.config.loop.batches_per_step)]
                metrics = self.train_step(group, waited=time.monotonic() - started)
                self.seconds += metrics.seconds
                place = self.loader.epoch, self.loader.batches_done
                with self.parallel.agreed():
                    log.step(self.step, metrics)
                # Before a checkpoint of the same step: only what says "unvalidated" is validated after resuming.
                if self.validation is not None and self._is_due(self.config.loop.validate_every):
                    self.unvalidated = True
                    if not self.parallel.any(bool(request.number)):  # who waits for the end gets it on resuming
                        score = self.validate(log)
            except (UserError, TrainingStoppedError):
                self.loader.epoch, self.loader.batches_done = place
                self._save_if_sound()
                raise
            due = time.monotonic() - saved > 60 * self.config.loop.save_minutes
            asked = request.number
            due = self.parallel.any(due or bool(asked) or score is not None or self.checkpoints.has_failed)
            if due or self.step == self.config.loop.num_steps:
                self.save(score)
                saved = time.monotonic()
                if asked := max(self.parallel.gather(asked)):
                    self.checkpoints.finish()
                    raise _stopped(signal.Signals(asked), self.step)
        self.checkpoints.finish()

    @contextmanager
    def _encoders_at_hand(self) -> Iterator[None]:
        """On the accelerator inside the block; with a cache training itself does without them there, and the text
        encoder, which is the largest, never comes."""
        cached = self.config.data.cache is not None
        self.encoder.to(self.parallel.device, text=not cached)
        yield
        if cached:
            self.encoder.to(torch.device("cpu"), text=True)

    def _batches(self) -> Iterator[Batch | EncodedBatch]:
        while True:
            yield from self.loader

    def train_step(self, batches: list[Batch | EncodedBatch], waited: float = 0.0) -> StepMetrics:
        """One optimizer step over `batches`, this process's shares of them."""
        started = time.monotonic()
        num_samples = sum(batch.step.num_global for batch in batches)
        sums = torch.zeros(3 + 2 * SIGMA_BINS, dtype=torch.float64)
        num_tokens = sum(self._tokens_of_shape(batch) * batch.step.num_global for batch in batches)
        for number, batch in enumerate(batches):
            for micro in self._micro_batches(batch, number, num_samples):
                output = self.forward_backward(micro)
                sums += weighted_sums(output, micro.weight.cpu())
        sums = self.parallel.sum(sums)
        loss = float(sums[0])
        if not math.isfinite(loss):
            self.optimizer.clear()
            raise TrainingStoppedError(f"the loss of step {self.step} is {loss}; {REMEDY}")
        rate = learning_rate(self.config.optimizer, self.step, self.config.loop.num_steps)
        norm = self.optimizer.step(rate)
        if not norm <= self.config.optimizer.stop_norm:
            raise TrainingStoppedError(f"the gradient's norm in step {self.step} is {norm:.3g}; {REMEDY}")
        self.ema.update(self.step)
        self.step += 1
        flow, counts = sums[3 : 3 + SIGMA_BINS], sums[3 + SIGMA_BINS :]
        return StepMetrics(
            loss=loss,
            flow_loss=float(sums[1]),
            semantic_loss=float(sums[2]) if self.encoder.semantic_encoder is not None else None,
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
        with torch.autocast(self.parallel.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            text = batch.text
            if self.model.text_encoder is not None:
                prompts = [p if keeps else "" for p, keeps in zip(batch.prompts, micro.keeps_text, strict=True)]
                text, _ = self.pipe.encode_prompt(
                    prompts, do_classifier_free_guidance=False, device=self.parallel.device
                )
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
        for piece in pieces(length, size, longest):
            micro = self._encoded(batch, piece.indices)
            places = [(number << 20) + rank + index * world for index in piece.indices]
            drawn = [draw(micro, place, self.config.loop.seed, self.step, self.config.objective) for place in places]
            weights = [0.0 if piece.is_filler else 1 / num_samples] * len(piece.indices)
            yield self._with_draws(micro, drawn, weights)

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
        text = batch.text
        if self.model.text_encoder is None:
            text = torch.where(keeps_text.view(-1, 1, 1), text, self._empty_text)
        return MicroBatch(
            batch=replace(batch, source=source, text=text),
            sigma=torch.stack([one.sigma for one in drawn]).to(device),
            noise=torch.stack([one.noise for one in drawn]).to(device),
            semantic_noise=semantic_noise,
            keeps_text=keeps_text,
            weight=torch.tensor(weights, device=device),
        )

    @cached_property
    def _empty_text(self) -> torch.Tensor:
        return self.encoder.text("").to(self.parallel.device)

    def _encoded(self, batch: Batch | EncodedBatch, indices: list[int]) -> EncodedBatch:
        if isinstance(batch, EncodedBatch):
            return _moved(select(batch, indices), self.parallel.device)
        return self.encoder.encode_batch(select(batch, indices))

    def _tokens_of_shape(self, batch: Batch | EncodedBatch) -> int:
        """Of one sample: source, semantic stream and target."""
        shape = batch.step.shape
        frames = [shape.num_frames]
        if shape.source_frames and self.config.model.source == "token":
            frames.append(shape.source_frames)
        clips = (VideoShape(num_frames=count, height=shape.height, width=shape.width) for count in frames)
        grids = (LatentShape.from_video(clip, self.pipe.vae_scale_factor_spatial) for clip in clips)
        semantic = semantic_tokens(self.pipe.config.num_semantic_tokens, shape.num_frames)
        return semantic + sum(grid.num_tokens() for grid in grids)

    def _save_if_sound(self) -> None:
        """Weights that are not finite themselves would only bury the checkpoints before them."""
        if not self.parallel.any(not self.ema.is_finite()):
            self.save()
            self.checkpoints.finish()

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.loop.num_steps

    def validate(self, log: RunLog) -> float | None:
        """Try the averaged weights on the fixed set; all processes take part, the first writes.

        Returns the PSNR of its edits; None where there are none, without a set, and in the other processes.
        """
        validation = self.validation
        if validation is None:
            return None
        with self.ema.applied(), self._encoders_at_hand():
            sampled = validation.sample(self.model)
            # What the first does alone comes when no other waits for it in the middle of a forward pass.
            report = None
            with self.parallel.agreed():
                if is_first():
                    report = validation.report(self.step, sampled)
                    write_report(report, self.out)
                    log.validation(self.step, report.families)
        self.unvalidated = False
        return None if report is None else report.families.get("all", {}).get("psnr")


def _stopped(asked: signal.Signals, step: int) -> TrainingStoppedError:
    return TrainingStoppedError(
        f"stopped by {NAMES[asked]}; step {step} is saved, `resume` continues from there", exit_code=EXIT_CODES[asked]
    )


def weighted_sums(output: StepOutput, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sums of loss, flow loss, semantic loss; then flow loss and counts by fifth of sigma."""
    flow, sigma = output.flow_loss.detach().cpu().double(), output.sigma.detach().cpu()
    semantic = torch.zeros_like(flow) if output.semantic_loss is None else output.semantic_loss.detach().cpu().double()
    counted = weight > 0
    fifth = (sigma * SIGMA_BINS).long().clamp(0, SIGMA_BINS - 1)[counted]
    by_sigma = torch.zeros(SIGMA_BINS, dtype=torch.float64).index_add_(0, fifth, flow[counted])
    counts = torch.bincount(fifth, minlength=SIGMA_BINS).double()
    means = torch.stack([(values * weight).sum() for values in (output.loss.detach().cpu().double(), flow, semantic)])
    return torch.cat([means, by_sigma, counts])


def _moved(batch: EncodedBatch, device: torch.device) -> EncodedBatch:
    def to(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)

    target, text = batch.target.to(device), batch.text.to(device)
    return replace(batch, target=target, source=to(batch.source), text=text, semantic=to(batch.semantic))
