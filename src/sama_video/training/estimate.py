"""What a run would take, before it runs: tokens, arithmetic, seconds and memory of its steps.

N tokens of a sample `[source | semantic | target]`, d width, f width of the feed-forward, n layers, L text tokens,
P parameters, T of them trained.

Arithmetic of a forward pass, in multiplications and additions:
    matrices    n (12 N d^2 + 4 N d f + 4 L d^2)    four projections of the tokens to themselves and two to the text,
                                                    the feed-forward, keys and values of the text
    attention   n (4 N^2 d + 4 N L d)               scores and weighted sums
The backward pass takes twice that, once for the matrices of a frozen model (LoRA), and gradient checkpointing repeats
the forward pass. Encoders, embeddings and the optimizer are left out.

Memory of a device, with the model spread over k of them:
    (4 P + 4 T gradients + 8 T AdamW (4 where Muon steps, 2 + 1/32 in 8 bits, with a scale for 256 numbers) + 4 T
    average) / k, what is gathered or cast for a forward pass, and activations: 70 d + 4 f bytes per token for a block
    in bfloat16 autocast (89 d + 8 f in float32), for all blocks, or with checkpointing for one and 2 d (4 d in float32)
    for each of the others. Beside adapters, a block's frozen matrices take 2 bytes a parameter in bfloat16. The
    activations' factors were counted with saved-tensor hooks; tests/training/test_estimate.py counts again.

The formulas stay beside `torch.utils.flop_counter`, which agrees to 2e-5 but takes 13 to 23 s for a pass at 14B.
"""

import json
import math
import timeit
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ..models.presets import PRESETS, PipelineSettings, Preset
from ..models.shapes import PATCH, WAN_SPATIAL_FACTOR, LatentShape, VideoShape, frames_of_latents, semantic_tokens
from ..models.transformer_sama import SamaTransformer3DModel
from ..system.errors import UserError
from ..system.precision import Precision, choose_precision
from .config import LoraConfig, ModelConfig, TrainConfig
from .overrides import as_settings
from .preparation import unreached_parts, video_semantic_tokens

_FLOP_UNITS = ((1e9, "GFLOP"), (1e12, "TFLOP"), (1e15, "PFLOP"), (1e18, "EFLOP"))
_TIME_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))
DEFAULT_MFU = 0.4
_USUAL_VAE_FACTOR, _USUAL_TEXT_TOKENS = WAN_SPATIAL_FACTOR, PipelineSettings.max_sequence_length


@dataclass(frozen=True, kw_only=True)
class Device:
    """An accelerator: dense bfloat16 FLOP/s with float32 accumulation, and memory, as its maker states them."""

    name: str
    flops: float
    memory_gib: float | None


