import numpy as np
import pytest

from sama_video.synth.draw import resize
from sama_video.synth.looks import LOOKS, luma


@pytest.fixture(scope="module")
def video():
    rng = np.random.default_rng(0)
    return resize(rng.integers(0, 256, (8, 12, 3, 3), dtype=np.uint8), 32, 48).transpose(2, 0, 1, 3)


@pytest.mark.parametrize("look", LOOKS)
def test_looks_keep_shape_and_range_and_change_the_picture(look, video):
    edited = LOOKS[look](video)
    assert edited.shape == video.shape
    assert edited.dtype == np.uint8
    assert abs(edited.astype(int) - video).mean() > 3
    assert np.array_equal(edited, LOOKS[look](video))


def test_there_are_at_least_sixteen_and_each_looks_different(video):
    assert len(LOOKS) >= 16
    edited = {name: look(video).astype(int) for name, look in LOOKS.items()}
    for name, first in edited.items():
        for other, second in edited.items():
            assert name == other or abs(first - second).mean() > 2, (name, other)


def test_looks_mean_what_they_say(video):
    mean = {name: look(video).mean(axis=(0, 1, 2)) for name, look in LOOKS.items()}
    spread = {name: look(video).std() for name, look in LOOKS.items()}
    assert np.array_equal(LOOKS["grayscale"](video)[..., 0], LOOKS["grayscale"](video)[..., 2])
    assert np.array_equal(LOOKS["negative"](LOOKS["negative"](video)), video)
    assert mean["brighter"].sum() > video.mean() * 3 > mean["darker"].sum()
    assert mean["warm"][0] > mean["warm"][2]
    assert mean["cold"][2] > mean["cold"][0]
    assert mean["purple"][1] < mean["purple"][[0, 2]].min()
    assert spread["blurred"] < video.std()
    assert spread["high contrast"] > video.std() > spread["faded"]
    assert set(np.unique(LOOKS["posterized"](video))) <= {0, 85, 170, 255}
    dark, bright = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 250, np.uint8)
    assert np.array_equal(LOOKS["solarized"](dark), dark)
    assert LOOKS["solarized"](bright).max() == 5
    assert luma(LOOKS["thermal"](bright)).mean() > luma(LOOKS["thermal"](dark)).mean()
    assert LOOKS["sketch"](np.full((1, 16, 16, 3), 90, np.uint8)).min() == 255
    shaded = LOOKS["vignette"](np.full((1, 64, 64, 3), 200, np.uint8))
    assert shaded[0, 32, 32, 0] == 200
    assert shaded[0, 0, 0, 0] < 20


def test_sums_are_whole_numbers_that_float32_holds():
    """The exactness of the matrix looks rests on this bound."""
    white = np.full((1, 2, 2, 3), 255, dtype=np.uint8)
    assert LOOKS["vivid"](white).min() == 255
    assert LOOKS["grayscale"](white).min() == 255


def test_spatial_looks_mean_the_same_at_every_size():
    """A look of a resized video is the resized look."""
    rng = np.random.default_rng(0)
    smooth = resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), 256, 256)
    small = resize(smooth, 64, 64)
    for look in ("blurred", "pixelated", "vignette"):
        large_first = resize(LOOKS[look](smooth[None])[0], 64, 64).astype(int)
        assert abs(large_first - LOOKS[look](small[None])[0]).mean() < 5
