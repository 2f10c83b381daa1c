"""A run's config from a recipe or a file, changed by `key=value` settings, for `sama train` and `sama data cache`.

Pydantic reads the values as the types of `config.py` say; only the notation of `--set` is ours.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from ..system.errors import UserError
from .config import DatasetConfig, TrainConfig
from .recipes import find_recipe


def find_stages(recipe: str | None, settings: Iterable[str] = (), file: Path | None = None) -> list[TrainConfig]:
    """The stages of a recipe, or of a file, with settings that count for each of them.

    A stage that continues from the one before it still does: `model.init` is where the first begins.

    Raises:
        UserError: for neither or both, an unknown recipe, a file or setting that cannot be used.
    """
    if (recipe is None) == (file is None):
        raise UserError("name a recipe, or a file of a run with `config`, and not both")
    settings = list(settings)
    stages = []
    for stage in find_recipe(recipe) if recipe is not None else _read_stages(Path(str(file))):
        changed = with_settings(stage, settings)
        stages.append(changed.started_from("previous") if stage.model.init == "previous" else changed)
    return stages


def _read_stages(file: Path) -> list[TrainConfig]:
    """Of a YAML or JSON file: a config as in a run's `config.json`, or a list of them; what it omits is the default."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file} ({' '.join(str(error).split())}); give a YAML or JSON file") from error
    stages = content if isinstance(content, list) else [content]
    if not all(isinstance(stage, dict) for stage in stages):
        raise UserError(f"{file} holds no config; a run's config.json is one")
    return [read_config(stage, str(file)) for stage in stages]


def with_settings(config: TrainConfig, settings: Iterable[str]) -> TrainConfig:
    """A config with `key=value` settings applied; keys are dotted paths, values are read as the field's type. What must
    fit together is checked when all settings are in, whatever their order.

    Raises:
        UserError: for a key that does not exist or a value that does not fit, naming what would.
    """
    values = json.loads(json.dumps(asdict(config)))
    settings = list(settings)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set takes key=value, got {setting!r}")
        _put(values, key.strip(), text.strip())
    return read_config(values, "--set", settings)


def _put(values: Any, key: str, text: str) -> None:
    """One setting into the plain values of a config."""
    *path, name = key.split(".")
    try:
        value = _plain(text, _type_at(key.split(".")))
    except UserError as error:
        raise UserError(f"--set {key}: {error}") from None
    for part in path:
        if isinstance(values, dict):
            values[part] = {} if values[part] is None else values[part]  # adapters for a recipe that has none
        values = values[_index(values, part, key)]
    values[_index(values, name, key)] = value


def _index(values: Any, name: str, key: str) -> Any:
    if isinstance(values, list) and int(name) >= len(values):
        raise UserError(f"--set {key}: {name!r} is no index of a list of {len(values)}; use 0 to {len(values) - 1}")
    return int(name) if isinstance(values, list) else name


def _plain(text: str, kind: Any) -> Any:
    """What a file would say for `text`: lists are separated by commas, tuples in a list written as 9x128x128."""
    if text.lower() in ("none", "null"):
        return None
    if get_origin(kind) is not tuple:
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    inner = get_args(kind)[0]
    if inner is DatasetConfig:
        return [{"name": part, "manifest": part} for part in parts]
    return [part.split("x") for part in parts] if get_origin(inner) is tuple else parts


def _type_at(path: Sequence[str | int]) -> Any:
    """The type of a value of a config. Raises UserError for a name that there is not, with those that there are."""
    kind: Any = TrainConfig
    for name in path:
        is_list = get_origin(kind) is tuple
        if is_list and str(name).isdigit():
            kind = get_args(kind)[0]
            continue
        part = next((one for one in (kind, *get_args(kind)) if is_dataclass(one)), None)
        known = {} if part is None or is_list else {field.name: field.type for field in fields(part)}
        if name not in known:
            there_is = "a list, whose items have numbers" if is_list else ", ".join(known) or "nothing below it"
            raise UserError(f"unknown {name!r}; there is {there_is}")
        kind = known[name]
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return kind


@cache
def _adapter() -> TypeAdapter[TrainConfig]:
    return TypeAdapter(TrainConfig)


def read_config(values: Any, origin: str, settings: Sequence[str] = ()) -> TrainConfig:
    """A config from plain values.

    Args:
        origin: that messages begin with.
        settings: that made the values, to be quoted.
    """
    try:
        return _adapter().validate_python(values)
    except ValidationError as invalid:
        errors: Any = invalid.errors()
        error = min(errors, key=lambda one: one["type"] != "unexpected_keyword_argument")  # it may be what is missing
        if error["type"] == "value_error":
            raise error["ctx"]["error"] from None  # a `UserError` of `config.py`
        path = ".".join(map(str, error["loc"]))
        named = (one for one in reversed(settings) if f"{path}.".startswith(f"{one.partition('=')[0].strip()}."))
        raise UserError(f"{origin} {next(named, path)}: {_in_words(error)}") from None


def _in_words(error: Any) -> str:
    """What is wrong with a value, and what would fit."""
    path, given = error["loc"], error["input"]
    if error["type"] == "unexpected_keyword_argument":
        try:
            _type_at(path)
        except UserError as unknown:
            return str(unknown)
    if error["type"] == "dataclass_type":
        return "set one of its fields, for example {}.FIELD=VALUE".format(".".join(map(str, path)))
    if error["type"] == "missing" and isinstance(path[-1], str):
        return "it is required"
    if error["type"] in ("missing", "too_long"):
        wanted = get_args(_type_at(path if error["type"] == "too_long" else path[:-1]))
        return f"{len(wanted)} values belong together, got {len(given)}; in a list they are joined by x"
    if error["type"] == "literal_error":
        return f"use {error['ctx']['expected']}"
    return f"{given!r} {error['msg'].removeprefix('Input ').split(',')[0]}"


def as_settings(config: Any, prefix: str = "") -> list[str]:
    """Every value of a config as `key=value`; `with_settings` takes them back."""
    if is_dataclass(config):
        parts = [(field.name, getattr(config, field.name)) for field in fields(config)]
    elif isinstance(config, tuple) and config and is_dataclass(config[0]):
        parts = [(str(index), value) for index, value in enumerate(config)]
    else:
        return [f"{prefix}={_as_text(config)}"]
    below = f"{prefix}." if prefix else ""
    return [line for name, value in parts for line in as_settings(value, below + name)]


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join("x".join(map(str, part)) if isinstance(part, tuple) else _as_text(part) for part in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
