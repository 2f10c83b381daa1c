"""Which model, and what is known of it before any weight is read. Imports no torch."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..models.hub import fetch_file, fetch_folder, is_hub_id, split_hub_id
from ..models.peak_memory import UMT5_XXL, PartSizes, Work, demand_of
from ..models.presets import PRESETS, PipelineSettings, Preset
from ..models.shapes import WAN_SPATIAL_FACTOR, VideoShape, fit_size
from ..models.weight_files import DIFFUSERS_STEM, SUFFIXES, TRANSFORMERS_STEM, find_weight_files, read_json_object
from ..system.devices import device_memory, free_memory
from ..system.errors import UserError
from ..system.files import hash_configuration, hash_file, hash_weights
from .configuration import (
    SETTINGS,
    broken_rules,
    check_settings,
    check_text_encoder,
    check_together,
    check_transformer,
    check_vae,
    components_of,
    whole,
    without_code,
)

INDEX = "model_index.json"
# The components that have weights, and how their libraries name the files.
WEIGHT_STEMS = {"transformer": DIFFUSERS_STEM, "vae": DIFFUSERS_STEM, "text_encoder": TRANSFORMERS_STEM}
DTYPES = ("float32", "bfloat16", "float16")
_CHOICES = {
    "dtype": ("auto", *DTYPES),
    "memory": ("auto", "low", "full"),
    "offload": ("none", "model", "sequential", "group", "disk"),
    "storage_dtype": ("same", "float8", "int8"),
    "scheduler": ("euler", "unipc"),
}
# Of what is free: a forecast is not exact, and others want some too.
_USABLE = 0.9


@dataclass(frozen=True, kw_only=True)
class ModelInfo(PipelineSettings):
    """What an edit must know of a model: its settings, and what height and width must divide by.

    Args:
        pixel_multiple: the VAE's factor times the transformer's patch.

    Raises:
        ValueError: for what no model can have.
    """

    pixel_multiple: int

    def __post_init__(self) -> None:
        if problems := broken_rules(vars(self), {"pixel_multiple": whole(1, 4096), **SETTINGS}):
            raise ValueError("; ".join(problems))

    @classmethod
    def from_configs(
        cls, pipeline: Mapping[str, Any], vae: Mapping[str, Any], transformer: Mapping[str, Any]
    ) -> "ModelInfo":
        factor = vae.get("scale_factor_spatial", WAN_SPATIAL_FACTOR)
        return cls.of(pipeline, pixel_multiple=factor * transformer["patch_size"][1])


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


@dataclass(frozen=True)
class Model:
    """A model that was found (`find_model`). Its files are read once, when they are first asked for.

    Args:
        name: what it was asked for by: a preset, a folder or a hub id, with its revision.
        folder: None for a hub id.
    """

    name: str
    folder: Path | None

    def read(self, file: str) -> dict[str, Any]:
        """A JSON file; of a hub id it is fetched.

        Raises:
            UserError: for a model that is not there, or a file that is damaged.
        """
        if self.folder is not None:
            return read_json_object(self.folder / file)
        return read_json_object(fetch_file(self.name, file))

    @cached_property
    def index(self) -> dict[str, Any]:
        """`model_index.json`, with this package's classes where the folder brings its own."""
        return without_code(self.read(INDEX))

    @cached_property
    def configs(self) -> Configs:
        """All that its configurations say.

        Raises:
            UserError: with the file's name, for configurations that are damaged, incomplete, out of range, of other
                classes than a SAMA pipeline has, or that do not fit each other.
        """
        name, index = self.name, self.index
        components = components_of(f"{name}/{INDEX}", index)
        check_settings(f"{name}/{INDEX}", index)
        parts = {part: self.read(f"{part}/config.json") for part in WEIGHT_STEMS if part in components}
        transformer, vae, text_encoder = parts["transformer"], parts["vae"], parts.get("text_encoder")
        check_transformer(f"{name}/transformer/config.json", transformer)
        check_vae(f"{name}/vae/config.json", vae, components["vae"][1])
        if text_encoder is not None:
            check_text_encoder(f"{name}/text_encoder/config.json", text_encoder)
        check_together(name, transformer, vae, text_encoder)
        return Configs(index=index, components=components, transformer=transformer, vae=vae, text_encoder=text_encoder)

    def info(self, lora: Sequence[str] | None = None) -> ModelInfo:
        """What an edit must know, from the configurations alone.

        Args:
            lora: files that will be loaded; what the model is for is then unknown, since they teach it something else.

        Raises:
            UserError: as `configs`.
        """
        try:
            info = ModelInfo.from_configs(self.configs.index, self.configs.vae, self.configs.transformer)
        except ValueError as error:
            raise UserError(
                f"cannot use the sizes of the model {self.name}: {error}; is it a SAMA pipeline?"
            ) from error
        return replace(info, trained_for={}) if lora else info

    @cached_property
    def weights_identity(self) -> str:
        """Hash of its weights; of a hub id its commit, since what a branch's name stands for changes."""
        return self._commit if self.folder is None else hash_weights(self.folder)

    @cached_property
    def configuration_identity(self) -> str:
        """Hash of what decides its results beside its weights; of a hub id its commit.

        Apart from `weights_identity`, so that this stays what it was in records that do not say this.
        """
        return self._commit if self.folder is None else hash_configuration(self.folder)

    @cached_property
    def _commit(self) -> str:
        return f"{split_hub_id(self.name)[0]}@{fetch_file(self.name, INDEX).parent.name}"


