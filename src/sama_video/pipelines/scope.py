"""What a model was taught, and whether an instruction is outside of it. Imports no torch.

A pipeline's `trained_for` is what a training on the synthetic engine writes: "families", the edits that were taught,
and lists of the names that their instructions use: "things", "colours", "attributes", "backgrounds", "looks". An
instruction is outside if it asks for another family, names another thing, or has words that the engine does not know
(`synth/reading.py`). A model that lists no families says nothing of itself.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from ..synth.reading import degree_of, read, things_like

TrainedFor = Mapping[str, Sequence[str]]

_FAMILIES = "families"
NOTHING_YET: Final[TrainedFor] = {_FAMILIES: []}  # of a model that nobody trained; an empty one may know anything
# How the engine's families are said: "it was not taught to ...".
EDITS = {
    "local_add": "add a thing",
    "local_remove": "remove things",
    "replace": "replace things",
    "local_change": "change a thing",
    "background_change": "change the background",
    "global_style": "change the look of everything",
    "subtitle_edit": "add, remove or reword a subtitle",
    "compound": "make two edits at once",
}
_MOST_NAMED = 5  # words in a note
_COLUMN, _LINE = 13, 100


def add_to_scope(before: TrainedFor, taught: TrainedFor) -> dict[str, list[str]]:
    """The `trained_for` of a model that knew `before` and was taught `taught`.

    Empty where either does not list its families: it may know more than is listed, which must not be called outside.
    """
    if _FAMILIES not in before or _FAMILIES not in taught:
        return {}
    sorts = dict.fromkeys([*before, *taught])
    return {sort: list(dict.fromkeys([*before.get(sort, ()), *taught.get(sort, ())])) for sort in sorts}


def scope_note(prompt: str, trained_for: TrainedFor) -> str | None:
    """That an instruction is outside of what a model was taught, and why; None if it is not, or if nobody says."""
    if _FAMILIES not in trained_for:
        return None
    reasons = "; ".join(reasons_outside(prompt, trained_for))
    if not reasons:
        return None
    return f'"{prompt}" is outside of what this model was taught: {reasons}; expect something else'


def reasons_outside(prompt: str, trained_for: TrainedFor) -> Iterator[str]:
    """Why an instruction is outside of what families and things a model was taught; nothing if it is not."""
    reading = read(prompt)
    things = trained_for.get("things", ())
    if untaught := [name for name in reading.things if name not in things]:
        alike = [name for name in things_like(untaught[0]) if name in things]
        yield (
            f"{_some(untaught)} {'is' if len(untaught) == 1 else 'are'} not among its {len(things)} things"
            + (f" (nearest: {_some(alike)})" if alike else "")
        )
    if reading.unknown:
        yield f"it does not know the word{'s'[: len(reading.unknown) - 1]} {_some(reading.unknown)}"
    families = trained_for[_FAMILIES]
    yield from (f"it was not taught to {EDITS[one]}" for one in reading.families if one not in families)
    if None in reading.kinds and not (untaught or reading.unknown):
        yield "this is no edit that it knows"


def degree_asked(prompt: str, trained_for: TrainedFor) -> str | None:
    """The words of an instruction that ask for little or much of a look; None if there are none, or if nobody says
    what the model was taught: it may know these words."""
    if _FAMILIES not in trained_for or set(read(prompt).families) != {"global_style"}:
        return None
    return degree_of(prompt)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def describe_scope(trained_for: TrainedFor) -> list[str]:
    """What was taught, in lines for a terminal: a column of headings, and the names; none if nobody says."""
    if _FAMILIES not in trained_for:
        return []
    rest = {sort: names for sort, names in trained_for.items() if sort != _FAMILIES}
    edits = [EDITS.get(family, family) for family in trained_for[_FAMILIES]]
    return [
        *_lines("taught to", edits or ["nothing yet"]),
        *(line for sort, names in rest.items() for line in _lines(sort, names)),
    ]


def _lines(heading: str, names: Iterable[str]) -> list[str]:
    blank = " " * _COLUMN
    return textwrap.wrap(
        ", ".join(names), _LINE, initial_indent=heading.ljust(_COLUMN), subsequent_indent=blank, break_on_hyphens=False
    )
