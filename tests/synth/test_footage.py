import shutil
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest

from sama_video.synth.draw import Draw
from sama_video.synth.footage import Footage, decoded_film, find_shots
from sama_video.synth.sprites import SPLITS
from sama_video.system.errors import UserError
from sama_video.video import VideoReader
from tests.clips import write_clip, write_photos


def film(cuts=(0, 40, 90, 130), seed=0):
    rng = np.random.default_rng(seed)
    shots = [np.full((b - a, 48, 64, 3), rng.integers(0, 255, 3), dtype=np.uint8) for a, b in pairwise(cuts)]
    return np.concatenate(shots)


def test_shots_end_at_cuts():
    assert [(shot.start, shot.stop) for shot in find_shots(film())] == [(0, 40), (40, 90), (90, 130)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    write_photos(folder, 24)
    write_clip(folder / "clip.mp4", 40)
    return folder


def test_splits_share_no_photograph_and_miss_none(folder, tmp_path):
    photos = {split: set(Footage(images=folder, videos=None, split=split, cache=tmp_path).photos) for split in SPLITS}
    assert sum(len(found) for found in photos.values()) == 24
    assert len(set().union(*photos.values())) == 24
    assert len(photos["train"]) > 12


def test_another_file_in_the_folder_moves_no_photograph_to_another_split(folder, tmp_path):
    grown = tmp_path / "grown"
    shutil.copytree(folder, grown)
    PIL.Image.fromarray(np.full((40, 40, 3), 9, dtype=np.uint8)).save(grown / "0_first.png")
    for split in SPLITS:
        before, after = (
            {path.name for path in Footage(images=images, videos=None, split=split, cache=tmp_path).photos}
            for images in (folder, grown)
        )
        assert before <= after


def test_without_a_split_all_of_it_is_used(folder, tmp_path):
    everything = Footage(images=folder, videos=folder, split=None, cache=tmp_path)
    assert len(everything.photos) == 24
    assert len(everything.shots) == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no picture and no shot of 12 frames in"):
        Footage(images=tmp_path / "none", videos=None, split=None, cache=tmp_path)


def with_a_film(folder, cache):
    """The split that the folder's one film fell into; its other photographs are there too."""
    footage = [Footage(images=folder, videos=folder, split=split, cache=cache) for split in SPLITS]
    return next(found for found in footage if found.shots)


@pytest.mark.parametrize("shape", [(1, 32, 32), (9, 32, 48), (33, 48, 32)])
def test_backgrounds_have_the_asked_shape_and_repeat_with_the_seed(folder, tmp_path, shape):
    footage = with_a_film(folder, tmp_path)
    for seed in range(6):
        first, again = (footage.draw(Draw("b", seed), moving=True).frames(*shape) for _ in range(2))
        assert first.shape == (*shape, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, again)


def test_a_photograph_stands_still_without_motion_and_moves_with_it(folder, tmp_path):
    footage = Footage(images=folder, videos=None, split="train", cache=tmp_path)
    still = footage.draw(Draw("still"), moving=False).frames(5, 32, 32)
    assert (still == still[:1]).all()
    moved = [footage.draw(Draw("m", seed), moving=True).frames(5, 32, 32) for seed in range(6)]
    assert any((clip[0] != clip[-1]).any() for clip in moved)


def test_a_film_is_decoded_once_and_exactly(folder, tmp_path):
    decoded = decoded_film(folder / "clip.mp4", tmp_path / "film.npy")
    stamp = decoded.stat().st_mtime_ns
    frames = np.stack([frame.pixels for frame in VideoReader(folder / "clip.mp4").frames()])
    assert np.array_equal(np.load(decoded), frames)
    assert decoded_film(folder / "clip.mp4", decoded).stat().st_mtime_ns == stamp


def test_a_folder_without_material_is_refused(tmp_path):
    with pytest.raises(UserError, match="no photograph and no shot"):
        Footage(images=tmp_path, videos=None, split="train", cache=tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        Footage(images=tmp_path / "none", videos=None, split="train", cache=tmp_path)
