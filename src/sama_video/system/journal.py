"""Append-only files of JSON lines: a record is on the disk before the work on the next begins.

A killed run loses what was in flight and nothing else: a line that it left torn at the end does not count, and is cut
off when the file is written again. One process writes a journal at a time.
"""

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from .errors import UserError
from .files import make_folder


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal in their order; none if there is no file.

    Raises:
        UserError: for a damaged line, naming it.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise UserError(f"line {number} of {path} is damaged; delete it and start again") from error


def _encoded(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    except UnicodeEncodeError:  # a lone half of a surrogate pair: from a name that is not UTF-8, or a judge's answer
        return json.dumps(record, sort_keys=True).encode()


class Journal:
    """A journal open for appending. Use it as a context; safe for threads.

    Args:
        path: made with its folder if it does not exist.

    Raises:
        UserError: while another process writes it (the lock of a dead process is free), or for a folder that cannot
            be written.
    """

    def __init__(self, path: Path):
        self.path = path
        make_folder(path.parent)
        # The operating system drops the lock with the process that holds it, however it ends.
        self._lock = filelock.FileLock(path.with_name(path.name + ".lock"))
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise UserError(f"another run writes {path}; wait until it ends or choose another folder") from error
        self._file = path.open("ab", buffering=0)
        with path.open("rb") as whole:
            self._end = sum(len(line) for line in whole if line.endswith(b"\n"))
        self._file.truncate(self._end)
        self._writing = threading.Lock()

    def append(self, record: dict[str, Any]) -> None:
        """Returns when the record is on the disk. Raises UserError for a full disk."""
        line = _encoded(record) + b"\n"
        with self._writing:
            try:
                written = self._file.write(line)
                os.fsync(self._file.fileno())
                if written < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._file.truncate(self._end)
                raise UserError(
                    f"cannot write to {self.path} ({error.strerror}); what it held is kept: fix that and start the "
                    "same command again to resume"
                ) from error
            self._end += len(line)

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
