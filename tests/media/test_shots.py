"""Cuts: found where one shot ends, and nowhere else."""

import numpy as np
import pytest

from sama_video.media.shots import changes, find_cuts
from sama_video.models.presets import ASSETS
from sama_video.synth.engine import Engine
from sama_video.video import VideoReader


def filmed():
    """33 frames of a hand that moves a cup in front of a camera."""
    return np.stack([frame.pixels for frame in VideoReader(ASSETS / "demo.mp4").frames()])


def drawn(seed, num_frames=20):
    return Engine(seed=seed, families=("local_remove",)).pair(0, num_frames, 96, 128).source


def cuts_of(*shots):
    return find_cuts([*changes(frame for shot in shots for frame in shot)])


@pytest.mark.parametrize("seed", range(12))
def test_no_cut_within_a_shot(seed):
    assert cuts_of(drawn(seed, 40)) == []


def test_film_that_moves_is_not_cut():
    film = filmed()
    assert cuts_of(film) == []
    assert cuts_of(film[::3]) == []  # three times as fast


@pytest.mark.parametrize("seed", range(6))
def test_every_cut_is_found_where_it_is(seed):
    film = filmed()
    shots = [drawn(seed), film[:15], drawn(seed + 100, 9), film[20:28], drawn(seed + 200)]
    sizes = [shot[:, ::3, ::3] if len(shot[0]) > 96 else shot for shot in shots]
    expected = np.cumsum([len(shot) for shot in shots])[:-1]
    assert cuts_of(*sizes) == expected.tolist()


def test_a_flash_and_a_fade_are_no_cuts():
    film = filmed()
    flash = film.copy()
    flash[12] = 255
    assert cuts_of(flash) == []
    fading = (film * np.linspace(1, 0, len(film))[:, None, None, None]).astype(np.uint8)
    assert cuts_of(fading) == []


def test_short_clips():
    film = filmed()
    assert cuts_of(film[:1]) == []
    assert cuts_of(film[:1], drawn(0, 1)) == [1]
