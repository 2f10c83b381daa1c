"""What an epoch holds, batch by batch, decided before any pixel is read.

A schedule is a pure function of (what the datasets hold, config, epoch). It knows nothing of ranks and workers, so a
run can resume in the middle of an epoch on other machines with another number of either.

A batch has ONE bucket: its samples share (height, width, frames of the target, frames of the source), the last decided
by a pretext task that is drawn here. Every sample of the epoch is in exactly one batch; what is left over in a bucket
makes a smaller batch.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..system.errors import UserError
from .buckets import Bucket, Buckets
from .datasets import EDIT, TrainingDataset
from .pretext import TEXT_TO_VIDEO, possible_tasks, sample_tasks, source_num_frames

ECHO_DISTANCE = 64

# The streams of randomness of one seed.
_TASKS, _ROTATION, _ORDER = range(3)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How samples become batches.

    Args:
        buckets: sizes and lengths.
        image_batch_size, video_batch_size: samples of a batch of images (one frame) and of videos, over ALL ranks.
        seed: of order, tasks and crops.
        pretext_variants: how many versions of each sample there are, epochs taking them in turn: what is random in a
            sample (its temporal crop, its pretext task) can then be cached. With None every epoch draws new ones.
        pretext: whether clips without a source get pretext tasks; without them all are plain text-to-video.
        shuffle_keeps_last_frame: as `keep_last_frame` of `pretext.tube_shuffle`.
        echo: how often a batch comes in its epoch, see `echoed`.
    """

    buckets: Buckets = field(default_factory=Buckets)
    image_batch_size: int = 448
    video_batch_size: int = 112
    seed: int = 0
    pretext_variants: int | None = None
    pretext: bool = True
    shuffle_keeps_last_frame: bool = True
    echo: int = 1

    def __post_init__(self) -> None:
        for name in ("image_batch_size", "video_batch_size", "pretext_variants", "echo"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class WeightedDataset:
    """A dataset of a mixture.

    Args:
        name: of its own in the mixture; part of every random draw, so datasets may come and go.
        weight: how often an epoch holds each sample. Of a fraction the epoch holds a part that rotates: weight 0.25
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
    """What a schedule needs to know of a dataset: arrays `[n]` over its samples."""

    name: str
    weight: float
    num_frames: np.ndarray
    height: np.ndarray
    width: np.ndarray
    has_source: np.ndarray


_COLUMNS = {"num_frames": np.int32, "height": np.int32, "width": np.int32, "has_source": np.bool_}


def tabulate(weighted: WeightedDataset, first: int = 0, of: int = 1) -> DatasetTable:
    """A table of every `of`-th sample from `first` on. Raises UserError for an empty dataset."""
    if not len(weighted.dataset):
        raise UserError(f"the dataset {weighted.name} is empty; leave it out or fill it")
    clips = [weighted.dataset.metadata(index) for index in range(first, len(weighted.dataset), of)]
    columns = {name: np.array([getattr(clip, name) for clip in clips], dtype) for name, dtype in _COLUMNS.items()}
    return DatasetTable(name=weighted.name, weight=weighted.weight, **columns)


def join_tables(portions: Sequence[DatasetTable]) -> DatasetTable:
    """The whole table from those of every `len(portions)`-th sample, in their order."""
    columns = {}
    for name, dtype in _COLUMNS.items():
        columns[name] = np.empty(sum(len(portion.num_frames) for portion in portions), dtype)
        for first, portion in enumerate(portions):
            columns[name][first :: len(portions)] = getattr(portion, name)
    return replace(portions[0], **columns)


@dataclass(frozen=True, kw_only=True)
class ScheduledSample:
    """Everything that decides a sample.

    Args:
        dataset: its index in the mixture.
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
class ScheduledBatch:
    bucket: Bucket
    samples: tuple[ScheduledSample, ...]


# A sample with its bucket and its task, in an array: a line of 64 bytes, so that epochs of millions of samples fit.
_LINE = np.dtype(
    [
        *((name, np.int64) for name in ("dataset", "index", "draw")),
        ("task", object),
        *((name, np.int64) for name in ("height", "width", "num_frames", "source_frames")),  # 0 without a source
    ]
)


def _sample(line: Any) -> ScheduledSample:
    dataset, index, draw, task, height, width, num_frames, _ = line.tolist()
    return ScheduledSample(
        dataset=dataset, index=index, draw=draw, task=task, size=(height, width), num_frames=num_frames
    )


class EpochSchedule(Sequence[ScheduledBatch]):
    """The batches of one epoch, made on demand from an array: millions of samples take little memory."""

    def __init__(self, lines: np.ndarray, bounds: np.ndarray):
        self._lines, self._bounds = lines, bounds

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, number: int) -> ScheduledBatch:  # pyright: ignore[reportIncompatibleMethodOverride] (no slices)
        start, stop = self._bounds[number]
        lines = self._lines[start:stop]
        *_, height, width, num_frames, source_frames = lines[0].tolist()
        bucket = Bucket(height=height, width=width, num_frames=num_frames, source_frames=source_frames or None)
        return ScheduledBatch(bucket=bucket, samples=tuple(map(_sample, lines)))


