import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sama_video.data import epoch
from sama_video.system.errors import UserError
from sama_video.system.precision import choose_precision
from sama_video.training.checkpoint import Checkpoints, checkpoints
from sama_video.training.config import ParallelConfig
from sama_video.training.parallel import Parallel
from tests.training import processes, runs

ALONE = Parallel(rank=0, world_size=1, device=torch.device("cpu"), config=ParallelConfig())
OFTEN = {"save_minutes": 0.0, "keep_checkpoints": 2}


def weights(out):
    return load_file(out / "export" / "transformer" / "diffusion_pytorch_model.safetensors")


def assert_same_run(found, expected, tolerance=0.0):
    torch.testing.assert_close(processes.losses(found), processes.losses(expected), atol=tolerance, rtol=0)
    torch.testing.assert_close(weights(found), weights(expected), atol=tolerance, rtol=0)


def num_records(out):
    return len(processes.records(out)) if (out / "metrics.jsonl").exists() else 0


def kill_at_random(running, out, dice):
    """After another step at least, and a part of the next ones."""
    done = num_records(out)
    while num_records(out) <= done and all(process.is_alive() for process in running):
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.15))
    for process in running:  # all before the first is awaited, or the others notice that it is gone and end themselves
        process.kill()
    for process in running:
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before the kill: take more steps"


def die_in_a_save(config, out, number):
    """SIGKILL when checkpoint `number` of this process is written and not renamed yet."""
    replace, calls = os.replace, []

    def replace_or_die(source, target):
        calls.append(target)
        checkpoint_calls = [call for call in calls if "step-" in str(call)]
        if len(checkpoint_calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die
    processes.train(config, out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_init):
    out = tmp_path_factory.mktemp("undisturbed")
    config = processes.config(tiny_init, loop={"num_steps": 6, "save_minutes": 0.0, "keep_checkpoints": 20})
    assert processes.run(processes.train, config, out) == [0]
    return out


def resumed_after_kills(config, out, kills, world_size=1):
    dice = random.Random(0)
    for _ in range(kills):
        kill_at_random(processes.start(processes.train, config, out, world_size=world_size), out, dice)
    assert processes.run(processes.train, config, out, world_size=world_size) == [0] * world_size


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(undisturbed, tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 6, **OFTEN})
    assert processes.run(die_in_a_save, config, tmp_path, 2) == [-signal.SIGKILL]
    assert [path.name for path in checkpoints(tmp_path)] == ["step-0000001"]
    resumed_after_kills(config, tmp_path, kills=2)
    assert_same_run(tmp_path, undisturbed)


def trained_with_a_stop(config, folder, *, after):
    """A run to its end, stopped after so many steps and resumed by another trainer."""
    stopped = processes.trainer(config, folder)
    batches = iter(stopped.loader)
    for _ in range(after):
        stopped.train_step([next(batches)])
    stopped.save()
    stopped.checkpoints.finish()
    resumed = processes.trainer(config, folder)
    assert resumed.resume()
    resumed.train()
    return resumed


def test_a_run_whose_batches_echo_encodes_each_once_and_resumes_as_if_it_had_not_stopped(
    tiny_init, tmp_path, monkeypatch
):
    monkeypatch.setattr(epoch, "ECHO_DISTANCE", 2)
    config = processes.config(tiny_init, loop={"num_steps": 8}, data={"echo": 3, "num_workers": 0})
    whole = processes.trainer(config, tmp_path / "whole")
    encode, encoded = whole.loader.encode, []
    whole.loader.encode = lambda batch: encoded.append(batch.names) or encode(batch)
    whole.train()
    assert len(encoded) == 5, "new, new, new, 0, new, 1, new, 2"

    resumed = trained_with_a_stop(config, tmp_path / "stopped", after=5)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), atol=0, rtol=0)


def test_a_run_with_moments_in_8_bits_resumes_as_if_it_had_not_stopped(tiny_init, tmp_path):
    config = processes.config(tiny_init, optimizer={"kind": "adamw8bit"})
    whole = processes.trainer(config, tmp_path / "whole")
    whole.train()
    assert any(values["state1"].dtype == torch.uint8 for values in whole.optimizer.state().values())

    resumed = trained_with_a_stop(config, tmp_path / "stopped", after=3)
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), atol=0, rtol=0)


def train_with_a_server(config, out):
    """Its workers are forked from a server, which outlives the run as long as one of them does."""
    multiprocessing.set_start_method("forkserver", force=True)
    processes.train(config, out)


