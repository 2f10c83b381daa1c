"""Imports point one way, from `cli` down to `system`: the layers below, and never upwards, sideways or in a circle."""

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sama_video

ROOT = Path(sama_video.__file__).parent
LAYERS = (
    {"system"},
    {"media"},
    {"video"},
    {"judge", "synth", "models"},
    {"pipelines"},
    {"data"},
    {"curation", "editing", "training"},
    {"client", "evaluation", "nano", "service"},
    {"cli"},
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported_modules(name: str):
    """Every module of the package that a module imports, at whatever place: in functions, under TYPE_CHECKING."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found = next((full for full in (f"{base}.{alias.name}", base) if full in MODULES), None)
                # The package's own `__init__` holds nothing but names of its modules, and the version.
                if found is not None and found != "sama_video":
                    yield found


GRAPH = {name: set(imported_modules(name)) - {name} for name in MODULES}


def room_of(name: str) -> str:
    return name.split(".")[1]


def layer_of(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if room_of(name) in layer)


def test_imports_point_one_way():
    below = {name: found for name, found in GRAPH.items() if name != "sama_video"}
    pairs = {(name, one) for name, found in below.items() for one in found if room_of(one) != room_of(name)}
    assert {pair for pair in pairs if layer_of(pair[1]) >= layer_of(pair[0])} == set()


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        raise AssertionError(f"these import each other: {' <- '.join(error.args[1])}") from error


def test_the_graph_sees_imports_of_every_kind():
    assert "sama_video.pipelines.loading" in GRAPH["sama_video.pipelines.publishing"]  # in a function
    assert "sama_video.pipelines.pipeline_sama" in GRAPH["sama_video.editing.editor"]  # under TYPE_CHECKING
    assert "sama_video.system.lazy" in GRAPH["sama_video"]


def test_no_two_modules_have_one_name():
    """A package may be named as the command of its room (`data/`, `cli/data.py`); what users import, as it must."""
    inside = [path for path in MODULES.values() if path.parent != ROOT]
    names = Counter(path.stem for path in inside if path.stem not in ("__init__", "__main__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_says_what_it_is_for():
    for name, tree in TREES.items():
        assert ast.get_docstring(tree) or not tree.body, name


def test_the_names_that_a_room_offers_are_there():
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
                module = __import__(name, fromlist=["*"])
                for offered in ast.literal_eval(node.value):
                    assert f"{name}.{offered}" in MODULES or hasattr(module, offered), (name, offered)


def public_names(body, room):
    """(room, name) of public classes and functions, methods and fields of classes included."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield room, node.name
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            fields = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
            yield from ((room, one.id) for one in fields if isinstance(one, ast.Name) and one.id[0] != "_")
            yield from public_names(node.body, room)


def words_of(name):
    parts = (part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name))
    return {part.removesuffix("s") for part in parts}


NAMES = [
    pair for name, tree in TREES.items() if name != "sama_video" for pair in public_names(tree.body, room_of(name))
]
# What people wrote into configurations keeps its name.
STORED = {"adamw_share"}


def glossary():
    text = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text().split("| word | means | rooms |")[1]
    for words, _, rooms in re.findall(r"^\| ([a-z, ]+) \| (.+) \| ([a-z, ]*) ?\|$", text, re.MULTILINE):
        yield from ((word.strip(), {room.strip() for room in rooms.split(",")} - {""}) for word in words.split(","))


@pytest.mark.parametrize(("word", "rooms"), [one for one in glossary() if one[1]])
def test_a_word_of_the_glossary_names_things_in_its_rooms_alone(word, rooms):
    assert {(room, name) for room, name in NAMES if word in words_of(name) and room not in rooms} == set()


def test_words_that_meant_several_things_are_gone():
    retired = {"place", "share", "fact"}
    assert {name for _, name in NAMES if words_of(name) & retired} <= STORED


def test_no_two_classes_have_one_name():
    names = Counter(node.name for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1 and not name.startswith("_")] == []
