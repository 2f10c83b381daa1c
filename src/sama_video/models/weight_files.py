"""Which files of a folder hold a model's weights, and JSON that came from outside. Imports no torch."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.errors import UserError

# The largest JSON file of a published model is its tokenizer: 17 MB.
_MAX_JSON_BYTES = 256 * 2**20
# Of checkpoints and LoRA files, safetensors first.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".gguf")
DIFFUSERS_STEM, TRANSFORMERS_STEM = "diffusion_pytorch_model", "model"
_PICKLE_STEMS = {DIFFUSERS_STEM: "diffusion_pytorch_model", TRANSFORMERS_STEM: "pytorch_model"}


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in a sentence, in order: the first ones and how many more."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that says something, or its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object that a model's file holds.

    Raises:
        UserError: for a file that is not there, cannot be read, or holds anything else. So are names that stand in it
            twice and numbers that are none (NaN, Infinity), which the libraries would take as they come.
    """
    how = "download the model again"
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "is missing"
        raise UserError(f"{file} {what}; {how}")
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise UserError(f"{file} is larger than {_MAX_JSON_BYTES // 2**20} MiB, no model's settings; {how}")
        value = json.loads(
            file.read_bytes().decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeats
        )
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror}); allow reading it, or {how}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{file} is not JSON as models have it ({reason}); {how}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} holds a JSON {type(value).__name__} and no object; {how}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


@dataclass(frozen=True)
class WeightFiles:
    """The files that a library would load a model from.

    Args:
        files: one, or the shards of an index.
        index: tensor -> name of its file, where there is an index.
        is_safetensors: False for PyTorch's own format.
    """

    files: tuple[Path, ...]
    index: dict[str, str] | None
    is_safetensors: bool


def find_weight_files(folder: Path, stem: str) -> WeightFiles:
    """The weights in `folder`: safetensors before PyTorch's format, one file or the shards that an index names.

    Args:
        stem: `DIFFUSERS_STEM` or `TRANSFORMERS_STEM`.

    Raises:
        UserError: if there are none, shards are missing, an index is damaged, or a file and an index both claim to be
            the weights, of which each library takes another.
    """
    for name, is_safetensors in ((f"{stem}.safetensors", True), (f"{_PICKLE_STEMS[stem]}.bin", False)):
        single, index = folder / name, folder / f"{name}.index.json"
        if _is_there(single) and _is_there(index):
            raise UserError(f"{folder} holds both {name} and {index.name}; remove the one that is not the model's")
        if _is_there(single):
            return WeightFiles((_regular(single),), None, is_safetensors)
        if _is_there(index):
            weight_map = read_index(index)
            files = tuple(_regular(folder / name) for name in sorted(set(weight_map.values())))
            return WeightFiles(files, weight_map, is_safetensors)
    others = sorted(file.name for file in folder.glob("*") if file.suffix in (".safetensors", ".bin"))
    found = f", only {listed(others)}" if others else ""
    raise UserError(f"{folder} has no weights: {stem}.safetensors is missing{found}; download the model again")


def read_index(index: Path) -> dict[str, str]:
    """tensor -> file, of an index of shards.

    Raises:
        UserError: for an index that is damaged, names files outside its folder, or files that are not there.
    """
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map from tensors to files; download the model again")
    names = list(weight_map.values())
    if bad := [name for name in names if not isinstance(name, str) or not name or Path(name).name != name]:
        raise UserError(f"{index} names {bad[0]!r}, which is no file beside it; download the model again")
    missing = sorted(name for name in set(names) if not (index.parent / name).is_file())
    if missing:
        raise UserError(f"{index.parent} lacks {listed(missing)}: the download is incomplete, download the model again")
    return weight_map


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _regular(file: Path) -> Path:
    if not file.is_file():
        what = "a folder" if file.is_dir() else "a link to a file that is not there" if file.is_symlink() else "no file"
        raise UserError(f"{file} is {what}; download the model again")
    return file
