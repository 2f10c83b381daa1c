"""Outputs are written aside and renamed, so a reader never sees half of one; inputs are known by their hashes."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

# Hashing 28 GB would take longer than many an edit: larger models are hashed by samples of their files.
WHOLE_HASH_BYTES = 2 * 2**30
HASH_BLOCK = 2**22


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


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    _hash_whole(path, digest)
    return digest.hexdigest()


def hash_weights(folder: Path) -> str:
    """sha256 over all weight files of a model folder, in name order; above 2 GiB over samples of each."""
    files = sorted(folder.rglob("*.safetensors"))
    sampled = sum(file.stat().st_size for file in files) > WHOLE_HASH_BYTES
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(folder)).encode())
        if sampled:
            _hash_samples(file, digest)
        else:
            _hash_whole(file, digest)
    return ("sampled-sha256:" if sampled else "sha256:") + digest.hexdigest()


def _hash_whole(file: Path, digest: "hashlib._Hash") -> None:
    with open(file, "rb") as stream:
        while block := stream.read(HASH_BLOCK):
            digest.update(block)


def _hash_samples(file: Path, digest: "hashlib._Hash") -> None:
    size = file.stat().st_size
    digest.update(str(size).encode())
    with open(file, "rb") as stream:
        for part in range(9):
            stream.seek(part * max(0, size - 2**20) // 8)
            digest.update(stream.read(2**20))
