import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from sama_video.synth.clips import HELD_OUT_EVERY, ClipPool, find_shots
from sama_video.synth.instructions import EVALUATION, TRAIN_WORDINGS, sample_instruction
from sama_video.synth.looks import LOOKS


@pytest.fixture(scope="module")
def video():
    return torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("look", LOOKS)
def test_looks_keep_shape_and_range_and_change_the_picture(look, video):
    edited = LOOKS[look](video)
    assert edited.shape == video.shape
    assert edited.min() >= 0
    assert edited.max() <= 1
    assert (edited - video).abs().mean() > 0.02
    assert torch.equal(edited, LOOKS[look](video))


def test_looks_mean_what_they_say(video):
    assert torch.equal(LOOKS["grayscale"](video)[:, 0], LOOKS["grayscale"](video)[:, 2])
    torch.testing.assert_close(LOOKS["negative"](LOOKS["negative"](video)), video)
    assert LOOKS["brighter"](video).mean() > video.mean() > LOOKS["darker"](video).mean()
    assert LOOKS["warm"](video)[:, 0].mean() > LOOKS["warm"](video)[:, 2].mean()
    assert LOOKS["cold"](video)[:, 2].mean() > LOOKS["cold"](video)[:, 0].mean()
    assert LOOKS["blurred"](video).std() < video.std()
    assert LOOKS["high contrast"](video).std() > video.std() > LOOKS["faded"](video).std()
    blocks = LOOKS["pixelated"](video)
    assert torch.equal(blocks[..., 0::2, 0::2], blocks[..., 1::2, 1::2])


def test_spatial_looks_mean_the_same_at_every_size():
    """A look of a resized video is the resized look."""
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(256, 256), mode="bicubic").clamp(0, 1)
    small = torch.nn.functional.interpolate(smooth, size=(64, 64), mode="bilinear", antialias=True)
    for look in ("blurred", "pixelated"):
        resized = torch.nn.functional.interpolate(LOOKS[look](smooth), size=(64, 64), mode="bilinear", antialias=True)
        assert (resized - LOOKS[look](small)).abs().mean() < 0.02


def test_every_look_has_words_and_evaluation_words_are_never_trained_on():
    assert set(TRAIN_WORDINGS) == set(EVALUATION) == set(LOOKS)
    rng = random.Random(0)
    trained = {sample_instruction(look, rng).lower().strip(" .!") for look in LOOKS for _ in range(3000)}
    held_out = {text.lower().strip(" .!") for texts in EVALUATION.values() for text in texts}
    assert not trained & held_out


def film(cuts=(0, 40, 90, 130), seed=0):
    rng = np.random.default_rng(seed)
    shots = [np.full((b - a, 48, 64, 3), rng.integers(0, 255, 3), dtype=np.uint8) for a, b in pairwise(cuts)]
    return np.concatenate(shots)


def test_shots_end_at_cuts():
    assert [(shot.start, shot.stop) for shot in find_shots(film())] == [(0, 40), (40, 90), (90, 130)]


def test_splits_share_no_shot_and_no_photograph():
    long = film(tuple(range(0, 700, 35)))
    photos = [np.full((64, 64, 3), i, dtype=np.uint8) for i in range(20)]
    pools = {split: ClipPool([long], photos, split) for split in ("train", "validation")}
    shots = {split: {shot for _, shot in pool.shots} for split, pool in pools.items()}
    assert not shots["train"] & shots["validation"]
    assert len(shots["validation"]) == -(-len(find_shots(long)) // HELD_OUT_EVERY)
    values = {split: {int(photo[0, 0, 0]) for photo in pool.photos} for split, pool in pools.items()}
    assert not values["train"] & values["validation"]


@pytest.mark.parametrize("shape", [(1, 32, 32), (9, 32, 48), (33, 48, 32)])
def test_clips_have_the_asked_shape_and_repeat_with_the_seed(shape):
    noise = np.random.default_rng(0).integers(0, 255, (90, 48, 80, 3), dtype=np.uint8)
    photo = np.random.default_rng(1).integers(0, 255, (100, 120, 3), dtype=np.uint8)
    pool = ClipPool([noise // 8 + 90] * 2, [photo] * 9, "train", photo_share=0.5)
    for seed in range(6):
        clip = pool.sample(*shape, random.Random(seed))
        assert clip.shape == (shape[0], 3, *shape[1:])
        assert clip.min() >= 0
        assert clip.max() <= 1
        assert torch.equal(clip, pool.sample(*shape, random.Random(seed)))


def test_a_pool_without_material_is_refused():
    with pytest.raises(ValueError, match="no film shot"):
        ClipPool([], [], "train")
