import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sama_video.data.buckets import Buckets

AREAS = st.sampled_from([128 * 128, 256 * 448, 480 * 832, 704 * 1280])


def test_the_papers_ratios_at_480p():
    sizes = Buckets().sizes
    assert sizes[3] == (640, 640)
    assert sizes == tuple((w, h) for h, w in reversed(sizes))
    for (height, width), ratio in zip(sizes, (1 / 2, 2 / 3, 3 / 4, 1, 4 / 3, 3 / 2, 2), strict=True):
        assert height / width == pytest.approx(ratio, rel=0.03)
        assert height * width == pytest.approx(480 * 832, rel=0.03)


@given(AREAS, st.sampled_from([16, 32]))
def test_sizes_keep_area_and_multiple(area, multiple):
    for height, width in Buckets(area=area, pixel_multiple=multiple).sizes:
        assert height % multiple == width % multiple == 0
        assert abs(math.log(height * width / area)) < 3 * multiple / math.sqrt(area)


@given(AREAS, st.integers(16, 4000), st.integers(16, 4000))
def test_a_clip_goes_to_the_nearest_ratio(area, height, width):
    buckets = Buckets(area=area)
    chosen = buckets.sizes[buckets.nearest_size(np.array([height]), np.array([width]))[0]]

    def distance(size):
        return abs(math.log(size[0] / size[1]) - math.log(height / width))

    assert distance(chosen) == pytest.approx(min(map(distance, buckets.sizes)))


@given(st.integers(1, 200))
def test_a_clip_gets_the_longest_count_it_can_fill(num_frames):
    buckets = Buckets()
    count = buckets.longest_count(np.array([num_frames]))[0]
    assert count == max(c for c in buckets.frame_counts if c <= num_frames)


def test_counts_are_4k_plus_1_and_rise():
    with pytest.raises(ValueError, match="got 48; use 45 or 49"):
        Buckets(frame_counts=(1, 48))
    with pytest.raises(ValueError, match="must rise"):
        Buckets(frame_counts=(17, 1))
    assert Buckets(frame_counts=(17, 33)).longest_count(np.array([16, 17]))[0] == 0
