"""Models from folders and state dicts, strictly: every tensor that the model has and no other, in its shape, finite.

The libraries' own loading initialises what a folder lacks, and says so in a warning at most. The names, shapes and
dtypes of `_names_that_do_not_fit` are one rule for folders and for single checkpoints (`convert_checkpoint`).
"""

import contextlib
import logging
import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers import ModelMixin
from huggingface_hub import utils as hub_utils
from safetensors import safe_open
from torch import nn

from ..system.errors import UserError
from .weight_files import (
    DIFFUSERS_STEM,
    TRANSFORMERS_STEM,
    WeightFiles,
    find_weight_files,
    first_line,
    listed,
)

# A damaged configuration must not have a billion layers made.
_MOST_LAYERS = 1000
_MAPPED_BYTES = 2**29
Model = TypeVar("Model", bound=nn.Module)

LIBRARIES = (diffusers.logging, transformers.logging)
# Weights in these dtypes become the model's by rounding; others (whole numbers, float4) mean something else there.
_FLOATING = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
_SAFETENSORS_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
# Entries of a `config.json` by which transformers or diffusers would load or run something else than the model's
# class and the folder's weights.
_REFUSED_ENTRIES = (
    "quantization_config",
    "transformers_weights",
    "fusion_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
)


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as a file's header has it. `dtype` is the header's own word where torch has no such floating type."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "TensorSpec":
        return cls(tuple(tensor.shape), tensor.dtype)


def _read_specs(file: Path) -> dict[str, TensorSpec]:
    """The tensors of a file of safetensors or of PyTorch's format, without reading them. Runs no code of the file's.

    Raises:
        UserError: for a damaged file, or a PyTorch file that holds anything but tensors by name.
    """
    return _read_safetensors_header(file) if file.suffix == ".safetensors" else _read_pickle_header(file)


def _read_safetensors_header(file: Path) -> dict[str, TensorSpec]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
            words = {key: str(one.get_dtype()) for key, one in slices.items()}
            return {
                key: TensorSpec(tuple(one.get_shape()), _SAFETENSORS_DTYPES.get(words[key], words[key]))
                for key, one in slices.items()
            }
    except Exception as error:  # of safetensors and of the system
        if _is_lfs_pointer(file):
            raise UserError(f"{file} stands for the weights and is not them; run 'git lfs pull'") from error
        raise UserError(f"{file} is damaged or cut off ({first_line(error)}); download the model again") from error


def _is_lfs_pointer(file: Path) -> bool:
    with contextlib.suppress(OSError), open(file, "rb") as stream:
        return stream.read(64).startswith(b"version https://git-lfs")
    return False


def _read_pickle_header(file: Path) -> dict[str, TensorSpec]:
    try:
        state = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:
        raise UserError(
            f"{file} is damaged or holds more than tensors, and nothing else is unpickled; use a safetensors file"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise UserError(f"{file} does not hold tensors by name; use a safetensors file")
    return {key: TensorSpec.of(value) for key, value in state.items()}


def read_folder_specs(weights: WeightFiles) -> dict[str, TensorSpec]:
    """All tensors of a model's files.

    Raises:
        UserError: also for a tensor in two files, and for an index that says otherwise than the files.
    """
    specs: dict[str, TensorSpec] = {}
    for file in weights.files:
        found = _read_specs(file)
        if both := sorted(specs.keys() & found.keys()):
            raise UserError(f"{file} repeats tensors of another file: {listed(both)}; download the model again")
        if weights.index is not None:
            stated = {key for key, name in weights.index.items() if name == file.name}
            if wrong := sorted(stated ^ found.keys()):
                raise UserError(
                    f"{file} and the index of {file.parent} disagree on {listed(wrong)}; download the model again"
                )
        specs |= found
    return specs


def _names_that_do_not_fit(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, TensorSpec], may_miss: tuple[str, ...] = ()
) -> str:
    """What of `found` does not fit a model, by name; empty if all does.

    Args:
        expected: the model's state dict, on any device.
        found: as a file has them.
        may_miss: beginnings of names that may be missing, all together and not one by one.
    """
    missing = expected.keys() - found.keys()
    if missing == {key for key in expected if key.startswith(may_miss)}:
        missing = set()
    both = sorted(expected.keys() & found.keys())
    shapes = {key: tuple(expected[key].shape) for key in both}
    problems = {
        "unknown": sorted(found.keys() - expected.keys()),
        "missing": sorted(missing),
        "misshapen": [
            f"{key} {found[key].shape} instead of {shapes[key]}" for key in both if found[key].shape != shapes[key]
        ],
        "not floating-point": [_with_dtype(key, found[key]) for key in both if _is_whole(found[key], expected[key])],
    }
    return _described(problems)


