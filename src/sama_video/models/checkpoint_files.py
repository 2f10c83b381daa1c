"""Weights from disk, whatever tool packed them: tensors by name, and notes on what was done to get them.

Readable: safetensors, PyTorch and GGUF files, told apart by their content, and folders of shards; weights nested in a
training's checkpoint (`state_dict`, `ema`, ...); float8, with a scale beside each matrix or without. Nothing is
unpickled but tensors (`weights_only=True`), so no code from a file runs.
"""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..system.errors import UserError
from .weight_files import SUFFIXES, listed, read_index

StateDict = dict[str, torch.Tensor]

# Where trainers nest weights; an average comes before what it is the average of, since it is what one samples with.
NESTED = (
    "ema", "ema_state_dict", "model_ema", "generator_ema", "state_dict", "model_state_dict", "model", "module",
    "generator", "transformer", "dit", "params", "weights",
)  # fmt: skip
_MOST_NESTED = 4

# What a file begins with that is something else, and what to do about it.
SIGNATURES = (
    (b"version https://git-lfs", "a pointer of Git LFS and not the weights themselves; fetch them with 'git lfs pull'"),
    (b"<", "a web page and not a weights file; the download needs a login or another address"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras or TensorFlow); get the safetensors or PyTorch file of the same model"),
)
_GGUF = b"GGUF"
# ggml knows four dimensions; for a tensor of more, converters write its shape here.
_GGUF_SHAPE = "comfy.gguf.orig_shape."
_PYTORCH_BEGINS = (b"PK", b"\x80")  # a zip archive, and the pickles of old

_FLOAT8 = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)


@dataclass
class Weights:
    """Tensors by name.

    Args:
        where: file or folder that they come from.
        state: the tensors; none is float8.
        header: a safetensors file's own entries, all text.
        notes: sentences on what was done that one might not expect.
    """

    where: Path
    state: StateDict
    header: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_weights(path: str | Path, leave_out: Collection[str] = ()) -> Weights:
    """All tensors of one file, or of all shards in a folder but files of the names in `leave_out`.

    Raises:
        UserError: if there is nothing to read, a file is damaged, is of a kind that is not readable, holds other
            objects than tensors, or repeats what another holds.
    """
    path = Path(path)
    weights = Weights(path, {})
    for file in weight_files(path, leave_out):
        tensors, header = _read_file(file, weights.notes)
        if both := weights.state.keys() & tensors.keys():
            raise UserError(f"{file.name} repeats keys of another shard: {listed(both)}; give one file")
        weights.state |= tensors
        weights.header |= header
    _widen_float8(weights)
    return weights


def read_names(path: str | Path) -> list[str]:
    """Names of the tensors, of safetensors files without reading them.

    Raises:
        UserError: as `read_weights`.
    """
    names: list[str] = []
    for file in weight_files(Path(path)):
        if _is_safetensors(file):
            with _opened(file) as opened:
                names += opened.keys()
        else:
            names += _read_file(file, [])[0]
    return names


def header_entry(header: Mapping[str, str], key: str) -> dict[str, Any]:
    """What a safetensors file's header holds as JSON under `key`; empty without it.

    Raises:
        UserError: for an entry that is no JSON object.
    """
    try:
        entry = json.loads(header.get(key) or "{}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"the header's entry {key} is not JSON; get the file again") from error
    if not isinstance(entry, dict):
        raise UserError(f"the header's entry {key} is no JSON object; get the file again")
    return entry


def weight_files(path: Path, leave_out: Collection[str] = ()) -> list[Path]:
    """The file itself, or a folder's shards: those that its index names, else all safetensors, else all PyTorch files.

    Raises:
        UserError: without any, or if a shard is missing or the index is broken.
    """
    files = _shards(path, leave_out) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"no weights at {path}: give a .safetensors or .pth file, or a folder of shards")
    return files


def _shards(folder: Path, leave_out: Collection[str]) -> list[Path]:
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) > 1:
        raise UserError(f"{folder} holds several sets of weights ({listed(i.name for i in indexes)}); give one file")
    if indexes:
        return _indexed_shards(indexes[0])
    found = sorted(file for file in folder.iterdir() if is_weights_file(file) and file.name not in leave_out)
    return [file for file in found if file.suffix == SUFFIXES[0]] or found


