"""Imports point one way, from `cli` down to `system`: the layers below, and never upwards or sideways."""

import ast
from pathlib import Path

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
    {"evaluation", "nano"},
    {"cli"},
)


def layer_of(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def imported_parts(path: Path):
    """First parts below the package of every module that a file imports from the package."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level == depth:
                names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                yield from (name for name in names if name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sama_video."):
            yield node.module.split(".")[1]


def test_imports_point_one_way():
    backward = set()
    for path in ROOT.rglob("*.py"):
        relative = path.relative_to(ROOT)
        own = relative.parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for part in imported_parts(path):
            if part != own and layer_of(part) >= layer_of(own):
                backward.add((str(relative), part))
    assert not backward


def test_every_module_says_what_it_is_for():
    for path in ROOT.rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text or not path.read_text().strip(), path
