"""What takes time to learn of a media file (its length and size, its hash), remembered between runs.

A fact is remembered under the file's path, size and time of change, so a changed file is looked at again. The memory
is a folder of JSON lines; every process appends to a file of its own there, as machines that share a disk must. It may
be deleted at any time.
"""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import hash_file
from ..video import VideoReader
from .manifest import is_url, local_file


@dataclass(frozen=True, kw_only=True)
class MediaShape:
    """Frames and pixels of a video; an image has one frame."""

    num_frames: int
    height: int
    width: int


class FileFacts:
    """Shapes and hashes of media, each found out once.

    Args:
        memory: folder to remember them in, made when there is something to remember; None remembers as long as the
            object lives.
    """

    def __init__(self, memory: Path | None = None):
        self.memory, self.owner = memory, os.getpid()
        files = [] if memory is None else sorted(memory.glob("*.jsonl"))
        self.known: dict[str, Any] = {key: value for file in files for key, value in _read_lines(file)}

    def shape(self, media: str) -> MediaShape:
        """Raises UserError, naming the file, for one that cannot be read."""
        num_frames, height, width = self._learn("shape", media, _probe)
        return MediaShape(num_frames=num_frames, height=height, width=width)

    def content_hash(self, media: str) -> str:
        """sha256 of the bytes. Raises UserError for a file that is not there."""
        return self._learn("sha256", media, hash_file)

    def _learn(self, fact: str, media: str, find_out: Callable[[Path], Any]) -> Any:
        key = _key(fact, media)
        if key not in self.known:
            with local_file(media) as file:
                try:
                    self.known[key] = find_out(file)
                except UserError as error:
                    raise UserError(told_by_name(error, file, media)) from error
            self._remember(key)
        return self.known[key]

    def _remember(self, key: str) -> None:
        # Not in a worker that was forked: those of all ranks would note every file again.
        if self.memory is None or os.getpid() != self.owner:
            return
        self.memory.mkdir(parents=True, exist_ok=True)
        with open(self.memory / f"{platform.node()}-{self.owner}.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps([key, self.known[key]]) + "\n")


def told_by_name(error: UserError, file: Path, media: str) -> str:
    """What is wrong with a file, under the name that the user knows it by."""
    return f"{str(error).replace(str(file), media)}; 'sama data check' finds all such files"


def _key(fact: str, media: str) -> str:
    if is_url(media):
        return f"{fact} {media}"
    try:
        status = Path(media).stat()
    except OSError as error:
        raise UserError(f"no such file: {media}; 'sama data check' finds all such rows") from error
    return f"{fact} {status.st_size} {status.st_mtime_ns} {media}"


def _read_lines(memory: Path):
    for line in memory.read_text(encoding="utf-8").splitlines():
        # A killed process may leave half a line, to which another may have appended.
        try:
            key, value = json.loads(line)
        except ValueError:
            continue
        yield key, value


def _probe(file: Path) -> list[int]:
    reader = VideoReader(file)
    # Some containers do not announce a number of frames.
    num_frames = reader.info.num_frames or sum(1 for _ in reader.times())
    return [num_frames, reader.info.height, reader.info.width]
