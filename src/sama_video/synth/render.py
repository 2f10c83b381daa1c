"""A scene to pixels, and the mask of what an edit can have changed.

F frames, H W pixels, P side of an object's patch. Everything is in whole numbers, so that every machine gives the same
bytes. What lies outside a mask is equal in source and target by construction.
"""

from dataclasses import dataclass

import numpy as np

from .draw import TURN, cosine, sine
from .lettering import line_tile
from .looks import LOOKS
from .scene import SUBPIXELS, Scene, Subtitle, Thing
from .sprites import scaled_tile

_TILE_UNITS = 256  # positions inside a tile are in 1 / _TILE_UNITS of a pixel
_SHADOW_ALPHA = 95  # of 255
_LINE_HEIGHT = 0.15  # of the short side, outline and all; capitals are about half of it
_LINE_MARGIN = 0.03


@dataclass(frozen=True)
class _Layer:
    """One thing on its way through the clip.

    Args:
        patches: premultiplied uint8 `[F, P, P, 4]`, or `[1, P, Q, 4]` for what stands still.
        corners: `[F, 2]` (left, top) in pixels.
    """

    patches: np.ndarray
    corners: list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    num_frames: int
    height: int
    width: int


class Renderer:
    """Draws the scenes of one sample, each background and each object's layers only once."""

    def __init__(self, shape: Shape):
        self.shape = shape
        self._layers: dict[Thing | Subtitle, dict[str, _Layer]] = {}
        self._backgrounds: dict[int, np.ndarray] = {}

    def render(self, scene: Scene, changed: "Changed", other: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 `[F, H, W, 3]`, and a mask bool `[F, H, W]` of where the changed parts of this scene show.

        Args:
            other: what the edit begins with, or ends with; of a part that is in both only what differs is masked.
        """
        shape = self.shape
        video = self._background(scene).copy()
        mask = np.full(video.shape[:3], changed.background)
        counterparts = {_identity(part): part for part in _parts_of(other)}
        for part in _parts_of(scene):
            is_changed = part.key in changed.things if isinstance(part, Thing) else changed.subtitle
            counterpart = counterparts.get(_identity(part)) if is_changed else part
            others = {} if counterpart is None else self._layers_of(counterpart)
            for role, layer in self._layers_of(part).items():
                _paint(video, mask, layer, _difference(layer, others.get(role)))
        if scene.look is not None:
            video = LOOKS[scene.look](video)
        if changed.look:
            mask = np.ones((shape.num_frames, shape.height, shape.width), dtype=bool)
        return video, mask

    def _background(self, scene: Scene) -> np.ndarray:
        known = id(scene.background)
        if known not in self._backgrounds:
            self._backgrounds[known] = scene.background.frames(
                self.shape.num_frames, self.shape.height, self.shape.width
            )
        return self._backgrounds[known]

    def _layers_of(self, part: Thing | Subtitle) -> dict[str, _Layer]:
        """From back to front, by what they are."""
        if part not in self._layers:
            is_thing = isinstance(part, Thing)
            self._layers[part] = _thing_layers(part, self.shape) if is_thing else _subtitle_layers(part, self.shape)
        return self._layers[part]


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Which parts of a scene an edit touches; `things` by key."""

    things: frozenset[int] = frozenset()
    background: bool = False
    subtitle: bool = False
    look: bool = False

    def __or__(self, other: "Changed") -> "Changed":
        return Changed(
            things=self.things | other.things,
            background=self.background or other.background,
            subtitle=self.subtitle or other.subtitle,
            look=self.look or other.look,
        )


def _parts_of(scene: Scene) -> list[Thing | Subtitle]:
    """From back to front."""
    return [*scene.things, *([scene.subtitle] if scene.subtitle else [])]


def _identity(part: Thing | Subtitle) -> int | None:
    """Tells the parts of a scene apart, and is kept by an edit."""
    return part.key if isinstance(part, Thing) else None


def _difference(layer: _Layer, other: _Layer | None) -> np.ndarray:
    """bool `[F, P, P]`: where a layer looks otherwise than its counterpart; everywhere if that is elsewhere."""
    alpha = layer.patches[..., 3]
    if other is layer:
        return np.zeros(alpha.shape, dtype=bool)
    if other is None or other.patches.shape != layer.patches.shape or other.corners != layer.corners:
        return alpha > 0
    return (layer.patches != other.patches).any(axis=-1)


def _thing_layers(thing: Thing, shape: Shape) -> dict[str, _Layer]:
    side = thing.side(shape.height, shape.width)
    tile = scaled_tile(thing.sprite, thing.colour, thing.attribute, side)
    centres = thing.motion.centres(shape.num_frames, shape.height, shape.width)
    span = max(shape.num_frames - 1, 1)
    turns = [thing.spins * TURN * index // span for index in range(shape.num_frames)]
    layer = _moving(tile, centres, turns)
    if not thing.shadow:
        return {"thing": layer}
    dark = np.zeros_like(layer.patches)
    dark[..., 3] = layer.patches[..., 3].astype(np.uint16) * _SHADOW_ALPHA // 255
    offset = max(2, side // 9)
    return {"shadow": _Layer(dark, [(left + offset, top + offset) for left, top in layer.corners]), "thing": layer}


def _moving(tile: np.ndarray, centres: np.ndarray, turns: list[int]) -> _Layer:
    """A square tile centred at `[F, 2]` 1 / SUBPIXELS pixels, turned by so many 1 / TURN; between pixels linearly."""
    # Backwards, so that no hole stays: where in the tile does every pixel of the patch come from? The patch is at whole
    # pixels, and the rest of the way, below a pixel, goes into these positions.
    side = len(tile)
    patch = side + 2 if not any(turns) else side * 46341 // 32768 + 3  # the diagonal, if it turns
    corners = (centres - patch * SUBPIXELS // 2) // SUBPIXELS
    rest = centres - corners * SUBPIXELS  # the centre, within the patch
    scale = _TILE_UNITS // SUBPIXELS
    grid = np.arange(patch) * _TILE_UNITS + _TILE_UNITS // 2
    x = (grid[None] - rest[:, :1] * scale)[:, None, :]
    y = (grid[None] - rest[:, 1:] * scale)[:, :, None]
    cos = np.array([cosine(turn) for turn in turns])[:, None, None]
    sin = np.array([sine(turn) for turn in turns])[:, None, None]
    # Back into the tile, which carries a transparent border of one pixel.
    middle = (side + 2) * _TILE_UNITS // 2 - _TILE_UNITS // 2
    column = np.clip(((x * cos + y * sin) >> 12) + middle, 0, side * _TILE_UNITS)
    row = np.clip(((y * cos - x * sin) >> 12) + middle, 0, side * _TILE_UNITS)
    return _Layer(_bilinear(np.pad(tile, ((1, 1), (1, 1), (0, 0))), column, row), [tuple(c) for c in corners.tolist()])


def _bilinear(tile: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """uint8 `[F, P, P, 4]` at positions in 1 / _TILE_UNITS; weights in sixteenths keep the sums in 16 bits."""
    flat = np.ascontiguousarray(tile).view(np.uint32).reshape(-1)
    index = (row >> 8) * tile.shape[1] + (column >> 8)
    fx, fy = ((column & 255) >> 4).astype(np.uint16)[..., None], ((row & 255) >> 4).astype(np.uint16)[..., None]
    total = None
    for step, weight in (
        (0, (16 - fx) * (16 - fy)),
        (1, fx * (16 - fy)),
        (tile.shape[1], (16 - fx) * fy),
        (tile.shape[1] + 1, fx * fy),
    ):
        pixels = flat[index + step].view(np.uint8).reshape(*index.shape, 4) * weight
        total = pixels if total is None else total + pixels
    assert total is not None
    return ((total + 128) >> 8).astype(np.uint8)


def _subtitle_layers(subtitle: Subtitle, shape: Shape) -> dict[str, _Layer]:
    short = min(shape.height, shape.width)
    height, margin = max(8, int(short * _LINE_HEIGHT + 0.5)), int(short * _LINE_MARGIN + 0.5)
    tile = line_tile(subtitle.text, subtitle.font, subtitle.colour, height, shape.width * 31 // 32)
    top = margin if subtitle.position == "top" else shape.height - margin - tile.shape[0]
    corner = ((shape.width - tile.shape[1]) // 2, top)
    return {"line": _Layer(tile[None], [corner] * shape.num_frames)}


def _paint(video: np.ndarray, mask: np.ndarray, layer: _Layer, changed: np.ndarray) -> None:
    """Blend a layer over the video; mark where it changed, unmark where it covers and did not."""
    _, height, width, _ = video.shape
    for index, (left, top) in enumerate(layer.corners):
        number = min(index, len(layer.patches) - 1)
        patch, differs = layer.patches[number], changed[number]
        y0, y1 = max(top, 0), min(top + patch.shape[0], height)
        x0, x1 = max(left, 0), min(left + patch.shape[1], width)
        if y0 >= y1 or x0 >= x1:
            continue
        inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        patch, differs = patch[inside], differs[inside]
        # (v + 128 + (v + 128 >> 8)) >> 8 is v / 255 rounded, without a division; the patch is premultiplied.
        alpha = patch[..., 3]
        part = video[index, y0:y1, x0:x1]
        behind = part * (255 - alpha.astype(np.uint16))[..., None] + 128
        part[:] = np.minimum(((behind + (behind >> 8)) >> 8) + patch[..., :3], 255)
        mask[index, y0:y1, x0:x1] = (mask[index, y0:y1, x0:x1] & (alpha < 255)) | differs
