"""A saved folder that diffusers loads without this package: the code travels with it. Imports no torch.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs `pipeline.py` of a folder, and `sama.py` of
those components' folders whose classes diffusers has not got. It copies such files one by one, without others beside
them, so each is whole: `assets/portable_head.py`, and below it, as comments, every module that a pipeline needs. The
head puts them among the modules that diffusers keeps in its cache, and imports them there. What this package loads, it
loads by its own classes.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .configuration import OWN_CLASSES, PIPELINE, PORTABLE_MODULE, PORTABLE_PIPELINE

_PACKAGE = Path(__file__).parents[1]
_HEAD = "assets/portable_head.py"
_ENTRANCE = "pipelines.pipeline_sama"
# What the lines of the modules begin with: comments, so that diffusers takes their imports for nobody's.
_MARKS = {"FILE_MARK": "#@ ", "LINE_MARK": "#|"}


def add_code(index: Path) -> None:
    """Put the code into the folder of a saved pipeline's `model_index.json`, and its names into that file."""
    with_names, code = with_code(json.loads(index.read_text(encoding="utf-8")))
    for name, text in code.items():
        file = index.parent / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    index.write_text(index_text(with_names), encoding="utf-8")


def index_text(index: dict[str, Any]) -> str:
    """As diffusers writes it."""
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def with_code(index: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A `model_index.json` that names the travelling code, and the files of that code by their place in the folder."""
    code = {f"{PORTABLE_PIPELINE}.py": portable_code()}
    changed = {name: value for name, value in index.items() if name != "_name_or_path"}  # a path of this machine
    for name, entry in index.items():
        if isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] in OWN_CLASSES:
            changed[name] = [PORTABLE_MODULE, entry[1]]
            code[f"{name}/{PORTABLE_MODULE}.py"] = portable_code()
    return changed | {"_class_name": [PORTABLE_PIPELINE, PIPELINE]}, code


@functools.cache
def portable_code() -> str:
    """A pipeline's code in one file, readable, the same text wherever it is needed."""
    sources = {file.relative_to(_PACKAGE).as_posix(): file.read_text(encoding="utf-8") for file in _files()}
    digest = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
    head = sources[_HEAD]
    for placeholder, value in {"PACKAGE": f"sama_video_{digest[:16]}", **_MARKS}.items():
        head = head.replace(f'"{placeholder}"', f'"{value}"')
    lines = [head]
    for name, source in sources.items():
        lines.append(f"{_MARKS['FILE_MARK']}{name}")
        lines += [f"{_MARKS['LINE_MARK']}{line}" for line in source.splitlines()]
    return "\n".join(lines) + "\n"


def _files() -> list[Path]:
    """The modules that a pipeline needs, their packages, the tables beside them, and the head; in order."""
    found: set[str] = set()
    waiting = [_ENTRANCE]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imported_by(module)
    files = {_file_of(module) for module in found} | {_file_of(module).parent / "__init__.py" for module in found}
    files |= {table for file in files if (table := file.with_suffix(".yaml")).is_file()}
    return sorted(files | {_PACKAGE / _HEAD})


def _file_of(module: str) -> Path:
    return _PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def _imported_by(module: str) -> Iterator[str]:
    """The package's modules that one imports, at any place; in this package every import names a module or its names.

    Names of types alone (`if TYPE_CHECKING`) count as well: that costs a few lines and needs no exception.
    """
    parents = module.split(".")[:-1]
    for node in ast.walk(ast.parse(_file_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parents[: len(parents) - node.level + 1] + (node.module.split(".") if node.module else [])
            yield from (name for name in [".".join(base)] if _file_of(name).is_file())
            names = (".".join([*base, alias.name]) for alias in node.names)
            yield from (name for name in names if _file_of(name).is_file())
