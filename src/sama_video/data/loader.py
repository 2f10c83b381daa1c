"""Batches of one bucket, in a fixed order, from any point of any epoch, on any number of ranks and workers.

torchdata's `StatefulDataLoader` is not used: its state cannot be loaded with another number of workers (0.11 fails on
an assertion). Here a batch is decided by its number in the epoch's schedule alone, so (epoch, batches done) is all the
state there is, and PyTorch's own loader fetches ahead.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice, tee
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset

from ..system.errors import UserError
from ..system.workers import end_with_parent
from .cache import LatentCache
from .datasets import ManifestDataset
from .epoch import (
    BatchConfig,
    DatasetTable,
    EpochSchedule,
    ScheduledBatch,
    ScheduledSample,
    WeightedDataset,
    echoed,
    sample_seed,
    schedule_epoch,
    scheduled_variants,
    tabulate,
)
from .pretext import PROMPTS, disturb, task_prompt
from .samples import Batch, Recipe, Sample, collate


def load_sample(weighted: WeightedDataset, scheduled: ScheduledSample, config: BatchConfig) -> Sample:
    """With its pretext task: the source is disturbed, the target is not (paper section 3.3)."""
    generator = torch.Generator().manual_seed(sample_seed(config, weighted.name, scheduled))
    sample = weighted.dataset.load(scheduled.index, scheduled.size, scheduled.num_frames, generator)
    sample = replace(sample, name=f"{weighted.name}/{sample.name}")
    if (task := scheduled.task) not in PROMPTS:
        return sample
    source = disturb(task, sample.target, generator, keep_last_frame=config.shuffle_keeps_last_frame)
    return replace(sample, source=source, prompt=task_prompt(task, sample.prompt), task=task)


def sample_recipe(weighted: WeightedDataset, scheduled: ScheduledSample, config: BatchConfig) -> Recipe:
    """Of what `load_sample` gives. Raises ValueError for a dataset that does not know its samples beforehand."""
    dataset = weighted.dataset
    if not isinstance(dataset, ManifestDataset):
        raise ValueError(f"only datasets of files can be cached, not {type(dataset).__name__}; write it to files first")
    seed = sample_seed(config, weighted.name, scheduled)
    generator = torch.Generator().manual_seed(seed)
    recipe = dataset.recipe(scheduled.index, scheduled.size, scheduled.num_frames, generator)
    recipe = replace(recipe, name=f"{weighted.name}/{recipe.name}")
    if (task := scheduled.task) not in PROMPTS:
        return recipe
    source = {**recipe.target, "pretext": task, "seed": seed}
    if task == "tube_shuffle":
        source["keep_last_frame"] = config.shuffle_keeps_last_frame
    return replace(recipe, source=source, prompt=task_prompt(task, recipe.prompt), task=task)


def portion_of(batch: ScheduledBatch, rank: int, world_size: int) -> tuple[tuple[ScheduledSample, ...], bool]:
    """Every rank takes each `world_size`-th sample; one that would be left without takes a filler, which is said."""
    samples = batch.samples[rank::world_size]
    return samples or batch.samples[:1], not samples


class BatchLoader:
    """Iterating gives the rest of the current epoch, then moves on to the next; `state_dict` says where it is.

    What counts as done is what was handed out, not what workers fetched ahead. Ranks take disjoint portions of
    every batch and have the same bucket and number of batches, as sharded training needs; the sizes of their portions
    differ by one at most.

    With `config.echo` above 1 a batch is handed out that many times, see `echoed`.

    Args:
        datasets: the mixture.
        config: how samples become batches.
        rank, world_size: this process among those that train together.
        num_workers: processes that fetch ahead; 0 loads in this one.
        prefetch_factor: portions of a batch that each of them holds ready, in shared memory.
        cache: gives encoded batches instead of pixels; it must hold every sample in all its `pretext_variants`.
        encode: of a batch that comes more than once: what is kept of it until its last time.
        tables: of the datasets, where they are known already.
        pin_memory: hand pixels over where a GPU reads them without waiting.

    Raises:
        UserError: for samples that the cache lacks.
        ValueError: for batches with fewer samples than there are ranks, two datasets of one name, or a cache for
            samples that are drawn again in every epoch.
    """

    def __init__(
        self,
        datasets: Sequence[WeightedDataset],
        config: BatchConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int = 1,
        cache: LatentCache | None = None,
        encode: Callable[[Batch], Batch] | None = None,
        tables: Sequence[DatasetTable] | None = None,
        pin_memory: bool = False,
    ):
        if min(config.image_batch_size, config.video_batch_size) < world_size:
            raise ValueError(
                f"batches of {config.image_batch_size} images and {config.video_batch_size} videos do not reach "
                f"{world_size} ranks; sizes count all ranks together, so use at least {world_size}"
            )
        if len({weighted.name for weighted in datasets}) < len(datasets):
            raise ValueError(f"datasets of a mixture need names of their own, got {[d.name for d in datasets]}")
        if cache is not None and config.pretext_variants is None:
            raise ValueError("a cache needs a number of pretext_variants: it cannot hold new ones in every epoch")
        self.datasets, self.config = datasets, config
        self.rank, self.world_size, self.cache = rank, world_size, cache
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.encode = encode if config.echo > 1 else None
        self.pin_memory = pin_memory and cache is None
        self.tables = [tabulate(weighted) for weighted in datasets] if tables is None else tables
        self.epoch = self.batches_done = 0
        if cache is not None:
            self._check_cache(cache)

    def _check_cache(self, cache: LatentCache) -> None:
        """Raises UserError unless it holds this rank's part of all samples."""
        lacking, older = [], False
        for one in scheduled_variants(self.tables, self.config, self.rank, self.world_size):
            recipe = sample_recipe(self.datasets[one.dataset], one, self.config)
            lacking.append(bool(cache.missing(recipe)))
            older = older or (lacking[-1] and cache.holds_older(recipe))
        if any(lacking):
            reason = ", since an earlier version of sama filled it, whose entries are not read any more"
            raise UserError(
                f"the cache {cache.store.folder} lacks {sum(lacking)} of {len(lacking)} samples looked at"
                f"{reason if older else ''}; fill it by 'sama data cache' with the same recipe and --set values"
            )

    def schedule(self) -> EpochSchedule:
        """Of the current epoch."""
        return schedule_epoch(self.tables, self.config, self.epoch)

    def __iter__(self) -> Iterator[Batch]:
        schedule = self.schedule()
        order, ahead = tee(islice(echoed(len(schedule), self.config.echo), self.batches_done, None))
        # Batches end in the order in which they began, so the oldest that is to come is the next to end.
        oldest = next((number for number, is_last in ahead if is_last), len(schedule))
        del ahead  # `tee` keeps what it has not given to both
        fetched = self._fetch(schedule, oldest)
        held: dict[int, Batch] = {}
        for number, is_last in order:
            while number not in held:  # after resuming, first those that come again
                held.update([next(fetched)])
            batch = held.pop(number) if is_last else held[number]
            self.batches_done += 1
            yield batch
        self.epoch, self.batches_done = self.epoch + 1, 0

    def _fetch(self, schedule: EpochSchedule, first: int) -> Iterator[tuple[int, Batch]]:
        """The epoch's batches from number `first` on, each once."""
        numbers = range(first, len(schedule))
        batches = DataLoader(
            _EpochBatches(self, schedule),
            batch_size=None,
            sampler=numbers,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            worker_init_fn=_leave_signals_to_the_run,
        )
        for number, batch in zip(numbers, batches, strict=True):
            if isinstance(batch, UserError):
                raise batch
            yield number, batch if self.encode is None else self.encode(batch)

    def state_dict(self) -> dict[str, int | str]:
        """Where the run is, as JSON values."""
        return {"epoch": self.epoch, "batches_done": self.batches_done, "mixture": self._fingerprint()}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Continue from there; ranks and workers may be others.

        Raises:
            UserError: if datasets, weights, batch sizes or seed are not those of the state.
        """
        if state["mixture"] != self._fingerprint():
            raise UserError(
                "the checkpoint was made with other data, weights, buckets, batch sizes or seed, so its place in the "
                "epoch means nothing here; restore them, or start another run"
            )
        self.epoch, self.batches_done = int(state["epoch"]), int(state["batches_done"])

    def _fingerprint(self) -> str:
        """sha256 of all that decides a schedule."""
        deciding = asdict(self.config)
        # States of before these were settings still fit: one is of pixels alone, the other changes nothing at 1.
        del deciding["shuffle_keeps_last_frame"]
        if self.config.echo == 1:
            del deciding["echo"]
        digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
        for table in self.tables:
            digest.update(f"{table.name} {table.weight!r}".encode())
            for column in (table.num_frames, table.height, table.width, table.has_source):
                digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()


class _EpochBatches(Dataset):
    """A rank's batches of one epoch by number."""

    def __init__(self, loader: BatchLoader, schedule: EpochSchedule):
        self.loader, self.schedule = loader, schedule

    def __getitem__(self, number: int) -> Batch | UserError:
        scheduled = self.schedule[number]
        portion, is_filler = portion_of(scheduled, self.loader.rank, self.loader.world_size)
        try:
            samples = [self._load(one) for one in portion]
        except UserError as error:
            # Handed over as a value: what a worker raises arrives with its whole traceback for a message.
            return error
        return collate(samples, bucket=scheduled.bucket, num_global=len(scheduled.samples), is_filler=is_filler)

    def _load(self, scheduled: ScheduledSample) -> Sample:
        weighted, config, cache = self.loader.datasets[scheduled.dataset], self.loader.config, self.loader.cache
        if cache is None:
            return load_sample(weighted, scheduled, config)
        return cache.read(sample_recipe(weighted, scheduled, config))


def _leave_signals_to_the_run(_: int) -> None:
    """In a worker: a scheduler signals every process of a job, a terminal's Ctrl-C every one of a command, but the run
    needs its batches until it has saved."""
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before other threads, which inherit it
        threading.Thread(target=_end_if_the_run_asks, daemon=True).start()
    # NumPy's own threads would spin on small products in every worker, and starve the training they work for.
    threadpool_limits(1)
    # torch's workers look whether another process has become their parent; under a fork server none ever does.
    end_with_parent()


def _end_if_the_run_asks() -> None:
    """The run itself ends a worker that is stuck by SIGTERM."""
    run = multiprocessing.parent_process()
    while run is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != run.pid:
        pass
    os._exit(0)


def _as_it_is(batch: Any) -> Any:
    return batch
