from itertools import combinations

import numpy as np
import pytest

from sama_video.synth.backgrounds import RECIPES, SCENICS, Backdrop, Texture, backdrops, draw_texture
from sama_video.synth.draw import Draw
from sama_video.synth.sprites import SPLITS


def test_splits_share_no_texture():
    for first, second in combinations(SPLITS, 2):
        assert not set(RECIPES[first]) & set(RECIPES[second])
        assert not set(RECIPES[first].values()) & set(RECIPES[second].values())


def texture(split, recipe, **changes):
    settings = {"pan": (0, 0), "shake": 0, "flow": 0, "seed": 5} | changes
    return Texture(split=split, recipe=recipe, hues=("red", "blue"), palette=((200, 40, 40), (40, 40, 200)), **settings)


@pytest.mark.parametrize(("split", "recipe"), [(split, recipe) for split in SPLITS for recipe in RECIPES[split]])
def test_textures_have_the_asked_shape_are_not_flat_and_depend_on_their_seed(split, recipe):
    first = texture(split, recipe).frames(2, 48, 80)
    assert first.shape == (2, 48, 80, 3)
    assert first.std() > 5
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first, texture(split, recipe, seed=6).frames(2, 48, 80))


def test_a_pan_moves_the_texture_by_so_much():
    """A pan of a quarter of the short side shows after it what stood a quarter further on before."""
    clip = texture("train", "marble", pan=(256, 0)).frames(2, 64, 64)
    assert np.array_equal(clip[0][:, 16:], clip[1][:, :-16])


def test_flow_turns_the_colours_and_shake_trembles():
    for moves in ({"flow": 60}, {"shake": 20}, {"pan": (100, 50)}):
        clip = texture("train", "soft clouds", **moves).frames(9, 48, 48)
        assert abs(clip[0].astype(int) - clip[-1]).mean() > 1


def test_drawn_textures_stand_still_when_asked_to():
    for seed in range(20):
        clip = draw_texture(Draw("t", seed), "test", moving=False).frames(3, 32, 32)
        assert (clip == clip[:1]).all()


def test_backdrops_are_many_and_different():
    assert len(backdrops()) > 100
    pictures = {Backdrop(phrase).frames(1, 48, 64).tobytes() for phrase in backdrops()}
    assert len(pictures) == len(backdrops())
    assert len(SCENICS) >= 8


def test_a_named_pattern_is_what_it_is_called():
    board = Backdrop("a red and white checkerboard").frames(1, 64, 64)[0]
    assert board[2, 2, 1] < 60
    assert board[2, 10, 1] > 200
    gradient = Backdrop("a gradient from black at the top to white at the bottom").frames(1, 64, 64)[0]
    assert gradient[0].mean() < 45
    assert gradient[-1].mean() > 235
    stripes = Backdrop("horizontal blue and yellow stripes").frames(1, 64, 64)[0]
    assert (stripes == stripes[:, :1]).all()
