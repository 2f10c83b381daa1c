"""What stops a run: it says why, the state before it is there, and going on loses nothing."""

import math
import multiprocessing
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch

from sama_video.data.loader import BatchLoader
from sama_video.errors import UserError
from sama_video.models.presets import PRESETS
from sama_video.training.checkpoint import checkpoints
from sama_video.training.config import DatasetConfig, LoopConfig, ObjectiveConfig, OptimizerConfig
from sama_video.training.run import run_stages
from sama_video.training.runlog import RunLog
from sama_video.training.trainer import Trainer, TrainingStoppedError
from tests.training import processes


def steps_of(out):
    return [path.name for path in checkpoints(out)]


def test_an_exploding_gradient_stops_and_resuming_repeats_its_step(tiny_init, tmp_path):
    undisturbed = processes.trainer(processes.config(tiny_init, loop={"num_steps": 2}), tmp_path / "undisturbed")
    undisturbed.train()
    # The first gradients lie well above one half.
    strict = processes.config(tiny_init, loop={"num_steps": 2}, optimizer={"stop_norm": 0.01})
    with pytest.raises(TrainingStoppedError, match=r"norm in step 0 is .*a lower optimizer\.learning_rate"):
        processes.trainer(strict, tmp_path / "run").train()
    assert steps_of(tmp_path / "run") == ["step-0000000"]
    resumed = processes.trainer(processes.config(tiny_init, loop={"num_steps": 2}), tmp_path / "run")
    assert resumed.resume()
    resumed.train()
    assert processes.losses(tmp_path / "run") == processes.losses(tmp_path / "undisturbed")
    for mine, theirs in zip(resumed.ema.averages.values(), undisturbed.ema.averages.values(), strict=True):
        assert torch.equal(mine, theirs)


def poison(trainer, value):
    with torch.no_grad():
        trainer.pipe.transformer.proj_out.bias.fill_(value)


def test_a_loss_that_is_no_number_stops_and_keeps_the_weights(tiny_init, tmp_path):
    trainer = processes.trainer(processes.config(tiny_init), tmp_path)
    poison(trainer, 1e30)  # finite, but its square is not
    with pytest.raises(TrainingStoppedError, match="the loss of step 0 is inf"):
        trainer.train()
    assert steps_of(tmp_path) == ["step-0000000"]
    assert all(weight.grad is None for weight in trainer.ema.weights.values())


def test_weights_that_are_no_numbers_are_not_saved(tiny_init, tmp_path):
    trainer = processes.trainer(processes.config(tiny_init), tmp_path)
    trainer.save()
    trainer.checkpoints.finish()
    trainer.step = 1
    poison(trainer, math.nan)
    with pytest.raises(TrainingStoppedError, match="the loss of step 1 is nan"):
        trainer.train()
    assert steps_of(tmp_path) == ["step-0000000"]


def test_a_clip_that_vanishes_stops_and_nothing_is_lost(tiny_init, tmp_path):
    for name in "abcd":
        PIL.Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
    rows = [f"{name}.png,{name}.png,do nothing" for name in "abcd"]
    (tmp_path / "set.csv").write_text("\n".join(["src_video,tgt_video,prompt", *rows]))
    dataset = DatasetConfig(name="set", manifest=str(tmp_path / "set.csv"))
    config = processes.config(tiny_init, data={"datasets": (dataset,), "image_batch_size": 2}, loop={"num_steps": 4})
    processes.trainer(config, tmp_path / "undisturbed").train()
    trainer = processes.trainer(config, tmp_path / "run")
    lost = "abcd"[trainer.loader.plan()[1].samples[0].index]
    (tmp_path / f"{lost}.png").rename(tmp_path / "elsewhere.png")
    with pytest.raises(UserError, match=f"{lost}.png"):
        trainer.train()
    assert steps_of(tmp_path / "run") == ["step-0000001"]
    (tmp_path / "elsewhere.png").rename(tmp_path / f"{lost}.png")
    resumed = processes.trainer(config, tmp_path / "run")
    resumed.resume()
    resumed.train()
    assert processes.losses(tmp_path / "run") == processes.losses(tmp_path / "undisturbed")


def test_both_of_two_processes_stop(tiny_init, tmp_path):
    config = processes.config(tiny_init, optimizer={"stop_norm": 0.01})
    assert processes.run(processes.train, config, tmp_path, world_size=2, timeout=60) == [3, 3]
    assert steps_of(tmp_path) == ["step-0000000"]


def test_more_processes_than_samples_of_a_batch(tiny_init, tmp_path):
    config = processes.config(tiny_init, data={"video_batch_size": 1})
    assert processes.run(processes.train, config, tmp_path, world_size=2, timeout=60) == [3, 3]
    assert "a batch of 1 does not reach 2 processes" in (tmp_path / "errors.txt").read_text()


def test_a_folder_holds_one_run(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 1})
    exported = run_stages([config], tmp_path, resume=False)
    assert (exported / "model_index.json").is_file()
    with pytest.raises(UserError, match="holds a run already; pass --resume"):
        run_stages([config], tmp_path, resume=False)
    assert run_stages([config], tmp_path, resume=True) == exported


