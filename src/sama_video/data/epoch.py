"""What an epoch holds, batch by batch, decided before any pixel is read.

A plan is a pure function of (what the datasets hold, config, epoch). It knows nothing of ranks and workers, so a run
can go on from the middle of an epoch on other machines with another number of either.

A batch has ONE shape: its samples share (height, width, frames of the target, frames of the source), the last decided
by a pretext task that is drawn here. Every sample of the epoch is in exactly one batch; what is left over in a bucket
makes a smaller batch.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..system.errors import UserError
from .buckets import Buckets
from .datasets import EDIT, TrainingDataset
from .pretext import TEXT_TO_VIDEO, possible_tasks, sample_tasks, source_num_frames

# The streams of randomness of one seed.
TASKS, ROTATION, ORDER = range(3)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How samples become batches.

    Args:
        buckets: sizes and lengths.
        image_batch_size, video_batch_size: samples of a batch of images (one frame) and of videos, over ALL ranks.
        seed: of order, tasks and crops.
        pretext_variants: how many versions of each sample there are, epochs taking them in turn: what is random in a
            sample (its temporal crop, its pretext task) can then be cached. None draws anew in every epoch.
        pretext: whether clips without a source get pretext tasks; without them all are plain text-to-video.
    """

    buckets: Buckets = field(default_factory=Buckets)
    image_batch_size: int = 448
    video_batch_size: int = 112
    seed: int = 0
    pretext_variants: int | None = None
    pretext: bool = True

    def __post_init__(self) -> None:
        for name in ("image_batch_size", "video_batch_size", "pretext_variants"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class WeightedDataset:
    """A dataset of a mixture.

    Args:
        name: of its own in the mixture; part of every random draw, so datasets may come and go.
        weight: how often an epoch holds each sample. Of a fraction the epoch holds a share that rotates: weight 0.25
            shows a quarter of the dataset per epoch, and all of it in any four epochs in a row.
    """

    name: str
    dataset: TrainingDataset
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"the weight of {self.name} must be above 0, got {self.weight}; leave the dataset out")


@dataclass(frozen=True, kw_only=True)
class DatasetTable:
    """What a plan needs to know of a dataset: arrays `[n]` over its samples."""

    name: str
    weight: float
    num_frames: np.ndarray
    height: np.ndarray
    width: np.ndarray
    has_source: np.ndarray


COLUMNS = {"num_frames": np.int32, "height": np.int32, "width": np.int32, "has_source": np.bool_}


def tabulate(weighted: WeightedDataset, share: int = 0, of: int = 1) -> DatasetTable:
    """A table of every `of`-th sample from `share` on. Raises UserError for an empty dataset."""
    if not len(weighted.dataset):
        raise UserError(f"the dataset {weighted.name} is empty; leave it out or fill it")
    clips = [weighted.dataset.metadata(index) for index in range(share, len(weighted.dataset), of)]
    columns = {name: np.array([getattr(clip, name) for clip in clips], dtype) for name, dtype in COLUMNS.items()}
    return DatasetTable(name=weighted.name, weight=weighted.weight, **columns)


def join_shares(shares: Sequence[DatasetTable]) -> DatasetTable:
    """The whole table from all of its shares, in their order."""
    columns = {}
    for name, dtype in COLUMNS.items():
        columns[name] = np.empty(sum(len(share.num_frames) for share in shares), dtype)
        for number, share in enumerate(shares):
            columns[name][number :: len(shares)] = getattr(share, name)
    return replace(shares[0], **columns)


@dataclass(frozen=True, kw_only=True)
class BatchKey:
    """The shape that a batch shares; `source_frames` is None without a source."""

    height: int
    width: int
    num_frames: int
    source_frames: int | None


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """Everything that decides a sample.

    Args:
        dataset: its number in the mixture.
        index: in the dataset.
        draw: number of the random draw; with the seed, the dataset's name and the index it decides all randomness.
        task: "edit", "text_to_video" or a pretext task.
    """

    dataset: int
    index: int
    draw: int
    task: str
    size: tuple[int, int]
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    key: BatchKey
    samples: tuple[PlannedSample, ...]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Samples with their places: arrays `[n]`."""

    dataset: np.ndarray
    index: np.ndarray
    draw: np.ndarray
    task: np.ndarray
    height: np.ndarray
    width: np.ndarray
    num_frames: np.ndarray
    source_frames: np.ndarray  # 0 without a source

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, row: int) -> PlannedSample:
        return PlannedSample(
            dataset=int(self.dataset[row]),
            index=int(self.index[row]),
            draw=int(self.draw[row]),
            task=self.task[row],
            size=(int(self.height[row]), int(self.width[row])),
            num_frames=int(self.num_frames[row]),
        )

    def key(self, row: int) -> BatchKey:
        return BatchKey(
            height=int(self.height[row]),
            width=int(self.width[row]),
            num_frames=int(self.num_frames[row]),
            source_frames=int(self.source_frames[row]) or None,
        )


class EpochPlan(Sequence[PlannedBatch]):
    """The batches of one epoch, made on demand from arrays: millions of samples take little memory."""

    def __init__(self, assignment: Assignment, order: np.ndarray, bounds: np.ndarray):
        self.assignment, self.order, self.bounds = assignment, order, bounds

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, number: int) -> PlannedBatch:  # pyright: ignore[reportIncompatibleMethodOverride] (no slices)
        start, stop = self.bounds[number]
        rows = self.order[start:stop]
        return PlannedBatch(
            key=self.assignment.key(rows[0]), samples=tuple(self.assignment.sample(row) for row in rows)
        )


def plan_epoch(tables: Sequence[DatasetTable], config: BatchConfig, epoch: int) -> EpochPlan:
    """All batches of an epoch, in their order.

    Raises:
        UserError: for a clip shorter than every bucket.
    """
    # 1. Which samples, and the place of each
    parts = [
        assign(table, config, number, indices, draw)
        for number, table in enumerate(tables)
        for indices, draw in epoch_draws(table, config, epoch)
    ]
    assignment = Assignment(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    )

    # 2. Shuffle, then gather what shares a shape
    generator = np.random.default_rng((config.seed, ORDER, epoch))
    order = generator.permutation(len(assignment))
    shapes = (assignment.height, assignment.width, assignment.num_frames, assignment.source_frames)
    groups = np.ravel_multi_index(shapes, [column.max(initial=0) + 1 for column in shapes])
    order = order[np.argsort(groups[order], kind="stable")]

    # 3. Cut into batches, and shuffle those
    bounds = _cut(groups[order], np.where(assignment.num_frames[order] == 1, *_batch_sizes(config)))
    return EpochPlan(assignment, order, generator.permutation(bounds))


def _batch_sizes(config: BatchConfig) -> tuple[int, int]:
    return config.image_batch_size, config.video_batch_size


def _cut(groups: np.ndarray, batch_sizes: np.ndarray) -> np.ndarray:
    """(start, stop) `[b, 2]` of batches within runs of equal group; the last of a run may be smaller."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    stops = np.append(starts, len(groups))[1:]
    pieces = [np.empty((0, 2), dtype=np.int64)]  # an epoch may hold nothing of a small dataset
    for start, stop in zip(starts, stops, strict=True):
        cuts = np.append(np.arange(start, stop, batch_sizes[start]), stop)
        pieces.append(np.stack([cuts[:-1], cuts[1:]], axis=1))
    return np.concatenate(pieces)


