"""`sama convert`: from any of the formats on disk to a pipeline folder, and back to the official names.

Everything is read and checked before anything is written; outputs are written aside and renamed.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, SchedulerMixin
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from ..models.checkpoint_files import StateDict, Weights, header_entry, is_weights_file, read_names, read_weights
from ..models.convert_checkpoint import (
    load_official_text_encoder,
    load_official_transformer,
    load_official_vae,
    official_header,
    official_text_encoder_state,
    official_transformer_state,
    official_vae_state,
)
from ..models.diffusers_folders import load_text_encoder_folder, load_transformer_folder, load_vae_folder
from ..models.latents import VideoAutoencoder
from ..models.lora_namings import is_lora
from ..models.presets import PRESETS, PipelineSettings, nearest_preset, preset_of
from ..models.strict_loading import quiet_libraries, read_folder_specs
from ..models.transformer_sama import SamaTransformer3DModel
from ..models.weight_files import WeightFiles, find_weight_files, read_json_object
from ..system.errors import UserError
from ..system.files import written_aside
from .configuration import NANO_VAE, check_settings, check_text_encoder, check_transformer, check_vae, without_code
from .loading import load_pipeline, load_tokenizer
from .lora_files import LORA_FILE, PEFT_CONFIG, LoraFile
from .pipeline_sama import SamaPipeline
from .selection import DTYPES, INDEX, WEIGHT_STEMS

_PIPELINES = ("SamaPipeline", "WanPipeline")
# Where original Wan folders keep their parts.
_VAE_NAMES = ("Wan2.1_VAE.safetensors", "Wan2.2_VAE.safetensors", "Wan2.1_VAE.pth", "Wan2.2_VAE.pth")
_TEXT_ENCODER_NAMES = ("models_t5_umt5-xxl-enc-bf16.safetensors", "models_t5_umt5-xxl-enc-bf16.pth")
_TOKENIZER_NAMES = ("google/umt5-xxl", "tokenizer")
# Wan2.2 A14B: one transformer for the first steps, one for the others.
EXPERTS = ("high_noise_model", "low_noise_model")
_OFFICIAL_TRANSFORMER, _OFFICIAL_VAE, _OFFICIAL_WAN22_VAE = "sama.safetensors", *_VAE_NAMES[:2]
_OFFICIAL_TEXT_ENCODER = _TEXT_ENCODER_NAMES[0]
# The pipeline's settings and its scheduler, in the header of our file of official names.
_PIPELINE_KEY = "sama_pipeline"
# A folder that holds one of these is a model, which --overwrite may replace.
_MODEL_FILES = (
    INDEX,
    "config.json",
    _OFFICIAL_TRANSFORMER,
    _OFFICIAL_VAE,
    _OFFICIAL_WAN22_VAE,
    _OFFICIAL_TEXT_ENCODER,
)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written, and sentences on what was done that one might not expect."""

    files: list[Path]
    notes: list[str]


@dataclass(kw_only=True)
class Parts:
    """A model in memory. Without a VAE it is a transformer and no pipeline.

    Args:
        tokenizer_folder: the tokenizer's own files.
        settings: of the pipeline, beside its parts.
    """

    transformer: SamaTransformer3DModel
    vae: VideoAutoencoder | None
    text_encoder: UMT5EncoderModel | None
    tokenizer: PreTrainedTokenizerBase | None
    tokenizer_folder: Path | None = None
    scheduler: Any = None
    settings: dict[str, Any] = field(default_factory=dict)

    def cast(self, dtype: torch.dtype) -> None:
        with quiet_libraries():
            for part in (self.transformer, self.vae, self.text_encoder):
                if part is not None:
                    part.to(dtype)  # pyright: ignore[reportArgumentType] (diffusers wraps `to`)

    def pipeline(self) -> SamaPipeline:
        assert self.vae is not None
        parts = (self.transformer, self.vae, self.text_encoder, self.tokenizer, self.scheduler)
        try:
            return SamaPipeline(*parts, **self.settings)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError) as error:
            raise UserError(f"the pipeline's settings do not fit ({error}); correct {INDEX}") from error


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
) -> Conversion:
    """Convert what is at `source`.

    Args:
        source: a checkpoint of official names (file, or folder of shards), an original Wan folder, a diffusers folder,
            or a LoRA (file or folder).
        output: for "diffusers" a pipeline folder (a transformer folder if there is no VAE), for "official" a folder
            of the release's files, for a LoRA a file.
        to: "diffusers" or "official".
        vae, text_encoder, tokenizer: where they are, if not inside `source` under their usual names.
        overwrite: replace `output`: a file by a file, a folder by a folder if it holds a model.
        num_attention_heads: width / 128 when None.
        dtype: of the written weights; as stored when None.
        merge_into: preset, pipeline folder or hub id; with it `source` is a LoRA, and `output` becomes that model with
            the LoRA in its weights.

    Raises:
        UserError: listing every key that does not fit, saying what else a file is, or what is in the way; nothing is
            then written.
    """
    if not source.exists():
        raise UserError(f"no such file or folder: {source}")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; pass `overwrite` to replace it")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    parts_given = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
    official = "official" if to == "official" else None
    model_only = {"to": official, "num_attention_heads": num_attention_heads, **parts_given}
    if merge_into is not None:
        _refuse_unused("`merge_into`", model_only)
        _check_replaceable(output, source)
        return _merge(source, output, merge_into, dtype)
    if _is_lora(source):
        _refuse_unused("a LoRA", {"dtype": dtype, **model_only})
        return _convert_lora(source, output)

    _check_replaceable(output, source, vae, text_encoder, tokenizer)
    notes: list[str] = []
    parts = _read_parts(source, parts_given, num_attention_heads, notes)
    if parts.vae is None and to != "official":
        _refuse_unused("a transformer without a VAE", parts_given)
    if dtype is not None:
        parts.cast(getattr(torch, dtype))
    with written_aside(output) as aside, quiet_libraries():
        if to == "official":
            _write_official(aside, parts, notes)
        else:
            _write_diffusers(aside, parts)
    return Conversion(files=_files_in(output), notes=notes)


