"""Random scenes of a split, and the canonical positions and motions that words stand for."""

from collections.abc import Sequence

import numpy as np

from .backgrounds import draw_texture
from .draw import Draw
from .footage import Footage
from .instructions import SUBTITLES
from .lettering import FONTS
from .scene import SIZES, Background, Motion, Scene, Subtitle, Thing
from .sprites import COLOURS, Sprite

_GRID_STEPS = (0.2, 0.5, 0.8)
_DRIFT = 0.42  # of the frame: how far "drifting right" goes
_DIRECTIONS = {"right": (_DRIFT, 0.0), "left": (-_DRIFT, 0.0), "up": (0.0, -_DRIFT), "down": (0.0, _DRIFT)}
# Kind, amplitude and cycles of a `Motion`.
_MANNERS = {
    "still": ("still", 0.0, 0.0),
    "spin": ("still", 0.0, 0.0),
    "bounce": ("bounce", 0.2, 4.0),
    "orbit": ("orbit", 0.14, 1.0),
    "wave": ("wave", 0.1, 2.0),
}
SUBTITLE_COLOURS = ("white", "yellow")
_TINTED = 0.3
_CLEAR_DISTANCE = 0.45  # of two objects' summed sides: nearer centres count as covering one another


def grid_point(where: str) -> tuple[float, float]:
    """Where "top left" and so on are, one of `instructions.GRID`."""
    column = _GRID_STEPS[0 if "left" in where else 2 if "right" in where else 1]
    row = _GRID_STEPS[0 if "top" in where else 2 if "bottom" in where else 1]
    return column, row


def named_motion(name: str, start: tuple[float, float]) -> Motion | None:
    """What a motion of `instructions.MOTIONS` means from `start` on; None where it would leave the frame."""
    words = name.split()  # "wave right" has a manner and a direction, most have one of them
    x, y = start
    dx, dy = (0.0, 0.0) if name in _MANNERS else _DIRECTIONS[words[-1]]
    kind, amplitude, cycles = _MANNERS.get(words[0], ("straight", 0.0, 0.0))
    if not (0.1 <= x + dx <= 0.9 and 0.1 <= y + dy <= 0.9):
        return None
    if kind == "bounce" and y < 0.4:
        return None
    return Motion(kind=kind, start=start, end=(x + dx, y + dy), amplitude=amplitude, cycles=cycles)


def draw_motion(draw: Draw, moving: bool) -> Motion:
    """Any way through the frame, sometimes from outside or to the outside."""
    start = (draw.between(0.15, 0.85), draw.between(0.15, 0.85))
    if not moving or draw.chance(0.15):
        return Motion(kind="still", start=start, end=start)
    kind = draw.weighted(("straight", "wave", "bounce", "orbit"), (4, 2, 2, 2))
    end = (draw.between(0.15, 0.85), draw.between(0.15, 0.85))
    if kind in ("straight", "wave") and draw.chance(0.25):
        outside = (draw.choice((-0.2, 1.2)), draw.between(0.2, 0.8))
        start, end = (outside, end) if draw.chance(0.5) else (start, outside)
    if kind == "orbit":
        end = start if draw.chance(0.6) else end
    if kind == "bounce":
        start, end = (start[0], max(start[1], 0.45)), (end[0], max(start[1], 0.45))
    amplitude = {"straight": 0.0, "wave": draw.between(0.05, 0.12)}.get(kind, draw.between(0.1, 0.22))
    cycles = {"straight": 0.0, "orbit": float(draw.choice((-1, 1, 2)))}.get(kind, float(2 + draw.below(4)))
    return Motion(kind=kind, start=start, end=end, amplitude=amplitude, cycles=cycles)


def draw_thing(draw: Draw, *, key: int, sprite: Sprite, moving: bool) -> Thing:
    """An object of the given drawing; shapes always have a colour of their own."""
    tinted = sprite.category == "shape" or draw.chance(_TINTED)
    return Thing(
        key=key,
        sprite=sprite,
        size=draw.weighted(tuple(SIZES), (3, 4, 3)),
        motion=draw_motion(draw, moving),
        colour=draw.choice(tuple(COLOURS)) if tinted else None,
        spins=draw.choice((-1, 1, 2)) if moving and draw.chance(0.15) else 0,
        shadow=draw.chance(0.25),
    )


def draw_sprite(draw: Draw, drawings: Sequence[Sprite], avoid: frozenset[str] = frozenset()) -> Sprite:
    """One of the drawings; a shape every fifth time."""
    wants_shape = draw.chance(0.2)
    pool = [sprite for sprite in drawings if sprite.name not in avoid]
    return draw.choice([sprite for sprite in pool if (sprite.category == "shape") == wants_shape] or pool)


def draw_background(draw: Draw, split: str, footage: Footage | None, moving: bool) -> Background:
    """From the user's footage where there is some, else a procedural texture."""
    return footage.draw(draw, moving) if footage is not None else draw_texture(draw, split, moving)


def draw_subtitle(draw: Draw, split: str) -> Subtitle:
    return Subtitle(
        text=draw.choice(SUBTITLES[split]),
        font=draw.choice(FONTS[split]),
        colour=draw.choice(SUBTITLE_COLOURS),
        position="bottom" if draw.chance(0.75) else "top",
    )


def draw_scene(
    draw: Draw,
    split: str,
    *,
    drawings: Sequence[Sprite],
    footage: Footage | None,
    moving: bool,
    num_things: int,
    namesakes: bool,
    subtitle: bool,
) -> Scene:
    """A scene without a look.

    Args:
        drawings: what there is to place.
        num_things: objects to draw; one that finds no free way is left out.
        namesakes: the first two objects show the same thing, so that more than its name is needed to point at it.
    """
    things: list[Thing] = []
    first = draw_sprite(draw, drawings)
    for key in range(num_things):
        sprite = first if key == 0 or (namesakes and key == 1) else draw_sprite(draw, drawings)
        for _ in range(12):
            thing = draw_thing(draw, key=key, sprite=sprite, moving=moving)
            if is_visible(thing, things) and not (namesakes and key == 1 and thing.colour == things[0].colour):
                things.append(thing)
                break
        if len(things) <= key:
            break
    background = draw_background(draw, split, footage, moving)
    return Scene(background=background, things=tuple(things), subtitle=draw_subtitle(draw, split) if subtitle else None)


def is_visible(thing: Thing, others: list[Thing]) -> bool:
    """In the frame for most of the time, and apart from each of the others for most of the time."""
    track = thing.motion.track()
    inside = ((track > 0.06) & (track < 0.94)).all(axis=1)
    if inside.mean() < 0.6:
        return False
    return all(_apart(track, thing, other).mean() > 0.7 for other in others)


def _apart(track: np.ndarray, thing: Thing, other: Thing) -> np.ndarray:
    reach = _CLEAR_DISTANCE * (thing.extent + other.extent)
    return ((track - other.motion.track()) ** 2).sum(axis=1) > reach * reach