def _is_whole(spec: TensorSpec, own: torch.Tensor) -> bool:
    return own.is_floating_point() and spec.dtype not in _FLOATING


def _with_dtype(key: str, spec: TensorSpec) -> str:
    return f"{key} ({str(spec.dtype).removeprefix('torch.')})"


def _described(problems: Mapping[str, Iterable[Any]]) -> str:
    return "; ".join(f"{label}: {listed(sorted(map(str, names)))}" for label, names in problems.items() if names)


@torch.no_grad()
def check_finite(tensors: Mapping[str, torch.Tensor], where: object) -> None:
    """Raises UserError, by name, for tensors of which a value is NaN or infinite."""
    bad = sorted(key for key, value in tensors.items() if not is_finite(value))
    if bad:
        raise UserError(
            f"{where} holds values that are no finite numbers (NaN or infinite in "
            f"{str(next(iter(tensors.values())).dtype).removeprefix('torch.')}), in {listed(bad)}; download the model "
            f"again, or train it again"
        )


def is_finite(value: torch.Tensor) -> bool:
    if not value.is_floating_point() or value.numel() == 0:
        return True
    if value.dtype.itemsize == 1:  # float8 has no comparisons
        value = value.float()
    # One pass without a copy: NaN passes through both, and an infinity is one of them.
    least, most = value.aminmax()
    return bool(least.isfinite() & most.isfinite())


def make_empty(model_class: Callable[..., Any], config: Mapping[str, Any], what: str) -> Any:
    """A model without storage.

    Raises:
        UserError: for settings that the class does not take.
    """
    counts = {name: value for name, value in config.items() if name.startswith("num_") or name.endswith("_layers")}
    if odd := [name for name, value in counts.items() if isinstance(value, int | float) and value > _MOST_LAYERS]:
        raise UserError(f"the configuration does not fit {what}: {odd[0]} is {counts[odd[0]]}")
    try:
        with init_empty_weights():
            return model_class(**config)
    except Exception as error:  # whatever a library makes of values that cannot be
        raise UserError(f"the configuration does not fit {what} ({first_line(error)}); get it again") from error


def load_strictly(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str, may_miss: tuple[str, ...] = ()
) -> None:
    """Put `state` into a model without storage, as it is stored.

    Args:
        may_miss: beginnings of names that may be missing, all together.

    Raises:
        UserError: listing all that is unknown, missing, misshapen, of whole numbers, or not finite.
    """
    specs = {key: TensorSpec.of(value) for key, value in state.items()}
    problems = [_names_that_do_not_fit(model.state_dict(), specs, may_miss)]
    if odd := [key for key, value in state.items() if not is_finite(value)]:
        problems.append(f"not finite: {listed(odd)}")
    if any(problems):
        raise UserError(f"this is not {what}; nothing was converted. " + "; ".join(filter(None, problems)))
    model.load_state_dict(state, strict=not may_miss, assign=True)


