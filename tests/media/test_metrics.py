import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from sama_video.media.metrics import (
    HAAR_ALPHA,
    HAAR_C,
    LARGEST_PSNR,
    LUMA,
    YIQ,
    flicker,
    haarpsi,
    motion_error,
    psnr,
    score_edit,
    squared_error,
    ssim,
)
from sama_video.system.errors import UserError


@pytest.fixture
def pair():
    """A source, and a target that differs by 40 levels inside the mask alone."""
    rng = np.random.default_rng(0)
    source = rng.integers(50, 200, (3, 8, 10, 3), dtype=np.uint8)
    mask = np.zeros((3, 8, 10), dtype=bool)
    mask[:, 2:5, 3:7] = True
    target = source.copy()
    target[mask] += 40
    return source, target, mask


def test_psnr_of_a_known_error(pair):
    source, target, mask = pair
    assert squared_error(source, target, mask) == pytest.approx((40 / 255) ** 2)
    assert psnr(source, target, mask) == pytest.approx(20 * np.log10(255 / 40))
    assert psnr(source, source) == LARGEST_PSNR
    assert psnr(source, target, np.zeros_like(mask)) is None


def test_the_target_succeeds_and_the_source_does_not(pair):
    source, target, mask = pair
    perfect, untouched = score_edit(target, source, target, mask), score_edit(source, source, target, mask)
    assert perfect.success
    assert perfect.psnr == perfect.psnr_inside == perfect.psnr_outside == LARGEST_PSNR
    assert untouched.success is False
    assert untouched.psnr_outside == LARGEST_PSNR


def test_success_begins_at_half_the_way(pair):
    source, target, mask = pair
    for step, succeeds in ((19, False), (20, True), (30, True)):
        edited = source.copy()
        edited[mask] += step
        assert score_edit(edited, source, target, mask).success is succeeds


def test_damage_outside_the_mask_shows_outside_alone(pair):
    source, target, mask = pair
    edited = target.copy()
    edited[~mask] += 10
    scores = score_edit(edited, source, target, mask)
    assert scores.psnr_inside == LARGEST_PSNR
    assert scores.psnr_outside == pytest.approx(20 * np.log10(255 / 10))
    assert scores.success


def test_without_a_mask_the_source_may_have_another_length(pair):
    source, target, mask = pair
    scores = score_edit(target, source[:1], target)
    assert (scores.psnr, scores.psnr_inside, scores.success) == (LARGEST_PSNR, None, None)
    with pytest.raises(ValueError, match="one shape"):
        score_edit(target, source[:1], target, mask)


@pytest.mark.parametrize(("factor", "succeeds"), [(4.0, True), (4.1, False), (1.0, True), (16.0, False)])
def test_the_factor_says_how_much_nearer_a_success_is(pair, factor, succeeds):
    source, target, mask = pair
    edited = source.copy()
    edited[mask] += 20
    assert score_edit(edited, source, target, mask, factor).success is succeeds


# Structure


