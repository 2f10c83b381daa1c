"""What a model says it was trained for, held against the engine's instructions, whose families are known."""

import pytest

from sama_video.pipelines.scope import familiarity, is_far
from sama_video.pipelines.selection import find_model
from sama_video.synth.edits import FAMILIES
from sama_video.synth.engine import Engine
from sama_video.synth.instructions import look_examples


@pytest.fixture(scope="module")
def nano():
    return find_model("nano").info().trained_for


def test_the_nano_says_its_fourteen_looks_as_they_were_trained(nano):
    assert len(nano) == 14
    assert {"sepia", "night", "pixelated"} <= nano.keys()
    for look, instructions in nano.items():
        # The engine's words have been mended since, here and there.
        assert len(set(instructions) & set(look_examples(look))) > len(instructions) / 3


@pytest.mark.parametrize(
    "prompt",
    [
        "Turn it into pixel art",
        "Make it look like an old sepia photograph",
        "change the scene to nighttime!",
        "Could you please make everything black & white?",
        "a bit more contrast",
        "Give this clip a very warm tone",
    ],
)
def test_known_edits_in_new_words_are_near(nano, prompt):
    assert not is_far(prompt, nano)


@pytest.mark.parametrize(
    "prompt",
    [
        "remove the cup",
        "Replace the car with a red truck",
        "add a dog",
        "Mach das Video schwarz-weiß",
        "Enlève la tasse",
        "把视频变成黑白",
        "asdf qwer",
        "make it",
        "make the sky darker",
        "in the style of Van Gogh",
    ],
)
def test_other_edits_other_languages_and_nonsense_are_far(nano, prompt):
    assert is_far(prompt, nano)


def test_families_that_the_nano_never_saw_are_far(nano):
    engine = Engine(split="test", families=tuple(family for family in FAMILIES if family != "global_style"))
    prompts = [engine.draft(index).instruction for index in range(70)]
    assert sum(is_far(prompt, nano) for prompt in prompts) >= 0.95 * len(prompts)


def test_looks_of_the_test_split_are_near_if_the_nano_knows_them(nano):
    engine = Engine(split="test", families=("global_style",))
    drafts = [engine.draft(index) for index in range(60)]
    known = [draft.instruction for draft in drafts if draft.edit.kind.removeprefix("global_style/") in nano]
    assert len(known) > 15
    assert sum(is_far(prompt, nano) for prompt in known) <= 0.05 * len(known)


def test_a_model_that_says_nothing_is_never_far():
    assert not is_far("remove the cup", {})


def test_words_of_all_kinds_say_nothing():
    trained_for = {"add": ["add the fox"], "remove": ["remove the fox"]}
    assert familiarity("the fox", trained_for) == 0
    assert familiarity("remove the fox", trained_for) == 1


def test_a_lora_makes_the_scope_unknown():
    assert find_model("nano").info().trained_for
    assert not find_model("nano").info(["a.safetensors"]).trained_for