DEVICES = {
    "a100-40gb": Device(name="A100 40 GB", flops=312e12, memory_gib=40),
    "a100-80gb": Device(name="A100 80 GB", flops=312e12, memory_gib=80),
    "h100-80gb": Device(name="H100 SXM 80 GB", flops=989e12, memory_gib=80),
    "h200-141gb": Device(name="H200 SXM 141 GB", flops=989e12, memory_gib=141),
    "l40s-48gb": Device(name="L40S 48 GB", flops=362e12, memory_gib=48),
    "rtx4090-24gb": Device(name="RTX 4090 24 GB", flops=165e12, memory_gib=24),
}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What an estimate needs to know of a model.

    Args:
        parameters, trained: of the transformer, and of a text encoder that trains.
        block_matrices: parameters of the blocks' matrices.
        encoder_bytes: frozen encoders in float32; None where nobody knows.
    """

    parameters: int
    trained: int
    block_matrices: int
    width: int
    ffn_width: int
    layers: int
    text_tokens: int
    vae_factor: int
    encoder_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """A step of clips of one length; `flops` of all devices together, `seconds` on them."""

    num_frames: int
    height: int
    width: int
    num_samples: int
    tokens_per_sample: int
    flops: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of one device."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    gathered: float
    activations: float
    encoders: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def find_model_size(config: TrainConfig) -> ModelSize:
    """Of the run's initial model: from its folder, or from a preset where the weights are not here yet.

    Raises:
        UserError: if neither says.
    """
    folder = Path(config.model.init)
    if not (folder / "model_index.json").is_file():
        preset = find_preset(config.model)
        if preset.weights is None:
            return _size(config, dict(preset.transformer), _USUAL_TEXT_TOKENS, preset.spatial_factor, None, 0)
        folder = preset.weights
    text = _count_parameters(folder / "text_encoder")
    trains = config.model.train_text_encoder
    return _size(
        config,
        json.loads((folder / "transformer" / "config.json").read_text()),
        json.loads((folder / "model_index.json").read_text()).get("max_sequence_length", _USUAL_TEXT_TOKENS),
        json.loads((folder / "vae" / "config.json").read_text()).get("scale_factor_spatial", _USUAL_VAE_FACTOR),
        4 * (_count_parameters(folder / "vae") + (0 if trains else text)),
        text if trains else 0,
    )


def find_preset(model: ModelConfig) -> Preset:
    """Of a model that is not here. Raises UserError where its config names none."""
    name = model.init if model.init in PRESETS else model.preset
    if name is None:
        raise UserError(
            f"the size of {model.init} is unknown, since it is no folder here; --set model.preset to one of "
            f"{', '.join(PRESETS)}"
        )
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _count_parameters(folder: Path) -> int:
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def _size(
    config: TrainConfig,
    architecture: dict[str, Any],
    text_tokens: int,
    vae_factor: int,
    encoder_bytes: int | None,
    text_parameters: int,
) -> ModelSize:
    with torch.device("meta"):
        model: Any = SamaTransformer3DModel.from_config(architecture)  # its type says that it might be a tuple
    lora, unreached = config.model.lora, unreached_parts(config.model)
    new = {name: _count(part) for name, part in model.new_parts.items()}
    stock = _count(model) - sum(new.values())
    adapters = 0 if lora is None else _adapter_parameters(model, lora)
    return ModelSize(
        parameters=_count(model) + adapters + text_parameters,
        trained=(stock if lora is None else adapters)
        + sum(count for name, count in new.items() if name not in unreached)
        + text_parameters,
        block_matrices=sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2),
        width=model.config.num_attention_heads * model.config.attention_head_dim,
        ffn_width=model.config.ffn_dim,
        layers=model.config.num_layers,
        text_tokens=text_tokens,
        vae_factor=vae_factor,
        encoder_bytes=encoder_bytes,
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _adapter_parameters(model: SamaTransformer3DModel, lora: LoraConfig) -> int:
    """Of the low-rank matrices beside the target modules."""
    return sum(
        lora.rank * (module.in_features + module.out_features)
        for name, module in model.blocks.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(lora.targets)
    )


def training_flops(size: ModelSize, tokens: int, *, lora: bool, checkpointing: bool) -> float:
    """Arithmetic of one sample's forward and backward pass."""
    n, d, f, text = size.layers, size.width, size.ffn_width, size.text_tokens
    matrices = n * (12 * tokens * d**2 + 4 * tokens * d * f + 4 * text * d**2)
    attention = n * (4 * tokens**2 * d + 4 * tokens * text * d)
    repeated = 1 if checkpointing else 0
    return float((1 + repeated + (1 if lora else 2)) * matrices + (3 + repeated) * attention)


def activation_bytes(size: ModelSize, tokens: int, *, checkpointing: bool, in_bfloat16: bool) -> float:
    """What a forward pass of so many tokens keeps for the backward one."""
    per_d, per_f, per_input = (70, 4, 2) if in_bfloat16 else (89, 8, 4)
    block = tokens * (per_d * size.width + per_f * size.ffn_width)
    if checkpointing:
        return float(block + (size.layers - 1) * tokens * per_input * size.width)
    return float(size.layers * block)


