"""What stops a run: it says why, the state before it is there, and going on loses nothing."""

import builtins
import errno
import json
import math
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from sama_video.data.encoding import Encoder
from sama_video.data.loader import BatchLoader
from sama_video.models.presets import PRESETS
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.system.errors import UserError
from sama_video.training import parallel
from sama_video.training.checkpoint import checkpoints
from sama_video.training.config import (
    DatasetConfig,
    LoopConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ValidationConfig,
)
from sama_video.training.logs.runlog import RunLog
from sama_video.training.stages import run_stages
from sama_video.training.trainer import Trainer, TrainingStoppedError
from sama_video.training.validation import Validation
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
    lost = "abcd"[trainer.loader.schedule()[1].samples[0].index]
    (tmp_path / f"{lost}.png").rename(tmp_path / "elsewhere.png")
    with pytest.raises(UserError, match=f"{lost}.png"):
        trainer.train()
    assert steps_of(tmp_path / "run") == ["step-0000001"]
    (tmp_path / "elsewhere.png").rename(tmp_path / f"{lost}.png")
    resumed = processes.trainer(config, tmp_path / "run")
    resumed.resume()
    resumed.train()
    assert processes.losses(tmp_path / "run") == processes.losses(tmp_path / "undisturbed")


@pytest.mark.slow
def test_both_of_two_processes_stop(tiny_init, tmp_path):
    config = processes.config(tiny_init, optimizer={"stop_norm": 0.01})
    assert processes.run(processes.train, config, tmp_path, world_size=2) == [3, 3]
    assert steps_of(tmp_path) == ["step-0000000"]


@pytest.mark.slow
def test_more_processes_than_samples_of_a_batch(tiny_init, tmp_path):
    config = processes.config(tiny_init, data={"video_batch_size": 1})
    assert processes.run(processes.train, config, tmp_path, world_size=2) == [3, 3]
    assert "a batch of 1 does not reach 2 processes" in (tmp_path / "errors.txt").read_text()


def test_a_folder_holds_one_run(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 1})
    exported = run_stages([config], tmp_path, resume=False)
    assert (exported / "model_index.json").is_file()
    with pytest.raises(UserError, match="holds a run already; pass `resume`"):
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


@pytest.mark.slow
def test_what_fails_in_the_first_process_alone_stops_all_and_saves(tiny_init, tmp_path):
    config = processes.config(tiny_init)
    assert processes.run(fill_the_log_s_disk, config, tmp_path, world_size=2) == [3, 3]
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


@pytest.mark.slow
def test_what_nobody_foresaw_in_one_process_stops_all_and_saves(tiny_init, tmp_path):
    config = processes.config(tiny_init)
    assert processes.run(lose_a_worker, config, tmp_path, world_size=2) == [3, 3]
    assert (tmp_path / "errors.txt").read_text().count("process 1 cannot go on: RuntimeError: DataLoader worker") == 2
    assert steps_of(tmp_path) == ["step-0000000"]


def test_a_text_encoder_that_trains_gets_its_prompts(tmp_path):
    """A sample has nothing for text then."""
    nano = str(PRESETS["nano"].weights)
    one = processes.trainer(processes.config(nano, model={"train_text_encoder": True}), tmp_path)
    batch = next(iter(one.loader))
    micro = next(one.micro_batches.of_step([batch], 0))
    assert micro.batch.text is None
    assert one.forward_backward(micro).loss.isfinite().all()


def test_what_may_change_on_the_way(tiny_init, tmp_path):
    config = processes.config(tiny_init, optimizer={"stop_norm": 0.01})
    with pytest.raises(TrainingStoppedError):
        run_stages([config], tmp_path, resume=False)
    for other in ({"image_batch_size": 5}, {"shuffle_keeps_last_frame": False}):
        with pytest.raises(UserError, match="is of another config"):
            run_stages([processes.config(tiny_init, data=other)], tmp_path, resume=True)
    gentler = processes.config(tiny_init, optimizer={"learning_rate": 1e-4}, loop={"num_steps": 1})
    assert run_stages([gentler], tmp_path, resume=True).is_dir()


