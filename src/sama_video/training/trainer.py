"""The training loop: data -> encoders -> objective -> optimizer -> average -> checkpoint.

One process or many run the same code; with many the parameters are sharded (FSDP2), see `parallel.py`. Frozen parts
(autoencoder, text encoder unless it trains, SigLIP) only encode, one sample at a time, so that a cache gives the same.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from ..data.samples import Batch
from ..models.strict_loading import quiet_libraries
from ..system.errors import UserError
from ..system.files import written_aside
from ..system.precision import Precision
from .adapters import export_lora, lora_state
from .attention import PlainAttention
from .checkpoint import Checkpoints, training_state
from .config import TrainConfig
from .distillation import Streams, distillation_step
from .ema import Ema
from .interrupts import EXIT_CODES, NAMES, StopRequest, stop_requests
from .logs.runlog import RunLog, StepMetrics
from .losses import StepOutput, flow_matching_step
from .micro_batches import MicroBatch, MicroBatches
from .optimizer import Optimizer, learning_rate
from .parallel import Parallel, is_first, settle_precision, wait_for_all, whole
from .setup import build_loader, load_models
from .validation import Validation, write_result

SIGMA_BINS = 5
_REMEDY = "use `resume` with a lower optimizer.learning_rate (--set), or look at the data"


class TrainingStoppedError(Exception):
    """The run ends early: a loss that is not finite, exploding gradients, SIGTERM, Ctrl-C. State is saved.

    Args:
        exit_code: of the command; 130 for Ctrl-C.
    """

    def __init__(self, message: str, *, exit_code: int = 3):
        super().__init__(message)
        self.exit_code = exit_code


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
        models = load_models(config, parallel)
        self.pipe, self.model, self.encoder, self.teacher = models.pipe, models.model, models.encoder, models.teacher
        self.loader = build_loader(config, parallel, self.encoder, out)
        self.micro_batches = MicroBatches(config, parallel, self.encoder)
        self.optimizer = Optimizer(self.model, config.optimizer, self.precision)
        self.ema = Ema(self.model, config.loop.ema_decay, warmup=config.loop.ema_warmup)
        self.state = training_state(self.ema, self.optimizer)
        self.checkpoints = Checkpoints(out, parallel, config.loop.keep_checkpoints)
        self.step = 0
        self.seconds = 0.0
        self.unvalidated = False  # whether the validation of `step` is still to be made
        self.validation = None
        if config.loop.validate_every:  # here, so that a set that cannot be used is no surprise after hours
            with parallel.agreed(), self._encoders_at_hand():
                self.validation = Validation(config, self.encoder)

    @property
    def precision(self) -> Precision:
        assert self.config.loop.precision != "auto"
        return self.config.loop.precision

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
                tracking=self.config.logging,
                settings=asdict(self.config),
            )
        told = "sama: saving after the step under way; Ctrl-C again stops at once" if is_first() else ""
        with log, stop_requests(told) as request:
            self._train(log, request)

    def _train(self, log: RunLog, request: StopRequest) -> None:
        # A step, and a checkpoint where one is due. What decides about either is agreed on by all processes first: one
        # that left the loop alone would leave the others waiting in a sum.
        if self.unvalidated:
            self.validate(log)
        saved = time.monotonic()
        batches = self._batches()
        while self.step < self.config.loop.num_steps:
            score = self._step(batches, log, request)
            # Processes measure time, hear of signals and find a full disk by themselves, but save together.
            asked = request.number
            due = time.monotonic() - saved > 60 * self.config.loop.save_minutes or bool(asked) or score is not None
            due = self.parallel.any(due or self.checkpoints.has_failed)
            if due or self.step == self.config.loop.num_steps:
                self.save(score)
                saved = time.monotonic()
                if asked := max(self.parallel.gather(asked)):
                    self.checkpoints.finish()
                    raise TrainingStoppedError(
                        f"stopped by {NAMES[asked]}; step {self.step} is saved, `resume` continues from there",
                        exit_code=EXIT_CODES[asked],
                    )
        self.checkpoints.finish()

    def _step(self, batches: Iterator[Batch], log: RunLog, request: StopRequest) -> float | None:
        """Data, one optimizer step, its line in the log, and its validation if that is due, whose score is returned."""
        started = time.monotonic()
        done = self.loader.epoch, self.loader.batches_done
        try:
            with self.parallel.agreed():
                group = [next(batches) for _ in range(self.config.loop.batches_per_step)]
            metrics = self.train_step(group, waited=time.monotonic() - started)
            self.seconds += metrics.seconds
            done = self.loader.epoch, self.loader.batches_done
            with self.parallel.agreed():
                log.step(self.step, metrics)
            # Before a checkpoint of the same step: only what says "unvalidated" is validated after resuming.
            is_last = self.step == self.config.loop.num_steps
            if self.validation is not None and (is_last or self.step % self.config.loop.validate_every == 0):
                self.unvalidated = True
                if not self.parallel.any(bool(request.number)):  # who waits for the end gets it on resuming
                    return self.validate(log)
        except (UserError, TrainingStoppedError):
            # The batches of a step that was not made have to come again.
            self.loader.epoch, self.loader.batches_done = done
            self._save_if_sound()
            raise
        return None

    @contextmanager
    def _encoders_at_hand(self) -> Iterator[None]:
        """On the accelerator inside the block; with a cache training itself does without them there, and the text
        encoder, which is the largest, never comes."""
        cached = self.config.data.cache is not None
        self.encoder.to(self.parallel.device, text=not cached)
        yield
        if cached:
            self.encoder.to(torch.device("cpu"), text=True)

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield from self.loader

    def train_step(self, batches: list[Batch], waited: float = 0.0) -> StepMetrics:
        """One optimizer step over `batches`, this process's portions of them."""
        started = time.monotonic()
        # Sums over this process's samples, then over all: every process logs and judges the same numbers.
        sums = torch.zeros(3 + 2 * SIGMA_BINS, dtype=torch.float64)
        for micro in self.micro_batches.of_step(batches, self.step):
            sums += weighted_sums(self.forward_backward(micro), micro.weight.cpu())
        sums = self.parallel.sum(sums)
        loss = float(sums[0])
        if not math.isfinite(loss):
            self.optimizer.clear()
            raise TrainingStoppedError(f"the loss of step {self.step} is {loss}; {_REMEDY}")
        rate = learning_rate(self.config.optimizer, self.step, self.config.loop.num_steps)
        norm = self.optimizer.step(rate)  # over all processes: they stop together, or none does
        if not norm <= self.config.optimizer.stop_norm:
            raise TrainingStoppedError(f"the gradient's norm in step {self.step} is {norm:.3g}; {_REMEDY}")
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
            num_samples=sum(batch.num_global for batch in batches),
            num_tokens=sum(self.micro_batches.tokens_of_sample(batch) * batch.num_global for batch in batches),
            seconds=time.monotonic() - started + waited,
            waited=waited,
        )

    def forward_backward(self, micro: MicroBatch) -> StepOutput:
        """Gradients of one micro-batch, added to those that are there."""
        batch = micro.batch
        in_bfloat16, device = self.precision == "bfloat16", self.parallel.device.type
        # Not where the backward pass computes the forward one again: no mode of torch's functions counts there.
        is_plain = in_bfloat16 and device == "cpu" and not self.config.loop.gradient_checkpointing
        plain = PlainAttention() if is_plain else nullcontext()
        with torch.autocast(device, torch.bfloat16, enabled=in_bfloat16):
            text = batch.text
            if text is None:
                prompts = [p if keeps else "" for p, keeps in zip(batch.prompts, micro.keeps_text, strict=True)]
                text, _ = self.pipe.encode_prompt(
                    prompts, do_classifier_free_guidance=False, device=self.parallel.device
                )
            with plain:
                output = self._objective(micro, text)
        # Sharded training averages gradients over processes; the weights already divide by all samples.
        (self.parallel.world_size * (output.loss * micro.weight).sum()).backward()
        return output

    def _objective(self, micro: MicroBatch, text: torch.Tensor) -> StepOutput:
        objective, batch = self.config.objective, micro.batch
        source = None if batch.source is None else batch.source.float()
        semantic = None if batch.semantic is None else batch.semantic.float()
        if self.teacher is not None:
            return distillation_step(
                self.pipe.transformer,
                self.teacher,
                target=Streams(batch.target.float(), semantic),
                noise=Streams(micro.noise, micro.semantic_noise),
                sigma=micro.sigma,
                source=source,
                text=text,
                empty_text=self.micro_batches.empty_text,
                semantic_weight=objective.semantic_weight,
            )
        return flow_matching_step(
            self.pipe.transformer,
            target=batch.target.float(),
            source=source,
            text=text,
            sigma=micro.sigma,
            noise=micro.noise,
            semantic=semantic,
            semantic_noise=micro.semantic_noise,
            semantic_weight=objective.semantic_weight,
            semantic_target=objective.semantic_target,
        )

    def _save_if_sound(self) -> None:
        """Weights that are not finite themselves would only bury the checkpoints before them."""
        if not self.parallel.any(not self.ema.is_finite()):
            self.save()
            self.checkpoints.finish()

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
            result = None
            with self.parallel.agreed():
                if is_first():
                    result = validation.score(self.step, sampled)
                    log.validation(self.step, result.families, write_result(result, self.out))
        self.unvalidated = False
        return None if result is None else result.families.get("all", {}).get("psnr")


def weighted_sums(output: StepOutput, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sums of loss, flow loss, semantic loss; then flow loss and counts by fifth of sigma."""
    flow, sigma = output.flow_loss.detach().cpu().double(), output.sigma.detach().cpu()
    semantic = torch.zeros_like(flow) if output.semantic_loss is None else output.semantic_loss.detach().cpu().double()
    counted = weight > 0
    fifth = (sigma * SIGMA_BINS).long().clamp(0, SIGMA_BINS - 1)[counted]
    by_sigma = torch.zeros(SIGMA_BINS, dtype=torch.float64).index_add_(0, fifth, flow[counted])
    counts = torch.bincount(fifth, minlength=SIGMA_BINS).double()
    # Means are sums here, since a weight is 1 / (samples of the step); fifths count what fell into them.
    means = torch.stack([(values * weight).sum() for values in (output.loss.detach().cpu().double(), flow, semantic)])
    return torch.cat([means, by_sigma, counts])
