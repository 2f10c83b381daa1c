"""Weights that stay on disk: read when a module needs them, the next block's meanwhile, and dropped after it.

accelerate's hooks ask for the tensors; here is where they come from. A model needs the memory of two blocks at a time,
and reads its files once per forward pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate import cpu_offload
from accelerate.utils import set_module_tensor_to_device
from safetensors import safe_open
from torch import nn

from ..system.errors import UserError
from .strict_loading import check_finite, checked_empty, find_weights, read_folder_specs, refusing, stored_dtypes
from .weight_files import WeightFiles

# What is read as a whole and ahead; all else as it is called.
_BLOCKS = ["WanTransformerBlock", "UMT5Block"]
Model = TypeVar("Model", bound=nn.Module)


def without_adapters(name: str) -> str:
    """A parameter's name as it was before adapters wrapped its layer."""
    return name.replace(".base_layer.", ".")


class StoredTensor(NamedTuple):
    """Where a tensor is: a safetensors file, its name there, and what it becomes."""

    file: Path
    name: str
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        """A copy that does not depend on the file, so that no page of the file stays mapped."""
        with safe_open(self.file, framework="pt") as opened:
            stored = opened.get_tensor(self.name)
            return stored.to(self.dtype) if stored.dtype != self.dtype else stored.clone()


class StreamedWeights(Mapping[str, torch.Tensor]):
    """A model's tensors by name, each read at every access, and checked at its first.

    Args:
        tensors: where each is, or itself where it is in memory.
        blocks: names of tensors that are asked for together, in the order in which the model does so; a thread reads
            the next block's while one is used.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor | torch.Tensor], blocks: Sequence[Sequence[str]]):
        self._tensors, self._blocks = tensors, blocks
        self._block_of = {name: number for number, names in enumerate(blocks) for name in names}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._ahead: dict[str, Future[torch.Tensor]] = {}
        self._current: int | None = None
        self._checked: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        number = self._block_of.get(name)
        if number is None:
            return self._read(name)
        ahead = self._ahead.pop(name, None)
        if number != self._current:
            self._current = number
            following = self._blocks[(number + 1) % len(self._blocks)] if len(self._blocks) > 1 else ()
            for key in self._ahead.keys() - {*self._blocks[number], *following}:  # of a block that was skipped
                self._ahead.pop(key).cancel()
            self._ahead |= {key: self._reader.submit(self._read, key) for key in following if key not in self._ahead}
        return self._read(name) if ahead is None else ahead.result()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _read(self, name: str) -> torch.Tensor:
        stored = self._tensors[name]
        if isinstance(stored, torch.Tensor):
            return stored
        tensor = stored.read()
        if name not in self._checked:
            check_finite({name: tensor}, stored.file)
            self._checked.add(name)
        return tensor


def empty_part(
    cls: type[Model], folder: Path, config: Mapping[str, Any], *, dtype: torch.dtype
) -> tuple[Model, dict[str, StoredTensor]]:
    """As `load_part`, without storage, and where its tensors are, for `stream_weights`.

    Raises:
        UserError: as `load_part`, and for weights in PyTorch's format. Those that are not finite are refused as they
            are read.
    """
    weights, specs = find_weights(cls, folder, config)
    if not weights.is_safetensors:
        raise UserError(
            f"the weights in {folder} are in PyTorch's format, which is not read in parts; write them as safetensors: "
            f"sama convert {folder.parent} FOLDER"
        )
    files = {key: file for file in weights.files for key in read_folder_specs(WeightFiles((file,), None, True))}
    names = {key: key for key in files}
    with refusing(folder):
        tied: dict[str, str] = getattr(cls, "_tied_weights_keys", None) or {}
        for one, other in [*tied.items(), *((other, one) for one, other in tied.items())]:
            if one not in names and other in names:  # one tensor under two names, stored once
                names[one], specs[one] = names[other], specs[other]
        model: Any = checked_empty(cls, folder, specs)
        dtypes = stored_dtypes(model, dtype)
    stored = {name: StoredTensor(files[key], key, dtypes[name]) for name, key in names.items()}
    for name, tensor in stored.items():
        set_module_tensor_to_device(model, name, "meta", dtype=tensor.dtype)
    return model.eval(), stored


def read_into(model: nn.Module, stored: Mapping[str, StoredTensor], names: Iterable[str]) -> None:
    """Read some of a model's parameters into memory, to stay there."""
    for name in names:
        tensor = stored[name].read()
        check_finite({name: tensor}, stored[name].file)
        set_module_tensor_to_device(model, name, "cpu", value=tensor, dtype=tensor.dtype)


def stream_weights(model: nn.Module, stored: Mapping[str, StoredTensor], device: torch.device) -> None:
    """Let a model run on `device` with weights from disk; parameters that have storage already keep it.

    Args:
        stored: of every tensor without storage, by the names that they have without adapters.
    """
    tensors = {
        name: stored[without_adapters(name)] if parameter.is_meta else parameter.detach()
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    blocks = [
        [f"{prefix}.{name}" for name, _ in block.named_parameters()]
        for prefix, block in model.named_modules()
        if type(block).__name__ in _BLOCKS
    ]
    weights: Any = StreamedWeights(tensors, blocks)
    cpu_offload(model, device, state_dict=weights, preload_module_classes=_BLOCKS)
