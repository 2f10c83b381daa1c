"""The record of a result: `night.mp4.json` beside `night.mp4` says all that made it. Imports no torch."""

import json
from dataclasses import asdict
from pathlib import Path

from .settings import EditSettings

# Of a result's record, what a result made again would have to have in common with it.
IDENTITY = ("prompt", "source", "settings", "weights", "configuration", "lora", "scheduler", "dtype", "vae_tiling")
# Records of version 0.1.0 do not say these: what they do not say is taken to be the same.
LATER = ("configuration",)


def sidecar_of(output: Path) -> Path:
    """Where the record of a result lies: `night.mp4.json` beside `night.mp4`."""
    return output.with_name(output.name + ".json")


def read_sidecar(output: Path) -> dict | None:
    """The record of a result; None if there is none."""
    try:
        record = json.loads(sidecar_of(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and all(
        isinstance(record.get(key), dict) for key in ("source", "settings", "model")
    )
    return record if ours else None


def differences(record: dict, video: Path, prompt: str, settings: EditSettings, model: dict) -> list[str]:
    """What of `IDENTITY` would be another if this edit were made now; `settings` resolved, `model` a provenance."""
    now = _identity({"source": {"path": str(video)}, "prompt": prompt, "settings": asdict(settings), "model": model})
    before = _identity(record)
    return [name for name in now if now[name] != before.get(name) and not (name in LATER and before.get(name) is None)]


def _identity(record: dict) -> dict:
    # What is chosen by the plan when nothing was asked for follows from the rest.
    settings = {f"--{key.replace('_', '-')}": value for key, value in record["settings"].items() if key != "detail"}
    flat = {**record["model"], "prompt": record.get("prompt"), "source": record["source"].get("path")}
    return {**settings, **{name: flat.get(name) for name in IDENTITY if name != "settings"}}