def test_a_run_of_an_earlier_version_resumes(tiny_init, tmp_path, monkeypatch, caplog):
    """Its config.json lacks the settings that there were not; tube shuffle stays what it was, whatever is given now."""
    rules = []

    class Watched(Trainer):
        def __init__(self, config, *arguments):
            super().__init__(config, *arguments)
            rules.append((config.data.shuffle_keeps_last_frame, self.loader.config.shuffle_keeps_last_frame))

    monkeypatch.setattr("sama_video.training.stages.Trainer", Watched)
    run_stages([processes.config(tiny_init, loop={"num_steps": 1})], tmp_path, resume=False)
    file = tmp_path / "tiny" / "config.json"
    saved = json.loads(file.read_text())
    for dataset in saved["data"]["datasets"]:
        del dataset["columns"], dataset["engine"]["vocabulary"]
    del saved["data"]["shuffle_keeps_last_frame"], saved["data"]["echo"], saved["objective"]["semantic_grid"]
    file.write_text(json.dumps(saved))
    caplog.set_level("INFO", "sama_video")
    for num_steps, given in ((2, {}), (3, {"shuffle_keeps_last_frame": True})):
        shutil.rmtree(tmp_path / "tiny" / "export")
        config = processes.config(tiny_init, loop={"num_steps": num_steps}, data=given)
        assert run_stages([config], tmp_path, resume=True).is_dir()
    assert rules == [(True, True), (False, False), (False, False)]
    assert caplog.text.count("data.shuffle_keeps_last_frame=false, as the run began") == 2


def train_and_signal_the_job(config, out, name="TERM"):
    """As a scheduler ends a job, or a terminal's Ctrl-C a command: a signal to the run and its loader's workers, here
    in the middle of the second step."""
    os.setpgid(0, 0)
    forward_backward = Trainer.forward_backward

    def signal_once(trainer, micro):
        if trainer.step == 1:
            # By another process: what the run itself sends its workers is meant.
            subprocess.run(["kill", f"-{name}", "--", f"-{os.getpgid(0)}"], check=False)
        return forward_backward(trainer, micro)

    Trainer.forward_backward = signal_once
    processes.train(config, out)


@pytest.mark.slow
def test_signals_save_and_resuming_ends_as_an_undisturbed_run(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 4}, data={"num_workers": 2})
    assert processes.run(processes.train, config, tmp_path / "undisturbed") == [0]
    for name, told, code in (("TERM", "stopped by SIGTERM", 3), ("INT", "stopped by Ctrl-C", 130)):
        out = tmp_path / name
        assert processes.run(train_and_signal_the_job, config, out, name) == [code]
        assert (out / "errors.txt").read_text() == f"{told}; step 2 is saved, `resume` continues from there\n"
        assert steps_of(out)[-1] == "step-0000002"
        assert processes.run(processes.train, config, out) == [0]
        assert processes.losses(out) == processes.losses(tmp_path / "undisturbed")


def interrupt_on(monkeypatch, kind, name):
    """Ctrl-C when a method is called."""
    method = getattr(kind, name)

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return method(*arguments, **options)

    monkeypatch.setattr(kind, name, interrupted)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ((Encoder, "__init__"), "no step had been made yet, so there is nothing to save"),
        ((Trainer, "export"), "step 1 of tiny is saved, `resume` continues there"),
        ((Validation, "sample"), "step 1 is saved, `resume` continues from there"),
    ],
    ids=["loading", "exporting", "validating"],
)
def test_ctrl_c_outside_of_a_step(tiny_init, tmp_path, monkeypatch, place, told):
    tried = ValidationConfig(size=(64, 64), num_frames=1, num_inference_steps=1, families=("local_add",))
    config = processes.config(tiny_init, loop={"num_steps": 1, "validate_every": 1}, data={"validation": tried})
    with monkeypatch.context() as patched:
        interrupt_on(patched, *place)
        with pytest.raises(TrainingStoppedError, match=rf"^stopped by Ctrl-C; {told}$") as stopped:
            run_stages([config], tmp_path, resume=False)
    assert stopped.value.exit_code == 130
    assert not list(tmp_path.rglob("*.part*"))
    assert run_stages([config], tmp_path, resume=True).is_dir()
    assert [record["step"] for record in processes.records(tmp_path / "tiny")] == [1, 1]  # the step, its validation


