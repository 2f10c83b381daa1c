import json
import os
import time
from dataclasses import replace

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from sama_video.system.errors import UserError
from sama_video.training.config import DataConfig, DatasetConfig, OptimizerConfig, ParallelConfig
from sama_video.training.ema import Ema
from sama_video.training.losses import flow_matching_step
from sama_video.training.mixture import build_mixture, tabulate_mixture
from sama_video.training.optimizer import Optimizer
from sama_video.training.parallel import Parallel, Trainable, is_first, whole
from sama_video.training.stages import run_stages
from tests import tiny
from tests.clips import write_clip
from tests.training import processes

NUM_SAMPLES = 3
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS")


# Each of these runs in two processes; a failed assertion ends one with a code that is not zero.


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sample_losses(model, indices):
    """Of some of three fixed samples."""
    dice = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(NUM_SAMPLES, *shape, generator=dice)[indices]

    return flow_matching_step(
        model.transformer,
        target=draw(4, 2, 4, 4),
        source=draw(4, 1, 4, 4),
        text=draw(6, 16),
        sigma=draw().sigmoid(),
        noise=draw(4, 2, 4, 4),
        semantic=draw(5, 12),
        semantic_noise=draw(5, 12),
    ).loss


def backward_of_share(model, parallel):
    """Process 0 has samples 0 and 2, process 1 has sample 1 and then a filler: one forward pass for each."""
    for round_ in (0, 1):
        index = parallel.rank + round_ * parallel.world_size
        is_filler = index >= NUM_SAMPLES
        loss = sample_losses(model, [0 if is_filler else index]).sum()
        (parallel.world_size * (0.0 if is_filler else 1 / NUM_SAMPLES) * loss).backward()


def sharded(config, precision="float32"):
    parallel = Parallel.start(config)
    model = Trainable(tiny.transformer(), None)
    parallel.shard(model, precision)
    return model, parallel


def compare_steps_with_one_process(config):
    model, parallel = sharded(config)
    alone = Trainable(tiny.transformer(), None)
    optimizers = [Optimizer(one, OptimizerConfig(max_grad_norm=0.5)) for one in (model, alone)]
    averages = [Ema(one, 0.5) for one in (model, alone)]
    for step in range(2):
        backward_of_share(model, parallel)
        sample_losses(alone, [0, 1, 2]).mean().backward()
        for mine, theirs in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(full(mine.grad), theirs.grad, atol=1e-5, rtol=1e-4)
        norms = [optimizer.step(1e-3) for optimizer in optimizers]
        assert abs(norms[0] / norms[1] - 1) < 1e-5
        assert norms[1] > 0.5  # clipping did something
        for average in averages:
            average.update(step)
    for mine, theirs in zip(averages[0].averages.values(), averages[1].averages.values(), strict=True):
        torch.testing.assert_close(full(mine), theirs, atol=1e-5, rtol=1e-4)
    copy = whole(model.transformer)
    if is_first():
        assert list(copy.state_dict()) == list(alone.transformer.state_dict())
        torch.testing.assert_close(copy.state_dict(), alone.transformer.state_dict(), atol=1e-5, rtol=1e-4)
        assert not isinstance(copy, FSDPModule)


def try_the_average_between_two_steps():
    model, _ = sharded(ParallelConfig())
    ema = Ema(model, 0.5)
    for average in ema.averages.values():
        average.mul_(0.5)
    before = sample_losses(model, [0])
    with ema.applied(), torch.no_grad():
        average = sample_losses(model, [0])
    torch.testing.assert_close(sample_losses(model, [0]), before, atol=0, rtol=0)
    assert (average - before).abs() > 1e-3
    alone = Trainable(tiny.transformer(), None)
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.mul_(0.5)
        torch.testing.assert_close(sample_losses(alone, [0]), average, atol=1e-6, rtol=0)


