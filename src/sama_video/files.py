"""Outputs are written aside and renamed: a reader never sees half of one, and a failure leaves nothing behind."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; renamed to it at the end, removed if anything goes wrong.

    Raises:
        UserError: for a folder that is missing or read-only, or a full disk.
    """
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist; make it or choose another output")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"the folder {path.parent} is read-only; choose another output")
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield aside
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(aside, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"the disk is full: free some space in {path.parent}; nothing was kept") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"cannot write to {path.parent} ({error.strerror}); choose another output") from error
        raise
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)
