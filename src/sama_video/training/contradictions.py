"""What a run's settings and its data say against each other, found before the first step."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..data.epoch import DatasetTable
from ..data.pretext import TEXT_TO_VIDEO, possible_tasks
from ..models.shapes import neighbouring_num_frames
from ..system.errors import UserError
from .config import TrainConfig


def check_data(config: TrainConfig, tables: Sequence[DatasetTable]) -> list[str]:
    """Raises UserError for settings that the data cannot meet; returns what the user might not expect.

    Args:
        tables: what every dataset holds, in the order of `config.data.datasets`.
    """
    buckets = config.data.buckets(pixel_multiple=1)
    lengths = [_lengths(table, buckets.longest_count(table.num_frames), buckets.frame_counts[0]) for table in tables]
    _check_epoch(tables)
    _check_anchors(config, tables, lengths)
    return list(_notes(config, tables, lengths))


def _lengths(table: DatasetTable, lengths: np.ndarray, shortest: int) -> np.ndarray:
    """Frames `[n]` that the samples of a dataset are cut to."""
    if lengths.all():
        return lengths
    number = int(np.flatnonzero(lengths == 0)[0])
    frames = int(table.num_frames[number])
    raise UserError(
        f"sample {number} of {table.name} has {frames} frames, and data.frame_counts begins at {shortest}; add "
        f"{neighbouring_num_frames(frames)[0]} to data.frame_counts, or leave such clips out"
    )


def _check_epoch(tables: Sequence[DatasetTable]) -> None:
    """Epochs without a sample would follow each other without a step."""
    of_epoch = sum(table.weight * len(table.num_frames) for table in tables)
    if of_epoch < 1:
        raise UserError(
            f"an epoch of these data.datasets holds {of_epoch:.2g} samples; raise their weights to 1 sample or more"
        )


def _check_anchors(config: TrainConfig, tables: Sequence[DatasetTable], lengths: Sequence[np.ndarray]) -> None:
    """A video of fewer frames than anchors has none to take; a picture is its own."""
    if config.model.semantic_encoder is None:
        return
    anchors = config.objective.num_anchors
    for table, counts in zip(tables, lengths, strict=True):
        videos = counts[counts > 1]
        if len(videos) and videos.min() < anchors:
            raise UserError(
                f"objective.num_anchors={anchors} needs videos of as many frames, and {table.name} has some of "
                f"{videos.min()}; use {videos.min()} anchors or fewer, or longer clips (data.frame_counts)"
            )


def _notes(config: TrainConfig, tables: Sequence[DatasetTable], lengths: Sequence[np.ndarray]) -> Iterator[str]:
    pictures = sum(int((counts == 1).sum()) for counts in lengths)
    videos = sum(len(counts) for counts in lengths) - pictures
    yield f"the data: {pictures} pictures and {videos} videos, cut to {', '.join(map(str, _all(lengths)))} frames"
    moving = [counts[~table.has_source] for table, counts in zip(tables, lengths, strict=True)]
    if config.data.pretext and not any(possible_tasks(int(count)) != (TEXT_TO_VIDEO,) for count in _all(moving)):
        yield "data.pretext has nothing to do: no captioned clip without a source has more than one frame"
    for kind, found, size in (
        ("image", pictures, config.data.image_batch_size),
        ("video", videos, config.data.video_batch_size),
    ):
        if 0 < found < size:
            yield f"data.{kind}_batch_size={size}, but there are {found} samples for it: no step will hold more"


def _all(lengths: Sequence[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(lengths))
