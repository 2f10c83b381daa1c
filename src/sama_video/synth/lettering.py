"""Subtitles: glyphs of real fonts, drawn once and packed, set in a line with a black outline."""

import json
from functools import cache, lru_cache

import numpy as np
from PIL import Image

from .draw import dilated, resize
from .sprites import ASSETS, COLOURS

FONTS = {"train": ("sans", "serif"), "validation": ("mono",), "test": ("oblique",)}
CANONICAL_FONT = "sans"  # of every added subtitle, in every split
_OUTLINE = 4


@cache
def _metrics() -> dict:
    return json.loads((ASSETS / "glyphs.json").read_text())


@cache
def _strip(font: str) -> np.ndarray:
    with Image.open(ASSETS / f"glyphs_{font}.png") as image:
        return np.array(image)


def _set_line(text: str, font: str) -> np.ndarray:
    """Coverage uint8 `[H, W]` of a line at the atlas's size, with margins."""
    metrics = _metrics()
    advances, margin = metrics["fonts"][font]["advances"], metrics["fonts"][font]["margin"]
    strip = _strip(font)
    lefts = np.cumsum([0, *(advance + 2 * margin for advance in advances)])
    glyphs = [metrics["characters"].index(character) for character in text]
    line = np.zeros((strip.shape[0] + 2 * _OUTLINE, sum(advances[g] for g in glyphs) + 2 * margin), dtype=np.uint8)
    pen = 0
    for glyph in glyphs:
        picture = strip[:, lefts[glyph] : lefts[glyph + 1]]
        room = line[_OUTLINE:-_OUTLINE, pen : pen + picture.shape[1]]
        np.maximum(room, picture[:, : room.shape[1]], out=room)
        pen += advances[glyph]
    return line


@lru_cache(maxsize=1024)
def line_tile(text: str, font: str, colour: str, height: int, max_width: int) -> np.ndarray:
    """A line as premultiplied uint8 `[h, w, 4]`: `height` pixels high, or less where it would not fit the width."""
    coverage = _set_line(text, font)
    outline = dilated(coverage, _OUTLINE * _OUTLINE)
    width = max(1, coverage.shape[1] * height // coverage.shape[0])
    if width > max_width:
        height, width = max(1, height * max_width // width), max_width
    ink, alpha = resize(coverage, height, width).astype(np.uint16), resize(outline, height, width)
    rgb = (np.array(COLOURS[colour], dtype=np.uint16) * ink[..., None] + 127) // 255
    return np.concatenate([rgb.astype(np.uint8), np.maximum(alpha, ink)[..., None].astype(np.uint8)], axis=-1)
