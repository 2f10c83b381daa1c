"""A scene as data: what is to be seen, where and how it moves. An edit turns one scene into another.

Positions are fractions of the frame's width and height, (0, 0) the top left corner; sizes and radii are fractions of
its short side; time runs from 0 to 1. So a scene means the same at every size and length. F frames, H W pixels.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .draw import SINE, SINE_SCALE, TURN
from .sprites import Sprite

SIZES = {"small": 0.2, "medium": 0.3, "large": 0.44}
SUBPIXELS = 16


class Background(Protocol):
    """What is behind the objects."""

    @property
    def phrase(self) -> str:
        """As a caption names it."""
        ...

    def frames(self, num_frames: int, height: int, width: int) -> np.ndarray:
        """uint8 `[F, H, W, 3]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How an object's centre moves.

    Args:
        kind: "still", "straight", "wave" (weaves up and down on its way), "bounce" (hops upwards), "orbit" (circles
            around a centre that goes from `start` to `end`).
        start, end: (x, y).
        amplitude: of the wave, hop or orbit, as a fraction of the short side.
        cycles: how often within the clip.
    """

    kind: str
    start: tuple[float, float]
    end: tuple[float, float]
    amplitude: float = 0.0
    cycles: float = 0.0

    def track(self) -> np.ndarray:
        """`[33, 2]`: the centre over time, as fractions of a square frame."""
        return self.centres(33, 4096, 4096) / (4096 * SUBPIXELS)

    def centres(self, num_frames: int, height: int, width: int) -> np.ndarray:
        """`[F, 2]` (x, y) in 1 / SUBPIXELS of a pixel, whole numbers."""
        t = np.arange(num_frames) / max(num_frames - 1, 1)
        x = (self.start[0] + t * (self.end[0] - self.start[0])) * width
        y = (self.start[1] + t * (self.end[1] - self.start[1])) * height
        reach = self.amplitude * min(height, width) / SINE_SCALE
        angle = np.floor(t * self.cycles * TURN).astype(np.int64)
        if self.kind == "wave":
            y = y + reach * SINE[angle % TURN]
        elif self.kind == "bounce":
            y = y - reach * abs(SINE[angle // 2 % TURN])
        elif self.kind == "orbit":
            x = x + reach * SINE[angle % TURN]
            y = y - reach * SINE[(angle + TURN // 4) % TURN]
        return np.floor(np.stack([x, y], axis=1) * SUBPIXELS + 0.5).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object of a scene.

    Args:
        key: tells objects of a scene apart; an edit keeps it.
        colour: a named tint; None leaves a drawing's own colours.
        size: one of `SIZES`.
        scale: times that size ("twice as big").
        spins: turns clockwise within the clip.
        shadow: whether it throws one, down to the right.
        attribute: one of `sprites.ATTRIBUTES`.
    """

    key: int
    sprite: Sprite
    size: str
    motion: Motion
    colour: str | None = None
    scale: float = 1.0
    spins: int = 0
    shadow: bool = False
    attribute: str | None = None

    @property
    def extent(self) -> float:
        """Of its square tile, as a fraction of the frame's short side."""
        return SIZES[self.size] * self.scale

    def side(self, height: int, width: int) -> int:
        """Of its square tile, in pixels."""
        return max(4, int(self.extent * min(height, width) + 0.5))


@dataclass(frozen=True, kw_only=True)
class Subtitle:
    """A line of text near the lower or upper edge; `position` is "bottom" or "top"."""

    text: str
    font: str
    colour: str
    position: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Background, objects from back to front, a subtitle over them, and a look over everything."""

    background: Background
    things: tuple[Thing, ...] = ()
    subtitle: Subtitle | None = None
    look: str | None = None
