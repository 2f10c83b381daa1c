"""`sama convert`: from any of the formats on disk to a pipeline folder, and back to the official names.

Everything is read and checked before anything is written; outputs are written aside and renamed.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import UMT5EncoderModel

from .errors import UserError
from .files import written_aside
from .models.convert_checkpoint import (
    StateDict,
    load_official_text_encoder,
    load_official_transformer,
    load_official_vae,
    official_text_encoder_state,
    official_transformer_header,
    official_transformer_state,
    official_vae_state,
)
from .models.latents import VideoAutoencoder
from .models.strict_loading import quiet_libraries
from .models.transformer_sama import SamaTransformer3DModel
from .pipelines.loading import load_pipeline, load_text_encoder, load_tokenizer, load_transformer, load_vae
from .pipelines.lora import LoraFile
from .pipelines.pipeline_sama import SamaPipeline
from .pipelines.selection import DTYPES

# Where original Wan folders keep their parts.
VAE_NAMES = ("Wan2.1_VAE.pth", "Wan2.2_VAE.pth", "Wan2.1_VAE.safetensors", "Wan2.2_VAE.safetensors")
TEXT_ENCODER_NAMES = ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors")
TOKENIZER_NAMES = ("google/umt5-xxl", "tokenizer")
OFFICIAL_TRANSFORMER, OFFICIAL_VAE, OFFICIAL_TEXT_ENCODER = "sama.safetensors", VAE_NAMES[2], TEXT_ENCODER_NAMES[1]
# A folder that holds one of these is a model, which --overwrite may replace.
MODEL_FILES = ("model_index.json", "config.json", OFFICIAL_TRANSFORMER, OFFICIAL_VAE, OFFICIAL_TEXT_ENCODER)


def _found(given: Path | None, folder: Path, names: tuple[str, ...]) -> Path | None:
    if given is not None:
        if not given.exists():
            raise UserError(f"no such file or folder: {given}")
        return given
    return next((folder / name for name in names if (folder / name).exists()), None) if folder.is_dir() else None


def _is_diffusers(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _load_transformer(source: Path, num_attention_heads: int | None) -> SamaTransformer3DModel:
    for folder in (source / "transformer", source):
        if _is_diffusers(folder) and list(folder.glob("diffusion_pytorch_model*")):
            return load_transformer(folder, may_be_stock=True)
    return load_official_transformer(source, num_attention_heads)


def _load_vae(path: Path) -> VideoAutoencoder:
    return load_vae(path) if _is_diffusers(path) else load_official_vae(path)


def _load_text_encoder(path: Path) -> UMT5EncoderModel:
    return load_text_encoder(path) if _is_diffusers(path) else load_official_text_encoder(path)


def _is_lora(source: Path) -> bool:
    if not source.is_file() or source.suffix != ".safetensors":
        return False
    try:
        with safe_open(source, framework="pt") as file:
            return any(".lora_" in key for key in file.keys())  # noqa: SIM118 (not a dict)
    except SafetensorError:  # whoever reads it says so
        return False


def convert_files(
    source: Path,
    output: Path,
    *,
    to: str = "diffusers",
    vae: Path | None = None,
    text_encoder: Path | None = None,
    tokenizer: Path | None = None,
    num_attention_heads: int | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    merge_into: str | None = None,
) -> list[Path]:
    """Convert what lies at `source`.

    Args:
        source: a checkpoint of official names (file, or folder of shards), an original Wan folder, a diffusers folder,
            or a LoRA file.
        output: for "diffusers" a pipeline folder (a transformer folder if there is no VAE), for "official" a folder
            of the release's files, for a LoRA a file.
        to: "diffusers" or "official".
        vae, text_encoder, tokenizer: where they lie, if not inside `source` under their usual names.
        overwrite: replace `output`: a file by a file, a folder by a folder if it holds a model.
        num_attention_heads: width / 128 when None.
        dtype: of the written weights; as stored when None.
        merge_into: preset, pipeline folder or hub id; with it `source` is a LoRA, and `output` becomes that model with
            the LoRA in its weights.

    Returns:
        What was written.

    Raises:
        UserError: listing every key that does not fit, or saying what is in the way; nothing is then written.
    """
    if not source.exists():
        raise UserError(f"no such file or folder: {source}")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; pass --overwrite to replace it")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    parts_given = {"--vae": vae, "--text-encoder": text_encoder, "--tokenizer": tokenizer}
    official = "official" if to == "official" else None
    model_only = {"--to official": official, "--num-attention-heads": num_attention_heads, **parts_given}
    if merge_into is not None:
        _refuse_unused("--merge-into", model_only)
        _check_replaceable(output, source)
        return _merge(source, output, merge_into, dtype or "float32")
    if _is_lora(source):
        _refuse_unused("a LoRA", {"--dtype": dtype, **model_only})
        lora = LoraFile.read(source)
        with written_aside(output) as aside:
            lora.save(aside)
        return [output]

    _check_replaceable(output, source, vae, text_encoder, tokenizer)
    transformer = _load_transformer(source, num_attention_heads)
    vae_path = _found(vae, source, (*VAE_NAMES, "vae"))
    text_path = _found(text_encoder, source, (*TEXT_ENCODER_NAMES, "text_encoder"))
    token_path = _found(tokenizer, source, TOKENIZER_NAMES)
    if to == "official":
        _refuse_unused("--to official", {"--tokenizer": tokenizer})
    elif vae_path is None:
        _refuse_unused("a transformer without a VAE", parts_given)
    parts = {
        "vae": None if vae_path is None else _load_vae(vae_path),
        "text_encoder": None if text_path is None else _load_text_encoder(text_path),
    }
    if dtype is not None:
        with quiet_libraries():
            transformer.to(getattr(torch, dtype))  # pyright: ignore[reportArgumentType] (diffusers wraps `to`)
            parts = {name: None if part is None else part.to(getattr(torch, dtype)) for name, part in parts.items()}
    with written_aside(output) as aside:
        if to == "official":
            _write_official(aside, transformer, **parts)
        else:
            _write_diffusers(aside, transformer, **parts, tokenizer=token_path)
    return sorted(path for path in output.rglob("*") if path.is_file())


def _refuse_unused(what: str, options: dict[str, Any]) -> None:
    """What was asked for and would not be done must not pass in silence."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UserError(f"{given[0]} has no effect with {what}; leave it out")