def test_a_run_that_never_began_holds_no_folder(tiny_init, tmp_path):
    with pytest.raises(UserError):
        run_stages([processes.config(tmp_path / "missing", loop={"num_steps": 1})], tmp_path / "run", resume=False)
    assert run_stages([processes.config(tiny_init, loop={"num_steps": 1})], tmp_path / "run", resume=False).is_dir()


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (LoopConfig, {"num_steps": 0}, r"loop\.num_steps must be at least 1, got 0"),
        (LoopConfig, {"num_steps": 1, "keep_checkpoints": 0}, r"loop\.keep_checkpoints must be at least 1"),
        (LoopConfig, {"num_steps": 1, "ema_decay": 1.5}, r"loop\.ema_decay must be between 0 and 1"),
        (ObjectiveConfig, {"text_dropout": 3.0}, r"objective\.text_dropout must be between 0 and 1"),
        (ObjectiveConfig, {"semantic_weight": math.nan}, r"objective\.semantic_weight must be at least 0"),
        (OptimizerConfig, {"betas": (0.9, 1.0)}, r"optimizer\.betas"),
    ],
)
def test_numbers_that_make_no_sense(part, values, message):
    with pytest.raises(UserError, match=message):
        part(**values)


def fill_the_log_s_disk(config, out):
    write = RunLog.step

    def write_to_a_full_disk(log, step, metrics):
        if step == 2:
            log.file = Path("/dev/full")
        write(log, step, metrics)

    RunLog.step = write_to_a_full_disk
    processes.train(config, out)


def test_what_fails_in_the_first_process_alone_stops_all_and_saves(tiny_init, tmp_path):
    config = processes.config(tiny_init)
    assert processes.run(fill_the_log_s_disk, config, tmp_path, world_size=2, timeout=60) == [3, 3]
    errors = (tmp_path / "errors.txt").read_text()
    assert "/dev/full (No space left" in errors
    assert "process 0 cannot go on" in errors
    assert steps_of(tmp_path)[-1] == "step-0000002"


def lose_a_worker(config, out):
    def lose(*_):
        raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")

    if os.environ["RANK"] == "1":
        BatchLoader.__iter__ = lose
    processes.train(config, out)


def test_what_nobody_foresaw_in_one_process_stops_all_and_saves(tiny_init, tmp_path):
    config = processes.config(tiny_init)
    assert processes.run(lose_a_worker, config, tmp_path, world_size=2, timeout=60) == [3, 3]
    assert (tmp_path / "errors.txt").read_text().count("process 1 cannot go on: RuntimeError: DataLoader worker") == 2
    assert steps_of(tmp_path) == ["step-0000000"]


def test_a_text_encoder_that_trains_gets_its_prompts_where_it_lies(tmp_path):
    """What a sample has for text then is empty and lies on the CPU, wherever the run's device is."""
    nano = str(PRESETS["nano"].weights)
    one = processes.trainer(processes.config(nano, model={"train_text_encoder": True}), tmp_path)
    batch = next(iter(one.loader))
    micro = next(one._micro_batches(batch, 0, len(batch.prompts)))
    elsewhere = replace(micro, batch=replace(micro.batch, text=micro.batch.text.to("meta")))
    assert one.forward_backward(elsewhere).loss.isfinite().all()


def test_what_may_change_on_the_way(tiny_init, tmp_path):
    config = processes.config(tiny_init, optimizer={"stop_norm": 0.01})
    with pytest.raises(TrainingStoppedError):
        run_stages([config], tmp_path, resume=False)
    with pytest.raises(UserError, match="is of another config"):
        run_stages([processes.config(tiny_init, data={"image_batch_size": 5})], tmp_path, resume=True)
    gentler = processes.config(tiny_init, optimizer={"learning_rate": 1e-4}, loop={"num_steps": 1})
    assert run_stages([gentler], tmp_path, resume=True).is_dir()


def train_and_signal_the_job(config, out):
    """As a scheduler ends a job: SIGTERM to the run and its loader's workers, here in the middle of the second step."""
    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # workers are this process's children, as in a plain run
    forward_backward = Trainer.forward_backward

    def signal_once(trainer, micro):
        if trainer.step == 1:
            # By another process: what the run itself sends its workers is meant.
            subprocess.run(["kill", "-TERM", "--", f"-{os.getpgid(0)}"], check=False)
        return forward_backward(trainer, micro)

    Trainer.forward_backward = signal_once
    processes.train(config, out)


def test_sigterm_saves_and_resuming_ends_as_an_undisturbed_run(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 4}, data={"num_workers": 2})
    assert processes.run(processes.train, config, tmp_path / "undisturbed") == [0]
    assert processes.run(train_and_signal_the_job, config, tmp_path / "run") == [3]
    assert "step 2 is saved" in (tmp_path / "run" / "errors.txt").read_text()
    assert steps_of(tmp_path / "run")[-1] == "step-0000002"
    assert processes.run(processes.train, config, tmp_path / "run") == [0]
    assert processes.losses(tmp_path / "run") == processes.losses(tmp_path / "undisturbed")
