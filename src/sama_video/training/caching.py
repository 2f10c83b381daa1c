"""Filling a run's cache: all its samples in all their variants through its frozen encoders, in several processes."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from ..data.cache import add_sample
from ..data.encoding import Encoder
from ..data.epoch import scheduled_variants, tabulate
from ..data.loader import load_sample, sample_recipe
from ..data.shards import SHARD_BYTES, StoreWriter, TensorStore
from ..pipelines.loading import load_pipeline
from ..pipelines.selection import Loading, find_model
from ..system.errors import UserError
from ..system.files import make_folder
from ..system.precision import Precision
from ..system.workers import SPAWN, Progress, end_with_parent
from .config import TrainConfig
from .mixture import batch_config, build_mixture, cache_precision, encoder_identity, settle_cache_precision
from .preparation import load_semantic_encoder

_SECONDS_TO_END = 30


@dataclass(frozen=True, kw_only=True)
class CacheJob:
    """A run whose cache to fill.

    Args:
        run: its config; `data.cache` names the folder.
        device: of `load_pipeline`.
        workers: processes, this one among them; each holds the encoders.
        shard_bytes: size of a shard.
    """

    run: TrainConfig
    device: str = "auto"
    workers: int = 1
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        if self.run.data.cache is None:
            raise UserError("say where the cache is to be, here and in the training: --set data.cache=FOLDER")
        if self.run.model.init == "previous":
            raise UserError(
                f"{self.run.name} begins with what the stage before will have trained; name a recipe of one stage"
            )
        if self.workers < 1:
            raise UserError(f"`workers` must be at least 1, got {self.workers}")

    @property
    def out(self) -> Path:
        return Path(str(self.run.data.cache))


@dataclass(frozen=True, kw_only=True)
class CacheResult:
    """What `fill_cache` did: samples gone through, entries that are there now, how many of them are new, in which
    precision."""

    num_samples: int
    num_entries: int
    num_new: int
    precision: Precision


def fill_cache(job: CacheJob, progress: Progress = lambda *_: None) -> CacheResult:
    """Encode what a run will read. What is there already is kept: a stopped run continues.

    Args:
        progress: called as (phase, done, of) for this process's portion.

    Raises:
        UserError: for files that cannot be read, datasets that are not made of files, or a model that cannot be loaded.
    """
    device = Loading(model=find_model(job.run.model.init), device=job.device).resolved_device
    make_folder(job.out)
    settle_cache_precision(job.run, device)
    before = len(TensorStore(job.out))
    with _helpers(job):
        num_samples = _encode(job, 0, progress)
    store = TensorStore(job.out)
    store.write_index()
    return CacheResult(
        num_samples=num_samples,
        num_entries=len(store),
        num_new=len(store) - before,
        precision=cache_precision(job.run),
    )


def _encode(job: CacheJob, first: int, progress: Progress) -> int:
    """Each `workers`-th sample from `first` on. Returns the number of all samples."""
    # 1. The encoders, and what distinguishes them
    if job.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.workers))
    identity = encoder_identity(job.run)
    pipe = load_pipeline(job.run.model.init, device=job.device, dtype=cache_precision(job.run))
    semantic = load_semantic_encoder(pipe, job.run.model, job.run.objective)
    encoder = Encoder(pipe, semantic, num_anchors=job.run.objective.num_anchors)

    # 2. What to encode
    config = batch_config(job.run.data, 2 * pipe.vae.config.scale_factor_spatial, job.run.loop.seed)
    datasets = build_mixture(job.run.data, job.out)
    scheduled = list(scheduled_variants([tabulate(weighted) for weighted in datasets], config))

    # 3. Encode what is missing
    own = scheduled[first :: job.workers]
    with StoreWriter(job.out, shard_bytes=job.shard_bytes) as writer:
        for number, one in enumerate(own):
            weighted = datasets[one.dataset]
            recipe = sample_recipe(weighted, one, config)
            add_sample(writer, encoder, identity, recipe, lambda w=weighted, one=one: load_sample(w, one, config))
            progress("encoding", number + 1, len(own))
    return len(scheduled)


@contextlib.contextmanager
def _helpers(job: CacheJob) -> Iterator[None]:
    """The other processes.

    Raises:
        UserError: what one of them met.
    """
    errors = SPAWN.SimpleQueue()
    processes = [SPAWN.Process(target=_help, args=(job, first, errors), daemon=True) for first in range(1, job.workers)]
    for process in processes:
        process.start()
    try:
        yield
    except BaseException:
        # They write what they have encoded, which takes a moment.
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_SECONDS_TO_END)
            process.kill()
        raise
    for process in processes:
        process.join()
    if not errors.empty():
        raise UserError(errors.get())
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise UserError(f"a worker ended with exit code {failed[0]}; run again with fewer `workers`: it continues")


def _help(job: CacheJob, first: int, errors: "SimpleQueue[Any]") -> None:
    end_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _encode(job, first, lambda *_: None)
    except UserError as error:
        errors.put(str(error))
