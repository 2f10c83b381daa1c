"""What a training run is, as data: small frozen configs beside the parts that they configure, one that holds them all.

The paper (section 4.1) gives the learning rate of 2e-5, batches of 448 images and 112 videos, the average's decay of
0.9998, lambda = 0.1, N = 1 anchor frame, the aspect ratios, 480p and the pretext tasks' ratio. Every other default is
ours: warm-up, betas, weight decay, clipping, dropout, how sigma is drawn, lengths, numbers of steps, and all of the
nano's and of LoRA. `recipes.py` has the runs by name, `settings.py` reads and changes them. The config is saved in
every run's folder.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from ..data.buckets import ASPECT_RATIOS, FRAME_COUNTS, Buckets
from ..models.shapes import SEMANTIC_GRID, wrong_num_frames
from ..synth.edits import FAMILIES
from ..system.errors import UserError
from ..system.precision import Precision, PrecisionOrAuto
from ..system.strict import Strict

_INF = float("inf")
_LARGEST = 1e9  # of a number that must be finite
_MOST_WORKERS = 256
_SEMANTIC_GRIDS = (4, 6, 8)
_SMALLEST_SIDE = 16  # of the engine's pictures: the least that any model's patches divide


def _pairs(columns: Any) -> Any:
    """A mapping, as one writes it in a file, as FIELD=COLUMN."""
    return [f"{name}={column}" for name, column in columns.items()] if isinstance(columns, dict) else columns


# FIELD=COLUMN of manifests whose columns no layout knows: source, target, prompt and the others of `data.manifest`.
Columns = Annotated[tuple[str, ...], BeforeValidator(_pairs)]


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Strict):
    """Samples of the synthetic engine, made on the fly.

    Args:
        num_samples: of an epoch at weight 1.
        shapes: (frames, height, width) that samples take in turn.
        text_to_video: captioned clips for the pretext tasks instead of edits.
        vocabulary: names of the things that are drawn; empty for all that there are.
        images, videos: folders of backgrounds; without them textures alone.
    """

    num_samples: int
    shapes: tuple[tuple[int, int, int], ...]
    text_to_video: bool = False
    seed: int = 0
    families: tuple[str, ...] = tuple(FAMILIES)
    loose: float = 0.1
    vocabulary: tuple[str, ...] = ()
    images: str | None = None
    videos: str | None = None

    def __post_init__(self) -> None:
        _check_ranges("engine", self, num_samples=(1, _INF), seed=(0, _INF), loose=(0, 1))
        _check_families("engine", self.families)
        if not self.shapes:
            raise UserError("engine.shapes must not be empty; give FRAMESxHEIGHTxWIDTH, such as 9x128x128")
        for frames, height, width in self.shapes:
            if frames < 1 or min(height, width) < _SMALLEST_SIDE:
                raise UserError(
                    f"engine.shapes must have 1 frame and sides of {_SMALLEST_SIDE} or more, got "
                    f"{frames}x{height}x{width}"
                )


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Strict):
    """One part of the mixture: a manifest (with `catalogue` in a public dataset's own columns) or the engine.

    `--set data.datasets=a.csv,b.csv` is a mixture of manifests under their own names.

    Args:
        weight: how often an epoch holds each sample.
        columns: FIELD=COLUMN of this manifest, instead of those of `DataConfig`.
    """

    name: str
    weight: float = 1.0
    manifest: str | None = None
    catalogue: str | None = None
    columns: Columns = ()
    engine: EngineConfig | None = None

    def __post_init__(self) -> None:
        if (self.manifest is None) == (self.engine is None):
            raise UserError(f"dataset {self.name} needs a manifest or an engine, and not both")
        if not 0 < self.weight < _INF:
            raise UserError(
                f"the weight of dataset {self.name} must be above 0, got {self.weight}; leave it out instead"
            )


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Strict):
    """The fixed set that a run is tried on every `loop.validate_every` steps, with the averaged weights.

    Args:
        columns: as in `DatasetConfig`.
        manifest: held-out pairs, with masks if there are any; None: the engine's validation split, whose targets and
            masks are exact. With `data.pretext`, captioned clips become one case for each pretext task.
        clips: manifest of clips and prompts that are edited beside those, each of its rows; targets, if there are any,
            are compared with.
        num_samples: of each family and each pretext task; rows from the beginning of a manifest. 0: `clips` alone.
        size: height and width, of `clips` the area; num_frames: 4k+1, the longest of a manifest's.
        num_inference_steps: of the sampler.
        families: of the engine.
    """

    manifest: str | None = None
    columns: Columns = ()
    clips: str | None = None
    num_samples: int = 1
    size: tuple[int, int] = (480, 832)
    num_frames: int = 33
    num_inference_steps: int = 10
    families: tuple[str, ...] = tuple(FAMILIES)

    def __post_init__(self) -> None:
        if problem := wrong_num_frames(self.num_frames):
            raise UserError(f"data.validation.num_frames {problem}")
        fewest = 1 if self.clips is None else 0
        if len(self.size) != 2 or min(self.num_inference_steps, *self.size) < 1 or self.num_samples < fewest:
            raise UserError(
                "data.validation takes a size HEIGHT,WIDTH, one step or more, and one sample or more, or "
                "data.validation.clips"
            )
        _check_families("data.validation", self.families)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Strict):
    """The mixture and its batches.

    Args:
        columns: FIELD=COLUMN of all manifests that have none of their own, such as source=before,target=after; in a
            file also a mapping. A dataset of the catalogue has its own.
        area: pixels of a frame, at every aspect ratio.
        image_batch_size, video_batch_size: samples of an optimizer step over all processes.
        pretext: Motion Alignment (section 3.3); without it captioned clips are plain text-to-video.
        shuffle_keeps_last_frame: tube shuffle leaves the last of 4k+1 frames in its place, so that tubes move in time;
            false cuts all frames into halves that differ by one, between which nothing moves.
        echo: optimizer steps that use each batch of an epoch, each with other noise and 64 new batches after the last;
            for the engine, which takes as long over a sample as a small model. Encoded batches stay in memory for it.
        num_workers: processes that read ahead; prefetch_factor: steps that each of them holds ready in shared memory.
        cache: folder that `sama data cache` fills for this config; the encoders then stay off the accelerator.
        cache_dtype: of the encoders that fill it; "auto" is what is fast where it is begun, and stays.
        pretext_variants: versions of each sample (temporal crop, pretext task) that the epochs take in turn; None: new
            ones in every epoch, from a cache one.
        validation: what the run is tried on.
    """

    datasets: tuple[DatasetConfig, ...]
    columns: Columns = ()
    area: int = 480 * 832
    frame_counts: tuple[int, ...] = FRAME_COUNTS
    aspect_ratios: tuple[float, ...] = ASPECT_RATIOS
    image_batch_size: int = 448
    video_batch_size: int = 112
    pretext: bool = True
    shuffle_keeps_last_frame: bool = True
    echo: int = 1
    num_workers: int = 4
    prefetch_factor: int = 1
    cache: str | None = None
    cache_dtype: PrecisionOrAuto = "auto"
    pretext_variants: int | None = None
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        at_least_1 = ("area", "image_batch_size", "video_batch_size", "echo", "prefetch_factor")
        _check_ranges("data", self, **dict.fromkeys(at_least_1, (1, _INF)), num_workers=(0, _MOST_WORKERS))
        if self.pretext_variants is not None:
            _check_ranges("data", self, pretext_variants=(1, _INF))
        if not (self.datasets and self.aspect_ratios):
            raise UserError("data.datasets and data.aspect_ratios must not be empty")
        if not all(1 / 16 <= ratio <= 16 for ratio in self.aspect_ratios):
            raise UserError(
                f"data.aspect_ratios (height / width) must be between 1/16 and 16, got {self.aspect_ratios}"
            )
        names = [dataset.name for dataset in self.datasets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"data.datasets holds {twice[0]!r} twice; give each dataset a name of its own")
        try:
            self.buckets(pixel_multiple=1)
        except ValueError as error:
            raise UserError(f"data.{error}") from error

    @property
    def num_variants(self) -> int | None:
        """`pretext_variants`, with what None means for a cache."""
        return 1 if self.cache is not None and self.pretext_variants is None else self.pretext_variants

    def buckets(self, pixel_multiple: int) -> Buckets:
        return Buckets(
            area=self.area,
            pixel_multiple=pixel_multiple,
            frame_counts=self.frame_counts,
            aspect_ratios=self.aspect_ratios,
        )


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Strict):
    """Low-rank adapters instead of full training. Type embeddings and semantic parts are always trained in full."""

    rank: int = 64
    alpha: int = 64
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")

    def __post_init__(self) -> None:
        _check_ranges("model.lora", self, rank=(1, _INF), alpha=(1, _INF))
        if not self.targets:
            raise UserError("model.lora.targets must not be empty; name modules such as to_q,to_k")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Strict):
    """What is trained.

    Args:
        init: pipeline folder, preset with weights or hub id; "previous" is the result of the stage before.
        semantic_encoder: SigLIP folder or hub id, "nano" for the one that ships; None: no Semantic Anchoring.
        roles: how tokens of source and target are told apart: by "type" embeddings (section 3.1) or by "shifted_rope"
            (Table 6).
        source: "token" puts the source into the sequence, "channel" beside the noisy latents.
        source_attention: "full", or "self": tokens of the source see one another alone, and samplers compute them once.
        train_text_encoder: only for the nano, whose text encoder nobody trained before.
        preset: size of `init`, for estimates while its weights are not here.
    """

    init: str
    semantic_encoder: str | None = None
    roles: Literal["type", "shifted_rope"] = "type"
    source: Literal["token", "channel"] = "token"
    source_attention: Literal["full", "self"] = "full"
    train_text_encoder: bool = False
    lora: LoraConfig | None = None
    preset: str | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Strict):
    """Eqs. 1 and 3 to 5.

    Args:
        semantic_weight: lambda.
        semantic_target: "velocity", what the released weights' sampling implies, or "clean", as Eq. 3 reads; see
            docs/decisions/semantic-target.md.
        num_anchors: N frames of a video.
        semantic_grid: regions a side of an anchor frame, 4, 6 or 8, one local semantic token each. The paper pools
            SigLIP's patches to M region tokens and a global one (section 3.2) and fixes M = 64 (section 4.1), a grid of
            8: 65 tokens per anchor, as in the released weights. 4 and 6 have 17 and 37.
        sigma_sampling: sigmas before the shift, see docs/decisions/sigma-sampling.md.
        sigma_shift: moves them towards noise, as the sampler's shift does.
        text_dropout, source_dropout: fraction of samples that train without, for guidance.
    """

    semantic_weight: float = 0.1
    semantic_target: Literal["velocity", "clean"] = "velocity"
    num_anchors: int = 1
    semantic_grid: int = SEMANTIC_GRID
    sigma_sampling: Literal["logit_normal", "uniform"] = "logit_normal"
    sigma_shift: float = 5.0
    text_dropout: float = 0.1
    source_dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_ranges("objective", self, semantic_weight=(0, _LARGEST), num_anchors=(1, _INF), text_dropout=(0, 1))
        _check_ranges("objective", self, source_dropout=(0, 1), sigma_shift=(1e-3, _LARGEST))
        if self.semantic_grid not in _SEMANTIC_GRIDS:
            raise UserError(f"objective.semantic_grid must be 4, 6 or 8, got {self.semantic_grid}")


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(Strict):
    """Few steps without guidance, learned from what the model itself does in many with it: see `distillation.py`.

    Args:
        num_inference_steps: of the result.
        teacher_steps: of the teacher, for each of these.
        guidance_scale: of the teacher.
        everywhere: learn at any sigma, or only at those that the result's sampler asks for.
    """

    num_inference_steps: int = 4
    teacher_steps: int = 4
    guidance_scale: float = 5.0
    everywhere: bool = False

    def __post_init__(self) -> None:
        _check_ranges("distillation", self, num_inference_steps=(1, 1000), teacher_steps=(1, 1000))
        _check_ranges("distillation", self, guidance_scale=(1, _LARGEST))


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Strict):
    """AdamW; "adamw8bit": AdamW of bitsandbytes, whose moments take a quarter of the memory; or "muon": Muon on the
    blocks' matrices and AdamW at `adamw_share` of the rate on all else.

    The rate rises over `warmup_steps`, then goes in a straight line to `final_learning_rate` at the last step.

    Args:
        max_grad_norm: gradients are scaled down to it.
        stop_norm: a gradient whose norm before that is above it stops the run.
    """

    kind: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    learning_rate: float = 2e-5
    final_learning_rate: float = 2e-5
    adamw_share: float = 0.4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 200
    max_grad_norm: float = 1.0
    stop_norm: float = 1e4

    def __post_init__(self) -> None:
        rates = ("learning_rate", "final_learning_rate", "adamw_share", "weight_decay", "warmup_steps")
        _check_ranges("optimizer", self, **dict.fromkeys(rates, (0, _LARGEST)))
        _check_ranges("optimizer", self, max_grad_norm=(1e-9, _INF), stop_norm=(1e-9, _INF))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas must be at least 0 and below 1, got {self.betas}")


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Strict):
    """The loop around the objective.

    Args:
        num_steps: optimizer steps.
        micro_tokens: at most so many tokens of source, semantic stream and target in one forward pass.
        batches_per_step: batches of the loader whose gradients one optimizer step takes together.
        precision: autocast of the forward pass, and Muon's iterations; weights stay float32. "auto" is bfloat16 where
            it is fast, decided when the run begins.
        save_minutes: checkpoint that often; also after a validation and at the end.
        keep_checkpoints: newest ones that stay, beside the one with the best validation.
        log_every: steps between lines on the console; metrics.jsonl has every step.
        validate_every: steps between validations, the last step is one too; 0: none.
        ema_warmup: the average's decay grows with the steps, up to `ema_decay`: for runs that are too short to forget
            where they began.
    """

    num_steps: int
    micro_tokens: int = 40_000
    batches_per_step: int = 1
    precision: PrecisionOrAuto = "auto"
    gradient_checkpointing: bool = True
    compile: bool = False
    ema_decay: float = 0.9998
    ema_warmup: bool = False
    seed: int = 0
    log_every: int = 10
    validate_every: int = 500
    save_minutes: float = 20.0
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        counts = ("num_steps", "micro_tokens", "batches_per_step", "log_every", "keep_checkpoints")
        _check_ranges("loop", self, **dict.fromkeys(counts, (1, _INF)))
        _check_ranges("loop", self, validate_every=(0, _INF), seed=(0, _INF), save_minutes=(0, _INF), ema_decay=(0, 1))


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Strict):
    """How processes share the work: parameters sharded over groups of `shard_size`, copies across groups (HSDP).

    Args:
        shard_size: processes that share one copy of the model; 0 takes all.
        timeout_minutes: how long a process waits for the others before the run is given up.
    """

    shard_size: int = 0
    timeout_minutes: float = 30.0

    def __post_init__(self) -> None:
        _check_ranges("parallel", self, shard_size=(0, _INF), timeout_minutes=(1e-3, 1e6))


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Strict):
    """Where a run shows its curves and pictures, beside the files in its folder.

    Args:
        trackers: TensorBoard, where it is installed; wandb and trackio must be.
        project: that runs stand under in wandb and trackio.
    """

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    project: str = "sama"

    def __post_init__(self) -> None:
        if not self.project:
            raise UserError("logging.project must not be empty; it names the project of wandb and trackio")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Strict):
    """A run."""

    name: str
    model: ModelConfig
    data: DataConfig
    loop: LoopConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    distillation: DistillationConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        if self.model.source == "channel" and self.data.pretext:
            raise UserError(
                "a source beside the latents must be as long as the target, which speed perturbation's is not; set "
                "data.pretext=false or model.source=token"
            )
        if self.model.source == "channel" and self.model.source_attention == "self":
            raise UserError(
                "model.source_attention=self is for sources that come as tokens; set model.source=token or "
                "model.source_attention=full"
            )
        if self.distillation is not None and self.model.train_text_encoder:
            raise UserError("a teacher and its student read the same text; set model.train_text_encoder=false")
        if self.model.train_text_encoder and self.data.cache:
            raise UserError("a text encoder that trains cannot be cached; unset data.cache or model.train_text_encoder")

    def with_precision(self, precision: Precision) -> "TrainConfig":
        """The same run in a precision that is decided."""
        return self.changed(loop={"precision": precision})

    def started_from(self, init: str) -> "TrainConfig":
        """The same run from another model."""
        return self.changed(model={"init": init})

    def changed(self, **parts: dict[str, Any]) -> "TrainConfig":
        """The same run with other values in its parts, such as `loop={"num_steps": 3}`."""
        return replace(self, **{name: replace(getattr(self, name), **values) for name, values in parts.items()})


def _check_ranges(part: str, config: Any, **ranges: tuple[float, float]) -> None:
    """Raises UserError for a value outside of its (lowest, highest), naming both."""
    for name, (lowest, highest) in ranges.items():
        value = getattr(config, name)
        if not lowest <= value <= highest:
            bounds = f"at most {highest:g}" if value > highest else f"at least {lowest}"
            bounds = f"between {lowest} and {highest}" if highest == 1 else bounds
            raise UserError(f"{part}.{name} must be {bounds}, got {value}")


def _check_families(part: str, families: tuple[str, ...]) -> None:
    unknown = sorted(set(families) - FAMILIES.keys())
    if unknown or not families:
        raise UserError(f"{part}.families must be among {', '.join(FAMILIES)}, got {unknown or 'none'}")