def use_muon():
    """Its five iterations are in bfloat16 and amplify small singular values, so the two are equal only roughly."""
    model, _ = sharded(ParallelConfig())
    alone = Trainable(tiny.transformer(), None)
    before = [parameter.detach().clone() for parameter in alone.parameters()]
    for one in (model, alone):
        optimizer = Optimizer(one, OptimizerConfig(kind="muon", max_grad_norm=1e9, weight_decay=0.0))
        dice = torch.Generator().manual_seed(0)
        for parameter, other in zip(one.parameters(), alone.parameters(), strict=True):
            gradient = torch.randn(other.shape, generator=dice)
            if parameter is not other:
                gradient = torch.distributed.tensor.distribute_tensor(
                    gradient, parameter.device_mesh, parameter.placements
                )
            parameter.grad = gradient
        optimizer.step(1e-2)
    for mine, theirs, old in zip(model.parameters(), alone.parameters(), before, strict=True):
        change = theirs - old
        assert (full(mine) - theirs).norm() < 0.05 * change.norm()


def gather_blocks_in_bfloat16():
    model, parallel = sharded(ParallelConfig(), "bfloat16")
    seen = {}

    def look(name):
        return lambda module, _: seen.update({name: next(module.parameters()).dtype})

    model.transformer.blocks[0].attn1.register_forward_pre_hook(look("block"))
    model.transformer.condition_embedder.register_forward_pre_hook(look("embedder"))
    with torch.autocast("cpu", torch.bfloat16):
        backward_of_share(model, parallel)
    assert seen == {"block": torch.bfloat16, "embedder": torch.float32}
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    alone = Trainable(tiny.transformer(), None)
    with torch.autocast("cpu", torch.bfloat16):
        sample_losses(alone, [0, 1, 2]).mean().backward()
    mine, theirs = (torch.cat([full(p.grad).flatten() for p in one.parameters()]) for one in (model, alone))
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.99


def fail_in_process_1(out, error):
    parallel = Parallel.start(ParallelConfig())
    try:
        with parallel.agreed():
            if parallel.rank == 1:
                raise error
    except Exception as raised:
        (out / f"{parallel.rank}.txt").write_text(f"{type(raised).__name__}: {raised}")


def hold_different_data(out):
    parallel = Parallel.start(ParallelConfig())
    parallel.same("all alike", "numbers")
    try:
        parallel.same(f"value {parallel.rank}", "numbers")
    except UserError as error:
        (out / f"{parallel.rank}.txt").write_text(str(error))


def tabulate_together(manifest, out):
    """Every process writes what it learned of files itself into a file of its own."""
    parallel = Parallel.start(ParallelConfig())
    config = DataConfig(datasets=(DatasetConfig(name="set", manifest=str(manifest)),))
    tables = tabulate_mixture(build_mixture(config, out / "stage"), parallel)
    assert tables[0].num_frames.tolist() == [5, 6, 7, 8, 9]
    assert not tables[0].has_source.any()


def train_beside(folders, config, out):
    """Every process in a folder of its own, as on machines that do not share their disks."""
    os.chdir(folders[int(os.environ["RANK"])])
    processes.train(config, out)


