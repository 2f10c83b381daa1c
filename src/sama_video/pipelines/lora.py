"""LoRA files: low-rank adapters, and the small parts that were trained in full beside them.

A file holds diffusers' keys (`transformer.<module>.lora_A.weight`) and, under their own names
(`transformer.type_embedding.weight`), weights that take the place of the model's. Its header says how the streams came
in (`SETTINGS`). DiffSynth's and ComfyUI's names are read as well.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from ..models.convert_checkpoint import StateDict, convert_lora_state, read_header, read_state_dict

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for in a folder
PREFIX = "sama."
# Of the transformer's configuration and the pipeline's, what a LoRA is trained with.
SETTINGS = ("roles", "source", "semantic_prediction", "num_semantic_tokens")


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """What a LoRA file holds.

    Args:
        state: under diffusers' names.
        metadata: entries of its header: peft's (`transformer.r`) and ours (`sama.roles`).
    """

    state: StateDict
    metadata: dict[str, Any]

    def save(self, path: Path) -> None:
        header = {"format": "pt"}
        if self.metadata:
            header[LORA_ADAPTER_METADATA_KEY] = json.dumps(self.metadata)
        save_file({key: value.contiguous() for key, value in self.state.items()}, path, metadata=header)

    @classmethod
    def read(cls, path: Path) -> "LoraFile":
        """From a file or folder.

        Raises:
            UserError: for what is no LoRA of this model's modules.
        """
        return cls(state=convert_lora_state(read_state_dict(path)), metadata=_read_header(path))


def _read_header(path: Path) -> dict[str, Any]:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files or files[0].suffix != ".safetensors":
        return {}
    return read_header(files[0], LORA_ADAPTER_METADATA_KEY)


class FullParts:
    """Weights of LoRA files that take the place of the model's, as far as their adapters count.

    A weight is `base + sum over adapters of scale * (trained - base)`, as it is with low-rank changes.
    """

    def __init__(self) -> None:
        self.base: StateDict = {}
        self.trained: dict[str, StateDict] = {}

    def add(self, transformer: nn.Module, adapter: str, state: StateDict) -> None:
        """Raises ValueError for weights that the model does not have."""
        weights = dict(transformer.named_parameters())
        unfit = [key for key, value in state.items() if key not in weights or weights[key].shape != value.shape]
        if unfit:
            raise ValueError(f"the model has no weights of these names and shapes: {', '.join(sorted(unfit))}")
        for key in state.keys() - self.base.keys():
            self.base[key] = weights[key].detach().clone()
        self.trained[adapter] = state

    @torch.no_grad()
    def mix(self, transformer: nn.Module, scales: Mapping[str, float]) -> None:
        """Give the model its weights for these adapters; without any, its own."""
        weights = dict(transformer.named_parameters())
        for key, base in self.base.items():
            mixed = base.float()
            for adapter, scale in scales.items():
                if key in self.trained.get(adapter, {}):
                    trained = self.trained[adapter][key].to(base.device, torch.float32)
                    # Exactly the trained weight for a single adapter of scale 1.
                    mixed = torch.lerp(base.float(), trained, scale) + (mixed - base.float())
            weights[key].copy_(mixed)


class SamaLoraLoaderMixin(WanLoraLoaderMixin):
    """diffusers' LoRA methods for files that also hold parts trained in full, and for other tools' names.

    Load adapters before offloading: the full parts are put where the weights lie.
    """

    full_parts: FullParts
    own_streams: dict[str, Any]

    def forget_adapters(self) -> None:
        """What the model is now is its own."""
        self.full_parts, self.own_streams = FullParts(), {}

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | os.PathLike | StateDict, **kwargs: Any
    ) -> Any:
        """The state under diffusers' names, and with `return_lora_metadata=True` the header's entries, too.

        Raises:
            UserError: for a file that is no LoRA of this model's modules.
        """
        with_metadata = kwargs.pop("return_lora_metadata", False)
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, dict):
            lora = LoraFile(state=convert_lora_state(source), metadata={})
        elif (path := Path(source) / (kwargs.get("weight_name") or "")).exists():
            lora = LoraFile.read(path)
        else:
            state, metadata = super().lora_state_dict(str(source), return_lora_metadata=True, **kwargs)
            lora = LoraFile(state=convert_lora_state(state), metadata=metadata or {})
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
            ValueError: for full parts of other sizes, or streams that other loaded adapters were not trained with.
        """
        low_cpu_mem_usage = kwargs.pop("low_cpu_mem_usage", False)
        state, metadata = self.lora_state_dict(
            pretrained_model_name_or_path_or_dict, return_lora_metadata=True, **kwargs
        )
        adapter_name = adapter_name or f"default_{len(self._adapters())}"
        full = {key.removeprefix("transformer."): value for key, value in state.items() if ".lora_" not in key}
        self._put_streams({key.removeprefix(PREFIX): metadata[key] for key in metadata if key.startswith(PREFIX)})
        try:
            self.full_parts.add(self.transformer, adapter_name, full)
            self.load_lora_into_transformer(
                {key: value for key, value in state.items() if ".lora_" in key},
                transformer=self.transformer,
                adapter_name=adapter_name,
                metadata={key: metadata[key] for key in metadata if not key.startswith(PREFIX)} or None,
                _pipeline=self,
                low_cpu_mem_usage=low_cpu_mem_usage,
                hotswap=hotswap,
            )
        except Exception:
            self._settle()
            raise
        self._mix_full_parts()

    def set_adapters(self, adapter_names: list[str] | str, adapter_weights: Any = None) -> None:
        super().set_adapters(adapter_names, adapter_weights)
        self._mix_full_parts()

    def disable_lora(self) -> None:
        super().disable_lora()
        self._mix_full_parts()

    def enable_lora(self) -> None:
        super().enable_lora()
        self._mix_full_parts()

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        super().delete_adapters(adapter_names)
        self._settle()

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers'; full parts count as much as the adapters, and stay when these are unloaded."""
        super().fuse_lora(*args, **kwargs)
        self._mix_full_parts()

    def unload_lora_weights(self) -> None:
        """The model as it was before, or, after `fuse_lora`, with all that was fused."""
        fused = any(layer.merged for layer in self._lora_layers())
        super().unload_lora_weights()
        if fused:
            self.forget_adapters()
        self._settle()

    def _adapters(self) -> list[str]:
        return list(getattr(self.transformer, "peft_config", {}))

    def _lora_layers(self) -> Iterator[LoraLayer]:
        return (module for module in self.transformer.modules() if isinstance(module, LoraLayer))

    @property
    def streams(self) -> dict[str, Any]:
        """`SETTINGS` as they are."""
        config = {**self.config, **self.transformer.config}
        return {name: config[name] for name in SETTINGS}

    def _put_streams(self, streams: dict[str, Any]) -> None:
        own = self.streams
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

    def _mix_full_parts(self) -> None:
        layer = next(self._lora_layers(), None)
        scales = {}
        if layer is not None and not layer.disable_adapters:
            # A layer's factor is the adapter's scale times alpha / rank.
            scales = {
                name: layer.scaling[name] * layer.r[name] / layer.lora_alpha[name]
                for name in layer.active_adapters
                if name in layer.scaling
            }
        self.full_parts.mix(self.transformer, scales)
