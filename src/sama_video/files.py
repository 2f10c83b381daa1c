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


# What a file system says of a place that cannot take a file; other errors come from what the caller does meanwhile.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO, errno.ENOENT)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to; renamed to it at the end, removed if anything goes wrong.

    What lies at `path` is replaced: a file by a file, a folder by a folder, never one by the other.

    Raises:
        UserError: for a place that cannot be written, a full disk, a file and a folder in each other's way.
    """
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist; make it or choose another output")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"the folder {path.parent} is read-only; choose another output")
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield aside
        _put(aside, path)
    except OSError as error:
        if error.errno in FULL:
            raise UserError(f"the disk is full: free some space in {path.parent}; nothing was kept") from error
        if _is_about(error, aside) or _is_about(error, path):
            raise UserError(f"cannot write {path} ({error.strerror}); choose another output") from error
        raise
    finally:
        _remove(aside)


def _is_about(error: OSError, path: Path) -> bool:
    if error.filename is None:  # as FFmpeg's, while it writes
        return error.errno in UNWRITABLE
    return Path(os.fsdecode(error.filename)).is_relative_to(path)


def _put(aside: Path, path: Path) -> None:
    if path.exists() and path.is_dir() != aside.is_dir():
        raise UserError(f"{path} is a {'folder' if path.is_dir() else 'file'}; remove it or choose another output")
    if path.is_dir():
        _put_folder(aside, path)
    else:
        os.replace(aside, path)


def _put_folder(aside: Path, path: Path) -> None:
    """A folder cannot be renamed over another: the old one steps aside, and goes when the new one is there."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    os.replace(path, old)
    try:
        os.replace(aside, path)
    except OSError:
        os.replace(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, unless it is there; returns it.

    Raises:
        UserError: if it cannot be made, is a file, or is read-only.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path} ({error.strerror}); choose another") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"the folder {path} is read-only; choose another")
    return path


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    _hash_whole(path, digest)
    return digest.hexdigest()


# What a model folder's files are known by: weights by their formats; of the rest, all but texts for people.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".npz", ".gguf", ".onnx", ".pkl", ".pickle",
)  # fmt: skip
TEXTS_FOR_PEOPLE = (".md", ".rst", ".png", ".jpg", ".jpeg", ".gif", ".mp4", ".pdf")


def hash_weights(folder: Path) -> str:
    """sha256 over all weight files of a model folder, in name order; above 2 GiB over samples of each.

    Raises:
        UserError: for a file that cannot be read.
    """
    files = [file for file in _model_files(folder) if file.suffix in WEIGHT_SUFFIXES]
    digest = hashlib.sha256()
    with _readable(folder):
        sampled = sum(file.stat().st_size for file in files) > WHOLE_HASH_BYTES
        for file in files:
            digest.update(str(file.relative_to(folder)).encode())
            if sampled:
                _hash_samples(file, digest)
            else:
                _hash_whole(file, digest)
    return ("sampled-sha256:" if sampled else "sha256:") + digest.hexdigest()


def hash_configuration(folder: Path) -> str:
    """sha256 over what decides a model's results beside its weights: settings, vocabularies, any other file.

    Texts for people (README.md, pictures) and hidden files do not count.

    Raises:
        UserError: for a file that cannot be read.
    """
    digest = hashlib.sha256()
    with _readable(folder):
        for file in _model_files(folder):
            if file.suffix not in (*WEIGHT_SUFFIXES, *TEXTS_FOR_PEOPLE):
                digest.update(f"{file.relative_to(folder).as_posix()} {hash_file(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _model_files(folder: Path) -> list[Path]:
    """All files but hidden ones, as git and the hub keep them."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or folder} ({error.strerror}); allow reading it, or download the model again"
        ) from error


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
