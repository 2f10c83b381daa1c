"""Where samples come from: clips of a manifest, or the synthetic engine.

Shape legend: F frames, H W pixels of a bucket. Clips are uint8 `[F, H, W, 3]`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..synth.engine import Engine
from ..system.errors import UserError
from ..video import VideoReader
from .file_info import FileInfo, told_by_name
from .manifest import SHAPE_COLUMNS, Row, local_file
from .pretext import TEXT_TO_VIDEO
from .samples import Recipe, Sample

EDIT = "edit"


@dataclass(frozen=True, kw_only=True)
class ClipMetadata:
    """What a schedule must know of a sample: the frames that source and target both have, the target's pixels."""

    num_frames: int
    height: int
    width: int
    has_source: bool


class TrainingDataset(Protocol):
    """A map-style dataset that cuts its samples to any size and length."""

    def __len__(self) -> int: ...

    def metadata(self, index: int) -> ClipMetadata:
        """Cheap: called for every sample before the first epoch."""
        ...

    def load(self, index: int, size: tuple[int, int], num_frames: int, generator: torch.Generator) -> Sample:
        """The sample at (height, width) and `num_frames`; all that is random in it comes from `generator`.

        Raises:
            UserError: for a file that cannot be read, by name.
        """
        ...


class ManifestDataset:
    """Rows of a manifest. A row without a source is text to video (or to image) and gets pretext tasks.

    A clip longer than asked for is cut at a random frame, source and target at the same one. A clip
    of another aspect ratio is cut around its centre. Columns num_frames (that source and target both have), height and
    width are believed; rows without them have their files opened.

    Args:
        rows: of `read_manifest`.
        files: memory of what they hold.
    """

    def __init__(self, rows: Sequence[Row], files: FileInfo | None = None):
        self.rows = rows
        self.files = files or FileInfo()

    def __len__(self) -> int:
        return len(self.rows)

    def metadata(self, index: int) -> ClipMetadata:
        row = self.rows[index]
        # What a row lacks is said before the first step, not when its turn comes.
        _target_of(row)
        _prompt_of(row)
        num_frames, height, width = _told_shape(row) or self._found_shape(row)
        return ClipMetadata(num_frames=num_frames, height=height, width=width, has_source=row.src_video is not None)

    def _found_shape(self, row: Row) -> tuple[int, int, int]:
        shape = self.files.shape(_target_of(row))
        num_frames = shape.num_frames
        if row.src_video is not None:
            num_frames = min(num_frames, self.files.shape(row.src_video).num_frames)
        return num_frames, shape.height, shape.width

    def load(self, index: int, size: tuple[int, int], num_frames: int, generator: torch.Generator) -> Sample:
        row, start = self.rows[index], self._start(index, num_frames, generator)
        return Sample(
            target=read_clip(_target_of(row), start, num_frames, size),
            source=None if row.src_video is None else read_clip(row.src_video, start, num_frames, size),
            prompt=_prompt_of(row),
            task=_task_of(row),
            name=row.id,
        )

    def recipe(self, index: int, size: tuple[int, int], num_frames: int, generator: torch.Generator) -> Recipe:
        """What `load` would give with the same arguments. Hashes the files, the first time."""
        row, start = self.rows[index], self._start(index, num_frames, generator)

        def clip(media: str) -> dict[str, Any]:
            return {"file": self.files.content_hash(media), "start": start, "frames": num_frames, "size": list(size)}

        return Recipe(
            target=clip(_target_of(row)),
            source=None if row.src_video is None else clip(row.src_video),
            prompt=_prompt_of(row),
            task=_task_of(row),
            name=row.id,
        )

    def _start(self, index: int, num_frames: int, generator: torch.Generator) -> int:
        slack = self.metadata(index).num_frames - num_frames
        return int(torch.randint(slack + 1, (), generator=generator))


def _told_shape(row: Row) -> tuple[int, int, int] | None:
    """What a manifest's own columns say; millions of files need not be opened then."""
    told = [row.extra.get(name, "") for name in SHAPE_COLUMNS]
    if not all(value.isdecimal() and int(value) > 0 for value in told):
        return None
    num_frames, height, width = map(int, told)
    return num_frames, height, width


def _target_of(row: Row) -> str:
    if row.tgt_video is None:
        raise UserError(f"row {row.id} has no target video; fill tgt_video or remove the row")
    return row.tgt_video


def _prompt_of(row: Row) -> str:
    if row.prompt is None or not row.prompt.strip():
        raise UserError(f"row {row.id} has no prompt; fill it or remove the row")
    return row.prompt


def _task_of(row: Row) -> str:
    return TEXT_TO_VIDEO if row.src_video is None else EDIT


def read_clip(media: str, start: int, num_frames: int, size: tuple[int, int]) -> torch.Tensor:
    """Frames `start .. start + num_frames` as uint8 `[F, H, W, 3]`, resized to cover `size` and cut around the centre.

    Frames are counted from the beginning: times of files with a variable frame rate would not say which frame it is.

    Raises:
        UserError: naming the file, for one that cannot be read or has fewer frames.
    """
    with local_file(media) as file:
        try:
            frames = _read_frames(file, start, num_frames, size)
        except UserError as error:
            raise UserError(told_by_name(error, file, media)) from error
    if len(frames) < num_frames:
        raise UserError(
            f"{media} yields {len(frames)} frames from frame {start} on instead of {num_frames}: it is damaged, or "
            f"the manifest's num_frames is wrong; 'sama data check' finds all damaged files"
        )
    return torch.from_numpy(np.stack(frames))


def _read_frames(file: Path, start: int, num_frames: int, size: tuple[int, int]) -> list[np.ndarray]:
    reader = VideoReader(file)
    height, width = size
    scale = max(height / reader.info.height, width / reader.info.width)
    cover = (max(height, round(reader.info.height * scale)), max(width, round(reader.info.width * scale)))
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    frames = itertools.islice(reader.frames(size=cover), start, start + num_frames)
    return [frame.pixels[top : top + height, left : left + width] for frame in frames]


class EngineDataset:
    """Samples that the synthetic engine makes on the fly, new ones in every epoch.

    Args:
        engine: where they come from.
        num_samples: how many an epoch of weight 1 holds.
        shapes: (frames, height, width) that the samples take in turn.
        text_to_video: captioned source clips alone, for the pretext tasks, instead of edits.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        num_samples: int,
        shapes: Sequence[tuple[int, int, int]],
        text_to_video: bool = False,
    ):
        self.engine, self.num_samples, self.shapes, self.text_to_video = engine, num_samples, shapes, text_to_video

    def __len__(self) -> int:
        return self.num_samples

    def metadata(self, index: int) -> ClipMetadata:
        num_frames, height, width = self.shapes[index % len(self.shapes)]
        return ClipMetadata(num_frames=num_frames, height=height, width=width, has_source=not self.text_to_video)

    def load(self, index: int, size: tuple[int, int], num_frames: int, generator: torch.Generator) -> Sample:  # noqa: ARG002 (the generator knows the index)
        number = int(torch.randint(2**31, (), generator=generator))
        made = self.engine.pair(number, num_frames, *size)
        source, target = torch.from_numpy(made.source), torch.from_numpy(made.target)
        if self.text_to_video:
            return Sample(target=source, source=None, prompt=made.caption, task=TEXT_TO_VIDEO, name=f"engine {number}")
        return Sample(target=target, source=source, prompt=made.instruction, task=EDIT, name=f"engine {number}")
