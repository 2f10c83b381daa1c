"""LoRA files: low-rank adapters, and the small parts that were trained in full beside them.

A file holds diffusers' keys (`transformer.<module>.lora_A.weight`), under their own names
(`transformer.type_embedding.weight`) weights that take the place of the model's, and changes of whole weights and
biases (`transformer.<module>.diff`, `.diff_b`). Its header says how the streams came in (`SETTINGS`). Files of other
trainers are read as `models/lora_namings.py` says.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import set_module_tensor_to_device
from diffusers.hooks.group_offloading import _is_group_offload_enabled
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, _fetch_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from ..models.checkpoint_files import StateDict, header_entry, read_weights
from ..models.lora_namings import convert_lora_state
from ..models.shapes import SEMANTIC_GRID
from ..models.streamed_weights import StoredTensor, read_into, without_adapters
from ..models.weight_files import listed, read_json_object

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for in a folder
PEFT_CONFIG = "adapter_config.json"  # what peft's own `save_pretrained` writes beside the weights
PREFIX, TRANSFORMER = "sama.", "transformer."
_DIFFERENCES = (".diff", ".diff_b")
# Of the transformer's configuration and the pipeline's, what a LoRA is trained with.
SETTINGS = ("roles", "source", "semantic_prediction", "semantic_grid", "num_semantic_tokens")


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """What a LoRA file holds.

    Args:
        state: under one set of names, with all scales in it (`convert_lora_state`).
        metadata: entries of its header that are ours (`sama.roles`).
        notes: sentences on what was done to read it.
    """

    state: StateDict
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        header = {"format": "pt"}
        if self.metadata:
            header[LORA_ADAPTER_METADATA_KEY] = json.dumps(self.metadata)
        save_file({key: value.contiguous() for key, value in self.state.items()}, path, metadata=header)

    @classmethod
    def read(cls, path: Path) -> "LoraFile":
        """From a file or folder.

        Raises:
            UserError: for what is no LoRA of this model's modules, saying what it is.
        """
        weights = read_weights(path)
        metadata = header_entry(weights.header, LORA_ADAPTER_METADATA_KEY)
        beside = (path if path.is_dir() else path.parent) / PEFT_CONFIG
        return cls.of(
            weights.state, read_json_object(beside) if beside.is_file() else metadata, metadata, weights.notes
        )

    @classmethod
    def of(
        cls, state: StateDict, config: Mapping[str, Any], metadata: Mapping[str, Any], notes: Iterable[str] = ()
    ) -> "LoraFile":
        """From a state of any trainer's names; `config` is peft's."""
        plain = {key.removeprefix(TRANSFORMER): value for key, value in config.items()}
        ours = {key: value for key, value in metadata.items() if key.startswith(PREFIX)}
        return cls(state=convert_lora_state(state, plain), metadata=ours, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class FullChanges:
    """What one adapter does to whole parameters: takes their place, and adds to them."""

    trained: StateDict
    differences: StateDict

    @classmethod
    def of(cls, state: StateDict, parameters: Mapping[str, torch.Tensor]) -> "FullChanges":
        """Raises ValueError for parameters that the model does not have."""
        trained = {key: value for key, value in state.items() if not key.endswith(_DIFFERENCES)}
        differences = {_parameter_of(key, parameters): state[key] for key in state.keys() - trained.keys()}
        changed = (*trained.items(), *differences.items())
        unfit = [key for key, value in changed if key not in parameters or parameters[key].shape != value.shape]
        if unfit:
            raise ValueError(f"the model has no weights of these names and shapes: {listed(unfit)}")
        return cls(trained=trained, differences=differences)

    @property
    def names(self) -> set[str]:
        return self.trained.keys() | self.differences.keys()


def _parameter_of(key: str, parameters: Mapping[str, torch.Tensor]) -> str:
    """`blocks.0.norm2.diff` changes `blocks.0.norm2.weight`; a table that is no module's changes itself."""
    module, _, leaf = key.rpartition(".")
    if leaf == "diff_b":
        return f"{module}.bias"
    return module if module in parameters else f"{module}.weight"


def _own_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """By the names that they have without adapters."""
    return {without_adapters(name): value for name, value in transformer.named_parameters()}