def is_weights_file(file: Path) -> bool:
    """By its name."""
    return file.suffix in SUFFIXES and file.is_file()


def _indexed_shards(index: Path) -> list[Path]:
    return [index.parent / name for name in sorted(set(read_index(index).values()))]


def _beginning(file: Path) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read(64)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error


def _is_safetensors(file: Path) -> bool:
    """A length of eight bytes and a JSON object.

    Raises:
        UserError: for a file that is neither that, nor PyTorch's, nor GGUF, saying what it is.
    """
    beginning = _beginning(file)
    if not beginning:
        raise UserError(f"{file} is empty: download it again")
    if beginning[8:9] == b"{" and not beginning.startswith(_GGUF):
        return True
    if beginning.startswith((_GGUF, *_PYTORCH_BEGINS)):
        return False
    kind = next((kind for signature, kind in SIGNATURES if beginning.lstrip().startswith(signature)), None)
    raise UserError(f"{file} is {kind or 'damaged or not a weights file: download it again'}")


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except Exception as error:  # SafetensorError, and OSError for a file that cannot be mapped
        raise UserError(f"{file} is damaged or cut off: download it again") from error


def _read_file(file: Path, notes: list[str]) -> tuple[StateDict, dict[str, str]]:
    if not _is_safetensors(file):
        read = _read_gguf if _beginning(file).startswith(_GGUF) else _read_pytorch
        return read(file, notes), {}
    with _opened(file) as opened:
        header = opened.metadata() or {}
    try:
        return load_file(file), header
    except Exception as error:
        raise UserError(f"{file} is damaged, or its numbers are of a type that is not readable here") from error


