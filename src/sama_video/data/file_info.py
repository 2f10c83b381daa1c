"""What takes time to learn of a media file (its length and size, its hash), remembered between runs.

It is remembered under the file's path and its version (a local file's size and times, what a server says of a
URL), so a changed file is looked at again. A URL of which its server says nothing is looked at once in every run. The
memory is a folder of JSON lines; every process appends to a file of its own there, as machines that share a disk must.
It may be deleted at any time.
"""

import contextlib
import json
import os
import platform
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec

from ..models.shapes import VideoShape
from ..system.errors import UserError
from ..system.files import hash_file
from ..video import VideoReader
from .manifest import is_url, local_file

# What the backends of fsspec call it (HTTP, S3, GCS, Azure, files, memory), in small letters, a hyphen as underscore.
_URL_MARKS = {
    *(
        "etag",
        "last_modified",
        "lastmodified",
        "mtime",
        "updated",
        "created",
        "content_md5",
        "digest",
        "md5",
        "md5hash",
    ),
    *("crc32c", "checksum", "sha256", "generation", "versionid", "version_id", "version"),
}


class FileInfo:
    """Shapes and hashes of media, each found out once; an image is a video of one frame.

    Args:
        memory: folder to remember them in, made when there is something to remember; None remembers as long as the
            object lives.
    """

    def __init__(self, memory: Path | None = None):
        self.memory, self.owner = memory, os.getpid()
        files = [] if memory is None else sorted(memory.glob("*.jsonl"))
        self.known: dict[str, Any] = {key: value for file in files for key, value in _read_lines(file)}
        self._urls: dict[str, str | None] = {}  # versions; asking a server for each sample would take long

    def shape(self, media: str) -> VideoShape:
        """Raises UserError, naming the file, for one that cannot be read."""
        num_frames, height, width = self._learn("shape", media, _probe)
        return VideoShape(num_frames=num_frames, height=height, width=width)

    def content_hash(self, media: str) -> str:
        """sha256 of the bytes. Raises UserError for a file that is not there."""
        return self._learn("sha256", media, hash_file)

    def _learn(self, what: str, media: str, find_out: Callable[[Path], Any]) -> Any:
        version = self._version(media)
        key = f"{what} {version or 'unknown'} {media}"
        if key not in self.known:
            with local_file(media) as file:
                try:
                    self.known[key] = find_out(file)
                except UserError as error:
                    raise UserError(told_by_name(error, file, media)) from error
            if version is not None:
                self._remember(key)
        return self.known[key]

    def _version(self, media: str) -> str | None:
        if media in self._urls:
            return self._urls[media]
        try:
            version = file_version(media)
        except FileNotFoundError as error:
            raise UserError(f"no such file: {media}; 'sama data check' finds all such rows") from error
        if is_url(media):
            self._urls[media] = version
        return version

    def _remember(self, key: str) -> None:
        # Not in a worker that was forked: those of all ranks would note every file again.
        if self.memory is None or os.getpid() != self.owner:
            return
        # A full disk costs the next run time, and this one nothing.
        with contextlib.suppress(OSError):
            self.memory.mkdir(parents=True, exist_ok=True)
            with open(self.memory / f"{platform.node()}-{self.owner}.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps([key, self.known[key]]) + "\n")


def told_by_name(error: UserError, file: Path, media: str) -> str:
    """What is wrong with a file, under the name that the user knows it by."""
    return f"{str(error).replace(str(file), media)}; 'sama data check' finds all such files"


def file_version(media: str) -> str | None:
    """What differs once a file has other content: a local one's size and times, for a URL what its server says.

    None for a URL whose server says nothing but a size.

    Raises:
        FileNotFoundError: for a file that is not there.
        UserError: for a URL that cannot be asked.
    """
    if not is_url(media):
        try:
            status = os.stat(media)
        except OSError as error:
            raise FileNotFoundError(media) from error
        # The time of the last change to the file's entry: a copy may keep the time of the content.
        return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
    try:
        filesystem, path = fsspec.url_to_fs(media)
        filesystem.invalidate_cache(filesystem._parent(path))
        info = filesystem.info(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # every fsspec backend has exceptions of its own
        raise UserError(f"cannot fetch {media} ({error}); check the address and the network") from error
    marks = {name: str(info[name]) for name in sorted(info) if name.lower().replace("-", "_") in _URL_MARKS}
    if not marks:
        return None
    return sha256(json.dumps([info.get("size"), marks]).encode()).hexdigest()[:24]


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
