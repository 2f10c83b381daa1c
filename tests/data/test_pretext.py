import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sama_video.data.pretext import (
    PROMPTS,
    SAMPLING_WEIGHTS,
    TEXT_TO_VIDEO,
    TRANSFORMS,
    cube_inpainting,
    disturb,
    possible_tasks,
    sample_tasks,
    source_num_frames,
    speed_perturbation,
    task_prompt,
    tube_shuffle,
)
from sama_video.models.shapes import is_valid_num_frames

SIZES = st.tuples(st.integers(2, 21), st.integers(2, 9), st.integers(2, 9))
SEEDS = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def numbered(num_frames, height, width):
    """Every voxel has its own value, none of them black."""
    return torch.arange(1, num_frames * height * width * 3 + 1).view(num_frames, height, width, 3)


@given(SIZES, SEEDS)
def test_cube_blacks_one_block_and_nothing_else(size, seed):
    video = numbered(*size)
    disturbed = cube_inpainting(video, generator(seed))
    black = [not frame.any() for frame in disturbed]
    length = max(1, round(0.3 * len(video)))
    start = black.index(True)
    assert start > 0
    assert black == [False] * start + [True] * length + [False] * (len(video) - start - length)
    kept = ~torch.tensor(black)
    assert torch.equal(disturbed[kept], video[kept])


def test_every_place_of_the_block_comes_up():
    starts = {
        int((cube_inpainting(torch.ones(10, 1, 1, 3), generator(s))[:, 0, 0, 0] == 0).nonzero()[0]) for s in range(200)
    }
    assert starts == set(range(1, 8))


@given(st.integers(9, 121))
def test_speed_keeps_every_second_frame(num_frames):
    video = numbered(num_frames, 1, 2)
    fast = speed_perturbation(video)
    assert torch.equal(fast, video[::2][: len(fast)])
    assert is_valid_num_frames(len(fast))
    assert len(video[::2]) - len(fast) < 4
    assert len(fast) == source_num_frames("speed_perturbation", num_frames)


@given(SIZES, SEEDS, st.booleans())
def test_shuffle_moves_whole_tubes_of_one_size(size, seed, keep_last_frame):
    assume(keep_last_frame or any(side % 2 == 0 for side in size))
    video = numbered(*size)
    shuffled = tube_shuffle(video, generator(seed), keep_last_frame=keep_last_frame)
    assert shuffled.shape == video.shape
    assert torch.equal(shuffled.flatten().sort().values, video.flatten())
    moving = size[0] // 2 * 2 if keep_last_frame else size[0]
    assert torch.equal(shuffled[moving:], video[moving:])
    halves = [((0, -(-n // 2)), (-(-n // 2), n)) for n in (moving, *size[1:])]
    tubes = [(slice(*t), slice(*y), slice(*x)) for t in halves[0] for y in halves[1] for x in halves[2]]
    for place in tubes:
        assert any(
            shuffled[place].shape == video[origin].shape and torch.equal(shuffled[place], video[origin])
            for origin in tubes
        )


@pytest.mark.parametrize("num_frames", [4, 5])
def test_all_eight_tubes_travel_where_the_sides_divide(num_frames):
    video = numbered(num_frames, 4, 4)
    first = {int(tube_shuffle(video, generator(seed))[0, 0, 0, 0]) for seed in range(100)}
    assert first == {int(video[t, y, x, 0]) for t in (0, 2) for y in (0, 2) for x in (0, 2)}


def moved_in_time(num_frames, side, **rule):
    """Fraction of 40 draws in which some frame holds anything of another."""
    times = torch.arange(num_frames).view(-1, 1, 1, 1).expand(-1, side, side, 3).contiguous()
    return sum(not torch.equal(tube_shuffle(times, generator(seed), **rule), times) for seed in range(40)) / 40


@pytest.mark.parametrize("num_frames", [5, 9, 17, 81])
def test_tubes_move_in_time_in_nearly_all_draws(num_frames):
    assert moved_in_time(num_frames, 2) > 0.9  # 1 - 4! 4! / 8!
    assert moved_in_time(num_frames, 3) > 0.8  # four kinds of tubes, two of each
    assert moved_in_time(num_frames, 2, keep_last_frame=False) == 0


def test_without_a_last_frame_that_stays_draws_are_those_of_earlier_runs():
    video = numbered(5, 4, 4)
    shuffled = disturb("tube_shuffle", video, generator(3), keep_last_frame=False)
    assert shuffled[::2, ::2, ::2, 0].flatten().tolist() == [25, 31, 7, 1, 121, 127, 103, 97, 223, 217, 199, 193]


@pytest.mark.parametrize("task", TRANSFORMS)
@given(SEEDS)
@settings(max_examples=20)
def test_a_generators_state_decides_and_the_input_stays(task, seed):
    video = numbered(13, 6, 8).to(torch.uint8)
    before = video.clone()
    once, again = (TRANSFORMS[task](video, generator(seed)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.dtype == torch.uint8
    assert len(once) == source_num_frames(task, len(video))
    once.fill_(7)
    assert torch.equal(video, before)


@pytest.mark.parametrize("task", TRANSFORMS)
def test_an_image_has_no_motion(task):
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        TRANSFORMS[task](torch.zeros(1, 4, 4, 3), generator(0))
    assert possible_tasks(1) == (TEXT_TO_VIDEO,)


def test_clips_in_which_nothing_would_happen():
    with pytest.raises(ValueError, match="a single frame of 8; use a clip of 9 frames"):
        speed_perturbation(torch.zeros(8, 4, 4, 3))
    with pytest.raises(ValueError, match="no two tubes of one size"):
        tube_shuffle(torch.zeros(5, 3, 3, 3), generator(0), keep_last_frame=False)
    assert possible_tasks(8) == (TEXT_TO_VIDEO, "cube_inpainting", "tube_shuffle")
    assert possible_tasks(9) == tuple(SAMPLING_WEIGHTS)


@pytest.mark.parametrize("num_frames", [5, 81])
def test_tasks_come_in_the_papers_ratio(num_frames):
    draws = 20_000
    tasks = sample_tasks(np.random.default_rng(1).random(draws), num_frames)
    possible = possible_tasks(num_frames)
    total = sum(SAMPLING_WEIGHTS[task] for task in possible)
    for task in possible:
        share = SAMPLING_WEIGHTS[task] / total
        assert abs((tasks == task).sum() - draws * share) < 3 * (draws * share * (1 - share)) ** 0.5
    assert set(tasks) == set(possible)


def test_the_papers_ratio_and_words():
    assert [*SAMPLING_WEIGHTS.values()] == [1, 2, 3, 4]
    assert task_prompt(TEXT_TO_VIDEO, "a dog runs") == "a dog runs"
    assert task_prompt("cube_inpainting", "a dog runs") == "[Complete the missing regions in the video.] a dog runs"
    assert PROMPTS["speed_perturbation"] == "[Restore the video to normal playback speed.]"
    assert PROMPTS["tube_shuffle"] == "[Restore the correct spatio-temporal order of the video segments.]"
