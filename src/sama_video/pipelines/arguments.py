"""What a call of the pipeline is refused for, before any work."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ..models.shapes import nearest_multiple, wrong_num_frames
from ..system.errors import UserError

_OUTPUT_TYPES = ("np", "pt", "pil", "latent")


def check_text(
    prompt: str | list[str] | None,
    negative_prompt: str | list[str] | None,
    prompt_embeds: torch.Tensor | None,
    negative_prompt_embeds: torch.Tensor | None,
) -> None:
    """Raises ValueError for text that is empty, not text, or given twice."""
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("give either `prompt` or `prompt_embeds`")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("give `negative_prompt` or `negative_prompt_embeds`, not both")
    for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if texts is not None and not all(isinstance(text, str) for text in _as_list(texts)):
            raise ValueError(f"`{name}` must be a string or a list of strings, got {texts!r:.100}")
    if prompt is not None and not (_as_list(prompt) and all(text.strip() for text in _as_list(prompt))):
        raise ValueError("the prompt is empty: say what to change, for example 'make it black and white'")


def _as_list(texts: Any) -> Sequence[Any]:
    return texts if isinstance(texts, list | tuple) else [texts]


def check_sizes(height: int | None, width: int | None, num_frames: int | None, pixel_multiple: int) -> None:
    """Raises ValueError for sizes that the model cannot have, naming the nearest that it can."""
    for name, length in (("height", height), ("width", width)):
        if length is not None and (length <= 0 or length % pixel_multiple):
            better = nearest_multiple(length, pixel_multiple)
            raise ValueError(f"{name} must divide by {pixel_multiple}, got {length}; use {better}")
    if num_frames is not None and (problem := wrong_num_frames(num_frames)):
        raise ValueError(f"num_frames {problem}")


def check_shortcuts(guidance_start: float, guidance_end: float, source_refresh: int, transformer: Any) -> None:
    """Raises ValueError for parts of the steps that there are not, or a step cache that would mix up sequences."""
    if not 0 <= guidance_start <= guidance_end <= 1:
        raise ValueError(
            f"guidance_start and guidance_end must be parts of the steps, 0 <= start <= end <= 1, got {guidance_start} "
            f"and {guidance_end}"
        )
    if not isinstance(source_refresh, int) or source_refresh < 1:
        raise ValueError(f"source_refresh must be a whole number of 1 or more, got {source_refresh!r}")
    if source_refresh > 1 and transformer.is_cache_enabled:
        raise ValueError(
            "source_refresh leaves tokens out of some steps, and a step cache compares steps: use one of them, or call "
            "transformer.disable_cache() first"
        )


def check_numbers(
    num_inference_steps: int,
    guidance_scale: float,
    flow_shift: float,
    num_videos_per_prompt: int,
    max_sequence_length: int,
    output_type: str,
) -> None:
    """Raises ValueError for settings out of their range."""
    counts = {
        "num_inference_steps": num_inference_steps,
        "num_videos_per_prompt": num_videos_per_prompt,
        "max_sequence_length": max_sequence_length,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be a number, got {guidance_scale}; 1 is no guidance")
    if not 0 < flow_shift < math.inf:
        raise ValueError(f"flow_shift must be above 0, got {flow_shift}; 1 is no shift")
    if output_type not in _OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(_OUTPUT_TYPES)}, got {output_type!r}")


def check_parts(pipe: DiffusionPipeline, encodes_text: bool, needs_vae: bool) -> None:
    """Raises ValueError if the call needs a part that the pipeline was loaded without."""
    missing = {name for name, part in pipe.components.items() if part is None}
    if "transformer" in missing:
        raise ValueError("this pipeline has no transformer: it can encode prompts; load it with one to edit")
    if encodes_text and missing & {"text_encoder", "tokenizer"}:
        raise ValueError("this pipeline has no text encoder: pass `prompt_embeds` and `negative_prompt_embeds`")
    if needs_vae and "vae" in missing:
        raise ValueError("this pipeline has no VAE: pass `source_latents` instead of a video, and output_type='latent'")


def check_tensors(tensors: Mapping[str, torch.Tensor | None], text_dim: int) -> None:
    """Raises ValueError for text features of another width than `text_dim`, and for values that are not finite."""
    for name, values in tensors.items():
        if values is None:
            continue
        if name.endswith("prompt_embeds") and (values.ndim != 3 or values.shape[-1] != text_dim):
            raise ValueError(f"`{name}` must be [B, L, {text_dim}], got {tuple(values.shape)}")
        if not torch.isfinite(values).all():
            raise ValueError(f"`{name}` holds values that are not numbers (NaN or infinite)")


def as_called_back(tensors: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """What a callback gave back of the tensors that it can see.

    diffusers' CFG cutoff callbacks keep the last row of `prompt_embeds`, since other pipelines have negative prompts
    in the rows before it. Here these are apart: all rows stay.

    Raises:
        ValueError: for another number of rows than there are results.
    """
    given = {name: changed[name] for name in tensors if name in changed}
    batch_size = len(tensors["latents"])
    embeds, before = given.get("prompt_embeds"), tensors["prompt_embeds"]
    if embeds is not None and len(embeds) == 1 < batch_size and torch.equal(embeds, before[-1:]):
        given["prompt_embeds"] = before
    for name, values in given.items():
        if values is not None and len(values) != batch_size:
            raise ValueError(f"a callback gave {name} for {len(values)} of {batch_size} results; return all rows")
    return given


def check_batch(
    batch_size: int,
    generator: torch.Generator | list[torch.Generator] | None,
    source_latents: torch.Tensor | None,
) -> None:
    """Raises ValueError for generators or sources that are neither one nor one per result."""
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"{len(generator)} generators for {batch_size} results; give one, or one per result")
    if source_latents is not None and len(source_latents) not in (1, batch_size):
        raise ValueError(f"{len(source_latents)} sources for {batch_size} results; give one, or one per result")


def scale_of(attention_kwargs: dict[str, Any] | None) -> float:
    """The LoRA scale in a call's `attention_kwargs`, 1 without one.

    Raises:
        ValueError: if it is not a number.
    """
    scale = 1.0 if attention_kwargs is None else attention_kwargs.get("scale", 1.0)
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"attention_kwargs['scale'] must be a number such as 0.8, got {scale!r}")
    return scale


def require_finite(values: torch.Tensor, made_by: str, *dtypes: torch.dtype | None) -> None:
    """Stop before a picture that would be black.

    Raises:
        UserError: for values that are NaN or infinite, naming the part that made them, and why if it is its dtype.
    """
    if torch.isfinite(values).all():
        return
    cause = (
        "float16 cannot hold its values; load the model in bfloat16 or float32"
        if torch.float16 in dtypes
        else "its weights are damaged or do not fit the model; download or convert them again"
    )
    raise UserError(f"{made_by} gave values that are not numbers (NaN or infinite): {cause}")
