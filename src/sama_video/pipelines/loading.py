"""A pipeline from a preset's name, a local folder, a converted checkpoint or a hub id, in its place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan, SchedulerMixin, UniPCMultistepScheduler
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from ..models.autoencoder_sama_nano import AutoencoderSamaNano
from ..models.official_names import FULL_KEYS
from ..models.presets import PipelineSettings
from ..models.streamed_weights import StoredTensor, empty_part
from ..models.strict_loading import check_finite, load_part, quiet_libraries
from ..models.transformer_sama import SamaTransformer3DModel
from ..models.weight_files import first_line, read_json_object
from ..system.errors import UserError
from .configuration import check_scheduler
from .pipeline_sama import SamaPipeline
from .placement import move_parts, narrowing
from .selection import WEIGHT_STEMS, Loading, Model, find_model, local_lora

_MODEL_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (SamaTransformer3DModel, AutoencoderKLWan, AutoencoderSamaNano, UMT5EncoderModel)
}
# Without one of these a tokenizer's class makes up a vocabulary of its own.
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")


def load_pipeline(
    model: str = "nano",
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = "full",
    offload: str = "none",
    storage_dtype: str = "same",
    scheduler: str = "euler",
    vae_tiling: bool = False,
    lora: list[str] | None = None,
) -> SamaPipeline:
    """Load a pipeline and put it where it shall run.

    Weights are loaded strictly: all that the model has and no other, in their shapes, as floating-point numbers that
    are finite. Nothing in a folder is run, and no class is looked up that a SAMA pipeline does not have.

    Args:
        model: preset, folder or hub id (`owner/name`, or `owner/name@revision`).
        device: "auto" takes CUDA or MPS where there is one.
        dtype: "auto" is bfloat16 on an accelerator, float32 on the CPU.
        memory: "full" keeps all weights where they are used, "auto" (the command's default) as many as there is room
            for, "low" as few as possible, and sets `vae_tiling`; each only where `offload` does not say.
        offload: "model", "sequential" or "group" keep weights off the accelerator while they are not needed; "disk"
            reads them from their files as they are needed, to any device.
        storage_dtype: "float8" or "int8" (needs torchao) keeps the transformer's matrices in a byte for each number.
        scheduler: "euler" (the release's) or "unipc".
        vae_tiling: encode and decode in the release's tiles.
        lora: files, folders or hub ids, each `PATH` or `PATH:SCALE`.

    Raises:
        UserError: for anything that cannot be loaded, with how to fix it.
    """
    return load(
        Loading(
            model=find_model(model),
            device=device,
            dtype=dtype,
            memory=memory,
            offload=offload,
            storage_dtype=storage_dtype,
            scheduler=scheduler,
            vae_tiling=vae_tiling,
            lora=lora,
        )
    )


def load(loading: Loading) -> SamaPipeline:
    """As `load_pipeline`, of what was found and checked already."""
    local = replace(loading, model=_local(loading.model))
    offload, dtype = local.resolved_offload, getattr(torch, loading.precision)
    pipe, stored = _load_parts(local, offload, dtype)
    pipe.set_progress_bar_config(disable=True)
    if loading.scheduler == "unipc":
        pipe.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=pipe.config.default_flow_shift
        )
    if loading.tiles:
        pipe.enable_vae_tiling()
    if loading.loras:
        pipe.stored_weights = stored.get("transformer", {})
        load_loras(pipe, loading.loras)
        if (narrow := narrowing(loading.storage_dtype)) is not None:  # a LoRA takes its precision from its layer
            for name in pipe.transformer.state_dict():
                narrow(pipe.transformer, name)
    storage = {"storage_dtype": loading.storage_dtype, "dtype": dtype}
    move_parts(pipe, device=loading.resolved_device, offload=offload, stored=stored, **storage)
    pipe.loaded_as = replace(loading, offload=offload, vae_tiling=loading.tiles, memory="full")
    return pipe


def _local(model: Model) -> Model:
    """The model in a folder of this machine, where it is fetched to if need be."""
    if model.folder is not None:
        return model
    model.info()  # before anything large is fetched
    return find_model(SamaPipeline.download(model.name))


def _load_parts(
    loading: Loading, offload: str, dtype: torch.dtype
) -> tuple[SamaPipeline, dict[str, dict[str, StoredTensor]]]:
    """The parts one by one, each by the class that it must have, then the pipeline around them.

    Returns:
        the pipeline, and where the weights are of those parts that leave them on disk.
    """
    configs, folder = loading.model.configs, loading.model.folder
    assert folder is not None
    parts: dict[str, Any] = {}
    stored: dict[str, dict[str, StoredTensor]] = {}
    for name in WEIGHT_STEMS:
        config = getattr(configs, name)
        if config is None:
            continue
        cls = _MODEL_CLASSES[configs.components[name][1]]
        if offload == "disk" and name != "vae":
            parts[name], stored[name] = empty_part(cls, folder / name, config, dtype=dtype)
        else:
            narrow = narrowing(loading.storage_dtype) if name == "transformer" and not loading.loras else None
            parts[name] = load_part(cls, folder / name, config, dtype=dtype, narrow=narrow)
    if "tokenizer" in configs.components:
        parts["tokenizer"] = load_tokenizer(folder / "tokenizer", configs.components["tokenizer"][1])
        _check_vocabulary(folder, parts["tokenizer"], configs.text_encoder)
    if "scheduler" in configs.components:
        parts["scheduler"] = _load_scheduler(folder / "scheduler", configs.components["scheduler"][1])
    pipe = SamaPipeline(**parts, **vars(PipelineSettings.of(configs.index)))
    pipe.register_to_config(_name_or_path=str(folder))
    return pipe, stored


def load_tokenizer(folder: Path, class_name: str = "AutoTokenizer") -> PreTrainedTokenizerBase:
    """A tokenizer of transformers from its folder; no code of the folder's runs.

    Raises:
        UserError: for a folder without a vocabulary, files that are damaged, or a class that is no tokenizer.
    """
    cls: Any = getattr(transformers, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedTokenizerBase | AutoTokenizer)):
        raise UserError(f"{folder} is of class {class_name}, which is no tokenizer that transformers has; update it")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"{folder} has no vocabulary ({' or '.join(_TOKENIZER_FILES)}); download the model again")
    for file in sorted(folder.glob("*.json")):
        read_json_object(file)
    try:
        with quiet_libraries():
            tokenizer = cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer("a probe")
    except Exception as error:  # whatever a library says of what came from outside
        raise UserError(f"cannot load the tokenizer in {folder} ({first_line(error)}); download it again") from error
    return tokenizer


def _check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase, text_encoder: dict[str, Any] | None) -> None:
    if text_encoder is not None and len(tokenizer) > text_encoder["vocab_size"]:
        raise UserError(
            f"the parts in {folder} do not belong together: the tokenizer has {len(tokenizer)} tokens, the text "
            f"encoder {text_encoder['vocab_size']}; download the model again"
        )


def _load_scheduler(folder: Path, class_name: str) -> SchedulerMixin:
    cls = getattr(diffusers, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise UserError(f"{folder} is of class {class_name}, which is no scheduler that diffusers has; update it")
    file = folder / "scheduler_config.json"
    check_scheduler(str(file), read_json_object(file), class_name)
    try:
        with quiet_libraries():
            scheduler: Any = cls.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a library says of what came from outside
        raise UserError(f"cannot load the scheduler in {folder} ({first_line(error)}); download it again") from error
    return scheduler


def load_loras(pipe: SamaPipeline, loras: list[tuple[str, float]]) -> None:
    """Give a pipeline without adapters these LoRA files, each a path and its scale.

    Raises:
        UserError: for a file that is no LoRA of this model, or whose weights are not finite.
    """
    names = []
    for number, (path, _) in enumerate(loras):
        name = f"lora_{number}"
        try:
            pipe.load_lora_weights(local_lora(path), adapter_name=name)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except Exception as error:  # whatever a library says of what came from outside
            raise UserError(f"the LoRA {path} does not fit this model ({first_line(error)})") from error
        weights = ((key, value) for key, value in pipe.transformer.named_parameters() if not value.is_meta)
        own = {key: value for key, value in weights if f".{name}." in key or key.startswith(FULL_KEYS)}
        check_finite(own, f"the LoRA {path}")
        names.append(name)
    pipe.set_adapters(names, [scale for _, scale in loras])