class FullParts:
    """Parameters that LoRA files change beside their low-rank changes, as far as their adapters count.

    One is `base + sum over adapters of scale * (trained - base)`, or `... scale * difference`, as it is with low-rank
    changes.
    """

    def __init__(self) -> None:
        self.base: StateDict = {}
        self.changes: dict[str, FullChanges] = {}

    def add(self, transformer: nn.Module, adapter: str, state: StateDict, stored: Mapping[str, StoredTensor]) -> None:
        """Of parameters without storage, those that change are read from where they are `stored`.

        Raises ValueError for weights that the model does not have.
        """
        parameters = _own_parameters(transformer)
        changes = FullChanges.of(state, parameters)
        read_into(transformer, stored, [name for name in changes.names if parameters[name].is_meta])
        parameters = _own_parameters(transformer)
        for key in changes.names - self.base.keys():
            self.base[key] = parameters[key].detach().clone()
        self.changes[adapter] = changes

    def are_offloaded(self, transformer: nn.Module) -> bool:
        """Whether hooks bring them in from copies, so that changes to them are lost."""
        parameters = _own_parameters(transformer) if self.base else {}
        empty = any(parameters[name].is_meta for name in self.base)
        return empty or (bool(self.base) and _is_group_offload_enabled(transformer))

    @torch.no_grad()
    def mix(self, transformer: nn.Module, scales: Mapping[str, float]) -> None:
        """Give the model its parameters for these adapters; without any, its own."""
        parameters = _own_parameters(transformer) if self.base else {}
        for key, base in self.base.items():
            mixed = base.float()
            for adapter, scale in scales.items():
                changes = self.changes.get(adapter)
                if changes is not None and key in changes.trained:
                    trained = changes.trained[key].to(base.device, torch.float32)
                    # Exactly the trained weight for a single adapter of scale 1.
                    mixed = torch.lerp(base.float(), trained, scale) + (mixed - base.float())
                if changes is not None and key in changes.differences:
                    mixed = mixed + scale * changes.differences[key].to(base.device, torch.float32)
            parameters[key].copy_(mixed)


def _fill(transformer: nn.Module, adapter: str, low_rank: StateDict) -> None:
    """Give an adapter's layers without storage their matrices, in the precision that peft chose for them."""
    parameters = dict(transformer.named_parameters())
    for key, value in low_rank.items():
        module, _, matrix = key.removeprefix(TRANSFORMER).rpartition(".lora_")
        kind, _, leaf = matrix.partition(".")
        name = f"{module}.lora_{kind}.{adapter}.{leaf}"
        set_module_tensor_to_device(transformer, name, "cpu", value=value, dtype=parameters[name].dtype)


def _fetched(repository: str, **kwargs: Any) -> tuple[StateDict, dict[str, Any], dict[str, Any]]:
    """State and header of a hub repository's LoRA, before diffusers' converters, which drop what they do not know."""
    names = ("weight_name", "local_files_only", "cache_dir", "force_download", "proxies", "token", "revision")
    options: dict[str, Any] = {name: kwargs.get(name) for name in (*names, "subfolder")}
    state, metadata = _fetch_state_dict(
        repository,
        **options,
        use_safetensors=True,
        user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
        allow_pickle=False,
    )
    return state, metadata or {}, metadata or {}


def _read_lora(source: str | os.PathLike | StateDict, **kwargs: Any) -> LoraFile:
    if isinstance(source, dict):
        return LoraFile.of(source, {}, {})
    path = Path(source, kwargs.get("subfolder") or "", kwargs.get("weight_name") or "")
    return LoraFile.read(path) if path.exists() else LoraFile.of(*_fetched(str(source), **kwargs))