def estimate_steps(
    config: TrainConfig, size: ModelSize, num_devices: int, flops_per_second: float
) -> list[StepEstimate]:
    """One for each length that the data have, in the bucket with the most pixels, with a source as long as the target.

    Args:
        flops_per_second: that a device really reaches: its peak times its use of it (MFU).
    """
    data = config.data
    # Buckets differ by a few tokens; the widest of the largest stands for them all.
    height, width = max(data.buckets(PATCH[1] * size.vae_factor).sizes, key=lambda side: (side[0] * side[1], side[1]))
    steps = []
    for num_frames in _frame_counts(config):
        shape = VideoShape(num_frames=num_frames, height=height, width=width)
        tokens = _tokens(config, LatentShape.from_video(shape, size.vae_factor))
        samples = data.image_batch_size if num_frames == 1 else data.video_batch_size
        samples *= config.loop.batches_per_step
        each = training_flops(
            size,
            tokens,
            lora=config.model.lora is not None,
            checkpointing=config.loop.gradient_checkpointing,
        )
        # Devices take whole samples: the one with the most decides.
        longest = -(-samples // num_devices)
        steps.append(
            StepEstimate(
                num_frames=num_frames,
                height=height,
                width=width,
                num_samples=samples,
                tokens_per_sample=tokens,
                flops=samples * each,
                seconds=longest * each / flops_per_second,
            )
        )
    return steps


def _frame_counts(config: TrainConfig) -> Sequence[int]:
    engines = [dataset.engine for dataset in config.data.datasets]
    made = {shape[0] for engine in engines if engine is not None for shape in engine.shapes}
    return sorted(made) if None not in engines else config.data.frame_counts


def _tokens(config: TrainConfig, grid: LatentShape) -> int:
    streams = 2 if config.model.source == "token" else 1
    of_video = video_semantic_tokens(config.model, config.objective)
    semantic = semantic_tokens(of_video, frames_of_latents(grid.frames), config.objective.semantic_grid)
    return streams * grid.num_tokens() + semantic


def estimate_memory(
    config: TrainConfig, size: ModelSize, num_devices: int, steps: list[StepEstimate]
) -> MemoryEstimate:
    """Of one device, in the step that takes most; `config` with its precision decided."""
    in_bfloat16 = config.loop.precision == "bfloat16"
    shards = min(config.parallel.shard_size or num_devices, num_devices)
    # A forward pass holds as many samples as fit into `micro_tokens`, and one at least.
    micro = max(
        min(-(-step.num_samples // num_devices), max(1, config.loop.micro_tokens // step.tokens_per_sample))
        * step.tokens_per_sample
        for step in steps
    )
    halved = size.block_matrices if in_bfloat16 and config.model.lora is not None else 0
    bytes_cast = 2 if in_bfloat16 else 4
    if shards > 1:
        gathered = 2 * bytes_cast * size.block_matrices / size.layers  # a block, and the next one on its way
    else:
        gathered = 2 * (size.parameters - halved) if in_bfloat16 else 0  # autocast keeps what it has cast
    # Beside adapters, Muon's matrices are theirs.
    stepped_by_muon = min(size.block_matrices, size.trained) if config.optimizer.kind == "muon" else 0
    adamw = 2 + 8 / 256 if config.optimizer.kind == "adamw8bit" else 8
    return MemoryEstimate(
        weights=(4 * size.parameters - 2 * halved) / shards,
        gradients=4 * size.trained / shards,
        optimizer=(adamw * size.trained - 4 * stepped_by_muon) / shards,
        average=4 * size.trained / shards,
        gathered=gathered,
        activations=activation_bytes(
            size, micro, checkpointing=config.loop.gradient_checkpointing, in_bfloat16=in_bfloat16
        ),
        encoders=0 if config.data.cache else size.encoder_bytes or 0,
    )


def _measure_device(config: TrainConfig) -> Device:
    """This machine's: FLOP/s of a product of two matrices in the run's precision."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 1024
    dtype = torch.bfloat16 if config.loop.precision == "bfloat16" else torch.float32
    matrix = torch.randn(side, side, device=device).to(dtype)
    # Reading a value waits for the device.
    fastest = min(timeit.repeat(lambda: float((matrix @ matrix)[0, 0]), number=1, repeat=4))
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if device == "cuda" else None
    name = torch.cuda.get_device_name(0) if device == "cuda" else "this CPU"
    return Device(name=f"{name} (measured)", flops=2 * side**3 / fastest, memory_gib=memory)


def _find_device(config: TrainConfig, name: str) -> Device:
    """Raises UserError for an unknown name; "auto" measures this machine."""
    if name == "auto":
        return _measure_device(config)
    if name not in DEVICES:
        raise UserError(f"unknown device {name!r}: use auto or one of {', '.join(DEVICES)}")
    return DEVICES[name]


def describe_stages(stages: Sequence[TrainConfig], **options: Any) -> list[str]:
    """The whole config of every stage, as `--set` takes it, and its estimates; `options` are those of `describe`.

    Raises:
        UserError: as `describe`.
    """
    lines, init = [], stages[0].model.init
    for stage in stages:
        init = init if stage.model.init == "previous" else stage.model.init
        lines += [f"# {stage.name}", *as_settings(stage), "", *describe(stage.started_from(init), **options), ""]
    return lines


def describe(
    config: TrainConfig,
    *,
    device: str = "auto",
    num_devices: int = 1,
    mfu: float = DEFAULT_MFU,
    peak_tflops: float | None = None,
) -> list[str]:
    """The estimates of a stage as lines.

    Args:
        device: name in `DEVICES`, or "auto".
        mfu: fraction of the peak that a step reaches; assumed.
        peak_tflops: instead of the device's.

    Raises:
        UserError: for an unknown device or model size, or numbers that make no sense.
    """
    if num_devices < 1 or not 0 < mfu <= 1 or (peak_tflops is not None and peak_tflops <= 0):
        raise UserError("`num_devices` must be at least 1, `mfu` above 0 and at most 1, `peak_tflops` above 0")
    precision = _precision_on(config, device)
    config = config.with_precision(precision)
    size, found = find_model_size(config), _find_device(config, device)
    peak = found.flops if peak_tflops is None else peak_tflops * 1e12
    steps = estimate_steps(config, size, num_devices, mfu * peak)
    seconds = [step.seconds * config.loop.num_steps for step in steps]
    shortest, longest = (_scaled(limit, _TIME_UNITS) for limit in (min(seconds), max(seconds)))
    memory = estimate_memory(config, size, num_devices, steps)
    return [
        f"model     {size.parameters:,} parameters, {size.trained:,} of them trained",
        f"devices   {num_devices} x {found.name}, {peak / 1e12:,.3g} TFLOP/s each, {mfu:.0%} of it assumed to be used",
        f"precision {precision}",
        *(
            f"step      {step.num_frames:3d} frames {step.width}x{step.height}: {step.num_samples} samples x "
            f"{step.tokens_per_sample:,} tokens = {step.num_samples * step.tokens_per_sample:,} tokens, "
            f"{_scaled(step.flops, _FLOP_UNITS)}, {_scaled(step.seconds, _TIME_UNITS)}"
            for step in steps
        ),
        f"run       {config.loop.num_steps:,} steps: {shortest} to {longest}, by how many are of which length",
        *_memory_lines(config, memory, size, found),
    ]


def _precision_on(config: TrainConfig, device: str) -> Precision:
    """What the run would compute in. "auto" is asked for this machine; the listed devices are all fast in bfloat16.

    A name that is not listed is refused later.
    """
    here = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = config.loop.precision
    return choose_precision(here, wanted) if device == "auto" or wanted != "auto" else "bfloat16"


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """In the largest unit of which it is at least one, else in the first."""
    scale, name = next((unit for unit in reversed(units) if value >= unit[0]), units[0])
    return f"{value / scale:,.3g} {name}"


def _memory_lines(config: TrainConfig, memory: MemoryEstimate, size: ModelSize, device: Device) -> list[str]:
    gib = {name: value / 2**30 for name, value in vars(memory).items()}
    parts = ", ".join(f"{name} {value:.3g}" for name, value in gib.items())
    lines = [f"memory    {memory.total / 2**30:.3g} GiB a device: {parts}"]
    if size.encoder_bytes is None and not config.data.cache:
        lines.append(
            "          without autoencoder and text encoder, whose files are not here; data.cache does without"
        )
    loaded = 4 * size.parameters + (size.encoder_bytes or 0)
    lines.append(
        f"host      {loaded / 2**30:.3g} GiB a process while it loads: all in float32"
        + (", and autoencoder and text encoder" if size.encoder_bytes is None else "")
    )
    if device.memory_gib is not None and memory.total / 2**30 > device.memory_gib:
        lines.append(
            f"          more than its {device.memory_gib:.0f} GiB: use more devices, loop.gradient_checkpointing=true, "
            "a smaller loop.micro_tokens, shorter data.frame_counts or a LoRA recipe"
        )
    return lines
