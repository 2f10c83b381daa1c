import numpy as np
import pytest

from sama_video.metrics import LARGEST_PSNR, psnr, score_edit, squared_error


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
