"""What instructions say, held against the engine, which knows what it asked for."""

import pytest

from sama_video.synth.backgrounds import BACKDROP_KINDS, SCENICS, backdrops
from sama_video.synth.edits import FAMILIES
from sama_video.synth.engine import Engine
from sama_video.synth.reading import begin_alike, read, things_like, weigh
from sama_video.synth.sprites import NANO_VOCABULARY


@pytest.mark.parametrize(
    ("instruction", "kind"),
    [
        ("please get rid of the fox", "local_remove"),
        ("delete both balloons!", "local_remove"),
        ("add a small red fox at the top left, hopping", "local_add"),
        ("swap the car for a rocket", "replace"),
        ("replace all foxes with red roses", "replace"),
        ("paint the left house purple", "local_change/colour"),
        ("make the umbrella twice as big", "local_change/size"),
        ("give the snowman a shadow", "local_change/shadow"),
        ("change the background to a starry night sky", "background_change"),
        ('change the subtitle to "THE FOX IS GONE"', "subtitle_edit/reword"),
        ("give the whole clip a sepia tone", "global_style/sepia"),
        ("defocus the camera", "global_style/blurred"),
        ("make it black and white", "global_style/grayscale"),
    ],
)
def test_what_one_edit_is(instruction, kind):
    reading = read(instruction)
    assert reading.kinds == (kind,)
    assert reading.unknown == ()


def test_things_have_the_engine_s_names():
    assert read("remove both foxes and add a soccer ball").things == ("fox", "soccer ball")
    assert read("put a race car next to the CACTI").things == ("race car", "cactus")
    assert read("defocus the camera").things == ()
    assert read("add <giraffe>").things == ("giraffe",)
    assert read('write "A FOX" at the top').things == ()


def test_two_edits_are_read_apart_and_one_with_an_and_is_not():
    both = read("remove the fox, then turn the car blue")
    assert both.kinds == ("local_remove", "local_change/colour")
    assert both.families == ("local_remove", "local_change", "compound")
    assert read("make the background a red and blue checkerboard").families == ("background_change",)
    assert read("remove the fox and the car").families == ("local_remove",)


def test_words_that_nobody_taught_are_unknown():
    assert read("make the fox dance under the lamppost").unknown == ("dance", "lamppost")
    assert read("Mach den Fuchs rot").unknown == ("mach", "den", "fuchs", "rot")
    assert read("把视频变成黑白").unknown


@pytest.mark.parametrize("instruction", ["", "?!", "please", "make it", "the the of", "fox"])
def test_what_asks_for_nothing_is_of_no_kind(instruction):
    assert set(read(instruction).kinds) <= {None}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_s_own_words_are_known(family):
    """Of the training split: what a model learns is never unknown to it."""
    engine = Engine(families=(family,), vocabulary=NANO_VOCABULARY, loose=0.1)
    readings = [read(engine.draft(index).instruction) for index in range(40)]
    assert [reading.unknown for reading in readings if reading.unknown] == []
    assert sum(family in reading.families for reading in readings) >= 0.9 * len(readings)


def test_an_engine_says_what_it_teaches():
    taught = Engine(vocabulary=NANO_VOCABULARY).taught()
    assert taught["families"] == list(FAMILIES)
    assert sorted(taught["things"]) == sorted(NANO_VOCABULARY)
    assert len(Engine().taught()["things"]) == 246
    assert Engine(families=("global_style",)).taught().keys() == {"families", "looks"}


def test_every_backdrop_is_of_a_kind_that_is_said():
    nouns = {kind.split()[-1] for kind in BACKDROP_KINDS if kind not in SCENICS}
    assert all(phrase in BACKDROP_KINDS or nouns & set(phrase.split()) for phrase in backdrops())


def test_what_is_like_a_thing_is_of_its_category():
    assert {"fox", "panda"} < set(things_like("giraffe"))
    assert "giraffe" not in things_like("giraffe")


def test_a_word_that_all_kinds_use_weighs_nothing():
    assert weigh([{"the", "fox"}, {"the", "car"}]) == {"the": 0, "fox": 1, "car": 1}
    assert begin_alike("brighten", "brightness")
    assert not begin_alike("bus", "but")
