"""Opening files that may be broken, hostile, huge or oddly named: one place for names, limits and library errors.

Everything that reads a file does so inside `reading`, which turns whatever FFmpeg or Pillow raise into one sentence.
"""

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import av

from ..system.errors import UserError

# Pixels of one picture or frame beyond which a file is refused unless the caller allows more: twice a frame of 8K
# video, and more than a phone's usual photo of 50 megapixels. Editing takes about 60 bytes for each of them.
MAX_SOURCE_PIXELS = 2**26
# FFmpeg also "reads" lists that name other files, and plain text as a terminal would show it.
_LISTS = {"concat", "concatf", "dash", "hls", "image2", "imf", "rtp", "rtsp", "sap", "sdp", "webm_dash_manifest"}
_TEXTS = {"bin", "idf", "tty", "xbin", "adf"}


@contextlib.contextmanager
def reading(path: Path, what: str = "cannot be read ({}); is it complete?") -> Iterator[None]:
    """Whatever a library raises on a broken file becomes a UserError that names the file.

    The kinds are many (FFmpeg's own, OSError, EOFError, struct.error, MemoryError, OverflowError, and IndexError or
    AttributeError out of parsers that met what they did not expect), so none is listed. Pillow's warnings stay silent.

    Args:
        what: the sentence after the file's name; `{}` takes the library's reason.
    """
    try:
        with _quiet_pillow:
            yield
    except UserError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} {what.format(reason)}") from error


class _QuietPillow:
    """Keeps Pillow's warnings ("Corrupt EXIF data", "decompression bomb") off the terminal while a file is read.

    Filters belong to the whole process, so readers in several threads share one change, which the last one undoes.
    """

    def __init__(self) -> None:
        self.lock, self.readers, self.filters = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if self.readers == 0:
                self.filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.readers += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            if self.readers == 0:
                self.filters.close()


_quiet_pillow = _QuietPillow()


def check_file(path: Path) -> os.stat_result:
    """Raises UserError, saying which it is, for a path that is missing, not a file, unreadable or empty."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path} is a folder; give a video or an image")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a regular file; give a video or an image")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        raise UserError(f"no such video: {path}; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be opened ({reason}); check the path and its permissions") from error
    if status.st_size == 0:
        raise UserError(f"{path} is not a video or an image: it is empty; is the download complete?")
    return status


def check_pixels(path: Path, height: int, width: int, max_pixels: int | None) -> None:
    """Raises UserError for a picture beyond the limit; None is `MAX_SOURCE_PIXELS`."""
    limit = MAX_SOURCE_PIXELS if max_pixels is None else max_pixels
    if height * width > limit:
        raise UserError(
            f"{path} has {width}x{height} pixels, more than the limit of {limit}; make it smaller, or allow more with "
            f"`max_source_pixels` {height * width}"
        )


class Part(io.RawIOBase):
    """A stretch of a file, read as if it were a file."""

    def __init__(self, path: Path, begin: int, end: int):
        self.file, self.begin, self.end, self.name = open(path, "rb"), begin, end, str(path)  # noqa: SIM115 (see close)
        self.file.seek(begin)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.end - self.file.tell())
        return self.file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self.begin, os.SEEK_CUR: self.file.tell(), os.SEEK_END: self.end}[whence]
        return self.file.seek(max(self.begin, base + offset)) - self.begin

    def tell(self) -> int:
        return self.file.tell() - self.begin

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def joined_matroska(path: Path) -> list[tuple[int, int]]:
    """Begin and end of each of several Matroska or WebM files that were joined with `cat`; nothing for other files.

    FFmpeg reads no further than the second, and with the first one's headers.
    """
    begins, at, size = [], 0, os.path.getsize(path)
    with open(path, "rb") as stream:
        while at + 12 <= size:
            stream.seek(at)
            head = stream.read(12)
            if head[:4] == _EBML:
                begins.append(at)
            elif head[:4] != _SEGMENT or not begins:
                break
            length = next((n for n in range(1, 9) if head[4] >> (8 - n)), 8)
            value = int.from_bytes(head[4 : 4 + length], "big") & ((1 << 7 * length) - 1)
            if value == (1 << 7 * length) - 1:
                break  # as long as it is, as live streams are
            at += 4 + length + value
    ends = [*begins[1:], size]
    return list(zip(begins, ends, strict=True)) if len(begins) > 1 else []


def open_container(
    path: Path, *, part: Part | None = None, ignore_edit_lists: bool = False
) -> av.container.InputContainer:
    """A file, or a part of it, through FFmpeg, which may open no other file or address that it names.

    Raises:
        UserError: for what FFmpeg cannot read, and for lists of other files.
    """
    # By protocol and absolute path: "12:30 clip.mp4" alone would be a protocol named "12".
    file = "file:" + os.path.abspath(path) if part is None else part
    options = {"protocol_whitelist": "file"}
    if ignore_edit_lists:
        options["ignore_editlist"] = "1"
    with reading(path, "is not a video that FFmpeg can read ({}); is it complete, and a video?"):
        container = av.open(file, options=options, metadata_errors="replace")
    formats = set(container.format.name.split(","))
    if formats & (_LISTS | _TEXTS):
        container.close()
        kind = "a list of other files" if formats & _LISTS else "text"
        raise UserError(f"{path} is {kind}, not a video that FFmpeg can read; give the video itself")
    return container