def load_part(
    cls: type[Model],
    folder: Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    narrow: Callable[[nn.Module, str], None] | None = None,
) -> Model:
    """A model of diffusers or transformers from its folder, strictly; nothing is fetched, no code of the folder's runs.

    Args:
        cls: its class, whatever the folder says.
        folder: with `config.json` and weights.
        config: what `config.json` holds.
        dtype: None leaves it to the library.
        narrow: of a model of diffusers, is called with the model and a tensor's name as soon as that is loaded.

    Raises:
        UserError: for a folder that is damaged or incomplete, and for weights that are unknown, missing, misshapen,
            whole numbers or not finite, by name.
    """
    weights, specs = find_weights(cls, folder, config)
    with refusing(folder):
        if issubclass(cls, ModelMixin):
            return _load_of_diffusers(cls, folder, weights, specs, dtype, narrow)
        model = _load_of_transformers(cls, folder, weights, specs, dtype)
    check_finite(model.state_dict(), folder)
    return model


def find_weights(
    cls: type[nn.Module], folder: Path, config: Mapping[str, Any]
) -> tuple[WeightFiles, dict[str, TensorSpec]]:
    """The files of a model's folder and what they say that they hold.

    Raises:
        UserError: for a folder that is damaged or incomplete, or asks for another model than its weights are.
    """
    _check_entries(config, folder)
    weights = find_weight_files(folder, DIFFUSERS_STEM if issubclass(cls, ModelMixin) else TRANSFORMERS_STEM)
    return weights, read_folder_specs(weights)


@contextlib.contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """Whatever a library says of a folder, as a sentence."""
    try:
        with quiet_libraries():
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"cannot load the model in {folder} ({first_line(error)}); is it of this kind? download it again"
        ) from error


def _check_entries(config: Mapping[str, Any], folder: Path) -> None:
    refused = [name for name in _REFUSED_ENTRIES if config.get(name) is not None]
    if refused:
        raise UserError(
            f"{folder / 'config.json'} asks for {refused[0]}, which is not supported; use the plain model in float32, "
            f"float16 or bfloat16"
        )
    if (folder / "adapter_config.json").exists():  # transformers would load the model that it names
        raise UserError(f"{folder} holds an adapter (adapter_config.json); merge it into the model's weights first")


def _refuse(folder: Path, problems: str) -> None:
    if problems:
        raise UserError(
            f"the weights in {folder} are not those of the model that its config.json describes. {problems}; download "
            f"the model again"
        )


def _load_of_diffusers(
    cls: Any,
    folder: Path,
    weights: WeightFiles,
    specs: Mapping[str, TensorSpec],
    dtype: torch.dtype | None,
    narrow: Callable[[nn.Module, str], None] | None,
) -> Any:
    """One tensor after the other, where diffusers would hold a whole file beside what becomes of it."""
    model = checked_empty(cls, folder, specs)
    dtypes = stored_dtypes(model, dtype or torch.float32)
    odd: dict[str, torch.Tensor] = {}
    for file in weights.files:
        for key, stored in _read_tensors(file):
            # Beside views that stay, what is narrowed would stay mapped as well.
            tensor = stored.to(dtypes[key], copy=narrow is not None)
            if not is_finite(tensor):
                odd[key] = tensor
            set_module_tensor_to_device(model, key, "cpu", value=tensor, dtype=dtypes[key])
            if narrow is not None:
                narrow(model, key)
    check_finite(odd, folder)
    model.register_to_config(_name_or_path=str(folder))
    return model.eval()


def checked_empty(cls: Any, folder: Path, specs: Mapping[str, TensorSpec]) -> Any:
    """A folder's model without storage.

    Raises:
        UserError: for weights that are not its own, by name.
    """
    with init_empty_weights():
        if issubclass(cls, ModelMixin):
            model = cls.from_config(cls.load_config(folder))
        else:
            model = cls(cls.config_class.from_pretrained(folder, local_files_only=True))
    _refuse(folder, _names_that_do_not_fit(model.state_dict(), specs))
    return model