def _check_replaceable(output: Path, *sources: Path | None) -> None:
    """Raises UserError if a folder written to `output` would take the place of what nobody can have meant."""
    if not output.is_dir():
        return
    if any(source is not None and source.resolve().is_relative_to(output.resolve()) for source in sources):
        raise UserError(f"{output} holds what is converted; choose another output")
    if any(output.iterdir()) and not any((output / name).is_file() for name in MODEL_FILES):
        raise UserError(f"{output} holds no model, and --overwrite replaces models alone; choose another output")


def _merge(lora: Path, output: Path, model: str, dtype: str) -> list[Path]:
    pipe = load_pipeline(model, device="cpu", dtype=dtype, lora=[str(lora)])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    with written_aside(output) as aside:
        pipe.save_pretrained(aside)
    return sorted(path for path in output.rglob("*") if path.is_file())


def _write_official(
    folder: Path,
    transformer: SamaTransformer3DModel,
    vae: VideoAutoencoder | None,
    text_encoder: UMT5EncoderModel | None,
) -> None:
    folder.mkdir()
    states: dict[str, StateDict] = {OFFICIAL_TRANSFORMER: official_transformer_state(transformer)}
    headers = {OFFICIAL_TRANSFORMER: official_transformer_header(transformer)}
    if isinstance(vae, AutoencoderKLWan):  # the nano's own has no official names
        states[OFFICIAL_VAE] = official_vae_state(vae)
    if text_encoder is not None:
        states[OFFICIAL_TEXT_ENCODER] = official_text_encoder_state(text_encoder)
    for name, state in states.items():
        save_file({key: value.contiguous() for key, value in state.items()}, folder / name, metadata=headers.get(name))


def _write_diffusers(
    folder: Path,
    transformer: SamaTransformer3DModel,
    vae: VideoAutoencoder | None,
    text_encoder: UMT5EncoderModel | None,
    tokenizer: Path | None,
) -> None:
    if vae is None:
        transformer.save_pretrained(folder)
        return
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    SamaPipeline(transformer, vae, text_encoder, loaded).save_pretrained(folder)
