"""An instruction means one edit, given what the scene shows; a mask covers what the edit changes and no more."""

import re
from collections import defaultdict

import pytest

from sama_video.synth.composition import draw_scene
from sama_video.synth.draw import Draw
from sama_video.synth.edits import FAMILIES, VARIANTS, Request, Unfit
from sama_video.synth.engine import Engine, render_draft
from sama_video.synth.instructions import LOOK_WORDINGS, TEMPLATES, look_instruction
from sama_video.synth.looks import LOOKS
from sama_video.synth.sprites import SPLITS, sprites

_MANY = {**FAMILIES, **VARIANTS}


def edits_of_one_scene(split, number, family, count):
    """Exact edits of one and the same scene, worded at random."""
    drawings = sprites(split)[:40] + sprites(split)[-8:]
    scene = draw_scene(
        Draw("scene", split, number),
        split,
        drawings=drawings,
        footage=None,
        moving=True,
        num_things=1 + number % 3,
        namesakes=number % 2 == 0,
        subtitle=number % 4 == 1,
    )
    for index in range(count):
        draw = Draw("edit", split, number, family, index)
        try:
            yield _MANY[family](
                Request(scene=scene, seen=(scene,), split=split, drawings=drawings, draw=draw, loose=False, moving=True)
            )
        except Unfit:
            continue


@pytest.mark.parametrize("split", SPLITS)
def test_what_a_text_asks_for_in_a_scene_is_one_edit(split):
    for number in range(3):
        meanings, kinds = defaultdict(set), defaultdict(set)
        for family in _MANY:
            for edit in edits_of_one_scene(split, number, family, 40):
                meanings[edit.clause].add(edit.target)
                kinds[edit.clause].add(edit.kind)
        assert len(meanings) > 60
        assert {clause for clause, targets in meanings.items() if len(targets) > 1} == set()
        assert {clause for clause, found in kinds.items() if len(found) > 1} == set()


def test_no_template_is_of_two_kinds():
    """Loose ones apart: they are marked, and may say less than a whole instruction does."""
    owners = defaultdict(set)
    for kind, table in TEMPLATES.items():
        for templates in table.values():
            for template in templates:
                owners[re.sub(r"\{\w+\}", "{}", template)].add(kind.removesuffix("/loose").removesuffix("/still"))
    shared = {template: kinds for template, kinds in owners.items() if len(kinds) > 1}
    # What fills these tells them apart: a colour, a size, a thing.
    assert all("{}" in template for template in shared), shared
    whole = [kinds for template, kinds in shared.items() if template.count("{}") < 2]
    assert whole == []


@pytest.mark.parametrize("split", SPLITS)
def test_beside_another_edit_a_look_names_the_clip_and_comes_last(split):
    engine = Engine(split=split, families=("compound",))
    looks = [draft for draft in map(engine.draft, range(60)) if "global_style" in draft.edit.kind]
    assert len(looks) > 6
    assert all(draft.edit.kind.endswith("+global_style") for draft in looks)
    for look in LOOKS:
        draw = Draw("look", split, look)
        texts = {look_instruction(look, split, draw, names_clip=True) for _ in range(60)}
        assert not {text for text in texts if re.search(r"\b(it|this)\b(?! (clip|video|footage))", text)}
        assert all(re.search(r"video|clip|scene|footage|picture|image|frame|everything|day", text) for text in texts)


def test_a_look_whose_name_is_a_thing_s_colour_too_never_says_it():
    for draft in map(Engine(families=("global_style",)).draft, range(240)):
        if draft.edit.kind in ("global_style/green", "global_style/purple"):
            assert not re.search(r"\bit\b", draft.instruction.lower()), draft.instruction


def test_no_phrase_is_of_two_looks():
    looks = defaultdict(set)
    for look, wordings in LOOK_WORDINGS.items():
        for key in ("adjectives", "nouns", "sentences"):
            for phrase in wordings[key]:
                looks[re.sub(r"^an? ", "", phrase)].add(look)
    assert {phrase for phrase, found in looks.items() if len(found) > 1} == set()


@pytest.fixture(scope="module")
def changes():
    """Drafts of local changes by their kind."""
    engine, found = Engine(families=("local_change",)), defaultdict(list)
    for index in range(180):
        draft = engine.draft(index)
        found[draft.edit.kind.partition("/")[2]].append(draft)
    return found


@pytest.mark.parametrize("kind", ["shadow", "no shadow", "outlined", "mirrored", "silhouette"])
def test_the_mask_of_a_thing_that_stays_covers_what_changes(kind, changes):
    """Nearly all of it differs: shadows and outlines have masks of their own, not the whole thing's."""
    assert len(changes[kind]) >= 2
    for draft in changes[kind][:2]:
        pair = render_draft(draft, 2, 96, 96)
        differs = (pair.source != pair.target).any(axis=-1)
        assert not (differs & ~pair.mask).any()
        assert differs.sum() > 0.8 * pair.mask.sum(), pair.instruction
