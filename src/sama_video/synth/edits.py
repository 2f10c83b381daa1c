"""The edit families: each turns a scene into the scene that its instruction asks for.

Families carry the benchmarks' names. An edit says enough for its target to be determined, or is marked as not exact
(loosely worded: "add a fox"). A family that cannot act on a scene raises `Unfit`, and another scene is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .backgrounds import draw_backdrop
from .composition import (
    SUBTITLE_COLOURS,
    draw_motion,
    draw_sprite,
    draw_subtitle,
    grid_point,
    is_visible,
    named_motion,
)
from .draw import Draw
from .instructions import (
    GRID,
    HALF,
    JOINS,
    MOTIONS,
    SIZE_WORDS,
    SUBTITLES,
    TEMPLATES,
    TWICE,
    look_instruction,
    with_article,
)
from .language import named, references
from .lettering import CANONICAL_FONT
from .looks import LOOKS
from .render import Changed
from .scene import Scene, Subtitle, Thing
from .sprites import ATTRIBUTES, COLOURS, Sprite, tile_of

# Said of several things, these could be done to the group as one: mirrored, it would change places.
_ONE_AT_A_TIME = ("upside down", "mirrored", "outlined")
_VISIBLE_CHANGE = 14.0  # mean grey levels within an object, below which a change would hardly be seen


class Unfit(Exception):
    """A family cannot act on a scene, or would not visibly change it."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A scene after an edit, and the words that ask for it.

    Args:
        kind: family and variant, for instance "local_change/colour".
        clause: imperative, without a final mark.
        changed: what it touches in the source scene and in the target scene.
        exact: whether the words determine the target.
    """

    kind: str
    target: Scene
    clause: str
    changed: Changed
    exact: bool = True


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a family works on.

    Args:
        scene: to be edited.
        drawings: what new things can be.
        seen: scenes in which an expression must mean the same: the source, and `scene` if an edit came before.
        taken: keys of things that an edit before has touched.
        loose: ask for a loosely worded edit where the family has one.
        moving: a clip; else a single picture.
        joined: one of two edits in an instruction, where "it" could mean what the other names.
    """

    scene: Scene
    seen: tuple[Scene, ...]
    split: str
    drawings: tuple[Sprite, ...]
    draw: Draw
    loose: bool
    moving: bool
    taken: frozenset[int] = frozenset()
    joined: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Of everything that has been seen: something new is called otherwise."""
        return frozenset(thing.sprite.name for scene in self.seen for thing in scene.things)

    def words(self, key: str, **slots: str) -> str:
        """A clause from one of a family's templates, a loosely worded one where it is asked for and there is one."""
        loose = f"{key}/loose"
        templates = TEMPLATES[loose if self.loose and loose in TEMPLATES else key]
        return self.draw.choice(templates[self.split]).format(**slots)

    def pick(self, several: bool = True) -> tuple[str, frozenset[int]]:
        """An expression and the keys of the things that it means.

        Raises:
            Unfit: if nothing can be pointed at.
        """
        free = [thing for thing in self.scene.things if thing.key not in self.taken]
        groups = {(thing.key,) for thing in free}
        if several and free:
            groups |= {tuple(t.key for t in free if t.sprite.name == thing.sprite.name) for thing in free}
            groups.add(tuple(thing.key for thing in free))
        # Sorted: the order of a set differs from run to run.
        choices = [(frozenset(group), references(self.seen, frozenset(group))) for group in sorted(groups)]
        choices = [(keys, words) for keys, words in choices if words]
        if not choices:
            raise Unfit
        keys, words = self.draw.choice(choices)
        return self.draw.choice(words), keys

    def things(self, keys: frozenset[int]) -> list[Thing]:
        return [thing for thing in self.scene.things if thing.key in keys]


Family = Callable[[Request], Edit]


