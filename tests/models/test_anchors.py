import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sama_video.models.presets import PRESETS, describe
from sama_video.models.shapes import anchor_indices, semantic_tokens, tokens_per_anchor
from sama_video.pipelines.selection import parts_of_preset


def test_one_anchor_is_the_first_frame_and_an_image_its_own():
    assert anchor_indices(81) == [0]
    assert anchor_indices(1, 1) == [0]


@given(st.integers(2, 200).flatmap(lambda f: st.tuples(st.just(f), st.integers(2, f))))
def test_anchors_are_distinct_and_span_the_clip_evenly(case):
    num_frames, num_anchors = case
    indices = anchor_indices(num_frames, num_anchors)
    assert indices[0] == 0
    assert indices[-1] == num_frames - 1
    steps = [b - a for a, b in itertools.pairwise(indices)]
    assert min(steps) >= 1
    assert max(steps) - min(steps) <= 1


@given(st.integers(1, 9), st.integers(1, 100), st.integers(1, 200))
def test_every_anchor_has_its_tokens_and_no_frame_is_two_anchors(grid, num_anchors, num_frames):
    per_anchor = tokens_per_anchor(grid)
    assert per_anchor == grid * grid + 1
    tokens = semantic_tokens(num_anchors * per_anchor, num_frames, grid)
    assert tokens == min(num_anchors, num_frames) * per_anchor
    assert semantic_tokens(0, num_frames, grid) == 0


@pytest.mark.parametrize(("num_frames", "tokens"), [(1, 17), (5, 3 * 17)])
def test_what_is_told_of_a_model_counts_them(num_frames, tokens):
    preset = PRESETS["wan2.1-14b"]
    settings = replace(preset.settings, num_semantic_tokens=3 * 17)
    coarse = replace(preset, transformer={**preset.transformer, "semantic_grid": 4}, settings=settings)
    parts = parts_of_preset(coarse)
    lines = describe("wan2.1-14b", coarse, parts, num_frames=num_frames, device_memory=2**36)
    assert f" semantic {tokens} + " in "\n".join(lines)


@pytest.mark.parametrize("num_anchors", [0, 6])
def test_more_anchors_than_frames(num_anchors):
    with pytest.raises(ValueError, match="1 to 5"):
        anchor_indices(5, num_anchors)
