import pytest

from sama_video.synth.backgrounds import Backdrop
from sama_video.synth.draw import Draw
from sama_video.synth.language import caption, references
from sama_video.synth.scene import Motion, Scene, Subtitle, Thing
from sama_video.synth.sprites import sprites

ART = {sprite.name: sprite for sprite in sprites("train")}


def thing(key, name="fox", x=0.5, y=0.5, size="medium", **rest):
    return Thing(key=key, sprite=ART[name], size=size, motion=Motion(kind="still", start=(x, y), end=(x, y)), **rest)


def scene(*things):
    return Scene(background=Backdrop("a forest"), things=things)


def said(scene, *keys):
    return set(references((scene,), frozenset(keys)))


def test_a_name_alone_points_at_the_only_one():
    assert {"the fox", "the animal"} <= said(scene(thing(0), thing(1, "car", 0.1)), 0)


def test_a_name_alone_never_points_at_one_of_two():
    two = scene(thing(0, x=0.2), thing(1, x=0.8))
    assert "the fox" not in said(two, 0) | said(two, 1)
    assert {"the left fox", "the left one", "the fox on the left"} <= said(two, 0)
    assert "the right fox" in said(two, 1)
    assert {"both foxes", "the two foxes", "both objects"} <= said(two, 0, 1)


def test_a_noun_that_could_mean_another_thing_too_is_not_said():
    for wider, narrower in (("car", "taxi"), ("bear", "panda"), ("football", "soccer ball")):
        both = scene(thing(0, wider, x=0.2), thing(1, narrower, x=0.8))
        assert f"the {wider}" not in said(both, 0)
        assert f"the left {wider}" in said(both, 0)
        assert f"the {narrower}" in said(both, 1)
    assert "the animal" not in said(scene(thing(0), thing(1, "penguin", 0.1)), 0)
    assert "the bird" in said(scene(thing(0), thing(1, "penguin", 0.1)), 1)
    three = scene(thing(0, "car", 0.1), thing(1, "car", 0.5), thing(2, "race car", 0.9))
    assert not {"both cars", "the two cars"} & said(three, 0, 1)


def test_left_and_right_need_a_margin():
    near = scene(thing(0, x=0.45), thing(1, x=0.55))
    assert said(near, 0) == set()


def test_size_needs_a_margin_and_says_superlatives_of_three():
    assert "the smaller fox" in said(scene(thing(0, size="small"), thing(1, size="large")), 0)
    three = scene(thing(0, size="small"), thing(1, size="medium"), thing(2, size="large"))
    assert "the biggest fox" in said(three, 2)
    assert not any("small" in words or "big" in words for words in said(three, 1))


def test_colours_tell_namesakes_apart_only_if_all_are_tinted():
    assert "the red fox" in said(scene(thing(0, colour="red"), thing(1, colour="blue")), 0)
    assert "the red fox" not in said(scene(thing(0, colour="red"), thing(1)), 0)
    assert "the red fox" not in said(scene(thing(0, colour="red"), thing(1, colour="red", x=0.1)), 0)


def test_an_expression_must_hold_in_every_scene():
    before = scene(thing(0, x=0.2), thing(1, "car", x=0.8))
    after = scene(thing(0, x=0.2), thing(1, "car", x=0.8), thing(2, "dog", x=0.1, y=0.9))
    assert "the left object" in said(before, 0)
    words = references((before, after), frozenset((0,)))
    assert "the fox" in words
    assert "the left object" not in words
    assert "the animal" not in words


def test_there_is_no_word_for_some_of_many():
    assert said(scene(thing(0, x=0.1), thing(1, x=0.5), thing(2, x=0.9)), 0, 1) == set()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_captions_name_everything(split):
    full = Scene(
        background=Backdrop("a forest"),
        things=(thing(0, colour="red"), thing(1, "car")),
        subtitle=Subtitle(text="HELLO", font="sans", colour="white", position="top"),
        look="sepia",
    )
    text = caption(full, split, Draw("c"))
    for word in ("red fox", "car", "a forest", '"HELLO" at the top', "sepia"):
        assert word in text