def _refuse_unused(what: str, options: Mapping[str, Any]) -> None:
    """What was asked for and would not be done must not pass in silence."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"`{name}`{' official' if name == 'to' else ''} has no effect with {what}; leave it out")


def _check_replaceable(output: Path, *sources: Path | None) -> None:
    """Raises UserError if a folder written to `output` would take the place of what nobody can have meant."""
    if not output.is_dir():
        return
    if any(source is not None and source.resolve().is_relative_to(output.resolve()) for source in sources):
        raise UserError(f"{output} holds what is converted; choose another output")
    if any(output.iterdir()) and not any((output / name).is_file() for name in _MODEL_FILES):
        raise UserError(f"{output} holds no model, and `overwrite` replaces models alone; choose another output")


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# LoRA files


def _is_lora(source: Path) -> bool:
    if source.is_dir():
        return any((source / name).is_file() for name in (LORA_FILE, PEFT_CONFIG)) or (
            not _holds_a_model(source) and bool(_shards_beside(source)) and is_lora(read_names(source))
        )
    return is_lora(read_names(source))


def _holds_a_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in (INDEX, "config.json", *EXPERTS, _OFFICIAL_TRANSFORMER))


def _convert_lora(source: Path, output: Path) -> Conversion:
    lora = LoraFile.read(source)
    with written_aside(output) as aside:
        lora.save(aside)
    return Conversion(files=[output], notes=list(lora.notes))


def _merge(lora: Path, output: Path, model: str, dtype: str | None) -> Conversion:
    pipe = load_pipeline(model, device="cpu", dtype=dtype or "float32", lora=[str(lora)])
    notes = list(pipe.lora_notes)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    if dtype is None:
        folder = Path(pipe.config["_name_or_path"])
        for name, stem in WEIGHT_STEMS.items():
            if getattr(pipe, name) is not None:
                _cast_as_stored(getattr(pipe, name), find_weight_files(folder / name, stem))
    with written_aside(output) as aside, quiet_libraries():
        pipe.save_pretrained(aside)
    return Conversion(files=_files_in(output), notes=notes)


def _cast_as_stored(part: torch.nn.Module, files: WeightFiles) -> None:
    """Every weight of a model in the type that its file has it in; new ones in the type of most."""
    specs = read_folder_specs(files)
    usual = Counter(spec.dtype for spec in specs.values()).most_common(1)[0][0]
    for name, tensor in part.named_parameters():
        tensor.data = tensor.data.to(specs[name].dtype if name in specs else usual)


# Reading models


def _read_parts(
    source: Path, given: Mapping[str, Path | None], num_attention_heads: int | None, notes: list[str]
) -> Parts:
    index = _read_index(source)
    vae_path = _found(given["vae"], source, (*_VAE_NAMES, "vae"))
    text_path = _found(given["text_encoder"], source, (*_TEXT_ENCODER_NAMES, "text_encoder"))
    token_path = _found(given["tokenizer"], source, _TOKENIZER_NAMES)
    transformer, header = _load_transformer(source, num_attention_heads, notes)
    parts = Parts(
        transformer=transformer,
        vae=None if vae_path is None else _load_vae(vae_path, notes),
        text_encoder=None if text_path is None else _load_text_encoder(text_path, notes),
        tokenizer=None if token_path is None else _load_tokenizer(token_path),
        tokenizer_folder=token_path,
    )
    _check_fit(parts)
    if parts.vae is not None:
        _settle(parts, source, index, header_entry(header, _PIPELINE_KEY), notes)
    return parts


def _read_index(source: Path) -> dict[str, Any]:
    """A pipeline folder's; empty for anything else.

    Raises:
        UserError: for a pipeline that is not SAMA's or Wan's, and for two experts, naming them.
    """
    if source.is_dir() and any((source / name).is_dir() for name in EXPERTS):
        raise UserError(_two_experts(source, f"{source / EXPERTS[1]}"))
    index = without_code(read_json_object(source / INDEX)) if (source / INDEX).is_file() else {}
    name = index.get("_class_name")
    check_settings(str(source / INDEX), index)
    if index and name not in _PIPELINES:
        raise UserError(f"{source} is a pipeline of the class {name!r}; what fits is {' or '.join(_PIPELINES)}")
    if (second := index.get("transformer_2")) and second != [None, None]:
        raise UserError(_two_experts(source, f"{source / 'transformer_2'}"))
    return index


def _two_experts(source: Path, one: str) -> str:
    return (
        f"{source} has two transformers, one for high and one for low noise (Wan2.2 A14B), and SAMA has one; convert "
        f"one of them alone ({one}), with `vae`, `text_encoder` and `tokenizer`"
    )


def _found(given: Path | None, folder: Path, names: tuple[str, ...]) -> Path | None:
    if given is not None:
        if not given.exists():
            raise UserError(f"no such file or folder: {given}")
        return given
    return next((folder / name for name in names if (folder / name).exists()), None) if folder.is_dir() else None


def _load_transformer(
    source: Path, num_attention_heads: int | None, notes: list[str]
) -> tuple[SamaTransformer3DModel, dict[str, str]]:
    """And the header of its file."""
    for folder in (source / "transformer", source):
        if (folder / "config.json").is_file():
            config = read_json_object(folder / "config.json")
            # Wan's own folders have a config.json, too, beside files of official names.
            if config.get("_class_name") != "WanModel":
                check_transformer(str(folder / "config.json"), config, may_be_stock=True)
                return load_transformer_folder(folder, config, notes), {}
            num_attention_heads = num_attention_heads or config.get("num_heads")
    weights = _official_weights(source)
    model = load_official_transformer(weights, num_attention_heads)
    notes += weights.notes
    return model, weights.header


def _official_weights(source: Path) -> Weights:
    """Of the transformer in a file, or in a folder that may hold the other parts, too."""
    if not source.is_dir():
        return read_weights(source)
    if (source / _OFFICIAL_TRANSFORMER).is_file():
        return read_weights(source / _OFFICIAL_TRANSFORMER)
    others = {*_VAE_NAMES, *_TEXT_ENCODER_NAMES}
    return read_weights(source, leave_out=others)


def _shards_beside(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if is_weights_file(file)]


def _load_vae(path: Path, notes: list[str]) -> VideoAutoencoder:
    return _load_part(path, _check_vae, load_vae_folder, load_official_vae, notes)


def _check_vae(where: str, config: Mapping[str, Any]) -> None:
    name, known = config.get("_class_name"), (AutoencoderKLWan.__name__, NANO_VAE[1])
    if name not in known:
        raise UserError(f"{Path(where).parent} holds a model of the class {name!r}; what fits is {' or '.join(known)}")
    check_vae(where, config, name)


def _load_text_encoder(path: Path, notes: list[str]) -> UMT5EncoderModel:
    return _load_part(path, check_text_encoder, load_text_encoder_folder, load_official_text_encoder, notes)


def _load_part(
    path: Path,
    check: Callable[[str, Mapping[str, Any]], None],
    load_folder: Callable[[Path, Mapping[str, Any], list[str]], Any],
    load_official: Callable[[Weights], Any],
    notes: list[str],
) -> Any:
    """From a folder of diffusers' or transformers', or a file of official names."""
    if (path / "config.json").is_file():
        config = read_json_object(path / "config.json")
        check(str(path / "config.json"), config)
        return load_folder(path, config, notes)
    weights = read_weights(path)
    part = load_official(weights)
    notes += weights.notes
    return part


def _load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    if not path.is_dir():
        raise UserError(f"{path} is a file; give the folder of the tokenizer")
    return load_tokenizer(path)


def _check_fit(parts: Parts) -> None:
    """Raises UserError for parts of different models."""
    taken, vae, text_encoder = parts.transformer.config, parts.vae, parts.text_encoder
    if vae is not None and vae.config.z_dim != taken.in_channels:
        raise UserError(
            f"the VAE has {vae.config.z_dim} latent channels and the transformer takes {taken.in_channels}: they are "
            "of different models (Wan2.1's has 16, Wan2.2-5B's has 48); give the one that came with the transformer"
        )
    if text_encoder is not None and text_encoder.config.d_model != taken.text_dim:
        raise UserError(
            f"the text encoder's features are {text_encoder.config.d_model} wide and the transformer takes "
            f"{taken.text_dim}: they are of different models; give the one that came with the transformer"
        )


def _settle(parts: Parts, source: Path, index: Mapping[str, Any], header: Mapping[str, Any], notes: list[str]) -> None:
    """Settings and scheduler: the source's own if it has them, else those of the size that the model has."""
    parts.scheduler = _load_scheduler(source, index, header.get("scheduler"))
    if index.get("_class_name") == SamaPipeline.__name__:
        parts.settings = _known_settings(index)
    elif header:
        parts.settings = _known_settings(header.get("settings") or {})
    else:
        parts.settings = _settings_of_its_size(parts, source, notes)