class SamaLoraLoaderMixin(WanLoraLoaderMixin):
    """diffusers' LoRA methods for files that also hold parts trained in full, and for other tools' names.

    Load adapters before offloading: the full parts are put where the weights lie.
    """

    full_parts: FullParts
    own_streams: dict[str, Any]
    lora_notes: list[str]
    stored_weights: Mapping[str, StoredTensor] = MappingProxyType({})  # of a transformer that has not read them

    def forget_adapters(self) -> None:
        """What the model is now is its own."""
        self.full_parts, self.own_streams, self.lora_notes = FullParts(), {}, []

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | os.PathLike | StateDict, **kwargs: Any
    ) -> Any:
        """The state under diffusers' names, and with `return_lora_metadata=True` the header's entries, too.

        Raises:
            UserError: for a file that is no LoRA of this model's modules.
        """
        with_metadata = kwargs.pop("return_lora_metadata", False)
        lora = _read_lora(pretrained_model_name_or_path_or_dict, **kwargs)
        return (lora.state, lora.metadata) if with_metadata else lora.state

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | StateDict,
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA with all that was trained beside it, and put the streams as they were in its training.

        Args:
            pretrained_model_name_or_path_or_dict: file, folder, hub id or state.
            adapter_name: chosen if None.
            hotswap: replace the adapter of this name.

        Raises:
            UserError: for a file that is no LoRA of this model's modules.
            ValueError: for full parts of other sizes, streams that other loaded adapters were not trained with, or a
                model whose weights stay on disk.
        """
        if self.loaded_as is not None and self.loaded_as.offload == "disk":
            raise ValueError(
                "weights that stay on disk take no more adapters; give the LoRA files to "
                "load_pipeline(..., offload='disk', lora=[...])"
            )
        low_cpu_mem_usage = kwargs.pop("low_cpu_mem_usage", bool(self.stored_weights))
        lora = _read_lora(pretrained_model_name_or_path_or_dict, **kwargs)
        adapter_name = adapter_name or f"default_{len(self._adapters())}"
        full = {key.removeprefix(TRANSFORMER): value for key, value in lora.state.items() if ".lora_" not in key}
        low_rank = {key: value for key, value in lora.state.items() if ".lora_" in key}
        self._put_streams({key.removeprefix(PREFIX): value for key, value in lora.metadata.items()})
        try:
            self.full_parts.add(self.transformer, adapter_name, full, self.stored_weights)
            self._check_low_rank(low_rank)
            self.load_lora_into_transformer(
                low_rank or self._no_low_rank(),
                transformer=self.transformer,
                adapter_name=adapter_name,
                _pipeline=self,
                low_cpu_mem_usage=low_cpu_mem_usage,
                hotswap=hotswap,
            )
            if self.stored_weights:  # peft has put the matrices where their layers' weights are: nowhere
                _fill(self.transformer, adapter_name, low_rank)
        except Exception:
            self._settle()
            raise
        self.lora_notes += lora.notes
        self._mix_full_parts()

    def check_full_parts(self) -> None:
        """Raises ValueError if weights that have to change are offloaded."""
        if self.full_parts.are_offloaded(self.transformer):
            raise ValueError(
                "this LoRA holds weights that cannot be scaled while they are offloaded: set its scale before "
                "offloading (`load_pipeline(..., lora=['PATH:SCALE'])`, or `set_adapters`)"
            )

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        self.check_full_parts()
        super().set_adapters(adapter_names, adapter_weights)
        self._mix_full_parts()

    @contextmanager
    def _scaled_lora(self, scale: float) -> Iterator[None]:
        """A call's LoRA scale times those of `set_adapters`, for low-rank layers and full parts alike.

        Without effect where no LoRA is loaded, or where it was fused, as in diffusers.

        Raises:
            ValueError: if weights that have to change are offloaded.
        """
        layers = [layer for layer in self._lora_layers() if not layer.merged]
        if scale == 1 or not layers:
            yield
            return
        self.check_full_parts()
        before = [dict(layer.scaling) for layer in layers]
        try:
            for layer in layers:
                layer.scale_layer(scale)
            self._mix_full_parts()
            yield
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling.update(scaling)
            self._mix_full_parts()

    def disable_lora(self) -> None:
        """The model without adapters; those that are fused are taken out of the weights."""
        if self._is_fused:
            self.unfuse_lora()
        self.check_full_parts()
        super().disable_lora()
        self._mix_full_parts()

    def enable_lora(self) -> None:
        self.check_full_parts()
        super().enable_lora()
        self._mix_full_parts()

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        super().delete_adapters(adapter_names)
        self._settle()

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """As diffusers'; full parts count as much as the adapters, and stay when these are unloaded."""
        # Before the low-rank changes, which may go into the same weights.
        scales = {name: scale * lora_scale for name, scale in self._scales().items()}
        self.full_parts.mix(
            self.transformer, {name: scales[name] for name in scales if name in (adapter_names or scales)}
        )
        super().fuse_lora(components or ["transformer"], lora_scale, safe_fusing, adapter_names, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """As diffusers'; full parts are again as their adapters count."""
        super().unfuse_lora(components or ["transformer"], **kwargs)
        self._mix_full_parts()

    def unload_lora_weights(self) -> None:
        """The model as it was before, or, after `fuse_lora`, with all that was fused."""
        fused = self._is_fused
        super().unload_lora_weights()
        if fused:
            self.forget_adapters()
        self._settle()

    def _adapters(self) -> list[str]:
        return list(getattr(self.transformer, "peft_config", {}))

    def _lora_layers(self) -> Iterator[LoraLayer]:
        return (module for module in self.transformer.modules() if isinstance(module, LoraLayer))

    @property
    def _is_fused(self) -> bool:
        return any(layer.merged for layer in self._lora_layers())

    def _check_low_rank(self, state: StateDict) -> None:
        """Raises ValueError for modules that the model does not have; peft leaves them out and only warns."""
        unfit = []
        for key, value in state.items():
            name, _, leaf = key.removeprefix(TRANSFORMER).rpartition(".lora_")
            shape = self._weight_shape(name)
            fits = shape is not None and (
                value.shape[1:] == shape[1:] if leaf.startswith("A") else value.shape[0] == shape[0]
            )
            unfit += [] if fits else [f"{name} {tuple(value.shape)}"]
        if unfit:
            raise ValueError(f"the model has no modules of these names and sizes: {listed(unfit)}")

    def _weight_shape(self, name: str) -> tuple[int, ...] | None:
        try:
            module = self.transformer.get_submodule(name)
        except AttributeError:
            return None
        module = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if isinstance(module, nn.Linear):  # also quantised ones, whose weights are packed
            return module.out_features, module.in_features
        return tuple(module.weight.shape) if isinstance(module, nn.Conv3d) else None

    def _no_low_rank(self) -> StateDict:
        """A change by zero, for a file without any: peft knows adapters only by their layers."""
        out_features, in_features = self.transformer.proj_out.weight.shape
        key = f"{TRANSFORMER}proj_out.lora_"
        return {f"{key}A.weight": torch.zeros(1, in_features), f"{key}B.weight": torch.zeros(out_features, 1)}

    @property
    def streams(self) -> dict[str, Any]:
        """`SETTINGS` as they are."""
        config = {**self.config, **self.transformer.config}
        return {name: config[name] for name in SETTINGS}

    def _put_streams(self, streams: dict[str, Any]) -> None:
        own = self.streams
        streams = streams and {"semantic_grid": SEMANTIC_GRID} | streams  # which older files do not name
        if not streams or streams == own:
            return
        if self._adapters():
            raise ValueError(
                f"this LoRA was trained with {streams}, those that are loaded with {own}; unload them first"
            )
        self.own_streams = self.own_streams or own
        self.register_to_config(num_semantic_tokens=streams["num_semantic_tokens"])
        self.transformer.reconfigure(**{name: streams[name] for name in SETTINGS if name != "num_semantic_tokens"})

    def _settle(self) -> None:
        """After adapters have left: with the last one goes all that came with them."""
        self._mix_full_parts()
        if not self._adapters():
            self._put_streams(self.own_streams)
            self.forget_adapters()

    def _scales(self) -> dict[str, float]:
        """How much each active adapter counts; none while adapters are disabled."""
        scales: dict[str, float] = {}
        for layer in self._lora_layers():
            if not layer.disable_adapters:
                for name in layer.active_adapters:
                    if name in layer.scaling:
                        # A layer's factor is the adapter's scale times alpha / rank.
                        scales.setdefault(name, layer.scaling[name] * layer.r[name] / layer.lora_alpha[name])
        return scales

    def _mix_full_parts(self) -> None:
        # What is fused stays as it is until it is taken out: low-rank changes may be in the same weights.
        if not self._is_fused:
            self.full_parts.mix(self.transformer, self._scales())