def local_add(request: Request) -> Edit:
    draw, scene = request.draw, request.scene
    sprite = draw_sprite(draw, request.drawings, avoid=request.names)
    size = draw.choice(tuple(SIZE_WORDS))
    colour = draw.choice(tuple(COLOURS)) if sprite.category == "shape" or draw.chance(0.35) else None
    where = draw.choice(tuple(GRID))
    name = draw.choice(tuple(MOTIONS)) if request.moving else "still"
    motion = named_motion(name, grid_point(where))
    if motion is None:
        raise Unfit
    key = max((thing.key for seen in request.seen for thing in seen.things), default=-1) + 1
    spins = 1 if name == "spin" else 0
    new = Thing(key=key, sprite=sprite, size=size, colour=colour, motion=motion, spins=spins)
    if request.loose:
        new = replace(new, motion=draw_motion(draw, request.moving), spins=0)
    if not is_visible(new, list(scene.things)):
        raise Unfit
    called = named(sprite.name, colour)
    if request.loose:
        clause = request.words("local_add", new=with_article(called))
    else:
        called, place = f"{draw.choice(SIZE_WORDS[size])} {called}", draw.choice(GRID[where])
        moves = draw.choice(MOTIONS[name]) if request.moving else ""
        kind = "local_add" if request.moving else "local_add/still"
        clause = request.words(kind, new=with_article(called), where=place, motion=moves)
    return Edit(
        kind="local_add",
        target=replace(scene, things=(*scene.things, new)),
        clause=clause,
        changed=Changed(things=frozenset((key,))),
        exact=not request.loose,
    )


def local_remove(request: Request) -> Edit:
    what, keys = request.pick()
    rest = tuple(thing for thing in request.scene.things if thing.key not in keys)
    return Edit(
        kind="local_remove",
        target=replace(request.scene, things=rest),
        clause=request.words("local_remove", what=what),
        changed=Changed(things=keys),
    )


def replace_things(request: Request) -> Edit:
    what, keys = request.pick()
    draw = request.draw
    sprite = draw_sprite(draw, request.drawings, avoid=request.names)
    colour = draw.choice(tuple(COLOURS)) if sprite.category == "shape" or draw.chance(0.25) else None
    new = named(sprite.plural, colour) if len(keys) > 1 else with_article(named(sprite.name, colour))
    clause = request.words("replace", what=what, new=new)
    change = {"sprite": sprite, "colour": colour}
    return _changed_things(request, "replace", keys, change, clause, exact=not request.loose)


def _changed_things(
    request: Request, kind: str, keys: frozenset[int], change: dict[str, Any], clause: str, exact: bool = True
) -> Edit:
    things = tuple(replace(thing, **change) if thing.key in keys else thing for thing in request.scene.things)
    return Edit(
        kind=kind,
        target=replace(request.scene, things=things),
        clause=clause,
        changed=Changed(things=keys),
        exact=exact,
    )


def _check_visible(things: list[Thing], change: dict[str, Any]) -> None:
    """Raises Unfit for a thing that would look hardly different."""
    if not all(_looks_different(thing, replace(thing, **change)) for thing in things):
        raise Unfit


def _looks_different(before: Thing, after: Thing) -> bool:
    first = tile_of(before.sprite, before.colour, before.attribute).astype(np.int16)
    second = tile_of(after.sprite, after.colour, after.attribute).astype(np.int16)
    inside = (first[..., 3] > 0) | (second[..., 3] > 0)
    return float(abs(first - second)[inside].mean()) > _VISIBLE_CHANGE


def local_change(request: Request) -> Edit:
    variant = request.draw.weighted((_change_colour, _change_size, _change_attribute, _change_shadow), (4, 3, 4, 1))
    return variant(request)


def _change_colour(request: Request) -> Edit:
    what, keys = request.pick()
    colour = request.draw.choice(tuple(COLOURS))
    change, kind = {"colour": colour}, "local_change/colour"
    _check_visible(request.things(keys), change)
    clause = request.words(kind, what=what, colour=colour)
    return _changed_things(request, kind, keys, change, clause, exact=not request.loose)


def _change_size(request: Request) -> Edit:
    what, keys = request.pick(several=False)
    draw = request.draw
    (thing,) = request.things(keys)
    other = draw.choice([size for size in SIZE_WORDS if size != thing.size])
    change, words = {"size": other}, draw.choice(SIZE_WORDS[other])
    if draw.chance(0.4) and thing.size != "medium":
        grows = thing.size == "small"
        change, words = {"scale": 2.0 if grows else 0.5}, draw.choice(TWICE if grows else HALF)
    if request.loose:
        words = "bigger" if replace(thing, **change).extent > thing.extent else "smaller"
    clause = request.words("local_change/size", what=what, size=words)
    return _changed_things(request, "local_change/size", keys, change, clause, exact=not request.loose)