def _known_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """All that the pipeline takes beside its parts."""
    names = vars(PipelineSettings())
    return {name: value for name, value in found.items() if name in names}


def _settings_of_its_size(parts: Parts, source: Path, notes: list[str]) -> dict[str, Any]:
    assert parts.vae is not None
    factor = parts.vae.config.scale_factor_spatial
    known = preset_of(parts.transformer.config)
    name = known or nearest_preset(factor)
    settings = dict(vars(PRESETS[name].settings))
    if known is None:
        notes.append(
            f"{source.name} is of none of the sizes that are known ({', '.join(PRESETS)}); it got the settings of "
            f"{name}, whose VAE also makes one latent of {factor} x {factor} pixels: correct {INDEX} if they are wrong"
        )
    own = getattr(parts.scheduler, "config", {})
    shift = own.get("flow_shift", own.get("shift"))
    return settings | ({} if shift is None else {"default_flow_shift": shift})


def _load_scheduler(source: Path, index: Mapping[str, Any], header: Any) -> Any:
    """The source's own, or None."""
    if index.get("scheduler"):
        config = read_json_object(source / "scheduler" / "scheduler_config.json")
    elif isinstance(header, Mapping):
        config = dict(header)
    else:
        return None
    scheduler_class = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise UserError(f"the scheduler of {source} is of an unknown class: {config.get('_class_name')!r}")
    try:
        return scheduler_class.from_config(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"the scheduler's configuration in {source} does not fit ({error})") from error


