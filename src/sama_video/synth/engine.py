"""The engine: a split, a seed and an index give a pair with its exact target and mask, the same bytes everywhere.

F frames, H W pixels. What a pair shows does not depend on its size or length, only on whether it is a clip or a
single picture; so the same index can be had small and large. By hand, since no library draws scenes whose target
and mask are exact and whose bytes are the same on every machine.
"""

import contextlib
from dataclasses import dataclass, replace

import numpy as np

from .backgrounds import BACKDROP_KINDS
from .composition import draw_scene
from .draw import Draw
from .edits import FAMILIES, VARIANTS, Edit, Request, Unfit
from .footage import Footage
from .instructions import finish
from .language import caption
from .looks import LOOKS
from .render import Renderer, Shape
from .scene import Scene, Thing
from .sprites import ATTRIBUTES, COLOURS, SPLITS, Sprite, sprites

VERSION = 2  # raised whenever a seed would give other bytes than before
_ATTEMPTS = 200
_SMALLEST_VOCABULARY = 8  # a scene shows up to four, and an edit brings in others
_EDITS = FAMILIES | VARIANTS
_OF_THINGS = ("things", "colours")
# What the instructions of a family name.
_NAMED: dict[str, tuple[str, ...]] = {
    "local_add": _OF_THINGS,
    "local_remove": _OF_THINGS,
    "replace": _OF_THINGS,
    "local_change": (*_OF_THINGS, "attributes"),
    "background_change": ("colours", "backgrounds"),
    "global_style": ("looks",),
    "subtitle_edit": (),
    "compound": (*_OF_THINGS, "attributes", "backgrounds", "looks"),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where the pairs of a split take what splits do not share; the split's name is part of every seed.

    Args:
        drawings: split whose drawings are shown and asked for.
        scenes: split of textures, templates, subtitles, fonts and the user's footage.
    """

    drawings: str
    scenes: str


# "known" asks for what was taught, in scenes and words that were not.
ENGINE_SPLITS = {
    **{name: Split(drawings=name, scenes=name) for name in SPLITS},
    "known": Split(drawings="train", scenes="test"),
}


def find_split(name: str) -> Split:
    """Raises ValueError for one that there is not."""
    if name not in ENGINE_SPLITS:
        raise ValueError(f"split must be one of {', '.join(ENGINE_SPLITS)}, got {name!r}")
    return ENGINE_SPLITS[name]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A pair before it is drawn.

    Args:
        id: unique over splits, seeds and indices.
        family: one of `FAMILIES`; `edit.kind` says more.
        instruction: asks for the edit.
        caption, target_caption: say what source and target show.
    """

    id: str
    split: str
    family: str
    source: Scene
    edit: Edit
    instruction: str
    caption: str
    target_caption: str


@dataclass(frozen=True, kw_only=True)
class EnginePair:
    """A drawn pair.

    Args:
        source, target: uint8 `[F, H, W, 3]`, equal wherever `mask` is false.
        mask: bool `[F, H, W]`, where the edit shows in the source or in the target; of a thing that stays only what
            looks different, such as its new outline or shadow.
    """

    draft: Draft
    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray

    @property
    def instruction(self) -> str:
        return self.draft.instruction

    @property
    def caption(self) -> str:
        return self.draft.caption

    @property
    def target_caption(self) -> str:
        return self.draft.target_caption

    @property
    def family(self) -> str:
        return self.draft.family

    @property
    def exact(self) -> bool:
        return self.draft.edit.exact


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Pairs of one split.

    Args:
        split: one of `ENGINE_SPLITS`: "train", "validation" and "test" have other seeds, drawings, textures and
            templates each.
        seed: another seed is another endless set.
        families: of `FAMILIES`, or one variant of a family, such as "local_change/colour"; equally often.
        loose: fraction of loosely worded instructions, in the families that have such.
        vocabulary: names of the things that scenes hold and edits ask for; empty for all that there are.
        footage: the user's backgrounds, of the same split, for `footage_fraction` of the pairs.

    Raises:
        ValueError: for an unknown split or family.
    """

    split: str = "train"
    seed: int = 0
    families: tuple[str, ...] = tuple(FAMILIES)
    loose: float = 0.0
    vocabulary: tuple[str, ...] = ()
    footage: Footage | None = None
    footage_fraction: float = 0.5

    def __post_init__(self) -> None:
        find_split(self.split)
        unknown = sorted(set(self.families) - _EDITS.keys())
        if unknown or not self.families:
            raise ValueError(f"families must be among {', '.join(_EDITS)}, got {', '.join(unknown) or 'none'}")
        if 0 < len(self.vocabulary) < _SMALLEST_VOCABULARY:
            raise ValueError(f"vocabulary must hold {_SMALLEST_VOCABULARY} things or more, got {len(self.vocabulary)}")
        _ = self.sprites  # raises for what there is not

    @property
    def sprites(self) -> tuple[Sprite, ...]:
        return sprites(find_split(self.split).drawings, self.vocabulary)

    def taught(self) -> dict[str, list[str]]:
        """What a model is taught by its edits, for `trained_for`: "families", and the names that these use, by sort."""
        families = dict.fromkeys(family.partition("/")[0] for family in self.families)
        named = {sort for family in families for sort in _NAMED[family]}
        names = {
            "things": list(dict.fromkeys(sprite.name for sprite in self.sprites)),
            "colours": list(COLOURS),
            "attributes": [*ATTRIBUTES, "size", "shadow"],
            "backgrounds": list(BACKDROP_KINDS),
            "looks": list(LOOKS),
        }
        return {"families": list(families)} | {sort: each for sort, each in names.items() if sort in named}

    def draft(self, index: int, moving: bool = True) -> Draft:
        """What pair `index` shows; `moving` is false for a single picture."""
        family = self.families[index % len(self.families)]
        for attempt in range(_ATTEMPTS):
            draw = Draw("sama-engine", VERSION, self.split, self.seed, index, int(moving), attempt)
            with contextlib.suppress(Unfit):
                return self._attempt(draw, index, family, moving)
        raise RuntimeError(f"no pair of {family} for index {index} in {_ATTEMPTS} attempts")

    def _attempt(self, draw: Draw, index: int, family: str, moving: bool) -> Draft:
        footage = self.footage if self.footage is not None and draw.chance(self.footage_fraction) else None
        split = find_split(self.split).scenes
        scene = draw_scene(
            draw,
            split,
            drawings=self.sprites,
            footage=footage,
            moving=moving,
            num_things=draw.weighted((1, 2, 3, 4), (3, 4, 2, 1)),
            namesakes=draw.chance(0.35),
            subtitle=draw.chance(0.65 if family == "subtitle_edit" else 0.12),
        )
        request = Request(
            scene=scene,
            seen=(scene,),
            split=split,
            drawings=self.sprites,
            draw=draw,
            loose=draw.chance(self.loose),
            moving=moving,
        )
        edit = _EDITS[family](request)
        return Draft(
            id=f"{self.split}-{self.seed}-{index:07d}",
            split=self.split,
            family=family.partition("/")[0],
            source=scene,
            edit=edit,
            instruction=finish(edit.clause, split, draw),
            caption=caption(scene, split, draw),
            target_caption=caption(edit.target, split, draw),
        )

    def pair(self, index: int, num_frames: int, height: int, width: int) -> EnginePair:
        """Pair `index` drawn at a size; one frame is a single picture."""
        return render_draft(self.draft(index, moving=num_frames > 1), num_frames, height, width)


def render_draft(draft: Draft, num_frames: int, height: int, width: int) -> EnginePair:
    """Draw both scenes; the mask is where the edit shows in either."""
    renderer = Renderer(Shape(num_frames=num_frames, height=height, width=width))
    source, before = renderer.render(draft.source, draft.edit.changed, draft.edit.target)
    target, after = renderer.render(draft.edit.target, draft.edit.changed, draft.source)
    return EnginePair(draft=draft, source=source, target=target, mask=before | after)


def index_of(draft_id: str) -> int:
    """The index of the draft with this id. Raises ValueError for what is no draft's id."""
    return int(draft_id.rpartition("-")[2])


def in_taught_drawings(draft: Draft) -> Draft:
    """The same edit by somebody who knows the drawings of the train split alone: what it brings in is drawn so.

    Of the shapes, which that split has in several manners, the first is taken.
    """
    there, taught = {thing.sprite for thing in draft.source.things}, sprites("train")

    def redrawn(thing: Thing) -> Thing:
        if thing.sprite in there or thing.sprite in taught:
            return thing
        return replace(thing, sprite=next(sprite for sprite in taught if sprite.name == thing.sprite.name))

    target = replace(draft.edit.target, things=tuple(map(redrawn, draft.edit.target.things)))
    return replace(draft, edit=replace(draft.edit, target=target))