@pytest.mark.parametrize("shard_size", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one(shard_size):
    """Gradients, their norm, clipped weights and averages, with shares of different sizes; 1 is two whole copies."""
    assert processes.run(compare_steps_with_one_process, ParallelConfig(shard_size=shard_size), world_size=2) == [0, 0]


def test_trying_the_average_leaves_the_weights_alone():
    assert processes.run(try_the_average_between_two_steps, world_size=2) == [0, 0]


@pytest.mark.slow
def test_muon_works_on_shards():
    assert processes.run(use_muon, world_size=2) == [0, 0]


def test_blocks_are_gathered_in_bfloat16_and_averaged_in_float32():
    assert processes.run(gather_blocks_in_bfloat16, world_size=2) == [0, 0]


def words(out, world_size=2):
    return [(out / f"{rank}.txt").read_text() for rank in range(world_size)]


@pytest.mark.parametrize(
    ("error", "there", "elsewhere"),
    [
        (UserError("the disk is gone"), "the disk is gone", "process 1 cannot go on: the disk is gone"),
        (KeyError("x"), "process 1 cannot go on: KeyError: 'x'", "process 1 cannot go on: KeyError: 'x'"),
    ],
)
def test_an_error_in_one_process_reaches_all(error, there, elsewhere, tmp_path):
    assert processes.run(fail_in_process_1, tmp_path, error, world_size=2) == [0, 0]
    assert words(tmp_path) == [f"UserError: {elsewhere}", f"UserError: {there}"]


def test_different_data_are_found_out(tmp_path):
    assert processes.run(hold_different_data, tmp_path, world_size=2) == [0, 0]
    assert len(set(words(tmp_path))) == 1
    assert "numbers of process 1 differ from those of process 0" in words(tmp_path)[0]


def test_every_file_is_opened_by_one_process_once(tmp_path):
    clips = [write_clip(tmp_path / f"{length}.mp4", length) for length in range(5, 10)]
    lines = [f"{clip},a bar moves" for clip in clips]
    (tmp_path / "set.csv").write_text("\n".join(["video,caption", *lines]))
    for _ in ("first", "everything is remembered"):
        arguments = (tmp_path / "set.csv", tmp_path / "run")
        assert processes.run(tabulate_together, *arguments, world_size=2) == [0, 0]
        noted = [file.read_text().splitlines() for file in (tmp_path / "run" / "facts").iterdir()]
        assert sorted(map(len, noted)) == [2, 3]
        assert len({line for lines in noted for line in lines}) == 5


def test_a_dataset_that_one_machine_lacks_stops_all(tiny_init, tmp_path):
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "with" / "a.png")
    (tmp_path / "with" / "set.csv").write_text("src_video,tgt_video,prompt\na.png,a.png,do nothing\n")
    config = processes.config(tiny_init, data={"datasets": (DatasetConfig(name="set", manifest="set.csv"),)})
    folders = (tmp_path / "with", tmp_path / "without")
    assert processes.run(train_beside, folders, config, tmp_path / "run", world_size=2) == [3, 3]
    messages = (tmp_path / "run" / "errors.txt").read_text().splitlines()
    assert len(messages) == 2
    assert all("set.csv" in message for message in messages)
    assert sum(message.startswith("process 1 cannot go on") for message in messages) == 1


def test_a_process_that_dies_takes_the_other_along(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 1000})
    survivor, victim = processes.start(processes.train, config, tmp_path, world_size=2)
    while not (tmp_path / "metrics.jsonl").exists() and victim.is_alive():
        time.sleep(0.01)
    victim.kill()
    survivor.join(300)
    code = survivor.exitcode
    survivor.kill()
    assert code not in (None, 0)


def run_two_stages(config, out):
    second = replace(config.started_from("previous"), name="second")
    run_stages([config, second], out, resume=True)


@pytest.mark.slow
def test_a_stage_starts_from_the_one_before_in_all_processes(tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 1})
    for _ in ("first", "nothing is left to do"):
        assert processes.run(run_two_stages, config, tmp_path, world_size=2) == [0, 0]
        assert (tmp_path / "second" / "export" / "model_index.json").is_file()
    settings = json.loads((tmp_path / "second" / "config.json").read_text())
    assert settings["model"]["init"] == str(tmp_path / "tiny" / "export")


