from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sama_video.data.buckets import Buckets
from sama_video.data.epoch import (
    BatchConfig,
    WeightedDataset,
    join_tables,
    schedule_epoch,
    scheduled_variants,
    tabulate,
)
from sama_video.data.pretext import SAMPLING_WEIGHTS, source_num_frames
from sama_video.system.errors import UserError
from tests.data.fakes import NumberedDataset

BUCKETS = Buckets(area=64 * 64, frame_counts=(1, 5, 9, 17))
CLIPS = st.tuples(st.integers(1, 20), st.integers(20, 200), st.integers(20, 200), st.booleans())
MIXTURES = st.lists(st.tuples(st.lists(CLIPS, min_size=1, max_size=30), st.integers(1, 3)), min_size=1, max_size=3)


@given(st.lists(CLIPS, min_size=1, max_size=30), st.integers(1, 5))
@settings(deadline=None)
def test_portions_make_the_whole(clips, of):
    weighted = WeightedDataset(name="set", dataset=NumberedDataset(clips))
    whole, joined = tabulate(weighted), join_tables([tabulate(weighted, first, of) for first in range(of)])
    for name in ("num_frames", "height", "width", "has_source"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(joined, name))
    config = config_of(pretext_variants=2)
    scheduled = [list(scheduled_variants([whole], config, first, of)) for first in range(of)]
    expected = {
        sample for epoch in (0, 1) for batch in schedule_epoch([whole], config, epoch) for sample in batch.samples
    }
    assert sum(map(len, scheduled)) == 2 * len(clips)
    assert {sample for portion in scheduled for sample in portion} == expected


def tables_of(mixture):
    return [
        tabulate(WeightedDataset(name=f"set{number}", dataset=NumberedDataset(clips), weight=weight))
        for number, (clips, weight) in enumerate(mixture)
    ]


def config_of(**changes):
    return BatchConfig(**({"buckets": BUCKETS, "image_batch_size": 5, "video_batch_size": 3} | changes))


def listed(schedule):
    return [(batch.bucket, batch.samples) for batch in schedule]


@given(MIXTURES, st.integers(0, 2**32), st.integers(0, 50))
@settings(deadline=None)
def test_an_epoch_holds_every_sample_weight_times(mixture, seed, epoch):
    schedule = schedule_epoch(tables_of(mixture), config_of(seed=seed), epoch)
    held = Counter((sample.dataset, sample.index) for batch in schedule for sample in batch.samples)
    expected = {(d, i): weight for d, (clips, weight) in enumerate(mixture) for i in range(len(clips))}
    assert held == expected
    draws = Counter((sample.dataset, sample.index, sample.draw) for batch in schedule for sample in batch.samples)
    assert set(draws.values()) == {1}


@given(MIXTURES, st.integers(0, 2**32), st.integers(0, 50))
@settings(deadline=None)
def test_a_batch_has_one_shape_and_a_bounded_size(mixture, seed, epoch):
    config = config_of(seed=seed)
    schedule = schedule_epoch(tables_of(mixture), config, epoch)
    smaller = Counter()
    for batch in schedule:
        limit = config.image_batch_size if batch.bucket.num_frames == 1 else config.video_batch_size
        assert 1 <= len(batch.samples) <= limit
        smaller[batch.bucket] += len(batch.samples) < limit
        for sample in batch.samples:
            clip = mixture[sample.dataset][0][sample.index]
            assert (batch.bucket.height, batch.bucket.width) == sample.size
            assert batch.bucket.num_frames == sample.num_frames <= clip[0]
            if sample.task == "edit":
                assert clip[3]
                assert batch.bucket.source_frames == sample.num_frames
            else:
                assert not clip[3]
                assert batch.bucket.source_frames == source_num_frames(sample.task, sample.num_frames)
    assert max(smaller.values()) <= 1


@given(MIXTURES, st.integers(0, 2**32))
@settings(deadline=None)
def test_a_schedule_is_a_pure_function(mixture, seed):
    config = config_of(seed=seed)
    assert listed(schedule_epoch(tables_of(mixture), config, 3)) == listed(
        schedule_epoch(tables_of(mixture), config, 3)
    )


def test_epochs_and_seeds_differ():
    tables = tables_of([([(20, 64, 64, False)] * 40, 1)])
    schedules = [
        listed(schedule_epoch(tables, config_of(seed=seed), epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert schedules[0] != schedules[1]
    assert schedules[0] != schedules[2]


def tasks(schedule):
    return {(sample.dataset, sample.index): sample.task for batch in schedule for sample in batch.samples}


def test_a_datasets_draws_do_not_depend_on_its_neighbours():
    clips = [(20, 64, 64, False)] * 30
    alone = tasks(schedule_epoch(tables_of([(clips, 1)]), config_of(), 2))
    beside = tasks(schedule_epoch(tables_of([(clips, 1), ([(9, 90, 60, True)] * 10, 2)]), config_of(), 2))
    assert alone == {key: task for key, task in beside.items() if key[0] == 0}


def test_pretext_tasks_come_in_the_papers_ratio():
    draws = 20_000
    schedule = schedule_epoch(tables_of([([(20, 64, 64, False)] * draws, 1)]), config_of(seed=1), 0)
    counts = Counter(tasks(schedule).values())
    for task, weight in SAMPLING_WEIGHTS.items():
        share = weight / 10
        assert abs(counts[task] - draws * share) < 3 * (draws * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("weight", [0.25, 0.3, 1.7, 2.5])
def test_a_fractional_weight_rotates_and_loses_nothing(weight):
    tables = tables_of([([(5, 64, 64, True)] * 13, weight)])
    held, epochs = Counter(), 40
    for epoch in range(epochs):
        counts = Counter(
            sample.index for batch in schedule_epoch(tables, config_of(), epoch) for sample in batch.samples
        )
        assert abs(sum(counts.values()) - 13 * weight) <= 1
        assert max(counts.values()) <= np.ceil(weight)
        held += counts
    exact = Fraction(str(weight)) * epochs
    assert all(abs(held[index] - exact) <= 1 for index in range(13))


def test_an_epoch_may_hold_nothing_of_a_small_dataset():
    tables = tables_of([([(5, 64, 64, True)], 0.25)])
    assert [len(schedule_epoch(tables, config_of(), epoch)) for epoch in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_variants_come_in_turn():
    tables = tables_of([([(20, 64, 64, False)] * 30, 1)])
    seen = [tasks(schedule_epoch(tables, config_of(pretext_variants=2), epoch)) for epoch in range(4)]
    assert seen[0] == seen[2] != seen[1] == seen[3]
    orders = [listed(schedule_epoch(tables, config_of(pretext_variants=2), epoch)) for epoch in (0, 2)]
    assert orders[0] != orders[1]


def test_what_cannot_be_scheduled_says_what_to_do():
    short = tables_of([([(9, 64, 64, True), (3, 64, 64, True)], 1)])
    with pytest.raises(UserError, match="sample 1 of set0 has 3 frames"):
        schedule_epoch(short, config_of(buckets=Buckets(area=64 * 64, frame_counts=(5, 9))), 0)
    with pytest.raises(UserError, match="set0 is empty"):
        tables_of([([], 1)])
    with pytest.raises(ValueError, match="must be above 0"):
        WeightedDataset(name="none", dataset=NumberedDataset([]), weight=0)
    with pytest.raises(ValueError, match="video_batch_size must be at least 1"):
        config_of(video_batch_size=0)
