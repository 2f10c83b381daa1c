import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sama_video.synth.backgrounds import Backdrop, Texture
from sama_video.synth.composition import grid_point, named_motion
from sama_video.synth.edits import FAMILIES
from sama_video.synth.engine import Engine, in_taught_drawings, index_of, render_draft
from sama_video.synth.instructions import GRID, MOTIONS, SIZE_WORDS
from sama_video.synth.render import Changed, Renderer, Shape
from sama_video.synth.scene import Thing
from sama_video.synth.sprites import COLOURS, NANO_VOCABULARY, SPLITS

KNOWN = """
import hashlib
from sama_video.synth.engine import Engine
digest = hashlib.sha256()
for split in ("train", "validation", "test"):
    for index in range(24):
        sample = Engine(split=split, seed=3, loose=0.2).pair(index, 5, 64, 96)
        for part in (sample.source, sample.target, sample.mask):
            digest.update(part.tobytes())
        digest.update("|".join((sample.instruction, sample.caption, sample.target_caption)).encode())
print(digest.hexdigest())
"""
KNOWN_DIGEST = "087a0280033eae29738447a99a6c49f47638853a7f1036ca4babd17fe18949bc"


def run(seed):
    command, environment = [sys.executable, "-c", KNOWN], os.environ | {"PYTHONHASHSEED": seed}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_seed_gives_the_same_bytes_in_every_process_as_it_always_did():
    """Raise `engine.VERSION` and this digest together when samples are meant to change."""
    assert run("1").strip() == run("2").strip() == KNOWN_DIGEST


def digest(sample):
    return hashlib.sha256(sample.source.tobytes() + sample.target.tobytes()).hexdigest()


def test_samples_do_not_depend_on_what_was_drawn_before():
    engine = Engine()
    alone = engine.pair(5, 5, 64, 64)
    for index in range(5):
        engine.pair(index, 5, 64, 64)
    assert digest(engine.pair(5, 5, 64, 64)) == digest(alone)


@settings(max_examples=60, deadline=None)
@given(
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 1000),
    index=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 64, 64), (5, 64, 96), (9, 96, 64)]),
)
def test_outside_the_mask_nothing_changes_and_inside_something_does(split, seed, index, shape):
    sample = Engine(split=split, seed=seed, loose=0.2).pair(index, *shape)
    assert sample.source.shape == sample.target.shape == (*shape, 3)
    assert sample.mask.shape == shape
    assert np.array_equal(sample.source[~sample.mask], sample.target[~sample.mask])
    assert (sample.source != sample.target).any()
    assert sample.instruction.strip()
    assert sample.caption.strip()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_family_can_be_had_alone_in_every_split_as_clip_and_picture(family, split):
    engine = Engine(split=split, families=(family,), loose=0.2)
    for index in range(40):
        for moving in (True, False):
            draft = engine.draft(index, moving)
            assert draft.family == family
            assert draft.edit.kind.startswith(family)


def drafts(family, count=120, **settings):
    engine = Engine(families=(family,), **settings)
    return [engine.draft(index) for index in range(count)]


def test_removal_shows_what_was_behind():
    """The target is the same scene rendered without the thing: the true background, not a filled hole."""
    for draft in drafts("local_remove", 20):
        kept = {thing.key for thing in draft.edit.target.things}
        assert kept < {thing.key for thing in draft.source.things}
        sample = render_draft(draft, 3, 64, 64)
        empty, _ = Renderer(Shape(num_frames=3, height=64, width=64)).render(
            replace(draft.source, things=(), subtitle=None), Changed(), draft.source
        )
        if not kept and draft.source.subtitle is None:
            assert np.array_equal(sample.target, empty)


def test_additions_say_place_size_and_motion_and_loose_ones_are_marked():
    for draft in drafts("local_add"):
        (new,) = set(draft.edit.target.things) - set(draft.source.things)
        assert draft.edit.exact
        assert new.sprite.name in draft.instruction
        assert new.colour is None or new.colour in draft.instruction
    loose = drafts("local_add", loose=1.0)
    assert not any(draft.edit.exact for draft in loose)


def meaning(text, table):
    """The entry of a table of synonyms whose longest synonym is in the text."""
    found = [(len(words), name) for name, synonyms in table.items() for words in synonyms if words in text]
    return max(found)[1]


def test_the_words_of_an_exact_addition_determine_it():
    """Rebuilt from its instruction alone, by the tables of words, the added thing is the one in the target."""
    for draft in drafts("local_add", 300):
        text = draft.instruction.lower()
        (new,) = set(draft.edit.target.things) - set(draft.source.things)
        motion = meaning(text, MOTIONS)
        where = text.replace(max((w for w in MOTIONS[motion] if w in text), key=len), "")
        rebuilt = Thing(
            key=new.key,
            sprite=new.sprite,
            size=meaning(text, SIZE_WORDS),
            colour=next((colour for colour in COLOURS if f"{colour} {new.sprite.name}" in text), None),
            motion=named_motion(motion, grid_point(meaning(where, GRID))),
            spins=int(motion == "spin"),
        )
        assert rebuilt == new, draft.instruction