def textured(seed: int = 0, frames: int = 3, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth noise, which has edges at every scale, as pictures have."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return np.stack([cv2.normalize(cv2.GaussianBlur(one, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX) for one in noise])


def noisy(clip: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, deviation, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


def test_ssim_is_the_usual_one():
    clip = textured()
    for other in (noisy(clip, 20), clip // 2, clip[:, ::-1]):
        maps = [
            structural_similarity(
                a @ LUMA,
                b @ LUMA,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
                full=True,
            )[1]
            for a, b in zip(clip, other, strict=True)
        ]
        assert ssim(clip, other) == pytest.approx(np.mean(maps), abs=1e-5)


def haarpsi_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Sections 2 and 3 of the paper, with whole convolutions, for a frame of even sides."""

    def planes(frame):
        yiq = np.moveaxis(frame.astype(np.float64) @ YIQ.T.astype(np.float64), -1, 0)
        return [convolve2d(plane, np.full((2, 2), 0.25), mode="same")[1::2, 1::2] for plane in yiq]

    def same(plane, kernel):
        size = len(kernel)
        return convolve2d(plane, kernel, mode="full")[size // 2 :, size // 2 :][: plane.shape[0], : plane.shape[1]]

    def edges(plane, scale, turned):
        kernel = np.ones((2**scale, 2**scale)) / 2**scale
        kernel[2 ** (scale - 1) :] *= -1
        return np.abs(same(plane, kernel.T if turned else kernel))

    def similarity(x, y):
        return (2 * x * y + HAAR_C**2) / (x**2 + y**2 + HAAR_C**2)

    (y1, *colour1), (y2, *colour2) = planes(a), planes(b)
    similarities, weights = [], []
    for turned in (False, True):
        scales = [similarity(edges(y1, scale, turned), edges(y2, scale, turned)) for scale in (1, 2)]
        similarities.append(sum(scales) / 2)
        weights.append(np.maximum(edges(y1, 3, turned), edges(y2, 3, turned)))
    box = np.full((2, 2), 0.25)
    chroma = [similarity(abs(same(c1, box)), abs(same(c2, box))) for c1, c2 in zip(colour1, colour2, strict=True)]
    similarities.append(sum(chroma) / 2)
    weights.append(sum(weights) / 2)
    curved = 1 / (1 + np.exp(-HAAR_ALPHA * np.stack(similarities)))
    mean = (curved * np.stack(weights)).sum() / np.stack(weights).sum()
    return (np.log(mean / (1 - mean)) / HAAR_ALPHA) ** 2


def test_haarpsi_follows_its_definition():
    clip = textured()
    for other in (noisy(clip, 20), clip // 2, clip[:, ::-1]):
        expected = np.mean([haarpsi_by_definition(a, b) for a, b in zip(clip, other, strict=True)])
        assert haarpsi(clip, other) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", [ssim, haarpsi])
def test_more_damage_is_less_similarity(metric):
    clip = textured()
    scores = [metric(noisy(clip, deviation), clip) for deviation in (0, 10, 30, 90)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1)
    assert scores[-1] < 0.8


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(12, 33), width=st.integers(12, 33))
@settings(max_examples=20, deadline=None)
def test_similarity_is_symmetric_bounded_and_best_for_equals(seed, height, width):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 2, height, width, 3), dtype=np.uint8)
    for metric, lowest in ((ssim, -1), (haarpsi, 0)):
        assert metric(a, a) == pytest.approx(1)
        assert metric(a, b) == pytest.approx(metric(b, a))
        assert lowest <= metric(a, b) < 1
    assert flicker(np.repeat(a, 2, axis=0), np.repeat(a, 2, axis=0)) == 1
    assert motion_error(a, a) == 0


@pytest.mark.parametrize("metric", [psnr, ssim, haarpsi])
def test_what_the_mask_leaves_out_does_not_count(metric):
    target = textured()
    mask = np.zeros(target.shape[:3], dtype=bool)
    mask[:2, 12:32, 20:44] = True
    edited = noisy(target, 25)
    outside_destroyed = np.where(mask[..., None], edited, 255 - edited)
    assert metric(edited, target, mask) == metric(outside_destroyed, target, mask)
    perfect_inside = np.where(mask[..., None], target, edited)
    assert metric(perfect_inside, target, mask) == pytest.approx(metric(target, target))
    assert metric(edited, target, np.zeros_like(mask)) is None
    assert metric(edited, target, np.ones_like(mask)) == pytest.approx(metric(edited, target))


def test_flat_pictures_have_a_similarity_too():
    black = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    assert haarpsi(black, black) == pytest.approx(1)
    assert haarpsi(black, black + 255) < 1
    assert ssim(black, black) == 1


# Time


def test_flicker_of_a_known_alternation():
    still = np.full((6, 8, 8, 3), 100, dtype=np.uint8)
    flickering = still.copy()
    flickering[1::2] += 10
    # a, b, a: the second difference is twice the step
    assert flicker(flickering, still) == pytest.approx(2 * 10 + 1)
    assert flicker(still, flickering) == pytest.approx(1 / 21)
    fade = still + np.arange(6, dtype=np.uint8)[:, None, None, None] * 5
    assert flicker(fade, still) == 1, "an even change is no flicker"
    assert flicker(still[:2], still[:2]) is None


def test_motion_error_is_the_distance_in_pixels():
    picture = textured(frames=1, height=96, width=128)[0]
    still = np.stack([picture] * 4)
    moving = np.stack([np.roll(picture, 3 * index, axis=1) for index in range(4)])
    assert motion_error(moving, moving) == 0
    # Rolled pictures have a seam, where flow is wrong.
    assert motion_error(moving, still) == pytest.approx(3, abs=0.3)
    assert motion_error(moving // 2 + 60, moving) < 0.3, "another look, the same motion"
    assert motion_error(still[:1], still[:1]) is None


def test_without_opencv_the_scores_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    clip = textured()
    for metric in (ssim, haarpsi, motion_error):
        with pytest.raises(UserError, match=r"sama-video\[eval\]"):
            metric(clip, clip)
    assert psnr(clip, clip) == LARGEST_PSNR
