import itertools
import json
import multiprocessing
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sama_video.data import epoch
from sama_video.data.buckets import Buckets
from sama_video.data.datasets import EngineDataset
from sama_video.data.epoch import ECHO_DISTANCE, BatchConfig, WeightedDataset, echoed
from sama_video.data.loader import BatchLoader
from sama_video.data.pretext import PROMPTS, source_num_frames
from sama_video.data.samples import collate
from sama_video.system.errors import UserError
from tests.data.fakes import FakeEngine, NumberedDataset

BUCKETS = Buckets(area=32 * 32, frame_counts=(1, 5, 9))


def mixture():
    clips = [(n, h, w, False) for n in (6, 9, 14) for h, w in ((64, 64), (48, 96))] * 3
    edits = [(5, 64, 64, True)] * 4 + [(1, 60, 60, True)] * 5
    return [
        WeightedDataset(name="clips", dataset=NumberedDataset(clips)),
        WeightedDataset(name="edits", dataset=NumberedDataset(edits), weight=1.5),
    ]


CONFIG = {"buckets": BUCKETS, "image_batch_size": 4, "video_batch_size": 3, "seed": 7}


def loader(datasets=None, **changes):
    settings_of_loader = {name: changes.pop(name) for name in ("rank", "world_size", "num_workers") if name in changes}
    return BatchLoader(datasets or mixture(), BatchConfig(**(CONFIG | changes)), **settings_of_loader)


def same(a, b):
    if (a.source is None) != (b.source is None) or (a.source is not None and not torch.equal(a.source, b.source)):
        return False
    return torch.equal(a.target, b.target) and all(
        getattr(a, name) == getattr(b, name)
        for name in ("prompts", "tasks", "names", "bucket", "num_global", "is_filler")
    )


def assert_same(found, expected):
    assert len(found) == len(expected)
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def two_epochs(loader):
    return [*loader, *loader]


@pytest.fixture(scope="module")
def undisturbed():
    return two_epochs(loader())


def state_after(count, **options):
    """Of a loader that handed out `count` batches."""
    stopped = loader(**options)
    for _ in itertools.islice(itertools.chain.from_iterable(itertools.repeat(stopped)), count):
        pass
    return stopped.state_dict()


def rest(state, count, **options):
    """What a new loader gives after `state` until `count` batches in all."""
    resumed = loader(**options)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    batches = []
    while len(batches) < count:
        batches += resumed
    return batches


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_show(num_workers, undisturbed):
    assert_same(two_epochs(loader(num_workers=num_workers)), undisturbed)


def test_stopping_anywhere_changes_nothing(undisturbed):
    for stop in range(len(undisturbed)):
        assert_same(rest(state_after(stop), len(undisturbed) - stop), undisturbed[stop:])


@given(st.data())
@settings(max_examples=8, deadline=None)
def test_resuming_with_another_number_of_workers(undisturbed, data):
    first_epoch = len(loader().schedule())
    stop = data.draw(st.integers(0, first_epoch))
    before, after = data.draw(st.sampled_from([(0, 2), (2, 0), (1, 2), (2, 1), (1, 1), (2, 2)]))
    found = rest(state_after(stop, num_workers=before), len(undisturbed) - stop, num_workers=after)
    assert_same(found, undisturbed[stop:])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_every_step(world_size, undisturbed):
    ranks = [two_epochs(loader(rank=rank, world_size=world_size)) for rank in range(world_size)]
    fillers = 0
    for step, batches in zip(undisturbed, zip(*ranks, strict=True), strict=True):
        assert {batch.bucket for batch in batches} == {step.bucket}
        assert {batch.num_global for batch in batches} == {len(step.names)}
        counted = [batch for batch in batches if not batch.is_filler]
        assert sorted(key for batch in counted for key in batch.names) == sorted(step.names)
        assert max(len(b.names) for b in counted) - min(len(b.names) for b in counted) <= 1
        assert all(len(batch.names) == 1 for batch in batches if batch.is_filler)
        fillers += len(batches) - len(counted)
    assert fillers > 0


def test_resuming_with_another_number_of_ranks(undisturbed):
    state = state_after(1, rank=1, world_size=2)
    assert_same(rest(state, len(undisturbed) - 1), undisturbed[1:])


def test_only_the_source_is_disturbed(undisturbed):
    tasks = set()
    for batch in undisturbed:
        for number, task in enumerate(batch.tasks):
            tasks.add(task)
            target = batch.target[number]
            times = target[:, 0, 0, 1].int()
            assert torch.equal(times, torch.arange(times[0], times[0] + len(times)).int())
            assert (target[..., 2] == 1).all()
            if task in PROMPTS:
                assert batch.prompts[number].startswith(PROMPTS[task] + " prompt ")
                assert len(batch.source[number]) == source_num_frames(task, len(target))
            if task in ("cube_inpainting", "tube_shuffle"):
                assert not torch.equal(batch.source[number], target) or task == "tube_shuffle"
            if task == "text_to_video":
                assert batch.source is None
            if task == "edit":
                assert torch.equal(batch.source[number], 255 - target)
    assert tasks == {"edit", "text_to_video", *PROMPTS}


def test_tube_shuffle_moves_in_time_unless_the_config_says_otherwise(undisturbed):
    otherwise = two_epochs(loader(shuffle_keeps_last_frame=False))
    in_time = 0
    for batch, other in zip(undisturbed, otherwise, strict=True):
        for number, task in enumerate(batch.tasks):
            sources = [None if one.source is None else one.source[number] for one in (batch, other)]
            if task != "tube_shuffle":
                assert sources[0] is sources[1] is None or torch.equal(*sources)
                continue
            # Of `FakeEngine` and files alike, green is the frame's number.
            target = batch.target[number][..., 1]
            assert torch.equal(sources[1][..., 1], target)
            in_time += not torch.equal(sources[0][..., 1], target)
    assert in_time


