"""A folder of tensors by key: safetensors shards that stream, written aside by any number of processes at once.

Shards never change once they are there and have names of their own, so writers do not meet. A shard's header lists its
keys; `index.json` repeats them so that opening a large store need not read every header, and may lag behind. By hand,
since safetensors has no store of many files, and WebDataset's is read in order, not by key.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..system.errors import UserError
from ..system.files import written_aside

INDEX = "index.json"
SHARD_BYTES = 64 * 2**20


class TensorStore:
    """Reads a store; a folder that is not there yet is an empty one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.shard_of = dict(_entries(folder))
        self._opened: dict[str, safe_open] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.shard_of

    def __len__(self) -> int:
        return len(self.shard_of)

    def __getitem__(self, key: str) -> torch.Tensor:
        """Raises KeyError for an unknown key."""
        name = self.shard_of[key]
        if name not in self._opened:
            self._opened[name] = _open(self.folder / name)
        return self._opened[name].get_tensor(key)

    def write_index(self) -> None:
        """Lists what the store held when it was opened."""
        shards: dict[str, list[str]] = {}
        for key, name in self.shard_of.items():
            shards.setdefault(name, []).append(key)
        with written_aside(self.folder / INDEX) as aside:
            aside.write_text(json.dumps(shards))


class StoreWriter:
    """Adds to a store what it lacks. Leaving the context writes the rest, after an error too: work is not lost.

    Args:
        folder: is made if need be.
        shard_bytes: a shard is written as soon as it is as large as this.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shard_bytes = folder, shard_bytes
        self.stored = TensorStore(folder)
        self.added: set[str] = set()
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self.stored or key in self.added

    def add(self, key: str, tensor: torch.Tensor) -> None:
        # A clone of its own: safetensors refuses views that share memory.
        self._pending[key] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        self._pending_bytes += tensor.nbytes
        self.added.add(key)
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            with written_aside(self.folder / f"shard-{uuid.uuid4().hex}.safetensors") as aside:
                # Not `save_file`: that gives files which only their owner may read.
                aside.write_bytes(save(self._pending))
            self._pending, self._pending_bytes = {}, 0

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


def _entries(folder: Path) -> Iterator[tuple[str, str]]:
    """(key, name of its shard) of all shards that are there."""
    index = folder / INDEX
    listed = json.loads(index.read_text()) if index.is_file() else {}
    for shard in sorted(folder.glob("shard-*.safetensors")):
        keys = listed[shard.name] if shard.name in listed else _open(shard).keys()
        yield from ((key, shard.name) for key in keys)


def _open(shard: Path) -> safe_open:
    try:
        return safe_open(shard, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"the shard {shard} is broken ({error}); delete it and run 'sama data cache' again") from error
