"""Which model, and what is known of it before any weight is read. Imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import hash_file, hash_weights
from ..models.presets import PRESETS, PipelineSettings, Preset

DTYPES = ("float32", "bfloat16", "float16")
OFFLOADS = ("none", "model", "sequential", "group")
SCHEDULERS = ("euler", "unipc")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What an edit must know of a model; can be read without its weights (`read_facts`).

    Args:
        pixel_multiple: what height and width must divide by: the VAE's factor times the transformer's patch.

    The others are the pipeline's settings of the same names (`PipelineSettings`).
    """

    pixel_multiple: int
    native_area: int = PipelineSettings.native_area
    native_num_frames: int = PipelineSettings.native_num_frames
    default_num_inference_steps: int = PipelineSettings.default_num_inference_steps
    default_guidance_scale: float = PipelineSettings.default_guidance_scale
    default_flow_shift: float = PipelineSettings.default_flow_shift

    @classmethod
    def of(cls, pipeline: Mapping[str, Any], vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> "ModelFacts":
        """From the configurations of a pipeline and of its parts."""
        names = [field.name for field in fields(cls) if field.name != "pixel_multiple"]
        multiple = vae["scale_factor_spatial"] * transformer["patch_size"][1]
        return cls(pixel_multiple=multiple, **{name: pipeline[name] for name in names if name in pipeline})


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
        if self.device != "auto":
            _check_device(self.device)
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
        import torch

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
    if device == "cpu":
        return
    import torch

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
    index, vae, transformer = (
        read_config(model, name) for name in ("model_index.json", "vae/config.json", "transformer/config.json")
    )
    try:
        return ModelFacts.of(index, vae, transformer)
    except (KeyError, TypeError) as error:
        raise UserError(f"cannot read the sizes of the model {model} ({error}); is it a SAMA pipeline?") from error


def read_preset(folder: Path) -> Preset:
    """The sizes and settings of a pipeline folder, from its configurations and the headers of its weights.

    Raises:
        UserError: for a folder that is no pipeline, lacks them, or holds damaged weights.
    """
    index, vae, transformer = (
        read_config(str(folder), name) for name in ("model_index.json", "vae/config.json", "transformer/config.json")
    )
    try:
        return Preset(
            transformer=transformer,
            num_parameters=sum(_count(file) for file in (folder / "transformer").glob("*.safetensors")),
            spatial_factor=vae["scale_factor_spatial"],
            settings=PipelineSettings.of(index),
            weights=folder,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read the sizes of the model {folder} ({error}); is it a SAMA pipeline?") from error


def _count(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    try:
        with open(file, "rb") as stream:
            entries = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return sum(math.prod(entry["shape"]) for name, entry in entries.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise UserError(f"{file} is damaged or cut off: download it again") from error


def read_config(model: str, name: str) -> dict[str, Any]:
    folder = Path(resolve_model(model))
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download
    try:
        file = folder / name if folder.is_dir() else Path(hf_hub_download(model, name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"there is no folder {model}, and as a hub id it could not be fetched ({first_line(error)})"
        ) from error
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({first_line(error)}); is the model complete?") from error


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
