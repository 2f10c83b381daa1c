"""What a run's result came from, without asking a version control system: weights, data, program, machine.

`provenance.json` is written once, when a run begins. `environment.jsonl` gets a line whenever it begins or goes on,
since a run may go on elsewhere.
"""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..data.manifest import local_file
from ..files import hash_file, hash_weights, written_aside
from ..models.semantic_encoder import find_semantic_encoder
from ..pipelines.selection import weights_identity
from ..synth.engine import VERSION
from .config import DatasetConfig, TrainConfig
from .parallel import Parallel

PACKAGE = Path(__file__).parent.parent
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "av", "safetensors")


def write_provenance(config: TrainConfig, folder: Path) -> None:
    """Hashes of the initial weights, of the data's manifests and of the program; left alone if it is there.

    Raises:
        UserError: for a model or manifest that cannot be read.
    """
    note = folder / "provenance.json"
    if note.exists():
        return
    found = {
        "initial_weights": {"name": config.model.init, "hash": weights_identity(config.model.init)},
        "semantic_encoder": _identity_of_siglip(config.model.semantic_encoder),
        "data": [_identity_of(dataset) for dataset in config.data.datasets],
        "package": {"version": metadata.version("sama-video"), "sources": hash_sources()},
    }
    with written_aside(note) as aside:
        aside.write_text(json.dumps(found, indent=1))


def _identity_of_siglip(name: str | None) -> dict[str, Any] | None:
    return None if name is None else {"name": name, "hash": hash_weights(find_semantic_encoder(name))}


def _identity_of(dataset: DatasetConfig) -> dict[str, Any]:
    if dataset.manifest is None:
        return {"name": dataset.name, "engine": VERSION}
    with local_file(dataset.manifest) as file:
        return {"name": dataset.name, "manifest": dataset.manifest, "hash": f"sha256:{hash_file(file)}"}


def hash_sources() -> str:
    """sha256 over the package's Python files, in name order."""
    digest = sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(file.relative_to(PACKAGE)).encode())
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def note_environment(parallel: Parallel, folder: Path, step: int) -> None:
    """Add a line on where the run goes on after `step` steps."""
    with open(folder / "environment.jsonl", "a") as stream:
        stream.write(json.dumps({"step": step, **environment(parallel)}) + "\n")


def environment(parallel: Parallel) -> dict[str, Any]:
    """Machine, device, number of processes and versions."""
    on_gpu = parallel.device.type == "cuda"
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(parallel.device) if on_gpu else f"cpu, {os.cpu_count()} cores",
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "world_size": parallel.world_size,
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "command": sys.argv,
    }
