"""Model sizes by name, with the parameter counts they must have and the settings they were trained for.

A preset says how large a model is. Weights come from a folder or a hub id; only `nano` ships with the package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from ..system.data_files import table_beside
from ..system.errors import UserError
from .peak_memory import PartSizes, Work, demand_of, width_of
from .shapes import (
    PATCH,
    SEMANTIC_GRID,
    WAN_SPATIAL_FACTOR,
    LatentShape,
    VideoShape,
    fit_size,
    nearest_multiple,
    semantic_tokens,
)

ASSETS = Path(__file__).parent.parent / "assets"
NANO_SIGLIP = ASSETS / "nano_siglip"


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """What a pipeline's `model_index.json` says beside its parts. These defaults are the released model's.

    Args:
        prompt_prefix: put before prompt and negative prompt; the released weights expect `"[Video edit] "`.
        max_sequence_length: text tokens, padded with zeros.
        num_semantic_tokens: tokens of the semantic stream of a video, for each anchor frame the square of the
            transformer's `semantic_grid` and a global one (65); 0 without.
        native_area, native_num_frames: pixels per frame and frames (4k+1) that the model was trained at.
        default_num_inference_steps, default_guidance_scale, default_flow_shift: of a call that does not say.
        trained_for: what the model was taught, see `pipelines/scope.py`; empty if nobody says.
    """

    prompt_prefix: str = "[Video edit] "
    max_sequence_length: int = 512
    num_semantic_tokens: int = 65
    native_area: int = 480 * 832
    native_num_frames: int = 81
    default_num_inference_steps: int = 50
    default_guidance_scale: float = 5.0
    default_flow_shift: float = 5.0
    # Not compared: a model of the same size may have been trained for something else.
    trained_for: Mapping[str, Sequence[str]] | None = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, index: Mapping[str, Any], **more: Any) -> Self:
        """From a `model_index.json`; what it does not say is the released model's."""
        return cls(**{each.name: index[each.name] for each in fields(cls) if each.name in index}, **more)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model size.

    Args:
        transformer: arguments of `SamaTransformer3DModel`.
        num_parameters: of that transformer, exactly.
        spatial_factor: pixels per latent, of its VAE.
        settings: of its pipeline.
        weights: folder that holds them, if any.
    """

    transformer: Mapping[str, Any]
    num_parameters: int
    spatial_factor: int = WAN_SPATIAL_FACTOR
    settings: PipelineSettings = field(default_factory=PipelineSettings)
    weights: Path | None = None


def _read_preset(name: str, entry: dict[str, Any]) -> Preset:
    weights = ASSETS / name if entry.pop("ships", False) else None
    return Preset(**entry | {"settings": PipelineSettings(**entry.get("settings", {})), "weights": weights})


PRESETS = {name: _read_preset(name, entry) for name, entry in table_beside(__file__).items()}
_RELEASED, _WITH_WAN22_VAE = "wan2.1-14b", "wan2.2-5b"
_WAN_TEXT_DIM = 4096


def preset_of(transformer: Mapping[str, Any]) -> str | None:
    """The preset whose sizes a transformer's configuration has.

    Heads do not count, since weights do not tell their number, nor does the semantic stream, which a plain Wan model
    has not got yet.
    """
    sizes = ("num_layers", "ffn_dim", "in_channels", "out_channels", "text_dim")
    for name, preset in PRESETS.items():
        own = {"text_dim": _WAN_TEXT_DIM} | dict(preset.transformer)
        if all(transformer[size] == own[size] for size in sizes) and width_of(transformer) == width_of(own):
            return name
    return None


def nearest_preset(spatial_factor: int) -> str:
    """For a model of no known size: the one that shares its VAE, else the released one."""
    return _WITH_WAN22_VAE if spatial_factor == PRESETS[_WITH_WAN22_VAE].spatial_factor else _RELEASED


def describe(
    name: str,
    preset: Preset,
    parts: PartSizes,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    *,
    dtype: str = "bfloat16",
    storage_dtype: str = "same",
    vae_tiling: bool = False,
    device_memory: int,
) -> list[str]:
    """Lines on a model at a clip size: sizes, tokens, memory, settings.

    Args:
        parts: of its pipeline.
        dtype, storage_dtype, vae_tiling: as `load_pipeline` has them, for the memory.
        device_memory: bytes.

    Raises:
        UserError: for a size that the model cannot take.
    """
    model, settings = preset.transformer, preset.settings
    multiple = PATCH[1] * preset.spatial_factor
    if (height is None) != (width is None):
        raise UserError("give both `height` and `width`, or neither")
    if height is None or width is None:
        height, width = fit_size(9, 16, settings.native_area, multiple)
    if height % multiple or width % multiple or min(height, width) < 1:
        raise UserError(
            f"height and width must be multiples of {multiple}, got {height}x{width}; use "
            f"{nearest_multiple(height, multiple)}x{nearest_multiple(width, multiple)}"
        )
    frames = settings.native_num_frames if num_frames is None else num_frames
    try:
        video = VideoShape(num_frames=frames, height=height, width=width)
        shape = LatentShape.from_video(video, preset.spatial_factor)
    except ValueError as error:
        raise UserError(str(error)) from error
    per_clip = shape.num_tokens()
    semantic = semantic_tokens(settings.num_semantic_tokens, frames, model.get("semantic_grid", SEMANTIC_GRID))
    work = Work(
        video=video,
        spatial_factor=preset.spatial_factor,
        text_tokens=settings.max_sequence_length,
        num_semantic_tokens=settings.num_semantic_tokens,
        with_guidance=settings.default_guidance_scale > 1,
        tiles=vae_tiling,
        device_memory=device_memory,
    )
    peaks = demand_of(parts, work, dtype=dtype, storage_dtype=storage_dtype).peaks(on_host=False)
    in_gib = {offload: f"{peak.device / 2**30:.1f} GiB" for offload, peak in peaks.items()}
    where = "shipped with the package" if name in PRESETS else f"in {preset.weights}"
    return [
        f"{'preset' if name in PRESETS else 'model':12} {name}",
        f"transformer  {preset.num_parameters:,} parameters, width {width_of(model)}, {model['num_layers']} layers",
        f"clip         {width}x{height}, {frames} frames",
        f"latents      {model['in_channels']} channels, {shape.frames} x {shape.height} x {shape.width}",
        f"tokens       {2 * per_clip + semantic:,} = source {per_clip:,} + semantic {semantic} + target {per_clip:,}",
        f"memory       {in_gib['none']} at the peak in {dtype}; --offload model {in_gib['model']}, group "
        f"{in_gib['group']}, disk {in_gib['disk']}",
        f"trained at   {settings.native_area:,} pixels per frame, {settings.native_num_frames} frames",
        f"sampling     {settings.default_num_inference_steps} steps, guidance {settings.default_guidance_scale:g}, "
        f"flow shift {settings.default_flow_shift:g}",
        f"text         {settings.max_sequence_length} tokens, prompts begin with {settings.prompt_prefix!r}",
        f"weights      {where if preset.weights else 'not shipped: see docs/weights.md'}",
    ]