def find_model(name: str | Path) -> Model:
    """The model that a `--model` value stands for.

    Raises:
        UserError: for a preset that ships no weights, a folder that is no pipeline or lacks files, an unknown name.
    """
    name = str(name)
    if name in PRESETS:
        weights = PRESETS[name].weights
        if weights is None:
            raise UserError(
                f"the preset {name} names a size; its weights do not ship. Convert them with 'sama convert' and pass "
                f"the folder, or pass a hub id as `model`"
            )
        return Model(name, weights)
    folder = Path(name)
    if folder.is_dir():
        model = Model(name, folder)
        _check_folder(model, folder)
        return model
    if folder.exists():
        raise UserError(f"{name} is a file; convert it first: sama convert {name} FOLDER, then --model FOLDER")
    if is_hub_id(name):
        return Model(name, None)
    raise UserError(
        f"unknown model {name!r}: give one of {', '.join(PRESETS)}, a local folder or a hub id (owner/name, or "
        f"owner/name@revision)"
    )


def _check_folder(model: Model, folder: Path) -> None:
    index = folder / INDEX
    if not (index.exists() or index.is_symlink()):
        raise UserError(f"{folder} has no {INDEX}: it is not a pipeline; convert it with 'sama convert' first")
    for name in components_of(str(index), model.index):
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

    model: Model
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "full"
    offload: str = "none"
    storage_dtype: str = "same"
    scheduler: str = "euler"
    vae_tiling: bool = False
    lora: list[str] | None = None

    def __post_init__(self) -> None:
        check_choices(**{name: getattr(self, name) for name in _CHOICES})
        if self.device != "auto":
            _check_device(self.device)
        if self.offload in ("model", "sequential") and self.resolved_device == "cpu":
            raise UserError(
                f"`offload` {self.offload} moves weights to an accelerator, and this run is on the CPU; leave it out, "
                f"or use `offload` disk"
            )
        if self.offload == "disk" and self.storage_dtype != "same":
            raise UserError("`offload` disk keeps no weights in memory, and `storage_dtype` says how; give one of them")
        for path, _ in self.loras:
            if not (Path(path).exists() or _is_hub_lora(path)):
                raise UserError(f"no such LoRA: {path}; give `lora` PATH or PATH:SCALE, PATH may be a hub id")

    @cached_property
    def loras(self) -> list[tuple[str, float]]:
        """Path and scale of each of `lora`."""
        return [_split_lora_entry(entry) for entry in self.lora or []]

    @cached_property
    def resolved_device(self) -> str:
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
        return "float32" if self.resolved_device == "cpu" else "bfloat16"

    @property
    def tiles(self) -> bool:
        """Whether the VAE works in tiles."""
        return self.vae_tiling or (self.memory == "low" and self.offload == "none")

    @cached_property
    def resolved_offload(self) -> str:
        """What `memory` stands for where `offload` does not say; a hub id is not known well enough to choose."""
        if self.offload != "none" or self.memory == "full" or self.model.folder is None:
            return self.offload
        try:
            parts = parts_of(self.model)
        except UserError:  # damaged: loading says more
            return self.offload
        demand = demand_of(parts, self._work, dtype=self.precision, storage_dtype=self.storage_dtype)
        peaks = demand.peaks(on_host=self.resolved_device == "cpu")
        if self.storage_dtype != "same":
            del peaks["disk"]
        if self.memory == "low":
            peaks = {name: peak for name, peak in peaks.items() if name in ("group", "disk")} or peaks
        device, host = free_memory(self.resolved_device), free_memory("cpu")
        for name, peak in peaks.items():
            if peak.device <= _USABLE * device and peak.host <= _USABLE * host:
                return name
        return list(peaks)[-1]

    @property
    def _work(self) -> Work:
        """An edit of the model's own size and length."""
        info = self.model.info()
        height, width = fit_size(9, 16, info.native_area, info.pixel_multiple)
        return Work(
            video=VideoShape(num_frames=info.native_num_frames, height=height, width=width),
            spatial_factor=self.model.configs.vae.get("scale_factor_spatial", WAN_SPATIAL_FACTOR),
            text_tokens=info.max_sequence_length,
            num_semantic_tokens=info.num_semantic_tokens,
            with_guidance=info.default_guidance_scale > 1,
            tiles=self.tiles,
            device_memory=device_memory(self.resolved_device),
        )

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """All of it as a result's record has it: names, hashes of weights, and what "auto" became."""
        return {
            "name": self.model.name,
            "weights": self.model.weights_identity,
            "configuration": self.model.configuration_identity,
            "lora": [
                {"path": path, "scale": scale, "weights": _lora_identity(local_lora(path))}
                for path, scale in self.loras
            ],
            "scheduler": self.scheduler,
            "dtype": self.precision,
            "device": self.resolved_device,
            "offload": self.offload,
            "storage_dtype": self.storage_dtype,
            "vae_tiling": self.tiles,
        }