def stored_dtypes(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """What the library would store each tensor of a model in that is asked for in `dtype`."""
    kept = model._keep_in_fp32_modules or []
    if isinstance(model, ModelMixin) or dtype == torch.float16:  # transformers keeps them for float16 alone
        wide = {name for name in model.state_dict() if set(kept) & set(name.split("."))}
    else:
        wide = set()
    return {name: torch.float32 if name in wide else dtype for name in model.state_dict()}


def _read_tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """All of a file, as views of it.

    A safetensors file is mapped afresh after every so many bytes: what was read of a mapping counts as this process's
    memory until the mapping ends.
    """
    if file.suffix != ".safetensors":
        yield from torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)).items()
        return
    with safe_open(file, framework="pt") as opened:
        waiting = list(opened.offset_keys())
    while waiting:
        with safe_open(file, framework="pt") as opened:
            num_bytes = 0
            while waiting and num_bytes < _MAPPED_BYTES:
                key = waiting.pop(0)
                tensor = opened.get_tensor(key)
                num_bytes += tensor.nbytes
                yield key, tensor
                del tensor


def _load_of_transformers(
    cls: Any,
    folder: Path,
    weights: WeightFiles,
    specs: Mapping[str, TensorSpec],
    dtype: torch.dtype | None,
) -> Any:
    model, report = cls.from_pretrained(
        folder,
        dtype="auto" if dtype is None else dtype,
        use_safetensors=weights.is_safetensors,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are named, all of them
    )
    state = model.state_dict()
    left = {
        "unknown": report["unexpected_keys"],
        "missing": report["missing_keys"],
        "misshapen": [f"{key} {tuple(found)} instead of {tuple(own)}" for key, found, own in report["mismatched_keys"]],
        "not floating-point": [
            _with_dtype(key, spec)
            for key, spec in specs.items()
            if not any(re.search(pattern, key) for pattern in cls._keys_to_ignore_on_load_unexpected or ())
            # The vision half of a whole model is below one more name.
            if any(name in state and _is_whole(spec, state[name]) for name in (key, key.partition(".")[2]))
        ],
        "unreadable": report.get("error_msgs") or [],
    }
    _refuse(folder, _described(left))
    for one, other in (model._tied_weights_keys or {}).items():
        if one in specs and other in specs and not torch.equal(state[one], state[other]):
            raise UserError(f"{folder} holds two versions of one weight, {one} and {other}; download the model again")
    return model


class _Quiet:
    """How many are loading, and what the libraries' settings were before the first of them."""

    lock = threading.Lock()
    depth = 0
    before: ClassVar[list[tuple[bool, int]]] = []


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """diffusers and transformers say nothing and show no bars; their settings, the process's, are put back after.

    What they would warn of is checked here and said in a sentence. Threads may overlap: the last one puts it back.
    """
    with _Quiet.lock:
        if _Quiet.depth == 0:
            _Quiet.before = [(one.is_progress_bar_enabled(), one.get_verbosity()) for one in LIBRARIES]
            _set_libraries([(False, logging.CRITICAL)] * len(LIBRARIES))
        _Quiet.depth += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _set_libraries(_Quiet.before)


def _set_libraries(settings: list[tuple[bool, int]]) -> None:
    hub_shows = not hub_utils.are_progress_bars_disabled()
    for library, (shows, level) in zip(LIBRARIES, settings, strict=True):
        if shows != library.is_progress_bar_enabled():
            (library.enable_progress_bar if shows else library.disable_progress_bar)()
        library.set_verbosity(level)
    # transformers' switch moves the hub's as well, which is for downloads.
    if hub_shows == hub_utils.are_progress_bars_disabled():
        (hub_utils.enable_progress_bars if hub_shows else hub_utils.disable_progress_bars)()


@contextlib.contextmanager
def no_empty_warnings() -> Iterator[None]:
    """Without what diffusers says of any model that is cast: "modules that should be kept in float32: []"."""

    def says_something(record: logging.LogRecord) -> bool:
        return "kept in float32: []" not in record.getMessage()

    logger = logging.getLogger(ModelMixin.__module__)
    logger.addFilter(says_something)
    try:
        yield
    finally:
        logger.removeFilter(says_something)