def test_a_second_ctrl_c_does_not_wait(tiny_init, tmp_path, monkeypatch):
    monkeypatch.setattr("sama_video.training.interrupts.SECOND_AFTER", 0.0)
    config = processes.config(tiny_init, loop={"num_steps": 2})
    forward_backward = Trainer.forward_backward

    def interrupt_twice(trainer, micro):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        return forward_backward(trainer, micro)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "forward_backward", interrupt_twice)
        with pytest.raises(TrainingStoppedError, match="stopped by Ctrl-C a second time") as stopped:
            run_stages([config], tmp_path, resume=False)
    assert stopped.value.exit_code == 130
    assert run_stages([config], tmp_path, resume=True).is_dir()


def hold(config, out, held, let_go):
    forward_backward = Trainer.forward_backward

    def wait(trainer, micro):
        held.set()
        let_go.wait(600)
        return forward_backward(trainer, micro)

    Trainer.forward_backward = wait
    run_stages([config], out, resume=False)


def test_one_folder_has_one_trainer(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 1})
    held, let_go = processes.SERVER.Event(), processes.SERVER.Event()
    (other,) = processes.start(hold, config, tmp_path, held, let_go)
    assert held.wait(600)
    for resume in (True, False):
        with pytest.raises(UserError, match=rf"is training in .*tiny \(process {other.pid} on|holds a run already"):
            run_stages([config], tmp_path, resume=resume)
    let_go.set()
    other.join(600)
    assert other.exitcode == 0
    assert run_stages([config], tmp_path, resume=True).is_dir()


def test_the_lock_of_a_killed_trainer_is_free(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 1})
    held, let_go = processes.SERVER.Event(), processes.SERVER.Event()
    (other,) = processes.start(hold, config, tmp_path, held, let_go)
    assert held.wait(600)
    other.kill()
    other.join()
    assert run_stages([config], tmp_path, resume=True).is_dir()


def test_a_failed_start_leaves_no_folder(tiny_init, tmp_path):
    for config, message in (
        (processes.config(tmp_path / "missing"), "missing"),
        (processes.config(tiny_init, data={"frame_counts": (9,)}), "data.frame_counts begins at 9; add 1"),
        (processes.config(tiny_init, loop={"validate_every": 1}), "must divide by"),
    ):
        if "divide" in message:
            config = replace(config, data=replace(config.data, validation=ValidationConfig(size=(60, 64))))
        with pytest.raises(UserError, match=message):
            run_stages([config], tmp_path / "new" / "run", resume=False)
        assert not (tmp_path / "new").exists()


def test_what_began_in_one_precision_keeps_it(tiny_init, tmp_path, monkeypatch):
    """A run that began where bfloat16 is fast, resumed where it is not."""
    config = processes.config(tiny_init, loop={"num_steps": 1, "precision": "auto"})
    monkeypatch.setattr("sama_video.training.parallel.choose_precision", lambda _: "bfloat16")
    run_stages([config], tmp_path, resume=False)
    monkeypatch.setattr("sama_video.training.parallel.choose_precision", lambda _: "float32")
    longer = processes.config(tiny_init, loop={"num_steps": 2, "precision": "auto"})
    shutil.rmtree(tmp_path / "tiny" / "export")
    run_stages([longer], tmp_path, resume=True)
    folder = tmp_path / "tiny"
    assert json.loads((folder / "config.json").read_text())["loop"]["precision"] == "auto"
    assert json.loads((folder / "provenance.json").read_text())["precision"] == "bfloat16"
    starts = [json.loads(line)["precision"] for line in (folder / "environment.jsonl").read_text().splitlines()]
    assert starts == ["bfloat16", "bfloat16"]


