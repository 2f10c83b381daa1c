"""Weights that stay on disk: read when a module needs them, the next block's meanwhile, and dropped after it.

accelerate's hooks ask for the tensors; here is where they come from. A model needs the memory of two blocks at a time,
and reads its files once per forward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
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


class StoredTensor(NamedTuple):
    """Where a tensor is: a safetensors file, and its name there."""

    file: Path
    name: str

    def read(self, dtype: torch.dtype) -> torch.Tensor:
        """A copy that does not depend on the file, so that no page of the file stays mapped."""
        with safe_open(self.file, framework="pt") as opened:
            stored = opened.get_tensor(self.name)
            return stored.to(dtype) if stored.dtype != dtype else stored.clone()


class StreamedWeights(Mapping[str, torch.Tensor]):
    """A model's tensors by name, each read at every access, and checked at its first.

    Args:
        stored: of all tensors.
        dtypes: what each becomes.
        blocks: names of tensors that are asked for together, in the order in which the model does so; a thread reads
            the next block's while one is used.
    """

    def __init__(
        self, stored: Mapping[str, StoredTensor], dtypes: Mapping[str, torch.dtype], blocks: Sequence[Sequence[str]]
    ):
        self._stored, self._dtypes, self._blocks = stored, dtypes, blocks
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
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def _read(self, name: str) -> torch.Tensor:
        tensor = self._stored[name].read(self._dtypes[name])
        if name not in self._checked:
            check_finite({name: tensor}, self._stored[name].file)
            self._checked.add(name)
        return tensor


def stream_weights(
    model: nn.Module, stored: Mapping[str, StoredTensor], dtypes: Mapping[str, torch.dtype], device: torch.device
) -> None:
    """Let a model without storage run on `device` with weights from disk.

    Args:
        stored, dtypes: of every tensor of its state dict.
    """
    for name, _ in list(model.named_parameters(remove_duplicate=False)):
        set_module_tensor_to_device(model, name, "meta", dtype=dtypes[name])
    blocks = [
        [f"{prefix}.{name}" for name, _ in block.named_parameters()]
        for prefix, block in model.named_modules()
        if type(block).__name__ in _BLOCKS
    ]
    weights = StreamedWeights(stored, dtypes, blocks)
    cpu_offload(model, device, state_dict=weights, preload_module_classes=_BLOCKS)  # pyright: ignore[reportArgumentType] (any mapping)


def stream_part(
    cls: type[Model], folder: Path, config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device
) -> Model:
    """As `load_part`, and the weights stay on disk: those that are not finite are refused as they are read.

    Raises:
        UserError: as `load_part`, and for weights in PyTorch's format.
    """
    weights, specs = find_weights(cls, folder, config)
    if not weights.is_safetensors:
        raise UserError(
            f"the weights in {folder} are in PyTorch's format, which is not read in parts; write them as safetensors: "
            f"sama convert {folder.parent} FOLDER"
        )
    stored: dict[str, StoredTensor] = {}
    for file in weights.files:
        stored |= {key: StoredTensor(file, key) for key in read_folder_specs(WeightFiles((file,), None, True))}
    with refusing(folder):
        tied: dict[str, str] = getattr(cls, "_tied_weights_keys", None) or {}
        for one, other in [*tied.items(), *((other, one) for one, other in tied.items())]:
            if one not in stored and other in stored:  # one tensor under two names, stored once
                stored[one], specs[one] = stored[other], specs[other]
        model: Any = checked_empty(cls, folder, specs)
        stream_weights(model, stored, stored_dtypes(model, dtype), device)
    return model.eval()