def epoch_draws(table: DatasetTable, config: BatchConfig, epoch: int) -> list[tuple[np.ndarray, int]]:
    """(indices, number of the draw) for every pass over a dataset, or part of it, in an epoch."""
    size = len(table.num_frames)
    whole, share = math.floor(table.weight), table.weight - math.floor(table.weight)
    passes = [np.arange(size) for _ in range(whole)]
    if share:
        # One fixed permutation for all epochs; each takes up where the one before stopped.
        rotation = np.random.default_rng((config.seed, ROTATION, _number(table.name))).permutation(size)
        start, stop = math.floor(epoch * share * size), math.floor((epoch + 1) * share * size)
        passes.append(rotation[np.arange(start, stop) % size])
    draws = [epoch * math.ceil(table.weight) + number for number in range(len(passes))]
    return list(zip(passes, [variant(draw, config) for draw in draws], strict=True))


def variant(draw: int, config: BatchConfig) -> int:
    return draw if config.pretext_variants is None else draw % config.pretext_variants


def planned_variants(
    tables: Sequence[DatasetTable], config: BatchConfig, share: int = 0, of: int = 1
) -> Iterator[PlannedSample]:
    """Every sample in all of its `pretext_variants`; of each pass over a dataset every `of`-th from `share` on."""
    for number, table in enumerate(tables):
        for draw in range(config.pretext_variants or 0):
            assignment = assign(table, config, number, np.arange(len(table.num_frames)), draw)
            yield from map(assignment.sample, range(share, len(assignment), of))


def assign(table: DatasetTable, config: BatchConfig, number: int, indices: np.ndarray, draw: int) -> Assignment:
    """Buckets and tasks of the samples `indices` of dataset `number` in one draw.

    Raises:
        UserError: for a clip shorter than every bucket.
    """
    num_frames = config.buckets.longest_count(table.num_frames[indices])
    if not num_frames.all():
        short = indices[num_frames == 0][0]
        raise UserError(
            f"sample {short} of {table.name} has {table.num_frames[short]} frames, fewer than the shortest bucket "
            f"({config.buckets.frame_counts[0]}); add a shorter one to frame_counts or leave the clip out"
        )
    sizes = np.array(config.buckets.sizes)[config.buckets.nearest_size(table.height[indices], table.width[indices])]
    # Drawn for the whole dataset, so that a sample's task depends on nothing but its own index.
    uniform = np.random.default_rng((config.seed, TASKS, _number(table.name), draw)).random(len(table.num_frames))
    task = _tasks(uniform[indices], num_frames, table.has_source[indices], config.pretext)
    return Assignment(
        dataset=np.full(len(indices), number),
        index=indices,
        draw=np.full(len(indices), draw),
        task=task,
        height=sizes[:, 0],
        width=sizes[:, 1],
        num_frames=num_frames,
        source_frames=_source_frames(task, num_frames),
    )


def _tasks(uniform: np.ndarray, num_frames: np.ndarray, has_source: np.ndarray, pretext: bool) -> np.ndarray:
    tasks = np.full(len(uniform), EDIT, dtype=object)  # references to a few words: small for millions of samples
    if not pretext:
        tasks[~has_source] = TEXT_TO_VIDEO
        return tasks
    for count in np.unique(num_frames):
        chosen = ~has_source & (num_frames == count)
        tasks[chosen] = sample_tasks(uniform[chosen], int(count))
    return tasks


def _source_frames(tasks: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
    frames = num_frames.copy()
    for count in np.unique(num_frames):
        for task in possible_tasks(int(count)):
            frames[(num_frames == count) & (tasks == task)] = source_num_frames(task, int(count)) or 0
    return frames


def _number(name: str) -> int:
    """A dataset's name as entropy."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def sample_seed(config: BatchConfig, name: str, planned: PlannedSample) -> int:
    """Seed of a sample's own generator."""
    text = f"{config.seed}/{name}/{planned.draw}/{planned.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
