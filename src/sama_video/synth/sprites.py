"""What moves through a scene: named drawings and shapes, their colours and attributes.

Tiles are uint8 `[TILE, TILE, 4]`, colours premultiplied by alpha. Words are shared by the splits, drawings are not: of
every name the two drawings go to different splits, and shapes are drawn in another manner in each split.
"""

import json
import math
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from .draw import dilated, resize

ASSETS = Path(__file__).parent.parent / "assets" / "synth"  # LICENSES.md beside the drawings says whose they are
TILE = 72  # a drawing of 64 pixels and a margin, which an outline needs
COLUMNS = 16
SPLITS = ("train", "validation", "test")

COLOURS = {
    "red": (222, 36, 36),
    "orange": (245, 130, 20),
    "yellow": (250, 215, 30),
    "green": (40, 165, 60),
    "blue": (40, 90, 225),
    "purple": (140, 50, 200),
    "pink": (250, 120, 185),
    "brown": (130, 80, 40),
    "white": (248, 248, 248),
    "black": (34, 34, 38),
}
SHAPES = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
    "diamond": "diamonds",
    "hexagon": "hexagons",
    "cross": "crosses",
}
# Things of clearly different form and colour, which a small model can learn to tell apart.
NANO_THINGS = (
    "fox", "panda", "frog", "elephant", "penguin", "flamingo", "octopus", "ladybug", "butterfly", "rose",
    "sunflower", "cactus", "mushroom", "watermelon", "banana", "strawberry", "carrot", "pizza", "doughnut", "bus",
    "car", "bicycle", "rocket", "sailboat", "basketball", "soccer ball", "guitar", "umbrella", "balloon", "crown",
    "snowman", "pumpkin", "house", "moon",
)  # fmt: skip
NANO_VOCABULARY = (*NANO_THINGS, *SHAPES)
_VOCABULARIES = {"nano": NANO_VOCABULARY}
SHAPE_MANNERS = {"train": ("flat", "lit"), "validation": ("rimmed",), "test": ("banded",)}
OUTLINE_REACH = 10  # squared pixels
ATTRIBUTES = ("upside down", "mirrored", "half transparent", "silhouette", "outlined")


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """A drawing.

    Args:
        name, plural: what it shows.
        category: "animal", "vehicle", ...; "shape" for shapes, which always have a named colour.
        art: which drawing of that name; unique to a split.
    """

    name: str
    plural: str
    category: str
    art: str