def test_crops_and_tasks_differ_between_epochs_unless_there_are_variants():
    clips = [WeightedDataset(name="clips", dataset=NumberedDataset([(40, 64, 64, False)] * 6))]

    def starts(loader):
        batches = sorted((key, int(t[0, 0, 0, 1])) for b in loader for key, t in zip(b.names, b.target, strict=True))
        return batches

    fresh, cached = loader(clips), loader(clips, pretext_variants=1)
    assert starts(fresh) != starts(fresh)
    assert starts(cached) == starts(cached)


def test_engine_samples_are_new_in_every_epoch():
    dataset = EngineDataset(FakeEngine(), num_samples=6, shapes=((5, 32, 32), (9, 32, 64)))
    motion = EngineDataset(FakeEngine(), num_samples=4, shapes=((9, 32, 32),), text_to_video=True)
    made = loader([WeightedDataset(name="edits", dataset=dataset), WeightedDataset(name="motion", dataset=motion)])
    epochs = [list(made), list(made)]
    keys = [{key for batch in epoch for key in batch.names} for epoch in epochs]
    assert len(keys[0]) == len(keys[1]) == 10
    assert not keys[0] & keys[1]
    for batch in epochs[0]:
        for number, (key, task) in enumerate(zip(batch.names, batch.tasks, strict=True)):
            fill = int(key.split()[-1]) % 251
            assert batch.target[number].eq(255 - fill if task == "edit" else fill).all()
            assert ("caption" if task != "edit" else "instruction") in batch.prompts[number]


def test_a_state_of_other_data_is_refused():
    state = loader().state_dict()
    assert loader(shuffle_keeps_last_frame=False).state_dict() == loader().state_dict()  # of pixels alone
    for other in (loader(seed=8), loader(video_batch_size=2), loader(mixture()[:1])):
        with pytest.raises(UserError, match="other data"):
            other.load_state_dict(state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_clip_is_named_in_one_sentence(num_workers):
    class Broken(NumberedDataset):
        def load(self, *_):
            raise UserError("clip.mp4 is broken")

    broken = [WeightedDataset(name="broken", dataset=Broken([(5, 64, 64, True)]))]
    with pytest.raises(UserError) as caught:
        list(loader(broken, num_workers=num_workers))
    assert str(caught.value) == "clip.mp4 is broken"


def test_a_worker_holds_as_many_batches_as_it_is_told():
    loaded = multiprocessing.Value("i", 0)

    class Counted(NumberedDataset):
        def load(self, *arguments):
            with loaded:
                loaded.value += 1
            return super().load(*arguments)

    counted = [WeightedDataset(name="counted", dataset=Counted([(1, 64, 64, True)] * 6))]
    next(iter(loader(counted, num_workers=1, image_batch_size=1)))
    time.sleep(0.3)
    assert loaded.value <= 2  # the one that was handed out, one ahead


def test_mixtures_and_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="names of their own"):
        loader([*mixture(), mixture()[0]])
    with pytest.raises(ValueError, match="do not reach 4 ranks"):
        loader(world_size=4)
    scheduled = loader().schedule()[0]
    sample = mixture()[0].dataset.load(0, (16, 16), 5, torch.Generator())
    with pytest.raises(ValueError, match="instead of"):
        collate([sample], bucket=scheduled.bucket, num_global=1, is_filler=False)


@given(num_batches=st.integers(0, 200), times=st.integers(1, 4))
def test_an_echoed_batch_comes_so_often_and_that_far_apart(num_batches, times):
    order = list(echoed(num_batches, times))
    places = {number: [place for place, (one, _) in enumerate(order) if one == number] for number in range(num_batches)}
    assert all(len(found) == times for found in places.values())
    new = [found[0] for found in places.values()]
    assert new == sorted(new)
    for number, found in places.items():
        assert [order[place][1] for place in found] == [False] * (times - 1) + [True]
        if times > 1:
            between = sum(found[0] < place < found[1] for place in new)
            assert between == min(ECHO_DISTANCE, num_batches - 1 - number)


def test_an_echoed_batch_is_encoded_once_and_the_same_each_time(monkeypatch, undisturbed):
    monkeypatch.setattr(epoch, "ECHO_DISTANCE", 2)
    encoded = []

    def encode(batch):
        encoded.append(batch.names)
        return replace(batch, target=batch.target.float())

    first_epoch = len(loader().schedule())
    once = undisturbed[:first_epoch]
    echoing = BatchLoader(mixture(), BatchConfig(**CONFIG, echo=3), encode=encode)
    found = list(echoing)
    assert encoded == [batch.names for batch in once]
    assert len(found) == 3 * first_epoch
    assert all(batch.is_encoded for batch in found)
    for number, batch in enumerate(once):
        assert sum(one.names == batch.names for one in found) == 3, number


def test_stopping_an_echoing_loader_anywhere_changes_nothing(monkeypatch):
    monkeypatch.setattr(epoch, "ECHO_DISTANCE", 2)
    whole = two_epochs(loader(echo=2))
    for stop in range(0, len(whole), 5):
        assert_same(rest(state_after(stop, echo=2), len(whole) - stop, echo=2), whole[stop:])


def test_states_of_before_batches_could_echo_still_fit():
    state = loader().state_dict()
    loader(echo=1).load_state_dict(state)
    with pytest.raises(UserError, match="was made with other data"):
        loader(echo=2).load_state_dict(state)