def check_choices(**values: str) -> None:
    """Raises UserError for a value that an option of `Loading`'s does not have."""
    for name, value in values.items():
        if value not in _CHOICES[name]:
            raise UserError(f"`{name}` must be one of {', '.join(_CHOICES[name])}, got {value!r}")


def _is_hub_lora(path: str) -> bool:
    return is_hub_id(path) and Path(path).suffix not in SUFFIXES


def local_lora(path: str) -> Path:
    """A LoRA's file or folder on this machine, where a hub id's is fetched to.

    Raises:
        UserError: if it could not be fetched.
    """
    if Path(path).exists() or not _is_hub_lora(path):
        return Path(path)
    return fetch_folder(path, ["*.safetensors", "adapter_config.json"])


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


def parts_of(model: Model) -> PartSizes:
    """The sizes of a folder's parts, from its configurations and the headers of its weights.

    Raises:
        UserError: as `Model.configs`, and for damaged weights or a hub id, whose weights are not here.
    """
    if model.folder is None:
        raise UserError(f"{model.name} is a hub id; download it, and give its folder")
    configs = model.configs
    parameters = {
        name: sum(_count(file) for file in (model.folder / name).glob("*.safetensors")) for name in WEIGHT_STEMS
    }
    return PartSizes(
        transformer=configs.transformer,
        vae={"_class_name": configs.components["vae"][1], **configs.vae},
        text_encoder=configs.text_encoder,
        parameters=parameters,
    )


def parts_of_preset(preset: Preset) -> PartSizes:
    """Of its own weights if there are some; else with the VAE and the text encoder of the models of its kind."""
    if preset.weights is not None:
        return parts_of(Model(str(preset.weights), preset.weights))
    transformer = preset.transformer
    if transformer.get("text_dim", UMT5_XXL["d_model"]) == UMT5_XXL["d_model"]:
        return PartSizes.of_wan(transformer, preset.num_parameters, preset.spatial_factor)
    nano = parts_of(find_model("nano"))
    return replace(nano, transformer=transformer, parameters={**nano.parameters, "transformer": preset.num_parameters})


def read_preset(model: Model) -> Preset:
    """The sizes and settings of a pipeline folder, from its configurations and the headers of its weights.

    Raises:
        UserError: as `Model.configs`, and for damaged weights or a hub id, whose weights are not here.
    """
    parts = parts_of(model)
    return Preset(
        transformer=parts.transformer,
        num_parameters=parts.parameters["transformer"],
        spatial_factor=model.configs.vae.get("scale_factor_spatial", WAN_SPATIAL_FACTOR),
        settings=PipelineSettings.of(model.configs.index),
        weights=model.folder,
    )


def _count(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    try:
        with open(file, "rb") as stream:
            entries = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return sum(math.prod(entry["shape"]) for name, entry in entries.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise UserError(f"{file} is damaged or cut off: download it again") from error


def _split_lora_entry(entry: str) -> tuple[str, float]:
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