def assert_same_losses(found, expected):
    torch.testing.assert_close(processes.losses(found), processes.losses(expected), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_train_the_text_encoder_too(tiny_init, tmp_path):
    """Its features are made with gradients, for shares of different sizes; blocks are computed twice to save memory."""
    loop = {"num_steps": 3, "gradient_checkpointing": True, "micro_tokens": 40}
    config = processes.config(tiny_init, loop=loop, model={"train_text_encoder": True})
    assert processes.run(processes.train, config, tmp_path / "one") == [0]
    assert processes.run(processes.train, config, tmp_path / "two", world_size=2) == [0, 0]
    assert_same_losses(tmp_path / "two", tmp_path / "one")
    for part in ("transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        folders = (tmp_path / "one" / "export", tmp_path / "two" / "export", tiny_init)
        one, two, init = (load_file(folder / part) for folder in folders)
        torch.testing.assert_close(two, one, atol=1e-5, rtol=0)
        assert any(not torch.equal(two[name], init[name]) for name in two)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"batches_per_step": 2, "micro_tokens": 40}])
def test_two_processes_have_the_losses_of_one_for_twenty_steps(changes, tiny_init, tmp_path):
    config = processes.config(tiny_init, loop={"num_steps": 20, **changes})
    assert processes.run(processes.train, config, tmp_path / "one") == [0]
    assert processes.run(processes.train, config, tmp_path / "two", world_size=2) == [0, 0]
    assert_same_losses(tmp_path / "two", tmp_path / "one")


def started(monkeypatch, config=None, **environment):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Parallel.start(config or ParallelConfig())


def test_alone_nothing_is_set_up(monkeypatch):
    parallel = started(monkeypatch)
    assert (parallel.rank, parallel.world_size, parallel.saving) == (0, 1, None)
    assert parallel.gather("x") == ["x"]
    with pytest.raises(UserError, match="process 0 cannot go on: KeyError: 'x'"), parallel.agreed():
        raise KeyError("x")


def test_slurm_tasks_that_do_not_know_of_each_other(monkeypatch):
    with pytest.raises(UserError, match="start one per node and torchrun in it"):
        started(monkeypatch, SLURM_STEP_NUM_TASKS="4")


def test_copies_must_be_whole(monkeypatch):
    with pytest.raises(UserError, match="does not divide 4 processes"):
        started(monkeypatch, ParallelConfig(shard_size=3), WORLD_SIZE="4", RANK="0")


def compile_with_eager_blocks(config, out):
    """torch.compile without a C++ compiler: the graphs are captured, and run as they are."""
    compiled = torch.nn.Module.compile
    torch.nn.Module.compile = lambda module: compiled(module, backend="eager")
    processes.train(config, out)


@pytest.mark.slow
def test_copies_of_shards_train_save_resume_and_export(tiny_init, tmp_path):
    """Four processes hold two copies of two shards; two processes with one copy go on from them."""
    data = {"image_batch_size": 4, "video_batch_size": 4}

    def config(num_steps, shard_size):
        return processes.config(
            tiny_init, data=data, loop={"num_steps": num_steps}, parallel={"shard_size": shard_size}
        )

    assert processes.run(processes.train, config(6, 0), tmp_path / "one") == [0]
    assert processes.run(processes.train, config(3, 2), tmp_path / "four", world_size=4) == [0] * 4
    (tmp_path / "four" / "export").rename(tmp_path / "first_export")
    assert processes.run(processes.train, config(6, 2), tmp_path / "four", world_size=2) == [0] * 2
    assert_same_losses(tmp_path / "four", tmp_path / "one")
    part = "export/transformer/diffusion_pytorch_model.safetensors"
    torch.testing.assert_close(
        load_file(tmp_path / "four" / part), load_file(tmp_path / "one" / part), atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_compiled_blocks_train_on_shards(tiny_init, tmp_path):
    for name, function, compiles in (("plain", processes.train, False), ("compiled", compile_with_eager_blocks, True)):
        config = processes.config(tiny_init, loop={"num_steps": 3, "compile": compiles})
        assert processes.run(function, config, tmp_path / name, world_size=2) == [0, 0]
    assert_same_losses(tmp_path / "compiled", tmp_path / "plain")
