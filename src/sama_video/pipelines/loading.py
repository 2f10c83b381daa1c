"""A pipeline from a preset's name, a local folder, a converted checkpoint or a hub id."""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import UniPCMultistepScheduler

from ..errors import UserError
from ..files import hash_weights
from ..models.presets import PRESETS
from .pipeline_sama import SamaPipeline

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OFFLOADS = ("none", "model", "sequential", "group")
SCHEDULERS = ("euler", "unipc")


def resolve_model(model: str) -> str:
    """The folder or hub id that a `--model` value stands for.

    Raises:
        UserError: for a preset that ships no weights, a folder that is no pipeline or lacks files, an unknown name.
    """
    if model in PRESETS:
        weights = PRESETS[model].weights
        if weights is None:
            raise UserError(
                f"the preset {model} names a size; its weights do not ship. Convert them with 'sama convert' and pass "
                f"the folder, or pass a hub id as --model"
            )
        return str(weights)
    folder = Path(model)
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if folder.exists():
        raise UserError(f"{model} is a file; convert it first: sama convert {model} FOLDER, then --model FOLDER")
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return model
    raise UserError(
        f"unknown model {model!r}: give one of {', '.join(PRESETS)}, a local folder or a hub id (owner/name)"
    )


def weights_identity(model: str) -> str:
    """Hash of the weights behind a `--model` value; a hub id stands for itself.

    Raises:
        UserError: as `resolve_model`.
    """
    folder = Path(resolve_model(model))
    return hash_weights(folder) if folder.is_dir() else model


def _check_folder(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} has no model_index.json: it is not a pipeline; convert it with 'sama convert' first")
    try:
        entries = json.loads(index.read_text())
    except ValueError as error:
        raise UserError(f"{index} is not JSON ({error}); download it again") from error
    for name, entry in entries.items():
        if isinstance(entry, list) and entry[0] is not None and not (folder / name).is_dir():
            raise UserError(f"{folder} lacks the folder {name}: the download is incomplete, fetch it again")
    for shards in folder.rglob("*.safetensors.index.json"):
        expected = set(json.loads(shards.read_text())["weight_map"].values())
        missing = sorted(name for name in expected if not (shards.parent / name).is_file())
        if missing:
            raise UserError(f"{shards.parent} lacks {', '.join(missing)}: the download is incomplete, fetch it again")


def load_pipeline(
    model: str = "nano",
    *,
    device: str = "auto",
    dtype: str = "auto",
    offload: str = "none",
    scheduler: str = "euler",
    vae_tiling: bool = False,
    lora: list[str] | None = None,
) -> SamaPipeline:
    """Load a pipeline and put it where it shall run.

    Args:
        model: preset, folder or hub id.
        device: "auto" takes CUDA or MPS where there is one.
        dtype: "auto" is bfloat16 on an accelerator, float32 on the CPU.
        offload: "model", "sequential" or "group" keep weights off the accelerator while they are not needed.
        scheduler: "euler" (the release's) or "unipc".
        vae_tiling: encode and decode in the release's tiles.
        lora: files or folders, each `PATH` or `PATH:SCALE`.

    Raises:
        UserError: for anything that cannot be loaded, with the mend.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device {device!r}: use auto, cpu, cuda, cuda:N or mps")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that torch can use; use --device cpu")
    for name, value, allowed in (
        ("dtype", dtype, ("auto", *DTYPES)),
        ("offload", offload, OFFLOADS),
        ("scheduler", scheduler, SCHEDULERS),
    ):
        if value not in allowed:
            raise UserError(f"--{name} must be one of {', '.join(allowed)}, got {value!r}")
    if offload in ("model", "sequential") and device == "cpu":
        raise UserError(
            f"--offload {offload} moves weights to an accelerator, and this run is on the CPU; leave it out"
        )
    chosen = DTYPES["float32" if device == "cpu" else "bfloat16"] if dtype == "auto" else DTYPES[dtype]

    folder = resolve_model(model)
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
    try:
        pipe = SamaPipeline.from_pretrained(folder, dtype=chosen)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot load the model {model} ({first_line}); is it complete, and a SAMA pipeline?"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    if scheduler == "unipc":
        pipe.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=pipe.config.default_flow_shift
        )
    if vae_tiling:
        pipe.enable_vae_tiling()
    if lora:
        _load_loras(pipe, lora)
    _place(pipe, device, offload)
    return pipe


def split_lora_entry(entry: str) -> tuple[str, float]:
    """`PATH` or `PATH:SCALE` -> path and scale (1.0 if it does not say)."""
    path, _, scale = entry.rpartition(":")
    try:
        return (path, float(scale)) if path else (entry, 1.0)
    except ValueError:
        return entry, 1.0


def _load_loras(pipe: SamaPipeline, entries: list[str]) -> None:
    names, scales = [], []
    for number, entry in enumerate(entries):
        path, scale = split_lora_entry(entry)
        if not Path(path).exists():
            raise UserError(f"no such LoRA: {path}; give --lora PATH or PATH:SCALE")
        try:
            pipe.load_lora_weights(path, adapter_name=f"lora_{number}")
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"the LoRA {path} does not fit this model ({str(error).splitlines()[0]})") from error
        names.append(f"lora_{number}")
        scales.append(scale)
    pipe.set_adapters(names, scales)


def _place(pipe: SamaPipeline, device: str, offload: str) -> None:
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload == "group":
        pipe.enable_group_offload(
            onload_device=torch.device(device),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=device.startswith("cuda"),
        )
    else:
        pipe.to(device)
