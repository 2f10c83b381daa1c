"""Tiny runs in processes of their own, which can be killed, and in several processes that train together.

Processes are forked from a server that has imported everything already: they start at once and inherit no threads.
"""

import json
import multiprocessing
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import torch

from sama_video.system.errors import UserError
from sama_video.training.config import (
    DataConfig,
    DatasetConfig,
    EngineConfig,
    LoopConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)
from sama_video.training.parallel import Parallel
from sama_video.training.trainer import Trainer, TrainingStoppedError
from tests.commands import FORKSERVER as SERVER

IMAGES = DatasetConfig(name="images", engine=EngineConfig(num_samples=24, shapes=((1, 64, 64),)))
CLIPS = DatasetConfig(name="clips", engine=EngineConfig(num_samples=12, shapes=((5, 64, 64),), text_to_video=True))

# Two processes share batches of three images and of two clips, so their shares differ.
TINY = TrainConfig(
    name="tiny",
    model=ModelConfig(init=""),
    data=DataConfig(
        datasets=(IMAGES, CLIPS),
        area=64 * 64,
        frame_counts=(1, 5),
        image_batch_size=3,
        video_batch_size=2,
        num_workers=0,
    ),
    objective=ObjectiveConfig(text_dropout=0.2),
    optimizer=OptimizerConfig(learning_rate=1e-3, final_learning_rate=1e-3, warmup_steps=2),
    loop=LoopConfig(num_steps=6, precision="float32", gradient_checkpointing=False, validate_every=0),
)


def config(init: Path, **changes: dict) -> TrainConfig:
    """The tiny run from `init`; changes of its parts by name, `loop={"num_steps": 3}`."""
    changes["model"] = {"init": str(init)} | changes.get("model", {})
    return replace(TINY, **{name: replace(getattr(TINY, name), **values) for name, values in changes.items()})


def trainer(run: TrainConfig, out: Path) -> Trainer:
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(run, out, Parallel.start(run.parallel))


def train(run: TrainConfig, out: Path) -> None:
    """From the newest checkpoint if there is one, to the end; what stops it lies in errors.txt."""
    try:
        one = trainer(run, out)
        one.resume()
        one.train()
        one.export(out / "export")
    except (UserError, TrainingStoppedError) as error:
        with open(out / "errors.txt", "a") as stream:
            stream.write(f"{error}\n")
        sys.exit(getattr(error, "exit_code", 3))


def start(function, *arguments, world_size: int = 1) -> list:
    """`function(*arguments)` in new processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world_size):
        place = {"RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        process = SERVER.Process(target=_run, args=(place, function, arguments))
        process.start()
        processes.append(process)
    return processes


def run(function, *arguments, world_size: int = 1, timeout: float = 600) -> list[int]:
    """Start and wait. Returns the exit codes; who still runs after `timeout` seconds is killed (-9)."""
    processes = start(function, *arguments, world_size=world_size)
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _run(place, function, arguments) -> None:
    os.environ |= {name: str(value) for name, value in place.items()}
    multiprocessing.set_start_method(None, force=True)  # a loader's workers are this process's own, as in a plain run
    torch.set_num_threads(1)
    function(*arguments)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    """Of every step, in order; fails if a step is missing or there twice."""
    steps = [record["step"] for record in records(out)]
    assert steps == list(range(1, len(steps) + 1))
    return [record["loss"] for record in records(out)]
