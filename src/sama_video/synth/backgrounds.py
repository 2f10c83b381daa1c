"""What is behind the objects: moving procedural textures, and named backdrops, which a background change puts there.

Lengths are in units: `_UNITS` to the frame's short side, whole numbers throughout. F frames, H W pixels.
A split has texture recipes of its own. Named backdrops stand still and are words as colours are: all splits share them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from .draw import SINE, TURN, Draw, cosine, sine
from .sprites import COLOURS

_UNITS = 1024
RGB = tuple[int, int, int]
_Field = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


def _hashed(seed: int, *values: np.ndarray | int) -> np.ndarray:
    """Well mixed uint32 of whole numbers."""
    # Multiply and shift, as murmur's finaliser does; in uint64, masked to 32 bits, where nothing overflows.
    state = np.asarray(seed & 0xFFFFFFFF, dtype=np.uint64)
    for value in values:
        state = (state ^ (np.asarray(value).astype(np.int64) & 0xFFFFFFFF).astype(np.uint64)) * np.uint64(0x9E3779B1)
        state &= np.uint64(0xFFFFFFFF)
        state = (state ^ (state >> np.uint64(15))) * np.uint64(0x85EBCA77) & np.uint64(0xFFFFFFFF)
        state ^= state >> np.uint64(13)
    return state.astype(np.uint32)


def _noise(seed: int, x: np.ndarray, y: np.ndarray, cell: int) -> np.ndarray:
    """Smooth value noise 0..255 `[H, W]` on a lattice of `cell` units; x `[1, W]`, y `[H, 1]`."""
    # Random values on a lattice of cells, between them a smooth step 3 t^2 - 2 t^3 with t in 1 / 256: no float, whose
    # last digit could differ between machines. Columns first, since x and y are axes and not yet a grid.
    column, row = x // cell, y // cell
    fx, fy = (x % cell) * 256 // cell, (y % cell) * 256 // cell
    fx, fy = fx * fx * (768 - 2 * fx) >> 16, fy * fy * (768 - 2 * fy) >> 16
    columns, rows = np.arange(column.min(), column.max() + 2), np.arange(row.min(), row.max() + 2)
    lattice = (_hashed(seed, columns[None], rows[:, None]) & 255).astype(np.int32)
    column, row = (column - columns[0]).ravel(), (row - rows[0]).ravel()
    left, right = lattice[:, column], lattice[:, column + 1]
    across = left * 256 + (right - left) * fx
    top, bottom = across[row], across[row + 1]
    return top + ((bottom - top) // 256) * fy >> 8


def _wave(angle: np.ndarray) -> np.ndarray:
    """0..255 for an angle in 1 / TURN of a turn."""
    return SINE[angle & (TURN - 1)] * 127 // 4096 + 128


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x + y * y).astype(np.float64)).astype(np.int64)  # a correctly rounded root is exact everywhere


def _points(seed: int, count: int, reach: int = 2 * _UNITS) -> list[tuple[int, int]]:
    drawn = [_hashed(seed, index, np.array([0, 1])) % reach for index in range(count)]
    return [(int(x), int(y)) for x, y in drawn]


# The textures: each a field of brightness, whose constants were chosen by eye so that every one covers most of 0..255.


def _clouds(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (4 * _noise(seed, x, y, 420) + 2 * _noise(seed + 1, x, y, 190) + _noise(seed + 2, x, y, 90)) // 7


def _marble(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _wave(x * 2 + y + 10 * _noise(seed, x, y, 380) + 4 * _noise(seed + 1, x, y, 150))


def _waves(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _wave(y * 3 + SINE[(x + seed) & (TURN - 1)] // 14 + 3 * _noise(seed, x, y, 500))


def _plasma(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    p, q, r = (int(v) % TURN for v in _hashed(seed, np.arange(3)))
    return (_wave(x + p) + _wave(y * 3 // 2 + q) + _wave((x + y) // 2 + r)) // 3


def _wood(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _wave(_distance(x // 5 + 300, y + (seed % 500)) * 4 + 6 * _noise(seed, x, y, 300))


def _cells(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), 1 << 40, dtype=np.int64)
    shade = np.zeros(nearest.shape, dtype=np.int64)
    for index, (px, py) in enumerate(_points(seed, 14)):
        distance = (x - px) ** 2 + (y - py) ** 2
        closer = distance < nearest
        nearest = np.where(closer, distance, nearest)
        shade[closer] = 40 + index * 13
    return shade


def _weave(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 110 + seed % 90
    over = ((x // period + y // period) & 1).astype(np.int64)
    along = abs((x % period) * 2 - period) * 200 // period
    across = abs((y % period) * 2 - period) * 200 // period
    return 235 - np.where(over == 1, along, across) - over * 20


def _bubbles(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    field = _noise(seed, x, y, 600) // 3
    for index, (px, py) in enumerate(_points(seed, 16)):
        radius = 70 + 12 * (index % 8)
        field = np.where((x - px) ** 2 + (y - py) ** 2 < radius * radius, 90 + 10 * index, field)
    return field


def _ripples(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    (px, py), (qx, qy) = _points(seed, 2, _UNITS)
    return (_wave(_distance(x - px, y - py) * 4) + _wave(_distance(x - qx, y - qy) * 5)) // 2


def _zigzag(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 180 + seed % 120
    return _wave(y * 4 + abs(x % period * 2 - period) * 3)


def _contours(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (2 * _noise(seed, x, y, 450) + _noise(seed + 1, x, y, 210)) // 3 // 28 * 28


def _scales(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    period = 150 + seed % 80
    row = y // (period // 2)
    dx = (x + (row & 1) * (period // 2)) % period - period // 2
    dy = y % (period // 2)
    return 230 - _distance(dx, dy) * 210 // period


RECIPES: dict[str, dict[str, _Field]] = {
    "train": {
        "soft clouds": _clouds,
        "marble": _marble,
        "rolling waves": _waves,
        "a plasma pattern": _plasma,
        "wood grain": _wood,
        "patchwork": _cells,
        "a woven pattern": _weave,
        "bubbles": _bubbles,
    },
    "validation": {"ripples": _ripples, "a zigzag pattern": _zigzag},
    "test": {"contour lines": _contours, "fish scales": _scales},
}


def _axes(height: int, width: int, short: int) -> tuple[np.ndarray, np.ndarray]:
    """x `[1, W]` and y `[H, 1]` of pixel centres, in units."""
    x = (2 * np.arange(width, dtype=np.int64) + 1) * _UNITS // (2 * short)
    y = (2 * np.arange(height, dtype=np.int64) + 1) * _UNITS // (2 * short)
    return x[None], y[:, None]


def _colour_ramp(stops: Sequence[RGB]) -> np.ndarray:
    """uint8 `[256, 4]`: there and back again through the colours, so that it may turn; the last value is unused."""
    ring = np.array([*stops, *reversed(stops[:-1])], dtype=np.int64)
    level = np.arange(256) * (len(ring) - 1)
    low = np.minimum(level // 255, len(ring) - 2)
    fraction = (level - low * 255)[:, None]
    colours = (ring[low] * (255 - fraction) + ring[low + 1] * fraction) // 255
    return np.concatenate([colours, np.full((256, 1), 255)], axis=1).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Texture:
    """A moving procedural texture.

    Args:
        recipe: one of its split's `RECIPES`.
        hues: names of its colours, for captions.
        palette: two or three colours.
        pan: how far the view moves during a clip, in units (x, y).
        shake: amplitude of a trembling hand, in units.
        flow: how far the colours wander through the palette during a clip, in 1 / 256 of it.
    """

    split: str
    recipe: str
    seed: int
    hues: tuple[str, ...]
    palette: tuple[RGB, ...]
    pan: tuple[int, int]
    shake: int
    flow: int

    @property
    def phrase(self) -> str:
        return f"{self.recipe} in {' and '.join(self.hues)}"

    def frames(self, num_frames: int, height: int, width: int) -> np.ndarray:
        """uint8 `[F, H, W, 3]`."""
        # The field is drawn once, larger than the frame by what the view moves, and every frame is cut out of it: in
        # sixteenths of a pixel, so that a slow pan does not jump. Colours wander by a shift of the palette's index.
        short = min(height, width)
        offsets = np.array([self._offset(index, num_frames) for index in range(num_frames)])
        offsets = (offsets * short * 16 // _UNITS).astype(np.int64)
        offsets -= offsets.min(axis=0)
        margin_x, margin_y = offsets.max(axis=0) // 16 + 2
        x, y = _axes(height + int(margin_y), width + int(margin_x), short)
        field = np.clip(RECIPES[self.split][self.recipe](self.seed, x, y), 0, 255).astype(np.uint16)
        ramp = _colour_ramp(self.palette).view(np.uint32)[:, 0]
        video = np.empty((num_frames, height, width, 4), dtype=np.uint8)
        for index, (dx, dy) in enumerate(offsets):
            part = _shifted(field, int(dx), int(dy), height, width)
            part = (part + (self.flow * index // max(num_frames - 1, 1)) % 256) & 255
            video[index] = ramp[part][..., None].view(np.uint8)
        return np.ascontiguousarray(video[..., :3])

    def _offset(self, index: int, num_frames: int) -> tuple[int, int]:
        span = max(num_frames - 1, 1)
        x, y = self.pan[0] * index // span, self.pan[1] * index // span
        if self.shake:
            x += self.shake * sine(index * 307 + self.seed) // 4096
            y += self.shake * cosine(index * 211 + self.seed) // 4096
        return x, y


def _shifted(field: np.ndarray, dx: int, dy: int, height: int, width: int) -> np.ndarray:
    """The `[height, width]` part of a field at (dx, dy) sixteenths of a pixel, between pixels in straight lines."""
    (left, fx), (top, fy) = divmod(dx, 16), divmod(dy, 16)
    rows = field[top : top + height + 1, left : left + width + 1]
    rows = rows[:, :-1] * (16 - fx) + rows[:, 1:] * fx
    return (rows[:-1] * (16 - fy) + rows[1:] * fy + 128) >> 8


def draw_texture(draw: Draw, split: str, moving: bool) -> Texture:
    """A texture of the split at random."""
    hues = tuple(draw.shuffled(tuple(COLOURS))[: 2 + draw.below(2)])
    return Texture(
        split=split,
        recipe=draw.choice(tuple(RECIPES[split])),
        seed=draw.below(1 << 30),
        hues=hues,
        palette=tuple(_muted(COLOURS[hue], draw) for hue in hues),
        pan=(draw.below(701) - 350, draw.below(401) - 200) if moving and draw.chance(0.8) else (0, 0),
        shake=8 + draw.below(14) if moving and draw.chance(0.25) else 0,
        flow=draw.below(161) - 80 if moving and draw.chance(0.3) else 0,
    )


def _muted(colour: RGB, draw: Draw) -> RGB:
    """Nearer to grey and a little off, so that objects stand out."""
    red, green, blue = ((value * 9 + 128 * 7) // 16 + draw.below(41) - 20 for value in colour)
    return (min(max(red, 0), 255), min(max(green, 0), 255), min(max(blue, 0), 255))


@dataclass(frozen=True)
class Backdrop:
    """A named backdrop: stands still and looks the same wherever it is named.

    Args:
        phrase: with its article, for instance "a starry night sky".
    """

    phrase: str

    def frames(self, num_frames: int, height: int, width: int) -> np.ndarray:
        """uint8 `[F, H, W, 3]`."""
        return np.repeat(_picture(self.phrase, height, width)[None], num_frames, axis=0)


@lru_cache(maxsize=256)
def _picture(phrase: str, height: int, width: int) -> np.ndarray:
    x, y = _axes(height, width, min(height, width))
    down = y * 256 // y.max()  # 0 at the top, 256 at the bottom, whatever the aspect ratio
    picture = backdrops()[phrase](x=x + 0 * y, y=y + 0 * x, down=down + 0 * x)
    return np.clip(picture, 0, 255).astype(np.uint8)


_Painter = Callable[..., np.ndarray]  # of x, y and down `[H, W]`; the latter is 0 at the top, 256 at the bottom


def _mix(low: RGB, high: RGB, fraction: np.ndarray) -> np.ndarray:
    """From `low` at 0 to `high` at 256."""
    fraction = np.clip(fraction, 0, 256)[..., None]
    return (np.array(low) * (256 - fraction) + np.array(high) * fraction) // 256


def _where(condition: np.ndarray, colour: RGB | np.ndarray, picture: np.ndarray) -> np.ndarray:
    return np.where(condition[..., None], np.array(colour), picture)


# The painters of scenic backdrops: layers from the back to the front, each a condition on x, y (units from the top left
# corner) or on `down` (the same at every aspect ratio, which horizons are given in).


def _starry(*, x: np.ndarray, y: np.ndarray, down: np.ndarray) -> np.ndarray:
    sky = _mix((8, 8, 40), (50, 35, 110), down)
    for px, py in _points(7, 90):
        sky = _where((x - px) ** 2 + (y - py) ** 2 < 90, (255, 250, 220), sky)
    return _where((x - 780) ** 2 + (y - 240) ** 2 < 110**2, (245, 240, 200), sky)


def _sunset(*, x: np.ndarray, down: np.ndarray, **_: np.ndarray) -> np.ndarray:
    picture = _mix((90, 40, 130), (255, 150, 50), down * 3 // 2)
    picture = _where((x - 512) ** 2 + ((down * 4) - 640) ** 2 < 150**2, (255, 230, 120), picture)
    return _where(down > 165, _mix((150, 60, 80), (40, 20, 60), (down - 165) * 3), picture)


def _meadow(*, x: np.ndarray, y: np.ndarray, down: np.ndarray) -> np.ndarray:
    hill = 130 + SINE[(x * 3 // 4) & (TURN - 1)] // 180
    grass = _mix((110, 190, 60), (40, 120, 30), (down - 100) * 2) + (_noise(3, x[:1], y[:, :1], 24) // 12)[..., None]
    return _where(down > hill, grass, _mix((90, 170, 245), (200, 230, 255), down * 2))


def _desert(*, x: np.ndarray, down: np.ndarray, **_: np.ndarray) -> np.ndarray:
    far, near = 140 + SINE[x & (TURN - 1)] // 260, 185 + SINE[(x + 400) & (TURN - 1)] // 200
    picture = _where(down > far, (226, 178, 100), _mix((120, 190, 240), (250, 235, 200), down * 2))
    return _where(down > near, (200, 145, 70), picture)


def _sea(*, x: np.ndarray, y: np.ndarray, down: np.ndarray) -> np.ndarray:
    crest = ((y + SINE[(x * 4) & (TURN - 1)] // 300) % 80 < 10) & (down > 125)
    water = _mix((20, 130, 190), (10, 50, 110), (down - 120) * 2)
    picture = _where(down > 120, water, _mix((110, 190, 250), (215, 240, 255), down * 2))
    return _where(crest, (190, 225, 245), picture)


def _mountains(*, x: np.ndarray, down: np.ndarray, **_: np.ndarray) -> np.ndarray:
    ridge = 60 + abs(x % 520 - 260) * 90 // 260 + abs((x + 170) % 300 - 150) * 30 // 150
    picture = _where(down > ridge, (95, 105, 130), _mix((120, 180, 240), (220, 235, 250), down * 2))
    picture = _where((down > ridge) & (down < ridge + 34), (245, 248, 255), picture)
    return _where(down > 215, (230, 238, 245), picture)


def _bricks(*, x: np.ndarray, y: np.ndarray, **_: np.ndarray) -> np.ndarray:
    row = y // 96
    shifted = x + (row & 1) * 110
    mortar = (y % 96 < 12) | (shifted % 220 < 12)
    shade = (_hashed(5, shifted // 220, row) % 36).astype(np.int64)[..., None]
    return _where(mortar, (200, 190, 180), np.array((165, 70, 50)) + shade - 18)


def _forest(*, x: np.ndarray, down: np.ndarray, **_: np.ndarray) -> np.ndarray:
    picture = _mix((170, 210, 230), (210, 230, 210), down)
    for base, tip, period, shift, colour in ((190, 60, 190, 60, (60, 120, 80)), (240, 95, 260, 0, (25, 80, 45))):
        top = tip + abs((x + shift) % period * 2 - period) * (base - tip) // period
        picture = _where(down > top, colour, picture)
    return _where(down > 225, (60, 50, 30), picture)


SCENICS: dict[str, _Painter] = {
    "a starry night sky": _starry,
    "a sunset over the sea": _sunset,
    "a green meadow": _meadow,
    "a sandy desert": _desert,
    "the open sea": _sea,
    "snowy mountains": _mountains,
    "a brick wall": _bricks,
    "a forest": _forest,
}


def _plain(colour: str) -> _Painter:
    return lambda x, **_: np.broadcast_to(np.array(COLOURS[colour]), (*x.shape, 3))


def _two(first: str, second: str, is_first: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> _Painter:
    return lambda x, y, **_: _where(is_first(x, y), COLOURS[first], np.array(COLOURS[second]))


def _gradient(first: str, second: str) -> _Painter:
    return lambda down, **_: _mix(COLOURS[first], COLOURS[second], down)


# Patterns of two colours: where the first of them is.
_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "a {} and {} checkerboard": lambda x, y: (x // 128 + y // 128) % 2 == 0,
    "vertical {} and {} stripes": lambda x, _: x // 128 % 2 == 0,
    "horizontal {} and {} stripes": lambda _, y: y // 128 % 2 == 0,
    "{} polka dots on {}": lambda x, y: (x % 204 - 102) ** 2 + (y % 204 - 102) ** 2 < 60 * 60,
}

# What named backdrops there are, whatever their colours.
BACKDROP_KINDS = (
    *SCENICS, "a plain wall", "a checkerboard", "vertical stripes", "horizontal stripes", "polka dots", "a gradient"
)  # fmt: skip


@cache
def backdrops() -> dict[str, _Painter]:
    """Every named backdrop by its phrase."""
    painters = dict(SCENICS)
    for first in COLOURS:
        painters[f"a plain {first} wall"] = _plain(first)
        for second in (colour for colour in COLOURS if colour != first):
            for phrase, is_first in _PATTERNS.items():
                painters[phrase.format(first, second)] = _two(first, second, is_first)
            painters[f"a gradient from {first} at the top to {second} at the bottom"] = _gradient(first, second)
    return painters


def draw_backdrop(draw: Draw) -> Backdrop:
    """A named backdrop; a scenic one as often as a pattern."""
    phrases = tuple(SCENICS) if draw.chance(0.5) else tuple(phrase for phrase in backdrops() if phrase not in SCENICS)
    return Backdrop(draw.choice(phrases))