def _change_attribute(request: Request) -> Edit:
    attribute = request.draw.choice(ATTRIBUTES)
    what, keys = request.pick(several=attribute not in _ONE_AT_A_TIME)
    if attribute == "mirrored" and any(thing.spins for thing in request.things(keys)):
        raise Unfit  # a mirror image would turn the other way
    change, kind = {"attribute": attribute}, f"local_change/{attribute}"
    _check_visible(request.things(keys), change)
    return _changed_things(request, kind, keys, change, request.words(kind, what=what))


def _change_shadow(request: Request) -> Edit:
    what, keys = request.pick(several=False)
    (thing,) = request.things(keys)
    kind = "local_change/no shadow" if thing.shadow else "local_change/shadow"
    return _changed_things(request, kind, keys, {"shadow": not thing.shadow}, request.words(kind, what=what))


def background_change(request: Request) -> Edit:
    backdrop = draw_backdrop(request.draw)
    return Edit(
        kind="background_change",
        target=replace(request.scene, background=backdrop),
        clause=request.words("background_change", place=backdrop.phrase),
        changed=Changed(background=True),
        exact=not request.loose,
    )


def global_style(request: Request) -> Edit:
    look = request.draw.choice(tuple(LOOKS))
    return Edit(
        kind=f"global_style/{look}",
        target=replace(request.scene, look=look),
        # "Turn it green" could be about the only thing there.
        clause=look_instruction(look, request.split, request.draw, names_clip=request.joined or look in COLOURS),
        changed=Changed(look=True),
    )


def subtitle_edit(request: Request) -> Edit:
    draw, old = request.draw, request.scene.subtitle
    if old is None:
        new = Subtitle(
            text=draw.choice(SUBTITLES[request.split]),
            font=CANONICAL_FONT,
            colour=draw.choice(SUBTITLE_COLOURS),
            position=draw.choice(("bottom", "bottom", "top")),
        )
        kind = "subtitle_edit/add"
        clause = request.words(kind, text=new.text, colour=new.colour, where=new.position)
    elif draw.chance(0.5):
        new, kind = None, "subtitle_edit/remove"
        clause = request.words(kind)
    else:
        new, kind = replace(old, text=draw_subtitle(draw, request.split).text), "subtitle_edit/reword"
        if new.text == old.text:
            raise Unfit
        clause = request.words(kind, text=new.text, old=old.text)
    return Edit(
        kind=kind,
        target=replace(request.scene, subtitle=new),
        clause=clause,
        changed=Changed(subtitle=True),
    )


def compound(request: Request) -> Edit:
    """Two edits of different families in one instruction."""
    families = request.draw.shuffled([name for name in FAMILIES if name != "compound"])[:2]
    # A look lies over everything, so what is said after it would not be seen as said: a red star in a gray clip.
    first_family, second_family = sorted(families, key=lambda name: name == "global_style")
    request = replace(request, joined=True)
    first = FAMILIES[first_family](request)
    second = FAMILIES[second_family](
        replace(
            request,
            scene=first.target,
            seen=(*request.seen, first.target),
            taken=request.taken | first.changed.things,
        )
    )
    return Edit(
        kind=f"compound/{first_family}+{second_family}",
        target=second.target,
        clause=request.draw.choice(JOINS[request.split]).format(first.clause, second.clause),
        changed=first.changed | second.changed,
        exact=first.exact and second.exact,
    )


# One variant of a family alone, behind the family's name and a slash.
VARIANTS: dict[str, Family] = {
    "local_change/colour": _change_colour,
    "local_change/size": _change_size,
    "local_change/attribute": _change_attribute,
    "local_change/shadow": _change_shadow,
}
FAMILIES: dict[str, Family] = {
    "local_add": local_add,
    "local_remove": local_remove,
    "replace": replace_things,
    "local_change": local_change,
    "background_change": background_change,
    "global_style": global_style,
    "subtitle_edit": subtitle_edit,
    "compound": compound,
}
