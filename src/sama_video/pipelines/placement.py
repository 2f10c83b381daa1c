"""Where a pipeline's weights are and in what they are stored: `load_pipeline`'s options at work.

All but `storage_dtype` leave results as they are.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
from diffusers import ContextParallelConfig
from torch import nn

from ..models.streamed_weights import StoredTensor, stream_weights
from ..system import processes
from ..system.errors import UserError
from .pipeline_sama import SamaPipeline

# Nine of ten parameters, and none of those in which a small error would show most: embeddings, norms, heads.
_BLOCK_MATRIX = re.compile(r"blocks\.\d+\.(attn1|attn2|ffn)\.((?!lora_).)*\.weight")
_FLOAT8 = torch.float8_e4m3fn
_PATIENCE = timedelta(minutes=30)  # with another process, which may be reading or writing a long clip


def narrowing(storage_dtype: str) -> Callable[[nn.Module, str], None] | None:
    """What is done with each tensor of a transformer as soon as it is loaded, given the model and the tensor's name.

    Raises:
        UserError: if a package is missing.
    """
    if storage_dtype == "same":
        return None
    narrow = _to_float8 if storage_dtype == "float8" else _to_int8()

    def narrowed(model: nn.Module, name: str) -> None:
        """Of a LoRA's layers the matrix that it changes, not its own."""
        if _BLOCK_MATRIX.fullmatch(name) is None:
            return
        layer = model.get_submodule(name.removesuffix(".weight"))
        if isinstance(layer, nn.Linear):
            narrow(layer)

    return narrowed


def _to_float8(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.to(_FLOAT8), requires_grad=False)


def _to_int8() -> Callable[[nn.Linear], None]:
    try:
        # Not among what is installed for development: it says a lot wherever it is there.
        from torchao.quantization import (  # pyright: ignore[reportMissingImports]
            Int8WeightOnlyConfig,
            quantize_,
        )
    except ImportError as error:
        raise UserError("`storage_dtype` int8 needs torchao: pip install 'sama-video[int8]'") from error

    def to_int8(layer: nn.Linear) -> None:
        quantize_(layer, Int8WeightOnlyConfig())

    return to_int8


def move_parts(
    pipe: SamaPipeline,
    *,
    device: str,
    offload: str,
    stored: Mapping[str, Mapping[str, StoredTensor]],
    storage_dtype: str,
    dtype: torch.dtype,
) -> None:
    """Move the parts, or hook them so that they are moved, or read from where they are `stored`, as they are needed."""
    transformer: Any = pipe.transformer
    if storage_dtype == "float8":  # stored so already; this widens a layer while it is used
        transformer.enable_layerwise_casting(_FLOAT8, dtype)
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
    elif offload == "disk":
        for name, tensors in stored.items():
            stream_weights(pipe.components[name], tensors, torch.device(device))
        pipe.vae.to(device)
    else:
        pipe.to(device)


def spread_sequence(pipe: SamaPipeline, device: str) -> None:
    """Spread one edit over all processes that torchrun started; each must make the same calls.

    Raises:
        UserError: for a number of processes that the model's heads do not divide among.
    """
    processes.join(torch.device(device), _PATIENCE)
    try:
        pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=processes.world_size()))
    except ValueError as error:
        raise UserError(f"one edit cannot be spread so: {error}") from error
