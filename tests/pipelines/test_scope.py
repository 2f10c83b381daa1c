"""What a model says it was trained for, held against the engine's instructions, whose families are known."""

import runpy
from pathlib import Path

import pytest

from sama_video.pipelines.scope import (
    EDITS,
    NOTHING_YET,
    add_to_scope,
    describe_scope,
    scope_note,
)
from sama_video.pipelines.selection import find_model
from sama_video.synth.edits import FAMILIES
from sama_video.synth.engine import Engine
from sama_video.synth.sprites import NANO_VOCABULARY


@pytest.fixture(scope="module")
def nano():
    return find_model("nano").info().trained_for


def test_the_nano_says_all_that_its_training_taught(nano, taught):
    assert {sort: sorted(names) for sort, names in nano.items()} == {
        sort: sorted(names) for sort, names in taught.items()
    }


def test_a_model_that_says_nothing_is_never_far():
    for unknown in ({}, {"sepia": ["make it sepia"]}):
        assert scope_note("remove the cup", unknown) is None
        assert describe_scope(unknown) == []


def test_a_lora_makes_the_scope_unknown():
    assert find_model("nano").info().trained_for
    assert not find_model("nano").info(["a.safetensors"]).trained_for


@pytest.fixture(scope="module")
def taught():
    """What an engine model of the nano's vocabulary says of itself."""
    return Engine(vocabulary=NANO_VOCABULARY).taught()


@pytest.mark.parametrize("family", FAMILIES)
def test_taught_edits_in_words_of_another_split_are_not_noted(taught, family):
    """`benchmarks/quality_scope.py` measures more of them."""
    engine = Engine(split="known", vocabulary=NANO_VOCABULARY, families=(family,))
    notes = [scope_note(engine.draft(index).instruction, taught) for index in range(40)]
    assert sum(note is not None for note in notes) <= 0.03 * len(notes)


def test_things_that_were_not_taught_are_noted_by_name(taught):
    note = scope_note("add a giraffe", taught)
    assert note is not None
    assert '"add a giraffe" is outside of what this model was taught: giraffe is not among its 42 things' in note
    assert "nearest: " in note
    assert "panda" in note
    engine = Engine(split="test", families=("local_remove", "replace"))
    drafts = [engine.draft(index) for index in range(80)]
    untaught = [
        draft.instruction
        for draft in drafts
        for thing in (*draft.source.things, *draft.edit.target.things)
        if thing.sprite.name not in NANO_VOCABULARY and thing.sprite.name in draft.instruction.lower()
    ]
    assert len(untaught) > 40
    assert sum(scope_note(prompt, taught) is not None for prompt in untaught) >= 0.9 * len(untaught)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("make the fox smile", "it does not know the word smile"),
        ("Mach den Fuchs rot", "it does not know the words mach, den, fuchs, rot"),
        ("把视频变成黑白", "it does not know the word 把视频变成黑白"),
        ("lorem ipsum dolor sit amet consectetur", "lorem, ipsum, dolor, sit, amet, ...;"),
        ("make it", "this is no edit that it knows"),
    ],
)
def test_what_was_never_taught_is_noted_with_the_reason(taught, prompt, reason):
    assert reason in (scope_note(prompt, taught) or "")


@pytest.mark.parametrize(
    "prompt", ["please get rid of the fox", "I'd like the panda to be blue", 'let the caption say "A GIRAFFE"']
)
def test_taught_edits_in_words_of_one_s_own_are_not_noted(taught, prompt):
    assert scope_note(prompt, taught) is None


def test_families_that_were_not_taught_are_noted():
    few = Engine(families=("local_add", "global_style"), vocabulary=NANO_VOCABULARY).taught()
    assert scope_note("add a red fox at the top left, hopping", few) is None
    assert "it was not taught to remove things" in (scope_note("remove the fox", few) or "")
    assert "it was not taught to make two edits at once" in (
        scope_note("add a fox on the left and make the video sepia", few) or ""
    )
    assert scope_note("make it sepia", NOTHING_YET) is not None


def test_every_family_can_be_said():
    assert EDITS.keys() == FAMILIES.keys()


def test_two_trainings_add_up_and_what_is_unknown_stays_so(taught):
    first = Engine(families=("local_add",), vocabulary=NANO_VOCABULARY[:8]).taught()
    both = add_to_scope(add_to_scope(NOTHING_YET, first), taught)
    assert sorted(both["things"]) == sorted(NANO_VOCABULARY)
    assert sorted(both["families"]) == sorted(FAMILIES)
    assert both["looks"] == taught["looks"]
    assert add_to_scope(NOTHING_YET, taught) == taught
    for unknown in ({}, {"sepia": ["make it sepia"]}):
        assert add_to_scope(unknown, taught) == add_to_scope(taught, unknown) == {}


def test_what_was_taught_is_said_in_lines_of_a_terminal_s_width(taught):
    lines = describe_scope(taught)
    assert lines[0].startswith("taught to    add a thing, remove things, ")
    assert max(map(len, lines)) <= 100
    text = " ".join(line.strip() for line in lines)
    assert all(name in text for names in taught.values() for name in names if name not in FAMILIES)
    assert describe_scope(NOTHING_YET) == ["taught to    nothing yet"]


def test_instructions_by_hand_as_the_benchmark_of_notes_has_them(taught):
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "quality_scope.py"))
    noted = benchmark["noted"]
    assert len(noted(benchmark["GOOD"] + benchmark["LATER_GOOD"], taught)) <= 0.1 * 60
    assert len(noted(benchmark["BAD"] + benchmark["LATER_BAD"], taught)) >= 0.9 * 60
    inside = [draft.instruction for draft in benchmark["drafts"](16)]
    assert noted(inside, benchmark["taught"]()) == []
    outside = benchmark["drafts"](16, known=False)
    assert any(benchmark["names_an_untaught_thing"](draft) for draft in outside)
