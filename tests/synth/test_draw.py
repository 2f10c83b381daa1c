import math

import numpy as np
import pytest

from sama_video.synth.draw import SINE, SINE_SCALE, TURN, Draw, resize


def test_equal_keys_give_equal_draws_and_other_keys_others():
    first, again, other = (Draw("a", seed) for seed in (1, 1, 2))
    drawn = [[d.unit(), d.below(1000), *d.shuffled(range(5))] for d in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_sequence_is_the_one_it_always_was():
    draw = Draw("sama", 0)
    assert [draw.below(1000) for _ in range(6)] == KNOWN


KNOWN = [457, 140, 34, 820, 32, 458]


def test_no_sine_lies_near_a_rounding_edge():
    for k in range(TURN):
        exact = SINE_SCALE * math.sin(2 * math.pi * k / TURN)
        assert abs(exact - SINE[k]) < 0.5 - 1e-6


def test_weighted_draws_follow_their_weights():
    draw = Draw("weights")
    counts = dict.fromkeys("abc", 0)
    for _ in range(6000):
        counts[draw.weighted("abc", (1, 2, 3))] += 1
    for item, share in zip("abc", (1 / 6, 2 / 6, 3 / 6), strict=True):
        assert abs(counts[item] - 6000 * share) < 4 * math.sqrt(6000 * share * (1 - share))


def test_nothing_to_choose_from_is_said():
    with pytest.raises(ValueError, match="nothing to choose"):
        Draw("x").choice([])


@pytest.mark.parametrize("size", [(8, 12), (16, 24), (3, 5), (40, 36), (24, 24)])
def test_resizing_keeps_flat_pictures_flat_and_means_where_they_are(size):
    flat = np.full((16, 24, 3), 77, dtype=np.uint8)
    assert (resize(flat, *size) == 77).all()
    ramp = np.repeat(np.arange(24, dtype=np.uint8)[None] * 10, 16, axis=0)
    assert abs(resize(ramp, *size).mean() - ramp.mean()) < 1.0


def test_halving_averages_two_by_two():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    exact = pixels.reshape(3, 2, 4, 2).astype(int).sum(axis=(1, 3)) / 4
    assert abs(resize(pixels, 3, 4) - exact).max() <= 1.0
