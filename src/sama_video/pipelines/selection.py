"""Which model, and what is known of it before any weight is read. Imports no torch."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..models.presets import PRESETS, PipelineSettings, Preset
from ..models.weight_files import DIFFUSERS_STEM, TRANSFORMERS_STEM, find_weight_files, first_line, read_json_object
from ..system.errors import UserError
from ..system.files import hash_configuration, hash_file, hash_weights
from .configuration import (
    FACTS,
    WAN_SCALE_FACTOR_SPATIAL,
    broken_rules,
    check_settings,
    check_text_encoder,
    check_together,
    check_transformer,
    check_vae,
    components_of,
)
from .scope import TrainedFor

INDEX = "model_index.json"
# The components that have weights, and how their libraries name the files.
WEIGHT_STEMS = {"transformer": DIFFUSERS_STEM, "vae": DIFFUSERS_STEM, "text_encoder": TRANSFORMERS_STEM}
DTYPES = ("float32", "bfloat16", "float16")
OFFLOADS = ("none", "model", "sequential", "group")
SCHEDULERS = ("euler", "unipc")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What an edit must know of a model; can be read without its weights (`read_facts`).

    Args:
        pixel_multiple: what height and width must divide by: the VAE's factor times the transformer's patch.
        trained_for: kinds of edits, each with instructions that the model was trained on; empty if it does not say.

    The others are the pipeline's settings of the same names (`PipelineSettings`).

    Raises:
        ValueError: for what no model can have.
    """

    pixel_multiple: int
    native_area: int = PipelineSettings.native_area
    native_num_frames: int = PipelineSettings.native_num_frames
    default_num_inference_steps: int = PipelineSettings.default_num_inference_steps
    default_guidance_scale: float = PipelineSettings.default_guidance_scale
    default_flow_shift: float = PipelineSettings.default_flow_shift
    trained_for: TrainedFor = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problems := broken_rules(vars(self), FACTS):
            raise ValueError("; ".join(problems))

    @classmethod
    def of(cls, pipeline: Mapping[str, Any], vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> "ModelFacts":
        """From the configurations of a pipeline and of its parts."""
        names = [field.name for field in fields(cls) if field.name != "pixel_multiple"]
        factor = vae.get("scale_factor_spatial", WAN_SCALE_FACTOR_SPATIAL)
        multiple = factor * transformer["patch_size"][1]
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
                f"the folder, or pass a hub id as `model`"
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


def configuration_identity(model: str) -> str:
    """Hash of what decides a model's results beside its weights; a hub id stands for itself.

    Apart from `weights_identity`, so that this stays what it was in records that do not say this.

    Raises:
        UserError: as `resolve_model`.
    """
    folder = Path(resolve_model(model))
    return hash_configuration(folder) if folder.is_dir() else model


def _check_folder(folder: Path) -> None:
    index = folder / INDEX
    if not (index.exists() or index.is_symlink()):
        raise UserError(f"{folder} has no {INDEX}: it is not a pipeline; convert it with 'sama convert' first")
    for name in components_of(str(index), read_json_object(index)):
        if not (folder / name).is_dir():
            raise UserError(f"{folder} lacks the folder {name}: the download is incomplete, fetch it again")
        # Configurations alone are enough for a dry run; of weights that are there, all must be.
        if name in WEIGHT_STEMS and any(file.suffix in (".safetensors", ".bin") for file in (folder / name).iterdir()):
            find_weight_files(folder / name, WEIGHT_STEMS[name])


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
                raise UserError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.device != "auto":
            _check_device(self.device)
        if self.offload in ("model", "sequential") and self.place == "cpu":
            raise UserError(
                f"`offload` {self.offload} moves weights to an accelerator, and this run is on the CPU; leave it out"
            )
        for entry in self.lora or []:
            path, _ = split_lora_entry(entry)
            if not Path(path).exists():
                raise UserError(f"no such LoRA: {path}; give `lora` PATH or PATH:SCALE")

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
            "configuration": configuration_identity(self.model),
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
    named = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", device)
    if named is None:
        raise UserError(f"unknown device {device!r}: use auto, cpu, cuda, cuda:N or mps")
    import torch

    kind, index = named[1], int(named[2] or 0)
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that torch can use; use `device` cpu")
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise UserError(f"this machine has {torch.cuda.device_count()} CUDA devices, counted from 0, not {device}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("this machine has no MPS device (Apple's GPUs) that torch can use; use `device` cpu")


def read_facts(model: str, lora: Sequence[str] | None = None) -> ModelFacts:
    """What an edit must know of a model, from its configurations alone; of a hub id only these are fetched.

    Args:
        lora: files that will be loaded; what the model is for is then unknown, since they teach it something else.

    Raises:
        UserError: as `read_configs`.
    """
    configs = read_configs(model)
    try:
        facts = ModelFacts.of(configs.index, configs.vae, configs.transformer)
    except ValueError as error:
        raise UserError(f"cannot use the sizes of the model {model}: {error}; is it a SAMA pipeline?") from error
    return replace(facts, trained_for={}) if lora else facts


@dataclass(frozen=True, kw_only=True)
class Configs:
    """The configurations of a pipeline's folder, checked.

    Args:
        index: `model_index.json`.
        components: name -> (library, class), those that there are.
        transformer, vae, text_encoder: their `config.json`; None without a text encoder.
    """

    index: dict[str, Any]
    components: dict[str, tuple[str, str]]
    transformer: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any] | None


def read_configs(model: str) -> Configs:
    """All that a model's configurations say.

    Raises:
        UserError: for a model that is not there, and, with the file's name, for configurations that are damaged,
            incomplete, out of range, of other classes than a SAMA pipeline has, or that do not fit each other.
    """
    index = read_config(model, INDEX)
    components = components_of(f"{model}/{INDEX}", index)
    check_settings(f"{model}/{INDEX}", index)
    parts = {name: read_config(model, f"{name}/config.json") for name in WEIGHT_STEMS if name in components}
    transformer, vae, text_encoder = parts["transformer"], parts["vae"], parts.get("text_encoder")
    check_transformer(f"{model}/transformer/config.json", transformer)
    check_vae(f"{model}/vae/config.json", vae, components["vae"][1])
    if text_encoder is not None:
        check_text_encoder(f"{model}/text_encoder/config.json", text_encoder)
    check_together(model, transformer, vae, text_encoder)
    return Configs(index=index, components=components, transformer=transformer, vae=vae, text_encoder=text_encoder)


def read_preset(folder: Path) -> Preset:
    """The sizes and settings of a pipeline folder, from its configurations and the headers of its weights.

    Raises:
        UserError: for a folder that is no pipeline, lacks them, or holds damaged weights.
    """
    configs = read_configs(str(folder))
    return Preset(
        transformer=configs.transformer,
        num_parameters=sum(_count(file) for file in (folder / "transformer").glob("*.safetensors")),
        spatial_factor=configs.vae.get("scale_factor_spatial", WAN_SCALE_FACTOR_SPATIAL),
        settings=PipelineSettings.of(configs.index),
        weights=folder,
    )


def _count(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    try:
        with open(file, "rb") as stream:
            entries = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return sum(math.prod(entry["shape"]) for name, entry in entries.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise UserError(f"{file} is damaged or cut off: download it again") from error


def read_config(model: str, name: str) -> dict[str, Any]:
    """A JSON file of a model; of a hub id it is fetched.

    Raises:
        UserError: for a model that is not there, or a file that is damaged.
    """
    folder = Path(resolve_model(model))
    if folder.is_dir():
        return read_json_object(folder / name)
    from huggingface_hub import hf_hub_download

    try:
        file = Path(hf_hub_download(model, name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"there is no folder {model}, and as a hub id it could not be fetched ({first_line(error)})"
        ) from error
    return read_json_object(file)


def split_lora_entry(entry: str) -> tuple[str, float]:
    """`PATH` or `PATH:SCALE` -> path and scale (1.0 if it does not say). A file's whole name counts first.

    Raises:
        UserError: for a scale that is not finite.
    """
    if Path(entry).exists():
        return entry, 1.0
    path, _, text = entry.rpartition(":")
    try:
        scale = float(text)
    except ValueError:
        return entry, 1.0
    if not path:
        return entry, 1.0
    if not math.isfinite(scale):
        raise UserError(f"the scale of `lora` {entry} must be a finite number, such as 0.8")
    return path, scale