def _read_gguf(file: Path, notes: list[str]) -> StateDict:
    """Quantised matrices become bfloat16, one after the other."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"{file} is a GGUF file, which needs gguf: pip install 'sama-video[gguf]'") from error
    try:
        reader = gguf.GGUFReader(file)
        kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        state = {tensor.name: _dequantised(gguf, reader, tensor) for tensor in reader.tensors}
    except Exception as error:  # whatever it says of a damaged file
        raise UserError(f"{file} is damaged or of a kind that gguf cannot read: download it again") from error
    plain = ("F32", "F16", "BF16")
    if quantised := {kind: count for kind, count in kinds.items() if kind not in plain}:
        of = ", ".join(f"{count} of {kind}" for kind, count in sorted(quantised.items()))
        notes.append(f"{file.name}: quantised matrices were widened to bfloat16 ({of})")
    return state


def _dequantised(gguf: Any, reader: Any, tensor: Any) -> torch.Tensor:
    values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
    kind = tensor.tensor_type.name
    values = values.to({"F32": torch.float32, "F16": torch.float16}.get(kind, torch.bfloat16), copy=True)
    shape = reader.get_field(f"{_GGUF_SHAPE}{tensor.name}")
    return values if shape is None else values.reshape([int(shape.parts[index][0]) for index in shape.data])


def _read_pytorch(file: Path, notes: list[str]) -> StateDict:
    try:
        tree = _unpickled(file)
    except Exception as error:
        text = str(error)
        if "TorchScript" in text:
            raise UserError(f"{file} is a TorchScript program, not weights; get the plain weights") from error
        if refused := re.search(r"Unsupported (?:global: GLOBAL|class) ?(\S+)", text):
            raise UserError(
                f"{file} holds other objects than tensors ({refused[1]}), which could run code and are not read; save "
                "its state dict alone, best as safetensors"
            ) from error
        raise UserError(f"{file} is damaged or not a weights file: download it again") from error
    found = _tensors_in(tree, file.name, _MOST_NESTED)
    if found is None:
        raise UserError(f"{file} does not hold a plain state dict of tensors, but {_described(tree)}")
    state, left_out = found
    notes += left_out
    return state


def _unpickled(file: Path) -> Any:
    if file.suffix == SUFFIXES[0]:  # torch goes by the name
        with open(file, "rb") as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def _tensors_in(tree: Any, name: str, depth: int) -> tuple[StateDict, list[str]] | None:
    """The tensors of a tree of dictionaries and notes on what was left out; None if there is no place for them."""
    if not isinstance(tree, Mapping) or not tree or depth == 0 or not all(isinstance(key, str) for key in tree):
        return None
    if all(isinstance(value, torch.Tensor) for value in tree.values()):
        return dict(tree), []
    for place in NESTED:
        found = _tensors_in(tree.get(place), name, depth - 1)
        if found is not None:
            others = tree.keys() - {place}
            note = f"{name}: the weights under {place!r} were taken, and left out: {listed(others)}"
            return found[0], [*([note] if others else []), *found[1]]
    return None


def _described(tree: Any) -> str:
    if not isinstance(tree, Mapping):
        return f"one {type(tree).__name__}"
    odd = [str(key) for key, value in tree.items() if not isinstance(value, torch.Tensor)]
    return f"other things too: {listed(odd)}" if tree else "nothing"


# ComfyUI and LightX2V write a float8 matrix as `X.weight` with `X.scale_weight` or `X.weight_scale` beside it:
# one number, or one per row. The others are for running in float8, which is not done here.
SCALE = re.compile(r"(.*\.)(?:scale_weight|weight_scale)")
_FLOAT8_EXTRAS = re.compile(r"(?:.*\.)?(?:scaled_fp8|scale_input|input_scale|comfy_quant)")
_FOUR_BITS = re.compile(r".*\.(?:weight_scale_2|weight_scale_inv|qweight|qzeros|absmax|quant_map|quant_state\..*)")


def _widen_float8(weights: Weights) -> None:
    """weight = float8 * scale, in the type that most of the file's other numbers have.

    Raises:
        UserError: for other quantised formats, and scales that do not fit their matrices.
    """
    state, where = weights.state, weights.where
    if odd := [key for key in state if _FOUR_BITS.fullmatch(key)]:
        raise UserError(
            f"{where} holds quantised weights of a format that is not readable here ({listed(odd, 3)}); get the "
            "bfloat16 or float16 file of the same model"
        )
    extras = {key for key in state if _FLOAT8_EXTRAS.fullmatch(key)}
    narrow = {key for key, value in state.items() if value.dtype in _FLOAT8} - extras
    scales = {f"{match[1]}weight": key for key in state if (match := SCALE.fullmatch(key))}
    if not narrow and not scales and not extras:
        return
    dtype = _usual_dtype(state)
    if scales and (unscaled := narrow - scales.keys()):
        raise UserError(f"{where} lacks the scales of {listed(unscaled, 3)}: download it again")
    for key, scale in scales.items():
        if key not in narrow:
            raise UserError(f"{where} has a scale ({scale}) for no float8 matrix: get the bfloat16 or float16 file")
        state[key] = (state[key].float() * _column(state[key], state[scale], scale, where)).to(dtype)
    for key in narrow - scales.keys():
        state[key] = state[key].to(dtype)
    for key in extras | set(scales.values()):
        del state[key]
    how = "multiplied by their scales" if scales else "cast"
    weights.notes.append(f"{len(narrow)} float8 matrices were {how} to {str(dtype).removeprefix('torch.')}")


def _usual_dtype(state: StateDict) -> torch.dtype:
    """What most of the numbers beside float8 and its scales are stored in; bfloat16 holds all of float8."""
    sizes: Counter[torch.dtype] = Counter()
    for key, value in state.items():
        if value.is_floating_point() and value.dtype not in _FLOAT8 and not SCALE.fullmatch(key):
            sizes[value.dtype] += value.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.bfloat16


def _column(matrix: torch.Tensor, scale: torch.Tensor, name: str, where: Path) -> torch.Tensor:
    if not scale.is_floating_point() or scale.numel() not in (1, len(matrix)):
        raise UserError(
            f"{where}: the scale {name} {tuple(scale.shape)} is neither one number nor one per row of its matrix "
            f"{tuple(matrix.shape)}; get the bfloat16 or float16 file"
        )
    return scale.float().reshape(-1, *[1] * (matrix.ndim - 1))
