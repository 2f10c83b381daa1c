"""What a run's result came from, without asking a version control system: weights, data, program, machine.

`provenance.json` is written once, when a run begins. `environment.jsonl` gets a line whenever it begins or resumes,
since a run may be resumed elsewhere. The precision that "auto" became in the beginning is kept then.
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

from ...data.manifest import local_file
from ...models.semantic_encoder import find_semantic_encoder
from ...pipelines.selection import find_model
from ...synth.engine import VERSION
from ...system.errors import UserError
from ...system.files import hash_file, hash_weights, written_aside
from ...system.precision import Precision
from ..config import DatasetConfig, TrainConfig
from ..parallel import Parallel
from .runlog import append_record

_PACKAGE = Path(__file__).parents[2]
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "av", "safetensors")


def write_provenance(config: TrainConfig, folder: Path) -> None:
    """Hashes of the initial weights, of the data's manifests and of the program; left alone if it is there.

    Args:
        config: with its precision decided.

    Raises:
        UserError: for a model or manifest that cannot be read.
    """
    note = folder / "provenance.json"
    if note.exists():
        return
    siglip = config.model.semantic_encoder
    found = {
        "initial_weights": {"name": config.model.init, "hash": find_model(config.model.init).weights_identity},
        "semantic_encoder": siglip and {"name": siglip, "hash": hash_weights(find_semantic_encoder(siglip))},
        "data": [_identity_of(dataset) for dataset in config.data.datasets],
        "precision": config.loop.precision,
        "package": {"version": metadata.version("sama-video"), "sources": _hash_sources()},
    }
    with written_aside(note) as aside:
        aside.write_text(json.dumps(found, indent=1))


def recorded_precision(folder: Path) -> Precision | None:
    """What the run in `folder` began with; None where it has not begun, or an earlier version began it."""
    note = folder / "provenance.json"
    try:
        found = json.loads(note.read_text()).get("precision") if note.exists() else None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{note} is damaged ({error}); remove it, and the run writes it again") from error
    return found if found in ("bfloat16", "float32") else None


def _identity_of(dataset: DatasetConfig) -> dict[str, Any]:
    if dataset.manifest is None:
        return {"name": dataset.name, "engine": VERSION}
    with local_file(dataset.manifest) as file:
        return {"name": dataset.name, "manifest": dataset.manifest, "hash": f"sha256:{hash_file(file)}"}


def _hash_sources() -> str:
    """sha256 over the package's Python files, in name order."""
    digest = sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(file.relative_to(_PACKAGE)).encode())
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def note_environment(parallel: Parallel, folder: Path, step: int, precision: Precision) -> None:
    """Add a line on where the run continues after `step` steps: machine, device, number of processes and versions.

    Raises:
        UserError: for a full disk.
    """
    on_gpu = parallel.device.type == "cuda"
    environment = {
        "step": step,
        "precision": precision,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(parallel.device) if on_gpu else f"cpu, {os.cpu_count()} cores",
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "world_size": parallel.world_size,
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "command": sys.argv,
    }
    append_record(folder / "environment.jsonl", environment)