# Writing


def _write_diffusers(folder: Path, parts: Parts) -> None:
    if parts.vae is None:
        parts.transformer.save_pretrained(folder)
        return
    parts.pipeline().save_pretrained(folder)
    if parts.tokenizer_folder is not None:
        shutil.rmtree(folder / "tokenizer")
        _copy_tokenizer(parts.tokenizer_folder, folder / "tokenizer")


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """As it is: saved by transformers, its files would also say how they were loaded and last used."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _write_official(folder: Path, parts: Parts, notes: list[str]) -> None:
    """The release's files; what its names cannot say is in their headers, and what has no such name beside them."""
    folder.mkdir()
    pipeline = {} if parts.vae is None else {_PIPELINE_KEY: _pipeline_entry(parts)}
    header = official_header(parts.transformer.config, **pipeline)
    _save(official_transformer_state(parts.transformer), folder / _OFFICIAL_TRANSFORMER, header)
    if isinstance(parts.vae, AutoencoderKLWan):
        name = _OFFICIAL_WAN22_VAE if parts.vae.config.is_residual else _OFFICIAL_VAE
        _save(official_vae_state(parts.vae), folder / name, official_header(parts.vae.config))
    elif parts.vae is not None:
        parts.vae.save_pretrained(folder / "vae")
        notes.append("this VAE has no official names; it is kept as diffusers' class, in the folder vae")
    if parts.text_encoder is not None:
        config = official_header(parts.text_encoder.config.to_dict())
        _save(official_text_encoder_state(parts.text_encoder), folder / _OFFICIAL_TEXT_ENCODER, config)
    if parts.tokenizer_folder is not None:
        _copy_tokenizer(parts.tokenizer_folder, folder / _TOKENIZER_NAMES[0])


def _pipeline_entry(parts: Parts) -> dict[str, Any]:
    """Settings and scheduler, with every default said."""
    pipe = parts.pipeline()
    scheduler = pipe.scheduler.config
    public = {name: value for name, value in scheduler.items() if not name.startswith("_")}
    return {
        "settings": _known_settings(pipe.config),
        "scheduler": {"_class_name": type(pipe.scheduler).__name__, **public},
    }


def _save(state: StateDict, file: Path, header: dict[str, str]) -> None:
    save_file({key: value.contiguous() for key, value in state.items()}, file, metadata=header)
