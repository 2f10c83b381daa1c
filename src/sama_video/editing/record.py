"""The record of a result: `night.mp4.json` beside `night.mp4` says all that made it. Imports no torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..system.files import hash_file
from .settings import EditSettings

# Of a result's record, what a result made again would have to have in common with it.
_IDENTITY = (
    "prompt", "source", "settings", "weights", "configuration", "lora", "scheduler", "dtype", "storage_dtype",
    "vae_tiling",
)  # fmt: skip
# What is chosen by the plan when nothing was asked for follows from the rest, and what `fast` stands for is among it; a
# limit changes no result; a mask counts by what it holds.
_NO_IDENTITY = ("detail", "fast", "max_source_pixels", "mask")
# Records of version 0.1.0 do not say these: what they do not say is taken to be the same.
LATER = ("configuration", "storage_dtype")


def sidecar_of(output: Path) -> Path:
    """Where the record of a result is: `night.mp4.json` beside `night.mp4`."""
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


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A file as it is at one time.

    Args:
        size: in bytes.
        mtime_ns: when it was changed last, nanoseconds since 1970.
        sha256: of its bytes.
    """

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Reads the whole file."""
        stat = path.stat()
        return cls(size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=hash_file(path))


def knows_its_source(record: dict) -> bool:
    """Whether a record says what its source held: those of earlier versions have the path alone."""
    return "sha256" in record["source"]


def differences(record: dict, video: Path, prompt: str, settings: EditSettings, model: dict) -> list[str]:
    """What of `_IDENTITY` would be another if this edit were made now; `settings` resolved, `model` a provenance.

    Settings are named as in Python. A source is the same if its content is, wherever it is; its path decides where
    the record is of an earlier version. The source is read only where size and time leave it open.
    """
    now = _identity({"prompt": prompt, "settings": asdict(settings), "model": model})
    before = _identity(record)
    unsaid = {name for name in LATER if before.get(name) is None}
    changed = [name for name in now if now[name] != before.get(name) and name not in unsaid]
    if not _is_unchanged(record["source"], video):
        changed.insert(0, "source")
    if not _is_same_mask(record.get("mask"), settings.mask):
        changed.append("mask")
    return changed


def _is_same_mask(recorded: dict | None, mask: str | None) -> bool:
    if recorded is None or mask is None:
        return recorded is mask
    return _is_unchanged(recorded, Path(mask))


def _identity(record: dict) -> dict:
    # A setting that was not there yet has done nothing.
    settings = {**asdict(EditSettings()), **record["settings"]}
    settings = {key: value for key, value in settings.items() if key not in _NO_IDENTITY}
    flat = {**record["model"], "prompt": record.get("prompt")}
    return {**settings, **{name: flat.get(name) for name in _IDENTITY if name not in ("settings", "source")}}


def _is_unchanged(source: dict, video: Path) -> bool:
    if "sha256" not in source:
        return source.get("path") == str(video)
    if not video.is_file():  # edited and removed since: nothing says that it was another
        return source.get("path") == str(video)
    stat = video.stat()
    if stat.st_size != source.get("size"):
        return False
    if source.get("path") == str(video) and stat.st_mtime_ns == source.get("mtime_ns"):
        return True
    return hash_file(video) == source["sha256"]