def test_compound_edits_do_two_things_in_one_instruction():
    for draft in drafts("compound", 60):
        first, second = draft.edit.kind.removeprefix("compound/").split("+")
        assert first != second
        assert draft.edit.target != draft.source


def test_one_to_four_objects_and_namesakes_occur():
    counts, namesakes = set(), 0
    for draft in drafts("local_remove", 200):
        counts.add(len(draft.source.things))
        names = [thing.sprite.name for thing in draft.source.things]
        namesakes += len(set(names)) < len(names)
    assert counts == {1, 2, 3, 4}
    assert namesakes > 20


def used(split, count=400):
    """What a split's samples are made of: drawings, textures, instructions without their slots' words."""
    engine = Engine(split=split, loose=0.2)
    drawings, textures, ids = set(), set(), set()
    for index in range(count):
        draft = engine.draft(index)
        ids.add(draft.id)
        for scene in (draft.source, draft.edit.target):
            drawings |= {(thing.sprite.name, thing.sprite.art) for thing in scene.things}
            if isinstance(scene.background, Texture):
                textures.add(scene.background.recipe)
            else:
                assert isinstance(scene.background, Backdrop)
    return drawings, textures, ids


def test_splits_share_no_seed_no_drawing_and_no_texture():
    found = {split: used(split) for split in SPLITS}
    for first, second in combinations(SPLITS, 2):
        for ours, theirs in zip(found[first], found[second], strict=True):
            assert not ours & theirs


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9), index=st.integers(0, 10**9))
def test_splits_give_other_samples_for_the_same_seed(seed, index):
    drawn = {split: Engine(split=split, seed=seed).draft(index) for split in SPLITS}
    for first, second in combinations(SPLITS, 2):
        assert drawn[first].instruction != drawn[second].instruction
        assert drawn[first].source != drawn[second].source


def test_a_scene_means_the_same_at_every_size():
    """Objects stand at the same shares of the frame."""
    draft = Engine(families=("local_remove",)).draft(0)
    small, large = (render_draft(draft, 1, side, side).mask[0] for side in (64, 256))
    where = [np.argwhere(mask).mean(axis=0) / len(mask) for mask in (small, large)]
    assert np.allclose(*where, atol=0.03)


@pytest.mark.parametrize("changes", [{"split": "holdout"}, {"families": ("paint",)}, {"families": ()}])
def test_unknown_splits_and_families_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        Engine(**changes)


def test_a_vocabulary_is_all_that_is_shown_and_asked_for():
    vocabulary = ("fox", "star", "bus", "house", "heart", "moon", "crown", "rose")
    engine = Engine(vocabulary=vocabulary)
    made = [engine.draft(index, moving=False) for index in range(80)]
    scenes = [scene for draft in made for scene in (draft.source, draft.edit.target)]
    shown = {thing.sprite.name for scene in scenes for thing in scene.things}
    assert shown == set(vocabulary)


def test_known_drawings_in_scenes_and_words_of_the_test_split():
    known = Engine(split="known", vocabulary=NANO_VOCABULARY)
    made = [known.draft(index) for index in range(80)]
    taught, new = (set(Engine(split=split).sprites) for split in ("train", "test"))
    shown = {thing.sprite for draft in made for scene in (draft.source, draft.edit.target) for thing in scene.things}
    assert shown <= taught - new
    assert {sprite.name for sprite in shown} <= set(NANO_VOCABULARY)
    test = [Engine(split="test").draft(index) for index in range(80)]
    textures = [{draft.source.background.recipe for draft in drafts} for drafts in (made, test)]
    assert textures[0] == textures[1]
    assert not {draft.instruction for draft in made} & {draft.instruction for draft in test}, "seeds of its own"
    assert {draft.split for draft in made} == {"known"}


def test_in_taught_drawings_only_what_is_brought_in_is_drawn_otherwise():
    taught, changed = set(Engine().sprites), 0
    for draft in drafts("replace", 30, split="test") + drafts("local_add", 30, split="test"):
        known = in_taught_drawings(draft)
        assert known.source == draft.source
        there = {thing.sprite for thing in draft.source.things}
        for before, after in zip(draft.edit.target.things, known.edit.target.things, strict=True):
            assert replace(after, sprite=before.sprite) == before
            assert after.sprite.name == before.sprite.name
            assert after == before if before.sprite in there else after.sprite in taught
            changed += after != before
    assert changed >= 60
    for draft in drafts("compound", 40, split="known"):
        assert in_taught_drawings(draft) == draft


def test_an_id_leads_back_to_its_draft():
    engine = Engine(split="known", seed=12)
    assert engine.draft(index_of(engine.draft(34).id)) == engine.draft(34)


def test_a_variant_of_a_family_can_be_had_alone():
    recolours = drafts("local_change/colour", 20)
    assert {draft.edit.kind for draft in recolours} == {"local_change/colour"}
    assert {draft.family for draft in recolours} == {"local_change"}


def test_an_unknown_thing_is_refused():
    with pytest.raises(ValueError, match="no drawing of a unicycle"):
        Engine(vocabulary=("a unicycle", *NANO_VOCABULARY))
    with pytest.raises(ValueError, match="8 things or more, got 1"):
        Engine(vocabulary=("fox",))
