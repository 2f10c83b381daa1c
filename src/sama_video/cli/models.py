"""`sama info`, `sama convert` and `sama push`: weights, their sizes, and where they go."""

from pathlib import Path
from typing import Annotated

import typer

from ..system.errors import UserError
from .console import remark, say
from .options import StorageDtype, VaeTiling, in_options


def info(
    model: Annotated[
        str, typer.Option(help="Preset (nano, wan2.1-1.3b, wan2.2-5b, wan2.1-14b) or pipeline folder.")
    ] = "nano",
    height: Annotated[int | None, typer.Option(help="Default: the model's native size at 16:9.")] = None,
    width: Annotated[int | None, typer.Option()] = None,
    num_frames: Annotated[int | None, typer.Option(help="Default: the model's native number.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    storage_dtype: StorageDtype = "same",
    vae_tiling: VaeTiling = False,
    device_memory: Annotated[
        float | None, typer.Option(help="GiB of the device; small ones take guidance in two passes.")
    ] = None,
) -> None:
    """Sizes, tokens, settings and the memory that an edit takes at its peak, for a model and a clip size."""
    from ..models.presets import PRESETS, describe
    from ..pipelines.scope import describe_scope
    from ..pipelines.selection import check_choices, find_model, parts_of_preset, read_preset
    from ..system.devices import device_memory as memory_of

    if model not in PRESETS and not Path(model).is_dir():
        raise UserError(f"unknown model {model!r}: use one of {', '.join(PRESETS)}, or a pipeline folder")
    found = find_model(model) if model not in PRESETS or PRESETS[model].weights is not None else None
    preset = PRESETS[model] if model in PRESETS or found is None else read_preset(found)
    check_choices(dtype=dtype, storage_dtype=storage_dtype)
    kept = {"dtype": dtype, "storage_dtype": storage_dtype, "vae_tiling": vae_tiling}
    memory = memory_of("cpu") if device_memory is None else round(device_memory * 2**30)
    parts = parts_of_preset(preset)
    for line in describe(model, preset, parts, height, width, num_frames, **kept, device_memory=memory):
        say(line)
    if found is not None:
        for line in describe_scope(found.info().trained_for or {}):
            say(line)


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint file or folder, LoRA file, or diffusers folder.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; for a LoRA a .safetensors file.")],
    to: Annotated[str, typer.Option(help="diffusers, or official for the release's key names.")] = "diffusers",
    vae: Annotated[Path | None, typer.Option(help="Wan's VAE file, or a folder of diffusers' class.")] = None,
    text_encoder: Annotated[Path | None, typer.Option(help="Wan's UMT5 file, or a folder of transformers'.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer (google/umt5-xxl).")] = None,
    num_attention_heads: Annotated[int | None, typer.Option(help="Default: width / 128.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing output.")] = False,
    merge_into: Annotated[str | None, typer.Option(help="SOURCE is a LoRA: write this model with it merged.")] = None,
) -> None:
    """Convert weights between the official release's files and a folder that every command loads."""
    options = locals()
    if to not in ("diffusers", "official"):
        raise UserError(f"--to must be diffusers or official, got {to!r}")
    if not source.exists():
        raise UserError(f"no such file or folder: {source}")

    from ..pipelines.conversion import convert_files  # imports torch

    conversion = convert_files(**options)
    for path in conversion.files:
        say(str(path))
    for note in conversion.notes:
        remark(f"note: {in_options(note)}")


def push(
    model: Annotated[str, typer.Argument(help="Pipeline folder, or a preset that ships.")],
    destination: Annotated[str, typer.Argument(help="OWNER/NAME on the hub, or OWNER/NAME@BRANCH.")],
    private: Annotated[bool, typer.Option(help="A new repository is for you alone.")] = False,
    license: Annotated[str | None, typer.Option(help="For its card, such as apache-2.0.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload a SAMA pipeline",
    dry_run: Annotated[bool, typer.Option(help="Check it, list what would go, and send nothing.")] = False,
) -> None:
    """Put a pipeline on the Hugging Face hub, with its code for diffusers and a card: sama push FOLDER OWNER/NAME."""
    from ..pipelines.publishing import prepare, publish
    from ..pipelines.selection import find_model

    publication = prepare(find_model(model), destination, license=license)
    size = f"{len(publication.files)} files, {publication.num_bytes / 2**20:,.1f} MiB"
    if dry_run:
        for name in sorted(publication.files):
            say(name)
        say(f"{size}, for {destination}")
        return
    remark(f"sending {size} to {destination}")
    say(publish(publication, private=private, message=message))