@pytest.mark.slow
def test_two_processes_agree_on_a_precision(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 1, "precision": "auto"})
    assert processes.run(disagree_and_train, config, tmp_path, world_size=2) == [0, 0]
    assert {(tmp_path / f"{rank}.txt").read_text() for rank in range(2)} == {"bfloat16"}


def disagree_and_train(config, out):
    rank = int(os.environ["RANK"])
    parallel.choose_precision = lambda _: ("bfloat16", "float32")[rank]
    one = processes.trainer(config, out)
    (out / f"{rank}.txt").write_text(one.precision)


def fail_with_a_full_disk(monkeypatch, kind, name, when=lambda *_: True):
    method = getattr(kind, name)

    def full(*arguments, **options):
        if when(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
        return method(*arguments, **options)

    monkeypatch.setattr(kind, name, full)


@pytest.mark.parametrize(
    ("kind", "name", "when"),
    [
        (builtins, "open", lambda path, *_: str(path).endswith("environment.jsonl")),
        (Path, "write_text", lambda path, *_: "provenance" in path.name),
        (Path, "write_text", lambda path, *_: path.name == "metrics.json"),
        (SamaPipeline, "save_pretrained", lambda *_: True),
    ],
    ids=["environment", "provenance", "validation", "export"],
)
def test_a_full_disk_is_one_sentence_and_resuming_loses_nothing(tiny_init, tmp_path, monkeypatch, kind, name, when):
    tried = ValidationConfig(size=(64, 64), num_frames=1, num_inference_steps=1, families=("local_add",))
    config = processes.config(tiny_init, loop={"num_steps": 2, "validate_every": 2}, data={"validation": tried})
    undisturbed = run_stages([config], tmp_path / "undisturbed", resume=False)
    with monkeypatch.context() as patched:
        fail_with_a_full_disk(patched, kind, name, when)
        with pytest.raises(UserError, match=r"disk is full|No space left"):
            run_stages([config], tmp_path / "run", resume=False)
    exported = run_stages([config], tmp_path / "run", resume=True)
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]
    steps = [[r["loss"] for r in processes.records(out.parent) if "loss" in r] for out in (exported, undisturbed)]
    assert steps[0] == steps[1]
    tried = [[r for r in processes.records(out.parent) if "validation" in r] for out in (exported, undisturbed)]
    assert tried[0] == tried[1]
    file = Path("transformer") / "diffusion_pytorch_model.safetensors"
    tensors = [load_file(out / file) for out in (exported, undisturbed)]
    torch.testing.assert_close(*tensors, atol=0.0, rtol=0)


def test_who_waits_for_the_end_gets_the_validation_on_resuming(tiny_init, tmp_path, monkeypatch):
    tried = ValidationConfig(size=(64, 64), num_frames=1, num_inference_steps=1, families=("local_add",))
    config = processes.config(tiny_init, loop={"num_steps": 2, "validate_every": 1}, data={"validation": tried})
    undisturbed = run_stages([config], tmp_path / "undisturbed", resume=False).parent
    with monkeypatch.context() as patched:
        interrupt_on(patched, Trainer, "forward_backward")
        patched.setattr(Validation, "sample", None)  # nobody waits for it
        with pytest.raises(TrainingStoppedError, match="step 1 is saved"):
            run_stages([config], tmp_path / "run", resume=False)
    run = run_stages([config], tmp_path / "run", resume=True).parent
    found, expected = ([r for r in processes.records(out) if "validation" in r] for out in (run, undisturbed))
    assert found == expected
    assert len(found) == 2