def schedule_epoch(tables: Sequence[DatasetTable], config: BatchConfig, epoch: int) -> EpochSchedule:
    """All batches of an epoch, in their order.

    Raises:
        UserError: for a clip shorter than every bucket.
    """
    # 1. Which samples, and the bucket and task of each
    lines = np.concatenate(
        [
            _lines(table, config, number, indices, draw)
            for number, table in enumerate(tables)
            for indices, draw in _draws(table, config, epoch)
        ]
    )

    # 2. Shuffle, then gather what shares a bucket: the sort is stable, so that the samples of a bucket stay shuffled
    generator = np.random.default_rng((config.seed, _ORDER, epoch))
    lines = lines[generator.permutation(len(lines))]
    shapes = [lines[name] for name in ("height", "width", "num_frames", "source_frames")]
    groups = np.ravel_multi_index(shapes, [column.max(initial=0) + 1 for column in shapes])
    order = np.argsort(groups, kind="stable")

    # 3. Cut into batches, and shuffle those: the sizes of an epoch come mixed, although each batch has one
    lines = lines[order]
    sizes = np.where(lines["num_frames"] == 1, config.image_batch_size, config.video_batch_size)
    return EpochSchedule(lines, generator.permutation(_cut(groups[order], sizes)))


def echoed(num_batches: int, times: int) -> Iterator[tuple[int, bool]]:
    """Numbers of an epoch's batches, each `times` times and `ECHO_DISTANCE` new ones apart, and whether it is the last.

    Where drawing and encoding a sample takes longer than a step with it, steps with other noise are cheaper than new
    samples. Source: Choi et al., "Faster Neural Network Training with Data Echoing", 2019.
    """
    for newest in range(num_batches + (times - 1) * ECHO_DISTANCE):
        for time in range(times):
            number = newest - time * ECHO_DISTANCE
            if 0 <= number < num_batches:
                yield number, time == times - 1


def _cut(groups: np.ndarray, batch_sizes: np.ndarray) -> np.ndarray:
    """(start, stop) `[b, 2]` of batches within runs of equal group; the last of a run may be smaller."""
    # A run of one group holds pictures alone or videos alone, so its first sample has its batch size.
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    stops = np.append(starts, len(groups))[1:]
    pieces = [np.empty((0, 2), dtype=np.int64)]  # an epoch may hold nothing of a small dataset
    for start, stop in zip(starts, stops, strict=True):
        cuts = np.append(np.arange(start, stop, batch_sizes[start]), stop)
        pieces.append(np.stack([cuts[:-1], cuts[1:]], axis=1))
    return np.concatenate(pieces)


def _draws(table: DatasetTable, config: BatchConfig, epoch: int) -> list[tuple[np.ndarray, int]]:
    """(indices, number of the draw) for every pass over a dataset, or part of it, in an epoch."""
    # A weight of 1.7 is one pass over everything and 0.7 of one. Passes are numbered through all epochs, so that no two
    # draw the same crops and tasks.
    size = len(table.num_frames)
    whole = math.floor(table.weight)
    fraction = table.weight - whole
    passes = [np.arange(size) for _ in range(whole)]
    if fraction:
        # One fixed permutation for all epochs; each takes up where the one before stopped.
        rotation = np.random.default_rng((config.seed, _ROTATION, _number(table.name))).permutation(size)
        start, stop = math.floor(epoch * fraction * size), math.floor((epoch + 1) * fraction * size)
        passes.append(rotation[np.arange(start, stop) % size])
    draws = [epoch * math.ceil(table.weight) + number for number in range(len(passes))]
    return list(zip(passes, [_variant(draw, config) for draw in draws], strict=True))


def _variant(draw: int, config: BatchConfig) -> int:
    return draw if config.pretext_variants is None else draw % config.pretext_variants


def scheduled_variants(
    tables: Sequence[DatasetTable], config: BatchConfig, first: int = 0, of: int = 1
) -> Iterator[ScheduledSample]:
    """Every sample in all of its `pretext_variants`; of each pass over a dataset every `of`-th from `first` on."""
    for number, table in enumerate(tables):
        for draw in range(config.pretext_variants or 0):
            yield from map(_sample, _lines(table, config, number, np.arange(len(table.num_frames)), draw)[first::of])


def _lines(table: DatasetTable, config: BatchConfig, number: int, indices: np.ndarray, draw: int) -> np.ndarray:
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
    uniform = np.random.default_rng((config.seed, _TASKS, _number(table.name), draw)).random(len(table.num_frames))
    lines = np.empty(len(indices), _LINE)
    lines["dataset"], lines["index"], lines["draw"], lines["num_frames"] = number, indices, draw, num_frames
    lines["height"], lines["width"] = sizes.T
    lines["task"] = _tasks(uniform[indices], num_frames, table.has_source[indices], config.pretext)
    lines["source_frames"] = _source_frames(lines["task"], num_frames)
    return lines


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


def sample_seed(config: BatchConfig, name: str, scheduled: ScheduledSample) -> int:
    """Seed of a sample's own generator."""
    text = f"{config.seed}/{name}/{scheduled.draw}/{scheduled.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