@cache
def sprites(split: str, vocabulary: tuple[str, ...] = ()) -> tuple[Sprite, ...]:
    """Every drawing of a split, shapes included; of the things in `vocabulary` alone, if it names any.

    Raises:
        ValueError: for an unknown split or thing.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if vocabulary:
        found = tuple(sprite for sprite in sprites(split) if sprite.name in vocabulary)
        if unknown := sorted(set(vocabulary) - {sprite.name for sprite in found}):
            raise ValueError(f"there is no drawing of {', '.join(unknown)}")
        return found
    named = []
    for entry in json.loads((ASSETS / "sprites.json").read_text()):
        digest = sha256(entry["name"].encode()).digest()
        arts = ("twemoji", "noto") if digest[0] % 2 else ("noto", "twemoji")
        held_out = "validation" if digest[1] % 2 else "test"
        if split in ("train", held_out):
            named.append(Sprite(**entry, art=arts[split != "train"]))
    shapes = [
        Sprite(name=name, plural=plural, category="shape", art=manner)
        for name, plural in SHAPES.items()
        for manner in SHAPE_MANNERS[split]
    ]
    return (*named, *shapes)


def find_vocabulary(text: str) -> tuple[str, ...]:
    """Names of things from a list with commas, or of a vocabulary by its name, such as "nano"; empty for all things."""
    return _VOCABULARIES.get(text) or tuple(name for part in text.split(",") if (name := part.strip()))


@cache
def _sheet(art: str) -> np.ndarray:
    with Image.open(ASSETS / f"sprites_{art}.png") as image:
        return np.array(image.convert("RGBA"))


@cache
def _sheet_index() -> dict[str, int]:
    return {entry["name"]: index for index, entry in enumerate(json.loads((ASSETS / "sprites.json").read_text()))}


def _premultiplied(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.uint16)
    return np.concatenate([((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8), rgba[..., 3:]], axis=-1)


def _named_tile(sprite: Sprite) -> np.ndarray:
    sheet = _sheet(sprite.art)
    side = sheet.shape[1] // COLUMNS
    row, column = divmod(_sheet_index()[sprite.name], COLUMNS)
    tile = np.zeros((TILE, TILE, 4), dtype=np.uint8)
    margin = (TILE - side) // 2
    tile[margin:-margin, margin:-margin] = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
    return _premultiplied(tile)


def _inside_polygon(points: list[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    inside = np.zeros(x.shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        crosses = (y1 > y) != (y2 > y)
        edge = x1 + (y - y1) * (x2 - x1) / ((y2 - y1) or 1.0)
        inside ^= crosses & (x < edge)
    return inside


def _ring(radii: tuple[float, ...], count: int) -> list[tuple[float, float]]:
    points = []
    for index in range(count):
        # Rounded, so that the last digit of a sine cannot move a pixel.
        angle = 2 * math.pi * index / count - math.pi / 2
        radius = radii[index % len(radii)]
        points.append((round(radius * math.cos(angle), 4), round(radius * math.sin(angle), 4)))
    return points


def _shape_coverage(name: str, grow: float = 1.0) -> np.ndarray:
    """uint8 `[TILE, TILE]`, 255 inside; four by four samples a pixel."""
    axis = ((2 * np.arange(4 * TILE) + 1 - 4 * TILE) / (4 * 32.0) / 2) / grow
    x, y = np.meshgrid(axis, axis)
    third = 0.34
    inside = {
        "circle": lambda: x * x + y * y < 0.9,
        "square": lambda: (abs(x) < 0.8) & (abs(y) < 0.8),
        "triangle": lambda: _inside_polygon([(0.0, -0.93), (0.95, 0.8), (-0.95, 0.8)], x, y),
        "star": lambda: _inside_polygon(_ring((1.0, 0.42), 10), x, y),
        "heart": lambda: (
            ((x + 0.42) ** 2 + (y + 0.34) ** 2 < 0.26)
            | ((x - 0.42) ** 2 + (y + 0.34) ** 2 < 0.26)
            | _inside_polygon([(-0.86, -0.1), (-0.42, -0.5), (0.42, -0.5), (0.86, -0.1), (0.0, 0.92)], x, y)
        ),
        "diamond": lambda: abs(x) / 0.75 + abs(y) < 0.98,
        "hexagon": lambda: _inside_polygon(_ring((0.97,), 6), x, y),
        "cross": lambda: ((abs(x) < third) & (abs(y) < 0.92)) | ((abs(y) < third) & (abs(x) < 0.92)),
    }[name]()
    counts = inside.reshape(TILE, 4, TILE, 4).sum(axis=(1, 3))
    return (counts * 255 // 16).astype(np.uint8)


def _shape_tile(sprite: Sprite) -> np.ndarray:
    """In greys; `tinted` gives it its colour."""
    alpha = _shape_coverage(sprite.name)
    rows = np.arange(TILE)[:, None] + np.zeros((1, TILE), dtype=np.int64)
    if sprite.art == "lit":
        grey = 200 - rows * 140 // TILE
    elif sprite.art == "rimmed":
        grey = np.where(_shape_coverage(sprite.name, 0.78) > 127, 150, 45)
    elif sprite.art == "banded":
        grey = np.where((rows + np.arange(TILE)) % 24 < 12, 150, 95)
    else:
        grey = np.full((TILE, TILE), 138)
    grey = grey.astype(np.uint8)
    return _premultiplied(np.stack([grey, grey, grey, alpha], axis=-1))


def _colour_table(colour: str) -> np.ndarray:
    """uint8 `[256, 3]`: brightness to shades of a colour, dark to nearly white."""
    brightness = 60 + np.arange(256) * 195 // 255
    base = np.array(COLOURS[colour])
    shade = base * np.minimum(brightness, 165)[:, None] // 165
    lift = np.maximum(brightness - 165, 0)[:, None] * (30 if colour == "black" else 130)
    return (shade + (255 - shade) * lift // (90 * 255)).astype(np.uint8)


def _tinted(tile: np.ndarray, colour: str) -> np.ndarray:
    """Every pixel in a shade of the colour, as bright as it was."""
    alpha = tile[..., 3:].astype(np.int32)
    plain = tile[..., :3].astype(np.int32) * 255 // np.maximum(alpha, 1)
    luma = np.minimum((plain * np.array([77, 150, 29])).sum(axis=-1) >> 8, 255)
    rgb = (_colour_table(colour)[luma] * alpha + 127) // 255
    return np.concatenate([rgb.astype(np.uint8), tile[..., 3:]], axis=-1)


def _outlined(tile: np.ndarray) -> np.ndarray:
    """A white line around it."""
    alpha = tile[..., 3]
    grown = dilated(alpha, OUTLINE_REACH)
    line = grown.astype(np.uint16) * (255 - alpha.astype(np.uint16)) // 255
    return np.concatenate([(tile[..., :3] + line[..., None]).clip(0, 255), grown[..., None]], axis=-1).astype(np.uint8)


def _with_attribute(tile: np.ndarray, attribute: str) -> np.ndarray:
    if attribute == "upside down":
        return tile[::-1, ::-1]  # turned, not mirrored
    if attribute == "mirrored":
        return tile[:, ::-1]
    if attribute == "half transparent":
        return tile // 2
    if attribute == "silhouette":
        return tile * np.array([0, 0, 0, 1], dtype=np.uint8)
    if attribute == "outlined":
        return _outlined(tile)
    raise ValueError(f"attribute must be one of {', '.join(ATTRIBUTES)}, got {attribute!r}")


@lru_cache(maxsize=2048)
def tile_of(sprite: Sprite, colour: str | None, attribute: str | None) -> np.ndarray:
    """Premultiplied uint8 `[TILE, TILE, 4]`."""
    tile = _shape_tile(sprite) if sprite.category == "shape" else _named_tile(sprite)
    if colour is not None:
        tile = _tinted(tile, colour)
    if attribute is not None:
        tile = _with_attribute(tile, attribute)
    return np.ascontiguousarray(tile)


@lru_cache(maxsize=4096)
def scaled_tile(sprite: Sprite, colour: str | None, attribute: str | None, side: int) -> np.ndarray:
    """Premultiplied uint8 `[side, side, 4]`."""
    return resize(tile_of(sprite, colour, attribute), side, side)
