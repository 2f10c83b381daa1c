"""Settings that the data contradict are refused before the first step, and what is unexpected is said."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from sama_video.cli.data import _resumable
from sama_video.data.epoch import DatasetTable
from sama_video.models.shapes import LatentShape, VideoShape
from sama_video.system.errors import UserError
from sama_video.training.config import (
    DataConfig,
    DatasetConfig,
    EngineConfig,
    LoopConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ParallelConfig,
)
from sama_video.training.contradictions import check_data
from sama_video.training.stages import run_stages
from tests.training import processes, runs


def table(num_frames, *, has_source=False, weight=1.0, name="clips"):
    frames = np.array(num_frames, np.int32)
    sides = np.full(len(frames), 64, np.int32)
    sources = np.full(len(frames), has_source)
    return DatasetTable(name=name, weight=weight, num_frames=frames, height=sides, width=sides, has_source=sources)


def run_with(anchors=1, frame_counts=(1, 5, 9), **data):
    config = replace(processes.TINY, objective=ObjectiveConfig(num_anchors=anchors))
    config = replace(config, model=ModelConfig(init="x", semantic_encoder="nano"))
    return replace(config, data=replace(config.data, frame_counts=frame_counts, **data))


def test_more_anchors_than_frames_are_refused_and_pictures_do_not_matter():
    check_data(run_with(anchors=9), [table([1, 9, 12])])
    with pytest.raises(UserError, match="num_anchors=12 needs videos of as many frames, and clips has some of 9"):
        check_data(run_with(anchors=12), [table([1, 9, 40])])
    without = replace(run_with(anchors=12), model=ModelConfig(init="x"))
    check_data(without, [table([9])])


def test_anchors_are_refused_before_a_folder_is_made(tmp_path):
    runs.write_models(tmp_path)
    config = runs.config(tmp_path, num_steps=1)
    config = replace(config, objective=replace(config.objective, num_anchors=12))
    with pytest.raises(UserError, match=r"objective\.num_anchors=12 needs videos.*some of 5; use 5 anchors or fewer"):
        run_stages([config], tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_a_picture_counts_the_tokens_of_one_anchor(tmp_path):
    """In the run's log, in what fits into a forward pass, and in what training encodes."""
    runs.write_models(tmp_path)
    config = runs.config(tmp_path, num_steps=1)
    pictures = replace(processes.IMAGES, engine=replace(processes.IMAGES.engine, num_samples=4))
    data = replace(config.data, datasets=(*config.data.datasets, pictures))
    config = replace(config, data=data, objective=replace(config.objective, num_anchors=3, semantic_grid=6))
    trainer = processes.trainer(config, tmp_path / "run")
    counted = {}
    for batch in trainer.loader:
        encoded = trainer.encoder.encode_portion(batch, range(len(batch.names)))
        streams = [encoded.target] + ([] if encoded.source is None else [encoded.source])
        tokens = encoded.semantic.shape[1] + sum(clip[0, 0].numel() // 4 for clip in streams)
        assert trainer.micro_batches.tokens_of_sample(batch) == tokens
        counted[batch.bucket.num_frames] = encoded.semantic.shape[1]
    assert counted == {1: 37, 5: 3 * 37}
    assert trainer.pipe.config.num_semantic_tokens == 3 * 37
    for frames, tokens in ((1, 37), (5, 3 * 37)):
        shape = LatentShape.from_video(VideoShape(num_frames=frames, height=64, width=64))
        assert trainer.pipe.prepare_latents(1, shape)[1].shape[1] == tokens  # as it samples


def test_clips_shorter_than_every_length():
    with pytest.raises(UserError, match=r"sample 1 of clips has 7 frames, and data.frame_counts begins at 9; add 5"):
        check_data(run_with(frame_counts=(9, 17)), [table([9, 7])])


def test_an_epoch_without_samples():
    with pytest.raises(UserError, match=r"an epoch of these data\.datasets holds 0\.0002 samples"):
        check_data(run_with(), [table([9, 9], weight=1e-4)])
    check_data(run_with(), [table([9, 9], weight=1e-4), table([9])])


def test_what_a_user_might_not_expect_is_said():
    config = run_with(image_batch_size=4, video_batch_size=2)
    notes = check_data(config, [table([1, 1, 9, 9], has_source=True)])
    assert notes == [
        "the data: 2 pictures and 2 videos, cut to 1, 9 frames",
        "data.pretext has nothing to do: no captioned clip without a source has more than one frame",
        "data.image_batch_size=4, but there are 2 samples for it: no step will hold more",
    ]
    assert len(check_data(config, [table([9] * 5)])) == 1


ENGINE = {"num_samples": 1, "shapes": ((1, 64, 64),)}


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (EngineConfig, ENGINE | {"shapes": ()}, "engine.shapes must not be empty"),
        (EngineConfig, ENGINE | {"shapes": ((0, 64, 64),)}, "engine.shapes must have 1 frame"),
        (EngineConfig, ENGINE | {"shapes": ((1, 64, 8),)}, "sides of 16 or more, got 1x64x8"),
        (EngineConfig, ENGINE | {"families": ()}, "engine.families must be among"),
        (EngineConfig, ENGINE | {"families": ("magic",)}, "engine.families must be among.*magic"),
        (EngineConfig, ENGINE | {"num_samples": 0}, "engine.num_samples must be at least 1"),
        (EngineConfig, ENGINE | {"loose": 2.0}, "engine.loose must be between 0 and 1"),
        (EngineConfig, ENGINE | {"seed": -1}, "engine.seed must be at least 0"),
        (DatasetConfig, {"name": "x", "manifest": "m.csv", "weight": float("nan")}, "weight of dataset x"),
        (DatasetConfig, {"name": "x", "manifest": "m.csv", "weight": float("inf")}, "weight of dataset x"),
        (DataConfig, {"datasets": (processes.CLIPS,), "aspect_ratios": (0.0,)}, "data.aspect_ratios"),
        (DataConfig, {"datasets": (processes.CLIPS,), "num_workers": 10_000}, "data.num_workers must be at most 256"),
        (LoopConfig, {"num_steps": 1, "seed": -1}, "loop.seed must be at least 0"),
        (LoraConfig, {"rank": 0}, "model.lora.rank must be at least 1"),
        (LoraConfig, {"targets": ()}, "model.lora.targets must not be empty"),
        (OptimizerConfig, {"learning_rate": float("inf")}, "optimizer.learning_rate must be at most"),
        (ParallelConfig, {"shard_size": -1}, "parallel.shard_size must be at least 0"),
        (ParallelConfig, {"timeout_minutes": 0.0}, "parallel.timeout_minutes must be at least 0.001"),
    ],
)
def test_values_that_cannot_be(make, values, message):
    with pytest.raises(UserError, match=message):
        make(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"lora": LoraConfig(targets=("nothing",))}}, "model.lora.targets=nothing names no module"),
        ({"model": {"semantic_encoder": "nano"}}, "gives tokens of width"),
    ],
)
def test_models_that_do_not_fit(tiny_init, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run_stages([processes.config(tiny_init, **changes)], tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("area", [1, 1000, 5000])
def test_areas_that_no_size_divides_become_sizes_that_do(tiny_init, tmp_path, area):
    config = processes.config(tiny_init, data={"area": area}, loop={"num_steps": 1})
    assert run_stages([config], tmp_path, resume=False).is_dir()


def test_columns_that_no_layout_knows(tiny_init, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("before;after;what\na.png;b.png;make it red\n")
    dataset = DatasetConfig(name="mine", manifest=str(path))
    named = replace(dataset, columns=("tgt_video=after", "prompt=what"))
    for datasets, message in (
        ((processes.CLIPS, dataset), r"name the column with --set data.datasets.1.columns=tgt_video=COLUMN"),
        ((named,), r"no such file: .*b.png"),  # its columns are found
    ):
        config = processes.config(tiny_init, data={"datasets": datasets})
        with pytest.raises(UserError, match=message):
            run_stages([config], tmp_path / "run", resume=False)


def test_the_log_says_the_precision(tiny_init, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run_stages([processes.config(tiny_init, loop={"num_steps": 1})], tmp_path, resume=False)
    assert "computing in float32: as loop.precision says" in caplog.messages


def test_an_interrupted_command_says_what_is_kept():
    with pytest.raises(KeyboardInterrupt) as stop, _resumable("complete samples are kept"):
        raise KeyboardInterrupt
    assert stop.value.__notes__ == ["stopped; complete samples are kept, and the same command continues from there"]
