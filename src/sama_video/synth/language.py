"""What a scene is called: expressions that point at one object or several, and captions.

An expression is offered only if it points at the meant objects and no others, with a margin: "the left fox" needs foxes
that are clearly apart.
"""

from collections.abc import Callable, Sequence

from .draw import Draw
from .instructions import CAPTIONS, CATEGORY_NOUNS, EMPTY_CAPTIONS, MOTIONS, SIZE_WORDS, WIDER_NOUNS, with_article
from .scene import Scene, Thing
from .sprites import Sprite

_APART = 0.17  # of the frame: mean positions nearer than this are not called left or right of one another
_APART_AT_START = 0.06
_LARGER = 1.35  # sizes nearer than this factor are not called bigger or smaller
_SIDES = {"upper": "at the top", "lower": "at the bottom"}
_LOOK_PHRASES = {"sketch": "as a pencil sketch", "vignette": "with a vignette", "pixelated": "as pixel art"}


def references(scenes: Sequence[Scene], keys: frozenset[int]) -> list[str]:
    """Expressions that mean the things `keys` in every one of the scenes; none if there is no way to say it."""
    offered = [_references(scene, keys) for scene in scenes]
    return [words for words in offered[0] if all(words in other for other in offered[1:])]


def _references(scene: Scene, keys: frozenset[int]) -> list[str]:
    meant = [thing for thing in scene.things if thing.key in keys]
    if len(meant) != len(keys):
        return []
    return _of_one(scene, meant[0]) if len(meant) == 1 else _of_several(scene, meant)


def _of_several(scene: Scene, meant: list[Thing]) -> list[str]:
    words = []
    if len(meant) == len(scene.things):
        words += ["both objects", "the two objects"] if len(meant) == 2 else ["all objects", "all the objects"]
    names = {thing.sprite.name for thing in meant}
    if len(names) == 1 and len(_called(scene, *names)) == len(meant):
        plural = meant[0].sprite.plural
        words += [f"both {plural}", f"the two {plural}"] if len(meant) == 2 else [f"all {plural}", f"all the {plural}"]
    return words


def _of_one(scene: Scene, thing: Thing) -> list[str]:
    name, category = thing.sprite.name, thing.sprite.category
    namesakes = _called(scene, name)
    words = []
    if len(namesakes) == 1:
        words.append(f"the {name}")
        if thing.colour:
            words.append(f"the {thing.colour} {name}")
    else:
        if all(other.colour for other in namesakes) and _only(namesakes, lambda other: other.colour == thing.colour):
            words += [f"the {thing.colour} {name}"] * 2
        words += _by_comparison(thing, namesakes, name)
        if thing.spins and _only(namesakes, lambda other: other.spins > 0):
            words.append(f"the spinning {name}")
        if thing.motion.kind == "bounce" and _only(namesakes, lambda other: other.motion.kind == "bounce"):
            words.append(f"the bouncing {name}")
    if category in CATEGORY_NOUNS and len(_called(scene, CATEGORY_NOUNS[category])) == 1:
        words.append(f"the {CATEGORY_NOUNS[category]}")
    if len(scene.things) == 1:
        words.append("the object")
    else:
        words += _by_comparison(thing, scene.things, "one" if len(namesakes) == len(scene.things) else "object")
    return words


def _called(scene: Scene, noun: str) -> list[Thing]:
    """The things that a reader may take a noun for: a taxi is a car, a penguin an animal."""
    return [thing for thing in scene.things if noun in nouns_of(thing.sprite)]


def nouns_of(sprite: Sprite) -> set[str]:
    """Its name, its category's noun, and wider words that mean it too."""
    own = {sprite.name} | ({CATEGORY_NOUNS[sprite.category]} if sprite.category in CATEGORY_NOUNS else set())
    return own.union(
        WIDER_NOUNS["names"].get(sprite.name, ()),
        WIDER_NOUNS["categories"].get(sprite.category, ()),
    )


def _only(things: Sequence[Thing], holds: Callable[[Thing], bool]) -> bool:
    return sum(holds(thing) for thing in things) == 1


def _by_comparison(thing: Thing, among: Sequence[Thing], noun: str) -> list[str]:
    others = [other for other in among if other.key != thing.key]
    words = []
    for axis, (low, high) in enumerate((("left", "right"), ("upper", "lower"))):
        for sign, side in ((1, low), (-1, high)):
            if all(_clearly_before(thing, other, axis, sign) for other in others):
                words += [f"the {side} {noun}", f"the {noun} {_SIDES.get(side, f'on the {side}')}"]
    sizes = [other.extent for other in others]
    pair = len(among) == 2
    if thing.extent > _LARGER * max(sizes):
        words.append(f"the {'bigger' if pair else 'biggest'} {noun}")
    if thing.extent * _LARGER < min(sizes):
        words.append(f"the {'smaller' if pair else 'smallest'} {noun}")
    return words


def _clearly_before(thing: Thing, other: Thing, axis: int, sign: int) -> bool:
    gap = sign * (other.motion.track()[:, axis] - thing.motion.track()[:, axis])
    return bool(gap.mean() > _APART and gap[0] > _APART_AT_START)


def named(noun: str, colour: str | None) -> str:
    """ "red fox"; "fox" without a colour of its own."""
    return f"{colour} {noun}" if colour else noun


def describe(thing: Thing, draw: Draw) -> str:
    """ "a small red fox drifting right"."""
    words = with_article(f"{draw.choice(SIZE_WORDS[thing.size])} {named(thing.sprite.name, thing.colour)}")
    return f"{words} {_movement(thing, draw)}".rstrip()


def _movement(thing: Thing, draw: Draw) -> str:
    motion = thing.motion
    if motion.kind in ("bounce", "orbit"):
        return draw.choice(MOTIONS[motion.kind])
    dx, dy = motion.end[0] - motion.start[0], motion.end[1] - motion.start[1]
    if max(abs(dx), abs(dy)) < 0.05:
        return draw.choice(MOTIONS["spin"]) if thing.spins else ""
    direction = ("right" if dx > 0 else "left") if abs(dx) >= abs(dy) else ("down" if dy > 0 else "up")
    if motion.kind == "wave" and direction in ("right", "left"):
        return draw.choice(MOTIONS[f"wave {direction}"])
    return draw.choice(MOTIONS[direction])


def caption(scene: Scene, split: str, draw: Draw) -> str:
    """What is to be seen, in one sentence without a full stop."""
    words = [describe(thing, draw) for thing in scene.things]
    background = scene.background.phrase
    if words:
        things = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
        text = draw.choice(CAPTIONS[split]).format(things=things, background=background)
    else:
        text = draw.choice(EMPTY_CAPTIONS[split]).format(background=background)
    if scene.subtitle is not None:
        text += f', with the subtitle "{scene.subtitle.text}" at the {scene.subtitle.position}'
    if scene.look is not None:
        text += ", " + _LOOK_PHRASES.get(scene.look, f"with a {scene.look} look")
    return text
