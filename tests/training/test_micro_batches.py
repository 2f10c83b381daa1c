import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sama_video.data.buckets import Bucket
from sama_video.data.epoch import ScheduledBatch, ScheduledSample
from sama_video.data.loader import portion_of
from sama_video.data.samples import Batch
from sama_video.training.config import ObjectiveConfig
from sama_video.training.micro_batches import draw, forward_passes
from tests.training import processes

BUCKET = Bucket(height=64, width=64, num_frames=1, source_frames=1)


def encoded(size):
    numbers = torch.arange(float(size)).view(-1, 1, 1, 1, 1)
    return Batch(
        target=numbers.expand(-1, 4, 1, 2, 2),
        source=None,
        text=torch.zeros(size, 3, 8),
        semantic=torch.zeros(size, 5, 12),
        prompts=[f"prompt {number}" for number in range(size)],
        tasks=["edit"] * size,
        names=[f"name {number}" for number in range(size)],
        bucket=BUCKET,
        num_global=size,
        is_filler=False,
    )


@given(num_samples=st.integers(1, 12), world_size=st.integers(1, 5), size=st.integers(1, 4))
def test_every_sample_counts_once_and_all_processes_take_as_many_passes(num_samples, world_size, size):
    samples = [
        ScheduledSample(dataset=0, index=index, draw=0, task="edit", size=(64, 64), num_frames=1)
        for index in range(num_samples)
    ]
    batch = ScheduledBatch(bucket=BUCKET, samples=tuple(samples))
    counted, passes = [], []
    for rank in range(world_size):
        portion, is_filler = portion_of(batch, rank, world_size)
        length = 0 if is_filler else len(portion)
        found = list(forward_passes(length, size, -(-num_samples // world_size)))
        passes.append(len(found))
        assert all(0 < len(piece.indices) <= size for piece in found)
        counted += [portion[i].index for piece in found if not piece.is_filler for i in piece.indices]
    assert sorted(counted) == list(range(num_samples))
    assert len(set(passes)) == 1


def test_draws_depend_on_seed_step_and_number_alone():
    objective = ObjectiveConfig(text_dropout=0.5, source_dropout=0.5)

    def sigma(*numbers, size=2):
        return float(draw(encoded(size), *numbers, objective).sigma)

    assert sigma(3, 0, 7) == sigma(3, 0, 7, size=5)
    assert len({sigma(3, 0, 7), sigma(4, 0, 7), sigma(3, 1, 7), sigma(3, 0, 8)}) == 4
    keeps = [draw(encoded(1), number, 0, 0, objective) for number in range(400)]
    assert 150 < sum(one.keeps_text for one in keeps) < 250
    assert 150 < sum(one.keeps_source for one in keeps) < 250
    assert draw(encoded(1), 0, 0, 0, ObjectiveConfig(text_dropout=0.0)).keeps_text


def test_selecting_keeps_rows_together():
    batch = encoded(4)
    part = batch.with_samples(batch.select([2, 0]))
    assert part.names == ["name 2", "name 0"]
    assert part.target[:, 0, 0, 0, 0].tolist() == [2, 0]
    assert part.source is None


@pytest.fixture(scope="module")
def at_once(tiny_init, tmp_path_factory):
    return metrics_and_weights(tiny_init, tmp_path_factory.mktemp("once"), {})


def metrics_and_weights(init, out, loop):
    """Of two steps, each over a batch of images and one of clips or two of a kind."""
    sizes = {"image_batch_size": 8, "video_batch_size": 2}
    trainer = processes.trainer(processes.config(init, data=sizes, loop={"batches_per_step": 2, **loop}), out)
    batches = trainer._batches()
    groups = [[next(batches), next(batches)] for _ in range(2)]
    assert any(len({batch.bucket for batch in group}) == 2 for group in groups)
    metrics = [trainer.train_step(group) for group in groups]
    return metrics, {name: weight.detach() for name, weight in trainer.ema.weights.items()}


@pytest.mark.parametrize(
    "loop",
    [
        {"micro_tokens": 1},
        {"micro_tokens": 100},
        {"micro_tokens": 1, "gradient_checkpointing": True},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
        pytest.param({"compile": True, "gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=["one by one", "few at a time", "checkpointed", "compiled", "compiled and checkpointed"],
)
def test_any_split_takes_the_same_steps(loop, at_once, tiny_init, tmp_path):
    (metrics, weights), (expected, expected_weights) = metrics_and_weights(tiny_init, tmp_path, loop), at_once
    for mine, theirs in zip(metrics, expected, strict=True):
        for name in ("loss", "flow_loss", "gradient_norm", "num_samples", "num_tokens"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), rel=1e-5), name
    torch.testing.assert_close(weights, expected_weights, atol=1e-5, rtol=0)