@pytest.mark.slow
def test_a_killed_run_takes_its_workers_with_it(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 100, **OFTEN}, data={"num_workers": 2})
    (run,) = processes.start(train_with_a_server, config, tmp_path)
    while num_records(tmp_path) == 0 and run.is_alive():
        time.sleep(0.01)
    helpers = psutil.Process(run.pid).children(recursive=True)
    assert len(helpers) >= 3  # the server and two workers
    run.kill()
    _, left = psutil.wait_procs(helpers, timeout=600)
    assert not left, left


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True], ids=["plain", "everything"])
def test_ten_kills(tmp_path, everything):
    """More steps than ten lives take, each of which ends in its second step or soon after."""
    runs.write_models(tmp_path)
    loop = {"num_steps": 60, "precision": choose_precision("cpu") if everything else "float32", **OFTEN}
    changes = {}
    if everything:
        model = {"semantic_encoder": str(tmp_path / "siglip"), "train_text_encoder": True}
        changes = {"model": model, "data": {"num_workers": 2}, "optimizer": {"kind": "muon"}}
    config = processes.config(tmp_path / "editor", loop=loop, **changes)
    assert processes.run(processes.train, config, tmp_path / "undisturbed") == [0]
    resumed_after_kills(config, tmp_path / "killed", kills=10)
    assert_same_run(tmp_path / "killed", tmp_path / "undisturbed")
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


@pytest.mark.slow
def test_ten_kills_of_two_processes(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 60, **OFTEN})
    assert processes.run(processes.train, config, tmp_path / "undisturbed", world_size=2) == [0, 0]
    resumed_after_kills(config, tmp_path / "killed", kills=10, world_size=2)
    assert_same_run(tmp_path / "killed", tmp_path / "undisturbed", tolerance=1e-5)


def copy_until(out, step, copy):
    """The run as it was when checkpoint `step` was its newest."""
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("export"))
    for path in checkpoints(copy):
        if path.name > f"step-{step:07d}":
            shutil.rmtree(path)
    return copy


@pytest.mark.slow
def test_one_process_goes_on_as_two_and_two_as_one(undisturbed, tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 6, **OFTEN})
    as_two = copy_until(undisturbed, 3, tmp_path / "two")
    assert processes.run(processes.train, config, as_two, world_size=2) == [0, 0]
    assert_same_run(as_two, undisturbed, tolerance=1e-5)
    as_one = copy_until(as_two, 5, tmp_path / "one")
    assert processes.run(processes.train, config, as_one) == [0]
    assert_same_run(as_one, undisturbed, tolerance=1e-5)


def train_on_a_small_disk(config, out):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))  # no file may be longer
    processes.train(config, out)


def test_a_full_disk_leaves_the_checkpoints_before(undisturbed, tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 6, **OFTEN})
    out = copy_until(undisturbed, 4, tmp_path / "run")
    assert processes.run(train_on_a_small_disk, config, out) == [3]
    assert "earlier checkpoints are untouched" in (out / "errors.txt").read_text()
    assert checkpoints(out)[-1].name == "step-0000004"
    assert not list((out / "checkpoints").glob("*.part"))
    assert processes.run(processes.train, config, out) == [0]
    assert_same_run(out, undisturbed)


def state(value=0.0):
    return {"model": {"weight": torch.full((3,), value)}}


def saved(out, *scores, keep=2):
    store = Checkpoints(out, ALONE, keep)
    for step, score in enumerate(scores, start=1):
        store.save(step, state(float(step)), {"step": step}, score)
    store.finish()
    return store


def steps(out):
    return [int(path.name.removeprefix("step-")) for path in checkpoints(out)]


def test_the_newest_and_the_best_are_kept(tmp_path):
    saved(tmp_path / "scored", 0.2, 0.9, 0.5, None, 0.4)
    assert steps(tmp_path / "scored") == [2, 4, 5]
    saved(tmp_path / "unscored", None, None, None, keep=1)
    assert steps(tmp_path / "unscored") == [3]


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    store, training = Checkpoints(tmp_path, ALONE, 2), state(1.0)
    store.save(1, training, {"step": 1})
    training["model"]["weight"].fill_(7.0)  # the next step, while the file is being written
    store.finish()
    found = state()
    assert store.load_newest(found) == {"step": 1, "score": None}
    assert found["model"]["weight"].tolist() == [1.0] * 3


def test_what_was_being_written_does_not_count(tmp_path):
    store = saved(tmp_path, None, None)
    checkpoints(tmp_path)[-1].rename(tmp_path / "checkpoints" / "step-0000002.part")
    assert store.load_newest(state())["step"] == 1
    Checkpoints(tmp_path, ALONE, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000001"]


def test_nothing_to_resume(tmp_path):
    assert Checkpoints(tmp_path, ALONE, 2).load_newest(state()) is None


@pytest.mark.parametrize("other", [{"other": torch.zeros(3)}, {"weight": torch.zeros(4)}])
def test_a_checkpoint_of_another_model(other, tmp_path):
    store = saved(tmp_path, None)
    with pytest.raises(UserError, match="does not fit this run's model"):
        store.load_newest({"model": other})


def test_progress_is_json(tmp_path):
    saved(tmp_path, 0.5)
    assert json.loads((checkpoints(tmp_path)[0] / "progress.json").read_text()) == {"step": 1, "score": 0.5}
