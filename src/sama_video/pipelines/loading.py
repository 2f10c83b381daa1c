"""A pipeline from a preset's name, a local folder, a converted checkpoint or a hub id."""

import inspect
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import UniPCMultistepScheduler
from huggingface_hub import hf_hub_download

from ..errors import UserError
from ..files import hash_file, hash_weights
from ..models.presets import PRESETS
from .pipeline_sama import ModelFacts, SamaPipeline

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


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Which model, and how it runs: `load_pipeline`'s arguments, checked without loading anything.

    Raises:
        UserError: for a value that cannot be, or a device or file that is not there.
    """

    model: str = "nano"
    device: str = "auto"
    dtype: str = "auto"
    offload: str = "none"
    scheduler: str = "euler"
    vae_tiling: bool = False
    lora: list[str] | None = None

    def __post_init__(self) -> None:
        resolve_model(self.model)
        for name, allowed in (("dtype", ("auto", *DTYPES)), ("offload", OFFLOADS), ("scheduler", SCHEDULERS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"--{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        _check_device(self.place)
        if self.offload in ("model", "sequential") and self.place == "cpu":
            raise UserError(
                f"--offload {self.offload} moves weights to an accelerator, and this run is on the CPU; leave it out"
            )
        for entry in self.lora or []:
            path, _ = split_lora_entry(entry)
            if not Path(path).exists():
                raise UserError(f"no such LoRA: {path}; give --lora PATH or PATH:SCALE")

    @property
    def place(self) -> str:
        """The device that "auto" stands for."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def precision(self) -> str:
        """The dtype that "auto" stands for."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.place == "cpu" else "bfloat16"

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """All of it as a result's record has it: names, hashes of weights, and what "auto" became."""
        loras = [split_lora_entry(entry) for entry in self.lora or []]
        return {
            "name": self.model,
            "weights": weights_identity(self.model),
            "lora": [{"path": path, "scale": scale, "weights": _lora_identity(Path(path))} for path, scale in loras],
            "scheduler": self.scheduler,
            "dtype": self.precision,
            "device": self.place,
            "offload": self.offload,
            "vae_tiling": self.vae_tiling,
        }


def _lora_identity(path: Path) -> str:
    return hash_weights(path) if path.is_dir() else f"sha256:{hash_file(path)}"


def _check_device(device: str) -> None:
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError:
        kind, index = "", None
    if kind not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device {device!r}: use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that torch can use; use --device cpu")
    if kind == "cuda" and (index or 0) >= torch.cuda.device_count():
        raise UserError(f"this machine has {torch.cuda.device_count()} CUDA devices, counted from 0, not {device}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("this machine has no MPS device (Apple's GPUs) that torch can use; use --device cpu")


def read_facts(model: str) -> ModelFacts:
    """What an edit must know of a model, from its configurations alone; of a hub id only these are fetched.

    Raises:
        UserError: for a model that is not there or lacks them.
    """
    signature = inspect.signature(SamaPipeline.__init__).parameters
    defaults = {name: parameter.default for name, parameter in signature.items()}
    index, vae, transformer = (
        _read_config(model, name) for name in ("model_index.json", "vae/config.json", "transformer/config.json")
    )
    try:
        return ModelFacts.of({**defaults, **index}, vae, transformer)
    except (KeyError, TypeError) as error:
        raise UserError(f"cannot read the sizes of the model {model} ({error}); is it a SAMA pipeline?") from error


def _read_config(model: str, name: str) -> dict[str, Any]:
    folder = Path(resolve_model(model))
    try:
        file = folder / name if folder.is_dir() else Path(hf_hub_download(model, name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"there is no folder {model}, and as a hub id it could not be fetched ({_first_line(error)})"
        ) from error
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({_first_line(error)}); is the model complete?") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
    loading = Loading(
        model=model,
        device=device,
        dtype=dtype,
        offload=offload,
        scheduler=scheduler,
        vae_tiling=vae_tiling,
        lora=lora,
    )
    folder = resolve_model(model)
    _read_config(model, "model_index.json")  # diffusers' own message on a hub id that is none is five lines long
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
    try:
        pipe = SamaPipeline.from_pretrained(folder, dtype=DTYPES[loading.precision])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot load the model {model} ({_first_line(error)}); is it complete, and a SAMA pipeline?"
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
    _place(pipe, loading.place, offload)
    pipe.loaded_as = loading
    return pipe


def split_lora_entry(entry: str) -> tuple[str, float]:
    """`PATH` or `PATH:SCALE` -> path and scale (1.0 if it does not say).

    Raises:
        UserError: for a scale that is not finite.
    """
    path, _, text = entry.rpartition(":")
    try:
        scale = float(text)
    except ValueError:
        return entry, 1.0
    if not path:
        return entry, 1.0
    if not math.isfinite(scale):
        raise UserError(f"the scale of --lora {entry} must be a finite number, such as 0.8")
    return path, scale


def _load_loras(pipe: SamaPipeline, entries: list[str]) -> None:
    names, scales = [], []
    for number, entry in enumerate(entries):
        path, scale = split_lora_entry(entry)
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
